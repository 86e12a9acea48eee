"""Extraction with another set's inputs: knockoff nets."""

from __future__ import annotations

import torch

from harness import Answers, Context, Extraction, Oracle, Pool, Split, nets


class Knockoff(Extraction):
    """Asks the victim about inputs of another data set, drawn at random, and trains a fresh net on the answers.

    The thief has no input of the task: ``pool`` is the data set's out-of-distribution partner, or any other set that is
    named, resized to the task's inputs. Its true labels are never used. Difference from the paper: such a pool has as
    many inputs as the owner has, where the paper's has up to twenty times as many; its adaptive policy, which it found
    to be worth little, is not here.

    Measured on digits by 1,347 patches of a photograph (seeds 100-102, 95% intervals), agreement with the victim: 41%
    [29, 53] by probabilities and 20% [0, 42] by labels, where the owner's own inputs give 98.8% [98, 100]. With patches
    of the photograph of which triggers are made as well it was 68% [61, 74] and 51% [38, 63].
    """

    name = "knockoff"
    reference = "Orekondy, Schiele and Fritz, Knockoff Nets, CVPR 2019, Section 4"
    arms = ("", "answers=labels")

    pool: str = "ood"
    answers: Answers = "probabilities"

    def run(self, victim: Oracle, pool: Pool, ctx: Context) -> nets.Net:
        order = torch.randperm(len(pool.x), generator=ctx.generator)[: self.queries].to(pool.x.device)
        x = pool.x[order]
        stolen = Split(x, self.targets(victim, x, pool)).answered()
        return ctx.train(ctx.build(), [ctx.stream(stolen)], self.epochs or pool.recipe.epochs)
