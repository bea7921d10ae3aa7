"""What a kernel takes beside its output, told at the call itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from search_space.graph import Argument
from search_space.layout import Layout
from search_space.workspace import Call, Operand, workspace_bytes


def called_bytes(
    op: Any,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    made: torch.Tensor,
    device: str | None = None,
) -> int:
    """Bytes that an op takes beside what it gives.

    Args:
        op: an operator of ``torch.ops``.
        made: its (first) output.
        device: where it runs, if not where ``made`` is.
    """
    operands = tuple(
        Operand(
            place,
            Layout(tuple(value.shape), tuple(value.stride())),
            str(value.dtype).removeprefix("torch."),
        )
        for place, value in enumerate(args)
        if isinstance(value, torch.Tensor)
    )
    call = Call(
        operands,
        tuple(map(_plain, args)),
        tuple(made.shape),
        str(made.dtype).removeprefix("torch."),
        device or made.device.type,
        tuple((name, _plain(value)) for name, value in kwargs.items()),
    )
    return workspace_bytes(str(op), call, elementwise=torch.Tag.pointwise in op.tags)


def _plain(value: Any) -> Argument:
    """An argument as rules read it: tensors stand among the operands."""
    if isinstance(value, (list, tuple)):
        return tuple(map(_plain, value))
    return value if isinstance(value, (bool, int, float, str)) else None
