"""Subjects: weights that matter, the figures that the bars rest on, and exact plans on all."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch

from experiments import families, subjects
from experiments.conformance import Check
from experiments.evoformer import (
    EvoformerBlock,
    OuterProductMean,
    RowAttention,
    TriangleAttention,
    TriangleMultiplication,
)
from experiments.subjects import BARS, TINY, TINY_LENGTHS, Bar, redraw_zeros
from search_space.capture import flatten_output
from search_space.eager_peak import eager_peak_bytes
from search_space.errors import CaptureError
from tuner.factory import Subject
from tuner.measure.cpu import CpuBackend
from tuner.runtime.apply import apply

APPLIED = tuple(
    name for name in TINY if name not in {"esmfold_stack", "swin_merge", "unet_sdpa", "unet2d_sdpa"}
)
"""Those left out take long to capture and hold no op that the others do not."""


def leaves(output: Any) -> Iterator[torch.Tensor]:
    for leaf in flatten_output(output)[0]:
        if isinstance(leaf, torch.Tensor):
            yield leaf


def test_every_tiny_subject_has_two_lengths() -> None:
    assert set(TINY) == set(TINY_LENGTHS)
    assert all(one != other for one, other in TINY_LENGTHS.values())


@pytest.mark.parametrize("name", TINY)
def test_every_weight_matters(name: str) -> None:
    """A weight without influence would make a comparison of outputs blind to what it feeds."""
    model, inputs = TINY[name]()
    args, kwargs = inputs(TINY_LENGTHS[name][0])
    generator = torch.Generator().manual_seed(1)
    outputs = [leaf for leaf in leaves(model(*args, **kwargs)) if leaf.is_floating_point()]
    assert outputs
    assert all(bool(torch.isfinite(output).all()) for output in outputs)
    total = sum((o * torch.randn(o.shape, generator=generator)).sum() for o in outputs)
    assert isinstance(total, torch.Tensor)
    total.backward()
    idle = [
        weight
        for weight, parameter in model.named_parameters()
        if parameter.grad is None or not bool(parameter.grad.any())
    ]
    assert not idle


@pytest.mark.parametrize("name", TINY)
def test_a_subject_is_the_same_every_time(name: str) -> None:
    (one, make), (other, again) = TINY[name](), TINY[name]()
    for parameter, twin in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(parameter, twin, rtol=0, atol=0)
    length = TINY_LENGTHS[name][1]
    for tensor, same in zip(leaves(make(length)), leaves(again(length)), strict=True):
        torch.testing.assert_close(tensor, same, rtol=0, atol=0)


@pytest.mark.parametrize("name", APPLIED)
def test_plans_of_many_classes_are_exact_at_two_lengths(name: str) -> None:
    """Random combinations of all region classes, from one capture where it serves both lengths."""
    subject = Subject(*TINY[name]())
    backend = CpuBackend()
    length, other = TINY_LENGTHS[name]
    reports = [Check(subject, backend, length, other=other, max_classes=0, combinations=3).run()]
    if any("captured per length" in note for note in reports[0].notes):
        reports.append(Check(subject, backend, other, max_classes=0, combinations=3).run())
    trials = [trial for report in reports for row in report.rows for trial in row.trials]
    assert not any(report.wrong for report in reports), [t.reason for t in trials if t.reason]
    assert all(len(report.rows) == 4 for report in reports), "one unchunked, three combinations"
    assert {trial.length for trial in trials} == {length, other}
    assert sum(trial.measured_bytes > 0 for trial in trials) >= 6, "the others were not legal"


@pytest.mark.parametrize("name", ["bert_sdpa", "vit_sdpa"])
def test_minimum_mode_is_exact_at_two_lengths(name: str) -> None:
    model, inputs = TINY[name]()
    args, kwargs = inputs(TINY_LENGTHS[name][0])
    fast = apply(model, args, kwargs, memory_budget="min")
    for length in TINY_LENGTHS[name]:
        args, kwargs = inputs(length)
        with torch.no_grad():
            expected = tuple(leaves(model(*args, **kwargs)))
        found = tuple(leaves(fast(*args, **kwargs)))
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert (one.shape, one.dtype) == (other.shape, other.dtype)
            if not other.is_floating_point():
                assert torch.equal(one, other)
                continue
            assert bool((one - other).abs().max() <= 1e-5 * other.abs().max())


@pytest.mark.parametrize("bar", BARS, ids=lambda bar: bar.key)
def test_eager_peaks_are_the_figures_that_the_bars_are_set_against(bar: Bar) -> None:
    model, inputs = bar.make()
    args, kwargs = inputs(bar.length)
    peak = eager_peak_bytes(model, args, kwargs) / 2**20
    assert peak == pytest.approx(bar.eager_mb, rel=0.002)


@pytest.mark.parametrize(
    ("make", "length", "eager_mb"),
    [
        (partial(subjects.esmfold_block), 128, 109.4),
        (partial(subjects.unet2d), 64, 135.5),
        # (by the allocator; 384.0 without what convolutions copy)
        (partial(families.vae_decoder), 64, 480.6),
    ],
    ids=["esmfold_block", "unet2d", "vae_decoder"],
)
def test_other_known_eager_peaks(make: Any, length: int, eager_mb: float) -> None:
    model, inputs = make()
    args, kwargs = inputs(length)
    peak = eager_peak_bytes(model, args, kwargs) / 2**20
    assert peak == pytest.approx(eager_mb, rel=0.002)


def test_bars_have_keys_of_their_own_and_shares_below_one() -> None:
    assert len({bar.key for bar in BARS}) == len(BARS) == 8
    assert all(0 < (bar.min_share or bar.share) <= bar.share < 1 for bar in BARS)


def test_last_logit_is_the_last_of_all_logits() -> None:
    for name in ("llama", "qwen3"):
        whole, inputs = TINY[name]()
        last, fewer = TINY[f"{name}_last"]()
        args, kwargs = inputs(20)
        other, keywords = fewer(20)
        with torch.no_grad():
            all_logits = whole(*args, **kwargs).logits
            one = last(*other, **keywords).logits
        assert one.shape[1] == 1
        torch.testing.assert_close(one, all_logits[:, -1:])


def test_attention_implementations_agree() -> None:
    for name in ("unet", "unet2d"):
        (eager, inputs), (fused, _) = TINY[name](), TINY[f"{name}_sdpa"]()
        args, kwargs = inputs(16)
        with torch.no_grad():
            torch.testing.assert_close(fused(*args, **kwargs)[0], eager(*args, **kwargs)[0])


@pytest.mark.parametrize(
    "make",
    [
        partial(subjects.llama, logits="first"),
        partial(subjects.unet2d, attention="flash"),
        partial(families.t5, parts="decoder"),
    ],
)
def test_unknown_variants_are_refused(make: Any) -> None:
    with pytest.raises(ValueError, match="must be"):
        make()


def test_experts_that_depend_on_the_data_cannot_be_captured() -> None:
    model, inputs = families.mixtral(
        width=32, heads=4, intermediate=48, experts=4, experts_by="eager"
    )
    with pytest.raises(CaptureError):
        apply(model, *inputs(24), memory_budget="min")


def test_the_whole_esmfold_runs_and_says_why_it_cannot_be_captured() -> None:
    model, inputs = subjects.esmfold(
        blocks=2, c_s=64, c_z=32, head_width=16, lm_width=32, lm_heads=2, structure_width=32
    )
    args, kwargs = inputs(12)
    with torch.no_grad():
        output = model(*args, **kwargs)
    assert output.positions.shape[-3:] == (12, 14, 3)
    assert bool(torch.isfinite(output.positions).all())
    with pytest.raises(CaptureError, match="SymInt"):
        apply(model, args, kwargs, memory_budget="min")


def test_redraw_changes_constants_alone() -> None:
    model = torch.nn.Sequential(
        torch.nn.Linear(4, 4), torch.nn.LayerNorm(4), torch.nn.BatchNorm1d(4)
    )
    model.register_buffer("mask", torch.ones(4))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    redraw_zeros(model.eval())
    after = model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {
        "1.weight", "1.bias", "2.weight", "2.bias", "2.running_mean", "2.running_var",
    }  # fmt: skip
    for name in changed:
        assert float((after[name] - before[name]).abs().max()) < 0.2


# the written Evoformer against the published formulae, index by index


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def heads_of(x: torch.Tensor, heads: int) -> torch.Tensor:
    return x.reshape(*x.shape[:-1], heads, -1)


@pytest.mark.parametrize("starting", [True, False])
def test_triangle_attention_is_algorithm_13_or_14(starting: bool) -> None:
    module = redraw_zeros(TriangleAttention(12, 3, 4, starting))
    assert isinstance(module, TriangleAttention)
    pairs = drawn(1, 5, 5, 12)
    with torch.no_grad():
        found = module(pairs)[0]
        z = module.norm(pairs)[0]
        attention = module.attention
        q, k, v = (
            heads_of(projection(z), 3)
            for projection in (attention.query, attention.key, attention.value)
        )
        bias, gate = module.bias(z), heads_of(torch.sigmoid(attention.gate(z)), 3)
        for i in range(5):
            for j in range(5):
                if starting:  # over k: q_ij . k_ik + b_jk, values v_ik
                    logits = torch.einsum("hc,khc->kh", q[i, j], k[i]) / math.sqrt(4) + bias[j]
                    mixed = torch.einsum("kh,khc->hc", logits.softmax(0), v[i])
                else:  # over k: q_ij . k_kj + b_ki, values v_kj
                    logits = torch.einsum("hc,khc->kh", q[i, j], k[:, j]) / 2 + bias[:, i]
                    mixed = torch.einsum("kh,khc->hc", logits.softmax(0), v[:, j])
                expected = attention.output((gate[i, j] * mixed).flatten())
                torch.testing.assert_close(found[i, j], expected)


@pytest.mark.parametrize("outgoing", [True, False])
def test_triangle_multiplication_is_algorithm_11_or_12(outgoing: bool) -> None:
    module = redraw_zeros(TriangleMultiplication(6, 8, outgoing))
    assert isinstance(module, TriangleMultiplication)
    pairs = drawn(1, 4, 4, 6)
    with torch.no_grad():
        found = module(pairs)[0]
        z = module.norm(pairs)[0]
        a = torch.sigmoid(module.left_gate(z)) * module.left(z)
        b = torch.sigmoid(module.right_gate(z)) * module.right(z)
        for i in range(4):
            for j in range(4):
                rows = (a[i], b[j]) if outgoing else (a[:, i], b[:, j])
                product = module.output(module.norm_product((rows[0] * rows[1]).sum(0)))
                expected = torch.sigmoid(module.gate(z[i, j])) * product
                torch.testing.assert_close(found[i, j], expected)


def test_outer_product_mean_is_algorithm_10() -> None:
    module = redraw_zeros(OuterProductMean(6, 7, 3))
    assert isinstance(module, OuterProductMean)
    rows = drawn(1, 5, 4, 6)
    with torch.no_grad():
        found = module(rows)[0]
        m = module.norm(rows)[0]
        a, b = module.left(m), module.right(m)
        for i in range(4):
            for j in range(4):
                outer = torch.stack([torch.outer(a[s, i], b[s, j]) for s in range(5)]).mean(0)
                torch.testing.assert_close(found[i, j], module.output(outer.flatten()))


def test_row_attention_is_algorithm_7() -> None:
    module = redraw_zeros(RowAttention(8, 6, 2, 5))
    assert isinstance(module, RowAttention)
    rows, pairs = drawn(1, 3, 4, 8), drawn(1, 4, 4, 6)
    with torch.no_grad():
        found = module(rows, pairs)[0]
        m, bias = module.norm_m(rows)[0], module.bias(module.norm_z(pairs))[0]
        attention = module.attention
        q, k, v = (
            heads_of(projection(m), 2)
            for projection in (attention.query, attention.key, attention.value)
        )
        gate = heads_of(torch.sigmoid(attention.gate(m)), 2)
        for s in range(3):
            for i in range(4):
                logits = torch.einsum("hc,jhc->jh", q[s, i], k[s]) / math.sqrt(5) + bias[i]
                mixed = torch.einsum("jh,jhc->hc", logits.softmax(0), v[s])
                expected = attention.output((gate[s, i] * mixed).flatten())
                torch.testing.assert_close(found[s, i], expected)


def test_columns_attend_over_the_alignments_rows_alone() -> None:
    model, inputs = TINY["evoformer"]()
    assert isinstance(model, EvoformerBlock)
    (rows, _), _ = inputs(6)
    changed = rows.clone()
    changed[:, :, 2] += 1
    with torch.no_grad():
        before, after = model.column_attention(rows), model.column_attention(changed)
    differs = (before != after).flatten(3).any(-1).any(1)[0]
    assert differs.tolist() == [False, False, True, False, False, False]
