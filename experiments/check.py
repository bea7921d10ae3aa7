"""A conformance suite that anybody can point at a model.

Captures the model, runs every candidate class at chunk sizes that divide badly, one at a time and
in random combinations, and compares outputs with the eager model's and peaks with the predicted
ones::

    python -m experiments.check package.module:factory --seq-len 128 --other-len 97
    python -m experiments.check gpt2 --args layers=1 width=64 heads=4 --seq-len 64 --dtype bf16

The factory is that of a campaign: it returns ``(model, inputs)``, where ``inputs(length)`` gives
``(args, kwargs)``; a factory that returns the model alone goes with ``--inputs``. The exit code is
1 where any output was wrong, 2 where nothing could be checked.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from tuner.measure.variables import QUIET

os.environ.update(QUIET)

from rich.console import Console
from rich.table import Table

from cost_models.select import mib
from experiments.conformance import Check
from experiments.load import DTYPES, load_subject, parse_arguments
from experiments.verdicts import MEMORY_ERROR, SEVERITY, Report, Row
from search_space.errors import AutoChunkError, ConfigError
from tuner.measure.backends import backend_for, resolve_device
from tuner.terminal import make_console


def main(arguments: Sequence[str] | None = None) -> int:
    """Check a model; see the module for exit codes."""
    options = _parser().parse_args(arguments)
    try:
        report = _check(options)
    except AutoChunkError as error:
        print(f"check: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print_report(make_console(), report, options.rows)
    return 1 if report.wrong or (options.strict and report.peaks_off) else 0


def _check(options: argparse.Namespace) -> Report:
    for name in ("seq_len", "other_len", "max_classes", "rows"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name.replace('_', '-')} must be positive, got {value}")
    device = resolve_device(options.device)
    subject = load_subject(
        options.factory,
        arguments=parse_arguments(options.args),
        dtype=options.dtype,
        device=device,
        inputs=options.inputs,
    )
    check = Check(
        subject,
        backend_for(device),
        options.seq_len,
        other=options.other_len,
        max_classes=options.max_classes,
        seconds=options.seconds,
        combinations=options.combinations,
        thorough=options.thorough,
        seed=options.seed,
    )
    return check.run()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.check",
        description="Run every candidate of a model at awkward chunk sizes and compare the outputs "
        "with the eager model's, and the peaks with the predicted ones.",
    )
    parser.add_argument(
        "factory", help="package.module:function, file.py:function, or a subject's bare name"
    )
    parser.add_argument("--seq-len", type=int, required=True, metavar="N")
    parser.add_argument(
        "--other-len", type=int, metavar="M", help="a length at which the same plans must hold"
    )
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="fp32")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:N or auto")
    parser.add_argument(
        "--args", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
        help="keyword arguments of the factory, values as in YAML",
    )  # fmt: skip
    parser.add_argument(
        "--inputs", metavar="MODULE:FUNCTION",
        help="example inputs by length, for a factory that returns the model alone",
    )  # fmt: skip
    parser.add_argument("--max-classes", type=int, metavar="K", help="only those that save most")
    parser.add_argument("--seconds", type=float, metavar="S", help="start no trial after this")
    parser.add_argument("--combinations", type=int, default=8, metavar="K")
    parser.add_argument(
        "--thorough", action="store_true", help="also regions that no plan would use"
    )
    parser.add_argument(
        "--strict", action="store_true",
        help=f"exit code 1 also where a peak is off by more than {MEMORY_ERROR * 100:.0f} %%",
    )  # fmt: skip
    parser.add_argument("--rows", type=int, default=40, help="of the table; worst first")
    parser.add_argument("--seed", type=int, default=0, help="of the combinations")
    return parser


def print_report(console: Console, report: Report, most: int = 40) -> None:
    """The ``most`` worst rows, the ops that were not understood, notes, and a summary."""
    console.print(_rows_table(report, most))
    if len(report.rows) > most:
        console.print(f"and {len(report.rows) - most} rows more, none worse", highlight=False)
    if report.unknown:
        console.print(_unknown_table(report))
    ran = [(row, trial) for row in report.rows for trial in row.trials]
    bad = [pair for pair in ran if SEVERITY[pair[1].verdict] > SEVERITY["not legal"]]
    bad.sort(key=lambda pair: -SEVERITY[pair[1].verdict])
    for row, trial in bad[:most]:
        console.print(
            f"{trial.verdict}: {row.title}, chunk size {trial.chunk_size}, length "
            f"{trial.length}: {trial.reason}",
            highlight=False, markup=False, soft_wrap=True,
        )  # fmt: skip
    if len(bad) > most:
        console.print(f"and {len(bad) - most} runs more like these", highlight=False)
    for note in report.notes:
        console.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)
    console.print(summary(report), highlight=False, markup=False, soft_wrap=True)


def summary(report: Report) -> str:
    """The check in one line."""
    trials = [trial for row in report.rows for trial in row.trials]
    lengths = sorted({trial.length for trial in trials})
    ran = [trial for trial in trials if trial.measured_bytes]
    error = max((trial.error for trial in ran), default=0.0)
    memory = max((abs(trial.memory_error) for trial in ran), default=0.0)
    verdict = f"{report.wrong} WRONG OR FAILED" if report.wrong else "all outputs agree"
    parts = [
        f"graph {report.fingerprint}, {report.nodes} nodes, {report.classes} classes; "
        f"{len(ran)} runs at length {' and '.join(map(str, lengths))}: {verdict}",
        f"worst error {error:.2g} {report.unit}",
        f"predicted peak within {memory:.2%}"
        + (f" ({report.peaks_off} runs beyond {MEMORY_ERROR:.0%})" if report.peaks_off else ""),
    ]
    if refused := sum(trial.verdict == "not legal" for trial in trials):
        parts.append(f"{refused} plans not legal at the other length")
    if report.unknown:
        parts.append(f"{len(report.unknown)} ops not understood")
    if report.left_out:
        parts.append(f"{report.left_out} runs left out")
    return "; ".join(parts)


def _rows_table(report: Report, most: int) -> Table:
    table = Table(title="candidates, worst first", title_justify="left", title_style="bold")
    table.add_column("region", ratio=1, overflow="fold")
    for column in ("extent", "chunk sizes", "worst error", "predicted", "measured", "off"):
        table.add_column(column, justify="right")
    table.add_column("verdict")
    for row in sorted(report.rows, key=_gravest)[:most]:
        shown, memory = row.worst, max(row.trials, key=lambda t: abs(t.memory_error))
        sizes = sorted({trial.chunk_size for trial in row.trials if trial.chunk_size})
        table.add_row(
            row.title, str(row.extent or ""), " ".join(map(str, sizes)), f"{shown.error:.2g}",
            mib(memory.predicted_bytes), mib(memory.measured_bytes), f"{memory.memory_error:+.2%}",
            row.verdict,
        )  # fmt: skip
    return table


def _gravest(row: Row) -> tuple[bool, bool, float, float]:
    worst = max(abs(trial.memory_error) for trial in row.trials)
    return (
        row.verdict not in ("wrong", "failed"), row.verdict != "peak off", -row.worst.error, -worst
    )  # fmt: skip


def _unknown_table(report: Report) -> Table:
    table = Table(title="ops not understood", title_justify="left", title_style="bold")
    table.add_column("op")
    table.add_column("times", justify="right")
    table.add_column("largest output", justify="right")
    table.add_column("why")
    for op in report.unknown:
        table.add_row(op.op, str(op.count), mib(op.nbytes), op.reason)
    return table


if __name__ == "__main__":
    raise SystemExit(main())
