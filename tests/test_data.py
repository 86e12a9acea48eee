"""Data: splits by seed, sets told apart by their content, folders, messages; MNIST and Fashion-MNIST where they are.

The tests of real MNIST read the folder that ``HARNESS_DATA`` names.
"""

from __future__ import annotations

import gzip
import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from harness.contracts import Arrays, Dataset
from harness.data import Data, check_arrays, data_folder, package_file, read_idx, resize
from harness.errors import BrokenDataset, DataError, UsageError
from harness.planning.registry import load_registry

CPU = torch.device("cpu")
NOWHERE = Path("no-folder")  # scikit-learn's sets come with it

law = settings(deadline=None, max_examples=40, database=None, derandomize=True)


@dataclass(frozen=True)
class Numbered(Dataset):
    """Five classes, 100 samples of each; an input is the number of its sample, so that every one is recognised."""

    name: ClassVar[str] = "numbered"
    input_shape: ClassVar[tuple[int, ...]] = (3,)
    classes: ClassVar[tuple[str, ...]] = tuple("abcde")
    available: ClassVar[int] = 500
    value_range: ClassVar[tuple[float, float]] = (0.0, 519.0)

    train: int = 100
    target: int = 2

    def load(self, root: Path) -> Arrays:
        numbers = np.arange(520, dtype=np.float32)[:, None].repeat(3, axis=1)
        labels = np.arange(520) * 7 % 5
        return Arrays(numbers[:500], labels[:500], numbers[500:], labels[500:])


@dataclass(frozen=True)
class Kept(Numbered):
    """The same, in a file that can be fetched."""

    name: ClassVar[str] = "kept"

    def load(self, root: Path) -> Arrays:
        if not (root / "kept").exists():
            raise DataError("kept: no file")
        return super().load(root)

    def fetch(self, root: Path) -> None:
        (root / "kept").touch()


@cache
def builtin(entry: str) -> Any:
    return load_registry().component("dataset", entry).plugin


def numbers(x: Tensor) -> list[int]:
    return [int(value) for value in x.flatten(1)[:, 0]]


# --- splits -----------------------------------------------------------------------------------------------------------


@law
@given(train=st.integers(5, 200), holdout=st.integers(5, 100), seed=st.integers(0, 2**62))
def test_splits_are_balanced_and_do_not_overlap(train: int, holdout: int, seed: int) -> None:
    splits = Data(NOWHERE).splits(Numbered(train=train, holdout=holdout), seed, CPU)
    parts = (splits.train, splits.holdout, splits.disjoint)
    assert [len(part) for part in parts] == [train, holdout, train]
    drawn = [number for part in parts for number in numbers(part.x)]
    assert len(set(drawn)) == len(drawn) and max(drawn) < 500  # apart, and none of the test set
    for part, apart in zip(parts, (1, 2, 2), strict=True):  # the later ones begin and end within a round of classes
        counts = torch.bincount(part.y, minlength=5)
        assert int(counts.max() - counts.min()) <= apart
        assert part.y.tolist() == [number * 7 % 5 for number in numbers(part.x)]


def test_splits_are_of_their_seed() -> None:
    task = Numbered()
    one, again, other = (Data(NOWHERE).splits(task, seed, CPU) for seed in (1, 1, 2))
    for name in ("train", "holdout", "disjoint"):
        first, same, different = (numbers(getattr(splits, name).x) for splits in (one, again, other))
        assert first == same and set(first) != set(different)


def test_a_larger_training_set_takes_the_smaller_ones_samples_first() -> None:
    data = Data(NOWHERE)
    small, large = (numbers(data.splits(Numbered(train=n), 3, CPU).train.x) for n in (50, 200))
    assert large[:50] == small


def test_the_attacker_has_as_many_others_as_the_owner_where_there_are() -> None:
    assert len(Data(NOWHERE).splits(Numbered(train=200, holdout=50), 0, CPU).disjoint) == 200
    assert len(Data(NOWHERE).splits(Numbered(train=300, holdout=150), 0, CPU).disjoint) == 50
    assert len(Data(NOWHERE).splits(Numbered(train=400, holdout=100), 0, CPU).disjoint) == 0


def test_no_seed_changes_the_test_set_and_an_option_takes_its_beginning() -> None:
    data = Data(NOWHERE)
    assert numbers(data.test(Numbered(), CPU).x) == list(range(500, 520))
    assert numbers(data.test(Numbered(test=7), CPU).x) == list(range(500, 507))


def test_writing_to_a_split_changes_no_other() -> None:
    data, task = Data(NOWHERE), Numbered()
    for split in (data.splits(task, 0, CPU).train, data.test(task, CPU), data.other(task, task, CPU)):
        split.x.zero_(), split.y.zero_()
    assert numbers(data.test(task, CPU).x) == list(range(500, 520)) and bool(data.test(task, CPU).y.any())
    assert sorted(numbers(data.other(task, task, CPU).x)) == list(range(500))


def test_another_dataset_comes_whole_in_the_shape_of_the_task() -> None:
    photos, digits = builtin("photo-patches"), builtin("digits")
    other = Data(NOWHERE).other(photos, digits, CPU)
    assert other.x.shape == (7066, 1, 8, 8) and other.x.dtype == torch.uint8
    small = Data(NOWHERE).other(photos, type("Colour", (type(digits),), {"input_shape": (3, 6, 6)})(), CPU)
    assert small.x.shape == (7066, 3, 6, 6) and torch.equal(small.y, other.y)


# --- resizing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [(1, 28, 28), (3, 32, 32), (1, 8, 8), (3, 5, 9)])
@pytest.mark.parametrize("after", [(1, 28, 28), (3, 32, 32), (1, 8, 8), (3, 5, 9)])
def test_resized_images_are_images_of_the_shape_that_was_asked_for(before: Any, after: Any) -> None:
    x = torch.randint(0, 256, (5, *before), generator=torch.Generator().manual_seed(0)).byte()
    flat = torch.tensor([0, 1, 127, 254, 255], dtype=torch.uint8)[:, None, None, None].expand(5, *before)
    resized = resize(x, after)
    assert resized.shape == (5, *after) and resized.dtype == torch.uint8
    assert torch.equal(resize(flat, after), flat[:, :1, :1, :1].expand(5, *after))  # no brightness is lost
    assert abs(float(resized.float().mean() - x.float().mean())) < 8
    if before == after:
        assert resized is x


def test_resizing_keeps_up_and_left_where_they_are() -> None:
    x = torch.zeros((1, 1, 8, 16), dtype=torch.uint8)
    x[..., :4, :4] = 200
    assert resize(x, (1, 4, 8))[0, 0].tolist()[0][0] == 200 and resize(x, (1, 4, 8))[0, 0].tolist()[3][7] == 0
    assert int(resize(x, (1, 16, 8))[0, 0, :6, :1].min()) > 150


def test_channels_are_averaged_or_repeated() -> None:
    x = torch.tensor([10, 20, 90], dtype=torch.uint8)[None, :, None, None].expand(2, 3, 4, 4)
    assert torch.equal(resize(x, (1, 4, 4)), torch.full((2, 1, 4, 4), 40, dtype=torch.uint8))
    assert torch.equal(resize(resize(x, (1, 4, 4)), (3, 4, 4)), torch.full((2, 3, 4, 4), 40, dtype=torch.uint8))


def test_float_images_stay_float() -> None:
    x = torch.linspace(-1, 1, 5)[:, None, None, None].expand(5, 3, 6, 6)
    for shape in ((1, 6, 6), (3, 4, 8), (1, 12, 12)):
        resized = resize(x, shape)
        assert resized.dtype == torch.float32
        torch.testing.assert_close(resized, x[:, :1, :1, :1].expand(5, *shape))


@pytest.mark.parametrize(("before", "after"), [((40,), (1, 8, 8)), ((1, 8, 8), (40,)), ((20, 80), (1, 8, 8))])
def test_only_images_can_be_resized(before: Any, after: Any) -> None:
    with pytest.raises(DataError, match="only images"):
        resize(torch.zeros(2, *before), after)


# --- what a dataset loads ---------------------------------------------------------------------------------------------


def arrays(**changed: Any) -> Arrays:
    return replace(Numbered().load(NOWHERE), **changed)


LABELS = np.arange(500) % 5


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (arrays(x_train=np.zeros((500, 4), np.float32)), r"numbered: train inputs are \(4,\), declared \(3,\)"),
        (arrays(x_test=np.zeros((20, 3), np.float64)), "numbered: test inputs are float64, expected uint8 or float32"),
        (arrays(x_train=np.full((500, 3), np.nan, np.float32)), "numbered: train inputs are not all finite"),
        (arrays(x_test=np.full((20, 3), np.inf, np.float32)), "numbered: test inputs are not all finite"),
        (arrays(y_train=LABELS.astype(np.int32)), r"numbered: train labels must be int64 of shape \(500,\)"),
        (arrays(y_train=LABELS[:-1]), r"numbered: train labels must be int64 of shape \(500,\)"),
        (arrays(y_train=LABELS[:, None]), r"numbered: train labels must be int64 of shape \(500,\)"),
        (arrays(y_train=LABELS % 4), "numbered: train labels must cover 0 to 4"),
        (arrays(y_train=LABELS + 1), "numbered: train labels must cover 0 to 4"),
        (arrays(y_train=np.where(LABELS == 0, np.arange(500) % 2 - 1, LABELS)), "train labels must cover 0 to 4"),
        (arrays(y_train=np.arange(500) % 6), "numbered: train labels must cover 0 to 4"),
        (arrays(x_test=np.zeros((0, 3), np.float32), y_test=LABELS[:0]), "numbered: test labels must cover 0 to 4"),
        (arrays(x_train=np.zeros((499, 3), np.uint8), y_train=LABELS[:-1]), "499 training samples, declared 500"),
    ],
)
def test_what_is_not_as_declared_is_named(wrong: Arrays, message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_arrays(Numbered(), wrong)


def test_what_is_as_declared_passes() -> None:
    check_arrays(Numbered(), arrays())
    check_arrays(Numbered(), arrays(x_train=np.zeros((500, 3), np.uint8)))


def test_a_set_is_loaded_once_and_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    given = [arrays(y_train=LABELS % 4), arrays()]
    monkeypatch.setattr(Numbered, "load", lambda self, root: given.pop(0))
    with pytest.raises(BrokenDataset, match="must cover"):
        Data(NOWHERE).splits(Numbered(), 0, CPU)
    data = Data(NOWHERE)
    data.splits(Numbered(), 0, CPU), data.splits(Numbered(), 1, CPU), data.test(Numbered(), CPU)
    assert given == []


@pytest.mark.parametrize(
    ("name", "shape", "test", "classes"),
    [("digits", (1497, 1, 8, 8), 300, 10), ("photo-patches", (7066, 1, 8, 8), 1414, 2)],
)
def test_the_sets_that_come_with_scikit_learn(name: str, shape: Any, test: int, classes: int) -> None:
    loaded = Data(NOWHERE).arrays(builtin(name))
    assert loaded.x_train.shape == shape and loaded.x_test.shape == (test, *shape[1:])
    assert loaded.x_train.dtype == np.uint8 and (loaded.x_train.min(), loaded.x_train.max()) == (0, 255)
    for y in (loaded.y_train, loaded.y_test):
        counts = np.bincount(y)
        assert len(counts) == classes and counts.max() < 1.4 * counts.min()
    again = Data(NOWHERE).arrays(builtin(name))
    assert np.array_equal(loaded.x_test, again.x_test) and np.array_equal(loaded.y_test, again.y_test)


def test_digits_test_samples_are_not_trained_on_and_are_every_sixth() -> None:
    from sklearn.datasets import load_digits

    loaded, source = Data(NOWHERE).arrays(builtin("digits")), load_digits()
    assert np.array_equal(loaded.y_test, source.target[::6])
    whole = np.round(source.images * (255 / 16))
    assert np.array_equal(loaded.x_test[:, 0], whole[::6])
    assert np.array_equal(loaded.x_train[:5, 0], whole[1:6]) and np.array_equal(loaded.x_train[5, 0], whole[7])


def test_photo_patches_are_those_of_the_sample_images() -> None:
    from sklearn.datasets import load_sample_images

    loaded = Data(NOWHERE).arrays(builtin("photo-patches"))
    grey = [np.round(image.mean(axis=2))[:424] for image in load_sample_images().images]  # 53 rows of 80 tiles
    tiles = np.concatenate([each.reshape(53, 8, 80, 8).swapaxes(1, 2).reshape(-1, 8, 8) for each in grey])
    assert np.array_equal(loaded.x_test[:, 0], tiles[::6])
    assert np.array_equal(loaded.x_train[:, 0], np.delete(tiles, np.s_[::6], axis=0))


def test_a_file_that_a_package_lacks_is_named() -> None:
    with pytest.raises(DataError, match="the installed package sklearn has no file no.csv: install another version"):
        package_file("sklearn", "no.csv")
    with pytest.raises(DataError, match="package no_package has no file"):
        package_file("no_package", "no.csv")


# --- folders ----------------------------------------------------------------------------------------------------------


def test_a_named_folder_goes_before_the_environment_and_that_before_the_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    named, environment, home = (tmp_path / name for name in ("named", "environment", "home"))
    named.mkdir(), environment.mkdir()
    monkeypatch.setenv("HARNESS_DATA", str(environment))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    assert data_folder(named) == (named, False)
    assert data_folder(None) == (environment, False)
    monkeypatch.setenv("HARNESS_DATA", "")
    assert data_folder(None) == (home / "watermark-harness", True)
    monkeypatch.delenv("HARNESS_DATA")
    assert data_folder(None) == (home / "watermark-harness", True)
    assert not home.exists()  # asking makes nothing


def test_a_named_folder_must_exist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no data folder .*gone.*--data and HARNESS_DATA"):
        data_folder(tmp_path / "gone")
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path / "gone"))
    with pytest.raises(UsageError, match="gone"):
        data_folder(None)
    (tmp_path / "file").touch()
    with pytest.raises(DataError):
        data_folder(tmp_path / "file")


def test_missing_data_say_what_to_type(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        Data(tmp_path).test(builtin("mnist"), CPU)
    message = str(caught.value)
    assert "harness data fetch mnist" in message and "--data" in message and "HARNESS_DATA" in message
    assert str(tmp_path / "mnist") in message and "\n" not in message


def test_missing_data_are_fetched_into_the_cache_only(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file"):
        Data(tmp_path).test(Kept(), CPU)
    assert list(tmp_path.iterdir()) == []
    cache = tmp_path / "cache"
    assert len(Data(cache, download=True).test(Kept(), CPU)) == 20
    assert [path.name for path in cache.iterdir()] == ["kept"]


def test_a_set_that_cannot_be_fetched_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="numbered cannot be downloaded"):
        Numbered().fetch(tmp_path)


# --- idx files --------------------------------------------------------------------------------------------------------


def idx(array: np.ndarray) -> bytes:
    """The bytes of an idx file of unsigned bytes."""
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}i", *array.shape) + array.tobytes()


IMAGES = (np.arange(4 * 3 * 5) * 7 % 256).astype(np.uint8).reshape(4, 3, 5)
MD5 = {"images": hashlib.md5(idx(IMAGES)).hexdigest()}


def read(folder: Path, checksums: Mapping[str, str] = MD5) -> np.ndarray:
    (array,) = read_idx([folder / "absent", folder], checksums, "toy")
    return array


def test_idx_files_are_read_gzipped_or_plain(tmp_path: Path) -> None:
    (tmp_path / "images").write_bytes(idx(IMAGES))
    assert np.array_equal(read(tmp_path), IMAGES)
    (tmp_path / "images").unlink()
    (tmp_path / "images.gz").write_bytes(gzip.compress(idx(IMAGES), 1))
    assert np.array_equal(read(tmp_path), IMAGES)


def test_the_first_folder_that_has_the_file_is_read(tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    (folders[1] / "images").write_bytes(idx(IMAGES))
    assert np.array_equal(read_idx(folders, MD5, "toy")[0], IMAGES)
    (folders[0] / "images").write_bytes(b"another")
    with pytest.raises(DataError, match="one/images is damaged, or the file of another set"):
        read_idx(folders, MD5, "toy")


@pytest.mark.parametrize("cut", [0, 1, 9, 40, -9, -1])
def test_a_truncated_archive_is_named(cut: int, tmp_path: Path) -> None:
    (tmp_path / "images.gz").write_bytes(gzip.compress(idx(IMAGES))[:cut])
    with pytest.raises(DataError, match=r"toy: .*images\.gz"):
        read(tmp_path)


@law
@given(position=st.integers(0, 80), change=st.integers(1, 255), packed=st.booleans())
def test_a_changed_byte_is_an_error_or_changes_nothing(
    position: int, change: int, packed: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("idx")
    data = bytearray(gzip.compress(idx(IMAGES), mtime=0) if packed else idx(IMAGES))
    data[position % len(data)] ^= change
    (folder / ("images.gz" if packed else "images")).write_bytes(data)
    try:
        array = read(folder)
    except DataError as error:
        assert "\n" not in str(error)
    else:
        assert packed and np.array_equal(array, IMAGES)  # the header of gzip holds a time and a system


def test_a_missing_file_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path)
    assert f"{tmp_path / 'absent'}, {tmp_path}" in str(caught.value) and "harness data fetch toy" in str(caught.value)


# --- real MNIST -------------------------------------------------------------------------------------------------------

MNIST_COUNTS = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]


@pytest.fixture
def real(real_data: Path) -> Path:
    """The folder with MNIST and Fashion-MNIST."""
    for name in ("mnist", "fashion-mnist"):
        if not (real_data / name / "train-images-idx3-ubyte.gz").is_file():
            pytest.skip(f"HARNESS_DATA has no {name}")
    return real_data


@pytest.mark.parametrize(("name", "counts"), [("mnist", MNIST_COUNTS), ("fashion-mnist", [6000] * 10)])
def test_real_sets_load_whole(name: str, counts: list[int], real: Path) -> None:
    data, task = Data(real), builtin(name)
    loaded = data.arrays(task)
    assert loaded.x_train.shape == (60_000, 1, 28, 28) and loaded.x_test.shape == (10_000, 1, 28, 28)
    assert np.bincount(loaded.y_train).tolist() == counts and len(np.bincount(loaded.y_test)) == 10
    test = data.test(task, CPU)
    assert test.x.dtype == torch.uint8 and test.y.dtype == torch.int64 and int(test.x.max()) == 255
    small = replace(task, train=1000, holdout=100)
    splits = data.splits(small, 0, CPU)
    assert torch.bincount(splits.train.y).tolist() == [100] * 10
    assert torch.bincount(splits.holdout.y).tolist() == [10] * 10
    drawn = [row.numpy().tobytes() for part in (splits.train, splits.holdout, splits.disjoint) for row in part.x]
    assert len(set(drawn)) == 2100


def test_a_real_set_serves_as_another_tasks_inputs(real: Path) -> None:
    other = Data(real).other(builtin("mnist"), builtin("digits"), CPU)
    assert other.x.shape == (60_000, 1, 8, 8) and other.x.dtype == torch.uint8


def test_fashion_under_mnists_name_is_found_out(real: Path, tmp_path: Path) -> None:
    (tmp_path / "mnist").symlink_to((real / "fashion-mnist").resolve(), target_is_directory=True)
    with pytest.raises(DataError, match="its content is not mnist's"):
        Data(tmp_path).arrays(builtin("mnist"))


def test_real_files_are_read_where_torchvision_keeps_them(real: Path, tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for path in (real / "mnist").glob("*.gz"):
        (raw / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    assert np.bincount(Data(tmp_path).arrays(builtin("mnist")).y_train).tolist() == MNIST_COUNTS


def test_a_truncated_real_file_is_named(real: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mnist"
    folder.mkdir()
    for path in (real / "mnist").glob("*.gz"):
        (folder / path.name).symlink_to(path.resolve())
    name = "train-images-idx3-ubyte.gz"
    (folder / name).unlink()
    (folder / name).write_bytes((real / "mnist" / name).read_bytes()[:100_000])
    with pytest.raises(DataError, match="cannot be read .*fetch it again"):
        Data(tmp_path).arrays(builtin("mnist"))
