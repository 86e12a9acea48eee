"""Evasion by a thief who knows the trigger's shape: queries that carry such a patch are not answered as asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from harness import Attack, Context, Dataset, Evasion, Pool, Skip, hookimpl, nets, require


@dataclass(frozen=True)
class TriggerRefusal(Evasion):
    """Refuses or relabels queries with a bright square patch where benign inputs hardly ever have one.

    The thief knows that the owner puts squares of the brightest value, and their side; not where, nor on what. From
    the pool it learns at which places benign inputs are as bright, and lets those pass.
    """

    name: ClassVar[str] = "trigger-refusal"
    reference: ClassVar[str] = "after Jia et al., Entangled Watermarks, USENIX Security 2021 (knowledge of the trigger)"
    knows_patch: ClassVar[bool] = True
    arms: ClassVar[tuple[str, ...]] = ("", "answer=relabel")

    answer: Literal["refuse", "relabel"] = "refuse"
    """No answer at all, or the class that the model names for the query with the patch painted over."""
    brightness: float = 0.9
    """A patch is where every value reaches this share of the inputs' range."""
    benign: float = 0.01
    """Places where more than this share of the pool's inputs is as bright are not watched."""

    def __post_init__(self) -> None:
        require(0 < self.brightness <= 1, f"brightness must be in (0, 1], not {self.brightness}")
        require(0 <= self.benign < 1, f"benign must be in [0, 1), not {self.benign}")

    def skip(self, dataset: Dataset) -> str | None:
        return None if len(dataset.input_shape) == 3 else "patches need images"

    def prepare(self, suspect: torch.nn.Module, pool: Pool, ctx: Context) -> dict[str, torch.Tensor]:
        low, high = pool.recipe.value_range
        side = pool.patch or 0
        if not 1 <= side <= min(pool.x.shape[2:]):
            raise Skip(f"a patch of side {side} does not fit the inputs")
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
        self, suspect: torch.nn.Module, inputs: torch.Tensor, logits: torch.Tensor, guard: Mapping[str, torch.Tensor]
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
    """At which places ``[n, h - side + 1, w - side + 1]`` of ``x`` all values of the square reach ``limit``."""
    darkest = nets.as_float(x).amin(1, keepdim=True)
    return -torch.nn.functional.max_pool2d(-darkest, side, stride=1)[:, 0] >= limit


@hookimpl
def harness_attacks() -> list[type[Attack]]:
    return [TriggerRefusal]
