"""The peak below which no plan comes: held against plans."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from torch import nn

from search_space.candidates import all_regions, find_classes
from search_space.errors import CyclicPlan
from search_space.floor import floor_bytes
from search_space.graph import SizedGraph
from search_space.liveness import MemoryModel
from search_space.plan import Choice
from search_space.regions import Loop
from search_space.space import SearchSpace
from tests.search_space.test_schedule import plans
from tests.tiny import EVERYTHING, Tiny, analysed, chunk_sizes


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(plans())
def test_made_up_graphs(plan: tuple[SizedGraph, list[Loop]]) -> None:
    graph, loops = plan
    assume(loops)
    memory = MemoryModel(graph)
    memory.know(loops)
    floor = floor_bytes(graph, [loop.region for loop in loops])
    for count in range(len(loops) + 1):
        for some in itertools.combinations(loops, count):
            choices = sorted(
                (Choice((loop.region,), 1) for loop in some), key=lambda one: one.regions[0].nodes
            )
            try:
                assert floor <= memory.profile(choices).peak_bytes
            except CyclicPlan:  # or a node owned twice
                continue


NAMES = list(itertools.product(["gpt2", "vit", "llama", "bert"], ["eager", "sdpa"]))


@pytest.mark.parametrize(("name", "attention"), NAMES)
def test_models(tiny: Callable[..., Tiny], name: str, attention: str) -> None:
    """A few classes at a time, so that much is spanned by none."""
    memory = tiny(name, attention).memory
    classes = find_classes(memory, EVERYTHING)
    draw = random.Random(3)
    sharp = 0
    for _ in range(30):
        some = draw.sample(classes, min(len(classes), draw.randint(1, 4)))
        floor = floor_bytes(memory.graph, [one for item in some for one in item.regions])
        space = SearchSpace(memory, tuple(some))
        for _ in range(6):
            sizes = {item.key: draw.choice((0, *chunk_sizes(item.extent))) for item in some}
            peak = memory.profile(space.decode(sizes).choices).peak_bytes
            assert floor <= peak
            sharp += floor > 0.8 * peak
    assert sharp


def test_views_whose_elements_share_places() -> None:
    class Windows(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            windows = x.sin().unfold(-1, 9, 1)
            found: torch.Tensor = windows.amax(-1).cumsum(0)
            return found

    subject = analysed(Windows().eval(), (torch.randn(16, 256),), {})
    memory = subject.memory
    regions = [loop.region for loop in all_regions(memory.graph)]
    assert regions
    for region in regions:
        peak = memory.profile([Choice((region,), 1)]).peak_bytes
        assert floor_bytes(memory.graph, [region]) <= peak
    assert floor_bytes(memory.graph, regions) <= memory.profile().peak_bytes


def test_a_loop_may_give_out_less_than_was_kept() -> None:
    """All of the wide tensor was kept for the narrow part of it that is read later."""

    class Parts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wide = nn.Linear(8, 512)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            part = self.wide(x)[:, :8]
            found: torch.Tensor = torch.relu(part).cumsum(0).flip(0) + part
            return found

    subject = analysed(Parts().eval(), (torch.randn(64, 8),), {})
    memory = subject.memory
    lower = 0
    for loop in all_regions(memory.graph):
        memory.know([loop])
        floor = floor_bytes(memory.graph, [loop.region])
        peak = memory.profile([Choice((loop.region,), 1)]).peak_bytes
        assert floor <= peak
        lower += peak < memory.profile().peak_bytes // 4
    assert lower, "no loop gives out the part alone"
