"""The table of compiled passes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cost_models.base import Sample
from experiments.cost_card import RESULTS
from experiments.cost_compiled import load_compiled, main, table
from tests.cost_models.made_features import drawn_features


def made() -> tuple[list[Sample], list[Sample]]:
    """Regions of two models at two lengths; compiled they take a tenth less than told."""
    plain = [
        Sample(one, one.roofline_log_ratio, f"g{k}", 64 + k % 2, "ab"[k // 2 % 2], 0.01)
        for k, one in enumerate(drawn_features(40))
    ]
    compiled = [
        replace(
            one,
            features=replace(one.features, compiled=1),
            log_ratio=one.log_ratio - 0.1,
        )
        for one in plain[::2]
    ]
    return plain, compiled


def test_each_model_is_judged_on_compiled_passes_alone() -> None:
    plain, compiled = made()
    _, _, *rows = table(plain, compiled)
    assert len(rows) == 4
    for row in rows:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert cells[2] == str(len(compiled))
        if cells[0] == "roofline":
            assert float(cells[4]) == pytest.approx(0.1, abs=1e-3)
            # it tells all of them to be as fast compiled as not
            assert cells[6] == f"0 of {len(compiled)}"


def test_the_committed_data_hold_some() -> None:
    found = load_compiled(RESULTS)
    assert len(found) > 100 and all(one.features.compiled for one in found)
    assert {one.model for one in found} == {"gpt2", "vit", "esmfold", "unet"}


def test_without_data_there_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no compiled passes"):
        main(["--data", str(tmp_path)])
