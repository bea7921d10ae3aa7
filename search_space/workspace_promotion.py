"""What elementwise ops convert first.

On a CPU an argument of another dtype than the op computes in is converted as a whole
(``TensorIteratorBase::compute_types`` in ATen): a mask of booleans that multiplies scores is once
more there as numbers. On other devices each element is converted as it is read.
"""

from __future__ import annotations

from collections.abc import Mapping

from search_space.graph import ITEM_BYTES
from search_space.kernel_call import Call, Operand

_AS_GIVEN = frozenset({
    "aten._to_copy", "aten.to", "aten.type_as", "aten.copy", "aten.fill", "aten.view",
    "aten.complex", "aten.polar", "aten.bucketize", "aten.isin", "aten.float_power", "aten.ldexp",
})  # fmt: skip
"""Ops that read their arguments in the dtypes that they have, or of which a table says it."""

_CONDITIONS = {"aten.where": 0, "aten.masked_fill": 1, "aten.masked_scatter": 1}
"""Which argument of an op is a condition, and read as it is."""


def promotion_bytes(op: str, call: Call) -> int:
    """Bytes of converted arguments, each in its own size, before it is broadcast."""
    packet = op if op.count(".") < 2 else op.rpartition(".")[0]
    if not call.device.startswith("cpu") or packet in _AS_GIVEN:
        return 0
    condition = _CONDITIONS.get(packet)
    operands = [one for place, one in enumerate(call.operands) if place != condition]
    is_answer = call.dtype == "bool" and condition is None
    common = _compared_in(operands, call) if is_answer else call.dtype
    known = [one for one in operands if one.dtype in _ORDER] if common in _ORDER else []
    return sum(
        one.layout.numel * ITEM_BYTES[common]
        for one in known
        if one.dtype != common and _promoted(one.dtype, common) == common
    )


def _compared_in(operands: list[Operand], call: Call) -> str:
    """The dtype in which arguments are compared whose answer is true or false: that of tensors with
    dimensions, unless those without, or numbers, are of a higher kind."""
    found = "bool"
    known = [one for one in operands if one.dtype in _ORDER]
    for one in known:
        if one.layout.shape:
            found = _promoted(found, one.dtype)
    single = [one.dtype for one in known if not one.layout.shape]
    single += [_OF_NUMBERS[type(value)] for value in call.args if type(value) in _OF_NUMBERS]
    for dtype in single:
        if _kind(dtype) > _kind(found):
            found = _promoted(found, dtype)
    return found


_OF_NUMBERS: Mapping[type, str] = {int: "int64", float: "float32"}

_ORDER = (
    "bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64",
    "complex32", "complex64", "complex128",
)  # fmt: skip

_OF_BOTH: Mapping[frozenset[str], str] = {
    frozenset({"uint8", "int8"}): "int16",
    frozenset({"float16", "bfloat16"}): "float32",
    frozenset({"float64", "complex32"}): "complex128",
    frozenset({"float64", "complex64"}): "complex128",
    frozenset({"float32", "complex32"}): "complex64",
    frozenset({"bfloat16", "complex32"}): "complex64",
}
"""Pairs that are promoted to a third dtype."""


def _promoted(one: str, other: str) -> str:
    """The dtype of both (``torch.promote_types``)."""
    both = _OF_BOTH.get(frozenset({one, other}))
    return both or max(one, other, key=_ORDER.index)


def _kind(dtype: str) -> int:
    """Booleans, whole numbers, real numbers, complex ones."""
    place = _ORDER.index(dtype)
    return sum(place >= _ORDER.index(first) for first in ("uint8", "float16", "complex32"))
