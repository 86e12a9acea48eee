"""Facts about an attack chain: its links, what they have of the victim, and what they are given of the defense."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from harness.attacks import Forgery
from harness.contracts import Attack, BlackBoxAttack, Detector, Evasion, Knowledge, PoolAttack
from harness.errors import UsageError
from harness.planning.graph import Component


@dataclass(frozen=True, eq=False)  # told apart by identity: a plan asks for them millions of times
class Chain:
    """The links of an attack. Raises :class:`UsageError` for a detector, evasion or forgery before the last one."""

    links: tuple[Component, ...]
    attacks: tuple[Component, ...] = field(init=False)
    """The links that leave another model, or a filter before it: all but detectors and ``none``."""

    def __post_init__(self) -> None:
        for link in self.links[:-1]:
            if isinstance(link.plugin, Detector | Evasion | Forgery):
                raise UsageError(f"{link.plugin.family} must be the last link of a chain: {self.text!r}")
        kept = tuple(link for link in self._pooled if not isinstance(link.plugin, Detector))
        object.__setattr__(self, "attacks", kept)

    @property
    def _pooled(self) -> Sequence[Component]:
        """The links that are given data of the attacker's: all but ``none``."""
        return [link for link in self.links if isinstance(link.plugin, PoolAttack)]

    @cached_property
    def text(self) -> str:
        """The links as they are typed."""
        return " | ".join(link.text for link in self.links)

    @cached_property
    def before(self) -> str:
        """The attacks as they are typed, without a detector that follows them; empty if nobody attacks."""
        return " | ".join(link.text for link in self.attacks)

    @cached_property
    def detector(self) -> Component | None:
        """The detector that it ends with."""
        return self.links[-1] if isinstance(self.links[-1].plugin, Detector) else None

    @cached_property
    def forger(self) -> Component | None:
        """The forgery that it ends with."""
        return self.links[-1] if isinstance(self.links[-1].plugin, Forgery) else None

    @cached_property
    def family(self) -> str:
        """The families of its links, each once, in order."""
        return "+".join(dict.fromkeys(link.plugin.family for link in self.links))

    @cached_property
    def access(self) -> str:
        """Access of its last link to the model under attack."""
        return access_of(self.links[-1].plugin)

    @cached_property
    def threat(self) -> str:
        """Access of its first attack to the victim."""
        return access_of((*self._pooled, self.links[0])[0].plugin)

    @cached_property
    def knows(self) -> Knowledge:
        """Knowledge that its attacks are given of the defense: the most that one of them is."""
        given: set[Knowledge] = {link.plugin.knows for link in self._pooled}
        return "key" if "key" in given else "scheme" if "scheme" in given else "nothing"

    @cached_property
    def labelled_share(self) -> float | None:
        """The largest share of its pool that one of its attacks has with true labels; ``None`` where none has."""
        return max((link.plugin.pool_share for link in self._pooled if link.plugin.has_labels), default=None)

    @cached_property
    def forged_before(self) -> bool | None:
        """True if its key is forged without the model that it claims, so before it; ``None`` where none is forged."""
        return None if self.forger is None else not self.forger.plugin.needs_suspect

    def outside(self, defense: Component) -> str:
        """The reason why a scheme is not judged against it; empty if it is."""
        if self.forger and defense.plugin.innocent:
            return f"{defense}: has no key, so there is none to forge"
        first = next((link.plugin for link in self._pooled), None)
        if first is None or isinstance(first, BlackBoxAttack) or "model" in defense.plugin.protects:
            return ""
        return f"{defense}: protects only its API: a thief with the weights is outside its threat model"


def access_of(attack: Attack) -> str:
    """Access to a model that an attack needs: ``black-box``, ``white-box`` or ``none``."""
    if not isinstance(attack, PoolAttack) or (isinstance(attack, Forgery) and not attack.needs_suspect):
        return "none"
    return "black-box" if isinstance(attack, BlackBoxAttack) else "white-box"
