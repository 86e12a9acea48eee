"""Memory of a worker: answers of models on an attacker's inputs, so that no stage computes what another has.

A victim is asked for the same labels by every retraining, and a surrogate for the same activation frequencies by every
fraction of a pruning sweep. Plugins know nothing of it: what they ask is recognised by its content.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

KEPT = 64
"""Results kept by a worker, the latest: a model's children come one after the other."""

T = TypeVar("T")


@dataclass
class ResultCache:
    """Results by (model, inputs, how many of them, what)."""

    _results: OrderedDict[tuple[str, str, int, str], Any] = field(default_factory=OrderedDict)

    def find(self, key: tuple[str, str, int, str], compute: Callable[[], T]) -> tuple[bool, T]:
        """True if the result of ``key`` was known; and a copy of it."""
        known = key in self._results
        if not known:
            self._results[key] = compute()
            if len(self._results) > KEPT:
                self._results.popitem(last=False)
        self._results.move_to_end(key)
        return known, _copied(self._results[key])


class Recalling(Protocol):
    """Memory of what was computed of a model on some inputs."""

    def recall(self, what: str, net: nn.Module, x: Tensor, compute: Callable[[], T]) -> tuple[bool, T]:
        """``compute()``, which depends on ``net`` and ``x`` alone, or what it was before; and whether it was known."""


@dataclass(frozen=True)
class SharedInputs:
    """A model and inputs as a stage lends copies of them to a plugin, and what the worker remembers of them."""

    memory: ResultCache
    model: str
    """The id of the stage that made the model; likewise what names the inputs."""
    net: nn.Module
    inputs: str
    x: Tensor

    def recall(self, what: str, net: nn.Module, x: Tensor, compute: Callable[[], T]) -> tuple[bool, T]:
        return self.find(what, x, compute) if self.holds(net, x) else (False, compute())

    def holds(self, net: nn.Module, x: Tensor) -> bool:
        """True if ``net`` and ``x`` are as they were lent."""
        return _first_of(x, self.x) and _same(net, self.net)

    def find(self, what: str, x: Tensor, compute: Callable[[], T]) -> tuple[bool, T]:
        """The same as :meth:`recall`, of what it holds."""
        return self.memory.find((self.model, self.inputs, len(x), what), compute)


@dataclass(frozen=True)
class Lent:
    """The memory as an attack is lent it: ``ask(what, net, x)`` gives what :meth:`recall` returns, or ``None``.

    It asks a service, which computes with a net of its own what it does not know: an attack reaches neither what other
    stages were answered, nor can it leave them anything.
    """

    ask: Callable[[str, nn.Module, Tensor], Any]

    def recall(self, what: str, net: nn.Module, x: Tensor, compute: Callable[[], T]) -> tuple[bool, T]:
        told: tuple[bool, T] | None = self.ask(what, net, x)
        return (False, compute()) if told is None else told


def _first_of(x: Tensor, inputs: Tensor) -> bool:
    """True if ``x`` holds the first of ``inputs``, unchanged."""
    return len(x) <= len(inputs) and x.dtype == inputs.dtype and torch.equal(x, inputs[: len(x)])


def _same(net: nn.Module, original: nn.Module) -> bool:
    """True if ``net`` still computes what ``original`` does: by the weights' values, since `.data` hides a change."""
    if net is original:
        return True
    now, then = net.state_dict(), original.state_dict()
    if type(net) is not type(original) or now.keys() != then.keys() or _is_hooked(net):
        return False
    return all(torch.equal(now[name], tensor) for name, tensor in then.items())


def _is_hooked(net: nn.Module) -> bool:
    """True if a hook listens to, or changes, what passes through a layer."""
    return any(layer._forward_hooks or layer._forward_pre_hooks or "forward" in vars(layer) for layer in net.modules())


def _copied(value: Any) -> Any:
    """Tensors, alone or by name, that share nothing with what is kept."""
    return {name: _copied(each) for name, each in value.items()} if isinstance(value, dict) else value.clone()
