"""Generated code that calls operators without the detours of its text.

``torch.ops.aten.add.Tensor(a, b)`` looks up four attributes and goes through a Python function
before it reaches the operator, which costs the process of a tiny chunked model a tenth of its time.
A loop of small passes on a GPU waits for just that. The text stays as it is, for people; what runs
has each operator at hand.
"""

from __future__ import annotations

import itertools
import linecache
import re
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
    made = module.graph.python_code("self")
    names: dict[str, Any] = dict(made.globals)

    def short(match: re.Match[str]) -> str:
        space, packet, overload = match.groups()
        operator = getattr(getattr(getattr(torch.ops, space), packet), overload)
        if type(operator) is not OpOverload:
            return match.group()
        name = f"{space}_{packet}_{overload}"
        if names.setdefault(name, operator._op) is not operator._op:
            return match.group()
        return name

    source = _OPERATOR.sub(short, made.src)
    # a variable of that name would hide the operator
    if any(node.name in names and node.name not in made.globals for node in module.graph.nodes):
        return
    place = f"<autochunk generated {next(_numbers)}>"
    exec(compile(source, place, "exec"), names)
    linecache.cache[place] = (len(source), None, source.splitlines(keepends=True), place)
    type(module).forward = names["forward"]
