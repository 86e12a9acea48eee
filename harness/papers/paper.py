"""Published papers: ``papers/<name>.toml`` holds for each experiment a matrix and rows of numbers or claims.

Reading and checking only; :mod:`harness.papers.reproduce` compares. No torch, no pandas.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from importlib import resources
from pathlib import Path
from typing import Any

from harness.errors import MatrixError, UnknownName, UsageError
from harness.files import user_path
from harness.planning.matrix import FULL, Entry, Matrix, parse_entry, read_matrix, read_toml

_ID = re.compile(r"[a-z0-9][a-z0-9.-]*")
NUMBER = r"[-+]?\d+(?:\.(\d+))?"
PICTURES = ("strips", "sweep", "scatter", "histogram", "points", "heatmap", "curves", "queries", "plane")
"""The kinds of pictures: :mod:`harness.figures.frames` makes their numbers, :mod:`harness.figures` draws them."""


@dataclass(frozen=True)
class Band:
    """The values that agree with what a paper says, and how that is printed."""

    low: float
    high: float
    text: str

    def holds(self, value: float) -> bool:
        """True if ``value`` agrees."""
        return self.low <= value <= self.high

    @property
    def is_direction(self) -> bool:
        """True of a claim such as "> 0", which has one end."""
        return math.isinf(self.low) or math.isinf(self.high)

    def meets(self, low: float, high: float) -> bool:
        """True if some value between ``low`` and ``high`` agrees."""
        return low <= self.high and high >= self.low


@dataclass(frozen=True)
class Row:
    """One number of an experiment: the cells, the quantity, and the paper's statement about it."""

    label: str
    quantity: str
    where: Mapping[str, Any]
    """``dataset``, ``defense``, ``attack`` (a text, a glob or a list of such), ``layer``, ``group``; a name left out
    may be any. For an analytic experiment: the formula's arguments.
    """
    less: Mapping[str, Any] | None
    """For a difference over paired seeds: where the subtracted cells differ from ``where``."""
    band: Band | None
    mark: str
    source: str


@dataclass(frozen=True)
class Picture:
    """The picture of an experiment; :mod:`harness.figures` has the kinds."""

    kind: str
    x: str = ""
    """``attack.fraction`` or ``defense.weight``: an option; or a quantity."""
    y: tuple[str, ...] = ()
    where: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Experiment:
    """A table, a figure or a section of a paper."""

    id: str
    title: str
    says: str
    rows: tuple[Row, ...]
    picture: Picture
    documents: tuple[Mapping[str, Any], ...]
    """Its matrices, as in matrix files; none where formulas suffice."""
    path: str
    records: Mapping[str, str]
    """The records that answer it, by name: the size and the setting of each."""

    def matrices(self, scale: str, datasets: Sequence[str] = ()) -> list[Matrix]:
        """Its matrices at ``scale``; of several, those that have this scale; with some names or globs of ``datasets``,
        those that have such, with these alone. Raises :class:`harness.errors.MatrixError`.
        """
        named = [document for document in self.documents if scale == FULL or scale in document.get("scales", {})]
        made = [read_matrix(dict(document), self.id, self.path, scale) for document in named or self.documents[:1]]
        if not datasets:
            return made
        chosen = [
            tuple(entry for entry in matrix.datasets if any(fnmatchcase(entry.name, name) for name in datasets))
            for matrix in made
        ]
        return [replace(matrix, datasets=kept) for matrix, kept in zip(made, chosen, strict=True) if kept]

    @property
    def scales(self) -> list[str]:
        """The scales that one of its matrices has; none where formulas suffice."""
        named = [FULL, *(scale for document in self.documents for scale in document.get("scales", {}))]
        return list(dict.fromkeys(named)) if self.documents else []

    def cells(self, scale: str) -> int:
        """The number of cells of its matrices."""
        return sum(
            len(matrix.datasets) * len(matrix.defenses) * len(matrix.attacks) * len(matrix.seeds)
            for matrix in self.matrices(scale)
        )


@dataclass(frozen=True)
class Paper:
    """A paper's experiments by id."""

    name: str
    title: str
    source: str
    marks: Mapping[str, str]
    experiments: Mapping[str, Experiment]

    @property
    def scales(self) -> list[str]:
        """The scales that some experiment has."""
        return list(dict.fromkeys([FULL, *(scale for each in self.experiments.values() for scale in each.scales)]))

    def chosen(self, names: Sequence[str]) -> list[Experiment]:
        """The experiments of ``names``, each once; ``all`` is all. ``table1``, ``Fig. 5`` and the like work."""
        if "all" in names:
            return list(self.experiments.values())
        known = {_plain(id): experiment for id, experiment in self.experiments.items()}
        for name in names:
            if _plain(name) not in known:
                raise UnknownName("experiment", name, [*self.experiments, "all"])
        return list({known[_plain(name)].id: known[_plain(name)] for name in names}.values())


def _plain(name: str) -> str:
    """A name without spelling differences: ``Fig. 5``, ``figure-5`` and ``figure5`` are one."""
    return re.sub(r"^fig(?=\d)", "figure", re.sub(r"[^a-z0-9]", "", name.lower()))


def papers() -> dict[str, Path]:
    """The papers that come with the harness: their files by name."""
    folder = Path(str(resources.files("harness"))) / "papers"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def load_paper(name: str) -> Paper:
    """A paper by name, or a TOML file by path. Raises :class:`UnknownName` or :class:`MatrixError`."""
    path = user_path(name) if name.endswith(".toml") or "/" in name else papers().get(name)
    if path is None:
        raise UnknownName("paper", name, [*papers(), "PATH.toml"])
    return read_paper(read_toml(path, "paper"), path.stem, str(path))


def read_paper(document: Mapping[str, Any], name: str, path: str) -> Paper:
    """The paper in a TOML document found at ``path``. Raises :class:`MatrixError`."""
    needed = {"title": str, "source": str, "marks": dict, "experiments": dict}
    _check(document, path, needed, {"datasets": dict})
    marks, datasets = document["marks"], _datasets(document.get("datasets", {}), f"{path}: datasets")
    for id in document["experiments"]:
        if not _ID.fullmatch(id):  # a picture's file is named after it
            raise MatrixError(f"{path}: {id!r} is no name of an experiment: lower-case letters, digits, '-' and '.'")
    experiments = {
        id: _experiment(each, id, f"{path}: experiments.{id}", marks, datasets)
        for id, each in document["experiments"].items()
    }
    return Paper(name, document["title"], document["source"], marks, experiments)


def _check(document: Any, path: str, needed: Mapping[str, Any], more: Mapping[str, Any] | None = None) -> None:
    """Check that ``document`` has the keys of ``needed``, perhaps those of ``more``, all of their types. Raises
    :class:`MatrixError`.
    """
    if not isinstance(document, Mapping):
        raise MatrixError(f"{path}: expected a table, not {document!r}")
    known = {**needed, **(more or {})}
    for key, value in document.items():
        if key not in known:
            raise MatrixError(f"{path}: {UnknownName('key', key, known)}")
        if not isinstance(value, known[key]) or isinstance(value, bool):
            raise MatrixError(f"{path}: {key} = {value!r} is no {_kind(known[key])}")
    for key in needed:
        if key not in document:
            raise MatrixError(f"{path}: {key} is missing")


def _kind(type_: Any) -> str:
    words = {str: "text", list: "list", dict: "table"}
    return words.get(type_, "number")


def _datasets(document: Mapping[str, Any], path: str) -> dict[str, Entry]:
    """The data sets that a paper's matrices speak of by a name of its own. Raises :class:`MatrixError`."""
    _check(document, path, {}, dict.fromkeys(document, str))
    try:
        return {name: parse_entry(text) for name, text in document.items()}
    except UsageError as error:
        raise MatrixError(f"{path}: {error}") from error


def _spelled(matrix: Mapping[str, Any], datasets: Mapping[str, Entry]) -> dict[str, Any]:
    """A matrix, and its scales, with the options of the ``datasets`` whose names it gives."""
    listed, scales = matrix.get("datasets"), matrix.get("scales")
    spelled = dict(matrix)
    if isinstance(listed, list):
        spelled["datasets"] = [_meant(item, datasets) for item in listed]
    if isinstance(scales, dict):
        spelled["scales"] = {
            name: _spelled(scale, datasets) if isinstance(scale, dict) else scale for name, scale in scales.items()
        }
    return spelled


def _meant(item: Any, datasets: Mapping[str, Entry]) -> Any:
    """An entry of a matrix, text or a table; its own options come before those of the data set that it names."""
    if isinstance(item, dict) and (named := datasets.get(str(item.get("name")))):
        return {**dict(named.options), **item, "name": named.name}
    if isinstance(item, str) and (named := datasets.get(item.partition("[")[0].strip())):
        return str(named.changed(parse_entry(item).options))
    return item


def _experiment(
    document: Any, id: str, path: str, marks: Mapping[str, str], datasets: Mapping[str, Entry]
) -> Experiment:
    needed = {"title": str, "says": str, "rows": list, "picture": dict}
    _check(document, path, needed, {"matrix": (dict, list), "common": dict, "records": dict})
    records = document.get("records", {})
    _check(records, f"{path}.records", {}, dict.fromkeys(records, str))
    found = document.get("matrix", [])
    matrices = tuple(found) if isinstance(found, list) else (found,)
    if not all(isinstance(matrix, dict) for matrix in matrices):
        raise MatrixError(f"{path}: matrix must be a table, or a list of tables")
    try:
        matrices = tuple(_spelled(matrix, datasets) for matrix in matrices)
    except UsageError as error:
        raise MatrixError(f"{path}.matrix: {error}") from error
    common, analytic = document.get("common", {}), not matrices
    rows = tuple(
        _row(row, common, f"{path}.rows[{i}]", marks, analytic)
        for i, written in enumerate(document["rows"])
        for row in _quantities(written)
    )
    picture = _picture(document["picture"], f"{path}.picture")
    return Experiment(id, document["title"], document["says"], rows, picture, matrices, f"{path}.matrix", records)


def _quantities(row: Any) -> list[Any]:
    """One row per quantity, where ``quantity`` is a list or ``paper`` a table of published numbers."""
    if not isinstance(row, Mapping):
        return [row]
    published, quantity = row.get("paper"), row.get("quantity")
    if isinstance(published, Mapping):
        return [{**row, "quantity": name, "paper": text} for name, text in published.items()]
    return [{**row, "quantity": name} for name in quantity] if isinstance(quantity, list) else [row]


_CLAIMS = {"paper": str, "above": (int, float), "below": (int, float), "about": (int, float)}
_ROW = {"label": str, "quantity": str, "where": dict, "mark": str, "source": str}
_MORE = {"less": dict, "tolerance": (int, float), "printed": str, **_CLAIMS}


def _row(document: Any, common: Mapping[str, Any], path: str, marks: Mapping[str, str], analytic: bool) -> Row:
    """A row; values that it lacks come from ``common``, which holds for all rows of the experiment."""
    from harness.papers.quantities import FORMULAS, QUANTITIES

    if isinstance(document, Mapping):
        where = {**common.get("where", {}), **document.get("where", {})}
        document = {**common, **document, "where": where}
    _check(document, path, _ROW, _MORE)
    known = FORMULAS if analytic else QUANTITIES
    if document["quantity"] not in known:
        raise MatrixError(f"{path}: {UnknownName('quantity', document['quantity'], known)}")
    if document["mark"] not in marks:
        raise MatrixError(f"{path}: {UnknownName('mark', document['mark'], marks)}")
    if not analytic:
        for each in (document["where"], document.get("less") or {}):
            _check_where(each, path)
    fixed = {key: document[key] for key in ("label", "quantity", "where", "mark", "source")}
    return Row(**fixed, less=document.get("less"), band=read_band(document, path))


def _check_where(where: Mapping[str, Any], path: str) -> None:
    texts = dict.fromkeys(("dataset", "defense", "attack"), (str, list))
    _check(where, f"{path}.where", {}, {**texts, "layer": str, "group": str})


def read_band(document: Mapping[str, Any], path: str) -> Band | None:
    """The band of a row: ``paper = "61.44 ± 27.85"``, ``above``, ``below``, or ``about`` with its ``tolerance``."""
    given = [key for key in _CLAIMS if key in document]
    printed = document.get("printed", "")
    if not given:
        return None
    if len(given) > 1 and set(given) != {"above", "below"}:
        raise MatrixError(f"{path}: {' and '.join(given)} cannot both be: give one of {', '.join(_CLAIMS)}")
    if ("about" in given) != ("tolerance" in document):
        raise MatrixError(f"{path}: about and tolerance go together")
    if "paper" in given:
        return _published(document["paper"], path)
    if "about" in given:
        about, tolerance = document["about"], document["tolerance"]
        claim = f"{about:g} ± {tolerance:g}" if printed else f"{about:g} (± {tolerance:g})"
        return Band(about - tolerance, about + tolerance, f"{printed} ({claim})" if printed else claim)
    low, high = float(document.get("above", -math.inf)), float(document.get("below", math.inf))
    signs = [f"> {low:g}"] * ("above" in given) + [f"< {high:g}"] * ("below" in given)
    claim = ", ".join(signs)
    return Band(low, high, f"{printed} ({claim})" if printed else claim)


def _published(text: str, path: str) -> Band:
    """The band of a printed ``mean ± SD``, half a unit of the last printed digit wider: it was rounded."""
    found = re.fullmatch(rf"\s*({NUMBER})\s*±\s*({NUMBER})\s*", text)
    if found is None:
        raise MatrixError(f'{path}: cannot read paper = {text!r}: expected "mean ± SD", as in "61.44 ± 27.85"')
    mean, sd = float(found[1]), float(found[3])
    half = 0.5 * 10.0 ** -len(found[2] or "")
    return Band(mean - sd - half, mean + sd + half, f"{found[1]} ± {found[3]}")


def _picture(document: Any, path: str) -> Picture:
    from harness.papers.quantities import QUANTITIES

    _check(document, path, {"kind": str}, {"x": str, "y": list, "where": dict})
    of_cells = [name for name, quantity in QUANTITIES.items() if quantity.by_cell]
    for name in document.get("y", []):
        if name not in of_cells:
            raise MatrixError(f"{path}: {UnknownName('quantity', name, of_cells)}")
    where = document.get("where", {})
    _check_where(where, path)
    if document["kind"] not in PICTURES:
        raise MatrixError(f"{path}: {UnknownName('kind of picture', document['kind'], PICTURES)}")
    return Picture(document["kind"], document.get("x", ""), tuple(document.get("y", [])), where)
