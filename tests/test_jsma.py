"""The saliency map attack against a slow one in float64 that follows the paper's text, and what it makes of it."""

from __future__ import annotations

import sys
from itertools import combinations

import pytest
import torch
from torch import Tensor, nn

from harness.contracts import Detection, Pool, Recipe
from harness.engine.train import Engine
from harness.errors import OptionError, Skip
from harness.nets import Mlp, Net
from harness.planning.registry import load_registry
from harness.statistics.outliers import anomaly_index

REGISTRY = load_registry()


def plugin(options: str = ""):
    return REGISTRY.component("attack", f"jsma[{options}]" if options else "jsma").plugin


MODULE = sys.modules[type(plugin()).__module__]
SHAPE = (1, 2, 7)


def make(seed: int = 0, classes: int = 4, shape: tuple[int, ...] = SHAPE) -> Net:
    """A tiny net in double precision, so that no rounding decides between pairs."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        net = Mlp(shape, classes, width=12)
    return net.double().eval().requires_grad_(False)


def inputs(count: int = 10, seed: int = 0, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return 0.8 * torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed)).double()


def targets_of(net: Net, x: Tensor) -> Tensor:
    return MODULE.spread_targets(net(x).argmax(1), net(x).shape[1])


def saliency_of(jacobian: Tensor, target: int, p: int, q: int, sign: int) -> float:
    """-alpha beta of a pair, 0 where it is not allowed; ``jacobian`` is ``[classes, features]``."""
    alpha = beta = 0.0
    for j in range(len(jacobian)):
        both = sign * float(jacobian[j, p] + jacobian[j, q])
        alpha, beta = (alpha + both, beta) if j == target else (alpha, beta + both)
    return -alpha * beta if alpha > 0 > beta else 0.0


def slow(net: Net, x: Tensor, target: int, share: float, limit: float, sign: int = 1) -> tuple[Tensor, list[set[int]]]:
    """Algorithms 2 and 3 for one input: a whole Jacobian and a loop over pairs each step."""
    x, chosen = x.clone(), []
    domain = {i for i, value in enumerate(x.flatten().tolist()) if value != limit}
    while int(net(x[None]).argmax()) != target and len(chosen) < int(share * x.numel() / 2):
        jacobian = torch.autograd.functional.jacobian(lambda z: net(z[None])[0], x).flatten(1)
        pairs = {(p, q): saliency_of(jacobian, target, p, q, sign) for p, q in combinations(sorted(domain), 2)}
        best = max(pairs, key=pairs.__getitem__, default=None)
        if best is None or pairs[best] <= 0:
            break
        chosen.append(set(best))
        domain -= set(best)
        x.view(-1)[list(best)] = limit
    return x, chosen


def pairs_of(row: Tensor) -> list[set[int]]:
    return [set(pair) for pair in row.tolist() if min(pair) >= 0]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("theta", ["brightest", "darkest"])
def test_it_changes_the_pairs_that_the_paper_s_text_does(seed: int, theta: str) -> None:
    net, x = make(seed), inputs(seed=seed)
    sign, limit = (1, 0.9) if theta == "brightest" else (-1, -0.2)
    targets = targets_of(net, x)
    done = plugin(f"share=0.6,theta={theta}").perturb(net, x, targets, (-0.2, 0.9))
    lengths = set()
    for i, target in enumerate(targets.tolist()):
        expected, chosen = slow(net, x[i], target, 0.6, limit, sign)
        assert pairs_of(done.pairs[i]) == chosen
        torch.testing.assert_close(done.x[i], expected, rtol=0, atol=0)
        assert bool(done.reached[i]) == (int(net(expected[None]).argmax()) == target)
        assert int(done.used[i]) == 2 * len(chosen)
        lengths.add(len(chosen))
    assert len(lengths) > 1  # inputs left the batch at different steps


def test_all_at_once_is_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = make(1), inputs(12)
    targets = targets_of(net, x)
    together = plugin("share=0.6").perturb(net, x, targets, (0.0, 1.0))
    monkeypatch.setattr(MODULE, "PAIRS_AT_ONCE", 1)
    for i in range(len(x)):
        alone = plugin("share=0.6").perturb(net, x[i : i + 1], targets[i : i + 1], (0.0, 1.0))
        assert torch.equal(alone.x[0], together.x[i]) and torch.equal(alone.pairs[0], together.pairs[i])
        assert bool(alone.reached[0]) == bool(together.reached[i])


def test_saturated_and_used_features_are_left_alone() -> None:
    net, x = make(2), inputs()
    x[..., ::2] = 1.0
    done = plugin("share=1").perturb(net, x, targets_of(net, x), (0.0, 1.0))
    for row, image in zip(done.pairs, x, strict=True):
        used = [feature for pair in row.tolist() for feature in pair if feature >= 0]
        assert len(used) == len(set(used))
        assert all(image.flatten()[feature] != 1 for feature in used)
    assert int(done.used.max()) > 2


def test_a_class_that_is_reached_already_needs_no_change() -> None:
    net, x = make(), inputs()
    done = plugin().perturb(net, x, net(x).argmax(1), (0.0, 1.0))
    assert done.reached.all() and not done.used.any() and torch.equal(done.x, x)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_it_stops_at_the_share(share: float) -> None:
    net, x = make(3), inputs(20)
    with torch.no_grad():
        net.get_parameter("logits.bias")[0] -= 100  # out of reach
    targets = torch.zeros(20, dtype=torch.int64)
    done = plugin(f"share={share}").perturb(net, x, targets, (0.0, 1.0))
    assert done.pairs.shape == (20, int(share * 14 / 2), 2) and not done.reached.any()
    assert int(done.used.max()) <= share * 14
    assert torch.equal((done.x != x).flatten(1).sum(1), done.used)


def test_without_an_admissible_pair_it_stops() -> None:
    net, x = make(), inputs()
    with torch.no_grad():
        net.get_parameter("dense1.weight").zero_()
    done = plugin().perturb(net, x, targets_of(net, x), (0.0, 1.0))
    assert not done.used.any() and not done.reached.any()


def test_among_all_features_candidates_change_nothing_and_fewer_seldom_much() -> None:
    generator = torch.Generator().manual_seed(0)
    gain, loss = torch.randn(2, 30, 200, generator=generator)
    gain[:, :20] = loss[:, :20] = -torch.inf
    best, found = MODULE._best_of_all(gain, loss)
    everything = MODULE._promising(gain, loss, 200)
    place, also = MODULE._best_of_all(gain.gather(1, everything), loss.gather(1, everything))
    assert found.all() and also.all()
    assert torch.equal(everything.gather(1, place).sort(1).values, best.sort(1).values)

    def saliency(pair: Tensor) -> Tensor:
        return gain.gather(1, pair).sum(1) * loss.gather(1, pair).sum(1)

    some = MODULE._promising(gain, loss, 50)
    place, _ = MODULE._best_of_all(gain.gather(1, some), loss.gather(1, some))
    torch.testing.assert_close(saliency(some.gather(1, place)), saliency(best))


def test_many_features_are_searched_among_candidates() -> None:
    shape = (3, 20, 20)
    net, x = make(shape=shape), inputs(6, shape=shape)
    done = plugin("candidates=64,share=0.05").perturb(net, x, targets_of(net, x), (0.0, 1.0))
    assert done.reached.any() and int(done.pairs.max()) < 1200
    assert torch.equal((done.x != x).flatten(1).sum(1), done.used)


def test_targets_are_others_and_even() -> None:
    predicted = torch.tensor([3] * 30 + [0] * 6 + [1] * 4)
    targets = MODULE.spread_targets(predicted, 4)
    assert (targets != predicted).all()
    assert torch.equal(targets.bincount(minlength=4), torch.tensor([10, 10, 10, 10]))
    always = MODULE.spread_targets(torch.zeros(9, dtype=torch.int64), 4)
    assert torch.equal(always.bincount(minlength=4), torch.tensor([0, 3, 3, 3]))


# --- the detector -----------------------------------------------------------------------------------------------------


def run(net: nn.Module, x: Tensor, options: str = "", classes: int = 4, seed: int = 0) -> Detection:
    use = REGISTRY.component("architecture", "mlp")
    recipe = Recipe(tuple(x.shape[1:]), tuple("abcdefghij"[:classes]), (0.0, 1.0), "mlp", 1, 32, 1e-3)
    lent = Engine(torch.device("cpu"), torch.Generator().manual_seed(seed), recipe, use.plugin, use.text)
    return plugin(options).run(net, Pool(recipe, x), lent)


def values(found: Detection, quantity: str) -> Tensor:
    (measured,) = [m.values for m in found.measures if m.quantity == quantity]
    return measured


class Eased(Net):
    """Answers the brightest of eight columns; the last is reached by its first pixel too."""

    def activations(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        x = x.float() / 255 if x.dtype == torch.uint8 else x
        logits = x.sum((1, 2)) - 0.1 * x.sum((1, 2, 3))[:, None]
        return logits + 6 * x[:, :, 0, 7].sum(1)[:, None] * (torch.arange(8) == 7), {}


def columns(count: int = 64) -> Tensor:
    """Inputs of the first seven columns' classes."""
    x = torch.randint(0, 30, (count, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    chosen = torch.arange(count) % 7
    x[torch.arange(count), :, :6, chosen] = 200
    return x.byte()


def test_a_class_that_is_reached_easily_is_called_and_the_map_shows_where() -> None:
    found = run(Eased(), columns(), classes=8)
    shares = values(found, "feature_share")
    assert found.suspected_class == 7 and found.score > found.threshold == 2.0
    assert found.score == values(found, "anomaly_index")[7] == anomaly_index(shares.numpy())[7]
    assert shares.argmin() == 7 and values(found, "success_rate")[7] == 1
    assert found.mask is not None and found.mask.shape == (8, 8)
    assert float(found.mask.min()) >= 0 and found.mask[:, 7].max() == found.mask[0, 7]


def test_what_never_gets_there_counts_as_all_that_it_may_change() -> None:
    class Deaf(Eased):
        def activations(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            logits, _ = super().activations(x)
            return logits - 100 * (torch.arange(8) == 3), {}

    found = run(Deaf(), columns(), classes=8)
    assert values(found, "success_rate")[3] == 0
    assert values(found, "feature_share")[3] == pytest.approx(2 * int(0.145 * 64 / 2) / 64)


def test_a_suspect_that_always_answers_one_class_says_nothing_of_it() -> None:
    class Always(Eased):
        def activations(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            logits, _ = super().activations(x)
            return logits + 1e4 * (torch.arange(8) == 2), {}

    found = run(Always(), columns(), classes=8)
    assert values(found, "success_rate").isnan().nonzero().flatten().tolist() == [2]
    assert found.score == 0 and found.suspected_class is None


def test_the_same_generator_gives_the_same_bits() -> None:
    first, again, other = (run(Eased(), columns(200), "images=10", 8, seed) for seed in (0, 0, 1))
    assert first.mask is not None and again.mask is not None and other.mask is not None
    assert torch.equal(first.mask, again.mask) and not torch.equal(first.mask, other.mask)
    assert torch.equal(values(first, "feature_share"), values(again, "feature_share"))


def test_inputs_of_one_class_go_to_all_others_and_the_map_is_of_one() -> None:
    found = run(Eased(), columns(200), "source=2,target=7", classes=8)
    answers = Eased().activations(columns(200))[0].argmax(1)
    assert 0 < int((answers == 2).sum()) < 64
    assert values(found, "success_rate").isnan().nonzero().flatten().tolist() == [2]
    every = run(Eased(), columns(200), "source=2", classes=8)
    assert torch.equal(values(found, "feature_share").nan_to_num(), values(every, "feature_share").nan_to_num())
    assert found.mask is not None and every.mask is not None
    # Class 7 is reached by its own column alone.
    assert found.mask[:, 7].sum() == found.mask.sum() and every.mask[:, 7].sum() < every.mask.sum()


def test_classes_that_are_not_there_are_named() -> None:
    digits = REGISTRY.component("dataset", "digits").plugin
    assert plugin("source=10").skip(digits) == "source=10 is none of the 10 classes, 0 to 9"
    assert plugin("target=12").skip(digits) == "target=12 is none of the 10 classes, 0 to 9"
    assert plugin("source=3,target=3").skip(digits) == "source and target are the same class, 3"
    with pytest.raises(Skip, match=r"answers none of the 64 inputs of the pool by class 7"):
        run(Eased(), columns(64), "source=7", classes=8)
    with pytest.raises(Skip, match="of 2 inputs none was pushed to class 5: images must be larger"):
        run(Eased(), columns(64), "images=2,target=5", classes=8)


def test_fewer_images_than_asked_are_all_used() -> None:
    found = run(Eased(), columns(8), classes=8)
    assert values(found, "success_rate").isfinite().sum() == 8


def test_colours_are_features_of_their_own_in_one_map() -> None:
    shape = (3, 4, 4)
    found = run(make(shape=shape).float(), inputs(12, shape=shape).float(), "share=0.5")
    assert found.mask is not None and found.mask.shape == (4, 4)


def test_recurrent_nets_are_looked_into_as_well() -> None:
    class Recurrent(Net):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.logits = nn.LSTM(8, 16, batch_first=True), nn.Linear(16, 4)

        def activations(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            x = x.float() / 255 if x.dtype == torch.uint8 else x
            return self.logits(self.lstm(x[:, 0])[0][:, -1]), {}

    enabled = torch.backends.cudnn.enabled
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        net = Recurrent()
    found = run(net, columns(20))
    assert found.mask is not None and float(found.mask.sum()) > 0
    assert torch.backends.cudnn.enabled == enabled


def test_what_is_no_image_is_skipped() -> None:
    class Sound:
        input_shape = (40, 32)

    assert plugin().skip(Sound()) == "needs images, inputs are (40, 32)"
    assert plugin().skip(REGISTRY.component("dataset", "digits").plugin) is None


@pytest.mark.parametrize("wrong", ["images=0", "share=0", "share=1.1", "candidates=1", "candidates=2000"])
def test_options_out_of_range_are_refused(wrong: str) -> None:
    with pytest.raises(OptionError, match=wrong.partition("=")[0]):
        plugin(wrong)
