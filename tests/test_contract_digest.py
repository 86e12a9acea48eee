"""The digest of a plugin's source: changed by code, and by nothing else."""

from __future__ import annotations

import ast
import warnings
from pathlib import Path

import pytest

from harness.planning.graph import source_digest
from tests.conftest import ROOT, Cli
from tests.test_registry import edited

SOURCE = '''\
"""A scheme."""

from __future__ import annotations

import torch

from harness import Context, Defense, Key, Marked, Split, Task, option


class Mine(Defense):
    """Marks a few images."""

    name = "mine"

    count: int = option(5, doc="Number of images.", at_least=1)  # as the paper
    shift: int = 1
    """Added to the right class."""

    def embed(self, task: Task, ctx: Context) -> Marked:
        """Train with wrong labels."""
        chosen = task.holdout.first(self.count)
        trigger = Split(chosen.x, (chosen.y + self.shift) % len(task.dataset.classes))
        stream = ctx.stream(Split(torch.cat([task.train.x, trigger.x]), torch.cat([task.train.y, trigger.y])))
        return Marked(ctx.train(ctx.build(), [stream], ctx.epochs), Key({"trigger": trigger}))
'''

WORDS = {
    "a comment": ("  # as the paper", "  # more than the paper"),
    "a comment that goes": ("  # as the paper", ""),
    "the module's docstring": ("A scheme.", "Another scheme."),
    "a module without docstring": ('"""A scheme."""\n', ""),
    "the class's docstring": ("Marks a few images.", "Marks a few images.\n\n    At length."),
    "a method's docstring": ('        """Train with wrong labels."""\n', ""),
    "an option's words": ("Number of images.", "How many images."),
    "an option without words": (' doc="Number of images.",', ""),
    "an option's docstring": ("Added to the right class.", "What is added."),
    "quotes": ('"mine"', "'mine'"),
    "blank lines": ("    shift", "\n\n    shift"),
    "a line broken": ("(chosen.x, (chosen.y", "(\n            chosen.x, (chosen.y"),
    "parentheses": ("(chosen.y + self.shift)", "((chosen.y) + (self.shift))"),
    "a number spelled otherwise": ("int = 1", "int = 0x1"),
}

CODE = {
    "a default": ("option(5", "option(6"),
    "a bound": ("at_least=1", "at_least=0"),
    "the kind of bound": ("at_least=1", "above=1"),
    "a name": ('"mine"', '"other"'),
    "an operator": ("chosen.y + self", "chosen.y - self"),
    "the order of arguments": ("[task.train.x, trigger.x]", "[trigger.x, task.train.x]"),
    "a string that is used": ('{"trigger"', '{"held_out"'),
    "True for 1": ("int = 1", "int = True"),
    "a float for an int": ("int = 1", "int = 1.0"),
    "a decorator": ("    def embed", "    @torch.no_grad()\n    def embed"),
    "an import": ("import torch\n", "import torch\nimport math\n"),
    "another call's doc": ("ctx.stream(", "ctx.stream(doc='x', split="),
}


def digest(folder: Path, source: str | bytes) -> str:
    path = folder / "mark.py"
    path.write_bytes(source if isinstance(source, bytes) else source.encode())
    source_digest.cache_clear()
    return source_digest(str(path))


@pytest.mark.parametrize("change", WORDS)
def test_words_and_formatting_leave_the_digest(tmp_path: Path, change: str) -> None:
    assert digest(tmp_path, edited(SOURCE, WORDS[change])) == digest(tmp_path, SOURCE)


@pytest.mark.parametrize("change", CODE)
def test_code_changes_the_digest(tmp_path: Path, change: str) -> None:
    assert digest(tmp_path, edited(SOURCE, CODE[change])) != digest(tmp_path, SOURCE)


@pytest.mark.parametrize("path", sorted((ROOT / "plugins").rglob("*.py")), ids=lambda path: path.stem)
def test_a_plugin_written_by_another_hand_is_the_same(tmp_path: Path, path: Path) -> None:
    assert digest(tmp_path, ast.unparse(ast.parse(path.read_bytes()))) == source_digest(str(path))


def test_different_edits_have_different_digests(tmp_path: Path) -> None:
    assert len({digest(tmp_path, edited(SOURCE, change)) for change in CODE.values()}) == len(CODE)


@pytest.mark.parametrize(
    "source", [b"clas Mine:", b"x = '\xff'", b"x = 1\x00", b"0x" + b"f" * 5000, b"x = " + b"(" * 999]
)
def test_a_file_that_cannot_be_parsed_counts_with_every_byte(tmp_path: Path, source: bytes) -> None:
    assert digest(tmp_path, source) != digest(tmp_path, source + b" # a comment")


def test_a_deep_expression_is_no_matter_of_who_asks(tmp_path: Path) -> None:
    chain = "x = " + " + ".join(["1"] * 900)

    def from_below(depth: int) -> str:
        return from_below(depth - 1) if depth else digest(tmp_path, chain)

    assert from_below(0) == from_below(300) != digest(tmp_path, chain + " + 1")


def test_encoding_and_invalid_escapes(tmp_path: Path) -> None:
    plain = digest(tmp_path, "x = 'é'")
    assert digest(tmp_path, "\ufeffx = 'é'") == plain
    assert digest(tmp_path, "# coding: latin-1\nx = 'é'".encode("latin-1")) == plain
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert digest(tmp_path, "x = '\\d'") == digest(tmp_path, "x = '\\\\d'")


def test_the_digest_does_not_depend_on_pythons_version(tmp_path: Path) -> None:
    # Later versions than 3.11 give functions and classes empty `type_params`, for one.
    assert digest(tmp_path, SOURCE) == "44087f3d53e7815d"


def test_a_corrected_comment_reruns_nothing(tmp_path: Path, cli: Cli) -> None:
    axes = ("--dataset", "digits[train=200,holdout=100,epochs=2,pretrain=1]", "--defense", "mine", "--attack", "none")
    args = (
        *axes,
        "--seeds",
        "0",
        "--nulls",
        "1",
        "--no-innocents",
        "--plugins",
        tmp_path,
        "--results",
        tmp_path / "results",
    )
    digest(tmp_path, SOURCE)
    cli("run", *args, "--device", "cpu", code=0)
    digest(tmp_path, edited(SOURCE, WORDS["a comment"], WORDS["an option's words"]))
    assert cli("run", *args, "--device", "cpu", code=0).out.startswith("nothing to do")
    digest(tmp_path, edited(SOURCE, CODE["an operator"]))
    assert "nothing to do" not in cli("run", *args, "--device", "cpu", code=0).out
