"""A data set, and inputs that are not a task, as they were written for version 0.1."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from harness import Arrays, Dataset, InputSet, hookimpl


def _digits():
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = np.round(digits.images * (255 / 16)).astype(np.uint8)[:, None]
    return x, digits.target.astype(np.int64), np.arange(len(x)) % 6 == 0


@dataclass(frozen=True)
class _Small(Dataset):
    train: int = 200
    holdout: int = 60
    epochs: int = 6
    pretrain: int = 3
    batch_size: int = 32
    patch: int = 2


@dataclass(frozen=True)
class Two(_Small):
    """Digits 0 and 1 only: two classes."""

    name: ClassVar[str] = "two"
    input_shape: ClassVar[tuple[int, ...]] = (1, 8, 8)
    classes: ClassVar[tuple[str, ...]] = ("zero", "one")
    available: ClassVar[int] = 300
    source: int = 1
    target: int = 0
    noise: float = 0.0
    """Share of pixels replaced by noise."""

    def load(self, root: Path) -> Arrays:
        x, y, test = _digits()
        hit = np.random.default_rng(0).random(x.shape) < self.noise
        x = np.where(hit, np.uint8(128), x)
        chosen = y < 2
        return Arrays(x[chosen & ~test], y[chosen & ~test], x[chosen & test], y[chosen & test])


@dataclass(frozen=True)
class Upside(InputSet):
    """Digits upside down: inputs to draw from."""

    name: ClassVar[str] = "upside"
    arms: ClassVar[tuple[str, ...]] = ()
    input_shape: ClassVar[tuple[int, ...]] = (1, 8, 8)
    classes: ClassVar[tuple[str, ...]] = tuple("0123456789")
    available: ClassVar[int] = 1497
    value_range: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def load(self, root: Path) -> Arrays:
        x, y, test = _digits()
        x = np.ascontiguousarray(x[:, :, ::-1])
        return Arrays(x[~test], y[~test], x[:0], y[:0])


@hookimpl
def harness_datasets() -> list[type[InputSet]]:
    return [Two, Upside]
