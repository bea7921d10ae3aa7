"""Half precision: against an fp32 reference no more than 1.1 times the unchunked model's own error.

Both ways to it, weights in bfloat16 and autocast, on a library's models and on one of our own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch.utils import _pytree as pytree

from experiments.judge import MORE_RMS, Half, make_judge
from experiments.subjects import gpt2, vit
from tests.chunked import chunked
from tests.tuner.small_factory import blocks

SMALL: dict[str, Any] = {"layers": 1, "width": 64, "heads": 4}
SUBJECTS: dict[str, tuple[Callable[[], Any], tuple[int, int]]] = {
    "blocks": (blocks, (40, 39)),
    "gpt2": (partial(gpt2, **SMALL, positions=64, vocabulary=101), (48, 47)),
    "vit": (partial(vit, **SMALL, patch=4, image=24, attention="sdpa"), (32, 28)),
}


@pytest.fixture(params=SUBJECTS)
def subject(request: pytest.FixtureRequest) -> tuple[torch.nn.Module, Any]:
    """A model in fp32, and its inputs at two lengths that one capture serves."""
    make, lengths = SUBJECTS[request.param]
    model, inputs = make()
    return model.eval(), [inputs(length) for length in lengths]


def in_bfloat16(values: Any) -> Any:
    return pytree.tree_map_only(
        torch.Tensor, lambda t: t.bfloat16() if t.is_floating_point() else t, values
    )


def test_weights_in_bfloat16(subject: tuple[torch.nn.Module, Any]) -> None:
    model, calls = subject
    model = copy.deepcopy(model).bfloat16()
    args, kwargs = in_bfloat16(calls[0])
    fast = chunked(model, args, kwargs)
    for call in calls:
        args, kwargs = in_bfloat16(call)
        judge = make_judge(model, (args, kwargs), torch.bfloat16)
        assert isinstance(judge, Half)
        judged = judge(fast(*args, **kwargs))
        assert not judged.reason
        assert 0 < judged.error <= MORE_RMS == 1.1


def test_autocast(subject: tuple[torch.nn.Module, Any]) -> None:
    model, calls = subject
    args, kwargs = calls[0]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        fast = chunked(model, args, kwargs)
    for args, kwargs in calls:
        with torch.no_grad():
            reference = model(*args, **kwargs)
            with torch.autocast("cpu", torch.bfloat16):
                own = model(*args, **kwargs)
                found = fast(*args, **kwargs)
        judged = Half(own, reference)(found)
        assert not judged.reason
        assert 0 < judged.error <= MORE_RMS
