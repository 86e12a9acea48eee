"""SVHN: the published files, as torchvision keeps them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torchvision
from numpy.typing import NDArray

from harness import Arrays, DataError, Dataset, data


class Svhn(Dataset):
    """99,289 house numbers, 32 x 32 colour: the digit in the middle is the class.

    Two MATLAB files, below ``svhn/`` or in the data folder itself. The recipe is the harness's own.
    """

    name = "svhn"
    reference = "Netzer et al., Reading Digits in Natural Images, NIPS workshop 2011"
    input_shape = (3, 32, 32)
    classes = tuple("0123456789")
    available = 73_257
    published = True

    train: int = 68_000
    holdout: int = 5_000
    architecture: str = "resnet18"
    epochs: int = 24
    pretrain: int = 20
    batch_size: int = 128
    origin: Literal["in-distribution", "out-of-distribution"] = "out-of-distribution"
    refine: bool = True
    ood: str = "cifar-10"
    ood_class: int | None = 8

    def load(self, root: Path) -> Arrays:
        return Arrays(*self._part(root, "train"), *self._part(root, "test"))

    def _part(self, root: Path, split: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Images ``[n, 3, 32, 32]`` and labels of one file; its label 10 is the digit 0."""
        source = torchvision.datasets.SVHN
        file = source.split_list[split][1]
        folder = next((f for f in (root / self.name, root) if (f / file).is_file()), None)
        if folder is None:
            raise data.missing(self.name, file, (root / self.name, root))
        try:
            part: Any = source(folder, split=split, download=False)
        except (OSError, RuntimeError) as error:
            raise DataError(
                f"{self.name}: {folder / file} is damaged, or the file of another set: delete it, "
                f"and type: harness data fetch {self.name}"
            ) from error
        return np.ascontiguousarray(part.data), part.labels

    def fetch(self, root: Path) -> None:
        with data.downloading(self.name):
            for split in ("train", "test"):
                torchvision.datasets.SVHN(root / self.name, split=split, download=True)
