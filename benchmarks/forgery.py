"""Claims of forgeries: how often models answer a forged key, beside the owner's key.

``python -m benchmarks.attacks --only false-claim --seeds 100-102``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.claims import interval, ran, rates
from benchmarks.measure import Row


def forged(defenses: Sequence[str], attack: str, seeds: Sequence[int], dataset: str = "digits") -> list[Row]:
    """A row a scheme: matches of unmarked models to forged keys, in percent, beside those to the owner's."""
    ran(defenses, ("none", attack), seeds, dataset)
    evidence = rates(seeds, dataset, "trigger")
    rows = []
    for defense in defenses:
        by_attack = dict(iter(evidence[evidence["defense"] == defense].groupby("attack")))
        if attack not in by_attack:
            continue
        said = {who: part["rate"].tolist() for who, part in by_attack[attack].groupby("suspect", observed=True)}
        own = by_attack["none"]
        honest = own[own["suspect"] == "null"]["rate"].tolist()
        note = f"{interval(said['null'])}; owner's victims {interval(said['victim'])}"
        note += f"; forger's models {interval(said['surrogate'])}"
        rows.append(Row(f"{defense}, {attack}", said["null"], honest, "%", f"owner's key: {interval(honest)}", note))
    return rows


def false_claim(seeds: Sequence[int]) -> list[Row]:
    """Liu et al. 2024: keys of adversarial inputs that transfer are answered by models of nobody who copied."""
    schemes = ("adi", "zhang-content", "frontier-stitching", "ewe", "mbw")
    return forged(schemes, "false-claim", seeds)


def ambiguity(seeds: Sequence[int]) -> list[Row]:
    """A second key of the same scheme, embedded by a thief: on his model it answers, on the owner's it should not."""
    return forged(("adi", "zhang-content", "uchida", "baseline"), "ambiguity", seeds)


def random_keys(seeds: Sequence[int]) -> list[Row]:
    """The best of a thousand keys that nobody embedded: the far end of what an unmarked model answers by chance."""
    return forged(("adi", "zhang-unrelated", "zhang-content", "uchida", "baseline", "ewe"), "random-keys", seeds)


CLAIMS: dict[str, Callable[[Sequence[int]], list[Row]]] = {
    **{"false-claim": false_claim, "ambiguity": ambiguity, "random-keys": random_keys},
}
