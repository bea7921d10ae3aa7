"""How a campaign's progress is shown: the estimate of time left, plain lines, and a terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from tuner.progress import Best, Silent, TimeLeft, duration
from tuner.terminal import HEARTBEAT_S, Terminal

MIB = 2**20


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def lines(terminal: bool) -> tuple[Terminal, io.StringIO, Clock]:
    clock, text = Clock(), io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=100, color_system=None)
    return Terminal(console, clock), text, clock


def test_time_left_is_what_is_expected_until_something_is_known() -> None:
    left = TimeLeft()
    assert left.seconds(0) is None
    left.part(0, 1, 1)
    left.expect({"a": 10.0, "b": 30.0})
    assert left.seconds(0) == 40
    left.phase(0, "a", 5)
    assert left.seconds(0) == 40


def test_time_left_learns_by_how_much_expectations_are_wrong() -> None:
    left = TimeLeft()
    left.expect({"a": 10.0, "b": 90.0})
    left.phase(0, "a", 2)
    told = [left.seconds(0)]
    for second in (10, 20):  # twice as long as expected
        left.step()
        told.append(left.seconds(second))
    left.phase(20, "b", 9)
    for second in range(40, 201, 20):
        left.step()
        told.append(left.seconds(second))
    known = [seconds for seconds in told if seconds is not None]
    truth = [200 - second for second in (0, 10, 20, *range(40, 201, 20))]
    assert known[0] == 100
    errors = [abs(a - b) for a, b in zip(known, truth, strict=True)]
    assert errors == sorted(errors, reverse=True), "each step must bring it nearer"
    assert errors[-1] == 0


def test_a_short_phase_that_took_long_says_little_of_a_long_one() -> None:
    left = TimeLeft()
    left.expect({"a": 10.0, "b": 600.0})
    left.phase(0, "a", 1)
    left.step()
    left.phase(50, "b", 10)
    told = left.seconds(50)
    assert told is not None
    assert 600 < told < 800


def test_a_phase_of_which_nothing_is_expected_does_not_disturb_the_estimate() -> None:
    left = TimeLeft()
    left.expect({"a": 10.0, "b": 30.0})
    left.phase(0, "a", 1)
    left.step()
    left.phase(10, "other", 4)
    left.step()
    assert left.seconds(500) == pytest.approx(30)


def test_parts_to_come_take_as_long_as_those_before() -> None:
    left = TimeLeft()
    left.part(0, 1, 3)
    left.expect({"a": 10.0})
    left.phase(0, "a", 2)
    left.step()
    # this part: 5 of 10 seconds are left; two more parts of 10 seconds
    assert left.seconds(5) == pytest.approx(5 + 2 * 10)
    left.step()
    left.part(10, 2, 3)
    left.expect({"a": 10.0})
    assert left.seconds(10) == pytest.approx(10 + 10)


def test_no_more_time_is_left_than_a_limit_allows() -> None:
    left = TimeLeft()
    left.limit(10, 20.0)
    assert left.seconds(10) == 20
    left.expect({"a": 7.0})
    assert left.seconds(10) == 7
    assert left.seconds(25) == 5
    assert left.seconds(40) == 0


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (61, "61 s"), (600, "10 min"), (11100, "3 h 05 min")]
)
def test_durations_are_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text


BEST = Best("length 512", "0.5", 30 * MIB, 100 * MIB, 0.8)


def drive(shown: Terminal, clock: Clock) -> None:
    """A small campaign, as a campaign would tell it."""
    shown.part("target a[0]", 1, 2)
    shown.expect({"search": 100.0})
    shown.phase("search", 4)
    shown.running("plan 1 of 3")
    shown.measured("ok")
    clock.now += 30
    shown.step("one is done [bold]")
    shown.measured("oom")
    clock.now += HEARTBEAT_S
    shown.step()
    shown.best(BEST)
    shown.best(BEST)
    shown.note("a note")


def test_without_a_terminal_there_are_plain_lines() -> None:
    shown, text, clock = lines(terminal=False)
    with shown:
        drive(shown, clock)
    assert text.getvalue().splitlines() == [
        "target a[0] (1 of 2)",
        "search: 4 steps, about 3 min left",
        "one is done [bold]",
        "search: 2 of 4, about 4 min left",
        "length 512, budget 0.5: best so far 30.0 MiB (0.300 of eager's), 0.800x the time",
        "a note",
    ]


def test_a_terminal_shows_what_is_done_what_runs_and_the_best() -> None:
    shown, text, clock = lines(terminal=True)
    drive(shown, clock)
    console = Console(file=io.StringIO(), width=100, record=True)
    console.print(shown)
    picture = console.export_text()
    for words in (
        "target a[0] (1 of 2), search", "2/4", "2 min, about 4 min left", "now: plan 1 of 3",
        "runs: 1 ok, 1 oom", "length 512", "0.300", "0.800x",
    ):  # fmt: skip
        assert words in picture
    assert "one is done [bold]" in text.getvalue()


def test_what_was_drawn_is_cleared_at_the_end_and_lines_stay() -> None:
    shown, text, clock = lines(terminal=True)
    with shown:
        drive(shown, clock)
    assert "a note" in text.getvalue()


def test_silent_takes_all_that_a_campaign_tells() -> None:
    told = [name for name in dir(Terminal) if not name.startswith("_")]
    assert told == [name for name in dir(Silent) if not name.startswith("_")]
