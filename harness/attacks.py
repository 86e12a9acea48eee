"""Attacks of one kind: those that train the stolen model, that extract a copy of it, and that forge a key for it."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar, Literal

from harness.contracts import BlackBoxAttack, PoolAttack, WhiteBoxAttack
from harness.fields import option
from harness.oracles import Oracle
from harness.values import Answers, Context, Family, Knowledge, Marked, Pool, Split

if TYPE_CHECKING:
    from torch import Tensor

    from harness.nets import Net


class TuningAttack(WhiteBoxAttack):
    """Base of the attacks that train the stolen model on their pool, with its true labels or with the model's own."""

    family: ClassVar[Family] = "removal"
    labelled = True

    labels: Literal["true", "model", "victim"] = option(
        "true",
        doc="Labels of the attacker's inputs: the true ones, or answers of the stolen model or of the victim's API.",
    )

    @property
    def trains(self) -> bool:
        """True if it trains: an option may leave that out, and the labels with it."""
        return True

    @property
    def has_labels(self) -> bool:
        return self.trains and self.labels == "true"

    @property
    def has_answers(self) -> bool:
        return self.trains and self.labels == "victim"

    def data(self, victim: Net, pool: Pool, ctx: Context) -> Split:
        """The pool with these labels ``[n]``. Ask before the model is changed: it knows its task better than after."""
        known = self.has_labels or self.has_answers
        return Split(pool.x, pool.labels() if known else ctx.predict(victim, pool.x).argmax(1))


class Extraction(BlackBoxAttack):
    """Base of the attacks that train a copy on the answers of the victim's API."""

    family: ClassVar[Family] = "extraction"

    answers: Answers = option(
        "labels",
        doc="Answers to train on: the class; the class with its probability, the rest spread evenly; all of them.",
    )
    queries: int | None = option(
        None,
        doc="The attacker's budget: the number of queries that it asks at most; by default one for each input.",
        at_least=1,
    )
    architecture: str = option("", doc="Architecture of the surrogate; empty is the victim's own.")
    epochs: int | None = option(None, doc="Number of epochs; by default the recipe's.", at_least=1)

    @property
    def architecture_built(self) -> str:
        return self.architecture

    @property
    def budget(self) -> int | None:
        return self.queries

    def stolen(self, victim: Oracle, pool: Pool) -> Split:
        """The inputs of the pool that the budget pays for, with their targets; without those that the API refused."""
        x = pool.x[: self.queries]
        return Split(x, self.targets(victim, x, pool)).answered()

    def targets(self, victim: Oracle, x: Tensor, pool: Pool) -> Tensor:
        """The API's answers to ``x`` as targets: labels ``[n]`` int64, or probabilities ``[n, classes]``.

        A refused query has the class -1, or NaN for its whole row: :meth:`Split.answered` leaves it out.
        """
        if self.answers == "labels":
            return victim.labels(x)
        if self.answers == "probabilities":
            return victim.probabilities(x)
        label, probability = victim.top1(x)
        classes = len(pool.recipe.classes)
        rest = (1 - probability) / (classes - 1)
        return rest[:, None].expand(-1, classes).scatter(1, label.clamp_min(0)[:, None], probability[:, None])


class Forgery(PoolAttack):
    """Base of the attacks that claim a model with a key of their own making, by the owner's scheme.

    The harness asks that key of unmarked models, of the owner's victim, and of the model that :meth:`run` returns: how
    many of them would a judge give to the forger?
    """

    family: ClassVar[Family] = "forgery"
    knows: ClassVar[Knowledge] = "scheme"
    needs_suspect: ClassVar[bool] = True
    """True if the key is made from the model that it claims. Such a key is younger than that model, and a judge who
    asks for a commitment made before the model existed refuses it."""

    @abstractmethod
    def run(self, suspect: Net | None, pool: Pool, ctx: Context) -> Marked:
        """Return the forger's own model and key. ``suspect`` is his copy of the stolen model, which he may change;
        ``None`` for one who does not need it."""
