"""Silencing of units, and a look at whether a net's silenced units stay silent, whatever its other weights are."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from harness.tracing import LAYERS, NORMS

INPUTS = 4
"""Random inputs that a net is tried on."""


def silence(modules: Sequence[nn.Module], units: Tensor) -> None:
    """Set to zero the parameters of ``units`` in the last layer among ``modules`` and in those after it."""
    start = max((i for i, module in enumerate(modules) if isinstance(module, LAYERS)), default=0)
    with torch.no_grad():
        for module in modules[start:]:
            tensors: list[Tensor] = list(module.parameters(recurse=False))
            if is_parametrized(module):  # of a weight's norm and direction, the norm comes first
                tensors += [next(each.parameters()) for each in module.get_submodule("parametrizations").children()]
            if isinstance(module, NORMS) and not tensors:  # it has no factor: what is left of a unit is its mean
                tensors = [tensor for name, tensor in module.named_buffers(recurse=False) if name == "running_mean"]
            for tensor in tensors:
                tensor[units.to(tensor.device)] = 0


def firing(net: Any, layer: str, input_shape: Sequence[int]) -> str:
    """Words on silenced units of ``layer`` that do not answer 0; empty where all do.

    ``net`` is a :class:`harness.nets.Net`. Copies of it are tried, with all units silenced or half of them, whose other
    weights are as bad as training could leave them. Raises what ``net.silence`` raises.
    """
    generator = torch.Generator().manual_seed(0)
    first = next(net.parameters())
    device = first.device
    x = torch.rand(INPUTS, *input_shape, generator=generator)
    x[1::2] = 4 * x[1::2] - 2  # not all inputs are in 0..1
    x = x.to(first)
    with torch.no_grad(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)  # dropout draws
        count = copy.deepcopy(net).eval().activations(x)[1][layer].shape[1]
        for share, sign in ((1.0, 1), (0.5, 1), (0.5, -1)):
            tried = _disturbed(net, sign, generator)
            units = (torch.rand(count, generator=generator) < share).to(device)
            tried.silence(layer, units)
            if _fires(tried, layer, units, x):
                return f"silenced units of {layer!r} go on firing: {_REMEDY}"
            if share == 1 and (operation := _made_of_nothing(tried.eval(), layer, x)):
                return f"silenced units of {layer!r} go on firing: {operation} makes more of their 0; {_REMEDY}"
    return ""


_REMEDY = "put a norm after it into the same submodule, or override silence(layer, units)"


def _disturbed(net: Any, sign: int, generator: torch.Generator) -> Any:
    """A copy whose norms have negative running means, and whose biases have the ``sign``: where it is 1, a norm that
    silencing forgets answers more than 0 to nothing."""
    disturbed = copy.deepcopy(net).eval()
    vars(disturbed)["_silencing"] = True  # no look within the look
    for name, tensor in disturbed.state_dict().items():
        # Vectors of spectral norm are estimates, which no training sets freely.
        if tensor.is_floating_point() and tensor.ndim == 1 and "parametrizations" not in name:
            drawn = 0.5 + torch.rand(tensor.shape, generator=generator)
            signs = {"running_mean": -1, "bias": sign}
            tensor.copy_(drawn * signs.get(name.rpartition(".")[2], 1))
    return disturbed


def _fires(net: Any, layer: str, units: Tensor, x: Tensor) -> bool:
    """True if one of ``units`` is above 0 for one of ``x``, in evaluation or in training."""
    for training in (False, True):
        taps = net.train(training).activations(x)[1]
        if bool((taps[layer].relu()[:, units] != 0).any()):
            return True
    return False


# --- behind the tap ---------------------------------------------------------------------------------------------------

_LAYERS = (
    *("linear", "conv", "matmul", "mm", "bmm", "addmm", "baddbmm", "bilinear", "einsum", "lstm", "gru", "rnn"),
    *("scaled_dot_product_attention", "multi_head_attention_forward"),
)
"""Beginnings of the names of operations that sum over units: what they make of 0 is no answer of a unit."""
_GATES = ("mul",)
"""Operations by which a layer scales another's output."""
_ANSWERS = ("relu", "leaky_relu", "gelu", "silu", "elu", "selu", "celu", "mish", "hard", "tanh", "prelu", "clamp")
"""Functions after which a unit has answered."""
_COPIES = ("clone", "contiguous", "detach", "view", "permute", "movedim", "transpose", "squeeze", "unsqueeze", "to")
"""Operations of which the result holds the same numbers."""


@dataclass
class _Operation:
    """An operation as it ran: its name, the tensors that went in and came out, and those of the latter that were all
    0 when they did, by identity."""

    name: str
    inputs: list[Tensor]
    outputs: list[Tensor]
    zero: set[int]


class _Recorder(TorchFunctionMode):
    """Keeps the operations that run within it."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[_Operation] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = [each for each in tree_leaves((args, kwargs or {})) if isinstance(each, Tensor)]
        result = func(*args, **(kwargs or {}))
        outputs = [each for each in tree_leaves(result) if isinstance(each, Tensor)]
        if outputs:
            zero = {id(each) for each in outputs if not bool(each.any())}
            self.operations.append(_Operation(func.__name__.strip("_"), inputs, outputs, zero))
        return result


def _made_of_nothing(net: Any, layer: str, x: Tensor) -> str:
    """The name of the operation that makes more than 0 of a tap of zeros before the next layer reads it; or empty."""
    with _Recorder() as recorder:
        tap = net.activations(x)[1][layer]
    constant = {id(tensor) for tensor in (*net.parameters(), *net.buffers())}
    # Tensors that follow from the tap alone, and the operation that made more than 0 of it.
    derived = {id(tap): ""} | {id(tensor): "" for tensor in _copied(recorder.operations, tap)}
    for operation in recorder.operations:
        known = {id(each) for each in operation.inputs}
        made = next((derived[each] for each in known if derived.get(each)), "")
        if not known & derived.keys():
            constant |= {id(each) for each in operation.outputs if known <= constant}
            continue
        alone = known <= derived.keys() | constant and not operation.name.startswith(_LAYERS)
        if made and not alone and not operation.name.startswith(_GATES):
            return made
        for output in operation.outputs:
            derived.pop(id(output), None)  # one that was changed in place
            if alone and id(output) not in operation.zero:
                derived[id(output)] = made or operation.name
            elif alone and not operation.name.startswith(_ANSWERS):  # a norm further on is the next layer's
                derived[id(output)] = ""
    return ""


def _copied(operations: Sequence[_Operation], tap: Tensor) -> list[Tensor]:
    """The tensors that ``tap`` is a copy or a view of, one of the other."""
    found: list[Tensor] = []
    for operation in reversed(operations):
        if any(output is tap for output in operation.outputs) and operation.name.startswith(_COPIES):
            tap = operation.inputs[0]
            found.append(tap)
    return found
