"""Stratified splits: sizes, classes and seeds, for any data set; real MNIST at full size; too few samples."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from harness import stratified
from harness.contracts import Dataset
from harness.data import Data
from harness.errors import DataError
from harness.planning.registry import load_registry
from tests.conftest import Cli
from tests.test_data import Numbered

law = settings(deadline=None, max_examples=150, database=None, derandomize=True)


def task(counts: list[int], train: int, holdout: int) -> tuple[np.ndarray, Dataset]:
    """Labels with so many samples of each class, and a data set of them."""
    y = np.repeat(np.arange(len(counts)), counts)
    names = tuple(f"c{n}" for n in range(len(counts)))
    cls: Any = type("Drawn", (Numbered,), {"classes": names, "available": len(y), "name": "drawn"})
    return np.random.default_rng(len(y)).permutation(y), cls(train=train, holdout=holdout, source=0, target=1)


@st.composite
def tasks(draw: st.DrawFn) -> tuple[np.ndarray, Dataset]:
    """Any class counts, and sizes that these can fill."""
    counts = draw(st.lists(st.integers(3, 200), min_size=2, max_size=30))
    total, classes = sum(counts), len(counts)
    train = draw(st.integers(classes, total - classes))
    holdout = draw(st.integers(classes, total - train))
    return task(counts, train, holdout)


def by_rank(y: np.ndarray, dataset: Dataset, seed: int) -> list[np.ndarray]:
    """Splits as they were before there was another rule: round after round of the classes."""
    order = np.random.default_rng(seed).permutation(len(y))
    seen: dict[int, int] = {}
    rank = []
    for label in y[order].tolist():
        rank.append(seen.setdefault(label, 0))
        seen[label] += 1
    order = order[np.argsort(rank, kind="stable")]
    return np.split(order, np.cumsum([dataset.train, dataset.holdout, dataset.train]))[:3]


@law
@given(tasks(), st.integers(0, 2**62))
def test_every_class_is_in_every_part_of_exactly_the_size_that_was_asked_for(
    drawn: tuple[np.ndarray, Dataset], seed: int
) -> None:
    y, dataset = drawn
    parts = stratified.split(y, dataset, seed)
    rest = min(dataset.train, len(y) - dataset.train - dataset.holdout)
    assert [len(part) for part in parts] == [dataset.train, dataset.holdout, rest]
    together = np.concatenate(parts)
    assert len(np.unique(together)) == len(together)
    classes, whole = len(dataset.classes), np.bincount(y)
    for number, part in enumerate(parts):
        if number < 2 or len(part) == dataset.train:
            counts = np.bincount(y[part], minlength=classes)
            assert counts.min() >= 1
            assert (counts >= np.floor(stratified.LEAST * len(part) * whole / len(y)) - classes).all()
    assert all(np.array_equal(one, again) for one, again in zip(parts, stratified.split(y, dataset, seed), strict=True))


@law
@given(tasks(), st.integers(0, 2**62))
def test_each_class_has_its_share_where_it_cannot_have_as_much_as_the_others(
    drawn: tuple[np.ndarray, Dataset], seed: int
) -> None:
    y, dataset = drawn
    parts, before = stratified.split(y, dataset, seed), by_rank(y, dataset, seed)
    if all(map(np.array_equal, parts, before)):
        return
    classes, whole = len(dataset.classes), np.bincount(y)
    for part in parts[:2]:
        # Each class has one at least: the others give that up.
        counts, share = np.bincount(y[part], minlength=classes), len(part) * whole / len(y)
        assert (np.abs(counts - share) <= 1 + classes).all()


@law
@given(st.integers(2, 12), st.integers(3, 60), st.data(), st.integers(0, 2**62))
def test_balanced_sets_stay_balanced_as_they_were(classes: int, each: int, data: st.DataObject, seed: int) -> None:
    train = data.draw(st.integers(1, each - 2)) * classes
    holdout = data.draw(st.integers(1, each - train // classes)) * classes
    y, dataset = task([each] * classes, train, holdout)
    parts, before = stratified.split(y, dataset, seed), by_rank(y, dataset, seed)
    assert all(map(np.array_equal, parts, before))
    assert set(np.bincount(y[parts[0]])) == {train // classes}


@law
@given(tasks(), st.integers(0, 2**62))
def test_another_seed_draws_others(drawn: tuple[np.ndarray, Dataset], seed: int) -> None:
    y, dataset = drawn
    assume(len(y) - dataset.train > 8)
    one, other = (stratified.split(y, dataset, each)[0] for each in (seed, seed + 1))
    assert not np.array_equal(one, other)


def test_a_class_that_ran_out_in_the_training_set_is_held_out_too() -> None:
    """The rare class ran out in the owner's set: nothing of it was held out."""
    y, dataset = task([542, 674, 600, 584], 2200, 150)
    before, parts = by_rank(y, dataset, 0), stratified.split(y, dataset, 0)
    assert np.bincount(y[before[1]], minlength=4)[0] == 0
    assert np.bincount(y[parts[1]], minlength=4).tolist() == [34, 42, 37, 37]
    assert np.bincount(y[parts[0]], minlength=4).tolist() == [497, 618, 550, 535]


# --- real sets --------------------------------------------------------------------------------------------------------


@cache
def builtin(entry: str) -> Any:
    return load_registry().component("dataset", entry).plugin


@cache
def labels(root: Path, name: str) -> np.ndarray:
    return Data(root).arrays(builtin(name)).y_train


def test_mnist_at_full_size_has_every_class_held_out(real_data: Path) -> None:
    y = labels(real_data, "mnist")
    whole = replace(builtin("mnist"), train=55_000, holdout=5_000)
    train, holdout, _ = stratified.split(y, whole, 0)
    share = np.bincount(y) / len(y)
    for part in (train, holdout):
        assert np.abs(np.bincount(y[part]) - len(part) * share).max() <= 1
    assert np.bincount(y[by_rank(y, whole, 0)[1]], minlength=10)[5] == 0, "as it was"


@pytest.mark.parametrize("seed", [0, 1, 12345])
@pytest.mark.parametrize(
    "entry",
    ["digits", "digits[train=200,holdout=100]", "digits[train=600,holdout=150]", "digits[train=700,holdout=97]"],
)
def test_the_splits_of_digits_are_those_that_records_were_made_with(entry: str, seed: int) -> None:
    y, dataset = labels(Path(), "digits"), builtin(entry)
    assert all(map(np.array_equal, stratified.split(y, dataset, seed), by_rank(y, dataset, seed)))


# --- too few ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counts", "train", "holdout", "message"),
    [
        ([9, 1, 9], 10, 4, "drawn: class 'c1' has 1 training samples, expected at least 2, one for each of the splits"),
        ([9, 2, 9], 5, 4, "drawn: class 'c1' has 2 training samples, expected at least 3, one for each of the splits"),
        ([9, 2, 9], 2, 18, r"train=2 is too few for 3 classes.*: type drawn\[train=3\], or more"),
        ([9, 9, 9], 12, 1, r"holdout=1 is too few for 3 classes.*: type drawn\[holdout=3\], or more"),
    ],
)
def test_too_few_samples_are_one_line(counts: list[int], train: int, holdout: int, message: str) -> None:
    y, dataset = task(counts, train, holdout)
    for ask in (lambda: stratified.check(y, dataset), lambda: stratified.split(y, dataset, 0)):
        with pytest.raises(DataError, match=message) as caught:
            ask()
        assert "\n" not in str(caught.value)


RARE = '''
"""A set with a class of one sample."""
import numpy as np
from harness import Arrays, Dataset

class Rare(Dataset):
    """Two classes, of which one has a single sample."""
    name = "rare"
    input_shape = (1, 8, 8)
    classes = ("often", "once")
    available = 40
    source: int = 0
    target: int = 1
    train: int = 20
    holdout: int = 10

    def load(self, root):
        x = np.arange(40 * 64).reshape(40, 1, 8, 8).astype(np.uint8)
        y = np.zeros(40, np.int64)
        y[7] = 1
        return Arrays(x, y, x, y)
'''


def test_a_class_with_too_few_samples_ends_a_run_at_its_start(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "rare.py").write_text(RARE)
    words = ("run", "--dataset", "rare", "--defense", "baseline", "--attack", "none", "--seeds", "0")
    said = cli(*words, "--plugins", tmp_path / "plugins", "--results", tmp_path / "results", code=2).err
    assert "harness: rare: class 'once' has 1 training samples, expected at least 2" in said
    assert not (tmp_path / "results" / "tables").exists()
    few = cli("run", "--matrix", "smoke", "--dataset", "digits[holdout=4]", "--results", tmp_path / "r", code=2).err
    assert "digits: holdout=4 is too few for 10 classes" in few and "type digits[holdout=10], or more" in few
