"""Tracing must leave no trace: results that model code keeps for later calls.

Libraries keep small tables with ``functools.cache``. Filled while a model is traced, such a cache
holds tensors without data, and the next plain call of the model would take them for real.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import sys
import types
from collections.abc import Iterator
from typing import TypeGuard

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


def _caches() -> list[functools._lru_cache_wrapper[object]]:
    found = {id(one): one for one in gc.get_objects() if _is_cache(one)}
    if gc.get_freeze_count():  # what is frozen is not listed: ask the modules
        found.update((id(one), one) for one in _held_by_modules() if _is_cache(one))
    return [
        one
        for one in found.values()
        if str(getattr(one, "__module__", "")).partition(".")[0] not in _NOT_OF_MODELS
    ]


def _is_cache(value: object) -> TypeGuard[functools._lru_cache_wrapper[object]]:
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
