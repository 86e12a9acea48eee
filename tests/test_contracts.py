"""The threat model: what an attack is handed, what an oracle answers, who verifies what.

The plugins here are toys, and run as in a matrix: through a plan, the worker and the store.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from harness.attacks import TuningAttack
from harness.contracts import (
    Answers,
    Architecture,
    Arrays,
    Attack,
    BlackBoxAttack,
    Context,
    Count,
    Dataset,
    Defense,
    Detection,
    Detector,
    Evidence,
    Family,
    InputSet,
    Key,
    Knowledge,
    Marked,
    Oracle,
    Plugin,
    Pool,
    Probe,
    Score,
    Split,
    Task,
    WhiteBoxAttack,
    WhiteBoxDefense,
)
from harness.data import Data
from harness.errors import Refused, Unreadable
from harness.nets import Mlp, Net, adapt
from harness.planning.builder import make_plan
from harness.planning.graph import EMBED, Plan, Role
from harness.planning.registry import Registry
from harness.running.actions import evidence_of
from harness.running.worker import StageRunner
from harness.storage.store import Store
from harness.values import SCORED
from tests.conftest import with_plugins

CPU = torch.device("cpu")

# --- toy plugins ------------------------------------------------------------------------------------------------------

SEEN: dict[str, Any] = {}
"""What the spies below were handed in the last run."""


@dataclass(frozen=True)
class Noise(Dataset):
    """Three classes of 4 x 4 noise: every image is unlike all others."""

    name: ClassVar[str] = "noise"
    input_shape: ClassVar[tuple[int, ...]] = (1, 4, 4)
    classes: ClassVar[tuple[str, ...]] = ("a", "b", "c")
    available: ClassVar[int] = 240

    train: int = 90
    holdout: int = 30
    epochs: int = 2
    pretrain: int = 1
    batch_size: int = 16
    source: int = 0
    target: int = 1
    patch: int = 2
    architecture: str = "toy"
    ood: str = "other-noise"

    def load(self, root: Path) -> Arrays:
        draw = np.random.default_rng(len(self.name))
        x = draw.integers(0, 256, (300, 1, 4, 4), dtype=np.uint8)
        y = np.arange(300) % 3
        return Arrays(x[:240], y[:240], x[240:], y[240:])


@dataclass(frozen=True)
class OtherNoise(Noise):
    """Noise of another kind."""

    name: ClassVar[str] = "other-noise"


class Alike(InputSet):
    """Noise of one class."""

    name = "alike"
    input_shape = (1, 4, 4)
    classes = ("noise",)
    available = 100

    def load(self, root: Path) -> Arrays:
        x = np.random.default_rng(9).integers(0, 256, (100, 1, 4, 4), dtype=np.uint8)
        return Arrays(x, np.zeros(100, int), x[:0], np.zeros(0, int))


@dataclass(frozen=True)
class Toy(Architecture):
    """A small net."""

    name: ClassVar[str] = "toy"

    def build(self, input_shape: tuple[int, ...], classes: int) -> Net:
        return Mlp(input_shape, classes, width=8)


def secret(ctx: Context, classes: int) -> Key:
    """A key that shares no image with anything else."""
    images = torch.randint(0, 256, (20, 1, 4, 4), generator=ctx.generator).byte()
    labels = torch.randint(0, classes, (20,), generator=ctx.generator)
    probes = {"trigger": Probe(images[:10], labels[:10]), "held_out": Probe(images[10:], labels[10:])}
    return Key(probes, {"message": torch.rand(8, generator=ctx.generator), "target": torch.tensor(1)})


ODD: dict[str, Callable[[], Any]] = {
    "sparse": lambda: torch.eye(3).to_sparse(),
    "complex128": lambda: torch.zeros(2, dtype=torch.complex128),
    "numpy": lambda: np.zeros(2),
    "list": lambda: [1, 2],
}
"""What no key can hold."""


@dataclass(frozen=True)
class Marking(Defense):
    """Learns its triggers with the task. ``active`` changes what the owner's API answers: class 2, always."""

    name: ClassVar[str] = "marking"

    active: bool = False
    keeps: str = ""
    wipes: bool = False
    answers: str = ""

    def embed(self, task: Task, ctx: Context) -> Marked:
        key = secret(ctx, len(task.dataset.classes))
        if self.keeps:
            key = Key(key.probes, {"kept": ODD[self.keeps]()})
        whole = Split(torch.cat([task.train.x, key.trigger.x]), torch.cat([task.train.y, key.trigger.y]))
        return Marked(ctx.train(ctx.build(), [ctx.stream(whole)], task.dataset.epochs), key)

    def serve(self, inputs: Tensor, logits: Tensor, key: Key) -> Tensor:
        if self.wipes:
            inputs.zero_()
        if self.answers == "fails":
            if len(inputs) == 90:  # the pool
                raise ValueError("no answer")
        elif self.answers:
            return logits.argmax(1) if self.answers == "labels" else None  # type: ignore[return-value]
        if not self.active:
            return logits
        SEEN["served"] = (len(inputs), float(key.tensors["message"].sum()))
        return torch.nn.functional.one_hot(torch.full((len(inputs),), 2), 3).float() * 9


class Starting(Marking):
    """Starts from the clean model or not, and remembers the epochs that are left."""

    name = "starting"
    clean: bool = False

    @property
    def from_clean(self) -> bool:
        return self.clean

    def embed(self, task: Task, ctx: Context) -> Marked:
        SEEN["epochs left"] = ctx.epochs
        return super().embed(task, ctx)


@dataclass(frozen=True)
class Signs(WhiteBoxDefense):
    """Writes eight bits into the signs of the last layer, and reads them there."""

    name: ClassVar[str] = "signs"

    spoil: bool = False

    def embed(self, task: Task, ctx: Context) -> Marked:
        net = ctx.train(ctx.build(), [ctx.stream(task.train)], 1)
        bits = torch.randint(0, 2, (8,), generator=ctx.generator)
        with torch.no_grad():
            net.get_parameter("logits.weight")[0] = bits * 2.0 - 1
        return Marked(net, Key(tensors={"bits": bits}))

    def verify_weights(self, suspect: nn.Module, key: Key) -> Evidence:
        if "logits.weight" not in suspect.state_dict():
            raise Unreadable("it has no layer `logits`")
        weight = suspect.get_parameter("logits.weight")
        matches = int(((weight[0] > 0) == key.tensors["bits"].bool()).sum())
        if self.spoil:
            nn.init.zeros_(weight)
        return Evidence({"bits": Count(matches, 8)})


@dataclass(frozen=True)
class Leave(Attack):
    """Does nothing."""

    name: ClassVar[str] = "leave"
    family: ClassVar[Family] = "none"


@dataclass(frozen=True)
class Ask(BlackBoxAttack):
    """Learns from the answers, and remembers what it was handed."""

    name: ClassVar[str] = "ask"
    family: ClassVar[Family] = "extraction"

    extra: int = 0
    kind: str = "labels"
    budget_is: int | None = None

    @property
    def answers(self) -> Answers:
        return self.kind  # type: ignore[return-value]

    @property
    def budget(self) -> int | None:
        return self.budget_is

    def run(self, victim: Oracle, pool: Pool, ctx: Context) -> nn.Module:
        SEEN["ask"] = (victim, pool, ctx)
        answers = victim.labels(pool.x)
        SEEN["answers"] = answers
        for _ in range(self.extra):
            victim.labels(pool.x[:1])
        return ctx.train(ctx.build(), [ctx.stream(Split(pool.x, answers))], 1)


@dataclass(frozen=True)
class Doubt(Ask):
    """The same, and asks for more than it declared."""

    name: ClassVar[str] = "doubt"

    def run(self, victim: Oracle, pool: Pool, ctx: Context) -> nn.Module:
        SEEN["top-1"] = victim.top1(pool.x)[0]
        try:
            victim.probabilities(pool.x)
        except Refused as refused:
            SEEN["refused"] = str(refused)
        return super().run(victim, pool, ctx)


@dataclass(frozen=True)
class Take(WhiteBoxAttack):
    """Remembers what it was handed, and ruins its copy."""

    name: ClassVar[str] = "take"
    family: ClassVar[Family] = "removal"

    def run(self, victim: nn.Module, pool: Pool, ctx: Context) -> nn.Module:
        SEEN["take"] = (victim, pool, ctx)
        SEEN["weights"] = {name: tensor.clone() for name, tensor in victim.state_dict().items()}
        with torch.no_grad():
            for parameter in victim.parameters():
                parameter.neg_()
        return victim


@dataclass(frozen=True)
class Learn(Take):
    """The same with true labels."""

    name: ClassVar[str] = "learn"
    labelled: ClassVar[bool] = True

    def run(self, victim: nn.Module, pool: Pool, ctx: Context) -> nn.Module:
        SEEN["labels"] = (pool.x, pool.labels())
        return super().run(victim, pool, ctx)


class Tune(TuningAttack):
    """Remembers the labels that it has."""

    name = "tune"

    def run(self, victim: nn.Module, pool: Pool, ctx: Context) -> nn.Module:
        SEEN["data"] = self.data(victim, pool, ctx)
        return victim


@dataclass(frozen=True)
class Know(Take):
    """The same, and knows the scheme."""

    name: ClassVar[str] = "know"
    knows: ClassVar[Knowledge] = "scheme"


@dataclass(frozen=True)
class Steal(Take):
    """The same, and knows the key."""

    name: ClassVar[str] = "steal"
    knows: ClassVar[Knowledge] = "key"

    def run(self, victim: nn.Module, pool: Pool, ctx: Context) -> nn.Module:
        super().run(victim, pool, ctx)
        SEEN["stolen"] = pool.key.clone()
        pool.key.trigger.x.zero_()
        return victim


@dataclass(frozen=True)
class Rename(WhiteBoxAttack):
    """Ends with a net whose layers have other names."""

    name: ClassVar[str] = "rename"
    family: ClassVar[Family] = "removal"

    @property
    def architecture_built(self) -> str:
        return "renamed"

    def run(self, victim: nn.Module, pool: Pool, ctx: Context) -> nn.Module:
        return ctx.build()


@dataclass(frozen=True)
class Renamed(Architecture):
    """A small net whose layers have names of their own."""

    name: ClassVar[str] = "renamed"

    def build(self, input_shape: tuple[int, ...], classes: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, classes))


@dataclass(frozen=True)
class Scribble(WhiteBoxAttack):
    """Wipes its pool."""

    name: ClassVar[str] = "scribble"
    family: ClassVar[Family] = "removal"

    def run(self, victim: nn.Module, pool: Pool, ctx: Context) -> nn.Module:
        SEEN["pool"] = pool.x.zero_()
        return victim


@dataclass(frozen=True)
class Peek(WhiteBoxAttack):
    """Wants labels that it does not declare."""

    name: ClassVar[str] = "peek"
    family: ClassVar[Family] = "removal"

    def run(self, victim: nn.Module, pool: Pool, ctx: Context) -> nn.Module:
        return ctx.train(ctx.build(), [ctx.stream(Split(pool.x, pool.labels()))], 1)


@dataclass(frozen=True)
class Search(Detector):
    """Remembers what it was handed, and suspects a class."""

    name: ClassVar[str] = "search"

    suspects: str = "1"

    def run(self, suspect: nn.Module, pool: Pool, ctx: Context) -> Detection:
        SEEN["search"] = (suspect, pool, ctx)
        suspected = {
            "1": 1,
            "0": 0,
            "nothing": None,
            "numpy": np.int64(1),
            "tensor": torch.tensor(1),
            "half": 0.5,
            "word": "one",
        }
        return Detection(score=torch.tensor(1.5), threshold=np.float32(1), suspected_class=suspected[self.suspects])


COUNTS: dict[str, Any] = {
    "plain": Count(3, 5),
    "none asked": Count(0, 0),
    "numpy": Count(np.int64(3), np.int64(5)),
    "tensor": Count(torch.tensor(3), torch.tensor(5)),
    "half": Count(0.5, 1),
    "too many": Count(6, 5),
    "negative": Count(-1, 5),
    "a word": Count("3", "5"),
    "no count": (3, 5),
    "score": Score(0.25),
    "a number of torch": Score(torch.tensor(0.25)),
    "above one": Score(1.5),
    "not a number": Score(math.nan),
}


@dataclass(frozen=True)
class Counting(Marking):
    """Gives evidence as it is told."""

    name: ClassVar[str] = "counting"

    gives: str = "plain"

    def verify(self, suspect: Oracle, key: Key) -> Evidence:
        return Evidence({"trigger": COUNTS[self.gives]})


TOYS: tuple[type[Plugin], ...] = (
    *(Noise, OtherNoise, Alike, Toy, Marking, Starting, Signs, Counting),
    *(Leave, Ask, Doubt, Take, Learn, Tune, Know, Steal, Rename, Renamed, Scribble, Peek, Search),
)


def registry() -> Registry:
    return with_plugins(Registry(), *TOYS)


@dataclass
class Ran:
    """What a plan left: the records by role of its one cell, and where they are stored."""

    plan: Plan
    worker: StageRunner
    records: dict[str, dict[str, Any]]

    def __getitem__(self, role: str) -> dict[str, Any]:
        return self.records[role]

    def artifact(self, role: str) -> Any:
        return self.worker.store.load({str(each): id for each, id in self.plan.cells[0].stages}[role])

    @property
    def splits(self) -> Any:
        (stage,) = [stage for stage in self.plan.stages.values() if stage.action == "embed"]
        return self.worker.materials.splits(stage)


def run(folder: Path, defense: str, *attacks: str, dataset: str = "noise", nulls: int = 0) -> Ran:
    """Run one cell of toys."""
    SEEN.clear()
    use = registry().component
    chain = tuple(use("attack", attack) for attack in attacks)
    plan = make_plan([use("dataset", dataset)], [use("defense", defense)], [chain], [0], nulls, use)
    store = Store(folder)
    store.prepare()
    worker = StageRunner(store, Data(folder), plan.stages, use, CPU)
    records = {}
    for id, stage in plan.stages.items():
        blocked = [records[parent] for _, parent in stage.parents if records[parent]["status"] != "ok"]
        records[id] = blocked[0] if blocked else worker.run(stage)
    return Ran(plan, worker, {str(role): records[id] for role, id in plan.cells[0].stages})


def reachable(*roots: object) -> Iterator[object]:
    """All that fields and attributes of ``roots`` lead to. Functions are not followed: Python hides nothing there."""
    seen: dict[int, object] = {}
    left = list(roots)
    while left:
        thing = left.pop()
        leaf = isinstance(thing, type | ModuleType | FunctionType | MethodType | BuiltinFunctionType | str | bytes)
        if id(thing) in seen or leaf:
            continue
        seen[id(thing)] = thing
        yield thing
        if isinstance(thing, Mapping):
            left += [*thing.keys(), *thing.values()]
        elif isinstance(thing, list | tuple | set | frozenset):
            left += thing
        elif is_dataclass(thing):
            left += [getattr(thing, each.name) for each in fields(thing)]
        left += getattr(thing, "__dict__", {}).values()


def rows(x: Tensor) -> set[bytes]:
    return {row.numpy().tobytes() for row in x}


# --- what an attack can reach -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("attack", ["ask", "take", "search"])
@pytest.mark.parametrize("pool", ["same", "disjoint", "ood", "other-noise"])
def test_an_attack_reaches_no_key_no_test_set_and_no_labels(attack: str, pool: str, tmp_path: Path) -> None:
    ran = run(tmp_path, "marking", f"{attack}[pool={pool}]")
    assert ran["verify:surrogate"]["status"] == "ok"
    things = list(reachable(*SEEN[attack]))
    assert any(thing is SEEN[attack][1].x for thing in things)  # the walk does find what is there
    forbidden = (Dataset, Key, Probe, Task, Split, Evidence, Defense, StageRunner, Store, Data, Registry, Plan)
    assert [thing for thing in things if isinstance(thing, forbidden)] == []
    tensors = [thing for thing in things if isinstance(thing, Tensor)]
    key, test = ran.artifact("embed").tensors, ran.worker.data.test(Noise(), CPU)
    hidden = rows(test.x) | rows(key["probe/trigger/x"]) | rows(key["probe/held_out/x"])
    images = [tensor for tensor in tensors if tensor.dtype == torch.uint8 and tensor.shape[1:] == (1, 4, 4)]
    assert images and not any(rows(tensor) & hidden for tensor in images)
    # Neither labels, nor anything as long as the test set, nor the message.
    assert not any(tensor.dtype == torch.int64 for tensor in tensors)
    assert not any(tensor.ndim and len(tensor) == len(test) for tensor in tensors)
    assert not any(tensor.shape == (8,) and torch.equal(tensor, key["tensor/message"]) for tensor in tensors)
    # The context lends a fresh net, not the owner's clean model or its victim.
    fresh = SEEN[attack][2].start().state_dict()
    assert not any(torch.equal(tensor, key[f"model/{name}"]) for name, tensor in fresh.items())


def test_the_walk_finds_a_key_that_is_handed_over(tmp_path: Path) -> None:
    ran = run(tmp_path, "marking", "take")
    victim, pool, ctx = SEEN["take"]
    embed = dict(ran.plan.cells[0].stages)[EMBED]
    victim.hint = {"for debugging": [ran.worker._parent(embed)]}
    assert any(isinstance(thing, Key) for thing in reachable(victim, pool, ctx))


def test_true_labels_are_for_those_who_declare_them(tmp_path: Path) -> None:
    ran = run(tmp_path, "marking", "learn")
    x, y = SEEN["labels"]
    assert torch.equal(x, ran.splits.train.x) and torch.equal(y, ran.splits.train.y)
    peeked = run(tmp_path, "marking", "peek")["attack:0"]
    assert peeked["status"] == "failed" and "declare `labelled = True`" in peeked["reason"]


def test_labels_of_another_task_are_refused_with_the_reason(tmp_path: Path) -> None:
    for pool in ("ood", "other-noise"):
        record = run(tmp_path, "marking", f"learn[pool={pool}]")["attack:0"]
        assert record["status"] == "skipped" and "labels of another task" in record["reason"]


def test_an_attack_knows_of_the_defense_what_it_declares(tmp_path: Path) -> None:
    for attack in ("ask", "take", "search"):
        run(tmp_path, "marking", attack)
        assert SEEN[attack][1].scheme is None and SEEN[attack][1].key is None
    run(tmp_path, "marking[active=true]", "know")
    assert SEEN["take"][1].scheme == Marking(active=True) and SEEN["take"][1].key is None
    ran = run(tmp_path, "marking", "take", "steal")
    assert SEEN["take"][1].scheme == Marking()
    stored = ran.artifact("embed").tensors
    stolen = SEEN["stolen"]
    assert torch.equal(stolen.trigger.x, stored["probe/trigger/x"]) and bool(stolen.trigger.x.any())
    assert torch.equal(stolen.tensors["message"], stored["tensor/message"])
    # What it writes is written into its own copy.
    embed = ran.worker._parent(dict(ran.plan.cells[0].stages)[EMBED])
    assert torch.equal(embed.key.trigger.x, stored["probe/trigger/x"])


def null_of(plan: Plan) -> str:
    """The stage of the null model."""
    return next(id for id, stage in plan.stages.items() if stage.role == "null")


def test_of_an_unmarked_model_the_attacker_knows_the_key_that_the_stage_names(tmp_path: Path) -> None:
    ran = run(tmp_path, "marking", "steal", nulls=1)
    ids = dict(ran.plan.cells[0].stages)
    null, embed = null_of(ran.plan), ids[EMBED]
    stage = ran.plan.stages[ids[Role("attack", number=0)]]
    unmarked = replace(stage, id="0" * 32, parents=(("key", embed), ("model", null)))
    SEEN.clear()
    record = ran.worker.run(unmarked)
    assert record["status"] == "ok" and "agreement" not in record
    assert torch.equal(SEEN["stolen"].trigger.x, ran.artifact("embed").tensors["probe/trigger/x"])
    nobodys = ran.worker.run(replace(unmarked, parents=(("model", null),)))
    assert nobodys["status"] == "failed" and "steal knows the key, but nobody's is known" in nobodys["reason"]


def test_of_an_unmarked_model_the_attacker_knows_the_scheme_without_any_victim(tmp_path: Path) -> None:
    ran = run(tmp_path, "marking[active=true]", "know", nulls=1)
    stage = ran.plan.stages[dict(ran.plan.cells[0].stages)[Role("attack", number=0)]]
    scheme = registry().component("defense", "marking[active=true]")
    SEEN.clear()
    told = replace(stage, id="0" * 32, parents=(("model", null_of(ran.plan)),), scheme=scheme)
    assert ran.worker.run(told)["status"] == "ok"
    assert SEEN["take"][1].scheme == Marking(active=True) and SEEN["take"][1].key is None


def test_an_unmarked_model_is_attacked_through_its_own_api(tmp_path: Path) -> None:
    ran = run(tmp_path, "marking[active=true]", "ask", nulls=1)
    ids = dict(ran.plan.cells[0].stages)
    null = null_of(ran.plan)
    stage = replace(ran.plan.stages[ids[Role("attack", number=0)]], id="0" * 32, parents=(("model", null),))
    assert ran.worker.run(stage)["status"] == "ok"
    net = ran.worker._parent(null).net
    assert torch.equal(SEEN["answers"], net(ran.splits.train.x).argmax(1))


def test_the_pools(tmp_path: Path) -> None:
    pools = {}
    for pool in ("same", "disjoint", "ood", "other-noise"):
        ran = run(tmp_path / pool, "marking", f"take[pool={pool}]")
        pools[pool] = SEEN["take"][1].x
    assert torch.equal(pools["same"], ran.splits.train.x) and torch.equal(pools["disjoint"], ran.splits.disjoint.x)
    other = ran.worker.data.arrays(OtherNoise())
    assert rows(pools["ood"]) < rows(torch.from_numpy(other.x_train)) and len(pools["ood"]) == 90
    assert torch.equal(pools["ood"], pools["other-noise"])
    # The owner makes triggers of class 0 of it, so that no thief has these.
    assert not rows(pools["ood"]) & rows(torch.from_numpy(other.x_train[other.y_train == 0]))


def test_a_pool_of_the_triggers_class_alone_is_none(tmp_path: Path) -> None:
    record = run(tmp_path / "0", "marking", "take[pool=ood]", dataset="noise[ood=alike]")["attack:0"]
    reason = "take[pool=ood]: pool=ood: alike has no class but the one of which triggers are made"
    assert record["status"] == "skipped" and record["reason"] == reason
    every = run(tmp_path / "1", "marking", "take[pool=ood]", dataset="noise[ood=alike,ood_class=none]")["attack:0"]
    assert every["status"] == "ok", "triggers are of all classes, so none is left out"


def test_a_pool_without_labels_says_what_to_declare() -> None:
    x, y = torch.zeros(2, 1), torch.tensor([0, 1])
    assert torch.equal(Pool(Noise().public(), x, y).labels(), y)
    with pytest.raises(Refused, match="declare `labelled = True`"):
        Pool(Noise().public(), x).labels()


def test_the_epochs_left_are_known_to_defense_and_attack(tmp_path: Path) -> None:
    for entry, left in (("starting", 2), ("starting[clean=true]", 1)):
        ran = run(tmp_path / entry, entry, "ask")
        assert ran["embed"]["status"] == "ok" and SEEN["epochs left"] == left
        assert SEEN["ask"][2].epochs == 2


def test_a_white_box_attack_ruins_its_own_copy_only(tmp_path: Path) -> None:
    ran = run(tmp_path, "marking", "take")
    stored = ran.artifact("embed").tensors
    assert all(torch.equal(tensor, stored[f"model/{name}"]) for name, tensor in SEEN["weights"].items())
    embed = dict(ran.plan.cells[0].stages)[EMBED]
    cached = ran.worker._parent(embed).net.state_dict()
    assert all(torch.equal(tensor, stored[f"model/{name}"]) for name, tensor in cached.items())
    surrogate = ran.artifact("attack:0").tensors
    assert all(torch.equal(surrogate[f"model/{name}"], -tensor) for name, tensor in SEEN["weights"].items())


def test_a_chain_hands_on_what_the_attack_before_ended_with(tmp_path: Path) -> None:
    ran = run(tmp_path, "marking", "ask", "take")
    first = ran.artifact("attack:0").tensors
    assert all(torch.equal(tensor, first[f"model/{name}"]) for name, tensor in SEEN["weights"].items())


# --- the oracle -------------------------------------------------------------------------------------------------------


def oracle(answers: Answers = "labels", budget: int | None = None) -> tuple[Oracle, list[int]]:
    """An oracle whose class is the first pixel, and the sizes of the batches that reached the model."""
    asked: list[int] = []

    def logits(x: Tensor) -> Tensor:
        asked.append(len(x))
        return torch.nn.functional.one_hot(x[:, 0].long(), 4).float() * 2

    return Oracle(logits, answers, budget), asked


X = torch.tensor([[0.0], [3.0], [1.0]])


def test_an_oracle_answers_classes_and_counts_queries() -> None:
    served, _ = oracle()
    labels = served.labels(X)
    assert labels.tolist() == [0, 3, 1] and labels.dtype == torch.int64 and served.queries == 3
    assert served.labels(X[:1]).tolist() == [0] and served.queries == 4
    assert served.labels(X[:0]).tolist() == [] and served.queries == 4


def test_probabilities_are_of_the_logits() -> None:
    served, _ = oracle("probabilities")
    probabilities = served.probabilities(X)
    assert probabilities.shape == (3, 4)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(3))
    best = float(torch.tensor([2.0, 0, 0, 0]).softmax(0)[0])
    label, probability = served.top1(X)
    assert label.tolist() == probabilities.argmax(1).tolist() == [0, 3, 1]
    assert probability.tolist() == [pytest.approx(best)] * 3
    assert served.queries == 6


def test_an_oracle_answers_its_type_and_less() -> None:
    asks: dict[str, Callable[[Oracle], object]] = {
        "labels": lambda served: served.labels(X),
        "top-1": lambda served: served.top1(X),
        "probabilities": lambda served: served.probabilities(X),
    }
    for answers, allowed in (("labels", 1), ("top-1", 2), ("probabilities", 3)):
        for number, (kind, ask) in enumerate(asks.items()):
            served, asked = oracle(answers)  # type: ignore[arg-type]
            if number < allowed:
                ask(served)
                assert served.queries == 3 == asked[0]
            else:
                with pytest.raises(Refused, match=f"answers {answers}, not {kind}"):
                    ask(served)
                assert served.queries == 0 and asked == []


def test_a_budget_is_never_passed_and_nothing_is_answered_in_part() -> None:
    served, asked = oracle(budget=5)
    served.labels(X)
    with pytest.raises(Refused, match="3 more queries after 3 would pass the budget of 5"):
        served.labels(X)
    assert served.queries == 3 and asked == [3]
    assert served.labels(X[:2]).tolist() == [0, 3] and served.queries == 5
    with pytest.raises(Refused):
        served.labels(X[:1])
    none, _ = oracle(budget=0)
    with pytest.raises(Refused):
        none.labels(X[:1])


def test_a_probe_counts_the_answers_that_match() -> None:
    served, _ = oracle()
    assert Probe(X, torch.tensor([0, 3, 3])).ask(served) == Count(2, 3) and served.queries == 3
    assert Probe(X[:0], torch.tensor([]).long()).ask(served) == Count(0, 0)
    evidence = Marking().verify(served, Key({"a": Probe(X, torch.tensor([0, 0, 0])), "b": Probe(X, X[:, 0].long())}))
    assert evidence.counts == {"a": Count(1, 3), "b": Count(3, 3)}


def test_the_worker_serves_what_the_attack_declared(tmp_path: Path) -> None:
    ran = run(tmp_path, "marking", "ask[extra=4,budget_is=94]")
    assert ran["attack:0"]["status"] == "ok" and ran["attack:0"]["queries"] == 94
    over = run(tmp_path, "marking", "ask[extra=5,budget_is=94]")["attack:0"]
    assert over["status"] == "failed" and "Refused: 1 more queries after 94 would pass the budget" in over["reason"]
    assert run(tmp_path, "marking", "doubt[kind=top-1]")["attack:0"]["queries"] == 180
    assert SEEN["top-1"].tolist() == SEEN["answers"].tolist()
    assert SEEN["refused"] == "this oracle answers top-1, not probabilities: declare it in `answers`"
    victim, pool, _ = SEEN["ask"]
    with pytest.raises(Refused, match="the stage that this belonged to has ended"):
        victim.labels(pool.x)


# --- who answers, who verifies ----------------------------------------------------------------------------------------


def test_an_active_scheme_changes_what_the_attacker_is_answered(tmp_path: Path) -> None:
    run(tmp_path, "marking", "ask")
    assert len(SEEN["answers"].unique()) > 1 and "served" not in SEEN
    ran = run(tmp_path, "marking[active=true]", "ask")
    assert SEEN["answers"].tolist() == [2] * 90
    message = float(ran.artifact("embed").tensors["tensor/message"].sum())
    assert SEEN["served"][1] == pytest.approx(message)
    # The victim is verified through the same API; a surrogate is nobody's API but its owner's.
    trigger = ran.artifact("embed").tensors["probe/trigger/y"]
    assert ran["verify:victim"]["evidence"]["trigger"] == [int((trigger == 2).sum()), 10]


def test_the_victims_accuracy_is_that_of_its_api(tmp_path: Path) -> None:
    passive, active = run(tmp_path, "marking", "take"), run(tmp_path, "marking[active=true]", "take")
    test = active.worker.data.test(Noise(), CPU)
    always = float((test.y == 2).double().mean())
    assert active["embed"]["accuracy"] == always
    assert active["embed"]["raw_accuracy"] == passive["embed"]["raw_accuracy"] == passive["embed"]["accuracy"]
    stored = active.artifact("embed").tensors
    assert stored["test/predictions"].tolist() == [2] * len(test)
    # What a thief of the weights serves is the net alone; it agrees with what the victim's API answers.
    theirs = active.artifact("attack:0").tensors["test/predictions"]
    assert active["attack:0"]["agreement"] == pytest.approx(float((theirs == 2).double().mean()))
    assert active["attack:0"]["accuracy"] == active["attack:0"]["raw_accuracy"] == passive["attack:0"]["accuracy"]


def test_an_api_that_writes_into_its_queries_changes_nobody_elses_data(tmp_path: Path) -> None:
    ran = run(tmp_path, "marking[wipes=true]", "ask")
    test, arrays = ran.worker.data.test(Noise(), CPU), Noise().load(tmp_path)
    assert torch.equal(ran.worker.materials._tests["noise"].x, torch.from_numpy(arrays.x_test))
    assert torch.equal(test.x, torch.from_numpy(arrays.x_test))
    assert ran["embed"]["accuracy"] == ran["embed"]["raw_accuracy"]


@pytest.mark.parametrize("answers", ["labels", "nothing"])
def test_an_api_answers_as_many_logits_as_it_is_given(answers: str, tmp_path: Path) -> None:
    record = run(tmp_path, f"marking[answers={answers}]", "ask")["embed"]
    assert record["status"] == "failed" and "marking.serve must return logits (60, 3), not" in record["reason"]


def test_an_api_that_fails_is_read_in_the_record_of_who_asked(tmp_path: Path) -> None:
    record = run(tmp_path, "marking[answers=fails]", "ask")["attack:0"]
    reason = "marking[answers=fails]: marking.serve fails (ValueError: no answer)"  # nobody else is to blame
    assert record["status"] == "failed" and record["reason"] == reason
    assert "in serve" in record["traceback"] and "in run" in record["traceback"]


def test_a_surrogate_is_measured_on_the_pool_where_it_has_labels_of_the_task(tmp_path: Path) -> None:
    for pool, measured in (("same", True), ("disjoint", True), ("ood", False), ("other-noise", False)):
        ran = run(tmp_path / pool, "marking", f"ask[pool={pool}]")
        record = ran["attack:0"]
        assert (record["pool_accuracy"] is not None) == measured
        assert ran["embed"]["pool_accuracy"] is None
        if measured:
            own = ran.splits.train if pool == "same" else ran.splits.disjoint
            net = ran.worker._parent(dict(ran.plan.cells[0].stages)[Role("attack", number=0)]).net
            assert record["pool_accuracy"] == pytest.approx(float((net(own.x).argmax(1) == own.y).double().mean()))


@pytest.mark.parametrize("labels", ["true", "model", "victim"])
def test_labels_are_true_ones_or_the_answers_of_the_model_or_of_the_victims_api(labels: str, tmp_path: Path) -> None:
    # The copy's weights are negated, so it answers otherwise than the victim, whose API says class 2, always.
    ran = run(tmp_path, "marking[active=true]", "take", f"tune[labels={labels}]")
    x, y = ran.splits.train.x, ran.splits.train.y
    copy = ran.worker._parent(dict(ran.plan.cells[0].stages)[Role("attack", number=0)]).net
    wanted = {"true": y, "model": copy(x).argmax(1), "victim": torch.full_like(y, 2)}
    assert torch.equal(SEEN["data"].x, x) and torch.equal(SEEN["data"].y, wanted[labels])
    assert not torch.equal(wanted["model"], wanted["victim"])
    assert ran["attack:1"]["queries"] == (90 if labels == "victim" else None)


def test_a_surrogate_answers_for_itself(tmp_path: Path) -> None:
    ran = run(tmp_path, "marking[active=true]", "take", "ask")
    model = dict(ran.plan.cells[0].stages)[Role("attack", number=0)]
    net = ran.worker._parent(model).net
    assert torch.equal(SEEN["answers"], net(ran.splits.train.x).argmax(1)) and 2 not in SEEN["answers"]


def test_a_white_box_scheme_is_verified_from_the_weights(tmp_path: Path) -> None:
    ran = run(tmp_path, "signs", "take", nulls=2)
    assert ran["verify:victim"]["evidence"] == {"bits": [8, 8]}
    assert ran["verify:surrogate"]["evidence"] == {"bits": [0, 8]}  # every sign was flipped
    nulls = [asked["bits"] for asked in ran["ask:null"]["asked"]]
    assert len(nulls) == 2 and all(matches < 8 for matches, _ in nulls)


def test_a_mark_that_cannot_be_read_is_a_mark_removed(tmp_path: Path) -> None:
    ran = run(tmp_path, "signs", "rename")
    record = ran["verify:surrogate"]
    assert record["status"] == "ok" and record["evidence"] == {"bits": [0, 0]}
    assert record["unreadable"] == "it has no layer `logits`"
    assert "unreadable" not in ran["verify:victim"] and ran["verify:victim"]["evidence"] == {"bits": [8, 8]}


def test_what_a_mark_that_cannot_be_read_was_asked() -> None:
    renamed, whole = adapt(Renamed().build((1, 4, 4), 3), (1, 4, 4), 3), Toy().build((1, 4, 4), 3)
    key, nobody = Key(tensors={"bits": torch.ones(8)}), Oracle(lambda x: x)
    assert evidence_of(Signs(), key, renamed, nobody) == ({"trigger": [0, 0]}, "it has no layer `logits`")
    assert evidence_of(Signs(), key, renamed, nobody, renamed)[0] == {"trigger": [0, 0]}
    assert evidence_of(Signs(), key, renamed, nobody, whole)[0] == {"bits": [0, 0]}
    counts, reason = evidence_of(Signs(), key, whole, nobody)
    assert counts["bits"][1] == 8 and reason == ""


def test_verification_works_on_a_copy(tmp_path: Path) -> None:
    ran = run(tmp_path, "signs[spoil=true]", "leave")
    embed = dict(ran.plan.cells[0].stages)[EMBED]
    assert bool(ran.worker._parent(embed).net.logits.weight.any())
    assert ran["verify:surrogate"]["evidence"] == {"bits": [8, 8]}


@pytest.mark.parametrize("gives", COUNTS)
def test_evidence_is_whole_counts_or_the_stage_fails(gives: str, tmp_path: Path) -> None:
    record = run(tmp_path, f"counting[gives={gives}]", "leave")["verify:victim"]
    if gives in ("plain", "numpy", "tensor"):
        assert record["evidence"] == {"trigger": [3, 5]} and record["status"] == "ok"
    elif gives in ("score", "a number of torch"):
        assert record["evidence"] == {"trigger": [SCORED // 4, SCORED]} and record["status"] == "ok"
    elif gives == "none asked":
        assert record["evidence"] == {"trigger": [0, 0]} and record["status"] == "ok"
    else:
        assert record["status"] == "failed" and re.search("Count|Score", record["reason"])


@pytest.mark.parametrize(
    ("suspects", "suspected", "hit"),
    [("1", 1, True), ("0", 0, False), ("nothing", None, None), ("numpy", 1, True), ("tensor", 1, True)],
)
def test_a_detection_is_judged_by_the_key(suspects: str, suspected: object, hit: object, tmp_path: Path) -> None:
    ran = run(tmp_path, "marking", f"search[suspects={suspects}]")
    found, judged = ran["detect:surrogate:0"], ran["judge:surrogate"]
    expected = {"score": 1.5, "threshold": 1.0, "suspected_class": suspected, "suspected_source": None}
    assert found["status"] == judged["status"] == "ok" and found["detection"] == expected
    assert judged["judgements"] == [{"target_hit": hit, "mask_overlap": None, "window_rank": None}]


@pytest.mark.parametrize("suspects", ["half", "word"])
def test_a_detection_of_no_class_fails_its_own_stage(suspects: str, tmp_path: Path) -> None:
    ran = run(tmp_path, "marking", f"search[suspects={suspects}]")
    assert ran["detect:surrogate:0"]["status"] == "failed" and ran["verify:victim"]["status"] == "ok"


@pytest.mark.parametrize("keeps", ODD)
def test_a_key_that_cannot_be_stored_fails_its_own_stage(keeps: str, tmp_path: Path) -> None:
    embed = run(tmp_path, f"marking[keeps={keeps}]", "leave")["embed"]
    assert embed["status"] == "failed" and "the key's tensor/kept is" in embed["reason"]


def test_an_attack_that_writes_to_its_pool_changes_nobody_elses_data(tmp_path: Path) -> None:
    ran = run(tmp_path, "marking", "scribble")
    fresh = Data(tmp_path).splits(Noise(), ran.plan.stages[dict(ran.plan.cells[0].stages)[EMBED]].split_seed, CPU)
    assert torch.equal(ran.splits.train.x, fresh.train.x)
    assert not SEEN["pool"].any()
