"""A verification in words: the verdict, the evidence, what may be claimed and what not; and as plain values."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from harness.owning.asking import Verification, is_score
from harness.owning.verdict import NONE, Compared, Judged, others_accused, proves_nothing
from harness.statistics.exchangeable import MAX_FALSE, share_bounds


def lines(made: Verification) -> Iterator[tuple[str, str]]:
    """Heads and texts of the lines that are printed."""
    yield f"{made.verdict.upper()}: ", f"{made.suspect} ({made.kind}), asked the key of {made.about.scheme}"
    for head, text in _rows(made):
        yield f"{head:<12}", text


def _rows(made: Verification) -> Iterator[tuple[str, str]]:
    yield "trigger", _evidence(made)
    for each in made.judged.compared:
        yield "unmarked", _compared(each)
    yield "control", _control(made)
    yield "queries", _queries(made)
    yield "commitment", made.commitment
    yield from (("may claim", text) for text in claims(made))
    yield from (("may not", text) for text in limits(made))


def _evidence(made: Verification) -> str:
    judged = made.judged
    if made.unreadable:
        return f"cannot be read from this suspect: {made.unreadable}"
    p_value = "" if math.isnan(judged.p_value) else f"p = {judged.p_value:.3g}, "
    if made.whole:
        sign = "<=" if judged.marked else ">="
        p_value = p_value.replace("=", sign, 1)
    return f"{_rate(judged)}, {p_value}margin {judged.margin:.2f} of at least {made.about.rules['min_margin']:g}"


def _rate(judged: Judged) -> str:
    if is_score(judged):
        return f"score {judged.matches / judged.trials:.3f}"
    share = judged.matches / judged.trials if judged.trials else 0.0
    return f"{judged.matches} of {judged.trials} as the key says ({share:.1%})"


def _compared(each: Compared) -> str:
    after = "" if each.chain == NONE else f" after {each.chain}"
    return f"{each.models} models{after}: {each.mean:.1%} in the mean, {each.most:.1%} at most, p = {each.p_value:.3g}"


def _control(made: Verification) -> str:
    if made.control is None:
        return "not asked"
    mean = made.control.compared[0].mean
    return f"{_rate(made.control)}, unmarked models {mean:.1%}: the same question where no mark should answer"


def _queries(made: Verification) -> str:
    if made.about.asks == "weights":
        return "none: the mark is read from the weights"
    stopped = f", {made.judged.trials} of {made.whole} triggers" if made.whole else ""
    return f"{made.queries}{stopped}"


def claims(made: Verification) -> list[str]:
    """Sentences that the evidence supports."""
    rules = made.about.verdict_rules
    if not made.marked:
        return []
    models = min(each.models for each in made.judged.compared)
    more = f", and {rules.gamma:.0%} for having stopped early" if made.whole else ""
    said = [
        f"the suspect carries a mark that this key reads: of 100 models without one about {100 * rules.alpha:.0f} at "
        f"most would be called so (on average over models and keys, by {models} unmarked models{more})"
    ]
    accused, asked = others_accused(made.about, rules)
    if made.verdict == "marked" and asked and accused <= rules.alpha * asked:
        most = float(share_bounds(accused, asked, rules.confidence)[1])
        said.append(
            f"the mark is this key's: of {asked} models that other owners marked so the key accuses {accused} "
            f"(at most {most:.0%} of such models, with {rules.confidence:.0%} confidence)"
        )
    return said


def limits(made: Verification) -> list[str]:
    """Sentences on what the evidence does not support."""
    return [*_of_verdict(made), *_of_comparison(made)]


def _of_verdict(made: Verification) -> Iterator[str]:
    accused, asked = others_accused(made.about, made.about.verdict_rules)
    if made.marked and accused > made.about.verdict_rules.alpha * asked:
        yield (
            f"that the mark is yours: the key accuses {accused} of {asked} models that {made.about.scheme} marked for "
            "other owners"
        )
    if made.verdict == "answers everything so":
        yield "that it is marked: its answers to the triggers match no more often than those to the control"
    if made.verdict == "undecided":
        yield f"anything: the budget ended before the evidence sufficed, after {made.judged.trials} triggers"
    if made.verdict == "not marked":
        yield "that the suspect is no copy: an attack may have removed the mark"
    if proves_nothing(made.judged):
        yield f"anything with this key: unmarked models answer more than {MAX_FALSE:.0%} of it"
    if "matches" not in made.commitment:
        yield "that the key is older than the suspect"
    if made.marked and not made.about.others:
        yield "that the mark is yours and no other owner's: no other owners' models were asked this key (--others)"


def _of_comparison(made: Verification) -> Iterator[str]:
    chains = [each.chain for each in made.judged.compared if each.chain != NONE]
    if not chains:
        yield (
            "anything of a suspect that was pruned, fine-tuned or extracted: it is compared with unmarked models that "
            "nobody attacked (harness embed --attack)"
        )
    else:
        yield f"anything of a suspect that was changed otherwise than by {' or '.join(chains)}"
    for chain, reason in made.about.left_out.items():
        yield f"anything of a suspect after {chain}, which has no verdict: {reason}"


def plain(made: Verification) -> dict[str, Any]:
    """A verification as values of JSON."""
    values = {
        "verdict": made.verdict,
        "marked": made.marked,
        "suspect": made.suspect,
        "kind": made.kind,
        "scheme": made.about.scheme,
        **_counts(made.judged),
        "sequential": bool(made.whole),
        "whole": made.whole or made.judged.trials,
        "gamma": made.about.rules["gamma"] if made.whole else 0.0,
        "compared": [asdict(each) for each in made.judged.compared],
        "control": None if made.control is None else _counts(made.control),
        "queries": made.queries,
        "commitment": made.commitment,
        "rules": made.about.rules,
        "unreadable": made.unreadable,
        "may_claim": claims(made),
        "may_not_claim": limits(made),
        "warning": made.warning,
    }
    return values


def _counts(judged: Judged) -> dict[str, Any]:
    p_value = None if math.isnan(judged.p_value) else judged.p_value
    return {"matches": judged.matches, "trials": judged.trials, "p_value": p_value, "margin": judged.margin}
