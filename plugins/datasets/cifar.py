"""CIFAR-10 and CIFAR-100: the published files as torchvision keeps them, and small packed subsets."""

from __future__ import annotations

import csv
import hashlib
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torchvision
from numpy.typing import NDArray

from harness import Arrays, Augment, DataError, Dataset, InputSet, Optimizer, Schedule, data

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

    Source and target class, and SVHN's nines as trigger images, are the released EWE code's: its labels of SVHN begin
    at 1, and it takes those that are 8 above.
    """

    reference = REFERENCE
    input_shape = (3, 32, 32)
    available = 50_000
    published = True

    # The largest that leaves a thief as many of its own.
    train: int = 22_500
    holdout: int = 5_000
    architecture: str = "resnet18"
    batch_size: int = 128
    source: int = 8
    target: int = 0
    origin: Literal["in-distribution", "out-of-distribution"] = "out-of-distribution"
    refine: bool = True
    ood: str = "svhn"
    ood_class: int | None = 9
    augment: Augment = "crop-flip"
    # Nesterov SGD, decay and a falling rate are what published nets of these sets are trained with.
    learning_rate: float = 0.1
    optimizer: Optimizer = "sgd"
    schedule: Schedule = "one-cycle"
    weight_decay: float = 5e-4
    normalize: bool = True

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
    gates = (data.Gate(0.93, train=45_000, source="our target; ResNet-110: 93.57, arXiv 1512.03385"),)

    epochs: int = 56
    pretrain: int = 50

    def source_set(self) -> Any:
        return torchvision.datasets.CIFAR10


class Cifar100(Cifar):
    """60,000 colour photographs of a hundred things, 32 x 32."""

    name = "cifar-100"
    classes = HUNDRED
    # Not measured here, where the set is not.
    gates = (data.Gate(0.72, train=45_000, source="our target; not measured, for want of the data"),)

    epochs: int = 108
    pretrain: int = 100

    def source_set(self) -> Any:
        return torchvision.datasets.CIFAR100


# --- packed sheets ----------------------------------------------------------------------------------------------------


class Cifar10Packed(Cifar10):
    """The 50,000 training images of CIFAR-10, and the first 1,000 of its 10,000 test images.

    Sheets in ``cifar-10-packed/``, with their labels in ``labels.csv``. They cannot be downloaded. Accuracies have a
    standard error of 0.8 points at 93%, so they do not compare with published ones to a tenth of a point.
    """

    name = "cifar-10-packed"
    published = True

    # Ten epochs of 45,000 images: 87.7% of 5,000 held out, in 23 CPU-minutes (bf16, n = 1).
    architecture: str = "resnet9"
    epochs: int = 16
    pretrain: int = 8
    batch_size: int = 256
    learning_rate: float = 0.2
    warmup: float | None = 0.2
    label_smoothing: float = 0.1
    ood: str = "cifar-100-packed"
    ood_class: int | None = None

    def load(self, root: Path) -> Arrays:
        train = [f"train-{number}.webp" for number in range(10)]
        files = _found(self.name, root / self.name, (*train, "test.webp"))

        def decode() -> dict[str, NDArray[np.generic]]:
            x_train, y_train = _sheets(self.name, root / self.name, train)
            x_test, y_test = _sheets(self.name, root / self.name, ["test.webp"])
            return {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}

        return Arrays(**data.prepared(self.name, CHECKSUMS[self.name], files, decode))  # type: ignore[arg-type]

    fetch = InputSet.fetch


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
        train, test = (_sheets(self.name, root / self.name, [file]) for file in ("train.webp", "test.webp"))
        return Arrays(*train, *test)


class Cifar100Mini(InputSet):
    """100 images of CIFAR-100, one a class: out-of-distribution inputs for CIFAR-10."""

    name = "cifar-100-mini"
    reference = REFERENCE
    arms = ()
    input_shape = (3, 32, 32)
    classes = HUNDRED
    available = 100
    published = True

    folder: ClassVar[str] = "cifar-10-mini"

    def load(self, root: Path) -> Arrays:
        x, y = _sheets(self.name, root / self.folder, ["ood-cifar100.webp"])
        return Arrays(x, y, x[:0], y[:0])


class Cifar100Packed(Cifar100Mini):
    """3,000 images of CIFAR-100, thirty a class: out-of-distribution inputs for CIFAR-10."""

    name = "cifar-100-packed"
    available = 3000
    published = True

    folder = "cifar-10-packed"


# SHA-256 of a sheet's images and labels, uint8 and int64: of what is decoded, so that any lossless file will do.
CHECKSUMS = {
    "cifar-10-mini": {
        "train.webp": "49729379adbc0efb53c950aade0698a013d0eb527d42f4d43a11676a5c8f62b2",
        "test.webp": "ab3d9ad82a1be321d9bc93f8c07dfcd22f2950fa9647fdef4edc043b4faddc05",
        "ood-cifar100.webp": "e74b4cf8027db55962fdb0d91ac128f03c6051ec48354706f27fc5e660dec13d",
    },
    "cifar-10-packed": {
        "train-0.webp": "e987a92c8bd0ca64a2c6588049a5b55a476570f97dc689578dc2c198b6839ea1",
        "train-1.webp": "e2b680aa38a4ec1f05ad736d0c2928d5f289a6669e1548b8af4cad4068b553ac",
        "train-2.webp": "e5f7f5b87c9eb55732f1d85c08a1c270fa604ddbddc1e0b13c4b5e7a58e93863",
        "train-3.webp": "9fb9557978c187c26c8fe3693558089c430decada756fce6e18d259f2099e2ff",
        "train-4.webp": "6fab272d4b7259123bb3d77c4fbf1c8b5763a70aae8b84b0d505cc992af34688",
        "train-5.webp": "62b134a98140588799637123a91a6621a040573cb8f41057a505ff3c5cb9df87",
        "train-6.webp": "19eee19dc92c29d7dd79ac5f1322d92bcf80fdd66de9a4e390e74a0b81ecca29",
        "train-7.webp": "fe04b497b494c9a81e3be71680b0d34c1d798a0965ad1ac6a7332a723a2f5338",
        "train-8.webp": "7fce5c532917caabf11c201fef45536e9ecc13c50605472e5f6a48db523ba1b9",
        "train-9.webp": "fb446a5cf01a1ee71dc60aecdb8abd9c67d2397067b53f0e0c4d81a9cd8098d7",
        "test.webp": "09f27c48f8ef1306c9e28f5fba4eef29d6fbd627be8a3fd7debb22e135c49a66",
        "ood-cifar100.webp": "2e710d98abef193ef4a35d1270c4baff9588b0f67e9070862f0d7ded0b68d95b",
    },
}
LABELS = "labels.csv"


def _found(name: str, folder: Path, sheets: Sequence[str]) -> list[Path]:
    """The files of sheets, and that of their labels; raises :class:`DataError` where one is missing."""
    files = [folder / file for file in (*sheets, LABELS)]
    for path in files:
        if not path.is_file():
            raise data.missing(name, path.name, (folder,), download=False)
    return files


def _sheets(name: str, folder: Path, sheets: Sequence[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images ``[n, 3, 32, 32]`` and labels of sheets, one after the other; raises :class:`DataError`."""
    *files, listed = _found(name, folder, sheets)
    labels: dict[str, NDArray[np.int64]] = {}
    parts = []
    for path in files:
        try:
            labels = labels or _labels(listed)
            y = labels[path.name]
            x = _tiles(path)[: len(y)]
        except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
            raise DataError(f"{name}: {path} or its {LABELS} is damaged ({error}): copy both again") from error
        if hashlib.sha256(x.tobytes() + y.astype("<i8").tobytes()).hexdigest() != CHECKSUMS[folder.name][path.name]:
            raise DataError(f"{name}: {path} or its {LABELS} is damaged, or another set's: copy both again")
        parts.append((x, y))
    x, y = (np.concatenate(each) for each in zip(*parts, strict=True))
    return x, y


def _tiles(path: Path) -> NDArray[np.uint8]:
    """The tiles ``[n, 3, 32, 32]`` of a sheet, row by row."""
    from PIL import Image

    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    rows, columns = pixels.shape[0] // 32, pixels.shape[1] // 32
    tiles = pixels.reshape(rows, 32, columns, 32, 3).transpose(0, 2, 4, 1, 3)
    return np.ascontiguousarray(tiles).reshape(-1, 3, 32, 32)


def _labels(path: Path) -> dict[str, NDArray[np.int64]]:
    """The labels of the tiles of each sheet, by their position."""
    found: dict[str, list[tuple[int, int]]] = {}
    with path.open(newline="", encoding="utf-8-sig") as file:
        for row in csv.DictReader(file):
            found.setdefault(row["sheet"], []).append((int(row["position"]), int(row["label"])))
    return {sheet: np.array([label for _, label in sorted(rows)], dtype=np.int64) for sheet, rows in found.items()}
