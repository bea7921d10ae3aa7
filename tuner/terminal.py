"""A campaign's progress: drawn on a terminal, plain lines elsewhere (a file, a batch system).

Both say the same: what is done and what runs, the best plan so far for each budget, how runs
ended, and how much time is left.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cost_models.select import mib
from tuner.progress import Best, TimeLeft, duration

HEARTBEAT_S = 60.0
"""Without a terminal, a line at least this often while steps are done."""
_MOST_ROWS = 12


def make_console(*, stderr: bool = False) -> Console:
    """A console as wide as the terminal; wide enough for the tables where there is none."""
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=130)


class Terminal:
    """Shows progress; see :class:`tuner.progress.Progress`. Use it as a context.

    Args:
        clock: seconds; tests give their own.
    """

    def __init__(
        self, console: Console, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console = console
        self._clock = clock
        self._lock = threading.RLock()
        self._left = TimeLeft()
        self._best: dict[tuple[str, str], Best] = {}
        self._ended: Counter[str] = Counter()
        self._part = self._title = self._running = ""
        self._total, self._done = 0, 0
        self._started = self._phase_started = self._spoke = clock()
        self._live: Live | None = None
        if console.is_terminal:
            self._live = Live(
                self, console=console, refresh_per_second=2, transient=True, redirect_stdout=False
            )

    def __enter__(self) -> Terminal:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()

    def part(self, title: str, place: int, total: int) -> None:
        with self._lock:
            self._left.part(self._clock(), place, total)
            self._part = f"{title} ({place} of {total})"
            self._say(self._part)

    def expect(self, seconds: Mapping[str, float]) -> None:
        with self._lock:
            self._left.expect(seconds)

    def limit(self, seconds: float) -> None:
        with self._lock:
            self._left.limit(self._clock(), seconds)

    def phase(self, title: str, total: int) -> None:
        with self._lock:
            now = self._clock()
            if self._live is not None and self._title:
                self._say(f"{self._title}: done in {duration(now - self._phase_started)}")
            self._left.phase(now, title, total)
            self._title, self._total, self._done = title, total, 0
            self._phase_started, self._running = now, ""
            if self._live is None and total:
                self._say(f"{title}: {total} steps{self._time_text()}")

    def step(self, text: str = "") -> None:
        with self._lock:
            self._left.step()
            self._done = min(self._done + 1, self._total)
            if text:
                self._say(text)
            elif self._live is None and self._clock() - self._spoke >= HEARTBEAT_S:
                self._say(f"{self._title}: {self._done} of {self._total}{self._time_text()}")

    def running(self, text: str) -> None:
        with self._lock:
            self._running = text

    def measured(self, status: str) -> None:
        with self._lock:
            self._ended[status] += 1

    def best(self, found: Best) -> None:
        with self._lock:
            key = (found.place, found.budget)
            if self._best.get(key) == found:
                return
            self._best[key] = found
            if self._live is None:
                self._say(f"{found.place}, budget {found.budget}: best so far {_best_text(found)}")

    def note(self, text: str) -> None:
        with self._lock:
            self._say(text)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The picture that is drawn again and again."""
        with self._lock:
            yield Group(*self._lines())

    def _lines(self) -> list[Table | Text]:
        lines: list[Table | Text] = []
        if self._best:
            table = Table(box=None, padding=(0, 2, 0, 0), title="best so far", title_style="dim",
                          title_justify="left")  # fmt: skip
            for column in ("", "budget", "peak", "of eager", "time"):
                table.add_column(column, justify="left" if column in ("", "budget") else "right")
            for one in list(self._best.values())[-_MOST_ROWS:]:
                share = f"{one.peak_bytes / one.eager_bytes:.3f}" if one.eager_bytes else "?"
                table.add_row(
                    Text(one.place), Text(one.budget), mib(one.peak_bytes), share,
                    f"{one.ratio:.3f}x",
                )  # fmt: skip
            lines.append(table)
        bar = Table.grid(padding=(0, 1))
        title = ", ".join(text for text in (self._part, self._title) if text)
        bar.add_row(
            Text(title or "starting"),
            ProgressBar(total=max(self._total, 1), completed=self._done, width=24),
            f"{self._done}/{self._total}",
            duration(self._clock() - self._started) + self._time_text(),
        )
        lines.append(bar)
        runs = self._runs_text()
        if runs or self._running:
            parts = [part for part in (f"now: {self._running}" if self._running else "", runs)
                     if part]  # fmt: skip
            lines.append(Text(" · ".join(parts), style="dim", no_wrap=True, overflow="ellipsis"))
        return lines

    def _runs_text(self) -> str:
        if not self._ended:
            return ""
        bad = ", ".join(f"{n} {status}" for status, n in self._ended.items() if status != "ok")
        return f"runs: {self._ended['ok']} ok" + (f", {bad}" if bad else "")

    def _time_text(self) -> str:
        left = self._left.seconds(self._clock())
        return "" if left is None else f", about {duration(left)} left"

    def _say(self, text: str) -> None:
        self._spoke = self._clock()
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


def _best_text(found: Best) -> str:
    share = f" ({found.peak_bytes / found.eager_bytes:.3f} of eager's)" if found.eager_bytes else ""
    return f"{mib(found.peak_bytes)}{share}, {found.ratio:.3f}x the time"
