"""Everything that needs a GPU, in one command and within a time limit.

First, at the same time: the gpu-marked tests, and all measured subjects prepared (compiled, run,
their memory and outputs compared with eager). Then, one after the other, since these are timed: the
subjects, and short campaigns. Leaves few, small files in the output folder::

    python3 -m experiments.gpu_suite --minutes 9 --out results

With ``--device cpu --tiny`` it goes the same way at sizes of a toy.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tuner.measure.variables import QUIET

os.environ.update(QUIET)

import torch

from experiments.machine import environment
from experiments.suite_campaigns import Done, campaign_table, cases, collect, rows, run_case
from experiments.suite_subjects import Subjects, measured_subjects, subject_table

PARTS = ("tests", "subjects", "campaigns")


def run_tests(log: Path, seconds: float, workers: int) -> str:
    """The gpu-marked tests; their last line, and the whole in ``log``."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider",
               "-W", "default", "-rP", "-n", str(workers)]  # fmt: skip
    with log.open("w", encoding="utf-8") as file:
        try:
            code = subprocess.run(
                command, stdout=file, stderr=subprocess.STDOUT, timeout=max(seconds, 1), check=False
            ).returncode
        except subprocess.TimeoutExpired:
            return f"stopped after {seconds:.0f} s"
    lines = log.read_text(encoding="utf-8").strip().splitlines()
    return f"exit code {code}: {lines[-1] if lines else 'no output'}"


@dataclass
class Suite:
    """One run of the suite: what it was asked, and what is known so far."""

    options: argparse.Namespace
    deadline: float
    tests: str = "left out"
    records: list[dict[str, Any]] = field(default_factory=list)
    done: list[Done] = field(default_factory=list)

    @property
    def out(self) -> Path:
        found: Path = self.options.out
        return found

    @property
    def left(self) -> float:
        """Seconds."""
        return self.deadline - time.monotonic()

    def tell(self, text: str) -> None:
        """To whoever watches, with the seconds that are left."""
        print(f"[{self.left:.0f} s left] {text}", flush=True)

    def run(self) -> None:
        """All parts."""
        parts = self.options.parts
        tests = threading.Thread(target=self._test)
        if "tests" in parts:
            tests.start()
        if "subjects" in parts:
            self._measure(tests)
        if "tests" in parts:
            tests.join()
            self.tell(f"gpu-marked tests: {self.tests}")
        if "campaigns" in parts:
            self._tune()
        self.save()

    def _test(self) -> None:
        self.tests = run_tests(self.out / "tests.log", 0.4 * self.left, self.options.workers)

    def _measure(self, tests: threading.Thread) -> None:
        options = self.options
        subjects = [
            one for one in measured_subjects(tiny=options.tiny)
            if not options.subjects or one.name in options.subjects
        ]  # fmt: skip
        work = self.out / "work"
        work.mkdir(parents=True, exist_ok=True)
        with Subjects(
            subjects, options.device, work, tiny=options.tiny, only=options.ways
        ) as measured:
            measured.prepare(options.prepare * self.left, self.tell)
            self.records = measured.records
            self.save()
            if options.workspaces:
                measured.workspaces(60.0, self.tell)
            self.save()
            if tests.is_alive():
                tests.join()  # nothing else may run while something is timed
            measured.time(options.rounds, options.seconds, self.tell)
        self.save()

    def _tune(self) -> None:
        longest = 0.0
        wanted = self.options.cases
        for case in cases(tiny=self.options.tiny):
            if wanted and case.name not in wanted:
                continue
            # a case of the size of the longest so far must fit, with a margin for collecting
            if self.left < 1.3 * longest + 10:
                self.done.append(Done(case, 0.0, None, "not started: no time left"))
                continue
            one = run_case(case, self.options.device, self.out / "work", self.out / "plans",
                           tiny=self.options.tiny)  # fmt: skip
            longest = max(longest, one.seconds)
            self.done.append(one)
            self.tell(f"{case.name}: {one.seconds:.0f} s {one.problem}")
            self.save()  # whatever happens later, this much is on disk

    def save(self) -> None:
        """All that is known so far."""
        with gzip.open(self.out / "subjects.json.gz", "wt", encoding="utf-8") as file:
            json.dump(self.records, file)
        (self.out / "summary.md").write_text(self.summary() + "\n", encoding="utf-8")
        found = {"environment": self._environment(), "tests": self.tests,
                 "campaigns": list(rows(self.done))}  # fmt: skip
        (self.out / "summary.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
        if self.done:
            collect(self.done, self.out, self.out / "work", self.out / "plans")

    def _environment(self) -> dict[str, str]:
        found = environment()
        if self.options.device.startswith("cuda"):
            found["device"] = torch.cuda.get_device_name(torch.device(self.options.device))
            found["cuda"] = str(torch.version.cuda)
        return found

    def summary(self) -> str:
        """The tables as Markdown."""
        about = ", ".join(f"{name} {value}" for name, value in self._environment().items())
        command = shlex.join(["python", "-m", "experiments.gpu_suite", *sys.argv[1:]])
        parts = [f"Device suite, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, `{command}`: {about}", "",
                 f"gpu-marked tests: {self.tests}", ""]  # fmt: skip
        if self.records:
            parts += [subject_table(self.records), ""]
        if self.done:
            parts += [campaign_table(self.done), ""]
        return "\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the suite; exit code 1 where nothing at all could be measured or tuned."""
    options = _parser().parse_args(arguments)
    suite = Suite(options, time.monotonic() + 60 * options.minutes)
    suite.out.mkdir(parents=True, exist_ok=True)
    suite.run()
    for folder in ("work", "plans"):
        shutil.rmtree(suite.out / folder, ignore_errors=True)
    print(suite.summary())
    measured = any(record["status"] == "ok" for record in suite.records)
    return 0 if measured or any(one.result is not None for one in suite.done) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--tiny", action="store_true", help="toy sizes, to try the suite itself")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--subjects", nargs="+", metavar="NAME", help="only these, as gpt2-float32")
    parser.add_argument("--ways", nargs="+", metavar="WAY", help="only these, as 'ours 0.35'")
    parser.add_argument("--cases", nargs="+", metavar="CASE",
                        help="only these campaigns, as 'vit float32 1024'")  # fmt: skip
    parser.add_argument("--prepare", type=float, default=0.4, metavar="SHARE",
                        help="of the time, in which subjects may begin to be prepared")  # fmt: skip
    parser.add_argument("--workspaces", action="store_true", help="also kernel by kernel")
    parser.add_argument("--rounds", type=int, default=12, help="of timing in turns")
    parser.add_argument("--seconds", type=float, default=8.0, help="of timing a subject, about")
    parser.add_argument("--workers", type=int, default=2, help="processes of tests")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
