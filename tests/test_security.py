"""What a stranger gives us: a results folder, a matrix file, a place to work in. None of it runs code, none of it is
written outside the results folder, and none of it ends a command with a traceback."""

from __future__ import annotations

import ast
import io
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save
from torch import Tensor

import harness
from harness.cli.text import say
from harness.errors import (
    DamagedArtifact,
    HarnessError,
    MatrixError,
    MissingData,
    PluginError,
    ResultsError,
    UnknownName,
    UsageError,
)
from harness.planning.graph import Component, Stage
from harness.planning.matrix import MAX_CELLS, Entry, Matrix, load_matrix
from harness.planning.registry import Registry, load_registry, resolve
from harness.storage import store as store_module
from harness.storage import tables as tables_module
from harness.storage.codec import unpack
from harness.storage.records import check_record
from harness.storage.schema import CELLS, DETECTIONS, STAGES, VERSION_KEY
from harness.storage.store import Artifact, Store
from harness.storage.tables import Tables
from harness.text import printable
from tests.conftest import ROOT, TINY, Cli, command_line

pytestmark = pytest.mark.slow  # processes of their own

ID = "0123456789abcdef" * 2
DEEP = 100_000
CPU = torch.device("cpu")

linked = pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege on Windows")
piped = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")


def sealed(body: str) -> bytes:
    """A record file whose checksum holds: a stranger can compute it too."""
    return store_module._sealed(body).encode()


def body_of(record: Path) -> Any:
    return json.loads(record.read_text("utf-8"))["record"]


def stored(folder: Path, body: str | bytes, data: bytes | None = None) -> Store:
    """A store with one artifact of ``ID``, written by hand."""
    store = Store(folder)
    store.prepare()
    store.path(ID).mkdir(parents=True, exist_ok=True)
    (store.path(ID) / "record.json").write_bytes(sealed(body) if isinstance(body, str) else body)
    if data is not None:
        (store.path(ID) / "tensors.safetensors").write_bytes(data)
    return store


def contents(folder: Path) -> dict[str, tuple[float, bytes | None]]:
    """Every file and folder below, when each was changed, and what the files hold."""
    paths = [folder, *folder.rglob("*")]
    return {str(path): (path.lstat().st_mtime, path.read_bytes() if path.is_file() else None) for path in paths}


@pytest.fixture(scope="module")
def builtin() -> Iterator[Registry]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("HARNESS_PLUGINS", raising=False)
        yield load_registry()


# --- one small run, to be tampered with -------------------------------------------------------------------------------

CELL = ("--dataset", TINY, "--defense", "baseline", "--seeds", "0", "--nulls", "1", "--no-innocents")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of one cell."""
    results = tmp_path_factory.mktemp("finished") / "results"
    assert command_line("run", *CELL, "--attack", "none", "--results", results, "--quiet") == 0
    return results


@pytest.fixture
def results(finished: Path, tmp_path: Path) -> Path:
    """A copy of them, without tables: what is stored is read again."""
    shutil.copytree(finished, tmp_path / "results")
    shutil.rmtree(tmp_path / "results" / "tables")
    return tmp_path / "results"


def by_action(results: Path) -> dict[str, Path]:
    """The records of the run, by action; of several, the last."""
    return {body_of(record)["action"]: record for record in sorted(results.glob("artifacts/*/*/record.json"))}


def run(cli: Cli, results: Path, *attacks: str) -> tuple[int, str]:
    """Run the cell again; the exit code, and all that was said. Never a traceback."""
    chosen = [part for attack in attacks or ("none",) for part in ("--attack", attack)]
    ended = cli("run", *CELL, *chosen, "--results", results, "--quiet")
    assert "Traceback" not in ended.err
    return ended.code, ended.out + ended.err


# --- records ----------------------------------------------------------------------------------------------------------

HOSTILE_BODIES = {
    "nothing": "",
    "not JSON": "record",
    "a list": "[]",
    "null": "null",
    "text": '"record"',
    "nested": '{"a": ' + "[" * DEEP + "]" * DEEP + "}",
    "nested objects": '{"a": ' * DEEP + "1" + "}" * DEEP,
    "a gigantic integer": '{"a": ' + "9" * 5000 + "}",
    "not a number": '{"a": NaN}',
    "infinity": '{"a": -Infinity}',
    "a name twice": '{"status": "ok", "status": "failed"}',
    "a name twice, deeper": '{"a": [{"b": 1, "b": 2}]}',
    "a second record": '{}, "record": {"status": "ok"}',
    "a byte order mark": "\ufeff{}",
    "control characters": '{"a": "\x00"}',
}


@pytest.mark.parametrize("body", HOSTILE_BODIES.values(), ids=HOSTILE_BODIES)
def test_a_record_that_is_none_is_damaged_although_its_checksum_holds(body: str, tmp_path: Path) -> None:
    with pytest.raises(DamagedArtifact) as caught:
        stored(tmp_path, body).record(ID)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 500


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "latin-1"])
def test_a_record_in_another_encoding_is_damaged(encoding: str, tmp_path: Path) -> None:
    data = sealed('{"label": "\u00e9"}').decode().encode(encoding)
    with pytest.raises(DamagedArtifact, match="checksum"):
        stored(tmp_path, data).record(ID)


def test_a_record_that_would_fill_the_memory_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = stored(tmp_path, '{"status": "ok"}')
    assert store.record(ID) == {"status": "ok"}
    with (store.path(ID) / "record.json").open("r+b") as file:
        file.truncate(2**40)  # sparse: a small archive unpacks to it
    with pytest.raises(DamagedArtifact, match="larger than"):
        store.record(ID)


def test_a_file_that_does_not_fit_into_memory_is_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_much(path: Path) -> bytes:
        raise MemoryError

    store = stored(tmp_path, "{}")
    monkeypatch.setattr(Path, "read_bytes", too_much)
    with pytest.raises(DamagedArtifact, match="does not fit into memory"):
        store.record(ID)


# What a record says, field by field.


def use(kind: Any, text: str) -> Component:
    return Component(kind, text, "digest", None)


def stage(action: Any = "verify") -> Stage:
    return Stage(ID, action, "a label", 0, 0, use("dataset", "digits"), use("defense", "ewe"))


MADE: dict[str, dict[str, Any]] = {
    "train": {"model": {}},
    "triggers": {},
    "embed": {"model": {}},
    "attack": {"model": {}, "queries": 100, "agreement": 0.5},
    "detect": {"detection": {"score": 2, "suspected_class": None}, "measures": []},
    "judge": {"judgements": [{"target_hit": True, "mask_overlap": 0.5, "window_rank": None}, None]},
    "verify": {"evidence": {"trigger": [1, 2], "control": [0, 0]}},
    "analyse": {"measures": [{"quantity": "q", "layer": "", "group": "", "values": [1, 0.5, None]}]},
}


def record(action: str = "verify") -> dict[str, Any]:
    named = {"stage": ID, "action": action, "dataset": "digits", "plugin": "ewe", "label": "a label"}
    cost = {"seconds": 1, "threads": 1, "started": "2026-01-02T03:04:05+00:00", "accuracy": None, "device": "cpu"}
    ended = {"status": "ok", "reason": "", "traceback": "", "curves": [{"loss": [1.5, None, 0]}]}
    return {**named, **cost, **ended, **MADE[action]}


@pytest.mark.parametrize("action", MADE)
def test_a_record_as_stages_leave_it_is_sound(action: str) -> None:
    check_record(record(action), stage(action))
    failed = {name: value for name, value in record(action).items() if name not in MADE[action]}
    check_record(failed | {"status": "failed", "reason": "it broke\n\x1b[31m"}, stage(action))


def test_the_records_of_a_run_are_sound(finished: Path) -> None:
    from harness.planning.narrowing import planned

    plan = planned(load_registry(), matrix_of("none"))
    assert len(plan.stages) == 6
    for each in plan.stages.values():
        found = Store(finished).record(each.id)
        assert found is not None
        check_record(found, each)


def matrix_of(attack: str) -> Matrix:
    from harness.planning.matrix import parse_chain, parse_entry

    return Matrix("m", (parse_entry(TINY),), (parse_entry("baseline"),), (parse_chain(attack),), (0,), 1)


LACKING = [
    *[(action, name) for action in MADE for name in ("stage", "action", "dataset", "plugin", "status", "reason")],
    *[(action, name) for action, made in MADE.items() for name in made if name not in ("queries", "agreement")],
]


@pytest.mark.parametrize(("action", "name"), LACKING)
def test_a_record_without_what_its_stage_leaves_is_damaged(action: str, name: str) -> None:
    lacking = record(action)
    del lacking[name]
    with pytest.raises(DamagedArtifact, match=name):
        check_record(lacking, stage(action))


TEXTS = [column.name for column in STAGES.columns if column.type == "string" and column.name != "run"]
WHOLES = [column.name for column in STAGES.columns if column.type == "int64"]
NUMBERS = [column.name for column in STAGES.columns if column.type == "double"]
HOSTILE_FIELDS: list[tuple[str, Any]] = [
    *[(name, value) for name in TEXTS for value in (None, 1, [], {}, "\ud800")],
    *[(name, value) for name in WHOLES for value in ("1", 1.0, True, [], 2**53 + 1, -(10**4000))],
    *[(name, value) for name in NUMBERS for value in ("1", True, [], float("1e400"), 2**53 + 1)],
    *[("started", value) for value in (None, 0, "", "today", "0001-01-01T00:00:00+23:59")],
    *[("stage", "f" * 32), ("action", "train"), ("dataset", "mnist"), ("plugin", "adi")],
    *[("status", value) for value in ("OK", "", ["ok"], None, {"ok": 1})],
    *[("evidence", value) for value in (None, [], "x", {"trigger": None}, {"trigger": 1}, {"trigger": [1]})],
    *[("evidence", {"trigger": counts}) for counts in ([2, 1], [-1, 1], ["1", "2"], [1.0, 2], [True, 2])],
    *[("evidence", {"trigger": counts}) for counts in ([0, 2**53 + 1], [1, 2, 3], {"0": 1, "1": 2})],
    ("evidence", {"\udfff": [1, 2]}),
    *[("curves", value) for value in (None, {}, ["x"], [{"loss": 1}], [{"loss": ["1"]}], [{"loss": [[1]]}])],
    *[("measures", value) for value in (None, {}, ["x"], [{}], [{"quantity": "q"}])],
    ("measures", [{"quantity": "q", "layer": 1, "group": "", "values": []}]),
    ("measures", [{"quantity": "q", "layer": "", "group": "", "values": [float("1e400")]}]),
    *[("detection", value) for value in (None, [], {"score": "1"}, {"seed": 1}, {"cell": "x"}, {"score": [1]})],
    *[("judgements", value) for value in (None, {}, [{"target_hit": 1}], [{"mask_overlap": "1"}], [{"run": "x"}])],
    *[("agreement", value) for value in ("1", [], float("nan"))],
    *[("guard", value) for value in (None, 1, ["query-filter"])],
    *[("tensors_sha256", value) for value in (None, 1, ["0" * 64])],
]


@pytest.mark.parametrize(("name", "value"), HOSTILE_FIELDS)
def test_a_record_that_says_what_no_stage_says_is_damaged(name: str, value: Any) -> None:
    with pytest.raises(DamagedArtifact) as caught:
        check_record(record("verify") | {name: value}, stage("verify"))
    assert name in str(caught.value) and str(caught.value).isprintable() and len(str(caught.value)) < 300


def test_what_a_record_may_say_the_tables_can_hold(tmp_path: Path) -> None:
    """The largest of each, through the rows that are made of it."""
    from harness.running.rows import stage_row

    extreme: dict[str, Any] = dict.fromkeys(WHOLES, 2**53) | dict.fromkeys(NUMBERS, 1.7e308)
    extreme |= {"threads": -(2**53), "seconds": 2**53, "started": "9999-12-31T23:59:59"}
    check_record(record("verify") | extreme, stage("verify"))
    Tables(tmp_path).append(
        "stages", "run", [stage_row(stage("verify"), check_record(record("verify") | extreme, stage("verify")))]
    )
    assert Tables(tmp_path).read("stages")["seconds"].tolist() == [2**53]


# Through the command.


def rewrite(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a record, and make its checksum hold."""
    changed = body_of(path)
    change(changed)
    path.write_bytes(sealed(json.dumps(changed)))


def test_hostile_records_are_computed_again(finished: Path, results: Path, cli: Cli) -> None:
    changes: dict[str, Callable[[dict[str, Any]], object]] = {
        "train": lambda record: record.pop("status"),
        "triggers": lambda record: record.update(status=["ok"], seconds="\x1b]0;title\x07"),
        "embed": lambda record: record.update(accuracy=10**400, label={"a": 1}),
        "verify": lambda record: record.update(evidence={"trigger": ["1", "2"]}, curves=[{"loss": "x"}]),
    }
    for action, change in changes.items():
        rewrite(by_action(results)[action], change)
    code, said = run(cli, results)
    assert code == 0 and said.count("computed again") == len(changes)
    assert "\x1b" not in said
    volatile = ["run", "embed_seconds", "attack_seconds"]
    before, after = (
        harness.read_table(each, "cells").drop(columns=volatile).sort_values("cell", ignore_index=True)
        for each in (finished, results)
    )
    pd.testing.assert_frame_equal(before, after)


# --- tensors ----------------------------------------------------------------------------------------------------------


def safetensors(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    """A file of a header and data that need not fit."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype: object = "F32", shape: object = (1,), start: object = 0, end: object = 4) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


HOSTILE_TENSORS = {
    "nothing": b"",
    "seven bytes": b"\0" * 7,
    "a header beyond the file": safetensors({}, length=1000),
    "a header of 2^64 bytes": safetensors({}, length=2**64 - 1),
    "a header of 100 MB": safetensors(b"{}" + b" " * 100_000_000),
    "a header of 20 MB": safetensors(b"{}" + b" " * 20_000_000),
    "no JSON": safetensors(b"\x80\x04\x95 pickle"),
    "nested": safetensors(b'{"a":' + b"[" * DEEP + b"]" * DEEP + b"}"),
    "a list": safetensors([]),
    "an unknown type": safetensors({"a": entry("OBJECT")}, bytes(4)),
    "a type that torch lacks": safetensors({"a": entry("F4", (8,))}, bytes(4)),
    "a type that is none": safetensors({"a": entry(1)}, bytes(4)),
    "a negative offset": safetensors({"a": entry(start=-4, end=0)}, bytes(4)),
    "an offset beyond the file": safetensors({"a": entry(end=2**40)}, bytes(4)),
    "a backward offset": safetensors({"a": entry(start=4, end=0)}, bytes(4)),
    "an offset of 2^64": safetensors({"a": entry(start=2**64, end=2**64 + 4)}, bytes(4)),
    "a huge shape": safetensors({"a": entry(shape=(2**40, 2**40))}, bytes(4)),
    "a huge empty shape": safetensors({"a": entry(shape=(0, 2**63), end=0)}),
    "a shape of another size": safetensors({"a": entry(shape=(2,))}, bytes(4)),
    "a negative shape": safetensors({"a": entry(shape=(-1, -1))}, bytes(4)),
    "overlapping": safetensors({"a": entry(), "b": entry()}, bytes(4)),
    "a hole": safetensors({"a": entry(), "b": entry(start=8, end=12)}, bytes(12)),
    "more data": safetensors({"a": entry()}, bytes(5)),
    "a bool that is none": safetensors({"a": entry("BOOL", (4,))}, b"\0\1\2\xff"),
}


def with_tensors(folder: Path, data: bytes) -> Store:
    from hashlib import sha256

    return stored(folder, json.dumps({"status": "ok", "tensors_sha256": sha256(data).hexdigest()}), data)


@pytest.mark.parametrize("data", HOSTILE_TENSORS.values(), ids=HOSTILE_TENSORS)
def test_tensors_that_are_none_are_damaged_although_their_checksum_holds(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(DamagedArtifact) as caught:
        with_tensors(tmp_path, data).load(ID)
    assert str(caught.value).isprintable()


def test_a_bool_of_zeros_and_ones_is_one(tmp_path: Path) -> None:
    header = {"a": entry("BOOL", (4,)), "b": entry("BOOL", (), 4, 5)}
    loaded = with_tensors(tmp_path, safetensors(header, b"\0\1\1\0\1"))
    assert loaded.load(ID).tensors["a"].tolist() == [False, True, True, False]


@pytest.mark.parametrize("digest", ["", 0, None, [], {}, "0" * 64, 1, ["x"]])
def test_a_checksum_that_is_none_loads_nothing(digest: Any, tmp_path: Path) -> None:
    store = stored(tmp_path, json.dumps({"tensors_sha256": digest}), save({"model/weight": torch.ones(1)}))
    with suppress(DamagedArtifact):
        assert store.load(ID).tensors == {}


def test_tensors_are_no_files_whatever_they_are_called(tmp_path: Path) -> None:
    before = contents(tmp_path)
    names = ("../../evil", "/etc/passwd", "model/../../x", "\x00", "a\\b", ".", "")
    loaded = with_tensors(tmp_path / "results", save({name: torch.ones(1) for name in names})).load(ID)
    assert set(loaded.tensors) == set(names)
    assert set(contents(tmp_path)) - set(before) == {str(path) for path in (tmp_path / "results").rglob("*")} | {
        str(tmp_path / "results")
    }


# Models, keys and guards.


@cache
def small(kind: str = "mlp") -> dict[str, Tensor]:
    """The tensors of a model on digits."""
    state: dict[str, Tensor] = load_registry().component("architecture", kind).plugin.build((1, 8, 8), 10).state_dict()
    return {f"model/{name}": tensor for name, tensor in state.items()}


DESCRIPTION: dict[str, Any] = {"architecture": "mlp", "input_shape": [1, 8, 8], "classes": 10}


def unpacked(registry: Registry, tensors: Mapping[str, Tensor], **fields: Any) -> Any:
    return unpack(Artifact({"stage": ID, "status": "ok", **fields}, dict(tensors)), registry.component, CPU)


def test_a_sound_model_is_built(builtin: Registry) -> None:
    net = unpacked(builtin, small(), model=DESCRIPTION | {"more": "of a stranger's"}).net
    assert net.description == DESCRIPTION and torch.equal(net.logits.bias, small()["model/logits.bias"])


UNKNOWN: list[Any] = ["unknown", "../mlp", "/etc/passwd", "os.system", "", "ewe", "*", "cnn", "mlp[", "mlp[x=1]"]
UNKNOWN += [None, 1, ["mlp"], {"a": 1}, "mlp[width=-1]", "mlp[width=1e400]"]
HOSTILE_MODELS: dict[str, Any] = {
    **{f"architecture {name!r}": {"architecture": name} for name in UNKNOWN},
    **{f"width {width}": {"architecture": f"mlp[width={width}]"} for width in (10**9, 10**18, 10**30)},
    **{f"shape {shape}": {"input_shape": shape} for shape in ([10**9], [2**40, 2**40], [1, 8, -8], [], None, 8, "8")},
    **{f"shape {shape}": {"input_shape": shape} for shape in ([1, 8, 8.0], ["meta", 8, 8], [[1, 8, 8]], [True, 8, 8])},
    **{f"classes {classes}": {"classes": classes} for classes in (0, -1, 9, 10**12, 10**30, "10", None, [10], 10.0)},
}


@pytest.mark.parametrize("changed", HOSTILE_MODELS.values(), ids=HOSTILE_MODELS)
def test_a_model_that_its_weights_do_not_fit_is_not_built(changed: dict[str, Any], builtin: Registry) -> None:
    with pytest.raises(DamagedArtifact, match="its model cannot be built") as caught:
        unpacked(builtin, small(), model=DESCRIPTION | changed)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("description", ["mlp", ["mlp"], {"architecture": "mlp"}, 1, True])
def test_a_description_that_is_none_is_damaged(description: Any, builtin: Registry) -> None:
    with pytest.raises(DamagedArtifact):
        unpacked(builtin, small(), model=description)


@pytest.mark.parametrize(
    "changed",
    [
        {"model/logits.bias": torch.ones(11)},
        {"model/more": torch.ones(1)},
        {"model/../x": torch.ones(1)},
        {"model/_extra_state": torch.ones(1)},
        {"model/": torch.ones(1)},
        {"pickle": torch.ones(1)},
        {"other/x": torch.ones(1)},
        {"probe/trigger/x": torch.ones(2, 1, 8, 8)},
        {"probe/trigger/y": torch.ones(2)},
        {"probe/trigger/z": torch.ones(2)},
        {"probe/x": torch.ones(2), "probe/trigger/y": torch.ones(2)},
        {"probe/trigger/x": torch.ones(2, 1, 8, 8), "probe/trigger/y": torch.ones(3)},
        {"probe/trigger/x": torch.ones(()), "probe/trigger/y": torch.ones(())},
        {"probe/trigger/x": torch.ones(2, 1, 8, 8), "probe/trigger/y": torch.ones(())},
        {"guard/features": torch.ones(1)},
    ],
)
def test_tensors_that_no_stage_stores_are_damaged(changed: dict[str, Tensor], builtin: Registry) -> None:
    with pytest.raises(DamagedArtifact):
        unpacked(builtin, small() | changed, model=DESCRIPTION)


def test_missing_weights_are_damaged(builtin: Registry) -> None:
    for name in small():
        with pytest.raises(DamagedArtifact, match="other shapes"):
            unpacked(builtin, {n: t for n, t in small().items() if n != name}, model=DESCRIPTION)


@pytest.mark.parametrize("guard", [None, "", "unknown", "retraining", "../x", ["query-filter"], 1, "query-filter[x=1]"])
def test_a_guard_that_no_evasion_made_is_damaged(guard: Any, builtin: Registry) -> None:
    with pytest.raises(DamagedArtifact):
        unpacked(builtin, small() | {"guard/seed": torch.ones(1)}, model=DESCRIPTION, guard=guard)


def test_a_net_that_asks_for_numbers_while_it_is_built_is_built(builtin: Registry) -> None:
    """Without memory it cannot be asked for its shapes."""

    @dataclass(frozen=True)
    class Asking:
        def build(self, shape: tuple[int, ...], classes: int) -> Any:
            assert torch.ones(2).sum().item() == 2
            return builtin.component("architecture", "mlp").plugin.build(shape, classes)

    lookup = lambda kind, text: Component("architecture", text, "", Asking())  # noqa: E731
    assert unpack(Artifact({"model": DESCRIPTION}, small()), lookup, CPU).net is not None


def reseal(record: Path, data: bytes, **changed: Any) -> None:
    """Put other tensors into an artifact, and make its checksums hold."""
    from hashlib import sha256

    (record.parent / "tensors.safetensors").write_bytes(data)
    rewrite(record, lambda body: body.update(tensors_sha256=sha256(data).hexdigest(), **changed))


@pytest.mark.parametrize("name", ["a header beyond the file", "overlapping", "a type that torch lacks"])
def test_hostile_tensors_are_computed_again(name: str, results: Path, cli: Cli) -> None:
    reseal(by_action(results)["embed"], HOSTILE_TENSORS[name])
    code, said = run(cli, results, "pruning")
    assert code == 0 and "computed again" in said and "1 ok" in said


@pytest.mark.parametrize("architecture", ["unregistered", "mlp", "mlp[width=1000000000]"])
def test_a_hostile_model_is_computed_again(architecture: str, results: Path, cli: Cli) -> None:
    embed = by_action(results)["embed"]
    rewrite(embed, lambda body: body["model"].update(architecture=architecture))
    code, said = run(cli, results, "pruning")
    assert code == 0 and "its model cannot be built" in said and "computed again" in said


# --- links ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder of the user's, which is none of the harness's business."""
    folder = tmp_path / "outside"
    (folder / "folder").mkdir(parents=True)
    (folder / "thesis.txt").write_text("years of work")
    (folder / "folder" / "thesis.txt").write_text("years of work")
    return folder


PLACES = ["artifacts", "artifacts/ab", "tables", "tables/cells", "figures", "figures/a.png", "profiles", "claims/locks"]


@linked
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("dangling", [False, True])
def test_a_link_elsewhere_is_refused(place: str, dangling: bool, outside: Path, tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "results" / place).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "results" / place).symlink_to(outside / ("gone" if dangling else "folder"))
    before = contents(outside)
    for command in (("run", *CELL), ("leaderboard",), ("plan", "--matrix", "smoke")):
        ended = cli(*command, "--results", tmp_path / "results", code=2)
        assert f"{place} is a link" in ended.err and ended.err.count("\n") == 1
    with pytest.raises(ResultsError, match="is a link"):
        Store(tmp_path / "results").prepare()
    assert contents(outside) == before


@linked
@pytest.mark.parametrize("part", ["artifacts", f"artifacts/{ID[:2]}"])
def test_nothing_is_saved_through_a_link(part: str, outside: Path, tmp_path: Path) -> None:
    (tmp_path / "results" / part).parent.mkdir(parents=True)
    (tmp_path / "results" / part).symlink_to(outside / "folder")
    (outside / "folder" / ID).mkdir()  # what would be deleted
    before = contents(outside)
    with pytest.raises(ResultsError, match="is a link"):
        Store(tmp_path / "results").save(ID, {"status": "ok"}, {"weight": torch.ones(1)})
    assert contents(outside) == before


@linked
def test_no_rows_are_written_through_a_link(outside: Path, tmp_path: Path) -> None:
    before = contents(outside)
    for number, place in enumerate(["tables", "tables/cells"]):
        (tmp_path / str(number) / place).parent.mkdir(parents=True)
        (tmp_path / str(number) / place).symlink_to(outside / "folder")
        with pytest.raises(ResultsError, match="is a link"):
            Tables(tmp_path / str(number)).append("cells", "run", [row()])
    assert contents(outside) == before


def link_folder(artifact: Path, outside: Path) -> None:
    shutil.rmtree(artifact)
    artifact.symlink_to(outside / "folder")


def link_nowhere(artifact: Path, outside: Path) -> None:
    shutil.rmtree(artifact)
    artifact.symlink_to(outside / "gone")


def link_same(artifact: Path, outside: Path) -> None:
    """To a sound copy: it could be read, but it is not ours to replace."""
    shutil.move(artifact, outside / "folder" / "copy")
    artifact.symlink_to(outside / "folder" / "copy")


def link_file(artifact: Path, outside: Path) -> None:
    for name in ("record.json", "tensors.safetensors"):
        if (artifact / name).exists():
            shutil.move(artifact / name, outside / name)
            (artifact / name).symlink_to(outside / name)


def link_loop(artifact: Path, outside: Path) -> None:
    (artifact / "record.json").unlink()
    (artifact / "record.json").symlink_to("record.json")


def into_file(artifact: Path, outside: Path) -> None:
    shutil.rmtree(artifact)
    artifact.write_text("no folder")


def into_pipe(artifact: Path, outside: Path) -> None:
    (artifact / "record.json").unlink()
    os.mkfifo(artifact / "record.json")


def into_folders(artifact: Path, outside: Path) -> None:
    shutil.rmtree(artifact)
    (artifact / "record.json" / "more").mkdir(parents=True)


def with_links(artifact: Path, outside: Path) -> None:
    """A damaged artifact is deleted; what its links lead to is not."""
    (artifact / "record.json").write_text("damaged")
    (artifact / "folder").symlink_to(outside / "folder")
    (artifact / "file").symlink_to(outside / "thesis.txt")


TAMPERING = [link_folder, link_nowhere, link_same, link_file, link_loop, into_file, into_pipe, into_folders, with_links]


@linked
@piped
@pytest.mark.parametrize("tamper", TAMPERING)
def test_a_link_in_place_of_an_artifact_is_replaced_and_not_followed(
    tamper: Callable[[Path, Path], None], outside: Path, results: Path, cli: Cli
) -> None:
    artifact = by_action(results)["verify"].parent
    tamper(artifact, outside)
    before = contents(outside)
    code, said = run(cli, results)
    assert code == 0 and "computed again" in said and "1 ok" in said
    assert contents(outside) == before
    assert not artifact.is_symlink() and [path.name for path in artifact.iterdir()] == ["record.json"]
    assert not (artifact / "record.json").is_symlink()


@linked
def test_linked_tensors_are_computed_again(outside: Path, results: Path, cli: Cli) -> None:
    artifact = by_action(results)["embed"].parent
    shutil.move(artifact / "tensors.safetensors", outside / "folder" / "tensors")
    (artifact / "tensors.safetensors").symlink_to(outside / "folder" / "tensors")
    before = contents(outside)
    code, said = run(cli, results, "pruning")
    assert code == 0 and "computed again" in said and contents(outside) == before
    assert not (artifact / "tensors.safetensors").is_symlink()


@linked
def test_the_results_folder_itself_may_be_a_link(finished: Path, tmp_path: Path, cli: Cli) -> None:
    shutil.copytree(finished, tmp_path / "disk")
    (tmp_path / "results").symlink_to(tmp_path / "disk")
    code, said = run(cli, tmp_path / "results", "none", "pruning")
    assert code == 0 and "2 ok" in said
    assert len(harness.read_table(tmp_path / "disk", "cells")) == 2


@pytest.mark.parametrize("make", ["link", "pipe", "folder", "nested", "large", "escape"])
@linked
@piped
def test_a_marker_that_is_no_file_of_ours_is_one_line(make: str, tmp_path: Path, cli: Cli) -> None:
    marker = tmp_path / "format.json"
    if make == "link":
        (tmp_path / "other.json").write_text('{"format": 1}')
        marker.symlink_to(tmp_path / "other.json")
    elif make == "pipe":
        os.mkfifo(marker)
    elif make == "folder":
        marker.mkdir()
    elif make == "large":
        with marker.open("wb") as file:
            file.truncate(2**40)
    else:
        marker.write_text("[" * DEEP if make == "nested" else json.dumps({"format": "\x1b]0;title\x07" + "x" * 10_000}))
    ended = cli("run", *CELL, "--results", tmp_path, code=2)
    (line,) = ended.err.splitlines()
    assert line.isprintable() and len(line) < 500


def test_an_artifact_that_cannot_be_replaced_is_one_line(
    results: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    (by_action(results)["verify"]).write_text("damaged")
    monkeypatch.setattr(store_module, "_remove", refused)
    code, said = run(cli, results)
    assert code == 2 and "cannot write" in said and "Permission denied" in said


def test_a_folder_that_cannot_be_read_is_one_line(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(store_module.os, "scandir", refused)
    with pytest.raises(ResultsError, match="cannot read .*artifacts.*Permission denied"):
        Store(results).ids()


# --- ids --------------------------------------------------------------------------------------------------------------


NO_IDS = ["..", "../" * 10 + "x", "/" * 32, "a\0" * 16, ID.upper(), ID[:31] + "\n", ID + "\0"]


@pytest.mark.parametrize("id", [*NO_IDS, "\u0660" * 32, "\uff10" * 32])
def test_what_is_no_id_reaches_no_file(id: str, tmp_path: Path) -> None:
    store = Store(tmp_path / "a" / "b")
    for act in (store.path, store.record, store.load, lambda id: store.save(id, {})):
        with pytest.raises(ResultsError, match="is no artifact id") as caught:
            act(id)
        assert str(caught.value).isprintable()
    assert list(tmp_path.rglob("*")) == []


# --- tables -----------------------------------------------------------------------------------------------------------


def row(**given: Any) -> dict[str, Any]:
    """A row of ``cells`` that a leaderboard ranks."""
    made: dict[str, Any] = {"cell": "c", "dataset": "digits", "defense": "ewe", "attack": "retraining", "seed": 0}
    made |= {"model": "m", "family": "extraction", "access": "black-box", "status": "ok", "reason": "", "nulls": 1}
    accuracies = dict.fromkeys(("null_accuracy", "victim_accuracy", "surrogate_accuracy", "agreement"), 0.9)
    counts = {f"{who}_matches": 5 for who in COUNTED} | {f"{who}_trials": 10 for who in COUNTED}
    return made | accuracies | counts | {"queries": 100} | given


COUNTED = ("victim_trigger", "surrogate_trigger", "surrogate_held_out", "surrogate_control", "null_trigger")
PART = "20260101T000000-aaaaaa-0000.parquet"


def arrow(rows: int = 3, **given: Any) -> pa.Table:
    """Rows of ``cells`` as a run writes them."""
    made = [{"run": "r", **row(seed=seed), **given} for seed in range(rows)]
    return pa.Table.from_pylist(made, schema=CELLS.schema())


def read_back(table: pa.Table | bytes) -> pd.DataFrame:
    """What is read of a file that holds ``table``, or is it."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "tables" / "cells" / PART
        path.parent.mkdir(parents=True)
        if isinstance(table, bytes):
            path.write_bytes(table)
        else:
            pq.write_table(table, path)
        return Tables(Path(folder)).read("cells")


def refused(table: pa.Table | bytes) -> str:
    """What is said of a file that is refused: one printable line."""
    with pytest.raises(ResultsError) as caught:
        read_back(table)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 700
    return str(caught.value)


def with_column(name: str, column: Any, type: pa.DataType | None = None) -> pa.Table:
    table = arrow()
    place = table.schema.get_field_index(name)
    field = pa.field(name, type or column.type)
    return table.set_column(place, field, column).replace_schema_metadata(table.schema.metadata)


PANDAS = {
    "an index": {"index_columns": ["dataset"]},
    "a long index": {"index_columns": [{"kind": "range", "name": None, "start": 0, "stop": 2**62, "step": 1}]},
    "a type": {"columns": [{"name": "dataset", "field_name": "dataset", "pandas_type": "x", "numpy_type": "Evil[x]"}]},
    "a zone": {"column_indexes": [{"name": None, "pandas_type": "datetimetz", "metadata": {"timezone": "../../x"}}]},
    "an attribute": {"attributes": {"__class__": "os.system"}},
}


@pytest.mark.parametrize("said", PANDAS.values(), ids=PANDAS)
def test_what_a_file_tells_pandas_is_not_believed(said: dict[str, Any]) -> None:
    told = {"index_columns": [], "column_indexes": [], "columns": [], "pandas_version": "2.0"} | said
    metadata = {**arrow().schema.metadata, b"pandas": json.dumps(told).encode()}
    pd.testing.assert_frame_equal(read_back(arrow().replace_schema_metadata(metadata)), read_back(arrow()))


@pytest.mark.parametrize("said", [b"\xff{", b"[" * DEEP, b"cos\nsystem\n(S'exit 1'\ntR."])
def test_what_pandas_could_not_read_is_not_read(said: bytes) -> None:
    metadata = {**arrow().schema.metadata, b"pandas": said}
    assert len(read_back(arrow().replace_schema_metadata(metadata))) == 3


class Extension(pa.ExtensionType):  # type: ignore[misc]
    """A type that this process knows, and runs code for."""

    def __init__(self) -> None:
        super().__init__(pa.string(), "harness.evil")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage: Any, data: bytes) -> Extension:
        return cls()


def test_extension_types_and_nested_ones_are_other_columns() -> None:
    texts = arrow().column("reason").combine_chunks()
    pa.register_extension_type(Extension())
    try:
        extended = with_column("reason", pa.ExtensionArray.from_storage(Extension(), texts))
        assert "other columns" in refused(extended)
    finally:
        pa.unregister_extension_type("harness.evil")
    assert "other columns" in refused(with_column("reason", pa.array([["a"]] * 3)))
    assert "other columns" in refused(with_column("reason", pa.array([{"a": 1}] * 3)))
    assert "other columns" in refused(with_column("reason", texts.dictionary_encode()))
    assert "other columns" in refused(with_column("seed", pa.array(["0", "1", "2"])))
    assert "other columns" in refused(arrow().append_column("reason", texts))
    assert "other columns" in refused(arrow().append_column("more", texts))


def test_a_pickled_type_is_not_unpickled(tmp_path: Path) -> None:
    """Arrow once made objects of what a field's metadata holds (CVE-2023-47248)."""
    evil = b"cposix\nsystem\n(S'touch " + os.fsencode(tmp_path / "ran") + b"'\ntR."
    metadata = {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": evil}
    table, place = arrow(), arrow().schema.get_field_index("reason")
    field = pa.field("reason", pa.string(), metadata=metadata)
    with_evil = table.set_column(place, field, table.column("reason")).replace_schema_metadata(table.schema.metadata)
    with_evil.validate()
    with suppress(ResultsError):
        read_back(with_evil)
    assert not (tmp_path / "ran").exists()


def varint(number: int) -> bytes:
    """As Thrift's compact protocol has it."""
    number = (number << 1) & (2**64 - 1)
    made = b""
    while number >= 128:
        made, number = made + bytes([number & 127 | 128]), number >> 7
    return made + bytes([number])


def claiming(rows: int) -> bytes:
    """A file of 7,777 rows, whose footer says that there are ``rows``."""
    sink = io.BytesIO()
    pq.write_table(arrow(7777), sink)
    data = sink.getvalue()
    (length,) = struct.unpack("<I", data[-8:-4])
    footer = data[-8 - length : -8].replace(varint(7777), varint(rows))
    return data[: -8 - length] + footer + struct.pack("<I", len(footer)) + b"PAR1"


def test_a_footer_is_not_believed() -> None:
    assert len(read_back(claiming(7777))) == 7777
    for rows in (10**8, 10**12, 2**62):
        assert "more than 20,000,000 rows" in refused(claiming(rows))
    assert "another number of rows" in refused(claiming(20_000))


def test_a_table_that_would_fill_the_memory_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some hundred bytes can stand for any number of equal rows."""
    monkeypatch.setattr(tables_module, "MAX_ROWS", 5)
    assert len(read_back(arrow(5))) == 5
    assert "more than 5 rows" in refused(arrow(6))
    with TemporaryDirectory() as folder:
        tables = Tables(Path(folder))
        for run_id in ("a", "b"):
            tables.append("cells", run_id, [row(seed=seed) for seed in range(3)])
        with pytest.raises(ResultsError, match="more than 5 rows"):
            tables.read("cells")


@pytest.mark.parametrize(
    "given",
    [
        *[{name: None} for name in CELLS.key],
        *[{f"{who}_matches": matches, f"{who}_trials": 10} for who in COUNTED for matches in (11, -1, None)],
        *[{f"{who}_matches": 1, f"{who}_trials": None} for who in COUNTED],
        {"seed": 2**63 - 1},
        {"queries": -(2**63)},
        {"nulls": 2**62 + 1},
    ],
)
def test_values_that_no_run_writes_are_refused(given: dict[str, Any]) -> None:
    assert "is damaged (" in refused(arrow(1, **given))


def test_text_that_is_no_text_is_refused() -> None:
    broken = pa.Array.from_buffers(
        pa.string(), 3, [None, pa.py_buffer(struct.pack("<4i", 0, 1, 2, 3)), pa.py_buffer(b"\xff\xfe\xfd")]
    )
    assert "is damaged (" in refused(with_column("reason", broken))


@pytest.mark.parametrize("version", [b"\x1b]0;title\x07", b"9" * 100_000, b"\xff"])
def test_a_version_is_shown_and_not_executed(version: bytes) -> None:
    refused(arrow().replace_schema_metadata({VERSION_KEY: version}))


@linked
@piped
@pytest.mark.parametrize("make", ["link", "pipe", "folder", "escape"])
def test_a_part_that_is_no_file_of_ours_is_one_line(make: str, tmp_path: Path, cli: Cli) -> None:
    folder = tmp_path / "tables" / "cells"
    folder.mkdir(parents=True)
    if make == "link":
        pq.write_table(arrow(), tmp_path / "outside.parquet")
        (folder / PART).symlink_to(tmp_path / "outside.parquet")
    elif make == "pipe":
        os.mkfifo(folder / PART)
    elif make == "folder":
        (folder / PART).mkdir()
    else:
        (folder / f"\x1b]0;title\x07{PART}").write_bytes(b"")
    (line,) = cli("leaderboard", "--results", tmp_path, code=2).err.splitlines()
    assert "is damaged" in line and line.isprintable()


# What a terminal shows.

NAMES = [
    "[red]x[/red]",
    "[/]",
    ":skull:",
    "a|b",
    "back\\",
    "line\nbreak",
    "\r",
    "\x1b]0;title\x07",
    "\x9b31m",
    "\u202eright",
]


@pytest.mark.parametrize("style", ["terminal", "markdown", "csv", "json"])
def test_a_leaderboard_shows_names_and_does_not_execute_them(style: str, tmp_path: Path, cli: Cli) -> None:
    tables = Tables(tmp_path)
    tables.append("cells", "run", [row(cell=name, defense=name, attack=name, seed=i) for i, name in enumerate(NAMES)])
    seen = {"family": "detection", "attack": "[bold]look"}
    tables.append("cells", "run", [row(cell=name, dataset=name, seed=i, **seen) for i, name in enumerate(NAMES)])
    found = {column.name: 1 for column in DETECTIONS.columns if column.type in ("double", "int64")}
    tables.append("detections", "run", [found | {"cell": name, "suspect": "surrogate", "index": 0} for name in NAMES])
    ran = {"device": "cpu", "threads": 1, "torch": "2", "harness": "0"}
    tables.append("stages", "run", [ran | {"stage": name, "machine": name} for name in NAMES])
    out = cli("leaderboard", "--results", tmp_path, "--format", style, code=0).out
    assert [char for char in out if not char.isprintable() and char != "\n"] == []
    shown = out if style != "json" else "\n".join(map(printable, texts_in(json.loads(out))))
    escaped = {"markdown": ("|", "\\|")}.get(style, ("", ""))
    flat = re.sub(r"\s+", "", shown)
    for name in NAMES:
        assert re.sub(r"\s+", "", printable(name).replace(*escaped)) in flat, name


def texts_in(value: Any) -> list[str]:
    """All texts in a JSON document."""
    if isinstance(value, dict | list):
        return [text for each in (value.values() if isinstance(value, dict) else value) for text in texts_in(each)]
    return [value] if isinstance(value, str) else []


def test_an_unknown_name_lists_the_known_ones_printably(tmp_path: Path, cli: Cli) -> None:
    Tables(tmp_path).append("cells", "run", [row(defense=name, seed=i) for i, name in enumerate(NAMES)])
    (line,) = cli("leaderboard", "--results", tmp_path, "--defense", "ewe", code=2).err.splitlines()
    assert line.isprintable() and "\\x1b]0;title" in line


def test_a_board_of_detections_alone_is_a_table(tmp_path: Path, cli: Cli) -> None:
    Tables(tmp_path).append("cells", "run", [row(family="detection")])
    head = cli("leaderboard", "--results", tmp_path, "--format", "csv", code=0).out
    assert head.startswith("dataset,defense") and head.count("\n") == 1
    assert "digits: detectors of marks" in cli("leaderboard", "--details", "--results", tmp_path, code=0).out


@pytest.mark.parametrize("text", ["plain", "\u00fc \u00b1 \u4e2d", "tab\there", "\ud800", "\x1b[2J", "\u200b", "\\x1b"])
def test_printable_text_is_printable(text: str) -> None:
    assert printable(text).isprintable() and (not text.isprintable() or printable(text) == text)
    printable(text).encode()


def test_what_the_command_says_is_shown_and_not_executed(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "mine.toml").write_text(
        'datasets = ["digits"]\ndefenses = [{name = "ewe", weight = "\\u001b]0;title\\u0007"}]\nattacks = ["none"]\n'
    )
    (line,) = cli("plan", "--matrix", tmp_path / "mine.toml", code=2).err.splitlines()
    assert "\\x1b]0;title" in line and line.isprintable()
    (tmp_path / "mine.toml").write_text(AXES + 'description = "\\u001b]0;title\\u0007"')
    assert "\\x1b]0;title" in cli("plan", "--matrix", tmp_path / "mine.toml", code=0).out.splitlines()[0]


def test_a_stored_reason_is_shown_and_not_executed(results: Path, cli: Cli) -> None:
    hostile = {"status": "failed", "reason": "\x1b]0;title\x07 [red]", "label": ":skull:\x1b[2J"}
    rewrite(by_action(results)["verify"], lambda body: body.update(hostile))
    ended = cli("run", *CELL, "--attack", "none", "--results", results, "--rerun", "never", code=1)
    (line,) = (line for line in ended.err.splitlines() if line.startswith("failed: "))
    assert line.isprintable() and "\\x1b]0;title\\x07 [red]" in line


@pytest.mark.parametrize("bar", [True, False])
def test_a_watcher_shows_and_does_not_execute(bar: bool, capsys: pytest.CaptureFixture[str]) -> None:
    from harness.running.progress import Bar, Plain

    watching = Bar(1) if bar else Plain()
    hostile = {"action": "verify", "status": "failed", "seconds": 1.0, "stage": ID}
    with watching:
        watching.ended(hostile | {"reason": "\x1b]0;a\x07[red]:skull:", "label": "\x9b31m"}, 1, 1, None)
    said = capsys.readouterr().err
    assert "\\x1b]0;a\\x07[red]:skull:" in re.sub(r"\s", "", said) and "\\x9b31m" in said
    assert "\x1b]" not in said and "\x9b" not in said


def test_hostile_rows_neither_end_a_run_nor_stand_for_it(finished: Path, tmp_path: Path, cli: Cli) -> None:
    shutil.copytree(finished, tmp_path / "results")
    tables = Tables(tmp_path / "results")
    known = harness.read_table(finished, "cells").iloc[0]
    labels = {name: known[name] for name in ("cell", *CELLS.key)} | {"seed": 0}
    for number, status in enumerate([None, "", "OK", "\x1b[2J"]):
        tables.append("cells", f"99990101T00000{number}-aaaaaa", [labels | {"status": status}])
        code, said = run(cli, tmp_path / "results")
        assert code == 0 and "(1 ok)" in said
    hostile = {"stage": ID, "action": "attack", "dataset": None, "plugin": None, "status": "ok"}
    for number, seconds in enumerate([None, 1e308, -1.0]):
        tables.append("stages", f"99990101T00000{number}-aaaaaa", [hostile | {"seconds": seconds}])
        assert run(cli, tmp_path / "results", f"pruning[fraction=0.{number + 1}]")[0] == 0


def test_a_detector_without_a_number_is_ranked(tmp_path: Path, cli: Cli) -> None:
    tables = Tables(tmp_path)
    tables.append("cells", "run", [row(seed=seed, cell=str(seed), family="detection") for seed in range(4)])
    scores = [None, float("inf"), 2.0, 1.0]
    rows = [{"suspect": who, "index": 0, "score": x} for who in ("surrogate", "null") for x in scores]
    tables.append("detections", "run", [each | {"cell": str(i % 4)} for i, each in enumerate(rows)])
    assert "detectors of marks" in cli("leaderboard", "--details", "--results", tmp_path, code=0).out


@linked
@piped
def test_notes_of_strangers_are_no_notes(tmp_path: Path) -> None:
    from harness.storage.locks import Claims

    claims = Claims(tmp_path)
    claims.folder.mkdir()
    os.mkfifo(claims.folder / "pipe.json")
    (claims.folder / "nested.json").write_text("[" * DEEP)
    (claims.folder / "list.json").write_text("[]")
    (claims.folder / "id.json").write_text('{"stage": "../x"}')
    assert claims.running() == []


def test_a_prepared_copy_that_is_none_is_made_again(tmp_path: Path) -> None:
    from harness.prepared import _read_prepared

    more = {
        "bfloat16": safetensors({"a": entry("BF16", (2,))}, bytes(4)),
        "sound": safetensors({"a": entry()}, bytes(4)),
    }
    for data in (HOSTILE_TENSORS | more).values():
        (tmp_path / "copy").write_bytes(data)
        assert _read_prepared(tmp_path / "copy") is None
    assert _read_prepared(tmp_path) is None
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        assert _read_prepared(tmp_path / "pipe") is None


@pytest.mark.parametrize("id", ["../x", "/tmp/x", "a/b", "", ".", "..", "A", "x\n", "\u0661"])
def test_an_experiment_is_no_path(id: str, tmp_path: Path) -> None:
    """Its picture's file is named after it."""
    from harness.papers.paper import load_paper

    named = f'title = "t"\nsource = "s"\n[marks]\n[experiments.{json.dumps(id)}]\n'
    (tmp_path / "mine.toml").write_text(named + 'title = "t"\nsays = "s"\nrows = []\npicture = {kind = "strips"}\n')
    with pytest.raises(MatrixError, match="is no name of an experiment"):
        load_paper(str(tmp_path / "mine.toml"))
    (tmp_path / "mine.toml").write_text("a = " + "[" * DEEP)
    with pytest.raises(MatrixError, match="nested too deeply"):
        load_paper(str(tmp_path / "mine.toml"))


# --- matrices ---------------------------------------------------------------------------------------------------------

AXES = 'datasets = ["digits"]\ndefenses = ["ewe"]\nattacks = ["none"]\n'
MANY = "[" + ",".join(map(str, range(1000))) + "]"
HOSTILE_MATRICES = {
    "nested lists": "a = " + "[" * DEEP,
    "nested tables": "a = " + "{a = " * DEEP,
    "dotted keys": f"datasets = [{{{'a.' * 3000}a = 1}}]\n" + AXES.partition("\n")[2],
    "a dotted seed": AXES + "seeds" + ".a" * 3000 + " = 1",
    "dotted nulls": AXES + "nulls" + ".a" * 3000 + " = 1",
    "a sweep of a billion": AXES.replace('["none"]', f'[{{name = "pruning", a = {MANY}, b = {MANY}, c = {MANY}}}]'),
    "a chain of a billion": AXES.replace('["none"]', "[[" + ", ".join([f'{{name = "x", a = {MANY}}}'] * 3) + "]]"),
    "two sweeps of a billion": AXES.replace('["none"]', f'[[{{name = "x", a = {MANY}, b = {MANY}}}, "y"], "z"]'),
    "many seeds": AXES + 'seeds = "0-999999999999"',
    "seeds that repeat": AXES + 'seeds = "' + ",".join(["0-99999"] * 3 + ["100000"]) + '"',
    "many null models": AXES + "nulls = 1001",
    "more null models": AXES + "nulls = 9223372036854775807",
    "a name that is none": AXES.replace('["ewe"]', "[{name = 1979-05-27}]"),
    "a list of names": AXES.replace('["ewe"]', '[{name = ["ewe"]}]'),
    "a path": AXES.replace('["ewe"]', '["../../x"]'),
    "an absolute path": AXES.replace('["ewe"]', '["/etc/passwd"]'),
    "an escape sequence": AXES.replace('["ewe"]', '["\\u001b]0;title\\u0007"]'),
    "a value that is none": AXES.replace('["ewe"]', "[{name = 'ewe', weight = 1979-05-27}]"),
}


@pytest.mark.parametrize("text", HOSTILE_MATRICES.values(), ids=HOSTILE_MATRICES)
def test_a_hostile_matrix_is_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(MatrixError, match=r"mine\.toml: ") as caught:
        load_matrix(str(tmp_path / "mine.toml"))
    assert str(caught.value).isprintable() and len(str(caught.value)) < 3000


def test_the_largest_sweep_that_is_allowed_is_read(tmp_path: Path) -> None:
    hundred = "[" + ",".join(map(str, range(100))) + "]"
    text = AXES.replace('["none"]', f'[{{name = "x", a = {hundred}, b = {MANY}}}]')
    (tmp_path / "mine.toml").write_text(text + "nulls = 1000")
    assert len(load_matrix(str(tmp_path / "mine.toml")).attacks) == 100_000


def test_a_matrix_of_more_cells_than_anybody_runs_is_refused(builtin: Registry) -> None:
    seeds = tuple(range(100_000))
    schemes = (Entry("baseline"), Entry("ewe"), Entry("unmarked"))
    matrix = Matrix("m", (Entry("digits"),), schemes, ((Entry("none"),),), seeds, nulls=0)
    assert len(resolve(builtin, matrix).defenses) * len(seeds) <= MAX_CELLS
    for many in ({"nulls": 1000}, {"attacks": tuple((Entry("*"),) for _ in range(20))}):
        with pytest.raises(UsageError, match="of both together at most 1,000,000"):
            resolve(builtin, Matrix(**{**vars(matrix), **many}))


@pytest.mark.parametrize("glob", ["*" * 5000, "*a" * 5000, "?*" * 5000, "[" * 1000 + "*"])
def test_a_glob_does_not_explode(glob: str, builtin: Registry) -> None:
    with pytest.raises(UsageError):
        builtin.components("attack", [Entry(glob + "Z")])


@pytest.mark.parametrize("name", ["..", ".", "../../x", "../smoke", "/etc/passwd", "smoke/../smoke", "a\\b", "smoke\n"])
def test_a_preset_is_a_name_and_never_a_path(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a slash it is the path that the user typed, of a file that is not there."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError):
        load_matrix(name)


CALL = "__import__('os')"


@pytest.mark.parametrize("text", ["../mnist", "/etc/passwd", CALL, f"digits[architecture={CALL}]", "digits[ood=../x]x"])
def test_a_name_is_looked_up_and_nothing_else(text: str, builtin: Registry) -> None:
    with pytest.raises(UsageError):
        builtin.component("dataset", text)


# --- plugins ----------------------------------------------------------------------------------------------------------

EVIL = """
from pathlib import Path
(Path(__file__).parent / "ran").touch()
raise SystemExit("a stranger's file ran")
def harness_plugins(): ...
"""
HIDING_PLACES = ("evil.py", "plugins/evil.py", "_builtin/evil.py", "artifacts/evil.py", "artifacts/01/evil.py")


@pytest.fixture
def script() -> Path:
    """The installed command: ``python -m`` puts the current folder on the path, whatever module is named."""
    path = Path(sysconfig.get_path("scripts")) / "harness"
    if not path.exists():
        pytest.skip("the harness script is not installed here")
    return path


@pytest.fixture
def trap(finished: Path, tmp_path: Path) -> Path:
    """A results folder with Python files wherever somebody might look for plugins."""
    folder = tmp_path / "trap"
    shutil.copytree(finished, folder)
    for place in (*HIDING_PLACES, "numpy.py", "pandas.py", "sitecustomize.py", "harness.py", "click.py"):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_text(EVIL)
    (folder / "evil-1.dist-info").mkdir()
    (folder / "evil-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: evil\nVersion: 1\n")
    (folder / "evil-1.dist-info" / "entry_points.txt").write_text("[harness]\nevil = evil\n")
    return folder


@pytest.mark.parametrize("command", [("plugins", "list"), ("leaderboard",)])
def test_no_file_of_a_results_folder_or_of_the_current_one_is_a_plugin(
    command: tuple[str, ...], script: Path, trap: Path
) -> None:
    results = () if command == ("plugins", "list") else ("--results", ".")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    done = subprocess.run(
        [script, *command, *results], cwd=trap, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "not loaded" not in done.stderr, done.stderr
    assert list(trap.rglob("ran")) == []


def test_only_named_folders_are_searched(trap: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trap)
    registry = load_registry()
    assert registry.problems == [] and list(trap.rglob("ran")) == []
    assert {found.origin.partition(":")[0] for found in registry.found.values()} == {"built-in"}
    (problem,) = load_registry([trap / "plugins"]).problems
    assert problem.origin == f"{trap / 'plugins'}: evil.py"
    assert list(trap.rglob("ran")) == [trap / "plugins" / "ran"]


@pytest.mark.parametrize("kind", ["dataset", "defense", "attack", "architecture", "analysis"])
@pytest.mark.parametrize("name", ["evil", "./evil", "plugins/evil", "evil.py", "harness.planning.registry", "os"])
def test_a_name_that_is_not_registered_runs_nothing(
    kind: Any, name: str, trap: Path, builtin: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trap)
    with pytest.raises((UsageError, PluginError)):
        builtin.component(kind, name)
    assert list(trap.rglob("ran")) == []


@pytest.mark.slow
def test_a_run_and_its_worker_process_run_nothing_of_the_current_folder(script: Path, trap: Path) -> None:
    for module in ("multiprocessing", "pickle", "socket", "struct", "tempfile"):
        (trap / f"{module}.py").write_text(EVIL)
    command = [script, "run", *CELL, "--attack", "pruning", "--results", ".", "--stage-timeout", "100"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    done = subprocess.run(command, cwd=trap, env=environment, capture_output=True, text=True, check=False)
    assert list(trap.rglob("ran")) == []
    assert done.returncode == 0 and "1 ok" in done.stdout and "not loaded" not in done.stderr, done.stderr


# --- the source -------------------------------------------------------------------------------------------------------

UNPICKLING = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml", "copyreg"}
EVALUATING = {"eval", "exec", "compile", "__import__", "execfile"}
LOADING = {("torch", "load"), ("torch", "save"), ("np", "load"), ("numpy", "load"), ("pd", "read_pickle")}
LOADING |= {("os", "system"), ("os", "popen"), ("importlib", "import_module"), ("pandas", "read_pickle")}
IN_MEMORY = {
    "harness/running/processes.py": {"pickle"},
    "harness/testing.py": {"pickle"},
    "harness/modelfiles.py": {"pickle", "torch.load", "np.load"},
    "plugins/datasets/npz.py": {"np.load"},
    "harness/planning/by_value.py": {"pickle", "cloudpickle"},
    "harness/owning/suspects.py": {"importlib.import_module"},
    "harness/planning/loading.py": {"exec", "compile", "importlib.import_module"},
}
"""Pickles here go through a pipe to processes of our own, or nowhere: they never touch the disk. What is executed is
the plugin files of folders, and the suspects, that the user named. Files of weights and arrays are read without: see
:data:`SAFE`, which every call of their readers must say."""
SAFE = {"allow_pickle": False, "weights_only": True}
READERS = {("torch", "load"): "weights_only", ("np", "load"): "allow_pickle"}


def dangers(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            modules = names if isinstance(node, ast.Import) else [node.module or ""]
            yield from (module for module in modules if module.partition(".")[0] in UNPICKLING)
            yield from (f"{modules[0]}.{name}" for name in names if (modules[0], name) in LOADING)
        elif isinstance(node, ast.Name) and node.id in EVALUATING:
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if (node.value.id, node.attr) in LOADING or (node.value.id == "pickle" and node.attr in ("load", "dump")):
                yield f"{node.value.id}.{node.attr}"
        elif isinstance(node, ast.Call) and (unsafe := _unsafe(node)):
            yield unsafe
        elif isinstance(node, ast.keyword) and node.arg in (*SAFE, "shell") and not _is_safe(node):
            yield node.arg


def _is_safe(keyword: ast.keyword) -> bool:
    """True for a keyword whose value is written out, and the one that :data:`SAFE` asks for."""
    return isinstance(keyword.value, ast.Constant) and keyword.value.value is SAFE.get(keyword.arg, ...)


def _unsafe(call: ast.Call) -> str:
    """The keyword that a call of a reader lacks."""
    function = call.func
    if not (isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name)):
        return ""
    needed = READERS.get((function.value.id, function.attr), "")
    return needed if needed not in {each.arg for each in call.keywords} else ""


@pytest.mark.parametrize("folder", ["harness", "plugins"])
def test_nothing_unpickles_or_evaluates(folder: str) -> None:
    sources = sorted((ROOT / folder).rglob("*.py"))
    assert len(sources) > 10
    for path in sources:
        place = path.relative_to(ROOT).as_posix()
        found = set(dangers(ast.parse(path.read_text("utf-8"))))
        assert found - IN_MEMORY.get(place, set()) == set(), place


@pytest.mark.parametrize(
    "source",
    [
        *["import pickle", "from pickle import loads", "import torch\ntorch.load(x)", "eval('1')", "exec('1')"],
        *["import yaml", "from torch import load", "np.load(x, allow_pickle=True)", "import joblib", "pickle.load(f)"],
        *["subprocess.run(x, shell=True)", "from os import system", "__import__('os')", "f = eval", "import dill as d"],
    ],
)
def test_the_scan_sees_what_it_looks_for(source: str) -> None:
    assert list(dangers(ast.parse(source)))


def test_the_scan_lets_pass_what_is_harmless() -> None:
    source = "net.eval()\nspec.loader.exec_module(m)\nre.compile('x')\njson.loads(x)\ntomllib.load(f)\npickle.loads(b)"
    assert list(dangers(ast.parse(source))) == []


# --- the doors through which text leaves ------------------------------------------------------------------------------

HOSTILE = "\x1b[2J\u202ename\n\x07"


def every_error() -> list[type[HarnessError]]:
    found, left = [], [HarnessError]
    while left:
        found.append(left.pop())
        left += found[-1].__subclasses__()
    return found


@pytest.mark.parametrize("cls", every_error(), ids=lambda cls: cls.__name__)
def test_every_error_says_one_printable_line(cls: type[HarnessError]) -> None:
    if issubclass(cls, UnknownName):
        error: HarnessError = cls("plugin", HOSTILE, [HOSTILE])
    elif issubclass(cls, MissingData):
        error = cls("name", HOSTILE, download=True)
    else:
        error = cls(HOSTILE)
    assert str(error).isprintable() and "name" in str(error) and f"{error}" == str(error)


@pytest.mark.parametrize("err", [False, True])
def test_what_a_command_says_is_one_printable_line(err: bool, capsys: pytest.CaptureFixture[str]) -> None:
    say(f"a {HOSTILE}", err=err)
    say("b ", HOSTILE, err=err)
    out, other = capsys.readouterr()
    said = (other if err else out).split("\n")
    assert said == ["a \\x1b[2J\\u202ename\\n\\x07", "b \\x1b[2J\\u202ename", ""] and not (out if err else other)


def test_commands_print_by_say_but_for_json_constants_and_whole_tables() -> None:
    for path in sorted((ROOT / "harness" / "cli").glob("*.py")):
        if path.name == "text.py":
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "click.echo" and node.args:
                is_whole = any(keyword.arg == "nl" for keyword in node.keywords)
                is_json = ast.unparse(node.args[0]).startswith("json.dumps(")
                assert is_whole or is_json or isinstance(node.args[0], ast.Constant), f"{path.name}:{node.lineno}"
