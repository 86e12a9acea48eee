"""The stages of a plan one at a time: what each is called, seeded with and made of."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, TypeAlias

from harness.contracts import Attack, BlackBoxAttack, Defense, PoolAttack, TriggerRecipe
from harness.planning.graph import (
    Action,
    Component,
    Lookup,
    ModelRole,
    Stage,
    Suspect,
    derive_seed,
    describe,
    make_id,
)
from harness.planning.inputs import inputs_of

Parents: TypeAlias = tuple[tuple[str, str], ...]


class Secret(NamedTuple):
    """The stages that made what somebody verifies with: the owner, or a forger."""

    embed: str
    """The one that made a key: the owner's, with the victim, or the forger's attack."""
    log: str = ""
    """The one whose client an API kept a log of; empty for a scheme that does without."""

    @property
    def parents(self) -> Parents:
        """The same as parents of a stage: (role, id)."""
        return tuple((role, id) for role, id in self._asdict().items() if id)


"""(role, id) of the stages whose artifacts a stage loads."""


@dataclass
class StageMaker:
    """Makes each stage once, and gives its id."""

    lookup: Lookup
    stages: dict[str, Stage] = field(default_factory=dict)
    _recipes: dict[tuple[Component, int], TriggerRecipe | None] = field(default_factory=dict)

    def recipe(self, dataset: Component, scheme: Defense) -> TriggerRecipe | None:
        """The trigger inputs of a scheme, asked for once: they depend on no seed."""
        key = (dataset, id(scheme))  # an object's own hash is its plugin's
        if key not in self._recipes:
            self._recipes[key] = scheme.triggers(dataset.plugin)
        return self._recipes[key]

    def analyse(
        self, dataset: Component, defense: Component, analysis: Component, seed: int, embed: str, model: str, label: str
    ) -> str:
        """An analysis of a victim, or of what attacks made of it."""
        return self.add(
            "analyse",
            f"{dataset} {defense} {label} #{seed}: {analysis}",
            dataset,
            seed=derive_seed("seed", seed, "analyse"),
            split_seed=derive_seed("seed", seed, "split"),
            plugin=analysis,
            parents=(("embed", embed), ("model", model)),
            role=role_of(model, embed),
            cell_seed=seed,
        )

    def null(self, dataset: Component, defense: Component, number: int) -> str:
        """An unmarked model to compare with, of the architecture that the scheme builds."""
        return self.add(
            "train",
            f"{dataset} null #{number}",
            dataset,
            seed=derive_seed("null", number, "train"),
            split_seed=derive_seed("null", number, "split"),
            epochs=dataset.plugin.epochs,
            architecture=self.architecture(dataset, defense.plugin),
            role="null",
            index=number,
        )

    def clean(self, dataset: Component, defense: Component, seed: int) -> str:
        """The model that the victims of a seed start from."""
        return self.add(
            "train",
            f"{dataset} clean #{seed}",
            dataset,
            seed=derive_seed("seed", seed, "train"),
            split_seed=derive_seed("seed", seed, "split"),
            epochs=dataset.plugin.pretrain,
            architecture=self.architecture(dataset, defense.plugin),
            role="clean",
            cell_seed=seed,
        )

    def embed(self, dataset: Component, defense: Component, seed: int) -> str:
        """The victim, after its triggers and the clean model that it starts from."""
        scheme: Defense = defense.plugin
        split = derive_seed("seed", seed, "split")
        recipe = self.recipe(dataset, scheme)
        parents: list[tuple[str, str]] = []
        if scheme.from_clean or (recipe and recipe.from_clean):
            parents.append(("clean", self.clean(dataset, defense, seed)))
        if recipe is not None:
            triggers = self.add(
                "triggers",
                f"{dataset} {type(recipe).__name__}({describe(recipe)}) #{seed}",
                dataset,
                seed=derive_seed("seed", seed, "triggers"),
                split_seed=split,
                recipe=recipe,
                architecture=self.architecture(dataset, scheme),
                data=self.data(dataset, recipe.data),
                parents=tuple(parents) if recipe.from_clean else (),
                cell_seed=seed,
            )
            parents.append(("triggers", triggers))
        kept = tuple(p for p in parents if p[0] != "clean" or scheme.from_clean)
        return self.add(
            "embed",
            f"{dataset} {defense} #{seed}",
            dataset,
            seed=derive_seed("seed", seed, "embed"),
            split_seed=split,
            plugin=defense,
            architecture=self.architecture(dataset, scheme),
            parents=kept,
            role="victim",
            cell_seed=seed,
        )

    def attack(
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
        scheme: Component | None = None,
    ) -> str:
        """One attack on the victim that ``embed`` made, or on a null model that plays it, as left by those before."""
        return self.add(
            "attack",
            f"{dataset} {text}",
            dataset,
            seed=derive_seed(root, number, "attack", depth),
            split_seed=derive_seed(root, number, "split"),
            plugin=link,
            architecture=self.architecture(dataset, link.plugin),
            data=self.pool(dataset, link.plugin.pool),
            parents=(("embed", embed), ("model", model), *given, *self.pretrained(dataset, link)),
            scheme=scheme,
            role="surrogate" if root == "seed" else "attacked",
            cell_seed=number if root == "seed" else None,
            index=number if root == "null" else None,
        )

    def pretrained(self, dataset: Component, link: Component) -> Parents:
        """The net of another data set, by its own recipe, that an attack starts from; nothing where there is none."""
        source = self.source(dataset, link.plugin)
        if source is None:
            return ()
        stage = self.add(
            "train",
            f"{source} pretrained",
            source,
            seed=derive_seed("pretrained", "train"),
            split_seed=derive_seed("pretrained", "split"),
            epochs=source.plugin.epochs,
            architecture=self.architecture(dataset, link.plugin),
            role="pretrained",
        )
        return (("pretrained", stage),)

    def source(self, dataset: Component, attack: Attack) -> Component | None:
        """The data set of the net that an attack starts from."""
        return self.data(dataset, attack.pretrained_on) if isinstance(attack, BlackBoxAttack) else None

    def verify(
        self, dataset: Component, defense: Component, seed: int, secret: Secret, suspect: str, model: str
    ) -> str:
        """The questions of a key, or of a client's log, to its own victim, or to what attacks made of it."""
        # The label names the victim through its id: many seeds and options share the text of a defense.
        return self.add(
            "verify",
            f"{dataset} {defense} verify {suspect} ({secret.embed[:6]})",
            dataset,
            seed=0,
            split_seed=0,
            plugin=defense,
            parents=(*secret.parents, ("model", model)),
            role=role_of(model, secret.embed),
            cell_seed=seed,
        )

    def architecture(self, dataset: Component, plugin: Defense | Attack | None = None) -> Component:
        """The architecture that a stage of the plugin builds: its own, or the dataset's."""
        own = plugin.architecture_built if isinstance(plugin, PoolAttack | Defense) else ""
        return self.lookup("architecture", own or dataset.plugin.architecture)

    def data(self, dataset: Component, name: str) -> Component | None:
        """The other dataset that ``name`` stands for, with the recipe's own text; ``None`` for the task's own data."""
        if name in ("", "same", "disjoint"):
            return None
        return self.lookup("dataset", dataset.plugin.ood if name == "ood" else name)

    def pool(self, dataset: Component, name: str) -> Component | None:
        """The other dataset that an attacker's inputs are of, without the class of which the owner makes triggers."""
        use = self.data(dataset, name)
        is_partner = use is not None and bool(dataset.plugin.ood) and use == self.data(dataset, "ood")
        return replace(use, without=dataset.plugin.ood_class) if use is not None and is_partner else use

    def detect(
        self,
        dataset: Component,
        link: Component,
        name: str,
        model: str,
        role: ModelRole,
        root: Literal["seed", "null"],
        number: int,
    ) -> str:
        """A detector's search in the model of that name, whatever its key."""
        return self.add(
            "detect",
            f"{dataset} {link} in {name}",
            dataset,
            seed=derive_seed(root, number, "detect"),
            split_seed=derive_seed(root, number, "split"),
            plugin=link,
            architecture=self.architecture(dataset, link.plugin),
            data=self.pool(dataset, link.plugin.pool),
            parents=(("model", model),),
            role=role,
            cell_seed=number if root == "seed" else None,
            index=number if root == "null" else None,
        )

    def add(
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
        scheme: Component | None = None,
        role: ModelRole | None = None,
        cell_seed: int | None = None,
        index: int | None = None,
        suspects: tuple[Suspect, ...] = (),
    ) -> str:
        """Add the stage where it is new. The role, the cell's seed, the index and the suspects enter no id."""
        rest = (label, seed, split_seed, dataset, plugin, architecture, data, recipe, epochs, parents, scheme)
        tags = (role, cell_seed, index, suspects)
        id = make_id(*inputs_of(Stage("", action, *rest)).values())
        if id not in self.stages:
            self.stages[id] = Stage(id, action, *rest, *tags)
        return id


def role_of(model: str, embed: str) -> ModelRole:
    """The role of a suspect that is no null model."""
    return "victim" if model == embed else "surrogate"
