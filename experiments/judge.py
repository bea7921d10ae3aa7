"""Whether a chunked model's outputs are right: against the eager model's, or an fp32 reference."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.utils import _pytree as pytree

from search_space.capture import flatten_output
from search_space.errors import ConfigError
from tuner.factory import Inputs
from tuner.measure.compare import compare

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
"""The largest difference allowed, as a share of a tensor's largest value."""

MORE_RMS, MORE_MAX = 1.1, 2.0
"""In half precision a chunked model's error may be this many times the unchunked model's own: root
mean square, and at the worst element, whose extreme depends on chance but not by that much."""


@dataclass(frozen=True, slots=True)
class Judged:
    """How far outputs are off, in the judge's unit, and why they count as wrong (else empty)."""

    error: float
    reason: str = ""


class Judge(Protocol):
    """Compares one output with what it should be. ``unit`` names what ``error`` counts."""

    unit: str

    def __call__(self, found: Any) -> Judged: ...


class Exact:
    """Against the eager model's outputs: within a tolerance of each tensor's largest value, other
    values equal, in the same structure. The error is relative to the tensor's largest value."""

    unit = "of largest value"

    def __init__(self, expected: Any, tolerance: float) -> None:
        self._expected = expected
        self._spec = flatten_output(expected)[1]
        self._tolerance = tolerance

    def __call__(self, found: Any) -> Judged:
        if flatten_output(found)[1] != self._spec:
            return Judged(float("inf"), "the outputs have another structure")
        difference = compare(found, self._expected, self._tolerance, 0.0)
        return Judged(difference.max_rel, difference.reason)


class Half:
    """Against an fp32 reference: the error may be little more than the unchunked model's own.

    The error is that of the worst output, as a multiple of the unchunked model's.
    """

    unit = "of own error"

    def __init__(self, own: Any, reference: Any) -> None:
        self._own, self._spec = _tensors(own), flatten_output(own)[1]
        self._reference = [t.float() for t in _tensors(reference)]
        if len(self._own) != len(self._reference):
            raise ConfigError("the model has other outputs in fp32: nothing can be compared")

    def __call__(self, found: Any) -> Judged:
        if flatten_output(found)[1] != self._spec:
            return Judged(float("inf"), "the outputs have another structure")
        worst, reason = 0.0, ""
        tensors = _tensors(found)
        for place, (made, own, ideal) in enumerate(
            zip(tensors, self._own, self._reference, strict=True)
        ):
            if made.shape != own.shape or made.dtype != own.dtype:
                return Judged(float("inf"), f"output {place} has another shape or dtype")
            if not own.dtype.is_floating_point:
                if not torch.equal(made, own):
                    return Judged(float("inf"), f"output {place} ({own.dtype}) differs")
                continue
            if not torch.equal(torch.isfinite(made), torch.isfinite(own)):
                return Judged(float("inf"), f"output {place}: NaN or infinity at other places")
            mean, most = _error(made, ideal)
            own_mean, own_most = _error(own, ideal)
            ratio = mean / own_mean if own_mean else (float("inf") if mean else 0.0)
            worst = max(worst, ratio)
            if mean > MORE_RMS * own_mean or most > MORE_MAX * own_most:
                reason = reason or (
                    f"output {place}: rms error {mean:.3g} (own {own_mean:.3g}), "
                    f"largest {most:.3g} (own {own_most:.3g})"
                )
        return Judged(worst, reason)


def _tensors(output: Any) -> list[torch.Tensor]:
    return [leaf for leaf in flatten_output(output)[0] if isinstance(leaf, torch.Tensor)]


def _error(made: torch.Tensor, ideal: torch.Tensor) -> tuple[float, float]:
    """Root mean square and largest of the differences, over finite places."""
    off = made.float() - ideal
    off = off[torch.isfinite(off)]
    if not off.numel():
        return 0.0, 0.0
    return float(off.square().mean().sqrt()), float(off.abs().max())


def make_judge(model: torch.nn.Module, given: Inputs, dtype: torch.dtype) -> Judge:
    """The judge for one call, made from eager runs.

    Raises:
        ConfigError: the model itself fails, or gives other outputs when it is run again.
    """
    expected = run_eager(model, given)
    again = compare(run_eager(model, given), expected, 1e-7, 0.0)
    if not again.equal:
        raise ConfigError(
            f"the model gives other outputs when it is run again ({again.reason}), so that nothing "
            "can be compared; turn sampling and other randomness off"
        )
    if not _varies(_tensors(expected)):
        raise ConfigError(
            "every output is constant or not finite, so that a comparison would show nothing; draw "
            "weights that are zero anew (experiments.subjects.redraw_zeros does)"
        )
    if dtype in TOLERANCE:
        return Exact(expected, TOLERANCE[dtype])
    wide = copy.deepcopy(model).float()
    inputs: Inputs = pytree.tree_map_only(
        torch.Tensor, lambda t: t.float() if t.is_floating_point() else t, given
    )
    return Half(expected, run_eager(wide, inputs))


def _varies(tensors: Sequence[torch.Tensor]) -> bool:
    for tensor in tensors:
        finite = tensor[torch.isfinite(tensor)] if tensor.is_floating_point() else tensor
        if finite.numel() and bool((finite != finite.reshape(-1)[0]).any()):
            return True
    return False


def run_eager(model: torch.nn.Module, given: Inputs) -> Any:
    """The eager model's output, without gradients."""
    args, kwargs = given
    try:
        with torch.no_grad():
            return model(*args, **kwargs)
    except Exception as error:  # whatever the user's model raises
        text = str(error).strip().splitlines()
        raise ConfigError(
            f"the eager model itself fails on these inputs: {type(error).__name__}: "
            f"{text[0] if text else 'no message'}"
        ) from error
