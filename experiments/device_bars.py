"""The measured subjects on a device, at lengths where a GPU's activations matter."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch
from torch.utils import _pytree as pytree

from experiments.subjects import BARS, TINY, TINY_LENGTHS, Bar, Subject

GPU_LENGTHS: Mapping[str, int] = MappingProxyType(
    {
        "gpt2": 8192,
        "vit": 1024,
        "esmfold_block": 512,
        "unet": 128,
        "unet_sdpa": 256,
        "llama": 16384,
        "bert": 8192,
        "evoformer": 384,
    }
)
"""Per subject, a length at which the eager model takes from half a GiB to some ten GiB."""

GPU_BUDGETS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "vit": ("0.06",),
        "esmfold_block": (
            "0.35", "0.5", "0.6",
            "0.2 kept compiled", "0.35 kept compiled", "1.0 kept compiled",
        ),
        "unet": ("0.0049", "0.5 kept compiled", "1.0 kept compiled"),
        "unet_sdpa": ("0.7",),
        "llama": ("0.01",),
        "bert": ("0.6",),
        "evoformer": ("0.35", "0.5"),
    }
)
"""Budgets beside that of the table: more points of the frontier, those beside ``torch.compile``
included. Each as :mod:`experiments.rival_variants` calls it behind ``ours``; it is run compiled as
well, or so alone where that is said."""


def tiny_row(key: str) -> Bar:
    """A toy of the subject, to try what measures it."""
    (row,) = (row for row in BARS if row.key == key)
    return replace(row, make=TINY[key], length=TINY_LENGTHS[key][0])


def on_device(
    row: Bar, device: str, *, length: int | None = None, dtype: torch.dtype = torch.float32
) -> Bar:
    """The row with its model and inputs on a device and in a dtype, at another length."""

    @functools.wraps(row.make)  # the signature says which options the subject takes
    def make(**options: Any) -> Subject:
        model, inputs = row.make(**options)

        def moved(size: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
            args, kwargs = pytree.tree_map_only(torch.Tensor, move, inputs(size))
            return args, kwargs

        return model.to(device=device, dtype=dtype), moved

    def move(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(device, dtype if tensor.is_floating_point() else tensor.dtype)

    return replace(row, make=make, length=length or row.length)


def subject(key: str) -> Subject:
    """The subject of a row, without TF32; a factory for campaigns."""
    torch.backends.cudnn.allow_tf32 = False
    (row,) = (row for row in BARS if row.key == key)
    return row.make()
