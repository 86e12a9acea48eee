"""The weights of a net that a plugin returned, as its architecture holds them: what is stored of it.

Wrappers are taken off. Reduced precision (float16, bfloat16, int8) becomes float32 with the rounded values, and batch
norms that were folded into the layer before them are written out again. Anything else that the architecture has no
place for is an error that says what to do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from harness.errors import PluginError
from harness.nets import Adapted, Net
from harness.tracing import LAYERS, run_once

_WRAPPERS = {
    **{"DataParallel": "module", "DistributedDataParallel": "module", "AveragedModel": "module"},
    **{"OptimizedModule": "_orig_mod", "QuantWrapper": "module"},
}
"""Modules around a net, and the attribute that holds it: several devices, averaged weights, a compiler, int8."""
FLOAT = "float32"


def unwrapped(net: nn.Module) -> nn.Module:
    """The net itself, within the modules that torch puts around one."""
    while (inner := _WRAPPERS.get(type(net).__name__)) and isinstance(getattr(net, inner, None), nn.Module):
        net = getattr(net, inner)
    return net


def weights_of(net: nn.Module, fresh: Net) -> tuple[dict[str, Tensor], str]:
    """The tensors of ``net`` under the names, shapes and dtypes of ``fresh``, a net that its architecture just built;
    and the precision that they had, such as ``float16`` or ``qint8``.

    Raises :class:`PluginError` with the first that differs, and what to do about it.
    """
    like: dict[str, Tensor] = fresh.state_dict()
    found: set[str] = set()
    state = _dequantized(net, like, found)
    if state.keys() != like.keys():
        state = _unfolded(state, net, fresh, like)
    text = str(fresh.description["architecture"])
    if problem := next(_differences(state, like, net, text), ""):
        raise PluginError(problem)
    found |= {_name(state[name].dtype) for name in like if state[name].dtype != like[name].dtype}
    stored = {name: state[name].detach().to(tensor.dtype) for name, tensor in like.items()}
    return stored, "+".join(sorted(found)) or FLOAT


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# --- int8 -------------------------------------------------------------------------------------------------------------


def _dequantized(net: nn.Module, like: Mapping[str, Tensor], found: set[str]) -> dict[str, Tensor]:
    """The state of ``net``, in which torch's quantized modules have float32 weights; their precision is ``found``.

    Scales, zero points and observers belong to the quantized arithmetic, which is not rebuilt.
    """
    state: dict[str, Any] = net.state_dict()
    for path, module in net.named_modules():
        if not type(module).__module__.startswith("torch.ao."):
            continue
        prefix = f"{path}." if path else ""
        state = {name: value for name, value in state.items() if name in like or not name.startswith(prefix)}
        for name, tensor in _quantized(module):
            found.add(_name(tensor.dtype) if tensor.is_quantized else "")
            state[prefix + name] = tensor
        if isinstance(module, nn.Sequential):  # a layer with its activation, fused: the layer is the first
            state |= {prefix + name: tensor for name, tensor in module[0].state_dict().items()}
    found.discard("")
    return {
        name: value.dequantize() if getattr(value, "is_quantized", False) else value for name, value in state.items()
    }


def _quantized(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The weights of a quantized module: a layer has methods for them, a recurrent one two that give several."""
    for single, several in (("weight", "get_weight"), ("bias", "get_bias")):
        if callable(several_of := getattr(module, several, None)):
            yield from several_of().items()
        elif callable(one := getattr(module, single, None)) and isinstance(value := one(), Tensor):
            yield single, value


def _unfolded(state: Mapping[str, Any], net: nn.Module, fresh: Net, like: Mapping[str, Tensor]) -> dict[str, Any]:
    """``state`` with the batch norms that were folded into the layer before them: they add that layer's bias, if its
    architecture gives it none, and change nothing else."""
    description: Mapping[str, Any] = fresh.description
    modules = dict(net.named_modules())
    calls = run_once(fresh, tuple(description["input_shape"]), description["classes"])
    layers = {id(call.output): call.name for call in calls if isinstance(call.layer, LAYERS)}
    unfolded = dict(state)
    for call in calls:
        norm, layer = call.layer, layers.get(id(call.input))
        if layer is None or not isinstance(norm, nn.modules.batchnorm._BatchNorm):
            continue
        if isinstance(modules.get(call.name), nn.Identity) and norm.running_mean is not None:
            bias = torch.zeros_like(norm.running_mean)
            if f"{layer}.bias" not in like:
                bias = unfolded.pop(f"{layer}.bias", bias)
            plain = {"running_var": torch.ones_like(bias) - norm.eps, "weight": torch.ones_like(bias), "bias": bias}
            plain["running_mean"] = torch.zeros_like(bias) if norm.affine else -bias
            known = {name: tensor for name, tensor in norm.state_dict().items() if name not in plain}
            unfolded |= {f"{call.name}.{name}": plain.get(name, known.get(name)) for name in norm.state_dict()}
    return unfolded


# --- differences ------------------------------------------------------------------------------------------------------


def _differences(
    state: Mapping[str, Any], like: Mapping[str, Tensor], net: nn.Module, architecture: str
) -> Iterator[str]:
    """Sentences on what differs from the state that the architecture has, and what to do."""
    extra = [name for name in state if name not in like]
    for name in extra:
        if remedy := _computed(name, state):
            yield f"{remedy} before you return the model: it is stored as the weights of {architecture!r}"
    for name in (name for name in like if name in state):
        yield from _difference(name, state[name], like[name], architecture)
    parameters = dict(net.named_parameters())
    for name in extra:
        kind = "parameter" if name in parameters else "buffer"
        yield (
            f"the model has a {kind} {name!r} that {architecture!r} lacks: delete it before you return the model, or "
            "write an Architecture that has it; what an API needs beside a model is the guard of an Evasion"
        )
    for name in (name for name in like if name not in state):
        yield (
            f"the model lacks {name!r} {list(like[name].shape)}, which {architecture!r} has: keep the layers as they "
            "were built (a bias of 0 is none), or write an Architecture without it"
        )


def _difference(name: str, ours: object, theirs: Tensor, architecture: str) -> Iterator[str]:
    """A sentence on one tensor that the architecture has too, if it cannot be stored in its place."""
    if not isinstance(ours, Tensor):
        yield f"the model's {name} is a {type(ours).__name__}: return a tensor there"
    elif ours.layout is not torch.strided or ours.device.type == "meta":
        yield f"the model's {name} is of the layout {ours.layout} on {ours.device}: return a dense tensor of numbers"
    elif ours.shape != theirs.shape:
        yield (
            f"the model's {name} is {list(ours.shape)}, of {architecture!r} it is {list(theirs.shape)}: silence units "
            "with net.silence(layer, units), or write an Architecture of that size and name it in `architecture_built`"
        )
    elif not _fits(ours, theirs.dtype):
        yield (
            f"the model's {name} is {_name(ours.dtype)}, of {architecture!r} it is {_name(theirs.dtype)}: return the "
            "values that it computes with, as floats"
        )


def _fits(tensor: Tensor, dtype: torch.dtype) -> bool:
    """True if a tensor may be stored as ``dtype``: a float as another, anything else if no value changes."""
    if tensor.dtype == dtype or (tensor.is_floating_point() and dtype.is_floating_point):
        return True
    return tensor.is_floating_point() and torch.equal(tensor.to(dtype).to(tensor.dtype), tensor)


def _computed(name: str, state: Mapping[str, Any]) -> str:
    """The way back to a plain weight, where ``name`` belongs to one that is computed at each call; else empty."""
    head, computed, rest = name.partition("parametrizations.")
    if computed:
        weight = rest.partition(".")[0]
        call = f"torch.nn.utils.parametrize.remove_parametrizations(module, {weight!r})"
        return f"the model's {head}{weight} is parametrized: call {call} for {_module(head)}"
    for suffix, beside, what, undo in _OLD_STYLE:
        if name.endswith(suffix) and f"{name.removesuffix(suffix)}{beside}" in state:
            head, dot, weight = name.removesuffix(suffix).rpartition(".")
            call = f"torch.nn.utils.{undo}(module, {weight!r})"
            return f"the model's {head}{dot}{weight} has {what}: call {call} for {_module(head)}"
    return ""


def _module(head: str) -> str:
    return f"its module {head.rstrip('.')!r}" if head else "the model itself"


_OLD_STYLE = (
    ("_mask", "_orig", "a mask of torch.nn.utils.prune", "prune.remove"),
    ("_orig", "_mask", "a mask of torch.nn.utils.prune", "prune.remove"),
    ("_g", "_v", "weight norm", "remove_weight_norm"),
    ("_v", "_g", "weight norm", "remove_weight_norm"),
    ("_orig", "_u", "spectral norm", "remove_spectral_norm"),
    ("_u", "_orig", "spectral norm", "remove_spectral_norm"),
)
"""Endings of two tensors that stand for a weight, what computes it from them, and what undoes that."""


# --- likeness ---------------------------------------------------------------------------------------------------------


def is_alike(net: Net, fresh: Net) -> bool:
    """True if ``net`` computes as ``fresh``, which its architecture built, does with the same weights: its modules are
    of the same classes, with the same plain attributes, and nothing is around them.

    False where that is not certain: of classes that a function makes at each build, or attributes of other types.
    """
    if len(list(net.parameters())) != len(list(fresh.parameters())):  # some are tied
        return False
    ours, theirs = list(net.named_modules()), list(fresh.named_modules())
    if isinstance(net, Adapted) and isinstance(fresh, Adapted):
        ours, theirs = [*ours, ("", net.module)], [*theirs, ("", fresh.module)]
    return [name for name, _ in ours] == [name for name, _ in theirs] and all(
        _is_module_alike(module, fresh) for (_, module), (_, fresh) in zip(ours, theirs, strict=True)
    )


def _is_module_alike(module: nn.Module, fresh: nn.Module) -> bool:
    if type(module) is not type(fresh) or module._non_persistent_buffers_set:
        return False
    if module._forward_hooks or module._forward_pre_hooks or module._state_dict_hooks or module._state_dict_pre_hooks:
        return False
    ours, theirs = vars(module), vars(fresh)
    return all(
        name in theirs and is_plain(value) and value == theirs[name] for name, value in ours.items() if name not in OWN
    )


OWN = {*vars(nn.Module()), "description", "_looked", "_sources", "module"}
"""Attributes of every module, and of nets, that say nothing of what it computes."""


def is_plain(value: object) -> bool:
    if isinstance(value, tuple | list):
        return all(map(is_plain, value))
    return value is None or isinstance(value, bool | int | float | complex | str | bytes)
