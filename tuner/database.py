"""The plan database: one YAML file per device and model, with the confirmed frontiers.

``<plans>/<device>/<model>.yaml`` holds, per graph fingerprint, the environment it was tuned in, the
region definitions (each once), and per length the full input shapes and one compact row a plan::

    schema: 3
    model: gpt2
    device: cpu-...
    columns: [peak_bytes, predicted_bytes, latency_ms, ratio, ratio_low, ratio_high, choices, ...]
    graphs:
      0f3a...:                      # fingerprint
        environment: {torch: 2.13.0, dtype: float32, ...}
        length: {n0: 512}           # the symbols' values at the first length
        budget: 0.5                 # holds where the user names none
        regions: {r0: {nodes: ..., dims: ..., at: [...]}}
        lengths:
          512:
          - shapes: [[1, 512]]
            eager: {peak_bytes: ..., latency_ms: ...}
            environment: {...}      # only where it was tuned elsewhere than its graph was last
            frontier:
            - [62914560, 62914560, 31.2, 0.84, 0.82, 0.86, {r0: 64}]

Raw samples and provenance stay in the ledger. Writers take a lock, read again, merge, and replace
the file in one step, so that campaigns that run at once lose nothing, and readers, which take no
lock, meet the old file or the new one. (:mod:`tuner.entry_form` has the rows' form.)
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from search_space.errors import AutoChunkError, DatabaseError
from tuner.entries import (
    GraphEntry,
    LengthEntry,
    ModelFile,
    PlanRow,
    Reference,
    Shapes,
)
from tuner.entry_form import COLUMNS, Allowance, decode_graph, encode_graph
from tuner.safe_yaml import MOST_BYTES, dump_yaml, load_yaml

SCHEMA = 3
READABLE = (1, 2, 3)
"""Schema 1 had no nested or compiled choices, and no rewrites; in schema 2 what stands between
loops was compiled where bodies were. All else is the same."""

LOCK_S = 60.0
"""How long a writer waits for others, each of which takes well under a second."""

_DAMAGE = (AutoChunkError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError)


def slug(text: str) -> str:
    """A name as a file name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "unnamed"


def model_path(plans: Path, device: str, model: str) -> Path:
    """Where the plans of a model on a device stand."""
    return plans / slug(device) / f"{slug(model)}.yaml"


def database_files(path: Path) -> tuple[Path, ...]:
    """The files of a database: one file, or every ``*.yaml`` in a folder.

    Raises:
        DatabaseError: the path does not exist.
    """
    if path.is_file():
        return (path,)
    if not path.is_dir():
        raise DatabaseError(
            f"there is no plan database at {path}; tune first (autochunk tune CONFIG), or correct "
            "the path"
        )
    return tuple(sorted(file for file in path.rglob("*.yaml") if file.is_file()))


def read_database(path: Path, device: str | None = None) -> tuple[ModelFile, ...]:
    """All files of a database.

    Args:
        device: only files tuned on a device of this name, where a folder is read.

    Raises:
        DatabaseError: the path does not exist, or a file is damaged.
    """
    found = tuple(map(read_file, database_files(path)))
    if device is None or path.is_file():
        return found
    return tuple(file for file in found if slug(file.device) == slug(device))


def read_file(path: Path) -> ModelFile:
    """One file.

    Raises:
        DatabaseError: it cannot be read or is malformed; names the place.
    """
    return _parsed(path, _text_of(path))


def _parsed(path: Path, text: str) -> ModelFile:
    data = _values_in(path, text)
    if not isinstance(data, dict) or data.get("schema") not in READABLE:
        found = data.get("schema") if isinstance(data, dict) else type(data).__name__
        newer = isinstance(found, int) and not isinstance(found, bool) and found > SCHEMA
        raise DatabaseError(
            f"{path} is no plan database of schema {SCHEMA} (found {repr(found)[:80]}); "
            + ("upgrade autochunk" if newer else "tune again")
        )
    place = "the head"
    try:
        model, device, graphs = str(data["model"]), str(data["device"]), []
        allowance = Allowance()
        for fingerprint, row in data["graphs"].items():
            place = f"graph {fingerprint}"[:100]
            graphs.append(decode_graph(str(fingerprint), row, allowance))
        return ModelFile(model, device, tuple(graphs), path)
    except _DAMAGE as error:
        raise DatabaseError(
            f"the plan database {path} is damaged in {place}: {type(error).__name__}: "
            f"{str(error)[:200]}. Restore the file or delete it and tune again; nothing was "
            "overwritten"
        ) from error


def _text_of(path: Path) -> str:
    try:
        # (no more than the limit is read, whatever the file's size is said to be)
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise DatabaseError(f"{path} has more than {MOST_BYTES} bytes; it is no plan database")
        return content.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DatabaseError(f"the plan database {path} cannot be read: {error}") from error


def _values_in(path: Path, text: str) -> Any:
    try:
        return load_yaml(text)
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or error
        raise DatabaseError(
            f"the plan database {path}{where} is damaged: {problem}. Restore the file or delete it "
            "and tune again; nothing was overwritten"
        ) from error


def write_graph(plans: Path, device: str, model: str, entry: GraphEntry) -> Path:
    """Merge an entry into the database and give the file's path.

    Lengths of the entry replace those of the same shapes; all else in the file stays.

    Raises:
        DatabaseError: the existing file is damaged (it is left as it is), or cannot be written.
    """

    def change(graphs: dict[str, GraphEntry]) -> None:
        old = graphs.get(entry.fingerprint)
        graphs[entry.fingerprint] = entry if old is None else replace_lengths(old, entry)

    path = model_path(plans, device, model)
    change_file(path, device, model, change)
    return path


def check_writable(plans: Path, device: str, model: str) -> None:
    """Whether a model's plans can be written later on, when much has been measured for them. Makes
    nothing itself.

    Raises:
        DatabaseError: the existing file is damaged, or the folder cannot be written.
    """
    path = model_path(plans, device, model)
    place = path.parent
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise _unwritten(path, NotADirectoryError(f"{place} is no folder"))
    if not os.access(place, os.W_OK):
        raise _unwritten(path, PermissionError(f"{place} is read-only"))
    if path.exists():
        read_file(path)


def change_file(
    path: Path, device: str, model: str, change: Callable[[dict[str, GraphEntry]], None]
) -> None:
    """Change what a file says of graphs, by fingerprint, alone among all writers.

    Raises:
        DatabaseError: the existing file is damaged (it is left as it is), or cannot be written.
    """
    with _locked(path):
        graphs: dict[str, GraphEntry] = {}
        if path.exists():
            graphs = {graph.fingerprint: graph for graph in read_file(path).graphs}
        change(graphs)
        data = {
            "schema": SCHEMA,
            "model": model,
            "device": device,
            "columns": list(COLUMNS),
            "graphs": {key: encode_graph(graphs[key]) for key in sorted(graphs)},
        }
        _replace(path, dump_yaml(data))


def replace_lengths(old: GraphEntry, new: GraphEntry) -> GraphEntry:
    """What is new, and of the old what is of other shapes, with the environment that it was tuned
    in. What a campaign has only begun to tune stands back behind what another one finished with the
    same torch."""
    torch = new.environment.get("torch")
    finished = {
        entry.shapes for entry in old.lengths
        if not entry.incomplete and (entry.environment or old.environment).get("torch") == torch
    }  # fmt: skip
    added = [e for e in new.lengths if not (e.incomplete and e.shapes in finished)]
    shapes = {entry.shapes for entry in added}
    kept = [entry for entry in old.lengths if entry.shapes not in shapes]
    parts = (replace(old, lengths=tuple(kept)), replace(new, lengths=tuple(added)))
    return new.with_lengths(parts)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """The folder, made where it is missing, and the right to write the file. The system takes the
    right away from a process that dies."""
    lock = FileLock(path.with_suffix(".lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=LOCK_S)
    except Timeout as error:
        raise DatabaseError(
            f"the plan database {path} has been locked by another process for {LOCK_S:.0f} s; is a "
            "campaign hanging? Nothing was written"
        ) from error
    except (OSError, NotImplementedError) as error:  # (the latter: a file system without locks)
        raise _unwritten(path, error) from error
    try:
        yield
    finally:
        lock.release()


def _replace(path: Path, text: str) -> None:
    """Write the whole file or nothing. Called with the lock held, so that other unfinished files
    are those of writers that died."""
    content = text.encode("utf-8")
    if len(content) > MOST_BYTES:
        raise DatabaseError(
            f"the plan database {path} would have {len(content)} bytes, more than the {MOST_BYTES} "
            "that can be read back; keep models apart by their id. Nothing was written"
        )
    try:
        _parsed(path, text)
    except DatabaseError as error:
        raise DatabaseError(
            f"the plan database {path} could not be read back; keep models apart by their id. "
            f"Nothing was written, of which it would be said: {error}"
        ) from error
    prefix = f".{path.name}."
    name = ""
    try:
        for left in path.parent.glob(f"{prefix}*"):
            left.unlink()
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=prefix)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
        _sync_folder(path.parent)
    except OSError as error:
        if name:
            Path(name).unlink(missing_ok=True)
        raise _unwritten(path, error) from error


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _unwritten(path: Path, error: Exception) -> DatabaseError:
    return DatabaseError(
        f"the plan database {path} cannot be written: {error}. What it held is unchanged, and "
        "measurements are in the campaign's ledger; make room or name another folder"
    )


__all__ = [
    "COLUMNS", "GraphEntry", "LengthEntry", "ModelFile", "PlanRow", "Reference",
    "Shapes", "change_file", "database_files", "model_path", "read_database", "read_file",
    "replace_lengths", "slug", "write_graph",
]  # fmt: skip
