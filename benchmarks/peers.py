"""What a competent user would write without the harness: the sides that its training code is compared with."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def plain_cnn() -> nn.Module:
    """The paper's CNN for 28 x 28 grey images, of the harness's size, as a textbook has it: ReLU, pooling, NCHW."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * 7 * 7, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )


class PlainLoop:
    """Eager training of :func:`plain_cnn` on float images in memory: shuffled index batches, PyTorch's default Adam.

    No ``DataLoader``: its collation of samples one by one would only make the peer slower.
    """

    def __init__(self, x: Tensor, y: Tensor, batch_size: int) -> None:
        self.x, self.y, self.batch_size = x.float() / 255, y, batch_size
        self.net = plain_cnn()
        self.adam = torch.optim.Adam(self.net.parameters(), lr=1e-3)

    def epoch(self) -> float:
        """One pass over the data; the mean loss."""
        total = 0.0
        chosen = torch.randperm(len(self.x)).split(self.batch_size)
        for batch in chosen:
            self.adam.zero_grad()
            loss = F.cross_entropy(self.net(self.x[batch]), self.y[batch])
            loss.backward()
            self.adam.step()
            total += loss.item()
        return total / len(chosen)


def snnl_by_pairs(x: Tensor, groups: Tensor, temperature: float) -> Tensor:
    """The SNNL with cosine distances as its formula reads: every pair of rows multiplied out, ``[n, n, d]``."""
    x = F.normalize(x.flatten(1), dim=1)
    distances = 1 - (x[:, None] * x[None, :]).sum(2)
    near = torch.exp(-distances / temperature) * (1 - torch.eye(len(x)))
    same = (groups[:, None] == groups[None, :]).float()
    return -torch.log((near * same).sum(1) / near.sum(1) + 1e-5).mean()
