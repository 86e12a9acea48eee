"""The schema of the Parquet tables: every table and column, declared once and documented."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.storage.fields import Column, columns_of
from harness.storage.records import Found, Judgement, StageRecord

if TYPE_CHECKING:
    import pyarrow as pa


SCHEMA_VERSION = 8
OLDEST_VERSION = 3
"""The first schema version that is read: in its files, columns that came later are null."""
VERSION_KEY = b"watermark-harness schema"
OWNERS = {"evidence": "cell", "detections": "cell", "measurements": "model"}
"""The tables whose rows stand only while their cell, or its model, does: by the column that names it."""
MAX_ROWS = 20_000_000
"""Rows of a table that are read: some hundred bytes can stand for a billion, and as a frame twenty million are 8 GB."""


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
        return pa.schema(fields, metadata={VERSION_KEY: str(version).encode()})


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
        Column(
            "options",
            "string",
            'All options of the cell, defaults included, as JSON: `{"dataset": {option: value}, "defense": '
            '{option: value}, "attack": [{option: value}]}`, an object a link of the chain; and where a matrix file '
            'named the data set `"names": {name: the data set with its options}`. Null in files of schema versions 3 '
            "and 4.",
            since=5,
        ),
        Column("access", "string", "What the chain's last attack has: `black-box`, `white-box` or `none`."),
        Column("threat", "string", "What the chain's first attack has of the victim: the same words.", since=6),
        Column("knows", "string", "What the chain is given of the defense: `nothing`, `scheme` or `key`.", since=6),
        Column("labelled", "bool", "True if one of the chain's attacks has true labels of its pool.", since=6),
        Column(
            "forged_before",
            "bool",
            "True if the key is forged without the model that it claims, so before it; null where none is forged.",
            since=8,
        ),
        Column(
            "labelled_share",
            "double",
            "Largest share of its pool of which one of the chain's attacks has true labels, 0..1; null where none has.",
            since=8,
        ),
        Column(
            "contents",
            "string",
            "Contents of the data sets that its stages read, those of its unmarked models too, as JSON: `{dataset: "
            "checksum}`, checksums as `data_checksum` in `stages`; several of one data set with spaces between them.",
            since=7,
        ),
        *_STATUS,
        Column("fingerprint", "bool", "True for a fingerprint: its scheme embeds nothing.", since=8),
        Column(
            "accuracy_gate",
            "double",
            "Clean accuracy that the data set expects of unmarked models with so many training samples, 0..1; null "
            "where it states none, and where the scheme has nets of another architecture.",
            since=7,
        ),
        Column("null_accuracy", "double", "Mean test accuracy of the null models, 0..1."),
        Column("victim_accuracy", "double", "Test accuracy of the victim as its scheme serves it, 0..1."),
        Column("surrogate_accuracy", "double", "Test accuracy of the surrogate, through its filter if any, 0..1."),
        Column("victim_raw_accuracy", "double", "Test accuracy of the victim's net itself, 0..1.", since=6),
        Column("surrogate_raw_accuracy", "double", "Test accuracy of the surrogate's net itself, 0..1.", since=6),
        Column(
            "surrogate_pool_accuracy",
            "double",
            "Accuracy of the surrogate on 1,000 of the attacker's own inputs, 0..1; null where they have no labels of "
            "this task.",
            since=6,
        ),
        Column("test_samples", "int64", "Number of test samples behind the accuracies.", since=6),
        Column("agreement", "double", "Share of test inputs on which surrogate and victim answer alike, 0..1."),
        Column("queries", "int64", "Queries that the chain's attacks asked of the model they attacked."),
        *_counts("victim", "trigger", "The victim on the triggers it was trained on"),
        *_counts("surrogate", "trigger", "The surrogate on the triggers the victim was trained on"),
        *_counts("surrogate", "held_out", "The surrogate on triggers that no model was trained on"),
        *_counts("surrogate", "control", "The surrogate where no mark should answer"),
        *_counts("null", "trigger", "All null models together on the triggers: the false watermark rate"),
        Column("nulls", "int64", "Number of null models behind the null columns."),
        Column("attacked", "int64", "Number of null models that went through the chain.", since=6),
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
    ("cell", "suspect", "arm", "index", "probe"),
    (
        _RUN,
        *_LABELS,
        Column(
            "suspect",
            "string",
            "`victim`; `surrogate`; `null`, an unmarked model to compare with; `attacked`, what the chain made of "
            "one; or an innocent model: `fresh` (unmarked, after the chain), `same-data` (unmarked, of the owner's own "
            "split), `other-recipe` (unmarked, trained otherwise), `other-owner` (the scheme's cell of another seed).",
        ),
        Column(
            "arm",
            "string",
            "The innocent's scheme with its options, such as `unmarked[recipe=net]`; empty for the others.",
            since=6,
        ),
        Column("index", "int64", "Number of the null model, or the innocent's seed; 0 for victim and surrogate."),
        Column("probe", "string", "`trigger`, `held_out`, `control`, or a probe of the scheme's own."),
        Column("matches", "int64", "Answers (or bits) that are as the key says."),
        Column("trials", "int64", "Queries asked (or bits read); 0 where the mark could not be read from the suspect."),
        Column("accuracy", "double", "Test accuracy of the suspect, 0..1."),
        Column(
            "pool_accuracy",
            "double",
            "Its accuracy on 1,000 of the attacker's own inputs, 0..1; null where they have no labels of this task.",
            since=6,
        ),
        Column(
            "base_accuracy",
            "double",
            "Test accuracy of the model that the chain attacked, 0..1: its own where nobody attacked.",
            since=6,
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
        *columns_of(Found),
        *columns_of(Judgement),
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
    (_RUN, *columns_of(StageRecord)),
)

TABLES: dict[str, Table] = {table.name: table for table in (CELLS, EVIDENCE, DETECTIONS, MEASUREMENTS, CURVES, STAGES)}


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

`harness run` writes here (or into `--results DIR`). `make docs` makes this page
from `harness/storage/schema.py`.

| path | holds |
| --- | --- |
| `tables/<table>/*.parquet` | the tables below, schema version {SCHEMA_VERSION} ({OLDEST_VERSION} or later is read) |
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
