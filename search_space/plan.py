"""Plans: which regions run in a loop, and in how large chunks.

A plan is a frozen value that belongs to one graph, named by its fingerprint, and refers to nodes
by their place there. It holds decisions alone, so that it can be compared, hashed, written to YAML
and applied at another length.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from search_space.errors import PlanError


@dataclass(frozen=True, slots=True)
class Region:
    """A convex set of nodes, with the dimension in which each node's output is sliced.

    Attributes:
        nodes: ascending places in the graph.
        dims: for each of them, the chunk dimension of its output.
        recomputed: those of ``nodes`` that are cheap and computed again inside the loop, while the
            original stays outside for its other users.
        shared: those of ``recomputed``, such as a mask, that are the same nodes in all occurrences
            of the region's class; all others stand elsewhere in each.
    """

    nodes: tuple[int, ...]
    dims: tuple[int, ...]
    recomputed: tuple[int, ...] = ()
    shared: tuple[int, ...] = ()
    _hash: int = field(init=False, repr=False, compare=False, default=0)

    def __post_init__(self) -> None:
        # regions are looked up far more often than they are made
        fields = (self.nodes, self.dims, self.recomputed, self.shared)
        object.__setattr__(self, "_hash", hash(fields))
        if not self.nodes:
            raise PlanError("a region has no nodes")
        if self.nodes != tuple(sorted(set(self.nodes))):
            raise PlanError(f"a region's nodes must ascend, got {self.nodes}")
        if len(self.dims) != len(self.nodes):
            raise PlanError(f"{len(self.nodes)} nodes need as many dims, got {len(self.dims)}")
        if min(self.dims) < 0:
            raise PlanError(f"chunk dimensions are not negative, got {self.dims}")
        if not set(self.recomputed) <= set(self.nodes[:-1]):
            raise PlanError(
                f"recomputed nodes {self.recomputed} must be in the region, and not its last"
            )
        if not set(self.shared) <= set(self.recomputed):
            raise PlanError(f"shared nodes {self.shared} must be among {self.recomputed}")

    def __hash__(self) -> int:
        return self._hash

    @property
    def anchor(self) -> int:
        """Its last node: where the class pattern is hung."""
        return self.nodes[-1]

    def shifted(self, by: int) -> Region:
        """The region ``by`` places further on; shared nodes stay where they are."""
        if not self.shared:
            return Region(
                tuple(node + by for node in self.nodes),
                self.dims,
                tuple(node + by for node in self.recomputed),
            )
        pairs = sorted(
            (node if node in self.shared else node + by, dim)
            for node, dim in zip(self.nodes, self.dims, strict=True)
        )
        return Region(
            tuple(node for node, _ in pairs),
            tuple(dim for _, dim in pairs),
            tuple(sorted(n if n in self.shared else n + by for n in self.recomputed)),
            self.shared,
        )

    def renumbered(self, by: int) -> Region:
        """The region in a graph in which every node stands ``by`` places further on."""
        nodes, again, shared = (
            tuple(node + by for node in part) for part in (self.nodes, self.recomputed, self.shared)
        )
        return Region(nodes, self.dims, again, shared)


@dataclass(frozen=True, slots=True)
class Choice:
    """One region class and how it runs: in every occurrence alike.

    Attributes:
        regions: the occurrences, ascending by anchor; disjoint.
        chunk_size: how many of the region's units a pass of the loop takes; at least 1.
        inner: choices inside the body. Their regions name the outer region's nodes by their places
            in it, and so are the same for all occurrences.
        compiled: whether the body is compiled.
    """

    regions: tuple[Region, ...]
    chunk_size: int
    inner: tuple[Choice, ...] = ()
    compiled: bool = False

    def __post_init__(self) -> None:
        if not self.regions:
            raise PlanError("a choice has no regions")
        if self.chunk_size < 1:
            raise PlanError(f"chunk_size must be at least 1, got {self.chunk_size}")
        members = len(self.regions[0].nodes)
        for choice in self.inner:
            if any(region.nodes[-1] >= members for region in choice.regions):
                raise PlanError(f"an inner region leaves the {members} nodes of the outer one")
        _check_choices(self.inner)


@dataclass(frozen=True, slots=True)
class Plan:
    """The decisions for one graph. The default value leaves the model unchanged.

    Attributes:
        fingerprint: of the graph, after the rewrites.
        choices: ascending by first node; no node is in two of them, unless recomputed.
        rewrites: names of graph passes that run first.
        stretches: whether what stands between loops is compiled; all of it, where there are none.
    """

    fingerprint: str
    choices: tuple[Choice, ...] = ()
    rewrites: tuple[str, ...] = ()
    stretches: bool = False

    def __post_init__(self) -> None:
        _check_choices(self.choices)

    @property
    def compiled(self) -> bool:
        """Whether any of it runs compiled."""
        return self.stretches or self.bodies

    @property
    def bodies(self) -> bool:
        """Whether what passes compute is compiled, of any loop."""
        return any(choice.compiled for choice in self.choices)

    def as_compiled(self) -> Plan:
        """The same decisions, all of it compiled."""
        compiled = tuple(replace(choice, compiled=True) for choice in self.choices)
        return replace(self, choices=compiled, stretches=True)

    def compiled_but(self, regions: tuple[Region, ...]) -> Plan:
        """The same plan with the loops of one choice not compiled, named by its regions."""
        choices = tuple(
            replace(choice, compiled=False) if choice.regions == regions else choice
            for choice in self.choices
        )
        return replace(self, choices=choices)


def _check_choices(choices: Sequence[Choice]) -> None:
    """That no node is in two of them, unless recomputed, and that they ascend."""
    parts = [
        set(region.nodes).difference(region.recomputed) if region.recomputed else region.nodes
        for choice in choices
        for region in choice.regions
    ]
    if len(set[int]().union(*parts)) != sum(map(len, parts)):
        counts = Counter(node for part in parts for node in part)
        twice = sorted(node for node, count in counts.items() if count > 1)
        raise PlanError(f"two choices share the nodes {twice}")
    firsts = [choice.regions[0].nodes for choice in choices]
    if firsts != sorted(firsts):
        raise PlanError("a plan's choices must ascend by their first region")


def encode_ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers as text: ``-5..-2,0``."""
    parts: list[str] = []
    start = previous = None
    for number in [*numbers, None]:
        if start is None or previous is None:
            start = previous = number
        elif number is not None and number == previous + 1:
            previous = number
        else:
            parts.append(str(start) if start == previous else f"{start}..{previous}")
            start = previous = number
    return ",".join(parts)


MOST_NODES = 1_000_000
"""Nodes in all occurrences of a class; a short text can name millions."""


def decode_ranges(text: str, most: int = MOST_NODES) -> tuple[int, ...]:
    """The inverse of :func:`encode_ranges`, for up to ``most`` numbers.

    Raises:
        PlanError: the text is not of that form, or of more numbers.
    """
    numbers: list[int] = []
    for part in text.split(",") if text else []:
        first, dots, last = part.partition("..")
        try:
            low = int(first)
            high = int(last) if dots else low
        except ValueError:
            raise PlanError(f"{text!r} is no list of ranges like '-5..-2,0'") from None
        if high < low or high - low >= most - len(numbers):
            raise PlanError(f"the range {part!r} runs backwards or is too long")
        numbers.extend(range(low, high + 1))
    return tuple(numbers)


def encode_regions(regions: Sequence[Region]) -> dict[str, Any]:
    """A class of regions as a compact mapping of plain values.

    Nodes stand relative to the anchor (``again`` names those recomputed), shared ones by their own
    places (``recomputed``); the anchors of all occurrences follow.
    """
    first = regions[0]
    for region in regions:
        if region != first.shifted(region.anchor - first.anchor):
            raise PlanError("the regions of one choice must be the same up to position")
    pairs = list(zip(first.nodes, first.dims, strict=True))
    own = [(node - first.anchor, dim) for node, dim in pairs if node not in first.shared]
    again = [node - first.anchor for node in first.recomputed if node not in first.shared]
    row: dict[str, Any] = {
        "nodes": encode_ranges([node for node, _ in own]),
        "dims": _encode_runs([dim for _, dim in own]),
    }
    if again:
        row["again"] = encode_ranges(again)
    if first.shared:
        row["recomputed"] = encode_ranges(first.shared)
        row["recomputed_dims"] = _encode_runs([dim for node, dim in pairs if node in first.shared])
    row["at"] = [region.anchor for region in regions]
    return row


def decode_regions(row: Mapping[str, Any], most: int = MOST_NODES) -> tuple[Region, ...]:
    """The inverse of :func:`encode_regions`, for up to ``most`` nodes in all occurrences.

    Raises:
        PlanError: a field is missing or malformed, or there are more nodes.
    """
    try:
        most = min(most, MOST_NODES)
        nodes = decode_ranges(str(row["nodes"]), most)
        dims = _decode_runs(str(row["dims"]), most)
        again = decode_ranges(str(row.get("again", "")), most)
        shared = decode_ranges(str(row.get("recomputed", "")), most)
        shared_dims = _decode_runs(str(row["recomputed_dims"]), most) if shared else ()
        anchors = [whole(anchor) for anchor in _listed(row["at"])]
        if not anchors:
            raise ValueError("it stands nowhere")
        if len(anchors) * (len(nodes) + len(shared)) > most:
            raise ValueError(f"it has more than {most} nodes")
        first = anchors[0]
        pairs = sorted([
            *zip((node + first for node in nodes), dims, strict=True),
            *zip(shared, shared_dims, strict=True),
        ])  # fmt: skip
        pattern = Region(
            tuple(node for node, _ in pairs),
            tuple(dim for _, dim in pairs),
            tuple(sorted([*(node + first for node in again), *shared])),
            shared,
        )
        return (pattern, *(pattern.shifted(anchor - first) for anchor in anchors[1:]))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        text = repr(row)
        raise PlanError(
            f"a region definition is malformed: {error!r} in {text[:200]}"
        ) from error


def whole(value: Any) -> int:
    """A whole number as it is: 2.7 is no chunk size."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{value!r} is no whole number")
    return value


def _listed(value: Any) -> Sequence[Any]:
    """A list as it is: the text "12" is no list of anchors."""
    if not isinstance(value, (list, tuple)):
        raise TypeError(f"{value!r} is no list")
    return value


def _encode_runs(numbers: Sequence[int]) -> str:
    """``(2, 2, 2, 1)`` as ``2x3,1``."""
    parts: list[str] = []
    position = 0
    while position < len(numbers):
        run = position
        while run < len(numbers) and numbers[run] == numbers[position]:
            run += 1
        count = run - position
        parts.append(f"{numbers[position]}x{count}" if count > 1 else str(numbers[position]))
        position = run
    return ",".join(parts)


def _decode_runs(text: str, most: int = MOST_NODES) -> tuple[int, ...]:
    numbers: list[int] = []
    for part in text.split(","):
        value, times, count = part.partition("x")
        repeat = int(count) if times else 1
        if not 0 < repeat <= most - len(numbers):
            raise ValueError(f"run {part!r}")
        numbers.extend([int(value)] * repeat)
    return tuple(numbers)


def encode_plan(plan: Plan) -> dict[str, Any]:
    """A plan as plain values, for a file or another process."""
    row: dict[str, Any] = {
        "fingerprint": plan.fingerprint,
        "rewrites": list(plan.rewrites),
        "choices": [_encode_choice(choice) for choice in plan.choices],
    }
    # (where bodies are compiled, what is between them mostly is too)
    if plan.stretches != plan.bodies:
        row["stretches"] = plan.stretches
    return row


def decode_plan(row: Mapping[str, Any]) -> Plan:
    """The inverse of :func:`encode_plan`.

    Raises:
        PlanError: a field is missing or malformed.
    """
    try:
        choices = tuple(_decode_choice(choice) for choice in row["choices"])
        return Plan(
            str(row["fingerprint"]),
            choices,
            tuple(str(name) for name in row.get("rewrites", ())),
            bool(row.get("stretches", any(choice.compiled for choice in choices))),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise PlanError(f"a plan is malformed: {error!r}") from error


def _encode_choice(choice: Choice) -> dict[str, Any]:
    row: dict[str, Any] = {
        "regions": encode_regions(choice.regions),
        "chunk_size": choice.chunk_size,
    }
    if choice.inner:
        row["inner"] = [_encode_choice(one) for one in choice.inner]
    if choice.compiled:
        row["compiled"] = True
    return row


def _decode_choice(row: Mapping[str, Any]) -> Choice:
    return Choice(
        decode_regions(row["regions"]),
        whole(row["chunk_size"]),
        tuple(_decode_choice(one) for one in _listed(row.get("inner", ()))),
        bool(row.get("compiled", False)),
    )
