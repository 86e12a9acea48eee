"""What is cached or stored is addressed by all that decides it: a data set's options, the content of its files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness import Arrays, Dataset, InputSet
from harness.contracts import is_published
from harness.data import Data, prepared
from harness.errors import OptionError
from harness.planning.graph import text_digest
from harness.planning.matrix import Entry
from harness.planning.options import construct
from harness.planning.registry import load_registry
from harness.prepared import KEPT
from harness.testing import check_dataset
from tests.conftest import Cli

CPU = torch.device("cpu")
NOWHERE = Path("no-such-folder")
LOADED: list[Any] = []


class Shifted(Dataset):
    """Ten classes of constant images, moved by options."""

    name = "shifted"
    input_shape = (1, 2, 2)
    classes = ("a", "b")
    available = 40

    train: int = 20
    holdout: int = 10
    source: int = 0
    target: int = 1
    shift: int = 0
    mirrored: bool = False

    def load(self, root: Path) -> Arrays:
        LOADED.append(self)
        x = np.arange(160, dtype=np.uint8).reshape(40, 1, 2, 2) + np.uint8(self.shift)
        y = np.arange(40) % 2
        return Arrays(x[::-1] if self.mirrored else x, y, x[:4], y[:4])


class Published(Shifted):
    """The same, said to have one content."""

    name = "published"
    published = True

    def load(self, root: Path) -> Arrays:
        return super().load(root)


class Again(Published):
    """Another load, which must say for itself what it refuses."""

    name = "again"

    def load(self, root: Path) -> Arrays:
        return super().load(root)


# --- arrays -----------------------------------------------------------------------------------------------------------


def test_options_that_change_what_load_returns_have_data_of_their_own() -> None:
    data = Data(NOWHERE)
    plain, moved, other = Shifted(), Shifted(shift=3), Shifted(mirrored=True)
    assert int(data.arrays(moved).x_train[0, 0, 0, 0]) == 3 and int(data.arrays(plain).x_train[0, 0, 0, 0]) == 0
    assert int(data.arrays(other).x_train[0, 0, 0, 0]) == 156
    assert len({data.checksum(each) for each in (plain, moved, other)}) == 3
    for task in (plain, moved):
        assert data.other(task, task, CPU).x.min() == task.shift == data.test(task, CPU).x.min()
        assert data.splits(task, 0, CPU).train.x.min() >= task.shift


def test_a_sweep_over_the_recipe_holds_its_data_once() -> None:
    data = Data(NOWHERE)
    first, second = (data.arrays(Shifted(epochs=epochs)) for epochs in (20, 30))
    assert first is second


def test_a_published_set_is_loaded_once_for_all_recipes() -> None:
    data = Data(NOWHERE)
    LOADED.clear()
    assert data.arrays(Published(epochs=20)) is data.arrays(Published(epochs=30)) and len(LOADED) == 1
    data.arrays(Published(shift=1))
    assert len(LOADED) == 2  # an option of its own may yet change what it loads


@pytest.mark.parametrize("values", [(1, True), (1, 1.0), (0, False), (0.0, -0.0), ("1", 1), (None, "None")])
def test_equal_values_of_other_types_are_told_apart(values: tuple[Any, Any]) -> None:
    class Either(Shifted):
        """Any value."""

        name = "either"
        value: Any = 5

        def load(self, root: Path) -> Arrays:
            whole = super().load(root)
            moved = np.uint8(repr(self.value) == repr(values[1]))
            return Arrays(whole.x_train + moved, whole.y_train, whole.x_test, whole.y_test)

    data = Data(NOWHERE)
    first, second = (data.arrays(Either(value=value)) for value in values)
    assert not np.array_equal(first.x_train, second.x_train)


@given(st.text(max_size=8), st.text(max_size=8), st.text(max_size=8), st.text(max_size=8))
def test_two_sets_of_options_never_share_a_text(a: str, b: str, c: str, d: str) -> None:
    class Texts(Dataset):
        """Two texts."""

        name = "texts"
        input_shape = (1, 2, 2)
        classes = tuple("0123456789")
        available = 2000
        first: str = "x"
        second: str = "y"

        def load(self, root: Path) -> Arrays:
            raise NotImplementedError

    from harness.planning.graph import describe

    made = []
    for one, other in ((a, b), (c, d)):
        try:
            made.append(construct(Texts, Entry("texts", (("first", one), ("second", other)))))
        except OptionError:
            return
    assert (describe(made[0]) == describe(made[1])) == (made[0] == made[1])


def test_a_text_that_would_read_as_another_option_is_refused(tmp_path: Path) -> None:
    from harness.planning.matrix import parse_entry

    registry = load_registry()
    with pytest.raises(OptionError, match="expected text"):
        registry.component("dataset", Entry("digits", (("ood", "mnist,patch=3"),)))
    assert registry.component("dataset", parse_entry("digits[ood=mnist,patch=3]")).plugin.patch == 3


# --- published --------------------------------------------------------------------------------------------------------


def test_a_class_with_another_load_is_published_only_if_it_says_so() -> None:
    assert [is_published(cls) for cls in (Shifted, Published, Again)] == [False, True, False]
    registry = load_registry()
    sets = {name: registry.found["dataset", name].cls for name in registry.names("dataset")}
    own = {"audio-folder", "image-folder", "npz", "parquet"}
    assert {name for name, cls in sets.items() if not is_published(cls)} == own and not is_published(InputSet)


def test_saying_published_changes_no_digest_of_source() -> None:
    source = "class A:\n    name = 'a'\n    def load(self):\n        published = 1\n        return published\n"
    said = source.replace("name = 'a'", "name = 'a'\n    published = True")
    assert text_digest(source.encode()) == text_digest(said.encode())
    assert text_digest(source.encode()) != text_digest(source.replace("= 1", "= 2").encode())


# --- harness plugins check --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_check_loads_with_each_added_option_changed() -> None:
    check_dataset(Shifted)
    LOADED.clear()
    check_dataset(Shifted)
    assert {(each.shift, each.mirrored) for each in LOADED} == {(0, False), (1, False), (0, True)}


PROBLEMS = {
    "arrays": ("x_train[:-1], y_train[:-1], x_test, y_test", "with bad=true: 39 training samples"),
    "labels": ("x_train, y_train * 0, x_test, y_test", "with bad=true: train labels must cover"),
    "error": ("1 / 0", "with bad=true: ZeroDivisionError"),
    "exit": ("exit(3)", "with bad=true: SystemExit: 3"),
}


@pytest.mark.slow
@pytest.mark.parametrize("which", PROBLEMS)
def test_check_names_the_option_that_breaks_a_set(which: str, tmp_path: Path, cli: Cli) -> None:
    expression, message = PROBLEMS[which]
    (tmp_path / "mine.py").write_text(OPTION.replace("EXPRESSION", expression))
    said = cli("plugins", "check", "mine", "--plugins", tmp_path, code=1)
    assert message in (said.out + said.err).replace("mine: ", "")


OPTION = dedent("""
    import numpy as np
    from harness import Arrays, Dataset

    class Mine(Dataset):
        \"\"\"A set whose option may break it.\"\"\"

        name = "mine"
        input_shape = (1, 2, 2)
        classes = ("a", "b")
        available = 40
        train: int = 20
        holdout: int = 10
        source: int = 0
        target: int = 1
        bad: bool = False

        def load(self, root):
            x_train = np.arange(160, dtype=np.uint8).reshape(40, 1, 2, 2)
            y_train = np.arange(40) % 2
            x_test, y_test = x_train[:4], y_train[:4]
            if self.bad:
                return Arrays(EXPRESSION)
            return Arrays(x_train, y_train, x_test, y_test)
""")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["x_train", "y_train", "x_test", "y_test"])
def test_check_sees_that_a_second_load_differs(name: str, tmp_path: Path, cli: Cli) -> None:
    changed = "RUNS = []\n" + OPTION.replace(
        "        if self.bad:",
        f"        RUNS.append(1)\n        {name} = {name}[::-1] if len(RUNS) % 2 else {name}\n        if self.bad:",
    ).replace("EXPRESSION", "x_train, y_train, x_test, y_test")
    (tmp_path / "mine.py").write_text(changed)
    said = cli("plugins", "check", "mine", "--plugins", tmp_path, code=1)
    assert f"loading it twice gives different data ({name})" in said.out + said.err


# --- prepared copies --------------------------------------------------------------------------------------------------


@dataclass
class Kept:
    """Files, and a count of how often something was made from them."""

    folder: Path
    made: int = 0

    def ask(self, name: str = "toy", settings: object = 1) -> str:
        """The files' content, as it was prepared."""
        files = sorted(self.folder.rglob("*.bin"), reverse=True)

        def make() -> Mapping[str, np.ndarray]:
            self.made += 1
            return {"x": np.frombuffer(b"|".join(path.read_bytes() for path in sorted(files)), np.uint8)}

        return prepared(name, settings, files, make)["x"].tobytes().decode()


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kept]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("a/1.bin", "b/1.bin"):
        (tmp_path / "set" / name).parent.mkdir(parents=True)
        (tmp_path / "set" / name).write_text(name[0])
    yield Kept(tmp_path / "set")


def test_other_content_of_the_same_size_and_time_is_seen(kept: Kept) -> None:
    assert kept.ask() == kept.ask() == "a|b" and kept.made == 1
    path = kept.folder / "a/1.bin"
    stat = path.stat()
    path.write_text("c")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert kept.ask() == "c|b" and kept.made == 2


def test_files_of_one_name_that_change_places_are_seen(kept: Kept) -> None:
    kept.ask()
    (kept.folder / "a/1.bin").write_text("b"), (kept.folder / "b/1.bin").write_text("a")
    assert kept.ask() == "b|a" and kept.made == 2


def test_a_set_that_moved_or_was_touched_is_not_prepared_again(kept: Kept) -> None:
    kept.ask()
    moved = kept.folder.parent / "elsewhere" / "deep"
    shutil.copytree(kept.folder, moved)
    kept.folder = moved
    os.utime(moved / "a/1.bin", ns=(1, 1))
    assert kept.ask() == "a|b" and kept.made == 1


def test_versions_in_turn_are_kept_and_the_oldest_goes(kept: Kept, tmp_path: Path) -> None:
    for _ in range(3):
        for settings in range(KEPT):
            kept.ask(settings=settings)
    assert kept.made == KEPT
    kept.ask("toy-other")
    kept.ask(settings=0)  # used again, so it is not the oldest
    kept.ask(settings=KEPT)
    copies = list((tmp_path / "cache").rglob("toy-*.safetensors"))
    assert len(copies) == KEPT + 1
    kept.ask(settings=0)
    assert kept.made == KEPT + 2
    kept.ask(settings=1)
    assert kept.made == KEPT + 3


def test_a_file_that_cannot_be_read_is_one_line(kept: Kept) -> None:
    from harness import DataError

    (kept.folder / "a/2.bin").symlink_to(kept.folder / "nothing")
    with pytest.raises(DataError, match=r"toy: .*2\.bin cannot be read"):
        kept.ask()
