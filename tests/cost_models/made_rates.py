"""Rates of a CPU, in round figures near those of a small server's core."""

from __future__ import annotations

from dataclasses import replace

from cost_models.ceilings import default_ceilings
from cost_models.rates import OpRate, Rates

RATES = Rates(
    bandwidth=((2.0**19, 100e9), (2.0**26, 40e9)),
    rows=((1.0, 4.0), (64.0, 1.0)),
    columns=((1.0, 30.0), (16.0, 1.0)),
    across=((1.0, 2.0), (16.0, 1.0)),
    summed=((1.0, 10.0), (64.0, 1.0)),
    convolution=((1e5, 20e9), (1e8, 200e9)),
    gather_s=0.5e-9,
    ops={
        "plain": OpRate(1e-6),
        "view": OpRate(0.5e-6),
        "tanh": OpRate(2e-6, 2e-9),
        "softmax": OpRate(1e-6, 0.3e-9, 10e-9),
        "layer_norm": OpRate(4e-6, 0.1e-9, 20e-9),
        "convolution": OpRate(5e-6),
        "comparison": OpRate(1e-6, 0.3e-9),
    },
)

CPU = replace(default_ceilings("cpu"), matmul_flops_per_s=1e11, rates=RATES)
"""A CPU that was measured so."""
