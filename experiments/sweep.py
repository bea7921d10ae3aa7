"""Every family of :mod:`experiments.zoo` within half of its memory and at its lowest peak.

A model may be chunked, left alone for a reason, or refused with a clear message; it may never crash
and never give a wrong number. Each runs in a process of its own::

    python -m experiments.sweep                    # all families, then the page
    python -m experiments.sweep --missing          # those that the page does not have yet
    python -m experiments.sweep whisper mamba      # only these; the rest of the page stays
    python -m experiments.sweep --fused --save runs/fused.md   # attention written out, run fused

After each family the page and its records are written. The exit code is 1 where any crashed or gave
wrong numbers.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.sweep_page import BUDGETS, faults, page, verdict
from experiments.zoo import FAMILIES
from tuner.measure.isolate import Isolated

RESULTS = Path(__file__).parent / "results" / "cpu" / "families.md"


def try_family(name: str, timeout_s: float, log: Path, *, fused: bool = False) -> dict[str, Any]:
    """One family's record: its eager peak, and a reply for each budget.

    Args:
        timeout_s: for the family as a whole; what is under way then is killed, and what came
            before it is kept.
        fused: with attention written out where the library has it so, and run fused.
    """
    started = time.monotonic()
    spec = {"name": name, "tell_after_s": 0.9 * timeout_s, "fused": fused}
    record: dict[str, Any] = {"name": name, "budgets": {}}
    with Isolated(
        "experiments.sweep_session:Session", spec, log=log, start_timeout_s=timeout_s
    ) as child:

        def ask(request: dict[str, Any]) -> dict[str, Any]:
            left = timeout_s - (time.monotonic() - started)
            return child.request(request, max(left, 0.0))

        record["eager"] = ask({"do": "eager"})
        for budget in BUDGETS if record["eager"]["status"] == "ok" else ():
            reply = ask({"do": "budget", "budget": budget})
            record["budgets"][str(budget)] = reply
            if reply["status"] in ("refused", "timeout"):
                break  # the other would be too
    record["seconds"] = time.monotonic() - started
    return record


def main(arguments: Sequence[str] | None = None) -> int:
    """Try families; see the module for the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.families) - set(FAMILIES)):
        parser.error(f"no family {', '.join(unknown)}; there are {', '.join(FAMILIES)}")
    if options.timeout <= 0:
        parser.error(f"--timeout must be positive, got {options.timeout:g}")
    target: Path = options.save
    known = {} if not options.families and not options.missing else read_records(target)
    names = options.families or [n for n in FAMILIES if not options.missing or n not in known]
    bad = False
    for name in names:
        record = try_family(name, options.timeout, options.log, fused=options.fused)
        print(f"{name} ({record['seconds']:.0f} s): {verdict(record)}", flush=True)
        bad = bad or bool(faults(record))
        known[name] = record
        write(target, [known[name] for name in FAMILIES if name in known])
    return int(bad)


def read_records(target: Path) -> dict[str, dict[str, Any]]:
    """The records beside a page, by family; none where there is no page yet."""
    records = target.with_suffix(".json")
    if not records.exists():
        return {}
    return {record["name"]: record for record in json.loads(records.read_text(encoding="utf-8"))}


def write(target: Path, records: Sequence[dict[str, Any]]) -> None:
    """The page, and beside it the records."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page(records), encoding="utf-8")
    rows = ",\n".join(json.dumps(record) for record in records)
    target.with_suffix(".json").write_text(f"[\n{rows}\n]\n", encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.sweep",
        description="Try tiny models of many families within half of their memory, and at their "
        "lowest peak.",
    )
    parser.add_argument("families", nargs="*", metavar="FAMILY", help=", ".join(FAMILIES))
    parser.add_argument("--missing", action="store_true", help="only those without a record")
    parser.add_argument(
        "--fused", action="store_true",
        help="write attention out where the library can, and run it as fused kernels",
    )  # fmt: skip
    parser.add_argument("--timeout", type=float, default=120.0, help="of one family, in seconds")
    parser.add_argument(
        "--save", type=Path, metavar="FILE", default=RESULTS,
        help=f"the page, beside it the records as JSON; by default {RESULTS.name} of the results",
    )  # fmt: skip
    parser.add_argument("--log", type=Path, default=Path("runs/sweep.log"))
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
