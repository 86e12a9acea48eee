"""Every built-in plugin and the engine on the test device: ``tests/on_device.py``, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ON_DEVICE = Path(__file__).with_name("on_device.py")


@pytest.mark.slow
@pytest.mark.parametrize("chosen", ["not slow", "slow"])
def test_what_runs_on_the_test_device(chosen: str) -> None:
    """PyTorch takes a new device before a process's first backward pass alone: other tests have had theirs here."""
    # -P and append: the harness that is tested here, be it the checkout or a wheel.
    command = [sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode", "append"]
    root = ON_DEVICE.parents[1]
    command += ["-c", str(root / "pyproject.toml"), "--rootdir", str(root), "-m", chosen, str(ON_DEVICE)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout + done.stderr
