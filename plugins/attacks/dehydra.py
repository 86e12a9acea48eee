"""Removal by unlearning inputs that the stolen model itself was inverted to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

from harness import Context, Loss, Pool, Split, Stream, TuningAttack, adversarial, nets, option


class Dehydra(TuningAttack):
    """Inverts the model to inputs of each class, which show what it was marked with, and unlearns them.

    Inputs of every class start from noise and minimise the cross-entropy against it, plus their L2 norm, their total
    variation, and the distance of each class's batch-norm statistics from the running ones. Then the model is trained
    on the pool, while its answers to these inputs are drawn to even ones (the KL divergence from uniform). A mark is
    easier to invert to than a class, so unlearning what was found takes the mark and the pool keeps the task.

    The thief needs few inputs and nothing of the scheme. It is the paper's basic variant, with its weights; the
    released code fails before it computes the term of batch norm. Fewer inputs and steps a class (the paper has 250 and
    1,000), all classes in one batch, the recipe's optimizer, and steps of unlearning in the place of epochs differ.

    Measured on digits with a tenth of the pool, by the arm ``learning_rate=0.003,unlearning=1`` (seeds 100-102, mean
    and 95% interval or range; 15 unmarked models), beside fine-tuning by that rate and as many steps. A patch falls
    from 100% to 0.5% [0, 1.6] at a cost of 2.5 points of accuracy, by fine-tuning to 6.3% [0, 19.5] at 0.7, unmarked
    models 0%; MEA-Defender's mixtures to 21% (0 to 45%) at 0.5 points, by fine-tuning to 29% (0 to 72%), unmarked
    models 20%; APP's triggers stay (96 to 99% of three seeds). Most of what it removes, fine-tuning removes too.
    """

    name = "dehydra"
    reference = "Lu et al., Neural Dehydration: Effective Erasure of Black-box Watermarks, CCS 2024 (arXiv 2309.03466)"
    arms = ("", "learning_rate=0.003,unlearning=1")

    images: int = option(32, doc="Inputs that are found for each class.", at_least=1)
    steps: int = option(300, doc="Adam's steps of the inversion.", at_least=1)
    rate: float = option(0.1, doc="Adam's rate, on the arguments of tanh, with a cosine down to 0.", above=0)
    size: float = option(0.01, doc="Weight of an input's L2 norm.", at_least=0)
    variation: float = option(0.03, doc="Weight of an input's total variation.", at_least=0)
    statistics: float = option(0.1, doc="Weight of the distance from batch norm's running statistics.", at_least=0)
    unlearning: float = option(0.125, doc="Weight of the KL divergence of the found inputs' answers.", at_least=0)
    updates: int = option(500, doc="Steps of unlearning, rounded up to epochs.", at_least=1)
    learning_rate: float | None = option(None, doc="Rate of unlearning; by default the recipe's.", above=0)

    def run(self, victim: nets.Net, pool: Pool, ctx: Context) -> nets.Net:
        data = self.data(victim, pool, ctx)
        found = self.inverted(victim, pool, ctx)
        size = min(pool.recipe.batch_size, len(data))
        share = min(max(1, pool.recipe.batch_size // 2), len(found))
        stream = Stream((data, found), size + share, self._loss(size), augment=True, shares=(size, share))
        epochs = -(-self.updates // max(1, len(data) // size))
        return ctx.train(victim, [stream], epochs, learning_rate=self.learning_rate)

    def inverted(self, net: nets.Net, pool: Pool, ctx: Context) -> Split:
        """Inputs of every class that ``net`` is inverted to, in the type of the pool's, labelled with it."""
        labels = torch.arange(len(pool.recipe.classes), device=pool.x.device)
        together = max(1, AT_ONCE // self.images)
        with adversarial.evaluating(net):
            found = [self._invert(net, part, pool, ctx.generator) for part in labels.split(together)]
        x = nets.as_stored(torch.cat(found), pool.x.dtype)
        return Split(x, labels.repeat_interleave(self.images))

    def _invert(self, net: nets.Net, labels: torch.Tensor, pool: Pool, generator: torch.Generator) -> torch.Tensor:
        """Inputs ``[classes * images, ...]`` in the range of the pool's, so many for each of ``labels`` in turn."""
        low, high = pool.recipe.value_range
        y = labels.repeat_interleave(self.images)
        free = torch.randn(len(y), *pool.x.shape[1:], generator=generator).to(y.device).requires_grad_(True)
        adam = torch.optim.Adam([free], lr=self.rate, betas=(0.5, 0.9))
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(adam, self.steps)
        with statistics(net, self.images) as distances:
            for _ in range(self.steps):
                distances.clear()
                x = free.tanh() / 2 + 0.5
                wrong = torch.nn.functional.cross_entropy(net(low + (high - low) * x), y, reduction="sum")
                plain = self.size * norms(x) + self.variation * sum(norms(x.diff(dim=i)) for i in range(2, x.ndim))
                # Means of each class, summed: Adam works element by element, so no class feels how many there are.
                loss = (wrong + plain) / self.images + self.statistics * sum(distances)
                (free.grad,) = torch.autograd.grad(loss, free)
                adam.step()
                cosine.step()
        return low + (high - low) * (free.detach().tanh() / 2 + 0.5)

    def _loss(self, size: int) -> Loss:
        """The cross-entropy of the first ``size`` samples, and the divergence of the others' answers from even ones."""

        def loss(net: nets.Net, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
            logits = net(x)
            kept = torch.nn.functional.cross_entropy(logits[:size], y[:size])
            uneven = -logits[size:].log_softmax(1).mean()  # but for a constant, KL(uniform, answer) over the classes
            return {"loss": kept + self.unlearning * uneven, "uneven": uneven}

        return loss


# Inputs that are inverted to in one batch.
AT_ONCE = 1024


def norms(x: torch.Tensor) -> torch.Tensor:
    """The sum of the L2 norms of inputs ``[n, ...]``."""
    total: torch.Tensor = torch.linalg.vector_norm(x.flatten(1), dim=1).sum()
    return total


@contextmanager
def statistics(net: nets.Net, count: int) -> Iterator[list[torch.Tensor]]:
    """A list to which each batch norm that the net passes adds its distance from the running statistics.

    It is the L2 distance of mean and variance, of each class's ``count`` inputs by themselves, summed over classes.
    """
    distances: list[torch.Tensor] = []

    def measure(norm: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        x = inputs[0]
        x = x.reshape(len(x) // count, count, x.shape[1], -1)
        mean, variance = x.mean((1, 3)), x.var((1, 3), unbiased=False)
        for found, running in ((mean, norm.running_mean), (variance, norm.running_var)):
            assert isinstance(running, torch.Tensor)
            distances.append(torch.linalg.vector_norm(found - running, dim=1).sum())

    with ExitStack() as stack:
        for norm in net.modules():
            if isinstance(norm, torch.nn.modules.batchnorm._BatchNorm) and norm.track_running_stats:
                stack.callback(norm.register_forward_pre_hook(measure).remove)
        yield distances
