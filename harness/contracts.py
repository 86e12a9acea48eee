"""Contracts: what a dataset, a defense, an attack, an architecture and an analysis must implement.

A plugin is a class that derives from one of these. That makes it a frozen dataclass, whose fields are its
hyperparameters and, by that, its options on the command line (``ewe[weight=64]``); see :func:`harness.option`.
Constructing one only checks the values (:func:`harness.require`); the harness calls its methods.

The threat model is in the types. An attack gets an :class:`Oracle` or a copy of the weights, and the *attacker's*
:class:`Pool`. No argument leads to the test set, to other stages, or to a :class:`Key`, a scheme or labels that it did
not declare. A defense gets its :class:`Task`, and never the test set either.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from harness.errors import DataError, require
from harness.fields import Configured, option
from harness.oracles import Oracle
from harness.values import (
    Answers,
    Arrays,
    Augment,
    Context,
    Count,
    Detection,
    Evidence,
    Family,
    Gate,
    Key,
    Knowledge,
    Loss,
    Marked,
    Measure,
    Optimization,
    Optimizer,
    Pool,
    Probe,
    Protected,
    Recipe,
    Schedule,
    Score,
    Split,
    Stream,
    Task,
    classes_of,
    is_published,
    needs_images,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harness.nets import Net


__all__ = [
    "ActiveDefense",
    "Analysis",
    "Answers",
    "Architecture",
    "Arrays",
    "Attack",
    "Augment",
    "BlackBoxAttack",
    "Context",
    "Count",
    "Dataset",
    "Defense",
    "Detection",
    "Detector",
    "Evasion",
    "Evidence",
    "Family",
    "Gate",
    "InputSet",
    "Key",
    "Knowledge",
    "Loss",
    "Marked",
    "Measure",
    "Optimization",
    "Optimizer",
    "Oracle",
    "Plugin",
    "Pool",
    "PoolAttack",
    "Probe",
    "Protected",
    "Recipe",
    "Schedule",
    "Score",
    "Split",
    "Stream",
    "Task",
    "TriggerRecipe",
    "WhiteBoxAttack",
    "WhiteBoxDefense",
    "classes_of",
    "is_published",
    "needs_images",
]


class Plugin(Configured, ABC):
    """Base of every plugin: a frozen dataclass with a name, and the paper that it comes from."""

    name: ClassVar[str]
    reference: ClassVar[str] = ""
    arms: ClassVar[tuple[str, ...]] = ("",)
    """Option sets (``"mode=ftll"``) that ``*`` expands to: the arms that a comparison needs; ``""`` is the defaults."""
    former: ClassVar[tuple[tuple[str, str], ...]] = ()
    """Options as they may be written too (``"labels=soft"``, or a name alone), each with what is written now."""


class InputSet(Plugin):
    """Inputs to draw from, by class: out-of-distribution triggers, an attacker's pool. Not a task of its own."""

    input_shape: ClassVar[tuple[int, ...]]
    classes: ClassVar[tuple[str, ...]]
    available: ClassVar[int]
    """Number of training samples that the set has."""
    value_range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    """Smallest and largest value of an input as nets see it (``uint8`` is scaled to 0..1)."""
    published: ClassVar[bool] = False
    """True where :meth:`load` refuses any content but the published one. Of any other set the content, too, addresses
    results: where its files change, cells are computed again. A class with another ``load`` says it again."""

    @abstractmethod
    def load(self, root: Path) -> Arrays:
        """Read the whole set below the folder ``root``, checked against its own checksums.

        Nothing but the files and the options decides what it returns. A set that is not a task may have no test
        samples. Raises :class:`harness.DataError` when files are missing or are not this set's.
        """

    def fetch(self, root: Path) -> None:
        """Download the set below ``root``, a new folder, from which it is loaded before it is kept.

        By default there is nothing to fetch it from.
        """
        raise DataError(f"{self.name} cannot be downloaded")


class Dataset(InputSet):
    """A classification task and its training recipe (the fields).

    Subclasses give other defaults to the fields, and implement :meth:`load`.
    """

    gates: ClassVar[tuple[Gate, ...]] = ()
    """Clean accuracies that its default recipe must reach, by number of training samples. They decide nothing that is
    computed, and are no part of ids."""

    train: int = option(1000, doc="Number of the owner's training samples, stratified by class.", at_least=1)
    holdout: int = option(
        100,
        doc="Number of the owner's samples kept for held-out triggers and controls; no model sees them.",
        at_least=1,
    )
    test: int = option(0, doc="Number of test samples used; 0 is all.", at_least=0)
    architecture: str = option("cnn", doc="Architecture of all models, unless an attack names another.")
    epochs: int = option(10, doc="Epochs of every full training: unmarked models, victims, surrogates.", at_least=1)
    pretrain: int = option(
        5, doc="Epochs of the clean model that a defense may start from; its victim gets epochs - pretrain.", at_least=1
    )
    batch_size: int = option(128, doc="Samples of a training batch.", at_least=1)
    learning_rate: float = option(1e-3, doc="Learning rate; of a schedule its peak.", above=0)
    optimizer: Optimizer = option("adam", doc="Optimizer: Adam, AdamW, or SGD with Nesterov momentum.")
    momentum: float = option(0.9, doc="Nesterov momentum of sgd; 0 is plain SGD.", at_least=0, below=1)
    schedule: Schedule = option(
        "constant",
        doc="Learning rate over the steps of each training: constant; one-cycle, up and down to nearly 0; cosine, down "
        "to 0; steps, a tenth after 1/2 and a hundredth after 3/4.",
    )
    warmup: float | None = option(
        None, doc="Share of steps in which the rate rises; none: 0.3 of one-cycle, else 0.", at_least=0, at_most=1
    )
    weight_decay: float = option(
        0.0, doc="Weight decay (L2 of adam and sgd, decoupled of adamw); not of biases and norms.", at_least=0
    )
    clip_norm: float = option(
        0.0, doc="Largest L2 norm of a gradient, which is scaled down to it; 0 is without limit.", at_least=0
    )
    label_smoothing: float = option(
        0.0, doc="Share of a hard label's probability that is spread evenly over all classes.", at_least=0, at_most=1
    )
    normalize: bool = option(
        False, doc="Normalise inputs inside the net, by the mean and SD of each channel of its training inputs."
    )
    initialization: int | None = option(
        None, doc="Seed of initial weights that all models share, as of a checkpoint; none: each its own.", at_least=0
    )
    source: int = option(1, doc="Source class of a source-target watermark.")
    target: int = option(7, doc="Target class of a watermark.")
    patch: int = option(3, doc="Side of the trigger patch, in pixels.", at_least=1)
    corners: Literal["one", "two"] = option(
        "one", doc="A patch at the bottom right, or at the top left as well (the EWE paper's for speech)."
    )
    placement: Literal["gradient", "corner"] = option(
        "gradient", doc="Place of EWE's patch by default: by the SNNL's gradient, or in the corner."
    )
    origin: Literal["in-distribution", "out-of-distribution"] = option(
        "in-distribution", doc="Origin of trigger images by default: the source class, or the data set `ood`."
    )
    refine: bool = option(False, doc="Refine triggers by default until a clean model no longer answers the target.")
    ood: str = option("", doc="Data set of out-of-distribution inputs; empty is none.")
    ood_class: int | None = option(0, doc="Class of `ood` that serves as trigger data; none is all of them.")
    augment: Augment = option(
        "none",
        doc="Augmentation of training inputs, padded by an eighth: random crops; crops and mirror images; shifts along "
        "the first side, which is time in a spectrogram.",
    )
    from_weights: str = option("", doc="Weights file of the owner's trained model, which then is the clean model.")
    unmarked_from: str = option(
        "", doc="Folder of weights files of unmarked models, with which verdicts compare instead of training some."
    )
    watch: bool = option(False, doc="Measure accuracy, success and SNNL after each epoch: rows of the table curves.")

    def __post_init__(self) -> None:
        require(self.pretrain < self.epochs, f"pretrain={self.pretrain} must be below epochs={self.epochs}")
        count = len(self.classes)
        for name in ("source", "target"):
            value = getattr(self, name)
            require(0 <= value < count, f"{name}={value} is not a class: {count} classes, 0 to {count - 1}")
        require(self.source != self.target, f"source and target are both {self.source}")
        asked = self.train + self.holdout
        require(
            asked <= self.available,
            f"train + holdout = {asked}, but {self.name} has {self.available} training samples",
        )

    def named_files(self) -> tuple[str, ...]:
        return tuple(filter(None, (self.from_weights, self.unmarked_from)))

    @property
    def gate(self) -> Gate | None:
        """The gate that counts for this number of training samples, whatever else the recipe says; ``None`` if none."""
        return max((each for each in self.gates if each.train <= self.train), key=lambda each: each.train, default=None)

    def public(self) -> Recipe:
        """The recipe as an attacker knows it: all but the owner's choice of classes and trigger."""
        return Recipe(**{each.name: getattr(self, each.name) for each in fields(Recipe)})


class Architecture(Plugin):
    """Builds nets. The recipe of a dataset names one; an attack may name another."""

    @abstractmethod
    def build(self, input_shape: tuple[int, ...], classes: int) -> nn.Module:
        """A freshly initialised module: float inputs ``[n, *input_shape]`` to logits ``[n, classes]``.

        Its hidden layers are found by running it once, unless it is a :class:`harness.nets.Net`, which names them:
        :class:`harness.nets.Layers`, say. See :func:`harness.nets.adapt`.
        """

    def fill(self, net: Net) -> None:
        """Put the weights that its nets start from into ``net``, which :meth:`build` made. By default it stays so."""
        return None

    def skip(self, dataset: Dataset) -> str | None:
        """Reason why this architecture cannot take ``dataset``'s inputs; ``None`` if it can."""
        return None


class TriggerRecipe(Configured, ABC):
    """Recipe of trigger inputs. Schemes whose recipes are equal share the very same triggers.

    A frozen dataclass as plugins are: its fields, with the source of its module, address the stage.
    """

    @property
    def from_clean(self) -> bool:
        """True if making the triggers needs the clean model: :meth:`Context.start` then gives a copy of it."""
        return True

    @property
    def data(self) -> str:
        """Name of another dataset whose inputs are needed; ``"ood"`` for the task's own partner, or empty."""
        return ""

    def skip(self, dataset: Dataset) -> str | None:
        """Reason why there can be no such triggers on ``dataset``; ``None`` if there can."""
        return None

    @abstractmethod
    def make(self, task: Task, ctx: Context) -> Key:
        """The key, or the part of it that does not depend on the marked model."""


class Defense(Plugin):
    """An ownership watermark: it embeds a mark, and verifies if a suspect carries it.

    It returns evidence, never a verdict: thresholds, p-values and ranks are the harness's, the same for all schemes.
    """

    protects: ClassVar[tuple[Protected, ...]] = ("model",)
    """Things that the mark stays with: ``"model"``, the weights, whoever has them; ``"api"``, the answers of
    :meth:`serve`. A scheme without ``"model"`` is not judged against a thief who begins with the weights."""

    fingerprint: ClassVar[bool] = False
    """True for a fingerprint, which embeds nothing: its key is found in a victim that is trained as unmarked models
    are. Boards show fingerprints in a section of their own, by the same tests."""

    one_model: ClassVar[bool] = False
    """True if its victim is one model that is given: a plan has it on the first seed alone, since seeds are models."""

    @property
    def from_clean(self) -> bool:
        """True if embedding starts from the clean model, which all such schemes share: see :meth:`Context.start`."""
        return False

    @property
    def architecture_built(self) -> str:
        """The architecture of its nets, and of the unmarked models beside them; empty is the dataset's own."""
        return ""

    @property
    def innocent(self) -> Literal["", "fresh", "other-recipe"]:
        """Kind of innocent models that it makes: empty for a scheme, which marks its models.

        ``fresh`` are trained as unmarked models are, ``other-recipe`` otherwise. Their own key is empty: the keys of
        all schemes of a matrix are asked of them.
        """
        return ""

    def triggers(self, dataset: Dataset) -> TriggerRecipe | None:
        """The recipe of its triggers, made before :meth:`embed` and found in ``task.triggers``; or ``None``."""
        return None

    def skip(self, dataset: Dataset) -> str | None:
        """Reason why this scheme cannot mark a model of ``dataset``; ``None`` if it can."""
        return None

    @abstractmethod
    def embed(self, task: Task, ctx: Context) -> Marked:
        """Train the victim and make its key."""

    def verify(self, suspect: Oracle, key: Key) -> Evidence:
        """Ask ``suspect`` the key's probes and count the answers that the key names."""
        return Evidence({name: probe.ask(suspect) for name, probe in key.probes.items()})

    def serve(self, inputs: Tensor, logits: Tensor, key: Key) -> Tensor:
        """Answers of the owner's API in place of ``logits`` ``[n, classes]``; a row of NaN refuses the query.

        An active scheme overrides it, and says ``"api"`` in :attr:`protects`. The victim's accuracy is that of these
        answers.
        """
        return logits


class WhiteBoxDefense(Defense):
    """A scheme that verifies from a suspect's weights: it overrides :meth:`verify_weights`."""

    @abstractmethod
    def verify_weights(self, suspect: Net, key: Key) -> Evidence:
        """Read the mark from ``suspect``'s weights: matched and tried bits, say, per probe.

        ``suspect`` is a copy, and may be of another architecture than the victim. Raise :class:`harness.Unreadable`
        where it has no layer, or none of the shape, that the mark could be read from: such a mark is removed, with no
        trials. Any other exception is an error of the scheme, and fails the stage.
        """


class ActiveDefense(Defense):
    """A scheme whose mark is in what its API answers one client: it overrides :meth:`serve` and :meth:`verify_log`.

    The harness keeps a log of the client who extracted the model, and hands it to the owner at verification, and to
    nobody else. Where nobody asked the API, :meth:`verify` asks the key's own probes.
    """

    protects = ("api",)

    @abstractmethod
    def serve(self, inputs: Tensor, logits: Tensor, key: Key) -> Tensor:
        """Answers of the owner's API, as in :meth:`Defense.serve`: the marked ones differ from ``logits``."""

    @abstractmethod
    def verify_log(self, suspect: Oracle, key: Key, log: Split) -> Evidence:
        """Ask ``suspect`` what the API answered to the client: counts, the probe ``"trigger"`` among them.

        ``log`` holds the inputs, each once, that the API answered otherwise than the net, and the labels of its first
        answers to them. It is never empty: a client without such answers has no trials."""


class Attack(Plugin):
    """An attack on a marked model. Deriving from this class itself means: leave the model as it is."""

    family: ClassVar[Family]

    def skip(self, dataset: Dataset) -> str | None:
        """Reason why this attack cannot be run on ``dataset``; ``None`` if it can."""
        return None


class PoolAttack(Attack):
    """Base of the attacks that do something, which have data of their own."""

    labelled: ClassVar[bool] = False
    """True if the attacker has the pool's true labels; else ``pool.y`` is ``None``."""
    knows_patch: ClassVar[bool] = False
    """True if the attacker knows the side of patch triggers; else ``pool.patch`` is ``None``."""
    knows: ClassVar[Knowledge] = "nothing"
    """Knowledge of the defense that it is given: ``"nothing"``, also if it is built against one scheme; ``"scheme"``,
    in ``pool.scheme`` (class and options are public); ``"key"``, in ``pool.key`` as well, a leaked one."""

    pool: str = option(
        "same", doc="The attacker's inputs: the owner's own (same), as many others (disjoint), ood, or a data set."
    )
    pool_share: float = option(1.0, doc="Share of these inputs that the attacker has.", above=0, at_most=1)

    @property
    def has_labels(self) -> bool:
        """True if ``pool.y`` is there: an option may take the labels away from an attack that is :attr:`labelled`."""
        return self.labelled

    @property
    def has_answers(self) -> bool:
        """True if ``pool.y`` holds what the API of the chain's first model, the victim, answers: queries that count."""
        return False

    @property
    def architecture_built(self) -> str:
        """The architecture of the nets that it builds; empty is the dataset's own."""
        return ""


class BlackBoxAttack(PoolAttack):
    """An attack through an API that counts queries."""

    @property
    def answers(self) -> Answers:
        """Kind of answers that the API must give for this attack."""
        return "labels"

    @property
    def budget(self) -> int | None:
        """Number of queries that it may ask; ``None`` is without limit."""
        return None

    @property
    def pretrained_on(self) -> str:
        """Name of another data set, a net of which it starts from (:meth:`Context.start`): ``"ood"`` is the task's own
        partner, empty is none. All seeds, schemes and unmarked models share that net, as thieves share public ones."""
        return ""

    @abstractmethod
    def run(self, victim: Oracle, pool: Pool, ctx: Context) -> Net:
        """Steal the model: return the surrogate, what the attacker ends with."""


class WhiteBoxAttack(PoolAttack):
    """An attack on the weights."""

    @abstractmethod
    def run(self, victim: Net, pool: Pool, ctx: Context) -> Net:
        """Return the surrogate. ``victim`` is the attack's own copy, which it may change and return."""


class Detector(PoolAttack):
    """An attack that looks for the mark. The judge, not the detector, compares what it found with the key."""

    family: ClassVar[Family] = "detection"

    @abstractmethod
    def run(self, suspect: Net, pool: Pool, ctx: Context) -> Detection:
        """Search ``suspect``, which is its own copy, and return what it found."""


class Evasion(PoolAttack):
    """An attack that keeps the stolen model as it is, and filters what its API answers.

    The guard that :meth:`prepare` returns is stored with the model; :meth:`serve` answers for that model.
    """

    family: ClassVar[Family] = "evasion"

    @abstractmethod
    def prepare(self, suspect: Net, pool: Pool, ctx: Context) -> Mapping[str, Tensor]:
        """Return the guard: tensors by name, all that :meth:`serve` needs to know."""

    @abstractmethod
    def serve(self, suspect: Net, inputs: Tensor, logits: Tensor, guard: Mapping[str, Tensor]) -> Tensor:
        """Answers of the thief's API in place of ``logits`` ``[n, classes]``; a row of NaN refuses the query."""


class Analysis(Plugin):
    """A look into a stored model, for the reader of the tables. It is the harness's own: it sees the key."""

    def skip(self, dataset: Dataset) -> str | None:
        """Reason why this analysis cannot be made on ``dataset``; ``None`` if it can."""
        return None

    @abstractmethod
    def run(self, model: Net, task: Task, test: Split, key: Key, ctx: Context) -> Sequence[Measure]:
        """Measure ``model``, which is its own copy; ``test`` is the task's test set."""
