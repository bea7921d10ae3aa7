"""Which form of a model serves a call, where several may: attention fused, or as it was written.

Fused attention takes far less memory and mostly less time, but not always: in single precision on a
GPU, heads of few columns run faster as products and a softmax, where those fit.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cost_models.select import mib
from search_space.errors import BudgetError
from tuner.runtime.analysis import Analysis
from tuner.runtime.captures import Located
from tuner.runtime.choose import Chosen

log = logging.getLogger("autochunk")

CLEARLY = 1.05
"""By so much the roofline must tell another form to be faster than the preferred one. (It told a
UNet to be 7 % slower fused on a GPU where that was 8 %.)"""


@dataclass(frozen=True)
class Form:
    """A capture after some rewrites, as it serves a call, analysed."""

    located: Located
    analysis: Analysis


def quickest(
    forms: Sequence[Form], choose: Callable[[Form], Chosen]
) -> tuple[Form, Chosen]:
    """The form that is told to be fastest within the budget, and its plan there.

    Args:
        forms: the preferred one first; another one must be clearly faster.
        choose: a form's analytic plan within the budget.

    Raises:
        BudgetError: the preferred form cannot meet it.
    """
    best, *others = forms
    chosen = choose(best)
    for form in others:
        # (a plan only adds to the time of its model unchunked)
        if not _is_faster(form.analysis.unchunked_s, best, chosen):
            continue
        try:
            found = choose(form)
        except BudgetError:
            continue
        if _is_faster(_seconds(form, found), best, chosen):
            log.info(
                "autochunk: attention is left as it is written: that is told to take %.3g ms, and "
                "%.3g ms fused, within %s",
                1e3 * _seconds(form, found), 1e3 * _seconds(best, chosen),
                mib(found.limit_bytes or found.peak_bytes),
            )  # fmt: skip
            best, chosen = form, found
    return best, chosen


def _is_faster(seconds: float, form: Form, chosen: Chosen) -> bool:
    return CLEARLY * seconds < _seconds(form, chosen)


def _seconds(form: Form, chosen: Chosen) -> float:
    return form.analysis.unchunked_s + chosen.extra_s
