"""Bringing plan databases together: campaigns of several machines, or an old one and a new one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from search_space.errors import ConfigError
from tuner.database import change_file, model_path, read_database
from tuner.entries import GraphEntry, LengthEntry, ModelFile, PlanRow, Shapes


def merge_databases(sources: Sequence[Path], into: Path) -> Iterator[str]:
    """Merge databases into a folder, one line a graph as each is written.

    Lengths that only one side knows are kept. Where both know the same input shapes, in the same
    environment, the frontier of all their plans is kept; in different environments, whose times
    cannot be compared, those of the later torch version, or else those already there. What a
    campaign finished goes before what one has only begun.

    Raises:
        ConfigError: the destination is a file, or among the sources.
        DatabaseError: a database is damaged, or cannot be written. What was written before stays.
    """
    if into.is_file():
        raise ConfigError(f"{into} is a file; merge into the folder of a plan database")
    if any(source.resolve() == into.resolve() for source in sources):
        raise ConfigError(f"{into} cannot be merged into itself")
    found = [file for source in sources for file in read_database(source)]  # all good, or nothing
    for file in found:
        path = model_path(into, file.device, file.model)
        lines: list[str] = []

        def change(
            graphs: dict[str, GraphEntry], file: ModelFile = file, lines: list[str] = lines
        ) -> None:
            for new in file.graphs:
                old = graphs.get(new.fingerprint)
                merged = new if old is None else merge_graphs(old, new)
                graphs[new.fingerprint] = merged
                before = 0 if old is None else len(old.lengths)
                lines.append(
                    f"{file.model} on {file.device}, graph {new.fingerprint}: "
                    f"{len(new.lengths)} lengths into {before}, now {len(merged.lengths)}"
                )

        change_file(path, file.device, file.model, change)
        yield from lines


def merge_graphs(old: GraphEntry, new: GraphEntry) -> GraphEntry:
    """One entry of two for the same graph."""
    head = new if _torch(new) > _torch(old) else old
    parts: dict[Shapes, GraphEntry] = {}
    for part in (*_singles(old), *_singles(new)):
        (entry,) = part.lengths
        known = parts.get(entry.shapes)
        parts[entry.shapes] = part if known is None else _better(known, part)
    return head.with_lengths(parts.values())


def _singles(entry: GraphEntry) -> Iterator[GraphEntry]:
    """Each length as an entry of its own, with the environment that it was tuned in."""
    for part in entry.parts():
        for length in part.lengths:
            yield replace(part, lengths=(length,))


def _better(old: GraphEntry, new: GraphEntry) -> GraphEntry:
    """What is kept of two entries of one length."""
    (known,), (entry,) = old.lengths, new.lengths
    if known.incomplete != entry.incomplete:
        return new if known.incomplete else old
    if dict(old.environment) != dict(new.environment):
        return new if _torch(new) > _torch(old) else old
    return replace(old, lengths=(_merge_lengths(known, entry),))


def _merge_lengths(one: LengthEntry, other: LengthEntry) -> LengthEntry:
    """All plans that none of the other side beats in both memory and time; a plan that both have
    is as the other side measured it."""
    new = [row for row in other.frontier if row not in one.frontier]
    known = {row.plan for row in new}
    old = [row for row in one.frontier if row.plan not in known]
    kept = [row for row in old if not _beaten(row, new)]
    kept += [row for row in new if not _beaten(row, old)]
    eager = one.eager if one.eager.latency_ms else other.eager
    ordered = sorted(kept, key=lambda row: (row.needed_bytes, row.ratio))
    return replace(one, eager=eager, frontier=tuple(ordered))


def _beaten(row: PlanRow, others: Sequence[PlanRow]) -> bool:
    return any(
        other.needed_bytes <= row.needed_bytes
        and other.ratio <= row.ratio
        and (other.needed_bytes, other.ratio) != (row.needed_bytes, row.ratio)
        for other in others
    )


def _torch(entry: GraphEntry) -> tuple[int, ...]:
    """The torch version as numbers; empty where it is not known."""
    release = entry.environment.get("torch", "").partition("+")[0].split(".")
    return tuple(int(part) for part in release if part.isdigit())
