"""YAML from strangers: plain values alone, and never more memory or stack than a limit.

A plan database may come from anywhere. The safe loader keeps a file from running code; what is
left to refuse is what grows when it is read:

- aliases, a few of which can stand for billions of values, and which have no use here;
- deep nesting, since readers recurse: in brackets, in indentation, and in ``- - - -`` on one line;
- sheer size, in bytes and in values, each of which takes hundreds of bytes once it is read.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

MOST_BYTES = 8 * 2**20
MOST_VALUES = 400_000
_DEEPEST = 50
_WIDEST_INDENT = 200

_SEPARATORS = ",:[{\n"
"""A file has no more values than such characters, give or take one, since one stands before or
after each."""

_NESTED_LINE = re.compile(rf"^[ \t?:-]{{{_WIDEST_INDENT}}}", re.MULTILINE)
"""Block collections open at growing columns, by blanks or by indicators on one line."""


def load_yaml(text: str) -> Any:
    """The value of a YAML text.

    Raises:
        yaml.YAMLError: it is malformed, or holds tags or aliases.
        ValueError, OverflowError, RecursionError: it is larger or deeper than any honest file, or
            holds numbers or dates that are none.
    """
    _check_limits(text)
    return yaml.load(text, Loader=_Loader)


def dump_yaml(value: Any) -> str:
    """The text of plain values; :class:`Flow` marks those that stand on one line."""
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=10_000)
    return text


class Flow:
    """A value that is written on one line."""

    def __init__(self, value: Any) -> None:
        self.value = value


def _check_limits(text: str) -> None:
    if len(text) > MOST_BYTES:
        raise ValueError(f"more than {MOST_BYTES} characters")
    values = sum(map(text.count, _SEPARATORS))
    if values > MOST_VALUES:
        raise ValueError(f"more than {MOST_VALUES} values")
    depth = 0
    for bracket in re.findall(r"[\[\]{}]", text):
        depth += 1 if bracket in "[{" else -1
        if depth > _DEEPEST:
            raise ValueError(f"more than {_DEEPEST} brackets are open at once")
    if _NESTED_LINE.search(text):
        raise ValueError(f"a line is indented by {_WIDEST_INDENT} or more")


# (PyYAML's classes are chosen when it is loaded, which type checkers cannot follow)
class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """libyaml's writer, where there is one, with one-line values and no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _one_line(dumper: Any, data: Flow) -> Any:
    if isinstance(data.value, dict):
        return dumper.represent_mapping(
            "tag:yaml.org,2002:map", data.value.items(), flow_style=True
        )
    return dumper.represent_sequence("tag:yaml.org,2002:seq", data.value, flow_style=True)


_Dumper.add_representer(Flow, _one_line)


class _NoAliases:
    """Refuses a node that is met a second time."""

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        known: Any = self
        if node in known.constructed_objects or node in known.recursive_objects:
            raise yaml.constructor.ConstructorError(
                None, None, "aliases are not allowed here", node.start_mark
            )
        return super().construct_object(node, deep)  # type: ignore[misc]


class _Loader(_NoAliases, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """libyaml's reader, where there is one, without aliases."""


__all__ = ["MOST_BYTES", "MOST_VALUES", "Flow", "dump_yaml", "load_yaml"]
