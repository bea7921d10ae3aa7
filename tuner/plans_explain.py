"""Which plan would serve a call, and why: look-up, step by step."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping, Sequence

from cost_models.select import mib
from search_space.budget import Budget
from search_space.errors import AutoChunkError, BudgetError, ConfigError
from tuner.config import CampaignConfig
from tuner.database import slug
from tuner.entries import GraphEntry, LengthEntry, ModelFile, PlanRow
from tuner.frontier import best_within
from tuner.inspect_model import Inspected, inspect_lengths
from tuner.runtime.analysis import Analysis
from tuner.runtime.choose import choose
from tuner.runtime.explain import explain_plan
from tuner.runtime.lookup import Plans, judge_entry
from tuner.validity import judge


def files_of(files: Sequence[ModelFile], model: str) -> list[ModelFile]:
    """The files of a model.

    Raises:
        ConfigError: there are none; names those there are.
    """
    found = [file for file in files if slug(file.model) == slug(model)]
    if not found:
        names = sorted({file.model for file in files})
        near = difflib.get_close_matches(model, names, 1, 0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        known = ", ".join(names[:20]) or "none at all"
        raise ConfigError(f"the database has no model {model!r}, but {known}{hint}")
    return found


def explain_length(
    files: Sequence[ModelFile], length: int, budget: Budget | None, here: Mapping[str, str]
) -> list[str]:
    """What the database alone says for calls of a length, graph by graph.

    Without the model, the memory at a length that was not tuned cannot be told: ``apply`` checks it
    at the call's own sizes.
    """
    lines: list[str] = []
    for file in files:
        for entry in file.graphs:
            name = f"{file.model} on {file.device}, graph {entry.fingerprint}"
            lines.extend(f"{name}: {text}" for text in verdicts(file, entry, here))
            judged = judge_entry(file, entry, here)
            # (what cannot be used here is told too where there is nothing else)
            told = judged.usable if judged.usable.lengths else entry
            lines.extend(f"  {line}" for line in _steps(told, length, budget or entry.budget))
    return lines


def verdicts(file: ModelFile, entry: GraphEntry, here: Mapping[str, str]) -> list[str]:
    """The verdict on an entry; where its lengths were tuned in several places, one each."""
    parts = [(part, judge(file, part, here)) for part in entry.parts()]
    if len(parts) == 1:
        return [str(parts[0][1])]
    return [
        f"length {', '.join(str(one.length) for one in part.lengths)}: {judgement}"
        for part, judgement in parts
    ]


def _steps(entry: GraphEntry, length: int, budget: Budget | None) -> list[str]:
    exact = [one for one in entry.lengths if one.length == length]
    larger = sorted(
        (one for one in entry.lengths if one.length > length), key=lambda one: one.length
    )
    lines = []
    for one in exact:
        lines.append(f"tuned at {length}, inputs {_shapes(one)}:")
        lines.extend(f"  {line}" for line in _rows(one, budget))
    if not exact:
        lines.append(f"nothing was tuned at {length}")
        for one in larger[:1]:
            lines.append(
                f"the next larger length is {one.length}, inputs {_shapes(one)}; its plans serve "
                f"if the memory model finds them within the budget at {length}:"
            )
            lines.extend(f"  {line}" for line in _rows(one, budget))
        if not larger:
            lines.append("and nothing larger: the choice is analytic")
    return lines


def _rows(entry: LengthEntry, budget: Budget | None) -> list[str]:
    """The frontier, with the plan marked that the measured peaks would choose."""
    limit = None if budget is None else budget.resolve(entry.eager.peak_bytes)
    minimum = budget is not None and limit is None
    within = None if minimum else sys.maxsize if limit is None else limit
    chosen = best_within(entry.frontier, within)
    of = "no budget" if budget is None else f"budget {budget}"
    of += "" if limit is None else f" = {mib(limit)}"
    lines = [f"{'->' if row is chosen else '  '} {_row(row, limit)}" for row in entry.frontier]
    if chosen is None:
        lines.append(f"none fits ({of}): the choice is analytic")
    else:
        lines.append(f"({of}; the mark is on the {'lowest' if minimum else 'fastest'} that fits)")
    return lines


def _row(row: PlanRow, limit: int | None) -> str:
    fits = "" if limit is None or row.needed_bytes <= limit else ", above the budget"
    if row.needed_bytes != row.peak_bytes:
        fits = f" (uncompiled {mib(row.needed_bytes)}){fits}"
    return (
        f"peak {mib(row.peak_bytes)}, {row.latency_ms:.1f} ms, {row.ratio:.3f} of eager's time, "
        f"{len(row.plan.choices)} chunked classes{', compiled' if row.plan.compiled else ''}{fits}"
    )


def _shapes(entry: LengthEntry) -> str:
    return ", ".join(map(str, entry.shapes))


def explain_call(
    config: CampaignConfig, plans: Plans, length: int, budget: Budget | None
) -> list[str]:
    """What ``apply`` would choose for a configuration's model at a length: captured, nothing run.

    Raises:
        ConfigError, CaptureError: the model cannot be built or captured.
    """
    lines = []
    for one in inspect_lengths(config, (length,)):
        name = f"{config.model.id} {one.target}".strip()
        graph = one.analysis.graph
        lines.append(f"{name} at length {length}: graph {graph.fingerprint}")
        judged = plans.judged(graph.fingerprint)
        if judged is None:
            lines.append("  the database has nothing for this graph: the choice is analytic")
        else:
            lines.append(f"  found in {judged.file.path}: {judged.judgement}")
        lines.extend(f"  {line}" for line in _decision(one, plans, budget))
    return lines


def _decision(one: Inspected, plans: Plans, budget: Budget | None) -> list[str]:
    analysis = one.analysis
    shapes = tuple(
        node.outputs[0].shape for node in analysis.sized.nodes if node.kind == "input"
    )
    entry = plans.entry(analysis.graph.fingerprint)
    if budget is None and entry is not None:
        budget = entry.budget
    eager = one.eager_peak_bytes or analysis.memory.profile().peak_bytes
    if entry is not None:
        eager = entry.eager_peak(shapes) or eager
    limit = None if budget is None else budget.resolve(eager)
    text = "none" if budget is None else f"{budget}"
    lines = [f"budget {text}" + ("" if limit is None else f" = {mib(limit)} of {mib(eager)}")]
    for source, rows in entry.candidates(shapes) if entry is not None else ():
        lines.append(f"{source}:")
        lines.extend(f"  {_fit(analysis, row, limit)}" for row in rows)
    try:
        chosen = choose(analysis, entry, shapes, budget, eager)
    except BudgetError as error:
        return [*lines, f"apply would refuse: {error}"]
    return [*lines, *explain_plan(analysis, chosen).splitlines()]


def _fit(analysis: Analysis, row: PlanRow, limit: int | None) -> str:
    try:
        peak = row.peak_where(analysis.memory.profile(row.plan.choices).peak_bytes)
    except AutoChunkError as error:
        return f"not legal at this length: {error}"
    fits = "fits" if limit is None or peak <= limit else "too large"
    return f"needs {mib(peak)} here, {fits}; tuned: {_row(row, None)}"
