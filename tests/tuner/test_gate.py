"""Threads that serve beside one that traces."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
import torch

from tuner import apply
from tuner.runtime.gate import Gate

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
        self.blocks = torch.nn.ModuleList(Slow() for _ in range(2))
        self.last = torch.nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        made: torch.Tensor = self.last(x)
        return made


@pytest.mark.parametrize("targets", [None, "blocks.*"])
def test_calls_go_on_while_new_inputs_are_traced(
    pool: ThreadPoolExecutor, targets: str | None
) -> None:
    """Traced in place, a model has weights without data for a while."""
    torch.manual_seed(0)
    model = (Slow() if targets is None else Stack()).eval()
    known, new = torch.randn(1, 40, 16), torch.randn(3, 40, 16)
    with torch.no_grad():
        wanted = [model(known), model(new)]
    applied = apply(model, (known,), targets=targets, memory_budget=0.6)
    served: list[Future[torch.Tensor]] = []

    def call_meanwhile() -> None:
        if not served:
            served.append(pool.submit(applied, known))
            assert waits(served[0]), "it waits for its weights"

    for part in model.modules():
        if isinstance(part, Slow):
            part.between = call_meanwhile
    found = applied(new)
    torch.testing.assert_close(served[0].result(SOON_S), wanted[0])
    torch.testing.assert_close(found, wanted[1])
