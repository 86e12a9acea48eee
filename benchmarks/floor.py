"""Distance of a training step from the machine's limits, and the share of an epoch outside its steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from statistics import median

import torch
import torch.nn.functional as F

from benchmarks.ceilings import CPU, copy_gbs, precision, product_gflops, timed
from benchmarks.measure import Row, alternate, threads
from benchmarks.needs import needs
from benchmarks.peers import captured
from benchmarks.steps import CASES, Case, EngineLoop
from harness.contracts import Split
from harness.engine.train import Engine


def floor(n: int, device: torch.device = CPU, cases: Sequence[Case] = CASES, epochs: int = 1) -> list[Row]:
    """Rows by architecture: a step's time over its floor, images a second, and the share of an epoch outside steps.

    The floor is the larger of arithmetic at the rate of a matrix product, and bytes at the rate of a copy, both
    measured in turn with the steps.
    """
    with threads(2):
        return [row for case in cases for row in _floor(n, device, case, epochs)]


def _floor(n: int, device: torch.device, case: Case, epochs: int) -> Iterator[Row]:
    engine, data, batch = case.engine(device), case.data(device), case.recipe.batch_size
    loop, bare = EngineLoop(engine, data, epochs), bare_step(case.engine(device), data.first(batch))
    steps = epochs * (len(data) // batch)

    def all_bare() -> None:
        for _ in range(steps):
            bare()

    sides = (
        lambda: timed(device, loop.train) / steps,
        lambda: timed(device, all_bare) / steps,
        lambda: product_gflops(device, engine.precision),
        lambda: copy_gbs(device),
    )
    alternate(1, *sides)
    step, only, gflops, gbs = alternate(n, *sides)

    least = needs(loop.net, data.x[:batch], 2 if device.type == "cuda" and engine.precision == "bf16" else 4)
    floors = [least.seconds(*rates) for rates in zip(gflops, gbs, strict=True)]
    name = f"floor: {case.name}"
    at = f"measured: {median(gflops):.0f} GFLOP/s, {median(gbs):.3g} GB/s"
    yield Row(f"{name}: a step", _ms(step), _ms(floors), "ms/step", at, str(least))
    yield Row(f"{name}: images", [batch / s for s in step], [batch / s for s in floors], "images/s", at)
    outside = [whole - part for whole, part in zip(step, only, strict=True)]
    yield Row(f"{name}: outside steps", _ms(outside), _ms(step), "ms/step", "measured: the epoch", _augmented(engine))


def _ms(seconds: Sequence[float]) -> list[float]:
    return [1000 * value for value in seconds]


def _augmented(engine: Engine) -> str:
    return "" if engine.recipe.augment == "none" else f"with augment={engine.recipe.augment}"


def bare_step(engine: Engine, batch: Split) -> Callable[[], None]:
    """Forward, backward and Adam of the engine's net on one batch that is there already; captured on a GPU.

    What an epoch takes longer than as many of these, it spends on batches, sums and bookkeeping.
    """
    net, device = engine.build(), engine.device
    net.train()
    # A rate of 0 keeps the net from learning the one batch by heart, whose gradients would vanish into denormals.
    adam = torch.optim.Adam(net.parameters(), lr=0.0, fused=True, capturable=device.type == "cuda")

    def step() -> None:
        adam.zero_grad()
        with precision(engine.precision, device):
            loss = F.cross_entropy(net(batch.x), batch.y)
            loss.backward()
        adam.step()

    return captured(step, device)
