"""Everything that computes, on a device that is not the processor: a test device, or with ``--device cuda`` a GPU.

``tests/accelerator.py`` says what the test device finds. A GPU raises where devices mix, too; it has no notes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from harness.contracts import Split, Stream
from harness.data import Data
from harness.engine import train
from harness.engine.bfloat16 import bfloat16_gain
from harness.engine.epochs import measure_epochs
from harness.engine.train import Engine
from harness.losses import Entanglement, class_snnl, summed_cross_entropy
from harness.nets import Net
from harness.planning.registry import load_registry
from harness.running import machine
from harness.storage.tables import Tables
from tests import accelerator
from tests.accelerator import LOG, stepping
from tests.conftest import command_line

REGISTRY = load_registry()
DIGITS = "digits[train=60,holdout=60,test=60,epochs=2,pretrain=1,batch_size=20]"
QUICK = {
    "dehydra": "[images=2,steps=2,updates=2]",
    "jbda": "[seeds=20,rounds=2]",
    "anp": "[steps=2]",
    "laundering": "[steps=4]",
    "jsma": "[images=2,share=0.1]",
    "neural-cleanse": "[steps=4,check=2,attack_rate=0.01]",
    "neural-cleanse-removal": "[steps=4]",
    "reconstruction": "[epochs=2]",
}
"""Options of attacks that would search for long."""
SLIM = {"cnn": "[width=4]", "lstm": "[width=8]", "resnet18": "[width=4]", "resnet9": "", "wrn": "[depth=10,width=1]"}


@pytest.fixture(autouse=True)
def _watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """The notes are of this test alone, and say which are of a training step."""
    step = train._Training._step

    def watched(self: Any, *args: Any) -> None:
        with stepping():
            step(self, *args)

    monkeypatch.setattr(train._Training, "_step", watched)
    monkeypatch.setattr(torch.__future__, "_overwrite_module_params_on_conversion", True)
    LOG.clear()


def noted(kind: str, in_step: bool | None = None) -> Counter[str]:
    """The number of notes of a kind, by place."""
    return Counter(note.place for note in LOG if note.kind == kind and (in_step is None or note.in_step == in_step))


def engine(device: torch.device, seed: int = 0, **settings: Any) -> Engine:
    dataset = REGISTRY.component("dataset", DIGITS).plugin
    built = REGISTRY.component("architecture", "cnn[width=4,dropout=0.1]")
    recipe = replace(dataset.public(), **{name: settings.pop(name) for name in [*settings] if name in RECIPE})
    lent = Engine(device, torch.Generator().manual_seed(seed), recipe, built.plugin, built.text)
    return replace(lent, **settings)


RECIPE = ("optimizer", "schedule", "warmup", "weight_decay", "clip_norm", "label_smoothing", "augment", "batch_size")


def split(device: torch.device, count: int = 60) -> Split:
    dataset = REGISTRY.component("dataset", DIGITS).plugin
    return Data(Path()).splits(dataset, 0, device).train.first(count)


def close(device: torch.device, ours: Tensor, theirs: Tensor) -> None:
    """Equal but for the order of sums, and on a GPU its kernels."""
    loose = {"rtol": 1e-2, "atol": 1e-3} if device.type == "cuda" else {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(ours.cpu(), theirs.cpu(), **loose)


# --- the engine -------------------------------------------------------------------------------------------------------


def two_streams(data: Split) -> list[Stream]:
    marks = (data.of(1), data.of(7))
    return [
        Stream((data,), 20, augment=True),
        Stream(marks, 6, summed_cross_entropy, every=2, shuffle=False, limit=2),
    ]


def soft(data: Split) -> list[Stream]:
    return [Stream((Split(data.x, F.one_hot(data.y, 10).float()),), 20)]


def entangled(data: Split) -> list[Stream]:
    loss = Entanglement(2, 0.2, "euclidean", 6, data.x.device)

    def watermark(net: Net, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        logits, taps = net.activations(x)
        snnl = loss([tap.relu() for tap in taps.values()][-2:])
        return {"loss": F.cross_entropy(logits, y) - snnl, "snnl": snnl, "classes": class_snnl(logits, y, 0.2)}

    return [Stream((data,), 20), Stream((data.of(1), data.of(7)), 6, watermark)]


KINDS: dict[str, Callable[[Split], list[Stream]]] = {"two": two_streams, "soft": soft, "entangled": entangled}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", KINDS)
def test_streams_of_every_kind_train_as_on_the_processor(device: torch.device, kind: str, precision: Any) -> None:
    trained = []
    for place in (device, torch.device("cpu")):
        lent = engine(place, precision=precision, augment="crop-flip", capture=False)
        net = lent.train(lent.build(), KINDS[kind](split(place)), 2)
        trained.append((lent.predict(net, split(place).x), lent.curves[0]))
    (ours, curves), (theirs, others) = trained
    if precision == "fp32" and device.type != "cuda":  # dropout draws other masks on a GPU
        close(device, ours, theirs)
        assert curves == {name: pytest.approx(values, rel=1e-4) for name, values in others.items()}
    assert ours.isfinite().all() and not noted("wait", in_step=True)


@pytest.mark.parametrize(
    "recipe",
    [
        {"optimizer": "sgd", "schedule": "one-cycle", "clip_norm": 1.0, "weight_decay": 1e-3},
        {"optimizer": "adamw", "schedule": "cosine", "warmup": 0.2, "label_smoothing": 0.1},
        {"optimizer": "adam", "schedule": "steps"},
    ],
    ids=lambda recipe: recipe["optimizer"],
)
def test_every_optimizer_steps_on_the_device_alone(device: torch.device, recipe: dict[str, Any]) -> None:
    lent = engine(device, **recipe)
    net = lent.train(lent.build(), [lent.stream(split(device))], 2)
    assert lent.predict(net, split(device).x).isfinite().all()
    assert {note.kind for note in LOG if note.in_step} <= {"draw"}, LOG  # dropout's


def test_an_epoch_waits_for_the_device_once_however_many_steps_it_has(device: torch.device) -> None:
    waits = []
    for batch_size in (20, 5):
        lent, data = engine(device), split(device)
        net = lent.build()
        LOG.clear()
        lent.train(net, [Stream((data,), batch_size)], 3)
        waits.append((noted("wait"), noted("copy")))
    assert waits[0] == waits[1]
    if device.type == accelerator.NAME:
        assert waits[0][0]["harness/engine/train.py means"] == 3, "one an epoch"
        assert waits[0][1] == {"harness/engine/batches.py _send": 3}, "the order of an epoch's batches"


def test_answers_and_frequencies_do_not_wait(device: torch.device) -> None:
    lent, data = engine(device), split(device)
    net = lent.build()
    LOG.clear()
    logits, shares = lent.predict(net, data.x), lent.activation_frequencies(net, data.x)
    assert logits.device.type == device.type and {each.device.type for each in shares.values()} == {device.type}
    assert not LOG


def test_epochs_are_measured_when_the_training_is_done(device: torch.device) -> None:
    lent, data = engine(device, watch=True), split(device)
    lent.train(lent.build(), [lent.stream(data)], 2)
    assert not noted("wait", in_step=True)
    measure_epochs(lent, data.of(1), data.of(7), data)
    assert {"accuracy", "success", "snnl:dense"} <= lent.curves[0].keys()
    assert all(len(values) == 2 for values in lent.curves[0].values())


def test_every_data_set_that_is_here_is_split_on_the_device(device: torch.device) -> None:
    data = Data(Path())
    for name in ("digits", "photo-patches"):
        dataset = REGISTRY.component("dataset", name).plugin
        like = REGISTRY.component("dataset", DIGITS).plugin
        parts = [data.other(dataset, like, device)]
        if name == "digits":
            splits = data.splits(dataset, 0, device)
            parts += [splits.train, splits.holdout, splits.disjoint, data.test(dataset, device)]
        assert {each.device.type for part in parts for each in (part.x, part.y)} == {device.type}


# --- whole stages -----------------------------------------------------------------------------------------------------


@pytest.fixture
def on_device(device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Tables]:
    """Run the command line on the device, or another: the tables."""

    def run(*options: object, device: torch.device = device) -> Tables:
        if device.type == accelerator.NAME:
            monkeypatch.setattr(machine, "_device", lambda name: device)
        results = tmp_path / f"results-{len([*tmp_path.iterdir()])}"
        asked = () if "--dataset" in options else ("--dataset", DIGITS)
        words = (*asked, "--seeds", 0, "--quiet", "--jobs", 1, "--device", device, "--results", results)
        command_line("run", *words, "--no-innocents", *options)
        return Tables(results)

    return run


def texts(kind: str) -> list[str]:
    """Plugins of a kind, each with the options of its arms."""
    arms = {name: REGISTRY.found[kind, name].cls.arms for name in REGISTRY.names(kind)}
    return [f"{name}[{arm}]" if arm else name for name in arms for arm in arms[name]]


def attacks() -> list[str]:
    quick = [text for text in texts("attack") if text.partition("[")[0] not in QUICK]
    return [*quick, *(name + options for name, options in QUICK.items())]


def defenses() -> list[str]:
    """With 16 candidates in each of so few batches DeepSigns learns no key."""
    return [text + "[per_batch=64]" if text == "deepsigns-bb" else text for text in texts("defense")]


def surrogates() -> list[str]:
    return [f"retraining[architecture={name}{SLIM.get(name, '')},epochs=1]" for name in REGISTRY.names("architecture")]


def each(option: str, values: list[str]) -> list[str]:
    return [word for value in values for word in (option, value)]


ALL = {
    "defenses": [*each("--defense", defenses()), "--attack", "none", "--analysis", "*", "--nulls", "1"],
    "attacks": ["--defense", "baseline", *each("--attack", attacks()), "--nulls", "0"],
    "architectures": ["--defense", "baseline", *each("--attack", surrogates()), "--nulls", "0"],
}
# torch 2.11's gradient of a 3 x 3 convolution of stride 2 over 1 x 1 inputs, in bfloat16 and channels-last, holds
# memory that nobody wrote: of 30 equal calls on an AMD EPYC 23 gave what is not finite. ResNets for large images
# do so, on images of 8 x 8 pixels in layers 3 and 4.
UNWRITTEN = tuple(f"the model's layer{k}.0.conv1.weight is not finite: training diverged" for k in (3, 4))
LACKS = (
    "picks none of 60 training inputs",
    "held out: too few for triggers",
    "no trigger was found to launder",
    "no trigger was found to remove",
    "the key has no triggers",
    "are not paired with untriggered inputs",
    "another step or a better model may give",
    "the model has no batch norm: there are no statistics to estimate again",
    "have a third class that all nets near by answer",
    "needs 16 held-out samples, holdout=12",
)
"""Reasons of stages that are skipped, as they may be."""


@pytest.mark.parametrize(
    ("which", "precision"),
    [
        ("defenses", "fp32"),
        ("architectures", "fp32"),
        pytest.param("attacks", "fp32", marks=pytest.mark.slow),
        pytest.param("defenses", "bf16", marks=pytest.mark.slow),
        pytest.param("architectures", "bf16", marks=pytest.mark.slow),
    ],
)
def test_every_built_in_plugin_runs_on_the_device(on_device: Callable[..., Tables], which: str, precision: str) -> None:
    if precision == "bf16" and bfloat16_gain() < 0.5:
        pytest.skip("this processor emulates bfloat16: minutes; tests/test_train.py trains in it on every architecture")
    stages = on_device(*ALL[which], "--precision", precision).read("stages")
    unwritten = UNWRITTEN if precision == "bf16" else ()
    ended = stages[~stages["reason"].str.endswith((*LACKS, *unwritten))]
    assert len(ended) > len(stages) / 2 and (ended["status"] == "ok").all(), ended.loc[
        ended["status"] != "ok", "reason"
    ].unique()
    assert {note.kind for note in LOG if note.in_step} <= {"draw"}, [note for note in LOG if note.in_step]
    assert not noted("draw", in_step=False), "drawn on the device: other numbers than on the processor"
    assert not noted("random"), "--deterministic would refuse it on a GPU"
    for kind, known in KNOWN.items():
        new = {place for place in noted(kind) if not place.startswith(known)}
        assert not new, f"{kind}: leave it out if it is in a loop, else name it in KNOWN: {new}"


def test_schemes_that_need_a_clean_model_worth_its_name_run_on_the_device(on_device: Callable[..., Tables]) -> None:
    trained = "digits[train=300,holdout=100,test=60,epochs=6,pretrain=5,batch_size=20,architecture=cnn[width=4]]"
    asked = [
        *each("--defense", ["frontier-stitching", "blackmarks", "deepsigns-bb", "akh", "ipguard"]),
        "--attack",
        "none",
        "--nulls",
        "0",
        "--dataset",
        trained,
    ]
    stages = on_device(*asked).read("stages")
    assert len(stages) and (stages["status"] == "ok").all(), stages["reason"].unique()
    assert {note.kind for note in LOG if note.in_step} <= {"draw"} and not noted("draw", in_step=False)


KNOWN = {
    "wait": (
        *("harness/engine/batches.py _has_refused", "harness/engine/train.py means"),  # once a training, once an epoch
        "harness/engine/optimizers.py _made",  # once a training, where its rate changes: torch looks if it is below 0
        "harness/engine/memo.py",  # once an attack, and a tensor of the model: what was lent is compared
        "harness/inversion.py",  # once a block of steps, and a search: counted below
        *("harness/nets.py fresh_like", "harness/silencing.py"),  # once a layer that is drawn again or silenced
        "harness/metrics.py",  # a number
        *("harness/running/actions.py", "harness/running/rebuilt.py", "harness/running/worker.py"),  # once a stage
        "harness/running/materials.py",  # once a stage
        *("harness/storage/codec.py _check_finite", "harness/storage/store.py"),  # once a model; what is written
        "harness/whitebox.py",  # counting bits, a layer's name: once a verification
        *("harness/triggers.py", "harness/values.py"),  # choosing inputs of a class
        "harness/oracles.py",  # counting answers
        "harness/preprocessing.py serve",  # once a call of an API: the seed of its noise
        "harness/units.py kept",  # once a group of units: answers are compared
        "plugins/",  # counted below
    ),
    "copy": (
        *("harness/data.py", "harness/engine/batches.py _send", "harness/engine/train.py on_device"),
        "harness/engine/optimizers.py __init__",  # once a training whose rate changes
        "harness/inputs.py noisy",  # once a call: noise is drawn on the processor
        "harness/inversion.py",  # as above
        *("harness/nets.py fresh_like", "harness/running/", "harness/silencing.py", "harness/storage/codec.py unpack"),
        *("harness/triggers.py", "harness/units.py", "plugins/"),
    ),
    "float64": (
        "harness/inversion.py",  # a flip rate, once a search
        *("harness/metrics.py", "harness/running/actions.py", "harness/running/rebuilt.py"),
        *("harness/running/materials.py", "harness/storage/codec.py unpack"),  # of a guard, what its plugin made so
        *("plugins/analyses/class_similarity.py", "plugins/analyses/projection.py", "plugins/attacks/"),
    ),
}
"""Places outside of training steps where the host may wait, and the like; all of them are of a stage, not of a loop."""


@pytest.mark.parametrize("attack", ["neural-cleanse[steps={0},attack_rate=0.01]", "retraining[epochs={0}]"])
def test_a_search_does_not_wait_in_its_steps(on_device: Callable[..., Tables], attack: str) -> None:
    waits = []
    for count in (4, 8):
        LOG.clear()
        on_device("--defense", "unmarked", "--attack", attack.format(count), "--nulls", "0")
        waits.append(noted("wait"))
    longer = waits[1] - waits[0]
    assert not longer - Counter({"harness/engine/train.py means": 4}), longer


def test_a_run_gives_the_numbers_of_the_processor(device: torch.device, on_device: Callable[..., Tables]) -> None:
    asked = ("--defense", "ewe", "--attack", "none", "--attack", "retraining", "--nulls", "1")
    numbers = []
    for place in (device, torch.device("cpu")):
        tables = on_device(*asked, device=place)
        cells, evidence = tables.read("cells"), tables.read("evidence")
        assert (cells["status"] == "ok").all()
        numbers.append(
            (cells["surrogate_accuracy"].tolist(), evidence["matches"].tolist(), evidence["trials"].tolist())
        )
    (ours, matches, trials), (theirs, others, same) = numbers
    assert trials == same
    loose = device.type == "cuda"
    assert ours == pytest.approx(theirs, abs=0.1 if loose else 0.02)
    assert matches == pytest.approx(others, abs=4 if loose else 1)


# --- planted faults ---------------------------------------------------------------------------------------------------

FAULTY = """
from __future__ import annotations
import torch
import torch.nn.functional as F
from typing import Literal
from harness import Context, Defense, Key, Marked, Split, Task, option

class Faulty(Defense):
    name = "faulty"
    fault: Literal["item", "tolist", "mask", "moved", "scalar", "float64", "drawn", "inputs", "masked", "index",
                   "generator", "own", "numpy", "types", "pool"] = option("item", doc="Fault.")

    def embed(self, task: Task, ctx: Context) -> Marked:
        x, y = task.train.x, task.train.y
        if self.fault == "inputs":
            x = torch.cat([x, torch.zeros(2, *x.shape[1:], dtype=x.dtype)])
        if self.fault == "masked":
            x = torch.where(torch.zeros(len(x), 1, 1, 1, dtype=torch.bool), x, x.flip(0))
        if self.fault == "index":
            x = x[torch.arange(len(x)).flip(0)]
        if self.fault == "generator":
            x = x.float() / 255 + torch.rand(x.shape, generator=ctx.generator, device=ctx.device)
        if self.fault == "own":
            torch.rand(3, generator=torch.Generator(ctx.device))
        if self.fault == "numpy":
            x.numpy()
        if self.fault == "drawn":
            x = x.float() / 255 + torch.rand(x.shape, device=ctx.device)
        stream = ctx.stream(Split(x, y), self._loss)
        return Marked(ctx.train(ctx.build(), [stream], 1), Key({"trigger": task.train.first(2)}))

    def _loss(self, net, x, y):
        loss = F.cross_entropy(net(x), y)
        if self.fault == "item":
            loss = loss * max(1.0, loss.item())
        if self.fault == "tolist":
            y.tolist()
        if self.fault == "mask":
            loss = loss + net(x)[y > 100].sum()
        if self.fault == "moved":
            loss = loss + y.cpu().sum()
        if self.fault == "scalar":
            loss = loss * torch.tensor(1.0, device=x.device)
        if self.fault == "pool":
            loss = loss + F.adaptive_max_pool2d(net.activations(x)[1]["conv1"], 1).sum()
        if self.fault == "float64":
            loss = loss + y.double().mean().float()
        if self.fault == "types":
            logits = net(x)
            loss = loss + torch.zeros(10, device=x.device).index_copy(0, y[:1], logits[0, :1]).sum()
        return loss
"""


@pytest.fixture
def planted(on_device: Callable[..., Tables], tmp_path: Path) -> Callable[..., str]:
    """Run a scheme with a fault: the reason why its stage failed."""
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "faulty.py").write_text(FAULTY)

    def run(fault: str, *options: object) -> str:
        LOG.clear()
        asked = ("--defense", f"faulty[fault={fault}]", "--attack", "none", "--plugins", tmp_path / "plugins")
        stages = on_device(*asked, "--nulls", 0, *options).read("stages")
        return str(stages.loc[stages["action"] == "embed", "reason"].item())

    return run


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("inputs", "same device: cat has one of (2, 1, 8, 8) on cpu"),
        ("masked", "same device: where has one of (60, 1, 1, 1) on cpu"),
        ("index", "same device: index has one of (60,) on cpu"),
        ("generator", "Expected a 'card' device type for generator but found 'cpu'"),
        ("own", "implement `getNewGenerator`"),
        ("numpy", "can't convert card:0 device type tensor to numpy"),
    ],
)
def test_the_test_device_refuses(test_device: None, planted: Callable[..., str], fault: str, words: str) -> None:
    assert words in planted(fault)


@pytest.mark.parametrize(
    ("fault", "kind", "operation"),
    [
        *(("item", "wait", "_local_scalar_dense"), ("tolist", "wait", "_to_copy"), ("mask", "wait", "index")),
        *(("moved", "wait", "_to_copy"), ("scalar", "copy", "copy_"), ("float64", "float64", "_to_copy")),
    ],
)
def test_the_test_device_notes_within_a_step(
    test_device: None, planted: Callable[..., str], fault: str, kind: str, operation: str
) -> None:
    planted(fault)
    note = next(note for note in LOG if note.in_step)
    assert (note.kind, note.operation) == (kind, operation) and note.place.endswith("faulty.py _loss")


def test_the_test_device_notes_draws(test_device: None, planted: Callable[..., str]) -> None:
    assert not planted("drawn")
    assert [place.split()[-1] for place in noted("draw", in_step=False)] == ["embed"]


def test_the_test_device_notes_gradients_that_are_not_deterministic(
    test_device: None, planted: Callable[..., str]
) -> None:
    assert not planted("pool")
    assert {note.operation for note in LOG if note.kind == "random"} == {"adaptive_max_pool2d_backward"}


def test_autocast_on_the_test_device_finds_types_that_do_not_fit(
    test_device: None, planted: Callable[..., str]
) -> None:
    assert not planted("types", "--precision", "fp32")
    assert "dtype" in planted("types", "--precision", "bf16")


@pytest.fixture
def test_device(device: torch.device) -> None:
    if device.type != accelerator.NAME:
        pytest.skip("is about the test device")
