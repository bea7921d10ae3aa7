"""The command line: what it prints, and how it refuses bad input."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from search_space.space import SearchSpace
from tests.tuner.campaigns import campaign, write
from tuner.cli import main


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one message of a command that must end with exit code 2."""
    assert main(arguments) == 2
    printed = capsys.readouterr()
    progress, error, message = printed.err.partition("autochunk: error: ")
    assert error, printed.err
    assert not progress or progress.endswith("\n")
    assert "Traceback" not in printed.err
    return message


def test_inspect_shows_classes_profile_and_estimate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, campaign(tmp_path))
    assert main(["inspect", str(path), "--seq-len", "128"]) == 0
    text = capsys.readouterr().out
    assert "blocks at length 128" in text
    assert "region classes at length 128" in text
    assert "unchunked (peak" in text
    assert "analytic estimate at length 128" in text
    assert not (tmp_path / "runs").exists(), "nothing may be run or written"
    assert "the first 20 of" in text
    assert main(["inspect", str(path), "--seq-len", "128", "--all"]) == 0
    everything = capsys.readouterr().out
    assert "the first 20 of" not in everything
    assert len(everything.splitlines()) > len(text.splitlines())


def test_a_dry_run_tells_the_size_of_the_space_and_the_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # several hundred classes have more settings than a float can count
    monkeypatch.setattr(SearchSpace, "size", 10**400)
    path = write(tmp_path, campaign(tmp_path))
    assert main(["tune", str(path), "--dry-run", "--set", "confirm.top_k=4"]) == 0
    text = capsys.readouterr().out
    assert "settings" in text
    assert "1.00e+400" in text
    # two baselines, and for each of two budgets the analytic plan and four in each of two rounds
    assert "at most 20" in text
    assert "about " in text
    assert not (tmp_path / "runs").exists()


def test_tune_then_list_and_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = campaign(tmp_path, seq_lens=[96], budgets=[0.5])
    values["search"] = {"n_trials": 20, "rounds": 1}
    path = write(tmp_path, values)
    assert main(["tune", str(path)]) == 0
    printed = capsys.readouterr()
    assert "confirmed plans" in printed.out
    assert "plans written to" in printed.out
    assert "cost model used" in printed.err
    assert main(["plans", "list", str(tmp_path / "plans")]) == 0
    assert "blocks" in capsys.readouterr().out
    assert main(["plans", "show", str(tmp_path / "plans")]) == 0
    assert "time ratio" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seq_lens": [0]}, "seq_lens[0] must be a positive whole number"),
        ({"seq_lens": [-5]}, "seq_lens[0] must be a positive whole number"),
        ({"seq_len": [5]}, "did you mean seq_lens?"),
        ({"budgets": ["some"]}, "budgets[0]"),
        ({"device": "tpu"}, "device must be auto, cpu, cuda or cuda:N"),
        ({"model": {"id": "m"}}, "model.factory is missing"),
        ({"search": {"trials": 3}}, "did you mean search.n_trials?"),
    ],
)
def test_a_wrong_key_or_value_is_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], message: str
) -> None:
    path = write(tmp_path, campaign(tmp_path, **changes))
    for command in (["tune"], ["tune", "--dry-run"], ["inspect"]):
        text = refusal(capsys, *command, str(path))
        assert message in text
        assert str(path) in text


def test_bad_yaml_names_file_and_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("campaign: x\nmodel: {id: [\n", encoding="utf-8")
    text = refusal(capsys, "tune", str(path))
    assert "bad.yaml, line" in text
    assert "not valid YAML" in text


def test_a_missing_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "none.yaml" in refusal(capsys, "inspect", str(tmp_path / "none.yaml"))
    assert "no plan database" in refusal(capsys, "plans", "list", str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("no_such_package.module:make", "cannot be imported"),
        ("nowhere.py:make", "there is no file 'nowhere.py'"),
        ("tests.tuner.small_factory:block", "did you mean 'blocks'?"),
        ("tests.tuner.small_factory:no_model", "must return (model, inputs)"),
        ("blocks", "must be 'package.module:function'"),
    ],
)
def test_a_factory_that_cannot_be_used_is_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], factory: str, message: str
) -> None:
    path = write(tmp_path, campaign(tmp_path, model={"id": "m", "factory": factory}))
    assert message in refusal(capsys, "inspect", str(path))


def test_a_factory_that_cannot_be_used_stops_a_campaign(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = campaign(tmp_path, model={"id": "m", "factory": "no_such_package:make"})
    assert "cannot be imported" in refusal(capsys, "tune", str(write(tmp_path, values)))


def test_a_budget_that_no_plan_meets_names_the_lowest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, campaign(tmp_path, budgets=[0.01], seq_lens=[96]))
    for command in ("tune", "inspect"):
        text = refusal(capsys, command, str(path))
        assert "budget 0.01 at length 96" in text
        assert "the lowest known needs" in text


def test_a_length_on_the_command_line_must_be_positive(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, campaign(tmp_path))
    assert "--seq-len" in refusal(capsys, "inspect", str(path), "--seq-len", "0")


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tuner", "tune", str(tmp_path / "none.yaml"), "--debug"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "Traceback" in done.stderr
    assert "ConfigError" in done.stderr
