"""Named graph passes that a plan may ask for: other kernels for the same numbers.

Unlike the passes of :mod:`search_space.capture_passes`, which always run, these are choices. A plan
names those that run before its regions are looked up; its fingerprint is that of the graph after
them.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence

from search_space.capture_passes import Pass, drop_clones, drop_dead
from search_space.errors import ConfigError, PlanError
from search_space.fuse_attention import fuse_attention
from search_space.graph import Graph

ATTENTION = ("auto", "keep", "sdpa")


@dataclasses.dataclass(frozen=True, slots=True)
class Kernels:
    """Which kernels may take the place of captured operations.

    Attributes:
        attention: ``keep`` what the model asked for; ``sdpa``, fused attention wherever it is
            written out; or ``auto``, the form of which plans are known, else the fused one, in
            whose place ``apply`` takes the other where that is clearly faster within the budget.
    """

    attention: str = "keep"

    def __post_init__(self) -> None:
        if self.attention not in ATTENTION:
            near = difflib.get_close_matches(str(self.attention), ATTENTION, 1, 0.4)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(
                f"kernels.attention must be one of {', '.join(ATTENTION)}, got "
                f"{self.attention!r}{hint}"
            )


AS_CAPTURED = Kernels()
"""The default."""


def parse_kernels(value: object) -> Kernels:
    """Kernels from ``"sdpa"`` or ``{"attention": "sdpa"}``; None for the default.

    Raises:
        ConfigError: another key or value.
    """
    if value is None or isinstance(value, Kernels):
        return value or AS_CAPTURED
    if isinstance(value, str):
        return Kernels(value)
    if not isinstance(value, Mapping) or set(value) - {"attention"}:
        raise ConfigError(
            f"kernels must be a mapping such as {{attention: sdpa}}, with {' | '.join(ATTENTION)}, "
            f"got {value!r}"
        )
    return Kernels(**value)


REWRITES: Mapping[str, Pass] = {"sdpa": fuse_attention}
"""The passes by name."""


def rewritten(graph: Graph, names: Sequence[str]) -> Graph:
    """The graph after these passes, in this order.

    A pass that finds nothing to do leaves no trace: the graph is the same, and does not bear its
    name.

    Raises:
        PlanError: there is no pass of that name.
    """
    for name in names:
        if name not in REWRITES:
            raise PlanError(
                f"this version knows no rewrite {name!r}, only {', '.join(REWRITES)}; the plan was "
                "made by another one"
            )
        rows, outputs = REWRITES[name](graph.nodes, graph.outputs)
        if rows == graph.nodes:
            continue
        for tidy in (drop_clones, drop_dead):
            rows, outputs = tidy(rows, outputs)
        graph = dataclasses.replace(
            graph, nodes=rows, outputs=outputs, rewrites=(*graph.rewrites, name)
        )
    return graph
