"""Many families, tiny and with random weights: what happens to models that nobody had in mind.

Each row names a model of transformers or diffusers by its configuration and what it takes. They are
no subjects with bars: :mod:`experiments.sweep` tries them all, and each can be checked alone::

    python -m experiments.check experiments.zoo:whisper --seq-len 48
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from experiments.zoo_images import IMAGE_FAMILIES
from experiments.zoo_parts import Family
from experiments.zoo_text import TEXT_FAMILIES

FAMILIES: Mapping[str, Family] = MappingProxyType({**TEXT_FAMILIES, **IMAGE_FAMILIES})
"""By name, in the order of the page."""


def __getattr__(name: str) -> Family:
    """Families by name, so that each is a factory of this module."""
    if name in FAMILIES:
        return FAMILIES[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
