"""Comparison of the net that a plugin returned with the one that is rebuilt of what is stored of it.

All numbers are measured on the rebuilt net. Where the two answer otherwise, the plugin counted on something that is not
in the weights: its stage fails, and says what.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from harness.contracts import classes_of
from harness.engine.train import predict
from harness.errors import PluginError
from harness.nets import Adapted, Net, as_float
from harness.storage.codec import Packed
from harness.storage.weights import OWN, is_plain, unwrapped

SAMPLED = 512
"""Test inputs, at most, on which the two nets are compared."""
NOISE = 32
"""Further inputs of random values."""
TOLERANCE = {"cpu": 1e-3, "cuda": 1e-2}
"""Largest difference of logits, as a share of the largest logit: layouts sum in other orders, on a GPU partly in TF32.
"""
REDUCED = 0.02
"""Share of test inputs whose class may differ where the returned net computes in another precision than float32: int8
activations are rounded too, those of the rebuilt net are not."""


def noise_like(x: Tensor, value_range: tuple[float, float]) -> Tensor:
    """:data:`NOISE` inputs of random values in the range of the inputs ``x`` ``[n, ...]``, always the same."""
    generator = torch.Generator().manual_seed(0)
    shape = (NOISE, *x.shape[1:])
    if x.dtype == torch.uint8:
        return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8).to(x.device)
    low, high = value_range
    return (low + (high - low) * torch.rand(shape, generator=generator)).to(x.device, x.dtype)


def check_rebuilt(returned: nn.Module, packed: Packed, known: Tensor, x: Tensor, noise: Tensor) -> str:
    """Raise :class:`PluginError` unless ``returned`` answers as the net of ``packed`` does.

    ``known`` ``[n, classes]`` are that net's logits for the first n test inputs ``x``; ``noise`` are more inputs.
    Returns a warning where something is around ``returned`` that changed none of these answers; else nothing.
    """
    if packed.net is unwrapped(returned):  # known to be alike
        return ""
    both = torch.cat([x[: len(known)], noise])
    ours = _asked(returned, both)
    theirs = torch.cat([known, predict(packed.net, noise)])
    around = next(_around(_parts(unwrapped(returned))), "")
    if packed.precision != "float32":
        _check_classes(ours[: len(known)], known, packed.precision, around)
    elif not _alike(ours, theirs):
        # Nets that draw random numbers are compared by the same ones.
        ours, again, theirs = (
            _seeded(net, both, seed) for net, seed in ((returned, 0), (returned, 1), (packed.net, 0))
        )
        if not _alike(ours, theirs):
            random = "its answers are random; " if not _alike(ours, again) else ""
            share = float((classes_of(ours) != classes_of(theirs)).double().mean())
            raise PluginError(
                "the model is stored as its weights, and as rebuilt of them it gives other logits, "
                f"and {share:.0%} of inputs another class: {random}{_cause(returned, packed.net)}"
            )
    return around and f"{around}: it is not stored with the weights, and changed none of the answers that were compared"


def _check_classes(ours: Tensor, theirs: Tensor, precision: str, around: str) -> None:
    differ = int((classes_of(ours) != classes_of(theirs)).sum())
    if differ > max(1, REDUCED * len(theirs)):
        remedy = f"{around}: {_HOOK}" if around else _CALIBRATE
        raise PluginError(
            f"the model of {precision} is stored as its weights in float32, which answer {differ} of {len(theirs)} "
            f"test inputs otherwise than it does (at most {REDUCED:.0%} may): {remedy}"
        )


def _alike(ours: Tensor, theirs: Tensor) -> bool:
    """True if two models' logits ``[n, classes]`` are the same but for rounding."""
    if ours.shape != theirs.shape:
        return False
    ours, theirs = ours.nan_to_num(0, 0, 0), theirs.nan_to_num(0, 0, 0)
    return bool(((ours - theirs).abs() <= TOLERANCE.get(theirs.device.type, 1e-2) * theirs.abs().max()).all())


def _asked(net: nn.Module, x: Tensor) -> Tensor:
    """Float32 logits of a returned net, which may be of another precision, on another device, or in a wrapper."""
    inner = unwrapped(net)
    for module in net.modules():
        module._compiled_call_impl = None  # compiling takes longer than answering
    net = net if type(net).__name__ == "QuantWrapper" else inner
    floats = [tensor for tensor in net.parameters() if tensor.is_floating_point()]
    dtype = floats[0].dtype if floats else torch.float32
    device = floats[0].device if floats else torch.device("cpu")
    given = x if net is inner and dtype == torch.float32 else as_float(x).to(dtype)
    try:
        logits = predict(net, given.to(device))
    except Exception as error:
        raise PluginError(f"the model that it returned does not answer ({type(error).__name__}: {error})") from error
    return logits.to(x.device, torch.float32)


def _seeded(net: nn.Module, x: Tensor, seed: int) -> Tensor:
    devices = [x.device] if x.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        return _asked(net, x)


# --- causes -----------------------------------------------------------------------------------------------------------


def _cause(returned: nn.Module, rebuilt: Net) -> str:
    """The first thing that is found in ``returned`` and not in its weights, and what to do about it."""
    return next(_causes(unwrapped(returned), rebuilt), _UNKNOWN)


_UNKNOWN = "keep in weights what counts, or write an Architecture that computes so"
_CALIBRATE = "calibrate it on inputs like the pool's, or write an Architecture that computes in that precision"
_HOOK = "remove it before you return the model (a filter of answers is an Evasion, another forward an Architecture's)"


def _causes(returned: nn.Module, rebuilt: Net) -> Iterator[str]:
    ours, fresh = _parts(returned), _parts(rebuilt)
    yield from (f"{words}: {_HOOK}" for words in _around(ours))
    yield from _tied(returned, rebuilt)
    for where, module in ours.items():
        if where not in fresh:
            yield f"{where} is not in the architecture: {_UNKNOWN}"
        else:
            yield from (f"{where}{what}" for what in _changed(module, fresh[where]))
    for where in fresh.keys() - ours.keys():
        yield f"{where} is gone: {_UNKNOWN}"


def _parts(net: nn.Module) -> dict[str, nn.Module]:
    """All modules by words for their place."""
    parts = {f"its module {path!r}" if path else "the model": module for path, module in net.named_modules()}
    if isinstance(net, Adapted):
        parts |= {"the model's wrapper": net, "the model": net.module}
    return parts


def _around(parts: Mapping[str, nn.Module]) -> Iterator[str]:
    """Words on hooks and replaced methods."""
    for where, module in parts.items():
        if module._forward_hooks:
            yield f"{where} has a forward hook"
        if module._forward_pre_hooks:
            yield f"{where} has a forward pre-hook"
        for name in ("forward", "activations", "__call__"):
            if name in vars(module):
                yield f"{where} has a replaced {name!r}"


def _changed(module: nn.Module, fresh: nn.Module) -> Iterator[str]:
    """Sentences on the differences from what the architecture builds, to go after words for the module."""
    if _kind(module) != _kind(fresh):
        yield f" is a {type(module).__name__}, in the architecture a {type(fresh).__name__}: {_UNKNOWN}"
    for name in sorted(module._non_persistent_buffers_set):
        if not _equal(module._buffers.get(name), fresh._buffers.get(name)):
            yield f" has a buffer {name!r} that is not persistent: register it with persistent=True"
    for name, value in vars(module).items():
        if isinstance(value, Tensor) and not _equal(value, vars(fresh).get(name)):
            yield f" has a tensor {name!r} that is not stored: make it a buffer by register_buffer"
    before = _plain(fresh)
    for name, value in _plain(module).items():
        if value != before.get(name) or type(value) is not type(before.get(name)):
            yield (
                f" has {name} = {value!r}, as its architecture builds it {before.get(name)!r}: "
                "an Architecture with an option builds another"
            )


def _kind(module: nn.Module) -> tuple[str, str]:
    """The class, by name: a class that is made within ``build`` is another one each time."""
    return type(module).__module__, type(module).__qualname__


def _plain(module: nn.Module) -> Mapping[str, object]:
    """The attributes of a module that are plain values."""
    return {name: value for name, value in vars(module).items() if is_plain(value) and name not in OWN}


def _equal(ours: Tensor | None, theirs: object) -> bool:
    if ours is None or not isinstance(theirs, Tensor):
        return ours is theirs
    return ours.shape == theirs.shape and torch.equal(ours.to(theirs.device, theirs.dtype), theirs)


def _tied(returned: nn.Module, rebuilt: nn.Module) -> Iterator[str]:
    """Parameters that the architecture holds once under two names, and the returned net twice."""
    names: dict[int, str] = {}
    ours = dict(returned.named_parameters(remove_duplicate=False))
    for name, parameter in rebuilt.named_parameters(remove_duplicate=False):
        first = names.setdefault(id(parameter), name)
        if first != name and not _equal(ours.get(first), ours.get(name)):
            yield f"{first!r} and {name!r} are one tensor in the architecture, and two in the model: {_UNKNOWN}"
