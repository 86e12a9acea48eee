"""Answers of an API: what the ``serve`` of a defense or an evasion returned, checked and brought to one form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from harness.contracts import Defense, Evasion, Key, Split, classes_of
from harness.errors import Blamed, OutOfMemory, Skip
from harness.nets import Net
from harness.planning.graph import Component

LEAST = -1e4
"""The logit of a class that an API rules out: its probability is 0, and a loss of squares stays finite."""


@dataclass
class ClientLog:
    """The log of one client of an API: the inputs that it answered otherwise than its net, each once."""

    inputs: list[Tensor] = field(default_factory=list)
    labels: list[Tensor] = field(default_factory=list)

    def add(self, x: Tensor, logits: Tensor, answers: Tensor) -> None:
        """Note the inputs ``x`` whose ``answers`` differ from the net's ``logits``, and are no refusals."""
        differs = (answers != finite(logits)).any(dim=1) & ~answers.isnan().any(dim=1)
        self.inputs.append(x[differs].clone())
        self.labels.append(classes_of(answers[differs]))

    def split(self) -> Split | None:
        """The inputs and the labels of the first answers to them; ``None`` where the client asked nothing."""
        if not self.inputs:
            return None
        log = Split(torch.cat(self.inputs), torch.cat(self.labels))
        return log[log.first_rows()]


def serves(use: Component) -> bool:
    """True if a defense's API answers otherwise than its net."""
    return type(use.plugin).serve is not Defense.serve


def of_owner(use: Component, key: Key, x: Tensor, logits: Tensor) -> Tensor:
    """The answers of the owner's API. It gets a copy of the inputs ``x``, which serve other stages too."""
    defense: Defense = use.plugin
    return _checked(use, lambda: defense.serve(x.clone(), logits.clone(), key), logits)


def of_thief(use: Component, net: Net, guard: Mapping[str, Tensor], x: Tensor, logits: Tensor) -> Tensor:
    """The answers of a thief's API: those of ``net``, through its filter."""
    evasion: Evasion = use.plugin
    return _checked(use, lambda: evasion.serve(net, x.clone(), logits.clone(), guard), logits)


def _checked(use: Component, serve: Callable[[], object], logits: Tensor) -> Tensor:
    """``serve()``: float32 ``[n, classes]``, finite, or NaN in all of a row: a refusal.

    Raises :class:`Blamed`, in the name of ``use``, where it fails or does not answer each row of ``logits``.
    """
    try:
        answers = serve()
    except (Skip, OutOfMemory, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise Blamed(f"{use}: {use.plugin.name}.serve fails ({type(error).__name__}: {error})") from error
    if not isinstance(answers, Tensor):
        odd = f"a {type(answers).__name__}"
    elif answers.shape != logits.shape:
        odd = f"{tuple(answers.shape)}"
    elif not answers.is_floating_point():
        odd = f"{str(answers.dtype).removeprefix('torch.')}: make them floats"
    elif answers.device.type == "meta" or answers.layout is not torch.strided:
        odd = f"a tensor of the layout {answers.layout} on the device {answers.device}"
    else:
        return finite(answers.detach().to(logits.device))
    raise Blamed(f"{use}: {use.plugin.name}.serve must return logits {tuple(logits.shape)}, not {odd}")


def finite(logits: Tensor) -> Tensor:
    """``logits`` ``[n, classes]`` of any float as float32 without infinities, and with NaN in whole rows only.

    A row with any NaN is a refusal. +inf is certainty: the classes that have it share the probability, no other has
    any. -inf rules a class out; a row of nothing else is a refusal too.
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    sure = wide.isposinf()
    refused = wide.isnan().any(dim=1, keepdim=True) | wide.isneginf().all(dim=1, keepdim=True)
    kept = torch.where(sure.any(dim=1, keepdim=True), torch.where(sure, 0.0, LEAST), wide)
    # A row of huge numbers is moved to 0, which changes no probability.
    best = kept.amax(dim=1, keepdim=True)
    kept = torch.where(best.abs() > -LEAST / 2, kept - best, kept).clamp_min(LEAST)
    return kept.masked_fill(refused, torch.nan).float()
