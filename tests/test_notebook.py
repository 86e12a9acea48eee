"""A real notebook's kernel: a class typed in a cell runs in worker processes, and again once it is edited."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import TINY
from tests.test_api import SCHEME

nbclient = pytest.importorskip("nbclient", reason="needs a notebook's kernel: pip install nbclient ipykernel")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")

RUN = f"run = harness.run(None, datasets={TINY!r}, defenses=Wrong(count=9), attacks=['none', Same], nulls=1, jobs=2)"
WITHOUT_METHODS = """
class Same(harness.Attack):
    "Changes nothing, and has no code of its own."
    name = "same"
    family = "none"
"""

# A whole kernel, with the ways of its own that libraries warn of.
pytestmark = pytest.mark.filterwarnings("default")


def executed(cells: list[str], folder: Path) -> list[list[dict[str, Any]]]:
    """The outputs of each cell. Raises what a cell raises."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    return [cell.outputs for cell in notebook.cells]


def text(outputs: list[dict[str, Any]]) -> str:
    """All that a cell shows as text."""
    said = [each.get("text", "") or each.get("data", {}).get("text/plain", "") for each in outputs]
    return "\n".join(said)


def test_a_class_typed_in_a_cell_runs_in_workers_and_again_when_it_is_edited(tmp_path: Path) -> None:
    helper = "def wrong(y, classes):\n    return (y + 2 * SHIFT) % classes"
    cells = [
        SCHEME + WITHOUT_METHODS,
        RUN + "\nrun",
        "run.leaderboard()",
        RUN + "; print(run.outcome.ran)",
        "# Another cell, and a comment in it.\n"
        + SCHEME.partition("class Wrong")[1]
        + SCHEME.partition("class Wrong")[2],
        RUN + "; print(run.outcome.ran)",
        "class Wrong(Wrong):\n    name = 'wrong-labels'\n    count: int = 30",
        RUN + "; print(run.outcome.ran)",
        helper,
        RUN + "; print(run.outcome.ran)",
    ]
    outputs = executed(cells, tmp_path)
    shown = text(outputs[1])
    assert "stages" in shown and "2 cells (2 ok)" in shown, shown
    (result,) = (each for each in outputs[1] if each["output_type"] == "execute_result")
    assert "2 cells (2 ok)" in result["data"]["text/html"]
    (board,) = (each.get("data", each) for each in outputs[2])
    assert "wrong-labels" in board["text/html"] and "<table" in board["text/html"] and "wrong" in board["text/plain"]
    assert text(outputs[3]).strip() == "0", "nothing to do"
    assert text(outputs[5]).strip() == "0", "the same class, typed again"
    assert int(text(outputs[7]).split()[-1]) > 0, "an edited class"
    assert int(text(outputs[9]).split()[-1]) > 0, "an edited helper"
    assert not list(tmp_path.rglob("*.pkl")) and not list(tmp_path.rglob("*.ipynb"))


def test_interrupting_a_cell_keeps_what_is_finished(tmp_path: Path) -> None:
    interrupt = f"""
import os, signal, harness.running.progress as progress
class Interrupting(progress.Notebook):
    def ended(self, record, done, total, left):
        super().ended(record, done, total, left)
        if done == 1:
            os.kill(os.getpid(), signal.SIGINT)
real, progress.Notebook = progress.Notebook, Interrupting
{RUN.replace("jobs=2", "jobs=1")}
progress.Notebook = real
print(run.interrupted, run)
"""
    outputs = executed([SCHEME + WITHOUT_METHODS, interrupt, RUN + "; print(run)"], tmp_path)
    said = text(outputs[1])
    assert "True ran 1 stages" in said and "interrupted: the same call goes on" in said
    assert "2 cells (2 ok)" in text(outputs[2])
