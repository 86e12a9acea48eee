"""Families of attacks: what each means for a score, and what its thief has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import pandas as pd

from harness.errors import UsageError
from harness.planning.matrix import parse_chain
from harness.verdicts.groups import distinct

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.verdicts.board import Threat

Kind: TypeAlias = Literal["none", "survival", "evasion", "detection", "forgery", "other"]
NO_SURVIVAL: tuple[Kind, ...] = ("detection", "forgery")
"""Kinds whose counts say nothing of how much of a mark an attack leaves: it is searched for, or the key is another."""
UNMARKED = "unmarked"
"""The defense that embeds nothing: its cells are the innocent suspects of all schemes."""


def kind_of(family: str) -> Kind:
    """The meaning of an attack's family, or of a chain's families joined by ``+``, for scores.

    ``none``: nobody attacked. ``survival``: the attack left a model in which the mark may survive. ``evasion``: it
    hides the mark behind a filter. ``detection``: it only looks for the mark. ``forgery``: it claims a model with a
    key of its own. ``other``: a family that is unknown here; it enters no score.
    """
    kinds = {_KINDS.get(each, "other") for each in family.split("+")} - {"none"}
    return next((kind for kind in _OUTRANKING if kind in kinds), "none")


_KINDS: dict[str, Kind] = {
    **{"none": "none", "extraction": "survival", "removal": "survival"},
    **{"evasion": "evasion", "detection": "detection", "forgery": "forgery"},
}
_OUTRANKING: tuple[Kind, ...] = ("other", "forgery", "detection", "evasion", "survival")
"""The kinds by precedence: what a chain leaves is judged by the link that changes most what its counts mean."""


def threat_of(family: str) -> Threat | None:
    """The threat model of a chain that leaves a model: its first attack decides; ``None`` where there is none.

    An extraction needs the API alone, whatever follows: what it made is the thief's own model.
    """
    if kind_of(family) not in ("survival", "evasion"):
        return None
    first = next((each for each in family.split("+") if each != "none"), "")
    return _THREATS.get(first)


_THREATS: dict[str, Threat] = {"extraction": "black box", "removal": "white box"}


def changes_the_model(family: str) -> bool:
    """True where a suspect is not the victim itself: then unmarked models must go through the chain too."""
    return bool(set(family.split("+")) - {"none", *NO_SURVIVAL})


def plugins_of(chain: str) -> str:
    """A chain without its settings: ``retraining | pruning``."""
    try:
        return " | ".join(entry.name for entry in parse_chain(chain))
    except UsageError:
        return chain  # no run would have written it


def is_unmarked(defense: str) -> bool:
    """True for the arm ``unmarked``, with options or without."""
    return defense.partition("[")[0] == UNMARKED


def of_each(frame: pd.DataFrame, column: str, meaning: Callable[[str], object]) -> pd.Series[object]:
    """The meaning of each row's text, which is found once for each that differs."""
    keys, places = distinct(frame, [column])
    found = np.empty(len(keys), dtype=object)
    found[:] = [meaning(str(text)) for text in keys[column]]
    return pd.Series(found[places], frame.index, dtype=object)
