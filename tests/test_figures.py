"""Pictures: every kind shows all rows, says what and how many they are, stays legible, and gives the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection, QuadMesh
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from harness.figures import catalogue, kinds
from harness.figures import frames as frames_module
from harness.figures.catalogue import PICTURES, collect
from harness.figures.shown import Shown
from harness.figures.style import (
    COLUMN,
    FEW,
    HEIGHT,
    LIMITS,
    PAGE,
    ROWS,
    SHEETS,
    colour,
    limited,
    looks_of,
    print_to,
    printing,
    wrapped,
)
from harness.papers.paper import PICTURES as KINDS_OF_PAPERS
from harness.papers.paper import Picture
from harness.papers.quantities import Frames
from harness.planning.registry import load_registry
from harness.statistics.pareto import hypervolume
from harness.storage.tables import Tables
from harness.verdicts.boards import make_board
from harness.verdicts.reading import read_evidence
from harness.verdicts.rules import Rules
from harness.verdicts.scoring import score
from tests.conftest import Cli, command_line

pytestmark = pytest.mark.slow  # every picture

PLAIN = ("adi", "baseline", "baseline[placement=gradient,width=3]", "ewe[variant=official,weight=64.0]")
STRANGE = ("$x_1$ or $\\no$", "_a\\b<c>&\"'", "n" * 60, "turned\u202eround, 日本, \x1b[31m")
MANY = tuple(f"ewe[variant=official,weight={weight}.0,passes=task]" for weight in range(6))
LONG = "retraining[answers=soft,epochs=20] | pruning[fraction=0.6]"


def rows(names: tuple[str, ...] = PLAIN, seeds: int = 3, panels: int = 2, **more: Any) -> pd.DataFrame:
    """A row a panel, label, series and seed, in the columns that frames have, plus or instead ``more``."""
    draw = np.random.default_rng(0)
    made = [
        {"panel": f"digits[train={200 + p},holdout=100,epochs=2]", "label": label, "series": name, "seed": seed,
         "x": float(draw.uniform(1, 9)), "value": float(draw.uniform(1, 100)),
         "axis": "across (%)", "unit": "what it is (%)"}
        for p in range(panels) for label in (names[-1], "none", LONG) for name in names for seed in range(seeds)
    ]  # fmt: skip
    return pd.DataFrame(made).assign(**more)


def swept(xs: int, **given: Any) -> pd.DataFrame:
    one = rows(**given).drop_duplicates(["panel", "series", "seed"]).drop(columns="label")
    return pd.concat([one.assign(x=float(x), value=one["value"] + x) for x in range(1, xs + 1)], ignore_index=True)


def lined(**given: Any) -> pd.DataFrame:
    """Dots, a line of one series, and a line of none."""
    made = rows(**given).drop(columns="label").assign(line="")
    own = made.groupby("panel").head(2).assign(line="a front", seed=np.nan)
    return pd.concat([made, own, own.assign(series="", line="a curve")], ignore_index=True)


def shares(**given: Any) -> pd.DataFrame:
    made = rows(**given).drop(columns=["label", "x"])
    return made.assign(series=np.where(np.arange(len(made)) % 2, "task", "trigger"), value=made["value"] / 100)


def mapped(**given: Any) -> pd.DataFrame:
    return rows(**given).assign(column=lambda frame: frame["series"], side="below").drop(columns=["series", "x"])


FRAMES: dict[str, tuple[Callable[..., Figure], Callable[..., pd.DataFrame]]] = {
    "dots": (kinds.dots, rows),
    "dots with bands": (kinds.dots, lambda **given: rows(paper_low=20.0, paper_high=60.0, **given)),
    "dots with claims": (kinds.dots, lambda **given: rows(paper_low=-np.inf, paper_high=60.0, **given)),
    "dots with levels": (kinds.dots, lambda **given: rows(low=10.0, high=90.0, unmarked=12.0, attacked=15.0, **given)),
    "tracks": (kinds.tracks, lambda **given: swept(3, **given)),
    "tracks of many": (kinds.tracks, lambda **given: swept(20, **given)),
    "scatter": (kinds.scatter, lined),
    "histogram": (kinds.histogram, shares),
    "heatmap": (kinds.heatmap, mapped),
    "heatmap of many": (kinds.heatmap, lambda **given: mapped(**{**given, "names": MANY})),
}
"""Of each kind of drawing: what draws it, and a frame for it."""


def holes(frame: pd.DataFrame) -> pd.DataFrame:
    """With every fifth value missing."""
    return frame.assign(value=frame["value"].where(np.arange(len(frame)) % 5 != 2))


CASES: dict[str, Callable[[Callable[..., pd.DataFrame]], pd.DataFrame]] = {
    "plain": lambda make: make(),
    "strange names": lambda make: make(names=STRANGE, panels=1),
    "one seed": lambda make: make(seeds=1, panels=1),
    "one scheme, one panel": lambda make: make(names=PLAIN[:1], panels=1),
    "missing values": lambda make: holes(make(panels=1)),
}
WIDTHS = {"plain": PAGE}
"""Others are as wide as a column."""


DRAWN = [(kind, case) for kind in FRAMES for case in CASES if case == "plain" or " " not in kind]


@pytest.fixture(scope="module", params=DRAWN, ids=" - ".join)
def picture(request: pytest.FixtureRequest) -> Iterator[tuple[str, pd.DataFrame, Figure]]:
    """The kind of drawing, the frame, and what was drawn and laid out, once for all that is asked of it."""
    kind, case = request.param
    draw, make = FRAMES[kind]
    frame = CASES[case](make)
    with printing():
        figure = draw(frame, WIDTHS.get(case, COLUMN))
        figure.draw_without_rendering()
        yield kind.partition(" ")[0], frame, figure


def panels(figure: Figure) -> list[Any]:
    return [ax for ax in figure.axes if ax.get_label() != "<colorbar>"]


def offsets(figure: Figure) -> list[Any]:
    return [np.ma.getdata(dots.get_offsets()) for ax in figure.axes for dots in ax.findobj(PathCollection)]


def legend(figure: Figure) -> list[str]:
    return [text.get_text().replace("\n", " ") for box in figure.legends for text in box.get_texts()]


def same(one: str, other: str) -> bool:
    """Whether two names differ in where they are broken alone."""
    return "".join(one.split()) == "".join(other.split())


def test_every_row_is_drawn_once(picture: tuple[str, pd.DataFrame, Figure]) -> None:
    kind, frame, figure = picture
    known = frame.dropna(subset="value")
    if kind == "dots":
        found = np.concatenate(offsets(figure))[:, 0]
    elif kind == "scatter":
        known = known[known["line"] == ""]
        found = np.concatenate(offsets(figure))[:, 1]
    elif kind == "tracks":
        thin = [line for ax in figure.axes for line in ax.lines if line.get_linewidth() == 0.5]
        found = np.concatenate([line.get_ydata() for line in thin])
        dotted = np.concatenate([at[:, 1] for at in offsets(figure)] or [[]])
        few = frame["x"].nunique() <= FEW
        np.testing.assert_allclose(np.sort(dotted[np.isfinite(dotted)]), np.sort(known["value"]) if few else [])
    elif kind == "histogram":
        heights = [bars.datavalues.sum() for ax in figure.axes for bars in ax.containers]
        assert heights == pytest.approx([100] * len(frame.groupby(["panel", "series"])))
        return
    else:
        found = np.concatenate(
            [np.ma.filled(m.get_array(), np.nan).ravel() for ax in panels(figure) for m in ax.findobj(QuadMesh)]
        )
        known = known.groupby(["panel", "label", "column"])["value"].mean().reset_index()
    np.testing.assert_allclose(np.sort(found[np.isfinite(found)]), np.sort(known["value"]))


def test_axes_and_panels_say_what_they_are_and_how_many(picture: tuple[str, pd.DataFrame, Figure]) -> None:
    kind, frame, figure = picture
    for ax, (name, part) in zip(panels(figure), frame.groupby("panel", sort=False), strict=True):
        said = [ax.get_xlabel(), ax.get_ylabel()]
        said += [bar.get_ylabel() for bar in figure.axes if bar.get_label() == "<colorbar>"][:1]
        wanted = ["what it is (%)"] if kind == "dots" else ["across (%)", "what it is (%)"]
        assert all(any(same(want, text) for text in said) for want in wanted), said
        seeds = part["seed"].nunique()
        assert same(ax.get_title().rpartition("(n")[0], name) or f"{name}(" in "".join(ax.get_title().split())
        few = "2 to " if frame["value"].isna().any() and kind in ("dots", "tracks", "heatmap") else ""
        assert f"(n = {few}{seeds} seed" in ax.get_title().replace("\n", " ")


@pytest.mark.parametrize(
    ("name", "width", "lines"),
    [
        ("digits[epochs=6]: ewe[weight=0.0]", 40, ["digits[epochs=6]: ewe[weight=0.0]"]),
        ("digits[epochs=6]: ewe[weight=0.0]", 24, ["digits[epochs=6]: ewe", "[weight=0.0]"]),
        ("ewe[variant=official,weight=0.0]", 20, ["ewe", "[variant=official,", "weight=0.0]"]),
        ("success [95% interval]", 12, ["success [95%", "interval]"]),
        ("ewe[origin=in-distribution]", 25, ["ewe", "[origin=in-distribution]"]),
        ("neural-cleanse-removal", 15, ["neural-cleanse-", "removal"]),
    ],
)
def test_a_long_name_is_broken_before_its_options_and_else_left_as_it_is(
    name: str, width: int, lines: list[str]
) -> None:
    assert wrapped(name, width).split("\n") == lines


def test_the_legend_names_each_series_once(picture: tuple[str, pd.DataFrame, Figure]) -> None:
    from harness.text import printable

    kind, frame, figure = picture
    series = sorted(set(frame.get("series", [])) - {""})
    wanted = [printable(name) for name in series]
    wanted += {"dots": ["mean"], "scatter": ["a front", "a curve"]}.get(kind, [])
    if "paper_low" in frame:
        wanted.append(
            "the paper, and its mean" if np.isfinite(frame["paper_low"]).all() else "the paper's claim: beyond"
        )
    if "unmarked" in frame:
        wanted += ["interval", "mean of unmarked models", "mean of attacked unmarked models"]
    said = legend(figure)
    assert len(said) == len(wanted) and all(same(one, other) for one, other in zip(said, wanted, strict=True))


def test_limits_contain_the_data(picture: tuple[str, pd.DataFrame, Figure]) -> None:
    kind, frame, figure = picture
    for ax, (_, part) in zip(panels(figure), frame.groupby("panel", sort=False), strict=True):
        sides = {"dots": "value ", "histogram": "value ", "heatmap": ""}.get(kind, "x value").split(" ")
        for column, (low, high) in zip(sides, (ax.get_xlim(), ax.get_ylim()), strict=False):
            assert np.isfinite([low, high]).all()
            if column:
                assert low <= part[column].min() and part[column].max() <= high


def test_nothing_is_cut_overlaps_or_is_too_small_for_print(picture: tuple[str, pd.DataFrame, Figure]) -> None:
    _, _, figure = picture
    assert figure.get_figwidth() in (COLUMN, PAGE)
    assert all(text.get_fontsize() >= 7 for text in figure.findobj(Text) if text.get_text())
    shown = figure.get_tightbbox()  # of all that is shown, in inches
    assert shown.x0 >= 0 and shown.y0 >= 0, "cut at the left or below"
    assert shown.x1 <= figure.get_figwidth() and shown.y1 <= figure.get_figheight(), "cut at the right or above"
    ticks_stand_apart(figure)
    for ax in figure.axes:
        for box in figure.legends:
            assert not overlap(ax.get_tightbbox(), box.get_window_extent())
    for ax in panels(figure):
        size = ax.get_position().size * (figure.get_figwidth(), figure.get_figheight())
        assert size[0] > 0.8 and size[1] > 0.25, "nothing left of the panel"


def ticks_stand_apart(figure: Figure) -> None:
    for ax in figure.axes:
        for ticks in (ax.get_xticklabels(), ax.get_yticklabels()):
            boxes = [tick.get_window_extent().padded(2, 0) for tick in ticks if tick.get_text() and tick.get_visible()]
            for one, other in combinations(boxes, 2):
                assert not overlap(one, other), (ax.get_title(), [tick.get_text() for tick in ticks])


def overlap(one: Bbox, other: Bbox) -> bool:
    """By more than a pixel."""
    both = Bbox.intersection(one, other)
    return both is not None and both.width > 1 and both.height > 1


def test_a_line_goes_through_its_points_in_its_series_look_and_one_of_no_series_is_grey() -> None:
    frame = lined(panels=1)
    (ax,) = kinds.scatter(frame).axes
    own, curve = ax.lines
    for line, name in ((own, "a front"), (curve, "a curve")):
        points = frame.loc[frame["line"] == name, ["x", "value"]]
        np.testing.assert_array_equal(np.transpose(line.get_data()), points)
    assert own.get_color() == colour(0) and curve.get_color() == "0.3"


def test_the_paper_is_a_band_on_each_row_or_a_bar_where_its_claim_begins() -> None:
    (ax,) = kinds.dots(rows(panels=1, paper_low=20.0, paper_high=60.0)).axes
    bands = [box for box in ax.collections if not isinstance(box, PathCollection)]
    assert [list(box.get_datalim(ax.transData).intervalx) for box in bands] == [[20, 60]] * 3
    (ax,) = kinds.dots(rows(panels=1, paper_low=20.0, paper_high=np.inf)).axes
    assert sum(line.get_marker() == ">" and list(line.get_xdata()) == [20] for line in ax.lines) == 3


def test_more_rows_than_a_panel_holds_are_counted() -> None:
    frame = pd.concat([rows(panels=1, seeds=1, names=PLAIN[:2]).assign(label=f"attack {i}") for i in range(40)])
    (ax,) = kinds.dots(frame).axes
    names = [tick.get_text() for tick in ax.get_yticklabels()]
    assert len(names) == ROWS // 2 + 1 and names[-1] == "(10 more)"


def test_a_mean_is_marked_in_the_row_of_its_label() -> None:
    frame = rows(panels=1)
    (ax,) = kinds.dots(frame).axes
    labels = list(dict.fromkeys(frame["label"]))
    marked = sorted(
        (line.get_xdata()[0], round(float(np.mean(line.get_ydata())))) for line in ax.lines if line.get_linewidth() == 1
    )
    means = frame.groupby(["label", "series"])["value"].mean()
    assert marked == [
        (pytest.approx(mean), labels.index(label))
        for (label, _), mean in sorted(means.items(), key=lambda item: item[1])
    ]


def test_what_spans_much_is_logarithmic_with_plain_numbers_and_a_share_is_not() -> None:
    wide = swept(3, panels=1).assign(x=lambda frame: 10.0 ** frame["x"], value=lambda frame: 10.0 ** frame["x"])
    for axis, unit, scales in (
        ("weight", "queries", ("log", "log")),
        ("success (%)", "accuracy (%)", ("linear", "linear")),
    ):
        with printing():
            figure = kinds.tracks(wide.assign(axis=axis, unit=unit))
            figure.draw_without_rendering()
        (ax,) = figure.axes
        assert (ax.get_xscale(), ax.get_yscale()) == scales
        assert "1,000" in [tick.get_text() for tick in ax.get_xticklabels()] or scales == ("linear", "linear")


def test_a_value_that_is_void_leaves_its_place_on_the_axis() -> None:
    both = pd.concat([swept(2, panels=1), swept(1, panels=1).assign(unit="another (%)")])
    one, other = kinds.tracks(both).axes
    assert one.get_xlim() == other.get_xlim()


# --- looks ------------------------------------------------------------------------------------------------------------

DEUTERANOPE = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]
"""Machado et al. 2009."""
GREY = [[0.299, 0.587, 0.114]]


@pytest.mark.parametrize("eye", [DEUTERANOPE, GREY], ids=["deuteranope", "grey print"])
def test_series_are_told_apart_by_more_than_colour(eye: list[list[float]]) -> None:
    """Dots by their marker or, of equal ones, by a colour that this eye tells apart; lines by marker and dash alone."""
    from matplotlib.colors import to_rgb

    names = [f"s{i:02}" for i in range(LIMITS["series"])]
    looks = list(looks_of(pd.DataFrame({"series": names})).values())
    for one, other in combinations(looks, 2):
        apart = np.abs(np.subtract(*(np.array(eye) @ to_rgb(look["color"]) for look in (one, other)))).max()
        assert one["marker"] != other["marker"] or apart > 0.1, (one, other)
        assert (one["marker"], one["linestyle"]) != (other["marker"], other["linestyle"])


def test_numbers_below_one_are_short_enough_for_a_map_of_ten_classes() -> None:
    frame = mapped(names=PLAIN[:1], panels=1).assign(
        label=[*range(9)], column=0, value=[-0.251, 0.5, 1, 0, 0, 0, 0, 0, 0]
    )
    (ax, _) = kinds.heatmap(frame.assign(unit="cosine (-1..1)")).axes
    assert [text.get_text() for text in ax.texts][:4] == ["-.25", ".50", "1.00", ".00"]


def test_the_numbers_of_a_map_stand_out_from_its_colours() -> None:
    """WCAG 2, large text: 3 to 1, for every colour of the scale."""
    from matplotlib.colors import to_rgb

    def luminance(colour: Any) -> float:
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
        return float(np.dot([0.2126, 0.7152, 0.0722], linear))

    frame = mapped(names=PLAIN[:3], panels=1, seeds=1).assign(value=lambda frame: np.linspace(0, 100, len(frame)))
    (ax, _) = kinds.heatmap(frame).axes
    (mesh,) = ax.findobj(QuadMesh)
    colours = mesh.to_rgba(mesh.get_array()).reshape(-1, 4)
    texts = [text for text in ax.texts if text.get_text()]
    assert len(texts) == len(frame)
    for text, shade in zip(texts, colours, strict=True):
        low, high = sorted((luminance(text.get_color()), luminance(shade[:3])))
        assert (high + 0.05) / (low + 0.05) >= 4.5


def test_a_map_of_many_schemes_is_as_wide_as_a_page_and_names_them_all() -> None:
    def names_of(count: int, panels: int = 1) -> tuple[float, list[str]]:
        frame = mapped(panels=panels, seeds=1, names=tuple(f"scheme-{number}" for number in range(count)))
        figure = kinds.heatmap(frame)
        return figure.get_figwidth(), [text.get_text() for text in figure.axes[0].get_xticklabels()]

    assert names_of(4) == (COLUMN, [f"scheme-{number}" for number in range(4)])
    assert names_of(23) == (PAGE, [f"scheme-{number}" for number in range(23)])
    assert names_of(40, panels=2)[0] == PAGE  # of which each panel has half


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "style"),
    [(kind, "png") for kind in FRAMES if " " not in kind]
    + [(kind, style) for kind in ("histogram", "heatmap") for style in ("pdf", "svg")],  # hatches and meshes
)
def test_a_file_depends_on_the_numbers_alone(kind: str, style: str, tmp_path: Path) -> None:
    from matplotlib import pyplot, rc_context, rcParams

    draw, make = FRAMES[kind]
    frame = make(names=PLAIN[:1], panels=1)
    for name, size in (("one", 9), ("two", 30)):
        with rc_context({"font.size": size, "axes.facecolor": "red"}):  # the caller's own style
            before = dict(rcParams)
            print_to(tmp_path / f"{name}.{style}", frame, draw, "A title of $5", dpi=40)
            assert dict(rcParams) == before
    assert (tmp_path / f"one.{style}").read_bytes() == (tmp_path / f"two.{style}").read_bytes()
    assert not pyplot.get_fignums(), "nothing is kept"


def test_a_bitmap_and_a_drawing_are_a_column_wide(tmp_path: Path) -> None:
    for style in ("png", "svg"):
        print_to(tmp_path / f"picture.{style}", rows(panels=1), kinds.dots, "A title")
    assert imread(tmp_path / "picture.png").shape[1] == 300 * COLUMN
    assert f'width="{72 * COLUMN:g}pt"' in (tmp_path / "picture.svg").read_text("utf-8")


def test_a_picture_of_more_than_it_holds_shows_some_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    titles: list[str] = []
    monkeypatch.setattr(
        Figure, "savefig", lambda figure, path, **_: path.touch() or titles.append(figure.get_suptitle())
    )
    many = swept(1, names=tuple(f"s{i:02}" for i in range(30)), seeds=1, panels=14)
    print_to(tmp_path / "picture.png", many, kinds.tracks, "A title")
    assert titles[0].replace("\n", " ") == "A title (12 of 14 panels, 18 of 30 series)"


def test_what_takes_more_than_a_page_goes_on_and_nothing_is_lost() -> None:
    frame = rows(panels=6)
    sheets = kinds.sheets(frame, kinds.dots)
    assert 1 < len(sheets) <= SHEETS
    pd.testing.assert_frame_equal(pd.concat(sheets).sort_index(), frame)
    assert not any(set(one["panel"]) & set(other["panel"]) for one, other in combinations(sheets, 2))
    assert all(kinds.dots(sheet).get_figheight() < 1.2 * HEIGHT for sheet in sheets)
    assert len(kinds.sheets(rows(panels=1, names=PLAIN[:1]), kinds.dots)) == 1


# --- a paper's --------------------------------------------------------------------------------------------------------


def strips() -> pd.DataFrame:
    made = rows(panels=1, paper_low=20.0, paper_high=60.0).assign(panel="", series="ours, a dot a seed")
    return pd.concat(
        [made.assign(unit=unit) for unit in ("accuracy (%)", "success (%)", "cost (points)", "a rate (%)")]
    )


PAPERS: dict[str, Callable[[], pd.DataFrame]] = {
    "strips": strips,
    "sweep": lambda: swept(3, panels=1).assign(panel=""),
    "scatter": lambda: rows(panels=1).assign(panel=""),
    "histogram": lambda: shares(panels=1),
    "points": lambda: shares(panels=1).drop(columns="seed").assign(x=lambda frame: frame["value"][::-1].to_numpy()),
    "heatmap": lambda: mapped(panels=1),
    "curves": lambda: swept(20, panels=1).assign(panel=""),
    "queries": lambda: frames_module.KINDS["queries"](Picture("queries"), [], None),
    "plane": lambda: frames_module.KINDS["plane"](Picture("plane"), [], None),
}


def test_every_kind_of_picture_has_its_numbers_and_its_drawing() -> None:
    assert set(kinds.KINDS) == set(frames_module.KINDS) == set(KINDS_OF_PAPERS) == set(PAPERS)


@pytest.mark.parametrize("kind", PAPERS)
def test_a_papers_picture_is_1200_pixels_wide_with_its_numbers_beside_it(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.papers.quantities.TRIALS", 100)
    frame = PAPERS[kind]().reset_index(drop=True)
    frame.attrs.update({"n": "inputs"} if kind == "points" else {})
    kinds.draw(kind, frame, "figure-0: what it shows, in some words", tmp_path / "in" / "picture.png")
    image = imread(tmp_path / "in" / "picture.png")
    assert image.shape[1] == 1200 and image.std() > 0.01
    pd.testing.assert_frame_equal(
        pd.read_csv(tmp_path / "in" / "picture.csv", keep_default_na=False, na_values=["nan"]), frame, check_dtype=False
    )


@pytest.mark.parametrize("kind", sorted(set(PAPERS) - {"plane", "queries"}))
def test_a_paper_of_which_nothing_was_run_has_no_numbers(kind: str, tmp_path: Path) -> None:
    read = Tables(tmp_path).read
    cells = score(read("cells"), read_evidence(Tables(tmp_path)), Rules()).assign(x=0.0, series="", source=0, target=0)
    measurements, curves = read("measurements"), read("curves").assign(cell="")
    frames = Frames(cells, read("detections"), measurements, curves)
    picture = Picture(kind, x="defense.weight", y=("surrogate_success",))
    assert frames_module.KINDS[kind](picture, [], frames).empty


def test_a_papers_panels_of_the_same_labels_stand_side_by_side() -> None:
    with printing():
        # Numbers with many digits, on axes that are narrow.
        frame = strips().assign(value=lambda frame: 99.1 + frame["value"] / 105, paper_low=99.6, paper_high=99.9)
        figure = kinds.dots(frame, PAGE)
        figure.draw_without_rendering()
        ticks_stand_apart(figure)
    axes = figure.axes
    tops = [round(ax.get_position().y1, 2) for ax in axes]
    assert tops[0] == tops[1] == tops[2] > tops[3]
    assert all(not tick.label1.get_visible() for tick in axes[1].yaxis.get_major_ticks())


# --- from tables ------------------------------------------------------------------------------------------------------

SMALL = "digits[train=600,epochs=5,pretrain=3,batch_size=32,learning_rate=0.003]"
"""As few as leave models of which some keep a part of their mark."""
PAIR = SMALL.replace("]", ",source=3,target=5]")
RULES = Rules(max_drop=1.0)
"""By which all count: what was pruned, and trained so little, is far less accurate than the unmarked models."""


class Padded:
    """Tables in which every unmarked model, attacked and not, and every innocent one is there as often as verdicts
    take: training nineteen would take minutes."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables

    def read(self, table: str, columns: Any = None) -> pd.DataFrame:
        return self.tables.read(table, columns)

    def coded(self, *asked: Any, **where: Any) -> pd.DataFrame:
        rows = self.tables.coded(*asked, **where)
        models = rows["suspect"].isin(["null", "attacked"])
        more = [rows[models].assign(index=lambda part, k=k: part["index"] + 2 * k) for k in range(1, 10)]
        fresh = rows[models & (rows["index"] == 0)]
        fresh = fresh.assign(suspect="fresh", arm="unmarked").drop_duplicates(["cell", "suspect", "index"])
        made = pd.concat([rows.astype({"suspect": str, "arm": object}), *more, fresh], ignore_index=True)
        return made.astype({"suspect": "category", "arm": "category"})


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What allows every picture."""
    folder = tmp_path_factory.mktemp("figures") / "results"
    run = ("run", "--matrix", "smoke", "--nulls", "2", "--quiet", "--results", folder)
    schemes = ("--defense", "ewe[weight=10]", "--defense", "ewe[weight=1000]")
    attacks = (
        "none",
        "retraining",
        "retraining[queries=100]",
        "pruning[fraction=0.2]",
        "pruning[fraction=0.6]",
        "trigger-refusal",
        "jsma",
    )
    chosen = [word for attack in attacks for word in ("--attack", attack)]
    assert not command_line(*run, "--dataset", SMALL, *schemes, *chosen, "--analysis", "*", "--seeds", "0")
    chosen = ["--defense", "ewe[weight=10]", "--attack", "retraining", "--analysis", "class-similarity"]
    assert not command_line(*run, "--dataset", PAIR, *chosen, "--seeds", "0-1")
    return folder


@pytest.fixture(scope="module")
def shown(results: Path) -> Shown:
    return Shown(Padded(Tables(results)), load_registry(()).component, RULES)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def collected(shown: Shown) -> dict[str, pd.DataFrame]:
    return collect(shown)


@pytest.mark.parametrize("name", PICTURES)
def test_a_folder_that_has_everything_allows_every_picture(name: str, collected: dict[str, pd.DataFrame]) -> None:
    frame = collected[name]
    assert len(frame) and np.isfinite(frame["value"].astype(float)).all()
    with printing():
        figure = PICTURES[name].draw(frame, COLUMN)
    assert all(ax.get_xlabel() for ax in panels(figure)) or name == "matrix"
    units = [ax.get_xlabel() + ax.get_ylabel() for ax in figure.axes]
    assert any("(" in unit or "queries" in unit or unit.startswith("CKA") for unit in units), units


def test_no_picture_needs_what_an_empty_folder_lacks_and_each_says_what(tmp_path: Path) -> None:
    made = collect(Shown(Tables(tmp_path), load_registry(()).component))
    assert all(frame.empty for frame in made.values()) and set(made) == set(PICTURES)


@pytest.mark.parametrize("name", PICTURES)
def test_what_a_picture_needs_is_a_command_to_type(name: str, cli: Cli) -> None:
    import shlex

    _, command = PICTURES[name].needs.split(": harness run ")
    planned = cli("run", *shlex.split(command), "--dry-run", code=0)
    assert "cells" in planned.out


def test_dots_are_the_cells_that_count(shown: Shown, collected: dict[str, pd.DataFrame]) -> None:
    counting = shown.cells[shown.cells["counts"] & (shown.cells["kind"] != "detection")]
    assert len(counting) == len(collected["success"]) == len(collected["matrix"])
    rate = counting["surrogate_trigger_matches"] / counting["surrogate_trigger_trials"]
    for name in ("success", "matrix", "frontier"):
        made = collected[name] if name != "frontier" else collected[name][collected[name]["line"] == ""]
        np.testing.assert_allclose(np.sort(made["value"]), np.sort(100 * rate.astype(float)))


def test_a_scheme_looks_the_same_in_every_picture(collected: dict[str, pd.DataFrame]) -> None:
    whole = collected["success"]
    schemes = sorted(set(whole["series"]))
    alone = whole[whole["series"] == schemes[-1]]
    assert len(schemes) > 1 and looks_of(alone) == {schemes[-1]: looks_of(whole)[schemes[-1]]}
    sheet, *_ = kinds.sheets(alone, kinds.dots)
    assert looks_of(limited(sheet)[0]) == looks_of(alone), "also where a picture is cut short"


def test_the_attackers_front_is_of_extractions_and_removals(shown: Shown, collected: dict[str, pd.DataFrame]) -> None:
    counting = shown.cells[shown.cells["counts"]]
    assert {"none", "survival", "evasion"} <= set(counting["kind"])
    means = counting.groupby(["dataset", "defense", "kind", "attack"])["surrogate_trigger"].mean()
    frame = collected["frontier"]
    for (panel, series), front in frame[frame["line"] != ""].groupby(["panel", "series"]):
        reached = 100 * means[panel, series, "survival"].to_numpy()
        assert all(np.isclose(reached, value).any() for value in front["value"])


def test_the_hypervolume_is_the_leaderboards(shown: Shown, collected: dict[str, pd.DataFrame]) -> None:
    read = shown.tables.read
    board = make_board(read("cells"), read_evidence(shown.tables), read("detections"), read("stages"), RULES)
    ours = collected["hypervolume"].groupby(["panel", "series"])["value"].mean()
    theirs = {(each.dataset, each.defense): each.hypervolume.mean for each in board.schemes if each.hypervolume}
    assert dict(ours) == pytest.approx(theirs) and len(theirs) == 3


def test_levels_and_intervals_are_drawn_in_the_row_of_their_series() -> None:
    frame = rows(panels=1, low=10.0, high=90.0, unmarked=12.0).assign(attacked=np.nan)
    (ax,) = kinds.dots(frame).axes
    count = len(frame.groupby(["label", "series"]))
    ends = [tuple(line.get_xdata()) for line in ax.lines]
    assert ends.count((10.0, 90.0)) == ends.count((12.0, 12.0)) == count
    (few,) = kinds.dots(frame.assign(low=np.nan, high=np.nan)).axes
    assert not any(line.get_linewidth() == 0.7 for line in few.lines), "dots alone below five seeds"


def test_margins_have_the_leaderboards_intervals_and_failed_attacks_their_victims(shown: Shown) -> None:
    made = collect(shown, ["margin"])["margin"]
    assert made["low"].isna().all(), "of so few seeds there is no interval"
    assert len(made) == (shown.cells["status"].eq("ok") & shown.cells["kind"].ne("detection")).sum()
    strict = Shown(shown.tables, shown.lookup, Rules(max_drop=0.0))
    failed = strict.cells[~strict.cells["useful"] & strict.cells["kind"].eq("survival")]
    drawn = collect(strict, ["margin"])["margin"].set_index(["panel", "series", "label", "seed"])["value"]
    for row in failed.itertuples():
        found = drawn[row.dataset, row.defense, row.attack, row.seed]
        assert found == pytest.approx(100 * row.victim_margin)
    assert len(failed)


def test_unmarked_models_answers_are_beside_each_success(shown: Shown, collected: dict[str, pd.DataFrame]) -> None:
    made = collected["success"].set_index(["panel", "series", "label", "seed"])
    for row in shown.cells[shown.cells["counts"] & shown.cells["kind"].ne("detection")].itertuples():
        found = made.loc[(row.dataset, row.defense, row.attack, row.seed)]
        assert found["unmarked"] == pytest.approx(100 * row.null_trigger)
        assert np.isnan(found["attacked"]) == (row.attack == "none")


def test_steps_are_where_what_the_points_dominate_ends() -> None:
    draw = np.random.default_rng(0)
    for size in (1, 2, 7, 40):
        points = draw.integers(0, 12, (size, 2)).astype(float)
        corners = catalogue._steps(points)
        assert (np.diff(corners[:, 0]) >= 0).all() and (np.diff(corners[:, 1]) <= 0).all()
        assert ((np.diff(corners, axis=0) == 0).any(axis=1)).all(), "across or down, never both"
        for x, y in corners:
            assert any((point >= (x, y)).all() for point in points), "reached"
            assert not any((point > (x, y)).all() for point in points), "not beyond"
        area = np.sum(np.diff(corners[:, 0], prepend=0.0) * corners[:, 1])
        assert area == pytest.approx(hypervolume(points, (0.0, 0.0)))


def test_a_sweep_is_of_cells_that_differ_in_one_number(shown: Shown, collected: dict[str, pd.DataFrame]) -> None:
    found = {
        kind: [(name, option) for name, option, _ in shown.swept(kind)] for kind in ("dataset", "defense", "attack")
    }
    assert found == {"dataset": [], "defense": [("ewe", "weight")], "attack": [("pruning", "fraction")]}
    sweep = collected["sweep"]
    assert set(sweep["axis"]) == {"weight of ewe"} and set(sweep["x"]) == {10, 1000} and set(sweep["panel"]) == {SMALL}
    assert {"surrogate success (%)", "victim accuracy (%)", "false rate (%)", "CKA"} <= set(sweep["unit"])
    assert not any("weight" in name for name in sweep["series"]) and "ewe, retraining" in set(sweep["series"])
    victims = sweep[sweep["unit"] == "victim accuracy (%)"]
    assert len(victims) == 2, "a victim is one observation, whatever attacks it"
    table = shown.tables.read("measurements").query("quantity == 'cka' and attack == 'none'")
    own = sweep[sweep["unit"] == "CKA"].set_index("x")["value"]
    assert len(own) == 2 and dict(own) == pytest.approx(
        {x: table[table["defense"] == f"ewe[weight={x}]"]["value"].mean() for x in (10.0, 1000.0)}
    )
    assert "pruning" in set(shown.cells["attack"]), "one of the values is the default, and not in the text"
    assert set(collected["pruning"]["x"]) == {0.2, 0.6}
    assert set(collected["pruning"]["panel"]) == {f"{SMALL}: pruning"}


def test_rules_decide_what_counts_and_how_it_is_tested(results: Path, shown: Shown) -> None:
    def made(rules: Rules, name: str) -> pd.DataFrame:
        return collect(Shown(shown.tables, shown.lookup, rules), [name])[name]

    # Whatever the drop, an untouched victim is useful: attacked ones are not.
    assert set(made(Rules(max_drop=0.0), "success")["label"]) < set(made(RULES, "success")["label"])
    loose, strict = (made(Rules("binomial", c, max_drop=1.0), "budget")["value"] for c in (0.8, 0.999))
    assert (loose >= strict).all() and (loose > strict).any()
    assumed, pooled = (made(Rules("binomial", max_drop=1.0, fpr=fpr), "budget")["value"] for fpr in (0.01, None))
    assert not np.allclose(assumed, pooled) and not np.allclose(pooled, made(RULES, "budget")["value"])
    assert not np.allclose(made(Rules("t", max_drop=1.0), "budget")["value"], pooled)


def test_a_budget_is_the_mean_chance_of_a_verdict_over_attacks(
    shown: Shown, collected: dict[str, pd.DataFrame]
) -> None:
    from scipy.stats import binom

    made = collected["budget"].query("panel == @SMALL and series == 'ewe[weight=10.0]'")
    assert list(made["x"]) == list(catalogue.BUDGETS)
    rows = shown.cells[(shown.cells["dataset"] == SMALL) & (shown.cells["defense"] == "ewe[weight=10.0]")]
    rows = rows[rows["attack"].isin(["retraining", "retraining[queries=100]", "pruning", "pruning[fraction=0.6]"])]
    false, limits = rows["false_rate"], rows["to_exceed"]
    assert (limits >= false + 0.1 * (1 - false) - 1e-9).all()
    chances = [
        binom.sf(np.floor(made["x"] * limit + 1e-9), made["x"], rate)
        for limit, rate in zip(limits, rows["surrogate_trigger"], strict=True)
    ]
    np.testing.assert_allclose(made["value"], 100 * np.mean(chances, axis=0))


def edited(shown: Shown, name: str, edit: Callable[[pd.DataFrame], pd.DataFrame]) -> pd.DataFrame:
    """The numbers of a picture, had the table of cells been another."""

    class Edited:
        def read(self, table: str, columns: Any = None) -> pd.DataFrame:
            made = shown.tables.read(table, columns)
            return edit(made) if table == "cells" else made

        coded = shown.tables.coded

    return collect(Shown(Edited(), shown.lookup, RULES), [name])[name]  # type: ignore[arg-type]


def test_a_tradeoff_is_over_the_attacks_that_all_schemes_have(shown: Shown) -> None:
    def without(cells: pd.DataFrame) -> pd.DataFrame:
        return cells[(cells["defense"] != "ewe[weight=10.0]") | (cells["attack"] != "retraining")]

    made = edited(shown, "tradeoff", without)
    rows = shown.cells[(shown.cells["dataset"] == SMALL) & shown.cells["attack"].str.startswith("pruning")]
    expected = 100 * rows.groupby("defense")["surrogate_trigger"].mean()
    dots = made[(made["line"] == "") & (made["panel"] == SMALL)].set_index("series")["value"]
    assert len(dots) == 2 and dict(dots) == pytest.approx(dict(expected))
    assert set(made["line"]) == {"", "front of the schemes' means"}


def test_other_options_of_attacks_are_swept_and_are_no_pruning(shown: Shown) -> None:
    names = {"retraining": "retraining[epochs=7]", "trigger-refusal": "retraining[epochs=9]"}

    def renamed(cells: pd.DataFrame) -> pd.DataFrame:
        return cells.assign(attack=cells["attack"].replace(names), options=None)

    sweep = edited(shown, "sweep", renamed).query("axis == 'epochs of retraining'")
    assert set(sweep["x"]) == {7, 9} and set(sweep["unit"]) == {"surrogate success (%)", "surrogate accuracy (%)"}
    assert set(sweep["series"]) == {f"ewe[weight={weight}.0], retraining" for weight in (10, 1000)}
    assert set(edited(shown, "pruning", renamed)["x"]) == {0.2, 0.6}


def test_pairs_are_datasets_that_differ_in_their_classes_alone(collected: dict[str, pd.DataFrame]) -> None:
    found = collected["pairs"]
    assert set(zip(found["label"], found["column"], strict=True)) == {(1, 7), (3, 5)}
    assert set(found["panel"]) == {f"{SMALL}: ewe[weight=10.0], retraining"}
    alike = collected["similarity"]
    assert alike["x"].nunique() == 2 and len(alike) == len(found) == 3


def test_null_models_stand_beside_a_detectors_findings_once(shown: Shown, collected: dict[str, pd.DataFrame]) -> None:
    found = collected["detections"]
    assert (found["label"] == "unmarked models").sum() == 2 and len(found) == 2 + 2
    assert len(collected["window-ranks"]) == 2 and collected["window-ranks"]["value"].between(0, 100).all()


def test_analyses_are_of_victims_and_of_one_layer_where_they_would_mix(collected: dict[str, pd.DataFrame]) -> None:
    assert set(collected["activations"]["layer"]) == {"dense"}
    assert set(collected["activations"]["panel"]) == {f"{SMALL}: ewe[weight={w}.0], 128 neurons" for w in (10, 1000)}
    assert set(collected["projection"]["series"]) == {"trigger", "target", "source", "other"}
    assert set(collected["cka"]["label"]) == {"conv1", "conv2", "dense"}
    similarity = collected["class-similarity"]
    same = similarity[similarity["label"] == similarity["column"]].groupby("panel")["value"].mean()
    assert (same > similarity.groupby("panel")["value"].mean()).all()


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_draws_what_the_tables_allow_and_says_what_they_lack(results: Path, cli: Cli) -> None:
    """Two unmarked models allow no verdicts by the rank test."""
    listed = cli("figures", "--results", results, "--list", "--max-drop", "1", code=0).out
    needs = "attacked cells with verdicts: harness run --matrix smoke --nulls 19"
    assert f"budget           no: it needs {needs}" in listed
    assert "verified" not in listed and "null model" not in listed
    assert len(listed.splitlines()) == len(PICTURES) and not (results / "figures").exists()
    chosen = ("--only", "cost", "--only", "budget", "--max-drop", "1", "--test", "t", "--format", "pdf")
    said = cli("figures", "--results", results, *chosen, code=0)
    assert "budget.pdf, cost.pdf" in said.out and not said.err
    assert sorted(path.name for path in (results / "figures").iterdir()) == ["budget.pdf", "cost.pdf"]
    assert not list(results.glob(".figures*"))
    assert f"budget: not drawn: it needs {needs}" in cli("figures", "--results", results, *chosen[:6], code=0).err


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--only", "curve"), "unknown figure 'curve'. Did you mean 'curves'?"),
        (("--fpr", "2"), "fpr must be at least 0 and below 1, not 2.0"),
        (("--fpr", "0.1", "--test", "t"), "type --test binomial"),
        (("--confidence", "1"), "confidence must be between 0 and 1, not 1.0"),
        (("--max-drop", "-1"), "max-drop must be in 0..1, not -1.0"),
    ],
)
def test_a_mistake_is_one_line(results: Path, cli: Cli, args: tuple[str, ...], said: str) -> None:
    ended = cli("figures", "--results", results, *args, code=2)
    assert said in ended.err and ended.err.count("\n") == 1
