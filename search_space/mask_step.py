"""An op, with what is known of the tensors before it; see :mod:`search_space.mask_values`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from search_space.graph import Argument, Node, Ref, TensorMeta
from search_space.mask_forms import Linear, Value, mapped, of_dtype, truth


@dataclass(frozen=True, slots=True)
class Step:
    """A node, with what is known of the nodes before it."""

    node: Node
    rows: Sequence[Node]
    known: Mapping[int, Value]

    @property
    def meta(self) -> TensorMeta:
        return self.node.outputs[0]

    @property
    def rank(self) -> int:
        return len(self.meta.shape)

    def argument(self, position: int, name: str, default: Argument = None) -> Argument:
        if position < len(self.node.args):
            return self.node.args[position]
        return dict(self.node.kwargs).get(name, default)

    def source(self, position: int = 0) -> Value | None:
        """The value of a tensor argument, in its own shape."""
        given = self.argument(position, "")
        return self.known.get(given.index) if isinstance(given, Ref) else None

    def source_meta(self, position: int = 0) -> TensorMeta | None:
        given = self.argument(position, "")
        return self.rows[given.index].outputs[0] if isinstance(given, Ref) else None

    def spread(self, position: int, name: str = "") -> Value | None:
        """An argument, number or tensor, broadcast to the output's shape."""
        return spread(self.known, self.argument(position, name), self.rank)


def spread(known: Mapping[int, Value], given: Argument, rank: int) -> Value | None:
    """A number or tensor, broadcast from the right to ``rank`` dimensions."""
    if isinstance(given, bool):
        return truth(rank, given)
    if isinstance(given, (int, float)):
        return Linear((0,) * rank, given)
    value = known.get(given.index) if isinstance(given, Ref) else None
    if value is None:
        return None

    def widen(form: Linear) -> Linear:
        return Linear((0,) * (rank - len(form.weights)) + form.weights, form.constant)

    return mapped(value, rank, widen)


def exact(value: Value | None, step: Step) -> Value | None:
    """A value in the dtype of the op's output; None where its elements may be rounded there."""
    return of_dtype(value, step.meta.dtype)


Meaning = Callable[[Step], Value | None]
"""What an op makes of what is known; None where it cannot tell."""
