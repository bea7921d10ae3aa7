"""The eager model's own activation peak, without computing anything.

The model runs on tensors that have shapes but no data; every new storage is counted from its first
sight to its end. Fused attention is one op here, as it is on the device; without data it would fall
apart into products that the real kernel never stores.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from search_space.called_op import called_bytes
from search_space.errors import CaptureError
from search_space.forgotten import caches_forgotten
from search_space.layout import Layout
from search_space.workspace import Call, Operand, workspace_bytes


class _Counter:
    """Bytes alive, and the most there ever were."""

    def __init__(self) -> None:
        self.live = 0
        self.peak = 0
        self._seen: set[int] = set()

    def ignore(self, tensor: torch.Tensor) -> None:
        """What belongs to the caller or the model does not count."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._seen:
            self._seen.add(key)
            # another storage may come to lie where this one lay
            weakref.finalize(storage, self._seen.discard, key)

    def meet(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._seen:
            return
        self._seen.add(key)
        size = storage.nbytes()
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._leave, key, size)

    def _leave(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.live -= size

    def transient(self, size: int) -> None:
        """Bytes that an op needs beside its output."""
        self.peak = max(self.peak, self.live + size)


_REAL_ELEMENTS = 1 << 16
"""Tensors that are told from the inputs' integers alone have data up to this size, since models
look into them (is anything padded? is this a packed sequence?). Larger ones, such as masks, have
none."""


_LIFT = torch.ops.aten.lift_fresh.default
"""Gives out as new what ``torch.tensor`` has just made."""

_TO = torch.ops.aten._to_copy.default


class _Sizes(TorchDispatchMode):
    """Runs ops on tensors without data wherever one of their arguments has none, and counts every
    new storage. To the model the meta device and its own are the same."""

    def __init__(self, counter: _Counter, device: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._counter = counter
        self._device = device

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        if func is not _LIFT:
            for tensor in tensors:  # what no op has made is the model's, though neither weight...
                self._counter.ignore(tensor)  # ...nor buffer, such as a table of frequencies
        if func is _TO and self._is_there(args[0], kwargs):
            return args[0]
        if any(tensor.is_meta for tensor in tensors):
            result = func(*_without_data(args), **_without_data(kwargs))
            if func._schema.name.endswith("_") and not args[0].is_meta:
                return args[0]  # one with data, into which something without was written
        else:
            result = self._with_data(func, args, kwargs)
        leaves = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        for leaf in leaves:
            self._counter.meet(leaf)
        if leaves and _is_told(func, args, leaves[0], self._device):
            self._counter.transient(called_bytes(func, args, kwargs, leaves[0], self._device))
        return result

    def _is_there(self, tensor: torch.Tensor, kwargs: Mapping[str, Any]) -> bool:
        """Whether a tensor is moved to where it is: asked of a CPU's model, whose other tensors
        have no data, a move that is none arrives here all the same."""
        if tensor.is_meta or tensor.device.type != self._device or kwargs.get("device") is None:
            return False
        return kwargs["device"].type == "meta" and kwargs.get("dtype") in (None, tensor.dtype)

    def _with_data(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        if "device" in kwargs:
            kwargs = {**kwargs, "device": torch.device("cpu")}
        alias = any(r.alias_info is not None for r in func._schema.returns)
        if not alias and torch.Tag.data_dependent_output not in func.tags:
            sized = func(*_without_data(args), **_without_data(kwargs))
            leaves = [t for t in pytree.tree_leaves(sized) if isinstance(t, torch.Tensor)]
            if sum(t.numel() for t in leaves) > _REAL_ELEMENTS:
                return sized
        return func(*args, **kwargs)


def _is_told(func: Any, args: tuple[Any, ...], made: torch.Tensor, device: str) -> bool:
    """Whether what a kernel takes beside its output is known, and not only bounded from above: a
    fraction of too high a peak would be no limit."""
    if device != "cpu" or made.dtype not in (torch.float32, torch.float64):
        return False
    if func._schema.name != "aten::convolution":
        return True
    image, transposed, groups = args[0], args[6], args[8]
    return not transposed and groups in (1, image.shape[1])


def _without_data(value: Any) -> Any:
    """The same with every tensor and device on the meta device. (What could take a gradient is
    multiplied otherwise.)"""

    def convert(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor) and not leaf.is_meta:
            made = torch.empty_strided(leaf.shape, leaf.stride(), dtype=leaf.dtype, device="meta")
            return made.requires_grad_(leaf.requires_grad)
        return torch.device("meta") if isinstance(leaf, torch.device) else leaf

    return pytree.tree_map(convert, value)


class _WholeAttention(TorchFunctionMode):
    """Fused attention as one op: its output, and the workspace that its kernel takes."""

    def __init__(self, counter: _Counter, device: str) -> None:
        super().__init__()
        self._counter = counter
        self._device = device

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not _ATTEND:
            return func(*args, **kwargs)
        return self.attend(*args, **kwargs)

    def attend(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """In the place of fused attention."""
        given = {**dict(zip(_ATTENTION, args, strict=False)), **kwargs}
        query: torch.Tensor = given["query"]
        value: torch.Tensor = given["value"]
        # the kernel lays its output out as (batch, length, heads, features)
        shape = (*query.shape[:-1], value.shape[-1])
        if query.dim() == 4:
            made = query.new_empty((shape[0], shape[2], shape[1], shape[3])).transpose(1, 2)
        else:
            made = query.new_empty(shape)
        self._counter.transient(_attention_workspace(given, self._device))
        return made


_ATTEND = torch.nn.functional.scaled_dot_product_attention

_ATTENTION = (
    "query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa"
)  # fmt: skip


def _attention_workspace(given: Mapping[str, Any], device: str) -> int:
    tensors = [given[name] for name in _ATTENTION[:4] if given.get(name) is not None]
    operands = tuple(
        Operand(k, Layout(tuple(t.shape), tuple(t.stride())), str(t.dtype).removeprefix("torch."))
        for k, t in enumerate(tensors)
    )
    dtype = str(tensors[0].dtype).removeprefix("torch.")
    flags = tuple((name, bool(given.get(name))) for name in ("is_causal", "enable_gqa"))
    call = Call(operands, (), tuple(tensors[0].shape), dtype, device, flags)
    return workspace_bytes("aten.scaled_dot_product_attention.default", call)


@contextlib.contextmanager
def _autocast_asked_of(device: str) -> Iterator[None]:
    """Model code that asks for the autocast state of its tensors' device gets the real device's:
    torch has none for tensors without data, and raises."""
    asked = ("get_autocast_dtype", "is_autocast_enabled")
    originals = {name: getattr(torch, name) for name in asked}

    def redirected(name: str) -> Callable[..., Any]:
        def ask(*args: Any, **kwargs: Any) -> Any:
            told = {key: device if arg == "meta" else arg for key, arg in kwargs.items()}
            return originals[name](*(device if arg == "meta" else arg for arg in args), **told)

        return ask

    for name in asked:
        setattr(torch, name, redirected(name))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(torch, name, original)


@contextlib.contextmanager
def _attention_inside(attention: _WholeAttention) -> Iterator[None]:
    """Functions of torch that fused attention is a part of, such as that of ``MultiheadAttention``,
    call it where no mode sees it."""
    functional: Any = torch.nn.functional
    before = functional.scaled_dot_product_attention
    if before is _ATTEND:  # (else it is somebody's own, who calls torch's where a mode sees it)
        functional.scaled_dot_product_attention = attention.attend
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = before


def eager_peak_bytes(
    model: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None
) -> int:
    """Peak bytes of activations of a call of the eager model: all that is alive beyond weights
    and inputs, outputs included. (The fast paths of ``torch.nn``'s transformer layers are told as
    the plain ones, which take less.)

    Raises:
        CaptureError: the model cannot run on tensors without data.
    """
    counter = _Counter()
    if any(torch.is_autocast_enabled(kind) for kind in ("cpu", "cuda")):
        raise CaptureError("under autocast, tensors without data are not cast as others are")
    try:
        _run(counter, model, tuple(args), dict(kwargs or {}))
    except Exception as error:  # whatever the model's own code raises without data
        reason = str(error).strip().splitlines()
        raise CaptureError(
            "the eager model's peak cannot be told without running it: "
            f"{type(error).__name__}: {reason[0] if reason else 'no message'}"
        ) from error
    return counter.peak


def _run(
    counter: _Counter, model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    known: dict[int, torch.Tensor] = {}
    devices: list[str] = []

    def convert(tensor: torch.Tensor) -> torch.Tensor:
        devices.append(tensor.device.type)
        if id(tensor) not in known:
            integer = not (tensor.is_floating_point() or tensor.is_complex())
            small = tensor.numel() <= _REAL_ELEMENTS
            known[id(tensor)] = tensor.cpu() if integer and small else _without_data(tensor)
            counter.ignore(known[id(tensor)])
        return known[id(tensor)]

    weights = {
        name: convert(tensor)
        for name, tensor in (
            *model.named_parameters(remove_duplicate=False),
            *model.named_buffers(remove_duplicate=False),
        )
    }
    given, keywords = pytree.tree_map_only(torch.Tensor, convert, (args, kwargs))
    device = next(iter(devices), "cpu")
    attention = _WholeAttention(counter, device)
    asked, sizes = _autocast_asked_of(device), _Sizes(counter, device)
    inside = _attention_inside(attention)
    with torch.no_grad(), caches_forgotten(), asked, sizes, inside, attention:
        torch.func.functional_call(model, weights, given, keywords, strict=False)
