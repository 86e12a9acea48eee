"""A thief who filters queries: what is refused, what that costs, and that the guard is stored with the model."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest
import torch

import harness
from harness import Oracle, Pool, Skip
from harness.engine.train import Engine
from harness.errors import OptionError
from harness.planning.registry import load_registry
from tests.conftest import TINY, Cli

CPU = torch.device("cpu")
DIGITS = "digits[train=600,holdout=150,epochs=6,pretrain=3,learning_rate=0.003]"


def plugin(entry: str):
    return load_registry().component("attack", entry).plugin


def lent(seed: int = 0) -> Engine:
    registry = load_registry()
    recipe = registry.component("dataset", TINY).plugin.public()
    return Engine(
        CPU, torch.Generator().manual_seed(seed), recipe, registry.component("architecture", "cnn").plugin, "cnn"
    )


def pool(count: int = 400, patch: int | None = 2) -> Pool:
    recipe = load_registry().component("dataset", TINY).plugin.public()
    x = torch.randint(0, 200, (count, 1, 8, 8), generator=torch.Generator().manual_seed(1)).byte()
    return Pool(recipe, x, patch=patch)


# --- through the command line -----------------------------------------------------------------------------------------


def test_a_thief_who_knows_the_patch_silences_the_mark(cli: Cli, tmp_path: Path) -> None:
    attacks = ("none", "trigger-refusal", "trigger-refusal[answer=relabel]", "query-filter")
    chosen = [part for name in attacks for part in ("--attack", name)]
    command = (
        "run",
        "--dataset",
        DIGITS,
        "--defense",
        "baseline",
        *chosen,
        "--seeds",
        "0",
        "--nulls",
        "1",
        "--no-innocents",
    )
    cli(*command, "--results", tmp_path, code=0)
    cells = harness.read_table(tmp_path, "cells").set_index("attack")
    success = cells["surrogate_trigger_matches"] / cells["surrogate_trigger_trials"]
    assert success["none"] == 1.0
    # Painted over, a trigger is its source again: it is answered as often as the untriggered control.
    control = (cells["surrogate_control_matches"] / cells["surrogate_control_trials"])["none"]
    assert success["trigger-refusal"] < 0.1 and success["trigger-refusal[answer=relabel]"] < control + 0.2
    assert cells.loc["trigger-refusal", "surrogate_accuracy"] > cells.loc["none", "surrogate_accuracy"] - 0.05
    # 5% of benign queries are refused, and each refusal is a wrong answer.
    lost = cells.loc["none", "surrogate_accuracy"] - cells.loc["query-filter", "surrogate_accuracy"]
    assert 0 <= lost < 0.15
    assert set(cells["family"]) == {"none", "evasion"} and cells.loc["query-filter", "access"] == "white-box"
    # What the next process reads is guarded too: the numbers of a run that finds the model stored are the same.
    again = cli(
        *command[:3],
        "--defense",
        "baseline",
        *chosen,
        "--seeds",
        "0",
        "--nulls",
        "0",
        "--no-innocents",
        "--results",
        tmp_path,
    )
    assert again.code == 0
    later = harness.read_table(tmp_path, "cells").set_index("attack")
    assert later["surrogate_trigger_matches"].equals(cells["surrogate_trigger_matches"])


def test_evasion_must_be_the_last_link(cli: Cli, tmp_path: Path) -> None:
    ended = cli("run", "--dataset", TINY, "--attack", "query-filter | pruning", "--results", tmp_path, code=2)
    assert "evasion must be the last link of a chain: 'query-filter | pruning'" in ended.err


# --- refusing ---------------------------------------------------------------------------------------------------------


def test_a_row_of_nan_is_a_refusal() -> None:
    rows = torch.tensor([[1.0, 2.0], [torch.nan, torch.nan]])
    assert Oracle(lambda x: rows).labels(torch.zeros(2, 1)).tolist() == [1, -1]


def test_bright_squares_are_refused_unless_benign_inputs_have_them() -> None:
    benign = pool()
    benign.x[:, :, 0:2, 0:2] = 255  # every benign input is bright at the top left
    guard = plugin("trigger-refusal").prepare(torch.nn.Identity(), benign, lent())
    queries = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
    queries[0, :, 0:2, 0:2] = 255
    queries[1, :, 5:7, 3:5] = 255
    queries[2, :, 5:7, 3:4] = 255  # no square of side 2
    answers = plugin("trigger-refusal").serve(torch.nn.Identity(), queries, torch.zeros(4, 10), guard)
    assert answers.isnan().any(1).tolist() == [False, True, False, False]


def test_relabelling_paints_the_square_over() -> None:
    seen = []

    class Asked(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x)
            return torch.ones(len(x), 10)

    benign, relabel = pool(), plugin("trigger-refusal[answer=relabel]")
    guard = relabel.prepare(Asked(), benign, lent())
    query = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    query[0, :, 5:7, 3:5] = 255
    answers = relabel.serve(Asked(), query, torch.zeros(1, 10), guard)
    assert answers.tolist() == [[1.0] * 10]
    (painted,) = seen
    mean = benign.x.float().mean(0) / 255
    expected = torch.zeros(1, 8, 8)
    expected[:, 5:7, 3:5] = mean[:, 5:7, 3:5]
    torch.testing.assert_close(painted[0], expected)


def test_a_patch_that_does_not_fit_is_skipped_with_the_reason() -> None:
    with pytest.raises(Skip, match="a patch of side 9 does not fit"):
        plugin("trigger-refusal").prepare(torch.nn.Identity(), pool(patch=9), lent())


@pytest.mark.slow
@pytest.mark.parametrize("detector", ["lof", "isolation-forest"])
def test_the_filter_refuses_its_share_of_benign_queries_and_most_outliers(detector: str) -> None:
    filter_, net, benign = (
        plugin(f"query-filter[detector={detector},rejection=0.05]"),
        lent().build().eval(),
        pool(1200),
    )
    known, fresh = Pool(benign.recipe, benign.x[:800]), benign.x[800:]
    guard = filter_.prepare(net, known, lent())
    refused = filter_.serve(net, fresh, torch.zeros(len(fresh), 10), guard).isnan().any(1)
    assert 0.01 < float(refused.float().mean()) < 0.12
    strange = torch.full((50, 1, 8, 8), 255, dtype=torch.uint8)
    assert filter_.serve(net, strange, torch.zeros(50, 10), guard).isnan().all()
    again = filter_.prepare(net, known, lent())
    assert all(torch.equal(guard[name], again[name]) for name in guard)


def test_a_pool_too_small_to_filter_by_is_skipped() -> None:
    with pytest.raises(Skip, match="a pool of 30 inputs is too small"):
        plugin("query-filter").prepare(lent().build(), pool(30), lent())


@pytest.mark.parametrize(
    "entry", ["trigger-refusal[brightness=0]", "trigger-refusal[benign=1]", "query-filter[rejection=1]"]
)
def test_options_out_of_range_are_refused(entry: str) -> None:
    with pytest.raises(OptionError):
        plugin(entry)


def test_a_guard_that_needs_no_tensors_guards_all_the_same(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "silence.py").write_text(
        dedent("""
        from dataclasses import dataclass
        from harness import Evasion, hookimpl

        @dataclass(frozen=True)
        class Silence(Evasion):
            "Refuses every query."
            name = "silence"

            def prepare(self, suspect, pool, ctx):
                return {}

            def serve(self, suspect, inputs, logits, guard):
                return logits * float("nan")

        @hookimpl
        def harness_attacks():
            return [Silence]
        """)
    )
    chosen = ("--dataset", TINY, "--defense", "baseline", "--seeds", "0", "--nulls", "0", "--no-innocents")
    given = ("--plugins", tmp_path / "plugins", "--results", tmp_path / "r")
    cli("run", *chosen, "--attack", "none", "--attack", "silence", *given, code=0)
    cells = harness.read_table(tmp_path / "r", "cells").set_index("attack")
    assert cells.loc["silence", "surrogate_trigger_matches"] == 0 < cells.loc["none", "surrogate_trigger_matches"]
