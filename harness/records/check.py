"""Checks of an untrusted record: its numbers must follow from its tables, and nothing else may be in its folder.

Nothing of it is run, no link is followed, nothing is written; sizes are bounded before reading. A finding is one line.
The record's pages are made again from its tables and must be the same, so a report's script is the harness's own.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

import harness
from harness.errors import HarnessError, UsageError
from harness.files import read_text
from harness.planning.graph import make_id
from harness.planning.matrix import placeless
from harness.ranking.overview import weakness
from harness.records.freeze import FORMAT, MAX_IDS, UNLISTED, board_of, checksums, digests, measured, numbers, report
from harness.records.lineage import check_lineage, content_of, same, text_of, told_inputs
from harness.records.replay import SHARES
from harness.running.checkout import commit
from harness.storage.contents import CONTENTS, contents_in
from harness.storage.options import names_in
from harness.storage.schema import OLDEST_VERSION, OWNERS, SCHEMA_VERSION, TABLES
from harness.storage.tables import Tables
from harness.text import command_line
from harness.verdicts.families import UNMARKED, is_unmarked
from harness.verdicts.scoring import fewest

if TYPE_CHECKING:
    from harness.planning.registry import Registry
    from harness.verdicts.board import Board

MAX_BYTES = {".parquet": 2**28, ".svg": 2**24, ".json": MAX_IDS, ".md": 2**20, ".html": 2**25}
"""Largest size in bytes, by kind of file; other kinds are refused."""
MAX_FILES = 100
_NAMES = re.compile(
    rf"tables/({'|'.join(TABLES)})/merged\.parquet|figures/[a-z-]+\.svg"
    r"|leaderboard\.md|report\.html|README\.md|ids\.json|environment\.json|manifest\.json"
)
_FOLDERS = re.compile(rf"figures|tables(/({'|'.join(TABLES)}))?")
_ACTIVE = re.compile(rb"<script|<foreignobject|javascript:|<!entity|<iframe|\son\w+\s*=", re.IGNORECASE)
"""Content that makes a picture active."""
_DECIMAL = re.compile(r"(\d+\.\d+(?:e[+-]?\d+)?)")


def check(folder: Path, seeds: int, nulls: int, registry: Registry, ranking: Callable[[Path], str]) -> list[str]:
    """The findings about the record; empty if there are none.

    Later checks need the results of earlier ones. ``ranking(folder)`` is the text of ``leaderboard.md``.
    """
    if found := listed(folder) or list(_tables(folder)):
        return found
    tables = Tables(folder)
    cells, stages, evidence = (tables.read(name) for name in ("cells", "stages", "evidence"))
    if cells.empty:
        return ["tables: no cells"]
    board, schema = board_of(tables), schema_of(folder)
    found = [
        *_counts(cells, evidence),
        *_strays(tables),
        *_names(cells, registry),
        *_ids(folder, cells, stages, evidence),
        *_data(folder, stages, cells),
        *_enough(cells, seeds, nulls),
        *_numbers(folder, board if schema == SCHEMA_VERSION else None, cells, schema),
        *_environment(folder, board, stages, cells),
        *_pictures(folder),
    ]
    return found or (list(_pages(folder, tables, registry, ranking)) if schema == SCHEMA_VERSION else [])


def listed(folder: Path) -> list[str]:
    """The findings about the record's files alone: their kinds, names, sizes and checksums."""
    return list(_tree(folder)) or list(_manifest(folder))


def schema_of(folder: Path) -> int:
    """The schema version of a record whose manifest was checked."""
    return int(_json(folder / "manifest.json")["schema"])


def notes(folder: Path) -> list[str]:
    """Remarks on a record that was accepted: what could not be checked, and what it does not have."""
    made = []
    if (schema := schema_of(folder)) < SCHEMA_VERSION:
        made.append(
            f"not checked: leaderboard.md, report.html, and ranks, margins and verdicts of README.md: an older harness "
            f"(schema {schema}) made them, by a test that is withdrawn"
        )
    board = board_of(Tables(folder))
    for setting in board.settings:
        if weak := weakness(setting):
            made.append(f"{setting.dataset}: {weak}")
        if setting.models < (needed := fewest(board.rules)):
            made.append(f"no verdicts: {setting.dataset} has {setting.models} unmarked models, and they need {needed}")
    return made


def _tree(folder: Path) -> Iterator[str]:
    """Plain files of known names and bounded sizes, which nobody may execute."""
    if folder.is_symlink() or not folder.is_dir():
        yield f"{folder} is no folder"
        return
    paths = list(_walk(folder))
    if len(paths) > MAX_FILES:
        yield f"more than {MAX_FILES} files and folders"
    for path in paths[:MAX_FILES]:
        name, about = path.relative_to(folder).as_posix(), path.lstat()
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
    """The entries of a folder, links not followed; at most a few more than are allowed."""
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
    for what, read in (("format", (FORMAT,)), ("schema", range(OLDEST_VERSION, SCHEMA_VERSION + 1))):
        if (said := manifest.get(what)) not in read or isinstance(said, bool):
            yield f"manifest.json: {what} {said!r:.20}, this harness writes {read[-1]}"
    for name in sorted({*listed, *found}):
        if name not in found:
            yield f"{name}: in the manifest and not in the folder"
        elif listed.get(name) != found[name]:
            yield f"{name}: not the file of the manifest"


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
    """Check that each cell's counts and accuracies are those of its evidence, and possible."""
    ok = cells[cells["status"] == "ok"].set_index("cell")
    for name in SHARES:
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
            if not all(same(one, other) for one, other in zip(said, there, strict=True)):
                yield f"cell {cell}: {who} {probe} counts {said} are not those of its evidence, {there}"
    for who in ("victim", "surrogate"):
        accuracy = evidence[evidence["suspect"] == who].groupby("cell")["accuracy"].first()
        both = ok[[f"{who}_accuracy"]].join(accuracy, how="inner")
        for cell, one, other in both.itertuples():
            if not same(one, other):
                yield f"cell {cell}: {who} accuracy {one} is not that of its evidence, {other}"


def _strays(tables: Tables) -> Iterator[str]:
    """Rows of cells, models or stages that no other table has: a reader of the tables would not see them."""
    names = list(TABLES["cells"].key)
    keys = {table: ("cells", [owner, *names]) for table, owner in OWNERS.items()} | {"curves": ("stages", ["stage"])}
    for table, (whole, columns) in keys.items():
        rows, known = tables.every_row(table)[columns], tables.read(whole)[columns]
        alone = rows[~pd.MultiIndex.from_frame(rows).isin(pd.MultiIndex.from_frame(known))]
        for owner, count in alone[columns[0]].value_counts(sort=False, dropna=False).items():
            yield f"tables/{table}: {count} rows of the {columns[0]} {owner} are of none in tables/{whole}"


def _ids(folder: Path, cells: pd.DataFrame, stages: pd.DataFrame, evidence: pd.DataFrame) -> Iterator[str]:
    """Check that stages' ids are digests of the inputs in the record, and cells consist of the stages they name."""
    told = _json(folder / "ids.json")
    if not isinstance(told, dict):
        yield "ids.json: no object"
        return
    names = {name: placeless(min(meant)) for name, meant in names_in(cells).items()}
    as_told, cells = cells, _as_in_ids(cells, names)
    stages = _as_in_ids(stages, names)
    inputs, is_whole = told_inputs(told, stages), True
    for row in stages[stages["status"] == "ok"].itertuples():
        made = inputs.get(row.stage)
        if made is None:
            yield f"stage {row.stage}: its id is no digest of what ids.json says of it"
        elif made["action"] != row.action or text_of(made["dataset"]) != row.dataset:
            yield f"stage {row.stage}: ids.json and the stages table say different things of it"
        else:
            continue
        is_whole = False
    if is_whole:
        yield from check_lineage(cells, stages, evidence, inputs)
    for cell in as_told[(as_told["status"] == "skipped") & as_told["model"].isna()].itertuples():
        if cell.cell != make_id("skip", cell.dataset, cell.defense, cell.attack, cell.seed, cell.reason):
            yield f"cell {cell.cell}: its id is no digest of why it was skipped"


def _as_in_ids(frame: pd.DataFrame, names: Mapping[str, str]) -> pd.DataFrame:
    """Rows whose data sets are named as ids name them: by what a name stands for, and without paths."""
    known = {text: names.get(text) or placeless(text) for text in frame["dataset"].unique()}
    return frame.assign(dataset=frame["dataset"].map(known))


def _names(cells: pd.DataFrame, registry: Registry) -> Iterator[str]:
    """Check that the names of matrix files stand for one data set each, and hide none that everybody knows."""
    for name, meant in names_in(cells).items():
        if name.partition("[")[0] in registry.names("dataset"):
            yield f"names: {name} is a data set, and stands for {min(meant)} here"
        if len(set(map(placeless, meant))) > 1:
            yield f"names: {name} stands for {' and for '.join(sorted(meant))}"


def _data(folder: Path, stages: pd.DataFrame, cells: pd.DataFrame) -> Iterator[str]:
    """Check that each data set had one content for all cells, and the content that ids say for their stages."""
    told = _json(folder / "ids.json")
    inputs = told_inputs(told if isinstance(told, dict) else {}, stages)
    in_ids = {id: content_of(made["dataset"]) for id, made in inputs.items()}
    plain = stages[~stages["stage"].map(in_ids).fillna("").astype(bool)]
    for what, found in (("stages", checksums(plain, cells[:0])), ("cells", checksums(plain[:0], cells))):
        for name, each in found.items():
            if len(each) > 1:
                yield f"data: {name} was not the same for all {what}: checksums {', '.join(each)}"
    known = stages.set_index("stage")["data_checksum"].dropna()
    for id, checksum in known.items():
        if (content := in_ids.get(str(id))) and content != checksum:
            yield f"stage {id}: its data have the checksum {checksum}, and {content} in its id"
    for row in cells[cells[CONTENTS].notna()].itertuples():
        told = contents_in(getattr(row, CONTENTS)).get(str(row.dataset), "").split()
        if row.model in known.index and known[row.model] not in told:
            yield f"cell {row.cell}: its contents are not those that its model's stage read"


def _enough(cells: pd.DataFrame, seeds: int, nulls: int) -> Iterator[str]:
    ok = cells[cells["status"] == "ok"]
    for (dataset, defense), rows in cells.groupby(["dataset", "defense"], sort=False):
        if rows["status"].eq("skipped").all():  # of these data it cannot be made: there are no seeds to count
            continue
        own, where = ok[(ok["dataset"] == dataset) & (ok["defense"] == defense)], f"{dataset} / {defense}"
        if (n := own["seed"].nunique()) < seeds:
            yield f"{where}: {n} seeds that ended ok of {rows['seed'].nunique()}, expected at least {seeds}"
        if is_unmarked(str(defense)) or own.empty:
            continue
        if (k := int(own["nulls"].fillna(0).min())) < nulls:
            yield f"{where}: {k} unmarked models, expected at least {nulls}"


def _numbers(folder: Path, board: Board | None, cells: pd.DataFrame, schema: int) -> Iterator[str]:
    """Check that the page's block for machines agrees with the tables. Without a board, of an older record, the numbers
    that do not rest on its test, in any order."""
    try:
        page = read_text(folder / "README.md")
    except UsageError as error:
        yield f"README.md: {error}"
        return
    block = re.search(r"^```json\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    try:
        told = json.loads(block[1]) if block else None
    except (ValueError, RecursionError):
        told = None
    for part, ours in (numbers(board) if board else {"schemes": _plain_numbers(cells, schema)}).items():
        said = told.get(part) if isinstance(told, dict) else None
        if not isinstance(said, list) or len(said) != len(ours):
            yield f"README.md: no json block with the numbers of {len(ours)} {part}"
            return
        if board is None:
            said = sorted(said, key=_named)
        for theirs, own in zip(said, ours, strict=True):
            for name, value in own.items():
                other = theirs.get(name) if isinstance(theirs, dict) else None
                if not _close(value, other):
                    yield f"README.md: {own['defense']}: {name} {other!r:.30}, the tables say {value!r}"


def _named(told: Any) -> tuple[str, str]:
    """The names by which the numbers of an older record are put in order."""
    known = told if isinstance(told, dict) else {}
    return str(known.get("dataset")), str(known.get("defense"))


def _plain_numbers(cells: pd.DataFrame, schema: int) -> list[dict[str, Any]]:
    """Numbers of each scheme of an older record that hold by any test, in the order of their names.

    From schema 7 on unmarked models of another recipe are innocents, no schemes, and what unmarked models cost rests on
    the test. Before it pages told failed and skipped cells.
    """
    made = []
    for (dataset, defense), rows in cells.groupby(["dataset", "defense"]):
        own: dict[str, Any] = {"dataset": dataset, "defense": defense, "seeds": rows["seed"].nunique()}
        ok = rows[rows["status"] == "ok"].drop_duplicates("seed")
        costs = (ok["null_accuracy"] - ok["victim_accuracy"]).dropna()
        cost = float(costs.mean()) if len(costs) else None
        if schema < 7:
            own |= {status: int((rows["status"] == status).sum()) for status in ("failed", "skipped")}
            made.append(own | {"accuracy_cost": cost})
        elif not is_unmarked(str(defense)):
            made.append(own | {"cost": cost})
        elif defense == UNMARKED:
            made.append(own)
    return made


def _close(one: Any, other: Any) -> bool:
    """True if two values are equal, numbers except for the last digits: machines sum in different orders."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_close(each, other[name]) for name, each in one.items())
    if isinstance(one, float) and isinstance(other, float | int):
        return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)
    return bool(one == other)


def _environment(folder: Path, board: Board, stages: pd.DataFrame, cells: pd.DataFrame) -> Iterator[str]:
    """Check that ``environment.json`` agrees with the tables about machines, versions and data."""
    said = _json(folder / "environment.json")
    texts = ("command", "recorded_with", "recorded_at")
    if (
        not isinstance(said, dict)
        or not all(isinstance(said.get(name), str) for name in texts)
        or not isinstance(said.get("commit"), str | None)
    ):
        yield "environment.json: no environment of a record"
        return
    for name, ours in {"measured_on": board.machines, **measured(stages, cells)}.items():
        if said.get(name) != ours:
            yield f"environment.json: {name} {said.get(name)!r:.80}, the tables say {ours!r:.80}"


def _pages(folder: Path, tables: Tables, registry: Registry, ranking: Callable[[Path], str]) -> Iterator[str]:
    """Check that the ranking and the report are those that this harness makes of the tables."""
    environment = _json(folder / "environment.json")
    pages: dict[str, Callable[[], str]] = {
        "leaderboard.md": lambda: ranking(folder),
        "report.html": lambda: report(tables, environment, registry),
    }
    for name, make in pages.items():
        if not (folder / name).is_file():
            continue
        theirs = (folder / name).read_bytes().decode("utf-8", errors="replace")
        try:
            if line := _other_line(theirs, make()):
                yield f"{name}: line {line} is not what the tables make it{_other_harness(folder, environment)}"
        except HarnessError as error:
            yield f"{name}: cannot be made from the tables ({error})"


def _other_line(theirs: str, ours: str) -> int | None:
    """The number of the first line that differs; ``None`` if none does."""
    lines, own = theirs.split("\n"), ours.split("\n")
    for number, (one, other) in enumerate(zip(lines, own, strict=False), start=1):
        if one != other and not _is_alike(one, other):
            return number
    return None if len(lines) == len(own) else min(len(lines), len(own)) + 1


def _is_alike(one: str, other: str) -> bool:
    """True if two lines differ at most in the last digits of decimal numbers: machines sum in different orders."""
    parts, own = _DECIMAL.split(one), _DECIMAL.split(other)
    is_shown = "application/json" not in one  # there, nothing is rounded
    return len(parts) == len(own) and all(_is_close(*pair, is_shown) for pair in zip(parts, own, strict=True))


def _is_close(one: str, other: str, is_shown: bool) -> bool:
    """True if two texts are equal, or are decimal numbers equal but for the last digits; by one digit if rounded to be
    shown.
    """
    if one == other:
        return True
    if not (_DECIMAL.fullmatch(one) and _DECIMAL.fullmatch(other)):
        return False
    is_rounded = is_shown and len(one) == len(other) and "e" not in one + other
    step = 10.0 ** -len(one.partition(".")[2]) if is_rounded else 0.0
    return math.isclose(float(one), float(other), rel_tol=1e-9, abs_tol=1.01 * step)


def _other_harness(folder: Path, environment: Mapping[str, Any]) -> str:
    """A note on the harness version that made the record, if it is another one, which may write pages differently."""
    there, here = (environment["recorded_with"], environment["commit"]), (harness.__version__, commit())
    if there == here:
        return ""
    named, own = (f"{version} at commit {(state or 'unknown')[:12]}" for version, state in (there, here))
    again = f"{command_line('record', 'NAME', '--results', folder, '--output', 'NEW')} records it again"
    return f": it was recorded with watermark-harness {named}, this is {own}; {again}"


def _pictures(folder: Path) -> Iterator[str]:
    for path in sorted(folder.glob("figures/*.svg")):
        if _ACTIVE.search(path.read_bytes()):
            yield f"figures/{path.name}: a picture that does more than show"


def _json(path: Path) -> Any:
    """The JSON content of a file of bounded size; ``None`` where it is not JSON."""
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return None
