"""BlackMarks (Chen et al.): a message of bits, in the groups of classes that adversarial inputs are answered with."""

from __future__ import annotations

import torch

from harness import (
    Context,
    Count,
    Defense,
    Evidence,
    Key,
    Loss,
    Marked,
    Oracle,
    Skip,
    Split,
    Stream,
    Task,
    adversarial,
    nets,
    option,
)

STEPS = 10
"""Points on the way to FGSM's input, of which the first that misleads the clean model is taken."""


class BlackMarks(Defense):
    """A message of bits: adversarial inputs, each answered with a class of the group that its bit names.

    The clean model's classes are put into two groups, 0 and 1, by 2-means of their mean logits. Task inputs are moved
    towards a class of the other group by FGSM, no further than misleads the clean model; the victim learns to answer
    them with their own class. The message takes those of them that the victim reads, and the clean model does not once
    it was trained on without them.

    A trial is one bit, and matches when the answered class is of the group of the key input's own class. ``held_out``
    reads inputs that no model saw, moved in the same way, ``control`` asks these as they are for the group of the class
    that they were then taken for. The owner keeps the inputs and the groups. An unmarked model does not read half of
    the bits: that depends on how far adversarial inputs transfer. A victim of another owner reads most of them.
    Measured: 3 seeds of digits, victims at 97.9%, unmarked models at 98.1%. Of the bits victims say 100%, after
    fine-tuning 95.7% (95%: 90.6 to 100), after pruning 86.3% (65.4 to 100), their copies 50.4% (36.5 to 64.3), unmarked
    models 37.0%, victims of other owners 89% (2 seeds). On 5,000 MNIST images two unmarked models say 71%.
    """

    name = "blackmarks"
    reference = (
        "Chen, Rouhani and Koushanfar, BlackMarks: Blackbox Multibit Watermarking for Deep Neural Networks, "
        "arXiv 1904.00344, 2019"
    )

    bits: int = option(100, doc="Largest number of bits of the message.", at_least=2)
    candidates: int = option(10, doc="Candidates for each bit.", at_least=1)
    epsilon: float = option(0.25, doc="Largest FGSM step, as a share of the range of inputs.", above=0, at_most=1)
    every: float = option(2.0, doc="Task batches for each batch of candidates.", above=0)

    @property
    def from_clean(self) -> bool:
        return True

    def embed(self, task: Task, ctx: Context) -> Marked:
        net = ctx.start()
        groups = two_groups(ctx.predict(net, task.train.x), task.train.y).to(ctx.device)
        order = torch.randperm(len(task.train), generator=ctx.generator)[: self.bits * self.candidates].to(ctx.device)
        candidates, _ = self._misleading(net, task.train[order], groups, task, ctx)
        held_out, plain = self._misleading(net, task.holdout, groups, task, ctx)
        stream = Stream((candidates,), task.dataset.batch_size, message_loss(groups), every=self.every)
        net = ctx.train(net, [ctx.stream(task.train), stream], ctx.epochs)
        unmarked = ctx.train(ctx.start(), [ctx.stream(task.train)], ctx.epochs)
        read, elsewhere = (groups[ctx.predict(each, candidates.x).argmax(1)] for each in (net, unmarked))
        bits = groups[candidates.y]
        chosen = self._message(bits.masked_fill((read != bits) | (elsewhere == bits), -1), ctx.generator)
        probes = {
            "trigger": candidates[chosen],
            "held_out": held_out.first(self.bits),
            "control": plain.first(self.bits),
        }
        return Marked(net, Key(probes, {"groups": groups}))

    def verify(self, suspect: Oracle, key: Key) -> Evidence:
        groups = key.tensors["groups"]
        return Evidence({name: bits_read(suspect, probe, groups) for name, probe in key.probes.items()})

    def _misleading(
        self, net: nets.Net, split: Split, groups: torch.Tensor, task: Task, ctx: Context
    ) -> tuple[Split, Split]:
        """Inputs moved until ``net`` answers a class of the other group, with their own class; and the inputs as they
        are, with that other class. Raises :class:`Skip` where the largest step misleads it on none."""
        known = split[ctx.predict(net, split.x).argmax(1) == split.y]
        x, y = known.x, known.y
        others = (groups[:, None] != groups).float().cpu()[y.cpu()]
        target = torch.multinomial(others, 1, generator=ctx.generator)[:, 0].to(ctx.device)
        plain, span = nets.as_float(x), task.dataset.value_range
        way = adversarial.fgsm(net, x, target, self.epsilon, span, targeted=True) - plain
        moved, taken_for = x, y
        for step in range(1, STEPS + 1):
            here = nets.as_stored(plain + step / STEPS * way, x.dtype)
            answers = ctx.predict(net, here).argmax(1)
            new = (groups[taken_for] == groups[y]) & (groups[answers] != groups[y])
            moved = torch.where(new.view(-1, *(1 for _ in x.shape[1:])), here, moved)
            taken_for = torch.where(new, answers, taken_for)
        found = groups[taken_for] != groups[y]
        if not found.any():
            none = f"no input misleads the clean model with epsilon={self.epsilon}"
            raise Skip(f"{none}, which another step or a better model may give")
        return Split(moved[found], y[found]), Split(x[found], taken_for[found])

    def _message(self, usable: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """The rows of candidates that spell a random message; ``usable`` ``[n]`` is a candidate's bit, or -1."""
        message = torch.randint(2, (self.bits,), generator=generator)
        rows = torch.full_like(message, -1)
        for bit in (0, 1):
            found = (usable.cpu() == bit).nonzero()[:, 0]
            places = (message == bit).nonzero()[:, 0][: len(found)]
            rows[places] = found[: len(places)]
        if int((rows >= 0).sum()) < 2:
            raise Skip("fewer than two candidates are answered by the marked model alone: no message")
        return rows[rows >= 0].to(usable.device)


def bits_read(suspect: Oracle, probe: Split, groups: torch.Tensor) -> Count:
    """Bits of a probe's classes that ``suspect`` answers; a refused query reads none."""
    labels = suspect.labels(probe.x)
    right = (groups[labels.clamp_min(0)] == groups[probe.y]) & (labels >= 0)
    return Count(int(right.sum()), len(right))


def message_loss(groups: torch.Tensor) -> Loss:
    """Cross-entropy, and the mean distance of the soft bit, the probability of group 1, from that of the label."""
    bits = groups.float()

    def loss(net: nets.Net, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        logits = net(x)
        read = logits.softmax(dim=1) @ bits
        value: torch.Tensor = torch.nn.functional.cross_entropy(logits, y) + (read - bits[y]).abs().mean()
        return value

    return loss


def two_groups(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Groups ``[classes]``, 0 or 1, of the classes: 2-means of their mean logits, from the two furthest apart.

    So no group is empty. Computed on the CPU; a class without samples has means of 0.
    """
    sums = torch.zeros(logits.shape[1], logits.shape[1]).index_add_(0, y.cpu(), logits.cpu())
    means = sums / torch.bincount(y.cpu(), minlength=len(sums)).clamp_min(1)[:, None]
    centres = means[[*divmod(int(torch.cdist(means, means).argmax()), len(means))]]
    for _ in range(100):
        groups = torch.cdist(means, centres).argmin(1)
        centres = torch.stack([means[groups == group].mean(0) for group in (0, 1)])
    return groups
