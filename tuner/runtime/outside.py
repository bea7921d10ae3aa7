"""What is alive around the targets while a model runs.

A memory budget is meant for the whole model. While a target runs, the activations that its callers
hold stay alive, its own inputs among them; the target's memory model does not see them. With

- ``o(t)`` the bytes alive when target t begins, beyond weights and the model's inputs,
- ``p(t)`` the peak of t's plan, beyond weights and t's inputs, and
- ``m`` the most bytes alive while no target runs,

the peak of the whole model is ``max(m, max over t of o(t) + p(t))``. A run on tensors without data
gives o and m without computing anything; where the model cannot run so, a real run does, and
must not itself need the memory that is to be saved: its targets then run their lowest plans.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from search_space.called_op import called_bytes
from search_space.eager_peak import _Counter, _run
from search_space.errors import CaptureError


class Outside:
    """Counts the bytes alive in a run, apart for the times inside and outside of targets."""

    def __init__(self) -> None:
        self._counter = _Counter()
        self._outside_peak = 0
        self._inside_peak = 0

    @property
    def outside_peak_bytes(self) -> int:
        """The most that was alive while no target ran."""
        return max(self._outside_peak, self._counter.peak)

    @property
    def peak_bytes(self) -> int:
        """The most that was alive at all."""
        return max(self.outside_peak_bytes, self._inside_peak)

    @property
    def live_bytes(self) -> int:
        """Alive now, beyond weights and the model's inputs."""
        return self._counter.live

    def inside(self, run: Callable[[], Any]) -> Any:
        """Run a target."""
        counter = self._counter
        self._outside_peak = max(self._outside_peak, counter.peak)
        counter.peak = counter.live
        result = run()
        self._inside_peak = max(self._inside_peak, counter.peak)
        counter.peak = counter.live
        return result

    def without_data(
        self, model: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        """Run the model on tensors that have shapes alone.

        Raises:
            CaptureError: it cannot run so.
        """
        try:
            _run(self._counter, model, tuple(args), dict(kwargs))
        except Exception as error:  # whatever the model's own code raises without data
            reason = str(error).strip().splitlines()
            raise CaptureError(
                f"the model cannot run on tensors without data: {type(error).__name__}: "
                f"{reason[0] if reason else 'no message'}"
            ) from error

    def with_data(
        self, model: torch.nn.Module, call: Callable[[], Any], inputs: Any
    ) -> Any:
        """Run a call of the model for real, and give its result.

        Kernels' own buffers are counted as :mod:`search_space.workspace` knows them.
        """
        tensors = [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, torch.Tensor)]
        for tensor in (*model.parameters(), *model.buffers(), *tensors):
            self._counter.ignore(tensor)
        with torch.no_grad(), _Counting(self._counter):
            return call()

    def uncounted(self, run: Callable[[], Any]) -> Any:
        """Run a target for real: only what it returns is counted."""
        with _disable_current_modes():
            result = run()
        for leaf in pytree.tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._counter.meet(leaf)
        return result


class _Counting(TorchDispatchMode):
    """Counts every new storage of a real run."""

    def __init__(self, counter: _Counter) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._counter = counter

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        leaves = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        for leaf in leaves:
            self._counter.meet(leaf)
        if leaves:
            # (beside the outputs, which are alive by now)
            self._counter.transient(called_bytes(func, args, kwargs or {}, leaves[0]))
        return result
