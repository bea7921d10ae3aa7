"""The work of analysis does not grow with depth where layers repeat. Counts, no clocks: times are
printed by :mod:`experiments.scale`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import search_space.candidates
import search_space.liveness
import search_space.regions
from search_space.candidates import find_classes
from search_space.graph import SizedGraph
from search_space.liveness import MemoryModel
from search_space.plan import Choice
from tests.tall import layers, repeated
from tests.tiny import tiny_model


class Counter:
    """Counts the calls of functions where they are used."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.calls: dict[str, int] = {}
        for module, name in (
            (search_space.liveness, "resolve"),
            (search_space.liveness, "body_memory"),
            (search_space.regions, "flow"),
            (search_space.candidates, "grow"),
        ):
            patch.setattr(module, name, self._counted(name, getattr(module, name)))

    def _counted(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        self.calls[name] = 0

        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls[name] += 1
            return function(*args, **kwargs)

        return call

    def taken(self) -> dict[str, int]:
        """The calls since this was last asked."""
        found = dict(self.calls)
        self.calls.update(dict.fromkeys(self.calls, 0))
        return found


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> Counter:
    return Counter(monkeypatch)


def graph_of(name: str, times: int) -> SizedGraph:
    graph = tiny_model(name, "eager", 3).sized
    first, length = layers(graph)
    return repeated(graph, first, length, times)


@pytest.mark.parametrize("name", ["gpt2", "vit"])
def test_what_is_tried_does_not_grow_with_depth(name: str, counter: Counter) -> None:
    found = {}
    for times in (4, 46):
        graph = graph_of(name, times)
        memory = MemoryModel(graph)
        classes = find_classes(memory)
        calls = counter.taken()
        assert all(calls.values())
        found[times] = calls
        deepest = max(classes, key=lambda item: len(item.loops))
        assert len(deepest.loops) == times + 2
        # a plan of all layers is judged without looking at their rules
        memory.profile([Choice(deepest.regions, max(1, deepest.extent // 4))])
        assert counter.taken()["resolve"] == 0
    for what, count in found[46].items():
        # what a class saves is asked of the whole model's peak, so that a few more or less count
        assert count <= 1.25 * found[4][what], found


def test_a_plans_memory_asks_each_class_once(counter: Counter) -> None:
    graph = graph_of("gpt2", 30)
    memory = MemoryModel(graph)
    classes = find_classes(memory)
    deepest = max(classes, key=lambda item: len(item.loops))
    counter.taken()
    for size in range(1, deepest.extent):
        memory.profile([Choice(deepest.regions, size)])
    calls = counter.taken()
    assert calls["resolve"] == calls["flow"] == 0
    # a pass of each size, and the ragged last one
    assert calls["body_memory"] <= 2 * deepest.extent
    # known for all: judged again, nothing is worked out again
    memory.forget()
    memory.profile([Choice(deepest.regions, 2)])
    assert not any(counter.taken().values())
