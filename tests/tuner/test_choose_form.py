"""Which form of attention serves a call: fused, unless the written one is clearly faster."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import nn

from cost_models.assumed import default_ceilings
from cost_models.ceilings import Ceilings
from search_space.budget import Budget, parse_budget
from search_space.graph import Graph
from tuner import apply
from tuner.runtime.analysis import Analysis
from tuner.runtime.captures import Captures
from tuner.runtime.choose import Chosen, at_hand, choose
from tuner.runtime.choose_form import CLEARLY, Form, quickest
from tuner.runtime.kernels import with_rewrites

HEADS, LENGTH = 4, 512


class Attention(nn.Module):
    """Attention written out, with heads of so many columns."""

    def __init__(self, head: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(HEADS * head, 3 * HEADS * head)
        self.out = nn.Linear(HEADS * head, HEADS * head)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        q, k, v = (
            part.reshape(batch, length, HEADS, -1).transpose(1, 2)
            for part in self.qkv(x).split(width, -1)
        )
        weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
        found: torch.Tensor = self.out((weights @ v).transpose(1, 2).reshape(batch, length, width))
        return found


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def on_a_gpu(graph: Graph) -> Graph:
    """The graph as it would be captured there."""
    nodes = tuple(
        replace(node, outputs=tuple(replace(one, device="cuda:0") for one in node.outputs))
        for node in graph.nodes
    )
    return replace(graph, nodes=nodes, device="cuda")


def forms_of(head: int, device: str, ceilings: Ceilings | None = None) -> tuple[Form, Form]:
    """Fused and as written, in that order."""
    model = Attention(head).eval()
    located = Captures(model).locate((torch.randn(1, LENGTH, HEADS * head),), {})
    fused = with_rewrites(located.captured, ("sdpa",), located.bindings)
    assert fused.graph.rewrites == ("sdpa",)
    found = []
    for captured in (fused, located.captured):
        graph = on_a_gpu(captured.graph) if device == "cuda" else captured.graph
        given = ceilings or default_ceilings(device)
        found.append(Form(replace(located, captured=replace(captured, graph=graph)),
                          Analysis(graph, located.bindings, given)))  # fmt: skip
    return found[0], found[1]


def fused_within(form: Form, limit: int) -> Chosen:
    budget = Budget(absolute_bytes=limit)
    return choose(form.analysis, None, form.located.shapes, budget, None)


def peak_of(form: Form) -> int:
    return form.analysis.memory.profile().peak_bytes


# launches apart, which at these small sizes are all there is to a GPU's time
FAST = replace(default_ceilings("cuda"), launch_s=1e-12, half_rows=0.0, filling=0)


def test_narrow_heads_on_a_gpu_stay_as_written_where_that_fits() -> None:
    fused, written = forms_of(4, "cuda", FAST)
    assert CLEARLY * written.analysis.unchunked_s < fused.analysis.unchunked_s
    limit = peak_of(written)
    form, chosen = quickest(fused, fused_within(fused, limit), [written])
    assert form is written and not chosen.plan.choices and chosen.limit_bytes == limit


def test_wide_heads_run_fused() -> None:
    fused, written = forms_of(64, "cuda", FAST)
    chosen = fused_within(fused, peak_of(written))
    assert quickest(fused, chosen, [written]) == (fused, chosen)


def test_loops_that_the_budget_asks_for_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Told faster as it is, the written form may be slower in the passes that it needs."""
    fused, written = forms_of(4, "cuda", FAST)
    limit = int(0.7 * peak_of(written))
    chosen = fused_within(fused, limit)
    looped = at_hand(written.analysis, limit)
    assert looped is not None and looped.plan.choices and looped.peak_bytes <= limit
    for extra_s, best in ((0.0, written), (fused.analysis.unchunked_s, fused)):
        told = replace(looped, extra_s=extra_s)
        monkeypatch.setattr("tuner.runtime.choose_form.at_hand", lambda *_, told=told: told)
        form, found = quickest(fused, chosen, [written])
        assert form is best and found == (told if best is written else chosen)


def test_what_cannot_be_clearly_faster_is_not_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    fused, written = forms_of(8, "cpu", replace(default_ceilings("cpu"), rates=None))

    def never(analysis: Analysis, limit_bytes: int) -> None:
        raise AssertionError("a form is searched that cannot be faster")

    monkeypatch.setattr("tuner.runtime.choose_form.at_hand", never)
    chosen = fused_within(fused, peak_of(fused))
    assert quickest(fused, chosen, [written]) == (fused, chosen)


def test_gains_of_loops_count_where_it_is_known_what_ops_cost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fused, written = forms_of(8, "cpu")
    slower = fused.analysis.unchunked_s
    written.analysis.__dict__["unchunked_s"] = 1.5 * slower  # (cached, as it would be)
    chosen = fused_within(fused, peak_of(fused))
    looped = at_hand(written.analysis, peak_of(written))
    assert looped is not None
    for share, best in ((0.94, written), (0.96, fused)):
        told = replace(looped, extra_s=(share - 1.5) * slower)
        monkeypatch.setattr("tuner.runtime.choose_form.at_hand", lambda *_, told=told: told)
        assert quickest(fused, chosen, [written])[0] is best


def test_a_form_that_cannot_meet_the_budget_is_passed_over() -> None:
    fused, written = forms_of(4, "cuda", FAST)
    chosen = replace(fused_within(fused, peak_of(fused)), limit_bytes=1)
    assert quickest(fused, chosen, [written]) == (fused, chosen)


@pytest.mark.parametrize("budget", [None, "min", 1.0])
def test_models_are_applied_in_the_form_that_is_chosen(
    budget: float | str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a limit the time decides; without one, and for the lowest peak, the memory."""
    monkeypatch.setattr("tuner.runtime.choose_form.CLEARLY", 0.01)  # the other form always is
    model, x = Attention(8).eval(), torch.randn(1, 96, 32)
    fast = apply(model, (x,), memory_budget=budget, kernels="auto")
    limited = budget is not None and not parse_budget(budget).is_minimum
    assert fast.plan.rewrites == (() if limited else ("sdpa",))
    torch.testing.assert_close(fast(x), model(x))
    assert ("fused" in fast.explain()) is not limited


def test_short_inputs_take_what_the_preferred_form_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A short input that cannot keep its share takes what the example did, in no form more."""
    monkeypatch.setattr("tuner.runtime.choose_form.CLEARLY", 0.01)
    model = Attention(8).eval()
    fast = apply(model, (torch.randn(1, 256, 32),), memory_budget=0.2, kernels="auto")
    allowed = fast.predicted_peak_bytes
    for length in (64, 16, 5):
        x = torch.randn(1, length, 32)
        torch.testing.assert_close(fast(x), model(x))
        assert fast.predicted_peak_bytes <= allowed
