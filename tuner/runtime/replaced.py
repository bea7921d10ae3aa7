"""A module's forward, replaced for a time and put back exactly.

The replacement is an attribute of the one module, so that its class, its weights, its state dict
and the hooks that users put on it stay as they are: ``module(...)`` runs its hooks and then the
replacement.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import torch
from torch.nn.modules import module as torch_module

from search_space.errors import CaptureError, ConfigError

_HOOKS = ("_forward_pre_hooks", "_forward_hooks")


class Replaced:
    """Calls ``run(args, kwargs)`` wherever the module's forward was called.

    Attributes:
        own: the forward that this very module had of its own, or None for its class's.

    Raises:
        ConfigError: the module's forward is replaced already.
        CaptureError: it cannot be replaced.
    """

    def __init__(
        self,
        name: str,
        module: torch.nn.Module,
        run: Callable[[tuple[Any, ...], dict[str, Any]], Any],
    ) -> None:
        if isinstance(vars(module).get("forward"), Replaced):
            raise ConfigError(
                f"{name or 'the model'!r} runs a plan already; call remove() of the earlier "
                "apply(..., targets=...) first"
            )
        if isinstance(module, torch.jit.ScriptModule):
            raise CaptureError(f"{name or 'the model'!r} is a scripted module; target Python ones")
        if vars(module).get("_compiled_call_impl") is not None:
            raise CaptureError(
                f"{name or 'the model'!r} was compiled in place by module.compile(), whose code "
                "would not see the replacement; apply the plan to the uncompiled module"
            )
        self.name = name
        self.module = module
        self._run = run
        self.own = vars(module).get("forward")
        forward = module.forward
        self.__doc__ = forward.__doc__
        with contextlib.suppress(TypeError, ValueError):  # some have no readable signature
            self.__signature__ = inspect.signature(forward)
        self._inner = tuple(m for m in module.modules() if m is not module)
        module.forward = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._run(args, kwargs)

    def original(self, *args: Any, **kwargs: Any) -> Any:
        """What forward was before."""
        if self.own is not None:
            return self.own(*args, **kwargs)
        return type(self.module).forward(self.module, *args, **kwargs)

    def remove(self) -> None:
        """Put the original back. Does nothing where that was done before.

        Raises:
            ConfigError: somebody else replaced the forward afterwards.
        """
        now = vars(self.module).get("forward")
        if now is self:
            self._restore()
        elif isinstance(getattr(now, "__wrapped__", None), Replaced):
            raise ConfigError(
                f"the forward of {self.name or 'the model'!r} was wrapped after the plan was "
                "applied; undo that first, then remove()"
            )

    def _restore(self) -> None:
        if self.own is None:
            vars(self.module).pop("forward", None)
        else:
            self.module.forward = self.own

    @contextlib.contextmanager
    def bare(self) -> Iterator[torch.nn.Module]:
        """The module as it was, without hooks of its own: those run around the replacement."""
        kept = {name: vars(self.module)[name] for name in _HOOKS}
        self._restore()
        vars(self.module).update({name: OrderedDict() for name in _HOOKS})
        try:
            yield self.module
        finally:
            vars(self.module).update(kept)
            self.module.forward = self

    def check_hooks(self) -> None:
        """See that nothing is left out where the modules inside are not called one by one.

        Raises:
            CaptureError: a module inside carries a hook, which the plan would not run.
        """
        for module in self._inner:
            if has_hooks(module):
                inner = next(n for n, m in self.module.named_modules() if m is module)
                raise CaptureError(
                    f"module {inner!r} inside the target {self.name!r} carries a forward hook, "
                    "which a captured graph would not run; remove the hook (a request such as "
                    "output_attentions sets some), or target smaller submodules: hooks on a "
                    "target itself do run"
                )
        if torch_module._global_forward_pre_hooks or torch_module._global_forward_hooks:
            raise CaptureError(
                "a global forward hook is registered, which captured modules would not run; "
                "remove it"
            )

    def __deepcopy__(self, memo: Any) -> NoReturn:
        self._refuse()

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise ConfigError(
            "a model with targets applied cannot be copied or pickled, since the copy would run "
            "with the weights of the original; call remove() first, or save its state_dict()"
        )


def has_hooks(module: torch.nn.Module, *, idle: bool = False) -> bool:
    """Whether a module carries hooks that do something now.

    Args:
        idle: count those of transformers as well, which it leaves on modules once any of their
            outputs was asked for, and which do nothing unless that is asked for again.
    """
    return bool(module._forward_pre_hooks) or any(
        idle or not _is_idle(hook) for hook in module._forward_hooks.values()
    )


_RECORDER = "transformers.utils.output_capturing"


def _is_idle(hook: Any) -> bool:
    if getattr(hook, "__module__", "") != _RECORDER or _RECORDER not in sys.modules:
        return False
    try:
        wanted = sys.modules[_RECORDER]._active_collector.get()
        key = inspect.getclosurevars(hook).nonlocals["key"]
    except (AttributeError, KeyError, TypeError):  # another version, about which nothing is known
        return False
    return wanted is None or key not in wanted


@contextlib.contextmanager
def unchanged(model: torch.nn.Module) -> Iterator[None]:
    """Undo whatever a run without data sets on the model's modules, such as tables that they make
    at their first call: those would be without data for ever."""
    states = [(vars(module), dict(vars(module))) for module in model.modules()]
    # one level down as well: weights, hooks, and what modules keep in dicts and lists of their own
    inner = [
        (value, copy.copy(value))
        for _, state in states
        for value in state.values()
        if type(value) in (dict, OrderedDict, list, set)
    ]
    try:
        yield
    finally:
        for now, before in (*states, *inner):
            now.clear()
            if isinstance(now, list):
                now.extend(before)
            else:
                now.update(before)
