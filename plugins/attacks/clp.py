"""Removal by pruning the channels that inputs can move most (CLP)."""

from __future__ import annotations

import torch

from harness import Context, Pool, Skip, WhiteBoxAttack, nets, option


class Clp(WhiteBoxAttack):
    """Zeroes the channels whose Lipschitz bound is an outlier in their layer; nothing is trained, and no data are used.

    The bound of a channel is the spectral norm of its weights as a matrix of inputs by positions, times the factor of
    the batch norm that follows, where one does. Channels above the layer's mean plus ``u`` SDs become 0, in dense
    layers those with the longest weights. The last layer, recurrent ones, and those whose outputs are added stay.

    Measured: digits, seeds 100 to 102, shares of matches with 95% intervals, of victims that match 100, 99.5 and 100%
    (uchida, ewe, adi) at 98.2, 96.7 and 97.7% accuracy. With u=3 it leaves 100, 96.5 (84.7 to 100) and 100%, at 98.1,
    93.8 and 97.7%; with u=2 100, 97.0 (84.3 to 100) and 99.7% (98.2 to 100), at 97.6, 91.7 and 97.3%. It removes none
    of these marks.
    """

    name = "clp"
    family = "removal"
    reference = "Zheng et al., Data-Free Backdoor Removal Based on Channel Lipschitzness, ECCV 2022"
    arms = ("", "u=2", "u=1.5")

    u: float = option(3.0, doc="SDs above the mean of its layer from which on a channel is pruned.", at_least=0)

    def run(self, victim: nets.Net, pool: Pool, ctx: Context) -> nets.Net:
        found = layers(victim)
        if not found:
            raise Skip("the model has no hidden layer that convolves or is dense: there are no channels to prune")
        for name, (layer, norm) in found.items():
            bounds = lipschitz(layer, norm)
            victim.silence(name, bounds > bounds.mean() + self.u * bounds.std(correction=0))
        return victim.eval()


def layers(net: nets.Net) -> dict[str, tuple[torch.nn.Module, torch.nn.modules.batchnorm._BatchNorm | None]]:
    """The convolution or dense layer of each hidden layer of ``net`` that has one, and the batch norm after it, if any.

    The norm is of the same hidden layer; of one that is a single module, the module defined after it.
    """
    kinds = (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
    leaves = [part for part in net.modules() if not [*part.children()]]
    found: dict[str, tuple[torch.nn.Module, torch.nn.modules.batchnorm._BatchNorm | None]] = {}
    for name in net.hidden:
        own = [*net.get_submodule(name).modules()]
        if convolving := [part for part in own if isinstance(part, kinds)]:
            layer = convolving[-1]
            after = leaves[leaves.index(layer) + 1]  # the last layer is behind every hidden one
            is_near = len(own) == 1 or any(part is after for part in own)
            norm = after if isinstance(after, torch.nn.modules.batchnorm._BatchNorm) and is_near else None
            found[name] = (layer, norm if norm is not None and norm.affine and norm.track_running_stats else None)
    return found


def lipschitz(layer: torch.nn.Module, norm: torch.nn.modules.batchnorm._BatchNorm | None) -> torch.Tensor:
    """Upper bounds ``[units]`` of the change of a channel, by change of the layer's input."""
    weight = layer.get_parameter("weight").detach()
    bounds: torch.Tensor = torch.linalg.matrix_norm(weight.flatten(2) if weight.ndim > 2 else weight[:, None], ord=2)
    if norm is None:
        return bounds
    spread: torch.Tensor = (norm.get_buffer("running_var") + norm.eps).sqrt()
    return bounds * (norm.get_parameter("weight").detach() / spread).abs()
