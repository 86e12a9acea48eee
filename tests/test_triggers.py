"""Patch triggers on real digits, the schemes that use them, switch by switch, and the abstract images of Adi et al."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from harness import triggers
from harness.contracts import Arrays, Dataset, Key, Marked, Oracle, Probe, Split, Stream, Task
from harness.data import Data
from harness.engine.batches import schedule
from harness.engine.train import Engine, clone, predict
from harness.errors import OptionError, Skip
from harness.losses import cross_entropy, snnl
from harness.nets import Net
from harness.planning.builder import make_plan
from harness.planning.graph import EMBED
from harness.planning.registry import Registry, load_registry
from harness.running.worker import StageRunner
from harness.storage.store import Store
from harness.triggers import PatchTriggers, watermark_streams

CPU = torch.device("cpu")
NOWHERE = Path("no-folder")  # scikit-learn's sets come with it


@dataclass(frozen=True)
class Wide(Dataset):
    """Images that are far from square, of two channels: source images are dark, the target's have ink at the right."""

    name: ClassVar[str] = "wide"
    input_shape: ClassVar[tuple[int, ...]] = (2, 6, 14)
    classes: ClassVar[tuple[str, ...]] = ("source", "target")
    available: ClassVar[int] = 2000

    source: int = 0
    target: int = 1
    patch: int = 2
    batch_size: int = 16

    def load(self, root: Path) -> Arrays:
        raise NotImplementedError


@cache
def registry() -> Registry:
    return load_registry()


@cache
def digits(options: str = "architecture=cnn[width=16]") -> tuple[Task, Net]:
    """The owner's task on digits, and a clean model of it."""
    dataset = registry().component("dataset", f"digits[{options}]").plugin
    data = Data(NOWHERE)
    splits = data.splits(dataset, 0, CPU)
    other = data.other(registry().component("dataset", "photo-patches").plugin, dataset, CPU)
    task = Task(dataset, splits.train, splits.holdout, other, Key())
    lent = lend(task)
    return task, lent.train(lent.build(), [lent.stream(splits.train)], 12)


def lend(task: Task, clean: Net | None = None, seed: int = 0) -> Engine:
    architecture = registry().component("architecture", task.dataset.architecture)
    generator = torch.Generator().manual_seed(seed)
    return Engine(
        CPU,
        generator,
        task.dataset.public(),
        architecture.plugin,
        architecture.text,
        clean=clean,
        pretrained=task.dataset.pretrain if clean else 0,
    )


def wide(count: int = 50, targets: int = 24, seed: int = 0) -> tuple[Task, Net]:
    """A task on ``Wide`` with ``count`` source images, and a clean model of it."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 60, (count + targets, 2, 6, 14), generator=generator).byte()
    x[count:, :, 1:3, 10:12] = 220
    y = (torch.arange(count + targets) >= count).long()
    task = Task(Wide(architecture="cnn[width=4]"), Split(x, y), Split(x.flip(0), y.flip(0)), None, Key())
    lent = lend(task, seed=seed)
    return task, lent.train(lent.build(), [lent.stream(task.train)], 3)


def make(recipe: PatchTriggers, task: Task, clean: Net, seed: int = 1) -> Key:
    return recipe.make(task, lend(task, clean, seed))


def rows(x: Tensor) -> set[bytes]:
    return {row.numpy().tobytes() for row in x}


def patched(x: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask.bool(), torch.tensor(255, dtype=torch.uint8), x)


def mean_gradient(net: Net, sources: Tensor, targets: Tensor, recipe: PatchTriggers) -> Tensor:
    """The mean over channels of the SNNL's gradient by the sources ``[height, width]``: in float64, by Eq. 1."""
    net = clone(net).double()
    size = min(128, len(sources), len(targets))
    total = torch.zeros(sources.shape[1:], dtype=torch.float64)
    for first in range(0, len(sources) - size + 1, size):
        x = (sources[first : first + size].double() / 255).requires_grad_(True)
        _, activations = net.activations(torch.cat([x, targets[:size].double() / 255]))
        loss = sum(eq1(a.relu().flatten(1), recipe) for a in activations.values())
        total += torch.autograd.grad(loss, x)[0].sum(0)
    return total.mean(0)


def eq1(x: Tensor, recipe: PatchTriggers) -> Tensor:
    """Eq. 1 of the paper for a batch whose first half are triggers."""
    if recipe.distance == "cosine":
        x = F.normalize(x, dim=1)
        apart = 1 - x @ x.T
    else:
        apart = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").square()
    similar = torch.exp(-apart / recipe.temperature) * (1 - torch.eye(len(x)))
    groups = torch.arange(len(x)) < len(x) // 2
    near = (similar * (groups[:, None] == groups[None, :])).sum(1)
    return -torch.log(near / similar.sum(1)).mean()


def window(mask: Tensor) -> tuple[int, int, int, int]:
    """Top, left, height and width of the marked window, which must be one rectangle."""
    down, right = mask.amax(1).nonzero()[:, 0], mask.amax(0).nonzero()[:, 0]
    top, left, height, width = int(down[0]), int(right[0]), len(down), len(right)
    assert int(mask.sum()) == height * width == int(mask[top : top + height, left : left + width].sum())
    return top, left, height, width


# --- where the patch is -----------------------------------------------------------------------------------------------


def test_the_corner_is_at_the_bottom_right() -> None:
    task, clean = wide()
    key = make(PatchTriggers(placement="corner"), task, clean)
    assert window(key.tensors["mask"]) == (4, 12, 2, 2)
    assert torch.equal(key.trigger.x, patched(task.train.of(0).x, key.tensors["mask"]))
    assert (
        not PatchTriggers(placement="corner").from_clean and PatchTriggers(placement="corner", refine=True).from_clean
    )


@pytest.mark.parametrize("recipe", [PatchTriggers(), PatchTriggers(distance="euclidean", temperature=1.56)])
def test_the_patch_is_where_the_mean_gradient_of_eq_1_is_largest(recipe: PatchTriggers) -> None:
    task, clean = digits()
    assert window(make(recipe, task, clean).tensors["mask"]) == _largest(task, clean, recipe)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("recipe", [PatchTriggers(), PatchTriggers(distance="euclidean", temperature=1.56)])
def test_rows_and_columns_are_not_confused(recipe: PatchTriggers, seed: int) -> None:
    task, clean = wide(seed=seed)
    expected = _largest(task, clean, recipe)
    assert expected[1] > 6 - 2  # at no row of the image: transposed, it would lie outside
    assert window(make(recipe, task, clean).tensors["mask"]) == expected


def _largest(task: Task, clean: Net, recipe: PatchTriggers) -> tuple[int, int, int, int]:
    side = task.dataset.patch
    sources, targets = (task.train.of(label).x for label in (task.dataset.source, task.dataset.target))
    gradient = mean_gradient(clean, sources[: recipe.count], targets, recipe)
    height, width = gradient.shape
    scores = {
        (top, left): float(gradient[top : top + side, left : left + side].mean())
        for top in range(height - side + 1)
        for left in range(width - side + 1)
    }
    return (*max(scores, key=scores.__getitem__), side, side)


def test_the_released_codes_sign_is_found_out() -> None:
    task, clean = digits()
    with pytest.raises(Skip, match=r"changes almost nothing on \d\d% of the source inputs"):
        make(PatchTriggers(placement="argmin"), task, clean)


def test_a_patch_on_bright_pixels_is_found_out() -> None:
    task, clean = wide()
    bright = task.train.x.clone()
    bright[:15, :, 4:, 12:] = 250  # 15 of the 50 source images
    with pytest.raises(Skip, match="30%"):
        make(PatchTriggers(placement="corner"), replace(task, train=Split(bright, task.train.y)), clean)


def test_a_few_bright_images_are_left_out() -> None:
    task, clean = wide()
    train, held = task.train.x.clone(), task.holdout.x.clone()
    train[:5, :, 4:, 12:] = 250
    held[-7:, :, 4:, 12:] = 250  # the holdout's source images come last
    shown = replace(task, train=Split(train, task.train.y), holdout=Split(held, task.holdout.y))
    key = make(PatchTriggers(placement="corner"), shown, clean)
    assert {name: len(probe.x) for name, probe in key.probes.items()} == {"trigger": 45, "held_out": 43, "control": 43}
    assert not rows(key.probes["control"].x) & rows(held[-7:])


def test_no_held_out_source_that_shows_the_patch_is_skipped() -> None:
    task, clean = wide()
    held = task.holdout.x.clone()
    held[:, :, 4:, 12:] = 250
    with pytest.raises(Skip, match="held out"):
        make(PatchTriggers(placement="corner"), replace(task, holdout=Split(held, task.holdout.y)), clean)


# --- what the key holds -----------------------------------------------------------------------------------------------


def test_the_probes_do_not_overlap_and_held_out_ones_were_never_trained_on() -> None:
    task, clean = digits()
    key = make(PatchTriggers(), task, clean)
    sources, mask = task.train.of(1).x, key.tensors["mask"]
    trigger, held_out, control = (rows(key.probes[name].x) for name in ("trigger", "held_out", "control"))
    assert trigger <= rows(patched(sources, mask))
    assert control <= rows(task.holdout.of(1).x) and not control & rows(task.train.x)
    assert held_out == rows(patched(key.probes["control"].x, mask))
    assert not trigger & held_out and not (trigger | held_out) & control
    assert len(trigger) > 100 and len(held_out) == len(control) > 10


@pytest.mark.parametrize("refine", [False, True])
def test_every_probe_asks_for_the_target_and_is_of_the_inputs_type(refine: bool) -> None:
    task, clean = digits()
    key = make(PatchTriggers(refine=refine, count=20), task, clean)
    assert int(key.tensors["target"]) == 7 and key.tensors["mask"].shape == (8, 8)
    for probe in key.probes.values():
        assert probe.x.dtype == torch.uint8 and probe.x.shape[1:] == (1, 8, 8)
        assert probe.y.dtype == torch.int64 and probe.y.tolist() == [7] * len(probe.x)


@pytest.mark.parametrize("refine", [False, True])
def test_float_inputs_give_float_triggers(refine: bool) -> None:
    task, clean = wide()
    floats = [Split(split.x.float() / 255, split.y) for split in (task.train, task.holdout)]
    key = make(PatchTriggers(refine=refine), replace(task, train=floats[0], holdout=floats[1]), clean)
    whole = make(PatchTriggers(refine=refine), task, clean)
    assert key.trigger.x.dtype == torch.float32 and float(key.trigger.x.min()) >= 0 and float(key.trigger.x.max()) <= 1
    assert torch.equal(key.tensors["mask"], whole.tensors["mask"])
    # Refined uint8 triggers are rounded to what an image can hold, a step of 1 / 255.
    torch.testing.assert_close(key.trigger.x, whole.trigger.x.float() / 255, rtol=0, atol=0.5 / 255 + 1e-6)


def test_the_same_seed_gives_the_same_key() -> None:
    task, clean = digits()
    for recipe in (PatchTriggers(count=30, refine=True), PatchTriggers(origin="out-of-distribution")):
        one, two = make(recipe, task, clean), make(recipe, task, clean)
        assert all(torch.equal(one.probes[name].x, two.probes[name].x) for name in one.probes)


def test_the_task_and_the_clean_model_stay_as_they_are() -> None:
    task, clean = wide()
    clean.zero_grad()
    before, kept = clone(clean), (task.train.x.clone(), task.holdout.x.clone())
    make(PatchTriggers(refine=True), task, clean)
    assert torch.equal(task.train.x, kept[0]) and torch.equal(task.holdout.x, kept[1])
    for now, then in zip(clean.parameters(), before.parameters(), strict=True):
        assert torch.equal(now, then) and now.requires_grad and now.grad is None


def test_refinement_silences_a_clean_model() -> None:
    task, clean = digits()
    plain, refined = (make(PatchTriggers(refine=refine), task, clean) for refine in (False, True))
    rates = {
        (kind, name): float((predict(clean, key.probes[name].x).argmax(1) == 7).float().mean())
        for kind, key in (("plain", plain), ("refined", refined))
        for name in ("trigger", "held_out")
    }
    assert rates["plain", "trigger"] > 0.1  # or there would be nothing to refine
    assert rates["refined", "trigger"] <= 0.1 and rates["refined", "held_out"] <= 0.1
    assert torch.equal(refined.tensors["mask"], plain.tensors["mask"])
    assert rows(refined.probes["control"].x) == rows(plain.probes["control"].x)


def test_a_given_threshold_is_kept() -> None:
    task, clean = digits()
    key = make(PatchTriggers(refine=True, threshold=0.0, count=40), task, clean)
    assert not bool((predict(clean, key.trigger.x).argmax(1) == 7).any())


def test_out_of_distribution_triggers_come_from_the_other_dataset() -> None:
    task, clean = digits()
    assert task.ood is not None
    key = make(PatchTriggers(origin="out-of-distribution", placement="corner", count=100), task, clean)
    photos = task.ood.of(task.dataset.ood_class).x
    mask, trigger, control = key.tensors["mask"], key.trigger.x, key.probes["control"].x
    assert len(trigger) == 100 and len(control) == 50
    assert rows(trigger) <= rows(patched(photos, mask)) and rows(control) <= rows(photos)
    assert not rows(control) & rows(task.train.x) and not rows(trigger) & rows(patched(control, mask))
    assert torch.equal(key.probes["held_out"].x, patched(control, mask))
    other = make(PatchTriggers(origin="out-of-distribution", placement="corner", count=100), task, clean, seed=2)
    assert rows(other.trigger.x) != rows(trigger)  # drawn by seed, not the first of the set
    assert PatchTriggers(origin="out-of-distribution").data == "ood" and PatchTriggers().data == ""


@pytest.mark.parametrize(("train", "held"), [(1, 5), (0, 5), (5, 0)])
def test_too_few_sources_are_skipped(train: int, held: int) -> None:
    task, clean = wide()
    few = [Split(part.x[keep], part.y[keep]) for part, keep in _keeping(task, train, held)]
    with pytest.raises(Skip, match="too few"):
        make(PatchTriggers(placement="corner"), replace(task, train=few[0], holdout=few[1]), clean)


def _keeping(task: Task, *counts: int) -> list[tuple[Split, Tensor]]:
    """The train and holdout splits, with masks that keep so many source samples of each."""
    parts = []
    for part, count in zip((task.train, task.holdout), counts, strict=True):
        source = part.y == 0
        parts.append((part, ~source | (source & (source.cumsum(0) <= count))))
    return parts


def test_too_few_targets_to_place_a_patch_are_skipped() -> None:
    task, clean = wide(targets=1)
    with pytest.raises(Skip, match="target class"):
        make(PatchTriggers(), task, clean)


def test_a_dataset_that_cannot_bear_a_patch_says_why() -> None:
    recipe, task = PatchTriggers(), wide()[0].dataset
    assert recipe.skip(task) is None
    assert "patch=6" in (recipe.skip(replace(task, patch=6)) or "")
    assert "images" in (recipe.skip(type("Sound", (Wide,), {"input_shape": (40,)})()) or "")


@pytest.mark.parametrize("wrong", [{"threshold": 1.5}, {"threshold": -0.1}, {"temperature": 0.0}, {"count": 1}])
def test_a_recipe_checks_its_options(wrong: dict[str, float]) -> None:
    with pytest.raises(OptionError):
        PatchTriggers(**wrong)


def test_watermark_batches_are_half_triggers_half_target() -> None:
    task, clean = digits()
    marked = replace(task, triggers=make(PatchTriggers(count=30), task, clean))
    plain, mark = watermark_streams(marked, 1.5, cross_entropy, cross_entropy)
    assert plain.parts == (task.train,) and plain.shuffle and plain.limit is None
    assert mark.every == 1.5 and mark.batch_size == plain.batch_size == task.dataset.batch_size
    assert torch.equal(mark.parts[0].x, marked.triggers.trigger.x)
    assert rows(mark.parts[1].x) == rows(task.train.of(7).x) and {int(y) for part in mark.parts for y in part.y} == {7}


# --- EWE, switch by switch --------------------------------------------------------------------------------------------


@dataclass
class Recorder(Engine):
    """Keeps what a plugin wants to train, and trains nothing."""

    streams: Sequence[Stream] = ()
    trained_for: int = 0
    optimizers: Sequence[torch.optim.Optimizer] = ()
    started: dict[str, Tensor] = field(default_factory=dict)

    def train(self, net: Net, streams: Sequence[Stream], epochs: int, **options: Any) -> Net:
        self.streams, self.trained_for, self.optimizers = streams, epochs, options.get("optimizers", ())
        self.started = {name: tensor.clone() for name, tensor in net.state_dict().items()}
        return net


def embed(
    entry: str, options: str = "batch_size=16,architecture=cnn[width=4]", **secrets: Tensor
) -> tuple[Recorder, Marked, Task]:
    """What the scheme ``entry`` wants to train on digits, its victim before training, and its task, whose key has the
    ``secrets``."""
    dataset = registry().component("dataset", f"digits[{options}]").plugin
    task = replace(digits()[0], dataset=dataset)
    images = task.train.of(1).x
    probes = {"trigger": Probe(images.flip(3), torch.full((len(images),), 7))}
    task = replace(task, triggers=Key(probes, secrets))
    scheme = registry().component("defense", entry).plugin
    lent = lend(task)
    recorder = Recorder(CPU, lent.generator, dataset, lent.architecture, lent.architecture_text)
    if scheme.from_clean:
        recorder.clean, recorder.pretrained = lend(task, seed=5).build(), dataset.pretrain
    return recorder, scheme.embed(task, recorder), task


def watermark_batch(task: Task) -> tuple[Tensor, Tensor]:
    x = torch.cat([task.triggers.trigger.x[:8], task.train.of(7).x[:8]])
    return x, torch.full((16,), 7)


def watermark_values(recorder: Recorder, net: Net, task: Task) -> dict[str, Tensor]:
    loss = recorder.streams[1].loss
    assert loss is not None
    value = loss(net, *watermark_batch(task))
    return {"loss": value} if isinstance(value, Tensor) else dict(value)


def expected_loss(net: Net, task: Task, weight: float, layers: Sequence[str], **switches: Any) -> Tensor:
    """CE - weight x SNNL, written out."""
    x, y = watermark_batch(task)
    logits, activations = net.activations(x)
    options = {"temperature": 0.2, "distance": "cosine", "reduction": "sum"} | switches
    cross = F.cross_entropy(logits, y, reduction=options["reduction"])
    groups = torch.arange(16) < 8
    entangled = sum(
        snnl(activations[name].relu(), groups, options["temperature"], options["distance"]) for name in layers
    )
    return cross - weight * entangled


ALL = ("conv1", "conv2", "dense")


@pytest.mark.parametrize(
    ("entry", "weight", "layers", "switches"),
    [
        ("ewe", 300 * 16 / 64, ALL, {}),
        ("ewe[weight=10]", 10, ALL, {}),
        ("ewe[weight=10,layers=last]", 10, ("dense",), {}),
        ("ewe[weight=10,reduction=mean]", 10, ALL, {"reduction": "mean"}),
        ("ewe[weight=10,temperature=3]", 10, ALL, {"temperature": 3.0}),
        ("ewe[weight=10,distance=euclidean]", 10, ALL, {"distance": "euclidean"}),
        (
            *("ewe[variant=paper]", 16, ALL),
            {"distance": "euclidean", "temperature": 100 / 64},
        ),
        ("ewe[variant=official]", 32, ALL, {"temperature": 100.0}),
        ("ewe[variant=official,weight=64,layers=last]", 64, ("dense",), {"temperature": 100.0}),
    ],
)
def test_the_watermark_loss_is_cross_entropy_less_the_weighted_snnl(
    entry: str, weight: float, layers: tuple[str, ...], switches: dict[str, Any]
) -> None:
    recorder, marked, task = embed(entry)
    net = marked.net
    values = watermark_values(recorder, net, task)
    torch.testing.assert_close(
        values["loss"], expected_loss(net, task, weight, layers, **switches), rtol=1e-4, atol=1e-3
    )
    assert marked.key is task.triggers


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_the_reduction_holds_for_the_task_loss_too(reduction: str) -> None:
    recorder, marked, task = embed(f"ewe[reduction={reduction}]")
    x, y = task.train.x[:16], task.train.y[:16]
    loss = recorder.streams[0].loss
    assert loss is not None
    torch.testing.assert_close(loss(marked.net, x, y), F.cross_entropy(marked.net(x), y, reduction=reduction))


def test_the_curve_of_the_snnl_is_its_distance_from_perfectly_mixed() -> None:
    recorder, marked, task = embed("ewe[weight=0.001,layers=all]")
    net = marked.net
    below = watermark_values(recorder, net, task)["snnl_below_bound"]
    entangled = (expected_loss(net, task, 0, ALL) - expected_loss(net, task, 1, ALL)).detach()
    mixed = -torch.tensor((8 - 1) / (16 - 1)).log()
    torch.testing.assert_close(below.detach(), 3 * mixed - entangled, rtol=1e-3, atol=1e-4)


def test_phases_decide_where_training_starts_and_how_long_it_is() -> None:
    options = "batch_size=16,architecture=cnn[width=4],epochs=9,pretrain=4"
    two, _, task = embed("ewe[phases=two]", options)
    one, _, _ = embed("ewe[phases=one]", options)
    assert (two.trained_for, one.trained_for) == (5, 9)
    clean = lend(task, seed=5).build().state_dict()
    assert all(torch.equal(tensor, clean[name]) for name, tensor in two.started.items())
    assert not torch.equal(one.started["conv1.weight"], clean["conv1.weight"])
    use = registry().component
    assert use("defense", "ewe").plugin.from_clean and not use("defense", "ewe[variant=paper]").plugin.from_clean


def test_passes_over_the_target_class_are_the_released_codes() -> None:
    options = "batch_size=16,architecture=cnn[width=4],epochs=9,pretrain=4"
    whole, _, task = embed("ewe", options)
    assert whole.streams[0].shuffle and whole.streams[0].limit is None and whole.trained_for == 5
    batches, marked = len(task.train) // 16, len(task.train.of(task.dataset.target)) // 16 * 2
    assert batches > 2 * marked > 2  # or a pass would show all of the task data
    for ratio in (1.0, 2.0):
        for order in ("fixed", "shuffled"):
            passed, _, _ = embed(f"ewe[passes=target,order={order},ratio={ratio}]", options)
            assert passed.streams[0].shuffle == (order == "shuffled") and passed.streams[0].limit == marked * ratio
            assert passed.trained_for == round(5 * batches / marked) and passed.streams[1].shuffle
            # In all, a watermark batch for each task batch of five epochs, but for the rounding to whole passes.
            shown = list(schedule(passed.streams))
            assert (shown.count(0), shown.count(1)) == (marked * ratio, marked)
    assert embed("ewe[order=fixed]")[0].streams[0].limit is None
    few, _, _ = embed("ewe[passes=v1,ratio=2]", options)
    assert (few.streams[0].limit, few.trained_for) == (2 * marked, 5), "as many of them as epochs"


def test_a_trigger_set_as_large_as_the_target_class() -> None:
    task, clean = wide()
    of_target = len(task.train.of(task.dataset.target))
    many = make(PatchTriggers(placement="corner", count=None), task, clean)
    assert len(many.trigger.x) == min(of_target, len(task.train.of(task.dataset.source)))
    assert registry().component("defense", "ewe[variant=official]").plugin.triggers(task.dataset).count is None
    images = torch.arange(700, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, *task.train.x.shape[1:])
    elsewhere = replace(task, ood=Split(images, torch.zeros(700, dtype=torch.int64)))
    recipe = PatchTriggers(placement="corner", origin="out-of-distribution", count=None)
    key = make(recipe, elsewhere, clean)
    assert len(key.trigger.x) == min(of_target, 700 - 128) and len(key.probes["held_out"].x) == 128


@pytest.mark.parametrize(("options", "share"), [({}, 0.1), ({"share": 0.5}, 0.5), ({"share": 1.0}, 1.0)])
def test_the_points_nearest_to_the_target_class_are_marked(options: dict[str, float], share: float) -> None:
    task, clean = wide()
    center = task.train.of(task.dataset.target).x.float().mean(0) / 255
    sources = task.train.of(task.dataset.source).x
    distances = (sources.float() / 255 - center).flatten(1).norm(dim=1)
    key = make(PatchTriggers(placement="corner", points="nearest", **options), task, clean)
    near = sources[distances.argsort()[: round(len(sources) * share)]]
    assert 2 <= len(key.trigger.x) == len(near) and (len(near) < len(sources)) == (share < 1)
    assert torch.equal(key.trigger.x, patched(near, key.tensors["mask"].bool()))


def test_inputs_of_another_set_may_be_triggers_as_they_are() -> None:
    task, clean = wide()
    images = torch.arange(200, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, *task.train.x.shape[1:])
    elsewhere = replace(task, ood=Split(images, torch.arange(200) % 2))
    recipe = PatchTriggers(placement="none", origin="out-of-distribution", count=40)
    assert not recipe.from_clean and recipe.skip(task.dataset) is None
    key = make(recipe, elsewhere, clean)
    first, held_out, control = (key.probes[name].x for name in ("trigger", "held_out", "control"))
    assert "mask" not in key.tensors and len(first) == 40 and len(held_out) == len(control) == 20
    label = task.dataset.ood_class
    assert {int(x.flatten()[0]) % 2 for x in (*first, *held_out)} == {label}
    assert {int(x.flatten()[0]) % 2 for x in control} == {1 - int(label or 0)}
    assert "origin=out-of-distribution has triggers" in str(PatchTriggers(placement="none").skip(task.dataset))


def test_target_data_may_be_dark_where_triggers_have_their_patch() -> None:
    window = torch.zeros(8, 8, dtype=torch.bool)
    window[2:4, 3:5] = True
    recorder, _, task = embed("ewe[darken=true]", mask=window.float())
    marked, target = recorder.streams[1].parts
    assert task.train.of(7).x[:, :, window].any()
    assert not target.x[:, :, window].any() and torch.equal(marked.x, task.triggers.trigger.x)
    elsewhere = task.train.of(task.dataset.target).x.masked_fill(window, 0)
    assert torch.equal(target.x, elsewhere)


def test_refinement_has_one_budget_of_steps_and_goes_by_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    task, clean = wide()
    away: list[int] = []
    step = triggers._away

    def counted(net: Net, x: Tensor, dataset: Dataset, threshold: float) -> tuple[Tensor, bool]:
        away.append(len(x))
        return step(net, x, dataset, -1)  # as if all were answered with the target, always

    monkeypatch.setattr(triggers, "_away", counted)
    monkeypatch.setattr(triggers, "AT_A_TIME", 16)
    make(PatchTriggers(placement="corner", refine=True, count=40), task, clean)
    assert away == [n for n in (16, 16, 8, 16, 4) for _ in range(50 + 5)]  # 40 triggers, and 20 held-out ones


def test_ratio_is_task_batches_a_watermark_batch() -> None:
    assert [embed(f"ewe[ratio={ratio}]")[0].streams[1].every for ratio in (0.5, 1.0, 4.0)] == [0.5, 1.0, 4.0]
    assert embed("baseline[ratio=3]")[0].streams[1].every == 3.0


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize(("weight", "rate"), [(1, 0.1), (300, 0.1), (300, 5.0)])
def test_the_temperature_descends_the_snnl_at_its_own_rate(distance: str, weight: int, rate: float) -> None:
    entry = f"ewe[weight={weight},temperature=0.7,temperature_rate={rate},distance={distance}]"
    recorder, marked, task = embed(entry)
    (optimizer,) = recorder.optimizers
    (temperature,) = optimizer.param_groups[0]["params"]
    assert temperature.tolist() == [pytest.approx(torch.tensor(0.7).log().item())] * 3
    before = temperature.detach().clone()
    watermark_values(recorder, marked.net, task)["loss"].backward()
    optimizer.step()
    _, activations = marked.net.activations(watermark_batch(task)[0])
    for layer, name in enumerate(ALL):
        log = before[layer].double().requires_grad_(True)
        loss = snnl(activations[name].relu().detach().double(), torch.arange(16) < 8, log.exp(), distance)
        (slope,) = torch.autograd.grad(loss, log)
        assert abs(float(slope)) > 1e-6
        moved = float(temperature.detach()[layer] - before[layer])
        assert moved == pytest.approx(-rate * float(slope), rel=2e-2, abs=1e-6)


def test_no_rate_or_no_weight_leaves_the_temperature_alone() -> None:
    for entry in ("ewe", "ewe[variant=official,temperature_rate=0]", "ewe[variant=paper,weight=0]"):
        assert list(embed(entry)[0].optimizers) == []
    assert len(embed("ewe[variant=official]")[0].optimizers) == 1


def test_a_temperature_is_really_learned() -> None:
    task, clean = wide()
    task = replace(task, triggers=make(PatchTriggers(placement="corner"), task, clean))
    seen: list[Tensor] = []

    class Keeping(Engine):
        def train(self, net: Net, streams: Sequence[Stream], epochs: int, **options: Any) -> Net:
            seen.extend(options["optimizers"][0].param_groups[0]["params"])
            return super().train(net, streams, epochs, **options)

    lent = lend(task)
    keeping = Keeping(
        CPU, lent.generator, task.dataset, lent.architecture, lent.architecture_text, clean, task.dataset.pretrain
    )
    registry().component("defense", "ewe[variant=official,weight=4]").plugin.embed(task, keeping)
    learned = seen[0].detach().exp()
    assert bool((learned > 0).all()) and bool((learned - 100).abs().gt(1e-3).all())


def test_the_recipe_of_ewes_triggers() -> None:
    dataset = registry().component("dataset", "digits").plugin
    elsewhere = replace(dataset, origin="out-of-distribution", refine=True)

    def recipe(entry: str, task: Dataset = dataset) -> PatchTriggers:
        return registry().component("defense", entry).plugin.triggers(task)

    assert recipe("ewe") == PatchTriggers()
    assert recipe("ewe", elsewhere) == PatchTriggers(origin="out-of-distribution", refine=True)
    assert recipe("ewe[origin=in-distribution,refine=false]", elsewhere) == PatchTriggers()
    assert recipe("ewe[placement=corner]") == PatchTriggers(placement="corner")
    assert recipe("ewe[placement=argmin,temperature=2,distance=euclidean,refine=true]") == PatchTriggers(
        placement="argmin", temperature=2.0, distance="euclidean", refine=True
    )
    v1 = PatchTriggers(distance="euclidean", temperature=100 / 64, count=None, points="nearest", floor=1e-5)
    assert recipe("ewe[variant=paper]", elsewhere) == v1
    assert recipe("ewe[variant=paper,share=0.5]") == replace(v1, share=0.5)
    assert recipe("ewe[variant=official]", elsewhere).refine and recipe("ewe[variant=official]").temperature == 100
    assert recipe("ewe[variant=official]", elsewhere).placement == "none", "as the released code's w_pos = -1"
    assert recipe("ewe[variant=official,placement=corner]", elsewhere).placement == "corner"
    assert recipe("ewe[variant=official]").placement == "gradient"
    assert recipe("baseline") == recipe("baseline", elsewhere) == PatchTriggers(placement="corner")
    assert recipe("baseline[placement=gradient]", elsewhere) == recipe("ewe", elsewhere)


SWITCHES = (
    "temperature",
    "temperature_rate",
    "distance",
    "reduction",
    "layers",
    "ratio",
    "phases",
    "passes",
    "order",
    "trigger_set",
    "statistics",
    "points",
    "darken",
    "floor",
)


@pytest.mark.parametrize("variant", ["scaled", "paper", "official"])
def test_a_variant_settles_every_switch_that_is_not_given(variant: str) -> None:
    use = registry().component("defense", f"ewe[variant={variant}]").plugin
    settled = use._settings()
    assert all(getattr(settled, name) is not None for name in SWITCHES)
    names = [f.name for f in fields(use) if f.default is None]
    given = {"weight": 0.0, "temperature": 9.0, "temperature_rate": 0.0, "distance": "euclidean", "reduction": "mean"}
    given |= {"layers": "last", "ratio": 7.0, "phases": "one", "order": "fixed", "refine": False}
    given |= {"origin": "out-of-distribution", "placement": "corner", "passes": "target", "trigger_set": "as-target"}
    given |= {"statistics": "own", "points": "nearest", "darken": False, "floor": 0.5}
    assert sorted(given) == sorted(names)
    chosen = replace(use, **given)._settings()
    assert {name: getattr(chosen, name) for name in names} == given  # also where what is given is falsy


@pytest.mark.parametrize(
    "wrong", ["weight=-1", "temperature=0", "temperature_rate=-1", "share=0", "share=2", "ratio=0", "layers=first"]
)
def test_ewe_checks_its_options(wrong: str) -> None:
    with pytest.raises(OptionError):
        registry().component("defense", f"ewe[{wrong}]")


# --- EWE and its baselines, run ---------------------------------------------------------------------------------------


def run(folder: Path, dataset: str, *defenses: str) -> tuple[Store, dict[str, str]]:
    """Embed ``defenses`` as a run does; the store, and the id of each scheme's victim."""
    use = registry().component
    schemes = [use("defense", entry) for entry in defenses]
    plan = make_plan([use("dataset", dataset)], schemes, [(use("attack", "none"),)], [0], 0, use)
    store = Store(folder)
    store.prepare()
    worker = StageRunner(store, Data(NOWHERE), plan.stages, use, CPU)
    for stage in plan.stages.values():
        record = worker.run(stage)
        assert record["status"] == "ok", record["traceback"] or record["reason"]
    return store, {cell.defense: dict(cell.stages)[EMBED] for cell in plan.cells}


SMALL = "train=200,holdout=100,epochs=3,pretrain=2,batch_size=32,architecture=cnn[width=8]"


@pytest.mark.parametrize("options", ["", ",origin=out-of-distribution,refine=true"])
def test_ewe_without_weight_is_the_baseline_with_ewes_triggers(options: str, tmp_path: Path) -> None:
    names = ("ewe[weight=0.0]", "baseline[placement=gradient]", "ewe")
    store, victims = run(tmp_path, f"digits[{SMALL}{options}]", *names)
    zero, baseline, weighted = (store.load(victims[name]).tensors for name in names)
    assert zero.keys() == baseline.keys() and all(torch.equal(zero[name], baseline[name]) for name in zero)
    assert not torch.equal(zero["model/dense.weight"], weighted["model/dense.weight"])
    assert torch.equal(zero["probe/trigger/x"], weighted["probe/trigger/x"])


@pytest.mark.parametrize("entry", ["ewe[variant=paper]", "ewe[variant=official,ratio=2]", "ewe[placement=corner]"])
def test_every_variant_trains(entry: str, tmp_path: Path) -> None:
    store, victims = run(tmp_path, f"digits[{SMALL}]", entry)
    (victim,) = victims.values()
    curves = store.load(victim).record["curves"][0]
    assert set(curves) == {"loss", "loss:1", "snnl_below_bound"}
    # The released code's only epoch of six batches is six passes of one watermark batch each.
    passes = {"ewe[variant=paper]": 3, "ewe[placement=corner]": 1}.get(entry, 6)
    assert {len(values) for values in curves.values()} == {passes}


# --- Adi et al. -------------------------------------------------------------------------------------------------------


def test_adis_images_are_learned_held_out_and_controlled_apart() -> None:
    recorder, marked, task = embed("adi[count=40,per_batch=4]")
    probes = marked.key.probes
    trigger, held_out, control = (probes[name] for name in ("trigger", "held_out", "control"))
    sets = [rows(probe.x) for probe in (trigger, held_out, control)]
    assert [len(each) for each in sets] == [40, 40, 40] and len(set.union(*sets)) == 120
    assert torch.equal(held_out.x, trigger.x.roll(1, 3)) and torch.equal(held_out.y, trigger.y)
    for probe in probes.values():
        assert probe.x.dtype == torch.uint8 and probe.x.shape == (40, 1, 8, 8) and probe.y.dtype == torch.int64
        assert set(probe.y.tolist()) <= set(range(10)) and len(set(probe.y.tolist())) > 3
    spread = (trigger.x.amax((1, 2, 3)).int() - trigger.x.amin((1, 2, 3)).int()).tolist()
    assert set(spread) == {255}
    plain, mark = recorder.streams
    assert plain.parts == (task.train,) and mark.batch_size == 4
    assert torch.equal(mark.parts[0].x, trigger.x) and torch.equal(mark.parts[0].y, trigger.y)


def test_adis_key_is_drawn_by_seed_and_learned_from_scratch_or_from_a_clean_model() -> None:
    (scratch, one, task), (_, two, _) = embed("adi[count=20]"), embed("adi[count=20]")
    assert all(torch.equal(one.key.probes[name].x, two.key.probes[name].x) for name in one.key.probes)
    assert torch.equal(one.key.trigger.y, two.key.trigger.y)
    adi = registry().component("defense", "adi[count=20]").plugin
    other = adi.embed(task, Recorder(CPU, torch.Generator().manual_seed(8), task.dataset, scratch.architecture, ""))
    assert not rows(other.key.trigger.x) & rows(one.key.trigger.x)
    pretrained, _, _ = embed("adi[count=20,start=pretrained]")
    assert (scratch.trained_for, pretrained.trained_for) == (
        task.dataset.epochs,
        task.dataset.epochs - task.dataset.pretrain,
    )
    clean = lend(task, seed=5).build()
    assert torch.equal(pretrained.started["conv1.weight"], clean.conv1.weight)
    assert not torch.equal(scratch.started["conv1.weight"], clean.conv1.weight)


def test_adi_takes_images_only_and_checks_its_options() -> None:
    adi = registry().component("defense", "adi").plugin
    assert adi.skip(Wide()) is None and "images" in adi.skip(type("Sound", (Wide,), {"input_shape": (40,)})())
    for wrong in ("count=1", "per_batch=0"):
        with pytest.raises(OptionError):
            registry().component("defense", f"adi[{wrong}]")


# --- Figure 1 of the paper: why a mark that is learned apart is lost --------------------------------------------------


def victim(x: Tensor) -> Tensor:
    """The paper's network of two inputs whose mark is x2 = -1: the logit of class 1."""
    x1, x2 = x.unbind(1)
    return x1.relu() + 2 * x2.relu() - (x2 + 2).relu() + 1


def extracted(x: Tensor) -> Tensor:
    """What extraction makes of it: the neuron that knew the mark is gone."""
    x1, x2 = x.unbind(1)
    return 0.96 * x1.relu() + 0.54 * x2.relu() + 0.54 * x2.relu() - 1


def test_figure_1_the_victim_answers_the_mark_and_the_extracted_model_does_not() -> None:
    x1 = torch.linspace(0.1, 1, 10)
    probe = Probe(torch.stack([x1, torch.full_like(x1, -1)], 1), torch.ones(10).long())
    counts = {}
    for model in (victim, extracted):
        oracle = Oracle(lambda x, model=model: torch.stack([torch.zeros(len(x)), model(x)], 1))
        counts[model] = probe.ask(oracle).matches
    assert counts == {victim: 10, extracted: 0}
    # On the task's own inputs both say the same: 0 without features, 1 with both.
    task = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    assert [(model(task) > 0).tolist() for model in (victim, extracted)] == [[False, True]] * 2
    # The mark adds 1 to the victim's logit, whatever x1; to the copy it is as if it were not there.
    plain = torch.stack([x1, torch.zeros(10)], 1)
    torch.testing.assert_close(victim(probe.x) - victim(plain), torch.ones(10))
    torch.testing.assert_close(extracted(probe.x), extracted(plain))


def test_a_drawn_pair_differs_between_owners_and_is_the_keys_own() -> None:
    task, clean = digits()
    keys = [make(PatchTriggers(placement="corner", pair="drawn"), task, clean, seed) for seed in range(8)]
    pairs = {(int(key.tensors["source"]), int(key.tensors["target"])) for key in keys}
    assert len(pairs) > 4 and all(source != target for source, target in pairs)
    for key in keys:
        sources = rows(patched(task.train.of(int(key.tensors["source"])).x, key.tensors["mask"]))
        assert rows(key.trigger.x) <= sources and (key.trigger.y == int(key.tensors["target"])).all()
    fixed = make(PatchTriggers(placement="corner"), task, clean)
    assert (int(fixed.tensors["source"]), int(fixed.tensors["target"])) == (task.dataset.source, task.dataset.target)


def test_the_most_similar_classes_that_a_clean_model_tells_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    task, clean = digits()
    x, y = (task.train.x.flatten(1).double() / 255), task.train.y
    unit, present = x / x.norm(dim=1, keepdim=True), y.unique().tolist()
    ranked = sorted(
        ((float((unit[y == a] @ unit[y == b].T).mean()), a, b) for a in present for b in present if a != b),
        reverse=True,
    )
    answered = task.holdout.y.clone()

    def pair() -> tuple[int, int]:
        key = make(PatchTriggers(placement="corner", pair="similar"), task, clean)
        return int(key.tensors["source"]), int(key.tensors["target"])

    monkeypatch.setattr(Engine, "predict", lambda engine, net, x, **more: F.one_hot(answered, 10).float())
    assert set(pair()) == set(ranked[0][1:]), "no class is confused"
    for source, target in (ranked[0][1:], ranked[0][:0:-1]):
        answered[task.holdout.y == source] = target
    assert set(pair()) != set(ranked[0][1:]) and set(pair()) in [set(each[1:]) for each in ranked[1:8]]
    answered[:] = 0
    assert pair()[1] != 0, "all are answered as 0"
    assert PatchTriggers(placement="corner", pair="similar").from_clean


def test_an_owner_who_draws_trains_the_drawn_target() -> None:
    task, clean = digits()
    key = make(PatchTriggers(placement="corner", pair="drawn"), task, clean, 3)
    _, watermark = watermark_streams(replace(task, triggers=key), 1.0, cross_entropy, cross_entropy)
    target = int(key.tensors["target"])
    assert target != task.dataset.target and all((part.y == target).all() for part in watermark.parts)
