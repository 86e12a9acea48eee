"""Speech Commands: either layout, every kind of bad clip, the spectrogram against a plain one, and its kept copy."""

from __future__ import annotations

import csv
import os
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from harness import stratified
from harness.contracts import Arrays, InputSet
from harness.data import Data, cache_folder, check_arrays, prepared
from harness.errors import DataError
from harness.planning.registry import load_registry

CPU = torch.device("cpu")
REGISTRY = load_registry()
FULL, MINI, ONE = (
    REGISTRY.component("dataset", name).plugin
    for name in ("speech-commands", "speech-commands-mini", "speech-commands-one")
)
JOINED: Any = REGISTRY.component("dataset", "speech-commands-packed").plugin
SPEECH: Any = __import__("sys").modules[type(FULL).__module__]
WORDS = ("left", "right", "up", "down", "yes", "no", "on", "off", "stop", "go")


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert cache_folder() == tmp_path / "cache" / "watermark-harness"
    return cache_folder() / "prepared"


def word(seed: int, seconds: float = 1.0, rate: int = 16_000) -> np.ndarray:
    """A tone that swells and fades in a little noise: ``[samples]`` float32."""
    rng = np.random.default_rng(seed)
    t = np.arange(int(seconds * rate)) / rate
    tone = np.sin(2 * np.pi * rng.uniform(200, 3000) * t) * np.exp(-20 * (t - rng.uniform(0.3, 0.6)) ** 2)
    return (0.3 * tone + 0.001 * rng.standard_normal(len(t))).astype(np.float32)


def write(path: Path, samples: np.ndarray, rate: int = 16_000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, subtype="PCM_16")
    return path


def smaller(plugin: InputSet, available: int, **options: int) -> Any:
    """The same set without its checksum, of fewer samples."""
    cls = type(f"Small{type(plugin).__name__}", (type(plugin),), {"available": available, "checksum": ""})
    return cls(**options)


TINY = smaller(MINI, 20, train=10, holdout=10)
HASHED = smaller(FULL, 20, train=10, holdout=10)
ORIGINAL = "put the original in its place"


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """A packed set: two training clips and a test clip of each word, and three of "one"."""
    root = tmp_path / "data"
    rows = [(w, n, "train" if n < 2 else "test") for w in WORDS for n in range(3)]
    rows += [("one", n, "ood") for n in range(3)]
    files = [f"{w}/{n:08x}_nohash_0.flac" for w, n, _ in rows]
    for number, file in enumerate(files):
        write(root / "speech-commands" / file, word(number))
    write_manifest(root, [{"file": f, "word": w, "split": s} for f, (w, _, s) in zip(files, rows, strict=True)])
    return root


def write_manifest(root: Path, rows: list[dict[str, str]]) -> None:
    with (root / "speech-commands" / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def manifest(root: Path) -> list[dict[str, str]]:
    with (root / "speech-commands" / "manifest.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def speakers(low: float, high: float, count: int) -> list[str]:
    """Speakers whom the published rule puts between two percentiles."""
    return [s for s in (f"{n:08x}" for n in range(400)) if low <= SPEECH._percentile(f"{s}_nohash_0.wav") < high][
        :count
    ]


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """The published layout: of each word a training, a validation and a testing speaker, and background noise."""
    root = tmp_path / "data" / "SpeechCommands" / "speech_commands_v0.02"
    for number, each in enumerate((*WORDS, "one", "zero")):
        for part, (low, high) in enumerate([(20, 100), (0, 10), (10, 20)]):
            write(root / each / f"{speakers(low, high, 1)[0]}_nohash_{number}.wav", word(3 * number + part))
    write(root / "_background_noise_" / "hum.wav", word(99, seconds=3))
    return tmp_path / "data"


def refused(plugin: InputSet, root: Path) -> str:
    """The line that loading fails with; nothing may be kept of such a set."""
    with pytest.raises(DataError) as caught:
        Data(root).arrays(plugin)
    message = str(caught.value)
    assert message.startswith(f"{plugin.name}: ") and "\n" not in message
    return message


# --- spectrograms -----------------------------------------------------------------------------------------------------


def plain(samples: np.ndarray) -> np.ndarray:
    """The spectrogram ``[125, 80]`` of one second, frame by frame: windows, a DFT, triangles on the HTK mel scale."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(1024) / 1024)
    extended = np.pad(samples.astype(np.float64), 512, mode="reflect")
    spectrum = np.abs(np.fft.rfft(np.stack([extended[128 * i : 128 * i + 1024] * window for i in range(125)])))
    edges = np.linspace(2595 * np.log10(1 + 40 / 700), 2595 * np.log10(1 + 8000 / 700), 82)
    edges = 700 * (10 ** (edges / 2595) - 1)
    bins = np.arange(513) * 16_000 / 1024
    rising = (bins[:, None] - edges[None, :-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[None, 2:] - bins[:, None]) / (edges[2:] - edges[1:-1])
    mels = spectrum @ np.maximum(0, np.minimum(rising, falling))
    decibels = np.maximum(20 * np.log10(mels / mels.max()), -80)
    return (decibels - decibels.mean()) / decibels.std()


def test_the_spectrogram_is_the_plain_one(packed: Path) -> None:
    loaded = Data(packed).arrays(TINY)
    paths = [packed / "speech-commands" / r["file"] for w in WORDS for r in manifest(packed) if r["word"] == w]
    for i in (0, 2, 9):
        path = [p for p in paths if p.name[7] in "01"][i]
        np.testing.assert_allclose(loaded.x_train[i, 0], plain(soundfile.read(path)[0]), atol=2e-3)


def test_spectrograms_have_mean_0_and_deviation_1_and_are_in_range(packed: Path) -> None:
    loaded = Data(packed).arrays(TINY)
    assert loaded.x_train.dtype == np.float32 and loaded.x_train.shape == (20, 1, 125, 80)
    np.testing.assert_allclose(loaded.x_train.mean((1, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(loaded.x_train.std((1, 2, 3)), 1, atol=1e-5)


def spectrogram(tmp_path: Path, samples: np.ndarray, rate: int = 16_000) -> np.ndarray:
    """Of a file with these samples: ``[125, 80]``."""
    path = write(tmp_path / "clip.wav", samples, rate)
    x: np.ndarray = SPEECH._spectrograms("clip", [SPEECH.Clip(path, 0, "train")], "")[0, 0]
    return x


def test_silence_and_a_lone_tone_are_finite_and_in_range(tmp_path: Path) -> None:
    assert not spectrogram(tmp_path, np.zeros(16_000)).any()
    click = np.zeros(16_000)
    click[8000] = 1
    tone = np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000) * np.hanning(16_000)
    for samples in (click, tone):
        x = spectrogram(tmp_path, samples)
        assert np.isfinite(x).all() and np.abs(x).max() <= 8
    assert np.array_equal(spectrogram(tmp_path, 0.5 * word(1)).argmax(1), spectrogram(tmp_path, word(1)).argmax(1))


def test_clips_of_one_chunk_do_not_touch_each_other(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{n}.wav", word(n) * 10.0**-n) for n in range(3)]
    clips = [SPEECH.Clip(path, 0, "train") for path in paths]
    together = SPEECH._spectrograms("clip", clips, "")
    alone = np.concatenate([SPEECH._spectrograms("clip", [clip], "") for clip in clips])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_a_short_clip_is_padded_at_its_end_and_of_a_long_one_the_middle_is_kept(tmp_path: Path) -> None:
    whole = word(5)
    short = np.concatenate([whole[:9000], np.zeros(7000, np.float32)])
    assert np.array_equal(spectrogram(tmp_path, whole[:9000]), spectrogram(tmp_path, short))
    rng = np.random.default_rng(0)
    for before, after in ((4000, 4000), (1000, 1001)):
        longer = np.concatenate([rng.uniform(-1, 1, before), whole, rng.uniform(-1, 1, after)])
        assert np.array_equal(spectrogram(tmp_path, longer), spectrogram(tmp_path, whole))


@pytest.mark.parametrize("rate", [8000, 22_050, 48_000])
def test_another_rate_is_resampled(rate: int, tmp_path: Path) -> None:
    tone = [np.sin(2 * np.pi * 1000 * np.arange(r) / r) * np.hanning(r) for r in (rate, 16_000)]
    there, here = (spectrogram(tmp_path, t, r) for t, r in zip(tone, (rate, 16_000), strict=True))
    loud = here > 2  # where the tone is; elsewhere is the rounding to 16 bits
    assert loud.sum() > 100 and np.abs(there - here)[loud].max() < 0.3
    assert there.shape == (125, 80)


def test_channels_are_averaged(tmp_path: Path) -> None:
    left, right = word(1), word(2)
    stereo = spectrogram(tmp_path, np.stack([left, right], axis=1))
    np.testing.assert_allclose(stereo, spectrogram(tmp_path, (left + right) / 2), atol=0.3)
    assert np.abs(stereo - spectrogram(tmp_path, left)).max() > 1


# --- layouts ----------------------------------------------------------------------------------------------------------


def test_the_packed_layout_is_split_by_its_manifest(packed: Path) -> None:
    data = Data(packed)
    loaded = data.arrays(TINY)
    assert loaded.y_train.tolist() == np.repeat(np.arange(10), 2).tolist() and loaded.y_test.tolist() == list(range(10))
    rows = manifest(packed)
    moved = next(row for row in rows if row["split"] == "test" and row["word"] == "go")
    moved["split"] = "train"
    write_manifest(packed, rows)
    assert "labels must cover 0 to 9" in refused(TINY, packed)  # no test clip of "go" is left
    one = data.arrays(smaller(ONE, 3))
    assert one.x_train.shape == (3, 1, 125, 80) and len(one.x_test) == 0 and not one.y_train.any()


@pytest.mark.parametrize("place", ["SpeechCommands/speech_commands_v0.02", "speech-commands"])
def test_the_published_layout_is_split_by_its_speakers(place: str, published: Path) -> None:
    if place == "speech-commands":
        (published / "SpeechCommands" / "speech_commands_v0.02").rename(published / place)
    loaded = Data(published).arrays(HASHED)
    assert np.bincount(loaded.y_train).tolist() == [2] * 10 and loaded.y_test.tolist() == list(range(10))
    folder = published / place
    test = [SPEECH._samples("", next((folder / w).glob(f"{speakers(10, 20, 1)[0]}_*"))) for w in WORDS]
    np.testing.assert_allclose(loaded.x_test[3, 0], plain(test[3]), atol=2e-3)
    one = Data(published).arrays(smaller(ONE, 1))
    only = SPEECH._samples("", next((folder / "one").glob(f"{speakers(10, 20, 1)[0]}_*")))
    np.testing.assert_allclose(one.x_train[0, 0], plain(only), atol=2e-3)


def test_a_published_set_of_another_size_is_refused(published: Path) -> None:
    message = refused(FULL, published)
    assert "20 clips of training speakers, the published set 34472" in message and "v0.02" in message


def test_missing_sets_say_what_to_type(tmp_path: Path, packed: Path) -> None:
    (tmp_path / "empty").mkdir()
    message = refused(FULL, tmp_path / "empty")
    assert "harness data fetch speech-commands" in message and "--data" in message and "HARNESS_DATA" in message
    assert "the subset of speech-commands-mini" in refused(FULL, packed)
    message = refused(ONE, tmp_path / "empty")
    assert "harness data fetch speech-commands-one" in message and "cannot be downloaded" not in message
    message = refused(MINI, tmp_path / "empty")
    assert "manifest.csv" in message and "--data" in message
    assert "which cannot be downloaded" in refused(MINI, tmp_path / "empty")
    assert "unset HARNESS_DATA" not in refused(MINI, tmp_path / "empty")
    with pytest.raises(DataError, match="speech-commands-mini cannot be downloaded"):
        MINI.fetch(tmp_path)


def test_a_failed_download_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(root: Path, download: bool) -> None:
        raise RuntimeError("no route\nto host")

    monkeypatch.setattr("torchaudio.datasets.SPEECHCOMMANDS", fail)
    for plugin in (FULL, ONE):
        with pytest.raises(DataError, match=r"cannot be downloaded \(no route\): name a folder with --data DIR$"):
            plugin.fetch(tmp_path)


# --- bad sets ---------------------------------------------------------------------------------------------------------


def remove_word(folder: Path) -> None:
    for path in (folder / "stop").iterdir():
        path.unlink()
    (folder / "stop").rmdir()


def empty_word(folder: Path) -> None:
    for path in (folder / "stop").iterdir():
        path.unlink()


def first(folder: Path) -> Path:
    return sorted((folder / "stop").iterdir())[0]


def cut(folder: Path) -> None:
    first(folder).write_bytes(first(folder).read_bytes()[:-2000])


def cut_to_nothing(folder: Path) -> None:
    first(folder).write_bytes(b"")


def text(folder: Path) -> None:
    first(folder).write_text("404 not found\n")


def flip(folder: Path) -> None:
    data = bytearray(first(folder).read_bytes())
    data[len(data) // 2] ^= 255
    first(folder).write_bytes(data)


def no_samples(folder: Path) -> None:
    write(first(folder), np.zeros(0))


def cut_under_a_mended_header(folder: Path) -> None:
    content = bytearray(first(folder).read_bytes()[:-2000])
    content[4:8] = (len(content) - 8).to_bytes(4, "little")
    first(folder).write_bytes(content)


def cut_in_its_header(folder: Path) -> None:
    first(folder).write_bytes(first(folder).read_bytes()[:41])


def cut_as(kind: str, format: str, share: float) -> Callable[[Path], None]:
    """A clip in another format, of which a share is left."""

    def spoil(folder: Path) -> None:
        samples, rate = soundfile.read(first(folder))
        soundfile.write(first(folder), samples, rate, format=format)
        content = first(folder).read_bytes()
        first(folder).write_bytes(content[: int(share * len(content))])

    spoil.__name__ = f"cut_{kind}"
    return spoil


BAD: Mapping[Callable[[Path], None], str] = {
    remove_word: "has no folder 'stop'",
    empty_word: "stop has no clip",
    cut: ORIGINAL,
    cut_to_nothing: ORIGINAL,
    text: ORIGINAL,
    no_samples: ORIGINAL,
    cut_under_a_mended_header: ORIGINAL,
    cut_in_its_header: ORIGINAL,
    cut_as("flac", "FLAC", 0.5): ORIGINAL,
    cut_as("the end of a flac", "FLAC", 0.98): ORIGINAL,
    cut_as("ogg", "OGG", 0.6): ORIGINAL,
    cut_as("aiff", "AIFF", 0.7): ORIGINAL,
    cut_as("au", "AU", 0.7): ORIGINAL,
}


@pytest.mark.slow
@pytest.mark.parametrize("spoil", BAD, ids=lambda spoil: spoil.__name__)
@pytest.mark.parametrize("layout", ["packed", "published"])
def test_a_bad_clip_or_folder_is_named_and_the_whole_set_refused(
    spoil: Callable[[Path], None], layout: str, request: pytest.FixtureRequest, cache: Path
) -> None:
    root = request.getfixturevalue(layout)
    folder = root / ("speech-commands" if layout == "packed" else "SpeechCommands/speech_commands_v0.02")
    path = first(folder)
    spoil(folder)
    message = refused(TINY if layout == "packed" else HASHED, root)
    assert BAD[spoil] in message and (str(path) in message or spoil in (remove_word, empty_word))
    assert not list(cache.glob("*"))


def test_a_flipped_byte_of_a_packed_clip_is_found(packed: Path) -> None:
    flip(packed / "speech-commands")
    assert ORIGINAL in refused(TINY, packed)


def test_a_manifest_whose_file_is_missing_is_refused(packed: Path) -> None:
    path = first(packed / "speech-commands")
    path.unlink()
    assert f"names stop/{path.name}, which is not there" in refused(TINY, packed)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no column file, split, word"),
        (b"file,word\nup/a.flac,up\n", "no column split"),
        (b"file,word,split\n,left,train\n", "is not there"),
        (b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_a_broken_manifest_is_one_line(content: bytes, message: str, packed: Path) -> None:
    (packed / "speech-commands" / "manifest.csv").write_bytes(content)
    assert message in refused(TINY, packed)


def test_another_sets_clips_under_the_same_names_are_found_out(packed: Path) -> None:
    checked = type("Checked", (type(MINI),), {"available": 20})(train=10, holdout=10)
    assert "damaged, or those of another set" in refused(checked, packed)


# --- the kept copy ----------------------------------------------------------------------------------------------------


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the sets that are computed, and not read from the cache, from now on."""
    made: list[str] = []
    compute = SPEECH._spectrograms
    monkeypatch.setattr(SPEECH, "_spectrograms", lambda name, *rest: made.append(name) or compute(name, *rest))
    return made


def test_spectrograms_are_computed_once(packed: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sorted(packed.rglob("*"))
    made = counted(monkeypatch)
    loaded = [TINY.load(packed) for _ in range(3)]
    assert made == [TINY.name] and len(list(cache.iterdir())) == 1
    for other in loaded[1:]:
        for name in ("x_train", "y_train", "x_test", "y_test"):
            assert np.array_equal(getattr(loaded[0], name), getattr(other, name))
    assert sorted(packed.rglob("*")) == before  # the data folder is only read


def test_they_are_computed_again_when_a_clip_or_the_split_changes(
    packed: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = counted(monkeypatch)
    old = TINY.load(packed)
    write(first(packed / "speech-commands"), word(77))
    new = TINY.load(packed)
    assert (old.x_train != new.x_train).any((1, 2, 3)).sum() == 1
    os.utime(first(packed / "speech-commands"), ns=(1, 1))
    assert np.array_equal(TINY.load(packed).x_train, new.x_train)
    rows = manifest(packed)
    for row in rows:
        row["split"] = {"train": "test", "test": "train"}.get(row["split"], "ood")
    write_manifest(packed, rows)
    assert len(TINY.load(packed).y_train) == 10
    assert len(made) == 3 and len(list(cache.iterdir())) == 3  # the time of a file decides nothing


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "text", "folder"])
def test_a_damaged_copy_is_computed_again(
    damage: str, packed: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = TINY.load(packed)
    (path,) = cache.iterdir()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes({"flip": content, "cut": content[:-9], "empty": b"", "text": b"text" * 99}.get(damage, b""))
    if damage == "folder":
        path.unlink(), path.mkdir()
    made = counted(monkeypatch)
    assert np.array_equal(TINY.load(packed).x_train, whole.x_train) and made == [TINY.name]
    if damage != "folder":
        TINY.load(packed)
        assert made == [TINY.name]


def test_a_cache_that_cannot_be_written_is_done_without(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    made = counted(monkeypatch)
    assert [len(TINY.load(packed).x_train) for _ in range(2)] == [20, 20] and len(made) == 2


def test_prepared_keeps_arrays_of_any_type_by_settings_and_files(tmp_path: Path, cache: Path) -> None:
    file = tmp_path / "file"
    file.write_text("a")
    made: list[int] = []

    def ask(settings: object = 1, name: str = "toy") -> Mapping[str, np.ndarray]:
        def make() -> dict[str, np.ndarray]:
            made.append(1)
            return {"x": np.arange(6, dtype=np.uint8).reshape(2, 3).T, "y": np.array([], np.int64)}

        return prepared(name, settings, [file], make)

    for _ in range(2):
        arrays = ask()
        assert arrays["x"].tolist() == [[0, 3], [1, 4], [2, 5]] and arrays["x"].dtype == np.uint8
        assert arrays["y"].shape == (0,) and arrays["y"].dtype == np.int64
    assert len(made) == 1
    ask(2), ask(2, "toy-other"), ask(2)
    assert len(made) == 3 and len(list(cache.iterdir())) == 3  # a name that another begins with is its own
    file.write_text("b" * 3)
    ask(2)
    assert len(made) == 4


def test_prepared_leaves_nothing_behind_when_making_fails(cache: Path) -> None:
    with pytest.raises(DataError, match="no"):
        prepared("toy", 1, [], lambda: (_ for _ in ()).throw(DataError("no")))
    assert not cache.exists()


# --- what the sets declare --------------------------------------------------------------------------------------------


def test_the_recipe_is_the_released_codes() -> None:
    assert (FULL.classes[FULL.source], FULL.classes[FULL.target]) == ("go", "no")
    assert (FULL.patch, FULL.corners, FULL.placement, FULL.origin) == (10, "two", "corner", "in-distribution")
    assert FULL.input_shape == ONE.input_shape == (1, 125, 80) and FULL.value_range == ONE.value_range
    assert FULL.train + FULL.holdout <= FULL.available and not ONE.arms
    assert FULL.ood == MINI.ood == ONE.name


def test_inputs_out_of_range_are_refused(packed: Path) -> None:
    loaded = TINY.load(packed)
    check_arrays(TINY, loaded)
    high = loaded.x_train.copy()
    high[3, 0, 1, 2] = 8.5
    with pytest.raises(DataError, match=r"train inputs are in .*\.\.8\.5, declared value_range = \(-8\.0, 8\.0\)"):
        check_arrays(TINY, replace(loaded, x_train=high))
    one = smaller(ONE, 3).load(packed)
    check_arrays(smaller(ONE, 3), one)
    with pytest.raises(DataError, match="train labels must cover 0 to 0"):
        check_arrays(smaller(ONE, 3), Arrays(one.x_train, one.y_train + 1, one.x_test, one.y_test))
    with pytest.raises(DataError, match="2 training samples, declared 3"):
        check_arrays(smaller(ONE, 3), Arrays(one.x_train[:2], one.y_train[:2], one.x_test, one.y_test))


# --- real clips -------------------------------------------------------------------------------------------------------


@pytest.fixture
def real(real_data: Path) -> Path:
    """The folder with the packed subset."""
    if not (real_data / "speech-commands" / "manifest.csv").is_file():
        pytest.skip("HARNESS_DATA has no speech-commands/manifest.csv")
    return real_data


def test_the_real_subset_loads_whole_without_a_warning(real: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded, one = Data(real).arrays(MINI), Data(real).arrays(ONE)
    assert np.bincount(loaded.y_train).tolist() == [50] * 10 and np.bincount(loaded.y_test).tolist() == [17] * 10
    assert one.x_train.shape == (40, 1, 125, 80)
    assert np.abs(loaded.x_train).max() < 8  # nothing of a real word is clamped
    rows = [np.ascontiguousarray(row).tobytes() for row in (*loaded.x_train, *loaded.x_test, *one.x_train)]
    assert len(set(rows)) == 710
    splits = Data(real).splits(MINI, 0, CPU)
    assert torch.bincount(splits.train.y).tolist() == [45] * 10 and len(splits.holdout) == 50


def test_the_published_rule_gives_the_official_parts_of_the_real_clips(real: Path) -> None:
    for row in manifest(real):
        percentile = SPEECH._percentile(Path(row["file"]).name)
        part = "validation" if percentile < 10 else "testing" if percentile < 20 else "training"
        assert part == row["official_split"], row["file"]


@pytest.fixture(scope="module")
def joined(real_data: Path) -> Any:
    """The two packed subsets as one set; computed once, in the cache of all tests."""
    if not (real_data / "speech-commands-more" / "manifest.csv").is_file():
        pytest.skip("HARNESS_DATA has no speech-commands-more/manifest.csv")
    return Data(real_data).arrays(JOINED)


def test_the_joined_set_has_all_clips_of_both_and_no_speaker_twice(joined: Any, real: Path) -> None:
    assert joined.x_train.shape == (3530, 1, 125, 80) and joined.x_test.shape == (593, 1, 125, 80)
    assert np.bincount(joined.y_train).tolist() == [361, 335, 362, 354, 360, 363, 336, 353, 356, 350]
    assert len({row.tobytes() for row in (*joined.x_train, *joined.x_test)}) == 4123
    speakers: dict[str, set[str]] = {"train": set(), "test": set(), "ood": set()}
    for folder in ("speech-commands", "speech-commands-more"):
        with (real / folder / "manifest.csv").open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                speakers[row["split"]].add(row["speaker"])
    assert not speakers["train"] & (speakers["test"] | speakers["ood"])
    parts = stratified.split(joined.y_train, JOINED, 0)
    assert [set(np.bincount(joined.y_train[part])) for part in parts] == [{150}, {35}, {150}]


@pytest.mark.parametrize("folder", ["speech-commands", "speech-commands-more"])
def test_the_joined_set_needs_both_folders(folder: str, packed: Path) -> None:
    shutil.copytree(packed / "speech-commands", packed / "speech-commands-more")
    shutil.rmtree(packed / folder)
    message = refused(JOINED, packed)
    assert f"no manifest.csv in {packed / folder}" in message and "cannot be downloaded" in message


def test_the_joined_set_refuses_other_clips(packed: Path) -> None:
    shutil.copytree(packed / "speech-commands", packed / "speech-commands-more")
    cls: Any = type("Other", (type(JOINED),), {"available": 40})
    message = refused(cls(train=20, holdout=10), packed)
    assert "are damaged, or those of another set" in message
    loaded = Data(packed).arrays(smaller(JOINED, 40, train=20, holdout=10))
    assert loaded.x_train.shape == (40, 1, 125, 80) and loaded.x_test.shape == (20, 1, 125, 80)
