"""A cost model's card as tables for the terminal, or as Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.table import Table

from cost_models.card import Card
from cost_models.plan_scoring import PlanScore
from cost_models.scoring import Score


@dataclass(frozen=True, slots=True)
class Page:
    """A table in plain words: title, columns, rows."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def table(self) -> Table:
        """For the terminal."""
        table = Table(title=self.title, title_justify="left", title_style="bold")
        for column in self.columns:
            table.add_column(column, justify="left" if column == "model" else "right")
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        """For a page."""
        lines = [self.title, "", _line(self.columns), _line("---" for _ in self.columns)]
        return "\n".join([*lines, *(_line(row) for row in self.rows), ""])


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


_REGIONS = (
    "model", "samples", "spearman", "pairs right", "across: spearman", "across: pairs right",
    "top-1 regret", "rms error", "90 % interval covers",
)  # fmt: skip
_PLANS = (
    "model", "plans", "latency error", "ratio error", "spearman", "pairs right",
    "top-1 regret", "top-4", "top-8", "worst top-8", "90 % interval covers",
)  # fmt: skip


def card_pages(card: Card) -> list[Page]:
    """Every table of a card."""
    pages = []
    for held_out in dict.fromkeys(score.held_out for score in card.scores):
        rows = [_region_row(one, one.kind) for one in card.scores if one.held_out == held_out]
        if card.floor is not None:
            rows.append(_region_row(card.floor, "(a repetition)"))
        pages.append(Page(f"regions, held-out {held_out}", _REGIONS, tuple(rows)))
    for held_out in dict.fromkeys(score.held_out for score in card.plans):
        plan_rows = tuple(_plan_row(one) for one in card.plans if one.held_out == held_out)
        pages.append(Page(f"whole plans, held-out {held_out}", _PLANS, plan_rows))
    if card.memory is not None:
        memory = card.memory
        pages.append(Page(
            "peak memory",
            ("plans", "median error", "worst error", "said to fit and did not"),
            ((
                str(memory.plans), _share(memory.median_error, 2), _share(memory.worst_error, 2),
                _with_interval(
                    memory.false_safe_rate, memory.false_safe_low, memory.false_safe_high, 2
                ),
            ),),
        ))  # fmt: skip
    return pages


def card_summary(card: Card) -> str:
    """One line: what was judged on what."""
    return (
        f"judged on {', '.join(card.models) or 'nothing'}, {card.lengths} lengths in all, on "
        f"{card.device or 'an unknown device'}; from run to run a log ratio scatters by "
        f"{card.noise:.4f}"
    )


def _region_row(one: Score, name: str) -> tuple[str, ...]:
    return (
        name, str(one.samples), _number(one.spearman), _number(one.pairwise_accuracy),
        _number(one.spearman_across), _number(one.pairwise_across), _share(one.regret),
        _number(one.error), _with_interval(one.coverage, one.coverage_low, one.coverage_high),
    )  # fmt: skip


def _plan_row(one: PlanScore) -> tuple[str, ...]:
    regrets = {count: (mid, worst) for count, mid, worst in one.regrets}
    return (
        one.kind, str(one.plans), _share(one.latency_error), _share(one.ratio_error),
        _number(one.spearman), _number(one.pairwise_accuracy), *_medians(regrets, (1, 4, 8)),
        _share(regrets[8][1]), _with_interval(one.coverage, one.coverage_low, one.coverage_high),
    )  # fmt: skip


def _medians(regrets: dict[int, tuple[float, float]], counts: Sequence[int]) -> list[str]:
    return [_share(regrets[count][0]) for count in counts]


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _share(value: float, digits: int = 1) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.{digits}f} %"


def _with_interval(value: float, low: float, high: float, digits: int = 1) -> str:
    if math.isnan(low):
        return _share(value, digits)
    return f"{_share(value, digits)} ({100 * low:.{digits}f} to {100 * high:.{digits}f})"
