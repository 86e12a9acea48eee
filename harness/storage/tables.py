"""The Parquet tables: their columns, declared once and documented, and the only code that writes or reads them.

``results/tables/<table>/<run>.parquet``: one file a run (or a part of one), never appended in place, merged on read.
The tables are a projection of the stored artifacts: what a run that was killed did not write, the next run writes.
A results folder may be untrusted: what no run would have written is a :class:`harness.errors.ResultsError`.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import ResultsError, UnknownName
from harness.files import whole_file
from harness.storage.files import refuse_links
from harness.storage.schema import CELLS, MAX_ROWS, OLDEST_VERSION, OWNERS, SCHEMA_VERSION, TABLES, VERSION_KEY, Table

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


_TIME = "%Y%m%dT%H%M%S"
_RUN_TIME = re.compile(r"\d{8}T\d{6}-")
_MAGIC = b"PAR1"


class Tables:
    """The tables of one results folder."""

    def __init__(self, results: Path) -> None:
        self.folder = results.absolute() / "tables"
        self.address = str(results)
        """The results folder or URL, as ``--results`` names it."""

    def append(self, table: str, run: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write ``rows`` as one more file of ``run``; nothing when there are none. Missing columns are null."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        data = pa.Table.from_pylist([{"run": run, **row} for row in rows], schema=TABLES[table].schema())
        if not data.num_rows:
            return
        folder = self.folder / table
        refuse_links(self.folder, folder)
        path = self._part(table, run)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # Opened here: pyarrow takes no name that is not UTF-8.
            with whole_file(path) as partial, partial.open("wb") as file:
                pq.write_table(data, file, compression="zstd", write_page_checksum=True)
        except OSError as error:
            raise ResultsError(f"cannot write {str(path)!r}: {error.strerror or error}") from error

    def _part(self, table: str, run: str) -> Path:
        """The next file of ``run``."""
        folder = self.folder / table
        part = len(list(folder.glob(f"{run}*.parquet")))
        return folder / f"{run}-{part:04d}.parquet"

    def time_of_next_run(self, now: datetime) -> str:
        """The beginning of a run's name: now, or just after the latest run where a clock was set back since.

        Rows are merged in the order of these names.
        """
        runs = (path.name[:15] for path in self.folder.glob("*/*.parquet") if _RUN_TIME.match(path.name))
        with suppress(ValueError, OverflowError):  # an untrusted thirteenth month
            latest = datetime.strptime(max(runs, default=""), _TIME).replace(tzinfo=UTC)
            now = max(now, latest + timedelta(seconds=1))
        return f"{now:{_TIME}}"

    def mend(self) -> list[Path]:
        """Set aside the files that a power cut tore, with all that this and later runs wrote; the torn ones' names.

        Rows of these runs may lean on what was torn. A run then finds cells without rows, and writes them again.
        """
        parts = [path for table in TABLES for path in sorted((self.folder / table).glob("*.parquet"))]
        torn = [path for path in parts if _is_torn(path)]
        first = min((_run_of(path) for path in torn), default=None)
        try:
            for path in parts:
                if first is not None and _run_of(path) >= first:
                    self._set_aside(path)
        except OSError as error:
            raise ResultsError(f"cannot write to {str(self.folder)!r}: {error.strerror}") from error
        return torn

    def _set_aside(self, path: Path) -> None:
        with suppress(FileNotFoundError):  # another run mends too
            path.replace(path.with_name(f".{path.name}.aside"))

    def has(self, table: str) -> bool:
        """True if rows of the table were ever written. Imports nothing."""
        return (self.folder / table).is_dir()

    def read(self, table: str, columns: Iterable[str] | None = None) -> pd.DataFrame:
        """The table merged over its runs: the newest row of each key; empty when nothing has been written.

        Rows of cells that a later run computed again (an edited plugin, say) are left out; :meth:`every_row` has them.
        Raises :class:`UnknownName`, and :class:`ResultsError` for a damaged file or another schema version.
        """
        if table not in TABLES:
            raise UnknownName("table", table, TABLES)
        owner = OWNERS.get(table)
        wanted = None if columns is None else list(dict.fromkeys([*TABLES[table].key, *columns]))
        frame = self._merged(table, [*wanted, owner] if wanted and owner and owner not in wanted else wanted)
        if owner and len(frame):
            current = self._merged("cells", [*CELLS.key, owner])[owner]
            frame = frame[_among(frame[owner], current)]
        return (frame if wanted is None else frame[wanted]).reset_index(drop=True)

    def every_row(self, table: str) -> pd.DataFrame:
        """Read a table like :meth:`read`, with the rows of cells that are no more, or never were."""
        return self._merged(table, None).reset_index(drop=True)

    def coded(self, table: str, columns: Iterable[str], **where: str) -> pd.DataFrame:
        """Some columns of :meth:`every_row`, of the rows whose parts of the key are ``where``; texts are categories.

        Of tens of millions of rows this takes seconds, where Python's strings would take minutes.
        """
        import pyarrow as pa

        key = TABLES[table].key
        if not set(where) <= set(key):
            raise UnknownName("part of the key", min(set(where) - set(key)), key)
        schema = TABLES[table].schema()
        wanted = pa.schema([schema.field(name) for name in dict.fromkeys([*key, *columns])])
        frame = self._frame(table, wanted, where)
        older = _is_older(frame, list(key))
        return frame[~older].reset_index(drop=True) if older.any() else frame

    def _merged(self, table: str, columns: list[str] | None) -> pd.DataFrame:
        import pyarrow as pa

        schema = TABLES[table].schema()
        wanted = schema if columns is None else pa.schema([schema.field(name) for name in columns])
        return self._frame(table, wanted).drop_duplicates(list(TABLES[table].key), keep="last")

    def _frame(self, table: str, wanted: pa.Schema, where: Mapping[str, str] | None = None) -> pd.DataFrame:
        """The rows of all files, in the order of the runs; with ``where`` some of them, and texts as categories."""
        import pyarrow as pa

        parts, rows = [], 0
        path = folder = self.folder / table
        try:
            for path in sorted(folder.glob("*.parquet")):
                part, read = _read_file(path, TABLES[table], wanted, MAX_ROWS - rows, where)
                rows += read
                parts.append(part)
            path = folder
            data = pa.concat_tables(parts).unify_dictionaries() if parts else wanted.empty_table()
            _check_values(data, TABLES[table])
            # Without the files' own metadata, which is untrusted: pandas would name, type and index columns by it.
            bare = data.replace_schema_metadata()
            return bare.to_pandas(ignore_metadata=True, split_blocks=where is not None)
        except (pa.ArrowException, UnicodeDecodeError, OSError, MemoryError) as error:
            raise ResultsError(
                f"{path} is damaged ({' '.join(str(error).split())}): delete {self.folder}, "
                "and `harness run` writes it again from the artifacts"
            ) from error


def _is_older(frame: pd.DataFrame, key: list[str]) -> Any:
    """Mark the rows with a later row of their key: by numbers, since texts are categories."""
    import numpy as np
    import pandas as pd

    codes, room = np.zeros(len(frame), dtype=np.int64), 1
    for name in key:
        column = frame[name]
        if isinstance(column.dtype, pd.CategoricalDtype):
            own, size = column.cat.codes.to_numpy(), len(column.cat.categories)
        else:
            own, known = pd.factorize(column)
            size = len(known)
        if room * size >= 2**62:
            codes, known = pd.factorize(codes)
            room = len(known)
        codes *= size  # in place: a new array of so many numbers takes longer than the sums
        codes += own
        room *= max(size, 1)
    if room > 16 * len(frame):
        return pd.Series(codes).duplicated(keep="last").to_numpy()
    rows = np.arange(len(frame), dtype=np.int32)  # there are MAX_ROWS at most
    last = np.empty(room, dtype=np.int32)
    last[codes] = rows  # of rows with one code the last stays
    return last[codes] != rows


def _among(values: pd.Series[str], known: pd.Series[str]) -> Any:
    """Mark the ``values`` that are among those ``known``. In Arrow: pandas would make Python's strings of them all."""
    import pyarrow as pa
    import pyarrow.compute as pc

    ours, theirs = (pa.array(each, pa.large_string(), from_pandas=True) for each in (values, known))
    return pc.is_in(ours, value_set=theirs).to_numpy(zero_copy_only=False)


def _run_of(path: Path) -> str:
    return path.name.rpartition("-")[0]


def _is_torn(path: Path) -> bool:
    """True if a file lacks a Parquet file's start or end: a look at both, and not at the rows."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            return False
        with path.open("rb") as handle:
            head, size = handle.read(4), handle.seek(0, os.SEEK_END)
            handle.seek(max(0, size - 8))
            tail = handle.read(8)
    except OSError:
        return False
    footer = int.from_bytes(tail[:4], "little")
    return size < 12 or head != _MAGIC or tail[4:] != _MAGIC or footer > size - 12


def _read_file(
    path: Path, table: Table, wanted: pa.Schema, room: int, where: Mapping[str, str] | None
) -> tuple[pa.Table, int]:
    """The ``wanted`` columns of one file, which has ``room`` rows at most; null where they came after its version.

    With ``where`` only the rows that are so, and texts as dictionaries. Also the number of rows that the file has.
    Raises :class:`ResultsError` for another schema version, and ``ArrowInvalid`` for what no run would have written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not stat.S_ISREG(path.lstat().st_mode):
        raise pa.ArrowInvalid("it is no plain file")
    # One file at a time, and by handle: a path would be taken for a partitioned data set.
    with path.open("rb") as handle:
        file = pq.ParquetFile(handle, page_checksum_verification=True)
        own = table.schema(_version_of(path, file.schema_arrow.metadata))
        if file.schema_arrow != own:
            raise pa.ArrowInvalid("other columns than its schema version has")
        rows = sum(file.metadata.row_group(i).num_rows for i in range(file.num_row_groups))
        if rows > room:
            raise pa.ArrowInvalid(f"with it the table has more than {MAX_ROWS:,} rows")
        later = [column for column in wanted if column.name not in own.names]
        needed = {*wanted.names, *(("action", "label") if table.name == "stages" and later else ())}
        if where is not None:
            texts = [name for name in own.names if name in needed and pa.types.is_string(own.field(name).type)]
            file = pq.ParquetFile(handle, read_dictionary=texts, page_checksum_verification=True)
        data = file.read([name for name in own.names if name in needed])
    if len(data) != rows:
        raise pa.ArrowInvalid("another number of rows than it says")
    for column in later:
        data = data.append_column(column, _of_older(table, column, data))
    data = data.select(wanted.names)
    return (data if where is None else _rows_where(data, where)), rows


def _rows_where(data: pa.Table, where: Mapping[str, str]) -> pa.Table:
    """The rows whose texts are so, with all texts as dictionaries."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for place, field in enumerate(data.schema):
        if pa.types.is_string(field.type):
            data = data.set_column(place, field.name, pc.dictionary_encode(data[field.name]))
    for name, text in where.items():
        if not pc.all(kept := pc.equal(data[name], text)).as_py():
            data = data.filter(kept)
    return data


def _of_older(table: Table, column: pa.Field, data: pa.Table) -> Any:
    """A column that came after the version of a file: null, but for what older versions tell.

    ``arm`` of evidence is empty: there were no innocents. ``role`` and ``seed`` of training, embedding and attacks in
    versions 3 and 4: ``digits null #1`` was a null model, and ``digits ewe #0`` a victim of seed 0.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if column.name == "arm":
        return pa.repeat(pa.scalar("", column.type), len(data))
    if table.name != "stages" or column.name not in ("role", "seed"):
        return pa.nulls(len(data), column.type)
    action, label = data["action"], data["label"]
    is_null = pc.and_(pc.equal(action, "train"), pc.match_substring_regex(label, r" null #\d+$"))
    if column.name == "role":
        roles = {"train": "clean", "embed": "victim", "attack": "surrogate"}
        known = pc.index_in(action, value_set=pa.array(list(roles)))
        return pc.if_else(is_null, "null", pa.array([*roles.values()]).take(known.combine_chunks()))
    number = pc.struct_field(pc.extract_regex(label, r"#(?P<number>\d{1,15})$"), "number")
    told = pc.is_in(action, value_set=pa.array(["train", "triggers", "embed", "attack"]))
    return pc.if_else(pc.and_(told, pc.invert(is_null)), number, pa.scalar(None, pa.string())).cast(column.type)


def _version_of(path: Path, metadata: Mapping[bytes, bytes] | None) -> int:
    """The schema version that a file names. Raises :class:`ResultsError` for one that is not read."""
    version = (metadata or {}).get(VERSION_KEY, b"none").decode()
    known = {str(each): each for each in range(OLDEST_VERSION, SCHEMA_VERSION + 1)}
    if version not in known:
        raise ResultsError(
            f"{path} has schema version {version[:20]}, this harness writes {SCHEMA_VERSION}: "
            "choose another folder with --results"
        )
    return known[version]


def _check_values(data: pa.Table, table: Table) -> None:
    """Raise ``ArrowInvalid`` for values that no run writes: text that is not UTF-8, a row without its key, a whole
    number beyond 2^62, a count without its trials or beyond them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    data.validate(full=True)
    for name in data.column_names:
        column = data[name]
        if name in table.key and column.null_count:
            raise pa.ArrowInvalid(f"a row without {name}")
        if pa.types.is_integer(column.type) and pc.any(pc.greater(pc.abs_checked(column), 2**62)).as_py():
            raise pa.ArrowInvalid(f"{name} is beyond 2^62")
        trials = f"{name.removesuffix('matches')}trials"
        if name.endswith("matches") and trials in data.column_names:
            beyond = pc.or_(pc.less(column, 0), pc.greater(column, data[trials]))
            alone = pc.xor(column.is_null(), data[trials].is_null())
            if pc.any(beyond).as_py() or pc.any(alone).as_py():
                raise pa.ArrowInvalid(f"{name} is not in 0..{trials}")
