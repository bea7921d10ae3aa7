"""The one loop that runs every chunked region."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat

import torch


@dataclass(frozen=True, slots=True)
class Sliced:
    """A tensor is cut along ``dim``, ``factor`` positions to a unit."""

    dim: int
    factor: int


@dataclass(frozen=True, slots=True)
class Output:
    """An output that passes fill: shape and strides in elements, and which part a pass writes.

    ``donor`` is the place of an input whose storage it takes, or None to allocate it; ``dtype`` and
    ``device`` are what the capture told.
    """

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    cut: Sliced
    dtype: torch.dtype
    device: torch.device
    donor: int | None = None

    def room(self, part: torch.Tensor, tensors: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """The whole output, unwritten. The first chunk's real dtype decides, since autocast may
        have changed it; a donor of another one is left alone."""
        if self.donor is not None:
            donor = tensors[self.donor]
            if donor.dtype == part.dtype and donor.stride() == self.strides:
                return donor
        return torch.empty_strided(self.shape, self.strides, dtype=part.dtype, device=part.device)


class ChunkLoop(torch.nn.Module):
    """Runs a body over slices of its inputs and writes the slices of its outputs.

    Args:
        body: takes the inputs' slices (and whole inputs as they are), then ``start`` and
            ``length`` in units; gives a tuple with a slice of each output.
        extent: units in all.
        chunk_size: units a pass; the last pass takes what is left.
        inputs: per input how it is cut, or None to pass it whole.
        outputs: per output its layout.
        tail: the body of a ragged last pass, where that is another one.
        compiles: whether bodies are compiled where the plan is.
    """

    def __init__(
        self,
        body: torch.fx.GraphModule,
        extent: int,
        chunk_size: int,
        inputs: tuple[Sliced | None, ...],
        outputs: tuple[Output, ...],
        tail: torch.fx.GraphModule | None = None,
        compiles: bool = True,
    ) -> None:
        super().__init__()
        self.body = body
        self.tail = tail
        self.extent = extent
        self.chunk_size = chunk_size
        self.inputs = inputs
        self.outputs = outputs
        self.compiles = compiles

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """The outputs, whole; a lone one without a tuple.

        All slices of a tensor are made at once, and the body's code is called without a module's
        ceremony: a chunk costs little beyond its ops.
        """
        size, extent = self.chunk_size, self.extent
        columns = [
            repeat(tensor) if cut is None else torch.split(tensor, size * cut.factor, cut.dim)
            for tensor, cut in zip(tensors, self.inputs, strict=True)
        ]
        run = self.body.forward
        filled: list[torch.Tensor] = []
        rooms: Iterator[tuple[torch.Tensor, ...]] = iter(())
        for start, *given in zip(range(0, extent, size), *columns, strict=False):
            length = min(size, extent - start)
            if length < size and self.tail is not None:
                run = self.tail.forward
            made = run(*given, start, length)
            if not filled:
                filled = [
                    output.room(part, tensors)
                    for output, part in zip(self.outputs, made, strict=True)
                ]
                rooms = zip(*(
                    torch.split(whole, size * output.cut.factor, output.cut.dim)
                    for whole, output in zip(filled, self.outputs, strict=True)
                ), strict=True)  # fmt: skip
            for room, part in zip(next(rooms), made, strict=True):
                room.copy_(part)
            del made, part  # else a chunk's results would live on beside the next chunk
        return filled[0] if len(filled) == 1 else tuple(filled)
