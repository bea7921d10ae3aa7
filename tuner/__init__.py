"""AutoChunk: activation chunking at inference, tuned.

>>> from tuner import apply
>>> fast = apply(model, args=(input_ids,), memory_budget=0.3)  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tuner.runtime.apply import Applied, AppliedTargets, apply, apply_plan

__all__ = ["Applied", "AppliedTargets", "apply", "apply_plan"]


def __getattr__(name: str) -> Any:
    # torch is loaded only where a model is run: the command line answers without it
    if name in __all__:
        from tuner.runtime import apply as module

        return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
