"""No attack: the victim itself is the suspect."""

from __future__ import annotations

from harness import Attack


class NoAttack(Attack):
    """Leaves the victim as it is: the effectiveness of a scheme, and the row that the attacks are compared with."""

    name = "none"
    family = "none"
