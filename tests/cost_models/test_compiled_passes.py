"""Which cost model is believed on compiled passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest

from cost_models.base import Estimate, Sample
from cost_models.compiled_passes import Widened, compiled_model
from cost_models.features import Features
from cost_models.roofline import SPREAD, Roofline
from tests.cost_models.made_features import drawn_features


def samples_of(compiled: int, gap: float, lengths: int = 2) -> list[Sample]:
    """Forty samples as the roofline has them, and some of compiled passes that take longer."""
    made = []
    for place, one in enumerate(drawn_features(40 + compiled)):
        late = place >= 40
        made.append(Sample(
            replace(one, compiled=int(late)), one.roofline_log_ratio + gap * late,
            f"g{place // 4}", 64 + place % lengths, "m", 0.01,
        ))  # fmt: skip
    return made


@dataclass(frozen=True)
class Off:
    """Off by as much on compiled passes, and by as much on others."""

    compiled: float
    others: float
    kind: str = "off"

    def fit(self, samples: object) -> Off:
        return self

    def estimate(self, features: Sequence[Features]) -> list[Estimate]:
        return [
            Estimate(one.roofline_log_ratio + (self.compiled if one.compiled else self.others), 0.1)
            for one in features
        ]


def test_a_model_that_knows_compiled_passes_better_is_believed() -> None:
    found = compiled_model(Off(0.25, 0.0), samples_of(30, 0.3))
    assert isinstance(found, Widened) and found.model == Off(0.25, 0.0)


def test_it_is_as_uncertain_of_them_as_it_was_off() -> None:
    """It claims a tenth, and is off by three tenths, or by a hundredth."""
    (one,) = drawn_features(1)
    for gap, factor in ((0.5, 3 / 1.645), (0.21, 1.0)):
        found = compiled_model(Off(0.2, 0.0), samples_of(30, gap))
        (estimate,) = found.estimate([replace(one, compiled=1)])
        assert estimate.spread == pytest.approx(0.1 * factor, rel=0.05)
        assert estimate.log_ratio == pytest.approx(one.roofline_log_ratio + 0.2)


def test_how_well_it_knows_others_does_not_matter() -> None:
    knows = Off(0.25, 5.0)
    believed = compiled_model(knows, samples_of(30, 0.3))
    assert isinstance(believed, Widened) and believed.kind == "off"
    found = compiled_model(Off(-0.1, 0.0), samples_of(30, 0.3))
    assert isinstance(found, Roofline)


def test_the_rooflines_spread_is_that_of_compiled_passes() -> None:
    found = compiled_model(Off(-0.1, 0.0), samples_of(30, 0.3))
    assert isinstance(found, Roofline)
    assert found.spread == pytest.approx(0.3 / 1.645, rel=0.05)


@pytest.mark.parametrize("compiled", [0, 5])
def test_with_few_of_them_the_roofline_stands(compiled: int) -> None:
    assert compiled_model(Off(0.3, 0.0), samples_of(compiled, 0.3)) == Roofline(SPREAD)


def test_nothing_known_at_all_leaves_the_roofline() -> None:
    assert compiled_model(Off(0.0, 0.0), []) == Roofline()
