"""Threads that use a model's weights, and the one that traces it.

Whoever traces a model, for a capture or for the eager peak, puts tensors without data in the place
of its weights, in the very module that other threads serve from, and sets flags of torch that hold
for the whole process. So one thread traces at a time, in the whole process, and alone: who would
use weights meanwhile waits.

- :meth:`Gate.using` stands around what reads weights. Generated code reads all of them before its
  first kernel, so that a call is kept waiting, and keeps others waiting, for no longer than that.
- :meth:`Gate.preparing` stands around all that leads to a plan, one thread at a time. A thread that
  comes to it while it uses weights lets go of them until it is done; who traces would wait for it,
  and it for who traces.
- :meth:`Gate.tracing` stands around what traces. It waits for a moment at which nobody uses
  weights, and holds newcomers up for short times alone until it comes: they may be threads that a
  user waits for, as where a model's parts run in threads of their own.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from types import TracebackType

log = logging.getLogger("autochunk")

_PATIENCE_S = 5.0
"""So long who traces waits for a moment that comes by itself, and again after each try."""

_HELD_UP_S = 1.0
"""So long newcomers are held up for it to come."""


class _Own(threading.local):
    """How deep a thread is in code that uses weights."""

    depth = 0


class Gate:
    """See the module. All may be nested."""

    def __init__(self) -> None:
        self._preparing = threading.RLock()
        self._changed = threading.Condition(threading.Lock())
        self._users = 0  # threads
        self._tracer: int | None = None  # the thread that traces, or holds newcomers up for it
        self._own = _Own()
        self._using = _Using(self)

    def using(self) -> _Using:
        """Nobody else traces inside."""
        return self._using

    @contextlib.contextmanager
    def preparing(self) -> Iterator[None]:
        """Nobody else prepares inside."""
        depth, self._own.depth = self._own.depth, 0
        if depth:
            self._leave()
        try:
            with self._preparing:
                yield
        finally:
            self._own.depth = depth
            if depth:
                self._enter(again=True)

    @contextlib.contextmanager
    def tracing(self) -> Iterator[None]:
        """Nobody else traces, prepares, or uses weights inside."""
        with self.preparing():
            before = self._tracer
            try:
                with self._changed:
                    self._await_users()
                yield
            finally:
                with self._changed:
                    self._tracer = before
                    self._changed.notify_all()

    def _await_users(self) -> None:
        """Until nobody uses weights; then, nobody may come."""
        said = False
        while True:
            if self._changed.wait_for(lambda: not self._users, _PATIENCE_S):
                break
            self._tracer = threading.get_ident()
            if self._changed.wait_for(lambda: not self._users, _HELD_UP_S):
                break
            self._tracer = None
            self._changed.notify_all()
            if not said:
                log.warning(
                    "autochunk: inputs of a new kind are captured as soon as no other thread's "
                    "call runs; so far some always did"
                )
                said = True
        self._tracer = threading.get_ident()

    def _enter(self, again: bool = False) -> None:
        """Wait for who traces, and count.

        Args:
            again: whether it comes back, and will leave even where the wait is interrupted.
        """
        with self._changed:
            try:
                if self._tracer is not None and self._tracer != threading.get_ident():
                    self._changed.wait_for(lambda: self._tracer is None)
            except BaseException:
                self._users += again
                raise
            self._users += 1

    def _leave(self) -> None:
        with self._changed:
            self._users -= 1
            if not self._users:
                self._changed.notify_all()


class _Using:
    """A context for any number of threads at a time. (No generator: it stands in every call.)"""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def __enter__(self) -> None:
        own = self._gate._own
        if not own.depth:
            self._gate._enter()
        own.depth += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        own = self._gate._own
        own.depth -= 1
        if not own.depth:
            self._gate._leave()


GATE = Gate()
"""The process's own: what torch's tracing sets holds for all threads."""
