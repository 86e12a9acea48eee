"""The training engine: data on the device, batches by index, no host synchronisation within an epoch.

Every net of the harness is trained here. A plugin describes its batches as :class:`harness.Stream` and calls
:meth:`harness.Context.train`; it never loops over epochs.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from harness import losses
from harness.contracts import Architecture, Context, Loss, Recipe, Split, Stream
from harness.nets import Net, seeded

# The released EWE code's Adam, which the prototypes behind the recipes used for every model.
BETAS = (0.9, 0.99)
EPSILON = 1e-5
EVALUATION_BATCH = 1000


@dataclass
class Engine(Context):
    """What a stage lends its plugin: see :class:`harness.Context`."""

    device: torch.device
    generator: torch.Generator
    recipe: Recipe
    """What everybody may know: an attack is lent this engine too."""
    architecture: Architecture
    architecture_text: str
    clean: Net | None = None
    """The clean model, for plugins that declared ``from_clean``."""
    curves: list[dict[str, list[float]]] = field(default_factory=list)
    """One entry a training: means over each epoch's batches, by quantity."""
    watch: bool = False
    """Whether to keep the weights after each epoch, for the harness to measure when the plugin is done."""
    snapshots: list[tuple[Net, list[dict[str, Tensor]]]] = field(default_factory=list)
    """One entry a training: the net, and its weights after each epoch."""

    def build(self) -> Net:
        shape, classes = self.recipe.input_shape, len(self.recipe.classes)
        with seeded(self.generator):
            net = self.architecture.build(shape, classes)
        net.description = {
            "architecture": self.architecture_text,
            "input_shape": list(shape),
            "classes": classes,
        }
        return on_device(net, self.device)

    def start(self) -> Net:
        return self.build() if self.clean is None else clone(self.clean)

    def stream(self, split: Split, loss: Loss | None = None) -> Stream:
        return Stream((split,), self.recipe.batch_size, loss, augment=True)

    def predict(self, net: nn.Module, x: Tensor) -> Tensor:
        return predict(net, x)

    def train(
        self,
        net: Net,
        streams: Sequence[Stream],
        epochs: int,
        *,
        learning_rate: float | None = None,
        parameters: Sequence[nn.Parameter] | None = None,
        optimizers: Sequence[torch.optim.Optimizer] = (),
    ) -> Net:
        trained = list(net.parameters()) if parameters is None else list(parameters)
        chosen = {id(p) for p in trained}
        frozen = [p for p in net.parameters() if id(p) not in chosen and p.requires_grad]
        adam = torch.optim.Adam(
            trained, lr=learning_rate or self.recipe.learning_rate, betas=BETAS, eps=EPSILON, fused=True
        )
        self.curves.append({})
        if self.watch:
            self.snapshots.append((net, []))
        # A frozen parameter needs no gradient: its share of the backward pass is not computed.
        for parameter in frozen:
            parameter.requires_grad_(False)
        try:
            with seeded(self.generator, self.device):  # dropout draws
                net.train()
                for _ in range(epochs):
                    self._epoch(net, streams, [adam, *optimizers])
        finally:
            net.eval()
            for parameter in frozen:
                parameter.requires_grad_(True)
        return net

    def _epoch(self, net: Net, streams: Sequence[Stream], optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """One pass over the first stream, with the others' batches between. Sums stay on the device until its end."""
        sums: dict[str, Tensor] = {}
        counts: dict[str, int] = {}
        sources = [_batches(stream, self.generator) for stream in streams]
        augmented = [stream.augment and self.recipe.augment == "crop-flip" for stream in streams]
        for number in _schedule(streams):
            x, y = next(sources[number])
            if augmented[number]:
                x = crop_flip(x, self.generator)
            step(
                net,
                streams[number].loss or losses.cross_entropy,
                x,
                y,
                optimizers,
                _Sums(sums, counts, number),
            )
        means = {name: float(total) / counts[name] for name, total in sums.items()}
        for name, mean in means.items():
            self.curves[-1].setdefault(name, []).append(mean)
        if self.watch:
            self.snapshots[-1][1].append({name: tensor.clone() for name, tensor in net.state_dict().items()})


@dataclass
class _Sums:
    """Where a step adds its quantities: the first stream's loss is ``loss``, the second's ``loss:1``."""

    sums: dict[str, Tensor]
    counts: dict[str, int]
    number: int

    def add(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            key = f"loss:{self.number}" if name == "loss" and self.number else name
            self.sums[key] = self.sums[key] + value.detach() if key in self.sums else value.detach()
            self.counts[key] = self.counts.get(key, 0) + 1


def step(net: Net, loss: Loss, x: Tensor, y: Tensor, optimizers: Sequence[torch.optim.Optimizer], sums: _Sums) -> None:
    """One step of every optimizer by the gradient of ``loss`` on one batch."""
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    value = loss(net, x, y)
    values = value if isinstance(value, Mapping) else {"loss": value}
    values["loss"].backward()
    for optimizer in optimizers:
        optimizer.step()
    sums.add(values)


def batches_per_pass(stream: Stream) -> int:
    """Batches in one pass over the stream's first part: whole ones, or a single one when there is less."""
    count = max(1, len(stream.parts[0]) // max(1, stream.batch_size // len(stream.parts)))
    return count if stream.limit is None else min(count, stream.limit)


def _schedule(streams: Sequence[Stream]) -> Iterator[int]:
    """The number of the stream that each step of an epoch draws from."""
    for i in range(batches_per_pass(streams[0])):
        yield 0
        for number, stream in enumerate(streams[1:], start=1):
            # Ratios need not be whole: after i batches of the first, floor(i / every) of this one.
            for _ in range(int((i + 1) / stream.every) - int(i / stream.every)):
                yield number


def _batches(stream: Stream, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches without end: passes over each part, of which the batches take equal shares."""
    share = max(1, stream.batch_size // len(stream.parts))
    orders = [_indices(len(part), share, stream, generator) for part in stream.parts]
    while True:
        chosen = [_at(part, next(order)) for part, order in zip(stream.parts, orders, strict=True)]
        if len(chosen) == 1:
            yield chosen[0].x, chosen[0].y
        else:
            yield torch.cat([c.x for c in chosen]), torch.cat([c.y for c in chosen])


def _at(split: Split, indices: Tensor) -> Split:
    """The samples at ``indices`` ``[n]``."""
    where = indices.to(split.x.device, non_blocking=True)
    return Split(split.x.index_select(0, where), split.y.index_select(0, where))


def _indices(length: int, share: int, stream: Stream, generator: torch.Generator) -> Iterator[Tensor]:
    """Index batches of ``share``; fewer samples than that are repeated, a remainder is left to the next shuffle."""
    if length == 0:
        raise ValueError("a stream of no samples: the class or the trigger set is empty")
    while True:
        order = torch.randperm(length, generator=generator) if stream.shuffle else torch.arange(length)
        if length < share and len(stream.parts) > 1:
            order = order.repeat(-(-share // length))[:share]
        whole = max(1, len(order) // share)
        limit = whole if stream.limit is None else min(whole, stream.limit)
        yield from order.split(share)[:limit]


def crop_flip(x: Tensor, generator: torch.Generator) -> Tensor:
    """Each of the images ``[n, c, h, w]`` shifted by up to an eighth of its side, zeros coming in; half are mirrored.

    Drawn on the CPU, so that it is the same on every device; gathered on the images' own, with no loop over them.
    """
    count, _, height, width = x.shape
    reach = torch.tensor([height // 8, width // 8])
    shifts = (torch.rand(count, 2, generator=generator) * (2 * reach + 1)).long() - reach
    mirrored = torch.rand(count, generator=generator) < 0.5
    rows = shifts[:, :1] + torch.arange(height)
    columns = torch.arange(width).expand(count, width)
    columns = shifts[:, 1:] + torch.where(mirrored[:, None], columns.flip(1), columns)
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    where = rows.clamp(0, height - 1)[:, :, None] * width + columns.clamp(0, width - 1)[:, None, :]
    where, inside = (t.flatten(1)[:, None].to(x.device, non_blocking=True) for t in (where, inside))
    moved = x.flatten(2).gather(2, where.expand(-1, x.shape[1], -1))
    return moved.masked_fill(~inside, 0).view_as(x)


def predict(net: nn.Module, x: Tensor) -> Tensor:
    """Logits ``[n, classes]`` of ``net`` in evaluation mode, in batches, without gradients."""
    training = net.training
    net.eval()
    with torch.inference_mode():
        logits = torch.cat([net(part) for part in x.split(EVALUATION_BATCH)])
    net.train(training)
    return logits.clone()


def on_device(net: Net, device: torch.device) -> Net:
    """``net`` moved to ``device``, its convolutions in the memory layout that trains fastest."""
    net.to(device)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs do not know it
    return net


def clone(net: Net) -> Net:
    """A copy that shares nothing with ``net``."""
    return copy.deepcopy(net)
