"""Gates: the clean accuracies that data sets expect of unmarked models, in tables, on boards and in records."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.data import Gate
from harness.errors import OptionError
from harness.own_data import OwnData
from harness.planning.graph import text_digest
from harness.planning.registry import load_registry
from harness.ranking.overview import overview_sheet, weakness
from harness.ranking.render import html, markdown, text
from harness.records.freeze import _compared_with
from harness.storage.tables import Tables
from harness.verdicts.board import Estimate
from tests.boards import board, setting
from tests.conftest import Cli
from tests.test_data import Numbered
from tests.verdict_tables import QUIET, SIX, World

REGISTRY = load_registry()
SETS: dict[str, Any] = {name: REGISTRY.found["dataset", name].cls for name in REGISTRY.names("dataset")}
TASKS = [name for name, cls in SETS.items() if hasattr(cls, "gates") and not issubclass(cls, OwnData)]
GATED: Any = type("Gated", (Numbered,), {"gates": (Gate(0.9, 100, "half"), Gate(0.95, 200, "all"), Gate(0.8, 50, "a"))})


# --- what a data set states -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("train", "accuracy"), [(49, None), (50, 0.8), (199, 0.9), (200, 0.95), (400, 0.95)])
def test_the_gate_of_the_most_samples_that_a_recipe_has_counts(train: int, accuracy: float | None) -> None:
    gate = GATED(train=train, epochs=90, architecture="mlp").gate
    assert (gate.accuracy if gate else None) == accuracy


@pytest.mark.parametrize(("values", "message"), [((99.2, 10), "above 0 and at most 1, not 99.2"), ((0.9, 0), "train")])
def test_a_gate_is_a_share_of_some_samples(values: tuple[float, int], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Gate(*values, "somewhere")


@pytest.mark.parametrize("name", TASKS)
def test_gates_say_what_they_rest_on_and_hold_for_sizes_that_there_are(name: str) -> None:
    plugin = REGISTRY.component("dataset", name).plugin
    assert all(gate.source and gate.train < plugin.available for gate in plugin.gates)
    least = sorted(plugin.gates, key=lambda gate: gate.train)
    assert [gate.accuracy for gate in least] == sorted(gate.accuracy for gate in least), "more data give no less"


def test_stating_a_gate_changes_no_digest_of_source() -> None:
    source = "class A:\n    name = 'a'\n    {}\n    def load(self):\n        gates = (Gate(1),)\n"
    plain, stated, other = (
        text_digest(source.format(line).encode())
        for line in ("pass", "gates = (data.Gate(0.9, train=1, source='x'), Gate(0.95, 2, 'y'))\n    pass", "gates = 4")
    )
    assert plain == stated != other
    assert text_digest(source.format("gates = (4,)").encode()) != plain, "an LSTM's, say"


# --- on a board -------------------------------------------------------------------------------------------------------


def world(gate: float | None, *accuracies: float) -> World:
    """Two schemes on six seeds, and unmarked models of these accuracies."""
    made = World()
    for name in "ab":
        made.seeds(SIX, name, accuracy_gate=gate, nulls=QUIET)
    for row in made.evidence:
        if row["suspect"] == "null":
            row["accuracy"] = accuracies[row["index"] % len(accuracies)]
    return made


def test_unmarked_models_stand_beside_their_gate() -> None:
    (here,) = world(0.975, 0.98, 0.99).board().settings
    assert here.accuracy and here.accuracy.n == len(QUIET) and here.accuracy_gate == 0.975 and not here.is_weak
    assert here.accuracy.mean == pytest.approx((10 * 0.98 + 9 * 0.99) / 19) and here.accuracy.low < here.accuracy.mean
    shown = text(overview_sheet(world(0.975, 0.98, 0.99).board()), 100)
    assert "same data, net and recipe (accuracy 98.47%, gate 97.5%)." in " ".join(shown.split())
    assert "Warning" not in shown


def test_weak_models_carry_a_warning_in_every_format() -> None:
    weak = world(0.985, 0.98, 0.99).board()
    (here,) = weak.settings
    assert here.is_weak
    words = "19 unmarked ones have an accuracy of 98.47% [98.23, 98.72], below the gate of 98.5%."
    assert weakness(here) == f"Warning: weak models flatter schemes and attacks. {words}"
    sheet = overview_sheet(weak)
    for shown in (text(sheet, 100), markdown(sheet), html(sheet)):
        assert words in " ".join(shown.split())
    assert json.loads(json.dumps(weak.as_dict()))["settings"][0]["is_weak"] is True
    assert any(words in line for line in _compared_with(weak)), "a record's page says it too"


def test_a_set_without_a_gate_is_never_weak() -> None:
    (here,) = world(None, 0.2).board().settings
    assert here.accuracy and here.accuracy.mean == pytest.approx(0.2) and not here.is_weak and not weakness(here)
    assert "(accuracy 20.00%)." in " ".join(text(overview_sheet(world(None, 0.2).board()), 100).split())


def test_models_of_a_scheme_s_own_net_are_not_the_data_set_s() -> None:
    made = world(0.9, 0.95)
    for row in made.cells:
        if row["defense"] == "a":
            row["accuracy_gate"] = None
    own = {row["cell"] for row in made.cells if row["defense"] == "a"}
    for each in made.evidence:
        if each["cell"] in own and each["suspect"] == "null":
            each["accuracy"] = 0.5
    (here,) = made.board().settings
    assert here.accuracy and here.accuracy.mean == pytest.approx(0.95) and here.accuracy_gate == 0.9


def test_one_weak_model_is_told_without_an_interval() -> None:
    one = Estimate(1, 0.5, float("nan"), float("nan"), float("nan"))
    words = weakness(replace(setting(), accuracy=one, accuracy_gate=0.9, is_weak=True))
    assert words.endswith("1 unmarked one has an accuracy of 50.00%, below the gate of 90%.")
    assert "Warning" in text(overview_sheet(board(settings=[setting(accuracy=one, accuracy_gate=0.9, is_weak=True)])))


@pytest.mark.slow
def test_a_run_writes_the_gate_and_the_board_shows_it(smoke: Path, cli: Cli) -> None:
    cells = Tables(smoke).read("cells")
    assert cells["accuracy_gate"].unique().tolist() == [0.975]
    shown = " ".join(cli("leaderboard", "--results", smoke, code=0).out.split())
    mean = 100 * cells["null_accuracy"].iloc[0]
    assert f"(accuracy {mean:.2f}%, gate 97.5%)" in shown
    assert ("Warning: weak models flatter" in shown) == (mean < 97.5)


# --- a thief's own half -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["mnist", "fashion-mnist", "cifar-10", "cifar-10-packed", "cifar-100", "speech-commands", "speech-commands-packed"],
)
def test_a_thief_can_have_as_many_samples_of_its_own_as_the_owner(name: str) -> None:
    plugin = REGISTRY.component("dataset", name).plugin
    assert 2 * plugin.train + plugin.holdout <= plugin.available <= 2.5 * plugin.train + plugin.holdout
