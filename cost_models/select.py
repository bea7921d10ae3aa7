"""Selection without data: the fastest plan within a budget, by the memory model and a cost.

Models have plateaus of equal peaks, so that lowering *the* peak region by region stops at once.
The score is the memory above the budget, summed over the schedule

    excess(plan) = sum over steps of max(0, live(step) - budget),

and each move (chunk a class, change its chunk size, replace what it overlaps) is judged by the
excess that it removes per second that it costs. Afterwards chunks are widened and choices dropped
as far as the budget allows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

from search_space.classes import RegionClass
from search_space.errors import BudgetError, CyclicPlan
from search_space.plan import Choice, Plan
from search_space.space import SearchSpace, make_plan, overlap

Cost = Callable[[RegionClass, int], float]
"""Seconds by which running a class at a chunk size differs from running it whole, all occurrences
together; may be negative."""

Setting = tuple[tuple[RegionClass, int], ...]


@dataclass(frozen=True, slots=True)
class Selected:
    """A plan that was chosen by prediction alone.

    ``extra_s`` is the predicted time on top of the unchunked model's.
    """

    plan: Plan
    peak_bytes: int
    extra_s: float


class Selector:
    """Selects plans of one search space under budgets."""

    def __init__(self, space: SearchSpace, cost: Cost) -> None:
        self.space = space
        self._cost = cost
        self._costs: dict[tuple[str, int], float] = {}

    def within(self, budget_bytes: int) -> Selected:
        """The plan that costs least within the budget; nothing is chunked for speed alone.

        Raises:
            BudgetError: no plan fits; it carries the lowest peak that was found.
        """
        for weigh in (True, False):
            setting = self._descend((), budget_bytes, weigh)
            if not self._excess(setting, budget_bytes):
                return self._selected(self._relax(setting, budget_bytes))
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

    def lowest(self, unchunked_s: float | None = None, slowdown: float = 1.5) -> Selected:
        """The plan of the lowest peak; where the unchunked time is given, of those predicted to
        take at most ``slowdown`` times as long."""
        if unchunked_s is None:
            setting = self._least
        else:
            most = (slowdown - 1) * unchunked_s
            found = [self._lowest_setting(weigh, most) for weigh in (True, False)]
            setting = min(found, key=lambda s: (self._peak(s), self._extra(s)))
        return self._selected(self._relax(setting, self._peak(setting)))

    @property
    def unchunked_bytes(self) -> int:
        """The peak of the graph as captured."""
        return self.space.memory.profile().peak_bytes

    @cached_property
    def _least(self) -> Setting:
        """The lowest peak that is found at any price. What can be met must not depend on the cost,
        so that one of the descents looks at bytes alone."""
        found = [self._lowest_setting(weigh, None) for weigh in (False, True)]
        return min(found, key=self._peak)

    def _lowest_setting(self, weigh: bool, most_extra_s: float | None) -> Setting:
        """Descend in steps, smaller ones where a larger one fails."""
        best: Setting = ()
        for step in (0.07, 0.02):
            while True:
                peak = self._peak(best)
                target = int(peak * (1 - step))
                setting = self._descend(best, target, weigh)
                if self._peak(setting) >= peak:
                    setting = self._descend((), target, weigh)
                too_slow = most_extra_s is not None and self._extra(setting) > most_extra_s
                if self._peak(setting) >= peak or too_slow:
                    break
                best = setting
        return best

    def _descend(self, setting: Setting, budget: int, weigh: bool = True) -> Setting:
        """Take the best move until nothing is above the budget, or no move helps: the move that
        removes most per added second, or, unless ``weigh``, that removes most."""
        excess = self._excess(setting, budget)
        while excess:
            best: tuple[float, int, Setting] | None = None
            now = self._extra(setting)
            for moved in self._moves(setting):
                left = self._try_excess(moved, budget)
                if left is None or left >= excess:
                    continue
                # what costs nothing or less is worth most
                price = max(self._extra(moved) - now, 1e-6) if weigh else 1.0
                worth = (excess - left) / price
                if best is None or worth > best[0]:
                    best = (worth, left, moved)
            if best is None:
                return setting
            excess, setting = best[1], best[2]
        return setting

    def _moves(self, setting: Setting) -> Iterator[Setting]:
        chosen = {item.key: size for item, size in setting}
        for item, grid in zip(self.space.classes, self.space.grids, strict=True):
            kept = tuple(
                (other, size)
                for other, size in setting
                if other.key != item.key and not overlap(item, other)
            )
            for size in grid:
                if chosen.get(item.key) != size:
                    yield (*kept, (item, size))

    def _relax(self, setting: Setting, budget: int) -> Setting:
        """Drop choices and widen chunks wherever that is faster and the budget still holds."""
        changed = True
        while changed:
            changed = False
            options: list[Setting] = []
            for place, (item, size) in enumerate(setting):
                rest = (*setting[:place], *setting[place + 1 :])
                options.append(rest)
                grid = self.space.grids[self.space.classes.index(item)]
                options.extend((*rest, (item, wider)) for wider in grid if wider != size)
            now = self._extra(setting)
            options.sort(key=self._extra)
            for option in options:
                if self._extra(option) >= now:
                    break
                if self._try_excess(option, budget) == 0:
                    setting, changed = option, True
                    break
        return setting

    def _choices(self, setting: Setting) -> tuple[Choice, ...]:
        return self._plan(setting).choices

    def _plan(self, setting: Setting) -> Plan:
        choices = [Choice(item.regions, size) for item, size in setting]
        return make_plan(self.space.memory.graph.fingerprint, choices)

    def _peak(self, setting: Setting) -> int:
        return self.space.memory.profile(self._choices(setting)).peak_bytes

    def _excess(self, setting: Setting, budget: int) -> int:
        return self.space.memory.profile(self._choices(setting)).excess(budget)

    def _try_excess(self, setting: Setting, budget: int) -> int | None:
        try:
            return self._excess(setting, budget)
        except CyclicPlan:
            return None

    def _extra(self, setting: Setting) -> float:
        total = 0.0
        for item, size in setting:
            key = (item.key, size)
            if key not in self._costs:
                self._costs[key] = self._cost(item, size)
            total += self._costs[key]
        return total

    def _selected(self, setting: Setting) -> Selected:
        return Selected(self._plan(setting), self._peak(setting), self._extra(setting))


def mib(count: int) -> str:
    """Bytes for messages, as MiB, or as KiB where they are few."""
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 2**10:.1f} KiB"
