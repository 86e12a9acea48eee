"""Bits in the mean weight of a layer (Uchida et al.)."""

from __future__ import annotations

from typing import Literal

import torch

from harness import Context, Evidence, Key, Loss, Marked, Task, WhiteBoxDefense, losses, nets, option, whitebox


class Uchida(WhiteBoxDefense):
    """Bits that a secret projection of a layer's mean weight says, by their sign.

    The training adds the cross-entropy of the bits, summed and weighted, to the task's. A trial is a bit; unmarked
    models say half of them by chance. ``control`` reads as many bits by another projection that was never embedded.
    There is no ``held_out``: all that is verified was trained.

    The owner keeps the layer's name, the projection and the message, and needs the suspect's weights; one of another
    architecture cannot be read. The paper embeds 256 bits by a strength of 0.01 in 200 epochs of SGD. Here are as many
    bits as fit the smallest built-in nets; the optimizer is the recipe's, in whose shorter trainings a strength of 0.01
    leaves some bits wrong (1 of 64 in two LSTMs of digits; none with 0.03 or 0.1).

    Measured: 5 seeds of digits, victims at 98.3% and unmarked models at 98.1%. Victims say 100% of the bits, also after
    fine-tuning and pruning; unmarked models 50.2% (95%: 48.5 to 51.9), and of a random key victims 52.2% (48.2 to
    56.2). No bit is wrong either in LeNet, LSTM and ResNet-9 (two seeds each) and on 5,000 MNIST images (one).
    """

    name = "uchida"
    reference = "Uchida et al., Embedding Watermarks into Deep Neural Networks, ICMR 2017"

    count: int = option(64, doc="Number of bits; the layer needs a mean weight of twice as many numbers.", at_least=1)
    strength: float = option(0.1, doc="Weight of the bits' summed cross-entropy, the paper's lambda.", above=0)
    layer: str = option("", doc="Hidden layer that carries the bits; empty is the last that convolves, or is dense.")
    start: Literal["scratch", "pretrained"] = option(
        "scratch", doc="Embedding while training, or by fine-tuning the clean model (the paper's Section 4.3)."
    )

    @property
    def from_clean(self) -> bool:
        return self.start == "pretrained"

    def embed(self, task: Task, ctx: Context) -> Marked:
        net = ctx.start()
        layer = whitebox.carrier(net, self.layer)
        secret, other = (whitebox.projection(net, layer, self.count, ctx.generator).to(ctx.device) for _ in range(2))
        message, another = torch.randint(2, (2, self.count), generator=ctx.generator).to(ctx.device)
        stream = ctx.stream(task.train, self.loss(layer, secret, message, task.dataset.label_smoothing))
        tensors = {"layer": whitebox.name_tensor(layer), "projection": secret, "message": message}
        control = {"control_projection": other, "control_message": another}
        return Marked(ctx.train(net, [stream], ctx.epochs), Key(tensors=tensors | control))

    def loss(self, layer: str, secret: torch.Tensor, message: torch.Tensor, label_smoothing: float = 0.0) -> Loss:
        """The task's loss and the weighted cross-entropy of the bits ``message`` ``[bits]``, at the present weights."""

        task_loss = losses.smoothed(label_smoothing)

        def loss(net: nets.Net, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
            said = whitebox.projected(net, layer, secret)
            penalty = torch.nn.functional.binary_cross_entropy_with_logits(said, message.float(), reduction="sum")
            return {"loss": task_loss(net, x, y) + self.strength * penalty, "penalty": penalty}

        return loss

    def verify_weights(self, suspect: nets.Net, key: Key) -> Evidence:
        layer, kept = whitebox.tensor_name(key.tensors["layer"]), key.tensors
        said, noise = (whitebox.projected(suspect, layer, kept[x]) for x in ("projection", "control_projection"))
        counts = {
            "trigger": whitebox.bits(said, kept["message"]),
            "control": whitebox.bits(noise, kept["control_message"]),
        }
        return Evidence(counts)
