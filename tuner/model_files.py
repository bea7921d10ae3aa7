"""Making a model file from samples: judged, gated, fitted, with its card."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from cost_models.base import Sample
from cost_models.card import card_of, make_card
from cost_models.ceilings import Ceilings, ceilings_from_plain
from cost_models.create import create
from cost_models.scoring import Verdict, judge
from cost_models.stored import StoredModel, write_model
from cost_models.whole_times import Unchunked
from search_space.errors import LedgerError
from tuner.ledger import read_ledger
from tuner.region_samples import read_baselines, read_samples

MODEL_FILE = "model.json.gz"
"""A campaign's cost model, in its output folder."""


def make_model(
    path: Path,
    samples: Sequence[Sample],
    baselines: Sequence[Unchunked],
    device: str,
    ceilings: Ceilings,
    kind: str = "auto",
    seed: int = 0,
    on_score: Callable[[str, str], None] = lambda kind, held_out: None,
) -> tuple[StoredModel, Verdict]:
    """Fit the best model of a kind (``auto``: of all kinds) to samples, and write it with the card
    of all kinds."""
    verdict = judge(create(kind, seed), samples)
    card = make_card(create("all", seed), samples, device=device, on_score=on_score)
    stored = StoredModel(
        device, ceilings, verdict.model, tuple(samples), tuple(baselines), card,
    )  # fmt: skip
    write_model(path, stored)
    return stored, verdict


def write_campaign(
    path: Path,
    verdict: Verdict,
    samples: Sequence[Sample],
    baselines: Sequence[Unchunked],
    device: str,
    ceilings: Ceilings,
) -> None:
    """Write the model that a campaign used, with the scores by which it was chosen as its card."""
    write_model(path, StoredModel(
        device, ceilings, verdict.model, tuple(samples), tuple(baselines),
        card_of(tuple(verdict.scores.values()), samples, device),
    ))  # fmt: skip


def read_ledgers(
    paths: Sequence[Path],
) -> tuple[list[Sample], list[Unchunked], str, Ceilings]:
    """All samples and unchunked latencies of some ledgers, and the device of the last.

    Raises:
        LedgerError: one is missing or damaged, or there are no samples in any.
    """
    samples: list[Sample] = []
    baselines: list[Unchunked] = []
    device, ceilings = "", None
    for path in paths:
        if not path.is_file():
            raise LedgerError(f"there is no ledger {path}; name a run's ledger.jsonl")
        samples.extend(read_samples(path))
        baselines.extend(read_baselines(path))
        for row in read_ledger(path):
            if row["kind"] == "environment" and row.get("status") == "ok":
                device = row["environment"]["device_name"]
                ceilings = ceilings_from_plain(row["ceilings"])
    if not samples or ceilings is None:
        names = ", ".join(str(path) for path in paths)
        raise LedgerError(
            f"no timed regions that this version can read in {names}; run `autochunk profile` or "
            "`autochunk tune` first"
        )
    return samples, baselines, device, ceilings
