"""The longest length that fits in a given memory, unchunked and chunked.

By the memory model, from one symbolic capture evaluated at each length, so that no tensor of a
length that does not fit is ever made::

    python -m experiments.longest gpt2 --cap 8GiB --seconds 120
    python -m experiments.longest package.module:factory --start 64 --step 8 --cap 2GiB

The cap is of activations: what is alive beyond weights and inputs; ``--total`` counts those too.
Lengths are searched by doubling and bisection, and the plan found at the longest one is worked out
from scratch again. Real runs in a process of their own then confirm both peaks, each at the longest
length that this machine has the memory and the time for.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from tuner.measure.variables import QUIET

os.environ.update(QUIET)

from rich.table import Table

from cost_models.select import mib
from experiments.load import DTYPES, full_name, load_subject, parse_arguments
from experiments.longest_confirm import Confirmed, confirm
from experiments.longest_search import Mode, Preset, Search
from experiments.machine import environment, plain_number
from experiments.sized import Sized
from search_space.budget import parse_budget
from search_space.errors import AutoChunkError, ConfigError
from tuner.measure.confine import available_bytes
from tuner.terminal import make_console

PRESETS: Mapping[str, Preset] = {
    # the position table must have a row for every token
    "gpt2": Preset(512, 64, 131072, {"layers": 2, "positions": 131072}, 11.7),
    "evoformer": Preset(64, 8, 1 << 16, {}, 3.2),
    "esmfold_block": Preset(64, 8, 1 << 16),
    "unet2d_condition": Preset(32, 8, 1 << 12),
    "vit": Preset(192, 16, 1 << 16),
}

def main(arguments: Sequence[str] | None = None) -> int:
    """Search, confirm and report; exit code 1 where a bar is missed or outputs were wrong."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(given)
    try:
        return _run(options, given)
    except AutoChunkError as error:
        print(f"longest: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def _preset(options: argparse.Namespace) -> Preset:
    known = PRESETS.get(options.subject.rpartition(":")[2], Preset(64, 16))
    preset = Preset(
        known.start if options.start is None else options.start,
        known.step if options.step is None else options.step,
        known.most if options.most is None else options.most,
        {**known.arguments, **parse_arguments(options.args)},
        known.bar if options.bar is None else options.bar,
    )
    if preset.start < 2 or preset.step < 1 or preset.most < preset.start:
        raise ConfigError(
            f"need 2 <= start <= most and step >= 1, got {preset.start}, {preset.most} and "
            f"{preset.step}"
        )
    return preset


def _run(options: argparse.Namespace, given: Sequence[str]) -> int:
    preset = _preset(options)
    budget = parse_budget(plain_number(options.cap))
    if budget.absolute_bytes is None:
        raise ConfigError(f"--cap is an amount of memory such as 8GiB, got {options.cap!r}")
    subject = load_subject(
        options.subject, arguments=preset.arguments, dtype=options.dtype, inputs=options.inputs
    )
    sized = Sized(subject, preset.start)
    console = make_console()
    loud = make_console(stderr=True)

    def note(text: str) -> None:
        loud.print(text, highlight=False, markup=False)

    def fixed(length: int) -> int:
        if not options.total:
            return 0
        return sized.weight_bytes + sized.input_bytes(length)

    search = Search(
        sized, budget.absolute_bytes, preset, slowdown=options.slowdown,
        seconds=options.search_seconds, fixed_bytes=fixed, note=note,
    )  # fmt: skip
    modes = search.run()
    runs: tuple[Confirmed, ...] = ()
    if not options.no_run:
        spec = {
            "factory": full_name(options.subject), "arguments": dict(preset.arguments),
            "dtype": options.dtype, "inputs": options.inputs, "example": preset.start,
            "threads": options.threads, "memory_bytes": int(0.9 * available_bytes()),
        }  # fmt: skip
        log = Path(options.log)
        runs = confirm(search, modes, spec, options.seconds, log)
    ratio = _ratio(modes)
    console.print(_modes_table(modes, options.cap, options.subject))
    for name, why in search.refused.items():
        console.print(f"note: {name} was not possible {why}", highlight=False, markup=False)
    if runs:
        console.print(_runs_table(runs))
    met = preset.bar is None or (ratio is not None and ratio >= preset.bar)
    wrong = any(run.problem for run in runs)
    text = "unknown" if ratio is None else f"{ratio:.2f}x"
    bar = "" if preset.bar is None else f" (bar {preset.bar:g}x: {'met' if met else 'MISSED'})"
    console.print(f"chunked over eager: {text}{bar}", highlight=False)
    if options.save is not None:
        record = {
            "subject": options.subject, "arguments": dict(preset.arguments), "cap": options.cap,
            "total": options.total, "dtype": options.dtype, "bar": preset.bar, "ratio": ratio,
            "weight_bytes": sized.weight_bytes,
            "modes": [asdict(mode) for mode in modes], "runs": [asdict(run) for run in runs],
            "refused": search.refused, "environment": environment(),
            "command": shlex.join(["python", "-m", "experiments.longest", *given]),
        }  # fmt: skip
        path = Path(options.save)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0 if met and not wrong else 1


def _ratio(modes: Sequence[Mode]) -> float | None:
    """The longer of the two chunked modes over eager; None where eager's length is unknown."""
    lengths = {mode.name: mode.found.length for mode in modes}
    best = max(lengths["chunked"], lengths["chunked, min"])
    return best / lengths["eager"] if lengths["eager"] and best else None


def _modes_table(modes: Sequence[Mode], cap: str, subject: str) -> Table:
    table = Table(
        title=f"{subject}: longest length within {cap}, by the memory model", title_justify="left"
    )
    for column in ("", "length", "over eager", "peak", "predicted time", "choices", "remark"):
        table.add_column(column, justify="left" if column in ("", "remark") else "right")
    eager = modes[0].found.length
    for mode in modes:
        over = f"{mode.found.length / eager:.2f}x" if eager else "?"
        remarks = [f"stopped by the {mode.found.stopped}"] if mode.found.stopped else []
        remarks += ["plan found at another length"] if mode.carried else []
        table.add_row(
            mode.name, str(mode.found.length), over, mib(mode.peak_bytes),
            f"{mode.slowdown:.2f}x" if mode.plan is not None else "", str(mode.chunks or ""),
            "; ".join(remarks),
        )  # fmt: skip
    return table


def _runs_table(runs: Sequence[Confirmed]) -> Table:
    table = Table(title="confirmed by real runs", title_justify="left")
    for column in ("", "length", "predicted", "measured", "off", "wall", "error", "remark"):
        table.add_column(column, justify="left" if column in ("", "remark") else "right")
    for run in runs:
        off = run.predicted_bytes / run.measured_bytes - 1 if run.measured_bytes else 0.0
        table.add_row(
            run.name, str(run.length), mib(run.predicted_bytes), mib(run.measured_bytes),
            f"{off:+.2%}", f"{run.wall_s:.1f} s",
            "" if run.error is None else f"{run.error:.2g}", run.problem,
        )  # fmt: skip
    return table


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.longest",
        description="The longest length within a memory cap, unchunked and chunked.",
    )
    parser.add_argument(
        "subject", help="a subject of experiments/subjects.py, or package.module:function"
    )
    parser.add_argument("--cap", default="8GiB", help="of activations, such as 8GiB")
    parser.add_argument("--total", action="store_true", help="count weights and inputs as well")
    parser.add_argument(
        "--args", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
        help="keyword arguments of the factory, values as in YAML",
    )  # fmt: skip
    parser.add_argument("--inputs", metavar="MODULE:FUNCTION")
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="fp32")
    parser.add_argument("--start", type=int, help="where the search starts; captured there")
    parser.add_argument("--step", type=int, help="lengths are start plus multiples of it")
    parser.add_argument("--most", type=int, help="no length is longer")
    parser.add_argument("--slowdown", type=float, default=1.5, help="of minimum mode, predicted")
    parser.add_argument("--bar", type=float, help="the ratio to reach")
    parser.add_argument("--seconds", type=float, default=120.0, help="of a confirming run")
    parser.add_argument("--search-seconds", type=float, default=600.0, help="of each search")
    parser.add_argument("--threads", type=int, default=2, help="of the confirming runs")
    parser.add_argument("--no-run", action="store_true", help="predict only")
    parser.add_argument("--save", metavar="FILE", help="write the result there as JSON")
    parser.add_argument("--log", default="runs/longest.log", help="what the runs print")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
