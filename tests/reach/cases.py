"""Tiny subjects, each captured once for all tests of this folder, and what outputs are held to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import torch
from torch.utils import _pytree as pytree

from experiments.judge import TOLERANCE, Exact, Half, Judge, run_eager
from experiments.subjects import TINY, TINY_LENGTHS, Inputs
from search_space.budget import parse_budget
from search_space.capture import flatten_output
from tuner import Applied
from tuner.measure.cpu import CpuBackend
from tuner.runtime.captures import Captures

Call = tuple[tuple[Any, ...], dict[str, Any]]

MEMORY_ERROR = 0.03
"""Predicted and measured peaks differ by at most this share of the measured one."""

FIXED_BYTES = 4096
"""What measuring itself adds, whatever the sizes: scalars, a loop's counters."""


@dataclass(frozen=True)
class Case:
    """A model, its inputs by length, and the captures that all of its tests share.

    Attributes:
        length: where the first capture is made.
    """

    model: torch.nn.Module
    inputs: Inputs
    length: int
    captures: Captures = field(compare=False)

    def apply(self, budget: float | int | str, call: Call | None = None) -> Applied:
        """As :func:`tuner.apply`, but from the captures made before."""
        args, kwargs = call or self.inputs(self.length)
        applied = Applied(self.model, {}, parse_budget(budget), captures=self.captures)
        applied.prepare(*args, **kwargs)
        return applied

    def least(self, call: Call | None = None) -> Applied:
        """At the lowest peak there is, at any price, where most is chunked."""
        args, kwargs = call or self.inputs(self.length)
        return self.apply(lowest_bytes(self.apply("min", (args, kwargs)), (args, kwargs)))

    def eager(self, call: Call) -> Any:
        """The model's own output."""
        return run_eager(self.model, call)


def lowest_bytes(applied: Applied, call: Call) -> int:
    """The lowest peak that any plan for a call is known to reach, whatever it costs."""
    return applied.prepare(*call[0], **call[1]).analysis.selector.lowest().peak_bytes


@cache
def case(name: str, batch: int = 1, dtype: torch.dtype = torch.float32) -> Case:
    """The tiny subject of this name, its batch and the dtype of its weights and inputs."""
    make: Callable[..., Any] = TINY[name]
    changes: dict[str, Any] = {} if batch == 1 else {"batch": batch}
    if isinstance(make, partial) and make.keywords.get("layers") == 2:
        changes["layers"] = 1  # a second layer shows nothing new
    model, inputs = make(**changes)
    if dtype != torch.float32:
        model, inputs = model.to(dtype), cast_inputs(inputs, dtype)
    return Case(model, inputs, TINY_LENGTHS[name][0], Captures(model))


def cast_inputs(inputs: Inputs, dtype: torch.dtype) -> Inputs:
    """The same inputs with floats in another dtype."""

    def other(length: int) -> Call:
        return cast(inputs(length), dtype)

    return other


def cast(call: Call, dtype: torch.dtype) -> Call:
    """A call with its floats in another dtype."""
    made: Call = pytree.tree_map_only(
        torch.Tensor, lambda t: t.to(dtype) if t.is_floating_point() else t, call
    )
    return made


def tensors(value: Any) -> list[torch.Tensor]:
    """The tensors in any structure, in its order."""
    return [leaf for leaf in flatten_output(value)[0] if isinstance(leaf, torch.Tensor)]


def wrong(found: Any, expected: Any) -> str:
    """How an output differs from the model's own, which is not half precision; empty if it does
    not: structure, classes, dtypes, and values within 1e-5 (float64: 1e-12) of the largest."""
    floats = [t.dtype for t in tensors(expected) if t.is_floating_point()]
    judge: Judge = Exact(expected, TOLERANCE[floats[0]] if floats else 0.0)
    if type(found) is not type(expected):
        return f"{type(found).__name__} instead of {type(expected).__name__}"
    return judge(found).reason


def wrong_half(found: Any, own: Any, reference: Any) -> str:
    """How an output in half precision is further from the reference in fp32 than the model's own
    by more than a tenth; empty if it is not."""
    return Half(own, reference)(found).reason


def activation_peak(call: Callable[[], Any]) -> int:
    """The allocator's peak during a call, in bytes; that of a second call, since a first one may
    leave tables behind."""
    call()
    return CpuBackend().peak(call)[1].requested_bytes


def is_off(predicted: int, measured: int) -> bool:
    """Whether the memory model missed a measured peak."""
    return abs(predicted - measured) > max(MEMORY_ERROR * measured, FIXED_BYTES)


def chunked_nodes(applied: Applied) -> int:
    """How many nodes of the last call's graph run in loops."""
    return sum(len(region.nodes) for choice in applied.plan.choices for region in choice.regions)


def snapshot(values: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copies of tensors by name."""
    return {name: tensor.detach().clone() for name, tensor in values.items()}
