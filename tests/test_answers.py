"""Odd answers of an API: refused, sure, wrong; what stages make of them, and who is named."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import harness
from harness.contracts import Oracle, Split, classes_of
from harness.engine.memo import ResultCache
from harness.errors import Skip
from harness.running.answers import finite
from tests.conftest import TINY, Cli

INF, NAN = float("inf"), float("nan")
PLUGINS = """
    from __future__ import annotations

    from typing import Literal

    import torch

    from harness import BlackBoxAttack, Defense, Evasion, Key, Marked, Split

    def odd(how, logits):
        top = torch.nn.functional.one_hot(logits.argmax(1), logits.shape[1]).bool()
        if how == "sure":
            return logits.masked_fill(top, float("inf"))
        if how == "ruled-out":
            return logits.masked_fill(~top, -float("inf"))
        if how == "refuses-half":
            logits[::2] = float("nan")
        if how == "partly-nan":
            logits[::2, 3] = float("nan")
        if how == "refuses-all":
            logits *= float("nan")
        if how == "double":
            return logits.double() * 1e300
        if how == "half":
            return logits.half()
        if how == "with-graph":
            return logits.requires_grad_() * 1
        if how == "wrong-width":
            return logits[:, :3]
        if how == "too-few":
            return logits[1:]
        if how == "classes":
            return logits.argmax(1)
        if how == "whole-numbers":
            return top.long()
        if how == "list":
            return logits.tolist()
        if how == "nowhere":
            return logits.to("meta")
        if how == "fails":
            raise KeyError("threshold")
        if how == "zeroes":
            logits.zero_()
        return logits

    class Odd(Defense):
        "An API that answers oddly, to all inputs or to more than `from_` of them."
        name = "odd"
        how: str = ""
        from_: int = 0

        def embed(self, task, ctx):
            net = ctx.train(ctx.build(), [ctx.stream(task.train)], ctx.epochs)
            return Marked(net, Key({"trigger": task.holdout.first(20)}))

        def serve(self, inputs, logits, key):
            inputs.zero_()
            for tensor in key.probes["trigger"].x, key.probes["trigger"].y:
                tensor.zero_()
            # 200 inputs are a thief's, 300 the test set.
            return odd(self.how, logits) if not self.from_ or len(logits) == self.from_ else logits

    class Filter(Evasion):
        "The same before a stolen model."
        name = "odd-filter"
        how: str = ""
        from_: int = 0

        def prepare(self, suspect, pool, ctx):
            return {"seen": torch.ones(3)}

        def serve(self, suspect, inputs, logits, guard):
            for parameter in suspect.parameters():
                parameter.data.zero_()
            guard["seen"].zero_()
            return odd(self.how, logits) if not self.from_ or len(logits) == self.from_ else logits

    class Copy(BlackBoxAttack):
        "Learns all that it is told, refusals too."
        name = "copy"
        family = "extraction"

        def run(self, victim, pool, ctx):
            return ctx.train(ctx.build(), [ctx.stream(Split(pool.x, victim.labels(pool.x)))], 1)
"""


@pytest.fixture
def run(cli: Cli, tmp_path: Path):
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "odd.py").write_text(dedent(PLUGINS))

    def run(*axes: str, code: int | None = None):
        """The cells and the stages of a run of these defenses and attacks."""
        given = ("--dataset", TINY, "--seeds", "0", "--nulls", "1", "--no-innocents", "--matrix", "smoke")
        places = ("--plugins", tmp_path / "plugins", "--results", tmp_path / "results", "--quiet")
        ended = cli("run", *given, *axes, *places, code=code)
        tables = [harness.read_table(tmp_path / "results", name) for name in ("cells", "stages")]
        return ended, *tables

    return run


def axes(name: str, *texts: str) -> list[str]:
    return [part for text in texts for part in (f"--{name}", text)]


RIGHT = ("sure", "ruled-out", "refuses-half", "partly-nan", "double", "half", "with-graph", "zeroes")
EXTRACTIONS = ("retraining", "retraining[answers=probabilities]", "retraining[answers=top-1]", "snnl-extraction")


@pytest.mark.slow
def test_what_is_odd_but_right_is_learnt_from_and_refusals_are_counted(run) -> None:
    defenses = axes("defense", *(f"odd[how={how}]" for how in RIGHT))
    _, cells, stages = run(*defenses, *axes("attack", *EXTRACTIONS), code=0)
    assert (cells["status"] == "ok").all()
    labels = dict(zip(cells["model"], cells["defense"], strict=True))
    attacks = stages[(stages["action"] == "attack") & (stages["role"] == "surrogate")]
    assert len(attacks) == len(RIGHT) * len(EXTRACTIONS) and (attacks["queries"] == 200).all()
    for _, stage in attacks.iterrows():
        refuses = labels[stage["stage"]] in ("odd[how=refuses-half]", "odd[how=partly-nan]")
        assert stage["unanswered"] == (100 if refuses else 0)
    # Whoever is sure, or rules all other classes out, names the class that the net names.
    victims = stages[(stages["action"] == "embed")].set_index("plugin")
    for how in ("sure", "ruled-out", "double", "half", "with-graph"):
        row = victims.loc[f"odd[how={how}]"]
        assert row["accuracy"] == pytest.approx(row["raw_accuracy"], abs=0.01) and row["accuracy"] > 0.2
    assert victims.loc["odd[how=zeroes]", "accuracy"] < 0.15 < victims.loc["odd[how=zeroes]", "raw_accuracy"]
    assert victims["unanswered"].isna().all()
    for how in ("refuses-half", "partly-nan"):
        row = victims.loc[f"odd[how={how}]"]
        assert row["accuracy"] == pytest.approx(row["raw_accuracy"] / 2, abs=0.06)


WRONG = {
    "wrong-width": "odd.serve must return logits (300, 10), not (300, 3)",
    "too-few": "odd.serve must return logits (300, 10), not (299, 10)",
    "classes": "odd.serve must return logits (300, 10), not (300,)",
    "whole-numbers": "odd.serve must return logits (300, 10), not int64: make them floats",
    "list": "odd.serve must return logits (300, 10), not a list",
    "nowhere": "on the device meta",
    "fails": "odd.serve fails (KeyError: 'threshold')",
}


def test_wrong_answers_fail_in_the_name_of_the_api(run) -> None:
    everywhere = [f"odd[how={how}]" for how in WRONG]
    elsewhere = [f"odd[how={how},from_=200]" for how in WRONG]
    _, cells, stages = run(*axes("defense", *everywhere, *elsewhere), *axes("attack", "retraining"), code=1)
    failed = stages[stages["status"] == "failed"].set_index("reason")["action"]
    for (entry, reason), how in zip(cells.set_index("defense")["reason"].items(), [*WRONG] * 2, strict=True):
        words, action = WRONG[how], "embed"
        if "from_" in entry:  # what answers the test set is right
            words, action = words.replace("300", "200").replace("299", "199"), "attack"
        assert reason.startswith(f"{entry}: odd.serve ") and words in reason and failed[reason] == action, reason


def test_a_thiefs_filter_is_named_too(run) -> None:
    filters = [f"odd-filter[how={how}]" for how in ("too-few", "classes,from_=20", "sure")]
    _, cells, _ = run(*axes("defense", "baseline"), *axes("attack", *filters), code=1)
    reasons = cells.set_index("attack")["reason"]
    for entry in filters[:2]:
        assert reasons[entry].startswith(f"{entry}: odd-filter.serve must return logits")
    assert cells.set_index("attack").loc[filters[2], "status"] == "ok"


def test_an_api_that_refuses_everything_leaves_nothing_to_learn(run) -> None:
    _, cells, _ = run(*axes("defense", "odd[how=refuses-all]"), *axes("attack", "none", *EXTRACTIONS), code=0)
    ends = cells.set_index("attack")
    assert ends.loc["none", "status"] == "ok" and ends.loc["none", "victim_accuracy"] == 0
    for attack in EXTRACTIONS:
        reason = f"{attack}: the API refused all 200 queries: there is nothing to learn from"
        assert (ends.loc[attack, "status"], ends.loc[attack, "reason"]) == ("skipped", reason)


def test_an_attack_that_learns_refusals_is_told_how_not_to(run) -> None:
    ended, *_ = run(*axes("defense", "odd[how=refuses-half]"), *axes("attack", "copy"), code=1)
    assert "copy: ValueError: a label of -1 or NaN is a refused query: Split(x, labels).answered() leaves" in ended.err


# --- one form ---------------------------------------------------------------------------------------------------------

number = st.one_of(st.sampled_from([INF, -INF, NAN, 0.0, 3e38, -3e38]), st.floats(-50, 50, width=32))


@given(st.lists(st.lists(number, min_size=4, max_size=4), min_size=1, max_size=6))
def test_every_row_is_finite_or_refused(rows: list[list[float]]) -> None:
    logits = torch.tensor(rows)
    answers = finite(logits)
    for row, answer, p in zip(logits, answers, answers.softmax(1), strict=True):
        if bool(row.isnan().any()) or bool(row.isneginf().all()):
            assert bool(answer.isnan().all()) and int(classes_of(answer[None])) == -1
            continue
        assert bool(answer.isfinite().all()) and float(p.sum()) == pytest.approx(1, abs=1e-5)
        sure = row.isposinf()
        if bool(sure.any()):
            assert torch.equal(p > 0, sure) and torch.allclose(p[sure], 1 / sure.sum())
        else:
            assert not bool(p[row.isneginf()].any())
            usual = row.masked_fill(row.isneginf(), -1e30 if row.max() > -1e30 else torch.finfo(torch.float32).min)
            assert torch.allclose(p, usual.softmax(0), atol=1e-6)


def test_finite_logits_stay_as_they_are() -> None:
    logits = torch.randn(50, 7, generator=torch.Generator().manual_seed(0)) * 30
    assert torch.equal(finite(logits), logits)


def test_large_doubles_keep_their_order() -> None:
    wide = torch.tensor([[-1e300, 1e300, 2e300], [-3e300, -1e300, -2e300], [1.0, 3.0, 2.0]], dtype=torch.float64)
    answers = finite(wide)
    assert answers.dtype == torch.float32 and classes_of(answers).tolist() == [2, 1, 1]
    assert torch.equal(answers[2], wide[2].float()) and bool(answers.isfinite().all())


def test_an_oracle_counts_what_it_refused() -> None:
    def logits(x: Tensor) -> Tensor:
        return torch.eye(3)[x.long()].masked_fill(x[:, None] == 0, NAN)

    oracle = Oracle(logits, "probabilities")
    assert oracle.unanswered == 0
    assert oracle.labels(torch.tensor([0, 1, 2])).tolist() == [-1, 1, 2]
    label, probability = oracle.top1(torch.tensor([2, 0]))
    assert label.tolist() == [2, -1] and probability.isnan().tolist() == [False, True]
    assert oracle.probabilities(torch.tensor([0])).isnan().all()
    assert (oracle.queries, oracle.unanswered) == (6, 3)


def test_a_split_of_refused_answers_is_skipped_with_the_reason() -> None:
    x = torch.zeros(3, 2)
    assert len(Split(x, torch.tensor([-1, 0, -1])).answered()) == 1
    assert len(Split(x[:0], torch.zeros(0)).answered()) == 0
    for labels in (torch.full((3,), -1), torch.full((3, 2), NAN)):
        with pytest.raises(Skip, match="the API refused all 3 queries"):
            Split(x, labels).answered()


def test_what_a_worker_remembers_is_out_of_reach_of_who_is_answered() -> None:
    memory, key = ResultCache(), ("model", "inputs", 2, "logits")
    _, first = memory.find(key, lambda: torch.ones(2, 3))
    first.zero_()
    known, second = memory.find(key, lambda: torch.zeros(2, 3))
    assert known and bool((second == 1).all())
