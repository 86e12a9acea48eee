"""Files of the project for its hosts: workflows call what there is, forms can be read, the wheel is in order."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import click
import pytest

from harness.cli import cli as group
from tests.conftest import ROOT

yaml = pytest.importorskip("yaml")
FILES = sorted(
    path
    for path in [
        *ROOT.glob(".github/**/*.yml"),
        *ROOT.glob("leaderboard/.github/**/*.yml"),
        ROOT / ".pre-commit-config.yaml",
        ROOT / "CITATION.cff",
    ]
)
pytestmark = pytest.mark.skipif(not (ROOT / ".github").exists(), reason="not in the source archive")


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text("utf-8"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_for_hosts_can_be_read(path: Path) -> None:
    text = path.read_text("utf-8")
    assert isinstance(read(path), dict)
    assert not re.search(r"https?://", text), "names no host"
    if path.parent.name == "ISSUE_TEMPLATE" and path.name != "config.yml":
        form = read(path)
        assert form["name"] and form["description"] and all(part["type"] for part in form["body"])
        ids = [part["id"] for part in form["body"]]
        assert len(set(ids)) == len(ids)


def steps(path: Path) -> list[dict[str, Any]]:
    return [step for job in read(path)["jobs"].values() for step in job["steps"]]


def test_workflows_call_what_there_is() -> None:
    """Targets of the Makefile, commands of the harness; and no right to write anything."""
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    called = set()
    for path in FILES:
        if path.parent.name != "workflows":
            continue
        assert read(path)["permissions"] == {"contents": "read"}
        for run in [step["run"] for step in steps(path) if "run" in step]:
            for target in re.findall(r"\bmake ([\w-]+)", run):
                assert target in targets, f"{path}: make {target}"
                called.add(target)
            for words in re.findall(r"\bharness ([a-z][^|\n]*)", run):
                command = group.commands[words.split()[0]]
                known = {option for parameter in command.params for option in parameter.opts}
                assert isinstance(command, click.Command) and set(re.findall(r"--[\w-]+", words)) <= known
                called.add(words.split()[0])
            assert "${{" not in run, "an expression in a script runs what somebody else wrote"
    assert {"test", "demo", "check", "test-slow", "test-wheel", "dist", "docs-site", "submit", "site"} <= called


def test_the_workflow_covers_the_pythons_that_pyproject_allows() -> None:
    versions = read(ROOT / ".github" / "workflows" / "tests.yml")["jobs"]["quick"]["strategy"]["matrix"]["python"]
    assert versions == ["3.11", "3.12", "3.13"]
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    assert 'requires-python = ">=3.11"' in text
    assert re.search(r'^version = "(.+)"$', text, re.MULTILINE)[1] == str(read(ROOT / "CITATION.cff")["version"])  # type: ignore[index]
    pinned = (ROOT / "leaderboard" / "requirements.txt").read_text("utf-8").strip()
    assert pinned == f"watermark-harness=={read(ROOT / 'CITATION.cff')['version']}"


def test_hooks_run_the_checks_of_make_check() -> None:
    hooks = [hook["entry"] for repo in read(ROOT / ".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]]
    checks = (ROOT / "Makefile").read_text("utf-8").partition("\ncheck: venv\n")[2].partition("\n\n")[0]
    made = [
        line.strip().removeprefix("$(BIN)/").replace(" --check", "").removesuffix(" .") for line in checks.splitlines()
    ]
    assert hooks == made


@pytest.mark.slow
def test_the_wheel_is_typed_and_fit_to_be_uploaded(tmp_path: Path) -> None:
    pytest.importorskip("build", reason="needs build (the dev extra)")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "harness/py.typed" in names and "harness/report/page.html" in names
    assert not [name for name in names if name.startswith(("plugins/", "tests/", "docs/"))]
    if shutil.which("twine", path=str(Path(sys.executable).parent)):
        checked = subprocess.run(
            [sys.executable, "-m", "twine", "check", "--strict", str(wheel)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert checked.returncode == 0, checked.stdout
