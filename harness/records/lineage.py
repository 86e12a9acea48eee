"""The lineage of a record's cells: the victim, the attacks and the models to compare with that each claims to have.

``ids.json`` holds the parents of every stage, and a stage's id is the digest of that entry. The models that a key was
asked of are the parents of the stages that asked. Records of schema versions 3 to 5 have no such stages: their null
models follow from the data set and their numbers.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from harness.planning.graph import derive_seed
from harness.planning.inputs import Inputs, inputs_in


def same(one: Any, other: Any) -> bool:
    """True if two values are equal, or both missing."""
    return bool(one == other or (pd.isna(one) and pd.isna(other)))


def text_of(identity: Any) -> str:
    """The text within an input about a plugin: ``dataset digits[train=9] 0123abcd``."""
    return str(identity).partition(" ")[2].rpartition(" ")[0]


def content_of(identity: Any) -> str:
    """The content of a data set within an input about it; empty where it is no part of the id."""
    return str(identity).rpartition(" ")[2].partition(":")[2]


def told_inputs(told: Mapping[str, Any], stages: pd.DataFrame) -> dict[str, Inputs]:
    """The inputs from ``ids.json`` of stages that ended ok, by id; without those whose id is not their digest."""
    ids = stages.loc[stages["status"] == "ok", "stage"]
    return {id: inputs for id in ids if (inputs := inputs_in(id, {"inputs": told.get(id)}))}


def check_lineage(
    cells: pd.DataFrame, stages: pd.DataFrame, evidence: pd.DataFrame, inputs: Mapping[str, Inputs]
) -> Iterator[str]:
    """The findings about cells that ended ok: the first of each cell. Their data sets are named as ids name them."""
    lineage = _Lineage(inputs, dict(zip(stages["stage"], stages["accuracy"], strict=True)))
    rows = evidence[~evidence["suspect"].isin(["victim", "surrogate"])].sort_values("index")
    rows = rows.drop_duplicates(["cell", "suspect", "arm", "index"])
    asked: dict[str, list[Asked]] = defaultdict(list)
    columns = ["suspect", "index", "arm", "accuracy", "base_accuracy"]
    for cell, suspect, index, arm, *accuracies in rows[["cell", *columns]].itertuples(index=False):
        asked[cell].append(Asked(str(suspect), index, "" if pd.isna(arm) else str(arm), *accuracies))
    for row in cells[cells["status"] == "ok"].itertuples():
        if wrong := lineage.wrong(row) or lineage.wrong_suspects(row, asked[row.cell]):
            yield f"cell {row.cell}: {wrong}"


@dataclass(frozen=True)
class Asked:
    """A model that a cell's key was asked of, as the evidence tells."""

    suspect: str
    index: int
    arm: str
    accuracy: float
    base_accuracy: float

    def __str__(self) -> str:
        of = f" of {self.arm}" if self.arm else ""
        return f"{self.suspect} model {self.index}{of} of accuracy {self.accuracy}"


class _Lineage:
    """The stages of a record, by their inputs."""

    def __init__(self, inputs: Mapping[str, Inputs], accuracy: Mapping[str, float]) -> None:
        self.inputs, self.accuracy = inputs, accuracy
        self.trained: dict[tuple[str, str], list[float]] = defaultdict(list)
        """The accuracies of clean models, by dataset and seed, for whatever values an untrusted record gives."""
        self.searched: set[tuple[str, str]] = set()
        """Pairs of a model and a detector that searched it."""
        self.asked: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        """Models that a key was asked of, by the stage that made it and the name of the suspect."""
        for id, made in inputs.items():
            if made["action"] == "train":
                self.trained[str(made["dataset"]), str(made["seed"])].append(accuracy[id])
            elif made["action"] == "detect":
                self.searched.add((dict(made["parents"]).get("model", ""), text_of(made["plugin"])))
            elif made["action"] == "ask":
                (_, victim), *models = made["parents"] or (("", ""),)
                for name, model in models:
                    self.asked[victim][name].append(model)

    def wrong(self, cell: Any) -> str:
        """The findings about a cell's model and victim; empty if there are none."""
        if cell.model not in self.inputs:
            return f"its model {cell.model} is no stage that ended ok"
        if not same(self.accuracy[cell.model], cell.surrogate_accuracy):
            return "its accuracy is not that of its model's stage"
        victim, attacks = self._walk(cell.model)
        if not victim:
            return f"its model {cell.model} leads to no victim"
        made = self.inputs[victim]
        task, scheme = text_of(made["dataset"]), text_of(made["plugin"])
        if (task, scheme) != (cell.dataset, cell.defense):
            return f"its victim {victim} is one of {task} / {scheme}"
        if made["split_seed"] != derive_seed("seed", cell.seed, "split"):
            return f"its victim {victim} is not of seed {cell.seed}"
        if not self._is_chain(cell, attacks):
            by = " | ".join(attacks) or "no attack"
            return f"its model was made by {by}, not {cell.attack}"
        if not same(self.accuracy[victim], cell.victim_accuracy):
            return f"victim accuracy {cell.victim_accuracy} is not that of its victim's stage, {self.accuracy[victim]}"
        return ""

    def _walk(self, model: str, root: str = "embed") -> tuple[str, list[str]]:
        """The victim behind a model, or the null model that played it where ``root`` is ``train``, and the attacks on
        the way from it; an empty id where there is none."""
        attacks: list[str] = []
        victims: set[str] = set()
        made = self.inputs.get(model)
        while made and made["action"] == "attack":  # it ends: an id is a digest of its parents'
            attacks.insert(0, text_of(made["plugin"]))
            parents = dict(made["parents"])
            model = parents.get("model", "")
            victims.add(parents.get("embed", ""))
            made = self.inputs.get(model)
        is_victim = made is not None and made["action"] == root and victims <= {model}
        return model if is_victim else "", attacks

    def _is_chain(self, cell: Any, attacks: Sequence[str]) -> bool:
        """True if these attacks are those of the cell's chain, in which a detector makes no model."""
        # The family says that nobody attacked; within a chain, whose families are joined, a link's name does.
        chain = () if cell.family == "none" else cell.attack.split(" | ")
        links = [link for link in chain if link != "none"]
        found = links[:-1] if links and (cell.model, links[-1]) in self.searched else links
        return attacks in (links, found)

    def wrong_suspects(self, cell: Any, asked: Sequence[Asked]) -> str:
        """The finding about the models that a cell is compared with; empty if there is none."""
        # A forger's key came with his model, an owner's with the victim.
        victim = cell.model if str(cell.family).endswith("forgery") else self._walk(cell.model)[0]
        for name, column in (("null", "nulls"), ("attacked", "attacked")):
            count = 0 if pd.isna(said := getattr(cell, column)) else int(said)
            if (found := sum(each.suspect == name for each in asked)) != count:
                return f"{count} {name} models, and its evidence has {found}"
        fits = self._was_asked if victim in self.asked else self._was_trained
        for each in asked:
            if not fits(cell, victim, each):
                return f"{each} is no stage of the record"
        nulls = [each.accuracy for each in asked if each.suspect == "null"]
        mean = sum(nulls) / len(nulls) if nulls else math.nan
        if not same(mean, cell.null_accuracy) and not math.isclose(mean, cell.null_accuracy, rel_tol=1e-9):
            return f"null accuracy {cell.null_accuracy} is not the mean of its null models', {mean}"
        return ""

    def _was_trained(self, cell: Any, victim: str, each: Asked) -> bool:
        """True if the record has the null model: what older versions, which asked one by one, tell of it."""
        dataset = str(self.inputs[victim]["dataset"])
        known = self.trained[dataset, str(derive_seed("null", each.index, "train"))]
        return each.suspect == "null" and any(same(each.accuracy, accuracy) for accuracy in known)

    def _was_asked(self, cell: Any, victim: str, each: Asked) -> bool:
        """True if the victim's key was asked of such a model, of these accuracies."""
        name = f"{each.suspect} {each.index} {each.arm}".strip()
        return any(self._is_suspect(cell, model, each) for model in self.asked[victim][name])

    def _is_suspect(self, cell: Any, model: str, each: Asked) -> bool:
        unmarked = each.suspect in ("null", "attacked")
        base, attacks = self._walk(model, "train" if unmarked else "embed")
        if not base or not same(self.accuracy[model], each.accuracy):
            return False
        if not same(self.accuracy[base], each.base_accuracy):
            return False
        made = self.inputs[base]
        root = "null" if unmarked else "seed"
        # The task's text, since an innocent may be of a net of its own.
        if text_of(made["dataset"]) != cell.dataset or made["split_seed"] != derive_seed(root, each.index, "split"):
            return False
        if not unmarked and text_of(made["plugin"]) != each.arm:
            return False
        return not attacks if each.suspect == "null" else self._is_chain(cell, attacks)
