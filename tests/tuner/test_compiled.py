"""Compiled bodies and stretches: the same numbers, loops that stay loops, one compilation each."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx, nn
from torch.profiler import profile

from search_space.eager_peak import eager_peak_bytes
from search_space.errors import ConfigError
from tuner import apply
from tuner.compile_options import CompileOptions, parse_compile
from tuner.measure.cpu import CpuBackend
from tuner.measure.protocol import Peak
from tuner.runtime import applied, compiled_run, compiler_start
from tuner.runtime.compiled import CompiledPiece, Compiler
from tuner.runtime.compiled_run import Outcome, Tried, try_compiled
from tuner.runtime.generate import generate
from tuner.runtime.loop import ChunkLoop, Output, Sliced
from tuner.runtime.pieces import Piece

WIDTH = 32


class Block(nn.Module):
    """A feed-forward with a norm and a gate: enough kernels to fuse."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, 16 * WIDTH)
        self.gate = nn.Linear(WIDTH, 16 * WIDTH)
        self.down = nn.Linear(16 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(x)
        gated = torch.sigmoid(self.gate(y)) * torch.tanh(self.up(y))
        found: torch.Tensor = x + self.down(gated)
        return found


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(Block(), Block(), nn.ReLU(), nn.LayerNorm(WIDTH)).eval()


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def loops_of(module: fx.GraphModule) -> list[ChunkLoop]:
    return [child for child in module.children() if isinstance(child, ChunkLoop)]


def test_compiled_plans_give_the_same_numbers_within_their_budget(model: nn.Module) -> None:
    x = torch.randn(1, 203, WIDTH)  # no chunk size divides it
    fast = apply(model, (x,), memory_budget=0.3, compile=True)
    module = fast.prepare(x).module
    assert fast.prepare(x).compiled is not None, fast.explain()
    # what kinds of op cost, one by one, says little of compiled code
    assert fast.prepare(x).analysis.ceilings.rates is None
    assert apply(model, (x,), memory_budget=0.3).prepare(x).analysis.ceilings.rates is not None
    loops = loops_of(module)
    assert len(loops) == 2, fast.explain()
    pieces = [piece for loop in loops for piece in loop.body.modules()
              if isinstance(piece, CompiledPiece)]  # fmt: skip
    assert pieces, "no body was compiled"
    torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)
    tried = fast.prepare(x).compiled
    assert tried is not None
    _, peak = CpuBackend().peak(lambda: fast(x))
    assert peak.requested_bytes == tried.peak_bytes == fast.predicted_peak_bytes
    assert "compiled: " in fast.explain()
    report = fast.compile_report
    assert report is not None and report.seconds > 0 and not report.failure
    # both layers are alike: what is compiled for one serves the other
    assert len({id(piece) for piece in pieces}) == 1


def test_a_lower_plan_runs_where_it_alone_is_compiled_within_the_budget(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What compiled code takes is known when it has run: here too much, unless in chunks."""
    x = torch.randn(1, 203, WIDTH)
    asked: list[int] = []

    def greedy(
        module: fx.GraphModule, compiler: Compiler, tensors: Sequence[torch.Tensor],
        limit_bytes: int | None, options: CompileOptions,
    ) -> Outcome:  # fmt: skip
        assert limit_bytes is not None
        if not loops_of(module):
            asked.append(limit_bytes + limit_bytes // 4)
            return Outcome(None, asked[-1])
        return try_compiled(module, compiler, tensors, limit_bytes)

    monkeypatch.setattr(applied, "try_compiled", greedy)
    fast = apply(model, (x,), memory_budget=1.0, compile=True)
    assert len(asked) == 1, "the model as it is was to be tried first"
    prepared = fast.prepare(x)
    assert prepared.chosen.plan.choices and loops_of(prepared.module), fast.explain()
    assert prepared.compiled is not None and prepared.compiled.options == CompileOptions()
    assert "with room for compiled code" in fast.explain()
    limit = prepared.chosen.limit_bytes
    assert limit is not None and prepared.compiled.peak_bytes <= limit
    torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("keeps", [True, False])
def test_a_faster_plan_runs_in_the_room_that_compiled_code_leaves(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch, keeps: bool
) -> None:
    """Compiled code takes half of what the model says here, except, in one case, where nothing is
    in a loop."""
    x = torch.randn(1, 203, WIDTH)
    loops: list[int] = []

    def frugal(
        module: fx.GraphModule, compiler: Compiler, tensors: Sequence[torch.Tensor],
        limit_bytes: int | None, options: CompileOptions,
    ) -> Outcome:  # fmt: skip
        assert limit_bytes is not None
        loops.append(len(loops_of(module)))
        peak = limit_bytes // 2 if loops[-1] else limit_bytes + (0 if keeps else 1)
        tried = Tried(module, peak, compiler.options) if peak <= limit_bytes else None
        return Outcome(tried, peak)

    monkeypatch.setattr(applied, "try_compiled", frugal)
    fast = apply(model, (x,), memory_budget=0.6, compile=True)
    plain = apply(model, (x,), memory_budget=0.6)
    assert plain.plan.choices
    assert loops[0] > 0 and loops[1:] == [0]
    prepared = fast.prepare(x)
    assert prepared.compiled is not None
    limit = prepared.chosen.limit_bytes
    assert limit is not None and fast.predicted_peak_bytes <= limit
    if keeps:
        assert not fast.plan.choices
        assert "in the room that compiled code leaves" in fast.explain()
    else:
        assert fast.plan == plain.plan


def test_memory_that_runs_out_is_no_fault_of_the_compiler(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(module: fx.GraphModule, *given: Any, **options: Any) -> Any:
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr("torch._inductor.standalone_compile", full)
    x = torch.randn(1, 205, WIDTH)
    fast = apply(model, (x,), memory_budget=0.3, compile=True)
    assert fast.compile_report is not None and not fast.compile_report.failure
    assert not caplog.records
    torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)


def test_the_plan_stays_where_no_lower_one_is_compiled_either(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.randn(1, 203, WIDTH)
    loops: list[int] = []

    def greedy(
        module: fx.GraphModule, compiler: Compiler, tensors: Any, limit: int, *given: Any
    ) -> Outcome:
        loops.append(len(loops_of(module)))
        return Outcome(None, limit + limit // 8)

    monkeypatch.setattr(applied, "try_compiled", greedy)
    fast = apply(model, (x,), memory_budget=1.0, compile=True)
    plain = apply(model, (x,), memory_budget=1.0)
    assert loops[0] == 0 and loops[1] > 0, "a lower plan was to be tried"
    assert len(loops) == 2
    assert fast.plan == plain.plan
    assert fast.prepare(x).compiled is None


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the compiler's."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The peaks that were measured, as they come."""
    found: list[int] = []

    class Counting(CpuBackend):
        def peak(self, call: Callable[[], Any]) -> tuple[Any, Peak]:
            output, peak = super().peak(call)
            found.append(peak.requested_bytes)
            return output, peak

    monkeypatch.setattr(compiled_run, "backend_for", lambda device: Counting())
    return found


def test_a_peak_measured_before_is_not_measured_again(
    model: nn.Module, cache: Path, measured: list[int]
) -> None:
    x = torch.randn(1, 203, WIDTH)
    first = apply(model, (x,), memory_budget=0.3, compile=True)
    assert measured == [first.predicted_peak_bytes]
    again = apply(model, (x,), memory_budget=0.3, compile=True)
    assert len(measured) == 1, "as another process would, it finds the peak"
    assert again.predicted_peak_bytes == first.predicted_peak_bytes
    report = again.compile_report
    assert report is not None and report.compiled, "it is compiled, and compared, all the same"
    torch.testing.assert_close(again(x), model(x), rtol=1e-4, atol=1e-5)
    # other sizes, other code, or a damaged record: measured
    apply(model, (torch.randn(1, 202, WIDTH),), memory_budget=0.3, compile=True)
    apply(model, (x,), memory_budget=0.3, compile={"stretches": False})
    assert len(measured) == 3
    for file in (cache / "autochunk-peaks").iterdir():
        file.write_text('"little"', encoding="ascii")
    apply(model, (x,), memory_budget=0.3, compile=True)
    assert len(measured) == 4 and measured[3] == measured[0]


def test_without_loops_a_peak_is_known_by_its_sizes(
    model: nn.Module, cache: Path, measured: list[int]
) -> None:
    """The code is the same then: nothing but the inputs tells one length from another."""
    for length in (203, 202):
        apply(model, (torch.randn(1, length, WIDTH),), memory_budget=1.0, compile=True)
    assert len(set(measured)) == 2


def test_the_compilers_own_start_is_made_once_and_fails_quietly(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from torch._inductor import codecache, cpu_vec_isa

    called: list[str] = []

    def fail(name: str) -> None:
        called.append(name)
        raise OSError("no compiler")

    monkeypatch.setattr(codecache, "torch_key", lambda: fail("key"))
    monkeypatch.setattr(cpu_vec_isa, "pick_vec_isa", lambda: fail("instructions"))
    monkeypatch.setattr(compiler_start, "_STARTED", threading.Event())
    with caplog.at_level(logging.INFO, "autochunk"):
        for _ in range(2):
            compiler_start.start_compiler("cpu")
            for thread in threading.enumerate():
                if thread.name == "autochunk-compiler-start":
                    thread.join(30)
    assert sorted(called) == ["instructions", "key"] and not caplog.records


def test_what_was_over_the_budget_before_is_not_compiled_again(
    model: nn.Module, cache: Path, measured: list[int]
) -> None:
    x = torch.randn(1, 203, WIDTH)
    first = apply(model, (x,), memory_budget=0.3, compile=True)
    module = generate(
        first.prepare(x).analysis, first.plan, model, first.prepare(x).captured.constants
    )
    assert first.compile_report is not None
    first_pieces = first.compile_report.pieces
    (peak,) = measured
    (file,) = (cache / "autochunk-peaks").iterdir()
    compiler = Compiler()
    found = try_compiled(module, compiler, [x], peak - 1)
    assert found.asked_bytes == peak
    bodies = Compiler()
    bodies.with_compiled(module, CompileOptions(stretches=False))
    assert compiler.report.pieces == bodies.report.pieces < first_pieces
    assert found.tried is None or found.tried.options == CompileOptions(stretches=False)
    assert len(measured) == 2, "bodies alone are tried, and nothing else"
    assert json.loads(file.read_text(encoding="ascii")) == peak


def test_nothing_is_kept_where_the_user_wants_no_cache(
    model: nn.Module, cache: Path, measured: list[int]
) -> None:
    from torch._inductor import config

    x = torch.randn(1, 203, WIDTH)
    with config.patch({"force_disable_caches": True}):
        for _ in range(2):
            apply(model, (x,), memory_budget=0.3, compile={"bodies": False})
    assert len(measured) == 2
    assert not (cache / "autochunk-peaks").exists()


@pytest.mark.parametrize("wrong", [False, True])
def test_what_comparing_made_is_the_first_output(
    wrong: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compiled code runs once a call, and wrong code once in all."""
    calls: list[str] = []

    class Artifact:
        def __init__(self, module: fx.GraphModule) -> None:
            self.module = module

        def __call__(self, tensors: list[torch.Tensor]) -> Any:
            calls.append("compiled")
            return [2 * one if wrong else one for one in self.module(tensors)]

    monkeypatch.setattr(
        "torch._inductor.standalone_compile", lambda module, *args, **options: Artifact(module)
    )
    graph = fx.Graph()
    x, weight = graph.placeholder("x"), graph.placeholder("weight")
    aten = torch.ops.aten
    product = graph.call_function(aten.mm.default, (x, weight))
    graph.output((graph.call_function(aten.relu.default, (product,)),))
    module = fx.GraphModule(nn.Module(), graph)
    compiler = Compiler()
    made = compiler.with_compiled(module)
    given = torch.randn(8, 4), torch.randn(4, 4)
    for _ in range(3):
        torch.testing.assert_close(made(*given), module(*given))
    assert len(calls) == (1 if wrong else 3)
    assert compiler.report.compiled == (0 if wrong else 1)


def test_targets_are_compiled_once_and_share_it(model: nn.Module) -> None:
    x = torch.randn(1, 204, WIDTH)
    expected = model(x)
    with apply(model, (x,), targets=["0", "1"], memory_budget=0.4, compile=True) as fast:
        report = fast.compile_report
        assert report is not None and not report.failure
        (one,) = fast.distinct
        tried = one.ready.compiled
        assert tried is not None, fast.explain()
        assert one.chosen.limit_bytes is not None
        assert tried.peak_bytes <= one.chosen.limit_bytes
        assert "compiled: " in fast.explain()
        compiled = report.compiled
        torch.testing.assert_close(fast(x), expected, rtol=1e-4, atol=1e-5)
        assert report.compiled == compiled  # the call itself, with real tensors, compiles nothing
        _, peak = CpuBackend().peak(lambda: fast(x))
        allowed = 0.4 * eager_peak_bytes(model, (x,), {})
        assert fast.predicted_peak_bytes == one.outside_bytes + tried.peak_bytes
        assert tried.peak_bytes != one.chosen.peak_bytes, "nothing tells which of the two is meant"
    assert peak.requested_bytes <= allowed


def test_without_a_compiler_the_plan_runs_as_it_is(
    model: nn.Module, caplog: pytest.LogCaptureFixture
) -> None:
    from torch._inductor import config
    from torch._inductor.utils import fresh_cache

    x = torch.randn(1, 202, WIDTH)
    # (not monkeypatch: it undoes by deleting what is in no __dict__, for good in torch 2.11)
    without = config.patch({"cpp.cxx": ("/nowhere/c++",)})
    with without, fresh_cache(), caplog.at_level(logging.WARNING, "autochunk"):
        fast = apply(model, (x,), memory_budget=0.3, compile=True)
    told = [record for record in caplog.records if "nothing is compiled" in record.message]
    assert len(told) == 1
    assert "not compiled: " in fast.explain()
    torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)


def test_inside_a_users_compilation_the_loops_stay_loops(model: nn.Module) -> None:
    x = torch.randn(1, 200, WIDTH)
    fast = apply(model, (x,), memory_budget=0.3)
    seen: list[str] = []

    def backend(graph: fx.GraphModule, example: Any) -> Any:
        seen.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    def user(x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = fast(x * 2.0) + 1.0
        return found

    torch._dynamo.reset()
    compiled = torch.compile(user, backend=backend)
    torch.testing.assert_close(compiled(x), model(x * 2.0) + 1.0, rtol=1e-4, atol=1e-5)
    assert any("mul" in name for name in seen)
    assert not any("linear" in name or "addmm" in name or "tanh" in name for name in seen)


def test_pieces_of_one_structure_are_compiled_once() -> None:
    class Counting(Compiler):
        made = 0

        def _compile(self, piece: Piece, tensors: Any) -> Any:
            Counting.made += 1
            return piece.module, None

    graph = fx.Graph()
    x, one, two = (graph.placeholder(name) for name in ("x", "one", "two"))
    aten = torch.ops.aten
    for weight in (one, two):
        product = graph.call_function(aten.mm.default, (x, weight))
        total = graph.call_function(aten.add.Tensor, (graph.call_function(
            aten.relu.default, (product,)), x))  # fmt: skip
        x = graph.call_module("between", (total,))
    graph.output((x,))
    module = fx.GraphModule(nn.ModuleDict({"between": nn.Identity()}), graph)
    compiler = Counting(CompileOptions(bodies=False))
    made = compiler.with_compiled(module)
    given = [torch.randn(4, 4) for _ in range(3)]
    torch.testing.assert_close(made(*given), module(*given))
    assert compiler.report.pieces == 2 and Counting.made == 1


def test_a_ragged_last_pass_is_compiled_where_it_has_much_to_do() -> None:
    graph = fx.Graph()
    x, _, _ = (graph.placeholder(name) for name in ("x", "start", "length"))
    aten = torch.ops.aten
    up = graph.call_function(aten.tanh.default, (graph.call_function(aten.exp.default, (x,)),))
    graph.output((up,))
    body = fx.GraphModule(nn.Module(), graph)
    for size, both in ((6, True), (7, False)):  # 11 = 6 + 5; 15 = 7 + 7 + 1
        extent = 11 if both else 15
        cut = Sliced(0, 1)
        output = Output((extent, 3), (3, 1), cut, torch.float32, torch.device("cpu"))
        loop = ChunkLoop(body, extent, size, (cut,), (output,))
        whole = fx.Graph()
        whole.output((whole.call_module("region_0", (whole.placeholder("x"),)),))
        module = fx.GraphModule(nn.ModuleDict({"region_0": loop}), whole)
        made = Compiler().with_compiled(module)
        (compiled,) = loops_of(made)
        assert compiled.tail is not None
        pieces = [one for one in compiled.tail.modules() if isinstance(one, CompiledPiece)]
        assert bool(pieces) is both
        given = torch.randn(extent, 3)
        torch.testing.assert_close(made(given)[0], module(given)[0])


def test_a_piece_drops_what_it_was_given_after_its_last_use() -> None:
    graph = fx.Graph()
    x, weight = graph.placeholder("x"), graph.placeholder("weight")
    aten = torch.ops.aten
    value = graph.call_module("between", (x,))  # an intermediate: nobody else holds it
    for _ in range(3):
        value = graph.call_function(aten.mm.default, (value, weight))
    graph.output((value,))
    module = fx.GraphModule(nn.ModuleDict({"between": nn.ReLU()}), graph)
    made = Compiler().with_compiled(module)
    given = torch.randn(512, 256), torch.randn(256, 256)
    torch.testing.assert_close(made(*given), module(*given), rtol=1e-4, atol=1e-4)
    _, peak = CpuBackend().peak(lambda: made(*given))
    assert peak.requested_bytes == 2 * given[0].nbytes  # three, were the first held to the end


@pytest.mark.parametrize("value", ["fast", 3, {"bodies": "yes"}, {1: 2}])
def test_mistakes_are_named(value: Any) -> None:
    with pytest.raises(ConfigError, match="compile"):
        parse_compile(value)


def test_options_are_read() -> None:
    assert parse_compile(None) is None and parse_compile(False) is None
    assert parse_compile(True) == CompileOptions()
    found = parse_compile({"stretches": False, "max_autotune": True})
    assert found == CompileOptions(True, False, {"max_autotune": True})


def test_inside_a_users_profiler_the_plan_runs_uncompiled(
    model: nn.Module, caplog: pytest.LogCaptureFixture
) -> None:
    """Memory is measured by torch's profiler, of which there is one."""
    x = torch.randn(1, 96, WIDTH)
    with profile() as profiler:
        fast = apply(model, (x,), memory_budget=0.6, compile=True)
        found = fast(x)
    assert len(profiler.events()) > 0
    assert "profiler" in caplog.text
    torch.testing.assert_close(found, model(x))
