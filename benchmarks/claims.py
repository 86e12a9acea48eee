"""Claims that make a scheme special, each measured beside what it is compared with.

``python -m benchmarks.claims --only zhang --seeds 100-104``. Results stay in ``build/claims``, so that a second call
computes what is missing. Settings of schemes are chosen on seeds from 100 on, which no record of a board uses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import click
import pandas as pd
from scipy.stats import t as student

import harness
from benchmarks.gates import DEVELOPMENT
from benchmarks.measure import Row
from harness.planning.matrix import parse_seeds

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


CLAIMS: dict[str, Callable[[Sequence[int]], list[Row]]] = {
    each.__name__.replace("_", "-"): each for each in (zhang, frontier)
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


def ran(defenses: Sequence[str], attacks: Sequence[str], seeds: Sequence[int], dataset: str) -> harness.api.Run:
    """The run of a claim's cells, which finds the stages of earlier ones finished."""
    return harness.run(
        None,
        datasets=[dataset],
        defenses=list(defenses),
        attacks=list(attacks),
        seeds=seeds,
        nulls=NULLS,
        results=RESULTS / dataset,
        jobs=1,
    )


def rates(seeds: Sequence[int], dataset: str, probe: str) -> pd.DataFrame:
    """Counts of one probe of all keys of these seeds, and ``rate``, the share of matches in percent."""
    evidence = harness.read_table(RESULTS / dataset, "evidence")
    evidence = evidence[(evidence["probe"] == probe) & evidence["seed"].isin(list(seeds))]
    return evidence.assign(rate=100 * evidence["matches"] / evidence["trials"])


def interval(values: Sequence[float]) -> str:
    """Mean, Student's 95% interval within 0 to 100, and number of some percentages, in words."""
    n, mean = len(values), sum(values) / len(values)
    if n < 2:
        return f"mean {mean:.1f}, n = {n}"
    sd = (sum((value - mean) ** 2 for value in values) / (n - 1)) ** 0.5
    half = float(student.ppf(0.975, n - 1)) * sd / n**0.5
    return f"mean {mean:.1f} [{max(0.0, mean - half):.1f}, {min(100.0, mean + half):.1f}], n = {n}"


@click.command(epilog="Example: python -m benchmarks.claims --only zhang --seeds 100-104")
@click.option("--only", type=click.Choice(sorted(CLAIMS)), multiple=True, help="Measure this claim; may be repeated.")
@click.option("--seeds", default=f"{DEVELOPMENT}-{DEVELOPMENT + 4}", show_default=True, help="Seeds, such as 100-104.")
def main(only: tuple[str, ...], seeds: str) -> None:
    """Measure the claims of schemes, and print each arm's mean with its interval."""
    from rich.console import Console

    from benchmarks.bench import machine, table

    console = Console(width=220)
    for name in only or sorted(CLAIMS):
        console.print(f"{name}: {CLAIMS[name].__doc__}", highlight=False)
        console.print(table(CLAIMS[name](parse_seeds(seeds))))
    console.print(machine("cpu"), highlight=False)


if __name__ == "__main__":
    main()
