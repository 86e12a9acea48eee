"""The reason why a stage or a cell is done, waits, or is to be run again: its state, what changed, its parents."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from harness.inspect.diff import Cause, Comparison, Parents, Stored, name_of
from harness.inspect.status import Status, Survey
from harness.planning.graph import Cell, Plan, Stage
from harness.planning.select import pick, words


@dataclass(frozen=True)
class Part:
    """A stage in the role of a parent, with its own parents."""

    role: str
    state: str
    label: str
    """The stage's label without the dataset, which the whole names already."""
    id: str
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True)
class Answer:
    """The answer about a cell, a stage or an artifact."""

    title: str
    facts: list[tuple[str, str]]
    """Facts as (title, text)."""
    parts: tuple[Part, ...] = ()
    """The parents of a stage, or the stages of a cell."""


class Asked:
    """Answers questions about a plan and the results folder beside it."""

    def __init__(self, plan: Plan, matrix: str, survey: Survey) -> None:
        self.plan, self.matrix, self.survey = plan, matrix, survey
        self.stored = Stored(survey.store, survey.tables, survey.stored)
        self.comparison = Comparison(plan, self.stored)

    def answer(self, text: str) -> Answer:
        """The answer for an id, its beginning, or the words of a cell or stage. Raises :class:`harness.UsageError`."""
        cells = {cell.id: cell for cell in self.plan.cells}
        ids: dict[str, Stage | Cell | str] = {id: id for id in self.survey.stored}
        ids |= {**self.plan.stages, **cells}
        names = {_title(stage): id for id, stage in self.plan.stages.items()}
        names |= {_words(cell): id for id, cell in cells.items()}
        found = pick("cell or stage", text, ids, names, f" in the matrix {self.matrix} (--matrix names another)")
        if isinstance(found, Cell):
            return self._cell(found)
        return self._stage(found) if isinstance(found, Stage) else self._artifact(found)

    # --- a stage of the plan ---

    def _stage(self, stage: Stage) -> Answer:
        status = self.survey.stages[stage.id]
        facts = [("id", stage.id), ("status", self._told(stage, status))]
        if status.state == "waiting":
            before = self.stored.before(stage)
            facts += _because(self._causes(stage), _title(stage))
            facts.append(("before", f"{before}, {self._made(before)}" if before else "none of its name is stored"))
        cells = [cell for cell in self.plan.cells if any(id == stage.id for _, id in cell.stages)]
        if cells:
            many = f"{len(cells)} cells, such as " if len(cells) > 1 else ""
            facts.append(("needed by", many + _words(cells[0])))
        return Answer(_title(stage), facts, self._parts(stage.parents, set()))

    def _told(self, stage: Stage, status: Status) -> str:
        """The state of a stage as facts."""
        if status.state == "running":
            note = next(note for note in self.survey.notes if note["stage"] == stage.id)
            return f"runs now, in process {note.get('pid')} on {note.get('host')}"
        if status.state == "done" and status.reason:
            return _incomplete(status)
        if status.state == "done":
            return f"done, {self._made(stage.id)}"
        if status.state == "failed":
            return f"failed, and a run tries it again: {status.reason}"
        if status.state == "skipped":
            return f"skipped: {status.reason}"
        if status.reason:
            return f"waits for a run: {status.reason}"
        missing = [role for role, id in stage.required if self.survey.stages[id].state != "done"]
        models = sum(self.survey.stages[suspect.model].state != "done" for suspect in stage.suspects)
        if models:
            missing.append(f"{models} of the {len(stage.suspects)} models that it asks")
        return f"waits for {' and '.join(dict.fromkeys(missing))}" if missing else "waits for a run"

    def _made(self, id: str) -> str:
        """The time when an artifact was made, and how long that took."""
        record = self.stored.record(id)
        if record is None:
            return "its artifact no more stored: the cells that needed it have their rows"
        seconds = record.get("seconds")
        took = f", in {seconds:.1f} s" if isinstance(seconds, int | float) else ""
        return f"made on {str(record.get('started'))[:19].replace('T', ' ')} UTC{took}"

    def _causes(self, stage: Stage) -> dict[str, Cause]:
        """The changes since a stage of this name was stored; empty where none is, or where this very stage is."""
        before = None if stage.id in self.survey.stored else self.stored.before(stage)
        return self.comparison.causes(stage, before) if before else {}

    # --- a cell of the plan ---

    def _cell(self, cell: Cell) -> Answer:
        status = self.survey.cells[cell.id]
        ids = list(dict.fromkeys(id for _, id in cell.stages))
        causes: dict[str, Cause] = {}
        if status.state in ("waiting", "running"):
            for id in ids:
                for text, cause in self._causes(self.plan.stages[id]).items():
                    causes.setdefault(text, cause)
        facts = [("id", cell.id), ("status", self._told_cell(cell, status, ids)), *_because(causes)]
        return Answer(_words(cell), facts, tuple(self._part(str(role), id, (), set()) for role, id in cell.stages))

    def _told_cell(self, cell: Cell, status: Status, ids: list[str]) -> str:
        """The state of a cell as facts."""
        if status.state == "failed":
            return f"failed, and a run tries it again: {status.reason}"
        if status.state == "skipped":
            return f"skipped: {status.reason}"
        if status.state == "done" and status.reason:
            return _incomplete(status)
        if status.state == "done":
            return "done" if cell.id in self.survey.rows else "done; its row in the table cells is still to be written"
        counts = Counter(self.survey.stages[id].state for id in ids)
        told = ", ".join(f"{count} {state}" for state, count in counts.items())
        return f"{'runs now' if status.state == 'running' else 'waits for a run'}; of its {len(ids)} stages: {told}"

    # --- an artifact of no cell of the plan ---

    def _artifact(self, id: str) -> Answer:
        record = self.stored.record(id)
        if record is None:
            return Answer(f"artifact {id}", [("status", "damaged: a run that needs it computes it again")])
        status = f"{record.get('status')}, {self._made(id)}; of no cell of the matrix {self.matrix}"
        facts = [("id", id), ("status", status)]
        if now := self._now(record.get("action"), str(record.get("label"))):
            facts += _because(self.comparison.causes(now, id), _title(now))
            facts.append(("now", f"{now.id}, {self.survey.stages[now.id].state}"))
        inputs = self.stored.inputs(id)
        if inputs is None:
            facts.append(("made from", "not known: an older harness wrote its record"))
        parts = self._parts(inputs["parents"], set()) if inputs else ()
        return Answer(f"{record.get('action')}: {record.get('label')}", facts, parts)

    def _now(self, action: Any, label: str) -> Stage | None:
        """The plan's stage with this action and name."""
        stages = self.plan.stages.values()
        return next((s for s in stages if s.action == action and name_of(s.label) == name_of(label)), None)

    # --- parts ---

    def _parts(self, parents: Parents, told: set[str]) -> tuple[Part, ...]:
        """The parents of a stage, each expanded once."""
        parts = []
        for role, id in parents:
            below = self._parents(id) if id not in told else ()
            told.add(id)
            parts.append(self._part(role, id, below, told))
        return tuple(parts)

    def _part(self, role: str, id: str, parents: Parents, told: set[str]) -> Part:
        if stage := self.plan.stages.get(id):
            state, label, dataset = str(self.survey.stages[id].state), stage.label, stage.dataset.text
        else:
            record = self.stored.record(id)
            state = "stored" if record else "missing"
            label = str(record.get("label")) if record else "its label is not known"
            dataset = str((record or {}).get("dataset"))
        return Part(role, state, label.removeprefix(f"{dataset} "), id, self._parts(parents, told))

    def _parents(self, id: str) -> Parents:
        if stage := self.plan.stages.get(id):
            return stage.parents
        inputs = self.stored.inputs(id)
        parents: Parents = inputs["parents"] if inputs else ()
        return parents


def _title(stage: Stage) -> str:
    return f"{stage.action}: {stage.label}"


def _words(cell: Cell) -> str:
    return words(cell.dataset, cell.defense, cell.attack, cell.seed)


def _incomplete(status: Status) -> str:
    return f"done as far as it can be, and a run tries it again: {status.reason}"


def _because(causes: dict[str, Cause], title: str = "") -> list[tuple[str, str]]:
    """Causes as facts under the title ``title``; causes that come in elsewhere name the stage."""
    told = (f"{each.text}; first in {each.where}" if each.where != title else each.text for each in causes.values())
    return [("because", text) for text in told]
