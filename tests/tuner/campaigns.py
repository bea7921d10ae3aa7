"""Campaign files for tests: small, quick, and complete."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

FACTORY = Path(__file__).with_name("small_factory.py")


def campaign(folder: Path, **changes: Any) -> dict[str, Any]:
    """A small campaign that writes into ``folder``; ``changes`` replace top-level keys."""
    values: dict[str, Any] = {
        "campaign": "small",
        "model": {"id": "blocks", "factory": f"{FACTORY}:blocks"},
        "seq_lens": [96, 160],
        "device": "cpu",
        "budgets": [0.5, "min"],
        "search": {"n_trials": 40, "rounds": 2},
        "cost_model": {"kind": "linear", "timings_s": 0.3},
        "confirm": {"top_k": 1, "warmup": 1, "repeats": 3, "timeout_s": 200, "wait_s": 0},
        "output": str(folder / "runs"),
        "plans": str(folder / "plans"),
    }
    values.update(changes)
    return values


def write(folder: Path, values: dict[str, Any]) -> Path:
    """The values as a campaign file."""
    path = folder / "campaign.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path
