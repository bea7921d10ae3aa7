"""Causal attention in parts: the op, its rule, and models that run in chunks of queries."""

from __future__ import annotations

from fractions import Fraction
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from experiments.subjects import llama
from search_space.candidates import all_regions
from search_space.causal_attention import causal_attention
from search_space.dim_rules import Query, Slice, flow
from search_space.graph import Affine, SizedGraph
from search_space.probe import verify
from search_space.workspace_attention import CAUSAL_ROWS
from tests.one_op import b, op_graph, t
from tests.tiny import EVERYTHING, Function, analysed, difference
from tuner.measure.cpu import CpuBackend
from tuner.runtime.apply import apply

SDPA = "aten.scaled_dot_product_attention.default"

_NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, _NO_GPU])]


def whole(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **options: Any
) -> torch.Tensor:
    return F.scaled_dot_product_attention(query, key, value, is_causal=True, **options)


def parts(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, size: int, **options: Any
) -> torch.Tensor:
    starts = range(0, query.shape[-2], size)
    made = [
        causal_attention(query[..., s : s + size, :], key, value, s, **options) for s in starts
    ]
    return torch.cat(made, -2)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("size", [1, 7, 64, CAUSAL_ROWS, CAUSAL_ROWS + 1, 299])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_parts_are_the_whole(device: str, size: int, dtype: torch.dtype) -> None:
    length = 40 if size < 40 else 700
    query, key, value = (t(2, 4, length, 16).to(device, dtype) for _ in range(3))
    query, key = query.cos(), key.sin()
    within = 1e-5 if dtype == torch.float32 else 2e-2
    assert difference([parts(query, key, value, size)], [whole(query, key, value)], within) == ""


@pytest.mark.parametrize("device", DEVICES)
def test_parts_of_other_forms_are_the_whole(device: str) -> None:
    query, key = t(2, 6, 610, 8).to(device), t(2, 2, 610, 8).to(device)
    grouped = {"enable_gqa": True, "scale": 0.7}
    made = parts(query, key, key.cos(), 300, **grouped)
    assert difference([made], [whole(query, key, key.cos(), **grouped)]) == ""
    # no fused kernel: three dimensions, or values of another width
    query, value = t(3, 610, 8).to(device), t(3, 610, 5).to(device)
    made = parts(query, query.cos(), value, 300)
    assert difference([made], [whole(query, query.cos(), value)]) == ""
    # more keys than queries, none of which sees the last
    short, key = t(2, 3, 290, 8).to(device), t(2, 3, 400, 8).to(device)
    made = parts(short, key, key.cos(), 270)
    assert difference([made], [whole(short, key, key.cos())]) == ""


def test_whole_blocks_agree_to_the_last_bits() -> None:
    # bit-identical on some processors; on others products over fewer keys round differently
    query, key, value = t(1, 2, 1024, 32), t(1, 2, 1024, 32).sin(), t(1, 2, 1024, 32).cos()
    made = parts(query, key, value, 2 * CAUSAL_ROWS)
    assert torch.allclose(made, whole(query, key, value), rtol=0.0, atol=5e-7)


# -- rules ---------------------------------------------------------------------------------------


def confirmed(graph: SizedGraph) -> dict[int, Any]:
    """The last node's flows by dimension, each run at odd chunk sizes."""
    node = graph.nodes[-1]
    found = {dim: flow(graph, node.index, dim) for dim in range(len(node.output.shape))}
    for dim, answer in found.items():
        if answer is None:
            continue
        size = node.output.shape[dim]
        for seed in (0, 1):
            chunks = (1, 2, 3, 5, max(size - 1, 1))
            assert verify(Query(graph, node, dim), answer, chunks=chunks, seed=seed), dim
    return {dim: answer for dim, answer in found.items() if answer is not None}


CALLS: dict[str, tuple[tuple[int, ...], tuple[Any, ...], dict[str, Any]]] = {
    "causal": ((0, 1, 2), (t(2, 3, 7, 4), t(2, 3, 7, 4), t(2, 3, 7, 4), None, 0.0, True), {}),
    "causal, more keys": (
        (0, 1, 2), (t(2, 3, 7, 4), t(2, 3, 9, 4), t(2, 3, 9, 4), None, 0.0, True), {}),
    "causal, more queries": (
        (0, 1), (t(2, 3, 9, 4), t(2, 3, 7, 4), t(2, 3, 7, 4), None, 0.0, True), {}),
    "causal, three dimensions": (
        (0, 1), (t(3, 7, 4), t(3, 7, 4), t(3, 7, 5), None, 0.0, True), {"scale": 0.3}),
    "causal, two dimensions": ((0,), (t(7, 4), t(7, 4), t(7, 5), None, 0.0, True), {}),
    "causal, grouped": (
        (0, 1, 2), (t(2, 6, 7, 4), t(2, 2, 7, 4), t(2, 2, 7, 4), None, 0.0, True),
        {"enable_gqa": True}),
    "grouped": ((1, 2), (t(1, 6, 7, 4), t(1, 3, 9, 4), t(1, 3, 9, 4)), {"enable_gqa": True}),
    "one group": ((0, 1, 2), (t(2, 6, 7, 4), t(2, 1, 9, 4), t(2, 1, 9, 4)), {"enable_gqa": True}),
    "grouped, mask": (
        (0, 1, 2), (t(2, 6, 7, 4), t(2, 2, 9, 4), t(2, 2, 9, 4), t(2, 6, 7, 9)),
        {"enable_gqa": True}),
    "one batch of keys": ((0, 1, 2), (t(2, 3, 7, 4), t(1, 3, 9, 4), t(1, 3, 9, 4)), {}),
    "one head of keys": ((0, 1, 2), (t(2, 3, 7, 4), t(2, 1, 9, 4), t(2, 1, 9, 4)), {}),
    "mask of all heads": (
        (0, 1, 2), (t(2, 3, 7, 4), t(2, 3, 9, 4), t(2, 3, 9, 4), b(2, 1, 7, 9)), {}),
    "bias of one batch": (
        (0, 1, 2), (t(2, 3, 7, 4), t(2, 3, 9, 4), t(2, 3, 9, 4), t(1, 3, 7, 9)), {}),
    "mask of all queries": (
        (0, 1, 2), (t(2, 3, 7, 4), t(2, 3, 9, 4), t(2, 3, 9, 4), t(2, 1, 1, 9)), {}),
    "mask by name": (
        (0, 1, 2), (t(2, 3, 7, 4), t(2, 3, 9, 4), t(2, 3, 9, 4)), {"attn_mask": t(7, 9)}),
    "dropped": ((), (t(2, 3, 7, 4), t(2, 3, 7, 4), t(2, 3, 7, 4), None, 0.5), {}),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_rules_hold_at_odd_chunk_sizes(name: str) -> None:
    dims, args, kwargs = CALLS[name]
    assert tuple(confirmed(op_graph(SDPA, args, kwargs))) == dims


def test_what_the_rules_say() -> None:
    _, args, kwargs = CALLS["causal, grouped"]
    graph = op_graph(SDPA, args, kwargs)
    queries, heads = flow(graph, 3, 2), flow(graph, 3, 1)
    assert queries is not None and heads is not None
    assert queries.op == "autochunk.causal_attention.default"
    assert queries.args is not None and queries.args[3] == Affine(start=1)
    assert dict(queries.slices) == {(0,): Slice(2)}
    third = Slice(1, Fraction(1, 3))
    assert heads.step == 3
    assert dict(heads.slices) == {(0,): Slice(1), (1,): third, (2,): third}


# -- models --------------------------------------------------------------------------------------


def test_projected_causal_attention_runs_in_chunks_of_queries() -> None:
    def forward(x: torch.Tensor, y: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        heads = (x @ weight).reshape(*x.shape[:2], 8, 64).transpose(1, 2)
        made = F.scaled_dot_product_attention(heads, y, y.sin(), is_causal=True)
        return made.transpose(1, 2).flatten(2) @ weight.mT

    def tensors(length: int) -> tuple[torch.Tensor, ...]:
        return t(1, length, 16), t(1, 8, length, 64), t(16, 512) / 4

    # queries and outputs take 3 MB each beside the keys' 3 MB
    fast = apply(Function(forward), tensors(1500), memory_budget=4_500_000)
    assert "causal_attention" in fast.code
    for length in (1500, 1111, 3):
        given = tensors(length)
        assert difference([fast(*given)], [forward(*given)]) == ""
        _, peak = CpuBackend().peak(partial(fast, *given))
        assert fast.predicted_peak_bytes == pytest.approx(peak.activation_bytes, rel=0.03)


def test_chunks_of_heads_take_whole_groups() -> None:
    def forward(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(x.sin(), y, y, is_causal=True, enable_gqa=True).exp()

    subject = analysed(Function(forward), (t(1, 6, 50, 8), t(1, 2, 50, 8)))
    attention = subject.find("aten.scaled_dot_product_attention")
    found = flow(subject.sized, attention, 1)
    assert found is not None and found.step == 3
    loops = list(all_regions(subject.sized, EVERYTHING))
    heads = [x for x in loops if attention in x.region.nodes and 1 in x.region.dims]
    assert heads and all(factor % 3 == 0 for loop in heads for factor in loop.factors)
    assert subject.failures(loops) == []


@pytest.mark.parametrize("budget", [0.5, "min"])
def test_llama_in_chunks_equals_eager_and_its_peak_is_predicted(budget: float | str) -> None:
    model, inputs = llama(
        layers=2, width=32, heads=4, key_heads=2, vocabulary=101, attention="sdpa"
    )
    args, kwargs = inputs(600)
    fast = apply(model, args, kwargs, memory_budget=budget)
    for length in (600, 333, 14):
        args, kwargs = inputs(length)
        with torch.no_grad():
            expected = model(*args, **kwargs).logits
        assert difference([fast(*args, **kwargs).logits], [expected]) == ""
        _, peak = CpuBackend().peak(partial(fast, *args, **kwargs))
        assert fast.predicted_peak_bytes == pytest.approx(peak.activation_bytes, rel=0.03)
