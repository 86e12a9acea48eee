"""Building a plan from a matrix's axes: each stage once, parents first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TypeAlias

from harness.contracts import (
    Attack,
    BlackBoxAttack,
    Dataset,
    Defense,
    Detector,
    Evasion,
    PoolAttack,
    TriggerRecipe,
)
from harness.errors import UsageError
from harness.planning.graph import (
    EMBED,
    SURROGATE,
    Action,
    Cell,
    Component,
    Lookup,
    ModelRole,
    Plan,
    Role,
    Stage,
    derive_seed,
    describe,
    make_id,
)
from harness.planning.inputs import inputs_of


def make_plan(
    datasets: Sequence[Component],
    defenses: Sequence[Component],
    chains: Sequence[tuple[Component, ...]],
    seeds: Sequence[int],
    nulls: int,
    lookup: Lookup,
    *,
    analyses: Sequence[Component] = (),
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


_Stages: TypeAlias = list[tuple[Role, str]]


@dataclass
class _Builder:
    """Adds each stage once; remembers what it has resolved."""

    lookup: Lookup
    nulls: int
    analyses: tuple[Component, ...] = ()
    stages: dict[str, Stage] = field(default_factory=dict)
    _reasons: dict[tuple[Component, Component], str] = field(default_factory=dict)
    _broken: set[tuple[Component, Component]] = field(default_factory=set)
    _embeds: dict[tuple[Component, Component, int], _Stages] = field(default_factory=dict)

    def cell(self, dataset: Component, defense: Component, chain: tuple[Component, ...], seed: int) -> Cell:
        """The cell, and its stages added to :attr:`stages`."""
        last, uses = chain[-1].plugin, (dataset, defense, *chain)
        labels = (dataset.text, defense.text, " | ".join(link.text for link in chain), seed)
        shape = (_family(chain), _access(last))
        reasons = (self._reason(dataset, use) for use in uses[1:])
        reason = next((r for r in reasons if r), "") or _outside(defense, chain)
        if reason:
            broken = any((dataset, use) in self._broken for use in uses[1:])
            return Cell(make_id("skip", *labels, reason), *labels, *shape, uses=uses, skip=reason, broken=broken)
        roles = [*self._victim(dataset, defense, seed), *self._attacked(dataset, defense, chain, seed)]
        texts = [(_text_of(role), id) for role, id in roles]
        return Cell(make_id("cell", *labels, texts), *labels, *shape, stages=tuple(roles), uses=uses)

    # --- why a combination cannot be ---

    def _reason(self, dataset: Component, use: Component) -> str:
        """The reason why ``use`` cannot be on ``dataset``, asked once; empty if it can."""
        key = (dataset, use)
        if key not in self._reasons:
            try:
                self._reasons[key] = next((f"{use}: {r}" for r in self._problems(dataset, use.plugin) if r), "")
            except UsageError:
                raise
            # A plugin that breaks while it is asked fails its own cells only.
            except Exception as error:
                self._reasons[key] = f"{use}: {type(error).__name__}: {error}"
                self._broken.add(key)
        return self._reasons[key]

    def _problems(self, dataset: Component, plugin: Defense | Attack) -> Iterator[str | None]:
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

    def _no_data(self, dataset: Component, name: str) -> str | None:
        if name == "ood" and not dataset.plugin.ood:
            return f"{dataset} names no out-of-distribution dataset"
        other = self._data(dataset, name)
        if other is None or other.plugin.value_range == dataset.plugin.value_range:
            return None
        ranges = "{} to {}, not {} to {}".format(*other.plugin.value_range, *dataset.plugin.value_range)
        return f"{other}'s inputs are of another kind than {dataset}'s: {ranges}"

    # --- stages ---

    def _victim(self, dataset: Component, defense: Component, seed: int) -> _Stages:
        """Null models, the victim and their verifications: shared by all attacks on this victim."""
        key = (dataset, defense, seed)
        if key not in self._embeds:
            embed = self._embed(dataset, defense, seed)
            roles = [
                *((Role(name), id) for name, id in self.stages[embed].parents),
                (EMBED, embed),
                (Role("verify", "victim"), self._verify(dataset, defense, seed, embed, "victim", embed)),
            ]
            for k in range(self.nulls):
                null = self._null(dataset, k)
                verify = self._verify(dataset, defense, seed, embed, f"null #{k}", null, k)
                roles += [(Role("null", number=k), null), (Role("verify", "null", k), verify)]
            self._embeds[key] = roles
        return self._embeds[key]

    def _attacked(self, dataset: Component, defense: Component, chain: tuple[Component, ...], seed: int) -> _Stages:
        embed = next(id for role, id in self._victim(dataset, defense, seed) if role is EMBED)
        roles: _Stages = []
        model, label = embed, ""
        for depth, link in enumerate(link for link in chain if isinstance(link.plugin, PoolAttack)):
            if isinstance(link.plugin, Detector):
                roles += self._detection(dataset, defense, link, seed, embed, model, label or "victim")
            else:
                label = f"{label} | {link}" if label else str(link)
                model = self._attack(dataset, defense, link, label, seed, depth, embed, model)
                roles.append((Role("attack", number=depth), model))
        roles += [
            (SURROGATE, model),
            (_VERIFY_SURROGATE, self._verify(dataset, defense, seed, embed, label or "victim", model)),
        ]
        if isinstance(chain[-1].plugin, Detector):  # it made no model: the chain without it is analysed
            return roles
        return roles + [
            (Role("analyse", use.text), self._analyse(dataset, defense, use, seed, embed, model, label or "victim"))
            for use in self.analyses
        ]

    def _detection(
        self, dataset: Component, defense: Component, link: Component, seed: int, embed: str, model: str, label: str
    ) -> _Stages:
        """The search for a mark in a suspect and in every null model, each judged by the key."""
        suspects = [("surrogate", 0, f"{defense} {label} #{seed}", model, "seed", seed)]
        suspects += [("null", k, f"null #{k}", self._null(dataset, k), "null", k) for k in range(self.nulls)]
        roles: _Stages = []
        for who, place, name, suspect, root, number in suspects:
            index = number if root == "null" else None
            examined: ModelRole = "null" if root == "null" else _role_of(suspect, embed)
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
                role=examined,
                cell_seed=None if root == "null" else seed,
                index=index,
            )
            # The detector's stage knows no key: what it finds in a null model is then found once for all schemes.
            judged = (("embed", embed), ("detect", detect))
            text = f"{dataset} {defense} judge {link} in {name} ({embed[:6]})"
            judge = self._add(
                "judge",
                text,
                dataset,
                seed=0,
                split_seed=0,
                parents=judged,
                role=examined,
                cell_seed=seed,
                index=index,
            )
            roles += [(Role("detect", who, place), detect), (Role("judge", who, place), judge)]
        return roles

    def _analyse(
        self, dataset: Component, defense: Component, analysis: Component, seed: int, embed: str, model: str, label: str
    ) -> str:
        return self._add(
            "analyse",
            f"{dataset} {defense} {label} #{seed}: {analysis}",
            dataset,
            seed=derive_seed("seed", seed, "analyse"),
            split_seed=derive_seed("seed", seed, "split"),
            plugin=analysis,
            parents=(("embed", embed), ("model", model)),
            role=_role_of(model, embed),
            cell_seed=seed,
        )

    def _null(self, dataset: Component, number: int) -> str:
        return self._add(
            "train",
            f"{dataset} null #{number}",
            dataset,
            seed=derive_seed("null", number, "train"),
            split_seed=derive_seed("null", number, "split"),
            epochs=dataset.plugin.epochs,
            architecture=self._architecture(dataset),
            role="null",
            index=number,
        )

    def _clean(self, dataset: Component, seed: int) -> str:
        """The model that the victims of a seed start from."""
        return self._add(
            "train",
            f"{dataset} clean #{seed}",
            dataset,
            seed=derive_seed("seed", seed, "train"),
            split_seed=derive_seed("seed", seed, "split"),
            epochs=dataset.plugin.pretrain,
            architecture=self._architecture(dataset),
            role="clean",
            cell_seed=seed,
        )

    def _embed(self, dataset: Component, defense: Component, seed: int) -> str:
        scheme: Defense = defense.plugin
        split = derive_seed("seed", seed, "split")
        recipe = scheme.triggers(dataset.plugin)
        parents: list[tuple[str, str]] = []
        if scheme.from_clean or (recipe and recipe.from_clean):
            parents.append(("clean", self._clean(dataset, seed)))
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
                cell_seed=seed,
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
            role="victim",
            cell_seed=seed,
        )

    def _attack(
        self,
        dataset: Component,
        defense: Component,
        link: Component,
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
            role="surrogate",
            cell_seed=seed,
        )

    def _verify(
        self,
        dataset: Component,
        defense: Component,
        seed: int,
        embed: str,
        suspect: str,
        model: str,
        null: int | None = None,
    ) -> str:
        # The label names the victim through its id: many seeds and options share the text of a defense.
        return self._add(
            "verify",
            f"{dataset} {defense} verify {suspect} ({embed[:6]})",
            dataset,
            seed=0,
            split_seed=0,
            plugin=defense,
            parents=(("embed", embed), ("model", model)),
            role=_role_of(model, embed) if null is None else "null",
            cell_seed=seed,
            index=null,
        )

    def _architecture(self, dataset: Component, plugin: Defense | Attack | None = None) -> Component:
        own = plugin.architecture_built if isinstance(plugin, PoolAttack) else ""
        return self.lookup("architecture", own or dataset.plugin.architecture)

    def _data(self, dataset: Component, name: str) -> Component | None:
        """The other dataset that ``name`` stands for, with the recipe's own text; ``None`` for the task's own data."""
        if name in ("", "same", "disjoint"):
            return None
        return self.lookup("dataset", dataset.plugin.ood if name == "ood" else name)

    def _add(
        self,
        action: Action,
        label: str,
        dataset: Component,
        *,
        seed: int,
        split_seed: int,
        plugin: Component | None = None,
        architecture: Component | None = None,
        data: Component | None = None,
        recipe: TriggerRecipe | None = None,
        epochs: int = 0,
        parents: tuple[tuple[str, str], ...] = (),
        role: ModelRole | None = None,
        cell_seed: int | None = None,
        index: int | None = None,
    ) -> str:
        rest = (label, seed, split_seed, dataset, plugin, architecture, data, recipe, epochs, parents)
        tags = (role, cell_seed, index)
        id = make_id(*inputs_of(Stage("", action, *rest)).values())
        if id not in self.stages:
            self.stages[id] = Stage(id, action, *rest, *tags)
        return id


_VERIFY_SURROGATE = Role("verify", "surrogate")
_text_of = cache(str)
"""A role's text: a large plan asks a million times for the same few."""


def _role_of(model: str, embed: str) -> ModelRole:
    """The role of a suspect that is no null model."""
    return "victim" if model == embed else "surrogate"


def _family(chain: Iterable[Component]) -> str:
    """The families of a chain, each once, in order."""
    families: dict[str, None] = {link.plugin.family: None for link in chain}
    return "+".join(families)


def _outside(defense: Component, chain: Iterable[Component]) -> str:
    """The reason why a scheme is not judged against a chain; empty if it is."""
    first = next((link.plugin for link in chain if isinstance(link.plugin, PoolAttack)), None)
    if first is None or isinstance(first, BlackBoxAttack) or "model" in defense.plugin.protects:
        return ""
    return f"{defense}: protects only its API: a thief with the weights is outside its threat model"


def _access(attack: Attack) -> str:
    if not isinstance(attack, PoolAttack):
        return "none"
    return "black-box" if isinstance(attack, BlackBoxAttack) else "white-box"
