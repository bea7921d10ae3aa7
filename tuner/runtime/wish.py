"""What decides the plan of a call, as ``apply`` and the ``torch.compile`` backend are asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from search_space.budget import Budget, parse_budget
from search_space.errors import ConfigError
from search_space.plan import Plan
from search_space.rewrites import AS_CAPTURED, Kernels, parse_kernels
from tuner.compile_options import CompileOptions, parse_compile
from tuner.runtime.free_memory import FreeMemory, free_memory_of
from tuner.runtime.lookup import NOTHING, Plans, device_of, load_plans

Memory = Literal["free"] | FreeMemory
Compiling = CompileOptions | Literal[False] | None


@dataclass(frozen=True)
class Wish:
    """Attributes:
    plans: confirmed ones.
    budget: the user's; None for the database's own.
    fixed: a plan to run whatever else is said.
    memory: what tells the free memory, where that decides at each call.
    kernels: which may take the place of captured operations.
    compile: what is compiled; False for nothing, None for what a plan says of itself.
    """

    plans: Plans = NOTHING
    budget: Budget | None = None
    fixed: Plan | None = None
    memory: Memory | None = None
    kernels: Kernels = AS_CAPTURED
    compile: Compiling = None


def make_wish(
    model: torch.nn.Module,
    plans: str | Path | None = None,
    memory_budget: float | int | str | None = None,
    memory: Memory | None = None,
    kernels: str | Mapping[str, str] | None = None,
    compile: bool | Mapping[str, Any] | None = None,
) -> Wish:
    """A wish from what the user gave; see :func:`tuner.apply`.

    Raises:
        ConfigError: the budget or memory is not understood, or both are given.
        DatabaseError: the database is missing or damaged.
    """
    budget = None if memory_budget is None else parse_budget(memory_budget)
    if memory is not None and budget is not None:
        raise ConfigError(
            "memory and memory_budget exclude each other: a budget pins the choice, memory='free' "
            "makes it at each call; give one of them"
        )
    if memory is not None and memory != "free" and not callable(memory):
        raise ConfigError(
            f"memory must be 'free' or a function that gives the free bytes, got {memory!r}"
        )
    if memory == "free":
        free_memory_of(device_of(model))  # (told now if nothing can tell it)
    if memory is not None and compile:
        raise ConfigError(
            "compile and memory='free' exclude each other: compiled code is measured against a "
            "budget; give a memory_budget"
        )
    return Wish(
        NOTHING if plans is None else load_plans(plans, model), budget, memory=memory,
        kernels=parse_kernels(kernels), compile=wished_compile(compile),
    )  # fmt: skip


def wished_compile(value: object) -> Compiling:
    """What a user's ``compile`` says; see :class:`Wish`.

    Raises:
        ConfigError: it is not understood.
    """
    return False if value is False else parse_compile(value)
