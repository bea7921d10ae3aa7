"""The subjects on which cost models and search are judged: four models at three lengths each.

On a CPU small enough that a call takes tens of milliseconds on one core, so that a few minutes give
thousands of samples; large enough that tensors exceed a core's cache. On a GPU of the models' real
widths, at lengths where a call takes some milliseconds: it is not launches alone that are timed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from experiments import subjects
from tuner.config import CampaignConfig, parse_config

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class CostSubject:
    """A model by its factory in :mod:`experiments.subjects`, and the lengths to look at."""

    name: str
    factory: str
    kwargs: Mapping[str, Any]
    lengths: tuple[int, ...]

    device: str = "cpu"

    def config(self, output: Path, **sections: Mapping[str, Any]) -> CampaignConfig:
        """A campaign of it; ``sections`` are of the campaign file."""
        return parse_config(
            {
                "campaign": f"cost-{self.name}",
                "model": {
                    "id": self.name,
                    "factory": "experiments.cost_subjects:exact",
                    "kwargs": {"factory": self.factory, "options": dict(self.kwargs)},
                },
                "seq_lens": list(self.lengths),
                "device": self.device,
                "output": str(output),
                "plans": str(output / "plans"),
                **sections,
            },
            ROOT,
        )


def exact(factory: str, options: Mapping[str, Any]) -> subjects.Subject:
    """A subject by its factory's name and arguments, without TF32."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    made: subjects.Subject = getattr(subjects, factory)(**options)
    return made


_CPU = (
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

_GPU = (
    CostSubject(
        "gpt2", "gpt2",
        {"layers": 2, "width": 768, "heads": 12, "positions": 4096, "vocabulary": 1000},
        (1024, 1792, 3072), "cuda",
    ),
    CostSubject("vit", "vit", {"layers": 2, "width": 1024, "heads": 16, "image": 224},
                (448, 640, 896), "cuda"),
    CostSubject("esmfold", "esmfold_block", {"c_s": 1024, "c_z": 128, "head_width": 32},
                (160, 224, 320), "cuda"),
    CostSubject(
        "unet", "unet2d_condition",
        {"channels": [96, 192, 384, 384], "heads": 8, "context_width": 768, "layers": 1,
         "groups": 32},
        (64, 80, 104), "cuda",
    ),
)  # fmt: skip


def subjects_on(device: str) -> tuple[CostSubject, ...]:
    """Those of a kind of device, ``cpu`` or ``cuda``."""
    return _GPU if device.startswith("cuda") else _CPU
