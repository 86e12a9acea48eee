"""A record of a real run is accepted, runs again to the same numbers, and each way of tampering with it is found.

Whoever tampers makes all that follows true again (checksums, numbers, versions), so each finds one line and no other.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from harness.cli import cli as group
from harness.planning.graph import derive_seed, make_id
from harness.planning.inputs import ORDER
from harness.planning.registry import load_registry
from harness.records.check import _enough, _is_alike, _other_line
from harness.records.freeze import _compared_with, _freeze, board_of, digests, measured, numbers, report
from harness.records.replay import Replayed, compare
from harness.running.checkout import commit
from harness.storage.tables import Tables
from tests.conftest import ROOT, TINY, Cli
from tests.verdict_tables import World

pytestmark = pytest.mark.slow

ENOUGH = ("--min-seeds", 2, "--min-nulls", 1)
POOL = "retraining[pool=photo-patches]"
DETECTOR = "neural-cleanse[steps=10]"


def run(*words: object) -> None:
    """The command line in this process, for a fixture of the module."""
    done = CliRunner().invoke(group, [str(word) for word in words], standalone_mode=False)
    assert done.exception is None and not done.return_value, done.output


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder of a tiny run, and ``record`` beside it."""
    folder = tmp_path_factory.mktemp("recorded")
    chosen = ("--dataset", TINY, "--defense", "baseline", "--seeds", "0-1", "--nulls", "1", "--no-innocents")
    attacks = [word for attack in ("none", "pruning", POOL, DETECTOR) for word in ("--attack", attack)]
    results = ("--results", folder / "results")
    run("run", "--matrix", "smoke", *chosen, *attacks, "--quiet", *results)
    run("record", "A tiny run", "--command", "harness run --matrix smoke", "--output", folder / "record", *results)
    return folder


@pytest.fixture
def record(made: Path, tmp_path: Path) -> Path:
    """A copy to be tampered with."""
    return shutil.copytree(made / "record", tmp_path / "record")


# --- what whoever tampers makes true again ---


def seal(record: Path) -> None:
    """The manifest."""
    path = record / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"files": digests(record)}))


def settle(record: Path) -> None:
    """The numbers, the versions and the manifest."""
    tables = Tables(record)
    page, block = (record / "README.md").read_text(), json.dumps(numbers(board_of(tables)))
    (record / "README.md").write_text(re.sub(r"```json\n.*?\n```", f"```json\n{block}\n```", page, flags=re.DOTALL))
    say(record, **measured(tables.read("stages"), tables.read("cells")))
    seal(record)


def say(record: Path, **said: Any) -> None:
    """In ``environment.json``."""
    path = record / "environment.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | said))


def make_pages(record: Path, cli: Cli) -> None:
    """The ranking and the report."""
    (record / "leaderboard.md").write_text(cli("leaderboard", "--results", record, "--format", "markdown", code=0).out)
    environment = json.loads((record / "environment.json").read_text())
    (record / "report.html").write_text(report(Tables(record), environment, load_registry()))
    seal(record)


def change(record: Path, table: str, edit: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    frame = edit(Tables(record).every_row(table))
    shutil.rmtree(record / "tables" / table)
    _freeze(frame, table, record)
    settle(record)


def set_(record: Path, table: str, column: str, value: Any, **where: Any) -> None:
    """Change a column in the rows where others have these values."""

    def edit(frame: pd.DataFrame) -> pd.DataFrame:
        chosen = np.logical_and.reduce([frame[name] == wanted for name, wanted in where.items()])
        assert chosen.any()
        return frame.assign(**{column: frame[column].mask(chosen, value)})

    change(record, table, edit)


PRUNED = {"attack": "pruning", "seed": 1}
"""The cell that is tampered with."""


def relabel(record: Path, column: str, value: Any) -> None:
    for table in ("cells", "evidence"):
        set_(record, table, column, value, **PRUNED)


def findings(record: Path, cli: Cli, *words: object) -> list[str]:
    said = cli("submit", record, *ENOUGH, *words, code=1)
    assert "accepted" not in said.out
    return said.out.splitlines()


# --- honest records ---------------------------------------------------------------------------------------------------


def test_a_record_is_whole_reads_as_results_and_is_never_overwritten(made: Path, cli: Cli, tmp_path: Path) -> None:
    record = made / "record"
    names = {path.relative_to(record).as_posix() for path in record.rglob("*") if path.is_file()}
    pages = {"README.md", "leaderboard.md", "report.html", "figures/curves.svg"}
    assert pages | {"ids.json", "environment.json", "manifest.json", "tables/cells/merged.parquet"} <= names
    pd.testing.assert_frame_equal(Tables(record).read("cells"), Tables(made / "results").read("cells"))
    ranking = cli("leaderboard", "--results", record, "--format", "markdown", code=0).out
    assert ranking == (record / "leaderboard.md").read_text()
    again = ("record", "x", "--results", made / "results", "--output", record)
    assert "never overwritten" in cli(*again, code=2).err
    cli("record", "x", "--results", tmp_path / "none", "--output", tmp_path / "out", code=2)
    assert not list(tmp_path.glob("*out*")), "a record that cannot be made leaves nothing"
    assert "letters or digits" in cli("record", "/../", "--results", made / "results", code=2).err


COMMANDS = ("report", "figures", "run --matrix smoke", "reproduce ewe-2021 figure-6")


@pytest.mark.parametrize("words", COMMANDS)
def test_no_command_changes_a_record(made: Path, cli: Cli, words: str) -> None:
    before = digests(made / "record")
    said = cli(*words.split(), "--results", made / "record", code=2).err
    assert "is a record, and is never changed" in said and len(said.splitlines()) == 1
    assert digests(made / "record") == before


def test_a_paper_is_compared_with_a_record_which_stays_as_it_is(made: Path, cli: Cli) -> None:
    before = digests(made / "record")
    said = cli("reproduce", "ewe-2021", "figure-6", "--no-run", "--results", made / "record", code=0).out
    assert "15 of 15 cells are not run" in said and "nothing is written to a record" in said
    assert digests(made / "record") == before


def test_a_record_can_be_shown_elsewhere(made: Path, cli: Cli, tmp_path: Path) -> None:
    cli("report", "--results", made / "record", "--output", tmp_path / "page.html", code=0)
    assert (tmp_path / "page.html").stat().st_size > 10_000


def test_a_record_says_on_what_it_was_measured(made: Path) -> None:
    stages = Tables(made / "results").read("stages")
    about = json.loads((made / "record" / "environment.json").read_text())
    assert about["command"] == "harness run --matrix smoke" and "torch" in about["measured_on"][0]
    checksums = {"digits": stages["data_checksum"], "photo-patches": stages["other_checksum"]}
    assert about["data"] == {name: sorted(values.dropna().unique()) for name, values in checksums.items()}
    page = (made / "record" / "README.md").read_text()
    assert about["versions"].pop("commit") == [own for own in [commit()] if own]
    told = [*about["data"].values(), *about["versions"].values()]
    assert all(len(values) == 1 and values[0] in page for values in told) and len(told) == 6
    assert set(about["versions"]) == {"platform", "python", "torch", "harness"}
    shown = (made / "record" / "report.html").read_text()
    assert "harness run --matrix smoke" in shown and about["recorded_at"] in shown


def checksum(name: str) -> str:
    """Of a data set of scikit-learn's, as results/README.md tells how to make it."""
    from harness.data import Data

    arrays = Data(Path("no-folder")).arrays(load_registry().component("dataset", name).plugin)
    digest = hashlib.sha256()
    for part, dtype in (("x_test", "uint8"), ("x_train", "uint8"), ("y_test", "int64"), ("y_train", "int64")):
        array = getattr(arrays, part)
        digest.update(f"{part} {dtype} {array.shape}".encode())
        digest.update(array.astype(np.dtype(dtype).newbyteorder("<")).tobytes())
    return digest.hexdigest()[:32]


def test_stages_say_which_data_they_read(made: Path) -> None:
    stages = Tables(made / "results").read("stages").set_index("action")
    reads = stages.drop(["verify", "ask", "judge"])
    assert {"train", "embed", "detect"} <= set(reads.index) and set(reads["data_checksum"]) == {checksum("digits")}
    assert stages.loc[["verify", "ask", "judge"], "data_checksum"].isna().all()
    pooled = (stages["plugin"] == POOL) & (stages.index == "attack")
    other = stages[["other_dataset", "other_checksum"]]
    assert set(other[pooled].itertuples(index=False, name=None)) == {("photo-patches", checksum("photo-patches"))}
    assert other[~pooled].isna().all(axis=None)


def test_an_honest_record_is_accepted_and_runs_again_to_the_same_numbers(made: Path, cli: Cli) -> None:
    before = digests(made / "record")
    said = cli("submit", made / "record", *ENOUGH, "--replay", 20, code=0)
    assert said.out == f"accepted: {made / 'record'}, 8 cells run again: 8 equal to the last bit\n"
    note = f"no verdicts: {TINY} has 1 unmarked models, and they need 19"
    assert note in said.err
    told = {"accepted": True, "findings": [], "notes": [note]}
    assert json.loads(cli("submit", made / "record", *ENOUGH, "--json", code=0).out) == told
    assert digests(made / "record") == before


def test_a_record_without_a_report_is_accepted(record: Path, cli: Cli) -> None:
    (record / "report.html").unlink()
    seal(record)
    cli("submit", record, *ENOUGH, code=0)


def test_a_record_of_another_harness_says_so_where_its_pages_differ(record: Path, cli: Cli) -> None:
    say(record, recorded_with="0.0.9", commit="1234abcd")
    seal(record)
    (found,) = findings(record, cli)
    assert re.fullmatch(
        r"report.html: line \d+ is not what the tables make it: "
        r"it was recorded with watermark-harness 0.0.9 at commit 1234abcd, this is .*; "
        r"harness record NAME --results .* --output NEW records it again",
        found,
    )
    make_pages(record, cli)
    cli("submit", record, *ENOUGH, code=0)


def test_a_record_is_recorded_anew_from_itself(made: Path, cli: Cli, tmp_path: Path) -> None:
    """With another harness, whose pages differ, and without the artifacts."""
    cli("record", "again", "--results", made / "record", "--output", tmp_path / "again", code=0)
    assert (tmp_path / "again" / "ids.json").read_text() == (made / "record" / "ids.json").read_text()
    cli("submit", tmp_path / "again", *ENOUGH, code=0)


def test_too_few_seeds_and_nulls_are_found(made: Path, cli: Cli) -> None:
    said = cli("submit", made / "record", "--min-seeds", 3, "--min-nulls", 2, code=1).out
    assert (
        "2 seeds that ended ok of 2, expected at least 3" in said and "1 unmarked models, expected at least 2" in said
    )
    assert "1 unmarked models, expected at least 19" in cli("submit", made / "record", "--min-seeds", 2, code=1).out


def test_a_scheme_that_these_data_do_not_allow_needs_no_seeds() -> None:
    cells = pd.DataFrame({"dataset": "digits", "defense": "ewe", "seed": [0, 1], "status": "skipped", "nulls": 0})
    assert not [*_enough(cells, 2, 19)]
    (found,) = _enough(cells.assign(status=["skipped", "failed"]), 2, 19)
    assert "0 seeds that ended ok of 2, expected at least 2" in found


def test_a_records_page_says_what_its_verdicts_rest_on(made: Path, record: Path) -> None:
    page = (record / "README.md").read_text()
    assert f"- {TINY}: no verdicts, which need 19 unmarked models of the same data, net and recipe: it has 1." in page
    assert "verified" not in page
    world = World().seeds(range(6)).seeds(range(6), attack="none", matches=100)
    for index in range(20):
        for seed in range(6):
            world.suspect(f"a none {seed}", "fresh", index, 2 + 90 * (index == 3), arm="unmarked")
    lines = list(_compared_with(world.board()))
    assert lines[0] == (
        "- d: compared with 19 unmarked models of the same data, net and recipe. Of 100 models without a mark about 5 "
        "are called marked."
    )
    assert "\n".join(lines[1:]) == (
        "\nInnocent models that are called marked, of those asked (95% upper limit of their share):\n\n"
        "| scheme | fresh |\n| --- | --- |\n| `a` | 1 of 20 (22%) |\n"
    )


OLD = ROOT / "results" / "records" / "2026-11-25-digits-thirty-seeds"


def test_an_old_record_is_checked_as_far_as_it_goes(cli: Cli, tmp_path: Path) -> None:
    """Its pages are of the test of that time; tables, lineage, checksums and other numbers are checked."""
    said = cli("submit", OLD, "--min-nulls", 8, code=0)
    assert said.out == f"accepted: {OLD}\n" and "not checked: leaderboard.md, report.html" in said.err
    assert "expected at least 19" in cli("submit", OLD, code=1).out
    old = shutil.copytree(OLD, tmp_path / "old")
    page = (old / "README.md").read_text()
    (old / "README.md").write_text(page.replace('"seeds": 30', '"seeds": 31', 1))
    (found,) = cli("submit", old, "--min-nulls", 8, code=1).out.splitlines()
    assert found.endswith("seeds 31, the tables say 30")
    (old / "README.md").write_text(page)
    rows = Tables(old).every_row("evidence")
    rows.loc[rows["suspect"] == "null", "matches"] += 1
    shutil.rmtree(old / "tables" / "evidence")
    _freeze(rows, "evidence", old)
    seal(old)
    assert "are not those of its evidence" in cli("submit", old, "--min-nulls", 8, code=1).out


@pytest.mark.slow
def test_the_record_of_the_readme_is_accepted(cli: Cli, tmp_path: Path) -> None:
    record = ROOT / "results" / "records" / "2026-11-27-digits-twenty-seeds"
    assert cli("submit", record, code=0).out == f"accepted: {record}\n"
    lie = shutil.copytree(record, tmp_path / "lie")
    page = (lie / "README.md").read_text("utf-8")
    (lie / "README.md").write_text(page.replace('"cost": 0.0', '"cost": 0.1', 1))
    (found,) = cli("submit", lie, code=1).out.splitlines()
    assert ": cost 0.1" in found and "the tables say 0.0" in found


@pytest.mark.parametrize("record", sorted((ROOT / "results" / "records").iterdir()), ids=lambda path: path.name)
def test_every_record_of_the_old_test_says_first_what_is_withdrawn(record: Path) -> None:
    if record.name < "2026-11-27":
        _, second = re.findall(r"^#+ (.*)$", (record / "README.md").read_text("utf-8"), re.MULTILINE)[:2]
        assert second == "What does not hold any more (27 November 2026)"


# --- tampering --------------------------------------------------------------------------------------------------------


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


def huge_report(record: Path) -> None:
    os.truncate(record / "report.html", 2**26)


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


def older(record: Path) -> None:
    path = record / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 1}))


def counted(record: Path) -> None:
    set_(record, "cells", "surrogate_control_matches", 0, **PRUNED)
    set_(record, "cells", "surrogate_control_trials", 1, **PRUNED)


def accurate(record: Path) -> None:
    set_(record, "cells", "surrogate_accuracy", 0.99, attack=DETECTOR, seed=1)
    set_(record, "evidence", "accuracy", 0.99, attack=DETECTOR, seed=1, suspect="surrogate")


def orphan(record: Path) -> None:
    change(record, "evidence", lambda rows: rows[rows["probe"] != "control"])


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


def active(record: Path) -> None:
    path = record / "report.html"
    path.write_text(path.read_text().replace("</body>", "<script>alert(1)</script></body>"))
    seal(record)


def flattered(record: Path) -> None:
    path = record / "report.html"
    path.write_text(re.sub(r">\d+\.\d ± ", ">99.9 ± ", path.read_text(), count=1))
    seal(record)


def longer(record: Path) -> None:
    with (record / "report.html").open("a") as file:
        file.write("\n<p>best of all</p>")
    seal(record)


def ranked(record: Path) -> None:
    edited(record)
    seal(record)


def lied(record: Path) -> None:
    say(record, data={"digits": ["0" * 32]})
    seal(record)


def machine(record: Path) -> None:
    say(record, measured_on=["a better machine"])
    seal(record)


def unsaid(record: Path) -> None:
    say(record, command=["harness", "run"])
    seal(record)


def other_data(record: Path) -> None:
    change(
        record, "stages", lambda rows: rows.assign(data_checksum=rows["data_checksum"].mask(rows.index == 0, "0" * 32))
    )


def strayed(table: str, column: str, value: Any) -> Callable[[Path], None]:
    """One more row, of a cell, model or stage that is not there."""

    def tamper(record: Path) -> None:
        change(record, table, lambda rows: pd.concat([rows, rows[:1].assign(**{column: value})], ignore_index=True))

    tamper.__name__ = f"strayed_{table}_{column}"
    return tamper


def of_another_seed(record: Path) -> None:
    relabel(record, "seed", 7)


def of_another_attack(record: Path) -> None:
    relabel(record, "attack", "fine-tuning")


def of_another_scheme(record: Path) -> None:
    for table in ("cells", "evidence", "detections", "measurements"):
        set_(record, table, "defense", "ewe", defense="baseline")


def undetected(record: Path) -> None:
    known = json.loads((record / "ids.json").read_text())
    detect = [id for id, made in known.items() if made["action"] == "detect"]
    (record / "ids.json").write_text(json.dumps({id: made for id, made in known.items() if id not in detect}))
    change(record, "stages", lambda rows: rows[~rows["stage"].isin(detect)])


def better_victim(record: Path) -> None:
    set_(record, "cells", "victim_accuracy", 0.99, **PRUNED)
    set_(record, "evidence", "accuracy", 0.99, **PRUNED, suspect="victim")


def odd(record: Path) -> None:
    """A stage of which ids.json tells what no harness would, under its digest, in place of a null model's."""
    known = json.loads((record / "ids.json").read_text())
    null = next(id for id, made in known.items() if made["seed"] == derive_seed("null", 0, "train"))
    made = known.pop(null) | {"seed": [1]}
    id = make_id(*(tuple(map(tuple, made[name])) if name == "parents" else made[name] for name in ORDER))
    (record / "ids.json").write_text(json.dumps(known | {id: made}))
    change(record, "curves", lambda rows: rows[rows["stage"] != null])
    set_(record, "stages", "stage", id, stage=null)


def no_model(record: Path) -> None:
    set_(record, "cells", "model", "0" * 32, **PRUNED)


def a_null_as_model(record: Path) -> None:
    stages = Tables(record).read("stages").set_index("stage")
    known = json.loads((record / "ids.json").read_text())
    null = next(id for id, made in known.items() if made["seed"] == derive_seed("null", 0, "train"))
    set_(record, "cells", "model", null, **PRUNED)
    set_(record, "cells", "surrogate_accuracy", stages.loc[null, "accuracy"], **PRUNED)
    set_(record, "evidence", "accuracy", stages.loc[null, "accuracy"], **PRUNED, suspect="surrogate")


def more_nulls(record: Path) -> None:
    set_(record, "cells", "nulls", 2**60, **PRUNED)


def unknown_null(record: Path) -> None:
    set_(record, "evidence", "accuracy", 0.5, **PRUNED, suspect="null")


def unknown_attacked(record: Path) -> None:
    set_(record, "evidence", "accuracy", 0.5, **PRUNED, suspect="attacked")


def other_base(record: Path) -> None:
    set_(record, "evidence", "base_accuracy", 0.5, **PRUNED, suspect="attacked")


def no_attacked(record: Path) -> None:
    change(record, "evidence", lambda rows: rows[(rows["suspect"] != "attacked") | (rows["attack"] != "pruning")])


def unattacked(record: Path) -> None:
    """The null model's own answers in place of what the attack made of it."""
    rows = Tables(record).read("evidence").query("attack == 'pruning' and seed == 1 and suspect == 'null'")
    accuracy = rows["accuracy"].iloc[0]
    set_(record, "evidence", "accuracy", accuracy, **PRUNED, suspect="attacked")


def another_owner(record: Path) -> None:
    set_(record, "evidence", "index", 7, attack="none", seed=1, suspect="other-owner")


def strange_innocent(record: Path) -> None:
    set_(record, "evidence", "arm", "ewe", attack="none", seed=1, suspect="other-owner")


def worse_nulls(record: Path) -> None:
    set_(record, "cells", "null_accuracy", 0.5, **PRUNED)


@pytest.mark.parametrize(
    ("tamper", "found"),
    [
        (linked, "ids.json: no plain file"),
        (executable, "leaderboard.md: executable"),
        (foreign, "setup.py: no file of a record"),
        (deep, "a: no folder of a record"),
        (fifo, "figures/pipe.svg: no plain file"),
        (huge, "README.md: 2,097,152 bytes, expected at most"),
        (huge_report, "report.html: 67,108,864 bytes, expected at most"),
        (edited, "leaderboard.md: not the file of the manifest"),
        (missing, "figures/curves.svg: in the manifest and not in the folder"),
        (older, "manifest.json: format 1, this harness writes 2"),
        (torn, "tables/cells: "),
        (columns, "tables/cells: "),
        (counted, "surrogate control counts [0, 1] are not those of its evidence"),
        (accurate, "its accuracy is not that of its model's stage"),
        (orphan, "are not those of its evidence"),
        (renamed, "its id is no digest"),
        (boasting, "README.md: baseline: false_rate -1.0, the tables say"),
        (scripted, "figures/curves.svg: a picture that does more than show"),
        (active, "report.html: line "),
        (flattered, "report.html: line "),
        (longer, "report.html: line "),
        (ranked, "leaderboard.md: line "),
        (lied, "environment.json: data {'digits': ['000"),
        (machine, "environment.json: measured_on ['a better machine'], the tables say"),
        (unsaid, "environment.json: no environment of a record"),
        (other_data, "data: digits was not the same for all stages: checksums 000"),
        (strayed("evidence", "cell", "f" * 32), f"tables/evidence: 1 rows of the cell {'f' * 32} are of none in"),
        (strayed("evidence", "seed", 9), "tables/evidence: 1 rows of the cell "),
        (strayed("detections", "cell", "f" * 32), f"tables/detections: 1 rows of the cell {'f' * 32}"),
        (strayed("measurements", "model", "f" * 32), f"tables/measurements: 1 rows of the model {'f' * 32}"),
        (strayed("measurements", "model", None), "tables/measurements: 1 rows of the model "),
        (strayed("curves", "stage", "f" * 32), f"tables/curves: 1 rows of the stage {'f' * 32}"),
        (of_another_seed, "is not of seed 7"),
        (of_another_attack, "its model was made by pruning, not fine-tuning"),
        (of_another_scheme, f"is one of {TINY} / baseline"),
        (undetected, f"its model was made by no attack, not {DETECTOR}"),
        (better_victim, "victim accuracy 0.99 is not that of its victim's stage, 0."),
        (odd, "null model 0 of accuracy 0."),
        (no_model, f"its model {'0' * 32} is no stage that ended ok"),
        (a_null_as_model, "leads to no victim"),
        (more_nulls, f"{2**60} null models, and its evidence has 1"),
        (unknown_null, "null model 0 of accuracy 0.5 is no stage of the record"),
        (unknown_attacked, "attacked model 0 of accuracy 0.5 is no stage of the record"),
        (other_base, "attacked model 0 of accuracy 0."),
        (no_attacked, "1 attacked models, and its evidence has 0"),
        (unattacked, "attacked model 0 of accuracy 0."),
        (another_owner, "other-owner model 7 of baseline of accuracy 0."),
        (strange_innocent, "other-owner model 0 of ewe of accuracy 0."),
        (worse_nulls, "null accuracy 0.5 is not the mean of its null models', 0."),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_tampering_is_found(tamper: Callable[[Path], None], found: str, record: Path, cli: Cli) -> None:
    tamper(record)
    lines = findings(record, cli)
    assert found in lines[0], lines
    several = (
        deep,
        columns,
        torn,
        orphan,
        of_another_scheme,
        undetected,
        odd,
        no_attacked,
    )  # each folder, table or cell says it
    assert len(lines) == 1 or tamper in several, lines


def test_pages_may_differ_in_the_last_digits_of_decimal_numbers_alone() -> None:
    """Machines sum in different orders."""
    assert _is_alike('{"margin": 0.30000000000000004, "n": 3}', '{"margin": 0.3, "n": 3}')
    assert _is_alike("| 12.5 ± 0.31 |", "| 12.6 ± 0.30 |")
    for one, other in (
        ("n 3", "n 4"),
        ("12.5", "12.8"),
        ("0.3", "0.4001"),
        ("1.5", "1.5x"),
        ("1.5 2.5", "1.5"),
        ("1.5", "a"),
    ):
        assert not _is_alike(one, other) and not _is_alike(other, one)
    shown, raw = "<p>0.5", '<script type="application/json">0.5'
    assert _is_alike(shown, shown.replace("5", "6")) and not _is_alike(raw, raw.replace("5", "6"))
    assert _other_line("a\nb", "a\nb\nc") == 3 and _other_line("a\nb\nc", "a\nx\nc") == 2
    assert _other_line("a\nb", "a\nb") is None


# --- replay -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def lie(record: Path, cli: Cli) -> Path:
    """All tables, ids, numbers and pages agree; only running it again tells."""
    control = {"suspect": "surrogate", "probe": "control"}
    matches = (
        Tables(record).read("cells").set_index(["attack", "seed"]).loc[("pruning", 1), "surrogate_control_matches"]
    )
    set_(record, "cells", "surrogate_control_matches", matches - 1, **PRUNED)
    set_(record, "evidence", "matches", matches - 1, **PRUNED, **control)
    make_pages(record, cli)
    return record


def test_a_consistent_lie_is_found_by_replay(lie: Path, cli: Cli) -> None:
    cli("submit", lie, *ENOUGH, code=0)
    (found,) = findings(lie, cli, "--replay", 8)
    assert re.fullmatch(
        r"replay digits.* / baseline / pruning #1: surrogate control (\d+) of (\d+), here \d+ of \2: "
        r"\d+\.\d\d points apart, allowed 0",
        found,
    )


def test_a_tolerance_allows_some_points_and_says_how_many_cells_needed_it(lie: Path, made: Path, cli: Cli) -> None:
    row = Tables(lie).read("evidence").query("attack == 'pruning' and seed == 1 and probe == 'control'").iloc[0]
    points = 100 / row["trials"]
    said = cli("submit", lie, *ENOUGH, "--replay", 8, "--tolerance", points, "--json", code=0).out
    assert json.loads(said)["replayed"] == {"equal": 7, "within": 1, "most_points": pytest.approx(points)}
    words = f"8 cells run again: 7 equal to the last bit, 1 within {points:g} points (at most {points:.2f} apart)"
    assert str(compared(lie, made, points)) == words and not compared(lie, made, points).findings
    (found,) = compared(lie, made, 0.9 * points).findings
    assert found.endswith(f"{points:.2f} points apart, allowed {0.9 * points:g}")
    assert "type --replay K" in cli("submit", lie, "--tolerance", 1, code=2).err


def compared(record: Path, made: Path, tolerance: float = 0.0) -> Replayed:
    """All cells of a record beside the run that it was made of, which a replay equals."""
    return compare(Tables(record), Tables(record).read("cells"), Tables(made / "results"), tolerance)


def test_no_tolerance_is_for_models_queries_and_numbers_of_answers(record: Path, made: Path) -> None:
    set_(record, "cells", "queries", 10**6, attack=POOL, seed=1)
    set_(record, "cells", "model", "0" * 32, **PRUNED)
    set_(record, "evidence", "trials", 10**6, attack="none", seed=0, probe="control", suspect="surrogate")
    found = "\n".join(compared(record, made, 100).findings)
    assert re.fullmatch(
        r".* / none #0: surrogate control \d+ of 1000000, here \d+ of \d+\n"
        r".* / pruning #1: made by other plugins or another harness \(its model has another id here\)\n"
        r".* / retraining\[pool=photo-patches\] #1: queries 1000000, here \d+",
        "\n".join(sorted(found.splitlines())),
    )


def test_what_a_detector_found_is_compared_where_there_is_no_tolerance(record: Path, made: Path) -> None:
    set_(record, "detections", "threshold", -5.0, seed=1, suspect="surrogate")
    (found,) = compared(record, made).findings
    assert re.search(r"#1: surrogate threshold -5.0, here [\d.]+$", found)
    assert compared(record, made, 1e-9).equal == 8


def test_a_cell_that_did_not_end_ok_here_is_named(record: Path, made: Path) -> None:
    set_(record, "cells", "seed", 5, **PRUNED)
    (found,) = compared(record, made).findings
    assert found.endswith("/ pruning #5: did not end ok here")


PLUGIN = '''
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from harness import Arrays, Dataset, hookimpl



@dataclass(frozen=True)
class Scans(Dataset):
    """Digits of a file that is not checked."""

    name: ClassVar[str] = "scans"
    input_shape: ClassVar[tuple[int, ...]] = (1, 8, 8)
    classes: ClassVar[tuple[str, ...]] = tuple("0123456789")
    available: ClassVar[int] = 1497
    train: int = 200
    epochs: int = 2
    pretrain: int = 1
    patch: int = 2

    def load(self, root):
        with np.load(root / "scans.npz") as file:
            return Arrays(**file)


@hookimpl
def harness_datasets():
    return [Scans]
'''


def test_other_data_under_the_same_ids_are_found(tmp_path: Path, cli: Cli) -> None:
    from harness.data import Data

    plugins, data, results = (tmp_path / name for name in ("plugins", "data", "results"))
    for folder in (plugins, data):
        folder.mkdir()
    (plugins / "scans.py").write_text(PLUGIN)
    arrays = vars(Data(tmp_path).arrays(load_registry().component("dataset", "digits").plugin))
    np.savez(data / "scans.npz", **arrays)
    chosen = (
        "--dataset",
        "scans",
        "--defense",
        "baseline",
        "--attack",
        "none",
        "--nulls",
        1,
        "--no-innocents",
        "--results",
        results,
    )
    here = ("--data", data, "--plugins", plugins)
    few = ("--min-seeds", 1, "--min-nulls", 1)
    cli("run", "--matrix", "smoke", *chosen, *here, "--seeds", 0, "--quiet", code=0)
    cli("record", "one", "--results", results, "--output", tmp_path / "one", code=0)
    assert "equal to the last bit" in cli("submit", tmp_path / "one", *few, *here, "--replay", 1, code=0).out

    np.savez(data / "scans.npz", **arrays | {"y_test": arrays["y_test"][::-1]})
    said = cli("submit", tmp_path / "one", *few, *here, "--replay", 1, code=1).out.splitlines()
    assert re.fullmatch(r"replay: scans has the checksum \w{32} here, not \w{32}", said[-1])
    assert not any("made by other plugins" in line for line in said), "which data they are is no part of an id"

    cli("run", "--matrix", "smoke", *chosen, *here, "--seeds", 1, "--quiet", code=0)
    cli("record", "two", "--results", results, "--output", tmp_path / "two", code=0)
    (found,) = cli("submit", tmp_path / "two", *few, *here, code=1).out.splitlines()
    known = json.loads((tmp_path / "two" / "environment.json").read_text())["data"]["scans"]
    assert found == f"data: scans was not the same for all cells: checksums {', '.join(known)}" and len(known) == 2
    assert f"scans {' and '.join(known)} (not always the same content!)" in (tmp_path / "two" / "README.md").read_text()
