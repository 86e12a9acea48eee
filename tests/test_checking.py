"""``harness plugins check`` in a process of its own: whatever a plugin does, it ends with a reason and exit code 1."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Cli

pytestmark = pytest.mark.slow

HEAD = """
from __future__ import annotations
import ctypes, os, signal, subprocess, sys, threading, time
from pathlib import Path
import torch
from harness import Attack, Context, Pool, WhiteBoxAttack


class _Does(WhiteBoxAttack):
    family = "removal"

    def run(self, victim: torch.nn.Module, pool: Pool, ctx: Context) -> torch.nn.Module:
        self.do()
        return victim
"""
DOES = {
    "a-argparse": (
        "import argparse; argparse.ArgumentParser().parse_args(['--lr'])",
        "it called sys.exit(2) from argparse",
    ),
    "b-quits": ("os._exit(0)", "attack: b-quits: it called os._exit(0)"),
    "c-ends": ("ctypes.CDLL(None)._exit(0)", "its process ended with exit code 0 while it was checked"),
    "d-crashes": ("os.kill(os.getpid(), signal.SIGSEGV)", "its process was killed by SIGSEGV while it was checked"),
    "e-hangs": ("time.sleep(600)", "its check took longer than 8 s: --timeout SECONDS allows for more"),
    "f-prints": ("print('epoch 1')", "it prints: 'epoch 1"),
    "g-tells-stderr": ("print('epoch 2', file=sys.stderr)", "it prints: 'epoch 2"),
    "h-writes": ("os.write(1, b'from C')", "it prints, or programs that it starts: 'from C"),
    "i-starts": (
        "subprocess.run(['echo', 'from a program'])",
        "it prints, or programs that it starts: 'from a program",
    ),
    "j-grad": ("torch.set_grad_enabled(False)", "it changes the process's grad mode"),
    "k-relu": ("torch.nn.functional.relu = torch.tanh", "it changes the process's torch.nn.functional.relu"),
    "l-thread": ("threading.Thread(target=time.sleep, args=(4,)).start()", "it leaves a thread Thread (sleep) running"),
    "m-process": ("os.spawnlp(os.P_NOWAIT, 'sleep', 'sleep', '60')", "it leaves a process sleep running"),
    "n-file": ("Path('log.txt').write_text('x')", "it writes into the current folder: log.txt"),
    "o-draws": ("torch.rand(1)", "it changes the global random state"),
    "p-asks": ("input('continue? ')", "EOFError: EOF when reading a line"),
    "q-nothing": ("pass", ""),
}


def _class(name: str, code: str) -> str:
    return (
        f"class {name.title().replace('-', '')}(_Does):\n"
        f'    """Does something."""\n    name = "{name}"\n\n    def do(self) -> None:\n        {code}\n'
    )


HIDDEN = '''
class R(WhiteBoxAttack):
    """Depends on the global random state, which it puts back."""
    name = "r-hidden"
    family = "removal"

    def run(self, victim: torch.nn.Module, pool: Pool, ctx: Context) -> torch.nn.Module:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            for weight in victim.parameters():
                weight += torch.rand_like(weight)
        return victim
'''


def test_a_check_ends_with_a_reason_whatever_the_plugin_does(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "plugins"
    folder.mkdir()
    (folder / "does.py").write_text(
        "\n\n".join([HEAD, *(_class(name, code) for name, (code, _) in DOES.items()), HIDDEN])
    )
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    said = cli("plugins", "check", *DOES, "r-hidden", "--plugins", folder, "--timeout", 8, code=1)
    found: dict[str, list[str]] = {}
    name = ""
    for line in said.out.splitlines():
        if line.startswith("    "):
            found[name].append(line.strip())
        else:
            name = line.split()[-1]
            found[name] = []
            assert line.split()[0] == ("ok" if name == "q-nothing" else "FAILED")
    for name, (_, reason) in DOES.items():
        assert any(reason in each for each in found[name]) if reason else not found[name], (name, found[name])
    assert found["r-hidden"] == ["attack: the same seed gives other tensors"]
