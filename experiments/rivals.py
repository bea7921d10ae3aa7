"""Ours beside what a user would run instead: one table and one picture a subject.

Every way to run the subject is measured for memory in a process of its own, by the same method, and
all are timed in turns in one process. What is measured is kept as JSON, one file a subject, and the
page is made from all files::

    python -m experiments.rivals gpt2                      # then the page
    python -m experiments.rivals unet --budgets 0.06 min --rounds 3
    python -m experiments.rivals vit --only-times --rounds 25
    python -m experiments.rivals vit --only-peaks --cache FOLDER    # memory and warm starts
    python -m experiments.rivals --page                    # only the page

Compilation starts from an empty cache on disk, so that first calls are cold; a second process then
finds it filled, and tells how long it takes to start.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tuner.measure.variables import QUIET

os.environ.update(QUIET)

from experiments.machine import environment
from experiments.reach_page import read_records
from experiments.reach_session import bar
from experiments.rival_variants import BUDGETS, names_for
from experiments.rivals_page import RIVAL_BARS, is_compiled, misses, write_page
from experiments.rivals_session import FIXED
from experiments.subjects import BARS
from tuner.measure.confine import available_bytes
from tuner.measure.isolate import Isolated

RESULTS = Path(__file__).parent / "results" / "cpu"


def measure(key: str, options: argparse.Namespace, command: str) -> dict[str, Any]:
    """A subject's record: per way to run it, memory and time, or why there are none."""
    started = time.monotonic()
    before: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        cache = options.cache or stack.enter_context(tempfile.TemporaryDirectory())
        if options.only_times or options.only_peaks or options.more:
            before = read_records(options.results / "rivals").get(key, {})
            if not before:
                raise SystemExit(f"{key}: no memory is known; run it once without such options")
        if options.only_peaks:
            return _peaks_anew(key, options, cache, before, command)
        ways = dict(before.get("ways", {}))
        if not options.only_times:
            ways |= _peaks(key, options, cache)
        good = [name for name, way in ways.items() if way["status"] == "ok"]
        wanted = {
            "do": "times", "names": good, "rounds": options.rounds, "seconds": options.seconds,
            "tolerance": options.tolerance,
        }  # fmt: skip
        with _session(key, options, cache, {}) as session:
            times = session.request(wanted, options.timeout + 10 * options.seconds)
    for name, row in times.pop("ways", {}).items():
        ways[name].update(row)
    if before:
        command = f"{before['command']}; {command}"
    return {
        "key": key,
        "name": bar(key).name,
        "threads": options.threads,
        "ways": ways,
        "times": times,
        "seconds": round(time.monotonic() - started, 1),
        "environment": environment(),
        "command": command,
    }


def _peaks_anew(
    key: str, options: argparse.Namespace, cache: str, before: dict[str, Any], command: str
) -> dict[str, Any]:
    """A record with the memory and the warm starts of its ways measured again; cold starts of
    compiled ways, and times, are as they were."""
    started = time.monotonic()
    ways = dict(before["ways"])
    for name, known in ways.items():
        if known["status"] != "ok" or (options.ways and name not in options.ways):
            continue
        with _session(key, options, cache) as session:
            found = session.request({"do": "peak", "name": name}, options.timeout)
        print(f"{key}: {name}: {_line(found)}", flush=True)
        if found["status"] != "ok":
            raise SystemExit(f"{key}: {name} ran before, and does not any more")
        if found.get("plan") != known.get("plan"):
            raise SystemExit(f"{key}: {name} is another plan by now; measure all of it anew")
        kept = ("prepare_s", "first_call_s") if is_compiled(name) else ()
        ways[name] = {**known, **{k: v for k, v in found.items() if k not in kept}}
        if is_compiled(name):
            ways[name]["second_start_s"] = _second_start(key, options, cache, name)
    seconds = round(before["seconds"] + time.monotonic() - started, 1)
    commands = f"{before['command']}; {command}"
    return {**before, "ways": ways, "seconds": seconds, "command": commands}


def _peaks(key: str, options: argparse.Namespace, cache: str) -> dict[str, dict[str, Any]]:
    """Each way's memory, and for a compiled one how long a second process takes to start."""
    ways: dict[str, dict[str, Any]] = {}
    budgets = options.budgets or BUDGETS[key]
    for name in options.ways or names_for(bar(key), budgets):
        with _session(key, options, cache) as session:
            ways[name] = session.request({"do": "peak", "name": name}, options.timeout)
        print(f"{key}: {name}: {_line(ways[name])}", flush=True)
        if ways[name]["status"] == "ok" and is_compiled(name):
            ways[name]["second_start_s"] = _second_start(key, options, cache, name)
    return ways


def _second_start(
    key: str, options: argparse.Namespace, cache: str, name: str
) -> float | None:
    """Seconds until a compiled way's first result, in a new process that finds a filled cache."""
    with _session(key, options, cache) as session:
        found = session.request({"do": "start", "name": name}, options.timeout)
    seconds: float | None = found.get("second_start_s")
    return seconds


def _session(
    key: str, options: argparse.Namespace, cache: str, allocator: Mapping[str, str] = FIXED
) -> Isolated:
    """A measuring process.

    Args:
        allocator: variables of the C library's; without any, and with threads that wait as they
            do by default, times are what a user's process takes.
    """
    spec = {
        "key": key, "threads": options.threads, "memory_bytes": int(0.9 * available_bytes())
    }  # fmt: skip
    variables = {
        **QUIET, **allocator, "OMP_NUM_THREADS": str(options.threads),
        "TORCHINDUCTOR_CACHE_DIR": cache,
    }  # fmt: skip
    return Isolated(
        "experiments.rivals_session:Session", spec, log=options.log, environment=variables
    )


def _line(way: dict[str, Any]) -> str:
    if way["status"] != "ok":
        return f"{way['status']}: {way['reason']}"
    return f"{way['rss_bytes'] / 2**20:.1f} MiB, first call {way['first_call_s']:.1f} s"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write the page; exit code 1 where a bar was missed or a rival is ahead."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(given)
    told = ["FOLDER" if one == options.cache else one for one in given]
    command = shlex.join(["python", "-m", "experiments.rivals", *told])
    folder = options.results / "rivals"
    folder.mkdir(parents=True, exist_ok=True)
    missed = False
    for key in options.subjects:
        record = measure(key, options, command)
        text = json.dumps(record, indent=1) + "\n"
        (folder / f"{key}.json").write_text(text, encoding="utf-8")
        found = misses(record)
        missed = missed or bool(found)
        print(f"{key}: {'; '.join(found) or 'met'} ({record['seconds']:.0f} s)", flush=True)
    print(f"page written to {write_page(options.results)}")
    return 1 if missed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.rivals", description="Measure ours beside its rivals."
    )
    keys = [row.key for row in BARS]
    parser.add_argument(
        "subjects", nargs="*", metavar="SUBJECT", default=[],
        help=f"of {', '.join(keys)}; bars stand for {', '.join(RIVAL_BARS)}",
    )  # fmt: skip
    parser.add_argument("--page", action="store_true", help="only make the page anew")
    parser.add_argument(
        "--budgets", nargs="+", metavar="BUDGET",
        help="of ours, as shares of the eager peak, or min; 'kept' or 'compiled' may follow",
    )  # fmt: skip
    parser.add_argument(
        "--ways", nargs="+", metavar="WAY", help="only these, such as eager compile 'ours 0.3'"
    )
    parser.add_argument(
        "--only-times", action="store_true", help="anew, of ways whose memory is known from before"
    )
    parser.add_argument(
        "--only-peaks", action="store_true", help="memory and warm starts anew; times are kept"
    )
    parser.add_argument(
        "--cache", metavar="FOLDER",
        help="a compiler's cache that is kept; first calls are then no cold ones",
    )  # fmt: skip
    parser.add_argument(
        "--more", action="store_true",
        help="the memory of --ways or --budgets alone, beside what is known; times of all anew",
    )  # fmt: skip
    parser.add_argument("--rounds", type=int, default=6, help="of timing in turns")
    parser.add_argument("--seconds", type=float, default=120.0, help="of timing, about")
    parser.add_argument("--tolerance", type=float, default=1e-4, help="of outputs, relative")
    parser.add_argument("--timeout", type=float, default=900.0, help="of one way, in seconds")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--log", type=Path, default=Path("runs/rivals.log"))
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
