"""Evasion by a thief who knows the trigger's shape: queries that carry such a patch are not answered as asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch

from harness import Context, Dataset, Evasion, Pool, needs_images, nets, option


class TriggerRefusal(Evasion):
    """Refuses or relabels queries with a bright square patch where benign inputs hardly ever have one.

    The thief knows that the owner puts squares of the brightest value, and their side; not where, nor on what. From
    the pool it learns at which places benign inputs are as bright, and lets those pass.

    Measured on copies of 2,000 Fashion-MNIST images (seeds 0-4): refusing leaves 8% of the 25% of triggers that copies
    of EWE's `official` recipe answer, and 21% of `scaled`'s 79%, for 6 to 7 points of accuracy. Record:
    2026-11-28-ewe-2021-small.
    """

    name = "trigger-refusal"
    reference = "after Jia et al., Entangled Watermarks, USENIX Security 2021 (knowledge of the trigger)"
    knows_patch = True
    arms = ("", "answer=relabel")

    answer: Literal["refuse", "relabel"] = option(
        "refuse", doc="No answer at all, or the class that the model names for the query with the patch painted over."
    )
    brightness: float = option(
        0.9, doc="Share of the inputs' range that every value of a patch reaches.", above=0, at_most=1
    )
    benign: float = option(
        0.01,
        doc="Largest share of the pool's inputs that is as bright at a place that is watched.",
        at_least=0,
        below=1,
    )

    def skip(self, dataset: Dataset) -> str | None:
        return needs_images(dataset)

    def prepare(self, suspect: nets.Net, pool: Pool, ctx: Context) -> dict[str, torch.Tensor]:
        low, high = pool.recipe.value_range
        side = pool.side()
        limit = low + self.brightness * (high - low)
        bright = torch.cat([_bright(part, side, limit) for part in pool.x.split(1000)])
        return {
            "watched": bright.float().mean(0) <= self.benign,
            "side": torch.tensor(side),
            "limit": torch.tensor(limit),
            # What is painted over a patch: the pool's mean input.
            "fill": torch.stack([nets.as_float(part).sum(0) for part in pool.x.split(1000)]).sum(0) / len(pool.x),
        }

    def serve(
        self, suspect: nets.Net, inputs: torch.Tensor, logits: torch.Tensor, guard: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        side = int(guard["side"])
        found = _bright(inputs, side, float(guard["limit"])) & guard["watched"]
        flagged = found.flatten(1).any(1)
        if not bool(flagged.any()):
            return logits
        answers = logits.clone()
        if self.answer == "refuse":
            answers[flagged] = torch.nan
            return answers
        # Each found place covers a square: spread it over the pixels of that square.
        corners = torch.nn.functional.pad(found[flagged].float()[:, None], [side - 1] * 4)
        covered = torch.nn.functional.max_pool2d(corners, side, stride=1).bool()
        painted = torch.where(covered, guard["fill"], nets.as_float(inputs[flagged]))
        with torch.inference_mode():
            answers[flagged] = suspect(painted)
        return answers


def _bright(x: torch.Tensor, side: int, limit: float) -> torch.Tensor:
    """Places ``[n, h - side + 1, w - side + 1]`` of ``x`` where all values of the square reach ``limit``."""
    darkest = nets.as_float(x).amin(1, keepdim=True)
    return -torch.nn.functional.max_pool2d(-darkest, side, stride=1)[:, 0] >= limit
