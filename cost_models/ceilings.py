"""What a device can do: the ceilings of the roofline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cost_models.rates import Rates, rates_from_plain

CEILINGS_VERSION = 3
"""Raised when more is measured; a campaign that is resumed then measures its device anew."""


@dataclass(frozen=True, slots=True)
class Ceilings:
    """A device's speed limits.

    Attributes:
        copy_bytes_per_s: bytes read and written by elementwise ops on tensors too large for the
            cache, the cost of fresh memory included.
        cache_bytes_per_s: the same for tensors that fit in ``cache_bytes``.
        cache_bytes: working set up to which ``cache_bytes_per_s`` holds.
        matmul_flops_per_s: floating-point operations of a large matrix product.
        launch_s: time of an op on almost no data.
        half_rows: rows at which a matrix product runs at half of its rate; narrow products waste
            what they load.
        filling: elements that a matrix product's output must have to keep all of the device busy,
            see :func:`filling_of`; 0 where few cores share the work.
        rates: what kinds of op were measured, or are assumed, to cost; None where the figures above
            are all that is known (on GPUs).
    """

    copy_bytes_per_s: float
    cache_bytes_per_s: float
    cache_bytes: int
    matmul_flops_per_s: float
    launch_s: float
    half_rows: float
    filling: int = 0
    rates: Rates | None = None

    def __post_init__(self) -> None:
        if min(
            self.copy_bytes_per_s, self.cache_bytes_per_s, self.matmul_flops_per_s, self.launch_s
        ) <= 0:
            raise ValueError(f"ceilings must be positive, got {self}")


def ceilings_from_plain(row: Mapping[str, Any]) -> Ceilings:
    """The inverse of :func:`dataclasses.asdict`, as far as JSON keeps it.

    Raises:
        KeyError, TypeError, ValueError: something is missing, unknown or impossible.
    """
    rates = row.get("rates")
    return Ceilings(**{**row, "rates": None if rates is None else rates_from_plain(rates)})


TILE = 128 * 32
"""Elements of a product's output that one multiprocessor of a GPU computes at a time. Where there
are fewer tiles than multiprocessors, the library takes smaller ones, and loads more for each."""


def filling_of(multiprocessors: int) -> int:
    """``Ceilings.filling`` of a GPU. On one of 132 multiprocessors, outputs of 8 batches of 12
    columns took 4.0 ms with 16384 rows and as long in 4 parts, but 2.4 times as long in 16
    (UNet, width 96; :mod:`experiments.device_kernels`)."""
    return multiprocessors * TILE
