"""Claims of extraction attacks, each measured beside what it is compared with: a part of :mod:`benchmarks.attacks`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.claims import arms, interval, ran
from benchmarks.measure import Row
from harness.planning.registry import load_registry

FEW = ("queries=100,epochs=240", "queries=300,epochs=80")
"""Budgets at which a copy is worse than the victim, with about as many samples shown as the recipe shows of all."""


def distillation(seeds: Sequence[int]) -> list[Row]:
    """Hinton et al.: softened probabilities teach more than labels do, at few queries most of all."""
    return copies(
        [
            f"{attack}[{options}{budget}]"
            for budget in FEW
            for attack, options in (
                ("retraining", ""),
                ("retraining", "answers=probabilities,"),
                ("distillation", ""),
                ("distillation", "temperature=20,alpha=0.7,"),
            )
        ],
        seeds,
    )


def knockoff(seeds: Sequence[int]) -> list[Row]:
    """Orekondy et al., section 6: another set's inputs give nearly as good a copy, by probabilities above all."""
    return copies(["retraining", "knockoff", "knockoff[answers=labels]"], seeds)


def smooth_retraining(seeds: Sequence[int]) -> list[Row]:
    """Lukas et al.: the mean answer over augmented copies takes DAWN's mark, which a long retraining keeps."""
    smooth = ("epochs=100", "noise=0.2,epochs=100", "answers=probabilities,noise=0.2,epochs=100")
    attacks = ("none", "retraining[epochs=100]", *(f"smooth-retraining[{each}]" for each in smooth))
    return arms(("dawn[rate=0.05]",), attacks, seeds)


def ensemble(seeds: Sequence[int]) -> list[Row]:
    """Surrogates of disjoint parts outvote a mark in few answers (DAWN), and one that is entangled less (EWE)."""
    attacks = ("none", "retraining[epochs=100]", "ensemble[epochs=100]")
    return arms(("dawn[rate=0.05]",), attacks, seeds) + arms(("ewe",), ("none", "retraining", "ensemble"), seeds)


def jbda(seeds: Sequence[int]) -> list[Row]:
    """Papernot et al., section 4: queries at synthetic neighbours make a better copy of what 150 inputs give."""
    return copies(["retraining[queries=150]", "jbda", "jbda[queries=600]", "retraining[queries=600]"], seeds)


def activethief(seeds: Sequence[int]) -> list[Row]:
    """Pal et al., section 5: chosen queries make a better copy than as many random ones."""
    strategies = ("random", "k-center", "entropy", "margin")
    return copies([f"activethief[queries=300,strategy={each}]" for each in strategies], seeds) + copies(
        [f"activethief[pool=same,queries=300,strategy={each}]" for each in strategies], seeds
    )


def adversarial_extraction(seeds: Sequence[int]) -> list[Row]:
    """Lukas et al.: an adversarially trained copy loses triggers, at a cost in accuracy that grows with epsilon."""
    radii = ("epsilon=0.01", "", "epsilon=0.25")
    attacks = ("none", "retraining", *(f"adversarial-extraction[{each}]".replace("[]", "") for each in radii))
    return arms(("ewe",), attacks, seeds)


def transfer(seeds: Sequence[int]) -> list[Row]:
    """Lukas et al.: a pretrained net needs fewer answers for as good a copy."""
    return copies([f"{name}[{budget}]" for budget in FEW for name in ("retraining", "transfer")], seeds)


def selective_distillation(seeds: Sequence[int]) -> list[Row]:
    """After MarkErase: answers that noise moves carry the mark, and a copy without them loses it."""
    names = ("retraining", "selective-distillation", "selective-distillation[noise=0.2]")
    longer = [f"{name.rstrip(']')}{',' if ']' in name else '['}epochs=100]" for name in names]
    return arms(("ewe",), ("none", *names), seeds) + arms(("dawn[rate=0.05]",), ("none", *longer), seeds)


CLAIMS: dict[str, Callable[[Sequence[int]], list[Row]]] = {
    each.__name__.replace("_", "-"): each
    for each in (
        distillation,
        knockoff,
        smooth_retraining,
        ensemble,
        jbda,
        activethief,
        adversarial_extraction,
        transfer,
        selective_distillation,
    )
}


def copies(attacks: Sequence[str], seeds: Sequence[int], dataset: str = "digits") -> list[Row]:
    """A row an attack on a model without a mark: test inputs that copy and victim answer alike, in percent of each
    seed, beside those of the first attack."""
    attacks = [load_registry().component("attack", each).text for each in attacks]
    cells = ran(("unmarked",), attacks, seeds, dataset, nulls=0).cells()
    alike = {name: (100 * cells.loc[cells["attack"] == name, "agreement"]).tolist() for name in attacks}
    accuracies = cells.groupby("attack")["surrogate_accuracy"].mean()
    peer = f"{attacks[0]}: {interval(alike[attacks[0]])}"
    return [
        Row(
            f"copy by {name}",
            alike[name],
            alike[attacks[0]],
            "%",
            peer,
            f"{interval(alike[name])}; accuracy {accuracies[name]:.1%}",
        )
        for name in attacks
    ]
