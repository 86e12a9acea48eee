"""The artifact store: what was saved comes back, what was damaged is noticed, what was interrupted is not there."""

from __future__ import annotations

import json
import math
import os
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from harness.errors import DamagedArtifact, ResultsError, UsageError
from harness.storage.store import FORMAT, Store

ID, OTHER = "0123456789abcdef" * 2, "ff" * 16
RECORD = {"status": "ok", "label": 'Größe\n\t"x" \u2028', "curves": [{"loss": [0.5, 1e-300, 3]}], "none": None}

law = settings(deadline=None, max_examples=60, database=None, derandomize=True)

dtypes = st.sampled_from([torch.float32, torch.float64, torch.uint8, torch.int64, torch.int16, torch.bool])
names = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12).filter("__metadata__".__ne__)
shapes = st.lists(st.integers(0, 4), max_size=4)


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """A tensor of any type and shape, perhaps with strides of its own."""
    shape, dtype = draw(shapes), draw(dtypes)
    values = torch.randint(
        -300, 300, (math.prod(shape),), generator=torch.Generator().manual_seed(draw(st.integers(0, 99)))
    )
    tensor = values.to(dtype).reshape(shape)
    layout = draw(st.sampled_from(["plain", "channels_last", "transposed", "slice", "expanded", "learned"]))
    if layout == "channels_last" and tensor.ndim == 4:
        return tensor.contiguous(memory_format=torch.channels_last)
    if layout == "transposed" and tensor.ndim >= 2:
        return tensor.transpose(0, -1)
    if layout == "slice" and tensor.ndim and len(tensor):
        return tensor[1:]
    if layout == "expanded":
        return tensor[None].expand(3, *tensor.shape)
    return tensor.requires_grad_(True) if layout == "learned" and dtype.is_floating_point else tensor


def store(folder: str | Path) -> Store:
    made = Store(Path(folder))
    made.prepare()
    return made


def same(saved: dict[str, Tensor], loaded: dict[str, Tensor]) -> bool:
    return saved.keys() == loaded.keys() and all(
        tensor.dtype == loaded[name].dtype and tensor.shape == loaded[name].shape and torch.equal(tensor, loaded[name])
        for name, tensor in saved.items()
    )


# --- what was saved comes back ----------------------------------------------------------------------------------------


@law
@given(saved=st.dictionaries(names, tensors(), max_size=5))
def test_tensors_come_back_as_they_were(saved: dict[str, Tensor]) -> None:
    with TemporaryDirectory() as folder:
        kept = store(folder)
        kept.save(ID, RECORD, saved)
        loaded = Store(Path(folder)).load(ID)
    assert same(saved, loaded.tensors)
    assert {name: loaded.record[name] for name in RECORD} == RECORD
    assert not any(tensor.requires_grad for tensor in loaded.tensors.values())


def test_tensors_that_share_memory_are_stored_apart(tmp_path: Path) -> None:
    whole = torch.arange(12.0)
    parts = {"whole": whole, "same": whole, "half": whole[:6], "steps": whole[::2], "view": whole.view(3, 4)}
    store(tmp_path).save(ID, {}, parts)
    loaded = Store(tmp_path).load(ID).tensors
    assert same(parts, loaded)
    loaded["whole"].zero_()
    assert float(loaded["half"].sum()) == 15


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@law
@given(record=st.dictionaries(st.text(max_size=8).filter("tensors_sha256".__ne__), json_values, max_size=5))
def test_records_come_back_as_they_were(record: dict[str, Any]) -> None:
    with TemporaryDirectory() as folder:
        store(folder).save(ID, record)
        assert Store(Path(folder)).record(ID) == record
        assert Store(Path(folder)).load(ID).tensors == {}


def test_an_artifact_is_replaced_whole(tmp_path: Path) -> None:
    kept = store(tmp_path)
    kept.save(ID, {"status": "ok"}, {"weight": torch.ones(3)})
    kept.save(ID, {"status": "failed"})
    assert kept.record(ID) == {"status": "failed"} and kept.load(ID).tensors == {}
    assert [path.name for path in kept.path(ID).iterdir()] == ["record.json"]


def test_what_was_never_saved_is_not_there(tmp_path: Path) -> None:
    kept = store(tmp_path)
    assert kept.record(ID) is None and kept.ids() == set() and Store(tmp_path / "elsewhere").ids() == set()
    with pytest.raises(DamagedArtifact, match="missing"):
        kept.load(ID)


def test_ids_are_listed_without_reading(tmp_path: Path) -> None:
    kept = store(tmp_path)
    for id in (ID, OTHER):
        kept.save(id, RECORD)
    (kept.path(OTHER) / "record.json").write_text("damaged")
    (kept.folder / "ff" / "a note").touch()
    (kept.folder / "notes").mkdir()
    assert kept.ids() == {ID, OTHER}


# --- other tools ------------------------------------------------------------------------------------------------------


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


def test_the_record_is_json_for_other_tools(tmp_path: Path) -> None:
    kept = store(tmp_path)
    kept.save(ID, RECORD, {"weight": torch.zeros(2)})
    document = json.loads((kept.path(ID) / "record.json").read_text("utf-8"), parse_constant=_refuse)
    assert set(document) == {"sha256", "record"} and document["record"]["label"] == RECORD["label"]
    assert len(document["record"]["tensors_sha256"]) == len(document["sha256"]) == 64


def test_numbers_that_json_lacks_become_null(tmp_path: Path) -> None:
    kept = store(tmp_path)
    kept.save(ID, {"curves": [{"loss": [1.0, math.nan, math.inf]}], "pair": (-math.inf, 2), "score": math.nan})
    text = (kept.path(ID) / "record.json").read_text("utf-8")
    expected = {"curves": [{"loss": [1.0, None, None]}], "pair": [None, 2], "score": None}
    assert json.loads(text, parse_constant=_refuse)["record"] == kept.record(ID) == expected


def test_the_tensors_are_safetensors_for_other_tools(tmp_path: Path) -> None:
    from safetensors import safe_open

    kept = store(tmp_path)
    kept.save(ID, {}, {"model/weight": torch.full((2, 2), 7.0)})
    with safe_open(kept.path(ID) / "tensors.safetensors", "np") as file:
        assert file.get_tensor("model/weight").tolist() == [[7, 7], [7, 7]]


# --- damage -----------------------------------------------------------------------------------------------------------


@cache
def files() -> dict[str, bytes]:
    """The two files of one artifact."""
    with TemporaryDirectory() as folder:
        kept = store(folder)
        kept.save(ID, RECORD, {"weight": torch.arange(6.0), "labels": torch.arange(4)})
        return {path.name: path.read_bytes() for path in kept.path(ID).iterdir()}


def load_with(changed: dict[str, bytes | None]) -> None:
    """Load the artifact with files of other content, or without them."""
    with TemporaryDirectory() as folder:
        kept = store(folder)
        kept.path(ID).mkdir(parents=True)
        for name, data in (files() | changed).items():
            if data is not None:
                (kept.path(ID) / name).write_bytes(data)
        kept.load(ID)


FILES = ("record.json", "tensors.safetensors")
each_file = pytest.mark.parametrize("name", FILES)


def test_what_is_damaged_below_is_whole() -> None:
    assert sorted(files()) == sorted(FILES)
    load_with({})


@each_file
@settings(law, max_examples=150)
@given(position=st.integers(0, 10_000), change=st.integers(1, 255))
def test_any_changed_byte_is_noticed(name: str, position: int, change: int) -> None:
    data = bytearray(files()[name])
    data[position % len(data)] ^= change
    with pytest.raises(DamagedArtifact):
        load_with({name: bytes(data)})


def test_a_changed_line_end_is_noticed() -> None:
    data = files()["record.json"]
    for other in (b"\r", b"\r\n"):
        with pytest.raises(DamagedArtifact):
            load_with({"record.json": data.replace(b"\n", other, 1)})


@each_file
@law
@given(length=st.integers(0, 10_000))
def test_any_truncation_is_noticed(name: str, length: int) -> None:
    data = files()[name]
    with pytest.raises(DamagedArtifact):
        load_with({name: data[: length % len(data)]})


@each_file
@pytest.mark.parametrize("extra", [b"\x00", b"\n", b"}\n"])
def test_anything_added_is_noticed(name: str, extra: bytes) -> None:
    with pytest.raises(DamagedArtifact):
        load_with({name: files()[name] + extra})


@each_file
def test_a_missing_file_is_noticed(name: str) -> None:
    with pytest.raises(DamagedArtifact):
        load_with({name: None})


def test_files_of_another_artifact_are_noticed() -> None:
    with TemporaryDirectory() as folder:
        kept = store(folder)
        kept.save(OTHER, RECORD, {"weight": torch.arange(6.0) + 1, "labels": torch.arange(4)})
        other = (kept.path(OTHER) / "tensors.safetensors").read_bytes()
    with pytest.raises(DamagedArtifact):
        load_with({"tensors.safetensors": other})


# --- interruption -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [(os, "replace", 1), (Path, "write_bytes", 1), (Path, "write_bytes", 2)])
def test_an_interrupted_save_leaves_nothing(
    step: tuple[Any, str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = store(tmp_path)
    kept.save(OTHER, RECORD)
    before = sorted(tmp_path.rglob("*"))
    owner, name, failing = step
    original, calls = getattr(owner, name), []

    def interrupted(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == failing:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(owner, name, interrupted)  # pathlib calls os.replace too
    with pytest.raises(KeyboardInterrupt):
        kept.save(ID, RECORD, {"weight": torch.ones(3)})
    monkeypatch.undo()
    assert kept.ids() == {OTHER} and kept.record(ID) is None
    assert [path for path in sorted(tmp_path.rglob("*")) if path not in before] == [kept.path(ID).parent]
    kept.save(ID, RECORD, {"weight": torch.ones(3)})
    assert kept.load(ID).tensors["weight"].tolist() == [1, 1, 1]


def test_what_a_killed_save_left_is_not_listed(tmp_path: Path) -> None:
    kept = store(tmp_path)
    (kept.folder / ID[:2] / f".{ID}.0a1b2c3d").mkdir(parents=True)
    assert kept.ids() == set() and kept.record(ID) is None


def test_what_cannot_be_stored_leaves_the_old_artifact(tmp_path: Path) -> None:
    kept = store(tmp_path)
    kept.save(ID, RECORD, {"weight": torch.ones(3)})
    with pytest.raises(TypeError):
        kept.save(ID, {"what": object()}, {"weight": torch.zeros(3)})
    assert kept.load(ID).tensors["weight"].tolist() == [1, 1, 1]
    assert [path.name for path in kept.path(ID).parent.iterdir()] == [ID]


# --- ids and folders --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "id",
    [
        "",
        "..",
        "../../etc/passwd",
        "/etc/passwd",
        ID[:-1],
        ID + "0",
        ID.upper(),
        "../" + ID[3:],
        ID[:16] + "/" + ID[17:],
    ],
)
def test_what_is_no_id_is_refused(id: str, tmp_path: Path) -> None:
    kept = store(tmp_path / "results")
    for act in (kept.path, kept.record, kept.load, lambda id: kept.save(id, RECORD)):
        with pytest.raises(ResultsError, match="no artifact id"):
            act(id)
    assert sorted(path.name for path in (tmp_path / "results").rglob("*")) == ["artifacts", "format.json"]


@law
@given(id=st.text(max_size=40))
def test_only_32_hexadecimal_digits_are_an_id(id: str) -> None:
    kept = Store(Path("results"))
    if len(id) == 32 and set(id) <= set("0123456789abcdef"):
        assert kept.path(id).parent.parent == kept.folder
    else:
        with pytest.raises(ResultsError):
            kept.path(id)


def test_prepare_makes_the_folder_and_can_be_repeated(tmp_path: Path) -> None:
    kept = store(tmp_path / "a" / "b")
    kept.save(ID, RECORD)
    assert json.loads((kept.results / "format.json").read_text()) == {"format": FORMAT}
    store(tmp_path / "a" / "b")
    assert kept.ids() == {ID} and [path.name for path in kept.folder.iterdir()] == [ID[:2]]


@pytest.mark.parametrize("place", ["results", "results/artifacts", "."])
def test_a_folder_that_cannot_be_made_is_a_users_error(place: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    results = file / "below" if place == "." else tmp_path / "results"
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (file if place == "." else tmp_path / place).touch()
    with pytest.raises(UsageError, match="cannot write to the results folder .*--results") as caught:
        Store(results).prepare()
    assert "\n" not in str(caught.value)


def test_a_folder_that_cannot_be_written_is_a_users_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: Path, *names: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    store(tmp_path)
    monkeypatch.setattr(Path, "touch", refused)
    with pytest.raises(ResultsError, match="Permission denied"):
        Store(tmp_path).prepare()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (json.dumps({"format": FORMAT + 1}), f"results of format {FORMAT + 1}, this harness writes {FORMAT}"),
        (json.dumps({"format": None}), "results of format None"),
        ("", "damaged"),
        ("{", "damaged"),
        ("[1]", "damaged"),
        ("{}", "damaged"),
        ("\udcff", "damaged"),
    ],
)
def test_a_folder_of_another_format_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "format.json").write_bytes(text.encode(errors="surrogateescape"))
    for check in (Store(tmp_path).prepare, Store(tmp_path).check_format):
        with pytest.raises(ResultsError, match=message) as caught:
            check()
        assert "--results" in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_without_results_passes_the_check(tmp_path: Path) -> None:
    Store(tmp_path).check_format()
    Store(tmp_path / "none").check_format()
    assert list(tmp_path.iterdir()) == []


def test_tensors_are_loaded_in_one_order(tmp_path: Path) -> None:
    """Not in that of safetensors, which is one of chance: a key's probes would change places from run to run."""
    store = Store(tmp_path)
    names = [f"{letter}/{k}" for letter in "cab" for k in "yx"]
    store.save("0" * 32, {}, {name: torch.zeros(1) for name in names})
    assert all(list(store.load("0" * 32).tensors) == sorted(names) for _ in range(20))
