"""The plan: which stages a matrix needs, each once, parents first. Data only, no tensors: the standard library
suffices.

A stage is addressed by what decides its output: the action and its version, the plugins' source digests and options,
the seed, and the ids of its parents. Sharing a victim among attacks, resuming, invalidating and dry runs all follow.

::

    null[k] ──────────────────────────────┐
    pretrain ─> triggers ─┐               │
        └────────────────>embed ─> attack ─> attack ─> verify | analyse
                                       detect ─> judge
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeAlias

from harness.contracts import (
    Attack,
    BlackBoxAttack,
    Dataset,
    Defense,
    Detector,
    Evasion,
    Plugin,
    PoolAttack,
    TriggerRecipe,
)
from harness.errors import UsageError

Action: TypeAlias = Literal["train", "triggers", "embed", "attack", "detect", "judge", "verify", "analyse"]
Kind: TypeAlias = Literal["dataset", "defense", "attack", "architecture", "analysis"]

VERSIONS: dict[Action, int] = {
    **{"train": 2, "triggers": 3, "embed": 3, "attack": 3},
    **{"detect": 2, "judge": 1, "verify": 1, "analyse": 1},
}
"""Raise one when what that action computes changes: its stored results, and what follows from them, are run again."""


@dataclass(frozen=True, slots=True)
class Use:
    """A plugin with its options: ``text`` is its canonical name, ``digest`` that of its source."""

    kind: Kind
    text: str
    digest: str
    plugin: Any = field(compare=False)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Stage:
    """One unit of work. Only :mod:`harness.stages` knows what each action does."""

    id: str
    action: Action
    label: str
    seed: int
    """Derived from the cell's seed (or the null's number) and from what the stage is, never from its options."""
    split_seed: int
    """Decides which samples are the owner's, the attacker's and held out."""
    dataset: Use
    plugin: Use | None = None
    """The defense or attack that the stage runs."""
    architecture: Use | None = None
    """What :meth:`Context.build` builds."""
    data: Use | None = None
    """The other dataset that the stage reads."""
    recipe: TriggerRecipe | None = None
    epochs: int = 0
    parents: tuple[tuple[str, str], ...] = ()
    """(role, id) of the stages whose artifacts it loads."""


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
    stages: tuple[tuple[str, str], ...] = ()
    """(role, stage id): embed, attack:0, verify:victim, verify:surrogate, null:0, verify:null:0,
    detect:surrogate:0, judge:null:0, analyse:cka, ..."""
    skip: str = ""
    broken: bool = False
    """Whether :attr:`skip` is not a plugin's reason but an error of the plugin when it was asked."""


@dataclass(frozen=True)
class Plan:
    """Stages by id, parents first, and the cells that need them."""

    stages: dict[str, Stage]
    cells: tuple[Cell, ...]


Lookup: TypeAlias = Callable[[Kind, str], Use]


def derive_seed(*parts: str | int) -> int:
    """A seed in [0, 2^63) that depends on ``parts`` and on nothing else."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def make_id(*parts: object) -> str:
    """128 bits of SHA-256 over ``parts``, as 32 hexadecimal digits."""
    # The length before each part keeps ("ab", "c") and ("a", "bc") apart.
    text = "".join([f"{len(t)}:{t}" for t in map(str, parts)])  # a list: a large plan has millions of parts
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def describe(plugin: Plugin | TriggerRecipe) -> str:
    """The options that differ from the defaults, in the order of the fields: ``a=1,b=x``; empty if none does."""
    changed = [(f.name, getattr(plugin, f.name)) for f in fields(plugin) if getattr(plugin, f.name) != f.default]
    return ",".join(f"{name}={_text(value)}" for name, value in changed)


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


@cache
def source_digest(path: str) -> str:
    """The digest of a source file: editing a plugin makes its stages, and what follows from them, new ones."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]


def make_plan(
    datasets: Sequence[Use],
    defenses: Sequence[Use],
    chains: Sequence[tuple[Use, ...]],
    seeds: Sequence[int],
    nulls: int,
    lookup: Lookup,
    *,
    analyses: Sequence[Use] = (),
) -> Plan:
    """The plan of every dataset x defense x attack chain x seed, with ``nulls`` null models a dataset.

    ``analyses`` are made of every cell's surrogate, which is the victim where there is no attack. ``lookup`` resolves
    what a recipe names: an architecture, or another dataset.
    """
    for chain in chains:
        for link in chain[:-1]:
            if isinstance(link.plugin, Detector | Evasion):
                text = " | ".join(map(str, chain))
                raise UsageError(f"{link.plugin.family} must be the last link of a chain: {text!r}")
    builder = _Builder(cache(lookup), nulls, tuple(analyses))
    cells = [
        builder.cell(dataset, defense, chain, seed)
        for dataset in datasets
        for seed in seeds
        for defense in defenses
        for chain in chains
    ]
    return Plan(builder.stages, tuple(cells))


@dataclass
class _Builder:
    """Adds each stage once; remembers what it has resolved."""

    lookup: Lookup
    nulls: int
    analyses: tuple[Use, ...] = ()
    stages: dict[str, Stage] = field(default_factory=dict)
    _reasons: dict[tuple[Use, Use], str] = field(default_factory=dict)
    _broken: set[tuple[Use, Use]] = field(default_factory=set)
    _embeds: dict[tuple[Use, Use, int], list[tuple[str, str]]] = field(default_factory=dict)

    def cell(self, dataset: Use, defense: Use, chain: tuple[Use, ...], seed: int) -> Cell:
        """The cell, and its stages added to :attr:`stages`."""
        last = chain[-1].plugin
        labels = (dataset.text, defense.text, " | ".join(link.text for link in chain), seed)
        shape = (_family(chain), _access(last))
        reason = self._reason(dataset, defense) or next((r for link in chain if (r := self._reason(dataset, link))), "")
        if reason:
            broken = any((dataset, use) in self._broken for use in (defense, *chain))
            return Cell(make_id("skip", *labels, reason), *labels, *shape, skip=reason, broken=broken)
        roles = [*self._victim(dataset, defense, seed), *self._attacked(dataset, defense, chain, seed)]
        return Cell(make_id("cell", *labels, roles), *labels, *shape, stages=tuple(roles))

    # --- why a combination cannot be ---

    def _reason(self, dataset: Use, use: Use) -> str:
        """Why ``use`` cannot be on ``dataset``, asked once; empty if it can."""
        key = (dataset, use)
        if key not in self._reasons:
            try:
                self._reasons[key] = next((f"{use}: {r}" for r in self._problems(dataset, use.plugin) if r), "")
            except UsageError:
                raise
            # A plugin that breaks while it is asked fails its own cells, and nobody else's.
            except Exception as error:
                self._reasons[key] = f"{use}: {type(error).__name__}: {error}"
                self._broken.add(key)
        return self._reasons[key]

    def _problems(self, dataset: Use, plugin: Defense | Attack) -> Iterator[str | None]:
        task: Dataset = dataset.plugin
        yield plugin.skip(task)
        yield self._architecture(dataset, plugin).plugin.skip(task)
        if isinstance(plugin, Defense) and (recipe := plugin.triggers(task)):
            yield recipe.skip(task)
            yield self._no_data(dataset, recipe.data)
        if isinstance(plugin, PoolAttack):
            yield self._no_data(dataset, plugin.pool)
            missing = 2 * task.train + task.holdout - task.available
            if plugin.pool == "disjoint" and missing > 0:
                yield f"pool=disjoint needs {missing} more training samples than {dataset} has"

    def _no_data(self, dataset: Use, name: str) -> str | None:
        if name == "ood" and not dataset.plugin.ood:
            return f"{dataset} names no out-of-distribution dataset"
        other = self._data(dataset, name)
        if other is None or other.plugin.value_range == dataset.plugin.value_range:
            return None
        ranges = "{} to {}, not {} to {}".format(*other.plugin.value_range, *dataset.plugin.value_range)
        return f"{other}'s inputs are of another kind than {dataset}'s: {ranges}"

    # --- stages ---

    def _victim(self, dataset: Use, defense: Use, seed: int) -> list[tuple[str, str]]:
        """Null models, the victim and their verifications: shared by all attacks on this victim."""
        key = (dataset, defense, seed)
        if key not in self._embeds:
            embed = self._embed(dataset, defense, seed)
            made_before = list(self.stages[embed].parents)
            roles = [
                *made_before,
                ("embed", embed),
                ("verify:victim", self._verify(dataset, defense, embed, "victim", embed)),
            ]
            for k in range(self.nulls):
                null = self._train(dataset, "null", k, dataset.plugin.epochs)
                verify = self._verify(dataset, defense, embed, f"null #{k}", null)
                roles += [(f"null:{k}", null), (f"verify:null:{k}", verify)]
            self._embeds[key] = roles
        return self._embeds[key]

    def _attacked(self, dataset: Use, defense: Use, chain: tuple[Use, ...], seed: int) -> list[tuple[str, str]]:
        embed = dict(self._victim(dataset, defense, seed))["embed"]
        roles, model, label = [], embed, ""
        for depth, link in enumerate(link for link in chain if isinstance(link.plugin, PoolAttack)):
            if isinstance(link.plugin, Detector):
                roles += self._detection(dataset, defense, link, seed, embed, model, label or "victim")
            else:
                label = f"{label} | {link}" if label else str(link)
                model = self._attack(dataset, defense, link, label, seed, depth, embed, model)
                roles.append((f"attack:{depth}", model))
        roles += [
            ("surrogate", model),
            ("verify:surrogate", self._verify(dataset, defense, embed, label or "victim", model)),
        ]
        if isinstance(chain[-1].plugin, Detector):  # it made no model: the chain without it is analysed
            return roles
        return roles + [
            (f"analyse:{use}", self._analyse(dataset, defense, use, seed, embed, model, label or "victim"))
            for use in self.analyses
        ]

    def _detection(
        self, dataset: Use, defense: Use, link: Use, seed: int, embed: str, model: str, label: str
    ) -> list[tuple[str, str]]:
        """The search for a mark in a suspect and in every null model, each judged by the key."""
        suspects = [("surrogate:0", f"{defense} {label} #{seed}", model, "seed", seed)]
        for k in range(self.nulls):
            null = self._train(dataset, "null", k, dataset.plugin.epochs)
            suspects.append((f"null:{k}", f"null #{k}", null, "null", k))
        roles = []
        for who, name, suspect, root, number in suspects:
            detect = self._add(
                "detect",
                f"{dataset} {link} in {name}",
                dataset,
                seed=derive_seed(root, number, "detect"),
                split_seed=derive_seed(root, number, "split"),
                plugin=link,
                architecture=self._architecture(dataset, link.plugin),
                data=self._data(dataset, link.plugin.pool),
                parents=(("model", suspect),),
            )
            # The detector's stage knows no key: what it finds in a null model is then found once for all schemes.
            judged = (("embed", embed), ("detect", detect))
            text = f"{dataset} {defense} judge {link} in {name} ({embed[:6]})"
            judge = self._add("judge", text, dataset, seed=0, split_seed=0, parents=judged)
            roles += [(f"detect:{who}", detect), (f"judge:{who}", judge)]
        return roles

    def _analyse(self, dataset: Use, defense: Use, analysis: Use, seed: int, embed: str, model: str, label: str) -> str:
        return self._add(
            "analyse",
            f"{dataset} {defense} {label} #{seed}: {analysis}",
            dataset,
            seed=derive_seed("seed", seed, "analyse"),
            split_seed=derive_seed("seed", seed, "split"),
            plugin=analysis,
            parents=(("embed", embed), ("model", model)),
        )

    def _train(self, dataset: Use, role: str, number: int, epochs: int) -> str:
        """A clean model: the null model ``number``, or what the victims of seed ``number`` start from."""
        return self._add(
            "train",
            f"{dataset} {'null' if role == 'null' else 'clean'} #{number}",
            dataset,
            seed=derive_seed(role, number, "train"),
            split_seed=derive_seed(role, number, "split"),
            epochs=epochs,
            architecture=self._architecture(dataset),
        )

    def _embed(self, dataset: Use, defense: Use, seed: int) -> str:
        scheme: Defense = defense.plugin
        split = derive_seed("seed", seed, "split")
        recipe = scheme.triggers(dataset.plugin)
        parents: list[tuple[str, str]] = []
        if scheme.from_clean or (recipe and recipe.from_clean):
            clean = self._train(dataset, "seed", seed, dataset.plugin.pretrain)
            parents.append(("clean", clean))
        if recipe is not None:
            triggers = self._add(
                "triggers",
                f"{dataset} {type(recipe).__name__}({describe(recipe)}) #{seed}",
                dataset,
                seed=derive_seed("seed", seed, "triggers"),
                split_seed=split,
                recipe=recipe,
                architecture=self._architecture(dataset),
                data=self._data(dataset, recipe.data),
                parents=tuple(parents) if recipe.from_clean else (),
            )
            parents.append(("triggers", triggers))
        kept = tuple(p for p in parents if p[0] != "clean" or scheme.from_clean)
        return self._add(
            "embed",
            f"{dataset} {defense} #{seed}",
            dataset,
            seed=derive_seed("seed", seed, "embed"),
            split_seed=split,
            plugin=defense,
            architecture=self._architecture(dataset, scheme),
            parents=kept,
        )

    def _attack(
        self,
        dataset: Use,
        defense: Use,
        link: Use,
        label: str,
        seed: int,
        depth: int,
        embed: str,
        model: str,
    ) -> str:
        return self._add(
            "attack",
            f"{dataset} {defense} {label} #{seed}",
            dataset,
            seed=derive_seed("seed", seed, "attack", depth),
            split_seed=derive_seed("seed", seed, "split"),
            plugin=link,
            architecture=self._architecture(dataset, link.plugin),
            data=self._data(dataset, link.plugin.pool),
            parents=(("embed", embed), ("model", model)),
        )

    def _verify(self, dataset: Use, defense: Use, embed: str, suspect: str, model: str) -> str:
        # The label names the victim through its id: many seeds and options share the text of a defense.
        return self._add(
            "verify",
            f"{dataset} {defense} verify {suspect} ({embed[:6]})",
            dataset,
            seed=0,
            split_seed=0,
            plugin=defense,
            parents=(("embed", embed), ("model", model)),
        )

    def _architecture(self, dataset: Use, plugin: Defense | Attack | None = None) -> Use:
        own = plugin.architecture_built if isinstance(plugin, PoolAttack) else ""
        return self.lookup("architecture", own or dataset.plugin.architecture)

    def _data(self, dataset: Use, name: str) -> Use | None:
        """The other dataset that ``name`` stands for, with the recipe's own text; ``None`` for the task's own data."""
        if name in ("", "same", "disjoint"):
            return None
        return self.lookup("dataset", dataset.plugin.ood if name == "ood" else name)

    def _add(
        self,
        action: Action,
        label: str,
        dataset: Use,
        *,
        seed: int,
        split_seed: int,
        plugin: Use | None = None,
        architecture: Use | None = None,
        data: Use | None = None,
        recipe: TriggerRecipe | None = None,
        epochs: int = 0,
        parents: tuple[tuple[str, str], ...] = (),
    ) -> str:
        rest = (label, seed, split_seed, dataset, plugin, architecture, data, recipe, epochs, parents)
        id = make_id(*inputs_of(Stage("", action, *rest)).values())
        if id not in self.stages:
            self.stages[id] = Stage(id, action, *rest)
        return id


def inputs_of(stage: Stage) -> dict[str, Any]:
    """What a stage's output depends on, by name: its id is the digest of these values. A record keeps them, so that
    ``harness why`` can tell which of them changed."""
    return {
        "action": stage.action,
        "version": VERSIONS[stage.action],
        "dataset": _identity(stage.dataset),
        "plugin": _identity(stage.plugin),
        "architecture": _identity(stage.architecture),
        "data": _identity(stage.data),
        "recipe": _recipe_identity(stage.recipe),
        "seed": stage.seed,
        "split_seed": stage.split_seed,
        "epochs": stage.epochs,
        "parents": stage.parents,
    }


def _identity(use: Use | None) -> str:
    return f"{use.kind} {use.text} {use.digest}" if use else "-"


def _recipe_identity(recipe: TriggerRecipe | None) -> str:
    if recipe is None:
        return "-"
    cls = type(recipe)
    return f"{cls.__qualname__}({describe(recipe)}) {source_digest(inspect.getfile(cls))}"


def _family(chain: Iterable[Use]) -> str:
    """The families of a chain, each once, in order."""
    families: dict[str, None] = {link.plugin.family: None for link in chain}
    return "+".join(families)


def _access(attack: Attack) -> str:
    if not isinstance(attack, PoolAttack):
        return "none"
    return "black-box" if isinstance(attack, BlackBoxAttack) else "white-box"
