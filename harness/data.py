"""Data on its way to a stage: found, checked, split by seed into the owner's, the attacker's and the test set."""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from harness import stratified
from harness.contracts import Arrays, Dataset, Gate, InputSet, Split, is_published
from harness.downloads import downloading, fetch
from harness.errors import BrokenDataset, DataError, MissingData
from harness.files import user_path
from harness.isolation import Guard, Interrupted, describe_error
from harness.own_data import OwnData
from harness.prepared import cache_folder, checksum, prepared

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = [
    "Data",
    "Gate",
    "Splits",
    "cache_folder",
    "check_arrays",
    "data_folder",
    "downloading",
    "missing",
    "package_file",
    "prepared",
    "read_idx",
    "resize",
]

Key: TypeAlias = Hashable
"""All that decides what a data set's ``load`` returns from one folder: the class, and the value of every option."""


def _key(dataset: InputSet) -> Key:
    # The texts of values: 1, 1.0 and True are equal, and a plugin may tell them apart.
    return type(dataset), tuple([repr(getattr(dataset, name)) for name in _that_decide(type(dataset))])


@cache
def _that_decide(cls: type[InputSet]) -> list[str]:
    """The options on which the content depends."""
    if is_published(cls):  # one content, whatever the recipe: a sweep over epochs loads it once
        return added_options(cls)
    return [each.name for each in fields(cls)]


def added_options(cls: type[InputSet]) -> list[str]:
    """The options of a data set that are not of the recipe which every data set has."""
    return [each.name for each in fields(cls) if each.name not in Dataset.__dataclass_fields__]


def data_folder(named: Path | None) -> tuple[Path, bool]:
    """The folder that data are read from, and whether missing sets may be downloaded there.

    ``--data``, else ``HARNESS_DATA``: the user's own folders, only read. Else the per-user cache, which is filled.
    Raises :class:`DataError` when the named folder does not exist.
    """
    text = str(named) if named else os.environ.get("HARNESS_DATA", "")
    if not text:
        return cache_folder(), True
    folder = user_path(text)
    if not folder.is_dir():
        raise DataError(f"no data folder {text!r}: --data and HARNESS_DATA name a folder that exists")
    return folder.absolute(), False  # a plugin may change the working directory


@dataclass
class Data:
    """Loads each data set once, and splits it. Options make another set: what ``load`` returns may depend on them."""

    folder: Path
    download: bool = False
    warn: Callable[[str], None] = lambda message: None
    """Receiver of sentences on what a data set's class changed in the process."""
    _arrays: dict[Key, Arrays] = field(default_factory=dict)
    _checksums: dict[Key, str] = field(default_factory=dict)
    _broken: dict[Key, BrokenDataset] = field(default_factory=dict)
    _others: dict[tuple[Key, tuple[int, ...], torch.device], Split] = field(default_factory=dict)

    def arrays(self, dataset: InputSet) -> Arrays:
        """The whole set, from files that were checked.

        Raises :class:`DataError` where they are missing or damaged, :class:`BrokenDataset` for other faults.
        """
        key = _key(dataset)
        if key in self._broken:
            raise self._broken[key]
        if key not in self._arrays:
            try:
                loaded = self._load(dataset)
                if isinstance(dataset, OwnData):  # again, after its files were read: a plan looked at them before
                    self._checksums[key] = dataset.content()
                self._arrays[key] = self._shared(key, loaded)
            except BrokenDataset as error:
                self._broken[key] = error
                raise
        return self._arrays[key]

    def checksum(self, dataset: InputSet) -> str | None:
        """The digest of the whole set's content here, 32 hexadecimal digits; ``None`` until it has been loaded.

        Of an :class:`harness.OwnData` that of its files and options. Of others SHA-256 over ``x_test``, ``x_train``,
        ``y_test`` and ``y_train`` in this order: for each the text ``"<name> <dtype> <shape>"``, such as
        ``"x_test uint8 (10000, 1, 28, 28)"``, then its values in C order.
        """
        key = _key(dataset)
        return self._checksum(key, self._arrays[key]) if key in self._arrays else None

    def content(self, dataset: InputSet) -> str:
        """The same digest, for which an :class:`harness.OwnData` is not loaded.

        Raises as :meth:`arrays` does.
        """
        if isinstance(dataset, OwnData):
            return dataset.content()
        self.arrays(dataset)
        return self.checksum(dataset) or ""

    def _checksum(self, key: Key, arrays: Arrays) -> str:
        if key not in self._checksums:
            self._checksums[key] = checksum(vars(arrays))[:32]
        return self._checksums[key]

    def _shared(self, key: Key, loaded: Arrays) -> Arrays:
        """The arrays ``loaded``, or equal ones that are here already: a sweep over epochs has one copy of its data."""
        for other, known in self._arrays.items():
            alike = all(a.shape == b.shape and a.dtype == b.dtype for a, b in _pairs(known, loaded))
            if alike and self._checksum(other, known) == self._checksum(key, loaded):
                return known
        return loaded

    def _load(self, dataset: InputSet) -> Arrays:
        try:
            arrays = self._loaded(dataset, self.folder)
        except DataError as missing:
            if type(dataset).fetch is InputSet.fetch:
                raise
            if not self.download:
                if isinstance(missing, MissingData):
                    raise
                raise MissingData(dataset.name, str(missing), download=True) from missing
            fetch(dataset, self.folder, partial(self._loaded, dataset))
            arrays = self._loaded(dataset, self.folder)
        try:
            check_arrays(dataset, arrays)
        except DataError as error:
            if is_published(type(dataset)):  # its files are at fault, not what it declares
                raise
            raise BrokenDataset(str(error)) from error
        except Exception as error:  # parts that are no arrays, or empty
            raise BrokenDataset(f"{dataset.name}: its arrays: {type(error).__name__}: {error}") from error
        return arrays

    def _loaded(self, dataset: InputSet, folder: Path) -> Arrays:
        """The arrays that ``load`` returns. Raises :class:`BrokenDataset` for errors but its :class:`DataError`."""
        guard = Guard(seed=0)
        try:
            with guard:
                arrays = dataset.load(folder)
        except (DataError, Interrupted):
            raise
        except BaseException as error:  # the plugin's own, and its ways to leave
            raise BrokenDataset(f"{dataset.name}: load: {describe_error(error)}") from error
        finally:
            for warning in guard.warnings(f"dataset {dataset.name}, loading,"):
                self.warn(warning)
        if not isinstance(arrays, Arrays):
            raise BrokenDataset(f"{dataset.name}: load must return an Arrays, not {type(arrays).__name__}")
        return arrays

    def splits(self, dataset: Dataset, seed: int, device: torch.device) -> Splits:
        """The owner's and the attacker's samples for one seed, each class in every one of them, on ``device``.

        Raises :class:`DataError` where a class has too few.
        """
        arrays = self.arrays(dataset)
        parts = stratified.split(arrays.y_train, dataset, seed)
        return Splits(*(_split(arrays.x_train[part], arrays.y_train[part], device) for part in parts))

    def check_splits(self, dataset: Dataset) -> None:
        """Raise :class:`DataError` where a class has too few samples for :meth:`splits`."""
        stratified.check(self.arrays(dataset).y_train, dataset)

    def test(self, dataset: Dataset, device: torch.device) -> Split:
        """The test set, or its first ``dataset.test`` samples."""
        arrays = self.arrays(dataset)
        count = dataset.test or len(arrays.y_test)
        return _split(arrays.x_test[:count], arrays.y_test[:count], device)

    def other(self, dataset: InputSet, like: Dataset, device: torch.device) -> Split:
        """All training samples of another dataset, in the input shape of ``like``: a copy, resized once."""
        key = (_key(dataset), like.input_shape, device)
        if key not in self._others:
            arrays = self.arrays(dataset)
            split = _split(arrays.x_train, arrays.y_train, device)
            self._others[key] = Split(resize(split.x, like.input_shape), split.y)
        return self._others[key].clone()


@dataclass(frozen=True)
class Splits:
    """Samples that do not overlap."""

    train: Split
    """The owner's training set."""
    holdout: Split
    """The owner's samples that no model is trained on."""
    disjoint: Split
    """Other samples, as many as ``train`` (fewer where the set ends): the pool of an attacker who has none of the
    owner's.
    """


def _pairs(one: Arrays, other: Arrays) -> Iterator[tuple[NDArray[np.generic], NDArray[np.generic]]]:
    """The four arrays of two sets, side by side."""
    return zip(vars(one).values(), vars(other).values(), strict=True)


def _split(x: NDArray[np.generic], y: NDArray[np.int64], device: torch.device) -> Split:
    import torch

    # Copied: what is loaded may be read-only, and stays as it is whoever writes to a split.
    return Split(torch.from_numpy(np.array(x)).to(device), torch.from_numpy(np.array(y)).to(device))


def resize(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Inputs ``[n, ...]`` in another shape, of the same type: channels averaged or repeated, bilinear, antialiased.

    Raises :class:`DataError` for inputs of another shape that are not images ``[n, c, h, w]``.
    """
    if tuple(x.shape[1:]) == shape:
        return x
    if x.ndim != 4 or len(shape) != 3:
        raise DataError(f"cannot turn inputs of shape {tuple(x.shape[1:])} into {shape}: only images can be resized")
    import torch

    # In parts: the whole of a large set as floats would need many times its memory.
    return torch.cat([_resize(part, shape) for part in x.split(4096)])


def _resize(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    import torch
    import torch.nn.functional as F

    resized = x.float()
    if x.shape[1] != shape[0]:
        resized = resized.mean(1, keepdim=True).expand(-1, shape[0], -1, -1)
    if tuple(x.shape[2:]) != shape[1:]:
        resized = F.interpolate(resized, shape[1:], mode="bilinear", antialias=True)
    return resized.round().clamp(0, 255).byte() if x.dtype == torch.uint8 else resized


def check_arrays(dataset: InputSet, arrays: Arrays) -> None:
    """Raise :class:`DataError` unless shapes, types, values and labels are what the dataset declares."""
    _check_part(dataset, "train", arrays.x_train, arrays.y_train)
    if isinstance(dataset, Dataset) or len(arrays.x_test) or len(arrays.y_test):
        _check_part(dataset, "test", arrays.x_test, arrays.y_test)
    if len(arrays.x_train) != dataset.available:
        raise DataError(f"{dataset.name}: {len(arrays.x_train)} training samples, declared {dataset.available}")


def _check_part(dataset: InputSet, name: str, x: NDArray[np.generic], y: NDArray[np.int64]) -> None:
    if tuple(x.shape[1:]) != dataset.input_shape:
        raise DataError(f"{dataset.name}: {name} inputs are {x.shape[1:]}, declared {dataset.input_shape}")
    if x.dtype not in (np.uint8, np.float32):
        raise DataError(f"{dataset.name}: {name} inputs are {x.dtype}, expected uint8 or float32")
    if y.dtype != np.int64 or y.shape != (len(x),):
        raise DataError(f"{dataset.name}: {name} labels must be int64 of shape ({len(x)},)")
    classes = len(dataset.classes)
    present = np.unique(y)
    if present.tolist() != list(range(classes)):
        raise DataError(f"{dataset.name}: {name} labels must cover 0 to {classes - 1}")
    if x.dtype == np.float32:
        # Both carry NaN along: no array of booleans as long as the set.
        low, high = float(x.min()), float(x.max())
        if not np.isfinite([low, high]).all():
            raise DataError(f"{dataset.name}: {name} inputs are not all finite")
        if low < dataset.value_range[0] or high > dataset.value_range[1]:
            raise DataError(
                f"{dataset.name}: {name} inputs are in {low:g}..{high:g}, declared value_range = {dataset.value_range}"
            )


# --- files ------------------------------------------------------------------------------------------------------------


def package_file(package: str, name: str) -> Path:
    """The file ``name`` that an installed package has, such as ``datasets/data/digits.csv.gz`` of ``sklearn``.

    The package is not imported. Raises :class:`DataError` where it has no such file.
    """
    found = find_spec(package)
    file = Path((found.origin if found else None) or "").parent / name
    if not file.is_file():
        raise DataError(f"the installed package {package} has no file {name}: install another version of it")
    return file


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
    raise missing(name, f"{file}.gz", folders)


def missing(name: str, file: str, folders: Iterable[Path], note: str = "", *, download: bool = True) -> MissingData:
    """The error that the set ``name`` has no ``file`` in any of ``folders``; ``note`` says more of them."""
    packed = "" if download else " (a packed subset, which cannot be downloaded)"
    return MissingData(name, f"{name}: no {file} in {', '.join(map(str, folders))}{note}{packed}", download=download)


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
