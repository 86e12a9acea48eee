"""``make gpu``, where there is no GPU: its parts are listed, stopped, go on, and say what is wrong."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from benchmarks import gpu_compare, gpu_parts
from benchmarks.gpu_parts import PARTS, Part, Setting
from tests.conftest import ROOT


@pytest.mark.parametrize("words", [("-n", "gpu"), ("gpu", "--dry-run"), ("--just-print", "gpu")])
def test_make_lists_the_parts_and_their_minutes(words: tuple[str, ...]) -> None:
    if shutil.which("make") is None:
        pytest.skip("needs make")
    asked = ["make", *words, f"PYTHON={sys.executable}", "BIN=none"]
    done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for part in PARTS:
        assert any(line.split()[:2] == [part.name, f"{part.minutes:g}"] for line in done.stdout.splitlines()), part.name
    assert "needs as wheels" in done.stdout


@pytest.fixture
def parts(tmp_path: Path) -> Callable[..., Result]:
    """The command, with its output in a folder of the test."""

    def run(*words: object) -> Result:
        return CliRunner().invoke(gpu_parts.main, [*map(str, words), "--output", str(tmp_path / "gpu")])

    return run


@pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without a GPU")
def test_without_a_gpu_there_is_one_line_and_nothing_is_written(parts: Callable[..., Result], tmp_path: Path) -> None:
    ended = parts()
    assert ended.exit_code == 2
    assert ended.stderr == "error: no CUDA device here: `make gpu` needs one (--dry-run lists its parts)\n"
    assert not (tmp_path / "gpu").exists()


SLOW_ONCE = """
import sys, time
from pathlib import Path
mark = Path(sys.argv[1])
if not mark.exists():
    mark.write_text("begun")
    time.sleep(60)
"""


def test_a_part_that_is_stopped_goes_on_and_one_that_is_done_is_not_run_again(
    parts: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(on: Setting) -> list[list[str]]:
        return [[sys.executable, "-c", SLOW_ONCE, str(on.output / "mark")]]

    def wrong(on: Setting) -> list[list[str]]:
        return [[sys.executable, "-c", "raise SystemExit('what is wrong')"]]

    monkeypatch.setattr(gpu_parts, "PARTS", (Part("slow", 1, "", slow), Part("wrong", 1, "", wrong)))
    monkeypatch.setattr(gpu_parts, "GRACE", 2)
    first = parts("--device", "cpu", "--limit", 4)
    assert first.exit_code == 1 and "slow: stopped: the same command goes on" in first.stderr
    assert "wrong: failed: see" in first.stderr and "what is wrong" in (tmp_path / "gpu" / "wrong.log").read_text()
    second = parts("--device", "cpu", "--limit", 60)
    assert "slow: done" in second.stderr and "wrong: failed" in second.stderr
    third = parts("--device", "cpu")
    assert "slow" not in third.stderr and "wrong: failed" in third.stderr
    book = json.loads((tmp_path / "gpu" / "parts.json").read_text())
    assert (book["slow"]["ended"], book["slow"]["rounds"], book["wrong"]["rounds"]) == ("done", 2, 3)
    page = (tmp_path / "gpu" / "README.md").read_text()
    assert "| torch | " in page and "| slow | done |" in page


@pytest.mark.slow
def test_the_parts_that_run_the_harness_work_on_a_processor(parts: Callable[..., Result], tmp_path: Path) -> None:
    chosen = [word for name in ("equal", "deterministic", "table-1") for word in ("--only", name)]
    ended = parts("--device", "cpu", *chosen)
    assert ended.exit_code == 0, ended.stderr
    page = (tmp_path / "gpu" / "README.md").read_text()
    assert "stages have the same tensors twice" in page and "| bf16 | ewe, retraining: success |" in page
    (record,) = (tmp_path / "gpu" / "records").iterdir()
    assert (record / "manifest.json").is_file() and record.name.endswith("-gpu-table-1")


def test_tensors_that_differ_are_named(tmp_path: Path) -> None:
    for number, digests in ((1, ("a", "b")), (2, ("a", "c"))):
        for label, digest in zip(("clean", "victim"), digests, strict=True):
            path = tmp_path / f"deterministic-{number}" / "artifacts" / "00" / label / "record.json"
            path.parent.mkdir(parents=True)
            path.write_text(json.dumps({"record": {"label": label, "tensors_sha256": digest}}))
    text, good = gpu_compare.deterministic(tmp_path)
    assert not good and "1 of 2 stages" in text and "- differs: victim" in text
