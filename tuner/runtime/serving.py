"""What runs for one set of input shapes: one plan, or a ladder of plans by free memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from cost_models.select import mib
from search_space.capture import Capture
from search_space.errors import MemoryShortage
from tuner.compile_options import CompileOptions
from tuner.measure.protocol import Backend
from tuner.runtime.analysis import Analysis
from tuner.runtime.choose import Chosen, lower_rungs
from tuner.runtime.compiled_run import Tried
from tuner.runtime.free_memory import FreeMemory
from tuner.runtime.gate import GATE
from tuner.runtime.ladder import Ladder

log = logging.getLogger("autochunk")


@dataclass(frozen=True)
class Prepared:
    """A plan for one set of input shapes, and the code that runs it; ``compiled`` is what came of
    compiling it."""

    captured: Capture
    analysis: Analysis
    chosen: Chosen
    module: torch.fx.GraphModule
    compiled: Tried | None = None

    def is_compiled(self, options: CompileOptions) -> bool:
        """Whether all that the options ask for is compiled."""
        return self.compiled is not None and self.compiled.options == options


class Serving(Protocol):
    """Runs calls of one set of input shapes."""

    @property
    def current(self) -> Prepared:
        """What ran last, or will run first."""

    def run(self, tensors: Sequence[torch.Tensor]) -> Sequence[Any]:
        """The flat outputs of a call."""

    def note(self) -> str:
        """For the explanation: what else could run; empty if nothing."""

    def moved(self, move: Callable[[Prepared], Prepared]) -> Serving:
        """The same for another model."""


class Pinned:
    """One plan, whatever happens."""

    def __init__(self, prepared: Prepared) -> None:
        self.current = prepared
        # (a module's own call would look for hooks, which generated code never has)
        self._forward = prepared.module.forward

    def run(self, tensors: Sequence[torch.Tensor]) -> Sequence[Any]:
        found: Sequence[Any] = self._forward(*tensors)
        return found

    def note(self) -> str:
        return ""

    def moved(self, move: Callable[[Prepared], Prepared]) -> Pinned:
        return Pinned(move(self.current))


class Elastic:
    """The fastest plan that fits the memory free at each call.

    Where one runs out of memory all the same, the next lower one runs, and the ladder remembers.
    Lower plans than the tuned ones are searched for when they are first needed.

    Args:
        rungs: fastest first, each of a lower peak.
        prepare: generates a plan's code.
        free: bytes free now.
        backend: of the device: knows its out-of-memory errors and how to give memory back.
    """

    def __init__(
        self,
        rungs: Sequence[Chosen],
        prepare: Callable[[Chosen], Prepared],
        free: FreeMemory,
        backend: Backend,
    ) -> None:
        self._rungs: list[Chosen] = []
        self._prepare = prepare
        self._free = free
        self._backend = backend
        self._ladder = Ladder()
        self._ready: dict[int, Prepared] = {}
        self._searched = False
        for rung in rungs:
            self._add(rung)
        self._place = self._pick(free())
        self._on_cuda = self.current.analysis.graph.device == "cuda"

    @property
    def current(self) -> Prepared:
        return self._at(self._place)

    def run(self, tensors: Sequence[torch.Tensor]) -> Sequence[Any]:
        """The flat outputs of a call.

        Raises:
            MemoryShortage: the lowest plan of all ran out of memory too.
        """
        if self._on_cuda and torch.cuda.is_current_stream_capturing():
            # a graph is being recorded: nothing may be asked or freed, and it is one plan for ever
            recorded: Sequence[Any] = self.current.module.forward(*tensors)
            return recorded
        free = self._free()
        place = self._pick(free)
        while True:
            self._place = place
            prepared = self._at(place)
            reason = ""
            try:
                found: Sequence[Any] = prepared.module.forward(*tensors)
                return found
            except Exception as error:
                if not self._backend.is_out_of_memory(error):
                    raise
                reason = first_line(error)
            # (only here has the error let go of the frames, and they of what they had allocated)
            place = self._step_down(place, free, reason)

    def note(self) -> str:
        peaks = ", ".join(mib(rung.peak_bytes) for rung in self._rungs)
        return (
            f"plan {self._place + 1} of {len(self._rungs)}, chosen by free memory at each call; "
            f"their peaks: {peaks}"
        )

    def moved(self, move: Callable[[Prepared], Prepared]) -> Elastic:
        with GATE.preparing():
            rungs = tuple(self._rungs)
        return Elastic(
            rungs, lambda chosen: move(self._prepare(chosen)), self._free, self._backend
        )

    def _pick(self, free: int) -> int:
        place = self._ladder.pick(free)
        if place is None:
            self._search()
            place = self._ladder.pick(free)
        # the lowest is tried even where it seems too large: predictions leave some room
        return len(self._rungs) - 1 if place is None else place

    def _at(self, place: int) -> Prepared:
        prepared = self._ready.get(place)
        if prepared is None:
            with GATE.preparing():
                prepared = self._ready.get(place) or self._prepare(self._rungs[place])
                self._ready[place] = prepared
        return prepared

    def _step_down(self, place: int, free: int, reason: str) -> int:
        self._backend.settle()
        after = self._free()
        rung = self._rungs[place]
        self._ladder.ran_out(place, free, after)
        if place + 1 == len(self._rungs):
            self._search()
        if place + 1 == len(self._rungs):
            raise MemoryShortage(
                f"out of memory with every plan, down to the lowest: it needs "
                f"{mib(rung.peak_bytes)} of activations by prediction, and {mib(after)} are free "
                f"({reason}). Free memory on the device, or call with a shorter input",
                lowest_bytes=rung.peak_bytes,
                free_bytes=after,
            )
        log.warning(
            "autochunk: out of memory with a plan of %s (%s were free); going on with one of %s",
            mib(rung.peak_bytes), mib(free), mib(self._rungs[place + 1].peak_bytes),
        )  # fmt: skip
        return place + 1

    def _search(self) -> None:
        """Add lower plans than those at hand, once."""
        with GATE.preparing():
            if self._searched:
                return
            last = self._at(len(self._rungs) - 1)
            for rung in lower_rungs(last.analysis, last.chosen.peak_bytes):
                self._add(rung)
            self._searched = True  # (not where the search itself ran out of memory)
            last.analysis.memory.forget()

    def _add(self, rung: Chosen) -> None:
        self._rungs.append(rung)
        self._ladder.add(rung.peak_bytes)


def first_line(error: BaseException) -> str:
    """An error in short."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
