"""Extraction attacks: each query is counted, at most the budget is spent, and the traps of each method."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import harness
from harness import nets
from harness.contracts import Oracle, Pool, Split
from harness.data import Data
from harness.engine.train import Engine
from harness.errors import OptionError, Skip
from harness.planning.registry import load_registry
from plugins.attacks.activethief import ActiveThief, farthest, margins
from plugins.attacks.adversarial_extraction import AdversarialExtraction
from plugins.attacks.distillation import Distillation, softened
from plugins.attacks.ensemble import Ensemble
from plugins.attacks.jbda import Jbda
from plugins.attacks.knockoff import Knockoff
from plugins.attacks.selective_distillation import SelectiveDistillation, moved_to, suspicion
from plugins.attacks.smooth_retraining import SmoothRetraining, one_hot
from plugins.attacks.transfer import Transfer
from tests.conftest import TINY, Cli

REGISTRY = load_registry()
CPU = torch.device("cpu")
DATASET = REGISTRY.component("dataset", TINY).plugin
SAMPLES = Data(Path()).splits(DATASET, 100, CPU).train
ALL: list[Any] = [
    Distillation,
    Knockoff,
    SmoothRetraining,
    Ensemble,
    Jbda,
    AdversarialExtraction,
    ActiveThief,
    Transfer,
    SelectiveDistillation,
]


def thief(seed: int = 0, architecture: str = "mlp[width=16]") -> Engine:
    built = REGISTRY.component("architecture", architecture)
    return Engine(CPU, torch.Generator().manual_seed(seed), DATASET.public(), built.plugin, built.text)


def pool(count: int = 200) -> Pool:
    return Pool(DATASET.public(), SAMPLES.x[:count])


class Api:
    """A victim that knows the true labels of the pool, and remembers what it was asked."""

    def __init__(self, refuse: float = 0.0) -> None:
        self.refuse = refuse
        self.asked: list[Tensor] = []

    def __call__(self, x: Tensor) -> Tensor:
        self.asked.append(x)
        nearest = torch.cdist(nets.as_float(x).flatten(1), nets.as_float(SAMPLES.x).flatten(1)).argmin(1)
        logits = 4 * F.one_hot(SAMPLES.y[nearest], 10).float()
        refused = torch.arange(len(x)) < self.refuse * len(x)
        return logits.masked_fill(refused[:, None], torch.nan)

    @property
    def inputs(self) -> Tensor:
        return torch.cat(self.asked)


def stolen_by(attack: Any, api: Api, given: Pool | None = None) -> tuple[nets.Net, Oracle]:
    oracle = Oracle(api, attack.answers, attack.budget)
    return attack.run(oracle, given or pool(), thief()), oracle


# --- budgets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attack", ALL, ids=lambda attack: attack.name)
@pytest.mark.parametrize("queries", [1, 7, 31, 101])
def test_at_most_the_budget_is_spent_and_nearly_all_of_it(attack: Any, queries: int) -> None:
    api = Api()
    net, oracle = stolen_by(attack(queries=queries, epochs=1), api)
    assert oracle.queries == len(api.inputs) <= queries
    assert oracle.queries > queries - 1 - getattr(attack(), "copies", 0)
    assert net(SAMPLES.x[:3]).isfinite().all()


@pytest.mark.parametrize("attack", ALL, ids=lambda attack: attack.name)
def test_a_budget_of_nothing_is_a_mistake(attack: Any) -> None:
    with pytest.raises(OptionError, match="queries must be at least 1"):
        attack(queries=0)


@pytest.mark.parametrize("attack", ALL, ids=lambda attack: attack.name)
def test_a_budget_above_the_pool_asks_no_input_twice(attack: Any) -> None:
    api = Api()
    stolen_by(attack(queries=10_000, epochs=1), api, pool(20))
    if attack not in (SmoothRetraining, SelectiveDistillation, Jbda):
        assert len(api.inputs) == 20 == len(api.inputs.flatten(1).unique(dim=0))


@pytest.mark.parametrize("attack", ALL, ids=lambda attack: attack.name)
def test_refused_answers_are_left_out_and_an_api_that_refuses_all_ends_the_attack(attack: Any) -> None:
    net, oracle = stolen_by(attack(epochs=1), Api(refuse=0.5))
    assert net(SAMPLES.x).isfinite().all() and oracle.unanswered
    with pytest.raises(Skip, match="refused all"):
        stolen_by(attack(epochs=1), Api(refuse=1.0))


@pytest.mark.parametrize("attack", ALL, ids=lambda attack: attack.name)
def test_every_kind_of_answers_serves(attack: Any) -> None:
    for answers in ("labels", "top-1", "probabilities"):
        if answers == "labels" and attack is Distillation:
            continue
        net, oracle = stolen_by(attack(answers=answers, queries=40, epochs=1), Api())
        assert oracle.answers == answers and net(SAMPLES.x[:3]).isfinite().all()


@pytest.mark.parametrize("attack", ALL, ids=lambda attack: attack.name)
def test_one_seed_gives_one_net(attack: Any) -> None:
    nets_made = [stolen_by(attack(queries=60, epochs=1), Api())[0] for _ in range(2)]
    assert all(map(torch.equal, *(net.state_dict().values() for net in nets_made)))


@pytest.mark.slow
@pytest.mark.parametrize("attack", [Knockoff, Ensemble, Jbda, ActiveThief], ids=lambda attack: attack.name)
def test_answers_stay_with_their_inputs(attack: Any) -> None:
    net, _ = stolen_by(attack(answers="labels", queries=200, epochs=80), Api())
    right = (net(SAMPLES.x).argmax(1) == SAMPLES.y).float().mean()
    assert right > 0.5, right  # shuffled labels would give 0.1


# --- distillation -----------------------------------------------------------------------------------------------------


def test_softened_probabilities_are_the_softmax_of_logits_over_the_temperature() -> None:
    logits = 3 * torch.randn(50, 10, generator=torch.Generator().manual_seed(0))
    for temperature in (0.5, 1.0, 4.0, 20.0):
        soft = softened(logits.softmax(1), temperature)
        assert torch.allclose(soft, (logits / temperature).softmax(1), atol=1e-5)
    sure = softened(torch.eye(3), 4.0)
    assert torch.equal(sure, torch.eye(3)), "a probability of 0 stays 0"


def test_the_loss_is_a_mean_over_the_batch_and_not_over_classes() -> None:
    net, generator = torch.nn.Identity(), torch.Generator().manual_seed(0)
    logits, targets = torch.randn(6, 10, generator=generator), torch.rand(6, 10, generator=generator).softmax(1)
    attack = Distillation()
    loss = attack._loss(net, logits, targets)["loss"]  # type: ignore[arg-type]
    student = (logits / 4).log_softmax(1)
    divergence = (targets * (targets.log() - student)).sum(1).mean()
    assert torch.allclose(loss, 16 * divergence)
    twice = attack._loss(net, logits.repeat(2, 1), targets.repeat(2, 1))["loss"]  # type: ignore[arg-type]
    assert torch.allclose(twice, loss)
    # A class that nobody names changes the mean over classes, and not the divergence.
    wide = [torch.cat([each, torch.full((6, 10), value)], 1) for each, value in ((logits, -200.0), (targets, 0.0))]
    assert torch.allclose(attack._loss(net, *wide)["loss"], loss, atol=1e-4)  # type: ignore[arg-type]


def test_the_gradient_keeps_its_size_at_every_temperature() -> None:
    sizes = []
    for temperature in (1.0, 20.0):
        logits = torch.zeros(4, 10, requires_grad=True)
        targets = softened(
            (0.1 * torch.randn(4, 10, generator=torch.Generator().manual_seed(0))).softmax(1), temperature
        )
        Distillation(temperature=temperature)._loss(torch.nn.Identity(), logits, targets)["loss"].backward()  # type: ignore[arg-type]
        assert logits.grad is not None
        sizes.append(float(logits.grad.norm()))
    assert sizes[1] == pytest.approx(sizes[0], rel=0.05)


# --- smooth retraining ------------------------------------------------------------------------------------------------


def test_copies_are_asked_and_never_the_input_itself() -> None:
    api = Api()
    _, oracle = stolen_by(SmoothRetraining(epochs=1), api, pool(50))
    assert oracle.queries == 250 and all(len(each) == 50 for each in api.asked)
    assert api.inputs.dtype == torch.uint8, "an image that can be sent"
    own = {row.numpy().tobytes() for row in SAMPLES.x[:50]}
    assert not any(row.numpy().tobytes() in own for row in api.inputs)


def test_copies_of_one_input_differ_and_are_not_far_from_it() -> None:
    api = Api()
    stolen_by(SmoothRetraining(epochs=1, shift=0, noise=0.05), api, pool(50))
    distance = torch.stack([(nets.as_float(each) - nets.as_float(SAMPLES.x[:50])).abs().mean() for each in api.asked])
    assert bool((distance > 0.005).all()) and bool((distance < 0.06).all())
    api = Api()
    stolen_by(SmoothRetraining(epochs=1, noise=0, shift=0.125), api, pool(50))
    still = [(each == SAMPLES.x[:50]).flatten(1).all(1).float().mean() for each in api.asked]
    assert all(share < 0.4 for share in still), "of 9 shifts one is none"


def test_one_wrong_answer_of_five_is_outvoted(monkeypatch: pytest.MonkeyPatch) -> None:
    api, kept = Api(), []

    def lying(x: Tensor) -> Tensor:
        logits = api(x)
        return logits.roll(1, 1) if len(api.asked) == 3 else logits

    lent = thief()
    monkeypatch.setattr(lent, "train", lambda net, streams, epochs: kept.append(streams[0].parts[0]) or net)
    attack = SmoothRetraining(epochs=1, shift=0, noise=1e-6)
    attack.run(Oracle(lying, "labels"), pool(30), lent)
    assert torch.equal(kept[0].y.argmax(1), SAMPLES.y[:30])
    assert torch.allclose(kept[0].y.max(1).values, torch.tensor(0.8))


def test_refused_copies_are_left_out_of_the_mean() -> None:
    rows = torch.stack([one_hot(torch.tensor([2, -1]), 3), one_hot(torch.tensor([0, -1]), 3)]).nanmean(0)
    assert rows[0].tolist() == [0.5, 0, 0.5] and rows[1].isnan().all()
    assert len(Split(torch.zeros(2, 1), rows).answered()) == 1


def test_inputs_that_are_no_images_get_noise_alone() -> None:
    recipe = replace(DATASET.public(), input_shape=(6,), value_range=(-2.0, 2.0))
    x = torch.linspace(-2, 2, 60).view(10, 6)
    copied = SmoothRetraining()._copied(x, recipe, thief())
    assert copied.shape == x.shape and copied.min() >= -2 and copied.max() <= 2 and not torch.equal(copied, x)


def test_spectrograms_are_shifted_in_time_alone_and_photographs_mirrored_on_demand() -> None:
    x = torch.zeros(200, 1, 40, 30)
    moves = SmoothRetraining()._moves(x, DATASET.public(), thief())
    assert moves.abs().amax(0).tolist() == [3, 2, 0]
    moves = SmoothRetraining(flip=True)._moves(x, replace(DATASET.public(), augment="shift"), thief())
    assert moves.abs().amax(0).tolist() == [3, 0, 1]


# --- ensemble ---------------------------------------------------------------------------------------------------------


def test_parts_are_disjoint_and_the_last_net_learns_their_smoothed_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    lent, learned = thief(), []
    train = lent.train

    def watched(net: nets.Net, streams: Any, epochs: int) -> nets.Net:
        learned.append(streams[0].parts[0])
        return train(net, streams, epochs)

    monkeypatch.setattr(lent, "train", watched)
    api = Api()
    Ensemble(epochs=1).run(Oracle(api), pool(100), lent)
    *parts, taught = learned
    rows = [row.numpy().tobytes() for part in parts for row in part.x]
    assert len(parts) == 3 and sorted(len(part) for part in parts) == [33, 33, 34]
    assert sorted(rows) == sorted(row.numpy().tobytes() for row in SAMPLES.x[:100])
    assert len(taught) == 100 == len(api.inputs) and taught.y.min() >= 0.02
    assert torch.allclose(taught.y.sum(1), torch.ones(100), atol=1e-5)


# --- jbda -------------------------------------------------------------------------------------------------------------


def test_inputs_double_in_every_round() -> None:
    api = Api()
    stolen_by(Jbda(seeds=10, rounds=4, epochs=1), api)
    assert [len(each) for each in api.asked] == [10, 10, 20, 40]
    assert api.inputs.dtype == torch.uint8
    api = Api()
    stolen_by(Jbda(seeds=10, rounds=6, epochs=1, queries=33), api)
    assert [len(each) for each in api.asked][:3] == [10, 10, 13] and len(api.inputs) == 33


def test_a_neighbour_is_one_step_away_towards_the_answered_class() -> None:
    net, known = thief().build(), Split(SAMPLES.x[:40].float() / 255, SAMPLES.y[:40])
    near = Jbda()._neighbours(net, known, pool())
    assert (near - known.x).abs().max() <= 0.1 + 1e-6 and near.min() >= 0 and near.max() <= 1

    def score(x: Tensor) -> Tensor:
        return net(x).gather(1, known.y[:, None])[:, 0]

    assert (score(near) > score(known.x)).float().mean() > 0.9


# --- activethief ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["k-center", "entropy", "margin", "random"])
def test_no_input_is_asked_twice_and_rounds_share_the_budget(strategy: Any) -> None:
    api = Api()
    stolen_by(ActiveThief(strategy=strategy, queries=50, rounds=4, epochs=1), api)
    assert [len(each) for each in api.asked] == [5, 12, 11, 11, 11]
    assert len(api.inputs.flatten(1).unique(dim=0)) == 50


def test_by_default_half_of_the_pool_is_asked() -> None:
    api = Api()
    stolen_by(ActiveThief(epochs=1, rounds=2), api, pool(41))
    assert len(api.inputs) == 21


def test_farthest_points_cover_the_clusters() -> None:
    generator = torch.Generator().manual_seed(0)
    corners = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])
    points = corners.repeat_interleave(25, 0) + 0.1 * torch.randn(100, 2, generator=generator)
    rows = farthest(points, corners[:1], 3)
    assert {int(row) // 25 for row in rows} == {1, 2, 3}
    same = farthest(torch.zeros(5, 2), torch.zeros(1, 2), 5)
    assert sorted(same.tolist()) == [0, 1, 2, 3, 4], "each row once, where points coincide"


def test_the_margin_of_a_linear_net_is_the_distance_from_its_boundary() -> None:
    linear = torch.nn.Linear(2, 3, bias=False)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]]))
    net = nets.adapt(torch.nn.Sequential(linear), (2,), 3)
    found = margins(net, torch.tensor([[3.0, 0.0], [0.5, 0.0], [0.0, 2.0]]))
    expected = torch.tensor([3 / 2**0.5, 0.5 / 2**0.5, 2 / 2**0.5])
    assert torch.allclose(found, expected, atol=1e-5)


# --- adversarial extraction -------------------------------------------------------------------------------------------


def test_an_adversarial_surrogate_resists_steps_that_turn_a_plain_one() -> None:
    kept = []
    for attack in (Knockoff(answers="labels", epochs=30), AdversarialExtraction(epochs=30)):
        net, oracle = stolen_by(attack, Api())
        near = harness.adversarial.pgd(net, SAMPLES.x, SAMPLES.y, 0.1, 0.05, 5, (0.0, 1.0))
        kept.append(float((net(near).argmax(1) == SAMPLES.y).float().mean()))
        assert oracle.queries == 200, "moved inputs are not asked"
    assert kept[1] > kept[0] + 0.1, kept


# --- selective distillation -------------------------------------------------------------------------------------------


def test_answers_that_noise_moves_are_left_out_and_the_others_learned_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    api, kept = Api(), []

    def marked(x: Tensor) -> Tensor:
        """An API that answers 7 to the very images of rows 3 and 5, and truly to all near them."""
        same = (nets.as_float(x)[:, None] == nets.as_float(SAMPLES.x[[3, 5]])).flatten(2).all(2).any(1)
        return torch.where(same[:, None], 4 * F.one_hot(torch.tensor(7), 10).float(), api(x))

    lent = thief()
    monkeypatch.setattr(lent, "train", lambda net, streams, epochs: kept.append(streams[0].parts[0]) or net)
    oracle = Oracle(marked, "labels")
    SelectiveDistillation(copies=10, noise=0.02).run(oracle, pool(40), lent)
    assert oracle.queries == 440
    learned, noisy = kept[0][:38], kept[0][38:]
    rows = [row for row in range(40) if row not in (3, 5)]
    assert torch.equal(learned.x, SAMPLES.x[rows]) and torch.equal(learned.y, SAMPLES.y[rows])
    assert torch.equal(noisy.y, learned.y) and not torch.equal(noisy.x, learned.x)


def test_a_class_that_is_the_goal_of_many_comes_first() -> None:
    moves = torch.zeros(40, 10)
    moves[:12, 7] = 1
    moves[12, 2] = 9
    assert set(suspicion(moves).argsort(descending=True)[:12].tolist()) == set(range(12))
    moves[:12] = torch.eye(10).repeat(2, 1)[:12]
    assert int(suspicion(moves).argmax()) == 12, "goals of all classes: the least stable comes first"
    assert not suspicion(torch.zeros(4, 10)).any()


def test_refused_copies_did_not_move() -> None:
    own, answers = torch.tensor([1, 1, -1, 1]), torch.tensor([2, -1, 2, 1])
    assert moved_to(answers, own, 3).tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 0], [0, 0, 0]]
    soft = one_hot(answers, 3)
    assert torch.equal(moved_to(soft, one_hot(own, 3), 3), moved_to(answers, own, 3))


# --- transfer ---------------------------------------------------------------------------------------------------------

PATCHES = "photo-patches[train=1000,holdout=20,epochs=4,pretrain=1]"


def ran(cli: Cli, results: Path, *asked: str, dataset: str = TINY) -> Any:
    axes = ("--dataset", dataset, "--seeds", "0-1", "--nulls", "2", "--no-innocents", "--results", results)
    cli("run", *axes, *asked, code=0)
    return harness.read_table(results, "stages")


@pytest.mark.slow
def test_all_thieves_start_from_one_net_of_another_set(cli: Cli, tmp_path: Path) -> None:
    attacks = ("--attack", f"transfer[source={PATCHES}]", "--attack", f"transfer[source={PATCHES},queries=50]")
    stages = ran(cli, tmp_path, "--defense", "baseline", "--defense", "dawn[rate=0.1]", *attacks)
    assert (stages["status"] == "ok").all(), stages["reason"].unique()
    pretrained = stages[stages["role"] == "pretrained"]
    assert pretrained["dataset"].tolist() == [PATCHES] and pretrained["seed"].isna().all()
    assert pretrained["accuracy"].item() > 0.5, "of its own task, two classes"
    assert len(stages[stages["action"] == "attack"]) == 2 * (2 * 2 + 2)


def test_all_layers_but_the_last_are_those_of_the_other_set() -> None:
    lent = thief()
    lent.source = replace(thief(5), recipe=replace(DATASET.public(), classes=("a", "b"))).build()
    net, theirs = lent.start(), lent.source.state_dict()
    for name, weight in net.state_dict().items():
        assert (name.startswith("logits.") or torch.equal(weight, theirs[name])) and weight is not theirs[name], name
    assert net(SAMPLES.x[:3]).shape == (3, 10) and net.description["classes"] == 10
    first = net.get_submodule("dense1").get_parameter("weight")
    assert first.data_ptr() != theirs["dense1.weight"].data_ptr(), "a copy: the net serves others too"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("digits", "is the task itself"),
        ("fashion-mnist", "cannot take the inputs: its own are (1, 28, 28)"),
        ("speech-commands-one", "of another kind than"),
        ("nothing-such", "unknown dataset"),
    ],
)
def test_a_set_without_a_net_that_fits_is_named(cli: Cli, tmp_path: Path, source: str, words: str) -> None:
    axes = ("--dataset", TINY, "--defense", "baseline", "--attack", f"transfer[source={source}]", "--seeds", "0")
    ended = cli("plan", *axes, "--results", tmp_path)
    assert words in ended.out + ended.err, ended


# --- through the command line -----------------------------------------------------------------------------------------


def test_a_run_counts_the_queries_of_each_attack(cli: Cli, tmp_path: Path) -> None:
    attacks = ("distillation[queries=50]", "smooth-retraining[queries=52]", "knockoff[queries=50]", "jbda[queries=33]")
    chosen = [part for name in attacks for part in ("--attack", name)]
    axes = ("--dataset", TINY, "--defense", "dawn[rate=0.1]", *chosen, "--seeds", "0", "--nulls", "0")
    cli("run", *axes, "--no-innocents", "--results", tmp_path, code=0)
    stages = harness.read_table(tmp_path, "stages")
    queries = stages[stages["action"] == "attack"].set_index("plugin")["queries"].to_dict()
    asked = {name.partition("[")[0]: count for name, count in queries.items()}
    assert asked == {"distillation": 50, "smooth-retraining": 50, "knockoff": 50, "jbda": 33}
