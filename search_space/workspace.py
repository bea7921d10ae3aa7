"""Bytes that a kernel allocates beside its output, told from its arguments' layouts.

Only what goes through the framework's allocator is counted: copies of arguments that a kernel
cannot read in place, statistics, a library's reordered tensors. One table a family of ops; an op
that stands in none takes nothing, but for what elementwise ops convert.
"""

from __future__ import annotations

from search_space.kernel_call import Call, Operand, Workspace
from search_space.workspace_attention import ATTENTION_WORKSPACES
from search_space.workspace_composites import COMPOSITE_WORKSPACES
from search_space.workspace_convolution import CONVOLUTION_WORKSPACES
from search_space.workspace_fourier import FOURIER_WORKSPACES
from search_space.workspace_kernels import KERNEL_WORKSPACES
from search_space.workspace_linalg import LINALG_WORKSPACES
from search_space.workspace_losses import LOSS_WORKSPACES
from search_space.workspace_products import PRODUCT_WORKSPACES
from search_space.workspace_promotion import promotion_bytes
from search_space.workspace_recurrent import RECURRENT_WORKSPACES

__all__ = ["Call", "Operand", "workspace_bytes"]

_WORKSPACES: dict[str, Workspace] = {
    **PRODUCT_WORKSPACES,
    **KERNEL_WORKSPACES,
    **CONVOLUTION_WORKSPACES,
    **ATTENTION_WORKSPACES,
    **COMPOSITE_WORKSPACES,
    **LOSS_WORKSPACES,
    **LINALG_WORKSPACES,
    **RECURRENT_WORKSPACES,
    # (complex products: what is told of real ones, and more)
    **FOURIER_WORKSPACES,
}


def workspace_bytes(op: str, call: Call, *, elementwise: bool = False) -> int:
    """Bytes that the op's kernel allocates and frees beside its output: what its table says, 0 for
    ops in none, and what an elementwise op converts.

    Args:
        elementwise: whether the op is one that computes element by element.
    """
    if not call.operands:
        return 0
    found = _WORKSPACES.get(op) or _WORKSPACES.get(op.rpartition(".")[0])
    taken = found(call) if found is not None else 0
    return taken + (promotion_bytes(op, call) if elementwise else 0)
