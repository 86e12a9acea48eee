"""The runner of stages: parents in, action, artifact out.

A stage ends ``ok``, ``skipped`` or ``failed``; each is a record. A plugin that raises, returns the wrong type, or
returns a model that cannot be stored fails its own stage, and nobody else's.
"""

from __future__ import annotations

import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.contracts import (
    ActiveDefense,
    BlackBoxAttack,
    Dataset,
    Key,
    Oracle,
    Pool,
    PoolAttack,
    Split,
    Task,
)
from harness.data import Data, Splits
from harness.engine.epochs import measure_epochs
from harness.engine.memo import Lent, ResultCache, SharedInputs
from harness.engine.profile import NoTrace, Timeline, Trace
from harness.engine.service import serving
from harness.engine.train import LOGITS, Counts, Engine, Precision, clone, remembered
from harness.errors import Blamed, BrokenDataset, DamagedArtifact, OutOfMemory, PluginError, Skip
from harness.inputs import moments
from harness.isolation import Guard, Interrupted, describe_error
from harness.modelfiles import code_of
from harness.nets import Net
from harness.oracles import Meter
from harness.planning.graph import Component, Kind, Lookup, Stage
from harness.planning.inputs import inputs_of
from harness.running.actions import ACTIONS, StageOutput, net_of
from harness.running.answers import ClientLog, of_owner, of_thief, serves
from harness.running.classes import NetClasses
from harness.running.environment import Peaks, give_back, machine
from harness.running.measure import pack
from harness.running.pool import Clock
from harness.running.rebuilt import noise_like
from harness.storage.codec import Loaded, unpack
from harness.storage.locks import Claims
from harness.storage.records import StageRecord, Status, about, check_record
from harness.storage.store import Store, plain

_READ_NO_DATA = ("judge", "verify", "ask")
"""Actions that read no data: their parents suffice."""
CACHED = 32
"""Number of artifacts kept in memory at least: a victim's children need it in turn."""
CACHED_BYTES = 2**29
"""Bytes of artifacts kept beyond that number: every key is asked of the same models."""


@dataclass
class StageRunner:
    """Runs stages on one device: loads the parents, calls the plugin, stores the artifact, returns the record."""

    store: Store
    data: Data
    stages: Mapping[str, Stage]
    lookup: Lookup
    device: torch.device
    precision: Precision = "tf32"
    profiles: Path | None = None
    """Folder of the stages' timelines; ``None`` writes none."""
    debug: bool = False
    """Let exceptions of plugins through, for a post-mortem."""
    warn: Callable[[str], None] = lambda message: None
    claims: Claims | None = None
    """Claims shared with other processes that may run the same stages."""
    shares_device: bool = False
    """True if other stages run on this device at the same time: one that runs out of memory may then try again alone.
    """
    clock: Callable[[Clock], None] | None = None
    """Receiver of what the time limit of a stage depends on; ``None`` where there is no limit."""
    trial: int | None = None
    """Number of the trial, where plugins are checked: global random states differ from trial to trial, and a plugin
    that draws from them is named among those that change the process.
    """
    _cache: OrderedDict[str, Loaded] = field(default_factory=OrderedDict)
    _cached_bytes: int = 0
    _memory: ResultCache = field(default_factory=ResultCache)
    _splits: dict[tuple[str, int], Splits] = field(default_factory=dict)
    _tests: dict[str, Split] = field(default_factory=dict)
    _noise: dict[str, Tensor] = field(default_factory=dict)
    templates: dict[str, Net] = field(default_factory=dict)
    """A net of each architecture, with which those that plugins return are compared."""
    _classes: NetClasses = field(default_factory=NetClasses)
    _guard: Guard | None = None
    """The guard of the stage before."""
    _guarded_once: set[tuple[str, Component | None]] = field(default_factory=set)

    def run(self, stage: Stage) -> StageRecord:
        """Run ``stage``, store what it made, and return its record. Parents that are missing or damaged run first.

        Raises :class:`OutOfMemory`, and stores nothing, where it ran out of a device's memory that others use too.
        """
        started, begin, peaks = datetime.now(UTC), time.perf_counter(), Peaks(self.device)
        made, reason, error_trace, counts = StageOutput(), "", "", Counts()
        status: Status = "ok"
        tensors: dict[str, Tensor] = {}
        trace: Trace = Timeline(f"{stage.action}: {stage.label}") if self.profiles else NoTrace()
        with self._guarded(stage) as guard, self._warning(stage) as warn:
            try:
                with trace.span("load parents"):
                    parents = self._untimed(stage)
                engine = self._engine(stage, parents, trace, counts, warn)
                with trace.span(stage.action, plugin=str(stage.plugin or "")), self._classes.kept(parents.values()):
                    made = ACTIONS[stage.action](self, stage, parents, engine)
                if made.net is not None:
                    guard.settle()
                self._watch(stage, parents, engine)
                made.record["curves"] = plain(engine.curves)
                tensors = pack(self, stage, parents, made, engine)
            except Skip as skip:
                status, reason = "skipped", f"{stage.plugin or stage.dataset}: {skip}"
            except OutOfMemory:  # of a parent that was computed again
                raise
            except BaseException as error:  # also of a plugin that leaves: by sys.exit, say
                if self.debug or isinstance(error, Interrupted):
                    raise
                if self.shares_device and isinstance(error, torch.OutOfMemoryError):
                    give_back(self.device)
                    raise OutOfMemory(str(error)) from error
                status, reason, error_trace = "failed", _reason(stage, error), traceback.format_exc()
        record: StageRecord = {
            **made.record,
            **about(stage),
            **{"inputs": inputs_of(stage), "status": status, "reason": reason or made.lacks, "traceback": error_trace},
            **{"started": started.isoformat(), "seconds": time.perf_counter() - begin},
            **peaks.read(),
            **self._seen(stage, counts),
            **({"changed": ", ".join(guard.changed)} if guard.changed else {}),
        }
        self._end(stage, record, None if made.lacks else tensors, trace)
        return record

    def _end(self, stage: Stage, record: StageRecord, tensors: Mapping[str, Tensor] | None, trace: Trace) -> None:
        """Store what a stage made, unless ``tensors`` is ``None``, and leave nothing else of it behind."""
        if tensors is not None:
            with trace.span("store"):
                self.store.save(stage.id, record, tensors)
        self._write_timeline(stage, trace)
        self._forget(stage.id)
        give_back(self.device)

    def _untimed(self, stage: Stage) -> dict[str, Loaded]:
        """The parents, loaded; with a limit also the data, since the time of loading is not the stage's."""
        if self.clock is None:
            return self._parents(stage)
        self.clock("loading")
        parents = self._parents(stage)
        for use in (stage.dataset, stage.data):
            if use is not None and stage.action not in _READ_NO_DATA:
                self.data.arrays(use.plugin)
        self.clock("began")
        return parents

    @contextmanager
    def _guarded(self, stage: Stage) -> Iterator[Guard]:
        """The guard of the plugins that ``stage`` calls; afterwards the user is told what they changed."""
        known = (stage.action, stage.plugin)  # with its options, which may decide what it changes
        guard = Guard(
            seed=stage.seed + (self.trial or 0),
            interactive=self.debug,
            after=self._guard,
            quick=known in self._guarded_once,
            strict=self.trial is not None,
        )
        self._guarded_once.add(known)
        try:
            with guard:
                yield guard
        finally:
            self._guard = guard
            for warning in guard.warnings(f"{stage.action} {_name(stage)}"):
                self.warn(warning)

    @contextmanager
    def _warning(self, stage: Stage) -> Iterator[Callable[[str], None]]:
        """A function to warn by while the block runs, which leads to no worker; the user is told afterwards."""
        warnings: list[str] = []
        try:
            yield warnings.append
        finally:
            for warning in warnings:
                self.warn(f"{stage.label}: {warning}")

    def _seen(self, stage: Stage, counts: Counts) -> StageRecord:
        """The samples that nets saw, and at which precision, on which machine and of which data."""
        return {
            "trained_samples": counts.trained,
            "evaluated_samples": counts.evaluated,
            "recalled_samples": counts.recalled,
            "precision": self.precision if self.device.type == "cuda" or self.precision == "bf16" else "fp32",
            **machine(self.device),
            **self._data_read(stage),
        }

    def _write_timeline(self, stage: Stage, trace: Trace) -> None:
        if self.profiles and isinstance(trace, Timeline):
            try:
                trace.write(self.profiles / f"{stage.action}-{stage.id}.json.gz")
            except OSError as error:  # the stage is done and stored: a full disk costs its timeline
                self.warn(f"{stage.label}: no timeline ({error.strerror})")

    def _data_read(self, stage: Stage) -> StageRecord:
        """The data that the stage read, as columns of the table ``stages``."""
        if stage.action in _READ_NO_DATA:
            return {}
        read: StageRecord = {}
        if known := self.data.checksum(stage.dataset.plugin):  # it may have failed before it read any
            read["data_checksum"] = known
        if stage.data is not None:
            read["other_dataset"] = stage.data.text
            if known := self.data.checksum(stage.data.plugin):
                read["other_checksum"] = known
        return read

    def _parents(self, stage: Stage) -> dict[str, Loaded]:
        """The parents by role, once it is known that the data are those that the stage's id says."""
        self._check_content(stage)
        return {role: self._parent(id) for role, id in stage.required}

    def _check_content(self, stage: Stage) -> None:
        """Raise :class:`BrokenDataset` where a set that the stage reads has not the content that its id says."""
        for use in (stage.dataset, stage.data):
            if use is not None and use.content and stage.action not in _READ_NO_DATA:
                self.data.arrays(use.plugin)
                if (found := self.data.checksum(use.plugin)) != use.content:
                    raise BrokenDataset(
                        f"{use}: its files changed since the run was planned "
                        f"(content {use.content[:8]} then, {found} now): run again"
                    )

    # --- artifacts and objects ---

    def _parent(self, id: str) -> Loaded:
        if id not in self._cache:
            self._cache[id] = self._load(id)
            self._cached_bytes += self._cache[id].size
            while len(self._cache) > CACHED and self._cached_bytes > CACHED_BYTES:
                self._forget(next(iter(self._cache)))
        self._cache.move_to_end(id)
        return self._cache[id]

    def _forget(self, id: str) -> None:
        if id in self._cache:
            self._cached_bytes -= self._cache.pop(id).size

    def _load(self, id: str) -> Loaded:
        stage = self.stages[id]
        try:
            return self._loaded(stage)
        except DamagedArtifact as damage:
            return self._again(stage, damage)

    def _loaded(self, stage: Stage) -> Loaded:
        artifact = self.store.load(stage.id)
        check_record(artifact.record, stage)
        if artifact.record["status"] != "ok":
            raise PluginError(f"{artifact.record['label']} did not succeed: {artifact.record['reason']}")
        return unpack(artifact, self._planned, self.device)

    def _planned(self, kind: Kind, text: str) -> Component:
        """A plugin that an artifact names. Code that a plugin names is executed only where the plan names it too."""
        use = self.lookup(kind, text)
        if code_of(use.plugin) and not any(stage.architecture == use for stage in self.stages.values()):
            raise DamagedArtifact(f"{text!r} is no architecture of this plan")
        return use

    def _again(self, stage: Stage, damage: DamagedArtifact) -> Loaded:
        """Compute a damaged artifact again: here, or in the process that has it now."""
        claim = self.claims.acquire(stage.id, label=stage.label, action=stage.action) if self.claims else nullcontext()
        with claim:
            with suppress(DamagedArtifact):
                return self._loaded(stage)
            self.warn(f"{damage}: computed again")
            self.run(stage)
            return self._loaded(stage)

    # --- what plugins are given ---

    def _engine(
        self,
        stage: Stage,
        parents: Mapping[str, Loaded],
        trace: Trace,
        counts: Counts,
        warn: Callable[[str], None],
    ) -> Engine:
        """The engine that a plugin is lent: nothing in it leads to the worker."""
        generator = torch.Generator().manual_seed(stage.seed)
        used = stage.architecture or self.lookup("architecture", stage.dataset.plugin.architecture)
        task: Dataset = stage.dataset.plugin
        engine = Engine(
            self.device,
            generator,
            task.public(),
            used.plugin,
            used.text,
            precision=self.precision,
            warn=warn,
            trace=trace,
            counts=counts,
            watch=task.watch and stage.action in ("embed", "attack"),
            moments=self._moments(stage) if task.normalize else None,
        )
        if "clean" in parents:
            engine.clean, engine.pretrained = parents["clean"].net, task.pretrain
        if "pretrained" in parents:
            engine.source = parents["pretrained"].net
        return engine

    def _moments(self, stage: Stage) -> tuple[Tensor, Tensor] | None:
        """Mean and SD of the inputs that a stage may train on, which are all that an attacker knows for certain."""
        if stage.action in _READ_NO_DATA:
            return None
        attack = stage.plugin.plugin if stage.plugin else None
        return moments(self.inputs(stage, attack).x if isinstance(attack, PoolAttack) else self.splits(stage).train.x)

    def _watch(self, stage: Stage, parents: Mapping[str, Loaded], engine: Engine) -> None:
        """Measure each epoch, where the recipe asks for it and there are triggers to ask."""
        known = parents.get("embed") or parents.get("triggers")
        if engine.snapshots and known and "trigger" in known.key.probes:
            targets = self.splits(stage).train.of(int(known.key.tensors.get("target", stage.dataset.plugin.target)))
            measure_epochs(engine, known.key.trigger, targets, self.test(stage))

    def splits(self, stage: Stage) -> Splits:
        """The owner's and the attacker's samples of the stage's seed."""
        key = (stage.dataset.text, stage.split_seed)
        if key not in self._splits:
            if len(self._splits) >= 4:  # a matrix goes seed by seed: older ones are not needed again soon
                self._splits.pop(next(iter(self._splits)))
            self._splits[key] = self.data.splits(stage.dataset.plugin, stage.split_seed, self.device)
        return self._splits[key]

    def test(self, stage: Stage) -> Split:
        if stage.dataset.text not in self._tests:
            self._tests[stage.dataset.text] = self.data.test(stage.dataset.plugin, self.device)
        return self._tests[stage.dataset.text]

    def noise(self, stage: Stage) -> Tensor:
        """Inputs of random values, on which a net that was returned is compared with the one that is stored."""
        if stage.dataset.text not in self._noise:
            self._noise[stage.dataset.text] = noise_like(self.test(stage).x, stage.dataset.plugin.value_range)
        return self._noise[stage.dataset.text]

    def task(self, stage: Stage, triggers: Key) -> Task:
        """The owner's task, as copies, since the runner's own serve other stages too."""
        splits = self.splits(stage)
        other = None
        if stage.data is not None:
            other = self.data.other(stage.data.plugin, stage.dataset.plugin, self.device)
        return Task(stage.dataset.plugin, splits.train.clone(), splits.holdout.clone(), other, triggers)

    def pool(self, stage: Stage, attack: PoolAttack, parents: Mapping[str, Loaded]) -> Pool:
        """The attacker's pool, a copy: as many inputs as the owner has, or another dataset has; and what it knows.

        The scheme and key that an attack knows are those of the parent ``key``, where there is one, or of ``embed``.
        """
        task: Dataset = stage.dataset.plugin
        split = self.inputs(stage, attack).clone()
        scheme = key = None
        if attack.knows != "nothing":
            ids = dict(stage.parents)
            role = "key" if "key" in ids else "embed"
            if role not in ids:
                raise PluginError(f"{attack.name} knows the {attack.knows}, but nobody's is known to this stage")
            scheme = self._plugin_of(ids[role])
            key = parents[role].key.clone() if attack.knows == "key" else None
        return Pool(
            task.public(),
            split.x,
            split.y if attack.has_labels else None,
            task.patch if attack.knows_patch else None,
            scheme,
            key,
        )

    def inputs(self, stage: Stage, attack: PoolAttack) -> Split:
        """The inputs that :meth:`pool` copies: the first of a set in which every first few are of all classes."""
        task: Dataset = stage.dataset.plugin
        if stage.data is None:
            splits = self.splits(stage)
            split = splits.train if attack.pool == "same" else splits.disjoint
            return split.first(ceil(attack.pool_share * len(split)))
        if attack.has_labels:
            raise Skip(f"pool={attack.pool} has labels of another task")
        other = self.data.other(stage.data.plugin, task, self.device)
        if stage.data.without is not None:
            other = other[other.y != stage.data.without]
            if not len(other):
                raise Skip(f"pool={attack.pool}: {stage.data} has no class but the one of which triggers are made")
        order = torch.randperm(len(other), generator=torch.Generator().manual_seed(stage.split_seed))
        chosen = order[: ceil(attack.pool_share * min(len(order), task.train))].to(self.device)
        return other[chosen]

    def lent(self, stage: Stage, parents: Mapping[str, Loaded], attack: PoolAttack) -> SharedInputs:
        """The results known of the model under attack and the attacker's inputs."""
        inputs = f"{stage.dataset} {attack.pool} {attack.pool_share} {stage.data or ''} {stage.split_seed}"
        net = net_of(parents["model"])
        return SharedInputs(self._memory, dict(stage.parents)["model"], net, inputs, self.inputs(stage, attack).x)

    @contextmanager
    def lending(
        self, stage: Stage, parents: Mapping[str, Loaded], engine: Engine, attack: PoolAttack
    ) -> Iterator[None]:
        """Lend ``engine`` the worker's memory of the model under attack while the block runs."""
        with serving(remembered(self.lent(stage, parents, attack))) as ask:
            engine.lent = Lent(ask)
            try:
                yield
            finally:
                engine.lent = None

    @contextmanager
    def served(
        self, stage: Stage, parents: Mapping[str, Loaded], engine: Engine, attack: BlackBoxAttack
    ) -> Iterator[tuple[Oracle, ClientLog | None]]:
        """The model under attack, behind its API while the block runs, and the log of an active scheme's API."""
        # The memory is here and not in the engine, which the attack is lent: it has no business with the net.
        lent = self.lent(stage, parents, attack)
        victim = dict(stage.parents)["model"]
        log = ClientLog() if isinstance(self._plugin_of(victim), ActiveDefense) else None
        logits = self.api(victim, parents["model"], engine, lent, log)
        with serving(Meter(logits, attack.answers, attack.budget)) as ask:
            yield Oracle.before(ask), log

    def oracle(self, stage: Stage, parents: Mapping[str, Loaded], engine: Engine) -> Oracle:
        """The model under verification."""
        return Oracle(self.api(dict(stage.parents)["model"], parents["model"], engine))

    def api(
        self,
        id: str,
        model: Loaded,
        engine: Engine,
        lent: SharedInputs | None = None,
        log: ClientLog | None = None,
    ) -> Callable[[Tensor], Tensor]:
        """The answers of the model that the stage ``id`` made: a victim's as its scheme serves them, with its own key;
        a surrogate's through its filter, where it has one. They are noted in ``log``."""
        net, served = net_of(model), self.served_as(self.stages[id], model)

        def answer(x: Tensor) -> Tensor:
            logits = engine.known(LOGITS, net, x, lent)
            answers = served(x, logits)
            if log is not None:
                log.add(x, logits, answers)
            return answers

        return answer

    def served_as(self, maker: Stage, model: Loaded) -> Callable[[Tensor, Tensor], Tensor]:
        """Answers to inputs ``x``, given the logits of the net, of the model that the stage ``maker`` made."""
        if maker.action == "embed" and maker.plugin is not None and serves(maker.plugin):
            return partial(of_owner, maker.plugin, model.key.clone())
        if model.guard is not None:
            guard = {name: tensor.clone() for name, tensor in model.guard.items()}
            return partial(of_thief, self.lookup("attack", model.record["guard"]), clone(net_of(model)), guard)
        return lambda x, logits: logits

    def suspect(self, id: str) -> Loaded | None:
        """The model that a stage made; ``None`` where it did not succeed."""
        if id not in self._cache:
            record = self.store.record(id)
            if record is None or record.get("status") != "ok":
                return None
        return self._parent(id)

    def _plugin_of(self, id: str) -> Any:
        use = self.stages[id].plugin
        return use.plugin if use else None


def _reason(stage: Stage, error: BaseException) -> str:
    """The reason of a failed stage, which begins with who is to blame."""
    return str(error) if isinstance(error, Blamed) else f"{stage.plugin or stage.dataset}: {describe_error(error)}"


def _name(stage: Stage) -> str:
    """The name of the plugin that a stage runs, without its options; else of its recipe or data set."""
    return type(stage.recipe).__name__ if stage.recipe else (stage.plugin or stage.dataset).plugin.name
