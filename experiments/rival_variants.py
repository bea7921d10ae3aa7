"""What a user could run in our place: each way to run a subject, built by name.

``eager`` and ``compile`` are the model as it is and one line of ``torch.compile``; ``sdpa`` and
``sdpa compile`` the library's own fused attention; ``library ...`` the library's own chunking; and
``ours SHARE`` a plan within that share of the eager peak (``ours min`` the lowest), with
``compiled`` behind it compiled piece by piece.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import torch

from experiments.subjects import Bar, Subject
from tuner.runtime.apply import Applied, apply

Call = Callable[[], Any]
Given = tuple[tuple[Any, ...], dict[str, Any]]

_OURS = re.compile(r"ours (min|[0-9.]+)( kept)?( compiled)?")


@dataclass(frozen=True)
class Ready:
    """A way to run the subject: the call, and the plan where it is ours."""

    call: Call
    applied: Applied | None = None


BUDGETS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "gpt2": ("0.16", "0.12"),
        "vit": ("0.28", "1.0 compiled"),
        "esmfold_block": ("0.24", "0.2 compiled", "1.0 compiled", "1.0 kept compiled"),
        "unet": ("0.06", "0.022"),
        "unet_sdpa": ("0.5", "1.0 compiled"),
        "llama": ("0.42", "1.0 compiled"),
        "bert": ("0.54", "1.0 compiled"),
        "evoformer": ("0.5", "0.22 compiled", "1.0 compiled"),
    }
)
"""Budgets of ours on a CPU, by subject: for the bars, and beside each rival."""


def ours_for(budgets: Sequence[str]) -> list[str]:
    """Our ways within these budgets: plain and then compiled, or compiled alone where a budget says
    so."""
    plain = [f"ours {one}" for one in budgets if not one.endswith(" compiled")]
    return plain + [f"ours {one.removesuffix(' compiled')} compiled" for one in budgets]


def names_for(bar: Bar, budgets: Sequence[str]) -> list[str]:
    """The ways to run a subject, rivals first; the budgets are of ours."""
    found = ["eager", "compile"]
    attention = inspect.signature(bar.make).parameters.get("attention")
    if attention is not None and attention.default != "sdpa":
        found += ["sdpa", "sdpa compile"]
    found += [f"library {name}" for name in LIBRARY.get(bar.key, {})]
    return found + ours_for(budgets)


def build(bar: Bar, name: str) -> Ready:
    """A way to run the subject, ready to be called without gradients.

    Raises:
        BudgetError: our budget cannot be met.
        ValueError: there is no way of that name.
    """
    ours = _OURS.fullmatch(name)
    if ours:
        return _ours(bar, *ours.groups())
    library = name.partition("library ")[2]
    if library:
        return Ready(LIBRARY[bar.key][library](bar))
    if name in ("eager", "compile"):
        model, inputs = bar.make()
    elif name in ("sdpa", "sdpa compile"):
        model, inputs = _make(bar, attention="sdpa")
    else:
        raise ValueError(f"no way to run {bar.key} is called {name!r}")
    if name.endswith("compile"):
        return Ready(_call(torch.compile(model), inputs(bar.length)))
    return Ready(_call(model, inputs(bar.length)))


def _make(bar: Bar, **options: Any) -> Subject:
    make: Callable[..., Subject] = bar.make
    return make(**options)


def _call(model: Callable[..., Any], given: Given) -> Call:
    args, kwargs = given

    def call() -> Any:
        with torch.no_grad():
            return model(*args, **kwargs)

    return call


def _ours(bar: Bar, share: str, kept: str | None, compiled: str | None) -> Ready:
    model, inputs = bar.make()
    args, kwargs = inputs(bar.length)
    budget = "min" if share == "min" else float(share)
    kernels = "keep" if kept else "auto"
    fast = apply(
        model, args, kwargs, memory_budget=budget, kernels=kernels, compile=bool(compiled)
    )
    return Ready(_call(fast, (args, kwargs)), fast)


def _esmfold_chunks(bar: Bar, size: int) -> Call:
    model, inputs = bar.make()
    args, kwargs = inputs(bar.length)
    return _call(model, (args, {**kwargs, "chunk_size": size}))


def _attention_slices(bar: Bar) -> Call:
    made, inputs = bar.make()
    model: Any = made
    model.set_attention_slice("max")
    return _call(model, inputs(bar.length))


def _sdpa_and_chunked_mlp(bar: Bar) -> Call:
    model, inputs = _make(bar, attention="sdpa")
    for module in model.modules():
        in_chunks = getattr(module, "set_chunk_feed_forward", None)
        if in_chunks is not None:
            in_chunks(chunk_size=64, dim=1)
    return _call(model, inputs(bar.length))


def _bert_chunked_mlp(bar: Bar, size: int) -> Call:
    model, inputs = bar.make()
    module: Any
    for module in model.modules():
        if hasattr(module, "chunk_size_feed_forward"):
            module.chunk_size_feed_forward = size
    return _call(model, inputs(bar.length))


LIBRARY: Mapping[str, Mapping[str, Callable[[Bar], Call]]] = {
    "esmfold_block": {
        f"chunk_size={size}": partial(_esmfold_chunks, size=size) for size in (64, 32)
    },
    "unet": {
        "attention slicing": _attention_slices,
        "SDPA + chunked feed-forward": _sdpa_and_chunked_mlp,
    },
    "unet_sdpa": {"SDPA + chunked feed-forward": _sdpa_and_chunked_mlp},
    "bert": {"chunk_size_feed_forward=256": partial(_bert_chunked_mlp, size=256)},
}
"""Per subject, the chunking that its own library offers."""
