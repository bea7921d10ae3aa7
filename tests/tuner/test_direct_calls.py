"""Generated code's shorter ways to its operators."""

from __future__ import annotations

import gc
import linecache
import operator
import traceback
from collections.abc import Callable

import pytest
import torch
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx

from tests.tuner.small_factory import blocks
from tuner.runtime.apply import apply
from tuner.runtime.direct_calls import call_directly

aten = torch.ops.aten


def made(
    name: str = "x", target: Callable[..., object] = aten.add.Tensor
) -> fx.GraphModule:
    graph = fx.Graph()
    x = graph.placeholder(name)
    first = graph.call_function(target, (x, x))
    second = graph.call_function(aten.mul.Tensor, (first, 2.0))
    graph.output((second, graph.call_function(aten.split.Tensor, (second, 2))))
    return fx.GraphModule(torch.nn.Module(), graph)


def test_operators_are_at_hand_and_the_text_stays() -> None:
    module = made()
    code, x = module.code, torch.randn(4)
    expected = module.forward(x)
    call_directly(module)
    assert module.code == code
    assert "torch.ops.aten.add.Tensor(" in code
    # nothing is looked up through torch.ops any more
    assert not {"ops", "aten", "Tensor"} & set(module.forward.__code__.co_names)
    found = module.forward(x)
    assert torch.equal(found[0], expected[0])
    assert all(map(torch.equal, found[1], expected[1]))
    assert torch.equal(module(x)[0], expected[0])


def test_modules_do_not_share_a_forward() -> None:
    one, other = made(), made(target=aten.sub.Tensor)
    call_directly(one)
    call_directly(other)
    x = torch.randn(4)
    assert torch.equal(one.forward(x)[0], 4 * x)
    assert torch.equal(other.forward(x)[0], 0 * x)


def test_a_variable_that_would_hide_an_operator_leaves_all_as_it_is() -> None:
    module = made("aten_mm_default", aten.mm.default)
    before = module.forward.__code__
    call_directly(module)
    assert module.forward.__code__ is before
    x = torch.randn(4, 4)
    assert torch.equal(module.forward(x)[0], 2 * (x @ x))


def test_other_functions_are_called_as_they_were() -> None:
    module = made(target=operator.add)
    call_directly(module)
    x = torch.randn(4)
    assert torch.equal(module.forward(x)[0], 4 * x)


def test_an_error_shows_the_line_that_failed() -> None:
    module = made()
    call_directly(module)
    with pytest.raises(RuntimeError) as caught:
        module.forward("text")
    assert "aten_add_Tensor(x, x)" in "".join(traceback.format_tb(caught.value.__traceback__))


def test_the_text_goes_with_its_module() -> None:
    def generated() -> list[str]:
        return [name for name in linecache.cache if name.startswith("<autochunk generated")]

    gc.collect()
    before = len(generated())
    module = made()
    call_directly(module)
    assert len(generated()) == before + 1
    del module
    gc.collect()
    assert len(generated()) == before


def test_what_traces_operators_sees_every_one() -> None:
    module = made()

    def traced() -> list[object]:
        found = make_fx(lambda x: module.forward(x))(torch.randn(4)).graph
        return [node.target for node in found.nodes if node.op == "call_function"]

    before = traced()
    call_directly(module)
    assert traced() == before
    assert before[0] is aten.add.Tensor


def test_generated_code_and_its_loops_call_directly() -> None:
    model, inputs = blocks()
    model.eval()
    args, kwargs = inputs(96)
    fast = apply(model, args, kwargs, memory_budget=0.5)
    module = fast.prepare(*args, **kwargs).module
    codes = [one.forward.__code__ for one in module.modules() if isinstance(one, fx.GraphModule)]
    assert len(codes) > 1
    assert not any("aten" in code.co_names for code in codes)
    assert "torch.ops.aten." in fast.code
