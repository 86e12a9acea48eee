"""The benchmarks of a GPU: floors and steps of every architecture, precisions, and the paper's Table 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from benchmarks.ceilings import PRECISIONS
from benchmarks.floor import floor
from benchmarks.framework import folder, harness
from benchmarks.measure import PLAIN, Benchmark, Row, alternate, seconds, with_data
from benchmarks.peers import FastLoop, PlainResNet9, plain_resnet18
from benchmarks.steps import ADAM, CNN, LSTM, RESNET, Case, EngineLoop, make_engine, rate
from harness.contracts import Dataset
from harness.data import Data
from harness.papers.paper import load_paper
from harness.planning.matrix import Matrix, format_chain
from harness.planning.registry import load_registry
from harness.storage.tables import Tables

CUDA = torch.device("cuda")
RESNET9 = Case(
    "resnet9",
    "cifar-10[batch_size=512,optimizer=sgd,learning_rate=0.01,schedule=constant,weight_decay=0,normalize=false]",
    2**15,
)
EPOCHS = 5
"""Epochs of a timed training: its first steps are slow, since they are recorded."""
CASES = (
    replace(CNN, dataset=f"mnist[batch_size=512,{PLAIN}]", images=2**15),
    replace(CNN, dataset=f"fashion-mnist[normalize=false,{PLAIN}]", images=2**15),
    replace(LSTM, images=2**11),
    replace(RESNET, dataset=f"cifar-10[batch_size=512,{ADAM}]", images=2**14),
    replace(RESNET, images=2**13),
)


def captured_steps(
    n: int, device: torch.device = CUDA, cases: Sequence[Case] = CASES, epochs: int = EPOCHS
) -> list[Row]:
    """Images a second of the engine, its steps captured, against the same with eager steps."""
    rows = []
    for case in cases:
        data = case.data(device)
        loops = [EngineLoop(case.engine(device, capture=capture), data, epochs) for capture in (True, False)]
        sides = [rate(loop.images, loop.train, device) for loop in loops]
        alternate(1, *sides)
        ours, eager = alternate(n, *sides)
        rows.append(Row(f"capture: {case.name}", ours, eager, "images/s", "measured: the engine's eager steps"))
    return rows


def by_hand(
    n: int,
    device: torch.device = CUDA,
    cases: Sequence[Case] = (*CASES[3:], RESNET9),
    epochs: int = EPOCHS,
    compiled: Sequence[bool] = (False, True),
) -> list[Row]:
    """Images a second of ResNets in bfloat16 without augmentation, against a loop written by hand for speed."""
    rows = []
    for case in cases:
        data, recipe = case.data(device), replace(case.recipe, augment="none")
        loop = EngineLoop(make_engine(case.architecture, recipe, device, precision="bf16"), data, epochs)
        for fused in compiled:
            plain = PlainResNet9() if case.architecture == "resnet9" else plain_resnet18()
            fast = FastLoop(plain, data.x, data.y, recipe.batch_size, fused)
            sides = rate(loop.images, loop.train, device), rate(len(data), fast.epoch, device)
            alternate(1, *sides)
            ours, peer = alternate(n, *sides)
            peer_is = "measured: by hand, CUDA graph" + ", torch.compile" * fused
            rows.append(Row(f"by hand: {case.name}", ours, peer, "images/s", peer_is))
    return rows


MNIST = f"mnist[train=10000,holdout=1000,epochs=10,pretrain=5,{PLAIN}]"


@with_data
def precisions(root: Path, n: int) -> list[Row]:
    """Images a second and test accuracy in each precision, on 10,000 images of MNIST, ``n`` seeds."""
    return of_precisions(root, n)


def of_precisions(root: Path, n: int, device: torch.device = CUDA, text: str = MNIST) -> list[Row]:
    """The rows of :func:`precisions` for another device or dataset."""
    dataset: Dataset = load_registry().component("dataset", text).plugin
    data = Data(root)
    test = data.test(dataset, device)

    def trained(name: str, seed: int) -> tuple[float, float]:
        engine = make_engine("cnn", dataset.public(), device, seed, precision=name)
        train = data.splits(dataset, seed, device).train
        loop = EngineLoop(engine, train, dataset.epochs)
        speed = rate(loop.images, loop.train, device)()
        return speed, 100 * float((engine.predict(loop.net, test.x).argmax(1) == test.y).float().mean())

    for name in PRECISIONS:
        trained(name, 0)
    measured = [{name: trained(name, seed) for name in PRECISIONS} for seed in range(n)]
    sides = {name: list(zip(*(each[name] for each in measured), strict=True)) for name in PRECISIONS}
    rows = []
    for name in PRECISIONS:
        (speed, right), (peer_speed, peer_right) = sides[name], sides["fp32"]
        rows.append(Row(f"precision {name}: speed", speed, peer_speed, "images/s", "measured: fp32"))
        rows.append(Row(f"precision {name}: accuracy", right, peer_right, "%", "measured: fp32"))
    return rows


@with_data
def table_1(root: Path, n: int) -> list[Row]:
    """Wall seconds of Table 1's MNIST and Fashion rows: five seeds, victims, surrogates and null models."""
    return of_table_1(root, n)


def of_table_1(root: Path, n: int, device: str = "cuda", scale: str = "full", seeds: str = "") -> list[Row]:
    """The rows of :func:`table_1` for another device or scale."""

    def once() -> str:
        with folder() as results:
            for matrix in of_paper(scale):
                harness("run", *arguments(matrix, seeds), "--data", root, "--results", results, "--device", device)
            cells = Tables(results).read("cells")
            return ", ".join(f"{count} {status}" for status, count in cells["status"].value_counts().items())

    notes: list[str] = []
    times = [seconds(lambda: notes.append(once())) for _ in range(n)]
    return [Row("table-1: MNIST and Fashion", times, [180.0], "s", "target", f"cells: {notes[-1]}")]


def of_paper(scale: str) -> list[Matrix]:
    """The matrices of Table 1 on MNIST and Fashion-MNIST."""
    matrices = load_paper("ewe-2021").experiments["table-1-head"].matrices(scale)
    return [m for m in matrices if all(entry.name in ("mnist", "fashion-mnist") for entry in m.datasets)]


def arguments(matrix: Matrix, seeds: str) -> list[str]:
    """A matrix as options of ``harness run``."""
    asked = ["--seeds", seeds or ",".join(map(str, matrix.seeds)), "--nulls", str(matrix.nulls), "--quiet"]
    for option, entries in (("--dataset", matrix.datasets), ("--defense", matrix.defenses)):
        asked += [part for entry in entries for part in (option, str(entry))]
    return asked + [part for chain in matrix.attacks for part in ("--attack", format_chain(chain))]


BENCHMARKS = [
    Benchmark("floor", partial(floor, device=CUDA, cases=CASES, epochs=EPOCHS), n=7, quick=2),
    Benchmark("capture", captured_steps, n=7, quick=2),
    Benchmark("by-hand", by_hand, n=7, quick=2),
    Benchmark("precisions", precisions, n=3, quick=1),
    Benchmark("table-1", table_1, n=1, quick=1),
]
