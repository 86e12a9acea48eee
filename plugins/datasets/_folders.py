"""Folders with a folder for each class, as torchvision's ImageFolder reads them: listed, never decoded."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from harness import OwnData, option, own_data

PARTS = ("train", "training", "test", "testing", "val", "valid", "validation")
"""Names of folders that are parts of a set, where there is a folder for training among them."""


@dataclass(frozen=True)
class Sample:
    """A file, its name (``test/cat/7.png``), its class, and true for a test sample."""

    name: str
    path: Path
    label: int
    is_test: bool


class Folders(OwnData):
    """Base of data sets that have a folder of files for each class; hidden files and folders are left out."""

    suffixes: ClassVar[Collection[str]]
    """Ends of the names of files that are samples, in small letters."""
    noun: ClassVar[str]

    test_path: str = option(
        "", doc="Folder of test samples with the same classes; empty takes test_share of each class for testing."
    )

    @cached_property
    def samples(self) -> Sequence[Sample]:
        """All samples, the training samples first, by class and name."""
        train = self._listed(self.path)
        names = [name for name, files in train.items() for name in files]
        labels = [label for label, files in enumerate(train.values()) for _ in files]
        paths = [path for files in train.values() for path in files.values()]
        if self.test_path:
            tests = self._listed(self.test_path)
            self._check_same(train, tests)
            made = [
                Sample(f"train/{name}", path, label, False)
                for name, path, label in zip(names, paths, labels, strict=True)
            ]
            return made + [
                Sample(f"test/{name}", path, label, True)
                for label, of_class in enumerate(train)
                for name, path in tests[of_class].items()
            ]
        chosen = own_data.test_part(names, labels, self.test_share)
        zipped = zip(names, paths, labels, chosen, strict=True)
        return sorted((Sample(*each[:3], bool(each[3])) for each in zipped), key=lambda sample: sample.is_test)

    @property
    def names(self) -> tuple[str, ...]:
        """The classes."""
        return tuple(_folders(self.place(self.path)))

    def files(self) -> Mapping[str, Path]:
        return {sample.name: sample.path for sample in self.samples}

    def _listed(self, named: str) -> Mapping[str, Mapping[str, Path]]:
        """The files of each class, by their names below the folder. Raises :class:`harness.DataError`."""
        folder = self.place(named)
        if not folder.is_dir():
            raise self.wrong(f"{folder} is a file: name the folder with a folder for each class")
        classes = {name: self._files(folder, name) for name in _folders(folder)}
        self._check(folder, classes)
        return classes

    def _files(self, folder: Path, name: str) -> Mapping[str, Path]:
        found = {}
        for here, folders, files in os.walk(folder / name, onerror=self._unreadable):
            folders[:] = sorted(each for each in folders if not _is_hidden(each))
            for each in sorted(files):
                path = Path(here, each)
                if path.suffix.lower() in self.suffixes and not _is_hidden(each):
                    found[path.relative_to(folder).as_posix()] = path
        return found

    def _unreadable(self, error: OSError) -> None:
        raise self.wrong(f"{error.filename} cannot be read ({error.strerror})") from error

    def _check(self, folder: Path, classes: Mapping[str, Mapping[str, Path]]) -> None:
        parts = [name for name in classes if name.lower() in PARTS]
        if len(parts) == len(classes) > 0 and any(name.lower().startswith("train") for name in parts):
            test = next((name for name in parts if name.lower().startswith("test")), parts[-1])
            train = next(name for name in parts if name.lower().startswith("train"))
            hint = f"path={folder / train}" + (f",test_path={folder / test}" if test != train else "")
            raise self.wrong(f"{folder} has the folders {', '.join(parts)}, which are parts, not classes: type {hint}")
        if not classes:
            raise self.wrong(f"{folder} has no folders: a folder for each class is expected")
        if len(classes) == 1:
            raise self.wrong(f"{folder} has one class, {next(iter(classes))}: a task has two or more")
        if empty := [name for name, files in classes.items() if not files]:
            kinds = ", ".join(sorted(self.suffixes))
            raise self.wrong(
                f"{len(empty)} of {len(classes)} classes in {folder} have no {self.noun} ({kinds}): {_some(empty)}; "
                "delete their folders, or fill them"
            )

    def _check_same(self, train: Collection[str], tests: Collection[str]) -> None:
        for here, there, words in ((train, tests, "lacks"), (tests, train, "has in addition")):
            if other := [name for name in here if name not in there]:
                raise self.wrong(f"test_path={self.test_path} {words} {len(other)} of the classes: {_some(other)}")


def _folders(folder: Path) -> list[str]:
    """The names of the folders in a folder, sorted."""
    return sorted(each.name for each in folder.iterdir() if each.is_dir() and not _is_hidden(each.name))


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
