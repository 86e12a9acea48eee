"""Optimizers, schedules and label smoothing of a recipe, against plain PyTorch; and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import lr_scheduler

import harness
from harness.contracts import Split, Stream
from harness.engine.batches import Source
from harness.engine.optimizers import BETAS, CHOICES, EPSILON, decaying, rates
from harness.errors import OptionError, PluginError, UnknownName
from harness.losses import cross_entropy, smoothed, summed_cross_entropy
from harness.nets import Net
from tests.conftest import TINY, Cli
from tests.test_capture import HostAsked, Tape, tape
from tests.test_ray import alike
from tests.test_train import Quarters, engine, same, split

law = settings(deadline=None, max_examples=200, database=None, derandomize=True)

SCHEDULES = CHOICES["schedule"]
__all__ = ["tape"]  # a fixture

RECIPES = (
    {"optimizer": "adam", "weight_decay": 0.01},
    {"optimizer": "adam", "clip_norm": 0.5},
    {"optimizer": "adamw", "weight_decay": 0.1, "label_smoothing": 0.1},
    {"optimizer": "sgd", "weight_decay": 5e-3, "label_smoothing": 0.2, "clip_norm": 1.0},
    {"optimizer": "sgd", "momentum": 0.0},
)


def recipe(**options: object) -> Any:
    return Quarters(**options).public()


# --- schedules --------------------------------------------------------------------------------------------------------


@law
@given(
    schedule=st.sampled_from(SCHEDULES),
    steps=st.integers(1, 400),
    warmup=st.none() | st.floats(0, 1),
    rate=st.floats(1e-6, 10),
)
def test_rates_rise_to_the_given_rate_and_end_where_the_schedule_says(
    schedule: str, steps: int, warmup: float | None, rate: float
) -> None:
    found = rates(recipe(schedule=schedule, warmup=warmup, learning_rate=rate), steps)
    assert len(found) == steps and all(0 < each <= rate for each in found)
    assert max(found) == rate
    share = 0.3 * (schedule == "one-cycle") if warmup is None else warmup
    peak = max(0, round(share * steps) - 1)
    assert found[peak] == rate
    assert all(a < b for a, b in pairwise(found[: peak + 1]))
    assert all(a >= b for a, b in pairwise(found[peak:]))
    left = steps - peak
    ends = {
        "constant": rate,
        "cosine": rate * (1 + torch.tensor(torch.pi * (left - 1) / left, dtype=torch.float64).cos().item()) / 2,
        "steps": rate * (1 if left == 1 else 0.1 if left < 4 else 0.01),
        "one-cycle": rate if left == 1 else rate / 25e4,
    }
    assert found[-1] == pytest.approx(ends[schedule], rel=1e-6)


def test_a_rate_of_steps_drops_after_half_and_after_three_quarters() -> None:
    assert rates(recipe(schedule="steps", learning_rate=1.0), 8) == [1.0] * 4 + [0.1] * 2 + [0.01] * 2


def theirs(schedule: str, warmup: int, steps: int, rate: float) -> list[float]:
    """The rates that PyTorch's schedulers give after a linear warm-up of so many steps."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=rate)
    rising, left = max(0, warmup - 1), steps - max(0, warmup - 1)
    falling: dict[str, Callable[[], Any]] = {
        "constant": lambda: lr_scheduler.ConstantLR(optimizer, factor=1.0),
        "cosine": lambda: lr_scheduler.CosineAnnealingLR(optimizer, left),
        "steps": lambda: lr_scheduler.MultiStepLR(optimizer, [-(-left // 2), -(-3 * left // 4)]),
        "one-cycle": lambda: lr_scheduler.OneCycleLR(
            optimizer, rate, steps, pct_start=warmup / steps, cycle_momentum=False
        ),
    }
    scheduler = falling[schedule]()
    if rising and schedule != "one-cycle":
        up = lr_scheduler.LinearLR(optimizer, 1 / warmup, total_iters=rising)
        scheduler = lr_scheduler.SequentialLR(optimizer, [up, scheduler], [rising])
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("steps", [20, 47, 200])
@pytest.mark.parametrize("warmup", [2, 5, 12])
@pytest.mark.filterwarnings("ignore:The epoch parameter")
def test_a_schedule_is_pytorchs(schedule: str, steps: int, warmup: int) -> None:
    ours = rates(recipe(schedule=schedule, warmup=warmup / steps, learning_rate=0.4), steps)
    assert ours == pytest.approx(theirs(schedule, warmup, steps, 0.4), rel=1e-9)


# --- a plain loop -----------------------------------------------------------------------------------------------------


def optimizer_of(net: Net, options: dict[str, Any]) -> torch.optim.Optimizer:
    """The optimizer as one would write it."""
    weights = [each for name, each in net.named_parameters() if name.endswith("weight")]
    biases = [each for name, each in net.named_parameters() if name.endswith("bias")]
    groups: Any = [{"params": weights, "weight_decay": options.get("weight_decay", 0)}, {"params": biases}]
    if options["optimizer"] == "sgd":
        momentum = options.get("momentum", 0.9)
        return torch.optim.SGD(groups, lr=1.0, momentum=momentum, nesterov=momentum > 0, fused=True)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[options["optimizer"]]
    return kind(groups, lr=1.0, betas=BETAS, eps=EPSILON, weight_decay=0, fused=True)


def plain_loop(net: Net, data: Split, epochs: int, options: dict[str, Any], generator: torch.Generator) -> Net:
    """What the engine should do with one stream, as one would write it."""
    torch.randint(2**63 - 1, (), generator=generator)  # the engine draws a seed for dropout
    source, optimizer = Source(Stream((data,), 16), 4), optimizer_of(net, options)
    planned = torch.tensor(rates(recipe(learning_rate=0.05, **options), 4 * epochs), dtype=torch.float32).tolist()
    net.train()
    for epoch in range(epochs):
        source.shuffle(generator)
        for step in range(4):
            for group in optimizer.param_groups:
                group["lr"] = planned[4 * epoch + step]
            x, y = source.batch()
            optimizer.zero_grad()
            F.cross_entropy(net(x), y, label_smoothing=options.get("label_smoothing", 0.0)).backward()
            if "clip_norm" in options:
                nn.utils.clip_grad_norm_(net.parameters(), options["clip_norm"])
            optimizer.step()
    return net.eval()


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("options", RECIPES, ids=lambda options: "-".join(map(str, options.values())))
@pytest.mark.parametrize("given", [True, False], ids=["argument", "recipe"])
def test_every_optimizer_and_schedule_is_a_plain_loop_bit_for_bit(
    options: dict[str, Any], schedule: str, given: bool
) -> None:
    chosen = {**options, "schedule": schedule, "learning_rate": 0.05}
    ours, other, data = engine(dropout=0, **({} if given else chosen)), engine(dropout=0), split()
    start = ours.build()
    net = ours.train(start, [Stream((data,), 16)], 3, **(chosen if given else {}))  # type: ignore[typeddict-item]
    plain = plain_loop(other.build(), data, 3, {**options, "schedule": schedule}, other.generator)
    if schedule == "constant":  # a number, which float32 does not round
        torch.testing.assert_close(dict(net.state_dict()), dict(plain.state_dict()), rtol=1e-4, atol=1e-5)
    else:
        assert same(net, plain)


def test_the_neutral_recipe_is_adam_as_it_always_was_bit_for_bit() -> None:
    ours, other, data = engine(dropout=0), engine(dropout=0), split()
    net = ours.train(ours.build(), [Stream((data,), 16)], 3)
    plain = other.build()
    torch.randint(2**63 - 1, (), generator=other.generator)
    source = Source(Stream((data,), 16), 4)
    adam = torch.optim.Adam(plain.parameters(), 1e-3, (0.9, 0.99), 1e-5, fused=True)
    for _ in range(3):
        source.shuffle(other.generator)
        for _ in range(4):
            x, y = source.batch()
            adam.zero_grad()
            F.cross_entropy(plain(x), y).backward()
            adam.step()
    assert same(net, plain.eval())


@pytest.mark.parametrize("options", RECIPES, ids=lambda options: "-".join(map(str, options.values())))
def test_no_step_of_a_recipe_makes_the_host_wait(options: dict[str, Any]) -> None:
    lent, asked = engine(schedule="one-cycle", **options), HostAsked()
    net, streams = lent.build(), [lent.stream(split())]
    with asked:
        lent.train(net, streams, 2)
    # The seed of dropout, and the optimizer's own checks of its first rate; the means at the end of an epoch.
    assert len(asked.waits) <= 6


def test_weight_decay_leaves_biases_and_norms_alone() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(2, 2))
    decayed, others = decaying(list(net.parameters()), 0.1)
    assert [each.ndim for each in decayed["params"]] == [4, 2] and decayed["weight_decay"] == 0.1
    assert [each.ndim for each in others["params"]] == [1, 1, 1, 1] and "weight_decay" not in others
    assert decaying(list(net[1].parameters()), 0.1) == [{"params": list(net[1].parameters())}]


def test_only_the_named_parameters_count_in_a_clipped_norm() -> None:
    lent, data = engine(optimizer="sgd", momentum=0.0, clip_norm=1e-3, learning_rate=1.0, dropout=0), split(16)
    net = lent.build()
    before = net.logits.weight.detach().clone(), net.logits.bias.detach().clone()
    lent.train(net, [lent.stream(data)], 1, parameters=list(net.logits.parameters()))
    moved = [now.detach() - then for now, then in zip(net.logits.parameters(), before, strict=True)]
    assert float(torch.cat([each.flatten() for each in moved]).norm()) == pytest.approx(1e-3, rel=1e-2)


# --- label smoothing --------------------------------------------------------------------------------------------------


def test_hard_labels_are_smoothed_and_probabilities_are_not() -> None:
    net, data = engine().build().eval(), split(16)
    soft = F.one_hot(data.y, 4).float()
    loss = smoothed(0.2)
    assert torch.equal(loss(net, data.x, soft), F.cross_entropy(net(data.x), soft))  # type: ignore[arg-type]
    by_hand = F.cross_entropy(net(data.x), 0.8 * soft + 0.05)
    torch.testing.assert_close(loss(net, data.x, data.y), by_hand)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_under_sgd_a_summed_loss_trains_as_its_mean_does(momentum: float) -> None:
    options = {"optimizer": "sgd", "learning_rate": 0.05, "momentum": momentum, "weight_decay": 1e-3, "clip_norm": 0.1}
    made = []
    for loss, summed in ((cross_entropy, False), (summed_cross_entropy, True)):
        lent = engine(dropout=0, **options)
        made.append(lent.train(lent.build(), [Stream((split(),), 16, loss, summed=summed)], 2))
    for mean, total in zip(*(each.parameters() for each in made), strict=True):
        torch.testing.assert_close(mean, total, rtol=1e-4, atol=1e-6)


def test_under_adam_a_summed_loss_is_as_it_is() -> None:
    made = []
    for summed in (False, True):
        lent = engine()
        made.append(lent.train(lent.build(), [Stream((split(),), 16, summed_cross_entropy, summed=summed)], 1))
    assert same(*made)


def test_a_smoothed_sum_is_the_mean_of_as_many_samples() -> None:
    lent = engine(dropout=0)
    net, (x, y) = lent.build(), (split(32).x, split(32).y)
    torch.testing.assert_close(smoothed(0.1, "sum")(net, x, y), 32 * smoothed(0.1)(net, x, y))
    assert smoothed(0.0, "sum") is summed_cross_entropy and smoothed(0.0) is cross_entropy


@pytest.mark.slow
def test_victims_of_every_scheme_with_summed_losses_learn_under_sgd(cli: Cli, tmp_path: Path) -> None:
    recipe = "digits[optimizer=sgd,learning_rate=0.1,schedule=one-cycle,label_smoothing=0.1]"
    schemes = [word for scheme in ("baseline", "ewe") for word in ("--defense", scheme)]
    rest = ("--seeds", "100", "--nulls", "0", "--no-innocents", "--results", tmp_path, "--quiet", "--attack", "none")
    cli("run", "--dataset", recipe, *schemes, *rest, code=0)
    cells = harness.read_table(tmp_path, "cells").set_index("defense")
    assert (cells["victim_accuracy"] > 0.9).all(), cells["victim_accuracy"]
    assert (cells["victim_trigger_matches"] == cells["victim_trigger_trials"]).all()


def test_a_loss_of_a_streams_own_is_not_smoothed() -> None:
    def own(net: Net, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(net(x), y)

    plain, smoothing = engine(dropout=0), engine(dropout=0, label_smoothing=0.5)
    nets = [each.train(each.build(), [each.stream(split(), own)], 2) for each in (plain, smoothing)]
    assert same(*nets)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"optimizer": "sdg"}, UnknownName, "unknown optimizer 'sdg'. Did you mean 'sgd'? Known: adam, adamw, sgd"),
        ({"schedule": "linear"}, UnknownName, "unknown schedule 'linear'. Known: constant, cosine, one-cycle, steps"),
        ({"warm_up": 0.1}, UnknownName, "unknown setting of a training 'warm_up'. Did you mean 'warmup'?"),
        ({"warmup": 1.1}, OptionError, "warmup must be at most 1, not 1.1"),
        ({"warmup": -0.1}, OptionError, "warmup must be at least 0, not -0.1"),
        ({"label_smoothing": 2}, OptionError, "label_smoothing must be at most 1, not 2"),
        ({"momentum": 1}, OptionError, "momentum must be below 1, not 1"),
        ({"learning_rate": 0}, OptionError, "learning_rate must be above 0, not 0"),
        ({"learning_rate": float("nan")}, OptionError, "learning_rate must be above 0, not nan"),
        ({"weight_decay": "much"}, OptionError, "weight_decay must be at least 0, not 'much'"),
    ],
)
def test_settings_that_there_are_not_are_refused_in_one_line(settings: Any, error: type[Exception], said: str) -> None:
    lent = engine()
    with pytest.raises(error) as caught:
        lent.train(lent.build(), [lent.stream(split())], 1, **settings)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("optimizer=sdg", "unknown value 'sdg'. Did you mean 'sgd'? Known: adam, adamw, sgd"),
        ("schedule=linear", "Known: constant, cosine, one-cycle, steps"),
        ("warmup=2", "warmup must be at most 1, not 2.0"),
        ("label_smoothing=-1", "label_smoothing must be at least 0, not -1.0"),
    ],
)
def test_options_of_a_recipe_are_refused_in_one_line(option: str, said: str, cli: Cli, tmp_path: Path) -> None:
    stderr = cli("run", "--dataset", f"digits[{option}]", "--results", tmp_path / "results", code=2).err
    assert said in stderr and len(stderr.splitlines()) == 1 and not (tmp_path / "results").exists()


# --- the same bits ----------------------------------------------------------------------------------------------------

MATRIX = (
    "optimizer=adam,schedule=cosine,warmup=0.2,clip_norm=1",
    "optimizer=adamw,schedule=steps,weight_decay=0.01,normalize=true",
    "optimizer=sgd,schedule=one-cycle,learning_rate=0.05,weight_decay=0.0005,label_smoothing=0.1,normalize=true",
)


def run(cli: Cli, results: Path, *options: object, attacks: tuple[str, ...] = ("retraining", "fine-tuning")) -> str:
    chosen = [word for own in MATRIX for word in ("--dataset", TINY.replace("]", f",{own}]"))]
    chosen += [word for attack in attacks for word in ("--attack", attack)]
    seeds = ("--seeds", "0", "--nulls", "1", "--no-innocents")
    return cli("run", *chosen, "--defense", "adi", *seeds, "--results", results, *options, code=0).out


@pytest.mark.slow
def test_a_run_in_parts_and_in_another_order_leaves_the_same_bits(cli: Cli, tmp_path: Path) -> None:
    run(cli, tmp_path / "one")
    run(cli, tmp_path / "two", attacks=("fine-tuning",))
    run(cli, tmp_path / "two")
    alike(tmp_path / "one", tmp_path / "two")
    assert run(cli, tmp_path / "two").startswith("nothing to do: 6 cells (6 ok)")


@pytest.mark.slow
@pytest.mark.parametrize("options", [("--jobs", 2), ("--executor", "ray", "--jobs", 1)], ids=["jobs", "ray"])
def test_workers_leave_the_bits_of_a_serial_run(options: tuple[object, ...], cli: Cli, tmp_path: Path) -> None:
    run(cli, tmp_path / "one")
    run(cli, tmp_path / "two", *options)
    alike(tmp_path / "one", tmp_path / "two")


@pytest.mark.parametrize("options", RECIPES, ids=lambda options: "-".join(map(str, options.values())))
def test_a_replayed_training_with_a_schedule_is_the_training(
    options: dict[str, Any], tape: Callable[[Tape], Tape]
) -> None:
    def trained() -> Net:
        lent = engine(schedule="one-cycle", **options)
        return lent.train(lent.build(), [Stream((split(),), 16), Stream((split(8),), 8, every=2)], 4)

    plain, made = trained(), tape(Tape())
    assert same(plain, trained()) and made.replayed > 0


# --- trainings that cannot go on --------------------------------------------------------------------------------------


def test_a_training_that_diverges_fails_with_its_rate_and_the_step() -> None:
    lent = engine(optimizer="sgd", learning_rate=1e30, schedule="cosine")
    with pytest.raises(PluginError) as caught:
        lent.train(lent.build(), [lent.stream(split())], 3)
    assert str(caught.value) == (
        "the training diverged: its loss is not finite at step 2, in epoch 1 (sgd with learning_rate=1e+30): "
        "try a smaller rate, a warmup or a clip_norm"
    )


@pytest.mark.parametrize(("bad", "step", "epoch"), [(0, 1, 1), (5, 6, 1), (6, 7, 2), (16, 17, 3)])
def test_the_step_is_counted_over_all_streams_and_epochs(bad: int, step: int, epoch: int) -> None:
    calls: list[int] = []

    def loss(net: Net, x: Tensor, y: Tensor) -> Tensor:
        calls.append(len(calls))
        return F.cross_entropy(net(x), y) * (float("inf") if calls[-1] == bad else 1)

    lent = engine()
    streams = [Stream((split(),), 16, loss), Stream((split(8),), 8, loss, every=2)]
    extra = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.5)
    with pytest.raises(
        PluginError, match=rf"at step {step}, in epoch {epoch} \(adam with .*=0.001 and SGD with lr=0.5\)"
    ):
        lent.train(lent.build(), streams, 4, optimizers=[extra])
    assert len(calls) == 6 * epoch  # looked at once an epoch


def test_a_curve_of_another_name_may_be_infinite() -> None:
    def loss(net: Net, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {"loss": F.cross_entropy(net(x), y), "loss_of_nothing": torch.tensor(float("nan"))}

    lent = engine()
    lent.train(lent.build(), [lent.stream(split(), loss)], 2)


def test_a_diverging_rate_fails_its_cells_and_says_so(cli: Cli, tmp_path: Path) -> None:
    dataset = TINY.replace("]", ",optimizer=sgd,learning_rate=1e30]")
    args = ("--dataset", dataset, "--defense", "adi", "--attack", "none", "--seeds", "0", "--nulls", "0")
    ended = cli("run", *args, "--no-innocents", "--results", tmp_path, code=1)
    assert "the training diverged: its loss is not finite at step 2, in epoch 1 (sgd" in ended.err + ended.out


def test_batches_of_one_with_batch_norm_fail_in_one_line_before_they_train(cli: Cli, tmp_path: Path) -> None:
    dataset = TINY.replace("batch_size=32", "batch_size=1,architecture=resnet18[width=2]")
    args = ("--dataset", dataset, "--defense", "adi", "--attack", "none", "--seeds", "0", "--nulls", "0")
    ended = cli("run", *args, "--no-innocents", "--results", tmp_path, code=1)
    assert (
        "batch norm needs two samples in a batch, and a batch has one: choose another batch_size"
        in ended.err + ended.out
    )
