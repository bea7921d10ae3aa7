"""Which plan of a frontier suits the memory that is free, learning from what ran out.

Rungs stand in order: fastest first, each needing less memory than the one before. A rung is taken
where its *need* is free. Needs start as predictions; when a rung runs out although ``free`` bytes
were there, and are there again afterwards, it needs more than that, and so do all above it.
"""

from __future__ import annotations

HEADROOM = 1.05
"""Free memory that a plan wants, over its peak: allocators round up and leave gaps."""


class Ladder:
    """The needs of some rungs, in bytes."""

    def __init__(self) -> None:
        self._needs: list[int] = []

    def __len__(self) -> int:
        return len(self._needs)

    def add(self, peak_bytes: int) -> None:
        """One more rung, below all others."""
        self._needs.append(int(peak_bytes * HEADROOM))

    def pick(self, free_bytes: int) -> int | None:
        """The first rung that fits; None where none does."""
        for place, need in enumerate(self._needs):
            if need <= free_bytes:
                return place
        return None

    def need(self, place: int) -> int:
        """What a rung needs, as far as is known."""
        return self._needs[place]

    def ran_out(self, place: int, free_before: int, free_after: int) -> None:
        """Remember that a rung ran out of memory.

        Args:
            free_before, free_after: bytes free when it was picked, and when all that it had taken
                was given back. The lesser of them it certainly had, and it was not enough: what
                was there for a moment only says nothing about the rung.
        """
        least = min(free_before, free_after) + 1
        for above in range(place + 1):
            self._needs[above] = max(self._needs[above], least)
