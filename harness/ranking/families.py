"""Standings of the schemes under each family of attacks."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from harness.verdicts.board import Attacked, Board, Estimate


@dataclass(frozen=True)
class InFamily:
    """One scheme under the attacks of one family."""

    dataset: str
    defense: str
    family: str
    attacks: int
    """Number of these that count, with their settings."""
    worst: Estimate | None
    """The least mean margin of one of them."""
    worst_attack: str
    survived: int
    removed: int
    undecided: int


def families(board: Board) -> list[InFamily]:
    """The schemes under each family of attacks that count, in the order of the attacks."""
    parts: dict[tuple[str, str, str], list[Attacked]] = {}
    for each in board.attacks:
        if each.threat is not None and not each.no_attack:
            parts.setdefault((each.dataset, each.defense, each.family), []).append(each)
    return [_in_family(key, attacks) for key, attacks in parts.items()]


def _in_family(key: tuple[str, str, str], attacks: list[Attacked]) -> InFamily:
    known = [(each.margin.mean, place) for place, each in enumerate(attacks) if each.margin]
    worst = attacks[min(known)[1]] if known else None
    ends = Counter(each.survival for each in attacks)
    of_worst = (worst.margin, worst.attack) if worst else (None, "")
    return InFamily(*key, len(attacks), *of_worst, ends["survived"], ends["removed"], ends["undecided"])
