"""Comparing a chunked model's outputs with the unchunked one's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from search_space.capture import flatten_output


@dataclass(frozen=True, slots=True)
class Difference:
    """How far two outputs are apart.

    Attributes:
        max_abs: the largest absolute difference of any element.
        max_rel: the largest difference relative to the tensor's own largest value.
        reason: why the outputs count as different; empty where they agree.
    """

    max_abs: float
    max_rel: float
    reason: str

    @property
    def equal(self) -> bool:
        return not self.reason


def compare(found: Any, expected: Any, rtol: float, atol: float) -> Difference:
    """Compare two outputs of one structure, element by element.

    An element of a float tensor may differ by ``atol + rtol * m``, m being the largest value of its
    tensor: sums that are taken in another order differ by their largest terms. All else must be
    equal.
    """
    found_leaves = [leaf for leaf in flatten_output(found)[0] if leaf is not None]
    expected_leaves = [leaf for leaf in flatten_output(expected)[0] if leaf is not None]
    if len(found_leaves) != len(expected_leaves):
        return Difference(0, 0, f"{len(found_leaves)} outputs instead of {len(expected_leaves)}")
    max_abs = max_rel = 0.0
    reason = ""
    for place, (a, b) in enumerate(zip(found_leaves, expected_leaves, strict=True)):
        if not isinstance(b, torch.Tensor):
            if a != b:
                reason = reason or f"output {place} is {a!r} instead of {b!r}"
            continue
        if not isinstance(a, torch.Tensor) or a.shape != b.shape or a.dtype != b.dtype:
            reason = reason or f"output {place} has another shape or dtype"
            continue
        if b.numel() == 0:
            continue
        if not b.dtype.is_floating_point:
            if not torch.equal(a.to(b.device), b):
                reason = reason or f"output {place} ({b.dtype}) differs"
            continue
        wide = torch.promote_types(b.dtype, torch.float32)
        off, largest, odd = _difference(a, b, wide)
        max_abs = max(max_abs, off)
        max_rel = max(max_rel, off / largest if largest else 0.0)
        if odd:
            reason = reason or f"output {place} has NaN or infinity at other places"
        elif off > atol + rtol * largest:
            reason = reason or (
                f"output {place} differs by {off:.3g}, allowed is {atol + rtol * largest:.3g}"
            )
    return Difference(max_abs, max_rel, reason)


def _difference(a: torch.Tensor, b: torch.Tensor, wide: torch.dtype) -> tuple[float, float, bool]:
    """The largest difference, the largest expected value, and whether non-finite places differ.

    Works piece by piece, so that comparing needs little memory itself.
    """
    flat_a, flat_b = a.reshape(-1), b.reshape(-1)
    off = largest = 0.0
    odd = False
    for start in range(0, flat_b.numel(), 1 << 24):
        x = flat_a[start : start + (1 << 24)].to(device=b.device, dtype=wide)
        y = flat_b[start : start + (1 << 24)].to(wide)
        finite = torch.isfinite(y)
        odd = odd or not torch.equal(torch.isfinite(x), finite)
        odd = odd or not torch.equal(x[~finite].nan_to_num(), y[~finite].nan_to_num())
        if odd or not bool(finite.any()):
            continue
        x, y = x[finite], y[finite]
        off = max(off, float((x - y).abs().max()))
        largest = max(largest, float(y.abs().max()))
    return off, largest, odd
