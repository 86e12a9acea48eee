"""Batches: which samples each step of an epoch takes, drawn on the CPU and gathered on the device.

The order of a whole epoch goes to the device at once, into a tensor that stays there, and a counter on the device says
which row of it is next. Between two steps the host has nothing to say, so a step can be captured once and replayed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from harness.contracts import Augment, Split, Stream
from harness.inputs import moved, random_moves


def batches_per_pass(stream: Stream) -> int:
    """Batches in one pass over the stream's first part: whole ones, or a single one when there is less."""
    count = max(1, len(stream.parts[0]) // _shares(stream)[0])
    return count if stream.limit is None else min(count, stream.limit)


def schedule(streams: Sequence[Stream]) -> Iterator[int]:
    """The number of the stream that each step of an epoch draws from."""
    for i in range(batches_per_pass(streams[0])):
        yield 0
        for number, stream in enumerate(streams[1:], start=1):
            # Ratios need not be whole: after i batches of the first, floor(i / every) of this one.
            for _ in range(int((i + 1) / stream.every) - int(i / stream.every)):
                yield number


def _has_refused(part: Split) -> bool:
    return bool((part.y < 0).any() if part.y.ndim == 1 else part.y.isnan().any())


class Source:
    """The batches of one stream: ``count`` an epoch, passes over each part, of which a batch takes its share."""

    def __init__(self, stream: Stream, count: int, augment: Augment = "none") -> None:
        """``augment`` is of the first part's inputs.

        Raises ``ValueError`` where a part has no samples, or none to learn.
        """
        if not all(len(part) for part in stream.parts):
            raise ValueError("a stream of no samples: the class or the trigger set is empty")
        if stream.loss is None and any(_has_refused(part) for part in stream.parts):
            raise ValueError("a label of -1 or NaN is a refused query: Split(x, labels).answered() leaves those out")
        self.stream, self.count, self.augment = stream, count, augment
        self.device = stream.parts[0].x.device
        self._widths = _widths(stream)
        self.size = sum(self._widths)
        """Samples a batch."""
        self._place = torch.zeros(1, dtype=torch.int64, device=self.device)
        self._orders = [torch.zeros(count, width, dtype=torch.int64, device=self.device) for width in self._widths]
        steps = torch.zeros(count, self._widths[0], 3, dtype=torch.int64, device=self.device)
        self._moves = steps if augment != "none" else None

    @property
    def place(self) -> Tensor:
        """Number ``[1]`` of the batches that were taken in this epoch, on the device."""
        return self._place

    def shuffle(self, generator: torch.Generator) -> None:
        """Begin an epoch: draw its order."""
        self._place.zero_()
        for part, width, order in zip(self.stream.parts, self._widths, self._orders, strict=True):
            self._send(_order(self.stream, len(part), width, self.count, generator), order)
        if self._moves is not None:
            rows, columns = self.stream.parts[0].x.shape[2:]
            self._send(draw_moves(self.augment, self.count, self._widths[0], rows, columns, generator), self._moves)

    def batch(self) -> tuple[Tensor, Tensor]:
        """The next inputs and labels, by operations on the device alone."""
        x, y = self._at(self._place)
        self._place += 1
        return x, y

    def latest(self) -> Tensor:
        """The inputs of the last batch again."""
        return self._at(self._place - 1)[0]

    def _at(self, place: Tensor) -> tuple[Tensor, Tensor]:
        rows = [order.index_select(0, place)[0] for order in self._orders]
        chosen = [
            (part.x.index_select(0, row), part.y.index_select(0, row))
            for part, row in zip(self.stream.parts, rows, strict=True)
        ]
        if self._moves is not None:
            x, y = chosen[0]
            chosen[0] = moved(x, self._moves.index_select(0, place)[0]), y
        x, y = chosen[0] if len(chosen) == 1 else (torch.cat(each) for each in zip(*chosen, strict=True))
        return x, y

    def _send(self, drawn: Tensor, to: Tensor) -> None:
        # From pinned memory the copy waits for the steps before it on the device, and the host for nothing.
        to.copy_(drawn.pin_memory() if self.device.type == "cuda" else drawn, non_blocking=True)


def _shares(stream: Stream) -> tuple[int, ...]:
    """Samples of each part in a batch."""
    return stream.shares or (max(1, stream.batch_size // len(stream.parts)),) * len(stream.parts)


def _widths(stream: Stream) -> tuple[int, ...]:
    """Samples that a batch takes of each part: fewer than its share of an only part that has no more."""
    shares = _shares(stream)
    return shares if len(shares) > 1 else (min(shares[0], len(stream.parts[0])),)


def _order(stream: Stream, length: int, width: int, count: int, generator: torch.Generator) -> Tensor:
    """Indices ``[count, width]`` into a part of ``length`` samples, pass after pass.

    Fewer samples than a share are repeated; the remainder of a pass is left to the next shuffle.
    """
    rows = max(1, length // width)
    kept = rows if stream.limit is None else min(rows, stream.limit)
    passes = []
    for _ in range(-(-count // kept)):
        order = torch.randperm(length, generator=generator) if stream.shuffle else torch.arange(length)
        order = order.repeat(-(-width // length))[: rows * width]
        passes.append(order.view(rows, width)[:kept])
    return torch.cat(passes)[:count] if passes else torch.zeros(0, width, dtype=torch.int64)


# --- augmentation -----------------------------------------------------------------------------------------------------


def draw_moves(augment: Augment, count: int, size: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Random moves ``[count, size, 3]`` for :func:`nets.moved`: by up to an eighth of the sides, half of them mirrored.

    Without mirror images unless ``augment`` is ``crop-flip``, and down or up alone where it is ``shift``.
    """
    columns = 0 if augment == "shift" else width // 8
    return random_moves((count, size), height // 8, columns, augment == "crop-flip", generator)
