"""Materials of a stage: all that its plugin is given, and so the one place to read for leaks.

An owner gets his task. An attacker gets a pool, and an oracle that counts queries or a copy of the weights: copies, and
questions to another thread. None of them leads to the worker, to the test set, or to a key that he did not declare.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from math import ceil
from typing import Any

import torch
from torch import Tensor

from harness.contracts import (
    ActiveDefense,
    BlackBoxAttack,
    Dataset,
    Defense,
    Key,
    Oracle,
    Pool,
    PoolAttack,
    Split,
    Task,
)
from harness.data import Data, Splits
from harness.engine.memo import Lent, ResultCache, SharedInputs
from harness.engine.service import serving
from harness.engine.train import LOGITS, Engine, clone, remembered
from harness.errors import PluginError, Skip
from harness.inputs import moments
from harness.oracles import Meter
from harness.planning.graph import Lookup, Stage
from harness.running.answers import ClientLog, of_owner, of_thief, serves
from harness.running.rebuilt import noise_like
from harness.storage.codec import Loaded, net_of

READ_NO_DATA = ("judge", "verify", "ask")
"""Actions that read no data: their parents suffice."""


@dataclass
class Materials:
    """Data and models of a plan's stages as plugins are given them, and the memory of what models answered."""

    data: Data
    stages: Mapping[str, Stage]
    lookup: Lookup
    device: torch.device
    _memory: ResultCache = field(default_factory=ResultCache)
    _splits: dict[tuple[str, int], Splits] = field(default_factory=dict)
    _tests: dict[str, Split] = field(default_factory=dict)
    _noise: dict[str, Tensor] = field(default_factory=dict)

    # --- data ---

    def splits(self, stage: Stage) -> Splits:
        """The owner's and the attacker's samples of the stage's seed."""
        key = (stage.dataset.text, stage.split_seed)
        if key not in self._splits:
            if len(self._splits) >= 4:  # a matrix goes seed by seed: older ones are not needed again soon
                self._splits.pop(next(iter(self._splits)))
            self._splits[key] = self.data.splits(stage.dataset.plugin, stage.split_seed, self.device)
        return self._splits[key]

    def test(self, stage: Stage) -> Split:
        if stage.dataset.text not in self._tests:
            self._tests[stage.dataset.text] = self.data.test(stage.dataset.plugin, self.device)
        return self._tests[stage.dataset.text]

    def noise(self, stage: Stage) -> Tensor:
        """Inputs of random values, on which a net that was returned is compared with the one that is stored."""
        if stage.dataset.text not in self._noise:
            self._noise[stage.dataset.text] = noise_like(self.test(stage).x, stage.dataset.plugin.value_range)
        return self._noise[stage.dataset.text]

    def task(self, stage: Stage, triggers: Key) -> Task:
        """The owner's task, as copies, since the runner's own serve other stages too."""
        splits = self.splits(stage)
        other = None
        if stage.data is not None:
            other = self.data.other(stage.data.plugin, stage.dataset.plugin, self.device)
        return Task(stage.dataset.plugin, splits.train.clone(), splits.holdout.clone(), other, triggers)

    def pool(self, stage: Stage, attack: PoolAttack, parents: Mapping[str, Loaded]) -> Pool:
        """The attacker's pool, a copy: as many inputs as the owner has, or another dataset has; and what it knows."""
        task: Dataset = stage.dataset.plugin
        split = self.inputs(stage, attack).clone()
        scheme, key = self._known(stage, attack, parents)
        return Pool(
            task.public(),
            split.x,
            split.y if attack.has_labels else None,
            task.patch if attack.knows_patch else None,
            scheme,
            key,
        )

    def _known(
        self, stage: Stage, attack: PoolAttack, parents: Mapping[str, Loaded]
    ) -> tuple[Defense | None, Key | None]:
        """The scheme and the key that an attack knows: an owner's, or of an attack on a null model those it is told."""
        if attack.knows == "nothing":
            return None, None
        if attack.knows == "scheme" and stage.scheme is not None:
            return stage.scheme.plugin, None
        role = next((each for each in ("key", "embed") if each in parents), None)
        if role is None:
            raise PluginError(f"{attack.name} knows the {attack.knows}, but nobody's is known to this stage")
        key = parents[role].key.clone() if attack.knows == "key" else None
        return self._plugin_of(dict(stage.parents)[role]), key

    def inputs(self, stage: Stage, attack: PoolAttack) -> Split:
        """The inputs that :meth:`pool` copies: the first of a set in which every first few are of all classes."""
        task: Dataset = stage.dataset.plugin
        if stage.data is None:
            splits = self.splits(stage)
            split = splits.train if attack.pool == "same" else splits.disjoint
            return split.first(ceil(attack.pool_share * len(split)))
        if attack.has_labels:
            raise Skip(f"pool={attack.pool} has labels of another task")
        other = self.data.other(stage.data.plugin, task, self.device)
        if stage.data.without is not None:
            other = other[other.y != stage.data.without]
            if not len(other):
                raise Skip(f"pool={attack.pool}: {stage.data} has no class but the one of which triggers are made")
        order = torch.randperm(len(other), generator=torch.Generator().manual_seed(stage.split_seed))
        chosen = order[: ceil(attack.pool_share * min(len(order), task.train))].to(self.device)
        return other[chosen]

    def moments(self, stage: Stage) -> tuple[Tensor, Tensor] | None:
        """Mean and SD of the inputs that a stage may train on, which are all that an attacker knows for certain."""
        if stage.action in READ_NO_DATA:
            return None
        attack = stage.plugin.plugin if stage.plugin else None
        return moments(self.inputs(stage, attack).x if isinstance(attack, PoolAttack) else self.splits(stage).train.x)

    # --- models ---

    def lent(self, stage: Stage, parents: Mapping[str, Loaded], attack: PoolAttack) -> SharedInputs:
        """The results known of the model under attack and the attacker's inputs."""
        inputs = f"{stage.dataset} {attack.pool} {attack.pool_share} {stage.data or ''} {stage.split_seed}"
        net = net_of(parents["model"])
        return SharedInputs(self._memory, dict(stage.parents)["model"], net, inputs, self.inputs(stage, attack).x)

    @contextmanager
    def lending(
        self, stage: Stage, parents: Mapping[str, Loaded], engine: Engine, attack: PoolAttack
    ) -> Iterator[None]:
        """Lend ``engine`` the worker's memory of the model under attack while the block runs."""
        with serving(remembered(self.lent(stage, parents, attack))) as ask:
            engine.lent = Lent(ask)
            try:
                yield
            finally:
                engine.lent = None

    @contextmanager
    def served(
        self, stage: Stage, parents: Mapping[str, Loaded], engine: Engine, attack: BlackBoxAttack
    ) -> Iterator[tuple[Oracle, ClientLog | None]]:
        """The model under attack, behind its API while the block runs, and the log of an active scheme's API."""
        # The memory is here and not in the engine, which the attack is lent: it has no business with the net.
        lent = self.lent(stage, parents, attack)
        victim = dict(stage.parents)["model"]
        log = ClientLog() if isinstance(self._plugin_of(victim), ActiveDefense) else None
        logits = self.api(victim, parents["model"], engine, lent, log)
        with serving(Meter(logits, attack.answers, attack.budget)) as ask:
            yield Oracle.before(ask), log

    def oracle(self, stage: Stage, parents: Mapping[str, Loaded], engine: Engine) -> Oracle:
        """The model under verification."""
        return Oracle(self.api(dict(stage.parents)["model"], parents["model"], engine))

    def api(
        self,
        id: str,
        model: Loaded,
        engine: Engine,
        lent: SharedInputs | None = None,
        log: ClientLog | None = None,
    ) -> Callable[[Tensor], Tensor]:
        """The answers of the model that the stage ``id`` made: a victim's as its scheme serves them, with its own key;
        a surrogate's through its filter, where it has one. They are noted in ``log``."""
        net, served = net_of(model), self.served_as(self.stages[id], model)

        def answer(x: Tensor) -> Tensor:
            logits = engine.known(LOGITS, net, x, lent)
            answers = served(x, logits)
            if log is not None:
                log.add(x, logits, answers)
            return answers

        return answer

    def served_as(self, maker: Stage, model: Loaded) -> Callable[[Tensor, Tensor], Tensor]:
        """Answers to inputs ``x``, given the logits of the net, of the model that the stage ``maker`` made."""
        if maker.action == "embed" and maker.plugin is not None and serves(maker.plugin):
            return partial(of_owner, maker.plugin, model.key.clone())
        if model.guard is not None:
            guard = {name: tensor.clone() for name, tensor in model.guard.items()}
            return partial(of_thief, self.lookup("attack", model.record["guard"]), clone(net_of(model)), guard)
        return lambda x, logits: logits

    def _plugin_of(self, id: str) -> Any:
        use = self.stages[id].plugin
        return use.plugin if use else None
