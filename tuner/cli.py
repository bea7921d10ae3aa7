"""The command line: ``autochunk inspect | profile | tune | report | plans | model``.

Errors made on purpose are shown as one message on standard error, with exit code 2 for bad input
and 1 for failed work; ``--debug`` shows the traceback as well.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from search_space.errors import AutoChunkError, ConfigError
from tuner.cli_model import add_model_commands
from tuner.cli_plans import add_plans

if TYPE_CHECKING:
    from tuner.config import CampaignConfig


_CLASSES = 20
"""Region classes that ``inspect`` shows where it is not asked for all."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and give its exit code."""
    options = _parser().parse_args(arguments)
    try:
        code: int = options.command(options)
    except AutoChunkError as error:
        if options.debug:
            raise
        print(f"autochunk: error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as stopped:
        print(
            "autochunk: stopped; what was measured is in the ledger, the best so far in the plan "
            "database. The same command goes on from there", file=sys.stderr,
        )  # fmt: skip
        return 128 + int(getattr(stopped, "signal", signal.SIGINT))
    except Exception as error:
        if options.debug:
            raise
        print(
            f"autochunk: unexpected {type(error).__name__}: {error}. This is a defect of "
            "autochunk; run again with --debug for the traceback",
            file=sys.stderr,
        )
        return 1
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="autochunk", description="Autotuner for activation chunking at inference."
    )
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--debug", action="store_true", help="show tracebacks")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    inspect = commands.add_parser(
        "inspect", parents=[shared], help="show what could be chunked; runs nothing"
    )
    inspect.add_argument("config", type=Path, metavar="CONFIG", help="campaign YAML")
    inspect.add_argument("--seq-len", type=int, metavar="N", help="another length than the first")
    inspect.add_argument("--all", action="store_true", help="all region classes, not the first few")
    inspect.add_argument(
        "--cost-model", type=Path, metavar="PATH", help="predict with a model file as well"
    )
    _add_set(inspect)
    inspect.set_defaults(command=_inspect)

    tune = commands.add_parser("tune", parents=[shared], help="run a campaign, or go on with one")
    tune.add_argument("config", type=Path, metavar="CONFIG", help="campaign YAML")
    tune.add_argument("--dry-run", action="store_true", help="only say what would be done")
    tune.add_argument("--fresh", action="store_true", help="start over; the old ledger is kept")
    _add_set(tune)
    tune.set_defaults(command=_tune)

    report = commands.add_parser(
        "report", parents=[shared], help="write a campaign's report as one HTML page"
    )
    report.add_argument("run", type=Path, metavar="RUN", help="a campaign's output folder")
    report.add_argument(
        "--output", type=Path, metavar="FILE", help="the page; RUN/report.html without it"
    )
    report.add_argument(
        "--study", action="store_true", help="also write the search for optuna-dashboard"
    )
    report.set_defaults(command=_report)

    add_model_commands(commands, shared, _add_set)
    add_plans(commands, shared)
    return parser


def _add_set(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides",
        help="override a key of the campaign file, such as search.n_trials=50; may be repeated",
    )  # fmt: skip


def _inspect(options: argparse.Namespace) -> int:
    from cost_models.select import mib
    from cost_models.stored import read_model
    from search_space.errors import BudgetError
    from tuner.foresee import foresee
    from tuner.inspect_model import analytic_frontier, inspect_lengths, sparkline
    from tuner.sweep import load_sweep
    from tuner.tables import analytic_table, classes_table, foreseen_table
    from tuner.terminal import make_console

    config, *others = load_sweep(options.config, options.overrides)
    if options.seq_len is not None and options.seq_len < 1:
        raise ConfigError(f"--seq-len must be a positive whole number, got {options.seq_len}")
    length = config.seq_lens[0] if options.seq_len is None else options.seq_len
    stored = read_model(options.cost_model) if options.cost_model else None
    console = make_console()
    if others:
        console.print(f"the first of {len(others) + 1} campaigns of the sweep", highlight=False)
    unmet: list[BudgetError] = []
    for one in inspect_lengths(config, (length,)):
        profile = one.analysis.memory.profile()
        eager = mib(one.eager_peak_bytes) if one.eager_peak_bytes else "unknown"
        console.print(
            f"{f'{config.model.id} {one.target}'.strip()} at length {length}: graph "
            f"{one.analysis.graph.fingerprint}, {len(one.analysis.graph.nodes)} nodes; eager peak "
            f"{eager}, as captured {mib(profile.peak_bytes)}", highlight=False,
        )  # fmt: skip
        console.print(classes_table(one, None if options.all else _CLASSES))
        console.print(f"memory over the run, unchunked (peak {mib(profile.peak_bytes)}):")
        console.print(sparkline(profile), highlight=False)
        console.print(analytic_table(one, analytic_frontier(one)))
        if stored is not None:
            found = foresee(one, stored, config.model.id, config.budgets, config.search)
            console.print(foreseen_table(one.length, found))
        of = f" of {one.target}" if one.target else ""
        for budget in config.budgets:
            limit = budget.resolve(one.eager_peak_bytes or profile.peak_bytes)
            try:
                if limit is not None:
                    one.analysis.selector.within(limit)
            except BudgetError as error:
                text = f"budget {budget} at length {length}{of}: {error}"
                unmet.append(BudgetError(text, lowest_bytes=error.lowest_bytes))
    if unmet:
        raise unmet[0]
    return 0


def _tune(options: argparse.Namespace) -> int:
    from tuner.campaign_result import plan_campaign
    from tuner.inspect_model import inspect_lengths
    from tuner.sweep import load_sweep
    from tuner.tables import dry_run_table
    from tuner.terminal import make_console

    configs = load_sweep(options.config, options.overrides)
    if not options.dry_run:
        return _tune_all(configs, fresh=options.fresh)
    console = make_console()
    for config in configs:
        if len(configs) > 1:
            console.print(f"{config.model.id}:", highlight=False)
        found = inspect_lengths(config, config.seq_lens)
        for target in dict.fromkeys(one.target for one in found):
            analyses = {one.length: one.analysis for one in found if one.target == target}
            if target:
                console.print(f"target {target}:", highlight=False)
            console.print(dry_run_table(plan_campaign(config, analyses)))
    return 0


def _tune_all(configs: Sequence[CampaignConfig], *, fresh: bool) -> int:
    """Run campaigns; the exit code is 1 where one failed or a budget is not met."""
    from tuner.sweep import run_sweep
    from tuner.tables import print_result
    from tuner.terminal import Terminal, make_console

    console = make_console()
    with Terminal(make_console(stderr=True)) as progress:
        members = run_sweep(configs, progress, fresh=fresh)
    failed = [member for member in members if member.error is not None]
    if len(members) == 1 and failed and failed[0].error is not None:
        raise failed[0].error
    unmet = 0
    for member in members:
        if member.result is None:
            print(f"autochunk: {member.config.model.id}: {member.error}", file=sys.stderr)
            continue
        print_result(console, member.result)
        output = member.config.output
        console.print(
            f"every measurement is in {output / 'ledger.jsonl'}; for a page that shows what was "
            f"found: autochunk report {output}", highlight=False,
        )  # fmt: skip
        for one in member.result.lengths:
            for budget in (found.budget for found in one.budgets if found.row is None):
                unmet += 1
                print(f"autochunk: no confirmed plan meets budget {budget} at length {one.length}; "
                      "the ledger says why", file=sys.stderr)  # fmt: skip
    return 1 if failed or unmet else 0


def _report(options: argparse.Namespace) -> int:
    from tuner.report.overview import sweep_folders, write_reports

    written = write_reports(options.run, options.output)
    print(f"report written to {written.page}; figures as files: {len(written.figures)}")
    if not written.png:
        print("figures are SVG alone; for PNG as well: pip install 'autochunk[report]'")
    if options.study:
        from tuner.study_export import export_studies

        folders = sweep_folders(options.run)
        for folder in folders or [options.run]:
            try:
                study = export_studies(folder)
            except ConfigError as error:
                if not folders:
                    raise
                print(f"no studies of {folder.name}: {error}", file=sys.stderr)
                continue
            print(f"studies written to {study}; to look at them: optuna-dashboard {study}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
