"""Tracing must leave no trace: results that model code keeps for later calls.

Libraries keep small tables with ``functools.cache``. Filled while a model is traced, such a cache
holds tensors without data, and the next plain call of the model would take them for real.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import sys
from collections.abc import Iterator

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
    return [
        found
        for found in gc.get_objects()
        if type(found) is functools._lru_cache_wrapper  # (isinstance would wake lazy objects)
        and str(getattr(found, "__module__", "")).partition(".")[0] not in _NOT_OF_MODELS
    ]
