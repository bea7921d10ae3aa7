"""Typical mistakes in a call of ``apply``, told before anything is captured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from search_space.errors import CaptureError, ConfigError


def check_arguments(model: object, args: object, kwargs: object) -> None:
    """See that these are a module, a tuple of its positional arguments, and keyword arguments.

    Raises:
        ConfigError: they are not; says how to write it.
        CaptureError: the model is in training mode.
    """
    if not isinstance(model, torch.nn.Module):
        raise ConfigError(
            f"model must be a torch.nn.Module, got {_kind(model)}; wrap a function in a module, "
            "and of a library's pipeline pass the module that is large, such as pipe.unet"
        )
    if isinstance(args, Mapping):
        raise ConfigError(
            f"args must be a tuple of positional arguments, got {_kind(args)}; pass keyword "
            "arguments as apply(model, (), kwargs)"
        )
    if not isinstance(args, (tuple, list)):
        # a tensor would be taken apart along its first dimension
        raise ConfigError(
            f"args must be a tuple of the model's positional arguments, got {_kind(args)}; for one "
            "argument x write args=(x,)"
        )
    if kwargs is not None and not _named(kwargs):
        raise ConfigError(f"kwargs must map names to values, got {_kind(kwargs)}")
    if model.training:
        raise CaptureError("the model is in training mode; call model.eval() first")


def _named(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(name, str) for name in value)


def _kind(value: object) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
