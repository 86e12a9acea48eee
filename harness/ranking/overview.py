"""Overview of a leaderboard: one table a data set, under the sentence that says what may be concluded from it.

It fits 100 columns, and 25 lines for ten schemes, one more where keys were forged. All that it sums up is in
:mod:`harness.ranking.views`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.ranking import values
from harness.ranking.columns import Column, Sheet, Table
from harness.ranking.glossary import TEST_NAMES, fraction
from harness.ranking.values import Value
from harness.ranking.views import costs, marked_after, remarks, survived, terms
from harness.text import command_line, printable
from harness.verdicts.board import Board, Scheme, Setting, Share, Standing, Threat
from harness.verdicts.families import is_unmarked
from harness.verdicts.rules import POOLED, Rules

FINGERPRINTS = "Fingerprints: nothing is embedded; the key is found in a victim trained as unmarked models are."
MORE = "More: harness leaderboard --details (all tables) and --explain (what the words mean)."


def overview_sheet(board: Board, *, explain: bool = False, results: str = "") -> Sheet:
    """The overview of each data set; with the meanings of its words where asked. Of another folder of ``results`` than
    the default one the last line has only the options to add, since the command alone would read the default."""
    made = [each.table(board.rules) for setting in board.settings for each in compared(board, setting)]
    is_default = command_line(results=results) == "harness"
    more = MORE if is_default else MORE.replace("harness leaderboard ", "")
    notes = [*map(printable, board.notes), *forged(board), more]
    return Sheet(made, terms(made, board.rules) if explain else (), notes)


def forged(board: Board) -> list[str]:
    """Sentences on the forgery under which most unmarked models would be convicted: by rank, and by a judge who
    compares with none."""
    said = []
    for setting in board.settings:
        here = [each for each in board.forgeries if each.dataset == setting.dataset]
        by_rank, alone = _most(each.innocent for each in here), _most(each.innocent_alone for each in here)
        ends = [f"{by_rank} unmarked models by rank"] * bool(by_rank) + [f"{alone} by a fixed false rate"] * bool(alone)
        if ends:
            said.append(f"{printable(setting.dataset)}: forged keys convict up to {', '.join(ends)}.")
    return said


def _most(shares: Iterable[Share | None]) -> str:
    """The largest share in words; empty where there is none."""
    known = [share for share in shares if share]
    return values.proportion(max(known, key=lambda share: share.count / share.of))[0] if known else ""


@dataclass(frozen=True)
class Compared:
    """Schemes of one data set that are compared with each other."""

    lead: tuple[str, ...]
    """Sentences above their table."""
    schemes: Sequence[Scheme]

    def table(self, rules: Rules) -> Table:
        """Those of a rank, those without with the reason, and the control."""
        is_ranked = any(standing.rank for each in self.schemes for standing in each.standings.values())
        here = _Here(rules, self.schemes, is_ranked)
        rows, lines, notes = here.rows, here.lines(), here.notes()
        return Table("", here.columns(), rows, lead=self.lead, lines=lines, foot=here.controls, notes=notes)


def compared(board: Board, setting: Setting) -> list[Compared]:
    """The schemes of one data set, and its fingerprints, if any, in a section of their own."""
    here = [each for each in board.schemes if each.dataset == setting.dataset]
    schemes, fingerprints = ([each for each in here if each.fingerprint is its] for its in (False, True))
    lead = above(board, setting)
    if not fingerprints:
        return [Compared(lead, schemes)]
    if all(map(is_control, schemes)):
        return [Compared((*lead, FINGERPRINTS), [*fingerprints, *schemes])]
    return [Compared(lead, schemes), Compared((FINGERPRINTS,), fingerprints)]


def is_control(scheme: Scheme) -> bool:
    """True for the arm that embeds nothing."""
    return is_unmarked(scheme.defense)


def standing_of_all(scheme: Scheme) -> Standing | None:
    """The standing over all attacks, or that of the one threat model there is."""
    return scheme.standings.get("both") or next(iter(scheme.standings.values()), None)


@dataclass(frozen=True)
class _Here:
    """The schemes of one data set."""

    rules: Rules
    schemes: Sequence[Scheme]
    is_ranked: bool
    """True where some scheme has a rank."""

    @property
    def controls(self) -> list[Scheme]:
        """Arms that embed nothing."""
        return [each for each in self.schemes if is_control(each)]

    @property
    def rows(self) -> list[Scheme]:
        """Schemes with numbers: the ranked ones, or all that pass where there are no ranks."""
        return [each for each in self.schemes if not is_control(each) and not self._reason(each)]

    def lines(self) -> list[tuple[str, str]]:
        """Schemes under the line, with the reason."""
        under = [(each, self._reason(each)) for each in self.schemes if not is_control(each)]
        return [
            (printable(each.defense), printable("; ".join([f"no rank: {reason}", *remarks(each)])))
            for each, reason in under
            if reason
        ]

    def _reason(self, scheme: Scheme) -> str:
        """Reason to stand under the line; empty for a scheme with a row of numbers."""
        standings = scheme.standings.values()
        if any(each.rank for each in standings):
            return ""
        if self.is_ranked:
            incomplete = next((each.incomplete for each in standings if each.incomplete), "")
            return scheme.no_rank or incomplete or "too little evidence"
        has_numbers = any(each.worst for each in standings)
        return "" if has_numbers and scheme.gate != "fails" else scheme.no_rank

    def columns(self) -> tuple[Column[Scheme], ...]:
        """Columns of the overview: ranks only where there are some, and threat models that were tried."""
        threats: list[Threat] = [each for each in ("black box", "white box") if self._tried(each)]
        return (
            Column("scheme", _named, unit="", words=True, brief=True),
            *(column for threat in threats or ["both"] for column in self._in(threat)),
            self._attacks(),
            Column("cost", costs, unit="points"),
            Column("victims marked", _victims, unit="", words=True, rigid=True, term="victims marked"),
        )

    def _attacks(self) -> Column[Scheme]:
        """Attacks survived; of schemes with one model each, those after which it is marked."""
        if self._are_single:
            return Column("marked after", lambda scheme: marked_after(standing_of_all(scheme)), "attacks")
        return Column("attacks survived", lambda scheme: survived(standing_of_all(scheme)), "", term="survives")

    @property
    def _are_single(self) -> bool:
        """True where each scheme has one model, as one that was given has."""
        return bool(self.rows) and all(each.seeds == 1 for each in self.rows)

    def _tried(self, threat: Threat) -> bool:
        return any(standing.worst for each in self.schemes if (standing := each.standings.get(threat)))

    def _in(self, threat: Threat) -> list[Column[Scheme]]:
        def rank(scheme: Scheme) -> Value:
            standing = scheme.standings.get(threat)
            return values.count((standing.rank if standing else None) or math.nan)

        def margin(scheme: Scheme) -> Value:
            standing = scheme.standings.get(threat)
            return values.bracketed(standing.worst if standing else None)

        margins = Column("margin", margin, unit="%", over=threat, short="margin (%)", term="worst margin")
        ranks = Column("rank", rank, unit="", over=threat, short="#")
        return [ranks, margins] if self.is_ranked else [margins]

    def notes(self) -> list[str]:
        """Sentences on the numbers that stand in the table."""
        shown = [*self.rows, *self.controls]
        worst = [standing.worst for each in shown for standing in each.standings.values() if standing.worst]
        intervals = f"[{self.rules.confidence:.0%} interval]"
        margin = f"Margin: what the worst attack leaves of the mark {intervals}; 100 is whole, 0 is chance."
        more = []
        if any(math.isnan(each.low) for each in worst):
            more.append("[..]: fewer than five seeds.")
        if self._are_single:
            more.append("One seed is one model: five are the fewest of which one can say that a mark survives.")
        if any(each.gate == "unsure" for each in shown):
            more.append(f"?: the limit of {100 * self.rules.max_cost:g} points may be exceeded.")
        if any(each.anonymous for each in shown):
            more.append('"Not by whom": other owners\' models are marked as often.')
        return [each for each in (margin if worst else "", " ".join(more)) if each]


def _named(scheme: Scheme) -> Value:
    return values.text(f"{scheme.defense} (control)" if is_control(scheme) else scheme.defense)


def _victims(scheme: Scheme) -> Value:
    shown, _ = values.proportion(scheme.victims)
    short = [each.removeprefix("marked, ").removeprefix("the ") for each in remarks(scheme)]
    return ", ".join([shown, *short]), ""


# --- sentences above it -----------------------------------------------------------------------------------------------


def above(board: Board, setting: Setting) -> tuple[str, ...]:
    """Sentences above a data set's tables: what may be concluded, and what everything was compared with."""
    first = printable(f"{setting.dataset}: {setting.conclusion}")
    told = [first, _compared(board.rules, setting)]
    if weak := weakness(setting):
        told.append(weak)
    if setting.demonstration:
        told.append(_demonstration(board.rules, setting))
    return tuple(told)


def _compared(rules: Rules, setting: Setting) -> str:
    """Sentence on the comparison that stands behind the word marked."""
    share = f"about {100 * rules.alpha:.3g}"
    marked = f"marked (p <= {fraction(rules.alpha)})"
    need, models = (
        math.ceil(1 / rules.alpha - 1e-9) - 1,
        f"{setting.models} unmarked model{'s' * (setting.models != 1)}",
    )
    if rules.fpr is not None:
        return f"Compared with an assumed false rate of {rules.fpr:.2%}, not with unmarked models: marked is p <= " + (
            f"{fraction(rules.alpha)}."
        )
    if not setting.models:
        return f"There are no unmarked models to compare with, so none is called marked: harness run --nulls {need}."
    alike = "given as files" if setting.given else "of the same data, net and recipe"
    same = f"Compared with {models} {alike}{_clean(setting)}."
    if rules.test in POOLED:
        assumes = "assumes that all unmarked models answer alike: it may call many of them"
        return f"{same} {TEST_NAMES[rules.test]} {assumes} {marked}."
    if rules.test == "beta-binomial":
        return f"{same} A model is {marked} if rates follow a beta law."
    if setting.models < need:
        return f"{same} {marked[0].upper()}{marked[1:]} needs {need}, so no model is called so."
    return f"{same} Of 100 models without a mark {share} are called {marked}."


def _clean(setting: Setting) -> str:
    """Accuracy of the unmarked models beside its gate, in brackets after a space; empty where it is not known."""
    if setting.accuracy is None:
        return ""
    gate = "" if setting.accuracy_gate is None else f", gate {100 * setting.accuracy_gate:g}%"
    return f" (accuracy {_two_digits(setting.accuracy.mean)}%{gate})"


def weakness(setting: Setting) -> str:
    """Warning that the unmarked models miss the gate of their data set; empty where they do not."""
    if not setting.is_weak or setting.accuracy is None or setting.accuracy_gate is None:
        return ""
    found = setting.accuracy
    ends = "" if math.isnan(found.low) else f" [{_two_digits(found.low)}, {_two_digits(found.high)}]"
    models = f"{found.n} unmarked one{'s have' if found.n > 1 else ' has'}"
    return (
        f"Warning: weak models flatter schemes and attacks. {models} an accuracy of {_two_digits(found.mean)}%{ends}, "
        f"below the gate of {100 * setting.accuracy_gate:g}%."
    )


def _two_digits(share: float) -> str:
    return values.decimal(100 * share, 2)[0]


def _demonstration(rules: Rules, setting: Setting) -> str:
    images = "few" if setting.test_images is None else f"{setting.test_images:,}"
    rule, error = f"{100 * rules.max_drop:g}-point rule of useful models", 100 * setting.tolerance_error
    if math.isnan(error):
        return f"A demonstration: there are {images} test images."
    return f"A demonstration: {images} test images give the {rule} a standard error of {error:.1f}."
