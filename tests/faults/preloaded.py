"""Coordinators for the fault campaign, forked from an interpreter that has loaded all once.

Loading torch, Optuna and scikit-learn takes seconds a process; fifty starts would take minutes.
What is forked runs ``autochunk tune`` from its first line on. Measuring processes are started by
the coordinator as always. Commands come as JSON lines: a list of arguments starts a coordinator
(the reply is its process id), null waits for it (the reply is its exit code, negative for a
signal).
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LOADED = (
    "optuna", "sklearn.ensemble", "sklearn.linear_model", "torch", "tuner.inspect_model",
    "tuner.sweep", "tuner.tables", "tuner.terminal",
)  # fmt: skip
"""All that a campaign loads, at the top or when it comes to it."""


class Preloaded:
    """The test's side.

    Args:
        log: where coordinators print.
    """

    def __init__(self, log: Path) -> None:
        single = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.preloaded", str(log)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **single}, cwd=ROOT,
            start_new_session=True,
        )  # fmt: skip

    def __enter__(self) -> Preloaded:
        return self

    def __exit__(self, *error: object) -> None:
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait()
        self._server.stdout.close()

    def start(self, *arguments: str) -> int:
        """Start ``autochunk`` with these arguments; its process id."""
        return int(self._ask(list(arguments)))

    def wait(self) -> int:
        """The exit code of what was started last; negative for a signal."""
        return int(self._ask(None))

    def _ask(self, what: Any) -> Any:
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.write(json.dumps(what).encode() + b"\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())


def serve(log: str) -> None:
    """The server's side: until the input ends."""
    for name in LOADED:
        importlib.import_module(name)
    from tuner.cli import main

    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(out, 1)
    os.dup2(out, 2)
    process = running = 0
    for line in sys.stdin:
        arguments = json.loads(line)
        if arguments is None:
            _, status = os.waitpid(process, 0)
            reply, running = os.waitstatus_to_exitcode(status), 0
        else:
            process = os.fork()
            if process == 0:
                replies.close()
                os.setsid()
                code = main(arguments)
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
            reply = running = process
        replies.write(f"{reply}\n")
        replies.flush()
    if running:
        os.kill(running, signal.SIGKILL)  # a test that failed did not wait for it


if __name__ == "__main__":
    serve(sys.argv[1])
