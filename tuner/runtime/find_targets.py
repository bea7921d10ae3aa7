"""Which submodules to capture instead of the whole model: by pattern, or found in the model."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch

from search_space.errors import ConfigError

AUTO = "auto"
_CONTAINERS = (torch.nn.ModuleList, torch.nn.ModuleDict, torch.nn.Sequential)
_UNCALLED = (torch.nn.ModuleList, torch.nn.ModuleDict)


@dataclass(frozen=True, slots=True)
class Repeated:
    """Several blocks of one class in one container; ``pattern`` names all that it holds."""

    pattern: str
    kind: str
    count: int

    def __str__(self) -> str:
        return f"{self.pattern!r} ({self.count} {self.kind})"


def repeated_blocks(model: torch.nn.Module) -> tuple[Repeated, ...]:
    """The outermost repeated blocks: what stands twice or more in a container and has submodules of
    its own."""
    found: list[Repeated] = []
    inside: list[str] = []
    for name, module in model.named_modules():
        if not isinstance(module, _CONTAINERS) or _is_inside(name, inside):
            continue
        kinds = Counter(type(child) for child in module.children() if any(child.children()))
        for kind, count in kinds.items():
            if count > 1:
                found.append(Repeated(f"{name}.*" if name else "*", kind.__name__, count))
        if any(count > 1 for count in kinds.values()):
            inside.append(name)
    return tuple(found)


def match_targets(model: torch.nn.Module, patterns: str | Sequence[str]) -> tuple[str, ...]:
    """The submodules that patterns name, in the model's order.

    Args:
        patterns: names of submodules, such as ``"trunk.blocks.*"``. ``*``, ``?`` and ``[0-3]``
            stand for parts of one component: they never cross a dot.

    Raises:
        ConfigError: a pattern names nothing, or one target lies within another.
    """
    wanted = (patterns,) if isinstance(patterns, str) else tuple(patterns)
    if not wanted or not all(isinstance(one, str) and one.strip() for one in wanted):
        raise ConfigError(
            f"targets must be names of submodules such as 'blocks.*', or 'auto', got {patterns!r}"
        )
    modules = {name: module for name, module in model.named_modules() if name}
    found: dict[str, None] = {}
    for pattern in wanted:
        hits = [name for name in modules if _matches(name, pattern.strip())]
        if not hits:
            near = difflib.get_close_matches(pattern, modules, 3, 0.5)
            hint = f"did you mean {', '.join(map(repr, near))}? " if near else ""
            raise ConfigError(
                f"targets: no submodule of {type(model).__name__} is named {pattern!r}; "
                f"{hint}{suggestion(model)}"
            )
        found.update(dict.fromkeys(hits))
    names = [name for name in modules if name in found]
    for name in names:
        if isinstance(modules[name], _UNCALLED):
            raise ConfigError(
                f"targets: {name!r} is a {type(modules[name]).__name__}, which is never called; "
                f"name what it holds: {name + '.*'!r}"
            )
        outer = next((other for other in names if name.startswith(f"{other}.")), None)
        if outer is not None:
            raise ConfigError(
                f"targets: {name!r} lies within the target {outer!r}; name one of the two"
            )
    return tuple(names)


def auto_targets(model: torch.nn.Module) -> tuple[str, ...]:
    """The outermost repeated blocks with all that stands beside them in their containers, and what
    else has submodules of its own but no repeated blocks inside."""
    groups = {one.pattern.removesuffix("*").removesuffix(".") for one in repeated_blocks(model)}
    return tuple(_cover(model, "", groups))


def parts_of(model: torch.nn.Module, name: str) -> tuple[str, ...]:
    """The targets to try in place of one that cannot be captured."""
    module = model.get_submodule(name)
    groups = {one.pattern.removesuffix("*").removesuffix(".") for one in repeated_blocks(module)}
    return tuple(f"{name}.{part}" for part in _cover(module, "", groups))


def _cover(module: torch.nn.Module, name: str, groups: set[str]) -> list[str]:
    found = []
    for child_name, child in module.named_children():
        path = f"{name}.{child_name}" if name else child_name
        if not any(child.children()):
            continue
        holds_groups = any(group == path or group.startswith(f"{path}.") for group in groups)
        if name not in groups and (holds_groups or isinstance(child, _UNCALLED)):
            found.extend(_cover(child, path, groups))
        elif not isinstance(child, _UNCALLED):
            found.append(path)
    return found


def suggestion(model: torch.nn.Module) -> str:
    """What could be targeted, as a sentence for an error message."""
    groups = repeated_blocks(model)
    if not groups:
        names = auto_targets(model)[:4]
        if not names:
            return "no submodule can be targeted"
        return f"submodules that could be targeted: {', '.join(map(repr, names))}"
    first = max(groups, key=lambda one: one.count)
    return (
        f"repeated blocks that can be targeted: {', '.join(map(str, groups[:6]))}; for instance "
        f"targets={first.pattern!r}, or targets='auto'"
    )


def _matches(name: str, pattern: str) -> bool:
    parts, wanted = name.split("."), pattern.split(".")
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))


def _is_inside(name: str, outer: Sequence[str]) -> bool:
    return any(not one or name.startswith(f"{one}.") for one in outer)
