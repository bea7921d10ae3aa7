"""Measured peaks of compiled code, kept beside Inductor's cache for the next process.

What compiled code takes is known when it has run, and a run costs a process that is about to serve
its start. A peak is kept under all that it depends on: the generated code, sizes and layouts,
compiler and device, and this package's own sources. It is a number and nothing else, so that a file
from elsewhere can at worst misstate memory.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import fx
from torch._inductor import config
from torch._inductor.runtime.cache_dir_utils import default_cache_dir

from tuner.compile_options import CompileOptions
from tuner.runtime.explain import module_code
from tuner.runtime.loop import ChunkLoop

log = logging.getLogger("autochunk")


def peak_key(
    module: fx.GraphModule,
    options: CompileOptions,
    tensors: Sequence[torch.Tensor],
    environment: Mapping[str, str],
) -> str:
    """What a measured peak is kept under.

    Args:
        module: the generated code, uncompiled.
        tensors: the graph's inputs.
        environment: of the device; see :class:`tuner.measure.protocol.Backend`.
    """
    weights = (*module.named_parameters(), *module.named_buffers())
    loops = (child for child in module.modules() if isinstance(child, ChunkLoop))
    parts = (
        module_code(module),
        [(loop.inputs, loop.outputs, loop.compiles) for loop in loops],
        [(name, _form(weight)) for name, weight in weights],
        [_form(tensor) for tensor in tensors],
        sorted(options.plain.items()),
        sorted(environment.items()),
        _sources(),
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def known_peak_of(key: str) -> int | None:
    """Bytes measured before, in whatever process; None where there is no such record."""
    path = _file(key)
    if path is None:
        return None
    try:
        found = json.loads(path.read_bytes()[:_MOST_BYTES])
    except (OSError, ValueError):
        return None  # not there, or not whole: it is measured
    return found if isinstance(found, int) and not isinstance(found, bool) and found > 0 else None


def keep_peak(key: str, peak_bytes: int) -> None:
    """Keep a measured peak for other processes. A folder that cannot be written is no error."""
    path = _file(key)
    if path is None:
        return
    beside = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps(peak_bytes), encoding="ascii")
        beside.replace(path)
    except OSError as error:
        log.debug("autochunk: a measured peak is not kept: %s", error)


_MOST_BYTES = 32
"""More digits than any memory has."""


def _file(key: str) -> Path | None:
    if config.force_disable_caches:  # (the user wants nothing kept)
        return None
    folder = os.environ.get("TORCHINDUCTOR_CACHE_DIR") or default_cache_dir()
    return Path(folder) / "autochunk-peaks" / f"{key}.json"


def _form(tensor: torch.Tensor) -> object:
    return tuple(tensor.shape), tensor.stride(), str(tensor.dtype), str(tensor.device)


@functools.cache
def _sources() -> str:
    """This folder's code, on which depends how long a tensor is held."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
