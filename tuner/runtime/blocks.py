"""Targeted submodules: what they share, and how one of them runs its plan."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from search_space.capture import Capture, capture
from search_space.errors import CaptureError, UnsupportedSizes
from search_space.plan import Plan
from search_space.probe import Prober
from tuner.runtime.analysis import Analysis
from tuner.runtime.captures import (
    MOST_CAPTURES,
    CaptureKey,
    Located,
    capture_key,
    locate_in,
    note_values,
)
from tuner.runtime.choose import Chosen
from tuner.runtime.compiled import Compiler
from tuner.runtime.compiled_run import Tried, try_compiled
from tuner.runtime.equal_blocks import Attribute, differing_attributes, skeleton, watch_reads
from tuner.runtime.gate import GATE
from tuner.runtime.generate import generate, with_weights_of
from tuner.runtime.replaced import Replaced
from tuner.runtime.signature import autocast_state, layout
from tuner.runtime.wish import Compiling

_PLAIN_LEAVES = (
    type(None), bool, int, float, complex, str, enum.Enum, torch.dtype, torch.device, torch.layout,
    torch.memory_format, torch.Size,
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Target:
    """A submodule whose forward is replaced; ``name`` is its path in the model."""

    name: str
    replaced: Replaced

    @property
    def module(self) -> torch.nn.Module:
        return self.replaced.module


@dataclass(frozen=True, eq=False)
class Arguments:
    """A target's arguments, flat.

    Attributes:
        key: whatever may change the captured graph or its sizes; devices of inputs apart, so that
            tensors without data have the key of the real ones.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    tensors: tuple[torch.Tensor, ...]
    key: object


def read_arguments(
    target: Target,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    weights: object = None,
) -> Arguments:
    """A call's arguments.

    Args:
        weights: :func:`weights_state` of the target, where it runs with others for a time.

    Raises:
        CaptureError: one is an object that a graph cannot hold, such as a cache.
    """
    leaves, spec = pytree.tree_flatten((args, kwargs))
    signature: list[object] = []
    tensors = []
    for leaf in leaves:
        if isinstance(leaf, torch.Tensor):
            tensors.append(leaf)
            signature.append((tuple(leaf.shape), leaf.dtype, layout(leaf)))
        elif isinstance(leaf, _PLAIN_LEAVES):
            signature.append((type(leaf), leaf))
        else:
            given = {**{f"argument {place}": value for place, value in enumerate(args)}, **kwargs}
            names = [
                name
                for name, value in given.items()
                if any(part is leaf for part in pytree.tree_leaves(value))
            ]
            raise CaptureError(
                f"it is called with an object of type {type(leaf).__name__} "
                f"({names[0]}), which a captured graph cannot hold; where it is a cache, turn it "
                "off (use_cache=False), else target other submodules"
            )
    key = (tuple(signature), spec, autocast_state(), weights or weights_state(target))
    return Arguments(args, kwargs, tuple(tensors), key)


def weights_state(target: Target) -> object:
    """Of what kind the weights are now; they may be moved or cast at any time."""
    weight = next(target.module.parameters(), None)
    return () if weight is None else (weight.dtype, weight.device)


@dataclass(frozen=True)
class _Kept:
    """A capture, the target it was made of, and its plain attributes that the trace read."""

    key: CaptureKey
    captured: Capture
    owner: Target
    reads: frozenset[Attribute]


class Family:
    """Targets of one skeleton, and what was captured of any of them."""

    def __init__(self, members: Sequence[Target]) -> None:
        self.members = tuple(members)
        self._kept: list[_Kept] = []
        self._differing: dict[tuple[str, str], frozenset[Attribute]] = {}

    @property
    def captures(self) -> int:
        """How many captures are kept."""
        return len(self._kept)

    def locate(self, target: Target, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Located:
        """A capture that serves this target's call, else a new one.

        Raises:
            CaptureError: the target cannot be captured.
        """
        target.replaced.check_hooks()
        leaves, spec = pytree.tree_flatten((args, kwargs))
        key = capture_key(leaves, spec, weights_state(target))
        for kept in self._kept:
            if kept.key == key and not self._differ(kept.owner, target) & kept.reads:
                try:
                    return locate_in(kept.captured, leaves)
                except UnsupportedSizes:
                    continue
        watched = frozenset[Attribute]().union(
            *(self._differ(target, other) for other in self.members)
        )
        with (
            GATE.tracing(),
            target.replaced.bare() as module,
            watch_reads(module, watched) as reads,
        ):
            made = capture(module, args, kwargs)
        same = (kept.key for kept in self._kept if kept.owner is target)
        note_values(same, key, args, kwargs, f"target {target.name!r}")
        while len(self._kept) >= MOST_CAPTURES:
            self._kept.pop(0)
        self._kept.append(_Kept(key, made, target, frozenset(reads)))
        return locate_in(made, leaves)

    def _differ(self, one: Target, other: Target) -> frozenset[Attribute]:
        if one is other:
            return frozenset()
        pair = (one.name, other.name)
        if pair not in self._differing:
            self._differing[pair] = differing_attributes(one.module, other.module)
        return self._differing[pair]


def families(targets: Sequence[Target]) -> dict[str, Family]:
    """Each target's family, by the target's name."""
    groups: dict[object, list[Target]] = {}
    for target in targets:
        groups.setdefault(skeleton(target.module), []).append(target)
    return {
        member.name: family
        for family in map(Family, groups.values())
        for member in family.members
    }


@dataclass(frozen=True, eq=False)
class Ready:
    """What runs for a target's calls of one key; ``compiled`` where it is compiled."""

    captured: Capture
    module: fx.GraphModule
    compiled: Tried | None = None

    def run(self, tensors: Sequence[torch.Tensor]) -> Any:
        """The output, in the target's own structure."""
        # casts that autocast asks for were captured: it must not act twice
        device = self.captured.graph.device
        with torch.no_grad(), torch.autocast(device, enabled=False):
            flat = self.module(*tensors)
        return pytree.tree_unflatten(list(flat), self.captured.out_spec)


GraphKey = tuple[object, ...]


def graph_key(located: Located) -> GraphKey:
    """Graphs of one key have one analysis: same structure, same names of weights, same sizes."""
    graph = located.captured.graph
    leaves = tuple(node.op for node in graph.nodes if node.kind != "op")
    return graph.fingerprint, leaves, tuple(sorted(located.bindings.items()))


class Workshop:
    """Analyses and generated code, each made once and shared by all targets that it fits.

    Args:
        compiling: what is compiled; see :class:`tuner.runtime.wish.Wish`.
    """

    def __init__(self, compiling: Compiling = False) -> None:
        self.compiler = None if compiling is False else Compiler(compiling)
        self._all_compiled = bool(compiling)
        self._probe = Prober()
        self._analyses: dict[GraphKey, Analysis] = {}
        self._made: dict[tuple[int, GraphKey, Plan, object], Ready] = {}

    def analysis(self, located: Located) -> Analysis:
        """The analysis of a graph at a call's sizes."""
        key = graph_key(located)
        if key not in self._analyses:
            self._analyses[key] = Analysis.unmeasured(
                located.captured.graph, located.bindings, self._probe,
                compiled=self._all_compiled,
            )  # fmt: skip
        return self._analyses[key]

    def compiles(self, plan: Plan) -> bool:
        """Whether a plan is to run compiled."""
        return self.compiler is not None and (self._all_compiled or plan.compiled)

    def ready(
        self,
        target: Target,
        located: Located,
        chosen: Chosen,
        examples: Callable[[], Sequence[torch.Tensor]] | None = None,
    ) -> Ready:
        """A plan's code, reading the weights of this target.

        Args:
            examples: gives tensors as the target is called with, on which code is compiled and its
                memory measured; without them nothing is compiled.
        """
        captured = located.captured
        if not self.compiles(chosen.plan):
            examples = None
        measured = None if examples is None else (chosen.limit_bytes,)
        key = (id(captured), graph_key(located), chosen.plan, measured)  # (captures are kept)
        if key not in self._made:
            analysis = self.analysis(located)
            module = generate(analysis, chosen.plan, target.module, captured.constants)
            tried = None
            if examples is not None and self.compiler is not None:
                with torch.inference_mode(False):
                    tried = try_compiled(
                        module, self.compiler, examples(), chosen.limit_bytes,
                        self.compiler.options.of(chosen.plan),
                    ).tried  # fmt: skip
            self._made[key] = Ready(captured, module if tried is None else tried.module, tried)
        made = self._made[key]
        return replace(made, module=with_weights_of(made.module, target.module))

    def forget(self) -> None:
        """Free what only choosing plans needed."""
        for analysis in self._analyses.values():
            analysis.memory.forget()

    def clear(self) -> None:
        """Free all."""
        self._analyses.clear()
        self._made.clear()


_DRAWN = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def real_like(value: Any, device: torch.device) -> Any:
    """Arguments without data as ones with data: random numbers, or zeros where they are no plain
    floating point. What is one tensor stays one."""
    made: dict[int, torch.Tensor] = {}
    generator = torch.Generator(device).manual_seed(0)  # (the user's own is left alone)

    def convert(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in made:
            if tensor.is_meta:
                found = torch.empty_strided(
                    tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device
                )
                # (all of its storage, since elements may share places)
                places = found.untyped_storage().nbytes() // found.element_size()
                flat = found.as_strided((places,), (1,))
                if tensor.dtype in _DRAWN:
                    flat.normal_(generator=generator)
                else:
                    flat.zero_()
            else:
                found = tensor.to(device)
            made[id(tensor)] = found
        return made[id(tensor)]

    return pytree.tree_map_only(torch.Tensor, convert, value)


_KEPT_ELEMENTS = 1 << 16
"""Integers of up to so many elements keep their data, since models look into them."""


def without_data(value: Any) -> Any:
    """Arguments as other tensors, small integers with their data and all else without, so that
    nothing keeps the given ones alive."""
    made: dict[int, torch.Tensor] = {}

    def convert(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in made:
            integer = not (tensor.is_floating_point() or tensor.is_complex())
            if integer and not tensor.is_meta and tensor.numel() <= _KEPT_ELEMENTS:
                made[id(tensor)] = tensor.clone()
            else:
                made[id(tensor)] = torch.empty_strided(
                    tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta"
                )
        return made[id(tensor)]

    return pytree.tree_map_only(torch.Tensor, convert, value)


def describe_shapes(arguments: Mapping[str, Any] | tuple[Any, ...]) -> str:
    """The shapes of the tensors among arguments, for messages."""
    tensors = [leaf for leaf in pytree.tree_leaves(arguments) if isinstance(leaf, torch.Tensor)]
    return ", ".join(str(tuple(tensor.shape)) for tensor in tensors)
