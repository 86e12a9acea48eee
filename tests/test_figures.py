"""Pictures: every kind draws, says what it shows and how much of it, and gives the same bytes every time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from harness import drawn, figures
from harness.figures import KINDS, draw
from harness.published import PICTURES, Picture
from tests.conftest import TINY, Cli


def strips() -> pd.DataFrame:
    rows = [
        *(("MNIST: baseline", "surrogate success", "%", s, v, 0.3, 5.9) for s, v in enumerate([1.0, 4.0, 2.5])),
        *(("MNIST: EWE", "surrogate success", "%", s, v, 33.6, 89.3) for s, v in enumerate([10.0, 90.0, 45.0])),
        *(("MNIST: EWE", "victim accuracy", "%", s, v, np.nan, np.nan) for s, v in enumerate([97.0, 96.0, 98.0])),
        *(("all", "surrogate success", "%", s, v, 38.0, np.inf) for s, v in enumerate([20.0, 60.0, 50.0])),
        *(("cost", "accuracy cost", "points", s, v, -np.inf, 0.81) for s, v in enumerate([0.2, 1.0, 0.5])),
    ]
    return pd.DataFrame(rows, columns=["label", "quantity", "unit", "seed", "value", "paper_low", "paper_high"])


def sweep() -> pd.DataFrame:
    rows = [
        (x, series, seed, quantity, "%", 100 - 50 * x + seed)
        for series in ("mnist: ewe, retraining | pruning", "mnist: baseline, retraining | pruning")
        for quantity in ("surrogate success", "surrogate accuracy")
        for x in (0.0, 0.2, 0.9)
        for seed in (0, 1)
    ]
    made = pd.DataFrame(rows, columns=["x", "series", "seed", "quantity", "unit", "value"])
    made.attrs["x"] = "attack's fraction"
    return made


def histogram() -> pd.DataFrame:
    draw_ = np.random.default_rng(0)
    rows = [
        ("dense", group, k, float(draw_.uniform()), panel, seed)
        for panel in ("mnist: ewe", "mnist: baseline")
        for group in ("task", "trigger")
        for seed in (0, 1)
        for k in range(16)
    ]
    return pd.DataFrame(rows, columns=["layer", "group", "index", "value", "panel", "seed"])


def points() -> pd.DataFrame:
    draw_ = np.random.default_rng(0)
    rows = [
        (group, k, *draw_.normal(size=2), panel)
        for panel in ("mnist: ewe", "mnist: baseline")
        for group in ("trigger", "target", "source", "other")
        for k in range(10)
    ]
    return pd.DataFrame(rows, columns=["group", "index", "x", "y", "panel"])


def heatmap() -> pd.DataFrame:
    rows = [("mnist: ewe", s, t, 10.0 * s, 2) for s in range(10) for t in range(10) if s != t]
    return pd.DataFrame(rows, columns=["panel", "source", "target", "mean", "count"])


def curves() -> pd.DataFrame:
    rows = [
        (epoch, quantity, series, seed, 1 - 1 / epoch)
        for series in ("mnist: ewe", "mnist: baseline")
        for quantity in ("accuracy", "success", "snnl:dense")
        for seed in (0, 1)
        for epoch in range(1, 6)
    ]
    return pd.DataFrame(rows, columns=["epoch", "quantity", "series", "seed", "value"])


DATA = {
    "strips": strips,
    "sweep": sweep,
    "scatter": lambda: sweep()[lambda frame: frame["quantity"] == "surrogate success"],
    "histogram": histogram,
    "points": points,
    "heatmap": heatmap,
    "curves": curves,
    "queries": lambda: drawn.KINDS["queries"](Picture("queries"), [], None),
    "plane": lambda: drawn.KINDS["plane"](Picture("plane"), [], None),
}


def texts(figure: Figure) -> str:
    parts = [ax.get_xlabel() + ax.get_ylabel() + ax.get_title() + ax.get_title("left") for ax in figure.axes]
    return " ".join([*parts, *(text.get_text() for legend in figure.legends for text in legend.get_texts())])


def test_every_kind_of_picture_has_its_numbers_and_its_drawing() -> None:
    assert set(KINDS) == set(drawn.KINDS) == set(DATA) == set(PICTURES)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_picture_is_1200_pixels_wide_and_the_same_every_time(kind: str, tmp_path: Path) -> None:
    from matplotlib import pyplot, rcParams

    before = dict(rcParams)
    for name in ("one", "two"):
        draw(kind, DATA[kind](), "figure-0: what it shows, in some words", tmp_path / name / "picture.png")
    assert (tmp_path / "one" / "picture.png").read_bytes() == (tmp_path / "two" / "picture.png").read_bytes()
    image = imread(tmp_path / "one" / "picture.png")
    assert image.shape[1] == 1200 and image.std() > 0.01
    pd.testing.assert_frame_equal(
        pd.read_csv(tmp_path / "one" / "picture.csv"), DATA[kind]().reset_index(drop=True), check_dtype=False
    )
    assert not pyplot.get_fignums() and dict(rcParams) == before, "pyplot's state is the caller's"


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_axis_that_is_shown_is_labelled(kind: str) -> None:
    figure = KINDS[kind](DATA[kind]())
    shown = [ax for ax in figure.axes if ax.get_visible()]
    assert all(ax.get_xlabel() or ax.get_ylabel() for ax in shown)
    if kind not in ("queries", "plane"):
        assert "n = " in texts(figure)


def test_units_seeds_and_the_paper_are_named() -> None:
    said = texts(figures.strips(strips()))
    for part in ("surrogate success (%)", "accuracy cost (points)", "n = 3 seeds", "the paper", "our mean"):
        assert part in said, part
    said = texts(figures.sweep(sweep()))
    for part in ("attack's fraction", "surrogate accuracy (%)", "n = 2 seeds", "mnist: baseline, retraining | pruning"):
        assert part in said, part


def test_a_wide_sweep_is_logarithmic() -> None:
    data = sweep()
    assert {ax.get_xscale() for ax in figures.sweep(data).axes} == {"linear"}
    data["x"] = data["x"] * 1000 + 1
    assert {ax.get_xscale() for ax in figures.sweep(data).axes} == {"log"}


def test_one_seed_and_one_row_will_do() -> None:
    for kind in ("strips", "sweep", "histogram", "points", "heatmap", "curves"):
        KINDS[kind](DATA[kind]().iloc[:1])


# --- for print --------------------------------------------------------------------------------------------------------


SEEDS = (0, 1, 2)
NAMES = ("baseline", "baseline[placement=gradient,width=3]", "ewe[variant=official,weight=64.0]", "adi")


def _rows(**more: object) -> pd.DataFrame:
    draw_ = np.random.default_rng(0)
    rows = [
        {"panel": f"digits[{'train=200,holdout=100,epochs=2' if p else 'epochs=3'}]", "label": label, "group": label,
         "series": name, "seed": seed, "x": x, "value": float(draw_.uniform(1, 100)), "unit": "what it is (%)"}
        for p in (0, 1) for label in ("none", "retraining[answers=soft] | pruning[fraction=0.6]")
        for name in NAMES for seed in SEEDS for x in (10.0,)
    ]  # fmt: skip
    return pd.DataFrame(rows).assign(**more)


def _tracks() -> pd.DataFrame:
    made = pd.concat([_rows(x=x).drop_duplicates(["panel", "series", "seed"]) for x in (0.1, 0.5, 0.9)])
    made.attrs["x"] = "epoch"
    return made


PRINTED = {
    "dots": _rows,
    "frontier": lambda: _rows().assign(x=lambda frame: frame["value"][::-1].to_numpy()),
    "tracks": _tracks,
    "against_budget": lambda: _tracks().drop(columns="seed"),
    "needed": lambda: pd.concat([_rows(), _rows(series="").assign(x=range(48))]),
    "matrix": lambda: _rows().drop_duplicates(["panel", "label", "series"]).drop(columns="seed"),
}


@pytest.mark.parametrize("kind", sorted(PRINTED))
def test_print_is_a_column_wide_readable_finite_and_uncut(kind: str) -> None:
    from matplotlib.text import Text

    with figures.printing():
        figure = getattr(figures, kind)(PRINTED[kind]())
        figure.canvas.draw()
    assert figure.get_figwidth() == figures.COLUMN
    assert all(text.get_fontsize() >= 7 for text in figure.findobj(Text) if text.get_text())
    drawn_ = figure.get_tightbbox()  # of all that is shown, in inches
    assert drawn_.x0 >= 0 and drawn_.y0 >= 0, "cut at the left or below"
    assert drawn_.x1 <= figures.COLUMN and drawn_.y1 <= figure.get_figheight(), "cut at the right or above"
    for ax in figure.axes:
        assert np.isfinite([*ax.get_xlim(), *ax.get_ylim()]).all()


@pytest.mark.parametrize("kind", ["dots", "frontier", "needed"])
def test_every_seed_is_drawn_once(kind: str) -> None:
    data = PRINTED[kind]()
    figure = getattr(figures, kind)(data)
    drawn_ = np.concatenate([dots.get_offsets() for ax in figure.axes for dots in ax.collections])
    real = data[data["series"] != ""]
    column = 0 if kind == "dots" else 1
    np.testing.assert_allclose(np.sort(np.ma.getdata(drawn_)[:, column]), np.sort(real["value"]))


@pytest.mark.parametrize("style", sorted(figures.FORMATS))
def test_what_is_printed_depends_on_the_numbers_alone(style: str, tmp_path: Path) -> None:
    for name in ("one", "two"):
        figures.print_to(tmp_path / f"{name}.{style}", _rows(), figures.dots, "A title")
    assert (tmp_path / f"one.{style}").read_bytes() == (tmp_path / f"two.{style}").read_bytes()


def test_series_are_told_apart_without_red_and_green() -> None:
    """Seen by a deuteranope (Machado et al. 2009), no two of ten series have both marker and nearly the same colour."""
    simulate = np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]
    )
    looks = list(figures._looks(pd.DataFrame({"series": [f"s{i}" for i in range(10)]})).values())
    seen = [simulate @ np.array(look["color"]) for look in looks]
    for i in range(10):
        for j in range(i):
            apart = float(np.abs(seen[i] - seen[j]).max())
            assert apart > 0.1 or looks[i]["marker"] != looks[j]["marker"], (i, j, apart)
            assert looks[i] != looks[j]


def test_the_command_draws_what_the_tables_allow_and_says_what_they_lack(tmp_path: Path, cli: Cli) -> None:
    chosen = ("--dataset", TINY, "--defense", "baseline", "--attack", "none", "--nulls", "1", "--quiet")
    cli("run", "--matrix", "smoke", *chosen, "--results", tmp_path, code=0)
    listed = cli("figures", "--results", tmp_path, "--list", code=0).out
    assert "detections   no: it needs detections: harness run --attack neural-cleanse" in listed
    assert not (tmp_path / "figures").exists()
    said = cli("figures", "--results", tmp_path, "--format", "pdf", "--only", "curves", "--only", "detections", code=0)
    assert "curves.pdf" in said.out and "detections: not drawn" in said.err
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["curves.pdf"]
    assert not list(tmp_path.glob(".figures*"))
    assert (
        "unknown figure 'curve'. Did you mean 'curves'?"
        in cli("figures", "--results", tmp_path, "--only", "curve", code=2).err
    )
