"""The contracts: what a dataset, a defense, an attack and an architecture are, and what each of them is given.

A plugin is a frozen dataclass: its fields are its hyperparameters and, by that, its options on the command line
(``ewe[weight=64]``). Constructing one only checks the values (:func:`harness.require`); the harness calls its methods.

The threat model is in the types. An attack gets an :class:`Oracle` or a copy of the weights, and the *attacker's*
:class:`Pool`. There is no argument through which it could see a :class:`Key`, the test set, or labels that it did not
declare. A defense gets its :class:`Task`, and never the test set either.

Inputs are ``uint8`` ``[n, channels, height, width]`` (0 to 255) or ``float32`` of any shape ``[n, ...]``; every net
takes both (``uint8`` is scaled to 0..1). Labels are ``int64`` ``[n]``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

from harness.errors import DataError, Refused, require

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from harness.nets import Net

Answers: TypeAlias = Literal["labels", "top-1", "probabilities"]
"""What an oracle answers: the class; the class and its probability; all probabilities."""

Family: TypeAlias = Literal["none", "extraction", "removal", "detection", "evasion", "forgery"]

Loss: TypeAlias = "Callable[[Net, Tensor, Tensor], Tensor | Mapping[str, Tensor]]"
"""``loss(net, x, y)``: a scalar, or scalars by name of which ``"loss"`` is minimised and the others become curves.

On a GPU it is called a few times, recorded, and replayed: each step must be the same operations on tensors. A loss that
counts its calls, or asks the host (``.item()``, ``if tensor``), belongs in a stream with ``capture=False``.
"""


# --- data -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Arrays:
    """What a dataset loads: NumPy arrays on the CPU. Inputs ``[n, ...]`` uint8 or float32, labels ``[n]`` int64."""

    x_train: NDArray[np.generic]
    y_train: NDArray[np.int64]
    x_test: NDArray[np.generic]
    y_test: NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """Inputs and labels on the device. ``y`` is ``[n]`` int64, or ``[n, classes]`` float32 for soft labels."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return int(self.x.shape[0])

    def of(self, label: int) -> Split:
        """The samples of class ``label``."""
        chosen = self.y == label
        return Split(self.x[chosen], self.y[chosen])

    def clone(self) -> Split:
        """A copy that shares no memory."""
        return Split(self.x.clone(), self.y.clone())

    def first(self, count: int) -> Split:
        """The first ``count`` samples, or all when there are fewer."""
        return Split(self.x[:count], self.y[:count])


# --- plugins ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plugin(ABC):
    """What every plugin is: a frozen dataclass with a name, and the paper that it comes from."""

    name: ClassVar[str]
    reference: ClassVar[str] = ""
    arms: ClassVar[tuple[str, ...]] = ("",)
    """The options (``"mode=ftll"``) that a bare glob of names stands for: the arms that a comparison needs."""


@dataclass(frozen=True)
class InputSet(Plugin):
    """Inputs to draw from, by class: out-of-distribution triggers, an attacker's pool. Not a task of its own."""

    input_shape: ClassVar[tuple[int, ...]]
    classes: ClassVar[tuple[str, ...]]
    available: ClassVar[int]
    """Number of training samples that the set has."""
    value_range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    """Smallest and largest value of an input as nets see it (``uint8`` is scaled to 0..1): what can be sent."""

    @abstractmethod
    def load(self, root: Path) -> Arrays:
        """Read the whole set below the folder ``root``, checked against its own checksums.

        A set that is no task may have no test samples. Raises :class:`harness.DataError` when files are missing or are
        not this set's.
        """

    def fetch(self, root: Path) -> None:
        """Download the set below ``root``. By default there is nothing to fetch it from."""
        raise DataError(f"{self.name} cannot be downloaded")


@dataclass(frozen=True)
class Dataset(InputSet):
    """A classification task and its training recipe (the fields).

    Subclasses give other defaults to the fields, and implement :meth:`load`.
    """

    train: int = 1000
    """Number of the owner's training samples, balanced over the classes."""
    holdout: int = 100
    """Number of the owner's samples that no model is trained on: the source of held-out triggers and controls."""
    test: int = 0
    """Number of test samples used; 0 is all."""
    architecture: str = "cnn"
    epochs: int = 10
    """Epochs of every full training: null models, victims and surrogates."""
    pretrain: int = 5
    """Epochs of the clean model that a defense may start from; its victim then gets ``epochs - pretrain`` more."""
    batch_size: int = 128
    learning_rate: float = 1e-3
    source: int = 1
    """Source class of a source-target watermark."""
    target: int = 7
    """Target class of a watermark."""
    patch: int = 3
    """Side of the trigger patch, in pixels."""
    corners: Literal["one", "two"] = "one"
    """A patch in the corner: at the bottom right, or at the top left as well (the EWE paper's for speech)."""
    placement: Literal["gradient", "corner"] = "gradient"
    """Where EWE puts the patch by default: by the SNNL's gradient, or in the corner."""
    origin: Literal["in-distribution", "out-of-distribution"] = "in-distribution"
    """Where trigger images come from by default: the source class, or :attr:`ood`."""
    refine: bool = False
    """Whether triggers are refined by default until a clean model stays silent (see ``harness/triggers.py``)."""
    ood: str = ""
    """The dataset that out-of-distribution inputs come from; none when empty."""
    ood_class: int | None = 0
    """The class of :attr:`ood` that serves as trigger data; ``None`` is all of them."""
    augment: Literal["none", "crop-flip"] = "none"
    """Of the task's inputs while training: random crops of the input padded by an eighth, and mirror images."""
    watch: bool = False
    """Measure accuracy, success and SNNL after each epoch too: rows of the table ``curves``, and some seconds more."""

    def __post_init__(self) -> None:
        for name in ("train", "holdout", "epochs", "pretrain", "batch_size", "patch"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1, not {getattr(self, name)}")
        require(self.test >= 0, f"test must be at least 0, not {self.test}")
        require(self.learning_rate > 0, f"learning_rate must be above 0, not {self.learning_rate}")
        require(self.pretrain < self.epochs, f"pretrain={self.pretrain} must be below epochs={self.epochs}")
        count = len(self.classes)
        for name in ("source", "target"):
            value = getattr(self, name)
            require(0 <= value < count, f"{name}={value} is no class: {count} classes, 0 to {count - 1}")
        require(self.source != self.target, f"source and target are both {self.source}")
        asked = self.train + self.holdout
        require(
            asked <= self.available,
            f"train + holdout = {asked}, but {self.name} has {self.available} training samples",
        )

    def public(self) -> Recipe:
        """What an attacker is granted: all but the owner's choice of classes and trigger."""
        return Recipe(
            self.input_shape,
            self.classes,
            self.value_range,
            self.architecture,
            self.epochs,
            self.batch_size,
            self.learning_rate,
            self.augment,
        )


@dataclass(frozen=True)
class Recipe:
    """How models of the task are trained, as an attacker knows it: the literature grants as much."""

    input_shape: tuple[int, ...]
    classes: tuple[str, ...]
    value_range: tuple[float, float]
    architecture: str
    epochs: int
    batch_size: int
    learning_rate: float
    augment: Literal["none", "crop-flip"] = "none"


@dataclass(frozen=True)
class Architecture(Plugin):
    """Builds nets. The recipe of a dataset names one; an attack may name another."""

    @abstractmethod
    def build(self, input_shape: tuple[int, ...], classes: int) -> Net:
        """A freshly initialised net for inputs ``[n, *input_shape]`` and ``classes`` classes."""

    def skip(self, dataset: Dataset) -> str | None:
        """Why this architecture cannot take ``dataset``'s inputs; ``None`` if it can."""
        return None


@dataclass(frozen=True)
class TriggerRecipe(ABC):
    """How trigger inputs are made. Schemes whose recipes are equal share the very same triggers.

    A frozen dataclass as plugins are: its fields, with the source of its module, address the stage.
    """

    @property
    def from_clean(self) -> bool:
        """Whether making the triggers needs the clean model: :meth:`Context.start` then gives a copy of it."""
        return True

    @property
    def data(self) -> str:
        """Another dataset whose inputs are needed: its use, ``"ood"`` for the task's own partner, or empty."""
        return ""

    def skip(self, dataset: Dataset) -> str | None:
        """Why there can be no such triggers on ``dataset``; ``None`` if there can."""
        return None

    @abstractmethod
    def make(self, task: Task, ctx: Context) -> Key:
        """The key, or the part of it that does not depend on the marked model."""


@dataclass(frozen=True)
class Defense(Plugin):
    """An ownership watermark: it embeds a mark, and verifies whether a suspect carries it.

    It returns evidence, never a verdict: thresholds, p-values and ranks are the harness's, the same for all schemes.
    """

    @property
    def from_clean(self) -> bool:
        """Whether embedding starts from the clean model, which all such schemes share: see :meth:`Context.start`."""
        return False

    def triggers(self, dataset: Dataset) -> TriggerRecipe | None:
        """The recipe of its triggers, made before :meth:`embed` and found in ``task.triggers``; or ``None``."""
        return None

    def skip(self, dataset: Dataset) -> str | None:
        """Why this scheme cannot mark a model of ``dataset``; ``None`` if it can."""
        return None

    @abstractmethod
    def embed(self, task: Task, ctx: Context) -> Marked:
        """Train the victim and make its key."""

    def verify(self, suspect: Oracle, key: Key) -> Evidence:
        """Ask ``suspect`` the key's probes and count the answers that the key names."""
        return Evidence({name: probe.ask(suspect) for name, probe in key.probes.items()})

    def serve(self, inputs: Tensor, logits: Tensor, key: Key) -> Tensor:
        """What the owner's API answers instead of ``logits`` ``[n, classes]``. An active scheme overrides it."""
        return logits


@dataclass(frozen=True)
class WhiteBoxDefense(Defense):
    """A scheme that verifies from a suspect's weights: it overrides :meth:`verify_weights`."""

    @abstractmethod
    def verify_weights(self, suspect: nn.Module, key: Key) -> Evidence:
        """Read the mark from ``suspect``'s weights: matched and tried bits, say, per probe."""


@dataclass(frozen=True)
class Attack(Plugin):
    """An attack on a marked model. Deriving from this class itself means: leave the model as it is."""

    family: ClassVar[Family]

    def skip(self, dataset: Dataset) -> str | None:
        """Why this attack cannot be run on ``dataset``; ``None`` if it can."""
        return None


@dataclass(frozen=True)
class PoolAttack(Attack):
    """What the attacks that do something have in common: the attacker's own data."""

    labelled: ClassVar[bool] = False
    """Whether the attacker has the pool's true labels. Declared here, or ``pool.y`` is ``None``."""
    knows_patch: ClassVar[bool] = False
    """Whether the attacker knows the shape of patch triggers. Declared here, or ``pool.patch`` is ``None``."""

    pool: str = "same"
    """The attacker's inputs: the owner's own (``same``), as many others (``disjoint``), ``ood``, or a dataset."""

    @property
    def architecture_built(self) -> str:
        """The architecture of the nets that it builds; empty is the dataset's own."""
        return ""


@dataclass(frozen=True)
class BlackBoxAttack(PoolAttack):
    """An attack through an API that counts queries."""

    @property
    def answers(self) -> Answers:
        """What the API must answer for this attack."""
        return "labels"

    @property
    def budget(self) -> int | None:
        """How many queries it may ask; ``None`` is without limit."""
        return None

    @abstractmethod
    def run(self, victim: Oracle, pool: Pool, ctx: Context) -> nn.Module:
        """The surrogate: what the attacker ends with."""


@dataclass(frozen=True)
class WhiteBoxAttack(PoolAttack):
    """An attack on the weights."""

    @abstractmethod
    def run(self, victim: nn.Module, pool: Pool, ctx: Context) -> nn.Module:
        """The surrogate. ``victim`` is the attack's own copy, which it may change and return."""


@dataclass(frozen=True)
class Detector(PoolAttack):
    """An attack that looks for the mark. The judge, not the detector, compares what it found with the key."""

    family: ClassVar[Family] = "detection"

    @abstractmethod
    def run(self, suspect: nn.Module, pool: Pool, ctx: Context) -> Detection:
        """What it found in its own copy of ``suspect``."""


@dataclass(frozen=True)
class Evasion(PoolAttack):
    """An attack that keeps the stolen model as it is, and filters what its API answers.

    The guard that :meth:`prepare` returns is stored with the model; who asks that model is answered by :meth:`serve`.
    """

    family: ClassVar[Family] = "evasion"

    @abstractmethod
    def prepare(self, suspect: nn.Module, pool: Pool, ctx: Context) -> Mapping[str, Tensor]:
        """The guard: tensors by name, all that :meth:`serve` needs to know."""

    @abstractmethod
    def serve(self, suspect: nn.Module, inputs: Tensor, logits: Tensor, guard: Mapping[str, Tensor]) -> Tensor:
        """What the thief's API answers instead of ``logits`` ``[n, classes]``; a row of NaN refuses the query."""


@dataclass(frozen=True)
class Analysis(Plugin):
    """A look into a stored model, for the reader of the tables. It is the harness's own: it sees the key."""

    def skip(self, dataset: Dataset) -> str | None:
        """Why this analysis cannot be made on ``dataset``; ``None`` if it can."""
        return None

    @abstractmethod
    def run(self, model: nn.Module, task: Task, test: Split, key: Key, ctx: Context) -> Sequence[Measure]:
        """What it measures of its own copy of ``model``: ``test`` is the task's test set."""


# --- what plugins are given, and what they return ---------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """What the owner has: the recipe, the data, and the triggers that :meth:`Defense.triggers` asked for."""

    dataset: Dataset
    train: Split
    holdout: Split
    ood: Split | None
    """Training samples of the dataset that the trigger recipe named, resized to this task's inputs."""
    triggers: Key


@dataclass(frozen=True)
class Pool:
    """What the attacker has. ``y`` and ``patch`` are there only for an attack that declares to know them."""

    recipe: Recipe
    x: Tensor
    y: Tensor | None = None
    patch: int | None = None
    """Side of the owner's trigger patch, in pixels."""

    def labels(self) -> Tensor:
        """The true labels, for an attack that declared ``labelled``."""
        if self.y is None:
            raise Refused("the attacker's pool has no labels: declare `labelled = True`")
        return self.y


@dataclass(frozen=True)
class Stream:
    """A source of batches for :meth:`Context.train`.

    A batch takes ``batch_size / len(parts)`` samples from each of ``parts``, in their order. The first stream of a
    training sets the length of an epoch; of each other stream one batch follows every ``every`` batches of the first.
    """

    parts: tuple[Split, ...]
    batch_size: int
    loss: Loss | None = None
    """``None`` is the mean cross-entropy."""
    every: float = 1.0
    shuffle: bool = True
    limit: int | None = None
    """Use only the first so many batches of an unshuffled pass, each epoch anew."""
    augment: bool = False
    """Augment the inputs as the recipe says; triggers are not, since they are verified as they are."""
    capture: bool = True
    """Record the step on a GPU and replay it. Not for a loss whose Python does something else from step to step."""


class Context(ABC):
    """What the harness lends a plugin while it works: never build a loop of epochs, nor set a global seed."""

    device: torch.device
    generator: torch.Generator
    """On the CPU, seeded for this stage: draw from it and from nothing else."""

    @abstractmethod
    def build(self) -> Net:
        """A freshly initialised net, of the architecture that the plugin declared or the dataset's recipe names."""

    @abstractmethod
    def start(self) -> Net:
        """A copy of the clean model where the plugin declared ``from_clean``, else :meth:`build`."""

    @abstractmethod
    def train(
        self,
        net: Net,
        streams: Sequence[Stream],
        epochs: int,
        *,
        learning_rate: float | None = None,
        parameters: Sequence[nn.Parameter] | None = None,
        optimizers: Sequence[torch.optim.Optimizer] = (),
    ) -> Net:
        """Train ``net`` in place and return it.

        ``parameters`` are the ones trained (all by default); ``optimizers`` step further tensors, such as a learned
        temperature, by the gradient of the same loss.
        """

    @abstractmethod
    def stream(self, split: Split, loss: Loss | None = None) -> Stream:
        """``split`` in shuffled batches of the recipe's size, augmented as the recipe says."""

    @abstractmethod
    def predict(self, net: nn.Module, x: Tensor) -> Tensor:
        """Logits ``[n, classes]`` of ``net`` in evaluation mode, in batches, without gradients."""

    @abstractmethod
    def activation_frequencies(self, net: Net, x: Tensor) -> dict[str, Tensor]:
        """By hidden layer, the share ``[units]`` of inputs (and positions) on which a unit is above 0."""


def classes_of(logits: Tensor) -> Tensor:
    """The class ``[n]`` int64 that each row of ``logits`` ``[n, classes]`` answers; -1 for a row of NaN, a refusal."""
    return logits.argmax(dim=1).masked_fill(logits.isnan().any(dim=1), -1)


@dataclass
class Oracle:
    """Black-box access to a model, which counts its queries, and serves one answer type within a budget."""

    _logits: Callable[[Tensor], Tensor] = field(repr=False)
    answers: Answers = "labels"
    budget: int | None = None
    queries: int = 0

    def labels(self, x: Tensor) -> Tensor:
        """The class of each of the inputs ``x`` ``[n, ...]``: ``[n]`` int64, -1 where the API refused to answer."""
        return classes_of(self._ask(x, "labels"))

    def top1(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The class ``[n]`` int64 of each input, and its probability ``[n]`` float32."""
        best = self._ask(x, "top-1").softmax(dim=1).max(dim=1)
        return best.indices, best.values

    def probabilities(self, x: Tensor) -> Tensor:
        """The probabilities ``[n, classes]`` of each input."""
        return self._ask(x, "probabilities").softmax(dim=1)

    def _ask(self, x: Tensor, kind: Answers) -> Tensor:
        order: tuple[Answers, ...] = ("labels", "top-1", "probabilities")
        if order.index(kind) > order.index(self.answers):
            raise Refused(f"this oracle answers {self.answers}, not {kind}: declare it in `answers`")
        if self.budget is not None and self.queries + len(x) > self.budget:
            raise Refused(f"{len(x)} more queries after {self.queries} would pass the budget of {self.budget}")
        self.queries += len(x)
        return self._logits(x)


@dataclass(frozen=True)
class Probe:
    """One question of a key: inputs ``x`` ``[n, ...]``, and for each the label ``y`` ``[n]`` that counts as a match."""

    x: Tensor
    y: Tensor

    def ask(self, suspect: Oracle) -> Count:
        """Count the answers of ``suspect`` that match."""
        matches = int((suspect.labels(self.x) == self.y).sum())
        return Count(matches, len(self.x))


@dataclass(frozen=True)
class Key:
    """The owner's secret: tensors only.

    The probe names are the field's: ``trigger`` (inputs trained on), ``held_out`` (triggers never trained on) and
    ``control`` (the same question asked where no mark should answer, such as the untriggered sources).
    """

    probes: Mapping[str, Probe] = field(default_factory=dict)
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    """What else the scheme must keep: a message, a projection; ``mask`` and ``target`` are compared with detections."""

    @property
    def trigger(self) -> Probe:
        """The trigger set that the victim is trained on."""
        return self.probes["trigger"]


@dataclass(frozen=True)
class Marked:
    """What :meth:`Defense.embed` returns: the victim and the key."""

    net: nn.Module
    key: Key


@dataclass(frozen=True)
class Count:
    """``matches`` of ``trials`` verification queries (or bits) answered as the key says."""

    matches: int
    trials: int


@dataclass(frozen=True)
class Evidence:
    """Counts by probe name."""

    counts: Mapping[str, Count]


@dataclass(frozen=True)
class Detection:
    """What a detector found. Finding nothing is a result: a score, and ``None`` elsewhere."""

    score: float
    threshold: float
    """The detector's own: a score above it means that it calls the model marked."""
    suspected_class: int | None = None
    suspected_source: int | None = None
    """The only class whose inputs the trigger that it found moves, where it looked for such."""
    mask: Tensor | None = None
    """Where it found the trigger, ``[height, width]``, 0 or more: larger is more suspicious."""
    pattern: Tensor | None = None
    """The recovered trigger ``[channels, height, width]``, in the data's range."""
    measures: Sequence[Measure] = ()
    """What else is worth a row: norms by class, steps done, and the like."""


@dataclass(frozen=True)
class Measure:
    """Numbers for the table ``measurements``: one row each."""

    quantity: str
    values: Tensor
    """``[n]``: the number of a value within is its ``index``."""
    layer: str = ""
    group: str = ""
    """Whom it is about: ``trigger``, ``task``, a class, where there are several."""
