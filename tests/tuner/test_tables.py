"""What tables say of plans."""

from __future__ import annotations

from dataclasses import replace

import pytest

from search_space.plan import Choice, Plan, Region
from tuner.tables import chunks_text

FIRST, SECOND = (Region((1, 2), (0, 0)),), (Region((5, 6), (0, 0)), Region((8, 9), (0, 0)))
PLAN = Plan("f", (Choice(FIRST, 8), Choice(SECOND, 4)))


@pytest.mark.parametrize(
    ("plan", "text"),
    [
        (Plan("f"), "none"),
        (Plan("f").as_compiled(), "none; compiled"),
        (PLAN, "1x by 8, 2x by 4"),
        (PLAN.as_compiled(), "1x by 8, 2x by 4; compiled"),
        (PLAN.as_compiled().compiled_but(FIRST), "1x by 8, not compiled, 2x by 4; compiled"),
        (replace(PLAN, stretches=True), "1x by 8, 2x by 4; what is between them compiled"),
        (replace(PLAN.as_compiled(), stretches=False), "1x by 8, 2x by 4; their bodies compiled"),
    ],
)
def test_plans_say_how_they_run(plan: Plan, text: str) -> None:
    assert chunks_text(plan) == text
