"""The search for the longest length, against answers known by hand."""

from __future__ import annotations

import time

import pytest

from experiments.search_length import longest


@pytest.mark.parametrize("answer", [1, 2, 7, 63, 64, 65, 500, 1023, 1024, 99_999])
def test_a_monotone_answer_is_found_exactly(answer: int) -> None:
    asked: list[int] = []

    def fits(length: int) -> bool:
        asked.append(length)
        return length <= answer

    found = longest(fits, start=64)
    assert found.length == answer
    assert not found.stopped
    assert found.tried == len(asked) == len(set(asked)), "no length may be worked out twice"
    assert len(asked) < 60
    # a length far beyond the answer is costly to analyse and tells nothing
    assert max(asked) <= max(2 * answer + 2, 64)


def test_only_lengths_on_the_step_are_asked_about() -> None:
    asked: list[int] = []

    def fits(length: int) -> bool:
        asked.append(length)
        return length <= 1000

    assert longest(fits, start=36, step=16).length == 996
    assert all(length % 16 == 36 % 16 for length in asked)


def test_a_gap_below_the_answer_is_passed_over() -> None:
    # lengths from 900 to 919 do not fit, longer ones up to 1000 do
    found = longest(lambda n: n <= 1000 and not 900 <= n < 920, start=64)
    assert found.length == 1000


def test_nothing_fits() -> None:
    found = longest(lambda n: False, start=64, step=8)
    assert found.length == 0
    assert not found.stopped


def test_a_limit_is_reported() -> None:
    found = longest(lambda n: True, start=10, step=5, most=99)
    assert found.length == 95
    assert found.stopped == "longest length allowed"


def test_a_deadline_ends_the_search_with_what_was_seen() -> None:
    def slow(length: int) -> bool:
        time.sleep(0.02)
        return length <= 10**6

    found = longest(slow, start=64, deadline=time.monotonic() + 0.1)
    assert found.stopped == "time limit"
    assert 64 <= found.length < 10**6
    assert longest(slow, start=64, deadline=time.monotonic() - 1).length == 0


def test_wrong_limits_are_refused() -> None:
    with pytest.raises(ValueError, match="start"):
        longest(lambda n: True, start=0)
    with pytest.raises(ValueError, match="step"):
        longest(lambda n: True, start=4, step=0)
