"""JSMA: push inputs to other classes a pair of pixels at a time, and look where and how easily it goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from harness import (
    Context,
    Dataset,
    Detection,
    Detector,
    Measure,
    Pool,
    Skip,
    needs_images,
    nets,
    option,
    statistics,
)

EXACT = 1024
"""Features up to which all pairs are searched."""
PAIRS_AT_ONCE = 2**20
"""Pairs held in memory at a time, over inputs: what a cache holds is three times as fast as four times as many."""


class Jsma(Detector):
    """The saliency map attack on some inputs, each to a class of its own; a class that is reached easily is marked.

    Each step saturates the pair of features (p, q) that maximises -alpha beta among those with alpha > 0 > beta, where
    alpha = J_tp + J_tq and beta = sum over j != t of J_jp + J_jq (Papernot et al., Algorithm 3). J is the Jacobian of
    the logits: of probabilities, which sum to 1, beta would be -alpha. A feature is one value of one channel.

    The score is the largest anomaly index of a target's mean share of features changed; the mask is the mean change,
    of all inputs or of those that were pushed to ``target``.

    Measured on 55,000 MNIST images (seeds 0-4, 95% intervals): in copies of EWE by v1's code a third of all places is
    disturbed as much as the patch's (rank 0.34, 0.10 to 0.58), in three models without a mark half (0.50), and copies
    have their index (1.2). Record: 2026-11-29-mnist-v1-detection.

    On 2,000 images (4 seeds): of copies of EWE's `official` recipe it disturbs the patch's place as much as the most
    disturbed 1% of places (rank 0.01, 0 to 0.03), where the paper prints about zero. That is no detection: in three
    models without a mark it disturbs that place as well (rank 0.07), where the target class has ink.
    Record: 2026-11-28-ewe-2021-small.
    """

    name = "jsma"
    reference = (
        "Papernot et al., The Limitations of Deep Learning in Adversarial Settings, EuroS&P 2016, Algorithms 2 and 3"
    )

    images: int = option(
        64, doc="Number of inputs, drawn from the pool; all targets get as many of them, or one more.", at_least=1
    )
    source: int | None = option(
        None, doc="Class whose inputs are drawn, by the model's answers; by default all classes.", at_least=0
    )
    target: int | None = option(None, doc="Class to which the mask's inputs went; by default any.", at_least=0)
    share: float = option(0.145, doc="Largest share of an input's features that is changed.", above=0, at_most=1)
    theta: Literal["brightest", "darkest"] = option(
        "brightest", doc="New value of a chosen feature: the data's largest (theta = +1) or smallest (-1)."
    )
    candidates: int = option(
        512,
        doc="Features whose pairs are searched if there are over 1,024: of the largest J_t / max - sum J_j / max.",
        at_least=2,
        at_most=EXACT,
    )

    def skip(self, dataset: Dataset) -> str | None:
        if reason := needs_images(dataset):
            return reason
        count = len(dataset.classes)
        for name, chosen in (("source", self.source), ("target", self.target)):
            if chosen is not None and chosen >= count:
                return f"{name}={chosen} is none of the {count} classes, 0 to {count - 1}"
        same = self.source is not None and self.source == self.target
        return f"source and target are the same class, {self.source}" if same else None

    def run(self, suspect: nets.Net, pool: Pool, ctx: Context) -> Detection:
        net, classes = suspect.eval().requires_grad_(False), len(pool.recipe.classes)
        x = nets.as_float(self._drawn(net, pool, ctx))
        targets = spread_targets(ctx.predict(net, x).argmax(1), classes)
        to_target = targets == self.target if self.target is not None else torch.ones_like(targets, dtype=torch.bool)
        if not bool(to_target.any()):
            raise Skip(f"of {len(x)} inputs none was pushed to class {self.target}: images must be larger")
        perturbed = self.perturb(net, x, targets, pool.recipe.value_range)
        # Who never got there would have taken more: it counts as all that it may change.
        used = perturbed.used.masked_fill(~perturbed.reached, 2 * perturbed.pairs.shape[1])
        success, shares = (
            torch.stack([values[targets == t].mean() for t in range(classes)]).cpu()
            for values in (perturbed.reached.double(), used.double() / x[0].numel())
        )
        index = torch.from_numpy(statistics.anomaly_index(shares.numpy()))
        return Detection(
            score=float(index.max()),
            threshold=2.0,
            suspected_class=int(index.argmax()) if float(index.max()) > 0 else None,
            mask=(perturbed.x - x)[to_target].abs().mean(0).sum(0),
            measures=(
                Measure("success_rate", success, group="target"),
                Measure("feature_share", shares, group="target"),
                Measure("anomaly_index", index, group="target"),
            ),
        )

    def _drawn(self, net: nets.Net, pool: Pool, ctx: Context) -> torch.Tensor:
        """Inputs ``[n, ...]`` of the pool, of the class ``source`` where there is one."""
        order = torch.randperm(len(pool.x), generator=ctx.generator).to(pool.x.device)
        if self.source is not None:
            order = order[ctx.predict(net, pool.x).argmax(1)[order] == self.source]
            if not len(order):
                raise Skip(f"the model answers none of the {len(pool.x)} inputs of the pool by class {self.source}")
        return pool.x[order[: self.images]]

    def perturb(
        self, net: torch.nn.Module, x: torch.Tensor, targets: torch.Tensor, value_range: tuple[float, float]
    ) -> Perturbed:
        """Push inputs ``[n, ...]`` (float, in ``value_range``) to the ``targets`` ``[n]``, all at once."""
        limit = value_range[1] if self.theta == "brightest" else value_range[0]
        now, reached = x.clone(), torch.zeros(len(x), dtype=torch.bool, device=x.device)
        # Changing a saturated feature changes nothing, so it never is in a pair.
        free = (x != limit).flatten(1)
        steps = int(self.share * free.shape[1] / 2)
        pairs = torch.full((len(x), steps, 2), -1, device=x.device)
        active = torch.arange(len(x), device=x.device)
        for step in range(steps + 1):
            answers, toward, away = _gradients(net, now[active], targets[active])
            there = answers == targets[active]
            reached[active[there]] = True
            if step == steps:
                break
            best, found = self._best_pairs(toward, away, free[active])
            going = found & ~there
            active, best = active[going], best[going]
            if not len(active):
                break
            pairs[active, step] = best
            free[active[:, None], best] = False
            now.flatten(1)[active[:, None], best] = limit
        return Perturbed(now, reached, pairs)

    def _best_pairs(
        self, toward: torch.Tensor, away: torch.Tensor, free: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The pair ``[n, 2]`` of ``free`` features with the largest saliency, and whether there is one ``[n]``.

        ``toward`` and ``away`` ``[n, features]`` are the gradients of the target's logit and of the others' sum.
        """
        sign = 1 if self.theta == "brightest" else -1
        # A pair with a feature that is not free fails both conditions.
        gain = (sign * toward).masked_fill(~free, -torch.inf)
        loss = (-sign * away).masked_fill(~free, -torch.inf)
        if gain.shape[1] <= EXACT:
            return _best_of_all(gain, loss)
        some = _promising(gain, loss, self.candidates)
        best, found = _best_of_all(gain.gather(1, some), loss.gather(1, some))
        return some.gather(1, best), found


@dataclass(frozen=True)
class Perturbed:
    """Inputs as the attack changed them."""

    x: torch.Tensor
    reached: torch.Tensor
    """True where an input is answered as its target: ``[n]`` bool."""
    pairs: torch.Tensor
    """The features changed at each step, of the flattened input: ``[n, steps, 2]``, -1 once an input was done."""

    @property
    def used(self) -> torch.Tensor:
        """Number of features that were changed: ``[n]``."""
        return (self.pairs >= 0).sum((1, 2))


def spread_targets(predicted: torch.Tensor, classes: int) -> torch.Tensor:
    """A target ``[n]`` for each input other than its class ``predicted`` ``[n]``: always the one given out least."""
    given, targets = [0] * classes, []
    for label in predicted.tolist():
        target = min((t for t in range(classes) if t != label), key=lambda t: given[t])
        given[target] += 1
        targets.append(target)
    return torch.tensor(targets, device=predicted.device)


def _gradients(
    net: torch.nn.Module, x: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Answers ``[n]``, and the gradients ``[n, features]`` of the target's logit and of the sum of the others.

    Two rows of J are all that a pair's alpha and beta need.
    """
    x = x.detach().requires_grad_(True)
    logits = net(x)
    target = logits.gather(1, targets[:, None])
    (toward,) = torch.autograd.grad(target.sum(), x, retain_graph=True)
    (away,) = torch.autograd.grad(logits.sum() - target.sum(), x)
    return logits.argmax(1), toward.flatten(1), away.flatten(1)


def _best_of_all(gain: torch.Tensor, loss: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The pair ``[n, 2]`` with the largest product of sums of ``gain`` and of ``loss`` ``[n, k]``, both sums above 0.

    All pairs are tried, some inputs at a time; and whether there is such a pair: ``[n]`` bool.
    """
    features = gain.shape[1]
    best, largest = [], []
    for ups, downs in zip(
        *(values.split(max(1, PAIRS_AT_ONCE // features**2)) for values in (gain, loss)), strict=True
    ):
        # Clamped at 0, a sum that fails its condition makes the product 0; -inf never meets inf, so no NaN.
        saliency = (ups[:, :, None] + ups[:, None, :]).clamp_min_(0)
        saliency *= (downs[:, :, None] + downs[:, None, :]).clamp_min_(0)
        saliency.diagonal(dim1=1, dim2=2).zero_()
        value, place = saliency.flatten(1).max(1)
        best.append(torch.stack([place // features, place % features], 1))
        largest.append(value)
    return torch.cat(best), torch.cat(largest) > 0


def _promising(gain: torch.Tensor, loss: torch.Tensor, count: int) -> torch.Tensor:
    """The ``count`` features ``[n, count]`` of the largest ``gain / max |gain| + loss / max |loss|`` ``[n, k]``.

    At the best pair both sums are near their largest, and there the product's slope weighs them so.
    """

    def scaled(values: torch.Tensor) -> torch.Tensor:
        return values / values.abs().masked_fill(values.isinf(), 0).amax(1, keepdim=True).clamp_min(1e-30)

    return (scaled(gain) + scaled(loss)).topk(count, dim=1).indices
