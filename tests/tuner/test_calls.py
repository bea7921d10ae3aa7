"""What models are called with and what they give: whole numbers, booleans, keywords, structures.

Each on a library's model and on one of our own, at batch 1 and 3 and at odd lengths.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

from experiments.subjects import bert
from search_space.capture import flatten_output
from tuner import Applied, apply

LENGTH, WIDTH = 160, 32
Call = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Found:
    """What :class:`Masked` gives: tensors of three kinds, a number, and nothing."""

    hidden: torch.Tensor
    by_name: dict[str, torch.Tensor]
    layers: int
    loss: torch.Tensor | None = None


class Masked(nn.Module):
    """Attention over tokens, some of which a boolean hides; keywords alone change the scale."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, ids: torch.Tensor, *, keep: torch.Tensor, scale: float = 1.0) -> Found:
        x = self.embed(ids)
        q, k, v = self.qkv(x).chunk(3, -1)
        scores = (q @ k.mT * scale).masked_fill(~keep[:, None], float("-inf"))
        x = x + scores.softmax(-1) @ v
        x = x + self.down(nn.functional.gelu(self.up(x)))
        return Found(x, {"best": x.argmax(-1), "kept": (x > 0) & keep[..., None]}, 1)


def tokens(length: int, batch: int) -> torch.Tensor:
    return torch.randint(0, 50, (batch, length), generator=torch.Generator().manual_seed(length))


def keep(length: int, batch: int) -> torch.Tensor:
    """Each row hides one token more at its end than the row before."""
    return torch.arange(length) < length - 1 - torch.arange(batch)[:, None]


def masked() -> tuple[nn.Module, Callable[[int, int], Call]]:
    torch.manual_seed(0)
    return Masked().eval(), lambda length, batch: (
        (tokens(length, batch),), {"keep": keep(length, batch), "scale": 0.5}
    )  # fmt: skip


def library() -> tuple[nn.Module, Callable[[int, int], Call]]:
    """BERT, all by keyword: tokens, a boolean mask, types; a dictionary that is a dataclass."""
    model, _ = bert(layers=1, width=WIDTH, heads=4, positions=200, vocabulary=50)
    return model, lambda length, batch: ((), {
        "input_ids": tokens(length, batch),
        "attention_mask": keep(length, batch),
        "token_type_ids": tokens(length, batch) % 2,
        "output_hidden_states": True,
    })  # fmt: skip


@dataclass(frozen=True)
class Case:
    model: nn.Module
    call: Callable[[int, int], Call]
    applied: Applied


@pytest.fixture(scope="module", params=[masked, library])
def case(request: pytest.FixtureRequest) -> Case:
    model, call = request.param()
    args, kwargs = call(LENGTH, 1)
    return Case(model, call, apply(model, args, kwargs, memory_budget=0.5))


@pytest.mark.parametrize(("length", "batch"), [(LENGTH, 1), (LENGTH - 1, 1), (LENGTH - 1, 3)])
def test_outputs_and_their_structure_are_the_models_own(
    case: Case, length: int, batch: int
) -> None:
    args, kwargs = case.call(length, batch)
    with torch.no_grad():
        expected = case.model(*args, **kwargs)
    found = case.applied(*args, **kwargs)
    assert case.applied.plan.choices, "nothing is chunked, so nothing is tested"
    assert type(found) is type(expected)
    leaves, spec = flatten_output(found)
    wanted, expected_spec = flatten_output(expected)
    assert spec == expected_spec
    for one, other in zip(leaves, wanted, strict=True):
        if isinstance(other, torch.Tensor):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
        else:
            assert one == other


def test_a_mask_of_other_values_is_heeded(case: Case) -> None:
    """What is hidden is read at each call, not when the model was captured."""
    args, kwargs = case.call(LENGTH, 1)
    name = "keep" if "keep" in kwargs else "attention_mask"
    other = {**kwargs, name: torch.ones_like(kwargs[name])}
    with torch.no_grad():
        expected = pytree.tree_leaves(case.model(*args, **other))
    found = pytree.tree_leaves(case.applied(*args, **other))
    before = pytree.tree_leaves(case.applied(*args, **kwargs))
    torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=1e-5)
    assert (found[0] - before[0]).abs().max() > 1e-4


def test_fields_are_reached_as_on_the_models_own_outputs(case: Case) -> None:
    args, kwargs = case.call(LENGTH, 1)
    found = case.applied(*args, **kwargs)
    if isinstance(found, Found):
        assert found.layers == 1 and found.loss is None
        assert found.by_name["best"].dtype == torch.int64
        assert found.by_name["kept"].dtype == torch.bool
    else:
        assert torch.equal(found["last_hidden_state"], found.last_hidden_state)
        assert len(found.hidden_states) == 2
