"""What a campaign's measurements are known by."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tuner.campaigns import campaign
from tuner.config import parse_config
from tuner.identities import Identities

HERE = {
    "device": "cpu", "device_name": "cpu x", "torch": "2.13.0", "threads": "2",
    "wait_policy": "default", "python": "3.11.7",
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({}, True),
        ({"python": "3.12.1"}, True),
        ({"wait_policy": "PASSIVE"}, False),
        ({"threads": "1"}, False),
        ({"torch": "2.13.1"}, False),
        ({"device_name": "cpu y"}, False),
    ],
)
def test_measurements_are_those_of_a_device_as_it_was(
    changes: dict[str, str], same: bool, tmp_path: Path
) -> None:
    config = parse_config(campaign(tmp_path), tmp_path)
    known = Identities(config, HERE).ceilings()
    assert (Identities(config, {**HERE, **changes}).ceilings() == known) == same
