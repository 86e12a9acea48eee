"""A record of a real run is accepted, runs again to the same numbers, and each way of tampering with it is found."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from harness.record import _freeze, digests
from harness.tables import Tables
from tests.conftest import TINY, Cli

ENOUGH = ("--min-seeds", 2, "--min-nulls", 1)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder of a tiny run, and ``record`` beside it."""
    folder = tmp_path_factory.mktemp("recorded")
    chosen = ("--dataset", TINY, "--defense", "baseline", "--attack", "none", "--attack", "pruning")
    run = ("run", "--matrix", "smoke", *chosen, "--seeds", "0-1", "--nulls", "1", "--quiet")
    record = ("record", "A tiny run", "--command", "harness run --matrix smoke", "--output", folder / "record")
    for command in (run, record):
        words = map(str, (sys.executable, "-m", "harness", *command, "--results", folder / "results"))
        subprocess.run(list(words), check=True, capture_output=True)
    return folder


@pytest.fixture
def record(made: Path, tmp_path: Path) -> Path:
    """A copy to be tampered with."""
    return shutil.copytree(made / "record", tmp_path / "record")


def seal(record: Path) -> None:
    """Make the manifest true again, as whoever tampers would."""
    path = record / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"files": digests(record)}))


def change(record: Path, table: str, edit: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    frame = edit(Tables(record).read(table))
    shutil.rmtree(record / "tables" / table)
    _freeze(frame, table, record)
    seal(record)


def test_a_record_is_whole_reads_as_results_and_is_never_overwritten(made: Path, cli: Cli, tmp_path: Path) -> None:
    record = made / "record"
    names = {path.relative_to(record).as_posix() for path in record.rglob("*") if path.is_file()}
    assert {"README.md", "ids.json", "environment.json", "leaderboard.md", "figures/curves.svg"} <= names
    pd.testing.assert_frame_equal(Tables(record).read("cells"), Tables(made / "results").read("cells"))
    about = json.loads((record / "environment.json").read_text())
    assert about["command"] == "harness run --matrix smoke" and "torch" in about["measured_on"][0]
    ranking = cli("leaderboard", "--results", record, "--format", "markdown", code=0).out
    assert ranking == (record / "leaderboard.md").read_text()
    again = ("record", "x", "--results", made / "results", "--output", record)
    assert "never overwritten" in cli(*again, code=2).err
    cli("record", "x", "--results", tmp_path / "none", "--output", tmp_path / "out", code=2)
    assert not list(tmp_path.glob("*out*")), "a record that cannot be made leaves nothing"
    assert "letters or digits" in cli("record", "/../", "--results", made / "results", code=2).err


def test_an_honest_record_is_accepted_and_runs_again_to_the_same_numbers(made: Path, cli: Cli) -> None:
    before = digests(made / "record")
    assert "accepted" in cli("submit", made / "record", *ENOUGH, "--replay", 2, "--seed", 1, code=0).out
    assert json.loads(cli("submit", made / "record", *ENOUGH, "--json", code=0).out) == {
        "accepted": True,
        "findings": [],
    }
    assert digests(made / "record") == before


def test_too_few_seeds_and_nulls_are_found(made: Path, cli: Cli) -> None:
    said = cli("submit", made / "record", "--min-seeds", 3, "--min-nulls", 2, code=1).out
    assert "2 seeds that ended ok of 2, expected at least 3" in said and "1 null models, expected at least 2" in said


def linked(record: Path) -> None:
    (record / "ids.json").rename(record.parent / "elsewhere.json")
    (record / "ids.json").symlink_to(record.parent / "elsewhere.json")


def executable(record: Path) -> None:
    (record / "leaderboard.md").chmod(0o755)


def foreign(record: Path) -> None:
    (record / "setup.py").write_text("raise SystemExit")


def deep(record: Path) -> None:
    (record / "a" / "b" / "c" / "d").mkdir(parents=True)


def fifo(record: Path) -> None:
    os.mkfifo(record / "figures" / "pipe.svg")


def huge(record: Path) -> None:
    os.truncate(record / "README.md", 2**21)


def edited(record: Path) -> None:
    with (record / "leaderboard.md").open("a") as file:
        file.write("best of all")


def missing(record: Path) -> None:
    (record / "figures" / "curves.svg").unlink()


def torn(record: Path) -> None:
    path = record / "tables" / "cells" / "merged.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    seal(record)


def columns(record: Path) -> None:
    pd.DataFrame({"cell": ["a"]}).to_parquet(record / "tables" / "cells" / "merged.parquet")
    seal(record)


def counted(record: Path) -> None:
    change(record, "cells", lambda cells: cells.assign(null_trigger_matches=0, null_trigger_trials=1))


def accurate(record: Path) -> None:
    change(record, "cells", lambda cells: cells.assign(surrogate_accuracy=0.99))


def orphan(record: Path) -> None:
    change(record, "evidence", lambda rows: rows[rows["seed"] == 0])


def renamed(record: Path) -> None:
    known = json.loads((record / "ids.json").read_text())
    known[next(iter(known))]["seed"] += 1
    (record / "ids.json").write_text(json.dumps(known))
    seal(record)


def boasting(record: Path) -> None:
    page = (record / "README.md").read_text()
    (record / "README.md").write_text(re.sub(r'"false_rate": [\d.e-]+', '"false_rate": -1.0', page))


def scripted(record: Path) -> None:
    path = record / "figures" / "curves.svg"
    path.write_text(path.read_text().replace("</svg>", "<script>alert(1)</script></svg>"))
    seal(record)


@pytest.mark.parametrize(
    ("tamper", "found"),
    [
        (linked, "ids.json: no plain file"),
        (executable, "leaderboard.md: executable"),
        (foreign, "setup.py: no file of a record"),
        (deep, "a: no folder of a record"),
        (fifo, "figures/pipe.svg: no plain file"),
        (huge, "README.md: 2,097,152 bytes, expected at most"),
        (edited, "leaderboard.md: not the file of the manifest"),
        (missing, "figures/curves.svg: in the manifest and not in the folder"),
        (torn, "tables/cells: "),
        (columns, "tables/cells: "),
        (counted, "null trigger counts [0, 1] are not those of its evidence"),
        (accurate, "is not that of its evidence"),
        (orphan, "are not those of its evidence"),
        (renamed, "its id is no digest"),
        (boasting, "README.md: baseline: false_rate -1.0, the tables say"),
        (scripted, "figures/curves.svg: a picture that does more than show"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_tampering_is_found(tamper: Callable[[Path], None], found: str, record: Path, cli: Cli) -> None:
    tamper(record)
    said = cli("submit", record, *ENOUGH, code=1)
    assert found in said.out and "accepted" not in said.out


def test_a_consistent_lie_is_found_by_replay(record: Path, cli: Cli) -> None:
    """All tables, ids and numbers agree; only running it again tells."""
    from harness.record import board_of, numbers

    def control(rows: pd.DataFrame) -> pd.Series[bool]:
        return (rows["suspect"] == "surrogate") & (rows["probe"] == "control")

    change(record, "evidence", lambda rows: rows.assign(matches=rows["matches"] - control(rows)))
    name = "surrogate_control_matches"
    change(record, "cells", lambda rows: rows.assign(**{name: rows[name] - 1}))
    page = (record / "README.md").read_text()
    block = json.dumps(numbers(board_of(Tables(record))))
    (record / "README.md").write_text(re.sub(r"```json\n.*?\n```", f"```json\n{block}\n```", page, flags=re.DOTALL))
    cli("submit", record, *ENOUGH, code=0)
    assert name in cli("submit", record, *ENOUGH, "--replay", 4, code=1).out
