"""Why a plan chunks nothing, in words."""

from __future__ import annotations

import numpy as np

from cost_models.select import mib
from search_space.dim_rules import flow
from search_space.graph import SizedNode
from tuner.runtime.analysis import Analysis
from tuner.runtime.choose import ANALYTIC, Chosen


def why_unchunked(analysis: Analysis, chosen: Chosen) -> str:
    """One line for a plan without loops: the budget is kept anyhow or, where a lower peak was
    looked for, what stands at the peak and why no loop helps there."""
    heading = "nothing is chunked"
    if chosen.limit_bytes is None or not chosen.source.startswith(ANALYTIC):
        return heading  # the plan's source says why
    if chosen.peak_bytes < chosen.limit_bytes:
        return f"{heading}: the captured model keeps the budget of {mib(chosen.limit_bytes)}"
    profile = analysis.memory.profile()
    if not len(profile.live_bytes):
        return f"{heading}: the graph computes nothing"
    place = int(np.argmax(profile.live_bytes))
    node = analysis.sized.nodes[int(profile.order.running[place])]
    return f"{heading}: no loop lowers the peak, which stands at {_at(analysis, node, place)}"


def _at(analysis: Analysis, node: SizedNode, place: int) -> str:
    """A node at the peak: what is alive there, and what slicing it would do."""
    live = int(analysis.memory.profile().live_bytes[place])
    work = analysis.memory.workspace_bytes[node.index]
    made = 0 if analysis.sized.base[node.index] != node.index else sum(
        tensor.nbytes for tensor in node.outputs
    )  # fmt: skip
    where = f" of {node.module}" if node.module else ""
    return (
        f"{node.label} ({node.op}{where}): {mib(made)} of output {node.output.shape}, {mib(work)} "
        f"inside its kernel, {mib(live - made - work)} of other tensors; {_slicing(analysis, node)}"
    )


def _slicing(analysis: Analysis, node: SizedNode) -> str:
    around = sum(
        any(node.index in region.nodes for region in item.regions)
        for item in analysis.space.classes
    )
    if around:
        return f"the {around} kinds of loops found around it need as much, or cost too much time"
    shape = node.output.shape
    dims = [
        str(dim) for dim, size in enumerate(shape)
        if size > 1 and flow(analysis.sized, node.index, dim, analysis.probe) is not None
    ]  # fmt: skip
    if not dims:
        return "it cannot be sliced along any dimension"
    return f"slices along dimension {' or '.join(dims)}, which it allows, need as much"
