"""The page of a device's results, made from the runs that are committed."""

from __future__ import annotations

from pathlib import Path

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


def test_a_way_that_failed_later_keeps_what_was_measured_before() -> None:
    good, bad = {"status": "ok", "peak_bytes": 1}, {"status": "oom", "reason": "memory"}
    runs = {
        name: {"subjects": [{"key": "k", "dtype": "float32", "length": 2, "ways": {"eager": way}}]}
        for name, way in (("a", good), ("b", bad))
    }
    assert latest_ways(runs) == {"k float32, length 2": {"eager": ("a", good)}}
