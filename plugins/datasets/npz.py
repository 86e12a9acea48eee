"""Arrays of a user's own in a file of NumPy's."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from harness import Arrays, OwnData, option, own_data

PARTS = ("x_train", "y_train", "x_test", "y_test")


class Npz(OwnData):
    """Arrays of your own in one npz file: x and y, or x_train, y_train, x_test and y_test; class names in classes."""

    name = "npz"

    architecture: str = option("", doc="Architecture of all models; empty is cnn for images, and mlp for others.")
    layout: Literal["auto", "channels-first", "channels-last"] = option(
        "auto", doc="Place of the channels in images [n, ?, ?, ?]; auto is that of 1 or 3 of them."
    )
    low: float = option(0.0, doc="Smallest value of floating-point inputs.")
    high: float = option(1.0, doc="Largest value of floating-point inputs.")

    def __post_init__(self) -> None:
        decided = "cnn" if len(self.facts.input_shape) == 3 else "mlp"
        if not self.architecture:
            object.__setattr__(self, "architecture", decided)
        super().__post_init__()
        object.__setattr__(self, "decided", {**self.decided, "architecture": decided})

    @cached_property
    def file(self) -> Path:
        """The file."""
        path = self.place(self.path)
        if not path.is_file():
            raise self.wrong(f"{path} is a folder: name an npz file")
        return path

    @cached_property
    def headers(self) -> Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        """Shape and type of each array, by name."""
        try:
            with zipfile.ZipFile(self.file) as archive:
                return {name.removesuffix(".npy"): _header(archive, name) for name in archive.namelist()}
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise self.wrong(f"{self.file} cannot be read ({error}): an npz file is expected") from error

    @property
    def parts(self) -> Sequence[str]:
        """The names of the arrays that are read."""
        wanted = PARTS if "x_train" in self.headers or "y_train" in self.headers else ("x", "y")
        if missing := [name for name in wanted if name not in self.headers]:
            known = ", ".join(sorted(self.headers)) or "none"
            raise self.wrong(
                f"{self.file} has no array {' and '.join(missing)}: it has {known}; "
                "x and y are expected, or x_train, y_train, x_test and y_test"
            )
        return wanted

    def look(self) -> own_data.Facts:
        x, labels = self.parts[0], self.labels
        for name, other in zip(self.parts[::2], self.parts[1::2], strict=True):
            (shape, kind), (of_labels, _) = self.headers[name], self.headers[other]
            if kind.kind not in "uif" or len(shape) < 2:
                raise self.wrong(f"{name} in {self.file} must be numbers [n, ...], and is {kind} {list(shape)}")
            if shape[1:] != self.headers[x][0][1:]:
                raise self.wrong(f"{name} in {self.file} is {list(shape)}, and {x} {list(self.headers[x][0])}")
            if of_labels != shape[:1]:
                raise self.wrong(
                    f"{other} in {self.file} is {list(of_labels)}, expected a label for each of {shape[0]} inputs"
                )
        span = (self.low, self.high) if self.headers[x][1].kind == "f" else (0.0, 1.0)
        return own_data.Facts(self.names, self._shape(self.headers[x][0]), len(labels["train"]), span)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The classes: those that the file names, or those of the labels."""
        where = f"{self.file} ({self.parts[1]})"
        if "classes" in self.headers:
            return tuple(map(own_data.text, self._array("classes").ravel()))
        return own_data.class_names(self, where, self._array(self.parts[1]))

    @cached_property
    def labels(self) -> Mapping[str, NDArray[np.int64]]:
        """The labels of the training and test samples, and the numbers of the samples where one file is split."""
        found = {
            name: own_data.numbered(self, f"{self.file} ({name})", self._array(name), self.names)
            for name in self.parts[1::2]
        }
        if len(found) == 2:
            labels = {"train": found["y_train"], "test": found["y_test"]}
        else:
            y = found["y"]
            test = own_data.test_part(list(map(str, range(len(y)))), y.tolist(), self.test_share)
            labels = {"train": y[~test], "test": y[test], "is_test": test.astype(np.int64)}
        for part in ("train", "test"):
            own_data.check_classes(self, f"{self.file} ({part})", self.names, labels[part])
        return labels

    def files(self) -> Mapping[str, Path]:
        return {"data.npz": self.file}

    def load(self, root: Path) -> Arrays:
        x = [self._inputs(name) for name in self.parts[::2]]
        if len(x) == 1:
            test = self.labels["is_test"].astype(bool)
            x = [x[0][~test], x[0][test]]
        return Arrays(x[0], self.labels["train"], x[1], self.labels["test"])

    def _inputs(self, name: str) -> NDArray[np.uint8] | NDArray[np.float32]:
        """Inputs ``[n, ...]`` in the order and of the types that nets take."""
        x = self._array(name)
        low, high = (float(x.min()), float(x.max())) if x.size else (0.0, 0.0)
        if x.dtype.kind in "ui" and not 0 <= low <= high <= 255:
            raise self.wrong(
                f"{name} in {self.file} has whole numbers from {low:g} to {high:g}, expected 0 to 255: "
                "scale them, or store floating-point numbers"
            )
        if x.dtype.kind == "f" and not self.low <= low <= high <= self.high:  # false for NaN too
            hint = f": type low={low:g},high={high:g}, or scale it" if np.isfinite([low, high]).all() else ""
            raise self.wrong(
                f"{name} in {self.file} is in {low:g}..{high:g}, expected {self.low:g}..{self.high:g}{hint}"
            )
        x = x.astype(np.uint8 if x.dtype.kind in "ui" else np.float32, copy=False)
        return self._first(x).reshape(len(x), *self.input_shape)

    def _array(self, name: str) -> NDArray[Any]:
        try:
            with np.load(self.file, allow_pickle=False) as file:
                return np.asarray(file[name])
        except (OSError, ValueError, KeyError, zipfile.BadZipFile, zipfile.zlib.error) as error:  # type: ignore[attr-defined]
            words = "it holds Python objects" if "pickle" in str(error) else error
            raise self.wrong(f"{name} in {self.file} cannot be read ({words})") from error

    def _is_last(self, shape: tuple[int, ...]) -> bool:
        """True for images ``[n, h, w, c]``."""
        if len(shape) != 4 or self.layout != "auto":
            return self.layout == "channels-last" and len(shape) == 4
        first, last = shape[1] in (1, 3), shape[3] in (1, 3)
        if first == last:
            raise self.wrong(f"inputs in {self.file} are {list(shape)}: type layout=channels-first or channels-last")
        return last

    def _shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of one input, channels first; of a grey image ``[h, w]`` with one channel."""
        if len(shape) == 3:
            return (1, *shape[1:])
        return (shape[3], *shape[1:3]) if self._is_last(shape) else shape[1:]

    def _first(self, x: NDArray[Any]) -> NDArray[Any]:
        return np.ascontiguousarray(x.transpose(0, 3, 1, 2)) if self._is_last(x.shape) else x


def _header(archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of an array, of which nothing else is read."""
    with archive.open(name) as file:
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        major = np.lib.format.read_magic(file)
        if major not in read:
            raise ValueError(f"{name} is of version {major} of the npy format")
        shape, _, kind = read[major](file)
    return shape, kind
