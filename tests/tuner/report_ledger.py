"""A small ledger written by hand: one finished length, one that was cut short, hostile names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from search_space.plan import Choice, Plan, Region, encode_plan
from tuner.ledger import Ledger

MIB = 2**20
EVIL = '<script>alert("x")</script>&$x$'


def plan(chunk_size: int) -> Plan:
    """A plan that differs by its chunk size alone."""
    return Plan("f" * 16, (Choice((Region((3, 4), (1, 1)),), chunk_size),))


def region(**more: Any) -> dict[str, Any]:
    """A region class as a record tells it."""
    return {
        "class": "abcdef012345", "region": f"blocks.{EVIL}", "dimension": f"dimension 1 of {EVIL}",
        "computes": "matmul, softmax", "nodes": 2, "times": 3, "extent": 64, **more,
    }  # fmt: skip


def samples(*values: float) -> dict[str, list[float]]:
    return {"decisive_ms": list(values), "wall_ms": list(values)}


def prediction(chunk_size: int, ratio: float, length: int = 512) -> dict[str, Any]:
    return {
        "target": "", "length": length, "plan": encode_plan(plan(chunk_size)),
        "setting": {"abcdef012345": chunk_size}, "ratio": ratio, "ratio_spread": 0.02,
        "peak_bytes": (10 + chunk_size) * MIB,
    }  # fmt: skip


def ok(chunk_size: int, ratio: float, length: int = 512, difference: float = 0.0) -> dict[str, Any]:
    """A plan that ran: its peak grows with its chunk size."""
    beside = [100.0, 101.0, 102.0, 103.0, 104.0, 105.0]
    return {
        "length": length, "plan": encode_plan(plan(chunk_size)), "status": "ok", "reason": "",
        "peak_bytes": (10 + chunk_size) * MIB, "requested_bytes": (10 + chunk_size) * MIB,
        "predicted_bytes": (10 + chunk_size) * MIB - MIB // 10, "max_abs_diff": difference,
        "samples": samples(*(ratio * value for value in beside)),
        "reference_samples": samples(*beside),
    }  # fmt: skip


def failed(chunk_size: int, status: str, reason: str, length: int = 512) -> dict[str, Any]:
    row = encode_plan(plan(chunk_size))
    return {"length": length, "plan": row, "status": status, "reason": reason}


def frontier_row(chunk_size: int, ratio: float) -> dict[str, Any]:
    return {
        "plan": encode_plan(plan(chunk_size)), "peak_bytes": (10 + chunk_size) * MIB,
        "predicted_bytes": (10 + chunk_size) * MIB, "latency_ms": 100 * ratio, "ratio": ratio,
        "ratio_low": ratio - 0.01, "ratio_high": ratio + 0.01,
        "choices": [region(chunk_size=chunk_size, passes=64 // chunk_size,
                           without_bytes=90 * MIB, extra_ms=-4.5)],
        "timeline_bytes": [MIB, (10 + chunk_size) * MIB, MIB],
    }  # fmt: skip


def baseline(length: int) -> dict[str, Any]:
    return {
        "length": length, "graph": "f" * 16, "status": "ok",
        "peak": {"activation_bytes": 100 * MIB, "reserved_bytes": 0, "requested_bytes": 100 * MIB},
        "samples": {"eager": samples(100, 101, 102), "unchunked": samples(99, 100, 101)},
    }  # fmt: skip


def analysis(length: int) -> dict[str, Any]:
    return {
        "target": "", "length": length, "graph": "f" * 16, "nodes": 40, "settings": 10**40,
        "eager_peak_bytes": 99 * MIB, "unchunked_peak_bytes": 95 * MIB,
        "timeline_bytes": [MIB, 95 * MIB, 2 * MIB], "not_understood": {f"odd.{EVIL}": 3 * MIB},
        "classes": [region(whole_bytes=90 * MIB, chunked_bytes=5 * MIB, chunk_sizes=[32, 16])],
    }  # fmt: skip


def write_ledger(folder: Path) -> Path:
    """Write it; 512 is finished, 1024 has one run."""
    config = {
        "campaign": EVIL, "model": {"id": EVIL, "factory": "f.py:g", "targets": None},
        "seq_lens": [512, 1024], "device": "cpu", "budgets": [0.5, "min", "1MiB"],
        "plans": "plans",
    }  # fmt: skip
    with Ledger(folder / "ledger.jsonl") as ledger:
        ledger.append("campaign", {"config": config})
        ledger.append("environment", {
            "environment": {"device_name": EVIL, "torch": "2.13"},
            "ceilings": {
                "launch_s": 1e-6, "copy_bytes_per_s": 1e10,
                "rates": {"ops": {
                    EVIL: {"launch_s": 1.25e-6, "element_s": 2e-9, "row_s": 3e-9},
                }},
            },
        })  # fmt: skip
        for length in (512, 1024):
            ledger.append("analysis", analysis(length))
            ledger.append("baseline", baseline(length))
        ledger.append("region", {
            "length": 512, "class": "abcdef012345", "status": "ok",
            "samples": {"whole": samples(2, 2, 2), "16": samples(1, 1, 1), "8": samples(3, 3, 3)},
        })  # fmt: skip
        ledger.append("region", {
            "length": 512, "class": "abcdef012345", "status": "ok",
            "samples": {"whole": samples(2, 2, 2), "16*": samples(0.1, 0.1, 0.1)},
        })  # fmt: skip
        ledger.append("scores", {
            "target": "", "used": "roofline",
            "scores": {"roofline": {"kind": "roofline", "held_out": "lengths", "samples": 20,
                                    "pairs": 30, "pairwise_accuracy": 0.9, "spearman": None,
                                    "regret": 0.01, "error": 0.1, "coverage": 0.95}},
        })  # fmt: skip
        ledger.append("search", {
            "target": "", "length": 512, "round": 0,
            "trials": [[{}, 100.0, 95 * MIB], [{"abcdef012345": 16}, 80.0, 26 * MIB]],
        })  # fmt: skip
        ledger.append("prediction", prediction(16, 0.8))
        ledger.append("plan", ok(16, 0.9))
        ledger.append("prediction", prediction(16, 0.91))
        ledger.append("plan", {**ok(16, 0.75), "contended": 0.31})
        ledger.append("plan", ok(32, 0.7, difference=2e-6))
        ledger.append("plan", failed(4, "oom", f"no memory {EVIL}"))
        ledger.append("plan", failed(4, "oom", f"no memory {EVIL}"))
        ledger.append("prediction", prediction(2, 1.4))
        ledger.append("plan", failed(2, "crash", "signal 11"))
        ledger.append("result", {
            "target": "", "length": 512, "reference": "eager",
            "eager": {"peak_bytes": 100 * MIB, "latency_ms": 101.0},
            "budgets": [{"budget": 0.5, "limit_bytes": 50 * MIB, "plan": 1},
                        {"budget": "min", "limit_bytes": None, "plan": 0},
                        {"budget": MIB, "limit_bytes": MIB, "plan": None}],
            "frontier": [frontier_row(16, 0.75), frontier_row(32, 0.7)],
        })  # fmt: skip
        ledger.append("plan", ok(20, 1.1, length=1024))
    return folder / "ledger.jsonl"
