"""Units of a net whose order and size no answer depends on: groups of channels or neurons, and where weights name them.

The units of a layer are numbered in its own weights (rows), in what norms them, and in the weights of the layers that
read it (columns). All of these may be reordered together, and before a ReLU or a pool scaled, one against the other,
and the net's answers stay (Hecht-Nielsen 1990). Layers whose outputs are added share their units. A net is run once to
find the groups; what the run cannot prove, :func:`kept` tries.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from harness.adversarial import evaluating
from harness.nets import Net

TOLERANCE = {"cpu": 1e-4, "cuda": 1e-2}
"""Largest difference of logits, as a share of the largest, that is taken for rounding; a GPU may round to TF32."""


@dataclass(frozen=True)
class Place:
    """Numbers of units along one dimension of a tensor of a net: ``[outer, units, inner]`` flattened.

    ``outer`` is 4 for the gates of an LSTM; ``inner`` counts the positions of an image that was flattened.
    """

    name: str
    dim: int
    outer: int = 1
    inner: int = 1

    def taken(self, tensor: Tensor, units: Tensor) -> Tensor:
        """``tensor`` with the ``units`` ``[m]`` int64 of this place alone, in their order."""
        split = tensor.unflatten(self.dim, (self.outer, -1, self.inner))
        taken: Tensor = split.index_select(self.dim + 1, units.to(tensor.device))
        return taken.flatten(self.dim, self.dim + 2)

    def scaled(self, tensor: Tensor, factors: Tensor) -> Tensor:
        """``tensor`` with each unit's numbers times its factor ``[units]``."""
        along = factors.to(tensor).repeat_interleave(self.inner).repeat(self.outer)
        return tensor * along.view(-1, *(1 for _ in tensor.shape[self.dim + 1 :]))


@dataclass(frozen=True)
class Norm:
    """The running statistics of a batch norm, by name, which take up a factor of what it reads."""

    mean: str
    variance: str
    epsilon: float


@dataclass(frozen=True)
class Group:
    """Units that are numbered alike wherever they are."""

    size: int
    rows: tuple[Place, ...]
    """Places of what makes the units, and norms them."""
    columns: tuple[Place, ...]
    """Places of what reads them."""

    def permute(self, net: Net, order: Tensor) -> None:
        """Put unit ``order[i]`` at the place of unit i, in place, for a permutation ``order`` ``[size]``."""
        tensors = _tensors(net)
        with torch.no_grad():
            for place in (*self.rows, *self.columns):
                tensors[place.name].copy_(place.taken(tensors[place.name], order))


@dataclass(frozen=True)
class Scale:
    """Units that may be scaled together: from a layer, or the norm after it, to what reads them."""

    size: int
    rows: tuple[Place, ...]
    columns: tuple[Place, ...]
    norms: tuple[Norm, ...]

    def apply(self, net: Net, factors: Tensor) -> None:
        """Multiply the units by ``factors`` ``[size]`` above 0, and divide what reads them, in place."""
        tensors = _tensors(net)
        with torch.no_grad():
            for norm in self.norms:  # a variance of almost 0 cannot shrink: epsilon is added to it
                variance = tensors[norm.variance]
                least = (norm.epsilon / (variance + norm.epsilon)).sqrt()
                factors = torch.maximum(factors.to(least), least)
            for norm in self.norms:
                variance = tensors[norm.variance]
                factor = factors.to(variance)
                tensors[norm.mean].mul_(factor)
                variance.add_(norm.epsilon).mul_(factor.square()).sub_(norm.epsilon).clamp_(min=0)
            for place in self.rows:
                tensors[place.name].copy_(place.scaled(tensors[place.name], factors))
            for place in self.columns:
                tensor = tensors[place.name]
                tensor.copy_(place.scaled(tensor, 1 / factors.to(tensor)))


def groups(net: Net, input_shape: Sequence[int]) -> list[Group]:
    """The groups of units whose order is free, in the order in which they first run. The classes are not among them."""
    return [
        Group(node.size, tuple(node.rows), tuple(node.columns))
        for node in dict.fromkeys(units.order.root() for units in _traced(net, input_shape).made)
        if node.is_free
    ]


def scales(net: Net, input_shape: Sequence[int]) -> list[Scale]:
    """The units whose size may be free: so far as only ReLUs, pools and sums come before what reads them."""
    return [
        Scale(node.size, tuple(node.rows), tuple(node.columns), tuple(node.norms))
        for node in dict.fromkeys(units.size.root() for units in _traced(net, input_shape).made)
        if node.is_free
    ]


def kept(net: Net, x: Tensor, change: Callable[[], None]) -> bool:
    """True if ``change()``, of the weights of ``net``, leaves its answers to ``x`` but for rounding; else they are put
    back as they were."""
    before = {name: tensor.clone() for name, tensor in _tensors(net).items()}
    with evaluating(net), torch.no_grad():
        known = net(x)
        change()
        rounding = TOLERANCE.get(known.device.type, 1e-4) * known.abs().max()
        if bool(((net(x) - known).abs() <= rounding).all()):
            return True
        for name, tensor in _tensors(net).items():
            tensor.copy_(before[name])
    return False


def _tensors(net: Net) -> dict[str, Tensor]:
    return {**dict(net.named_parameters()), **dict(net.named_buffers())}


# --- tracing ----------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Node:
    """Units of one number, or of one size; of those that turned out to be the same, the others lead to one."""

    size: int
    is_free: bool = True
    rows: list[Place] = field(default_factory=list)
    columns: list[Place] = field(default_factory=list)
    norms: list[Norm] = field(default_factory=list)
    same_as: _Node | None = None

    def root(self) -> _Node:
        return self if self.same_as is None else self.same_as.root()

    def join(self, other: _Node) -> None:
        """Make ``other`` the same; neither is free where their numbers differ."""
        ours, theirs = self.root(), other.root()
        if ours is theirs:
            return
        ours.is_free = ours.is_free and theirs.is_free and ours.size == theirs.size
        for name in ("rows", "columns", "norms"):
            getattr(ours, name).extend(getattr(theirs, name))
        theirs.same_as = ours


@dataclass(frozen=True)
class _Units:
    """The units of a tensor: their numbers, and their sizes."""

    order: _Node
    size: _Node

    def freeze(self) -> _Units:
        self.order.root().is_free = self.size.root().is_free = False
        return self

    def put(self, kind: Literal["rows", "columns"], *places: Place) -> None:
        """Add places of a layer that makes these units, or reads them."""
        for node in (self.order.root(), self.size.root()):
            getattr(node, kind).extend(places)


class _Tracer(TorchFunctionMode):
    """Follows the units of every tensor through a net, from the inputs on."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.names = {id(tensor): name for name, tensor in _tensors(net).items()}
        self.uses: Counter[str] = Counter()
        """Layers that compute with a tensor of the net, by its name."""
        self.made: list[_Units] = []
        self._units: dict[int, _Units] = {}
        self._alive: list[Tensor] = []

    def new(self, size: int) -> _Units:
        return self.add(_Units(_Node(size), _Node(size)))

    def add(self, units: _Units) -> _Units:
        self.made.append(units)
        return units

    def mark(self, tensor: Tensor, units: _Units) -> None:
        self._alive.append(tensor)  # its id stays its own
        self._units[id(tensor)] = units

    def known(self, tensor: Tensor) -> bool:
        return id(tensor) in self._units

    def of(self, tensor: Tensor) -> _Units:
        """The units of a tensor; those of one that was not made from the inputs are not free."""
        if not self.known(tensor):
            self.mark(tensor, self.new(tensor.shape[-1]).freeze())
        return self._units[id(tensor)]

    def named(self, *tensors: Tensor | None) -> list[str] | None:
        """The names of tensors of the net, counted as used; ``None`` where one of them is not the net's own."""
        names = [self.names.get(id(tensor), "") for tensor in tensors if tensor is not None]
        self.uses.update(names)
        return names if all(names) else None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        outputs = [each for each in tree_leaves(result) if isinstance(each, Tensor)]
        if func in _LAYERS:
            _LAYERS[func](self, outputs, *args, **(kwargs or {}))
        elif outputs:
            self._pass_on(
                func.__name__, [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)], outputs
            )
        return result

    def _pass_on(self, name: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        """Give the outputs of any other operation the units of its inputs, which are the same from then on."""
        known = [self._units[id(each)] for each in inputs if self.known(each)]
        if not known:
            return
        for other in known[1:]:
            known[0].order.join(other.order)
            known[0].size.join(other.size)
        if name in _MIXING or any(id(each) in self.names for each in inputs):
            known[0].freeze()
        for output in outputs:
            self.mark(output, known[0])


_MIXING = frozenset({"cat", "concat", "concatenate", "stack", "softmax", "log_softmax", "matmul", "bmm", "einsum"})
"""Operations that do not treat all units alike."""


def _weighs(
    tracer: _Tracer,
    outputs: Sequence[Tensor],
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *rest: Any,
    **named: Any,
) -> None:
    """A dense layer, or a convolution, whose last argument is its number of channel groups."""
    read, made = tracer.of(input), tracer.new(weight.shape[0])
    tracer.mark(outputs[0], made)
    names = tracer.named(weight, bias)
    size, parts = read.order.root().size, named.get("groups", rest[3] if len(rest) > 3 else 1)
    if names is None or weight.shape[1] % size or parts != 1:
        read.freeze()
        made.freeze()
        return
    read.put("columns", Place(names[0], 1, inner=weight.shape[1] // size))
    made.put("rows", *(Place(name, 0) for name in names))


def _norms(
    tracer: _Tracer,
    outputs: Sequence[Tensor],
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> None:
    """Batch norm: the units keep their numbers, and their sizes end."""
    read = tracer.of(input)
    made = tracer.add(_Units(read.order, _Node(read.order.root().size)))
    tracer.mark(outputs[0], made)
    statistics, factors = tracer.named(running_mean, running_var), tracer.named(weight, bias)
    if not statistics or factors is None or input.shape[1] != made.size.size:
        read.freeze()
        made.freeze()
        return
    read.order.root().rows.extend(Place(name, 0) for name in (*statistics, *factors))
    read.size.root().norms.append(Norm(statistics[0], statistics[1], eps))
    made.size.rows.extend(Place(name, 0) for name in factors)
    made.size.is_free = weight is not None and bias is not None


def _recurs(tracer: _Tracer, outputs: Sequence[Tensor], x: Tensor, states: Any, weights: Any, *rest: Any) -> None:
    """An LSTM of one layer in one direction, whose units may be reordered; any other stays as it is."""
    units = tracer.new(outputs[0].shape[-1])
    units.size.is_free = False
    for output in outputs:
        tracer.mark(output, units)
    names = tracer.named(*weights) if isinstance(weights, list | tuple) and len(weights) == 4 else None
    if names is None or weights[1].shape[0] != 4 * units.order.size or any(map(tracer.known, tree_leaves(states))):
        tracer.of(x).freeze()
        units.freeze()
        return
    read = tracer.of(x)
    read.put("columns", Place(names[0], 1, inner=weights[0].shape[1] // read.order.root().size))
    units.order.rows.extend(Place(name, 0, outer=4) for name in names)
    units.order.columns.append(Place(names[1], 1))


_LAYERS: Mapping[Any, Callable[..., None]] = {
    **dict.fromkeys((F.linear, torch.conv1d, torch.conv2d, torch.conv3d), _weighs),
    F.batch_norm: _norms,
    torch.lstm: _recurs,
}


def _traced(net: Net, input_shape: Sequence[int]) -> _Tracer:
    """The tracer after ``net`` has answered two random inputs."""
    tracer = _Tracer(net)
    first = next(net.parameters())
    x = torch.rand(2, *input_shape, generator=torch.Generator().manual_seed(0)).to(first)
    tracer.mark(x, tracer.new(x.shape[1]).freeze())
    with evaluating(net), torch.no_grad(), tracer:
        logits = net(x)
    tracer.of(logits).freeze()
    again = {name for name, count in tracer.uses.items() if count > 1}
    for units in tracer.made:
        for node in (units.order.root(), units.size.root()):
            if any(place.name in again for place in (*node.rows, *node.columns)):
                node.is_free = False
    return tracer
