"""Costs of attacks, and what each is for, measured beside what it is compared with.

Costs are of one thread; without HARNESS_DATA nothing is measured. ``python -m benchmarks.attacks --only wrk --seeds
100-102`` measures what an attack is for, as ``benchmarks.claims`` does of schemes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from benchmarks import evasion, extraction, forgery, removal
from benchmarks.claims import arms, command
from benchmarks.framework import folder, harness
from benchmarks.measure import PLAIN, Row, cpu_seconds, seconds, threads, with_data
from harness.contracts import Pool, Split
from harness.data import Data
from harness.engine.train import Engine, clone
from harness.nets import Net
from harness.planning.registry import load_registry

CPU = torch.device("cpu")
MNIST = f"mnist[train=3000,holdout=500,test=1000,epochs=5,pretrain=2,{PLAIN}]"
CLIPS = 5000


def suspect(root: Path) -> tuple[Net, Split, Engine]:
    """A clean MNIST model of the paper's CNN, its data, and an engine."""
    registry = load_registry()
    dataset, cnn = registry.component("dataset", MNIST).plugin, registry.component("architecture", "cnn")
    train = Data(root).splits(dataset, 0, CPU).train
    engine = Engine(CPU, torch.Generator().manual_seed(0), dataset.public(), cnn.plugin, cnn.text)
    return engine.train(engine.build(), [engine.stream(train)], dataset.epochs), train, engine


def _detector(root: Path, n: int, name: str, target: float, note: str) -> list[Row]:
    detector: Any = load_registry().component("attack", name).plugin
    with threads(1):
        net, train, engine = suspect(root)
        pool = Pool(engine.recipe, train.x)

        def search() -> object:
            return detector.run(clone(net), pool, engine)

        return [Row(name, [cpu_seconds(search) for _ in range(n)], [target], "CPU-s", "target", note)]


@with_data
def neural_cleanse(root: Path, n: int) -> list[Row]:
    """CPU-seconds of Neural Cleanse on an MNIST model, ten classes as one optimisation."""
    return _detector(root, n, "neural-cleanse", 60.0, "10 classes, 400 steps")


@with_data
def jsma(root: Path, n: int) -> list[Row]:
    """CPU-seconds of JSMA on 64 MNIST images, all pairs of pixels searched."""
    return _detector(root, n, "jsma", 30.0, "64 images")


@with_data
def pruning_sweep(root: Path, n: int) -> list[Row]:
    """Seconds of 20 fractions pruned from one stored surrogate, against training that surrogate once."""
    dataset = MNIST.replace("]", ",refine=false]")
    chosen = ("--dataset", dataset, "--defense", "baseline", "--seeds", "0", "--nulls", "0", "--quiet")
    sweep = [part for i in range(20) for part in ("--attack", f"retraining | pruning[fraction={i / 20}]")]

    def once(results: Path) -> tuple[float, float]:
        harness("run", *chosen, "--attack", "none", "--results", results)
        trained = seconds(lambda: harness("run", *chosen, "--attack", "retraining", "--results", results))
        return seconds(lambda: harness("run", *chosen, *sweep, "--results", results)), trained

    with folder() as made:
        times = [once(made / str(i)) for i in range(n)]
    return [
        Row(
            "pruning-sweep",
            [swept for swept, _ in times],
            [trained for _, trained in times],
            "s",
            "measured: `harness run` that trains the surrogate",
            "20 fractions",
        )
    ]


@with_data
def speech(root: Path, n: int) -> list[Row]:
    """Seconds to prepare 5,000 clips, the packed ones over and over in a folder of the published layout, and again."""
    clips = sorted((root / "speech-commands").glob("*/*.flac"))
    if not clips:
        return []
    plugin: Any = load_registry().component("dataset", "speech-commands-mini").plugin
    module: Any = sys.modules[type(plugin).__module__]
    many = [module.Clip(clips[i % len(clips)], 0, "train") for i in range(CLIPS)]
    with threads(1), folder() as made, patch.dict(os.environ, XDG_CACHE_HOME=str(made)):
        module._spectrograms("speech", many[:1], "")  # importing torchaudio is not what is measured
        fresh = [seconds(lambda: module._spectrograms("speech", many, "")) for _ in range(n)]
        Data(root).arrays(plugin)
        cached = [seconds(lambda: Data(root).arrays(plugin)) for _ in range(n)]
    return [
        Row("speech-prepared", fresh, [60.0], "s", "target", f"{CLIPS} clips, reading included"),
        Row("speech-cached", cached, [1.0], "s", "target", "the packed set from its cache"),
    ]


# --- what an attack is for --------------------------------------------------------------------------------------------


def wrk(seeds: Sequence[int]) -> list[Row]:
    """Xiao et al. 2026: after extraction, marks that survived it are removed, at a cost of less than three points."""
    copied = "retraining[answers=probabilities,epochs=96]"
    removals = ("fine-tuning", "wrk", "wrk[learning_rate=0.01]")
    return arms(("mbw", "mea-defender"), (copied, *(f"{copied} | {removal}" for removal in removals)), seeds)


def anp(seeds: Sequence[int]) -> list[Row]:
    """Wu and Wang 2021: a backdoor goes with few units, at little cost, where plain pruning leaves it."""
    return arms(("baseline", "adi"), ("none", "pruning", "anp"), seeds)


def dehydra(seeds: Sequence[int]) -> list[Row]:
    """Lu et al. 2024: with a tenth of the inputs black-box marks go, where training on these alone leaves them."""
    tuned = "fine-tuning[epochs=250,learning_rate=0.003,pool_share=0.1]"
    attacks = ("none", tuned, "dehydra[learning_rate=0.003,unlearning=1,pool_share=0.1]")
    return arms(("baseline", "mea-defender"), attacks, seeds)


def laundering(seeds: Sequence[int]) -> list[Row]:
    """Aiken et al. 2021: with its units reset a backdoor goes, also where unlearning alone leaves it."""
    return arms(("baseline",), ("none", "neural-cleanse-removal", "laundering"), seeds)


CLAIMS: dict[str, Callable[[Sequence[int]], list[Row]]] = {
    "anp": anp,
    "dehydra": dehydra,
    "laundering": laundering,
    "wrk": wrk,
    **extraction.CLAIMS,
    **evasion.CLAIMS,
    **removal.CLAIMS,
    **forgery.CLAIMS,
}


if __name__ == "__main__":
    command(CLAIMS, "attacks", "Measure what attacks are for, and print each arm's mean with its interval.")()
