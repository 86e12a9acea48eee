"""What the tests share: the real command line, in this process or in one of its own, and where the real data are."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import harness
from harness.contracts import Plugin
from harness.planning.registry import PluginInfo, Registry, kind_of
from tests import accelerator, warm

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


LONGEST = ("device", "contract", "notebook", "ray", "norm", "gpu_parts", "api", "docs_commands", "optimizers")
"""Files, without ``test_``, whose slow tests take a minute and more."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files: a worker that began one at the end would work alone."""
    items.sort(key=lambda item: item.path.stem.removeprefix("test_") not in LONGEST)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device",
        default=accelerator.NAME,
        choices=(accelerator.NAME, "cuda"),
        help="Device of tests/on_device.py and test_device_cuda.py: a test device (tests/accelerator.py), or a GPU.",
    )


@pytest.fixture(scope="session")
def device(pytestconfig: pytest.Config) -> torch.device:
    """The device that ``--device`` names."""
    if pytestconfig.getoption("device") == accelerator.NAME:
        return accelerator.install()
    if not torch.cuda.is_available():
        raise pytest.UsageError("--device cuda: no CUDA device here")
    return torch.device("cuda", 0)


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """As a run does by default; and the tests have a process a core. So have those that they start."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
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


def command_line(*args: object) -> int:
    """Run the real command line in this process, for what a whole module's tests share; its exit code."""
    from harness.cli import main

    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as caught:
        patch.setattr(sys, "argv", ["harness", *map(str, args)])
        main()
    return int(caught.value.code or 0)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """The real command line, in this process: ``cli("run", "--matrix", "smoke", code=0)`` also checks its exit code."""

    def run(*args: object, code: int | None = None) -> Ended:
        capsys.readouterr()
        with pytest.MonkeyPatch.context() as patch:
            if args[:2] == ("plugins", "check"):  # its process need not import torch
                patch.setattr("harness.checking.get_context", lambda method: warm.context())
            exit_code = command_line(*args)
        out, err = capsys.readouterr()
        ended = Ended(exit_code, out, err)
        assert code is None or ended.code == code, f"exit code {ended.code}\n{out}\n{err}"
        return ended

    return run


def with_plugins(registry: Registry, *classes: type[Plugin]) -> Registry:
    """``registry``, with plugin classes of a test."""
    for cls in classes:
        kind = kind_of(cls)
        registry.found[kind, cls.name] = PluginInfo(kind, cls, "test", "digest")
    return registry


WITHOUT = """
import json, sys
from harness.cli import main
modules, commands = json.loads(sys.argv[1])
for words in commands:
    sys.argv = ["harness", *words]
    try:
        main()
    except SystemExit as ended:
        assert not ended.code, words
    imported = set(modules) & set(sys.modules)
    assert not imported, (words, imported)
"""


def without(modules: set[str], *commands: Sequence[object]) -> str:
    """Run commands in one new process, see that none of them imports the modules, and return what they say."""
    asked = json.dumps([sorted(modules), [[*map(str, words)] for words in commands]])
    done = subprocess.run([sys.executable, "-c", WITHOUT, asked], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


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
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of the whole preset ``smoke``, run once for all processes of the tests: copy them to change them."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "smoke"
    with Path(f"{folder}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until it is closed: others wait for the one that runs it
        if not (folder / "ended").exists():
            shutil.rmtree(folder, ignore_errors=True)
            assert command_line("run", "--matrix", "smoke", "--results", folder, "--quiet") == 0
            (folder / "ended").touch()
    return folder


@pytest.fixture
def tiny_smoke(tmp_path: Path) -> Path:
    """The preset ``smoke`` with fewer digits: for texts that run it, in place of its name."""
    preset = (Path(harness.__file__).parent / "matrices" / "smoke.toml").read_text("utf-8")
    tiny, count = re.subn(r'"digits\[.*?\]"', f'"{TINY}"', preset)
    assert count == 1
    (tmp_path / "smoke.toml").write_text(tiny)
    return tmp_path / "smoke.toml"


@pytest.fixture
def warm_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """``--jobs`` starts its worker processes with torch imported."""
    monkeypatch.setattr("harness.running.processes.get_context", lambda method: warm.context())


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of the real data sets; skips, with the reason, where there is none."""
    folder = Path(os.environ.get("HARNESS_DATA", ""))
    if not os.environ.get("HARNESS_DATA") or not (folder / "mnist").is_dir():
        pytest.skip("needs HARNESS_DATA to name a folder with the real data sets (mnist/, fashion-mnist/)")
    return folder
