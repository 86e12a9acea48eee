"""The documents as a site: every page is in its navigation, it builds without a warning, and asks no network."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from harness.planning.registry import load_registry
from tests.conftest import ROOT, Cli
from tests.test_docs import blocks

CONFIG = ROOT / "mkdocs.yml"


def pages() -> list[str]:
    """Pages of the navigation."""
    return re.findall(r"^ +- [^:\n]+: ([\w-]+\.md)$", CONFIG.read_text("utf-8").partition("\nnav:")[2], re.MULTILINE)


def test_every_page_is_in_the_navigation_once() -> None:
    named = re.findall(
        r'^    "([\w-]+\.md)": "([\w/.]+)",$', (ROOT / "docs" / "hooks.py").read_text("utf-8"), re.MULTILINE
    )
    assert named and all((ROOT / source).is_file() for _, source in named)
    there = {path.name for path in (ROOT / "docs").glob("*.md")} | {page for page, _ in named}
    assert sorted(pages()) == sorted(there), "name the page in the navigation, mkdocs.yml"


@pytest.mark.slow
def test_the_commands_of_the_first_page_run_in_their_order(
    tmp_path: Path, tiny_smoke: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = [each for each in blocks(ROOT / "docs" / "index.md") if "--matrix smoke" in each]
    for line in block.splitlines():
        words = [str(tiny_smoke) if word == "smoke" else word for word in shlex.split(line)[1:]]
        cli(*words, code=0)
    assert (tmp_path / "results" / "report.html").exists()


@pytest.mark.slow
def test_the_first_pages_folder_of_images_becomes_a_board_and_a_marked_model(
    tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commands of the page, with a shorter training and fewer models. The suspect is the marked model itself."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    digits = load_registry().component("dataset", "digits").plugin.load(tmp_path)
    for number, label in enumerate(digits.y_train[:400]):
        file = tmp_path / "flowers" / f"class {label % 3}" / f"{number:03}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(digits.x_train[number][0]).save(file)
    (block,) = [each for each in blocks(ROOT / "docs" / "index.md") if "image-folder" in each]
    few = {
        "run": ("--seeds", 0, "--nulls", 1, "--no-innocents", "--quiet"),
        "embed": ("--nulls", 19, "--others", 0, "--seed", 0),
    }
    for line in block.splitlines():
        text = line.replace("size=32", "size=8,epochs=2,pretrain=1,architecture=mlp,patch=2").replace(" cnn", " mlp")
        words = shlex.split(text)[1:]
        ended = cli(*words, *few.get(words[0], ()))
        assert ended.code == 0 or words[0] == "verify", ended.err  # so short a training may not mark it
        if words[0] == "embed":
            shutil.copyfile("owner/victim.safetensors", "suspect.safetensors")
    assert ended.code in (0, 1) and "p" in ended.out


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_needs_no_network(tmp_path: Path) -> None:
    pytest.importorskip("mkdocstrings", reason="needs the packages of the extra site")
    pytest.importorskip("material", reason="needs the packages of the extra site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "docs")]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    for page in pages():
        text = (tmp_path / "docs" / page).with_suffix(".html").read_text("utf-8")
        loaded = re.findall(r"<(?:script|link|img|iframe|source)\b[^>]*\b(?:src|href)=\"?([^\" >]+)", text)
        assert loaded and not [target for target in loaded if "//" in target], page
        for target in re.findall(r'href="([^"#:]+\.html)', text):
            assert (tmp_path / "docs" / target).is_file(), f"{page}: {target}"
    for sheet in (tmp_path / "docs").rglob("*.css"):
        assert not re.search(r"url\([\"']?https?:|@import", sheet.read_text("utf-8")), sheet
    reference = (tmp_path / "docs" / "api.html").read_text("utf-8")
    assert 'id="harness.api.run"' in reference and not re.search(r":(class|mod|func|meth):<code>", reference)
