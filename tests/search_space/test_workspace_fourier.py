"""Workspaces of Fourier transforms and complex numbers, held against the allocator."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.search_space.test_workspace_kernels import LAYOUTS, check, laid_out, normal

pytestmark = pytest.mark.skipif(
    not torch.backends.mkl.is_available(),
    reason="transforms of another library"
)
X = (8, 64, 48)


def given(is_complex: bool, layout: str) -> torch.Tensor:
    x = normal(*X)
    return laid_out(torch.complex(x, x + 1) if is_complex else x, layout)


ONE = ("rfft", "ihfft", "fft", "ifft", "irfft", "hfft")
SEVERAL = ("rfft2", "rfftn", "fft2", "ifft2", "fftn", "irfft2", "irfftn")


def forms(ops: tuple[str, ...]) -> list[tuple[str, bool]]:
    """Transforms of real numbers, and of complex ones those that take them."""
    return [(op, False) for op in ops] + [
        (op, True) for op in ops if not op.startswith(("rfft", "ihfft"))
    ]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("op", "is_complex"), forms(ONE))
def test_transforms_of_one_dimension_are_told(op: str, is_complex: bool, layout: str) -> None:
    x = given(is_complex, layout)
    for size in (None, 20, 60, 120):
        for dim in (-1, 0, 1):
            check(f"aten.fft_{op}.default", (x, size, dim), {}, 1.03)
    check(f"aten.fft_{op}.default", (x,), {"norm": "ortho"}, 1.03)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("op", "is_complex"), forms(SEVERAL))
def test_transforms_of_several_dimensions_are_told(
    op: str, is_complex: bool, layout: str
) -> None:
    x = given(is_complex, layout)
    default = [-2, -1] if op.endswith("2") else None
    cases: tuple[tuple[Any, ...], ...] = (
        (), (None, [0, 1]), (None, [1, 2]), (None, [2, 0]), (None, [1, 0]), ([32, 60], default),
        ([20, 20], default), ([80, 20], [0, 2]),
    )  # fmt: skip
    for rest in cases:
        check(f"aten.fft_{op}.default", (x, *rest), {}, 1.03)


@pytest.mark.parametrize("dims", [None, [1], [1, 2]])
def test_shifts_are_told(dims: list[int] | None) -> None:
    for is_complex in (False, True):
        for layout in LAYOUTS:
            check("aten.fft_fftshift.default", (given(is_complex, layout), dims), {}, 1.03)


@pytest.mark.parametrize("hop", [16, 32, 64])
def test_windowed_transforms_are_bounded(hop: int) -> None:
    signal, window = normal(8, 3072), torch.hann_window(64)
    for rest in ((False, True, True), (True, False, True)):
        check("aten.stft.default", (signal, 64, hop, 64, window, *rest), {}, 1.05)
    centred = (window, True, "reflect", False, True, True)
    check("aten.stft.center", (signal, 64, hop, 64, *centred), {}, 1.05)
    spectrum = torch.complex(normal(8, 33, 100), normal(8, 33, 100))
    window = torch.hamming_window(64)
    check("aten.istft.default", (spectrum, 64, hop, 64, window), {}, 1.15)
    check("aten.istft.default", (spectrum[0], 64, hop, 64, window), {}, 1.3)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_real_parts_of_complex_numbers_are_told(layout: str) -> None:
    for is_complex in (False, True):
        for op in ("abs", "angle"):
            check(f"aten.{op}.default", (given(is_complex, layout),), {}, 1.03)


def test_products_of_conjugates_are_bounded() -> None:
    x = given(True, "row-major")
    for other in (x, x.conj()):
        # (of what is no conjugate more is told than is taken)
        within = 1.03 if other.is_conj() else 2.0
        check("aten.mul.Tensor", (x, other), {}, within)
        check("aten.matmul.default", (x, other.mT), {}, within)
        check("aten.bmm.default", (x, other.mT), {}, within)
        check("aten.einsum.default", ("bik,bjk->bij", [x, other]), {}, within)
        check("aten.linalg_vecdot.default", (x, other), {}, 2.0)


def test_real_products_take_no_more() -> None:
    x = given(False, "row-major")
    check("aten.mul.Tensor", (x, x), {}, 1.0)
    check("aten.linalg_vecdot.default", (x, x), {}, 1.03)
