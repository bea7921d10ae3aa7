"""What a plan database has for a captured graph, here and now."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from tuner.database import read_database
from tuner.entries import GraphEntry, ModelFile
from tuner.measure.backends import backend_for
from tuner.validity import Judgement, judge

log = logging.getLogger("autochunk")


@dataclass(frozen=True)
class Judged:
    """An entry, the file that it stands in, and the verdict on it.

    Attributes:
        entry: all of it, whatever the verdict.
        judgement: the best of its lengths' verdicts, which may have been tuned in several places,
            with the reasons of all.
        usable: what plans may be chosen from; without lengths where there is nothing.
    """

    file: ModelFile
    entry: GraphEntry
    judgement: Judgement
    usable: GraphEntry


class Plans:
    """The entries of a database by graph. Where several files have one graph, the entry of the best
    verdict goes first.

    Args:
        here: the present environment, as a measuring backend gives it.
        device: whose environment that is; an empty text where it is of no account.
    """

    def __init__(
        self, files: Sequence[ModelFile], here: Mapping[str, str], device: str = ""
    ) -> None:
        self._files = tuple(files)
        self._device = device
        self._elsewhere: dict[str, Plans] = {}
        self._found: dict[str, Judged] = {}
        self._said: set[tuple[str, str]] = set()
        for file in sorted(files, key=lambda file: str(file.path)):
            for entry in file.graphs:
                judged = judge_entry(file, entry, here)
                known = self._found.get(entry.fingerprint)
                if known is None or judged.judgement.verdict < known.judgement.verdict:
                    self._found[entry.fingerprint] = judged

    def __bool__(self) -> bool:
        return bool(self._found)

    def on(self, device: str) -> Plans:
        """The same, judged for a device: a model may be moved after its plans were read."""
        if device == self._device or not self._files:
            return self
        if device not in self._elsewhere:
            here = backend_for(device).environment()
            self._elsewhere[device] = Plans(self._files, here, device)
        return self._elsewhere[device]

    def judged(self, fingerprint: str) -> Judged | None:
        """What there is for a graph, whatever the verdict."""
        return self._found.get(fingerprint)

    def entry(self, fingerprint: str, who: str = "this model") -> GraphEntry | None:
        """The usable entry of a graph. Says once, in one line, what is not as it could be.

        Args:
            who: for messages: whose graph it is.
        """
        judged = self._found.get(fingerprint)
        if judged is None:
            if self._found:
                self._warn(
                    fingerprint,
                    f"the plan database has nothing for {who} as called (graph {fingerprint}); "
                    "choosing analytically. Was it tuned with another dtype, device, attention "
                    "implementation or torch version?",
                )
            return None
        if not judged.judgement.verdict.usable:
            self._warn(
                fingerprint,
                f"the plans of {who} in {judged.file.path} are not used ({judged.judgement}); "
                "choosing analytically. Tune again, or confirm them with autochunk plans verify",
            )
            return None
        if judged.judgement.reasons and ("", fingerprint) not in self._said:
            self._said.add(("", fingerprint))
            log.info("autochunk: the plans of %s are %s", who, judged.judgement)
        return judged.usable

    def _warn(self, fingerprint: str, text: str) -> None:
        if (text, fingerprint) not in self._said:
            self._said.add((text, fingerprint))
            log.warning("autochunk: %s", text)


def judge_entry(file: ModelFile, entry: GraphEntry, here: Mapping[str, str]) -> Judged:
    """The verdict on an entry, part by part."""
    parts = [(part, judge(file, part, here)) for part in entry.parts()]
    good = [part for part, judgement in parts if judgement.verdict.usable]
    best = min(judgement.verdict for _, judgement in parts)
    reasons = dict.fromkeys(reason for _, judgement in parts for reason in judgement.reasons)
    usable = entry if len(good) == len(parts) else entry.with_lengths(good)
    return Judged(file, entry, Judgement(best, tuple(reasons)), usable)


NOTHING = Plans((), {})
"""No database."""


def load_plans(path: str | Path, model: torch.nn.Module) -> Plans:
    """A database, judged for the device that a model is on.

    Raises:
        DatabaseError: it does not exist or is damaged.
    """
    device = device_of(model)
    plans = Plans(read_database(Path(path)), backend_for(device).environment(), device)
    if not plans:
        log.warning("autochunk: the plan database %s is empty; choosing analytically", path)
    return plans


def device_of(model: torch.nn.Module) -> str:
    """The device of a model's weights, ``cpu`` where it has none."""
    parameter = next(model.parameters(), None)
    return "cpu" if parameter is None else str(parameter.device)
