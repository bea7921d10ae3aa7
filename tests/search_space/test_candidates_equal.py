"""Every candidate of every tiny model, rewritten, gives what the model gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from search_space.candidates import all_regions, find_classes
from search_space.plan import Choice
from tests.tiny import EVERYTHING, Tiny, chunk_sizes, difference
from tuner.runtime.loop import ChunkLoop


def run_at(module: torch.fx.GraphModule, size: int, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The rewritten model's outputs with all of its loops at a chunk size."""
    for child in module.children():
        if isinstance(child, ChunkLoop):
            child.chunk_size = size
    with torch.no_grad():
        made: tuple[Any, ...] = module(*args)
    return made


@pytest.mark.parametrize(
    ("name", "attention", "layers", "least"),
    [
        ("gpt2", "eager", 2, 40),
        ("gpt2", "sdpa", 2, 20),
        ("vit", "eager", 2, 20),
        ("vit", "sdpa", 2, 10),
        ("llama", "eager", 1, 40),
        ("llama", "sdpa", 1, 20),
        ("bert", "eager", 1, 15),
        ("bert", "sdpa", 1, 8),
    ],
)
def test_every_class_alone_equals_the_model(
    tiny: Callable[..., Tiny], name: str, attention: str, layers: int, least: int
) -> None:
    subject = tiny(name, attention, layers)
    classes = find_classes(subject.memory, EVERYTHING)
    failed = []
    for item in classes:
        # the code is the same at every chunk size: written once, run at each
        sizes = chunk_sizes(item.extent)
        module = subject.module([Choice(item.regions, sizes[0])])
        for size in sizes:
            found = difference(run_at(module, size, subject.args), subject.expected)
            if found:
                failed.append(f"{item.key} ({item.loops[0].region}) at {size}: {found}")
    assert not failed, "\n".join(failed)
    assert len(classes) >= least
    assert any(len(item.loops) >= layers for item in classes)


def test_every_region_alone_equals_its_nodes(tiny_gpt2: Tiny) -> None:
    loops = {loop.region: loop for loop in all_regions(tiny_gpt2.sized)}
    failed = tiny_gpt2.failures(loops.values())
    assert not failed, "\n".join(failed)
    assert len(loops) >= 200


@pytest.mark.parametrize(("name", "attention"), [("gpt2", "eager"), ("vit", "sdpa")])
def test_the_model_without_choices_equals_itself(
    tiny: Callable[..., Tiny], name: str, attention: str
) -> None:
    assert tiny(name, attention).differs([], within=1e-6) == ""


def test_classes_occur_in_both_layers(tiny_gpt2: Tiny) -> None:
    both = [item for item in find_classes(tiny_gpt2.memory, EVERYTHING) if len(item.loops) == 2]
    assert both
    for item in both:
        first, second = item.regions
        assert second == first.shifted(second.anchor - first.anchor)
