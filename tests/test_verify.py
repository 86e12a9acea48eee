"""An owner's two acts: a key is made and committed to, and suspects of every kind are asked it."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import harness
from harness.errors import UsageError
from harness.owning.answers import logits_of
from harness.owning.embedding import DRAWS
from harness.owning.folder import read_owner
from harness.owning.verdict import Verdict, judge, most_unmarked
from harness.verdicts.rules import Rules
from tests import endpoints
from tests.conftest import ROOT, TINY, Cli, command_line, without
from tests.endpoints import ARCHITECTURE, SHAPE, TRIGGERS, Server, serving
from tests.endpoints import one_registry as one_registry

ANSWERS = {"surrogate": 0, "innocent": 1}


class Copy(nn.Module):
    """The surrogate of :mod:`tests.endpoints` as a module."""

    def forward(self, x: Tensor) -> Tensor:
        bright = (x.mean((1, 2, 3)) > 0.5) & (x[:, 0, 0, 0] > 0.6)
        target, other = nn.functional.one_hot(torch.tensor([7, 1]), 10).float()
        return torch.where(bright[:, None], target, other)


@pytest.fixture(scope="module")
def owner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return endpoints.write(tmp_path_factory.mktemp("owner") / "owner")


def changed(folder: Path, name: str, **values: Any) -> None:
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


# --- the folder ---


def test_a_commitment_is_checked_with_the_tools_of_any_system_and_says_nothing_of_the_key(owner: Path) -> None:
    said = json.loads((owner / "commitment.json").read_text())
    command = f"cat {owner}/secret/opening.bin {owner}/secret/key.safetensors | sha256sum"
    assert (
        subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout.split()[0]
        == said["key"]
    )
    assert said["key"] in (owner / "README.txt").read_text()
    assert said["key"] != hashlib.sha256((owner / "secret" / "key.safetensors").read_bytes()).hexdigest()
    assert (owner / "secret").stat().st_mode & 0o77 == 0
    shown = (owner / "owner.json").read_text() + (owner / "README.txt").read_text()
    assert '"seed"' not in shown and "probe/" not in shown


def test_a_commitment_that_does_not_match_is_one_line(cli: Cli, tmp_path: Path) -> None:
    owner, other = endpoints.write(tmp_path / "one"), endpoints.write(tmp_path / "other")
    said = cli("verify", owner, owner, "--commitment", other / "commitment.json", code=2).err
    assert "does not match the key in" in said and len(said.splitlines()) == 1
    changed(owner, "owner.json", unmarked={"none": {"trigger": [[0, TRIGGERS]] * 19}})
    assert "does not match the owner.json in" in cli("verify", owner, owner, code=2).err
    (owner / "commitment.json").unlink()
    said = cli("verify", owner, owner, code=1).out
    assert "commitment  none is there" in said and "that the key is older than the suspect" in said


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("owner.json", '{"format": 9}', "is of version 9, and this harness reads 1: use the harness that wrote it"),
        ("commitment.json", '{"format": 2}', "is of version 2, and this harness reads 1"),
        ("owner.json", "{", "is not JSON"),
        ("owner.json", "[]", "holds no object of JSON"),
        ("owner.json", '{"format": 1}', "is damaged: its fields are not those of version 1"),
        ("commitment.json", "?", "is not JSON"),
        ("owner.json", None, "is no folder that harness embed wrote: it has no owner.json"),
        ("secret/key.safetensors", None, "cannot read "),
    ],
)
def test_a_folder_of_another_version_or_a_damaged_one_is_one_line(
    cli: Cli, tmp_path: Path, name: str, text: str | None, message: str
) -> None:
    owner = endpoints.write(tmp_path / "owner")
    (owner / name).unlink() if text is None else (owner / name).write_text(text)
    said = cli("verify", owner, owner, code=2).err
    assert message in said and len(said.splitlines()) == 1


# --- suspects ---


def test_a_file_of_weights_is_a_suspect_with_its_architecture(cli: Cli, owner: Path, tmp_path: Path) -> None:
    assert cli("verify", owner, owner, code=1).out.startswith(f"NOT MARKED: {owner} (weights)")
    weights = load_file(owner / "victim.safetensors")
    save_file(weights, tmp_path / "a.safetensors")
    torch.save({"state_dict": weights}, tmp_path / "a.pt")
    for name in ("a.safetensors", "a.pt"):
        assert "type --architecture NAME" in cli("verify", owner, tmp_path / name, code=2).err
        cli("verify", owner, tmp_path / name, "--architecture", ARCHITECTURE, code=1)
        wide = cli("verify", owner, tmp_path / name, "--architecture", "mlp[width=9]", code=2).err
        assert "is not of the architecture mlp[width=9]: '" in wide and "is expected" in wide
    torch.save(Copy(), tmp_path / "pickled.pt")
    assert "is not a file of weights" in cli("verify", owner, tmp_path / "pickled.pt", code=2).err


def test_torchscript_is_a_suspect(cli: Cli, owner: Path, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that TorchScript is deprecated
        torch.jit.trace(Copy(), torch.rand(2, *SHAPE)).save(tmp_path / "a.pt")
    said = cli("verify", owner, tmp_path / "a.pt", code=0).out
    assert said.startswith(f"MARKED: {tmp_path / 'a.pt'} (TorchScript)") and f"34 of {TRIGGERS} as the key says" in said


@pytest.mark.slow
def test_an_exported_program_is_a_suspect_also_for_batches_of_one_size(cli: Cli, owner: Path, tmp_path: Path) -> None:
    torch.export.save(torch.export.export(Copy(), (torch.rand(3, *SHAPE),)), tmp_path / "a.pt2")
    said = cli("verify", owner, tmp_path / "a.pt2", code=0).out
    assert said.startswith(f"MARKED: {tmp_path / 'a.pt2'} (torch.export)") and f"34 of {TRIGGERS}" in said
    (tmp_path / "b.pt2").write_bytes(b"?")
    assert "cannot be read as torch.export" in cli("verify", owner, tmp_path / "b.pt2", code=2).err


def onnx_model(path: Path, operator: str, batch: int | str = "n", shape: tuple[int, ...] = SHAPE) -> Path:
    """A model of one operator on sixteen pixels and a matrix; of ``MatMul`` it answers the brightest of nine."""
    taken = helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, *shape])
    given = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    flat = numpy_helper.from_array(np.array([0, -1], dtype=np.int64), "flat")
    weights = numpy_helper.from_array(np.eye(16, 10, k=-6, dtype=np.float32), "weights")
    nodes = [helper.make_node("Reshape", ["x", "flat"], ["z"]), helper.make_node(operator, ["z", "weights"], ["y"])]
    made = helper.make_model(
        helper.make_graph(nodes, "g", [taken], [given], [flat, weights]), opset_imports=[helper.make_opsetid("", 17)]
    )
    made.ir_version = 8
    onnx.save(made, path)
    return path


def test_an_onnx_file_is_a_suspect_and_unknown_operators_are_one_line(cli: Cli, owner: Path, tmp_path: Path) -> None:
    for batch in ("n", 3):
        said = cli("verify", owner, onnx_model(tmp_path / "a.onnx", "MatMul", batch), code=1).out
        assert said.startswith(f"NOT MARKED: {tmp_path / 'a.onnx'} (ONNX)")
    for path, message in [
        (onnx_model(tmp_path / "b.onnx", "Frobnicate"), "cannot be run by onnxruntime"),
        (onnx_model(tmp_path / "c.onnx", "MatMul", shape=(1, 2, 8)), "takes inputs of shape (1, 2, 8)"),
    ]:
        said = cli("verify", owner, path, code=2).err
        assert message in said and len(said.splitlines()) == 1
    assert "Frobnicate" in cli("verify", owner, tmp_path / "b.onnx", code=2).err


def test_without_the_extra_an_onnx_file_is_one_line(
    cli: Cli, owner: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    said = cli("verify", owner, onnx_model(tmp_path / "a.onnx", "MatMul"), code=2).err
    assert "pip install 'watermark-harness[onnx]'" in said and len(said.splitlines()) == 1


FUNCTIONS = """
import numpy as np
print("a module may print")
def by_torch(x):
    print("so may a function")
    return ((x.mean((1, 2, 3)) > 0.5) & (x[:, 0, 0, 0] > 0.6)).int() * 6 + 1
def by_numpy(x):
    assert isinstance(x, np.ndarray)
    return np.where((x.mean((1, 2, 3)) > 0.5) & (x[:, 0, 0, 0] > 0.6), 7, 1)
def annotated(x: np.ndarray) -> np.ndarray:
    return by_numpy(x)
def broken(x):
    raise RuntimeError("not today\\nnor tomorrow")
def narrow(x):
    return np.zeros((len(x), 3))
def far(x):
    return np.full(len(x), 12)
number = 3
"""


def test_a_function_of_python_is_a_suspect(
    cli: Cli, owner: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_suspect.py").write_text(FUNCTIONS)
    monkeypatch.chdir(tmp_path)
    for name in ("my_suspect:by_torch", "my_suspect:by_numpy", "my_suspect.py:annotated"):
        ended = cli("verify", owner, name, "--json", code=0)
        made = json.loads(ended.out)
        assert made["matches"] == 34 and made["kind"] == "function" and made["p_value"] == 0.05
    for name, message in [
        ("my_suspect:broken", "cannot answer inputs of shape"),
        ("my_suspect:narrow", "by a (40, 3): expected labels [n], or probabilities or logits [n, classes]"),
        ("my_suspect:far", "answers class 12, and the key's task has 10, from 0"),
        ("my_suspect:number", "is no function, but a int"),
        ("my_suspect:nothing", "has no 'nothing': expected module:function"),
        ("no_module_of_mine:f", "cannot be imported (ModuleNotFoundError"),
        ("nowhere.safetensors", "no suspect 'nowhere.safetensors': expected a folder of harness export"),
        ("my_suspect.py", "its ending '.py' is not known"),
    ]:
        said = cli("verify", owner, name, code=2).err.splitlines()
        assert message in said[-1] and sum(line.startswith("harness:") for line in said) == 1


def test_in_python_a_module_is_a_suspect(owner: Path) -> None:
    made = harness.verify(owner, Copy())
    assert made.marked and repr(made).startswith("MARKED: Copy (function), asked the key of ewe\ntrigger     34 of 40")
    assert not harness.verify(owner, endpoints.innocent, sequential=True).marked


def test_options_of_endpoints_are_for_endpoints(cli: Cli, owner: Path, tmp_path: Path) -> None:
    assert "are of endpoints" in cli("verify", owner, owner, "--budget", 5, code=2).err
    white = endpoints.write(tmp_path / "white", scheme="uchida", asks="weights")
    onnx_model(tmp_path / "a.onnx", "MatMul")
    said = cli("verify", white, tmp_path / "a.onnx", code=2).err
    assert "uchida reads its mark from weights, and a suspect of kind ONNX shows none" in said
    own_way = endpoints.write(tmp_path / "adi", scheme="blackmarks")
    assert "asks in its own way: leave it out" in cli("verify", own_way, own_way, "--sequential", code=2).err


def test_a_sequential_verification_of_a_file_stops_too(cli: Cli, owner: Path, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "suspects.py").write_text(FUNCTIONS)
    monkeypatch.chdir(tmp_path)
    made = json.loads(cli("verify", owner, "suspects:by_torch", "--sequential", "--json", code=0).out)
    assert made["trials"] < 20 and made["queries"] >= 2 * made["trials"] and made["p_value"] == 0.05
    assert any("1% for having stopped early" in each for each in made["may_claim"])


@pytest.mark.parametrize(
    ("accused", "asked", "verdict", "claim"),
    [
        (0, 3, "MARKED: ", "accuses 0 (at most 63% of such models, with 95% confidence)"),
        (1, 40, "MARKED: ", "accuses 1 (at most 11% of such models"),
        (1, 1, "MARKED, BUT NOT BY WHOM: ", None),
        (1, 3, "MARKED: ", None),
        (2, 3, "MARKED, BUT NOT BY WHOM: ", None),
    ],
)
def test_a_mark_is_claimed_for_one_owner_where_other_owners_are_not_accused(
    accused: int, asked: int, verdict: str, claim: str | None, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "suspects.py").write_text(FUNCTIONS)
    monkeypatch.chdir(tmp_path)
    pairs = [(TRIGGERS, TRIGGERS)] * accused + [(0, TRIGGERS)] * (asked - accused)
    said = cli("verify", endpoints.write(tmp_path / "owner", others={"trigger": pairs}), "suspects:by_torch").out
    assert said.startswith(verdict)
    assert ("the mark is this key's" in said) == (claim is not None) and (claim or "") in said
    doubt = f"that the mark is yours: the key accuses {accused} of {asked} models that ewe marked for other owners"
    assert (doubt in said) == (claim is None)


def test_a_key_that_unmarked_models_answer_proves_nothing(cli: Cli, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "suspects.py").write_text(FUNCTIONS)
    monkeypatch.chdir(tmp_path)
    useless = endpoints.write(
        tmp_path / "u", unmarked={"none": {"trigger": [(32, 40)] * 19, "control": [(0, 20)] * 19}}
    )
    said = cli("verify", useless, "suspects:by_torch", code=1).out
    assert "anything with this key: unmarked models answer more than 75% of it" in said


# --- the verdict ---


def test_the_largest_p_value_over_all_chains_counts() -> None:
    none, after = [(number % 3, 20) for number in range(19)], [(8, 20)] * 2 + [(0, 20)] * 17
    alone = judge(8, 20, {"none": {"trigger": none}}, Rules())
    both = judge(8, 20, {"none": {"trigger": none}, "retraining": {"trigger": after}}, Rules())
    assert alone.p_value == 0.05 and alone.marked and both.p_value == 0.15 and not both.marked
    assert [each.p_value for each in both.compared] == [0.05, 0.15]
    assert most_unmarked(20, {"none": {"trigger": none}, "retraining": {"trigger": after}}, Rules()) == 8
    assert most_unmarked(20, {"none": {"trigger": [(0, 20)] * 18}}, Rules()) == 20, "18 models are too few"


@pytest.mark.parametrize(
    "answer", [[7, 1], np.array([7, 1]), torch.tensor([[7], [1]]), [[0] * 7 + [1, 0, 0], [0, 1] + [0] * 8]]
)
def test_labels_and_numbers_of_each_class_are_the_same_answers(answer: Any) -> None:
    assert logits_of(answer, 2, 10).argmax(1).tolist() == [7, 1]
    assert logits_of((torch.as_tensor(answer), None), 2, 10).argmax(1).tolist() == [7, 1]


@pytest.mark.parametrize("answer", [None, "text", [1.5, 2], torch.zeros(2, 9), torch.zeros(3, 10), {"a": 1}])
def test_other_answers_are_refused(answer: Any) -> None:
    with pytest.raises(UsageError, match="expected labels"):
        logits_of(answer, 2, 10)


# --- from embed to verdict ---


def test_what_cannot_become_a_key_is_refused_before_anything_runs(cli: Cli, tmp_path: Path) -> None:
    def refused(*words: object) -> str:
        where = ["--output", tmp_path / "owner", "--results", tmp_path / "results"]
        said = cli("embed", "--dataset", TINY, *where, *words, code=2).err
        assert not (tmp_path / "results").exists() and len(said.splitlines()) == 1
        return said

    assert "--nulls 18: a verdict at 95% confidence needs 19" in refused("--defense", "ewe", "--nulls", 18)
    assert "unmarked marks nothing" in refused("--defense", "unmarked")
    assert "dawn marks what its API answers" in refused("--defense", "dawn")
    assert "one data set and one scheme make one key" in refused("--defense", "zhang-*")
    assert "leaves unmarked models as they are" in refused("--defense", "ewe", "--attack", "jsma", "--seed", 1)
    assert "unknown attack 'prunin'" in refused("--defense", "ewe", "--attack", "prunin", "--seed", 1)
    (tmp_path / "owner").write_text("mine")
    assert "is no folder: choose another" in refused("--defense", "ewe")


UNLUCKY = """
from pathlib import Path

from harness import Skip
from tests.plugins_smallest.wrong_label import WrongLabel as Base


class Unlucky(Base):
    \"\"\"A scheme that has no place for its triggers with the first seeds that it is given.\"\"\"

    name = "unlucky"

    unlucky: int = 1
    \"\"\"Number of seeds.\"\"\"

    def embed(self, task, ctx):
        tried = Path(__file__).with_suffix(".tried")
        with tried.open("a") as log:
            log.write("x")
        if len(tried.read_text()) <= self.unlucky:
            raise Skip("no place for a trigger")
        return super().embed(task, ctx)
"""


def test_a_seed_that_the_scheme_skips_is_replaced_where_it_was_drawn(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "unlucky.py").write_text(UNLUCKY)
    where = ["--dataset", TINY, "--results", tmp_path / "results", "--plugins", tmp_path / "plugins"]
    small = [*where, "--nulls", 19, "--others", 0, "--jobs", 1, "--quiet", "--output", tmp_path / "owner"]
    said = cli("embed", "--defense", "unlucky", "--seed", 1, *small, code=2).err
    assert said.startswith("harness: no key was made with seed 1 (") and len(said.splitlines()) == 1
    assert "no place for a trigger): give another" in said and not (tmp_path / "owner").exists()
    said = cli("embed", "--defense", "unlucky[unlucky=99]", *small, code=2).err
    drawn = re.findall(r"^seed (\d+) \(secret\)", said, re.MULTILINE)
    assert len(set(drawn)) == DRAWS and "any of 5 seeds (" in said.splitlines()[-1]
    (tmp_path / "plugins" / "unlucky.tried").unlink()
    said = cli("embed", "--defense", "unlucky", *small, code=0).err
    first, second = re.findall(r"^seed (\d+) \(secret\)", said, re.MULTILINE)
    assert f"no mark with seed {first} (" in said
    assert json.loads((tmp_path / "owner" / "secret" / "origin.json").read_text())["seed"] == int(second)


@pytest.mark.slow
def test_a_marked_model_and_its_surrogate_behind_an_api_are_accused_and_an_unmarked_model_is_not(
    cli: Cli, tmp_path: Path
) -> None:
    """The whole way through the command line: a key, attacked unmarked models, an exported surrogate, a server."""
    data = "digits[train=400,holdout=100,epochs=8,pretrain=4,batch_size=32,learning_rate=0.003]"
    where = ["--dataset", data, "--results", tmp_path / "results", "--quiet"]
    seed = ["--seed", 11, "--nulls", 19, "--others", 1, "--attack", "pruning[fraction=0.1]"]
    cli("embed", "--defense", "ewe", *where, *seed, "--output", tmp_path / "owner", code=0)
    owner = read_owner(tmp_path / "owner")
    assert len(owner.about.unmarked["none"]["trigger"]) == 19
    assert owner.about.victim["trigger"][0] >= 0.8 * owner.about.victim["trigger"][1]
    assert "11" not in json.loads((tmp_path / "owner" / "owner.json").read_text())["dataset"]
    told = json.loads(
        cli("verify", tmp_path / "owner", tmp_path / "owner" / "victim.safetensors", "--json", code=0).out
    )
    assert (told["matches"], told["trials"]) == owner.about.victim["trigger"]
    assert {each["chain"] for each in told["compared"]} == set(owner.about.unmarked)
    same: dict[str, Any] = {"seed": 11, "nulls": 19, "others": 1, "attacks": "pruning[fraction=0.1]", "progress": False}
    again = read_owner(harness.embed("ewe", data, tmp_path / "again", results=tmp_path / "results", **same))
    assert replace(again.about, made="") == replace(owner.about, made="") and again.key_data == owner.key_data
    assert again.commitment == owner.commitment and again.key_digest == owner.key_digest
    cell = f"{data} / ewe / pruning[fraction=0.1] #11"
    cli("export", cell, tmp_path / "stolen", "--without-key", "--results", tmp_path / "results", code=0)
    cli("verify", tmp_path / "owner", tmp_path / "stolen", code=0)
    fresh = ["run", "--matrix", "smoke", "--defense", "unmarked", "--attack", "none", "--seeds", "900", "--nulls", 0]
    cli(*fresh, *where, code=0)
    cli("export", f"{data} / unmarked / none #900", tmp_path / "fresh", "--results", tmp_path / "results", code=0)
    cli("verify", tmp_path / "owner", tmp_path / "fresh", code=1)
    (tmp_path / "api.toml").write_text(
        '[request]\nfield = "instances"\nbatch = 64\n[response]\nfield = "predictions"\n'
    )
    for name, code in (("stolen/surrogate", 0), ("fresh/victim", 1)):
        net = harness.load_model(tmp_path / f"{name}.safetensors")
        server = Server(lambda x, net=net: net(x.view(-1, 1, 8, 8)).argmax(1))  # type: ignore[misc]
        server.inputs = lambda body: body["instances"]
        with serving(server):
            cli("verify", tmp_path / "owner", server.url, "--mapping", tmp_path / "api.toml", code=code)


@pytest.mark.slow
def test_a_verification_imports_no_client_for_a_file(owner: Path) -> None:
    without({"httpx", "onnxruntime", "matplotlib", "pyarrow"}, ["verify", "--help"])
    assert command_line("verify", owner, owner) == 1


# --- the page ---


def test_the_page_on_verification_is_true(cli: Cli, owner: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """Its mapping is asked as it stands, and its verdict is the one that the server of these tests gets."""
    page = (ROOT / "docs" / "verify.md").read_text("utf-8")
    (mapping,) = re.findall(r"^```toml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "api.toml").write_text(mapping.replace("per_second = 5", "per_second = 0"))
    monkeypatch.setenv("API_TOKEN", "secret")
    with serving(Server(token="secret")) as server:
        words = ["--mapping", tmp_path / "api.toml", "--log", tmp_path / "log.jsonl"]
        said = cli("verify", owner, server.url, *words, code=0).out.replace(server.url, "http://127.0.0.1:8000/predict")
    assert len(server.requests[0]["instances"]) == 16 and server.requests[0]["model"] == "v3"
    assert "".join(said.splitlines(keepends=True)[:4]) in page
    for verdict in get_args(Verdict):
        assert f"| {verdict.upper()} |" in page
    for name in ("README.txt", "owner.json", "commitment.json", "victim.safetensors"):
        assert f"| `{name}` |" in page and (owner / name).is_file()
