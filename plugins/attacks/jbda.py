"""Extraction from few inputs: Jacobian-based data augmentation."""

from __future__ import annotations

import torch

from harness import Context, Extraction, Oracle, Pool, Split, adversarial, nets, option


class Jbda(Extraction):
    """Asks about few seeds, and doubles them in rounds by steps along the surrogate's own gradient.

    In each round the surrogate is trained on all answers, and every input x gets a neighbour x + lambda sign(J_y),
    where J_y is the gradient of the surrogate's logit of the class y that the victim answered: there the surrogate says
    most about how it differs. The neighbours, rounded to what an image can hold, are asked next. Training goes on from
    the round before. Of the last round's neighbours that the budget does not pay for, random ones are left out.

    Differences from the paper: the gradient is the logit's, not the probability's, which vanishes where the surrogate
    is sure.

    Measured on digits (seeds 100-102, 95% intervals), agreement with the victim: 88% [78, 97] by 4,800 queries, 90%
    [86, 93] by the first 600, where training on the 150 seeds alone has 82% [72, 92], and on 600 inputs of the task 97%
    [94, 100]. Synthetic neighbours help, and more of them do not.
    """

    name = "jbda"
    reference = "Papernot et al., Practical Black-Box Attacks against Machine Learning, AsiaCCS 2017, Algorithm 1"
    arms = ("", "answers=probabilities")

    queries: int | None = option(
        None, doc="The attacker's budget; by default what the rounds ask: seeds times 2^(rounds - 1).", at_least=1
    )
    epochs: int | None = option(10, doc="Number of epochs of each round; none is the recipe's.", at_least=1)
    seeds: int = option(150, doc="Inputs of the pool, drawn at random, that it begins with.", at_least=1)
    rounds: int = option(6, doc="Number of trainings; before each but the first the inputs are doubled.", at_least=1)
    step: float = option(0.1, doc="Size of a step (lambda), as a share of the inputs' range.", above=0)

    def run(self, victim: Oracle, pool: Pool, ctx: Context) -> nets.Net:
        chosen = torch.randperm(len(pool.x), generator=ctx.generator)[: self.seeds][: self.queries]
        asked = self._asked(victim, pool.x[chosen.to(pool.x.device)], pool)
        net, epochs = ctx.build(), self.epochs or pool.recipe.epochs
        for number in range(self.rounds):
            if number and len(asked) != self.queries:
                x = self._neighbours(net, asked.answered(), pool)
                left = None if self.queries is None else self.queries - len(asked)
                some = torch.randperm(len(x), generator=ctx.generator)[:left]
                asked += self._asked(victim, x[some.sort().values.to(x.device)], pool)
            ctx.train(net, [ctx.stream(asked.answered())], epochs)
        return net

    def _asked(self, victim: Oracle, x: torch.Tensor, pool: Pool) -> Split:
        return Split(x, self.targets(victim, x, pool))

    def _neighbours(self, net: nets.Net, known: Split, pool: Pool) -> torch.Tensor:
        """Inputs, of the pool's type, one step from each of those whose answers are known."""
        labels = known.y if known.y.ndim == 1 else known.y.argmax(1)
        moved = []
        with adversarial.evaluating(net), torch.enable_grad():
            for x, y in zip(nets.parts(known.x), nets.parts(labels), strict=True):
                x = nets.as_float(x).detach().requires_grad_(True)
                score = net(x).gather(1, y[:, None]).sum()
                moved.append(adversarial.signed_step(x, score, self.step, pool.recipe.value_range))
        return nets.as_stored(torch.cat(moved), known.x.dtype)
