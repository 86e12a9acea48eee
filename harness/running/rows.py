"""The rows of the tables, made of the records of stages: pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, TypeAlias

from harness.planning.graph import EMBED, SURROGATE, Cell, Role, Stage
from harness.storage.options import options_text
from harness.storage.records import StageRecord, about
from harness.storage.schema import STAGES

Row: TypeAlias = dict[str, Any]
Records: TypeAlias = Mapping[str, StageRecord]
"""Records by stage id."""

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


def outcome(cell: Cell, records: Records) -> tuple[str, str]:
    """The status and reason of a cell: those of its first known stage that is not ok; failed outranks skipped.

    An analysis that cannot be made skips itself, not its cell.
    """
    if cell.skip:
        return "failed" if cell.broken else "skipped", cell.skip
    known = [(role, records[id]) for role, id in cell.stages if id in records]
    ends = [
        record
        for role, record in known
        if record["status"] == "failed" or (record["status"] != "ok" and role.what != "analyse")
    ]
    ends.sort(key=lambda record: record["status"] != "failed")
    return (ends[0]["status"], ends[0]["reason"]) if ends else ("ok", "")


def cell_row(cell: Cell, records: Records) -> Row:
    """The wide row of a cell. What its stages did not get to is null."""
    status, reason = outcome(cell, records)
    row = labels(cell) | {
        "family": cell.family,
        "options": options_text(cell.uses),
        "access": cell.access,
        "status": status,
        "reason": reason,
    }
    if cell.skip:
        return row
    by_role = {role: records[id] for role, id in cell.stages}
    nulls = [record for role, record in by_role.items() if role.what == "null"]
    attacks = [record for role, record in by_role.items() if role.what == "attack" or _is_of_the_model(role, "detect")]
    accuracies = [accuracy for record in nulls if (accuracy := record.get("accuracy")) is not None]
    victim, surrogate = by_role[EMBED], by_role[SURROGATE]
    verified = {role.about: record for role, record in by_role.items() if role.what == "verify"}
    return row | {
        "model": dict(cell.stages)[SURROGATE],
        "null_accuracy": sum(accuracies) / len(accuracies) if accuracies else None,
        "victim_accuracy": victim.get("accuracy"),
        "surrogate_accuracy": surrogate.get("accuracy"),
        "agreement": surrogate.get("agreement", 1.0) if status == "ok" else None,
        "queries": sum(record.get("queries") or 0 for record in attacks),
        **_counts("victim", "trigger", [verified["victim"]]),
        **_counts("surrogate", "trigger", [verified["surrogate"]]),
        **_counts("surrogate", "held_out", [verified["surrogate"]]),
        **_counts("surrogate", "control", [verified["surrogate"]]),
        **_counts("null", "trigger", [r for role, r in by_role.items() if role[:2] == ("verify", "null")]),
        "nulls": len(nulls),
        "embed_seconds": victim.get("seconds"),
        "attack_seconds": sum(record.get("seconds") or 0.0 for record in attacks),
    }


def _is_of_the_model(role: Role, what: str) -> bool:
    """True for the stage of that action on the cell's own model."""
    return role[:2] == (what, "surrogate")


def _counts(who: str, probe: str, verified: list[StageRecord]) -> Row:
    """Matches and trials of one probe, summed; null where nothing was verified."""
    counts = [e[probe] for record in verified if probe in (e := record.get("evidence") or {})]
    return {
        f"{who}_{probe}_matches": sum(c[0] for c in counts) if counts else None,
        f"{who}_{probe}_trials": sum(c[1] for c in counts) if counts else None,
    }


def evidence_rows(cell: Cell, records: Records) -> Iterator[Row]:
    """One row a suspect and probe."""
    by_role = dict(cell.stages)
    models = {"victim": EMBED, "surrogate": SURROGATE}
    for role, id in cell.stages:
        if role.what != "verify":
            continue
        model = by_role[models.get(role.about) or Role("null", number=role.number)]
        for probe, (matches, trials) in (records[id].get("evidence") or {}).items():
            yield labels(cell) | {
                "suspect": role.about,
                "index": role.number or 0,
                "probe": probe,
                "matches": matches,
                "trials": trials,
                "accuracy": records[model].get("accuracy"),
            }


def detection_rows(cell: Cell, records: Records) -> Iterator[Row]:
    """One row a suspect of a chain that ends in a detector."""
    by_role = dict(cell.stages)
    for role, id in cell.stages:
        if role.what == "judge" and (judgement := records[id].get("judgement")):
            found = records[by_role[role._replace(what="detect")]]["detection"]
            yield {**labels(cell), "suspect": role.about, "index": role.number, **found, **judgement}


def measurement_rows(cell: Cell, records: Records) -> Iterator[Row]:
    """One row a number that analyses, and the detector, measured of the cell's model."""
    model = dict(cell.stages).get(SURROGATE)
    for role, id in cell.stages:
        if role.what != "analyse" and not _is_of_the_model(role, "detect"):
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


def curve_rows(record: StageRecord) -> Iterator[Row]:
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


def stage_row(stage: Stage, record: StageRecord) -> Row:
    """The row of a stage: what it is as the plan says, for the record may be of an older version."""
    started = record.get("started")
    known: Mapping[str, Any] = {**record, **about(stage), "label": record["label"]}
    return {name: known.get(name) for name in _STAGE_COLUMNS} | {
        "started": datetime.fromisoformat(started) if started else None
    }
