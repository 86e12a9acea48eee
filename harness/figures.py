"""Pictures of tidy frames: one function a kind. No display, nothing kept by pyplot, and the same bytes every time.

The frames come from :func:`harness.drawn.drawn`; a picture is 1,200 pixels wide.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, DPI = 8.0, 150
PUBLISHED = "0.75"
"""The grey of what the paper says."""
LIMIT = 12
"""Panels that a picture shows at most; the file beside it holds the numbers of all."""


def draw(kind: str, data: pd.DataFrame, title: str, path: Path) -> None:
    """Draw ``data`` as ``kind`` says to ``path``, a PNG, and write the numbers beside it as CSV."""
    import seaborn as sns
    from matplotlib import rc_context

    path.parent.mkdir(parents=True, exist_ok=True)
    data.to_csv(path.with_suffix(".csv"), index=False)
    style = {**sns.axes_style("whitegrid"), **sns.plotting_context("paper"), "font.size": 9.0}
    with rc_context(style):
        figure = KINDS[kind](data)
        figure.suptitle("\n".join(textwrap.wrap(title, 100)), fontsize=10)
        # Without the version of matplotlib in it, the file depends on its numbers alone.
        figure.savefig(path, dpi=DPI, metadata={"Software": None})


def _figure(height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, list[Axes]]:
    """A figure that pyplot does not know, and its axes row by row."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(rows, columns, squeeze=False, **options).ravel())


def _colours(names: Sequence[str]) -> dict[str, Any]:
    """A colour a name, from a palette that the colour-blind can tell apart."""
    import seaborn as sns

    return dict(zip(names, sns.color_palette("colorblind", len(names)), strict=True))


def _panels(data: pd.DataFrame, column: str) -> tuple[list[str], int, int]:
    """The values of ``column`` in order, as panels in rows of at most three."""
    names = list(dict.fromkeys(data[column]))[:LIMIT]
    columns = min(3, len(names))
    return names, -(-len(names) // columns), columns


def _unit(quantity: str, unit: str) -> str:
    return f"{quantity} ({unit})" if unit else quantity


def _seeds(data: pd.DataFrame) -> str:
    """How many seeds are behind a number: of several numbers, from the fewest to the most."""
    what = [name for name in ("label", "series", "quantity", "x", "epoch") if name in data]
    counts = data.groupby(what)["seed"].nunique()
    few, most = counts.min(), counts.max()
    return f"n = {most} seed{'s' if most != 1 else ''}" if few == most else f"n = {few} to {most} seeds"


def _legend(axes: Sequence[Axes], figure: Figure, **options: Any) -> None:
    """One legend below all panels, of what any of them shows."""
    known = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    for ax in axes:
        if (own := ax.get_legend()) is not None:
            own.remove()
    longest = max((len(label) for label in known), default=1)
    columns = max(1, min(len(known), 110 // (longest + 8)))
    figure.legend(known.values(), known.keys(), loc="outside lower center", ncols=columns, frameon=False, **options)


def strips(data: pd.DataFrame) -> Figure:
    """Each seed's value as a dot, their mean as a line, on the paper's band; a panel a quantity.

    Quantities of the same things stand side by side, those of others below.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    bands = _bands(data)
    heights = [0.75 + 0.27 * len(labels) for labels, _ in bands]
    figure = Figure(figsize=(WIDTH, 0.7 + sum(heights)), layout="constrained")
    FigureCanvasAgg(figure)
    rows = figure.subfigures(len(bands), 1, squeeze=False, height_ratios=heights)[:, 0]
    axes: list[Axes] = []
    for row, (labels, quantities) in zip(rows, bands, strict=True):
        panels = row.subplots(1, len(quantities), squeeze=False, sharey=True)[0]
        for ax, (quantity, unit) in zip(panels, quantities, strict=True):
            _strip(ax, data[(data["quantity"] == quantity) & (data["unit"] == unit)], labels)
            ax.set_xlabel("\n".join(textwrap.wrap(_unit(quantity, unit), max(12, 48 // len(quantities)))))
        panels[0].set_yticks(range(len(labels)), ["\n".join(textwrap.wrap(label, 34)) for label in labels])
        panels[0].set_ylim(len(labels) - 0.5, -0.5)
        axes += list(panels)
    axes[0].set_title(_seeds(data), fontsize=8, loc="left")
    _legend(axes, figure)
    return figure


def _bands(data: pd.DataFrame) -> list[tuple[list[str], list[tuple[str, str]]]]:
    """The quantities in rows, at most four side by side, with the labels of each row: quantities of other things go to
    another row."""
    bands: list[tuple[list[str], list[tuple[str, str]]]] = []
    for (quantity, unit), part in data.groupby(["quantity", "unit"], sort=False):
        own = list(dict.fromkeys(part["label"]))
        band = next((band for band in bands if set(band[0]) & set(own) and len(band[1]) < 4), None)
        if band is None:
            bands.append((own, [(str(quantity), str(unit))]))
        else:
            band[0].extend(label for label in own if label not in band[0])
            band[1].append((str(quantity), str(unit)))
    return bands


def _strip(ax: Axes, data: pd.DataFrame, labels: Sequence[str]) -> None:
    from math import isfinite

    for label, rows in data.groupby("label", sort=False):
        y, low, high = labels.index(label), rows["paper_low"].iloc[0], rows["paper_high"].iloc[0]
        if isfinite(low) or isfinite(high):
            _band(ax, y, low, high)
        ax.plot([rows["value"].mean()] * 2, [y - 0.3, y + 0.3], color="black", linewidth=1.5, label="our mean")
        # Spread by rank, not by chance: the file is then the same every time.
        spread = [y - 0.15 + 0.3 * (i + 0.5) / len(rows) for i in range(len(rows))]
        colour = _colours(["ours"])["ours"]
        ax.scatter(rows["value"], spread, s=14, color=colour, zorder=3, linewidths=0, label="ours, a dot a seed")


def _band(ax: Axes, y: float, low: float, high: float) -> None:
    """The paper's band on row ``y``; a claim without an end goes to the edge of what is drawn, with an arrow."""
    from math import isfinite

    if isfinite(low) and isfinite(high):
        ax.fill_between([low, high], y - 0.38, y + 0.38, color=PUBLISHED, linewidth=0, label="the paper")
        ax.plot([(low + high) / 2] * 2, [y - 0.38, y + 0.38], color="0.4", linewidth=1, label="its mean")
        return
    end = low if isfinite(low) else high
    arrow = ">" if isfinite(low) else "<"
    ax.plot([end, end], [y - 0.38, y + 0.38], color="0.55", linewidth=2.5, label="the paper's claim: beyond")
    ax.plot([end], [y], marker=arrow, color="0.55", markersize=7)


def sweep(data: pd.DataFrame) -> Figure:
    """A panel a quantity against the value of an option: each seed's dots, and a line through their means."""
    quantities = list(dict.fromkeys(zip(data["quantity"], data["unit"], strict=True)))
    names = list(dict.fromkeys(data["series"]))
    columns = min(3, len(quantities))
    rows = -(-len(quantities) // columns)
    figure, axes = _figure(3.0 * rows + 0.25 * len(names) + 0.3, rows, columns, sharex=True)
    colours, markers = _colours(names), dict(zip(names, _markers(), strict=False))
    for ax, (quantity, unit) in zip(axes, quantities, strict=False):
        part = data[(data["quantity"] == quantity) & (data["unit"] == unit)]
        for name, each in part.groupby("series", sort=False):
            look = {"color": colours[name], "marker": markers[name]}
            means = each.groupby("x")["value"].mean()
            ax.plot(means.index, means, linewidth=1.5, markersize=4, label=name, **look)
            ax.scatter(each["x"], each["value"], s=12, alpha=0.5, linewidths=0, **look)
        if _spans(data["x"]):
            ax.set_xscale("log")
        ax.set_ylabel(_unit(quantity, unit))
        ax.set_xlabel(data.attrs.get("x", "x"))
    for ax in axes[len(quantities) :]:
        ax.set_visible(False)
    axes[0].set_title(f"dots: seeds, {_seeds(data)}; line: mean", fontsize=8, loc="left")
    _legend(axes, figure)
    return figure


def _markers() -> Iterator[str]:
    while True:
        yield from "os^Dv<>P"


def _spans(x: pd.Series[float]) -> bool:
    """Whether positive values span so much that a logarithmic axis shows them better."""
    return bool(x.min() > 0 and x.max() / x.min() >= 30)


def scatter(data: pd.DataFrame) -> Figure:
    """One quantity of each cell against another."""
    figure, axes = _figure(4.2)
    names = list(dict.fromkeys(data["series"]))
    colours = _colours(names)
    for (name, each), marker in zip(data.groupby("series", sort=False), _markers(), strict=False):
        label = f"{name} ({len(each)} cells)"
        axes[0].scatter(each["x"], each["value"], s=24, color=colours[name], marker=marker, label=label, alpha=0.8)
    axes[0].set_xlabel(data.attrs.get("x", "x"))
    axes[0].set_ylabel(_unit(data["quantity"].iloc[0], data["unit"].iloc[0]))
    axes[0].set_title(f"n = {data['seed'].nunique()} seeds", fontsize=8, loc="left")
    _legend(axes, figure)
    return figure


def histogram(data: pd.DataFrame) -> Figure:
    """How often neurons are active on task data and on triggers: a panel a model."""
    names, rows, columns = _panels(data, "panel")
    bins = [i / 20 for i in range(21)]
    figure, axes = _figure(2.6 * rows + 0.8, rows, columns, sharex=True, sharey=True)
    groups = sorted(set(data["group"]))
    colours = _colours(groups)
    for ax, name in zip(axes, names, strict=False):
        part = data[data["panel"] == name]
        for group, hatch in zip(groups, ("", "//", ".."), strict=False):
            values = part.loc[part["group"] == group, "value"]
            look = {"alpha": 0.55, "color": colours[group], "hatch": hatch, "label": group}
            ax.hist(values, bins, weights=[100 / len(values)] * len(values), **look)
        models = part["seed"].nunique()
        ax.set_title(f"{_broken(name)}\n{part['index'].nunique()} neurons, n = {models} models", fontsize=8)
        ax.set_xlabel("share of inputs that activate the neuron")
    for ax in axes[::columns]:
        ax.set_ylabel("neurons (%)")
    for ax in axes[len(names) :]:
        ax.set_visible(False)
    _legend(axes, figure)
    return figure


def _broken(name: str) -> str:
    return "\n".join(textwrap.wrap(name, 36))


def points(data: pd.DataFrame) -> Figure:
    """Inputs where a projection of their activations puts them: a panel a model, a colour a group."""
    names, rows, columns = _panels(data, "panel")
    figure, axes = _figure(2.9 * rows + 0.6, rows, columns)
    groups = [g for g in ("other", "source", "target", "trigger") if g in set(data["group"])]
    groups += sorted(set(data["group"]) - set(groups))
    colours = _colours(groups)
    for ax, name in zip(axes, names, strict=False):
        part = data[data["panel"] == name]
        for group, marker in zip(groups, _markers(), strict=False):
            own = part[part["group"] == group]
            look = {"color": colours[group], "marker": marker, "label": group}
            ax.scatter(own["x"], own["y"], s=7, alpha=0.6, linewidths=0, **look)
        ax.set_title(f"{_broken(name)}\nn = {len(part)} inputs", fontsize=8)
        ax.set_xlabel("first component")
    for ax in axes[::columns]:
        ax.set_ylabel("second component")
    for ax in axes[len(names) :]:
        ax.set_visible(False)
    _legend(axes, figure, markerscale=2)
    return figure


def heatmap(data: pd.DataFrame) -> Figure:
    """A number for each pair of a source and a target class: a panel a scheme."""
    import seaborn as sns

    names, rows, columns = _panels(data, "panel")
    figure, axes = _figure((6.6 if columns == 1 else 7.0 / columns + 0.6) * rows, rows, columns)
    classes = sorted(set(data["source"]) | set(data["target"]))
    for ax, name in zip(axes, names, strict=False):
        part = data[data["panel"] == name]
        table = part.pivot_table(index="source", columns="target", values="mean")
        table = table.reindex(index=classes, columns=classes)
        sns.heatmap(
            table, ax=ax, vmin=0, vmax=100, cmap="cividis", annot=True, fmt=".0f", square=True,
            annot_kws={"fontsize": 7}, cbar_kws={"label": "surrogate success (%)", "shrink": 0.7},
        )  # fmt: skip
        ax.grid(False)
        ax.set_title(f"{_broken(name)}\n{len(part)} pairs, n = {part['count'].max()} seeds", fontsize=8)
        ax.set_xlabel("target class")
        ax.set_ylabel("source class")
    for ax in axes[len(names) :]:
        ax.set_visible(False)
    return figure


def curves(data: pd.DataFrame) -> Figure:
    """A panel a quantity against the epoch: each seed's line thin, their mean thick."""
    quantities = list(dict.fromkeys(data["quantity"]))
    names = list(dict.fromkeys(data["series"]))
    columns = min(3, len(quantities))
    rows = -(-len(quantities) // columns)
    figure, axes = _figure(2.5 * rows + 0.25 * len(names) + 0.5, rows, columns, sharex=True)
    colours = _colours(names)
    for ax, quantity in zip(axes, quantities, strict=False):
        for name, each in data[data["quantity"] == quantity].groupby("series", sort=False):
            for _, line in each.groupby("seed"):
                ax.plot(line["epoch"], line["value"], color=colours[name], linewidth=0.6, alpha=0.5)
            mean = each.groupby("epoch")["value"].mean()
            ax.plot(mean.index, mean, color=colours[name], linewidth=1.8, label=name)
        ax.set_ylabel(f"SNNL of {quantity[5:]} (nats)" if quantity.startswith("snnl:") else f"{quantity} (0..1)")
        ax.set_xlabel("epoch of embedding")
    for ax in axes[len(quantities) :]:
        ax.set_visible(False)
    axes[0].set_title(f"thin: seeds, {_seeds(data)}; thick: mean", fontsize=8, loc="left")
    _legend(axes, figure)
    return figure


def queries(data: pd.DataFrame) -> Figure:
    """Queries that the paper's t-test plans with, those that detect 95% of marks, and the chance with the former."""
    figure, axes = _figure(3.6, 1, 2)
    names = ("the paper's t-test", "exact test that detects 95%", "chance to detect with the paper's number")
    colours = _colours(names)
    axes[0].plot(data["success"], data["planned"], color=colours[names[0]], label=names[0])
    axes[0].plot(data["success"], data["power"], color=colours[names[1]], linestyle="--", label=names[1])
    axes[0].set_yscale("log")
    axes[0].set_ylabel("queries for 95% confidence")
    axes[1].plot(data["success"], data["chance"], color=colours[names[2]], linestyle=":", label=names[2])
    axes[1].set_ylim(0, 100)
    axes[1].set_ylabel("detected with so many (%)")
    for ax in axes:
        ax.set_xlabel("success of the suspect (%); false rate 10%")
    _legend(axes, figure)
    return figure


def plane(data: pd.DataFrame) -> Figure:
    """The answers of two small networks on a plane, with the line of the mark."""
    names = list(dict.fromkeys(data["network"]))
    figure, axes = _figure(3.8, 1, len(names), sharey=True)
    for ax, name in zip(axes, names, strict=True):
        table = data[data["network"] == name].pivot_table(index="x2", columns="x1", values="value")
        mesh = ax.pcolormesh(table.columns, table.index, table, cmap="cividis", vmin=0, vmax=1, shading="nearest")
        ax.contour(table.columns, table.index, table, levels=[0.5], colors="white", linewidths=1.2)
        ax.axhline(-1, color="white", linestyle="--", linewidth=1)
        ax.set_title(f"{name} (solid: 0.5, dashed: the mark's inputs, x2 = -1)", fontsize=8)
        ax.set_xlabel("x1")
    axes[0].set_ylabel("x2")
    figure.colorbar(mesh, ax=axes, label="probability of class 1")
    return figure


KINDS: dict[str, Callable[[pd.DataFrame], Figure]] = {
    "strips": strips,
    "sweep": sweep,
    "scatter": scatter,
    "histogram": histogram,
    "points": points,
    "heatmap": heatmap,
    "curves": curves,
    "queries": queries,
    "plane": plane,
}
"""What draws each kind of frame."""


# --- for print: as wide as a column of a paper, so that 7 points stay 7 points ---------------------------------------

COLUMN = 3.5
"""Inches."""
PRINT: dict[str, Any] = {
    **dict.fromkeys(("font.size", "axes.labelsize", "axes.titlesize", "xtick.labelsize", "ytick.labelsize"), 7.0),
    **{"legend.fontsize": 7.0, "legend.handlelength": 1.5, "axes.linewidth": 0.6, "lines.linewidth": 1.2},
    **{"xtick.major.pad": 2.0, "ytick.major.pad": 2.0, "svg.hashsalt": "watermark-harness"},
}
FORMATS: dict[str, dict[str, None]] = {
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "png": {"Software": None},
}
"""What is left out of a file of each format: dates and versions."""


def print_to(path: Path, data: pd.DataFrame, kind: Callable[[pd.DataFrame], Figure], title: str) -> None:
    """Draw ``data`` to ``path``, in the format that its suffix says: the file depends on the numbers alone."""
    with printing():
        figure = kind(data)
        figure.suptitle(_wrapped(title, 62), fontsize=7)
        figure.savefig(path, dpi=300, metadata=FORMATS[path.suffix[1:]])


def printing() -> Any:
    """The style of what is printed, for a ``with``."""
    import seaborn as sns
    from matplotlib import rc_context

    style: Any = {**sns.axes_style("whitegrid"), **PRINT}
    return rc_context(style)


def _wrapped(text: str, width: int) -> str:
    """``text`` in lines, broken before its options rather than within a word."""
    if len(text) > width:
        text = re.sub(r",(?=\S)", ", ", text.replace("[", " ["))
    return "\n".join(textwrap.wrap(text, width))


Panels: TypeAlias = "list[tuple[Axes, pd.DataFrame]]"


def _column(data: pd.DataFrame, height: Callable[[pd.DataFrame], float], names: int) -> tuple[Figure, Panels]:
    """Panels one below the other, each with its rows of ``data``; below them is room for a legend of so many names."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    parts = list(data.groupby("panel", sort=False))[:LIMIT]
    heights = [height(part) for _, part in parts]
    figure = Figure(figsize=(COLUMN, 0.5 + sum(heights) + 0.14 * names), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(parts), 1, squeeze=False, height_ratios=heights)[:, 0]
    for ax, (name, part) in zip(axes, parts, strict=True):
        seeds = f" (n = {part['seed'].nunique()})" if "seed" in part else ""
        ax.set_title(_wrapped(f"{name}{seeds}", 36))
    return figure, [(ax, part) for ax, (_, part) in zip(axes, parts, strict=True)]


def _looks(data: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """A colour and a marker for each series: no two have both in common, and the first ten no colour."""
    import seaborn as sns

    names, palette = sorted(set(data["series"]) - {""}), sns.color_palette("colorblind")
    return {
        name: {"color": palette[i % len(palette)], "marker": marker}
        for i, (name, marker) in enumerate(zip(names, _markers(), strict=False))
    }


def _key(figure: Figure, axes: Sequence[Axes]) -> None:
    """One legend for all panels, a name a line: names are long, and a column is narrow."""
    known = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    if known:
        names = [_wrapped(label, 50) for label in known]
        figure.legend(known.values(), names, loc="outside lower center", ncols=1, frameon=False)


def dots(data: pd.DataFrame) -> Figure:
    """Every seed's value as a dot beside its label, and the mean as a line; a row a label and series."""

    def rows_of(part: pd.DataFrame) -> list[tuple[Any, Any]]:
        return list(dict.fromkeys(zip(part["label"], part["series"], strict=True)))

    def tall(part: pd.DataFrame) -> float:
        return 0.6 + 0.13 * len(rows_of(part)) + 0.1 * len(set(part["label"]))

    looks = _looks(data)
    figure, panels = _column(data, tall, len(looks))
    for ax, part in panels:
        labels = list(dict.fromkeys(part["label"]))
        for at, label in enumerate(labels):
            own = [series for one, series in rows_of(part) if one == label]
            for k, series in enumerate(own):
                values = part.loc[(part["label"] == label) & (part["series"] == series), "value"]
                y = at + 0.8 * ((k + 0.5) / len(own) - 0.5)
                ax.scatter(values, [y] * len(values), s=9, alpha=0.7, linewidths=0, label=series, **looks[series])
                ax.plot([values.mean()] * 2, [y - 0.35 / len(own), y + 0.35 / len(own)], color="black", linewidth=1)
        ax.set_yticks(range(len(labels)), [_wrapped(label, 22) for label in labels])
        ax.set_ylim(len(labels) - 0.45, -0.55)
        ax.set_xlabel(_wrapped(part["unit"].iloc[0], 36))
    if (data["label"] != data["series"]).any():
        _key(figure, [ax for ax, _ in panels])
    return figure


def frontier(data: pd.DataFrame) -> Figure:
    """Two quantities of every cell, and the line of the means that no other mean beats in both."""
    looks = _looks(data)
    look: dict[str, Any] = {
        "color": "black",
        "drawstyle": "steps-post",
        "linewidth": 1,
        "marker": "o",
        "markerfacecolor": "none",
    }
    figure, panels = _column(data, lambda part: 2.3, len(looks) + 1)
    for ax, part in panels:
        for series, each in part.groupby("series", sort=False):
            ax.scatter(each["x"], each["value"], s=10, alpha=0.7, linewidths=0, label=series, **looks[series])
        best = _unbeaten(part.groupby(["series", "group"], sort=False)[["x", "value"]].mean())
        ax.plot(best["x"], best["value"], label="frontier of means", **look)
        ax.set_xlabel("trigger success of the surrogate (%)")
        ax.set_ylabel("test accuracy (%)")
    _key(figure, [ax for ax, _ in panels])
    return figure


def _unbeaten(means: pd.DataFrame) -> pd.DataFrame:
    """The points that no other has more of both than, from left to right."""
    ordered = means.sort_values(["x", "value"], ascending=False)
    return ordered[ordered["value"] > ordered["value"].cummax().shift(fill_value=float("-inf"))][::-1]


def tracks(data: pd.DataFrame) -> Figure:
    """A line of means a series; each seed's own as thin lines, and as dots where there are few."""
    looks = _looks(data)
    figure, panels = _column(data, lambda part: 1.7, len(looks) + 1)
    few, span = data["x"].nunique() <= 12, data["x"].max() - data["x"].min() or 1
    for ax, part in panels:
        for series, each in part.groupby("series", sort=False):
            look = looks[series]
            for _, own in each.groupby("seed"):
                ax.plot(own["x"], own["value"], color=look["color"], linewidth=0.5, alpha=0.5)
            if few:
                ax.scatter(each["x"], each["value"], s=8, alpha=0.6, linewidths=0, **look)
            mean = each.groupby("x")["value"].mean()
            ax.plot(mean.index, mean, label=series, markersize=3, **{**look, "marker": look["marker"] if few else ""})
        ax.set_xlim(data["x"].min() - 0.02 * span, data["x"].max() + 0.02 * span)
        ax.set_xlabel(data.attrs["x"])
        ax.set_ylabel(_wrapped(part["unit"].iloc[0], 26))
    _key(figure, [ax for ax, _ in panels])
    return figure


def against_budget(data: pd.DataFrame) -> Figure:
    """A share that grows with a number of queries, a line a series."""
    looks = _looks(data)
    figure, panels = _column(data, lambda part: 2.0, len(looks) + 1)
    for ax, part in panels:
        for series, each in part.groupby("series", sort=False):
            ax.plot(each["x"], each["value"], label=series, markersize=3, markevery=4, **looks[series])
        ax.set_xscale("log")
        ax.set_ylim(-3, 103)
        ax.set_xlabel("queries that a verifier asks")
        ax.set_ylabel("surrogates verified (%)")
    _key(figure, [ax for ax, _ in panels])
    return figure


def needed(data: pd.DataFrame) -> Figure:
    """Queries for 95% confidence against success: every cell, and the curve at the median false rate."""
    looks = _looks(data)
    figure, panels = _column(data, lambda part: 2.2, len(looks) + 1)
    for ax, part in panels:
        for series, each in part[part["series"] != ""].groupby("series", sort=False):
            ax.scatter(each["x"], each["value"], s=10, alpha=0.7, linewidths=0, label=series, **looks[series])
        line = part[part["series"] == ""]
        ax.plot(line["x"], line["value"], color="0.3", linestyle="--", linewidth=0.9, label="at the median false rate")
        ax.set_yscale("log")
        ax.set_xlabel("trigger success of the surrogate (%)")
        ax.set_ylabel("queries for 95% confidence")
    _key(figure, [ax for ax, _ in panels])
    return figure


def matrix(data: pd.DataFrame) -> Figure:
    """The mean of each attack on each scheme, in colour and in figures."""
    import seaborn as sns

    figure, panels = _column(data, lambda part: 1.2 + 0.22 * part["label"].nunique(), 0)
    for ax, part in panels:
        table = part.pivot(index="label", columns="series", values="value")
        table = table.reindex(index=list(dict.fromkeys(part["label"])), columns=list(dict.fromkeys(part["series"])))
        sns.heatmap(
            table, ax=ax, vmin=0, vmax=100, cmap="cividis", annot=True, fmt=".0f", annot_kws={"fontsize": 7},
            cbar_kws={"label": "success (%)"},
        )  # fmt: skip
        ax.grid(False)
        ax.set(xlabel="", ylabel="")
        ax.set_yticks([i + 0.5 for i in range(len(table))], [_wrapped(t, 22) for t in table.index], rotation=0)
        names = [_wrapped(name, 24) for name in table.columns]
        ax.set_xticks([i + 0.5 for i in range(len(names))], names, rotation=90)
    return figure
