"""Removal by estimating batch norm's statistics again, which trains nothing."""

from __future__ import annotations

import torch

from harness import Context, Pool, Skip, WhiteBoxAttack, nets


class BnReset(WhiteBoxAttack):
    """Puts the moments of the attacker's own inputs in the place of the running statistics of batch norm.

    No weight changes. A mark that lives in statistics which its own training batches moved is gone, and accuracy that
    these had cost comes back; of any other mark, and with inputs like the owner's, nothing should change. Statistics
    are means over shuffled batches of the recipe's size, each normalised by itself, as in "precise batch norm" (Wu and
    Johnson 2021). A model without batch norm is skipped.
    """

    name = "bn-reset"
    family = "removal"
    reference = 'Wu and Johnson, Rethinking "Batch" in BatchNorm, arXiv 2105.07576, Section 3'

    def run(self, victim: nets.Net, pool: Pool, ctx: Context) -> nets.Net:
        norms = [
            module
            for module in victim.eval().modules()
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm) and module.track_running_stats
        ]
        if not norms:
            raise Skip("the model has no batch norm: there are no statistics to estimate again")
        momenta = [norm.momentum for norm in norms]
        for norm in norms:  # dropout stays as it is asked
            norm.train().reset_running_stats()
            norm.momentum = None  # a mean over all batches
        order = torch.randperm(len(pool.x), generator=ctx.generator).to(pool.x.device)
        size = min(max(2, pool.recipe.batch_size), len(order))
        with torch.no_grad():
            for i in range(0, len(order) - size + 1, size):
                victim(pool.x[order[i : i + size]])
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        return victim.eval()
