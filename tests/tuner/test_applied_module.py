"""An applied model is the model in all else: moved, saved, copied, pickled, called from threads."""

from __future__ import annotations

import copy
import pickle
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from search_space.budget import parse_budget
from search_space.errors import BudgetError, CaptureError, PlanError
from tests.tuner.one_block import assert_right, block, eager, sample
from tests.tuner.small_factory import Block
from tuner import Applied, apply
from tuner.database import GraphEntry, LengthEntry, PlanRow, Reference, write_graph
from tuner.environment import device_name
from tuner.runtime.signature import Witness

LENGTH = 128


@pytest.fixture
def applied() -> Applied:
    return apply(block(), (sample(LENGTH),), memory_budget=0.5)


def test_names_and_state_are_the_models(applied: Applied) -> None:
    model = applied.model
    assert applied.state_dict().keys() == model.state_dict().keys()
    assert [name for name, _ in applied.named_parameters()] == [
        name for name, _ in model.named_parameters()
    ]
    assert {id(p) for p in applied.parameters()} == {id(p) for p in model.parameters()}
    assert applied.heads == model.heads == 4, "plain attributes too"
    assert applied.qkv is model.qkv
    with pytest.raises(AttributeError, match="nothing_such"):
        _ = applied.nothing_such
    # a state that is loaded is seen at the next call
    torch.manual_seed(1)
    other = Block(32, 4).eval()
    applied.load_state_dict(other.state_dict())
    assert_right(applied(sample(LENGTH)), eager(other, sample(LENGTH)))


def test_moving_and_casting_choose_anew_and_give_the_models_outputs(applied: Applied) -> None:
    x = sample(LENGTH)
    assert applied.to(torch.float64) is applied
    assert next(applied.model.parameters()).dtype == torch.float64
    found = applied(x.double())
    assert found.dtype == torch.float64
    assert_right(found, eager(applied.model, x.double()))
    assert applied.plan.choices
    # also where the model itself was cast
    applied.model.float()
    assert_right(applied(x), eager(applied.model, x))
    assert applied.bfloat16()(x.bfloat16()).dtype == torch.bfloat16


def test_training_mode_is_refused_whoever_set_it(applied: Applied) -> None:
    for train in (applied.train, applied.model.train):
        train()
        with pytest.raises(CaptureError, match=r"eval\(\)"):
            applied(sample(LENGTH))
        applied.eval()
        assert not applied.training and not applied.model.qkv.training
        assert_right(applied(sample(LENGTH)), eager(applied.model, sample(LENGTH)))


def test_a_copy_has_its_own_weights_and_the_same_code(applied: Applied) -> None:
    x = sample(LENGTH)
    wanted = applied(x)
    made = copy.deepcopy(applied)
    assert made.code == applied.code
    assert made.plan == applied.plan
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(1.25)
    assert_right(made(x), eager(made.model, x))
    assert not torch.allclose(made(x), wanted)
    assert torch.equal(applied(x), wanted)
    # new sizes are served from the capture at hand
    captured = made.prepare(x).captured
    assert made.prepare(sample(99)).captured is captured


def test_a_pickled_one_chooses_the_same_plan(applied: Applied) -> None:
    again: Applied = pickle.loads(pickle.dumps(applied))
    assert torch.equal(again(sample(LENGTH)), applied(sample(LENGTH)))
    assert again.plan == applied.plan
    assert pickle.loads(pickle.dumps(applied.plan)) == applied.plan


def test_inference_mode_works_for_the_first_call_and_for_later_ones() -> None:
    model = block()
    with torch.inference_mode():
        x = sample(LENGTH)
        applied = apply(model, (x,), memory_budget=0.5)
        assert applied.plan.choices
        assert_right(applied(x), model(x))
        shorter = sample(77)
        assert_right(applied(shorter), model(shorter))
    assert_right(applied(sample(LENGTH)), eager(model, sample(LENGTH)))
    # tensors made in inference mode may come later, too
    assert torch.equal(applied(x), applied(sample(LENGTH)))


def test_hooks_on_the_applied_model_run(applied: Applied) -> None:
    seen: list[Any] = []
    handle = applied.register_forward_hook(lambda module, args, output: seen.append(output.shape))
    applied(sample(LENGTH))
    handle.remove()
    applied(sample(LENGTH))
    assert seen == [(1, LENGTH, 32)]


def test_an_applied_model_within_another_module_is_saved_and_moved_with_it() -> None:
    inner = apply(block(), (sample(LENGTH),), memory_budget=0.5)
    outer = torch.nn.Sequential(torch.nn.Linear(32, 32), inner).eval()
    assert {name for name in outer.state_dict() if name.startswith("1.")} == {
        f"1.{name}" for name in inner.model.state_dict()
    }
    outer.double()
    with torch.no_grad():
        x = sample(LENGTH).double()
        assert_right(outer(x), inner.model(outer[0](x)))


def test_threads_at_old_and_new_sizes_get_their_own_results(applied: Applied) -> None:
    lengths = [LENGTH, 60, 61, LENGTH, 60, 61]
    wanted = {length: eager(applied.model, sample(length)) for length in set(lengths)}
    wrong: list[object] = []
    start = threading.Barrier(len(lengths))

    def work(length: int) -> None:
        try:
            start.wait()
            for _ in range(3):
                if not torch.allclose(applied(sample(length)), wanted[length], 1e-5, 1e-5):
                    wrong.append(length)
        except Exception as error:  # shown by the assertion below
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(length,)) for length in lengths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_slices_of_larger_tensors_and_other_layouts_are_served() -> None:
    model, large = block(), sample(2 * LENGTH)
    applied = apply(model, (large[:, ::2],), memory_budget=0.5)
    captured = applied.prepare(sample(LENGTH)).captured
    turned = sample(LENGTH).transpose(1, 2).contiguous().transpose(1, 2)
    for x in (large[:, :LENGTH], large[:, LENGTH - 3 :], sample(LENGTH), turned,
              sample(LENGTH)[:, :1].expand(1, LENGTH, 32)):  # fmt: skip
        assert_right(applied(x), eager(model, x))
    assert applied.prepare(large[:, 5:55]).captured is captured, "as if it were no slice"
    # contiguous but for the stride of its one row, which no size tells
    first = apply(model, (large[:, :LENGTH],), memory_budget=0.5)
    assert_right(first(sample(LENGTH)), eager(model, sample(LENGTH)))


def test_an_argument_that_cannot_be_compared_is_refused_clearly(applied: Applied) -> None:
    class Odd:
        __hash__ = None  # type: ignore[assignment]

    with pytest.raises(CaptureError, match="cannot be compared"):
        applied(sample(LENGTH), Odd())


def test_a_measured_peak_above_the_predicted_one_counts(tmp_path: Path) -> None:
    x = sample(LENGTH)
    prepared = apply(block(), (x,), memory_budget=0.5).prepare(x)
    plan, predicted = prepared.chosen.plan, prepared.chosen.peak_bytes
    row = PlanRow(plan, 2 * predicted, predicted, 1.0, 1.0, 1.0, 1.0)
    lower = replace(row, peak_bytes=predicted, ratio=1.3, ratio_low=1.3, ratio_high=1.3,
                    plan=replace(plan, choices=(replace(plan.choices[0], chunk_size=2),
                                                *plan.choices[1:])))  # fmt: skip
    entry = LengthEntry(LENGTH, ((1, LENGTH, 32),), Reference(4 * predicted, 1.0), (lower, row))
    write_graph(tmp_path, device_name("cpu"), "block",
                GraphEntry(plan.fingerprint, {}, {}, parse_budget("min"), (entry,)))  # fmt: skip

    def chosen(budget: int) -> Applied:
        return apply(block(), (x,), plans=tmp_path, memory_budget=budget)

    assert chosen(2 * predicted).plan == plan
    assert chosen(2 * predicted - 1).plan == lower.plan


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("memory", [{"memory_budget": 0.5}, {"memory": "free"}])
def test_a_fixed_length_can_be_recorded_as_a_cuda_graph(memory: dict[str, Any]) -> None:
    model = block().cuda()
    x = sample(LENGTH).cuda()
    applied = apply(model, (x,), **memory)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            applied(x)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = applied(x)
    other = sample(LENGTH + 1)[:, 1:].contiguous().cuda()
    x.copy_(other)
    graph.replay()
    torch.cuda.synchronize()
    assert_right(output, eager(model, other))


class Named(torch.nn.Module):
    """A model with a part called model, as language models with a head have."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Block(32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.model(x)
        return made


def test_a_part_called_model_is_found() -> None:
    model = Named().eval()
    applied = apply(model, (sample(LENGTH),), memory_budget=0.5)
    assert applied.model is model.model
    assert applied.get_submodule("model.qkv") is model.model.qkv
    named = block()
    named.__dict__["model"] = "an attribute"
    assert apply(named, (sample(LENGTH),)).model == "an attribute"
    assert_right(applied(sample(LENGTH)), eager(model, sample(LENGTH)))


class Flattened(torch.nn.Module):
    """Reads a mask as one row after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(8, 8)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.layer(x) + mask.reshape(-1, 8).sum()
        return made


def test_tensors_that_are_broadcast_along_other_dimensions_are_other_inputs() -> None:
    model, x = Flattened().eval(), torch.randn(2, 50, 8)
    masks = [
        torch.randn(4, 6, 1).expand(4, 6, 8), torch.randn(4, 1, 1).expand(4, 6, 8),
        torch.randn(1, 6, 8).expand(4, 6, 8), torch.randn(6, 8, 1).expand(4, 6, 8, 1)[..., 0],
        torch.randn(8, 6).t().expand(4, 6, 8), torch.randn(4, 6, 16)[:, :1, ::2].expand(4, 6, 8),
    ]  # fmt: skip
    applied = apply(model, (x, masks[0]))
    for mask in masks:
        with torch.no_grad():
            torch.testing.assert_close(applied(x, mask), model(x, mask))


def test_a_loaded_copy_serves_short_inputs_and_keeps_its_hooks() -> None:
    applied, short = apply(block(), (sample(LENGTH),), memory_budget=0.3), sample(2)
    with pytest.raises(BudgetError):  # what the example inputs take is allowed, too
        apply(block(), (short,), memory_budget=0.3)
    wanted = eager(applied.model, short)
    handle = applied.register_forward_hook(_doubled)
    for made in (pickle.loads(pickle.dumps(applied)), copy.deepcopy(applied)):
        assert_right(made(short), 2 * wanted)
    handle.remove()
    assert_right(applied(short), wanted)
    loaded = pickle.loads(pickle.dumps(applied))
    with pytest.raises(PlanError, match="call it, or prepare"):
        _ = loaded.plan
    loaded.prepare(short)
    assert loaded.plan == applied.plan


def _doubled(module: torch.nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
    return 2 * output


def test_casts_are_seen_after_parts_were_exchanged(applied: Applied) -> None:
    model = applied.model
    first = next(name for name, _ in model.named_children())
    witness = Witness(model)
    before = witness.state()
    setattr(model, first, copy.deepcopy(getattr(model, first)))
    assert witness.state() == before
    applied.double()
    assert witness.state() == (torch.float64, torch.device("cpu"))
    x = sample(LENGTH).double()
    assert_right(applied(x), eager(model, x))
