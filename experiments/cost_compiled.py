"""How well passes that run compiled are predicted, on the committed data.

::

    python -m experiments.cost_compiled      # prints it, and writes results/cpu/cost_compiled.md

Models learn from all regions of what is not held out, uncompiled and compiled, and are judged on
the compiled ones: each against the same region as it is, whole.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from cost_models.base import Sample, sample_from_plain
from cost_models.create import create
from cost_models.folds import LENGTHS, MODELS, folds
from cost_models.scoring import held_out_estimates, score
from experiments.cost_card import RESULTS, load_samples, rows_of

_KINDS = ("roofline", "learned")
_TITLES = (
    "model", "held out", "passes", "pairs", "median error", "intervals cover", "compiled or not",
)  # fmt: skip


def load_compiled(folder: Path) -> list[Sample]:
    """The committed samples of compiled passes."""
    path = folder / "cost_compiled.jsonl.gz"
    return [sample_from_plain(one) for row in rows_of(path, "compiled") for one in row["samples"]]


def table(plain: Sequence[Sample], compiled: Sequence[Sample]) -> Iterator[str]:
    """The table's lines."""
    yield "| " + " | ".join(_TITLES) + " |"
    yield "|---" * len(_TITLES) + "|"
    samples = [*plain, *compiled]
    own = np.arange(len(samples)) >= len(plain)
    for held_out in (LENGTHS, MODELS):
        for kind in _KINDS:
            (model,) = create(kind)
            mean, spread = held_out_estimates(model, samples, folds(samples, held_out))
            judged = np.flatnonzero(own & ~np.isnan(mean))
            found = score(
                kind, held_out, [samples[k] for k in judged], mean[judged], spread[judged]
            )
            truth = np.array([sample.log_ratio for sample in samples])
            error = float(np.median(np.abs(mean - truth)[judged]))
            right, pairs = _choices(samples, mean, len(plain))
            yield (
                f"| {kind} | {held_out} | {len(judged)} | {found.pairwise_accuracy:.2f} | "
                f"{error:.3f} | {100 * found.coverage:.0f} % | {right} of {pairs} |"
            )


def _choices(samples: Sequence[Sample], mean: np.ndarray, first: int) -> tuple[int, int]:
    """Of the compiled passes that are faster or slower than the same ones as they are by more than
    a twentieth, how many were told apart rightly."""
    as_it_is = {
        (one.model, one.group, one.features.chunk_size): place
        for place, one in enumerate(samples[:first])
    }
    right = pairs = 0
    for place in range(first, len(samples)):
        one = samples[place]
        other = as_it_is.get((one.model, one.group, one.features.chunk_size))
        if other is None or np.isnan(mean[place]) or np.isnan(mean[other]):
            continue
        gap = one.log_ratio - samples[other].log_ratio
        if abs(gap) > 0.05:
            pairs += 1
            right += bool((mean[place] - mean[other]) * gap > 0)
    return right, pairs


def main(arguments: Sequence[str] | None = None) -> int:
    """Judge, print and write."""
    parser = argparse.ArgumentParser(description="predictions of compiled passes")
    parser.add_argument("--data", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    plain, compiled = load_samples(options.data), load_compiled(options.data)
    if not compiled:
        raise SystemExit(
            f"there are no compiled passes in {options.data}: collect them with `python -m "
            "experiments.cost_collect --parts compiled`, and export them"
        )
    text = (
        "# Compiled passes\n\n`python -m experiments.cost_compiled`, on the committed data: "
        f"{len(compiled)} timings of {len({(s.model, s.group) for s in compiled})} regions whose "
        f"passes ran compiled, beside {len(plain)} as they are. Errors are of "
        "log(compiled in chunks / as it is, whole); the last column counts where it was told "
        "rightly whether compiling makes passes of that size faster or slower, by more than a "
        "twentieth."
        "\n\n" + "\n".join(table(plain, compiled)) + "\n"
    )
    (options.data / "cost_compiled.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
