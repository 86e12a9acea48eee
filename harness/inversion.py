"""Inversion of a net: the smallest trigger to each class, as Neural Cleanse searches it, all classes at once.

Wang et al., IEEE S&P 2019. For each search, a mask m and a pattern p, through tanh, minimise
CE(f((1 - m) x + m p), t) + lambda |m|_1 (Eqs. 2 and 3) over inputs that the suspect does not answer the target t for.
Imported without torch, as :mod:`harness.triggers` is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch

from harness import nets
from harness.contracts import Context, Pool

Scope: TypeAlias = Literal["universal", "pairwise"]
"""One trigger a target, for the inputs of all other classes; or one a pair of source and target."""

REFERENCE_STEPS = 31_000
"""Steps of the released code: at most 1,000 rounds of 31 batches a class."""
_BETAS = (0.5, 0.9)  # the released code's
# Arguments of tanh stay within. In float32 its gradient is exactly 0 from 9 on: a pixel that got there while lambda was
# 0 would stay in the mask for good; on digits up to two of a mask's five did, however many the steps.
_BOUND = 5.0
# Steps whose batches are drawn, and after which the device is asked whether all searches have ended, at a time.
_BLOCK = 100
# Inputs a step on a GPU, whatever the number of searches. A CPU gains nothing from more than one search a class.
_INPUTS_AT_ONCE = 8192


@dataclass(frozen=True)
class Settings:
    """Settings of a search: Neural Cleanse's options, under the same names."""

    steps: int = 400
    """Largest number of Adam's steps."""
    batch_size: int = 16
    """Inputs a step, for each search."""
    learning_rate: float = 0.1
    check: int = 10
    """Steps from one look at the flip rate, the mean over them, to the next."""
    attack_rate: float = 0.99
    """Flip rate that a mask must reach to count, above 0 and up to 1."""
    weight: float = 1e-3
    """First lambda that is not 0: taken once the flip rate was reached ``patience`` times in a row."""
    factor: float = 2.0
    """Growth of lambda after ``patience`` looks that reached the flip rate; it shrinks by the power 1.5."""
    patience: int = 5
    early_stop: int = 25
    """Looks without a smaller mask that end a search, once lambda has both grown and shrunk."""


@dataclass(frozen=True)
class Search:
    """One search: turn ``inputs`` (indices ``[k]``) to ``target``. ``source`` is ``None`` where they are of any."""

    source: int | None
    target: int
    inputs: torch.Tensor


@dataclass(frozen=True)
class Trigger:
    """Result of a search: the smallest mask ``[h, w]`` that reached the flip rate, or NaN where none did."""

    source: int | None
    target: int
    norm: float
    """The mask's L1 norm, in pixels; NaN."""
    flip_rate: float
    """Share of all of the search's inputs that the trigger turns, 0..1; NaN."""
    mask: torch.Tensor
    pattern: torch.Tensor
    steps: int


def find_triggers(
    suspect: nets.Net, pool: Pool, ctx: Context, settings: Settings, scope: Scope = "universal", samples: int = 1000
) -> list[Trigger]:
    """The smallest trigger of each search of ``scope`` that has inputs, sources first and then targets in order.

    At most ``samples`` of the pool's inputs, images ``[n, c, h, w]``, are used. ``suspect`` is left in evaluation mode,
    and its parameters without gradients.
    """
    net = suspect.eval().requires_grad_(False)
    chosen = torch.randperm(len(pool.x), generator=ctx.generator)[:samples]
    x = nets.as_float(pool.x[chosen.to(pool.x.device)])
    classes = len(pool.recipe.classes)
    found = searches(ctx.predict(net, x).argmax(1).cpu(), classes, scope)
    together = classes if x.device.type == "cpu" else max(1, _INPUTS_AT_ONCE // settings.batch_size)
    return [
        trigger
        for i in range(0, len(found), together)
        for trigger in smallest_triggers(
            net, x, found[i : i + together], pool.recipe.value_range, ctx.generator, settings
        )
    ]


def searches(predicted: torch.Tensor, classes: int, scope: Scope) -> list[Search]:
    """The searches: a target, and the inputs to turn to it, by the suspect's own answers ``[n]`` on the CPU.

    An input that is answered so already would make the empty mask a success. Searches without inputs are left out.
    """
    if scope == "universal":
        found = [Search(None, t, (predicted != t).nonzero()[:, 0]) for t in range(classes)]
    else:
        inputs = [(predicted == s).nonzero()[:, 0] for s in range(classes)]
        found = [Search(s, t, inputs[s]) for s in range(classes) for t in range(classes) if t != s]
    return [search for search in found if len(search.inputs)]


def smallest_triggers(
    net: torch.nn.Module,
    x: torch.Tensor,
    searches: Sequence[Search],
    value_range: tuple[float, float],
    generator: torch.Generator,
    settings: Settings,
) -> list[Trigger]:
    """The smallest trigger of each search, all optimised at once: one forward pass a step for all their batches.

    ``x`` ``[n, c, h, w]`` float in ``value_range``. Each search has its own lambda, and nothing is shared but the
    passes: the result is that of searching one by one, up to the random draws.
    """
    count = len(searches)
    masks, patterns = _Free.start(count, x, generator), _Free.start(count, x, generator, x.shape[1])
    targets = torch.tensor([search.target for search in searches], device=x.device)
    adam = torch.optim.Adam([masks.free, patterns.free], lr=settings.learning_rate, betas=_BETAS)
    state = _State.start(masks(), patterns(value_range))
    flips, done = torch.zeros(count, device=x.device), 0
    for batch in _batches(searches, x, generator, settings):
        if done % _BLOCK == 0 and bool(state.ended.all()):
            break
        mask, pattern = masks(), patterns(value_range)
        logits = _answers(net, batch, mask, pattern)
        flips += (logits.argmax(2) == targets[:, None]).sum(1)
        done += 1
        if done % settings.check == 0:
            state.look(flips / (settings.check * settings.batch_size), mask.detach(), pattern.detach(), settings)
            flips.zero_()
        # Each search's mean, summed: Adam works element by element, so none feels how many others there are.
        wrong = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), targets.repeat_interleave(batch.shape[1]), reduction="sum"
        )
        adam.zero_grad(set_to_none=True)
        (wrong / batch.shape[1] + (state.weight * mask.flatten(1).sum(1)).sum()).backward()
        adam.step()
        for each in (masks, patterns):
            each.free.data.clamp_(-_BOUND, _BOUND)
    return [state.trigger(i, search, done, net, x) for i, search in enumerate(searches)]


def stamp(x: torch.Tensor, mask: torch.Tensor, pattern: torch.Tensor) -> torch.Tensor:
    """Inputs ``[..., c, h, w]`` under a trigger: between two values in the data's range, hence in it."""
    return torch.lerp(x, pattern, mask.unsqueeze(-3))


def _batches(
    searches: Sequence[Search], x: torch.Tensor, generator: torch.Generator, settings: Settings
) -> Iterator[torch.Tensor]:
    """Inputs ``[searches, batch_size, c, h, w]``, drawn from each one's own with replacement, a block at a time."""
    counts = torch.tensor([len(search.inputs) for search in searches])
    padded = torch.nn.utils.rnn.pad_sequence([search.inputs for search in searches], batch_first=True)
    for start in range(0, settings.steps, _BLOCK):
        steps = min(_BLOCK, settings.steps - start)
        drawn = torch.rand(len(searches), steps * settings.batch_size, generator=generator)
        places = (drawn * counts[:, None]).long().clamp_max(counts[:, None] - 1)  # rounding may reach the count
        for part in padded.gather(1, places).to(x.device).split(settings.batch_size, dim=1):
            yield x[part]


@dataclass(frozen=True)
class _Free:
    """Values in 0..1 by a parameter that is free of them, ``tanh(free) / 2 + 1/2``."""

    free: torch.Tensor

    @classmethod
    def start(cls, searches: int, x: torch.Tensor, generator: torch.Generator, channels: int = 0) -> _Free:
        """Uniform in 0..1: ``[searches, h, w]``, or ``[searches, channels, h, w]``."""
        shape = (searches, *((channels,) if channels else ()), *x.shape[2:])
        start = torch.atanh(2 * torch.rand(shape, generator=generator) - 1).clamp(-_BOUND, _BOUND)
        return cls(start.to(x.device, x.dtype).requires_grad_(True))

    def __call__(self, value_range: tuple[float, float] = (0.0, 1.0)) -> torch.Tensor:
        low, high = value_range
        return low + (high - low) * (self.free.tanh() / 2 + 0.5)


@dataclass
class _State:
    """Memory of each search from look to look: tensors ``[searches]``, never read on the host while it runs."""

    weight: torch.Tensor
    """Lambda."""
    best: torch.Tensor
    """The smallest norm that reached the flip rate; inf."""
    mask: torch.Tensor
    pattern: torch.Tensor
    reached: torch.Tensor
    """Looks in a row that reached the flip rate, since lambda last changed; likewise those that missed it."""
    missed: torch.Tensor
    grew: torch.Tensor
    shrank: torch.Tensor
    stale: torch.Tensor
    """Looks since the best mask."""
    ended: torch.Tensor

    @classmethod
    def start(cls, mask: torch.Tensor, pattern: torch.Tensor) -> _State:
        def of(value: float | bool) -> torch.Tensor:
            return torch.full((len(mask),), value, device=mask.device)

        nothing = torch.full_like(mask, torch.nan), torch.full_like(pattern, torch.nan)
        return cls(of(0.0), of(torch.inf), *nothing, of(0), of(0), of(False), of(False), of(0), of(False))

    def look(self, flips: torch.Tensor, mask: torch.Tensor, pattern: torch.Tensor, settings: Settings) -> None:
        """Keep what is better, and move lambda, by the flip rates ``[searches]`` since the last look."""
        norm, success = mask.flatten(1).sum(1), flips >= settings.attack_rate
        better = success & (norm < self.best) & ~self.ended
        self.best = torch.where(better, norm, self.best)
        self.mask = torch.where(better[:, None, None], mask, self.mask)
        self.pattern = torch.where(better[:, None, None, None], pattern, self.pattern)
        self.stale = torch.where(better, 0, self.stale + self.best.isfinite())
        self.reached = torch.where(success, self.reached + 1, 0)
        self.missed = torch.where(success, 0, self.missed + 1)
        started = self.weight > 0
        up, down = self.reached >= settings.patience, started & (self.missed >= settings.patience)
        grown = torch.where(started, self.weight * settings.factor, settings.weight)
        shrunk = torch.where(down, self.weight / settings.factor**1.5, self.weight)
        self.weight = torch.where(up, grown, shrunk)
        self.reached, self.missed = self.reached.masked_fill(up, 0), self.missed.masked_fill(down, 0)
        self.grew, self.shrank = self.grew | (up & started), self.shrank | down
        self.ended = self.ended | (self.grew & self.shrank & (self.stale >= settings.early_stop))

    def trigger(self, number: int, search: Search, steps: int, net: torch.nn.Module, x: torch.Tensor) -> Trigger:
        """The result of one search, its flip rate measured on all of the search's inputs."""
        mask, pattern = self.mask[number], self.pattern[number]
        if not bool(self.best[number].isfinite()):
            return Trigger(search.source, search.target, torch.nan, torch.nan, mask, pattern, steps)
        parts = stamp(x[search.inputs.to(x.device)], mask, pattern).split(1000)
        with torch.inference_mode():
            turned = torch.cat([net(part).argmax(1) == search.target for part in parts])
        rate = float(turned.double().mean())
        return Trigger(search.source, search.target, float(self.best[number]), rate, mask, pattern, steps)


def _answers(net: torch.nn.Module, x: torch.Tensor, mask: torch.Tensor, pattern: torch.Tensor) -> torch.Tensor:
    """Logits ``[searches, n, classes]`` of inputs ``[searches, n, c, h, w]``, each under its own trigger."""
    logits: torch.Tensor = net(stamp(x, mask[:, None], pattern[:, None]).flatten(0, 1))
    return logits.view(*x.shape[:2], -1)
