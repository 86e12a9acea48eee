"""Names that a matrix file gives to data sets: they stand for them in every table, and ids do not depend on them."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from harness.errors import MatrixError, UnknownName, UsageError
from harness.planning.content import Contents
from harness.planning.matrix import Entry, Matrix, load_matrix, placeless
from harness.planning.registry import Registry, load_registry, resolve
from harness.storage.remote import read_table
from tests.conftest import ROOT, Cli

RECIPE = "epochs = 2\npretrain = 1\narchitecture = 'mlp'\ntrain = 60\nholdout = 20\npatch = 2\n"
MATRIX = 'defenses = ["baseline"]\nattacks = ["none"]\nnulls = 1\n\n'


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """180 real digits of three classes in a file."""
    arrays = load_registry().component("dataset", "digits").plugin.load(Path())
    some = np.flatnonzero(arrays.y_train < 3)[:180]
    path = tmp_path_factory.mktemp("own") / "digits.npz"
    np.savez(path, x=arrays.x_train[some], y=arrays.y_train[some])
    return path


@pytest.fixture
def digits(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(original, tmp_path / "digits.npz"))


Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, digits: Path) -> Write:
    """Writes a matrix file with tables of data sets."""

    def write(text: str = f'[datasets.mine]\nuse = "npz[path={digits}]"\n{RECIPE}', name: str = "m") -> Path:
        path = tmp_path / f"{name}.toml"
        path.write_text(MATRIX + text)
        return path

    return write


@pytest.fixture(scope="module")
def registry() -> Registry:
    return load_registry()


def texts(registry: Registry, matrix: Matrix) -> list[tuple[str, str]]:
    return [(use.text, use.stands_for) for use in resolve(registry, matrix).datasets]


# --- in a file --------------------------------------------------------------------------------------------------------


def test_tables_of_data_sets_are_the_axis(registry: Registry, write: Write) -> None:
    matrix = load_matrix(
        str(write('[datasets.a]\nuse = "digits[epochs=30]"\n[datasets.b]\nuse = "digits"\ntrain = 99\n'))
    )
    assert matrix.datasets == (Entry("a"), Entry("b"))
    assert texts(registry, matrix) == [("a", "digits[epochs=30]"), ("b", "digits[train=99]")]


def test_options_of_a_named_set_are_shown_where_they_are_others(registry: Registry, write: Write) -> None:
    load = load_matrix(str(write('[datasets.a]\nuse = "digits[epochs=30,train=99]"\n')))
    registry.name(load.names)
    for asked, text, meant in (
        ("a[train=99]", "a", "digits[train=99,epochs=30]"),
        ("a[train=50]", "a[train=50]", "digits[train=50,epochs=30]"),
        ("a[epochs=24]", "a[epochs=24]", "digits[train=99]"),
    ):
        use = registry.component("dataset", asked)
        assert (use.text, use.stands_for, use.identity) == (text, meant, meant)
        assert registry.component("dataset", use.text) == use
    with pytest.raises(UsageError, match="epoch"):
        registry.component("dataset", "a[epoch=3]")
    with pytest.raises(UnknownName, match="Did you mean 'a'|Known: a, "):
        registry.component("dataset", "aa")
    registry.name(())
    with pytest.raises(UnknownName):
        registry.component("dataset", "a")


def test_a_scale_may_have_another_set_of_the_same_name(registry: Registry, write: Write) -> None:
    text = '[datasets.a]\nuse = "digits"\n[datasets.b]\nuse = "photo-patches"\n[scales.one]\ndatasets = ["b"]\n'
    path = str(write(text + '[scales.small.datasets.a]\nuse = "digits[train=99]"\n'))
    assert texts(registry, load_matrix(path, "small")) == [("a", "digits[train=99]")]
    assert texts(registry, load_matrix(path, "one")) == [("b", "photo-patches")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[datasets.mine]\nepochs = 3\n", r"\[datasets.mine\] must say what it stands for"),
        ("[datasets]\nmine = 3\n", r"\[datasets.mine\] must say what it stands for"),
        ("[datasets.mine]\nuse = 3\n", r"\[datasets.mine\] must say what it stands for"),
        ('[datasets."a*"]\nuse = "digits"\n', r"'a\*' cannot be a name"),
        ('[datasets."a b"]\nuse = "digits"\n', "'a b' cannot be a name"),
        ('[datasets.mine]\nuse = "digits["\n', r"\[datasets.mine\]: cannot read 'digits\['"),
        ('[datasets.mine]\nuse = "digits"\nepochs = [3, 4]\n', "one value"),
        ("[datasets]\n", "datasets must be a list with at least one entry"),
    ],
)
def test_a_table_that_names_nothing_is_one_line(write: Write, text: str, words: str) -> None:
    with pytest.raises(MatrixError, match=words) as caught:
        load_matrix(str(write(text)))
    assert "\n" not in str(caught.value)


def test_names_that_are_taken_or_name_one_thing_twice_are_one_line(registry: Registry, write: Write) -> None:
    with pytest.raises(
        UsageError, match=r"\[datasets.mnist\] is the name of a data set already \(built-in: datasets/mnist"
    ):
        resolve(registry, load_matrix(str(write('[datasets.mnist]\nuse = "digits"\n'))))
    with pytest.raises(UsageError, match="a and b are the same data set: name one of them"):
        resolve(registry, load_matrix(str(write('[datasets.a]\nuse = "digits"\n[datasets.b]\nuse = "digits"\n'))))
    with pytest.raises(UnknownName, match="unknown dataset 'digit'. Did you mean 'digits'"):
        resolve(registry, load_matrix(str(write('[datasets.a]\nuse = "digit"\n'))))


@pytest.mark.parametrize(
    ("text", "without"),
    [
        ("npz[path=/a/b.npz,low=1]", "npz[low=1]"),
        ("npz[path=a]", "npz"),
        ("a[test_path=b,path=c,x=1]", "a[x=1]"),
        ("digits[epochs=3]", "digits[epochs=3]"),
        ("npz[path=", "npz[path="),
        ("a[ood=npz[path=c],path=d]", "a[ood=npz[path=c]]"),
    ],
)
def test_a_text_without_places(text: str, without: str) -> None:
    assert placeless(text) == without


def test_ids_depend_on_what_a_name_stands_for(registry: Registry, digits: Path, write: Write) -> None:
    registry.contents = Contents(None, lambda text: "", pytest.fail)
    try:
        made = []
        shutil.copy(digits, digits.with_name("copy.npz"))
        for name, path in (("mine", digits), ("ours", digits), ("mine", digits.with_name("copy.npz"))):
            registry._components.clear()
            (use,) = resolve(
                registry, load_matrix(str(write(f'[datasets.{name}]\nuse = "npz[path={path}]"\n')))
            ).datasets
            made.append(use)
        assert [use.text for use in made] == ["mine", "ours", "mine"]
        assert len({(use.identity, use.digest) for use in made}) == 1 and made[0].content
        assert registry.contents.known.keys() == {"mine", "ours"}
    finally:
        registry.contents = None


# --- on the command line ----------------------------------------------------------------------------------------------


def test_a_name_stands_for_its_set_in_tables_and_lines(write: Write, tmp_path: Path, digits: Path, cli: Cli) -> None:
    results = tmp_path / "results"
    asked = ("--matrix", write(), "--results", results)
    said = cli("run", *asked, code=0)
    assert "1 ok" in said.out and str(digits) not in said.out + said.err
    cells, stages = read_table(str(results), "cells"), read_table(str(results), "stages")
    assert cells["dataset"].tolist() == ["mine"] and set(stages["dataset"]) == {"mine"}
    assert not any("npz" in label for label in stages["label"])
    (options,) = map(json.loads, cells["options"])
    meant = f"npz[train=60,holdout=20,epochs=2,pretrain=1,architecture=mlp,patch=2,path={digits}]"
    assert options["names"].keys() == {"mine"} and options["dataset"]["path"] == str(digits)
    assert sorted(options["names"]["mine"][4:-1].split(",")) == sorted(meant[4:-1].split(","))
    assert f"mine is {options['names']['mine']}" in cli("plan", *asked, code=0).out
    assert "nothing to do" in cli("run", *asked, "--dataset", "mine", "--quiet", code=0).out
    assert "done" in cli("why", "mine / baseline / none #0", *asked, code=0).out
    assert "mine" in cli("leaderboard", "--results", results, code=0).out

    # Another name, and none, for the same: no stage runs again.
    for more in (write('[datasets.ours]\nuse = "npz[path=' + f'{digits}]"\n{RECIPE}', "ours"), None):
        named = ("--matrix", more) if more else ("--matrix", write(), "--dataset", options["names"]["mine"])
        said = cli("run", *named, "--results", results, "--quiet", code=0)
        assert "computed again" not in said.err and "ran" not in said.out
    cells = read_table(str(results), "cells")
    assert len(cells) == 3 and cells["model"].nunique() == 1

    # The same name for something else.
    other = write(f'[datasets.mine]\nuse = "npz[path={digits}]"\n{RECIPE.replace("60", "50")}', "other")
    for dry in ((), ("--dry-run",)):
        said = cli("run", "--matrix", other, "--results", results, "--quiet", *dry, code=2)
        assert (
            said.err.startswith("harness: the results have cells of mine that stood for npz[")
            and "train=50" in said.err
        )
    assert len(read_table(str(results), "cells")) == 3


def test_the_matrix_of_the_page_plans(tmp_path: Path, digits: Path, cli: Cli) -> None:
    page = (ROOT / "docs" / "own-data.md").read_text("utf-8")
    (text,) = re.findall(r"^```toml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert text.count("image-folder[path=~/flowers,size=32]") == 1
    path = tmp_path / "mine.toml"
    path.write_text(text.replace("image-folder[path=~/flowers,size=32]", f"npz[path={digits}]"))
    asked = ("--matrix", path, "--results", tmp_path / "results", "--dataset", "mine[epochs=40]", "--seeds", 0)
    said = cli("plan", *asked, code=0).out
    assert "datasets  mine[epochs=40]\n" in said and "mine[epochs=40] is npz[epochs=40" in said and "6 cells" in said


@pytest.mark.slow
def test_a_record_says_what_a_name_stands_for_and_is_run_again(write: Write, tmp_path: Path, cli: Cli) -> None:
    results, record = tmp_path / "results", tmp_path / "record"
    asked = ("--results", results, "--matrix", write())
    cli("run", *asked, "--nulls", 2, "--quiet", "--jobs", 2, code=0)
    cli("record", "mine", "--results", results, "--output", record, code=0)
    assert "mine is npz[" in (record / "README.md").read_text()
    few = ("--min-seeds", 1, "--min-nulls", 1)
    assert "accepted" in cli("submit", record, *few, "--replay", 1, code=0).out
    cli("export", "mine / baseline / none #0", tmp_path / "out", "--results", results, code=0)
    (tmp_path / "digits.npz").unlink()
    ended = cli("submit", record, *few, "--replay", 1, code=1)
    assert f"replay: npz: no {tmp_path}/digits.npz" in ended.out
