"""Attackers: the data that they have, the labels that they train on, and the queries that they ask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import harness
from harness import Oracle, Pool, Split, nets
from harness.data import Data
from harness.engine.train import Engine
from harness.errors import Refused, UsageError
from harness.planning.registry import load_registry
from plugins.attacks.fine_tuning import FineTuning
from plugins.attacks.retraining import Retraining
from plugins.datasets.digits import Digits
from tests.conftest import Cli

CPU = torch.device("cpu")
DIGITS = Digits(train=100, epochs=2, pretrain=1)


@pytest.fixture(scope="module")
def owned() -> Split:
    return Data(Path()).splits(DIGITS, 0, CPU).train


def first_pixel(x: torch.Tensor) -> torch.Tensor:
    """Logits that say class 1 to 3, by the brightness of the first pixel; the brightest is refused."""
    value = nets.as_float(x).flatten(1)[:, 0]
    logits = torch.stack([value * 0, 1 - value, value, value * 2 - 1], 1)
    return torch.where((value > 0.99)[:, None], torch.nan, logits)


def four_classes(count: int) -> Pool:
    x = torch.linspace(0, 0.9, count).view(-1, 1, 1, 1).expand(-1, 1, 8, 8).contiguous()
    return Pool(Digits().public(), x)


@pytest.mark.parametrize("answers", ["labels", "top-1", "probabilities"])
@pytest.mark.parametrize(("queries", "asked"), [(None, 20), (1, 1), (7, 7), (500, 20)])
def test_an_extraction_asks_the_budget_and_no_more(answers: Any, queries: int | None, asked: int) -> None:
    attack = Retraining(answers=answers, queries=queries)
    oracle = Oracle(first_pixel, attack.answers, attack.budget)
    stolen = attack.stolen(oracle, four_classes(20))
    assert len(stolen) == oracle.queries == asked
    assert stolen.y.ndim == (1 if answers == "labels" else 2)


def test_top_1_targets_spread_the_rest_evenly_and_refusals_are_left_out() -> None:
    pool = four_classes(4)
    pool.x[3] = 1.0
    attack = Retraining(answers="top-1")
    oracle = Oracle(lambda x: torch.cat([first_pixel(x), torch.full((len(x), 6), -9.0)], 1), attack.answers)
    stolen = attack.stolen(oracle, pool)
    assert len(stolen) == 3 and oracle.unanswered == 1
    assert torch.allclose(stolen.y.sum(1), torch.ones(3))
    rest = stolen.y.sort(1).values[:, :-1]
    assert torch.allclose(rest, rest[:, :1].expand_as(rest)), "nine classes share what the answer left"


def test_retraining_reads_the_words_that_it_had_for_answers() -> None:
    known = load_registry()
    for former, now in (("hard", ""), ("top-1", "[answers=top-1]"), ("soft", "[answers=probabilities]")):
        assert known.component("attack", f"retraining[labels={former}]").text == f"retraining{now}"
    with pytest.raises(UsageError, match="unknown option of retraining 'labels'"):
        known.component("attack", "retraining[labels=other]")


@pytest.mark.parametrize("queries", [0, -3])
def test_a_budget_is_positive(queries: int) -> None:
    with pytest.raises(UsageError, match="queries"):
        Retraining(queries=queries)


@pytest.mark.parametrize("share", [0, -0.1, 1.1])
def test_a_share_is_above_0_and_at_most_1(share: float) -> None:
    with pytest.raises(UsageError, match="pool_share"):
        FineTuning(pool_share=share)


def test_a_tuning_attack_trains_on_true_labels_or_on_the_model_s_own(owned: Split) -> None:
    use = load_registry().component("architecture", "mlp")
    engine = Engine(CPU, torch.Generator().manual_seed(0), DIGITS.public(), use.plugin, use.text)
    net = engine.build()
    pool = Pool(DIGITS.public(), owned.x, owned.y)
    assert torch.equal(FineTuning().data(net, pool, engine).y, owned.y)
    unlabelled = Pool(DIGITS.public(), owned.x)
    own = FineTuning(labels="model").data(net, unlabelled, engine).y
    assert torch.equal(own, engine.predict(net, owned.x).argmax(1)) and not torch.equal(own, owned.y)
    with pytest.raises(Refused, match="labelled"):
        FineTuning().data(net, unlabelled, engine)
    assert FineTuning().has_labels and not FineTuning(labels="model").has_labels


def test_shares_of_a_pool_and_labels_from_the_model(cli: Cli, tmp_path: Path) -> None:
    attacks = [
        "retraining[pool_share=0.05]",
        "fine-tuning[pool_share=0.2,labels=model]",
        "fine-tuning[pool_share=0.001]",
        "fine-tuning[pool=photo-patches]",
        "fine-tuning[pool=photo-patches,pool_share=0.1,labels=model]",
    ]
    use = [text for attack in attacks for text in ("--attack", attack)]
    data = "digits[train=100,epochs=2,pretrain=1,batch_size=16]"
    results = tmp_path / "results"
    common = ("--defense", "adi", "--seeds", "0", "--nulls", "1", "--results", results)
    cli("run", "--dataset", data, *use, *common, code=0)
    queries = harness.read_table(results, "stages").query("action == 'attack'")["queries"].dropna()
    assert set(queries) == {5}, "five of a hundred inputs, one query each"
    cells = harness.read_table(results, "cells").query("defense == 'adi'").set_index("attack")
    assert cells.loc[attacks[0]].isna()["labelled_share"]
    assert not cells.loc["fine-tuning[pool_share=0.2,labels=model]", "labelled"]
    assert cells.loc["fine-tuning[pool_share=0.001]", ["status", "labelled_share"]].tolist() == ["ok", 0.001]
    assert "labels of another task" in cells.loc["fine-tuning[pool=photo-patches]", "reason"]
    assert cells.loc[attacks[-1], "status"] == "ok"
