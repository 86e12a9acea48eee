"""What each action does. The only module that calls plugins, and that turns models and keys into artifacts and back.

A stage ends ``ok``, ``skipped`` or ``failed``; each is a record. A plugin that raises, returns the wrong thing or a
model that cannot be stored fails its own stage, and nobody else's.
"""

from __future__ import annotations

import os
import platform
import sys
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from operator import index
from typing import Any

import torch
from torch import Tensor, nn

import harness
from harness.artifacts import Loaded, check_model, pack_key, unpack
from harness.contracts import (
    BlackBoxAttack,
    Count,
    Dataset,
    Defense,
    Detection,
    Detector,
    Evidence,
    Key,
    Marked,
    Oracle,
    Pool,
    Split,
    Task,
    WhiteBoxAttack,
    WhiteBoxDefense,
)
from harness.data import Data, Splits
from harness.errors import DamagedArtifact, PluginError, Skip
from harness.metrics import accuracy, agreement, mask_overlap
from harness.nets import Net
from harness.plan import Lookup, Stage
from harness.store import Store
from harness.train import Engine, clone, predict

CACHED = 32
"""Artifacts kept in memory: a victim's children need it in turn."""


@dataclass
class Made:
    """What a stage made, before it is stored."""

    net: nn.Module | None = None
    key: Key | None = None
    record: dict[str, Any] = field(default_factory=dict)


@dataclass
class Worker:
    """Runs stages on one device: loads the parents, calls the plugin, stores the artifact, returns the record."""

    store: Store
    data: Data
    stages: Mapping[str, Stage]
    lookup: Lookup
    device: torch.device
    debug: bool = False
    """Let exceptions of plugins through, for a post-mortem."""
    warn: Callable[[str], None] = lambda message: None
    _cache: OrderedDict[str, Loaded] = field(default_factory=OrderedDict)
    _splits: dict[tuple[str, int], Splits] = field(default_factory=dict)
    _tests: dict[str, Split] = field(default_factory=dict)

    def run(self, stage: Stage) -> dict[str, Any]:
        """Run ``stage``, store what it made, and return its record. Parents that are missing or damaged run first."""
        started, begin = datetime.now(UTC), time.perf_counter()
        made, status, reason, trace = Made(), "ok", "", ""
        tensors: dict[str, Tensor] = {}
        try:
            parents = {role: self._parent(id) for role, id in stage.parents}
            engine = self._engine(stage, parents)
            made = ACTIONS[stage.action](self, stage, parents, engine)
            made.record["curves"] = engine.curves
            tensors = self._pack(stage, parents, made)
        except Skip as skip:
            status, reason = "skipped", f"{stage.plugin or stage.dataset}: {skip}"
        except Exception as error:
            if self.debug:
                raise
            status, trace = "failed", traceback.format_exc()
            reason = f"{stage.plugin or stage.dataset}: {type(error).__name__}: {error}"
        record = {
            **made.record,
            "stage": stage.id,
            "action": stage.action,
            "label": stage.label,
            "dataset": stage.dataset.text,
            "plugin": stage.plugin.text if stage.plugin else "",
            "status": status,
            "reason": reason,
            "traceback": trace,
            "started": started.isoformat(),
            "seconds": time.perf_counter() - begin,
            **self._machine(),
        }
        self.store.save(stage.id, record, tensors)
        self._cache.pop(stage.id, None)
        return record

    # --- artifacts and objects ---

    def _parent(self, id: str) -> Loaded:
        if id not in self._cache:
            self._cache[id] = self._load(id)
            if len(self._cache) > CACHED:
                self._cache.popitem(last=False)
        self._cache.move_to_end(id)
        return self._cache[id]

    def _load(self, id: str) -> Loaded:
        try:
            artifact = self.store.load(id)
        except DamagedArtifact as damage:
            self.warn(f"{damage}: computed again")
            self.run(self.stages[id])
            artifact = self.store.load(id)
        if artifact.record["status"] != "ok":
            raise PluginError(f"{artifact.record['label']} did not succeed: {artifact.record['reason']}")
        return unpack(artifact, self.lookup, self.device)

    def _pack(self, stage: Stage, parents: Mapping[str, Loaded], made: Made) -> dict[str, Tensor]:
        """The tensors to store; of a model also its answers on the test set, which its record's numbers come from."""
        tensors: dict[str, Tensor] = {}
        if made.net is not None:
            description, state = check_model(made.net)
            test = self._test(stage)
            predictions = predict(made.net, test.x).argmax(1)
            made.record |= {"model": dict(description), "accuracy": accuracy(predictions, test.y)}
            victim = parents["embed"].predictions if "embed" in parents else None
            if victim is not None:
                made.record["agreement"] = agreement(predictions, victim.long())
            tensors |= {f"model/{name}": tensor for name, tensor in state.items()}
            tensors["test/predictions"] = predictions.to(torch.int16)
        if made.key is not None:
            tensors |= pack_key(made.key)
        return tensors

    # --- what plugins are given ---

    def _engine(self, stage: Stage, parents: Mapping[str, Loaded]) -> Engine:
        generator = torch.Generator().manual_seed(stage.seed)
        used = stage.architecture or self.lookup("architecture", stage.dataset.plugin.architecture)
        clean = parents["clean"].net if "clean" in parents else None
        return Engine(self.device, generator, stage.dataset.plugin, used.plugin, used.text, clean)

    def splits(self, stage: Stage) -> Splits:
        """The owner's and the attacker's samples of the stage's seed."""
        key = (stage.dataset.text, stage.split_seed)
        if key not in self._splits:
            if len(self._splits) >= 8:  # a matrix goes seed by seed: older ones are not needed again soon
                self._splits.pop(next(iter(self._splits)))
            self._splits[key] = self.data.splits(stage.dataset.plugin, stage.split_seed, self.device)
        return self._splits[key]

    def _test(self, stage: Stage) -> Split:
        if stage.dataset.text not in self._tests:
            self._tests[stage.dataset.text] = self.data.test(stage.dataset.plugin, self.device)
        return self._tests[stage.dataset.text]

    def task(self, stage: Stage, triggers: Key) -> Task:
        """What the owner has: copies, since the worker's own serve other stages too."""
        splits = self.splits(stage)
        other = None
        if stage.data is not None:
            other = self.data.other(stage.data.plugin, stage.dataset.plugin, self.device)
        return Task(stage.dataset.plugin, splits.train.clone(), splits.holdout.clone(), other, triggers)

    def pool(self, stage: Stage, name: str, labelled: bool) -> Pool:
        """What the attacker has, a copy: as many inputs as the owner, or as another dataset has."""
        task: Dataset = stage.dataset.plugin
        if stage.data is None:
            splits = self.splits(stage)
            split = (splits.train if name == "same" else splits.disjoint).clone()
            return Pool(task, split.x, split.y if labelled else None)
        if labelled:
            raise Skip(f"pool={name} has labels of another task")
        other = self.data.other(stage.data.plugin, task, self.device)
        order = torch.randperm(len(other), generator=torch.Generator().manual_seed(stage.split_seed))
        return Pool(task, other.x[order[: task.train].to(self.device)])

    def oracle(self, stage: Stage, parents: Mapping[str, Loaded], attack: BlackBoxAttack | None = None) -> Oracle:
        """The model under attack or under verification. The victim itself answers as its scheme serves."""
        net = _net(parents["model"])
        ids = dict(stage.parents)

        def logits(x: Tensor) -> Tensor:
            answers = predict(net, x)
            if ids["model"] != ids["embed"]:
                return answers
            defense: Defense = self._plugin_of(ids["embed"])
            return defense.serve(x, answers, parents["embed"].key)

        return Oracle(logits, attack.answers if attack else "labels", attack.budget if attack else None)

    def _plugin_of(self, id: str) -> Any:
        use = self.stages[id].plugin
        return use.plugin if use else None

    def _machine(self) -> dict[str, Any]:
        cuda = self.device.type == "cuda"
        return {
            "device": torch.cuda.get_device_name(self.device) if cuda else "cpu",
            "threads": torch.get_num_threads(),
            "peak_memory_mib": peak_memory_mib(),
            "torch": torch.__version__,
            "harness": harness.__version__,
            "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs, "
            f"Python {platform.python_version()}",
        }


def peak_memory_mib() -> float | None:
    """Peak resident memory of this process up to now; ``None`` where the system does not tell (Windows)."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10  # bytes there, KiB elsewhere


# --- actions ----------------------------------------------------------------------------------------------------------

Parents = Mapping[str, Loaded]


def _train(worker: Worker, stage: Stage, parents: Parents, engine: Engine) -> Made:
    """A clean model: a null model, or the one that victims start from."""
    train = worker.splits(stage).train
    return Made(engine.train(engine.build(), [engine.stream(train)], stage.epochs))


def _triggers(worker: Worker, stage: Stage, parents: Parents, engine: Engine) -> Made:
    if stage.recipe is None:
        raise PluginError("a triggers stage without a recipe")
    key = stage.recipe.make(worker.task(stage, Key()), engine)
    _expect(key, Key, f"{type(stage.recipe).__name__}.make")
    return Made(key=key)


def _embed(worker: Worker, stage: Stage, parents: Parents, engine: Engine) -> Made:
    defense: Defense = _plugin(stage)
    triggers = parents["triggers"].key if "triggers" in parents else Key()
    marked = defense.embed(worker.task(stage, triggers), engine)
    _expect(marked, Marked, f"{defense.name}.embed")
    return Made(marked.net, marked.key)


def _attack(worker: Worker, stage: Stage, parents: Parents, engine: Engine) -> Made:
    attack: BlackBoxAttack | WhiteBoxAttack | Detector = _plugin(stage)
    pool = worker.pool(stage, attack.pool, attack.labelled)
    if isinstance(attack, Detector):
        found = attack.run(clone(_net(parents["model"])), pool, engine)
        _expect(found, Detection, f"{attack.name}.run")
        return Made(record={"detection": judge(found, parents["embed"].key)})
    queries = None
    if isinstance(attack, BlackBoxAttack):
        oracle = worker.oracle(stage, parents, attack)
        surrogate = attack.run(oracle, pool, engine)
        queries = oracle.queries
    else:
        surrogate = attack.run(clone(_net(parents["model"])), pool, engine)
    _expect(surrogate, nn.Module, f"{attack.name}.run")
    return Made(surrogate, record={"queries": queries})


def _verify(worker: Worker, stage: Stage, parents: Parents, engine: Engine) -> Made:
    defense: Defense = _plugin(stage)
    key = parents["embed"].key
    if isinstance(defense, WhiteBoxDefense):
        evidence = defense.verify_weights(clone(_net(parents["model"])), key)
    else:
        evidence = defense.verify(worker.oracle(stage, parents), key)
    _expect(evidence, Evidence, f"{defense.name}.verify")
    counts = {name: _counted(count, f"{defense.name}.verify: {name!r}") for name, count in evidence.counts.items()}
    return Made(record={"evidence": counts})


def _counted(count: Count, where: str) -> list[int]:
    """Matches and trials as plain numbers, also where a plugin counted with NumPy or torch."""
    try:
        matches, trials = index(count.matches), index(count.trials)
    except (AttributeError, TypeError):
        matches, trials = 0, -1
    if not 0 <= matches <= trials:
        raise PluginError(f"{where} must be Count(matches <= trials) of whole numbers, not {count}")
    return [matches, trials]


ACTIONS = {"train": _train, "triggers": _triggers, "embed": _embed, "attack": _attack, "verify": _verify}


def judge(found: Detection, key: Key) -> dict[str, Any]:
    """A detection compared with the key: is its class the target, and does its mask cover the trigger?"""
    target, mask = key.tensors.get("target"), key.tensors.get("mask")
    suspected = None if found.suspected_class is None else index(found.suspected_class)
    return {
        "score": float(found.score),
        "threshold": float(found.threshold),
        "suspected_class": suspected,
        "target_hit": None if suspected is None or target is None else int(target) == suspected,
        "mask_overlap": None
        if found.mask is None or mask is None
        else mask_overlap(found.mask, mask.to(found.mask.device)),
    }


def _plugin(stage: Stage) -> Any:
    if stage.plugin is None:
        raise PluginError(f"the stage {stage.label!r} has no plugin")
    return stage.plugin.plugin


def _net(loaded: Loaded) -> Net:
    if loaded.net is None:
        raise PluginError(f"{loaded.record['label']} made no model")
    return loaded.net


def _expect(value: object, cls: type, where: str) -> None:
    if not isinstance(value, cls):
        raise PluginError(f"{where} must return a {cls.__name__}, not {type(value).__name__}")
