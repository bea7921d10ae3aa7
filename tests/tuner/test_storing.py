"""Bodies that write their outputs: the same numbers, over donors too, and no copies beside them."""

from __future__ import annotations

import operator
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import fx, nn

from search_space.candidates import find_classes
from search_space.plan import Choice
from search_space.space import SearchSpace
from tests.tiny import EVERYTHING, Tiny, chunk_sizes
from tuner.compile_options import CompileOptions
from tuner.measure.cpu import CpuBackend
from tuner.runtime.compiled import CompiledPiece, Compiler
from tuner.runtime.loop import ChunkLoop, Output, Sliced
from tuner.runtime.pieces import Piece
from tuner.runtime.storing import STORE, StoringLoop, may_store, storing_body

aten = torch.ops.aten
ROWS = Sliced(0, 1)


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


class AsItIs(Compiler):
    """Cuts code into pieces, and runs them without a compiler."""

    def _compile(self, piece: Piece, tensors: Sequence[torch.Tensor]) -> Any:
        return piece.module, None


def storing_loops(module: nn.Module) -> list[StoringLoop]:
    return [child for child in module.modules() if isinstance(child, StoringLoop)]


NAMES = [
    ("gpt2", "eager", 2), ("gpt2", "sdpa", 2), ("vit", "sdpa", 2), ("llama", "eager", 1),
    ("bert", "eager", 1),
]  # fmt: skip


@pytest.mark.parametrize(("name", "attention", "layers"), NAMES)
def test_plans_of_models_give_the_very_same(
    tiny: Callable[..., Tiny], name: str, attention: str, layers: int
) -> None:
    subject = tiny(name, attention, layers)
    space = SearchSpace(subject.memory, find_classes(subject.memory, EVERYTHING))
    draw = random.Random(5)
    plans: list[tuple[Choice, ...]] = [
        (Choice(item.regions, max(1, item.extent // 3)),) for item in space.classes
    ]
    for _ in range(12):
        picked = draw.sample(space.classes, min(len(space.classes), draw.randint(2, 12)))
        sizes = {item.key: draw.choice(chunk_sizes(item.extent) or (1,)) for item in picked}
        plans.append(space.decode(sizes).choices)
    donated = 0
    for choices in plans:
        module = subject.module(choices)
        made = AsItIs(CompileOptions(stretches=False)).with_compiled(module)
        loops = storing_loops(made)
        assert loops or not choices
        donated += sum(output.donor is not None for loop in loops for output in loop.outputs)
        for found, expected in zip(made(*subject.args), module(*subject.args), strict=True):
            assert torch.equal(found, expected), choices
            assert found.stride() == expected.stride()
    assert donated


def body_of(
    write: Callable[[fx.Graph, dict[str, fx.Node]], Sequence[fx.Node]], *inputs: str
) -> fx.GraphModule:
    """A body of these inputs, which ``write`` makes the outputs from."""
    graph = fx.Graph()
    given = {name: graph.placeholder(name) for name in (*inputs, "start", "length")}
    graph.output(tuple(write(graph, given)))
    return fx.GraphModule(nn.ModuleDict({"between": nn.Identity()}), graph, "Body")


def rows(tensor: torch.Tensor, donor: int | None = None) -> Output:
    return Output(tuple(tensor.shape), tensor.stride(), ROWS, tensor.dtype, tensor.device, donor)


def both(
    body: fx.GraphModule, size: int, outputs: tuple[Output, ...], *tensors: torch.Tensor
) -> tuple[Any, Any]:
    """What a plain loop gives, and what a storing one does; each may write over its tensors."""
    cuts = tuple(ROWS for _ in tensors)
    plain = ChunkLoop(body, tensors[0].shape[0], size, cuts, outputs)
    loop = StoringLoop(plain, storing_body(body, [one.donor for one in outputs]), None)
    return plain(*(one.clone() for one in tensors)), loop(*(one.clone() for one in tensors))


@pytest.mark.parametrize(
    "named", ["itself", "by a view", "by a cast that does nothing", "by a part"]
)
def test_a_donor_is_written_when_it_is_read_no_more(named: str) -> None:
    """Of two outputs the first is written over the input that the second still reads."""

    def write(graph: fx.Graph, given: dict[str, fx.Node]) -> list[fx.Node]:
        x = other = given["x"]
        if named == "by a view":
            other = graph.call_function(aten.transpose.int, (x, 0, 1))
        elif named == "by a cast that does nothing":
            other = graph.call_function(aten.to.dtype, (x, torch.float32))
        elif named == "by a part":
            parts = graph.call_function(aten.unsafe_split.Tensor, (x, 3, -1))
            other = graph.call_function(operator.getitem, (parts, 0))
        first = graph.call_function(aten.relu.default, (x,))
        second = graph.call_function(aten.mul.Tensor, (other, 2.0))
        if named == "by a view":
            second = graph.call_function(aten.transpose.int, (second, 0, 1))
        return [first, second]

    x = torch.randn(7, 3)
    expected, found = both(body_of(write, "x"), 3, (rows(x, donor=0), rows(x)), x)
    assert torch.equal(found[0], x.relu()) and torch.equal(expected[0], x.relu())
    assert torch.equal(found[1], 2 * x) and torch.equal(expected[1], 2 * x)


def test_an_output_that_is_the_donor_itself_is_kept_before_it_is_written() -> None:
    def write(graph: fx.Graph, given: dict[str, fx.Node]) -> list[fx.Node]:
        x = given["x"]
        return [graph.call_function(aten.neg.default, (x,)),
                graph.call_function(aten.view.default, (x, [-1, 3]))]  # fmt: skip

    x = torch.randn(8, 3)
    _, found = both(body_of(write, "x"), 3, (rows(x, donor=0), rows(x)), x)
    assert torch.equal(found[0], -x) and torch.equal(found[1], x)


def test_a_donor_that_lies_otherwise_gives_what_was_told() -> None:
    def write(graph: fx.Graph, given: dict[str, fx.Node]) -> list[fx.Node]:
        return [graph.call_function(aten.neg.default, (given["x"],))]

    x = torch.randn(3, 7).t()
    told = Output((7, 3), (3, 1), ROWS, torch.float32, x.device, 0)
    for found in both(body_of(write, "x"), 3, (told,), x):
        assert torch.equal(found, -x) and found.stride() == (3, 1)


def test_an_input_may_be_an_output_and_names_may_be_taken() -> None:
    def write(graph: fx.Graph, given: dict[str, fx.Node]) -> list[fx.Node]:
        return [given["output_0"], graph.call_function(aten.neg.default, (given["output_0"],))]

    x = torch.randn(5, 2)
    for found in both(body_of(write, "output_0"), 2, (rows(x), rows(x)), x):
        assert torch.equal(found[0], x) and torch.equal(found[1], -x)


def feed_forward(graph: fx.Graph, given: dict[str, fx.Node]) -> list[fx.Node]:
    """x + tanh(relu(x w)), whose last kernel can write the output."""
    made = graph.call_function(aten.mm.default, (given["x"], given["w"]))
    for op in (aten.relu.default, aten.tanh.default):
        made = graph.call_function(op, (made,))
    return [graph.call_function(aten.add.Tensor, (given["x"], made))]


@pytest.mark.parametrize("donor", [None, 0])
def test_a_compiled_kernel_writes_the_output(donor: int | None) -> None:
    """No result of a pass exists beside the product: the kernel behind it writes the output."""
    x, w = torch.randn(4096, 64), torch.randn(64, 64) / 8
    body = body_of(feed_forward, "x", "w")
    plain = ChunkLoop(body, 4096, 1024, (ROWS, None), (rows(x, donor),))
    root = fx.Graph()
    root.output((root.call_module("loop", (root.placeholder("x"), root.placeholder("w"))),))
    module = fx.GraphModule(nn.ModuleDict({"loop": plain}), root)
    compiler = Compiler()
    made = compiler.with_compiled(module)
    (loop,) = storing_loops(made)
    assert [piece for piece in loop.body.children() if isinstance(piece, CompiledPiece)]
    for _ in range(2):  # the first call compiles and compares
        found = made(x.clone(), w)[0]
        torch.testing.assert_close(found, x + (x @ w).relu().tanh(), rtol=1e-5, atol=1e-5)
    assert compiler.report.compiled == 1 and not compiler.report.failure
    given = x.clone()
    _, peak = CpuBackend().peak(lambda: made(given, w))
    one_pass = x.nbytes // 4
    assert peak.requested_bytes == one_pass + (x.nbytes if donor is None else 0)


@pytest.mark.parametrize("failing", [False, True])
@pytest.mark.parametrize("donor", [None, 0])
def test_what_a_wrong_kernel_has_written_is_put_right(
    donor: int | None,
    failing: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Artifact:
        """Writes what it should, and then something else, or fails."""

        def __init__(self, module: fx.GraphModule) -> None:
            self.module = module

        def __call__(self, tensors: list[torch.Tensor]) -> Any:
            room = tensors[0 if donor == 0 else -1]
            made = self.module(tensors)
            room.add_(1.0)
            if failing:
                raise RuntimeError("a kernel cannot be launched")
            return made

    monkeypatch.setattr(
        "torch._inductor.standalone_compile", lambda module, *args, **options: Artifact(module)
    )
    x, w = torch.randn(10, 4), torch.randn(4, 4)
    body = body_of(feed_forward, "x", "w")
    plain = ChunkLoop(body, 10, 5, (ROWS, None), (rows(x, donor),))
    root = fx.Graph()
    root.output((root.call_module("loop", (root.placeholder("x"), root.placeholder("w"))),))
    made = Compiler().with_compiled(fx.GraphModule(nn.ModuleDict({"loop": plain}), root))
    for _ in range(2):
        torch.testing.assert_close(made(x.clone(), w)[0], x + (x @ w).relu().tanh())
    told = "nothing is compiled" if failing else "is not used"
    assert [one for one in caplog.records if told in one.message]


@pytest.mark.parametrize("named", ["a view", "a part"])
def test_a_compiler_is_given_what_is_written_over_under_one_name(named: str) -> None:
    """A view of the donor is made before an op that is not compiled, and read behind it."""

    def write(graph: fx.Graph, given: dict[str, fx.Node]) -> list[fx.Node]:
        x, w = given["x"], given["w"]
        if named == "a view":
            view = graph.call_function(aten.view.default, (x, [-1, 8]))
        else:
            parts = graph.call_function(aten.unsafe_split.Tensor, (x, 8, -1))
            view = graph.call_function(operator.getitem, (parts, 0))
        made = graph.call_function(aten.mm.default, (view, w))
        made = graph.call_function(aten.tanh.default, (made,))
        made = graph.call_module("between", (made,))  # no piece goes on across it
        made = graph.call_function(aten.mm.default, (made, w))
        made = graph.call_function(aten.relu.default, (made,))
        made = graph.call_function(aten.add.Tensor, (view, made))
        if named == "a part":
            return [graph.call_function(aten.cat.default, ([made, made], -1))]
        return [graph.call_function(aten.view.default, (made, [-1, 8]))]

    columns = 8 if named == "a view" else 16
    x, w = torch.randn(12, columns), torch.randn(8, 8) / 3
    body = body_of(write, "x", "w")
    plain = ChunkLoop(body, 12, 4, (ROWS, None), (rows(x, 0),))
    root = fx.Graph()
    root.output((root.call_module("loop", (root.placeholder("x"), root.placeholder("w"))),))
    module = fx.GraphModule(nn.ModuleDict({"loop": plain}), root)
    compiler = Compiler()
    made = compiler.with_compiled(module)
    expected = module(x.clone(), w)[0]
    for _ in range(2):
        torch.testing.assert_close(made(x.clone(), w)[0], expected, rtol=1e-5, atol=1e-5)
    # (the store, which is apart, leaves what is before it and behind it compiled)
    assert compiler.report.compiled == 2 and not compiler.report.failure


def test_a_piece_that_is_given_one_tensor_twice_is_not_compiled() -> None:
    graph = fx.Graph()
    room, other = graph.placeholder("room"), graph.placeholder("other")
    negative = graph.call_function(aten.neg.default, (other,))
    graph.call_function(STORE, (room, graph.call_function(aten.relu.default, (negative,))))
    graph.output(())
    compiler = Compiler()
    module = compiler.with_compiled(fx.GraphModule(nn.Module(), graph))
    x, y = torch.randn(100), torch.randn(100)
    module(x, y)
    assert torch.equal(x, (-y).relu()) and compiler.report.compiled == 1
    long = torch.randn(101)
    expected = (-long[:-1]).relu()
    fresh = compiler.with_compiled(fx.GraphModule(nn.Module(), graph))
    fresh(long[1:], long[:-1])  # as long, but each element is read after it was written over
    assert torch.equal(long[1:], expected) and compiler.report.compiled == 1


def test_a_weight_that_was_cast_runs_as_it_is() -> None:
    """Compiled code takes dtypes for granted."""
    x, w = torch.randn(8, 4), torch.randn(4, 4)
    plain = ChunkLoop(body_of(feed_forward, "x", "w"), 8, 4, (ROWS, None), (rows(x),))
    root = fx.Graph()
    root.output((root.call_module("loop", (root.placeholder("x"), root.placeholder("w"))),))
    made = Compiler().with_compiled(fx.GraphModule(nn.ModuleDict({"loop": plain}), root))
    made(x, w)
    found = made(x.double(), w.double())[0]
    torch.testing.assert_close(found, (x + (x @ w).relu().tanh()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("device", "size", "columns", "stores"),
    [("cuda", 4, 4, True), ("cuda", 4, 3, True), ("cuda", 3, 4, True), ("cuda", 3, 3, False),
     ("cpu", 3, 3, True)],
)  # fmt: skip
def test_slices_that_a_gpu_would_copy_are_copied_by_the_loop(
    device: str, size: int, columns: int, stores: bool
) -> None:
    output = Output((12, columns), (columns, 1), ROWS, torch.float32, torch.device(device))
    plain = ChunkLoop(body_of(feed_forward, "x", "w"), 12, size, (ROWS, None), (output,))
    assert may_store(plain) is stores
    root = fx.Graph()
    root.output((root.call_module("loop", (root.placeholder("x"), root.placeholder("w"))),))
    made = AsItIs().with_compiled(fx.GraphModule(nn.ModuleDict({"loop": plain}), root))
    assert bool(storing_loops(made)) is stores
    pieces = [one for one in made.modules() if isinstance(one, CompiledPiece)]
    assert pieces, "the body is compiled all the same"


def test_stores_stand_behind_what_they_store() -> None:
    body = storing_body(body_of(feed_forward, "x", "w"), [None])
    names = [node.name for node in body.graph.nodes if node.op == "placeholder"]
    assert names == ["x", "w", "output_0", "start", "length"]
    last = list(body.graph.nodes)[-2]
    assert last.target is STORE and "copy_" in body.code
