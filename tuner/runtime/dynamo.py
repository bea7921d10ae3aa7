"""``torch.compile(model, backend="autochunk", options={"plans": "plans/"})``.

Dynamo's graphs go through the same capture as any model. What dynamo hands over as inputs is sorted
out first, so that the captured graph is the one that the model itself gives:

- parameters and buffers are the graph's weights again, not inputs of each call;
- sizes (where dynamo was told ``dynamic=True``, or has met a second length) are read off the
  tensors, so that they stay symbolic in the capture and one capture serves all lengths;
- floats, which dynamo then gives as tensors (a norm's epsilon among them), are numbers again: one
  capture for each value.

Without ``dynamic=True`` dynamo fixes all sizes at the first length, and plans tuned for the model
(whose graph is symbolic) are not found there.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from search_space.errors import CaptureError, ConfigError
from tuner.runtime.applied import Applied
from tuner.runtime.wish import Wish, make_wish

log = logging.getLogger("autochunk")

OPTIONS = ("plans", "memory_budget", "memory")


def autochunk(
    graph: fx.GraphModule,
    example_inputs: Sequence[Any],
    *,
    options: Mapping[str, Any] | None = None,
) -> Callable[..., Any]:
    """The backend, for dynamo to call.

    Args:
        options: ``plans``, ``memory_budget`` and ``memory``, as for :func:`tuner.apply`.

    Raises:
        ConfigError: an option is unknown, or has no such value.
        CaptureError: gradients would be needed.
    """
    if torch.is_grad_enabled() and any(
        isinstance(value, torch.Tensor) and value.requires_grad for value in example_inputs
    ):
        raise CaptureError(
            "the backend autochunk is for inference and records no gradients; call the compiled "
            "model under torch.inference_mode() or torch.no_grad()"
        )
    model = WithWeights(graph)
    return _Compiled(model, make_wish(model, **_checked(options or {})))


class WithWeights(torch.nn.Module):
    """A graph of dynamo's that owns its weights and takes only the caller's own inputs."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__()
        self.graph = graph
        self._sources: list[Callable[[Sequence[torch.Tensor]], Any]] = []
        self.weights: dict[int, str] = {}
        self.inputs: list[int] = []
        placeholders = [node for node in graph.graph.nodes if node.op == "placeholder"]
        self._numbers = {k for k, node in enumerate(placeholders) if _made_number(graph, node)}
        graph.recompile()
        for place, node in enumerate(placeholders):
            if _is_weight(node):
                self._own(place, str(node.name), node.meta["grapharg"].example)
            elif not isinstance(node.meta.get("example_value"), torch.SymInt):
                self.inputs.append(place)
        self._order = [self._source(place, placeholders) for place in range(len(placeholders))]
        self.eval()

    def forward(self, *inputs: Any) -> Any:
        """The graph's flat outputs."""
        return self.graph(*(source(inputs) for source in self._order))

    def accept(self, values: Sequence[Any]) -> list[Any]:
        """The caller's own inputs among all that dynamo gives; weights that were replaced since are
        taken over."""
        for place, name in self.weights.items():
            table = self._parameters if name in self._parameters else self._buffers
            if table[name] is not values[place]:
                table[name] = values[place]
        return [
            values[place].item() if place in self._numbers else values[place]
            for place in self.inputs
        ]

    def _own(self, place: int, name: str, value: torch.Tensor) -> None:
        self.weights[place] = name
        if isinstance(value, torch.nn.Parameter):
            self.register_parameter(name, value)
        else:
            self.register_buffer(name, value)

    def _source(self, place: int, nodes: Sequence[fx.Node]) -> Callable[[Sequence[Any]], Any]:
        """Where a value of the graph's comes from at a call."""
        if place in self.weights:
            name = self.weights[place]
            return lambda _: getattr(self, name)
        if place in self.inputs:
            return _item(self.inputs.index(place))
        size = nodes[place].meta["example_value"].node.expr
        for number, other in enumerate(self.inputs):
            tensor = nodes[other].meta.get("example_value")
            for dim, extent in enumerate(tensor.shape if isinstance(tensor, torch.Tensor) else ()):
                if isinstance(extent, torch.SymInt) and extent.node.expr == size:
                    return _extent(number, dim)
        self.inputs.append(place)  # a number that no tensor has as a size
        return _item(len(self.inputs) - 1)


def _item(number: int) -> Callable[[Sequence[Any]], Any]:
    return lambda inputs: inputs[number]


def _extent(number: int, dim: int) -> Callable[[Sequence[Any]], Any]:
    return lambda inputs: inputs[number].shape[dim]


def _made_number(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether an input stands for a float, of which the graph only takes the value: then it is
    given that value itself."""
    argument = node.meta.get("grapharg")
    users = list(node.users)
    if not getattr(argument, "pass_arg_as_tensor", False) or not users:
        return False
    if any(user.op != "call_method" or user.target != "item" for user in users):
        return False
    for user in users:
        user.replace_all_uses_with(node)
        graph.graph.erase_node(user)
    return True


def _is_weight(node: fx.Node) -> bool:
    """Whether dynamo found a tensor among a module's parameters or buffers."""
    if not isinstance(node.meta.get("example_value"), torch.Tensor):
        return False
    argument = node.meta.get("grapharg")
    source = "" if argument is None else str(argument.source.name)
    return "._parameters[" in source or "._buffers[" in source


class _Compiled:
    """Runs calls by plans; a graph that cannot be captured runs as it is, and says so."""

    def __init__(self, model: WithWeights, wish: Wish) -> None:
        self._model = model
        self._run: Callable[..., Any] = Applied(model, wish)

    def __call__(self, *values: Any) -> Any:
        inputs, run = self._model.accept(values), self._run
        try:
            return run(*inputs)
        except CaptureError as error:
            if run is self._model:
                raise
            log.warning("autochunk: a graph of torch.compile's stays unchunked: %s", error)
            self._run = self._model
        return self._model(*inputs)


def _checked(options: Mapping[str, Any]) -> Mapping[str, Any]:
    for name in options:
        if name not in OPTIONS:
            near = difflib.get_close_matches(str(name), OPTIONS, 1, 0.5)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(
                f"the backend autochunk has no option {name!r}, only {', '.join(OPTIONS)}{hint}"
            )
    return options
