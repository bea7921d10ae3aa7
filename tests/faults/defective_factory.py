"""A model with an activation that misbehaves at certain numbers of rows, as a bad kernel may.

Whole it is an ordinary GELU. In chunks of the sizes below it does what their names say.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

ROWS = 48
HANG, CRASH, NAN, WRONG, HUNGRY, REFUSED, SPOILS = 24, 16, 12, 8, 6, 3, 4
HUGE_BYTES = 2**34
"""More than the test allows a measuring process."""

_calls = 0


@torch.library.custom_op("autochunk_faults::act", mutates_args=(), tags=(torch.Tag.pointwise,))
def act(x: torch.Tensor) -> torch.Tensor:
    """GELU, or a defect."""
    y = nn.functional.gelu(x)
    match x.shape[-2]:
        case 24:
            time.sleep(600)
        case 16:
            ctypes.string_at(0)
        case 12:
            y[0, 0] = float("nan")
        case 8:
            y[0, 0] += 1.0
        case 6:
            bytearray(HUGE_BYTES)
        case 3:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        case 4:
            _spoil_at_the_end()
    return y


@act.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


def _spoil_at_the_end() -> None:
    """Write into the model's weights once its own outputs are done: whoever runs next suffers."""
    global _calls
    _calls += 1
    if _calls == ROWS // SPOILS:
        with torch.no_grad():
            # (this call has read it for the last time)
            _made[-1].wide.weight.add_(1.0)


class Defective(nn.Module):
    """Wide inside, so that rows are worth chunking."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Linear(16, 512)
        self.narrow = nn.Linear(512, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = x + self.narrow(act(self.wide(x)))
        return y


_made: list[Defective] = []


def defective() -> tuple[nn.Module, Callable[[int], Any]]:
    """The model, of which the activation knows."""
    torch.manual_seed(0)
    _made.append(Defective())
    return _made[-1], lambda length: ((torch.randn(length, 16),), {})
