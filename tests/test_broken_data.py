"""A data set that breaks fails its own cells, and the run goes on; files that are missing end it at its start."""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import dedent

import pytest

import harness
from tests.conftest import TINY, Cli, Ended

PLUGIN = dedent("""
    import numpy as np
    from harness import Arrays, DataError, Dataset, InputSet

    class Base(Dataset):
        \"\"\"Base of the sets.\"\"\"

        input_shape = (1, 8, 8)
        classes = tuple("0123456789")
        available = 300
        train: int = 200
        holdout: int = 100
        epochs: int = 2
        pretrain: int = 1
        architecture: str = "mlp"

        def whole(self, count=300):
            x = np.zeros((count, 1, 8, 8), np.uint8)
            return Arrays(x, np.arange(count) % 10, x[:20], np.arange(20) % 10)

        def load(self, root):
            return self.whole()
""")


def one(name: str, body: str) -> str:
    lines = "".join(f"            {line}\n" for line in body.split("; "))
    return f'\nclass {name.title()}(Base):\n    """One."""\n\n    name = "{name}"\n\n    def load(self, root):\n{lines}'


BROKEN = {
    "count": ("return self.whole(310)", "count: 310 training samples, declared 300"),
    "raises": ("return {}['x']", "raises: load: KeyError: 'x'"),
    "leaves": ("raise SystemExit(0)", "leaves: load: it called sys.exit(0)"),
    "interrupts": ("raise KeyboardInterrupt", "interrupts: load: it raised KeyboardInterrupt"),
    "nothing": ("pass", "nothing: load must return an Arrays, not NoneType"),
    "tuple": ("return tuple(vars(self.whole()).values())", "tuple: load must return an Arrays, not tuple"),
    "lists": ("return Arrays([], [], [], [])", "lists: its arrays: AttributeError"),
    "empty": (
        "w = self.whole(); return Arrays(w.x_train[:0], w.y_train[:0], w.x_test, w.y_test)",
        "empty: train labels",
    ),
    "filenotfound": ("open(root / 'no-such-file')", "filenotfound: load: FileNotFoundError"),
}


def run(cli: Cli, folder: Path, source: str, *datasets: str, code: int) -> Ended:
    (folder / "plugins").mkdir(exist_ok=True)
    (folder / "plugins" / "sets.py").write_text(PLUGIN + source)
    named = [word for name in datasets for word in ("--dataset", name)]
    rest = ("--defense", "baseline", "--attack", "none", "--nulls", 1, "--no-innocents", "--quiet")
    where = ("--plugins", folder / "plugins", "--results", folder / "results")
    return cli("run", "--matrix", "smoke", *named, *rest, *where, code=code)


@pytest.mark.slow
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_set_fails_its_cells_and_is_named(name: str, tmp_path: Path, cli: Cli) -> None:
    body, message = BROKEN[name]
    said = run(cli, tmp_path, one(name, body), name, TINY, code=1)
    assert f"failed: {name} / baseline / none #0: {message}" in said.err and "1 failed, 1 ok" in said.out
    cells = harness.read_table(tmp_path / "results", "cells").set_index("dataset")
    assert cells.loc[name, "reason"].startswith(message) and cells.loc[name, "status"] == "failed"
    assert cells.loc[TINY, "status"] == "ok"
    assert f"warning: {message}" in said.err and ": its cells fail\n" in said.err


def test_all_sets_may_be_broken(tmp_path: Path, cli: Cli) -> None:
    source = one("raises", BROKEN["raises"][0]) + one("leaves", BROKEN["leaves"][0])
    said = run(cli, tmp_path, source, "raises", "leaves", code=1)
    assert "2 cells (2 failed)" in said.out


def test_a_broken_pool_fails_the_attacks_that_draw_from_it(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "sets.py").write_text(PLUGIN + one("raises", BROKEN["raises"][0]))
    said = cli(
        *("run", "--matrix", "smoke", "--dataset", TINY, "--defense", "baseline", "--nulls", 1, "--no-innocents"),
        *("--attack", "none", "--attack", "retraining[pool=raises]", "--quiet"),
        *("--plugins", tmp_path / "plugins", "--results", tmp_path / "results"),
        code=1,
    )
    assert "1 failed, 1 ok" in said.out and "raises: load: KeyError" in said.err


def test_a_set_that_is_mended_runs(tmp_path: Path, cli: Cli) -> None:
    run(cli, tmp_path, one("raises", BROKEN["raises"][0]), "raises", code=1)
    said = run(cli, tmp_path, one("raises", "return self.whole()"), "raises", code=0)
    assert "1 cells (1 ok)" in said.out


def test_missing_sets_are_a_short_line_each_and_end_the_run(tmp_path: Path, cli: Cli) -> None:
    source = one("absent", "raise DataError('absent: no file here')") + one("raises", BROKEN["raises"][0])
    (tmp_path / "data").mkdir()
    (tmp_path / "plugins").mkdir()
    said = run(cli, tmp_path, source, "absent", "raises", TINY, code=2)
    assert "harness: absent: no file here\n" in said.err and not (tmp_path / "results" / "artifacts").exists()
    said = cli(
        *("run", "--matrix", "smoke", "--dataset", "mnist", "--dataset", "cifar-10", "--defense", "ewe"),
        *("--attack", "none", "--results", tmp_path / "results", "--data", tmp_path / "data"),
        code=2,
    )
    *facts, last = said.err.splitlines()
    assert [re.split(r"[:,]", fact)[1].strip() for fact in facts] == ["mnist", "fashion-mnist", "cifar-10", "svhn"]
    assert all(len(fact) < 60 + 3 * len(str(tmp_path)) for fact in facts)
    assert last.endswith("or type: harness data fetch mnist fashion-mnist cifar-10 svhn")


def test_the_list_says_once_what_to_type(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "sets.py").write_text(PLUGIN + one("raises", BROKEN["raises"][0]))
    said = cli("data", "list", "--data", tmp_path, "--plugins", tmp_path / "plugins", code=0).out
    assert re.search(r"raises +broken: load: KeyError: 'x'\n", said)
    assert re.search(r"mnist +missing: no train-images-idx3-ubyte.gz in ", said)
    assert re.search(r"image-folder +your own files: image-folder\[path=...\]\n", said)
    assert said.count("--data DIR") == 1 and "harness data fetch cifar-10 cifar-100 fashion-mnist mnist" in said
