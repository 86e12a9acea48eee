"""Nets and marks of a user's own: architectures from libraries and files, given weights, given triggers."""

from __future__ import annotations

import pickle
import re
import shlex
from collections.abc import Callable
from functools import cache
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import harness
from harness import modelfiles, nets
from harness.errors import PluginError, UsageError
from harness.inputs import MEAN, SD
from harness.planning.content import Contents
from harness.planning.graph import Component
from harness.planning.registry import Registry, load_registry
from harness.planning.sources import forget
from harness.records.replay import replay
from harness.running.machine import Machine
from tests.conftest import ROOT, TINY, Cli, without
from tests.test_docs import blocks

NET = dedent("""
    import torch
    from torch import nn
    from blocks import block

    class Net(nn.Module):
        def __init__(self, num_classes=10):
            super().__init__()
            self.body = nn.Sequential(block(1, 8), nn.AdaptiveAvgPool2d(2), nn.Flatten())
            self.extra = nn.Linear(32, 32)
            self.head = nn.Linear(32, num_classes)

        def forward(self, x):
            x = self.body(x)
            if x.mean() > 0.3:  # control flow that depends on the inputs
                x = torch.relu(self.extra(x))
            return self.head(x)

    class Shaped(nn.Sequential):
        def __init__(self, input_shape, classes, width=4):
            super().__init__(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, classes))

    def fixed():
        return Shaped((1, 8, 8), 10)

    def broken():
        raise KeyError("no such thing")

    def needy(classes, shape_, third):
        pass

    number = 3
""")
BLOCKS = dedent("""
    from torch import nn

    def block(inputs, outputs):
        return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU())
""")
SHAPE, CLASSES, SPAN = (1, 8, 8), tuple("0123456789"), (0.0, 1.0)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder, as the working directory: a net and a module beside it."""
    (tmp_path / "my_net.py").write_text(NET)
    (tmp_path / "blocks.py").write_text(BLOCKS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@cache
def known() -> Registry:
    """The built-in plugins, found once."""
    return load_registry()


def component(kind: Any, text: str) -> Component:
    """A plugin as a plan has it: its digest covers the files that it names."""
    forget()
    contents = Contents(None, lambda text: "", lambda message: None)
    return Registry(found=known().found, contents=contents).component(kind, text)


def built(text: str, shape: tuple[int, ...] = SHAPE, classes: int = 10) -> nets.Net:
    return nets.build(known().component("architecture", text).plugin, shape, classes)


# --- architectures ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Net", "Shaped", "fixed"])
def test_a_class_is_called_as_its_signature_takes_it(place: Path, name: str) -> None:
    net = built(f"module[path=my_net.py:{name}]")
    assert net(torch.zeros(3, *SHAPE, dtype=torch.uint8)).shape == (3, 10)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("my_net.py", "path='my_net.py' must be FILE.py:CLASS, as in path=my_net.py:Net"),
        ("my_other.py:Net", "no file 'my_other.py' here"),
        ("my_net.py:Nett", "unknown class of my_net.py 'Nett'. Did you mean 'Net'? Known: Net, Shaped, block"),
        ("my_net.py:number", "my_net.py: number is a int, not a class of torch.nn.Module"),
        ("my_net.py:broken", "my_net.py:broken() fails (KeyError: 'no such thing')"),
        ("my_net.py:needy", "my_net.py:needy needs shape_, third: its constructor must take (), (classes) or"),
        ("torn.py:Net", "torn.py is not Python"),
        ("raising.py:Net", "raising.py cannot be executed (ZeroDivisionError: division by zero)"),
    ],
)
def test_a_class_that_cannot_be_had_is_one_line(place: Path, text: str, said: str) -> None:
    (place / "torn.py").write_text("class Net(:")
    (place / "raising.py").write_text("1 / 0\nclass Net: pass")
    with pytest.raises(UsageError) as caught:
        modelfiles.construct(text, SHAPE, 10)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_hidden_layers_are_those_that_run_whatever_the_inputs(place: Path) -> None:
    net = built("module[path=my_net.py:Net]").eval()
    assert net.hidden == ("body.0.0",) and net.last == "head"
    bright = torch.full((2, *SHAPE), 50.0)
    with torch.no_grad():
        body: Any = net.get_submodule("body")
        assert float(body(bright).mean()) > 0.3 > float(body(bright * 0).mean())
    assert net.activations(bright)[0].shape == net.activations(bright * 0)[0].shape == (2, 10)


def test_a_hidden_layer_that_did_not_run_is_named() -> None:
    class Fickle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x) if x.max() < 2 else x)

    net = nets.adapt(Fickle(), (4,), 2)
    with pytest.raises(PluginError, match="its hidden layer 'first' did not run on these inputs"):
        net.activations(torch.full((2, 4), 3.0))


@pytest.mark.parametrize(
    "text", ["torchvision[model=resnet18]", "torchvision[model=googlenet]", "timm[model=mobilenetv3_small_050]"]
)
def test_models_of_libraries_take_the_tasks_channels_and_classes(text: str) -> None:
    shape = (1, 32, 32)
    net = built(text, shape, 7).train()
    assert net(torch.zeros(2, *shape, dtype=torch.uint8)).shape == (2, 7)
    assert len(net.hidden) > 5


def test_models_that_a_library_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    digits = known().component("dataset", "digits").plugin
    for text in ("torchvision[model=resnet81]", "timm[model=resnet81]"):
        with pytest.raises(UsageError, match=r"has no model 'resnet81': resnet18"):
            known().component("architecture", text).plugin.skip(digits)
    monkeypatch.setattr(modelfiles, "find_spec", lambda name: None)
    said = known().component("architecture", "timm").plugin.skip(digits)
    assert said == "needs timm: pip install 'watermark-harness[timm]'"


# --- weights ----------------------------------------------------------------------------------------------------------


class Thing:
    """Something that only unpickling it by code would give."""


def _saved(what: object) -> Callable[[Path], object]:
    return lambda path: torch.save(what, path)


@pytest.mark.parametrize(
    ("name", "write", "said"),
    [
        ("a.pt", lambda path: None, "no weights file 'a.pt'"),
        ("a.pt", lambda path: path.write_bytes(b"no zip"), "a.pt is not a file of weights"),
        ("a.pt", lambda path: path.write_bytes(pickle.dumps(Thing(), protocol=2)), "a.pt is not a file of weights"),
        ("a.pt", _saved([1, 2]), "a.pt holds a list, not tensors by name: save them by torch.save(net.state_dict()"),
        ("a.pt", _saved({"epoch": 3}), "a.pt holds a dict of other things, not tensors by name"),
        ("a.pt", _saved({"w": torch.tensor([torch.nan])}), "a.pt: w has values that are not finite"),
        ("a.safetensors", lambda path: path.write_bytes(b"garbage"), "a.safetensors is not a file of weights"),
    ],
)
def test_files_that_are_not_weights(place: Path, name: str, write: Callable[[Path], object], said: str) -> None:
    write(place / name)
    with pytest.raises(UsageError) as caught:
        modelfiles.read_weights(name)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_checkpoints_and_prefixes_are_read(place: Path) -> None:
    torch.save({"epoch": 1, "state_dict": {"module.w": torch.ones(2)}}, "a.pt")
    assert torch.equal(modelfiles.read_weights("a.pt")["w"], torch.ones(2))


def test_the_first_difference_of_weights_is_named(place: Path) -> None:
    net = built("mlp[width=8]")
    state = net.state_dict()
    first = next(iter(state))
    for change, said in (
        ({first: None}, f"{first} {list(state[first].shape)} is missing in the file"),
        ({first: torch.ones(2, 3)}, f"{first} is [2, 3] in the file and {list(state[first].shape)} in the net"),
        ({"more": torch.ones(2)}, "the file has more [2], which the net lacks"),
    ):
        torch.save({name: tensor for name, tensor in (state | change).items() if tensor is not None}, "a.pt")
        with pytest.raises(UsageError, match="a.pt does not fit Mlp: ") as caught:
            modelfiles.fill(net, "a.pt")
        assert str(caught.value).endswith(said)
        modelfiles._weights.cache_clear()  # two of the files are of one size and time


def test_nets_start_from_weights_of_other_classes_but_for_the_last_layer(place: Path) -> None:
    given = built("mlp[width=8]", classes=5)
    torch.save(given.state_dict(), "a.pt")
    net = built("mlp[width=8]")
    drawn = net.get_submodule(net.last).get_parameter("weight").clone()
    modelfiles.fill(net, "a.pt", start=True)
    assert torch.equal(net.get_submodule(net.last).get_parameter("weight"), drawn)
    for name, tensor in given.state_dict().items():
        assert name.startswith(net.last) or torch.equal(net.state_dict()[name], tensor)
    with pytest.raises(UsageError, match="does not fit"):
        modelfiles.fill(net, "a.pt")


def test_a_given_model_sees_its_inputs_as_they_are(place: Path) -> None:
    mlp = known().component("architecture", "mlp[width=8]").plugin
    torch.save(nets.build(mlp, SHAPE, 10).state_dict(), "a.pt")
    moments = torch.full((1, 1, 1), 0.3), torch.full((1, 1, 1), 0.2)
    net, start = (nets.build(mlp, SHAPE, 10, moments) for _ in range(2))
    modelfiles.fill(net, "a.pt")
    assert float(net.get_buffer(MEAN)) == 0 and float(net.get_buffer(SD)) == 1
    modelfiles.fill(start, "a.pt", start=True)
    assert float(start.get_buffer(MEAN)) == pytest.approx(0.3)


def test_what_files_hold_addresses_results(place: Path) -> None:
    torch.save({"w": torch.ones(2)}, "a.pt")
    text = "module[path=my_net.py:Net,weights=a.pt]"

    def digest() -> str:
        return component("architecture", text).digest

    first = digest()
    (place / "my_net.py").write_text(f"# a comment\n{NET}")
    assert digest() == first
    (place / "blocks.py").write_text(BLOCKS.replace("3, padding=1", "1"))
    second = digest()
    torch.save({"w": torch.zeros(2)}, "a.pt")
    assert len({first, second, digest()}) == 3
    (place / "a.pt").unlink()
    with pytest.raises(UsageError, match="no file 'a.pt' here"):
        digest()


# --- triggers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x": np.zeros((2, 1, 9, 9), np.uint8), "y": [0, 1]}, "triggers are [1, 9, 9], inputs of this data set [1, 8"),
        ({"x": np.zeros((2, *SHAPE), np.uint8), "y": [0, 10]}, "label 10 of trigger 1 is not a class: 0 to 9"),
        ({"x": np.zeros((2, *SHAPE), np.uint8), "y": [0]}, "has 2 triggers and 1 labels"),
        ({"x": np.zeros((2, *SHAPE), np.uint8), "y": [0.5, 1]}, "y is [2] float64: it needs a whole number"),
        ({"x": np.zeros((2, *SHAPE), np.int64), "y": [0, 1]}, "x is int64: it needs uint8 or floats"),
        ({"x": np.full((2, *SHAPE), 255.0), "y": [0, 1]}, "triggers are 255 to 255, inputs 0 to 1"),
        ({"x": np.array([Thing()]), "y": [0]}, "is not an npz file of plain arrays x and y"),
        ({"images": np.zeros(2)}, "has the arrays images: it needs x and y"),
    ],
)
def test_trigger_arrays_that_do_not_fit(place: Path, arrays: dict[str, Any], said: str) -> None:
    np.savez(place / "t.npz", **arrays)
    with pytest.raises(UsageError) as caught:
        modelfiles.read_triggers("t.npz", SHAPE, CLASSES, SPAN)
    assert said in str(caught.value) and str(caught.value).startswith("t.npz")


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("file,label\na.png,3\nb.png,seven", "t/labels.csv: label 'seven' of b.png is not a class, by number or name"),
        ("a.png,3\nc.png,1", "t/labels.csv: 'c.png' cannot be read"),
        ("a.png,3\nlarge.png,1", "t/labels.csv: images are of several sizes, a.png and large.png"),
        ("a.png", "t/labels.csv: a row must be file,label, not 'a.png'"),
        ("", "t has 0 triggers and 0 labels"),
    ],
)
def test_trigger_folders_that_do_not_fit(place: Path, table: str, said: str) -> None:
    _images(place)
    (place / "t" / "labels.csv").write_text(table)
    with pytest.raises(UsageError) as caught:
        modelfiles.read_triggers("t", SHAPE, CLASSES, SPAN)
    assert said in str(caught.value)


def _images(place: Path) -> None:
    (place / "t").mkdir()
    for name, side in (("a", 8), ("b", 8), ("large", 9)):
        Image.fromarray(np.full((side, side, 3), 40, np.uint8)).save(place / "t" / f"{name}.png")


def test_a_folder_of_images_is_a_trigger_set(place: Path) -> None:
    _images(place)
    (place / "t" / "labels.csv").write_text("file,label\na.png,3\nb.png,cat\n")
    found = modelfiles.read_triggers("t", SHAPE, (*CLASSES, "cat"), SPAN)
    assert found.x.shape == (2, *SHAPE) and found.x.dtype == np.uint8 and found.y.tolist() == [3, 10]
    with pytest.raises(UsageError, match="no trigger set 'nothing'"):
        modelfiles.read_triggers("nothing", SHAPE, CLASSES, SPAN)


def test_float_triggers_become_inputs_of_the_tasks_type() -> None:
    given = modelfiles.Triggers(np.full((1, *SHAPE), 0.5, np.float32), np.array([1]))
    assert modelfiles.as_split(given, torch.zeros(1, dtype=torch.uint8)).x.unique().tolist() == [128]
    assert modelfiles.as_split(given, torch.zeros(1)).x.unique().tolist() == [0.5]


# --- an audit ---------------------------------------------------------------------------------------------------------

MINE = TINY.replace("]", ",architecture=module[path=my_net.py:Net]]")
EXTERNAL = "external[weights=marked.pt,triggers=t.npz]"


def _marked(place: Path) -> None:
    """A model that answers 30 noisy triggers as their owner says, and the trigger set."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (30, *SHAPE), generator=generator).byte()
    with nets.seeded(generator):
        net = built("module[path=my_net.py:Net]").eval()
    torch.save(net.state_dict(), "marked.pt")
    np.savez("t.npz", x=x.numpy(), y=net(x).argmax(1).numpy())


def test_an_audit_is_planned_without_torch_on_one_seed(place: Path) -> None:
    _marked(place)
    said = without({"torch._C"}, ["plan", "--matrix", "audit", "--dataset", MINE, "--defense", EXTERNAL])
    assert "242 cells" in said


def test_faults_end_the_plan_in_one_line(place: Path, cli: Cli) -> None:
    _marked(place)
    for defense, said in (
        ("external[weights=none.pt,triggers=t.npz]", "no file 'none.pt' here"),
        ("external[weights=marked.pt,triggers=marked.pt]", "marked.pt has the arrays marked/data.pkl"),
    ):
        ended = cli("plan", "--matrix", "audit", "--dataset", MINE, "--defense", defense, code=2)
        assert said in ended.err and ended.err.count("\n") == 1
    ended = cli("plan", "--matrix", "audit", code=0)
    assert "it needs files: external[weights=marked.pt,triggers=triggers.npz]" in ended.out


def test_a_given_model_is_attacked_and_judged_as_one(place: Path, cli: Cli) -> None:
    _marked(place)
    words = ("run", "--matrix", "smoke", "--dataset", MINE, "--defense", EXTERNAL, "--results", "r", "--quiet")
    cli(*words, "--attack", "none", "--attack", "pruning", "--nulls", 1, "--seeds", "0-2", code=0)
    cells = harness.read_table("r", "cells").set_index("attack")
    assert list(cells.index) == ["none", "pruning"] and set(cells["seed"]) == {0}
    evidence = harness.read_table("r", "evidence").set_index("suspect")
    assert evidence.loc["victim", "matches"].max() == 30


def test_the_owners_model_is_the_clean_model(place: Path, cli: Cli) -> None:
    _marked(place)
    mine = MINE.replace("epochs=2", "from_weights=marked.pt,epochs=2")
    words = ("run", "--matrix", "smoke", "--dataset", mine, "--defense", "ewe", "--attack", "none", "--nulls", 1)
    cli(*words, "--results", "r", "--quiet", code=0)
    stages = harness.read_table("r", "stages")
    trained = stages[stages["action"] == "train"].set_index("label")["trained_samples"]
    assert sorted(trained > 0) == [False, True]


def test_unmarked_models_may_be_given_as_files(place: Path, cli: Cli) -> None:
    """They are compared with instead of trained ones; those of the recipe here are of another one than theirs."""
    Path("clean").mkdir()
    for number in range(3):
        with nets.seeded(torch.Generator().manual_seed(number)):
            torch.save(built("module[path=my_net.py:Net]").state_dict(), f"clean/{number}.pt")
    mine = MINE.replace("epochs=2", "unmarked_from=clean,epochs=2")
    words = ("run", "--matrix", "smoke", "--dataset", mine, "--defense", "baseline", "--defense", "unmarked")
    said = cli(*words, "--results", "r", "--quiet", "--nulls", 4, code=2).err
    assert said == "harness: clean has 3 weights files, and 4 unmarked models are asked for: --nulls 3\n"
    assert not Path("r").exists()
    only = ("--attack", "none", "--seeds", "0,1", "--nulls", 3, "--results", "r", "--quiet")
    cli(*words, *only, code=0)
    stages = harness.read_table("r", "stages")
    nulls = stages[stages["label"].str.contains("null #")]
    assert len(nulls) == 3 and not nulls["trained_samples"].any()
    evidence = harness.read_table("r", "evidence")
    assert len(evidence[evidence["suspect"] == "null"]["index"].unique()) == 3
    assert set(evidence["suspect"]) >= {"other-recipe", "same-data"} and "fresh" not in set(evidence["suspect"])
    assert "Compared with 3 unmarked models given as files" in " ".join(
        cli("leaderboard", "--results", "r").out.split()
    )
    torch.save(built("module[path=my_net.py:Net]").state_dict(), "clean/0.pt")
    cli(*words, *only, code=0)
    again = harness.read_table("r", "stages")
    assert again[again["label"].str.contains("null #0")]["stage"].nunique() == 2, "the file is another one"
    assert cli("plan", "--dataset", mine.replace("clean", "none"), code=2).err.count("\n") == 1


# --- what is executed -------------------------------------------------------------------------------------------------


def test_code_that_results_name_is_not_executed_unasked(place: Path, cli: Cli) -> None:
    _marked(place)
    words = ("run", "--matrix", "smoke", "--dataset", MINE, "--defense", EXTERNAL, "--attack", "none", "--nulls", 1)
    cli(*words, "--results", "r", "--quiet", code=0)
    cell = harness.read_table("r", "cells")["cell"].iloc[0]
    cli("export", cell, "out", "--results", "r", code=0)
    with pytest.raises(UsageError, match="its net is built by my_net.py, which is executed"):
        harness.load_model(place / "out" / "victim.safetensors")
    net = harness.load_model(place / "out" / "victim.safetensors", plugins=["."])
    assert net(torch.zeros(2, *SHAPE)).shape == (2, 10)

    asked = (known(), Machine(device="cpu"), lambda message: None, lambda: False)
    (finding,) = replay(Path("r"), 1, 0, 0.0, *asked).findings[:1]
    assert "names files of its author's" in finding and "such a cell is not run again" in finding


@pytest.mark.slow
def test_the_pages_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli) -> None:
    """Those of docs/own-models.md, on fewer digits and with fewer attacks."""
    page = ROOT / "docs" / "own-models.md"
    monkeypatch.chdir(tmp_path)
    (source,) = blocks(page, "python")
    Path("my_net.py").write_text(source)
    net = built("module[path=my_net.py:Net]")
    Path("clean").mkdir()
    for name in ("net.pt", "marked.pt", *(f"clean/{number}.pt" for number in range(19))):
        torch.save(net.state_dict(), name)
    x = torch.randint(0, 256, (30, *SHAPE), generator=torch.Generator().manual_seed(0)).byte()
    np.savez("triggers.npz", x=x.numpy(), y=net.eval()(x).argmax(1).numpy())
    lines = re.findall(r"^harness .*$", page.read_text("utf-8"), re.MULTILINE)
    assert len(lines) == 7
    for line in lines:
        words = [word.replace("digits[", TINY.removesuffix("]") + ",") for word in shlex.split(line)[1:]]
        few = ("--attack", "none", "--nulls", "2", "--seeds", "0,1", "--quiet") if words[0] == "run" else ()
        cli(*words, *few, code=0)
