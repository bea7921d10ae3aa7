"""How well the unchanged models' times are told from other lengths, on the committed data.

::

    python -m experiments.cost_unchanged     # prints it, and writes results/cpu/cost_unchanged.md
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from cost_models.reference import Reference
from cost_models.whole_times import calibrate
from experiments.cost_card import RESULTS, load_references


def carried_ms(one: Reference, references: Sequence[Reference]) -> float:
    """The unchanged model's time, as the model's other lengths tell it."""
    known = [
        (other.parts, other.unchunked_ms / 1e3)
        for other in references
        if other.model == one.model and other.length != one.length
    ]
    return 1e3 * calibrate(known).seconds(one.parts)


def table(references: Sequence[Reference]) -> Iterator[str]:
    """The table's lines, and the errors' median."""
    yield "| model | length | measured, ms | over the roofline | from other lengths, ms | error |"
    yield "|---|---|---|---|---|---|"
    errors = []
    for one in sorted(references, key=lambda one: (one.model, one.length)):
        carried = carried_ms(one, references)
        errors.append(carried / one.unchunked_ms - 1)
        yield (
            f"| {one.model} | {one.length} | {one.unchunked_ms:.2f} | "
            f"{one.unchunked_ms / 1e3 / one.parts.total_s:.2f} | {carried:.2f} | "
            f"{100 * errors[-1]:+.1f} % |"
        )
    yield ""
    sizes = np.abs(errors)
    yield f"In the median {100 * np.median(sizes):.1f} %, at worst {100 * sizes.max():.1f} %."


def main(arguments: Sequence[str] | None = None) -> int:
    """Print and write."""
    parser = argparse.ArgumentParser(description="unchanged models' times from other lengths")
    parser.add_argument("--data", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    text = (
        "# The unchanged models, told from their other lengths\n\n"
        "`python -m experiments.cost_unchanged`, on the committed reference sets.\n\n"
        + "\n".join(table(load_references(options.data))) + "\n"
    )  # fmt: skip
    (options.data / "cost_unchanged.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
