"""Neural Cleanse: look for a class that a small trigger reaches from everywhere, and take the trigger away."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from harness import (
    Context,
    Dataset,
    Detection,
    Detector,
    Measure,
    Pool,
    Skip,
    Split,
    WhiteBoxAttack,
    needs_images,
    nets,
    option,
    statistics,
)

PAPER = "Wang et al., Neural Cleanse: Identifying and Mitigating Backdoor Attacks in Neural Networks, IEEE S&P 2019"
# The released code's: at most 1,000 rounds of 31 batches a class; Adam's betas.
REFERENCE_STEPS = 31_000
BETAS = (0.5, 0.9)
# Arguments of tanh stay within. In float32 its gradient is exactly 0 from 9 on: a pixel that got there while lambda was
# 0 would stay in the mask for good; on digits up to two of a mask's five did, however many the steps.
BOUND = 5.0
# Steps whose batches are drawn, and after which the device is asked whether all searches have ended, at a time.
BLOCK = 100
# Inputs a step on a GPU, whatever the number of searches. A CPU gains nothing from more than one search a class.
INPUTS_AT_ONCE = 8192
UNIVERSAL = "universal"


class NeuralCleanse(Detector):
    """The smallest trigger to each class, all classes optimised at once; a class whose trigger is an outlier is marked.

    For each target t, a mask m and a pattern p, through tanh, minimise CE(f((1 - m) x + m p), t) + lambda |m|_1 (Eqs. 2
    and 3) over inputs that the suspect does not answer t for. The score is the largest anomaly index of a mask's norm
    (Section IV-B). The steps are far fewer than the released code's: `share_of_reference_steps` says how many.
    """

    name = "neural-cleanse"
    reference = PAPER
    arms = ("", "scope=pairwise")

    scope: Literal["universal", "pairwise"] = option(
        "universal",
        doc="One trigger a target, for the inputs of all other classes; or one a pair of source and target.",
    )
    steps: int = option(400, doc="Largest number of Adam's steps; the released code's is 31,000.", at_least=1)
    batch_size: int = option(16, doc="Inputs a step, for each search.", at_least=1)
    learning_rate: float = option(0.1, doc="Adam's learning rate, on the arguments of tanh.", above=0)
    check: int = option(
        10, doc="Steps from one look at the flip rate, the mean over them, to the next (released code: 31).", at_least=1
    )
    attack_rate: float = option(0.99, doc="Flip rate that a mask must reach to count.", above=0, at_most=1)
    weight: float = option(
        1e-3, doc="First lambda that is not 0: taken once the flip rate was reached `patience` times in a row.", above=0
    )
    factor: float = option(
        2.0,
        doc="Growth of lambda after `patience` looks that reached the flip rate; it shrinks by the power 1.5.",
        above=1,
    )
    patience: int = option(5, doc="Looks in a row that agree before lambda changes.", at_least=1)
    early_stop: int = option(
        25, doc="Looks without a smaller mask that end a search, once lambda has both grown and shrunk.", at_least=1
    )
    samples: int = option(1000, doc="Number of the pool's inputs that are used.", at_least=1)

    def skip(self, dataset: Dataset) -> str | None:
        reason = needs_images(dataset)
        if reason is None and len(dataset.classes) < 3:
            return (
                f"needs 3 classes or more, of 2 norms neither is an outlier; {dataset.name} has {len(dataset.classes)}"
            )
        return reason

    def run(self, suspect: nets.Net, pool: Pool, ctx: Context) -> Detection:
        net = suspect.eval().requires_grad_(False)
        chosen = torch.randperm(len(pool.x), generator=ctx.generator)[: self.samples]
        x = nets.as_float(pool.x[chosen.to(pool.x.device)])
        tasks = self._tasks(ctx.predict(net, x).argmax(1).cpu(), len(pool.recipe.classes))
        together = len(pool.recipe.classes) if x.device.type == "cpu" else max(1, INPUTS_AT_ONCE // self.batch_size)
        found = [
            trigger
            for i in range(0, len(tasks), together)
            for trigger in self.search(net, x, tasks[i : i + together], pool.recipe.value_range, ctx.generator)
        ]
        return self._detection(found, len(pool.recipe.classes))

    def _tasks(self, predicted: torch.Tensor, classes: int) -> list[_Task]:
        """The searches: a target, and the inputs to turn to it, by the suspect's own answers ``[n]`` on the CPU.

        An input that is answered so already would make the empty mask a success. Tasks without inputs are left out.
        """
        if self.scope == "universal":
            tasks = [_Task(None, t, (predicted != t).nonzero()[:, 0]) for t in range(classes)]
        else:
            inputs = [(predicted == s).nonzero()[:, 0] for s in range(classes)]
            tasks = [_Task(s, t, inputs[s]) for s in range(classes) for t in range(classes) if t != s]
        return [task for task in tasks if len(task.inputs)]

    def search(
        self,
        net: torch.nn.Module,
        x: torch.Tensor,
        tasks: Sequence[_Task],
        value_range: tuple[float, float],
        generator: torch.Generator,
    ) -> list[_Trigger]:
        """The smallest trigger of each task, all optimised at once: one forward pass a step for all their batches.

        ``x`` ``[n, c, h, w]`` float in ``value_range``. Each task has its own lambda, and nothing is shared but the
        passes: the result is that of searching one by one, up to the random draws.
        """
        masks, patterns = _Free.start(len(tasks), x, generator), _Free.start(len(tasks), x, generator, x.shape[1])
        targets = torch.tensor([task.target for task in tasks], device=x.device)
        adam = torch.optim.Adam([masks.free, patterns.free], lr=self.learning_rate, betas=BETAS)
        state = _State.start(masks(), patterns(value_range))
        flips, done = torch.zeros(len(tasks), device=x.device), 0
        for batch in self._batches(tasks, x, generator):
            if done % BLOCK == 0 and bool(state.ended.all()):
                break
            mask, pattern = masks(), patterns(value_range)
            logits = _answers(net, batch, mask, pattern)
            flips += (logits.argmax(2) == targets[:, None]).sum(1)
            done += 1
            if done % self.check == 0:
                state.look(flips / (self.check * self.batch_size), mask.detach(), pattern.detach(), self)
                flips.zero_()
            # Each task's mean, summed: Adam works element by element, so no task feels how many others there are.
            wrong = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), targets.repeat_interleave(batch.shape[1]), reduction="sum"
            )
            adam.zero_grad(set_to_none=True)
            (wrong / batch.shape[1] + (state.weight * mask.flatten(1).sum(1)).sum()).backward()
            adam.step()
            for each in (masks, patterns):
                each.free.data.clamp_(-BOUND, BOUND)
        return [state.trigger(i, task, done, net, x) for i, task in enumerate(tasks)]

    def _batches(self, tasks: Sequence[_Task], x: torch.Tensor, generator: torch.Generator) -> Iterator[torch.Tensor]:
        """Inputs ``[tasks, batch_size, c, h, w]``, drawn from each task's own with replacement, a block at a time."""
        counts = torch.tensor([len(task.inputs) for task in tasks])
        padded = torch.nn.utils.rnn.pad_sequence([task.inputs for task in tasks], batch_first=True)
        for start in range(0, self.steps, BLOCK):
            steps = min(BLOCK, self.steps - start)
            drawn = torch.rand(len(tasks), steps * self.batch_size, generator=generator)
            places = (drawn * counts[:, None]).long().clamp_max(counts[:, None] - 1)  # rounding may reach the count
            for part in padded.gather(1, places).to(x.device).split(self.batch_size, dim=1):
                yield x[part]

    def _detection(self, found: Sequence[_Trigger], classes: int) -> Detection:
        """The largest anomaly index, among all norms at once, and the trigger that it belongs to.

        Indices within each source, of nine norms say, have so small a MAD now and then that the largest of ten such is
        chance: on digits it named another pair than the planted one each time, where one index over all pairs named it.
        """
        sources = [None] if self.scope == "universal" else list(range(classes))
        norms, rates = torch.full((2, len(sources), classes), torch.nan, dtype=torch.float64)
        steps = torch.zeros(len(sources), dtype=torch.float64)
        for trigger in found:
            row = trigger.source or 0
            norms[row, trigger.target], rates[row, trigger.target] = trigger.norm, trigger.flip_rate
            steps[row] = trigger.steps
        index = torch.from_numpy(statistics.anomaly_index(norms.flatten().numpy())).view_as(norms)
        measures = []
        for row, source in enumerate(sources):
            values = {"mask_norm": norms, "flip_rate": rates, "anomaly_index": index}
            values["share_of_reference_steps"] = steps[:, None] / REFERENCE_STEPS
            group = UNIVERSAL if source is None else str(source)
            measures += [Measure(name, value[row], group=group) for name, value in values.items()]
        score = float(index.max())
        if score == 0:
            return Detection(0.0, 2.0, measures=measures)
        row, target = divmod(int(index.argmax()), classes)
        best = next(each for each in found if (each.source, each.target) == (sources[row], target))
        return Detection(score, 2.0, best.target, best.source, best.mask, best.pattern, measures)


class NeuralCleanseRemoval(WhiteBoxAttack):
    """Finds the most suspicious trigger with Neural Cleanse and removes it: by unlearning it, or by pruning its units.

    It is removed whatever its anomaly index: the attacker only loses by leaving it. Labels are the model's own answers.
    """

    name = "neural-cleanse-removal"
    family = "removal"
    reference = f"{PAPER}, Section VI"
    arms = ("", "by=pruning")

    by: Literal["unlearning", "pruning"] = option(
        "unlearning",
        doc="Fine-tune on inputs that carry the trigger and keep their class; or prune the units that it excites.",
    )
    scope: Literal["universal", "pairwise"] = option("universal", doc="Scope of the search, as neural-cleanse's.")
    steps: int = option(400, doc="Steps of the search, as neural-cleanse's.", at_least=1)
    epochs: int = option(1, doc="Epochs of unlearning.", at_least=1)
    share: float = option(
        0.2,
        doc="Share of the pool that carries the trigger while unlearning; at most half of the inputs that it moves.",
        at_least=0,
        at_most=1,
    )
    layer: Literal["last", "last-conv"] = option(
        "last", doc="Layer to prune: the last hidden layer (the paper's), or the last convolution."
    )
    fraction: float = option(
        0.5, doc="Largest share of the layer's units that is pruned; at least one unit stays.", at_least=0, at_most=1
    )
    flip_rate: float = option(
        0.1, doc="Pruning stops once the trigger turns fewer inputs than this share.", at_least=0, at_most=1
    )

    def skip(self, dataset: Dataset) -> str | None:
        return needs_images(dataset)

    def run(self, victim: nets.Net, pool: Pool, ctx: Context) -> nets.Net:
        found = NeuralCleanse(scope=self.scope, steps=self.steps).run(victim, pool, ctx)
        if found.suspected_class is None or found.mask is None or found.pattern is None:
            raise Skip("no trigger was found to remove")
        victim.requires_grad_(True)
        x = nets.as_float(pool.x)
        labels = ctx.predict(victim, x).argmax(1)
        stamped = _stamp(x, found.mask, found.pattern)
        moved = labels != found.suspected_class
        if found.suspected_source is not None:
            moved = labels == found.suspected_source
        if self.by == "unlearning":
            return self._unlearned(victim, x, stamped, labels, moved, ctx)
        return self._pruned(victim, x[moved], stamped[moved], found.suspected_class, ctx)

    def _unlearned(
        self,
        net: nets.Net,
        x: torch.Tensor,
        stamped: torch.Tensor,
        labels: torch.Tensor,
        moved: torch.Tensor,
        ctx: Context,
    ) -> nets.Net:
        """``net`` fine-tuned on the pool ``x``, of which a random share of the inputs ``moved`` ``[n]`` is stamped."""
        places = moved.nonzero()[:, 0]
        # Half of them stay clean: a rare source would otherwise be seen with the trigger only, and be forgotten.
        count = min(round(self.share * len(x)), len(places) // 2)
        places = places[torch.randperm(len(places), generator=ctx.generator)[:count].to(x.device)]
        mixed = x.index_copy(0, places, stamped[places])
        return ctx.train(net, [ctx.stream(Split(mixed, labels))], self.epochs)

    def _pruned(self, net: nets.Net, clean: torch.Tensor, stamped: torch.Tensor, target: int, ctx: Context) -> nets.Net:
        """``net`` without the units that ``stamped`` excites most above ``clean``, until few answer ``target``."""
        last = nets.last_convolution(net) if self.layer == "last-conv" else None
        layer = last or net.hidden[-1]
        excess = _excitement(net, layer, stamped) - _excitement(net, layer, clean)
        order = excess.argsort(descending=True, stable=True)
        most = min(int(self.fraction * len(order)), len(order) - 1)
        step = max(1, len(order) // 32)  # the flip rate is measured again after each: a pass over the pool
        for count in range(step, most + step, step):
            if float((ctx.predict(net, stamped).argmax(1) == target).double().mean()) < self.flip_rate:
                break
            units = torch.zeros_like(order, dtype=torch.bool).index_fill(0, order[: min(count, most)], True)
            net.silence(layer, units)
        return net


# --- the search -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Task:
    """One search: turn ``inputs`` (indices ``[k]``) to ``target``. ``source`` is ``None`` where they are of any."""

    source: int | None
    target: int
    inputs: torch.Tensor


@dataclass(frozen=True)
class _Trigger:
    """Result of a search: the smallest mask ``[h, w]`` that reached the flip rate, or NaN where none did."""

    source: int | None
    target: int
    norm: float
    """The mask's L1 norm, in pixels; NaN."""
    flip_rate: float
    """Share of all of the task's inputs that the trigger turns, 0..1; NaN."""
    mask: torch.Tensor
    pattern: torch.Tensor
    steps: int


@dataclass(frozen=True)
class _Free:
    """Values in 0..1 by a parameter that is free of them, ``tanh(free) / 2 + 1/2``."""

    free: torch.Tensor

    @classmethod
    def start(cls, tasks: int, x: torch.Tensor, generator: torch.Generator, channels: int = 0) -> _Free:
        """Uniform in 0..1: ``[tasks, h, w]``, or ``[tasks, channels, h, w]``."""
        shape = (tasks, *((channels,) if channels else ()), *x.shape[2:])
        start = torch.atanh(2 * torch.rand(shape, generator=generator) - 1).clamp(-BOUND, BOUND)
        return cls(start.to(x.device, x.dtype).requires_grad_(True))

    def __call__(self, value_range: tuple[float, float] = (0.0, 1.0)) -> torch.Tensor:
        low, high = value_range
        return low + (high - low) * (self.free.tanh() / 2 + 0.5)


@dataclass
class _State:
    """Memory of each search from look to look: tensors ``[tasks]``, never read on the host while it runs."""

    weight: torch.Tensor
    """Lambda."""
    best: torch.Tensor
    """The smallest norm that reached the flip rate; inf."""
    mask: torch.Tensor
    pattern: torch.Tensor
    reached: torch.Tensor
    """Looks in a row that reached the flip rate, since lambda last changed; likewise those that missed it."""
    missed: torch.Tensor
    grew: torch.Tensor
    shrank: torch.Tensor
    stale: torch.Tensor
    """Looks since the best mask."""
    ended: torch.Tensor

    @classmethod
    def start(cls, mask: torch.Tensor, pattern: torch.Tensor) -> _State:
        def of(value: float | bool) -> torch.Tensor:
            return torch.full((len(mask),), value, device=mask.device)

        nothing = torch.full_like(mask, torch.nan), torch.full_like(pattern, torch.nan)
        return cls(of(0.0), of(torch.inf), *nothing, of(0), of(0), of(False), of(False), of(0), of(False))

    def look(self, flips: torch.Tensor, mask: torch.Tensor, pattern: torch.Tensor, options: NeuralCleanse) -> None:
        """Keep what is better, and move lambda, by the flip rates ``[tasks]`` since the last look."""
        norm, success = mask.flatten(1).sum(1), flips >= options.attack_rate
        better = success & (norm < self.best) & ~self.ended
        self.best = torch.where(better, norm, self.best)
        self.mask = torch.where(better[:, None, None], mask, self.mask)
        self.pattern = torch.where(better[:, None, None, None], pattern, self.pattern)
        self.stale = torch.where(better, 0, self.stale + self.best.isfinite())
        self.reached = torch.where(success, self.reached + 1, 0)
        self.missed = torch.where(success, 0, self.missed + 1)
        started = self.weight > 0
        up, down = self.reached >= options.patience, started & (self.missed >= options.patience)
        grown = torch.where(started, self.weight * options.factor, options.weight)
        shrunk = torch.where(down, self.weight / options.factor**1.5, self.weight)
        self.weight = torch.where(up, grown, shrunk)
        self.reached, self.missed = self.reached.masked_fill(up, 0), self.missed.masked_fill(down, 0)
        self.grew, self.shrank = self.grew | (up & started), self.shrank | down
        self.ended = self.ended | (self.grew & self.shrank & (self.stale >= options.early_stop))

    def trigger(self, number: int, task: _Task, steps: int, net: torch.nn.Module, x: torch.Tensor) -> _Trigger:
        """The result of one search, its flip rate measured on all of the task's inputs."""
        mask, pattern = self.mask[number], self.pattern[number]
        if not bool(self.best[number].isfinite()):
            return _Trigger(task.source, task.target, torch.nan, torch.nan, mask, pattern, steps)
        parts = _stamp(x[task.inputs.to(x.device)], mask, pattern).split(1000)
        with torch.inference_mode():
            turned = torch.cat([net(part).argmax(1) == task.target for part in parts])
        rate = float(turned.double().mean())
        return _Trigger(task.source, task.target, float(self.best[number]), rate, mask, pattern, steps)


def _stamp(x: torch.Tensor, mask: torch.Tensor, pattern: torch.Tensor) -> torch.Tensor:
    """Inputs ``[..., c, h, w]`` under a trigger: between two values in the data's range, hence in it."""
    return torch.lerp(x, pattern, mask.unsqueeze(-3))


def _answers(net: torch.nn.Module, x: torch.Tensor, mask: torch.Tensor, pattern: torch.Tensor) -> torch.Tensor:
    """Logits ``[tasks, n, classes]`` of inputs ``[tasks, n, c, h, w]``, each task's under its own trigger."""
    logits: torch.Tensor = net(_stamp(x, mask[:, None], pattern[:, None]).flatten(0, 1))
    return logits.view(*x.shape[:2], -1)


def _excitement(net: nets.Net, layer: str, x: torch.Tensor) -> torch.Tensor:
    """Mean activation ``[units]`` of a hidden layer after the ReLU, over inputs and positions."""
    sums = []
    with torch.inference_mode():
        for part in x.split(1000):
            active = net.activations(part)[1][layer].relu()
            sums.append((active.flatten(2).mean(2) if active.ndim > 2 else active).sum(0))
    return torch.stack(sums).sum(0) / len(x)
