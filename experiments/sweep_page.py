"""What the records of :mod:`experiments.sweep` say, in a line each and as a page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.machine import environment
from experiments.verdicts import MEMORY_ERROR
from experiments.zoo import FAMILIES

BUDGETS: tuple[float | str, ...] = (0.5, "min")

SMALL_BYTES = 256
"""Differences of peaks below this are single numbers: the smallest of these models take 10 kB."""

_Record = Mapping[str, Any]


def faults(record: _Record) -> list[str]:
    """What must never happen: a crash, a wrong number, a death."""
    found = []
    for name, reply in (("eager", record["eager"]), *record["budgets"].items()):
        if reply["status"] not in ("ok", "refused", "timeout"):
            found.append(f"{name}: {reply['status']}: {reply['reason']}")
        for run in reply.get("runs", ()):
            if run.get("wrong"):
                found.append(f"{name}, length {run['length']}: WRONG: {run['wrong']}")
    return found


def shortfalls(record: _Record) -> list[str]:
    """What falls short: no result in time, peaks that were told wrong, budgets that were not kept,
    nothing chunked without a reason."""
    found = []
    eager = record["eager"]
    if eager.get("told_bytes") is not None:
        off = _difference(eager["told_bytes"], eager["peak_bytes"])
        if abs(off) > MEMORY_ERROR:
            found.append(f"eager peak told {off:+.1%} off")
    for budget in BUDGETS:
        name = str(budget)
        reply = record["budgets"].get(name, {"status": "none"})
        if reply["status"] == "timeout":
            found.append(f"{name}: no result in time")
        for run in reply.get("runs", ()):
            off = _off(run)
            if abs(off) > MEMORY_ERROR:
                found.append(f"{name}, length {run['length']}: peak predicted {off:+.1%} off")
        if isinstance(budget, float) and reply["status"] == "ok" and not reply["floor_bytes"]:
            share = reply["runs"][0]["measured_bytes"] / record["eager"]["peak_bytes"]
            if share > budget * (1 + MEMORY_ERROR):
                found.append(f"{name}: takes {share:.3f} of the eager model's peak")
        if reply["status"] == "ok" and not reply["loops"] and not reason(reply):
            found.append(f"{name}: nothing chunked, no reason given")
    return found


def reason(reply: _Record) -> str:
    """Why nothing is chunked, as ``explain()`` tells."""
    heading = "nothing is chunked"
    lines = [line for line in reply["explain"] if line.startswith(f"{heading}: ")]
    return "; ".join(lines)


def _off(run: _Record) -> float:
    """Predicted over measured peak, less 1; 0 where they differ by single numbers."""
    if "measured_bytes" not in run:
        return 0.0
    return _difference(run["predicted_bytes"], run["measured_bytes"])


def _difference(told: int, measured: int) -> float:
    return (told - measured) / measured if abs(told - measured) > SMALL_BYTES else 0.0


def verdict(record: _Record) -> str:
    """A record in one line."""
    parts = [*faults(record), *shortfalls(record)]
    if record["eager"]["status"] != "ok":
        return "; ".join(parts) or f"not tried: {record['eager']['reason']}"
    for name, reply in record["budgets"].items():
        if reply["status"] == "refused":
            parts.append(f"refused: {reply['reason']}")
        elif reply["status"] == "ok":
            parts.append(f"{name}: {_share(record, reply)}x, {reply['loops']} loops")
    return "; ".join(parts)


def _share(record: _Record, reply: _Record) -> str:
    return f"{reply['runs'][0]['measured_bytes'] / record['eager']['peak_bytes']:.2f}"


def _kind(record: _Record) -> str:
    """One word for the summary."""
    replies = record["budgets"].values()
    if faults(record):
        return "WRONG OR CRASHED"
    if record["eager"]["status"] != "ok":
        return "not tried"
    if any(reply["status"] == "refused" for reply in replies):
        return "refused"
    if any(reply["status"] == "timeout" for reply in replies):
        return "no result in time"
    return "chunked" if any(reply["loops"] for reply in replies) else "left unchunked"


def page(records: Sequence[_Record]) -> str:
    """All records as Markdown, and the names of the families that there is none of."""
    missing = [name for name in FAMILIES if name not in {record["name"] for record in records}]
    kinds = Counter(_kind(record) for record in records)
    machine = environment()
    lines = [
        "# Families that nobody had in mind",
        "",
        "Made by `python -m experiments.sweep`. Tiny models of transformers and diffusers with "
        "random weights, each in a process of its own: planned for half of the eager model's peak "
        "(or where that is out of reach, for the lowest that is not, in italics) and for the "
        "lowest peak at a bounded "
        "slowdown (`min`), run at two lengths, the second with the same applied model. Shares are "
        "measured peak over the eager model's; *off* is predicted over measured peak, the worst "
        f"of all runs; differences below {SMALL_BYTES} bytes count as none. Every output was "
        "compared with the eager model's, within 1e-5 of its largest value.",
        "",
        ", ".join(f"{key} {value}" for key, value in machine.items()) + ".",
        "",
        f"**{len(records)} families: " + ", ".join(f"{n} {kind}" for kind, n in kinds.items())
        + ".**" + (f" Not tried: {', '.join(missing)}." if missing else ""),
        "",
        "| family | eager KiB | 0.5 | min | loops | worst error | off | analysis s | remark |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---|",
        *(_row(record) for record in records),
        "",
        "Loops are region classes in the plans for 0.5 and `min`; analysis is capture, search and "
        "code generation for each, in seconds on a shared machine.",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _row(record: _Record) -> str:
    replies = [record["budgets"].get(str(budget), {"status": "none"}) for budget in BUDGETS]
    good = [reply for reply in replies if reply["status"] == "ok"]
    runs = [run for reply in good for run in reply["runs"] if "measured_bytes" in run]
    shares = []
    for reply in replies:
        if reply["status"] != "ok":
            shares.append("-")
        elif reply["floor_bytes"]:
            shares.append(f"*{_share(record, reply)}*")
        else:
            shares.append(_share(record, reply))
    remarks = [*faults(record), *shortfalls(record)]
    if record["eager"]["status"] != "ok" or any(r["status"] == "refused" for r in replies):
        remarks.append(verdict(record))
    remarks += [reason(reply) for reply in good if not reply["loops"]][-1:]
    cells = [
        record["name"],
        f"{record['eager'].get('peak_bytes', 0) / 1024:.0f}",
        *shares,
        ", ".join(str(reply["loops"]) for reply in good) or "-",
        f"{max(run['error'] for run in runs):.1g}" if runs else "-",
        f"{max((_off(run) for run in runs), key=abs):+.1%}" if runs else "-",
        ", ".join(f"{reply['analysis_s']:.0f}" for reply in good) or "-",
        "; ".join(remarks),
    ]
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
