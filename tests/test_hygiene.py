"""Hygiene: what an attack is handed leads to no key, no test set, and nothing of other stages.

Attacks of the four kinds walk all that they are handed, in real stages: attributes, slots, closures, defaults, and what
the garbage collector knows to be referred to. It is no sandbox: frames and the list of all objects lead everywhere.
"""

from __future__ import annotations

import gc
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from types import (
    BuiltinFunctionType,
    CellType,
    CodeType,
    FrameType,
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodDescriptorType,
    ModuleType,
    WrapperDescriptorType,
)
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from harness.contracts import (
    BlackBoxAttack,
    Context,
    Defense,
    Detection,
    Detector,
    Evasion,
    Family,
    Key,
    Marked,
    Oracle,
    Pool,
    Split,
    Task,
    WhiteBoxAttack,
)
from harness.data import Data, Splits
from harness.engine.memo import ResultCache, SharedInputs
from harness.oracles import Meter
from harness.planning.builder import make_plan
from harness.planning.graph import Plan, Stage
from harness.planning.registry import load_registry
from harness.running.worker import StageRunner
from harness.storage.codec import Loaded
from harness.storage.store import Store
from tests.conftest import TINY, with_plugins

CPU = torch.device("cpu")

REACHED: dict[str, list[object]] = {}
"""All that the attack of the last run reached, by its name."""

_LEAVES = (
    *(str, bytes, int, float, complex, type(None), CodeType, FrameType, BuiltinFunctionType, GetSetDescriptorType),
    *(MemberDescriptorType, MethodDescriptorType, WrapperDescriptorType),
)


def walk(*roots: object) -> list[object]:
    """All that ``roots`` lead to, breadth first."""
    seen: dict[int, object] = {}
    left = deque(roots)
    while left:
        thing = left.popleft()
        if id(thing) in seen or (isinstance(thing, _LEAVES) and not _bound(thing)):
            continue
        seen[id(thing)] = thing
        left += _next(thing)
    return list(seen.values())


def _bound(thing: object) -> bool:
    """True for a builtin method of an object, such as ``[].append``."""
    return isinstance(thing, BuiltinFunctionType) and not isinstance(thing.__self__, ModuleType | type | None)


def _next(thing: object) -> Iterable[object]:
    if isinstance(thing, ModuleType):  # of other packages there is no end
        return [vars(thing)] if thing.__name__.partition(".")[0] == "harness" else []
    if isinstance(thing, FunctionType):
        own = (thing.__module__ or "").partition(".")[0] == "harness"
        found: list[object] = [thing.__closure__, thing.__defaults__, thing.__kwdefaults__, vars(thing)]
        return [*found, thing.__globals__] if own else found
    found = list(gc.get_referents(thing))
    if isinstance(thing, CellType):
        try:
            found.append(thing.cell_contents)
        except ValueError:  # empty
            return found
    if isinstance(thing, Tensor):
        found += [thing._base, thing.grad, thing.grad_fn]
    if isinstance(thing, type):
        return found
    found += list(getattr(thing, "__dict__", {}).values())
    for cls in type(thing).__mro__:
        slots = vars(cls).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if (value := getattr(thing, name, None)) is not None:
                found.append(value)
    return found


# --- attacks that look around -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Thief(BlackBoxAttack):
    """Walks from its oracle, before and after it asked."""

    name: ClassVar[str] = "thief"
    family: ClassVar[Family] = "extraction"

    def run(self, victim: Oracle, pool: Pool, ctx: Context) -> nn.Module:
        REACHED[self.name] = walk(self, victim, pool, ctx)
        answers = victim.labels(pool.x)
        try:
            victim.top1(pool.x)
        except Exception as refused:
            REACHED[self.name] += walk(*refused.args, vars(refused), refused.__cause__, refused.__context__)
        for name in ("queries", "budget", "answers"):
            with pytest.raises(AttributeError):
                setattr(victim, name, 0)
        net = ctx.train(ctx.build(), [ctx.stream(Split(pool.x, answers))], 1)
        REACHED[self.name] += walk(self, victim, pool, ctx, answers)
        return net


@dataclass(frozen=True)
class Vandal(WhiteBoxAttack):
    """Walks from its copy of the weights."""

    name: ClassVar[str] = "vandal"
    family: ClassVar[Family] = "removal"

    def run(self, victim: nn.Module, pool: Pool, ctx: Context) -> nn.Module:
        answers, frequencies = ctx.predict(victim, pool.x), ctx.activation_frequencies(victim, pool.x)
        REACHED[self.name] = walk(self, victim, pool, ctx, answers, frequencies)
        return victim


@dataclass(frozen=True)
class Hound(Detector):
    """Walks from the suspect."""

    name: ClassVar[str] = "hound"

    def run(self, suspect: nn.Module, pool: Pool, ctx: Context) -> Detection:
        answers = ctx.predict(suspect, pool.x)
        REACHED[self.name] = walk(self, suspect, pool, ctx, answers)
        return Detection(score=0.0, threshold=1.0)


@dataclass(frozen=True)
class Fence(Evasion):
    """Walks from what it is handed to prepare, and when it serves."""

    name: ClassVar[str] = "fence"

    def prepare(self, suspect: nn.Module, pool: Pool, ctx: Context) -> Mapping[str, Tensor]:
        answers = ctx.predict(suspect, pool.x)
        REACHED[self.name] = walk(self, suspect, pool, ctx, answers)
        return {}

    def serve(self, suspect: nn.Module, inputs: Tensor, logits: Tensor, guard: Mapping[str, Tensor]) -> Tensor:
        REACHED[self.name] += walk(self, suspect, logits, guard)  # the inputs are what it is asked
        return logits


@dataclass(frozen=True)
class Active(Defense):
    """Marks with triggers, and serves by its key."""

    name: ClassVar[str] = "active"

    def embed(self, task: Task, ctx: Context) -> Marked:
        trigger = task.train.first(20)
        net = ctx.train(ctx.build(), [ctx.stream(task.train)], 1)
        return Marked(net, Key({"trigger": trigger}, {"message": torch.rand(8, generator=ctx.generator)}))

    def serve(self, inputs: Tensor, logits: Tensor, key: Key) -> Tensor:
        return logits + key.tensors["message"].sum()


@dataclass(frozen=True)
class Ran:
    """A worker after the four attacks, and what must be out of reach."""

    worker: StageRunner
    tensors: dict[int, str]
    """Names of the tensors of others, by where their data lie."""


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    registry = with_plugins(load_registry(), Thief, Vandal, Hound, Fence, Active)
    use = registry.component
    # Each with an extraction before it, so that the worker has artifacts and answers of other stages.
    chains = [("thief",), *(("retraining", name) for name in ("vandal", "hound", "fence")), ("pruning",)]
    plan = make_plan(
        [use("dataset", TINY)],
        [use("defense", "active")],
        [tuple(use("attack", name) for name in chain) for chain in chains],
        [0],
        1,
        use,
    )
    folder = tmp_path_factory.mktemp("hygiene")
    store = Store(folder)
    store.prepare()
    worker = StageRunner(store, Data(folder), plan.stages, use, CPU)
    kept: list[Loaded] = []  # alive, so that no address is used twice
    for id, stage in plan.stages.items():
        record = worker.run(stage)
        assert record["status"] == "ok", record["traceback"]
        kept.append(worker._parent(id))
    assert REACHED.keys() == {"thief", "vandal", "hound", "fence"} and worker.materials._memory._results
    return Ran(worker, _others(worker))


def _others(worker: StageRunner) -> dict[int, str]:
    """The tensors of the worker, by where they lie."""
    named: dict[str, Tensor] = {}
    for id, loaded in worker._cache.items():
        label = f"{worker.stages[id].action} {worker.stages[id].plugin}"
        named |= {f"{label} {name}": tensor for name, tensor in loaded.key.tensors.items()}
        named |= {f"{label} {name}": split.x for name, split in loaded.key.probes.items()}
        named |= {f"{label} {name} labels": split.y for name, split in loaded.key.probes.items()}
        if loaded.net is not None:
            named |= {f"{label} {name}": tensor for name, tensor in loaded.net.state_dict().items()}
    for splits in worker.materials._splits.values():
        for name in ("train", "holdout", "disjoint"):
            split = getattr(splits, name)
            named |= {f"{name} inputs": split.x, f"{name} labels": split.y}
    for test in worker.materials._tests.values():
        named |= {"test inputs": test.x, "test labels": test.y}
    for number, (_, values) in enumerate(worker.materials._memory._results.items()):
        each = values if isinstance(values, dict) else {"logits": values}
        named |= {f"remembered {number} {name}": value for name, value in each.items()}
    return {tensor.untyped_storage().data_ptr(): name for name, tensor in named.items() if tensor.numel()}


FORBIDDEN = (
    *(Key, Split, Splits, Task, Marked, StageRunner, ResultCache, SharedInputs, Loaded, Data, Store, Plan, Stage),
    *(Defense, Meter, threading.Thread),
)


def leaks(ran: Ran, reached: Iterable[object]) -> list[str]:
    """Names of what should not have been reached."""
    main = threading.main_thread()  # to which the streams of some test runners lead: it works on nothing of ours
    found = [type(thing).__name__ for thing in reached if isinstance(thing, FORBIDDEN) and thing is not main]
    for thing in reached:
        if isinstance(thing, Tensor) and thing.layout is torch.strided and thing.device == CPU and thing.numel():
            found += [ran.tensors[at] for at in [thing.untyped_storage().data_ptr()] if at in ran.tensors]
    return found


def same(ran: Ran, reached: Iterable[object]) -> list[str]:
    """Names of what was reached as a copy: test inputs and labels, and the key's message."""
    (test,) = ran.worker.materials._tests.values()
    (message,) = [each.key.tensors["message"] for each in ran.worker._cache.values() if each.key.tensors]
    hidden = {"test labels": test.y, "test inputs": test.x, "message": message}
    return [
        name
        for thing in reached
        if isinstance(thing, Tensor) and thing.layout is torch.strided
        for name, value in hidden.items()
        if thing.dtype == value.dtype and thing.shape == value.shape and torch.equal(thing, value)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["thief", "vandal", "hound", "fence"])
def test_an_attack_reaches_nothing_that_it_was_not_given(name: str, ran: Ran) -> None:
    reached = REACHED[name]
    # A filter serves for the model that it guards, which is its own.
    assert [each for each in leaks(ran, reached) if not each.startswith("attack fence ")] == []
    assert same(ran, reached) == []
    # The walk does get about: it finds the pool, the harness's own modules, and the queue to whoever answers.
    kinds = {type(thing).__name__ for thing in reached}
    assert {"Pool", "Recipe", "Engine", "Service", "SimpleQueue"} <= kinds
    assert any(isinstance(thing, dict) and thing.get("__name__") == "harness.engine.train" for thing in reached)


def _closure(worker: StageRunner, key: Key) -> Callable[[Tensor], Tensor]:
    def logits(x: Tensor) -> Tensor:
        return worker.stages and x + key.tensors["message"].sum()

    return logits


@pytest.mark.slow
def test_the_walk_finds_what_a_closure_holds(ran: Ran) -> None:
    """The control: version 0.1 built its oracles this way."""
    key = next(each.key for each in ran.worker._cache.values() if each.key.tensors)
    reached = walk(Oracle(_closure(ran.worker, key)))
    found = leaks(ran, reached)
    assert {"Key", "StageRunner", "ResultCache", "Loaded", "Meter", "test labels", "test inputs"} <= set(found)
    assert "message" in same(ran, reached)


@pytest.mark.parametrize("hide", ["default", "keyword", "slot", "method", "append", "partial", "view"])
def test_the_walk_finds_what_is_hidden(hide: str, ran: Ran) -> None:
    (test,) = ran.worker.materials._tests.values()

    class Slot:
        __slots__ = ("held",)

        def __init__(self, held: object) -> None:
            self.held = held

        def method(self) -> object:
            return self.held

    def default(held: object = test) -> object:
        return held

    def keyword(*, held: object = test) -> object:
        return held

    hidden = {
        "default": default,
        "keyword": keyword,
        "slot": Slot(test),
        "method": Slot(test).method,
        "append": [test].append,
        "partial": partial(len, test),
        "view": test.y[:3],
    }[hide]
    assert "test labels" in leaks(ran, walk(hidden))
