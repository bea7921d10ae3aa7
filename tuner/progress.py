"""How a campaign tells what it is doing. The command line draws bars; a script may stay silent."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives a campaign's progress."""

    def phase(self, title: str, total: int) -> None:
        """A phase of ``total`` steps begins."""

    def step(self, text: str = "") -> None:
        """One step is done; ``text`` says what came of it."""

    def note(self, text: str) -> None:
        """Something that the user should know."""


class Silent:
    """Tells nobody."""

    def phase(self, title: str, total: int) -> None:
        pass

    def step(self, text: str = "") -> None:
        pass

    def note(self, text: str) -> None:
        pass
