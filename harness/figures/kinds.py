"""Pictures of tidy frames: one function a kind, one style. No display, nothing kept by pyplot, always the same bytes.

A frame has a row an observation, and of these columns the ones that its kind asks for:

- ``panel``: the part of the picture that it is in; ``axis`` and ``unit``: what the panel's two axes say;
- ``series``: what a colour stands for, and a marker, dash or hatch with it; ``label``: a row of dots or of a map;
- ``seed``, which is what n counts (without it rows are counted); ``x`` and ``value``. What is counted, if not seeds,
  ``attrs["n"]`` says, and which series other pictures show, ``attrs["known"]``;
- ``low`` and ``high``: the interval of a row's mean; ``unmarked`` and ``attacked``: what unmarked models, and attacked
  ones, answer.

A picture is as wide as a column of a paper or as its page (:data:`COLUMN`, :data:`PAGE`), so that 7 points stay 7.
Names are shown as they are: a ``$`` in one begins no formula.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.figures.style import (
    COLUMN,
    COUNTED,
    FEW,
    HATCHES,
    HEIGHT,
    LINE,
    PAGE,
    PUBLISHED,
    ROWS,
    SHEETS,
    Kind,
    colour,
    handles,
    laid_out,
    limited,
    looks_of,
    new_figure,
    panel_columns,
    panel_title,
    panels_across,
    places_of,
    print_to,
    printing,
    style_axes,
    wrapped,
)
from harness.files import whole_file
from harness.text import printable

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw(kind: str, data: pd.DataFrame, title: str, path: Path) -> None:
    """Draw ``data`` as a paper's picture of ``kind`` to ``path``, a PNG of 1,200 pixels' width, with the numbers beside
    it as CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path.with_suffix(".csv")) as partial:
        data.to_csv(partial, index=False)
    print_to(path, data, KINDS[kind], title, width=PAGE, dpi=200)


def sheets(data: pd.DataFrame, kind: Kind) -> list[pd.DataFrame]:
    """The frame in as many as its panels take pages, of which there are at most :data:`SHEETS`."""
    shown, _ = limited(data)
    places = places_of(data)
    with printing():
        tall = kind(shown, COLUMN).get_figheight() * (places.max() + 1) / (places_of(shown).max() + 1)
    count = min(SHEETS, math.ceil(tall / HEIGHT))
    return [data[np.isin(places, some)] for some in np.array_split(np.unique(places), count) if len(some)]


# --- kinds ------------------------------------------------------------------------------------------------------------


def dots(data: pd.DataFrame, width: float = COLUMN) -> Figure:
    """Each seed's value as a dot in the row of its label and series, their mean as a line, on the paper's band where
    there is one, with the mean's interval and the levels of unmarked models where the frame has them. Panels with the
    same labels stand side by side where there is room."""
    looks = looks_of(data)
    parts = [part for _, part in data.groupby(panel_columns(data), sort=False)]
    bands = _bands(parts, max(1, int(width / 1.8)))
    heights = [
        _rows_height(band, width) + LINE * max(panel_title(part, width / len(band)).count("\n") for part in band)
        for band in bands
    ]
    figure = new_figure(width, sum(heights), _dots_legend(data, looks))
    across = max(map(len, bands))
    grid = figure.add_gridspec(len(bands), across, height_ratios=heights)
    for row, band in enumerate(bands):
        first: Axes | None = None
        for column, part in enumerate(band):
            place = grid[row, :] if len(band) == 1 else grid[row, column]
            ax = figure.add_subplot(place, sharey=first)
            _dot_rows(ax, part, _labels(band), looks)
            ax.set_title(panel_title(part, width / len(band)))
            ax.set_xlabel(_unit(part, width / len(band)))
            ax.locator_params(axis="x", nbins=5 if width / len(band) > 2.5 else 3)
            if first is None:
                first = ax
                _name_rows(ax, band, width)
            else:
                ax.tick_params(labelleft=False)
    return figure


def tracks(data: pd.DataFrame, width: float = COLUMN) -> Figure:
    """A line of means a series; each seed's own as a thin line, and as dots where there are few."""
    looks = looks_of(data)
    figure, panels = laid_out(
        data, width, lambda part: 1.7, handles(looks, ("color", "marker", "linestyle")), by=(*COUNTED, "x")
    )
    for ax, part in panels:
        few = part["x"].nunique() <= FEW
        for place, (series, each) in enumerate(part.groupby("series", sort=False)):
            look, mean = looks[str(series)], each.groupby("x")["value"].mean()
            single = each.sort_values("x", kind="stable").groupby("seed") if "seed" in each else ()
            for _, own in single:
                ax.plot(own["x"], own["value"], color=look["color"], linewidth=0.5, alpha=0.5)
            if few:
                ax.scatter(
                    each["x"], each["value"], s=8, alpha=0.6, linewidths=0, color=look["color"], marker=look["marker"]
                )
            step = 1 if few else max(1, len(mean) // 6)
            ax.plot(mean.index, mean, markersize=3, markevery=(place % step, step), **look)
        beside = data.loc[(data["panel"] == part["panel"].iloc[0]) & (data["axis"] == part["axis"].iloc[0]), "x"]
        ax.update_datalim([(x, part["value"].mean()) for x in (beside.min(), beside.max())])  # for alike axes
        style_axes(ax, part, width / panels_across(data, width))
    return figure


def scatter(data: pd.DataFrame, width: float = COLUMN) -> Figure:
    """A marker a row; rows with a ``line`` are points of the line of that name instead, in their series' colour and
    dash, or grey where they have no series."""
    looks = looks_of(data)
    data = data if "line" in data else data.assign(line="")
    entries = handles(looks, ("color", "marker"))
    entries |= handles(
        {name: {"color": "0.3", "linestyle": "--"} for name in dict.fromkeys(data["line"]) if name},
        ("color", "linestyle"),
    )
    figure, panels = laid_out(data, width, lambda part: 2.2, entries)
    for ax, part in panels:
        single = part["line"] == ""
        size = 10 if single.sum() <= 300 else 5
        for series, each in part[single].groupby("series", sort=False):
            look = looks[str(series)]
            ax.scatter(
                each["x"], each["value"], s=size, alpha=0.7, linewidths=0, color=look["color"], marker=look["marker"]
            )
        for (_, series), each in part[~single].groupby(["line", "series"], sort=False):
            look = looks.get(str(series), {"color": "0.3", "linestyle": "--"})
            ax.plot(each["x"], each["value"], linewidth=0.9, color=look["color"], linestyle=look["linestyle"])
        style_axes(ax, part, width / panels_across(data, width))
    return figure


def histogram(data: pd.DataFrame, width: float = COLUMN) -> Figure:
    """Histogram of shares, each 0..1: a panel a model, a colour and a hatch a series."""
    from matplotlib.patches import Patch

    looks: dict[str, dict[str, Any]] = {
        name: {
            "facecolor": colour(i),
            "hatch": HATCHES[i % len(HATCHES)],
            "alpha": 0.55,
            "edgecolor": "0.2",
            "linewidth": 0.4,
        }
        for i, name in enumerate(sorted(set(data["series"])))
    }
    figure, panels = laid_out(data, width, lambda part: 1.7, {name: Patch(**look) for name, look in looks.items()})
    bins = [i / 20 for i in range(21)]
    for ax, part in panels:
        for name, each in part.groupby("series"):
            values = each["value"].dropna()
            ax.hist(values, bins, weights=[100 / len(values)] * len(values), **looks[str(name)])
        ax.set_xlim(0, 1)
        style_axes(ax, part, width / panels_across(data, width))
    return figure


def heatmap(data: pd.DataFrame, width: float = COLUMN) -> Figure:
    """The mean of each label and ``column``, in colour and, where there is room, in figures; none where it is grey.

    ``axis`` and ``side`` say what columns and labels are. A value in % is on a scale of 0 to 100. It is as wide as
    a page where names of columns would have no room else.
    """
    own = width / panels_across(data, width)
    if width < PAGE and _lacks_room(data, own):
        return heatmap(data, PAGE)
    figure, panels = laid_out(data, width, lambda part: _map_height(part, own), {})
    for ax, part in panels:
        table = part.pivot_table(index="label", columns="column", values="value")
        table = table.reindex(index=_ordered(part["label"]), columns=_ordered(part["column"]))
        unit = str(part["unit"].iloc[0])
        share = "(%)" in unit
        low, high = (0, 100) if share else (None, None)
        mesh = ax.pcolormesh(table.to_numpy(), cmap="cividis", vmin=low, vmax=high)
        ax.invert_yaxis()
        room = _room(list(table.index), list(table.columns), own)
        if room >= (0.15 if share else 0.2):
            _numbers(ax, mesh, table, "{:.0f}" if share else "{:.2f}")
        figure.colorbar(mesh, ax=ax, label=wrapped(unit, 24))
        ax.set_facecolor("0.88")
        ax.grid(False)
        ax.set(xlabel=part["axis"].iloc[0], ylabel=part["side"].iloc[0])
        _map_ticks(ax, table, room, own)
    return figure


def plane(data: pd.DataFrame, width: float = COLUMN) -> Figure:
    """The answers of two small networks on a plane, with the line of the mark."""
    names = list(dict.fromkeys(data["network"]))
    figure = new_figure(width, width / 2, {})
    axes = figure.subplots(1, len(names), squeeze=False, sharey=True)[0]
    for ax, name in zip(axes, names, strict=True):
        table = data[data["network"] == name].pivot_table(index="x2", columns="x1", values="value")
        mesh = ax.pcolormesh(table.columns, table.index, table, cmap="cividis", vmin=0, vmax=1, shading="nearest")
        ax.contour(table.columns, table.index, table, levels=[0.5], colors="white", linewidths=1.2)
        ax.axhline(-1, color="white", linestyle="--", linewidth=1)
        ax.set_title(wrapped(f"{name} (solid: 0.5, dashed: the mark's inputs, x2 = -1)", int(6 * width)))
        ax.set_xlabel("x1")
    axes[0].set_ylabel("x2")
    figure.colorbar(mesh, ax=axes, label="probability of class 1 (0..1)")
    return figure


KINDS: dict[str, Kind] = {
    "strips": dots,
    "sweep": tracks,
    "scatter": scatter,
    "histogram": histogram,
    "points": scatter,
    "heatmap": heatmap,
    "curves": tracks,
    "queries": tracks,
    "plane": plane,
}
"""Function that draws each kind of a paper's pictures."""


# --- dots -------------------------------------------------------------------------------------------------------------


def _bands(parts: Sequence[pd.DataFrame], most: int) -> list[list[pd.DataFrame]]:
    """The panels in rows of at most ``most``: those of other labels go to another row."""
    bands: list[list[pd.DataFrame]] = []
    for part in parts:
        own = set(part["label"])
        band = next((band for band in bands if len(band) < most and own & set(_labels(band))), None)
        if band is None:
            bands.append([part])
        else:
            band.append(part)
    return bands


def _labels(band: Sequence[pd.DataFrame]) -> list[str]:
    """The labels of a row of panels, whose dots are at most :data:`ROWS`."""
    return _every_label(band)[: max(1, ROWS // max(part["series"].nunique() for part in band))]


def _every_label(band: Sequence[pd.DataFrame]) -> list[str]:
    return list(dict.fromkeys(label for part in band for label in part["label"]))


def _rows_height(band: Sequence[pd.DataFrame], width: float) -> float:
    """Inches for so many rows, and for the axis below them."""
    labels = _labels(band)
    beside = max(part.groupby("label")["series"].nunique().max() for part in band)
    lines = max(wrapped(label, _letters(width)).count("\n") + 1 for label in labels)
    below = max(_unit(part, width / len(band)).count("\n") for part in band)
    return float(0.7 + LINE * below + len(labels) * max(0.08 + 0.12 * beside, 0.06 + LINE * lines))


def _name_rows(ax: Axes, band: Sequence[pd.DataFrame], width: float) -> None:
    labels, more = _labels(band), len(_every_label(band)) - len(_labels(band))
    names = [wrapped(label, _letters(width)) for label in labels] + [f"({more} more)"] * bool(more)
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)


def _unit(part: pd.DataFrame, width: float) -> str:
    """Label of the unit of a panel's dots, below it."""
    return wrapped(part["unit"].iloc[0], int(11 * width))


def _letters(width: float) -> int:
    """Number of letters of a row's label in a line."""
    return int(6 * width)


def _dots_legend(data: pd.DataFrame, looks: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    named = (data["label"] != data["series"]).any()
    entries = handles(looks, ("color", "marker")) if named else {}
    entries["mean"] = Line2D([], [], color="black", linewidth=1)
    if "low" in data and data["low"].notna().any():
        entries["interval"] = Line2D([], [], color="black", linewidth=0.7)
    for column, (name, dashes) in LEVELS.items():
        if column in data and data[column].notna().any():
            entries[name] = Line2D([], [], color="0.3", linewidth=1.2, linestyle=dashes)
    if "paper_low" in data:
        ends = np.isfinite(data[["paper_low", "paper_high"]].to_numpy(dtype=float)).sum(axis=1)
        if (ends == 2).any():
            entries["the paper, and its mean"] = Patch(facecolor=PUBLISHED, edgecolor="0.4")
        if (ends == 1).any():
            entries["the paper's claim: beyond"] = Line2D([], [], color="0.55", linewidth=2.5, marker=">", markersize=5)
    return entries


def _dot_rows(ax: Axes, data: pd.DataFrame, labels: Sequence[str], looks: Mapping[str, Mapping[str, Any]]) -> None:
    ax.grid(False, axis="y")
    for edge in range(1, len(labels)):
        ax.axhline(edge - 0.5, color="0.85", linewidth=0.4, zorder=0.5)
    for label, rows in data[data["label"].isin(labels)].groupby("label", sort=False):
        own = sorted(set(rows["series"]))
        if "paper_low" in rows:
            _band(ax, labels.index(str(label)), float(rows["paper_low"].iloc[0]), float(rows["paper_high"].iloc[0]))
        for place, series in enumerate(own):
            mine, half = rows[rows["series"] == series], 0.4 / len(own)
            values, y = mine["value"], labels.index(str(label)) - 0.4 + half * (2 * place + 1)
            _levels(ax, mine, y, half)
            ax.plot([values.mean()] * 2, [y - 0.8 * half, y + 0.8 * half], color="black", linewidth=1, zorder=2.5)
            # Spread by rank, not by chance: the file is then the same every time.
            spread = [y + 0.5 * half * (2 * (i + 0.5) / len(values) - 1) for i in range(len(values))]
            look = looks[series]
            ax.scatter(
                values, spread, s=9, alpha=0.75, linewidths=0, zorder=3, color=look["color"], marker=look["marker"]
            )


LEVELS: dict[str, tuple[str, Any]] = {
    "unmarked": ("mean of unmarked models", (0, (1, 1))),
    "attacked": ("mean of attacked unmarked models", (0, (3, 1))),
}
"""Columns of what models without a mark answer: names and dashes."""


def _levels(ax: Axes, rows: pd.DataFrame, y: float, half: float) -> None:
    """The interval of a row's mean, and what unmarked models answer, where a frame has them."""
    ends = rows[["low", "high"]].iloc[0].astype(float) if "low" in rows else np.array([np.nan])
    if np.isfinite(ends).all():
        ax.plot(list(ends), [y, y], color="black", linewidth=0.7)
    for column, (_, dashes) in LEVELS.items():
        if column in rows and rows[column].notna().any():
            level = float(rows[column].astype(float).mean())
            ax.plot([level] * 2, [y - half, y + half], color="0.3", linewidth=1.2, linestyle=dashes, zorder=2)


def _band(ax: Axes, y: float, low: float, high: float) -> None:
    """The paper's band on row ``y``; a claim without an end begins at a bar, with an arrow to where it goes."""
    known = [end for end in (low, high) if np.isfinite(end)]
    if len(known) == 2:
        ax.fill_between([low, high], y - 0.42, y + 0.42, color=PUBLISHED, linewidth=0)
        ax.plot([(low + high) / 2] * 2, [y - 0.42, y + 0.42], color="0.4", linewidth=1)
    elif known:
        ax.plot(known * 2, [y - 0.42, y + 0.42], color="0.55", linewidth=2.5)
        ax.plot(known, [y], marker=">" if np.isfinite(low) else "<", color="0.55", markersize=5)


# --- maps -------------------------------------------------------------------------------------------------------------


def _ordered(names: pd.Series[Any]) -> list[Any]:
    """Each once: numbers by size, names as they appear."""
    found = list(dict.fromkeys(names))
    return found if any(isinstance(name, str) for name in found) else sorted(found)


def _map_height(part: pd.DataFrame, width: float) -> float:
    rows, columns = _ordered(part["label"]), _ordered(part["column"])
    lines = max(wrapped(row, _letters(width)).count("\n") + 1 for row in rows)
    room = _room(rows, columns, width)
    below = max(len(line) for name in columns for line in _upright(name, room).split("\n"))
    # A row has room for its label's lines; of many numbered classes only some have one.
    height = max(0.17, 0.05 + 0.105 * lines) if len(rows) <= 40 else 0.06
    return float(0.5 + 0.055 * below + height * len(rows))


def _room(rows: Sequence[object], columns: Sequence[object], width: float) -> float:
    """Inches for a column of a map that is so wide with its labels and its scale."""
    longest = max(len(line) for row in rows for line in wrapped(row, _letters(width)).split("\n"))
    return (width - 0.75 - 0.055 * longest) / len(columns)


def _lacks_room(data: pd.DataFrame, width: float) -> bool:
    """True if some map has more names of columns than lines fit side by side."""
    parts = (part for _, part in data.groupby(places_of(data)))
    named = ((_ordered(part["label"]), _ordered(part["column"])) for part in parts)
    return any(isinstance(columns[0], str) and _room(rows, columns, width) < LINE for rows, columns in named)


def _upright(name: object, room: float) -> str:
    """A name in at most as many lines as fit side by side."""
    tries = (wrapped(name, letters) for letters in range(24, 2 * len(printable(name)) + 28, 4))
    return next(text for text in tries if text.count("\n") < max(1, int(room / LINE)))


def _numbers(ax: Axes, mesh: Any, table: pd.DataFrame, form: str) -> None:
    """Each field's number, in black or white as it contrasts more (WCAG 2, relative luminance)."""
    for (row, column), value in np.ndenumerate(table.to_numpy()):
        if np.isfinite(value):
            red, green, blue = (
                share / 12.92 if share <= 0.03928 else ((share + 0.055) / 1.055) ** 2.4
                for share in mesh.cmap(mesh.norm(value))[:3]
            )
            dark = 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.179
            shown = re.sub(r"^(-?)0\.", r"\1.", form.format(value))
            ax.text(column + 0.5, row + 0.5, shown, ha="center", va="center", color="w" if dark else "k")


def _map_ticks(ax: Axes, table: pd.DataFrame, room: float, width: float) -> None:
    """A label for every row and column, or of many every n-th; names of columns stand upright in the lines that fit."""
    rows, columns = list(table.index), list(table.columns)
    skip = 1 if len(rows) <= 40 else 10
    ax.set_yticks(
        [i + 0.5 for i in range(0, len(rows), skip)], [wrapped(r, _letters(width)) for r in rows[::skip]], rotation=0
    )
    skip = 1 if room >= LINE else math.ceil(LINE / room)
    longest = max(len(str(name)) for name in columns)
    names = [_upright(name, room) for name in columns[::skip]]
    ax.set_xticks([i + 0.5 for i in range(0, len(columns), skip)], names, rotation=90 if longest > 3 else 0)
