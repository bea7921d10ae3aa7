"""Every setting of a space in turn, as far as the trials go."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from search_space.space import SearchSpace
from tuner.search.proposal import LEAVE_ALONE, Book, Task

_BATCH = 256


def exhaustive(book: Book, task: Task) -> None:
    """Visit settings in lexical order, left alone first."""
    total = min(book.space.size, task.trials)
    done = 0
    settings = _all_settings(book.space, total)
    while batch := list(itertools.islice(settings, _BATCH)):
        book.visit(batch)
        for _ in batch:
            done += 1
            task.on_trial(done, total)


def _all_settings(space: SearchSpace, count: int) -> Iterator[dict[str, int]]:
    keys = [item.key for item in space.classes]
    grids = [(LEAVE_ALONE, *grid) for grid in space.grids]
    for values in itertools.islice(itertools.product(*grids), count):
        yield dict(zip(keys, values, strict=True))
