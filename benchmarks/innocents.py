"""Verdicts on models without a mark, on real digits: is any of them marked more often than chance allows?

Two arms go through the chains of ``quick``: fresh unmarked models, which are asked the keys of a scheme, and a plugin
that embeds nothing. The results stay in ``build/innocents``, so that a second call only counts.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.framework import harness
from benchmarks.measure import Row
from harness.statistics import clopper_pearson_upper
from harness.storage.tables import Tables
from harness.verdicts.board import Share
from harness.verdicts.reading import read_board
from harness.verdicts.rules import Rules

RESULTS = Path(__file__).parents[1] / "build" / "innocents"
PLUGIN = Path(__file__).parent / "embeds_nothing"
NAMED = ("baseline", "retraining")
"""The cell named beforehand: at most 4 of 20 are marked there by chance (beta-binomial, 19 unmarked models)."""
IN_NAMED, IN_ANY = 4, 7
"""Largest numbers of 20 in that cell, and in any of twenty."""
ATTACKS = ("none", "retraining", "fine-tuning", "pruning*", "retraining | pruning*", "query-filter")


def innocents(n: int) -> list[Row]:
    """Marked ones of ``n`` fresh models, and of ``n`` seeds of a scheme that embeds nothing, by attack."""
    attacks = (word for attack in ATTACKS for word in ("--attack", attack))
    schemes = (word for scheme in (NAMED[0], "embeds-nothing") for word in ("--defense", scheme))
    asked = ("--matrix", "quick", *schemes, *attacks, "--seeds", f"0-{n - 1}", "--nulls", "19")
    harness("run", *asked, "--plugins", PLUGIN, "--results", RESULTS)
    board = read_board(Tables(RESULTS), Rules())
    rows = [
        _row(f"fresh, key of {each.defense}, {each.attack}", each.accused, (each.defense, each.attack) == NAMED)
        for each in board.innocents
        if each.suspects == "fresh"
    ]
    rows += [
        _row(f"embeds nothing, {each.attack}", each.marked, is_named=False)
        for each in board.attacks
        if each.defense == "embeds-nothing"
    ]
    return [row for row in rows if row is not None]


def _row(name: str, share: Share | None, is_named: bool) -> Row | None:
    if share is None or not share.of:
        return None
    high = float(clopper_pearson_upper([round(share.count)], [share.of])[0])
    note = f"of {share.of} models; 95%: below {high:.0%}"
    return Row(name, [share.count], [IN_NAMED if is_named else IN_ANY], "marked", "target: at most", note)
