"""Data sets of a user's own: folders of images and clips, npz and Parquet files, and what can be wrong with them."""

from __future__ import annotations

import io
import json
import shutil
import time
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from harness.contracts import Arrays, Dataset
from harness.data import Data, data_folder
from harness.errors import DataError, OptionError
from harness.own_data import test_part as chosen_for_test
from harness.planning.content import Contents
from harness.planning.registry import Registry, load_registry
from harness.storage.remote import read_table
from tests.conftest import Cli, without

CLASSES = ("nought", "one", "two")
PER_CLASS = 60
RECIPE = "epochs=2,pretrain=1,architecture=mlp,train=60,holdout=20,patch=2"


@pytest.fixture(scope="module")
def digits() -> Arrays:
    """180 real digits of three classes, in turn."""
    arrays = load_registry().component("dataset", "digits").plugin.load(Path())
    numbers = np.concatenate([np.flatnonzero(arrays.y_train == label)[:PER_CLASS] for label in range(3)])
    numbers = numbers.reshape(3, -1).T.ravel()
    x, y = arrays.x_train[numbers], arrays.y_train[numbers]
    return Arrays(x, y, x[:0], y[:0])


@pytest.fixture(scope="module")
def original(digits: Arrays, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of PNG files for each class."""
    folder = tmp_path_factory.mktemp("own") / "flowers"
    for number, (x, label) in enumerate(zip(digits.x_train, digits.y_train, strict=True)):
        file = folder / CLASSES[label] / f"{number:03}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(x[0]).save(file)
    return folder


@pytest.fixture
def flowers(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "flowers"))


@pytest.fixture(scope="module")
def registry() -> Registry:
    return load_registry()


def made(registry: Registry, text: str) -> Dataset:
    """The data set of an entry, constructed again."""
    registry._components.clear()
    plugin: Dataset = registry.component("dataset", text).plugin
    return plugin


def loaded(registry: Registry, text: str) -> Arrays:
    """Its samples, checked as a run does."""
    return Data(Path("nowhere")).arrays(made(registry, text))


def said(registry: Registry, text: str) -> str:
    with pytest.raises(DataError) as caught:
        loaded(registry, text)
    message = str(caught.value)
    assert "\n" not in message and message.startswith(f"{text.partition('[')[0]}: ")
    return message


# --- what files decide ------------------------------------------------------------------------------------------------


def test_a_folder_of_images_is_a_data_set(registry: Registry, original: Path, digits: Arrays) -> None:
    dataset = made(registry, f"image-folder[path={original},size=8]")
    assert (dataset.classes, dataset.input_shape, dataset.available) == (CLASSES, (1, 8, 8), 144)
    assert (dataset.train, dataset.holdout) == (65, 14), "a thief can have as many"
    arrays = loaded(registry, f"image-folder[path={original},size=8]")
    assert np.bincount(arrays.y_train).tolist() == [48] * 3 and np.bincount(arrays.y_test).tolist() == [12] * 3
    found = {x.tobytes(): y for x, y in zip(arrays.x_train, arrays.y_train, strict=True)}
    told = {x.tobytes(): y for x, y in zip(digits.x_train, digits.y_train, strict=True)}
    assert all(told[x] == y for x, y in found.items())


def test_an_option_that_files_decide_is_no_part_of_the_text(registry: Registry, original: Path) -> None:
    given = f"image-folder[path={original},size=8]"
    use = registry.component("dataset", given)
    assert use.text == given and use.identity == "image-folder[size=8]"
    assert registry.component("dataset", f"image-folder[path={original},size=8,train=65]").text == given
    for more in ("train=64", "holdout=20", "train=60,holdout=20"):
        options = f"{more},path={original},size=8"
        use = registry.component("dataset", f"image-folder[{options}]")
        assert use.text == f"image-folder[{options}]" and registry.component("dataset", use.text) == use
    assert "train=64" in registry.component("dataset", f"image-folder[path={original},size=8,train=64]").text


def test_a_test_folder_is_the_test_set(registry: Registry, flowers: Path, tmp_path: Path) -> None:
    for name in CLASSES:
        (tmp_path / "test" / name).mkdir(parents=True)
        for file in sorted((flowers / name).iterdir())[:5]:
            file.rename(tmp_path / "test" / name / file.name)
    text = f"image-folder[path={flowers},size=8,test_path={tmp_path / 'test'}]"
    arrays = loaded(registry, text)
    assert len(arrays.y_test) == 15 and len(arrays.y_train) == made(registry, text).available == 165
    (tmp_path / "test" / "four").mkdir()
    shutil.copy(next((flowers / "one").iterdir()), tmp_path / "test" / "four")
    assert "has in addition 1 of the classes: four" in said(registry, text)
    shutil.rmtree(tmp_path / "test" / "four"), shutil.rmtree(tmp_path / "test" / "one")
    assert "lacks 1 of the classes: one" in said(registry, text)


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.99])
def test_each_class_is_split_by_its_names_alone(share: float) -> None:
    names, labels = [f"{number}" for number in range(50)], [number % 3 for number in range(50)]
    chosen = chosen_for_test(names, labels, share)
    again = chosen_for_test(names[::-1], labels[::-1], share)
    assert (chosen == again[::-1]).all()
    for label in range(3):
        of_class = chosen[label::3]
        assert of_class.sum() == min(max(1, round(share * len(of_class))), len(of_class) - 1)


@pytest.mark.parametrize("test", ["", "_train"])
@pytest.mark.parametrize("layout", ["[n, h, w]", "[n, c, h, w]", "[n, h, w, c]"])
def test_arrays_are_a_data_set(registry: Registry, digits: Arrays, tmp_path: Path, test: str, layout: str) -> None:
    x = {"[n, h, w]": digits.x_train[:, 0], "[n, c, h, w]": digits.x_train}.get(layout, digits.x_train[..., None][:, 0])
    parts = {f"x{test}": x, f"y{test}": digits.y_train} | (
        {"x_test": x[:9], "y_test": digits.y_train[:9]} if test else {}
    )
    np.savez(tmp_path / "own.npz", **parts, classes=np.array(CLASSES))
    dataset, arrays = made(registry, f"npz[path={tmp_path}/own.npz]"), loaded(registry, f"npz[path={tmp_path}/own.npz]")
    assert (dataset.classes, dataset.input_shape, dataset.architecture) == (CLASSES, (1, 8, 8), "cnn")
    assert len(arrays.y_train) == (180 if test else 144) and len(arrays.y_test) == (9 if test else 36)
    assert arrays.x_train.dtype == np.uint8
    if test:
        assert (arrays.x_train == digits.x_train).all() and (arrays.y_train == digits.y_train).all()


def test_vectors_with_names_for_labels_are_a_data_set(registry: Registry, digits: Arrays, tmp_path: Path) -> None:
    x = digits.x_train.reshape(len(digits.y_train), -1) / 255 - 0.5
    np.savez_compressed(tmp_path / "own.npz", x=x, y=np.array(CLASSES)[digits.y_train])
    text = f"npz[path={tmp_path}/own.npz,low=-0.5,high=0.5]"
    dataset, arrays = made(registry, text), loaded(registry, text)
    assert (dataset.classes, dataset.input_shape, dataset.architecture) == (CLASSES, (64,), "mlp")
    assert dataset.value_range == (-0.5, 0.5) and arrays.x_train.dtype == np.float32
    assert "is in -0.5..0.5, expected 0..1: type low=-0.5,high=0.5" in said(registry, f"npz[path={tmp_path}/own.npz]")


def png(x: Any, mode: str | None = None, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    image = Image.fromarray(x)
    (image.convert(mode) if mode else image).save(file, kind)
    return file.getvalue()


def table(digits: Arrays, labels: Any = None, **metadata: Any) -> pa.Table:
    """A table as public hubs export data sets."""
    images = [{"bytes": png(x[0]), "path": None} for x in digits.x_train]
    made = pa.table({"image": images, "label": digits.y_train.tolist() if labels is None else labels})
    return made.replace_schema_metadata({"huggingface": json.dumps(metadata)} if metadata else None)


def test_exported_tables_are_a_data_set(registry: Registry, digits: Arrays, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    named = {"info": {"features": {"label": {"names": CLASSES, "_type": "ClassLabel"}}}}
    whole = table(digits, **named)
    for name, rows in {"train-00000-of-00002": (0, 90), "train-00001-of-00002": (90, 60), "test-0": (150, 30)}.items():
        pq.write_table(whole.slice(*rows), tmp_path / "data" / f"{name}.parquet")
    pq.write_table(whole.slice(0, 1), tmp_path / "data" / "validation-0.parquet")
    dataset = made(registry, f"parquet[path={tmp_path},size=8]")
    assert (dataset.classes, dataset.input_shape, dataset.available) == (CLASSES, (1, 8, 8), 150)
    arrays = loaded(registry, f"parquet[path={tmp_path},size=8]")
    assert (arrays.x_train == digits.x_train[:150]).all() and (arrays.x_test == digits.x_train[150:]).all()
    assert arrays.y_train.tolist() == digits.y_train[:150].tolist()
    one = f"parquet[path={tmp_path}/data/train-00000-of-00002.parquet,size=8]"
    assert len(loaded(registry, one).y_test) == 18


def test_names_for_labels_and_other_columns(registry: Registry, digits: Arrays, tmp_path: Path) -> None:
    named = table(digits, [CLASSES[label] for label in digits.y_train]).rename_columns(["img", "fine label"])
    pq.write_table(named, tmp_path / "own.parquet")
    assert made(registry, f"parquet[path={tmp_path}/own.parquet,image=img,label=fine label]").classes == CLASSES
    assert "has no column 'label': it has img, fine label; type label=COLUMN" in said(
        registry, f"parquet[path={tmp_path}/own.parquet]"
    )


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """Clips of two of the real words."""
    source = data_folder(None)[0] / "speech-commands"
    if not source.is_dir():
        pytest.skip("no real clips here")
    for word in ("yes", "no"):
        (tmp_path / "clips" / word).mkdir(parents=True)
        for file in sorted((source / word).iterdir())[:12]:
            shutil.copy(file, tmp_path / "clips" / word)
    return tmp_path / "clips"


def test_a_folder_of_clips_is_a_data_set(registry: Registry, clips: Path) -> None:
    dataset = made(registry, f"audio-folder[path={clips}]")
    assert (dataset.classes, dataset.input_shape, dataset.available) == (("no", "yes"), (1, 125, 80), 20)
    arrays = loaded(registry, f"audio-folder[path={clips}]")
    assert arrays.x_train.shape == (20, 1, 125, 80) and np.bincount(arrays.y_test).tolist() == [2, 2]
    longest = max(clips.rglob("*.*"), key=lambda file: file.stat().st_size)
    longest.write_bytes(longest.read_bytes()[: longest.stat().st_size // 2])
    assert f"{longest} cannot be read (" in said(registry, f"audio-folder[path={clips}]")


# --- what is wrong with them ------------------------------------------------------------------------------------------


def emptied(folder: Path) -> None:
    for file in (folder / "two").iterdir():
        file.rename(file.with_suffix(".txt"))


def nested(folder: Path) -> None:
    folder.rename(folder.with_name("train"))
    shutil.copytree(folder.with_name("train"), folder / "test")
    folder.with_name("train").rename(folder / "train")


def damaged(folder: Path) -> None:
    for file in sorted((folder / "two").iterdir())[:4]:
        file.write_bytes(file.read_bytes()[:50])
    (folder / "one" / "text.png").write_text("no image")


def mixed(folder: Path) -> None:
    for file in sorted((folder / "two").iterdir())[:4]:
        Image.open(file).convert("RGB").save(file)


def huge(folder: Path) -> None:
    Image.new("1", (80, 63)).save(folder / "one" / "huge.png")


FOLDERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "gone": (shutil.rmtree, "no {0}"),
    "no classes": (lambda folder: [shutil.rmtree(folder / name) for name in CLASSES], "has no folders"),
    "one class": (lambda folder: [shutil.rmtree(folder / name) for name in CLASSES[1:]], "has one class, nought"),
    "an empty class": (emptied, "1 of 3 classes in {0} have no image (.bmp, .gif, .jpeg"),
    "parts": (nested, "parts, not classes: type path={0}/train,test_path={0}/test"),
    "unreadable": (damaged, "5 of 181 images cannot be read: "),
    "grey and coloured": (mixed, "4 of 180 images are of another kind than the first: "),
    "huge": (huge, "1 of 181 images have more than 50 million pixels: {0}/one/huge.png (80 x 63)"),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_what_is_wrong_with_a_folder_of_images_is_one_line(
    registry: Registry, flowers: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    code: Any = registry.found["dataset", "image-folder"].cls
    monkeypatch.setitem(code._array.__globals__, "HUGE", 5000)
    spoil, words = FOLDERS[case]
    spoil(flowers)
    message = said(registry, f"image-folder[path={flowers},size=8]")
    assert words.format(flowers) in message
    if case == "unreadable":
        assert "text.png (not an image)" in message and "..." in message
    if case == "grey and coloured":
        assert message.endswith("type color=rgb or color=grey to convert all")
        assert loaded(registry, f"image-folder[path={flowers},size=8,color=rgb]").x_train.shape == (144, 3, 8, 8)
        assert loaded(registry, f"image-folder[path={flowers},size=8,color=grey]").x_train.shape == (144, 1, 8, 8)
    if case == "huge":
        assert len(loaded(registry, f"image-folder[path={flowers},size=8,huge=shrink]").y_train) == 145


def test_hidden_files_and_other_files_are_left_out(registry: Registry, flowers: Path) -> None:
    (flowers / ".git").mkdir(), (flowers / "__MACOSX").mkdir()
    (flowers / "README.txt").touch(), (flowers / "one" / "._000.png").touch(), (flowers / "one" / "Thumbs.db").touch()
    assert made(registry, f"image-folder[path={flowers}]").available == 144


def test_images_of_any_mode_are_converted(registry: Registry, flowers: Path) -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    folder = flowers / "one"
    Image.fromarray(grey.astype(np.uint16) * 257).save(folder / "sixteen.png")
    Image.fromarray(grey).convert("1").save(folder / "bits.png")
    Image.fromarray(grey).convert("LA").save(folder / "alpha.png")
    Image.fromarray(grey).convert("P").save(folder / "palette.gif")
    Image.fromarray(np.stack([grey] * 4, 2)).save(folder / "rgba.png")
    Image.fromarray(grey).convert("RGB").convert("CMYK").save(folder / "cmyk.jpg")
    arrays = loaded(registry, f"image-folder[path={flowers},size=16,color=grey,test_share=0.01]")
    near = [np.abs(x[0].astype(int) - grey).max() for x in np.concatenate([arrays.x_train, arrays.x_test])]
    assert sum(difference <= 2 for difference in near) >= 4
    Image.fromarray(np.ones((8, 8), np.float32)).save(folder / "float.tif")
    assert "its pixels are floating-point numbers" in said(registry, f"image-folder[path={flowers},color=grey]")


def test_an_image_that_is_not_square_is_cut_or_squashed(registry: Registry, flowers: Path) -> None:
    wide = np.zeros((8, 24), np.uint8)
    wide[:, 8:16] = 255
    Image.fromarray(wide).save(flowers / "one" / "wide.png")
    for fit in ("crop", "squash"):
        arrays = loaded(registry, f"image-folder[path={flowers},size=8,fit={fit}]")
        is_white = (np.concatenate([arrays.x_train, arrays.x_test]) == 255).all(axis=(1, 2, 3))
        assert is_white.sum() == (fit == "crop")


Parts = dict[str, Any]
PARTS = ("x_train", "y_train", "x_test", "y_test")
NPZ: dict[str, tuple[Callable[[Parts], Parts], str]] = {
    "no labels": (
        lambda parts: {"x": parts["x"], "z": parts["y"]},
        "has no array y: it has x, z; x and y are expected",
    ),
    "no test": (lambda parts: {"x_train": parts["x"], "y_train": parts["y"]}, "has no array x_test and y_test"),
    "a gap": (
        lambda parts: parts | {"y": parts["y"] * 2},
        "labels in {0} (y) are from 0 to 4, and none of 1: number the",
    ),
    "negative": (lambda parts: parts | {"y": parts["y"] - 1}, "are from -1 to 1: number the classes from 0"),
    "no whole numbers": (
        lambda parts: parts | {"y": parts["y"] + 0.5},
        "must be whole numbers or names, not float64, such",
    ),
    "outside": (
        lambda parts: parts | {"classes": np.array(["a", "b"])},
        "60 of 180 labels in {0} (y) are no class, the",
    ),
    "one class": (lambda parts: parts | {"y": parts["y"] * 0}, "has one class, 0: a task has two or more"),
    "a class without": (lambda parts: parts | {"classes": np.array(list("abcd"))}, "has no sample of 1 classes: d"),
    "other lengths": (lambda parts: parts | {"y": parts["y"][:9]}, "y in {0} is [9], expected a label for each of 180"),
    "objects": (
        lambda parts: parts | {"y": np.array([None] * 180)},
        "y in {0} cannot be read (it holds Python objects)",
    ),
    "text": (lambda parts: parts | {"x": np.array(["a"] * 180)}, "x in {0} must be numbers [n, ...], and is <U1 [180]"),
    "large numbers": (
        lambda parts: parts | {"x": parts["x"].astype(int) + 9},
        "has whole numbers from 9 to 264, expected",
    ),
    "NaN": (lambda parts: parts | {"x": parts["x"] * np.nan}, "is in nan..nan, expected 0..1"),
    "either layout": (
        lambda parts: parts | {"x": np.zeros((180, 3, 8, 3))},
        "type layout=channels-first or channels-last",
    ),
    "other shapes": (
        lambda parts: dict(zip(PARTS, (parts["x"], parts["y"], parts["x"][:, :, 1:], parts["y"]), strict=True)),
        "x_test in {0} is [180, 1, 7, 8], and x_train [180, 1, 8, 8]",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", NPZ)
def test_what_is_wrong_with_arrays_is_one_line(registry: Registry, digits: Arrays, tmp_path: Path, case: str) -> None:
    spoil, words = NPZ[case]
    path = tmp_path / "own.npz"
    np.savez(path, **spoil({"x": digits.x_train, "y": digits.y_train}))
    assert words.format(path) in said(registry, f"npz[path={path}]")


@pytest.mark.parametrize("kind", ["npz", "parquet"])
def test_a_file_of_another_kind_is_one_line(registry: Registry, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "own.bin"
    path.write_bytes(b"no such file" * 9)
    assert f"{path} cannot be read (" in said(registry, f"{kind}[path={path}]")
    (tmp_path / "empty").mkdir()
    assert str(tmp_path / "empty") in said(registry, f"{kind}[path={tmp_path}/empty]")
    assert f"no {tmp_path}/gone" in said(registry, f"{kind}[path={tmp_path}/gone]")


TABLES: dict[str, tuple[Callable[[Arrays], pa.Table], str]] = {
    "no image": (
        lambda digits: table(digits).rename_columns(["picture", "label"]),
        "has no column 'image': it has picture",
    ),
    "text": (
        lambda digits: pa.table({"image": ["a"] * 180, "label": digits.y_train}),
        "row 0 of {0} cannot be read (not an",
    ),
    "missing labels": (
        lambda digits: table(digits, [None, *digits.y_train.tolist()[1:]]),
        "1 labels in {0} (label) are",
    ),
    "no whole numbers": (
        lambda digits: table(digits, (digits.y_train + 0.5).tolist()),
        "must be whole numbers or names",
    ),
    "outside": (
        lambda digits: table(digits, info={"features": {"label": {"names": ["a", "b"]}}}),
        "60 of 180 labels in {0} (label) are no class, the first '2' (sample 2): 2 classes, a, b",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TABLES)
def test_what_is_wrong_with_tables_is_one_line(registry: Registry, digits: Arrays, tmp_path: Path, case: str) -> None:
    spoil, words = TABLES[case]
    pq.write_table(spoil(digits), tmp_path / "own.parquet")
    assert words.format(tmp_path / "own.parquet") in said(registry, f"parquet[path={tmp_path}/own.parquet,size=8]")


def test_what_is_wrong_with_clips_is_one_line(registry: Registry, tmp_path: Path) -> None:
    for word in ("yes", "no"):
        (tmp_path / word).mkdir()
        with wave.open(str(tmp_path / word / "a.wav"), "wb") as file:
            file.setparams((1, 2, 16_000, 0, "NONE", ""))
            file.writeframes(b"\0\1" * 8_000)
        shutil.copy(tmp_path / word / "a.wav", tmp_path / word / "b.wav")
    (tmp_path / "yes" / "b.wav").write_bytes((tmp_path / "yes" / "b.wav").read_bytes()[:4_000])
    assert f"{tmp_path}/yes/b.wav is cut short" in said(registry, f"audio-folder[path={tmp_path},train=1,holdout=1]")
    (tmp_path / "yes" / "b.wav").write_text("no sound")
    assert f"{tmp_path}/yes/b.wav cannot be read" in said(registry, f"audio-folder[path={tmp_path},train=1,holdout=1]")


def test_a_path_must_be_given(registry: Registry, cli: Cli) -> None:
    with pytest.raises(OptionError, match="path must be given"):
        registry.found["dataset", "image-folder"].cls()
    ended = cli("plan", "--dataset", "image-folder", code=2)
    assert ended.err.strip() == "harness: image-folder: path must be given, as in [path=...]"


def test_too_few_samples_for_the_recipe_are_one_line(registry: Registry, original: Path) -> None:
    with pytest.raises(OptionError, match=r"train \+ holdout = 1003, but image-folder has 144 training samples"):
        made(registry, f"image-folder[path={original},train=1000]")


# --- paths and ids ----------------------------------------------------------------------------------------------------


def test_home_folders_and_relative_paths(
    registry: Registry, flowers: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    texts = [f"image-folder[path={path},size=8]" for path in ("~/flowers", "flowers", "./flowers", flowers)]
    sets: list[Any] = [made(registry, text) for text in texts]
    assert len({each.content() for each in sets}) == 1
    assert len({registry.component("dataset", text).identity for text in texts}) == 1
    assert "no gone (that is " in said(registry, "image-folder[path=gone]")


def content(registry: Registry, text: str) -> str:
    dataset: Any = made(registry, text)
    return str(dataset.content())


def test_content_is_that_of_files_and_of_options_that_change_what_is_read(registry: Registry, flowers: Path) -> None:
    text = f"image-folder[path={flowers},size=8]"
    before = content(registry, text)
    assert content(registry, text.replace("]", ",epochs=30,train=50]")) == before
    assert content(registry, text.replace("size=8", "size=16")) != before
    shutil.copytree(flowers, flowers.with_name("moved"))
    assert content(registry, text.replace("flowers", "moved")) == before
    first, second = sorted((flowers / "one").iterdir())[:2]
    first.rename(flowers / "two" / first.name)
    assert content(registry, text) != before, "a corrected label"
    (flowers / "two" / first.name).rename(first)
    assert content(registry, text) == before
    shutil.copyfile(second, first)
    assert content(registry, text) != before, "another image of the same name"


def options(path: Path, results: Path, *more: object) -> list[object]:
    named = ("--matrix", "smoke", "--dataset", f"image-folder[path={path},size=8,{RECIPE}]", "--nulls", 1)
    return [*named, "--defense", "baseline", "--attack", "none", "--results", results, *more]


@pytest.mark.slow
def test_a_corrected_file_runs_again_and_a_moved_folder_does_not(flowers: Path, tmp_path: Path, cli: Cli) -> None:
    results = tmp_path / "results"
    assert "1 ok" in cli("run", *options(flowers, results, "--quiet"), code=0).out
    assert "nothing to do" in cli("run", *options(flowers, results, "--quiet"), code=0).out
    moved = flowers.rename(flowers.with_name("moved"))
    ended = cli("run", *options(moved, results, "--quiet"), code=0)
    assert "ran" not in ended.out and not ended.err
    cells = read_table(str(results), "cells")
    assert len(cells) == 2 and cells["dataset"].nunique() == 2 and cells["model"].nunique() == 1
    assert all(text in told for text, told in zip(cells["dataset"], cells["contents"], strict=True))
    first = next((moved / "one").iterdir())
    first.rename(moved / "two" / first.name)
    ended = cli("run", *options(moved, results, "--dry-run"), code=0)
    assert "6 to run" in ended.out
    (moved / "one" / "text.png").write_text("no image")
    ended = cli("run", *options(moved, results, "--quiet"), code=2)
    changed, wrong = ended.err.strip().splitlines()
    assert "the data of image-folder" in changed and "1 of 181 images cannot be read" in wrong


@pytest.mark.slow
def test_planning_needs_no_torch(flowers: Path, tmp_path: Path) -> None:
    without({"torch._C"}, ["plan", *options(flowers, tmp_path / "results")])


def test_planning_decodes_no_image(flowers: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.Image.Image.load", lambda image: pytest.fail("an image was decoded"))
    cli("plan", *options(flowers, tmp_path / "results"), code=0)


def test_files_that_change_between_plan_and_load_are_seen(registry: Registry, flowers: Path) -> None:
    dataset: Any = made(registry, f"image-folder[path={flowers},size=8]")
    data = Data(Path("nowhere"))
    planned = Contents(None, lambda text: "", pytest.fail, known={})
    assert planned.of("x", dataset) == dataset.content()
    first, second = sorted((flowers / "one").iterdir())[:2]
    shutil.copyfile(second, first)
    data.arrays(dataset)
    assert data.checksum(dataset) not in (None, planned.known["x"])


def test_an_object_takes_no_list_of_files_to_another_process(registry: Registry, original: Path) -> None:
    import pickle

    dataset = made(registry, f"image-folder[path={original},size=8]")
    packed = pickle.dumps(dataset)
    assert len(packed) < 3000 and pickle.loads(packed) == dataset and pickle.loads(packed).train == 65


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory, original: Path) -> Iterator[Path]:
    """10,000 names of files."""
    folder = tmp_path_factory.mktemp("many")
    content = next((original / "one").iterdir()).read_bytes()
    for number in range(10_000):
        file = folder / f"class-{number % 10}" / f"{number}.png"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(content)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.slow
def test_planning_ten_thousand_images_takes_two_seconds_at_most(registry: Registry, many: Path) -> None:
    started = time.process_time()
    dataset: Any = made(registry, f"image-folder[path={many}]")
    assert dataset.available == 8000 and len(dataset.content()) == 32
    assert time.process_time() - started < 2
