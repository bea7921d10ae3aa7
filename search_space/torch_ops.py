"""Between a graph's plain data and torch's own ops and values."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import torch

from search_space import scatters
from search_space.causal_attention import causal_attention
from search_space.errors import CaptureError
from search_space.graph import TorchConstant

_OWN: Mapping[str, Callable[..., Any]] = {
    "getitem": operator.getitem,
    "autochunk.causal_attention.default": causal_attention,
    "aten.copy.default": scatters.copy,
    "aten.slice_scatter.default": scatters.slice_scatter,
    "aten.select_scatter.default": scatters.select_scatter,
    "aten.diagonal_scatter.default": scatters.diagonal_scatter,
}
"""Ops that are not torch's, or that run in another way than torch's."""


@contextlib.contextmanager
def without_autocast() -> Iterator[None]:
    """Ops run in the dtypes of their arguments: what autocast asks for stands in a capture."""
    with contextlib.ExitStack() as stack:
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


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


_KINDS: Mapping[type, str] = {
    torch.dtype: "dtype",
    torch.device: "device",
    torch.layout: "layout",
    torch.memory_format: "memory_format",
}


def torch_constant(value: Any) -> TorchConstant | None:
    """A dtype, device, layout or memory format as plain data; None for anything else."""
    kind = _KINDS.get(type(value))
    return None if kind is None else TorchConstant(kind, str(value).removeprefix("torch."))


def torch_value(value: TorchConstant) -> Any:
    """The inverse of :func:`torch_constant`."""
    if value.kind == "device":
        return torch.device(value.name)
    return getattr(torch, value.name)
