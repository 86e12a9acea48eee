"""A user's own data set whose files change: its results are addressed by content, and everybody is told."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest

import harness
from harness.contracts import is_published
from harness.planning.content import Contents
from harness.planning.registry import load_registry
from tests.conftest import Cli, without

PLUGIN = dedent("""
    import numpy as np
    from harness import Arrays, DataError, Dataset, InputSet

    def read(path):
        if not path.is_file():
            raise DataError(f"mine: no {path}")
        with np.load(path) as file:
            return Arrays(file["x_train"], file["y_train"], file["x_test"], file["y_test"])

    class Mine(Dataset):
        \"\"\"Samples from mine.npz.\"\"\"

        name = "mine"
        input_shape = (1, 8, 8)
        classes = ("a", "b", "c")
        available = 300
        train: int = 100
        holdout: int = 60
        epochs: int = 2
        pretrain: int = 1
        batch_size: int = 32
        source: int = 0
        target: int = 1
        patch: int = 2
        architecture: str = "mlp"
        ood: str = "others"

        def load(self, root):
            return read(root / "mine.npz")

    class Others(InputSet):
        \"\"\"Inputs from others.npz.\"\"\"

        name = "others"
        input_shape = (1, 8, 8)
        classes = ("x",)
        available = 200

        def load(self, root):
            return read(root / "others.npz")
""")


def write(folder: Path, name: str = "mine", *, seed: int = 0, shift: int = 0) -> None:
    """Write a set whose labels are moved by ``shift``; times and sizes are those of the file before."""
    rng = np.random.default_rng(seed)
    count, classes = (300, 3) if name == "mine" else (200, 1)
    y = np.arange(count) % classes
    x = (rng.integers(0, 60, (count, 1, 8, 8)) + 60 * y[:, None, None, None]).astype(np.uint8)
    y = (y + shift) % classes
    path = folder / f"{name}.npz"
    stat = path.stat() if path.exists() else None
    test = slice(0, 60 if name == "mine" else 0)
    np.savez(path, x_train=x, y_train=y, x_test=x[test], y_test=y[test])
    if stat:
        assert path.stat().st_size == stat.st_size
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


class Place:
    """A folder with a plugin, data and results, and the command line on them."""

    def __init__(self, folder: Path, cli: Cli) -> None:
        self.cli, self.data, self.plugins, self.results = cli, folder / "d ata", folder / "plugins", folder / "results"
        self.data.mkdir(), self.plugins.mkdir()
        (self.plugins / "mine.py").write_text(PLUGIN)
        write(self.data), write(self.data, "others")

    def options(self, *more: object) -> list[object]:
        narrowed = ("--matrix", "smoke", "--dataset", "mine", "--nulls", 1)
        return [*narrowed, "--plugins", self.plugins, "--data", self.data, "--results", self.results, *more]

    def run(self, *more: object, defense: str = "baseline", attack: str = "none", code: int = 0) -> Any:
        words = ["run", *self.options("--defense", defense, "--attack", attack, "--quiet", *more)]
        return self.cli(*words, code=code)

    def cells(self) -> Any:
        return harness.read_table(str(self.results), "cells")

    def stages(self) -> Any:
        return harness.read_table(str(self.results), "stages")


@pytest.fixture
def place(tmp_path: Path, cli: Cli) -> Place:
    return Place(tmp_path, cli)


def test_corrected_data_are_run_again_and_no_model_of_the_old_is_used(place: Place) -> None:
    place.run()
    old = set(place.stages()["stage"])
    write(place.data, shift=1)
    said = place.run("--seeds", "0,1")
    assert re.search(
        r"warning: the data of mine changed \(content [0-9a-f]{8} before, [0-9a-f]{8} now\): "
        r"1 cells here are of the old content, and this run computes 1 of them again\n",
        said.err,
    )
    new = place.stages()
    new = new[~new["stage"].isin(old)]
    assert "ran 13 stages" in said.out and len(new) == 13 and new["data_checksum"].nunique() == 1
    told = place.cells()["contents"]
    assert len(told) == 2 and told.nunique() == 1 and new["data_checksum"].dropna().iloc[0] in told[0]
    assert "nothing to do" in place.run("--seeds", "0,1").out
    assert "changed" not in place.run("--seeds", "0,1").err
    leaderboard = place.cli("leaderboard", "--results", place.results, code=0)
    assert "changed" not in leaderboard.out + leaderboard.err


def test_a_dry_run_status_and_why_say_what_changed_and_what_to_type(place: Place) -> None:
    place.run()
    write(place.data, shift=1)
    said = place.run("--dry-run")
    assert "1 cells here are of the old content, and this run computes 1 of them again" in said.err
    assert "6 to run" in said.out
    asked = place.options("--defense", "baseline", "--attack", "none")
    for words in (["status"], ["why", "mine / baseline / none #0"]):
        said = place.cli(*words, *asked, code=0)
        (line,) = [line for line in said.err.splitlines() if "the data of mine changed" in line]
        assert "and harness run " in line and "computes 1 of them again" in line and f"--data '{place.data}'" in line
        typed = line.partition("and harness run ")[2]
        assert all(option in typed for option in ("--matrix smoke", "--dataset mine", "--nulls 1"))
    (cause,) = re.findall(r"because .*", said.out)
    assert re.search(r"the data of mine changed \(content [0-9a-f]{8} before, [0-9a-f]{8} now\)", cause)
    assert "source" not in cause


def test_an_edit_and_other_data_are_both_told(place: Place, process: Cli) -> None:
    place.run()
    write(place.data, shift=1)
    (place.plugins / "mine.py").write_text(PLUGIN + "\nMORE = 1\n")
    said = process("why", "mine / baseline / none #0", *place.options("--defense", "baseline"), code=0)
    assert "the source of the dataset mine was edited (digest " in said.out
    assert ", and the data of mine changed (content " in said.out


def test_a_correction_that_is_reverted_finds_what_it_had(place: Place) -> None:
    place.run()
    first = place.cells()
    write(place.data, shift=1)
    place.run()
    write(place.data)
    assert "ran" not in place.run().out
    again = place.cells()
    assert again.drop(columns="run").equals(first.drop(columns="run"))


@pytest.mark.parametrize("attack", ["retraining[pool=others]", "fine-tuning[pool=ood]"])
def test_a_pool_that_changes_is_seen(attack: str, place: Place) -> None:
    place.run(attack=attack)
    write(place.data, "others", seed=1)
    said = place.run(attack=attack)
    assert "the data of others changed" in said.err and "computes 1 of them again" in said.err
    ran = place.stages().groupby("action")["stage"].count()
    # Only the attack on the victim and on the null model, what asks and what verifies them.
    assert ran["train"] == 2 and ran["embed"] == 1 and ran["attack"] == 4


def test_data_in_another_folder_rerun_nothing(place: Place) -> None:
    place.run()
    moved = place.data.parent / "moved"
    shutil.copytree(place.data, moved)
    shutil.rmtree(place.data)
    place.data = moved
    said = place.run()
    assert "nothing to do" in said.out and "warning" not in said.err


def test_without_the_files_plans_go_on_and_a_run_says_what_is_missing(place: Place) -> None:
    place.run()
    (place.data / "mine.npz").unlink()
    asked = place.options("--defense", "baseline", "--attack", "none")
    for words in (["status"], ["plan"], ["why", "mine / baseline / none #0"]):
        said = place.cli(*words, *asked, code=0)
        lines = [line for line in said.err.splitlines() if line]
        assert len(lines) == 1 and re.search(
            r"mine: no .*mine.npz: planned with the content of its latest results, [0-9a-f]{8}", lines[0]
        )
    assert "6 stored" in place.cli("plan", *asked, code=0).out
    assert "nothing to do" in place.run().out
    said = place.run("--seeds", "0,1", code=2)
    assert "harness: mine: no " in said.err
    place.results = place.results / "new"
    said = place.cli("plan", *place.options("--defense", "baseline", "--attack", "none"), code=0)
    assert "mine: no " in said.err and "planned without its content" in said.err


def test_gc_keeps_what_a_matrix_has_now(place: Place) -> None:
    place.run()
    before = {path.name for path in (place.results / "artifacts").glob("*/*")}
    write(place.data, shift=1)
    place.run()
    after = {path.name for path in (place.results / "artifacts").glob("*/*")} - before
    place.cli("gc", *place.options("--defense", "baseline", "--attack", "none"), "--delete", code=0)
    assert {path.name for path in (place.results / "artifacts").glob("*/*")} == after


def test_two_runs_in_one_process(place: Place) -> None:
    def run() -> harness.api.Run:
        return harness.run(
            "smoke", datasets="mine", defenses="baseline", attacks="none", nulls=1, jobs=1, progress=False,
            plugins=place.plugins, data=place.data, results=place.results,
        )  # fmt: skip

    first = run()
    assert first.outcome.ran == 6 and run().outcome.ran == 0
    write(place.data, shift=1)
    planned = harness.plan(
        "smoke", datasets="mine", defenses="baseline", attacks="none", nulls=1,
        plugins=place.plugins, data=place.data, results=place.results,
    )  # fmt: skip
    assert len(planned.todo) == 6
    second = run()
    assert second.outcome.ran == 6 and not second.failures
    assert set(second.cells()["cell"]).isdisjoint(cell.id for cell in first.plan.cells)


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
def test_files_that_change_while_it_runs_fail_what_would_read_them(
    jobs: int, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What planning loaded is what is run; a process that loads other content refuses it."""
    of = Contents.of

    def then_changed(self: Contents, text: str, dataset: Any) -> str:
        found = of(self, text, dataset)
        write(place.data, shift=1)
        return found

    monkeypatch.setattr(Contents, "of", then_changed)
    said = place.run("--jobs", jobs, code=0 if jobs == 1 else 1)
    if jobs == 1:
        assert place.stages()["data_checksum"].nunique() == 1 and "1 ok" in said.out
    else:
        assert "mine: its files changed since the run was planned (content " in said.err


@pytest.mark.slow
def test_planning_loads_each_set_once_and_only_what_is_not_published(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[str] = []
    load = np.load
    monkeypatch.setattr(np, "load", lambda path, *rest: counted.append(Path(path).name) or load(path, *rest))
    place.run("--dataset", "digits")
    assert counted == ["mine.npz"]  # the run has it from planning, and `others` is nobody's here


def test_planning_own_data_needs_no_torch(place: Place) -> None:
    place.run()
    asked = place.options("--defense", "baseline", "--attack", "none")
    without({"torch._C"}, ["plan", *asked], ["status", *asked], ["run", *asked, "--quiet"])


def test_ids_of_published_sets_have_no_content(tmp_path: Path) -> None:
    registry = load_registry()
    warned: list[str] = []
    registry.contents = Contents(tmp_path / "nowhere", lambda text: "", warned.append)
    for name in registry.names("dataset"):
        if not is_published(registry.found["dataset", name].cls):  # the user's own, which must be named
            continue
        assert not registry.component("dataset", name).content
    assert warned == []


# --- pages of cells of two contents -----------------------------------------------------------------------------------


@pytest.fixture
def mixed(place: Place) -> Place:
    """Seed 0 of the old data, seed 1 of the new."""
    place.run("--seeds", 0)
    write(place.data, shift=1)
    place.run("--seeds", 1)
    return place


NOTE = re.compile(
    r"The data of mine changed between these cells: 1 cell of content [0-9a-f]{8} and 1 cell of content [0-9a-f]{8}\. "
    r"To compute them from the same: harness run --dataset mine --defense baseline --attack none --seeds 0-1 --nulls 1 "
    r"--no-innocents \(with the --results, --plugins and --data of before\)"
)


@pytest.mark.slow
def test_every_page_of_two_contents_says_so_until_all_is_run_again(mixed: Place) -> None:
    asked = ("--results", mixed.results)
    pages: list[tuple[object, ...]] = [("leaderboard", *asked), ("leaderboard", "--details", *asked)]
    pages += [("leaderboard", "--format", style, *asked) for style in ("markdown", "latex", "csv", "json")]
    pages += [("figures", "--only", "success", *asked), ("record", "two", "--output", mixed.results / "two", *asked)]

    def told(*words: object) -> str:
        said = mixed.cli(*words, code=0)
        return " ".join((said.out + said.err).replace("\\{}", "").replace("-{}", "-").split())

    for words in pages:
        assert NOTE.search(told(*words)), words
    mixed.cli("report", *asked, code=0)
    assert NOTE.search((mixed.results / "report.html").read_text())
    assert NOTE.search((mixed.results / "two" / "leaderboard.md").read_text())
    assert NOTE.search(repr(harness.leaderboard(mixed.results)).replace("\n", " "))

    command = NOTE.search(told(*pages[0]))
    assert command is not None
    words = re.search(r"harness (run .*) \(with", command[0])
    assert words is not None
    where = ("--results", mixed.results, "--plugins", mixed.plugins, "--data", mixed.data, "--quiet")
    assert "2 cells" in mixed.cli(*words[1].split(), *where, code=0).out
    for words in pages[:-1]:
        assert "changed between" not in told(*words), words
    mixed.cli("record", "one", "--output", mixed.results / "one", *asked, code=0)
    said = mixed.cli("submit", mixed.results / "one", "--min-seeds", 2, "--min-nulls", 1, code=0)
    assert "accepted" in said.out
    said = mixed.cli("submit", mixed.results / "two", "--min-seeds", 2, "--min-nulls", 1, code=1)
    assert "data: mine was not the same for all cells: checksums" in said.out


def test_a_comparison_of_two_contents_says_so(place: Place) -> None:
    place.run("--seeds", 0)
    place.run("--seeds", 0, defense="adi")
    write(place.data, shift=1)
    place.run("--seeds", 0, defense="adi")
    said = place.cli("compare", "adi", "baseline", "--results", place.results, code=0)
    assert "The data of mine changed between these cells: 1 cell of content" in " ".join(said.out.split())
    assert harness.compare("adi", "baseline", results=place.results).comparison.notes


@pytest.mark.slow
def test_options_that_make_other_data_are_no_mix(place: Place) -> None:
    source = PLUGIN.replace("    class Others", "    class Others", 1).replace(
        'return read(root / "mine.npz")', 'return read(root / f"{self.file}.npz")'
    )
    source = source.replace("    ood: str", '    file: Literal["mine", "more"] = "mine"\n    ood: str')
    (place.plugins / "mine.py").write_text("from typing import Literal\n" + source)
    write(place.data, "mine"), shutil.copy(place.data / "mine.npz", place.data / "more.npz")
    write(place.data, "mine", seed=3)
    place.run("--dataset", "mine[file=more]")
    assert place.stages()["data_checksum"].nunique() == 2
    said = place.cli("leaderboard", "--results", place.results, code=0)
    assert "changed between" not in said.out
    place.cli("record", "x", "--results", place.results, "--output", place.results / "x", code=0)
    said = place.cli("submit", place.results / "x", "--min-seeds", 1, "--min-nulls", 1, code=0)
    assert "accepted" in said.out
