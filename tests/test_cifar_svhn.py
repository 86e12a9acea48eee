"""CIFAR and SVHN: the readers on small files in the published formats, bad files, and the packed subsets."""

from __future__ import annotations

import hashlib
import pickle
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.io import savemat

from harness.contracts import InputSet
from harness.data import Data
from harness.errors import DataError
from harness.planning.registry import load_registry

CPU = torch.device("cpu")
REGISTRY = load_registry()
NAMES = ("cifar-10", "cifar-100", "cifar-10-mini", "cifar-100-mini", "svhn", "cifar-10-packed", "cifar-100-packed")
TEN, HUNDRED, TEN_MINI, HUNDRED_MINI, SVHN, TEN_PACKED, HUNDRED_PACKED = (
    REGISTRY.component("dataset", name).plugin for name in NAMES
)
CIFAR: Any = __import__("sys").modules[type(TEN).__module__]


def smaller(plugin: InputSet, available: int, **options: int) -> Any:
    """The same set of fewer samples."""
    return type(f"Small{type(plugin).__name__}", (type(plugin),), {"available": available})(**options)


def refused(plugin: InputSet, root: Path) -> str:
    """The line that loading fails with."""
    with pytest.raises(DataError) as caught:
        Data(root).arrays(plugin)
    message = str(caught.value)
    assert message.startswith(f"{plugin.name}: ") and "\n" not in message
    return message


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def images(count: int, seed: int = 0) -> np.ndarray:
    """``[count, 3, 32, 32]`` uint8."""
    return np.random.default_rng(seed).integers(0, 256, (count, 3, 32, 32)).astype(np.uint8)


# --- CIFAR as published -----------------------------------------------------------------------------------------------

TRAINING, TEST = images(200), images(100, 1)
TRAINING_LABELS, TEST_LABELS = np.arange(200) % 100, np.arange(100)


@pytest.fixture(params=["cifar-10", "cifar-100"])
def cifar(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Path]:
    """The plugin, and a root with 200 training and 100 test images in the published format."""
    import torchvision  # here, since it takes seconds: other tests are collected beside this file

    ten = request.param == "cifar-10"
    source = torchvision.datasets.CIFAR10 if ten else torchvision.datasets.CIFAR100
    folder = tmp_path / "data" / source.base_folder
    folder.mkdir(parents=True)
    batches = {f"data_batch_{n + 1}": slice(40 * n, 40 * n + 40) for n in range(5)} if ten else {"train": slice(None)}
    parts = {name: (TRAINING[part], TRAINING_LABELS[part]) for name, part in batches.items()}
    parts["test_batch" if ten else "test"] = (TEST, TEST_LABELS)
    for name, (x, y) in parts.items():
        labels = {"labels": (y % 10).tolist()} if ten else {"fine_labels": y.tolist(), "coarse_labels": y.tolist()}
        (folder / name).write_bytes(pickle.dumps({"data": x.reshape(len(x), 3072), **labels}))
    (folder / source.meta["filename"]).write_bytes(pickle.dumps({source.meta["key"]: ["a"]}))
    for name in ("train_list", "test_list"):
        listed = [[file, md5(folder / file)] for file, _ in getattr(source, name)]
        monkeypatch.setattr(source, name, listed)
    monkeypatch.setattr(source, "meta", {**source.meta, "md5": md5(folder / source.meta["filename"])})
    return smaller(TEN if ten else HUNDRED, 200, train=100, holdout=100), tmp_path / "data"


def test_the_published_files_are_read(cifar: tuple[Any, Path]) -> None:
    plugin, root = cifar
    loaded = Data(root).arrays(plugin)
    assert np.array_equal(loaded.x_train, TRAINING) and np.array_equal(loaded.x_test, TEST)
    classes = len(plugin.classes)
    assert np.array_equal(loaded.y_train, TRAINING_LABELS % classes) and loaded.y_test.dtype == np.int64
    (root / "a").mkdir()
    for path in [p for p in root.iterdir() if p.name != "a"]:
        path.rename(root / "a" / path.name)
    (root / "a").rename(root / plugin.name)
    assert np.array_equal(Data(root).arrays(plugin).x_test, TEST)  # in a folder of the set's name, too


@pytest.mark.parametrize("index", [0, -1])
def test_a_damaged_or_missing_file_of_the_published_is_named(index: int, cifar: tuple[Any, Path]) -> None:
    plugin, root = cifar
    source = plugin.source_set()
    files = [source.train_list[-1][0], source.meta["filename"]]
    path = root / source.base_folder / files[index]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    for damage in (lambda: path.write_bytes(data), lambda: path.write_bytes(data[:9]), path.unlink):
        damage()
        message = refused(plugin, root)
        assert str(path) in message and f"harness data fetch {plugin.name}" in message


def test_a_set_that_is_not_there_says_what_to_type(tmp_path: Path) -> None:
    for plugin in (TEN, HUNDRED, SVHN):
        message = refused(plugin, tmp_path)
        assert f"harness data fetch {plugin.name}" in message and "--data" in message and "HARNESS_DATA" in message
        assert str(tmp_path / plugin.name) in message


def test_a_failed_download_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    def fail(*args: object, **options: object) -> None:
        assert options["download"]
        raise RuntimeError("no route\nto host")

    for plugin, name in ((TEN, "CIFAR10"), (HUNDRED, "CIFAR100"), (SVHN, "SVHN")):
        monkeypatch.setattr(torchvision.datasets, name, fail)
        with pytest.raises(DataError, match=r"cannot be downloaded \(no route\): name a folder with --data DIR$"):
            plugin.fetch(tmp_path)


# --- SVHN -------------------------------------------------------------------------------------------------------------

HOUSES = smaller(SVHN, 40, train=20, holdout=20)


@pytest.fixture
def svhn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root with 40 training and 20 test images in the published format; the digit 0 has label 10."""
    import torchvision

    folder = tmp_path / "data" / "svhn"
    folder.mkdir(parents=True)
    listed = {}
    for split, x in (("train", TRAINING[:40]), ("test", TEST[:20])):
        path = folder / f"{split}_32x32.mat"
        y = np.where(np.arange(len(x)) % 10 == 0, 10, np.arange(len(x)) % 10).astype(np.uint8)
        savemat(path, {"X": x.transpose(2, 3, 1, 0), "y": y[:, None]})
        listed[split] = ["", path.name, md5(path)]
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", listed)
    return tmp_path / "data"


@pytest.mark.parametrize("place", ["svhn", "."])
def test_svhn_is_read_and_its_label_10_is_the_digit_0(place: str, svhn: Path) -> None:
    loaded = Data(svhn / "svhn" if place == "." else svhn).arrays(HOUSES)
    assert np.array_equal(loaded.x_train, TRAINING[:40]) and np.array_equal(loaded.x_test, TEST[:20])
    assert np.array_equal(loaded.y_train, np.arange(40) % 10) and np.array_equal(loaded.y_test, np.arange(20) % 10)
    assert loaded.y_test.dtype == np.int64


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_damaged_or_missing_svhn_file_is_named(split: str, svhn: Path) -> None:
    path = svhn / "svhn" / f"{split}_32x32.mat"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    for content in (data, data[:100], b""):
        path.write_bytes(content)
        message = refused(HOUSES, svhn)
        assert f"{path} is damaged, or the file of another set" in message and "harness data fetch svhn" in message
    path.unlink()
    assert f"no {path.name} in" in refused(HOUSES, svhn)


# --- the packed subsets -----------------------------------------------------------------------------------------------


@pytest.fixture
def real(real_data: Path) -> Path:
    """The folder with the packed subsets."""
    if not (real_data / "cifar-10-mini" / "labels.csv").is_file():
        pytest.skip("HARNESS_DATA has no cifar-10-mini/labels.csv")
    return real_data


def test_the_real_subsets_load_whole(real: Path) -> None:
    data = Data(real)
    ten, hundred = data.arrays(TEN_MINI), data.arrays(HUNDRED_MINI)
    assert np.bincount(ten.y_train).tolist() == [200] * 10 and np.bincount(ten.y_test).tolist() == [50] * 10
    assert sorted(hundred.y_train.tolist()) == list(range(100)) and len(hundred.x_test) == 0
    assert ten.x_train.dtype == np.uint8 and ten.x_train.flags.c_contiguous
    rows = [row.tobytes() for row in (*ten.x_train, *ten.x_test, *hundred.x_train)]
    assert len(set(rows)) == 2600
    means = ten.x_train.mean((0, 2, 3)) / 255  # of the whole set: 0.491, 0.482, 0.447
    np.testing.assert_allclose(means, [0.491, 0.482, 0.447], atol=0.01)
    other = data.other(HUNDRED_MINI, TEN_MINI, CPU)
    assert other.x.shape == (100, 3, 32, 32) and TEN_MINI.ood == HUNDRED_MINI.name and not HUNDRED_MINI.arms
    splits = data.splits(TEN_MINI, 0, CPU)
    assert torch.bincount(splits.train.y).tolist() == [180] * 10 and len(splits.holdout) == 200


def test_class_names_are_those_of_the_real_labels(real: Path) -> None:
    import csv

    with (real / "cifar-10-mini" / "labels.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            names = HUNDRED.classes if row["sheet"] == "ood-cifar100.webp" else TEN.classes
            assert names[int(row["label"])] == row["class"]


@pytest.fixture
def copied(real: Path, tmp_path: Path) -> Path:
    """A copy of the real subsets that may be spoilt."""
    shutil.copytree(real / "cifar-10-mini", tmp_path / "cifar-10-mini", copy_function=shutil.copyfile)
    return tmp_path


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)


def repainted(path: Path) -> None:
    """One pixel of another value, in a whole file of the format."""
    from PIL import Image

    pixels = np.asarray(Image.open(path).convert("RGB")).copy()
    pixels[5, 5] ^= 1
    Image.fromarray(pixels).save(path, lossless=True, quality=0, method=0)


def smaller_sheet(path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (50, 40)).save(path)


DAMAGE: Mapping[str, Callable[[Path], object]] = {
    "cut": cut,
    "flip": flip,
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("404 not found\n"),
    "pixel": repainted,
    "size": smaller_sheet,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_sheet_is_named(damage: str, copied: Path) -> None:
    path = copied / "cifar-10-mini" / "test.webp"
    DAMAGE[damage](path)
    message = refused(TEN_MINI, copied)
    assert str(path) in message and "damaged" in message and "copy both again" in message


@pytest.mark.parametrize(("column", "value"), [(0, "label"), (2, "10"), (2, "x"), (1, ""), (None, None)])
def test_changed_labels_are_found_out(column: int | None, value: str | None, copied: Path) -> None:
    path = copied / "cifar-10-mini" / "labels.csv"
    lines = path.read_text().splitlines()
    at = 0 if value == "label" else next(i for i, line in enumerate(lines) if line.startswith("test.webp,7,"))
    cells = lines[at].split(",")
    if column is None:
        del lines[at]
    else:
        cells[column] = str(value)
        lines[at] = ",".join(cells)
    path.write_text("\n".join(lines))
    assert "labels.csv is damaged" in refused(TEN_MINI, copied)


def test_an_equal_sheet_of_another_file_will_do(copied: Path) -> None:
    from PIL import Image

    path = copied / "cifar-10-mini" / "ood-cifar100.webp"
    before = md5(path)
    Image.open(path).convert("RGB").save(path, lossless=True, quality=0, method=0)
    assert md5(path) != before and len(Data(copied).arrays(HUNDRED_MINI).x_train) == 100


@pytest.mark.parametrize("file", ["test.webp", "labels.csv"])
def test_a_missing_packed_file_says_that_it_cannot_be_downloaded(file: str, copied: Path) -> None:
    (copied / "cifar-10-mini" / file).unlink()
    for download in (False, True):
        with pytest.raises(DataError) as caught:
            Data(copied, download).arrays(TEN_MINI)
        message = str(caught.value)
        assert f"no {file} in" in message and "cannot be downloaded" in message and "unset" not in message
    with pytest.raises(DataError, match="cifar-10-mini cannot be downloaded"):
        TEN_MINI.fetch(copied)


# --- the packed sets --------------------------------------------------------------------------------------------------


@pytest.fixture
def whole(real_data: Path) -> Path:
    """The folder with the packed sets."""
    if not (real_data / "cifar-10-packed" / "labels.csv").is_file():
        pytest.skip("HARNESS_DATA has no cifar-10-packed/labels.csv")
    return real_data


@pytest.mark.slow
def test_the_packed_sets_are_the_whole_training_set_and_their_partner(whole: Path) -> None:
    data = Data(whole)
    ten, hundred = data.arrays(TEN_PACKED), data.arrays(HUNDRED_PACKED)
    assert np.bincount(ten.y_train).tolist() == [5000] * 10 and ten.x_test.shape == (1000, 3, 32, 32)
    assert np.bincount(hundred.y_train).tolist() == [30] * 100 and len(hundred.x_test) == 0
    # Those of the whole set, as published: 0.49139968, 0.48215841, 0.44653091.
    np.testing.assert_allclose(ten.x_train.mean((0, 2, 3)) / 255, [0.49139968, 0.48215841, 0.44653091], atol=1e-7)
    rows = {row.tobytes() for row in ten.x_train}
    mini = Data(whole).arrays(TEN_MINI)
    assert rows.issuperset(row.tobytes() for row in mini.x_train) and not rows & {row.tobytes() for row in ten.x_test}
    assert TEN_PACKED.ood == HUNDRED_PACKED.name and not HUNDRED_PACKED.arms


def test_the_packed_set_is_decoded_once(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Data(whole).arrays(TEN_PACKED)
    monkeypatch.setattr(CIFAR, "_sheets", lambda *_: pytest.fail("decoded again"))
    again = Data(whole).arrays(TEN_PACKED)
    assert np.array_equal(first.x_test, again.x_test) and np.array_equal(first.y_train, again.y_train)


@pytest.fixture
def linked(whole: Path, tmp_path: Path) -> Path:
    """Links to the packed sheets, of which one may be replaced."""
    (tmp_path / "cifar-10-packed").mkdir()
    for path in (whole / "cifar-10-packed").iterdir():
        (tmp_path / "cifar-10-packed" / path.name).symlink_to(path.resolve())
    return tmp_path


def test_a_damaged_or_missing_packed_sheet_is_named(linked: Path) -> None:
    folder = linked / "cifar-10-packed"
    first, other = folder / "train-0.webp", (folder / "train-1.webp").resolve()
    first.unlink()
    assert "no train-0.webp in" in refused(TEN_PACKED, linked)
    first.symlink_to(other)  # a whole sheet, of the same set
    assert f"{first} or its labels.csv is damaged, or another set's" in refused(TEN_PACKED, linked)
    first.unlink()
    first.write_bytes(other.read_bytes()[:5000])
    assert f"{first} or its labels.csv is damaged (" in refused(TEN_PACKED, linked)


# --- what the sets declare --------------------------------------------------------------------------------------------


def test_recipes_and_partners_fit_each_other() -> None:
    for plugin in (TEN, HUNDRED, TEN_MINI, TEN_PACKED, SVHN):
        assert plugin.train + plugin.holdout <= plugin.available and plugin.input_shape == (3, 32, 32)
        partner = REGISTRY.component("dataset", plugin.ood).plugin
        assert plugin.ood_class is None or plugin.ood_class < len(partner.classes)
        assert REGISTRY.component("architecture", plugin.architecture).plugin.skip(plugin) is None
    assert (TEN.classes[TEN.source], TEN.classes[TEN.target], TEN.ood_class) == ("ship", "airplane", 9)
    assert len(set(HUNDRED.classes)) == 100 and sorted(HUNDRED.classes) == list(HUNDRED.classes)
