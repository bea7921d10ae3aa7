"""The table of unchanged models."""

from __future__ import annotations

import pytest

from cost_models.reference import Reference
from cost_models.times import Parts
from experiments.cost_card import load_references
from experiments.cost_unchanged import carried_ms, table


def reference(length: int, product_s: float, unchunked_ms: float, model: str = "m") -> Reference:
    return Reference(model, length, Parts(1e-4, product_s, 1e-3), unchunked_ms, {}, ())


def test_a_length_is_told_from_the_others_alone() -> None:
    known = [reference(1, 1e-3, 4.2), reference(2, 5e-3, 12.2)]
    far = reference(3, 10e-3, 1e9)
    # twice the roofline at both
    assert carried_ms(far, [*known, far, reference(4, 1e-3, 99.0, "other")]) == pytest.approx(
        22.2, rel=1e-3
    )


def test_the_committed_data_are_told_within_the_bar() -> None:
    references = load_references()
    *rows, _, last = table(references)
    assert len(rows) == 2 + len(references) == 14
    assert float(last.split()[3]) < 5.0
