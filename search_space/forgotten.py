"""Tracing must leave no trace: results that model code keeps for later calls.

Libraries keep small tables with ``functools.cache``. Filled while a model is traced, such a cache
holds tensors without data, and the next plain call of the model would take them for real.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import sys
import threading
import types
import weakref
from collections.abc import Iterator, Mapping
from typing import TypeAlias, TypeGuard

_NOT_OF_MODELS = sys.stdlib_module_names | {"torch", "sympy", "mpmath", "numpy"}


@contextlib.contextmanager
def caches_forgotten() -> Iterator[None]:
    """Clear every ``functools`` cache of model code that has been written to inside."""
    before = {id(cache): cache.cache_info().misses for cache in _caches()}
    try:
        yield
    finally:
        for cache in _caches():
            if cache.cache_info().misses != before.get(id(cache), 0):
                cache.cache_clear()


Cache: TypeAlias = "functools._lru_cache_wrapper[object]"


class _Frozen:
    """Caches among what is frozen, which the collector does not list: the modules are asked, which
    takes a tenth of a second, and therefore only when something was frozen since."""

    def __init__(self) -> None:
        self._known: weakref.WeakSet[Cache] = weakref.WeakSet()
        self._mark: Cache | None = None  # (what was frozen before this began is asked for once)
        self._lock = threading.Lock()  # (models may be captured in several threads)

    def caches(self, listed: Mapping[int, Cache]) -> list[Cache]:
        """Those that are not listed, by what is."""
        with self._lock:
            if id(self._mark) not in listed:
                self._known.update(one for one in _held_by_modules() if _is_cache(one))
                self._mark = _mark()
            return [one for one in self._known if id(one) not in listed]


def _mark() -> Cache:
    """A cache that is listed for as long as nothing is frozen."""
    return functools.cache(lambda: None)


_frozen = _Frozen()


def _caches() -> list[Cache]:
    # By what refers to their type, since a list of all objects would hold tuples that other threads
    # are just building, which fail with a SystemError when they find themselves held.
    kind = functools._lru_cache_wrapper
    listed: dict[int, Cache] = {id(one): one for one in gc.get_referrers(kind) if _is_cache(one)}
    return [
        one
        for one in (*listed.values(), *_frozen.caches(listed))
        if str(getattr(one, "__module__", "")).partition(".")[0] not in _NOT_OF_MODELS
    ]


def _is_cache(value: object) -> TypeGuard[Cache]:
    return type(value) is functools._lru_cache_wrapper  # (isinstance would wake lazy objects)


def _held_by_modules() -> Iterator[object]:
    """What modules and their classes hold under a name, without waking what is loaded lazily."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in _NOT_OF_MODELS or not isinstance(module, types.ModuleType):
            continue
        for value in list(vars(module).values()):
            yield value
            if issubclass(type(value), type):
                for inner in list(vars(value).values()):
                    yield inner.__func__ if type(inner) in (classmethod, staticmethod) else inner
