"""Sizes: integers, or expressions over a graph's symbols.

A captured graph is valid at many lengths, so that its sizes are expressions such as
``(n0 // 16) ** 2 + 1``. They are kept as text in Python's syntax: comparable, printable, hashable,
and free of any symbolic-algebra library.

>>> evaluate(Expr("(n0 // 16) ** 2 + 1"), {"n0": 384})
577
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import CodeType

from search_space.errors import CaptureError

Number = int | float | bool


@dataclass(frozen=True, slots=True)
class Expr:
    """An arithmetic expression over size symbols, in Python's syntax."""

    text: str

    def __str__(self) -> str:
        return self.text


Size = int | Expr


def _is_integer(value: float) -> bool:
    return float(value).is_integer()


# The functions that torch's printer of symbolic sizes may emit.
_FUNCTIONS: dict[str, Callable[..., Number]] = {
    "max": max,
    "min": min,
    "abs": abs,
    "int": int,
    "float": float,
    "bool": bool,
    "round": round,
    "sqrt": math.sqrt,
    "ceil": math.ceil,
    "floor": math.floor,
    "trunc": math.trunc,
    "is_integer": _is_integer,
    "pow": pow,
    "log": math.log,
    "log2": math.log2,
    "exp": math.exp,
}

_NODES = (
    ast.Expression, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.IfExp, ast.Call, ast.Name,
    ast.Load, ast.Constant, ast.Attribute, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv,
    ast.Mod, ast.Pow, ast.USub, ast.UAdd, ast.Not, ast.And, ast.Or, ast.Eq, ast.NotEq, ast.Lt,
    ast.LtE, ast.Gt, ast.GtE,
)  # fmt: skip


class _Flatten(ast.NodeTransformer):
    """``math.sqrt`` and ``sqrt`` are the same function, ``torch.sym_float`` is ``float``."""

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        if isinstance(node.value, ast.Name) and node.value.id == "torch":
            plain = node.attr.removeprefix("sym_")
            return ast.copy_location(ast.Name(id=plain, ctx=ast.Load()), node)
        if isinstance(node.value, ast.Name) and node.value.id == "math":
            return ast.copy_location(ast.Name(id=node.attr, ctx=ast.Load()), node)
        raise CaptureError(f"size expression uses the attribute {node.attr!r}, which is not known")


@lru_cache(maxsize=65536)
def _compiled(text: str) -> tuple[CodeType, frozenset[str]]:
    try:
        tree = _Flatten().visit(ast.parse(text, mode="eval"))
    except SyntaxError as error:
        raise CaptureError(f"size expression {text!r} is not valid: {error.msg}") from error
    called = {id(n.func) for n in ast.walk(tree) if isinstance(n, ast.Call)}
    names: set[str] = set()
    for node in ast.walk(tree):
        if not isinstance(node, _NODES):
            raise CaptureError(
                f"size expression {text!r} uses {type(node).__name__}, which is not known"
            )
        if isinstance(node, ast.Name):
            if id(node) in called:
                if node.id not in _FUNCTIONS:
                    raise CaptureError(
                        f"size expression {text!r} calls {node.id!r}, which is not known"
                    )
            else:
                names.add(node.id)
    return compile(ast.fix_missing_locations(tree), "<size>", "eval"), frozenset(names)


def symbols_of(size: Size) -> frozenset[str]:
    """The symbols that a size mentions."""
    return frozenset() if isinstance(size, int) else _compiled(size.text)[1]


def evaluate(size: Size | float | bool, bindings: Mapping[str, int]) -> Number:
    """The value of a size where each symbol has the given value.

    Raises:
        CaptureError: a symbol has no value, or the expression is not understood.
    """
    if not isinstance(size, Expr):
        return size
    code, names = _compiled(size.text)
    missing = names - bindings.keys()
    if missing:
        raise CaptureError(f"size {size.text!r} needs a value for {', '.join(sorted(missing))}")
    try:
        value: Number = eval(code, {"__builtins__": {}, **_FUNCTIONS}, dict(bindings))
    except ZeroDivisionError as error:
        raise CaptureError(f"size {size.text!r} divides by zero at {dict(bindings)}") from error
    return value
