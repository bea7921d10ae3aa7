"""What an op is, as far as analysis relies on it: read off its schema, tags and traced tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from search_space.graph import ALIAS, FRESH, OPAQUE, POINTWISE, RANDOM

# Ops that draw random numbers only where an argument says so: its name, place, and harmless value.
_INERT: Mapping[str, tuple[str, int, object]] = {
    "aten.scaled_dot_product_attention.default": ("dropout_p", 4, 0.0),
    "aten.dropout.default": ("train", 2, False),
}


def _draws_nothing(name: str, node: torch.fx.Node) -> bool:
    if name not in _INERT:
        return False
    keyword, place, harmless = _INERT[name]
    given = node.args[place] if len(node.args) > place else node.kwargs.get(keyword, harmless)
    return given == harmless


def traits_of(target: Any, name: str, value: Any, node: torch.fx.Node) -> frozenset[str]:
    """The traits of a traced op (see :mod:`search_space.graph`).

    Args:
        target: the operator, or ``operator.getitem``.
        name: its name in the graph.
        value: what the trace says that it gives.
    """
    if name == "getitem":
        return frozenset()
    found = set()
    tags = target.tags
    if torch.Tag.pointwise in tags:
        found.add(POINTWISE)
    if torch.Tag.nondeterministic_seeded in tags and not _draws_nothing(name, node):
        found.add(RANDOM)
    # (ops whose output's size depends on data were refused when their sizes were printed)
    if target._schema.is_mutable or torch.Tag.data_dependent_output in tags:
        found.add(OPAQUE)
    first = next((a for a in node.all_input_nodes), None)
    aliased = any(r.alias_info is not None and not r.alias_info.is_write
                  for r in target._schema.returns)  # fmt: skip
    if name.rpartition(".")[0] in _UNMARKED_VIEWS:
        found.add(ALIAS)
    elif aliased and first is not None:
        # `to`, `contiguous` and `reshape` alias only sometimes: ask the traced tensors (torch has
        # no public way to; its type stubs leave this one out)
        parts = value if isinstance(value, (list, tuple)) else (value,)
        source = first.meta.get("val")
        if isinstance(source, (list, tuple)):
            source = source[0]
        if all(torch._C._is_alias_of(source, part) for part in parts):  # type: ignore[attr-defined]
            found.add(ALIAS)
    of_constant = any(one.op == "get_attr" for one in node.all_input_nodes)
    if ALIAS not in found and not of_constant and makes_new(target):
        found.add(FRESH)
    return frozenset(found)


_UNMARKED_VIEWS = frozenset({
    "aten._unsafe_view", "aten.unsafe_split", "aten.unsafe_split_with_sizes", "aten.unsafe_chunk",
})
"""Views whose schemas do not say so."""

_COMPUTING = frozenset({
    "aten.linear", "aten.matmul", "aten.layer_norm", "aten.softmax", "aten.log_softmax",
    "aten.group_norm", "aten.rms_norm", "aten.conv1d", "aten.conv2d", "aten.conv3d", "aten.silu",
    "aten.scaled_dot_product_attention", "aten.batch_norm", "aten.instance_norm", "aten.where",
})  # fmt: skip
"""Composite ops that compute all of their output, so that it can share no argument's storage."""


def makes_new(target: Any) -> bool:
    """Whether an op certainly gives tensors that share no storage with its arguments. Kernels
    without alias annotations do; composite ops may hand an argument through where nothing is to be
    done, so that only some are trusted."""
    name = str(target).rpartition(".")[0]
    if name in _UNMARKED_VIEWS:
        return False
    if any(returned.alias_info is not None for returned in target._schema.returns):
        return False
    composite = torch._C._dispatch_has_kernel_for_dispatch_key(
        target.name(), "CompositeImplicitAutograd"
    )
    return not composite or name in _COMPUTING
