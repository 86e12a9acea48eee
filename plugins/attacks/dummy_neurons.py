"""Removal by more units than the model had, which change no answer."""

from __future__ import annotations

from typing import Literal

import torch

from harness import Context, Pool, Skip, WhiteBoxAttack, nets, option, units


class DummyNeurons(WhiteBoxAttack):
    """Gives each hidden layer further units that cancel or share what others say, and puts all in a random order.

    Split: copies of random units share what those gave to the next layer. Clique: copies of one unit, whose weights
    into the next layer add up to 0. The model stays the same function to rounding, trained on nothing, in a net of
    another size. Such a net needs an architecture of that size: the thief names the victim's own with a larger width. A
    scheme that reads weights of known shapes cannot read them: its mark has no trials. One that matched units first
    could; none here does.

    Measured: 3 seeds of digits (100 to 102), victims of a CNN of width 32 in one of 36. Uchida, DeepMarks and DeepSigns
    cannot be read (no trials); EWE's triggers stay at 99.5% (n = 3). No test input gets another class on a CNN,
    ResNet-9 or LSTM, by either kind; logits of up to 20 move by 1.2e-5 at most. It takes 0.1 s.
    """

    name = "dummy-neurons"
    family = "removal"
    reference = "Yan et al., Rethinking White-Box Watermarks under Neural Structural Obfuscation, USENIX Security 2023"
    arms = ("", "kind=clique")

    architecture: str = option("cnn[width=36]", doc="Architecture of the wider net: the victim's, with more units.")
    kind: Literal["split", "clique"] = option(
        "split", doc="Copies that share a unit's part, or that add up to nothing."
    )

    @property
    def architecture_built(self) -> str:
        return self.architecture

    def run(self, victim: nets.Net, pool: Pool, ctx: Context) -> nets.Net:
        wide, shape = ctx.build(), pool.recipe.input_shape
        sizes = {group.rows[0].name: group.size for group in units.groups(wide, shape)}
        state = {name: tensor.clone() for name, tensor in victim.state_dict().items()}
        for group in units.groups(victim, shape):
            more = sizes.get(group.rows[0].name, 0) - group.size
            if more > 0:
                source, shares = self._drawn(group.size, more, ctx.generator)
                for place in (*group.rows, *group.columns):
                    state[place.name] = place.taken(state[place.name], source)
                for place in group.columns:
                    state[place.name] = place.scaled(state[place.name], shares)
        shapes = {name: tensor.shape for name, tensor in wide.state_dict().items()}
        same = all(tensor.shape == state[name].shape for name, tensor in victim.state_dict().items())
        if same or shapes != {name: tensor.shape for name, tensor in state.items()}:
            raise Skip(f"architecture={self.architecture} is not a wider {victim.description['architecture']}")
        wide.load_state_dict(state)
        return wide.eval()

    def _drawn(self, size: int, more: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """For each of ``size + more`` units the one that it copies, and the share that it has of its part."""
        if self.kind == "clique":
            copied = torch.randint(size, (1,), generator=generator).expand(more)
            noise = torch.randn(more, generator=generator)
            shares = torch.cat([torch.ones(size), noise - noise.mean()])
            source = torch.cat([torch.arange(size), copied])
        else:
            source = torch.cat([torch.arange(size), torch.randint(size, (more,), generator=generator)])
            parts = 0.1 + torch.rand(size + more, generator=generator)
            shares = parts / torch.zeros(size).index_add(0, source, parts)[source]
        order = torch.randperm(size + more, generator=generator)
        return source[order], shares[order]
