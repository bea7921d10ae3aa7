"""What depends on the data is refused when captured, or stays outside of every region."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from search_space.candidates import all_regions
from search_space.capture import capture
from search_space.dim_rules import flow
from search_space.errors import CaptureError
from search_space.probe import Prober
from tests.one_op import t
from tests.tiny import EVERYTHING, Function, analysed

Model = Callable[[torch.Tensor], torch.Tensor]

SIZES: dict[str, Model] = {
    "a mask as index": lambda x: x[x > 0],
    "nonzero": lambda x: torch.nonzero(x) * 2,
    "masked_select": lambda x: x.masked_select(x > 0).exp(),
    "unique": lambda x: torch.unique(x.round()),
    "a branch": lambda x: x * 2 if x.sum() > 0 else x,
    "a size from a value": lambda x: x[: int(x.argmax()) % 3 + 1].exp(),
    "repeats from values": lambda x: torch.repeat_interleave(x, x[:, 0].abs().long(), dim=0),
}


@pytest.mark.parametrize("name", SIZES)
def test_sizes_and_branches_that_depend_on_data_are_refused(name: str) -> None:
    with pytest.raises(CaptureError):
        capture(Function(SIZES[name]), (t(6, 7),))


PLACES: dict[str, tuple[str, Model]] = {
    # where an element goes depends on how many came before it
    "masked_scatter": (
        "aten.masked_scatter", lambda x: torch.zeros_like(x).masked_scatter(x > 0, x.exp())
    ),
    "nonzero_static": (
        "aten.nonzero_static", lambda x: torch.nonzero_static(x > 0, size=6, fill_value=0) * 2
    ),
    "histc": (
        "aten.histc", lambda x: torch.histc(x, 6, -3.0, 3.0).exp()
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PLACES)
def test_values_that_depend_on_other_positions_stay_outside(name: str) -> None:
    op, model = PLACES[name]
    subject = analysed(Function(model), (t(6, 7),))
    place = subject.find(op)
    rank = len(subject.sized.nodes[place].output.shape)
    assert all(flow(subject.sized, place, dim, Prober()) is None for dim in range(rank))
    inside = [loop for loop in all_regions(subject.sized, EVERYTHING, Prober())
              if place in loop.region.nodes]  # fmt: skip
    assert not inside
