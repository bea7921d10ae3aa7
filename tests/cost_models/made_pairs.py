"""Classes of a search space that can be chosen together."""

from __future__ import annotations

from search_space.classes import RegionClass
from search_space.space import SearchSpace, overlap


def pair_of(space: SearchSpace, occurrences: int = 1) -> tuple[RegionClass, RegionClass]:
    """Two classes that go together, the first of them with so many occurrences at least."""
    for first in space.classes:
        for second in space.classes:
            both = space.decode({first.key: 2, second.key: 2})
            enough = len(first.loops) >= occurrences
            if enough and len(both.choices) == 2 and not overlap(first, second):
                return first, second
    raise AssertionError("no two classes of the space go together")
