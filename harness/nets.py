"""Nets: inputs of either type, named hidden layers, and a description to rebuild each by. Any module can be one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial, wraps
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.contracts import Architecture
from harness.errors import Blamed, PluginError
from harness.inputs import as_float as as_float  # a plugin's name for it, and for the next ones
from harness.inputs import as_stored as as_stored
from harness.inputs import moved as moved
from harness.inputs import noisy as noisy
from harness.inputs import normalize, normalizing
from harness.inputs import random_moves as random_moves
from harness.silencing import firing
from harness.silencing import silence as silence_units
from harness.tracing import LAYERS, NORMS, find_layers, in_order, keep_input, keep_output, run_once

CPU_PART, GPU_PART = 128, 2048
"""Inputs that are evaluated at a time: on a CPU what its cache holds (1.9 times as fast as 1,000), on a GPU many."""


def parts(x: Tensor) -> tuple[Tensor, ...]:
    """``x`` ``[n, ...]`` in parts that its device evaluates fastest; one empty part where there is nothing."""
    split: tuple[Tensor, ...] = x.split(CPU_PART if x.device.type == "cpu" else GPU_PART)
    return split


def _looked_after(silence: Callable[[Any, str, Tensor], None]) -> Callable[[Any, str, Tensor], None]:
    """``silence``, which then looks at whether silenced units of that layer answer 0: once for a net and a layer."""

    @wraps(silence)
    def silence_and_look(net: Net, layer: str, units: Tensor) -> None:
        if "_silencing" in vars(net):  # within an override, or within the look
            silence(net, layer, units)
            return
        vars(net)["_silencing"] = True
        try:
            silence(net, layer, units)
        finally:
            del vars(net)["_silencing"]
        known: Mapping[str, Any] = getattr(net, "description", {})
        looked: set[str] = vars(net).setdefault("_looked", set())
        if known and layer not in looked:
            if words := firing(net, layer, known["input_shape"]):
                raise Blamed(f"{known['architecture']}: {words}")
            looked.add(layer)

    return silence_and_look


class Net(nn.Module):
    """A classifier. Calling it with inputs ``[n, ...]`` (``uint8`` or float) gives logits ``[n, classes]``.

    ``hidden`` names its hidden layers in order, each a submodule of that name: what pruning speaks of. ``taps`` names
    what SNNL and CKA speak of, in order, where that is something else: steps of a recurrence, or the sums of residual
    blocks and no layer within a block. The last tap is the penultimate layer, ``[n, units]``.
    """

    hidden: tuple[str, ...] = ()
    taps: tuple[str, ...] = ()
    """The hidden layers, where a class names no others."""
    last: str = "logits"
    """The name of the last layer, which gives the logits."""
    layout: torch.memory_format = torch.channels_last
    """Memory layout of its convolutions' weights: the one that trains fastest."""
    description: Mapping[str, object]
    """Recipe to build it again: the architecture's text, the input shape, the number of classes, and ``normalize``
    where it normalises its inputs; set by the harness."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "silence" in vars(cls):
            cls.silence = _looked_after(cls.silence)  # type: ignore[method-assign]
        for answer in {"forward", "activations"} & vars(cls).keys():
            setattr(cls, answer, normalizing(vars(cls)[answer]))
        if "hidden" in vars(cls) and "taps" not in vars(cls):
            cls.taps = cls.hidden

    def forward(self, x: Tensor) -> Tensor:
        return self.activations(x)[0]

    def activations(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits, and the outputs ``[n, units, ...]`` of taps and hidden layers by name, before the ReLU after each."""
        raise NotImplementedError

    @_looked_after
    def silence(self, layer: str, units: Tensor) -> None:
        """Prune ``units`` (a boolean mask ``[units]``) of a hidden layer for good, in place.

        Their incoming weights and biases become zero, which is masking the unit's output: it is 0, and since the ReLU's
        gradient at 0 is 0, no training by gradients revives it. The mask so lives in the weights, and survives storing,
        further attacks and fine-tuning. Of a layer of several modules, the last convolution or dense layer is silenced,
        and the batch norm after it. A net whose layer is not followed by a ReLU overrides this.

        Raises :class:`Blamed`, in the architecture's name, where its silenced units would answer more than 0: a norm
        that the layer's submodule does not hold, or an activation that is not 0 at 0.
        """
        silence_units(list(self.get_submodule(layer).modules()), units)


class Cnn(Net):
    """The EWE paper's CNN: conv 32@5x5, pool, conv 64@3x3, pool, dense 128, dense. Convolutions keep the size."""

    hidden = ("conv1", "conv2", "dense")

    def __init__(self, input_shape: tuple[int, int, int], classes: int, width: int = 32, dropout: float = 0.0) -> None:
        super().__init__()
        channels, height, width_in = input_shape
        self.conv1 = nn.Conv2d(channels, width, 5, padding=2)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.dense = nn.Linear(2 * width * (height // 4) * (width_in // 4), 4 * width)
        self.logits = nn.Linear(4 * width, classes)
        self.dropout = dropout

    def activations(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        x = as_float(x).contiguous(memory_format=torch.channels_last)
        conv1 = self.conv1(x)
        conv2 = self.conv2(self._drop(self._pool(conv1)))
        dense = self.dense(self._drop(self._pool(conv2)).flatten(1))
        return self.logits(self._drop(dense.relu())), {"conv1": conv1, "conv2": conv2, "dense": dense}

    @staticmethod
    def _pool(x: Tensor) -> Tensor:
        # Pooling before the ReLU gives the same numbers, and a quarter of the ReLUs.
        return F.max_pool2d(x, 2).relu_()

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x


class Mlp(Net):
    """Dense hidden layers ``dense1``, ``dense2`` and so on, of one width."""

    def __init__(self, input_shape: tuple[int, ...], classes: int, width: int = 256, layers: int = 2) -> None:
        super().__init__()
        self.hidden = self.taps = tuple(f"dense{number}" for number in range(1, layers + 1))
        for name in self.hidden:
            self.add_module(name, nn.Linear(prod(input_shape) if name == "dense1" else width, width))
        self.logits = nn.Linear(width, classes)

    def activations(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        taken, found = as_float(x).flatten(1), {}
        for name in self.hidden:
            found[name] = self.get_submodule(name)(taken)
            taken = found[name].relu()
        return self.logits(taken), found


class LeNet(Net):
    """LeNet-5 with ReLU and max-pooling, whose convolutions both keep the size (the original's second does not): images
    of 8 x 8 have pixels left. Conv 6@5x5, pool, conv 16@5x5, pool, dense 120, dense 84.
    """

    hidden = ("conv1", "conv2", "dense1", "dense2")

    def __init__(self, input_shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        channels, height, width = input_shape
        self.conv1 = nn.Conv2d(channels, 6, 5, padding=2)
        self.conv2 = nn.Conv2d(6, 16, 5, padding=2)
        self.dense1 = nn.Linear(16 * (height // 4) * (width // 4), 120)
        self.dense2 = nn.Linear(120, 84)
        self.logits = nn.Linear(84, classes)

    def activations(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        conv1 = self.conv1(as_float(x).contiguous(memory_format=torch.channels_last))
        conv2 = self.conv2(F.max_pool2d(conv1, 2).relu_())
        dense1 = self.dense1(F.max_pool2d(conv2, 2).relu_().flatten(1))
        dense2 = self.dense2(dense1.relu())
        return self.logits(dense2.relu()), {"conv1": conv1, "conv2": conv2, "dense1": dense1, "dense2": dense2}


class ResNet18(Net):
    """ResNet-18 for small images (He et al. 2016): a 3x3 stem without pooling, eight basic blocks, batch norm.

    Block k adds to its input (a 1x1 projection where the shape changes) what ``block{k}_inner``, a ReLU and
    ``block{k}_outer`` make of it, and a ReLU follows the sum. The taps ``block{k}`` are the sums. The last tap,
    ``pool``, is the mean over positions of the last sum's ReLU: never below 0, so a ReLU after it changes nothing.
    """

    hidden = ("stem", *(f"block{k}_inner" for k in range(1, 9)))
    taps = ("stem", *(f"block{k}" for k in range(1, 9)), "pool")

    def __init__(self, input_shape: tuple[int, int, int], classes: int, width: int = 64) -> None:
        super().__init__()
        self.stem = _convolution(input_shape[0], width, 3, 1)
        # Channels last, torch 2.11 corrupts memory in strided 1x1 convolutions of few channels on CPUs with AVX2 alone.
        channels, self.layout = width, torch.channels_last if width >= 8 else torch.contiguous_format
        for k in range(1, 9):
            units = width * 2 ** ((k - 1) // 2)
            stride = 1 if units == channels else 2
            self.add_module(f"block{k}_inner", _convolution(channels, units, 3, stride))
            self.add_module(f"block{k}_outer", _convolution(units, units, 3, 1))
            if stride > 1:
                self.add_module(f"block{k}_shortcut", _convolution(channels, units, 1, stride))
            channels = units
        self.logits = nn.Linear(channels, classes)

    def activations(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        taps = dict(self._steps(x))
        return self.logits(taps["pool"]), taps

    def forward(self, x: Tensor) -> Tensor:
        # Not `activations`: keeping every tap takes 0.3 GB for the 128 images that an evaluation passes at a time.
        for _, tap in self._steps(x):
            pool = tap
        return self.logits(pool)  # type: ignore[no-any-return]

    def _steps(self, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        """The taps and hidden layers, one after the other."""
        x = self.stem(as_float(x).contiguous(memory_format=self.layout))
        yield "stem", x
        for k in range(1, 9):
            x = x.relu()
            inner = self.get_submodule(f"block{k}_inner")(x)
            yield f"block{k}_inner", inner
            if f"block{k}_shortcut" in self._modules:
                x = self.get_submodule(f"block{k}_shortcut")(x)
            x = x + self.get_submodule(f"block{k}_outer")(inner.relu())
            yield f"block{k}", x
        yield "pool", x.relu().mean((2, 3))


def _convolution(channels: int, units: int, size: int, stride: int) -> nn.Sequential:
    """A convolution that keeps the size, or divides it by ``stride``, and batch norm in place of its bias."""
    return nn.Sequential(nn.Conv2d(channels, units, size, stride, padding=size // 2, bias=False), nn.BatchNorm2d(units))


class Lstm(Net):
    """The EWE paper's speech model: one LSTM over the rows of ``[n, channels, time, cells]``, then a dense layer.

    Taps, as in the released EWE code: the hidden state at the middle step and at the last, ``[n, width]`` each, and the
    dense layer.
    """

    hidden = ("lstm", "dense")
    taps = ("middle", "lstm", "dense")

    def __init__(self, input_shape: tuple[int, int, int], classes: int, width: int = 128) -> None:
        super().__init__()
        channels, _, cells = input_shape
        self.lstm = nn.LSTM(channels * cells, width, batch_first=True)
        with torch.no_grad():
            # Forget gates begin open, as in Keras, whose LSTM the released code is. Begun half shut, as torch has them,
            # they lose the beginning of a word: 39% instead of 54% of the small speech set's test clips are right.
            self.lstm.get_parameter("bias_ih_l0")[width : 2 * width] = 1
        self.dense = nn.Linear(width, width)
        self.logits = nn.Linear(width, classes)

    def activations(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.autocast("cpu", enabled=False):  # oneDNN has no bfloat16 LSTM where a CPU has no AVX512
            states: Tensor = self.lstm(as_float(x).transpose(1, 2).flatten(2))[0]
        middle, last = states[:, states.shape[1] // 2], states[:, -1]
        dense = self.dense(last)
        return self.logits(dense.relu()), {"middle": middle, "lstm": last, "dense": dense}

    def silence(self, layer: str, units: Tensor) -> None:
        """Prune units as :meth:`Net.silence` does; of ``lstm``, which no ReLU follows, both ends of a unit become zero.

        Without weights into its gates its state stays 0; without weights out of it no gradient reaches those gates, and
        a state of 0 gives none to the weights out of it: it stays 0 whatever is trained.
        """
        if layer != "lstm":
            super().silence(layer, units)
            return
        with torch.no_grad():
            units = units.to(self.dense.weight.device)
            for parameter in self.lstm.parameters():
                parameter[units.repeat(4)] = 0  # the rows of four gates, one gate after the other
            self.lstm.get_parameter("weight_hh_l0")[:, units] = 0
            self.dense.weight[:, units] = 0

    def train(self, mode: bool = True) -> Lstm:
        super().train(mode)
        self.lstm.train()  # cuDNN gives gradients to inputs in this mode alone; without dropout the modes are alike
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self.lstm.flatten_parameters()  # a copy's weights lie apart, and cuDNN warns of it at each call


# --- any net ----------------------------------------------------------------------------------------------------------


class Layers(Net):
    """A net of named blocks that run one after the other, with a ReLU after each but the last, which gives the logits.

    A block is a module, or a list of modules. It ends before its ReLU: a pool after the ReLU begins the next block::

        nets.Layers(
            conv=nn.LazyConv2d(32, 5, padding=2),
            dense=[nn.MaxPool2d(2), nn.Flatten(), nn.LazyLinear(128)],
            logits=nn.LazyLinear(classes),
        )

    All blocks but the last are the hidden layers, under their names. Where the last block is a list, the input of its
    last module is a tap too. Blocks that ``added`` names are residual: their input is added to their ReLU.
    """

    def __init__(self, *, added: Sequence[str] = (), **blocks: nn.Module | Sequence[nn.Module]) -> None:
        super().__init__()
        if not blocks:
            raise ValueError("nets.Layers needs a block at least, which gives the logits")
        for name, block in blocks.items():
            self.add_module(name, block if isinstance(block, nn.Module) else nn.Sequential(*block))
        *hidden, self.last = blocks
        self.hidden, self.added = tuple(hidden), frozenset(added)
        pooled = isinstance(self.get_submodule(self.last), nn.Sequential)
        self.taps = (*hidden, f"{self.last}.input") if pooled else self.hidden

    def activations(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        x, taps = as_float(x), {}
        for name in self.hidden:
            taps[name] = self.get_submodule(name)(x)
            x = x + taps[name].relu() if name in self.added else taps[name].relu()
        last = self.get_submodule(self.last)
        if isinstance(last, nn.Sequential):
            x = taps[f"{self.last}.input"] = last[:-1](x)
            last = last[-1]
        return last(x), taps


class Adapted(Net):
    """Any module as a net: it takes inputs of either type, and its hidden layers are found by running it once.

    Hidden layers are the convolutions and dense layers in the order in which they run, all but the last, which gives
    the logits. A tap is a hidden layer's output, after the norm that follows it if one does. Parameters, buffers and
    submodules are those of ``module``, under its own names.
    """

    # `view`, in code that was written for the usual layout, refuses the other one.
    layout = torch.contiguous_format
    module: nn.Module

    def __init__(self, module: nn.Module, input_shape: tuple[int, ...], classes: int) -> None:
        """Raises :class:`PluginError` unless ``module`` gives logits ``[n, classes]``."""
        super().__init__()
        self._sources, self.last, flat = find_layers(module, input_shape, classes)
        self.hidden = self.taps = tuple(self._sources)
        if not flat:  # the penultimate layer is [n, units]
            self.taps += (f"{self.last}.input".lstrip("."),)
        self.training = module.training
        # From here on, past `__setattr__`: a layer of the module may be called `last`.
        shared = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")
        vars(self).update({name: vars(module)[name] for name in shared}, module=module)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.module(as_float(x))
        return logits

    def activations(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        taps: dict[str, Tensor] = {}
        with ExitStack() as stack:
            for name, source in self._sources.items():
                hook = partial(keep_output, taps, name, source)
                stack.callback(self.get_submodule(source.name).register_forward_hook(hook).remove)
            if self.taps != self.hidden:
                last = self.get_submodule(self.last)
                hook = partial(keep_input, taps, self.taps[-1])
                stack.callback(last.register_forward_pre_hook(hook).remove)
            logits = self.forward(x)
        return logits, in_order(taps, self.taps)

    def silence(self, layer: str, units: Tensor) -> None:
        """Prune units as :meth:`Net.silence` does: for good where a ReLU follows the layer or its norm."""
        names = dict.fromkeys((layer, self._sources[layer].name))
        silence_units([self.get_submodule(name) for name in names], units)

    def get_submodule(self, target: str) -> nn.Module:
        return self.module.get_submodule(target)  # whatever its layers are called, `hidden` or `last` say

    def modules(self, remove_duplicate: bool = True) -> Iterator[nn.Module]:
        yield self
        # `module` too, which is not one of its own submodules: it may have hooks.
        yield from (part for _, part in self.module.named_modules(remove_duplicate=remove_duplicate))

    def train(self, mode: bool = True) -> Adapted:
        self.training = mode
        self.module.train(mode)
        return self


def adapt(module: nn.Module, input_shape: tuple[int, ...], classes: int) -> Net:
    """``module`` as a net for inputs ``[n, *input_shape]``; a :class:`Net` as it is.

    Lazy layers learn their sizes here. Raises :class:`PluginError` for what is not a module, or does not give logits.
    """
    if not isinstance(module, nn.Module):
        raise PluginError(f"build must return a torch.nn.Module, not {type(module).__name__}")
    if not isinstance(module, Net):
        return Adapted(module, input_shape, classes)
    if any(map(nn.parameter.is_lazy, module.parameters())):
        run_once(module, input_shape, classes)
    return module


def build(
    architecture: Architecture,
    input_shape: tuple[int, ...],
    classes: int,
    moments: tuple[Tensor, Tensor] | None = None,
) -> Net:
    """A freshly initialised net of ``architecture``, which normalises its inputs by their ``moments`` if there are."""
    net = adapt(architecture.build(input_shape, classes), input_shape, classes)
    if moments is not None:
        normalize(net, *moments)
    return net


def no_moments(input_shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Moments ``[channels, 1, ...]`` by which inputs stay as they are: those of a net that is yet to be filled."""
    shape = (input_shape[0], *(1 for _ in input_shape[1:]))
    return torch.zeros(shape), torch.ones(shape)


def last_convolution(net: Net) -> str | None:
    """The name of the last hidden layer that convolves; ``None`` where none does."""
    convolutions = [
        name for name in net.hidden if any(isinstance(part, LAYERS[1:]) for part in net.get_submodule(name).modules())
    ]
    return convolutions[-1] if convolutions else None


# --- helpers ----------------------------------------------------------------------------------------------------------


def weights(net: Net) -> dict[str, nn.Parameter]:
    """Weights ``[units, ...]`` of convolutions, dense and recurrent layers, by name; neither biases nor norms."""
    norms = {id(each) for part in net.modules() if isinstance(part, NORMS) for each in part.parameters(recurse=False)}
    return {name: each for name, each in net.named_parameters() if each.ndim > 1 and id(each) not in norms}


@contextmanager
def seeded(generator: torch.Generator, device: torch.device | None = None) -> Iterator[None]:
    """Lend torch's global generators, which layers and dropout draw from, a seed drawn from ``generator``; they are
    given back as they were: nothing outside can tell."""
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    cuda = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.default_generator.manual_seed(seed)
        for each in cuda:
            torch.cuda.default_generators[each.index or 0].manual_seed(seed)
        yield


def activation_frequencies(net: Net, x: Tensor) -> dict[str, Tensor]:
    """Share ``[units]`` of inputs (and positions) on which a unit is above 0 after the ReLU, by hidden layer."""
    net.eval()
    counts: dict[str, Tensor] = {}
    sizes: dict[str, int] = {}
    with torch.inference_mode():
        for part in parts(x):
            activations = net.activations(part)[1]
            for name in net.hidden:
                active = (activations[name] > 0).movedim(1, -1).flatten(0, -2)  # units last, as in memory
                counts[name] = counts.get(name, 0) + active.sum(0)
                sizes[name] = sizes.get(name, 0) + len(active)
    return {name: count.float() / sizes[name] for name, count in counts.items()}


def penultimate(net: Net, x: Tensor) -> Tensor:
    """Activations ``[n, units]`` of the layer before the logits, after its ReLU, without gradients."""
    with torch.inference_mode():
        last = [next(reversed(net.activations(part)[1].values())).relu() for part in parts(x)]
    return torch.cat(last).clone()


def fresh_like(net: Net, layer: str, generator: torch.Generator) -> nn.Module:
    """A copy of one layer of ``net`` with its weights drawn again, as the layer's own class draws them."""
    layer_now = net.get_submodule(layer)
    # Drawn on the CPU, whose generator is the seeded one: the same weights on every device.
    module = copy.deepcopy(layer_now).cpu()
    with seeded(generator):
        for part in module.modules():
            reset = getattr(part, "reset_parameters", None)
            if callable(reset):
                reset()
    return module.to(next(layer_now.parameters()).device)


def redraw_last(net: Net, generator: torch.Generator) -> None:
    """Draw the weights of the layer that gives the logits again, in place: see :func:`fresh_like`."""
    net.get_submodule(net.last).load_state_dict(fresh_like(net, net.last, generator).state_dict())


def last_weight(net: Net) -> str:
    """The name of the weight ``[classes, units]`` of that layer."""
    return [name for name in weights(net) if name.startswith(f"{net.last}.")][-1]
