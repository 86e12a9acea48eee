"""The inputs that an artifact was made of, as its record tells. A record that does not fit its id tells
nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from harness.contracts import (
    TriggerRecipe,
)
from harness.planning.graph import VERSIONS, Component, Stage, describe, make_id
from harness.planning.sources import digest_of

Inputs: TypeAlias = Mapping[str, Any]
"""Inputs by name, as :func:`harness.planning.inputs.inputs_of` gives them."""

ORDER = (
    *("action", "version", "dataset", "plugin", "architecture", "data", "recipe"),
    *("seed", "split_seed", "epochs", "parents"),
)
"""The order in which an id is their digest. JSON keeps none."""
LATER = ("scheme",)
"""Inputs of few stages, after those in order."""


def inputs_in(id: str, record: Mapping[str, Any]) -> Inputs | None:
    """The inputs that the record of ``id`` holds; ``None`` where it holds none that ``id`` is the digest of.

    So it is for records of an older harness, and for those that somebody changed.
    """
    inputs = record.get("inputs")
    if not isinstance(inputs, dict) or not isinstance(inputs.get("parents"), list):
        return None
    try:
        parents = tuple((str(role), str(parent)) for role, parent in inputs["parents"])
        ordered = {name: parents if name == "parents" else inputs[name] for name in ORDER}
        ordered |= {name: inputs[name] for name in LATER if name in inputs}
    except (KeyError, TypeError, ValueError):
        return None
    return ordered if make_id(*ordered.values()) == id else None


def inputs_of(stage: Stage) -> dict[str, Any]:
    """The causes of a stage's output, by name: its id is the digest of these values. A record keeps them, so that
    ``harness why`` can tell which of them changed."""
    return {
        "action": stage.action,
        "version": VERSIONS[stage.action],
        "dataset": _identity(stage.dataset),
        "plugin": _identity(stage.plugin),
        "architecture": _identity(stage.architecture),
        "data": _identity(stage.data),
        "recipe": _recipe_identity(stage.recipe),
        "seed": stage.seed,
        "split_seed": stage.split_seed,
        "epochs": stage.epochs,
        "parents": stage.parents,
        **({"scheme": _identity(stage.scheme)} if stage.scheme else {}),
    }


def _identity(use: Component | None) -> str:
    return f"{use.kind} {use.identity} {use.digest}" if use else "-"


def _recipe_identity(recipe: TriggerRecipe | None) -> str:
    if recipe is None:
        return "-"
    cls = type(recipe)
    return f"{cls.__qualname__}({describe(recipe)}) {digest_of(cls)}"
