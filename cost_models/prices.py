"""What settings cost: classes at chunk sizes, beside each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Generic, TypeVar

from cost_models.relief import put_in_order
from search_space.classes import RegionClass

Cost = Callable[[RegionClass, int], float]
"""Seconds by which running a class at a chunk size differs from running it whole, all occurrences
together; may be negative."""

Relief = Callable[[RegionClass, int], Mapping[int, float]]
"""Seconds that a class at a chunk size saves, by node, where another loop of the plan puts it in
order; see :mod:`cost_models.relief`."""

Setting = tuple[tuple[RegionClass, int], ...]


T = TypeVar("T")


class Prices:
    """Prices of settings; each class and chunk size is asked for once.

    Args:
        classes: of which settings are made.
        cost: decides between plans.
        relief: what classes save each other; nothing where it is None.
        descent: the price of descents, where that is not ``cost``.
    """

    def __init__(
        self,
        classes: Sequence[RegionClass],
        cost: Cost,
        relief: Relief | None = None,
        descent: Cost | None = None,
    ) -> None:
        self._classes = classes
        self._cost = _Once(cost)
        self._relief = None if relief is None else _Once(relief)
        self._descent = None if descent is None else _Once(descent)

    def extra_seconds(self, setting: Setting) -> float:
        """What a setting's choices take on top of the unchunked model, beside each other."""
        return sum(self._each(setting))

    def descent(self, setting: Setting) -> float:
        """The price of descents."""
        if self._descent is None:
            return self.extra_seconds(setting)
        return sum(self._descent(item, size) for item, size in setting)

    def helpers(self, setting: Setting) -> Iterator[RegionClass]:
        """Classes that put in order what a setting reads."""
        wanted = {node for item, size in setting for node in self._relief_of(item, size)}
        for item in self._classes if wanted else ():
            if not wanted.isdisjoint(self._orders.get(item.key, ())):
                yield item

    def pays(self, setting: Setting, other: RegionClass, size: int) -> bool:
        """Whether a class added saves the others more than it costs itself."""
        cost = self._cost(other, size)
        added = self.extra_seconds((*setting, (other, size)))
        return self.extra_seconds(setting) + cost - added > max(cost, 0.0)

    def _each(self, setting: Setting) -> Iterator[float]:
        ordered = {
            node: item for item, _ in setting for node in self._orders.get(item.key, ())
        }
        for item, size in setting:
            cost = self._cost(item, size)
            if ordered:
                cost -= sum(
                    seconds
                    for node, seconds in self._relief_of(item, size).items()
                    if node in ordered and ordered[node] is not item
                )
            yield cost

    @cached_property
    def _orders(self) -> Mapping[str, frozenset[int]]:
        """What classes put in order, of those that do."""
        if self._relief is None:
            return {}
        found = {item.key: put_in_order(item) for item in self._classes}
        return {key: nodes for key, nodes in found.items() if nodes}

    def _relief_of(self, item: RegionClass, size: int) -> Mapping[int, float]:
        return self._relief(item, size) if self._relief is not None and self._orders else {}


class _Once(Generic[T]):
    """What a function tells of a class at a chunk size, asked for once."""

    def __init__(self, told: Callable[[RegionClass, int], T]) -> None:
        self._told = told
        self._kept: dict[tuple[str, int], T] = {}

    def __call__(self, item: RegionClass, size: int) -> T:
        key = (item.key, size)
        if key not in self._kept:
            self._kept[key] = self._told(item, size)
        return self._kept[key]
