"""What Fourier transforms and complex numbers take beside their outputs.

The CPU's library reads signals whose batch dimensions lie as one, in any order, and leaves its
output with the transformed dimensions innermost; anything else is copied first. Read off the
allocator's events with torch 2.13, by ``tests/search_space/test_workspace_fourier.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from search_space.graph import ITEM_BYTES
from search_space.kernel_call import Call, Workspace, copy_bytes, on_cpu
from search_space.layout import Layout, contiguous, dense_like, reshaped
from search_space.workspace_products import PRODUCT_WORKSPACES

# -- transforms ----------------------------------------------------------------------------------


def _is_complex(dtype: str) -> bool:
    return dtype.startswith("complex")


def _complex_bytes(dtype: str) -> int:
    """Bytes of a complex number of a dtype's precision."""
    item = ITEM_BYTES[dtype]
    return item if _is_complex(dtype) else 2 * max(item, 4)


def _order(layout: Layout, dims: Sequence[int]) -> list[int]:
    """Batch dimensions as they lie in memory, then the transformed ones."""
    batch = [dim for dim in range(len(layout.shape)) if dim not in dims]
    return [*sorted(batch, key=lambda dim: -layout.strides[dim]), *dims]


def _is_read_in_place(layout: Layout, dims: Sequence[int]) -> bool:
    """Whether the batch dimensions lie as one (``_exec_fft`` in ATen)."""
    batch = _order(layout, dims)[: len(layout.shape) - len(dims)]
    shape = tuple(layout.shape[dim] for dim in batch)
    given = Layout(shape, tuple(layout.strides[dim] for dim in batch))
    return not batch or reshaped(given, (prod(shape),)) is not None


def _transformed(layout: Layout, dims: Sequence[int]) -> Layout:
    """How the output of a transform lies."""
    order = _order(layout, dims)
    steps = dict(zip(order, contiguous([layout.shape[d] for d in order]).strides, strict=True))
    return Layout(layout.shape, tuple(steps[dim] for dim in range(len(order))))


def _resized(layout: Layout, dims: Sequence[int], sizes: Sequence[int]) -> tuple[Layout, bool]:
    """With other sizes along the dimensions, and whether that takes a copy padded with zeros."""
    shape = list(layout.shape)
    for dim, size in zip(dims, sizes, strict=True):
        shape[dim] = size
    is_padded = any(new > old for new, old in zip(shape, layout.shape, strict=True))
    return (contiguous(shape) if is_padded else Layout(tuple(shape), layout.strides)), is_padded


def _asked(call: Call, several: bool, last: bool) -> tuple[list[int], list[int | None]]:
    """The dimensions to transform, and the sizes that they are brought to (None: their own).

    Args:
        several: whether the op takes lists of them.
        last: whether it transforms two dimensions where none are given.
    """
    rank = len(call.operands[0].layout.shape)
    sizes, dims = call.argument(1, "s" if several else "n"), call.argument(2, "dim")
    given = [n for n in sizes if isinstance(n, int)] if isinstance(sizes, tuple) else []
    if not several:
        given = [sizes] if isinstance(sizes, int) else []
        dims = (dims if isinstance(dims, int) else -1,)
    elif not isinstance(dims, tuple):
        dims = tuple(range(-2, 0)) if last else tuple(range(-(len(given) or rank), 0))
    found = [dim % rank for dim in dims if isinstance(dim, int)]
    wanted: list[int | None] = [n if n >= 0 else None for n in given]
    return found, wanted or [None] * len(found)


def _transform(kind: str, several: bool = False, last: bool = False) -> Workspace:
    """A transform of a kind: ``real`` (to half of a spectrum), ``complex``, ``back`` (from half a
    spectrum to real numbers), ``conjugate`` (the same of the conjugate)."""

    def workspace(call: Call) -> int:
        first = call.operands[0]
        dims, sizes = _asked(call, several, last)
        layout, cast = first.layout, 0
        is_real = kind == "real" or (kind == "complex" and not several)
        item = _complex_bytes(first.dtype)
        if not _is_complex(first.dtype):
            if is_real:
                item //= 2
            else:  # cast first
                cast = layout.numel * item
                layout = dense_like(layout.shape, layout.strides)
        to_real = kind in ("back", "conjugate")
        wanted = [
            layout.shape[dim] if size is None else size
            for dim, size in zip(dims, sizes, strict=True)
        ]
        if to_real and dims:
            wanted[-1] = call.shape[dims[-1]] // 2 + 1
        layout, is_padded = _resized(layout, dims, wanted)
        whole = layout.numel * item
        output = prod(call.shape) * ITEM_BYTES[call.dtype]
        taken = cast + whole - output if is_padded else 0
        # of one dimension, what was cast goes when it has been padded
        standing = (whole if is_padded else 0) + (0 if is_padded and not several else cast)
        if kind == "conjugate":  # which is lazy until then
            standing += whole
            layout = dense_like(layout.shape, layout.strides)
        if to_real and len(dims) > 1:  # the last dimension after all others
            first_dims, dims = dims[:-1], dims[-1:]
            copied = 0 if _is_read_in_place(layout, first_dims) else whole
            taken = max(taken, standing + whole + copied - output)
            layout = _transformed(layout, first_dims)
            standing += whole
        copied = 0 if _is_read_in_place(layout, dims) else whole
        return max(taken, standing + copied)

    return workspace


def _half_spectrum(call: Call) -> int:
    if call.device.startswith("cpu"):
        return _transform("real")(call)
    return copy_bytes(call.operands[0])


def _shift(call: Call) -> int:
    """Dimensions are rolled one by one, and each result stays to the end."""
    dims = call.argument(1, "dim")
    rank = len(call.operands[0].layout.shape)
    count = len(dims) if isinstance(dims, tuple) else 1 if isinstance(dims, int) else rank
    return (max(count, 1) - 1) * call.operands[0].nbytes


def _windowed(call: Call) -> int:
    """The frames of all windows."""
    length = call.argument(1, "n_fft", 0)
    # (batch, frequencies, frames), with two real numbers last where the output is not complex
    shape = call.shape if _is_complex(call.dtype) else call.shape[:-1]
    if not isinstance(length, int) or len(shape) < 2:
        return 0
    batch = prod(shape[:-2])
    padded = 2 * call.operands[0].nbytes if _is_complex(call.operands[0].dtype) else 0
    return ITEM_BYTES[call.operands[0].dtype] * length * (batch * shape[-1] + 1) + padded


def _overlapped(call: Call) -> int:
    """Frames, and these times their windows; the signal that they are added up to, and its ends."""
    length = call.argument(1, "n_fft", 0)
    first = call.operands[0].layout.shape
    if not isinstance(length, int) or len(first) < 2:
        return 0
    batch = prod(first[:-2])
    item = ITEM_BYTES[call.dtype]
    signal = (prod(call.shape) + 2 * batch * length) * item
    frames = batch * first[-1] * length * item
    return 2 * frames + signal + 2 * signal // max(batch, 1)


# -- complex numbers -----------------------------------------------------------------------------


def _to_real(call: Call) -> int:
    """The result in complex numbers first."""
    first = call.operands[0]
    return first.nbytes if _is_complex(first.dtype) else 0


def _conjugate(call: Call) -> int:
    """A conjugate is a lazy view, which most kernels must make real; what is told of an operand
    does not say, so that the largest which may be one is taken for one."""
    return max(
        (one.nbytes for one in call.operands if _is_complex(one.dtype) and not one.is_parameter),
        default=0,
    )


def _product(op: str) -> Workspace:
    plain = PRODUCT_WORKSPACES[op]

    def workspace(call: Call) -> int:
        return plain(call) + (_conjugate(call) if call.device.startswith("cpu") else 0)

    return workspace


def _vecdot(call: Call) -> int:
    """All products; of complex numbers the conjugate, too, and the second tensor if it is one."""
    whole = max(one.layout.numel for one in call.operands) * ITEM_BYTES[call.dtype]
    return whole + sum(one.nbytes for one in call.operands if _is_complex(one.dtype))




FOURIER_WORKSPACES: dict[str, Workspace] = {
    "aten.fft_rfft": _half_spectrum,
    "aten.fft_ihfft": on_cpu(_transform("real")),
    "aten.fft_rfft2": on_cpu(_transform("real", several=True, last=True)),
    "aten.fft_rfftn": on_cpu(_transform("real", several=True)),
    **dict.fromkeys(("aten.fft_fft", "aten.fft_ifft"), on_cpu(_transform("complex"))),
    **dict.fromkeys(
        ("aten.fft_fft2", "aten.fft_ifft2"), on_cpu(_transform("complex", several=True, last=True))
    ),
    **dict.fromkeys(
        ("aten.fft_fftn", "aten.fft_ifftn"), on_cpu(_transform("complex", several=True))
    ),
    "aten.fft_irfft": on_cpu(_transform("back")),
    "aten.fft_irfft2": on_cpu(_transform("back", several=True, last=True)),
    "aten.fft_irfftn": on_cpu(_transform("back", several=True)),
    "aten.fft_hfft": on_cpu(_transform("conjugate")),
    **dict.fromkeys(("aten.fft_fftshift", "aten.fft_ifftshift"), _shift),
    "aten.stft": _windowed,
    "aten.istft": _overlapped,
    "aten.abs": _to_real,
    "aten.angle": _to_real,
    "aten.linalg_vecdot": _vecdot,
    "aten.mul": _conjugate,
    **{
        f"aten.{name}": _product(f"aten.{name}")
        for name in ("matmul", "bmm", "baddbmm", "linear", "einsum")
    },
}
