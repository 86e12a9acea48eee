"""Abstract-image triggers with a random label each, and commitments to them (Adi et al.)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch

from harness import (
    Context,
    Count,
    Dataset,
    Defense,
    Evidence,
    Key,
    Marked,
    Oracle,
    Split,
    Stream,
    Task,
    Unreadable,
    WhiteBoxDefense,
    needs_images,
    nets,
    option,
    triggers,
    whitebox,
)

LAST = "last_"
"""Beginning of the names under which a key holds the victim's last layer."""


class Adi(Defense):
    """A set of abstract images, each with its own random label, learned with the task.

    A trial is one image, and matches when it is answered with its label and both open the commitment to them. Nothing
    generalises here, by design: ``held_out`` asks the trained images shifted by one pixel (does the model know the
    image, or these very pixels?), ``control`` asks other abstract images with labels of their own.

    The owner keeps images, labels and openings, and publishes the commitments (SHA-256 of each, salted by its opening)
    before there is a suspect: they tell nothing, and afterwards nobody can choose images by a suspect's answers. The
    harness checks that they open, not when they were published.

    The paper mixes two images into each task batch. In its 60 epochs of 500 batches each is shown 600 times, on digits
    10 times (``batches=mixed,per_batch=2``), which is too few to learn labels without a rule. So by default images come
    in batches of their own.

    Measured: 5 seeds of digits, victims at 97.7% and unmarked models at 98.1%. Victims answer 100% of the triggers,
    after fine-tuning 94.2% (95%: 89.3 to 99.1), of the last layer alone 100%, after RTLL 97.4% (95.0 to 99.8), after
    RTAL 37.6% (31.7 to 43.5); unmarked models 11.1%. Mixed, victims answer 23.2% (2 images a batch, 18.0 to 28.4) and
    66.8% (8 images, 59.0 to 74.6), at an accuracy of 98.7 and 98.5%.
    """

    name = "adi"
    reference = "Adi et al., Turning Your Weakness Into a Strength, USENIX Security 2018"

    count: int = option(100, doc="Number of trigger images.", at_least=2)
    per_batch: int = option(8, doc="Trigger images trained after, or in, each task batch.", at_least=1)
    batches: Literal["apart", "mixed"] = option(
        "apart", doc="Trigger images in batches of their own after each task batch, or mixed into it as in the paper."
    )
    start: Literal["scratch", "pretrained"] = option(
        "scratch", doc="The paper's FromScratch, or its PreTrained: fine-tuning a clean model."
    )

    @property
    def from_clean(self) -> bool:
        return self.start == "pretrained"

    def skip(self, dataset: Dataset) -> str | None:
        return needs_images(dataset)

    def embed(self, task: Task, ctx: Context) -> Marked:
        recipe = task.dataset
        x = triggers.as_inputs(task, triggers.abstract_images(2 * self.count, recipe.input_shape, ctx.generator) / 255)
        y = torch.randint(len(recipe.classes), (2 * self.count,), generator=ctx.generator).to(ctx.device)
        trained, others = Split(x, y)[: self.count], Split(x, y)[self.count :]
        net = ctx.train(ctx.start(), self._streams(task, trained, ctx), ctx.epochs)
        opening = torch.randint(256, (self.count, 32), generator=ctx.generator).byte()
        probes = {"trigger": trained, "held_out": Split(trained.x.roll(1, dims=3), trained.y), "control": others}
        return Marked(net, Key(probes, {"opening": opening, "commitment": triggers.commitments(trained, opening)}))

    def _streams(self, task: Task, trained: Split, ctx: Context) -> list[Stream]:
        if self.batches == "mixed":
            return [triggers.mixed_stream(task, trained, self.per_batch)]
        return [ctx.stream(task.train), Stream((trained,), min(self.per_batch, self.count))]

    def verify(self, suspect: Oracle, key: Key) -> Evidence:
        return Evidence(answered(suspect.labels, key))


class AdiOriginalLayer(Adi, WhiteBoxDefense):
    """The scheme ``adi``, verified from a suspect's weights with the victim's own last layer put back on them.

    So the paper verifies where a thief has drawn the last layer again, whose outputs need not even be the same classes.
    ``trigger``, ``held_out`` and ``control`` ask the suspect with that layer, ``own_layer`` the triggers of the suspect
    as it is. The owner keeps the last layer as well, and needs the suspect's weights, up to a last layer of that shape.

    Measured: 5 seeds of digits, with the original layer after RTLL 100% and after RTAL 57.0% (95%: 43.2 to 70.8), where
    ``adi`` is left with 97.4 and 37.6%; unmarked models with that layer 10.6%.
    """

    name = "adi-original-layer"

    def embed(self, task: Task, ctx: Context) -> Marked:
        marked = super().embed(task, ctx)
        last = marked.net.get_submodule(marked.net.last).state_dict()
        kept = {LAST + name: each.clone() for name, each in last.items()}
        return Marked(marked.net, Key(marked.key.probes, {**marked.key.tensors, **kept}))

    def verify_weights(self, suspect: nets.Net, key: Key) -> Evidence:
        last = suspect.get_submodule(suspect.last)
        kept = {name.removeprefix(LAST): each for name, each in key.tensors.items() if name.startswith(LAST)}
        sizes, own = ({name: tuple(each.shape) for name, each in x.items()} for x in (kept, last.state_dict()))
        if sizes != own:
            raise Unreadable(f"its last layer has {own}, the victim's {sizes}")

        def labels(x: torch.Tensor) -> torch.Tensor:
            return whitebox.labels(suspect, x)

        as_it_is = answered(labels, key)["trigger"]
        last.load_state_dict(kept)
        return Evidence({**answered(labels, key), "own_layer": as_it_is})


def answered(labels: Callable[[torch.Tensor], torch.Tensor], key: Key) -> dict[str, Count]:
    """Matches of each probe among the classes ``[n]`` that ``labels`` answers to ``[n, ...]``.

    A trigger, and its shifted image, match only if they open their commitment.
    """
    opens = (triggers.commitments(key.trigger, key.tensors["opening"]) == key.tensors["commitment"].cpu()).all(1)
    counts = {}
    for name, probe in key.probes.items():
        right = labels(probe.x) == probe.y
        counts[name] = Count(int((right if name == "control" else right & opens.to(right.device)).sum()), len(probe))
    return counts
