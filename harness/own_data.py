"""Data sets of a user's own: the files that an option names decide the classes, the input shape and the size.

A data set derives from :class:`OwnData` and says in ``look()`` what its files hold, without decoding them: a plan asks
for no more, and for the digest of their bytes.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.contracts import Arrays, Dataset
from harness.errors import DataError
from harness.fields import option
from harness.files import user_path
from harness.values import Schedule

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

HELD_OUT = 0.1
"""Share of the training samples that is held out by default; of the rest the owner has one half."""


@dataclass(frozen=True)
class Facts:
    """Properties of a data set that its files decide."""

    classes: tuple[str, ...]
    input_shape: tuple[int, ...]
    available: int
    """Number of training samples."""
    value_range: tuple[float, float] = (0.0, 1.0)


class OwnData(Dataset):
    """Base of data sets whose files an option names: a subclass implements :meth:`look`, :meth:`files`, :meth:`load`.

    ``input_shape``, ``classes``, ``available`` and ``value_range`` are properties of an object here. Ids of results
    have the content of the files in them, and not where they lie (the values of ``path`` and ``..._path``).
    """

    arms = ()

    path: str = option(
        "", doc="The files: ~ is the home folder, a relative path begins where you start.", required=True
    )
    test_share: float = option(
        0.2,
        doc="Share of each class that is the test set, where no test samples are given: those whose names (in a table, "
        "numbers of rows) have the smallest SHA-256.",
        above=0,
        below=1,
    )
    train: int = option(
        0,
        doc="Number of the owner's training samples, stratified by class; 0 is half of those not held out, so that a "
        "thief can have as many.",
        at_least=0,
    )
    holdout: int = option(
        0, doc="Number of the owner's samples that no model sees; 0 is a tenth, and one a class at least.", at_least=0
    )
    epochs: int = 20
    pretrain: int = 10
    batch_size: int = 64
    learning_rate: float = 3e-3
    schedule: Schedule = "one-cycle"
    normalize: bool = True
    source: int = 0
    target: int = 1

    def __post_init__(self) -> None:
        decided = self._sizes(self.facts)
        for name, value in decided.items():
            if not getattr(self, name):
                object.__setattr__(self, name, value)
        object.__setattr__(self, "decided", decided)
        super().__post_init__()

    def _sizes(self, facts: Facts) -> dict[str, int]:
        """The sizes where they are not given: a tenth is held out, and half of the others are the owner's."""
        count, least = facts.available, len(facts.classes)
        holdout = max(least, min(int(HELD_OUT * count), count - self.train))
        return {"train": max(least, (count - (self.holdout or holdout)) // 2), "holdout": holdout}

    # --- to implement ---

    @abstractmethod
    def look(self) -> Facts:
        """The facts, from names and headers: no torch, and no decoding of all samples.

        Raises :class:`DataError` for files that are missing, and for what could be no task.
        """

    @abstractmethod
    def files(self) -> Mapping[str, Path]:
        """The files that :meth:`load` reads, each by a name that says no more of its place than what counts."""

    @abstractmethod
    def load(self, root: Path) -> Arrays:
        """The samples. The folder ``root`` of published data sets is not looked at."""

    # --- what follows from it ---

    @cached_property
    def facts(self) -> Facts:
        """The facts, looked up once."""
        return self.look()

    if not TYPE_CHECKING:  # class variables of other data sets
        input_shape = property(lambda self: self.facts.input_shape)
        classes = property(lambda self: self.facts.classes)
        available = property(lambda self: self.facts.available)
        value_range = property(lambda self: self.facts.value_range)

    def __getstate__(self) -> dict[str, Any]:
        """The object for another process: without what it has listed, which may be long, and is listed there."""
        kept = {*self.__dataclass_fields__, "decided", "facts"}
        return {name: value for name, value in vars(self).items() if name in kept}

    def content(self) -> str:
        """The digest of all that decides what :meth:`load` returns: files and options; 32 hexadecimal digits."""
        from harness.prepared import file_digest

        added = [each.name for each in fields(self) if each.name not in Dataset.__dataclass_fields__]
        settings = [(name, getattr(self, name)) for name in added if not is_place(name)]
        digest = hashlib.sha256(repr(settings).encode(errors="backslashreplace"))
        for name, path in sorted(self.files().items()):
            try:
                digest.update(f"{name}\0{file_digest(path)}\0".encode(errors="surrogateescape"))
            except OSError as error:
                raise self.wrong(f"{path} cannot be read ({error.strerror})") from error
        return digest.hexdigest()[:32]

    def kept(
        self, make: Callable[[], Mapping[str, NDArray[np.generic]]], *settings: object
    ) -> Mapping[str, NDArray[np.generic]]:
        """The arrays that ``make()`` computes, computed once for these ``settings`` and the content of the files."""
        from harness.prepared import prepared

        return prepared(self.name, (self.content(), *settings), (), make)

    def place(self, named: str) -> Path:
        """The absolute path that an option names. Raises :class:`DataError` where there is nothing."""
        path = user_path(named).absolute()
        if not path.exists():
            raise self.wrong(f"no {named}" if path == Path(named) else f"no {named} (that is {path})")
        return path

    def wrong(self, what: str) -> DataError:
        """The error that says ``what`` is wrong with the files."""
        return DataError(f"{self.name}: {what}")


def is_place(option: str) -> bool:
    """True for an option of a data set that says where files are: its value is no part of ids."""
    return option == "path" or option.endswith("_path")


def test_part(names: Sequence[str], labels: Sequence[int], share: float) -> NDArray[np.bool_]:
    """True for each sample that is a test sample: of each class the ``share`` whose names have the smallest SHA-256.

    At least one of each class is, and one is not, where it has two.
    """
    import numpy as np

    of_class: dict[int, list[int]] = {}
    for number, label in enumerate(labels):
        of_class.setdefault(int(label), []).append(number)
    chosen = np.zeros(len(names), bool)
    for numbers in of_class.values():
        numbers.sort(key=lambda number: hashlib.sha256(names[number].encode(errors="surrogateescape")).digest())
        chosen[numbers[: min(max(1, round(share * len(numbers))), len(numbers) - 1)]] = True
    return chosen


def numbered(dataset: OwnData, where: str, values: NDArray[Any], names: Sequence[str]) -> NDArray[np.int64]:
    """Labels as numbers of the classes ``names``. Raises :class:`DataError` for one that is no class."""
    import numpy as np

    if values.dtype.kind in "OUS":  # names
        known = {name: number for number, name in enumerate(names)}
        found = [known.get(text(value), -1) for value in values]
    else:
        found = list(whole(dataset, where, values))
    labels = np.array(found, np.int64)
    outside = np.flatnonzero((labels < 0) | (labels >= len(names)))
    if len(outside):
        raise dataset.wrong(
            f"{len(outside)} of {len(labels):,} labels in {where} are no class, the first {text(values[outside[0]])!r} "
            f"(sample {outside[0]}): {len(names)} classes, {_span(names)}"
        )
    return labels


def class_names(dataset: OwnData, where: str, values: NDArray[Any]) -> tuple[str, ...]:
    """The classes of training labels: names, sorted, or numbers from 0. Raises :class:`DataError` for other numbers."""
    if values.dtype.kind in "OUS":
        return tuple(sorted(set(map(text, values))))
    found = sorted(set(whole(dataset, where, values).tolist()))
    if found and (found[0] < 0 or found[-1] != len(found) - 1):
        lacking = "" if found[0] < 0 else f", and none of {next(n for n, label in enumerate(found) if n != label)}"
        raise dataset.wrong(
            f"labels in {where} are from {found[0]} to {found[-1]}{lacking}: number the classes from 0, without gaps"
        )
    return tuple(map(str, found))


def check_classes(dataset: OwnData, where: str, names: Sequence[str], labels: NDArray[np.int64]) -> None:
    """Raise :class:`DataError` unless there are two classes or more, each with a sample among ``labels``."""
    import numpy as np

    if len(names) < 2:
        raise dataset.wrong(f"{where} has one class, {', '.join(names)}: a task has two or more")
    counts = np.bincount(labels, minlength=len(names))
    empty = [name for name, count in zip(names, counts, strict=True) if not count]
    if empty:
        raise dataset.wrong(f"{where} has no sample of {len(empty)} classes: {', '.join(empty[:5])}")


def whole(dataset: OwnData, where: str, values: NDArray[Any]) -> NDArray[np.int64]:
    """Labels as whole numbers. Raises :class:`DataError` for values that are none."""
    import numpy as np

    if values.dtype.kind in "iub":
        return values.astype(np.int64)
    if values.dtype.kind == "f" and np.isfinite(values).all() and (values == np.round(values)).all():
        return values.astype(np.int64)
    first = next((value for value in values.ravel().tolist() if not _is_whole(value)), None)
    raise dataset.wrong(f"labels in {where} must be whole numbers or names, not {values.dtype}, such as {first!r}")


def _is_whole(value: object) -> bool:
    return isinstance(value, float) and value.is_integer()


def text(value: object) -> str:
    """A label as text."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _span(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 5 else f"{names[0]}, {names[1]}, ... {names[-1]}"
