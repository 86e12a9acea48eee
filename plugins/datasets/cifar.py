"""CIFAR-10 and CIFAR-100: the published files as torchvision keeps them, and small packed subsets."""

from __future__ import annotations

import csv
import hashlib
from abc import abstractmethod
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torchvision
from numpy.typing import NDArray

from harness import Arrays, Augment, DataError, Dataset, InputSet, data

REFERENCE = "Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009"
TEN = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
HUNDRED = (
    *("apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl"),
    *("boy", "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair"),
    *("chimpanzee", "clock", "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin"),
    *("elephant", "flatfish", "forest", "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp"),
    *("lawn_mower", "leopard", "lion", "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain"),
    *("mouse", "mushroom", "oak_tree", "orange", "orchid", "otter", "palm_tree", "pear", "pickup_truck"),
    *("pine_tree", "plain", "plate", "poppy", "porcupine", "possum", "rabbit", "raccoon", "ray", "road"),
    *("rocket", "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper", "snail", "snake", "spider"),
    *("squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank", "telephone", "television"),
    *("tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow_tree", "wolf"),
    *("woman", "worm"),
)


class Cifar(Dataset):
    """60,000 colour photographs of 32 x 32, below ``<name>/`` or where torchvision keeps them.

    Source and target class, and SVHN's class 8 as trigger images, are the released EWE code's.
    """

    reference = REFERENCE
    input_shape = (3, 32, 32)
    available = 50_000
    published = True

    train: int = 45_000
    holdout: int = 5_000
    architecture: str = "resnet18"
    batch_size: int = 128
    source: int = 8
    target: int = 0
    origin: Literal["in-distribution", "out-of-distribution"] = "out-of-distribution"
    refine: bool = True
    ood: str = "svhn"
    ood_class: int | None = 8
    augment: Augment = "crop-flip"

    @abstractmethod
    def source_set(self) -> Any:
        """torchvision's class that reads it, checks its MD5 sums, and downloads it."""

    def load(self, root: Path) -> Arrays:
        source = self.source_set()
        folder = next((f for f in (root / self.name, root) if (f / source.base_folder).is_dir()), None)
        if folder is None:
            raise data.missing(self.name, source.base_folder, (root / self.name, root))
        try:
            train, test = (source(folder, train=part, download=False) for part in (True, False))
        except (OSError, RuntimeError) as error:
            raise DataError(
                f"{self.name}: {_damaged(source, folder)} is missing or damaged: delete {folder / source.base_folder}, "
                f"and type: harness data fetch {self.name}"
            ) from error
        return Arrays(*_images(train), *_images(test))

    def fetch(self, root: Path) -> None:
        with data.downloading(self.name):
            self.source_set()(root, download=True)


def _images(part: Any) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images ``[n, 3, 32, 32]`` and labels of one of torchvision's parts, which has them as ``[n, 32, 32, 3]``."""
    return np.ascontiguousarray(part.data.transpose(0, 3, 1, 2)), np.array(part.targets, dtype=np.int64)


def _damaged(source: Any, folder: Path) -> Path:
    """The first file of a set whose MD5 is not the published one."""
    base: Path = folder / source.base_folder
    check = torchvision.datasets.utils.check_integrity
    for file, md5 in (*source.train_list, *source.test_list, (source.meta["filename"], source.meta["md5"])):
        if not check(str(base / file), md5):
            return base / str(file)
    return base


class Cifar10(Cifar):
    """60,000 colour photographs of ten animals and vehicles, 32 x 32."""

    name = "cifar-10"
    classes = TEN

    epochs: int = 56
    pretrain: int = 50

    def source_set(self) -> Any:
        return torchvision.datasets.CIFAR10


class Cifar100(Cifar):
    """60,000 colour photographs of a hundred things, 32 x 32."""

    name = "cifar-100"
    classes = HUNDRED

    epochs: int = 108
    pretrain: int = 100

    def source_set(self) -> Any:
        return torchvision.datasets.CIFAR100


# --- the packed subsets -----------------------------------------------------------------------------------------------


class Cifar10Mini(Dataset):
    """2,000 training and 500 test images of CIFAR-10, the first of each class: minutes on one core.

    Sheets in ``cifar-10-mini/``, with their labels in ``labels.csv``. They cannot be downloaded.
    A clean CNN is right on half of the test images (48% to 51% over three seeds).
    """

    name = "cifar-10-mini"
    reference = REFERENCE
    input_shape = (3, 32, 32)
    classes = TEN
    available = 2000
    published = True

    train: int = 1800
    holdout: int = 200
    epochs: int = 30
    pretrain: int = 15
    batch_size: int = 64
    source: int = 8
    target: int = 0
    origin: Literal["in-distribution", "out-of-distribution"] = "out-of-distribution"
    refine: bool = True
    ood: str = "cifar-100-mini"
    ood_class: int | None = None
    augment: Augment = "crop-flip"

    def load(self, root: Path) -> Arrays:
        return Arrays(*_sheet(self.name, root, "train.webp"), *_sheet(self.name, root, "test.webp"))


class Cifar100Mini(InputSet):
    """100 images of CIFAR-100, one a class: out-of-distribution inputs for CIFAR-10."""

    name = "cifar-100-mini"
    reference = REFERENCE
    arms = ()
    input_shape = (3, 32, 32)
    classes = HUNDRED
    available = 100
    published = True

    def load(self, root: Path) -> Arrays:
        x, y = _sheet(self.name, root, "ood-cifar100.webp")
        return Arrays(x, y, x[:0], y[:0])


# SHA-256 of a sheet's images and labels, uint8 and int64: of what is decoded, so that any lossless file will do.
CHECKSUMS = {
    "train.webp": "49729379adbc0efb53c950aade0698a013d0eb527d42f4d43a11676a5c8f62b2",
    "test.webp": "ab3d9ad82a1be321d9bc93f8c07dfcd22f2950fa9647fdef4edc043b4faddc05",
    "ood-cifar100.webp": "e74b4cf8027db55962fdb0d91ac128f03c6051ec48354706f27fc5e660dec13d",
}


def _sheet(name: str, root: Path, sheet: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images ``[n, 3, 32, 32]`` and labels of a sheet in ``cifar-10-mini/``; raises :class:`DataError`."""
    folder = root / "cifar-10-mini"
    for file in (sheet, "labels.csv"):
        if not (folder / file).is_file():
            raise data.missing(name, file, (folder,), download=False)
    try:
        y = _labels(folder / "labels.csv", sheet)
        x = _tiles(folder / sheet)[: len(y)]
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise DataError(f"{name}: {folder / sheet} or its labels.csv is damaged ({error}): copy both again") from error
    if hashlib.sha256(x.tobytes() + y.astype("<i8").tobytes()).hexdigest() != CHECKSUMS[sheet]:
        raise DataError(f"{name}: {folder / sheet} or its labels.csv is damaged, or another set's: copy both again")
    return x, y


def _tiles(path: Path) -> NDArray[np.uint8]:
    """The tiles ``[n, 3, 32, 32]`` of a sheet, row by row."""
    from PIL import Image

    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    rows, columns = pixels.shape[0] // 32, pixels.shape[1] // 32
    tiles = pixels.reshape(rows, 32, columns, 32, 3).transpose(0, 2, 4, 1, 3)
    return np.ascontiguousarray(tiles).reshape(-1, 3, 32, 32)


def _labels(path: Path, sheet: str) -> NDArray[np.int64]:
    """The labels of a sheet's tiles, by their position."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = [row for row in csv.DictReader(file) if row["sheet"] == sheet]
    rows.sort(key=lambda row: int(row["position"]))
    return np.array([int(row["label"]) for row in rows], dtype=np.int64)
