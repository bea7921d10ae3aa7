"""The longest lengths under a cap, run for real on a device that is held to that cap.

The lengths are those that ``python -m experiments.longest`` finds by the memory model, which takes
minutes and needs no device. Here the allocator itself refuses what lies above the cap: eager runs
at its longest length and fails at the chunked one, where the plan runs::

    python -m experiments.device_longest evoformer --cap 8GiB --eager 608 --chunked 2344
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tuner.measure.variables import QUIET

os.environ.update(QUIET)

import torch
from torch.utils import _pytree as pytree

from cost_models.select import mib
from experiments.load import load_subject
from experiments.longest import PRESETS
from experiments.longest_search import Preset
from experiments.machine import plain_number
from search_space.budget import parse_budget
from search_space.errors import ConfigError
from tuner.measure.backends import backend_for, resolve_device
from tuner.measure.protocol import Backend
from tuner.runtime.apply import apply

SLACK = 0.08
"""Of the cap: what the allocator may reserve beyond it, since its blocks do not fit seamlessly."""


def held_to(device: str, extra_bytes: int) -> None:
    """Let the allocator refuse whatever goes so far beyond what is in use now."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(torch.device(device)).total_memory
    wanted = (torch.cuda.memory_reserved() + extra_bytes) / total
    torch.cuda.set_per_process_memory_fraction(min(wanted, 1.0))


def run(
    subject: str, device: str, cap_bytes: int, eager: int, chunked: int, tell: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Eager at its longest length, eager at the chunked one, and the plan there."""
    torch.backends.cudnn.allow_tf32 = False
    preset = PRESETS.get(subject, Preset(64, 16))
    made = load_subject(subject, arguments=preset.arguments, device=device)
    backend = backend_for(device)
    found = []
    for name, length in (("eager", eager), ("eager", chunked), ("chunked", chunked)):
        args, kwargs = made.inputs(length)
        call: Callable[..., Any] = made.model
        row: dict[str, Any] = {"subject": subject, "name": name, "length": length,
                               "cap_bytes": cap_bytes, "predicted_bytes": None}  # fmt: skip
        if name == "chunked":
            fast = apply(made.model, args, kwargs, memory_budget=cap_bytes)
            row["predicted_bytes"] = fast.predicted_peak_bytes
            call = fast
        if device.startswith("cuda"):
            held_to(device, int((1 + SLACK) * cap_bytes))
        row.update(_measured(partial(call, *args, **kwargs), backend))
        if device.startswith("cuda"):
            torch.cuda.set_per_process_memory_fraction(1.0)
        found.append(row)
        tell(line(row))
    return found


def _measured(call: Callable[[], Any], backend: Backend) -> dict[str, Any]:
    """The peak and the time of one call, or why there is none; whether all that came is finite."""
    with torch.no_grad():
        try:
            output, peak = backend.peak(call)
        except Exception as error:
            if not backend.is_out_of_memory(error):
                raise
            backend.settle()
            return {"status": "oom", "reason": str(error).splitlines()[0]}
        finite = all(
            bool(leaf.isfinite().all()) for leaf in pytree.tree_leaves(output)
            if isinstance(leaf, torch.Tensor) and leaf.is_floating_point()
        )  # fmt: skip
        del output
        backend.settle()
        spent, wall = backend.time_call(call)
    return {"status": "ok", "peak_bytes": peak.requested_bytes, "ms": spent, "wall_ms": wall,
            "reserved_bytes": peak.reserved_bytes, "finite": finite}  # fmt: skip


def line(row: dict[str, Any]) -> str:
    """One row in words."""
    head = f"{row['subject']}, {row['name']}, length {row['length']}: "
    if row["status"] != "ok":
        return f"{head}does not fit {mib(row['cap_bytes'])}: {row['reason'][:120]}"
    told = ""
    if row["predicted_bytes"] is not None:
        told = f", predicted {row['predicted_bytes'] / row['peak_bytes'] - 1:+.2%}"
    finite = "" if row["finite"] else ", OUTPUT NOT FINITE"
    return f"{head}peak {mib(row['peak_bytes'])}{told}, {row['ms'] / 1e3:.2f} s{finite}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and print; exit code 1 where the plan did not run."""
    parser = argparse.ArgumentParser(prog="python -m experiments.device_longest")
    parser.add_argument("subject")
    parser.add_argument("--cap", default="8GiB")
    parser.add_argument("--eager", type=int, required=True, help="a length that eager should hold")
    parser.add_argument("--chunked", type=int, required=True, help="a length that a plan should")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--save", type=Path, metavar="FILE", help="write the rows there as JSON")
    options = parser.parse_args(arguments)
    budget = parse_budget(plain_number(options.cap))
    if budget.absolute_bytes is None:
        raise ConfigError(f"--cap is an amount of memory such as 8GiB, got {options.cap!r}")
    device = resolve_device(options.device)
    rows = run(options.subject, device, budget.absolute_bytes, options.eager, options.chunked,
               lambda text: print(text, flush=True))  # fmt: skip
    if options.save is not None:
        options.save.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0 if rows[-1]["status"] == "ok" else 1


if __name__ == "__main__":
    raise SystemExit(main())
