"""From a name on a command line to a model and its inputs at any length."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch.utils import _pytree as pytree

from experiments import subjects
from search_space.errors import ConfigError
from tuner.factory import Inputs, Subject, load_factory

DTYPES: Mapping[str, torch.dtype] = {
    "fp32": torch.float32, "float32": torch.float32,
    "bf16": torch.bfloat16, "bfloat16": torch.bfloat16,
    "fp16": torch.float16, "float16": torch.float16,
    "fp64": torch.float64, "float64": torch.float64,
}  # fmt: skip


def parse_arguments(pairs: Sequence[str]) -> dict[str, Any]:
    """``key=value`` pairs as keyword arguments; values are read as YAML.

    Raises:
        ConfigError: a pair has no ``=``, or its value is no YAML.
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key.isidentifier():
            raise ConfigError(f"--args takes key=value, got {pair!r}")
        try:
            found[key] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"--args {key}: {text!r} is not a value in YAML") from error
    return found


def full_name(name: str) -> str:
    """A factory's ``module:function``; a bare name is one of :mod:`experiments.subjects`."""
    if ":" in name:
        return name
    if callable(getattr(subjects, name, None)):
        return f"experiments.subjects:{name}"
    raise ConfigError(
        f"{name!r} is no subject of experiments/subjects.py; give one of those, or "
        "package.module:function"
    )


def load_subject(
    name: str,
    *,
    arguments: Mapping[str, Any] | None = None,
    dtype: str = "fp32",
    device: str = "cpu",
    inputs: str | None = None,
) -> Subject:
    """The model that a factory makes, on its device and in its dtype, and its inputs.

    Args:
        name: a factory of campaigns, ``package.module:function`` or ``file.py:function``, or a
            bare name of :mod:`experiments.subjects`.
        arguments: the factory's keyword arguments.
        inputs: for a factory that returns the model alone, the function from a length to example
            inputs, named likewise. Without one the factory must return ``(model, inputs)``.

    Raises:
        ConfigError: nothing there can be used; the message is one line and says why.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    place = full_name(name)
    model, make = _parts(place, dict(arguments or {}), inputs)
    if model.training:
        raise ConfigError(
            f"{place}: the model is in training mode, in which it may drop out at random; let the "
            "factory return model.eval()"
        )
    wanted = DTYPES[dtype]

    def given(length: int) -> Inputs:
        try:
            made = make(length)
        except Exception as error:  # whatever the user's function raises
            raise ConfigError(f"{place}: inputs({length}) failed: {_line(error)}") from error
        moved: Inputs = pytree.tree_map_only(
            torch.Tensor,
            lambda t: t.to(device=device, dtype=wanted if t.is_floating_point() else t.dtype),
            _arguments(made, place),
        )
        return moved

    return Subject(model.to(device=device, dtype=wanted), given)


def _parts(
    place: str, arguments: dict[str, Any], inputs: str | None
) -> tuple[torch.nn.Module, Callable[[int], Any]]:
    factory = load_factory(place, Path.cwd())
    try:
        made = factory(**arguments)
    except Exception as error:  # whatever the user's factory raises
        raise ConfigError(
            f"{place} failed: {_line(error)}. Called with {arguments!r} (--args key=value)"
        ) from error
    if isinstance(made, torch.nn.Module):
        if inputs is None:
            raise ConfigError(
                f"{place} returns a model alone; name a function from a length to example inputs "
                "with --inputs package.module:function"
            )
        return made, load_factory(inputs, Path.cwd())
    pair = isinstance(made, tuple) and len(made) == 2
    if not pair or not isinstance(made[0], torch.nn.Module) or not callable(made[1]):
        raise ConfigError(
            f"{place} must return (model, inputs), a torch.nn.Module and a function from a length "
            f"to (args, kwargs), or a model alone; it returned {type(made).__name__}"
        )
    model, given = made
    return model, given


def _arguments(given: Any, place: str) -> Inputs:
    """``(args, kwargs)`` from what the factories of campaigns may return."""
    if isinstance(given, torch.Tensor):
        return (given,), {}
    if isinstance(given, dict):
        return (), dict(given)
    if isinstance(given, (tuple, list)):
        if len(given) == 2 and isinstance(given[0], (tuple, list)) and isinstance(given[1], dict):
            return tuple(given[0]), dict(given[1])
        return tuple(given), {}
    raise ConfigError(
        f"{place}: inputs(length) must give (args, kwargs), a tuple, a dict or a tensor; it gave "
        f"{type(given).__name__}"
    )


def _line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else 'no message'}"
