"""Building a plan from a matrix's axes: each stage once, parents first."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from itertools import chain as chain_of
from typing import Any, Literal, NamedTuple, TypeAlias

from harness.contracts import ActiveDefense, Attack, BlackBoxAttack, Dataset, Defense, PoolAttack
from harness.errors import UsageError
from harness.files import weights_in
from harness.isolation import Guard, Interrupted, describe_error
from harness.isolation.torch_settings import random_states_kept
from harness.planning.chains import Chain
from harness.planning.graph import (
    EMBED,
    SURROGATE,
    Cell,
    Component,
    Lookup,
    ModelRole,
    Plan,
    Role,
    Suspect,
    SuspectKind,
    make_id,
)
from harness.planning.stages import Secret, StageMaker, role_of


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
    models that every key is asked of; one of another recipe is not attacked. A scheme of one given model has cells of
    the first seed alone. Raises :class:`UsageError`.
    """
    # Whose models a key is asked of must not depend on the order in which a matrix names them.
    arms = sorted((each for each in defenses if each.plugin.innocent), key=str)
    builder = _Builder(
        lookup=cache(lookup),
        nulls=nulls,
        arms=tuple((each, each.plugin.innocent == "fresh") for each in arms),
        seeds=tuple(sorted(set(seeds))),
        analyses=tuple(analyses),
    )
    for dataset in datasets:
        _check_given(dataset, nulls)
    known = [Chain(links) for links in chains]
    asked = [
        (dataset, defense, chain, seed)
        for dataset in datasets
        for seed in seeds
        for defense in defenses
        for chain in known
        if defense.plugin.innocent != "other-recipe" or chain.threat == "none"
        if not defense.plugin.one_model or seed == builder.seeds[0]
    ]
    with _uncollected(), random_states_kept():
        # First what the cells are about, then the models to compare with: a broken plugin is found at once.
        for each in asked:
            builder.own_stages(*each)
        cells = tuple(builder.cell(*each) for each in asked)
        return Plan(builder.stages, cells, tuple(dict.fromkeys(builder.warnings)))


def _check_given(dataset: Component, nulls: int) -> None:
    """Check that the unmarked models that a data set gives as files are enough. Raises :class:`UsageError`."""
    if folder := dataset.plugin.unmarked_from:
        given = len(weights_in(folder))
        if nulls > given:
            raise UsageError(
                f"{folder} has {given} weights files, and {nulls} unmarked models are asked for: --nulls {given}"
            )


@contextmanager
def _uncollected() -> Iterator[None]:
    """Pauses the search for cycles: a plan has none, and searching its millions of tuples takes a third of the time."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


_Stages: TypeAlias = list[tuple[Role, str]]
MAX_INNOCENTS = 20
"""Innocent models of a kind that a key is asked of: those of the next seeds. The unit is the model; the keys of other
seeds are asked of others."""


class _Own(NamedTuple):
    """The stages of a cell that are about its own models."""

    roles: _Stages
    embed: str
    """The stage that made the victim."""
    model: str
    """The stage that made the model which the chain ends with."""
    secret: Secret


class _Models(NamedTuple):
    """Models that a key is asked of, and the same as parents: (role, id). All who ask them share these objects."""

    suspects: tuple[Suspect, ...] = ()
    parents: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, suspects: Iterable[Suspect]) -> _Models:
        made = tuple(suspects)
        return cls(made, tuple((f"{each.kind} {each.number} {each.arm}".rstrip(), each.model) for each in made))

    def after(self, place: int) -> _Models:
        """Those after a place, round about, and not the one at it; so many at most as a key is asked of a kind."""
        suspects = self.suspects[place + 1 :] + self.suspects[:place]
        parents = self.parents[place + 1 :] + self.parents[:place]
        return _Models(suspects[:MAX_INNOCENTS], parents[:MAX_INNOCENTS])

    def at(self, place: int) -> _Models:
        """The one at a place."""
        return _Models(self.suspects[place : place + 1], self.parents[place : place + 1])


@dataclass(kw_only=True)
class _Builder(StageMaker):
    """Adds each stage once; remembers what it has resolved."""

    nulls: int
    arms: tuple[tuple[Component, bool], ...]
    """The defenses that mark nothing, and whether each trains by the victims' own recipe."""
    seeds: tuple[int, ...]
    """In order."""
    analyses: tuple[Component, ...] = ()
    warnings: list[str] = field(default_factory=list)
    """Sentences on what plugins changed in the process."""
    _guard: Guard | None = None
    """The guard of the plugin that was asked before."""
    _asked: set[type] = field(default_factory=set)
    """The classes of plugins that were asked."""
    _reasons: dict[tuple[Component, Component], str] = field(default_factory=dict)
    _impossible: dict[tuple[Component, Component, Chain], str] = field(default_factory=dict)
    _broken: set[tuple[Component, Component]] = field(default_factory=set)
    _embeds: dict[tuple[Component, Component, int], _Stages] = field(default_factory=dict)
    _own: dict[tuple[Component, Component, Chain, int], _Own | None] = field(default_factory=dict)
    _made_of: dict[str, frozenset[str]] = field(default_factory=dict)
    _attacked_nulls: dict[tuple[Component, Component, tuple[Component, ...], Component | str | None], _Models] = field(
        default_factory=dict
    )
    _of_seeds: dict[tuple[SuspectKind, Component, Component, Chain], _Models] = field(default_factory=dict)
    _null_asks: dict[Secret, str] = field(default_factory=dict)
    """The stages that ask the null models, by what the owner verifies with: all chains share a key."""

    def cell(self, dataset: Component, defense: Component, chain: Chain, seed: int) -> Cell:
        """The cell, and its stages added to :attr:`stages`."""
        uses = (dataset, defense, *chain.links)
        labels = (dataset.text, defense.text, chain.text, seed)
        shape = (chain.family, chain.access)
        known: dict[str, Any] = {
            **{"threat": chain.threat, "knows": chain.knows},
            **{"forged_before": chain.forged_before, "labelled_share": chain.labelled_share},
        }
        own = self.own_stages(dataset, defense, chain, seed)
        if own is None:
            reason = self._why_not(dataset, defense, chain)
            broken = any((dataset, use) in self._broken for use in uses[1:])
            id = make_id("skip", *labels, reason)
            return Cell(id, *labels, *shape, uses=uses, skip=reason, broken=broken, **known)
        roles = [*own.roles, *self._compared(dataset, defense, chain, seed, own.secret)]
        texts = [(_text_of(role), id) for role, id in roles]
        return Cell(make_id("cell", *labels, texts), *labels, *shape, stages=tuple(roles), uses=uses, **known)

    def own_stages(self, dataset: Component, defense: Component, chain: Chain, seed: int) -> _Own | None:
        """The stages of a cell that are about its own models; ``None`` where it cannot be."""
        key = (dataset, defense, chain, seed)
        if key not in self._own:
            possible = not self._why_not(dataset, defense, chain)
            self._own[key] = self._about_own(dataset, defense, chain, seed) if possible else None
        return self._own[key]

    def _compared(self, dataset: Component, defense: Component, chain: Chain, seed: int, secret: Secret) -> _Stages:
        """The models that are compared with a cell's: null models, attacked ones, and innocents."""
        if defense.plugin.innocent:
            return []
        roles = list(self._null_detections(dataset, defense, chain, seed, secret.embed))
        name = f"{dataset} {defense} ask"
        if secret not in self._null_asks:
            nulls = self._nulls_after(None, dataset, defense, secret.embed)
            label = f"{name} null ({secret.embed[:6]})"
            self._null_asks[secret] = self._ask(dataset, defense, seed, secret, label, nulls) if self.nulls else ""
        if asked := self._null_asks[secret]:
            roles.append((_ASK["null"], asked))
        if chain.detector or chain.forger:  # a detector's cell has the model of the chain without it
            return roles
        groups = {"innocent": self._innocents(dataset, defense, chain, seed)}
        if chain.attacks:
            groups = {"attacked": self._nulls_after(chain, dataset, defense, secret.embed), **groups}
        for about, models in groups.items():
            if models.suspects:
                label = f"{name} {about} {chain.before} ({secret.embed[:6]})".replace("  ", " ")
                roles.append((_ASK[about], self._ask(dataset, defense, seed, secret, label, models)))
        return roles

    # --- why a combination cannot be ---

    def _why_not(self, dataset: Component, defense: Component, chain: Chain) -> str:
        """The reason why there can be no such cell, with any seed; empty if there can."""
        key = (dataset, defense, chain)
        if key not in self._impossible:
            reasons = (self._reason(dataset, use) for use in (defense, *chain.links))
            self._impossible[key] = next((reason for reason in reasons if reason), "") or chain.outside(defense)
        return self._impossible[key]

    def _reason(self, dataset: Component, use: Component) -> str:
        """The reason why ``use`` cannot be on ``dataset``, asked once; empty if it can."""
        key = (dataset, use)
        if key not in self._reasons:
            try:
                with self._guarded(use):
                    self._reasons[key] = next((f"{use}: {r}" for r in self._problems(dataset, use.plugin) if r), "")
            except (UsageError, Interrupted):
                raise
            # A plugin that breaks while it is asked, or leaves, fails its own cells only.
            except BaseException as error:
                self._reasons[key] = f"{use}: {describe_error(error)}"
                self._broken.add(key)
        return self._reasons[key]

    @contextmanager
    def _guarded(self, use: Component) -> Iterator[None]:
        """A guard around questions to a plugin. Functions that it replaced are looked for the first time of a class."""
        guard = self._guard = Guard(seed=0, after=self._guard, quick=type(use.plugin) in self._asked)
        self._asked.add(type(use.plugin))
        try:
            with guard:
                yield
        finally:
            self.warnings += guard.warnings(f"{use.kind} {use.plugin.name}, asked for its stages,")

    def _problems(self, dataset: Component, plugin: Defense | Attack) -> Iterator[str | None]:
        task: Dataset = dataset.plugin
        yield plugin.skip(task)
        yield self.architecture(dataset, plugin).plugin.skip(task)
        if isinstance(plugin, Defense) and (recipe := self.recipe(dataset, plugin)):
            yield recipe.skip(task)
            yield self._no_data(dataset, recipe.data)
        if isinstance(plugin, PoolAttack):
            yield self._no_data(dataset, plugin.pool)
            missing = 2 * task.train + task.holdout - task.available
            if plugin.pool == "disjoint" and missing > 0:
                yield f"pool=disjoint needs {missing} more training samples than {dataset} has"
        if isinstance(plugin, BlackBoxAttack) and plugin.pretrained_on:
            yield from self._no_source(dataset, plugin)

    def _no_data(self, dataset: Component, name: str) -> str | None:
        if name == "ood" and not dataset.plugin.ood:
            return f"{dataset} names no out-of-distribution dataset"
        other = self.data(dataset, name)
        if other is None or other.plugin.value_range == dataset.plugin.value_range:
            return None
        ranges = "{} to {}, not {} to {}".format(*other.plugin.value_range, *dataset.plugin.value_range)
        return f"{other}'s inputs are of another kind than {dataset}'s: {ranges}"

    def _no_source(self, dataset: Component, attack: BlackBoxAttack) -> Iterator[str | None]:
        """Reasons why there is no net of another data set that the attack could start from."""
        yield self._no_data(dataset, attack.pretrained_on)
        source = self.source(dataset, attack)
        if source is None or not isinstance(source.plugin, Dataset):
            yield f"{source or attack.pretrained_on} is not a task that a net could be trained on"
        elif source.plugin.name == dataset.plugin.name:
            yield f"{source} is the task itself"
        elif source.plugin.input_shape != dataset.plugin.input_shape:
            shapes = f"{source.plugin.input_shape}, those of {dataset} {dataset.plugin.input_shape}"
            yield f"a net of {source} cannot take the inputs: its own are {shapes}"
        else:
            yield self.architecture(dataset, attack).plugin.skip(source.plugin)

    # --- stages ---

    def _victim(self, dataset: Component, defense: Component, seed: int) -> _Stages:
        """The victim, and what it is made of: shared by all attacks on it."""
        key = (dataset, defense, seed)
        if key not in self._embeds:
            embed = self.embed(dataset, defense, seed)
            self._embeds[key] = [*((Role(name), id) for name, id in self.stages[embed].parents), (EMBED, embed)]
        return self._embeds[key]

    def _about_own(self, dataset: Component, defense: Component, chain: Chain, seed: int) -> _Own:
        victim = self._victim(dataset, defense, seed)
        embed = model = next(id for role, id in victim if role is EMBED)
        attacked: _Stages = []
        label = ""
        for depth, link in enumerate(chain.attacks):
            label = f"{label} | {link}" if label else str(link)
            model = self.attack(dataset, f"{defense} {label} #{seed}", link, "seed", seed, depth, embed, model)
            attacked.append((Role("attack", number=depth), model))
        logged = isinstance(defense.plugin, ActiveDefense) and chain.threat == "black-box"
        secret = Secret(model) if chain.forger else Secret(embed, attacked[0][1] if logged else "")
        roles = [*victim]
        verified: _Stages = []
        if not defense.plugin.innocent:  # it has a key to ask
            roles.append((Role("verify", "victim"), self.verify(dataset, defense, seed, secret, "victim", embed)))
            told = label or "victim"
            verified = [(Role("verify", "surrogate"), self.verify(dataset, defense, seed, secret, told, model))]
        roles += attacked
        if chain.detector:
            name = f"{defense} {label or 'victim'} #{seed}"
            search = self.detect(dataset, chain.detector, name, model, role_of(model, embed), "seed", seed)
            roles.append((Role("detect", "surrogate", 0), search))
            roles.append(self._judge(dataset, defense, chain.detector, seed, embed, "surrogate", [search]))
        roles += [(SURROGATE, model), *verified]
        if not chain.detector:  # it made no model: the chain without it is analysed
            roles += [
                (Role("analyse", use.text), self.analyse(dataset, defense, use, seed, embed, model, label or "victim"))
                for use in self.analyses
            ]
        return _Own(roles, embed, model, secret)

    def _judge(
        self,
        dataset: Component,
        defense: Component,
        link: Component,
        seed: int,
        embed: str,
        who: Literal["surrogate", "null"],
        searches: Sequence[str],
    ) -> tuple[Role, str]:
        """The comparison of a key with what a detector found in the cell's model, or in all null models."""
        # The detector's stages know no key: what one finds in a null model is then found once for all schemes.
        id = self.add(
            "judge",
            f"{dataset} {defense} judge {link} in {who} #{seed} ({embed[:6]})",
            dataset,
            seed=0,
            split_seed=0,
            parents=(("embed", embed), *((f"{who} {number}", search) for number, search in enumerate(searches))),
            cell_seed=seed,
            suspects=tuple(Suspect(who, number, "", search, search) for number, search in enumerate(searches)),
        )
        return Role("judge", who), id

    # --- what a cell is compared with ---

    def _null_detections(
        self, dataset: Component, defense: Component, chain: Chain, seed: int, embed: str
    ) -> Iterator[tuple[Role, str]]:
        """The search for a mark in the null models, after the attacks of the chain that come before the detector."""
        detector, searches = chain.detector, []
        if detector is None:
            return
        for kind, number, _, model, _ in self._nulls_after(chain, dataset, defense, embed).suspects:
            role: ModelRole = "attacked" if kind == "attacked" else "null"
            name = f"null #{number}" + (f" after {chain.before}" if chain.before else "")
            searches.append(self.detect(dataset, detector, name, model, role, "null", number))
        if searches:
            yield self._judge(dataset, defense, detector, seed, embed, "null", searches)

    def _nulls_after(self, chain: Chain | None, dataset: Component, defense: Component, embed: str) -> _Models:
        """Null models after the attacks of a chain, where each of them plays the victim; without a chain themselves."""
        links = chain.attacks if chain else ()
        # Who is given nothing of the defense does the same whatever the scheme, the key and the seed; who is told the
        # scheme alone the same whatever the key and the seed.
        known = {link.plugin.knows for link in links}
        given = embed if "key" in known else defense if "scheme" in known else None
        key = (dataset, self.architecture(dataset, defense.plugin), links, given)
        if key not in self._attacked_nulls:
            self._attacked_nulls[key] = _Models.of(
                self._null_after(links, dataset, defense, embed, number) for number in range(self.nulls)
            )
        return self._attacked_nulls[key]

    def _null_after(
        self, links: Sequence[Component], dataset: Component, defense: Component, embed: str, number: int
    ) -> Suspect:
        null = model = self.null(dataset, defense, number)
        label = ""
        for depth, link in enumerate(links):
            label = f"{label} | {link}" if label else str(link)
            knows = link.plugin.knows
            given, scheme = (("key", embed),) if knows == "key" else (), defense if knows == "scheme" else None
            told = {"nothing": "", "scheme": f" ({defense})", "key": f" ({embed[:6]})"}[knows]
            text = f"{label} null #{number}{told}"
            model = self.attack(dataset, text, link, "null", number, depth, null, model, given, scheme)
        return Suspect("attacked" if links else "null", number, "", model, null)

    def _innocents(self, dataset: Component, defense: Component, chain: Chain, seed: int) -> _Models:
        """Models that carry no mark, or another owner's: the key of this seed is asked of them."""
        if chain.knows != "nothing":  # they were attacked with another key than the one that is asked
            return _Models()
        place = self.seeds.index(seed)
        found: list[_Models] = []
        for arm, fresh in self.arms:
            alike = fresh and not dataset.plugin.unmarked_from  # given models are of a recipe of their own
            if alike:
                found.append(self._of_all_seeds("fresh", dataset, arm, chain).after(place))
            if chain.threat == "none" and fresh:
                found.append(self._of_all_seeds("same-data", dataset, arm, chain).at(place))
            if chain.threat == "none" and not alike:
                others = self._of_all_seeds("other-recipe", dataset, arm, chain)
                found.append(others.after(place) if len(self.seeds) > 1 else others)
        if not defense.plugin.one_model:
            found.append(self._of_all_seeds("other-owner", dataset, defense, chain).after(place))
        suspects = chain_of.from_iterable(models.suspects for models in found)
        return _Models(tuple(suspects), tuple(chain_of.from_iterable(models.parents for models in found)))

    def _of_all_seeds(self, kind: SuspectKind, dataset: Component, arm: Component, chain: Chain) -> _Models:
        """The models that a chain ends with, of every seed in order; none where it cannot be."""
        key = (kind, dataset, arm, chain)
        if key not in self._of_seeds:
            own = ((seed, self.own_stages(dataset, arm, chain, seed)) for seed in self.seeds)
            self._of_seeds[key] = _Models.of(
                Suspect(kind, seed, arm.text, made.model, made.embed) for seed, made in own if made
            )
        return self._of_seeds[key]

    def _ask(
        self, dataset: Component, defense: Component, seed: int, secret: Secret, label: str, models: _Models
    ) -> str:
        """The questions of a key to models that are not its own. Raises :class:`UsageError` for one that is."""
        ancestors = self._ancestors(secret.embed)
        for suspect in models.suspects:
            if suspect.model in ancestors or suspect.base in ancestors:
                raise UsageError(
                    f"{self.stages[suspect.base].label} had a part in the key of {self.stages[secret.embed].label}: "
                    "it can be no model to compare with"
                )
        return self.add(
            "ask",
            label,
            dataset,
            seed=0,
            split_seed=0,
            plugin=defense,
            parents=(*secret.parents, *models.parents),
            cell_seed=seed,
            suspects=models.suspects,
        )

    def _ancestors(self, embed: str) -> frozenset[str]:
        """The stages that a key was made of, its own included."""
        if embed not in self._made_of:
            parents = (self._ancestors(id) for _, id in self.stages[embed].parents)
            self._made_of[embed] = frozenset([embed]).union(*parents)
        return self._made_of[embed]


_ASK = {about: Role("ask", about) for about in ("null", "attacked", "innocent")}
_text_of = cache(str)
"""A role's text: a large plan asks a million times for the same few."""
