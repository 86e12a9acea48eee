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
from pathlib import Path

import torch
from torch import Tensor

from harness.contracts import (
    Dataset,
)
from harness.data import Data
from harness.engine.epochs import measure_epochs
from harness.engine.profile import NoTrace, Timeline, Trace
from harness.engine.train import Counts, Engine, Precision
from harness.errors import Blamed, BrokenDataset, DamagedArtifact, NotInstalled, OutOfMemory, PluginError, Skip
from harness.isolation import Guard, Interrupted, describe_error
from harness.modelfiles import code_of
from harness.nets import Net
from harness.planning.graph import Component, Kind, Lookup, Stage
from harness.planning.inputs import inputs_of
from harness.running.actions import ACTIONS, StageOutput
from harness.running.classes import NetClasses
from harness.running.environment import Peaks, give_back, machine
from harness.running.materials import READ_NO_DATA, Materials
from harness.running.measure import pack
from harness.running.pool import Clock
from harness.storage.codec import Loaded, unpack
from harness.storage.locks import Claims
from harness.storage.records import StageRecord, Status, about, check_record
from harness.storage.store import Store, plain

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
    templates: dict[str, Net] = field(default_factory=dict)
    """A net of each architecture, with which those that plugins return are compared."""
    _classes: NetClasses = field(default_factory=NetClasses)
    _guard: Guard | None = None
    """The guard of the stage before."""
    _guarded_once: set[tuple[str, Component | None]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.materials = Materials(self.data, self.stages, self.lookup, self.device)
        """Data and models as plugins are given them."""

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
                if isinstance(skip, NotInstalled):
                    made = StageOutput(lacks=reason)
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
            if use is not None and stage.action not in READ_NO_DATA:
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
        if stage.action in READ_NO_DATA:
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
            if use is not None and use.content and stage.action not in READ_NO_DATA:
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

    # --- the engine ---

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
            moments=self.materials.moments(stage) if task.normalize else None,
        )
        if "clean" in parents:
            engine.clean, engine.pretrained = parents["clean"].net, task.pretrain
        if "pretrained" in parents:
            engine.source = parents["pretrained"].net
        return engine

    def _watch(self, stage: Stage, parents: Mapping[str, Loaded], engine: Engine) -> None:
        """Measure each epoch, where the recipe asks for it and there are triggers to ask."""
        known = parents.get("embed") or parents.get("triggers")
        if engine.snapshots and known and "trigger" in known.key.probes:
            targets = self.materials.splits(stage).train.of(
                int(known.key.tensors.get("target", stage.dataset.plugin.target))
            )
            measure_epochs(engine, known.key.trigger, targets, self.materials.test(stage))

    def suspect(self, id: str) -> Loaded | None:
        """The model that a stage made; ``None`` where it did not succeed."""
        if id not in self._cache:
            record = self.store.record(id)
            if record is None or record.get("status") != "ok":
                return None
        return self._parent(id)


def _reason(stage: Stage, error: BaseException) -> str:
    """The reason of a failed stage, which begins with who is to blame."""
    return str(error) if isinstance(error, Blamed) else f"{stage.plugin or stage.dataset}: {describe_error(error)}"


def _name(stage: Stage) -> str:
    """The name of the plugin that a stage runs, without its options; else of its recipe or data set."""
    return type(stage.recipe).__name__ if stage.recipe else (stage.plugin or stage.dataset).plugin.name
