"""Collecting data for the cost models: what is known is not lost, and not measured again."""

from __future__ import annotations

import argparse
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from experiments import cost_collect
from experiments.cost_collect import collect, export, main, measure_ceilings, sizes_of
from experiments.cost_subjects import CostSubject, exact, subjects_on
from search_space.errors import MeasurementError
from tuner.journal import Journal
from tuner.ledger import Ledger, read_ledger

SUBJECT = subjects_on("cpu")[0]


class Stub:
    """A measurer that records ceilings, or fails after it has begun to."""

    asked = 0
    fails = False

    def __init__(self, config: Any, journal: Journal) -> None:
        self._journal = journal

    def __enter__(self) -> Stub:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def environment(self) -> None:
        type(self).asked += 1
        self._journal.begin(["key"], {"what": "environment"})
        if self.fails:
            raise MeasurementError("it could not be measured")
        self._journal.commit([("environment", {"key": "key", "status": "ok"})])


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> type[Stub]:
    class Own(Stub):
        pass

    monkeypatch.setattr(cost_collect, "Measurer", Own)
    return Own


def kinds(path: Path) -> list[str]:
    return [row["kind"] for row in read_ledger(path)]


def test_ceilings_are_measured_once(stub: type[Stub], tmp_path: Path) -> None:
    for _ in range(2):
        measure_ceilings(SUBJECT, tmp_path)
    assert stub.asked == 1
    assert kinds(tmp_path / cost_collect._CEILINGS) == ["begin", "environment"]
    assert [path.name for path in tmp_path.iterdir()] == [cost_collect._CEILINGS]


def test_ceilings_that_could_not_be_measured_are_not_taken_for_known(
    stub: type[Stub], tmp_path: Path
) -> None:
    stub.fails = True
    with pytest.raises(MeasurementError):
        measure_ceilings(SUBJECT, tmp_path)
    assert list(tmp_path.iterdir()) == []
    stub.fails = False
    measure_ceilings(SUBJECT, tmp_path)
    assert kinds(tmp_path / cost_collect._CEILINGS) == ["begin", "environment"]


def test_a_reference_set_that_is_complete_is_left_alone(
    stub: type[Stub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured_again(subject: CostSubject, folder: Path) -> dict[str, float]:
        raise AssertionError("nothing is to be measured")

    monkeypatch.setattr(cost_collect, "unchunked_ms", measured_again)
    measure_ceilings(SUBJECT, tmp_path)
    path = tmp_path / SUBJECT.name / "reference" / "reference.jsonl"
    with Ledger(path) as ledger:
        for length in SUBJECT.lengths:
            ledger.append("reference", {"length": length})
    collect(SUBJECT, "reference", argparse.Namespace(output=tmp_path))
    assert kinds(path) == ["reference"] * len(SUBJECT.lengths)
    assert stub.asked == 1


def test_nothing_is_written_over_by_nothing(tmp_path: Path) -> None:
    results = tmp_path / "results"
    results.mkdir()
    kept = results / "cost_samples.jsonl.gz"
    kept.write_bytes(b"of an earlier day")
    with Ledger(tmp_path / "runs" / "gpt2" / "profile" / "ledger.jsonl") as ledger:
        ledger.append("environment", {})  # (begun, and no more)
    with Ledger(tmp_path / "runs" / "gpt2" / "reference" / "reference.jsonl") as ledger:
        ledger.append("lengths", {"unchunked_ms": {}})
        ledger.append("reference", {"length": 256})
    export([tmp_path / "runs" / "gpt2"], results)
    assert kept.read_bytes() == b"of an earlier day"
    with gzip.open(results / "cost_reference.jsonl.gz", "rt") as file:
        assert [json.loads(line)["length"] for line in file] == [256]


def test_compiled_passes_go_to_a_file_of_their_own(tmp_path: Path) -> None:
    """Their ledger times the same regions as they are, too, which are no data of theirs."""
    folder, target = tmp_path / "runs" / "gpt2", tmp_path / "data"
    plain, compiled = {"features": {"compiled": 0}}, {"features": {"compiled": 1}}
    for part, samples in {"profile": [plain], "compiled": [plain, compiled]}.items():
        with Ledger(folder / part / "ledger.jsonl") as ledger:
            ledger.append("samples", {"samples": samples})
            ledger.append("samples", {"samples": [plain]})
    export([folder], target)
    rows = list(_rows(target / "cost_compiled.jsonl.gz"))
    assert [row["kind"] for row in rows] == ["compiled"]
    assert rows[0]["samples"] == [compiled]
    assert [row["kind"] for row in _rows(target / "cost_samples.jsonl.gz")] == ["samples"] * 2


def _rows(path: Path) -> list[Any]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def test_a_misspelt_subject_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--output", str(tmp_path / "runs"), "--subjects", "gpt3"])
    assert "no subject gpt3; there are gpt2, vit, esmfold, unet" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_three_sizes_of_a_grid() -> None:
    assert sizes_of((64, 32, 16, 8, 4, 2)) == (64, 16, 4)
    assert sizes_of((4, 2, 1)) == (4, 1)
    assert sizes_of((2,)) == (2,)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_subjects_have_three_lengths_that_grow(device: str) -> None:
    for subject in subjects_on(device):
        assert len(subject.lengths) == 3
        assert list(subject.lengths) == sorted(subject.lengths)
        config = subject.config(Path("runs"))
        assert config.device == device
        assert config.seq_lens == subject.lengths


def test_a_subject_runs_at_its_shortest_length() -> None:
    model, inputs = exact(SUBJECT.factory, SUBJECT.kwargs)
    args, kwargs = inputs(SUBJECT.lengths[0])
    assert model.eval()(*args, **kwargs) is not None
