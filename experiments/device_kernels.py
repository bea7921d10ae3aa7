"""Which kernels a subject's ways spend their time in, on a GPU.

Each way is prepared in a process of its own, all at once, and profiled while no other is::

    python -m experiments.device_kernels esmfold_block eager compile 'ours 0.5 compiled'
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tuner.measure.variables import QUIET

os.environ.update(QUIET)

import torch
from torch.profiler import ProfilerActivity, profile

from experiments.device_bars import GPU_LENGTHS, on_device
from experiments.reach_session import bar
from experiments.rival_variants import build

CALLS = 3
"""Calls that are profiled."""


def kernels(key: str, name: str, dtype: str, lock: Path) -> list[dict[str, Any]]:
    """Device time and launches of each kernel in one call of a way, longest first."""
    torch.backends.cudnn.allow_tf32 = False
    row = on_device(bar(key), "cuda", length=GPU_LENGTHS[key], dtype=getattr(torch, dtype))
    call = build(row, name).call
    for _ in range(CALLS):
        call()
    with _alone(lock):
        call()
        torch.cuda.synchronize()
        with profile(activities=[ProfilerActivity.CUDA]) as found:
            for _ in range(CALLS):
                call()
            torch.cuda.synchronize()
    rows = [
        {"kernel": event.key, "ms": event.self_device_time_total / 1e3 / CALLS,
         "launches": event.count / CALLS}
        for event in found.key_averages() if event.self_device_time_total > 0
    ]  # fmt: skip
    return sorted(rows, key=lambda one: -one["ms"])


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def table(name: str, rows: Sequence[dict[str, Any]], top: int) -> str:
    """The longest kernels of a way as text."""
    total = sum(row["ms"] for row in rows)
    launches = sum(row["launches"] for row in rows)
    lines = [f"## {name}: {total:.2f} ms in kernels, {launches:.0f} launches"]
    lines += [
        f"{row['ms']:8.3f} ms {row['launches']:6.0f}  {row['kernel'][:150]}" for row in rows[:top]
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table a way; exit code 1 where one failed."""
    options = _parser().parse_args(arguments)
    if options.lock is not None:
        (name,) = options.ways
        print(json.dumps(kernels(options.subject, name, options.dtype, options.lock)))
        return 0
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        common = [sys.executable, "-m", "experiments.device_kernels", options.subject]
        more = ["--dtype", options.dtype, "--lock", str(Path(folder) / "lock")]
        running = {
            name: subprocess.Popen(
                [*common, name, *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
            for name in options.ways
        }
        for name, process in running.items():
            out, problem = process.communicate()
            if process.returncode:
                failed = True
                last = problem.strip().splitlines()[-1:] or [f"exit code {process.returncode}"]
                print(f"## {name}: {last[0]}", flush=True)
            else:
                print(table(name, json.loads(out.splitlines()[-1]), options.top), flush=True)
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.device_kernels", description="Kernel times of a subject's ways."
    )
    parser.add_argument("subject", help=f"of {', '.join(GPU_LENGTHS)}")
    parser.add_argument("ways", nargs="+", metavar="WAY")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--top", type=int, default=14, help="kernels shown a way")
    parser.add_argument("--lock", type=Path, help=argparse.SUPPRESS)  # set for its own processes
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
