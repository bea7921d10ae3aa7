"""Regressors kept as plain numbers predict what scikit-learn predicts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import GradientBoostingRegressor, RandomForestRegressor

from cost_models.regressors import FITS, HELD, Line, Trees, Vectors, regressor_from_plain


def data(count: int = 200) -> tuple[Vectors, Vectors, Vectors]:
    """Vectors, a target with a step in it, and weights."""
    draw = np.random.default_rng(0)
    vectors = draw.normal(size=(count, 6))
    target = (vectors[:, 0] > 0) + 0.3 * vectors[:, 1] + 0.05 * draw.normal(size=count)
    return vectors, target, draw.uniform(0.5, 1.5, count)


@pytest.mark.parametrize(
    ("kind", "theirs"),
    [
        ("boosting", GradientBoostingRegressor(
            n_estimators=300, learning_rate=0.05, max_depth=4, min_samples_leaf=4, subsample=0.5,
            max_features=0.4, random_state=7,
        )),
        ("forest", RandomForestRegressor(
            n_estimators=60, min_samples_leaf=3, max_features=0.5, random_state=7
        )),
    ],
)  # fmt: skip
def test_arrays_predict_as_scikit_learn_does(kind: str, theirs: Any) -> None:
    vectors, target, weights = data()
    new = data(300)[0] * 1.5
    ours = FITS[kind](vectors, target, weights, 7).predict(new)
    assert ours == pytest.approx(theirs.fit(vectors, target, weights).predict(new), abs=1e-9)


def test_of_what_is_learned_a_part_is_believed() -> None:
    vectors, target, weights = data()
    all_of_it = FITS["boosting"](vectors, target, weights, 3).predict(vectors)
    assert FITS["learned"](vectors, target, weights, 3).predict(vectors) == pytest.approx(
        HELD * all_of_it
    )


@pytest.mark.parametrize("kind", sorted(FITS))
def test_plain_values_are_the_whole_regressor(kind: str) -> None:
    vectors, target, weights = data()
    made = FITS[kind](vectors, target, weights, 0)
    again = regressor_from_plain(json.loads(json.dumps(made.plain())))
    assert (again.predict(vectors) == made.predict(vectors)).all()
    assert np.sqrt(np.mean((made.predict(vectors) - target) ** 2)) < 0.6 * target.std()


def test_a_line_recovers_a_line_and_ends_where_the_data_end() -> None:
    vectors, _, weights = data()
    made = FITS["linear"](vectors, 2 + vectors @ np.arange(6.0), weights, 0)
    assert isinstance(made, Line)
    assert made.predict(vectors) == pytest.approx(2 + vectors @ np.arange(6.0), abs=0.05)
    far, further = (made.predict(np.full((1, 6), value)) for value in (1e3, 1e6))
    assert far == further < 200


TREE: Mapping[str, Any] = {
    "type": "trees", "offset": 1.0, "weight": 2.0, "roots": [0], "feature": [0, -1, -1],
    "threshold": [0.5, 0.0, 0.0], "left": [1, -1, -1], "right": [2, -1, -1],
    "value": [0.0, 3.0, 4.0],
}  # fmt: skip


def test_a_tree_goes_left_up_to_its_threshold() -> None:
    made = regressor_from_plain(TREE)
    assert isinstance(made, Trees)
    found = made.predict(np.array([[0.4], [0.5], [0.6]]))
    assert found.tolist() == [7.0, 7.0, 9.0]


@pytest.mark.parametrize(
    "change",
    [
        {"left": [0, -1, -1]},  # its own child: the walk would not end
        {"right": [7, -1, -1]},  # outside the arrays
        {"roots": [3]},
        {"roots": []},
        {"type": "pickle"},
    ],
)
def test_trees_that_are_none_are_refused(change: Mapping[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"tree|regressor"):
        regressor_from_plain({**TREE, **change})
