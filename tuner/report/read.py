"""A ledger as plain values for a report.

Records are read tolerantly: kinds that this version does not know are counted, a record of a known
kind that lacks something is counted as passed over, a torn last line is ignored. Where something
was measured again, the last measurement stands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from search_space.budget import parse_budget
from search_space.errors import AutoChunkError, ConfigError
from search_space.plan import decode_plan
from tuner.database import PlanRow, Reference
from tuner.ledger import read_ledger
from tuner.measure.protocol import COMPILED, WHOLE
from tuner.measure.timing import median, ratio
from tuner.report.values import (
    Candidate,
    ChosenRegion,
    Expected,
    Found,
    FoundRegion,
    LengthData,
    PlanDetail,
    PlanRun,
    Result,
    Run,
    Served,
    plan_key,
)

Row = Mapping[str, Any]


LEDGER = "ledger.jsonl"


def ledger_path(path: Path) -> Path:
    """The ledger in a campaign's output folder, or the ledger itself.

    Raises:
        ConfigError: there is none.
    """
    if path.suffix in (".yaml", ".yml") and not path.is_dir():
        raise ConfigError(
            f"{path} is a campaign file; name the folder that its key `output` names, for example "
            "runs/my-model"
        )
    found = path / LEDGER if path.is_dir() else path
    if not found.is_file():
        raise ConfigError(
            f"there is no ledger at {found}; name a campaign's output folder, and run the campaign "
            "first (autochunk tune CONFIG)"
        )
    return found


def read_run(path: Path) -> Run:
    """All that a ledger knows.

    Args:
        path: a campaign's output folder, or its ledger.

    Raises:
        ConfigError: there is no ledger, or it has no record.
        LedgerError: it is damaged before its last line.
    """
    run = Run(ledger_path(path))
    for record in read_ledger(run.path):
        kind = str(record["kind"])
        run.kinds[kind] += 1
        run.ended = str(record.get("at", run.ended))
        run.started = run.started or run.ended
        read = _READERS.get(kind)
        if read is None:
            continue
        try:
            read(run, record)
        except (AutoChunkError, LookupError, TypeError, ValueError, AttributeError):
            run.passed_over[kind] += 1
    if not run.kinds:
        raise ConfigError(f"{run.path} holds no records yet; run the campaign first")
    return run


def _at(run: Run, record: Row) -> LengthData:
    """The length that a record belongs to, as the model was then: where its graph is another than
    before, nothing of before can be compared."""
    place = (str(record.get("target", run.target)), int(record["length"]))
    graph = str(record.get("graph", ""))
    now = run.lengths.get(place)
    if now is None:
        now = run.lengths[place] = LengthData(*place, graph)
    elif graph and now.graph != graph:
        if now.graph:
            run.set_aside[*place, now.graph] = now
            now = run.set_aside.pop((*place, graph), None) or LengthData(*place, graph)
            run.lengths[place] = now
        else:
            now.graph = graph
    return now


def _campaign(run: Run, record: Row) -> None:
    run.config = dict(record["config"])
    run.budgets = tuple(parse_budget(value) for value in run.config["budgets"])


def _environment(run: Run, record: Row) -> None:
    ceilings = dict(record["ceilings"])
    rates = ceilings.pop("rates", None) or {}
    run.environment, run.ceilings = dict(record["environment"]), ceilings
    run.op_rates = dict(rates.get("ops", {}))


def _target(run: Run, record: Row) -> None:
    run.target = str(record["target"])
    run.refused.pop(run.target, None)  # (what a later session can do was not refused)
    if record.get("status") == "refused":
        run.refused[run.target] = str(record["reason"])


def _baseline(run: Run, record: Row) -> None:
    one = _at(run, record)
    status = str(record["status"])
    if status != "ok":
        one.baseline = status
        one.failures.append(("unchunked model", status, str(record["reason"])))
        return
    samples, peak = record["samples"], int(record["peak"]["activation_bytes"])
    one.unchunked_ms = median(samples["unchunked"]["decisive_ms"])
    one.eager = Reference(peak, median(samples["eager"]["decisive_ms"]))
    one.baseline = status


def _region(run: Run, record: Row) -> None:
    one, key, status = _at(run, record), str(record["class"]), str(record["status"])
    if status != "ok":
        one.failures.append((f"region class {key} alone", status, str(record["reason"])))
        return
    whole = record["samples"][WHOLE]["decisive_ms"]
    one.alone[key] = {
        **one.alone.get(key, {}),
        **{
            int(size): ratio(found["decisive_ms"], whole).median
            for size, found in record["samples"].items()
            if size != WHOLE and not size.endswith(COMPILED)
        },
    }


def _plan(run: Run, record: Row) -> None:
    one, plan = _at(run, record), decode_plan(record["plan"])
    key, status, reason = plan_key(plan), str(record["status"]), str(record.get("reason", ""))
    if status != "ok":
        one.ended[status] += 1
        one.failures.append((f"plan {key}", status, reason))
        # a finalist's second timing may fail where the first did not: what was measured stays
        failed = PlanRun(key, plan, status, reason, expected=one.expected.get(key))
        one.runs.setdefault(key, failed)
        return
    contended = record.get("contended")
    own, beside = record["samples"]["decisive_ms"], record["reference_samples"]["decisive_ms"]
    one.runs[key] = PlanRun(
        key, plan, status, reason, int(record["peak_bytes"]), int(record["predicted_bytes"]),
        float(record["max_abs_diff"]), median(own), ratio(own, beside), len(own),
        one.expected.get(key), None if contended is None else float(contended),
    )  # fmt: skip
    one.ended[status] += 1


def _prediction(run: Run, record: Row) -> None:
    key = plan_key(decode_plan(record["plan"]))
    expected = Expected(
        float(record["ratio"]), float(record["ratio_spread"]), int(record["peak_bytes"]),
        {str(key): int(size) for key, size in record["setting"].items()},
    )  # fmt: skip
    # the first one was made before anything was known of the plan
    _at(run, record).expected.setdefault(key, expected)


def _search(run: Run, record: Row) -> None:
    _at(run, record).rounds[int(record["round"])] = [
        (dict(setting), float(latency_ms), int(peak_bytes))
        for setting, latency_ms, peak_bytes in record["trials"]
    ]


def _scores(run: Run, record: Row) -> None:
    scores = {str(kind): dict(score) for kind, score in record["scores"].items()}
    run.scores[str(record["target"])] = (str(record["used"]), scores)


def _found_region(row: Row) -> FoundRegion:
    return FoundRegion(
        str(row["class"]), str(row["region"]), str(row["dimension"]), str(row["computes"]),
        int(row["nodes"]), int(row["times"]), int(row["extent"]),
    )  # fmt: skip


def _analysis(run: Run, record: Row) -> None:
    _at(run, record).found = Found(
        str(record["graph"]),
        int(record["nodes"]),
        int(record["settings"]),
        int(record["eager_peak_bytes"]),
        int(record["unchunked_peak_bytes"]),
        tuple(int(value) for value in record["timeline_bytes"]),
        {str(op): int(size) for op, size in record["not_understood"].items()},
        tuple(
            Candidate(_found_region(row), int(row["whole_bytes"]), int(row["chunked_bytes"]))
            for row in record["classes"]
        ),
    )


def _plan_detail(row: Row) -> PlanDetail:
    numbers = [float(row[name]) for name in ("latency_ms", "ratio", "ratio_low", "ratio_high")]
    chosen = tuple(
        ChosenRegion(
            _found_region(one), int(one["chunk_size"]), int(one["passes"]),
            int(one["without_bytes"]), float(one["extra_ms"]),
        )
        for one in row["choices"]
    )  # fmt: skip
    return PlanDetail(
        PlanRow(
            decode_plan(row["plan"]), int(row["peak_bytes"]), int(row["predicted_bytes"]), *numbers
        ),
        chosen,
        tuple(int(value) for value in row["timeline_bytes"]),
    )


def _result(run: Run, record: Row) -> None:
    plans = tuple(_plan_detail(row) for row in record["frontier"])
    served = []
    for one in record["budgets"]:
        row = None if one["plan"] is None else plans[int(one["plan"])].row
        served.append(Served(parse_budget(one["budget"]), one["limit_bytes"], row))
    eager = Reference(int(record["eager"]["peak_bytes"]), float(record["eager"]["latency_ms"]))
    _at(run, record).result = Result(str(record["reference"]), eager, tuple(served), plans)


_READERS: Mapping[str, Callable[[Run, Row], None]] = {
    "campaign": _campaign,
    "environment": _environment,
    "target": _target,
    "baseline": _baseline,
    "region": _region,
    "plan": _plan,
    "prediction": _prediction,
    "search": _search,
    "scores": _scores,
    "analysis": _analysis,
    "result": _result,
}
