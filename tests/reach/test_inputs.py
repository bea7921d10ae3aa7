"""What callers hand over: sizes, layouts, structures and kinds of tensors; the outputs stay the
model's own, and the peak stays predicted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from search_space.budget import parse_budget
from search_space.errors import AutoChunkError, CaptureError
from tests.reach.cases import (
    Call,
    Case,
    activation_peak,
    case,
    chunked_nodes,
    is_off,
    lowest_bytes,
    wrong,
)
from tuner import Applied, apply

ODD = {"gpt2": (61, 89), "vit": (72, 88), "evoformer": (13,), "llama_last": (61, 89)}
"""Other lengths than the captured one: prime, or with an odd or prime number of patches a side."""

UNEQUAL = pytest.mark.xfail(
    strict=True, reason="the exporter takes one tensor given twice for one input"
)
GAPPED = pytest.mark.xfail(
    raises=CaptureError, strict=True, reason="strides that no size tells are symbols of their own"
)


def hold(one: Case, fast: Applied, call: Call, *, chunks: bool = True) -> None:
    """The model's own outputs, in chunks, at the predicted peak."""
    args, kwargs = call
    assert not wrong(fast(*args, **kwargs), one.eager(call))
    if chunks:
        assert chunked_nodes(fast), "nothing is chunked, so nothing is tested"
    peak = activation_peak(lambda: fast(*args, **kwargs))
    assert not is_off(fast.predicted_peak_bytes, peak), (fast.predicted_peak_bytes, peak)


@pytest.mark.parametrize(
    ("name", "batch"), [("gpt2", 1), ("gpt2", 3), ("vit", 3), ("evoformer", 3), ("llama_last", 1)]
)
def test_odd_lengths_and_batches_from_one_capture(name: str, batch: int) -> None:
    one = case(name, batch)
    fast = one.apply(0.45 if name == "gpt2" else 0.6, one.inputs(ODD[name][0]))
    for length in ODD[name]:
        hold(one, fast, one.inputs(length))


@pytest.mark.parametrize("name", ["gpt2", "llama_last"])
def test_a_batch_of_another_size_through_the_same_object(name: str) -> None:
    one = case(name, 3)
    fast = one.apply(0.6)
    (ids,), kwargs = one.inputs(one.length)
    for batch in (5, 1):
        rows = (ids.repeat(2, 1)[:batch] + 7 * torch.arange(batch)[:, None]) % 100
        hold(one, fast, ((rows,), kwargs))


# -- a small model of one's own, on which any input can be tried -----------------------------------


class Block(torch.nn.Module):
    """Attention over the middle dimension, with a second state and a boolean mask on request."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.norm = torch.nn.LayerNorm(width)
        self.up = torch.nn.Linear(width, 4 * width)
        self.down = torch.nn.Linear(4 * width, width)

    def forward(
        self,
        x: torch.Tensor,
        other: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        hidden = self.norm(x)
        weights = hidden @ (hidden if other is None else other).transpose(1, 2)
        if mask is not None:
            weights = weights.masked_fill(~mask[:, None, :], float("-inf"))
        x = x + weights.softmax(-1) @ hidden
        made: torch.Tensor = x + self.down(self.up(x).relu())
        return made


class Convolutions(torch.nn.Module):
    """The middle dimension as that of a convolution; a second state is added on request."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.wide = torch.nn.Conv1d(width, 4 * width, 3, padding=1)
        self.back = torch.nn.Linear(4 * width, width)

    def forward(
        self,
        x: torch.Tensor,
        other: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        hidden = self.wide(x.transpose(1, 2)).transpose(1, 2)
        if mask is not None:
            hidden = hidden * mask[:, :, None]
        x = x + self.back(torch.nn.functional.gelu(hidden))
        return x if other is None else x * other.sigmoid()


MODELS = {"attention": Block, "convolutions": Convolutions}
LENGTH = 97


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> torch.nn.Module:
    torch.manual_seed(0)
    made: torch.nn.Module = MODELS[request.param]().eval()
    return made


def t(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def check(model: torch.nn.Module, *args: Any, chunks: bool = True, **kwargs: Any) -> Applied:
    """Apply at the lowest peak there is and hold it against the model."""
    with torch.no_grad():
        expected = model(*args, **kwargs)
    fast = apply(model, args, kwargs, memory_budget="min")
    if chunks:
        least = lowest_bytes(fast, (args, kwargs))
        fast = Applied(model, {}, parse_budget(least), captures=fast._captures)
    found = fast(*args, **kwargs)
    assert not wrong(found, expected)
    assert not found.requires_grad
    if chunks:
        assert fast.plan.choices, "nothing is chunked, so nothing is tested"
        peak = activation_peak(lambda: fast(*args, **kwargs))
        # (a convolution's scratch is known for float32, and bounded for others)
        under = found.dtype != torch.float32 and peak <= fast.predicted_peak_bytes
        assert under or not is_off(fast.predicted_peak_bytes, peak), peak
    return fast


LAYOUTS: dict[str, Callable[[], torch.Tensor]] = {
    "transposed": lambda: t(3, 16, LENGTH).transpose(1, 2),
    "batch in the middle": lambda: t(LENGTH, 3, 16).transpose(0, 1),
    "all turned": lambda: t(16, LENGTH, 3).permute(2, 1, 0),
    "broadcast": lambda: t(1, LENGTH, 16).expand(3, LENGTH, 16),
    "a view from within": lambda: t(4, LENGTH, 16)[1:],
}

GAPS: dict[str, Callable[[], torch.Tensor]] = {
    "rows of longer ones": lambda: t(3, 2 * LENGTH, 16)[:, :LENGTH],
    "every second": lambda: t(3, 2 * LENGTH, 16)[:, ::2],
    "features of wider ones": lambda: t(3, LENGTH, 32)[..., :16],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_inputs_of_any_dense_layout(model: torch.nn.Module, layout: str) -> None:
    check(model, LAYOUTS[layout]())


@GAPPED
@pytest.mark.parametrize("layout", GAPS)
def test_inputs_with_gaps(model: torch.nn.Module, layout: str) -> None:
    check(model, GAPS[layout]())


def test_a_layout_is_captured_when_it_first_comes(model: torch.nn.Module) -> None:
    fast = check(model, t(3, LENGTH, 16))
    for make in LAYOUTS.values():
        with torch.no_grad():
            assert not wrong(fast(make()), model(make()))


@UNEQUAL
def test_two_tensors_where_one_came_twice(model: torch.nn.Module) -> None:
    x, other = t(3, LENGTH, 16), t(3, LENGTH, 16).flip(1)
    fast = check(model, x, x)
    with torch.no_grad():
        assert not wrong(fast(x, other), model(x, other))


def test_one_tensor_twice(model: torch.nn.Module) -> None:
    x = t(3, LENGTH, 16)
    check(model, x, x)


def test_one_capture_of_two_tensors_serves_one_twice(model: torch.nn.Module) -> None:
    fast = check(model, t(3, LENGTH, 16), t(3, LENGTH, 16).flip(0))
    x = t(3, LENGTH, 16)
    with torch.no_grad():
        assert not wrong(fast(x, x), model(x, x))


@pytest.mark.parametrize("second", [3, 1], ids=["side by side", "overlapping"])
def test_views_of_one_tensor(model: torch.nn.Module, second: int) -> None:
    whole = t(6, LENGTH, 16)
    before = whole.clone()
    check(model, whole[:3], whole[second : second + 3])
    assert torch.equal(whole, before)


def test_inputs_that_require_gradients(model: torch.nn.Module) -> None:
    x = t(3, LENGTH, 16).requires_grad_()
    check(model, x)
    assert x.grad is None


def test_a_parameter_as_input(model: torch.nn.Module) -> None:
    check(model, torch.nn.Parameter(t(3, LENGTH, 16)))


def test_inference_mode(model: torch.nn.Module) -> None:
    with torch.inference_mode():
        x = t(3, LENGTH, 16)
        check(model, x)
        fast = apply(model, (x,), memory_budget="min")
    # captured there, called here, and the other way round
    y = t(3, LENGTH - 3, 16)
    with torch.no_grad():
        assert not wrong(fast(y), model(y))
        assert not wrong(fast(x), model(x))
    fast = apply(model, (y,), memory_budget="min")
    with torch.inference_mode():
        assert not wrong(fast(y), model(y))
        assert not wrong(fast(x), model(x))


SMALL_SIZES = [(3, 1, 16), (1, LENGTH, 16), (1, 1, 16), (3, 2, 16), (0, LENGTH, 16), (3, 0, 16)]


@pytest.mark.parametrize("shape", SMALL_SIZES, ids=str)
def test_sizes_zero_and_one(model: torch.nn.Module, shape: tuple[int, ...]) -> None:
    try:
        with torch.no_grad():
            model(t(*shape))
    except RuntimeError:  # the model itself cannot (a convolution over no elements)
        with pytest.raises((AutoChunkError, RuntimeError)):
            apply(model, (t(*shape),), memory_budget="min")
        return
    fast = check(model, t(*shape), chunks=False)
    x = t(3, LENGTH, 16)  # and from there to ordinary ones
    with torch.no_grad():
        assert not wrong(fast(x), model(x))


def test_ordinary_sizes_first_then_small_ones(model: torch.nn.Module) -> None:
    fast = check(model, t(3, LENGTH, 16))
    for shape in SMALL_SIZES[:4]:
        with torch.no_grad():
            assert not wrong(fast(t(*shape)), model(t(*shape))), shape


def test_float64(model: torch.nn.Module) -> None:
    torch.manual_seed(0)
    wide = type(model)().eval().double()
    check(wide, t(3, LENGTH, 16).double())


@pytest.mark.parametrize("given", ["by position", "by keyword", "mixed"])
def test_positional_keyword_and_boolean(model: torch.nn.Module, given: str) -> None:
    x, other = t(3, LENGTH, 16), t(3, LENGTH, 16).flip(1)
    mask = torch.arange(LENGTH) % 5 != torch.arange(3)[:, None]
    if given == "by position":
        check(model, x, other, mask)
    elif given == "by keyword":
        check(model, x=x, other=other, mask=mask)
    else:
        fast = check(model, x, mask=mask)
        # another mask through the same object, then another set of arguments
        for kwargs in ({"mask": mask.flip(0)}, {}, {"other": other}, {"mask": mask}):
            with torch.no_grad():
                assert not wrong(fast(x, **kwargs), model(x, **kwargs)), tuple(kwargs)


# -- masks and numbers of the libraries' own models -----------------------------------------------


def padded(batch: int, length: int) -> torch.Tensor:
    """An attention mask, 1 where there are tokens; each row shorter than the one before."""
    return (torch.arange(length) < length - 5 * torch.arange(batch)[:, None]).long()


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float32], ids=str)
@pytest.mark.parametrize("name", ["gpt2", "bert_sdpa"])
def test_attention_masks(name: str, dtype: torch.dtype) -> None:
    one = case(name, 3)
    args, kwargs = one.inputs(67)
    call = (args, {**kwargs, "attention_mask": padded(3, 67).to(dtype)})
    hold(one, one.apply(0.6, call), call)


def test_an_attention_mask_of_grouped_queries_at_two_lengths() -> None:
    one = case("llama_last", 3)
    fast = None
    for length in (53, 67):
        args, kwargs = one.inputs(length)
        call = (args, {**kwargs, "attention_mask": padded(3, length)})
        fast = fast or one.apply(0.7, call)
        hold(one, fast, call)


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_token_types_and_positions(name: str) -> None:
    one = case(name, 3)
    (ids,), kwargs = one.inputs(53)
    types = (torch.arange(53) > 20).long().expand(3, 53)
    positions = torch.arange(53).flip(0)[None]
    kwargs = {
        **kwargs,
        "attention_mask": padded(3, 53),
        "token_type_ids": types % (2 if name == "bert" else 100),
        "position_ids": positions,
    }
    hold(one, one.apply(0.6, ((ids,), kwargs)), ((ids,), kwargs))


@pytest.mark.parametrize("name", ["gpt2", "vit"])
def test_everything_by_keyword(name: str) -> None:
    one = case(name)
    names = {"gpt2": ("input_ids",), "vit": ("pixel_values",)}
    args, kwargs = one.inputs(one.length)
    call: Call = ((), {**dict(zip(names[name], args, strict=True)), **kwargs})
    hold(one, one.apply(0.6, call), call)


@pytest.mark.parametrize("name", ["gpt2", "llama_last"])
def test_embeddings_instead_of_tokens(name: str) -> None:
    one = case(name, 3)
    (ids,), kwargs = one.inputs(53)
    with torch.no_grad():
        table: Any = one.model.get_input_embeddings()  # type: ignore[operator]
        call: Call = ((), {"inputs_embeds": table(ids), **kwargs})
    hold(one, one.apply(0.6, call), call)
