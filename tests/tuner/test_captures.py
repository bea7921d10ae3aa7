"""Captures that are kept: how many, and what is said where calls need ever new ones."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn

from search_space.capture import Capture
from search_space.errors import CaptureError
from search_space.rewrites import Kernels
from tuner import apply
from tuner.runtime import blocks, captures
from tuner.runtime.blocks import Family, Target
from tuner.runtime.captures import Captures, Located
from tuner.runtime.kernels import Forms
from tuner.runtime.replaced import Replaced

MOST = 9


class Scaled(nn.Module):
    def forward(self, x: torch.Tensor, scale: float, *, shift: int = 0) -> torch.Tensor:
        return (x * scale + shift).softmax(-1)


Locate = Callable[..., Located]


@pytest.fixture(params=["a model", "a target"])
def locate(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Locate]:
    monkeypatch.setattr(captures, "MOST_CAPTURES", MOST)
    monkeypatch.setattr(blocks, "MOST_CAPTURES", MOST)
    model = Scaled().eval()
    if request.param == "a model":
        whole = Captures(model)
        yield lambda *args, **kwargs: whole.locate(args, kwargs)
        return
    replaced = Replaced("part", model, lambda args, kwargs: None)
    target = Target("part", replaced)
    family = Family([target])
    yield lambda *args, **kwargs: family.locate(target, args, kwargs)
    replaced.remove()


def test_a_number_that_changes_from_call_to_call_is_told_of_once(
    locate: Locate, caplog: pytest.LogCaptureFixture
) -> None:
    x = torch.ones(3, 4)
    for step in range(2 * MOST):
        locate(x, 1.0 + step)
    for step in range(6):
        locate(x, 1.0, shift=step)
    (told,) = (record.getMessage() for record in caplog.records)
    assert "captured for 8 values of argument 1;" in told
    assert "as a tensor" in told


def test_a_keyword_is_named(locate: Locate, caplog: pytest.LogCaptureFixture) -> None:
    for step in range(8):
        locate(torch.ones(3, 4), 1.0, shift=step)
    (told,) = (record.getMessage() for record in caplog.records)
    assert "8 values of 'shift';" in told


def test_other_sizes_dtypes_and_structures_are_no_values(
    locate: Locate, caplog: pytest.LogCaptureFixture
) -> None:
    for dims in range(1, 6):
        for dtype in (torch.float32, torch.float64):
            locate(torch.ones([2] * dims, dtype=dtype), 1.0)
    assert not caplog.records


def test_the_oldest_goes_first_and_frees_what_was_made_of_it(locate: Locate) -> None:
    forms = Forms(Kernels("auto"))
    seen: list[weakref.ref[Capture]] = []
    for step in range(MOST + 2):
        found = locate(torch.ones(3, 4), 1.0 + step)
        assert forms.of(found.captured, found.bindings) == (found.captured,)
        seen.append(weakref.ref(found.captured))
    del found
    gc.collect()
    assert [ref() is None for ref in seen] == [True, True] + [False] * MOST
    assert len(forms._kept) == MOST
    kept = locate(torch.ones(5, 4), 3.0).captured  # (another length is served by what is kept)
    assert kept is seen[2]()


class Rescaled(nn.Module):
    """Changes its weights at its first call, as RWKV does."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.is_rescaled = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.is_rescaled:
            with torch.no_grad():
                self.inner.weight.div_(2)
            self.is_rescaled = True
        y: torch.Tensor = self.inner(x).softmax(-1)
        return y


def test_a_model_that_changes_its_weights_is_refused_and_left_as_it_was() -> None:
    model, x = Rescaled().eval(), torch.ones(3, 4)
    before = model.inner.weight.detach().clone()
    with pytest.raises(CaptureError, match=r"changes '.*inner.weight' in place.*call it once"):
        apply(model, (x,))
    assert not model.is_rescaled
    assert torch.equal(model.inner.weight, before)
    with torch.no_grad():
        expected = model(x)
        assert torch.equal(model.inner.weight, before / 2)
        torch.testing.assert_close(apply(model, (x,))(x), expected)
