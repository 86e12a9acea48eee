"""Training steps of every architecture: the engine's, on random data of a real set's shape, against plain PyTorch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from typing import Any

import torch

from benchmarks.ceilings import CPU, product_gflops, products, timed
from benchmarks.measure import PLAIN, Row, Side, alternate, threads
from benchmarks.needs import needs
from benchmarks.peers import LoaderLoop, PlainLoop, PlainLstm, plain_resnet18
from harness.contracts import Recipe, Split
from harness.engine.train import Engine
from harness.planning.registry import load_registry
from harness.running.environment import keep_memory


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
        """The recipe that the engine gets."""
        recipe: Recipe = load_registry().component("dataset", self.dataset).plugin.public()
        return recipe

    def data(self, device: torch.device = CPU) -> Split:
        """Inputs of the set's shape and type: what a step costs does not depend on what it sees."""
        return random_inputs(self.recipe, self.images, device)

    def engine(self, device: torch.device = CPU, **settings: Any) -> Engine:
        """The harness's engine, with other ``settings`` of its fields than the default."""
        return make_engine(self.architecture, self.recipe, device, **settings)


MNIST = f"mnist[{PLAIN}]"
ADAM = "optimizer=adam,learning_rate=0.001,schedule=constant,weight_decay=0,normalize=false"
"""Options of CIFAR-10's recipe as the plain loops train."""
MLP = Case("mlp", MNIST, 4096)
LENET = Case("lenet", MNIST, 4096)
CNN = Case("cnn", MNIST, 4096)
LSTM = Case("lstm", "speech-commands-mini", 896)
RESNET = Case("resnet18", f"cifar-10[{ADAM}]", 256)
CASES = (MLP, LENET, CNN, LSTM, RESNET)
UNAUGMENTED = replace(RESNET, dataset=f"cifar-10[augment=none,{ADAM}]")


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
    used = load_registry().component("architecture", architecture)
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


# --- processes of their own -------------------------------------------------------------------------------------------

Epoch = Callable[[], object]

_epoch: Epoch


def _prepare(make: Callable[[], Epoch], count: int) -> None:
    """In a new process: ``count`` threads, and one epoch to warm up."""
    global _epoch
    torch.set_num_threads(count)
    _epoch = make()
    _epoch()


def end_of_epoch() -> float:
    """The time when an epoch of this process ended."""
    _epoch()
    return time.monotonic()


@contextmanager
def process(make: Callable[[], Epoch], count: int) -> Iterator[ProcessPoolExecutor]:
    """A process of its own that trains with ``count`` threads by what ``make`` gives there, warmed up."""
    with ProcessPoolExecutor(1, get_context("spawn"), _prepare, (make, count)) as pool:
        pool.submit(end_of_epoch).result()
        yield pool


def images_a_second(images: int, *pools: ProcessPoolExecutor) -> float:
    """Images a second, in all, of an epoch of ``images`` in each process at the same time, until the last has ended."""
    begin = time.monotonic()
    ends = [future.result() for future in [pool.submit(end_of_epoch) for pool in pools]]
    return images * len(pools) / (max(ends) - begin)


def by_engine(case: Case) -> Epoch:
    """Trainings as a worker of the harness does them, which keeps its memory."""
    keep_memory()
    return EngineLoop(case.engine(), case.data()).train


# --- cnn-step, lstm-step, resnet-step ---------------------------------------------------------------------------------


def plain_cnn_epoch() -> Epoch:
    """The plain loop's, of the CNN."""
    data = CNN.data()
    return PlainLoop(data.x, data.y, CNN.recipe.batch_size).epoch


def plain_lstm_epoch() -> Epoch:
    """The plain loop's, of the LSTM."""
    data = LSTM.data()
    return LoaderLoop(PlainLstm(), data.x, data.y, LSTM.recipe.batch_size).epoch


def plain_resnet_epoch() -> Epoch:
    """The plain loop's, of ResNet-18."""
    data = UNAUGMENTED.data()
    return LoaderLoop(plain_resnet18(), data.x, data.y, UNAUGMENTED.recipe.batch_size).epoch


def cnn_step(n: int) -> list[Row]:
    """Images a second of the CNN's training, against a plain PyTorch loop and the machine's matrix products."""
    rows: list[Row] = []
    for count, note in ((2, "target 1.8 x; 3000 on two idle cores"), (1, "")):
        rows += _step(f"cnn-step, {count} thread" + "s" * (count > 1), n, CNN, plain_cnn_epoch, count, note)
    return rows


def lstm_step(n: int) -> list[Row]:
    """The same of the LSTM, on spectrograms, against a plain loop with a ``DataLoader``."""
    return list(_step("lstm-step, 2 threads", n, LSTM, plain_lstm_epoch, 2, "target 2 x"))


def resnet_step(n: int) -> list[Row]:
    """The same of ResNet-18, on CIFAR-10's shape without augmentation, which the plain loop has not either."""
    return list(_step("resnet-step, 2 threads", n, UNAUGMENTED, plain_resnet_epoch, 2, "target 2 x"))


def _step(name: str, n: int, case: Case, plain: Callable[[], Epoch], count: int, note: str) -> Iterator[Row]:
    with ExitStack() as stack:
        # Each in a process of its own: what the engine sets there (see `keep_memory`) would help the plain loop too.
        pools = [stack.enter_context(process(make, count)) for make in (partial(by_engine, case), plain)]
        stack.enter_context(threads(count))
        sides = [partial(images_a_second, case.images, pool) for pool in pools]
        product_gflops()
        ours, peer, ceiling = alternate(n, *sides, product_gflops)
    yield Row(name, ours, peer, "images/s", "measured: plain PyTorch loop (see peers.py)", note)
    net = case.engine().build()
    flops = needs(net, case.data().x[: case.recipe.batch_size]).flops / case.recipe.batch_size
    reached = [images * flops / 1e9 for images in ours]
    yield Row(f"{name}: arithmetic", reached, ceiling, "GFLOP/s", "measured: fp32 product of 2048 x 2048")
