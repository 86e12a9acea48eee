"""What the tests share: the real command line, in this process or in one of its own, and where the real data are."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
TINY = "digits[train=200,holdout=100,epochs=2,pretrain=1,batch_size=32]"
"""Real digits, so few that a stage takes a tenth of a second."""


@dataclass(frozen=True)
class Ended:
    """How a command line ended."""

    code: int
    out: str
    err: str


Cli = Callable[..., Ended]


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """As a run does by default; and the tests have a process a core."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _one_job() -> None:
    """Where a test does not ask for workers: starting some takes longer than its stages."""
    os.environ["HARNESS_JOBS"] = "1"


@pytest.fixture(autouse=True, scope="session")
def _no_cache_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Prepared data go into a folder of the tests' own; processes that they start inherit it."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def _no_plugins_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HARNESS_PLUGINS", raising=False)


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """The real command line, in this process: ``cli("run", "--matrix", "smoke", code=0)`` also checks its exit code."""

    def run(*args: object, code: int | None = None) -> Ended:
        from harness.cli import main

        monkeypatch.setattr(sys, "argv", ["harness", *map(str, args)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main()
        out, err = capsys.readouterr()
        ended = Ended(int(caught.value.code or 0), out, err)
        assert code is None or ended.code == code, f"exit code {ended.code}\n{out}\n{err}"
        return ended

    return run


@pytest.fixture
def process() -> Cli:
    """The real command line, in a process of its own."""

    def run(*args: object, code: int | None = None, cwd: Path | None = None) -> Ended:
        done = subprocess.run(
            [sys.executable, "-m", "harness", *map(str, args)], capture_output=True, text=True, cwd=cwd, check=False
        )
        assert code is None or done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return Ended(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of the real data sets; skips, with the reason, where there is none."""
    folder = Path(os.environ.get("HARNESS_DATA", ""))
    if not os.environ.get("HARNESS_DATA") or not (folder / "mnist").is_dir():
        pytest.skip("needs HARNESS_DATA to name a folder with the real data sets (mnist/, fashion-mnist/)")
    return folder
