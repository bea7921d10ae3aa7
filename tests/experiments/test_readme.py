"""What the README tells of measurements is what the committed records say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from experiments.reach_page import read_records
from experiments.rivals import RESULTS
from experiments.rivals_page import is_compiled, is_ours, measured, shares

README = Path(__file__).resolve().parents[2] / "README.md"

KEYS = {
    "GPT-2, attention written out": "gpt2",
    "ESMFold block": "esmfold_block",
    "Evoformer block": "evoformer",
    "BERT": "bert",
    "ViT": "vit",
    "UNet, attention written out": "unet",
}


def rows() -> dict[str, str]:
    """The CPU's column beside ``torch.compile``, by the row's name."""
    text = README.read_text(encoding="utf-8")
    found = re.findall(r"^ *\| ([^|]+) \| (\d\.\d\dx, \d\.\d\dx) \|", text, re.MULTILINE)
    return dict(found)


def test_every_subject_stands_in_the_table() -> None:
    assert rows().keys() == KEYS.keys()


@pytest.mark.parametrize("name", KEYS)
def test_figures_are_those_of_one_compiled_plan(name: str) -> None:
    record = read_records(RESULTS / "rivals")[KEYS[name]]
    told = []
    for way in measured(record):
        if is_ours(way) and is_compiled(way):
            pair = shares(record, way, "compile")
            assert pair is not None
            told.append(f"{pair[0]:.2f}x, {pair[1]:.2f}x")
    assert rows()[name] in told
