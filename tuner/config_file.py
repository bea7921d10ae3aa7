"""Campaign files as plain values, with what the command line overrides."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from search_space.errors import ConfigError


def read_values(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The values of a campaign file, overrides included, as they stand there.

    Raises:
        ConfigError: the file cannot be read, or an override is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the campaign file {path} cannot be read: {error}") from error
    data = _parse_yaml(text, str(path))
    if not isinstance(data, dict):
        raise ConfigError(f"{path} must hold a mapping of keys, got {type(data).__name__}")
    return overridden(data, overrides)


def overridden(data: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Values with those of ``key=value`` texts in their place.

    Raises:
        ConfigError: an override is wrong.
    """
    found = copy.deepcopy(dict(data))
    for override in overrides:
        _override(found, override)
    return found


class _OnceLoader(yaml.SafeLoader):
    """Refuses a key that stands twice, of which the last would count."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[object] = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            name = key.tag, str(key.value)
            if name in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value} stands there twice", key.start_mark
                )
            seen.add(name)
        return super().construct_mapping(node, deep)


def _parse_yaml(text: str, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_OnceLoader)
    except (yaml.YAMLError, ValueError) as error:  # (the latter: a date that is none)
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or error
        raise ConfigError(f"{where}{line} is not valid YAML: {problem}") from error


def _override(data: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set takes key=value, such as search.n_trials=50, got {override!r}")
    *parents, last = key.strip().split(".")
    place = data
    for parent in parents:
        inner = place.get(parent)
        if inner is None:
            inner = place[parent] = {}
        if not isinstance(inner, dict):
            raise ConfigError(f"--set {override}: {parent} is not a section")
        place = inner
    place[last] = _parse_yaml(text, f"--set {override}")
