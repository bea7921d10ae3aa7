"""The measuring process: one session, one JSON request a line in, one JSON reply a line out.

Started as ``python -m tuner.measure.child LIFELINE``, a pipe that ends with the campaign. The first
line names what to build (``target``: ``module:Class``), from what (``spec``), and how to confine
the process (``cores``, ``memory_bytes``). Later lines are given to the session's ``handle``.
Replies go to the process's first standard output; whatever else prints goes to standard error.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from typing import Any, Protocol, TextIO

from search_space.errors import AutoChunkError
from tuner.measure.confine import confine, tie


class Session(Protocol):
    """What a target class gives: answers to requests, and judgement of exceptions."""

    def handle(self, request: dict[str, Any]) -> dict[str, Any]:
        """The reply to one request."""

    def classify(self, error: BaseException) -> tuple[str, bool]:
        """A status for an exception, and whether the process must end."""


def main() -> int:
    """Serve until the input ends."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    session: Session | None = None
    fatal = False
    guard = tie(int(sys.argv[1]))
    for line in sys.stdin:
        request = json.loads(line)
        fatal = False
        try:
            if session is None:
                confine(request.get("cores", ()), request.get("memory_bytes", 0))
                module, _, name = request["target"].partition(":")
                session = getattr(importlib.import_module(module), name)(request["spec"])
                reply: dict[str, Any] = {"status": "ok"}
            else:
                reply = session.handle(request)
                fatal = bool(reply.pop("fatal", False))
        except Exception as error:  # every failure becomes a reply, so that the batch goes on
            reply, fatal = _failure(error, session)
        _send(replies, {**reply, "fatal": fatal})
        if fatal:
            break
    guard.kill()
    return int(fatal)


def _failure(error: Exception, session: Session | None) -> tuple[dict[str, Any], bool]:
    traceback.print_exc()
    if isinstance(error, AutoChunkError):
        return {
            "status": "refused",
            "error": type(error).__name__,
            "reason": str(error),
            "exit_code": error.exit_code,
        }, session is None
    status, fatal = ("crash", True) if session is None else session.classify(error)
    text = str(error).strip().splitlines()
    reason = f"{type(error).__name__}: {text[0] if text else 'no message'}"
    return {"status": status, "reason": reason}, fatal


def _send(replies: TextIO, reply: dict[str, Any]) -> None:
    replies.write(json.dumps(reply) + "\n")
    replies.flush()


if __name__ == "__main__":
    sys.exit(main())
