"""The device suite's measured subjects: ours beside what a user would run instead, on one device.

All subjects are prepared at once, each in a process of its own (memory is counted by process), and
then timed one after the other, while the device does nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cost_models.select import mib
from experiments.device_bars import GPU_BUDGETS, GPU_LENGTHS
from experiments.reach_session import bar
from experiments.rival_variants import names_for, ours_for
from tuner.measure.isolate import Isolated
from tuner.measure.turns import PATIENCE_S
from tuner.measure.variables import QUIET

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Measured:
    """One subject of the suite at one length (None: that of the table) and in one dtype."""

    key: str
    length: int | None
    dtype: str = "float32"

    @property
    def name(self) -> str:
        return f"{self.key}-{self.dtype}"

    def ways(self, *, tiny: bool) -> list[str]:
        """What it is run as, in order of worth; what no time is left for comes last."""
        row = bar(self.key)
        budgets = ("0.5",) if tiny else GPU_BUDGETS.get(self.key, ())
        found = ours_for(list(dict.fromkeys((f"{row.share:g}", *budgets))))
        ours = [name for name in found if not name.endswith("compiled")]
        if tiny:
            return ["eager", *ours, "ours min"]
        rivals = [one for one in names_for(row, ()) if one != "eager"]
        plain = [one for one in rivals if "compile" not in one]
        compiled = [name for name in found if name.endswith("compiled")]
        if self.dtype != "float32":
            return ["eager", *ours, "compile", *compiled, "ours min"]
        names = ["eager", *ours, *plain, "compile", *compiled, "ours min", *rivals]
        return list(dict.fromkeys(names))


def measured_subjects(*, tiny: bool) -> tuple[Measured, ...]:
    """In order of worth."""
    if tiny:
        return (Measured("gpt2", None),)
    found = [Measured(key, length) for key, length in GPU_LENGTHS.items()]
    half = ("gpt2", "esmfold_block", "llama")
    found += [Measured(key, GPU_LENGTHS[key], "bfloat16") for key in half]
    return tuple(found)


class Subjects:
    """Processes that measure the suite's subjects; to be closed."""

    def __init__(
        self,
        subjects: Sequence[Measured],
        device: str,
        work: Path,
        *,
        tiny: bool = False,
        only: Sequence[str] | None = None,
    ) -> None:
        self._tiny = tiny
        self._only = only
        self._records: dict[Measured, Record] = {}
        self._sessions: dict[Measured, Isolated] = {}
        for one in subjects:
            spec = {
                "key": one.key, "length": one.length, "dtype": one.dtype, "device": device,
                "tiny": tiny,
            }  # fmt: skip
            cache = work / f"inductor-{one.name}"
            variables = {
                **QUIET, "OMP_NUM_THREADS": "2", "TORCHINDUCTOR_CACHE_DIR": str(cache),
                "TORCHINDUCTOR_COMPILE_THREADS": "4",
            }  # fmt: skip
            self._sessions[one] = Isolated(
                "experiments.device_session:Session", spec, log=work / f"{one.name}.log",
                environment=variables, name=one.name,
            )  # fmt: skip

    def __enter__(self) -> Subjects:
        return self

    def __exit__(self, *error: object) -> None:
        for session in self._sessions.values():
            session.close()

    def prepare(self, seconds: float, tell: Callable[[str], None]) -> None:
        """Memory and errors of every way, all subjects at once, begun within so many seconds. What
        did not fit beside the others is tried again alone."""

        def one(subject: Measured, names: Sequence[str] | None = None) -> None:
            started = time.monotonic()
            names = names or [
                name for name in subject.ways(tiny=self._tiny)
                if self._only is None or name in self._only
            ]  # fmt: skip
            wanted = {"do": "prepare", "names": list(names), "seconds": seconds}
            reply = self._sessions[subject].request(wanted, seconds + 120)
            self._records[subject] = {
                "key": subject.key, "dtype": subject.dtype, "length": subject.length,
                "name": bar(subject.key).name, **reply,
            }  # fmt: skip
            tell(f"{subject.name}: prepared in {time.monotonic() - started:.0f} s "
                 f"{reply.get('reason', '')}")  # fmt: skip

        with ThreadPoolExecutor(max(len(self._sessions), 1)) as pool:
            list(pool.map(one, self._sessions))
        for subject in self._sessions:
            ways = self._records[subject].get("ways", {})
            crowded = [name for name, way in ways.items() if way["status"] == "oom"]
            if crowded:
                one(subject, crowded)

    def workspaces(self, seconds: float, tell: Callable[[str], None]) -> None:
        """What kernels take beside their outputs, told and measured, of all subjects at once."""

        def one(subject: Measured) -> None:
            reply = self._sessions[subject].request({"do": "workspaces"}, seconds)
            self._records[subject]["workspaces"] = reply.get("kinds", [])
            if reply["status"] != "ok":
                tell(f"{subject.name}: workspaces: {reply['reason']}")

        good = [one for one in self._sessions if self._is_good(one)]
        with ThreadPoolExecutor(max(len(good), 1)) as pool:
            list(pool.map(one, good))

    def time(self, rounds: int, seconds: float, tell: Callable[[str], None]) -> None:
        """Times of all that is ready, one subject after the other."""
        for subject, session in self._sessions.items():
            if not self._is_good(subject):
                continue
            wanted = {"do": "times", "rounds": rounds, "seconds": seconds}
            reply = session.request(wanted, 10 * seconds + 60 + PATIENCE_S)
            record = self._records[subject]
            record["rounds"] = reply.get("rounds", 0)
            if not reply.get("alone", True):
                tell(f"{subject.name}: timed beside another campaign, which kept the device")
            for name, row in reply.get("ways", {}).items():
                record["ways"][name].update(row)
            if reply["status"] != "ok":
                tell(f"{subject.name}: times: {reply['reason']}")
            session.close()

    def _is_good(self, subject: Measured) -> bool:
        return self._records.get(subject, {}).get("status") == "ok"

    @property
    def records(self) -> list[Record]:
        """What is known so far, one record a subject."""
        return [self._records[one] for one in self._sessions if one in self._records]


def subject_table(records: Sequence[Mapping[str, Any]]) -> str:
    """All subjects and ways as Markdown."""
    lines = [
        "| subject | way | peak | of eager | predicted | time | over eager | over torch.compile | "
        "error | first call |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for record in records:
        title = f"{record['key']} {record['dtype']} {record['length']}"
        if record["status"] != "ok":
            lines.append(f"| {title} | {record['status']}: {_line(record['reason'])} " + "| " * 9)
            continue
        eager = record["ways"].get("eager", {}).get("peak_bytes")
        for name, way in record["ways"].items():
            lines.append(f"| {title} | {name} | {way_cells(way, eager)} |")
    return "\n".join(lines)


def way_cells(way: Mapping[str, Any], eager: int | None) -> str:
    """The cells of one way's row, from its peak on; ``eager`` is the eager model's peak."""
    if way["status"] != "ok":
        return f"{way['status']}: {_line(way['reason'])} | | | | | | |"
    peak, predicted = way["peak_bytes"], way["predicted_bytes"]
    cells = [
        mib(peak),
        "" if not eager else f"{peak / eager:.4f}",
        "" if predicted is None else f"{predicted / max(peak, 1) - 1:+.2%}",
        f"{way['ms']:.2f} ms" if "ms" in way else "",
    ]
    for other in ("eager", "compile"):
        found = way.get(f"over_{other}")
        cells.append("" if found is None else f"{found[0]:.3f} ({found[1]:.3f} to {found[2]:.3f})")
    wrong = " **wrong**" if way["wrong"] else ""
    cells.append(f"{way['error']:.1e}{wrong}")
    cells.append(f"{way['prepare_s'] + way['first_call_s']:.1f} s")
    return " | ".join(cells)


def _line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[0][:160].replace("|", "/") if lines else ""
