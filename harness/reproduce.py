"""A published paper's experiments: its numbers and claims beside ours, with a verdict for each.

``papers/<name>.toml`` holds for each experiment a matrix and rows: which cells, which quantity, what the paper prints.
Everything after :func:`gather` is a pure function over frames. No torch.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import partial
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from harness.errors import MatrixError, UnknownName
from harness.matrix import FULL, Matrix, format_chain, parse_chain, read_matrix
from harness.plan import Kind, Plan, Use

if TYPE_CHECKING:
    import pandas as pd

    from harness.quantities import Frames, Quantity
    from harness.tables import Tables

Verdict: TypeAlias = Literal["reproduced", "differs", "undecided", "unverified", "no claim", "void", "not run"]
VERDICTS: dict[Verdict, str] = {
    "reproduced": "our mean lies in the paper's band (its mean ± SD, or what it claims)",
    "differs": "the 95% interval of our mean and that band do not meet",
    "undecided": "neither: too few seeds, or too much spread, to say",
    "unverified": "the number is second-hand, and not taken for the paper's",
    "no claim": "the paper prints no number to compare with",
    "void": "every model lost its accuracy: its answers say nothing",
    "not run": "no data here",
}
CONFIDENCE = 0.95
NUMBER = r"[-+]?\d+(?:\.(\d+))?"


# --- what a paper file says -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Band:
    """The values that agree with what a paper says, and how that is printed."""

    low: float
    high: float
    text: str

    def holds(self, value: float) -> bool:
        """Whether ``value`` agrees."""
        return self.low <= value <= self.high

    def meets(self, low: float, high: float) -> bool:
        """Whether some value between ``low`` and ``high`` agrees."""
        return low <= self.high and high >= self.low


@dataclass(frozen=True)
class Row:
    """One number of an experiment: of which cells, which quantity, and what the paper says of it."""

    label: str
    quantity: str
    where: Mapping[str, Any]
    """``dataset``, ``defense``, ``attack`` (a text, a glob or a list of such), ``layer``, ``group``; what is not named
    may be any. Of an analytic experiment: the formula's arguments."""
    less: Mapping[str, Any] | None
    """Of a difference over paired seeds: where the cells taken from it differ."""
    band: Band | None
    mark: str
    source: str


@dataclass(frozen=True)
class Picture:
    """What is drawn of an experiment: see :mod:`harness.figures` for the kinds."""

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
    """Its matrices, as in matrix files; none where formulas are all that it needs."""
    path: str

    def matrices(self, scale: str) -> list[Matrix]:
        """Its matrices at ``scale``; of several, those that have it. Raises :class:`harness.errors.MatrixError`."""
        named = [document for document in self.documents if scale == FULL or scale in document.get("scales", {})]
        return [read_matrix(dict(document), self.id, self.path, scale) for document in named or self.documents[:1]]

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
        documents = [document for e in self.experiments.values() for document in e.documents]
        return list(dict.fromkeys([FULL, *(scale for document in documents for scale in document.get("scales", {}))]))

    def chosen(self, names: Sequence[str]) -> list[Experiment]:
        """The experiments of ``names``, each once; ``all`` is all. ``table1``, ``Fig. 5`` and the like will do."""
        if "all" in names:
            return list(self.experiments.values())
        known = {_plain(id): experiment for id, experiment in self.experiments.items()}
        for name in names:
            if _plain(name) not in known:
                raise UnknownName("experiment", name, [*self.experiments, "all"])
        return list({known[_plain(name)].id: known[_plain(name)] for name in names}.values())


def _plain(name: str) -> str:
    """A name without what people spell differently: ``Fig. 5``, ``figure-5`` and ``figure5`` are one."""
    return re.sub(r"^fig(?=\d)", "figure", re.sub(r"[^a-z0-9]", "", name.lower()))


def papers() -> dict[str, Path]:
    """The papers that come with the harness: their files by name."""
    folder = Path(str(resources.files("harness"))) / "papers"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def load_paper(name: str) -> Paper:
    """A paper by name, or a TOML file by path. Raises :class:`UnknownName` or :class:`MatrixError`."""
    path = Path(name) if name.endswith(".toml") or "/" in name else papers().get(name)
    if path is None:
        raise UnknownName("paper", name, [*papers(), "PATH.toml"])
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise MatrixError(f"cannot read the paper {path}: {error.strerror}") from error
    except ValueError as error:  # also that of bytes that are no UTF-8
        raise MatrixError(f"{path}: {error}") from error
    return read_paper(document, path.stem, str(path))


def read_paper(document: Mapping[str, Any], name: str, path: str) -> Paper:
    """The paper in a TOML document found at ``path``. Raises :class:`MatrixError`."""
    _check(document, path, {"title": str, "source": str, "marks": dict, "experiments": dict})
    marks = document["marks"]
    experiments = {
        id: _experiment(each, id, f"{path}: experiments.{id}", marks) for id, each in document["experiments"].items()
    }
    return Paper(name, document["title"], document["source"], marks, experiments)


def _check(document: Any, path: str, needed: Mapping[str, Any], more: Mapping[str, Any] | None = None) -> None:
    """Raise :class:`MatrixError` unless ``document`` has the keys that it needs, maybe ``more``, all of their types."""
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


def _experiment(document: Any, id: str, path: str, marks: Mapping[str, str]) -> Experiment:
    needed = {"title": str, "says": str, "rows": list, "picture": dict}
    _check(document, path, needed, {"matrix": (dict, list), "common": dict})
    found = document.get("matrix", [])
    matrices = tuple(found) if isinstance(found, list) else (found,)
    if not all(isinstance(matrix, dict) for matrix in matrices):
        raise MatrixError(f"{path}: matrix must be a table, or a list of tables")
    common, analytic = document.get("common", {}), not matrices
    rows = tuple(_row(row, common, f"{path}.rows[{i}]", marks, analytic) for i, row in enumerate(document["rows"]))
    picture = _picture(document["picture"], f"{path}.picture")
    return Experiment(id, document["title"], document["says"], rows, picture, matrices, f"{path}.matrix")


_CLAIMS = {"paper": str, "above": (int, float), "below": (int, float), "about": (int, float)}
_ROW = {"label": str, "quantity": str, "where": dict, "mark": str, "source": str}
_MORE = {"less": dict, "tolerance": (int, float), "printed": str, **_CLAIMS}


def _row(document: Any, common: Mapping[str, Any], path: str, marks: Mapping[str, str], analytic: bool) -> Row:
    """A row; what it does not say itself, ``common`` says for all rows of the experiment."""
    from harness.quantities import FORMULAS, QUANTITIES

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
    """What a row claims: ``paper = "61.44 ± 27.85"``, ``above``, ``below``, or ``about`` with its ``tolerance``."""
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
    from harness.quantities import QUANTITIES

    _check(document, path, {"kind": str}, {"x": str, "y": list, "where": dict})
    of_cells = [name for name, quantity in QUANTITIES.items() if quantity.by_cell]
    for name in document.get("y", []):
        if name not in of_cells:
            raise MatrixError(f"{path}: {UnknownName('quantity', name, of_cells)}")
    where = document.get("where", {})
    _check_where(where, path)
    if document["kind"] not in KINDS:
        raise MatrixError(f"{path}: {UnknownName('kind of picture', document['kind'], KINDS)}")
    return Picture(document["kind"], document.get("x", ""), tuple(document.get("y", [])), where)


# --- from the tables --------------------------------------------------------------------------------------------------

Resolver: TypeAlias = Callable[[Kind, str], Use]


def gather(plan: Plan, tables: Tables, lookup: Resolver, x: str = "") -> Frames:
    """What the tables hold of a plan's cells: those rows alone that its own stages made.

    Cells get what the plan knows: ``source`` and ``target`` of the dataset, and where ``x`` is ``attack.fraction`` or
    the like, that option's value as ``x`` and the cell's name without it as ``series``.
    """
    import pandas as pd

    from harness.leaderboard import Rules, score
    from harness.quantities import Frames

    names = ["dataset", "defense", "attack", "seed"]
    known = pd.DataFrame([_known(cell, lookup, x) for cell in plan.cells])
    # By the model, not by the cell's id: another experiment may have run these models with other analyses.
    rows = tables.read("cells").merge(known, on=[*names, "model"])
    looked = {s.plugin.text for s in plan.stages.values() if s.plugin and s.action in ("analyse", "detect")}
    measurements = tables.read("measurements")
    measurements = measurements[measurements["analysis"].isin(looked)].drop(columns=["cell", "run"])
    ids = rows[[*names, "model", "cell"]]
    curves = tables.read("curves").merge(rows[["model", "cell"]], left_on="stage", right_on="model")
    last = curves.groupby("cell")["training"].transform("max") if len(curves) else curves["training"]
    return Frames(
        score(rows, Rules()),
        tables.read("detections").merge(rows[["cell"]], on="cell"),
        measurements.merge(ids, on=[*names, "model"]),
        curves[curves["training"] == last],
    )


def _known(cell: Any, lookup: Resolver, x: str) -> dict[str, Any]:
    dataset = lookup("dataset", cell.dataset).plugin
    row = {"dataset": cell.dataset, "defense": cell.defense, "attack": cell.attack, "seed": cell.seed}
    known = {**row, "model": dict(cell.stages).get("surrogate"), "source": dataset.source, "target": dataset.target}
    kind, dot, option = x.partition(".")
    if dot:
        value, rest = _option(row[kind], kind, option, lookup)
        short = {**row, "dataset": _name(cell.dataset), kind: rest}
        known |= {"x": value, "series": f"{short['dataset']}: {short['defense']}, {short['attack']}"}
    return known


def _option(text: str, kind: Any, option: str, lookup: Resolver) -> tuple[Any, str]:
    """The value that the last link of a chain has for ``option``, and the chain without it."""
    chain = parse_chain(text)
    plugins = (lookup(kind, str(entry)).plugin for entry in reversed(chain))
    value = next((getattr(plugin, option) for plugin in plugins if hasattr(plugin, option)), None)
    bare = [replace(entry, options=tuple((k, v) for k, v in entry.options if k != option)) for entry in chain]
    return value, format_chain(bare)


def _name(text: str) -> str:
    return text.partition("[")[0]


def canonical(where: Mapping[str, Any], lookup: Resolver) -> dict[str, Any]:
    """``where`` with texts as the tables have them; globs, and the bare names of datasets, stay as they are."""
    return {
        key: [_canonical(key, text, lookup) for text in ([value] if isinstance(value, str) else value)]
        if key in ("dataset", "defense", "attack")
        else value
        for key, value in where.items()
    }


def _canonical(kind: Any, text: str, lookup: Resolver) -> str:
    if "*" in text or (kind == "dataset" and "[" not in text):
        return text
    return format_chain(lookup(kind, str(entry)) for entry in parse_chain(text))


def chosen(cells: pd.DataFrame, where: Mapping[str, Any]) -> pd.DataFrame:
    """The ``cells`` that ``where``, in canonical texts, speaks of; a dataset's bare name fits it with any options."""
    for column in ("dataset", "defense", "attack"):
        if column in where:
            fits = partial(_fits, patterns=where[column], column=column)
            cells = cells[cells[column].map(fits).astype(bool)]
    return cells


def _fits(text: str, patterns: Sequence[str], column: str) -> bool:
    # Brackets are options here, not character classes.
    globs = [pattern.replace("[", "[[]") for pattern in patterns]
    bare = column == "dataset" and _name(text) in patterns
    return bare or any(fnmatchcase(text, glob) for glob in globs)


# --- comparing --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spread:
    """A quantity over seeds: its mean, standard deviation (n - 1) and the t-interval of the mean; ``None``: unknown."""

    n: int
    mean: float
    sd: float | None
    low: float | None
    high: float | None


def spread(values: Sequence[float]) -> Spread | None:
    """The spread of one value a seed; ``None`` for none. A value that is infinite leaves all but the mean unknown."""
    from scipy.special import stdtrit

    n = len(values)
    if not n:
        return None
    mean = math.fsum(values) / n if all(map(math.isfinite, values)) else math.inf
    if n < 2 or math.isinf(mean):
        return Spread(n, mean, None, None, None)
    sd = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = float(stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * sd / math.sqrt(n)
    return Spread(n, mean, sd, mean - half, mean + half)


def judge(band: Band | None, ours: Spread | None, mark: str = "", exact: bool = False) -> Verdict:
    """The verdict of one row. ``exact`` is a number without seeds: it agrees or it differs."""
    if ours is None:
        return "not run"
    if mark == UNVERIFIED:
        return "unverified"
    if band is None:
        return "no claim"
    if exact:
        return "reproduced" if band.holds(ours.mean) else "differs"
    if ours.n < 2:
        return "undecided"
    if band.holds(ours.mean):
        return "reproduced"
    if ours.low is None or ours.high is None:
        return "undecided"
    return "undecided" if band.meets(ours.low, ours.high) else "differs"


UNVERIFIED = "U"
"""The mark of a number that is not the paper's own word."""


@dataclass(frozen=True)
class Compared:
    """A row with our numbers."""

    row: Row
    label: str
    """What the quantity is called."""
    unit: str
    values: Mapping[int, float]
    """By seed."""
    spread: Spread | None
    verdict: Verdict
    void: int
    """Cells whose victim or surrogate lost its accuracy: their successes do not count."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        row, ours = self.row, self.spread or Spread(0, math.nan, None, None, None)
        return {
            **{"label": row.label, "quantity": row.quantity, "unit": self.unit},
            **{"paper": row.band.text if row.band else "", "mark": row.mark, "source": row.source},
            **{"paper_low": row.band and row.band.low, "paper_high": row.band and row.band.high},
            **{"n": ours.n, "mean": ours.mean, "sd": ours.sd, "low": ours.low, "high": ours.high},
            **{"verdict": self.verdict, "void": self.void, "values": {str(s): v for s, v in self.values.items()}},
        }


def compare(experiment: Experiment, frames: Frames, lookup: Resolver) -> list[Compared]:
    """The rows of an experiment with what ``frames`` say."""
    return [_compared(row, frames, lookup) for row in experiment.rows]


def _compared(row: Row, frames: Frames, lookup: Resolver) -> Compared:
    from harness.quantities import QUANTITIES

    quantity = QUANTITIES[row.quantity]
    where = canonical(row.where, lookup)
    part = _part(frames, where)
    values = quantity.of_seeds(part)
    unit = quantity.unit
    if row.less is not None:
        # Paired: a seed that lacks one of the two tells nothing of their difference.
        values = (values - quantity.of_seeds(_part(frames, where | canonical(row.less, lookup)))).dropna()
        unit = "points" if unit == "%" else unit
    ours = spread(values.tolist())
    by_seed = {int(seed): float(value) for seed, value in values.items()}
    void = int(part.cells["void"].sum()) if len(part.cells) else 0
    verdict = "void" if ours is None and void else judge(row.band, ours, row.mark)
    return Compared(row, quantity.label, unit, by_seed, ours, verdict, void)


def _part(frames: Frames, where: Mapping[str, Any]) -> Frames:
    return frames.of(chosen(frames.cells, where)).about(where.get("layer", ""), where.get("group", ""))


def calculate(experiment: Experiment) -> list[Compared]:
    """The rows of an analytic experiment."""
    from harness.quantities import FORMULAS

    made = []
    for row in experiment.rows:
        formula = FORMULAS[row.quantity]
        ours = Spread(1, formula(row.where), None, None, None)
        verdict = judge(row.band, ours, row.mark, exact=True)
        made.append(Compared(row, formula.label, formula.unit, {}, ours, verdict, 0))
    return made


# --- what is drawn ----------------------------------------------------------------------------------------------------


def drawn(
    experiment: Experiment, compared: Sequence[Compared], frames: Frames | None, lookup: Resolver
) -> pd.DataFrame:
    """The numbers of an experiment's picture, tidy; empty where there are none yet."""
    picture = experiment.picture
    made = KINDS[picture.kind]
    if frames is None:
        return made(picture, compared, None)
    return made(picture, compared, _part(frames, canonical(picture.where, lookup)))


def _strips(picture: Picture, compared: Sequence[Compared], frames: Frames | None) -> pd.DataFrame:
    """One row a seed of each compared row, with the paper's band."""
    import pandas as pd

    rows = [
        {
            **{"label": each.row.label, "quantity": each.label, "unit": each.unit, "seed": seed, "value": value},
            **{"paper_low": band.low if band else math.nan, "paper_high": band.high if band else math.nan},
        }
        for each in compared
        for seed, value in each.values.items()
        for band in [None if each.verdict == "unverified" else each.row.band]
    ]
    return pd.DataFrame(rows, columns=["label", "quantity", "unit", "seed", "value", "paper_low", "paper_high"])


def _cells(picture: Picture, compared: Sequence[Compared], frames: Frames | None) -> pd.DataFrame:
    """One row a cell and quantity of ``y``: at ``x``, which is an option's value or another quantity."""
    import pandas as pd

    from harness.quantities import QUANTITIES

    assert frames is not None
    cells = frames.cells.set_index("cell")
    if cells.empty:
        return pd.DataFrame(columns=["x", "series", "seed", "quantity", "unit", "value"])
    option = "." in picture.x
    x = cells["x"].astype(float) if option else QUANTITIES[picture.x].of_cells(frames)
    series = cells["series"] if option else cells["dataset"].map(_name) + ": " + cells["defense"].map(_name)
    parts = []
    for quantity in (QUANTITIES[name] for name in picture.y):
        named = {"quantity": quantity.label, "unit": quantity.unit, "value": quantity.of_cells(frames)}
        parts.append(pd.DataFrame({"x": x, "series": series, "seed": cells["seed"], **named}))
    made = pd.concat(parts).dropna(subset=["x", "value"]).reset_index(drop=True)
    made.attrs["x"] = picture.x.replace(".", "'s ") if option else _axis(QUANTITIES[picture.x])
    return made


def _axis(quantity: Quantity) -> str:
    return f"{quantity.label} ({quantity.unit})" if quantity.unit else quantity.label


def _panels(frames: Frames) -> pd.Series[str]:
    cells = frames.cells.set_index("cell")
    return cells["dataset"].map(_name) + ": " + cells["defense"]


def _histogram(picture: Picture, compared: Sequence[Compared], frames: Frames | None) -> pd.DataFrame:
    """One row a neuron, group and cell: how often it is active."""
    from harness.quantities import measured

    assert frames is not None
    rows = measured(frames, "frequency").rename(columns={"frequency": "value"})
    seeds = frames.cells.set_index("cell")["seed"]
    return rows.assign(panel=rows["cell"].map(_panels(frames)), seed=rows["cell"].map(seeds)).drop(columns="cell")


def _points(picture: Picture, compared: Sequence[Compared], frames: Frames | None) -> pd.DataFrame:
    """One row an input of the first seed's models: where the projection puts it."""
    from harness.quantities import measured

    assert frames is not None
    first = frames.of(frames.cells[frames.cells["seed"] == frames.cells["seed"].min()])
    rows = measured(first, "x", "y")
    return rows.assign(panel=rows["cell"].map(_panels(frames))).drop(columns=["cell", "layer"])


def _heatmap(picture: Picture, compared: Sequence[Compared], frames: Frames | None) -> pd.DataFrame:
    """One row a class pair and series: the mean of ``y`` over seeds."""
    from harness.quantities import QUANTITIES

    assert frames is not None
    values = QUANTITIES[picture.y[0]].of_cells(frames)
    rows = frames.cells.set_index("cell").assign(value=values, panel=_panels(frames)).dropna(subset=["value"])
    return rows.groupby(["panel", "source", "target"], sort=False)["value"].agg(["mean", "count"]).reset_index()


def _curves(picture: Picture, compared: Sequence[Compared], frames: Frames | None) -> pd.DataFrame:
    """One row an epoch, quantity and cell."""
    assert frames is not None
    watched = frames.curves["quantity"].str.match(r"snnl:|success$|accuracy$")
    rows = frames.curves[watched]
    seeds = frames.cells.set_index("cell")["seed"]
    rows = rows.assign(series=rows["cell"].map(_panels(frames)), seed=rows["cell"].map(seeds))
    return rows[["epoch", "quantity", "series", "seed", "value"]].reset_index(drop=True)


def _plans(picture: Picture, compared: Sequence[Compared], frames: Frames | None) -> pd.DataFrame:
    """Queries for 95% confidence at a false rate of 10%, and the chance to detect with so many."""
    import numpy as np
    import pandas as pd

    from harness.quantities import chance_to_detect
    from harness.statistics import queries_for_confidence, queries_for_power

    rates = np.round(np.arange(0.12, 1.0, 0.02), 2)
    rows = [
        {
            "success": 100 * rate,
            "planned": queries_for_confidence(rate, 0.1),
            "chance": chance_to_detect(rate, 0.1),
            "power": queries_for_power(rate, 0.1, power=0.95),
        }
        for rate in rates
    ]
    return pd.DataFrame(rows)


def _plane(picture: Picture, compared: Sequence[Compared], frames: Frames | None) -> pd.DataFrame:
    """The answers of Figure 1's two networks on the plane."""
    import numpy as np
    import pandas as pd

    from harness.quantities import toy_extracted, toy_victim

    x1, x2 = (axis.ravel() for axis in np.meshgrid(np.linspace(-0.5, 1.5, 81), np.linspace(-1.5, 1.5, 121)))
    parts = [
        pd.DataFrame({"network": name, "x1": x1, "x2": x2, "value": network(x1, x2)})
        for name, network in (("victim", toy_victim), ("extracted", toy_extracted))
    ]
    return pd.concat(parts, ignore_index=True)


KINDS: dict[str, Callable[[Picture, Sequence[Compared], Any], Any]] = {
    "strips": _strips,
    "sweep": _cells,
    "scatter": _cells,
    "histogram": _histogram,
    "points": _points,
    "heatmap": _heatmap,
    "curves": _curves,
    "queries": _plans,
    "plane": _plane,
}
"""The numbers of each kind of picture; :data:`harness.figures.KINDS` draws them."""
