"""Cost models by the name that a campaign gives them."""

from __future__ import annotations

from collections.abc import Callable

from cost_models.base import CostModel
from cost_models.learned import Learned
from cost_models.macro_micro import MacroMicro
from cost_models.roofline import Roofline

KINDS: dict[str, Callable[[int], CostModel]] = {
    "learned": lambda seed: Learned(seed, "learned"),
    "boosting": lambda seed: Learned(seed, "boosting"),
    "forest": lambda seed: Learned(seed, "forest"),
    "linear": lambda seed: Learned(seed, "linear"),
    "roofline": lambda seed: Roofline(),
    "macro_micro": lambda seed: MacroMicro(),
}
"""Makes a model of a kind from a random seed."""


COMPARED = ("learned", "linear", "roofline", "macro_micro")
"""What ``auto`` chooses from; the other kinds are there to be compared."""


def create(kind: str, seed: int = 0) -> tuple[CostModel, ...]:
    """The models to choose from: the one named, several for ``auto``, every kind for ``all``.

    Raises:
        KeyError: the kind is unknown.
    """
    kinds = {"auto": COMPARED, "all": tuple(KINDS)}.get(kind, (kind,))
    return tuple(KINDS[one](seed) for one in kinds)
