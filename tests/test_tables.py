"""The tables: every row comes back, the newest of each key wins, a damaged file is named, other tools read them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import harness
from harness.errors import ResultsError, UnknownName
from harness.storage.fields import Column
from harness.storage.schema import CELLS, OLDEST_VERSION, OWNERS, SCHEMA_VERSION, STAGES, TABLES, Table, document
from harness.storage.tables import Tables

law = settings(deadline=None, max_examples=60, database=None, derandomize=True)

every_table = pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)

# Run ids sort by time.
OLD, NEW = "20260101T000000-aaaaaa", "20260102T000000-000000"


def value(column: Column, number: int) -> Any:
    """A value of the column's type that tells rows apart."""
    made = {
        "string": f"{column.name} ü {number}",
        "int64": 2**53 + number,
        "double": number / 3,
        "bool": number % 2 == 0,
        "timestamp": datetime(2026, 1, 2, 3, 4, 5, 678_901, UTC) + timedelta(seconds=number),
    }
    return made[column.type]


def row(table: Table, number: int = 0, **given: Any) -> dict[str, Any]:
    """A row with every column but the run, which ``append`` adds."""
    return {column.name: value(column, number) for column in table.columns if column.name != "run"} | given


def plain(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return frame.astype(object).where(frame.notna(), None).to_dict("records")


# --- rows -------------------------------------------------------------------------------------------------------------


@every_table
def test_rows_come_back_with_every_column(table: Table, tmp_path: Path) -> None:
    tables = Tables(tmp_path)
    rows = [row(table, number) for number in range(3)]
    if table.name in OWNERS:
        tables.append("cells", OLD, [row(CELLS, number) for number in range(3)])
    tables.append(table.name, OLD, iter(rows))
    assert plain(tables.read(table.name)) == [{"run": OLD, **each} for each in rows]
    assert list(tables.read(table.name).columns) == [column.name for column in table.columns]
    assert plain(harness.read_table(tmp_path, table.name)) == plain(tables.read(table.name))


@every_table
def test_missing_columns_are_null_and_types_stay(table: Table, tmp_path: Path) -> None:
    tables = Tables(tmp_path)
    key = {name: number for name, number in row(table).items() if name in {*table.key, "cell", "model"}}
    tables.append("cells", OLD, [row(CELLS)])
    tables.append(table.name, NEW, [key])
    (read,) = plain(tables.read(table.name))
    assert {name: value for name, value in read.items() if value is not None} == {"run": NEW} | key
    (file,) = (tables.folder / table.name).glob(f"{NEW}*")
    assert pq.read_schema(file) == table.schema()


@every_table
def test_a_column_that_is_not_declared_or_of_another_type_is_an_error(table: Table, tmp_path: Path) -> None:
    number = next(column.name for column in table.columns if column.type in ("int64", "double"))
    with pytest.raises((pa.ArrowInvalid, pa.ArrowTypeError)):
        Tables(tmp_path).append(table.name, OLD, [row(table, **{number: "many"})])
    assert not list(tmp_path.rglob("*.parquet"))


def test_no_rows_write_no_file(tmp_path: Path) -> None:
    Tables(tmp_path).append("cells", OLD, [])
    assert list(tmp_path.iterdir()) == []


@every_table
def test_an_empty_table_has_the_columns(table: Table, tmp_path: Path) -> None:
    frame = Tables(tmp_path / "none").read(table.name)
    assert list(frame.columns) == [column.name for column in table.columns] and len(frame) == 0
    some = Tables(tmp_path).read(table.name, ["run"])
    assert list(some.columns) == [*table.key, "run"] and len(some) == 0


def test_chosen_columns_come_with_the_key(tmp_path: Path) -> None:
    tables = Tables(tmp_path)
    tables.append("cells", OLD, [row(CELLS)])
    frame = tables.read("cells", ["queries", "seed", "status"])
    assert list(frame.columns) == [*CELLS.key, "queries", "status"]
    assert plain(frame) == [{name: row(CELLS)[name] for name in frame.columns}]


# --- merging ----------------------------------------------------------------------------------------------------------


@every_table
def test_the_newest_row_of_a_key_wins(table: Table, tmp_path: Path) -> None:
    tables = Tables(tmp_path)
    free = next(
        c for c in table.columns if c.name not in {*table.key, "run", "cell", "model", "seed"} and c.type != "bool"
    )
    tables.append("cells", OLD, [row(CELLS, 0), row(CELLS, 1)])
    # Written in the other order: what counts is the run's time, not the file's.
    tables.append(table.name, NEW, [row(table, 0, **{free.name: value(free, 7)})])
    tables.append(table.name, OLD, [row(table, 0), row(table, 1)])
    found = {each[table.key[0]]: each for each in plain(tables.read(table.name))}
    first, second = (row(table, number)[table.key[0]] for number in (0, 1))
    assert len(found) == 2
    assert found[first]["run"] == NEW and found[first][free.name] == value(free, 7)
    assert found[second]["run"] == OLD and found[second][free.name] == value(free, 1)


def test_later_parts_of_one_run_win(tmp_path: Path) -> None:
    tables = Tables(tmp_path)
    for queries in range(12):
        tables.append("cells", OLD, [row(CELLS, queries=queries)])
    assert tables.read("cells")["queries"].tolist() == [11]
    assert len(list((tables.folder / "cells").iterdir())) == 12


@every_table
def test_each_column_of_the_key_tells_rows_apart(table: Table, tmp_path: Path) -> None:
    tables = Tables(tmp_path)
    columns = {column.name: column for column in table.columns}
    others = [row(table, **{name: value(columns[name], 5)}) for name in table.key]
    if table.name in OWNERS:
        tables.append("cells", OLD, [row(CELLS), row(CELLS, 5)])
    tables.append(table.name, OLD, [row(table), *others])
    assert len(tables.read(table.name)) == 1 + len(table.key)


@pytest.mark.parametrize(("table", "owner"), OWNERS.items())
def test_rows_of_cells_computed_anew_are_dropped(table: str, owner: str, tmp_path: Path) -> None:
    tables = Tables(tmp_path)
    # The same cell by its labels, after a plugin was edited: another id.
    tables.append("cells", OLD, [row(CELLS, 0, **{owner: "before"}), row(CELLS, 1, **{owner: "kept"})])
    tables.append(table, OLD, [row(TABLES[table], 0, **{owner: "before"}), row(TABLES[table], 1, **{owner: "kept"})])
    tables.append("cells", NEW, [row(CELLS, 0, **{owner: "after"})])
    assert tables.read(table)[owner].tolist() == ["kept"]
    assert sorted(tables.every_row(table)[owner]) == ["before", "kept"]
    tables.append(table, NEW, [row(TABLES[table], 0, **{owner: "after"})])
    frame = tables.read(table, ["run", owner])
    assert sorted(frame[owner]) == ["after", "kept"] and frame.index.tolist() == [0, 1]


@settings(law, max_examples=20)
@given(
    files=st.lists(
        st.tuples(st.sampled_from([OLD, NEW]), st.dictionaries(st.integers(0, 5), st.integers(0, 99))), max_size=5
    )
)
def test_merging_is_a_dictionary_filled_in_the_order_of_runs(files: list[tuple[str, dict[int, int]]]) -> None:
    expected: dict[int, int] = {}
    with TemporaryDirectory() as folder:
        tables = Tables(Path(folder))
        for run, cells in files:
            tables.append("cells", run, [row(CELLS, seed=seed, queries=queries) for seed, queries in cells.items()])
        for _, cells in sorted(files, key=lambda file: file[0]):
            expected |= cells
        frame = tables.read("cells")
    assert dict(zip(frame["seed"], frame["queries"], strict=True)) == expected


def test_an_unfinished_file_is_not_read(tmp_path: Path) -> None:
    tables = Tables(tmp_path)
    tables.append("cells", OLD, [row(CELLS)])
    (tables.folder / "cells" / f".{NEW}-0000.parquet.12345678.partial").write_bytes(b"PAR1")
    assert tables.read("cells")["run"].tolist() == [OLD]


# --- errors -----------------------------------------------------------------------------------------------------------


def test_an_unknown_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="unknown table 'cell'. Did you mean 'cells'"):
        Tables(tmp_path).read("cell")
    with pytest.raises(UnknownName, match="Known: cells, curves, detections, evidence, measurements, stages"):
        harness.read_table(tmp_path, "rows")


@cache
def good() -> bytes:
    """A file of the cells table."""
    with TemporaryDirectory() as folder:
        Tables(Path(folder)).append("cells", OLD, [row(CELLS, number) for number in range(5)])
        (path,) = Path(folder).rglob("*.parquet")
        return path.read_bytes()


@cache
def read_good() -> list[dict[str, Any]]:
    return read_with(good())


def read_with(data: bytes) -> list[dict[str, Any]]:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "tables" / "cells" / f"{OLD}-0000.parquet"
        path.parent.mkdir(parents=True)
        path.write_bytes(data)
        return plain(Tables(Path(folder)).read("cells"))


@pytest.mark.parametrize("data", [b"", b"PAR1", b"not a table", b"PAR1" + bytes(100) + b"PAR1"])
def test_a_file_that_is_no_parquet_is_named_in_one_line(data: bytes) -> None:
    with pytest.raises(ResultsError, match=r"0000\.parquet is damaged \(.*and `harness run` writes it again") as caught:
        read_with(data)
    assert "\n" not in str(caught.value)


@law
@given(length=st.integers(0, 100_000))
def test_a_truncated_file_is_named_in_one_line(length: int) -> None:
    with pytest.raises(ResultsError, match="damaged") as caught:
        read_with(good()[: length % len(good())])
    assert "\n" not in str(caught.value)


@settings(law, max_examples=120)
@given(position=st.integers(0, 100_000), change=st.integers(1, 255))
def test_a_changed_byte_gives_an_error_in_one_line_and_never_another_value(position: int, change: int) -> None:
    data = bytearray(good())
    data[position % len(data)] ^= change
    try:
        rows = read_with(bytes(data))
    except ResultsError as error:
        assert "\n" not in str(error)
    else:
        assert rows == read_good()  # padding, or statistics that nobody reads


def with_metadata(metadata: Mapping[bytes, bytes] | None, columns: int | None = None) -> bytes:
    """The same rows in a file with other metadata, or with fewer columns."""
    table = pq.read_table(pa.BufferReader(good())).replace_schema_metadata(metadata)
    sink = pa.BufferOutputStream()
    pq.write_table(table.select(table.column_names[:columns]), sink)
    return sink.getvalue().to_pybytes()


KEY = b"watermark-harness schema"


@pytest.mark.parametrize(
    ("metadata", "found"),
    [({KEY: str(SCHEMA_VERSION + 1).encode()}, str(SCHEMA_VERSION + 1)), ({}, "none"), (None, "none")],
)
def test_another_schema_version_is_refused_in_one_line(metadata: Any, found: str) -> None:
    expected = f"has schema version {found}, this harness writes {SCHEMA_VERSION}.*--results"
    with pytest.raises(ResultsError, match=expected) as caught:
        read_with(with_metadata(metadata))
    assert "\n" not in str(caught.value)


def test_other_columns_than_the_schemas_are_refused() -> None:
    metadata = {KEY: str(SCHEMA_VERSION).encode()}
    assert read_with(with_metadata(metadata)) == read_good()
    with pytest.raises(ResultsError, match="other columns"):
        read_with(with_metadata(metadata, columns=8))


COLUMNS = {3: 99, 4: 103, 5: 107, 6: 121, 7: 125, 8: 128}
"""How many columns the tables have together, by schema version."""


def test_a_column_that_is_added_comes_with_a_schema_version() -> None:
    assert {
        version: sum(len(table.schema(version)) for table in TABLES.values())
        for version in range(OLDEST_VERSION, SCHEMA_VERSION + 1)
    } == COLUMNS


@every_table
def test_files_of_an_older_schema_version_are_read_with_nulls(table: Table, tmp_path: Path) -> None:
    # Beside nulls, whole numbers are floats in pandas: these are exact.
    later = {c.name: 7 for c in table.columns if c.since > OLDEST_VERSION and c.type == "int64"}
    tables, rows = Tables(tmp_path), [row(table, 0), row(table, 1, **later)]
    tables.append("cells", OLD, [row(CELLS, number) for number in range(2)])
    lacks = {column.name: None for column in table.columns if column.since > OLDEST_VERSION}
    if "arm" in lacks:  # part of a row's key, and empty where there were no innocents
        lacks["arm"] = rows[1]["arm"] = ""
    tables.append(table.name, NEW, [rows[1]])
    schema = table.schema(OLDEST_VERSION)
    older = pa.Table.from_pylist([{"run": OLD, **each} for each in rows], schema=schema)
    pq.write_table(older, tables.folder / table.name / f"{OLD}-0000.parquet")
    assert plain(tables.read(table.name)) == [{"run": OLD, **rows[0], **lacks}, {"run": NEW, **rows[1]}]
    assert plain(tables.read(table.name, lacks)[list(lacks)])[0] == lacks


@pytest.mark.parametrize("version", [3, 4])
def test_roles_and_seeds_of_older_files_are_those_that_their_labels_tell(version: int, tmp_path: Path) -> None:
    told = [
        *(("train", "digits null #12", "null", None), ("train", "digits clean #3", "clean", 3)),
        *(("embed", "digits ewe[weight=3] #0", "victim", 0), ("attack", "digits ewe pruning #7", "surrogate", 7)),
        *(("triggers", "digits Noise() #4", None, 4), ("verify", "digits ewe verify null #0 (abcdef)", None, None)),
        *(("embed", "\x1b null #1", "victim", 1), ("embed", f"digits ewe #{'9' * 30}", "victim", None)),
        ("train", "", "clean", None),
    ]
    rows = [{"stage": str(i), "action": action, "label": label} for i, (action, label, *_) in enumerate(told)]
    (tmp_path / "tables" / "stages").mkdir(parents=True)
    older = pa.Table.from_pylist(rows, schema=STAGES.schema(version))
    pq.write_table(older, tmp_path / "tables" / "stages" / f"{OLD}-0000.parquet")
    for columns in (None, ["role", "seed"]):
        found = plain(Tables(tmp_path).read("stages", columns))
        assert [(row["role"], row["seed"]) for row in found] == [each[2:] for each in told]


def test_a_file_must_have_the_columns_of_its_version() -> None:
    with TemporaryDirectory() as folder:
        tables = Tables(Path(folder))
        tables.append("stages", OLD, [row(TABLES["stages"])])
        (path,) = Path(folder).rglob("*.parquet")
        pq.write_table(pq.read_table(path).replace_schema_metadata({KEY: str(OLDEST_VERSION).encode()}), path)
        with pytest.raises(ResultsError, match="other columns than its schema version has"):
            tables.read("stages")


# --- documents and other tools ----------------------------------------------------------------------------------------


@every_table
def test_every_column_says_what_it_holds(table: Table) -> None:
    names = [column.name for column in table.columns]
    assert len(set(names)) == len(names) and set(table.key) <= set(names) and table.doc.endswith(".")
    for column in table.columns:
        assert len(column.doc) > 10 and column.doc[-1] == "." and "|" not in column.doc, column
        field = table.schema().field(column.name)
        assert field.metadata[b"doc"].decode() == column.doc
    assert table.schema().metadata[KEY] == str(SCHEMA_VERSION).encode()


def test_the_document_of_the_results_folder_is_the_generated_one() -> None:
    written = Path(__file__).parents[1] / "results" / "README.md"
    assert written.read_text("utf-8") == document(), "type: make docs"


def test_the_document_names_every_table_and_column() -> None:
    text = document()
    for table in TABLES.values():
        section = text.partition(f"## {table.name}\n")[2].partition("\n## ")[0]
        listed = [line.split("`")[1] for line in section.splitlines() if line.startswith("| `")]
        assert listed == [column.name for column in table.columns] and table.doc in section


@every_table
def test_other_tools_read_the_folder_directly(table: Table, tmp_path: Path) -> None:
    tables = Tables(tmp_path)
    tables.append(table.name, OLD, [row(table, 0), row(table, 1)])
    tables.append(table.name, NEW, [row(table, 0)])
    folder = tables.folder / table.name
    frame = pd.read_parquet(folder)
    assert frame["run"].tolist() == [OLD, OLD, NEW] and list(frame.columns) == [c.name for c in table.columns]
    dataset = pyarrow.dataset.dataset(folder)
    assert dataset.schema == table.schema() and dataset.count_rows() == 3


def test_coded_rows_are_those_of_every_row_with_texts_as_categories(tmp_path: Path) -> None:
    tables = Tables(tmp_path)
    row = {**dict.fromkeys(("dataset", "defense", "attack"), "x"), "seed": 0, "suspect": "null", "arm": "", "index": 0}
    for run, matches in (("20260101T000000-a", 1), ("20260102T000000-a", 2)):
        rows = [
            {**row, "cell": cell, "probe": probe, "index": index, "matches": matches, "trials": 5}
            for cell in ("c", f"d{matches}")
            for probe in ("trigger", "bits")
            for index in (0, 7)
        ]
        tables.append("evidence", run, rows)
    found = tables.coded("evidence", ["cell", "suspect", "index", "matches"], probe="trigger")
    assert isinstance(found["cell"].dtype, pd.CategoricalDtype) and set(found["probe"]) == {"trigger"}
    whole = tables.every_row("evidence")
    whole = whole[whole["probe"] == "trigger"]
    names = ["cell", "index", "matches"]
    assert sorted(found[names].astype(str).values.tolist()) == sorted(whole[names].astype(str).values.tolist())
    assert len(found) == 6 and set(found.loc[found["cell"] == "c", "matches"]) == {2}, "the newest of each key"
    assert tables.coded("detections", ["score"]).empty
    with pytest.raises(UnknownName, match="part of the key"):
        tables.coded("evidence", ["cell"], matches="1")
