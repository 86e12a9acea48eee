"""A thief who transforms queries before the stolen model answers them: what each transform does, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import harness
from harness import Pool, Preprocessing
from harness.engine.train import Engine
from harness.errors import OptionError
from harness.planning.registry import load_registry
from tests.conftest import TINY, Cli

REGISTRY = load_registry()
NAMES = [
    *("jpeg", "input-quantization", "feature-squeezing", "smoothing", "noising", "flipping", "shrink-pad"),
    *("cropping", "reconstruction"),
]
RECIPE = REGISTRY.component("dataset", TINY).plugin.public()
CPU = torch.device("cpu")


def plugin(entry: str) -> Any:
    return REGISTRY.component("attack", entry).plugin


def lent(seed: int = 0) -> Engine:
    cnn = REGISTRY.component("architecture", "cnn[width=4]")
    return Engine(CPU, torch.Generator().manual_seed(seed), RECIPE, cnn.plugin, cnn.text)


def images(count: int = 300, shape: tuple[int, ...] = (1, 8, 8)) -> Tensor:
    return torch.randint(0, 256, (count, *shape), generator=torch.Generator().manual_seed(1)).byte()


def transformed(entry: str, x: Tensor, seed: int = 0) -> Tensor:
    """Floats in 0..1 through a transform that needs no guard."""
    made: Tensor = plugin(entry).transform(x, {}, torch.Generator().manual_seed(seed))
    return made


class Seen(torch.nn.Module):
    """A net that answers with the sums of thirds of what it sees, and keeps it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        return torch.stack([each.flatten(1).sum(1) for each in x.tensor_split(3, dim=-1)], 1)


def served(attack: Preprocessing, x: Tensor, value_range: tuple[float, float] = (0, 1)) -> tuple[Tensor, Tensor]:
    """What a net sees of the queries ``x``, and the API's answers."""
    net: Any = Seen()
    guard = attack.prepare(net, Pool(replace(RECIPE, value_range=value_range), x), lent())
    answers = attack.serve(net, x, torch.zeros(len(x), 3), guard)
    return torch.cat(net.seen), answers


# --- the base class ---------------------------------------------------------------------------------------------------


class Same(Preprocessing):
    """Leaves every query as it is."""

    name = "same"

    def transform(self, x: Tensor, guard: Mapping[str, Tensor], generator: torch.Generator) -> Tensor:
        assert x.is_floating_point() and float(x.min()) >= 0 and float(x.max()) <= 1
        return x


class Far(Same):
    """Moves every query out of the range."""

    name = "far"

    def transform(self, x: Tensor, guard: Mapping[str, Tensor], generator: torch.Generator) -> Tensor:
        return x + 7


def test_bytes_and_floats_of_any_range_come_in_0_to_1_and_go_back() -> None:
    x = images()
    seen, answers = served(Same(), x)
    assert torch.equal(seen, x.float() / 255) and torch.equal(answers, Seen()(x.float() / 255))
    sound = 3 * torch.rand(300, 20, generator=torch.Generator().manual_seed(0)) - 2
    torch.testing.assert_close(served(Same(), sound, (-2, 1))[0], sound)
    assert served(Far(), sound, (-2, 1))[0].unique().tolist() == [1]


def test_no_question_has_no_answer() -> None:
    for name in NAMES:
        attack = plugin(name + ("[epochs=1]" if name == "reconstruction" else ""))
        guard = attack.prepare(Seen(), Pool(RECIPE, images(20)), lent())
        assert attack.serve(Seen(), images(0), torch.zeros(0, 3), guard).shape == (0, 3)


@pytest.mark.parametrize("name", ["noising", "shrink-pad", "jpeg"])
def test_the_same_questions_get_the_same_answers_and_each_its_own_noise(name: str) -> None:
    x = images(1).expand(300, -1, -1, -1).contiguous()
    (first, answers), (again, others) = served(plugin(name), x), served(plugin(name), x)
    assert torch.equal(first, again) and torch.equal(answers, others)
    distinct = {"jpeg": 1, "noising": 300, "shrink-pad": 4}  # 7 x 7 pixels have four places on 8 x 8
    assert len(first.unique(dim=0)) == distinct[name]


# --- the transforms ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [2, 3, 8])
def test_quantization_knows_as_many_values_as_bins_and_uses_the_top_one(levels: int) -> None:
    x = torch.linspace(0, 1, 1001)
    values, counts = transformed(f"input-quantization[levels={levels}]", x).unique(return_counts=True)
    torch.testing.assert_close(values, (torch.arange(levels) + 0.5) / levels)
    assert counts.max() - counts.min() <= 2, "bins are equally wide"


@pytest.mark.parametrize("bits", [1, 3])
def test_squeezing_keeps_both_ends_and_rounds(bits: int) -> None:
    values = transformed(f"feature-squeezing[bits={bits}]", torch.linspace(0, 1, 1001)).unique()
    assert len(values) == 2**bits and values[0] == 0 and values[-1] == 1
    assert transformed("feature-squeezing[bits=1]", torch.tensor([0.4, 0.6])).tolist() == [0, 1]


def test_jpeg_rounds_to_bytes_and_loses_more_by_a_lower_quality() -> None:
    flat = torch.full((2, 3, 16, 16), 100.6 / 255)
    assert torch.equal(transformed("jpeg[quality=100]", flat), torch.full_like(flat, 101) / 255)  # not 100: truncated
    x = images(20, (1, 32, 32)).float() / 255
    errors = [float((transformed(f"jpeg[quality={q}]", x) - x).square().mean()) for q in (100, 75, 20)]
    assert errors == sorted(errors) and errors[0] < errors[2] / 4


@pytest.mark.parametrize("options", ["size=3", "filter=median", "filter=gaussian", "size=5", "filter=median,size=5"])
def test_smoothing_has_no_dark_border_and_keeps_channels_apart(options: str) -> None:
    flat = torch.full((2, 3, 8, 9), 0.7)
    flat[:, 1] = 0.2
    torch.testing.assert_close(transformed(f"smoothing[{options}]", flat), flat)


def test_smoothing_takes_a_lone_pixel_away() -> None:
    lone = torch.zeros(1, 1, 8, 8)
    lone[0, 0, 4, 4] = 9
    assert not transformed("smoothing[filter=median]", lone).any()
    mean = transformed("smoothing", lone)[0, 0]
    torch.testing.assert_close(mean[3:6, 3:6], torch.ones(3, 3))
    assert mean.sum().item() == pytest.approx(9)
    gaussian = transformed("smoothing[filter=gaussian,sigma=0.5]", lone)[0, 0]
    assert (gaussian[4, 3] / gaussian[4, 4]).log().item() == pytest.approx(-0.5 / 0.5**2)


def test_noise_has_its_size_and_stays_in_the_range() -> None:
    grey = torch.full((200, 1, 8, 8), 0.5)
    assert transformed("noising[sigma=0.1]", grey).std().item() == pytest.approx(0.1, rel=0.05)
    seen, _ = served(plugin("noising[sigma=0.3]"), images())
    assert float(seen.min()) >= 0 and float(seen.max()) <= 1


def test_a_mirror_image_is_asked_where_the_recipe_trains_such() -> None:
    x = images()
    assert torch.equal(served(plugin("flipping"), x)[0], (x.float() / 255).flip(3))
    digits, mirrored = (
        REGISTRY.component("dataset", f"digits[augment={augment}]").plugin for augment in ("crop", "crop-flip")
    )
    assert "augment=crop trains none" in plugin("flipping").skip(digits) and not plugin("flipping").skip(mirrored)


def test_a_shrunk_image_is_whole_wherever_it_is() -> None:
    x = torch.ones(100, 2, 10, 20)
    x[:, 1] = 0.25
    moved = transformed("shrink-pad[scale=0.8]", x)
    assert moved.shape == x.shape and moved.mul(100).round().unique().tolist() == [0, 25, 100]
    assert (moved[:, 0].sum((1, 2)).round() == 8 * 16).all()
    corners = {tuple(each.nonzero()[0].tolist()) for each in moved[:, 0]}
    assert corners == {(i, j) for i in range(3) for j in range(5)}


def test_cropping_cuts_a_corner_off_and_keeps_the_middle() -> None:
    x = torch.zeros(2, 1, 20, 10)
    x[:, :, :2, :1] = 1
    assert not transformed("cropping", x).any() and transformed("cropping[border=0.05]", x).any()
    ramp = torch.linspace(0, 1, 20)[None, None, :, None].expand(1, 1, 20, 20)
    cut = transformed("cropping[border=0.25]", ramp)
    assert cut.shape == ramp.shape and cut.min() == ramp[0, 0, 5, 0] and cut.max() == ramp[0, 0, 14, 0]


def test_an_auto_encoder_of_the_pool_redraws_benign_images_better_than_others() -> None:
    generator = torch.Generator().manual_seed(0)
    shades = torch.rand(400, 2, generator=generator)[:, :, None, None]
    benign = (255 * torch.cat([shades[:, :1].expand(-1, 1, 7, 5), shades[:, 1:].expand(-1, 1, 7, 5)], 3)).byte()
    attack, recipe = plugin("reconstruction[bottleneck=8,epochs=30]"), replace(RECIPE, input_shape=(1, 7, 10))
    guard = attack.prepare(Seen(), Pool(recipe, benign[:300]), lent())
    again = attack.prepare(Seen(), Pool(recipe, benign[:300]), lent())
    assert guard.keys() == again.keys() and all(torch.equal(guard[name], again[name]) for name in guard)

    def error(x: Tensor) -> float:
        with torch.inference_mode():
            return float((attack.transform(x, guard, generator) - x).square().mean())

    known, strange = benign[300:].float() / 255, torch.rand(100, 1, 7, 10, generator=generator)
    assert error(known) < 0.01 < error(strange)
    state = torch.random.get_rng_state()
    attack.transform(known, guard, generator)
    assert torch.equal(state, torch.random.get_rng_state()), "nothing is drawn while it serves"


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "entry",
    [
        *("jpeg[quality=0]", "jpeg[quality=101]", "input-quantization[levels=1]", "feature-squeezing[bits=0]"),
        *("smoothing[size=2]", "smoothing[size=0]", "smoothing[sigma=0]", "noising[sigma=0]", "shrink-pad[scale=1]"),
        *("cropping[border=0]", "cropping[border=0.5]"),
        *("reconstruction[epochs=0]", "reconstruction[bottleneck=0]"),
    ],
)
def test_options_out_of_range_are_refused(entry: str) -> None:
    with pytest.raises(OptionError):
        plugin(entry)


def test_inputs_that_a_transform_cannot_take_are_skipped_with_the_reason() -> None:
    digits = REGISTRY.component("dataset", "digits").plugin

    def reason(entry: str, shape: tuple[int, ...]) -> str:
        like = type("Like", (type(digits),), {"input_shape": shape, "name": "like", "__doc__": "Like."})
        return plugin(entry).skip(like(augment="crop-flip")) or ""

    assert "needs images of one or three channels" in reason("jpeg", (2, 8, 8))
    assert "needs images of at least 3 x 3" in reason("smoothing[size=5]", (1, 2, 8))
    assert "needs images of at least 7 x 7" in reason("smoothing[filter=gaussian,sigma=2]", (1, 6, 6))
    assert reason("shrink-pad", (1, 4, 4)) == "4 x 4 pixels times 0.9 are as many, rounded"
    assert reason("cropping", (1, 4, 4)) == "a border of 0.1 of 4 x 4 pixels is none, rounded"
    for name in NAMES:
        is_image = name in ("jpeg", "smoothing", "flipping", "shrink-pad", "cropping", "reconstruction")
        assert bool(reason(name, (400,))) == is_image and not reason(name, (3, 32, 32))


@pytest.mark.parametrize("count", [1, 5])
def test_an_auto_encoder_of_fewer_inputs_than_a_batch_is_one(count: int) -> None:
    attack = plugin("reconstruction[epochs=1]")
    guard = attack.prepare(Seen(), Pool(RECIPE, images(count)), lent())
    assert attack.serve(Seen(), images(9), torch.zeros(9, 3), guard).isfinite().all()


# --- through the command line -----------------------------------------------------------------------------------------


def test_accuracy_is_that_of_the_answers_through_the_transform(cli: Cli, tmp_path: Path) -> None:
    entries = ("none", "noising[sigma=4.0]", "input-quantization", "reconstruction[epochs=2]")
    chosen = [word for entry in entries for word in ("--attack", entry)]
    data = "digits[train=600,holdout=150,epochs=6,pretrain=3,learning_rate=0.003]"
    asked = ("run", "--dataset", data, "--defense", "baseline", *chosen, "--seeds", "0", "--nulls", "1")
    cli(*asked, "--no-innocents", "--results", tmp_path, code=0)
    cells = harness.read_table(tmp_path, "cells").set_index("attack")
    assert (cells["status"] == "ok").all() and set(cells["family"]) == {"none", "evasion"}
    accuracy = cells["surrogate_accuracy"]
    assert accuracy["none"] > 0.8 and accuracy["input-quantization"] > accuracy["none"] - 0.1
    assert accuracy["noising[sigma=4.0]"] < 0.3, "the net itself still knows"
    raw = harness.read_table(tmp_path, "stages").set_index("label")["raw_accuracy"]
    assert raw[[label for label in raw.index if "noising" in label]].min() > 0.8
