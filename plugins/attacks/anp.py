"""Removal by pruning the units that are most sensitive to an adversarial perturbation of their weights."""

from __future__ import annotations

import torch

from harness import Context, Loss, Pool, Split, TuningAttack, adversarial, nets, option


class Anp(TuningAttack):
    """Learns a mask of every unit against the worst perturbation of all units' weights, and prunes small masks.

    Masks m in 0..1 minimise alpha CE(m w, b) + (1 - alpha) max CE((m + d) w, (1 + e) b) over |d|, |e| <= epsilon
    (Eqs. 3 to 5), the maximum by one signed step from a random start. Units are the channels of batch norms, or the
    outputs of convolutions and dense layers where there is no batch norm. Weights of a unit whose mask is at most a
    threshold become 0.

    The thief needs inputs, and their labels by default. A fifth of them choose the threshold, the largest of 0, 0.05 to
    0.9 that costs at most ``tolerance`` of the accuracy there: published code chooses it by the mark's success. Batch
    norm keeps its running statistics while masks are learned. Of a recurrent net the dense layers alone have masks.

    Measured on digits (seeds 100-102, mean and 95% interval): a patch falls from 100% to 56% [24, 88] at a cost of 2.0
    points of accuracy, where pruning a fifth of the units leaves 99.7% and costs 7; Adi's triggers from 100% to 81%
    [52, 100] at 3.1 points, where pruning leaves 81% and costs 14. Unmarked models answer 0 and 10%.
    On 5,000 MNIST images it takes 76 CPU-seconds.
    """

    name = "anp"
    reference = "Wu and Wang, Adversarial Neuron Pruning Purifies Backdoored Deep Models, NeurIPS 2021"
    arms = ("", "labels=model")

    steps: int = option(500, doc="Steps by which masks are learned, rounded up to epochs.", at_least=1)
    learning_rate: float = option(0.2, doc="Rate of the masks, by SGD with a momentum of 0.9.", above=0)
    alpha: float = option(0.2, doc="Weight of the loss without a perturbation.", at_least=0, at_most=1)
    epsilon: float = option(0.4, doc="Largest relative change of a unit's weights, and of its bias.", at_least=0)
    tolerance: float = option(
        0.05, doc="Largest loss of accuracy on the part of the thief's inputs that is held out.", at_least=0, at_most=1
    )

    def run(self, victim: nets.Net, pool: Pool, ctx: Context) -> nets.Net:
        data = self.data(victim, pool, ctx)
        data = data[torch.randperm(len(data), generator=ctx.generator).to(data.x.device)]
        held = len(data) // 5
        # Fewer than five inputs are in both parts.
        kept, learned = (data[:held], data[held:]) if held else (data, data)
        layers = masked_layers(victim)
        masks = self.masks(victim, learned, layers, pool.recipe.batch_size, ctx)
        self._prune(victim, layers, masks, kept, ctx)
        return victim

    def masks(self, net: nets.Net, data: Split, layers: dict[str, int], batch_size: int, ctx: Context) -> torch.Tensor:
        """The masks ``[units]`` of all ``layers``, one after the other."""
        masks = torch.ones(sum(layers.values()), device=data.x.device, requires_grad=True)
        epochs = -(-self.steps // max(1, len(data) // batch_size))
        sgd = torch.optim.SGD([masks], self.learning_rate, momentum=0.9)
        stream = ctx.stream(data, self._loss(masks, layers))
        ctx.train(net, [stream], epochs, parameters=[], optimizers=[sgd])
        return masks.detach().clamp_(0, 1)

    def _loss(self, masks: torch.Tensor, layers: dict[str, int]) -> Loss:
        def loss(net: nets.Net, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():  # the last step's projection
                masks.clamp_(0, 1)
            with adversarial.evaluating(net):
                # A random start: a unit that is silent on all inputs has no gradient where nothing is perturbed.
                noise = self.epsilon * (2 * torch.rand(2, len(masks), device=masks.device) - 1)
                noise.requires_grad_(True)
                started = torch.nn.functional.cross_entropy(_answers(net, x, masks.detach(), noise, layers), y)
                (gradient,) = torch.autograd.grad(started, noise)
                worst = (noise.detach() + self.epsilon * gradient.sign()).clamp_(-self.epsilon, self.epsilon)
                perturbed = torch.nn.functional.cross_entropy(_answers(net, x, masks, worst, layers), y)
                clean = torch.nn.functional.cross_entropy(_answers(net, x, masks, torch.zeros_like(worst), layers), y)
            return self.alpha * clean + (1 - self.alpha) * perturbed

        return loss

    def _prune(self, net: nets.Net, layers: dict[str, int], masks: torch.Tensor, kept: Split, ctx: Context) -> None:
        """Prune by the largest threshold that costs little accuracy on ``kept``; nothing where every one costs more."""
        weights = [net.get_parameter(f"{name}.weight") for name in layers]
        whole = [weight.detach().clone() for weight in weights]
        units = masks.split(list(layers.values()))

        def pruned(threshold: float) -> float:
            """The accuracy on ``kept`` once units with masks up to the threshold are pruned."""
            with torch.no_grad():
                for weight, original, mask in zip(weights, whole, units, strict=True):
                    alive = (mask > threshold).view(-1, *(1 for _ in original.shape[1:]))
                    weight.copy_(torch.where(alive, original, 0))
            return float((ctx.predict(net, kept.x).argmax(1) == kept.y).double().mean())

        least = pruned(-1.0) - self.tolerance
        if not any(pruned(step / 20) >= least for step in range(18, -1, -1)):
            pruned(-1.0)


def masked_layers(net: nets.Net) -> dict[str, int]:
    """The layers that have masks, with the numbers of their units."""
    nn = torch.nn
    head = tuple(module for module in net.get_submodule(net.last).modules())
    named = {name: module for name, module in net.named_modules() if not any(module is each for each in head)}
    norms = {
        name: int(module.num_features)
        for name, module in named.items()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine
    }
    return norms or {
        name: len(module.weight)
        for name, module in named.items()
        if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d))
    }


def _answers(
    net: nets.Net, x: torch.Tensor, masks: torch.Tensor, noise: torch.Tensor, layers: dict[str, int]
) -> torch.Tensor:
    """Logits of ``net`` whose units have their weights times mask and noise, and their biases times 1 and noise."""
    sizes = list(layers.values())
    changed = {}
    for name, weight, bias in zip(layers, (masks + noise[0]).split(sizes), (1 + noise[1]).split(sizes), strict=True):
        own = net.get_parameter(f"{name}.weight")
        changed[f"{name}.weight"] = own * weight.view(-1, *(1 for _ in own.shape[1:]))
        if getattr(net.get_submodule(name), "bias", None) is not None:
            changed[f"{name}.bias"] = net.get_parameter(f"{name}.bias") * bias
    logits: torch.Tensor = torch.func.functional_call(net, changed, (x,))
    return logits
