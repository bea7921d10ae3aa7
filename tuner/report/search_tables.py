"""The tables of a report on how plans were found, what failed, and with what."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

from tuner.report.sizes import size_text
from tuner.report.tables import Cell, Table, chunks_text, class_id
from tuner.report.values import LengthData, Run, plan_key


def candidates_table(one: LengthData) -> Table | None:
    """Every class that could run in chunks, largest saving first, and which plans do so."""
    if one.found is None:
        return None
    users: dict[str, list[str]] = {}
    for plan in one.result.plans if one.result is not None else ():
        for chosen in plan.chosen:
            users.setdefault(chosen.found.key, []).append(plan_key(plan.row.plan))
    rows = []
    for item in sorted(
        one.found.candidates, key=lambda c: (c.chunked_bytes - c.whole_bytes) * c.found.times
    ):
        key = item.found.key
        rows.append((
            Cell(key, anchor=class_id(one, key)), item.found.region, f"{item.found.times} x",
            str(item.found.nodes), item.found.dimension, size_text(item.whole_bytes),
            size_text(item.chunked_bytes),
            _alone_text(one.alone.get(key, {})), ", ".join(users.get(key, ())) or "none",
        ))  # fmt: skip
    return Table(
        f"Regions that may run in chunks, {one.place}",
        ("class", "region", "occurs", "nodes", "sliced along", "whole", "in chunks",
         "timed alone", "used by"),
        tuple(rows),
        frozenset({"occurs", "nodes", "whole", "in chunks"}),
        "Bytes alive around one occurrence; times alone are of the chunk size that was fastest, "
        "over the region's time whole.",
    )  # fmt: skip


def _alone_text(ratios: Mapping[int, float]) -> str:
    if not ratios:
        return "no"
    size = min(ratios, key=lambda size: ratios[size])
    return f"{ratios[size]:.2f} in chunks of {size}"


def peaks_table(run: Run) -> Table:
    """Predicted and measured peaks and times of every plan that ran."""
    rows = []
    for one in run.lengths.values():
        for entry in one.timed:
            error = entry.predicted_bytes / entry.peak_bytes - 1 if entry.peak_bytes else math.nan
            row = entry.row
            told = entry.expected
            rows.append((
                one.short, entry.key, size_text(entry.predicted_bytes), size_text(entry.peak_bytes),
                f"{100 * error:+.2f} %",
                "?" if told is None else f"{told.ratio:.3f} ± {told.ratio_spread:.3f}",
                f"{row.ratio:.3f}",
                "?" if told is None else f"{100 * (told.ratio / row.ratio - 1):+.1f} %",
            ))  # fmt: skip
    return Table(
        "Predicted and measured, plan by plan",
        ("length", "plan", "predicted peak", "measured peak", "error", "predicted time ratio",
         "measured time ratio", "error of time"),
        tuple(rows),
        frozenset({"predicted peak", "measured peak", "error", "predicted time ratio",
                   "measured time ratio", "error of time"}),
        "Times were predicted before a plan's first run.",
    )  # fmt: skip


def scores_table(run: Run) -> Table | None:
    """How good each cost model was on timings that it had not seen."""
    rows = []
    for target, (used, scores) in run.scores.items():
        for kind, score in scores.items():
            rows.append((
                target or "whole model", kind, "yes" if kind == used else "",
                f"{score.get('samples', '?')} ({score.get('held_out', '?')} held out)",
                *(_number(score.get(name))
                  for name in ("error", "pairwise_accuracy", "spearman", "regret", "coverage")),
            ))  # fmt: skip
    if not rows:
        return None
    return Table(
        "Cost models, on timings that they had not seen",
        ("target", "model", "used", "timings", "error of log time", "pairs ordered rightly",
         "rank correlation", "regret", "inside its interval"),
        tuple(rows),
        frozenset({"error of log time", "pairs ordered rightly", "rank correlation", "regret",
                   "inside its interval"}),
        "Compared within one region class and length. Regret is the extra time of the chunk size "
        "that the model ranks first, over the best one's. Inside its interval is the share of "
        "timings that the model's own interval holds.",
    )  # fmt: skip


def search_table(run: Run) -> Table:
    """How many plans were possible, predicted, run and kept."""
    rows = []
    for one in run.lengths.values():
        found = one.found
        rows.append((
            one.short,
            "?" if found is None else str(found.nodes),
            "?" if found is None else str(len(found.candidates)),
            "?" if found is None else _settings_text(found.settings),
            str(sum(len(trials) for trials in one.rounds.values())),
            str(len(one.runs)), str(len(one.frontier)),
            "finished" if one.result is not None else Cell("not finished", tone="bad"),
        ))  # fmt: skip
    return Table(
        "From all settings to the frontier",
        ("length", "nodes", "region classes", "settings", "plans predicted", "plans run",
         "plans kept", "state"),
        tuple(rows),
        frozenset({"nodes", "region classes", "settings", "plans predicted", "plans run",
                   "plans kept"}),
    )  # fmt: skip


def statuses_table(run: Run) -> Table:
    """How real runs ended."""
    total: Counter[str] = Counter()
    for one in run.lengths.values():
        total.update(one.ended)
    rows = tuple(
        (status, str(count), _MEANINGS.get(status, "")) for status, count in total.most_common()
    )
    return Table("Real runs by status", ("status", "runs", "meaning"), rows, frozenset({"runs"}))


def failures_table(run: Run) -> Table | None:
    """What went wrong; equal reports once, with their number."""
    counted: Counter[tuple[str, str, str, str]] = Counter()
    for one in run.lengths.values():
        for what, status, reason in one.failures:
            chunks = chunks_text(one, what.removeprefix("plan "))
            text = f"{what}: {chunks}" if chunks else what
            counted[one.short, text, status, reason] += 1
    for target, reason in run.refused.items():
        counted[target, "target", "left out", reason] += 1
    if not counted:
        return None
    rows = tuple(
        (place, what, Cell(status, tone="bad"), reason or "no reason given", str(count))
        for (place, what, status, reason), count in counted.items()
    )
    columns = ("length", "what", "status", "reason", "times")
    return Table("What failed", columns, rows, frozenset({"times"}))


def facts_table(caption: str, facts: Mapping[str, object]) -> Table:
    """Names and values."""
    rows = tuple(
        (str(name), f"{value:.4g}" if isinstance(value, float) else str(value))
        for name, value in facts.items()
    )
    return Table(caption, ("name", "value"), rows)


def op_rates_table(run: Run) -> Table:
    """What kinds of op were measured to cost on a CPU."""
    rows = [
        (kind, f"{costs['launch_s'] * 1e6:.2f}", f"{costs['element_s'] * 1e9:.3f}",
         f"{costs['row_s'] * 1e9:.1f}")
        for kind, costs in sorted(run.op_rates.items())
    ]  # fmt: skip
    columns = ("kind", "to start, us", "an element, ns", "a row, ns")
    return Table(
        "What kinds of op cost, as measured", columns, tuple(rows), frozenset(columns[1:]),
        "Beside the bytes that they move.",
    )  # fmt: skip


def kinds_table(run: Run) -> Table:
    """The ledger's records."""
    rows = [
        (kind, str(count), str(run.passed_over[kind] or ""))
        for kind, count in run.kinds.most_common()
    ]
    return Table(
        "Records in the ledger", ("kind", "records", "not understood"), tuple(rows),
        frozenset({"records", "not understood"}),
    )  # fmt: skip


def not_understood(run: Run) -> Mapping[str, int]:
    """Operations without a rule in any graph, with the bytes of their largest output."""
    found: dict[str, int] = {}
    for one in run.lengths.values():
        for op, size in (one.found.not_understood if one.found is not None else {}).items():
            found[op] = max(found.get(op, 0), size)
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _number(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, (int, float)) else "?"


def _settings_text(count: int) -> str:
    return str(count) if count < 10**6 else f"10^{len(str(count)) - 1}"


_MEANINGS: Mapping[str, str] = {
    "ok": "ran, and gave the reference's outputs",
    "oom": "ran out of memory",
    "oom_predicted": "not run: the memory model says that it does not fit",
    "timeout": "took longer than confirm.timeout_s",
    "crash": "ended with an error, or its process died",
    "wrong_output": "outputs differ from the reference's by more than the tolerance",
    "noisy": "times scatter too much to be compared",
    "preempted": "interrupted from outside; tried again",
}
"""What the statuses of :class:`tuner.measure.protocol.Status` mean."""
