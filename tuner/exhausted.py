"""What a run out of memory says of others: the same plan in larger chunks needs no less."""

from __future__ import annotations

from collections.abc import Sequence

from search_space.plan import Choice, Plan


class Exhausted:
    """Plans that ran out of memory, by length.

    A plan is implied to run out as well where one that did is at most as large and chunked at least
    as much: of no greater length, of the same graph, with each of the plan's own loops among its
    loops in chunks no larger. What has no loop there is whole.
    """

    def __init__(self) -> None:
        self._found: list[tuple[int, Plan]] = []

    def add(self, length: int, plan: Plan) -> None:
        """A plan ran out of memory at a length."""
        self._found.append((length, plan))

    def implied(self, length: int, plan: Plan) -> str:
        """Why a plan will run out of memory; empty where nothing says so."""
        for shorter, other in self._found:
            if (shorter, other) == (length, plan):
                continue
            if shorter <= length and _no_smaller(plan, other):
                loops = "as little" if len(plan.choices) == len(other.choices) else "less"
                return f"at length {shorter} a plan ran out of memory, and this one chunks {loops}"
        return ""


def _no_smaller(plan: Plan, other: Plan) -> bool:
    same = (plan.fingerprint, plan.rewrites, plan.stretches) == (
        other.fingerprint, other.rewrites, other.stretches
    )  # fmt: skip
    return same and _all_wider(plan.choices, other.choices)


def _all_wider(choices: Sequence[Choice], others: Sequence[Choice]) -> bool:
    """Whether each loop is among the others, where it and what is in it runs in chunks as small."""
    theirs = {choice.regions: choice for choice in others}
    for choice in choices:
        other = theirs.get(choice.regions)
        if other is None or choice.chunk_size < other.chunk_size:
            return False
        if choice.compiled != other.compiled or not _all_wider(choice.inner, other.inner):
            return False
    return True
