"""Finding one thing by its id, the beginning of its id, or its words."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import TypeVar

from harness.errors import UsageError

T = TypeVar("T")
SHOWN = 5
"""Number of candidates that a message names."""


def words(dataset: str, defense: str, attack: str, seed: int) -> str:
    """A cell's words: ``digits / ewe / retraining #0``."""
    return f"{dataset} / {defense} / {attack} #{seed}"


def pick(kind: str, text: str, ids: Mapping[str, T], names: Mapping[str, str], where: str = "") -> T:
    """The thing among ``ids`` that ``text`` stands for. ``names`` gives the id of each name; ``where`` they were looked
    for ends the message.

    Raises :class:`UsageError` where it stands for nothing, with a suggestion, or for several.
    """
    wanted = " ".join(text.split())
    if wanted in names:
        return ids[names[wanted]]
    found = [id for id in ids if wanted and id.startswith(wanted.lower())]
    if len(found) == 1:
        return ids[found[0]]
    if found:
        told = {id: name for name, id in names.items()}
        shown = "; ".join(f"{id[:12]} ({told.get(id, 'stored')})" for id in sorted(found)[:SHOWN])
        more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise UsageError(f"{text!r} begins the ids of {len(found)}: {shown}{more}. Type more of it")
    close = get_close_matches(wanted, names, n=1)
    meant = f" Did you mean {close[0]!r}?" if close else ""
    expected = f"Expected an id, the beginning of one, or words: {_EXAMPLE!r}"
    raise UsageError(f"unknown {kind} {text!r}{where}.{meant} {expected}")


_EXAMPLE = words("DATASET", "DEFENSE", "ATTACK", 0).replace("#0", "#SEED")
