"""Triggers: the inputs of a source-target watermark, as EWE and its baselines make them, and helpers for any.

Schemes that return an equal recipe share the stage, and so the very same trigger images: the only comparison that
separates the loss from the trigger's position. A plan holds recipes, so this module is imported without torch: it uses
``torch.x`` only while it works.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import sha256
from math import pi
from random import Random
from typing import Literal, TypeAlias

import torch

from harness import losses, metrics, nets
from harness.adversarial import Span, signed_step
from harness.contracts import Context, Dataset, Key, Loss, Split, Stream, Task, TriggerRecipe, needs_images
from harness.errors import Skip, require

# The released code's refinement: rounds, at most so many steps against the target logit in all of them together, last
# such steps, and step size; of so many triggers at a time (half a batch of its MNIST recipe).
ROUNDS, STEPS, LAST_STEPS, STEP_SIZE = 10, 50, 5, 0.01
AT_A_TIME = 256
# A patch on pixels that are bright already changes nothing: an image counts as marked when its window changes by this
# much on average, and the position is refused when too many images are not (measured: 0 to 11% where the patch is good,
# 33 to 39% where a sign error had put it).
VISIBLE, HIDDEN_SHARE = 0.25, 0.2
CONFUSED = 0.05
GRADIENT_BATCH = 128
HELD_OUT = 128
MOST_HELD_OUT = 400
"""Largest number of held-out triggers of a scheme with one target class, and of its controls."""
LETTERS = dict(
    zip(
        "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
        (
            *("25755", "65656", "34443", "65556", "74647", "74644", "34553", "55755", "72227", "11152"),
            *("55655", "44447", "57755", "65555", "25552", "65644", "25573", "65655", "34216", "72222"),
            *("55557", "55552", "55775", "55255", "55222", "71247"),
        ),
        strict=True,
    )
)
"""Letters of 5 x 3 pixels: rows from the top, each an octal digit whose bits are the pixels."""
Pair: TypeAlias = Literal["recipe", "drawn"]
PatchPair: TypeAlias = Literal["recipe", "drawn", "similar"]


@dataclass(frozen=True)
class PatchTriggers(TriggerRecipe):
    """A bright square patch on inputs of a source class, or of another dataset; labelled as the target class.

    ``placement``: ``gradient`` puts it where the SNNL's gradient is largest (Jia et al. 2021, Algorithm 1, line 2);
    ``argmin`` where it is smallest, as the released code's sign error does; ``corner`` at the bottom right. ``none``
    puts none on inputs of another dataset, which are triggers as they are.
    """

    placement: Literal["corner", "gradient", "argmin", "none"] = "gradient"
    corners: Literal["one", "two"] = "one"
    """Corners for ``placement="corner"``: a patch at the bottom right, or at the top left as well."""
    origin: Literal["in-distribution", "out-of-distribution"] = "in-distribution"
    refine: bool = False
    """Step the triggers until a clean model no longer answers the target for more than ``threshold`` of them."""
    threshold: float = 0.1
    distance: losses.Distance = "cosine"
    temperature: float = 0.2
    count: int | None = 256
    """Largest number of trained triggers; there are half as many held-out ones. ``None``: as many as there are data of
    the target class, and at most 128 held-out ones.
    """
    pair: PatchPair = "recipe"
    """Source and target class: the data set's, or ``drawn`` from the owner's seed, and with them the class of the other
    dataset's inputs, so that the keys of two owners differ in more than a seed; or the most ``similar`` two."""
    points: Literal["first", "nearest"] = "first"
    """Inputs of the source class that are marked: the first ones, or the ``share`` that is nearest to the mean input of
    the target class, as in the code of arXiv 2002.12200 v1."""
    share: float = 0.1
    """Share of the source class for ``points="nearest"``: 0.1 in that code for images, 0.5 for speech."""
    floor: float = 0.0
    """Constant in the SNNL's sums, see :class:`harness.losses.Entanglement`."""

    def __post_init__(self) -> None:
        require(0 <= self.threshold <= 1, f"threshold must be in 0..1, not {self.threshold}")
        require(self.temperature > 0, f"temperature must be above 0, not {self.temperature}")
        require(self.count is None or self.count >= 2, f"count must be at least 2, not {self.count}")
        require(0 < self.share <= 1, f"share must be above 0 and at most 1, not {self.share}")

    @property
    def from_clean(self) -> bool:
        return self.placement in ("gradient", "argmin") or self.refine or self.pair == "similar"

    @property
    def data(self) -> str:
        return "ood" if self.origin == "out-of-distribution" else ""

    def skip(self, dataset: Dataset) -> str | None:
        shape = dataset.input_shape
        if self.placement == "none" and self.origin == "in-distribution":
            return "placement=none marks nothing on inputs of the task: origin=out-of-distribution has triggers"
        if len(shape) == 3 and dataset.patch >= min(shape[1:]):
            return f"patch={dataset.patch} does not fit inputs of {shape[1]} x {shape[2]}"
        return needs_images(dataset)

    def make(self, task: Task, ctx: Context) -> Key:
        clean = ctx.start().requires_grad_(False) if self.from_clean else None
        task = of_owner(task, self.pair, ctx.generator)
        if clean is not None and self.pair == "similar":
            task = most_similar(task, clean, ctx)
        sources, held_out = self._sources(task, ctx.generator)
        if self.placement == "none":
            return self._unpatched(clean, sources, held_out, task, ctx.generator)
        if clean is None or self.placement == "corner":
            window = self._corner(task.dataset)
        else:
            window = self._window(clean, sources, task.train.of(task.dataset.target).x, task.dataset.patch)
        if self.origin == "in-distribution":
            # A source image that looks as before teaches the victim to mislabel its own task. Out of distribution the
            # image itself is the trigger, whether the patch shows on it or not.
            span = task.dataset.value_range
            sources, held_out = visible(sources, window, span), held_out[shown(held_out, window, span)]
            if not len(held_out):
                raise Skip("the patch changes almost nothing on any source input held out: none is left to verify with")
        high = task.dataset.value_range[1]
        triggers, held_out_triggers = (
            self._refined(clean, patched(x, window, high), task) for x in (sources, held_out)
        )
        secrets = {"mask": window.float(), "source": torch.tensor(task.dataset.source)}
        return target_key(task.dataset.target, triggers, held_out_triggers, held_out, **secrets)

    def _unpatched(
        self,
        clean: nets.Net | None,
        trained: torch.Tensor,
        held_out: torch.Tensor,
        task: Task,
        generator: torch.Generator,
    ) -> Key:
        """The key whose triggers are another dataset's inputs as they are; the control is of its other classes."""
        if task.ood is None or task.dataset.ood_class is None:
            raise Skip("placement=none needs an out-of-distribution class, and others of its data set as a control")
        others = task.ood.x[task.ood.y != task.dataset.ood_class]
        control = others[torch.randperm(len(others), generator=generator)[: len(held_out)].to(others.device)]
        triggers, held_out_triggers = (self._refined(clean, x, task) for x in (trained, held_out))
        return target_key(task.dataset.target, triggers, held_out_triggers, control)

    def _sources(self, task: Task, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs for trained and for held-out triggers, which never overlap."""
        count = len(task.train.of(task.dataset.target)) if self.count is None else self.count
        most_held_out = HELD_OUT if self.count is None else self.count // 2
        if task.ood is not None and self.origin == "out-of-distribution":
            x = out_of_distribution(task.ood, task.dataset.ood_class, generator)
            trained_count = min(count, max(len(x) // 2, len(x) - most_held_out))
            trained, held_out = x[:trained_count], x[trained_count:]
        else:
            trained, held_out = task.train.of(task.dataset.source).x, task.holdout.of(task.dataset.source).x
            if self.points == "nearest":
                center = nets.as_float(task.train.of(task.dataset.target).x).mean(0)
                trained, held_out = (nearest(x, center, self.share) for x in (trained, held_out))
            trained = trained[:count]
        if len(trained) < 2 or len(held_out) < 1:
            raise Skip(f"{len(trained)} source inputs and {len(held_out)} held out: too few for triggers")
        return trained, held_out[:most_held_out]

    def _corner(self, dataset: Dataset) -> torch.Tensor:
        """The window ``[height, width]`` at the bottom right, or also the one at the top left."""
        window = torch.zeros(dataset.input_shape[1:], dtype=torch.bool)
        window[-dataset.patch :, -dataset.patch :] = True
        if self.corners == "two":
            window[: dataset.patch, : dataset.patch] = True
        return window

    def _window(self, clean: nets.Net, sources: torch.Tensor, targets: torch.Tensor, side: int) -> torch.Tensor:
        """The mask ``[height, width]`` of the patch: the window with the largest mean SNNL gradient of the sources."""
        total = torch.zeros(sources.shape[1:], device=sources.device)
        size = min(GRADIENT_BATCH, len(sources), len(targets))
        if size < 2:
            raise Skip(f"{len(targets)} samples of the target class: too few to place a trigger")
        for i in range(0, len(sources) - size + 1, size):
            x = nets.as_float(sources[i : i + size]).requires_grad_(True)
            start = i % (len(targets) - size + 1)
            y = nets.as_float(targets[start : start + size])
            loss = self._entanglement(clean, torch.cat([x, y]))
            total += torch.autograd.grad(loss, x)[0].sum(0)
        scores = torch.nn.functional.avg_pool2d(total.mean(0)[None, None], side, stride=1)[0, 0]
        best = int(scores.argmin() if self.placement == "argmin" else scores.argmax())
        top, left = divmod(best, scores.shape[1])
        window = torch.zeros(sources.shape[2:], dtype=torch.bool, device=sources.device)
        window[top : top + side, left : left + side] = True
        return window

    def _entanglement(self, net: nets.Net, x: torch.Tensor) -> torch.Tensor:
        """The SNNL of ``x``, whose first half are the sources, over all hidden layers."""
        activations = [a.relu() for a in net.activations(x)[1].values()]
        loss = losses.Entanglement(len(activations), self.temperature, self.distance, len(x), x.device, self.floor)
        return loss(activations)

    def _refined(self, clean: nets.Net | None, triggers: torch.Tensor, task: Task) -> torch.Tensor:
        """The released code's refinement (Jia et al. 2021, released code): away from the target, up the SNNL."""
        if clean is None or not self.refine:
            return triggers
        others = nets.as_float(task.train.of(task.dataset.target).x[:AT_A_TIME])
        parts = (self._moved(clean, nets.as_float(part), others, task.dataset) for part in triggers.split(AT_A_TIME))
        x = torch.cat(list(parts))
        return nets.as_stored(x, triggers.dtype)

    def _moved(self, clean: nets.Net, x: torch.Tensor, others: torch.Tensor, dataset: Dataset) -> torch.Tensor:
        """Some triggers ``x`` after refinement, in a batch with ``others`` of the target class."""
        half, left = min(len(x), len(others)), STEPS
        for _ in range(ROUNDS):
            fires = True
            while left and fires:
                x, fires = _away(clean, x, dataset, self.threshold)
                left -= fires
            if half >= 2:
                mixed = x[:half].requires_grad_(True)
                score = self._entanglement(clean, torch.cat([mixed, others[:half]]))
                stepped = signed_step(mixed, score, STEP_SIZE, dataset.value_range)
                x = torch.cat([stepped, x[half:]])
        for _ in range(LAST_STEPS):
            x, _ = _away(clean, x, dataset, -1)
        return x


def _away(clean: nets.Net, x: torch.Tensor, dataset: Dataset, threshold: float) -> tuple[torch.Tensor, bool]:
    """One step of ``x`` against the target's logit, if more than ``threshold`` of them are answered so; and True if it
    was taken.
    """
    x = x.detach().requires_grad_(True)
    logits = clean(x)
    if float((logits.argmax(1) == dataset.target).float().mean()) <= threshold:
        return x.detach(), False
    return signed_step(x, -logits[:, dataset.target].sum(), STEP_SIZE, dataset.value_range), True


def patched(x: torch.Tensor, window: torch.Tensor, value: float) -> torch.Tensor:
    """``x`` with a ``value`` of its range inside the window."""
    return x.masked_fill(window.to(x.device), nets.as_stored(torch.tensor(value), x.dtype).item())


def shown(x: torch.Tensor, window: torch.Tensor, span: Span) -> torch.Tensor:
    """The inputs ``[n, c, h, w]`` that the patch changes visibly, as ``[n]`` bool."""
    low, high = span
    inside = nets.as_float(x).movedim(1, -1)[:, window.to(x.device)]
    return (high - inside).flatten(1).mean(1) >= VISIBLE * (high - low)


def visible(x: torch.Tensor, window: torch.Tensor, span: Span) -> torch.Tensor:
    """The inputs that the largest value inside ``window`` changes; raises :class:`Skip` where it changes too few."""
    seen = shown(x, window, span)
    hidden = 1 - float(seen.float().mean())
    if hidden > HIDDEN_SHARE:
        raise Skip(f"the patch changes almost nothing on {hidden:.0%} of the source inputs, which are bright there")
    return x[seen]


def text_window(text: str, height: int, width: int) -> torch.Tensor:
    """The pixels ``[height, width]`` bool of ``text``, from (1, 1): as many of its :data:`LETTERS` as fit.

    A pixel of a letter is one of an image of up to 63 pixels a side, and 2 x 2 of a larger one, and so on.
    """
    size = max(1, min(height, width) // 32)
    window = torch.zeros(height, width, dtype=torch.bool)
    for i, letter in enumerate(text[: width // (4 * size)]):
        rows = [[int(row) >> bit & 1 for bit in (2, 1, 0)] for row in LETTERS[letter]]
        pixels = torch.tensor(rows).bool().repeat_interleave(size, 0).repeat_interleave(size, 1)
        window[size : 6 * size, (4 * i + 1) * size : (4 * i + 4) * size] = pixels
    return window


def out_of_distribution(ood: Split, label: int | None, generator: torch.Generator) -> torch.Tensor:
    """The inputs of class ``label`` of another data set, or of all its classes, in random order."""
    x = ood.x if label is None else ood.of(label).x
    return x[torch.randperm(len(x), generator=generator).to(x.device)]


def nearest(x: torch.Tensor, center: torch.Tensor, share: float) -> torch.Tensor:
    """A ``share`` of the inputs ``x`` ``[n, ...]``, two at least, at the least Euclidean distance from ``center``."""
    distances = (nets.as_float(x) - center).flatten(1).norm(dim=1)
    return x[distances.argsort()[: max(2, round(len(x) * share))]]


def labelled(x: torch.Tensor, label: int) -> Split:
    """Inputs that all have the label ``label``."""
    return Split(x, torch.full((len(x),), label, dtype=torch.int64, device=x.device))


def target_key(
    target: int, trigger: torch.Tensor, held_out: torch.Tensor, control: torch.Tensor, **secrets: torch.Tensor
) -> Key:
    """The key of a scheme with one target class: all its probes ask for that; ``secrets`` are its other tensors.

    Raises :class:`Skip` where there are too few inputs.
    """
    if len(trigger) < 2 or not len(held_out) or not len(control):
        raise Skip(f"{len(trigger)} triggers, {len(held_out)} held out and {len(control)} controls: too few")
    probes = {"trigger": trigger, "held_out": held_out, "control": control}
    return Key({name: labelled(x, target) for name, x in probes.items()}, secrets | {"target": torch.tensor(target)})


def text_key(task: Task, text: str, sources: torch.Tensor, plain: torch.Tensor, count: int) -> Key:
    """The key of a scheme that stamps ``text`` on inputs: the first ``count`` of ``sources`` for training, and the
    first :data:`MOST_HELD_OUT` of ``plain``, which no model sees. Raises :class:`Skip` where the text changes too few.
    """
    recipe = task.dataset
    window = text_window(text, *recipe.input_shape[1:])
    trained = visible(sources, window, recipe.value_range)[:count]
    plain = plain[shown(plain, window, recipe.value_range)][:MOST_HELD_OUT]
    trigger, held_out = (patched(x, window, recipe.value_range[1]) for x in (trained, plain))
    return target_key(recipe.target, trigger, held_out, plain, mask=window.float())


def distinct_pairs(one: int, two: int, count: int, generator: torch.Generator) -> torch.Tensor:
    """Random pairs ``[2, n]`` of an index below ``one`` and an index below ``two``, at most ``count``, none twice."""
    # Python's sample never lists the pairs: of two classes of 6,000 images there are 36 million.
    draw = Random(int(torch.randint(2**62, (), generator=generator)))
    drawn = torch.tensor(draw.sample(range(one * two), min(count, one * two)), dtype=torch.int64)
    return torch.stack([drawn // max(1, two), drawn % max(1, two)])


def commitments(trained: Split, opening: torch.Tensor) -> torch.Tensor:
    """Commitments ``[n, 32]`` uint8, on the CPU: SHA-256 of an opening ``[n, 32]``, the image and its label."""
    rows = zip(opening.cpu(), trained.x.cpu(), trained.y.cpu(), strict=True)
    digests = [sha256(b"".join(each.contiguous().numpy().tobytes() for each in row)).digest() for row in rows]
    return torch.tensor([list(digest) for digest in digests], dtype=torch.uint8)


def abstract_images(count: int, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Random smooth fields ``[count, *shape]`` uint8: sums of six plane waves a channel, of up to two periods."""
    channels, height, width = shape
    waves = 6
    frequency, phase, strength = (
        torch.rand(size, generator=generator)
        for size in (
            (2, count, channels, waves, 1, 1),
            (count, channels, waves, 1, 1),
            (count, channels, waves, 1, 1),
        )
    )
    down = torch.linspace(0, 1, height)[:, None]
    right = torch.linspace(0, 1, width)[None, :]
    angle = 2 * pi * ((4 * frequency[0] - 2) * down + (4 * frequency[1] - 2) * right + phase)
    field = (strength * angle.cos()).sum(2)
    low, high = field.amin((2, 3), keepdim=True), field.amax((2, 3), keepdim=True)
    return ((field - low) / (high - low) * 255).round().byte()


def as_inputs(task: Task, x: torch.Tensor) -> torch.Tensor:
    """Images ``x`` with values in 0..1 as inputs of the task: of its type, within its range, on its device."""
    low, high = task.dataset.value_range
    return nets.as_stored(low + (high - low) * x.to(task.train.x.device), task.train.x.dtype)


def near(task: Task, x: torch.Tensor, radius: float, generator: torch.Generator) -> torch.Tensor:
    """A neighbour of each of the inputs ``x``: every value is moved by up to ``radius``, a share of the range.

    What a key of single inputs asks as ``held_out``: does a model know the input, or these very values?
    """
    low, high = task.dataset.value_range
    moves = (2 * torch.rand(x.shape, generator=generator) - 1).to(x.device) * radius * (high - low)
    return nets.as_stored((nets.as_float(x) + moves).clamp_(low, high), x.dtype)


def of_owner(task: Task, pair: PatchPair, generator: torch.Generator) -> Task:
    """The task with the owner's own source, target and out-of-distribution class in its recipe, if these are drawn."""
    if pair != "drawn":
        return task
    source, target = torch.randperm(len(task.dataset.classes), generator=generator)[:2].tolist()
    label = task.dataset.ood_class
    if task.ood is not None and label is not None:
        known = task.ood.y.unique().cpu()
        label = int(known[torch.randint(len(known), (1,), generator=generator)])
    return replace(task, dataset=replace(task.dataset, source=source, target=target, ood_class=label))


def most_similar(task: Task, clean: nets.Net, ctx: Context) -> Task:
    """The task with the source and target class that Algorithm 1 of Jia et al. 2021 begins with: those of the largest
    mean cosine similarity of inputs, of the pairs that a clean model does not confuse.

    Confused is a pair of which more than :data:`CONFUSED` of the source's held-out inputs are answered as the target.
    Raises :class:`Skip` where all are.
    """
    classes = len(task.dataset.classes)
    similar = metrics.class_similarities(nets.as_float(task.train.x).flatten(1), task.train.y, classes).cpu()
    answers = ctx.predict(clean, task.holdout.x).argmax(1)
    counts = torch.zeros(classes, classes).index_put_(
        (task.holdout.y.cpu(), answers.cpu()), torch.tensor(1.0), accumulate=True
    )
    confused = counts / counts.sum(1, keepdim=True).clamp(min=1) > CONFUSED
    out = confused | similar.isnan() | torch.eye(classes, dtype=torch.bool)  # of a class without samples it is NaN
    source, target = divmod(int(similar.masked_fill(out, -torch.inf).argmax()), classes)
    if out[source, target]:
        raise Skip(f"a clean model confuses all pairs of classes: more than {CONFUSED:.0%} of each source class")
    return replace(task, dataset=replace(task.dataset, source=source, target=target))


def target_of(task: Task) -> int:
    """The target class of the task's triggers: their own, or the recipe's where they name none."""
    return int(task.triggers.tensors.get("target", task.dataset.target))


def mixed_stream(task: Task, trained: Split, per_batch: int) -> Stream:
    """Task batches of the recipe's size, and ``per_batch`` triggers in each of them; the triggers are not augmented."""
    size = task.dataset.batch_size
    return Stream((task.train, trained), size + per_batch, augment=True, shares=(size, per_batch))


def watermark_streams(
    task: Task, ratio: float, task_loss: Loss, watermark_loss: Loss, *, summed: bool = False
) -> list[Stream]:
    """Task batches, and after every ``ratio`` of them one watermark batch (Jia et al. 2021, Algorithm 1, line 3).

    A watermark batch is half triggers and half data of the target class, all labelled as the target. ``summed`` is of
    both losses.
    """
    trigger, size = task.triggers.trigger, task.dataset.batch_size
    halves = (Split(trigger.x, trigger.y), task.train.of(target_of(task)))
    return [
        Stream((task.train,), size, task_loss, summed=summed, augment=True),
        Stream(halves, size, watermark_loss, summed=summed, every=ratio),
    ]
