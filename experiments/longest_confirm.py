"""Real runs that confirm what :mod:`experiments.longest_search` predicts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.longest_search import Mode, Search
from experiments.search_length import longest
from search_space.errors import AutoChunkError
from search_space.plan import decode_plan
from tuner.measure.confine import available_bytes
from tuner.measure.isolate import Isolated
from tuner.measure.variables import QUIET

SAFETY = 0.6
"""The share of the free memory that a confirming run may be predicted to take."""


@dataclass(frozen=True, slots=True)
class Confirmed:
    """A real run: peaks in bytes of activations; ``problem`` says why there is none."""

    name: str
    length: int
    predicted_bytes: int = 0
    measured_bytes: int = 0
    wall_s: float = 0.0
    error: float | None = None
    problem: str = ""


def confirm_length(
    search: Search,
    bytes_at: Callable[[int], int],
    seconds_at: Callable[[int], float],
    longest_length: int,
    seconds: float,
) -> int:
    """The longest length, up to the one found, that the machine has memory and time for."""
    weights = search.sized.weight_bytes
    free = SAFETY * available_bytes() - 2 * weights

    def feasible(length: int) -> bool:
        try:
            return bytes_at(length) <= free and seconds_at(length) <= seconds
        except AutoChunkError:
            return False

    start, step = search.preset.start, search.preset.step
    return longest(feasible, start=start, step=step, most=max(longest_length, start)).length


def confirm(
    search: Search, modes: Sequence[Mode], spec: dict[str, Any], seconds: float, log: Path
) -> tuple[Confirmed, ...]:
    """Real runs: the eager model, the same length chunked with outputs compared, and the plan of
    the longest length as far as the machine goes."""
    preset = search.preset
    by_name = {mode.name: mode for mode in modes}
    eager, chunked = by_name["eager"], by_name["chunked"]
    runs: list[Confirmed] = []
    if chunked.plan is None:
        return ()
    plan = decode_plan(chunked.plan)
    with Isolated(
        "experiments.longest_session:Session", spec, log=log, environment=QUIET
    ) as session:
        # how much slower this machine is than the roofline's round figures
        rate = 1.0
        first = session.request(
            {"do": "both", "length": preset.start, "plan": chunked.plan}, seconds + 120
        )
        if first["status"] == "ok":
            pace = [
                first["eager"]["wall_ms"] / 1e3 / search.predicted_s(preset.start, None),
                first["plan"]["wall_ms"] / 1e3 / search.predicted_s(preset.start, plan),
            ]
            rate = max(pace)

        def plan_bytes(length: int) -> int:
            analysis = search.sized.analysis(length)
            return analysis.memory.profile(plan.choices).peak_bytes

        wanted: list[tuple[str, str, int]] = []
        if eager.found.length:
            wanted.append((
                "both", "eager and chunked",
                confirm_length(
                    search, lambda n: 2 * search.sized.eager_bytes(n),
                    lambda n: rate * (search.predicted_s(n, None) + search.predicted_s(n, plan)),
                    eager.found.length, seconds,
                ),
            ))  # fmt: skip
            wanted.append((
                "eager", "eager",
                confirm_length(
                    search, search.sized.eager_bytes,
                    lambda n: rate * search.predicted_s(n, None),
                    eager.found.length, seconds,
                ),
            ))  # fmt: skip
        wanted.append((
            "plan", "chunked",
            confirm_length(
                search, plan_bytes, lambda n: rate * search.predicted_s(n, plan),
                chunked.found.length, seconds,
            ),
        ))  # fmt: skip
        for do, title, length in wanted:
            if not length:
                runs.append(Confirmed(title, 0, problem="no length fits this machine's memory"))
                continue
            search.note(f"running {title} at {length}")
            reply = session.request(
                {"do": do, "length": length, "plan": chunked.plan}, 3 * seconds + 120
            )
            runs.extend(_confirmed(search, title, do, length, reply))
    return tuple(runs)


def _confirmed(
    search: Search, title: str, do: str, length: int, reply: dict[str, Any]
) -> list[Confirmed]:
    if reply["status"] != "ok":
        return [Confirmed(title, length, problem=f"{reply['status']}: {reply['reason']}")]
    found: list[Confirmed] = []
    for name in ("eager", "plan"):
        if name not in reply:
            continue
        if name == "eager":
            predicted = search.sized.eager_bytes(length)
        else:
            predicted = reply["predicted_bytes"]
        error = reply.get("error") if name == "plan" else None
        found.append(
            Confirmed(
                "eager" if name == "eager" else "chunked", length, predicted,
                reply[name]["measured_bytes"], reply[name]["wall_ms"] / 1e3, error,
                reply.get("wrong", "") if name == "plan" else "",
            )
        )  # fmt: skip
    return found
