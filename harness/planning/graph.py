"""The plan: which stages a matrix needs, each once, parents first. Data only, no tensors: the standard library
suffices.

A stage is addressed by what decides its output: the action and its version, the plugins' source digests and options,
the seed, and the ids of its parents. Sharing a victim among attacks, resuming, invalidating and dry runs all follow.

::

    null[k] ──────────────────> attack ─> attack ─┐
    pretrain ─> triggers ─┐                        ├─> ask
        └────────────────>embed ─> attack ─> attack ─> verify | analyse
                                       detect ─> judge

The attacks on null models belong to no scheme, key or seed: they serve all. An ``ask`` stage puts the questions of one
key to all null models after one chain.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from harness.contracts import (
    Analysis,
    Architecture,
    Attack,
    Defense,
    InputSet,
    Plugin,
    TriggerRecipe,
)
from harness.planning.matrix import placeless
from harness.planning.syntax import UNREADABLE, parsed

Action: TypeAlias = Literal["train", "triggers", "embed", "attack", "detect", "judge", "verify", "ask", "analyse"]
Kind: TypeAlias = Literal["dataset", "defense", "attack", "architecture", "analysis"]
ModelRole: TypeAlias = Literal["clean", "null", "attacked", "victim", "surrogate", "pretrained"]
SuspectKind: TypeAlias = Literal["surrogate", "null", "attacked", "fresh", "same-data", "other-recipe", "other-owner"]
"""The models that are asked a key that is not theirs: those to compare with, and the innocent (see the table
``evidence``)."""

KINDS: dict[Kind, type[Plugin]] = {
    "dataset": InputSet,
    "defense": Defense,
    "attack": Attack,
    "architecture": Architecture,
    "analysis": Analysis,
}
"""The base class of each kind of plugin."""

VERSIONS: dict[Action, int] = {
    **{"train": 2, "triggers": 3, "embed": 5, "attack": 5},
    **{"detect": 2, "judge": 2, "verify": 1, "ask": 1, "analyse": 1},
}
"""Raise one when what that action computes changes: its stored results, and what follows from them, are run again."""


@dataclass(frozen=True, slots=True)
class Component:
    """A plugin with its options; ``text`` is its canonical name."""

    kind: Kind
    text: str
    digest: str
    """The digest of its source; of a data set that may change, a colon and the digest of its content after that."""
    plugin: Any = field(compare=False)
    stands_for: str = field(default="", compare=False)
    """The canonical text that a name of a matrix file stands for; empty where :attr:`text` is it."""
    without: int | None = None
    """Class of a data set that is left out: the owner makes triggers of it, so that no thief has its inputs."""

    @property
    def identity(self) -> str:
        """The text in ids: of a data set without the paths of its files, whose content is in :attr:`digest`."""
        text = self.stands_for or self.text
        less = "" if self.without is None else f" without class {self.without}"
        return placeless(text) + less if self.kind == "dataset" else text

    @property
    def source(self) -> str:
        """The digest of its source."""
        return self.digest.partition(":")[0]

    @property
    def content(self) -> str:
        """The digest of a data set's content, where it is part of what addresses stages; else empty."""
        return self.digest.partition(":")[2]

    def __hash__(self) -> int:
        return hash(self.text)  # strings keep their hash: a plan looks components up millions of times

    def __str__(self) -> str:
        return self.text


class Suspect(NamedTuple):
    """A model that an ``ask`` stage puts a key's questions to."""

    kind: SuspectKind
    number: int
    """Number of the null model, or seed of the innocent one."""
    arm: str
    """The scheme of an innocent model; empty for others."""
    model: str
    """Id of the stage that made it."""
    base: str
    """Id of the stage that made the model which the chain attacked; its own where nobody attacked."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One unit of work. Only :mod:`harness.running.worker` knows what each action does."""

    id: str
    action: Action
    label: str
    seed: int
    """Derived from the cell's seed (or the null's number) and from what the stage is, never from its options."""
    split_seed: int
    """Decides which samples are the owner's, the attacker's and held out."""
    dataset: Component
    plugin: Component | None = None
    """The defense or attack that the stage runs."""
    architecture: Component | None = None
    """The architecture that :meth:`Context.build` builds."""
    data: Component | None = None
    """The other dataset that the stage reads."""
    recipe: TriggerRecipe | None = None
    epochs: int = 0
    parents: tuple[tuple[str, str], ...] = ()
    """(role, id) of the stages whose artifacts it loads."""
    scheme: Component | None = None
    """The scheme that an attack on a null model is told of: no victim is among its parents who would say it."""
    role: ModelRole | None = None
    """The model that it makes or examines; ``None`` for triggers."""
    cell_seed: int | None = None
    """The seed of the cells that it is for; ``None`` for a null model, which serves all."""
    index: int | None = None
    """The number of the null model; ``None`` for other models. None of these three enters the id."""
    suspects: tuple[Suspect, ...] = ()
    """The models that an ``ask`` stage asks, which are its parents too. One that did not succeed is left out."""

    @property
    def required(self) -> tuple[tuple[str, str], ...]:
        """The parents without which it cannot run: all but its suspects."""
        return self.parents[: len(self.parents) - len(self.suspects)]


class Role(NamedTuple):
    """The part of a stage in a cell, such as ``attack:0``, ``ask:attacked`` or ``analyse:cka``."""

    what: str
    """``clean``, ``triggers``, ``embed``, ``attack``, ``surrogate``, ``verify``, ``ask``, ``detect``, ``judge`` or
    ``analyse``."""
    about: str = ""
    """The suspects: ``victim``, ``surrogate``, ``null``, ``attacked`` or ``innocent``; of an analysis its text."""
    number: int | None = None
    """The number of the attack in its chain, or of the null model."""

    def __str__(self) -> str:
        """The text that the ids of cells are digests of."""
        about = f":{self.about}" if self.about else ""
        return f"{self.what}{about}" if self.number is None else f"{self.what}{about}:{self.number}"


EMBED, SURROGATE = Role("embed"), Role("surrogate")
"""The stages that made the victim, and the model that the chain ends with: the victim itself where nobody attacked."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One dataset x defense x attack chain x seed: the stages that answer it, or why there can be none."""

    id: str
    dataset: str
    defense: str
    attack: str
    seed: int
    family: str
    access: str
    """Access of its last attack: ``black-box``, ``white-box`` or ``none``."""
    stages: tuple[tuple[Role, str], ...] = ()
    """(role, stage id)."""
    uses: tuple[Component, ...] = ()
    """The dataset, the defense and the links of the attack chain."""
    skip: str = ""
    broken: bool = False
    """True if :attr:`skip` is an error of the plugin when it was asked, and not its reason."""
    threat: str = "none"
    """Access of its first attack, to the victim: in the same words."""
    knows: str = "nothing"
    """Knowledge that its attacks are given of the defense: ``nothing``, ``scheme`` or ``key``."""
    forged_before: bool | None = None
    """True if its key is forged without the model that it claims; ``None`` where none is forged."""
    labelled_share: float | None = None
    """The largest share of its pool that one of its attacks has with true labels; ``None`` where none has."""


@dataclass(frozen=True)
class Plan:
    """Stages by id, parents first, and the cells that need them."""

    stages: dict[str, Stage]
    cells: tuple[Cell, ...]
    warnings: tuple[str, ...] = ()
    """Sentences that say what plugins changed in the process while they were asked."""

    @property
    def asked(self) -> int:
        """Number of pairs of a key and a model that ``ask`` stages compare."""
        return sum(len(stage.suspects) for stage in self.stages.values())

    def without(self, stored: Collection[str]) -> list[Stage]:
        """The stages whose ids are not ``stored``, parents first."""
        return [stage for id, stage in self.stages.items() if id not in stored]


def keys_of(plan: Plan) -> set[tuple[str, str, str, int]]:
    """Dataset, defense, attack and seed of each cell: the key of its row."""
    return {(cell.dataset, cell.defense, cell.attack, cell.seed) for cell in plan.cells}


Lookup: TypeAlias = Callable[[Kind, str], Component]


def derive_seed(*parts: str | int) -> int:
    """A seed in [0, 2^63) that depends on ``parts`` and on nothing else."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def make_id(*parts: object) -> str:
    """128 bits of SHA-256 over ``parts``, as 32 hexadecimal digits."""
    # The length before each part keeps ("ab", "c") and ("a", "bc") apart.
    text = "".join([f"{len(t)}:{t}" for t in map(str, parts)])  # a list: a large plan has millions of parts
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def describe(plugin: Plugin | TriggerRecipe, other: Plugin | None = None) -> str:
    """The options that differ from the defaults, or from those of ``other``, in the order of the fields: ``a=1,b=x``.

    Empty if none does. Options that the plugin's files decide are left out.
    """
    values = [(f.name, getattr(plugin, f.name), getattr(other, f.name) if other else f.default) for f in fields(plugin)]
    decided = plugin.decided.items()
    changed = [(name, value) for name, value, default in values if value != default and (name, value) not in decided]
    return ",".join(f"{name}={value_text(value)}" for name, value in changed)


def value_text(value: object) -> str:
    """An option's value as it is typed on the command line: ``none``, ``true``, ``0.5``."""
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


@cache
def source_digest(path: str) -> str:
    """The :func:`text_digest` of a source file: editing a plugin makes its stages, and what follows from them, new."""
    return text_digest(Path(path).read_bytes())


@cache
def text_digest(source: bytes) -> str:
    """The digest of the code in a piece of source.

    Comments, docstrings, an option's ``doc``, a class's ``published`` and ``gates`` and formatting are not part of it.
    It is the same for every version of Python that reads the source alike. Source that cannot be parsed counts with
    every byte.
    """
    try:
        code = _code_text(parsed(source))
    except UNREADABLE:
        code = source.hex()
    return hashlib.sha256(code.encode()).hexdigest()[:16]


def _code_text(tree: ast.Module) -> str:
    """A syntax tree as text: without positions, words, and empty fields, in which Python's versions differ."""
    parts: list[str] = []
    left: list[Any] = [tree]  # not recursion, whose limit depends on who calls; each node's fields from the last on
    while left:
        node = left.pop()
        if isinstance(node, ast.AST):
            parts.append(node.__class__.__name__)
            left.append(")")
            for name in node._fields:
                value = getattr(node, name, None)
                if value is None or value == [] or name in ("ctx", "kind"):
                    continue
                if name == "body" and isinstance(node, ast.ClassDef):
                    value = [each for each in value if not _decides_nothing(each)]
                if name == "keywords" and _is_option(node):
                    value = [each for each in value if each.arg != "doc"]
                # ascii, not repr, which asks Unicode's tables what is printable: they differ between versions too.
                left += (value if isinstance(value, ast.AST | list) else ascii(value), name)
        elif isinstance(node, list):
            left.append("]")
            left += [each if isinstance(each, ast.AST) else ascii(each) for each in node if not _is_words(each)]
        else:
            parts.append(node)
    return " ".join(parts)


def _is_option(node: ast.AST) -> bool:
    """True for a call of :func:`harness.option`."""
    return _called(node) == "option"


def _called(node: ast.AST) -> str:
    """The last name of what a call calls; empty for anything else."""
    func = getattr(node, "func", None)
    name: str = getattr(func, "id", getattr(func, "attr", ""))
    return name


def _decides_nothing(node: object) -> bool:
    """True for what decides nothing that is computed: in a class ``published = True``, which decides the inputs that
    an id has, and ``gates = (data.Gate(...),)``."""
    if not isinstance(node, ast.Assign) or len(node.targets) != 1:
        return False
    name, value = getattr(node.targets[0], "id", ""), node.value
    return (name == "published" and isinstance(value, ast.Constant)) or (
        name == "gates" and isinstance(value, ast.Tuple) and all(_called(each) == "Gate" for each in value.elts)
    )


def _is_words(node: object) -> bool:
    """True for a string that stands alone, such as a docstring."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
