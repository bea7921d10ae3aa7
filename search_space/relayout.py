"""How a loop lays out what it gives out.

As captured, mostly, so that views of it taken outside stay valid. One case is better otherwise: a
permuted view that only matrix products read, which cannot take it as it lies and would each copy
it, whole or matrix by matrix (in a loop: in every pass). A loop that gives out such a view writes
it row-major instead. The products' own outputs do not depend on how their arguments lie, so that
nobody else can tell.
"""

from __future__ import annotations

from search_space.graph import ALIAS, PARAMETER, POINTWISE, SizedGraph
from search_space.layout import Layout, contiguous, dense_like, is_dense
from search_space.workspace import Call, Operand, workspace_bytes

_PRODUCTS = frozenset({"aten.matmul", "aten.bmm", "aten.mm"})


def output_layout(graph: SizedGraph, node: int) -> Layout:
    """The layout of a node's tensor where a loop gives it out."""
    tensor = graph.nodes[node].output
    if is_relaid(graph, node):
        return contiguous(tensor.shape)
    layout = Layout(tensor.shape, tensor.strides)
    # elementwise ops keep the order of dimensions, and views of what they give rely on it
    return layout if is_dense(layout) else dense_like(tensor.shape, tensor.strides)


def is_relaid(graph: SizedGraph, node: int) -> bool:
    """Whether a loop that gives this node out lays it out otherwise than captured for the sake of
    the products that read it."""
    users = graph.users[node]
    if ALIAS not in graph.nodes[node].traits or node in graph.output_nodes or not users:
        return False
    if any(graph.nodes[user].op.rpartition(".")[0] not in _PRODUCTS for user in users):
        return False
    return any(
        node_workspace_bytes(graph, user, frozenset({node})) < node_workspace_bytes(graph, user)
        for user in users
    )


def node_workspace_bytes(
    graph: SizedGraph, node: int, row_major: frozenset[int] = frozenset()
) -> int:
    """What a node's kernel allocates beside its output when it runs whole.

    Args:
        row_major: arguments that do not lie as captured.
    """
    own = graph.nodes[node]
    if graph.is_leaf[node] or not own.refs:
        return 0
    operands = []
    for place, (_, ref) in enumerate(own.refs):
        tensor = graph.nodes[ref].output
        layout = Layout(tensor.shape, tensor.strides)
        if ref in row_major:
            layout = contiguous(tensor.shape)
        is_parameter = graph.nodes[ref].kind == PARAMETER
        operands.append(Operand(place, layout, tensor.dtype, is_parameter))
    out = own.output
    call = Call(tuple(operands), own.args, out.shape, out.dtype, out.device, own.kwargs)
    return workspace_bytes(own.op, call, elementwise=POINTWISE in own.traits)
