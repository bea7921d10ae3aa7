"""What a device can do: the ceilings of the roofline."""

from __future__ import annotations

from dataclasses import dataclass


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
    """

    copy_bytes_per_s: float
    cache_bytes_per_s: float
    cache_bytes: int
    matmul_flops_per_s: float
    launch_s: float
    half_rows: float

    def __post_init__(self) -> None:
        if min(
            self.copy_bytes_per_s, self.cache_bytes_per_s, self.matmul_flops_per_s, self.launch_s
        ) <= 0:
            raise ValueError(f"ceilings must be positive, got {self}")


# Round figures of a small server CPU and of a large GPU; campaigns measure their own device's.
_DEFAULTS = {
    "cpu": Ceilings(4e9, 20e9, 4 * 2**20, 1e11, 4e-6, 16.0),
    "cuda": Ceilings(2.5e12, 5e12, 40 * 2**20, 2e14, 6e-6, 64.0),
}


def default_ceilings(device: str) -> Ceilings:
    """Ceilings to assume for a kind of device (``cpu`` or ``cuda``) that nobody has measured."""
    return _DEFAULTS.get(device, _DEFAULTS["cpu"])
