"""Values that plugins are given and return: data, models behind an API, keys, counts.

Inputs are ``uint8`` ``[n, channels, height, width]`` (0 to 255) or ``float32`` of any shape ``[n, ...]``; every net
takes both (``uint8`` is scaled to 0..1). Labels are ``int64`` ``[n]``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias, TypedDict, Unpack

from harness.errors import Refused, Skip, require

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from harness.contracts import Dataset, Defense, InputSet
    from harness.nets import Net
    from harness.oracles import Oracle

Answers: TypeAlias = Literal["labels", "top-1", "probabilities"]
"""Answers of an oracle: the class; the class and its probability; all probabilities."""

Family: TypeAlias = Literal["none", "extraction", "removal", "detection", "evasion", "forgery"]
"""Families of attacks: what the attacker wants."""

Knowledge: TypeAlias = Literal["nothing", "scheme", "key"]
"""Knowledge of an attack about the defense: nothing; the scheme with its options, which is public; the key too."""

Protected: TypeAlias = Literal["model", "api"]
"""Things that a scheme protects: a model whose weights may be stolen; the owner's own API."""

Optimizer: TypeAlias = Literal["adam", "adamw", "sgd"]
"""Optimizers: Adam (Kingma and Ba 2015); AdamW, with decoupled weight decay (Loshchilov and Hutter 2019); stochastic
gradient descent with Nesterov momentum (Sutskever et al. 2013)."""

Schedule: TypeAlias = Literal["constant", "one-cycle", "cosine", "steps"]
"""Schedules of the learning rate over the steps of one training: see :func:`harness.engine.optimizers.rates`."""

Augment: TypeAlias = Literal["none", "crop", "crop-flip", "shift"]
"""Augmentations of training inputs, by up to an eighth of a side: crops, that is shifts of images down and right; crops
of which half are mirrored; shifts along the first side alone, the time of a spectrogram."""

Loss: TypeAlias = "Callable[[Net, Tensor, Tensor], Tensor | Mapping[str, Tensor]]"
"""``loss(net, x, y)``: a scalar, or scalars by name of which ``"loss"`` is minimised and the others become curves.

On a GPU it is called a few times, recorded, and replayed: each step must be the same operations on tensors. A loss that
counts its calls, or asks the host (``.item()``, ``if tensor``), belongs in a stream with ``capture=False``.
"""


# --- data -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Arrays:
    """A loaded data set, NumPy arrays on the CPU: inputs ``[n, ...]`` uint8 or float32, labels ``[n]`` int64."""

    x_train: NDArray[np.generic]
    y_train: NDArray[np.int64]
    x_test: NDArray[np.generic]
    y_test: NDArray[np.int64]


@dataclass(frozen=True)
class Gate:
    """A clean accuracy that a data set's own recipe reaches: unmarked models below it are weak, and flatter schemes."""

    accuracy: float
    """Mean test accuracy of unmarked models, above 0 and up to 1."""
    train: int
    """Number of training samples from which on it counts."""
    source: str
    """Measurement or publication that it rests on."""

    def __post_init__(self) -> None:
        require(0 < self.accuracy <= 1, f"a gate's accuracy must be above 0 and at most 1, not {self.accuracy}")
        require(self.train >= 1, f"a gate's train must be at least 1, not {self.train}")


@dataclass(frozen=True)
class Split:
    """Inputs and labels on the device. ``y`` is ``[n]`` int64, or ``[n, classes]`` float32 for soft labels.

    As a probe of a :class:`Key`: the owner's questions ``x``, and for each the label ``y`` that counts as a match.
    """

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return int(self.x.shape[0])

    def __add__(self, other: Split) -> Split:
        """These samples, then those of ``other``; both of one type and shape."""
        import torch

        return Split(torch.cat([self.x, other.x]), torch.cat([self.y, other.y]))

    def __getitem__(self, rows: slice | Tensor) -> Split:
        """The samples at ``rows``: ``split[10:]`` is all but the first ten, ``split[split.y > 0]`` those of a mask."""
        return Split(self.x[rows], self.y[rows])

    def of(self, label: int) -> Split:
        """The samples of class ``label``."""
        return self[self.y == label]

    def first_rows(self) -> Tensor:
        """The rows ``[m]`` int64, ascending, at which each input is for the first time."""
        import torch

        if not len(self):
            return torch.zeros(0, dtype=torch.int64, device=self.x.device)
        distinct, places = torch.unique(self.x.flatten(1), dim=0, return_inverse=True)
        rows = torch.arange(len(self), device=self.x.device)
        return rows.new_full((len(distinct),), len(self)).scatter_reduce(0, places, rows, "amin").sort().values

    def clone(self) -> Split:
        """A copy that shares no memory."""
        return Split(self.x.clone(), self.y.clone())

    def first(self, count: int) -> Split:
        """The first ``count`` samples, or all when there are fewer."""
        return self[:count]

    def answered(self) -> Split:
        """The samples that an API did not refuse: without a label of -1, or with NaN among the probabilities.

        Raises :class:`Skip` where it refused all of them: there is nothing to learn from.
        """
        kept = self.y >= 0 if self.y.ndim == 1 else ~self.y.isnan().any(dim=1)
        count = int(kept.sum())
        if not count and len(self):
            raise Skip(f"the API refused all {len(self)} queries: there is nothing to learn from")
        return self if count == len(self) else self[kept]

    def ask(self, suspect: Oracle) -> Count:
        """Count the answers of ``suspect`` that match the labels."""
        matches = int((suspect.labels(self.x) == self.y).sum())
        return Count(matches, len(self.x))


Probe = Split
"""The name of :class:`Split` in files written for version 0.1."""


@dataclass(frozen=True)
class Recipe:
    """Training recipe of the task's models, as an attacker knows it: the literature grants as much."""

    input_shape: tuple[int, ...]
    classes: tuple[str, ...]
    value_range: tuple[float, float]
    architecture: str
    epochs: int
    batch_size: int
    learning_rate: float
    augment: Augment = "none"
    optimizer: Optimizer = "adam"
    momentum: float = 0.9
    schedule: Schedule = "constant"
    warmup: float | None = None
    weight_decay: float = 0.0
    clip_norm: float = 0.0
    label_smoothing: float = 0.0
    normalize: bool = False
    initialization: int | None = None


@dataclass(frozen=True)
class Task:
    """The owner's side: the recipe, the data, and the triggers that :meth:`Defense.triggers` asked for."""

    dataset: Dataset
    train: Split
    holdout: Split
    ood: Split | None
    """Training samples of the dataset that the trigger recipe named, resized to this task's inputs."""
    triggers: Key


@dataclass(frozen=True)
class Pool:
    """The attacker's side. All but ``recipe`` and ``x`` is there only for an attack that declares to know it."""

    recipe: Recipe
    x: Tensor
    y: Tensor | None = None
    patch: int | None = None
    """Side of the owner's trigger patch, in pixels."""
    scheme: Defense | None = None
    """The scheme with its options, for an attack that knows it: see :attr:`PoolAttack.knows`."""
    key: Key | None = None
    """A copy of the owner's key, for an attack that knows it."""

    def labels(self) -> Tensor:
        """The labels, for an attack that declared ``labelled``. Raises :class:`Refused` for any other."""
        if self.y is None:
            raise Refused("the attacker's pool has no labels: declare `labelled = True`")
        return self.y

    def side(self) -> int:
        """The side of the owner's patch, for an attack that declared ``knows_patch``. Raises :class:`Skip` where such a
        square does not fit the inputs."""
        side = self.patch or 0
        if not 1 <= side <= min(self.x.shape[2:]):
            raise Skip(f"a patch of side {side} does not fit the inputs")
        return side


# --- training ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stream:
    """A source of batches for :meth:`Context.train`.

    A batch takes ``batch_size / len(parts)`` samples from each of ``parts``, in their order. The first stream of a
    training sets the length of an epoch; of each other stream one batch follows every ``every`` batches of the first.
    Raises ``ValueError`` for ``shares`` that do not fit.
    """

    parts: tuple[Split, ...]
    batch_size: int
    loss: Loss | None = None
    """``None`` is the mean cross-entropy, of hard labels with the training's label smoothing."""
    every: float = 1.0
    shuffle: bool = True
    limit: int | None = None
    """Use only the first so many batches of an unshuffled pass, the same in each epoch."""
    augment: bool = False
    """Augment the first part's inputs as the recipe says; triggers are not, since they are verified as they are."""
    capture: bool = True
    """Record the step on a GPU and replay it. Not for a loss whose Python does something else from step to step."""
    shares: tuple[int, ...] = ()
    """Samples of each part in a batch, ``batch_size`` together; by default equal shares of it. So task batches may hold
    a few triggers each."""
    statistics: Literal["own", "first"] | None = None
    """Statistics by which batch norm normalises a batch: its own, which move the running ones; or those of the latest
    batch of the first stream, as the net is now, and nothing moves. By default its own in the first stream of a
    training, and the first's in others: triggers are asked among the task's inputs."""
    summed: bool = False
    """True for a loss that is a sum over the batch. Adam does not see its size; under ``sgd`` the gradient of what the
    recipe's optimizer trains is divided by the number of samples."""

    def __post_init__(self) -> None:
        fits = len(self.shares) == len(self.parts) and min(self.shares, default=0) > 0
        if self.shares and not (fits and sum(self.shares) == self.batch_size):
            raise ValueError(
                f"shares={self.shares} must be a positive number for each of {len(self.parts)} parts, "
                f"{self.batch_size} together"
            )


class Optimization(TypedDict, total=False):
    """Settings of one training, with the names and bounds of a dataset's options. ``None`` is the recipe's value."""

    optimizer: Optimizer | None
    learning_rate: float | None
    """The peak of the schedule."""
    momentum: float | None
    """Nesterov momentum of ``sgd``, 0 to below 1."""
    schedule: Schedule | None
    """Curve of the rate over the steps of this training alone: three epochs of ``one-cycle`` are a whole cycle."""
    warmup: float | None
    """Share of the steps in which the rate rises, 0 to 1."""
    weight_decay: float | None
    """L2 decay of ``adam`` and ``sgd``, decoupled of ``adamw``; not applied to biases and norms."""
    clip_norm: float | None
    """Largest L2 norm of the gradient of all trained parameters together; 0 is without limit."""
    label_smoothing: float | None
    """Share of hard labels that is spread over all classes, 0 to 1, in streams without a loss of their own."""


class Context(ABC):
    """Means that the harness lends a plugin while it works: never build a loop of epochs, nor set a global seed."""

    device: torch.device
    generator: torch.Generator
    """On the CPU, seeded for this stage: draw from it and from nothing else."""

    @property
    @abstractmethod
    def epochs(self) -> int:
        """Epochs of the recipe that are left: without those of the clean model where :meth:`start` gives it."""

    @abstractmethod
    def build(self) -> Net:
        """A freshly initialised net, of the architecture that the plugin declared or the dataset's recipe names."""

    @abstractmethod
    def start(self) -> Net:
        """A copy of the clean model where the plugin declared ``from_clean``, else :meth:`build`.

        For an attack that declared ``pretrained_on``, a net whose layers but the last are those of that set's net.
        """

    @abstractmethod
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
        """Train ``net`` in place and return it.

        ``optimization`` replaces settings of the recipe: ``optimizer="sgd", learning_rate=0.05, schedule="steps"``.
        ``parameters`` are the ones that this optimizer trains (all by default, none if empty); ``optimizers`` step
        further tensors, such as a learned temperature, by the gradient of the same loss.

        Raises :class:`UsageError` for settings that there are not or that are out of bounds, and :class:`PluginError`
        where the loss is no longer finite.
        """

    @abstractmethod
    def stream(self, split: Split, loss: Loss | None = None) -> Stream:
        """``split`` in shuffled batches of the recipe's size, augmented as the recipe says."""

    @abstractmethod
    def predict(self, net: nn.Module, x: Tensor) -> Tensor:
        """Logits ``[n, classes]`` of ``net`` in evaluation mode, in batches, without gradients."""

    @abstractmethod
    def activation_frequencies(self, net: Net, x: Tensor) -> dict[str, Tensor]:
        """Share ``[units]`` of inputs (and positions) on which each unit is above 0, by hidden layer."""


# --- verification -----------------------------------------------------------------------------------------------------


def classes_of(logits: Tensor) -> Tensor:
    """The class ``[n]`` int64 that each row of ``logits`` ``[n, classes]`` answers; -1 for a row of NaN, a refusal."""
    return logits.argmax(dim=1).masked_fill(logits.isnan().any(dim=1), -1)


@dataclass(frozen=True)
class Key:
    """The owner's secret: tensors only.

    The probe names are the field's: ``trigger`` (inputs trained on), ``held_out`` (triggers never trained on) and
    ``control`` (the same question asked where no mark should answer, such as the untriggered sources).
    """

    probes: Mapping[str, Split] = field(default_factory=dict)
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    """Further secrets, such as a message or a projection; ``mask`` and ``target`` are compared with detections."""

    @property
    def trigger(self) -> Split:
        """The trigger set that the victim is trained on."""
        return self.probes["trigger"]

    def clone(self) -> Key:
        """A copy that shares no memory."""
        probes = {name: probe.clone() for name, probe in self.probes.items()}
        return Key(probes, {name: tensor.clone() for name, tensor in self.tensors.items()})


@dataclass(frozen=True)
class Marked:
    """Result of :meth:`Defense.embed`: the victim and the key."""

    net: Net
    key: Key


@dataclass(frozen=True)
class Count:
    """``matches`` of ``trials`` verification queries (or bits) answered as the key says."""

    matches: int
    trials: int


SCORED = 10**9
"""Trials of a score in tables: a score of 0.25 is stored as a quarter of so many matches."""


@dataclass(frozen=True)
class Score:
    """A statistic that is no count, for the place of one: of two models the likelier copy has the larger one.

    It is ranked among the scores of unmarked models, by the rank test alone: a score has no number of queries behind
    it. Its scale decides margins: 1 is the most that the owner's own model can give.
    """

    value: float
    """0 to 1; a p-value ``p`` of innocence as ``1 - p``, a correlation ``r`` as ``(1 + r) / 2``."""


@dataclass(frozen=True)
class Evidence:
    """Counts, or scores, by probe name."""

    counts: Mapping[str, Count | Score]


@dataclass(frozen=True)
class Detection:
    """Findings of a detector. Finding nothing is a result: a score, and ``None`` elsewhere."""

    score: float
    threshold: float
    """The detector's own threshold: a score above it means that it calls the model marked."""
    suspected_class: int | None = None
    suspected_source: int | None = None
    """The only class whose inputs the recovered trigger moves, where the detector looked for one."""
    mask: Tensor | None = None
    """Suspected place of the trigger, ``[height, width]``, 0 or more: larger is more suspicious."""
    pattern: Tensor | None = None
    """The recovered trigger ``[channels, height, width]``, in the data's range."""
    measures: Sequence[Measure] = ()
    """Further rows of the tables: norms by class, steps done, and the like."""


@dataclass(frozen=True)
class Measure:
    """Numbers for the table ``measurements``: one row each."""

    quantity: str
    values: Tensor
    """``[n]``: the number of a value within is its ``index``."""
    layer: str = ""
    group: str = ""
    """Inputs that it is about, where there are several: ``trigger``, ``task``, a class."""


# --- sets of inputs --------------------------------------------------------------------------------------------------


def is_published(cls: type[InputSet]) -> bool:
    """True where the class that has the ``load`` of ``cls``, or one that derives from it, says ``published = True``."""
    for base in cls.__mro__:
        if "published" in vars(base):
            return bool(vars(base)["published"])
        if "load" in vars(base):
            return False
    return False


def needs_images(dataset: InputSet, side: int = 1) -> str | None:
    """Reason to skip ``dataset`` unless its inputs are images of at least ``side`` x ``side`` pixels: for `skip`."""
    shape = dataset.input_shape
    if len(shape) == 3 and min(shape[1:]) >= side:
        return None
    least = f" of at least {side} x {side}" if side > 1 else ""
    return f"needs images{least}, inputs are {shape}"
