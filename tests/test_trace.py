"""``harness run --profile``: a timeline a stage, that Chrome and Perfetto open."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

import harness
from harness.engine.profile import STEPS, Timeline
from tests.conftest import TINY, Cli


def events(path: Path) -> list[dict[str, Any]]:
    """The events with a duration."""
    written = json.loads(gzip.decompress(path.read_bytes()))
    assert set(written) == {"traceEvents", "displayTimeUnit"}
    return [event for event in written["traceEvents"] if event["ph"] == "X"]


def within(inner: dict[str, Any], outer: dict[str, Any], slack: float = 1000.0) -> bool:
    """Whether an event lies in another one's time; by a millisecond's slack, since two clocks wrote them."""
    return bool(outer["ts"] - slack <= inner["ts"] and inner["ts"] + inner["dur"] <= outer["ts"] + outer["dur"] + slack)


@pytest.mark.slow
def test_every_stage_of_a_profiled_run_has_its_timeline(cli: Cli, tmp_path: Path) -> None:
    chosen = (
        "--dataset",
        TINY,
        "--defense",
        "baseline",
        "--attack",
        "retraining",
        "--seeds",
        "0",
        "--nulls",
        "0",
        "--no-innocents",
    )
    ended = cli("run", *chosen, "--results", tmp_path, "--profile", code=0)
    assert f"timelines in {tmp_path / 'profiles'}" in ended.err
    stages = harness.read_table(tmp_path, "stages")
    paths = {path.name: path for path in (tmp_path / "profiles").iterdir()}
    assert set(paths) == {f"{row.action}-{row.stage}.json.gz" for row in stages.itertuples()}
    for row in stages.itertuples():
        found = events(paths[f"{row.action}-{row.stage}.json.gz"])
        spans = {event["name"]: event for event in found if event["tid"] == 0}
        assert {"load parents", row.action, "store"} <= set(spans)
        assert all(event["dur"] >= 0 and event["ts"] >= 0 for event in spans.values())
        if row.action in ("train", "attack"):
            assert within(spans["epoch 1"], spans["train"]) and within(spans["train"], spans[row.action])
            operations = [event for event in found if event.get("cat") == "cpu_op"]
            assert all(within(event, spans["train"]) for event in operations)
            assert any(event["name"] == "aten::convolution_backward" for event in operations)


@pytest.mark.slow
def test_without_the_option_there_are_no_timelines(cli: Cli, tmp_path: Path) -> None:
    cli("run", "--dataset", TINY, "--defense", "adi", "--attack", "none", "--seeds", "0", "--results", tmp_path, code=0)
    assert not (tmp_path / "profiles").exists()


def test_only_the_first_steps_of_a_training_are_recorded(tmp_path: Path) -> None:
    import torch

    timeline = Timeline("a stage")
    with timeline.span("train"), timeline.operations():
        for _ in range(STEPS + 5):
            torch.ones(3).cumsum(0)
            timeline.stepped()
    timeline.write(tmp_path / "a.json.gz")
    assert sum(event["name"] == "aten::cumsum" for event in events(tmp_path / "a.json.gz")) == STEPS


def test_a_span_ends_with_its_error(tmp_path: Path) -> None:
    timeline = Timeline("a stage")
    with pytest.raises(RuntimeError, match="broken"), timeline.span("load", samples=3), timeline.operations():
        raise RuntimeError("broken")
    timeline.write(tmp_path / "a.json.gz")
    (found,) = (event for event in events(tmp_path / "a.json.gz") if event["tid"] == 0)
    assert (found["name"], found["args"]) == ("load", {"samples": 3})
