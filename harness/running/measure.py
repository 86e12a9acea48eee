"""Measurement of the models that stages make, and the tensors that are stored of a stage.

What is measured is what is stored: the net, the key and the guard as later stages read them from the artifact.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from harness.contracts import classes_of
from harness.engine.train import LOGITS, Engine
from harness.errors import Blamed, DamagedArtifact, PluginError
from harness.metrics import accuracy, agreement
from harness.nets import Net
from harness.planning.graph import Stage
from harness.running.actions import StageOutput
from harness.running.rebuilt import SAMPLED, check_rebuilt
from harness.storage.codec import Loaded, pack_guard, pack_key, pack_model, unpack
from harness.storage.store import Artifact

if TYPE_CHECKING:
    from harness.running.worker import StageRunner

POOL_SAMPLES = 1000
"""The attacker's own inputs, so many at most, on which the accuracy of what the attack ended with is measured."""


def pack(
    worker: StageRunner, stage: Stage, parents: Mapping[str, Loaded], made: StageOutput, engine: Engine
) -> dict[str, Tensor]:
    """The tensors to store; of a model also its answers on the test set, which its record's numbers come from.

    Raises :class:`PluginError` for what cannot be stored, or would not be what was returned.
    """
    tensors: dict[str, Tensor] = {}
    if made.key is not None:
        tensors |= pack_key(made.key)
    if made.guard is not None and stage.plugin is not None:
        made.record["guard"] = stage.plugin.text
        tensors |= pack_guard(made.guard)
    if made.log is not None:
        tensors |= {"log/x": made.log.x, "log/y": made.log.y}
    if made.net is not None:
        tensors |= _measured(worker, stage, parents, made, tensors, engine)
    return tensors | {f"found/{name}": tensor for name, tensor in made.tensors.items()}


def _measured(
    worker: StageRunner,
    stage: Stage,
    parents: Mapping[str, Loaded],
    made: StageOutput,
    secrets: Mapping[str, Tensor],
    engine: Engine,
) -> dict[str, Tensor]:
    """The tensors of a model that was just made; its record gets what was measured of it, as rebuilt of them.

    ``secrets`` are the tensors of its key or guard.
    """
    returned, test = made.net, worker.materials.test(stage)
    if returned is None:
        raise PluginError(f"{stage.label} made no model")
    packed = pack_model(returned, worker.lookup, worker.device, worker.templates)
    logits: Tensor = engine.known(LOGITS, packed.net, test.x, None)
    try:
        if warning := check_rebuilt(returned, packed, logits[:SAMPLED], test.x, worker.materials.noise(stage)):
            engine.warn(warning)
    except PluginError as error:
        if stage.plugin is None:  # a plain training: no plugin had a hand in it but the architecture
            raise Blamed(f"{packed.net.description['architecture']}: {error}") from error
        raise
    model = replace(_read_back(worker, made, secrets), net=packed.net)
    served = worker.materials.served_as(stage, model)
    raw, predictions = classes_of(logits), classes_of(served(test.x, logits))
    made.record |= {
        "model": dict(packed.net.description),
        "accuracy": accuracy(predictions, test.y),
        "raw_accuracy": accuracy(raw, test.y),
        "pool_accuracy": _pool_accuracy(worker, stage, packed.net, served, engine),
        "test_samples": len(test),
    }
    if packed.precision != "float32":
        made.record["returned"] = packed.precision
    victim = parents["embed"].predictions if "embed" in parents else None
    if victim is not None:
        made.record["agreement"] = agreement(predictions, victim.long())
    weights = {f"model/{name}": tensor for name, tensor in packed.state.items()}
    return weights | {"test/predictions": predictions.to(torch.int16)}


def _read_back(worker: StageRunner, made: StageOutput, secrets: Mapping[str, Tensor]) -> Loaded:
    """The key and the guard as later stages read them, in copies. Raises :class:`PluginError` where they could not."""
    copies = {name: tensor.detach().clone() for name, tensor in secrets.items()}
    try:
        return unpack(Artifact({"guard": made.record.get("guard")}, copies), worker.lookup, worker.device)
    except DamagedArtifact as error:
        raise PluginError(f"what it returned cannot be stored: {error}") from error


def _pool_accuracy(
    worker: StageRunner, stage: Stage, net: Net, served: Callable[[Tensor, Tensor], Tensor], engine: Engine
) -> float | None:
    """The served accuracy of what an attack ended with on its own inputs; ``None`` if these have other labels."""
    if stage.action != "attack" or stage.plugin is None or stage.data is not None:
        return None
    own = worker.materials.inputs(stage, stage.plugin.plugin).first(POOL_SAMPLES)
    return accuracy(classes_of(served(own.x, engine.known(LOGITS, net, own.x, None))), own.y)
