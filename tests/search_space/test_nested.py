"""Loops inside loops: exact, of the predicted memory, and lower where they are offered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial
from itertools import islice

import pytest
import torch

from cost_models.times import class_passes, class_seconds, extra_seconds
from search_space.body import body_memory, whole_memory
from search_space.candidates import find_classes, same_classes
from search_space.classes import RegionClass, choice_form, chosen_size, class_key
from search_space.errors import IllegalRegion
from search_space.graph import OPAQUE
from search_space.liveness import MemoryModel, pass_lengths
from search_space.nested import NestLimits, with_nested
from search_space.plan import Choice, decode_plan, encode_plan
from search_space.space import SearchSpace, chunk_grid
from tests.cost_models.made_rates import PLAIN as CPU
from tests.tiny import EVERYTHING, Function, Tiny, analysed
from tuner.measure.cpu import CpuBackend


class Attention(torch.nn.Module):
    """Attention with projections of its own for each of several batches, written out."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.parts = torch.nn.ModuleList(torch.nn.Linear(width, width) for _ in range(3))
        self.heads = heads
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.parts)
        weights = torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, -1)
        made: torch.Tensor = x + (weights @ v).transpose(1, 2).flatten(2)
        return made


def _numbers(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@cache
def attention() -> Tiny:
    """Five heads, so that two a pass leave a ragged one; scores tower above all else."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Attention(40, 5)
    return analysed(model, (_numbers(2, 160, 40),))


@cache
def nested() -> tuple[RegionClass, ...]:
    """The two that come down lowest, and the lowest with a ragged last pass."""
    memory = attention().memory
    found = [item for item in with_nested(memory, find_classes(memory)) if item.inner]
    found.sort(key=lambda item: item.low_bytes)
    ragged = [one for one in found if len(pass_lengths(one.loops[0], one.outer_size)) == 2]
    return (*found[:2], ragged[0])


def test_nested_classes_come_down_lower_than_any_other() -> None:
    memory = attention().memory

    def lowest(classes: tuple[RegionClass, ...]) -> int:
        smallest = [item.choice(chunk_grid(item.extent)[-1]) for item in classes]
        return min(memory.profile([choice]).peak_bytes for choice in smallest)

    assert lowest(nested()) < 0.8 * lowest(find_classes(memory))


def test_nested_classes_are_exact_and_of_the_predicted_memory() -> None:
    tiny = attention()
    for item in nested():
        for size in (item.extent // 3, item.extent - 1):
            choices = [item.choice(size)]
            assert tiny.differs(choices) == "", (item.key, size)
            module = tiny.module(choices)
            with torch.no_grad():
                module(*tiny.args)
                _, peak = CpuBackend().peak(partial(module, *tiny.args))
            predicted = tiny.memory.profile(choices).peak_bytes
            assert predicted == pytest.approx(peak.activation_bytes, rel=0.02), (item.key, size)


def _nestings(tiny: Tiny, every: int) -> Iterator[Choice]:
    """Of every so-manieth class, every class in its body, at awkward sizes."""
    for item in find_classes(tiny.memory, EVERYTHING)[::every]:
        loop = item.loops[0]
        outer = min(3, item.extent - 1)
        for one in find_classes(tiny.memory.inside(loop, outer), EVERYTHING):
            regions = tuple(r.renumbered(-len(loop.inputs)) for r in one.regions)
            yield Choice(item.regions, outer, (Choice(regions, max(1, one.extent // 2)),))


@pytest.mark.parametrize(("name", "every", "step"), [("bert", 9, 9), ("llama", 23, 23)])
def test_whatever_can_be_nested_is_exact(
    tiny: Callable[..., Tiny], name: str, every: int, step: int
) -> None:
    subject = tiny(name, "eager", 1)
    tried = 0
    for choice in islice(_nestings(subject, every), 0, None, step):
        try:
            subject.memory.program([choice])
        except IllegalRegion:
            continue  # the ragged last pass does not allow it
        assert subject.differs([choice]) == "", choice
        tried += 1
    assert tried >= 5


def test_a_body_as_a_graph_needs_what_the_body_needs(tiny: Callable[..., Tiny]) -> None:
    memory = tiny("gpt2", "eager", 1).memory
    for item in find_classes(memory, EVERYTHING)[::3]:
        loop = item.loops[0]
        for size in {1, max(1, item.extent // 2)}:
            assert memory.inside(loop, size).as_body(()) == body_memory(loop, size)


@pytest.mark.parametrize("name", ["gpt2", "vit", "llama"])
def test_a_region_whole_needs_what_one_pass_over_all_of_it_needs(
    tiny: Callable[..., Tiny], name: str
) -> None:
    memory = tiny(name, "eager", 1).memory
    loops = [item.loops[0] for item in find_classes(memory, EVERYTHING)[::3]]
    assert loops
    for loop in loops:
        assert whole_memory(loop, memory.workspace_bytes) == body_memory(loop, loop.extent)


def two_attentions(x: torch.Tensor, own: torch.Tensor, shared: torch.Tensor) -> torch.Tensor:
    """Alike where the batch is one: a mask of its own for each sample, then one for all."""
    x = torch.relu(x)
    for mask in (own, shared):
        x = torch.softmax(x @ x.transpose(-1, -2) + mask, -1) @ x
    return x


def test_classes_of_another_size_are_alike_there_too() -> None:
    def memory_of(batch: int) -> MemoryModel:
        given = _numbers(batch, 1, 24, 8), _numbers(batch, 1, 24, 24), _numbers(1, 1, 24, 24)
        return analysed(Function(two_attentions), given).memory

    one, two = memory_of(1), memory_of(2)
    ops = [node.op for node in one.graph.nodes]
    assert ops == [node.op for node in two.graph.nodes], "the two sizes are one graph"
    known = find_classes(one, EVERYTHING)
    assert any(len(item.loops) == 2 for item in known), "at one position the two are alike"
    found = same_classes(two, known, EVERYTHING)
    assert found
    for item in found:
        assert {class_key(loop) for loop in item.loops} == {item.key}
        # (so that what is told of them can also be generated)
        two.program([item.choice(max(1, item.extent // 3))])


def test_what_depends_on_the_start_of_a_pass_is_opaque_in_it() -> None:
    # each row is told where it stands
    tiny = analysed(
        Function(lambda x: torch.relu(x + torch.arange(x.shape[0])[:, None]) @ x.T),
        (_numbers(12, 8),),
    )
    arange = tiny.find("aten.arange")
    loops = [item.loops[0] for item in find_classes(tiny.memory, EVERYTHING)]
    loop = next(loop for loop in loops if arange in loop.region.nodes)
    nodes = tiny.memory.inside(loop, 3).graph.nodes
    opaque = [node.op for node in nodes if OPAQUE in node.traits]
    assert opaque == ["aten.arange.start_step"] or opaque == [tiny.sized.nodes[arange].op]


def test_a_nested_class_names_its_choices() -> None:
    memory = attention().memory
    space = SearchSpace(memory, with_nested(memory, find_classes(memory)))
    for item in nested():
        size = item.extent // 2
        choice = item.choice(size)
        assert choice_form(choice) == item.form
        assert chosen_size(choice) == size
        plan = space.decode({item.key: size})
        assert plan.choices == (choice,)
        assert space.setting(plan) == {item.key: size}
        assert decode_plan(encode_plan(plan)) == plan
    assert len({item.form for item in space.classes}) == len(space.classes)


def test_inner_loops_cost_time() -> None:
    for item in nested():
        outer = RegionClass("", item.loops, 0, 0)
        assert class_passes(item, 1) > class_passes(outer, item.outer_size)
        assert class_seconds(item, 1, CPU) > class_seconds(outer, item.outer_size, CPU)
        assert extra_seconds(item, 1, CPU) > extra_seconds(item, 2, CPU) > 0


def test_nothing_is_nested_where_small_chunks_are_small_already() -> None:
    tiny = analysed(Function(lambda x: torch.relu(x @ x.T).sum(-1)), (_numbers(64, 64),))
    classes = find_classes(tiny.memory)
    assert classes
    assert with_nested(tiny.memory, classes, NestLimits(share=0.9)) == classes
