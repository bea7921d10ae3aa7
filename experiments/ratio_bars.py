"""The bars of the analytic choice: peak and CPU time of ``apply`` against the eager model.

Interleaved pairs of process CPU time, at least ten, and allocator peaks::

    python -m experiments.ratio_bars            # GPT-2 at 2048 within 0.25, ViT at 384 within 0.4

Each line gives the measured peak as a share of eager's, the median ratio of times with its 95 %
interval, and the largest difference of outputs.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tuner.measure.variables import QUIET

os.environ.update(QUIET)

import torch

from cost_models.select import mib
from experiments import subjects
from tuner import Applied, apply
from tuner.measure.backends import backend_for, resolve_device
from tuner.measure.compare import compare
from tuner.measure.protocol import Repeats
from tuner.measure.timing import interleave, ratio


@dataclass(frozen=True, slots=True)
class Bar:
    """A subject, its length, and the budget that its analytic plan must meet."""

    name: str
    factory: str
    kwargs: tuple[tuple[str, Any], ...]
    length: int
    budget: float
    others: tuple[tuple[int, int], ...] = ()
    """Lengths and batches that the same object must serve as well."""


BARS = (
    Bar(
        "GPT-2, 2 layers, S=2048, eager",
        "gpt2",
        (("layers", 2),),
        2048,
        0.25,
        others=((2047, 1), (2048, 3)),
    ),
    Bar("ViT-L width, 2 layers, 384 px, eager", "vit", (("layers", 2),), 384, 0.4),
)


def check_others(bar: Bar, device: str, fast: Applied) -> str:
    """Outputs at other lengths and batches, through the same object."""
    found = []
    for length, batch in bar.others:
        _, inputs = getattr(subjects, bar.factory)(**{**dict(bar.kwargs), "batch": batch})
        args, kwargs = inputs(length)
        args = tuple(tensor.to(device) for tensor in args)
        with torch.no_grad():
            expected = fast.model(*args, **kwargs)
        difference = compare(fast(*args, **kwargs), expected, 1e-5, 1e-5)
        found.append(
            f"length {length}, batch {batch}: {difference.reason or 'equal'} "
            f"({difference.max_abs:.2g})"
        )
    return "; ".join(found)


def measure(bar: Bar, device: str, pairs: int) -> str:
    """One line of the table."""
    backend = backend_for(device)
    model, inputs = getattr(subjects, bar.factory)(**dict(bar.kwargs))
    model = model.to(device)
    args, kwargs = inputs(bar.length)
    args = tuple(tensor.to(device) for tensor in args)
    fast = apply(model, args, kwargs, memory_budget=bar.budget)
    predicted = fast.predicted_peak_bytes

    def eager() -> Any:
        with torch.no_grad():
            return model(*args, **kwargs)

    expected, before = backend.peak(eager)
    found, after = backend.peak(lambda: fast(*args, **kwargs))
    difference = compare(found, expected, 1e-5, 1e-5)
    del expected, found
    samples = interleave(
        backend,
        {"eager": eager, "chunked": lambda: fast(*args, **kwargs)},
        Repeats(2, pairs, pairs),
    )
    others = check_others(bar, device, fast)
    times = ratio(samples["chunked"].decisive_ms, samples["eager"].decisive_ms)
    return (
        f"{bar.name}: budget {bar.budget}, peak {mib(after.activation_bytes)} of "
        f"{mib(before.activation_bytes)} = {after.activation_bytes / before.activation_bytes:.4f}x "
        f"(predicted {mib(predicted)}); time {times.median:.3f}x "
        f"({times.low:.3f} to {times.high:.3f}, {pairs} pairs); largest difference "
        f"{difference.max_abs:.2g}" + (f"; {others}" if others else "")
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line a bar."""
    parser = argparse.ArgumentParser(description="peak and time of the analytic choice")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--pairs", type=int, default=12)
    options = parser.parse_args(arguments)
    for bar in BARS:
        print(measure(bar, resolve_device(options.device), options.pairs), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
