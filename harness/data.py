"""Data on its way to a stage: found, checked, split by seed into the owner's, the attacker's and the test set."""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from harness.contracts import Arrays, Dataset, Split
from harness.errors import DataError


def cache_folder() -> Path:
    """The per-user folder where downloads go."""
    from platformdirs import user_cache_path

    return user_cache_path("watermark-harness")


def data_folder(named: Path | None) -> tuple[Path, bool]:
    """Where data are read from, and whether missing sets may be downloaded there.

    ``--data``, else ``HARNESS_DATA``: folders of the user's, only read. Else the per-user cache, which is filled.
    Raises :class:`DataError` when the named folder does not exist.
    """
    text = str(named) if named else os.environ.get("HARNESS_DATA", "")
    if not text:
        return cache_folder(), True
    folder = Path(text)
    if not folder.is_dir():
        raise DataError(f"no data folder {text!r}: --data and HARNESS_DATA name a folder that exists")
    return folder, False


@dataclass
class Data:
    """Loads each dataset once, and splits it."""

    folder: Path
    download: bool = False
    _arrays: dict[str, Arrays] = field(default_factory=dict)

    def arrays(self, dataset: Dataset) -> Arrays:
        """The whole set, from files that were checked. Raises :class:`DataError`."""
        if dataset.name not in self._arrays:
            self._arrays[dataset.name] = self._load(dataset)
        return self._arrays[dataset.name]

    def _load(self, dataset: Dataset) -> Arrays:
        try:
            arrays = dataset.load(self.folder)
        except DataError as missing:
            if not self.download:
                raise DataError(f"{missing}; or unset HARNESS_DATA and --data, and it is downloaded") from missing
            self.folder.mkdir(parents=True, exist_ok=True)
            dataset.fetch(self.folder)
            arrays = dataset.load(self.folder)
        check_arrays(dataset, arrays)
        return arrays

    def splits(self, dataset: Dataset, seed: int, device: torch.device) -> Splits:
        """The owner's and the attacker's samples for one seed, balanced over the classes, on ``device``."""
        arrays = self.arrays(dataset)
        order = np.random.default_rng(seed).permutation(len(arrays.y_train))
        rank = _rank_in_class(arrays.y_train[order], len(dataset.classes))
        # Sorted by rank within the class, the first n samples are balanced for every n; ties keep the random order.
        order = order[np.argsort(rank, kind="stable")]
        ends = np.cumsum([dataset.train, dataset.holdout, dataset.train])
        train, holdout, disjoint, _ = np.split(order, ends)
        return Splits(
            *(_split(arrays.x_train[part], arrays.y_train[part], device) for part in (train, holdout, disjoint))
        )

    def test(self, dataset: Dataset, device: torch.device) -> Split:
        """The test set, or its first ``dataset.test`` samples."""
        arrays = self.arrays(dataset)
        count = dataset.test or len(arrays.y_test)
        return _split(arrays.x_test[:count], arrays.y_test[:count], device)

    def other(self, dataset: Dataset, like: Dataset, device: torch.device) -> Split:
        """All training samples of another dataset, in the input shape of ``like``."""
        arrays = self.arrays(dataset)
        split = _split(arrays.x_train, arrays.y_train, device)
        return Split(resize(split.x, like.input_shape), split.y)


@dataclass(frozen=True)
class Splits:
    """Samples that do not overlap."""

    train: Split
    """The owner's training set."""
    holdout: Split
    """The owner's, never trained on."""
    disjoint: Split
    """As many others as ``train`` (fewer where the set ends): the pool of an attacker who has none of the owner's."""


def _split(x: NDArray[np.generic], y: NDArray[np.int64], device: torch.device) -> Split:
    # Copied: what is loaded may be read-only, and stays as it is whoever writes to a split.
    return Split(torch.from_numpy(np.array(x)).to(device), torch.from_numpy(np.array(y)).to(device))


def _rank_in_class(y: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    rank = np.empty(len(y), dtype=np.int64)
    for label in range(classes):
        members = np.flatnonzero(y == label)
        rank[members] = np.arange(len(members))
    return rank


def resize(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Inputs ``[n, ...]`` in another shape, of their own type: channels averaged or repeated, bilinear, antialiased.

    Raises :class:`DataError` for inputs of another shape that are no images ``[n, c, h, w]``.
    """
    if tuple(x.shape[1:]) == shape:
        return x
    if x.ndim != 4 or len(shape) != 3:
        raise DataError(f"cannot turn inputs of shape {tuple(x.shape[1:])} into {shape}: only images can be resized")
    # In parts: the whole of a large set as floats would need many times its memory.
    return torch.cat([_resize(part, shape) for part in x.split(4096)])


def _resize(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    resized = x.float()
    if x.shape[1] != shape[0]:
        resized = resized.mean(1, keepdim=True).expand(-1, shape[0], -1, -1)
    if tuple(x.shape[2:]) != shape[1:]:
        resized = F.interpolate(resized, shape[1:], mode="bilinear", antialias=True)
    return resized.round().clamp(0, 255).byte() if x.dtype == torch.uint8 else resized


def check_arrays(dataset: Dataset, arrays: Arrays) -> None:
    """Raise :class:`DataError` unless shapes, types and labels are what the dataset declares."""
    for name, x, y in (("train", arrays.x_train, arrays.y_train), ("test", arrays.x_test, arrays.y_test)):
        if tuple(x.shape[1:]) != dataset.input_shape:
            raise DataError(f"{dataset.name}: {name} inputs are {x.shape[1:]}, declared {dataset.input_shape}")
        if x.dtype not in (np.uint8, np.float32):
            raise DataError(f"{dataset.name}: {name} inputs are {x.dtype}, expected uint8 or float32")
        if x.dtype == np.float32 and not np.isfinite(x).all():
            raise DataError(f"{dataset.name}: {name} inputs are not all finite")
        if y.dtype != np.int64 or y.shape != (len(x),):
            raise DataError(f"{dataset.name}: {name} labels must be int64 of shape ({len(x)},)")
        missing = set(range(len(dataset.classes))) - set(np.unique(y).tolist())
        if missing or y.min() < 0 or y.max() >= len(dataset.classes):
            raise DataError(f"{dataset.name}: {name} labels must cover 0 to {len(dataset.classes) - 1}")
    if len(arrays.x_train) != dataset.available:
        raise DataError(f"{dataset.name}: {len(arrays.x_train)} training samples, declared {dataset.available}")


# --- files ------------------------------------------------------------------------------------------------------------


def read_idx(folders: Sequence[Path], checksums: Mapping[str, str], name: str) -> list[NDArray[np.uint8]]:
    """The arrays of idx files (the format of MNIST), plain or gzipped, from the first of ``folders`` that has one.

    ``checksums`` gives the MD5 of each file's *uncompressed* bytes: sets that share file names are told apart by it.
    Raises :class:`DataError` when a file is missing, cannot be read, or is another set's.
    """
    return [_read_idx(_find(folders, file, name), md5, name) for file, md5 in checksums.items()]


def _find(folders: Sequence[Path], file: str, name: str) -> Path:
    for folder in folders:
        for path in (folder / f"{file}.gz", folder / file):
            if path.is_file():
                return path
    looked = ", ".join(str(folder) for folder in folders)
    raise DataError(
        f"{name}: no {file}.gz in {looked}; name the folder above with --data DIR or HARNESS_DATA, "
        f"or type: harness data fetch {name}"
    )


def _read_idx(path: Path, md5: str, name: str) -> NDArray[np.uint8]:
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{name}: {path} cannot be read ({error}): delete it, and fetch it again") from error
    if hashlib.md5(data, usedforsecurity=False).hexdigest() != md5:
        raise DataError(f"{name}: {path} is damaged, or the file of another set: its content is not {name}'s")
    rank = data[3]
    shape = np.frombuffer(data, ">i4", count=rank, offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)
