"""What losses take beside their outputs.

Losses are composites: they work out a term for each position, with the steps in between, and then
reduce them; half precision is cast to float32 for a mean on a CPU. Read off the allocator's events
with torch 2.13, by ``tests/search_space/test_workspace_losses.py``.
"""

from __future__ import annotations

from math import prod

from search_space.graph import ITEM_BYTES
from search_space.kernel_call import Call, Workspace, copy_bytes, on_cpu

_NONE, _MEAN = 0, 1
"""Values of ``reduction``, as ops take it."""

_SCALARS = 64
"""Bytes of the single numbers that a reduction goes through."""


def _terms(call: Call) -> int:
    """Bytes of a term for each position, which is the largest argument's size."""
    return max(one.layout.numel for one in call.operands) * ITEM_BYTES[call.dtype]


def _cast(call: Call, reduction: object, terms: int) -> int:
    """Terms of half precision in float32, as a CPU casts them for a mean."""
    is_half = call.dtype in ("bfloat16", "float16")
    if not is_half or reduction != _MEAN or not call.device.startswith("cpu"):
        return 0
    return 4 * (terms // ITEM_BYTES[call.dtype])


def _beside(call: Call, total: int) -> int:
    return max(total - prod(call.shape) * ITEM_BYTES[call.dtype], 0) + _SCALARS


def _reduced(place: int, most: int, most_reduced: int, standing: int) -> Workspace:
    """Terms, and the steps to them.

    Args:
        place: of ``reduction`` among the arguments.
        most: tensors of all terms that are alive at once where none are reduced.
        most_reduced: the same where they are.
        standing: those alive while they are reduced.
    """

    def workspace(call: Call) -> int:
        terms = _terms(call)
        reduction = call.argument(place, "reduction", _MEAN)
        if reduction == _NONE:
            return _beside(call, most * terms)
        cast = _cast(call, reduction, terms)
        return _beside(call, max(most_reduced * terms, standing * terms + cast))

    return workspace


# -- of classes ----------------------------------------------------------------------------------


def _cross_entropy(call: Call) -> int:
    """The logarithms of softmax, for which scores that are not row-major are copied, and what is
    made of them."""
    scores = call.operands[0]
    whole = scores.nbytes
    if len(call.operands) < 2:
        return 0
    target = call.operands[1]
    weighted = len(call.operands) > 2
    smoothing = call.argument(5, "label_smoothing", 0.0)
    is_smoothed = isinstance(smoothing, (int, float)) and smoothing > 0
    axis = 1 if len(scores.layout.shape) > 1 else 0
    places = scores.layout.numel // max(scores.layout.shape[axis], 1)
    item = ITEM_BYTES[call.dtype]
    if target.layout.shape == scores.layout.shape:  # probabilities of all classes
        taken = (2 + weighted + is_smoothed) * whole + 2 * item * places
    elif is_smoothed:
        taken = (1 + weighted) * whole + (5 * item + 4) * places
    else:
        is_whole = call.argument(3, "reduction", _MEAN) == _NONE
        taken = whole + item * places * is_whole + copy_bytes(target)
    return _beside(call, max(taken, whole + copy_bytes(scores)))


def _nll(call: Call) -> int:
    """Copies of scores or classes that do not lie row-major; of rows or images none, where the
    terms are not reduced."""
    scores, reduction = call.operands[0], call.argument(3, "reduction", _MEAN)
    if len(scores.layout.shape) in (1, 2, 4) and reduction == _NONE:
        return _SCALARS
    return sum(map(copy_bytes, call.operands[:2])) + _SCALARS


def _multilabel_margin(call: Call) -> int:
    """For each class whether it is a target, and the copy of the scores."""
    first = call.operands[0]
    return first.nbytes + copy_bytes(first) + _SCALARS


# -- of pairs of tensors -------------------------------------------------------------------------


def _with_logits(call: Call) -> int:
    """The logarithms of sigmoid, with their kernel's own buffer and copy, then the terms."""
    first = call.operands[0]
    terms = _terms(call)
    reduction = call.argument(4, "reduction", _MEAN)
    # weights of classes are scaled by the targets, and lie beside
    weights = sum(one.nbytes for one in call.operands[2:])
    taken = 2 * terms + max(copy_bytes(first), weights, _cast(call, reduction, terms))
    return _beside(call, taken)


def _poisson(call: Call) -> int:
    is_log, is_full = (call.argument(k, name) for k, name in ((2, "log_input"), (3, "full")))
    most = 8 if is_full else 3 if is_log else 4
    return _reduced(5, most, most, 1)(call)


def _triplet(call: Call) -> int:
    """A difference and its shift, one pair after the other; the distances."""
    terms = _terms(call)
    distances = terms // max(1, *call.operands[0].layout.shape[-1:])
    reduction = call.argument(7, "reduction", _MEAN)
    return _beside(call, 2 * terms + 4 * distances + _cast(call, reduction, distances))


def _cosine_embedding(call: Call) -> int:
    """A product of all positions at a time; its sums, and what is made of them."""
    terms = _terms(call)
    sums = terms // max(1, *call.operands[0].layout.shape[-1:])
    reduction = call.argument(4, "reduction", _MEAN)
    return _beside(call, terms + 8 * sums + _cast(call, reduction, sums))


LOSS_WORKSPACES: dict[str, Workspace] = {
    "aten.cross_entropy_loss": _cross_entropy,
    **dict.fromkeys(("aten.nll_loss_nd", "aten.nll_loss", "aten.nll_loss2d"), _nll),
    "aten.multilabel_margin_loss": on_cpu(_multilabel_margin),
    "aten.binary_cross_entropy": _reduced(3, 1, 1, 1),
    "aten.binary_cross_entropy_with_logits": _with_logits,
    "aten.kl_div": _reduced(2, 3, 3, 1),
    "aten.mse_loss": _reduced(2, 1, 2, 2),
    "aten.l1_loss": _reduced(2, 2, 2, 2),
    "aten.smooth_l1_loss": _reduced(2, 1, 2, 2),
    "aten.huber_loss": _reduced(2, 1, 1, 1),
    "aten.soft_margin_loss": _reduced(2, 1, 1, 1),
    "aten.margin_ranking_loss": _reduced(4, 4, 4, 1),
    "aten.hinge_embedding_loss": _reduced(3, 5, 5, 5),
    "aten.poisson_nll_loss": _poisson,
    "aten.triplet_margin_loss": _triplet,
    "aten.cosine_embedding_loss": _cosine_embedding,
}
