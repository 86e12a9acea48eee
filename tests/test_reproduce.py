"""Reproducing a paper: its file, the quantities, the verdict, and the real command line."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import harness
from harness.errors import MatrixError, UnknownName
from harness.figures.frames import drawn, told_apart
from harness.papers.paper import Band, Experiment, Paper, load_paper, papers, read_band, read_paper
from harness.papers.quantities import FORMULAS, QUANTITIES, Frames, chance_to_detect, toy_extracted, toy_victim
from harness.papers.reproduce import Spread, calculate, chosen, compare, judge, narrowed, spread
from harness.planning.matrix import FULL
from harness.planning.registry import Registry, load_registry, resolve
from harness.storage.schema import CELLS, CURVES, DETECTIONS, EVIDENCE, MEASUREMENTS
from harness.verdicts.rules import Rules
from harness.verdicts.scoring import score
from tests.conftest import TINY, Cli, without

ROOT = Path(__file__).parents[1]

PAPER = f'''
title = "A paper"
source = "nowhere"
[marks]
T = "printed"
U = "second-hand"

[experiments.table-1]
title = "A table"
says = "It survives."
common = {{ mark = "T", source = "Table 1", where = {{ attack = "retraining" }} }}
picture = {{ kind = "strips" }}
rows = [
  {{ label = "baseline", where = {{ dataset = "digits", defense = "baseline" }}, quantity = "victim_success", paper = "100.00 ± 0.00" }},
  {{ label = "baseline", where = {{ defense = "baseline" }}, quantity = "surrogate_accuracy", above = 200 }},
  {{ label = "pruned", where = {{ attack = "retraining | pruning*" }}, quantity = "surrogate_accuracy", paper = "1.0 ± 0.1", mark = "U" }},
  {{ label = "difference", where = {{ attack = "none" }}, less = {{ attack = "retraining" }}, quantity = "surrogate_accuracy", below = 500 }},
  {{ label = "control", where = {{ defense = "baseline", attack = "none" }}, quantity = "control_success", below = 99 }},
]
[experiments.table-1.matrix]
datasets = ["mnist"]
defenses = ["baseline", "unmarked"]
attacks = ["none", "retraining", ["retraining", {{ name = "pruning", fraction = [0.2, 0.5] }}]]
seeds = "0-1"
nulls = 1
[experiments.table-1.matrix.scales.small]
datasets = ["{TINY}"]

[experiments.figure-6]
title = "Epochs"
says = "It settles."
common = {{ mark = "T", source = "Figure 6", quantity = "plateau_epoch" }}
picture = {{ kind = "curves" }}
rows = [{{ label = "released loss", where = {{ defense = "ewe[variant=official]" }} }}]
[experiments.figure-6.matrix]
datasets = ["mnist[watch=true]"]
defenses = ["ewe[variant=official]"]
attacks = ["none"]
nulls = 0
[experiments.figure-6.matrix.scales.small]
datasets = ["{TINY.replace("[", "[watch=true,")}"]

[experiments.figure-9]
title = "A sweep"
says = "It falls."
common = {{ mark = "T", source = "Figure 9" }}
picture = {{ kind = "sweep", x = "attack.fraction", y = ["any_success", "surrogate_accuracy"], where = {{ attack = "*pruning*" }} }}
rows = [{{ label = "all", quantity = "surrogate_success" }}]
[experiments.figure-9.matrix]
datasets = ["mnist"]
defenses = ["baseline"]
attacks = ["retraining | pruning", "retraining | pruning[fraction=0.5]"]
nulls = 1
[experiments.figure-9.matrix.scales.small]
datasets = ["{TINY}"]
'''  # noqa: E501  # a table in a line of TOML cannot be broken


@pytest.fixture(scope="module")
def builtin() -> Registry:
    return load_registry()


@pytest.fixture
def paper_file(tmp_path: Path) -> Path:
    path = tmp_path / "a-paper.toml"
    path.write_text(PAPER, "utf-8")
    return path


# --- the paper files --------------------------------------------------------------------------------------------------

SHIPPED = [(name, id) for name in papers() for id in load_paper(name).experiments]


def test_the_ewe_paper_has_every_target() -> None:
    assert set(load_paper("ewe-2021").experiments) == {
        *("table-1-v1", "table-1-head", "table-1-usenix", "neural-cleanse", "adaptive"),
        *("adaptive-trigger", "initial-weights"),
        *(f"figure-{k}" for k in (*range(1, 19),)),
    }


@pytest.mark.parametrize(("name", "id"), SHIPPED)
def test_every_experiment_plans_at_every_scale(builtin: Registry, name: str, id: str) -> None:
    from harness.planning.narrowing import planned

    experiment = load_paper(name).experiments[id]
    for scale in experiment.scales:
        plans = [planned(builtin, matrix) for matrix in experiment.matrices(scale)]
        assert sum(len(plan.cells) for plan in plans) == experiment.cells(scale), "an axis names something twice"
        assert not [cell.skip for plan in plans for cell in plan.cells if cell.skip]


@pytest.mark.parametrize(("name", "id"), SHIPPED)
def test_every_row_speaks_of_some_cells_at_full_scale(builtin: Registry, name: str, id: str) -> None:
    from harness.papers.reproduce import canonical
    from harness.planning.narrowing import planned

    experiment = load_paper(name).experiments[id]
    plans = [planned(builtin, matrix) for matrix in experiment.matrices(FULL)]
    cells = pd.DataFrame([vars_of(cell) for plan in plans for cell in plan.cells])
    for row in experiment.rows if plans else ():
        where = canonical(row.where, builtin.component)
        assert len(chosen(cells, where)), row.label
        assert row.less is None or len(chosen(cells, where | canonical(row.less, builtin.component))), row.label


def vars_of(cell: Any) -> dict[str, Any]:
    return {name: getattr(cell, name) for name in ("dataset", "defense", "attack", "seed")}


def test_small_scale_is_small(builtin: Registry) -> None:
    for experiment in load_paper("ewe-2021").experiments.values():
        for matrix in experiment.matrices("small"):
            for use in resolve(builtin, matrix).datasets:
                assert use.plugin.train <= 2000, f"{experiment.id}: {use}"


@pytest.mark.parametrize("name", ["table1v1", "Table-1-v1", "table_1_v1", "TABLE 1 v1"])
def test_ids_are_understood_as_people_spell_them(name: str) -> None:
    assert [e.id for e in load_paper("ewe-2021").chosen([name])] == ["table-1-v1"]


def test_the_list_names_the_records_that_answer_an_experiment(cli: Cli, paper_file: Path) -> None:
    """Each is there; an experiment that nobody ran says so, and one of formulas has none."""
    experiments = load_paper("ewe-2021").experiments.values()
    named = [name for each in experiments for name in each.records]
    assert named and all((ROOT / "results" / "records" / name / "README.md").is_file() for name in named)
    listed = cli("reproduce", "ewe-2021", "--list").out
    parts = re.split(r"\n(?=[a-z0-9-]+: )", listed.partition("\n\n")[2])
    said = {part.partition(":")[0]: part for part in parts}
    assert "record: 2026-11-22-neural-cleanse-small (" in said["neural-cleanse"]
    assert "no record yet" not in listed and "record" not in said["figure-1"]
    assert "no record yet" in cli("reproduce", paper_file, "--list").out
    with pytest.raises(MatrixError, match="records: old = 3 is no text"):
        read(PAPER, **{'says = "It survives."': 'says = "It survives."\nrecords = { old = 3 }'})


def test_figures_too_and_each_once() -> None:
    paper = load_paper("ewe-2021")
    assert [e.id for e in paper.chosen(["fig5", "Fig. 5", "figure 5", "neural cleanse"])] == [
        "figure-5",
        "neural-cleanse",
    ]
    assert [e.id for e in paper.chosen(["all"])] == list(paper.experiments)
    with pytest.raises(UnknownName, match="unknown experiment 'figure-77'"):
        paper.chosen(["figure-77"])


def read(text: str, **changes: str) -> Paper:
    import tomllib

    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    return read_paper(tomllib.loads(text), "a-paper", "a-paper.toml")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("says =", "sais =", "unknown key 'sais'. Did you mean 'says'?"),
        ('quantity = "victim_success"', 'quantity = "victim_succes"', "Did you mean 'victim_success'?"),
        ('mark = "T"', 'mark = "X"', "unknown mark 'X'"),
        ('kind = "strips"', 'kind = "strip"', "unknown kind of picture 'strip'. Did you mean 'strips'?"),
        ('"100.00 ± 0.00"', '"about 100"', 'expected "mean ± SD"'),
        ("above = 200", "above = 200, about = 1", "above and about cannot both be"),
        ("above = 200", "about = 200", "about and tolerance go together"),
        ("above = 200", 'above = "200"', "above = '200' is no number"),
        ("above = 200", "above = true", "above = True is no number"),
        ('defense = "baseline" }, quantity = "surrogate', 'defence = "baseline" }, quantity = "surrogate', "'defence'"),
        ('label = "pruned", ', "", "label is missing"),
        ('source = "nowhere"', "source = 3", "source = 3 is no text"),
        ("[marks]", "datasets.few = 3\n[marks]", "datasets: few = 3 is no text"),
        ("[marks]", 'datasets.few = "digits[train"\n[marks]', "datasets: cannot read 'digits[train'"),
    ],
)
def test_a_mistake_in_a_paper_file_is_named_with_its_place(old: str, new: str, message: str) -> None:
    with pytest.raises(MatrixError) as caught:
        read(PAPER, **{old: new})
    assert message in str(caught.value) and "a-paper.toml" in str(caught.value)


def test_a_data_set_that_the_file_names_has_its_options_and_those_that_are_added() -> None:
    named = 'datasets = { few = "digits[train=9,epochs=3]" }\n[marks]'
    of_text = read(PAPER, **{"[marks]": named, '["mnist"]': '["few", "few[epochs=4,watch=true]", "digits"]'})
    asked = of_text.experiments["table-1"].matrices(FULL)[0]
    assert [str(entry) for entry in asked.datasets] == [
        *("digits[train=9,epochs=3]", "digits[train=9,epochs=4,watch=true]", "digits")
    ]
    swept = read(PAPER, **{"[marks]": named, f'["{TINY}"]': '[{ name = "few", epochs = [1, 2] }]'})
    small = swept.experiments["figure-9"].matrices("small")[0]
    assert [str(entry) for entry in small.datasets] == ["digits[train=9,epochs=1]", "digits[train=9,epochs=2]"]
    with pytest.raises(MatrixError, match=r"experiments.table-1.matrix: cannot read 'few\[train'"):
        read(PAPER, **{"[marks]": named, '["mnist"]': '["few[train"]'})


def test_an_experiment_is_narrowed_to_some_of_its_data_sets() -> None:
    table = load_paper("ewe-2021").experiments["table-1-v1"]
    names = [[entry.name for matrix in table.matrices(FULL, asked) for entry in matrix.datasets] for asked in ALONE]
    assert names == [["mnist", "fashion-mnist", "speech-commands"], ["mnist"], ["mnist", "fashion-mnist"], []]


def test_an_experiment_narrowed_to_a_data_set_has_the_rows_about_it(builtin: Registry) -> None:
    from harness.planning.narrowing import planned

    table = load_paper("ewe-2021").experiments["table-1-v1"]
    (matrix,) = table.matrices(FULL, ["mnist"])
    rows = narrowed(table, planned(builtin, matrix), builtin.component).rows
    assert len(rows) == 17 and all(row.label.startswith("MNIST: ") for row in rows)


ALONE = ((), ("mnist",), ("*mnist",), ("digits",))


def test_an_experiment_has_scales_of_its_own(cli: Cli, tmp_path: Path) -> None:
    """All clips that are here are a scale of Table 1 alone; its rows are about speech, and none is about images."""
    listed = cli("reproduce", "ewe-2021", "--list").out
    assert "cells: 120 at full, 120 at small, 40 at packed" in listed and "cells: 165 at full, 120 at small\n" in listed
    shown = cli("reproduce", "ewe-2021", "all", "--scale", "packed", "--no-run", "--results", tmp_path / "none").out
    assert set(re.findall(r"^([a-z0-9-]+): ", shown, re.M)) >= {"table-1-v1", "table-1-head"}
    assert "figure-13" not in shown and "Speech: EWE" in shown and "MNIST: " not in shown and "Fashion: " not in shown


def test_a_matrix_list_leaves_out_what_a_scale_does_not_have() -> None:
    usenix = load_paper("ewe-2021").experiments["table-1-usenix"]
    assert len(usenix.matrices(FULL)) == 5
    assert len(usenix.matrices("small")) == 4  # there is no small CIFAR-100
    with pytest.raises(MatrixError, match="unknown scale 'tiny'"):
        usenix.matrices("tiny")


# --- verdicts ---------------------------------------------------------------------------------------------------------


def test_a_printed_number_is_a_band_with_its_rounding() -> None:
    band = read_band({"paper": "61.44 ± 27.85"}, "x")
    assert band is not None and band.low == pytest.approx(33.585) and band.high == pytest.approx(89.295)
    exact = read_band({"paper": "100.0 ± 0.0"}, "x")
    assert exact is not None and exact.holds(99.96) and not exact.holds(99.9)


def test_claims_are_half_lines_and_tolerances() -> None:
    assert read_band({}, "x") is None
    above = read_band({"above": 38}, "x")
    assert above is not None and above.holds(1000) and not above.holds(37.9) and above.text == "> 38"
    both = read_band({"above": 100, "below": 1000}, "x")
    assert both is not None and both.holds(238) and not both.holds(99)
    about = read_band({"about": 15, "tolerance": 5}, "x")
    assert about is not None and about.holds(10) and not about.holds(9.9)


def test_a_spread_is_that_of_the_textbook() -> None:
    # mean 4, SD 2, n 3: t(0.975, 2) = 4.302653, so 4 ± 4.302653 x 2 / sqrt(3)
    found = spread([2.0, 4.0, 6.0])
    assert found is not None and (found.n, found.mean, found.sd) == (3, 4.0, 2.0)
    assert found.low == pytest.approx(4 - 4.968275, abs=1e-5) and found.high == pytest.approx(4 + 4.968275, abs=1e-5)
    assert spread([]) is None
    assert spread([7.0]) == Spread(1, 7.0, None, None, None)
    assert spread([7.0, math.inf]) == Spread(2, math.inf, None, None, None)


def test_an_interval_has_only_values_that_there_are() -> None:
    loose, cut = spread([2.0, 90.0, 1.0]), spread([2.0, 90.0, 1.0], (0, 100))
    assert loose is not None and loose.low is not None and loose.high is not None
    assert loose.low < 0 < 100 < loose.high and cut == replace(loose, low=0, high=100)
    limits = {name: each.limits for name, each in QUANTITIES.items()}
    assert limits["surrogate_success"] == (0, 100) and limits["margin"] == (-100, 100)
    assert limits["window_rank"] == (0, 1) and limits["similarity_correlation"] == (-1, 1)
    assert limits["accuracy_cost"] == (-math.inf, math.inf)


def test_equal_values_have_an_interval_that_covers() -> None:
    """A t interval of them is one point, which says that there can be no other value."""
    none, all_ = spread([0.0] * 5, (0, 100)), spread([100.0, 100.0], (0, 100))
    assert none is not None and none.high is not None and all_ is not None and all_.low is not None
    # Five of five at an end: a mean m (a share of the range) allows it with a probability of at most (1 - m)^5.
    assert (none.low, none.sd) == (0, 0) and (1 - none.high / 100) ** 5 == pytest.approx(0.025)
    assert all_.high == 100 and (all_.low / 100) ** 2 == pytest.approx(0.025)
    between = spread([25.0] * 5, (0, 100))
    assert between is not None and (between.mean, between.sd) == (25, 0)
    assert (between.low, between.high) == pytest.approx((25 - none.high / 4, 25 + none.high * 3 / 4))
    assert spread([7.0, 7.0]) == Spread(2, 7.0, 0.0, None, None)
    everything = read_band({"above": 99.9}, "x")
    assert judge(everything, all_) == "undecided" and judge(everything, none) == "differs"
    assert judge(Band(100, 100, ""), all_) == "compatible"


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([60.0, 62.0], "reproduced"),  # 61 ± 12.7
        ([50.0, 70.0], "compatible"),  # the mean is in the band, its interval is not: 60 ± 127
        ([20.0, 40.0], "compatible"),  # the mean is outside, its interval meets the band
        ([5.0, 5.1, 4.9], "differs"),
        ([60.0], "undecided"),  # one seed decides nothing
        ([1.0], "undecided"),
        ([], "not run"),
        ([50.0, math.inf], "undecided"),
    ],
)
def test_the_verdicts(values: list[float], verdict: str) -> None:
    assert judge(Band(33.6, 89.3, ""), spread(values)) == verdict


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([40.0, -39.9], "undecided"),  # an audit's: the mean is 0.05, and its interval 0.05 ± 508
        ([40.0, 39.0, 41.0], "reproduced"),
        ([-40.0, -39.0, -41.0], "differs"),
        ([40.0, -1.0, 30.0], "undecided"),
        ([40.0], "undecided"),
    ],
)
def test_a_direction_is_reproduced_when_the_interval_lies_on_its_side(values: list[float], verdict: str) -> None:
    above = read_band({"above": 0}, "x")
    assert judge(above, spread(values)) == verdict
    assert judge(Band(-math.inf, 0, ""), spread([-value for value in values])) == verdict


def test_what_is_unverified_or_not_claimed_is_never_judged() -> None:
    band, ours = Band(0, 1, ""), spread([0.5, 0.5])
    assert judge(band, ours, "U") == "unverified"
    assert judge(None, ours) == "no claim"
    assert judge(band, spread([0.5]), exact=True) == "reproduced"
    assert judge(band, spread([2.0]), exact=True) == "differs"


numbers = st.floats(-1e3, 1e3)
samples = st.lists(numbers, min_size=2, max_size=8).filter(lambda values: min(values) < max(values))


@given(samples, numbers, st.floats(0, 100))
def test_moving_the_mean_into_the_band_never_differs(values: list[float], centre: float, width: float) -> None:
    band = Band(centre - width, centre + width, "")
    mean = sum(values) / len(values)
    found = spread([value - mean + centre for value in values])
    assume(found is None or found.low is not None)  # rounding can make them equal
    assert found is not None and found.low is not None and found.high is not None
    inside = found.low >= band.low - 1e-6 and found.high <= band.high + 1e-6
    verdict = judge(Band(band.low - 1e-6, band.high + 1e-6, ""), found)
    assert verdict == ("reproduced" if inside else "compatible")


@given(samples, numbers, st.floats(0, 100), st.floats(0, 100))
def test_a_wider_band_never_makes_a_verdict_worse(
    values: list[float], centre: float, width: float, more: float
) -> None:
    order = ["differs", "compatible", "reproduced"]
    narrow = judge(Band(centre - width, centre + width, ""), spread(values))
    wide = judge(Band(centre - width - more, centre + width + more, ""), spread(values))
    assert order.index(wide) >= order.index(narrow)


@given(samples, numbers, st.floats(0, 100))
def test_nearer_to_the_band_is_never_further_from_it(values: list[float], centre: float, width: float) -> None:
    order = ["differs", "compatible", "reproduced"]
    band = Band(centre - width, centre + width, "")
    mean = sum(values) / len(values)
    assume(abs(centre - mean) > 1e-9)  # below that, rounding decides which of two is the nearer
    half = [value + (centre - mean) / 2 for value in values]
    assume(min(half) < max(half))  # rounding can make them equal
    assert order.index(judge(band, spread(half))) >= order.index(judge(band, spread(values)))


@given(st.lists(numbers, min_size=2, max_size=8), numbers)
def test_a_half_line_is_judged_as_its_mirror_image(values: list[float], limit: float) -> None:
    above = judge(Band(limit, math.inf, ""), spread(values))
    below = judge(Band(-math.inf, -limit, ""), spread([-value for value in values]))
    assert above == below


# --- quantities -------------------------------------------------------------------------------------------------------


def frames(cells: list[dict[str, Any]], **tables: list[dict[str, Any]]) -> Frames:
    """Frames of a few cells, the rest of the columns empty."""
    columns = [column.name for column in CELLS.columns]
    base = {
        **{"dataset": "mnist", "defense": "ewe", "attack": "retraining", "status": "ok", "reason": ""},
        **{"null_accuracy": 0.98, "victim_accuracy": 0.97, "surrogate_accuracy": 0.96, "source": 1, "target": 7},
        **{"victim_trigger_matches": 100, "victim_trigger_trials": 100, "null_trigger_matches": 5},
        **{"null_trigger_trials": 100, "surrogate_trigger_matches": 50, "surrogate_trigger_trials": 100},
        **{"surrogate_held_out_matches": 20, "surrogate_held_out_trials": 50},
    }
    made = pd.DataFrame([base | {"seed": i} | cell for i, cell in enumerate(cells)])
    made = made.reindex(columns=[*columns, "source", "target", "same_data", *({"x", "series"} & set(made.columns))])
    made["cell"] = [cell.get("cell", f"c{i}") for i, cell in enumerate(cells)]
    documented = {"detections": DETECTIONS, "measurements": MEASUREMENTS, "curves": CURVES}
    others = {
        name: pd.DataFrame(
            tables.get(name, []), columns=[*(c.name for c in table.columns), *({"cell"} - set(table.key))]
        ).loc[:, lambda frame: ~frame.columns.duplicated()]
        for name, table in documented.items()
    }
    return Frames(score(made, pd.DataFrame(columns=[c.name for c in EVIDENCE.columns]), Rules()), **others)


def seeds(name: str, made: Frames) -> dict[int, float]:
    return {int(k): v for k, v in QUANTITIES[name].of_seeds(made).items()}


def test_rates_are_in_percent_one_value_a_seed() -> None:
    made = frames([{}, {"surrogate_trigger_matches": 30, "victim_accuracy": 0.95}])
    assert seeds("victim_accuracy", made) == pytest.approx({0: 97.0, 1: 95.0})
    assert seeds("surrogate_success", made) == pytest.approx({0: 50.0, 1: 30.0})
    assert seeds("held_out_success", made) == pytest.approx({0: 40.0, 1: 40.0})
    assert seeds("null_success", made) == pytest.approx({0: 5.0, 1: 5.0})
    # By a false rate of 5%: (50 - 5) / 95, and (30 - 5) / 95.
    assert seeds("margin", made) == pytest.approx({0: 100 * 45 / 95, 1: 100 * 25 / 95})
    assert seeds("accuracy_cost", made) == pytest.approx({0: 1.0, 1: 3.0})
    assert seeds("verified_in_100", made) == {0: 100.0, 1: 100.0}


def test_cells_of_one_seed_are_one_observation() -> None:
    made = frames([{"seed": 0}, {"seed": 0, "surrogate_trigger_matches": 70, "defense": "adi"}, {"seed": 1}])
    assert seeds("surrogate_success", made) == pytest.approx({0: 60.0, 1: 50.0})


def test_the_answers_of_a_model_that_lost_its_accuracy_do_not_count() -> None:
    made = frames([{}, {"surrogate_accuracy": 0.5}, {"surrogate_accuracy": 0.5, "victim_accuracy": 0.5}])
    assert seeds("surrogate_success", made) == {0: 50.0, 2: 50.0}, "an attack that keeps a bad victim's accuracy is one"
    assert seeds("margin", made) == pytest.approx({0: 100 * 45 / 95, 1: 100.0, 2: 100 * 45 / 95})
    assert len(seeds("any_success", made)) == len(seeds("surrogate_accuracy", made)) == 3


def test_a_mark_that_is_weaker_than_the_false_rate_is_never_accused() -> None:
    made = frames([{"surrogate_trigger_matches": 5}, {}])
    assert seeds("queries", made)[0] == math.inf
    assert seeds("verified_in_100", made) == {0: 0.0, 1: 100.0}


def test_detectors() -> None:
    scores = [("surrogate", 0, 3.0), ("null", 0, 1.0), ("null", 1, 2.0), ("null", 2, 4.0)]
    found = [
        {
            "cell": "c0",
            "suspect": who,
            "index": k,
            "score": s,
            "threshold": 2.0,
            "target_hit": True,
            "window_rank": 0.25,
        }
        for who, k, s in scores
    ]
    made = frames([{"attack": "neural-cleanse"}], detections=found)
    assert seeds("anomaly_index", made) == {0: 3.0}
    assert seeds("detected", made) == {0: 100.0}
    # One value a null model: every seed sees the same ones.
    assert seeds("null_anomaly_index", made) == {0: 1.0, 1: 2.0, 2: 4.0}
    assert seeds("null_detected", made) == {0: 0.0, 1: 0.0, 2: 100.0}
    assert seeds("rank_p", made) == {0: 0.5}  # one of three scores as high: (1 + 1) / (3 + 1)
    assert seeds("target_hit", made) == {0: 100.0} and seeds("window_rank", made) == {0: 0.25}


def measure(quantity: str, values: list[float], **more: Any) -> list[dict[str, Any]]:
    base = {"cell": "c0", "layer": "", "group": "", "quantity": quantity}
    return [base | {"index": i, "value": value} | more for i, value in enumerate(values)]


def test_analyses() -> None:
    rows = [
        *measure("cka", [0.25], layer="dense"),
        *measure("cka", [0.75], layer="conv1"),
        *measure("frequency", [0.0, 1.0], layer="dense", group="task"),
        *measure("frequency", [0.5, 0.9], layer="dense", group="trigger"),
        *measure("similarity", [0.1] * 7 + [0.6] + [0.1] * 2, layer="input", group="1"),
        *measure("similarity", [0.9] * 10, layer="input", group="2"),
    ]
    made = frames([{}], measurements=rows)
    assert seeds("cka", made) == {0: 0.5} and seeds("cka", made.about("dense", "")) == {0: 0.25}
    assert seeds("frequency_gap", made) == pytest.approx({0: 30.0})
    assert seeds("similarity", made.about("input", "")) == {0: 0.6}  # source 1, target 7


def test_separation_is_the_distance_of_the_centres_in_standard_deviations() -> None:
    rows = []
    for group, xs in (("trigger", [9.0, 11.0]), ("target", [-1.0, 1.0])):
        rows += measure("x", xs, group=group, layer="penultimate") + measure(
            "y", [0.0, 0.0], group=group, layer="penultimate"
        )
    # Each group has variance 2 along x: pooled SD sqrt(2), centres 10 apart.
    assert seeds("separation", frames([{}], measurements=rows)) == pytest.approx({0: 10 / math.sqrt(2)})


def test_correlations_take_three_cells_of_a_seed() -> None:
    cells = [
        {"seed": 0, "victim_accuracy": a, "surrogate_trigger_matches": m}
        for a, m in ((0.99, 10), (0.98, 20), (0.95, 90))
    ]
    assert seeds("accuracy_correlation", frames(cells)) == pytest.approx({0: -1.0})
    assert seeds("accuracy_correlation", frames(cells[:2])) == {}


def test_accuracy_when_the_mark_is_lost() -> None:
    cells = [
        {"seed": 0, "surrogate_accuracy": a, "surrogate_trigger_matches": m}
        for a, m in ((0.95, 80), (0.7, 30), (0.6, 9), (0.2, 2))
    ]
    assert seeds("accuracy_when_lost", frames(cells)) == {0: 60.0}
    assert seeds("accuracy_when_lost", frames(cells[:2])) == {0: 70.0}  # never lost: no more than the last accuracy
    gone = [{**cell, "seed": 1, "surrogate_trigger_matches": 9} for cell in cells]
    assert seeds("accuracy_when_lost", frames([*cells, *gone])) == {0: 60.0}, "a copy without a mark has none to lose"


def test_a_plateau_starts_where_the_curve_stays_near_its_end() -> None:
    curve = [0.0, 0.5, 0.95, 0.8, 0.96, 0.97, 1.0]
    rows = [{"cell": "c0", "epoch": e, "quantity": "snnl:dense", "value": v} for e, v in enumerate(curve, start=1)]
    rows += [{"cell": "c0", "epoch": e, "quantity": "accuracy", "value": 0.0} for e in range(1, 8)]
    assert seeds("plateau_epoch", frames([{}], curves=rows)) == {0: 5.0}
    flat = [row | {"value": 1.0} for row in rows]
    assert seeds("plateau_epoch", frames([{}], curves=flat)) == {0: 1.0}


def test_the_gain_in_success_is_divided_by_the_loss_of_accuracy() -> None:
    def seeds_of(success: list[float], accuracy: list[float]) -> dict[int, float]:
        curves = {"success": success, "accuracy": accuracy, "snnl:dense": [3.0, 1.0, 1.0]}
        rows = [
            {"cell": "c0", "epoch": epoch, "quantity": name, "value": value}
            for name, values in curves.items()
            for epoch, value in enumerate(values, start=1)
        ]
        return seeds("success_per_accuracy", frames([{}], curves=rows))

    assert seeds_of([0.2, 0.9, 1.0], [0.99, 0.5, 0.97]) == {0: pytest.approx(40)}
    assert seeds_of([0.2, 0.9, 1.0], [0.97, 0.5, 0.99]) == {0: pytest.approx(-40)}
    assert seeds_of([0.2, 0.9, 1.0], [0.97, 0.5, 0.9705]) == {}  # accuracy did not move


@pytest.mark.parametrize("name", sorted(QUANTITIES))
def test_every_quantity_is_empty_without_cells_and_without_evidence(name: str) -> None:
    some = frames([{}])
    assert seeds(name, some.of(some.cells[:0])) == {}
    QUANTITIES[name].of_seeds(some)


def test_the_paper_figure_1_loses_its_mark() -> None:
    # By hand, at x2 = -1: the victim has R(x1) + 0 - 1 + 1 = R(x1); the extracted network 0.96 R(x1) - 1.
    assert toy_victim(0.5, -1.0) == pytest.approx(1 / (1 + math.exp(-0.5)))
    assert toy_extracted(0.5, -1.0) == pytest.approx(1 / (1 + math.exp(0.52)))
    assert toy_victim(1.0, 1.0) == pytest.approx(1 / (1 + math.exp(-1.0)))
    x1 = np.linspace(0, 1, 11)
    assert (toy_victim(x1, -1) >= 0.5).all() and (toy_extracted(x1, -1) < 0.5).all()
    rows = calculate(load_paper("ewe-2021").experiments["figure-1"])
    assert [row.verdict for row in rows] == ["reproduced", "reproduced"]


def test_the_paper_plans_queries_that_detect_half_of_the_marks() -> None:
    assert FORMULAS["planned_queries"]({"success": 0.5, "false": 0.1}) == 8
    assert chance_to_detect(0.3, 0.1) == chance_to_detect(0.3, 0.1)
    assert 45 < chance_to_detect(0.3, 0.1) < 60
    assert math.isnan(chance_to_detect(0.1, 0.1))


# --- comparing --------------------------------------------------------------------------------------------------------


def experiment(*rows: str, picture: str = 'kind = "strips"') -> Experiment:
    text = PAPER[: PAPER.index("rows = [")].replace('kind = "strips"', picture)
    text += "rows = [" + ",".join(f"{{ {row} }}" for row in rows) + "]\n"
    text += '[experiments.table-1.matrix]\ndatasets = ["mnist"]\ndefenses = ["ewe", "baseline"]\n'
    text += 'attacks = ["none", "retraining"]\n'
    return read(text).experiments["table-1"]


def test_rows_are_compared_over_the_cells_that_they_name(builtin: Registry) -> None:
    made = frames([{"defense": d, "seed": s, "surrogate_trigger_matches": m} for d, s, m in CELLS_OF_TWO])
    wanted = experiment(
        'label = "ewe", where = { dataset = "mnist", defense = "ewe" }, quantity = "surrogate_success", above = 35',
        'label = "less", where = { defense = "ewe" }, less = { defense = "baseline" }, '
        'quantity = "surrogate_success", below = 0',
        'label = "same", where = { defense = "baseline[placement=corner]" }, quantity = "surrogate_success"',
        'label = "other", where = { dataset = "digits" }, quantity = "surrogate_success", below = 0',
    )
    ewe, less, same, other = compare(wanted, made, builtin.component)
    assert ewe.values == {0: 60.0, 1: 50.0, 2: 70.0} and ewe.verdict == "reproduced"  # 60 ± 24.8
    assert less.values == {0: 58.0, 1: 47.0} and less.unit == "points", "a seed of one scheme alone is no pair"
    assert less.verdict == "undecided"  # 52.5 ± 5.5 x 12.7
    assert same.values == {0: 2.0, 1: 3.0} and same.verdict == "no claim"
    assert same.spread == spread([2.0, 3.0], (0, 100)) and same.spread.low == 0, "2.5 ± 6.4"
    assert less.spread == spread([58.0, 47.0], (-100, 100)) and less.spread.high == 100
    assert other.verdict == "not run" and other.spread is None


CELLS_OF_TWO = [("ewe", 0, 60), ("ewe", 1, 50), ("ewe", 2, 70), ("baseline", 0, 2), ("baseline", 1, 3)]


def test_models_of_which_none_is_useful_are_no_result(builtin: Registry) -> None:
    made = frames([{"surrogate_accuracy": 0.2}, {"surrogate_accuracy": 0.3}])
    (row,) = compare(experiment('label = "x", quantity = "surrogate_success", above = 1'), made, builtin.component)
    assert row.verdict == "no useful model" and row.useless == 2


def test_copies_without_a_mark_have_none_to_lose(builtin: Registry) -> None:
    wanted = experiment('label = "x", quantity = "accuracy_when_lost", about = 60, tolerance = 10')
    pruned = [{"surrogate_accuracy": a, "surrogate_trigger_matches": 9} for a in (0.95, 0.2)]
    (row,) = compare(wanted, frames(pruned), builtin.component)
    assert (row.verdict, row.unmarked, row.useless) == ("no mark to lose", 2, 0), "their answers count, useful or not"
    (row,) = compare(wanted, frames([{**pruned[0], "status": "failed"}]), builtin.component)
    assert row.verdict == "not run"
    paired = experiment('label = "x", less = { defense = "baseline" }, quantity = "accuracy_when_lost"')
    marked = [{"seed": 0, "surrogate_trigger_matches": m, "surrogate_accuracy": m / 100} for m in (95, 5)]
    (row,) = compare(paired, frames(marked), builtin.component)
    assert (row.verdict, row.unmarked) == ("not run", 0), "it is the other that was not run"


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({}, "reproduced"),
        ({"dataset": "mnist[train=2000]"}, "reproduced at another setting"),
        ({"defense": "ewe[weight=1.0]"}, "reproduced at another setting"),
        ({"attack": "retraining[epochs=3]"}, "reproduced at another setting"),
        ({"dataset": "mnist[train=2000]", "surrogate_trigger_trials": 1000}, "differs"),
    ],
)
def test_another_setting_than_the_papers_is_named(builtin: Registry, change: dict[str, Any], verdict: str) -> None:
    made = frames([{"surrogate_trigger_matches": m} | change for m in (60, 61, 62)])
    claim = 'quantity = "surrogate_success", above = 40, where = { attack = "retraining*" }'
    (row,) = compare(experiment(f'label = "x", {claim}'), made, builtin.component)
    assert row.verdict == verdict


def test_a_difference_at_another_setting_is_named(builtin: Registry) -> None:
    """One side alone is enough."""
    cells = [{"defense": "ewe", "seed": s, "surrogate_trigger_matches": 60 + s} for s in range(3)]
    cells += [{"defense": "baseline[patch=3]", "seed": s, "surrogate_trigger_matches": 2 + 2 * s} for s in range(3)]
    claim = 'less = { defense = "baseline*" }, quantity = "surrogate_success", above = 0'
    row = experiment(f'label = "x", where = {{ defense = "ewe" }}, {claim}')
    (found,) = compare(row, frames(cells), builtin.component)
    assert found.verdict == "reproduced at another setting"


def test_a_dataset_is_matched_by_name_unless_options_are_given() -> None:
    cells = pd.DataFrame({"dataset": ["mnist", "mnist[train=5]", "fashion-mnist"], "defense": "ewe", "attack": "none"})
    assert list(chosen(cells, {"dataset": ["mnist"]}).index) == [0, 1]
    assert list(chosen(cells, {"dataset": ["mnist[train=5]"]}).index) == [1]
    assert list(chosen(cells, {"dataset": ["mnist", "fashion-mnist"]}).index) == [0, 1, 2]
    assert list(chosen(cells, {"defense": ["ewe*"], "attack": ["re*"]}).index) == []


def test_data_sets_of_one_name_are_told_apart_by_the_options_in_which_they_differ() -> None:
    assert told_apart(["digits[train=9]", "digits[train=9]"]) == {"digits[train=9]": "digits"}
    told = told_apart(["mnist[train=9,epochs=2]", "mnist[train=9,epochs=4]", "mnist[train=9]", "digits[train=9]"])
    assert list(told.values()) == ["mnist[epochs=2]", "mnist[epochs=4]", "mnist", "digits"]


def test_what_is_drawn_is_tidy(builtin: Registry) -> None:
    made = frames([{}, {"x": 0.5, "series": "s"}])
    wanted = experiment('label = "ewe", quantity = "surrogate_success", above = 40')
    strips = drawn(wanted, compare(wanted, made, builtin.component), made, builtin.component)
    assert list(strips["value"]) == [50.0, 50.0] and list(strips["paper_low"]) == [40.0, 40.0]
    swept = experiment(
        'label = "ewe", quantity = "surrogate_success"', picture='kind = "sweep", x = "attack.fraction", y = ["margin"]'
    )
    assert list(drawn(swept, [], made, builtin.component)["x"]) == [0.5]
    empty = made.of(made.cells[:0])
    for kind in ("strips", "histogram", "points", "curves"):
        nothing = replace(wanted, picture=replace(wanted.picture, kind=kind))
        assert drawn(nothing, [], empty, builtin.component).empty, kind


def test_a_map_of_class_pairs_is_one_a_scheme_and_a_scatter_tells_few_schemes_apart(builtin: Registry) -> None:
    pairs = [("mnist[train=9]", 1, 7), ("mnist[train=9,source=3,target=5]", 3, 5)]
    schemes = ("ewe", "ewe[variant=official]")
    cells = [{"dataset": d, "defense": e, "source": s, "target": t} for d, s, t in pairs for e in schemes]
    row = 'label = "ewe", quantity = "surrogate_success"'
    mapped = drawn(experiment(row, picture='kind = "heatmap", y = ["margin"]'), [], frames(cells), builtin.component)
    assert set(mapped["panel"]) == {f"mnist: {each}" for each in schemes}
    assert {*zip(mapped["label"], mapped["column"], strict=True)} == {(1, 7), (3, 5)}
    scatter = experiment(row, picture='kind = "scatter", x = "victim_accuracy", y = ["margin"]')
    assert set(drawn(scatter, [], frames(cells), builtin.component)["series"]) == set(mapped["panel"])
    many = frames([{"defense": f"ewe[weight={k}]"} for k in range(5)])
    assert set(drawn(scatter, [], many, builtin.component)["series"]) == {"mnist: ewe"}


def test_reasons_are_told_once_with_short_names() -> None:
    from harness.cli.reproduce import _reasons

    names = ["mnist[train=9,epochs=2]", "mnist[train=9,epochs=4]", "fashion-mnist[train=9]"]
    said = [f"{names[0]}: too bright\nTraceback", f"{names[0]}: too bright\nTraceback", f"{names[2]}: no patch"]
    rows = pd.DataFrame({"status": "skipped", "reason": said})
    assert _reasons(rows, "cells", told_apart(names)) == [
        "skipped: 1 cells: fashion-mnist: no patch",
        "skipped: 2 cells: mnist[epochs=2]: too bright",
    ]


# --- the command line -------------------------------------------------------------------------------------------------


def test_listing_never_imports_torch_or_pandas() -> None:
    asked = [["reproduce", *words, "--list"] for words in ([], ["ewe-2021"], ["ewe-2021", "figure-13"])]
    said = without({"torch._C", "pandas", "seaborn", "matplotlib", "pyarrow"}, *asked)
    assert said.count("figure-13: Pruning the extracted model") == len(asked)
    assert said.count("cells: 165 at full, 120 at small") == len(asked)


@pytest.mark.slow
def test_an_experiment_runs_compares_draws_and_has_nothing_left(cli: Cli, tmp_path: Path, paper_file: Path) -> None:
    results = tmp_path / "results"
    before = cli("reproduce", paper_file, "table1", "--results", results, "--no-run", code=0)
    assert before.out.count("not run") >= 4 and "16 of 16 cells are not run" in before.out
    assert "No picture" in before.out and not results.exists()
    first = cli("reproduce", paper_file, "table-1", "--results", results, code=0)
    assert "table-1: ran " in first.err and "16 ok" in first.err
    assert "Scale small is NOT the paper's setting" in first.out
    assert "unverified: 1.0 ± 0.1" in first.out
    picture = results / "figures" / "a-paper-table-1-small.png"
    assert picture.read_bytes().startswith(b"\x89PNG") and picture.with_suffix(".csv").exists()
    again = cli("reproduce", paper_file, "table-1", "--results", results, "--format", "json", code=0)
    assert "nothing to do" in again.err
    (found,) = json.loads(again.out)
    rows = found["rows"]
    assert [row["n"] for row in rows] == [2, 2, 2, 2, 2] and found["cells"] == {"ok": 16}
    assert rows[1]["verdict"] == "differs" and rows[1]["paper_low"] == 200 and rows[1]["paper_high"] is None
    assert rows[2]["verdict"] == "unverified" and rows[3]["verdict"] == "reproduced at another setting"
    assert set(rows[0]["values"]) == {"0", "1"}
    asked = harness.read_table(results, "evidence")
    control = asked[
        (asked["suspect"] == "same-data") & (asked["probe"] == "trigger") & (asked["defense"] == "baseline")
    ]
    shares = dict(zip(control["seed"].astype(str), 100 * control["matches"] / control["trials"], strict=True))
    assert len(shares) == 2 and rows[4]["values"] == pytest.approx(shares)


@pytest.mark.slow
def test_the_passes_of_a_scheme_are_parts_of_the_recipes_epochs(cli: Cli, tmp_path: Path, paper_file: Path) -> None:
    # One epoch of embedding is left, in which the released recipe passes six times over the target class.
    run = ["reproduce", paper_file, "figure-6", "--seeds", "0", "--results", tmp_path, "--format", "json", "--quiet"]
    (found,) = json.loads(cli(*run, code=0).out)
    assert 1 / 6 <= found["rows"][0]["mean"] <= 1
    shown = pd.read_csv(tmp_path / "figures" / "a-paper-figure-6-small.csv")
    assert shown["x"].max() == 1 and shown["x"].nunique() == 6


@pytest.mark.slow
def test_another_experiment_shares_the_store_and_leaves_the_first_one_alone(
    cli: Cli, tmp_path: Path, paper_file: Path
) -> None:
    results = tmp_path / "results"
    one = ["reproduce", paper_file, "table-1", "--results", results, "--seeds", "0", "--format", "csv", "--quiet"]
    first = cli(*one, code=0)
    assert "n,1," not in first.out and first.out.startswith("paper_name,experiment,scale,label,quantity")
    swept = cli("reproduce", paper_file, "figure-9", "--results", results, "--format", "markdown", code=0)
    assert "figure-9: nothing to do" in swept.err and "| all | surrogate success |" in swept.out
    drawn_ = pd.read_csv(results / "figures" / "a-paper-figure-9-small.csv")
    assert list(drawn_["x"].unique()) == [0.2, 0.5], "in the plan's order"
    assert drawn_["series"].nunique() == 1
    assert cli(*one, "--no-run", code=0).out == first.out


def test_a_record_is_compared_and_left_as_it_is(cli: Cli) -> None:
    record = ROOT / "results" / "records" / "2026-11-28-mnist-v1-full-size"
    before = {path: path.stat().st_mtime_ns for path in record.rglob("*")}
    asked = ["reproduce", "ewe-2021", "table-1-v1", "--dataset", "mnist", "--scale", "full", "--results", record]
    said = cli(*asked, "--no-run", "--format", "markdown", code=0).out
    assert "| MNIST: EWE | held-out success | 5 | 61.44 ± 27.85 | 6.27 ± 7.52 | 0.00 to 15.61 | differs |" in said
    assert "No picture: nothing is written to a record." in said
    assert "is a record, and is never changed" in cli(*asked, code=2).err
    assert {path: path.stat().st_mtime_ns for path in record.rglob("*")} == before


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["ewe-2021", "figure-77"], "unknown experiment 'figure-77'"),
        (["ewe-2012", "table-1"], "unknown paper 'ewe-2012'. Did you mean 'ewe-2021'?"),
        (["ewe-2021", "table-1-v1", "--scale", "smal"], "unknown scale 'smal'. Did you mean 'small'?"),
        (["ewe-2021", "figure-13", "--scale", "packed"], "unknown scale 'packed'. Known: full, small"),
        (
            ["ewe-2021", "table-1-v1", "--dataset", "mnit"],
            "unknown data set of these experiments 'mnit'. Did you mean 'mn",
        ),
        (["ewe-2021", "figure-1", "--dataset", "mnist"], "unknown data set of these experiments 'mnist'. Known: none"),
        (["ewe-2021"], "--list"),
        ([], "name a paper: ewe-2021"),
        (["ewe-2021", "table-1-v1", "--seeds", "x"], "cannot read seeds 'x'"),
        (["none.toml", "table-1"], "cannot read the paper none.toml"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(cli: Cli, tmp_path: Path, args: list[str], message: str) -> None:
    ended = cli("reproduce", *args, "--results", tmp_path / "results", "--no-run", code=2)
    assert message in ended.err and ended.err.count("\n") == 1 and not ended.out
    assert not (tmp_path / "results").exists()


def test_the_paper_files_are_inside_the_package() -> None:
    import harness

    for path in papers().values():
        assert path.is_relative_to(Path(harness.__file__).parent)
    assert "ewe-2021" in papers()
