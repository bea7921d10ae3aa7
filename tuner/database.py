"""The plan database: one YAML file per device and model, with the confirmed frontiers.

``<plans>/<device>/<model>.yaml`` holds, per graph fingerprint, the environment it was tuned in, the
region definitions (each once), and per length the full input shapes and one compact row a plan::

    schema: 1
    model: gpt2
    device: cpu-...
    columns: [peak_bytes, predicted_bytes, latency_ms, ratio, ratio_low, ratio_high, choices]
    graphs:
      0f3a...:                      # fingerprint
        environment: {torch: 2.13.0, dtype: float32, ...}
        length: {n0: 512}           # the symbols' values at the first length
        budget: 0.5                 # holds where the user names none
        regions: {a: {nodes: ..., dims: ..., at: [...]}}
        lengths:
          512:
            shapes: [[1, 512]]
            eager: {peak_bytes: ..., latency_ms: ...}
            frontier:
            - [62914560, 62914560, 31.2, 0.84, 0.82, 0.86, {a: 64}]

Raw samples and provenance stay in the ledger. Writers take a lock, read again, merge, and replace
the file in one step, so that campaigns that run at once lose nothing.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock

from search_space.budget import Budget, parse_budget
from search_space.errors import AutoChunkError, DatabaseError, PlanError
from search_space.plan import Choice, Plan, Region, decode_regions, encode_regions

SCHEMA = 1
COLUMNS = (
    "peak_bytes", "predicted_bytes", "latency_ms", "ratio", "ratio_low", "ratio_high", "choices",
)  # fmt: skip
_MOST_BYTES = 32 * 2**20
_DEEPEST = 50
_DAMAGE = (AutoChunkError, KeyError, TypeError, ValueError, AttributeError, ArithmeticError)

Shapes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class PlanRow:
    """A confirmed plan at one length.

    Attributes:
        plan: what runs.
        peak_bytes: measured activation peak.
        predicted_bytes: the memory model's.
        latency_ms: measured; CPU time on a CPU, event time on a GPU.
        ratio, ratio_low, ratio_high: of the latency over the eager model's, interleaved: median
            and 95 % interval.
    """

    plan: Plan
    peak_bytes: int
    predicted_bytes: int
    latency_ms: float
    ratio: float
    ratio_low: float
    ratio_high: float


@dataclass(frozen=True, slots=True)
class Reference:
    """The eager model at one length; a latency of 0 where it could not run."""

    peak_bytes: int
    latency_ms: float


@dataclass(frozen=True)
class LengthEntry:
    """What is known at one length: full input shapes, the eager model, confirmed plans by peak."""

    length: int
    shapes: Shapes
    eager: Reference
    frontier: tuple[PlanRow, ...]


@dataclass(frozen=True)
class GraphEntry:
    """What is known of one captured graph."""

    fingerprint: str
    environment: Mapping[str, str]
    symbols: Mapping[str, int]
    budget: Budget | None
    lengths: tuple[LengthEntry, ...]

    def eager_peak(self, shapes: Shapes) -> int | None:
        """The eager model's activation peak for inputs of these shapes, where it was tuned."""
        return next((e.eager.peak_bytes for e in self.lengths if e.shapes == shapes), None)

    def candidates(self, shapes: Shapes) -> Iterator[tuple[str, tuple[PlanRow, ...]]]:
        """Where to look for a plan, in order: the exact shapes, then larger tuned ones, smallest
        first. Each with a text that says where it comes from."""
        exact = [entry for entry in self.lengths if entry.shapes == shapes]
        larger = [entry for entry in self.lengths if _covers(entry.shapes, shapes)]
        larger.sort(key=lambda entry: entry.length)
        for entry in exact:
            yield f"tuned at {entry.length}", entry.frontier
        for entry in larger:
            yield f"tuned at {entry.length}, the next larger length", entry.frontier


@dataclass(frozen=True)
class ModelFile:
    """One file of the database."""

    model: str
    device: str
    graphs: tuple[GraphEntry, ...]
    path: Path = field(default=Path(), compare=False)


def slug(text: str) -> str:
    """A name as a file name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "unnamed"


def model_path(plans: Path, device: str, model: str) -> Path:
    """Where the plans of a model on a device stand."""
    return plans / slug(device) / f"{slug(model)}.yaml"


def read_database(path: Path, device: str | None = None) -> tuple[ModelFile, ...]:
    """All files of a database: one file, or every ``*.yaml`` in a folder.

    Args:
        device: only files tuned on a device of this name, where a folder is read.

    Raises:
        DatabaseError: the path does not exist, or a file is damaged.
    """
    if path.is_file():
        return (read_file(path),)
    if not path.is_dir():
        raise DatabaseError(
            f"there is no plan database at {path}; tune first (autochunk tune CONFIG), or correct "
            "the path"
        )
    files = sorted(path.rglob("*.yaml"))
    found = (read_file(file) for file in files)
    return tuple(file for file in found if device is None or slug(file.device) == slug(device))


def read_file(path: Path) -> ModelFile:
    """One file.

    Raises:
        DatabaseError: it cannot be read or is malformed; names the place.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise DatabaseError(f"{path} has more than {_MOST_BYTES} bytes; it is no plan database")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DatabaseError(f"the plan database {path} cannot be read: {error}") from error
    try:
        _check_depth(text)
        data = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or error
        raise DatabaseError(
            f"the plan database {path}{where} is damaged: {problem}. Restore the file or delete it "
            "and tune again; nothing was overwritten"
        ) from error
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        found = data.get("schema") if isinstance(data, dict) else type(data).__name__
        raise DatabaseError(
            f"{path} is no plan database of schema {SCHEMA} (found {repr(found)[:80]}); "
            "tune again"
        )
    place = "the head"
    try:
        model, device, graphs = str(data["model"]), str(data["device"]), []
        for fingerprint, row in data["graphs"].items():
            place = f"graph {fingerprint}"
            graphs.append(_decode_graph(str(fingerprint), row))
        return ModelFile(model, device, tuple(graphs), path)
    except _DAMAGE as error:
        raise DatabaseError(
            f"the plan database {path} is damaged in {place}: {type(error).__name__}: "
            f"{str(error)[:200]}. Restore the file or delete it and tune again; nothing was "
            "overwritten"
        ) from error


def write_graph(plans: Path, device: str, model: str, entry: GraphEntry) -> Path:
    """Merge an entry into the database and give the file's path.

    Lengths of the entry replace those of the same shapes; all else in the file stays.

    Raises:
        DatabaseError: the existing file is damaged (it is left as it is), or cannot be written.
    """
    path = model_path(plans, device, model)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_suffix(".lock"))
        lock.acquire()
    except OSError as error:
        raise DatabaseError(f"the plan database {path} cannot be written: {error}") from error
    with lock:
        graphs = {}
        if path.exists():
            graphs = {graph.fingerprint: graph for graph in read_file(path).graphs}
        old = graphs.get(entry.fingerprint)
        graphs[entry.fingerprint] = entry if old is None else _merged(old, entry)
        data = {
            "schema": SCHEMA,
            "model": model,
            "device": device,
            "columns": list(COLUMNS),
            "graphs": {key: _encode_graph(graphs[key]) for key in sorted(graphs)},
        }
        _replace(path, yaml.dump(data, Dumper=_Dumper, sort_keys=False, width=10_000))
    return path


def _merged(old: GraphEntry, new: GraphEntry) -> GraphEntry:
    shapes = {entry.shapes for entry in new.lengths}
    kept = [entry for entry in old.lengths if entry.shapes not in shapes]
    lengths = sorted([*kept, *new.lengths], key=lambda entry: (entry.length, entry.shapes))
    return GraphEntry(new.fingerprint, new.environment, new.symbols, new.budget, tuple(lengths))


def _replace(path: Path, text: str) -> None:
    """Write the whole file or nothing."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except OSError as error:
        Path(name).unlink(missing_ok=True)
        raise DatabaseError(f"the plan database {path} cannot be written: {error}") from error
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _covers(tuned: Shapes, wanted: Shapes) -> bool:
    """Whether the tuned shapes are as large in every dimension, and larger in one."""
    if tuned == wanted or [len(s) for s in tuned] != [len(s) for s in wanted]:
        return False
    return all(
        a >= b for s, t in zip(tuned, wanted, strict=True) for a, b in zip(s, t, strict=True)
    )


def _encode_graph(entry: GraphEntry) -> dict[str, Any]:
    names: dict[tuple[Region, ...], str] = {}
    for length in entry.lengths:
        for row in length.frontier:
            for choice in row.plan.choices:
                names.setdefault(choice.regions, f"r{len(names)}")
    lengths: dict[int, Any] = {}
    for item in entry.lengths:
        # one length may have several shapes, such as batches; they stand as a list
        lengths.setdefault(item.length, []).append({
            "shapes": _Flow([list(shape) for shape in item.shapes]),
            "eager": _Flow({
                "peak_bytes": item.eager.peak_bytes,
                "latency_ms": round(item.eager.latency_ms, 4),
            }),
            "frontier": [_Flow(_encode_row(row, names)) for row in item.frontier],
        })  # fmt: skip
    return {
        "environment": dict(entry.environment),
        "length": _Flow(dict(entry.symbols)),
        "budget": None if entry.budget is None else entry.budget.plain,
        "regions": {name: _Flow(encode_regions(regions)) for regions, name in names.items()},
        "lengths": lengths,
    }


def _encode_row(row: PlanRow, names: Mapping[tuple[Region, ...], str]) -> list[Any]:
    choices: dict[str, Any] = {}
    if row.plan.rewrites:
        raise PlanError("plans with rewrites have no form in schema 1")
    for choice in row.plan.choices:
        if choice.inner is not None or choice.compiled:
            raise PlanError("nested and compiled choices have no form in schema 1")
        choices[names[choice.regions]] = choice.chunk_size
    return [
        row.peak_bytes, row.predicted_bytes, round(row.latency_ms, 4), round(row.ratio, 4),
        round(row.ratio_low, 4), round(row.ratio_high, 4), choices,
    ]  # fmt: skip


def _decode_graph(fingerprint: str, row: Mapping[str, Any]) -> GraphEntry:
    regions = {str(name): decode_regions(text) for name, text in (row["regions"] or {}).items()}
    lengths = []
    for length, items in row["lengths"].items():
        for item in items:
            eager = Reference(
                int(item["eager"]["peak_bytes"]), float(item["eager"]["latency_ms"])
            )
            shapes = tuple(tuple(int(size) for size in shape) for shape in item["shapes"])
            rows = tuple(_decode_row(fingerprint, one, regions) for one in item["frontier"])
            lengths.append(LengthEntry(int(length), shapes, eager, rows))
    return GraphEntry(
        fingerprint,
        {str(key): str(value) for key, value in row["environment"].items()},
        {str(key): int(value) for key, value in row["length"].items()},
        None if row.get("budget") is None else parse_budget(row["budget"]),
        tuple(lengths),
    )


def _decode_row(
    fingerprint: str, row: Sequence[Any], regions: Mapping[str, tuple[Region, ...]]
) -> PlanRow:
    peak, predicted, latency, ratio, low, high, choices = row
    made = sorted(
        (Choice(regions[str(name)], int(size)) for name, size in choices.items()),
        key=lambda choice: choice.regions[0].nodes,
    )
    return PlanRow(
        Plan(fingerprint, tuple(made)), int(peak), int(predicted), float(latency), float(ratio),
        float(low), float(high),
    )  # fmt: skip


class _Flow:
    """A value that is written on one line."""

    def __init__(self, value: Any) -> None:
        self.value = value


# (PyYAML's classes are chosen when it is loaded, which type checkers cannot follow)
class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """libyaml's writer, where there is one, with one-line values and no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _one_line(dumper: Any, data: _Flow) -> Any:
    if isinstance(data.value, dict):
        return dumper.represent_mapping(
            "tag:yaml.org,2002:map", data.value.items(), flow_style=True
        )
    return dumper.represent_sequence("tag:yaml.org,2002:seq", data.value, flow_style=True)


_Dumper.add_representer(_Flow, _one_line)


class _NoAliases:
    """Anchors have no use in a plan database, and nested ones can fill the memory."""

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        known: Any = self
        if node in known.constructed_objects or node in known.recursive_objects:
            raise yaml.constructor.ConstructorError(
                None, None, "aliases are not allowed here", node.start_mark
            )
        return super().construct_object(node, deep)  # type: ignore[misc]


class _Loader(_NoAliases, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """libyaml's reader, where there is one, without aliases."""


def _check_depth(text: str) -> None:
    """Readers recurse, so that a file of brackets alone would end the process."""
    depth = 0
    for bracket in re.findall(r"[\[\]{}]", text):
        depth += 1 if bracket in "[{" else -1
        if depth > _DEEPEST:
            raise ValueError(f"more than {_DEEPEST} brackets are open at once")
