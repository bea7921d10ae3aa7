"""Truth values that enter compiled pieces as whole numbers."""

from __future__ import annotations

import operator

import pytest
import torch
from torch import fx

from tuner.compile_options import CompileOptions
from tuner.runtime.compiled import CompiledPiece, Compiler
from tuner.runtime.pieces import Piece
from tuner.runtime.truths import numbered, truths, with_numbers

aten = torch.ops.aten
MASK = 1
"""Its place: scores are read first."""


def masked_piece() -> Piece:
    """Scores of which a mask shuts out some, and their softmax."""
    graph = fx.Graph()
    mask, scores = graph.placeholder("mask"), graph.placeholder("scores")
    half = graph.call_function(aten.mul.Tensor, (scores, 0.5))
    shut = graph.call_function(aten.where.ScalarOther, (mask, half, -1e4))
    soft = graph.call_function(aten._softmax.default, (shut, -1, False))
    graph.output((soft,))
    return Piece.of([half, shut, soft], {})


def masked(mask: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """What it computes."""
    return torch.softmax(torch.where(mask, scores * 0.5, -1e4), -1)


def tensors(share: float = 0.25) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores, and a mask of this share of their elements."""
    generator = torch.Generator().manual_seed(0)
    heads = round(1 / share)
    mask = torch.rand((1, 8, 16), generator=generator) > 0.3
    return torch.rand((heads, 8, 16), generator=generator), mask


def test_masks_that_are_broadcast_are_handed_over_as_numbers() -> None:
    piece = masked_piece()
    assert truths(piece, tensors(0.25)) == (MASK,)
    assert truths(piece, tensors(0.5)) == (MASK,)


def test_what_is_made_inside_counts() -> None:
    """Scores are a product of tensors that are smaller than the mask."""
    graph = fx.Graph()
    q, k, mask = (graph.placeholder(name) for name in ("q", "k", "mask"))
    scores = graph.call_function(aten.bmm.default, (q, k))
    shut = graph.call_function(aten.where.ScalarOther, (mask, scores, -1e4))
    graph.output((shut,))
    piece = Piece.of([scores, shut], {})
    given = torch.rand(4, 8, 2), torch.rand(4, 2, 16), torch.ones(1, 8, 16, dtype=torch.bool)
    assert truths(piece, given) == (2,)


def test_others_are_not() -> None:
    piece = masked_piece()
    assert truths(piece, tensors(1.0)) == ()  # its copy would be as large as the scores
    scores, mask = tensors()
    assert truths(piece, (scores, mask.to(torch.uint8))) == ()
    assert truths(piece, ()) == ()
    assert truths(piece, (scores, mask.to("meta"))) == ()


def test_what_a_piece_writes_over_stays_what_it_is() -> None:
    piece = masked_piece()
    written = Piece(piece.module, piece.inputs, piece.outputs, (MASK,), piece.structure)
    assert truths(written, tensors()) == ()


def test_numbers_are_compared_with_nothing_inside() -> None:
    piece, given = masked_piece(), tensors()
    made = with_numbers(piece.module, (MASK,))
    targets = [node.target for node in made.graph.nodes if node.op == "call_function"]
    assert targets.count(aten.ne.Scalar) == 1
    assert targets.count(operator.getitem) == 2
    (expected,) = piece.module(list(given))
    (found,) = made(numbered(list(given), (MASK,)))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    # the given module is as it was
    assert aten.ne.Scalar not in [node.target for node in piece.module.graph.nodes]


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_compiled_pieces_take_truth_values_as_before(share: float) -> None:
    piece, given = masked_piece(), tensors(share)
    compiler = Compiler(CompileOptions())
    run = CompiledPiece(piece, compiler)
    with torch.no_grad():
        for turn in (False, True):
            scores, mask = given
            mask = ~mask if turn else mask
            (found,) = run([scores, mask])
            torch.testing.assert_close(found, masked(mask, scores))
    assert compiler.report.compiled == 1 and not compiler.report.failure
