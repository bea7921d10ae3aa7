"""``tuner.apply``: the same outputs, shared weights, budgets, and plans from a database."""

from __future__ import annotations

import ast
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils import _pytree as pytree

from experiments.subjects import gpt2, vit
from search_space.budget import Budget, parse_budget
from search_space.eager_peak import eager_peak_bytes
from search_space.errors import BudgetError, CaptureError, ConfigError, DatabaseError
from search_space.plan import Choice, Plan, Region
from tuner import Applied, apply
from tuner.database import GraphEntry, LengthEntry, PlanRow, Reference, write_graph
from tuner.environment import device_name
from tuner.measure.cpu import CpuBackend
from tuner.runtime.apply import Prepared

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """On two threads tiny products wait for each other, and their sums may change order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Block(torch.nn.Module):
    """Attention and a feed-forward layer: the smallest model in which chunking pays."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.norm = torch.nn.LayerNorm(width)
        self.qkv = torch.nn.Linear(width, 3 * width)
        self.up = torch.nn.Linear(width, 4 * width)
        self.down = torch.nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor, scale: float = 1.0) -> dict[str, torch.Tensor]:
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        weights = torch.softmax(q @ k.transpose(1, 2) * scale, -1)
        x = x + weights @ v
        return {"hidden": x + self.down(torch.nn.functional.gelu(self.up(x))), "first": q}


LENGTH = 256


def block() -> Block:
    torch.manual_seed(0)
    return Block().eval()


def sample(length: int = LENGTH, batch: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(length)
    return torch.randn(batch, length, 32, generator=generator)


def assert_same(found: Any, expected: Any, within: float = 1e-5) -> None:
    """The same class, structure, dtypes and values."""
    assert type(found) is type(expected)
    leaves, spec = pytree.tree_flatten(found)
    expected_leaves, expected_spec = pytree.tree_flatten(expected)
    assert spec == expected_spec
    for one, other in zip(leaves, expected_leaves, strict=True):
        torch.testing.assert_close(one, other, rtol=within, atol=within)
        assert not one.requires_grad


def unchunked(model: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
    with torch.no_grad():
        return model(*args, **kwargs)


@dataclass(frozen=True)
class Case:
    """A library's model, applied at ``length``; ``call`` gives arguments for a length and batch."""

    model: torch.nn.Module
    applied: Applied
    length: int
    call: Callable[[int, int], tuple[tuple[Any, ...], dict[str, Any]]]
    layers: str


def _gpt2() -> Case:
    """Called by position."""
    model, inputs = gpt2(layers=2, width=32, heads=4, positions=64, vocabulary=101)

    def call(length: int, batch: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        (ids,), kwargs = inputs(length)
        rows = [(ids + 7 * row) % 101 for row in range(batch)]
        return (torch.cat(rows),), kwargs

    applied = apply(model, *call(48, 1), memory_budget=0.6)
    return Case(model, applied, 48, call, "h.")


def _vit() -> Case:
    """Called by keyword."""
    model, inputs = vit(width=32, heads=4, patch=4, image=24)

    def call(length: int, batch: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        (pixels,), kwargs = inputs(length)
        rows = [pixels * (row + 1) for row in range(batch)]
        return (), {"pixel_values": torch.cat(rows), **kwargs}

    applied = apply(model, *call(24, 1), memory_budget=0.6)
    return Case(model, applied, 24, call, "layers")


@pytest.fixture(scope="module", params=[_gpt2, _vit], ids=["gpt2", "vit"])
def case(request: pytest.FixtureRequest) -> Case:
    made: Case = request.param()
    return made


@pytest.mark.parametrize(("shorter", "batch"), [(0, 1), (1, 1), (0, 3)])
def test_outputs_are_the_models_own(case: Case, shorter: int, batch: int) -> None:
    args, kwargs = case.call(case.length - shorter, batch)
    found = case.applied(*args, **kwargs)
    assert case.applied.plan.choices, "nothing is chunked, so nothing is tested"
    assert_same(found, unchunked(case.model, *args, **kwargs))


def test_the_budget_holds_at_each_size(case: Case) -> None:
    for length in (case.length, case.length - 1):
        args, kwargs = case.call(length, 1)
        case.applied.prepare(*args, **kwargs)
        eager = eager_peak_bytes(case.model, args, kwargs)
        assert case.applied.predicted_peak_bytes <= 0.6 * eager


def test_the_explanation_names_modules_and_numbers_of_chunks(case: Case) -> None:
    args, kwargs = case.call(case.length, 1)
    prepared = case.applied.prepare(*args, **kwargs)
    text = case.applied.explain()
    active = prepared.analysis.memory.active(prepared.chosen.plan.choices)
    assert active
    for place, (choice, loops) in enumerate(active):
        passes = -(-loops[0].extent // choice.chunk_size)
        (line,) = re.findall(rf"^  {place + 1}\. .*$", text, re.MULTILINE)
        assert f"{passes} chunks of {choice.chunk_size} (of {loops[0].extent} units)" in line
        assert case.layers in line
        assert (f", {len(loops)} times" in line) == (len(loops) > 1)
    assert "plan: analytic" in text


def test_the_code_shows_each_loop_and_its_body(case: Case) -> None:
    args, kwargs = case.call(case.length, 1)
    prepared = case.applied.prepare(*args, **kwargs)
    code = case.applied.code
    loops = [
        (choice.chunk_size, loop.extent)
        for choice, own in prepared.analysis.memory.active(prepared.chosen.plan.choices)
        for loop in own
    ]
    titles = re.findall(r"^# region_\d+: units of (\d+) out of (\d+)", code, re.MULTILINE)
    assert sorted((int(size), int(extent)) for size, extent in titles) == sorted(loops)
    functions = [item for item in ast.parse(code).body if isinstance(item, ast.FunctionDef)]
    bodies = len(prepared.chosen.plan.choices)
    assert len(functions) == 1 + bodies
    for place in range(len(loops)):
        assert f"self.region_{place}(" in ast.unparse(functions[0])
    assert all(function.args.args[-1].arg == "length" for function in functions[1:])


def test_weights_are_shared_with_the_model(case: Case) -> None:
    args, kwargs = case.call(case.length, 1)
    prepared = case.applied.prepare(*args, **kwargs)
    own = {tensor.data_ptr() for tensor in case.model.parameters()}
    assert {tensor.data_ptr() for tensor in prepared.module.parameters()} == own
    before = unchunked(case.model, *args, **kwargs)
    weight = max(case.model.parameters(), key=lambda parameter: parameter.dim())
    kept = weight.detach().clone()
    try:
        with torch.no_grad():
            weight.mul_(1.5)
        found = case.applied(*args, **kwargs)
        assert_same(found, unchunked(case.model, *args, **kwargs))
        assert (found[0] - before[0]).abs().max() > 1e-3
    finally:
        with torch.no_grad():
            weight.copy_(kept)


def test_a_weight_that_is_replaced_is_seen() -> None:
    model, x = block(), sample()
    applied = apply(model, (x,), memory_budget=0.5)
    before = applied(x)
    model.up.weight = torch.nn.Parameter(torch.randn_like(model.up.weight))
    found = applied(x)
    assert_same(found, unchunked(model, x))
    assert not torch.allclose(found["hidden"], before["hidden"])


@pytest.fixture(scope="module")
def halved() -> tuple[Block, Applied]:
    """A block, and the same within half of its memory."""
    model = block()
    return model, apply(model, (sample(),), memory_budget=0.5)


def test_sizes_seen_before_are_not_prepared_again(halved: tuple[Block, Applied]) -> None:
    (_, applied), x = halved, sample()
    first = applied.prepare(x)
    shorter = applied.prepare(sample(100))
    assert applied.prepare(torch.zeros_like(x)) is first
    assert shorter is not first
    assert shorter.captured is first.captured, "one capture serves both lengths"


def test_other_keyword_arguments_are_captured_anew(halved: tuple[Block, Applied]) -> None:
    (model, applied), x = halved, sample()
    assert_same(applied(x, scale=0.25), unchunked(model, x, scale=0.25))
    assert_same(applied(x), unchunked(model, x))


def test_a_call_under_autocast_gives_what_the_model_gives_there(
    halved: tuple[Block, Applied],
) -> None:
    (model, applied), x = halved, sample()
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = applied(x), unchunked(model, x)
    assert expected["first"].dtype == torch.bfloat16
    assert_same(found, expected, within=0.02)
    assert_same(applied(x), unchunked(model, x))


@pytest.mark.parametrize(
    ("budget", "limit"),
    [
        (0.5, lambda eager: 0.5 * eager),
        (300_000, lambda eager: 300_000),
        ("300KiB", lambda eager: 300 * 1024),
    ],
)
def test_a_budget_is_met_by_prediction_and_by_the_allocator(
    budget: float | int | str, limit: Callable[[int], float]
) -> None:
    model, x = block(), sample()
    most = limit(eager_peak_bytes(model, (x,)))
    applied = apply(model, (x,), memory_budget=budget)
    assert applied.prepare(x).analysis.selector.unchunked_bytes > most, "nothing would be tested"
    assert applied.predicted_peak_bytes <= most
    applied(x)
    found, peak = CpuBackend().peak(lambda: applied(x))
    assert peak.activation_bytes <= most
    assert_same(found, unchunked(model, x))


def test_without_a_budget_or_with_enough_the_model_stays_as_it_is() -> None:
    model, x = block(), sample()
    for budget in (None, 1.0):
        applied = apply(model, (x,), memory_budget=budget)
        assert applied.plan.choices == ()
        assert "nothing is chunked" in applied.explain()
        assert_same(applied(x), unchunked(model, x))


def test_a_budget_too_small_names_the_lowest_which_can_then_be_met() -> None:
    model, x = block(), sample()
    with pytest.raises(BudgetError) as caught:
        apply(model, (x,), memory_budget=0.01)
    lowest = caught.value.lowest_bytes
    assert str(lowest) in str(caught.value)
    applied = apply(model, (x,), memory_budget=lowest)
    assert applied.predicted_peak_bytes <= lowest
    assert_same(applied(x), unchunked(model, x))
    with pytest.raises(BudgetError):
        apply(model, (x,), memory_budget=lowest // 2)


def test_the_least_budget_saves_memory() -> None:
    model, x = block(), sample()
    applied = apply(model, (x,), memory_budget="min")
    assert applied.predicted_peak_bytes < applied.prepare(x).analysis.selector.unchunked_bytes
    assert_same(applied(x), unchunked(model, x))


def test_the_least_budget_is_low_but_not_at_any_price() -> None:
    applied = apply(block(), (sample(),), memory_budget="min")
    prepared = applied.prepare(sample())
    selector = prepared.analysis.selector
    with pytest.raises(BudgetError) as caught:
        selector.within(1000)
    lowest = caught.value.lowest_bytes
    assert lowest <= prepared.chosen.peak_bytes < selector.unchunked_bytes
    # a plan that is predicted to take more than half as long again must be asked for in bytes
    selected = selector.lowest(prepared.analysis.unchunked_s)
    assert selected.extra_s <= 0.5 * prepared.analysis.unchunked_s
    assert apply(block(), (sample(),), memory_budget=lowest).predicted_peak_bytes <= lowest


def test_new_sizes_that_cannot_meet_the_budget_are_an_error_at_the_call() -> None:
    model = block()
    applied = apply(model, (sample(64),), memory_budget="64KiB")
    with pytest.raises(BudgetError):
        applied(sample(1024))
    assert_same(applied(sample(64)), unchunked(model, sample(64)))


def test_a_short_input_may_take_what_the_example_takes() -> None:
    model = block()
    with pytest.raises(BudgetError):
        apply(model, (sample(1),), memory_budget=0.5)
    applied = apply(model, (sample(64),), memory_budget=0.5)
    taken = applied.predicted_peak_bytes
    for length in (1, 2):
        assert_same(applied(sample(length)), unchunked(model, sample(length)))
        assert applied.predicted_peak_bytes <= taken


def test_a_budget_may_be_written_in_several_ways() -> None:
    assert parse_budget("0.5") == parse_budget(0.5) == Budget(fraction=0.5)
    assert parse_budget("2GiB") == parse_budget(2 * 2**30) == parse_budget(" 2 gib ")
    assert parse_budget("0.25 mb") == Budget(absolute_bytes=250_000)
    assert parse_budget("MIN") == Budget()
    assert parse_budget("25%") == parse_budget(0.25)
    assert parse_budget("50 B") == Budget(absolute_bytes=50)
    assert parse_budget(1) == parse_budget(1.0), "all of the eager peak, not a byte"
    for budget in map(parse_budget, ("2GiB", 0.3, "min", "50B", "1B", "30%", 1000)):
        assert parse_budget(budget.plain) == budget


@pytest.mark.parametrize(
    "budget",
    [0, 0.0, -1, -0.5, 1.5, float("nan"), float("inf"), True, "", "0", "lots", "1 pound", "-2GiB",
     50, "50", "150%", "0%", "nan%", "x%"],
)  # fmt: skip
def test_an_impossible_budget_is_refused(budget: float | int | str) -> None:
    with pytest.raises(ConfigError, match="memory budget") as caught:
        apply(block(), (sample(),), memory_budget=budget)
    assert repr(budget) in str(caught.value) or str(budget) in str(caught.value)


@pytest.mark.parametrize(
    ("model", "args", "kwargs", "words"),
    [
        (torch.relu, (sample(),), None, "torch.nn.Module"),
        (block(), sample(), None, "args=(x,)"),
        (block(), {"x": sample()}, None, "apply(model, (), kwargs)"),
        (block(), (), [sample()], "names to values"),
    ],
)
def test_arguments_of_the_wrong_kind_are_refused(
    model: Any, args: Any, kwargs: Any, words: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        apply(model, args, kwargs, memory_budget=0.5)


def test_a_model_in_training_mode_is_refused() -> None:
    with pytest.raises(CaptureError, match="eval"):
        apply(block().train(), (sample(),), memory_budget=0.5)


def confirmed(prepared: Prepared, ratio: float) -> PlanRow:
    """An analytic plan in chunks of half the size, as if it had been confirmed, beside a model that
    takes a millisecond.

    The smaller chunks tell it from what is chosen analytically.
    """
    choices = tuple(
        replace(choice, chunk_size=max(1, choice.chunk_size // 2))
        for choice in prepared.chosen.plan.choices
    )
    peak = prepared.analysis.memory.profile(choices).peak_bytes
    plan = replace(prepared.chosen.plan, choices=choices)
    return taking(PlanRow(plan, peak, peak, 1.0, 1.0, 1.0, 1.0), ratio)


def taking(row: PlanRow, ratio: float) -> PlanRow:
    """The row with another time."""
    return replace(row, latency_ms=ratio, ratio=ratio, ratio_low=ratio, ratio_high=ratio)


@dataclass(frozen=True)
class Tuned:
    """A block, its input at the tuned length, and rows to put in a database.

    Attributes:
        whole: the unchanged model, 1 ms.
        low: a plan within half of the eager peak, 1.2 ms; not the one that is chosen analytically.
        analytic: that one.
    """

    model: Block
    x: torch.Tensor
    eager_bytes: int
    whole: PlanRow
    low: PlanRow
    analytic: Plan

    def entry(self, *rows: PlanRow, budget: Budget | None = None) -> GraphEntry:
        shapes = (tuple(self.x.shape),)
        length = LengthEntry(LENGTH, shapes, Reference(self.eager_bytes, 1.0), rows)
        return GraphEntry(self.analytic.fingerprint, {}, {"n0": LENGTH}, budget, (length,))


@pytest.fixture(scope="module")
def tuned() -> Tuned:
    model, x = block(), sample()
    half = apply(model, (x,), memory_budget=0.5).prepare(x)
    low = confirmed(half, 1.2)
    plan = half.chosen.plan
    unchanged = half.analysis.selector.unchunked_bytes
    whole = taking(replace(
        low, plan=Plan(plan.fingerprint), peak_bytes=unchanged, predicted_bytes=unchanged,
    ), 1.0)  # fmt: skip
    assert len({whole.plan, low.plan, plan}) == 3
    return Tuned(model, x, eager_peak_bytes(model, (x,)), whole, low, plan)


Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes an entry into a database and gives its folder."""

    def into(entry: GraphEntry, device: str | None = None) -> Path:
        write_graph(tmp_path, device or device_name("cpu"), "block", entry)
        return tmp_path

    return into


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What AutoChunk has logged so far."""
    caplog.set_level(logging.INFO, "autochunk")
    return lambda: [r.getMessage() for r in caplog.records if r.name == "autochunk"]


Lines = Callable[[], list[str]]


def test_a_tuned_plan_serves_its_own_length(tuned: Tuned, write: Write, lines: Lines) -> None:
    plans = write(tuned.entry(tuned.low))
    applied = apply(tuned.model, (tuned.x,), plans=plans, memory_budget=0.5)
    assert applied.plan == tuned.low.plan
    assert "plan: tuned at 256\n" in applied.explain()
    assert_same(applied(tuned.x), unchunked(tuned.model, tuned.x))
    assert lines() == []
    # one file of the folder will do as well
    (file,) = plans.rglob("*.yaml")
    assert apply(tuned.model, (tuned.x,), plans=str(file), memory_budget=0.5).plan == applied.plan


def test_the_fastest_tuned_plan_within_the_budget_is_taken(tuned: Tuned, write: Write) -> None:
    # (a latency alone may be of a quieter hour)
    slow = replace(taking(replace(tuned.low, plan=tuned.analytic), 1.4), latency_ms=0.9)
    plans = write(tuned.entry(tuned.low, slow, tuned.whole))

    def plan(budget: float | str) -> Plan:
        return apply(tuned.model, (tuned.x,), plans=plans, memory_budget=budget).plan

    assert plan(1.0) == tuned.whole.plan
    assert plan(0.5) == tuned.low.plan
    assert plan("min") == tuned.low.plan


def test_a_budget_below_all_tuned_plans_is_met_analytically(
    tuned: Tuned, write: Write, lines: Lines
) -> None:
    plans = write(tuned.entry(tuned.low, tuned.whole))
    most = tuned.low.peak_bytes - 1
    applied = apply(tuned.model, (tuned.x,), plans=plans, memory_budget=most)
    assert "plan: analytic\n" in applied.explain()
    assert applied.predicted_peak_bytes <= most
    (line,) = lines()
    assert "no tuned plan" in line


def test_a_smaller_length_takes_the_next_larger_ones_plan(
    tuned: Tuned, write: Write, lines: Lines
) -> None:
    x = sample(200)
    plans = write(tuned.entry(tuned.low, tuned.whole))
    applied = apply(tuned.model, (x,), plans=plans, memory_budget=0.5)
    assert applied.plan == tuned.low.plan
    assert "plan: tuned at 256, the next larger length\n" in applied.explain()
    assert applied.predicted_peak_bytes <= 0.5 * eager_peak_bytes(tuned.model, (x,))
    assert_same(applied(x), unchunked(tuned.model, x))
    assert lines() == []


def test_a_larger_length_than_tuned_is_chosen_analytically(
    tuned: Tuned, write: Write, lines: Lines
) -> None:
    x = sample(300)
    plans = write(tuned.entry(tuned.low, tuned.whole))
    applied = apply(tuned.model, (x,), plans=plans, memory_budget=0.5)
    assert "plan: analytic\n" in applied.explain()
    assert applied.predicted_peak_bytes <= 0.5 * eager_peak_bytes(tuned.model, (x,))
    assert_same(applied(x), unchunked(tuned.model, x))
    (line,) = lines()
    assert "no tuned plan" in line
    # the same sizes again say nothing more
    applied(x)
    assert len(lines()) == 1


def test_without_a_budget_the_databases_own_holds(tuned: Tuned, write: Write) -> None:
    plans = write(tuned.entry(tuned.whole, tuned.low, budget=parse_budget(0.5)))
    applied = apply(tuned.model, (tuned.x,), plans=plans)
    assert applied.plan == tuned.low.plan
    # also where nothing was tuned
    applied.prepare(sample(300))
    assert "plan: analytic\n" in applied.explain()
    eager = eager_peak_bytes(tuned.model, (sample(300),))
    assert applied.predicted_peak_bytes <= 0.5 * eager
    # the user's own goes before it
    assert apply(tuned.model, (tuned.x,), plans=plans, memory_budget=1.0).plan == tuned.whole.plan


def test_a_database_without_a_budget_gives_its_fastest_plan(tuned: Tuned, write: Write) -> None:
    fast = taking(tuned.low, 0.5)
    plans = write(tuned.entry(tuned.whole, fast))
    assert apply(tuned.model, (tuned.x,), plans=plans).plan == fast.plan


def test_a_share_is_taken_of_the_measured_eager_peak(tuned: Tuned, write: Write) -> None:
    # as if the eager model had taken ten times as much: the whole then fits into half of it
    larger = replace(tuned, eager_bytes=10 * tuned.eager_bytes)
    plans = write(larger.entry(tuned.low, tuned.whole))
    assert apply(tuned.model, (tuned.x,), plans=plans, memory_budget=0.5).plan == tuned.whole.plan


def test_a_model_that_was_not_tuned_is_chosen_for_analytically(
    tuned: Tuned, write: Write, lines: Lines
) -> None:
    plans = write(replace(tuned.entry(), fingerprint="0123456789abcdef"))
    applied = apply(tuned.model, (tuned.x,), plans=plans, memory_budget=0.5)
    assert applied.plan == tuned.analytic
    (line,) = lines()
    assert "nothing for this model as called" in line
    assert tuned.analytic.fingerprint in line


def test_an_empty_database_is_said_to_be(tuned: Tuned, tmp_path: Path, lines: Lines) -> None:
    applied = apply(tuned.model, (tuned.x,), plans=tmp_path, memory_budget=0.5)
    assert applied.plan == tuned.analytic
    (line,) = lines()
    assert "empty" in line
    assert str(tmp_path) in line


def test_plans_of_another_device_are_used_and_said_to_be(
    tuned: Tuned, write: Write, lines: Lines
) -> None:
    plans = write(tuned.entry(tuned.low), "cpu of another make")
    applied = apply(tuned.model, (tuned.x,), plans=plans, memory_budget=0.5)
    assert applied.plan == tuned.low.plan
    (line,) = lines()
    assert "cpu of another make" in line
    # those of this very device go before them
    write(tuned.entry(tuned.whole))
    assert apply(tuned.model, (tuned.x,), plans=plans, memory_budget=1.0).plan == tuned.whole.plan


@pytest.mark.parametrize(
    "region",
    [
        # a parameter cannot be computed in a loop; the graph has no such nodes or dimensions
        pytest.param(Region((0,), (0,)), id="a-leaf"),
        pytest.param(Region((99_999,), (0,)), id="no-such-node"),
        pytest.param(Region((15,), (7,)), id="no-such-dimension"),
    ],
)
def test_a_plan_that_does_not_fit_its_graph_is_passed_over(
    tuned: Tuned, write: Write, lines: Lines, region: Region
) -> None:
    plan = Plan(tuned.analytic.fingerprint, (Choice((region,), 8),))
    wrong = taking(replace(tuned.low, plan=plan), 0.1)
    plans = write(tuned.entry(wrong, tuned.low))
    applied = apply(tuned.model, (tuned.x,), plans=plans, memory_budget=0.5)
    assert applied.plan == tuned.low.plan
    (line,) = lines()
    assert "not legal" in line


def test_a_missing_or_damaged_database_is_an_error(
    tuned: Tuned, write: Write, tmp_path: Path
) -> None:
    with pytest.raises(DatabaseError, match="nowhere"):
        apply(tuned.model, (tuned.x,), plans=tmp_path / "nowhere", memory_budget=0.5)
    plans = write(tuned.entry(tuned.low))
    (file,) = plans.rglob("*.yaml")
    file.write_text(file.read_text(encoding="utf-8")[:-10], encoding="utf-8")
    with pytest.raises(DatabaseError) as caught:
        apply(tuned.model, (tuned.x,), plans=plans, memory_budget=0.5)
    assert str(file) in str(caught.value)


def test_a_tuned_library_model_runs_its_tuned_plan(case: Case, tmp_path: Path) -> None:
    args, kwargs = case.call(case.length, 1)
    prepared = case.applied.prepare(*args, **kwargs)
    row = confirmed(prepared, 1.0)
    plan = row.plan
    eager = eager_peak_bytes(case.model, args, kwargs)
    (tensor,) = (leaf for leaf in (*args, *kwargs.values()) if isinstance(leaf, torch.Tensor))
    length = LengthEntry(case.length, (tuple(tensor.shape),), Reference(eager, 1.0), (row,))
    entry = GraphEntry(plan.fingerprint, {}, {"n0": case.length}, None, (length,))
    write_graph(tmp_path, device_name("cpu"), "library model", entry)
    applied = apply(case.model, args, kwargs, plans=tmp_path, memory_budget=0.9)
    assert applied.plan == plan != prepared.chosen.plan
    assert f"plan: tuned at {case.length}\n" in applied.explain()
    assert_same(applied(*args, **kwargs), unchunked(case.model, *args, **kwargs))


INFERENCE = """
import sys
import torch
from tuner import apply

torch.set_num_threads(1)
model = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.GELU(), torch.nn.Linear(64, 8)).eval()
x = torch.randn(4, 32, 8)
applied = apply(model, (x,), memory_budget=0.5)
assert applied.plan.choices
torch.testing.assert_close(applied(x), model(x).detach())
loaded = {name.partition(".")[0] for name in sys.modules}
assert "tuner" in loaded
print(sorted(loaded & {"optuna", "sklearn", "scipy", "experiments", "transformers"}))
"""


def test_inference_loads_neither_the_study_nor_the_learned_model() -> None:
    done = subprocess.run(
        [sys.executable, "-c", INFERENCE],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
