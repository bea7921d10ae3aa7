"""What linear algebra takes beside its outputs on a CPU: copies that LAPACK overwrites, pivots and
its work arrays, and what is made on the way by composites.

Read off the allocator's events with torch 2.13, by ``tests/search_space/test_workspace_linalg.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import prod

from search_space.graph import ITEM_BYTES
from search_space.kernel_call import Call, Workspace, copy_bytes, on_cpu
from search_space.layout import Layout, is_contiguous, reshaped
from search_space.workspace_fourier import FOURIER_WORKSPACES

_SMALL = 64
"""Bytes of single numbers, such as whether a factorisation failed."""

_BLOCK = 34
"""Numbers of a work array for each row or column: LAPACK's blocks of 32, and two vectors."""

_QR_BLOCK = 18
"""The same of reflections."""


def _matrices(call: Call) -> tuple[int, int, int]:
    """Matrices of the first argument, their rows and columns."""
    shape = call.operands[0].layout.shape
    return prod(shape[:-2]), shape[-2], shape[-1]


def _item(call: Call) -> int:
    return ITEM_BYTES[call.operands[0].dtype]


def _pivots(call: Call) -> int:
    """32-bit rows for each matrix, and what tells of failures."""
    count, rows, columns = _matrices(call)
    return 4 * count * (max(rows, columns) + 1) + 8 * rows + _SMALL


def _factorised(call: Call) -> int:
    return call.operands[0].nbytes + _pivots(call)


def _solve(call: Call) -> int:
    """The factorised matrices; a vector to the right is solved in a copy."""
    whole = prod(call.shape) * ITEM_BYTES[call.dtype]
    is_vector = len(call.shape) < len(call.operands[0].layout.shape)
    return _factorised(call) + (whole if is_vector else 0)


def _determinant(call: Call) -> int:
    """The factorised matrices, and the pivots as permutations."""
    count, rows, _ = _matrices(call)
    return _factorised(call) + 8 * count * (rows + 4) + 16 * rows


def _lu(call: Call) -> int:
    count, rows, columns = _matrices(call)
    return _factorised(call) + 8 * count * max(rows, columns)


def _exponential(call: Call) -> int:
    """Powers of the matrices, by which polynomial serves each; a single one keeps two more."""
    count, _, _ = _matrices(call)
    copies = 10 if count > 1 else 12
    return copies * call.operands[0].nbytes + 8 * count + _SMALL


def _power(call: Call) -> int:
    """The squares and the product so far, by the bits of the exponent."""
    exponent = call.argument(1, "n", 0)
    if not isinstance(exponent, int):
        return 0
    inverse = _factorised(call) if exponent < 0 else 0
    bits = abs(exponent).bit_count()
    # a first square that is a factor of its own stays, beside the next squares
    is_plain = bits == 1 or (bits == 2 and exponent % 2 == 1)
    copies = 0 if abs(exponent) < 3 else 1 if is_plain else 2
    return inverse + copies * call.operands[0].nbytes


def _by_rows_or_columns(layout: Layout) -> bool:
    turned = Layout(
        (*layout.shape[:-2], layout.shape[-1], layout.shape[-2]),
        (*layout.strides[:-2], layout.strides[-1], layout.strides[-2]),
    )
    return is_contiguous(layout) or is_contiguous(turned)


def _triangular(call: Call) -> int:
    """A copy of matrices that lie neither by rows nor by columns."""
    first = call.operands[0]
    return 0 if _by_rows_or_columns(first.layout) else first.nbytes


def _cholesky_solve(call: Call) -> int:
    return sum(one.nbytes for one in call.operands[1:]) + _SMALL


def _qr(call: Call) -> int:
    """Reflections; work arrays, or of tall matrices the upper rows once more."""
    count, rows, columns = _matrices(call)
    short = min(rows, columns)
    upper = count * short * columns if rows > columns else 0
    work = _QR_BLOCK * max(columns, call.shape[-1])
    return _item(call) * (count * short + max(upper, work)) + _SMALL


def _singular_values(call: Call) -> int:
    """The copy that is overwritten."""
    return call.operands[0].nbytes + 4 * _matrices(call)[0] + _SMALL


def _eigenvectors(call: Call) -> int:
    """Work arrays of one matrix (``syevd``)."""
    count, _, size = _matrices(call)
    work = _item(call) * (1 + 6 * size + 2 * size * size) + 4 * (3 + 5 * size)
    return work + 4 * count + _SMALL


def _eigenvalues(call: Call) -> int:
    count, _, size = _matrices(call)
    return call.operands[0].nbytes + _item(call) * _BLOCK * size + 4 * count + _SMALL


def _pseudo_inverse(call: Call) -> int:
    """Singular vectors, those to the right once more scaled."""
    count, rows, columns = _matrices(call)
    short = min(rows, columns)
    return _item(call) * count * short * (rows + 2 * columns + 8) + _SMALL


# -- products of several -------------------------------------------------------------------------


def _chain(call: Call) -> int:
    """All products on the way but the last, in the order of fewest multiplications."""
    shapes = [list(one.layout.shape) for one in call.operands]
    if len(shapes) < 3:
        return 0
    if len(shapes[0]) == 1:
        shapes[0].insert(0, 1)
    if len(shapes[-1]) == 1:
        shapes[-1].append(1)
    sizes = [shapes[0][0], *(shape[-1] for shape in shapes)]
    _, made = _cheapest(tuple(sizes))
    return (made - sizes[0] * sizes[-1]) * ITEM_BYTES[call.dtype]


@lru_cache(maxsize=256)
def _cheapest(sizes: tuple[int, ...]) -> tuple[int, int]:
    """Fewest multiplications of a chain of matrices between these sizes, and the numbers of all
    products that they go through."""
    if len(sizes) < 3:
        return 0, 0
    found = []
    for place in range(1, len(sizes) - 1):
        left, right = _cheapest(sizes[: place + 1]), _cheapest(sizes[place:])
        steps = left[0] + right[0] + sizes[0] * sizes[place] * sizes[-1]
        found.append((steps, left[1] + right[1] + sizes[0] * sizes[-1]))
    return min(found)


def _folded(layout: Layout, order: Sequence[int], split: int) -> Layout | None:
    """A tensor with its dimensions in an order, as a matrix with the first ``split`` as rows; None
    where only a copy can be."""
    shape = [layout.shape[dim] for dim in order]
    permuted = Layout(tuple(shape), tuple(layout.strides[dim] for dim in order))
    return reshaped(permuted, (prod(shape[:split]), prod(shape[split:])))


def _tensordot(call: Call) -> int:
    """Copies of what a permutation cannot give as a matrix by rows or columns."""
    dims = [call.argument(2, "dims_self"), call.argument(3, "dims_other")]
    taken = 0
    for k, (one, given) in enumerate(zip(call.operands[:2], dims, strict=True)):
        rank = len(one.layout.shape)
        values = given if isinstance(given, tuple) else ()
        summed = [dim % rank for dim in values if isinstance(dim, int)]
        own = [dim for dim in range(rank) if dim not in summed]
        order = (*own, *summed) if k == 0 else (*summed, *own)
        found = _folded(one.layout, order, len(own) if k == 0 else len(summed))
        read = found is not None and (1 in found.strides or 1 in found.shape)
        taken += 0 if read else one.nbytes
    return taken + FOURIER_WORKSPACES["aten.mul"](call)


def _inner(call: Call) -> int:
    """Copies of what is not a matrix of rows."""
    if min(len(one.layout.shape) for one in call.operands) == 0:
        return 0
    return sum(
        0 if _folded(one.layout, range(len(one.layout.shape)), -1) is not None else one.nbytes
        for one in call.operands
    )


def _bilinear(call: Call) -> int:
    """For each feature the first input times its matrix; copies of both inputs."""
    first, second = call.operands[:2]
    rows = second.layout.numel + prod(second.layout.shape[:-1])
    return copy_bytes(first) + copy_bytes(second) + rows * ITEM_BYTES[call.dtype]


LINALG_WORKSPACES: dict[str, Workspace] = {
    **dict.fromkeys(
        ("aten.linalg_inv", "aten.inverse", "aten.linalg_inv_ex"), on_cpu(_factorised)
    ),
    "aten.linalg_solve": on_cpu(_solve),
    **{
        f"aten.{name}": on_cpu(_determinant)
        for name in ("linalg_det", "det", "linalg_slogdet", "slogdet", "logdet")
    },
    "aten.linalg_lu": on_cpu(_lu),
    "aten.matrix_exp": on_cpu(_exponential),
    "aten.linalg_matrix_exp": on_cpu(_exponential),
    "aten.linalg_matrix_power": on_cpu(_power),
    "aten.matrix_power": on_cpu(_power),
    "aten.linalg_solve_triangular": on_cpu(_triangular),
    "aten.cholesky_solve": on_cpu(_cholesky_solve),
    "aten.linalg_qr": on_cpu(_qr),
    "aten.linalg_svd": on_cpu(_singular_values),
    "aten.linalg_svdvals": on_cpu(_singular_values),
    "aten.linalg_eigh": on_cpu(_eigenvectors),
    "aten.linalg_eigvalsh": on_cpu(_eigenvalues),
    "aten.linalg_pinv": on_cpu(_pseudo_inverse),
    "aten.linalg_multi_dot": _chain,
    "aten.tensordot": _tensordot,
    "aten.inner": _inner,
    "aten.bilinear": _bilinear,
}
