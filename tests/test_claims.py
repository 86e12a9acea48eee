"""Claims: one process at a time, given back however it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Timer

import pytest

from harness.storage.locks import Claims

ONE, TWO = "1" * 32, "2" * 32
HOLD = """
import sys, time
from pathlib import Path
from harness.storage.locks import Claims
claims = Claims(Path(sys.argv[1]))
print(claims.try_acquire(sys.argv[2], label="held"), flush=True)
time.sleep(60)
"""


@contextmanager
def held(results: Path, id: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that has claimed a stage."""
    with subprocess.Popen([sys.executable, "-c", HOLD, results, id], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_claim_is_one_process_s_and_dies_with_it(tmp_path: Path) -> None:
    claims = Claims(tmp_path)
    with held(tmp_path, ONE) as other:
        assert not claims.try_acquire(ONE) and claims.is_taken(ONE)
        assert claims.try_acquire(TWO) and not claims.is_taken(TWO)  # ours is not another's
        (note,) = claims.running()
        assert (note["stage"], note["pid"], note["label"]) == (ONE, other.pid, "held")
        os.kill(other.pid, signal.SIGKILL)
        other.wait()
        assert not claims.is_taken(ONE) and claims.running() == []
        assert claims.try_acquire(ONE)
    claims.close()


def test_what_is_dropped_can_be_taken_by_another(tmp_path: Path) -> None:
    claims = Claims(tmp_path)
    assert claims.try_acquire(ONE)
    claims.release(ONE)
    with held(tmp_path, ONE):
        assert claims.is_taken(ONE)
    claims.close()


def test_a_parent_that_is_computed_again_is_claimed_within_its_child(tmp_path: Path) -> None:
    claims = Claims(tmp_path)
    assert claims.try_acquire(ONE) and not claims.is_taken(ONE)  # which asks, and gives nothing back
    with held(tmp_path, TWO) as other:
        Timer(0.5, other.kill).start()
        with claims.acquire(TWO, label="again"):  # once the other is dead
            (path,) = (
                path for path in claims.folder.glob("*.json") if json.loads(path.read_text())["pid"] == os.getpid()
            )
            assert json.loads(path.read_text())["stage"] == TWO
        assert json.loads(path.read_text())["stage"] == ONE
    with held(tmp_path, TWO):
        assert claims.is_taken(TWO)
    command = [sys.executable, "-c", HOLD, tmp_path, ONE]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "False\n", "the child's claim still holds"
        process.kill()
    claims.release(ONE)
    assert not path.exists()
    with held(tmp_path, ONE):
        pass


def test_looking_leaves_nothing_behind(tmp_path: Path) -> None:
    claims = Claims(tmp_path)
    assert not claims.is_taken(ONE) and claims.running() == [] and not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["", "[]", '{"stage": "../../x"}', '{"stage": 3}', "\xff"])
def test_a_note_that_is_none_is_passed_over(tmp_path: Path, text: str) -> None:
    (tmp_path / "claims").mkdir()
    (tmp_path / "claims" / "a.json").write_text(text, "latin-1")
    (tmp_path / "claims" / "b.json").write_text(json.dumps({"stage": ONE}))
    assert Claims(tmp_path).running() == []


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can look with another user's eyes")
def test_what_runs_in_a_folder_that_may_only_be_read_is_seen(tmp_path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents):  # pytest's own: this one, the process's, the session's, the user's
        if folder.stat().st_mode & 0o005 != 0o005:
            folder.chmod(0o755)
    look = "import sys, os; from pathlib import Path; from harness.storage.locks import Claims; os.setuid(65534); "
    look += "print(*(note['label'] for note in Claims(Path(sys.argv[1])).running()))"
    with held(tmp_path, ONE):
        (tmp_path / "claims" / "locks").chmod(0o644)
        looked = subprocess.run([sys.executable, "-c", look, tmp_path], capture_output=True, text=True)
    assert (looked.stdout, looked.stderr) == ("held\n", "")
