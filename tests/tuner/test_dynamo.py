"""``torch.compile(model, backend="autochunk")``, through the registered entry point."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from search_space.eager_peak import eager_peak_bytes
from search_space.errors import CaptureError
from tests.tuner.one_block import assert_right, block, sample
from tests.tuner.small_factory import Block
from tuner import apply
from tuner.database import GraphEntry, LengthEntry, PlanRow, Reference, write_graph
from tuner.environment import device_name
from tuner.measure.cpu import CpuBackend
from tuner.runtime import dynamo
from tuner.runtime.applied import Applied
from tuner.runtime.dynamo import WithWeights, _Compiled
from tuner.runtime.wish import Wish

HALF: dict[str, Any] = {"memory_budget": 0.5}


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def model() -> Block:
    return block()


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Applied]:
    """The applied graphs, as the backend makes them."""
    found: list[Applied] = []

    def applied(*args: Any) -> Applied:
        found.append(Applied(*args))
        return found[-1]

    monkeypatch.setattr(dynamo, "Applied", applied)
    return found


def test_the_backend_is_found_by_name() -> None:
    assert "autochunk" in torch._dynamo.list_backends(exclude_tags=())


def test_a_budget_holds_for_compiled_models_at_each_length(
    model: Block, made: list[Applied]
) -> None:
    compiled = torch.compile(
        model, backend="autochunk", dynamic=True, options=HALF
    )
    with torch.no_grad():
        for length in (128, 90):
            x = sample(length)
            peak = eager_peak_bytes(model, (x,))
            compiled(x)
            found, measured = CpuBackend().peak(partial(compiled, x))
            assert_right(found, model(x))
            assert measured.activation_bytes <= 0.5 * peak
            assert made[0].plan.choices
            assert made[0].predicted_peak_bytes <= 0.5 * peak
    assert len(made) == 1, "one graph serves both lengths"


def test_the_graph_is_the_models_own_so_that_its_plans_are_found(
    model: Block, made: list[Applied], tmp_path: Path
) -> None:
    x = sample(128)
    prepared = apply(model, (x,), memory_budget=0.5).prepare(x)
    plan = prepared.chosen.plan
    choices = tuple(replace(one, chunk_size=one.chunk_size + 1) for one in plan.choices)
    plan = replace(plan, choices=choices)
    peak = prepared.analysis.memory.profile(choices).peak_bytes
    row = PlanRow(plan, peak, peak, 1.0, 1.0, 1.0, 1.0)
    entry = LengthEntry(128, ((1, 128, 32),), Reference(2 * peak, 1.0), (row,))
    write_graph(tmp_path, device_name("cpu"), "block",
                GraphEntry(plan.fingerprint, {}, {"n0": 128}, None, (entry,)))  # fmt: skip
    compiled = torch.compile(
        model, backend="autochunk", dynamic=True, options={"plans": str(tmp_path)}
    )
    with torch.inference_mode():
        assert_right(compiled(x), model(x))
    assert made[0].plan == plan
    assert "plan: tuned at 128\n" in made[0].explain()


def test_weights_stay_weights_and_are_read_at_each_call(model: Block, made: list[Applied]) -> None:
    compiled = torch.compile(model, backend="autochunk", options=HALF)
    x = sample(64)
    with torch.no_grad():
        before = compiled(x)
        own = {tensor.data_ptr() for tensor in model.parameters()}
        assert {tensor.data_ptr() for tensor in made[0].parameters()} == own
        model.out.weight.mul_(2.0)
        assert_right(compiled(x), model(x))
        model.out.weight = torch.nn.Parameter(torch.randn_like(model.out.weight))
        found = compiled(x)
        assert_right(found, model(x))
        assert not torch.allclose(found, before)


class Odd(torch.nn.Module):
    """Its graph has sizes that depend on the data."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.repeat_interleave((x[0, :, 0] > 0).long() + 1, 1).sum(1)


def test_what_cannot_be_captured_runs_unchunked_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, "autochunk")
    model, x = Odd().eval(), sample(40)
    with torch.no_grad(), torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        compiled = torch.compile(model, backend="autochunk", options=HALF)
        for _ in range(2):
            assert_right(compiled(x), model(x))
    assert sum("stays unchunked" in record.getMessage() for record in caplog.records) == 1


def test_a_call_whose_graph_another_thread_gave_up_runs_unchunked_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    owner = WithWeights(torch.fx.symbolic_trace(torch.nn.ReLU()))
    compiled = _Compiled(owner, Wish())

    def fails(*inputs: torch.Tensor) -> None:
        monkeypatch.setattr(compiled, "_run", owner)  # as the other thread does meanwhile
        raise CaptureError("not this one")

    monkeypatch.setattr(compiled, "_run", fails)
    monkeypatch.setattr(owner, "accept", lambda values: list(values))
    monkeypatch.setattr(owner, "forward", torch.relu)
    x = torch.randn(3)
    assert torch.equal(compiled(x), x.relu())


def test_mistakes_get_one_clear_message(model: Block) -> None:
    def call(grad: bool = False, **options: Any) -> Callable[[], object]:
        def run() -> object:
            with torch.set_grad_enabled(grad):
                return torch.compile(model, backend="autochunk", options=options)(sample(16))

        return run

    for run, text in (
        (call(plan="plans"), "no option 'plan'.*did you mean 'plans'"),
        (call(plans="/nowhere"), "no plan database at /nowhere"),
        (call(memory="free", memory_budget=0.5), "exclude each other"),
        (call(grad=True), "inference_mode"),
    ):
        torch._dynamo.reset()
        with pytest.raises(torch._dynamo.exc.BackendCompilerFailed, match=text):
            run()
