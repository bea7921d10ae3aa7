"""The roofline calibrated to a model's unchunked latencies."""

from __future__ import annotations

import pytest

from cost_models.times import Parts
from cost_models.whole_times import Calibration, Unchunked, calibrate, unchunked_from_plain

SMALL, MIDDLE, LARGE = (Parts(1.0, 2.0 * n, 0.5 * n) for n in (1, 3, 10))


def test_without_a_latency_the_roofline_stands() -> None:
    assert calibrate(()) == Calibration() and Calibration().seconds(SMALL) == SMALL.total_s


def test_one_latency_scales_all_parts_alike() -> None:
    found = calibrate([(MIDDLE, 3 * MIDDLE.total_s)])
    assert found.seconds(MIDDLE) == pytest.approx(3 * MIDDLE.total_s)
    assert found.launch == pytest.approx(found.product) == pytest.approx(3.0)


def test_several_lengths_tell_dear_launches_from_slow_products() -> None:
    true = Calibration(launch=5.0, product=1.5, other=1.5)
    found = calibrate([(one, true.seconds(one)) for one in (SMALL, MIDDLE)])
    assert found.launch > 4.0
    assert found.seconds(LARGE) == pytest.approx(true.seconds(LARGE), rel=0.03)
    # a common factor, from the lengths' mean, would be far off
    mean = sum(true.seconds(one) / one.total_s for one in (SMALL, MIDDLE)) / 2
    assert mean * LARGE.total_s > 1.3 * true.seconds(LARGE)


def test_noise_of_near_lengths_is_not_taken_for_a_trend() -> None:
    near = Parts(0.01, 2.0, 0.5), Parts(0.01, 2.4, 0.6)
    known = [(near[0], 1.05 * near[0].total_s), (near[1], 0.95 * near[1].total_s)]
    far = Parts(0.01, 20.0, 5.0)
    assert calibrate(known).seconds(far) == pytest.approx(far.total_s, rel=0.05)


def test_no_factor_falls_to_nothing_or_below() -> None:
    # launches seem to cost less than none
    found = calibrate([(SMALL, 1.0), (LARGE, 40.0)])
    assert 0 < found.launch <= found.product
    assert found.seconds(SMALL) > 0


def test_a_measured_length_is_met_in_full() -> None:
    found = calibrate([(SMALL, 4.0), (LARGE, 30.0)])
    through = found.through(SMALL, 4.4)
    assert through.seconds(SMALL) == pytest.approx(4.4)
    assert through.launch / through.product == pytest.approx(found.launch / found.product)


def test_latencies_are_read_as_they_were_written() -> None:
    one = Unchunked("m", 64, SMALL, 12.5)
    assert unchunked_from_plain(one.plain()) == one
    assert one.known == (SMALL, 0.0125)
    with pytest.raises(KeyError):
        unchunked_from_plain({"model": "m", "length": 64, "unchunked_ms": 1.0})


def test_a_latency_from_an_older_ledger_scales_all_parts_alike() -> None:
    old = {"model": "m", "length": 64, "roofline_s": MIDDLE.total_s, "unchunked_ms": 3e3}
    one = unchunked_from_plain(old)
    assert calibrate([one.known]).seconds(LARGE) == pytest.approx(
        3 * LARGE.total_s / MIDDLE.total_s
    )
