"""A campaign's progress as a bar on a terminal, and as plain lines elsewhere."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars


def make_console(*, stderr: bool = False) -> Console:
    """A console as wide as the terminal; wide enough for the tables where there is none."""
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=130)


class Terminal:
    """Draws one bar a phase; see :class:`tuner.progress.Progress`. Use it as a context."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
        )
        self._task: TaskID | None = None
        self._total = 0

    def __enter__(self) -> Terminal:
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.stop()

    def phase(self, title: str, total: int) -> None:
        self._finish()
        self._total = max(total, 1)
        self._task = self._bars.add_task(title, total=self._total)

    def step(self, text: str = "") -> None:
        if self._task is not None:
            self._bars.advance(self._task)
        if text:
            self.note(text)

    def note(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _finish(self) -> None:
        """Steps that turned out not to be needed count as done."""
        if self._task is not None:
            self._bars.update(self._task, completed=self._total)
