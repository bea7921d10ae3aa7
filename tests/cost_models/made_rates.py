"""Rates of a CPU, in round figures near those of a small server's core."""

from __future__ import annotations

from dataclasses import replace

from cost_models.ceilings import Ceilings
from cost_models.rates import OpRate, Rates

RATES = Rates(
    bandwidth=((2.0**19, 100e9), (2.0**26, 40e9)),
    rows=((1.0, 4.0), (64.0, 1.0)),
    alone=((1.0, 8.0), (64.0, 1.0)),
    columns=((1.0, 30.0), (16.0, 1.0)),
    across=((1.0, 2.0), (16.0, 1.0)),
    summed=((1.0, 10.0), (64.0, 1.0)),
    gather_s=0.5e-9,
    attention=((1.0, 4.0), (64.0, 2.0)),
    convolution=((1e5, 20e9), (1e8, 200e9)),
    gather=((1e3, 0.5e-9),),
    aliased=((1e3, 2e-9),),
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

PLAIN = Ceilings(4e9, 20e9, 4 * 2**20, 1e11, 4e-6, 16.0)
"""A CPU of which nothing else is known."""

CPU = replace(PLAIN, rates=RATES)
"""A CPU that was measured so."""
