"""Model files: a fitted cost model, what it learned from, and its card, as compressed JSON.

Nothing in such a file is code, and loading one runs none. It holds the samples too, so that a later
campaign can start from them: their timings join its own, and the model is fitted anew.

    version: 2
    features: the features' version
    device, ceilings: where the samples were measured
    model: kind, seed, and the fitted numbers (None for a model that learns nothing)
    samples: all of them
    baselines: the unchunked models' latencies
    card: see :mod:`cost_models.card`; None where nothing was judged
"""

from __future__ import annotations

import gzip
import json
import os
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cost_models.base import CostModel, Sample, sample_from_plain
from cost_models.card import Card, card_from_plain
from cost_models.ceilings import Ceilings, ceilings_from_plain
from cost_models.features import FEATURES_VERSION
from cost_models.learned import Fitted, Learned
from cost_models.macro_micro import MacroMicro
from cost_models.regressors import FITS, regressor_from_plain
from cost_models.roofline import Roofline
from cost_models.spread import known_from_plain, spread_from_plain
from cost_models.whole_times import Unchunked, unchunked_from_plain
from search_space.errors import ModelFileError

VERSION = 2
_MOST_BYTES = 256 * 2**20
"""A file that unpacks to more is refused."""


@dataclass(frozen=True)
class StoredModel:
    """What a model file holds."""

    device: str
    ceilings: Ceilings
    model: CostModel
    samples: tuple[Sample, ...]
    baselines: tuple[Unchunked, ...]
    card: Card | None

    def plain(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "version": VERSION,
            "features": FEATURES_VERSION,
            "device": self.device,
            "ceilings": asdict(self.ceilings),
            "model": _model_plain(self.model),
            "samples": [sample.plain() for sample in self.samples],
            "baselines": [one.plain() for one in self.baselines],
            "card": None if self.card is None else self.card.plain(),
        }


def write_model(path: Path, stored: StoredModel) -> None:
    """Write a model file; one that is there is replaced at once, or not at all."""
    text = json.dumps(stored.plain(), separators=(",", ":"))
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(gzip.compress(text.encode(), mtime=0))
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def read_model(path: Path) -> StoredModel:
    """Read a model file.

    Raises:
        ModelFileError: there is none, it is damaged, or it is of another version; says what to do.
    """
    try:
        with gzip.open(path, "rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ModelFileError(
            f"the cost model {path} cannot be read: {error}. Name a file that `autochunk profile` "
            "or `autochunk model fit` has written"
        ) from error
    if len(data) > _MOST_BYTES:
        raise ModelFileError(f"the cost model {path} unpacks to more than {_MOST_BYTES} bytes")
    try:
        row = json.loads(data)
        versions = (row["version"], row["features"])
        if versions != (VERSION, FEATURES_VERSION):
            raise ModelFileError(
                f"the cost model {path} is of version {versions[0]} with features of version "
                f"{versions[1]}; this autochunk reads {VERSION} and {FEATURES_VERSION}. Profile "
                "again to make a new one"
            )
        return _from_plain(row)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise ModelFileError(
            f"the cost model {path} is damaged ({type(error).__name__}: {error}). Profile again, "
            "or fit it from its ledger with `autochunk model fit`"
        ) from error


def _from_plain(row: Mapping[str, Any]) -> StoredModel:
    return StoredModel(
        str(row["device"]),
        ceilings_from_plain(row["ceilings"]),
        _model_from_plain(row["model"]),
        tuple(sample_from_plain(one) for one in row["samples"]),
        tuple(unchunked_from_plain(one) for one in row["baselines"]),
        None if row["card"] is None else card_from_plain(row["card"]),
    )


def _model_plain(model: CostModel) -> dict[str, Any]:
    if isinstance(model, (MacroMicro, Roofline)):
        return asdict(model)
    if isinstance(model, Learned):
        fitted = model.fitted and {
            "regressor": model.fitted.regressor.plain(),
            "known": model.fitted.known.plain(),
            "spread": model.fitted.spread.plain(),
        }
        return {"kind": model.kind, "seed": model.seed, "fitted": fitted}
    return {"kind": model.kind}


def _model_from_plain(row: Mapping[str, Any]) -> CostModel:
    if row["kind"] == "roofline":
        return Roofline(**row)
    if row["kind"] == "macro_micro":
        return MacroMicro(**row)
    if row["kind"] not in FITS:
        raise ValueError(f"unknown kind of cost model {row['kind']!r}")
    fitted = row["fitted"]
    return Learned(
        int(row["seed"]),
        str(row["kind"]),
        fitted and Fitted(
            regressor_from_plain(fitted["regressor"]),
            known_from_plain(fitted["known"]),
            spread_from_plain(fitted["spread"]),
        ),
    )  # fmt: skip


def joined(own: Sequence[Sample], earlier: Sequence[Sample]) -> list[Sample]:
    """A campaign's own samples with those of an earlier model: where both timed a class of a model
    at a length, compiled or not, its own stand."""
    def what(one: Sample) -> tuple[str, str, int]:
        return one.model, one.group, one.features.compiled

    known = set(map(what, own))
    return [*own, *(one for one in earlier if what(one) not in known)]
