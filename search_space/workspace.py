"""Bytes that a kernel allocates beside its output, told from its arguments' layouts.

Only what goes through the framework's allocator is counted: copies of arguments that a kernel
cannot read in place, statistics, a library's reordered tensors. One table a family of ops; an op
that stands in none takes nothing.
"""

from __future__ import annotations

from search_space.kernel_call import Call, Operand, Workspace
from search_space.workspace_attention import ATTENTION_WORKSPACES
from search_space.workspace_convolution import CONVOLUTION_WORKSPACES
from search_space.workspace_kernels import KERNEL_WORKSPACES
from search_space.workspace_products import PRODUCT_WORKSPACES
from search_space.workspace_promotion import promotion_bytes

__all__ = ["Call", "Operand", "workspace_bytes"]

_WORKSPACES: dict[str, Workspace] = {
    **PRODUCT_WORKSPACES,
    **KERNEL_WORKSPACES,
    **CONVOLUTION_WORKSPACES,
    **ATTENTION_WORKSPACES,
}


def workspace_bytes(op: str, call: Call, *, elementwise: bool = False) -> int:
    """Bytes that the op's kernel allocates and frees beside its output; of ops in no table, what
    elementwise ones convert, else 0.

    Args:
        elementwise: whether the op is one that computes element by element.
    """
    if not call.operands:
        return 0
    found = _WORKSPACES.get(op) or _WORKSPACES.get(op.rpartition(".")[0])
    if found is not None:
        return found(call)
    return promotion_bytes(op, call) if elementwise else 0
