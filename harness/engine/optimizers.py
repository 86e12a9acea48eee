"""Optimizers and learning-rate schedules of a training, by the names that a recipe gives them.

The rates of a whole training are known before it begins. They lie on the device, and a counter there says which is
next, so a step asks the host for nothing, and a captured one replays with the right rate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias, get_args

import torch
from torch import Tensor, nn

from harness.contracts import Dataset, Optimization, Optimizer, Recipe, Schedule
from harness.errors import UnknownName

# The released EWE code's Adam, which the prototypes behind the recipes used for every model.
BETAS = (0.9, 0.99)
EPSILON = 1e-5

ONE_CYCLE_WARMUP = 0.3
ONE_CYCLE_START, ONE_CYCLE_END = 1 / 25, 1 / 25e4
"""Rates of ``one-cycle`` at its first and last step, as shares of its peak: PyTorch's ``OneCycleLR`` by default."""


def changed(recipe: Recipe, settings: Optimization) -> Recipe:
    """``recipe`` with the ``settings`` that are not ``None``, which keep the bounds of a dataset's options.

    Raises :class:`UnknownName` or :class:`OptionError`.
    """
    given: dict[str, Any] = {name: value for name, value in settings.items() if value is not None}
    known = Optimization.__annotations__
    for name, value in given.items():
        if name not in known:
            raise UnknownName("setting of a training", name, known)
        Dataset._declarations[name].check(name, value)
        if name in CHOICES and value not in CHOICES[name]:
            raise UnknownName(name, str(value), CHOICES[name])
    return replace(recipe, **given)


CHOICES: Mapping[str, tuple[str, ...]] = {"optimizer": get_args(Optimizer), "schedule": get_args(Schedule)}


# --- schedules --------------------------------------------------------------------------------------------------------


def rates(recipe: Recipe, steps: int) -> list[float]:
    """The learning rate of each of ``steps`` steps, 1 or more: all above 0, the largest is ``recipe.learning_rate``.

    The rate rises to its peak over the share ``warmup`` of the steps, the last of which has it; without a warm-up the
    first step has it. What is left after the peak follows the schedule:

    - ``constant``: the peak.
    - ``cosine``: half a cosine (Loshchilov and Hutter 2017, without restarts), which would be 0 after the last step.
    - ``steps``: a tenth after half of what is left, a hundredth after three quarters (He et al. 2016).
    - ``one-cycle``: half a cosine down to 1/250,000 of the peak at the last step.

    A warm-up is linear (Goyal et al. 2017: k/W of the peak at step k of W). That of ``one-cycle`` is 0.3 of the steps
    by default, and half a cosine up from 1/25: with the fall it is ``torch.optim.lr_scheduler.OneCycleLR`` (Smith and
    Topin 2018) with a constant momentum.
    """
    one_cycle = recipe.schedule == "one-cycle"
    warmup = recipe.warmup if recipe.warmup is not None else ONE_CYCLE_WARMUP * one_cycle
    peak = max(0, round(warmup * steps) - 1)
    if one_cycle:
        rising = [_cosine(ONE_CYCLE_START, 1, i / peak) for i in range(peak)]
        left = max(1, steps - 1 - peak)
        falling = [_cosine(1, ONE_CYCLE_END, i / left) for i in range(steps - peak)]
    else:
        rising = [(i + 1) / (peak + 1) for i in range(peak)]
        falling = [FALLS[recipe.schedule](i / (steps - peak)) for i in range(steps - peak)]
    return [recipe.learning_rate * share for share in (*rising, *falling)]


def _cosine(start: float, end: float, place: float) -> float:
    """The value at ``place``, 0 to 1, of half a cosine from ``start`` to ``end``."""
    return end + (start - end) * (1 + math.cos(math.pi * place)) / 2


FALLS: Mapping[str, Callable[[float], float]] = {
    "constant": lambda place: 1.0,
    "cosine": lambda place: _cosine(1, 0, place),
    "steps": lambda place: 1.0 if place < 0.5 else 0.1 if place < 0.75 else 0.01,
}
"""Shares of the peak, by the share of the steps from the peak on that are done, 0 to below 1."""


# --- steps ------------------------------------------------------------------------------------------------------------


class RecipeOptimizer:
    """The optimizer of a recipe for one training: its rates, weight decay and clipping."""

    def __init__(self, recipe: Recipe, parameters: Sequence[nn.Parameter], steps: int) -> None:
        """``steps`` are those of the whole training; ``parameters``, 1 or more, are on one device."""
        self._parameters, self._clip_norm = parameters, recipe.clip_norm
        self.words = f"{recipe.optimizer} with learning_rate={recipe.learning_rate:g}"
        self._device = parameters[0].device
        planned = rates(recipe, max(1, steps))
        self._rate: Tensor | None = None
        # A constant rate is a number, not a tensor: what such a step computes stays the same bit for bit.
        if len({*planned}) > 1:
            self._rates = torch.tensor(planned, dtype=torch.float32, device=self._device)
            self._place = torch.zeros(1, dtype=torch.int64, device=self._device)
            self._rate = self._rates[:1].clone()
        self._optimizer = self._made(recipe, recipe.learning_rate if self._rate is None else self._rate)

    def _made(self, recipe: Recipe, rate: float | Tensor) -> torch.optim.Optimizer:
        groups = decaying(self._parameters, recipe.weight_decay)
        if recipe.optimizer == "sgd":
            # Fused, it takes a rate that is a tensor without asking for its value: it has no `capturable` to set.
            return torch.optim.SGD(groups, rate, recipe.momentum, nesterov=recipe.momentum > 0, fused=True)
        adam = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
        on_gpu = self._device.type == "cuda"
        return adam(groups, rate, BETAS, EPSILON, weight_decay=0.0, fused=True, capturable=on_gpu)

    def zero_grad(self) -> None:
        self._optimizer.zero_grad(set_to_none=True)

    def step(self) -> None:
        """Move the parameters by their gradients, by operations on the device alone."""
        if self._clip_norm:
            nn.utils.clip_grad_norm_(self._parameters, self._clip_norm)
        if self._rate is not None:
            torch.index_select(self._rates, 0, self._place, out=self._rate)
            self._place += 1
        self._optimizer.step()


Stepping: TypeAlias = RecipeOptimizer | torch.optim.Optimizer


def words_of(optimizers: Sequence[Stepping]) -> str:
    """Words on the optimizers of a training and their learning rates."""
    return " and ".join(
        each.words
        if isinstance(each, RecipeOptimizer)
        else f"{type(each).__name__} with lr={float(each.param_groups[0]['lr']):g}"
        for each in optimizers
    )


def decaying(parameters: Sequence[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups for an optimizer: weights with ``weight_decay``, biases and norms without.

    Parameters of one dimension are biases and the scales and shifts of norms. Not to decay them is the habit of Jia et
    al. 2018 (Highly Scalable Deep Learning Training System with Mixed-Precision, section 3.3), and of He et al. 2019
    (Bag of Tricks for Image Classification, section 3.1).
    """
    if not weight_decay:
        return [{"params": list(parameters)}]
    weights = [each for each in parameters if each.ndim > 1]
    others = [each for each in parameters if each.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": weights, "weight_decay": weight_decay}, {"params": others}]
    return [group for group in groups if group["params"]]
