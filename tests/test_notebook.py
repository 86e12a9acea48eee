"""A real notebook's kernel: a class typed in a cell runs in worker processes, and again once it is edited."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import TINY
from tests.test_api import SCHEME

nbclient = pytest.importorskip("nbclient", reason="needs a notebook's kernel: pip install nbclient ipykernel")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")

TOUR = Path(__file__).parents[1] / "docs" / "tour.ipynb"
CALL = (
    f"run = harness.run(None, datasets={TINY!r}, defenses=Wrong(count=9), attacks=['none', Same], nulls=1, jobs=JOBS)"
)
RUN = CALL.replace("JOBS", "1")
WITHOUT_METHODS = """
class Same(harness.Attack):
    "Changes nothing, and has no code of its own."
    name = "same"
    family = "none"
"""

# A whole kernel, with the ways of its own that libraries warn of.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]


def executed(cells: list[str], folder: Path) -> list[list[dict[str, Any]]]:
    """The outputs of each cell. Raises what a cell raises."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    return [cell.outputs for cell in notebook.cells]


def test_the_tour_runs_and_tells_a_copy_from_an_innocent_model(tmp_path: Path) -> None:
    tour = nbformat.read(TOUR, as_version=4)
    assert not any(cell.get("outputs") for cell in tour.cells), "numbers are those of the reader's own run"
    cells = [cell.source for cell in tour.cells if cell.cell_type == "code"]
    shown = list(map(text, executed(cells, tmp_path)))
    boards = [each for each in shown if "no scheme can be ranked" in each]
    assert len(boards) == 3 and "wrong-label" in boards[-1]
    copy, innocent = shown[-2:]
    assert copy.startswith("MARKED") and innocent.startswith("NOT MARKED")


def text(outputs: list[dict[str, Any]]) -> str:
    """All that a cell shows as text."""
    said = [each.get("text", "") or each.get("data", {}).get("text/plain", "") for each in outputs]
    return "\n".join(said)


INTERRUPT = f"""
import os, signal, harness.running.progress as progress
class Interrupting(progress.Notebook):
    def ended(self, record, done, total, left):
        super().ended(record, done, total, left)
        if done == 1:
            os.kill(os.getpid(), signal.SIGINT)
real, progress.Notebook = progress.Notebook, Interrupting
{RUN}
progress.Notebook = real
print(run.interrupted, run)
"""


def test_a_notebook_runs_its_classes_shows_runs_and_boards_and_can_be_interrupted(tmp_path: Path) -> None:
    cells = {
        "types classes": SCHEME + WITHOUT_METHODS,
        "runs in workers": CALL.replace("JOBS", "2") + "\nrun",
        "shows a board": "run.leaderboard()",
        "runs again": RUN + "; print(run.outcome.ran)",
        "types the class again": "# A comment.\nclass Wrong" + SCHEME.partition("class Wrong")[2],
        "runs that": RUN + "; print(run.outcome.ran)",
        "edits the class": "class Wrong(Wrong):\n    name = 'wrong-labels'\n    count: int = 30",
        "runs the edited": RUN + "; print(run.outcome.ran)",
        "edits its helper": "def wrong(y, classes):\n    return (y + 2 * SHIFT) % classes",
        "is interrupted": INTERRUPT,
        "goes on": RUN + "; print(run)",
    }
    outputs = dict(zip(cells, executed(list(cells.values()), tmp_path), strict=True))
    shown = text(outputs["runs in workers"])
    assert "4/4 stages" in shown and "2 cells (2 ok)" in shown, shown
    assert "2 cells (2 ok)" in outputs["runs in workers"][-1]["data"]["text/html"]
    (board,) = (each["data"] for each in outputs["shows a board"])
    assert "wrong-labels" in board["text/html"] and "<table" in board["text/html"] and "wrong" in board["text/plain"]
    assert text(outputs["runs again"]) == text(outputs["runs that"]) == "0\n", "nothing has changed"
    assert int(text(outputs["runs the edited"]).split()[-1]) == 3
    assert "True ran 1 stages" in text(outputs["is interrupted"])
    assert "interrupted: the same call goes on" in text(outputs["is interrupted"])
    assert "ran 2 stages: 2 cells (2 ok)" in text(outputs["goes on"])


DRAWN = """
import os, sys
from click.testing import CliRunner
from harness.cli import cli
before = os.environ["MPLBACKEND"]
done = CliRunner().invoke(cli, ["figures", "--results", "results", "--only", "cost"])
assert done.exit_code == 0, done.output
assert os.environ["MPLBACKEND"] == before
import matplotlib.pyplot as plt
print(plt.get_backend())
"""


def test_a_notebook_checks_its_classes_and_keeps_its_backend(tmp_path: Path) -> None:
    cells = [
        SCHEME + WITHOUT_METHODS + "from harness import testing",
        "testing.check_attack(Same)\nprint('checked')",
        RUN.replace("Wrong(count=9)", "'baseline'").replace("['none', Same]", "'none'"),
        DRAWN,
    ]
    outputs = executed(cells, tmp_path)
    assert "checked" in text(outputs[1])
    assert "inline" in text(outputs[3])


PROMPT = (
    SCHEME
    + WITHOUT_METHODS
    + f"""
from harness import testing
testing.check_attack(Same)
try:
    {RUN}
except harness.UsageError as error:
    print(error)
"""
)


def test_classes_without_a_source_are_checked_and_a_run_says_what_they_need(tmp_path: Path) -> None:
    """As typed into ``python -``: Python before 3.13 keeps no source of it."""
    done = subprocess.run(
        [sys.executable, "-"], input=PROMPT, cwd=tmp_path, capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stderr
    said = "the source of Wrong cannot be found, and results are addressed by it: put the class into a file"
    assert said in done.stdout or sys.version_info >= (3, 13)
