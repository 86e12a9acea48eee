"""The soft nearest neighbour loss against Eq. 1 as it is printed, and every numeric trap that it has."""

from __future__ import annotations

import math
from functools import cache, partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from harness.contracts import Key, Probe, Split, Stream, Task
from harness.engine.train import Engine
from harness.losses import Distance, Entanglement, class_snnl, cross_entropy, distances, snnl, summed_cross_entropy
from harness.planning.registry import load_registry

DISTANCES: list[Distance] = ["cosine", "euclidean"]
CPU = torch.device("cpu")

law = settings(deadline=None, max_examples=40, database=None, derandomize=True)


def eq1(x: Tensor, groups: list[int], temperature: Tensor | float, distance: Distance) -> Tensor:
    """Eq. 1, one term at a time, in float64; a row without a partner has no term."""
    rows = list(x.double().flatten(1))
    terms = []
    for i, a in enumerate(rows):
        others = [j for j in range(len(rows)) if j != i]
        similar = {j: torch.exp(-_distance(a, rows[j], distance) / temperature) for j in others}
        near = [similar[j] for j in others if groups[j] == groups[i]]
        if near:
            terms.append(-torch.log(sum(near) / sum(similar.values())))
    return sum(terms) / len(terms)


def _distance(a: Tensor, b: Tensor, distance: Distance) -> Tensor:
    if distance == "euclidean":
        return (a - b).square().sum()
    return 1 - (a * b).sum() / (a.square().sum().sqrt() * b.square().sum().sqrt())


def batch(size: int = 10, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Activations ``[size, 3, 2]``, some of them zero as after a ReLU, and two groups of unequal size."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn((size, 3, 2), generator=generator, dtype=dtype).clamp_min(-0.5)
    return x, torch.arange(size) % 3 == 0


def mixed(count: int) -> float:
    """The SNNL of ``count`` rows, half of each group, that are all alike."""
    return -math.log((count / 2 - 1) / (count - 1))


# --- Eq. 1 ------------------------------------------------------------------------------------------------------------


@law
@given(st.integers(0, 10**6), st.sampled_from([0.0, 1.0, 30.0]))
def test_at_the_released_temperature_no_activations_move_the_snnl(seed: int, apart: float) -> None:
    # docs/reproduce.md and README say so: after a ReLU cosine distances are at most 1.
    generator = torch.Generator().manual_seed(seed)
    x, groups = torch.rand((64, 5), generator=generator, dtype=torch.float64), torch.arange(64) < 32
    x[groups, 0] += apart
    x[~groups, 1] += apart
    assert float(snnl(x, groups, 100.0)) == pytest.approx(mixed(64), abs=0.0051)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("temperature", [0.2, 1.0, 100.0])
def test_value_and_gradients_are_those_of_eq_1(distance: Distance, temperature: float) -> None:
    x, groups = batch()
    ours, theirs = x.clone().requires_grad_(True), x.clone().requires_grad_(True)
    t_ours, t_theirs = (torch.tensor(temperature, dtype=torch.float64, requires_grad=True) for _ in range(2))
    value, printed = snnl(ours, groups, t_ours, distance), eq1(theirs, groups.tolist(), t_theirs, distance)
    value.backward()
    printed.backward()
    torch.testing.assert_close(value, printed, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(t_ours.grad, t_theirs.grad, rtol=1e-6, atol=1e-9)
    assert ours.grad is not None and ours.grad.abs().max() > 1e-4


@pytest.mark.parametrize("distance", DISTANCES)
def test_float32_is_close_to_eq_1_in_float64(distance: Distance) -> None:
    x, groups = batch(size=24, seed=1, dtype=torch.float32)
    printed = eq1(x, groups.tolist(), 0.5, distance)
    torch.testing.assert_close(snnl(x, groups, 0.5, distance).double(), printed, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("distance", DISTANCES)
def test_gradcheck(distance: Distance) -> None:
    x, groups = batch(size=8, seed=2)
    temperature = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, t: snnl(x, groups, t, distance), (x.requires_grad_(True), temperature))


def test_more_than_two_groups() -> None:
    x, _ = batch(size=12)
    groups = torch.arange(12) % 4
    torch.testing.assert_close(snnl(x, groups, 0.5), eq1(x, groups.tolist(), 0.5, "cosine"), rtol=1e-6, atol=1e-8)


def test_euclidean_distance_is_squared_and_cosine_is_one_minus_similarity() -> None:
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0], [6.0, 8.0], [-4.0, 3.0]])
    assert distances(x, "euclidean")[0].tolist() == [0, 25, 100, 25]
    torch.testing.assert_close(distances(x, "cosine")[1, 1:], torch.tensor([0.0, 0.0, 1.0]), rtol=0, atol=1e-6)


# --- traps ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.1, 0.01])
def test_far_points_underflow_to_a_finite_loss_with_a_gradient(temperature: float) -> None:
    # By hand: row 0 has its partner nearest (0), row 1 has its partner and a stranger at 100 (log 2), row 2 has a
    # stranger at 100 and its partner at 150 (the difference over T), row 3 has its partner nearest (0).
    x = torch.tensor([[0.0], [100.0], [200.0], [350.0]], requires_grad=True)
    groups = torch.tensor([0, 0, 1, 1])
    loss = snnl(x, groups, temperature, "euclidean")
    loss.backward()
    assert float(loss.detach()) == pytest.approx((math.log(2) + (150**2 - 100**2) / temperature) / 4, rel=1e-5)
    assert x.grad is not None and bool(torch.isfinite(x.grad).all()) and float(x.grad.abs().max()) > 1
    assert not bool(torch.isfinite(eq1(x.detach(), groups.tolist(), temperature, "euclidean")))


def test_the_temperature_has_a_gradient_at_underflow() -> None:
    x = torch.tensor([[0.0], [100.0], [200.0], [350.0]])
    temperature = torch.tensor(0.5, requires_grad=True)
    snnl(x, torch.tensor([0, 0, 1, 1]), temperature, "euclidean").backward()
    # d/dT of c/T is -c/T^2, and c is 12500/4.
    assert float(temperature.grad) == pytest.approx(-12_500 / 4 / 0.25, rel=1e-3)


@pytest.mark.parametrize("norm", [1e-3, 1e-6, 1e-9, 1e-12])
@pytest.mark.parametrize("temperature", [0.2, 0.01])
def test_rows_near_zero_have_bounded_gradients(norm: float, temperature: float) -> None:
    x, groups = batch(size=8, dtype=torch.float32)
    x[0] *= norm / x[0].norm()
    x.requires_grad_(True)
    loss = snnl(x, groups, temperature)
    loss.backward()
    # A unit row moves by at most 1e4 times what the row does, and no row counts more than four times over.
    assert x.grad is not None and float(x.grad.abs().max()) <= 4e4 / temperature


def test_a_zero_row_is_finite_at_a_low_temperature() -> None:
    x, groups = batch(dtype=torch.float32)
    x[1] = 0
    x.requires_grad_(True)
    loss = snnl(x, groups, 0.01)
    loss.backward()
    assert bool(torch.isfinite(loss)) and x.grad is not None and bool(torch.isfinite(x.grad).all())


@pytest.mark.parametrize("distance", DISTANCES)
def test_all_zero_rows_are_perfectly_mixed(distance: Distance) -> None:
    x = torch.zeros((8, 5), requires_grad=True)
    loss = snnl(x, torch.arange(8) < 4, 0.2, distance)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(mixed(8), rel=1e-6)
    assert x.grad is not None and not bool(x.grad.any())


@pytest.mark.parametrize("distance", DISTANCES)
def test_a_row_without_a_partner_is_left_out_but_stays_a_neighbour(distance: Distance) -> None:
    x, _ = batch(size=7)
    groups = torch.tensor([0, 0, 0, 1, 1, 1, 2])
    loss = snnl(x.requires_grad_(True), groups, 0.3, distance)
    torch.testing.assert_close(loss, eq1(x.detach(), groups.tolist(), 0.3, distance), rtol=1e-6, atol=1e-8)
    without = snnl(x.detach()[:6], groups[:6], 0.3, distance)
    assert abs(float(loss.detach() - without)) > 1e-3
    loss.backward()
    assert x.grad is not None and bool(torch.isfinite(x.grad).all()) and bool(x.grad[6].any())


@pytest.mark.parametrize("groups", [[0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 2, 3], [0]])
def test_nothing_to_entangle_is_an_error(groups: list[int]) -> None:
    x, _ = batch(size=len(groups))
    with pytest.raises(ValueError, match="two groups"):
        snnl(x, torch.tensor(groups), 0.2)


@pytest.mark.parametrize(("size", "expected"), [(64, 0.709), (128, 0.701), (512, 0.695)])
def test_identical_rows_reach_the_bound(size: int, expected: float) -> None:
    row = torch.randn(6, generator=torch.Generator().manual_seed(3))
    for distance in DISTANCES:
        reached = float(snnl(row.expand(size, 6), torch.arange(size) < size // 2, 0.2, distance))
        assert reached == pytest.approx(mixed(size), rel=1e-4) == pytest.approx(expected, abs=6e-4)
    assert Entanglement(1, 0.2, "cosine", size, CPU).bound == pytest.approx(mixed(size))


def test_rows_paired_across_the_groups_lie_above_perfectly_mixed() -> None:
    # Each row has a stranger at its own place, and its only partner far away: at T = 0.2, 1 / T and a little.
    x = torch.eye(2).repeat(2, 1)
    entangled = Entanglement(1, 0.2, "cosine", 4, CPU)
    assert float(entangled([x]).detach()) == pytest.approx(math.log(math.e**5 + 2), rel=1e-4)
    assert math.log(math.e**5 + 2) > 4 * entangled.bound


def test_separated_groups_are_far_below_the_bound() -> None:
    x = torch.cat([torch.randn(8, 4) * 0.1 + torch.eye(4)[i] * 5 for i in (0, 1)])
    assert float(snnl(x, torch.arange(16) < 8, 0.2)) < 0.1 * mixed(16)


# --- laws -------------------------------------------------------------------------------------------------------------


@law
@given(seed=st.integers(0, 10_000), size=st.integers(4, 12), distance=st.sampled_from(DISTANCES))
def test_the_order_of_rows_does_not_matter(seed: int, size: int, distance: Distance) -> None:
    x, groups = batch(size, seed)
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(
        snnl(x[order], groups[order], 0.3, distance), snnl(x, groups, 0.3, distance), rtol=1e-9, atol=1e-10
    )


@law
@given(seed=st.integers(0, 10_000), scales=st.lists(st.floats(0.5, 1000), min_size=8, max_size=8))
def test_cosine_ignores_the_length_of_each_row(seed: int, scales: list[float]) -> None:
    x, groups = batch(8, seed)
    scaled = x * torch.tensor(scales, dtype=x.dtype)[:, None, None]
    torch.testing.assert_close(snnl(scaled, groups, 0.3), snnl(x, groups, 0.3), rtol=1e-5, atol=1e-6)


@law
@given(seed=st.integers(0, 10_000), scale=st.floats(0.1, 30), shift=st.floats(-5, 5))
def test_euclidean_ignores_shifts_and_trades_scale_for_temperature(seed: int, scale: float, shift: float) -> None:
    x, groups = batch(8, seed)
    moved = snnl(scale * x + shift, groups, 0.5 * scale**2, "euclidean")
    torch.testing.assert_close(moved, snnl(x, groups, 0.5, "euclidean"), rtol=1e-6, atol=1e-8)


@law
@given(seed=st.integers(0, 10_000), scale=st.floats(0, 1e6), temperature=st.floats(1e-3, 1e6))
@pytest.mark.parametrize("distance", DISTANCES)
def test_it_is_finite_and_never_negative(seed: int, scale: float, temperature: float, distance: Distance) -> None:
    x, groups = batch(6, seed, torch.float32)
    x = (x * scale).requires_grad_(True)
    loss = snnl(x, groups, temperature, distance)
    loss.backward()
    assert bool(torch.isfinite(loss)) and float(loss.detach()) >= -1e-5
    assert x.grad is not None and bool(torch.isfinite(x.grad).all())


# --- entanglement of several layers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("distance", DISTANCES)
def test_entanglement_is_the_sum_of_the_layers(distance: Distance) -> None:
    generator = torch.Generator().manual_seed(4)
    layers = [torch.randn((12, *shape), generator=generator) for shape in ((3, 4, 4), (7,), (2, 5))]
    entangled = Entanglement(3, 0.4, distance, 12, CPU)
    with torch.no_grad():
        entangled.log_temperature += torch.tensor([0.0, 0.5, -1.0])
    groups = torch.arange(12) < 6
    temperatures = entangled.log_temperature.detach().exp()
    assert float(temperatures[0]) == pytest.approx(0.4)
    alone = sum(snnl(x, groups, t, distance) for x, t in zip(layers, temperatures, strict=True))
    torch.testing.assert_close(entangled(layers).detach(), alone)


@pytest.mark.parametrize("spread", [0.3, 1.0, 30.0])
def test_a_floor_is_the_released_codes_and_silences_far_points(spread: float) -> None:
    x = (spread * torch.randn((12, 5), generator=torch.Generator().manual_seed(1))).requires_grad_(True)
    entangled = Entanglement(1, 1.5625, "euclidean", 12, CPU, floor=1e-5)
    value = entangled([x])
    exact = x.detach().double().requires_grad_(True)
    squared = (exact[:, None] - exact[None, :]).square().sum(2)
    near = ((-squared / 1.5625).exp() - torch.eye(12)).clamp(0, 1)
    same = (torch.arange(12) < 6)[:, None] == (torch.arange(12) < 6)[None, :]
    shares = near / (1e-5 + near.sum(1, keepdim=True)) * same
    written = -(1e-5 + shares.sum(1)).log().mean()
    torch.testing.assert_close(value.detach().double(), written.detach(), rtol=1e-4, atol=1e-5)
    (ours,) = torch.autograd.grad(value, x)
    (theirs,) = torch.autograd.grad(written, exact)
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-2, atol=1e-5)
    assert (ours.abs().max() < 1e-6) == (spread == 30), "all points are far"
    (always,) = torch.autograd.grad(Entanglement(1, 1.5625, "euclidean", 12, CPU)([x]), x)
    assert always.abs().max() > 0.01


def test_each_layer_has_a_temperature_of_its_own() -> None:
    x, _ = batch(dtype=torch.float32)
    entangled = Entanglement(2, 0.2, "cosine", 10, CPU)
    entangled([x, torch.zeros_like(x)]).backward()
    gradient = entangled.log_temperature.grad
    # Identical rows are as near at any temperature.
    assert gradient is not None and abs(float(gradient[0])) > 0.1 and abs(float(gradient[1])) < 1e-5


@pytest.mark.parametrize("size", [0, 2, 7])
def test_entanglement_refuses_a_batch_that_has_no_halves_or_no_pairs(size: int) -> None:
    with pytest.raises(ValueError, match="even size of at least 4"):
        Entanglement(1, 0.2, "cosine", size, CPU)


def test_entanglement_refuses_another_number_of_layers() -> None:
    x, _ = batch()
    with pytest.raises(ValueError, match="longer|shorter"):
        Entanglement(2, 0.2, "cosine", 10, CPU)([x])


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("rate", [1.0, 1e3, 1e12])
def test_a_learned_temperature_stays_positive_whatever_its_steps(maximize: bool, rate: float) -> None:
    x, _ = batch(dtype=torch.float32)
    groups = torch.arange(10) < 5
    entangled = Entanglement(1, 0.2, "cosine", 10, CPU)
    optimizer = torch.optim.SGD([entangled.log_temperature], lr=rate, maximize=maximize)
    for _ in range(5):
        optimizer.zero_grad()
        loss = entangled([x])
        loss.backward()
        optimizer.step()
        assert bool(torch.isfinite(loss))
    temperature = entangled.log_temperature.detach().double().exp().clamp(1e-3, 1e6)
    assert rate == 1 or float(temperature) == (1e-3 if maximize else 1e6)
    assert float(entangled([x]).detach()) == pytest.approx(float(snnl(x, groups, float(temperature))), rel=1e-4)


# --- reduced precision ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("distance", DISTANCES)
def test_the_snnl_is_float32s_whatever_autocast_says(distance: Distance) -> None:
    x, groups = torch.randn(64, 40, generator=torch.Generator().manual_seed(0)).bfloat16(), torch.arange(64) < 32
    x.requires_grad_(True)
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        value = snnl(x, groups, 0.2, distance)
    value.backward()
    plain = x.detach().float().requires_grad_(True)
    expected = snnl(plain, groups, 0.2, distance)
    expected.backward()
    assert value.dtype == torch.float32 and torch.equal(value, expected)
    assert x.grad is not None and plain.grad is not None
    torch.testing.assert_close(x.grad.float(), plain.grad, rtol=0.01, atol=1e-5)


# --- the weight of a scheme -------------------------------------------------------------------------------------------


class Recorder(Engine):
    """Lends a plugin what the engine lends, and keeps what it wanted to train instead of training it."""

    streams: list[Stream]

    def train(self, net, streams, epochs, **options):  # type: ignore[no-untyped-def]
        self.streams = list(streams)
        return net


@cache
def _registry():  # type: ignore[no-untyped-def]
    return load_registry()


def watermark_gradient(weight: float) -> Tensor:
    """The gradient of EWE's watermark loss at one batch by all of a net's weights, as one vector."""
    dataset = _registry().component("dataset", "digits[batch_size=16]").plugin
    architecture = _registry().component("architecture", "cnn[width=4]")
    generator = torch.Generator().manual_seed(5)
    images = torch.randint(0, 256, (32, 1, 8, 8), generator=generator).byte()
    train = Split(images, torch.full((32,), dataset.target))
    trigger = Probe(images.flip(3), torch.full((32,), dataset.target))
    engine = Recorder(CPU, generator, dataset, architecture.plugin, architecture.text)
    scheme = _registry().component("defense", f"ewe[weight={weight},reduction=mean,phases=one]").plugin
    net = scheme.embed(Task(dataset, train, train, None, Key({"trigger": trigger})), engine).net
    x, y = torch.cat([trigger.x[:8], train.x[:8]]), torch.full((16,), dataset.target)
    value = (engine.streams[1].loss or cross_entropy)(net, x, y)
    (value if isinstance(value, Tensor) else value["loss"]).backward()
    return torch.cat([p.grad.flatten() for p in net.parameters()])


def test_the_weight_changes_the_gradient_of_the_watermark_loss() -> None:
    # The audio code released with v1 of the paper passed a single group, so that its weight changed nothing.
    plain, one, two = map(watermark_gradient, (0, 1, 2))
    assert float((one - plain).norm()) > 1e-3 * float(plain.norm()) > 0
    torch.testing.assert_close(two - one, one - plain, rtol=1e-3, atol=1e-6)


# --- cross-entropies --------------------------------------------------------------------------------------------------


def test_cross_entropies_are_the_mean_and_the_sum() -> None:
    generator = torch.Generator().manual_seed(6)
    logits, y = torch.randn((5, 3), generator=generator), torch.tensor([0, 1, 2, 0, 1])
    net = partial(lambda answer, x: answer, logits)
    each = -logits.log_softmax(1)[torch.arange(5), y]
    torch.testing.assert_close(cross_entropy(net, logits, y), each.mean())
    torch.testing.assert_close(summed_cross_entropy(net, logits, y), each.sum())
    torch.testing.assert_close(cross_entropy(net, logits, F.one_hot(y, 3).float()), each.mean())


# --- classes as groups ------------------------------------------------------------------------------------------------


@law
@given(st.lists(st.integers(0, 3), min_size=2, max_size=9), st.sampled_from(DISTANCES))
def test_the_snnl_of_classes_is_eq_1_with_the_classes_as_groups(labels: list[int], distance: Distance) -> None:
    x, _ = batch(len(labels), dtype=torch.float32)
    loss = class_snnl(x, torch.tensor(labels), 0.7, distance)
    pairs = len(set(labels)) < len(labels)
    expected = eq1(x, labels, 0.7, distance) if pairs else 0.0
    assert float(loss) == pytest.approx(float(expected), rel=1e-4, abs=1e-5)


def test_the_snnl_of_classes_without_pairs_has_a_zero_gradient() -> None:
    x = torch.randn(3, 4, requires_grad=True)
    class_snnl(x, torch.tensor([0, 1, 2]), 0.2).backward()
    assert x.grad is not None and not bool(x.grad.any())
