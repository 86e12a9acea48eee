"""Dataset inference (Maini et al.): a model is further from its training data's boundary than from other data's."""

from __future__ import annotations

import torch

from harness import Context, Count, Dataset, Defense, Evidence, Key, Marked, Oracle, Skip, Task, nets, option

SCALES = (1, 2, 3, 5, 8, 12, 18, 27, 38, 50)
"""Lengths of a walk at which a suspect is asked, in sizes of its first step; the paper asks after each step."""
FIRST = {"uniform": 0.005, "gaussian": 0.005, "laplace": 0.01}
"""Size of the first step of a walk in each noise, as a share of the range of inputs (the released code's)."""


class DatasetInference(Defense):
    """A fingerprint: inputs that a model was trained on are further from its boundary than inputs that it never saw.

    From each input a label-only "blind walk" goes along random directions, until the answer changes. How far it goes,
    in each direction, is weighed by least squares on the victim's own training and held-out inputs. A trial is a pair
    of another training input and another held-out one; it matches when the training input is weighed as further inside.
    Chance is one half. ``control`` pairs held-out inputs with held-out ones; nothing is held out of the key otherwise.

    The owner keeps the inputs, the directions and the weights. Differences from the paper: its regressor is a net of
    two layers and its test a Welch t-test; it asks after each of 50 steps, here after ten of them.

    Measured on digits (seeds 100-104, mean and 95% interval; 25 unmarked models): victims match in 51.6% [42.6, 60.6]
    of 50 pairs, retrained copies in 48.4% [42.0, 54.8], unmarked models, which were trained on most of the same inputs,
    in 50.2%: at this size it does not tell the victim itself from chance.
    """

    name = "dataset-inference"
    reference = "Maini, Yaghini and Papernot, Dataset Inference: Ownership Resolution in Machine Learning, ICLR 2021"
    fingerprint = True

    count: int = option(100, doc="Largest number of pairs; as many again fit the weights.", at_least=4)
    repeats: int = option(3, doc="Directions in each of three kinds of noise; the paper has 10.", at_least=1)

    def skip(self, dataset: Dataset) -> str | None:
        return None if dataset.holdout >= 16 else f"needs 16 held-out samples, holdout={dataset.holdout}"

    def embed(self, task: Task, ctx: Context) -> Marked:
        net = ctx.train(ctx.build(), [ctx.stream(task.train)], ctx.epochs)
        pairs = min(self.count, len(task.holdout) // 3, len(task.train) // 2)
        order = torch.randperm(len(task.train), generator=ctx.generator)[: 2 * pairs].to(ctx.device)
        seen, unseen = task.train.x[order], task.holdout.x
        directions = self._directions(task, ctx)
        own = Oracle(lambda x: ctx.predict(net, x))
        inside, outside = (walked(own, x[:pairs], directions, task.dataset.value_range) for x in (seen, unseen))
        features = torch.cat([inside, outside])
        side = torch.cat([torch.ones(pairs), -torch.ones(pairs)]).to(features)
        mean, spread = features.mean(0), features.std(0).clamp_min(1e-9)
        scaled = (features - mean) / spread
        if not bool(scaled.isfinite().all()):
            raise Skip("the victim's answers never change on a walk")
        # A ridge, since directions of a kind say nearly the same.
        ridge = 0.1 * len(scaled) * torch.eye(scaled.shape[1], dtype=scaled.dtype, device=scaled.device)
        weights = torch.linalg.solve(scaled.T @ scaled + ridge, scaled.T @ side) / spread
        low, high = task.dataset.value_range
        tensors = {
            **{
                "directions": directions,
                "seen": seen[pairs:],
                "unseen": unseen[pairs : 2 * pairs],
                "other": unseen[2 * pairs : 3 * pairs],
            },
            **{"weights": weights, "span": torch.tensor([low, high])},
        }
        return Marked(net, Key(tensors=tensors))

    def verify(self, suspect: Oracle, key: Key) -> Evidence:
        low, high = key.tensors["span"].tolist()
        seen, unseen, other = (
            walked(suspect, key.tensors[name], key.tensors["directions"], (low, high)) @ key.tensors["weights"]
            for name in ("seen", "unseen", "other")
        )
        return Evidence({"trigger": further(seen, unseen), "control": further(other, unseen)})

    def _directions(self, task: Task, ctx: Context) -> torch.Tensor:
        """First steps ``[directions, ...]``, as shares of the range."""
        shape = (self.repeats, *task.dataset.input_shape)
        uniform = 2 * torch.rand(shape, generator=ctx.generator) - 1
        gaussian = torch.randn(shape, generator=ctx.generator)
        laplace = torch.rand(shape, generator=ctx.generator).log() * uniform.sign()
        drawn = {"uniform": uniform, "gaussian": gaussian, "laplace": laplace}
        return torch.cat([FIRST[name] * each for name, each in drawn.items()]).to(ctx.device)


def further(one: torch.Tensor, two: torch.Tensor) -> Count:
    """Pairs of which ``one`` is the larger; half of the ties."""
    return Count(int((one > two).sum()) + int((one == two).sum()) // 2, len(one))


def walked(suspect: Oracle, x: torch.Tensor, directions: torch.Tensor, span: tuple[float, float]) -> torch.Tensor:
    """Lengths ``[n, directions]`` after which the answer to each input changes; twice the longest where it does not."""
    low, high = span
    count = len(directions)
    start = nets.as_float(x).repeat_interleave(count, 0)
    step = (high - low) * directions.repeat(len(x), *(1 for _ in x.shape[1:]))
    answer = suspect.labels(x).repeat_interleave(count)
    length = torch.full((len(start),), 2.0 * SCALES[-1], device=x.device)
    left = torch.arange(len(start), device=x.device)
    for scale in SCALES:
        moved = nets.as_stored((start[left] + scale * step[left]).clamp(low, high), x.dtype)
        changed = suspect.labels(moved) != answer[left]
        length[left[changed]] = float(scale)
        left = left[~changed]
        if not len(left):
            break
    return length.view(len(x), count)
