"""Any module as a net: layers found by running it, names kept, units silenced; and nets of named blocks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from harness import nets
from harness.contracts import Split, Stream
from harness.engine.memo import ResultCache, SharedInputs
from harness.engine.train import Engine, clone, on_device
from harness.errors import PluginError
from harness.planning.registry import load_registry
from harness.silencing import firing
from tests.conftest import Cli
from tests.test_nets import CPU, SHAPE, Sixes, images, seeded


class Plain(nn.Module):
    """A net as users write it: in-place ReLUs, `view`, functions between the layers, and names that nets use."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Conv2d(1, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.taps = nn.Conv2d(6, 8, 3, padding=1)
        self.last = nn.Linear(8 * 6 * 4, 20)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(20, 6)
        self.register_buffer("scale", torch.ones(()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.hidden(x)))
        x = nn.functional.max_pool2d(self.relu(self.taps(x)), 2)
        return self.fc(self.relu(self.last(x.view(x.size(0), -1)))) * self.scale


class Residual(nn.Module):
    """Blocks added in place, group norm, and a mean over positions before the last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(1, 6, 3, padding=1), nn.GroupNorm(2, 6)
        self.conv2 = nn.Conv2d(6, 6, 3, padding=1)
        self.fc = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(self.conv1(x)).relu()
        out = self.conv2(x)
        out += x
        return self.fc(out.relu_().mean((2, 3)))


class Tokens(nn.Module):
    """Dense layers over the rows of an image, and layer norm."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.fc = nn.Linear(8, 10), nn.LayerNorm(10), nn.Linear(10, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.norm(self.embed(x[:, 0])).relu().mean(1))


def plain_layers() -> nn.Module:
    """Named blocks whose sizes are learned from the input."""
    return nets.Layers(
        conv1=[nn.LazyConv2d(6, 3, padding=1), nn.BatchNorm2d(6)],
        conv2=nn.LazyConv2d(8, 3, padding=1),
        logits=[nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(6)],
    )


KINDS = {"plain": Plain, "residual": Residual, "tokens": Tokens, "layers": plain_layers}
kinds = pytest.mark.parametrize("kind", KINDS)


def make(kind: str) -> nets.Net:
    """An adapted net for ``SHAPE`` and six classes whose every number is another than at the start."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        net = on_device(nets.adapt(KINDS[kind](), SHAPE, 6), CPU)
        with torch.no_grad():
            for tensor in net.state_dict().values():
                if tensor.is_floating_point():
                    tensor += 0.2 * torch.rand_like(tensor) - 0.1
    return net.eval()


@pytest.mark.parametrize(
    ("kind", "hidden", "last", "taps"),
    [
        ("plain", ("hidden", "taps", "last"), "fc", ()),
        ("residual", ("conv1", "conv2"), "fc", ("fc.input",)),
        ("tokens", ("embed",), "fc", ("fc.input",)),
        ("layers", ("conv1", "conv2"), "logits", ("logits.input",)),
    ],
)
def test_layers_are_found_in_the_order_in_which_they_run(
    kind: str, hidden: tuple[str, ...], last: str, taps: tuple[str, ...]
) -> None:
    net = make(kind)
    assert (net.hidden, net.last, net.taps) == (hidden, last, (*hidden, *taps))
    logits, activations = net.activations(images())
    assert tuple(activations) == net.taps and torch.equal(logits, net(images()))
    for name in hidden:
        assert activations[name].shape[:2] == (32, sum(1 for _ in half_of(net, name)))
    assert nets.penultimate(net, images()).ndim == 2
    assert nets.activation_frequencies(net, images()).keys() == set(hidden)


def test_taps_are_what_comes_before_the_relu_whatever_is_done_in_place_afterwards() -> None:
    net, x = make("plain"), images()
    taps = net.activations(x)[1]
    module, floats = net.module, x.float() / 255
    first = module.norm(module.hidden(floats))
    second = module.taps(first.relu())
    torch.testing.assert_close((taps["hidden"], taps["taps"]), (first, second))
    assert all(bool((tap < 0).any()) for tap in taps.values())
    net = make("residual")
    module, taps = net.module, net.activations(x)[1]
    first = module.norm1(module.conv1(floats))
    torch.testing.assert_close((taps["conv1"], taps["conv2"]), (first, module.conv2(first.relu())))


@kinds
def test_an_adapted_net_has_the_names_of_its_module_and_is_rebuilt_from_them(kind: str) -> None:
    net, fresh = make(kind), KINDS[kind]()
    if kind != "layers":
        assert net.state_dict().keys() == fresh.state_dict().keys()
        assert [name for name, _ in net.named_parameters()] == [name for name, _ in fresh.named_parameters()]
    again = on_device(nets.adapt(fresh, SHAPE, 6), CPU)
    again.load_state_dict(net.state_dict())
    assert torch.equal(again.eval()(images()), net(images()))


@kinds
def test_a_copy_shares_nothing_and_inputs_of_either_type_stay_as_they_are(kind: str) -> None:
    net, x = make(kind), images()
    before, floats = net(x), x.float() / 255
    copied = clone(net)
    assert torch.equal(copied(x), before)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
    assert torch.equal(net(x), before) and not bool(copied(x).any())
    assert torch.equal(net(floats), before) and torch.equal(floats, x.float() / 255)


def half_of(net: nets.Net, layer: str) -> Tensor:
    return torch.arange(net.activations(images(1))[1][layer].shape[1]) % 2 == 0


@kinds
def test_silence_is_masking_the_unit_behind_its_norm_and_survives_training(kind: str) -> None:
    net, x = make(kind), images()
    for layer in net.hidden:
        pruned, units = clone(net), half_of(net, layer)
        pruned.silence(layer, units)
        assert not bool(pruned.activations(x)[1][layer][:, units].any())
        assert bool(pruned.activations(x)[1][layer][:, ~units].any())
        before = {name: tensor.clone() for name, tensor in pruned.state_dict().items()}
        pruned.silence(layer, torch.zeros_like(units))
        assert all(torch.equal(tensor, before[name]) for name, tensor in pruned.state_dict().items())
        if (kind, layer) != ("residual", "conv2"):  # no ReLU follows it
            train(pruned)
            assert not bool(pruned.activations(images(seed=9))[1][layer].relu()[:, units].any())


def test_a_norm_without_factors_is_silenced_by_its_mean() -> None:
    module = nn.Sequential(
        nn.Flatten(), nn.Linear(96, 10), nn.BatchNorm1d(10, affine=False), nn.ReLU(), nn.Linear(10, 6)
    )
    net = nets.adapt(module, SHAPE, 6).eval()
    module[2].running_mean += 0.5
    assert net.hidden == ("1",) and net.last == "4"
    net.silence("1", torch.arange(10) < 4)
    assert not bool(net.activations(images())[1]["1"][:, :4].any())


@pytest.mark.parametrize("norm", [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm])
def test_a_layer_whose_weight_is_computed_is_silenced_too(norm: Callable[[nn.Module], nn.Module]) -> None:
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        module = nn.Sequential(nn.Flatten(), norm(nn.Linear(96, 10)), nn.ReLU(), nn.Linear(10, 6))
    net = nets.adapt(module, SHAPE, 6).eval()
    net.silence("1", torch.arange(10) < 4)
    train(net)
    fired = (net.activations(images())[1]["1"] > 0).any(0)
    assert not bool(fired[:4].any()) and bool(fired[4:].any())


@pytest.mark.parametrize("name", ["resnet18", pytest.param("vgg11_bn", marks=pytest.mark.slow), "squeezenet1_1"])
def test_nets_of_torchvision_are_nets(name: str) -> None:
    torchvision = pytest.importorskip("torchvision")
    with torch.random.fork_rng(devices=[]):
        net = nets.adapt(torchvision.models.get_model(name, weights=None, num_classes=6), (3, 32, 32), 6).eval()
        x = torch.randint(0, 256, (2, 3, 32, 32), generator=seeded()).byte()
        with torch.no_grad():
            assert torch.equal(net.activations(x)[0], net.module(x.float() / 255))
            for layer in (net.hidden[0], net.hidden[-1]):  # each takes a second: they are large
                assert firing(net, layer, (3, 32, 32)) == ""
    assert nets.penultimate(net, x).ndim == 2 and nets.last_convolution(net) in net.hidden


def train(net: nets.Net) -> None:
    engine = Engine(
        CPU,
        seeded(),
        Sixes(batch_size=32, learning_rate=0.01).public(),
        load_registry().component("architecture", "mlp").plugin,
        "",
    )
    split = Split(images(128), torch.arange(128) % 6)
    engine.train(net, [Stream((split,), 32)], 2)


def test_training_an_adapted_net_is_training_its_module() -> None:
    net = make("plain")
    before = {name: tensor.clone() for name, tensor in net.module.state_dict().items()}
    net.train()
    assert net.module.training and net.module.norm.training
    train(net)
    assert not net.training and not net.module.training
    assert all(not torch.equal(before[name], tensor) for name, tensor in net.module.state_dict().items())


def test_a_hook_on_the_module_itself_is_noticed_before_an_answer_is_remembered() -> None:
    net = make("plain")
    shared = SharedInputs(ResultCache(), "model", net, "inputs", images())
    copied = clone(net)
    assert [shared.recall("logits", copied, images(), lambda: net(images()))[0] for _ in range(2)] == [False, True]
    copied.module.register_forward_hook(lambda module, inputs, output: -output)
    known, value = shared.recall("logits", copied, images(), lambda: copied(images()))
    assert not known and torch.equal(value, -net(images()))


def test_the_last_layer_can_be_drawn_again() -> None:
    for kind in KINDS:
        net = make(kind)
        fresh, again = (nets.fresh_like(net, net.last, seeded(3)).state_dict() for _ in range(2))
        assert all(torch.equal(tensor, again[name]) for name, tensor in fresh.items())
        net.get_submodule(net.last).load_state_dict(fresh)


def test_the_last_convolution_of_a_net() -> None:
    assert [nets.last_convolution(make(kind)) for kind in KINDS] == ["taps", "conv2", None, "conv2"]
    assert nets.last_convolution(nets.ResNet18(SHAPE, 6, width=4)) == "block8_inner"
    assert nets.last_convolution(nets.Mlp(SHAPE, 6)) is None


def test_a_module_of_no_known_layer_is_a_net_too() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(96, 6))

        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1) @ self.weight

    net = nets.adapt(Odd(), SHAPE, 6)
    assert net.hidden == () and net.taps == ("input",)
    assert list(net.activations(images())[1]) == ["input"] and nets.activation_frequencies(net, images()) == {}
    assert [name for name, _ in net.named_parameters()] == ["weight"]


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("a string", r"build must return a torch.nn.Module, not str"),
        (nn.Linear(5, 6), r"Linear cannot take inputs \[2, 1, 12, 8\]"),
        (nn.Flatten(), r"Flatten must give logits \[2, 6\] of 2 inputs, not \[2, 96\]"),
        (Pair(), r"Pair must give logits \[2, 6\] of 2 inputs, not a tuple"),
    ],
)
def test_what_is_not_a_classifier_is_refused(module: nn.Module, said: str) -> None:
    with pytest.raises(PluginError, match=said):
        nets.adapt(module, SHAPE, 6)


def test_layers_without_a_block_are_refused() -> None:
    with pytest.raises(ValueError, match="at least"):
        nets.Layers()


# --- through the command line -----------------------------------------------------------------------------------------

ARCHITECTURES = '''
from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from harness import Architecture, hookimpl, nets


@dataclass(frozen=True)
class Own(Architecture):
    """A plain module."""

    name: ClassVar[str] = "own"

    def build(self, input_shape, classes):
        nn = torch.nn
        return nn.Sequential(
            nn.Conv2d(input_shape[0], 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2),
            nn.Flatten(), nn.LazyLinear(32), nn.ReLU(), nn.Linear(32, classes),
        )


@dataclass(frozen=True)
class Blocks(Architecture):
    """Named blocks."""

    name: ClassVar[str] = "blocks"

    def build(self, input_shape, classes):
        nn = torch.nn
        return nets.Layers(
            conv=nn.LazyConv2d(8, 3, padding=1),
            dense=[nn.MaxPool2d(2), nn.Flatten(), nn.LazyLinear(32)],
            logits=nn.LazyLinear(classes),
        )


@dataclass(frozen=True)
class Forgetful(Architecture):
    """Batch norm that its net does not name."""

    name: ClassVar[str] = "forgetful"

    def build(self, input_shape, classes):
        class Net(nets.Net):
            hidden = ("a",)

            def __init__(self):
                super().__init__()
                self.a, self.norm = torch.nn.Linear(64, 16), torch.nn.BatchNorm1d(16)
                self.logits = torch.nn.Linear(16, classes)

            def activations(self, x):
                a = self.norm(self.a(nets.as_float(x).flatten(1)))
                return self.logits(a.relu()), {"a": a}

        return Net()


@hookimpl
def harness_architectures():
    return [Own, Blocks, Forgetful]
'''


@pytest.mark.slow
def test_own_modules_are_checked_marked_attacked_and_stored(tmp_path: Path, cli: Cli) -> None:
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    (plugins / "own.py").write_text(ARCHITECTURES)
    for name in ("own", "blocks"):
        assert "ok" in cli("plugins", "check", name, "--plugins", plugins, code=0).out
    forgetful = cli("plugins", "check", "forgetful", "--plugins", plugins, code=1)
    assert "silenced units of 'a' go on firing" in forgetful.out + forgetful.err
    axes = [
        *("--dataset", "digits[train=200,epochs=2,pretrain=1,architecture=own]"),
        *("--dataset", "digits[train=200,epochs=2,pretrain=1,architecture=blocks]"),
        *("--defense", "ewe", "--attack", "fine-pruning[epochs=1,layers=last-conv]", "--attack", "snnl-extraction"),
        *("--attack", "fine-tuning[epochs=1,mode=rtll]", "--nulls", "1", "--no-innocents", "--seeds", "0"),
    ]
    results = tmp_path / "results"
    cli("run", "--matrix", "smoke", *axes, "--results", results, "--plugins", plugins, code=0)
    again = cli("run", "--matrix", "smoke", *axes, "--results", results, "--plugins", plugins, code=0)
    assert "nothing to do" in again.out + again.err
