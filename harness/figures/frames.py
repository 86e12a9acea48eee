"""The numbers of pictures, as tidy frames: pure functions over frames. No torch, nothing drawn yet.

Their columns are those that :mod:`harness.figures` asks for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from harness.papers.paper import Experiment, Picture
from harness.papers.reproduce import Compared, Resolver, canonical, name_of, part_of
from harness.planning.matrix import Entry, parse_entry

if TYPE_CHECKING:
    import pandas as pd

    from harness.papers.quantities import Frames, Quantity

PAIR = ("source", "target")
"""Options of a data set that a map of class pairs has as its sides."""
SETTINGS = 4
"""Schemes in a scatter's legend: of more than these only the names are told."""


def drawn(
    experiment: Experiment, compared: Sequence[Compared], frames: Frames | None, lookup: Resolver
) -> pd.DataFrame:
    """The numbers of an experiment's picture, tidy; empty where there are none yet."""
    picture = experiment.picture
    made = KINDS[picture.kind]
    part = None if frames is None else part_of(frames, canonical(picture.where, lookup))
    return finite(made(picture, compared, part))


def finite(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows that can be drawn: none whose ``x`` or ``value`` is missing or infinite."""
    import numpy as np

    numbers = frame[[column for column in ("x", "value") if column in frame]].astype(float)
    return frame[np.isfinite(numbers).all(axis=1)].reset_index(drop=True)


# --- frames that any tables allow, in the columns that harness.figures asks for ---------------------------------------


def against(frames: Frames, quantities: Sequence[str], axis: str) -> pd.DataFrame:
    """One row a cell and quantity, at the cell's ``x``; cells have this, a ``panel`` and a ``series``."""
    import pandas as pd

    from harness.papers.quantities import QUANTITIES

    cells = frames.cells.set_index("cell")[["panel", "series", "seed", "x"]]
    parts = [
        cells.assign(value=quantity.of_cells(frames), axis=axis, unit=axis_of(quantity))
        for quantity in (QUANTITIES[name] for name in quantities)
    ]
    return finite(pd.concat(parts))


def axis_of(quantity: Quantity | Compared) -> str:
    """Label of an axis of this quantity."""
    return f"{quantity.label} ({quantity.unit})" if quantity.unit else quantity.label


def frequencies(frames: Frames, panels: pd.Series[str]) -> pd.DataFrame:
    """One row a neuron, group of inputs and cell: how often it is active. ``panels`` are by the cell's id."""
    from harness.papers.quantities import measured

    rows = measured(frames, "frequency").rename(columns={"group": "series", "frequency": "value"})
    rows = rows.assign(
        panel=rows["cell"].map(panels),
        seed=rows["cell"].map(frames.cells.set_index("cell")["seed"]),
        axis="inputs that activate the neuron (0..1)",
        unit="neurons (%)",
    )
    neuron = rows["layer"].astype(str) + rows["index"].astype(str)
    counts = neuron.groupby(rows["panel"]).transform("nunique")
    rows["panel"] = [f"{panel}, {count} neurons" for panel, count in zip(rows["panel"], counts, strict=True)]
    rows = rows[["panel", "series", "layer", "index", "seed", "value", "axis", "unit"]]
    rows.attrs["n"] = "models"
    return rows


def projected(frames: Frames, panels: pd.Series[str]) -> pd.DataFrame:
    """One row an input of the first seed's models: where the projection puts it, by its group."""
    from harness.papers.quantities import measured

    first = frames.of(frames.cells[frames.cells["seed"] == frames.cells["seed"].min()])
    rows = measured(first, "x", "y").rename(columns={"group": "series", "y": "value"})
    rows = rows.assign(panel=rows["cell"].map(panels), axis="component 1 (no unit)", unit="component 2 (no unit)")
    rows = rows[["panel", "series", "index", "x", "value", "axis", "unit"]]
    rows.attrs["n"] = "inputs"
    return rows


def pairs(frames: Frames, panels: pd.Series[str], quantity: str) -> pd.DataFrame:
    """One row a cell: the quantity at its source and target class."""
    from harness.papers.quantities import QUANTITIES

    values = QUANTITIES[quantity].of_cells(frames)
    rows = frames.cells.set_index("cell").assign(value=values, panel=panels, unit=axis_of(QUANTITIES[quantity]))
    rows = rows.rename(columns={"source": "label", "target": "column"}).assign(axis="target class", side="source class")
    return rows[["panel", "label", "column", "seed", "value", "axis", "side", "unit"]].reset_index(drop=True)


def epochs(curves: pd.DataFrame) -> pd.DataFrame:
    """Rows of the table of curves, with ``panel``, ``series``, ``seed`` and ``x`` an epoch: what their axes say."""
    rows = curves.assign(axis="epoch of embedding", unit=curves["quantity"].map(_nats))
    return rows[["panel", "series", "seed", "x", "value", "axis", "unit"]]


def _nats(quantity: str) -> str:
    if quantity.startswith("snnl:"):
        return f"SNNL of {quantity[5:]} (nats)"
    return f"{quantity} (0..1)" if quantity in ("accuracy", "success") else f"{quantity} (nats)"


# --- the kinds of a paper's pictures ----------------------------------------------------------------------------------


def _strips(picture: Picture, compared: Sequence[Compared], frames: Frames | None) -> pd.DataFrame:
    """One row a seed of each compared row, with the paper's band."""
    import pandas as pd

    rows = [
        {
            **{"panel": "", "label": each.row.label, "series": "ours, a dot a seed", "seed": seed, "value": value},
            "unit": axis_of(each),
            **{"paper_low": band.low if band else math.nan, "paper_high": band.high if band else math.nan},
        }
        for each in compared
        for seed, value in each.values.items()
        for band in [None if each.verdict == "unverified" else each.row.band]
    ]
    columns = ["panel", "label", "series", "seed", "value", "unit", "paper_low", "paper_high"]
    return pd.DataFrame(rows, columns=columns)


def _cells(picture: Picture, compared: Sequence[Compared], frames: Frames | None) -> pd.DataFrame:
    """One row a cell and quantity of ``y``: at ``x``, which is an option's value or another quantity."""
    from harness.papers.quantities import QUANTITIES

    assert frames is not None
    cells = frames.cells.assign(panel="")
    axis = picture.x.replace(".", "'s ")
    if "." not in picture.x:
        schemes = told_apart(cells["defense"])
        if len(schemes) > SETTINGS:  # settings of a scheme, of which each is a dot
            schemes = {text: name_of(text) for text in schemes}
        series = cells["dataset"].map(name_of) + ": " + cells["defense"].map(schemes.get)
        x = QUANTITIES[picture.x].of_cells(frames).to_numpy()
        cells, axis = cells.assign(x=x, series=series), axis_of(QUANTITIES[picture.x])
    return against(frames.of(cells), picture.y, axis)


def _schemes(frames: Frames | None, *without: str) -> tuple[Frames, pd.Series[str]]:
    """The frames, and the dataset and scheme of each cell; ``without`` some options of the data set."""
    assert frames is not None
    cells = frames.cells.set_index("cell")
    return frames, cells["dataset"].map(told_apart(cells["dataset"], *without).get) + ": " + cells["defense"]


def told_apart(texts: Iterable[str], *without: str) -> dict[str, str]:
    """The name of each of ``texts``, with the options in which those of one name differ, ``without`` some of them."""
    entries = {text: parse_entry(text).without(*without) for text in texts}
    names = {}
    for text, entry in entries.items():
        alike = [other.options for other in entries.values() if other.name == entry.name]
        names[text] = str(
            Entry(entry.name, tuple(option for option in entry.options if any(option not in other for other in alike)))
        )
    return names


def _curves(picture: Picture, compared: Sequence[Compared], frames: Frames | None) -> pd.DataFrame:
    """One row an epoch, quantity and cell."""
    frames, schemes = _schemes(frames)
    rows = frames.curves[frames.curves["quantity"].str.match(r"snnl:|success$|accuracy$")]
    seeds = frames.cells.set_index("cell")["seed"]
    series, seed = rows["cell"].map(schemes), rows["cell"].map(seeds)
    return epochs(rows.assign(panel="", series=series, seed=seed, x=rows["epoch"]))


def _plans(picture: Picture, compared: Sequence[Compared], frames: Frames | None) -> pd.DataFrame:
    """Queries for 95% confidence at a false rate of 10%, and the chance to detect with so many."""
    import numpy as np
    import pandas as pd

    from harness.papers.quantities import chance_to_detect
    from harness.statistics.power import queries_for_confidence, queries_for_power

    asked, chance = "queries for 95% confidence", "detected with as many (%)"
    plans: Sequence[tuple[str, str, Callable[[float], float]]] = (
        ("the paper's t-test", asked, lambda rate: queries_for_confidence(rate, 0.1)),
        ("exact test that detects 95%", asked, lambda rate: queries_for_power(rate, 0.1, power=0.95)),
        ("the paper's t-test", chance, lambda rate: chance_to_detect(rate, 0.1)),
    )
    axis = "success of the suspect (%); false rate 10%"
    rows = [
        {"panel": "", "series": name, "x": 100 * rate, "value": plan(rate), "axis": axis, "unit": unit}
        for name, unit, plan in plans
        for rate in map(float, np.round(np.arange(0.12, 1.0, 0.02), 2))
    ]
    return pd.DataFrame(rows)


def _plane(picture: Picture, compared: Sequence[Compared], frames: Frames | None) -> pd.DataFrame:
    """The answers of Figure 1's two networks on the plane."""
    import numpy as np
    import pandas as pd

    from harness.papers.quantities import toy_extracted, toy_victim

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
    "histogram": lambda picture, compared, frames: frequencies(*_schemes(frames)),
    "points": lambda picture, compared, frames: projected(*_schemes(frames)),
    "heatmap": lambda picture, compared, frames: pairs(*_schemes(frames, *PAIR), picture.y[0]),
    "curves": _curves,
    "queries": _plans,
    "plane": _plane,
}
"""The numbers of each kind of picture; :data:`harness.figures.KINDS` draws them."""
