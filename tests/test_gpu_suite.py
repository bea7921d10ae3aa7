"""The device suite's CPU path, so that it works the first time it meets a GPU."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

pytest.importorskip("transformers")

from experiments import gpu_suite
from tuner.database import read_file
from tuner.ledger import read_ledger

TINY = ["--device", "cpu", "--tiny", "--parts", "subjects", "campaigns"]


@pytest.mark.timeout(600)
def test_the_suite_leaves_few_small_files_and_tables(tmp_path: Path) -> None:
    out = tmp_path / "results"
    arguments = [*TINY, "--minutes", "8", "--rounds", "2", "--workspaces", "--out", str(out)]
    assert gpu_suite.main(arguments) == 0
    files = {path.name: path.stat().st_size for path in out.iterdir()}
    assert set(files) == {
        "ledger.jsonl", "plans-gpt2.yaml", "frontiers.png", "summary.md", "summary.json",
        "subjects.json.gz",
    }  # fmt: skip
    assert max(files.values()) < 2**20
    text = (out / "summary.md").read_text(encoding="utf-8")
    assert "| gpt2 float32 256 | 0.5 |" in text

    with gzip.open(out / "subjects.json.gz", "rt", encoding="utf-8") as file:
        (subject,) = json.load(file)
    statuses = {name: way["status"] for name, way in subject["ways"].items()}
    assert statuses["eager"] == statuses["ours 0.5"] == statuses["ours min"] == "ok"
    assert "ours 0.12" in statuses  # a toy may not go so low, and says so
    for way in subject["ways"].values():
        if way["status"] == "ok":
            assert way["ms"] > 0
            assert way["error"] <= 1e-5
            assert way["predicted_bytes"] == pytest.approx(way["peak_bytes"], rel=0.03)
    kinds = subject["workspaces"]
    assert len({kind["op"] for kind in kinds}) > 5
    for kind in kinds:
        assert kind["told_bytes"] == pytest.approx(kind["measured_bytes"], rel=0.03, abs=4096)

    campaigns = json.loads((out / "summary.json").read_text(encoding="utf-8"))["campaigns"]
    assert len(campaigns) == 2
    for row in campaigns:
        assert row["peak_bytes"] == pytest.approx(row["predicted_bytes"], rel=0.05)
    assert read_file(out / "plans-gpt2.yaml").graphs
    assert sum(record["kind"] == "plan" for record in read_ledger(out / "ledger.jsonl")) >= 2


def test_what_does_not_fit_in_the_time_is_said(tmp_path: Path) -> None:
    out = tmp_path / "results"
    arguments = [*TINY[:-2], "campaigns", "--minutes", "0.01", "--out", str(out)]
    assert gpu_suite.main(arguments) == 1
    assert "not started: no time left" in (out / "summary.md").read_text(encoding="utf-8")
