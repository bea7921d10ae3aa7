"""Which submodules may share one capture.

A trace burns plain attributes (a scale, a window, a layer's number) into the graph, while weights
and buffers stay inputs of it. So a capture of block A is right for block B where

1. both have the same *skeleton*: classes, names, and shapes, strides, dtypes, devices and ties of
   all weights and buffers, and
2. no plain attribute that was *read while A was traced* differs between them.

The second is decided by watching the attributes that differ, not by their names: ``layer_idx`` is
harmless in one model and a scale in the next.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import types
import weakref
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from tuner.runtime.replaced import Replaced

Attribute = tuple[str, str]
"""The path of a module within its block, and the name of one of its plain attributes."""

_BOOKKEEPING = frozenset(vars(torch.nn.Module())) - {"training"}
_PLAIN = frozenset({
    type(None), bool, int, str, bytes, range, torch.dtype, torch.device, torch.layout,
    torch.memory_format, torch.Size,
})  # fmt: skip
_MAPPINGS = (dict, OrderedDict, types.MappingProxyType)
_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: a class that was written in Python


def skeleton(block: torch.nn.Module) -> object:
    """What blocks must have in common to share a capture: a hashable value."""
    first: dict[int, int] = {}
    rows: list[object] = []
    for path, module in block.named_modules(remove_duplicate=False):
        rows.append((path, type(module), first.setdefault(id(module), len(first))))
        for held in (module._parameters, module._buffers):
            for name, tensor in held.items():
                if tensor is None:
                    rows.append((name, None))
                    continue
                rows.append((
                    name, type(tensor), tuple(tensor.shape), tensor.stride(), tensor.dtype,
                    tensor.device, first.setdefault(id(tensor), len(first)),
                ))  # fmt: skip
    return tuple(rows)


def differing_attributes(one: torch.nn.Module, other: torch.nn.Module) -> frozenset[Attribute]:
    """The plain attributes that cannot be shown to be equal in two blocks of one skeleton."""
    modules = dict(one.named_modules(remove_duplicate=False))
    others = dict(other.named_modules(remove_duplicate=False))
    pairs = {id(module): others[path] for path, module in modules.items()}
    found = set()
    for path, module in modules.items():
        left, right = _attributes(module), _attributes(others[path])
        for name in left.keys() | right.keys():
            same = name in left and name in right
            if not same or not _Same(pairs).same(left[name], right[name]):
                found.add((path, name))
    return frozenset(found)


def _attributes(module: torch.nn.Module) -> dict[str, Any]:
    """A module's plain attributes, its forward as it was before it was replaced."""
    found = {name: value for name, value in vars(module).items() if name not in _BOOKKEEPING}
    forward = found.get("forward")
    if isinstance(forward, Replaced):
        del found["forward"]
        if forward.own is not None:
            found["forward"] = forward.own
    return found


class _Same:
    """Whether two values mean the same, each in its own block. What is not known differs."""

    def __init__(self, pairs: dict[int, torch.nn.Module]) -> None:
        self._pairs = pairs
        # (held, since the ids of what is gone are given out again)
        self._met: dict[tuple[int, int], tuple[Any, Any]] = {}

    def same(self, one: Any, other: Any) -> bool:
        if isinstance(one, torch.nn.Module):
            # one of the block's own modules must stand at the same place in the other block
            return other is self._pairs.get(id(one), one)
        if one is other:
            return True
        if type(one) is not type(other):
            return False
        if type(one) in _PLAIN or isinstance(one, enum.Enum):
            return bool(one == other)
        if isinstance(one, (float, complex)):
            return repr(one) == repr(other)  # nan is nan, and -0.0 is not 0.0
        if (id(one), id(other)) in self._met:
            return True  # a cycle: decided where it was entered
        self._met[id(one), id(other)] = (one, other)
        return self._inside(one, other)

    def _inside(self, one: Any, other: Any) -> bool:
        if isinstance(one, torch.Tensor):
            return _same_tensor(one, other)
        if type(one) in (list, tuple):
            return self._all(one, other)
        if type(one) in (set, frozenset):
            return all(type(item) in _PLAIN for item in one | other) and bool(one == other)
        if type(one) in _MAPPINGS:
            return self._all(one.keys(), other.keys()) and self._all(one.values(), other.values())
        if isinstance(one, functools.partial):
            return self._all(
                (one.func, one.args, one.keywords), (other.func, other.args, other.keywords)
            )
        if isinstance(one, types.MethodType):
            return self._all((one.__func__, one.__self__), (other.__func__, other.__self__))
        if isinstance(one, types.FunctionType):
            return one.__code__ is other.__code__ and self._all(_state(one), _state(other))
        if isinstance(one, weakref.ref):
            return self.same(one(), other())
        made_in_python = all(
            cls is object or cls.__flags__ & _HEAP_TYPE and "__slots__" not in vars(cls)
            for cls in type(one).__mro__
        )
        return made_in_python and hasattr(one, "__dict__") and self.same(vars(one), vars(other))

    def _all(self, ones: Iterable[Any], others: Iterable[Any]) -> bool:
        left, right = list(ones), list(others)
        return len(left) == len(right) and all(map(self.same, left, right))


def _same_tensor(one: torch.Tensor, other: torch.Tensor) -> bool:
    def form(tensor: torch.Tensor) -> object:
        return tensor.shape, tensor.dtype, tensor.device, tensor.layout

    if type(one) is not torch.Tensor or form(one) != form(other) or one.is_meta:
        return False
    return one.stride() == other.stride() and torch.equal(one, other)


def _state(function: types.FunctionType) -> tuple[Any, ...]:
    cells = tuple(cell.cell_contents for cell in function.__closure__ or ())
    return cells, function.__defaults__, function.__kwdefaults__


@contextlib.contextmanager
def watch_reads(
    block: torch.nn.Module, attributes: Iterable[Attribute]
) -> Iterator[set[Attribute]]:
    """The attributes, out of these, that are read in the meantime; whether or not they exist.

    For the time being each is a property of its module's class. Reads that go past attribute
    look-up, such as ``vars(module)``, are not seen.
    """
    modules = dict(block.named_modules(remove_duplicate=False))
    paths: dict[tuple[int, str], list[Attribute]] = {}
    for path, name in attributes:
        paths.setdefault((id(modules[path]), name), []).append((path, name))
    reads: set[Attribute] = set()
    watched: dict[tuple[type, str], object] = {}
    try:
        for path, name in attributes:
            kind = type(modules[path])
            if (kind, name) in watched:
                continue
            if hasattr(getattr(kind, name, None), "__set__"):
                reads.add((path, name))  # a property already: it cannot be watched
                continue
            watched[kind, name] = vars(kind).get(name, _MISSING)
            setattr(kind, name, _Watched(name, getattr(kind, name, _MISSING), paths, reads))
        yield reads
    finally:
        for (kind, name), before in watched.items():
            if before is _MISSING:
                delattr(kind, name)
            else:
                setattr(kind, name, before)


_MISSING = object()


class _Watched:
    """A property that notes each read and otherwise behaves as the attribute did."""

    def __init__(
        self,
        name: str,
        inherited: object,
        paths: dict[tuple[int, str], list[Attribute]],
        reads: set[Attribute],
    ) -> None:
        self._name = name
        self._inherited = inherited
        self._paths = paths
        self._reads = reads

    def __get__(self, module: Any, kind: type) -> Any:
        if module is not None:
            self._reads.update(self._paths.get((id(module), self._name), ()))
            if self._name in vars(module):
                return vars(module)[self._name]
        if self._inherited is _MISSING:
            # (a module goes on to look among its weights and submodules)
            raise AttributeError(f"{kind.__name__!r} object has no attribute {self._name!r}")
        bind = getattr(type(self._inherited), "__get__", None)
        return self._inherited if bind is None else bind(self._inherited, module, kind)

    def __set__(self, module: Any, value: Any) -> None:
        vars(module)[self._name] = value

    def __delete__(self, module: Any) -> None:
        if self._name not in vars(module):
            raise AttributeError(self._name)
        del vars(module)[self._name]
