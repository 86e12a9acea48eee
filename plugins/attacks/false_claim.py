"""A false claim: inputs that models of the accuser's own answer wrongly, and innocent ones too."""

from __future__ import annotations

import torch

from harness import (
    Context,
    Forgery,
    Key,
    Marked,
    Oracle,
    Pool,
    Skip,
    Split,
    WhiteBoxDefense,
    adversarial,
    nets,
    option,
    triggers,
)


class FalseClaim(Forgery):
    """Registers adversarial inputs that transfer as a key, before the models that it accuses exist.

    The accuser trains ``models`` nets on labelled data of the task, and moves inputs within ``epsilon`` towards random
    wrong classes by the momentum method on the nets' mean answer (Dong et al., CVPR 2018). The ``count`` that the nets
    are surest of are the triggers, the next ``count`` are ``held_out``; ``control`` asks the inputs as they were. The
    suspect is never asked, so no commitment helps: what helps is to ask the key of unmarked models.

    Differences from the paper: only classes are aimed at, with nets of the task's own architecture.

    Measured on digits (3 keys of seeds 100 to 102, 5 unmarked models each): unmarked models answer 100% of every forged
    key, as often as the accuser's own nets, where they answer 12% of Adi's honest keys, 5% of Zhang's (content), 55% of
    frontier stitching's, 9% of EWE's and 0% of MBW's. Victims of these schemes answer 84% (MBW) to 100%.
    """

    name = "false-claim"
    reference = "Liu et al., False Claims against Model Ownership Resolution, USENIX Security 2024"
    labelled = True
    needs_suspect = False

    models: int = option(3, doc="Number of the accuser's own nets.", at_least=1)
    count: int = option(100, doc="Largest number of inputs in the key.", at_least=1)
    epsilon: float = option(0.3, doc="Largest change of an input's value, as a share of the range.", above=0, at_most=1)
    steps: int = option(20, doc="Steps of each input.", at_least=1)
    momentum: float = option(1.0, doc="Share of the earlier gradients in each step.", at_least=0)

    def run(self, suspect: nets.Net | None, pool: Pool, ctx: Context) -> Marked:
        scheme = pool.scheme
        if scheme is None or isinstance(scheme, WhiteBoxDefense):
            raise Skip("the scheme's key is no set of labelled inputs")
        data = Split(pool.x, pool.labels())
        own = [ctx.train(ctx.build(), [ctx.stream(data)], pool.recipe.epochs) for _ in range(self.models)]
        key = self._key(own, data, pool, ctx)
        try:
            scheme.verify(Oracle(lambda x: ctx.predict(own[0], x)), key)
        except KeyError as error:
            raise Skip(f"{scheme.name} verifies with {error} too, which no input is") from error
        return Marked(own[0], key)

    def _key(self, own: list[nets.Net], data: Split, pool: Pool, ctx: Context) -> Key:
        classes = len(pool.recipe.classes)
        some = data[torch.randperm(len(data), generator=ctx.generator)[: 8 * self.count].to(ctx.device)]
        away = torch.randint(1, classes, (len(some),), generator=ctx.generator).to(ctx.device)
        wrong = (some.y + away) % classes
        moved = nets.as_stored(self._moved(own, some.x, wrong, pool.recipe.value_range), some.x.dtype)
        sure = torch.stack([ctx.predict(net, moved).softmax(1) for net in own]).mean(0)
        best = sure.gather(1, wrong[:, None])[:, 0].argsort(descending=True)
        half = min(self.count, len(best) // 2)
        first, second = best[:half], best[half : 2 * half]
        trigger = Split(moved[first], wrong[first])
        opening = torch.randint(256, (half, 32), generator=ctx.generator).byte()
        probes = {
            **{"trigger": trigger, "held_out": Split(moved[second], wrong[second])},
            **{"control": Split(some.x[first], wrong[first])},
        }
        return Key(probes, {"opening": opening, "commitment": triggers.commitments(trigger, opening)})

    def _moved(self, own: list[nets.Net], x: torch.Tensor, wrong: torch.Tensor, span: adversarial.Span) -> torch.Tensor:
        """Inputs ``[n, ...]`` float within ``epsilon`` of ``x``, towards the classes ``wrong`` ``[n]`` in all nets."""
        bound = self.epsilon * (span[1] - span[0])
        step = bound / self.steps
        moved = []
        for start, aimed in zip(nets.parts(x), nets.parts(wrong), strict=True):
            start = now = nets.as_float(start)
            gone = torch.zeros_like(start)
            for _ in range(self.steps):
                now = now.detach().requires_grad_(True)
                with torch.enable_grad():
                    gradient = torch.autograd.grad(self._loss(own, now, aimed), now)[0]
                each = gradient.abs().flatten(1).mean(1).clamp_min(1e-12)
                gone = self.momentum * gone + gradient / each.view(-1, *(1 for _ in x.shape[1:]))
                now = torch.clamp(now - step * gone.sign(), start - bound, start + bound).clamp(*span)
            moved.append(now.detach())
        return torch.cat(moved)

    @staticmethod
    def _loss(own: list[nets.Net], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The cross-entropy of the nets' mean logits, summed."""
        with adversarial.evaluating(torch.nn.ModuleList(own)):
            mean = torch.stack([net(x) for net in own]).mean(0)
        return torch.nn.functional.cross_entropy(mean, y, reduction="sum")
