"""Plans: to plain values and back, what they refuse, and decoding of any setting."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from search_space.candidates import find_classes
from search_space.errors import PlanError
from search_space.plan import (
    Choice,
    Plan,
    Region,
    decode_plan,
    decode_ranges,
    decode_regions,
    encode_plan,
    encode_ranges,
    encode_regions,
)
from search_space.space import SearchSpace, chunk_grid, owned
from tests.tiny import EVERYTHING, Tiny

SPAN = 40
"""Places that one occurrence in a random plan may take."""


@st.composite
def regions(draw: st.DrawFn, first: int) -> tuple[Region, ...]:
    """Occurrences of one class, from place ``first`` on; places below 10 are computed again."""
    own = sorted(draw(st.sets(st.integers(0, SPAN - 1), min_size=1, max_size=8)))
    again = sorted(draw(st.sets(st.integers(0, 9), max_size=3)))
    dims = st.integers(0, 4)
    nodes = (*again, *(first + place for place in own))
    region = Region(nodes, tuple(draw(dims) for _ in nodes), tuple(again))
    count = draw(st.integers(1, 4))
    return tuple(region.shifted(SPAN * place) for place in range(count))


@st.composite
def inner_choices(draw: st.DrawFn, members: int) -> tuple[Choice, ...]:
    """Choices inside a region of so many nodes, which they name by place."""
    owners = [draw(st.integers(0, 2)) for _ in range(members)]
    parts = [tuple(k for k in range(members) if owners[k] == which) for which in (0, 1)]
    made = [
        Choice((Region(places, tuple(draw(st.integers(0, 4)) for _ in places)),),
               draw(st.integers(1, 100)))
        for places in parts if places
    ]  # fmt: skip
    return tuple(sorted(made, key=lambda choice: choice.regions[0].nodes))


@st.composite
def choices(draw: st.DrawFn, first: int) -> Choice:
    """A choice whose own nodes stand at ``first`` or later."""
    where = draw(regions(first))
    inner = draw(inner_choices(len(where[0].nodes))) if draw(st.booleans()) else ()
    return Choice(where, draw(st.integers(1, 10_000)), inner, draw(st.booleans()))


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Any plan: choices do not overlap, and ascend."""
    made = [draw(choices(10 + 4 * SPAN * place)) for place in range(draw(st.integers(0, 3)))]
    made.sort(key=lambda choice: choice.regions[0].nodes)
    fingerprint = draw(st.text("0123456789abcdef", min_size=16, max_size=16))
    names = st.sampled_from(("causal", "fused", "no"))
    rewrites = tuple(draw(st.lists(names, max_size=2)))
    return Plan(fingerprint, tuple(made), rewrites, draw(st.booleans()))


@settings(max_examples=60, derandomize=True, deadline=None)
@given(plans())
def test_a_plan_survives_yaml(plan: Plan) -> None:
    text = yaml.safe_dump(encode_plan(plan))
    assert decode_plan(yaml.safe_load(text)) == plan


@settings(max_examples=60, derandomize=True, deadline=None)
@given(regions(10))
def test_regions_survive_plain_values(found: tuple[Region, ...]) -> None:
    assert decode_regions(encode_regions(found)) == found


@settings(max_examples=100, derandomize=True, deadline=None)
@given(st.sets(st.integers(-60, 60)))
def test_ranges_survive_text(numbers: set[int]) -> None:
    ascending = tuple(sorted(numbers))
    assert decode_ranges(encode_ranges(ascending)) == ascending


def test_ranges_read_as_a_person_writes_them() -> None:
    assert encode_ranges([-5, -4, -3, -2, 0]) == "-5..-2,0"
    assert encode_ranges([]) == ""
    assert decode_ranges("") == ()
    assert decode_ranges("7") == (7,)


@pytest.mark.parametrize(
    "text", ["a", "1..", "..3", "5..3", "1,,2", "1..2..3", "0..99999999999", "1.5"]
)
def test_malformed_ranges_are_refused(text: str) -> None:
    with pytest.raises(PlanError, match="range"):
        decode_ranges(text)


GOOD: dict[str, Any] = encode_regions(
    (Region((3, 5, 6), (1, 1, 2)), Region((13, 15, 16), (1, 1, 2)))
)

BAD_REGIONS: dict[str, Any] = {
    "no nodes": {key: value for key, value in GOOD.items() if key != "nodes"},
    "empty nodes": {**GOOD, "nodes": "", "dims": ""},
    "too few dims": {**GOOD, "dims": "1x2"},
    "a negative dim": {**GOOD, "dims": "1x2,-1"},
    "a word among the dims": {**GOOD, "dims": "1x2,two"},
    "a run of nothing": {**GOOD, "dims": "1x2,2,1x0"},
    "an endless run": {**GOOD, "dims": "1x99999999999"},
    "a word among the anchors": {**GOOD, "at": ["six"]},
    "no anchors": {**GOOD, "at": None},
    "anchors that are no list": {**GOOD, "at": 6},
    "nodes out of order": {**GOOD, "nodes": "0,-1,-3", "dims": "2,2,2,2"},
    "a node twice": {**GOOD, "nodes": "-3,-3,0"},
    "recomputed without dims": {**GOOD, "recomputed": "1"},
    "recomputed with too many dims": {**GOOD, "recomputed": "1", "recomputed_dims": "1x2"},
    "recomputed last": {**GOOD, "recomputed": "50", "recomputed_dims": "1"},
    "a number": 3,
    "nothing": None,
    "a list": [GOOD],
    "a text": "0..3",
}


@pytest.mark.parametrize("name", BAD_REGIONS)
def test_malformed_regions_are_refused(name: str) -> None:
    with pytest.raises(PlanError):
        decode_regions(BAD_REGIONS[name])


def _row(**changes: Any) -> dict[str, Any]:
    return {"fingerprint": "f" * 16, "choices": [{"regions": GOOD, "chunk_size": 4, **changes}]}


BAD_PLANS: dict[str, Any] = {
    "nothing": None,
    "a text": "plan",
    "an empty mapping": {},
    "no choices": {"fingerprint": "f"},
    "choices that are no list": {"fingerprint": "f", "choices": 4},
    "a choice that is a text": {"fingerprint": "f", "choices": ["x"]},
    "a choice that is a number": {"fingerprint": "f", "choices": [1]},
    "a choice without a chunk size": {"fingerprint": "f", "choices": [{"regions": GOOD}]},
    "a chunk size of 0": _row(chunk_size=0),
    "a chunk size in words": _row(chunk_size="many"),
    "no chunk size": _row(chunk_size=None),
    "an inner choice that is a text": _row(inner="x"),
    "regions that are nothing": _row(regions=None),
    "no occurrence": _row(regions={**GOOD, "at": []}),
    "occurrences that overlap": _row(regions={**GOOD, "at": [6, 7]}),
    "rewrites that are no list": {**_row(), "rewrites": 3},
}


@pytest.mark.parametrize("name", BAD_PLANS)
def test_malformed_plans_are_refused(name: str) -> None:
    with pytest.raises(PlanError):
        decode_plan(BAD_PLANS[name])


def test_what_the_malformed_plans_are_made_from_is_good() -> None:
    assert len(decode_plan(_row()).choices[0].regions) == 2


@pytest.mark.parametrize(
    ("nodes", "dims", "again"),
    [
        ((), (), ()),
        ((2, 1), (0, 0), ()),
        ((1, 1), (0, 0), ()),
        ((1, 2), (0,), ()),
        ((1, 2), (0, -1), ()),
        ((1, 2), (0, 0), (2,)),
        ((1, 2), (0, 0), (7,)),
    ],
)
def test_a_region_is_validated_where_it_is_made(
    nodes: tuple[int, ...], dims: tuple[int, ...], again: tuple[int, ...]
) -> None:
    with pytest.raises(PlanError):
        Region(nodes, dims, again)


def test_a_choice_is_validated_where_it_is_made() -> None:
    region = Region((1, 2), (0, 0))
    with pytest.raises(PlanError, match="no regions"):
        Choice((), 1)
    with pytest.raises(PlanError, match="got 0"):
        Choice((region,), 0)


def test_a_plan_is_validated_where_it_is_made() -> None:
    first, second = Choice((Region((1, 2), (0, 0)),), 3), Choice((Region((5,), (0,)),), 3)
    with pytest.raises(PlanError, match=r"share the nodes \[2\]"):
        Plan("f", (first, Choice((Region((2, 3), (0, 0)),), 1)))
    with pytest.raises(PlanError, match="ascend"):
        Plan("f", (second, first))
    # a node that both compute again belongs to neither
    shared = (Region((0, 3), (0, 0), (0,)), Region((0, 6), (0, 0), (0,)))
    assert len(Plan("f", tuple(Choice((region,), 1) for region in shared)).choices) == 2


def test_regions_of_different_form_are_no_class() -> None:
    with pytest.raises(PlanError, match="same up to position"):
        encode_regions((Region((1, 2), (0, 0)), Region((5, 7), (0, 0))))


@settings(max_examples=80, derandomize=True, deadline=None)
@given(st.integers(1, 200_000))
def test_a_grid_descends_between_one_and_the_extent(extent: int) -> None:
    grid = chunk_grid(extent)
    assert list(grid) == sorted(set(grid), reverse=True)
    assert all(1 <= size < extent for size in grid)
    assert all(-(-extent // size) <= 64 or size >= 16 for size in grid)
    assert not grid or grid[-1] == 1 or grid[-1] <= max(extent / 32, 32)


@pytest.fixture(scope="module")
def space(tiny_gpt2: Tiny) -> SearchSpace:
    """Every class of tiny GPT-2."""
    return SearchSpace(tiny_gpt2.memory, find_classes(tiny_gpt2.memory, EVERYTHING))


@settings(
    max_examples=30, derandomize=True, deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(data=st.data())
def test_any_setting_decodes_to_one_legal_plan(space: SearchSpace, data: st.DataObject) -> None:
    keys = data.draw(st.lists(st.sampled_from([c.key for c in space.classes]), unique=True))
    extents = {item.key: item.extent for item in space.classes}
    setting = {key: data.draw(st.integers(-1, extents[key] + 2)) for key in keys}
    plan = space.decode({**setting, "no such class": 3})
    assert plan == space.decode(dict(reversed(setting.items())))
    assert plan.fingerprint == space.memory.graph.fingerprint

    kept = {choice.regions: choice.chunk_size for choice in plan.choices}
    wanted = {item.regions: setting.get(item.key, 0) for item in space.classes}
    assert all(wanted[where] == size for where, size in kept.items())
    assert bool(kept) == any(0 < size < extents[key] for key, size in setting.items())

    seen: set[int] = set()
    for item in space.classes:
        if item.regions in kept:
            assert not seen & owned(item)
            seen |= owned(item)
    assert space.memory.profile(plan.choices).peak_bytes > 0
    assert decode_plan(yaml.safe_load(yaml.safe_dump(encode_plan(plan)))) == plan


def test_all_classes_at_once_give_the_models_numbers(tiny_gpt2: Tiny, space: SearchSpace) -> None:
    plan = space.decode({item.key: 3 for item in space.classes})
    assert len(plan.choices) >= 3
    assert tiny_gpt2.differs(plan.choices) == ""
