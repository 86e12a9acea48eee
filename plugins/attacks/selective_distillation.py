"""Extraction from stable answers alone: inputs whose answer noise moves are left out."""

from __future__ import annotations

import torch

from harness import Context, Extraction, Oracle, Pool, Split, nets, option, statistics


class SelectiveDistillation(Extraction):
    """Asks about noisy copies of each input too, and learns only the answers that they share.

    A mark changes answers in small regions: noise moves an input out of one, or into it. An input is the more suspect
    the more of its copies move to one class, and first of all where that class is the goal of more inputs than chance
    gives it (binomial test, 1%). At most ``drop`` of the inputs are left out; of the others a copy each is learned as
    well, with the input's own answer. An input takes ``copies`` + 1 queries: a budget of q is spent on q / (copies + 1)
    inputs, of a small one with fewer copies on two.

    Written after what the abstract of MarkErase says; the paper's own tests may differ.

    Measured on digits (seeds 100-102, 95% intervals): with DAWN (``rate`` 0.05, 100 epochs) 9% [0, 18] of the log is
    repeated, where retraining has 97% [92, 100], at an accuracy of 98.4%, where the API has 93.7%; with ``noise`` 0.2
    9% [4, 14] at 96.1%. Of EWE's triggers 14% [0, 39] are left, where retraining has 23% [3, 44] and unmarked models
    have 9%. It asks 21 times as many queries.
    """

    name = "selective-distillation"
    reference = "after MarkErase (the abstract alone was at hand)"
    arms = ("", "noise=0.2", "answers=probabilities")

    copies: int = option(20, doc="Noisy copies of each input that are asked.", at_least=1)
    noise: float = option(0.1, doc="SD of the noise of a copy, as a share of the inputs' range.", above=0)
    drop: float = option(0.05, doc="Largest share of the inputs that is left out.", at_least=0, below=1)

    def run(self, victim: Oracle, pool: Pool, ctx: Context) -> nets.Net:
        each = 1 + self.copies
        budget = each * len(pool.x) if self.queries is None else self.queries
        each = max(1, min(each, budget // 2))
        x = pool.x[: budget // each]
        asked = Split(x, self.targets(victim, x, pool))
        moves = torch.zeros(len(x), len(pool.recipe.classes), device=x.device)
        noisy = x
        for _ in range(each - 1):
            noisy = nets.as_stored(nets.noisy(x, self.noise, pool.recipe.value_range, ctx.generator), x.dtype)
            moves += moved_to(self.targets(victim, noisy, pool), asked.y, moves.shape[1])
        kept = suspicion(moves).argsort(descending=True)[int(self.drop * len(x)) :].sort().values
        learned = asked[kept] + Split(noisy, asked.y)[kept]
        return ctx.train(ctx.build(), [ctx.stream(learned.answered())], self.epochs or pool.recipe.epochs)


def moved_to(answers: torch.Tensor, own: torch.Tensor, classes: int) -> torch.Tensor:
    """One in the class ``[n, classes]`` of each answer that is of another class than ``own``, which are answers too."""
    one, other = labels_of(answers), labels_of(own)
    moved = (one != other) & (one >= 0) & (other >= 0)
    return torch.nn.functional.one_hot(one.clamp_min(0), classes).float() * moved[:, None]


def labels_of(answers: torch.Tensor) -> torch.Tensor:
    """Classes ``[n]`` of answers, labels ``[n]`` or probabilities ``[n, classes]``; -1 where the API refused."""
    return answers if answers.ndim == 1 else answers.argmax(1).masked_fill(answers.isnan().any(1), -1)


def suspicion(moves: torch.Tensor) -> torch.Tensor:
    """Score ``[n]`` of inputs, from the number of copies ``[n, classes]`` of each that moved to a class.

    It is the largest number of copies that moved to one class; above all others where that class is the goal of more
    inputs than chance gives it.
    """
    most, goal = moves.max(1)
    goals = torch.nn.functional.one_hot(goal, moves.shape[1]) * (most > 0)[:, None]
    counts = goals.sum(0)
    p_value = statistics.binomial_test(int(counts.max()), int(counts.sum()), 1 / len(counts)) * len(counts)
    if not p_value < 0.01:
        return most
    return most + goals[:, counts.argmax()] * (1 + most.max())
