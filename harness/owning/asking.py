"""The owner's second act: a suspect is asked a key, and the verdict is said with what it rests on."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from harness.errors import Refused, UsageError
from harness.owning.endpoint import address, endpoint, is_url
from harness.owning.folder import Owner, read_owner
from harness.owning.suspects import Suspect, load_suspect
from harness.owning.verdict import CONTROL, NONE, PROBE, Judged, Verdict, judge, most_unmarked, verdict_of
from harness.statistics.whole_sets import decide
from harness.values import SCORED

if TYPE_CHECKING:
    from torch import Tensor

    from harness.contracts import Defense, Key, Oracle, Split
    from harness.owning.endpoint import Endpoint
    from harness.owning.folder import About
    from harness.verdicts.rules import Rules

Say: TypeAlias = Callable[[str], None]
CONTROLS = 8
"""Least controls that are asked: of three triggers that all match, three silent ones tell little."""


@dataclass(frozen=True)
class Asking:
    """Ways to ask a suspect. The last four are of endpoints alone."""

    architecture: str = ""
    plugins: Sequence[Path] = ()
    sequential: bool = False
    """Stop as soon as the evidence suffices."""
    commitment: Path | None = None
    """File of the commitment that was published; by default the one in the folder."""
    mapping: Path | None = None
    budget: int | None = None
    log: Path | None = None
    say: Say = lambda line: None


@dataclass(frozen=True, repr=False)
class Verification:
    """A suspect's verdict, and what it rests on. Its text is that of ``harness verify``."""

    verdict: Verdict
    suspect: str
    kind: str
    judged: Judged
    control: Judged | None
    queries: int
    """Inputs that the suspect was asked, or was sent where that took several tries."""
    about: About
    commitment: str
    whole: int = 0
    """Trigger inputs of the key, where it was asked one after another and may have stopped before."""
    unreadable: str = ""
    """Reason why the mark cannot be read from the suspect."""
    warning: str = ""

    @property
    def marked(self) -> bool:
        return self.verdict in ("marked", "marked, but not by whom")

    def __repr__(self) -> str:
        from harness.owning.words import lines
        from harness.text import printable

        return "\n".join(printable(head + text) for head, text in lines(self))


def verify(folder: Path, named: str | Callable[..., Any], asking: Asking) -> Verification:
    """Ask a suspect the key of an owner's folder. Raises :class:`UsageError`."""
    owner = read_owner(folder, asking.commitment)
    defense, warning = _defense(owner.about, asking.plugins)
    with _suspect(named, owner, asking) as suspect:
        return _verified(owner, defense, suspect, named, asking, warning)


@contextmanager
def _suspect(named: str | Callable[..., Any], owner: Owner, asking: Asking) -> Iterator[Suspect]:
    """The suspect, ready to be asked. An endpoint is none for a scheme that reads weights."""
    if callable(named) or not is_url(named):
        if asking.mapping is not None or asking.budget is not None or asking.log is not None:
            raise UsageError("--mapping, --budget and --log are of endpoints, and the suspect is no http(s) address")
        suspect = load_suspect(named, owner.about, asking.architecture, asking.plugins)
        _check_weights(suspect, owner)
        yield suspect
        return
    if owner.about.asks == "weights":
        raise UsageError(_NEEDS_WEIGHTS.format(scheme=owner.about.scheme, kind="an endpoint"))
    if asking.mapping is None:
        raise UsageError("an endpoint needs --mapping FILE.toml, which says how it is asked: see docs/verify.md")
    from harness.owning.mapping import read_mapping

    mapping = read_mapping(asking.mapping)
    log = asking.log or owner.folder / "queries" / f"{_slug(address(named))}.jsonl"
    with endpoint(named, mapping, owner.about, owner.key_digest, log, asking.budget, asking.say) as suspect:
        yield suspect


def _slug(text: str) -> str:
    import hashlib

    host = "".join(each if each.isalnum() else "-" for each in text.partition("://")[2].partition("/")[0])
    return f"{host}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


_NEEDS_WEIGHTS = "{scheme} reads its mark from weights, and {kind} shows none: name a file of weights"


def _check_weights(suspect: Suspect, owner: Owner) -> None:
    if owner.about.asks == "weights" and suspect.net is None:
        raise UsageError(_NEEDS_WEIGHTS.format(scheme=owner.about.scheme, kind=f"a suspect of kind {suspect.kind}"))


def _defense(about: About, plugins: Sequence[Path]) -> tuple[Defense, str]:
    """The scheme that reads the key, and a warning where its source changed since."""
    from harness.planning.registry import load_registry

    use = load_registry(plugins).component("defense", about.scheme)
    changed = about.versions.get("scheme", use.source) != use.source
    return use.plugin, f"the source of {use} changed since this key was made" if changed else ""


# --- asking -----------------------------------------------------------------------------------------------------------

Pairs: TypeAlias = dict[str, tuple[int, int]]
"""Matches and trials by probe."""


@dataclass(frozen=True)
class _Asked:
    """Evidence of one suspect."""

    counts: Pairs
    whole: int = 0
    """Triggers of the key where they were asked one after another."""
    said: str = ""
    """Decision of the sequential test; empty where the budget ended before."""
    unreadable: str = ""


def _verified(
    owner: Owner, defense: Defense, suspect: Suspect, named: str | Callable[..., Any], asking: Asking, warning: str
) -> Verification:
    from harness.oracles import Oracle

    about, rules, key = owner.about, owner.about.verdict_rules, owner.key()
    _check_probes(key, about)
    oracle = Oracle(suspect.answer, suspect.answers)
    ask = _one_by_one if asking.sequential else _all_at_once
    try:
        asked = ask(key, defense, suspect, oracle, about)
    except Refused as refused:
        raise UsageError(f"{about.scheme} cannot ask this suspect: {refused}") from refused
    trigger = judge(*asked.counts[PROBE], about.unmarked, rules)
    if asked.whole:
        trigger = _at_the_end(trigger, asked, about, rules)
    control = None
    if CONTROL in asked.counts and about.unmarked[NONE].get(CONTROL):
        control = judge(*asked.counts[CONTROL], {NONE: about.unmarked[NONE]}, rules, CONTROL)
    return Verification(
        verdict="undecided" if asked.whole and not asked.said else verdict_of(trigger, control, about, rules),
        suspect=_shown(named),
        kind=suspect.kind,
        judged=trigger,
        control=control,
        queries=suspect.endpoint.log.sent if suspect.endpoint else oracle.queries,
        about=about,
        commitment=owner.commitment,
        whole=asked.whole,
        unreadable=asked.unreadable,
        warning=warning,
    )


def _shown(named: str | Callable[..., Any]) -> str:
    if callable(named):
        return getattr(named, "__qualname__", type(named).__name__)
    return address(named) if is_url(named) else named


def _check_probes(key: Key, about: About) -> None:
    for name, probe in key.probes.items():
        if tuple(probe.x.shape[1:]) != about.input_shape:
            raise UsageError(f"the key's probe {name!r} has inputs {tuple(probe.x.shape[1:])}: the folder is damaged")


def _plain(defense: Defense, key: Key) -> bool:
    """True for a scheme that asks each input of its probes once, and counts the answers that the key names."""
    from harness.contracts import Defense as Base
    from harness.contracts import WhiteBoxDefense

    return type(defense).verify is Base.verify and not isinstance(defense, WhiteBoxDefense) and PROBE in key.probes


def _all_at_once(key: Key, defense: Defense, suspect: Suspect, oracle: Oracle, about: About) -> _Asked:
    from harness.running.actions import evidence_of

    if suspect.endpoint and _plain(defense, key):
        _check_budget(key, suspect.endpoint)
    net: Any = suspect.net
    counts, unreadable = evidence_of(defense, key, net, oracle)
    return _Asked({name: (matches, trials) for name, (matches, trials) in counts.items()}, unreadable=unreadable)


def _check_budget(key: Key, endpoint: Endpoint) -> None:
    """Raise :class:`UsageError`, before anything is asked, where a budget does not suffice for the whole key."""
    left = sum(endpoint.cost(probe.x) for probe in key.probes.values())
    if endpoint.budget is not None and endpoint.log.sent + left > endpoint.budget:
        free = max(0, endpoint.budget - endpoint.log.sent)
        raise UsageError(
            f"--budget {endpoint.budget} leaves {free} queries, and the key has {left} inputs to ask: type "
            "--sequential, which stops as soon as the evidence suffices, or a larger budget"
        )


def _one_by_one(key: Key, defense: Defense, suspect: Suspect, oracle: Oracle, about: About) -> _Asked:
    """Evidence as soon as the triggers that were asked decide, or the budget ends.

    The order is drawn at random. Of one that is decided to be marked, as many controls are asked as triggers were, or
    a few.
    """
    if not _plain(defense, key):
        raise UsageError(f"--sequential asks trigger by trigger, and {about.scheme} asks in its own way: leave it out")
    trigger, rules = key.probes[PROBE], about.verdict_rules
    most = most_unmarked(len(trigger), about.unmarked, rules)
    matches, asked, said = 0, 0, ""
    for rows in _batches(key, PROBE, suspect.batch):
        if _passes(suspect, trigger.x[rows]):
            break
        matches += _matches(oracle, trigger, rows)
        asked += len(rows)
        if said := decide(matches, asked, len(trigger), most, rules.gamma):
            break
    counts = {PROBE: (matches, asked)}
    if said == "above" and CONTROL in key.probes and len(key.probes[CONTROL]):
        rows = next(_batches(key, CONTROL, max(asked, CONTROLS)))
        if not _passes(suspect, key.probes[CONTROL].x[rows]):
            counts[CONTROL] = (_matches(oracle, key.probes[CONTROL], rows), len(rows))
    return _Asked(counts, len(trigger), said)


def _batches(key: Key, probe: str, size: int) -> Iterator[list[int]]:
    """Rows in an order that is random, and the same when a verification goes on: drawn from the key itself."""
    rows = list(range(len(key.probes[probe])))
    random.Random(key.probes[PROBE].x.numpy().tobytes()).shuffle(rows)
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _passes(suspect: Suspect, x: Tensor) -> bool:
    """True where these inputs would pass the budget. Those that the log has cost nothing."""
    return suspect.endpoint is not None and not suspect.endpoint.can_ask(x)


def _matches(oracle: Oracle, probe: Split, rows: list[int]) -> int:
    return int((oracle.labels(probe.x[rows]) == probe.y[rows]).sum())


def _at_the_end(judged: Judged, asked: _Asked, about: About, rules: Rules) -> Judged:
    """The verdict on all triggers, as the sequential test decided it: with the p-value of the fewest matches that are
    marked, or of the most that are not."""
    if not asked.said:
        return replace(judged, marked=False, p_value=math.nan)
    most = most_unmarked(asked.whole, about.unmarked, rules)
    limit = judge(most + 1 if asked.said == "above" else most, asked.whole, about.unmarked, rules)
    return replace(judged, marked=limit.marked, p_value=limit.p_value, compared=limit.compared)


def is_score(judged: Judged) -> bool:
    """True for evidence that is a score, and no count of queries."""
    return judged.trials == SCORED
