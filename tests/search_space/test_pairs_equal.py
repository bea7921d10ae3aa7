"""Two chunked classes together: what can be scheduled runs, and gives what the model gives."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import combinations

import pytest
import torch

from experiments.subjects import gpt2
from search_space.candidates import find_classes
from search_space.errors import CyclicPlan
from search_space.plan import Choice
from search_space.space import overlap
from tests.tiny import Tiny
from tuner import apply

_MOST_PAIRS = 1200
"""Pairs drawn where there are more: eager GPT-2 has ten thousand, which would take minutes."""


@pytest.mark.parametrize(
    ("name", "attention", "least"),
    [("gpt2", "eager", 30), ("gpt2", "sdpa", 15), ("vit", "sdpa", 15)],
)
def test_every_pair_of_classes_equals_the_model_or_is_refused(
    tiny: Callable[..., Tiny], name: str, attention: str, least: int
) -> None:
    subject = tiny(name, attention, 2)
    classes = find_classes(subject.memory)
    failed = []
    ran = 0
    pairs = [pair for pair in combinations(classes, 2) if not overlap(*pair)]
    for first, second in random.Random(0).sample(pairs, min(len(pairs), _MOST_PAIRS)):
        choices = [
            Choice(item.regions, max(item.extent // 2, 1))
            for item in sorted((first, second), key=lambda item: item.regions[0].nodes)
        ]
        try:
            subject.memory.profile(choices)
        except CyclicPlan:
            continue  # refused by the one function that schedules memory and code alike
        ran += 1
        found = subject.differs(choices)
        if found:
            failed.append(f"{first.key} and {second.key}: {found}")
    assert not failed, "\n".join(failed)
    assert ran >= least


@pytest.mark.parametrize("budget", ["lowest", 2.0, 1.3])
def test_plans_near_the_lowest_peak_run(budget: str | float) -> None:
    # here the lowest peak seems to lie where one loop recomputes from what another keeps to itself
    model, inputs = gpt2(
        layers=2, width=64, heads=4, positions=600, vocabulary=101, attention="sdpa", batch=2
    )
    args, kwargs = inputs(256)
    lowest = apply(model, args, kwargs).prepare(*args, **kwargs).analysis.selector.lowest()
    limit = lowest.peak_bytes if isinstance(budget, str) else int(budget * lowest.peak_bytes)
    fast = apply(model, args, kwargs, memory_budget=limit)
    assert fast.predicted_peak_bytes <= limit
    with torch.no_grad():
        expected = model(*args, **kwargs)[0]
    torch.testing.assert_close(fast(*args, **kwargs)[0], expected, rtol=1e-5, atol=1e-5)
