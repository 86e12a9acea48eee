"""Normalised inputs: inside the net, whatever it is, so that all outside goes on in raw inputs; stored with it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import harness
from harness import nets
from harness.data import Data
from harness.engine.train import on_device, predict
from harness.errors import DamagedArtifact
from harness.inputs import MEAN, SD, as_float, moments, normalize
from harness.planning.registry import load_registry
from harness.storage.codec import pack_model, unpack
from harness.storage.store import Artifact, Store
from harness.storage.tables import Tables
from tests.conftest import TINY, Cli
from tests.test_nets import CPU, REGISTRY, SHAPE, SMALL, images, make

BUILT_IN = ["cnn", "mlp", "lenet", "lstm", "resnet18", *SMALL]


def plain() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 10 * 6, 6))


KINDS: dict[str, Callable[[], nets.Net]] = {
    **{kind: lambda kind=kind: make(kind) for kind in BUILT_IN},  # type: ignore[misc]
    "any module": lambda: nets.adapt(plain(), SHAPE, 6).eval(),
    "layers": lambda: nets.Layers(
        conv=nn.Conv2d(1, 3, 3), dense=[nn.Flatten(), nn.Linear(180, 9)], logits=nn.Linear(9, 6)
    ).eval(),
}


# --- moments ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 5, 7), (2, 9), (4,)])
@pytest.mark.parametrize("bytes_", [True, False])
def test_moments_are_those_of_each_channel(shape: tuple[int, ...], bytes_: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (9001, *shape), generator=generator).byte()
    x = x if bytes_ else 3 * torch.randn(9001, *shape, generator=generator) - 1
    mean, sd = moments(x)
    floats = as_float(x).double()
    expected = floats.movedim(1, 0).flatten(1)
    assert mean.shape == sd.shape == (shape[0], *(1 for _ in shape[1:])) and mean.dtype == sd.dtype == torch.float32
    torch.testing.assert_close(mean.flatten().double(), expected.mean(1), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(sd.flatten().double(), expected.std(1, correction=0), rtol=1e-6, atol=1e-7)
    normal = (floats - mean) / sd
    assert float(normal.mean()) == pytest.approx(0, abs=1e-6) and float(normal.std()) == pytest.approx(1, rel=1e-3)


def test_moments_are_exact_and_leave_the_inputs_as_they_are() -> None:
    x = torch.randint(200, 256, (9001, 2, 3, 4), generator=torch.Generator().manual_seed(0)).byte()
    mean, sd = moments(x)
    values = x.movedim(1, 0).flatten(1).long()
    count = values.shape[1]
    sums, squares = values.sum(1).double(), values.square().sum(1).double()
    wanted = (squares / count - (sums / count).square()).sqrt() / 255
    assert (
        mean.flatten().tolist() == (sums / count / 255).float().tolist()
        and sd.flatten().tolist() == wanted.float().tolist()
    )
    floats = torch.full((3, 2, 4), 7.0, dtype=torch.float64)
    moments(floats)
    assert set(floats.flatten().tolist()) == {7.0}


def test_a_channel_of_one_value_is_not_divided_by_nothing() -> None:
    mean, sd = moments(torch.full((5, 2, 3, 3), 51, dtype=torch.uint8))
    assert mean.flatten().tolist() == pytest.approx([0.2, 0.2]) and sd.flatten().tolist() == [1, 1]


# --- nets -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_net_answers_raw_inputs_as_its_layers_answer_normalised_ones(kind: str) -> None:
    net, x = KINDS[kind](), images()
    mean, sd = moments(x)
    inner = copy.deepcopy(net)
    normalize(net, mean, sd)
    wanted, taps = inner.activations((as_float(x) - mean) / sd)
    for given in (x, as_float(x)):
        assert torch.equal(net(given), inner((as_float(x) - mean) / sd))
        logits, found = net.activations(given)
        assert torch.equal(logits, wanted) and all(torch.equal(found[name], taps[name]) for name in taps)
    assert torch.equal(predict(net, x), predict(net, as_float(x)))
    assert net.hidden == inner.hidden and net.taps == inner.taps


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_that_of_the_raw_input(kind: str) -> None:
    net, x = KINDS[kind](), as_float(images(4))
    normalize(net, *moments(x))
    raw = x.clone().requires_grad_(True)
    net(raw).square().sum().backward()
    inner = ((x - net.get_buffer(MEAN)) / net.get_buffer(SD)).requires_grad_(True)
    plain = copy.deepcopy(net)
    normalize(plain, torch.zeros_like(net.get_buffer(MEAN)), torch.ones_like(net.get_buffer(SD)))
    plain(inner).square().sum().backward()
    assert raw.grad is not None and inner.grad is not None
    torch.testing.assert_close(raw.grad, inner.grad / net.get_buffer(SD), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", BUILT_IN)
def test_a_normalised_net_is_stored_and_rebuilt_bit_for_bit(kind: str) -> None:
    text, x = SMALL.get(kind, kind), images()
    net = on_device(nets.build(REGISTRY.component("architecture", text).plugin, SHAPE, 6, moments(x)), CPU).eval()
    net.description = {"architecture": text, "input_shape": list(SHAPE), "classes": 6, "normalize": True}
    packed = pack_model(net, REGISTRY.component, CPU)
    stored = Artifact({"model": dict(net.description)}, {f"model/{k}": v for k, v in packed.state.items()})
    again = unpack(stored, REGISTRY.component, CPU).net
    assert again is not None and again.description == net.description
    assert torch.equal(predict(again, x), predict(net, x))


@pytest.mark.parametrize("lies", [{"normalize": False}, {"normalize": "yes"}, {}])
def test_a_description_that_hides_it_is_damaged(lies: dict[str, object]) -> None:
    net = nets.build(REGISTRY.component("architecture", "mlp").plugin, SHAPE, 6, moments(images()))
    description = {"architecture": "mlp", "input_shape": list(SHAPE), "classes": 6, **lies}
    stored = Artifact({"model": description}, {f"model/{k}": v for k, v in net.state_dict().items()})
    with pytest.raises(DamagedArtifact, match="of other shapes"):
        unpack(stored, REGISTRY.component, CPU)


# --- a matrix ---------------------------------------------------------------------------------------------------------

OWN = TINY.replace("]", ",normalize=true]")
ATTACKS = (
    *("none", "retraining[pool=disjoint]", "fine-tuning[mode=rtal]", "pruning", "jsma", "trigger-refusal"),
    *("query-filter", "neural-cleanse[steps=2]", "retraining[architecture=resnet18[width=4]]"),
)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("normalised")
    harness.run(
        None,
        datasets=[OWN],
        defenses=["ewe", "adi"],
        attacks=ATTACKS,
        seeds=[0],
        nulls=1,
        results=folder,
        progress=False,
    )
    return folder


@pytest.mark.slow
def test_every_built_in_attack_works_on_nets_that_normalise(results: Path) -> None:
    cells = Tables(results).read("cells")
    assert len(cells) == 2 * len(ATTACKS) and set(cells["status"]) == {"ok"}


def moments_of(results: Path, attack: str) -> tuple[Tensor, Tensor]:
    cells = Tables(results).read("cells")
    (model,) = cells[(cells["attack"] == attack) & (cells["defense"] == "adi")]["model"]
    tensors = Store(results).load(model).tensors
    return tensors[f"model/{MEAN}"], tensors[f"model/{SD}"]


def test_an_owners_nets_have_the_owners_moments_and_a_thiefs_those_of_its_pool(results: Path) -> None:
    records = [Store(results).record(id) for id in set(Tables(results).read("stages")["stage"])]
    (split_seed,) = {each["inputs"]["split_seed"] for each in records if each and each["inputs"]["action"] == "embed"}
    dataset = load_registry().component("dataset", OWN).plugin
    splits = Data(Path()).splits(dataset, split_seed, CPU)
    known = {"none": splits.train, "fine-tuning[mode=rtal]": splits.train, "retraining[pool=disjoint]": splits.disjoint}
    for attack, split in known.items():
        assert all(map(torch.equal, moments_of(results, attack), moments(split.x))), attack
    assert not torch.equal(moments(splits.train.x)[0], moments(splits.disjoint.x)[0])


def test_an_exported_net_takes_raw_inputs(results: Path, cli: Cli, tmp_path: Path) -> None:
    (cell,) = Tables(results).read("cells").query("attack == 'none' and defense == 'adi'").itertuples()
    cli("export", cell.cell, tmp_path / "out", "--results", results, code=0)
    net = harness.load_model(tmp_path / "out" / "victim.safetensors")
    dataset = load_registry().component("dataset", OWN).plugin
    test = Data(Path()).test(dataset, CPU)
    assert float((net(test.x).argmax(1) == test.y).float().mean()) == pytest.approx(cell.victim_accuracy)
    assert torch.equal(net(test.x), net(as_float(test.x)))
