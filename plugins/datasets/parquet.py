"""Images of a user's own in Parquet files, as public hubs export data sets."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness import Arrays, option, own_data

from ._images import Images, code


class Parquet(Images):
    """Images of your own in Parquet: a column of encoded images and one of labels, in one file or a folder of them."""

    name = "parquet"

    image: str = option("image", doc="Column of the encoded images: bytes, or {bytes, path} as hubs export them.")
    label: str = option("label", doc="Column of the labels: whole numbers from 0, or names.")
    test_path: str = option(
        "",
        doc="File or folder of test samples; empty takes, in a folder with files train*.parquet and test*.parquet, "
        "these two, and else test_share of each class.",
    )

    @cached_property
    def parts(self) -> Mapping[str, Sequence[Path]]:
        """The files of the training samples, and of the test samples where these are apart."""
        found = self._found(self.path)
        if self.test_path:
            return {"train": found, "test": self._found(self.test_path)}
        train, test = ([each for each in found if each.name.startswith(part)] for part in ("train", "test"))
        return {"train": train, "test": test} if train and test else {"train": found}

    def _found(self, named: str) -> Sequence[Path]:
        path = self.place(named)
        found = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
        if not found:
            raise self.wrong(f"{path} has no file *.parquet")
        return found

    def look(self) -> own_data.Facts:
        labels = self.labels
        shape = self.shape(*self._first())
        return own_data.Facts(self.names, shape, int((~labels["is_test"]).sum()))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The classes: those that the files name, or those of the training labels."""
        first = self.parts["train"][0]
        try:
            told = json.loads((_schema(self, first).metadata or {}).get(b"huggingface", b"{}"))
            names = told["info"]["features"][self.label]["names"]
        except (ValueError, KeyError, TypeError):
            names = []
        if names and all(isinstance(name, str) for name in names):
            return tuple(names)
        return own_data.class_names(self, self._where("train"), self._column("train"))

    @cached_property
    def labels(self) -> Mapping[str, NDArray[Any]]:
        """The labels of all rows, training files first, and which rows are test samples."""
        y = {part: own_data.numbered(self, self._where(part), self._column(part), self.names) for part in self.parts}
        if "test" in y:
            is_test = np.repeat([False, True], [len(y["train"]), len(y["test"])])
        else:
            is_test = own_data.test_part(list(map(str, range(len(y["train"])))), y["train"].tolist(), self.test_share)
        labels = np.concatenate(list(y.values()))
        for part, rows in (("train", ~is_test), ("test", is_test)):
            own_data.check_classes(self, f"{self.path} ({part})", self.names, labels[rows])
        return {"y": labels, "is_test": is_test}

    def files(self) -> Mapping[str, Path]:
        return {f"{part}/{number}": path for part, found in self.parts.items() for number, path in enumerate(found)}

    def load(self, root: Path) -> Arrays:
        y, is_test = self.labels["y"], self.labels["is_test"]
        x = self.kept(self._decoded, code())["x"]
        return Arrays(x[~is_test], y[~is_test], x[is_test], y[is_test])

    def _decoded(self) -> Mapping[str, NDArray[np.uint8]]:
        made = []
        for path in self.files().values():
            table = _read(self, path, [self.image])
            encoded = [_bytes(value) for value in table.column(self.image).to_pylist()]
            made.append(self.decoded(encoded, [f"row {row} of {path}" for row in range(len(encoded))]))
        return {"x": np.concatenate(made)}

    def _first(self) -> tuple[bytes, str]:
        """The first image that there is, and where it is."""
        import pyarrow.parquet

        path = self.parts["train"][0]
        _check_columns(self, path, [self.image])
        try:
            batch = next(pyarrow.parquet.ParquetFile(path).iter_batches(1, columns=[self.image]))
        except (OSError, ValueError, StopIteration) as error:
            raise self.wrong(f"{path} cannot be read ({error})") from error
        return _bytes(batch.column(0)[0].as_py()), f"row 0 of {path}"

    def _column(self, part: str) -> NDArray[Any]:
        """The labels of a part as they are stored."""
        import pyarrow

        tables = [_read(self, path, [self.label]).column(self.label) for path in self.parts[part]]
        column = pyarrow.chunked_array([chunk for table in tables for chunk in table.chunks], tables[0].type)
        if column.null_count:
            raise self.wrong(f"{column.null_count:,} labels in {self._where(part)} are missing")
        if pyarrow.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        labels: NDArray[Any] = column.to_numpy()
        return labels

    def _where(self, part: str) -> str:
        return f"{self.test_path if part == 'test' and self.test_path else self.path} ({self.label})"


def _schema(dataset: Parquet, path: Path) -> Any:
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_schema(path)
    except (OSError, ValueError) as error:
        raise dataset.wrong(f"{path} cannot be read ({_line(error)}): a Parquet file is expected") from error


def _check_columns(dataset: Parquet, path: Path, names: Sequence[str]) -> None:
    known = _schema(dataset, path).names
    for name in names:
        if name not in known:
            option = "image" if name == dataset.image else "label"
            raise dataset.wrong(f"{path} has no column {name!r}: it has {', '.join(known)}; type {option}=COLUMN")


def _read(dataset: Parquet, path: Path, names: Sequence[str]) -> Any:
    """These columns of a file."""
    import pyarrow.parquet

    _check_columns(dataset, path, names)
    try:
        return pyarrow.parquet.read_table(path, columns=list(names), partitioning=None)
    except (OSError, ValueError) as error:
        raise dataset.wrong(f"{path} cannot be read ({_line(error)})") from error


def _bytes(value: Any) -> bytes:
    """The encoded image in a cell of the column; empty, which no image is, where there is none."""
    if isinstance(value, Mapping):
        value = value.get("bytes")
    return value if isinstance(value, bytes) else b""


def _line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
