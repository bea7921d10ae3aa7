"""How long inputs may be under a cap of memory, by the memory model alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cost_models.select import Selected
from experiments.search_length import Longest, longest
from experiments.sized import Sized
from search_space.classes import choice_form, chosen_size
from search_space.errors import BudgetError, CaptureError, CyclicPlan, IllegalRegion
from search_space.liveness import plan_profile
from search_space.plan import Plan, encode_plan


@dataclass(frozen=True, slots=True)
class Preset:
    """What a subject is called with where nothing else is said, and the bar it is held to."""

    start: int
    step: int
    most: int = 1 << 24
    arguments: Mapping[str, Any] = field(default_factory=dict)
    bar: float | None = None


@dataclass(frozen=True, slots=True)
class Mode:
    """One way to run the model, and how far it goes.

    Attributes:
        peak_bytes: predicted at the longest length.
        slowdown: predicted time over the unchunked capture's; 1 unchunked.
        plan: as plain values; None where nothing is chunked.
        chunks: how many choices it has.
        carried: whether it was found at another length, selection at this one having ended above
            the cap.
    """

    name: str
    found: Longest
    peak_bytes: int = 0
    slowdown: float = 1.0
    plan: dict[str, Any] | None = None
    chunks: int = 0
    carried: bool = False


class Search:
    """The longest lengths of one subject under one cap.

    Args:
        cap_bytes: of activations.
        slowdown: what "min" mode may take, predicted, of the unchunked time.
        fixed_bytes: what to add to activations at a length (weights and inputs), or nothing.
    """

    def __init__(
        self,
        sized: Sized,
        cap_bytes: int,
        preset: Preset,
        *,
        slowdown: float = 1.5,
        seconds: float | None = None,
        fixed_bytes: Callable[[int], int] = lambda length: 0,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.sized = sized
        self._cap = cap_bytes
        self.preset = preset
        self._slowdown = slowdown
        self._seconds = seconds
        self._fixed = fixed_bytes
        self.note = note
        self._plans: list[Plan] = []
        self.refused: dict[str, str] = {}

    def run(self) -> tuple[Mode, ...]:
        """Eager, unchunked as captured, chunked in minimum mode, and chunked within the cap."""
        return (
            self._unchunked("eager", self.sized.eager_bytes),
            self._unchunked("captured", self.sized.unchunked_bytes),
            self._chunked("chunked, min", self.least, self._slowdown),
            self._chunked("chunked", self.within, float("inf")),
        )

    def _unchunked(self, name: str, peak: Callable[[int], int]) -> Mode:
        found = self._longest(name, lambda length, cap: peak(length) <= cap)
        return Mode(name, found, peak(found.length) if found.length else 0)

    def _chunked(
        self, name: str, select: Callable[[int, int], Selected | None], slowdown: float
    ) -> Mode:
        def fits(length: int, cap: int) -> bool:
            if self.carried(length, cap, slowdown) is not None:
                return True
            selected = select(length, cap)
            if selected is not None:
                self._plans.append(selected.plan)
            return selected is not None

        found = self._longest(name, fits)
        if not found.length:
            return Mode(name, found)
        cap = self._cap - self._fixed(found.length)
        fresh = select(found.length, cap)
        selected = fresh or self.carried(found.length, cap, slowdown)
        assert selected is not None, "a length that was seen to fit"
        analysis = self.sized.analysis(found.length)
        # the search keeps what choices share; the answer must not rest on that
        peak = plan_profile(analysis.sized, selected.plan, analysis.probe).peak_bytes
        if peak != selected.peak_bytes:
            raise AssertionError(
                f"the selector's peak {selected.peak_bytes} is not the memory model's {peak}"
            )
        ratio = 1 + selected.extra_s / analysis.unchunked_s
        return Mode(
            name, found, peak, ratio, encode_plan(selected.plan), len(selected.plan.choices),
            carried=fresh is None,
        )  # fmt: skip

    def within(self, length: int, cap_bytes: int) -> Selected | None:
        """The plan that costs least within the cap, whatever it costs; None where none is."""
        try:
            return self.sized.analysis(length).selector.within(cap_bytes)
        except BudgetError:
            return None

    def least(self, length: int, cap_bytes: int) -> Selected | None:
        """The lowest plan at the bounded slowdown, where that is within the cap."""
        analysis = self.sized.analysis(length)
        found = analysis.selector.lowest(analysis.unchunked_s, self._slowdown)
        return found if found.peak_bytes <= cap_bytes else None

    def carried(self, length: int, cap_bytes: int, slowdown: float) -> Selected | None:
        """One of the plans found at other lengths, where it holds at this one as well.

        Selection descends step by step and may end in front of a plan that fits.
        """
        analysis = self.sized.analysis(length)
        for plan in reversed(self._plans):
            try:
                peak = analysis.memory.profile(plan.choices).peak_bytes
            except (IllegalRegion, CyclicPlan):
                continue
            extra = self.predicted_s(length, plan) - analysis.unchunked_s
            if peak <= cap_bytes and extra <= (slowdown - 1) * analysis.unchunked_s:
                return Selected(plan, peak, extra)
        return None

    def _longest(self, name: str, fits: Callable[[int, int], bool]) -> Longest:
        def ask(length: int) -> bool:
            cap = self._cap - self._fixed(length)
            if cap <= 0:
                return False
            try:
                fit = fits(length, cap)
            except CaptureError as error:  # also sizes that the capture does not hold for
                self.refused[name] = f"at {length}: {error}"
                return False
            self.note(f"{name}: {length} {'fits' if fit else 'does not fit'}")
            return fit

        deadline = None if self._seconds is None else time.monotonic() + self._seconds
        start, step, most = self.preset.start, self.preset.step, self.preset.most
        return longest(ask, start=start, step=step, most=most, deadline=deadline)

    def predicted_s(self, length: int, plan: Plan | None) -> float:
        """The roofline's seconds of a plan, or of the unchunked model, at a length."""
        analysis = self.sized.analysis(length)
        if plan is None:
            return analysis.unchunked_s
        known = {item.form: item for item in analysis.space.classes}
        setting = []
        for choice in plan.choices:
            item = known.get(choice_form(choice))
            if item is not None and (item.inner or choice.chunk_size < item.extent):
                setting.append((item, chosen_size(choice)))
        return analysis.unchunked_s + analysis.selector.extra_seconds(tuple(setting))
