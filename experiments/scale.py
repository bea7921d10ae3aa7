"""What analysis costs as graphs grow: ``python -m experiments.scale``.

One captured layer is repeated as plain data, so that the figures are of analysis alone. Printed are
CPU times, each the median of some rounds: of finding all candidates, nested ones included, of a
plan's memory from scratch (a new memory model that knows the loops), and of the same plan's memory
after a change of one choice.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any

from experiments.subjects import gpt2, vit
from search_space.candidates import find_classes
from search_space.capture import capture
from search_space.classes import RegionClass
from search_space.graph import LEAVES, Argument, Ref, SizedGraph, SizedNode, map_arguments
from search_space.liveness import MemoryModel
from search_space.nested import with_nested
from search_space.plan import Choice
from search_space.space import SearchSpace

SUBJECTS = {"gpt2": (gpt2, 1024), "vit": (vit, 224)}


@dataclass(frozen=True, slots=True)
class Costs:
    """CPU times of one graph's analysis.

    Attributes:
        nodes, classes, choices: sizes of the graph, of what was found, and of the plan judged.
        candidates_s: of finding all candidate classes.
        scratch_ms: of the plan's memory, by a memory model that knows the loops but has judged no
            plan of the graph before.
        base_ms: of what all plans of one graph share, which is worked out once.
        change_ms: of the plan's memory after another chunk size for one of its choices.
    """

    nodes: int
    classes: int
    choices: int
    candidates_s: float
    base_ms: float
    scratch_ms: float
    change_ms: float


def repeated(graph: SizedGraph, first: int, length: int, times: int) -> SizedGraph:
    """The graph with its nodes ``[first, first + length)``, one layer, there ``times`` times; 0
    takes it out.

    The layer reads the previous one (whatever stands up to ``length`` before it) and what all
    layers share (whatever stands before that); weights stand for themselves in every copy.
    """
    by = (times - 1) * length
    nodes = list(graph.nodes[:first])
    for copy in range(times):
        for node in graph.nodes[first : first + length]:
            nodes.append(_moved(graph, node, copy * length, first - length))
    for node in graph.nodes[first + length :]:
        nodes.append(_moved(graph, node, by, first))

    def move(value: Argument) -> Argument:
        late = isinstance(value, Ref) and value.index >= first
        return Ref(value.index + by) if isinstance(value, Ref) and late else value

    outputs = tuple(map_arguments(value, move) for value in graph.outputs)
    return SizedGraph(tuple(nodes), outputs, graph.bindings, graph.fingerprint)


def _moved(graph: SizedGraph, node: SizedNode, by: int, since: int) -> SizedNode:
    """A node moved on, with its references to nodes at ``since`` or later."""
    if not by:
        return node

    def move(value: Argument) -> Argument:
        if not isinstance(value, Ref) or value.index < since:
            return value
        return value if graph.nodes[value.index].kind in LEAVES else Ref(value.index + by)

    refs = tuple(
        (path, moved.index)
        for path, ref in node.refs
        if isinstance(moved := move(Ref(ref)), Ref)
    )
    return replace(
        node,
        index=node.index + by,
        label=f"{node.label}_{by}",
        args=tuple(map_arguments(value, move) for value in node.args),
        kwargs=tuple((name, map_arguments(value, move)) for name, value in node.kwargs),
        refs=refs,
    )


def layers(graph: SizedGraph) -> tuple[int, int]:
    """Where the second of a graph's three equal layers begins, and how many nodes a layer has.

    Raises:
        ValueError: the graph holds no such layers.
    """
    forms = [(node.op, tuple(t.shape for t in node.outputs)) for node in graph.nodes]
    start = int(graph.is_leaf.sum())
    for length in range((len(forms) - start) // 3, 5, -1):
        for first in range(start, len(forms) - 3 * length + 1):
            one, two, three = (
                forms[first + k * length : first + (k + 1) * length] for k in range(3)
            )
            if one == two == three:
                return first + length, length
    raise ValueError("the graph has no three equal layers")


def tall(name: str, times: int, length: int | None = None, **sizes: Any) -> SizedGraph:
    """A subject's graph with ``times`` layers, at least 2, made of a capture of three.

    Args:
        length: tokens, or the image's side; the subject's own where it is None.
        sizes: the subject's constructor arguments.
    """
    factory, usual = SUBJECTS[name]
    model, inputs = factory(**{"layers": 3, "attention": "eager", **sizes})
    args, kwargs = inputs(length or usual)
    captured = capture(model, args, kwargs)
    graph = captured.graph.at(captured.graph.bind(tuple(tuple(t.shape) for t in args)))
    first, long = layers(graph)
    return repeated(graph, first, long, times - 2)


def plan_of(memory: MemoryModel, classes: Sequence[RegionClass]) -> tuple[Choice, ...]:
    """As many classes as go together, each in a sixteenth."""
    sizes = {item.key: max(1, item.extent // 16) for item in classes}
    return SearchSpace(memory, tuple(classes)).decode(sizes).choices


def cost(graph: SizedGraph, rounds: int = 9) -> Costs:
    """What the analysis of one graph costs."""
    memory = MemoryModel(graph)
    base, _ = _timed(memory.profile)
    candidates, classes = _timed(lambda: with_nested(memory, find_classes(memory)))
    choices = plan_of(memory, classes)
    # one choice, the last plain one, at another size
    which = max(k for k, choice in enumerate(choices) if not choice.inner)
    other = replace(choices[which], chunk_size=choices[which].chunk_size + 1)
    changed = (*choices[:which], other, *choices[which + 1 :])
    loops = [loop for item in classes for loop in item.loops]
    scratch, change = [], []
    for _ in range(rounds):
        fresh = MemoryModel(graph)
        fresh.know(loops)
        fresh.profile()
        scratch.append(_timed(partial(fresh.profile, choices))[0])
        change.append(_timed(partial(fresh.profile, changed))[0])
    return Costs(
        len(graph.nodes), len(classes), len(choices), candidates,
        base * 1e3, median(scratch) * 1e3, median(change) * 1e3,
    )  # fmt: skip


def _timed(call: Callable[[], Any]) -> tuple[float, Any]:
    gc.collect()
    start = time.process_time()
    result = call()
    return time.process_time() - start, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subject", choices=sorted(SUBJECTS), default="gpt2")
    parser.add_argument("--nodes", type=int, nargs="*", default=[1_000, 10_000])
    arguments = parser.parse_args()
    three = tall(arguments.subject, 3)
    first, long = layers(three)
    outside = len(three.nodes) - 3 * long
    wanted = {2: "2 layers", 48: "48 layers"}
    wanted |= {max(2, (n - outside) // long): f"{n} nodes" for n in arguments.nodes}
    print(f"{arguments.subject}: {long} nodes a layer, {outside} outside of them")
    print(f"{'':12}{'nodes':>7}{'classes':>9}{'choices':>9}{'candidates s':>14}"
          f"{'base ms':>9}{'scratch ms':>12}{'change ms':>11}")  # fmt: skip
    for times, label in sorted(wanted.items()):
        graph = repeated(three, first, long, times - 2)
        found = cost(graph)
        print(f"{label:12}{found.nodes:7}{found.classes:9}{found.choices:9}"
              f"{found.candidates_s:14.2f}{found.base_ms:9.1f}{found.scratch_ms:12.1f}"
              f"{found.change_ms:11.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
