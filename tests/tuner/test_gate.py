"""Threads that serve beside one that traces."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
import torch

from tuner import Applied, apply
from tuner.runtime.gate import GATE, Gate

SOON_S = 20.0
"""What comes at all comes by then."""


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(4)


def waits(future: Future[Any]) -> bool:
    time.sleep(0.05)
    return not future.done()


def test_nobody_uses_weights_while_another_thread_traces(
    gate: Gate, pool: ThreadPoolExecutor
) -> None:
    def use() -> None:
        with gate.using():
            pass

    with gate.tracing():
        other = pool.submit(use)
        use()  # the model's own code, which is traced
        assert waits(other)
    other.result(SOON_S)


@pytest.mark.parametrize("inside", ["tracing", "preparing"])
def test_who_uses_weights_keeps_another_thread_from_tracing_alone(
    gate: Gate, pool: ThreadPoolExecutor, inside: str
) -> None:
    def other() -> None:
        with getattr(gate, inside)():
            pass

    with gate.using(), gate.using():
        found = pool.submit(other)
        assert waits(found) == (inside == "tracing")
    found.result(SOON_S)


def test_users_that_prepare_let_each_other_trace(gate: Gate, pool: ThreadPoolExecutor) -> None:
    """Each would wait for the other to let go of the weights."""
    together = threading.Barrier(3)
    within: list[int] = []
    most: list[int] = []

    def use() -> None:
        with gate.using():
            together.wait(SOON_S)
            with gate.preparing(), gate.tracing():
                within.append(1)
                most.append(len(within))
                time.sleep(0.02)
                within.pop()
            with gate.using():
                pass

    for found in [pool.submit(use) for _ in range(3)]:
        found.result(SOON_S)
    assert most == [1, 1, 1]


def test_what_is_traced_may_itself_prepare_and_trace(
    gate: Gate, pool: ThreadPoolExecutor
) -> None:
    with gate.using(), gate.tracing(), gate.using():
        with gate.preparing(), gate.tracing(), gate.using():
            pass
        assert waits(pool.submit(gate.using().__enter__))


def test_errors_open_the_gate(gate: Gate, pool: ThreadPoolExecutor) -> None:
    for context in (gate.using, gate.preparing, gate.tracing):
        with pytest.raises(KeyError), gate.using(), context():
            raise KeyError("inside")

    def trace() -> str:
        with gate.tracing(), gate.using():
            return "alone"

    assert pool.submit(trace).result(SOON_S) == "alone"
    assert trace() == "alone"


class Slow(torch.nn.Module):
    """A model whose tracing takes its time, and tells when it has begun."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(16, 256)
        self.second = torch.nn.Linear(256, 16)
        self.between: Callable[[], None] = lambda: None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x).relu()
        if type(self.second.weight) is not torch.nn.Parameter:
            self.between()
        made: torch.Tensor = self.second(y) + x
        return made


class Stack(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(16, 16)
        self.blocks = torch.nn.ModuleList(Slow() for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return x


no_gradient = torch.no_grad()


@pytest.mark.parametrize(
    ("targets", "begun"), [(None, False), (None, True), ("blocks.*", False)],
    ids=["", "a call that has begun", "targets"],
)  # fmt: skip
def test_calls_go_on_while_new_inputs_are_traced(
    pool: ThreadPoolExecutor, targets: str | None, begun: bool
) -> None:
    """Traced in place, a model has weights without data for a while."""
    torch.manual_seed(0)
    model = (Slow() if targets is None else Stack()).eval()
    known, new = torch.randn(1, 40, 16), torch.randn(3, 40, 16)
    with torch.no_grad():
        wanted = [model(known), model(new)]
    applied = apply(model, (known,), targets=targets, memory_budget=0.6)
    call: Callable[[torch.Tensor], Any] = applied
    if begun:  # it has found its code, whose first step is to read the weights
        assert isinstance(applied, Applied)
        code = applied.prepare(known).module
        call = no_gradient(lambda x: code(x)[0])
    served: list[Future[torch.Tensor]] = []

    def call_meanwhile() -> None:
        if not served:
            served.append(pool.submit(call, known))
            assert waits(served[0]), "it waits for its weights"

    for part in model.modules():
        if isinstance(part, Slow):
            part.between = call_meanwhile
    found = applied(new)
    torch.testing.assert_close(served[0].result(SOON_S), wanted[0])
    torch.testing.assert_close(found, wanted[1])


def test_state_is_read_and_changed_before_or_after_tracing(pool: ThreadPoolExecutor) -> None:
    """Meanwhile the model's tables hold tensors without data, and are put back."""
    torch.manual_seed(0)
    model = Slow().eval()
    applied = apply(model, (torch.randn(1, 40, 16),), memory_budget=0.6)
    zeros = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}
    calls: list[Callable[[], object]] = [
        applied.state_dict, lambda: copy.deepcopy(applied), applied.cpu,
        lambda: applied.load_state_dict(zeros),
    ]  # fmt: skip
    begun: list[Future[object]] = []

    def meanwhile() -> None:
        if len(begun) < len(calls):
            begun.extend(pool.submit(call) for call in calls)
            assert all(map(waits, begun))

    model.between = meanwhile
    applied(torch.randn(3, 40, 16))
    state, copied, _, _ = (one.result(SOON_S) for one in begun)
    assert isinstance(state, dict) and isinstance(copied, torch.nn.Module)
    for weight in (*state.values(), *copied.parameters(), *model.parameters()):
        assert type(weight) in (torch.Tensor, torch.nn.Parameter)
        assert weight.device.type == "cpu"
    assert not any(weight.any() for weight in model.parameters()), "what was loaded stays"


class Branching(torch.nn.Module):
    """Calls its part in a thread of its own, as data-parallel models do."""

    def __init__(self) -> None:
        super().__init__()
        self.part = Slow()
        self.before: Callable[[], None] = lambda: None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.is_meta:
            made: torch.Tensor = self.part(x)
            return made
        self.before()
        with ThreadPoolExecutor(1) as pool:
            found: torch.Tensor = pool.submit(self.part, x).result(SOON_S)
        return found


def test_threads_of_a_call_are_let_in_while_another_waits_to_trace(
    pool: ThreadPoolExecutor,
) -> None:
    torch.manual_seed(0)
    model, x = Branching().eval(), torch.randn(2, 40, 16)
    applied = apply(model, (x,), targets="part")
    wanted = applied(x)
    begun: list[Future[object]] = []

    def trace() -> None:
        with GATE.tracing():
            pass

    def before() -> None:
        begun.append(pool.submit(trace))
        assert waits(begun[0])

    model.before = before
    torch.testing.assert_close(applied(x), wanted)
    begun[0].result(SOON_S)


def test_who_waits_long_holds_newcomers_up_for_a_while(
    gate: Gate, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where calls always overlap there would never be a moment to trace."""
    monkeypatch.setattr("tuner.runtime.gate._PATIENCE_S", 0.05)
    monkeypatch.setattr("tuner.runtime.gate._HELD_UP_S", 0.2)
    traced = threading.Event()

    def use() -> None:
        while not traced.is_set():
            with gate.using():
                time.sleep(0.04)

    users = []
    for _ in range(3):
        users.append(pool.submit(use))
        time.sleep(0.013)
    with gate.tracing():
        traced.set()
    for user in users:
        user.result(SOON_S)
