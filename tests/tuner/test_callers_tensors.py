"""No tensor that a user can see is ever written to: inputs, weights, buffers, views, outputs.

Each model invites it: residuals whose first summand belongs to somebody, so that the loop's output
has the form of something that may seem to die in it. Every plan's outputs are written over with
garbage afterwards, and the same call must give the same again: what a call gives is the caller's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

from search_space.candidates import find_classes
from search_space.capture import flatten_output
from search_space.plan import Choice
from search_space.space import SearchSpace
from tests.tiny import EVERYTHING, Tiny, analysed, chunk_sizes, difference

WIDTH, LENGTH = 6, 10


def t(*shape: int) -> torch.Tensor:
    """Random floats."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


class Residual(nn.Module):
    """``first + mlp(first)``, twice, where ``first`` tells whose tensor it is.

    The model also holds a weight and a buffer of the activations' own form, and what it gives out
    shares storage with them, with its input, and with its own other outputs.
    """

    def __init__(self, first: Callable[[Any, torch.Tensor], Any]) -> None:
        super().__init__()
        self.first = first
        self.weight = nn.Parameter(t(2, LENGTH, WIDTH))
        self.register_buffer("table", t(2, LENGTH, WIDTH) * 2)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def step(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = x + self.down(torch.relu(self.up(x)))
        return y

    def forward(self, x: torch.Tensor) -> Any:
        start = self.first(self, x)
        shown = start if isinstance(start, tuple) else ()
        h = start[0] if isinstance(start, tuple) else start
        return (self.step(self.step(h)).sin(), *shown)


FIRST: dict[str, Callable[[Any, torch.Tensor], Any]] = {
    "an input": lambda m, x: x,
    "a weight": lambda m, x: m.weight,
    "a buffer": lambda m, x: m.table,
    "a constant": lambda m, x: torch.tensor([[[0.5] * WIDTH] * LENGTH]),
    "a view of an input": lambda m, x: x.transpose(0, 1).transpose(0, 1),
    "a view of a weight": lambda m, x: m.weight.view(2 * LENGTH, WIDTH),
    "a part of a buffer": lambda m, x: m.table[1:],
    "an input, reshaped": lambda m, x: x.reshape(-1, WIDTH),
    "an input, expanded": lambda m, x: x[:1].expand(2, -1, -1),
    "an input, made contiguous": lambda m, x: x.contiguous().to(x.dtype),
    "an input through a layer that does nothing": lambda m, x: nn.functional.dropout(x, 0.5, False),
    "an input in parts": lambda m, x: torch.split(x, LENGTH // 2, 1)[1],
    "an intermediate that is an output, twice": lambda m, x: (x.cos(),) * 2,
    "an intermediate, with a view as an output": lambda m, x: _twice(x.cos()),
    "an intermediate whose view is an output": lambda m, x: _with_view(x.cos()),
    "a copy whose view is an output": lambda m, x: _with_view(x.clone()),
    "an intermediate, copied": lambda m, x: _copied(x.cos()),
    "an intermediate": lambda m, x: x.cos(),
}


def _twice(h: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return h, h.mT


def _with_view(h: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return h, h.transpose(0, 1)[1:]


def _copied(h: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return h, h.clone().view(-1), h


@pytest.fixture(scope="module", params=FIRST)
def subject(request: pytest.FixtureRequest) -> Tiny:
    torch.manual_seed(0)
    return analysed(Residual(FIRST[request.param]).eval(), (t(2, LENGTH, WIDTH),))


def plans(subject: Tiny) -> Iterator[tuple[Choice, ...]]:
    """No choice, every class alone at several sizes, and all classes at once."""
    yield ()
    classes = find_classes(subject.memory, EVERYTHING)
    for item in classes:
        for size in chunk_sizes(item.extent):
            yield (Choice(item.regions, size),)
    space = SearchSpace(subject.memory, classes)
    for size in (1, 3):
        yield space.decode({item.key: size for item in space.classes}).choices


def users_tensors(subject: Tiny) -> list[torch.Tensor]:
    """All that belongs to the caller, and what the trace made constant."""
    model = subject.model
    return [*subject.args, *model.parameters(), *model.buffers(),
            *subject.captured.constants.values()]  # fmt: skip


def test_nothing_of_the_callers_is_written_to(subject: Tiny) -> None:
    owned = users_tensors(subject)
    before = [tensor.detach().clone() for tensor in owned]
    versions = [tensor._version for tensor in owned]
    for choices in plans(subject):
        module = subject.module(choices)
        with torch.no_grad():
            first = module(*subject.args)
            kept = [tensor.clone() for tensor in first]
            again = module(*subject.args)
        assert difference(first, kept, 0) == "", f"a later call wrote to outputs: {choices}"
        assert difference(again, subject.expected) == "", choices
    assert [tensor._version for tensor in owned] == versions
    for tensor, copy in zip(owned, before, strict=True):
        torch.testing.assert_close(tensor, copy, rtol=0, atol=0)


def shares(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


def test_outputs_share_storage_only_where_the_models_own_do(subject: Tiny) -> None:
    """A user who writes to an output must not thereby change what the eager model would not."""
    with torch.no_grad():
        expected, _ = flatten_output(subject.model(*subject.args))
    owned = users_tensors(subject)
    for choices in plans(subject):
        made = subject.run(choices)
        known = [(tensor, tensor) for tensor in owned]
        for place, (one, wanted) in enumerate(zip(made, expected, strict=True)):
            for other, own in (*known, *zip(made[:place], expected, strict=False)):
                if shares(one, other):
                    assert shares(wanted, own), f"output {place} aliases more: {choices}"


def test_storage_is_taken_where_it_is_nobodys() -> None:
    """Else the tests above would show nothing: an intermediate of the same model is donated."""
    subject = analysed(Residual(FIRST["an intermediate"]).eval(), (t(2, LENGTH, WIDTH),))
    donated = {
        donor
        for choices in plans(subject)
        for found in subject.memory.profile(choices).donations
        for donor in found.values()
    }
    assert donated
