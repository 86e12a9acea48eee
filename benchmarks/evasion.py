"""Claims of attacks that train no model: transformed queries, and weights that change while no answer does.

``python -m benchmarks.attacks --only permute-scale --seeds 100-102``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.claims import arms
from benchmarks.measure import Row
from harness.contracts import Pool
from harness.data import Data
from harness.engine.train import Engine, clone
from harness.planning.registry import load_registry

CPU = torch.device("cpu")


def permute_scale(seeds: Sequence[int]) -> list[Row]:
    """Li and Wang 2023: white-box marks are read no better than of an unmarked model, and no answer moves."""
    schemes = ("uchida", "deepmarks", "deepsigns", "ewe")
    rows = arms(schemes, ("none", "feature-permutation", "permute-scale", "dummy-neurons"), seeds)
    wider = {"cnn": "cnn[width=36]", "resnet9[width=16]": "resnet9[width=20]", "lstm": "lstm[width=140]"}
    return rows + [row for pair in wider.items() for row in logits_moved(*pair, seeds)]


def logits_moved(architecture: str, wider: str, seeds: Sequence[int]) -> list[Row]:
    """A row an attack that changes no answer: the largest change of a logit of a digits model, by seed, and with it the
    number of test inputs that get another class, of all seeds."""
    registry = load_registry()
    dataset = registry.component("dataset", "digits").plugin
    attacks = ("feature-permutation", "permute-scale", *(f"dummy-neurons[kind={kind}]" for kind in ("split", "clique")))
    largest: dict[str, list[float]] = {attack: [] for attack in attacks}
    classes = dict.fromkeys(attacks, 0)
    for seed in seeds:
        data = Data(Path())
        train, test = data.splits(dataset, seed, CPU).train, data.test(dataset, CPU)
        small, wide = (
            Engine(CPU, torch.Generator().manual_seed(seed), dataset.public(), built.plugin, built.text)
            for built in (registry.component("architecture", text) for text in (architecture, wider))
        )
        net = small.train(small.build(), [small.stream(train)], dataset.epochs)
        known = small.predict(net, test.x)
        for attack in attacks:
            plugin: Any = registry.component("attack", attack).plugin
            changed = plugin.run(clone(net), Pool(small.recipe, train.x), wide)
            logits = small.predict(changed, test.x)
            largest[attack].append(float((logits - known).abs().max()))
            classes[attack] += int((logits.argmax(1) != known.argmax(1)).sum())
    peer = "allowed: 1e-5 of a logit of this size"
    size = 1e-5 * float(known.abs().max())
    return [
        Row(f"{architecture}, {attack}", each, [size], "logit", peer, f"{classes[attack]} inputs get another class")
        for attack, each in largest.items()
    ]


PREPROCESSING = (
    *("jpeg", "input-quantization", "feature-squeezing", "smoothing", "noising", "shrink-pad", "reconstruction"),
    *("jpeg[quality=20]", "input-quantization[levels=2]", "smoothing[filter=median]", "noising[sigma=0.3]"),
)
"""Transforms of queries, each by default, some at a strength that costs more."""


def preprocessing(seeds: Sequence[int]) -> list[Row]:
    """Lukas et al. 2022: what transformed queries leave of black-box marks, and of the accuracy through them."""
    return arms(("baseline", "ewe", "adi", "zhang-noise", "frontier-stitching"), ("none", *PREPROCESSING), seeds)


CLAIMS: dict[str, Callable[[Sequence[int]], list[Row]]] = {
    "permute-scale": permute_scale,
    "preprocessing": preprocessing,
}
