"""The device suite's CPU path, so that it works the first time it meets a GPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("transformers")

from experiments import gpu_suite
from tuner.database import read_file
from tuner.ledger import read_ledger


@pytest.mark.timeout(600)
def test_the_suite_leaves_few_small_files_and_a_table(tmp_path: Path) -> None:
    out = tmp_path / "results"
    arguments = ["--device", "cpu", "--tiny", "--minutes", "8", "--no-tests", "--out", str(out)]
    assert gpu_suite.main(arguments) == 0
    files = {path.name: path.stat().st_size for path in out.iterdir()}
    assert set(files) == {
        "ledger.jsonl", "plans-gpt2.yaml", "plans-vit.yaml", "frontiers.png", "summary.md",
        "summary.json",
    }  # fmt: skip
    assert max(files.values()) < 2**20
    rows = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert len(rows) >= 3
    for row in rows:
        assert row["peak_bytes"] == pytest.approx(row["predicted_bytes"], rel=0.05)
    assert "| gpt2 eager float32 256 | 0.5 |" in (out / "summary.md").read_text(encoding="utf-8")
    assert read_file(out / "plans-gpt2.yaml").graphs
    assert sum(record["kind"] == "plan" for record in read_ledger(out / "ledger.jsonl")) >= 4


def test_what_does_not_fit_in_the_time_is_said(tmp_path: Path) -> None:
    out = tmp_path / "results"
    arguments = ["--device", "cpu", "--tiny", "--minutes", "0.01", "--no-tests", "--out", str(out)]
    assert gpu_suite.main(arguments) == 1
    assert "not started: no time left" in (out / "summary.md").read_text(encoding="utf-8")
