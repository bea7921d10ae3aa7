"""A campaign's ledger as Optuna studies."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from search_space.errors import ConfigError
from tests.tuner.report_ledger import EVIL, write_ledger
from tuner.cli import main
from tuner.ledger import Ledger
from tuner.study_export import export_studies


def test_every_predicted_and_every_measured_plan_is_a_trial(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_ledger(tmp_path)
    for _ in range(2):  # the second replaces the first
        assert main(["report", str(tmp_path), "--study"]) == 0
    assert "optuna-dashboard" in capsys.readouterr().out
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "study.journal")))
    studies = {name: optuna.load_study(study_name=name, storage=storage)
               for name in optuna.get_all_study_names(storage)}  # fmt: skip
    assert list(studies) == [
        f"{EVIL}, length {length}: {kind}"
        for length in (512, 1024) for kind in ("predicted", "measured")
    ]  # fmt: skip
    name = f"blocks.{EVIL} [abcdef]"
    predicted, measured, _, later = studies.values()
    assert [trial.params for trial in predicted.trials] == [{name: 0}, {name: 16}]
    assert predicted.trials[1].values == [pytest.approx(80 / 101), 26.0]
    states = [trial.state for trial in measured.trials]
    assert states == [TrialState.COMPLETE] * 2 + [TrialState.FAIL] * 2
    assert measured.trials[0].values == [pytest.approx(0.75), 26.0]
    assert measured.trials[2].user_attrs["status"] == "oom"
    assert [trial.params for trial in measured.trials] == [{name: 16}, {}, {}, {name: 2}]
    assert measured.metric_names == ["time ratio", "peak MiB"]
    assert len(later.trials) == 1


def test_a_campaign_that_has_not_searched_yet_is_named(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.jsonl") as ledger:
        ledger.append("campaign", {"config": {"campaign": "new", "budgets": [0.5]}})
    with pytest.raises(ConfigError, match="no search yet"):
        export_studies(tmp_path)
    assert not (tmp_path / "study.journal").exists()
