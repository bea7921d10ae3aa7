"""What is compiled, as users say it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from search_space.errors import ConfigError
from search_space.plan import Plan


@dataclass(frozen=True)
class CompileOptions:
    """What is compiled.

    Attributes:
        bodies: single passes of loops.
        stretches: what runs between loops.
        options: Inductor's own, such as ``{"max_autotune": True}``.
    """

    bodies: bool = True
    stretches: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def plain(self) -> dict[str, Any]:
        """As a campaign file says it."""
        return {"bodies": self.bodies, "stretches": self.stretches, **self.options}

    def of(self, plan: Plan) -> CompileOptions:
        """As much of this as a plan asks for; all, where it says nothing of compiling."""
        if not plan.compiled:
            return self
        return replace(
            self, bodies=self.bodies and plan.bodies, stretches=self.stretches and plan.stretches
        )


def parse_compile(value: object) -> CompileOptions | None:
    """Options from True, False, None or a mapping of Inductor's options, in which ``bodies`` and
    ``stretches`` are this library's own.

    Raises:
        ConfigError: anything else.
    """
    if value is None or value is False:
        return None
    if value is True or isinstance(value, CompileOptions):
        return CompileOptions() if value is True else value
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ConfigError(
            f"compile must be true, false or a mapping of Inductor's options, got {value!r}"
        )
    own = {name: value[name] for name in ("bodies", "stretches") if name in value}
    if not all(isinstance(flag, bool) for flag in own.values()):
        raise ConfigError(
            f"compile takes true or false for bodies and stretches, got {dict(value)!r}"
        )
    return CompileOptions(**own, options={k: v for k, v in value.items() if k not in own})
