"""Claims that make a scheme special, each measured beside what it is compared with.

``python -m benchmarks.claims --only zhang --seeds 100-104``. Results stay in ``build/claims``, so that a second call
computes what is missing. Settings of schemes are chosen on seeds from 100 on, which no record of a board uses.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import stdev

import click
import pandas as pd
import torch
from scipy.stats import t as student

import harness
from benchmarks.gates import DEVELOPMENT
from benchmarks.measure import Row
from harness.contracts import Key, Task
from harness.data import Data
from harness.engine.train import Engine, clone
from harness.planning.matrix import parse_seeds
from harness.planning.registry import load_registry

RESULTS = Path(__file__).parents[1] / "build" / "claims"
NULLS = 5
"""Unmarked models beside each arm, which go through the same attack."""


def zhang(seeds: Sequence[int]) -> list[Row]:
    """Zhang et al., section 5: all three kinds stay after fine-tuning, and after pruning while the model is useful."""
    schemes = ("zhang-content", "zhang-noise", "zhang-unrelated", "adi")
    return arms(schemes, ("none", "fine-tuning", "pruning[fraction=0.2]", "retraining"), seeds)


def frontier(seeds: Sequence[int]) -> list[Row]:
    """Le Merrer et al., section 3: an unmarked model answers half of the keys, and a victim all, attacked or not."""
    attacks = ("none", "fine-tuning", "pruning", "retraining")
    unmarked = innocents("frontier-stitching", ("unmarked", "unmarked[adversarial=true]"), seeds)
    return arms(("frontier-stitching",), attacks, seeds) + unmarked


def uchida(seeds: Sequence[int]) -> list[Row]:
    """Uchida et al., sections 4 and 5: no bit is lost by fine-tuning or pruning, and random keys say half of theirs."""
    attacks = ("none", "fine-tuning", "pruning")
    return arms(("uchida",), attacks, seeds) + [
        replace(row, name=f"{row.name}, random key") for row in arms(("uchida",), ("none",), seeds, probe="control")
    ]


def deepsigns(seeds: Sequence[int]) -> list[Row]:
    """Rouhani et al., section 6: no bit is lost by fine-tuning or pruning; nor by images that were no key images."""
    attacks = ("none", "fine-tuning", "pruning")
    return arms(("deepsigns",), attacks, seeds) + [
        replace(row, name=f"{row.name}, held out") for row in arms(("deepsigns",), ("none",), seeds, probe="held_out")
    ]


def deepmarks(seeds: Sequence[int]) -> list[Row]:
    """Chen et al., sections 4 and 5: no bit is lost by fine-tuning; an average of copies names all its users and nobody
    else, before and after fine-tuning."""
    return arms(("deepmarks",), ("none", "fine-tuning"), seeds) + [row for m in (2, 3, 5) for row in averages(m, seeds)]


def app(seeds: Sequence[int]) -> list[Row]:
    """Gan et al., section 4: triggers outlast fine-tuning at a high rate, where without the move they do not."""
    attacks = ("none", "fine-tuning[learning_rate=0.005]", "fine-tuning[learning_rate=0.01]")
    return arms(("app", "app[alpha=0]"), attacks, seeds)


def adi(seeds: Sequence[int]) -> list[Row]:
    """Adi et al., section 5: triggers outlast fine-tuning, and a new last layer once the original one is put back."""
    attacks = ("none", *(f"fine-tuning[mode={mode}]" for mode in ("ftll", "ftal", "rtll", "rtal")))
    mixed = arms(("adi[batches=mixed,per_batch=2]", "adi[batches=mixed]"), ("none",), seeds)
    return arms(("adi", "adi-original-layer"), attacks, seeds) + mixed


KEPT = ("none", "fine-tuning", "pruning", "retraining")
"""Attacks that papers of black-box marks and fingerprints name, and an extraction."""


def deepsigns_bb(seeds: Sequence[int]) -> list[Row]:
    """Rouhani et al., section 6: no key is lost by fine-tuning or pruning, and unmarked models answer one in ten."""
    return arms(("deepsigns-bb",), KEPT, seeds)


def blackmarks(seeds: Sequence[int]) -> list[Row]:
    """Chen et al. 2019, section 5: no bit is lost by fine-tuning or pruning, and unmarked models say half of them."""
    return arms(("blackmarks",), KEPT, seeds)


def fingerprints(seeds: Sequence[int]) -> list[Row]:
    """Godinot et al. 2025: the victim's own mistakes recognise copies as well as points at its boundary do."""
    return arms(("akh", "ipguard", "ipguard[distance=10]", "prown", "dataset-inference"), KEPT, seeds)


def mbw(seeds: Sequence[int]) -> list[Row]:
    """Kim et al., section 5: keys stay in a copy of the victim's probabilities, where Adi's do not."""
    attacks = ["none", *(f"retraining[answers=probabilities,epochs={epochs}]" for epochs in (24, 96))]
    return arms(("mbw", "adi"), attacks, seeds)


def cfw(seeds: Sequence[int]) -> list[Row]:
    """Xiao et al., section 5: the class stays in copies, also in copies that are fine-tuned."""
    return arms(
        ("cfw",), ("none", "retraining", "retraining[answers=probabilities]", "retraining | fine-tuning"), seeds
    )


def mea_defender(seeds: Sequence[int]) -> list[Row]:
    """Lv et al., section 6: copies answer mixtures, by the term of both images, by probabilities and by labels."""
    schemes = ("mea-defender", "mea-defender[combination=0]")
    return arms(schemes, ("none", "retraining", "retraining[answers=probabilities]"), seeds)


def dawn(seeds: Sequence[int]) -> list[Row]:
    """Szyller et al., section 5: a client's model repeats the wrong answers; by how long it was trained."""
    attacks = [
        f"retraining[answers={answers},epochs={epochs}]"
        for answers in ("labels", "probabilities")
        for epochs in (10, 30, 100)
    ]
    return arms(("dawn[rate=0.05]",), ("none", *attacks), seeds)


def batch_norm(seeds: Sequence[int]) -> list[Row]:
    """Triggers are learned at little cost by nets with batch norm, and new statistics do not remove them."""
    schemes = [name for name in load_registry().names("defense") if name not in ("unmarked", "dawn")]
    return arms(schemes, ("none", "bn-reset"), seeds, "digits[architecture=resnet9[width=16],schedule=cosine]")


CLAIMS: dict[str, Callable[[Sequence[int]], list[Row]]] = {
    each.__name__.replace("_", "-"): each
    for each in (
        zhang,
        frontier,
        uchida,
        deepsigns,
        deepmarks,
        app,
        adi,
        deepsigns_bb,
        blackmarks,
        fingerprints,
        mbw,
        cfw,
        mea_defender,
        dawn,
        batch_norm,
    )
}


def claims(n: int) -> list[Row]:
    """All claims, by ``n`` seeds each."""
    return [row for claim in CLAIMS.values() for row in claim(range(DEVELOPMENT, DEVELOPMENT + n))]


def arms(
    defenses: Sequence[str],
    attacks: Sequence[str],
    seeds: Sequence[int],
    dataset: str = "digits",
    probe: str = "trigger",
) -> list[Row]:
    """A row a scheme and attack: matches of a probe, in percent, of each seed and of unmarked models."""
    run = ran(defenses, attacks, seeds, dataset)
    cells = run.cells()
    accuracy = cells.groupby(["defense", "attack"])[["victim_accuracy", "surrogate_accuracy", "null_accuracy"]].mean()
    evidence = rates(seeds, dataset, probe)
    rows = []
    for (defense, attack), means in accuracy.iterrows():
        asked = evidence[(evidence["defense"] == defense) & (evidence["attack"] == attack)]
        ours = asked[asked["suspect"] == "surrogate"]["rate"].tolist()
        unmarked = asked[asked["suspect"] == ("null" if attack == "none" else "attacked")]["rate"].tolist()
        if ours and unmarked:
            accuracies = "accuracy of victim {:.1%}, attacked {:.1%}, unmarked {:.1%}".format(*means)
            note = f"{interval(ours)}; {accuracies}"
            rows.append(Row(f"{defense}, {attack}", ours, unmarked, "%", f"unmarked: {interval(unmarked)}", note))
    return rows


def innocents(defense: str, models: Sequence[str], seeds: Sequence[int], dataset: str = "digits") -> list[Row]:
    """A row an arm of ``unmarked``: matches of the triggers of ``defense``, in percent, of each key and model."""
    ran((defense, *models), ("none",), seeds, dataset)
    evidence = rates(seeds, dataset, "trigger")
    asked = evidence[(evidence["defense"] == defense) & (evidence["attack"] == "none")]
    nulls = asked[asked["suspect"] == "null"]["rate"].tolist()
    peer = f"unmarked models to compare with: {interval(nulls)}"
    ours = {model: asked[asked["arm"] == model]["rate"].tolist() for model in models}
    return [Row(f"{defense}, {model}", each, nulls, "%", peer, interval(each)) for model, each in ours.items()]


def averages(m: int, seeds: Sequence[int]) -> list[Row]:
    """Two rows: colluders that the average of ``m`` users' copies names, and others that it names, in percent of each;
    before fine-tuning and after it."""
    registry = load_registry()
    scheme, dataset = (registry.component(*each).plugin for each in (("defense", "deepmarks"), ("dataset", "digits")))
    architecture, cpu = registry.component("architecture", dataset.architecture), torch.device("cpu")
    module = sys.modules[type(scheme).__module__]
    right: dict[str, list[float]] = {"": [], ", fine-tuned": []}
    wrong: dict[str, list[float]] = {"": [], ", fine-tuned": []}
    for seed in seeds:
        splits = Data(Path()).splits(dataset, seed, cpu)
        task = Task(dataset, splits.train, splits.holdout, None, Key())
        lent = Engine(
            cpu, torch.Generator().manual_seed(seed), dataset.public(), architecture.plugin, architecture.text
        )
        clean = lent.train(lent.build(), [lent.stream(task.train)], dataset.pretrain)
        lent = replace(lent, clean=clean, pretrained=dataset.pretrain)
        users = torch.randperm(int(scheme.users), generator=lent.generator)[:m].tolist()
        copies = scheme.copies(task, lent, users)
        net, key = clone(copies[0].net), copies[0].key
        with torch.no_grad():
            for parameters in zip(net.parameters(), *(each.net.parameters() for each in copies), strict=True):
                parameters[0].copy_(torch.stack(parameters[1:]).mean(0))
        for when in right:
            if when:
                lent.train(net, [lent.stream(task.train)], dataset.epochs // 2)
            found = module.coalition(module.read(net, key), key.tensors["code"])
            right[when].append(100 * len(found & set(users)) / m)
            wrong[when].append(100 * len(found - set(users)) / (int(scheme.users) - m))
    return [
        Row(
            f"deepmarks, average of {m}{when}",
            right[when],
            wrong[when],
            "%",
            "others that are named",
            interval(right[when]),
        )
        for when in right
    ]


def ran(
    defenses: Sequence[str], attacks: Sequence[str], seeds: Sequence[int], dataset: str, nulls: int = NULLS
) -> harness.api.Run:
    """The run of a claim's cells, which finds the stages of earlier ones finished."""
    return harness.run(
        None,
        datasets=[dataset],
        defenses=list(defenses),
        attacks=list(attacks),
        seeds=seeds,
        nulls=nulls,
        results=RESULTS / dataset,
        jobs=1,
    )


def rates(seeds: Sequence[int], dataset: str, probe: str) -> pd.DataFrame:
    """Counts of one probe of all keys of these seeds, and ``rate``, the share of matches in percent.

    A mark that cannot be read has no trials, and is left out.
    """
    evidence = harness.read_table(RESULTS / dataset, "evidence")
    evidence = evidence[(evidence["probe"] == probe) & evidence["seed"].isin(list(seeds)) & (evidence["trials"] > 0)]
    return evidence.assign(rate=100 * evidence["matches"] / evidence["trials"])


def interval(values: Sequence[float]) -> str:
    """Mean, Student's 95% interval within 0 to 100, and number of some percentages, in words."""
    n, mean = len(values), sum(values) / len(values)
    if n < 2:
        return f"mean {mean:.1f}, n = {n}"
    half = float(student.ppf(0.975, n - 1)) * stdev(values) / n**0.5
    return f"mean {mean:.1f} [{max(0.0, mean - half):.1f}, {min(100.0, mean + half):.1f}], n = {n}"


def command(claims: dict[str, Callable[[Sequence[int]], list[Row]]], module: str, words: str) -> click.Command:
    """The command line of a module of claims."""

    @click.command(epilog=f"Example: python -m benchmarks.{module} --only {next(iter(claims))} --seeds 100-104")
    @click.option(
        "--only", type=click.Choice(sorted(claims)), multiple=True, help="Measure this claim; may be repeated."
    )
    @click.option(
        "--seeds", default=f"{DEVELOPMENT}-{DEVELOPMENT + 4}", show_default=True, help="Seeds, such as 100-104."
    )
    def main(only: tuple[str, ...], seeds: str) -> None:
        from rich.console import Console

        from benchmarks.bench import machine, table

        console = Console(width=220)
        for name in only or sorted(claims):
            console.print(f"{name}: {claims[name].__doc__}", highlight=False)
            console.print(table(claims[name](parse_seeds(seeds))))
        console.print(machine("cpu"), highlight=False)

    main.help = words
    return main


if __name__ == "__main__":
    command(CLAIMS, "claims", "Measure the claims of schemes, and print each arm's mean with its interval.")()
