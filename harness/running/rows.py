"""The rows of the tables, made of the records of stages: pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, TypeAlias

from harness.planning.graph import EMBED, SURROGATE, Cell, Role, Stage, Suspect
from harness.storage.contents import contents_text
from harness.storage.options import options_text
from harness.storage.records import StageRecord, about
from harness.storage.schema import STAGES

Row: TypeAlias = dict[str, Any]
Records: TypeAlias = Mapping[str, StageRecord]
"""Records by stage id."""
Stages: TypeAlias = Mapping[str, Stage]
"""Stages by id."""

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

    An analysis that cannot be made skips itself, not its cell. A model to compare with that is missing is the reason of
    a cell that is ok.
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
    if ends:
        return ends[0]["status"], ends[0]["reason"]
    missing = [record["reason"] for _, record in known if record["reason"]]
    return "ok", missing[0] if missing else ""


def cell_row(cell: Cell, records: Records, stages: Stages) -> Row:
    """The wide row of a cell. What its stages did not get to is null."""
    status, reason = outcome(cell, records)
    row = labels(cell) | {
        "family": cell.family,
        "options": options_text(cell.uses),
        "access": cell.access,
        "threat": cell.threat,
        "knows": cell.knows,
        "labelled": cell.labelled_share is not None,
        "labelled_share": cell.labelled_share,
        "forged_before": cell.forged_before,
        "fingerprint": cell.uses[1].plugin.fingerprint,
        "contents": contents_text([records[id] for id in _read_by(cell, stages) if id in records]),
        "status": status,
        "reason": reason,
    }
    if cell.skip:
        return row
    by_role = {role: records[id] for role, id in cell.stages}
    attacks = [record for role, record in by_role.items() if role.what == "attack" or _is_of_the_model(role, "detect")]
    victim, surrogate = by_role[EMBED], by_role[SURROGATE]
    verified = {role.about: [record] for role, record in by_role.items() if role.what == "verify"}
    asked = {kind: list(_asked(cell, records, stages, kind)) for kind in ("null", "attacked")}
    accuracies = [a for suspect, _ in asked["null"] if (a := records[suspect.model].get("accuracy")) is not None]
    of_victim, of_surrogate = verified.get("victim", []), verified.get("surrogate", [])
    return row | {
        "model": dict(cell.stages)[SURROGATE],
        "accuracy_gate": gate_of(cell),
        "null_accuracy": sum(accuracies) / len(accuracies) if accuracies else None,
        "victim_accuracy": victim.get("accuracy"),
        "surrogate_accuracy": surrogate.get("accuracy"),
        "victim_raw_accuracy": victim.get("raw_accuracy"),
        "surrogate_raw_accuracy": surrogate.get("raw_accuracy"),
        "surrogate_pool_accuracy": surrogate.get("pool_accuracy"),
        "test_samples": surrogate.get("test_samples"),
        "agreement": surrogate.get("agreement", 1.0) if status == "ok" else None,
        "queries": sum(record.get("queries") or 0 for record in attacks),
        **_counts("victim", "trigger", [record.get("evidence") for record in of_victim]),
        **_counts("surrogate", "trigger", [record.get("evidence") for record in of_surrogate]),
        **_counts("surrogate", "held_out", [record.get("evidence") for record in of_surrogate]),
        **_counts("surrogate", "control", [record.get("evidence") for record in of_surrogate]),
        **_counts("null", "trigger", [counts for _, counts in asked["null"]]),
        "nulls": len(asked["null"]),
        "attacked": len(asked["attacked"]),
        "embed_seconds": victim.get("seconds"),
        "attack_seconds": sum(record.get("seconds") or 0.0 for record in attacks),
    }


def gate_of(cell: Cell) -> float | None:
    """The clean accuracy that the data set expects of the cell's unmarked models; ``None`` where it states none, and
    where these are of the scheme's own architecture."""
    dataset, defense = cell.uses[0].plugin, cell.uses[1].plugin
    return dataset.gate.accuracy if dataset.gate and not defense.architecture_built else None


def _read_by(cell: Cell, stages: Stages) -> Iterator[str]:
    """The stages of a cell, and those that made the models that its key was asked of."""
    for _, id in cell.stages:
        yield id
        for suspect in stages[id].suspects:
            yield from (suspect.model, suspect.base)


def _asked(cell: Cell, records: Records, stages: Stages, about: str) -> Iterator[tuple[Suspect, Mapping[str, Any]]]:
    """The models of a cell's ``ask`` stage about these, each with its counts by probe; those missing are left out."""
    for id in (id for role, id in cell.stages if role == ("ask", about, None)):
        for suspect, counts in zip(stages[id].suspects, records[id].get("asked") or [], strict=False):
            if counts is not None:
                yield suspect, counts


def _is_of_the_model(role: Role, what: str) -> bool:
    """True for the stage of that action on the cell's own model."""
    return role[:2] == (what, "surrogate")


def _counts(who: str, probe: str, evidence: Iterable[Mapping[str, Any] | None]) -> Row:
    """Matches and trials of one probe, summed; null where nothing was verified."""
    counts = [counted[probe] for counted in evidence if counted and probe in counted]
    return {
        f"{who}_{probe}_matches": sum(c[0] for c in counts) if counts else None,
        f"{who}_{probe}_trials": sum(c[1] for c in counts) if counts else None,
    }


def evidence_rows(cell: Cell, records: Records, stages: Stages) -> Iterator[Row]:
    """One row a suspect and probe."""
    if cell.skip:
        return
    by_role = dict(cell.stages)
    named = labels(cell)
    victim = by_role[EMBED]
    for who, model in (("victim", victim), ("surrogate", by_role[SURROGATE])):
        if id := by_role.get(Role("verify", who)):
            counted = records[id].get("evidence") or {}
            yield from _evidence(named, who, 0, "", records[model], records[victim], counted)
    for group in ("null", "attacked", "innocent"):
        for suspect, counts in _asked(cell, records, stages, group):
            made, base = records[suspect.model], records[suspect.base]
            yield from _evidence(named, suspect.kind, suspect.number, suspect.arm, made, base, counts)


def _evidence(
    named: Row, kind: str, index: int, arm: str, made: StageRecord, base: StageRecord, counts: Mapping[str, Any]
) -> Iterator[Row]:
    accuracies = {
        "accuracy": made.get("accuracy"),
        "pool_accuracy": made.get("pool_accuracy"),
        "base_accuracy": base.get("accuracy"),
    }
    for probe, (matches, trials) in counts.items():
        yield {
            **named,
            **{"suspect": kind, "arm": arm, "index": index, "probe": probe, "matches": matches, "trials": trials},
            **accuracies,
        }


def detection_rows(cell: Cell, records: Records, stages: Stages) -> Iterator[Row]:
    """One row a suspect of a chain that ends in a detector."""
    for id in (id for role, id in cell.stages if role.what == "judge"):
        for suspect, judgement in zip(stages[id].suspects, records[id].get("judgements") or [], strict=False):
            if judgement is not None:
                found = records[suspect.model]["detection"]
                yield {**labels(cell), "suspect": suspect.kind, "index": suspect.number, **found, **judgement}


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
