"""What every subject is, and weights that matter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

Inputs = Callable[[int], tuple[tuple[Any, ...], dict[str, Any]]]
Subject = tuple[torch.nn.Module, Inputs]
"""A model, and what gives its arguments and keyword arguments for a length."""


def redraw_zeros(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Draw what the library sets to one constant (zero, one, 1e-6) anew, from a fixed seed.

    A little noise is added to such weights, biases and running statistics; other buffers are left
    alone, since they may be masks or tables.
    """
    generator = torch.Generator().manual_seed(seed)
    running = [
        statistic
        for module in model.modules()
        if isinstance(module, torch.nn.modules.batchnorm._NormBase)
        for statistic in (module.running_mean, module.running_var)
        if statistic is not None
    ]
    with torch.no_grad():
        for tensor in (*model.parameters(), *running):
            if tensor.is_floating_point() and bool((tensor == tensor.flatten()[0]).all()):
                noise = torch.randn(tensor.shape, generator=generator) * 0.02
                tensor.add_(noise.to(tensor))
    return model
