"""What an artifact was made of: the inputs of its id, as its record tells. A record that does not fit its id tells
nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from harness.plan import make_id

Inputs: TypeAlias = Mapping[str, Any]
"""By name, as :func:`harness.plan.inputs_of` gives them."""

ORDER = (
    *("action", "version", "dataset", "plugin", "architecture", "data", "recipe"),
    *("seed", "split_seed", "epochs", "parents"),
)
"""The order in which an id is their digest. JSON keeps none."""


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
    except (KeyError, TypeError, ValueError):
        return None
    return ordered if make_id(*ordered.values()) == id else None
