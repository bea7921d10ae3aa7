"""Attention written out, recognised and run as a fused kernel: the same numbers, less memory."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from experiments.subjects import llama
from search_space.capture import Capture, capture
from search_space.eager_peak import eager_peak_bytes
from search_space.errors import ConfigError, PlanError
from search_space.fuse_attention import fuse_each
from search_space.graph import Node
from search_space.plan import Plan
from search_space.rewrites import Kernels, parse_kernels, rewritten
from tuner import apply
from tuner.measure.cpu import CpuBackend
from tuner.runtime.apply import apply_plan
from tuner.runtime.kernels import _check_one, _random, check_attention, with_rewrites

HEADS, HEAD, WIDTH = 4, 8, 32
LOWEST = torch.finfo(torch.float32).min
Scores = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class Attention(nn.Module):
    """Self-attention whose weights a function makes from queries, keys and a mask."""

    def __init__(self, weights: Scores, merged: bool = False) -> None:
        super().__init__()
        self.weights = weights
        self.merged = merged
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> Any:
        batch, length, _ = x.shape

        def heads(t: torch.Tensor) -> torch.Tensor:
            t = t.view(batch, length, HEADS, HEAD).transpose(1, 2)
            return t.reshape(batch * HEADS, length, HEAD) if self.merged else t

        q, k, v = map(heads, self.qkv(x).split(WIDTH, -1))
        made = self.weights(q, k, mask)
        found = torch.bmm(made, v) if self.merged else made @ v
        found = found.reshape(batch, HEADS, length, HEAD) if self.merged else found
        return self.out(found.transpose(1, 2).reshape(batch, length, WIDTH))


def plain(q: torch.Tensor, k: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    scores: torch.Tensor = q @ k.transpose(-1, -2) / HEAD**0.5
    return scores.softmax(-1)


def biased(q: torch.Tensor, k: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    scores = torch.matmul(q, k.transpose(2, 3)) * 0.3 + mask
    weights = nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype)
    return nn.functional.dropout(weights, 0.1, training=False)


def biased_twice(q: torch.Tensor, k: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    # the second bias lies with its heads innermost, as a projection of pairs does
    pairs = mask.expand(1, HEADS, -1, -1).permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    return (mask[..., :1, :] + (q @ k.mT) + pairs).softmax(-1)


def filled(q: torch.Tensor, k: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    scores = (q * 0.2) @ k.transpose(-1, -2)
    return scores.masked_fill(mask < -1.0, -torch.inf).softmax(-1)


def chosen(q: torch.Tensor, k: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    scores = q @ k.transpose(-1, -2)
    return torch.where(mask > -1.0, scores, LOWEST).softmax(-1)


def slopes_and_a_condition(q: torch.Tensor, k: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """As MPT writes it: one row of slopes, of a size that is 1 at all lengths but not by name."""
    slopes = torch.linspace(0, 1, HEADS * 160).view(HEADS, 1, 160)
    first = max(0, 1 - q.shape[-2])
    scores = q @ k.transpose(-1, -2) * 0.3 + slopes[:, first:, 160 - k.shape[-2] :]
    return scores.masked_fill(mask < -1.0, LOWEST).softmax(-1)


def causal(q: torch.Tensor, k: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    places = torch.arange(q.shape[-2])
    hidden = torch.where(places[None, :] <= places[:, None], 0.0, LOWEST)
    return (q @ k.transpose(-1, -2) * 0.3 + hidden).softmax(-1)


def causal_by_constant(q: torch.Tensor, k: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    places = torch.arange(q.shape[-2])
    hidden = torch.where(places[None, :] <= places[:, None], torch.tensor(0.0), LOWEST)
    return (q @ k.transpose(-1, -2) * 0.3 + hidden).softmax(-1)


def added(q: torch.Tensor, k: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """As diffusers writes it: the tensor that is not added is never read."""
    empty = torch.empty(q.shape[0], q.shape[1], k.shape[1])
    return torch.baddbmm(empty, q, k.transpose(-1, -2), beta=0, alpha=0.3).softmax(-1)


FORMS: dict[str, tuple[Scores, bool, int]] = {
    "plain": (plain, False, 1),
    "biased": (biased, False, 2),
    "biased twice": (biased_twice, False, 1),
    "filled": (filled, False, 1),
    "chosen": (chosen, False, 2),
    "slopes and a condition": (slopes_and_a_condition, False, 1),
    "causal": (causal, False, 1),
    "causal by a constant": (causal_by_constant, False, 1),
    "added": (added, True, 1),
    "added, batch of 2": (added, True, 2),
}


def inputs(length: int, batch: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(length)
    mask = torch.randn(batch, 1, length, length, generator=generator)
    mask.diagonal(dim1=-2, dim2=-1).zero_()  # each query sees a key
    return torch.randn(batch, length, WIDTH, generator=generator), mask


def peak_of(model: nn.Module, given: tuple[torch.Tensor, ...]) -> int:
    """Bytes of a call, by the allocator."""
    with torch.no_grad():
        return CpuBackend().peak(lambda: model(*given))[1].activation_bytes


def fused(captured: Capture, length: int) -> Capture:
    bindings = captured.graph.bind(tuple(tuple(t.shape) for t in inputs(length)))
    return with_rewrites(captured, ("sdpa",), bindings)


def attention_of(captured: Capture) -> Node:
    (found,) = (n for n in captured.graph.nodes if "scaled_dot_product" in n.op)
    return found


@pytest.mark.parametrize("form", FORMS)
def test_written_attention_runs_fused_and_gives_the_same_numbers(form: str) -> None:
    weights, merged, batch = FORMS[form]
    torch.manual_seed(0)
    model = Attention(weights, merged).eval()
    fast = apply(model, inputs(48, batch), memory_budget="10GiB", kernels="sdpa")
    assert fast.plan.rewrites == ("sdpa",)
    assert "softmax" not in fast.code.replace("softmax_fused", "").replace("softmax_", "")
    for length in (48, 61):
        given = inputs(length, batch)
        with torch.no_grad():
            torch.testing.assert_close(fast(*given), model(*given), rtol=1e-4, atol=1e-5)
        peak = peak_of(fast, given)
        assert peak <= 1.01 * fast.predicted_peak_bytes
        assert peak < eager_peak_bytes(model, given)


@pytest.mark.parametrize("weights", [causal, causal_by_constant])
def test_a_causal_mask_becomes_a_flag(weights: Scores) -> None:
    captured = capture(Attention(weights).eval(), inputs(48))
    node = attention_of(fused(captured, 48))
    assert node.args[3:6] == (None, 0.0, True)


def test_heads_merged_into_the_batch_are_taken_apart_without_copies() -> None:
    captured = capture(Attention(added, True).eval(), inputs(48, 2))
    graph = rewritten(captured.graph, ("sdpa",))
    assert not [node for node in graph.nodes if node.op.startswith("aten.clone")]
    (node,) = (n for n in graph.nodes if "scaled_dot_product" in n.op)
    assert node.outputs[0].shape[1] == HEADS  # (the batch is symbolic)


class Returned(Attention):
    """Gives its weights out too."""

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> Any:
        q, k, v = self.qkv(x).split(WIDTH, -1)
        weights = plain(q, k, mask)
        return weights @ v, weights


class Narrow(Attention):
    """Values narrower than keys, for which no fused kernel of the CPU stands."""

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> Any:
        q, k, v = self.qkv(x).split(WIDTH, -1)
        return plain(q, k, mask) @ v[..., :5]


def scaled_late(q: torch.Tensor, k: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return ((q @ k.transpose(-1, -2) + mask) * 0.3).softmax(-1)


def filled_softly(q: torch.Tensor, k: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return (q @ k.transpose(-1, -2)).masked_fill(mask < 0, -5.0).softmax(-1)


def over_queries(q: torch.Tensor, k: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return (q @ k.transpose(-1, -2)).softmax(-2)


def clamped(q: torch.Tensor, k: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return (q @ k.transpose(-1, -2)).clamp(min=-1.0).softmax(-1)


@pytest.mark.parametrize(
    "model",
    [
        Returned(plain), Narrow(plain), Attention(scaled_late), Attention(filled_softly),
        Attention(over_queries), Attention(clamped),
    ],
    ids=["returned", "narrow", "scaled late", "filled softly", "over queries", "clamped"],
)  # fmt: skip
def test_what_is_no_attention_stays_as_it_is(model: nn.Module) -> None:
    captured = capture(model.eval(), inputs(48))
    assert rewritten(captured.graph, ("sdpa",)) is captured.graph


def test_the_check_sees_a_wrong_scale() -> None:
    captured = capture(Attention(biased).eval(), inputs(48))
    graph = captured.graph
    bindings = graph.bind(tuple(tuple(t.shape) for t in inputs(48)))
    assert check_attention(graph, bindings) is None
    (rows, outputs), (one,) = fuse_each(graph.nodes, graph.outputs)
    wrong = tuple(
        dataclasses.replace(node, kwargs=(("scale", 0.31),)) if "scaled_dot" in node.op else node
        for node in rows
    )
    after = dataclasses.replace(graph, nodes=wrong, outputs=outputs).at(bindings)
    reason = _check_one(graph.at(bindings), after, one)
    assert reason is not None and "differs" in reason


def test_plans_name_their_rewrites() -> None:
    model = Attention(plain).eval()
    given = inputs(48)
    fast = apply(model, given, memory_budget="min", kernels="auto")
    assert fast.plan.rewrites == ("sdpa",)  # nothing is tuned: the fused form
    again = apply_plan(model, fast.plan, given)
    with torch.no_grad():
        torch.testing.assert_close(again(*given), model(*given), rtol=1e-4, atol=1e-5)
    kept = apply(model, given, memory_budget="min")
    assert kept.plan.rewrites == () and kept.plan.fingerprint != fast.plan.fingerprint
    unknown = Plan(fast.plan.fingerprint, (), ("sdpa", "magic"))
    with pytest.raises(PlanError, match="magic"):
        apply_plan(model, unknown, given)


def test_asking_for_fused_attention_where_there_is_none_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU()).eval()
    with caplog.at_level(logging.INFO, "autochunk"):
        fast = apply(model, (torch.randn(4, WIDTH),), memory_budget="1GiB", kernels="sdpa")
    assert fast.plan.rewrites == () and "no attention was found" in caplog.text


@pytest.mark.parametrize("value", ["flash", {"attention": "spda"}, {"mlp": "auto"}, 3])
def test_mistakes_name_what_is_valid(value: Any) -> None:
    with pytest.raises(ConfigError, match="sdpa"):
        parse_kernels(value)


def test_kernels_are_read_from_texts_and_mappings() -> None:
    assert parse_kernels(None) == Kernels("keep")
    assert parse_kernels("sdpa") == parse_kernels({"attention": "sdpa"}) == Kernels("sdpa")


class InFloat(nn.Module):
    """Attends in single precision whatever autocast asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, _ = x.shape
        made = self.qkv(x).view(batch, length, 3, HEADS, HEAD).permute(2, 0, 3, 1, 4)
        with torch.autocast("cpu", enabled=False):
            q, k, v = made.float()
            found: torch.Tensor = torch.softmax(q @ k.transpose(-1, -2) * 0.25, -1) @ v
            return found


def test_forms_are_compared_without_autocast() -> None:
    """What autocast asked for was captured: it would round one form more than the other."""
    model, (x, _) = InFloat().eval(), inputs(64)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        fast = apply(model, (x,), kernels="sdpa")
        assert fast.prepare(x).captured.graph.rewrites == ("sdpa",)
        torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-4)


class LearnedBias(nn.Module):
    """Attention, written out or fused, with a parameter itself added to its scores."""

    def __init__(self, length: int, fused: bool = False) -> None:
        super().__init__()
        self.fused = fused
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.bias = nn.Parameter(torch.randn(1, HEADS, length, length))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, _ = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, HEADS, HEAD).permute(2, 0, 3, 1, 4)
        if self.fused:
            made = nn.functional.scaled_dot_product_attention(q, k, v, self.bias)
        else:
            made = torch.softmax(q @ k.transpose(-1, -2) * HEAD**-0.5 + self.bias, -1) @ v
        return made.transpose(1, 2).reshape(batch, length, WIDTH)


@pytest.mark.parametrize("trained", [True, False])
def test_a_parameter_may_be_a_bias(trained: bool) -> None:
    """A fused kernel takes no mask that may ask for a gradient."""
    model, (x, _) = LearnedBias(40).eval().requires_grad_(trained), inputs(40, 2)
    fast = apply(model, (x,), kernels="sdpa")
    assert fast.prepare(x).captured.graph.rewrites == ("sdpa",)
    with torch.no_grad():
        torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-4)


def test_attention_with_a_parameter_as_its_mask_stores_its_scores() -> None:
    model, (x, _) = LearnedBias(128, fused=True).eval(), inputs(128)
    fast = apply(model, (x,))
    _, peak = CpuBackend().peak(lambda: fast(x))
    assert peak.requested_bytes <= fast.predicted_peak_bytes <= 1.1 * peak.requested_bytes
    lower = apply(model, (x,), memory_budget="min")
    with torch.no_grad():
        torch.testing.assert_close(lower(x), model(x), rtol=1e-4, atol=1e-4)
    _, peak = CpuBackend().peak(lambda: lower(x))
    assert peak.requested_bytes <= 1.05 * lower.predicted_peak_bytes


# -- how queries lie, and how many heads share keys -----------------------------------------------

Turned = Callable[[torch.Tensor], torch.Tensor]

QUERIES: dict[str, Turned] = {
    "as projected": lambda q: q,
    "joined": lambda q: torch.cat((q[..., :4].sin(), q[..., 4:]), -1),
    "stacked": lambda q: torch.stack((q[..., ::2], q[..., 1::2]), -1).flatten(-2),
    "normed": lambda q: nn.functional.layer_norm(q, (HEAD,)),
    "multiplied": lambda q: q @ torch.eye(HEAD),
    "rolled": lambda q: q.roll(1, -2),
    "copied": lambda q: q.contiguous() * 2,
    "heads innermost": lambda q: q.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2) * 2,
}


@pytest.mark.parametrize("form", QUERIES)
@pytest.mark.parametrize("batch", [1, 2])
def test_queries_may_lie_in_any_way(form: str, batch: int) -> None:
    class Model(Attention):
        def forward(self, x: torch.Tensor, mask: torch.Tensor) -> Any:
            b, length, _ = x.shape
            q, k, v = (t.view(b, length, HEADS, HEAD).transpose(1, 2)
                       for t in self.qkv(x).split(WIDTH, -1))  # fmt: skip
            made = (QUERIES[form](q) @ k.mT).softmax(-1) @ v
            return self.out(made.transpose(1, 2).reshape(b, length, WIDTH))

    model, given = Model(plain).eval(), inputs(400, batch)
    for budget in ("10GiB", "min"):
        fast = apply(model, given, memory_budget=budget, kernels="sdpa")
        assert fast.plan.rewrites == ("sdpa",)
        with torch.no_grad():
            for other in (inputs(97, batch), inputs(1, batch), given):
                torch.testing.assert_close(fast(*other), model(*other), rtol=1e-4, atol=1e-5)
        assert peak_of(fast, given) == pytest.approx(fast.predicted_peak_bytes, rel=0.01)


@pytest.mark.parametrize("kernels", ["sdpa", "auto"])
@pytest.mark.parametrize("budget", ["10GiB", 0.6, "min"])
def test_heads_that_share_keys_run_fused(kernels: str, budget: str | float) -> None:
    model, make = llama(
        layers=1, width=WIDTH, heads=HEADS, key_heads=2, vocabulary=101, attention="eager"
    )
    args, kwargs = make(200)
    fast = apply(model.eval(), args, kwargs, memory_budget=budget, kernels=kernels)
    assert fast.plan.rewrites == ("sdpa",)
    with torch.no_grad():
        for length in (200, 77):
            args, kwargs = make(length)
            found, expected = fast(*args, **kwargs), model(*args, **kwargs)
            torch.testing.assert_close(found[0], expected[0], rtol=1e-4, atol=1e-5)
    assert "enable_gqa = True" in fast.code


def test_the_check_sees_a_result_that_lies_otherwise_than_told() -> None:
    graph = capture(Attention(biased).eval(), inputs(48)).graph
    bindings = graph.bind(tuple(tuple(t.shape) for t in inputs(48)))
    (rows, outputs), (one,) = fuse_each(graph.nodes, graph.outputs)
    node = rows[one.after]
    told = dataclasses.replace(node.outputs[0], strides=node.outputs[0].strides[::-1])
    wrong = (*rows[: one.after], dataclasses.replace(node, outputs=(told,)), *rows[one.after + 1 :])
    after = dataclasses.replace(graph, nodes=wrong, outputs=outputs).at(bindings)
    reason = _check_one(graph.at(bindings), after, one)
    assert reason is not None and "strides" in reason


def test_conditions_are_drawn_either_way_for_every_key() -> None:
    captured = capture(Attention(filled).eval(), inputs(40)).graph
    graph = captured.at(captured.bind(tuple(tuple(t.shape) for t in inputs(40))))
    (condition,) = [node for node in graph.nodes if node.output.dtype == "bool"][:1]
    drawn = _random(condition, torch.Generator().manual_seed(0))
    assert drawn.shape[-1] > 1
    assert {bool(value) for value in drawn[..., 0].flatten()} == {True, False}
