"""One cell as a folder for somebody else: whole or not at all, loadable, and without the key where that is asked."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import harness
from harness.data import Data
from harness.errors import UsageError
from harness.inspect.export import find_cell
from harness.metrics import accuracy
from harness.planning.graph import EMBED
from harness.planning.registry import load_registry
from harness.storage.store import Store
from harness.storage.tables import Tables
from tests.conftest import TINY, Cli, Ended, command_line
from tests.history import planned, store_plan
from tests.test_session import SCHEME, arguments

CELL = f"{TINY} / ewe / {{}} #0"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with a victim, and what attacks left of it."""
    folder = tmp_path_factory.mktemp("exported")
    (folder / "plugins").mkdir()
    (folder / "plugins" / "noise.py").write_text(SCHEME)
    attacks = ("none", "pruning", "query-filter", "noise[fault=raises]")
    args = [*arguments(folder / "results", *attacks, defense="ewe"), "--plugins", folder / "plugins", "--quiet"]
    assert command_line("run", *args) == 1  # one of them fails
    return folder / "results"


def exported(cli: Cli, results: Path, attack: str, folder: Path, *args: object, code: int = 0) -> Ended:
    return cli("export", CELL.format(attack), folder, "--results", results, *args, code=code)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_cell_is_exported_with_all_that_tells_of_it(cli: Cli, results: Path, tmp_path: Path) -> None:
    said = exported(cli, results, "pruning", tmp_path / "a" / "out").out
    assert "wrote " in said and "key.safetensors is the owner's secret" in said
    assert names(tmp_path / "a") == {"out"}
    files = {"victim.safetensors", "surrogate.safetensors", "key.safetensors"}
    assert names(tmp_path / "a" / "out") == {*files, "cell.json", "README.md"}
    about = json.loads((tmp_path / "a" / "out" / "cell.json").read_text())
    row = harness.read_table(results, "cells").set_index("attack").loc["pruning"]
    assert about["cell"] == row["cell"] and about["defense"] == "ewe" and about["seed"] == 0
    assert about["surrogate"]["stage"] == row["model"] and about["surrogate"]["accuracy"] == row["surrogate_accuracy"]
    assert about["victim"]["accuracy"] == row["victim_accuracy"]
    assert about["victim"]["inputs"]["plugin"].startswith("defense ewe ")
    assert {count["suspect"] for count in about["evidence"]} == {"victim", "surrogate", "null", "attacked"}
    for name in files:
        digest = hashlib.sha256((tmp_path / "a" / "out" / name).read_bytes()).hexdigest()
        assert about["sha256"][name] == digest


def test_an_exported_model_answers_as_the_one_that_was_measured(cli: Cli, results: Path, tmp_path: Path) -> None:
    exported(cli, results, "pruning", tmp_path / "out")
    about = json.loads((tmp_path / "out" / "cell.json").read_text())
    test = Data(tmp_path).test(load_registry().component("dataset", TINY).plugin, torch.device("cpu"))
    with torch.inference_mode():
        for name in ("victim", "surrogate"):
            net = harness.load_model(tmp_path / "out" / f"{name}.safetensors")
            assert accuracy(net(test.x).argmax(1), test.y) == pytest.approx(about[name]["accuracy"])
        key = load_file(tmp_path / "out" / "key.safetensors")
        victim = harness.load_model(str(tmp_path / "out" / "victim.safetensors"))
        matches = int((victim(key["probe/trigger/x"]).argmax(1) == key["probe/trigger/y"]).sum())
    assert matches == about["victim_trigger_matches"] > 0


@pytest.mark.slow
def test_what_the_page_in_the_folder_says_to_type_works(cli: Cli, results: Path, tmp_path: Path) -> None:
    exported(cli, results, "none", tmp_path / "out")
    page = (tmp_path / "out" / "README.md").read_text()
    assert CELL.format("none") in page and "the owner's secret" in page and "the surrogate is the victim itself" in page
    assert set(re.findall(r"^\| `([\w.]+)`", page, re.MULTILINE)) == names(tmp_path / "out") - {"README.md"}
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL))
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "out", capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    about = json.loads((tmp_path / "out" / "cell.json").read_text())
    rates = {f"{e['probe']} {e['matches'] / e['trials']:.4f}" for e in about["evidence"] if e["suspect"] == "victim"}
    assert rates == {re.sub(r"[\d.]+$", lambda n: f"{float(n[0]):.4f}", line) for line in ended.stdout.splitlines()}


def test_the_key_stays_at_home_when_that_is_asked(cli: Cli, results: Path, tmp_path: Path) -> None:
    said = exported(cli, results, "none", tmp_path / "out", "--without-key").out
    assert "key.safetensors" not in said and "key.safetensors" not in names(tmp_path / "out")
    page = (tmp_path / "out" / "README.md").read_text()
    assert "key.safetensors" not in page and "The owner's key is not in here" in page
    (victim,) = (p for p in (tmp_path / "out").iterdir() if p.name == "victim.safetensors")
    assert not any("/" in name for name in load_file(victim))


def test_a_filter_in_front_of_the_surrogate_goes_along(cli: Cli, results: Path, tmp_path: Path) -> None:
    exported(cli, results, "query-filter", tmp_path / "out")
    assert all(name.startswith("guard/") for name in load_file(tmp_path / "out" / "guard.safetensors"))
    assert json.loads((tmp_path / "out" / "cell.json").read_text())["surrogate"]["guard"] == "query-filter"


def test_a_cell_is_found_by_the_beginning_of_its_id(results: Path) -> None:
    store, tables = Store(results), Tables(results)
    found = find_cell(store, tables, CELL.format("pruning"))
    assert find_cell(store, tables, found.row["cell"][:8]).row == found.row


# --- what is refused ---


def test_a_folder_that_is_not_empty_is_left_alone(cli: Cli, results: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    (tmp_path / "empty").mkdir()
    assert "is not empty: choose another folder" in exported(cli, results, "none", tmp_path / "mine", code=2).err
    for name in ("file", "link"):
        assert "is no folder: choose another" in exported(cli, results, "none", tmp_path / name, code=2).err
    assert "cannot write " in exported(cli, results, "none", tmp_path / "file" / "below", code=2).err
    assert names(tmp_path / "mine") == {"notes.txt"} and names(tmp_path) == {"mine", "file", "link", "empty"}
    exported(cli, results, "none", tmp_path / "empty")
    assert "victim.safetensors" in names(tmp_path / "empty")


def test_a_cell_that_failed_or_is_not_there_is_one_line(cli: Cli, results: Path, tmp_path: Path) -> None:
    failed = exported(cli, results, "noise[fault=raises]", tmp_path / "out", code=2).err
    assert " failed, so there is nothing to export: noise[fault=raises]: RuntimeError: the attack broke" in failed
    unknown = exported(cli, results, "prunin", tmp_path / "out", code=2).err
    assert f"unknown cell '{CELL.format('prunin')}'. Did you mean '{CELL.format('pruning')}'?" in unknown
    nowhere = cli("export", "digits", tmp_path / "out", "--results", tmp_path / "none", code=2).err
    assert all(len(said.splitlines()) == 1 for said in (failed, unknown, nowhere)) and not names(tmp_path)


def test_models_that_are_not_stored_or_do_not_tell_their_victim_are_one_line(tmp_path: Path) -> None:
    plan = planned(load_registry())
    store, tables = Store(tmp_path), Tables(tmp_path)
    store_plan(tmp_path, plan, inputs=None)
    with pytest.raises(UsageError, match="an older harness wrote the record of its model"):
        find_cell(store, tables, "digits / ewe / none #0")
    (store.path(dict(plan.cells[0].stages)[EMBED]) / "record.json").write_text("{}")
    with pytest.raises(UsageError, match="is not stored .*: run its matrix with --rerun all"):
        find_cell(store, tables, "digits / ewe / none #0")


@pytest.mark.parametrize("metadata", [None, {"watermark-harness": "{"}, {"watermark-harness": "null"}])
def test_a_file_that_is_no_exported_model_is_refused(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors", metadata)
    (tmp_path / "b.safetensors").write_bytes(b"no tensors")
    for name in ("a", "b"):
        with pytest.raises(UsageError, match="is no model that harness export wrote: "):
            harness.load_model(tmp_path / f"{name}.safetensors")
    with pytest.raises(UsageError, match="cannot read "):
        harness.load_model(tmp_path / "c.safetensors")


def test_weights_that_do_not_fit_the_architecture_are_refused(tmp_path: Path) -> None:
    told = {"architecture": "cnn", "input_shape": [1, 8, 8], "classes": 10}
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors", {"watermark-harness": json.dumps(told)})
    with pytest.raises(UsageError, match="is no model that harness export wrote: "):
        harness.load_model(tmp_path / "a.safetensors")
