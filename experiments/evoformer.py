"""An Evoformer block, written out from the published algorithms.

The block of AlphaFold 2 (Jumper et al., Nature 596, 2021, Supplementary Methods 1.6, Algorithms 6
to 15) in evaluation mode, that is without dropout. Attention is written out: logits, softmax and
weighted values are tensors of their own. Shapes below are ``(batch, rows, residues, c_m)`` for the
MSA representation ``m`` and ``(batch, residues, residues, c_z)`` for the pair representation ``z``.
"""

from __future__ import annotations

import torch
from torch import nn

Tensor = torch.Tensor


class GatedAttention(nn.Module):
    """Multi-head attention over the second to last dimension, with an additive bias and a gate.

    The common part of Algorithms 7, 8, 13 and 14; the input is already normalised.
    """

    def __init__(self, channels: int, heads: int, head_width: int) -> None:
        super().__init__()
        inner = heads * head_width
        self.heads = heads
        self.scale = head_width**-0.5
        self.query = nn.Linear(channels, inner, bias=False)
        self.key = nn.Linear(channels, inner, bias=False)
        self.value = nn.Linear(channels, inner, bias=False)
        self.gate = nn.Linear(channels, inner)
        self.output = nn.Linear(inner, channels)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """``x``: (batch, rows, positions, channels); ``bias``: broadcast to the logits,
        (batch, rows, heads, positions, positions)."""
        query = self._split(self.query(x)) * self.scale
        logits = query @ self._split(self.key(x)).transpose(-1, -2)
        if bias is not None:
            logits = logits + bias
        mixed = torch.softmax(logits, dim=-1) @ self._split(self.value(x))
        joined = mixed.transpose(-2, -3).flatten(-2)
        return self.output(torch.sigmoid(self.gate(x)) * joined)  # type: ignore[no-any-return]

    def _split(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:-1], self.heads, -1).transpose(-2, -3)


class RowAttention(nn.Module):
    """MSA row-wise gated self-attention with pair bias (Algorithm 7)."""

    def __init__(self, c_m: int, c_z: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.norm_m = nn.LayerNorm(c_m)
        self.norm_z = nn.LayerNorm(c_z)
        self.bias = nn.Linear(c_z, heads, bias=False)
        self.attention = GatedAttention(c_m, heads, head_width)

    def forward(self, m: Tensor, z: Tensor) -> Tensor:
        bias = self.bias(self.norm_z(z)).permute(0, 3, 1, 2).unsqueeze(1)
        return self.attention(self.norm_m(m), bias)  # type: ignore[no-any-return]


class ColumnAttention(nn.Module):
    """MSA column-wise gated self-attention (Algorithm 8)."""

    def __init__(self, c_m: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(c_m)
        self.attention = GatedAttention(c_m, heads, head_width)

    def forward(self, m: Tensor) -> Tensor:
        return self.attention(self.norm(m.transpose(1, 2))).transpose(1, 2)  # type: ignore[no-any-return]


class Transition(nn.Module):
    """The transition of the MSA stack and of the pair stack (Algorithms 9 and 15)."""

    def __init__(self, channels: int, factor: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.widen = nn.Linear(channels, factor * channels)
        self.narrow = nn.Linear(factor * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.narrow(torch.relu(self.widen(self.norm(x))))  # type: ignore[no-any-return]


class OuterProductMean(nn.Module):
    """Outer products of two projections of the MSA, averaged over its rows (Algorithm 10)."""

    def __init__(self, c_m: int, c_z: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(c_m)
        self.left = nn.Linear(c_m, hidden)
        self.right = nn.Linear(c_m, hidden)
        self.output = nn.Linear(hidden * hidden, c_z)

    def forward(self, m: Tensor) -> Tensor:
        m = self.norm(m)
        left = self.left(m) / m.shape[1]
        outer = torch.einsum("bsic,bsjd->bijcd", left, self.right(m))
        return self.output(outer.flatten(-2))  # type: ignore[no-any-return]


class TriangleMultiplication(nn.Module):
    """Triangular multiplicative update, outgoing or incoming edges (Algorithms 11 and 12)."""

    def __init__(self, c_z: int, hidden: int, outgoing: bool) -> None:
        super().__init__()
        self.equation = "bikc,bjkc->bijc" if outgoing else "bkic,bkjc->bijc"
        self.norm = nn.LayerNorm(c_z)
        self.left = nn.Linear(c_z, hidden)
        self.left_gate = nn.Linear(c_z, hidden)
        self.right = nn.Linear(c_z, hidden)
        self.right_gate = nn.Linear(c_z, hidden)
        self.gate = nn.Linear(c_z, c_z)
        self.norm_product = nn.LayerNorm(hidden)
        self.output = nn.Linear(hidden, c_z)

    def forward(self, z: Tensor) -> Tensor:
        z = self.norm(z)
        left = torch.sigmoid(self.left_gate(z)) * self.left(z)
        right = torch.sigmoid(self.right_gate(z)) * self.right(z)
        product = self.norm_product(torch.einsum(self.equation, left, right))
        return torch.sigmoid(self.gate(z)) * self.output(product)  # type: ignore[no-any-return]


class TriangleAttention(nn.Module):
    """Triangular gated self-attention around the starting or ending node (Algorithms 13 and 14)."""

    def __init__(self, c_z: int, heads: int, head_width: int, starting: bool) -> None:
        super().__init__()
        self.starting = starting
        self.norm = nn.LayerNorm(c_z)
        self.bias = nn.Linear(c_z, heads, bias=False)
        self.attention = GatedAttention(c_z, heads, head_width)

    def forward(self, z: Tensor) -> Tensor:
        # Algorithm 14 is 13 on the transposed pairs: both its logits and its bias exchange i and j
        z = self.norm(z if self.starting else z.transpose(1, 2))
        update: Tensor = self.attention(z, self.bias(z).permute(0, 3, 1, 2).unsqueeze(1))
        return update if self.starting else update.transpose(1, 2)


class EvoformerBlock(nn.Module):
    """One block of the Evoformer stack (Algorithm 6)."""

    def __init__(
        self,
        c_m: int = 256,
        c_z: int = 128,
        msa_heads: int = 8,
        pair_heads: int = 4,
        head_width: int = 32,
        factor: int = 4,
        outer: int = 32,
        triangle: int = 128,
    ) -> None:
        super().__init__()
        self.row_attention = RowAttention(c_m, c_z, msa_heads, head_width)
        self.column_attention = ColumnAttention(c_m, msa_heads, head_width)
        self.msa_transition = Transition(c_m, factor)
        self.outer_product_mean = OuterProductMean(c_m, c_z, outer)
        self.outgoing = TriangleMultiplication(c_z, triangle, outgoing=True)
        self.incoming = TriangleMultiplication(c_z, triangle, outgoing=False)
        self.starting = TriangleAttention(c_z, pair_heads, head_width, starting=True)
        self.ending = TriangleAttention(c_z, pair_heads, head_width, starting=False)
        self.pair_transition = Transition(c_z, factor)

    def forward(self, m: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """The updated ``m`` (batch, rows, residues, c_m) and ``z`` (batch, residues, residues,
        c_z)."""
        m = m + self.row_attention(m, z)
        m = m + self.column_attention(m)
        m = m + self.msa_transition(m)
        z = z + self.outer_product_mean(m)
        z = z + self.outgoing(z)
        z = z + self.incoming(z)
        z = z + self.starting(z)
        z = z + self.ending(z)
        z = z + self.pair_transition(z)
        return m, z
