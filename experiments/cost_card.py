"""The card of all cost models on the committed data: predictions of what was held out.

::

    python -m experiments.cost_card            # prints it, and writes results/cpu/cost_card.md
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cost_models.base import Sample, sample_from_plain
from cost_models.card import Card, make_card
from cost_models.create import COMPARED, KINDS, create
from cost_models.reference import Reference, reference_from_plain
from tuner.card_tables import card_pages, card_summary

RESULTS = Path(__file__).resolve().parent / "results" / "cpu"


def rows_of(path: Path, kind: str) -> Iterator[dict[str, Any]]:
    """A data file's rows of a kind; none where there is no file."""
    if not path.exists():
        return
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            if row["kind"] == kind:
                yield row


def load_samples(folder: Path = RESULTS) -> list[Sample]:
    """The committed samples of regions timed alone."""
    path = folder / "cost_samples.jsonl.gz"
    return [sample_from_plain(one) for row in rows_of(path, "samples") for one in row["samples"]]


def load_references(folder: Path = RESULTS) -> list[Reference]:
    """The committed reference sets; none where none were measured."""
    path = folder / "cost_reference.jsonl.gz"
    return [reference_from_plain(row) for row in rows_of(path, "reference")]


def card_of(folder: Path, kinds: Sequence[str] = COMPARED) -> Card:
    """The card of these kinds of model."""
    models = [model for model in create("all") if model.kind in kinds]
    found = rows_of(folder / "cost_samples.jsonl.gz", "environment")
    device = next((str(row["environment"]["device_name"]) for row in found), "")
    return make_card(
        models, load_samples(folder), load_references(folder), device,
        on_score=lambda kind, held_out: print(f"{kind}, held-out {held_out}", flush=True),
    )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Judge all models and print what they score."""
    parser = argparse.ArgumentParser(description="card of the cost models on the committed data")
    parser.add_argument("--data", type=Path, default=RESULTS)
    parser.add_argument("--kinds", nargs="*", default=COMPARED, choices=list(KINDS))
    options = parser.parse_args(arguments)
    card = card_of(options.data, options.kinds)
    command = "python -m experiments.cost_card"
    if options.data != RESULTS:
        command += f" --data {options.data}"
    text = f"# The cost models' card\n\n`{command}`, on the committed data; "
    text += card_summary(card) + ".\n\n" + "\n".join(one.markdown() for one in card_pages(card))
    (options.data / "cost_card.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
