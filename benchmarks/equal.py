"""Equality of the engine's models with a plain loop's: accuracy and success over seeds, in distribution, not bits."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import sqrt
from pathlib import Path
from statistics import mean, stdev, variance
from typing import Any

import torch
import torch.nn.functional as F
from scipy.special import stdtrit
from torch import Tensor, nn

from benchmarks.ceilings import CPU
from benchmarks.measure import PLAIN, Row, threads, with_data
from benchmarks.peers import plain_cnn
from benchmarks.steps import make_engine
from harness.contracts import Dataset, Key, Oracle, Pool, Split, Task
from harness.data import Data
from harness.engine.train import Engine, Precision
from harness.errors import Skip
from harness.nets import Net
from harness.planning.registry import load_registry

# Triggers in distribution and as they are: their mark survives extraction in part, so there is something to compare.
DATASET = f"mnist[train=10000,holdout=1000,epochs=4,pretrain=2,origin=in-distribution,refine=false,{PLAIN}]"
SCHEME = "baseline[placement=gradient]"
LARGEST = 1000
"""Seeds of the plain loop are so much larger than the engine's."""
Numbers = Mapping[str, float]
"""Percentages of one seed, by name."""


@dataclass(frozen=True)
class Setting:
    """The data that both sides get for one seed."""

    dataset: Dataset
    train: Split
    holdout: Split
    test: Split
    seed: int
    precision: Precision = "tf32"
    scheme: str = SCHEME

    def engine(self, number: int) -> Engine:
        """The engine of one of its stages."""
        engine = make_engine("cnn", self.dataset.public(), seed=10 * self.seed + number)
        return replace(engine, precision=self.precision)

    def triggers(self, clean: Net) -> Key:
        """The harness's triggers, placed by ``clean``: data for both sides."""
        recipe = load_registry().component("defense", self.scheme).plugin.triggers(self.dataset)
        key: Key = recipe.make(self.task(Key()), replace(self.engine(1), clean=clean))
        return key

    def task(self, key: Key) -> Task:
        """The owner's task."""
        return Task(self.dataset, self.train, self.holdout, None, key)


@with_data
def equal(root: Path, n: int) -> list[Row]:
    """Clean models, marked ones and surrogates of ``n`` seeds a side: means, their difference, and its interval."""
    dataset: Dataset = load_registry().component("dataset", DATASET).plugin
    with threads(2):
        return compare(Data(root), dataset, n)


def compare(data: Data, dataset: Dataset, n: int) -> list[Row]:
    """A row a quantity: the engine's ``n`` seeds beside the plain loop's, which are others."""
    ours, theirs = (seeds(side, data, dataset, first) for side, first in ((by_engine, 0), (by_hand, LARGEST)))
    return rows("equal", "measured: plain PyTorch loop", ours, theirs, n)


def rows(name: str, peer: str, ours: Iterator[Numbers], theirs: Iterator[Numbers], n: int) -> list[Row]:
    """A row a quantity: ``n`` seeds of each side, computed in turn."""
    both = [(next(ours), next(theirs)) for _ in range(n)]
    made = []
    for quantity in both[0][0]:
        one, other = ([numbers[quantity] for numbers in side] for side in zip(*both, strict=True))
        unit = "s" if quantity.endswith("seconds") else "%"
        made.append(Row(f"{name}: {quantity}", one, other, unit, peer, said(one, other)))
    return made


def seeds(
    side: Callable[[Setting], Numbers], data: Data, dataset: Dataset, first: int, **named: Any
) -> Iterator[Numbers]:
    """The numbers of one seed after the other; those whose patch would not show are passed over, on either side.

    ``named`` are further fields of :class:`Setting`.
    """
    test = data.test(dataset, CPU)
    for seed in range(first, first + LARGEST):
        splits = data.splits(dataset, seed, CPU)
        try:
            yield side(Setting(dataset, splits.train, splits.holdout, test, seed, **named))
        except Skip:
            continue


def said(ours: list[float], theirs: list[float]) -> str:
    """The difference of the means with its 95% Welch interval, and whether it holds 0."""
    low, high = welch(ours, theirs)
    means = " and ".join(f"{mean(side):.2f} ± {stdev(side):.2f}" for side in (ours, theirs))
    verdict = "0 lies within" if low <= 0 <= high else "0 LIES OUTSIDE"
    return f"{means}: {mean(ours) - mean(theirs):+.2f}, 95% {low:+.2f} to {high:+.2f}: {verdict}"


def welch(ours: list[float], theirs: list[float]) -> tuple[float, float]:
    """The 95% interval of the difference of two means whose variances may differ."""
    difference = mean(ours) - mean(theirs)
    parts = [variance(side) / len(side) for side in (ours, theirs)]
    if not sum(parts):
        return difference, difference
    freedom = sum(parts) ** 2 / sum(p**2 / (len(side) - 1) for p, side in zip(parts, (ours, theirs), strict=True))
    half = float(stdtrit(freedom, 0.975)) * sqrt(sum(parts))
    return difference - half, difference + half


def _numbers(setting: Setting, key: Key, answers: Mapping[str, Callable[[Tensor], Tensor]]) -> Numbers:
    """Accuracy of each model, success of those after the clean one, and the copy's margin: its success less the clean
    model's. Percentages of the classes that they answer.
    """
    test, trigger = setting.test, key.trigger
    numbers = {f"{name} accuracy": _share(answer(test.x), test.y) for name, answer in answers.items()}
    success = {name: _share(answer(trigger.x), trigger.y) for name, answer in answers.items()}
    numbers |= {f"{name} success": success[name] for name in ("victim", "surrogate")}
    return numbers | {"surrogate margin": success["surrogate"] - success["clean"]}


def _share(answered: Tensor, y: Tensor) -> float:
    return 100 * float((answered == y).float().mean())


# --- the harness ------------------------------------------------------------------------------------------------------


def by_engine(setting: Setting) -> Numbers:
    """One seed through the engine and the plugins, as a run of the harness does it."""
    registry, dataset = load_registry(), setting.dataset
    first = setting.engine(0)
    clean = first.train(first.build(), [first.stream(setting.train)], dataset.pretrain)
    key = setting.triggers(clean)
    scheme, attack = (
        registry.component("defense", setting.scheme).plugin,
        registry.component("attack", "retraining").plugin,
    )
    victim = scheme.embed(setting.task(key), replace(setting.engine(2), clean=clean)).net
    last = setting.engine(3)
    oracle = Oracle(lambda x: last.predict(victim, x))
    surrogate = attack.run(oracle, Pool(dataset.public(), setting.train.x), last)

    def answer(net: nn.Module) -> Callable[[Tensor], Tensor]:
        return lambda x: first.predict(net, x).argmax(1)

    nets = {"clean": clean, "victim": victim, "surrogate": surrogate}
    return _numbers(setting, key, {name: answer(net) for name, net in nets.items()})


# --- by hand ----------------------------------------------------------------------------------------------------------


def by_hand(setting: Setting) -> Numbers:
    """One seed as a textbook would train it: clean, then task and watermark batches in turn, then the copy."""
    dataset, size = setting.dataset, setting.dataset.batch_size
    x, y = _floats(setting.train.x), setting.train.y
    with torch.random.fork_rng():
        torch.manual_seed(setting.seed)
        clean = plain_cnn()
        _fit(clean, x, y, dataset.pretrain, size)
        key = setting.triggers(_as_net(clean, setting))
        victim = copy.deepcopy(clean)
        _mark(victim, x, y, _floats(key.trigger.x), dataset)
        surrogate = plain_cnn()
        _fit(surrogate, x, _classes(victim, x), dataset.epochs, size)
    nets = {"clean": clean, "victim": victim, "surrogate": surrogate}
    answers = {name: lambda x, net=net: _classes(net, _floats(x)) for name, net in nets.items()}
    return _numbers(setting, key, answers)


def _floats(x: Tensor) -> Tensor:
    return x.float() / 255 if x.dtype == torch.uint8 else x


def _adam(net: nn.Module) -> torch.optim.Optimizer:
    """The recipes' Adam."""
    return torch.optim.Adam(net.parameters(), lr=1e-3, betas=(0.9, 0.99), eps=1e-5)


def _fit(net: nn.Module, x: Tensor, y: Tensor, epochs: int, size: int) -> None:
    """Train on shuffled whole batches, by the mean cross-entropy."""
    adam = _adam(net)
    for _ in range(epochs):
        for batch in _batches(len(x), size):
            adam.zero_grad()
            F.cross_entropy(net(x[batch]), y[batch]).backward()
            adam.step()


def _mark(net: nn.Module, x: Tensor, y: Tensor, triggers: Tensor, dataset: Dataset) -> None:
    """After each task batch, one of half triggers and half target class, all called the target; summed losses."""
    adam, size = _adam(net), dataset.batch_size
    targets = x[y == dataset.target]
    some, others = _without_end(len(triggers), size // 2), _without_end(len(targets), size // 2)
    called = torch.full((2 * (size // 2),), dataset.target)
    for _ in range(dataset.epochs - dataset.pretrain):
        for batch in _batches(len(x), size):
            marked = torch.cat([triggers[next(some)], targets[next(others)]])
            for inputs, labels in ((x[batch], y[batch]), (marked, called)):
                adam.zero_grad()
                F.cross_entropy(net(inputs), labels, reduction="sum").backward()
                adam.step()


def _batches(length: int, size: int) -> Iterator[Tensor]:
    """Whole batches of a shuffled pass; what is left over is left out."""
    order = torch.randperm(length)
    return (order[i : i + size] for i in range(0, length - size + 1, size))


def _without_end(length: int, size: int) -> Iterator[Tensor]:
    """Batches of pass after pass."""
    while True:
        yield from _batches(length, size)


def _classes(net: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([net(part).argmax(1) for part in x.split(500)])


def _as_net(plain: nn.Module, setting: Setting) -> Net:
    """The harness's CNN with the weights of a plain one, whose layers are the same: what places the triggers."""
    net = setting.engine(1).build()
    net.load_state_dict(dict(zip(net.state_dict(), plain.state_dict().values(), strict=True)))
    return net.eval()
