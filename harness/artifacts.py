"""Models and keys as artifacts, and back: named tensors, and a description to rebuild the net by. No pickle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from harness.contracts import Key, Probe
from harness.errors import PluginError
from harness.nets import Net
from harness.plan import Lookup
from harness.store import Artifact
from harness.train import on_device


@dataclass(frozen=True)
class Loaded:
    """An artifact as objects: the net on the device, the key, the record, the answers on the test set."""

    record: dict[str, Any]
    net: Net | None
    key: Key
    predictions: Tensor | None
    guard: dict[str, Tensor]
    """What an evasion's :meth:`harness.Evasion.serve` needs; empty if none guards the model."""
    found: dict[str, Tensor]
    """What a detector recovered."""


def unpack(artifact: Artifact, lookup: Lookup, device: torch.device) -> Loaded:
    """An artifact as objects on ``device``; ``lookup`` finds the architecture of its model."""
    groups: dict[str, dict[str, Tensor]] = {name: {} for name in ("model", "probe", "tensor", "test", "guard", "found")}
    for name, tensor in artifact.tensors.items():
        group, _, rest = name.partition("/")
        groups[group][rest] = tensor.to(device)
    x, y = ({n.removesuffix(e): t for n, t in groups["probe"].items() if n.endswith(e)} for e in ("/x", "/y"))
    description = artifact.record.get("model")
    net = on_device(_rebuild(description, groups["model"], lookup), device).eval() if description else None
    key = Key({name: Probe(x[name], y[name]) for name in x}, groups["tensor"])
    return Loaded(artifact.record, net, key, groups["test"].get("predictions"), groups["guard"], groups["found"])


def _rebuild(description: Mapping[str, Any], state: Mapping[str, Tensor], lookup: Lookup) -> Net:
    architecture = lookup("architecture", description["architecture"]).plugin
    with torch.random.fork_rng(devices=[]):  # building draws first weights, which are replaced
        net: Net = architecture.build(tuple(description["input_shape"]), description["classes"])
    net.load_state_dict(state)
    net.description = description
    return net


def check_model(net: nn.Module) -> tuple[Mapping[str, Any], dict[str, Tensor]]:
    """A model's description and weights. Raises :class:`PluginError` for one that cannot be stored."""
    if not isinstance(net, Net) or not hasattr(net, "description"):
        raise PluginError(
            f"the model is a {type(net).__name__} that cannot be stored: build it with ctx.build(), "
            "and register other architectures with harness_architectures"
        )
    state: dict[str, Tensor] = net.state_dict()
    for name, tensor in state.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise PluginError(f"the model's {name} is not finite: training diverged")
    return net.description, state


def pack_key(key: Key) -> dict[str, Tensor]:
    """A key as tensors by name. Raises :class:`PluginError` for anything that is none, or does not fit."""
    packed: dict[str, Tensor] = {}
    for name, probe in key.probes.items():
        if "/" in name or len(probe.x) != len(probe.y):
            raise PluginError(
                f"probe {name!r}: {len(probe.x)} inputs and {len(probe.y)} labels, and no '/' in its name"
            )
        packed |= {f"probe/{name}/x": probe.x, f"probe/{name}/y": probe.y}
    return _checked(packed | {f"tensor/{name}": tensor for name, tensor in key.tensors.items()}, "key")


def pack_guard(guard: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An evasion's guard as tensors by name. Raises :class:`PluginError` for anything that is none."""
    return _checked({f"guard/{name}": tensor for name, tensor in guard.items()}, "guard")


def _checked(packed: dict[str, Tensor], what: str) -> dict[str, Tensor]:
    for name, tensor in packed.items():
        if not isinstance(tensor, Tensor):
            raise PluginError(f"the {what}'s {name} is a {type(tensor).__name__}: a {what} holds tensors only")
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.dtype == torch.complex128:
            raise PluginError(
                f"the {what}'s {name} is {tensor.layout} of {tensor.dtype}, which safetensors cannot store"
            )
    return packed
