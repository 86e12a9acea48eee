"""Pages of a site as contents of the report's template: an index, a page a record, a scheme and an attack."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from harness.ranking import values, views
from harness.ranking.columns import DATASET, Column, Columns, Table
from harness.ranking.glossary import MARGINS
from harness.ranking.overview import is_control
from harness.report.drawing import COLOURS, Axis, Dot, Series, chart
from harness.report.page import ROWS, Code, Grid, Link, Page, Plot, Row, Section, Tags, shortened
from harness.report.plugins import described
from harness.report.ranking import headers
from harness.report.sources import chain_of
from harness.text import printable
from harness.verdicts.board import Attacked, Scheme, Threat
from harness.verdicts.rules import Rules

if TYPE_CHECKING:
    from harness.planning.registry import Registry
    from harness.site.accepted import Accepted

Kind = Literal["defense", "attack"]
T = TypeVar("T")
NEWEST = 200
"""Records on the index; a scheme's and an attack's page have all."""
THIEVES: tuple[Threat, ...] = ("black box", "white box")


@dataclass(frozen=True)
class Found(Generic[T]):
    """Something of a record's board."""

    record: Accepted
    of: T


@dataclass(frozen=True)
class Site:
    """Accepted records, the newest first, and the plugins that are installed here."""

    records: Sequence[Accepted]
    registry: Registry

    @property
    def schemes(self) -> dict[str, list[Found[views.InThreat]]]:
        """Standings of each scheme, by its plugin's name."""
        return _by_plugin(self.records, views.STANDINGS.records, lambda each: each.defense)

    @property
    def attacks(self) -> dict[str, dict[str, list[Found[Any]]]]:
        """Results of each attack, alone and in chains, by its plugin's name and that of the view."""
        made: dict[str, dict[str, list[Found[Any]]]] = {}
        for view in views.BY["attack"]:
            for name, found in _by_plugin(self.records, view.records, lambda each: each.attack).items():
                made.setdefault(name, {})[view.name] = found
        return dict(sorted(made.items()))


def _by_plugin(
    records: Iterable[Accepted], parts: Callable[[Any], Sequence[T]], text: Callable[[T], str]
) -> dict[str, list[Found[T]]]:
    made: dict[str, list[Found[T]]] = {}
    for record in records:
        for each in parts(record.board):
            for name in dict.fromkeys(entry.name for entry in chain_of(text(each))):
                made.setdefault(name, []).append(Found(record, each))
    return dict(sorted(made.items()))


def file_name(name: str) -> str:
    """A name of a file or folder for any name, however strange: two names never share one."""
    plain = re.sub(r"[^a-z0-9.-]+", "-", name.lower()).strip("-.")[:60]
    return plain if plain and plain == name else f"{plain or 'x'}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


# --- index ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """One record's results on one data set."""

    record: Accepted
    dataset: str
    schemes: list[Scheme]
    attacks: list[Attacked]

    @property
    def tags(self) -> Tags:
        """Its data set, and the threat models and families of its attacks."""
        threats = {each.threat for each in self.attacks if each.threat}
        families = {part for each in self.attacks for part in each.family.split("+")} - {"none", ""}
        several = (("access", threats), ("family", families))
        return (("dataset", printable(self.dataset)), *((key, _lines(each)) for key, each in several))

    def best(self, threat: Threat) -> values.Value:
        """Schemes of the first rank within a threat model, with the margin that the worst attack leaves."""
        found = [(each, standing) for each in self.schemes if (standing := each.standings.get(threat))]
        first = [
            f"{each.defense} {values.bracketed(standing.worst)[0]}" for each, standing in found if standing.rank == 1
        ]
        more = [f"and {len(first) - 3} more"] if len(first) > 3 else []
        return values.text("; ".join([*first[:3], *more]) or "no ranks")


def _lines(names: Iterable[str]) -> str:
    return "\n".join(sorted(map(printable, names)))


def entries(records: Iterable[Accepted]) -> list[Entry]:
    """The results of each record on each of its data sets."""
    made = []
    for record in records:
        for setting in record.board.settings:
            schemes = [each for each in record.board.schemes if each.dataset == setting.dataset]
            attacks = [each for each in record.board.attacks if each.dataset == setting.dataset]
            made.append(Entry(record, setting.dataset, schemes, attacks))
    return made


def index(site: Site) -> Page:
    """The first page: records with filters, then schemes and attacks."""
    made = entries(site.records)
    tags = [dict(each.tags) for each in made]
    chosen = [
        (key, label, sorted({value for each in tags for value in each[key].split("\n") if value}))
        for key, label in (("dataset", "dataset"), ("access", "threat model"), ("family", "attack family"))
    ]
    lead = (
        f"{len(site.records):,} records, each checked by harness submit: its numbers follow from its tables. A row "
        "leads to the record's report, the command that repeats it and the papers of its schemes and attacks."
    )
    sections = [_records(made), _schemes(site), _attacks(site), _reading()]
    return Page(lead, chosen, sections, title="Watermark leaderboard", counted=("records", "records"))


def _records(made: Sequence[Entry]) -> Section:
    columns: Columns[Entry] = (
        _words("record", lambda each: Link.to(f"records/{file_name(each.record.name)}/index.html", each.record.title)),
        DATASET,
        _words("recorded", lambda each: each.record.day),
        *(_best(threat) for threat in THIEVES),
        _count("schemes", lambda each: sum(not is_control(scheme) for scheme in each.schemes)),
        _count("attacks", lambda each: len({attacked.attack for attacked in each.attacks if attacked.threat})),
        _count("seeds", lambda each: max((scheme.seeds for scheme in each.schemes), default=0)),
        _count("unmarked models", lambda each: max((attacked.models for attacked in each.attacks), default=0)),
    )
    rows = [Row([column.show(each) for column in columns], each.tags) for each in made[:NEWEST]]
    told = "Best: the schemes of rank 1, with the margin that the worst attack leaves (%) [95% interval]. " + MARGINS
    note = shortened(len(made), NEWEST, "records")
    return Section(
        "records",
        "Records",
        told,
        grids=[Grid("Records, the newest first", rows=rows, **headers(columns))],
        left_out=note,
    )


def _best(threat: Threat) -> Column[Entry]:
    return Column(f"best, {threat}", lambda each: each.best(threat), unit="", words=True)


def _schemes(site: Site) -> Section:
    columns: Columns[tuple[str, list[Found[views.InThreat]]]] = (
        _words("scheme", lambda named: Link.to(f"schemes/{file_name(named[0])}.html", named[0])),
        _count("records", lambda named: len({each.record.name for each in named[1]})),
        _words("data sets", lambda named: ", ".join(sorted({each.of.dataset for each in named[1]}))),
        *(_newest(threat) for threat in THIEVES),
    )
    return _listed(
        "schemes",
        "Schemes",
        "Newest rank: that of its best setting in the newest record with ranks of it.",
        columns,
        site.schemes,
    )


def _newest(threat: Threat) -> Column[tuple[str, list[Found[views.InThreat]]]]:
    def show(named: tuple[str, list[Found[views.InThreat]]]) -> values.Value:
        ranks = [each.of.standing.rank for each in named[1] if each.of.standing.threat == threat]
        return values.count(next((rank for rank in ranks if rank), math.nan))

    return Column(f"newest rank, {threat}", show, unit="")


def _attacks(site: Site) -> Section:
    columns: Columns[tuple[str, dict[str, list[Found[Any]]]]] = (
        _words("attack", lambda named: Link.to(f"attacks/{file_name(named[0])}.html", named[0])),
        _words("family", lambda named: _family(named[0], site.registry)),
        _count("records", lambda named: len({each.record.name for each in _all(named[1])})),
        _count("results", lambda named: len(_all(named[1]))),
        *(_ended(survival) for survival in ("removed", "survived")),
    )
    told = "Results: a scheme after a chain that the attack is part of."
    return _listed("attacks", "Attacks", told, columns, site.attacks)


def _all(parts: dict[str, list[Found[Any]]]) -> list[Found[Any]]:
    return [each for found in parts.values() for each in found]


def _ended(survival: str) -> Column[Any]:
    return _count(survival, lambda named: sum(each.of.survival == survival for each in named[1].get("attacks", ())))


def _family(name: str, registry: Registry) -> str:
    found = registry.found.get(("attack", name))
    return str(getattr(found.cls, "family", "-")) if found else "-"


def _listed(id: str, title: str, told: str, columns: Columns[Any], named: dict[str, Any]) -> Section:
    rows = [Row([column.show(each) for column in columns]) for each in list(named.items())[:ROWS]]
    return Section(id, title, told, grids=[Grid(title, rows=rows, **headers(columns))])


def _reading() -> Section:
    told = (
        "Ranks compare schemes within one record alone: another record has other seeds, data, unmarked models or "
        "attacks. A record's report says what may be concluded from it, and what its words mean."
    )
    return Section("reading", "How to read this", told)


def _words(name: str, show: Callable[[Any], str]) -> Column[Any]:
    def cell(record: Any) -> values.Value:
        shown = show(record)
        return (shown if isinstance(shown, Link) else printable(shown)), ""

    return Column(name, cell, unit="", words=True)


def _count(name: str, show: Callable[[Any], float]) -> Column[Any]:
    return Column(name, lambda record: values.count(show(record)), unit="")


# --- a record ---------------------------------------------------------------------------------------------------------

COPIED = {"report.html": "report", "leaderboard.md": "ranking as Markdown", "README.md": "notes of its authors"}
"""Files of a record that its page leads to, and their names there."""
HOME = Link.to("../index.html", "All records")


def record_page(record: Accepted, site: Site) -> Page:
    """A record: its report, the command that repeats it, its standings and the papers behind it."""
    facts: list[tuple[str, Sequence[str]]] = [
        ("All its results", [Link.to(name, words) for name, words in COPIED.items()]),
        ("Repeat it", [Code(printable(record.about["command"] or "(the record does not say)"))]),
        ("Recorded", [f"{record.about['recorded_at']}, watermark-harness {record.about['recorded_with']}"]),
        ("Measured on", list(map(printable, record.board.machines)) or ["not recorded"]),
        ("Data", [f"{name} {', '.join(each)}" for name, each in record.about["data"].items()]),
    ]
    found = [Found(record, each) for each in views.STANDINGS.records(record.board)]
    names = {
        kind: dict.fromkeys(entry.name for text in texts for entry in chain_of(text))
        for kind, texts in (
            ("dataset", [each.dataset for each in record.board.settings]),
            ("defense", [each.defense for each in record.board.schemes]),
            ("attack", [each.attack for each in record.board.attacks]),
        )
    }
    rows = [
        Row([values.text(kind), (_plugin(kind, name), ""), values.text(_reference(kind, name, site.registry))])
        for kind, each in names.items()
        for name in each
    ]
    plugins = Grid(
        "Data sets, schemes and attacks",
        ("kind", "plugin", "reference"),
        rows,
        words=frozenset(("kind", "plugin", "reference")),
    )
    sections = [
        Section("about", "About this record", facts=[(term, [*map(_safe, each)]) for term, each in facts]),
        _standings("Worst case of each scheme", found, with_record=False),
        Section("references", "References", grids=[plugins]),
    ]
    lead = f"Recorded on {record.day}: {', '.join(printable(each.dataset) for each in record.board.settings)}."
    return Page(lead, [], sections, title=record.title, up=[Link.to("../../index.html", "All records")])


def _safe(text: str) -> str:
    return text if isinstance(text, Link | Code) else printable(text)


def _plugin(kind: str, name: str) -> str:
    folder = {"defense": "schemes", "attack": "attacks"}.get(kind)
    return Link.to(f"../../{folder}/{file_name(name)}.html", printable(name)) if folder else printable(name)


def _reference(kind: Any, name: str, registry: Registry) -> str:
    found = registry.found.get((kind, name))
    return (found.cls.reference or "-") if found else "not installed here"


# --- a scheme, an attack ----------------------------------------------------------------------------------------------


def scheme_page(name: str, found: list[Found[views.InThreat]], site: Site) -> Page:
    """A scheme: its description, its ranks over the records, and its standings."""
    told = "One is the best; a scheme shares its rank with those that are not significantly better or worse."
    history = _history(found)
    sections = [
        Section("about", "What it is", plugins=[described("defense", name, Grid("", (), ()), site.registry)]),
        *([Section("history", "Ranks over the records", told, plots=[history])] if history else []),
        _standings("Standings", found),
    ]
    return _page("Scheme", name, found, sections, "standings")


def attack_page(name: str, parts: dict[str, list[Found[Any]]], site: Site) -> Page:
    """An attack: its description, and what it leaves of each scheme."""
    made = [_left(view, parts[view.name]) for view in views.BY["attack"] if view.name in parts]
    about = Section("about", "What it is", plugins=[described("attack", name, Grid("", (), ()), site.registry)])
    return _page("Attack", name, _all(parts), [about, *made], made[0].id)


def _left(view: views.View[Any], found: list[Found[Any]]) -> Section:
    shown = tuple(column for column in view.shown(Rules()) if not column.sketch)
    title = f"{view.title[0].upper()}{view.title[1:]}"
    return Section(
        view.name.replace(" ", "-"),
        title,
        MARGINS,
        grids=[_grid(title, (_record(), _of(DATASET), *map(_of, shown)), found)],
        terms=views.terms([Table("", shown, [])], Rules()),
    )


def _grid(title: str, columns: Columns[Found[Any]], found: Sequence[Found[Any]]) -> Grid:
    rows = [Row([column.show(each) for column in columns], _tags(each)) for each in found[:ROWS]]
    return Grid(title, rows=rows, note=shortened(len(found), ROWS, "rows"), **headers(columns))


def _page(kind: str, name: str, found: Sequence[Found[Any]], sections: list[Section], counted: str) -> Page:
    records = len({each.record.name for each in found})
    datasets = sorted({printable(each.of.dataset) for each in found})
    filters = [("dataset", "dataset", datasets)] if len(datasets) > 1 else []
    lead = f"{records:,} record{'s' * (records != 1)} on {', '.join(datasets)}."
    title = f"{kind} {printable(name)}"
    return Page(lead, filters, sections, title=title, counted=(counted, "results"), up=[HOME])


def _standings(title: str, found: Sequence[Found[views.InThreat]], *, with_record: bool = True) -> Section:
    shown = views.STANDINGS.shown(Rules())
    columns = (*([_record()] if with_record else []), _of(DATASET), *map(_of, shown))
    terms = views.terms([Table("", shown, [])], Rules())
    return Section("standings", title, MARGINS, grids=[_grid(title, columns, found)], terms=terms)


def _record() -> Column[Found[Any]]:
    def link(each: Found[Any]) -> str:
        return Link.to(f"../records/{file_name(each.record.name)}/index.html", each.record.title)

    return _words("record", link)


def _of(column: Column[Any]) -> Column[Found[Any]]:
    return Column(column.name, lambda each: column.show(each.of), column.unit, column.words, column.term)


def _tags(found: Found[Any]) -> Tags:
    return (("dataset", printable(found.of.dataset)),)


def _history(found: Sequence[Found[views.InThreat]]) -> Plot | None:
    """Ranks in the records, the oldest first; nothing of fewer than two records with ranks."""
    ranked = [each for each in reversed(found) if each.of.standing.rank and each.of.standing.threat in THIEVES]
    records = list(dict.fromkeys(each.record.name for each in ranked))
    if len(records) < 2:
        return None
    lines: dict[str, list[Found[views.InThreat]]] = {}
    for each in ranked:
        lines.setdefault(f"{each.of.standing.threat}: {each.of.defense} on {each.of.dataset}", []).append(each)
    place = {name: number for number, name in enumerate(records, start=1)}
    worst = max(each.of.standing.rank or 1 for each in ranked)
    drawn = [Series(printable(name), *_points(own, place)) for name, own in list(lines.items())[:COLOURS]]
    x = Axis("record, the oldest first", 1, len(records), steps=_steps(len(records) - 1))
    y = Axis("rank", max(2, worst), 1, steps=_steps(max(2, worst) - 1))
    picture = chart(drawn, x, y, f"Ranks in {len(records)} records. " + "; ".join(each.name for each in drawn))
    columns = ("line", "record", "rank")
    rows = [
        Row([values.text(name), values.text(each.record.title), values.count(each.of.standing.rank or math.nan)])
        for name, own in lines.items()
        for each in own
    ]
    grid = Grid("ranks", columns, rows[:ROWS], words=frozenset(columns[:2]))
    return Plot("Rank within its threat model", [picture], grid, ())


def _steps(length: int) -> int:
    """Number of equal whole intervals, six at most, of an axis of this length."""
    return max(steps for steps in range(1, 7) if length % steps == 0)


def _points(own: Sequence[Found[views.InThreat]], place: dict[str, int]) -> tuple[list[tuple[float, float]], list[Dot]]:
    at = [(float(place[each.record.name]), float(each.of.standing.rank or 1)) for each in own]
    dots = [Dot(x, y, f"{printable(each.record.title)}: rank {y:g}") for each, (x, y) in zip(own, at, strict=True)]
    return at, dots
