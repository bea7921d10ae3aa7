"""One capture, analysed at any length without the tensors of that length."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree

from search_space.eager_peak import eager_peak_bytes
from search_space.errors import ConfigError
from search_space.probe import Prober
from tuner.factory import Inputs, Subject
from tuner.runtime.analysis import Analysis
from tuner.runtime.captures import Captures

REAL_BYTES = 256 * 2**20
"""Inputs up to this size are made as they are; larger ones have shapes alone."""


class Sized:
    """A model captured once, at ``example``, and what static analysis says at other lengths.

    Raises:
        CaptureError: the model cannot be captured.
    """

    def __init__(self, subject: Subject, example: int) -> None:
        self.subject = subject
        self.captures = Captures(subject.model)
        args, kwargs = subject.inputs(example)
        self.captured = self.captures.locate(args, kwargs).captured
        self._probe = Prober()
        self.analysis = lru_cache(maxsize=4)(self._analysis)

    @property
    def weight_bytes(self) -> int:
        """Bytes of parameters and buffers, which no length changes."""
        model = self.subject.model
        tensors = {t.data_ptr(): t for t in (*model.parameters(), *model.buffers())}
        return sum(t.numel() * t.element_size() for t in tensors.values())

    def input_bytes(self, length: int) -> int:
        """Bytes of the inputs of a length."""
        leaves = pytree.tree_leaves(self._shaped(length))
        return sum(t.numel() * t.element_size() for t in leaves if isinstance(t, torch.Tensor))

    def given(self, length: int) -> Inputs:
        """The inputs of a length: real ones where they are small, else without data."""
        shaped = self._shaped(length)
        leaves = [t for t in pytree.tree_leaves(shaped) if isinstance(t, torch.Tensor)]
        if sum(t.numel() * t.element_size() for t in leaves) <= REAL_BYTES:
            return self.subject.inputs(length)

        def convert(tensor: torch.Tensor) -> torch.Tensor:
            if not tensor.is_floating_point() and tensor.numel() <= 1 << 16:
                # models look into small integer inputs, such as masks of what is padded
                return torch.ones(tensor.shape, dtype=tensor.dtype)
            return torch.empty_strided(
                tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta"
            )

        made: Inputs = pytree.tree_map_only(torch.Tensor, convert, shaped)
        return made

    def _shaped(self, length: int) -> Inputs:
        """Inputs with shapes and no data; real ones from functions that cannot go without."""
        try:
            with FakeTensorMode(allow_non_fake_inputs=True):
                return self.subject.inputs(length)
        except ConfigError:
            return self.subject.inputs(length)

    def _analysis(self, length: int) -> Analysis:
        """The analysis at a length.

        Raises:
            UnsupportedSizes: the capture does not hold there.
        """
        leaves: list[Any] = pytree.tree_leaves(self.given(length))
        shapes = tuple(tuple(leaves[place].shape) for place in self.captured.tensor_places)
        graph = self.captured.graph
        return Analysis.unmeasured(graph, graph.bind(shapes), self._probe)

    def eager_bytes(self, length: int) -> int:
        """The eager model's activation peak.

        Raises:
            CaptureError: it cannot be told without running the model.
        """
        args, kwargs = self.given(length)
        return eager_peak_bytes(self.subject.model, args, kwargs)

    def unchunked_bytes(self, length: int) -> int:
        """The captured model's peak without chunks."""
        return self.analysis(length).memory.profile().peak_bytes
