"""From a graph's plain data to torch's own ops and values."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import torch

from search_space.causal_attention import causal_attention
from search_space.errors import CaptureError
from search_space.graph import TorchConstant

_OWN: Mapping[str, Callable[..., Any]] = {
    "getitem": operator.getitem,
    "autochunk.causal_attention.default": causal_attention,
}
"""Ops that are not torch's."""


@lru_cache(maxsize=4096)
def torch_op(name: str) -> Callable[..., Any]:
    """The op with a full name such as ``aten.add.Tensor``.

    Raises:
        CaptureError: this torch does not know it.
    """
    if name in _OWN:
        return _OWN[name]
    namespace, packet, overload = name.split(".")
    try:
        found: Callable[..., Any] = getattr(
            getattr(getattr(torch.ops, namespace), packet), overload
        )
    except AttributeError as error:
        raise CaptureError(f"this torch ({torch.__version__}) has no op {name}") from error
    return found


def torch_value(value: TorchConstant) -> Any:
    """A dtype, device, layout or memory format by name."""
    if value.kind == "device":
        return torch.device(value.name)
    return getattr(torch, value.name)
