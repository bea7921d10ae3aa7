"""Choices without tuning, on a tiny subject."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

from cost_models.assumed import default_ceilings
from experiments import untuned
from experiments.subjects import Bar, gpt2

TINY = Bar(
    "tiny", "a tiny GPT-2",
    partial(gpt2, layers=1, width=32, heads=2, positions=64, attention="eager", batch=1),
    length=64, eager_mb=1.0, share=0.5, time_ratio=1.0,
)  # fmt: skip


def test_plans_of_all_ways_are_judged(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(untuned, "BARS", (TINY,))
    monkeypatch.setattr(untuned, "measure_ceilings", lambda backend: default_ceilings("cpu"))
    page = tmp_path / "page.md"
    assert untuned.main(["--rounds", "1", "--threads", "1", "--output", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    assert "a tiny GPT-2" in text and "**" not in text
    rows = [line.split(" | ") for line in text.splitlines() if "rates" in line or "plain r" in line]
    assert {row[1] for row in rows} == set(untuned.ways(default_ceilings("cpu")))
    # what is measured was assumed here, so that both choose alike
    told = {way: [(r[0], r[2], r[3]) for r in rows if r[1] == way] for way in {r[1] for r in rows}}
    assert told["assumed rates"] == told["measured rates"] != []


def test_a_wrong_output_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(untuned, "BARS", (TINY,))
    monkeypatch.setattr(untuned, "measure_ceilings", lambda backend: default_ceilings("cpu"))
    monkeypatch.setattr("experiments.untuned.TOLERANCE", {torch.float32: -1.0})
    page = tmp_path / "page.md"
    assert untuned.main(["--rounds", "1", "--threads", "1", "--output", str(page)]) == 1
    assert "**" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("given", [["nothing"], ["--rounds", "0"]])
def test_mistakes_are_told(given: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        untuned.main(given)
    assert caught.value.code == 2
