"""Selection without data: the fastest plan within a budget, by the memory model and a cost.

Models have plateaus of equal peaks, so that lowering *the* peak region by region stops at once.
The score is the memory above the budget, summed over the schedule

    excess(plan) = sum over steps of max(0, live(step) - budget),

and each move (chunk a class, change its chunk size, replace what it overlaps) is judged by the
excess that it removes per second that it costs. Afterwards chunks are widened, choices dropped,
and classes put in each other's place or beside those that they make faster, as far as the budget
allows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from cost_models.prices import Cost, Prices, Relief, Setting
from search_space.classes import RegionClass
from search_space.errors import BudgetError, CyclicPlan
from search_space.floor import floor_bytes
from search_space.plan import Choice, Plan
from search_space.space import SearchSpace, make_plan, overlap
from search_space.storages import Profile

Price = Callable[[Setting], float]
Counts = NDArray[np.int64]
Gains = dict[str, int]
"""What each class removed from the excess when it was last tried, by key."""


_TRIED_IN_ALL_SIZES = 8
"""Classes, at each step, whose chunk sizes are all tried."""

_LAG = 4
"""A class that last removed less than this part of what the best remove is not tried again."""

_UNTRIED = 1 << 62

_NEARER, _FAILURES = 0.75, 2
"""Towards the lowest peak, each target is this part of the last; so many may fail in a row."""

_MOST_EASED = 200
"""Cheaper settings tried at each step of relaxing, of each kind."""


@dataclass(frozen=True, slots=True)
class Selected:
    """A plan that was chosen by prediction alone.

    ``extra_s`` is the predicted time on top of the unchunked model's.
    """

    plan: Plan
    peak_bytes: int
    extra_s: float


class Selector:
    """Selects plans of one search space under budgets.

    Args:
        cost: decides between plans.
        relief: what classes save each other; nothing where it is None.
        descent: the price of descents, where that is not ``cost``: one that counts gains makes a
            dear class look as good as several that are cheap and gain something.
    """

    def __init__(
        self,
        space: SearchSpace,
        cost: Cost,
        relief: Relief | None = None,
        descent: Cost | None = None,
    ) -> None:
        self.space = space
        self._prices = Prices(space.classes, cost, relief, descent)
        self._made: dict[tuple[str, int], Choice] = {}
        self._overlaps: dict[tuple[str, str], bool] = {}
        self._spans: dict[str, tuple[Counts, Counts]] = {}
        self._grids = {
            item.key: grid for item, grid in zip(space.classes, space.grids, strict=True)
        }

    def within(self, budget_bytes: int) -> Selected:
        """The plan that costs least within the budget; nothing is chunked for speed alone.

        Raises:
            BudgetError: no plan fits; it carries the lowest peak that was found.
        """
        found = self.at_hand(budget_bytes)
        if found is not None:
            return found
        least = self._least
        lowest_bytes = self._peak(least)
        if lowest_bytes > budget_bytes:
            raise BudgetError(
                f"no plan fits {mib(budget_bytes)} of activations: the lowest known needs "
                f"{mib(lowest_bytes)}, of {mib(self.unchunked_bytes)} unchunked. Ask for "
                f"at least {lowest_bytes} bytes",
                lowest_bytes=lowest_bytes,
            )
        return self._selected(self._relax(least, budget_bytes))

    def at_hand(self, budget_bytes: int) -> Selected | None:
        """As :meth:`within`, but where no straight descent leads there None, at once: it is not
        sought how low one can go."""
        fitting = [self._relax(setting, budget_bytes) for setting in self._fitting(budget_bytes)]
        return self._selected(min(fitting, key=self.extra_seconds)) if fitting else None

    def lowest(self, unchunked_s: float | None = None, slowdown: float = 1.5) -> Selected:
        """The plan of the lowest peak; where the unchunked time is given, of those predicted to
        take at most ``slowdown`` times as long."""
        if unchunked_s is None:
            setting = self._least
        else:
            most = (slowdown - 1) * unchunked_s
            found = [self._lowest_setting(price, most) for price in (self._prices.descent, None)]
            setting = min(found, key=lambda s: (self._peak(s), self.extra_seconds(s)))
        return self._selected(self._relax(setting, self._peak(setting)))

    @property
    def unchunked_bytes(self) -> int:
        """The peak of the graph as captured."""
        return self.space.memory.profile().peak_bytes

    @cached_property
    def floor_bytes(self) -> int:
        """No plan's peak is lower."""
        regions = (region for item in self.space.classes for region in item.regions)
        return floor_bytes(self.space.memory.graph, regions)

    @cached_property
    def _least(self) -> Setting:
        """The lowest peak that is found at any price. What can be met must not depend on the cost,
        so that one of the descents looks at bytes alone, and one prefers wide chunks."""
        prices = (None, self._prices.descent, self._narrowness)
        least = min((self._lowest_setting(price, None) for price in prices), key=self._peak)
        # the floor that an error names is one below which `within` finds nothing
        while lower := self._fitting(self._peak(least) - 1):
            least = min(lower, key=self._peak)
        return least

    def _fitting(self, budget_bytes: int) -> list[Setting]:
        """Settings within a budget, straight from the unchunked model."""
        if budget_bytes < self.floor_bytes:
            return []
        found = [self._descend((), budget_bytes, price) for price in (self._prices.descent, None)]
        return [setting for setting in found if not self._excess(setting, budget_bytes)]

    def _lowest_setting(self, price: Price | None, most_extra_s: float | None) -> Setting:
        """The lowest of several descents."""

        def allowed(setting: Setting) -> bool:
            return most_extra_s is None or self.extra_seconds(setting) <= most_extra_s

        # what a distant target makes of the whole profile may lead lower than many small steps
        start: Setting = ()
        target, failed = self.unchunked_bytes, 0
        while failed < _FAILURES:
            target = int(_NEARER * min(target, self._peak(start)))
            setting = self._descend((), target, price)
            lower = self._peak(setting) < self._peak(start)
            if lower and not allowed(setting):
                setting = self._relax(setting, self._peak(setting))
            if lower and allowed(setting):
                start, failed = setting, 0
            else:
                failed += 1
        found = [self._step_down(first, price, allowed) for first in dict.fromkeys(((), start))]
        return min(found, key=self._peak)

    def _step_down(
        self, best: Setting, price: Price | None, allowed: Callable[[Setting], bool]
    ) -> Setting:
        """Lower the peak in steps, smaller ones where a larger one fails, for as long as some
        allowed setting does."""
        for step in (0.07, 0.02):
            while True:
                peak = self._peak(best)
                target = int(peak * (1 - step))
                setting = self._descend(best, target, price)
                if self._peak(setting) >= peak:
                    setting = self._descend((), target, price)
                if self._peak(setting) >= peak or not allowed(setting):
                    break
                best = setting
        return best

    def _descend(self, setting: Setting, budget: int, price: Price | None) -> Setting:
        """Take the best move until nothing is above the budget, or no move helps: the move that
        removes most for its price or, where there is none, that removes most."""
        gains: Gains = {}
        excess = self._excess(setting, budget)
        while excess:
            best: tuple[float, int, Setting] | None = None
            for left, moved in self._promising(setting, budget, excess, gains, price):
                # what costs nothing or less is worth most
                paid = max(price(moved) - price(setting), 1e-6) if price else 1.0
                worth = (excess - left) / paid
                if best is None or worth > best[0]:
                    best = (worth, left, moved)
            if best is None:
                return setting
            excess, setting = best[1], best[2]
        return setting

    def _promising(
        self, setting: Setting, budget: int, excess: int, gains: Gains, price: Price | None
    ) -> Iterator[tuple[int, Setting]]:
        """Moves that lower the excess, with what is left of it.

        A class is tried where it spans something that runs while too much is alive: in its smallest
        chunks first, which lower most; only the classes that do best so, for what they remove or
        for what that costs, are tried in all chunk sizes. Classes come in the order of what they
        removed when last tried, and those that removed much less than the best now do are left out:
        gains seldom grow as a setting does.
        """
        price = price or self._narrowness
        now = price(setting)
        found: list[tuple[int, float, RegionClass, Setting]] = []
        enough = -1
        above = np.cumsum(self._profile(setting).above(budget), dtype=np.int64)
        touching = [item for item in self.space.classes if self._touches(item, above)]
        for item in sorted(touching, key=lambda one: -gains.get(one.key, _UNTRIED)):
            if gains.get(item.key, _UNTRIED) < enough:
                break
            kept = self._beside(setting, item)
            smallest = (*kept, (item, self._grid(item)[-1]))
            left = self._try_excess(smallest, budget)
            gains[item.key] = 0 if left is None else max(excess - left, 0)
            if left is not None and left < excess:
                yield left, smallest
                paid = max(price(smallest) - now, 1e-6)
                found.append((excess - left, (excess - left) / paid, item, kept))
                if len(found) >= _TRIED_IN_ALL_SIZES:
                    enough = sorted(row[0] for row in found)[-_TRIED_IN_ALL_SIZES] // _LAG
        by_bytes = sorted(found, key=lambda row: -row[0])[:_TRIED_IN_ALL_SIZES]
        by_worth = sorted(found, key=lambda row: -row[1])[:_TRIED_IN_ALL_SIZES]
        tried = {row[2].key: row for row in (*by_bytes, *by_worth)}
        for _, _, item, kept in tried.values():
            for size in self._grid(item)[:-1]:
                moved = (*kept, (item, size))
                left = self._try_excess(moved, budget)
                if left is not None and left < excess:
                    yield left, moved

    def _touches(self, item: RegionClass, above: Counts) -> bool:
        """Whether some occurrence spans a node that is counted in ``above``, a running sum: what
        lies wholly before or after keeps alive there what it did."""
        if item.key not in self._spans:
            first = np.array([region.nodes[0] for region in item.regions])
            self._spans[item.key] = first, np.array([region.anchor for region in item.regions])
        first, last = self._spans[item.key]
        before = np.where(first > 0, above[first - 1], 0)
        return bool((above[last] > before).any())

    def _beside(self, setting: Setting, item: RegionClass) -> Setting:
        """What of a setting can stand beside a class."""
        return tuple(
            (other, size)
            for other, size in setting
            if other.key != item.key and not self._overlap(item, other)
        )

    def _overlap(self, a: RegionClass, b: RegionClass) -> bool:
        key = (a.key, b.key)
        if key not in self._overlaps:
            self._overlaps[key] = self._overlaps[key[::-1]] = overlap(a, b)
        return self._overlaps[key]

    def _grid(self, item: RegionClass) -> tuple[int, ...]:
        return self._grids[item.key]

    def _relax(self, setting: Setting, budget: int) -> Setting:
        """Drop choices, change chunk sizes, put one class in the place of another or beside one
        that it makes faster, wherever that is faster and the budget still holds."""
        while True:
            now = self.extra_seconds(setting)
            better = None
            for options in (
                self._smaller(setting), self._swapped(setting), self._relieved(setting)
            ):  # fmt: skip
                if better is not None:
                    break
                priced = ((self.extra_seconds(one), one) for one in options)
                cheaper = sorted(
                    (pair for pair in priced if pair[0] < now), key=lambda pair: pair[0]
                )
                better = next(
                    (one for _, one in cheaper[:_MOST_EASED] if self._try_excess(one, budget) == 0),
                    None,
                )
            if better is None:
                return setting
            setting = better

    def _smaller(self, setting: Setting) -> Iterator[Setting]:
        """One choice dropped, or at another chunk size."""
        for place, (item, size) in enumerate(setting):
            rest = (*setting[:place], *setting[place + 1 :])
            yield rest
            for other in self._grid(item):
                if other != size:
                    yield (*rest, (item, other))

    def _swapped(self, setting: Setting) -> Iterator[Setting]:
        """One class in the place of another."""
        for place, (item, _) in enumerate(setting):
            rest = (*setting[:place], *setting[place + 1 :])
            for other in self.space.classes:
                if other.key != item.key and self._beside(rest, other) == rest:
                    for size in self._grid(other):
                        yield (*rest, (other, size))

    def _relieved(self, setting: Setting) -> Iterator[Setting]:
        """A class added whose loops put in order what others read, where that pays for it."""
        for other in self._prices.helpers(setting):
            if self._beside(setting, other) == setting:
                for size in self._grid(other):
                    if self._prices.pays(setting, other, size):
                        yield (*setting, (other, size))

    def _plan(self, setting: Setting) -> Plan:
        choices = [self._choice(item, size) for item, size in setting]
        return make_plan(self.space.memory.graph, choices)

    def _choice(self, item: RegionClass, size: int) -> Choice:
        key = (item.key, size)
        if key not in self._made:
            self._made[key] = item.choice(size)
        return self._made[key]

    def _profile(self, setting: Setting) -> Profile:
        return self.space.memory.profile(self._plan(setting).choices)

    def _peak(self, setting: Setting) -> int:
        return self._profile(setting).peak_bytes

    def _excess(self, setting: Setting, budget: int) -> int:
        return self._profile(setting).excess(budget)

    def _try_excess(self, setting: Setting, budget: int) -> int | None:
        try:
            return self._excess(setting, budget)
        except CyclicPlan:
            return None

    def extra_seconds(self, setting: Setting) -> float:
        """What choices take on top of the unchunked model, beside each other."""
        return self._prices.extra_seconds(setting)

    @staticmethod
    def _narrowness(setting: Setting) -> float:
        """A price that knows no device: the smaller a chunk, the dearer."""
        return sum(1 / size for _, size in setting)

    def _selected(self, setting: Setting) -> Selected:
        return Selected(self._plan(setting), self._peak(setting), self.extra_seconds(setting))


def mib(count: int) -> str:
    """Bytes for messages, as MiB, or as KiB where they are few."""
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 2**10:.1f} KiB"


def count_text(count: int) -> str:
    """A count for messages, to three digits. Settings of many classes are more than a float holds.
    """
    return f"{Decimal(count):.3g}"
