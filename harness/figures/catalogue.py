"""Pictures that a results folder allows: the numbers of each from the tables, or what the tables lack for it.

:mod:`harness.figures` draws them, as wide as a column of a paper.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd

from harness.errors import ResultsError, UnknownName
from harness.figures import kinds
from harness.figures.frames import PAIR, against, epochs, finite, frequencies, pairs, projected
from harness.figures.shown import Shown
from harness.figures.style import Kind as Drawing
from harness.figures.style import print_to
from harness.figures.verdicts import dots, innocents, margins, ranked
from harness.files import temporary_folder
from harness.papers.quantities import QUANTITIES, Frames, measured
from harness.planning.matrix import format_chain
from harness.ranking.frames import AXES, attack_means, chain_of, chances
from harness.statistics.pareto import hypervolume, pareto_front
from harness.storage.files import refuse_links, refuse_record
from harness.verdicts.families import NO_SURVIVAL, is_unmarked, of_each
from harness.verdicts.scoring import sequential_queries

if TYPE_CHECKING:
    from harness.planning.graph import Kind

BUDGETS = np.unique(np.geomspace(1, 1000, 40).astype(int)).tolist()
"""Numbers of queries that a verifier may have."""
SUCCESS = "trigger success of the surrogate (%)"


@dataclass(frozen=True)
class Picture:
    """One picture: what it shows, its numbers, how it is drawn, and what the tables lack where there are no numbers."""

    name: str
    title: str
    data: Callable[[Shown], pd.DataFrame]
    draw: Drawing
    needs: str


# --- what attacks leave -----------------------------------------------------------------------------------------------


def _success(shown: Shown) -> pd.DataFrame:
    """A dot a useful model, beside the mean success of unmarked models and of attacked ones."""
    rows = shown.counting.assign(label=shown.counting["attack"], value=shown.counting["surrogate_trigger"])
    rows = rows.assign(unmarked=rows["null_rate"], attacked=rows["attacked_rate"])
    return dots(rows, SUCCESS, ["unmarked", "attacked"])


def _matrix(shown: Shown) -> pd.DataFrame:
    rows = shown.counting.assign(label=shown.counting["attack"], column=shown.counting["series"], axis="", side="")
    rows = rows.assign(value=rows["surrogate_trigger"], unit="success (%)")
    return rows[["panel", "label", "column", "seed", "value", "axis", "side", "unit"]]


def _frontier(shown: Shown) -> pd.DataFrame:
    """A dot a cell, and for each scheme the steps between the extractions and removals of which no other leaves both
    more accuracy and less of the mark."""
    rows = shown.counting.assign(x=shown.counting["surrogate_accuracy"], value=shown.counting["surrogate_trigger"])
    lines = []
    for (dataset, defense), part in shown.cells[shown.cells["counts"]].groupby(["dataset", "defense"], sort=False):
        means = attack_means(part[~part["kind"].isin(NO_SURVIVAL)])
        front = means.loc[means["front"], ["accuracy", "success"]].to_numpy()
        if len(front):
            lines.append(_line(_steps(front * (1, -1)) * (1, -1), dataset, defense, "attackers' front"))
    return _scattered([rows.assign(line=""), *lines], "accuracy of the attacked model (%)", SUCCESS)


def _steps(points: Any) -> Any:
    """The corners of the steps along the front of points ``[n, 2]``, from small x to large: what they dominate ends
    there."""
    front = np.unique(points[pareto_front(points)], axis=0)
    corners = np.column_stack([front[:-1, 0], front[1:, 1]])
    return np.insert(front, np.arange(1, len(front)), corners, axis=0)


def _line(points: Any, panel: str, series: str, name: str) -> pd.DataFrame:
    x, value = points.T
    return pd.DataFrame({"panel": panel, "series": series, "line": name, "x": x, "value": value})


def _scattered(parts: Sequence[pd.DataFrame], axis: str, unit: str) -> pd.DataFrame:
    made = pd.concat([part for part in parts if len(part)] or list(parts), ignore_index=True)
    return made.assign(axis=axis, unit=unit).reindex(
        columns=["panel", "series", "line", "seed", "x", "value", "axis", "unit"]
    )


def _attained(shown: Shown) -> pd.DataFrame:
    """The leaderboard's hypervolume of each scheme and seed: the area that the attacks reach together."""
    rows = shown.counting[shown.counting["kind"] == "survival"].dropna(subset=["kept", "removed"])
    rows = ranked(shown, rows.assign(label=rows["series"]))
    keys = ["panel", "label", "series", "seed"]
    areas = rows.groupby(keys, sort=False)[["kept", "removed"]].apply(lambda part: hypervolume(part, (0.0, 0.0)))
    return dots(_named(areas, keys), "accuracy kept x mark removed (0..1)")


def _named(values: Any, keys: list[str]) -> pd.DataFrame:
    """A row each of what was made by groups, which may be none."""
    return values.rename("value").reset_index() if len(values) else pd.DataFrame(columns=[*keys, "value"])


def _tradeoff(shown: Shown) -> pd.DataFrame:
    """A dot a victim: its accuracy, and the mean success that removals and extractions leave of its mark; and the steps
    between the schemes that no other beats in both. Of attacks only those that all schemes of a dataset have."""
    rows = shown.counting[shown.counting["kind"] == "survival"]
    schemes = rows.groupby("panel")["series"].transform("nunique")
    rows = rows[rows.groupby(["panel", "attack"])["series"].transform("nunique") == schemes]
    keys = ["panel", "series", "seed"]
    named = {"x": ("victim_accuracy", "first"), "value": ("surrogate_trigger", "mean")}
    dots = rows.groupby(keys, sort=False).agg(**named).reset_index().assign(line="")
    means = dots.groupby(["panel", "series"], sort=False)[["x", "value"]].mean().dropna().reset_index()
    lines = [
        _line(_steps(part[["x", "value"]].to_numpy()), panel, "", "front of the schemes' means")
        for panel, part in means.groupby("panel", sort=False)
    ]
    return _scattered(
        [dots, *lines], "accuracy of the victim (%)", "mean trigger success after the attacks that all have (%)"
    )


# --- options ----------------------------------------------------------------------------------------------------------

ELSEWHERE = {"dataset": ("source", "target"), "defense": (), "attack": ("fraction",)}
"""Options that have pictures of their own."""
_LEFT = ("surrogate_success", "surrogate_accuracy")
_MADE = ("victim_accuracy", "null_success", "cka")


def _pruning(shown: Shown) -> pd.DataFrame:
    swept = [rows for _, option, rows in shown.swept("attack") if option == "fraction"]
    return _joined(
        against(
            shown.frames.of(rows.assign(panel=rows["dataset"] + ": " + rows["attack"], series=rows["defense"])),
            _LEFT,
            "pruned fraction of the units (0..1)",
        )
        for rows in swept
    )


def _sweep(shown: Shown) -> pd.DataFrame:
    """Success and accuracy at each value of every other option; of one that changes the victim, also the victim's."""
    parts = []
    for kind in AXES:
        for name, option, rows in shown.swept(cast("Kind", kind)):
            if option in ELSEWHERE[kind]:
                continue
            axis, rows = f"{option} of {name}", rows.assign(panel=rows["dataset"])
            attacked = rows[rows["kind"] != "none"]
            attacked = attacked.assign(series=attacked["defense"] + ", " + attacked["attack"])
            parts.append(against(shown.frames.of(attacked), _LEFT, axis))
            if kind != "attack":
                first = rows.sort_values("kind", key=lambda kinds: kinds != "none", kind="stable")
                victims = first.drop_duplicates(["dataset", "defense", "seed", "x"])
                victims = victims.assign(series=victims["defense"])
                parts.append(against(shown.frames.of(victims), _MADE, axis))
    made = _joined(parts)
    # What is known at one value alone is no sweep.
    return made[made.groupby(["panel", "axis", "unit"])["x"].transform("nunique") > 1] if len(made) else made


def _joined(parts: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Frames in one, which counts what the first does."""
    some = [part for part in parts if len(part)]
    made = pd.concat(some, ignore_index=True) if some else pd.DataFrame({"value": []})
    made.attrs = some[0].attrs if some else {}
    return made


# --- queries ----------------------------------------------------------------------------------------------------------

_COPIED = ("surrogate_accuracy", "agreement", "margin")


def _extraction(shown: Shown) -> pd.DataFrame:
    """Accuracy, agreement and margin of copies at each number of queries, of extractions that had two budgets."""
    rows = shown.frames.cells
    single = np.array([len(chain_of(attack)) == 1 for attack in rows["attack"]], dtype=bool)
    rows = rows[single & (rows["family"] == "extraction").to_numpy()]
    panels = [f"{row.dataset}: {row.attack.partition('[')[0]}" for row in rows.itertuples()]
    rows = rows.assign(panel=panels, series=rows["defense"], x=rows["queries"])
    rows = rows[rows.groupby("panel")["x"].transform("nunique") > 1]
    return against(shown.frames.of(rows), _COPIED, "queries that the thief asked")


def _needed(shown: Shown) -> pd.DataFrame:
    """A dot a model that has a verdict; the line is at the median of the keys' thresholds."""
    rows = shown.counting.assign(x=shown.counting["surrogate_trigger"], value=shown.counting["queries_needed"])
    rows = finite(rows)
    parts = [rows.assign(line="")]
    for panel, own in rows.groupby("panel", sort=False):
        limit = float(own["to_exceed"].median())
        rates = np.linspace(limit, 1, 60)[1:-1]
        curve = sequential_queries(rates, np.full(rates.shape, limit), shown.rules.gamma)
        parts.append(_line(np.column_stack([100 * rates, curve]), panel, "", "at the median threshold"))
    return _scattered(parts, SUCCESS, "queries of a sequential test, expected")


def _budget(shown: Shown) -> pd.DataFrame:
    """The chance that a model is called marked with so many queries, at the rates measured: the mean over attacks."""
    named = chances(shown.cells, BUDGETS, shown.rules).rename(columns={"dataset": "panel", "defense": "series"})
    made = named.groupby(["panel", "series", "seed", "x"], sort=False)["value"].mean().mul(100).reset_index()
    return made.assign(axis="queries that a verifier asks", unit="attacked models called marked (%)")


# --- curves, detectors, costs -----------------------------------------------------------------------------------------


def _curves(shown: Shown) -> pd.DataFrame:
    stages = shown.tables.read("stages", ["stage", "action", "seed", "dataset", "plugin"])
    stages = stages[stages["action"] == "embed"]
    rows = shown.tables.read("curves").merge(stages, on="stage").sort_values(["stage", "training", "epoch"])
    # A stage may train more than once: its epochs are counted through.
    rows = rows.assign(
        x=rows.groupby(["stage", "quantity"]).cumcount() + 1,
        panel=rows["dataset"],
        series=rows["plugin"],
        seed=rows["seed"].fillna(0).astype(int),
    )
    return epochs(rows).sort_values(["panel", "unit", "series", "seed", "x"], kind="stable")


def _detections(shown: Shown) -> pd.DataFrame:
    marked, nulls = _found(shown)
    both = pd.concat([marked, nulls]).sort_values("panel", kind="stable")
    made = dots(
        both.assign(label=both["series"], value=both["score"].astype(float)), "score of the detector (its unit)"
    )
    made.attrs["n"] = "models"
    return made


def _found(shown: Shown) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Scores of the models that kept their accuracy, and of each unmarked model once: it stands beside every scheme and
    seed."""
    rows = shown.tables.read("detections")
    rows = rows.assign(panel=rows["dataset"] + ": " + rows["attack"], series=rows["defense"])
    null, useless = rows["suspect"] == "null", rows["cell"].isin(shown.cells.loc[~shown.cells["useful"], "cell"])
    nulls = rows[null].drop_duplicates(["panel", "index"])
    return rows[~null & ~useless], nulls.assign(series="unmarked models", seed=nulls["index"])


def _windows(shown: Shown) -> pd.DataFrame:
    """Window ranks of each scheme's models, and of the same keys in unmarked models: what chance gives."""
    rows, _ = _found(shown)
    table = shown.tables.read("detections")
    nulls = table[table["suspect"] == "null"].assign(window_rank=lambda frame: frame["window_rank"].astype(float))
    chance = 100 * nulls.groupby("cell")["window_rank"].median()
    rows = rows.assign(label=rows["series"], value=100 * rows["window_rank"].astype(float))
    rows = rows.assign(unmarked=rows["cell"].map(chance))
    return dots(rows, "windows that lie as high as the trigger's (%)", ["unmarked"])


def _false_rates(shown: Shown) -> pd.DataFrame:
    rows = shown.victims
    return dots(rows.assign(label=rows["series"], value=rows["null_rate"]), "unmarked models' trigger success (%)")


def _cost(shown: Shown) -> pd.DataFrame:
    rows = shown.victims.assign(label=shown.victims["series"])
    lost = rows.assign(value=rows["null_accuracy"] - rows["victim_accuracy"])
    spent = rows.assign(value=rows["embed_seconds"])
    parts = [dots(lost, "unmarked models' accuracy less the victim's (points)"), dots(spent, "time to embed (s)")]
    return pd.concat(parts, ignore_index=True)


# --- inside the models ------------------------------------------------------------------------------------------------


def _looked(shown: Shown, quantity: str) -> Iterator[Frames]:
    """Frames by analysis that measured the quantity: victims or, of a scheme without, its first attack's models."""
    measurements = shown.frames.measurements
    measurements = measurements[measurements["quantity"] == quantity]
    for _, own in measurements.groupby("analysis", sort=False):
        cells = shown.frames.cells[shown.frames.cells["cell"].isin(own["cell"])]
        # The unattacked first, wherever there is one.
        ranked = cells.sort_values("kind", key=lambda kinds: kinds != "none", kind="stable")
        first = ranked.groupby(["dataset", "defense"])["attack"].transform("first").reindex(cells.index)
        if len(cells := cells[cells["attack"] == first]):
            named = zip(cells["kind"], cells["attack"], strict=True)
            rest = ("" if kind == "none" else f", {attack}" for kind, attack in named)
            cells = cells.assign(panel=cells["dataset"] + ": " + cells["defense"] + list(rest))
            frames = shown.frames.of(cells)
            yield replace(
                frames, measurements=frames.measurements[frames.measurements["analysis"] == own["analysis"].iloc[0]]
            )


def _panels(frames: Frames) -> pd.Series[str]:
    return frames.cells.set_index("cell")["panel"]


def _activations(shown: Shown) -> pd.DataFrame:
    """Activations of each model's last hidden layer."""
    parts = []
    for frames in _looked(shown, "frequency"):
        rows = frames.measurements
        last = rows["cell"].map(rows.groupby("cell")["layer"].last())
        parts.append(frequencies(replace(frames, measurements=rows[rows["layer"] == last]), _panels(frames)))
    return _joined(parts)


def _projection(shown: Shown) -> pd.DataFrame:
    return _joined(
        projected(frames, _panels(frames) + ", " + str(frames.measurements["analysis"].iloc[0]))
        for frames in _looked(shown, "x")
    )


def _cka(shown: Shown) -> pd.DataFrame:
    parts = []
    for frames in _looked(shown, "cka"):
        cells, rows = frames.cells.set_index("cell"), measured(frames, "cka")
        known = {"panel": "dataset", "series": "defense", "seed": "seed"}
        rows = rows.assign(**{name: rows["cell"].map(cells[column]) for name, column in known.items()})
        parts.append(dots(rows.assign(label=rows["layer"], value=rows["cka"]), "CKA, triggers and sources (1: alike)"))
    return _joined(parts)


def _similarity(shown: Shown) -> pd.DataFrame:
    """Similarity of a dataset's inputs, and of what each scheme's models make of them."""
    parts = []
    for frames in _looked(shown, "similarity"):
        rows, cells = measured(frames, "similarity"), frames.cells.set_index("cell")
        inputs = rows["layer"] == "input"
        panel = (
            rows["cell"].map(cells["panel"]).where(~inputs, rows["cell"].map(cells["dataset"])) + ", " + rows["layer"]
        )
        rows = rows.assign(
            panel=panel, label=pd.to_numeric(rows["group"], errors="coerce"), column=rows["index"],
            seed=rows["cell"].map(cells["seed"]), value=rows["similarity"], axis="class", side="class",
            unit="mean cosine similarity (-1..1)",
        )  # fmt: skip
        rows = rows.dropna(subset="label").astype({"label": int, "column": int})
        parts.append(rows[["panel", "label", "column", "seed", "value", "axis", "side", "unit"]])
    return _joined(parts).sort_values("panel", kind="stable") if parts else _joined(parts)


def _pairs(shown: Shown) -> pd.DataFrame:
    frames = _paired(shown)
    panels = frames.cells.set_index("cell")
    return pairs(frames, panels["bare"] + ": " + panels["series"], "surrogate_success")


def _paired(shown: Shown) -> Frames:
    """Attacked cells of datasets that differ in their source and target class alone."""
    cells = shown.frames.cells
    cells = cells[(cells["kind"] != "none") & cells["source"].notna() & cells["target"].notna()]
    cells = cells.assign(
        bare=of_each(cells, "dataset", _without_pair), series=cells["defense"] + ", " + cells["attack"]
    )
    cells = cells.assign(panel=cells["bare"])
    keys = ["bare", "series"]
    several = cells.drop_duplicates([*keys, "source", "target"]).groupby(keys).size() > 1
    kept = several.reindex(pd.MultiIndex.from_frame(cells[keys])).to_numpy(dtype=bool)
    return shown.frames.of(cells[kept].astype({"source": int, "target": int}))


def _without_pair(dataset: str) -> str:
    return format_chain(entry.without(*PAIR) for entry in chain_of(dataset))


def _alike(shown: Shown) -> pd.DataFrame:
    frames = _paired(shown)
    frames = replace(frames, measurements=frames.measurements[frames.measurements["layer"] == "input"])
    similarity = QUANTITIES["similarity"]
    frames = frames.of(frames.cells.assign(x=similarity.of_cells(frames).to_numpy()))
    return against(frames, ["surrogate_success"], "similarity of source and target class (cosine of inputs)")


_CELLS = "cells that count: harness run --matrix smoke"
_NULLS = "cells with unmarked models: harness run --matrix smoke --nulls 5"
_VERDICTS = "attacked cells with verdicts: harness run --matrix smoke --nulls 19"

PICTURES: dict[str, Picture] = {
    picture.name: picture
    for picture in (
        Picture("success", "Success after each attack: a dot per seed; lines: what unmarked models answer", _success,
                kinds.dots, _CELLS),
        Picture("margin", "Margin after each attack: a dot per seed, and the mean's interval", margins, kinds.dots,
                _CELLS),
        Picture("innocents", "Innocent models that the keys call marked, with limits of their share", innocents,
                kinds.dots, "innocent models, and verdicts: harness run --matrix quick --nulls 19"),
        Picture("matrix", "Mean success of the surrogate, by attack and scheme", _matrix, kinds.heatmap, _CELLS),
        Picture("frontier", "Accuracy against success of attacked models: a dot per cell; lines: the "
                "extractions and removals that no other beats in both", _frontier, kinds.scatter, _CELLS),
        Picture("hypervolume", "Area under the attackers' front: less is better for the owner", _attained,
                kinds.dots, "attacked cells with unmarked models: harness run --matrix smoke --nulls 5"),
        Picture("tradeoff", "Cost of a mark against the success that attacks leave: a dot per victim", _tradeoff,
                kinds.scatter, "attacked cells that count: harness run --matrix smoke"),
        Picture("pruning", "Success, where it counts, and accuracy against the pruned fraction", _pruning,
                kinds.tracks, "two fractions of one attack: harness run --matrix smoke "
                "--attack 'pruning[fraction=0.2]' --attack 'pruning[fraction=0.8]'"),
        Picture("sweep", "Success and accuracy against each numeric option of which there are two values", _sweep,
                kinds.tracks, "two values of a number: harness run --matrix smoke --defense 'ewe[weight=10]' "
                "--defense 'ewe[weight=100]'"),
        Picture("extraction", "Accuracy, agreement and margin of copies (of a useless one the victim's) by queries",
                _extraction, kinds.tracks, "two budgets of one extraction: harness run --matrix smoke "
                "--attack 'retraining[queries=100]' --attack 'retraining[queries=400]'"),
        Picture("queries", "Expected queries of a sequential verification against success", _needed, kinds.scatter,
                _VERDICTS),
        Picture("budget", "Share of attacked models that are called marked, by queries asked", _budget, kinds.tracks,
                _VERDICTS),
        Picture("curves", "Training curves of the victims: thin lines are seeds, the thick one their mean", _curves,
                kinds.tracks, "curves of an embedding: harness run --matrix smoke"),
        Picture("detections", "Detector scores of marked and of unmarked models", _detections, kinds.dots,
                "detections: harness run --matrix smoke --attack neural-cleanse"),
        Picture("window-ranks", "Rank of the trigger's window on a detector's map", _windows, kinds.dots,
                "a detector's maps: harness run --matrix smoke --attack jsma"),
        Picture("false-rates", "Success of unmarked models on the triggers: a dot per seed", _false_rates, kinds.dots,
                _NULLS),
        Picture("cost", "Cost of a mark: a dot per seed", _cost, kinds.dots, _CELLS),
        Picture("activations", "Activation frequency of the last hidden layer's neurons: task data, triggers",
                _activations, kinds.histogram, "its analysis: harness run --matrix smoke --analysis "
                "activation-frequency"),
        Picture("projection", "Penultimate activations in two dimensions: triggers among the classes", _projection,
                kinds.scatter, "its analysis: harness run --matrix smoke --analysis projection"),
        Picture("cka", "Similarity of the representations of triggers and of their sources, layer by layer", _cka,
                kinds.dots, "its analysis: harness run --matrix smoke --analysis cka"),
        Picture("class-similarity", "Similarity of classes, as inputs and as penultimate activations", _similarity,
                kinds.heatmap, "its analysis: harness run --matrix smoke --analysis class-similarity"),
        Picture("pairs", "Success by source and target class", _pairs, kinds.heatmap,
                "two pairs of classes: harness run --matrix smoke --dataset 'digits[source=1,target=7]' "
                "--dataset 'digits[source=3,target=5]'"),
        Picture("similarity", "Success against the similarity of source and target class: a dot per cell", _alike,
                kinds.scatter, "two pairs of classes, and their analysis: harness run --matrix smoke --dataset "
                "'digits[source=1,target=7]' --dataset 'digits[source=3,target=5]' --analysis class-similarity"),
    )
}  # fmt: skip


def collect(shown: Shown, only: Iterable[str] = ()) -> dict[str, pd.DataFrame]:
    """The numbers of all pictures, or of ``only`` some; empty where the tables lack them. Raises
    :class:`UnknownName`."""
    names = list(dict.fromkeys(only)) or list(PICTURES)
    for name in names:
        if name not in PICTURES:
            raise UnknownName("figure", name, PICTURES)
    made = {name: finite(PICTURES[name].data(shown)) for name in names}
    for frame in made.values():
        frame.attrs["known"] = sorted(each for each in shown.cells["defense"].unique() if not is_unmarked(each))
    return made


def draw_all(collected: dict[str, pd.DataFrame], folder: Path, style: str) -> list[Path]:
    """Draw what has numbers into ``folder``: all of it or, where one cannot be drawn or written, none. What takes more
    than a page goes on in files of their own."""
    refuse_links(folder)
    refuse_record(folder.parent)
    try:
        with temporary_folder(folder) as partial:
            for name, data in collected.items():
                picture = PICTURES[name]
                sheets = kinds.sheets(data, picture.draw) if len(data) else []
                for sheet, suffix in zip(sheets, ("", "-b", "-c"), strict=False):
                    title = f"{picture.title} (continued)" if suffix else picture.title
                    print_to(partial / f"{name}{suffix}.{style}", sheet, picture.draw, title)
            folder.mkdir(exist_ok=True)
            return [path.replace(folder / path.name) for path in sorted(partial.iterdir())]
    except OSError as error:
        raise ResultsError(f"cannot write to {str(folder)!r}: {error.strerror}") from error
