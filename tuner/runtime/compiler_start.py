"""What Inductor does once a process, done beside the capture and the analysis.

It tries the processor's vector instructions in a process of their own and hashes its own source
files, for the keys of its cache. Both mostly wait or leave the interpreter to others, and both keep
what they found, so that the first compilation finds it.
"""

from __future__ import annotations

import importlib
import logging
import threading
from collections.abc import Callable

log = logging.getLogger("autochunk")

_STARTED = threading.Event()


def start_compiler(device: str) -> None:
    """Begin with what the first compilation would wait for; returns at once, and does so once.

    Args:
        device: the kind of device, such as ``"cpu"``.
    """
    if _STARTED.is_set():
        return
    _STARTED.set()
    # imported here, not in the thread: of two threads that import the compiler's many modules, one
    # may meet a module that is half made
    try:
        importlib.import_module("torch._inductor.compile_fx")
        from torch._inductor import codecache, cpu_vec_isa
    except Exception as error:  # (whatever a compiler on a user's machine may raise)
        log.debug("autochunk: the compiler cannot be imported, as compiling will say: %s", error)
        return

    steps: list[Callable[[], object]] = [codecache.torch_key]
    if device == "cpu":
        steps.append(cpu_vec_isa.pick_vec_isa)
    for step in steps:
        threading.Thread(
            target=_beside, args=(step,), name="autochunk-compiler-start", daemon=True
        ).start()


def _beside(step: Callable[[], object]) -> None:
    try:
        step()
    except Exception as error:  # the compilation that follows meets it again, and tells
        log.debug("autochunk: the compiler's start failed: %s", error)
