"""The subjects on which cost models and search are judged: four models at three lengths each.

Small enough that a call takes tens of milliseconds on one core, so that a few minutes give
thousands of samples; large enough that tensors exceed a core's cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner.config import CampaignConfig, parse_config

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class CostSubject:
    """A model by its factory in :mod:`experiments.subjects`, and the lengths to look at."""

    name: str
    factory: str
    kwargs: Mapping[str, Any]
    lengths: tuple[int, ...]

    def config(self, output: Path, **sections: Mapping[str, Any]) -> CampaignConfig:
        """A campaign of it; ``sections`` are of the campaign file."""
        return parse_config(
            {
                "campaign": f"cost-{self.name}",
                "model": {
                    "id": self.name,
                    "factory": f"experiments.subjects:{self.factory}",
                    "kwargs": dict(self.kwargs),
                },
                "seq_lens": list(self.lengths),
                "device": "cpu",
                "output": str(output),
                "plans": str(output / "plans"),
                **sections,
            },
            ROOT,
        )


SUBJECTS = (
    CostSubject(
        "gpt2", "gpt2",
        {"layers": 2, "width": 128, "heads": 4, "positions": 2048, "vocabulary": 1000},
        (256, 448, 768),
    ),
    CostSubject("vit", "vit", {"layers": 2, "width": 128, "heads": 4, "image": 224},
                (256, 352, 448)),
    CostSubject("esmfold", "esmfold_block", {"c_s": 128, "c_z": 64, "head_width": 16},
                (48, 64, 88)),
    CostSubject(
        "unet", "unet2d_condition",
        {"channels": [32, 64, 64, 64], "heads": 4, "context_width": 64, "layers": 1, "groups": 8},
        (16, 24, 32),
    ),
)  # fmt: skip
