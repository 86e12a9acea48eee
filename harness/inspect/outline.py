"""A plan in words: its axes, its stages by action with what is stored of them, and the cells that are skipped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator

from harness.planning.graph import Plan
from harness.planning.matrix import Matrix
from harness.text import duration, printable


def outline(
    matrix: Matrix, plan: Plan, stored: Collection[str], seconds: float, untimed: int, *, stages: bool = False
) -> Iterator[str]:
    """Lines about a plan of which the stages with these ids are ``stored``; with ``stages`` a line for each stage.

    The others take ``seconds`` on one CPU, without the ``untimed`` ones among them, whose time nobody knows.
    """
    if matrix.name:
        yield printable(f"matrix {matrix.name}: {matrix.description}".rstrip(": "))
    for kind, names in (
        ("datasets", {cell.dataset: None for cell in plan.cells}),
        ("defenses", {cell.defense: None for cell in plan.cells}),
        ("attacks", {cell.attack: None for cell in plan.cells}),
    ):
        yield f"  {kind:9} {printable(', '.join(names))}"
    for use in dict.fromkeys(cell.uses[0] for cell in plan.cells if cell.uses):
        if use.stands_for:
            yield printable(f"  {'':9} {use} is {use.stands_for}")
    yield f"  {'seeds':9} {', '.join(map(str, matrix.seeds))}    null models: {matrix.nulls}"
    for stage in plan.stages.values() if stages else ():
        yield f"  {stage.id}  {'stored' if stage.id in stored else '-':6}  {stage.action}: {printable(stage.label)}"
    total = Counter[str](stage.action for stage in plan.stages.values())
    done = Counter[str](stage.action for stage in plan.stages.values() if stage.id in stored)
    yield f"{len(plan.cells)} cells, {len(plan.stages)} stages, {done.total()} stored:"
    for action, count in total.items():
        yield f"  {action:9} {count:6}  ({done[action]} stored)"
    if todo := len(plan.stages) - done.total():
        yield _time(seconds, untimed, todo)
    if plan.asked:
        yield f"asks {plan.asked:,} pairs of a key and a model"
    for reason, count in Counter(cell.skip for cell in plan.cells if cell.skip).items():
        yield f"skipped: {count} cells: {printable(reason)}"


def _time(seconds: float, untimed: int, todo: int) -> str:
    if untimed == todo:
        return "time: not known, since no stage of these kinds was timed yet"
    rest = f", and {untimed} stages of kinds that were never timed" if untimed else ""
    return f"time: about {duration(seconds)} on one CPU{rest}"
