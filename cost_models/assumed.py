"""What is assumed of a device that nobody has measured: round figures of one of its kind."""

from __future__ import annotations

from dataclasses import replace

from cost_models.ceilings import Ceilings, filling_of
from cost_models.kinds import (
    ADDMM,
    ATTENTION,
    COMPARISON,
    CONVOLUTION,
    LAYER_NORM,
    PLAIN,
    SOFTMAX,
    VIEW,
)
from cost_models.rates import OpRate, Rates

# Of a server CPU, with the C library's allocator left as it is: it takes tensors above 32 MiB from
# the system anew in every call, and the system fills their pages with zeros. Between the figures of
# one thread and those of several, which wait for each other in every op.
_CPU_RATES = Rates(
    bandwidth=((2.0**19, 4e10), (2.0**21, 7e10), (2.0**23, 6e10), (2.0**25, 4e10), (2.0**26, 8e9)),
    rows=((1, 2.5), (4, 2.5), (8, 1.7), (16, 1.3), (32, 1.15), (64, 1.08), (256, 1)),
    alone=((1, 2.5), (4, 2.5), (8, 2), (16, 1.7), (32, 1.4), (64, 1.2), (256, 1.05)),
    columns=((1, 35), (4, 9), (8, 5), (16, 1.05), (64, 1)),
    across=((1, 1.5), (8, 1.8), (16, 1.05), (64, 1)),
    summed=((1, 9), (4, 5.5), (8, 1.9), (16, 1.25), (32, 1.15), (64, 1.08), (256, 1)),
    attention=((1, 4), (4, 2.3), (16, 1.7), (64, 1.4), (256, 1.25), (1024, 1.15)),
    gather_s=8e-10,
    convolution=((3e5, 3e10), (1e6, 1e11), (1e8, 1.5e11)),
    gather=((2.0**20, 8e-10), (2.0**22, 8e-10), (2.0**24, 1.2e-9), (2.0**25, 2e-9)),
    aliased=((2.0**20, 2e-9), (2.0**22, 3e-9), (2.0**24, 3.5e-9), (2.0**25, 7e-9)),
    ops={
        PLAIN: OpRate(2.5e-6),
        VIEW: OpRate(1e-6),
        "tanh": OpRate(2.5e-6, 2e-9),
        "exp": OpRate(2.5e-6, 6e-10),
        "sigmoid": OpRate(2.5e-6, 1.5e-10),
        "silu": OpRate(2.5e-6, 1.5e-10),
        "gelu": OpRate(7e-6, 2e-10),
        "erf": OpRate(2.5e-6, 1e-9),
        "sin": OpRate(2.5e-6, 1e-9),
        "cos": OpRate(2.5e-6, 1e-9),
        "log": OpRate(2.5e-6, 7.5e-10),
        "rsqrt": OpRate(2.5e-6, 1.5e-10),
        "group_norm": OpRate(5e-6, 2e-10),
        "upsample_bicubic2d": OpRate(1.2e-5, 6e-9),
        "upsample_bilinear2d": OpRate(4e-6, 1.2e-9),
        COMPARISON: OpRate(2.5e-6, 3e-10),
        SOFTMAX: OpRate(2.5e-6, 3e-10, 1e-8),
        LAYER_NORM: OpRate(4e-6, 1.2e-10, 2e-8),
        CONVOLUTION: OpRate(4e-5),
        ATTENTION: OpRate(5e-5),
        "linear": OpRate(6e-6),
        "matmul": OpRate(2e-5),
        "bmm": OpRate(2e-5),
        "baddbmm": OpRate(2e-5),
        ADDMM: OpRate(5e-6),
    },
)

# A large GPU. GPUs multiply half precision on units that single precision, without TF32, does not
# use.
_CUDA = Ceilings(2.5e12, 5e12, 40 * 2**20, 5e13, 6e-6, 40.0, filling_of(132))
_CUDA_HALF = replace(_CUDA, matmul_flops_per_s=5e14, half_rows=200.0)
_CPU = Ceilings(4e9, 20e9, 4 * 2**20, 1e11, 4e-6, 16.0, rates=_CPU_RATES)


def default_ceilings(device: str, dtype: str = "float32") -> Ceilings:
    """Ceilings to assume for a kind of device (``cpu`` or ``cuda``) that nobody has measured; any
    other is taken for a CPU.

    Args:
        dtype: of the model's products.
    """
    if device != "cuda":
        return _CPU
    return _CUDA_HALF if dtype in ("bfloat16", "float16") else _CUDA
