"""What a campaign's measurements are known by in its journal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cost_models.ceilings import CEILINGS_VERSION
from search_space.classes import RegionClass
from search_space.plan import Plan, encode_plan, encode_regions
from tuner.config import CampaignConfig
from tuner.journal import identity
from tuner.measured import Described

# what a measurement depends on of its environment; the rest says how it was found
_DEVICE = (
    "device_name", "torch", "cuda", "threads", "wait_policy", "tf32", "capability", "dtype",
)  # fmt: skip


class Identities:
    """Identities on one kind of device, of a model at the lengths that were described.

    Args:
        environment: of the device, see :class:`tuner.measure.protocol.Backend`.
    """

    def __init__(self, config: CampaignConfig, environment: Mapping[str, str]) -> None:
        self._config = config
        self._lengths: dict[int, Described] = {}
        self.device = device_of(environment)

    def describe(self, described: Described) -> None:
        """A length as it is captured now."""
        self._lengths[described.length] = described

    def graph(self, length: int) -> str:
        """The fingerprint of a length's graph."""
        return self._lengths[length].graph.fingerprint

    def ceilings(self) -> str:
        """Of what the device can do."""
        return identity("ceilings", device=self.device, version=CEILINGS_VERSION)

    def of(self, kind: str, length: int, **what: Any) -> str:
        """Of a measurement at a length: of its graph, and of inputs of its very shapes."""
        return identity(
            kind, model=self._config.model.id, graph=self.graph(length), length=length,
            shapes=self._lengths[length].shapes, device=self.device, **what,
        )  # fmt: skip

    def region(
        self,
        length: int,
        item: RegionClass,
        chunk_sizes: Sequence[int],
        compiled_sizes: Sequence[int] = (),
    ) -> str:
        """Of a class timed alone, in chunks of these sizes, and compiled in some of them."""
        also: dict[str, Any] = {}
        if compiled_sizes:
            options = self._config.compile
            also["compiled_sizes"] = list(compiled_sizes)
            also["compile"] = options.plain if options else {}
        regions = encode_regions(item.regions[:1])
        return self.of("region", length, regions=regions, sizes=list(chunk_sizes), **also)

    def of_plan(
        self, kind: str, length: int, plan: Plan, reference: Plan | None, **what: Any
    ) -> str:
        """Of a plan's run. How it is compiled is a part of it."""
        options = self._config.compile
        if plan.compiled and options:
            what["compile"] = options.plain
        told = None if reference is None else encode_plan(reference)
        return self.of(kind, length, plan=encode_plan(plan), reference=told, **what)

    def check(self, length: int, plan: Plan, reference: Plan | None) -> str:
        """Of a plan's first run, which compares its outputs."""
        confirm = self._config.confirm
        return self.of_plan(
            "check", length, plan, reference, rtol=confirm.rtol, atol=confirm.atol
        )


def device_of(environment: Mapping[str, str]) -> dict[str, str]:
    """What measurements depend on of an environment."""
    return {name: environment[name] for name in _DEVICE if name in environment}
