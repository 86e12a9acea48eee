"""From the records of stages to the rows of the tables: pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from harness.planning.graph import Cell
from harness.storage.schema import STAGES

Record = dict[str, Any]
Row = dict[str, Any]

_STAGE_COLUMNS = tuple(column.name for column in STAGES.columns if column.name not in ("run", "started"))


def labels(cell: Cell) -> Row:
    """The columns that name a cell in every table."""
    return {
        "cell": cell.id,
        "dataset": cell.dataset,
        "defense": cell.defense,
        "attack": cell.attack,
        "seed": cell.seed,
    }


def outcome(cell: Cell, records: Mapping[str, Record]) -> tuple[str, str]:
    """The status and reason of a cell: those of its first known stage that is not ok; failed outranks skipped.

    An analysis that cannot be made skips itself, not its cell.
    """
    if cell.skip:
        return "failed" if cell.broken else "skipped", cell.skip
    known = [(role, records[id]) for role, id in cell.stages if id in records]
    ends = [
        record
        for role, record in known
        if record["status"] == "failed" or (record["status"] != "ok" and not role.startswith("analyse:"))
    ]
    ends.sort(key=lambda record: record["status"] != "failed")
    return (ends[0]["status"], ends[0]["reason"]) if ends else ("ok", "")


def cell_row(cell: Cell, records: Mapping[str, Record]) -> Row:
    """The wide row of a cell. What its stages did not get to is null."""
    status, reason = outcome(cell, records)
    row = labels(cell) | {
        "family": cell.family,
        "access": cell.access,
        "status": status,
        "reason": reason,
    }
    if cell.skip:
        return row
    by_role = {role: records[id] for role, id in cell.stages}
    nulls = [record for role, record in by_role.items() if role.startswith("null:")]
    attacks = [record for role, record in by_role.items() if role.startswith(("attack:", "detect:surrogate"))]
    accuracies = [record["accuracy"] for record in nulls if record.get("accuracy") is not None]
    queries = [record["queries"] for record in attacks if record.get("queries") is not None]
    return row | {
        "model": dict(cell.stages)["surrogate"],
        "null_accuracy": sum(accuracies) / len(accuracies) if accuracies else None,
        "victim_accuracy": by_role["embed"].get("accuracy"),
        "surrogate_accuracy": by_role["surrogate"].get("accuracy"),
        "agreement": by_role["surrogate"].get("agreement", 1.0) if status == "ok" else None,
        "queries": sum(queries),
        **_counts("victim", "trigger", [by_role["verify:victim"]]),
        **_counts("surrogate", "trigger", [by_role["verify:surrogate"]]),
        **_counts("surrogate", "held_out", [by_role["verify:surrogate"]]),
        **_counts("surrogate", "control", [by_role["verify:surrogate"]]),
        **_counts("null", "trigger", [r for role, r in by_role.items() if role.startswith("verify:null:")]),
        "nulls": len(nulls),
        "embed_seconds": by_role["embed"].get("seconds"),
        "attack_seconds": sum(record.get("seconds") or 0.0 for record in attacks),
    }


def _counts(who: str, probe: str, verified: list[Record]) -> Row:
    """Matches and trials of one probe, summed; null where nothing was verified."""
    counts = [e[probe] for record in verified if probe in (e := record.get("evidence") or {})]
    return {
        f"{who}_{probe}_matches": sum(c[0] for c in counts) if counts else None,
        f"{who}_{probe}_trials": sum(c[1] for c in counts) if counts else None,
    }


def evidence_rows(cell: Cell, records: Mapping[str, Record]) -> Iterator[Row]:
    """One row a suspect and probe."""
    by_role = dict(cell.stages)
    models = {"victim": "embed", "surrogate": "surrogate"}
    for role, id in cell.stages:
        if not role.startswith("verify:"):
            continue
        _, suspect, *number = role.split(":")
        model = by_role[models.get(suspect) or f"null:{number[0]}"]
        for probe, (matches, trials) in (records[id].get("evidence") or {}).items():
            yield labels(cell) | {
                "suspect": suspect,
                "index": int(number[0]) if number else 0,
                "probe": probe,
                "matches": matches,
                "trials": trials,
                "accuracy": records[model].get("accuracy"),
            }


def detection_rows(cell: Cell, records: Mapping[str, Record]) -> Iterator[Row]:
    """One row a suspect of a chain that ends in a detector."""
    by_role = dict(cell.stages)
    for role, id in cell.stages:
        if role.startswith("judge:") and (judgement := records[id].get("judgement")):
            _, suspect, number = role.split(":")
            found = records[by_role[f"detect:{suspect}:{number}"]]["detection"]
            yield labels(cell) | {"suspect": suspect, "index": int(number)} | found | judgement


def measurement_rows(cell: Cell, records: Mapping[str, Record]) -> Iterator[Row]:
    """One row a number that analyses, and the detector, measured of the cell's model."""
    model = dict(cell.stages).get("surrogate")
    for role, id in cell.stages:
        if not role.startswith(("detect:surrogate", "analyse:")):
            continue
        for measure in records[id].get("measures") or []:
            for index, value in enumerate(measure["values"]):
                yield labels(cell) | {
                    "model": model,
                    "analysis": records[id]["plugin"],
                    "layer": measure["layer"],
                    "group": measure["group"],
                    "quantity": measure["quantity"],
                    "index": index,
                    "value": value,
                }


def curve_rows(record: Record) -> Iterator[Row]:
    """One row a training, epoch and quantity of a stage."""
    for training, curves in enumerate(record.get("curves") or []):
        for quantity, values in curves.items():
            for epoch, value in enumerate(values, start=1):
                yield {
                    "stage": record["stage"],
                    "training": training,
                    "epoch": epoch,
                    "quantity": quantity,
                    "value": value,
                }


def stage_row(record: Record) -> Row:
    """The row of a stage."""
    started = record.get("started")
    return {name: record.get(name) for name in _STAGE_COLUMNS} | {
        "started": datetime.fromisoformat(started) if started else None
    }
