"""``harness leaderboard``: rank the schemes."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli.options import chosen, open_results, results_option, rules_options
from harness.cli.tables import HUMAN, Section, check_output, show, write_rows
from harness.cli.text import bars, interval, number, percent, points, spread, whole

if TYPE_CHECKING:
    from harness.ranking.leaderboard import Attacked, Board, Detected, InFamily, Ranked
    from harness.ranking.scoring import Rules
    from harness.statistics.intervals import Summary

SCHEME_COLUMNS = (
    *("rank", "scheme", "n", "margin", "95% interval", "worst attack", "verified"),
    *("hypervolume", "evasion", "not counted"),
)
VERIFYING_COLUMNS = ("scheme", "t-test", "80% power", "95% power", "sequential")
COST_COLUMNS = (
    *("scheme", "n", "victim success", "false rate", "accuracy cost"),
    *("embedding s", "null s", "embedding samples", "null samples"),
)
FAMILY_COLUMNS = ("family", "scheme", "n", "attacks", "margin", "verified", "not counted")
ATTACK_COLUMNS = ("attack", "scheme", "n", "success", "distribution", "held out", "accuracy", "verified", "not counted")
DETECTION_COLUMNS = (
    *("attack", "scheme", "n", "score", "null score", "flagged", "nulls flagged", "rank p"),
    *("target named", "window rank", "not counted"),
)


format_option = click.option(
    "--format",
    "style",
    type=click.Choice(["terminal", "markdown", "csv", "json", "parquet"]),
    default="terminal",
    show_default=True,
    help="How to print; parquet needs --output.",
)
output_option = click.option("--output", type=click.Path(path_type=Path), help="File for --format parquet.")


@click.command(epilog="Example: harness leaderboard --dataset digits --format markdown")
@results_option
@click.option("--dataset", "datasets", multiple=True, help="Only these (globs); by default all.")
@click.option("--defense", "defenses", multiple=True, help="Only these (globs); by default all.")
@click.option("--attack", "attacks", multiple=True, help="Only these (globs); by default all.")
@rules_options()
@click.option(
    "--by",
    type=click.Choice(["dataset", "attack", "family"]),
    help="Only the ranking of each dataset, or what each attack or family of attacks leaves.",
)
@format_option
@output_option
def leaderboard(
    results: str,
    datasets: tuple[str, ...],
    defenses: tuple[str, ...],
    attacks: tuple[str, ...],
    rules: Rules,
    by: str | None,
    style: str,
    output: Path | None,
) -> None:
    """Rank the schemes of a results folder by what is left of their mark, with n, spread and what was not counted."""
    from harness.ranking.leaderboard import COST_COLUMNS, STAGE_COLUMNS, make_board
    from harness.ranking.scoring import CELL_COLUMNS

    check_output(style, output)
    _, tables = open_results(results)
    cells = tables.read("cells", CELL_COLUMNS)
    for column, wanted in (("dataset", datasets), ("defense", defenses), ("attack", attacks)):
        cells = chosen(cells, column, wanted)
    found, stages = tables.read("detections"), tables.read("stages", [*STAGE_COLUMNS, *COST_COLUMNS])
    # People see no intervals of single attacks, and there may be thousands.
    board = make_board(cells.reset_index(drop=True), found, stages, rules, intervals=style not in HUMAN)
    if style in HUMAN:
        show(style, _sections(board, by), _notes(board, by))
    elif style == "json":
        click.echo(json.dumps(board.as_dict(), indent=1))
    else:
        write_rows(*_rows(board, by), output)


# --- what a board shows -----------------------------------------------------------------------------------------------


def _rows(board: Board, by: str | None) -> tuple[type[Any], Sequence[Any]]:
    """The records that a program wants, and of which dataclass."""
    from harness.ranking.leaderboard import Attacked, InFamily, Ranked

    if by == "attack":
        return Attacked, board.attacks
    return (InFamily, board.families) if by == "family" else (Ranked, board.schemes)


def _sections(board: Board, by: str | None) -> list[Section]:
    """For each dataset the ranking, what the mark costs, and what attacks leave; or ``by`` one of these."""
    return [section for dataset in _datasets(board) for section in _sections_of(board, dataset, by) if section[2]]


def _datasets(board: Board) -> list[str]:
    records: list[Ranked | Detected] = [*board.schemes, *board.detections]
    return list(dict.fromkeys(record.dataset for record in records))


def _sections_of(board: Board, dataset: str, by: str | None) -> list[Section]:
    budget = board.rules.budget
    schemes = [scheme for scheme in board.schemes if scheme.dataset == dataset]
    families, attacks = _of(board.families, dataset, "family"), _of(board.attacks, dataset, "attack")
    detected = [_detection_row(d) for d in board.detections if d.dataset == dataset]
    sections: list[Section] = []
    if by in (None, "dataset"):
        ranked = [_scheme_row(scheme, budget) for scheme in schemes]
        sections.append((f"{dataset}: schemes, ranked by margin", _with(SCHEME_COLUMNS, budget), ranked))
        takes = [_verifying_row(scheme) for scheme in schemes]
        sections.append((f"{dataset}: queries to verify at {board.rules.confidence:.0%}", VERIFYING_COLUMNS, takes))
        sections.append((f"{dataset}: what the mark costs", COST_COLUMNS, [_cost_row(scheme) for scheme in schemes]))
    if by == "family":
        rows = [_family_row(family, budget) for family in families]
        sections.append((f"{dataset}: what each family of attacks leaves", _with(FAMILY_COLUMNS, budget), rows))
    if by in (None, "attack"):
        rows = [_attack_row(attack, budget) for attack in attacks]
        sections.append((f"{dataset}: what each attack leaves", _with(ATTACK_COLUMNS, budget), rows))
    if by != "family":
        sections.append((f"{dataset}: what detectors see", DETECTION_COLUMNS, detected))
    return sections


def _of(records: Sequence[Any], dataset: str, name: str) -> list[Any]:
    """Those of a dataset, with those of one ``name`` side by side."""
    here = [record for record in records if record.dataset == dataset]
    order = {value: place for place, value in enumerate(dict.fromkeys(getattr(record, name) for record in here))}
    return sorted(here, key=lambda record: order[getattr(record, name)])


def _with(columns: tuple[str, ...], budget: int | None) -> list[str]:
    """The columns, and behind what is verified what is so within the budget."""
    place = columns.index("verified") + 1
    return [*columns[:place], *([f"within {budget}"] if budget else []), *columns[place:]]


def _scheme_row(scheme: Ranked, budget: int | None) -> list[str]:
    return [
        str(scheme.rank or "-"),
        scheme.defense,
        _n(scheme.margin),
        spread(scheme.margin),
        interval(scheme.margin.low, scheme.margin.high) if scheme.margin else "-",
        f"{spread(scheme.worst)} {scheme.worst_attack}".rstrip(),
        percent(scheme.verified),
        *([spread(scheme.at_budget)] if budget else []),
        spread(scheme.hypervolume),
        spread(scheme.evasion),
        _not_counted(scheme),
    ]


def _verifying_row(scheme: Ranked) -> list[str]:
    needed = (scheme.queries, scheme.queries_80, scheme.queries_95)
    return [scheme.defense, *(whole(count, "never") for count in needed), whole(scheme.queries_sequential, "never", 1)]


def _cost_row(scheme: Ranked) -> list[str]:
    return [
        scheme.defense,
        _n(scheme.victim_success),
        *map(spread, (scheme.victim_success, scheme.false_rate, scheme.accuracy_cost)),
        *(spread(seconds, 1) for seconds in (scheme.embed_seconds, scheme.null_seconds)),
        *(
            "-" if samples is None else f"{samples.mean:,.0f}"
            for samples in (scheme.embed_samples, scheme.null_samples)
        ),
    ]


def _family_row(family: InFamily, budget: int | None) -> list[str]:
    return [
        family.family,
        family.defense,
        _n(family.margin),
        str(family.attacks),
        spread(family.margin),
        percent(family.verified),
        *([spread(family.at_budget)] if budget else []),
        _not_counted(family),
    ]


def _attack_row(attacked: Attacked, budget: int | None) -> list[str]:
    return [
        attacked.attack,
        attacked.defense,
        _n(attacked.success),
        spread(attacked.success),
        bars(attacked.distribution),
        spread(attacked.held_out),
        spread(attacked.accuracy),
        percent(attacked.verified),
        *([percent(attacked.at_budget)] if budget else []),
        _not_counted(attacked),
    ]


def _detection_row(detected: Detected) -> list[str]:
    return [
        detected.attack,
        detected.defense,
        str(detected.score.n if detected.score else 0),
        number(detected.score),
        number(detected.null_score),
        percent(detected.flagged),
        percent(detected.null_flagged),
        "-" if math.isnan(detected.rank_p) else f"{detected.rank_p:.2f}",
        percent(detected.target_hit),
        percent(detected.window_rank),
        _not_counted(detected),
    ]


def _notes(board: Board, by: str | None) -> list[str]:
    from harness.storage.text import printable

    rules = board.rules
    false = "the null models' (the false rate)" if rules.fpr is None else f"{points(rules.fpr)}, assumed by --fpr"
    return [
        "All in %, mean ± SD over n seeds. success: trigger queries answered as the key says. distribution: how many "
        "seeds have a success of 0 to 10, 10 to 20, ... 90 to 100. "
        f"margin: success less {false}, a mean over the extractions and removals that count; "
        "evasion: the same over evasions. worst attack: the least mean success that one of them leaves. "
        "accuracy cost: the null models' accuracy less the victim's.",
        *([f"rank: {board.ranked_by}", _verifying_note(board)] if by in (None, "dataset") else []),
        f"verified: share of attacked models that {rules.accuser} accuses at {rules.confidence:.0%}. "
        + (f"within {rules.budget}: the chance with that many queries at the rates measured. " if rules.budget else "")
        + f"void: accuracy more than {100 * rules.max_drop:g} points below the null models', where no answer counts.",
        *([NO_NULLS_NOTE] if any(scheme.false_rate is None and scheme.margin for scheme in board.schemes) else []),
        *([DETECTION_NOTE] if board.detections and by != "family" else []),
        *(f"Measured on {printable(machine)}." for machine in board.machines),
    ]


def _verifying_note(board: Board) -> str:
    rules = board.rules
    against = "the null models' upper confidence limit" if rules.fpr is None else f"{points(rules.fpr)}%"
    return (
        "queries to verify: of the attacked model in the middle. t-test: the paper's number, with which about half of "
        f"such models are accused. power: the exact test against {against} accuses so many. sequential: expected of "
        "one made for that model's rate that looks after every answer (SPRT), power 95%. hypervolume: what the "
        f"attacks reach together, 0 to 100: the accuracy that one keeps of the {100 * rules.max_drop:g} points by the "
        "share of queries that it leaves unanswered; low is a mark that can only be removed at a price."
    )


NO_NULLS_NOTE = (
    "Where no false rate is shown there are no null models: the margin is the success itself, and nothing is verified. "
    "Type harness run --nulls 3, or assume a rate with --fpr."
)
DETECTION_NOTE = (
    "score: the detector's statistic, flagged above its own threshold; null score: of models without a mark. "
    "rank p: median over the seeds of (r + 1) / (k + 1), where r of the k null models score as high: it cannot be "
    "below 1 / (k + 1). target named: the suspected class is the key's. window rank: median share of the windows of "
    "the trigger's shape that lie as high on the recovered map as the trigger's own; 50% by chance."
)


def _n(summary: Summary | None) -> str:
    return str(summary.n if summary else 0)


def _not_counted(row: Ranked | InFamily | Attacked | Detected) -> str:
    return (
        ", ".join(f"{count} {name}" for name in ("void", "failed", "skipped") if (count := getattr(row, name))) or "-"
    )
