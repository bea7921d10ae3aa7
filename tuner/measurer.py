"""The campaign's side of measuring: what is known already, requests for the rest, and records."""

from __future__ import annotations

import base64
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any, TypeVar

from cost_models.ceilings import Ceilings, ceilings_from_plain
from search_space import errors
from search_space.classes import RegionClass
from search_space.errors import AutoChunkError, ConfigError, MeasurementError
from search_space.plan import Plan, encode_plan, encode_regions
from tuner.config import CampaignConfig
from tuner.engine.pool import Pool
from tuner.engine.slots import make_slots
from tuner.identities import Identities, device_of
from tuner.journal import MOST_DEATHS, Journal
from tuner.ledger import Record
from tuner.measure.isolate import UNSTARTED
from tuner.measure.protocol import Repeats, Samples, Status
from tuner.measure.turns import PATIENCE_S
from tuner.measured import Baseline, Confirmed, Described

T = TypeVar("T")
Row = dict[str, Any]

_LEAST_MS = 1.0
"""Regions that take less are run several times a measurement."""


# without these nothing goes on, so that they are tried however often the campaign dies
_NEEDED = ("environment", "baseline")


class Measurer:
    """Measures what the journal does not know yet, and records every answer.

    Several threads may ask at once; each request waits for a free slot of the engine.

    Args:
        config: resolved, with a real device.
        target: the submodule to measure in place of the whole model, or an empty text.

    Attributes:
        identities: what measurements are known by.
    """

    def __init__(self, config: CampaignConfig, journal: Journal, target: str = "") -> None:
        self._config = config
        self._journal = journal
        self._target = target
        self._pool = Pool(make_slots(config, target))
        self.identities = Identities(config, {})
        self._tried: set[str] = set()  # in this session

    def __enter__(self) -> Measurer:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End all measuring processes; may be called again."""
        self._pool.close()

    @property
    def size(self) -> int:
        """How many measurements can run at once."""
        return self._pool.size

    @property
    def recovered(self) -> int:
        """How many measurements earlier sessions of the campaign made."""
        return self._journal.recovered

    @property
    def waited_s(self) -> float:
        """Seconds spent so far on waiting for turns on devices that other campaigns measure on."""
        return self._pool.waited_s

    def map(self, calls: Sequence[Callable[[], T]]) -> list[T]:
        """Results of several measurements in order, as many at once as there are slots."""
        return self._pool.map(calls)

    def targets(self, length: int) -> tuple[str, ...]:
        """The first target of each distinct graph, as the model is at a length.

        Raises:
            CaptureError, ConfigError: the user's model or targets do not allow it.
            MeasurementError: the process could not answer.
        """
        what = f"the targets could not be captured at length {length}"
        return tuple(self._must({"job": "targets", "length": length}, what)["targets"])

    def environment(self) -> tuple[dict[str, str], Ceilings]:
        """The device's environment and measured ceilings.

        Raises:
            MeasurementError: the process could not answer.
        """
        what = "the device could not be measured"
        replies = self._pool.each({"job": "environment"}, self._config.confirm.timeout_s)
        found = [dict(self._checked(reply, what)["environment"]) for reply in replies]
        environment = found[0]
        self.identities = Identities(self._config, environment)
        device = self.identities.device
        for other in found:
            if device_of(other) != device:
                raise ConfigError(
                    "a campaign tunes for one kind of device, but its slots have "
                    f"{device_of(other)} and {device}; name one kind, or fewer slots"
                )
        key = self.identities.ceilings()
        record = self._measured("environment", key, {"environment": environment},
                                {"job": "ceilings"})  # fmt: skip
        return environment, ceilings_from_plain(self._checked(record, what)["ceilings"])

    def describe(self, length: int) -> Described:
        """Capture the model at a length.

        Raises:
            CaptureError, ConfigError: the user's model or inputs do not allow it.
            MeasurementError: the process could not answer.
        """
        what = f"the model could not be captured at length {length}"
        reply = self._must({"job": "describe", "length": length}, what)
        # our own child's
        graph, bindings, shapes = pickle.loads(base64.b64decode(reply["described"]))
        described = Described(
            length, graph, bindings, shapes, reply["eager_peak_bytes"], reply["free_bytes"]
        )
        self.identities.describe(described)
        return described

    def baseline(self, length: int) -> Baseline:
        """The eager model and the unchunked capture, whose peak and latency all else is set
        against."""
        record = self._measured(
            "baseline", self.identities.of("baseline", length), self._row(length),
            {"job": "baseline", "length": length, "repeats": asdict(self._repeats())},
        )  # fmt: skip
        if record["status"] != "ok":
            return Baseline(record["status"], record["reason"])
        samples = record["samples"]
        return Baseline(
            "ok", "", record["peak"]["activation_bytes"], _samples(samples["eager"]),
            _samples(samples["unchunked"]),
        )  # fmt: skip

    def no_baseline(self, length: int, status: str, reason: str) -> Baseline:
        """Record an eager model that was not run at all."""
        key = self.identities.of("no baseline", length)
        if self._journal.known(key) is None:
            row = {"key": key, **self._row(length), "status": status, "reason": reason}
            self._journal.commit([("baseline", row)])
        return Baseline(status, reason)

    def region(
        self,
        length: int,
        item: RegionClass,
        chunk_sizes: Sequence[int],
        budget_s: float,
        rounds: int = 6,
        compiled_sizes: Sequence[int] = (),
    ) -> dict[str, Samples] | None:
        """One class timed alone: ``whole``, and each chunk size under its text, in at most
        ``rounds`` turns; None if that failed (the ledger says how). Sizes whose passes are compiled
        too stand under their text with ``COMPILED`` after it."""
        repeats = Repeats(
            warmup=1, repeats=4, most=rounds, budget_s=budget_s, tight=0.02, least_ms=_LEAST_MS,
            settled=True,
        )  # fmt: skip
        request: Row = {
            "length": length,
            "regions": encode_regions(item.regions[:1]),
            "chunk_sizes": list(chunk_sizes),
        }
        if compiled_sizes:
            request["compiled_sizes"] = list(compiled_sizes)
            request["compile"] = self._config.compile.plain if self._config.compile else {}
        record = self._measured(
            "region", self.identities.region(length, item, chunk_sizes, compiled_sizes),
            {**self._row(length), "class": item.key},
            {"job": "region", **request, "repeats": asdict(repeats)},
        )  # fmt: skip
        if record["status"] != "ok":
            return None
        return {name: _samples(found) for name, found in record["samples"].items()}

    def keep(self, kind: str, row: Mapping[str, Any]) -> None:
        """Record what was made of measurements, once."""
        self._journal.keep(kind, row)

    def is_known(self, length: int, plan: Plan, reference: Plan | None) -> bool:
        """Whether a plan's first run is on record, so that :meth:`check` makes none."""
        return self._is_known(self.identities.check(length, plan, reference))

    def is_region_known(self, length: int, item: RegionClass, chunk_sizes: Sequence[int]) -> bool:
        """Whether a class is timed alone on record, so that :meth:`region` measures nothing."""
        return self._is_known(self.identities.region(length, item, chunk_sizes))

    def are_known_well(
        self, length: int, plans: Sequence[Confirmed], reference: Plan | None
    ) -> bool:
        """Whether all are timed as finalists on record, so that :meth:`together` times nothing."""
        keys = [self.identities.of_plan("final", length, one.plan, reference) for one in plans]
        return all(map(self._is_known, keys))

    def _is_known(self, key: str) -> bool:
        return self._journal.known(key, self._config.confirm.timeout_s) is not None

    def check(self, length: int, plan: Plan, reference: Plan | None) -> Confirmed:
        """Run a plan once: its peak, and whether its outputs are the eager model's (or those of a
        reference plan). It has no samples yet."""
        request = {"length": length, "plan": encode_plan(plan), "reference": _encoded(reference)}
        row = {**self._row(length), "stage": "check", "plan": request["plan"]}
        key = self.identities.check(length, plan, reference)
        record = self._measured("check", key, row, {"job": "peak", **request})
        if record["status"] != "ok":
            return Confirmed(plan, record["status"], record["reason"])
        peak = record["peak"]
        return Confirmed(
            plan, "ok", "", peak["activation_bytes"], peak["requested_bytes"],
            record["predicted_bytes"], record["max_abs_diff"],
            compile_s=record.get("compile_s", 0.0),
        )  # fmt: skip

    def together(
        self,
        length: int,
        plans: Sequence[Confirmed],
        reference: Plan | None,
        *,
        final: bool = False,
    ) -> list[Confirmed]:
        """Plans that were checked before, timed in turns with each other.

        Where a batch fails, its plans are timed one by one, so that one cannot spoil the others.

        Args:
            final: time them all on one device, and repeat until their ratios are known well.
        """
        stage = "final" if final else "timed"
        timeout_s = self._config.confirm.timeout_s
        keys = {
            one.plan: self.identities.of_plan(stage, length, one.plan, reference)
            for one in plans
        }
        missing = [one for one in plans if self._journal.known(keys[one.plan], timeout_s) is None]
        time_part = partial(self._time, length, keys, reference, stage)
        parts = [missing] if final else _parts(missing, self._pool.size)
        self.map([partial(time_part, part) for part in parts if part])
        return [self._timed(one, self._journal.known(keys[one.plan])) for one in plans]

    def not_run(self, length: int, plan: Plan, status: str, reason: str) -> Confirmed:
        """Record a plan that was not run at all."""
        key = self.identities.of("not run", length, plan=encode_plan(plan))
        if self._journal.known(key) is None:
            row = {**self._row(length), "plan": encode_plan(plan)}
            self._journal.commit(
                [("plan", {"key": key, **row, "status": status, "reason": reason})]
            )
        return Confirmed(plan, status, reason)

    def _time(
        self,
        length: int,
        keys: Mapping[Plan, str],
        reference: Plan | None,
        stage: str,
        plans: Sequence[Confirmed],
    ) -> None:
        """Time plans in turns and record what each of them gave."""
        own = [keys[one.plan] for one in plans]
        deaths = max(map(self._journal.deaths, own))
        if deaths >= MOST_DEATHS // 2 and len(plans) > 1:
            reply = {"status": Status.CRASH.value, "reason": _deadly(deaths)}
        else:
            what = {"what": stage, **self._row(length)}
            request = {
                "job": "plans",
                "length": length,
                "plans": [encode_plan(one.plan) for one in plans],
                "reference": _encoded(reference),
                "repeats": asdict(self._repeats(final=stage == "final")),
            }
            reply = self._asked(own, what, request, times=1 + len(plans))
        if reply["status"] != "ok" and len(plans) > 1:
            for one in plans:
                self._time(length, keys, reference, stage, [one])
            return
        rows = [
            (
                "plan",
                {
                    "key": keys[one.plan],
                    **self._row(length),
                    "stage": stage,
                    "reference": "eager" if reference is None else encode_plan(reference),
                    **_plan_row(one, reply, str(place), len(plans)),
                },
            )
            for place, one in enumerate(plans)
        ]
        self._journal.commit(rows)

    def _timed(self, one: Confirmed, record: Record | None) -> Confirmed:
        if record is None:
            reason = "its measurement was cut off from outside again and again"
            return replace(one, status=Status.PREEMPTED.value, reason=reason)
        return replace(
            one,
            status=record["status"],
            reason=record["reason"],
            samples=_samples(record["samples"]),
            reference=_samples(record["reference_samples"]),
            contended=record.get("contended", 0.0),
        )

    def _measured(self, kind: str, key: str, row: Row, request: Row) -> Record:
        """A measurement's record, from the ledger or made now."""
        known = self._journal.known(key, self._config.confirm.timeout_s)
        if known is not None and not self._is_tried_again(kind, key, known):
            return known
        self._tried.add(key)
        reply = self._asked([key], {"what": kind, **row}, request)
        if reply.pop("suspect", False):
            # what ran before it in that process may have spoilt the model; the next one is new
            reply = self._asked([key], {"what": kind, **row}, request)
            reply.pop("suspect", None)
        if kind == "check" and reply["status"] != "ok":
            kind = "plan"  # its last word
        record = {"key": key, **row, **reply}
        self._journal.commit([(kind, record)])
        return record

    def _is_tried_again(self, kind: str, key: str, known: Record) -> bool:
        """Whether what failed in an earlier session may succeed now, and nothing goes on without
        it. (What took too long is tried again where more time is allowed.)"""
        failed = known["status"] not in ("ok", Status.TIMEOUT)
        return kind in _NEEDED and failed and key not in self._tried

    def _asked(self, keys: Sequence[str], what: Row, request: Row, times: int = 1) -> Row:
        """What a slot answers; or a failure where the campaign died of it too often."""
        deaths = max(map(self._journal.deaths, keys))
        if deaths >= MOST_DEATHS and what["what"] not in _NEEDED:
            return {"status": Status.CRASH.value, "reason": _deadly(deaths)}
        self._journal.begin(keys, what)
        timeout_s = times * self._config.confirm.timeout_s
        turn_s = PATIENCE_S if self._config.device.startswith("cuda") else 0.0
        reply = self._pool.request(request, timeout_s, turn_s)
        if reply.pop(UNSTARTED, False):
            # (not the candidate's failure; the same campaign goes on from here when it can)
            self._checked(reply, "the measuring process could not be started again")
        if reply["status"] == Status.TIMEOUT:
            reply["timeout_s"] = self._config.confirm.timeout_s
        return reply

    def _row(self, length: int) -> Row:
        row: Row = {"length": length, "graph": self.identities.graph(length)}
        return {**row, "target": self._target} if self._target else row

    def _repeats(self, *, final: bool = False) -> Repeats:
        confirm = self._config.confirm
        most = confirm.repeats * (4 if final else 1)
        return Repeats(
            confirm.warmup, confirm.repeats, most, budget_s=confirm.timeout_s / 6,
            tight=confirm.interval,
        )  # fmt: skip

    def _must(self, request: Mapping[str, Any], what: str) -> Row:
        return self._checked(self._pool.request(request, self._config.confirm.timeout_s), what)

    def _checked(self, reply: Row, what: str) -> Row:
        if reply["status"] == "ok":
            return reply
        if reply["status"] == "refused":
            kind = getattr(errors, reply["error"], AutoChunkError)
            if kind is not errors.BudgetError:
                raise kind(reply["reason"])
        log = self._config.output / "measuring.log"
        raise MeasurementError(f"{what}: {reply['status']}: {reply['reason']}. The log is {log}")


def _plan_row(one: Confirmed, reply: Row, place: str, count: int) -> Row:
    """What a batch gave one of its plans."""
    good = reply["status"] == "ok"
    empty = Samples((), ()).plain()
    return {
        "plan": encode_plan(one.plan),
        "status": reply["status"],
        "reason": reply.get("reason", ""),
        "peak_bytes": one.peak_bytes,
        "requested_bytes": one.requested_bytes,
        "predicted_bytes": one.predicted_bytes,
        "max_abs_diff": one.max_abs_diff,
        "samples": reply["samples"][place] if good else empty,
        "reference_samples": reply["samples"]["reference"] if good else empty,
        "contended": reply.get("contended", 0.0),
        "slot": reply.get("slot", ""),
        "took_s": round(reply.get("took_s", 0.0) / count, 3),
        **({"timeout_s": reply["timeout_s"]} if "timeout_s" in reply else {}),
    }


def _parts(plans: Sequence[Confirmed], slots: int) -> list[Sequence[Confirmed]]:
    """A batch for each slot, of two plans or more each: every batch runs the reference too."""
    count = max(1, min(slots, len(plans) // 2))
    return [plans[k::count] for k in range(count)]


def _deadly(deaths: int) -> str:
    return f"the campaign itself died {deaths} times while this was measured"


def _encoded(plan: Plan | None) -> Row | None:
    return None if plan is None else encode_plan(plan)


def _samples(row: Mapping[str, Sequence[float]]) -> Samples:
    return Samples(tuple(row["decisive_ms"]), tuple(row["wall_ms"]))
