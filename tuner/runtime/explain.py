"""A plan as a person reads it, and the code that was generated for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch

from cost_models.select import mib
from search_space.dim_rules import find_rule
from search_space.graph import ALIAS, LEAVES, OPAQUE, POINTWISE, RANDOM, SizedGraph
from search_space.liveness import MemoryModel, inner_choices
from search_space.plan import Choice
from search_space.regions import Loop
from tuner.runtime.analysis import Analysis
from tuner.runtime.choose import Chosen
from tuner.runtime.loop import ChunkLoop
from tuner.runtime.unchunked import why_unchunked


def explain_plan(analysis: Analysis, chosen: Chosen) -> str:
    """Which modules run in a loop, over which dimension, in how many chunks, and what it saves."""
    memory = analysis.memory
    before = memory.profile().peak_bytes
    sizes = ", ".join(f"{name}={value}" for name, value in analysis.bindings.items())
    fused = "; attention runs fused" if "sdpa" in analysis.graph.rewrites else ""
    lines = [
        f"graph {analysis.graph.fingerprint} at {sizes or 'fixed sizes'}{fused}; "
        f"plan: {chosen.source}",
        f"predicted activation peak {mib(chosen.peak_bytes)}, unchunked {mib(before)} "
        f"({chosen.peak_bytes / max(before, 1):.2f}x)",
    ]
    active = memory.active(chosen.plan.choices)
    if not active:
        lines.append(why_unchunked(analysis, chosen))
    for place, (choice, loops) in enumerate(active):
        lines.append(_choice_line(f"  {place + 1}.", choice, loops))
        lines.extend(_inner_lines(memory, choice, loops[0]))
        without = [other for other, _ in active if other is not choice]
        alone = memory.profile(without).peak_bytes
        lines.append(f"     without it the peak would be {mib(alone)}")
    lines.extend(_unknown_ops(memory.graph))
    return "\n".join(lines)


def region_title(loop: Loop) -> str:
    """A region by the modules it spans and the tensor it ends in."""
    graph = loop.graph
    paths = [graph.nodes[n].module for n in loop.region.nodes if graph.nodes[n].module]
    where = _common_prefix([path.split(".") for path in paths])
    leaves = list(dict.fromkeys(path[len(".".join(where)) :].lstrip(".") for path in paths))
    inner = ", ".join(leaf for leaf in leaves if leaf)
    name = ".".join(where) or "model"
    return f"{name} ({inner})" if inner else name


def _common_prefix(paths: Sequence[list[str]]) -> list[str]:
    """What all paths start with."""
    if not paths:
        return []
    first, last = min(paths), max(paths)
    same = 0
    while same < min(len(first), len(last)) and first[same] == last[same]:
        same += 1
    return first[:same]


def dimension_text(loop: Loop) -> str:
    """The chunk dimension of a region's last output: ``dimension 2 of (1, 12, 512, 512)``."""
    place = len(loop.region.nodes) - 1
    widest = max(
        range(len(loop.region.nodes)),
        key=lambda k: loop.graph.nodes[loop.region.nodes[k]].output.nbytes,
    )
    node = loop.graph.nodes[loop.region.nodes[widest]]
    dim = loop.region.dims[widest]
    last = loop.graph.nodes[loop.region.nodes[place]]
    return f"dimension {dim} of {node.label} {node.output.shape}, ending in {last.label}"


def ops_text(loop: Loop) -> str:
    """What a region computes, views left out: ``2 matmul, softmax``."""
    graph = loop.graph
    ops = Counter(graph.nodes[n].op.split(".")[1] for n in loop.region.nodes
                  if ALIAS not in graph.nodes[n].traits and "." in graph.nodes[n].op)  # fmt: skip
    return ", ".join(f"{count} {op}" if count > 1 else op for op, count in ops.items())


def _inner_lines(memory: MemoryModel, choice: Choice, loop: Loop) -> list[str]:
    """The loops inside a loop."""
    if not choice.inner:
        return []
    body = memory.inside(loop, choice.chunk_size)
    return [
        _choice_line("     inside it,", inner, loops)
        for inner, loops in body.active(inner_choices(loop, choice))
    ]


def _choice_line(heading: str, choice: Choice, loops: Sequence[Loop]) -> str:
    loop = loops[0]
    times = f", {len(loops)} times" if len(loops) > 1 else ""
    return (
        f"{heading} {region_title(loop)}{times}: {dimension_text(loop)}; "
        f"{loop.passes(choice.chunk_size)} chunks of {choice.chunk_size} "
        f"(of {loop.extent} units)\n     computes {ops_text(loop)}"
    )


def not_understood(graph: SizedGraph) -> dict[str, int]:
    """Ops that no rule covers, with the bytes of their largest output, largest first; only the
    probe may let a region contain them."""
    unknown: dict[str, int] = {}
    for node in graph.nodes:
        if node.kind in LEAVES or node.op == "getitem":
            continue
        known = find_rule(node.op) is not None or POINTWISE in node.traits
        if not known or {RANDOM, OPAQUE} & node.traits:
            unknown[node.op] = max(unknown.get(node.op, 0), node.output.nbytes)
    return dict(sorted(unknown.items(), key=lambda item: -item[1]))


def _unknown_ops(graph: SizedGraph) -> list[str]:
    unknown = not_understood(graph)
    if not unknown:
        return []
    text = ", ".join(f"{op} (up to {mib(size)})" for op, size in list(unknown.items())[:8])
    more = f" and {len(unknown) - 8} more" if len(unknown) > 8 else ""
    return [f"not understood by rule, left to the probe or unchunked: {text}{more}"]


def module_code(module: torch.fx.GraphModule) -> str:
    """The generated Python of a rewritten model: its forward, and each distinct body once."""
    return "\n\n".join([module.code.strip(), *_loop_codes(module, "", {})])


def _loop_codes(module: torch.fx.GraphModule, path: str, seen: dict[int, str]) -> list[str]:
    """The bodies of a module's loops, and of the loops inside them; ``seen`` holds those told."""
    parts = []
    for name, child in module.named_children():
        if not isinstance(child, ChunkLoop):
            continue
        title = f"# {path}{name}: units of {child.chunk_size} out of {child.extent}"
        for what, body in (("body", child.body), ("body of the last pass", child.tail)):
            if body is None:
                continue
            if id(body) in seen:
                parts.append(f"{title}, {what} as in {seen[id(body)]}")
                continue
            seen[id(body)] = f"{path}{name}"
            parts.append(f"{title}, {what}:\n{body.code.strip()}")
            parts.extend(_loop_codes(body, f"{path}{name}.", seen))
    return parts
