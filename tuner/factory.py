"""From a configuration's factory to a model on its device, and inputs at any length."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree

from search_space.errors import ConfigError
from tuner.config import ModelConfig
from tuner.runtime.distinct import distinct_targets, first_inputs
from tuner.runtime.find_targets import AUTO

Inputs = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Subject:
    """A model on its device, and its inputs by length: positional and keyword arguments. ``target``
    names the submodule that stands in place of the whole model, where one does."""

    model: torch.nn.Module
    inputs: Callable[[int], Inputs]
    target: str = ""


def load_factory(name: str, folder: Path) -> Callable[..., Any]:
    """The function that ``package.module:function`` or ``path/file.py:function`` names.

    Args:
        folder: paths are relative to it, or else to the current folder.

    Raises:
        ConfigError: it cannot be imported; the message says why.
    """
    place, colon, attribute = name.rpartition(":")
    if not colon or not place or not attribute:
        raise ConfigError(
            f"model.factory must be 'package.module:function' or 'path/file.py:function', "
            f"got {name!r}"
        )
    try:
        module = _load_file(place, folder) if place.endswith(".py") else _load_module(place)
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:  # whatever the user's file raises, imported
        raise ConfigError(
            f"model.factory {name!r} cannot be imported: {type(error).__name__}: {error}. Is its "
            "package installed, and its folder the current one or on PYTHONPATH?"
        ) from error
    found = getattr(module, attribute, None)
    if not callable(found):
        options = [option for option in vars(module) if callable(getattr(module, option))]
        near = difflib.get_close_matches(attribute, options, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"model.factory: {place} has no function {attribute!r}{hint}")
    factory: Callable[..., Any] = found
    return factory


def build(config: ModelConfig, device: str, folder: Path) -> Subject:
    """The model in evaluation mode, on its device and in its dtype.

    Raises:
        ConfigError: the factory fails, or gives something else.
    """
    factory = load_factory(config.factory, folder)
    try:
        made = factory(**config.kwargs)
    except (Exception, SystemExit) as error:  # whatever the user's factory raises
        raise ConfigError(
            f"model.factory {config.factory!r} failed: {type(error).__name__}: {error}. Check "
            f"model.kwargs {dict(config.kwargs)!r}"
        ) from error
    if (
        not isinstance(made, tuple)
        or len(made) != 2
        or not isinstance(made[0], torch.nn.Module)
        or not callable(made[1])
    ):
        raise ConfigError(
            f"model.factory {config.factory!r} must return (model, inputs): a torch.nn.Module and "
            f"a function from a length to (args, kwargs); it returned {type(made).__name__}"
        )
    dtype: torch.dtype = getattr(torch, config.dtype)
    model = made[0].eval().to(device=device, dtype=dtype)

    def inputs(length: int) -> Inputs:
        try:
            given = made[1](length)
        except (Exception, SystemExit) as error:  # whatever the user's function raises
            raise ConfigError(
                f"inputs({length}) of {config.factory!r} failed: {type(error).__name__}: {error}"
            ) from error
        args, kwargs = _arguments(given, config.factory)

        def move(tensor: torch.Tensor) -> torch.Tensor:
            cast = dtype if tensor.is_floating_point() else tensor.dtype
            return tensor.to(device=device, dtype=cast)

        moved: Inputs = pytree.tree_map_only(torch.Tensor, move, (args, kwargs))
        return moved

    return Subject(model, inputs)


def target_subject(subject: Subject, targets: Sequence[str], name: str) -> Subject:
    """A submodule as a model of its own; its inputs are those of its first call in a real run of
    the whole model.

    Args:
        targets: all targets, as in the configuration. Those that run before it run chunked.
    """

    def inputs(length: int) -> Inputs:
        args, kwargs = subject.inputs(length)
        return first_inputs(subject.model, _patterns(targets), name, args, kwargs)

    return Subject(subject.model.get_submodule(name), inputs, name)


def subjects(config: ModelConfig, device: str, folder: Path, length: int) -> tuple[Subject, ...]:
    """What a configuration tunes: the model, or the first of each distinct target.

    Args:
        length: at which the model is looked at to tell its targets apart; nothing is computed
            where the model can run without data.

    Raises:
        ConfigError: the factory or the targets are wrong.
        CaptureError: a target cannot be captured.
    """
    whole = build(config, device, folder)
    if config.targets is None:
        return (whole,)
    names = distinct_of(whole, config.targets, *whole.inputs(length))
    return tuple(target_subject(whole, config.targets, name) for name in names)


def distinct_of(
    subject: Subject, targets: Sequence[str], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[str, ...]:
    """The first target of each distinct graph that the model runs with these inputs."""
    return distinct_targets(subject.model, _patterns(targets), args, kwargs)


def _patterns(targets: Sequence[str]) -> str | Sequence[str]:
    return AUTO if tuple(targets) == (AUTO,) else targets


def _arguments(given: Any, factory: str) -> Inputs:
    """``(args, kwargs)``, a tuple of positional arguments, a dict, or one tensor."""
    if isinstance(given, torch.Tensor):
        return (given,), {}
    if isinstance(given, dict):
        return (), dict(given)
    if isinstance(given, tuple):
        if len(given) == 2 and isinstance(given[0], tuple) and isinstance(given[1], dict):
            return given[0], dict(given[1])
        return given, {}
    raise ConfigError(
        f"inputs(length) of {factory!r} must return (args, kwargs), a tuple, a dict or a tensor; "
        f"it returned {type(given).__name__}"
    )


def _load_module(name: str) -> Any:
    here = str(Path.cwd())
    if here not in sys.path:  # as python -m does; an installed command would not look there
        sys.path.insert(0, here)
    return importlib.import_module(name)


def _load_file(place: str, folder: Path) -> Any:
    options = [folder / place, Path.cwd() / place]
    path = next((option for option in options if option.is_file()), None)
    if path is None:
        raise ConfigError(
            f"model.factory: there is no file {place!r} in {folder} or in the current folder"
        )
    spec = importlib.util.spec_from_file_location(f"autochunk_factory_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
