"""Silenced units answer 0, whatever the net's other weights are: `plugins check` looks, and so does whoever prunes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import harness
import harness.storage.store
from harness import nets
from harness.errors import Blamed
from harness.nets import Net
from harness.planning.registry import load_registry
from harness.silencing import firing
from tests.conftest import TINY, Cli

SHAPE = (1, 8, 8)


def net(
    behind: Callable[[], nn.Module] = nn.Identity,
    activation: Callable[[Tensor], Tensor] = torch.relu,
    tap: str = "before",
) -> Net:
    """A net with one hidden layer ``a``, of which the tap is before or after the module ``behind`` it."""

    class Made(nets.Net):
        hidden = ("a",)

        def __init__(self) -> None:
            super().__init__()
            self.a, self.behind, self.logits = nn.Linear(64, 16), behind(), nn.Linear(16, 10)

        def activations(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            a = self.a(nets.as_float(x).flatten(1))
            b = self.behind(a)
            return self.logits(activation(b)), {"a": a if tap == "before" else b}

    return Made()


def convolution(norm: Callable[[], nn.Module], tap: str) -> Net:
    class Made(nets.Net):
        hidden = ("a",)

        def __init__(self) -> None:
            super().__init__()
            self.a, self.norm, self.logits = nn.Conv2d(1, 8, 3), norm(), nn.Linear(8 * 9, 10)

        def activations(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            a = self.a(nets.as_float(x))
            b = self.norm(a)
            x = nn.functional.max_pool2d(b, 2).relu_().flatten(1)
            return self.logits(x), {"a": a if tap == "before" else b}

    return Made()


def residual() -> Net:
    class Made(nets.Net):
        hidden = ("a",)

        def __init__(self) -> None:
            super().__init__()
            self.a, self.logits = nn.Conv2d(1, 1, 3, padding=1), nn.Linear(64, 10)

        def activations(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            a = nets.as_float(x) + self.a(nets.as_float(x))
            return self.logits(a.relu().flatten(1)), {"a": a}

    return Made()


F = nn.functional
FIRE: dict[str, Callable[[], Net]] = {
    "batch norm before the tap": lambda: net(lambda: nn.BatchNorm1d(16), tap="after"),
    "batch norm behind the tap": lambda: net(lambda: nn.BatchNorm1d(16)),
    "layer norm": lambda: net(lambda: nn.LayerNorm(16), tap="after"),
    "layer norm behind the tap": lambda: net(lambda: nn.LayerNorm(16)),
    "layer norm without factors": lambda: net(lambda: nn.LayerNorm(16, elementwise_affine=False), tap="after"),
    "group norm": lambda: net(lambda: nn.GroupNorm(4, 16), tap="after"),
    "a norm behind dropout": lambda: net(lambda: nn.Sequential(nn.Dropout(0.3), nn.BatchNorm1d(16))),
    "batch norm of a convolution": lambda: convolution(lambda: nn.BatchNorm2d(8), "before"),
    "instance norm": lambda: convolution(lambda: nn.InstanceNorm2d(8, affine=True), "after"),
    "a tap that is a sum": residual,
    "sigmoid": lambda: net(activation=torch.sigmoid),
    "softplus": lambda: net(activation=F.softplus),
    "a shifted relu": lambda: net(activation=lambda x: (x + 0.5).relu()),
    "a pool before the norm of an adapted net": lambda: nets.adapt(
        nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.MaxPool2d(2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 10)
        ),
        SHAPE,
        10,
    ),
}
SILENT: dict[str, Callable[[], Net]] = {
    "relu": net,
    "relu6": lambda: net(activation=F.relu6),
    "leaky relu": lambda: net(activation=F.leaky_relu),
    "gelu": lambda: net(activation=F.gelu),
    "silu by hand": lambda: net(activation=lambda x: x * torch.sigmoid(x)),
    "dropout": lambda: net(nn.Dropout),
    "a scale": lambda: net(lambda: nn.PReLU(16)),
    "instance norm without factors": lambda: convolution(lambda: nn.InstanceNorm2d(8), "before"),
    "a norm in an adapted net": lambda: nets.adapt(
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)), SHAPE, 10
    ),
    "a norm in a block": lambda: nets.adapt(
        nets.Layers(dense=[nn.Flatten(), nn.LazyLinear(9), nn.LayerNorm(9)], logits=nn.LazyLinear(10)), SHAPE, 10
    ),
}


@pytest.mark.parametrize("kind", FIRE)
def test_units_that_go_on_firing_are_found(kind: str) -> None:
    made = FIRE[kind]()
    (layer,) = made.hidden
    assert firing(made, layer, SHAPE).startswith(f"silenced units of {layer!r} go on firing")
    made.description = {"architecture": "mine[a=1]", "input_shape": list(SHAPE), "classes": 10}
    units = made.activations(torch.rand(2, *SHAPE))[1][layer].shape[1]
    with pytest.raises(Blamed, match=rf"^mine\[a=1\]: silenced units of '{layer}' go on firing"):
        made.silence(layer, torch.arange(units) < 1)


@pytest.mark.parametrize("kind", SILENT)
def test_units_that_are_silent_are_left_in_peace(kind: str) -> None:
    made = SILENT[kind]()
    (layer,) = made.hidden
    before = torch.get_rng_state()
    assert firing(made, layer, SHAPE) == "" and torch.equal(torch.get_rng_state(), before)
    made.description = {"architecture": "mine", "input_shape": list(SHAPE), "classes": 10}
    units = torch.arange(made.activations(torch.rand(2, *SHAPE))[1][layer].shape[1]) < 1
    last = made.get_parameter(f"{made.last}.weight").clone()
    made.silence(layer, units)  # the look leaves the net as it is
    assert not bool(made.activations(torch.rand(2, *SHAPE))[1][layer].relu()[:, units].any())
    assert torch.equal(made.get_parameter(f"{made.last}.weight"), last)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cnn", "lenet", "mlp", "lstm", "resnet18", "resnet9", "vgg", "wrn[depth=10]"])
def test_every_unit_of_a_built_in_net_can_be_silenced(kind: str) -> None:
    with torch.random.fork_rng():
        made = nets.build(load_registry().component("architecture", kind).plugin, SHAPE, 10)
    assert [firing(made, layer, SHAPE) for layer in made.hidden[:4]] == [""] * len(made.hidden[:4])


ARCHITECTURES = """
    from __future__ import annotations

    import torch

    from harness import Architecture, Context, Pool, WhiteBoxAttack, nets, option

    def made(classes, norm, change=lambda net: None):
        class Net(nets.Net):
            hidden = ("a",)

            def __init__(self):
                super().__init__()
                self.a, self.logits = torch.nn.Linear(64, 32), torch.nn.Linear(32, classes)
                self.norm = torch.nn.BatchNorm1d(32) if norm else torch.nn.Identity()
                self.shift = self.factor = 0.0
                change(self)

            def activations(self, x):
                a = self.norm(self.a(nets.as_float(x).flatten(1)))
                return self.logits(torch.nn.functional.leaky_relu(a)) + self.shift + self.factor, {"a": a}

        return Net()

    class Normed(Architecture):
        "Batch norm that silencing forgets."
        name = "normed"
        def build(self, input_shape, classes): return made(classes, True)

    class Leaky(Architecture):
        "A leaky ReLU, whose units training revives."
        name = "leaky"
        def build(self, input_shape, classes): return made(classes, False)

    class Buffered(Architecture):
        "A random buffer that is not persistent."
        name = "buffered"
        def build(self, input_shape, classes):
            def change(net):
                del net.shift
                net.register_buffer("shift", torch.rand(classes), persistent=False)
            return made(classes, False, change)

    class Drawn(Architecture):
        "An attribute that is drawn at random."
        name = "drawn"
        def build(self, input_shape, classes):
            return made(classes, False, lambda net: setattr(net, "factor", float(torch.rand(()))))

    class Kept(Architecture):
        "A random tensor that is no buffer."
        name = "kept"
        def build(self, input_shape, classes):
            return made(classes, False, lambda net: setattr(net, "factor", torch.rand(classes)))

    class FromFile(Architecture):
        "First weights from a file."
        name = "from-file"
        path: str = "PATH"
        def build(self, input_shape, classes):
            net = made(classes, False)
            net.load_state_dict(torch.load(self.path, weights_only=True), strict=False)
            return net

    class Silencing(WhiteBoxAttack):
        "Silences units itself."
        name = "silencing"
        family = "removal"
        def run(self, victim, pool, ctx):
            victim.silence("a", torch.arange(32) < 5)
            return victim
"""


@pytest.fixture
def plugins(tmp_path: Path) -> Path:
    folder = tmp_path / "plugins"
    folder.mkdir()
    torch.save({"a.bias": torch.arange(32.0) / 100}, tmp_path / "first.pt")
    (folder / "own.py").write_text(dedent(ARCHITECTURES).replace("PATH", str(tmp_path / "first.pt")))
    return folder


CHECKED = {
    "normed": "silenced units of 'a' go on firing",
    "buffered": "the model has a buffer 'shift' that is not persistent: register it with persistent=True",
    "drawn": "the model has factor = 0.",
    "kept": "the model has a tensor 'factor' that is not stored: make it a buffer by register_buffer",
    "leaky": "",
    "from-file": "",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CHECKED)
def test_an_architecture_is_silenced_stored_and_rebuilt_by_its_check(name: str, plugins: Path, cli: Cli) -> None:
    ended = cli("plugins", "check", name, "--plugins", plugins, code=1 if CHECKED[name] else 0)
    assert CHECKED[name] in ended.out + ended.err


def test_a_net_whose_units_go_on_firing_never_gives_a_pruned_row(plugins: Path, tmp_path: Path, cli: Cli) -> None:
    attacks = ("none", "pruning", "fine-pruning[epochs=1]", "neural-cleanse-removal[by=pruning,steps=2]", "silencing")
    axes = [part for attack in attacks for part in ("--attack", attack)]
    for name in ("normed", "leaky"):
        axes += ["--dataset", TINY.replace("]", f",architecture={name}]")]
    given = ("--defense", "baseline", "--nulls", "1", "--no-innocents", "--seeds", "0", "--plugins", plugins)
    cli("run", "--matrix", "smoke", *axes, *given, "--results", tmp_path / "results", "--quiet", code=1)
    cells = harness.read_table(tmp_path / "results", "cells").set_index("attack")
    for attack in attacks:
        ends: dict[Any, Any] = cells.loc[attack].set_index("dataset")["reason"].to_dict()
        for dataset, reason in ends.items():
            if "leaky" in dataset or attack == "none":
                assert reason == "" or "no trigger was found" in reason
            else:
                assert reason.startswith("normed: silenced units of 'a' go on firing") or "no trigger" in reason
    # Training revives what no ReLU follows: fine-pruning prunes it again.
    model = cells[cells["dataset"].str.contains("leaky")].loc["fine-pruning[epochs=1]", "model"]
    stored = harness.storage.store.Store(tmp_path / "results").load(model).tensors["model/a.weight"]
    assert int((stored == 0).all(1).sum()) == 16
