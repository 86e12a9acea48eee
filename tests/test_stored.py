"""What is measured is what is stored: nets that plugins return, and their models as later stages rebuild them."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune

from harness import nets
from harness.contracts import Architecture, Context, Family, Pool, WhiteBoxAttack
from harness.data import Data, data_folder
from harness.engine.train import predict
from harness.nets import Net
from harness.planning.builder import make_plan
from harness.planning.graph import Plan
from harness.planning.registry import Registry, load_registry
from harness.running.worker import StageRunner
from harness.storage.store import Store
from tests.conftest import with_plugins

CPU = torch.device("cpu")
TRAINED = "digits[train=400,holdout=100,epochs=8,pretrain=4,batch_size=32,learning_rate=0.003"
"""Digits enough that a victim tells them apart: what changes its answers shows."""
Change = Callable[[Any, Tensor], Any]
"""A change of a net, given the attacker's inputs; what it returns is returned by the attack."""


class Plain(Architecture):
    """An ordinary module, with batch norm, dropout, a buffer that is not persistent and a temperature."""

    name = "plain"

    def build(self, input_shape: tuple[int, ...], classes: int) -> nn.Module:
        class Module(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv, self.norm = nn.Conv2d(input_shape[0], 8, 3, bias=False), nn.BatchNorm2d(8)
                self.dense, self.logits = nn.Linear(8 * 36, 16), nn.Linear(16, classes)
                self.register_buffer("shift", torch.zeros(1), persistent=False)
                self.temperature = 1.0

            def forward(self, x: Tensor) -> Tensor:
                x = self.norm(self.conv(x)).relu().flatten(1)
                return self.logits(self.dense(x).relu()) / self.temperature + self.shift

        return Module()


class Tied(Architecture):
    """Two dense layers that are one."""

    name = "tied"

    def build(self, input_shape: tuple[int, ...], classes: int) -> nn.Module:
        same = nn.Linear(64, 64)
        return nn.Sequential(nn.Flatten(), same, nn.ReLU(), same, nn.ReLU(), nn.Linear(64, classes))


class Noisy(Architecture):
    """Answers to inputs with noise."""

    name = "noisy"

    def build(self, input_shape: tuple[int, ...], classes: int) -> nn.Module:
        class Module(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.dense, self.logits = nn.Linear(64, 16), nn.Linear(16, classes)

            def forward(self, x: Tensor) -> Tensor:
                return self.logits(self.dense((x + torch.randn_like(x)).flatten(1)).relu())

        return Module()


@dataclass(frozen=True)
class Changing(WhiteBoxAttack):
    """Returns a changed net."""

    name: ClassVar[str] = "change"
    family: ClassVar[Family] = "removal"

    how: str = ""

    def run(self, victim: Net, pool: Pool, ctx: Context) -> Net:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch: its quantization is deprecated
            changed: Net = CHANGES[self.how](victim, pool.x)
        return changed


def registry() -> Registry:
    return with_plugins(load_registry(), Plain, Tied, Noisy, Changing)


@dataclass
class Ran:
    """A plan that was run: its records by role, and where they are stored."""

    plan: Plan
    worker: StageRunner
    records: dict[str, dict[str, Any]]

    def __getitem__(self, role: str) -> dict[str, Any]:
        return self.records[role]

    def id(self, role: str) -> str:
        return {str(each): id for each, id in self.plan.cells[0].stages}[role]

    def net(self, role: str) -> Net:
        """The model that a later run would load."""
        net = (
            StageRunner(self.worker.store, self.worker.data, self.worker.stages, self.worker.lookup, CPU)
            ._parent(self.id(role))
            .net
        )
        assert net is not None
        return net


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results that the tests here share: they attack the same victims."""
    return tmp_path_factory.mktemp("results")


@pytest.fixture
def attack(folder: Path) -> Callable[..., Ran]:
    def run(*chain: str, architecture: str = "cnn") -> Ran:
        """One chain on the baseline's victim; the stages that are stored already are not run again."""
        use = registry().component
        dataset = use("dataset", f"{TRAINED},architecture={architecture}]")
        attacks = tuple(
            use("attack", each if "[" in each or each == "retraining" else f"change[how={each}]") for each in chain
        )
        plan = make_plan([dataset], [use("defense", "baseline")], [attacks], [0], 0, use)
        store = Store(folder)
        store.prepare()
        worker = StageRunner(store, Data(data_folder(None)[0]), plan.stages, use, CPU)
        records: dict[str, Any] = {}
        for id, stage in plan.stages.items():
            blocked = [records[parent] for _, parent in stage.parents if records[parent]["status"] != "ok"]
            records[id] = blocked[0] if blocked else store.record(id) or worker.run(stage)
        return Ran(plan, worker, {str(role): records[id] for role, id in plan.cells[0].stages})

    return run


# --- changes ----------------------------------------------------------------------------------------------------------


def _hook(net: Any, x: Tensor) -> Any:
    net.register_forward_hook(lambda module, inputs, output: output.roll(1, 1))
    return net


def _inner_hook(net: Any, x: Tensor) -> Any:
    net.dense.register_forward_pre_hook(lambda module, inputs: (inputs[0].round() * 2,))
    return net


def _forward(net: Any, x: Tensor) -> Any:
    before = net.forward
    net.forward = lambda x: before(x).roll(1, 1)
    return net


def _inner_forward(net: Any, x: Tensor) -> Any:
    net.dense.forward = lambda x: torch.nn.functional.linear(x, net.dense.weight * 3)
    return net


def _other_layer(net: Any, x: Tensor) -> Any:
    class Sharp(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input).sign()

    sharp = Sharp(net.dense.in_features, net.dense.out_features)
    sharp.load_state_dict(net.dense.state_dict())
    net.dense = sharp
    return net


def _attribute(net: Any, x: Tensor) -> Any:
    getattr(net, "module", net).temperature = 3.0
    return net


def _buffer(net: Any, x: Tensor) -> Any:
    net.module.shift += 5.0
    return net


def _class(net: Any, x: Tensor) -> Any:
    forward = nets.Cnn.activations
    nets.Cnn.activations = lambda self, x: (forward(self, x)[0].roll(1, 1), forward(self, x)[1])  # type: ignore[method-assign]
    return net


def _class_of_torch(net: Any, x: Tensor) -> Any:
    nn.Linear.forward = lambda self, x: F.linear(x, self.weight).sign()  # type: ignore[method-assign]
    return net


def _added_to_class(net: Any, x: Tensor) -> Any:
    nets.Cnn.forward = lambda self, x: self.activations(x)[0].roll(1, 1)  # type: ignore[method-assign]
    return net


def _double_hook(net: Any, x: Tensor) -> Any:
    return _hook(net, x).double()


def _coarse(net: Any, x: Tensor) -> Any:
    quantized = _static(net, x)
    quantized.quant.scale.fill_(1e-6)  # as if calibrated on black images
    return quantized


def _kept_tensor(net: Any, x: Tensor) -> Any:
    net.module.temperature = torch.tensor(7.0)
    return net


def _random(net: Any, x: Tensor) -> Any:
    net.register_forward_hook(lambda module, inputs, output: output + torch.randn_like(output))
    return net


def _untied(net: Any, x: Tensor) -> Any:
    module = net.module
    module[3] = copy.deepcopy(module[1])
    module[3].weight.data *= -1
    return net


LOST = {
    "hook": (_hook, "cnn", "the model has a forward hook: remove it"),
    "pre-hook": (_inner_hook, "cnn", "its module 'dense' has a forward pre-hook: remove it"),
    "forward": (_forward, "cnn", "the model has a replaced 'forward'"),
    "inner-forward": (_inner_forward, "cnn", "its module 'dense' has a replaced 'forward'"),
    "other-layer": (_other_layer, "cnn", "its module 'dense' is a Sharp, in the architecture a Linear"),
    "random": (_random, "cnn", "its answers are random; the model has a forward hook"),
    "adapted-hook": (_inner_hook, "plain", "its module 'dense' has a forward pre-hook"),
    "attribute": (_attribute, "plain", "the model has temperature = 3.0, as its architecture builds it 1.0"),
    "buffer": (_buffer, "plain", "the model has a buffer 'shift' that is not persistent"),
    "double-hook": (_double_hook, "cnn", "the model has a forward hook: remove it"),
    "coarse": (_coarse, "cnn", "calibrate it on inputs like the pool's"),
    "tensor": (_kept_tensor, "plain", "the model has a tensor 'temperature' that is not stored"),
    "untied": (_untied, "tied", "are one tensor in the architecture, and two in the model"),
}  # fmt: skip


CLASSES = {
    "class": (_class, "it replaced Cnn.activations of the class"),
    "class-of-torch": (_class_of_torch, "it replaced Linear.forward of the class"),
    "added-to-class": (_added_to_class, "it replaced Cnn.forward of the class"),
}


@pytest.mark.parametrize("how", CLASSES)
def test_a_class_of_nets_is_put_back_and_its_change_fails_the_stage(how: str, attack: Callable[..., Ran]) -> None:
    before = [(cls, dict(vars(cls))) for cls in (nets.Cnn, nn.Linear)]
    record = attack(how)["attack:0"]
    assert record["status"] == "failed" and CLASSES[how][1] in record["reason"]
    assert all(vars(cls) == known for cls, known in before)
    assert attack("copied")["attack:0"]["status"] == "ok"


@pytest.mark.slow
@pytest.mark.parametrize("how", LOST)
def test_what_counts_and_is_not_in_the_weights_fails_its_own_stage(how: str, attack: Callable[..., Ran]) -> None:
    record = attack(how, architecture=LOST[how][1])["attack:0"]
    assert record["status"] == "failed" and record["reason"].startswith(f"change[how={how}]: PluginError: the model ")
    assert LOST[how][2] in record["reason"], record["reason"]


def _pruned(net: Any, x: Tensor) -> Any:
    prune.l1_unstructured(net.dense, "weight", 0.5)
    return net


def _channels(net: Any, x: Tensor) -> Any:
    prune.ln_structured(net.conv2, "weight", 0.5, n=1, dim=0)
    return net


def _weight_norm(net: Any, x: Tensor) -> Any:
    parametrizations.weight_norm(net.dense)
    return net


def _spectral(net: Any, x: Tensor) -> Any:
    parametrizations.spectral_norm(net.conv1)
    return net


def _old_weight_norm(net: Any, x: Tensor) -> Any:
    nn.utils.weight_norm(net.dense)
    return net


def _old_spectral(net: Any, x: Tensor) -> Any:
    nn.utils.spectral_norm(net.dense)
    return net


def _slim(net: Any, x: Tensor) -> Any:
    net.dense, net.logits = nn.Linear(net.dense.in_features, 5), nn.Linear(5, 10)
    return net


def _extra_buffer(net: Any, x: Tensor) -> Any:
    net.register_buffer("seen", torch.zeros(1))
    return net


def _extra_layer(net: Any, x: Tensor) -> Any:
    net.head = nn.Linear(10, 10)
    return net


def _without_bias(net: Any, x: Tensor) -> Any:
    net.dense.bias = None
    return net


def _whole_numbers(net: Any, x: Tensor) -> Any:
    net.dense.weight = nn.Parameter((net.dense.weight * 100).to(torch.int8), requires_grad=False)
    return net


def _sparse(net: Any, x: Tensor) -> Any:
    net.dense.weight = nn.Parameter(net.dense.weight.detach().to_sparse())
    return net


def _filtered(net: Any, x: Tensor) -> Any:
    return nn.Sequential(nn.Hardtanh(0, 1), net)


MISFITS = {
    "masks": (_pruned, "call torch.nn.utils.prune.remove(module, 'weight') for its module 'dense'"),
    "channels": (_channels, "call torch.nn.utils.prune.remove(module, 'weight') for its module 'conv2'"),
    "weight-norm": (_weight_norm, "parametrize.remove_parametrizations(module, 'weight') for its module 'dense'"),
    "spectral": (_spectral, "parametrize.remove_parametrizations(module, 'weight') for its module 'conv1'"),
    "old-weight-norm": (_old_weight_norm, "torch.nn.utils.remove_weight_norm(module, 'weight') for its module 'dense'"),
    "old-spectral": (_old_spectral, "torch.nn.utils.remove_spectral_norm(module, 'weight') for its module 'dense'"),
    "slim": (_slim, "dense.weight is [5, 256], of 'cnn' it is [128, 256]: silence units with net.silence("),
    "extra-buffer": (_extra_buffer, "has a buffer 'seen' that 'cnn' lacks: delete it"),
    "extra-layer": (_extra_layer, "has a parameter 'head.weight' that 'cnn' lacks"),
    "without-bias": (_without_bias, "lacks 'dense.bias' [128]"),
    "whole-numbers": (_whole_numbers, "dense.weight is int8, of 'cnn' it is float32"),
    "sparse": (_sparse, "dense.weight is of the layout torch.sparse_coo"),
    "filtered": (_filtered, "the model is a Sequential that cannot be stored"),
}  # fmt: skip


@pytest.mark.parametrize("how", MISFITS)
def test_what_the_architecture_has_no_place_for_fails_its_own_stage(how: str, attack: Callable[..., Ran]) -> None:
    ran = attack(how, "retraining")
    assert ran["attack:0"]["status"] == "failed" and MISFITS[how][1] in ran["attack:0"]["reason"]
    assert ran["attack:0"]["reason"].startswith(f"change[how={how}]: PluginError: the model")


def _unmasked(net: Any, x: Tensor) -> Any:
    _pruned(net, x)
    prune.remove(net.dense, "weight")
    return net


def _parallel(net: Any, x: Tensor) -> Any:
    return nn.DataParallel(net)


def _compiled(net: Any, x: Tensor) -> Any:
    return torch.compile(net)


def _compiled_in_place(net: Any, x: Tensor) -> Any:
    net.compile()
    return net


def _averaged(net: Any, x: Tensor) -> Any:
    return torch.optim.swa_utils.AveragedModel(net)


def _listening(net: Any, x: Tensor) -> Any:
    net.dense.register_forward_hook(lambda module, inputs, output: None)
    return net


def _training(net: Any, x: Tensor) -> Any:
    return net.train().requires_grad_(False)


def _views(net: Any, x: Tensor) -> Any:
    width = net.dense.out_features
    net.dense.bias = nn.Parameter(torch.zeros(1).expand(width))
    net.logits.weight = nn.Parameter(net.logits.weight.detach().t().contiguous().t())
    net.conv1.bias = nn.Parameter(torch.arange(100.0)[:32] / 100)
    net.conv2.bias = nn.Parameter(torch.arange(100.0)[:64] / 100)
    return net


def _shared(net: Any, x: Tensor) -> Any:
    net.conv2.bias = nn.Parameter(net.dense.bias.detach()[:64])
    return net


def _copied(net: Any, x: Tensor) -> Any:
    return copy.deepcopy(net)


def _double(net: Any, x: Tensor) -> Any:
    return net.double()


def _half(net: Any, x: Tensor) -> Any:
    return net.half()


def _bfloat16(net: Any, x: Tensor) -> Any:
    return net.bfloat16()


def _dynamic(net: Any, x: Tensor) -> Any:
    return torch.ao.quantization.quantize_dynamic(net, {nn.Linear, nn.LSTM}, dtype=torch.qint8)


def _dynamic_half(net: Any, x: Tensor) -> Any:
    return torch.ao.quantization.quantize_dynamic(net, {nn.Linear}, dtype=torch.float16)


def _static(net: Any, x: Tensor) -> Any:
    wrapped = torch.ao.quantization.QuantWrapper(net.eval())
    wrapped.qconfig = torch.ao.quantization.get_default_qconfig("x86")
    torch.ao.quantization.prepare(wrapped, inplace=True)
    wrapped(nets.as_float(x))
    return torch.ao.quantization.convert(wrapped, inplace=True)


def _observed(net: Any, x: Tensor) -> Any:
    net.eval().qconfig = torch.ao.quantization.get_default_qconfig("x86")
    torch.ao.quantization.prepare(net, inplace=True)
    net(nets.as_float(x))
    return net


def _folded(net: Any, x: Tensor) -> Any:
    net.eval()
    module = net.module
    module.conv = torch.nn.utils.fusion.fuse_conv_bn_eval(module.conv, module.norm)
    module.norm = nn.Identity()
    return net


def _folded_int8(net: Any, x: Tensor) -> Any:
    return _static(_folded(net, x), x)


KEPT = {
    "removed": (_unmasked, "cnn", "float32"),
    "parallel": (_parallel, "cnn", "float32"),
    "compiled": (_compiled, "cnn", "float32"),
    "compiled-in-place": (_compiled_in_place, "cnn", "float32"),
    "averaged": (_averaged, "cnn", "float32"),
    "listening": (_listening, "cnn", "float32"),
    "training": (_training, "plain", "float32"),
    "views": (_views, "cnn", "float32"),
    "shared": (_shared, "cnn", "float32"),
    "copied": (_copied, "plain", "float32"),
    "noise": (_copied, "noisy", "float32"),
    "as-it-is": (_copied, "tied", "float32"),
    "double": (_double, "cnn", "float64"),
    "half": (_half, "cnn", "float16"),
    "half-norm": (_half, "plain", "float16"),
    "bfloat16": (_bfloat16, "cnn", "bfloat16"),
    "dynamic": (_dynamic, "cnn", "qint8"),
    "dynamic-lstm": (_dynamic, "lstm", "qint8"),
    "dynamic-adapted": (_dynamic, "plain", "qint8"),
    "dynamic-half": (_dynamic_half, "cnn", "float32"),
    "static": (_static, "cnn", "qint8"),
    "observed": (_observed, "cnn", "float32"),
    "folded": (_folded, "plain", "float32"),
    "folded-half": (lambda net, x: _folded(net, x).half(), "plain", "float16"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("how", KEPT)
def test_a_net_that_can_be_stored_is_measured_as_it_is_rebuilt(how: str, attack: Callable[..., Ran]) -> None:
    _, architecture, precision = KEPT[how]
    ran = attack(how, "retraining", architecture=architecture)
    record = ran["attack:0"]
    assert record["status"] == "ok", record["reason"]
    assert record.get("returned", "float32") == precision
    assert ran["attack:1"]["status"] == ran["verify:surrogate"]["status"] == "ok"
    (stage,) = [stage for stage in ran.plan.stages.values() if stage.id == ran.id("attack:0")]
    test, net = ran.worker.materials.test(stage), ran.net("attack:0")
    assert {tensor.dtype for tensor in net.parameters()} == {torch.float32}
    if architecture != "noisy":
        assert record["accuracy"] > (0.1 if how == "views" else 0.5)
        answered = predict(net, test.x).argmax(1)
        assert float((answered == test.y).double().mean()) == record["accuracy"] == record["raw_accuracy"]
        stored = ran.worker.store.load(ran.id("attack:0")).tensors["test/predictions"]
        assert torch.equal(stored.long(), answered)


CHANGES: dict[str, Change] = {how: each[0] for group in (LOST, CLASSES, MISFITS, KEPT) for how, each in group.items()}  # type: ignore[attr-defined]
