"""What can be met depends little on what it costs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cost_models.prices import Setting
from cost_models.select import Price, Selector
from search_space.candidates import find_classes
from search_space.classes import RegionClass
from search_space.errors import BudgetError
from search_space.space import SearchSpace
from tests.tiny import Tiny

COSTS: dict[str, Callable[[RegionClass, int], float]] = {
    "free": lambda item, size: 0.0,
    "passes": lambda item, size: 1e-3 * item.loops[0].passes(size),
    "small is dear": lambda item, size: 1.0 / size,
    "a gain": lambda item, size: -1e-3,
}


def test_the_lowest_peak_is_much_the_same_for_every_cost(tiny_gpt2: Tiny) -> None:
    space = SearchSpace(tiny_gpt2.memory, find_classes(tiny_gpt2.memory))
    lowest = {name: Selector(space, cost).lowest().peak_bytes for name, cost in COSTS.items()}
    # descents are greedy: each cost may find better than bytes alone do, but not by much
    assert max(lowest.values()) <= 1.25 * min(lowest.values()), lowest


@pytest.mark.parametrize("name", sorted(COSTS))
def test_a_budget_at_the_lowest_peak_is_met(tiny_gpt2: Tiny, name: str) -> None:
    space = SearchSpace(tiny_gpt2.memory, find_classes(tiny_gpt2.memory))
    selector = Selector(space, COSTS[name])
    lowest = selector.lowest().peak_bytes
    assert lowest < selector.unchunked_bytes
    assert selector.within(lowest).peak_bytes <= lowest


class Lazy(Selector):
    """Finds nothing when it looks for the lowest peak, which no greedy search is sure to find."""

    def _lowest_setting(self, price: Price | None, most_extra_s: float | None) -> Setting:
        return ()


@pytest.mark.parametrize("name", sorted(COSTS))
@pytest.mark.parametrize("kind", [Selector, Lazy])
def test_nothing_fits_below_the_floor_that_is_named(
    tiny_gpt2_sdpa: Tiny, kind: type[Selector], name: str
) -> None:
    memory = tiny_gpt2_sdpa.memory
    selector = kind(SearchSpace(memory, find_classes(memory)), COSTS[name])
    with pytest.raises(BudgetError) as found:
        selector.within(1)
    lowest = found.value.lowest_bytes
    assert lowest is not None
    with pytest.raises(BudgetError, match=str(lowest)):
        selector.within(lowest - 1)
    assert selector.within(lowest).peak_bytes <= lowest
