"""What a run out of memory says of others, and what it does not."""

from __future__ import annotations

from search_space.plan import Choice, Plan, Region
from tuner.exhausted import Exhausted

FIRST, SECOND, THIRD = ((Region((place, place + 1), (0, 0)),) for place in (10, 20, 30))
INNER = (Region((0,), (0,)),)


def plan(*choices: Choice, graph: str = "f", rewrites: tuple[str, ...] = ()) -> Plan:
    return Plan(graph, choices, rewrites)


def after(length: int, *failed: Plan) -> Exhausted:
    found = Exhausted()
    for one in failed:
        found.add(length, one)
    return found


def test_nothing_is_implied_by_nothing() -> None:
    assert Exhausted().implied(8, plan()) == ""


def test_larger_chunks_and_longer_inputs_are_implied() -> None:
    found = after(64, plan(Choice(FIRST, 8), Choice(SECOND, 4)))
    assert "64" in found.implied(64, plan(Choice(FIRST, 16), Choice(SECOND, 4)))
    assert found.implied(128, plan(Choice(FIRST, 8), Choice(SECOND, 4)))
    assert found.implied(64, plan(Choice(FIRST, 8))), "what is not chunked is whole"
    assert found.implied(64, plan())


def test_what_may_need_less_is_tried() -> None:
    found = after(64, plan(Choice(FIRST, 8), Choice(SECOND, 4)))
    for other in (
        plan(Choice(FIRST, 4), Choice(SECOND, 4)),
        plan(Choice(FIRST, 16), Choice(SECOND, 2)),
        plan(Choice(FIRST, 8), Choice(SECOND, 4), Choice(THIRD, 4)),
        plan(Choice(FIRST, 8), Choice(THIRD, 8)),
        plan(Choice(FIRST, 16), Choice(SECOND, 4), rewrites=("sdpa",)),
        plan(Choice(FIRST, 16), Choice(SECOND, 4), graph="g"),
        plan(Choice(FIRST, 16, compiled=True)),
        plan(Choice(FIRST, 16, inner=(Choice(INNER, 2),))),
    ):
        assert found.implied(64, other) == ""
    assert found.implied(32, plan()) == "", "at a shorter length"


def test_a_plan_does_not_speak_of_itself() -> None:
    # it is known from the ledger, where its own reason stands
    assert after(64, plan(Choice(FIRST, 8))).implied(64, plan(Choice(FIRST, 8))) == ""


def test_loops_in_loops_are_compared_within() -> None:
    found = after(64, plan(Choice(FIRST, 8, inner=(Choice(INNER, 4),))))
    assert found.implied(64, plan(Choice(FIRST, 8, inner=(Choice(INNER, 8),))))
    assert found.implied(64, plan(Choice(FIRST, 8)))
    assert found.implied(64, plan(Choice(FIRST, 8, inner=(Choice(INNER, 2),)))) == ""
