"""Budgets step by step, from the unchunked peak down to the floor, each step planned and measured.

A lower budget never yields a higher measured peak; no plan exceeds its budget by more than the
memory model's stated error; below the floor there is none, and the error says where the floor is.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import pytest

from experiments.budgets import Descent, Rung, descend, main, steps
from experiments.subjects import gpt2, vit
from tests.tuner.small_factory import blocks
from tuner.measure.cpu import CpuBackend

SUBJECTS = {
    "blocks": (partial(blocks, layers=1), 160),
    "gpt2": (partial(gpt2, layers=1, width=64, heads=4, positions=128, vocabulary=101), 128),
    "vit": (partial(vit, layers=1, width=64, heads=4, patch=8, image=64, attention="sdpa"), 96),
}


@pytest.mark.parametrize("name", SUBJECTS)
def test_peaks_follow_the_budget_down_to_the_floor(name: str) -> None:
    make, length = SUBJECTS[name]
    model, inputs = make()
    descent = descend(name, model.eval(), inputs(length), CpuBackend(), 8)
    assert not descent.faults, "\n".join(descent.faults)
    assert len(descent.rungs) == 8
    assert descent.floor_bytes < 0.6 * descent.unchunked_bytes, "nothing was chunked"
    assert len({rung.measured_bytes for rung in descent.rungs}) > 4


def test_budgets_descend_in_equal_ratios_to_the_floor() -> None:
    found = steps(1000, 100, 10)
    assert found[-1] == 100
    assert list(found) == sorted(set(found), reverse=True)
    assert all(b / a == pytest.approx(0.1**0.1, abs=0.01) for a, b in pairwise(found))
    assert steps(100, 100, 4) == (100,)


def test_broken_promises_are_told() -> None:
    mib = 2**20

    def descent(*rungs: Rung, refused: bool = True) -> Descent:
        return Descent("made up", 100 * mib, 10 * mib, rungs, refused)

    fine = Rung(50 * mib, 40 * mib, 40 * mib, 1)
    assert not descent(fine, Rung(20 * mib, 20 * mib, 20 * mib, 2)).faults
    for rung, message in (
        (Rung(40 * mib, 45 * mib, 39 * mib, 1), "was chosen"),
        (Rung(30 * mib, 30 * mib, 32 * mib, 1), "were taken"),
        (Rung(30 * mib, 30 * mib, 25 * mib, 1), "predicted 30.0 MiB, measured 25.0 MiB"),
        (Rung(45 * mib, 44 * mib, 44 * mib, 1), "within a larger one"),
        (Rung(30 * mib, 30 * mib, 30 * mib, 1, "differs"), "differs"),
    ):
        assert any(message in fault for fault in descent(fine, rung).faults), message
    assert descent(fine, refused=False).faults == ["a budget below the floor was not refused"]


def test_an_unknown_subject_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["gpt7"])
    assert caught.value.code == 2
    assert "gpt7" in capsys.readouterr().err
