"""The numbers of each kind of picture, as tidy frames: pure functions over frames. No torch, nothing drawn yet."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from harness.published import Experiment, Picture
from harness.reproduce import Compared, Resolver, canonical, name_of, part_of

if TYPE_CHECKING:
    import pandas as pd

    from harness.quantities import Frames, Quantity


def drawn(
    experiment: Experiment, compared: Sequence[Compared], frames: Frames | None, lookup: Resolver
) -> pd.DataFrame:
    """The numbers of an experiment's picture, tidy; empty where there are none yet."""
    picture = experiment.picture
    made = KINDS[picture.kind]
    if frames is None:
        return made(picture, compared, None)
    return made(picture, compared, part_of(frames, canonical(picture.where, lookup)))


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
    series = cells["series"] if option else cells["dataset"].map(name_of) + ": " + cells["defense"].map(name_of)
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
    return cells["dataset"].map(name_of) + ": " + cells["defense"]


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
