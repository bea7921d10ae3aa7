"""What model code keeps for later calls holds no tensors of a trace."""

from __future__ import annotations

import functools
import gc
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from search_space import forgotten
from search_space.capture import capture
from search_space.eager_peak import eager_peak_bytes
from search_space.forgotten import caches_forgotten

SOURCE = """
import functools
import torch

@functools.cache
def table(size):
    return torch.arange(size, dtype=torch.float32)

@functools.lru_cache(maxsize=4)
def scaled(size, scale):
    return table(size) * scale

class Model(torch.nn.Module):
    @functools.lru_cache
    def own(self, size):
        return torch.ones(size)

    def forward(self, x):
        return (x + table(5) + scaled(5, 0.5) * self.own(5)).exp()
"""


@pytest.fixture
def library() -> Iterator[types.ModuleType]:
    """A library with caches of its own."""
    made = types.ModuleType("a_models_library")
    sys.modules[made.__name__] = made
    exec(SOURCE, made.__dict__)
    yield made
    del sys.modules[made.__name__]


TRACES: dict[str, Callable[[torch.nn.Module, torch.Tensor], object]] = {
    "capture": lambda model, x: capture(model, (x,)),
    "eager peak": lambda model, x: eager_peak_bytes(model, (x,)),
}


@pytest.mark.parametrize("frozen", [False, True], ids=["", "objects frozen"])
@pytest.mark.parametrize("name", TRACES)
def test_a_call_after_tracing_gives_real_numbers(
    library: types.ModuleType, name: str, frozen: bool
) -> None:
    model = library.Model().eval()
    x = torch.rand(3, 5)
    if frozen:
        gc.freeze()  # as servers do before they start workers
    try:
        TRACES[name](model, x)
    finally:
        gc.unfreeze()
    for tensor in (library.table(5), library.scaled(5, 0.5), model.own(5)):
        assert type(tensor) is torch.Tensor
        assert tensor.device.type == "cpu"
    table = torch.arange(5.0)
    torch.testing.assert_close(model(x), (x + table + table * 0.5).exp())


def test_what_was_frozen_before_all_else_is_found(
    library: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Servers freeze what they have imported, and may import this package after that."""
    gc.freeze()
    try:
        monkeypatch.setattr(forgotten, "_frozen", forgotten._Frozen())
        with caches_forgotten():
            library.table(5)
        assert library.table.cache_info().currsize == 0
    finally:
        gc.unfreeze()


def test_modules_are_searched_only_when_something_was_frozen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    searched = []
    held = forgotten._held_by_modules

    def counted() -> Iterator[object]:
        searched.append(1)
        return held()

    monkeypatch.setattr(forgotten, "_held_by_modules", counted)
    monkeypatch.setattr(forgotten, "_frozen", forgotten._Frozen())
    for _ in range(3):
        with caches_forgotten():
            pass
    assert len(searched) == 1
    gc.freeze()
    try:
        with caches_forgotten():
            pass
    finally:
        gc.unfreeze()
    assert len(searched) == 2


def test_what_is_frozen_later_is_found_too(library: types.ModuleType) -> None:
    with caches_forgotten():
        pass
    later = types.ModuleType("another_models_library")
    sys.modules[later.__name__] = later
    try:
        exec(SOURCE, later.__dict__)
        gc.freeze()
        with caches_forgotten():
            library.table(5)
            later.table(5)
        assert library.table.cache_info().currsize == later.table.cache_info().currsize == 0
        with caches_forgotten():  # nothing was frozen since
            later.table(6)
        assert later.table.cache_info().currsize == 0
    finally:
        gc.unfreeze()
        del sys.modules[later.__name__]


def test_unrelated_caches_keep_their_content(library: types.ModuleType) -> None:
    calls = []

    @functools.cache
    def unrelated(number: int) -> int:
        calls.append(number)
        return number * 2

    unrelated(3)
    before = library.table(7)
    capture(library.Model().eval(), (torch.rand(3, 5),))
    eager_peak_bytes(library.Model().eval(), (torch.rand(3, 5),))
    assert unrelated(3) == 6
    assert calls == [3]
    assert torch.equal(library.table(7), before)


def test_threads_go_on_building_tuples() -> None:
    """CPython lets nobody else hold a tuple that is still being built of an iterator."""
    before = sys.getswitchinterval()
    over = threading.Event()
    many = [[number] for number in range(500_000)]  # as a process has that serves

    def slowly() -> Iterator[int]:
        for number in range(30):
            time.sleep(0)
            yield number

    def builds() -> int:
        built = 0
        while not over.is_set():
            built += len(tuple(slowly()))
        return built

    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(1) as pool:
            building = pool.submit(builds)
            try:
                for _ in range(10):
                    with caches_forgotten():
                        pass
            finally:
                over.set()
            assert building.result() > 0
        assert len(many) == 500_000
    finally:
        sys.setswitchinterval(before)


def test_caches_are_forgotten_where_tracing_fails(library: types.ModuleType) -> None:
    def fails() -> None:
        with caches_forgotten():
            library.table(5)
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fails()
    assert library.table.cache_info().currsize == 0
