"""Weights of generated code: read where they stand, at each call."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from search_space.capture import capture
from tests.tuner.small_factory import blocks
from tuner.runtime.apply import Applied, apply
from tuner.runtime.weights import Route, Weights


def small() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 8)))


NAMES = ("0.weight", "0.bias", "1.0.running_mean", "1.1.bias", "1.0.weight")


def reader(model: nn.Module) -> Weights:
    return Weights(Route.to(NAMES, model), model)


def standing(model: nn.Module) -> list[torch.Tensor]:
    """What stands in a model under the names."""
    known = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return [known[name] for name in NAMES]


def same(some: list[torch.Tensor], others: list[torch.Tensor]) -> bool:
    return len(some) == len(others) and all(map(lambda a, b: a is b, some, others))


def test_weights_are_the_models_own_tensors() -> None:
    model = small()
    assert same(reader(model)(), standing(model))


def test_modules_on_the_way_are_looked_up_once() -> None:
    route = Route.to(NAMES, small())
    assert route.steps == ((0, "0"), (0, "1"), (2, "0"), (2, "1"))


def test_weights_put_in_later_are_read() -> None:
    model = small()
    read = reader(model)
    before = read()
    model[0].weight = nn.Parameter(torch.ones(8, 8))
    model[1][0].running_mean = torch.ones(8)
    model[1][1] = nn.Linear(8, 8)
    found = read()
    assert same(found, standing(model))
    assert sum(a is not b for a, b in zip(found, before, strict=True)) == 3


def test_a_module_that_gives_its_weight_otherwise_is_asked_for_it() -> None:
    class Doubled(nn.Module):
        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            return 2 * weight

    model = small()
    read = reader(model)
    before = read()
    parametrize.register_parametrization(model[0], "weight", Doubled())
    found = read()
    assert torch.equal(found[0], 2 * before[0])
    assert same(found[1:], before[1:])


def test_a_weight_that_is_gone_is_named() -> None:
    model = small()
    read = reader(model)
    del model[1][1].bias
    with pytest.raises(AttributeError, match="bias"):
        read()


def test_another_models_weights_are_read_by_the_same_route() -> None:
    model = small()
    other = copy.deepcopy(model)
    read = reader(model).of(other)
    assert same(read(), standing(other))


@pytest.fixture(scope="module")
def applied() -> tuple[nn.Module, Applied, tuple[torch.Tensor, ...]]:
    model, inputs = blocks()
    model.eval()
    args, kwargs = inputs(48)
    return model, apply(model, args, kwargs, memory_budget=0.6), args


def test_generated_code_reads_just_the_weights_it_needs(
    applied: tuple[nn.Module, Applied, tuple[torch.Tensor, ...]],
) -> None:
    model, fast, args = applied
    module = fast.prepare(*args).module
    read = module.get_submodule("weights")
    assert isinstance(read, Weights)
    wanted = {node.op for node in capture(model, args, {}).graph.nodes if node.kind == "parameter"}
    assert set(read._route.names) == wanted
    assert module.code.count("self.weights") == 1
    assert "self.model" not in module.code


def test_generated_code_runs_with_weights_put_in_later(
    applied: tuple[nn.Module, Applied, tuple[torch.Tensor, ...]],
) -> None:
    model, fast, args = applied
    before = fast(*args)
    with torch.no_grad():
        linear = next(one for one in model.modules() if isinstance(one, nn.Linear))
        linear.weight = nn.Parameter(linear.weight + 0.1)
        expected = model(*args)
        assert not torch.allclose(before, expected)
        torch.testing.assert_close(fast(*args), expected)


def test_global_hooks_see_no_list_of_weights(
    applied: tuple[nn.Module, Applied, tuple[torch.Tensor, ...]],
) -> None:
    _, fast, args = applied
    seen: list[object] = []
    hook = nn.modules.module.register_module_forward_hook(
        lambda module, inputs, output: seen.append(output)
    )
    try:
        fast(*args)
    finally:
        hook.remove()
    assert seen
    assert not any(isinstance(output, list) for output in seen)


def test_parametrized_weights_are_computed_at_each_call() -> None:
    class Scaled(nn.Module):
        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            return 1.5 * weight

    model, inputs = blocks()
    model.eval()
    args, kwargs = inputs(48)
    fast = apply(model, args, kwargs, memory_budget=0.6)
    before = fast(*args)
    with torch.no_grad():
        linear = next(one for one in model.modules() if isinstance(one, nn.Linear))
        parametrize.register_parametrization(linear, "weight", Scaled())
        expected = model(*args)
        assert not torch.allclose(before, expected)
        torch.testing.assert_close(fast(*args), expected)


def test_compiled_code_and_its_copies_read_their_own_models_weights() -> None:
    model, inputs = blocks()
    model.eval()
    args, kwargs = inputs(48)
    fast = apply(model, args, kwargs, memory_budget=0.6, compile=True)
    fast(*args)
    other = copy.deepcopy(fast)
    with torch.no_grad():
        linear = next(one for one in model.modules() if isinstance(one, nn.Linear))
        linear.weight = nn.Parameter(linear.weight + 0.1)
        torch.testing.assert_close(fast(*args), model(*args), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(other(*args), other.model(*args), rtol=1e-4, atol=1e-4)
        assert not torch.allclose(fast(*args), other(*args))


def test_a_model_without_weights_has_no_reader_in_its_code() -> None:
    class Bare(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = torch.softmax(x @ x.transpose(-1, -2), -1) @ x
            return y

    x = torch.randn(4, 64, 8)
    fast = apply(Bare().eval(), (x,), memory_budget=0.6)
    torch.testing.assert_close(fast(x), Bare()(x))
    assert "weights" not in fast.code
