"""Models and keys as artifacts, and back: named tensors, and a description to rebuild the net by. No pickle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from harness import nets
from harness.contracts import Architecture, Evasion, Key, Probe, Split
from harness.engine.train import on_device
from harness.errors import DamagedArtifact, PluginError, UsageError
from harness.nets import Net
from harness.planning.graph import Lookup
from harness.storage.store import Artifact
from harness.storage.weights import FLOAT, is_alike, unwrapped, weights_of

GROUPS = ("model", "probe", "tensor", "test", "guard", "found", "log")
"""First parts of the names of an artifact's tensors."""


@dataclass(frozen=True)
class Loaded:
    """An artifact as objects: the net on the device, the key, the record, the answers on the test set."""

    record: dict[str, Any]
    net: Net | None
    key: Key
    predictions: Tensor | None
    guard: dict[str, Tensor] | None
    """Tensors that :meth:`harness.Evasion.serve` needs; ``None`` if no evasion guards the model."""
    found: dict[str, Tensor]
    """Tensors that a detector recovered."""
    log: Split | None = None
    """Answers of an active scheme's API to the client who extracted the model."""
    size: int = 0
    """Bytes of its tensors."""


def net_of(loaded: Loaded) -> Net:
    """The net of an artifact. Raises :class:`PluginError` where its stage made none."""
    if loaded.net is None:
        raise PluginError(f"{loaded.record['label']} made no model")
    return loaded.net


def unpack(artifact: Artifact, lookup: Lookup, device: torch.device) -> Loaded:
    """An artifact as objects on ``device``; ``lookup`` finds the architecture of its model.

    Raises :class:`DamagedArtifact` for what no stage would have stored: it may be untrusted.
    """
    groups: dict[str, dict[str, Tensor]] = {name: {} for name in GROUPS}
    for name, tensor in artifact.tensors.items():
        group, _, rest = name.partition("/")
        if group not in groups:
            raise DamagedArtifact(f"an artifact has no tensor {name!r}")
        groups[group][rest] = tensor.to(device)
    description = artifact.record.get("model")
    net = _rebuild(description, groups["model"], lookup, device) if description else None
    key = Key(_probes(groups["probe"]), groups["tensor"])
    guarded = bool(groups["guard"]) or artifact.record.get("guard") is not None
    if guarded:
        _check_guard(artifact.record.get("guard"), lookup)
    guard = groups["guard"] if guarded else None
    size = sum(tensor.nbytes for tensor in artifact.tensors.values())
    log = _log(groups["log"]) if groups["log"] else None
    return Loaded(artifact.record, net, key, groups["test"].get("predictions"), guard, groups["found"], log, size)


def _check_guard(text: Any, lookup: Lookup) -> None:
    try:
        known = isinstance(text, str) and isinstance(lookup("attack", text).plugin, Evasion)
    except UsageError as error:
        raise DamagedArtifact(f"its guard is unknown: {error}") from error
    if not known:
        raise DamagedArtifact(f"{text!r} guards no model")


def _log(tensors: Mapping[str, Tensor]) -> Split:
    """A client's log, which is named as one probe."""
    (log,) = _probes({f"log/{name}": tensor for name, tensor in tensors.items()}).values()
    return log


def _probes(tensors: Mapping[str, Tensor]) -> dict[str, Probe]:
    """The probes of a key, as :func:`pack_key` names their inputs and labels."""
    names = {name.rpartition("/")[0] for name in tensors}
    if tensors.keys() != {f"{name}/{part}" for name in names for part in "xy"}:
        raise DamagedArtifact(f"a key of probes has inputs and labels, not {', '.join(map(repr, sorted(tensors)))}")
    probes = {name: Probe(tensors[f"{name}/x"], tensors[f"{name}/y"]) for name in names}
    for name, probe in probes.items():
        if probe.x.shape[:1] != probe.y.shape[:1] or not probe.y.ndim:
            raise DamagedArtifact(
                f"the probe {name!r} has {tuple(probe.x.shape)} inputs, {tuple(probe.y.shape)} labels"
            )
    return probes


def _rebuild(description: Any, state: Mapping[str, Tensor], lookup: Lookup, device: torch.device) -> Net:
    try:
        _check_shapes(*_build_arguments(description, lookup), state)
        return _filled(_built(description, lookup), state, device)
    except Exception as error:  # whatever torch, or an architecture, makes of an untrusted description and weights
        reason = str(error).partition("\n")[0]
        raise DamagedArtifact(f"its model cannot be built ({type(error).__name__}: {reason})") from error


def _build_arguments(description: Any, lookup: Lookup) -> tuple[Architecture, tuple[int, ...], int, bool]:
    """The architecture, the input shape, the number of classes, and true for a net that normalises its inputs."""
    text, shape, classes = (description[name] for name in ("architecture", "input_shape", "classes"))
    if not all(type(size) is int and size > 0 for size in (*shape, classes)):
        raise ValueError("its sizes are no whole numbers")
    return lookup("architecture", text).plugin, tuple(shape), classes, description.get("normalize") is True


def _built(description: Any, lookup: Lookup) -> Net:
    architecture, shape, classes, normalized = _build_arguments(description, lookup)
    with torch.random.fork_rng(devices=[]):  # building draws first weights, which are replaced
        net = nets.build(architecture, shape, classes, nets.no_moments(shape) if normalized else None)
    known = ("architecture", "input_shape", "classes", *(["normalize"] if normalized else []))
    net.description = {name: description[name] for name in known}
    return net


def _filled(net: Net, state: Mapping[str, Tensor], device: torch.device) -> Net:
    # Moved before it is filled: its first weights are thrown away, those of `state` may be on the device already.
    on_device(net, device).load_state_dict(state)
    return net.eval()


def _check_shapes(
    architecture: Architecture, shape: tuple[int, ...], classes: int, normalized: bool, state: Mapping[str, Tensor]
) -> None:
    """Raise ``ValueError`` unless ``state`` has the shapes of the net that ``architecture`` builds."""
    shapes = _shapes(architecture, shape, classes, normalized)
    if shapes is not None and shapes != {name: tensor.shape for name, tensor in state.items()}:
        raise ValueError("its weights are of other shapes than the architecture's")


@lru_cache(maxsize=64)
def _shapes(
    architecture: Architecture, shape: tuple[int, ...], classes: int, normalized: bool
) -> dict[str, torch.Size] | None:
    """The shapes of a net's tensors by name. A net without memory is asked: an untrusted description may be of one
    for which there is not enough. ``None`` for one that computes with its numbers while it is built."""
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            net = nets.build(architecture, shape, classes, nets.no_moments(shape) if normalized else None)
            return {name: tensor.shape for name, tensor in net.state_dict().items()}
    except Exception as error:
        if "meta" in str(error):
            return None
        raise


@dataclass(frozen=True)
class Packed:
    """A model as it is stored: its weights, the net that later stages rebuild of them, and what was returned."""

    state: dict[str, Tensor]
    net: Net
    precision: str
    """Precision of the weights that were returned, such as ``float32``, ``float16`` or ``qint8``."""


def pack_model(net: nn.Module, lookup: Lookup, device: torch.device, templates: dict[str, Net] | None = None) -> Packed:
    """The weights to store of a net that a plugin returned, and the net as it is rebuilt of them on ``device``.

    ``templates`` keeps a net of each architecture for the next call. A net that is known to compute as a rebuilt one
    is that itself. Raises :class:`PluginError` for one that cannot be stored.
    """
    inner = check_model(unwrapped(net))
    templates = {} if templates is None else templates
    known = str(inner.description)
    if known not in templates:
        templates[known] = _built(inner.description, lookup)
    template = templates[known]
    state, precision = weights_of(inner, template)
    _check_finite({name: tensor for name, tensor in state.items() if tensor.is_floating_point()}, device)
    if precision == FLOAT and net is inner and is_alike(inner, template):
        return Packed(state, on_device(inner, device).eval(), precision)
    return Packed(state, _filled(_built(inner.description, lookup), state, device), precision)


def _check_finite(state: Mapping[str, Tensor], device: torch.device) -> None:
    """Raise :class:`PluginError` for weights that are not numbers. The host waits for ``device`` once."""
    finite = [torch.isfinite(tensor).all().to(device) for tensor in state.values()]
    for name, is_finite in zip(state, torch.stack(finite).tolist() if finite else [], strict=True):
        if not is_finite:
            raise PluginError(f"the model's {name} is not finite: training diverged")


def check_model(net: nn.Module) -> Net:
    """``net``, if it is known how it is built. Raises :class:`PluginError` for any other model."""
    if not isinstance(net, Net) or not hasattr(net, "description"):
        raise PluginError(
            f"the model is a {type(net).__name__} that cannot be stored: return the net that was given, or one of "
            "ctx.build(), and write a class derived from harness.Architecture for another architecture"
        )
    return net


def pack_key(key: Key) -> dict[str, Tensor]:
    """A key as tensors by name. Raises :class:`PluginError` for what is not a key, or does not fit."""
    packed: dict[str, Tensor] = {}
    for name, probe in key.probes.items():
        if "/" in name or len(probe.x) != len(probe.y):
            raise PluginError(
                f"probe {name!r}: {len(probe.x)} inputs and {len(probe.y)} labels, and no '/' in its name"
            )
        packed |= {f"probe/{name}/x": probe.x, f"probe/{name}/y": probe.y}
    return _checked(packed | {f"tensor/{name}": tensor for name, tensor in key.tensors.items()}, "key")


def pack_guard(guard: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An evasion's guard as tensors by name. Raises :class:`PluginError` for what is not one."""
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
