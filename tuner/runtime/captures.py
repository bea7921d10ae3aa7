"""Captures of one model, made when a call needs them and kept."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch.utils import _pytree as pytree

from search_space.capture import Capture, capture
from search_space.errors import UnsupportedSizes
from tuner.runtime.gate import GATE
from tuner.runtime.kernels import with_rewrites
from tuner.runtime.signature import Witness, autocast_state, layout

log = logging.getLogger("autochunk")

MOST_CAPTURES = 64
"""Captures of one model that are kept; the oldest goes first."""

_MANY_VALUES = 8
"""Captures that differ in plain values alone, as many as are made before it is said."""

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
        self._kept: list[tuple[CaptureKey, Capture]] = []
        self._rewritten: dict[tuple[int, tuple[str, ...]], Capture] = {}

    def rewritten(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], names: tuple[str, ...]
    ) -> Located:
        """:meth:`locate`'s capture after the rewrites of a plan."""
        located = self.locate(args, kwargs)
        if not names:
            return located
        key = (id(located.captured), names)
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
        key = capture_key(leaves, spec, self._witness.state())
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
        note_values((kept_key for kept_key, _ in self._kept), key, args, kwargs)
        while len(self._kept) >= MOST_CAPTURES:
            _, gone = self._kept.pop(0)
            # (ids of what is gone are given out again)
            self._rewritten = {
                own: kept for own, kept in self._rewritten.items() if own[0] != id(gone)
            }
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


class CaptureKey(NamedTuple):
    """What calls must have in common to be served by one capture, sizes apart: of each argument in
    order its kind, layout and device, or its type and value; and their structure, what autocast
    does, and the state of the weights."""

    arguments: tuple[tuple[object, ...], ...]
    structure: pytree.TreeSpec
    autocast: object
    weights: object


def capture_key(leaves: list[Any], spec: pytree.TreeSpec, weights: object) -> CaptureKey:
    """The key of a call with these leaves."""
    signature = tuple(
        (leaf.dim(), leaf.dtype, leaf.device, layout(leaf))
        if isinstance(leaf, torch.Tensor)
        else (type(leaf), leaf)
        for leaf in leaves
    )
    return CaptureKey(signature, spec, autocast_state(), weights)


def note_values(
    kept: Iterable[CaptureKey],
    key: CaptureKey,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    who: str = "the model",
) -> None:
    """Say so where calls are captured again and again for another plain value, such as a number
    that differs from call to call.

    Args:
        kept: the keys of the captures at hand.
        key: of the call with ``args`` and ``kwargs``, which is captured now.
        who: whose call it is.
    """
    places: set[int] = set()
    count = 1
    for other in kept:
        differing = _differing_values(other, key)
        places.update(differing)
        count += bool(differing)
    if count != _MANY_VALUES:
        return
    paths = [path for path, _ in pytree.tree_flatten_with_path((args, dict(kwargs)))[0]]
    named = dict.fromkeys(_argument(paths[place]) for place in sorted(places))
    log.warning(
        "autochunk: %s was captured for %d values of %s; each new value is captured anew, which "
        "takes long. Where it changes from call to call, pass it as a tensor",
        who, count, ", ".join(named),
    )  # fmt: skip


def _differing_values(one: CaptureKey, other: CaptureKey) -> list[int]:
    """The places of plain values that differ; none where anything else does."""
    if one[1:] != other[1:]:
        return []
    pairs = list(zip(one.arguments, other.arguments, strict=True))
    places = [place for place, (own, their) in enumerate(pairs) if own != their]
    plain = all(len(own) == len(their) == 2 for own, their in map(pairs.__getitem__, places))
    return places if plain else []


def _argument(path: tuple[Any, ...]) -> str:
    """An argument's name, or which one it is."""
    outer, own = path[:2]
    return f"argument {own.idx}" if outer.idx == 0 else f"{own.key!r}"


def locate_in(captured: Capture, leaves: list[Any]) -> Located:
    """A capture as it serves a call with these leaves.

    Raises:
        UnsupportedSizes: their sizes contradict what the capture assumed.
    """
    shapes = tuple(tuple(leaves[place].shape) for place in captured.tensor_places)
    return Located(captured, captured.graph.bind(shapes), shapes)
