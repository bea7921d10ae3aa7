"""Which form of a model serves a call, where several may: attention fused, or as it was written.

Fused attention takes far less memory and mostly less time, but not always: in single precision on a
GPU, heads of few columns run faster as products and a softmax, where those fit.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from cost_models.select import mib
from tuner.runtime.analysis import Analysis
from tuner.runtime.captures import Located
from tuner.runtime.choose import Chosen, at_hand

log = logging.getLogger("autochunk")

CLEARLY = 1.05
"""By so much the roofline must tell another form to be faster than the preferred one. (It told a
UNet to be 7 % slower fused on a GPU where that was 8 %.)"""


_GAINED = 0.5
"""Loops are not expected to leave less of a model's time than this; on a CPU they left 0.6 of
GPT-2's and of ESMFold's block's (:mod:`experiments.untuned`)."""


@dataclass(frozen=True)
class Form:
    """A capture after some rewrites, as it serves a call, analysed."""

    located: Located
    analysis: Analysis


def quickest(preferred: Form, chosen: Chosen, others: Sequence[Form]) -> tuple[Form, Chosen]:
    """The form that is told to be fastest, and its plan.

    Args:
        chosen: the preferred form's analytic plan; others keep its limit.
        others: forms of which one must be clearly faster to take its place.
    """
    best, limit = preferred, chosen.limit_bytes
    if limit is None:
        return best, chosen
    for form in others:
        # without rates of kinds a plan only adds to the time of its model unchunked
        least = 1.0 if form.analysis.ceilings.rates is None else _GAINED
        if not _is_faster(least * form.analysis.unchunked_s, best, chosen):
            continue
        found = at_hand(form.analysis, limit)
        if found is not None and _is_faster(_seconds(form, found), best, chosen):
            log.info(
                "autochunk: attention is left as it is written: that is told to take %.3g ms, and "
                "%.3g ms fused, within %s",
                1e3 * _seconds(form, found), 1e3 * _seconds(best, chosen),
                mib(limit),
            )  # fmt: skip
            best, chosen = form, found
    return best, chosen


def _is_faster(seconds: float, form: Form, chosen: Chosen) -> bool:
    return CLEARLY * seconds < _seconds(form, chosen)


def _seconds(form: Form, chosen: Chosen) -> float:
    return form.analysis.unchunked_s + chosen.extra_s
