"""A results folder frozen for others: its merged tables, pictures, ranking, report and environment, with a checksum
each.

A record is a results folder too, without artifacts: ``harness leaderboard --results RECORD`` reads it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import DamagedArtifact, ResultsError, UsageError
from harness.figures.catalogue import collect, draw_all
from harness.figures.shown import Shown
from harness.files import whole_folder
from harness.planning.inputs import inputs_in
from harness.planning.registry import Registry
from harness.ranking import views
from harness.ranking.columns import Sheet
from harness.ranking.overview import weakness
from harness.ranking.render import markdown
from harness.report import About, Results, render
from harness.running.checkout import commit
from harness.storage.contents import CONTENTS, contents_in
from harness.storage.options import names_in
from harness.storage.schema import SCHEMA_VERSION, TABLES
from harness.storage.store import plain
from harness.storage.tables import Tables
from harness.text import printable
from harness.verdicts.board import INNOCENTS, THREATS, Board, Scheme, Share
from harness.verdicts.reading import read_board
from harness.verdicts.rules import Rules
from harness.verdicts.scoring import fewest

if TYPE_CHECKING:
    import pandas as pd

    from harness.storage.store import Store

FORMAT = 2
MAX_IDS = 2**26
"""Largest size of ``ids.json``, in bytes."""
UNLISTED = ("README.md", "manifest.json")
"""Files outside the manifest: a person completes README.md, and the manifest cannot hold its own checksum."""


def record(
    store: Store, tables: Tables, folder: Path, title: str, command: str, registry: Registry, ranking: str
) -> list[str]:
    """Write the record ``folder``, whole or not at all, and return the names of its files.

    ``ranking`` is Markdown. Raises :class:`UsageError` where the folder exists already.
    """
    if folder.exists() or folder.is_symlink():
        raise UsageError(f"{folder} is there already, and a record is never overwritten: choose another name")
    board, stages = board_of(tables), tables.read("stages")
    environment = {**_made_by(command), "measured_on": board.machines, **measured(stages, tables.read("cells"))}
    try:
        with whole_folder(folder) as partial:
            for name in TABLES:
                _freeze(tables.read(name), name, partial)
            draw_all(collect(Shown(tables, registry.component)), partial / "figures", "svg")
            (partial / "leaderboard.md").write_text(ranking, "utf-8")
            (partial / "report.html").write_text(report(Tables(partial), environment, registry), "utf-8")
            _write_json(partial / "ids.json", _ids(store, stages["stage"]))
            _write_json(partial / "environment.json", environment)
            manifest = {"format": FORMAT, "schema": SCHEMA_VERSION, "files": digests(partial)}
            _write_json(partial / "manifest.json", manifest)
            (partial / "README.md").write_text(_readme(title, environment, board), "utf-8")
    except OSError as error:
        raise ResultsError(f"cannot write {folder}: {error.strerror}") from error
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def board_of(tables: Tables) -> Board:
    """The ranking by the default rules."""
    return read_board(tables, Rules(), intervals=False)


def numbers(board: Board) -> dict[str, Any]:
    """The numbers of a record's page for machines: shares in 0..1 and margins in -1..1, for every scheme, and for every
    sort of innocent models that its keys were asked of."""
    innocents = [
        {**{name: getattr(each, name) for name in ("dataset", "defense", "suspects", "attack")}, **_share(each.accused)}
        for each in board.innocents
    ]
    values: dict[str, Any] = plain({"schemes": list(map(_numbers, board.schemes)), "innocents": innocents})
    return values


def _numbers(scheme: Scheme) -> dict[str, Any]:
    means = {
        name: spread.mean if (spread := getattr(scheme, name)) else None
        for name in ("victim_margin", "false_rate", "cost")
    }
    standings = {
        threat: {
            **{name: getattr(each, name) for name in ("rank", "claim", "survives", "removed", "attacks", "incomplete")},
            "worst": each.worst.mean if each.worst else None,
        }
        for threat in THREATS
        if (each := scheme.standings.get(threat))
    }
    plainly = ("dataset", "defense", "seeds", "gate", "no_rank", "anonymous", "useless_key")
    return {
        **{name: getattr(scheme, name) for name in plainly},
        "victims": _share(scheme.victims),
        **means,
        "standings": standings,
    }


def _share(share: Share | None) -> dict[str, Any]:
    return {"marked": share.count if share else None, "of": share.of if share else 0}


def measured(stages: pd.DataFrame, cells: pd.DataFrame) -> dict[str, Any]:
    """The part of ``environment.json`` from the stages: ``versions``, the ``data`` by their checksums, and
    the ``names`` that a matrix file gave to data sets, where it did."""
    parts = stages["machine"].str.extract(r"^(?P<platform>[^,]+),.* Python (?P<python>\S+)$")
    told = {**parts, "torch": stages["torch"], "harness": stages["harness"], "commit": stages["commit"]}
    versions = {name: sorted(values.dropna().unique()) for name, values in told.items()}
    names = {name: sorted(meant) for name, meant in sorted(names_in(cells).items())}
    return {"versions": versions, "data": checksums(stages, cells), **({"names": names} if names else {})}


def checksums(stages: pd.DataFrame, cells: pd.DataFrame) -> dict[str, list[str]]:
    """The checksums of each data set's content, in order: by its name, with its options where these decide.

    There is one, unless its files changed between runs of the cells; none where neither these nor the stages say.
    """
    found = _checksums(stages)
    for text, told in _contents(cells).items():
        found[text] = told  # of the cells that count: others, of stages that nothing needs, are left out
    texts: dict[str, list[str]] = {}
    for text in sorted(found):
        texts.setdefault(text.partition("[")[0], []).append(text)
    named: dict[str, list[str]] = {}
    for name, own in texts.items():
        together = sorted(set().union(*(found[text] for text in own)))
        is_by_options = len(together) > 1 and all(len(found[text]) < 2 for text in own)
        named |= {text: sorted(found[text]) for text in own} if is_by_options else {name: together}
    return named


def _checksums(stages: pd.DataFrame) -> dict[str, set[str]]:
    """The contents of data sets that any stage read, by their texts."""
    own, other = (
        stages[list(pair)].set_axis(["name", "checksum"], axis=1).dropna(subset="name")
        for pair in (("dataset", "data_checksum"), ("other_dataset", "other_checksum"))
    )
    found: dict[str, set[str]] = {}
    for name, checksum in {*own.itertuples(index=False, name=None), *other.itertuples(index=False, name=None)}:
        found.setdefault(name, set()).update([checksum] if isinstance(checksum, str) else [])
    return found


def _contents(cells: pd.DataFrame) -> dict[str, set[str]]:
    """The contents of data sets that cells were computed from, by their texts."""
    found: dict[str, set[str]] = {}
    for told in cells[CONTENTS].dropna().unique():
        for text, contents in contents_in(told).items():
            found.setdefault(text, set()).update(contents.split())
    return found


def report(tables: Tables, environment: Mapping[str, Any], registry: Registry) -> str:
    """The page ``report.html``. It is a function of the record's tables and ``environment.json`` alone, so it describes
    only the built-in plugins, which everybody has.
    """
    command, when, harness, commit = (
        printable(environment[name] or "") for name in ("command", "recorded_at", "recorded_with", "commit")
    )
    about = About("the tables beside this page", command, when, f"watermark-harness {harness}", commit)
    results = Results.of(tables, Rules())
    own = {key: found for key, found in registry.found.items() if found.origin.startswith("built-in: ")}
    return render(results, about, Registry(own))


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
    with path.open("wb") as file:
        pq.write_table(data, file, compression="zstd", write_page_checksum=True)


def _ids(store: Store, stages: pd.Series[str]) -> dict[str, Any]:
    """The inputs of every stage whose artifact is still there, or that an older record of the same folder holds: an id
    is their digest.
    """
    told, known = _told(store.results / "ids.json"), {}
    for id in stages:
        with suppress(DamagedArtifact, ResultsError):
            if inputs := inputs_in(id, store.record(id) or {"inputs": told.get(id)}):
                known[id] = dict(inputs)
    return known


def _told(path: Path) -> dict[str, Any]:
    """The content of a record's ``ids.json``; empty where there is none, or where it is another file of that name."""
    with suppress(OSError, ValueError, RecursionError):
        if not path.is_symlink() and path.stat().st_size < MAX_IDS:
            told = json.loads(path.read_bytes())
            return told if isinstance(told, dict) else {}
    return {}


def _made_by(command: str) -> dict[str, Any]:
    from harness import __version__

    now = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    return {"command": command, "commit": commit(), "recorded_with": __version__, "recorded_at": now}


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", "utf-8")


def _readme(title: str, environment: Mapping[str, Any], board: Board) -> str:
    versions = "; ".join(f"{name} {', '.join(found) or 'unknown'}" for name, found in environment["versions"].items())
    return f"""# {title}

(What was asked, and the answer in two sentences.)

The ranking is in [leaderboard.md](leaderboard.md), all results are on one page in `report.html` (it opens from disk),
pictures are in `figures/`.

{chr(10).join(_compared_with(board))}
{markdown(Sheet(views.tables(board, (views.WORST,))))}

## What agrees with earlier results, and what differs

- (One line a finding, with n and spread.)

## How it was made

```
{environment["command"] or "(the command)"}
```

| | |
| --- | --- |
| machine | {_in_table("; ".join(board.machines)) or "unknown"} |
| versions | {_in_table(versions)} |
| data | {_in_table("; ".join([*map(_data, environment["data"].items()), *_meant(environment)]))} |
| commit | {environment["commit"] or "unknown"} |
| recorded | {environment["recorded_at"]}, watermark-harness {environment["recorded_with"]} |
| `tables/` | the merged tables |
| `ids.json` | of what each stage's id is the digest |
| `environment.json` | the rows above, for a machine |
| `manifest.json` | the files' checksums |

The numbers for a machine, which `harness submit` compares with the tables:

```json
{json.dumps(numbers(board), indent=1)}
```
"""


def _meant(environment: Mapping[str, Any]) -> Iterator[str]:
    """Words on what each name of a matrix file stands for."""
    for name, meant in environment.get("names", {}).items():
        yield printable(f"{name} is {' or '.join(meant)}")


def _compared_with(board: Board) -> Iterator[str]:
    """Lines on what the verdicts of each data set rest on: the unmarked models, and the innocent ones."""
    for setting in board.settings:
        about = f"{printable(setting.dataset)}: "
        if weak := weakness(setting):
            yield f"- {about}{weak}"
        if setting.models < (needed := fewest(board.rules)):
            yield (
                f"- {about}no verdicts, which need {needed} unmarked models of the same data, net and recipe: it has "
                f"{setting.models}."
            )
            continue
        level = 1 - board.rules.confidence
        yield (
            f"- {about}compared with {setting.models} unmarked models of the same data, net and recipe. Of 100 models "
            f"without a mark about {100 * level:g} are called marked."
        )
        yield from _innocents(board, setting.dataset)


def _innocents(board: Board, dataset: str) -> Iterator[str]:
    """A table of the innocent models of a data set that each scheme's keys call marked, before any attack."""
    found = [each for each in board.innocents if each.dataset == dataset and each.attack == "none" and each.accused]
    kinds = [kind for kind in INNOCENTS if any(each.suspects == kind for each in found)]
    if not kinds:
        return
    cells = {(each.defense, each.suspects): _of(each.accused) for each in found if each.accused}
    yield "\nInnocent models that are called marked, of those asked (95% upper limit of their share):\n"
    yield f"| scheme | {' | '.join(kinds)} |"
    yield f"| --- |{' --- |' * len(kinds)}"
    for defense in dict.fromkeys(each.defense for each in found):
        yield f"| `{_in_table(defense)}` | {' | '.join(cells.get((defense, kind), '-') for kind in kinds)} |"
    yield ""


def _of(share: Share) -> str:
    return f"{share.count:.3g} of {share.of} ({100 * share.high:.0f}%)"


def _data(told: tuple[str, list[str]]) -> str:
    """A data set and its checksum; a warning where it has several."""
    name, found = told
    return f"{name} {' and '.join(found) or 'unknown'}{' (not always the same content!)' if len(found) > 1 else ''}"


def _in_table(text: str) -> str:
    """``text`` in a cell of a Markdown table."""
    return printable(text).replace("|", "\\|")
