"""What the processor at hand has for half precision, which decides what kernels allocate.

Libraries choose their kernels by the processor: with matrix units or vector instructions for a
dtype they pack arguments in blocks, without any they compute in float32. A plan's memory is checked
on the machine that it runs on, so that this machine's processor is the one to ask.
"""

from __future__ import annotations

import os
from enum import Enum
from functools import cache
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")


class HalfKernels(Enum):
    """Kinds of kernels for half precision."""

    TILES = "matrix units (AMX)"
    VECTORS = "vector instructions of the dtype"
    WIDENED = "a library's, which computes in float32"
    PLAIN = "the framework's own"


_LEVELS = (
    *("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI"),
    *("AVX512_CORE_BF16", "AVX512_CORE_FP16", "AVX512_CORE_AMX", "AVX512_CORE_AMX_FP16"),
)
"""Values of ``ONEDNN_MAX_CPU_ISA``, ascending; any other leaves everything."""

_NEEDS = {
    "bfloat16": (
        (HalfKernels.TILES, "amx_bf16", "AVX512_CORE_AMX"),
        (HalfKernels.VECTORS, "avx512_bf16", "AVX512_CORE_BF16"),
        (HalfKernels.WIDENED, "avx512bw", "AVX512_CORE"),
    ),
    "float16": (
        (HalfKernels.TILES, "amx_fp16", "AVX512_CORE_AMX_FP16"),
        (HalfKernels.VECTORS, "avx512_fp16", "AVX512_CORE_FP16"),
    ),
}
"""By dtype, best first: a kind, the processor's flag for it, and the level that allows it."""


def half_kernels(dtype: str) -> frozenset[HalfKernels]:
    """The kinds of kernels that may run for a dtype of half precision on this machine: one, or all
    where the processor cannot be told, or has instructions that were never measured."""
    flags = _cpu_flags()
    cap = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()
    if not flags:
        return frozenset(HalfKernels)
    allowed = _LEVELS[: _LEVELS.index(cap) + 1] if cap in _LEVELS else _LEVELS
    for kind, flag, level in _NEEDS[dtype]:
        if flag in flags and level in allowed:
            return frozenset({kind})
    return frozenset(HalfKernels if "avx_ne_convert" in flags else {HalfKernels.PLAIN})


def is_plain(dtype: str) -> bool:
    """Whether the framework's own kernels certainly run for a dtype of half precision."""
    return dtype in _NEEDS and half_kernels(dtype) == {HalfKernels.PLAIN}


@cache
def _cpu_flags() -> frozenset[str]:
    """The processor's features as Linux tells them; empty elsewhere."""
    try:
        text = _CPUINFO.read_text()
    except OSError:
        return frozenset()
    lines = (line.partition(":") for line in text.splitlines())
    return frozenset(next((value.split() for name, _, value in lines
                           if name.strip() == "flags"), ()))  # fmt: skip
