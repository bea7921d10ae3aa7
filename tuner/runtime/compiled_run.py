"""Compiled code that keeps its budget: tried on the very inputs of a call before it is used."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import fx
from torch._compile import _disable_dynamo

from cost_models.select import mib
from search_space.errors import MeasurementError
from tuner.compile_options import CompileOptions
from tuner.measure.backends import backend_for
from tuner.runtime.compiled import Compiler
from tuner.runtime.known_peaks import keep_peak, known_peak_of, peak_key
from tuner.runtime.loop import ChunkLoop

log = logging.getLogger("autochunk")


@dataclasses.dataclass(frozen=True)
class Tried:
    """Compiled code that was run: its measured peak, beyond inputs and weights."""

    module: fx.GraphModule
    peak_bytes: int
    options: CompileOptions


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of compiling: the code that kept the limit, None where none did or nothing could be
    compiled, and the peak of all that was asked for compiled, where it ran."""

    tried: Tried | None
    asked_bytes: int | None


def known_peak(predicted_bytes: int, tried: Tried | None) -> int:
    """The predicted peak; of compiled code, which no model knows, the one measured when it was
    tried."""
    return predicted_bytes if tried is None else tried.peak_bytes


def try_compiled(
    module: fx.GraphModule,
    compiler: Compiler,
    tensors: Sequence[torch.Tensor],
    limit_bytes: int | None,
    options: CompileOptions | None = None,
) -> Outcome:
    """The module compiled as far as a run of it keeps the limit.

    What a compiler keeps alive cannot be told before, so that it is measured, unless it was in an
    earlier process: everything compiled is tried first, then the loops' bodies alone.

    Args:
        tensors: the graph's inputs; where they are, all is.
        options: what is compiled, where that is not all that the compiler's options ask for.
    """
    try:
        return _tried(module, compiler, tensors, limit_bytes, options or compiler.options)
    except torch.OutOfMemoryError as error:
        # (of a GPU; to compare a piece with the uncompiled one takes more than either)
        log.info("autochunk: no memory was left to try compiled code: %s", error)
        return Outcome(None, None)
    except MeasurementError as error:
        log.warning("autochunk: the plan runs uncompiled: %s", error)
        return Outcome(None, None)


def _tried(
    module: fx.GraphModule,
    compiler: Compiler,
    tensors: Sequence[torch.Tensor],
    limit_bytes: int | None,
    wanted: CompileOptions,
) -> Outcome:
    device = next((tensor.device for tensor in tensors), torch.device("cpu"))
    backend = backend_for(str(device))
    asked: int | None = None
    for options in _attempts(wanted):
        key = peak_key(module, options, tensors, backend.environment())
        peak_bytes = known_peak_of(key)
        made = None
        if peak_bytes is None or limit_bytes is None or peak_bytes <= limit_bytes:
            made = compiler.with_compiled(module, options)
            run = partial(_call, made, tensors, device.type)
            run()  # compiles
            if compiler.report.failure:
                return Outcome(None, asked)
            if peak_bytes is None:
                output, peak = backend.peak(run)
                del output
                peak_bytes = peak.requested_bytes
                keep_peak(key, peak_bytes)
        asked = peak_bytes if asked is None else asked
        if made is not None and (limit_bytes is None or peak_bytes <= limit_bytes):
            return Outcome(Tried(made, peak_bytes, options), asked)
        assert limit_bytes is not None
        log.info(
            "autochunk: compiled code took %s, more than the budget of %s; compiling less of it",
            mib(peak_bytes), mib(limit_bytes),
        )  # fmt: skip
    return Outcome(None, asked)


def _attempts(options: CompileOptions) -> tuple[CompileOptions, ...]:
    if options.bodies and options.stretches:
        return options, dataclasses.replace(options, stretches=False)
    return (options,) if options.bodies or options.stretches else ()


def _call(module: fx.GraphModule, tensors: Sequence[torch.Tensor], kind: str) -> Any:
    with torch.no_grad(), torch.autocast(kind, enabled=False):
        return module(*tensors)


_TOO_MUCH = "not compiled: compiled code took more than the budget, or than was left to try it"


def explain_compiled(compiler: Compiler, tried: Tried | None) -> list[str]:
    """What compiling came to, as lines for a person; none where nothing was asked for."""
    report = compiler.report
    if tried is None and report.failure:
        return [f"not compiled: {report.failure}"]
    if tried is None:
        return [_TOO_MUCH] if report.pieces else []
    loops = [one for one in tried.module.children() if isinstance(one, ChunkLoop)]
    left = sum(not one.compiles for one in loops)
    bodies = f"bodies of {len(loops) - left} of {len(loops)} loops" if left else "bodies"
    parts = [
        name
        for name, wanted in ((bodies, tried.options.bodies),
                             ("stretches between loops", tried.options.stretches))
        if wanted
    ]  # fmt: skip
    return [
        f"compiled: {' and '.join(parts)}, {report.compiled} distinct pieces in "
        f"{report.seconds:.1f} s; measured peak {mib(tried.peak_bytes)}"
    ]


@_disable_dynamo
def apart(run: Callable[..., Any], *arguments: Any) -> Any:
    """Run something that torch.compile must not look into."""
    return run(*arguments)
