"""Workspaces of linear algebra, held against the allocator."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from tests.search_space.test_workspace_kernels import LAYOUTS, check, laid_out, normal

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(),
    reason="kernels of another build"
)
SQUARE = (8, 48, 48)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_factorisations_of_square_matrices_are_told(layout: str) -> None:
    x = laid_out(normal(*SQUARE), layout)
    for name in ("linalg_inv", "linalg_inv_ex", "inverse", "linalg_det", "det", "linalg_slogdet",
                 "logdet", "linalg_eigh", "linalg_lu"):  # fmt: skip
        check(f"aten.{name}.default", (x,), {}, 1.05)
    check("aten.linalg_eigvalsh.default", (x,), {}, 1.1)
    for right in (normal(8, 48, 32), normal(8, 48), laid_out(normal(8, 48, 32), layout)):
        check("aten.linalg_solve.default", (x, right), {}, 1.03)
    check("aten.linalg_solve.default", (x, normal(*SQUARE)), {"left": False}, 1.03)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_powers_of_matrices_are_bounded(layout: str) -> None:
    x = laid_out(normal(*SQUARE), layout)
    check("aten.matrix_exp.default", (x,), {}, 1.03)
    check("aten.matrix_exp.default", (x[:1],), {}, 1.03)
    for power in (2, 3, 5, 6, 8, 9, 12, -1, -3):
        within = 1.03 if power > 0 else 1.5
        check("aten.linalg_matrix_power.default", (x, power), {}, within)


@pytest.mark.parametrize("shape", [(8, 64, 48), (8, 48, 64), (64, 16, 16), (1, 200, 50)])
def test_factorisations_of_any_matrices_are_bounded(shape: tuple[int, ...]) -> None:
    for layout in ("row-major", "transposed"):
        x = laid_out(normal(*shape), layout)
        check("aten.linalg_qr.default", (x,), {}, 1.2)
        check("aten.linalg_svd.default", (x, False), {}, 1.1)
        check("aten.linalg_svdvals.default", (x,), {}, 1.1)
        check("aten.linalg_pinv.atol_rtol_tensor", (x,), {}, 1.3)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_triangular_solves_are_told(layout: str) -> None:
    x, right = laid_out(normal(*SQUARE), layout), normal(8, 48, 32)
    check("aten.linalg_solve_triangular.default", (x, right), {"upper": True}, 1.03)
    positive = normal(*SQUARE) @ normal(*SQUARE).mT + 50 * torch.eye(48)
    check("aten.cholesky_solve.default", (right, laid_out(positive, layout)), {}, 1.03)


@pytest.mark.parametrize(
    "sizes", [(48, 64, 32, 80), (80, 32, 64, 48), (48, 64, 32, 80, 40), (8, 90, 8, 90, 8, 70)]
)
def test_chains_of_products_are_told(sizes: tuple[int, ...]) -> None:
    chain = [normal(n, m) for n, m in pairwise(sizes)]
    check("aten.linalg_multi_dot.default", (chain,), {}, 1.5)
    check("aten.linalg_multi_dot.default", ([normal(sizes[0]), *chain],), {}, 1.5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_contractions_are_told(layout: str) -> None:
    x, y = laid_out(normal(8, 64, 48), layout), normal(8, 64, 48)
    for dims in ([1], [2], [0, 1], [1, 2], [0]):
        check("aten.tensordot.default", (x, y, dims, dims), {}, 1.03)
        check("aten.tensordot.default", (y, x, dims, dims), {}, 1.03)
    check("aten.inner.default", (x, normal(64, 48)), {}, 1.03)
    for other in (y, normal(8, 64, 20), laid_out(normal(8, 64, 20), layout)):
        args = (x, other, normal(16, 48, other.shape[-1]), normal(16))
        check("aten.bilinear.default", args, {}, 1.03)
