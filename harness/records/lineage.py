"""The lineage of a record's cells: the victim, the attacks and the null models that each claims to be made of.

``ids.json`` holds the parents of every stage, and a stage's id is the digest of that entry. The null models of a cell
are recorded nowhere: they follow from its dataset and their numbers.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
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


def told_inputs(told: Mapping[str, Any], stages: pd.DataFrame) -> dict[str, Inputs]:
    """The inputs from ``ids.json`` of stages that ended ok, by id; without those whose id is not their digest."""
    ids = stages.loc[stages["status"] == "ok", "stage"]
    return {id: inputs for id in ids if (inputs := inputs_in(id, {"inputs": told.get(id)}))}


def check_lineage(
    cells: pd.DataFrame, stages: pd.DataFrame, evidence: pd.DataFrame, inputs: Mapping[str, Inputs]
) -> Iterator[str]:
    """The findings about cells that ended ok: the first of each cell."""
    lineage = _Lineage(inputs, dict(zip(stages["stage"], stages["accuracy"], strict=True)))
    rows = evidence[evidence["suspect"] == "null"].drop_duplicates(["cell", "index"]).sort_values("index")
    nulls: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for cell, number, accuracy in rows[["cell", "index", "accuracy"]].itertuples(index=False):
        nulls[cell].append((number, accuracy))
    for row in cells[cells["status"] == "ok"].itertuples():
        if wrong := lineage.wrong(row) or lineage.wrong_nulls(row, nulls[row.cell]):
            yield f"cell {row.cell}: {wrong}"


class _Lineage:
    """The stages of a record, by their inputs."""

    def __init__(self, inputs: Mapping[str, Inputs], accuracy: Mapping[str, float]) -> None:
        self.inputs, self.accuracy = inputs, accuracy
        self.trained: dict[tuple[str, str], list[float]] = defaultdict(list)
        """The accuracies of clean models, by dataset and seed, for whatever values an untrusted record gives."""
        self.searched: set[tuple[str, str]] = set()
        """Pairs of a model and a detector that searched it."""
        for id, made in inputs.items():
            if made["action"] == "train":
                self.trained[str(made["dataset"]), str(made["seed"])].append(accuracy[id])
            elif made["action"] == "detect":
                self.searched.add((dict(made["parents"]).get("model", ""), text_of(made["plugin"])))

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

    def _walk(self, model: str) -> tuple[str, list[str]]:
        """The victim behind a model, and the attacks on the way from it; an empty id where there is none."""
        attacks: list[str] = []
        victims: set[str] = set()
        made = self.inputs.get(model)
        while made and made["action"] == "attack":  # it ends: an id is a digest of its parents'
            attacks.insert(0, text_of(made["plugin"]))
            parents = dict(made["parents"])
            model = parents.get("model", "")
            victims.add(parents.get("embed", ""))
            made = self.inputs.get(model)
        is_victim = made is not None and made["action"] == "embed" and victims <= {model}
        return model if is_victim else "", attacks

    def _is_chain(self, cell: Any, attacks: Sequence[str]) -> bool:
        """True if these attacks are those of the cell's chain, in which a detector makes no model."""
        # The family says that nobody attacked; within a chain, whose families are joined, a link's name does.
        chain = () if cell.family == "none" else cell.attack.split(" | ")
        links = [link for link in chain if link != "none"]
        found = links[:-1] if links and (cell.model, links[-1]) in self.searched else links
        return attacks in (links, found)

    def wrong_nulls(self, cell: Any, nulls: Sequence[tuple[int, float]]) -> str:
        """The finding about a cell's null models, by number and accuracy in its evidence; empty if there is none."""
        count = 0 if pd.isna(cell.nulls) else int(cell.nulls)
        if [number for number, _ in nulls] != list(range(len(nulls))) or len(nulls) != count:
            return f"{count} null models, and its evidence has {len(nulls)}"
        dataset = str(self.inputs[self._walk(cell.model)[0]]["dataset"])
        for number, accuracy in nulls:
            known = self.trained[dataset, str(derive_seed("null", number, "train"))]
            if not any(same(accuracy, each) for each in known):
                return f"null model {number} of accuracy {accuracy} is no stage of the record"
        mean = sum(accuracy for _, accuracy in nulls) / count if count else math.nan
        if not same(mean, cell.null_accuracy) and not math.isclose(mean, cell.null_accuracy, rel_tol=1e-9):
            return f"null accuracy {cell.null_accuracy} is not the mean of its null models', {mean}"
        return ""
