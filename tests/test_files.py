"""Files and folders are written whole or not at all, and ``harness gc`` finds what a killed command left of them."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import files
from harness.cli.tables import write_whole
from harness.engine.profile import Timeline
from harness.figures import kinds
from harness.files import PARTIAL, partial_path, temporary_folder, whole_file, whole_folder
from harness.inspect.gc import GarbageCollector, Goes, prepared_copies
from harness.prepared import _write_prepared
from harness.storage.locks import Claims
from harness.storage.store import Store
from harness.storage.tables import Tables
from tests.conftest import TINY, Cli, command_line

ID = "0123456789abcdef" * 2


# --- the writers' own ---


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("before")
    with pytest.raises(ZeroDivisionError), whole_file(path) as partial:
        partial.write_text("half")
        assert path.read_text() == "before" and partial.parent == path.parent
        raise ZeroDivisionError
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]
    with whole_file(path) as partial:
        partial.write_text("after")
    assert path.read_text() == "after" and list(tmp_path.iterdir()) == [path]


def test_a_folder_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "above" / "a"
    with pytest.raises(ZeroDivisionError), whole_folder(folder) as partial:
        (partial / "half").touch()
        raise ZeroDivisionError
    assert not list(folder.parent.iterdir())
    with whole_folder(folder) as partial:
        (partial / "all").touch()
    assert [path.name for path in folder.iterdir()] == ["all"] and list(folder.parent.iterdir()) == [folder]
    with pytest.raises(OSError), whole_folder(folder) as partial:
        (partial / "other").touch()
    assert [path.name for path in folder.iterdir()] == ["all"] and list(folder.parent.iterdir()) == [folder]
    with temporary_folder(folder) as partial:
        assert partial.is_dir()
    assert not partial.exists()


@given(st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1).filter(lambda name: name != "."))
def test_a_partial_s_name_tells_what_it_was_to_be(name: str) -> None:
    path = Path("folder") / name
    partial = partial_path(path)
    found = PARTIAL.fullmatch(partial.name)
    assert found and found["name"] == path.name and partial != partial_path(path)


# --- what a kill leaves ---


class Killed(BaseException):
    """The end of a process, which nothing in it can clean up after."""


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Run something that is killed as it is about to give what it wrote its name."""

    def call(act: Callable[[], object]) -> None:
        def die(*_: object) -> None:
            raise Killed

        with monkeypatch.context() as patch, pytest.raises(Killed):
            for name in ("replace", "rename"):
                patch.setattr(Path, name, die)
            patch.setattr(Path, "unlink", lambda *_, **__: None)
            patch.setattr(files.shutil, "rmtree", lambda *_, **__: None)
            act()

    return call


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("finished") / "results"
    chosen = (
        "--dataset",
        TINY,
        "--defense",
        "baseline",
        "--attack",
        "none",
        "--seeds",
        "0",
        "--nulls",
        "1",
        "--no-innocents",
    )
    assert command_line("run", *chosen, "--results", results, "--quiet") == 0
    return results


@pytest.fixture
def results(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "results")
    return tmp_path / "results"


def command(*args: object) -> Callable[[Path], object]:
    """A command line, with the results folder in place of RESULTS."""
    return lambda results: command_line(*(str(arg).replace("RESULTS", str(results)) for arg in args))


def note(results: Path) -> None:
    Claims(results).try_acquire(ID, label="a stage")


def reproduced(results: Path) -> None:
    data = pd.DataFrame({"panel": "p", "series": "s", "seed": [0, 1], "label": "l", "value": [1.0, 2.0], "unit": "%"})
    kinds.draw("dots", data, "A picture", results / "figures" / "a.png")


WRITERS: dict[str, Callable[[Path], object]] = {
    "format": lambda results: Store(results / "new").prepare(),
    "artifact": lambda results: Store(results).save(ID, {"stage": ID}),
    "table": lambda results: Tables(results).append("cells", "run", [{"cell": "c"}]),
    "note": note,
    "timeline": lambda results: Timeline("a stage").write(results / "profiles" / "a.json.gz"),
    "output": lambda results: write_whole(results / "made" / "a.csv", lambda handle: handle.write(b"1")),
    "reproduce": reproduced,
    "figures": command("figures", "--results", "RESULTS"),
    "report": command("report", "--results", "RESULTS"),
    "record": command("record", "mine", "--results", "RESULTS", "--output", "RESULTS/records"),
    "export": command("export", f"{TINY} / baseline / none #0", "RESULTS/exported", "--results", "RESULTS"),
    "leaderboard": command(
        *("leaderboard", "--results", "RESULTS", "--format", "parquet", "--output", "RESULTS/board.parquet")
    ),
}


def unfinished(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if PARTIAL.fullmatch(path.name)]


def age(folder: Path) -> None:
    """Make all that lies there two hours older."""
    then = time.time() - 7200
    for path in folder.rglob("*"):
        os.utime(path, (then, then))


@pytest.mark.slow
@pytest.mark.parametrize("writer", WRITERS)
def test_gc_deletes_what_a_killed_writer_left_and_not_what_a_living_one_writes(
    writer: str, results: Path, killed: Any, cli: Cli
) -> None:
    if writer == "format":
        (results / "new").mkdir()
    killed(lambda: WRITERS[writer](results))
    left = unfinished(results)
    assert len(left) >= 1, "the writer gives no name of PARTIAL to what it writes"
    if writer != "artifact":  # whose claim tells, and not its age
        cli("gc", "--results", results, "--delete", code=0)
        assert unfinished(results) == left
    age(results)
    told = cli("gc", "--results", results, code=0).out
    assert f"partial    {len([p for p in left if not any(q in p.parents for q in left)]):6}  " in told, told
    assert unfinished(results) == left
    cli("gc", "--results", results, "--delete", code=0)
    assert not unfinished(results)
    assert (results / "format.json").exists() and len(Tables(results).read("cells")) == 1


def test_an_artifact_that_a_living_process_writes_stays(results: Path, killed: Any) -> None:
    killed(lambda: Store(results).save(ID, {"stage": ID}))
    age(results)
    assert [each.id for each in goes(results)] == [ID]
    with held_elsewhere(results):
        assert goes(results) == []


def held_elsewhere(results: Path) -> Any:
    from tests.test_status import held

    return held(results, ID)


def goes(results: Path) -> list[Goes]:
    return GarbageCollector(Store(results), Tables(results), Claims(results), [], time.time()).goes()


def test_prepared_copies_go_but_for_one_that_is_being_written(tmp_path: Path, killed: Any) -> None:
    import numpy as np

    killed(lambda: _write_prepared(tmp_path / "digits.safetensors", {"x": np.zeros(3)}))
    (left,) = unfinished(tmp_path)
    now = time.time()
    assert prepared_copies(tmp_path, now) == []
    assert [each.path for each in prepared_copies(tmp_path, now + 7200)] == [left]


def test_no_module_writes_partial_files_of_its_own() -> None:
    root = Path(files.__file__).parent
    own = {path.name for path in root.rglob("*.py") if ".partial" in path.read_text("utf-8")}
    assert own <= {"files.py"}


@pytest.fixture(autouse=True)
def no_claims_left(tmp_path: Path) -> Iterator[None]:
    yield
    shutil.rmtree(tmp_path / "results" / "claims", ignore_errors=True)
