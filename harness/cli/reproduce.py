"""``harness reproduce``: compare a published paper's tables and figures with ours."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli.options import format_option, open_results, planning_registry, results_option
from harness.cli.running import execute, machine_options, report
from harness.cli.tables import HUMAN, csv_text, show
from harness.cli.text import echo, say
from harness.running.machine import Machine
from harness.text import command_line

if TYPE_CHECKING:
    import pandas as pd

    from harness.papers.paper import Experiment, Paper
    from harness.papers.quantities import Frames
    from harness.papers.reproduce import Compared
    from harness.planning.graph import Plan
    from harness.planning.registry import Registry
    from harness.ranking.columns import Sheet
    from harness.storage.tables import Tables


@dataclass(frozen=True)
class Found:
    """An experiment with its compared rows, the ends of its cells, and its picture."""

    paper: Paper
    experiment: Experiment
    scale: str
    compared: list[Compared]
    ends: Counter[str]
    """Cells by status."""
    reasons: list[str]
    machines: list[str]
    picture: Path | None
    no_picture: str
    mixed: list[str]
    """Lines on data sets of which its cells have several contents."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; a number that is not finite is null."""
        from harness.storage.store import plain

        values: dict[str, Any] = plain(
            {
                **{"paper": self.paper.name, "experiment": self.experiment.id, "title": self.experiment.title},
                **{"says": self.experiment.says, "scale": self.scale, "cells": dict(self.ends)},
                **{"reasons": self.reasons, "machines": self.machines, "mixed": self.mixed},
                "picture": str(self.picture) if self.picture else None,
                "rows": [each.as_dict() for each in self.compared],
            }
        )
        return values


@click.command(epilog="Example: harness reproduce ewe-2021 table-1-v1 figure-13 --seeds 0-2")
@click.argument("paper_name", metavar="[PAPER]", required=False)
@click.argument("names", metavar="[EXPERIMENT]...", nargs=-1)
@click.option("--list", "listing", is_flag=True, help="List the experiments, and run nothing.")
@click.option(
    "--scale",
    default="small",
    show_default=True,
    help="Scale. small: minutes on a CPU, not the paper's setting. full: the paper's sizes, hours on a CPU. Some "
    "experiments have more: --list.",
)
@click.option(
    "--dataset",
    "datasets",
    metavar="NAME",
    multiple=True,
    help="Name of a data set, or a glob: run no other of the experiment's. May be repeated.",
)
@click.option("--seeds", help="Seeds instead of the experiment's: 0-4 or 0,2,5-7.")
@click.option("--no-run", is_flag=True, help="Compare what is in the results folder, and run nothing.")
@results_option
@machine_options
@click.option("--quiet", is_flag=True, help="No progress.")
@format_option
def reproduce(
    paper_name: str | None,
    names: tuple[str, ...],
    listing: bool,
    scale: str,
    datasets: tuple[str, ...],
    seeds: str | None,
    no_run: bool,
    results: str,
    machine: Machine,
    quiet: bool,
    style: str,
) -> int:
    """Run a paper's experiments, and compare its numbers with ours. EXPERIMENT is figure-13, say, or all."""
    from harness.errors import UsageError
    from harness.papers.paper import load_paper, papers

    if listing and not names:
        _list([load_paper(name) for name in ([paper_name] if paper_name else papers())], paper_name)
        return 0
    if paper_name is None:
        raise UsageError(f"name a paper: {', '.join(papers())}, or PATH.toml; --list lists their experiments")
    paper = load_paper(paper_name)
    if not names:
        listed = command_line("reproduce", paper_name, "--list")
        raise UsageError(f"name experiments of {paper_name}, or all: {listed} lists them")
    experiments = _chosen(paper, names, scale, datasets)
    if listing:
        _list([replace(paper, experiments={each.id: each for each in experiments})], paper_name)
        return 0
    bench = _Bench(paper, scale, datasets, seeds, no_run, results, machine, quiet)
    code, found = 0, []
    for experiment in experiments:
        ended, one = bench.reproduce(experiment)
        code = max(code, ended)
        found.append(one)
        # One at a time where a person reads along; the other formats are one document.
        if style in HUMAN:
            show(style, _sheet(one), 120)
            echo()
        if ended == 130:
            break
    if not no_run:
        bench.store.flush()
    writers: dict[str, Callable[[list[Found]], None]] = {"csv": _csv, "json": _json}
    if style in writers:
        writers[style](found)
    return code


def _chosen(paper: Paper, names: Sequence[str], scale: str, datasets: Sequence[str]) -> list[Experiment]:
    """The experiments of ``names`` that have ``scale``, and one of ``datasets`` if any are named. Raises
    :class:`UnknownName`.
    """
    from harness.errors import UnknownName

    asked = paper.chosen(names)
    experiments = [each for each in asked if scale in each.scales or not each.documents]
    known_scales = list(dict.fromkeys(each for experiment in asked for each in experiment.scales)) or paper.scales
    if scale not in known_scales:
        raise UnknownName("scale", scale, known_scales)
    for name in datasets:
        if not any(each.matrices(scale, [name]) for each in experiments):
            known = {entry.name for each in experiments for matrix in each.matrices(scale) for entry in matrix.datasets}
            raise UnknownName("data set of these experiments", name, known)
    return [each for each in experiments if not datasets or each.matrices(scale, datasets)]


def _list(papers: list[Paper], asked: str | None) -> None:
    """Print every experiment: the paper's claim, its number of cells at each scale, and the records that answer it."""
    for paper in papers:
        say(f"{paper.name}: {paper.title}")
        say(paper.source)
        say("")
        for experiment in paper.experiments.values():
            cells = ", ".join(f"{experiment.cells(scale)} at {scale}" for scale in experiment.scales)
            say(f"{experiment.id}: {experiment.title}")
            say(f"    {experiment.says}")
            if not experiment.documents:
                say("    formulas alone, nothing to run")
                continue
            say(f"    cells: {cells}")
            for name, size in experiment.records.items():
                say(f"    record: {name} ({size})")
            if not experiment.records:
                say("    no record yet")
    if papers:
        echo()
        say(f"next: {command_line('reproduce', asked or papers[0].name, next(iter(papers[0].experiments), 'all'))}")


class _Bench:
    """Runs experiments in one results folder."""

    def __init__(
        self,
        paper: Paper,
        scale: str,
        datasets: Sequence[str],
        seeds: str | None,
        no_run: bool,
        results: str,
        machine: Machine,
        quiet: bool,
    ) -> None:
        from harness.storage.files import is_record, refuse_record

        self.paper, self.scale, self.datasets, self.seeds, self.no_run = paper, scale, datasets, seeds, no_run
        self.machine, self.quiet = machine, quiet
        self.store, self.tables = open_results(results)
        self.registry: Registry = planning_registry(machine.plugins, machine.data, self.tables, fetch=not no_run)
        self.frozen = is_record(self.store.results)
        if not no_run:
            refuse_record(self.store.results)

    def reproduce(self, experiment: Experiment) -> tuple[int, Found]:
        """Run what is left of an experiment, compare, draw; the exit code with what was found."""
        from harness.papers.reproduce import calculate, compare, gather, narrowed

        plan = self._plan(experiment)
        if plan is None:
            return 0, self._found(experiment, calculate(experiment), None, None)
        experiment = narrowed(experiment, plan, self.registry.component)
        code = 0 if self.no_run else self._run(experiment, plan)
        frames = gather(plan, self.tables, self.registry.component, experiment.picture.x)
        return code, self._found(experiment, compare(experiment, frames, self.registry.component), frames, plan)

    def _plan(self, experiment: Experiment) -> Plan | None:
        """The plan of all the experiment's matrices; ``None`` where it has none."""
        from harness.planning.graph import Plan
        from harness.planning.matrix import parse_seeds
        from harness.planning.narrowing import planned

        matrices = experiment.matrices(self.scale, self.datasets)
        if self.seeds is not None:
            matrices = [replace(matrix, seeds=parse_seeds(self.seeds)) for matrix in matrices]
        plans = [planned(self.registry, matrix) for matrix in matrices]
        if not plans:
            return None
        stages = {id: stage for plan in plans for id, stage in plan.stages.items()}
        cells = {cell.id: cell for plan in plans for cell in plan.cells}
        return Plan(stages, tuple(cells.values()))

    def _run(self, experiment: Experiment, plan: Plan) -> int:
        from harness.running.session import Options

        outcome = execute(plan, self.registry, self.store, self.tables, self.machine, Options(), quiet=self.quiet)
        return report(outcome, plan, self.store.address, err=True, name=experiment.id)

    def _found(
        self, experiment: Experiment, compared: list[Compared], frames: Frames | None, plan: Plan | None
    ) -> Found:
        from harness.storage.contents import mixed

        ends, reasons, machines = _ends(frames, plan, self.tables)
        picture, why = self._draw(experiment, compared, frames)
        mixes = [] if frames is None else mixed(frames.cells)
        return Found(self.paper, experiment, self.scale, compared, ends, reasons, machines, picture, why, mixes)

    def _draw(self, experiment: Experiment, compared: list[Compared], frames: Frames | None) -> tuple[Path | None, str]:
        """The picture's file, or the reason why there is no file."""
        from harness.figures.frames import drawn

        if self.frozen:
            return None, "nothing is written to a record"
        data = drawn(experiment, compared, frames, self.registry.component)
        if data.empty:
            return None, "nothing of what it shows has been measured here"
        from harness.figures.kinds import draw

        path = self.store.results / "figures" / f"{self.paper.name}-{experiment.id}-{self.scale}.png"
        setting = "" if self.scale == "full" or frames is None else f", scale {self.scale}: not the paper's setting"
        draw(experiment.picture.kind, data, f"{experiment.id}: {experiment.title}{setting}", path)
        return path, ""


def _ends(frames: Frames | None, plan: Plan | None, tables: Tables) -> tuple[Counter[str], list[str], list[str]]:
    """Cells by status, the reasons of those that are not ok, and the machines that ran them."""
    from harness.figures.frames import told_apart
    from harness.verdicts.boards import machines

    if frames is None or plan is None:
        return Counter(), [], []
    ends = Counter[str](frames.cells["status"])
    if missing := len(plan.cells) - len(frames.cells):
        ends["not run"] = missing
    bad = frames.cells[frames.cells["status"] != "ok"]
    stages = tables.read("stages")
    own = stages[stages["stage"].isin(plan.stages)]
    # An analysis that cannot be made skips itself, not its cell; that of a missing model has the cell's reason.
    skipped = own[(own["action"] == "analyse") & (own["status"] != "ok") & ~own["reason"].isin(bad["reason"])]
    short = told_apart(frames.cells["dataset"].unique())
    return ends, _reasons(bad, "cells", short) + _reasons(skipped, "analyses", short), machines(own)


def _reasons(rows: pd.DataFrame, kind: str, short: Mapping[str, str]) -> list[str]:
    """The reasons of ``rows``, with how many have each, and with the short names of data sets."""
    lines = []
    for (status, reason), count in rows.groupby(["status", "reason"]).size().items():
        line = str(reason).partition("\n")[0]
        for name, told in sorted(short.items(), key=lambda pair: -len(pair[0])):  # one may end as another does
            line = line.replace(name, told)
        lines.append(f"{status}: {count} {kind}: {line}")
    return lines


# --- printing ---------------------------------------------------------------------------------------------------------


def _sheet(found: Found) -> Sheet:
    """The experiment's table, below what the paper says."""
    from harness.papers.columns import reproduction_table
    from harness.ranking.columns import Sheet
    from harness.text import printable

    title, lead, notes = _title(found), map(printable, _head(found)), map(printable, _notes(found))
    return Sheet([reproduction_table(found.compared)], (), list(notes), printable(title), list(lead))


def _head(found: Found) -> list[str]:
    lines = [f"The paper says: {found.experiment.says}"]
    if found.scale != "full" and found.experiment.documents:
        lines.append(
            f"Scale {found.scale} is NOT the paper's setting: data, epochs, nets or seeds are fewer, so a verdict "
            "here is about this setting. The paper's: --scale full, hours on a CPU."
        )
    return lines


def _notes(found: Found) -> list[str]:
    from harness.papers.reproduce import VERDICTS

    verdicts = Counter(each.verdict for each in found.compared)
    counts = ", ".join(f"{verdicts[name]} {name}" for name in VERDICTS if verdicts[name])
    legend = "; ".join(f"{name}: {VERDICTS[name]}" for name in VERDICTS if verdicts[name])
    notes = [f"{counts}. {legend[:1].upper()}{legend[1:]}."]
    units = sorted({f"{each.label} in {each.unit}" for each in found.compared if each.unit})
    means = (
        "mean ± SD (n - 1) over n seeds (of nulls: n null models), t-interval of the mean"
        if found.experiment.documents
        else "no seeds"
    )
    notes.append(f"Ours: {means}. {', '.join(units)}." if units else f"Ours: {means}.")
    marks = sorted({each.row.mark for each in found.compared})
    sources = sorted({each.row.source for each in found.compared})
    notes.append(f"Paper: {', '.join(sources)}. " + "; ".join(f"{m}: {found.paper.marks[m]}" for m in marks) + ".")
    if useless := max((each.useless for each in found.compared), default=0):
        lost = "accuracy is more than 5 points below that of the victim or of unmarked models, the lower"
        notes.append(f"Up to {useless} cells a row have no useful model, and their successes do not count: its {lost}.")
    if unmarked := max((each.unmarked for each in found.compared), default=0):
        notes.append(f"Up to {unmarked} seeds a row do not count: their copy had no mark to lose.")
    notes += found.mixed
    notes += [f"Not ok: {reason}" for reason in found.reasons]
    notes += [f"Measured on {machine}." for machine in found.machines]
    notes.append(f"Picture: {found.picture}" if found.picture else f"No picture: {found.no_picture}.")
    if found.ends["not run"]:
        notes.append(f"{found.ends['not run']} of {sum(found.ends.values())} cells are not run.")
    return notes


def _title(found: Found) -> str:
    return f"{found.experiment.id}: {found.experiment.title}"


def _csv(found: list[Found]) -> None:
    rows = [
        {"paper_name": each.paper.name, "experiment": each.experiment.id, "scale": each.scale, **row}
        for each in found
        for row in each.as_dict()["rows"]
    ]
    told = [{**row, "values": " ".join(f"{s}:{v}" for s, v in row["values"].items())} for row in rows]
    echo(csv_text([list(rows[0]), *(row.values() for row in told)]), nl=False)


def _json(found: list[Found]) -> None:
    echo(json.dumps([each.as_dict() for each in found], indent=1))
