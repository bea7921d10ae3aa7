"""Tiny models, captured and analysed once for all tests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import torch

from experiments.subjects import bert, gpt2, llama, vit
from search_space.candidates import Limits
from search_space.capture import Capture, capture, flatten_output
from search_space.graph import Argument, Ref, SizedGraph, SizedNode, TorchConstant
from search_space.liveness import MemoryModel
from search_space.plan import Choice
from search_space.regions import Loop
from search_space.strides import sized_graph
from search_space.torch_ops import torch_op, torch_value
from tuner.runtime.rewrite import body_module, chunk_loop, rewrite

EVERYTHING = Limits(min_saving=0.0, span=1000, cuts=1000, classes=100_000)
"""Limits that keep every class which no other one makes pointless."""


@dataclass(frozen=True)
class Tiny:
    """A model with example inputs, what was captured of it, and what it gives.

    Attributes:
        expected: the model's own flat outputs.
        memory: the memory model at the example's sizes.
    """

    model: torch.nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    expected: tuple[torch.Tensor, ...]
    captured: Capture
    memory: MemoryModel

    @property
    def sized(self) -> SizedGraph:
        return self.memory.graph

    @property
    def ops(self) -> tuple[SizedNode, ...]:
        return tuple(node for node in self.sized.nodes if node.kind == "op")

    def find(self, op: str) -> int:
        """The place of the one node whose op starts so."""
        (found,) = self.find_all(op)
        return found

    def find_all(self, op: str) -> tuple[int, ...]:
        """The places of the nodes whose ops start so."""
        return tuple(node.index for node in self.ops if node.op.startswith(op))

    def module(self, choices: Sequence[Choice] = ()) -> torch.fx.GraphModule:
        """The model rewritten with these choices; takes the tensors among ``args``."""
        return rewrite(self.memory.program(choices), self.model, self.captured.constants)

    def run(self, choices: Sequence[Choice] = ()) -> tuple[Any, ...]:
        """The flat outputs of the model rewritten with these choices."""
        with torch.no_grad():
            made: tuple[Any, ...] = self.module(choices)(*self.args)
        return made

    def differs(self, choices: Sequence[Choice], within: float = 1e-5) -> str:
        """How the rewritten model's outputs differ from the model's own; empty if they do not."""
        try:
            made = self.run(choices)
        except Exception as error:  # the caller lists every failure, whatever its kind
            return f"{type(error).__name__}: {error}"
        return difference(made, self.expected, within)

    def loop_failures(self, loop: Loop) -> list[str]:
        """How a loop's outputs, run alone, differ from the nodes' values, by chunk size."""
        failed = []
        body: torch.fx.GraphModule | None = None
        expected = [self.values[output] for output in loop.outputs]
        given = [self.values[source.node] for source in loop.inputs]
        for size in chunk_sizes(loop.extent):
            try:
                body = body or body_module(loop)
                with torch.no_grad():
                    made = chunk_loop(loop, size, body)(*given)
            except Exception as error:  # the caller lists every failure, whatever its kind
                found = f"{type(error).__name__}: {error}"
            else:
                parts = (made,) if isinstance(made, torch.Tensor) else made
                found = difference(parts, expected)
            if found:
                failed.append(f"{loop.region} at {size}: {found}")
        return failed

    def failures(self, loops: Iterable[Loop]) -> list[str]:
        """All that goes wrong in these loops, each run alone at several chunk sizes."""
        return [found for loop in loops for found in self.loop_failures(loop)]

    @cached_property
    def values(self) -> tuple[Any, ...]:
        """What each node of the unchunked graph gives, worked out node by node."""
        found: list[Any] = []
        tensors = iter(self.args)

        def fill(value: Argument) -> Any:
            if isinstance(value, tuple):
                return [fill(item) for item in value]
            if isinstance(value, Ref):
                return found[value.index]
            return torch_value(value) if isinstance(value, TorchConstant) else value

        with torch.no_grad():
            for node in self.sized.nodes:
                if node.kind == "input":
                    found.append(next(tensors))
                elif node.kind == "parameter":
                    found.append(self.model.get_parameter(node.op))
                elif node.kind == "buffer":
                    found.append(self.model.get_buffer(node.op))
                elif node.kind == "constant":
                    found.append(self.captured.constants[node.op])
                else:
                    args = [fill(value) for value in node.args]
                    kwargs = {name: fill(value) for name, value in node.kwargs}
                    found.append(torch_op(node.op)(*args, **kwargs))
        return tuple(found)


def chunk_sizes(extent: int) -> tuple[int, ...]:
    """One, three, half, and all but one unit, as far as the extent has them."""
    wanted = {1, 3, extent // 2, extent - 1}
    return tuple(sorted(size for size in wanted if 0 < size < extent))


def difference(
    made: Sequence[torch.Tensor], expected: Sequence[torch.Tensor], within: float = 1e-5
) -> str:
    """The first difference between two lists of tensors, in words; empty if there is none."""
    if len(made) != len(expected):
        return f"{len(made)} outputs, expected {len(expected)}"
    for place, (found, wanted) in enumerate(zip(made, expected, strict=True)):
        if found.shape != wanted.shape or found.dtype != wanted.dtype:
            return (
                f"output {place}: {found.dtype} {tuple(found.shape)}, "
                f"expected {wanted.dtype} {tuple(wanted.shape)}"
            )
        if not torch.allclose(found.double(), wanted.double(), rtol=within, atol=within):
            worst = (found.double() - wanted.double()).abs().max().item()
            return f"output {place} differs by {worst:.3g}"
    return ""


class Function(torch.nn.Module):
    """A function of tensors as a model in evaluation mode."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function
        self.eval()

    def forward(self, *tensors: torch.Tensor) -> Any:
        return self.function(*tensors)


def analysed(
    model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None
) -> Tiny:
    """Capture a model at example inputs, which must be tensors, and run it on them."""
    keywords = kwargs or {}
    with torch.no_grad():
        flat, _ = flatten_output(model(*args, **keywords))
    captured = capture(model, args, keywords)
    bindings = captured.graph.bind(tuple(tuple(tensor.shape) for tensor in args))
    expected = tuple(leaf for leaf in flat if isinstance(leaf, torch.Tensor))
    memory = MemoryModel(sized_graph(captured.graph, bindings))
    return Tiny(model, args, keywords, expected, captured, memory)


_MODELS: dict[str, tuple[Callable[..., Any], dict[str, Any], int]] = {
    "gpt2": (gpt2, {"heads": 4, "positions": 64, "vocabulary": 101}, 14),
    # another side than the model's own, so that positions are interpolated
    "vit": (vit, {"heads": 4, "patch": 4, "image": 24}, 20),
    "llama": (llama, {"heads": 4, "key_heads": 2, "vocabulary": 101}, 14),
    "bert": (bert, {"heads": 4, "positions": 64, "vocabulary": 101}, 14),
}


@cache
def tiny_model(name: str, attention: str = "eager", layers: int = 2) -> Tiny:
    """A library's model of width 32, by name, with ``eager`` or ``sdpa`` attention."""
    factory, sizes, length = _MODELS[name]
    model, inputs = factory(layers=layers, width=32, attention=attention, **sizes)
    return analysed(model, *inputs(length))
