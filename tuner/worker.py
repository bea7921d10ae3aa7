"""The session of a measuring process: one model, asked about again and again.

Every request stands for itself, so that a new process can go on where a dead one stopped. Models,
captures and reference outputs are made on demand and kept.
"""

from __future__ import annotations

import base64
import gc
import pickle
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree

from search_space.eager_peak import eager_peak_bytes
from search_space.errors import CaptureError
from search_space.graph import Graph, Tensor
from search_space.liveness import MemoryModel
from search_space.plan import Plan, decode_plan, decode_regions
from search_space.probe import Prober
from search_space.regions import Loop
from search_space.space import make_plan
from search_space.strides import sized_graph
from tuner.config import parse_config
from tuner.factory import Inputs, build, distinct_of, target_subject
from tuner.measure.backends import backend_for
from tuner.measure.ceilings import measure_ceilings
from tuner.measure.compare import compare
from tuner.measure.confine import available_bytes
from tuner.measure.protocol import COMPILED, CONTENDED, TURN, WHOLE, Repeats, Status
from tuner.measure.timing import interleave
from tuner.runtime.apply import Applied, apply_plan
from tuner.runtime.captures import Captures, Located
from tuner.runtime.compiled import Compiler
from tuner.runtime.kernels import Forms
from tuner.runtime.rewrite import body_module, chunk_loop

EAGER = "eager"
_IMPATIENT_S = 600.0
"""After a wait for the device that was in vain, the next one is this much later."""


class Session:
    """Measures one campaign's model. See :mod:`tuner.measure.child` for how it is driven.

    Args:
        spec: ``config``, the resolved campaign as plain values, its device included;
            ``folder``, where its file stands; and ``target``, the submodule to measure in place of
            the whole model, or an empty text.
    """

    def __init__(self, spec: Mapping[str, Any]) -> None:
        folder = Path(spec["folder"])
        self._config = parse_config(spec["config"], folder)
        self._backend = backend_for(self._config.device)
        self._subject = build(self._config.model, self._config.device, folder)
        if spec["target"]:
            targets = self._config.model.targets or ()
            self._subject = target_subject(self._subject, targets, spec["target"])
        self._captures = Captures(self._subject.model)
        self._forms = Forms(self._config.kernels)
        self._probe = Prober()
        self._impatient_until = self._no_turn_until = 0.0
        self._turn = ExitStack()
        self._has_turn = False
        self._alone = True
        self._inputs: tuple[int, Inputs] | None = None
        self._references: dict[tuple[int, str], Any] = {}
        self._memory: dict[int, tuple[Located, MemoryModel]] = {}
        self._jobs: Mapping[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
            "environment": self._environment,
            "ceilings": self._ceilings,
            "targets": self._targets,
            "describe": self._describe,
            "baseline": self._baseline,
            "region": self._region,
            "plans": self._plans,
            "peak": self._peak,
        }

    def handle(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to one request; its ``job`` names which. A turn on the device that came before
        ends with it."""
        if request["job"] == TURN:
            return self._take_turn(request["most_s"])
        # (a process that was started anew since then has lost its turn)
        self._alone = self._has_turn or not request.get(TURN, False)
        try:
            with torch.no_grad():
                return self._jobs[request["job"]](request)
        finally:
            self._end_turn()

    def _take_turn(self, most_s: float) -> dict[str, Any]:
        """Keep other campaigns of this user from the device, as soon as they leave it; after a wait
        in vain go on beside them, for a while without another one."""
        self._end_turn()
        patience = 0.0 if self._no_turn_until > time.monotonic() else most_s
        self._has_turn = self._turn.enter_context(self._backend.turn(patience))
        if not self._has_turn and patience:
            self._no_turn_until = time.monotonic() + _IMPATIENT_S
        return {"status": "ok", "came": self._has_turn}

    def _end_turn(self) -> None:
        self._turn.close()
        self._has_turn = False

    def classify(self, error: BaseException) -> tuple[str, bool]:
        """Out of memory goes on in this process; what may have harmed the device does not."""
        fatal = self._backend.is_fatal(error)
        if not self._backend.is_out_of_memory(error):
            return Status.CRASH.value, fatal
        if not fatal:
            self._backend.settle()
        return Status.OOM.value, fatal

    def _environment(self, request: Mapping[str, Any]) -> dict[str, Any]:
        found = {**self._backend.environment(), "dtype": self._config.model.dtype}
        return {"status": "ok", "environment": found}

    def _ceilings(self, request: Mapping[str, Any]) -> dict[str, Any]:
        dtype = getattr(torch, self._config.model.dtype)
        ceilings = measure_ceilings(self._backend, dtype)
        self._backend.settle()
        return {"status": "ok", "ceilings": asdict(ceilings)}

    def _targets(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The first target of each distinct graph."""
        args, kwargs = self._inputs_at(request["length"])
        patterns = self._config.model.targets or ()
        return {"status": "ok", "targets": distinct_of(self._subject, patterns, args, kwargs)}

    def _describe(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Capture at a length; the graph, which is plain data, goes as a text."""
        length = request["length"]
        located, _ = self._located(length)
        args, kwargs = self._inputs_at(length)
        graph: Graph = located.captured.graph
        described = pickle.dumps((graph, located.bindings, located.shapes))
        try:
            eager = eager_peak_bytes(self._subject.model, args, kwargs)
        except CaptureError:
            eager = 0
        self._backend.settle()
        return {
            "status": "ok",
            "fingerprint": graph.fingerprint,
            "described": base64.b64encode(described).decode(),
            "eager_peak_bytes": eager,
            "free_bytes": _free_bytes(self._config.device),
        }

    def _baseline(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The eager model's peak; its latency and that of the unchunked capture, interleaved."""
        length = request["length"]
        args, kwargs = self._inputs_at(length)
        eager = self._eager(args, kwargs)
        eager()  # lazily made things, such as rotary tables, are no activations
        output, peak = self._backend.peak(eager)
        self._references[length, EAGER] = _to_cpu(output)
        del output
        located, _ = self._located(length)
        unchunked = self._applied(make_plan(located.captured.graph), length)
        calls = {EAGER: eager, "unchunked": lambda: unchunked(*args, **kwargs)}
        return {**self._timed(calls, request), "peak": asdict(peak)}

    def _region(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """One region alone, on random inputs: whole, and in chunks of several sizes; passes of some
        of them compiled too, under their names with a sign."""
        _, memory = self._located(request["length"])
        loop = memory.loop(decode_regions(request["regions"])[0])
        tensors = _random_inputs(loop, self._config.device)
        body = body_module(loop)
        # whole, a region writes into no preallocated outputs
        calls: dict[str, Callable[[], Any]] = {WHOLE: partial(body, *tensors, 0, loop.extent)}
        for size in request["chunk_sizes"]:
            module = chunk_loop(loop, size, body)
            calls[str(size)] = partial(module, *tensors)
        compiler = Compiler(self._config.compile)
        for size in request.get("compiled_sizes", ()):
            compiled = partial(compiler.compiled_loop(chunk_loop(loop, size, body)), *tensors)
            compiled()  # a warm-up that compiles would tell nothing of how long a call takes
            calls[f"{size}{COMPILED}"] = compiled
        if compiler.report.failure:
            reason = f"nothing is compiled: {compiler.report.failure}"
            return {"status": Status.CRASH.value, "reason": reason}
        timed = self._timed(calls, request)
        self._backend.settle()
        return timed

    def _peak(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """One plan: its peak, and its outputs against the reference's."""
        length = request["length"]
        applied = self._applied(decode_plan(request["plan"]), length)
        args, kwargs = self._inputs_at(length)
        expected = self._reference(length, request["reference"])
        output, peak = self._backend.peak(lambda: applied(*args, **kwargs))
        difference = compare(
            output, expected, self._config.confirm.rtol, self._config.confirm.atol
        )
        del output
        spoilt = not difference.equal and self._is_spoilt(length, request["reference"], expected)
        return {
            "status": "ok" if difference.equal else Status.WRONG_OUTPUT.value,
            "reason": difference.reason,
            **({"suspect": True, "fatal": True} if spoilt else {}),
            "peak": asdict(peak),
            # by the memory model, also of compiled code: what the measured peak adds to it is added
            # again where the plan is foreseen at another length
            "predicted_bytes": applied.prepare(*args, **kwargs).chosen.peak_bytes,
            "compile_s": round(applied.compile_report.seconds if applied.compile_report else 0, 2),
            "max_abs_diff": difference.max_abs,
            "max_rel_diff": difference.max_rel,
        }

    def _is_spoilt(self, length: int, plan: Mapping[str, Any] | None, expected: Any) -> bool:
        """Whether the reference itself no longer gives what it gave: something that ran here wrote
        into the model. A model that gives another output at every call does not count."""
        again, once_more = self._run(length, plan), self._run(length, plan)
        confirm = self._config.confirm
        return (
            compare(again, once_more, confirm.rtol, confirm.atol).equal
            and not compare(again, expected, confirm.rtol, confirm.atol).equal
        )

    def _plans(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Several plans and the reference, timed in turns."""
        length = request["length"]
        args, kwargs = self._inputs_at(length)
        calls: dict[str, Callable[[], Any]] = {}
        if request["reference"] is None:
            calls["reference"] = self._eager(args, kwargs)
        else:
            reference = self._applied(decode_plan(request["reference"]), length)
            calls["reference"] = lambda: reference(*args, **kwargs)
        for place, row in enumerate(request["plans"]):
            applied = self._applied(decode_plan(row), length)
            calls[str(place)] = partial(applied, *args, **kwargs)
        return self._timed(calls, request)

    def _timed(
        self, calls: Mapping[str, Callable[[], Any]], request: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Calls timed in turns; ``contended`` is the share of the time in which others had the
        device."""
        if request["job"] != "region":  # one of many, and soon over
            self._wait_for_the_device()
        samples = interleave(self._backend, calls, _repeats(request))
        return {
            "status": "ok",
            "samples": {name: found.plain() for name, found in samples.items()},
            "contended": round(self._backend.contention(), 3) if self._alone else 1.0,
        }

    def _wait_for_the_device(self) -> None:
        """Wait while others keep it busy, but not for ever, and not again and again."""
        deadline = time.monotonic() + self._config.confirm.wait_s
        if self._impatient_until > time.monotonic() or not self._alone:
            return
        while self._backend.contention() >= CONTENDED:
            if time.monotonic() > deadline:
                self._impatient_until = time.monotonic() + _IMPATIENT_S
                return
            time.sleep(0.5)

    def _reference(self, length: int, plan: Mapping[str, Any] | None) -> Any:
        """The output that all plans at a length must give: the eager model's, or a plan's where the
        eager model does not fit."""
        key = (length, EAGER if plan is None else repr(plan))
        if key not in self._references:
            self._references = {k: v for k, v in self._references.items() if k[0] == length}
            self._references[key] = self._run(length, plan)
        return self._references[key]

    def _run(self, length: int, plan: Mapping[str, Any] | None) -> Any:
        """The eager model's output, or a plan's, on the host."""
        args, kwargs = self._inputs_at(length)
        if plan is None:
            return _to_cpu(self._eager(args, kwargs)())
        return _to_cpu(self._applied(decode_plan(plan), length)(*args, **kwargs))

    def _eager(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Callable[[], Any]:
        return lambda: self._subject.model(*args, **kwargs)

    def _applied(self, plan: Plan, length: int) -> Applied:
        args, kwargs = self._inputs_at(length)
        options = self._config.compile if plan.compiled else False
        return apply_plan(
            self._subject.model, plan, args, kwargs, captures=self._captures, compile=options
        )

    def _inputs_at(self, length: int) -> Inputs:
        if self._inputs is None or self._inputs[0] != length:
            self._inputs = (length, self._subject.inputs(length))
            self._references.clear()  # (they may be random, and others each time)
        return self._inputs[1]

    def _located(self, length: int) -> tuple[Located, MemoryModel]:
        if length not in self._memory:
            args, kwargs = self._inputs_at(length)
            located = self._captures.locate(args, kwargs)
            form = self._forms.chosen(located.captured, located.bindings)
            located = replace(located, captured=form)
            sized = sized_graph(located.captured.graph, located.bindings)
            self._memory[length] = (located, MemoryModel(sized, self._probe))
            _keep_for_good()
        return self._memory[length]


def _repeats(request: Mapping[str, Any]) -> Repeats:
    return Repeats(**request["repeats"])


def _to_cpu(output: Any) -> Any:
    return pytree.tree_map_only(torch.Tensor, lambda tensor: tensor.cpu(), output)


_TURN = 32
"""Truth values that are alike, one after the other: no branch is hard to foresee."""


def _random_inputs(loop: Loop, device: str) -> list[torch.Tensor]:
    """Tensors of the captured shapes and strides. Integers are zeros: valid as any index. Truth
    values are of either kind in turns: a mask that shut out all of a row would make it NaN."""
    generator = torch.Generator(device=device).manual_seed(0)
    made: dict[int, torch.Tensor] = {}
    for source in loop.inputs:
        if source.node not in made:
            made[source.node] = _random(loop.graph.nodes[source.node].output, device, generator)
    return [made[source.node] for source in loop.inputs]


def _random(tensor: Tensor, device: str, generator: torch.Generator) -> torch.Tensor:
    # a broadcast tensor has fewer elements than positions
    count = 1 + sum(
        (size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True)
    )
    flat = torch.zeros(count, dtype=getattr(torch, tensor.dtype), device=device)
    if flat.dtype.is_floating_point:
        flat.normal_(generator=generator)
    elif flat.dtype == torch.bool:
        flat.copy_(torch.arange(count, device=device) // _TURN % 2 == 0)
    return flat.as_strided(tensor.shape, tensor.strides)


def _keep_for_good() -> None:
    """Take what is there by now, libraries and captures, from the collector's sight: it runs before
    every measurement, and would look at a million objects each time (0.3 s)."""
    gc.collect()
    gc.freeze()


def _free_bytes(device: str) -> int:
    """Memory that activations may take now."""
    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(torch.device(device))[0])
    return available_bytes()
