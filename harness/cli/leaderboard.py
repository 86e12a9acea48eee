"""``harness leaderboard``: rank the schemes."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import click

from harness.cli.options import format_option, open_results, results_option

if TYPE_CHECKING:
    from harness.leaderboard import Attacked, Board, Detected, Ranked
    from harness.statistics import Summary

SCHEME_COLUMNS = (
    *("rank", "scheme", "n", "margin", "worst attack", "verified", "queries"),
    *("false rate", "accuracy cost", "not counted"),
)
ATTACK_COLUMNS = ("attack", "scheme", "n", "success", "held out", "accuracy", "verified", "not counted")
DETECTION_COLUMNS = (
    *("attack", "scheme", "n", "score", "null score", "flagged", "nulls flagged", "rank p"),
    *("target named", "window rank", "not counted"),
)


@click.command(epilog="Example: harness leaderboard --dataset digits --format markdown")
@results_option
@click.option("--dataset", "datasets", multiple=True, help="Only these (globs); by default all.")
@click.option("--defense", "defenses", multiple=True, help="Only these (globs); by default all.")
@click.option("--attack", "attacks", multiple=True, help="Only these (globs); by default all.")
@click.option(
    "--test",
    type=click.Choice(["binomial", "fisher", "t"]),
    default="binomial",
    show_default=True,
    help="Of the surrogate's answers against the null models'.",
)
@click.option("--confidence", type=float, default=0.95, show_default=True, help="Of a verification.")
@click.option("--max-drop", type=float, default=0.10, show_default=True, help="Accuracy below the nulls' that voids.")
@format_option
def leaderboard(
    results: str,
    datasets: tuple[str, ...],
    defenses: tuple[str, ...],
    attacks: tuple[str, ...],
    test: Any,
    confidence: float,
    max_drop: float,
    style: str,
) -> None:
    """Rank the schemes of a results folder by what is left of their mark, with n, spread and what was not counted."""
    from harness.leaderboard import CELL_COLUMNS, STAGE_COLUMNS, Rules, make_board

    rules = Rules(test, confidence, max_drop)
    _, tables = open_results(results)
    cells = tables.read("cells", CELL_COLUMNS)
    for column, wanted in (("dataset", datasets), ("defense", defenses), ("attack", attacks)):
        cells = _chosen(cells, column, wanted)
    found, stages = tables.read("detections"), tables.read("stages", STAGE_COLUMNS)
    # Of the attacks only JSON shows the intervals.
    board = make_board(cells.reset_index(drop=True), found, stages, rules, intervals=style == "json")
    printers: dict[str, Callable[[Board], None]]
    printers = {"terminal": _terminal, "markdown": _markdown, "csv": _csv, "json": _json}
    printers[style](board)


def _chosen(cells: Any, column: str, wanted: tuple[str, ...]) -> Any:
    """The rows whose ``column`` is or fits one of ``wanted``. Raises :class:`UnknownName` for one that fits none."""
    from fnmatch import fnmatchcase

    from harness.errors import UnknownName
    from harness.tables import printable

    if not wanted:
        return cells
    known = list(dict.fromkeys(cells[column]))
    fitting: set[str] = set()
    for pattern in wanted:
        found = {name for name in known if fnmatchcase(name, pattern.replace("[", "[[]"))}
        if not found:
            raise UnknownName(column, pattern, map(printable, known))
        fitting |= found
    return cells[cells[column].isin(fitting)]


# --- printing ---------------------------------------------------------------------------------------------------------


def _terminal(board: Board) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    # No markup and no emoji codes: names may be a stranger's.
    console = Console(width=None if sys.stdout.isatty() else 160, markup=False, emoji=False, highlight=False)
    for title, columns, rows in _sections(board):
        table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
        for column in columns:
            left = column in ("scheme", "attack", "not counted")
            # Two words over narrow numbers stand one above the other, so that the names have room.
            header = column if left else column.replace(" ", "\n")
            table.add_column(header, justify="left" if left else "right", overflow="fold")
        for row in rows:
            table.add_row(*row)
        console.print(table)
    for line in _notes(board):
        console.print(line)


def _markdown(board: Board) -> None:
    for title, columns, rows in _sections(board):
        click.echo(f"**{title}**\n")
        click.echo(f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
        for row in rows:
            click.echo(f"| {' | '.join(value.replace('|', chr(92) + '|') for value in row)} |")
        click.echo()
    for line in _notes(board):
        click.echo(f"{line}\n")


def _csv(board: Board) -> None:
    import csv
    from dataclasses import fields

    from harness.leaderboard import Ranked
    from harness.tables import printable

    writer = csv.writer(sys.stdout, lineterminator="\n")
    summaries = ("margin", "victim_success", "false_rate", "accuracy_cost")
    plain = [field.name for field in fields(Ranked) if field.name not in summaries]
    writer.writerow([*plain, *(f"{name}_{part}" for name in summaries for part in ("mean", "sd", "low", "high"))])
    for scheme in board.as_dict()["schemes"]:
        values = [(scheme[name] or {}).get(part) for name in summaries for part in ("mean", "sd", "low", "high")]
        named = (printable(scheme[key]) if isinstance(scheme[key], str) else scheme[key] for key in plain)
        writer.writerow([*named, *values])


def _json(board: Board) -> None:
    click.echo(json.dumps(board.as_dict(), indent=1))


Section: TypeAlias = tuple[str, tuple[str, ...], list[list[str]]]
"""Title, columns and rows of a table, ready for a terminal."""


def _sections(board: Board) -> list[Section]:
    """For each dataset the ranking, then its attacks."""
    from harness.tables import printable

    sections: list[Section] = []
    named = [scheme.dataset for scheme in board.schemes] + [detected.dataset for detected in board.detections]
    for dataset in dict.fromkeys(named):
        ranked = [_scheme_row(scheme) for scheme in board.schemes if scheme.dataset == dataset]
        attacked = [a for a in board.attacks if a.dataset == dataset]
        by_attack = [
            _attack_row(a) for name in dict.fromkeys(a.attack for a in attacked) for a in attacked if a.attack == name
        ]
        detected = [_detection_row(d) for d in board.detections if d.dataset == dataset]
        if ranked:
            sections.append((f"{dataset}: schemes, ranked by margin", SCHEME_COLUMNS, ranked))
            sections.append((f"{dataset}: what each attack leaves", ATTACK_COLUMNS, by_attack))
        if detected:
            sections.append((f"{dataset}: what detectors see", DETECTION_COLUMNS, detected))
    return [
        (printable(title), columns, [[printable(value) for value in row] for row in rows])
        for title, columns, rows in sections
    ]


def _scheme_row(scheme: Ranked) -> list[str]:
    return [
        str(scheme.rank or "-"),
        scheme.defense,
        str(scheme.seeds),
        _spread(scheme.margin),
        _points(scheme.worst_success),
        _percent(scheme.verified),
        _queries(scheme.queries),
        _spread(scheme.false_rate),
        _spread(scheme.accuracy_cost),
        _not_counted(scheme),
    ]


def _attack_row(attacked: Attacked) -> list[str]:
    return [
        attacked.attack,
        attacked.defense,
        str(attacked.success.n if attacked.success else 0),
        _spread(attacked.success),
        _spread(attacked.held_out),
        _spread(attacked.accuracy),
        _percent(attacked.verified),
        _not_counted(attacked),
    ]


def _detection_row(detected: Detected) -> list[str]:
    return [
        detected.attack,
        detected.defense,
        str(detected.score.n if detected.score else 0),
        _number(detected.score),
        _number(detected.null_score),
        _percent(detected.flagged),
        _percent(detected.null_flagged),
        "-" if math.isnan(detected.rank_p) else f"{detected.rank_p:.2f}",
        _percent(detected.target_hit),
        _percent(detected.window_rank),
        _not_counted(detected),
    ]


def _notes(board: Board) -> list[str]:
    from harness.tables import printable

    rules = board.rules
    tests = {
        "binomial": "an exact binomial test against the upper confidence limit of the null models' rate",
        "fisher": "Fisher's exact test against the null models",
        "t": "the paper's one-sided t-test against the null models",
    }
    return [
        "All in %, mean ± SD over n seeds. success: trigger queries answered as the key says. "
        "margin: success less the null models' (the false rate), a mean over the attacks that count. "
        "worst attack: the least mean success that one of them leaves. "
        "accuracy cost: the null models' accuracy less the victim's.",
        f"verified: share of attacked models that {tests[rules.test]} accuses at {rules.confidence:.0%}. "
        "queries: median for that confidence by the paper's t-test. "
        f"void: accuracy more than {100 * rules.max_drop:g} points below the null models', where no answer counts.",
        *([DETECTION_NOTE] if board.detections else []),
        *(f"Measured on {printable(machine)}." for machine in board.machines),
    ]


DETECTION_NOTE = (
    "score: the detector's statistic, flagged above its own threshold; null score: of models without a mark. "
    "rank p: median over the seeds of (r + 1) / (k + 1), where r of the k null models score as high: it cannot be "
    "below 1 / (k + 1). target named: the suspected class is the key's. window rank: median share of the windows of "
    "the trigger's shape that lie as high on the recovered map as the trigger's own; 50% by chance."
)


def _number(summary: Summary | None) -> str:
    if summary is None:
        return "-"
    return f"{summary.mean:.2f}" if math.isnan(summary.sd) else f"{summary.mean:.2f} ± {summary.sd:.2f}"


def _not_counted(row: Ranked | Attacked | Detected) -> str:
    return (
        ", ".join(f"{count} {name}" for name in ("void", "failed", "skipped") if (count := getattr(row, name))) or "-"
    )


def _spread(summary: Summary | None) -> str:
    if summary is None:
        return "-"
    return _points(summary.mean) if math.isnan(summary.sd) else f"{_points(summary.mean)} ± {_points(summary.sd)}"


def _points(share: float) -> str:
    # Rounded first, so that a rate of -0.0 reads as 0.
    return "-" if math.isnan(share) else f"{round(100 * share, 1) + 0.0:.1f}"


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.0f}%"


def _queries(count: float) -> str:
    if math.isnan(count):
        return "-"
    return "never" if math.isinf(count) else f"{count:.0f}"
