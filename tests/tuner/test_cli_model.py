"""Cost models from the command line: profiled, shown, fitted again, and used to foresee."""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from pathlib import Path

import pytest

from cost_models.stored import read_model
from tests.tuner.campaigns import campaign, write
from tuner.cli import main
from tuner.ledger import read_ledger
from tuner.region_samples import read_baselines, read_samples

Profile = tuple[Path, Path, str]


@pytest.fixture(scope="module")
def profiled(tmp_path_factory: pytest.TempPathFactory) -> Profile:
    """The folder, the campaign file and the printed text of one profile of two lengths."""
    folder = tmp_path_factory.mktemp("profile")
    path = write(folder, campaign(folder))
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(["profile", str(path), "--seconds", "2"]) == 0
    return folder, path, printed.getvalue()


def test_a_profile_keeps_every_timing_in_the_ledger(profiled: Profile) -> None:
    folder, _, text = profiled
    ledger = folder / "runs" / "ledger.jsonl"
    assert str(ledger) in text
    kinds = Counter(row["kind"] for row in read_ledger(ledger))
    assert kinds["profile"] == 1 and kinds["unchunked"] == 2
    assert kinds["region"] == kinds["samples"] >= 4
    samples = read_samples(ledger)
    assert {one.length for one in samples} == {96, 160}
    assert {one.model for one in samples} == {"blocks"}
    assert all(one.whole_ms > 0 and one.again is not None for one in samples)
    assert [one.length for one in read_baselines(ledger)] == [96, 160]


def test_a_profile_writes_a_model_and_its_card(
    profiled: Profile, capsys: pytest.CaptureFixture[str]
) -> None:
    path = profiled[0] / "runs" / "model.json.gz"
    stored = read_model(path)
    assert stored.card is not None and stored.card.models == ("blocks",)
    assert {one.held_out for one in stored.card.scores} == {"lengths"}
    assert len(stored.baselines) == 2
    assert main(["model", "card", str(path)]) == 0
    text = capsys.readouterr().out
    assert "held-out lengths" in text
    for kind in ("learned", "forest", "linear", "roofline", "macro_micro", "(a repetition)"):
        assert kind in text


def test_a_model_is_fitted_again_from_the_ledger(
    profiled: Profile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger, again = profiled[0] / "runs" / "ledger.jsonl", tmp_path / "again.json.gz"
    arguments = ["model", "fit", str(ledger), "--output", str(again), "--kind", "linear"]
    assert main(arguments) == 0
    assert "cost model written to" in capsys.readouterr().out
    assert len(read_model(again).samples) == len(read_samples(ledger))
    assert read_model(again).model.kind in ("linear", "roofline")


def test_a_length_that_was_never_measured_is_foreseen(
    profiled: Profile, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, path, _ = profiled
    model = folder / "runs" / "model.json.gz"
    before = (folder / "runs" / "ledger.jsonl").read_bytes()
    assert main(["inspect", str(path), "--seq-len", "128", "--cost-model", str(model)]) == 0
    text = capsys.readouterr().out
    assert "foreseen at length 128" in text
    table = text[text.index("foreseen at length 128"):]
    assert " ms" in table and " to " in table
    assert (folder / "runs" / "ledger.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model", "card", "nowhere.json.gz"], "cannot be read"),
        (["model", "fit", "nowhere.jsonl", "--output", "m.gz"], "there is no ledger"),
        (["model", "fit", "x", "--output", "m.gz", "--kind", "best"], "--kind must be one of"),
        (["profile", "c.yaml", "--seconds", "0"], "--seconds must be more than 0"),
    ],
)
def test_wrong_arguments_are_one_message(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
