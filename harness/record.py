"""A results folder frozen for others: its merged tables, pictures, ranking and surroundings, with a checksum of each.

A record is a results folder too, without artifacts: ``harness leaderboard --results RECORD`` reads it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.checkout import commit
from harness.errors import DamagedArtifact, ResultsError, UsageError
from harness.gallery import Shown, collect, draw_all
from harness.leaderboard import Board, Rules, make_board
from harness.origins import inputs_in
from harness.store import plain
from harness.tables import SCHEMA_VERSION, TABLES, Tables, printable

if TYPE_CHECKING:
    import pandas as pd

    from harness.plan import Lookup
    from harness.store import Store

FORMAT = 1
UNLISTED = ("README.md", "manifest.json")
"""Not in the manifest: a person completes the one, and the other would have to hold its own checksum."""


def record(
    store: Store, tables: Tables, folder: Path, title: str, command: str, lookup: Lookup, ranking: str
) -> list[str]:
    """Write the record ``folder``, whole or not at all; the names of its files. ``ranking`` is Markdown.

    Raises :class:`UsageError` where there is something already.
    """
    if folder.exists() or folder.is_symlink():
        raise UsageError(
            f"{printable(folder)} is there already, and a record is never overwritten: choose another name"
        )
    board = board_of(tables)
    partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    try:
        for name in TABLES:
            _freeze(tables.read(name), name, partial)
        draw_all(collect(Shown(tables, lookup)), partial / "figures", "svg")
        (partial / "leaderboard.md").write_text(ranking, "utf-8")
        _write_json(partial / "ids.json", _ids(store, tables))
        _write_json(partial / "environment.json", _environment(board, command))
        _write_json(partial / "manifest.json", {"format": FORMAT, "schema": SCHEMA_VERSION, "files": digests(partial)})
        (partial / "README.md").write_text(_readme(title, command, board), "utf-8")
        partial.rename(folder)
    except OSError as error:
        raise ResultsError(f"cannot write {printable(folder)}: {error.strerror}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # there no more, once it was renamed
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def board_of(tables: Tables) -> Board:
    """The ranking by the default rules."""
    return make_board(tables.read("cells"), tables.read("detections"), tables.read("stages"), Rules(), intervals=False)


def numbers(board: Board) -> dict[str, Any]:
    """What a record's page says in a machine's words: of every scheme, rates in 0..1."""
    rows = [
        {
            **{name: getattr(scheme, name) for name in ("dataset", "defense", "rank", "seeds", "verified")},
            **{
                name: spread.mean if (spread := getattr(scheme, name)) else None
                for name in ("margin", "victim_success", "false_rate", "accuracy_cost")
            },
            **{name: getattr(scheme, name) for name in ("void", "failed", "skipped")},
        }
        for scheme in board.schemes
    ]
    values: dict[str, Any] = plain({"schemes": rows})
    return values


def digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of each listed file, by its path in the folder."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    named = {path.relative_to(folder).as_posix(): path for path in paths}
    return {n: hashlib.sha256(p.read_bytes()).hexdigest() for n, p in named.items() if n not in UNLISTED}


def _freeze(frame: pd.DataFrame, table: str, folder: Path) -> None:
    """Write a merged table as one file, where :class:`Tables` finds it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = TABLES[table].schema()
    data = pa.Table.from_pandas(frame, schema=schema, preserve_index=False).replace_schema_metadata(schema.metadata)
    path = folder / "tables" / table / "merged.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(data, path, compression="zstd", write_page_checksum=True)


def _ids(store: Store, tables: Tables) -> dict[str, Any]:
    """The inputs of every stage whose artifact is still there: its id is their digest."""
    known = {}
    for id in tables.read("stages", ["stage"])["stage"]:
        with suppress(DamagedArtifact, ResultsError):
            if (found := store.record(id)) and (inputs := inputs_in(id, found)):
                known[id] = dict(inputs)
    return known


def _environment(board: Board, command: str) -> dict[str, Any]:
    from harness import __version__

    return {"command": command, "commit": commit(), "recorded_with": __version__, "measured_on": board.machines}


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", "utf-8")


def _readme(title: str, command: str, board: Board) -> str:
    machines = "; ".join(printable(machine).replace("|", "\\|") for machine in board.machines)
    return f"""# {title}

(What was asked, and the answer in two sentences.)

The ranking is in [leaderboard.md](leaderboard.md), pictures are in `figures/`.

## What agrees with earlier results, and what differs

- (One line a finding, with n and spread.)

## How it was made

```
{command or "(the command)"}
```

| | |
| --- | --- |
| machine and versions | {machines or "unknown"} |
| commit | {commit() or "unknown"} |
| files | `tables/`: the merged tables; `ids.json`: of what each stage's id is the digest; `manifest.json`: checksums |

The numbers for a machine, which `harness submit` compares with the tables:

```json
{json.dumps(numbers(board), indent=1)}
```
"""
