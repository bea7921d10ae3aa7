"""What to hold out, so that a model is judged, and its spread set, on what it has not seen."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from cost_models.base import Sample

LENGTHS, MODELS, CLASSES, SIZES = "lengths", "models", "classes", "sizes"
_PARTS = 5
"""Folds of classes."""

_THIRDS = 3

Folds = tuple[tuple[int, ...], ...]
"""Places of the samples that each fold holds out."""


def folds(samples: Sequence[Sample], held_out: str) -> Folds:
    """The folds of a kind; fewer than two where the samples do not allow it.

    ``lengths`` holds out one length of each model that has several, smallest with smallest;
    ``models`` one model at a time; ``classes`` every fifth group; ``sizes`` the third of the groups
    that the roofline says take least time, and so on: what other lengths look like to a model that
    knows one.
    """
    parts: dict[int, list[int]] = defaultdict(list)
    for place, number in enumerate(_NUMBERS[held_out](samples)):
        if number is not None:
            parts[number].append(place)
    return tuple(tuple(parts[number]) for number in sorted(parts)) if len(parts) > 1 else ()


def _by_length(samples: Sequence[Sample]) -> list[int | None]:
    lengths: dict[str, set[int]] = defaultdict(set)
    for one in samples:
        lengths[one.model].add(one.length)
    order = {
        (model, length): rank
        for model, known in lengths.items()
        for rank, length in enumerate(sorted(known))
        if len(known) > 1
    }
    return [order.get((one.model, one.length)) for one in samples]


def _by_model(samples: Sequence[Sample]) -> list[int | None]:
    names = {name: place for place, name in enumerate(sorted({one.model for one in samples}))}
    return [names[one.model] for one in samples]


def _by_class(samples: Sequence[Sample]) -> list[int | None]:
    groups = sorted({(one.model, one.group) for one in samples})
    places = {group: place % _PARTS for place, group in enumerate(groups)}
    return [places[one.model, one.group] for one in samples]


def _by_size(samples: Sequence[Sample]) -> list[int | None]:
    times = {(one.model, one.group): one.features.roofline_whole_s for one in samples}
    order = sorted(times, key=lambda group: (times[group], group))
    places = {group: place * _THIRDS // len(order) for place, group in enumerate(order)}
    return [places[one.model, one.group] for one in samples]


_NUMBERS = {LENGTHS: _by_length, MODELS: _by_model, CLASSES: _by_class, SIZES: _by_size}


def groups_of(samples: Sequence[Sample], key: str = "group") -> Mapping[tuple[str, ...], list[int]]:
    """Places of samples by what they are compared within: ``group`` (a class at a length), or
    ``length`` (all classes of a model at a length), those whose passes run compiled apart."""
    found: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for place, one in enumerate(samples):
        name = one.group if key == "group" else str(one.length)
        how = "compiled" if one.features.compiled else ""
        found[one.model, name, how].append(place)
    return found
