"""The style of pictures: sizes, colours, files, and the layout that all kinds share."""

from __future__ import annotations

import os
import re
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from harness.errors import UsageError
from harness.files import whole_file
from harness.text import printable

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
"""Columns for each of whose values a panel's n is the number of seeds."""
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
"""Metadata left out of a file of each format: dates and versions."""


@cache
def colour(place: int) -> str:
    """A colour of seaborn's palette for the colour-blind: six of which neighbours differ in grey, too, and none is too
    pale for print. After six it begins again: markers, dashes and hatches tell those apart."""
    import seaborn as sns

    palette = sns.color_palette("colorblind").as_hex()
    chosen = (0, 1, 2, 4, 3, 9)
    return str(palette[chosen[place % len(chosen)]])


def print_to(
    path: Path, data: pd.DataFrame, kind: Kind, title: str, *, width: float = COLUMN, dpi: float = 300
) -> None:
    """Draw ``data`` to ``path``, in the format that its suffix says: the file depends on the numbers alone."""
    data, less = limited(data)
    with printing():
        figure = kind(data, width)
        lines = wrapped(f"{title} ({less})" if less else title, int(16 * width))
        figure.suptitle(lines)
        figure.set_figheight(figure.get_figheight() + LINE * (1 + lines.count("\n")))
        style = path.suffix[1:]
        with whole_file(path) as partial:
            figure.savefig(partial, format=style, dpi=dpi, metadata=FORMATS[style])


def places_of(data: pd.DataFrame) -> Any:
    """The number of each row's panel."""
    return data.groupby(panel_columns(data), sort=False).ngroup().to_numpy()


def import_matplotlib() -> None:
    """Import matplotlib without a word on its caches, and without the backend that ``MPLBACKEND`` names: pictures need
    none, and it may not be here. A notebook, whose kernel names one, finds it set afterwards.

    Raises :class:`harness.UsageError` where no folder can be written, not even one for temporary files.
    """
    import logging

    logger = logging.getLogger("matplotlib")
    level, backend = logger.level, os.environ.pop("MPLBACKEND", None)
    is_first = "matplotlib" not in sys.modules
    logger.setLevel(logging.ERROR)
    try:
        import matplotlib

        if is_first and backend:
            with suppress(ValueError):  # one that is not here
                matplotlib.rcParams["backend"] = backend
        with _fontconfig_in(matplotlib.get_cachedir()):
            import matplotlib.font_manager
    except OSError as error:
        raise UsageError(f"pictures need a folder for temporary files: set TMPDIR ({error.strerror})") from error
    finally:
        logger.setLevel(level)
        if backend is not None:
            os.environ["MPLBACKEND"] = backend


@contextmanager
def _fontconfig_in(folder: str) -> Iterator[None]:
    """Have fontconfig keep its cache in matplotlib's where that is a temporary one: the home folder is read-only."""
    before = os.environ.get("XDG_CACHE_HOME")
    is_temporary = Path(folder).is_relative_to(tempfile.gettempdir())
    if is_temporary:
        os.environ["XDG_CACHE_HOME"] = folder
    try:
        yield
    finally:
        if is_temporary and before is None:
            del os.environ["XDG_CACHE_HOME"]
        elif is_temporary and before is not None:
            os.environ["XDG_CACHE_HOME"] = before


def printing() -> Any:
    """The style of all pictures, for a ``with``; the caller's own and that of the machine have no say in it. A letter
    that the font lacks is a box there, and no warning."""
    import warnings
    from contextlib import ExitStack

    import_matplotlib()
    from matplotlib import rc_context, rcdefaults, rcParams

    stack = ExitStack()
    stack.enter_context(warnings.catch_warnings())
    warnings.filterwarnings("ignore", "Glyph .* missing from font")
    stack.enter_context(rc_context())
    rcdefaults()
    style: Any = STYLE
    rcParams.update(style)
    return stack


def limited(data: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The part of a frame that a picture holds, and a note of what is left out."""
    left: list[str] = []
    for column, most in LIMITS.items():
        if column in data:
            places = places_of(data) if column == "panel" else data.groupby(column, sort=False).ngroup().to_numpy()
            if (count := int(places.max()) + 1) > most:
                data = data[places < most]
                left.append(f"{most} of {count} {column.removesuffix('s')}s")
    return data, ", ".join(left)


# --- what all share ---------------------------------------------------------------------------------------------------


def new_figure(width: float, height: float, entries: Mapping[str, Any]) -> Figure:
    """A figure that pyplot does not know: so much room for panels, and below it a legend of all that they show."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = [wrapped(name, int(13 * width)) for name in entries]
    longest = max((len(line) for name in names for line in name.split("\n")), default=1)
    columns = max(1, min(len(names), int(17 * width) // (longest + 9)))
    rows = -(-len(names) // columns)
    lines = sum(max(name.count("\n") + 1 for name in names[row::rows]) for row in range(rows))
    figure = Figure(figsize=(width, height + 0.2 + 0.15 * lines), layout="constrained")
    FigureCanvasAgg(figure)
    if names:
        figure.legend(entries.values(), names, loc="outside lower center", ncols=columns, frameon=False)
    return figure


def laid_out(
    data: pd.DataFrame,
    width: float,
    height: Callable[[pd.DataFrame], float],
    entries: Mapping[str, Any],
    by: Sequence[str] = COUNTED,
) -> tuple[Figure, Panels]:
    """Axes for each panel of ``data`` in rows, with its rows of it and a title that says n."""
    parts = [part for _, part in data.groupby(panel_columns(data), sort=False)]
    across = panels_across(data, width)
    titles = [panel_title(part, width / across, by) for part in parts]
    heights = [
        max(height(part) + LINE * title.count("\n") for part, title in row)
        for i in range(0, len(parts), across)
        for row in [list(zip(parts, titles, strict=True))[i : i + across]]
    ]
    figure = new_figure(width, sum(heights), entries)
    axes = list(figure.subplots(len(heights), across, squeeze=False, height_ratios=heights).ravel())
    for ax, title in zip(axes, titles, strict=False):
        ax.set_title(title)
    for ax in axes[len(parts) :]:
        ax.remove()
    return figure, list(zip(axes, parts, strict=False))


def panel_columns(data: pd.DataFrame) -> list[str]:
    return [column for column in ("panel", "axis", "unit") if column in data]


def panels_across(data: pd.DataFrame, width: float) -> int:
    """Panels side by side."""
    return min(len(data[panel_columns(data)].drop_duplicates()), max(1, int(width / 2.8)))


def panel_title(part: pd.DataFrame, width: float, by: Sequence[str] = COUNTED) -> str:
    """A panel's name, and how many seeds are behind a number of each of ``by``, from the fewest to the most."""
    name, what = str(part["panel"].iloc[0]), part.attrs.get("n", "seeds" if "seed" in part else "")
    letters = max(12, int(14 * width) - 13)
    if not what:  # of formulas
        return wrapped(name, letters)
    groups = part.dropna(subset="value").groupby([column for column in by if column in part])
    counts = groups["seed"].nunique() if "seed" in part else groups.size()
    counts = counts[counts > 0]
    few, most = int(counts.min()), int(counts.max())
    n = f"n = {few} to {most} {what}" if few < most else f"n = {most} {what if most != 1 else what.rstrip('s')}"
    lines = wrapped(name, letters).split("\n")
    fits = len(lines[-1]) + len(n) + 3 <= letters
    return f"{chr(10).join(lines)}{' ' if fits else chr(10)}({n})" if name else n


def looks_of(data: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """A colour, a marker and a dash for each series: no two of 45 have both marker and dash in common. Those that
    ``attrs["known"]`` names look the same in every picture, whichever of them it shows."""
    shown = set(data["series"]) - {""}
    known = [name for name in data.attrs.get("known", ()) if name]
    return {
        name: {"color": colour(i), "marker": MARKERS[i % len(MARKERS)], "linestyle": DASHES[i % len(DASHES)]}
        for i, name in enumerate([*known, *sorted(shown - set(known))])
        if name in shown
    }


def handles(looks: Mapping[str, Mapping[str, Any]], shown: Sequence[str]) -> dict[str, Any]:
    """Handles of a legend for each: made here, since matplotlib leaves out names that begin with ``_``."""
    from matplotlib.lines import Line2D

    plain: dict[str, Any] = {"linestyle": "", "markersize": 4}
    return {name: Line2D([], [], **plain | {key: look[key] for key in shown}) for name, look in looks.items()}


def style_axes(ax: Axes, part: pd.DataFrame, width: float) -> None:
    """Say what the axes of a panel of that width are; those that span much are logarithmic, unless they are shares."""
    from matplotlib.ticker import MaxNLocator

    axis, unit = str(part["axis"].iloc[0]), str(part["unit"].iloc[0])
    ax.set_xlabel(wrapped(axis, int(12 * width)))
    ax.set_ylabel(wrapped(unit, 24))
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
    """True of positive values that span so much that a logarithmic axis shows them better."""
    return bool(values.min() > 0 and values.max() / values.min() >= 30)


BREAK = "\x00"
"""A place in a name where a line may end."""


def wrapped(text: object, width: int) -> str:
    """A name in lines, broken before its options rather than within a word."""
    shown = printable(text)
    if len(shown) > width:
        # A space is where lines may break; where they do not, it goes again.
        shown = re.sub(r"(?<=\S)(?=\[)|(?<=,)(?=\S)", f" {BREAK}", shown)
    too_long = any(len(word.strip(BREAK)) > width for word in shown.split())
    lines = textwrap.wrap(shown, width, break_on_hyphens=too_long)
    return "\n".join(lines).replace(f" {BREAK}", "").replace(BREAK, "")
