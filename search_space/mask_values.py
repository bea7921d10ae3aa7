"""What a tensor's elements are, told from its op's definition alone.

Attention masks are made from sizes: positions (``arange``) are compared, and the answers combined.
Such a tensor's element is a fixed function of its coordinates, and this module works that function
out exactly, for every size at once, as one of the kinds of :mod:`search_space.mask_forms`. What an
op makes of them stands in tables (:mod:`search_space.mask_arithmetic`,
:mod:`search_space.mask_views`). Everything else (a tensor that depends on an input's data, a size
among the numbers, an op that is in no table) is unknown, and what depends on it is unknown too.
Nothing is sampled, so that a window of 4096 positions is seen however short the example was.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from search_space.graph import CONSTANT, OP, Node, Ref, walk_arguments
from search_space.mask_arithmetic import ARITHMETIC, number_told
from search_space.mask_forms import Value, settled
from search_space.mask_step import Meaning, Step
from search_space.mask_views import VIEWS

_MEANINGS: Mapping[str, Meaning] = {**ARITHMETIC, **VIEWS}
"""Per op, the value that it gives; each function answers None where it cannot tell."""


def mask_values(rows: Sequence[Node], wanted: Iterable[int]) -> dict[int, Value]:
    """The values of the nodes at ``wanted`` and of all that they depend on, as far as known."""
    needed = set(wanted)
    for node in reversed(rows):
        if node.index in needed:
            values = walk_arguments(node.args, node.kwargs)
            needed.update(value.index for _, value in values if isinstance(value, Ref))
    found: dict[int, Value] = {}
    for node in rows:
        if node.index not in needed or node.several:
            continue
        if node.kind == CONSTANT:
            meaning: Meaning | None = number_told
        elif node.kind == OP:
            meaning = _MEANINGS.get(node.op.rpartition(".")[0])
        else:
            continue
        if meaning is None:
            continue
        value = meaning(Step(node, rows, found))
        if value is not None:
            found[node.index] = settled(value, node.outputs[0].shape)
    return found
