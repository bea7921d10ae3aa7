"""A session for :mod:`tuner.measure.child` that fails in every way that a measuring process can."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

from search_space.errors import BudgetError, ConfigError

SLEEPER = [sys.executable, "-c", "import time; time.sleep(600)"]


class Fatal(Exception):
    """After it the process cannot be trusted."""


class Faulty:
    """Does what a request's ``do`` names; ``spec`` may ask for a failure at once."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self._spec = dict(spec)
        self._count = 0
        if "first" in spec:
            self.handle({"do": spec["first"]})

    def handle(self, request: dict[str, Any]) -> dict[str, Any]:
        self._count += 1
        reply: dict[str, Any] = {"status": "ok", "pid": os.getpid(), "count": self._count}
        match request["do"]:
            case "answer":
                cores = sorted(os.sched_getaffinity(0))
                return {**reply, "spec": self._spec, "echo": request.get("echo"), "cores": cores}
            case "take":
                bytearray(request["bytes"])
            case "sleep":
                time.sleep(600)
            case "nap":
                time.sleep(request["seconds"])
                return {**reply, "echo": request["echo"]}
            case "kill at first":
                with open(request["path"], "ab") as file:
                    file.write(b".")
                if os.path.getsize(request["path"]) <= request["times"]:
                    os.kill(os.getpid(), signal.SIGKILL)
            case "exit":
                os._exit(3)
            case "leave":
                sys.exit(4)
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "abort":
                os.kill(os.getpid(), signal.SIGTERM)
            case "refuse":
                raise ConfigError("the key is wrong\nsecond line")
            case "refuse as over budget":
                raise BudgetError("too little", lowest_bytes=5)
            case "fail":
                raise RuntimeError("first line\nsecond line")
            case "fail silently":
                raise RuntimeError
            case "fail fatally":
                raise Fatal("illegal access")
            case "print":
                print('{"status": "printed"}')
                os.write(1, b"written below Python\n")
                subprocess.run([sys.executable, "-c", "print('printed by a child')"], check=True)
            case "start":
                return {**reply, "started": subprocess.Popen(SLEEPER).pid}
            case "start apart":
                apart = subprocess.Popen(SLEEPER, start_new_session=True)
                return {**reply, "started": apart.pid}
            case "spin without a break":
                # one long call that never lets another thread run
                sum(itertools.repeat(0))
            case "start and sleep":
                path, other = request["path"], subprocess.Popen(SLEEPER)
                with open(path, "w", encoding="utf-8") as file:
                    file.write(str(other.pid))
                time.sleep(600)
            case "fork and exit":
                # the copy keeps all open files, the pipe of the replies among them
                if os.fork() == 0:
                    time.sleep(600)
                os._exit(3)
        return reply

    def classify(self, error: BaseException) -> tuple[str, bool]:
        return ("oom", False) if isinstance(error, (RuntimeError, MemoryError)) else ("crash", True)
