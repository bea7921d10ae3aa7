"""Compiled bodies and stretches: what runs between two loops, and in one pass of a loop.

Inductor gets straight pieces of the generated code, each at its fixed sizes, with weights passed in
like all else; the loops themselves stay Python, so that nothing is fused across passes and the
saving is kept. A piece is compiled when it first runs, once for all that are alike, through
Inductor's own cache on disk. What cannot be compiled at fixed sizes stays as it is: ops whose sizes
depend on where a pass begins. So do ragged last passes that have little to do.

Where there is no working compiler, one message says so and the pieces run uncompiled.
"""

from __future__ import annotations

import logging
import operator
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx

from tuner.compile_options import CompileOptions
from tuner.runtime.graph_modules import copied, with_graph
from tuner.runtime.loop import ChunkLoop
from tuner.runtime.pieces import Order, Piece
from tuner.runtime.storing import StoringLoop, may_store, storing_body
from tuner.runtime.truths import numbered, taking_truths, truths, with_numbers

log = logging.getLogger("autochunk")

_Callable = Callable[[list[torch.Tensor]], Any]
"""Takes a list of tensors, which it may empty, and gives a sequence of tensors."""

_Tensors = tuple[torch.Tensor, ...]

Donors = tuple[int | None, ...]
"""Per output of a loop, the place of the input whose storage it takes."""

_LEAST_TAIL = 0.1
"""A ragged last pass is compiled, for its own length, where it does at least this share of a loop's
work: of two nearly equal passes the second is half of it."""

_TOLERANCE = {torch.bfloat16: 3e-2, torch.float16: 4e-3}
"""How far a compiled piece may be off, as a share of the largest value; 1e-4 by default."""


@dataclass
class CompileReport:
    """What compiling came to: pieces, those compiled anew (others were alike), and the time."""

    pieces: int = 0
    compiled: int = 0
    seconds: float = 0.0
    failure: str = ""


class Compiler:
    """Compiles pieces, each distinct one once; shared by all modules of one model."""

    def __init__(self, options: CompileOptions | None = None) -> None:
        self.options = options or CompileOptions()
        self.report = CompileReport()
        self._made: dict[object, _Callable] = {}

    def with_compiled(
        self, module: fx.GraphModule, options: CompileOptions | None = None
    ) -> fx.GraphModule:
        """A generated module in which pieces run compiled. The given one stays as it is.

        Args:
            options: what is compiled, where that is not all that :attr:`options` ask for.
        """
        options = options or self.options
        made = self._pieces(module, {}) if options.stretches else copied(module)
        if options.bodies:
            self._loops(made, {})
        return made

    def compiled_loop(self, loop: ChunkLoop) -> torch.nn.Module:
        """A loop by itself with a compiled body, which takes what the loop takes."""
        graph = fx.Graph()
        given = tuple(graph.placeholder(f"input_{place}") for place in range(len(loop.inputs)))
        graph.output(graph.call_module("loop", given))
        alone = fx.GraphModule({"loop": loop}, graph)
        return self.with_compiled(alone, replace(self.options, bodies=True, stretches=False))

    def _loops(self, module: fx.GraphModule, known: dict[object, fx.GraphModule]) -> None:
        """Exchange a module's loops, but those that are to stay as they are, for ones with compiled
        bodies, which write their outputs where they may; loops that share a body go on sharing it.

        Args:
            known: bodies made before.
        """

        def storing(body: fx.GraphModule, donors: Donors | None) -> fx.GraphModule:
            """The body itself, where it is not to write its outputs."""
            if donors is None:
                return body
            key = id(body), donors
            if key not in known:
                known[key] = storing_body(body, donors)
            return known[key]

        def compiled(body: fx.GraphModule, donors: Donors | None, length: int) -> fx.GraphModule:
            """For passes of that length."""
            key = id(body), donors, length
            if key not in known:
                known[key] = self._pieces(storing(body, donors), {"length": length})
                self._loops(known[key], known)
            return known[key]

        for name, loop in list(module.named_children()):
            if not isinstance(loop, ChunkLoop) or not loop.compiles:
                continue
            stores = may_store(loop)
            donors = tuple(output.donor for output in loop.outputs) if stores else None
            body = compiled(loop.body, donors, loop.chunk_size)
            rest = loop.extent % loop.chunk_size
            tail = (loop.tail or loop.body) if rest else None
            if tail is not None:
                works = rest >= _LEAST_TAIL * loop.extent
                tail = compiled(tail, donors, rest) if works else storing(tail, donors)
            setattr(module, name, StoringLoop(loop, body, tail) if stores else ChunkLoop(
                body, loop.extent, loop.chunk_size, loop.inputs, loop.outputs, tail
            ))  # fmt: skip

    def _pieces(self, module: fx.GraphModule, known: Mapping[str, int]) -> fx.GraphModule:
        """The module with its straight pieces as modules that are compiled.

        Args:
            known: for a body, those of its numbers that are the same in every full pass.
        """
        order = Order(module.graph, known)
        made = fx.Graph()
        values: dict[fx.Node, Any] = dict(order.fixed)
        pieces: dict[str, CompiledPiece] = {}
        for group in order.groups():
            if len(group) == 1 and not order.is_worth_compiling(group):
                (node,) = group
                if node.op == "output":
                    made.output(fx.node.map_arg(node.args[0], lambda n: values[n]))
                else:
                    values[node] = made.node_copy(node, lambda n: values[n])
                continue
            name = f"compiled_{len(pieces)}"
            piece = Piece.of(group, order.fixed)
            pieces[name] = CompiledPiece(piece, self)
            # in a list that the piece empties, so that each tensor goes after its last use and none
            # is held to the piece's end
            handed = made.call_function(in_a_list, tuple(values[node] for node in piece.inputs))
            given = made.call_module(name, (handed,))
            for place, node in enumerate(piece.outputs):
                values[node] = made.call_function(operator.getitem, (given, place))
        self.report.pieces += len(pieces)
        return with_graph(module, made, pieces)

    def compile(
        self, piece: Piece, tensors: Sequence[torch.Tensor]
    ) -> tuple[_Callable, _Tensors | None]:
        """A piece compiled for tensors like these, or the piece itself where that fails; and its
        outputs, where comparing the two has made them (what it writes is then written)."""
        if _is_entangled(piece, tensors):  # (its structure tells, unless a view is taken for none)
            return piece.module, None
        layouts = tuple((t.shape, t.stride(), t.dtype, t.device) for t in tensors)
        key = (piece.structure, layouts)
        if key in self._made:
            return self._made[key], None
        run: _Callable = piece.module
        outputs = None
        if not self.report.failure:
            run, outputs = self._compile(piece, tensors)
        self._made[key] = run
        return run, outputs

    def _compile(
        self, piece: Piece, tensors: Sequence[torch.Tensor]
    ) -> tuple[_Callable, _Tensors | None]:
        from torch._inductor import standalone_compile

        started = time.perf_counter()
        module = piece.module
        written = [tensors[place] for place in piece.written]
        before: list[torch.Tensor] = []
        try:
            places = truths(piece, tensors)
            given: list[Any] = [numbered(list(tensors), places)]  # (one argument)
            with warnings.catch_warnings():  # the compiler's remarks are of no use to users
                warnings.simplefilter("ignore")
                made = standalone_compile(
                    with_numbers(module, places) if places else module, given,
                    dynamic_shapes="from_example_inputs",
                    options={"config_patches": dict(self.options.options)},
                )  # fmt: skip
            made._artifacts = None  # (for saving; it holds all that was compiled before as well)
            run = taking_truths(made, places) if places else made
            before = [tensor.clone() for tensor in written]  # (it may be read first)
            expected = tuple(module(list(tensors)))
            stored = [tensor.clone() for tensor in written]
            _put(before, written)
            found = tuple(run(list(tensors)))
        except torch.OutOfMemoryError:  # no fault of the compiler's
            raise
        except Exception as error:  # whatever a compiler on a user's machine may raise
            reason = str(error).strip().splitlines()
            self.report.failure = (
                f"{type(error).__name__}: {reason[0] if reason else 'no message'}"
            )
            log.warning(
                "autochunk: nothing is compiled, the plan runs as it is: %s. Is a C++ compiler "
                "(on a GPU: Triton) installed? compile=False says that none is wanted",
                self.report.failure,
            )
            _put(before, written[: len(before)])  # the piece runs anew
            return module, None
        finally:
            self.report.seconds += time.perf_counter() - started
        reason_why = _difference((*expected, *stored), (*found, *written))
        if reason_why:
            log.warning("autochunk: a compiled piece is not used: %s", reason_why)
            _put(stored, written)
            return module, expected
        self.report.compiled += 1
        return run, found


def in_a_list(*tensors: torch.Tensor) -> list[torch.Tensor]:
    """Tensors as a list, whose owner may empty it."""
    return list(tensors)


def _is_entangled(piece: Piece, tensors: Sequence[torch.Tensor]) -> bool:
    """Whether a tensor that a piece writes over is given to it under another name too."""
    storages = [tensor.untyped_storage().data_ptr() for tensor in tensors]
    return any(storages[place] and storages.count(storages[place]) > 1 for place in piece.written)


def _put(values: Sequence[torch.Tensor], places: Sequence[torch.Tensor]) -> None:
    for value, place in zip(values, places, strict=True):
        place.copy_(value)


def _difference(
    expected: Sequence[torch.Tensor], found: Sequence[torch.Tensor]
) -> str:
    """What is wrong with a compiled piece's outputs; empty where nothing is."""
    for one, other in zip(expected, found, strict=True):
        if one.shape != other.shape or one.dtype != other.dtype:
            return f"{other.dtype} {tuple(other.shape)}, not {one.dtype} {tuple(one.shape)}"
        if not one.numel():
            continue
        if not one.is_floating_point():
            if not torch.equal(one, other):
                return "other whole numbers or truth values"
            continue
        if torch.equal(one.isnan(), other.isnan()):
            one, other = one.nan_to_num(), other.nan_to_num()
        apart, most = (one - other).abs().max().item(), one.abs().max().item()
        if not apart <= _TOLERANCE.get(one.dtype, 1e-4) * max(most, 1e-6):
            return f"it is off by {apart:.3g} where values reach {most:.3g}"
    return ""


class CompiledPiece(torch.nn.Module):
    """A straight piece of generated code, compiled for the layouts that it first meets."""

    def __init__(self, piece: Piece, compiler: Compiler) -> None:
        super().__init__()
        self.original = piece.module
        self._piece = piece
        self._compiler = compiler
        self._run: _Callable | None = None
        self._forms: tuple[tuple[tuple[int, ...], torch.dtype], ...] = ()

    def forward(self, tensors: list[torch.Tensor]) -> _Tensors:
        """The piece's outputs; ``tensors`` may be empty afterwards."""
        forms = tuple((tensor.stride(), tensor.dtype) for tensor in tensors)
        if self._run is None:
            self._run, outputs = self._compiler.compile(self._piece, tensors)
            self._forms = forms
            if outputs is not None:
                tensors.clear()
                return outputs
        # sizes are those of the generated code, but a caller's tensor may lie otherwise next time,
        # and a weight may have been cast
        run = self._run if forms == self._forms else self.original
        return tuple(run(tensors))
