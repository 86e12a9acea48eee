"""The actions of stages: one function each. The only code that calls plugins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from operator import index
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from harness import modelfiles
from harness.attacks import Forgery
from harness.contracts import (
    ActiveDefense,
    Analysis,
    BlackBoxAttack,
    Count,
    Defense,
    Detection,
    Detector,
    Evasion,
    Evidence,
    Key,
    Marked,
    Measure,
    Oracle,
    Pool,
    PoolAttack,
    Score,
    Split,
    WhiteBoxAttack,
    WhiteBoxDefense,
)
from harness.engine.train import Engine, clone
from harness.errors import PluginError, Skip, Unreadable
from harness.files import weights_in
from harness.metrics import mask_overlap, window_rank
from harness.nets import Net
from harness.planning.graph import Stage
from harness.storage.codec import Loaded, net_of
from harness.storage.records import Found, Judgement, Measured, StageRecord
from harness.storage.store import plain
from harness.values import SCORED

if TYPE_CHECKING:
    from harness.running.worker import StageRunner


@dataclass
class StageOutput:
    """The output of a stage, before it is stored."""

    net: Net | None = None
    key: Key | None = None
    guard: Mapping[str, Tensor] | None = None
    log: Split | None = None
    """Answers of an active scheme's API to the attacker."""
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    """Further tensors to store: those that a detector found."""
    record: StageRecord = field(default_factory=StageRecord)
    lacks: str = ""
    """The reason why it is not complete, and not stored: the next run tries again. Empty if it is."""


# --- actions ----------------------------------------------------------------------------------------------------------

Parents = Mapping[str, Loaded]


def _train(worker: StageRunner, stage: Stage, parents: Parents, engine: Engine) -> StageOutput:
    """A clean model: a null model, or the one that victims start from. Either may be given as a file."""
    if given := _given_weights(stage):
        net = engine.build()
        modelfiles.fill(net, given)
        return StageOutput(net)
    train = worker.materials.splits(stage).train
    return StageOutput(engine.train(engine.build(), [engine.stream(train)], stage.epochs))


def _given_weights(stage: Stage) -> str:
    """The weights file that takes the place of a training; empty where there is none."""
    dataset = stage.dataset.plugin
    if stage.role == "clean":
        return str(dataset.from_weights)
    if stage.role == "null" and dataset.unmarked_from and stage.index is not None:
        return weights_in(dataset.unmarked_from)[stage.index]
    return ""


def _triggers(worker: StageRunner, stage: Stage, parents: Parents, engine: Engine) -> StageOutput:
    if stage.recipe is None:
        raise PluginError("a triggers stage without a recipe")
    key = stage.recipe.make(worker.materials.task(stage, Key()), engine)
    _expect(key, Key, f"{type(stage.recipe).__name__}.make")
    return StageOutput(key=key)


def _embed(worker: StageRunner, stage: Stage, parents: Parents, engine: Engine) -> StageOutput:
    defense: Defense = _plugin(stage)
    triggers = parents["triggers"].key if "triggers" in parents else Key()
    marked = defense.embed(worker.materials.task(stage, triggers), engine)
    _expect(marked, Marked, f"{defense.name}.embed")
    return StageOutput(marked.net, marked.key)


def _attack(worker: StageRunner, stage: Stage, parents: Parents, engine: Engine) -> StageOutput:
    attack: BlackBoxAttack | WhiteBoxAttack | Evasion | Forgery = _plugin(stage)
    pool, queries = _pool(worker, stage, attack, parents, engine)
    unanswered = guard = log = key = None
    if isinstance(attack, BlackBoxAttack):
        with worker.materials.served(stage, parents, engine, attack) as (oracle, kept):
            surrogate = attack.run(oracle, pool, engine)
            queries, unanswered = oracle.queries, oracle.unanswered
            log = kept.split() if kept else None
    elif isinstance(attack, Evasion):
        surrogate = clone(net_of(parents["model"]))
        with worker.materials.lending(stage, parents, engine, attack):
            guard = attack.prepare(surrogate, pool, engine)
        _expect(guard, Mapping, f"{attack.name}.prepare")
    elif isinstance(attack, Forgery):
        marked = attack.run(clone(net_of(parents["model"])) if attack.needs_suspect else None, pool, engine)
        _expect(marked, Marked, f"{attack.name}.run")
        surrogate, key = marked.net, marked.key
    else:
        with worker.materials.lending(stage, parents, engine, attack):
            surrogate = attack.run(clone(net_of(parents["model"])), pool, engine)
    _expect(surrogate, nn.Module, f"{attack.name}.run")
    return StageOutput(surrogate, key, guard=guard, log=log, record={"queries": queries, "unanswered": unanswered})


def _pool(
    worker: StageRunner, stage: Stage, attack: PoolAttack, parents: Parents, engine: Engine
) -> tuple[Pool, int | None]:
    """The attacker's inputs, with the labels that he has, and the queries to the victim's API that these cost."""
    pool = worker.materials.pool(stage, attack, parents)
    if not attack.has_answers:
        return pool, None
    victim = Oracle(worker.materials.api(dict(stage.parents)["embed"], parents["embed"], engine))
    kept = Split(pool.x, victim.labels(pool.x)).answered()
    return replace(pool, x=kept.x, y=kept.y), victim.queries


def _detect(worker: StageRunner, stage: Stage, parents: Parents, engine: Engine) -> StageOutput:
    detector: Detector = _plugin(stage)
    with worker.materials.lending(stage, parents, engine, detector):
        found = detector.run(clone(net_of(parents["model"])), worker.materials.pool(stage, detector, parents), engine)
    _expect(found, Detection, f"{detector.name}.run")
    tensors = {"mask": found.mask, "pattern": found.pattern}
    detection: Found = {
        "score": float(found.score),
        "threshold": float(found.threshold),
        "suspected_class": None if found.suspected_class is None else index(found.suspected_class),
        "suspected_source": None if found.suspected_source is None else index(found.suspected_source),
    }
    return StageOutput(
        tensors={name: tensor for name, tensor in tensors.items() if tensor is not None},
        record={"detection": detection, "measures": _measured(found.measures)},
    )


def _judge(worker: StageRunner, stage: Stage, parents: Parents, engine: Engine) -> StageOutput:
    """One key's comparison with what a detector found in all suspects. It is not kept where one of these is missing."""
    found = [worker.suspect(suspect.model) for suspect in stage.suspects]
    key = parents["embed"].key
    judged = [None if each is None else judge(each.record["detection"], each.found, key) for each in found]
    return StageOutput(record={"judgements": judged}, lacks=_lacks(worker, stage, judged))


def _analyse(worker: StageRunner, stage: Stage, parents: Parents, engine: Engine) -> StageOutput:
    analysis: Analysis = _plugin(stage)
    reason = analysis.skip(stage.dataset.plugin)
    if reason:
        raise Skip(reason)
    key = parents["embed"].key
    task, test = worker.materials.task(stage, key), worker.materials.test(stage)
    found = analysis.run(clone(net_of(parents["model"])), task, test, key, engine)
    return StageOutput(record={"measures": _measured(found)})


def _measured(measures: Sequence[Measure]) -> list[Measured]:
    """Measures as plain numbers."""
    return [
        {
            "quantity": m.quantity,
            "layer": m.layer,
            "group": m.group,
            "values": plain(m.values.double().flatten().tolist()),
        }
        for m in measures
    ]


def _verify(worker: StageRunner, stage: Stage, parents: Parents, engine: Engine) -> StageOutput:
    defense: Defense = _plugin(stage)
    suspect, oracle = net_of(parents["model"]), worker.materials.oracle(stage, parents, engine)
    key, victim = parents["embed"].key, net_of(parents["embed"])
    counts, reason = evidence_of(defense, key, suspect, oracle, victim, _log(parents))
    record: StageRecord = {"evidence": counts}
    if reason:
        record["unreadable"] = reason
    return StageOutput(record=record)


def _ask(worker: StageRunner, stage: Stage, parents: Parents, engine: Engine) -> StageOutput:
    """One key's questions to all suspects of the stage. It is not kept where one of these is missing and may come."""
    defense: Defense = _plugin(stage)
    key, victim, log = parents["embed"].key, net_of(parents["embed"]), _log(parents)
    asked: list[dict[str, list[int]] | None] = []
    for suspect in stage.suspects:
        loaded = worker.suspect(suspect.model)
        if loaded is None:
            asked.append(None)
            continue
        oracle = Oracle(worker.materials.api(suspect.model, loaded, engine))
        asked.append(evidence_of(defense, key, net_of(loaded), oracle, victim, log)[0])
    return StageOutput(record={"asked": asked}, lacks=_lacks(worker, stage, asked))


def _lacks(worker: StageRunner, stage: Stage, results: Sequence[object]) -> str:
    """The reason of a stage that has no result of some suspects that a later run may make; empty where it has all."""
    pairs = zip(stage.suspects, results, strict=True)
    missing = [suspect for suspect, result in pairs if result is None and not _is_skipped(worker, suspect.model)]
    if not missing:
        return ""
    label = worker.stages[missing[0].model].label
    return f"{len(missing)} of {len(results)} models to compare with are missing: {label}, first"


def _is_skipped(worker: StageRunner, id: str) -> bool:
    """True if a stage, or one that it is made from, was skipped: no run will make its model."""
    record = worker.store.record(id)
    if record is not None:
        return record.get("status") == "skipped"
    return any(_is_skipped(worker, parent) for _, parent in worker.stages[id].required)


def _log(parents: Parents) -> Split | None:
    """The log of the client who extracted the model, where an active scheme's API kept one."""
    return parents["log"].log if "log" in parents else None


def evidence_of(
    defense: Defense, key: Key, suspect: Net, oracle: Oracle, victim: Net | None = None, log: Split | None = None
) -> tuple[dict[str, list[int]], str]:
    """Matches and trials by probe of one model that is asked one key; and the reason if its mark cannot be read.

    A white-box scheme is given a copy of ``suspect``, any other the ``oracle`` before it, an active one with the
    client's ``log`` where there is one. A mark that cannot be read has no trials on the probes that ``victim``, where
    it is given, has evidence on.
    """
    try:
        return _asked(defense, key, suspect, oracle, log), ""
    except Unreadable as reason:
        probes = [*key.probes] or ["trigger"]
        if victim is not None and isinstance(defense, WhiteBoxDefense):
            with suppress(Unreadable):
                probes = [*_asked(defense, key, victim, oracle, None)]
        return {name: [0, 0] for name in probes}, str(reason)


def _asked(defense: Defense, key: Key, suspect: Net, oracle: Oracle, log: Split | None) -> dict[str, list[int]]:
    if log is not None and not len(log):
        raise Unreadable("the API gave this client no marked answer")
    if isinstance(defense, ActiveDefense) and log is not None:
        evidence = defense.verify_log(oracle, key, log)
    elif isinstance(defense, WhiteBoxDefense):
        evidence = defense.verify_weights(clone(suspect), key)
    else:
        evidence = defense.verify(oracle, key)
    _expect(evidence, Evidence, f"{defense.name}.verify")
    return {name: _counted(count, f"{defense.name}.verify: {name!r}") for name, count in evidence.counts.items()}


def _counted(count: Count | Score, where: str) -> list[int]:
    """Matches and trials as plain numbers, also where a plugin counted with NumPy or torch."""
    if isinstance(count, Score):
        value = float(count.value)
        if not 0 <= value <= 1:
            raise PluginError(f"{where} must be a Score of 0 to 1, not {value}")
        return [round(value * SCORED), SCORED]
    try:
        matches, trials = index(count.matches), index(count.trials)
    except (AttributeError, TypeError):
        matches, trials = 0, -1
    if not 0 <= matches <= trials:
        raise PluginError(f"{where} must be Count(matches <= trials) of whole numbers, not {count}")
    return [matches, trials]


ACTIONS = {
    **{"train": _train, "triggers": _triggers, "embed": _embed, "attack": _attack},
    **{"detect": _detect, "judge": _judge, "verify": _verify, "ask": _ask, "analyse": _analyse},
}


def judge(detection: Mapping[str, Any], found: Mapping[str, Tensor], key: Key) -> Judgement:
    """A detection compared with the key: the class against the target, the mask against the trigger."""
    target, mask = key.tensors.get("target"), key.tensors.get("mask")
    suspected, recovered = detection["suspected_class"], found.get("mask")
    judgement: Judgement = {
        "target_hit": None if suspected is None or target is None else int(target) == suspected,
        "mask_overlap": None,
        "window_rank": None,
    }
    if recovered is None or mask is None or recovered.shape != mask.shape:
        return judgement
    judgement["mask_overlap"] = mask_overlap(recovered, mask)
    judgement["window_rank"] = window_rank(recovered, mask)
    return judgement


def _plugin(stage: Stage) -> Any:
    if stage.plugin is None:
        raise PluginError(f"the stage {stage.label!r} has no plugin")
    return stage.plugin.plugin


def _expect(value: object, cls: type, where: str) -> None:
    if not isinstance(value, cls):
        raise PluginError(f"{where} must return a {cls.__name__}, not {type(value).__name__}")
