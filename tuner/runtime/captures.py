"""Captures of one model, made when a call needs them and kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from search_space.capture import Capture, capture
from search_space.errors import UnsupportedSizes

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
        self._kept: list[tuple[object, Capture]] = []

    def locate(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Located:
        """A kept capture whose guards hold for these inputs, else a new one.

        Raises:
            CaptureError: the model cannot be captured.
        """
        leaves, spec = pytree.tree_flatten((tuple(args), dict(kwargs)))
        signature = tuple(
            (leaf.dim(), leaf.dtype, leaf.device)
            if isinstance(leaf, torch.Tensor)
            else (type(leaf), leaf)
            for leaf in leaves
        )
        key = (signature, spec, autocast_state())
        for kept_key, kept in self._kept:
            if kept_key != key:
                continue
            try:
                return _located(kept, leaves)
            except UnsupportedSizes:
                continue
        made = capture(self.model, args, kwargs)
        self._kept.append((key, made))
        return _located(made, leaves)


def _located(captured: Capture, leaves: list[Any]) -> Located:
    shapes = tuple(tuple(leaves[place].shape) for place in captured.tensor_places)
    return Located(captured, captured.graph.bind(shapes), shapes)


def autocast_state() -> tuple[object, ...]:
    """What autocast would change about a call: it is captured with the model."""
    return tuple(
        torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        for device in ("cpu", "cuda")
    )
