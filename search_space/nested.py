"""Loops inside loops: classes whose smallest chunks still need much memory get inner loops.

A region over the heads computes queries, keys and values of one head at a time, but that head's
scores whole; with a loop over the queries inside it, neither exists whole. Inner classes are found
like any other, in the graph of the outer loop's body.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from search_space.candidates import Limits, find_classes, same_classes
from search_space.classes import RegionClass
from search_space.dim_rules import Probe
from search_space.errors import AutoChunkError
from search_space.liveness import MemoryModel
from search_space.space import chunk_grid, overlap


@dataclass(frozen=True, slots=True)
class NestLimits:
    """How far nesting is tried.

    Attributes:
        least: a body in small chunks must need this share of the unchunked peak.
        outer: classes that are looked into, those first that would come down lowest.
        alike: a class that has this share of its nodes in common with one in which inner loops were
            found is not looked into.
        sizes: of each, the smallest chunk sizes of its grid that are tried.
        share: of what is alive around a class, its body in small chunks must be this much...
        gain: ...and inner loops must save this share of it.
        inner: classes that are found inside.
        at_once: inner classes that run together.
    """

    least: float = 0.02
    outer: int = 12
    alike: float = 0.8
    sizes: int = 2
    share: float = 0.25
    gain: float = 0.2
    inner: int = 24
    at_once: int = 3


def with_nested(
    memory: MemoryModel,
    classes: Sequence[RegionClass],
    limits: NestLimits = NestLimits(),
    probe: Probe | None = None,
) -> tuple[RegionClass, ...]:
    """The classes, and behind them those with loops inside that come down much lower."""
    worth = []
    least = limits.least * memory.profile().peak_bytes
    for item in classes:
        grid = chunk_grid(item.extent)
        if not grid:
            continue
        transient = memory.transient_bytes(item.loops[0], grid[-1])
        around = _around(memory, item)
        if transient >= max(least, limits.share * (around + transient)):
            worth.append((around, item.key, item, grid))
    worth.sort(key=lambda row: row[:2])
    found: list[RegionClass] = []
    useful: list[RegionClass] = []
    looked = 0
    for _, _, item, grid in worth:
        if looked == limits.outer:
            break
        if any(_alike(item, other) >= limits.alike for other in useful):
            continue
        looked += 1
        made = list(_of_sizes(memory, item, grid[-limits.sizes :], limits, probe))
        if made:
            useful.append(item)
            found += made
    return (*classes, *found)


def _alike(one: RegionClass, other: RegionClass) -> float:
    """The share of two classes' nodes that both have, cut alike."""
    own, others = (
        set(zip(item.regions[0].nodes, item.regions[0].dims, strict=True)) for item in (one, other)
    )
    return len(own & others) / len(own | others)


def _of_sizes(
    memory: MemoryModel,
    item: RegionClass,
    sizes: Sequence[int],
    limits: NestLimits,
    probe: Probe | None,
) -> Iterator[RegionClass]:
    """The class with inner loops at several outer chunk sizes. The bodies are one graph at several
    sizes: what is found in the smallest, which needs it most, is tried in the others."""
    known: tuple[RegionClass, ...] = ()
    operations: list[str] = []
    for size in reversed(sizes):
        body = memory.inside(item.loops[0], size)
        now = [node.op for node in body.graph.nodes]
        if now == operations:
            known = same_classes(body, known)
        else:
            known = find_classes(body, replace(Limits(), classes=limits.inner), probe)
            operations = now
        yield from _nested(memory, item, size, known, limits)


def _around(memory: MemoryModel, item: RegionClass) -> int:
    """Bytes that stand beside a loop's body: what enters and leaves it."""
    small = max(1, item.loops[0].extent // 16)
    return item.low_bytes - memory.transient_bytes(item.loops[0], small)


def _nested(
    memory: MemoryModel,
    item: RegionClass,
    outer_size: int,
    known: Sequence[RegionClass],
    limits: NestLimits,
) -> Iterator[RegionClass]:
    """The class with those known inner loops that lower its body most; nothing where none does."""
    loop = item.loops[0]
    body = memory.inside(loop, outer_size)
    chosen: list[RegionClass] = []
    plain = lowest = body.as_body(()).peak_bytes
    while len(chosen) < limits.at_once:
        tried = [
            (peak, one.key, one)
            for one in known
            if not any(overlap(one, other) for other in chosen)
            and (peak := _peak(body, [*chosen, one])) is not None
        ]
        if not tried:
            break
        peak, _, best = min(tried, key=lambda row: row[:2])
        if peak > lowest - limits.gain * plain / 4:
            break
        lowest = peak
        chosen.append(best)
    if not chosen:
        return
    chosen.sort(key=lambda one: one.regions[0].nodes)
    inner = tuple(chosen)
    text = repr((item.key, outer_size, [one.key for one in inner]))
    made = RegionClass(
        hashlib.sha256(text.encode()).hexdigest()[:12], item.loops, item.high_bytes, 0, inner,
        outer_size,
    )  # fmt: skip
    small = max(1, made.extent // 16)
    choices = made.inner_choices(small)
    try:
        # the ragged last pass must allow the same loops
        transient = memory.transient_bytes(loop, outer_size, inner=choices)
    except AutoChunkError:
        return
    low = _around(memory, item) + transient
    bottom = _around(memory, item) + memory.transient_bytes(loop, outer_size)
    if low <= (1 - limits.gain) * bottom:
        yield replace(made, low_bytes=low)


def _peak(body: MemoryModel, classes: Sequence[RegionClass]) -> int | None:
    """A body's peak with these loops in small chunks; None where they cannot run together."""
    choices = sorted(
        (one.choice(max(1, one.extent // 16)) for one in classes),
        key=lambda choice: choice.regions[0].nodes,
    )
    try:
        return body.as_body(tuple(choices)).peak_bytes
    except AutoChunkError:
        return None
