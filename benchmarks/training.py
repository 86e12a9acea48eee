"""Costs of training besides its steps: the SNNL's share of them, threads against processes, and one whole arm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from benchmarks.ceilings import CPU
from benchmarks.framework import folder, make, run
from benchmarks.measure import PLAIN, Row, alternate, cpu_seconds, seconds, threads
from benchmarks.peers import snnl_by_pairs
from benchmarks.steps import Case, by_engine, images_a_second, process, random_inputs
from harness.contracts import Key, Probe, Stream, Task
from harness.data import Data
from harness.engine.train import Engine
from harness.losses import Entanglement
from harness.nets import Net
from harness.planning.matrix import Entry, Matrix
from harness.planning.registry import load_registry

BATCH = 128
CASE = Case("cnn", f"mnist[batch_size={BATCH},{PLAIN}]", 4096)


# --- two-workers ------------------------------------------------------------------------------------------------------


def two_workers(n: int) -> list[Row]:
    """Images a second of two processes with one thread each, against one process with two threads."""
    with ExitStack() as stack:
        one, other, wide = (stack.enter_context(process(partial(by_engine, CASE), count)) for count in (1, 1, 2))
        together = partial(images_a_second, CASE.images)
        ours, peer = alternate(n, lambda: together(one, other), lambda: together(wide))
    return [Row("two-workers", ours, peer, "images/s", "measured: one process, two threads")]


# --- snnl -------------------------------------------------------------------------------------------------------------

WIDTHS = (6272, 128)
TEMPERATURE = 0.2


def _activations() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(BATCH, width, generator=generator).requires_grad_() for width in WIDTHS]


def snnl_ours() -> Callable[[], None]:
    """Forward and backward of the harness's SNNL: a matrix product a layer."""
    layers = _activations()
    loss = Entanglement(len(layers), TEMPERATURE, "cosine", BATCH, CPU)
    return lambda: loss(layers).backward()


def snnl_plain() -> Callable[[], None]:
    """Forward and backward of the SNNL as its formula reads."""
    layers = _activations()
    groups = torch.arange(BATCH) < BATCH // 2
    return lambda: torch.stack([snnl_by_pairs(x, groups, TEMPERATURE) for x in layers]).sum().backward()


def memory(prepare: Callable[[], Callable[[], None]]) -> float:
    """Peak MiB that a call needs beyond what is there before it, in a fresh process (Linux)."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(_memory, prepare).result()


def _memory(prepare: Callable[[], Callable[[], None]]) -> float:
    work = prepare()
    before = _status("VmRSS")
    work()
    return (_status("VmHWM") - before) / 1024


def _status(name: str) -> int:
    """A line of the kernel's account of this process, in KiB."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text("ascii").splitlines())
    return int(lines[name].split()[0])


def snnl(n: int) -> list[Row]:
    """Milliseconds and memory of the SNNL of 64 + 64 samples in two layers, forward and backward, one thread."""
    ours, plain = snnl_ours(), snnl_plain()
    with threads(1):
        alternate(1, lambda: seconds(ours), lambda: seconds(plain))
        fast, slow = alternate(n, lambda: 1000 * seconds(ours), lambda: 1000 * seconds(plain))
    peer_is = "measured: all pairs multiplied out, [n, n, d]"
    rows = [Row("snnl", fast, slow, "ms", peer_is, f"64 + 64 samples x {' and '.join(map(str, WIDTHS))}")]
    if Path("/proc/self/status").exists():
        rows.append(Row("snnl: memory", [memory(snnl_ours)], [memory(snnl_plain)], "MiB", peer_is))
    return rows


# --- snnl-share -------------------------------------------------------------------------------------------------------


@dataclass
class KeepsStreams(Engine):
    """An engine that keeps what a scheme would train on, instead of training."""

    streams: Sequence[Stream] = field(default_factory=list)

    def train(self, net: Net, streams: Sequence[Stream], *args: object, **kwargs: object) -> Net:
        """Keep the streams."""
        self.streams = streams
        return net


def watermark_epoch(scheme: str) -> Callable[[], object]:
    """An epoch of the watermark batches alone, with the very loss that ``scheme`` trains them with."""
    registry = load_registry()
    dataset, cnn = (
        registry.component("dataset", CASE.dataset).plugin,
        registry.component("architecture", CASE.architecture),
    )
    engine = KeepsStreams(CPU, torch.Generator().manual_seed(0), dataset.public(), cnn.plugin, cnn.text)
    data, triggers = CASE.data(), random_inputs(CASE.recipe, 1024)
    key = Key({"trigger": Probe(triggers.x, torch.zeros_like(triggers.y))})
    registry.component("defense", scheme).plugin.embed(Task(dataset, data, data, None, key), engine)
    trainer = CASE.engine()
    net = trainer.build()
    return lambda: trainer.train(net, [engine.streams[1]], 1)


def snnl_share(n: int) -> list[Row]:
    """Milliseconds of an EWE watermark step (64 + 64 images), against the same step without its SNNL, one thread."""
    entangled, plain = watermark_epoch("ewe"), watermark_epoch("ewe[weight=0]")
    steps = 1024 // (BATCH // 2)
    with threads(1):
        alternate(1, lambda: seconds(entangled), lambda: seconds(plain))
        ours, peer = alternate(n, lambda: 1000 * seconds(entangled) / steps, lambda: 1000 * seconds(plain) / steps)
    share = 1 - median(peer) / median(ours)
    return [
        Row(
            "snnl-share",
            ours,
            peer,
            "ms/step",
            "measured: the same step, weight=0",
            f"the SNNL is {share:.0%} of a step",
        )
    ]


# --- digits-victim ----------------------------------------------------------------------------------------------------


def digits_victim(n: int) -> list[Row]:
    """Processor seconds of an EWE arm on digits: clean model, triggers, embedding, extraction; one thread."""
    registry = load_registry()
    matrix = Matrix("arm", (Entry("digits"),), (Entry("ewe"),), ((Entry("retraining"),),), nulls=0)
    plan, data = make(matrix, registry), Data(Path())
    data.arrays(registry.component("dataset", "digits").plugin)

    def arm() -> float:
        with folder() as results:
            return cpu_seconds(lambda: run(plan, registry, results, data))

    with threads(1):
        samples = [arm() for _ in range(n)]
    return [Row("digits-victim", samples, [10.0], "CPU s", "published: the prototype's same arm")]
