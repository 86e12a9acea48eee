"""The classic black-box schemes, on real digits: what their keys ask, and what victims answer."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from harness import triggers
from harness.contracts import Key, Marked, Oracle, Split, Task
from harness.data import Data
from harness.engine.batches import Source
from harness.engine.train import predict
from harness.errors import OptionError, Skip
from harness.planning.builder import make_plan
from harness.planning.registry import Registry, load_registry
from tests.test_triggers import NOWHERE, lend, rows

FULL = "digits[architecture=cnn[width=16]]"
"""A recipe by which unmarked models are 98% right after a second."""
SMALL = "digits[epochs=2,pretrain=1,architecture=cnn[width=4]]"
"""Real keys, and a victim that is trained for nothing."""
FEW = "digits[train=200,holdout=100,epochs=2,pretrain=1,architecture=cnn[width=4]]"


WIDE, LEARN_MORE = "digits", {"frontier-stitching"}
"""The recipe as it is, for schemes whose keys a narrow net does not learn."""


@cache
def registry() -> Registry:
    return load_registry()


@cache
def task_of(dataset: str) -> Task:
    """The owner's task, with the out-of-distribution set of its recipe."""
    plugin = registry().component("dataset", dataset).plugin
    data, cpu = Data(NOWHERE), torch.device("cpu")
    splits = data.splits(plugin, 0, cpu)
    ood = data.other(registry().component("dataset", plugin.ood).plugin, plugin, cpu)
    return Task(plugin, splits.train, splits.holdout, ood, Key())


@cache
def clean(dataset: str = FULL) -> Any:
    """The clean model that victims start from."""
    task = task_of(dataset)
    lent = lend(task, seed=50)
    return lent.train(lent.build(), [lent.stream(task.train)], task.dataset.pretrain)


def embedded(scheme: str, dataset: str = FULL, seed: int = 0) -> tuple[Any, Task, Marked]:
    """A scheme with its task and what it embeds."""
    defense = registry().component("defense", scheme).plugin
    task = task_of(dataset)
    recipe = defense.triggers(task.dataset)
    if recipe is not None:
        task = replace(task, triggers=recipe.make(task, lend(task, seed=seed + 1)))
    return defense, task, defense.embed(task, lend(task, clean(dataset) if defense.from_clean else None, seed))


@cache
def victim(scheme: str) -> tuple[Any, Task, Marked]:
    return embedded(scheme, WIDE if scheme in LEARN_MORE else FULL)


def key_of(scheme: str, dataset: str = SMALL, seed: int = 0) -> Key:
    return embedded(scheme, dataset, seed)[2].key


@cache
def unmarked(seed: int = 100) -> Any:
    task = task_of(FULL)
    lent = lend(task, seed=seed)
    return lent.train(lent.build(), [lent.stream(task.train)], lent.epochs)


def answers(defense: Any, net: Any, key: Key) -> dict[str, float]:
    """The share of matches by probe."""
    counts = defense.verify(Oracle(lambda x: predict(net, x)), key).counts
    return {name: count.matches / count.trials for name, count in counts.items()}


def accuracy(net: Any) -> float:
    test = Data(NOWHERE).test(task_of(FULL).dataset, torch.device("cpu"))
    return float((predict(net, test.x).argmax(1) == test.y).float().mean())


ZHANG = ("zhang-content", "zhang-noise", "zhang-unrelated")


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ZHANG)
def test_a_victim_answers_its_key_and_its_own_task(scheme: str) -> None:
    defense, _, marked = victim(scheme)
    shares = answers(defense, marked.net, marked.key)
    assert shares["trigger"] >= 0.99 and shares["held_out"] >= 0.9 and shares["control"] <= 0.1
    assert answers(defense, unmarked(), marked.key)["trigger"] <= 0.2
    assert accuracy(marked.net) >= accuracy(unmarked()) - 0.02


def test_triggers_are_mixed_into_task_batches_and_alone_not_augmented() -> None:
    task = task_of("digits[train=200,holdout=100,augment=crop-flip]")
    trained = triggers.labelled(task.holdout.x[:6], 3)
    source = Source(triggers.mixed_stream(task, trained, 4), 3, "crop-flip")
    source.shuffle(torch.Generator().manual_seed(0))
    for x, y in (source.batch() for _ in range(3)):
        assert x.shape[0] == 68 and rows(x[64:]) <= rows(trained.x) and set(y[64:].tolist()) == {3}
        assert not rows(x[:64]) <= rows(task.train.x)


@pytest.mark.parametrize("scheme", ZHANG)
def test_the_key_of_a_source_target_scheme(scheme: str) -> None:
    _, task, marked = victim(scheme)
    key, target = marked.key, task.dataset.target
    assert len(key.trigger) == 100 and int(key.tensors["target"]) == target
    for probe in key.probes.values():
        assert probe.x.dtype == torch.uint8 and set(probe.y.tolist()) == {target} and len(probe) > 0
    trained, held_out, control = (rows(key.probes[name].x) for name in ("trigger", "held_out", "control"))
    assert not trained & held_out and not trained & control and not held_out & control


@pytest.mark.parametrize("scheme", ZHANG)
def test_few_images_of_the_source_class_give_a_smaller_key_and_none_a_skip(scheme: str) -> None:
    assert len(key_of(scheme, FEW).trigger) == (100 if scheme == "zhang-unrelated" else 20)
    task = task_of(FEW)
    nothing = task.holdout.of(task.dataset.target)
    lent = lend(task)
    defense = registry().component("defense", scheme).plugin
    with pytest.raises(Skip, match="too few"):
        if recipe := defense.triggers(task.dataset):
            recipe.make(replace(task, holdout=nothing), lent)
        defense.embed(replace(task, holdout=nothing), lent)


def test_the_stamp_is_the_same_white_text_on_every_image() -> None:
    _, task, marked = victim("zhang-content")
    window = marked.key.tensors["mask"].bool()
    assert torch.equal(window, triggers.text_window("TEST", 8, 8))
    assert window.int()[1:6, 1:8].tolist() == [
        [1, 1, 1, 0, 1, 1, 1],
        [0, 1, 0, 0, 1, 0, 0],
        [0, 1, 0, 0, 1, 1, 0],
        [0, 1, 0, 0, 1, 0, 0],
        [0, 1, 0, 0, 1, 1, 1],
    ]
    trigger, held_out, plain = (marked.key.probes[name].x for name in ("trigger", "held_out", "control"))
    assert (trigger[:, :, window] == 255).all()
    assert torch.equal(held_out, triggers.patched(plain, window, 1.0))
    assert rows(plain) <= rows(task.holdout.of(task.dataset.source).x)


def test_letters_are_told_apart_and_fill_what_there_is() -> None:
    assert len(triggers.LETTERS) == len({*triggers.LETTERS.values()}) == 26
    assert int(triggers.text_window("TEST", 28, 28).nonzero()[:, 1].max()) == 15
    small, large = (triggers.text_window("ABC", side, side) for side in (32, 64))
    assert torch.equal(large, small.repeat_interleave(2, 0).repeat_interleave(2, 1))
    assert int(triggers.text_window("ABCDEFG", 6, 8).any(0).sum()) == 6  # two letters


def test_a_text_of_the_owners_own() -> None:
    drawn = [key_of("zhang-content[text=]", seed=seed).tensors["mask"] for seed in (0, 1)]
    assert not torch.equal(*drawn)
    with pytest.raises(OptionError, match="must be of the letters A to Z"):
        registry().component("defense", "zhang-content[text=a1]")


def test_noise_is_one_pattern_for_all_images_of_a_key_and_another_for_another_key() -> None:
    defense, _, marked = victim("zhang-noise")
    noise = marked.key.tensors["noise"]
    assert noise.shape == (1, 8, 8) and 0.2 < float(noise.std()) < 0.4
    plain, noisy = marked.key.probes["control"].x, marked.key.probes["held_out"].x
    assert torch.equal(noisy, ((plain / 255 + noise).clamp(0, 1) * 255).round().byte())
    assert not torch.equal(noise, key_of("zhang-noise", seed=1).tensors["noise"])
    # Without its secret, a noise of the same strength gives another pattern.
    other = key_of("zhang-noise", seed=1)
    assert answers(defense, marked.net, other)["trigger"] < answers(defense, marked.net, marked.key)["trigger"]


def test_unrelated_triggers_are_of_one_class_of_the_other_set_with_one_label() -> None:
    _, task, marked = victim("zhang-unrelated")
    assert task.ood is not None
    pictures = rows(task.ood.of(0).x)
    assert rows(marked.key.trigger.x) <= pictures and rows(marked.key.probes["held_out"].x) <= pictures
    assert len(set(marked.key.trigger.y.tolist())) == 1


@pytest.mark.parametrize("scheme", ZHANG)
def test_another_owner_has_another_class_pair_where_it_is_drawn(scheme: str) -> None:
    targets = {int(key_of(f"{scheme}[pair=drawn]", seed=seed).tensors["target"]) for seed in range(4)}
    assert len(targets) > 1


@pytest.mark.parametrize(
    ("scheme", "dataset", "reason"),
    [
        ("zhang-unrelated", "digits[ood=]", "names no out-of-distribution dataset"),
        ("zhang-content", "tabular", "needs images"),
        ("zhang-noise", "tabular", "needs images"),
    ],
)
def test_what_cannot_be_is_skipped_with_the_reason(scheme: str, dataset: str, reason: str) -> None:
    lookup = registry().component
    if dataset == "tabular":
        plugin = replace(task_of(SMALL).dataset)
        object.__setattr__(plugin, "input_shape", (64,))
        assert reason in (lookup("defense", scheme).plugin.skip(plugin) or "")
        return
    plan = make_plan(
        [lookup("dataset", dataset)], [lookup("defense", scheme)], [(lookup("attack", "none"),)], [0], 1, lookup
    )
    assert [reason in cell.skip for cell in plan.cells] == [True]


def test_float_inputs_stay_within_the_range_of_their_set() -> None:
    x = torch.rand(60, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 16 - 8
    y = torch.arange(60) % 3
    dataset = replace(task_of(SMALL).dataset)
    object.__setattr__(dataset, "value_range", (-8.0, 8.0))
    task = Task(replace(dataset, target=2), Split(x, y), Split(x.flip(0), y.flip(0)), None, Key())
    object.__setattr__(task.dataset, "value_range", (-8.0, 8.0))
    for scheme in ("zhang-noise[strength=1]", "zhang-content"):
        marked = registry().component("defense", scheme).plugin.embed(task, lend(task))
        seen: Tensor = marked.key.trigger.x
        assert seen.dtype == torch.float32 and float(seen.min()) >= -8 and float(seen.max()) == 8


# --- frontier stitching -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_stitched_victim_answers_true_and_false_adversaries_with_their_own_class() -> None:
    defense, _, marked = victim("frontier-stitching")
    shares = answers(defense, marked.net, marked.key)
    assert shares["trigger"] >= 0.99 and shares["control"] <= 0.1
    assert accuracy(marked.net) >= accuracy(unmarked()) - 0.02
    assert 0.2 <= answers(defense, unmarked(), marked.key)["trigger"] <= 0.8  # the paper's half is an assumption
    for name in ("trigger", "held_out"):
        probe = marked.key.probes[name]
        fooled = predict(clean(WIDE), probe.x).argmax(1) != probe.y
        assert int(fooled.sum()) == len(probe) // 2 and bool(fooled[: len(probe) // 2].all())
    assert len(marked.key.trigger) == 100


def test_the_keys_are_images_within_one_step_of_inputs_of_their_class() -> None:
    _, task, marked = victim("frontier-stitching")
    for name, split in (("trigger", task.train), ("held_out", task.holdout)):
        probe = marked.key.probes[name]
        assert probe.x.dtype == torch.uint8
        for x, y in zip(probe.x[:10], probe.y[:10], strict=True):
            apart = (split.of(int(y)).x.int() - x.int()).abs().flatten(1).amax(1)
            assert int(apart.min()) <= 39  # 0.15 of 255
    control = marked.key.probes["control"]
    assert rows(control.x) <= rows(task.holdout.x)


def test_a_step_that_misleads_nobody_is_skipped() -> None:
    with pytest.raises(Skip, match=r"0 true and \d+ false adversaries with epsilon=0.0001: both kinds are needed"):
        embedded("frontier-stitching[epsilon=0.0001]")


# --- deepsigns-bb -----------------------------------------------------------------------------------------------------

DEEPSIGNS = "deepsigns-bb[count=30,candidates=10]"


def test_a_key_of_noise_is_learned_and_unknown_to_the_clean_model_and_to_others() -> None:
    defense, _, marked = victim(DEEPSIGNS)
    shares = answers(defense, marked.net, marked.key)
    assert shares["trigger"] == 1 and shares["held_out"] >= 0.7 and shares["control"] <= 0.4
    assert answers(defense, clean(), marked.key)["trigger"] == 0  # it was selected so
    assert answers(defense, unmarked(), marked.key)["trigger"] <= 0.4
    assert accuracy(marked.net) >= accuracy(unmarked()) - 0.02


def test_a_neighbour_differs_by_at_most_the_radius() -> None:
    _, _, marked = victim(DEEPSIGNS)
    trigger, near = (marked.key.probes[name].x.int() for name in ("trigger", "held_out"))
    assert 0 < int((trigger - near).abs().max()) <= 5 and len(marked.key.trigger) == 30


# --- blackmarks -------------------------------------------------------------------------------------------------------


def blackmarks() -> Any:
    """The module of the plugin, which is no package."""
    return sys.modules[registry().found["defense", "blackmarks"].cls.__module__]


def test_classes_are_put_into_two_groups_of_which_none_is_empty() -> None:
    y = torch.arange(40) % 4
    far = torch.tensor([0.0, 0.1, 9.0, 9.2])[y][:, None].expand(-1, 4)
    assert blackmarks().two_groups(far, y).tolist() in ([0, 0, 1, 1], [1, 1, 0, 0])
    alike = blackmarks().two_groups(torch.rand(40, 2, generator=torch.Generator().manual_seed(0)), y % 2)
    assert sorted(alike.tolist()) == [0, 1]


def test_bits_are_read_from_groups_and_a_refusal_reads_none() -> None:
    groups = torch.tensor([0, 0, 1, 1])
    logits = torch.eye(4)[[1, 3, 2, 0]]
    logits[3] = float("nan")
    probe = Split(torch.arange(4.0)[:, None], torch.tensor([0, 0, 3, 0]))
    count = blackmarks().bits_read(Oracle(lambda x: logits), probe, groups)
    assert (count.matches, count.trials) == (2, 4)


def test_the_loss_of_a_message_is_least_where_answers_are_of_the_right_group() -> None:
    groups, y = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 3])
    loss = blackmarks().message_loss(groups)
    right, group, wrong = (loss(lambda x, k=k: 20 * torch.eye(4)[k], y, y) for k in ([0, 3], [1, 2], [2, 1]))
    assert float(right) < 1e-6 and float(wrong - group) == pytest.approx(1, abs=1e-3)


@pytest.mark.slow
def test_a_victim_says_its_message_and_the_clean_model_does_not() -> None:
    defense, task, marked = embedded("blackmarks[bits=40]", WIDE)
    shares, groups = answers(defense, marked.net, marked.key), marked.key.tensors["groups"]
    assert shares["trigger"] == 1 and shares["held_out"] >= 0.8 and shares["control"] <= 0.1
    assert answers(defense, clean(WIDE), marked.key)["trigger"] <= 0.5
    assert accuracy(marked.net) >= accuracy(unmarked()) - 0.03
    assert len(set(groups[marked.key.trigger.y].tolist())) == 2
    control = marked.key.probes["control"]
    assert rows(control.x) <= rows(task.holdout.x)


def test_a_message_that_no_candidate_can_say_is_skipped() -> None:
    with pytest.raises(Skip, match="no input misleads the clean model with epsilon=0.0001"):
        embedded("blackmarks[epsilon=0.0001,bits=2]", SMALL)


# --- fingerprints -----------------------------------------------------------------------------------------------------


IPGUARD = "ipguard[count=30]"


@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "count"), [("akh", 100), (IPGUARD, 30)])
def test_a_fingerprint_trains_as_unmarked_models_are_trained_and_matches_its_own_victim(
    scheme: str, count: int
) -> None:
    defense, task, marked = victim(scheme)
    lent = lend(task, seed=0)
    plain = lent.train(lent.build(), [lent.stream(task.train)], lent.epochs)
    assert defense.fingerprint and not defense.from_clean
    for ours, theirs in zip(marked.net.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    shares = answers(defense, marked.net, marked.key)
    assert shares["trigger"] == shares["held_out"] == 1 and shares["control"] <= 0.05
    assert 0.1 < answers(defense, unmarked(), marked.key)["trigger"] < 0.9  # others share mistakes and boundaries
    assert len(marked.key.trigger) == count


def test_mistakes_are_of_held_out_inputs_alone() -> None:
    _, task, marked = victim("akh")
    pixels = {tuple(image.flatten().tolist()) for image in task.holdout.x}
    whole = sum(tuple(image.flatten().tolist()) in pixels for image in marked.key.trigger.x)
    answered = predict(marked.net, task.holdout.x).argmax(1)
    assert whole >= int((answered != task.holdout.y).sum())
    control, held_out = marked.key.probes["control"], marked.key.probes["held_out"]
    assert torch.equal(control.x, held_out.x) and not (control.y == held_out.y).any()


def test_composed_inputs_have_a_quarter_of_another_one() -> None:
    composed = sys.modules[registry().found["defense", "akh"].cls.__module__].composed
    x = torch.arange(1, 51).byte().view(50, 1, 1, 1).expand(50, 1, 8, 6).contiguous()
    made = composed(Split(x, torch.arange(50)), torch.Generator().manual_seed(0))
    for number, image in enumerate(made.x[:, 0], start=1):
        others = image != number
        assert int(others.sum()) in (0, 12) and len(set(image[others].tolist())) <= 1
        if others.any():
            assert (int(others.any(1).sum()), int(others.any(0).sum())) == (4, 3)


def test_equal_queries_are_asked_once() -> None:
    x = torch.tensor([5, 3, 5, 4, 3]).byte().view(5, 1, 1, 1)
    assert Split(x, torch.arange(5)).first_rows().tolist() == [0, 1, 3]
    key = victim("akh")[2].key
    assert len(rows(torch.cat([key.trigger.x, key.probes["held_out"].x]))) == 200


def test_a_victim_without_mistakes_has_no_key() -> None:
    task = task_of(FEW)
    same = Split(task.holdout.x[:1], task.holdout.y[:1])
    lent = lend(task)
    net = lent.train(lent.build(), [lent.stream(task.train)], lent.epochs)
    right = Split(same.x, predict(net, same.x).argmax(1))
    with pytest.raises(Skip, match="the victim is wrong on 0 inputs"):
        registry().component("defense", "akh").plugin.embed(replace(task, holdout=right), lend(task))


def test_the_objective_of_ipguard_is_the_papers() -> None:
    loss = sys.modules[registry().found["defense", "ipguard"].cls.__module__].boundary_loss
    # Negative logits: the largest of the others is not 0.
    logits = torch.tensor([[-1.0, -5.0, -2.0], [-3.0, -1.0, -9.0], [-3.0, -1.0, -2.0]])
    own, other = torch.tensor([0, 0, 0]), torch.tensor([1, 1, 1])
    assert loss(logits, own, other, 2.0).tolist() == [6.0, 0.0, 1.0]


def test_points_are_labelled_as_stored_and_not_aimed_at_their_own_class() -> None:
    _, _, marked = victim(IPGUARD)
    for name in ("trigger", "held_out"):
        probe = marked.key.probes[name]
        assert probe.x.dtype == torch.uint8 and torch.equal(predict(marked.net, probe.x).argmax(1), probe.y)
    assert len(marked.key.probes["control"]) >= 27  # moved across a boundary
