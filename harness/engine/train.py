"""The training engine: data on the device, batches by index, no host synchronisation within an epoch.

Every net of the harness is trained here. A plugin describes its batches as :class:`harness.Stream` and calls
:meth:`harness.Context.train`; it never loops over epochs.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from math import isfinite
from typing import Any, Literal, TypeAlias, TypeVar, Unpack

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from harness import losses, nets
from harness.adversarial import evaluating
from harness.contracts import Architecture, Context, Loss, Optimization, Recipe, Split, Stream
from harness.engine.batches import Source, schedule
from harness.engine.cuda_graphs import Captured, Recorder, Step, recording
from harness.engine.memo import Recalling, SharedInputs
from harness.engine.norms import borrows, moving_norms, normalised_as
from harness.engine.optimizers import RecipeOptimizer, Stepping, changed, words_of
from harness.engine.profile import NoTrace, Trace
from harness.errors import PluginError
from harness.nets import Net, seeded

Precision: TypeAlias = Literal["fp32", "tf32", "bf16"]
"""Numbers of a training: float32; on a GPU with products in TF32; or autocast to bfloat16. Answers never are."""

T = TypeVar("T")


@dataclass
class Counts:
    """Samples that a stage's nets saw: what "nothing is computed twice" is checked by."""

    trained: int = 0
    """Through training steps, each as often as it was shown."""
    evaluated: int = 0
    """Through nets in evaluation mode."""
    recalled: int = 0
    """Not evaluated, since an earlier stage had been told the same."""


@dataclass
class Engine(Context):
    """The context that a stage lends its plugin: see :class:`harness.Context`."""

    device: torch.device
    generator: torch.Generator
    recipe: Recipe
    """The public recipe: an attack is lent this engine too."""
    architecture: Architecture
    architecture_text: str
    clean: Net | None = None
    """The clean model, for plugins that declared ``from_clean``."""
    source: Net | None = None
    """A net of another data set, for attacks that declared ``pretrained_on``."""
    moments: tuple[Tensor, Tensor] | None = None
    """Mean and SD of the inputs that the stage trains on, where the recipe normalises: of an attack its pool's."""
    pretrained: int = 0
    """Epochs that the clean model was trained for."""
    precision: Precision = "tf32"
    capture: bool = True
    """Capture steps where the device can: see :mod:`harness.engine.cuda_graphs`."""
    lent: Recalling | None = None
    """Memory of the model and the inputs that a white-box attack was lent: what is known is not computed again."""
    warn: Callable[[str], None] = lambda message: None
    trace: Trace = field(default_factory=NoTrace)
    counts: Counts = field(default_factory=Counts)
    curves: list[dict[str, list[float]]] = field(default_factory=list)
    """One entry a training: means over each epoch's batches, by quantity."""
    watch: bool = False
    """Keep the weights after each epoch, for the harness to measure when the plugin is done."""
    snapshots: list[tuple[Net, list[dict[str, Tensor]]]] = field(default_factory=list)
    """One entry a training: the net, and its weights after each epoch."""

    @property
    def epochs(self) -> int:
        return self.recipe.epochs - self.pretrained

    def build(self) -> Net:
        shape, classes, shared = self.recipe.input_shape, len(self.recipe.classes), self.recipe.initialization
        with seeded(self.generator if shared is None else torch.Generator().manual_seed(shared)):
            net = nets.build(self.architecture, shape, classes, self.moments)
        net.description = {
            "architecture": self.architecture_text,
            "input_shape": list(shape),
            "classes": classes,
            **({"normalize": True} if self.moments else {}),
        }
        self.architecture.fill(net)
        return on_device(net, self.device)

    def start(self) -> Net:
        if self.clean is not None:
            return clone(self.clean)
        net = self.build()
        if self.source is not None:
            weights = self.source.state_dict().items()
            kept = {name: weight for name, weight in weights if not name.startswith(f"{net.last}.")}
            net.load_state_dict(kept, strict=False)
        return net

    def stream(self, split: Split, loss: Loss | None = None) -> Stream:
        return Stream((split,), self.recipe.batch_size, loss, augment=True)

    def predict(self, net: nn.Module, x: Tensor) -> Tensor:
        logits: Tensor = self.known(LOGITS, net, x, self.lent)
        return logits

    def activation_frequencies(self, net: Net, x: Tensor) -> dict[str, Tensor]:
        shares: dict[str, Tensor] = self.known(FREQUENCIES, net, x, self.lent)
        return shares

    def known(self, what: str, net: nn.Module, x: Tensor, lent: Recalling | None) -> Any:
        """The answer to one of :data:`QUESTIONS`, counted; not computed again where ``lent`` remembers it."""
        compute = partial(QUESTIONS[what], net, x)
        with self.trace.span(what, samples=len(x)):
            known, value = lent.recall(what, net, x, compute) if lent else (False, compute())
        self.counts.recalled += len(x) * known
        self.counts.evaluated += len(x) * (not known)
        return value

    def train(
        self,
        net: Net,
        streams: Sequence[Stream],
        epochs: int,
        *,
        parameters: Sequence[nn.Parameter] | None = None,
        optimizers: Sequence[torch.optim.Optimizer] = (),
        **optimization: Unpack[Optimization],
    ) -> Net:
        recipe = changed(self.recipe, optimization)
        trained = list(net.parameters()) if parameters is None else list(parameters)
        stepped = [each for optimizer in optimizers for group in optimizer.param_groups for each in group["params"]]
        self.curves.append({})
        if self.watch:
            self.snapshots.append((net, []))
        with ExitStack() as stack:
            stack.enter_context(_trained_alone(net, [*trained, *stepped]))
            stack.enter_context(seeded(self.generator, self.device))  # dropout draws
            recorder = stack.enter_context(recording(self.device))
            stack.enter_context(self.trace.span("train", epochs=epochs))
            stack.enter_context(self.trace.operations())
            net.train()
            moving, frozen = moving_norms(net, {id(each) for each in (*trained, *stepped)})
            for norm in frozen:
                stack.enter_context(evaluating(norm))
            steps = epochs * len(list(schedule(streams)))
            stepping: list[Stepping] = [RecipeOptimizer(recipe, trained, steps)] if trained else []
            stepping += optimizers
            training = _Training(
                self, recipe, net, streams, trained, stepping, moving, recorder if self.capture else None
            )
            _check_batch_norm(net, training.sources[0])
            for number in range(1, epochs + 1):
                with self.trace.span(f"epoch {number}"):
                    self._ended(net, training.epoch(number))
            self.counts.trained += epochs * training.samples
        return net

    def _ended(self, net: Net, means: Mapping[str, float]) -> None:
        """An epoch ended."""
        for name, mean in means.items():
            self.curves[-1].setdefault(name, []).append(mean)
        if self.watch:
            self.snapshots[-1][1].append({name: tensor.clone() for name, tensor in net.state_dict().items()})


@contextmanager
def _trained_alone(net: Net, parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Only ``parameters`` need gradients within: of a frozen one its share of the backward pass is not computed."""
    chosen = {id(p) for p in parameters}
    frozen = [p for p in net.parameters() if id(p) not in chosen and p.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        net.eval()
        for parameter in net.parameters():
            parameter.grad = None  # memory, and on a GPU a captured step's own
        for parameter in frozen:
            parameter.requires_grad_(True)


def _check_batch_norm(net: Net, source: Source) -> None:
    """Raise :class:`PluginError` for batches of one sample, by which batch norm would answer the same to any input."""
    if source.size == 1 and any(isinstance(each, _BatchNorm) and each.training for each in net.modules()):
        raise PluginError("batch norm needs two samples in a batch, and a batch has one: choose another batch_size")


class _Training:
    """One training: the sources of its batches, and a step for each stream."""

    def __init__(
        self,
        engine: Engine,
        recipe: Recipe,
        net: Net,
        streams: Sequence[Stream],
        trained: Sequence[nn.Parameter],
        optimizers: Sequence[Stepping],
        norms: Sequence[_BatchNorm],
        recorder: Recorder | None,
    ) -> None:
        self.engine, self.net, self.trained, self.optimizers = engine, net, trained, optimizers
        self.borrowing = [norms if borrows(stream, number) else () for number, stream in enumerate(streams)]
        """Norms that borrow the first stream's statistics, by stream."""
        self.schedule = list(schedule(streams))
        self.loss = losses.smoothed(recipe.label_smoothing)
        self.summed = {number for number, stream in enumerate(streams) if stream.summed and recipe.optimizer == "sgd"}
        """Streams whose gradients are divided by the samples of a batch."""
        self.sources = [
            Source(stream, self.schedule.count(number), recipe.augment if stream.augment else "none")
            for number, stream in enumerate(streams)
        ]
        self.samples = sum(source.size * source.count for source in self.sources)
        """Samples an epoch."""
        self.sums = _Sums([source.count for source in self.sources])
        self.steps = [self._prepared(number, stream, recorder) for number, stream in enumerate(streams)]

    def _prepared(self, number: int, stream: Stream, recorder: Recorder | None) -> Step:
        step = partial(self._step, number, stream.loss or self.loss)
        return Captured(step, recorder, self.engine.warn) if recorder and stream.capture else step

    def epoch(self, epoch: int) -> dict[str, float]:
        """One pass over the first stream, with the others' batches between; the means of what was measured.

        Raises :class:`PluginError` where a loss was not finite, with the number of the step in the whole training.
        """
        for source in self.sources:
            source.shuffle(self.engine.generator)
        for number in self.schedule:
            self.steps[number]()
            self.engine.trace.stepped()
        means = self.sums.means()
        if not all(isfinite(mean) for name, mean in means.items() if name.partition(":")[0] == "loss"):
            step = (epoch - 1) * len(self.schedule) + self.sums.finite(self.schedule) + 1
            raise PluginError(
                f"the training diverged: its loss is not finite at step {step}, in epoch {epoch} "
                f"({words_of(self.optimizers)}): try a smaller rate, a warmup or a clip_norm"
            )
        return means

    def _step(self, number: int, loss: Loss) -> None:
        """One step of every optimizer by the gradient of ``loss`` on the next batch of a stream."""
        x, y = self.sources[number].batch()
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        with self._autocast(), self._normalised(number):
            value = loss(self.net, x, y)
        values = value if isinstance(value, Mapping) else {"loss": value}
        values["loss"].backward()
        if number in self.summed:
            gradients = [each.grad for each in self.trained if each.grad is not None]
            torch._foreach_div_(gradients, self.sources[number].size)
        for optimizer in self.optimizers:
            optimizer.step()
        self.sums.add(number, values, self.sources[number].place)

    def _normalised(self, number: int) -> AbstractContextManager[None]:
        norms = self.borrowing[number]
        return normalised_as(self.sources[0].latest(), self.net, norms) if norms else nullcontext()

    def _autocast(self) -> torch.autocast | nullcontext[None]:
        if self.engine.precision != "bf16":
            return nullcontext()
        # Without its cache of cast weights, which a captured step would keep from the step that recorded it, and which
        # saves nothing where a step casts each weight once (six nets on a CPU: 0.98 to 1.01 of the time).
        return torch.autocast(self.engine.device.type, torch.bfloat16, cache_enabled=False)


class _Sums:
    """Sums of a training's quantities: on the device, until the epoch's end reads them all at once."""

    def __init__(self, steps: Sequence[int]) -> None:
        self._steps = steps
        """Steps of each stream in an epoch."""
        self._totals: dict[str, Tensor] = {}
        self._named: dict[str, set[int]] = {}
        """The streams that have a quantity of that name."""
        self._losses: dict[int, Tensor] = {}
        """The loss of each step of a stream's epoch, counted from 1."""

    def add(self, number: int, values: Mapping[str, Tensor], place: Tensor) -> None:
        """Add what a step of stream ``number`` measured: its loss is ``loss``, of a later stream ``loss:1``.

        ``place`` ``[1]`` is the number of the stream's batch in the epoch, from 1 on.
        """
        loss = values["loss"].detach()
        if number not in self._losses:
            self._losses[number] = torch.zeros(self._steps[number] + 1, dtype=loss.dtype, device=loss.device)
        self._losses[number].scatter_(0, place, loss.view(1))
        for name, value in values.items():
            key = f"loss:{number}" if name == "loss" and number else name
            if key not in self._totals:
                self._totals[key] = torch.zeros((), dtype=torch.float32, device=value.device)
            self._totals[key] += value.detach()
            self._named.setdefault(key, set()).add(number)

    def means(self) -> dict[str, float]:
        """The mean of each quantity over the steps that have it; the sums begin again."""
        read = torch.stack(list(self._totals.values())).tolist()  # the one time that the host waits
        for total in self._totals.values():
            total.zero_()
        counts = [sum(self._steps[number] for number in self._named[name]) for name in self._totals]
        return {name: total / count for name, total, count in zip(self._totals, read, counts, strict=True)}

    def finite(self, schedule: Sequence[int]) -> int:
        """The number of steps of the last epoch, whose streams are ``schedule``, before the first loss that was not
        finite."""
        losses = {number: iter(each[1:].tolist()) for number, each in self._losses.items()}
        return next(i for i, number in enumerate(schedule) if not isfinite(next(losses[number])))


def set_matmul_precision(precision: Precision) -> None:
    """Let this process's GPUs multiply in TF32, or not. For a process that the harness owns."""
    # Not `torch.set_float32_matmul_precision`, which speaks of CPUs too.
    torch.backends.cuda.matmul.allow_tf32 = precision != "fp32"
    torch.backends.cudnn.allow_tf32 = precision != "fp32"


def predict(net: nn.Module, x: Tensor) -> Tensor:
    """Logits ``[n, classes]`` of ``net`` in evaluation mode, in batches, without gradients."""
    training = net.training
    net.eval()
    with torch.inference_mode():
        logits = torch.cat([net(part) for part in nets.parts(x)])
    if training:
        net.train()
    return logits.clone()


LOGITS, FREQUENCIES = "logits", "activation frequencies"
QUESTIONS: dict[str, Callable[[Any, Tensor], Any]] = {LOGITS: predict, FREQUENCIES: nets.activation_frequencies}
"""Questions about a net on some inputs, whose answers depend on these alone, and are remembered."""


def remembered(shared: SharedInputs) -> Callable[[str, nn.Module, Tensor], tuple[bool, Any] | None]:
    """The function behind :class:`harness.engine.memo.Lent`; ``None`` is of another net, or of other inputs."""

    def ask(what: str, net: nn.Module, x: Tensor) -> tuple[bool, Any] | None:
        if not shared.holds(net, x):
            return None
        return shared.find(what, x, partial(QUESTIONS[what], shared.net, x))

    return ask


def on_device(net: Net, device: torch.device) -> Net:
    """``net`` moved to ``device``, its convolutions in its memory layout."""
    return net.to(device, memory_format=net.layout)  # type: ignore[call-overload, no-any-return]  # unknown to the stubs


_HELD = (dict, set, OrderedDict)


def clone(net: Net) -> Net:
    """A copy that shares nothing with ``net``."""
    # A module has a dozen dictionaries of hooks, all empty as a rule: copying those took half of the time.
    values = (value for module in net.modules() for value in vars(module).values())
    empty: dict[int, Any] = {id(value): type(value)() for value in values if type(value) in _HELD and not value}
    return copy.deepcopy(net, empty)
