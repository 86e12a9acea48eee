"""Sheets of tables as LaTeX: a ``table`` each, with the rules of booktabs, that compiles whatever a name holds.

Nothing but booktabs is needed, and all of the output is ASCII: an accent is a command, and a letter that the standard
fonts lack stands as its code.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import replace

from harness.ranking.columns import Column, Sheet, Table

SPECIAL = {
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{character: f"\\{character}" for character in "&%$#_{}"},
    # In the standard fonts these are other characters, or join with their neighbours.
    **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': "''"},
    **{"-": "-{}", "'": "'{}", "`": "`{}", "[": "{[}", "]": "{]}"},
    **{"±": r"\ensuremath{\pm}", "\N{MULTIPLICATION SIGN}": r"\ensuremath{\times}", "…": r"\ldots{}"},
    **{"\N{MINUS SIGN}": r"\ensuremath{-}", "\N{EN DASH}": r"\textendash{}", "ß": r"\ss{}"},
}
ACCENTS = dict(
    zip("\u0300\u0301\u0302\u0303\u0304\u0306\u0307\u0308\u030a\u030b\u030c\u0327", "`'^~=u.\"rHvc", strict=True)
)
"""Command of each combining accent that every font has."""
_NUMBER = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d+)?")


def latex(sheet: Sheet) -> str:
    """The sheet as LaTeX, for a document that has ``\\usepackage{booktabs}``."""
    blocks = ["% Needs \\usepackage{booktabs}."]
    blocks += [_table(table.told(), sheet) for table in sheet.tables]
    return "\n\n".join(blocks) + "\n"


def escaped(text: str) -> str:
    """``text`` as LaTeX that prints it."""
    return "".join(map(_character, text))


def _character(character: str) -> str:
    if character in SPECIAL:
        return SPECIAL[character]
    if " " <= character <= "~":
        return character
    base, *accents = list(unicodedata.normalize("NFD", character))
    if len(accents) == 1 and accents[0] in ACCENTS and base.isascii() and base.isalpha():
        return f"\\{ACCENTS[accents[0]]}{{{base}}}"
    return f"{{[}}U+{ord(character):04X}{{]}}"


def _table(table: Table, sheet: Sheet) -> str:
    caption = table.title or sheet.title or next(iter(table.lead), "")
    columns = [column for column in table.columns if not column.sketch]
    shown, foot = (
        [[_cell(column, column.show(record)[0]) for column in columns] for record in part]
        for part in (table.records, table.foot)
    )
    across = rf"\multicolumn{{{max(1, len(columns) - 1)}}}{{l}}"
    without = [[escaped(name), f"{across}{{{escaped(words)}}}"] for name, words in table.lines]
    sides = "".join("l" if column.words else "r" for column in columns)
    return "\n".join(
        [
            r"\begin{table}",
            r"  \centering\footnotesize\setlength{\tabcolsep}{4pt}",
            rf"  \caption{{{escaped(caption)}}}",
            r"  \smallskip",
            rf"  \begin{{tabular}}{{{sides}}}",
            r"    \toprule",
            _row(map(_header, columns)),
            r"    \midrule",
            *map(_row, shown),
            *([r"    \midrule", *map(_row, without)] if without else []),
            *([r"    \midrule", *map(_row, foot)] if foot else []),
            r"    \bottomrule",
            r"  \end{tabular}",
            *_notes(replace(table, columns=tuple(columns)), sheet),
            r"\end{table}",
        ]
    )


def _row(cells: Iterable[str]) -> str:
    return f"    {' & '.join(cells)} \\\\"


def _header(column: Column[object]) -> str:
    """Two words over narrow numbers stand one above the other."""
    words = [escaped(word) for word in ([column.header] if column.words else column.header.split())]
    stacked = r"\\".join(words)
    return words[0] if len(words) == 1 else rf"\shortstack[r]{{{stacked}}}"


def _cell(column: Column[object], text: str) -> str:
    """Numbers in mathematics, where a minus is one; ``--`` for what is not known."""
    if text == "-":
        return "--"
    if column.words:
        return escaped(text)
    parts, numbers = _NUMBER.split(text), _NUMBER.findall(text)
    made = [f"${number.replace(',', '{,}')}$" for number in numbers]
    return "".join(escaped(part) + number for part, number in zip(parts, [*made, ""], strict=True))


def _notes(table: Table, sheet: Sheet) -> list[str]:
    """Lines below the table: the meanings of its own terms, and the remarks."""
    own = {table.term, *(column.name for column in table.columns)}
    own |= {row[0] for row in table.rows() if row}
    terms = [rf"\emph{{{escaped(term)}}}: {escaped(meaning)}" for term, meaning in sheet.terms if term in own]
    lead = table.lead if table.title or sheet.title else table.lead[1:]  # its first sentence is the caption
    told = [*map(escaped, (*sheet.lead, *lead, *table.notes)), *terms, *map(escaped, sheet.remarks)]
    lines = [f"    {line}" for line in told]
    return ["", r"  \smallskip", r"  \begin{minipage}{\linewidth}", *lines, r"  \end{minipage}"] if lines else []
