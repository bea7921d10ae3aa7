"""A campaign's ledger as Optuna studies, for its dashboard or for Optuna's own plots.

Each length gives two studies: every plan that was predicted, and every plan that ran. A class of
regions is a parameter, its chunk size the value, 0 for "leave alone"; both objectives, time over
the reference's and peak in MiB, are minimised.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import optuna
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from search_space.errors import ConfigError
from tuner.report.read import read_run
from tuner.report.values import Found, LengthData

MIB = 2**20
LEAVE_ALONE = 0


def export_studies(run_path: Path, output: Path | None = None) -> Path:
    """Write the studies of a campaign to a journal file of Optuna's, and give its path.

    Args:
        run_path: the campaign's output folder, or its ledger.
        output: the file; ``study.journal`` beside the ledger where none is given. It is replaced.

    Raises:
        ConfigError: there is no ledger, or nothing was searched yet, or it cannot be written.
        LedgerError: the ledger is damaged.
    """
    run = read_run(run_path)
    lengths = [one for one in run.lengths.values() if one.found is not None]
    if not lengths:
        raise ConfigError(f"{run.path} holds no search yet; run the campaign first")
    path = output or run.path.with_name("study.journal")
    fresh = path.with_name(f"{path.name}.new")
    logging.getLogger("optuna").setLevel(logging.WARNING)
    try:
        fresh.unlink(missing_ok=True)
        storage = JournalStorage(JournalFileBackend(str(fresh)))
        name = str(run.config.get("campaign", "campaign"))
        for one in lengths:
            assert one.found is not None
            space = _Space(one.found, one)
            for title, trials in (
                ("predicted", space.predicted(one)), ("measured", space.measured(one))
            ):  # fmt: skip
                study = optuna.create_study(
                    storage=storage, study_name=f"{name}, {one.place}: {title}",
                    directions=("minimize", "minimize"),
                )  # fmt: skip
                _name_objectives(study)
                study.add_trials(list(trials))
        fresh.replace(path)
    except OSError as error:
        raise ConfigError(
            f"the studies cannot be written to {path}: {error}; name another place"
        ) from error
    return path


def _name_objectives(study: optuna.Study) -> None:
    with warnings.catch_warnings():
        # names are shown and nothing rests on them
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names(["time ratio", "peak MiB"])


class _Space:
    """The parameters of one length: a name that a person can read, and the extent, per class.
    Classes that no plan runs in chunks are left out."""

    def __init__(self, found: Found, one: LengthData) -> None:
        used = {key for trials in one.rounds.values() for trial in trials for key in trial[0]}
        used.update(key for told in one.expected.values() for key in told.setting)
        classes = [item.found for item in found.candidates if item.found.key in used]
        self._names = {item.key: f"{item.region} [{item.key[:6]}]" for item in classes}
        self._distributions: dict[str, BaseDistribution] = {
            self._names[item.key]: IntDistribution(LEAVE_ALONE, item.extent) for item in classes
        }

    def predicted(self, one: LengthData) -> Iterator[FrozenTrial]:
        """Plans as the search saw them."""
        base = one.eager.latency_ms or one.unchunked_ms or 1.0
        for number, trials in one.rounds.items():
            for setting, latency_ms, peak_bytes in trials:
                yield self._trial(setting, (latency_ms / base, peak_bytes / MIB), {"round": number})

    def measured(self, one: LengthData) -> Iterator[FrozenTrial]:
        """Plans that ran; those that failed have no values."""
        for run in one.runs.values():
            told: dict[str, str | int] = {"plan": run.key, "status": run.status}
            if run.reason:
                told["reason"] = run.reason
            values = None
            if run.ratio is not None:
                values = (run.ratio.median, run.peak_bytes / MIB)
            # a plan that ran without a prediction is shown without parameters
            setting = run.expected.setting if run.expected is not None else None
            yield self._trial(setting, values, told)

    def _trial(
        self,
        setting: Mapping[str, int] | None,
        values: tuple[float, float] | None,
        told: Mapping[str, str | int],
    ) -> FrozenTrial:
        params = {} if setting is None else dict.fromkeys(self._distributions, LEAVE_ALONE)
        params.update({self._names[key]: size for key, size in (setting or {}).items()})
        return create_trial(
            state=TrialState.FAIL if values is None else TrialState.COMPLETE,
            values=values,
            params=params,
            distributions={name: self._distributions[name] for name in params},
            user_attrs=dict(told),
        )
