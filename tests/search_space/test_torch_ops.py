"""Torch's own values as plain data, and back."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from search_space.torch_ops import torch_constant, torch_value

VALUES = (
    torch.bfloat16, torch.complex64, torch.device("cpu"), torch.device("cuda", 1), torch.strided,
    torch.channels_last,
)  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=str)
def test_plain_data_and_back_is_the_identity(value: Any) -> None:
    plain = torch_constant(value)
    assert plain is not None
    assert torch_value(plain) == value


@pytest.mark.parametrize("value", [None, 1, 2.0, "cpu", True], ids=repr)
def test_what_is_plain_already_is_no_constant(value: Any) -> None:
    assert torch_constant(value) is None
