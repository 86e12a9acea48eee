"""Claims of attacks that remove marks from stolen weights by pruning, rounding, shifting or fine-tuning.

``python -m benchmarks.attacks --only weight-shifting --seeds 100-102``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.claims import arms
from benchmarks.measure import Row

MARKS = ("uchida", "ewe", "adi")
"""A mark in weights, an entangled one, and one of images without a rule."""


def compression(seeds: Sequence[int]) -> list[Row]:
    """Lukas et al.: pruning and rounding of weights remove no mark from a model that stays useful."""
    pruned = ("weight-pruning", "weight-pruning[fraction=0.8]", "weight-pruning[fraction=0.9,epochs=3]")
    rounded = ("weight-quantization", "weight-quantization[bits=4]", "weight-quantization[bits=3]")
    return arms(MARKS, ("none", *pruned, *rounded), seeds)


def weight_shifting(seeds: Sequence[int]) -> list[Row]:
    """Lukas et al.: shifted weights lose the bits in their mean, at little cost after fine-tuning."""
    return arms(MARKS, ("none", "weight-shifting", "weight-shifting[noise=0]"), seeds)


def tuning(seeds: Sequence[int]) -> list[Row]:
    """Shafieinejad et al., Lukas et al.: weight decay or smoothed answers remove triggers that fine-tuning keeps."""
    return arms(MARKS, ("none", "fine-tuning", "label-smoothing", "regularization"), seeds)


def refit(seeds: Sequence[int]) -> list[Row]:
    """Chen et al., section 5: a large rate that decays removes marks that fine-tuning keeps, also from few data."""
    attacks = ("refit", "refit[learning_rate=0.15,ewc=10,clip_norm=5]", "refit[pool_share=0.2]")
    return arms(MARKS, ("none", "fine-tuning", *attacks), seeds)


def adversarial_training(seeds: Sequence[int]) -> list[Row]:
    """TransFP's authors: adversarial training erases what rests on a model's boundary, a fingerprint most of all."""
    attacks = ("none", "adversarial-training", "adversarial-training[method=trades]")
    return arms((*MARKS, "ipguard"), attacks, seeds)


def overwriting(seeds: Sequence[int]) -> list[Row]:
    """Lukas et al.: a second mark of the same scheme takes the place of the first."""
    return arms((*MARKS, "app", "deepsigns"), ("none", "fine-tuning", "overwriting"), seeds)


def purification(seeds: Sequence[int]) -> list[Row]:
    """Li, Zheng, Zhu and Min et al.: defenses against backdoors remove triggers at little cost."""
    return arms(MARKS, ("none", "nad", "clp", "clp[u=2]", "ft-sam", "ft-sam[rho=1]", "fst"), seeds)


CLAIMS: dict[str, Callable[[Sequence[int]], list[Row]]] = {
    each.__name__.replace("_", "-"): each
    for each in (compression, weight_shifting, tuning, refit, adversarial_training, overwriting, purification)
}
