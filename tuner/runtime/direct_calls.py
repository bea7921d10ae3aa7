"""Generated code that calls operators without the detours of its text.

``torch.ops.aten.add.Tensor(a, b)`` looks up four attributes and goes through a Python function
before it reaches the operator: a third of what a call on almost no data costs. A loop of small
passes on a GPU waits for just that. The text stays as it is, for people; what runs has each
operator at hand.
"""

from __future__ import annotations

import itertools
import linecache
import re
import weakref
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload

_OPERATOR = re.compile(r"\btorch\.ops\.(\w+)\.(\w+)\.(\w+)(?=\()")

_numbers = itertools.count()


def call_directly(module: fx.GraphModule) -> None:
    """Give a module of generated code a forward that does the same by shorter ways.

    What it calls is what ``OpOverload.__call__`` calls. Its text, ``module.code``, does not change.
    """
    known = module.forward.__globals__
    names: dict[str, Any] = dict(known)

    def short(match: re.Match[str]) -> str:
        space, packet, overload = match.groups()
        operator = getattr(getattr(getattr(torch.ops, space), packet), overload)
        if type(operator) is not OpOverload:
            return match.group()
        name = f"{space}_{packet}_{overload}"
        if names.setdefault(name, operator._op) is not operator._op:
            return match.group()
        return name

    source = _OPERATOR.sub(short, module.code)
    # a variable of that name would hide the operator
    if any(node.name in names and node.name not in known for node in module.graph.nodes):
        return
    place = f"<autochunk generated {next(_numbers)}>"
    exec(compile(source, place, "exec", dont_inherit=True), names)
    kind = type(module)  # (each generated module has a class of its own)
    kind.forward = names.pop("forward")
    linecache.cache[place] = (len(source), None, source.splitlines(keepends=True), place)
    weakref.finalize(kind, linecache.cache.pop, place, None)
