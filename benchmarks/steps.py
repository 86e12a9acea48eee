"""Training steps of every architecture: the engine's, on random data of a real set's shape, against plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from benchmarks.ceilings import CPU, product_gflops, products, timed
from benchmarks.measure import Row, Side, alternate, threads
from benchmarks.needs import needs
from benchmarks.peers import LoaderLoop, PlainLoop, PlainLstm, plain_resnet18
from harness.contracts import Recipe, Split
from harness.registry import load_registry
from harness.train import Engine


@dataclass(frozen=True)
class Case:
    """An architecture, and a dataset with options: its recipe, and the shape of its inputs."""

    architecture: str
    dataset: str
    images: int
    """Random ones, an epoch."""

    @property
    def name(self) -> str:
        """Architecture, dataset and batch size."""
        return f"{self.architecture}, {self.dataset.partition('[')[0]}, {self.recipe.batch_size}"

    @property
    def recipe(self) -> Recipe:
        """What the engine is told of the dataset."""
        recipe: Recipe = load_registry().use("dataset", self.dataset).plugin.public()
        return recipe

    def data(self, device: torch.device = CPU) -> Split:
        """Inputs of the set's shape and type: what a step costs does not depend on what it sees."""
        return random_inputs(self.recipe, self.images, device)

    def engine(self, device: torch.device = CPU, **settings: Any) -> Engine:
        """The harness's engine, with other ``settings`` of its fields than the default."""
        return make_engine(self.architecture, self.recipe, device, **settings)


MLP = Case("mlp", "mnist", 4096)
LENET = Case("lenet", "mnist", 4096)
CNN = Case("cnn", "mnist", 4096)
LSTM = Case("lstm", "speech-commands-mini", 896)
RESNET = Case("resnet18", "cifar-10", 256)
CASES = (MLP, LENET, CNN, LSTM, RESNET)


def random_inputs(recipe: Recipe, count: int, device: torch.device = CPU) -> Split:
    """Random bytes, or floats where a set's values are not 0..1; random labels."""
    generator = torch.Generator().manual_seed(0)
    shape = (count, *recipe.input_shape)
    if recipe.value_range == (0.0, 1.0):
        x = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    else:
        x = torch.randn(shape, generator=generator)
    y = torch.randint(0, len(recipe.classes), (count,), generator=generator)
    return Split(x.to(device), y.to(device))


def make_engine(
    architecture: str, recipe: Recipe, device: torch.device = CPU, seed: int = 0, **settings: Any
) -> Engine:
    """The harness's engine, as a stage gets it."""
    used = load_registry().use("architecture", architecture)
    engine = Engine(device, torch.Generator().manual_seed(seed), recipe, used.plugin, used.text)
    return replace(engine, **settings)


class EngineLoop:
    """Trainings of one net, one after the other, through :meth:`Engine.train`, as every stage of the harness trains."""

    def __init__(self, engine: Engine, data: Split, epochs: int = 1) -> None:
        self.engine, self.images, self.epochs = engine, epochs * len(data), epochs
        self.net = engine.build()
        self.stream = engine.stream(data)

    def train(self) -> None:
        """A training of so many epochs."""
        with products(self.engine.precision):
            self.engine.train(self.net, [self.stream], self.epochs)


def rate(images: int, epoch: Callable[[], object], device: torch.device = CPU) -> Side:
    """Images a second of an epoch, or of as many as ``images`` counts."""
    return lambda: images / timed(device, epoch)


# --- cnn-step, lstm-step, resnet-step ---------------------------------------------------------------------------------


def cnn_step(n: int) -> list[Row]:
    """Images a second of the CNN's training, against a plain PyTorch loop and the machine's matrix products."""
    recipe, data = CNN.recipe, CNN.data()
    rows: list[Row] = []
    for count, note in ((2, "target 1.8 x; 3000 on two idle cores"), (1, "")):
        plain = PlainLoop(data.x, data.y, recipe.batch_size).epoch
        rows += _step(f"cnn-step, {count} thread" + "s" * (count > 1), n, CNN, plain, count, note)
    return rows


def lstm_step(n: int) -> list[Row]:
    """The same of the LSTM, on spectrograms, against a plain loop with a ``DataLoader``."""
    data = LSTM.data()
    plain = LoaderLoop(PlainLstm(), data.x, data.y, LSTM.recipe.batch_size)
    return list(_step("lstm-step, 2 threads", n, LSTM, plain.epoch, 2, "target 2 x"))


def resnet_step(n: int) -> list[Row]:
    """The same of ResNet-18, on CIFAR-10's shape without augmentation, which the plain loop has not either."""
    case = replace(RESNET, dataset="cifar-10[augment=none]")
    data = case.data()
    plain = LoaderLoop(plain_resnet18(), data.x, data.y, case.recipe.batch_size)
    return list(_step("resnet-step, 2 threads", n, case, plain.epoch, 2, "target 2 x"))


def _step(name: str, n: int, case: Case, plain: Callable[[], object], count: int, note: str) -> Iterator[Row]:
    loop = EngineLoop(case.engine(), case.data())
    sides = (rate(case.images, loop.train), rate(case.images, plain), product_gflops)
    with threads(count):
        alternate(1, *sides)
        ours, peer, ceiling = alternate(n, *sides)
    yield Row(name, ours, peer, "images/s", "measured: plain PyTorch loop (see peers.py)", note)
    flops = needs(loop.net, case.data().x[: case.recipe.batch_size]).flops / case.recipe.batch_size
    reached = [images * flops / 1e9 for images in ours]
    yield Row(f"{name}: arithmetic", reached, ceiling, "GFLOP/s", "measured: fp32 product of 2048 x 2048")
