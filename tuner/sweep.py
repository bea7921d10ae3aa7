"""Several campaigns in one file, one after the other: models and lengths of one night.

Each entry of ``sweep:`` changes some of the file's other keys, sections key by key::

    campaign: night
    budgets: [0.5, 0.3]
    preset: overnight
    sweep:
    - {model: {id: small, factory: models.py:make, kwargs: {layers: 4}}, seq_lens: [512, 1024]}
    - {model: {id: large, factory: models.py:make, kwargs: {layers: 24}}, seq_lens: [1024]}

Every entry has a ledger of its own, in a folder of its model's name, and all share one plan
database. Short lengths come first: they are cheap, and what was timed there trains the cost model
of those that follow. Limits are for the whole: each campaign may take an equal part of what is
left.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cost_models.base import Sample
from search_space.errors import AutoChunkError, ConfigError
from tuner.campaign import run_campaign
from tuner.campaign_result import CampaignResult
from tuner.config import CampaignConfig, LimitsConfig, parse_config
from tuner.config_file import overridden, read_values
from tuner.database import slug
from tuner.journal import Spent, spent_in
from tuner.progress import Progress


@dataclass(frozen=True)
class Member:
    """One campaign of a sweep and what came of it: a result, or why there is none."""

    config: CampaignConfig
    result: CampaignResult | None = None
    error: AutoChunkError | None = None


def load_sweep(path: Path, overrides: Sequence[str] = ()) -> tuple[CampaignConfig, ...]:
    """The campaigns of a file, in the order in which they run; one where it has no ``sweep``.

    Args:
        overrides: as for :func:`tuner.config.load_config`; they hold for all campaigns, but those
            of ``sweep`` itself.

    Raises:
        ConfigError: the file or an override is wrong; names the key, the cause and the remedy.
    """
    data = read_values(path, overrides)
    folder = path.resolve().parent
    try:
        if "sweep" not in data:
            return (parse_config(data, folder),)
        inner = [one for one in overrides if not one.strip().startswith("sweep")]
        return _members(data, folder, inner)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _members(
    data: dict[str, Any], folder: Path, overrides: Sequence[str] = ()
) -> tuple[CampaignConfig, ...]:
    entries = data.pop("sweep")
    if not isinstance(entries, list) or not entries:
        raise ConfigError(
            "sweep must be a list of changes such as [{seq_lens: [512]}, {seq_lens: [1024]}], "
            f"got {entries!r}"
        )
    found = []
    for place, entry in enumerate(entries):
        if not isinstance(entry, Mapping) or "sweep" in entry or "limits" in entry:
            raise ConfigError(
                f"sweep[{place}] must be a mapping of keys to change, without sweep or limits, "
                f"got {entry!r}"
            )
        try:
            found.append(parse_config(overridden(_changed(data, entry), overrides), folder))
        except ConfigError as error:
            raise ConfigError(f"sweep[{place}]: {error}") from error
    times = Counter(slug(one.model.id) for one in found)
    placed, taken = [], set[str]()
    for place, one in enumerate(found):
        name = slug(one.model.id)
        inner = name if times[name] == 1 else f"{name}-{place}"
        while inner in taken:
            inner += "-"
        taken.add(inner)
        placed.append(replace(one, output=one.output / inner))
    return tuple(sorted(placed, key=lambda one: (min(one.seq_lens), max(one.seq_lens))))


def _changed(data: Mapping[str, Any], entry: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(data)
    for name, value in entry.items():
        below = found.get(name)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            value = {**below, **value}
        found[name] = value
    return found


def run_sweep(
    configs: Sequence[CampaignConfig], progress: Progress, *, fresh: bool = False
) -> tuple[Member, ...]:
    """Run campaigns one after the other; one that fails does not keep others from it.

    Raises:
        Stopped: Ctrl-C or SIGTERM. The same call goes on from there.
    """
    members: list[Member] = []
    samples: list[Sample] = []
    spent = Spent()
    for place, config in enumerate(configs):
        if len(configs) > 1:
            lengths = ", ".join(map(str, config.seq_lens))
            progress.note(f"campaign {place + 1} of {len(configs)}: {config.model.id} at {lengths}")
        limits = _share(config.limits, spent, len(configs) - place)
        try:
            result = run_campaign(config, progress, fresh=fresh, samples=samples, limits=limits)
        except AutoChunkError as error:
            if len(configs) > 1:
                progress.note(f"{config.model.id} is left out: {error}")
            members.append(Member(config, error=error))
        else:
            members.append(Member(config, result))
            samples += result.samples
        spent = spent.plus(spent_in(config.output / "ledger.jsonl"))
    return tuple(members)


def _share(limits: LimitsConfig, spent: Spent, parts: int) -> LimitsConfig:
    """An equal part of what is left; a campaign that may do nothing still runs what it has."""

    def part(limit: float | None, so_far: float) -> float | None:
        return None if limit is None else max(limit - so_far, 0.0) / parts

    runs = part(limits.runs, spent.runs)
    return LimitsConfig(
        part(limits.wall_s, spent.wall_s),
        part(limits.device_s, spent.device_s),
        None if runs is None else int(runs),
    )
