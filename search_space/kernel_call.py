"""One op about to run, as far as its memory depends on it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from search_space.graph import ITEM_BYTES, Argument
from search_space.layout import Layout, is_channels_last, is_contiguous, is_dense


@dataclass(frozen=True, slots=True)
class Operand:
    """A tensor argument: where it stands, its layout and its dtype, and whether it is a parameter
    itself, which may ask for a gradient (what is computed of one does not)."""

    position: int
    layout: Layout
    dtype: str
    is_parameter: bool = False

    @property
    def nbytes(self) -> int:
        return self.layout.numel * ITEM_BYTES[self.dtype]


@dataclass(frozen=True, slots=True)
class Call:
    """One op about to run: tensor arguments in order, all arguments, output shape and dtype."""

    operands: tuple[Operand, ...]
    args: tuple[Argument, ...]
    shape: tuple[int, ...]
    dtype: str
    device: str
    kwargs: tuple[tuple[str, Argument], ...] = ()

    def argument(self, position: int, name: str, default: Argument = None) -> Argument:
        """An argument by position or keyword, or the op's default."""
        if position < len(self.args):
            return self.args[position]
        return dict(self.kwargs).get(name, default)


Workspace = Callable[[Call], int]
"""Bytes that an op allocates and frees beside its output."""


def on_cpu(rule: Workspace) -> Workspace:
    """What a kernel of the CPU's own takes, which elsewhere is another one."""

    def workspace(call: Call) -> int:
        return rule(call) if call.device.startswith("cpu") else 0

    return workspace


def copy_bytes(operand: Operand) -> int:
    """The row-major copy of an argument that does not lie so."""
    return 0 if is_contiguous(operand.layout) else operand.nbytes


def image_copy_bytes(operand: Operand) -> int:
    """The copy of an image that lies neither in rows nor with its channels last."""
    layout = operand.layout
    in_order = is_contiguous(layout) or (is_channels_last(layout) and is_dense(layout))
    return 0 if in_order else operand.nbytes


def contiguous_first(call: Call) -> int:
    """Of kernels that read their first argument row-major."""
    return copy_bytes(call.operands[0])


def image_first(call: Call) -> int:
    """Of kernels that read an image, their first argument, in rows or with its channels last."""
    return image_copy_bytes(call.operands[0])


def cpu_threads() -> int:
    """Threads that CPU kernels use: OMP_NUM_THREADS, or the cores that this process may use."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return int(wanted) if wanted.isdigit() and int(wanted) else len(os.sched_getaffinity(0))
