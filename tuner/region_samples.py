"""From timings of a region alone to samples that cost models learn from, and back from a ledger."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cost_models.base import Sample, sample_from_plain
from cost_models.ceilings import Ceilings
from cost_models.features import FEATURES_VERSION, loop_features
from cost_models.whole_times import Unchunked, unchunked_from_plain
from search_space.classes import RegionClass
from search_space.liveness import MemoryModel
from tuner.ledger import read_ledger
from tuner.measure.protocol import COMPILED, WHOLE, Samples
from tuner.measure.timing import log_ratio, quick


def group_of(item: RegionClass, length: int) -> str:
    """What a class's samples at a length have in common; see :class:`cost_models.base.Sample`."""
    return f"{item.key}@{length}"


def region_samples(
    memory: MemoryModel,
    item: RegionClass,
    found: Mapping[str, Samples],
    ceilings: Ceilings,
    length: int,
    model: str,
) -> tuple[Sample, ...]:
    """One sample a chunk size, and one more where its passes were compiled too.

    Args:
        found: a region's timings, ``whole`` and each chunk size under its text, interleaved; with
            ``COMPILED`` after it those of compiled passes.
        length, model: where the region is from.
    """
    whole = found[WHOLE].decisive_ms
    made = []
    for name, samples in found.items():
        if name == WHOLE:
            continue
        known = log_ratio(samples.decisive_ms, whole)
        made.append(
            Sample(
                loop_features(
                    memory, item.loops[0], int(name.removesuffix(COMPILED)), ceilings,
                    compiled=name.endswith(COMPILED),
                ),
                known.value,
                group_of(item, length),
                length,
                model,
                known.noise,
                quick(whole),
                known.halves,
            )
        )
    return tuple(made)


def samples_row(samples: tuple[Sample, ...]) -> dict[str, Any]:
    """What the ledger keeps of them."""
    return {"version": FEATURES_VERSION, "samples": [sample.plain() for sample in samples]}


def read_baselines(path: Path) -> tuple[Unchunked, ...]:
    """The unchunked latencies of a ledger, the last one of each model and length.

    Raises:
        LedgerError: the file is damaged.
    """
    found = {
        (row["model"], row["length"]): unchunked_from_plain(row)
        for row in read_ledger(path)
        if row["kind"] == "unchunked"
    }
    return tuple(found.values())


def read_samples(path: Path) -> tuple[Sample, ...]:
    """All samples of a ledger, or of a ledger-like file; those of other versions are left out.

    Raises:
        LedgerError: the file is damaged.
    """
    return tuple(
        sample_from_plain(one)
        for row in read_ledger(path)
        if row["kind"] == "samples" and row["version"] == FEATURES_VERSION
        for one in row["samples"]
    )
