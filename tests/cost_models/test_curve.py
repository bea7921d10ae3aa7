"""Curves through measured points."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cost_models.curve import Curve, curve_of, value_at

FALLING: Curve = ((1.0, 8.0), (4.0, 2.0), (16.0, 2.0))


@pytest.mark.parametrize(
    ("x", "expected"),
    [(0.25, 8.0), (1.0, 8.0), (2.0, 4.0), (4.0, 2.0), (8.0, 2.0), (16.0, 2.0), (1e9, 2.0)],
)
def test_between_points_it_is_a_power_and_beyond_them_flat(x: float, expected: float) -> None:
    assert value_at(FALLING, x) == pytest.approx(expected)


def test_one_point_is_a_constant() -> None:
    assert {value_at(((3.0, 7.0),), x) for x in (1e-9, 3.0, 1e9)} == {7.0}


positive = st.floats(1e-3, 1e12)


@given(st.lists(st.tuples(positive, positive), min_size=1, unique_by=lambda point: point[0]),
       positive)  # fmt: skip
def test_it_stays_between_its_lowest_and_highest_points(
    points: list[tuple[float, float]], x: float
) -> None:
    curve = curve_of(sorted(points))
    values = [value for _, value in curve]
    assert min(values) * (1 - 1e-9) <= value_at(curve, x) <= max(values) * (1 + 1e-9)


def test_a_files_lists_make_a_curve() -> None:
    assert curve_of([[1, 8], [4, 2.0], [16, 2]]) == FALLING


@pytest.mark.parametrize(
    "points", [[], [[1, 0]], [[0, 1]], [[1, -2]], [[2, 1], [1, 1]], [[1, 1], [1, 2]]]
)
def test_what_is_no_curve_is_refused(points: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="positive points by rising x"):
        curve_of(points)
