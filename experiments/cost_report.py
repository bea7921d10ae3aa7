"""Everything that is said of the cost models and the search, made again from the committed data.

::

    python -m experiments.cost_report     # a few minutes: results/cpu/cost*, figures included
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from cost_models.base import Sample
from cost_models.create import create
from cost_models.folds import LENGTHS, MODELS, folds
from cost_models.reference import Reference
from cost_models.scoring import held_out_estimates
from experiments import cost_card, cost_compare
from experiments.cost_card import RESULTS, load_references, load_samples


def draw_predictions(
    samples: Sequence[Sample], references: Sequence[Reference], path: Path
) -> None:
    """Predicted against measured log ratios of what was held out, regions and whole plans."""
    from matplotlib import pyplot

    from cost_models.plan_scoring import hold_out

    (model,) = create("learned")
    figure, axes = pyplot.subplots(2, 2, figsize=(9, 8.5), constrained_layout=True)
    names = sorted({sample.model for sample in samples})
    for column, held_out in enumerate((LENGTHS, MODELS)):
        mean, _ = held_out_estimates(model, samples, folds(samples, held_out))
        measured = np.array([sample.log_ratio for sample in samples])
        held = hold_out(model, samples, references, held_out)
        for name in names:
            own = np.array([sample.model == name for sample in samples]) & ~np.isnan(mean)
            axes[0, column].plot(measured[own], mean[own], ".", markersize=3, label=name)
            points = [
                (run.log_ratio, estimate.log_ratio)
                for one in held
                if one.reference.model == name
                for run, estimate in zip(one.reference.runs, one.terms.log_ratios(), strict=True)
            ]
            axes[1, column].plot(*np.array(points).T, ".", markersize=3, label=name)
        axes[0, column].set_title(f"regions, held-out {held_out}")
        axes[1, column].set_title(f"whole plans, held-out {held_out}")
    for axis in axes.flat:
        low, high = np.array([axis.get_xlim(), axis.get_ylim()]).T
        ends = (min(low), max(high))
        axis.plot(ends, ends, color="0.6", linewidth=1, zorder=0)
        axis.set_xlabel("measured log(chunked / unchunked)")
        axis.set_ylabel("predicted")
        axis.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def draw_regret(
    runs: Sequence[int], curves: Mapping[str, Sequence[float]], path: Path
) -> None:
    """Mean regret by the number of real runs, one line a way of choosing."""
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(6, 4), constrained_layout=True)
    for name, values in curves.items():
        axis.plot(runs, [100 * value for value in values], marker="o", label=name)
    axis.set_xscale("log", base=2)
    axis.set_xticks(list(runs), [str(count) for count in runs])
    axis.set_xlabel("plans run for real")
    axis.set_ylabel("mean extra time over the best plan, %")
    axis.legend()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write cards, comparison and figures."""
    parser = argparse.ArgumentParser(description="all tables and figures of the cost models")
    parser.add_argument("--data", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    folder: Path = options.data
    cost_card.main(["--data", str(folder)])
    curves = cost_compare.compare(folder)
    draw_regret(cost_compare.RUNS, curves, folder / "cost_regret.png")
    samples, references = load_samples(folder), load_references(folder)
    draw_predictions(samples, references, folder / "cost_predicted.png")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
