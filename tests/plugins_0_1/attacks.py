"""Attacks of every kind, as they were written for version 0.1."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from harness import (
    Attack,
    BlackBoxAttack,
    Context,
    Dataset,
    Detection,
    Detector,
    Evasion,
    Oracle,
    Pool,
    Split,
    WhiteBoxAttack,
    hookimpl,
    nets,
    require,
)
from harness.contracts import Answers, Family, Measure


@dataclass(frozen=True)
class Leave(Attack):
    """Leaves the model as it is."""

    name: ClassVar[str] = "leave"
    family: ClassVar[Family] = "none"


@dataclass(frozen=True)
class Copy(BlackBoxAttack):
    """Learns from the victim's answers."""

    name: ClassVar[str] = "copy"
    reference: ClassVar[str] = "Author et al., Copying, Conference 2020"
    family: ClassVar[Family] = "extraction"
    arms: ClassVar[tuple[str, ...]] = ("", "soft=true")

    queries: int | None = None
    """Most inputs that are asked; ``None`` is all of the pool."""
    soft: bool = False
    """Learn from probabilities."""
    architecture: str = ""

    def __post_init__(self) -> None:
        require(self.queries is None or self.queries >= 1, f"queries must be at least 1, not {self.queries}")

    @property
    def answers(self) -> Answers:
        return "probabilities" if self.soft else "labels"

    @property
    def budget(self) -> int | None:
        return self.queries

    @property
    def architecture_built(self) -> str:
        return self.architecture

    def run(self, victim: Oracle, pool: Pool, ctx: Context) -> torch.nn.Module:
        x = pool.x[: self.queries]
        y = victim.probabilities(x) if self.soft else victim.labels(x)
        return ctx.train(ctx.build(), [ctx.stream(Split(x, y))], pool.recipe.epochs)


@dataclass(frozen=True)
class Tune(WhiteBoxAttack):
    """Fine-tunes on true labels, or shrinks the weights."""

    name: ClassVar[str] = "tune"
    family: ClassVar[Family] = "removal"
    labelled: ClassVar[bool] = True

    mode: Literal["tune", "shrink"] = "tune"
    epochs: int = 1
    factor: float = 0.9

    def __post_init__(self) -> None:
        require(0 < self.factor <= 1, f"factor must be in (0, 1], not {self.factor}")

    def skip(self, dataset: Dataset) -> str | None:
        return None if len(dataset.input_shape) == 3 else "tuning needs images"

    def run(self, victim: torch.nn.Module, pool: Pool, ctx: Context) -> torch.nn.Module:
        assert isinstance(victim, nets.Net)
        if self.mode == "tune":
            return ctx.train(victim, [ctx.stream(Split(pool.x, pool.labels()))], self.epochs)
        with torch.no_grad():
            for parameter in victim.parameters():
                parameter.mul_(self.factor)
        return victim


@dataclass(frozen=True)
class Tune2(Tune):
    """The same with another default."""

    name: ClassVar[str] = "tune-2"
    epochs: int = 2


@dataclass(frozen=True)
class Majority(Detector):
    """Suspects the class that is answered most often."""

    name: ClassVar[str] = "majority"

    threshold: float = 0.5

    def run(self, suspect: torch.nn.Module, pool: Pool, ctx: Context) -> Detection:
        counts = ctx.predict(suspect, pool.x).argmax(1).bincount(minlength=10).float()
        rows = [Measure("answered", counts, group="task")]
        return Detection(float(counts.max() / counts.sum()), self.threshold, int(counts.argmax()), measures=rows)


@dataclass(frozen=True)
class Doubt(Evasion):
    """Refuses what the model is not sure of."""

    name: ClassVar[str] = "doubt"

    refused: float = 0.05

    def prepare(self, suspect: torch.nn.Module, pool: Pool, ctx: Context) -> Mapping[str, torch.Tensor]:
        sure = ctx.predict(suspect, pool.x).softmax(1).amax(1)
        return {"least": sure.quantile(self.refused)}

    def serve(
        self, suspect: torch.nn.Module, inputs: torch.Tensor, logits: torch.Tensor, guard: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        return logits.masked_fill((logits.softmax(1).amax(1) < guard["least"])[:, None], float("nan"))


@hookimpl
def harness_attacks() -> list[type[Attack]]:
    return [Leave, Copy, Tune, Tune2, Majority, Doubt]
