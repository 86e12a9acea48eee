"""Answers of models that are not the harness's: labels, probabilities or logits, as logits ``[n, classes]``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from harness.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

LEAST = -1e4
"""The logit of a class that was not answered: its probability is 0."""


def logits_of(answer: Any, count: int, classes: int) -> Tensor:
    """Answers to ``count`` inputs: whole numbers ``[n]``, or probabilities or logits ``[n, classes]``; NaN and negative
    labels are refusals.

    Of several outputs the first counts. Raises :class:`UsageError` for any other form.
    """
    import torch

    answer = getattr(answer, "logits", answer)
    if isinstance(answer, tuple | list) and answer:
        first: Any = answer[0]
        answer = first if getattr(first, "ndim", 0) else answer
    try:
        made = torch.as_tensor(answer).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"the suspect answers a {type(answer).__name__}: {_EXPECTED}") from error
    if made.ndim == 2 and made.shape == (count, 1) and not made.is_floating_point():
        made = made[:, 0]
    if made.ndim == 1 and len(made) == count:
        return labels_as_logits([_label(value) for value in made.tolist()], classes)
    if made.shape != (count, classes):
        shape = tuple(made.shape)
        raise UsageError(f"the suspect answers {count} inputs by a {shape}: {_EXPECTED}, of {classes} classes")
    made = made.double()
    sums = made.sum(dim=1)
    if bool(((made >= 0) & (made <= 1)).all() and ((sums - 1).abs() < 1e-2).all()):
        made = made.log().clamp_min(LEAST)
    return made.masked_fill(made.isnan().any(dim=1, keepdim=True), torch.nan).float()


_EXPECTED = "expected labels [n], or probabilities or logits [n, classes]"


def _label(value: float) -> int:
    if value != value:
        return -1
    if value != int(value):
        raise UsageError(f"the suspect answers {value}, which is no class: {_EXPECTED}")
    return int(value)


def labels_as_logits(labels: Sequence[int], classes: int) -> Tensor:
    """Labels as certain answers; a negative one is a refusal. Raises :class:`UsageError` for one of no class."""
    import torch

    wrong = [label for label in labels if label >= classes]
    if wrong:
        raise UsageError(f"the suspect answers class {wrong[0]}, and the key's task has {classes}, from 0")
    made = torch.full((len(labels), classes), LEAST)
    for row, label in enumerate(labels):
        made[row] = torch.nan if label < 0 else made[row].index_fill(0, torch.tensor([label]), 0.0)
    return made


def in_parts(run: Callable[[Tensor], Any], x: Tensor, size: int) -> Tensor:
    """The answers of a model that takes batches of one size: the last one is filled with repeated inputs."""
    import torch

    parts = []
    for part in x.split(size):
        filled = torch.cat([part, part[-1:].expand(size - len(part), *part.shape[1:])])
        parts.append(torch.as_tensor(run(filled))[: len(part)])
    return torch.cat(parts)
