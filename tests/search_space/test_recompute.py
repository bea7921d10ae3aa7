"""What loops compute again for themselves: norms and masks; and how plans write that down."""

from __future__ import annotations

from functools import partial

import torch
import yaml

from search_space.candidates import find_classes
from search_space.grow import grow, regenerable
from search_space.liveness import MemoryModel
from search_space.plan import (
    Choice,
    Plan,
    Region,
    decode_plan,
    decode_regions,
    encode_plan,
    encode_regions,
)
from tests.tiny import EVERYTHING, Function, analysed, chunk_sizes, tiny_model

F = torch.nn.functional


def t(*shape: int) -> torch.Tensor:
    """Random floats."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def layers(x: torch.Tensor, times: int = 2) -> torch.Tensor:
    """Layers with a norm of several readers each, and a mask that all read."""
    mask = torch.ones(x.shape[0], x.shape[0], dtype=torch.bool).tril()
    for _ in range(times):
        h = F.layer_norm(x, (8,))
        scores = (h @ h.T).masked_fill(~mask, -1e9)
        x = x + scores.softmax(-1) @ h.sin()
    return x


def test_norms_are_made_again_of_one_tensor_and_masks_of_nothing() -> None:
    subject = analysed(Function(layers), (t(24, 8),))
    graph = subject.sized
    norms = [node.index for node in subject.ops if node.op.startswith("aten.layer_norm")]
    again, masks = regenerable(graph, 1), regenerable(graph, 4)
    assert set(norms) <= again
    assert not set(norms) & masks
    assert masks <= again
    assert masks
    assert not any(graph.nodes[node].op.startswith("aten.matmul") for node in again)


def test_a_norm_computed_again_is_exact_and_has_its_original_outside() -> None:
    subject = analysed(Function(layers), (t(24, 8),))
    graph = subject.sized
    norms = {node.index for node in subject.ops if node.op.startswith("aten.layer_norm")}
    norm = min(norms)
    classes = find_classes(MemoryModel(graph), EVERYTHING)
    own = [item for item in classes if norms & set(item.regions[0].recomputed)]
    assert own
    for item in own:
        for size in chunk_sizes(item.extent):
            assert subject.differs([Choice(item.regions, size)]) == ""
        for region in item.regions:
            # the product reads the norm whole as well: the original runs, once
            steps = [s.node for s in subject.memory.profile([Choice(item.regions, 2)]).steps]
            for node in norms & set(region.recomputed):
                readers = [u for u in graph.users[node] if u not in region.nodes]
                loop = subject.memory.loop(region)
                assert (node in steps) == (
                    bool(readers) or node in {s.node for s in loop.inputs}
                )
    grown = grow(graph, graph.users[norm][-1], 0, again=regenerable(graph, 1))
    assert grown is not None


def test_a_norm_that_only_loops_read_does_not_run_by_itself() -> None:
    def forward(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        h = F.layer_norm(x.sin(), (8,))
        return h.exp().cumsum(1), h.cos().cumsum(1)

    subject = analysed(Function(forward), (t(24, 8),))
    norm = subject.find("aten.layer_norm")
    ends = [node.index for node in subject.ops if node.op.startswith("aten.cumsum")]
    found = []
    for end in ends:
        (source,) = {ref for _, ref in subject.sized.nodes[end].refs}
        found.append(Region((norm, source, end), (0, 0, 0), (norm,)))
    for regions in (found, found[:1]):
        choices = [Choice((region,), 5) for region in regions]
        steps = [step.node for step in subject.memory.profile(choices).steps]
        assert (norm in steps) == (len(regions) == 1)
        assert subject.differs(choices) == ""


def test_masks_are_shared_and_norms_move_along() -> None:
    # (each of GPT-2's norms has one reader, and is no node that loops compute again)
    norms = analysed(Function(partial(layers, times=4)), (t(24, 8),))
    seen = set()
    for subject in (tiny_model("gpt2", "eager", 3), norms):
        for item in find_classes(MemoryModel(subject.sized), EVERYTHING):
            first = item.regions[0]
            for region in item.regions[1:]:
                assert region == first.shifted(region.anchor - first.anchor)
            if len(item.regions) > 1:
                for node in first.recomputed:
                    op = subject.sized.nodes[node].op
                    seen.add((op.rpartition(".")[0], node in first.shared))
            row = yaml.safe_load(yaml.safe_dump(encode_regions(item.regions)))
            assert decode_regions(row) == item.regions
            plan = Plan("0123456789abcdef", (Choice(item.regions, 3),))
            assert decode_plan(yaml.safe_load(yaml.safe_dump(encode_plan(plan)))) == plan
    assert ("aten.layer_norm", False) in seen
    assert any(shared for _, shared in seen)


def test_plans_with_both_kinds_survive_yaml() -> None:
    first = Region((3, 10, 11, 14), (0, 1, 1, 2), (3, 10), (3,))
    regions = (first, first.shifted(20), first.shifted(40))
    row = encode_regions(regions)
    assert row == {
        "nodes": "-4..-3,0", "dims": "1x2,2", "again": "-4", "recomputed": "3",
        "recomputed_dims": "0", "at": [14, 34, 54],
    }  # fmt: skip
    assert decode_regions(yaml.safe_load(yaml.safe_dump(row))) == regions
    assert regions[1] == Region((3, 30, 31, 34), (0, 1, 1, 2), (3, 30), (3,))


def test_older_files_name_places_that_all_occurrences_share() -> None:
    row = {"nodes": "-1..0", "dims": "0x2", "recomputed": "3", "recomputed_dims": "1",
           "at": [9, 19]}  # fmt: skip
    assert decode_regions(row) == (
        Region((3, 8, 9), (1, 0, 0), (3,), (3,)), Region((3, 18, 19), (1, 0, 0), (3,), (3,))
    )  # fmt: skip
