"""Half precision, by weights and by autocast: as near to fp32 as the unchunked model; float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from experiments.judge import make_judge
from search_space.budget import parse_budget
from search_space.eager_peak import eager_peak_bytes
from tests.reach.cases import activation_peak, case, chunked_nodes, tensors, wrong_half
from tests.tiny import Function
from tuner import apply

SHARES = {"gpt2": 0.5, "vit": 0.45, "evoformer": 0.7, "llama_last": 0.6}
ODD = {"gpt2": (89, 61), "vit": (88, 72), "evoformer": (13,), "llama_last": (127, 61)}
"""Lengths: prime, or an odd number of patches a side."""

BATCHES = [
    ("gpt2", 1), ("vit", 3), ("evoformer", 3), ("llama_last", 3),
]  # fmt: skip


@pytest.mark.parametrize(("name", "batch"), BATCHES)
def test_weights_in_bf16(name: str, batch: int) -> None:
    one = case(name, batch, torch.bfloat16)
    fast = one.apply(SHARES[name], one.inputs(ODD[name][0]))
    assert chunked_nodes(fast), "nothing is chunked, so nothing is tested"
    for length in ODD[name]:
        args, kwargs = call = one.inputs(length)
        found = fast(*args, **kwargs)
        assert any(tensor.dtype == torch.bfloat16 for tensor in tensors(found))
        judged = make_judge(one.model, call, torch.bfloat16)(found)
        assert not judged.reason, judged
        # kernels' scratch in half precision is bounded from above
        peak = activation_peak(lambda call=call: fast(*call[0], **call[1]))  # type: ignore[misc]
        assert peak <= 1.03 * fast.predicted_peak_bytes


@pytest.mark.parametrize(
    ("name", "batch"), [("gpt2", 3), ("vit", 1), ("evoformer", 1), ("llama_last", 1)]
)
def test_autocast(name: str, batch: int) -> None:
    one = case(name, batch)
    calls = [one.inputs(length) for length in ODD[name]]
    wanted = [one.eager(call) for call in calls]
    with torch.autocast("cpu", torch.bfloat16):
        # (in bytes: the eager peak, of which a fraction is taken, does not know of autocast)
        whole = one.apply("1TiB", calls[0]).predicted_peak_bytes
        fast = one.apply(int(0.7 * whole), calls[0])
        assert chunked_nodes(fast), "nothing is chunked, so nothing is tested"
        for call, reference in zip(calls, wanted, strict=True):
            own, found = one.eager(call), fast(*call[0], **call[1])
            assert not wrong_half(found, own, reference)
    # and without it the same object computes in fp32
    fast._budget = parse_budget("min")  # fp32 needs more bytes
    found = fast(*calls[-1][0], **calls[-1][1])
    for made, exact in zip(tensors(found), tensors(wanted[-1]), strict=True):
        assert made.dtype == exact.dtype
        assert bool((made - exact).abs().max() <= 1e-5 * exact.abs().max())


@pytest.mark.xfail(strict=True, reason="the eager peak is taken on tensors without autocast")
@pytest.mark.parametrize("name", ["gpt2", "llama_last"])
def test_the_eager_peak_under_autocast(name: str) -> None:
    one = case(name)
    args, kwargs = one.inputs(ODD[name][0])
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        told = eager_peak_bytes(one.model, args, kwargs)
        measured = activation_peak(lambda: one.model(*args, **kwargs))
    assert abs(told - measured) <= 0.15 * measured  # (scratch of half precision is bounded alone)


MIXED: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "bf16 and fp32": lambda x: x + x.bfloat16(),
    "integers": lambda x: x * (10 * x).long(),
    "truths": lambda x: x * (x > 0),
    "integers divided": lambda x: (10 * x).long() / 3,
}


@pytest.mark.xfail(strict=True, reason="an elementwise kernel's casts of its arguments")
@pytest.mark.parametrize("kind", MIXED)
def test_the_peak_of_elementwise_ops_of_several_dtypes(kind: str) -> None:
    """On a CPU such a kernel first copies what is not of the common dtype."""
    model = Function(MIXED[kind])
    x = torch.randn(200, 200, generator=torch.Generator().manual_seed(0))
    fast = apply(model, (x,))
    assert activation_peak(lambda: fast(x)) <= 1.03 * fast.predicted_peak_bytes


def test_a_judge_of_half_precision_sees_what_is_wrong() -> None:
    """The bar above fails for outputs whose error is a fifth more than the model's own."""
    own = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    reference = own + 0.01 * torch.randn(64, 64, generator=torch.Generator().manual_seed(1))
    assert not wrong_half(own, own, reference)
    assert wrong_half(reference + 1.2 * (own - reference), own, reference)
