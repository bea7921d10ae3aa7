"""How entries of the plan database stand in YAML: the one place that knows the form.

A row of a frontier is a list in the order of :data:`COLUMNS`. Its choices name the region classes
that stand once per graph::

    {r0: 64}                                              # r0 in chunks of 64 units
    {r0: {size: 64, inner: {r1: 8}, compiled: true}}      # a loop within, a compiled body
    {r0: 64, stretches: true}                             # what stands between loops is compiled

(where bodies are compiled, what is between them is too, unless ``stretches`` says otherwise), and
names of rewrites follow in an eighth column, where a plan has any.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from search_space.budget import parse_budget
from search_space.errors import PlanError
from search_space.plan import Choice, Plan, Region, decode_regions, encode_regions, whole
from tuner.entries import GraphEntry, LengthEntry, PlanRow, Reference
from tuner.safe_yaml import Flow

COLUMNS = (
    "peak_bytes", "predicted_bytes", "latency_ms", "ratio", "ratio_low", "ratio_high", "choices",
    "rewrites",
)  # fmt: skip
MOST_NODES = 2_000_000
"""Nodes in all regions of one file; a short text can name millions."""


class Allowance:
    """How many nodes the regions of a file may still have."""

    def __init__(self, left: int = MOST_NODES) -> None:
        self._left = left

    def regions(self, form: Mapping[str, Any]) -> tuple[Region, ...]:
        """A class of regions, taken off."""
        found = decode_regions(form, self._left)
        self._left -= len(found) * len(found[0].nodes)
        return found


Names = Mapping[tuple[Region, ...], str]
Regions = Mapping[str, tuple[Region, ...]]


def encode_graph(entry: GraphEntry) -> dict[str, Any]:
    """An entry as plain values."""
    names: dict[tuple[Region, ...], str] = {}
    for length in entry.lengths:
        for row in length.frontier:
            for choice in _all_choices(row.plan.choices):
                names.setdefault(choice.regions, f"r{len(names)}")
    lengths: dict[int, Any] = {}
    for item in entry.lengths:
        # one length may have several shapes, such as batches; they stand as a list
        lengths.setdefault(item.length, []).append({
            "shapes": Flow([list(shape) for shape in item.shapes]),
            "eager": Flow({
                "peak_bytes": item.eager.peak_bytes,
                "latency_ms": round(item.eager.latency_ms, 4),
            }),
            **({"incomplete": True} if item.incomplete else {}),
            **({} if item.environment is None else {"environment": _texts(item.environment)}),
            "frontier": [Flow(_encode_row(row, names)) for row in item.frontier],
        })  # fmt: skip
    return {
        "environment": _texts(entry.environment),
        "length": Flow(dict(entry.symbols)),
        "budget": None if entry.budget is None else entry.budget.plain,
        "regions": {name: Flow(encode_regions(regions)) for regions, name in names.items()},
        "lengths": lengths,
    }


def decode_graph(fingerprint: str, row: Mapping[str, Any], allowance: Allowance) -> GraphEntry:
    """The inverse of :func:`encode_graph`.

    Raises:
        PlanError, ConfigError, LookupError, TypeError, ValueError, ArithmeticError: it is
            malformed.
    """
    forms = (row["regions"] or {}).items()
    regions = {str(name): allowance.regions(form) for name, form in forms}
    lengths = [
        _decode_length(int(length), item, fingerprint, regions)
        for length, items in row["lengths"].items()
        for item in items
    ]
    return GraphEntry(
        fingerprint,
        _texts(row["environment"]),
        {str(key): int(value) for key, value in row["length"].items()},
        None if row.get("budget") is None else parse_budget(row["budget"]),
        tuple(lengths),
    )


def _texts(environment: Mapping[Any, Any]) -> dict[str, str]:
    # (torch gives its version as a text of its own class)
    return {str(key): str(value) for key, value in environment.items()}


def _all_choices(choices: Sequence[Choice]) -> Iterator[Choice]:
    for choice in choices:
        yield choice
        yield from _all_choices(choice.inner)


def _encode_row(row: PlanRow, names: Names) -> list[Any]:
    found: list[Any] = [
        row.peak_bytes, row.predicted_bytes, round(row.latency_ms, 4), round(row.ratio, 4),
        round(row.ratio_low, 4), round(row.ratio_high, 4), _encode_decisions(row.plan, names),
    ]  # fmt: skip
    return [*found, list(row.plan.rewrites)] if row.plan.rewrites else found


def _decode_length(
    length: int, item: Mapping[str, Any], fingerprint: str, regions: Regions
) -> LengthEntry:
    eager = Reference(int(item["eager"]["peak_bytes"]), float(item["eager"]["latency_ms"]))
    shapes = tuple(tuple(int(size) for size in shape) for shape in item["shapes"])
    rows = tuple(_decode_row(fingerprint, one, regions) for one in item["frontier"])
    environment = None if "environment" not in item else _texts(item["environment"])
    return LengthEntry(
        length, shapes, eager, rows, bool(item.get("incomplete", False)), environment
    )


def _decode_row(fingerprint: str, row: Sequence[Any], regions: Regions) -> PlanRow:
    peak, predicted, latency, ratio, low, high, choices, *rest = row
    if len(rest) > 1:
        raise ValueError(f"a row of {len(row)} values, at most {len(COLUMNS)} are known")
    rewrites = tuple(str(name) for name in rest[0]) if rest else ()
    plan = _decode_decisions(fingerprint, choices, rewrites, regions)
    return PlanRow(
        plan, int(peak), int(predicted), float(latency), float(ratio), float(low), float(high)
    )


_STRETCHES = "stretches"


def _encode_decisions(plan: Plan, names: Names) -> dict[str, Any]:
    form = _encode_choices(plan.choices, names)
    if plan.stretches != plan.bodies:
        form[_STRETCHES] = plan.stretches
    return form


def _decode_decisions(
    fingerprint: str, form: Mapping[str, Any], rewrites: tuple[str, ...], regions: Regions
) -> Plan:
    choices = _decode_choices({k: v for k, v in form.items() if k != _STRETCHES}, regions)
    stretches = form.get(_STRETCHES, any(choice.compiled for choice in choices))
    if not isinstance(stretches, bool):
        raise PlanError(f"{_STRETCHES} is true or false, not {stretches!r}")
    return Plan(fingerprint, choices, rewrites, stretches)


def _encode_choices(choices: Sequence[Choice], names: Names) -> dict[str, Any]:
    return {names[choice.regions]: _encode_choice(choice, names) for choice in choices}


def _encode_choice(choice: Choice, names: Names) -> Any:
    if not choice.inner and not choice.compiled:
        return choice.chunk_size
    form: dict[str, Any] = {"size": choice.chunk_size}
    if choice.inner:
        form["inner"] = _encode_choices(choice.inner, names)
    if choice.compiled:
        form["compiled"] = True
    return form


def _decode_choices(form: Mapping[str, Any], regions: Regions) -> tuple[Choice, ...]:
    made = [_decode_choice(regions[str(name)], one, regions) for name, one in form.items()]
    return tuple(sorted(made, key=lambda choice: choice.regions[0].nodes))


def _decode_choice(own: tuple[Region, ...], form: Any, regions: Regions) -> Choice:
    if not isinstance(form, Mapping):
        return Choice(own, whole(form))
    unknown = set(form) - {"size", "inner", "compiled"}
    if unknown:
        raise PlanError(f"a choice says {sorted(map(str, unknown))}, which this version lacks")
    inner = _decode_choices(form.get("inner", {}), regions)
    return Choice(own, whole(form["size"]), inner, bool(form.get("compiled", False)))


__all__ = ["COLUMNS", "Allowance", "decode_graph", "encode_graph"]
