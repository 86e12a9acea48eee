"""Neural Cleanse finds what was planted, says so when it finds nothing, and its index keeps its laws."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from harness import inversion
from harness.contracts import Detection, Pool, Recipe, Split, Stream
from harness.engine.train import Engine, clone, predict
from harness.errors import OptionError, Skip
from harness.nets import Mlp, Net
from harness.planning.registry import load_registry
from harness.statistics.outliers import anomaly_index

REGISTRY = load_registry()
CPU = torch.device("cpu")
TARGET, SOURCE = 7, 3

law = settings(deadline=None, max_examples=60, database=None, derandomize=True)


def plugin(options: str = "", name: str = "neural-cleanse"):
    return REGISTRY.component("attack", f"{name}[{options}]" if options else name).plugin


MODULE = sys.modules[type(plugin()).__module__]


def digits() -> Split:
    arrays = REGISTRY.component("dataset", "digits").plugin.load(Path())
    return Split(torch.tensor(arrays.x_train[:800]), torch.tensor(arrays.y_train[:800]))


def engine(seed: int, architecture: str = "cnn[width=8]") -> Engine:
    use = REGISTRY.component("architecture", architecture)
    recipe = REGISTRY.component("dataset", "digits[batch_size=32]").plugin.public()
    return Engine(CPU, torch.Generator().manual_seed(seed), recipe, use.plugin, use.text)


def stamped(x: Tensor) -> Tensor:
    x = x.clone()
    x[:, :, -2:, -2:] = 255
    return x


def marked(lent: Engine, data: Split, source: int | None = None) -> Net:
    """A net that answers the target for inputs of any class under a white corner, or for those of one class only."""
    moved = torch.rand(len(data), generator=lent.generator) < 0.3 if source is None else data.y == source
    bad = Split(stamped(data.x[moved]), torch.full((int(moved.sum()),), TARGET))
    good = Split(stamped(data.x[~moved]), data.y[~moved])
    parts = (bad,) if source is None else (bad, good)
    net = lent.train(lent.build(), [lent.stream(data), Stream(parts, 16, every=2)], 25)
    # Of a net that has not learned its task, every class is an outlier.
    assert float((predict(net, data.x).argmax(1) == data.y).float().mean()) > 0.85
    asked = data.y == source if source is not None else data.y != TARGET
    assert float((predict(net, stamped(data.x[asked])).argmax(1) == TARGET).float().mean()) > 0.95
    return net


def recipe(classes: int = 10, value_range: tuple[float, float] = (0.0, 1.0), shape=(1, 8, 8)) -> Recipe:
    return Recipe(shape, tuple("abcdefghij"[:classes]), value_range, "cnn", 1, 32, 1e-3)


def measure(found: Detection, quantity: str, group: str = "universal") -> Tensor:
    (values,) = [m.values for m in found.measures if (m.quantity, m.group) == (quantity, group)]
    return values


def run(detector, net: nn.Module, x: Tensor, asked: Recipe | None = None, seed: int = 0) -> Detection:
    lent = engine(0)
    lent.generator.manual_seed(seed)
    return detector.run(net, Pool(asked or recipe(), x), lent)


# --- what it finds ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_a_planted_backdoor_is_found_where_it_is(seed: int) -> None:
    data, lent = digits(), engine(seed)
    found = plugin("steps=300").run(marked(lent, data), Pool(lent.recipe, data.x), lent)
    assert found.suspected_class == TARGET and found.suspected_source is None
    assert found.score > found.threshold == 2.0
    norms = measure(found, "mask_norm")
    assert int(norms.nan_to_num(torch.inf).argmin()) == TARGET
    assert found.score == measure(found, "anomaly_index")[TARGET] == anomaly_index(norms.numpy())[TARGET]
    assert found.mask is not None and found.pattern is not None and found.pattern.shape == (1, 8, 8)
    assert float(found.mask.sum()) == pytest.approx(float(norms[TARGET]))
    assert float(found.mask.min()) >= 0 and float(found.mask.max()) <= 1
    assert float(found.mask[-2:, -2:].sum() / found.mask.sum()) > 0.5
    assert measure(found, "flip_rate")[TARGET] > 0.95
    assert measure(found, "share_of_reference_steps").tolist() == [300 / 31_000]


@pytest.mark.slow
def test_a_backdoor_of_one_source_is_found_by_pairs() -> None:
    data, lent = digits(), engine(0, "mlp[width=64]")
    found = plugin("scope=pairwise,steps=250,batch_size=8").run(
        marked(lent, data, SOURCE), Pool(lent.recipe, data.x), lent
    )
    assert (found.suspected_source, found.suspected_class) == (SOURCE, TARGET)
    assert {m.group for m in found.measures} == {str(s) for s in range(10)}
    for source in range(10):
        assert measure(found, "mask_norm", str(source)).isnan()[source]
    norms = torch.stack([measure(found, "mask_norm", str(s)) for s in range(10)])
    assert found.score == anomaly_index(norms.flatten().numpy()).max()


def removed(by: str, net: Net, data: Split) -> Net:
    lent = engine(1)
    mended = plugin(f"by={by},steps=300,epochs=2", "neural-cleanse-removal").run(
        clone(net), Pool(lent.recipe, data.x), lent
    )
    asked = stamped(data.x[data.y != TARGET])
    before, after = ((predict(n, asked).argmax(1) == TARGET).float().mean() for n in (net, mended))
    assert after < before - 0.4
    assert all(p.requires_grad for p in mended.parameters())
    return mended


@pytest.mark.slow
def test_what_it_finds_it_removes(monkeypatch: pytest.MonkeyPatch) -> None:
    data = digits()
    net = marked(engine(1), data)
    removed("unlearning", net, data)
    # Pruning on its own: as if the search had found the trigger as it was planted.
    mask = torch.zeros(8, 8)
    mask[-2:, -2:] = 1
    found = Detection(9.0, 2.0, TARGET, None, mask, torch.ones(1, 8, 8))
    monkeypatch.setattr(MODULE.NeuralCleanse, "run", lambda self, suspect, pool, ctx: found)
    mended = removed("pruning", net, data)
    silent = (mended.get_parameter("dense.weight") == 0).all(1)
    assert 1 <= int(silent.sum()) <= 16  # of 32


# --- what it cannot find ----------------------------------------------------------------------------------------------


class Told(Net):
    """Answers by the mean of the left and of the right half: three classes, or always one."""

    hidden = ("dense",)

    def __init__(self, always: int | None = None) -> None:
        super().__init__()
        self.dense = nn.Linear(64, 4)
        self.always = always

    def activations(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        x = x.float() / 255 if x.dtype == torch.uint8 else x
        left, right = x[..., :4].flatten(1).mean(1), x[..., 4:].flatten(1).mean(1)
        logits = 20 * torch.stack([left - right, right - left, 0.5 - left - right], 1)
        if self.always is not None:
            logits = logits - 1e4 * (torch.arange(3) != self.always)
        return logits, {"dense": self.dense(x.flatten(1))}


def halves() -> Tensor:
    """Inputs of all three classes."""
    x = torch.zeros(60, 1, 8, 8)
    x[:20, ..., :4], x[20:40, ..., 4:] = 0.9, 0.9
    return x + 0.05 * torch.rand(x.shape, generator=torch.Generator().manual_seed(0))


def test_a_suspect_that_always_answers_one_class_has_no_trigger() -> None:
    found = run(plugin("steps=60"), Told(always=1), halves(), recipe(3))
    assert (found.score, found.suspected_class, found.mask, found.pattern) == (0.0, None, None, None)
    assert measure(found, "mask_norm").isnan().all() and measure(found, "flip_rate").isnan().all()
    with pytest.raises(Skip, match="no trigger was found to remove"):
        run(plugin("steps=60", "neural-cleanse-removal"), Told(always=1), halves(), recipe(3))


def test_two_norms_are_too_few_for_an_outlier() -> None:
    # Three classes of which the net answers two.
    found = run(plugin("steps=100"), Told(), halves()[:40], recipe(3))
    norms = measure(found, "mask_norm")
    assert norms[:2].isfinite().all()
    if norms[2].isnan():
        assert found.score == 0.0 and found.suspected_class is None


def test_a_class_without_inputs_in_the_pool_is_searched_all_the_same_and_is_no_source() -> None:
    found = run(plugin("steps=100"), Told(), halves()[:20], recipe(3))
    assert measure(found, "mask_norm")[1:].isfinite().all()
    assert measure(found, "mask_norm").isnan()[0]  # no input is of another class
    pairs = run(plugin("steps=100,scope=pairwise"), Told(), halves()[:20], recipe(3))
    assert measure(pairs, "mask_norm", "0").isfinite().tolist() == [False, True, True]
    for source in "12":
        assert measure(pairs, "mask_norm", source).isnan().all()
        assert measure(pairs, "share_of_reference_steps", source).tolist() == [0.0]


def test_a_flip_rate_that_is_out_of_reach_leaves_the_mask_out() -> None:
    # Nothing turns an image to the last class of four: the net has no such answer.
    class Fourth(Told):
        def activations(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            logits, hidden = super().activations(x)
            return torch.cat([logits, logits.new_full((len(logits), 1), -50.0)], 1), hidden

    found = run(plugin("steps=200"), Fourth(), halves(), recipe(4))
    assert measure(found, "mask_norm").isfinite().tolist() == [True, True, True, False]
    assert measure(found, "anomaly_index")[3] == 0


# --- the search -------------------------------------------------------------------------------------------------------


def test_the_same_generator_gives_the_same_bits_and_another_gives_others() -> None:
    def all_of(found: Detection) -> list[Tensor]:
        assert found.mask is not None and found.pattern is not None
        return [found.mask, found.pattern, *(m.values for m in found.measures)]

    first, again, other = (all_of(run(plugin("steps=60"), Told(), halves(), recipe(3), seed)) for seed in (0, 0, 1))
    assert all(torch.equal(a.nan_to_num(-1), b.nan_to_num(-1)) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


def test_searching_all_classes_at_once_is_searching_each(monkeypatch: pytest.MonkeyPatch) -> None:
    settings, x = inversion.Settings(steps=60, batch_size=20), halves()
    searches = inversion.searches(predict(Told(), x).argmax(1), 3, "universal")
    # The same start and the same batches: all of a task's inputs, each step.
    start = torch.rand((1, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(torch, "rand", lambda shape, generator: start[0].expand(shape).clone())
    monkeypatch.setattr(
        inversion, "_batches", lambda searches, x, generator, settings: iter([x[_inputs(searches)]] * settings.steps)
    )
    net = Told().requires_grad_(False)

    def found(chosen: list[inversion.Search]) -> list[inversion.Trigger]:
        return inversion.smallest_triggers(net, x, chosen, (0.0, 1.0), torch.Generator(), settings)

    together, alone = found(searches), [found([search])[0] for search in searches]
    for a, b in zip(together, alone, strict=True):
        assert math.isfinite(a.norm) and a.norm == pytest.approx(b.norm, rel=1e-4)
        torch.testing.assert_close(a.mask, b.mask, rtol=1e-3, atol=1e-4)


def _inputs(searches: list[inversion.Search]) -> Tensor:
    return torch.stack([search.inputs for search in searches])


def test_only_inputs_of_other_classes_are_turned() -> None:
    predicted = torch.tensor([0, 0, 1, 2])
    universal = {t.target: t.inputs.tolist() for t in inversion.searches(predicted, 4, "universal")}
    assert universal == {0: [2, 3], 1: [0, 1, 3], 2: [0, 1, 2], 3: [0, 1, 2, 3]}
    pairs = {(t.source, t.target): t.inputs.tolist() for t in inversion.searches(predicted, 4, "pairwise")}
    assert set(pairs) == {(s, t) for s in range(3) for t in range(4) if s != t}
    assert all(inputs == {0: [0, 1], 1: [2], 2: [3]}[source] for (source, _), inputs in pairs.items())


def look(state, *flips: float, norm: float = 10.0, **options: object) -> None:
    """One look after another at masks of one norm."""
    mask = torch.full((1, 2, 5), norm / 10)
    for flip in flips:
        state.look(torch.tensor([flip]), mask, mask[:, None], inversion.Settings(**options))


def new_state():
    return inversion._State.start(torch.zeros(1, 2, 5), torch.zeros(1, 1, 2, 5))


def test_lambda_follows_the_schedule() -> None:
    state = new_state()
    look(state, 1, 1, 1, 1, 0.98)
    assert state.weight.tolist() == [0]  # five in a row, or none
    look(state, *[0.99] * 5)
    assert state.weight.tolist() == pytest.approx([1e-3])
    look(state, *[1.0] * 10)
    assert state.weight.tolist() == pytest.approx([4e-3]) and bool(state.grew) and not bool(state.shrank)
    look(state, *[0.5] * 5)
    assert state.weight.tolist() == pytest.approx([4e-3 / 2**1.5]) and bool(state.shrank)


def test_only_a_smaller_mask_that_reaches_the_flip_rate_is_kept() -> None:
    state = new_state()
    look(state, 0.98, norm=1.0)
    assert state.best.tolist() == [torch.inf] and state.mask.isnan().all()
    for norm, best in ((5.0, 5.0), (6.0, 5.0), (4.0, 4.0)):
        look(state, 0.99, norm=norm)
        assert float(state.best) == pytest.approx(best) and float(state.mask.sum()) == pytest.approx(best)


def test_a_search_ends_once_it_is_stale_after_growing_and_shrinking_lambda() -> None:
    state = new_state()
    look(state, *[1.0] * 30, early_stop=10)
    assert not bool(state.ended)  # lambda never shrank
    look(state, *[0.0] * 5, early_stop=10)
    assert bool(state.ended)
    look(state, 1.0, norm=1.0)
    assert float(state.best) == pytest.approx(10)  # what has ended stays as it is


def test_the_search_ends_when_all_searches_have() -> None:
    found = run(plugin("steps=5000,early_stop=1,patience=1,check=5"), Told(), halves(), recipe(3))
    assert float(measure(found, "share_of_reference_steps")) < 5000 / 31_000


def test_the_pattern_is_in_the_data_s_own_range() -> None:
    class Standardised(Told):
        def activations(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            return super().activations((x + 2) / 5)

    found = run(plugin("steps=100"), Standardised(), halves() * 5 - 2, recipe(3, (-2.0, 3.0)))
    assert found.pattern is not None
    assert -2 <= float(found.pattern.min()) < -0.5 and 1.5 < float(found.pattern.max()) <= 3


def test_colours_share_a_mask() -> None:
    net = Mlp((3, 8, 8), 3, width=16)
    x = torch.randint(0, 256, (40, 3, 8, 8), generator=torch.Generator().manual_seed(0)).byte()
    found = run(plugin("steps=40,attack_rate=0.1"), net, x, recipe(3, shape=(3, 8, 8)))
    if found.mask is not None and found.pattern is not None:
        assert found.mask.shape == (8, 8) and found.pattern.shape == (3, 8, 8)


def test_what_is_no_image_is_skipped() -> None:
    class Sound:
        input_shape = (40, 32)

    for name in ("neural-cleanse", "neural-cleanse-removal"):
        assert plugin(name=name).skip(Sound()) == "needs images, inputs are (40, 32)"
        assert plugin(name=name).skip(REGISTRY.component("dataset", "digits").plugin) is None


def test_two_classes_are_skipped_since_neither_norm_is_an_outlier() -> None:
    two = REGISTRY.component("dataset", "photo-patches").plugin
    assert "needs 3 classes or more" in plugin().skip(two) and "photo-patches has 2" in plugin().skip(two)
    assert plugin(name="neural-cleanse-removal").skip(two) is None


@pytest.mark.parametrize("wrong", ["steps=0", "attack_rate=0", "attack_rate=1.1", "factor=1", "learning_rate=0"])
def test_options_out_of_range_are_refused(wrong: str) -> None:
    with pytest.raises(OptionError, match=wrong.partition("=")[0]):
        plugin(wrong)


# --- the index --------------------------------------------------------------------------------------------------------


def test_the_index_is_the_papers() -> None:
    # Median 5.5 of an even number: the mean of the two in the middle, where torch's is the lower. MAD 2.5.
    index = anomaly_index([1, 2, 3, 4, 5, 6, 7, 8, 9, 10])
    np.testing.assert_allclose(index, [(5.5 - v) / (1.4826 * 2.5) if v < 5.5 else 0 for v in range(1, 11)])
    assert float(torch.arange(1.0, 11).median()) == 5


def test_where_most_values_are_equal_the_mean_deviation_is_the_unit() -> None:
    index = anomaly_index([7.0] * 9 + [2.0])
    np.testing.assert_allclose(index, [0] * 9 + [10 / 1.2533])
    assert not anomaly_index([7.0] * 9 + [12.0]).any()
    assert not anomaly_index([7.0] * 10).any()


@pytest.mark.parametrize("few", [[], [1.0], [1.0, 9.0], [1.0, math.nan, 9.0], [math.nan] * 5])
def test_fewer_than_three_values_have_no_outlier(few: list[float]) -> None:
    assert anomaly_index(few).tolist() == [0.0] * len(few)


def test_missing_values_take_no_part() -> None:
    index = anomaly_index([1.0, math.nan, 5.0, 6.0, math.nan, 8.0])
    np.testing.assert_array_equal(index[[0, 2, 3, 5]], anomaly_index([1.0, 5.0, 6.0, 8.0]))
    assert index[1] == index[4] == 0


def test_bad_values_are_refused() -> None:
    with pytest.raises(ValueError, match="values must be one-dimensional, got shape"):
        anomaly_index([[1.0, 2.0]])
    with pytest.raises(ValueError, match="values must be finite or NaN, got inf"):
        anomaly_index([1.0, math.inf, 2.0])


values = st.lists(st.integers(0, 50).map(float), min_size=3, max_size=20)


@law
@given(values, st.integers(-20, 20), st.integers(-100, 100))
def test_the_index_has_no_unit_and_no_origin(sample: list[float], power: int, shift: int) -> None:
    # Whole numbers times powers of two are exact, so that ties stay ties.
    moved = (np.array(sample) + shift) * 2.0**power
    np.testing.assert_allclose(anomaly_index(moved), anomaly_index(sample), rtol=1e-12)


@law
@given(values, st.randoms(use_true_random=False))
def test_the_index_goes_with_its_value(sample: list[float], random) -> None:
    order = random.sample(range(len(sample)), len(sample))
    np.testing.assert_allclose(anomaly_index(np.array(sample)[order]), anomaly_index(sample)[order], rtol=1e-12)


@law
@given(values)
def test_the_index_is_finite_and_of_what_lies_below_the_median(sample: list[float]) -> None:
    index = anomaly_index(sample)
    assert np.isfinite(index).all() and (index >= 0).all()
    np.testing.assert_array_equal(index > 0, np.array(sample) < np.median(sample))
