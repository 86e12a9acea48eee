"""The layers of any module, found by running it once with hooks."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from harness.errors import PluginError

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)
PROBED = 2
"""Inputs that a module is run on to find its layers."""


@dataclass(frozen=True)
class Source:
    """The module whose output is a tap: the hidden layer itself, or the norm after it."""

    name: str
    units_last: bool
    """True if the units are the last dimension of the output, as of a dense layer; else they are the second."""
    changed: bool
    """True if the module changes that output in place afterwards, so that a copy must be kept."""


def find_layers(module: nn.Module, input_shape: tuple[int, ...], classes: int) -> tuple[dict[str, Source], str, bool]:
    """The hidden layers with their sources, the name of the last layer, and whether the last tap is ``[n, units]``."""
    calls = run_once(module, input_shape, classes)
    # Of a net that looks at its inputs, a hidden layer is one that runs on noise too.
    noise = torch.rand(PROBED, *input_shape, generator=torch.Generator().manual_seed(0))
    always = {call.name for call in run_once(module, input_shape, classes, noise)}
    layers = {
        call.name: call
        for call in calls
        if isinstance(call.layer, LAYERS) and len(call.output) == PROBED and call.name in always
    }
    last = next(reversed(layers), "")
    layers.pop(last, None)
    norms = {id(call.input): call for call in calls if isinstance(call.layer, NORMS)}
    taps = {name: norms.get(id(call.output), call) for name, call in layers.items()}
    sources = {
        name: Source(call.name, isinstance(layers[name].layer, nn.Linear), call.output._version != call.version)
        for name, call in taps.items()
    }
    return sources, last, bool(taps) and next(reversed(taps.values())).output.ndim == 2


@dataclass(frozen=True)
class Call:
    """A run of a layer: the tensors that went in and came out, and the version of the latter."""

    name: str
    layer: nn.Module
    input: Tensor
    output: Tensor
    version: int


def run_once(module: nn.Module, input_shape: tuple[int, ...], classes: int, inputs: Tensor | None = None) -> list[Call]:
    """The runs of layers and norms while ``module`` answers empty images, or ``inputs``, in their order."""
    calls: list[Call] = []

    def keep(name: str, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls.append(Call(name, layer, inputs[0] if inputs else output, output, output._version))

    was, device = module.training, next(module.parameters(), torch.empty(0)).device
    what = type(module).__name__
    with ExitStack() as stack, torch.no_grad():
        for name, layer in module.named_modules():
            if isinstance(layer, (*LAYERS, *NORMS)):
                stack.callback(layer.register_forward_hook(partial(keep, name)).remove)
        try:
            x = torch.zeros(PROBED, *input_shape) if inputs is None else inputs
            logits = module.eval()(x.to(device))
        except Exception as error:  # whatever a module makes of inputs that it was not written for
            raise PluginError(f"{what} cannot take inputs {[PROBED, *input_shape]}: {error}") from error
        finally:
            module.train(was)
    if not isinstance(logits, Tensor) or tuple(logits.shape) != (PROBED, classes):
        given = list(logits.shape) if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        raise PluginError(f"{what} must give logits {[PROBED, classes]} of {PROBED} inputs, not {given}")
    return calls


def in_order(taps: dict[str, Tensor], names: tuple[str, ...]) -> dict[str, Tensor]:
    """Taps in the order of their names. Raises :class:`PluginError` for a layer that did not run."""
    if missing := [name for name in names if name not in taps]:
        raise PluginError(
            f"its hidden layer {missing[0]!r} did not run on these inputs: a net whose control flow leaves layers out "
            "derives from harness.nets.Net, and names its taps"
        )
    return {name: taps[name] for name in names}


def keep_output(
    taps: dict[str, Tensor], name: str, source: Source, layer: nn.Module, inputs: object, output: Tensor
) -> None:
    """A forward hook on ``source`` that puts its output ``[n, units, ...]`` into ``taps``."""
    output = output.movedim(-1, 1) if source.units_last else output
    taps[name] = output.clone() if source.changed else output


def keep_input(taps: dict[str, Tensor], name: str, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """A forward pre-hook that puts its input into ``taps``: ``[n, units]``, the mean over positions."""
    x = inputs[0].movedim(-1, 1) if isinstance(layer, nn.Linear) else inputs[0]
    taps[name] = x.flatten(2).mean(2) if x.ndim > 2 else x
