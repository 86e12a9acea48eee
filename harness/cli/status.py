"""``harness status``: the progress of a matrix, and which processes are running."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli.options import data_option, matrix_options, plugins_option, results_option, surveyed
from harness.cli.text import echo, say
from harness.planning.narrowing import Narrowing
from harness.text import duration

if TYPE_CHECKING:
    from harness.inspect.status import Survey

SHOWN = 10
"""Failures that are listed in a terminal."""


@click.command(epilog="Example: harness status --matrix paper --scale small")
@matrix_options
@results_option
@plugins_option
@data_option
@click.option(
    "--format",
    "style",
    type=click.Choice(["terminal", "json"]),
    default="terminal",
    show_default=True,
    help="Output format.",
)
def status(
    matrix_name: str,
    narrowing: Narrowing,
    results: str,
    plugin_folders: tuple[Path, ...],
    data_named: Path | None,
    style: str,
) -> None:
    """Show how many cells and stages are done, running, failed or waiting, and the time left.

    It may be asked while other processes run; it writes nothing.
    """
    matrix, _, survey, address = surveyed(matrix_name, narrowing, plugin_folders, results, data_named)
    facts = _facts(survey, matrix.name, address)
    if style == "json":
        echo(json.dumps(facts, indent=1))
    else:
        _terminal(facts)


def _facts(survey: Survey, matrix: str, results: str) -> dict[str, Any]:
    """The answer as JSON values."""
    from harness.inspect.status import STATES

    def counted(counts: Counter[Any]) -> dict[str, int]:
        return {"total": counts.total(), **{state: counts[state] for state in STATES}}

    actions = survey.count_stages()
    now = datetime.now(UTC)
    return {
        "matrix": matrix,
        "results": results,
        "cells": counted(survey.count_cells()),
        "stages": counted(sum(actions.values(), Counter())),
        "actions": {action: counted(counts) for action, counts in actions.items()},
        "processes": survey.processes,
        "seconds_left": survey.seconds_left(now),
        "running": _running(survey, now),
        "failures": [{"what": what, "reason": reason} for what, reason in survey.failures()],
    }


def _running(survey: Survey, now: datetime) -> list[dict[str, Any]]:
    """The stages that are computed now, those that began first at the top."""
    from harness.inspect.status import seconds_since

    rows = [
        {
            **{name: note.get(name) for name in ("stage", "action", "label", "host", "pid", "started")},
            "seconds": seconds_since(note, now),
            "of_this_matrix": note["stage"] in survey.plan.stages,
        }
        for note in survey.notes
    ]
    return sorted(rows, key=lambda row: -(row["seconds"] or 0.0))


# --- in a terminal ----------------------------------------------------------------------------------------------------


def _terminal(facts: dict[str, Any]) -> None:
    say(f"matrix {facts['matrix']}, results in {facts['results']}")
    for what in ("cells", "stages"):
        say(f"{facts[what]['total']} {what}: {_counts(facts[what])}")
    say(_time_left(facts))
    if facts["actions"]:
        echo()
        _table(facts["actions"])
    if facts["running"]:
        echo("\nrunning now:")
        for row in facts["running"]:
            other = "" if row["of_this_matrix"] else ", of another matrix"
            since = "" if row["seconds"] is None else f"for {duration(row['seconds'])}, "
            say("  ", f"{row['action'] or 'stage'}: {row['label'] or row['stage']}")
            say("    ", f"{since}in process {row['pid']} on {row['host']}{other}")
    if facts["failures"]:
        echo("\nfailed:")
        for failure in facts["failures"][:SHOWN]:
            say("  ", failure["what"])
            say("    ", failure["reason"])
    if len(facts["failures"]) > SHOWN:
        say(f"  ... and {len(facts['failures']) - SHOWN} more: --format json lists all")


def _counts(counts: dict[str, int]) -> str:
    said = [f"{count} {state}" for state, count in counts.items() if state != "total" and count]
    return ", ".join(said) if said else "none"


def _time_left(facts: dict[str, Any]) -> str:
    stages, processes, left = facts["stages"], facts["processes"], facts["seconds_left"]
    at_it = f"{processes or 'no'} process{'es are' if processes > 1 else ' is'} running"
    if not stages["waiting"] + stages["running"]:
        return "nothing is left to do" if not stages["failed"] else "nothing else is left to do"
    if left is None:
        return f"{at_it}; the time left is not known before each kind of stage has run once"
    return f"{at_it}; about {duration(left)} left" + ("" if processes else ", for one process")


def _table(actions: dict[str, dict[str, int]]) -> None:
    """Print a row per action, a column per state."""
    from harness.inspect.status import STATES

    columns = ("total", *STATES)
    say("  ".join([f"{'stages':9}", *(f"{name:>7}" for name in columns)]))
    for action, counts in actions.items():
        say("  ".join([f"{action:9}", *(f"{counts[name] or '-':>7}" for name in columns)]))
