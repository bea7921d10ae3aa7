"""``autochunk plans``: list, show, explain, verify, merge and validate plan databases."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from search_space.errors import ConfigError, DatabaseError

_NOTHING = (
    "{} holds no plans (no *.yaml in it or below it); name the folder that a campaign's key "
    "`plans` names"
)


def add_plans(commands: Any, shared: argparse.ArgumentParser) -> None:
    """Add ``plans`` and its actions to a command line.

    Args:
        commands: what ``add_subparsers`` gave.
        shared: options that all commands have.
    """
    plans = commands.add_parser("plans", help="read, check and merge plan databases")
    actions = plans.add_subparsers(required=True, metavar="ACTION")

    def add(name: str, command: Any, text: str) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = actions.add_parser(name, parents=[shared], help=text)
        made.set_defaults(command=command)
        return made

    for name, command, text in (
        ("list", _list, "one line a model, graph and length"),
        ("show", _show, "every plan"),
        ("validate", _validate, "check every file; exit code 2 where one is damaged"),
    ):
        _add_path(add(name, command, text))

    explain = add("explain", _explain, "which plan would serve a call, and why")
    _add_path(explain)
    explain.add_argument("--model", metavar="ID", help="as in the database; or give --config")
    explain.add_argument("--seq-len", type=int, required=True, metavar="N", help="of the call")
    explain.add_argument(
        "--config", type=Path, metavar="CONFIG",
        help="campaign YAML: capture its model and decide as apply() would",
    )  # fmt: skip
    explain.add_argument("--memory-budget", metavar="B", help="such as 0.3, 2GiB or min")

    verify = add("verify", _verify, "run some plans again and report drift against their noise")
    _add_path(verify)
    verify.add_argument(
        "--config", type=Path, required=True, metavar="CONFIG",
        help="campaign YAML that makes the model",
    )  # fmt: skip
    verify.add_argument(
        "--most", type=int, default=6, metavar="N", help="plans a graph (default 6)"
    )
    verify.add_argument(
        "--update", action="store_true",
        help="run all plans, and write what was measured for this device",
    )  # fmt: skip

    merge = add("merge", _merge, "merge databases into the last one")
    merge.add_argument("sources", type=Path, nargs="+", metavar="FROM", help="a file or a folder")
    merge.add_argument("into", type=Path, metavar="INTO", help="a folder, made where missing")


def _add_path(action: argparse.ArgumentParser) -> None:
    action.add_argument("path", type=Path, metavar="PATH", help="a file or a folder")


def _list(options: argparse.Namespace) -> int:
    from tuner.database import read_database
    from tuner.tables import files_table
    from tuner.terminal import make_console

    files = read_database(options.path)
    if files:
        make_console().print(files_table(files, options.path))
    else:
        print(_NOTHING.format(options.path), file=sys.stderr)
    return 0


def _show(options: argparse.Namespace) -> int:
    from tuner.database import read_database
    from tuner.tables import entry_table
    from tuner.terminal import make_console

    console, files = make_console(), read_database(options.path)
    if not files:
        print(_NOTHING.format(options.path), file=sys.stderr)
    for file in files:
        for graph in file.graphs:
            for entry in graph.lengths:
                console.print(entry_table(file, graph, entry))
    return 0


def _validate(options: argparse.Namespace) -> int:
    from tuner.database import database_files, read_file
    from tuner.plans_explain import verdicts
    from tuner.validity import doubts

    wrong, paths = 0, database_files(options.path)
    if not paths:
        print(_NOTHING.format(options.path), file=sys.stderr)
    for path in paths:
        try:
            file = read_file(path)
        except DatabaseError as error:
            wrong += 1
            print(f"damaged: {error}", file=sys.stderr)
            continue
        found = [doubt for graph in file.graphs for doubt in doubts(graph)]
        wrong += bool(found)
        for doubt in found:
            print(f"wrong: {path}: {doubt}", file=sys.stderr)
        for graph in file.graphs:
            rows = sum(len(entry.frontier) for entry in graph.lengths)
            here = _environment(graph.environment.get("device", "cpu"))
            for verdict in verdicts(file, graph, here):
                print(
                    f"{'wrong' if found else 'ok'}: {path}: graph {graph.fingerprint}, "
                    f"{len(graph.lengths)} lengths, {rows} plans; here {verdict}"
                )
    return DatabaseError.exit_code if wrong else 0


def _explain(options: argparse.Namespace) -> int:
    from search_space.budget import parse_budget
    from tuner.database import read_database
    from tuner.plans_explain import explain_call, explain_length, files_of

    if options.seq_len < 1:
        raise ConfigError(f"--seq-len must be a positive whole number, got {options.seq_len}")
    if options.config is None and options.model is None:
        raise ConfigError("name the model: --model ID for what the database says, or --config "
                          "CONFIG for what apply() would choose")  # fmt: skip
    budget = None if options.memory_budget is None else parse_budget(options.memory_budget)
    if options.config is None:
        files = files_of(read_database(options.path), options.model)
        kinds = {graph.environment.get("device", "cpu") for file in files for graph in file.graphs}
        here = _environment(min(kinds, default="cpu"))
        print("\n".join(explain_length(files, options.seq_len, budget, here)))
        return 0
    from tuner.config import load_config
    from tuner.measure.backends import resolve_device

    config = load_config(options.config, ())
    plans = _plans(options.path, resolve_device(config.device))
    print("\n".join(explain_call(config, plans, options.seq_len, budget)))
    return 0


def _verify(options: argparse.Namespace) -> int:
    from tuner.config import load_config
    from tuner.database import write_graph
    from tuner.plans_verify import Verified, renewed, verify

    if options.most < 1:
        raise ConfigError(f"--most must be a positive whole number, got {options.most}")
    config = load_config(options.config, ())
    most = None if options.update else options.most
    found: list[Verified] = []
    for one in verify(config, lambda device: _plans(options.path, device), most):
        found.append(one)
        now = "" if one.now is None else f"{one.now.ratio:.3f} of eager's time"
        print(
            f"length {one.entry.length}, tuned {one.row.ratio:.3f} "
            f"({one.row.ratio_low:.3f} to {one.row.ratio_high:.3f}): {now}; "
            f"{one.drift or 'holds'}"
        )
    drifted = sum(bool(one.drift) for one in found)
    print(f"{len(found)} plans run again, {drifted} drifted")
    if not options.update:
        return 1 if drifted else 0
    if options.path.is_file():
        raise ConfigError(f"--update writes into a folder, and {options.path} is a file")
    graphs = {id(one.judged): one.judged for one in found}
    for judged in graphs.values():
        here = _environment(judged.entry.environment.get("device", "cpu"))
        rows = [one for one in found if one.judged is judged]
        entry = renewed(judged.entry, rows, here)
        path = write_graph(options.path, here["device_name"], judged.file.model, entry)
        print(f"written to {path}")
    return 0


def _merge(options: argparse.Namespace) -> int:
    from tuner.plans_merge import merge_databases

    for line in merge_databases(options.sources, options.into):
        print(line)
    return 0


def _plans(path: Path, device: str) -> Any:
    from tuner.database import read_database
    from tuner.measure.backends import backend_for
    from tuner.runtime.lookup import Plans

    return Plans(read_database(path), backend_for(device).environment())


def _environment(kind: str) -> Mapping[str, str]:
    """What is here for plans of a kind of device, or else for a CPU."""
    from tuner.measure.backends import backend_for, resolve_device

    try:
        return backend_for(resolve_device(kind)).environment()
    except ConfigError:  # no such device here, as the verdict will say
        return backend_for("cpu").environment()
