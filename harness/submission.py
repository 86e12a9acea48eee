"""Checking a stranger's record: what it says must follow from its tables, and nothing else may be in its folder.

Nothing of it is run, no link is followed, nothing is written; what is read is bounded first. A finding is one line.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from harness.errors import HarnessError
from harness.origins import inputs_in
from harness.plan import make_id
from harness.record import FORMAT, UNLISTED, board_of, digests, numbers
from harness.store import plain
from harness.tables import SCHEMA_VERSION, TABLES, Tables, printable

MAX_BYTES = {".parquet": 2**28, ".svg": 2**24, ".json": 2**26, ".md": 2**20}
"""Of a file, by its kind; there are no other kinds."""
MAX_FILES = 100
_NAMES = re.compile(
    rf"tables/({'|'.join(TABLES)})/merged\.parquet|figures/[a-z-]+\.svg"
    r"|leaderboard\.md|README\.md|ids\.json|environment\.json|manifest\.json"
)
_FOLDERS = re.compile(rf"figures|tables(/({'|'.join(TABLES)}))?")
_ACTIVE = re.compile(rb"<script|<foreignobject|javascript:|<!entity|<iframe|\son\w+\s*=", re.IGNORECASE)
"""What makes a picture do something."""


def check(folder: Path, seeds: int, nulls: int) -> list[str]:
    """What is wrong with the record; empty if nothing. Later checks need what earlier ones found in order."""
    for step in (_tree, _manifest, _tables):
        if found := list(step(folder)):
            return found
    tables = Tables(folder)
    cells, evidence, stages = (tables.read(name) for name in ("cells", "evidence", "stages"))
    if cells.empty:
        return ["tables: no cells"]
    return [
        *_counts(cells, evidence),
        *_ids(folder, cells, stages),
        *_enough(cells, seeds, nulls),
        *_numbers(folder, tables),
        *_pictures(folder),
    ]


def _tree(folder: Path) -> Iterator[str]:
    """Plain files of known names and bounded sizes, which nobody may execute."""
    if folder.is_symlink() or not folder.is_dir():
        yield f"{printable(folder)} is no folder"
        return
    paths = list(_walk(folder))
    if len(paths) > MAX_FILES:
        yield f"more than {MAX_FILES} files and folders"
    for path in paths[:MAX_FILES]:
        name, about = printable(path.relative_to(folder).as_posix()), path.lstat()
        if stat.S_ISDIR(about.st_mode):
            if not _FOLDERS.fullmatch(name):
                yield f"{name}: no folder of a record"
        elif not stat.S_ISREG(about.st_mode):
            yield f"{name}: no plain file"
        elif not _NAMES.fullmatch(name):
            yield f"{name}: no file of a record"
        elif about.st_mode & 0o111:
            yield f"{name}: executable"
        elif about.st_size > (most := MAX_BYTES[path.suffix]):
            yield f"{name}: {about.st_size:,} bytes, expected at most {most:,}"


def _walk(folder: Path, depth: int = 0) -> Iterator[Path]:
    """What is in a folder, links not followed; a few more than are allowed at most."""
    with os.scandir(folder) as entries:
        for _, entry in zip(range(MAX_FILES + 1), entries, strict=False):
            yield Path(entry.path)
            if entry.is_dir(follow_symlinks=False) and depth < 3:
                yield from _walk(Path(entry.path), depth + 1)


def _manifest(folder: Path) -> Iterator[str]:
    for name in (*UNLISTED, "leaderboard.md", "ids.json", "environment.json"):
        if not (folder / name).is_file():
            yield f"{name}: missing"
            return
    manifest, found = _json(folder / "manifest.json"), digests(folder)
    if not isinstance(manifest, dict) or not isinstance(listed := manifest.get("files"), dict):
        yield "manifest.json: no manifest"
        return
    for what, ours in (("format", FORMAT), ("schema", SCHEMA_VERSION)):
        if manifest.get(what) != ours:
            yield f"manifest.json: {what} {manifest.get(what)!r:.20}, this harness writes {ours}"
    for name in sorted({*listed, *found}):
        if name not in found:
            yield f"{printable(name)}: in the manifest and not in the folder"
        elif listed.get(name) != found[name]:
            yield f"{printable(name)}: not the file of the manifest"


def _tables(folder: Path) -> Iterator[str]:
    for name in TABLES:
        if not (folder / "tables" / name / "merged.parquet").is_file():
            yield f"tables/{name}: missing"
            continue
        try:
            Tables(folder).read(name)
        except HarnessError as error:
            yield f"tables/{name}: {error}"


def _counts(cells: pd.DataFrame, evidence: pd.DataFrame) -> Iterator[str]:
    """Each cell's counts and accuracies are those of its evidence, and possible."""
    ok = cells[cells["status"] == "ok"].set_index("cell")
    for name in ("null_accuracy", "victim_accuracy", "surrogate_accuracy", "agreement"):
        values = ok[name].dropna()
        yield from (f"cell {cell}: {name} is not in 0..1" for cell in values[~values.between(0, 1)].index)
    of_cell = evidence.groupby(["cell", "suspect", "probe"])[["matches", "trials"]].sum()
    for who, probe in (
        *(("victim", "trigger"), ("null", "trigger")),
        *(("surrogate", "trigger"), ("surrogate", "held_out"), ("surrogate", "control")),
    ):
        for cell, row in ok.iterrows():
            said = [row[f"{who}_{probe}_{what}"] for what in ("matches", "trials")]
            at = (cell, who, probe)
            there = list(of_cell.loc[at]) if at in of_cell.index else [math.nan, math.nan]
            if not all(_same(one, other) for one, other in zip(said, there, strict=True)):
                yield f"cell {cell}: {who} {probe} counts {said} are not those of its evidence, {there}"
    for who in ("victim", "surrogate"):
        accuracy = evidence[evidence["suspect"] == who].groupby("cell")["accuracy"].first()
        both = ok[[f"{who}_accuracy"]].join(accuracy, how="inner")
        for cell, one, other in both.itertuples():
            if not _same(one, other):
                yield f"cell {cell}: {who} accuracy {one} is not that of its evidence, {other}"


def _same(one: Any, other: Any) -> bool:
    """Whether two numbers are equal, or both missing."""
    return bool(one == other or (pd.isna(one) and pd.isna(other)))


def _ids(folder: Path, cells: pd.DataFrame, stages: pd.DataFrame) -> Iterator[str]:
    """Stages' ids are digests of the inputs that the record tells, and a cell's model is the stage that it names."""
    told = _json(folder / "ids.json")
    if not isinstance(told, dict):
        yield "ids.json: no object"
        return
    by_id = stages.set_index("stage")
    for id, row in by_id[by_id["status"] == "ok"].iterrows():
        inputs = inputs_in(str(id), {"inputs": told.get(id)})
        if inputs is None:
            yield f"stage {id}: its id is no digest of what ids.json says of it"
        elif inputs["action"] != row["action"] or _text(inputs["dataset"]) != row["dataset"]:
            yield f"stage {id}: ids.json and the stages table say different things of it"
    for cell in cells[cells["status"] == "ok"].itertuples():
        if cell.model not in by_id.index:
            yield f"cell {cell.cell}: its model {printable(cell.model)} is no stage"
        elif not _same(by_id.loc[cell.model, "accuracy"], cell.surrogate_accuracy):
            yield f"cell {cell.cell}: its accuracy is not that of its model's stage"
    for cell in cells[(cells["status"] == "skipped") & cells["model"].isna()].itertuples():
        if cell.cell != make_id("skip", cell.dataset, cell.defense, cell.attack, cell.seed, cell.reason):
            yield f"cell {cell.cell}: its id is no digest of why it was skipped"


def _text(identity: Any) -> str:
    """The text within what an input says of a plugin: ``dataset digits[train=9] 0123abcd``."""
    return str(identity).partition(" ")[2].rpartition(" ")[0]


def _enough(cells: pd.DataFrame, seeds: int, nulls: int) -> Iterator[str]:
    ok = cells[cells["status"] == "ok"]
    for (dataset, defense), rows in cells.groupby(["dataset", "defense"], sort=False):
        own, where = ok[(ok["dataset"] == dataset) & (ok["defense"] == defense)], printable(f"{dataset} / {defense}")
        if (n := own["seed"].nunique()) < seeds:
            yield f"{where}: {n} seeds that ended ok of {rows['seed'].nunique()}, expected at least {seeds}"
        if len(own) and (k := int(own["nulls"].fillna(0).min())) < nulls:
            yield f"{where}: {k} null models, expected at least {nulls}"


def _numbers(folder: Path, tables: Tables) -> Iterator[str]:
    """The page's block for machines says what the tables do."""
    page = (folder / "README.md").read_text("utf-8", errors="replace")
    block = re.search(r"^```json\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    try:
        said = json.loads(block[1])["schemes"] if block else None
    except (ValueError, KeyError, TypeError, RecursionError):
        said = None
    ours = numbers(board_of(tables))["schemes"]
    if not isinstance(said, list) or len(said) != len(ours):
        yield f"README.md: no json block with the numbers of {len(ours)} schemes"
        return
    for theirs, own in zip(said, ours, strict=True):
        for name, value in own.items():
            other = theirs.get(name) if isinstance(theirs, dict) else None
            if not _close(value, other):
                yield printable(f"README.md: {own['defense']}: {name} {other!r:.30}, the tables say {value!r}")


def _close(one: Any, other: Any) -> bool:
    """Whether two values are equal, numbers but for the last digits: machines sum in different orders."""
    if isinstance(one, float) and isinstance(other, float | int):
        return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)
    return bool(one == other)


def _pictures(folder: Path) -> Iterator[str]:
    for path in sorted(folder.glob("figures/*.svg")):
        if _ACTIVE.search(path.read_bytes()):
            yield f"figures/{path.name}: a picture that does more than show"


def _json(path: Path) -> Any:
    """What a file of bounded size says; ``None`` where that is no JSON."""
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return None


def compare(theirs: pd.DataFrame, ours: pd.DataFrame) -> list[str]:
    """Where cells that were run again differ: nothing may, on the same platform and versions."""
    columns = [c for c in theirs if c.endswith(("_matches", "_trials", "_accuracy")) or c in ("agreement", "queries")]
    keys = list(TABLES["cells"].key)
    again = ours.set_index(keys)
    found = []
    for row in theirs.to_dict("records"):
        words = printable("{} / {} / {} #{}".format(*(row[key] for key in keys)))
        at = tuple(row[key] for key in keys)
        if at not in again.index or again.loc[at, "status"] != "ok":
            found.append(f"replay {words}: did not end ok here")
            continue
        mine = again.loc[at]
        if mine["model"] != row["model"]:
            found.append(f"replay {words}: made by other plugins or another harness (its model has another id here)")
        found += [
            f"replay {words}: {name} {plain(row[name])}, here {plain(mine[name])}"
            for name in columns
            if not _same(row[name], mine[name])
        ]
    return found
