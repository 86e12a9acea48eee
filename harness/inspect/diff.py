"""The reason why a stage runs although one of the same name is stored: the input of its id that changed.

Where two stages differ in a parent, the parents are compared, down to the edit itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

from harness.errors import DamagedArtifact
from harness.planning.graph import Plan, Stage
from harness.planning.inputs import Inputs, inputs_in, inputs_of
from harness.planning.sources import parts_of
from harness.storage.store import Store
from harness.storage.tables import Tables

Record: TypeAlias = Mapping[str, Any]
Parents: TypeAlias = Sequence[tuple[str, str]]
"""(role, id)"""


@dataclass(frozen=True)
class Cause:
    """A changed input of an id, and the stage where it comes in: the first on the way from the data, since the others
    have it only through that one.
    """

    text: str
    where: str


class Stored:
    """The artifacts of a results folder, by id and by name."""

    def __init__(self, store: Store, tables: Tables, ids: set[str]) -> None:
        self.store, self.tables, self.ids = store, tables, ids

    def record(self, id: str) -> Record | None:
        """The record of an artifact; ``None`` where there is none, or a damaged one."""
        try:
            return self.store.record(id)
        except DamagedArtifact:
            return None

    def inputs(self, id: str) -> Inputs | None:
        """The inputs of an artifact, where its record holds them."""
        record = self.record(id)
        return inputs_in(id, record) if record else None

    def before(self, stage: Stage) -> str | None:
        """The latest other artifact of the stage's action and name."""
        ids = [id for id in self._by_name.get((stage.action, name_of(stage.label)), ()) if id != stage.id]
        return max(ids, key=lambda id: str((self.record(id) or {}).get("started")), default=None)

    @cached_property
    def _by_name(self) -> dict[tuple[str, str], list[str]]:
        """Ids by action and name, most of them from the tables; where these lag behind, from the records."""
        frame = self.tables.read("stages", ["stage", "action", "label"])
        rows = zip(frame["stage"], frame["action"], frame["label"], strict=True)
        told = {id: (action, label) for id, action, label in rows}
        names: dict[tuple[str, str], list[str]] = {}
        for id in self.ids:
            action, label = told.get(id) or self._told(id)
            names.setdefault((str(action), name_of(str(label))), []).append(id)
        return names

    def _told(self, id: str) -> tuple[Any, Any]:
        record = self.record(id) or {}
        return record.get("action"), record.get("label")


class Comparison:
    """Compares a plan's stages with stored artifacts of the same name, each pair once."""

    def __init__(self, plan: Plan, stored: Stored) -> None:
        self.plan, self.stored = plan, stored
        self._known: dict[tuple[str, str], dict[str, Cause]] = {}

    def causes(self, stage: Stage, before: str) -> dict[str, Cause]:
        """The changes by their text, so that an input of many stages is named once."""
        pair = (stage.id, before)
        if pair not in self._known:
            self._known[pair] = self._compare(stage, before)
        return self._known[pair]

    def _compare(self, stage: Stage, before: str) -> dict[str, Cause]:
        where = f"{stage.action}: {stage.label}"
        then, now = self.stored.inputs(before), inputs_of(stage)
        if then is None:
            return _one("it is not known what it was made of before: an older harness wrote its record", where)
        if then["action"] != stage.action:
            return _one(f"it is made from a stage of another kind ({then['action']} before)", where)
        causes = self._parents(stage.parents, then["parents"], where)
        for name in {**now, **then}:
            old, new = (inputs.get(name, "-") for inputs in (then, now))
            if name != "parents" and str(new) != str(old):
                text = _differ(name, old, new)
                causes.setdefault(text, Cause(text, where))
        return causes

    def _parents(self, now: Parents, then: Parents, where: str) -> dict[str, Cause]:
        causes: dict[str, Cause] = {}
        new, old = dict(now), dict(then)
        for role in [*new, *(role for role in old if role not in new)]:
            if role not in old:
                causes |= _one(f"it is made from a {role} stage, and was made without", where)
            elif role not in new:
                causes |= _one(f"it was made from a {role} stage, and is made without", where)
            elif new[role] != old[role]:
                causes |= self.causes(self.plan.stages[new[role]], old[role])
        return causes


def _one(text: str, where: str) -> dict[str, Cause]:
    return {text: Cause(text, where)}


def name_of(label: str) -> str:
    """A label without the beginning of the victim's id, which changes whenever the victim does."""
    return re.sub(r" \([0-9a-f]{6}\)$", "", label)


# --- words ------------------------------------------------------------------------------------------------------------

_PLUGINS = ("dataset", "plugin", "architecture", "data", "recipe", "scheme")


def _differ(name: str, then: Any, now: Any) -> str:
    """An input of an id then and now, in words."""
    if name == "version":
        return f"the harness computes it in another way (version {then} before, {now} now)"
    if name not in _PLUGINS:
        return f"its {name.replace('_', ' ')} is another one ({then} before, {now} now)"
    (old, *before), (new, *after) = _text_and_digests(then), _text_and_digests(now)
    if old != new:
        return f"its {name} is another one ({old} before, {new} now)"
    kind = "recipe " if name == "recipe" else ""
    facts = [*_edits(f"{kind}{new}", before[0], after[0])]
    if before[1] != after[1]:
        was, now_is = (content or "unknown" for content in (before[1], after[1]))
        facts.append(f"the data of {new.partition(' ')[2]} changed (content {was} before, {now_is} now)")
    return ", and ".join(facts)


def _text_and_digests(identity: Any) -> tuple[str, str, str]:
    """The kind and text of a plugin, the digest of its source, and the beginning of that of its data's content."""
    text, _, digest = str(identity).rpartition(" ")
    source, _, content = digest.partition(":")
    return text or "none", source, content[:8]


def _edits(plugin: str, then: str, now: str) -> Iterator[str]:
    """The edits between two digests of a plugin: of its own source, and of each file beside it."""
    (own_then, beside_then), (own_now, beside_now) = parts_of(then), parts_of(now)
    if own_then != own_now:
        yield f"the source of the {plugin} was edited (digest {own_then[:8]} before, {own_now[:8]} now)"
    for name in sorted({*beside_then, *beside_now}):
        old, new = beside_then.get(name), beside_now.get(name)
        if old == new:
            continue
        if name.startswith("file "):
            yield f"the {plugin}'s {name} changed (digest {old or 'none'} before, {new or 'none'} now)"
        elif name.startswith("package "):
            yield f"the {name} of the {plugin} has another version ({old or 'none'} before, {new or 'none'} now)"
        elif old and new:
            yield f"the source of the {plugin}'s helper {name} was edited (digest {old[:8]} before, {new[:8]} now)"
        else:
            yield f"the {plugin} reads {name} now" if new else f"the {plugin} read {name} before"
