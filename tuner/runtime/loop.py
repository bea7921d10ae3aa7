"""The one loop that runs every chunked region."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Sliced:
    """A tensor is cut along ``dim``, ``factor`` positions to a unit."""

    dim: int
    factor: int


@dataclass(frozen=True, slots=True)
class Output:
    """An output that passes fill: shape and strides in elements, and which part a pass writes.

    ``donor`` is the place of an input whose storage it takes, or None to allocate it.
    """

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    cut: Sliced
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
    """

    def __init__(
        self,
        body: torch.fx.GraphModule,
        extent: int,
        chunk_size: int,
        inputs: tuple[Sliced | None, ...],
        outputs: tuple[Output, ...],
        tail: torch.fx.GraphModule | None = None,
    ) -> None:
        super().__init__()
        self.body = body
        self.tail = tail
        self.extent = extent
        self.chunk_size = chunk_size
        self.inputs = inputs
        self.outputs = outputs

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """The outputs, whole; a lone one without a tuple."""
        filled: list[torch.Tensor] = []
        for start in range(0, self.extent, self.chunk_size):
            length = min(self.chunk_size, self.extent - start)
            ragged = length < self.chunk_size and self.tail is not None
            made = (self.tail if ragged else self.body)(
                *(
                    tensor
                    if cut is None
                    else tensor.narrow(cut.dim, start * cut.factor, length * cut.factor)
                    for tensor, cut in zip(tensors, self.inputs, strict=True)
                ),
                start,
                length,
            )
            if not filled:
                filled = [
                    output.room(part, tensors)
                    for output, part in zip(self.outputs, made, strict=True)
                ]
            for whole, output, part in zip(filled, self.outputs, made, strict=True):
                cut = output.cut
                whole.narrow(cut.dim, start * cut.factor, length * cut.factor).copy_(part)
            del made, part  # else a chunk's results would live on beside the next chunk
        return filled[0] if len(filled) == 1 else tuple(filled)
