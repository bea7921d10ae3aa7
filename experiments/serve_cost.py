"""What plans cost at run time, beyond the ops themselves, in microseconds a call.

    python -m experiments.serve_cost [--json PATH]

Seven costs, each with its bar: reading a database of 48 plans; choosing a plan for a call at sizes
seen before; a call of an applied model in which nothing is chunked, over the bare captured graph;
a chunk of a loop, over its ops and the slices; choosing by free memory; reading a UNet's weights,
and, of that, what it is of reading them by attributes; an op of generated code, over what it would
take as its text has it. CPU times of one thread: medians of many short turns, the two sides of a
difference in turns. A busy machine makes them larger.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch

from experiments.machine import environment
from experiments.subjects import gpt2, unet2d_condition
from search_space.budget import parse_budget
from search_space.plan import Choice, Plan, Region
from tuner import Applied, apply
from tuner.database import GraphEntry, LengthEntry, PlanRow, Reference, read_database, write_graph
from tuner.runtime.direct_calls import call_directly
from tuner.runtime.free_memory import free_memory_of
from tuner.runtime.loop import ChunkLoop, Output, Sliced
from tuner.runtime.serving import Pinned
from tuner.runtime.signature import signature
from tuner.runtime.weights import Route, Weights

TURNS, CALLS = 61, 20


@dataclass(frozen=True)
class Cost:
    """One figure: what it is of, in which unit, and the most it may be."""

    name: str
    value: float
    unit: str
    bar: float

    @property
    def holds(self) -> bool:
        return self.value <= self.bar

    def __str__(self) -> str:
        verdict = "holds" if self.holds else "MISSED"
        return f"{self.name:<58} {self.value:8.2f} {self.unit}  at most {self.bar:g}: {verdict}"


def each_us(call: Callable[[], Any], calls: int = CALLS) -> float:
    """Microseconds of CPU time a call, over several in a row."""
    started = time.thread_time()
    for _ in range(calls):
        call()
    return (time.thread_time() - started) / calls * 1e6


def median_us(call: Callable[[], Any], calls: int = CALLS) -> float:
    """The median of several turns."""
    each_us(call)
    return statistics.median(each_us(call, calls) for _ in range(TURNS))


def difference_us(call: Callable[[], Any], base: Callable[[], Any], calls: int = CALLS) -> float:
    """By how much one call takes longer than another: the median of turns taken in pairs."""
    each_us(call)
    each_us(base)
    return statistics.median(each_us(call, calls) - each_us(base, calls) for _ in range(TURNS))


def reading() -> Cost:
    """A database of 48 plans: 12 lengths of 4, over 10 classes of 24 occurrences."""
    classes = [
        tuple(Region(tuple(range(3 * k, 3 * k + 40)), (1, 2) * 20).shifted(60 * layer)
              for layer in range(24))
        for k in range(10)
    ]  # fmt: skip

    def rows(length: int) -> tuple[PlanRow, ...]:
        return tuple(
            PlanRow(
                Plan("f" * 16, (Choice(classes[(length // 128 + k) % 10], 8 << k),)),
                1000 * k + 1, 1000 * k + 1, 9.5 - k, 0.9, 0.85, 0.95,
            )
            for k in range(4)
        )  # fmt: skip

    lengths = tuple(
        LengthEntry(length, ((1, length),), Reference(10**6, 12.5), rows(length))
        for length in range(128, 128 * 13, 128)
    )
    tuned_in = {"torch": torch.__version__, "dtype": "float32"}
    entry = GraphEntry("f" * 16, tuned_in, {"n0": 128}, parse_budget(0.5), lengths)
    with tempfile.TemporaryDirectory() as folder:
        write_graph(Path(folder), "some device", "some model", entry)
        spent = median_us(lambda: read_database(Path(folder)), 1)
    return Cost("reading a database of 48 plans", spent / 1e3, "ms", 10)


def small_model() -> tuple[torch.nn.Module, tuple[Any, ...], dict[str, Any]]:
    """GPT-2 of two narrow layers: a graph of 80 ops that compute next to nothing."""
    model, inputs = gpt2(layers=2, width=32, heads=4, positions=64, vocabulary=101)
    args, kwargs = inputs(14)
    return model, args, kwargs


def choosing(applied: Applied, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Cost:
    """From a call's arguments to what runs it."""

    def choose() -> None:
        call = signature(args, kwargs)
        applied._serving[call.key, applied._witness.state()]

    return Cost("choosing a plan at sizes seen before", median_us(choose), "us", 20)


def calling(applied: Applied, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Cost:
    """The whole way through an applied model with a graph that gives its outputs at once: what a
    call takes over the bare graph. (The difference of two calls of some ms would drown in noise.)
    The output is one of the library's own classes, whose making is counted."""
    prepared = applied.prepare(*args, **kwargs)
    assert not applied.plan.choices
    tensors = signature(args, kwargs).tensors
    with torch.no_grad():
        flat = prepared.module(*tensors)
    at_once: Any = _AtOnce(flat)
    made = copy.deepcopy(applied)
    made._serving = dict.fromkeys(made._serving, Pinned(replace(prepared, module=at_once)))
    return Cost("a call with nothing chunked, over the bare graph",
                median_us(lambda: made(*args, **kwargs)), "us", 50)  # fmt: skip


class _AtOnce(torch.nn.Module):
    """In place of a graph: computes nothing."""

    def __init__(self, flat: Any) -> None:
        super().__init__()
        self.flat = flat

    def forward(self, *tensors: torch.Tensor) -> Any:
        """What it was made with."""
        return self.flat


def looping() -> Cost:
    """A loop of 64 chunks over two sliced inputs and a whole one, over the same ops on slices made
    by hand, and the copies into slices of the outputs."""
    chunks, size, width = 64, 4, 16
    x, y, weight = torch.randn(chunks * size, width), torch.randn(chunks * size, width), torch.ones(
        width
    )
    graph = torch.fx.Graph()
    a, b, w, _, _ = (graph.placeholder(name) for name in ("a", "b", "w", "start", "length"))
    total = graph.call_function(torch.ops.aten.add.Tensor, (a, b))
    graph.output((graph.call_function(torch.ops.aten.mul.Tensor, (total, w)),))
    body = torch.fx.GraphModule(torch.nn.Module(), graph, "Body")
    cut = Sliced(0, 1)
    made = Output(tuple(x.shape), x.stride(), cut, x.dtype, x.device)
    loop = ChunkLoop(body, chunks * size, size, (cut, cut, None), (made,))
    out = torch.empty_like(x)

    def by_hand() -> None:
        for start in range(0, chunks * size, size):
            made = torch.ops.aten.mul.Tensor(
                torch.ops.aten.add.Tensor(x.narrow(0, start, size), y.narrow(0, start, size)),
                weight,
            )
            out.narrow(0, start, size).copy_(made)

    with torch.no_grad():
        spent = difference_us(lambda: loop(x, y, weight), by_hand, 4)
    return Cost("a chunk of a loop, over its ops and slices", spent / chunks, "us", 10)


def asking() -> Cost:
    """How much memory is free: asked at each call with ``memory="free"``."""
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    return Cost(f"asking for the free memory ({kind})", median_us(free_memory_of(kind)), "us", 200)


def reading_weights() -> list[Cost]:
    """All weights of a UNet, as generated code reads them before its first op."""
    model, _ = unet2d_condition()
    names = [name for name, _ in model.named_parameters()]
    weights = Weights(Route.to(names, model), model)
    by_attributes = [attrgetter(name) for name in names]
    spent = median_us(weights.forward, 2)
    singly = median_us(lambda: [get(model) for get in by_attributes], 2)
    return [
        Cost(f"reading {len(names)} weights of a UNet", spent, "us", 1000),
        Cost("the same, over reading them by attributes", spent / singly, "x ", 0.2),
    ]


def calling_ops() -> Cost:
    """Generated code of 64 ops on almost no data, over the same as its text has it."""
    graph = torch.fx.Graph()
    node = graph.placeholder("x")
    for _ in range(64):
        node = graph.call_function(torch.ops.aten.relu.default, (node,))
    graph.output(node)
    as_text, direct = (torch.fx.GraphModule(torch.nn.Module(), graph) for _ in range(2))
    call_directly(direct)
    x = torch.randn(4)
    with torch.no_grad():
        more = difference_us(lambda: direct.forward(x), lambda: as_text.forward(x), 4)
        spent = median_us(lambda: as_text.forward(x), 4)
    return Cost("an op of generated code, over the same as its text", 1 + more / spent, "x ", 1)


def costs() -> list[Cost]:
    """All of them."""
    torch.set_num_threads(1)
    model, args, kwargs = small_model()
    applied = apply(model, args, kwargs)
    return [reading(), choosing(applied, args, kwargs), calling(applied, args, kwargs), looping(),
            asking(), *reading_weights(), calling_ops()]  # fmt: skip


def main() -> int:
    """Print the costs; the exit code is 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else "")
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    options = parser.parse_args()
    found = costs()
    for cost in found:
        print(cost)
    if options.json:
        text = json.dumps({"machine": environment(), "costs": [asdict(cost) for cost in found]})
        options.json.write_text(text + "\n", encoding="utf-8")
    return 0 if all(cost.holds for cost in found) else 1


if __name__ == "__main__":
    sys.exit(main())
