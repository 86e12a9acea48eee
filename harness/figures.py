"""Pictures of tidy frames: one function a kind, one style. No display, nothing kept by pyplot, always the same bytes.

A frame has a row an observation, and of these columns the ones that its kind asks for:

- ``panel``: the part of the picture that it is in; ``axis`` and ``unit``: what the panel's two axes say;
- ``series``: what a colour stands for, and a marker, dash or hatch with it; ``label``: a row of dots or of a map;
- ``seed``, which is what n counts (without it rows are counted); ``x`` and ``value``. What is counted, if not seeds,
  ``attrs["n"]`` says, and which series other pictures show, ``attrs["known"]``.

A picture is as wide as a column of a paper or as its page (:data:`COLUMN`, :data:`PAGE`), so that 7 points stay 7.
Names are shown as they are: a ``$`` in one begins no formula.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from harness.tables import printable

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Panels: TypeAlias = "list[tuple[Axes, pd.DataFrame]]"
Kind: TypeAlias = "Callable[[pd.DataFrame, float], Figure]"
"""Draws a frame so many inches wide."""

COLUMN, PAGE = 3.5, 6.0
"""Inches."""
LINE = 0.125
"""Inches of a line of text."""
HEIGHT, SHEETS = 9.0, 3
"""Inches that a page has room for, and the pages that a picture may go on for."""
LIMITS = {"panel": 12, "series": 18, "label": 100}
"""A picture shows at most so many of each, and says so."""
ROWS = 60
"""Rows of dots in a panel at most."""
FEW = 12
"""A curve of at most so many points has a marker at each."""
COUNTED = ("label", "column", "series", "line")
"""Of what a panel's n is the number of seeds: of each of these that it has."""
PUBLISHED = "0.75"
"""The grey of what the paper says."""

MARKERS = "os^DvP<X>"
DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (6, 1.5, 1, 1.5, 1, 1.5)))
HATCHES = ("", "////", "....")

STYLE: dict[str, Any] = {
    **dict.fromkeys(("font.size", "axes.labelsize", "axes.titlesize", "xtick.labelsize", "ytick.labelsize"), 7.0),
    **dict.fromkeys(("legend.fontsize", "figure.titlesize"), 7.0),
    **{"figure.titleweight": "bold", "legend.handlelength": 2.2, "axes.linewidth": 0.6, "lines.linewidth": 1.2},
    **{"axes.grid": True, "axes.axisbelow": True, "grid.linewidth": 0.4, "grid.color": "0.85", "axes.edgecolor": "0.6"},
    **dict.fromkeys(("xtick.bottom", "ytick.left"), False),
    **{"xtick.major.pad": 2.0, "ytick.major.pad": 2.0, "hatch.linewidth": 0.5, "svg.hashsalt": "watermark-harness"},
    **{"text.parse_math": False, "axes.formatter.useoffset": False},
}
FORMATS: dict[str, dict[str, None]] = {
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "png": {"Software": None},
}
"""What is left out of a file of each format: dates and versions."""


@cache
def colour(place: int) -> str:
    """Of seaborn's palette for the colour-blind six of which neighbours differ in grey, too, and none is too pale for
    print. After six it begins anew: markers, dashes and hatches tell those apart."""
    import seaborn as sns

    palette = sns.color_palette("colorblind").as_hex()
    chosen = (0, 1, 2, 4, 3, 9)
    return str(palette[chosen[place % len(chosen)]])


def draw(kind: str, data: pd.DataFrame, title: str, path: Path) -> None:
    """Draw ``data`` as a paper's picture of ``kind`` to ``path``, a PNG of 1,200 pixels' width, with the numbers beside
    it as CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data.to_csv(path.with_suffix(".csv"), index=False)
    print_to(path, data, KINDS[kind], title, width=PAGE, dpi=200)


def print_to(
    path: Path, data: pd.DataFrame, kind: Kind, title: str, *, width: float = COLUMN, dpi: float = 300
) -> None:
    """Draw ``data`` to ``path``, in the format that its suffix says: the file depends on the numbers alone."""
    data, less = _limited(data)
    with printing():
        figure = kind(data, width)
        lines = _wrapped(f"{title} ({less})" if less else title, int(16 * width))
        figure.suptitle(lines)
        figure.set_figheight(figure.get_figheight() + LINE * (1 + lines.count("\n")))
        figure.savefig(path, dpi=dpi, metadata=FORMATS[path.suffix[1:]])


def sheets(data: pd.DataFrame, kind: Kind) -> list[pd.DataFrame]:
    """The frame in as many as its panels take pages, of which there are at most :data:`SHEETS`."""
    shown, _ = _limited(data)
    places = _places(data)
    with printing():
        tall = kind(shown, COLUMN).get_figheight() * (places.max() + 1) / (_places(shown).max() + 1)
    count = min(SHEETS, math.ceil(tall / HEIGHT))
    return [data[np.isin(places, some)] for some in np.array_split(np.unique(places), count) if len(some)]


def _places(data: pd.DataFrame) -> Any:
    """The number of each row's panel."""
    return data.groupby(_panel_columns(data), sort=False).ngroup().to_numpy()


def printing() -> Any:
    """The style of all pictures, for a ``with``; the caller's own and that of the machine have no say in it. A letter
    that the font lacks is a box there, and no warning."""
    import warnings
    from contextlib import ExitStack

    from matplotlib import rc_context, rcdefaults, rcParams

    stack = ExitStack()
    stack.enter_context(warnings.catch_warnings())
    warnings.filterwarnings("ignore", "Glyph .* missing from font")
    stack.enter_context(rc_context())
    rcdefaults()
    style: Any = STYLE
    rcParams.update(style)
    return stack


def _limited(data: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """As much of a frame as a picture holds, and what is left out."""
    left: list[str] = []
    for column, most in LIMITS.items():
        if column in data:
            places = _places(data) if column == "panel" else data.groupby(column, sort=False).ngroup().to_numpy()
            if (count := int(places.max()) + 1) > most:
                data = data[places < most]
                left.append(f"{most} of {count} {column.removesuffix('s')}s")
    return data, ", ".join(left)


# --- kinds ------------------------------------------------------------------------------------------------------------


def dots(data: pd.DataFrame, width: float = COLUMN) -> Figure:
    """Each seed's value as a dot in the row of its label and series, their mean as a line, on the paper's band where
    there is one. Panels with the same labels stand side by side where there is room."""
    looks = _looks(data)
    parts = [part for _, part in data.groupby(_panel_columns(data), sort=False)]
    bands = _bands(parts, max(1, int(width / 1.8)))
    heights = [
        _rows_height(band, width) + LINE * max(_title(part, width / len(band)).count("\n") for part in band)
        for band in bands
    ]
    figure = _figure(width, sum(heights), _dots_legend(data, looks))
    across = max(map(len, bands))
    grid = figure.add_gridspec(len(bands), across, height_ratios=heights)
    for row, band in enumerate(bands):
        first: Axes | None = None
        for column, part in enumerate(band):
            place = grid[row, :] if len(band) == 1 else grid[row, column]
            ax = figure.add_subplot(place, sharey=first)
            _dot_rows(ax, part, _labels(band), looks)
            ax.set_title(_title(part, width / len(band)))
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
    looks = _looks(data)
    figure, panels = _laid_out(
        data, width, lambda part: 1.7, _handles(looks, ("color", "marker", "linestyle")), by=(*COUNTED, "x")
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
        _axes(ax, part, width / _across(data, width))
    return figure


def scatter(data: pd.DataFrame, width: float = COLUMN) -> Figure:
    """A marker a row; rows with a ``line`` are points of the line of that name instead, in their series' colour and
    dash, or grey where they have no series."""
    looks = _looks(data)
    data = data if "line" in data else data.assign(line="")
    entries = _handles(looks, ("color", "marker"))
    entries |= _handles(
        {name: {"color": "0.3", "linestyle": "--"} for name in dict.fromkeys(data["line"]) if name},
        ("color", "linestyle"),
    )
    figure, panels = _laid_out(data, width, lambda part: 2.2, entries)
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
        _axes(ax, part, width / _across(data, width))
    return figure


def histogram(data: pd.DataFrame, width: float = COLUMN) -> Figure:
    """How shares, each 0..1, are spread: a panel a model, a colour and a hatch a series."""
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
    figure, panels = _laid_out(data, width, lambda part: 1.7, {name: Patch(**look) for name, look in looks.items()})
    bins = [i / 20 for i in range(21)]
    for ax, part in panels:
        for name, each in part.groupby("series"):
            values = each["value"].dropna()
            ax.hist(values, bins, weights=[100 / len(values)] * len(values), **looks[str(name)])
        ax.set_xlim(0, 1)
        _axes(ax, part, width / _across(data, width))
    return figure


def heatmap(data: pd.DataFrame, width: float = COLUMN) -> Figure:
    """The mean of each label and ``column``, in colour and, where there is room, in figures; none where it is grey.

    ``axis`` and ``side`` say what columns and labels are. A value in % is on a scale of 0 to 100.
    """
    own = width / _across(data, width)
    figure, panels = _laid_out(data, width, lambda part: _map_height(part, own), {})
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
        figure.colorbar(mesh, ax=ax, label=_wrapped(unit, 24))
        ax.set_facecolor("0.88")
        ax.grid(False)
        ax.set(xlabel=part["axis"].iloc[0], ylabel=part["side"].iloc[0])
        _map_ticks(ax, table, room, own)
    return figure


def plane(data: pd.DataFrame, width: float = COLUMN) -> Figure:
    """The answers of two small networks on a plane, with the line of the mark."""
    names = list(dict.fromkeys(data["network"]))
    figure = _figure(width, width / 2, {})
    axes = figure.subplots(1, len(names), squeeze=False, sharey=True)[0]
    for ax, name in zip(axes, names, strict=True):
        table = data[data["network"] == name].pivot_table(index="x2", columns="x1", values="value")
        mesh = ax.pcolormesh(table.columns, table.index, table, cmap="cividis", vmin=0, vmax=1, shading="nearest")
        ax.contour(table.columns, table.index, table, levels=[0.5], colors="white", linewidths=1.2)
        ax.axhline(-1, color="white", linestyle="--", linewidth=1)
        ax.set_title(_wrapped(f"{name} (solid: 0.5, dashed: the mark's inputs, x2 = -1)", int(6 * width)))
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
"""What draws each kind of a paper's pictures."""


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
    lines = max(_wrapped(label, _letters(width)).count("\n") + 1 for label in labels)
    below = max(_unit(part, width / len(band)).count("\n") for part in band)
    return float(0.7 + LINE * below + len(labels) * max(0.08 + 0.12 * beside, 0.06 + LINE * lines))


def _name_rows(ax: Axes, band: Sequence[pd.DataFrame], width: float) -> None:
    labels, more = _labels(band), len(_every_label(band)) - len(_labels(band))
    names = [_wrapped(label, _letters(width)) for label in labels] + [f"({more} more)"] * bool(more)
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)


def _unit(part: pd.DataFrame, width: float) -> str:
    """Of a panel's dots, below it."""
    return _wrapped(part["unit"].iloc[0], int(11 * width))


def _letters(width: float) -> int:
    """Of a row's label, in a line."""
    return int(6 * width)


def _dots_legend(data: pd.DataFrame, looks: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    named = (data["label"] != data["series"]).any()
    entries = _handles(looks, ("color", "marker")) if named else {}
    entries["mean"] = Line2D([], [], color="black", linewidth=1)
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
            values, half = rows.loc[rows["series"] == series, "value"], 0.4 / len(own)
            y = labels.index(str(label)) - 0.4 + half * (2 * place + 1)
            ax.plot([values.mean()] * 2, [y - 0.8 * half, y + 0.8 * half], color="black", linewidth=1, zorder=2.5)
            # Spread by rank, not by chance: the file is then the same every time.
            spread = [y + 0.5 * half * (2 * (i + 0.5) / len(values) - 1) for i in range(len(values))]
            look = looks[series]
            ax.scatter(
                values, spread, s=9, alpha=0.75, linewidths=0, zorder=3, color=look["color"], marker=look["marker"]
            )


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
    lines = max(_wrapped(row, _letters(width)).count("\n") + 1 for row in rows)
    room = _room(rows, columns, width)
    below = max(len(line) for name in columns for line in _upright(name, room).split("\n"))
    # A row has room for its label's lines; of many numbered classes only some have one.
    height = max(0.17, 0.05 + 0.105 * lines) if len(rows) <= 40 else 0.06
    return float(0.5 + 0.055 * below + height * len(rows))


def _room(rows: Sequence[object], columns: Sequence[object], width: float) -> float:
    """Inches for a column of a map that is so wide with its labels and its scale."""
    longest = max(len(line) for row in rows for line in _wrapped(row, _letters(width)).split("\n"))
    return (width - 0.75 - 0.055 * longest) / len(columns)


def _upright(name: object, room: float) -> str:
    """A name in at most as many lines as fit side by side."""
    tries = (_wrapped(name, letters) for letters in range(24, 2 * len(printable(name)) + 28, 4))
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
        [i + 0.5 for i in range(0, len(rows), skip)], [_wrapped(r, _letters(width)) for r in rows[::skip]], rotation=0
    )
    skip = 1 if room >= LINE else math.ceil(LINE / room)
    longest = max(len(str(name)) for name in columns)
    names = [_upright(name, room) for name in columns[::skip]]
    ax.set_xticks([i + 0.5 for i in range(0, len(columns), skip)], names, rotation=90 if longest > 3 else 0)


# --- what all share ---------------------------------------------------------------------------------------------------


def _figure(width: float, height: float, entries: Mapping[str, Any]) -> Figure:
    """A figure that pyplot does not know: so much room for panels, and below it a legend of all that they show."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = [_wrapped(name, int(13 * width)) for name in entries]
    longest = max((len(line) for name in names for line in name.split("\n")), default=1)
    columns = max(1, min(len(names), int(17 * width) // (longest + 9)))
    rows = -(-len(names) // columns)
    lines = sum(max(name.count("\n") + 1 for name in names[row::rows]) for row in range(rows))
    figure = Figure(figsize=(width, height + 0.2 + 0.15 * lines), layout="constrained")
    FigureCanvasAgg(figure)
    if names:
        figure.legend(entries.values(), names, loc="outside lower center", ncols=columns, frameon=False)
    return figure


def _laid_out(
    data: pd.DataFrame,
    width: float,
    height: Callable[[pd.DataFrame], float],
    entries: Mapping[str, Any],
    by: Sequence[str] = COUNTED,
) -> tuple[Figure, Panels]:
    """Axes for each panel of ``data`` in rows, with its rows of it and a title that says n."""
    parts = [part for _, part in data.groupby(_panel_columns(data), sort=False)]
    across = _across(data, width)
    titles = [_title(part, width / across, by) for part in parts]
    heights = [
        max(height(part) + LINE * title.count("\n") for part, title in row)
        for i in range(0, len(parts), across)
        for row in [list(zip(parts, titles, strict=True))[i : i + across]]
    ]
    figure = _figure(width, sum(heights), entries)
    axes = list(figure.subplots(len(heights), across, squeeze=False, height_ratios=heights).ravel())
    for ax, title in zip(axes, titles, strict=False):
        ax.set_title(title)
    for ax in axes[len(parts) :]:
        ax.remove()
    return figure, list(zip(axes, parts, strict=False))


def _panel_columns(data: pd.DataFrame) -> list[str]:
    return [column for column in ("panel", "axis", "unit") if column in data]


def _across(data: pd.DataFrame, width: float) -> int:
    """Panels side by side."""
    return min(len(data[_panel_columns(data)].drop_duplicates()), max(1, int(width / 2.8)))


def _title(part: pd.DataFrame, width: float, by: Sequence[str] = COUNTED) -> str:
    """A panel's name, and how many seeds are behind a number of each of ``by``, from the fewest to the most."""
    name, what = str(part["panel"].iloc[0]), part.attrs.get("n", "seeds" if "seed" in part else "")
    letters = max(12, int(14 * width) - 13)
    if not what:  # of formulas
        return _wrapped(name, letters)
    groups = part.dropna(subset="value").groupby([column for column in by if column in part])
    counts = groups["seed"].nunique() if "seed" in part else groups.size()
    counts = counts[counts > 0]
    few, most = int(counts.min()), int(counts.max())
    n = f"n = {few} to {most} {what}" if few < most else f"n = {most} {what if most != 1 else what.rstrip('s')}"
    lines = _wrapped(name, letters).split("\n")
    fits = len(lines[-1]) + len(n) + 3 <= letters
    return f"{chr(10).join(lines)}{' ' if fits else chr(10)}({n})" if name else n


def _looks(data: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """A colour, a marker and a dash for each series: no two of 45 have both marker and dash in common. Those that
    ``attrs["known"]`` names look the same in every picture, whichever of them it shows."""
    shown = set(data["series"]) - {""}
    known = [name for name in data.attrs.get("known", ()) if name]
    return {
        name: {"color": colour(i), "marker": MARKERS[i % len(MARKERS)], "linestyle": DASHES[i % len(DASHES)]}
        for i, name in enumerate([*known, *sorted(shown - set(known))])
        if name in shown
    }


def _handles(looks: Mapping[str, Mapping[str, Any]], shown: Sequence[str]) -> dict[str, Any]:
    """What a legend shows of each: made here, since matplotlib leaves out names that begin with ``_``."""
    from matplotlib.lines import Line2D

    plain: dict[str, Any] = {"linestyle": "", "markersize": 4}
    return {name: Line2D([], [], **plain | {key: look[key] for key in shown}) for name, look in looks.items()}


def _axes(ax: Axes, part: pd.DataFrame, width: float) -> None:
    """Say what the axes of a panel of that width are; those that span much are logarithmic, unless they are shares."""
    from matplotlib.ticker import MaxNLocator

    axis, unit = str(part["axis"].iloc[0]), str(part["unit"].iloc[0])
    ax.set_xlabel(_wrapped(axis, int(12 * width)))
    ax.set_ylabel(_wrapped(unit, 24))
    if "x" in part and _spans(part["x"]) and "(%)" not in axis:
        _logarithmic(ax, "x")
    elif "x" in part:
        ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10], integer=bool((part["x"] % 1 == 0).all())))
    if unit.startswith("queries") and _spans(part["value"]):
        _logarithmic(ax, "y")


def _logarithmic(ax: Axes, which: Literal["x", "y"]) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    (ax.set_xscale if which == "x" else ax.set_yscale)("log")
    axis = ax.xaxis if which == "x" else ax.yaxis
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))  # the default is a formula
    axis.set_minor_formatter(NullFormatter())


def _spans(values: pd.Series[float]) -> bool:
    """Whether positive values span so much that a logarithmic axis shows them better."""
    return bool(values.min() > 0 and values.max() / values.min() >= 30)


def _wrapped(text: object, width: int) -> str:
    """A name in lines, broken before its options rather than within a word."""
    shown = printable(text)
    if len(shown) > width:
        shown = re.sub(r",(?=\S)", ", ", shown.replace("[", " ["))
    return "\n".join(textwrap.wrap(shown, width))
