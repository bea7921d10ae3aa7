"""Capture: a model and example inputs become a :class:`~search_space.graph.Graph`.

``torch.export`` traces the model once with every dimension of every tensor input left symbolic, so
that one graph serves all lengths that its guards allow. The inference IR is functional and keeps
``linear``, ``layer_norm``, ``scaled_dot_product_attention`` and convolutions whole. What follows is
a list of passes (:data:`PASSES`), each from rows to rows, that remove what would only hinder
analysis; the rows then become plain data.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import operator
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils import _pytree as pytree
from torch.utils._sympy.printers import PythonPrinter

from search_space.capture_passes import PASSES, Rows
from search_space.capture_traits import traits_of
from search_space.errors import CaptureError
from search_space.forgotten import caches_forgotten
from search_space.graph import (
    BUFFER,
    CONSTANT,
    INPUT,
    OP,
    PARAMETER,
    Argument,
    Graph,
    Node,
    Ref,
    TensorMeta,
)
from search_space.sizes import Expr, Size
from search_space.torch_ops import torch_constant


@dataclass(frozen=True)
class Capture:
    """A captured model.

    Attributes:
        graph: the model as plain data.
        constants: tensors that the trace created, by the name of their CONSTANT node.
        tensor_places: which of a call's flattened leaves are the graph's inputs.
        leaves: the other leaves, as they were at capture; a call must give equal ones.
        in_spec, out_spec: tree structures of ``(args, kwargs)`` and of the output.
    """

    graph: Graph
    constants: Mapping[str, torch.Tensor]
    tensor_places: tuple[int, ...]
    leaves: tuple[Any, ...]
    in_spec: pytree.TreeSpec
    out_spec: pytree.TreeSpec


class _Output:
    """Holds the output's structure, since the exporter undoes what forward sets on the module."""

    spec: pytree.TreeSpec


class _Flat(torch.nn.Module):
    """Calls a model with flat tensors and returns the flat output."""

    def __init__(
        self,
        model: torch.nn.Module,
        leaves: list[Any],
        places: tuple[int, ...],
        spec: pytree.TreeSpec,
    ) -> None:
        super().__init__()
        self.model = model
        self._leaves = leaves
        self._places = places
        self._spec = spec
        self.output = _Output()

    def forward(self, *tensors: torch.Tensor) -> tuple[Any, ...]:
        leaves = list(self._leaves)
        for place, tensor in zip(self._places, tensors, strict=True):
            leaves[place] = tensor
        args, kwargs = pytree.tree_unflatten(leaves, self._spec)
        flat, out_spec = flatten_output(self.model(*args, **kwargs))
        self.output.spec = out_spec
        return tuple(flat)


def flatten_output(output: Any) -> tuple[list[Any], pytree.TreeSpec]:
    """An output's leaves and structure; plain dataclasses are registered on first sight."""
    if (
        dataclasses.is_dataclass(output)
        and not isinstance(output, type)
        and type(output) not in pytree.SUPPORTED_NODES
    ):
        pytree.register_dataclass(type(output))
    return pytree.tree_flatten(output)


def capture(
    model: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None
) -> Capture:
    """Capture ``model`` as called with these example inputs.

    Sizes 0 and 1 of the example are taken as fixed; all others stay symbolic where the model
    allows it. The model must be in evaluation mode.

    Raises:
        CaptureError: the model cannot be captured; the message says why.
    """
    _check_model(model)
    leaves, in_spec = pytree.tree_flatten((tuple(args), dict(kwargs or {})))
    places = tuple(i for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor))
    if not places:
        raise CaptureError("the example inputs hold no tensor; pass the model's real inputs")
    # a tensor that is given twice, or that is one of the model's weights, would be traced as one
    tensors = tuple(leaves[i].detach() for i in places)
    flat = _Flat(model, leaves, places, in_spec)
    program, fresh = _export(flat, tensors)
    rows, outputs, symbols, guards = _convert(program, tensors, fresh)
    for change in PASSES:
        rows, outputs = change(rows, outputs)
    device = next((t.device.type for t in tensors), "cpu")
    parameter = next(model.parameters(), None)
    if parameter is not None:
        device = parameter.device.type
    graph = Graph(rows, outputs, symbols, guards, device)
    used = {node.op for node in rows if node.kind == CONSTANT}
    constants = {name: t for name, t in program.constants.items() if name in used}
    others = tuple(None if i in set(places) else leaf for i, leaf in enumerate(leaves))
    return Capture(graph, constants, places, others, in_spec, flat.output.spec)


def _check_model(model: torch.nn.Module) -> None:
    if model.training:
        raise CaptureError("the model is in training mode; call model.eval() first")
    for name, module in model.named_modules():
        if hasattr(module, "_hf_hook"):
            raise CaptureError(
                f"module {name or '(root)'!r} carries an accelerate hook, which a captured graph "
                "would silently drop; load the model without device_map, or remove the hooks with "
                "accelerate.hooks.remove_hook_from_module(model, recurse=True)"
            )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on sizes 0 and 1, which are fixed on purpose."""
    logger = logging.getLogger("torch._export.non_strict_utils")
    before = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = before


def _export(flat: _Flat, tensors: tuple[torch.Tensor, ...]) -> tuple[Any, frozenset[str]]:
    """The program, and those of its constants that the model makes anew at each call."""
    auto = torch.export.Dim.AUTO
    shapes = (tuple(dict.fromkeys(range(t.dim()), auto) for t in tensors),)
    taken_apart = dict(_taken_apart())  # (here, since what is cached while tracing is forgotten)
    try:
        with torch.no_grad(), warnings.catch_warnings(), _quiet(), caches_forgotten():
            warnings.simplefilter("ignore")
            program = torch.export.export(flat, tensors, strict=False, dynamic_shapes=shapes)
            # (checks that the exporter writes for named inputs, and takes amiss for numbered ones
            # where two have a size in common; ours are read off the shape environment)
            program._guards_code = []
            fresh = _made_anew(program)
            program = program.run_decompositions(taken_apart)
    except Exception as error:  # whatever the model's own code raises while traced
        reason = str(error).strip().splitlines()
        raise CaptureError(
            f"torch.export could not trace the model: {type(error).__name__}: "
            f"{reason[0] if reason else 'no message'}. If the model as it is refuses these inputs "
            "too, correct them; else use it unchanged, or capture the submodules that hold its "
            "long loops"
        ) from error
    signature = program.graph_signature
    changed = [one.target for one in signature.output_specs if one.kind.name.endswith("_MUTATION")]
    if changed:
        raise CaptureError(
            f"the model changes {', '.join(map(repr, changed[:3]))} in place while it runs; such a "
            "model cannot be captured. Turn the cache or running statistics off; where it does so "
            "at its first call alone, call it once before"
        )
    return program, fresh


def _made_anew(program: Any) -> frozenset[str]:
    """Constants that stand in the model's code, such as ``torch.tensor(0.0)``. All others are
    tensors that somebody holds, and may write to."""
    names = program.graph_signature.inputs_to_lifted_tensor_constants
    lift = torch.ops.aten.lift_fresh_copy.default
    return frozenset(
        names[node.name] for node in program.graph.nodes
        if node.name in names and all(user.target is lift for user in node.users)
    )  # fmt: skip


@functools.cache
def _taken_apart() -> Mapping[Any, Any]:
    """Ops that the exporter replaces by what they consist of: einsum, into the views and the
    product that it runs as, since how its arguments lie in memory decides what it copies."""
    known = torch.export.default_decompositions()
    return {op: known[op] for op in (torch.ops.aten.einsum.default,) if op in known}


class _Symbols:
    """Prints symbolic sizes as Python text with symbols named n0, n1, ... by first appearance."""

    def __init__(self) -> None:
        self.names: dict[Any, str] = {}
        self.env: Any = None
        self._printer = PythonPrinter()
        self._texts: dict[Any, str] = {}

    def meet(self, size: int | torch.SymInt) -> None:
        """Give names to the symbols of an input's dimension."""
        if isinstance(size, int):
            return
        self.env = size.node.shape_env
        for symbol in sorted(size.node.expr.free_symbols, key=str):
            self.names.setdefault(symbol, f"n{len(self.names)}")

    def text(self, expression: Any) -> str:
        if expression not in self._texts:
            unknown = [s for s in expression.free_symbols if s not in self.names]
            if unknown:
                raise CaptureError(
                    f"a size depends on the data ({', '.join(map(str, unknown))}), for instance "
                    "through nonzero or item(); such a model cannot be analysed whole"
                )
            import sympy

            renamed = expression.xreplace(
                {s: sympy.Symbol(n, integer=True, positive=True) for s, n in self.names.items()}
            )
            self._texts[expression] = self._printer.doprint(renamed)
        return self._texts[expression]

    def size(self, value: Any) -> Size:
        if isinstance(value, int):
            return int(value)
        expression = value.node.expr
        return int(expression) if expression.is_Integer else Expr(self.text(expression))

    def scalar(self, value: Any) -> Argument:
        if isinstance(value, torch.SymInt):
            return self.size(value)
        expression = value.node.expr
        if expression.is_number:
            return bool(expression) if isinstance(value, torch.SymBool) else float(expression)
        return Expr(self.text(expression))

    def guards(self) -> tuple[Expr, ...]:
        """What the trace assumed of the symbols."""
        if self.env is None:
            return ()
        found: dict[str, None] = {}
        for symbol, name in self.names.items():
            bounds = self.env.var_to_range.get(symbol)
            lower = 2 if bounds is None or not bounds.lower.is_Integer else int(bounds.lower)
            found[f"{name} >= {max(lower, 2)}"] = None
            if bounds is not None and bounds.upper.is_Integer and int(bounds.upper) < 2**31:
                found[f"{name} <= {int(bounds.upper)}"] = None
        for guard in self.env.guards:
            expression = self.env.replace(guard.expr)
            if expression in (True, False) or not expression.free_symbols:
                continue
            if all(s in self.names for s in expression.free_symbols):
                found[self.text(expression)] = None
        return tuple(Expr(text) for text in found)


_STRIPPED = frozenset({
    "aten._assert_tensor_metadata.default", "aten._assert_scalar.default",
    "aten.sym_constrain_range.default", "aten.sym_constrain_range_for_size.default",
    "aten._assert_async.msg",
})  # fmt: skip


def _number_of(constant: torch.Tensor) -> tuple[Argument, ...]:
    """The number of a constant without dimensions; nothing of one that the trace only imitates."""
    if isinstance(constant, FakeTensor) or constant.dim() or constant.is_complex():
        return ()
    return (constant.item(),)


def _convert(
    program: Any, tensors: tuple[torch.Tensor, ...], fresh: frozenset[str]
) -> tuple[Rows, tuple[Argument, ...], tuple[str, ...], tuple[Expr, ...]]:
    signature = program.graph_signature
    kinds = {
        **{name: (PARAMETER, fqn) for name, fqn in signature.inputs_to_parameters.items()},
        **{name: (BUFFER, fqn) for name, fqn in signature.inputs_to_buffers.items()},
        **{
            name: (CONSTANT, target)
            for name, target in signature.inputs_to_lifted_tensor_constants.items()
        },
    }
    symbols = _Symbols()
    placeholders = [n for n in program.graph.nodes if n.op == "placeholder"]
    for node in placeholders:
        if node.name not in kinds and isinstance(node.meta.get("val"), torch.Tensor):
            for size in node.meta["val"].shape:
                symbols.meet(size)
    rows: list[Node] = []
    values: dict[Any, Argument] = {}
    outputs: tuple[Argument, ...] = ()

    def plain(value: Any) -> Argument:
        if isinstance(value, torch.fx.Node):
            return values[value]
        if isinstance(value, (list, tuple)):
            return tuple(plain(item) for item in value)
        if isinstance(value, slice):
            raise CaptureError("the graph holds a Python slice, which is not understood")
        return _plain_constant(value, symbols)

    for node in program.graph.nodes:
        value = node.meta.get("val")
        if node.op == "output":
            outputs = tuple(plain(item) for item in node.args[0])
            continue
        if isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
            values[node] = symbols.scalar(value)
            continue
        name = _full_name(node.target) if node.op == "call_function" else ""
        if name in _STRIPPED or (node.op == "call_function" and value is None and not node.users):
            continue
        if node.op == "placeholder" and not isinstance(value, torch.Tensor):
            values[node] = _plain_constant(value, symbols)
            continue
        index = len(rows)
        if node.op == "placeholder":
            kind, fqn = kinds.get(node.name, (INPUT, node.name))
            fqn = fqn.removeprefix("model.") if kind in (PARAMETER, BUFFER) else fqn
            told: tuple[Argument, ...] = ()
            if kind == CONSTANT and fqn in fresh:
                told = _number_of(program.constants[fqn])
            rows.append(Node(index, node.name, kind, fqn, told, outputs=(_meta(value, symbols),)))
        elif node.op == "call_function":
            rows.append(_op_row(index, node, name, value, plain, symbols))
        else:
            raise CaptureError(f"the graph holds a {node.op} node ({node.name}), not understood")
        values[node] = Ref(index)
    return tuple(rows), outputs, tuple(symbols.names.values()), symbols.guards()


def _op_row(
    index: int,
    node: torch.fx.Node,
    name: str,
    value: Any,
    plain: Callable[[Any], Argument],
    symbols: _Symbols,
) -> Node:
    if not isinstance(node.target, torch._ops.OpOverload) and node.target is not operator.getitem:
        raise CaptureError(
            f"the graph holds {node.target!s}, a nested program, which is not understood"
        )
    several = isinstance(value, (list, tuple))
    parts = value if several else (value,)
    if not all(isinstance(part, torch.Tensor) for part in parts):
        parts = [part for part in parts if isinstance(part, torch.Tensor)]
        if not parts:
            raise CaptureError(f"{node.name} ({name}) gives no tensor, which is not understood")
    return Node(
        index,
        node.name,
        OP,
        name,
        tuple(plain(item) for item in node.args),
        tuple((key, plain(item)) for key, item in node.kwargs.items()),
        tuple(_meta(part, symbols) for part in parts),
        several,
        traits_of(node.target, name, value, node),
        _module_path(node),
    )


def _full_name(target: Any) -> str:
    if target is operator.getitem:
        return "getitem"
    return str(target)


def _module_path(node: torch.fx.Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    path = list(stack.values())[-1][0] if stack else ""
    path = str(path).replace("L['self'].", "").removeprefix("model.")
    return "" if path == "model" else path


def _meta(value: torch.Tensor, symbols: _Symbols) -> TensorMeta:
    if value.layout != torch.strided:
        raise CaptureError(f"the graph holds a {value.layout} tensor; only dense ones are known")
    return TensorMeta(
        tuple(symbols.size(s) for s in value.shape),
        tuple(symbols.size(s) for s in value.stride()),
        str(value.dtype).removeprefix("torch."),
        str(value.device),
    )


def _plain_constant(value: Any, symbols: _Symbols) -> Argument:
    if value is None or isinstance(value, (bool, int, float, complex, str)):
        return value
    if isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
        return symbols.scalar(value)
    found = torch_constant(value)
    if found is not None:
        return found
    raise CaptureError(f"the graph holds an argument of type {type(value).__name__}: {value!r}")
