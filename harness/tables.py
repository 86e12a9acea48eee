"""The Parquet tables: their columns, declared once and documented, and the only code that writes or reads them.

``results/tables/<table>/<run>.parquet``: one file a run (or a part of one), never appended in place, merged on read.
The tables are a projection of the stored artifacts: what a run that was killed did not write, the next run writes.
A results folder may come from a stranger: what no run would have written is a :class:`harness.errors.ResultsError`.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import ResultsError, UnknownName, UsageError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

SCHEMA_VERSION = 4
OLDEST_VERSION = 3
"""The first schema version that is read: in its files, columns that came later are null."""
_TIME = "%Y%m%dT%H%M%S"
_RUN_TIME = re.compile(r"\d{8}T\d{6}-")
_MAGIC = b"PAR1"
_VERSION_KEY = b"watermark-harness schema"
OWNERS = {"evidence": "cell", "detections": "cell", "measurements": "model"}
"""The tables whose rows stand only while their cell, or its model, does: by the column that names it."""
MAX_ROWS = 20_000_000
"""Rows of a table that are read: some hundred bytes can stand for a billion, and as a frame twenty million are 8 GB."""


@dataclass(frozen=True)
class Column:
    """A column: its name, its type in pyarrow's words, and what it holds."""

    name: str
    type: str
    doc: str
    since: int = OLDEST_VERSION
    """The schema version that it came with."""


@dataclass(frozen=True)
class Table:
    """A table: what a row is, the columns that name a row, and all columns."""

    name: str
    doc: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]

    def schema(self, version: int = SCHEMA_VERSION) -> pa.Schema:
        """The pyarrow schema, with each column's ``doc`` and the schema version in the metadata."""
        import pyarrow as pa

        types = {"timestamp": pa.timestamp("us", tz="UTC")}
        fields = [
            pa.field(c.name, types.get(c.type) or pa.type_for_alias(c.type), metadata={"doc": c.doc})
            for c in self.columns
            if c.since <= version
        ]
        return pa.schema(fields, metadata={_VERSION_KEY: str(version).encode()})


_RUN = Column(
    "run",
    "string",
    "The run that wrote the row: its start in UTC and a random suffix; sorts by time, whatever clocks do.",
)
_LABELS = (
    Column("cell", "string", "Id of the cell: a digest of its stages' ids."),
    Column("dataset", "string", "The dataset with its options."),
    Column("defense", "string", "The scheme with its options."),
    Column("attack", "string", "The attack chain with its options; `none` leaves the victim as it is."),
    Column("seed", "int64", "The cell's seed: the owner's subset, the initial weights and the batch order."),
)
_STATUS = (
    Column("status", "string", "`ok`, `skipped` (it cannot be, or what it needs failed) or `failed`."),
    Column("reason", "string", "Why it was skipped, or the error; empty if ok."),
)


def _counts(who: str, probe: str, meaning: str) -> tuple[Column, Column]:
    return (
        Column(f"{who}_{probe}_matches", "int64", f"{meaning}: answers that are as the key says."),
        Column(f"{who}_{probe}_trials", "int64", f"{meaning}: queries asked."),
    )


CELLS = Table(
    "cells",
    "One wide row a cell (dataset x defense x attack x seed), for people. Rates are matches / trials.",
    ("dataset", "defense", "attack", "seed"),
    (
        _RUN,
        *_LABELS,
        Column("model", "string", "Id of the stage that made the surrogate: its artifact is the model."),
        Column("family", "string", "The attack's family, or families joined by `+` for a chain."),
        Column("access", "string", "What the chain's last attack has: `black-box`, `white-box` or `none`."),
        *_STATUS,
        Column("null_accuracy", "double", "Mean test accuracy of the null models, 0..1."),
        Column("victim_accuracy", "double", "Test accuracy of the victim, 0..1."),
        Column("surrogate_accuracy", "double", "Test accuracy of the surrogate, 0..1."),
        Column("agreement", "double", "Share of test inputs on which surrogate and victim answer alike, 0..1."),
        Column("queries", "int64", "Queries that the chain's attacks asked of the model they attacked."),
        *_counts("victim", "trigger", "The victim on the triggers it was trained on"),
        *_counts("surrogate", "trigger", "The surrogate on the triggers the victim was trained on"),
        *_counts("surrogate", "held_out", "The surrogate on triggers that no model was trained on"),
        *_counts("surrogate", "control", "The surrogate where no mark should answer"),
        *_counts("null", "trigger", "All null models together on the triggers: the false watermark rate"),
        Column("nulls", "int64", "Number of null models behind the null columns."),
        Column(
            "embed_seconds",
            "double",
            "Seconds that embedding took, without the shared clean model and triggers.",
        ),
        Column("attack_seconds", "double", "Seconds that the chain's attacks took."),
    ),
)

EVIDENCE = Table(
    "evidence",
    "One row a cell x suspect x probe: the raw counts that every test, p-value and rank is computed from.",
    ("cell", "suspect", "index", "probe"),
    (
        _RUN,
        *_LABELS,
        Column("suspect", "string", "`victim`, `surrogate` or `null`."),
        Column("index", "int64", "Number of the null model; 0 for the others."),
        Column("probe", "string", "`trigger`, `held_out`, `control`, or a probe of the scheme's own."),
        Column("matches", "int64", "Answers (or bits) that are as the key says."),
        Column("trials", "int64", "Queries asked (or bits read)."),
        Column(
            "accuracy",
            "double",
            "Test accuracy of the suspect, 0..1: success below an accuracy floor is void.",
        ),
    ),
)

DETECTIONS = Table(
    "detections",
    "One row a suspect of a chain that ends in a detector: what it found, and the judge's comparison with the key.",
    ("cell", "suspect", "index"),
    (
        _RUN,
        *_LABELS,
        Column(
            "suspect", "string", "`surrogate` (the cell's model), or `null`: what the detector says without a mark."
        ),
        Column("index", "int64", "Number of the null model; 0 for the surrogate."),
        Column("score", "double", "The detector's statistic; larger is more suspicious."),
        Column("threshold", "double", "The detector's own threshold."),
        Column("suspected_class", "int64", "The class that it suspects; null if none."),
        Column("suspected_source", "int64", "The only class that the found trigger moves; null if not looked for."),
        Column(
            "target_hit",
            "bool",
            "Whether the suspected class is the key's target; null if either is unknown.",
        ),
        Column(
            "mask_overlap",
            "double",
            "Intersection over union of the recovered mask (> 0.5) and the key's; null if none.",
        ),
        Column(
            "window_rank",
            "double",
            "Share of the windows of the trigger's shape that lie as high on the recovered map as the trigger's own: "
            "uniform on 0..1 by chance; null if either is unknown, or the trigger fits at one place only.",
        ),
    ),
)

MEASUREMENTS = Table(
    "measurements",
    "One row a number that an analysis, or a detector beside its verdict, measured of a cell's model.",
    ("dataset", "defense", "attack", "seed", "analysis", "layer", "group", "quantity", "index"),
    (
        _RUN,
        *_LABELS,
        Column("model", "string", "Id of the stage that made the model."),
        Column("analysis", "string", "The analysis or detector, with its options."),
        Column("layer", "string", "The layer that it is about; empty if none."),
        Column("group", "string", "The inputs or class that it is about; empty if it is about all."),
        Column("quantity", "string", "What was measured: the analysis's docstring tells."),
        Column("index", "int64", "Number of the neuron, sample or class within."),
        Column("value", "double", "The number; null where it is not defined."),
    ),
)

CURVES = Table(
    "curves",
    "One row a stage x epoch x quantity: training curves.",
    ("stage", "training", "epoch", "quantity"),
    (
        _RUN,
        Column("stage", "string", "Id of the stage."),
        Column("training", "int64", "Number of the training within the stage, from 0."),
        Column("epoch", "int64", "Epoch, from 1."),
        Column(
            "quantity",
            "string",
            "`loss` of the first stream, `loss:1` of the second, a quantity that a loss names; and where the recipe "
            "says `watch`, `accuracy` on the test set, `success` on the triggers, `snnl:<layer>` between triggers and "
            "target data, after the epoch.",
        ),
        Column("value", "double", "Mean over the epoch's batches, or what was measured after it."),
    ),
)

STAGES = Table(
    "stages",
    "One row a stage: what it cost, where it ran, how it ended.",
    ("stage",),
    (
        _RUN,
        Column("stage", "string", "Id of the stage: a digest of all that decides its output."),
        Column("action", "string", "`train`, `triggers`, `embed`, `attack`, `detect`, `judge`, `verify` or `analyse`."),
        Column("label", "string", "What it is, for people."),
        Column("dataset", "string", "The dataset with its options."),
        Column("plugin", "string", "The defense, attack or analysis that it ran, with its options; empty if none."),
        *_STATUS,
        Column("traceback", "string", "The traceback of a failed stage; empty otherwise."),
        Column("started", "timestamp", "When it started, UTC."),
        Column("seconds", "double", "Wall seconds."),
        Column("device", "string", "`cpu`, or the GPU's name."),
        Column("threads", "int64", "CPU threads that torch used."),
        Column(
            "precision",
            "string",
            "What nets were trained in: `fp32`; on a GPU `tf32` (its matrix products); or `bf16` (autocast).",
        ),
        Column(
            "peak_memory_mib",
            "double",
            "Peak resident memory of the process during the stage, MiB; since the process began, where the system "
            "cannot count anew.",
        ),
        Column(
            "peak_device_memory_mib",
            "double",
            "Peak memory of the GPU that torch held in the stage, MiB; null on a CPU.",
        ),
        Column("trained_samples", "int64", "Samples that went through training steps, each as often as it was shown."),
        Column("evaluated_samples", "int64", "Samples that nets answered for without being trained."),
        Column(
            "recalled_samples",
            "int64",
            "Samples that no net had to answer for, since an earlier stage had been told the same.",
        ),
        Column("accuracy", "double", "Test accuracy of the model that it made, 0..1; null if it made none."),
        Column("queries", "int64", "Queries asked of an oracle; null if none."),
        Column("torch", "string", "Version of torch."),
        Column("harness", "string", "Version of watermark-harness."),
        Column("machine", "string", "Operating system, processor, number of CPUs and Python version."),
        Column(
            "data_checksum",
            "string",
            "Which content the dataset's files had: the first 32 hexadecimal digits of a SHA-256 over the whole set, "
            "whatever the options. It covers `x_test`, `x_train`, `y_test` and `y_train` in this order: of each the "
            "text `<name> <dtype> <shape>` (`x_test uint8 (10000, 1, 28, 28)`; labels are `int64 (10000,)`), then its "
            "values in C order, little-endian. Null where the stage read no data (`verify`, `judge`), and in files of "
            "schema version 3.",
            since=4,
        ),
        Column(
            "other_dataset",
            "string",
            "The other dataset that it read (out-of-distribution triggers, an attacker's pool); null if none.",
            since=4,
        ),
        Column("other_checksum", "string", "That one's checksum, made as `data_checksum`.", since=4),
        Column(
            "commit",
            "string",
            "The commit of the checkout that the harness ran from, with a `+` where files of the package had been "
            "edited; null where it was installed in another way.",
            since=4,
        ),
    ),
)

TABLES: dict[str, Table] = {table.name: table for table in (CELLS, EVIDENCE, DETECTIONS, MEASUREMENTS, CURVES, STAGES)}


class Tables:
    """The tables of one results folder."""

    def __init__(self, results: Path) -> None:
        self.folder = results / "tables"

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
        partial = path.with_suffix(".partial")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            pq.write_table(data, partial, compression="zstd", write_page_checksum=True)
            partial.replace(path)
        except OSError as error:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise ResultsError(f"cannot write {str(path)!r}: {error.strerror or error}") from error

    def _part(self, table: str, run: str) -> Path:
        """The next file of ``run``."""
        folder = self.folder / table
        part = len(list(folder.glob(f"{run}*.parquet")))
        return folder / f"{run}-{part:04d}.parquet"

    def time_of_next_run(self, now: datetime) -> str:
        """With what the name of a run begins: now, or just after the latest run where a clock was set back since.

        Rows are merged in the order of these names.
        """
        runs = (path.name[:15] for path in self.folder.glob("*/*.parquet") if _RUN_TIME.match(path.name))
        with suppress(ValueError, OverflowError):  # a stranger's thirteenth month
            latest = datetime.strptime(max(runs, default=""), _TIME).replace(tzinfo=UTC)
            now = max(now, latest + timedelta(seconds=1))
        return f"{now:{_TIME}}"

    def mend(self) -> list[Path]:
        """Set aside the files that a power cut tore, with all that this and later runs wrote; the torn ones' names.

        Rows of these runs may lean on what was torn. A run then finds cells without rows, and writes them anew.
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

    def read(self, table: str, columns: Iterable[str] | None = None) -> pd.DataFrame:
        """The table merged over its runs: the newest row of each key; empty when nothing has been written.

        Rows of cells that a later run computed anew (an edited plugin, say) are left out; :meth:`every_row` has them.
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
        """As :meth:`read`, with the rows of cells that are no more, or never were."""
        return self._merged(table, None).reset_index(drop=True)

    def _merged(self, table: str, columns: list[str] | None) -> pd.DataFrame:
        import pyarrow as pa

        schema = TABLES[table].schema()
        wanted = schema if columns is None else pa.schema([schema.field(name) for name in columns])
        where = folder = self.folder / table
        parts, rows = [wanted.empty_table()], 0
        try:
            for where in sorted(folder.glob("*.parquet")):
                parts.append(_read_file(where, TABLES[table], wanted, MAX_ROWS - rows))
                rows += len(parts[-1])
            where, data = folder, pa.concat_tables(parts)
            _check_values(data, TABLES[table])
            # Not by the files' own metadata: pandas would name, type and index columns as a stranger wrote there.
            frame = data.to_pandas(ignore_metadata=True)
        except (pa.ArrowException, UnicodeDecodeError, OSError, MemoryError) as error:
            raise ResultsError(
                f"{printable(where)} is damaged ({printable(' '.join(str(error).split()))}): delete {self.folder}, "
                "and `harness run` writes it anew from the artifacts"
            ) from error
        return frame.drop_duplicates(list(TABLES[table].key), keep="last")


def _among(values: pd.Series[str], known: pd.Series[str]) -> Any:
    """Which of ``values`` are among those ``known``. In Arrow: pandas would make Python's strings of them all."""
    import pyarrow as pa
    import pyarrow.compute as pc

    ours, theirs = (pa.array(each, pa.large_string(), from_pandas=True) for each in (values, known))
    return pc.is_in(ours, value_set=theirs).to_numpy(zero_copy_only=False)


def _run_of(path: Path) -> str:
    return path.name.rpartition("-")[0]


def _is_torn(path: Path) -> bool:
    """Whether a file lacks a Parquet file's start or end: a look at both, and not at the rows."""
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


def _read_file(path: Path, table: Table, wanted: pa.Schema, room: int) -> pa.Table:
    """The ``wanted`` columns of one file, which has ``room`` rows at most; null where they came after its version.

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
        data = file.read([name for name in wanted.names if name in own.names])
    if len(data) != rows:
        raise pa.ArrowInvalid("another number of rows than it says")
    for column in wanted:
        if column.name not in own.names:
            data = data.append_column(column, pa.nulls(rows, column.type))
    return data.select(wanted.names)


def _version_of(path: Path, metadata: Mapping[bytes, bytes] | None) -> int:
    """The schema version that a file names. Raises :class:`ResultsError` for one that is not read."""
    version = (metadata or {}).get(_VERSION_KEY, b"none").decode()
    known = {str(each): each for each in range(OLDEST_VERSION, SCHEMA_VERSION + 1)}
    if version not in known:
        raise ResultsError(
            f"{printable(path)} has schema version {printable(version[:20])}, this harness writes {SCHEMA_VERSION}: "
            "choose another folder with --results"
        )
    return known[version]


def _check_values(data: pa.Table, table: Table) -> None:
    """Raise ``ArrowInvalid`` for values that no run writes: text that is none, a row without its key, a whole number
    that is none as a float, a count without its trials or beyond them."""
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


def refuse_links(*paths: Path) -> None:
    """Raise :class:`ResultsError` where one of ``paths`` is a link: what is written there would land elsewhere."""
    for path in paths:
        if path.is_symlink():
            raise ResultsError(
                f"{printable(path)} is a link, and only a results folder as a whole may be one: "
                "put what it leads to in its place, or choose another folder with --results"
            )


def refuse_record(folder: Path) -> None:
    """Raise :class:`UsageError` where a folder is a record: it holds the checksums of its own files."""
    if all((folder / name).exists() for name in ("manifest.json", "ids.json", "tables")):
        raise UsageError(
            f"{printable(folder)} is a record, and is never changed: name another folder with --results, "
            "or for a page a file elsewhere with --output"
        )


def printable(text: object) -> str:
    """``text`` for a terminal: what would not show as a character, such as an escape sequence, stands as its code."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def document() -> str:
    """``results/README.md``: every table and column, as Markdown."""
    lines = [_HEAD]
    for table in TABLES.values():
        lines += [
            f"## {table.name}",
            "",
            table.doc,
            "",
            f"Key: {', '.join(f'`{k}`' for k in table.key)}.",
            "",
        ]
        lines += ["| column | type | holds |", "| --- | --- | --- |"]
        lines += [f"| `{c.name}` | {c.type} | {c.doc} |" for c in table.columns]
        lines.append("")
    return "\n".join(lines)


_HEAD = f"""# Results

`harness run` writes here (or into `--results DIR`). This page is generated from `harness/tables.py` (`make docs`).

| path | holds |
| --- | --- |
| `tables/<table>/*.parquet` | the tables below, schema version {SCHEMA_VERSION} ({OLDEST_VERSION} is read, too) |
| `claims/` | which process computes which stage now; nothing that is worth keeping |
| `artifacts/<2>/<id>/` | what each stage made: `record.json`, and `tensors.safetensors` for models and keys |
| `figures/<paper>-<experiment>-<scale>.png`, `.csv` | pictures of `harness reproduce`, and the numbers that they show |
| `figures/<name>.svg`, `.pdf`, `.png` | pictures of `harness figures`, for print; a long one goes on in `<name>-b` |
| `report.html` | `harness report`: one page that opens from disk |
| `records/<date>-<name>/` | snapshots of `harness record`: tables, figures, pages, command, versions, checksums |

Read a table with `harness.read_table("results", "cells")`, or directly:

```python
import pandas as pd

cells = pd.read_parquet("results/tables/cells")  # every run's rows; read_table keeps the newest of each key
```

```sql
SELECT defense, attack, avg(surrogate_trigger_matches / surrogate_trigger_trials)
FROM 'results/tables/cells/*.parquet' WHERE status = 'ok' GROUP BY ALL;  -- DuckDB
```

Counts are raw: rates, tests and ranks are computed from them by `harness leaderboard`, the same way for every scheme.
"""
