"""The other end of :mod:`tuner.measure.child`: a measuring process that may die.

Each request has a hard timeout. A process that dies, hangs or cannot be trusted any more is killed
with all its children, and the next request starts a new one.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tuner.measure.confine import leftovers, memory_kills
from tuner.measure.protocol import Status

UNSTARTED = "unstarted"
"""Marks a reply of a process that could not be started: it says nothing of what was asked."""


_PAUSES_S = (1.0, 3.0)

_MAY_PASS = (Status.OOM, Status.CRASH)
"""Failures to start that may be over after a while. (What is killed from outside the pool tries
again itself, and a start that hangs has had its time.)"""


class Isolated:
    """A session in a process of its own.

    Args:
        target: ``module:Class`` of the session.
        spec: what the session is built from; plain values.
        log: where the process's own output goes.
        start_timeout_s: for starting and building the session.
        environment: variables on top of this process's own.
        cores: those that the process may run on; empty for all.
        memory_bytes: host memory it may take; 0 for no cap.
        name: in messages, where there are several.
    """

    def __init__(
        self,
        target: str,
        spec: Mapping[str, Any],
        *,
        log: Path,
        start_timeout_s: float = 600.0,
        environment: Mapping[str, str] | None = None,
        cores: Sequence[int] = (),
        memory_bytes: int = 0,
        name: str = "",
    ) -> None:
        self.opening = {
            "target": target,
            "spec": dict(spec),
            "cores": list(cores),
            "memory_bytes": memory_bytes,
        }
        self.name = name
        self._log = log
        self._start_timeout_s = start_timeout_s
        self._environment = {**os.environ, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self._lifeline = -1
        self._buffer = b""
        self._kills: int | None = None
        self.starts = 0
        self._ever_opened = False

    def __enter__(self) -> Isolated:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def fresh(self) -> bool:
        """Whether the next request will have a process that has done nothing else."""
        return self._process is None or self._process.poll() is not None

    def request(self, request: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        """The session's reply; a reply with a failure's status where there is none.

        A reply has at least ``status``, and ``reason`` where that is not ``ok``.
        """
        if self._process is not None and self._process.poll() is not None:
            self.close()  # it ended between requests: that is nobody's failure
        if self._process is None:
            opened = self._started()
            if opened["status"] != "ok":
                return {**opened, UNSTARTED: True}
        return self._exchange(request, timeout_s)

    def kill(self) -> None:
        """End the process and its group at once, from any thread; a request that is under way
        comes back as a death."""
        process = self._process
        if process is not None and process.returncode is None:
            _kill_group(process.pid)

    def close(self) -> None:
        """End the process and all that it started."""
        process, self._process, self._buffer = self._process, None, b""
        if process is None:
            return
        _kill_group(process.pid)
        process.wait()
        os.close(self._lifeline)
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    pass  # a request it never read

    def _started(self) -> dict[str, Any]:
        """Start, again after a while where that went well before: what a device or the system has
        not yet given back may be what is missing."""
        opened = self._start()
        for pause_s in _PAUSES_S if self._ever_opened else ():
            if opened["status"] not in _MAY_PASS:
                break
            self.close()
            time.sleep(pause_s)
            opened = self._start()
        self._ever_opened = self._ever_opened or opened["status"] == "ok"
        return opened

    def _start(self) -> dict[str, Any]:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._kills = memory_kills()
        theirs, self._lifeline = os.pipe()
        try:
            with self._log.open("ab") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "tuner.measure.child", str(theirs)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    start_new_session=True,
                    env=self._environment,
                    pass_fds=(theirs,),
                )
        except BaseException:
            os.close(self._lifeline)  # should it run already, this ends it
            raise
        finally:
            os.close(theirs)
        self.starts += 1
        return self._exchange(self.opening, self._start_timeout_s)

    def _exchange(self, request: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        process = self._process
        assert process is not None and process.stdin is not None
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            return self._died(process)
        line = self._read_line(process, time.monotonic() + timeout_s)
        if line is None:
            self.close()
            return {"status": Status.TIMEOUT.value, "reason": f"no answer within {timeout_s:g} s"}
        if not line:
            return self._died(process)
        reply: dict[str, Any] = json.loads(line)
        if reply.pop("fatal", False):
            self.close()
        return reply

    def _read_line(self, process: subprocess.Popen[bytes], deadline: float) -> bytes | None:
        """The next line; empty where the process has ended, None at the deadline."""
        assert process.stdout is not None
        handle = process.stdout.fileno()
        with selectors.DefaultSelector() as selector:
            selector.register(handle, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                left = deadline - time.monotonic()
                if left <= 0:
                    return None
                # a process that it forked may hold the pipe open after its end
                ended = process.poll() is not None
                if not selector.select(0 if ended else min(left, 0.5)):
                    if ended:
                        return b""
                    continue
                part = os.read(handle, 1 << 16)
                if not part:
                    return b""
                self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _died(self, process: subprocess.Popen[bytes]) -> dict[str, Any]:
        try:
            code = process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            code = None
        before, now = self._kills, memory_kills()
        self.close()
        if code != -signal.SIGKILL:
            return {
                "status": Status.CRASH.value,
                "reason": f"the measuring process ended with {_exit_text(code)}; see {self._log}",
            }
        if before is not None and before == now:
            return {
                "status": Status.PREEMPTED.value,
                "reason": "the measuring process was killed from outside",
            }
        # the kernel kills with SIGKILL where the machine's memory is out
        return {
            "status": Status.OOM.value,
            "reason": "the measuring process was killed, probably for lack of memory",
        }


def end_leftovers(mark: str) -> int:
    """Kill what an earlier campaign of this mark may have left behind, and give their number."""
    if not leftovers(mark):
        return 0
    time.sleep(0.2)  # what was killed just now takes a moment to go
    found = leftovers(mark)
    for process in found:
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:
            continue  # it was just ending
    return len(found)


def _kill_group(process: int) -> None:
    try:
        os.killpg(process, signal.SIGKILL)
    except ProcessLookupError:
        pass  # it had ended by itself


def _exit_text(code: int | None) -> str:
    if code is None:
        return "no exit status"
    if code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit status {code}"
