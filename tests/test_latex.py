"""Tables as LaTeX: they compile, and no name changes what they are."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.ranking.latex import escaped, latex
from harness.ranking.overview import overview_sheet
from harness.ranking.views import details_sheet
from harness.verdicts.board import Board
from harness.verdicts.rules import Rules
from tests.boards import CONTROL, attacked, board, scheme, setting, standings, write
from tests.conftest import Cli
from tests.test_leaderboard import cell

NASTY = r"a_b[w=1,x=#2] | c%d & {e} $f$ ~^ \input{g} <h> `i'' --j"
FOREIGN = "é Ł ß ± \N{MULTIPLICATION SIGN} … 模 ą ñ 😀 Ő"
ESCAPED = re.compile(
    r"(?:[A-Za-z0-9 .,:;!?()/*+=@]|''|\\[&%$#_{}]|-\{\}|'\{\}|`\{\}|\{\[\}|\{\]\}|\\[a-zA-Z]+\{(?:\\?[a-z]*|-)\}"
    r"|\\[`'^~=.\"uvHrc]\{[A-Za-z]\})*"
)


@given(st.text())
def test_whatever_a_text_holds_it_stays_text(text: str) -> None:
    made = escaped(text)
    assert made.isascii() and ESCAPED.fullmatch(made), made


def bodies(text: str) -> list[tuple[str, list[str]]]:
    """The columns of each tabular and its rows."""
    found = re.findall(r"\\begin\{tabular\}\{([lr]+)\}(.*?)\\end\{tabular\}", text, re.DOTALL)
    return [(sides, re.findall(r"^ +(.*) \\\\$", body, re.MULTILINE)) for sides, body in found]


def nasty() -> Board:
    """Three schemes, one of them under the line, and the control: with names that LaTeX would run."""
    under: dict[str, Any] = {"standings": standings((0.1, 0.2), (None, None)), "gate": "fails", "no_rank": NASTY}
    return board(
        scheme(NASTY, anonymous=True),
        scheme(FOREIGN, **under),
        scheme("unmarked", **CONTROL),
        rules=Rules(budget=30),
        settings=[setting(conclusion=f"{NASTY} {FOREIGN}")],
        attacks=[attacked(NASTY, name, no_attack=reason) for name, reason in ((FOREIGN, ""), ("x", NASTY))],
        machines=[NASTY],
    )


def test_environments_are_balanced_and_rows_are_whole() -> None:
    for sheet, count in ((overview_sheet(nasty(), explain=True), 1), (details_sheet(nasty(), explain=True), 9)):
        text = latex(sheet)
        names = re.findall(r"\\(begin|end)\{(\w+)\}", text)
        stack: list[str] = []
        for what, name in names:
            if what == "begin":
                stack.append(name)
            else:
                assert stack.pop() == name
        assert not stack and text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
        tables = bodies(text)
        assert len(tables) == count
        for sides, rows in tables:
            across = [len(re.findall(r"(?<!\\)&", row)) for row in rows if r"\multicolumn" not in row]
            assert rows and set(across) == {len(sides) - 1}
    assert r"$68.0$ \ensuremath{\pm} $10.0$" in text and "Reason why the attack enters no rank." in text


def test_commands_print_latex(cli: Cli, tmp_path: Path) -> None:
    write(tmp_path, *(cell(name, seed=s) for name in ("ewe", "a_b") for s in range(3)))
    text = cli("leaderboard", "--results", tmp_path, "--format", "latex", code=0).out
    assert text.startswith(r"% Needs \usepackage{booktabs}.") and r"a\_b" in text and "distribution" not in text
    text = cli("compare", "ewe", "a_b", "--results", tmp_path, "--format", "latex", code=0).out
    assert r"\caption{d: ewe less a\_b}" in text and "(all attacks)" not in text


@pytest.mark.skipif(not (shutil.which("pdflatex") or shutil.which("tectonic")), reason="needs pdflatex or tectonic")
def test_it_compiles(tmp_path: Path) -> None:
    every = "".join(map(chr, range(32, 0x250)))
    body = "\n\n".join([latex(overview_sheet(nasty())), latex(details_sheet(nasty(), explain=True)), escaped(every)])
    source = "\\documentclass{article}\n\\usepackage{booktabs}\n\\begin{document}\n" + body + "\n\\end{document}\n"
    (tmp_path / "board.tex").write_text(source, "ascii")
    compiler = ["pdflatex", "-halt-on-error", "-no-shell-escape"] if shutil.which("pdflatex") else ["tectonic"]
    done = subprocess.run([*compiler, "board.tex"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert (tmp_path / "board.pdf").read_bytes().startswith(b"%PDF")
