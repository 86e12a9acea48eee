"""The training engine against a plain loop, and each promise that it makes to a plugin."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from harness.contracts import Architecture, Arrays, Dataset, Split, Stream
from harness.engine.batches import Source, batches_per_pass, draw_moves, schedule
from harness.engine.train import Engine, clone, predict
from harness.inputs import moved
from harness.losses import summed_cross_entropy
from harness.nets import CPU_PART, Cnn, Net
from harness.storage.tables import Tables
from tests.conftest import TINY, Cli

CPU = torch.device("cpu")

law = settings(deadline=None, max_examples=100, database=None, derandomize=True)


@dataclass(frozen=True)
class Quarters(Dataset):
    """Four classes of 8 x 8 images: which quarter is bright."""

    name: ClassVar[str] = "quarters"
    input_shape: ClassVar[tuple[int, ...]] = (1, 8, 8)
    classes: ClassVar[tuple[str, ...]] = tuple("abcd")
    available: ClassVar[int] = 2000

    target: int = 3
    batch_size: int = 16

    def load(self, root: Path) -> Arrays:
        raise NotImplementedError


@dataclass(frozen=True)
class Small(Architecture):
    """A CNN that drops units while it trains."""

    name: ClassVar[str] = "small"

    dropout: float = 0.2

    def build(self, input_shape: tuple[int, ...], classes: int) -> Net:
        return Cnn((1, 8, 8), classes, width=4, dropout=self.dropout)


def engine(seed: int = 0, dropout: float = 0.2, **recipe: object) -> Engine:
    return Engine(CPU, torch.Generator().manual_seed(seed), Quarters(**recipe).public(), Small(dropout), "small")


def split(count: int = 64, seed: int = 0) -> Split:
    x = torch.randint(0, 100, (count, 1, 8, 8), generator=torch.Generator().manual_seed(seed)).byte()
    y = torch.arange(count) % 4
    for label in range(4):
        top, left = 4 * (label // 2), 4 * (label % 2)
        x[y == label, :, top : top + 4, left : left + 4] += 100
    return Split(x, y)


def numbered(count: int, start: int = 0) -> Split:
    """Samples whose input is their number."""
    return Split(torch.arange(start, start + count, dtype=torch.float32)[:, None], torch.zeros(count).long())


def trained(seed: int = 0, **recipe: object) -> Net:
    lent = engine(seed, **recipe)
    return lent.train(lent.build(), [lent.stream(split())], 2)


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def batches(stream: Stream, count: int, seed: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of one epoch of ``count``."""
    source = Source(stream, count)
    source.shuffle(torch.Generator().manual_seed(seed))
    for _ in range(count):
        yield source.batch()


class Watched:
    """A cross-entropy that keeps the batches it is asked for."""

    def __init__(self) -> None:
        self.batches: list[tuple[Tensor, Tensor]] = []

    def __call__(self, net: Net, x: Tensor, y: Tensor) -> Tensor:
        self.batches.append((x.clone(), y.clone()))
        return F.cross_entropy(net(x), y)


# --- seeds ------------------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_weights_bit_for_bit() -> None:
    assert same(trained(0), trained(0))
    assert not same(trained(0), trained(1))


def test_global_random_state_is_neither_read_nor_moved() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        before = torch.get_rng_state()
        first = trained()
        assert torch.equal(torch.get_rng_state(), before)
        torch.default_generator.manual_seed(2)
        assert same(trained(), first)


def test_global_random_state_is_given_back_after_an_error() -> None:
    def broken(net: Net, x: Tensor, y: Tensor) -> Tensor:
        torch.rand(1)
        raise RuntimeError("broken")

    lent = engine()
    net, before = lent.build(), torch.get_rng_state()
    frozen = net.logits.weight
    with pytest.raises(RuntimeError, match="broken"):
        lent.train(net, [lent.stream(split(), broken)], 1, parameters=list(net.conv1.parameters()))
    assert torch.equal(torch.get_rng_state(), before)
    assert not net.training and frozen.requires_grad


def test_two_nets_of_one_context_differ() -> None:
    lent = engine()
    assert not same(lent.build(), lent.build())


def test_nets_of_a_shared_initialization_begin_with_its_weights_whatever_their_seed() -> None:
    first = engine(0, initialization=3).build()
    assert same(first, engine(1, initialization=3).build()) and not same(first, engine(0, initialization=4).build())
    assert not same(trained(0, initialization=3), trained(1, initialization=3)), "each trains on batches of its own"


@pytest.mark.slow
@pytest.mark.parametrize("shared", ["initialization=3,", ""])
def test_victims_and_their_copies_begin_with_the_shared_weights(cli: Cli, tmp_path: Path, shared: str) -> None:
    # Steps of 1e-12 leave a net as it began: a copy then answers as its victim does where both began alike.
    still = TINY.replace("[", f"[{shared}learning_rate=1e-12,")
    arguments = ["--dataset", still, "--defense", "baseline", "--attack", "retraining", "--seeds", "0", "--nulls", "0"]
    cli("run", *arguments, "--results", str(tmp_path), "--jobs", "1")
    cells = Tables(tmp_path).read("cells")
    assert (cells["agreement"].min() == 1) == bool(shared)


def test_start_is_a_copy_of_the_clean_model_or_a_fresh_net() -> None:
    lent = engine()
    lent.clean = trained()
    started = lent.start()
    assert same(started, lent.clean) and started.description == lent.clean.description
    lent.train(started, [lent.stream(split())], 1)
    assert not same(started, lent.clean)
    assert not same(engine().start(), lent.clean)


def test_the_epochs_left_are_those_that_the_clean_model_has_not_had() -> None:
    fresh, lent = engine(epochs=7), engine(epochs=7)
    lent.clean, lent.pretrained = trained(), 3
    assert fresh.epochs == 7 and lent.epochs == 4


def test_a_built_net_says_how_to_build_it_again() -> None:
    assert engine().build().description == {"architecture": "small", "input_shape": [1, 8, 8], "classes": 4}


# --- a plain loop -----------------------------------------------------------------------------------------------------


def plain_loop(lent: Engine, net: Net, streams: list[Stream], epochs: int) -> dict[str, list[float]]:
    """What the engine should do, as one would write it: every second batch of the first stream, one of the second."""
    torch.randint(2**63 - 1, (), generator=lent.generator)  # the engine draws a seed for dropout
    optimizer = torch.optim.Adam(net.parameters(), lr=lent.recipe.learning_rate, betas=(0.9, 0.99), eps=1e-5)
    curves: dict[str, list[float]] = {"loss": [], "loss:1": []}
    net.train()

    def one(x: Tensor, y: Tensor, loss: Callable[[Net, Tensor, Tensor], Tensor]) -> float:
        optimizer.zero_grad()
        value = loss(net, x, y)
        value.backward()
        optimizer.step()
        return value.item()

    sources = [Source(stream, count) for stream, count in zip(streams, (4, 2), strict=True)]
    for _ in range(epochs):
        for source in sources:
            source.shuffle(lent.generator)
        values: list[list[float]] = [[], []]
        for number in range(1, 64 // 16 + 1):
            values[0].append(one(*sources[0].batch(), lambda net, x, y: F.cross_entropy(net(x), y)))
            if number % 2 == 0:
                values[1].append(one(*sources[1].batch(), summed_cross_entropy))
        for name, each in zip(curves, values, strict=True):
            curves[name].append(sum(each) / len(each))
    return curves


def test_the_engine_is_a_plain_loop() -> None:
    marks = split(24, seed=1)
    streams = [Stream((split(),), 16), Stream((marks.of(1), marks.of(2)), 8, summed_cross_entropy, every=2)]
    ours, theirs = engine(dropout=0), engine(dropout=0)
    net, other = ours.build(), theirs.build()
    assert same(net, other)
    ours.train(net, streams, 4)
    curves = plain_loop(theirs, other, streams, 4)
    assert ours.curves == [{name: pytest.approx(values, rel=1e-4) for name, values in curves.items()}]
    torch.testing.assert_close(dict(net.state_dict()), dict(other.state_dict()), rtol=1e-3, atol=1e-4)
    assert curves["loss"][-1] < curves["loss"][0]


def test_training_learns_the_task() -> None:
    lent = engine(learning_rate=0.01)
    net = lent.train(lent.build(), [lent.stream(split(256))], 5)
    fresh = split(64, seed=9)
    assert float((lent.predict(net, fresh.x).argmax(1) == fresh.y).float().mean()) > 0.9


def test_the_learning_rate_can_be_given() -> None:
    lent, other = engine(), engine()
    slow = lent.train(lent.build(), [lent.stream(split())], 1, learning_rate=1e-9)
    quick = other.train(other.build(), [other.stream(split())], 1)
    start = engine().build()
    assert float((slow.conv1.weight - start.conv1.weight).detach().abs().max()) < 1e-7
    assert float((quick.conv1.weight - start.conv1.weight).detach().abs().max()) > 1e-4


# --- streams ----------------------------------------------------------------------------------------------------------


@law
@given(count=st.integers(1, 300), every=st.floats(0.1, 50))
def test_a_second_stream_gets_its_share_of_every_epoch(count: int, every: float) -> None:
    streams = [Stream((numbered(count),), 1), Stream((numbered(3),), 1, every=every)]
    order = list(schedule(streams))
    assert order.count(0) == count and order.count(1) == int(count / every)
    # Never early: after n batches of the first, at most n / every of the second.
    firsts = 0
    for place, number in enumerate(order):
        firsts += number == 0
        assert order[: place + 1].count(1) <= firsts / every


def test_the_engine_draws_from_streams_at_their_ratios() -> None:
    task, often, rarely = Watched(), Watched(), Watched()
    lent = engine()
    streams = [
        Stream((split(80),), 16, task),
        Stream((split(8),), 4, often, every=0.5),
        Stream((split(8),), 4, rarely, every=2.5),
    ]
    lent.train(lent.build(), streams, 3)
    assert [len(w.batches) for w in (task, often, rarely)] == [3 * 5, 3 * 10, 3 * 2]


def test_a_batch_takes_equal_shares_of_its_parts_in_their_order() -> None:
    stream = Stream((numbered(20), numbered(12, 100), numbered(30, 200)), 12)
    for x, y in batches(stream, 10):
        assert len(x) == len(y) == 12
        assert [int(value) // 100 for value in x[:, 0]] == [0] * 4 + [1] * 4 + [2] * 4


def test_a_pass_shows_each_sample_once_and_passes_differ() -> None:
    drawn = [x[:, 0].tolist() for x, _ in batches(Stream((numbered(20),), 6), 9)]
    passes = [[*chain(*drawn[i : i + 3])] for i in (0, 3, 6)]
    assert all(len(set(each)) == 18 for each in passes)
    assert all(a != b for a, b in pairwise(passes))
    assert {value for each in passes for value in each} == set(range(20))  # the remainder has its turn


def test_parts_of_different_lengths_each_pass_over_all_of_their_own() -> None:
    stream = Stream((numbered(9), numbered(4, 100)), 6)
    drawn = torch.cat([x for x, _ in batches(stream, 6)])[:, 0].tolist()
    assert all(drawn.count(float(i)) == 2 for i in range(9))  # six batches of three: two whole passes
    assert {value for value in drawn if value >= 100} == {100.0, 101.0, 102.0, 103.0}


@law
@given(count=st.integers(1, 15), size=st.integers(2, 40))
def test_a_part_smaller_than_its_share_is_repeated(count: int, size: int) -> None:
    share = size // 2
    for x, _ in batches(Stream((numbered(40), numbered(count, 100)), size), 4):
        second = x[share:, 0].tolist()
        assert len(x) == 2 * share and all(value >= 100 for value in second)
        times = [second.count(value) for value in set(second)]
        assert max(times) - min(times) <= 1 and (count >= share or len(set(second)) == count)


def test_a_target_class_smaller_than_the_batch_can_be_trained_on() -> None:
    seen, lent = Watched(), engine(batch_size=16)
    parts = (split(30).of(1), split(12).of(2))  # of the second there are three, and a share is eight
    lent.train(lent.build(), [lent.stream(split()), Stream(parts, 16, seen)], 1)
    assert all(y.tolist() == [1] * 8 + [2] * 8 for _, y in seen.batches)


def test_fewer_samples_than_a_batch_are_one_smaller_batch() -> None:
    seen, lent = Watched(), engine(batch_size=16)
    lent.train(lent.build(), [lent.stream(split(5), seen)], 3)
    assert [len(x) for x, _ in seen.batches] == [5, 5, 5]


@pytest.mark.parametrize("parts", [(0,), (0, 8), (8, 0)])
def test_an_empty_part_is_an_error(parts: tuple[int, ...]) -> None:
    lent = engine()
    stream = Stream(tuple(split().first(count) for count in parts), 8)
    with pytest.raises(ValueError, match="no samples"):
        lent.train(lent.build(), [lent.stream(split()), stream], 1)
    with pytest.raises(ValueError, match="no samples"):
        lent.train(lent.build(), [stream], 1)


@pytest.mark.parametrize(("limit", "expected"), [(2, 2), (None, 4), (9, 4)])
def test_an_unshuffled_stream_begins_anew_each_epoch(limit: int | None, expected: int) -> None:
    seen, lent, data = Watched(), engine(), split(70)
    stream = Stream((data,), 16, seen, shuffle=False, limit=limit)
    assert batches_per_pass(stream) == expected
    lent.train(lent.build(), [stream], 3)
    assert len(seen.batches) == 3 * expected
    for number, (x, y) in enumerate(seen.batches):
        first = number % expected * 16
        assert torch.equal(x, data.x[first : first + 16]) and torch.equal(y, data.y[first : first + 16])


def test_the_recipes_stream_is_shuffled_and_of_its_size() -> None:
    stream = engine(batch_size=24).stream(split())
    assert (stream.batch_size, stream.shuffle, stream.every, stream.limit) == (24, True, 1.0, None)
    batch, _ = next(batches(stream, 1, seed=1))
    assert len(batch) == 24 and not torch.equal(batch, split().x[:24])


# --- what is trained --------------------------------------------------------------------------------------------------


def test_only_the_parameters_that_are_named_are_trained() -> None:
    lent = engine()
    net = lent.build()
    net.conv1.bias.requires_grad_(False)  # frozen before: stays so
    before = clone(net)
    lent.train(net, [lent.stream(split())], 2, parameters=list(net.logits.parameters()))
    for (name, now), then in zip(net.named_parameters(), before.parameters(), strict=True):
        assert torch.equal(now, then) != name.startswith("logits"), name
        assert now.requires_grad == (name != "conv1.bias")
    lent.train(net, [lent.stream(split())], 1)
    assert not torch.equal(net.conv2.weight, before.conv2.weight)


def test_further_optimizers_step_once_a_batch_by_the_gradient_of_that_batch_alone() -> None:
    lent = engine()
    extra = torch.tensor(0.0, requires_grad=True)
    optimizer = torch.optim.SGD([extra], lr=0.5)

    def loss(net: Net, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(net(x), y) + 3 * extra

    lent.train(lent.build(), [lent.stream(split(), loss)], 2, optimizers=[optimizer])
    assert float(extra.detach()) == -0.5 * 3 * (2 * 4)


def test_soft_labels_that_are_certain_train_as_labels_do() -> None:
    hard, soft = engine(), engine()
    data = split()
    first = hard.train(hard.build(), [hard.stream(data)], 2)
    second = soft.train(soft.build(), [soft.stream(Split(data.x, F.one_hot(data.y, 4).float()))], 2)
    assert soft.curves == [{"loss": pytest.approx(hard.curves[0]["loss"], rel=1e-4)}]
    torch.testing.assert_close(dict(first.state_dict()), dict(second.state_dict()), rtol=1e-3, atol=1e-4)


def test_soft_labels_are_learned_as_they_are() -> None:
    lent, data = engine(dropout=0, learning_rate=0.02), split(128)
    wanted = torch.tensor([0.1, 0.2, 0.3, 0.4]).expand(128, 4)
    net = lent.train(lent.build(), [lent.stream(Split(data.x, wanted))], 20)
    torch.testing.assert_close(lent.predict(net, data.x).softmax(1), wanted, rtol=0, atol=0.06)


# --- curves -----------------------------------------------------------------------------------------------------------


def test_curves_are_the_means_of_each_epoch_by_quantity() -> None:
    steps = iter(range(1000))

    def counted(net: Net, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {"loss": F.cross_entropy(net(x), y), "step": torch.tensor(float(next(steps)))}

    lent = engine()
    net = lent.build()
    lent.train(net, [lent.stream(split(), counted), Stream((split(8),), 8), Stream((split(8),), 8, counted, 4.0)], 3)
    lent.train(net, [lent.stream(split())], 2)
    first, second = lent.curves
    assert set(first) == {"loss", "loss:1", "loss:2", "step"} and set(second) == {"loss"}
    assert {len(values) for values in first.values()} == {3} and len(second["loss"]) == 2
    # Four batches and one of the third stream an epoch: steps 0-4, 5-9, 10-14.
    assert first["step"] == [2.0, 7.0, 12.0]
    assert all(isinstance(value, float) for values in first.values() for value in values)


# --- predict ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
def test_predict_leaves_the_mode_and_gives_plain_tensors(training: bool) -> None:
    net = trained().train(training)
    logits = predict(net, split().x)
    assert net.training is training and net.conv1.training is training
    assert logits.shape == (64, 4) and not logits.is_inference() and not logits.requires_grad
    assert logits.requires_grad_(True).square().sum().backward() is None  # an inference tensor would refuse
    assert torch.equal(predict(net, split().x), predict(net, split().x))  # no unit is dropped


def test_predict_in_parts_is_predict_at_once() -> None:
    net, x = trained(), split(2 * CPU_PART + 1).x
    with torch.no_grad():
        torch.testing.assert_close(predict(net, x), net(x), rtol=1e-4, atol=1e-5)
    assert predict(net, x[:0]).shape == (0, 4)


def test_a_trained_net_is_in_evaluation_mode() -> None:
    assert not trained().training


def test_a_clone_shares_nothing() -> None:
    net = trained()
    copy = clone(net)
    assert same(net, copy) and not copy.training
    owned = {tensor.data_ptr() for tensor in net.state_dict().values()}
    assert not owned & {tensor.data_ptr() for tensor in copy.state_dict().values()}


# --- augmentation -----------------------------------------------------------------------------------------------------


def shifted(image: Tensor, down: int, right: int, mirrored: bool) -> Tensor:
    """One image ``[c, h, w]``, padded with zeros, cropped and mirrored, as a loop over images would do it."""
    _, height, width = image.shape
    padded = F.pad(image, (width, width, height, height))
    top, left = height + down, width + right
    cropped = padded[:, top : top + height, left : left + width]
    return cropped.flip(2) if mirrored else cropped


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_each_image_is_shifted_by_up_to_an_eighth_and_half_are_mirrored(dtype: torch.dtype) -> None:
    x = torch.randint(1, 256, (300, 3, 16, 16), generator=torch.Generator().manual_seed(0)).to(dtype)
    moves = draw_moves("crop-flip", 1, 300, 16, 16, torch.Generator().manual_seed(1))[0]
    made = moved(x, moves)
    assert made.dtype == dtype and made.shape == x.shape
    ways = [(d, r, m) for d in range(-2, 3) for r in range(-2, 3) for m in (False, True)]
    candidates = {way: torch.stack([shifted(image, *way) for image in x]) for way in ways}
    found = [next(way for way in ways if torch.equal(candidates[way][i], made[i])) for i in range(len(x))]
    assert len({way[:2] for way in found}) == 25  # every shift occurs, none beyond
    assert 0.4 < sum(mirrored for *_, mirrored in found) / len(found) < 0.6
    assert found == [(int(down), int(right), bool(mirrored)) for down, right, mirrored in moves]


@pytest.mark.parametrize(("augment", "rights"), [("crop", range(-2, 3)), ("shift", [0])])
def test_digits_and_words_are_shifted_and_never_mirrored(augment: Any, rights: Iterable[int]) -> None:
    x = torch.randint(1, 256, (300, 1, 24, 16), generator=torch.Generator().manual_seed(0)).byte()
    moves = draw_moves(augment, 1, 300, 24, 16, torch.Generator().manual_seed(1))[0]
    assert {(int(down), int(right)) for down, right, _ in moves} == {(d, r) for d in range(-3, 4) for r in rights}
    expected = [
        shifted(image, int(down), int(right), mirrored=False) for image, (down, right, _) in zip(x, moves, strict=True)
    ]
    assert torch.equal(moved(x, moves), torch.stack(expected)) and not bool(moves[:, 2].any())


def test_task_data_are_augmented_where_the_recipe_says_so_and_triggers_never() -> None:
    data = split(64)

    def shown(**recipe: object) -> list[Tensor]:
        lent, seen = engine(**recipe), []

        def loss(net: Net, x: Tensor, y: Tensor) -> Tensor:
            seen.append(x)
            return F.cross_entropy(net(x), y)

        lent.train(lent.build(), [lent.stream(data, loss), Stream((data,), 16, loss)], 1)
        return seen

    known = {row.numpy().tobytes() for row in data.x}
    augmented, plain = shown(augment="crop-flip"), shown()
    share = [sum(row.numpy().tobytes() in known for row in batch) / len(batch) for batch in augmented]
    assert max(share[0::2]) < 1 and set(share[1::2]) == {1.0}
    assert all(row.numpy().tobytes() in known for batch in plain for row in batch)


# --- precision --------------------------------------------------------------------------------------------------------


def test_tf32_is_float32_where_there_is_no_gpu() -> None:
    nets = []
    for precision in ("fp32", "tf32"):
        lent = engine()
        lent.precision = precision  # type: ignore[assignment]
        nets.append(lent.train(lent.build(), [lent.stream(split())], 2))
    assert same(*nets)


def test_bfloat16_trains_as_well_with_weights_and_answers_in_float32() -> None:
    right = {}
    for precision in ("fp32", "bf16"):
        lent = engine(learning_rate=0.01, dropout=0)
        lent.precision = precision  # type: ignore[assignment]
        net, fresh = lent.train(lent.build(), [lent.stream(split(256))], 5), split(200, seed=9)
        logits = lent.predict(net, fresh.x)
        assert logits.dtype == torch.float32 == next(iter(net.state_dict().values())).dtype
        right[precision] = float((logits.argmax(1) == fresh.y).float().mean())
    assert right["fp32"] > 0.9 and abs(right["bf16"] - right["fp32"]) < 0.05
    assert not same(trained(), net)


def test_the_engine_counts_what_passes_through_nets() -> None:
    lent = engine()
    net = lent.train(lent.build(), [lent.stream(split(40)), Stream((split(24).of(1), split(24).of(2)), 8, every=2)], 3)
    lent.predict(net, split(50).x)
    lent.activation_frequencies(net, split(7).x)
    # Two whole batches of 16 in 40 samples, and one of eight watermark samples after them.
    assert vars(lent.counts) == {"trained": 3 * (2 * 16 + 8), "evaluated": 57, "recalled": 0}


@pytest.mark.slow
@pytest.mark.parametrize(
    "architecture", ["cnn", "mlp", "lenet", "lstm", "resnet18[width=4]", "resnet9[width=8]", "wrn[depth=10,width=1]"]
)
def test_every_built_in_loss_trains_in_bfloat16_on_every_architecture(
    architecture: str, cli: Cli, tmp_path: Path
) -> None:
    dataset = TINY.replace("]", f",architecture={architecture},label_smoothing=0.1]")
    attacks = ("none", "snnl-extraction", "retraining[answers=probabilities]")
    axes = [word for attack in attacks for word in ("--attack", attack)]
    schemes = [word for scheme in ("ewe", "adi", "unmarked[adversarial=true]") for word in ("--defense", scheme)]
    cli("run", "--dataset", dataset, *schemes, *axes, "--seeds", "0", "--nulls", "1", "--precision", "bf16",
        "--no-innocents", "--results", tmp_path, code=0)  # fmt: skip
    stages = Tables(tmp_path).read("stages")
    assert set(stages["status"]) == {"ok"} and set(stages["precision"]) == {"bf16"}
    curves = Tables(tmp_path).read("curves")
    assert curves["value"].notna().all()
