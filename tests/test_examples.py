"""The examples in the documentation run as they stand, and do what they say."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = sorted((Path(__file__).resolve().parents[1] / "docs" / "examples").glob("*.py"))


def _plans(made: Any) -> list[Any]:
    """All plans that run in what an example made."""
    if hasattr(made, "unet"):
        return [made.unet.plan]
    return list(made.plan.values()) if hasattr(made, "targets") else [made.plan]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_an_example_runs(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = runpy.run_path(str(path))["main"]()
    plans = _plans(made)
    assert plans and all(plan.choices for plan in plans), "nothing is chunked"
    assert "predicted activation peak" in capsys.readouterr().out


def test_each_library_has_an_example() -> None:
    assert {path.stem for path in EXAMPLES} == {
        "transformers_encoder", "diffusers_pipeline", "esmfold",
    }  # fmt: skip
