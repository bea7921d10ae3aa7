"""Captures of one model, made when a call needs them and kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils import _pytree as pytree

from search_space.capture import Capture, capture
from search_space.errors import UnsupportedSizes
from tuner.runtime.gate import GATE
from tuner.runtime.kernels import with_rewrites
from tuner.runtime.signature import Witness, autocast_state, layout

Shapes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Located:
    """A capture that serves a call: the symbols' values and the shapes of the call's tensors."""

    captured: Capture
    bindings: Mapping[str, int]
    shapes: Shapes


class Captures:
    """Finds or makes the capture for a call of ``model``."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model
        self._witness = Witness(model)
        self._kept: list[tuple[object, Capture]] = []
        self._rewritten: dict[tuple[int, tuple[str, ...]], Capture] = {}

    def rewritten(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], names: tuple[str, ...]
    ) -> Located:
        """:meth:`locate`'s capture after the rewrites of a plan."""
        located = self.locate(args, kwargs)
        if not names:
            return located
        key = (id(located.captured), names)  # (captures are kept as long as this is)
        if key not in self._rewritten:
            self._rewritten[key] = with_rewrites(located.captured, names, located.bindings)
        return replace(located, captured=self._rewritten[key])

    def of(self, model: torch.nn.Module) -> Captures:
        """The same captures for a copy of the model: none refers to weights but by name."""
        made = Captures(model)
        made._kept = list(self._kept)
        return made

    def locate(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Located:
        """A kept capture whose guards hold for these inputs, else a new one.

        Raises:
            CaptureError: the model cannot be captured.
        """
        leaves, spec = pytree.tree_flatten((tuple(args), dict(kwargs)))
        key = (capture_key(leaves, spec), self._witness.state())
        for kept_key, kept in self._kept:
            if kept_key != key:
                continue
            try:
                return locate_in(kept, leaves)
            except UnsupportedSizes:
                continue
        with GATE.tracing(), torch.no_grad():
            plain = pytree.tree_map_only(torch.Tensor, _plain_strides, (tuple(args), dict(kwargs)))
            made = capture(self.model, *plain)
        self._kept.append((key, made))
        return locate_in(made, leaves)


def _plain_strides(tensor: torch.Tensor) -> torch.Tensor:
    """The same tensor, in which dimensions of size 1 have the strides that the others suggest. What
    they have in a slice, such as ``ids[:1, :99]``, means nothing, and follows from no size."""
    if tensor.layout != torch.strided or 1 not in tensor.shape:
        return tensor
    strides, step = list(tensor.stride()), 1
    for dim in reversed(range(tensor.dim())):
        if tensor.shape[dim] == 1:
            strides[dim] = step
        else:
            step = max(step, tensor.shape[dim] * strides[dim])
    return tensor.as_strided(tensor.shape, strides)


def capture_key(leaves: list[Any], spec: pytree.TreeSpec) -> object:
    """What calls must have in common to be served by one capture, sizes apart."""
    signature = tuple(
        (leaf.dim(), leaf.dtype, leaf.device, layout(leaf))
        if isinstance(leaf, torch.Tensor)
        else (type(leaf), leaf)
        for leaf in leaves
    )
    return signature, spec, autocast_state()


def locate_in(captured: Capture, leaves: list[Any]) -> Located:
    """A capture as it serves a call with these leaves.

    Raises:
        UnsupportedSizes: their sizes contradict what the capture assumed.
    """
    shapes = tuple(tuple(leaves[place].shape) for place in captured.tensor_places)
    return Located(captured, captured.graph.bind(shapes), shapes)
