"""DAWN, and the log of a client's answers that active schemes verify from."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor

import harness
from harness import nets
from harness.contracts import Key, Oracle, Split
from harness.errors import DamagedArtifact
from harness.running.answers import ClientLog
from harness.storage.codec import unpack
from harness.storage.store import Artifact, Store
from plugins.datasets.digits import Digits
from plugins.defenses.dawn import Dawn, _code
from tests.conftest import TINY, command_line

X = torch.rand(2000, 1, 8, 8, generator=torch.Generator().manual_seed(0))
LOGITS = torch.randn(2000, 10, generator=torch.Generator().manual_seed(1))


def key(bits: int = 16, secret: int = 7) -> Key:
    tensors = {"secret": torch.full((32,), secret, dtype=torch.uint8), **_code(X, bits)}
    return Key({"control": Split(X[:10], LOGITS[:10].argmin(1))}, tensors)


def test_every_picked_query_gets_a_wrong_answer_whatever_is_asked_for() -> None:
    served = Dawn(rate=0.2).serve(X, LOGITS, key())
    changed = (served != LOGITS).any(dim=1)
    assert 0.1 < changed.float().mean() < 0.3
    assert (served.argmax(1) != LOGITS.argmax(1))[changed].all()
    assert torch.equal(served.sort(dim=1).values, LOGITS.sort(dim=1).values), "the probabilities are exchanged"
    wrong = (served.argmax(1) - LOGITS.argmax(1))[changed] % 10
    assert len(wrong.unique()) == 9, "every wrong class serves"


def test_an_answer_depends_on_the_query_and_the_key_and_on_nothing_else() -> None:
    scheme, order = Dawn(rate=0.2), torch.randperm(2000, generator=torch.Generator().manual_seed(3))
    served = scheme.serve(X, LOGITS, key())
    assert torch.equal(scheme.serve(X[order], LOGITS[order], key()), served[order])
    assert torch.equal(
        torch.cat([scheme.serve(x, z, key()) for x, z in zip(X.split(7), LOGITS.split(7), strict=True)]), served
    )
    other = scheme.serve(X, LOGITS, key(secret=8))
    both = ((served != LOGITS).any(1) & (other != LOGITS).any(1)).float().mean()
    assert both < 0.1, "another key picks other queries"


def test_small_noise_seldom_hides_a_query() -> None:
    scheme, generator = Dawn(rate=0.2), torch.Generator().manual_seed(4)
    digits = nets.as_float(torch.from_numpy(Digits().load(Path()).x_train))
    secret = Key(tensors={**key().tensors, **_code(digits, 16)})
    logits = torch.randn(len(digits), 10, generator=generator)

    def picked(x: Tensor) -> Tensor:
        return (scheme.serve(x, logits, secret) != logits).any(1)

    for noise, least in ((0.001, 0.95), (0.01, 0.85)):
        near = digits + noise * torch.randn(digits.shape, generator=generator)
        assert picked(near)[picked(digits)].float().mean() > least


def test_a_log_holds_each_marked_query_once_with_its_first_answer() -> None:
    log, logits = ClientLog(), torch.eye(4)
    x = torch.arange(4, dtype=torch.uint8)[:, None]
    answers = logits[[0, 2, 1, 3]]
    answers[3] = torch.nan
    log.add(x, logits, answers)
    log.add(x, logits, logits[[1, 1, 1, 3]])
    made = log.split()
    assert made and made.x.flatten().tolist() == [1, 2, 0] and made.y.tolist() == [2, 1, 1]
    assert ClientLog().split() is None, "nobody asked"
    log = ClientLog()
    log.add(x, logits, logits)
    empty = log.split()
    assert empty is not None and len(empty) == 0


def test_entries_of_a_log_that_the_key_did_not_mark_count_for_nothing() -> None:
    scheme, secret = Dawn(rate=0.2), key()
    served = scheme.serve(X, LOGITS, secret)
    picked = (served != LOGITS).any(1)
    known = {tuple(row.flatten().tolist()): answer for row, answer in zip(X, served, strict=True)}

    def victim(x: Tensor) -> Tensor:
        return torch.stack([known[tuple(row.flatten().tolist())] for row in x])

    forged = Split(X, served.argmax(1))
    counts = scheme.verify_log(Oracle(victim), secret, forged).counts
    assert counts["trigger"].trials == counts["trigger"].matches == int(picked.sum())
    assert counts["control"].matches == 0


def test_two_classes_are_too_few() -> None:
    class Two(Digits):
        classes = ("a", "b")

    assert "three classes" in str(Dawn().skip(Two(source=0, target=1)))
    assert Dawn().skip(Digits()) is None


# --- through the command line -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("dawn")
    attacks = ("none", "retraining", "retraining | fine-tuning", "retraining[queries=1]", "fine-tuning")
    options = [part for attack in attacks for part in ("--attack", attack)]
    defense = ("--defense", "dawn[rate=0.1]", "--dataset", TINY, "--seeds", "0-1", "--nulls", "2")
    assert command_line("run", *defense, *options, "--results", results, "--quiet") == 0
    return results


def cells_of(tables: Path) -> pd.DataFrame:
    cells = harness.read_table(tables, "cells")
    return cells[cells["defense"] == "dawn[rate=0.1]"].set_index(["attack", "seed"])


@pytest.mark.slow
def test_what_the_api_answered_to_the_client_is_what_the_owner_asks(tables: Path) -> None:
    cells = cells_of(tables)
    for seed in (0, 1):
        direct, chained = cells.loc[("retraining", seed)], cells.loc[("retraining | fine-tuning", seed)]
        assert direct["victim_trigger_matches"] == direct["victim_trigger_trials"] > 10, "its API says so by itself"
        assert direct["surrogate_trigger_trials"] == chained["surrogate_trigger_trials"]
        assert direct["null_trigger_trials"] == 2 * direct["surrogate_trigger_trials"]
        evidence = harness.read_table(tables, "evidence").set_index(["cell", "probe"]).loc[(direct["cell"], "trigger")]
        assert (evidence["trials"] == direct["surrogate_trigger_trials"]).all() and "fresh" in set(evidence["suspect"])
        assert direct["victim_raw_accuracy"] >= direct["victim_accuracy"]
        outside = cells.loc[("fine-tuning", seed)]
        assert outside["status"] == "skipped" and "protects only its API" in outside["reason"]


def test_a_client_without_a_marked_answer_has_no_trials(tables: Path) -> None:
    cells = cells_of(tables)
    one = cells.loc["retraining[queries=1]"]
    assert (one["status"] == "ok").all()
    assert (one["surrogate_trigger_trials"] <= 1).all() and (one["surrogate_trigger_trials"] == 0).any()


def test_each_client_has_a_log_of_its_own(tables: Path) -> None:
    store = Store(tables)
    stages = harness.read_table(tables, "stages")
    attacks = stages[(stages["action"] == "attack") & (stages["role"] == "surrogate")]
    for row in attacks.itertuples():
        names = store.load(row.stage).tensors
        first = "retraining" in row.plugin and "dawn" in row.label
        assert ("log/x" in names) is first, "only who asked the API is in a log"
    nulls = stages[(stages["action"] == "attack") & (stages["role"] == "attacked")]
    assert not any("log/x" in store.load(id).tensors for id in nulls["stage"])


def test_a_log_that_no_stage_would_have_stored_is_damaged() -> None:
    for tensors in ({"log/x": torch.zeros(3, 1)}, {"log/x": torch.zeros(3, 1), "log/y": torch.zeros(2)}):
        with pytest.raises(DamagedArtifact):
            unpack(Artifact({}, tensors), lambda kind, name: pytest.fail("no plugin is asked"), torch.device("cpu"))
