"""Boards made by hand, for tests of what displays show."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from harness.statistics.intervals import Summary
from harness.storage.tables import Tables
from harness.verdicts.board import (
    INNOCENTS,
    THREATS,
    Attacked,
    Board,
    Detected,
    Estimate,
    Evaded,
    Forged,
    Innocent,
    Scheme,
    Setting,
    Share,
    Standing,
)
from harness.verdicts.rules import Rules

CONCLUSION = "Against both kinds of thief, ewe keeps some of its mark (margin 38%); the other keeps less."


def estimate(mean: float, half: float = 0.2, n: int = 10) -> Estimate:
    """An estimate with an interval of this half width, none below five seeds."""
    low, high = (max(-1, mean - half), min(1, mean + half)) if n >= 5 else (math.nan, math.nan)
    return Estimate(n, mean, 0.1, low, high)


def summary(mean: float, n: int = 10) -> Summary:
    """A summary of values about ``mean``."""
    return Summary(n, mean, 0.05, mean - 0.1, mean + 0.1)


def share(count: float, of: int = 10) -> Share:
    """A share with rough limits."""
    return Share(count, of, max(0.0, count / of - 0.3), min(1.0, count / of + 0.3))


WORST = "retraining | pruning[fraction=0.4]"


def standings(
    margins: tuple[float, float], ranks: tuple[int | None, int | None], n: int = 10, **changes: Any
) -> dict[Any, Standing]:
    """Standings in black box, white box and both."""
    made = {}
    for threat, margin, rank in zip(THREATS, (*margins, min(margins)), (*ranks, ranks[0]), strict=True):
        worst = (WORST,)
        values = {"survives": 3, "marked": 3, "removed": 0, "attacks": 4, "incomplete": ""} | changes
        made[threat] = Standing(threat, rank, estimate(margin, n=n), worst, margin - 0.1, margin - 0.15, **values)
    return made


def scheme(name: str = "ewe", **changes: Any) -> Scheme:
    """A scheme that has rank 1."""
    values: dict[str, Any] = {
        **{"dataset": "digits", "defense": name, "seeds": 10, "standings": standings((0.38, 0.88), (1, 1))},
        **{"victims": share(10), "victim_margin": estimate(0.99, 0.01), "cost": estimate(0.004, 0.003)},
        **{"raw_cost": None, "gate": "passes", "no_rank": "", "anonymous": False, "useless_key": False},
        **{"false_rate": summary(0.08), "embed_seconds": summary(3.2), "embed_samples": summary(57000)},
        **{"null_seconds": summary(1.5), "null_samples": summary(30000), "hypervolume": summary(0.3)},
        **{"at_budget": None},
    }
    return Scheme(**values | changes)


CONTROL = {
    "standings": standings((0.0, 0.01), (None, None), survives=0, removed=4),
    "victims": share(1),
    "no_rank": "embeds nothing",
    "cost": estimate(0.0, 0.002),
}


def attacked(name: str = "ewe", attack: str = "retraining", **changes: Any) -> Attacked:
    """A scheme after an attack that it survives."""
    values: dict[str, Any] = {
        **{"dataset": "digits", "defense": name, "attack": attack, "plugins": attack.partition("[")[0]},
        **{"family": "extraction", "threat": "black box", "n": 10, "useful": 9, "success": summary(0.7)},
        **{"distribution": (0, 0, 1, 0, 0, 0, 0, 0, 4, 5), "held_out": summary(0.6), "accuracy": summary(0.95)},
        **{"drop": summary(0.012), "attack_queries": summary(640), "attack_seconds": summary(2.5)},
        **{"margin": estimate(0.68), "false_rate": 0.09, "marked": share(9), "most": 10, "by_chance": 0.0001},
        **{"survival": "survived", "verdict": "", "models": 39, "attacked_models": 37, "queries": 12.4},
        **{"no_attack": "", "at_budget": 0.98, "failed": 0, "skipped": 0},
    }
    return Attacked(**values | changes)


def innocents(name: str = "ewe") -> list[Innocent]:
    """The four rows of a scheme, unattacked and after an attack."""
    return [
        Innocent("digits", name, suspects, attack, share(count, 20), 10)
        for suspects in INNOCENTS
        for attack, count in (("none", 1), ("retraining", 1.4), ("pruning[fraction=0.4]", 2))
    ]


def evaded(name: str = "ewe", **changes: Any) -> Evaded:
    """A scheme behind a filter."""
    found = (summary(0.1), estimate(0.02), share(1), summary(0.95))
    return Evaded("digits", name, "query-filter", *found, failed=0, skipped=0)


def detected(name: str = "ewe") -> Detected:
    """A scheme and a detector."""
    shares = (0.5, 0.1, 0.05, 0.4, 0.12, 0.37)
    return Detected("digits", name, "neural-cleanse", summary(2.1), summary(1.2), *shares, failed=0, skipped=0)


def forged(name: str = "ewe") -> Forged:
    """A scheme and forged keys."""
    shares = (share(10), share(0), share(1, 20), share(19, 20), share(0, 20))
    return Forged("digits", name, "ambiguity", *shares, failed=0, skipped=0)


def setting(**changes: Any) -> Setting:
    """Digits, of ten seeds and 39 unmarked models."""
    values: dict[str, Any] = {
        **{"dataset": "digits", "models": 39, "seeds": 10, "schemes": 3, "test_images": 300},
        **{"conclusion": CONCLUSION, "demonstration": True, "tolerance_error": 0.013},
    }
    return Setting(**values | changes)


def board(*schemes: Scheme, rules: Rules | None = None, **changes: Any) -> Board:
    """A board of these schemes, with something in each table; without schemes one of three and the control."""
    here = list(schemes) or [
        scheme("ewe", anonymous=True),
        scheme("adi", standings=standings((0.02, 0.95), (2, 1), survives=2), cost=estimate(0.015, 0.01), gate="unsure"),
        scheme("corner", gate="fails", standings=UNRANKED, no_rank=COSTLY, cost=estimate(0.031)),
        scheme("unmarked", **CONTROL),
    ]
    names = [each.defense for each in here]
    weak: dict[str, Any] = {"family": "removal", "threat": "white box", "survival": "undecided", "queries": math.inf}
    values: dict[str, Any] = {
        "settings": [setting()],
        "attacks": [
            *(
                attacked(name, attack, **more)
                for name in names
                for attack, more in (("retraining", {}), (PRUNED, weak))
            ),
            attacked(names[0], WORST),
            attacked(names[0], "overwriting", no_attack="knows the key", survival="", verdict="", marked=None),
        ],
        "innocents": [each for name in names for each in innocents(name)],
        "evasions": [evaded(names[0])],
        "detections": [detected(names[0])],
        "forgeries": [forged(names[0])],
        "machines": ["2 CPU cores"],
        "notes": [],
    }
    return Board(rules or Rules(), schemes=here, **values | changes)


UNRANKED = standings((0.4, 0.3), (None, None))
COSTLY = "costs 3.1 points of accuracy, more than 2"
PRUNED = "pruning[fraction=0.4]"
LONG = "ewe[variant=official,factor={},temperature=64,trigger_set=256]"


def ten() -> Board:
    """A board of ten schemes of long names, the control among them, with every remark."""
    rest = [scheme(LONG.format(2**k), standings=standings((-0.1 - k / 20, 1.0), (k + 1, k + 1))) for k in range(7)]
    first, second, *rest = rest
    under, useless = {"gate": "fails", "no_rank": COSTLY}, {"useless_key": True}
    useless |= {"no_rank": "the key proves nothing: unmarked models answer 83% of its queries"}
    rest += [
        scheme("corner[size=3,position=bottom-left-of-the-image]", standings=UNRANKED, **under),
        scheme("random-labels[trigger=out-of-distribution,n=3]", standings=UNRANKED, **useless),
        scheme("unmarked", **CONTROL),
    ]  # fmt: skip
    remarked = scheme(first.defense, standings=first.standings, anonymous=True)
    unsure = scheme(second.defense, standings=second.standings, gate="unsure", cost=estimate(-0.018), anonymous=True)
    return board(remarked, unsure, *rest, settings=[setting(conclusion=f"{CONCLUSION} {'And so on. ' * 7}")])


def asked(cells: Sequence[dict[str, Any]], nulls: int = 19, matches: int = 2) -> Iterator[dict[str, Any]]:
    """Evidence of unmarked models, and of attacked ones, that answer so many of 100 to the key of each ok cell."""
    labels = ("run", "dataset", "defense", "attack", "seed")
    accuracies = {"accuracy": 0.97, "pool_accuracy": None, "base_accuracy": 0.97}
    for row in cells:
        kinds = ("null",) if row["family"] == "none" else ("null", "attacked")
        for suspect in kinds if row["status"] == "ok" else ():
            for index in range(nulls):
                own = {"cell": row["cell"], "suspect": suspect, "arm": "", "index": index, "probe": "trigger"}
                yield {
                    **{name: row.get(name) for name in labels},
                    **own,
                    "matches": matches,
                    "trials": 100,
                    **accuracies,
                }


def write(results: Path, *rows: dict[str, Any], nulls: int = 19) -> None:
    """Tables of these cells, and of unmarked models that they are compared with."""
    cells = [{"run": "r", **row} for row in rows]
    Tables(results).append("cells", "20260101T000000-abcdef", cells)
    Tables(results).append("evidence", "20260101T000000-abcdef", list(asked(cells, nulls)))
