"""The nets against plain references, and the surgery on them: silencing units for good, drawing a layer anew."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from harness.contracts import Arrays, Dataset, Split
from harness.errors import OptionError
from harness.losses import Entanglement
from harness.nets import Cnn, Mlp, Net, fresh_like, silence
from harness.registry import load_registry
from harness.train import Engine, clone

SHAPE = (1, 12, 8)
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Sixes(Dataset):
    """Six classes of images that are no square; nothing is loaded here."""

    name: ClassVar[str] = "sixes"
    input_shape: ClassVar[tuple[int, ...]] = SHAPE
    classes: ClassVar[tuple[str, ...]] = tuple("abcdef")
    available: ClassVar[int] = 2000

    target: int = 2

    def load(self, root: Path) -> Arrays:
        raise NotImplementedError


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make(kind: str, dropout: float = 0.0) -> Net:
    """A net for ``SHAPE`` and six classes, its weights the same at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        net = Cnn(SHAPE, 6, width=8, dropout=dropout) if kind == "cnn" else Mlp(SHAPE, 6, width=20)
    return net.eval()


def images(count: int = 32, seed: int = 1) -> Tensor:
    return torch.randint(0, 256, (count, *SHAPE), generator=seeded(seed)).byte()


def reference(net: Net, x: Tensor) -> Tensor:
    """The same layers, one after the other, each activated before it is pooled."""
    if isinstance(net, Cnn):
        layers = [net.conv1, nn.ReLU(), nn.MaxPool2d(2), net.conv2, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
        return nn.Sequential(*layers, net.dense, nn.ReLU(), net.logits)(x.float() / 255)
    assert isinstance(net, Mlp)
    return nn.Sequential(nn.Flatten(), net.dense1, nn.ReLU(), net.dense2, nn.ReLU(), net.logits)(x.float() / 255)


kinds = pytest.mark.parametrize("kind", ["cnn", "mlp"])
layers = pytest.mark.parametrize(
    ("kind", "layer"), [("cnn", "conv1"), ("cnn", "conv2"), ("cnn", "dense"), ("mlp", "dense1"), ("mlp", "dense2")]
)


# --- forward ----------------------------------------------------------------------------------------------------------


@kinds
def test_logits_and_gradients_are_those_of_the_plain_layers(kind: str) -> None:
    net, x = make(kind), images()
    torch.testing.assert_close(net(x), reference(net, x), rtol=1e-5, atol=1e-6)
    ours = torch.autograd.grad(net(x).square().sum(), list(net.parameters()))
    theirs = torch.autograd.grad(reference(net, x).square().sum(), list(net.parameters()))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@kinds
def test_uint8_and_float_inputs_agree_and_stay_as_they_are(kind: str) -> None:
    net, x = make(kind), images()
    floats, before = x.float() / 255, x.clone()
    kept = floats.clone()
    assert torch.equal(net(x), net(floats))
    assert torch.equal(x, before) and torch.equal(floats, kept)


@kinds
def test_the_memory_layout_of_the_input_does_not_matter(kind: str) -> None:
    net, x = make(kind), images()
    torch.testing.assert_close(net(x.contiguous(memory_format=torch.channels_last)), net(x))
    torch.testing.assert_close(net(x[::2]), net(x)[::2])


@kinds
def test_activations_are_the_outputs_of_the_named_layers_before_their_relu(kind: str) -> None:
    net, x = make(kind), images()
    outputs: dict[str, Tensor] = {}
    for name in net.hidden:
        net.get_submodule(name).register_forward_hook(
            lambda module, inputs, output, name=name: outputs.update({name: output.clone()})
        )
    logits, activations = net.activations(x)
    assert tuple(activations) == net.hidden
    torch.testing.assert_close(activations, outputs, rtol=0, atol=0)
    assert all(bool((a < 0).any()) and bool((a > 0).any()) for a in activations.values())
    assert torch.equal(logits, net(x)) and logits.shape == (32, 6)
    last = net.get_submodule(net.last)
    torch.testing.assert_close(logits, last(activations[net.hidden[-1]].relu()))


def test_shapes_before_the_relu() -> None:
    small = {name: tuple(a.shape) for name, a in Cnn((1, 28, 28), 10).activations(torch.zeros(2, 1, 28, 28))[1].items()}
    assert small == {"conv1": (2, 32, 28, 28), "conv2": (2, 64, 14, 14), "dense": (2, 128)}
    odd = Cnn((3, 9, 7), 4, width=2).activations(torch.zeros(5, 3, 9, 7))
    assert odd[0].shape == (5, 4) and odd[1]["conv2"].shape == (5, 4, 4, 3)
    flat = Mlp((20, 3), 4, width=6).activations(torch.zeros(5, 20, 3))
    assert [tuple(a.shape) for a in (flat[0], *flat[1].values())] == [(5, 4), (5, 6), (5, 6)]


def test_the_cnn_is_the_papers() -> None:
    paper = nn.Sequential(
        *(nn.Conv2d(1, 32, 5, padding="same"), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3, padding="same"), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(64 * 7 * 7, 128), nn.ReLU(), nn.Linear(128, 10)),
    )
    ours, theirs = ([tuple(p.shape) for p in net.parameters()] for net in (Cnn((1, 28, 28), 10), paper))
    assert ours == theirs
    assert sum(p.numel() for p in Cnn((1, 28, 28), 10).parameters()) == 832 + 18_496 + 401_536 + 1_290


def test_dropout_is_active_in_training_only() -> None:
    net, plain, x = make("cnn", dropout=0.5), make("cnn"), images()
    assert torch.equal(net(x), plain(x))
    net.train(), plain.train()
    with torch.random.fork_rng(devices=[]):
        assert not torch.equal(net(x), net(x))
    assert torch.equal(plain(x), plain(x))


def test_architectures_check_their_options_and_say_what_they_cannot_take() -> None:
    registry = load_registry()
    for text in ("cnn[width=0]", "cnn[dropout=1]", "cnn[dropout=-0.1]", "mlp[width=0]"):
        with pytest.raises(OptionError):
            registry.use("architecture", text)
    cnn, mlp = (registry.use("architecture", name).plugin for name in ("cnn", "mlp"))
    assert cnn.skip(Sixes()) is None and mlp.skip(Sixes()) is None
    for shape in ((1, 3, 8), (40,), (20, 80)):
        task = type("Other", (Sixes,), {"input_shape": shape})()
        assert str(shape) in cnn.skip(task) and mlp.skip(task) is None
    assert cnn.build(SHAPE, 6)(images()).shape == mlp.build(SHAPE, 6)(images()).shape == (32, 6)


# --- silence ----------------------------------------------------------------------------------------------------------


def half_of(net: Net, layer: str) -> Tensor:
    """A mask of every other unit of ``layer``."""
    return torch.arange(net.get_submodule(layer).weight.shape[0]) % 2 == 0


@layers
def test_silence_is_masking_the_output_of_the_unit(kind: str, layer: str) -> None:
    silenced, masked, x = make(kind), make(kind), images()
    units = half_of(silenced, layer)
    silence(silenced, layer, units)

    def mask(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        return output.clone().index_fill(1, units.nonzero()[:, 0], 0.0)

    before = masked(x)
    masked.get_submodule(layer).register_forward_hook(mask)
    torch.testing.assert_close(silenced(x), masked(x), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(silenced(x), before)
    assert not bool(silenced.activations(x)[1][layer][:, units].any())


@layers
def test_silence_touches_no_other_weight(kind: str, layer: str) -> None:
    net = make(kind)
    before = clone(net).state_dict()
    units = half_of(net, layer)
    silence(net, layer, units)
    for name, tensor in net.state_dict().items():
        owner = name.rpartition(".")[0]
        kept = ~units if owner == layer else slice(None)
        assert torch.equal(tensor[kept], before[name][kept]), name
        assert owner != layer or not bool(tensor[units].any())
    silence(net, layer, torch.zeros_like(units))
    assert torch.equal(net.get_submodule(layer).weight[~units], before[f"{layer}.weight"][~units])


@layers
@pytest.mark.parametrize("entangle", [False, True])
def test_silenced_units_survive_training(kind: str, layer: str, entangle: bool) -> None:
    task = Sixes(batch_size=32, learning_rate=0.01)
    engine = Engine(CPU, seeded(), task, load_registry().use("architecture", kind).plugin, kind)
    net = make(kind)
    units = half_of(net, layer)
    silence(net, layer, units)
    before = clone(net).get_submodule(layer).weight
    entangled = Entanglement(len(net.hidden), 0.2, "cosine", 32, CPU)

    def loss(net: Net, x: Tensor, y: Tensor) -> Tensor:
        logits, activations = net.activations(x)
        drawn = nn.functional.cross_entropy(logits, y)
        return drawn - entangled([a.relu() for a in activations.values()]) if entangle else drawn

    split = Split(images(128), torch.arange(128) % 6)
    engine.train(net, [engine.stream(split, loss)], 3)
    after = net.get_submodule(layer)
    assert not bool(after.weight[units].any()) and not bool(after.bias[units].any())
    assert not torch.equal(after.weight[~units], before[~units])


# --- fresh_like -------------------------------------------------------------------------------------------------------


@layers
def test_fresh_like_draws_from_its_generator_alone(kind: str, layer: str) -> None:
    net = make(kind)
    kept, state = clone(net).state_dict(), torch.get_rng_state()
    first, again, other = (fresh_like(net, layer, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in net.state_dict().items())
    old = net.get_submodule(layer)
    assert type(first) is type(old) and first.weight.shape == old.weight.shape
    assert torch.equal(first.weight, again.weight) and torch.equal(first.bias, again.bias)
    assert not torch.equal(first.weight, other.weight) and not torch.equal(first.weight, old.weight)
    # As the layer's own class draws them: uniform within 1 / sqrt(inputs).
    limit = old.weight[0].numel() ** -0.5
    assert 0.5 * limit < float(first.weight.detach().abs().max()) <= limit


def test_fresh_like_ignores_and_moves_no_global_state() -> None:
    net, drawn = make("mlp"), []
    with torch.random.fork_rng(devices=[]):
        for seed in (1, 2):
            torch.default_generator.manual_seed(seed)
            drawn.append(fresh_like(net, "logits", seeded(7)).weight)
    assert torch.equal(*drawn)
    generator = seeded(7)
    pair = [fresh_like(net, "logits", generator).weight for _ in range(2)]
    assert torch.equal(pair[0], drawn[0]) and not torch.equal(*pair)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_fresh_like_draws_the_same_on_a_gpu() -> None:
    net = make("mlp")
    there = fresh_like(clone(net).cuda(), "logits", seeded(7))
    state = torch.cuda.get_rng_state()
    assert torch.equal(there.weight.cpu(), fresh_like(net, "logits", seeded(7)).weight) and there.weight.is_cuda
    assert torch.equal(torch.cuda.get_rng_state(), state)
