"""Building a plan from a matrix's axes: each stage once, parents first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, TypeAlias

from harness.contracts import (
    Attack,
    BlackBoxAttack,
    Dataset,
    Defense,
    Detector,
    Evasion,
    Knowledge,
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
    Suspect,
    SuspectKind,
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
    what a recipe names: an architecture, or another dataset. Of the defenses, those that mark nothing make the innocent
    models that every key is asked of; one of another recipe is not attacked. Raises :class:`UsageError`.
    """
    for chain in chains:
        for link in chain[:-1]:
            if isinstance(link.plugin, Detector | Evasion):
                text = " | ".join(map(str, chain))
                raise UsageError(f"{link.plugin.family} must be the last link of a chain: {text!r}")
    builder = _Builder(cache(lookup), nulls, tuple(defenses), tuple(seeds), tuple(analyses))
    asked = [
        (dataset, defense, chain, seed)
        for dataset in datasets
        for seed in seeds
        for defense in defenses
        for chain in chains
        if defense.plugin.innocent != "other-recipe" or _threat(chain) == "none"
    ]
    # First what the cells are about, then the models to compare with: a broken plugin is found at once.
    for each in asked:
        builder.own_stages(*each)
    return Plan(builder.stages, tuple(builder.cell(*each) for each in asked))


_Stages: TypeAlias = list[tuple[Role, str]]
_Chain: TypeAlias = tuple[Component, ...]
MAX_INNOCENTS = 20
"""Innocent models of a kind that a key is asked of: those of the next seeds. The unit is the model; the keys of other
seeds are asked of others."""


@dataclass
class _Builder:
    """Adds each stage once; remembers what it has resolved."""

    lookup: Lookup
    nulls: int
    defenses: tuple[Component, ...]
    seeds: tuple[int, ...]
    analyses: tuple[Component, ...] = ()
    stages: dict[str, Stage] = field(default_factory=dict)
    _reasons: dict[tuple[Component, Component], str] = field(default_factory=dict)
    _broken: set[tuple[Component, Component]] = field(default_factory=set)
    _embeds: dict[tuple[Component, Component, int], _Stages] = field(default_factory=dict)
    _own: dict[tuple[Component, Component, _Chain, int], _Stages] = field(default_factory=dict)
    _made_of: dict[str, frozenset[str]] = field(default_factory=dict)
    _attacked_nulls: dict[tuple[Component, Component, _Chain, str], list[Suspect]] = field(default_factory=dict)

    def cell(self, dataset: Component, defense: Component, chain: _Chain, seed: int) -> Cell:
        """The cell, and its stages added to :attr:`stages`."""
        last, uses = chain[-1].plugin, (dataset, defense, *chain)
        labels = (dataset.text, defense.text, " | ".join(link.text for link in chain), seed)
        shape = (_family(chain), _access(last))
        known: dict[str, Any] = {"threat": _threat(chain), "knows": _knows(chain), "labelled": _labelled(chain)}
        reason = self._why_not(dataset, defense, chain)
        if reason:
            broken = any((dataset, use) in self._broken for use in uses[1:])
            id = make_id("skip", *labels, reason)
            return Cell(id, *labels, *shape, uses=uses, skip=reason, broken=broken, **known)
        roles = self.own_stages(dataset, defense, chain, seed)
        roles = [*roles, *self._compared(dataset, defense, chain, seed)]
        texts = [(_text_of(role), id) for role, id in roles]
        return Cell(make_id("cell", *labels, texts), *labels, *shape, stages=tuple(roles), uses=uses, **known)

    def own_stages(self, dataset: Component, defense: Component, chain: _Chain, seed: int) -> _Stages:
        """The stages of a cell that are about its own models; none where it cannot be."""
        key = (dataset, defense, chain, seed)
        if key not in self._own:
            possible = not self._why_not(dataset, defense, chain)
            victim = self._victim(dataset, defense, seed) if possible else []
            self._own[key] = [*victim, *self._attacked(dataset, defense, chain, seed)] if possible else []
        return self._own[key]

    def _compared(self, dataset: Component, defense: Component, chain: _Chain, seed: int) -> _Stages:
        """The models that are compared with a cell's: null models, attacked ones, and innocents."""
        if defense.plugin.innocent:
            return []
        roles = list(self._null_detections(dataset, defense, chain, seed))
        embed = _stage_of(EMBED, self.own_stages(dataset, defense, chain, seed))
        groups = {"null": self._nulls_after((), dataset, defense, embed)}
        if not isinstance(chain[-1].plugin, Detector):  # its cell has the model of the chain without it
            groups["attacked"] = self._nulls_after(chain, dataset, defense, embed) if _attacks(chain) else []
            groups["innocent"] = list(self._innocents(dataset, defense, chain, seed))
        for about, suspects in groups.items():
            if suspects:
                chain_text = " | ".join(link.text for link in _attacks(chain)) if about != "null" else ""
                label = f"{dataset} {defense} ask {about} {chain_text} ({embed[:6]})".replace("  ", " ")
                roles.append((Role("ask", about), self._ask(dataset, defense, seed, embed, label, suspects)))
        return roles

    # --- why a combination cannot be ---

    def _why_not(self, dataset: Component, defense: Component, chain: _Chain) -> str:
        """The reason why there can be no such cell; empty if there can."""
        reasons = (self._reason(dataset, use) for use in (defense, *chain))
        return next((reason for reason in reasons if reason), "") or _outside(defense, chain)

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
        """The victim, what it is made of, and its verification: shared by all attacks on it."""
        key = (dataset, defense, seed)
        if key not in self._embeds:
            embed = self._embed(dataset, defense, seed)
            roles = [
                *((Role(name), id) for name, id in self.stages[embed].parents),
                (EMBED, embed),
            ]
            if not defense.plugin.innocent:  # it has a key to ask
                roles.append((Role("verify", "victim"), self._verify(dataset, defense, seed, embed, "victim", embed)))
            self._embeds[key] = roles
        return self._embeds[key]

    def _attacked(self, dataset: Component, defense: Component, chain: tuple[Component, ...], seed: int) -> _Stages:
        embed = next(id for role, id in self._victim(dataset, defense, seed) if role is EMBED)
        roles: _Stages = []
        model, label = embed, ""
        for depth, link in enumerate(_attacks(chain)):
            label = f"{label} | {link}" if label else str(link)
            model = self._attack(dataset, f"{defense} {label} #{seed}", link, "seed", seed, depth, embed, model)
            roles.append((Role("attack", number=depth), model))
        if isinstance(chain[-1].plugin, Detector):
            suspect = (f"{defense} {label or 'victim'} #{seed}", model, _role_of(model, embed))
            roles += self._detection(dataset, defense, chain[-1], seed, embed, suspect)
        roles.append((SURROGATE, model))
        if not defense.plugin.innocent:
            roles.append((_VERIFY_SURROGATE, self._verify(dataset, defense, seed, embed, label or "victim", model)))
        if isinstance(chain[-1].plugin, Detector):  # it made no model: the chain without it is analysed
            return roles
        return roles + [
            (Role("analyse", use.text), self._analyse(dataset, defense, use, seed, embed, model, label or "victim"))
            for use in self.analyses
        ]

    def _detection(
        self,
        dataset: Component,
        defense: Component,
        link: Component,
        seed: int,
        embed: str,
        suspect: tuple[str, str, ModelRole],
        index: int | None = None,
    ) -> _Stages:
        """The search for a mark in a suspect (its name, the stage that made it, its role), judged by the key."""
        name, model, role = suspect
        root, number, who = ("seed", seed, "surrogate") if index is None else ("null", index, "null")
        detect = self._add(
            "detect",
            f"{dataset} {link} in {name}",
            dataset,
            seed=derive_seed(root, number, "detect"),
            split_seed=derive_seed(root, number, "split"),
            plugin=link,
            architecture=self._architecture(dataset, link.plugin),
            data=self._data(dataset, link.plugin.pool),
            parents=(("model", model),),
            role=role,
            cell_seed=seed if index is None else None,
            index=index,
        )
        # The detector's stage knows no key: what it finds in a null model is then found once for all schemes.
        judge = self._add(
            "judge",
            f"{dataset} {defense} judge {link} in {name} ({embed[:6]})",
            dataset,
            seed=0,
            split_seed=0,
            parents=(("embed", embed), ("detect", detect)),
            role=role,
            cell_seed=seed,
            index=index,
        )
        return [(Role("detect", who, index or 0), detect), (Role("judge", who, index or 0), judge)]

    # --- what a cell is compared with ---

    def _null_detections(
        self, dataset: Component, defense: Component, chain: _Chain, seed: int
    ) -> Iterator[tuple[Role, str]]:
        """The search for a mark in the null models, after the attacks of the chain that come before the detector."""
        if not isinstance(chain[-1].plugin, Detector):
            return
        embed = _stage_of(EMBED, self.own_stages(dataset, defense, chain, seed))
        for kind, number, _, model, _ in self._nulls_after(chain, dataset, defense, embed):
            role: ModelRole = "attacked" if kind == "attacked" else "null"
            before = " | ".join(link.text for link in _attacks(chain))
            name = f"null #{number}" + (f" after {before}" if before else "")
            yield from self._detection(dataset, defense, chain[-1], seed, embed, (name, model, role), number)

    def _nulls_after(self, chain: _Chain, dataset: Component, defense: Component, embed: str) -> list[Suspect]:
        """What the attacks of a chain make of the null models, each of which plays the victim; or these themselves."""
        links = _attacks(chain)
        # Who is given nothing of the defense does the same whatever the scheme, the key and the seed.
        given = embed if _knows(links) != "nothing" else ""
        own = self._architecture(dataset, defense.plugin)
        key = (dataset, own, links, given)
        if key not in self._attacked_nulls:
            self._attacked_nulls[key] = [
                self._null_after(links, dataset, defense, embed, number) for number in range(self.nulls)
            ]
        return self._attacked_nulls[key]

    def _null_after(self, links: _Chain, dataset: Component, defense: Component, embed: str, number: int) -> Suspect:
        null = model = self._null(dataset, defense, number)
        label = ""
        for depth, link in enumerate(links):
            label = f"{label} | {link}" if label else str(link)
            given = (("key", embed),) if link.plugin.knows != "nothing" else ()
            text = f"{label} null #{number}" + (f" ({embed[:6]})" if given else "")
            model = self._attack(dataset, text, link, "null", number, depth, null, model, given)
        return Suspect("attacked" if links else "null", number, "", model, null)

    def _innocents(self, dataset: Component, defense: Component, chain: _Chain, seed: int) -> Iterator[Suspect]:
        """Models that carry no mark, or another owner's: the key of this seed is asked of them."""
        if _knows(chain) != "nothing":  # they were attacked with another key than the one that is asked
            return
        place = self.seeds.index(seed)
        others = (self.seeds[place + 1 :] + self.seeds[:place])[:MAX_INNOCENTS]
        groups: list[tuple[SuspectKind, Component, tuple[int, ...]]] = []
        for arm in self.defenses:
            if arm.plugin.innocent == "fresh":
                groups.append(("fresh", arm, others))
            if arm.plugin.innocent and _threat(chain) == "none":
                fresh = arm.plugin.innocent == "fresh"
                groups.append(("same-data", arm, (seed,)) if fresh else ("other-recipe", arm, others or (seed,)))
        groups.append(("other-owner", defense, others))
        for kind, arm, seeds in groups:
            for other in seeds:
                if roles := self.own_stages(dataset, arm, chain, other):
                    yield Suspect(kind, other, arm.text, _stage_of(SURROGATE, roles), _stage_of(EMBED, roles))

    def _ask(
        self, dataset: Component, defense: Component, seed: int, embed: str, label: str, suspects: Sequence[Suspect]
    ) -> str:
        """The questions of a key to models that are not its own. Raises :class:`UsageError` for one that is."""
        ancestors = self._ancestors(embed)
        for suspect in suspects:
            if {suspect.model, suspect.base} & ancestors:
                raise UsageError(
                    f"{self.stages[suspect.base].label} had a part in the key of {self.stages[embed].label}: "
                    "it can be no model to compare with"
                )
        asked = tuple((f"{kind} {number} {arm}".strip(), model) for kind, number, arm, model, _ in suspects)
        return self._add(
            "ask",
            label,
            dataset,
            seed=0,
            split_seed=0,
            plugin=defense,
            parents=(("embed", embed), *asked),
            cell_seed=seed,
            suspects=tuple(suspects),
        )

    def _ancestors(self, embed: str) -> frozenset[str]:
        """The stages that a key was made of, its own included."""
        if embed not in self._made_of:
            parents = (self._ancestors(id) for _, id in self.stages[embed].parents)
            self._made_of[embed] = frozenset([embed]).union(*parents)
        return self._made_of[embed]

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

    def _null(self, dataset: Component, defense: Component, number: int) -> str:
        return self._add(
            "train",
            f"{dataset} null #{number}",
            dataset,
            seed=derive_seed("null", number, "train"),
            split_seed=derive_seed("null", number, "split"),
            epochs=dataset.plugin.epochs,
            architecture=self._architecture(dataset, defense.plugin),
            role="null",
            index=number,
        )

    def _clean(self, dataset: Component, defense: Component, seed: int) -> str:
        """The model that the victims of a seed start from."""
        return self._add(
            "train",
            f"{dataset} clean #{seed}",
            dataset,
            seed=derive_seed("seed", seed, "train"),
            split_seed=derive_seed("seed", seed, "split"),
            epochs=dataset.plugin.pretrain,
            architecture=self._architecture(dataset, defense.plugin),
            role="clean",
            cell_seed=seed,
        )

    def _embed(self, dataset: Component, defense: Component, seed: int) -> str:
        scheme: Defense = defense.plugin
        split = derive_seed("seed", seed, "split")
        recipe = scheme.triggers(dataset.plugin)
        parents: list[tuple[str, str]] = []
        if scheme.from_clean or (recipe and recipe.from_clean):
            parents.append(("clean", self._clean(dataset, defense, seed)))
        if recipe is not None:
            triggers = self._add(
                "triggers",
                f"{dataset} {type(recipe).__name__}({describe(recipe)}) #{seed}",
                dataset,
                seed=derive_seed("seed", seed, "triggers"),
                split_seed=split,
                recipe=recipe,
                architecture=self._architecture(dataset, scheme),
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
        text: str,
        link: Component,
        root: Literal["seed", "null"],
        number: int,
        depth: int,
        embed: str,
        model: str,
        given: tuple[tuple[str, str], ...] = (),
    ) -> str:
        """One attack on the victim that ``embed`` made, or on a null model that plays it, as left by those before."""
        return self._add(
            "attack",
            f"{dataset} {text}",
            dataset,
            seed=derive_seed(root, number, "attack", depth),
            split_seed=derive_seed(root, number, "split"),
            plugin=link,
            architecture=self._architecture(dataset, link.plugin),
            data=self._data(dataset, link.plugin.pool),
            parents=(("embed", embed), ("model", model), *given),
            role="surrogate" if root == "seed" else "attacked",
            cell_seed=number if root == "seed" else None,
            index=number if root == "null" else None,
        )

    def _verify(self, dataset: Component, defense: Component, seed: int, embed: str, suspect: str, model: str) -> str:
        # The label names the victim through its id: many seeds and options share the text of a defense.
        return self._add(
            "verify",
            f"{dataset} {defense} verify {suspect} ({embed[:6]})",
            dataset,
            seed=0,
            split_seed=0,
            plugin=defense,
            parents=(("embed", embed), ("model", model)),
            role=_role_of(model, embed),
            cell_seed=seed,
        )

    def _architecture(self, dataset: Component, plugin: Defense | Attack | None = None) -> Component:
        own = plugin.architecture_built if isinstance(plugin, PoolAttack | Defense) else ""
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
        suspects: tuple[Suspect, ...] = (),
    ) -> str:
        rest = (label, seed, split_seed, dataset, plugin, architecture, data, recipe, epochs, parents)
        tags = (role, cell_seed, index, suspects)
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


def _attacks(chain: _Chain) -> _Chain:
    """The links of a chain that leave another model, or a filter before it: all but detectors and ``none``."""
    return tuple(
        link for link in chain if isinstance(link.plugin, PoolAttack) and not isinstance(link.plugin, Detector)
    )


def _stage_of(role: Role, roles: _Stages) -> str:
    """The stage that has a role."""
    return next(id for each, id in roles if each == role)


def _threat(chain: _Chain) -> str:
    """What the first attack of a chain has of the victim."""
    return _access(next((link.plugin for link in chain if isinstance(link.plugin, PoolAttack)), chain[0].plugin))


def _knows(chain: _Chain) -> Knowledge:
    """What a chain's attacks are given of the defense: the most that one of them is."""
    given: set[Knowledge] = {link.plugin.knows for link in chain if isinstance(link.plugin, PoolAttack)}
    return "key" if "key" in given else "scheme" if "scheme" in given else "nothing"


def _labelled(chain: _Chain) -> bool:
    """True if an attack of a chain has true labels."""
    return any(link.plugin.labelled for link in chain if isinstance(link.plugin, PoolAttack))


def _access(attack: Attack) -> str:
    """What an attack has of the model under attack."""
    if not isinstance(attack, PoolAttack):
        return "none"
    return "black-box" if isinstance(attack, BlackBoxAttack) else "white-box"
