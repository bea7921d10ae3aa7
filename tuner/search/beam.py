"""The paper's way to choose regions: dynamic programming over them, with a beam.

Classes are decided one after the other, those that save most first. A state is a partial setting,
and a plan by itself, since what is undecided is left alone. Each state of the beam is continued
with every option of the next class; of what comes of it the beam keeps the best, half by time among
the plans within the limit (or by how little they exceed it), half along the frontier of time and
peak.
"""

from __future__ import annotations

from dataclasses import dataclass

from tuner.search.proposal import LEAVE_ALONE, Book, Proposal, Setting, Task

WIDTH = 8


@dataclass(frozen=True, slots=True)
class _State:
    setting: Setting
    proposal: Proposal


def beam(book: Book, task: Task) -> None:
    """Visit what the beam meets, until the trials are spent or every class is decided."""
    space = book.space
    order = sorted(
        range(len(space.classes)),
        key=lambda k: (
            -space.classes[k].saves_bytes * len(space.classes[k].loops), space.classes[k].key
        ),
    )  # fmt: skip
    (start,) = book.visit([{}])
    states = [_State({}, start)]
    states += [_State(one, p) for one, p in zip(task.seeds, book.visit(task.seeds), strict=True)]
    done = 0
    for place in order:
        key, options = space.classes[place].key, (LEAVE_ALONE, *space.grids[place])
        settings = [{**state.setting, key: size} for state in states for size in options]
        settings = settings[: task.trials - done]
        if not settings:
            break
        found = book.visit(settings)
        for _ in settings:
            done += 1
            task.on_trial(done, task.trials)
        states = _kept([_State(s, p) for s, p in zip(settings, found, strict=True)], task)
    while done < task.trials:  # every class is decided
        done += 1
        task.on_trial(done, task.trials)


def _kept(states: list[_State], task: Task) -> list[_State]:
    """The beam: one state a plan, at most ``WIDTH`` by time and as many along the frontier."""
    distinct = list({state.proposal.plan: state for state in states}.values())
    limit = task.limit_bytes

    def by_time(state: _State) -> tuple[float, float, int]:
        found = state.proposal.prediction
        over = 0 if limit is None else max(found.peak_bytes - limit, 0)
        return (over, found.latency_ms, found.peak_bytes)

    kept = sorted(distinct, key=by_time)[: WIDTH // 2]
    front: list[_State] = []
    for state in sorted(distinct, key=lambda s: (s.proposal.prediction.peak_bytes, by_time(s))):
        if not front or (
            state.proposal.prediction.latency_ms < front[-1].proposal.prediction.latency_ms
        ):
            front.append(state)
    step = max(len(front) / (WIDTH - len(kept)), 1.0)
    spread = [front[int(k * step)] for k in range(WIDTH) if int(k * step) < len(front)]
    return list({state.proposal.plan: state for state in (*kept, *spread)}.values())[:WIDTH]
