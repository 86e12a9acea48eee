"""Analyses through the command line, on real digits: rows of the table measurements, and what they must say."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch

import harness
from harness import Key, Probe, Split, metrics
from harness.data import Data
from harness.nets import as_float, penultimate
from harness.planning.registry import load_registry
from harness.storage.codec import Loaded, unpack
from harness.storage.store import Store
from tests.conftest import TINY, Cli

CPU = torch.device("cpu")
ALL = ("activation-frequency", "cka", "class-similarity", "projection")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results")


def run(cli: Cli, results: Path, *analyses: str, attacks: tuple[str, ...] = ("none", "retraining")) -> str:
    chosen = [part for name in analyses for part in ("--analysis", name)]
    chosen += [part for name in attacks for part in ("--attack", name)]
    return cli(
        *("run", "--dataset", TINY, "--defense", "baseline", "--seeds", "0", "--nulls", "1", "--no-innocents"),
        *(*chosen, "--results", results),
        code=0,
    ).out


@pytest.fixture
def measured(cli: Cli, results: Path) -> pd.DataFrame:
    run(cli, results, *ALL)
    return harness.read_table(results, "measurements")


def stored(results: Path, attack: str) -> Loaded:
    cells = harness.read_table(results, "cells")
    model = cells.loc[cells["attack"] == attack, "model"].item()
    return unpack(Store(results).load(model), load_registry().component, CPU)


def of(frame: pd.DataFrame, analysis: str, attack: str = "none", **columns: str) -> pd.DataFrame:
    frame = frame[(frame["analysis"] == analysis) & (frame["attack"] == attack)]
    for column, value in columns.items():
        frame = frame[frame[column] == value]
    return frame.sort_values(["layer", "group", "quantity", "index"])


def test_frequencies_are_those_of_the_stored_model(measured: pd.DataFrame, results: Path) -> None:
    victim, test = stored(results, "none"), Data(Path()).test(load_registry().component("dataset", TINY).plugin, CPU)
    _, activations = victim.net.activations(test.x)
    dense = (activations["dense"] > 0).double().mean(0)
    conv = (activations["conv1"] > 0).double().mean((0, 2, 3))
    for layer, expected in (("dense", dense), ("conv1", conv)):
        rows = of(measured, "activation-frequency", layer=layer, group="task")
        torch.testing.assert_close(torch.tensor(rows["value"].to_numpy()), expected, atol=1e-6, rtol=0)
    assert set(of(measured, "activation-frequency")["group"]) == {"task", "trigger"}


def test_cka_pairs_a_trigger_with_its_source(measured: pd.DataFrame, results: Path) -> None:
    victim = stored(results, "none")
    probes = victim.key.probes
    pairs = [as_float(probes[name].x) for name in ("held_out", "control")]
    taps = [victim.net.activations(x)[1]["dense"].relu().flatten(1).detach() for x in pairs]
    rows = of(measured, "cka", layer="dense").set_index("quantity")["value"]
    assert rows["cka"] == pytest.approx(metrics.linear_cka(*taps)) and rows["pairs"] == len(pairs[0])
    changed = (pairs[0] != pairs[1]).flatten(2).any(1).sum(1)
    assert (changed <= 4).all() and (changed > 0).any()  # a 2 x 2 patch is all that differs: they are pairs


def test_projections_are_principal_components(measured: pd.DataFrame, results: Path) -> None:
    rows = of(measured, "projection")
    assert set(rows["group"]) == {"", "trigger", "target", "source", "other"}
    points = rows[rows["quantity"].isin(["x", "y"])].pivot(index=["group", "index"], columns="quantity", values="value")
    assert abs(points.mean()).max() < 1e-6 and points["x"].var() >= points["y"].var()
    assert abs(points["x"].corr(points["y"])) < 1e-6
    explained = rows.loc[rows["quantity"] == "explained", "value"]
    assert len(explained) == 2 and 0 < explained.sum() <= 1


def test_similarities_are_means_over_all_pairs(measured: pd.DataFrame, results: Path) -> None:
    victim, test = stored(results, "none"), Data(Path()).test(load_registry().component("dataset", TINY).plugin, CPU)
    features = penultimate(victim.net, test.x)
    unit = torch.nn.functional.normalize(features.double(), dim=1)
    expected = (unit[test.y == 3] @ unit[test.y == 5].T).mean()
    row = of(measured, "class-similarity", layer="penultimate", group="3")
    assert row.loc[row["index"] == 5, "value"].item() == pytest.approx(float(expected))
    assert len(of(measured, "class-similarity")) == 200


def test_an_analysis_is_cached_and_its_rows_stay_when_it_is_not_asked_for(
    measured: pd.DataFrame, cli: Cli, results: Path
) -> None:
    assert run(cli, results, *ALL).startswith("nothing to do")
    assert run(cli, results).startswith("nothing to do")
    assert len(harness.read_table(results, "measurements")) == len(measured)
    assert set(measured["attack"]) == {"none", "retraining"}
    # Each row is of a model that a cell has now.
    assert set(measured["model"]) == set(harness.read_table(results, "cells")["model"])


def test_an_analysis_that_cannot_be_made_skips_itself_and_no_cell(cli: Cli, tmp_path: Path) -> None:
    cli(
        *(
            "run",
            "--dataset",
            TINY,
            "--defense",
            "adi[count=20]",
            "--attack",
            "none",
            "--seeds",
            "0",
            "--nulls",
            "0",
            "--no-innocents",
        ),
        *("--analysis", "cka", "--analysis", "projection[method=umap]", "--results", tmp_path),
        code=0,
    )
    assert set(harness.read_table(tmp_path, "cells")["status"]) == {"ok"}
    stages = harness.read_table(tmp_path, "stages")
    ended = stages[stages["action"] == "analyse"].set_index("plugin")
    assert len(ended) == 2 and ended.loc["cka", "status"] in ("ok", "skipped")
    umap = ended.loc["projection[method=umap]"]
    assert umap["status"] == "ok" or "pip install 'watermark-harness[umap]'" in umap["reason"]


LACKING = '''
"""An analysis by a package that may not be installed."""

from pathlib import Path

import torch

from harness import Analysis, Measure, NotInstalled


class Lacking(Analysis):
    """One, where the package is installed."""

    name = "lacking"

    def run(self, model, task, test, key, ctx):
        if not Path({place!r}).exists():
            raise NotInstalled("the package is not installed: pip install package")
        return [Measure("one", torch.ones(1))]
'''


def test_a_package_that_is_installed_later_is_used_by_the_next_run(cli: Cli, tmp_path: Path) -> None:
    place, results = tmp_path / "package", tmp_path / "results"
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "lacking.py").write_text(LACKING.format(place=str(place)), "utf-8")
    axes = ["--dataset", TINY, "--defense", "baseline", "--attack", "none", "--seeds", "0", "--nulls", "0"]
    asked = ["run", *axes, "--no-innocents", "--analysis", "lacking", "--results", results]
    asked += ["--plugins", tmp_path / "plugins"]
    for _ in range(2):
        assert "pip install package" in cli(*asked, code=0).err
        assert set(harness.read_table(results, "cells")["status"]) == {"ok"}
    place.touch()
    assert "pip install package" not in cli(*asked, code=0).err
    rows = harness.read_table(results, "measurements")
    assert rows["value"].tolist() == [1.0] and rows["analysis"].tolist() == ["lacking"]
    assert cli(*asked, code=0).out.startswith("nothing to do")


@pytest.mark.parametrize(("controls", "secrets"), [(4, {"mask": torch.ones(8, 8)}), (5, {})])
def test_cka_without_pairs_says_so(controls: int, secrets: dict[str, torch.Tensor]) -> None:
    """A key without a patch has controls of its own, however many: they are no sources of the triggers."""
    from harness.errors import Skip

    cka = load_registry().component("analysis", "cka").plugin
    x = torch.zeros(5, 1, 8, 8)
    probes = {"held_out": Probe(x, torch.zeros(5)), "control": Probe(x[:controls], torch.zeros(controls))}
    key = Key(probes, secrets)
    with pytest.raises(Skip, match="not paired"):
        cka.run(torch.nn.Identity(), None, Split(x, x), key, None)


def test_an_unknown_analysis_is_named(cli: Cli, tmp_path: Path) -> None:
    ended = cli("run", "--dataset", TINY, "--analysis", "cka2", "--results", tmp_path, code=2)
    assert "unknown analysis 'cka2'. Did you mean 'cka'?" in ended.err
