"""The page of a device's results, made from the runs that are committed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments.device_page import latest_ways, page, read_runs

RESULTS = Path(__file__).parents[2] / "experiments" / "results"


def test_the_committed_page_is_what_the_records_give() -> None:
    for folder in (path for path in RESULTS.iterdir() if any(path.glob("*/summary.json"))):
        text = (folder / "README.md").read_text(encoding="utf-8")
        runs = read_runs(folder)
        pictures = {
            title: name for title in latest_ways(runs)
            if (name := title.partition(",")[0].replace(" ", "-") + ".png") in text
        }  # fmt: skip
        assert page(runs, pictures) == text


def test_the_bars_and_the_rivals_ahead_are_told() -> None:
    def way(mib: int, over_eager: float, over_compile: float) -> dict[str, Any]:
        return {
            "status": "ok", "peak_bytes": mib * 2**20, "predicted_bytes": None, "wrong": "",
            "error": 0.0, "ms": 10 * over_eager, "prepare_s": 1.0, "first_call_s": 1.0,
            "over_eager": [over_eager] * 3, "over_compile": [over_compile] * 3,
        }  # fmt: skip

    ways = {
        "eager": way(1000, 1.0, 2.0), "compile": way(500, 0.5, 1.0),
        "ours 0.1": way(100, 0.6, 1.2), "ours 0.2 compiled": way(120, 0.52, 1.04),
    }  # fmt: skip
    record = {"key": "gpt2", "dtype": "float32", "length": 2, "ways": ways}
    summary = {
        "environment": {"device": "a GPU"}, "commit": "c", "command": "run", "tests": "none",
        "campaigns": [{"case": "gpt2", "problem": "OSError: disk"},
                      {"case": "vit", "problem": "not started: no time left"}],
    }  # fmt: skip
    text = page({"a": {"summary": summary, "subjects": [record], "longest": []}}, {})
    # the time bar of 1.05 is met by the second, which takes 0.24 of the peak
    assert "| gpt2 | ours 0.2 compiled | a | 1.040 | 1.05 | 0.240 | 0.30 |" in text
    assert "Below and left of ours: compile." in text
    assert "| gpt2 | a | OSError: disk |" in text and "no time left" not in text
    ways["ours 1.0 compiled"] = way(505, 0.51, 1.02)
    text = page({"a": {"summary": summary, "subjects": [record], "longest": []}}, {})
    assert "No rival is below and left of ours" in text


def test_a_way_that_failed_later_keeps_what_was_measured_before() -> None:
    good, bad = {"status": "ok", "peak_bytes": 1}, {"status": "oom", "reason": "memory"}
    runs = {
        name: {"subjects": [{"key": "k", "dtype": "float32", "length": 2, "ways": {"eager": way}}]}
        for name, way in (("a", good), ("b", bad))
    }
    assert latest_ways(runs) == {"k float32, length 2": {"eager": ("a", good)}}
