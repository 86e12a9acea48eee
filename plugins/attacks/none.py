"""No attack: the victim itself is the suspect."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from harness import Attack, hookimpl
from harness.contracts import Family


@dataclass(frozen=True)
class NoAttack(Attack):
    """Leaves the victim as it is: the effectiveness of a scheme, and the row that the attacks are compared with."""

    name: ClassVar[str] = "none"
    family: ClassVar[Family] = "none"


@hookimpl
def harness_attacks() -> list[type[Attack]]:
    return [NoAttack]
