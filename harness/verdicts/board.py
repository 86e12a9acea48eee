"""The numbers of a leaderboard, as plain values: what :mod:`harness.verdicts` makes and every display shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias

from harness.statistics.intervals import Summary
from harness.storage.store import plain
from harness.verdicts.rules import Rules

Threat: TypeAlias = Literal["black box", "white box", "both"]
"""Access of the thief: the API (attacks that begin with an extraction), the weights, or either."""
THREATS: tuple[Threat, ...] = ("black box", "white box", "both")
Survival: TypeAlias = Literal["survived", "removed", "undecided", ""]
Suspects: TypeAlias = Literal["fresh", "other recipe", "same data", "other owners"]
INNOCENTS: tuple[Suspects, ...] = ("fresh", "other recipe", "same data", "other owners")


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds or models, with an interval that covers; ``low`` and ``high`` are NaN below five of them."""

    n: int
    mean: float
    sd: float
    low: float
    high: float


@dataclass(frozen=True)
class Share:
    """``count`` of ``of`` models (or seeds), with one-sided 95% limits.

    The verdicts of many keys on one model count as their mean, so that ``count`` need not be whole.
    """

    count: float
    of: int
    low: float
    high: float


@dataclass(frozen=True)
class Standing:
    """A scheme within one threat model."""

    threat: Threat
    rank: int | None
    """1 + the number of schemes that are significantly better; ``None`` where there are no ranks."""
    worst: Estimate | None
    """Margin under the attack and setting that leave least, chosen on the other half of the seeds."""
    worst_attacks: tuple[str, ...]
    """The attacks of the worst case: one, or one for each half of the seeds."""
    worst_at_zero: float
    """The same where an attack that failed counts as 0 instead of the victim's own margin."""
    claim: float
    """The least, over all attacks, of the one-sided 95% lower limits of the mean margin: what an owner may claim."""
    survives: int
    """Number of attacks survived: plugins, or chains of them; all settings of one must be survived."""
    marked: int
    """Number of attacks after whose every setting the models of all seeds are marked."""
    removed: int
    attacks: int
    """Number of attacks that were judged: those survived, those that remove, and the undecided."""
    incomplete: str
    """Reason why the scheme has no rank here: an attack that crashed or was skipped for it alone; empty if none."""


@dataclass(frozen=True)
class Scheme:
    """One scheme on one data set."""

    dataset: str
    defense: str
    seeds: int
    standings: Mapping[Threat, Standing]
    victims: Share
    """Victims that are marked, of all seeds."""
    victim_margin: Estimate | None
    cost: Estimate | None
    """Mean accuracy of unmarked models less the victim's served accuracy: points as a share."""
    raw_cost: Estimate | None
    """The same of the net itself, where the API serves something else."""
    gate: Literal["passes", "fails", "unsure"]
    """Fidelity: ``fails`` puts the scheme under the line."""
    no_rank: str
    """Reason why it is under the line or without rank in every threat model; empty if it is ranked."""
    anonymous: bool
    """True where other owners' models are accused as often as its own: marked, but not by whom."""
    useless_key: bool
    """True where unmarked models answer above 75% on average: the key proves nothing."""
    false_rate: Summary | None
    """Success of unmarked models, over the seeds' keys."""
    embed_seconds: Summary | None
    embed_samples: Summary | None
    null_seconds: Summary | None
    null_samples: Summary | None
    hypervolume: Summary | None
    at_budget: Summary | None
    fingerprint: bool = False
    """True where nothing is embedded: it is ranked among fingerprints, in a section of its own."""


@dataclass(frozen=True)
class Attacked:
    """One scheme under one attack (a chain with its settings), over its seeds."""

    dataset: str
    defense: str
    attack: str
    plugins: str
    """The chain without its settings: ``retraining | pruning``."""
    family: str
    threat: Threat | None
    """``None`` where nobody attacked."""
    n: int
    """Seeds whose cell is ok."""
    useful: int
    """Seeds on which the attack left a useful model; on the others it failed."""
    success: Summary | None
    """Share of trigger queries that useful surrogates answer as the key says."""
    distribution: tuple[int, ...]
    """Numbers of seeds with a success in each tenth of 0..1."""
    held_out: Summary | None
    accuracy: Summary | None
    drop: Summary | None
    """The victim's served accuracy less the surrogate's: what the thief gives up, as a share."""
    attack_queries: Summary | None
    """Queries that the attack asked of the victim."""
    attack_seconds: Summary | None
    margin: Estimate | None
    """Margin over seeds; a failed attack counts with the victim's own."""
    false_rate: float
    """f: the larger of the mean rates of unmarked and of attacked unmarked models, mean over the seeds."""
    marked: Share | None
    """Seeds whose useful surrogate is marked (a failed attack counts as its victim); ``None`` without a verdict."""
    most: int
    """Largest number of seeds marked when one unmarked model is left out."""
    by_chance: float
    """Chance of so many or more without a mark, all seeds sharing the unmarked models."""
    survival: Survival
    verdict: str
    """Why there is no verdict ("needs 19 unmarked models, has 11"); empty where there is one."""
    models: int
    """Number of unmarked models in the comparison."""
    attacked_models: int
    """Fewest useful attacked unmarked models over the seeds."""
    queries: float
    """Median over the seeds of the expected queries of a sequential verification; may be infinite."""
    no_attack: str
    """Why it is in no rank: "leaves 9 of 19 unmarked models useful", "knows the key", "no better than a model trained
    on the thief's own labels"; empty if it counts."""
    at_budget: float
    failed: int
    skipped: int


@dataclass(frozen=True)
class Innocent:
    """Models without this owner's mark, asked a scheme's keys after one attack: the unit is the model."""

    dataset: str
    defense: str
    suspects: Suspects
    attack: str
    accused: Share | None
    keys: int


@dataclass(frozen=True)
class Evaded:
    """A scheme behind a filter that a thief put before the stolen model."""

    dataset: str
    defense: str
    attack: str
    success: Summary | None
    margin: Estimate | None
    marked: Share | None
    accuracy: Summary | None
    failed: int
    skipped: int


@dataclass(frozen=True)
class Detected:
    """One detector's scores of one scheme's models, ranked among those of unmarked models."""

    dataset: str
    defense: str
    attack: str
    score: Summary | None
    null_score: Summary | None
    """Score of unmarked models after the same attacks, each once."""
    flagged: float
    """Share of the models whose score is above the detector's own threshold."""
    null_flagged: float
    rank_p: float
    """Median over the seeds of (r + 1) / (k + 1), r of the k unmarked models scoring at least as high."""
    target_hit: float
    """Share of the models of which the suspected class is the key's target; naming none is no hit."""
    window_rank: float
    """Median over the seeds of the share of windows that lie as high as the trigger's."""
    null_window_rank: float
    """The same key's median in unmarked models: what chance gives."""
    failed: int
    skipped: int


@dataclass(frozen=True)
class Forged:
    """Models that a judge would give to a forger of a scheme's key: the unit is the model."""

    dataset: str
    defense: str
    attack: str
    claimed: Share | None
    """Seeds in which the forger's own model is marked by his key."""
    owner: Share | None
    """Seeds in which the owner's victim is marked by the forger's key."""
    innocent: Share | None
    """Unmarked models that are convicted by their rank among the others."""
    innocent_alone: Share | None
    """The same by the false rate of the owner's keys: a judge who asks no unmarked models this key."""
    innocent_committed: Share | None
    """The same where a commitment made before the model existed is asked for."""
    failed: int
    skipped: int


@dataclass(frozen=True)
class Setting:
    """One data set's comparison: what is behind every number on it."""

    dataset: str
    models: int
    """Unmarked models."""
    seeds: int
    schemes: int
    test_images: int | None
    conclusion: str
    """One sentence: what may be concluded."""
    demonstration: bool
    """True with fewer than 1,000 test images."""
    tolerance_error: float
    """Standard error of the rule of useful models, as a share."""
    given: bool = False
    """True where the unmarked models were given as files, so that nobody knows their recipe."""
    accuracy: Estimate | None = None
    """Accuracy of unmarked models of the data set's own net, over the models."""
    accuracy_gate: float | None = None
    """Clean accuracy that the data set expects of them; ``None`` where it states none."""
    is_weak: bool = False
    """True where their mean accuracy is below the gate: weak models flatter schemes and attacks."""


@dataclass(frozen=True)
class Board:
    """A leaderboard: its numbers, and the rules that made them."""

    rules: Rules
    settings: list[Setting]
    schemes: list[Scheme]
    """Ranked ones first, then those without rank, then the arm ``unmarked``, by data set."""
    attacks: list[Attacked]
    innocents: list[Innocent]
    evasions: list[Evaded]
    detections: list[Detected]
    machines: list[str]
    notes: list[str] = field(default_factory=list)
    forgeries: list[Forged] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; what is not a finite number is null."""
        values: dict[str, Any] = plain(asdict(self))
        return values
