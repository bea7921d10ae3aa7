"""Campaign files: YAML in, a frozen and fully resolved configuration out.

Every key is declared once, in the tables below, with its parser and default. Unknown keys are
errors that name the nearest valid one.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from search_space.budget import Budget, parse_budget
from search_space.errors import ConfigError
from search_space.rewrites import AS_CAPTURED, ATTENTION, Kernels
from tuner.compile_options import CompileOptions, parse_compile
from tuner.config_file import read_values
from tuner.config_values import PRESETS, Parser, duration, memory, optional, targets, with_preset

SAMPLERS = ("tpe", "nsga2", "random", "exhaustive", "beam")
KINDS = ("auto", "learned", "boosting", "forest", "linear", "roofline", "macro_micro")
ENGINES = ("local", "ray")
DTYPES = ("float32", "float16", "bfloat16", "float64")


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Which model: a name for the database, a factory ``package.module:function`` or
    ``path/file.py:function`` with its keyword arguments, the dtype it is cast to, and the
    submodules to tune in place of the whole, each distinct one as a model of its own (None: the
    whole)."""

    id: str
    factory: str
    kwargs: Mapping[str, Any]
    dtype: str
    targets: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class SearchConfig:
    """The study: sampler, plans tried on the cost model a round, seed, and rounds of proposing,
    confirming and refitting."""

    sampler: str = "tpe"
    n_trials: int = 200
    seed: int = 0
    rounds: int = 2


@dataclass(frozen=True, slots=True)
class CostModelConfig:
    """Which cost model (``auto`` takes the best on held-out timings), how many seconds a length may
    spend on timing regions alone, and a model file to start from: its timings join the campaign's
    own, and what it is sure of is not timed again."""

    kind: str = "auto"
    timings_s: float = 30.0
    start: Path | None = None


@dataclass(frozen=True, slots=True)
class ConfirmConfig:
    """Real runs: plans a budget and round, warm-up and measured runs, hard timeout of one
    measurement, and the tolerance of outputs against the unchunked model's. ``interval`` is the
    relative width of the 95 % interval at which finalists are known well enough to stop repeating;
    ``wait_s`` how long a measurement waits at most for a device that others keep busy."""

    top_k: int = 3
    warmup: int = 1
    repeats: int = 5
    timeout_s: float = 300.0
    rtol: float = 1e-4
    atol: float = 1e-5
    interval: float = 0.02
    wait_s: float = 20.0


@dataclass(frozen=True, slots=True)
class LimitsConfig:
    """When a campaign ends, whatever is left to do: seconds of its own, seconds that devices are
    busy for it, and plans that are run; all sessions together. None is no limit."""

    wall_s: float | None = None
    device_s: float | None = None
    runs: int | None = None


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Where measurements run: ``local`` or ``ray``; how many at once (0: one a GPU, one on a CPU);
    the address of the Ray cluster (None: the one at hand, or a new one on this machine); and the
    host memory that measuring processes may take together (None: nine tenths of what is free)."""

    kind: str = "local"
    slots: int = 0
    address: str | None = None
    host_memory_bytes: int | None = None


@dataclass(frozen=True)
class CampaignConfig:
    """One campaign, resolved. ``folder`` is where the file stands: factories by path are relative
    to it."""

    campaign: str
    model: ModelConfig
    seq_lens: tuple[int, ...]
    device: str
    budgets: tuple[Budget, ...]
    search: SearchConfig
    cost_model: CostModelConfig
    confirm: ConfirmConfig
    output: Path
    plans: Path
    folder: Path
    preset: str | None = None
    kernels: Kernels = AS_CAPTURED
    compile: CompileOptions | None = None
    limits: LimitsConfig = LimitsConfig()
    engine: EngineConfig = EngineConfig()

    def plain(self) -> dict[str, Any]:
        """As plain values, the way a campaign file would say it."""
        return {name: value for name, value in _plain(self).items() if name != "folder"}


_REQUIRED = object()


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{key} must be a text, got {value!r}")
    return value


def _count(key: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{key} must be a positive whole number, got {value!r}")
    return value


def _whole(key: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ConfigError(f"{key} must be a whole number, 0 or more, got {value!r}")
    return value


def _amount(key: str, value: Any) -> float:
    if isinstance(value, str):  # YAML reads 1e-5, without a dot, as a text
        try:
            value = float(value)
        except ValueError:
            raise ConfigError(f"{key} must be a number, got {value!r}") from None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        raise ConfigError(f"{key} must be a number, 0 or more, got {value!r}")
    return float(value)


def _one_of(options: Sequence[str]) -> Parser:
    def parse(key: str, value: Any) -> str:
        if value not in options:
            near = difflib.get_close_matches(str(value), options, 1, 0.5)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"{key} must be one of {', '.join(options)}, got {value!r}{hint}")
        return str(value)

    return parse


def _device(key: str, value: Any) -> str:
    if isinstance(value, str):
        kind, colon, index = value.partition(":")
        if value in ("auto", "cpu", "cuda") or (kind == "cuda" and colon and index.isdigit()):
            return value
    raise ConfigError(f"{key} must be auto, cpu, cuda or cuda:N, got {value!r}")


def _mapping(key: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise ConfigError(f"{key} must be a mapping of names to values, got {value!r}")
    return value


def _path(key: str, value: Any) -> Path:
    return Path(_text(key, value)).expanduser()


def _lengths(key: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not value:
        raise ConfigError(f"{key} must be a list of lengths such as [512, 1024], got {value!r}")
    found = tuple(_count(f"{key}[{place}]", item) for place, item in enumerate(value))
    if len(set(found)) != len(found):
        raise ConfigError(f"{key} names a length twice: {list(found)}")
    return found


def _budgets(key: str, value: Any) -> tuple[Budget, ...]:
    if not isinstance(value, list) or not value:
        raise ConfigError(f"{key} must be a list such as [0.5, 8GiB, min], got {value!r}")
    found = []
    for place, item in enumerate(value):
        try:
            found.append(parse_budget(item))
        except ConfigError as error:
            raise ConfigError(f"{key}[{place}]: {error}") from None
    return tuple(dict.fromkeys(found))


def _seed(key: str, value: Any) -> int:
    found = _whole(key, value)
    if found >= 2**32:
        raise ConfigError(f"{key} must be below 2**32, got {found}")
    return found


def _kwargs(key: str, value: Any) -> Mapping[str, Any]:
    """What the measuring process is sent as JSON, and must find as it was."""
    found = _mapping(key, value)
    _check_plain(key, found)
    return found


def _check_plain(key: str, value: Any) -> None:
    if isinstance(value, Mapping):
        for name, item in value.items():
            if not isinstance(name, str):
                raise ConfigError(f"{key}: names must be texts, got {name!r}; put it in quotes")
            _check_plain(f"{key}.{name}", item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _check_plain(key, item)
    elif value is not None and not isinstance(value, (bool, int, float, str)):
        raise ConfigError(
            f"{key} must be a number, a text, or a list or mapping of such, got "
            f"{type(value).__name__} {value}; put a text in quotes"
        )


def _compile(key: str, value: Any) -> CompileOptions | None:
    return parse_compile(value)


def _section(target: type, table: Mapping[str, tuple[Parser, Any]]) -> Parser:
    def parse(key: str, value: Any) -> Any:
        return target(**_read(value, table, key))

    return parse


def _defaults(target: type, parsers: Mapping[str, Parser]) -> Mapping[str, tuple[Parser, Any]]:
    """A section's table, its defaults read off the dataclass."""
    assert is_dataclass(target)
    return {field.name: (parsers[field.name], field.default) for field in fields(target)}


_MODEL: Mapping[str, tuple[Parser, Any]] = {
    "id": (_text, _REQUIRED),
    "factory": (_text, _REQUIRED),
    "kwargs": (_kwargs, {}),
    "dtype": (_one_of(DTYPES), "float32"),
    "targets": (targets, None),
}
_SEARCH = _defaults(
    SearchConfig,
    {"sampler": _one_of(SAMPLERS), "n_trials": _count, "seed": _seed, "rounds": _count},
)
_COST_MODEL = _defaults(
    CostModelConfig,
    {"kind": _one_of(KINDS), "timings_s": _amount, "start": optional(_path)},
)
_CONFIRM = _defaults(
    ConfirmConfig,
    {
        "top_k": _count, "warmup": _whole, "repeats": _count, "timeout_s": _amount,
        "rtol": _amount, "atol": _amount, "interval": _amount, "wait_s": _amount,
    },
)  # fmt: skip
_LIMITS = _defaults(
    LimitsConfig,
    {"wall_s": optional(duration), "device_s": optional(duration), "runs": optional(_count)},
)
_ENGINE = _defaults(
    EngineConfig,
    {
        "kind": _one_of(ENGINES), "slots": _whole, "address": optional(_text),
        "host_memory_bytes": optional(memory),
    },
)  # fmt: skip
_KERNELS = _defaults(Kernels, {"attention": _one_of(ATTENTION)})
_CAMPAIGN: Mapping[str, tuple[Parser, Any]] = {
    "campaign": (_text, _REQUIRED),
    "preset": (optional(_one_of(tuple(PRESETS))), None),
    "model": (_section(ModelConfig, _MODEL), _REQUIRED),
    "seq_lens": (_lengths, _REQUIRED),
    "device": (_device, "auto"),
    "budgets": (_budgets, [0.5, 0.2, "min"]),
    "search": (_section(SearchConfig, _SEARCH), {}),
    "cost_model": (_section(CostModelConfig, _COST_MODEL), {}),
    "confirm": (_section(ConfirmConfig, _CONFIRM), {}),
    "kernels": (_section(Kernels, _KERNELS), {}),
    "compile": (_compile, None),
    "limits": (_section(LimitsConfig, _LIMITS), {}),
    "engine": (_section(EngineConfig, _ENGINE), {}),
    "output": (_path, None),
    "plans": (_path, "plans"),
}


def load_config(path: Path, overrides: Sequence[str] = ()) -> CampaignConfig:
    """Read a campaign file.

    Args:
        overrides: ``key=value`` texts, keys dotted (``search.n_trials=50``), values in YAML.

    Raises:
        ConfigError: the file or an override is wrong; names the key, the cause and the remedy.
    """
    data = read_values(path, overrides)
    try:
        return parse_config(data, path.resolve().parent)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def parse_config(data: Mapping[str, Any], folder: Path) -> CampaignConfig:
    """A configuration from plain values.

    Raises:
        ConfigError: a key is missing, unknown, or has a wrong value.
    """
    if "sweep" in data:
        raise ConfigError("sweep: names several campaigns; this takes a file of one")
    values = _read(with_preset(data), _CAMPAIGN, "")
    if values["output"] is None:
        values["output"] = Path("runs") / values["campaign"]
    return CampaignConfig(**values, folder=folder)


def _read(value: Any, table: Mapping[str, tuple[Parser, Any]], section: str) -> dict[str, Any]:
    if value is None:
        value = {}
    if not isinstance(value, Mapping):
        raise ConfigError(f"{section or 'the file'} must be a mapping of keys, got {value!r}")
    prefix = f"{section}." if section else ""
    for name in value:
        if name not in table:
            near = difflib.get_close_matches(str(name), table, 1, 0.4)
            hint = f"did you mean {prefix}{near[0]}?" if near else f"valid are {', '.join(table)}"
            raise ConfigError(f"unknown key {prefix}{name}; {hint}")
    found = {}
    for name, (parse, default) in table.items():
        if name in value:
            found[name] = parse(prefix + name, value[name])
        elif default is _REQUIRED:
            raise ConfigError(f"the key {prefix}{name} is missing")
        else:
            found[name] = default if default is None else parse(prefix + name, default)
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, Budget):
        return value.plain
    if isinstance(value, CompileOptions):
        return value.plain
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return value
