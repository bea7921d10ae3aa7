"""Copies of a region in equal layers, against resolving each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from search_space.candidates import Limits, find_classes
from search_space.classes import class_key
from search_space.errors import IllegalRegion, PlanError
from search_space.graph import SizedGraph
from search_space.liveness import MemoryModel
from search_space.plan import Choice, Region
from search_space.regions import Loop, resolve
from search_space.repeats import Repeats, transplant
from tests.tall import Wiring, repeated, wired
from tests.tiny import EVERYTHING, Function, Tiny, analysed, difference, tiny_model
from tuner import apply

F = torch.nn.functional


def t(*shape: int) -> torch.Tensor:
    """Random floats."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def copies(repeats: Repeats, loop: Loop, anchors: Sequence[int]) -> list[Region]:
    """A loop's region and what is said to be its copies."""
    region, found = repeats.occurrences(loop, anchors)
    assert (region.nodes, region.dims, region.recomputed) == (
        loop.region.nodes, loop.region.dims, loop.region.recomputed
    )  # fmt: skip
    return [region, *(region.shifted(anchor - region.anchor) for anchor in found)]


def unlike(loop: Loop, regions: Sequence[Region], graph: SizedGraph) -> list[str]:
    """What is wrong with regions that are said to be copies of one."""
    found = []
    key = class_key(replace(loop, region=regions[0]))
    for region in regions:
        copy = transplant(replace(loop, region=regions[0]), region)
        try:
            own = resolve(graph, region)
        except IllegalRegion as error:
            found.append(f"{region} is none: {error}")
            continue
        if class_key(own) != key:
            found.append(f"{region} is of another class")
        for name in ("region", "extent", "factors", "inputs", "outputs"):
            if getattr(own, name) != getattr(copy, name):
                found.append(f"{region}: {name} is {getattr(own, name)}, not {getattr(copy, name)}")
        if own.donors != copy.donors or own.relaid != copy.relaid:
            found.append(f"{region}: other donors or layouts")
    return found


def wrong_classes(graph: SizedGraph, limits: Limits = EVERYTHING) -> list[str]:
    """What is wrong with all classes of a graph."""
    memory, plain = MemoryModel(graph), MemoryModel(graph)
    found = []
    for item in find_classes(memory, limits):
        faults = unlike(item.loops[0], item.regions, graph)
        choices = [Choice(item.regions, max(1, item.extent // 3))]
        if not faults:
            known, resolved = (one.profile(choices).live_bytes for one in (memory, plain))
            if known.tolist() != resolved.tolist():
                faults.append(f"{item.regions[0]}: the memory differs")
        found += faults
    return found


# -- made-up layers ------------------------------------------------------------------------------

OPS = {"aten.exp.default": 1, "aten.add.Tensor": 2, "aten.mul.Tensor": 2, "aten.matmul.default": 2}
WEIGHTS = 6


@st.composite
def stacks(draw: st.DrawFn) -> tuple[Wiring, int]:
    """Up to eight equal layers after a few nodes that all may read, with some small changes; and
    a layer's length."""
    early = draw(st.integers(1, 3))
    length = draw(st.integers(2, 5))
    times = draw(st.integers(3, 8))
    start = 1 + WEIGHTS + early
    wiring: list[tuple[str, tuple[int, ...]]] = [
        ("aten.exp.default", (0 if k == 0 else WEIGHTS + k,)) for k in range(early)
    ]
    layer: list[tuple[str, list[tuple[str, int]]]] = []
    for place in range(length):
        op = draw(st.sampled_from(sorted(OPS)))
        refs = []
        for _ in range(OPS[op]):
            kind = draw(st.sampled_from(["back", "back", "back", "early", "weight", "own weight"]))
            far = {"back": length + place, "early": early, "weight": WEIGHTS, "own weight": 3}[kind]
            refs.append((kind, draw(st.integers(1, far))))
        layer.append((op, refs))
    for copy in range(times):
        for place, (op, kinds) in enumerate(layer):
            index = start + copy * length + place
            found = []
            for kind, number in kinds:
                if kind == "back":
                    found.append(max(index - number, WEIGHTS + 1))
                elif kind == "early":
                    found.append(WEIGHTS + number)
                elif kind == "weight":
                    found.append(number)
                else:
                    found.append(1 + (number + copy) % WEIGHTS)
            wiring.append((op, tuple(found)))
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(early, len(wiring) - 1))
        op, old = wiring[place]
        if draw(st.booleans()):
            op = draw(st.sampled_from([o for o in sorted(OPS) if OPS[o] == len(old)]))
        else:
            changed = draw(st.integers(0, len(old) - 1))
            ref = draw(st.integers(0, WEIGHTS + place))
            old = (*old[:changed], ref, *old[changed + 1 :])
        wiring[place] = (op, old)
    return wiring, length


@st.composite
def regions(draw: st.DrawFn, first: int, count: int, length: int) -> Region:
    seed = draw(st.integers(first, min(count - 1, first + 2 * length)))
    low = max(first, seed - length - 1)
    nodes = sorted(draw(st.sets(st.integers(low, seed), max_size=4)) | {seed})
    again = draw(st.sets(st.sampled_from(nodes[:-1]), max_size=2)) if nodes[:-1] else set()
    return Region(tuple(nodes), (draw(st.integers(0, 1)),) * len(nodes), tuple(sorted(again)))


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_what_is_said_to_be_a_copy_is_one(data: st.DataObject) -> None:
    wiring, length = data.draw(stacks())
    graph = wired(wiring, weights=WEIGHTS)
    repeats = Repeats(graph)
    for _ in range(6):
        region = data.draw(regions(1 + WEIGHTS, len(graph.nodes), length))
        try:
            loop = resolve(graph, region)
        except IllegalRegion:
            continue
        steps = data.draw(st.sampled_from([1, length]))
        anchors = range(region.anchor + steps, len(graph.nodes), steps)
        assert not unlike(loop, copies(repeats, loop, anchors), graph)


def test_all_equal_layers_are_found() -> None:
    layer = [("aten.exp.default", (-1,)), ("aten.matmul.default", (0, -1)),
             ("aten.add.Tensor", (0, -3)), ("aten.cos.default", (-1,))]  # fmt: skip
    wiring: list[tuple[str, tuple[int, ...]]] = [("aten.exp.default", (0,))]
    for copy in range(9):
        for op, refs in layer:
            index = len(wiring) + 1 + WEIGHTS
            found = [index + ref if ref else 1 + copy % WEIGHTS for ref in refs]
            wiring.append((op, tuple(found)))
    graph = wired(wiring, weights=WEIGHTS)

    def given_out(loop: Loop, by: int = 0) -> set[object]:
        def looks(node: int) -> tuple[str, bool]:
            return graph.nodes[node].op, node in graph.output_nodes

        return {
            (node - by, looks(node), frozenset(map(looks, graph.users[node])))
            for node in loop.outputs
        }

    repeats, seen = Repeats(graph), 0
    begin = 2 + WEIGHTS + len(layer)
    for nodes in ((0,), (0, 1), (1, 2), (0, 1, 2, 3), (2, 3)):
        for again in ((), (nodes[0],)):
            region = Region(
                tuple(begin + n for n in nodes), (0,) * len(nodes),
                tuple(begin + n for n in again if n != nodes[-1]),
            )  # fmt: skip
            if any(not set(graph.users[n]) & set(region.nodes) for n in region.recomputed):
                continue  # nothing in the region reads it: no growth would make it again
            try:
                loop = resolve(graph, region)
            except IllegalRegion:
                continue
            anchors = range(region.anchor + 4, len(graph.nodes), 4)
            found_ = copies(repeats, loop, anchors)
            alike = []
            for by in range(0, len(anchors) * 4 + 1, 4):
                try:
                    own = resolve(graph, region.shifted(by))
                except (IllegalRegion, PlanError):
                    continue
                # (of copies more is asked: what leaves them is returned, or read by the like)
                if class_key(own) == class_key(loop) and given_out(own, by) == given_out(loop):
                    alike.append(own.region)
            assert found_ == alike
            seen += len(found_) - 1
    assert seen > 30


# -- models --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "attention"), [
    ("gpt2", "eager"), ("gpt2", "sdpa"), ("vit", "eager"), ("llama", "sdpa"), ("bert", "sdpa"),
])  # fmt: skip
def test_the_classes_of_models_are_classes(name: str, attention: str) -> None:
    subject = tiny_model(name, attention, layers=4)
    assert not wrong_classes(subject.sized)
    assert not wrong_classes(subject.sized, Limits())
    assert any(len(c.loops) == 4 for c in find_classes(MemoryModel(subject.sized), EVERYTHING))


class Stack(torch.nn.Module):
    """Six layers, of which the fourth may be another."""

    def __init__(self, odd: Callable[[torch.Tensor], torch.Tensor] | None, tied: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.odd = odd
        self.up = torch.nn.ModuleList(torch.nn.Linear(6, 48) for _ in range(6))
        self.gate = torch.nn.ModuleList(
            self.up[k] if tied and k == 3 else torch.nn.Linear(6, 48) for k in range(6)
        )
        self.down = torch.nn.ModuleList(torch.nn.Linear(48, 6) for _ in range(6))
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mask = torch.ones(x.shape[0], x.shape[0]).tril() / x.shape[0]
        for place, (up, gate, down) in enumerate(zip(self.up, self.gate, self.down, strict=True)):
            h = F.layer_norm(x, (6,))
            scores = (h @ h.T) * mask
            h = scores @ h
            if self.odd is not None and place == 3:
                h = self.odd(h)
            x = x + down(F.gelu(up(h)) * gate(h))
        return x


ODD: dict[str, Callable[[torch.Tensor], torch.Tensor] | None] = {
    "equal": None,
    "another scale": lambda h: h * 0.5,
    "another dtype": lambda h: (h.double() * 0.5).float(),
    "another shape": lambda h: h[:, :5] @ torch.ones(5, 6),
    "an extra user": lambda h: h + h.sin(),
}


@pytest.mark.parametrize("name", [*ODD, "tied weights"])
def test_layers_with_an_odd_one_among_them(name: str) -> None:
    subject = analysed(Stack(ODD.get(name), name == "tied weights"), (t(24, 6),))
    assert not wrong_classes(subject.sized)


def test_scales_that_differ_are_no_class() -> None:
    def forward(x: torch.Tensor) -> torch.Tensor:
        for scale in (0.5, 0.5, 0.25, 0.5):
            x = ((x @ x.T).softmax(-1) * scale) @ x
        return x

    subject = analysed(Function(forward), (t(12, 6),))
    assert not wrong_classes(subject.sized)
    counts = [len(c.loops) for c in find_classes(subject.memory, EVERYTHING)]
    products = [n.index for n in subject.ops if n.op == "aten.mul.Tensor"]
    for item in find_classes(subject.memory, EVERYTHING):
        members = {node for region in item.regions for node in region.nodes}
        assert len(members & {products[2]}) == 0 or len(item.loops) == 1
    assert max(counts) >= 2


def test_a_model_with_weights_tied_in_one_layer_is_applied() -> None:
    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = Stack(None, tied=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            own = self.layers
            for up, gate, down in zip(own.up, own.gate, own.down, strict=True):
                x = down(F.gelu(up(x)) * gate(x)).cumsum(0) / x.shape[0]
            return x

    subject = analysed(Tied().eval(), (t(2000, 6),))
    for budget in (0.8, 0.5):
        fast = apply(subject.model, subject.args, memory_budget=budget)
        assert fast.plan.choices
        with torch.no_grad():
            assert difference([fast(*subject.args)], subject.expected) == ""


def test_two_tensors_that_become_one_are_no_copy() -> None:
    # every sum reads a node of its own and the one at 11, which for the fourth sum is its own
    wiring: list[tuple[str, tuple[int, ...]]] = []
    sums = []
    for index in range(1, 23, 2):
        wiring.append(("aten.exp.default", (max(index - 2, 0),)))
        late = index > 12
        wiring.append(("aten.add.Tensor", (index - 6, 11) if late else (index, index)))
        if late:
            sums.append(index + 1)
    graph = wired(wiring)
    read = [tuple(ref for _, ref in graph.nodes[node].refs) for node in sums]
    assert (11, 11) in read[2:]
    assert len(set(read)) == len(read)
    repeats = Repeats(graph)
    for place, seed in enumerate(sums[:-1]):
        loop = resolve(graph, Region((seed,), (0,)))
        assert not unlike(loop, copies(repeats, loop, sums[place + 1 :]), graph)


def test_a_repeated_layer_has_the_classes_of_a_captured_one() -> None:
    subject: Tiny = tiny_model("gpt2", "eager", 3)
    from tests.tall import layers

    first, length = layers(subject.sized)
    assert repeated(subject.sized, first, length, 1).nodes == subject.sized.nodes
    for times in (2, 5):
        graph = repeated(subject.sized, first, length, times)
        assert not wrong_classes(graph)
    deep = tiny_model("gpt2", "eager", 4).sized
    made = repeated(subject.sized, first, length, 2)
    keys = [
        sorted((c.key, len(c.loops)) for c in find_classes(MemoryModel(g))) for g in (deep, made)
    ]
    assert len(deep.nodes) - len(made.nodes) == len(deep.nodes) - len(subject.sized.nodes) - length
    counts = [sorted(n for _, n in found) for found in keys]
    assert counts[0] == counts[1]
