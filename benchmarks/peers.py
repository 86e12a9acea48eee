"""Training code as a competent user would write it without the harness: the sides that the engine is compared with."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.ceilings import precision

# --- nets, as a textbook has them -------------------------------------------------------------------------------------


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


class PlainLstm(nn.Module):
    """The paper's speech model for spectrograms ``[n, 1, time, 80]``, of the harness's size."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(80, 128, batch_first=True)
        self.dense = nn.Linear(128, 128)
        self.logits = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[n, 10]``."""
        states: Tensor = self.lstm(x.squeeze(1))[0]
        logits: Tensor = self.logits(F.relu(self.dense(states[:, -1])))
        return logits


class Block(nn.Module):
    """A basic block of ResNet-18: two 3x3 convolutions with batch norm, added to their input."""

    def __init__(self, channels: int, units: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, units, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(units)
        self.conv2 = nn.Conv2d(units, units, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(units)
        self.shortcut = nn.Sequential()
        if stride != 1 or channels != units:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, units, 1, stride, bias=False), nn.BatchNorm2d(units))

    def forward(self, x: Tensor) -> Tensor:
        """The block's output, after its ReLU."""
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


def plain_resnet18() -> nn.Module:
    """ResNet-18 for 32 x 32 colour images: a 3x3 stem without pooling, eight basic blocks."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    channels = 64
    for units, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        layers += [Block(channels, units, stride), Block(units, units, 1)]
        channels = units
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


class PlainResNet9(nn.Module):
    """The harness's ``resnet9`` by hand: a stem, three stages of a pooled convolution and one that is added."""

    def __init__(self, width: int = 32, classes: int = 10) -> None:
        super().__init__()
        channels = 3 * width // 4
        self.stem = nn.Sequential(nn.Conv2d(3, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))
        self.pooled, self.added = nn.ModuleList(), nn.ModuleList()
        for units in (width, 4 * width, 4 * width):
            first = nn.Conv2d(channels, units, 3, padding=1, bias=False)
            self.pooled.append(nn.Sequential(first, nn.MaxPool2d(2), nn.BatchNorm2d(units)))
            self.added.append(nn.Sequential(nn.Conv2d(units, units, 3, padding=1, bias=False), nn.BatchNorm2d(units)))
            channels = units
        self.logits = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[n, classes]``."""
        x = F.relu(self.stem(x))
        for pooled, added in zip(self.pooled, self.added, strict=True):
            x = F.relu(pooled(x))
            x = F.relu(x + added(x))
        logits: Tensor = self.logits(x.amax((2, 3)))
        return logits


# --- loops ------------------------------------------------------------------------------------------------------------


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


class LoaderLoop:
    """A textbook's training of a net on floats in memory: a shuffling ``DataLoader``, eager, PyTorch's default Adam."""

    def __init__(self, net: nn.Module, x: Tensor, y: Tensor, batch_size: int) -> None:
        data = TensorDataset(x.float() / 255 if x.dtype == torch.uint8 else x, y)
        self.loader = DataLoader(data, batch_size, shuffle=True, num_workers=0)
        self.net = net
        self.adam = torch.optim.Adam(net.parameters(), lr=1e-3)

    def epoch(self) -> float:
        """One pass over the data; the mean loss."""
        self.net.train()
        total = 0.0
        for x, y in self.loader:
            self.adam.zero_grad()
            loss = F.cross_entropy(self.net(x), y)
            loss.backward()
            self.adam.step()
            total += loss.item()
        return total / len(self.loader)


class FastLoop:
    """Training of a net as an engineer who wants speed on one GPU writes it by hand.

    All data on the device as ``uint8``, batches by index, channels last, bfloat16, a fused optimizer, and the whole
    step as one CUDA graph; ``compiled`` fuses the operations within it too. On a CPU the same, without the graph.
    """

    def __init__(self, plain: nn.Module, x: Tensor, y: Tensor, batch_size: int, compiled: bool = False) -> None:
        """``plain`` is the net: ResNet-18 learns by Adam, ResNet-9 by SGD with Nesterov's momentum, as airbench's."""
        self.x, self.y, self.batch_size, device = x, y, batch_size, x.device
        net = plain.to(device)
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs do not know it
        self.net = torch.compile(net) if compiled else net
        self.optimizer: torch.optim.Optimizer
        if isinstance(plain, PlainResNet9):
            self.optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, nesterov=True, fused=True)
        else:
            capturable = device.type == "cuda"
            self.optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True, capturable=capturable)
        self.chosen = torch.zeros(batch_size, dtype=torch.int64, device=device)
        self.total = torch.zeros((), device=device)
        self.step = captured(self._step, device)

    def _step(self) -> None:
        x = self.x.index_select(0, self.chosen).contiguous(memory_format=torch.channels_last)
        self.optimizer.zero_grad()
        with precision("bf16", self.x.device):
            loss = F.cross_entropy(self.net(x.float() / 255), self.y.index_select(0, self.chosen))
        loss.backward()
        self.optimizer.step()
        self.total += loss.detach()

    def epoch(self) -> float:
        """One pass over the data; the mean loss."""
        self.total.zero_()
        order = torch.randperm(len(self.x), device=self.x.device)
        steps = len(order) // self.batch_size
        for batch in order[: steps * self.batch_size].view(steps, -1):
            self.chosen.copy_(batch)
            self.step()
        return self.total.item() / steps


def captured(step: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """``step`` recorded as a CUDA graph, after three calls that warm it up; itself on a CPU."""
    if device.type == "cpu":
        return step
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=side):
        step()
    return graph.replay


# --- losses -----------------------------------------------------------------------------------------------------------


def snnl_by_pairs(x: Tensor, groups: Tensor, temperature: float) -> Tensor:
    """The SNNL with cosine distances as its formula reads: every pair of rows multiplied out, ``[n, n, d]``."""
    x = F.normalize(x.flatten(1), dim=1)
    distances = 1 - (x[:, None] * x[None, :]).sum(2)
    near = torch.exp(-distances / temperature) * (1 - torch.eye(len(x)))
    same = (groups[:, None] == groups[None, :]).float()
    return -torch.log((near * same).sum(1) / near.sum(1) + 1e-5).mean()
