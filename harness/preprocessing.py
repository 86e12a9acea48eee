"""Evasion by preprocessing: a thief's API that transforms each query before the stolen model answers it.

Imported without torch, as plugin files are.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING

from harness.contracts import Evasion

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from harness.nets import Net
    from harness.values import Context, Pool


class Preprocessing(Evasion):
    """Base of the evasions that answer a transformed query: a subclass implements :meth:`transform`.

    Nothing is refused and no weight changes; the price of the transform shows in the accuracy through it. Queries of
    any range are brought to 0..1 by the range of the task's inputs, so that an option means the same on every data set.
    The guard holds ``low`` and ``high``, that range, and ``seed``, from which each call of :meth:`serve` draws: the
    same questions get the same answers.
    """

    def prepare(self, suspect: Net, pool: Pool, ctx: Context) -> Mapping[str, Tensor]:
        """The range and a seed. A subclass that needs more returns it with these."""
        import torch

        low, high = (torch.full((), float(end), device=ctx.device) for end in pool.recipe.value_range)
        return {"low": low, "high": high, "seed": torch.randint(2**31, (), generator=ctx.generator)}

    @abstractmethod
    def transform(self, x: Tensor, guard: Mapping[str, Tensor], generator: Generator) -> Tensor:
        """The queries ``x`` ``[n, ...]``, float in 0..1, transformed: of the same shape, and kept in 0..1 afterwards.

        They are a part of those that are asked. ``generator`` is on the CPU: draw from it and from nothing else.
        """

    @staticmethod
    def unit(x: Tensor, guard: Mapping[str, Tensor]) -> Tensor:
        """Inputs ``x`` of either type as floats in 0..1, by the range in ``guard``; values beyond it are clipped."""
        from harness.inputs import as_float

        return ((as_float(x) - guard["low"]) / (guard["high"] - guard["low"])).clamp(0, 1)

    def serve(self, suspect: Net, inputs: Tensor, logits: Tensor, guard: Mapping[str, Tensor]) -> Tensor:
        """The logits of ``suspect`` for the transformed inputs."""
        import torch

        from harness import nets

        if not len(inputs):
            return logits
        generator = torch.Generator().manual_seed(int(guard["seed"]))
        low, high = guard["low"], guard["high"]
        answers = []
        with torch.inference_mode():
            for part in nets.parts(inputs):
                seen = self.transform(self.unit(part, guard), guard, generator).clamp(0, 1)
                answers.append(suspect(seen * (high - low) + low))
        return torch.cat(answers)
