"""What tells one call from another: the key under which what was prepared for it is kept.

This is the work of every call, so that the common case, tensors and plain values that are not
nested, is read without building trees.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch.utils import _pytree as pytree

from tuner.runtime.gate import GATE

_TENSORS = frozenset({torch.Tensor, torch.nn.Parameter})
_PLAIN = frozenset({type(None), bool, int, float, str, torch.dtype})


class Signature(NamedTuple):
    """A call: whatever may change the captured graph or its sizes, its tensors in order, whether
    autocast is on, and whether a tensor had to be copied (:func:`dense`). (A tuple, since it is
    made at each call.)"""

    key: object
    tensors: list[torch.Tensor]
    autocast: bool
    copied: bool


def signature(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Signature:
    """A call's signature. Equal keys mean that the same prepared code serves both; a key cannot be
    hashed where an argument cannot."""
    tensors: list[torch.Tensor] = []
    parts: list[object] = []
    structure: object = (len(args), *kwargs)
    copied = False
    for value in (*args, *kwargs.values()):
        if type(value) in _TENSORS:
            if not value.is_contiguous() and _is_slice(value):
                value, copied = _compact(value), True
            tensors.append(value)
            parts.append((value.shape, value.dtype, value.device, layout(value)))
        elif type(value) in _PLAIN:
            parts.append((type(value), value))
        else:
            copied = any(map(_is_slice, pytree.tree_leaves((args, dict(kwargs)))))
            given = dense(args, kwargs) if copied else (args, kwargs)
            tensors, parts, structure = _nested(*given)
            break
    autocast = autocast_state()
    return Signature((tuple(parts), structure, autocast), tensors, autocast != _NO_AUTOCAST, copied)


def dense(
    args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments, with a copy of each tensor that is a slice of a larger one: its strides follow
    from none of its sizes, so that no capture with symbolic sizes could serve it."""
    made: tuple[tuple[Any, ...], dict[str, Any]] = pytree.tree_map_only(
        torch.Tensor, lambda t: _compact(t) if _is_slice(t) else t, (args, dict(kwargs))
    )
    return made


def _is_slice(value: Any) -> bool:
    """Whether a tensor leaves out elements of its storage in between, or is such a one broadcast.
    """
    if not isinstance(value, torch.Tensor) or value.layout != torch.strided:
        return False
    order = layout(value)
    return order is not None and order[-1] == _SPARSE


def _compact(value: torch.Tensor) -> torch.Tensor:
    """A copy without gaps; what is broadcast is so again, since whole it could be large."""
    once = value
    for dim, step in enumerate(value.stride()):
        if step == 0 and value.shape[dim]:
            once = once.narrow(dim, 0, 1)
    return once.contiguous().expand(value.shape)


def _nested(
    args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[list[torch.Tensor], list[object], object]:
    leaves, spec = pytree.tree_flatten((args, dict(kwargs)))
    parts = [
        (leaf.shape, leaf.dtype, leaf.device, layout(leaf))
        if isinstance(leaf, torch.Tensor)
        else (type(leaf), leaf)
        for leaf in leaves
    ]
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)], list(parts), spec


_DENSE, _SPARSE = -1, -2
"""End a layout: whether elements lie side by side, each once but for what is broadcast."""


def layout(tensor: torch.Tensor) -> tuple[int, ...] | None:
    """The order of a tensor's dimensions in memory, None where it is contiguous. A trace turns
    reshapes into views where the example's layout allows it, and so is of one layout. Dimensions
    along which a tensor is broadcast are left out."""
    if tensor.is_contiguous():
        return None
    shape, strides = tensor.shape, tensor.stride()
    wide = [dim for dim, size in enumerate(shape) if size != 1 and strides[dim]]
    order = sorted(wide, key=lambda dim: -strides[dim])
    reached = 1 + sum((shape[dim] - 1) * strides[dim] for dim in order)
    dense = math.prod(shape[dim] for dim in order) == reached
    return (*order, _DENSE if dense else _SPARSE)


class Witness:
    """One weight that stands for all: whether a model was moved or cast since. It is looked up
    anew at each call, as weights may be replaced."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._model = model
        self._path: tuple[str, ...] = ()
        for path, module in model.named_modules():
            name = next((name for name, one in module._parameters.items() if one is not None), None)
            if name is not None:
                self._path = (*filter(None, path.split(".")), name)
                break

    def state(self) -> object:
        """Of what kind the weights are now: dtype and device."""
        if not self._path:
            return None
        with GATE.using():
            module: Any = self._model
            for name in self._path[:-1]:  # (parts may be exchanged, too)
                module = module._modules.get(name)
                if module is None:
                    return None
            weight = module._parameters.get(self._path[-1])
            return None if weight is None else (weight.dtype, weight.device)


_NO_AUTOCAST = (None, None)


def autocast_state() -> tuple[object, ...]:
    """What autocast would change about a call: it is captured with the model."""
    return tuple(
        torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        for device in ("cpu", "cuda")
    )
