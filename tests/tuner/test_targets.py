"""``tuner.apply`` with targets: submodules run plans, equal ones share captures, all comes back."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from experiments.subjects import gpt2, llama
from search_space.eager_peak import eager_peak_bytes
from search_space.errors import BudgetError, CaptureError, ConfigError, MeasurementError
from tests.tuner.campaigns import campaign
from tuner import AppliedTargets, apply
from tuner.campaign import run_campaign
from tuner.campaign_result import CampaignResult
from tuner.config import parse_config
from tuner.factory import subjects
from tuner.ledger import read_ledger
from tuner.measure.cpu import CpuBackend
from tuner.runtime.equal_blocks import differing_attributes, skeleton, watch_reads
from tuner.runtime.find_targets import auto_targets, match_targets, repeated_blocks
from tuner.steps.state import State

FACTORY = Path(__file__).with_name("target_factory.py")
WIDTH = 16
SMALL = 0.7
"""A budget that chunking alone can meet at these sizes. ("min" would leave tiny blocks alone: their
loops would take too long.)"""


Make = Callable[[list[nn.Module]], nn.Module]


class Block(nn.Module):
    """Attention with plain attributes that a trace may or may not read."""

    def __init__(self, number: int, scale: float = 1.0) -> None:
        super().__init__()
        self.number = number
        self.scale = scale
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 64), nn.GELU(), nn.Linear(64, WIDTH))

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        scores = q @ k.transpose(-1, -2) * self.scale
        if mask is not None:
            scores = scores + mask
        x = x + torch.softmax(scores, -1) @ v
        y: torch.Tensor = x + self.mlp(x)
        return y


class Stack(nn.Module):
    """Blocks in a row between two layers; blocks are called by keyword."""

    def __init__(self, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.embed = nn.Linear(WIDTH, WIDTH)
        self.blocks = nn.ModuleList(blocks)
        self.head = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = block(x, mask=mask)
        y: torch.Tensor = self.head(x)
        return y


def stack(*blocks: nn.Module, make: Make = Stack) -> Any:
    """The blocks, or else three equal ones, as a model with weights from a fixed seed."""
    torch.manual_seed(0)
    model: Any = make(list(blocks) or [Block(k) for k in range(3)])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.2)
    return model.eval()


def sample(length: int = 96, batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, length, WIDTH, generator=torch.Generator().manual_seed(length))


def eager(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """What the model gives, unless it runs plans."""
    with torch.no_grad():
        return model(*args, **kwargs)


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def state_of(model: nn.Module) -> list[dict[str, object]]:
    """All that the modules hold, by identity."""
    return [
        {name: id(value) for name, value in vars(module).items()} for module in model.modules()
    ]


# -- outputs, sharing ---------------------------------------------------------------------------


@pytest.mark.parametrize("family", [gpt2, llama], ids=["gpt2", "llama"])
def test_library_models_give_their_own_outputs_from_one_capture(
    family: Callable[..., Any],
) -> None:
    sizes: dict[str, Any] = {"layers": 3, "width": 32, "heads": 4, "vocabulary": 101}
    model, inputs = family(**sizes)
    model.eval()
    names = "h.*" if family is gpt2 else "model.layers.*"
    args, kwargs = inputs(48)
    expected = {length: eager(model, *inputs(length)[0], **inputs(length)[1])
                for length in (48, 47, 19)}  # fmt: skip
    whole = eager_peak_bytes(model, args, kwargs)
    with apply(model, args, kwargs, targets=names, memory_budget=0.6) as fast:
        assert fast.captures == 1
        assert all(plan.choices for plan in fast.plan.values()), "nothing would be tested"
        assert fast.predicted_peak_bytes <= 0.6 * whole
        for length, wanted in expected.items():
            own, named = inputs(length)
            found = fast(*own, **named)
            assert type(found) is type(wanted)
            assert_close(found[0], wanted[0])
        assert fast.captures == 1, "one capture serves all lengths"


def test_twelve_equal_blocks_are_captured_once_and_keep_their_weights() -> None:
    model = stack(*(Block(k) for k in range(12)))
    expected = eager(model, sample())
    fast = apply(model, (sample(),), targets="blocks.*", memory_budget=SMALL)
    assert fast.targets == tuple(f"blocks.{k}" for k in range(12))
    assert fast.captures == 1, "the blocks' numbers differ, but no trace reads them"
    (one,) = fast.distinct
    assert len(one.names) == 12
    assert one.chosen.plan.choices
    assert_close(fast(sample()), expected)
    with torch.no_grad():
        model.blocks[7].qkv.weight.mul_(2)
    found = fast(sample())
    fast.remove()
    assert_close(found, eager(model, sample()))
    assert not torch.allclose(found, expected)


def test_blocks_that_differ_in_what_the_trace_reads_share_nothing() -> None:
    model = stack(Block(0), Block(1, scale=0.25), Block(2))
    expected = eager(model, sample())
    fast = apply(model, (sample(),), targets="blocks.*", memory_budget=SMALL)
    assert fast.captures == 2
    assert [one.names for one in fast.distinct] == [("blocks.0", "blocks.2"), ("blocks.1",)]
    assert_close(fast(sample()), expected)


class Odd(Block):
    """Reads its number without using it; holds a tensor that is neither weight nor buffer."""

    def __init__(self, number: int, plus: float = 0.5) -> None:
        super().__init__(number)
        self.plus = torch.full((WIDTH,), plus)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        if self.number > 100:
            return x
        return super().forward(x + self.plus, mask)


def test_captures_made_anew_share_analysis_where_their_graphs_are_equal() -> None:
    model = stack(Odd(0), Odd(1), Odd(200))
    expected = eager(model, sample())
    fast = apply(model, (sample(),), targets="blocks.*", memory_budget=SMALL)
    assert fast.captures == 3
    assert [one.names for one in fast.distinct] == [("blocks.0", "blocks.1"), ("blocks.2",)]
    assert_close(fast(sample()), expected)


def test_tensors_that_the_trace_makes_constants_are_each_blocks_own() -> None:
    model = stack(Odd(0), Odd(0, plus=-0.5), Odd(0))
    expected = eager(model, sample())
    fast = apply(model, (sample(),), targets="blocks.*", memory_budget=SMALL)
    assert fast.captures == 2
    assert_close(fast(sample()), expected)


def test_attributes_are_compared_by_what_they_mean() -> None:
    one, other = Block(0), Block(0)
    assert skeleton(one) == skeleton(other)
    assert not differing_attributes(one, other)

    def both(name: str, left: object, right: object) -> bool:
        setattr(one, name, left)
        setattr(other, name, right)
        same = ("", name) not in differing_attributes(one, other)
        delattr(one, name)
        delattr(other, name)
        return same

    assert both("value", [1, {"a": (2.0, None)}], [1, {"a": (2.0, None)}])
    assert not both("value", [1, {"a": (2.0, None)}], [1, {"a": (2.5, None)}])
    assert not both("value", 1, True)
    assert not both("value", 0.0, -0.0)
    assert both("value", float("nan"), float("nan"))
    assert both("value", torch.ones(2), torch.ones(2))
    assert not both("value", torch.ones(2), torch.zeros(2))
    assert both("value", one.forward, other.forward), "bound alike, each to its own block"
    assert not both("value", one.forward, one.forward), "bound to the other block's module"
    assert not both("value", lambda: 1, lambda: 2)
    assert not both("value", object(), object()), "what is not known differs"
    shared = object()
    assert both("value", shared, shared)
    one.only_here = 1  # type: ignore[assignment]
    assert ("", "only_here") in differing_attributes(one, other)
    assert skeleton(one) != skeleton(Odd(0))


def test_reads_are_seen_and_the_classes_are_left_as_they_were() -> None:
    block, before = Block(3), dict(vars(Block))
    with watch_reads(block, [("", "number"), ("", "scale"), ("mlp.1", "absent")]) as reads:
        assert block.scale == 1.0
        assert not hasattr(block.mlp[1], "absent")
        block.number = 4
    assert reads == {("", "scale"), ("mlp.1", "absent")}
    assert block.number == 4
    assert dict(vars(Block)) == before
    assert "absent" not in vars(nn.GELU)


# -- putting back -------------------------------------------------------------------------------


def test_remove_puts_back_exactly_what_was_there() -> None:
    model = stack()
    before, keys = state_of(model), list(model.state_dict())
    fast = apply(model, (sample(),), targets="blocks.*", memory_budget=SMALL)
    assert list(model.state_dict()) == keys
    assert_close(model(sample()), fast(sample()))
    fast.remove()
    fast.remove()
    assert state_of(model) == before
    model(sample()).sum().backward()  # with gradients again
    with apply(model, (sample(),), targets=["blocks.0", "blocks.2"], memory_budget=1.0) as again:
        assert again.targets == ("blocks.0", "blocks.2")
    assert state_of(model) == before


def test_what_fails_leaves_the_model_as_it_was() -> None:
    model = stack()
    before = state_of(model)
    with pytest.raises(BudgetError):
        apply(model, (sample(),), targets="blocks.*", memory_budget=0.001)
    assert state_of(model) == before

    def fail_within() -> None:
        with apply(model, (sample(),), targets="blocks.*", memory_budget=SMALL):
            assert state_of(model) != before
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        fail_within()
    assert state_of(model) == before
    fast = apply(model, (sample(),), targets="blocks.*", memory_budget=SMALL)
    with pytest.raises(Exception, match=r"shape|size"):
        fast(torch.ones(1, 8, WIDTH + 1))
    assert_close(fast(sample()), model(sample()))
    fast.remove()
    assert state_of(model) == before


def test_a_forward_of_the_instance_comes_back() -> None:
    model = stack()
    block = model.blocks[1]
    plain = block.forward
    block.forward = lambda x, mask=None: 2 * plain(x, mask)
    own = block.forward
    expected = eager(model, sample())
    fast = apply(model, (sample(),), targets="blocks.*", memory_budget=SMALL)
    assert_close(fast(sample()), expected)
    fast.remove()
    assert block.forward is own


def test_a_second_apply_and_copies_are_refused_while_plans_run() -> None:
    model = stack()
    fast = apply(model, (sample(),), targets="blocks.*", memory_budget=SMALL)
    with pytest.raises(ConfigError, match=r"remove\(\)"):
        apply(model, (sample(),), targets="blocks.0", memory_budget=SMALL)
    with pytest.raises(ConfigError, match="copied or pickled"):
        copy.deepcopy(model)
    with pytest.raises(ConfigError, match="copied or pickled"):
        torch.save(model, io.BytesIO())
    model.train()
    with pytest.raises(CaptureError, match="training mode"):
        model(sample())
    model.eval()
    fast.remove()
    copy.deepcopy(model)


# -- hooks --------------------------------------------------------------------------------------


def test_hooks_on_a_target_run_once_a_call() -> None:
    model = stack()
    block = model.blocks[1]
    met: list[Any] = []
    block.register_forward_hook(lambda module, args, output: met.append(output))
    block.register_forward_pre_hook(
        lambda module, args, kwargs: ((3 * args[0],), kwargs), with_kwargs=True
    )
    expected = eager(model, sample())
    fast = apply(model, (sample(),), targets="blocks.*", memory_budget=SMALL)
    met.clear()
    assert_close(fast(sample()), expected)
    assert len(met) == 1
    assert_close(fast(sample(50)), eager(model, sample(50)))
    assert all(not output.is_meta for output in met)
    late: list[Any] = []
    handle = model.blocks[0].register_forward_hook(
        lambda *given: late.append(given)
    )
    fast(sample())
    assert len(late) == 1
    handle.remove()


def test_hooks_inside_a_target_are_refused_whenever_they_come() -> None:
    model = stack()
    inner = model.blocks[1].qkv
    handle = inner.register_forward_hook(lambda *given: None)
    with pytest.raises(CaptureError, match=r"'qkv' inside the target 'blocks.1'"):
        apply(model, (sample(),), targets="blocks.*", memory_budget=SMALL)
    handle.remove()
    fast = apply(model, (sample(),), targets="blocks.*", memory_budget=SMALL)
    inner.register_forward_hook(lambda *given: None)
    with pytest.raises(CaptureError, match="hook"):
        fast(sample())


def test_hooks_that_transformers_leaves_behind_do_nothing_until_asked() -> None:
    model: Any
    model, inputs = gpt2(layers=2, width=32, heads=4, positions=64, vocabulary=101)
    args, kwargs = inputs(48)
    asked = {**kwargs, "output_attentions": True, "output_hidden_states": True}
    expected = eager(model, *args, **asked)
    assert model.h[0].attn._forward_hooks, "nothing would be tested"
    fast = apply(model, args, kwargs, targets="h.*", memory_budget=SMALL)
    states = fast(*args, **{**kwargs, "output_hidden_states": True}).hidden_states
    assert len(states) == len(expected.hidden_states)
    for found, wanted in zip(states, expected.hidden_states, strict=True):
        assert_close(found, wanted)
    with pytest.raises(CaptureError, match=r"'attn' inside the target 'h\.0'"):
        fast(*args, **asked)
    fast.remove()
    again = eager(model, *args, **asked)
    assert len(again.attentions) == len(expected.attentions), "no hook was lost, none came twice"


# -- what blocks take and give ------------------------------------------------------------------


@dataclass
class Result:
    hidden: torch.Tensor
    extra: dict[str, Any]


class Structured(Block):
    """Gives a dataclass with a dict inside."""

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> Any:
        y = super().forward(x, mask)
        return Result(y, {"pair": (y.mean(-1), None), "name": "block"})


class Unpacking(Stack):
    """Calls each block twice, at two lengths; one call goes through checkpointing."""

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        x = self.embed(x)
        for block in self.blocks:
            short = checkpoint(block, x[:, ::2].contiguous(), use_reentrant=False)
            assert isinstance(short, Result) and short.extra["name"] == "block"
            x = block(x, mask=mask).hidden + short.hidden.mean(1, keepdim=True)
            x = x + short.extra["pair"][0].mean(1)[:, None, None]
        y: torch.Tensor = self.head(x)
        return y


def test_structures_several_shapes_and_masks() -> None:
    model = stack(*(Structured(k) for k in range(3)), make=Unpacking)
    mask = torch.randn(1, 96, 96)
    expected = [eager(model, sample()), eager(model, sample(), mask), eager(model, sample(31))]
    fast = apply(model, (sample(),), targets="blocks.*", memory_budget=SMALL)
    assert len(fast.distinct) == 2, "two lengths"
    assert len(fast.plan) == 2
    assert_close(fast(sample()), expected[0])
    assert_close(fast(sample(), mask), expected[1])
    assert_close(fast(sample(31)), expected[2])
    text = fast.explain()
    assert "blocks.0 and 2 more" in text
    assert "(1, 31, 16)" in text
    assert "def forward" in fast.code


class InPlace(Block):
    """Changes its input."""

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        x.add_(1)
        return super().forward(x, mask)


def test_a_block_that_changes_its_input_is_refused() -> None:
    model = stack(*(InPlace(k) for k in range(2)))
    with pytest.raises(CaptureError, match=r"target 'blocks.0': .*in place"):
        apply(model, (sample(),), targets="blocks.*", memory_budget=SMALL)


def test_a_cache_is_refused_with_what_to_do() -> None:
    model, inputs = gpt2(layers=2, width=32, heads=4, positions=64, vocabulary=101)
    model.eval()
    (ids,), kwargs = inputs(16)
    with pytest.raises(CaptureError, match=r"DynamicCache.*use_cache=False"):
        apply(model, (ids,), {**kwargs, "use_cache": True}, targets="h.*", memory_budget=SMALL)


class RememberingStack(Stack):
    """Makes a table at its first call, as rotary embeddings do."""

    table: torch.Tensor | None = None

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        if self.table is None:
            self.table = torch.linspace(0, 1, x.shape[1] * 1000).reshape(-1, 1000)[:, :1] + 0 * x
        return super().forward(x + self.table, mask)


def test_looking_at_a_model_leaves_no_tables_without_data_behind() -> None:
    model = stack(make=RememberingStack)
    with apply(model, (sample(),), targets="blocks.*", memory_budget=1.0) as fast:
        assert vars(model).get("table") is None
        found = fast(sample())
        assert isinstance(model.table, torch.Tensor)
        assert not model.table.is_meta
    assert_close(found, eager(model, sample()))


def test_autocast_and_other_dtypes() -> None:
    model = stack()
    expected = eager(model, sample())
    fast = apply(model, (sample(),), targets="blocks.*", memory_budget=SMALL)
    with torch.autocast("cpu", torch.bfloat16):
        found = fast(sample())
        fast.remove()
        wanted = eager(model, sample())
    assert found.dtype == wanted.dtype
    torch.testing.assert_close(found, wanted, rtol=0.05, atol=0.05)
    fast = apply(model, (sample(),), targets="blocks.*", memory_budget=SMALL)
    model.double()
    torch.testing.assert_close(fast(sample().double()).float(), expected, rtol=1e-4, atol=1e-4)


def test_a_target_called_by_itself_runs_its_plan() -> None:
    model = stack()
    block, x = model.blocks[0], sample(40)
    expected = eager(block, x)
    fast = apply(model, (sample(),), targets="blocks.*", memory_budget=SMALL)
    assert_close(block(x), expected)
    fast.remove()


# -- budgets ------------------------------------------------------------------------------------


class Collecting(Stack):
    """Keeps every block's output, so that ever more is alive outside."""

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        found = [self.embed(x)]
        for block in self.blocks:
            found.append(block(found[-1], mask=mask))
        y: torch.Tensor = self.head(torch.stack(found).mean(0))
        return y


class Looking(Collecting):
    """Looks at its data, so that it cannot run without."""

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        if float(self.embed(x).abs().max()) < 0:
            return x
        return super().forward(x, mask)


def peak_of(call: Callable[[], Any]) -> int:
    with torch.no_grad():
        call()
        return CpuBackend().peak(call)[1].activation_bytes


@pytest.mark.parametrize("make", [Stack, Collecting, Looking])
def test_the_budget_is_the_whole_models_and_is_kept(make: Make) -> None:
    model, x = stack(*(Block(k) for k in range(4)), make=make), sample(160)
    whole = peak_of(lambda: model(x))
    expected = eager(model, x)
    last = whole
    for budget in (0.8, 0.6, int(0.5 * whole)):
        with apply(model, (x,), targets="blocks.*", memory_budget=budget) as fast:
            found = fast(x)
            measured = peak_of(lambda fast=fast: fast(x))  # type: ignore[misc]
            assert_close(found, expected)
        assert measured == pytest.approx(fast.predicted_peak_bytes, rel=0.03, abs=2048)
        assert measured <= last + 2048
        if isinstance(budget, float):
            assert measured <= budget * whole + 2048
        elif isinstance(budget, int):
            assert fast.predicted_peak_bytes <= budget
        last = measured


def test_outside_activations_are_taken_off_the_budget() -> None:
    model, x = stack(*(Block(k) for k in range(4)), make=Collecting), sample(160)
    with apply(model, (x,), targets="blocks.*", memory_budget=SMALL) as fast:
        (one,) = fast.distinct
        state = x.numel() * 4
        assert one.outside_bytes == 4 * state, "the embedding and three blocks' outputs"
        assert fast.predicted_peak_bytes >= 6 * state


def test_a_budget_that_cannot_be_met_names_one_that_can() -> None:
    model, x = stack(make=Collecting), sample(160)
    with pytest.raises(BudgetError, match="whole model within") as caught:
        apply(model, (x,), targets="blocks.*", memory_budget=1000)
    floor = caught.value.lowest_bytes
    with apply(model, (x,), targets="blocks.*", memory_budget=floor) as fast:
        assert fast.predicted_peak_bytes <= floor
    with pytest.raises(BudgetError):
        apply(model, (x,), targets="blocks.*", memory_budget=floor - 1)


def test_parts_outside_of_targets_are_named_when_they_need_too_much() -> None:
    class Large(Stack):
        def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
            x = x + (x[:, :, None] * x[:, None]).mean(2)
            return super().forward(x, mask)

    model, x = stack(make=Large), sample(96)
    with pytest.raises(BudgetError, match="parts outside of the targets need") as caught:
        apply(model, (x,), targets="blocks.*", memory_budget=0.5)
    assert caught.value.lowest_bytes == eager_peak_bytes(model, (x,))


# -- which targets ------------------------------------------------------------------------------


class Untraceable(nn.Module):
    """Holds a part that cannot be traced beside one that can."""

    def __init__(self) -> None:
        super().__init__()
        self.good = nn.Sequential(nn.Linear(WIDTH, 64), nn.GELU(), nn.Linear(64, WIDTH))
        self.bad = nn.Sequential(nn.Linear(WIDTH, WIDTH), DataDependent())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.bad(x + self.good(x))
        return y


class DataDependent(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if float(x.sum()) > 0 else x


class Rotation:
    """An object that is no tensor, and holds one."""

    def __init__(self, by: torch.Tensor) -> None:
        self.by = by


class Turning(nn.Module):
    """Takes an object."""

    def __init__(self) -> None:
        super().__init__()
        self.turn = nn.ModuleList(Turn() for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for turn in self.turn:
            x = turn(x, Rotation(x.mean()))
        return x


class Turn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 64), nn.GELU(), nn.Linear(64, WIDTH))

    def forward(self, x: torch.Tensor, rotation: Rotation) -> torch.Tensor:
        y: torch.Tensor = self.mlp(x * rotation.by)
        return y


class Mixed(nn.Module):
    """Repeated blocks, one that cannot be captured whole, and a lone layer."""

    def __init__(self, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.trunk = nn.Module()
        self.trunk.blocks = nn.ModuleList(blocks)
        self.tail = Untraceable()
        self.head = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.trunk.blocks:  # type: ignore[union-attr]
            x = block(x)
        y: torch.Tensor = self.head(self.tail(x))
        return y


def test_a_model_that_cannot_be_captured_names_what_can_be_targeted() -> None:
    model = stack(make=Mixed)
    with pytest.raises(CaptureError, match=r"'trunk\.blocks\.\*' \(3 Block\).*targets='auto'"):
        apply(model, (sample(),), memory_budget=0.5)


def test_auto_finds_blocks_and_goes_into_what_cannot_be_captured() -> None:
    model = stack(make=Mixed)
    assert auto_targets(model) == ("trunk.blocks.0", "trunk.blocks.1", "trunk.blocks.2", "tail")
    expected = eager(model, sample())
    with apply(model, (sample(),), targets="auto", memory_budget=SMALL) as fast:
        assert set(fast.targets) == {f"trunk.blocks.{k}" for k in range(3)} | {"tail.good"}
        assert_close(fast(sample()), expected)
        text = fast.explain()
    assert "left unchunked: tail: " in text
    assert "left unchunked: tail.bad: " in text


def test_what_is_called_with_objects_is_refused_or_left_out() -> None:
    model = stack(make=lambda blocks: nn.Sequential(Turning(), *blocks))
    expected = eager(model, sample())
    with pytest.raises(CaptureError, match=r"'0\.turn\.0': it is called with .* type Rotation"):
        apply(model, (sample(),), targets="0.turn.*", memory_budget=SMALL)
    with apply(model, (sample(),), targets="auto", memory_budget=SMALL) as fast:
        assert set(fast.targets) == {"0", "1", "2", "3"}, "blocks of the outermost container"
        assert_close(fast(sample()), expected)
    inner = stack(make=lambda blocks: nn.Sequential(Turning()))
    expected = eager(inner, sample())
    with apply(inner, (sample(),), targets="auto", memory_budget=1.0) as fast:
        assert set(fast.targets) == {"0.turn.0.mlp", "0.turn.1.mlp"}
        assert "left unchunked: 0.turn.0: it is called with an object" in fast.explain()
        assert_close(fast(sample()), expected)


def test_auto_on_library_models() -> None:
    model, inputs = gpt2(layers=2, width=32, heads=4, positions=64, vocabulary=101)
    assert [str(one) for one in repeated_blocks(model)] == ["'h.*' (2 GPT2Block)"]
    args, kwargs = inputs(32)
    expected = eager(model, *args, **kwargs)
    with apply(model, args, kwargs, targets="auto", memory_budget=SMALL) as fast:
        assert fast.targets == ("h.0", "h.1")
        assert_close(fast(*args, **kwargs)[0], expected[0])


def test_patterns_stay_within_a_component() -> None:
    model = stack(make=Mixed)
    assert match_targets(model, "trunk.blocks.*") == tuple(f"trunk.blocks.{k}" for k in range(3))
    assert match_targets(model, "trunk.blocks.[01].mlp") == (
        "trunk.blocks.0.mlp",
        "trunk.blocks.1.mlp",
    )
    assert match_targets(model, ["tail", "trunk.blocks.2"]) == ("trunk.blocks.2", "tail")
    for wrong, message in (
        ("trunk.block.*", "did you mean 'trunk.blocks"),
        ("nothing", "no submodule of Mixed"),
        ("trunk.blocks", r"never called; name what it holds: 'trunk\.blocks\.\*'"),
        (["tail", "tail.good"], "lies within the target 'tail'"),
        ([], "must be names"),
        ("", "must be names"),
    ):
        with pytest.raises(ConfigError, match=message):
            match_targets(model, wrong)


def test_targets_that_are_never_called_are_an_error() -> None:
    model = stack()
    model.unused = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(CaptureError, match="no target was called"):
        apply(model, (sample(),), targets="unused", memory_budget=SMALL)
    with apply(
        model, (sample(),), targets=["unused", "blocks.*"], memory_budget=SMALL
    ) as fast:
        assert "not called at these sizes: unused" in fast.explain()


# -- campaigns ----------------------------------------------------------------------------------

Tuned = tuple[Path, Any]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    """A campaign over the blocks of a model that has two kinds of them."""
    folder = tmp_path_factory.mktemp("targets")
    values = campaign(
        folder,
        model={"id": "two", "factory": f"{FACTORY}:two_kinds", "targets": "blocks.*"},
        seq_lens=[96],
        budgets=[0.6],
    )
    values["search"]["rounds"] = 1
    values["cost_model"]["timings_s"] = 0
    return folder, run_campaign(parse_config(values, folder))


def test_a_campaign_tunes_each_distinct_target(tuned: Tuned) -> None:
    folder, result = tuned
    assert [(one.target, one.length) for one in result.lengths] == [
        ("blocks.0", 96), ("blocks.2", 96),
    ]  # fmt: skip
    for one in result.lengths:
        assert all(run.status == "ok" for run in one.confirmed)
        assert all(budget.row is not None for budget in one.budgets)
    marks = [r for r in read_ledger(folder / "runs" / "ledger.jsonl") if r["kind"] == "target"]
    assert [mark["target"] for mark in marks] == ["blocks.0", "blocks.2"]


def test_limits_are_for_all_targets(tmp_path: Path) -> None:
    values = campaign(
        tmp_path,
        model={"id": "two", "factory": f"{FACTORY}:two_kinds", "targets": "blocks.*"},
        seq_lens=[96],
        budgets=[0.6],
        limits={"runs": 4},
    )
    values["confirm"]["top_k"] = 3
    values["cost_model"]["timings_s"] = 0
    result = run_campaign(parse_config(values, tmp_path))
    ran = [len(one.confirmed) for one in result.lengths]
    assert ran == [2, 2]


def test_a_target_that_cannot_be_measured_keeps_no_other_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = campaign(
        tmp_path,
        model={"id": "two", "factory": f"{FACTORY}:two_kinds", "targets": "blocks.*"},
        seq_lens=[48],
    )
    config = parse_config(values, tmp_path)
    made = CampaignResult((), "roofline", {}, (), ())
    reached: list[str] = []

    def run(state: State) -> CampaignResult:
        reached.append(state.target)
        if state.target in broken:
            raise MeasurementError("out of luck")
        return made

    monkeypatch.setattr("tuner.campaign._run_steps", run)
    broken = {"blocks.0"}
    assert run_campaign(config) == replace(made, model_used="roofline")
    assert reached == ["blocks.0", "blocks.2"]
    broken = {"blocks.0", "blocks.2"}
    with pytest.raises(MeasurementError, match=r"(?s)target blocks.0: out.*target blocks.2: out"):
        run_campaign(config)
    rows = read_ledger(config.output / "ledger.jsonl")
    assert sum(row.get("status") == "refused" for row in rows) == 3


def test_apply_finds_the_plans_of_tuned_targets(tuned: Tuned) -> None:
    from tests.tuner.target_factory import two_kinds

    folder, result = tuned
    model, inputs = two_kinds()
    model.eval()
    (x,), _ = inputs(96)
    expected = eager(model, x)
    rows = {one.target: one.budgets[0].row.plan for one in result.lengths}
    with apply(model, (x,), plans=folder / "plans", targets="blocks.*") as fast:
        assert dict(fast.plan) == rows, "without a budget the campaign's own holds"
        assert all("tuned at 96" in one.chosen.source for one in fast.distinct)
        assert_close(fast(x), expected)
        (shorter,), _ = inputs(71)
        found = fast(shorter)
    assert_close(found, eager(model, shorter))
    with apply(
        model, (x,), plans=folder / "plans", targets="blocks.*", memory_budget=0.75
    ) as fast:
        assert any("tuned at 96" in one.chosen.source for one in fast.distinct)
        measured = peak_of(lambda: fast(x))
        assert measured == pytest.approx(fast.predicted_peak_bytes, rel=0.03)
    assert measured <= 0.75 * peak_of(lambda: model(x))


def test_a_target_is_a_model_of_its_own_with_real_inputs(tmp_path: Path) -> None:
    values = campaign(
        tmp_path, model={"id": "two", "factory": f"{FACTORY}:two_kinds", "targets": ["blocks.*"]}
    )
    config = parse_config(values, tmp_path)
    assert config.plain()["model"]["targets"] == ["blocks.*"]
    first, second = subjects(config.model, "cpu", tmp_path, 96)
    assert (first.target, second.target) == ("blocks.0", "blocks.2")
    (whole,) = subjects(parse_config(campaign(tmp_path), tmp_path).model, "cpu", tmp_path, 96)
    assert whole.target == ""
    args, kwargs = second.inputs(40)
    model = first.model
    from tests.tuner.target_factory import two_kinds

    same: Any
    same, inputs = two_kinds()
    same.eval()
    met: list[torch.Tensor] = []
    same.blocks[2].register_forward_pre_hook(
        lambda module, given: met.append(given[0])
    )
    eager(same, *inputs(40)[0])
    assert_close(args[0], met[0])
    assert not kwargs
    assert isinstance(model, nn.Module)


def test_targets_in_a_campaign_file_are_checked(tmp_path: Path) -> None:
    for wrong in (3, [], [1], "", {"a": 1}):
        values = campaign(tmp_path)
        values["model"]["targets"] = wrong
        with pytest.raises(ConfigError, match=r"model.targets must be names of submodules"):
            parse_config(values, tmp_path)
    values["model"] = {"id": "two", "factory": f"{FACTORY}:two_kinds", "targets": "block.*"}
    with pytest.raises(ConfigError, match="did you mean"):
        run_campaign(parse_config(values, tmp_path))


def test_the_type_of_what_is_returned() -> None:
    with apply(stack(), (sample(),), targets="blocks.*") as fast:
        assert isinstance(fast, AppliedTargets)
        assert not any(plan.choices for plan in fast.plan.values()), "no budget, nothing tuned"
