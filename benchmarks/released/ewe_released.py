"""EWE at the length of the released code: the work of the run that `official` compares with ours."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import ClassVar

import torch

from harness import Context, Dataset, Defense, Marked, Task, hookimpl, nets
from harness.registry import load_registry
from harness.triggers import LAST_STEPS, ROUNDS, PatchTriggers, _step

HALF = 256
"""Triggers in a batch."""
STEPS = 50
"""At most so many steps against the target for each of them, all rounds together."""


@dataclass(frozen=True)
class AllTriggers(PatchTriggers):
    """As many triggers as MNIST's 24 watermark batches hold, refined batch by batch."""

    count: int = 24 * HALF

    def _refined(self, clean: nets.Net | None, triggers: torch.Tensor, task: Task) -> torch.Tensor:
        assert clean is not None
        others = nets.as_float(task.train.of(task.dataset.target).x)
        parts = (self._moved(clean, part, others, task.dataset) for part in triggers.split(HALF))
        return (torch.cat(list(parts)) * 255).round().byte()

    def _moved(self, clean: nets.Net, part: torch.Tensor, others: torch.Tensor, dataset: Dataset) -> torch.Tensor:
        x, left = nets.as_float(part), STEPS
        for _ in range(ROUNDS):
            while left:
                x, fired = self._away(clean, x, dataset, self.threshold)
                left -= fired
                if not fired:
                    break
            x.requires_grad_(True)
            x = _step(x, self._entanglement(clean, torch.cat([x, others[: len(x)]])), dataset.value_range)
        for _ in range(LAST_STEPS):
            x = self._away(clean, x, dataset, -1)[0]
        return x

    def _away(self, clean: nets.Net, x: torch.Tensor, dataset: Dataset, threshold: float) -> tuple[torch.Tensor, bool]:
        """A step away from the target, where more than ``threshold`` of ``x`` are answered so; and whether they are."""
        x.requires_grad_(True)
        logits = clean(x)
        if float((logits.argmax(1) == dataset.target).float().mean()) <= threshold:
            return x.detach(), False
        return _step(x, -logits[:, dataset.target].sum(), dataset.value_range), True


@dataclass(frozen=True)
class EweReleased(Defense):
    """``ewe[variant=official,origin=in-distribution]`` with :class:`AllTriggers`, and as many passes over them.

    Each watermark epoch has as many watermark batches as an epoch has task batches: several passes.
    """

    name: ClassVar[str] = "ewe-released"

    @property
    def from_clean(self) -> bool:
        return True

    def triggers(self, dataset: Dataset) -> AllTriggers:
        recipe = self._ewe().triggers(dataset)
        assert isinstance(recipe, PatchTriggers)
        return AllTriggers(**asdict(recipe) | {"count": AllTriggers.count})

    def embed(self, task: Task, ctx: Context) -> Marked:
        recipe = task.dataset
        batches, marked = len(task.train) // recipe.batch_size, len(task.triggers.trigger.x) // HALF
        passes = round((recipe.epochs - recipe.pretrain) * batches / max(1, marked))
        longer = replace(recipe, epochs=recipe.pretrain + passes)
        return self._ewe().embed(replace(task, dataset=longer), ctx)

    def _ewe(self) -> Defense:
        ewe: Defense = load_registry().use("defense", "ewe[variant=official,origin=in-distribution]").plugin
        return ewe


@hookimpl
def harness_defenses() -> list[type[Defense]]:
    return [EweReleased]
