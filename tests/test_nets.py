"""The nets against plain references, and the surgery on them: silencing units for good, drawing a layer anew."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from harness.contracts import Arrays, Dataset, Split
from harness.engine.train import Engine, clone, on_device
from harness.errors import OptionError
from harness.losses import Entanglement
from harness.nets import Cnn, LeNet, Lstm, Mlp, Net, ResNet18, fresh_like
from harness.planning.graph import make_id
from harness.planning.registry import load_registry
from harness.storage.codec import pack_model, unpack
from harness.storage.store import Store

SHAPE = (1, 12, 8)
CPU = torch.device("cpu")
REGISTRY = load_registry()
SMALL = {"resnet9": "resnet9[width=8]", "vgg": "vgg[width=4]", "wrn": "wrn[depth=10,width=1]"}
"""Architectures whose nets live in their plugins' files."""


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
        net = {
            "cnn": lambda: Cnn(SHAPE, 6, width=8, dropout=dropout),
            "mlp": lambda: Mlp(SHAPE, 6, width=20),
            "lenet": lambda: LeNet(SHAPE, 6),
            "lstm": lambda: Lstm(SHAPE, 6, width=20),
            "resnet18": lambda: ResNet18(SHAPE, 6, width=4),
        }.get(kind, lambda: REGISTRY.component("architecture", SMALL[kind]).plugin.build(SHAPE, 6))()
        for part in net.modules():
            if isinstance(part, nn.BatchNorm2d):  # as if it had been trained
                part.running_mean.normal_(0, 0.1), part.running_var.uniform_(0.5, 2)
                part.weight.data.uniform_(0.5, 2), part.bias.data.normal_(0, 0.1)
    return net.eval()


def images(count: int = 32, seed: int = 1) -> Tensor:
    return torch.randint(0, 256, (count, *SHAPE), generator=seeded(seed)).byte()


def reference(net: Net, x: Tensor) -> Tensor:
    """The same layers, one after the other, each activated before it is pooled."""
    x, pool, relu = x.float() / 255, nn.MaxPool2d(2), nn.ReLU()
    if isinstance(net, Lstm):
        return net.logits(net.dense(lstm_states(net, x)[-1]).relu())
    if isinstance(net, Cnn):
        layers = [net.conv1, relu, pool, net.conv2, relu, pool, nn.Flatten(), net.dense, relu]
    elif isinstance(net, LeNet):
        layers = [net.conv1, relu, pool, net.conv2, relu, pool, nn.Flatten(), net.dense1, relu, net.dense2, relu]
    elif isinstance(net, ResNet18):
        layers = [net.stem, relu, *(Block(net, k) for k in range(1, 9)), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    elif isinstance(net, Mlp):
        layers = [nn.Flatten(), net.dense1, relu, net.dense2, relu]
    else:
        return plain(net, x)
    return nn.Sequential(*layers, net.logits)(x)


def plain(net: Net, x: Tensor) -> Tensor:
    """The nets of plugins' files, from their own modules, as their papers draw them."""
    parts = dict(net.named_children())
    if "stage1_pooled" in parts:
        x = parts["stem"](x).relu()
        for k in (1, 2, 3):
            convolution, pool, norm = parts[f"stage{k}_pooled"]
            x = norm(pool(convolution(x))).relu()
            x = x + parts[f"stage{k}_added"](x).relu()
    elif "conv1_1" in parts:
        for name in net.hidden:
            x = parts[name](x).relu()
    else:
        x = parts["stem"](x).relu()
        for k in (1, 2, 3):
            active = x if k == 1 else parts[f"block{k - 1}_norm"](x).relu()
            x = parts[f"block{k}_shortcut"](active) if k > 1 else active
            x = x + parts[f"block{k}_outer"](parts[f"block{k}_inner"](active).relu())
        return net.logits(parts["block3_norm"](x).relu().mean((2, 3)))
    return parts["logits"](x)


class Block(nn.Module):
    """A block of a residual net."""

    def __init__(self, net: ResNet18, k: int) -> None:
        super().__init__()
        parts = {name.partition("_")[2]: part for name, part in net.named_children() if name.startswith(f"block{k}_")}
        self.path = nn.Sequential(parts["inner"], nn.ReLU(), parts["outer"])
        self.shortcut = parts.get("shortcut", nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        return (self.path(x) + self.shortcut(x)).relu()


def lstm_states(net: Lstm, x: Tensor, mask: Tensor | None = None) -> list[Tensor]:
    """The state ``[n, width]`` at each step, by the LSTM's equations, over the rows of ``[n, 1, time, cells]``.

    ``mask`` ``[width]`` multiplies it, within the recurrence too.
    """
    w = dict(net.lstm.named_parameters())
    h = c = torch.zeros(len(x), net.lstm.hidden_size)
    states = []
    for row in x[:, 0].unbind(1):
        gates = row @ w["weight_ih_l0"].T + w["bias_ih_l0"] + h @ w["weight_hh_l0"].T + w["bias_hh_l0"]
        i, f, g, o = gates.chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh() * (1 if mask is None else mask)
        states.append(h)
    return states


KINDS = ("cnn", "mlp", "lenet", "lstm", "resnet18", "resnet9", "vgg", "wrn")
kinds = pytest.mark.parametrize("kind", KINDS)
layers = pytest.mark.parametrize(  # those that a ReLU follows
    ("kind", "layer"),
    [
        *(("cnn", layer) for layer in ("conv1", "conv2", "dense")),
        *(("mlp", layer) for layer in ("dense1", "dense2")),
        *(("lenet", layer) for layer in ("conv1", "dense2")),
        ("lstm", "dense"),
        *(("resnet18", layer) for layer in ("stem", "block1_inner", "block3_inner", "block8_inner")),
        *(("resnet9", layer) for layer in ("stem", "stage2_added", "stage3_pooled")),
        *(("vgg", layer) for layer in ("conv1_1", "conv5_2")),
        *(("wrn", layer) for layer in ("stem", "block1_inner", "block3_inner")),
    ],
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


@pytest.mark.parametrize("width", [1, 4, 7, 8])
def test_a_narrow_residual_net_trains(width: int) -> None:
    """Its strided 1x1 convolutions of under 8 channels, channels last, ended the process on CPUs with AVX2 alone."""
    net = on_device(ResNet18(SHAPE, 6, width=width), CPU)
    for _ in range(5):
        net(images()).sum().backward()
    assert all(bool(each.grad.isfinite().all()) for each in net.parameters() if each.grad is not None)


@kinds
def test_activations_are_the_outputs_of_the_named_layers_before_their_relu(kind: str) -> None:
    net, x = make(kind), images()
    outputs: dict[str, Tensor] = {}

    def keep(name: str, output: Tensor | tuple[Tensor, ...]) -> None:
        outputs[name] = (output if isinstance(output, Tensor) else output[0][:, -1]).clone()

    for name in net.hidden:
        net.get_submodule(name).register_forward_hook(lambda module, inputs, output, name=name: keep(name, output))
    logits, activations = net.activations(x)
    assert tuple(name for name in activations if name in net.taps) == net.taps
    assert set(activations) == {*net.taps, *net.hidden}
    torch.testing.assert_close({name: activations[name] for name in net.hidden}, outputs, rtol=0, atol=0)
    pooled = ("pool", "logits.input")
    assert all(bool((a > 0).any()) and (name in pooled or bool((a < 0).any())) for name, a in activations.items())
    assert torch.equal(logits, net(x)) and logits.shape == (32, 6)
    *_, last = net.get_submodule(net.last).modules()
    torch.testing.assert_close(logits, last(activations[net.taps[-1]].relu()))


def test_the_last_three_taps_of_a_residual_net_are_its_last_two_sums_and_the_pool() -> None:
    """As in the released EWE code; the layers within a block are for pruning alone."""
    assert make("resnet18").taps[-3:] == ("block7", "block8", "pool")
    assert make("wrn").taps[-3:] == ("block2", "block3", "pool")


def shapes(net: Net, *shape: int) -> dict[str, tuple[int, ...]]:
    with torch.no_grad():
        return {name: tuple(a.shape) for name, a in net.eval().activations(torch.zeros(shape))[1].items()}


def test_shapes_before_the_relu() -> None:
    small = shapes(Cnn((1, 28, 28), 10), 2, 1, 28, 28)
    assert small == {"conv1": (2, 32, 28, 28), "conv2": (2, 64, 14, 14), "dense": (2, 128)}
    odd = Cnn((3, 9, 7), 4, width=2).activations(torch.zeros(5, 3, 9, 7))
    assert odd[0].shape == (5, 4) and odd[1]["conv2"].shape == (5, 4, 4, 3)
    flat = Mlp((20, 3), 4, width=6).activations(torch.zeros(5, 20, 3))
    assert [tuple(a.shape) for a in (flat[0], *flat[1].values())] == [(5, 4), (5, 6), (5, 6)]
    lenet = shapes(LeNet((3, 8, 8), 4), 2, 3, 8, 8)
    assert lenet == {"conv1": (2, 6, 8, 8), "conv2": (2, 16, 4, 4), "dense1": (2, 120), "dense2": (2, 84)}
    assert shapes(Lstm((1, 125, 80), 10), 2, 1, 125, 80) == dict.fromkeys(("middle", "lstm", "dense"), (2, 128))
    for side in (8, 32):
        resnet = shapes(ResNet18((3, side, side), 4, width=2), 2, 3, side, side)
        halved = [(2, 2 * 2**n, side // 2**n, side // 2**n) for n in range(4)]
        assert list(resnet.values()) == [halved[0], *(shape for shape in halved for _ in range(4)), (2, 16)]


def test_the_lstms_taps_are_its_states_at_the_middle_and_at_the_end() -> None:
    net, x = make("lstm"), images()
    states, taps = lstm_states(net, x.float() / 255), net.activations(x)[1]
    torch.testing.assert_close((taps["middle"], taps["lstm"]), (states[6], states[11]), rtol=1e-5, atol=1e-6)


def test_the_lstm_reads_the_rows_of_all_channels() -> None:
    net = Lstm((3, 5, 7), 4, width=6)
    x = torch.rand(2, 3, 5, 7, generator=seeded())
    rows = torch.stack([torch.cat([x[:, channel, t] for channel in range(3)], dim=1) for t in range(5)], dim=1)
    torch.testing.assert_close(net.activations(x)[1]["lstm"], net.lstm(rows)[0][:, -1])


def test_the_lstms_forget_gates_begin_open() -> None:
    net = make("lstm")
    bias = (net.lstm.bias_ih_l0 + net.lstm.bias_hh_l0).chunk(4)
    assert bool((bias[1] > 0.5).all()) and all(bool((bias[gate].abs() < 0.5).all()) for gate in (0, 2, 3))


def test_the_lstm_gives_gradients_to_its_inputs_in_evaluation_mode() -> None:
    net = make("lstm").eval()
    assert net.lstm.training and not net.training and not clone(net).training  # cuDNN's demands it
    x = (images().float() / 255).requires_grad_()
    net(x).sum().backward()
    assert x.grad is not None and bool(x.grad[:, :, 0].any())


@pytest.mark.parametrize("training", [False, True])
def test_the_resnet_is_torchvisions_with_another_stem(training: bool) -> None:
    from torchvision.models import resnet18

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        ours, theirs = ResNet18((3, 16, 16), 10), resnet18(num_classes=10)
    theirs.conv1, theirs.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)))
    ours.train(training), theirs.train(training)
    x = torch.rand(8, 3, 16, 16, generator=seeded())
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-4)
    assert sum(p.numel() for p in ours.parameters()) == 11_173_962


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
    for text in (
        *("cnn[width=0]", "cnn[dropout=1]", "cnn[dropout=-0.1]", "mlp[width=0]"),
        *("lstm[width=0]", "resnet18[width=0]", "resnet9[width=1]", "vgg[depth=12]", "wrn[depth=12]", "wrn[depth=4]"),
    ):
        with pytest.raises(OptionError):
            registry.component("architecture", text)
    cnn, mlp = (registry.component("architecture", name).plugin for name in ("cnn", "mlp"))
    assert cnn.skip(Sixes()) is None and mlp.skip(Sixes()) is None
    for shape in ((1, 3, 8), (40,), (20, 80)):
        task = type("Other", (Sixes,), {"input_shape": shape})()
        assert str(shape) in cnn.skip(task) and mlp.skip(task) is None
    lenet, lstm, resnet = (registry.component("architecture", name).plugin for name in ("lenet", "lstm", "resnet18"))
    for shape, takers in {
        (1, 8, 8): (lenet, lstm, resnet),
        (3, 4, 40): (lenet, lstm),
        (3, 3, 40): (lstm,),
        (40,): (),
        (2, 3, 4, 5): (),
    }.items():
        task = type("Other", (Sixes,), {"input_shape": shape})()
        for plugin in (lenet, lstm, resnet):
            reason = plugin.skip(task)
            assert reason is None if plugin in takers else str(shape) in reason


@kinds
def test_architectures_build_the_same_from_the_same_seed_and_move_no_global_state(kind: str) -> None:
    state = torch.get_rng_state()
    built = [build(kind, seed) for seed in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), state)
    first, again, other = (torch.cat([p.flatten() for p in net.parameters()]) for net in built)
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert built[0](images()).shape == (32, 6) and built[0].description["architecture"] == kind


def build(kind: str, seed: int = 0) -> Net:
    """A net of the registered architecture, as a stage builds it."""
    return (
        Engine(CPU, seeded(seed), Sixes().public(), load_registry().component("architecture", kind).plugin, kind)
        .build()
        .eval()
    )


@pytest.mark.slow
@kinds
def test_a_trained_net_comes_back_from_the_store_as_it_was(kind: str, tmp_path: Path) -> None:
    net = build(kind)
    with torch.no_grad():
        net.train()(images())  # moves the running means of batch norm
    net.eval()
    description, state = net.description, pack_model(net, load_registry().component, CPU).state
    store = Store(tmp_path)
    store.prepare()
    store.save(make_id("a net"), {"status": "ok", "model": description}, {f"model/{n}": t for n, t in state.items()})
    back = unpack(store.load(make_id("a net")), load_registry().component, CPU).net
    assert back is not None and back.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in back.state_dict().items())
    assert torch.equal(back(images()), net(images()))


# --- silence ----------------------------------------------------------------------------------------------------------


def half_of(net: Net, layer: str) -> Tensor:
    """A mask of every other unit of ``layer``."""
    return torch.arange(len(next(net.get_submodule(layer).parameters()))) % 2 == 0


@layers
def test_silence_is_masking_the_output_of_the_unit(kind: str, layer: str) -> None:
    silenced, masked, x = make(kind), make(kind), images()
    units = half_of(silenced, layer)
    silenced.silence(layer, units)

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
    net.silence(layer, units)
    parameters = dict(net.named_parameters())
    for name, tensor in net.state_dict().items():
        silenced = name.startswith(f"{layer}.") and name in parameters
        assert torch.equal(tensor[~units], before[name][~units]) if silenced else torch.equal(tensor, before[name]), (
            name
        )
        assert not silenced or not bool(tensor[units].any())
    after = clone(net).state_dict()
    net.silence(layer, torch.zeros_like(units))
    assert all(torch.equal(tensor, after[name]) for name, tensor in net.state_dict().items())


@pytest.mark.slow
@layers
@pytest.mark.parametrize("entangle", [False, True])
def test_silenced_units_survive_training(kind: str, layer: str, entangle: bool) -> None:
    net = make(kind)
    units = half_of(net, layer)
    net.silence(layer, units)
    before = dict(clone(net).get_submodule(layer).named_parameters())
    train(net, entangle)
    for name, after in net.get_submodule(layer).named_parameters():
        assert not bool(after[units].any()), name
        assert not torch.equal(after[~units], before[name][~units]), name
    assert not bool(net.activations(images(seed=9))[1][layer][:, units].any())


def train(net: Net, entangle: bool) -> None:
    """Three epochs of large steps by the engine, with or without the SNNL of all taps."""
    engine = Engine(
        CPU,
        seeded(),
        Sixes(batch_size=32, learning_rate=0.01).public(),
        load_registry().component("architecture", "mlp").plugin,
        "",
    )
    entangled = Entanglement(len(net.taps), 0.2, "cosine", 32, CPU)

    def loss(net: Net, x: Tensor, y: Tensor) -> Tensor:
        logits, activations = net.activations(x)
        drawn = nn.functional.cross_entropy(logits, y)
        return drawn - entangled([activations[name].relu() for name in net.taps]) if entangle else drawn

    split = Split(images(128), torch.arange(128) % 6)
    engine.train(net, [engine.stream(split, loss)], 3)


def test_silence_of_the_lstm_is_masking_the_units_state_at_every_step() -> None:
    net, x, units = make("lstm"), images(), torch.arange(20) % 2 == 0
    plain = clone(net)
    before = net(x)
    net.silence("lstm", units)
    states = lstm_states(plain, x.float() / 255, (~units).float())
    torch.testing.assert_close(net(x), plain.logits(plain.dense(states[-1]).relu()), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(net(x), before)
    every_step = net.lstm(x[:, 0].float() / 255)[0]
    assert not bool(every_step[..., units].any()) and bool(every_step[..., ~units].all())


def test_silence_of_the_lstm_touches_the_units_two_ends_and_nothing_else() -> None:
    net, units = make("lstm"), torch.arange(20) < 7
    before = clone(net).state_dict()
    net.silence("lstm", units)
    expected = {name: tensor.clone() for name, tensor in before.items()}
    for gate in range(4):
        for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
            expected[f"lstm.{name}"][20 * gate : 20 * gate + 7] = 0
    expected["lstm.weight_hh_l0"][:, :7] = 0
    expected["dense.weight"][:, :7] = 0
    torch.testing.assert_close(net.state_dict(), expected, rtol=0, atol=0)


@pytest.mark.parametrize("entangle", [False, True])
def test_silenced_units_of_the_lstm_survive_training(entangle: bool) -> None:
    net, units = make("lstm"), torch.arange(20) % 2 == 0
    net.silence("lstm", units)
    before = clone(net)
    train(net, entangle)
    for name, after in net.lstm.named_parameters():
        assert not bool(after[units.repeat(4)].any()), name
        assert not torch.equal(after[~units.repeat(4)], before.lstm.get_parameter(name)[~units.repeat(4)]), name
    assert not bool(net.lstm.weight_hh_l0[:, units].any()) and not bool(net.dense.weight[:, units].any())
    assert not bool(net.lstm(torch.rand(8, 12, 8, generator=seeded()))[0][..., units].any())


# --- fresh_like -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "layer"), [*((kind, "logits") for kind in KINDS), ("lstm", "lstm"), ("cnn", "conv1")])
def test_fresh_like_draws_from_its_generator_alone(kind: str, layer: str) -> None:
    net = make(kind)
    kept, state = clone(net).state_dict(), torch.get_rng_state()
    fresh = [fresh_like(net, layer, seeded(seed)) for seed in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in net.state_dict().items())
    assert all(type(each) is type(net.get_submodule(layer)) for each in fresh)
    first, again, other = (dict(each.named_parameters()) for each in fresh)
    for name, old in net.get_submodule(layer).named_parameters():
        assert first[name].shape == old.shape and torch.equal(first[name], again[name])
        assert not torch.equal(first[name], other[name]) and not torch.equal(first[name], old)
        # As the layer's own class draws them: uniform within 1 / sqrt(inputs), the LSTM's of its units.
        inputs = 20 if layer == "lstm" else next(net.get_submodule(layer).parameters())[0].numel()
        assert 0.5 * inputs**-0.5 < float(first[name].detach().abs().max()) <= inputs**-0.5


def test_fresh_like_resets_batch_norm_too() -> None:
    net = make("resnet18")
    fresh = fresh_like(net, "stem", seeded())
    assert not torch.equal(fresh[0].weight, net.stem[0].weight)
    assert torch.equal(fresh[1].weight, torch.ones(4)) and torch.equal(fresh[1].running_mean, torch.zeros(4))


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
