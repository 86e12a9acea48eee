"""A leaderboard's pages: accepted records alone, every name escaped, nothing of somebody else overwritten."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.planning.registry import load_registry
from harness.report import draw, embedded
from harness.site import pages
from harness.site.accepted import Accepted, _read
from harness.verdicts.board import Board
from tests import boards
from tests.conftest import TINY, Cli, command_line, without

ABOUT = {"command": "harness run --matrix quick", "recorded_at": "2026-11-0{} 10:00 UTC", "recorded_with": "0.1.0"}
HOSTILE = "</script><img src=x onerror=alert(1)>"


def accepted(number: int, board: Board, name: str = "") -> Accepted:
    about = {**ABOUT, "recorded_at": ABOUT["recorded_at"].format(number), "data": {"digits": ["0" * 32]}}
    return Accepted(Path(name or f"record-{number}"), name or f"Record {number}", about, board)


def of(*ranks: int) -> Board:
    """A board of two schemes with these ranks."""
    made = [
        boards.scheme(name, standings=boards.standings((0.3, 0.8), (rank, rank)))
        for name, rank in zip(("ewe", "adi"), ranks, strict=True)
    ]
    attacks = [boards.attacked(name, attack) for name in ("ewe", "adi") for attack in ("retraining", "pruning")]
    return replace(boards.board(*made), attacks=attacks, evasions=[boards.evaded()], detections=[boards.detected()])


def test_a_board_is_read_as_it_was_but_for_infinities() -> None:
    board = boards.ten()
    told = board.as_dict()
    assert _read(Board, json.loads(json.dumps(told))).as_dict() == told
    again = _read(Board, {**told, "attacks": [{**told["attacks"][0], "queries": None}]} if told["attacks"] else told)
    assert isinstance(again.schemes[0], type(board.schemes[0]))
    assert all(math.isnan(each.queries) for each in again.attacks)


def test_two_names_never_share_a_file() -> None:
    names = ("ewe", "EWE", "e/we", "../ewe", "e we", "", ".", "..", "x" * 200, "x" * 201, "é")
    made = [pages.file_name(name) for name in names]
    assert len({each.lower() for each in made}) == len(names) and made[0] == "ewe"
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9.-]*", each) for each in made)


def test_the_index_has_filters_and_leads_to_every_page() -> None:
    site = pages.Site([accepted(2, of(1, 2)), accepted(1, of(2, 1))], load_registry())
    page = draw(pages.index(site))
    assert {label: values for _, label, values in pages.index(site).filters} == {
        "dataset": ["digits"],
        "threat model": ["black box"],
        "attack family": ["extraction"],
    }
    leads = set(re.findall(r'<a href="(?!#)([^"]+)"', page))
    assert {"records/record-1/index.html", "records/record-2/index.html"} < leads
    assert {"schemes/ewe.html", "schemes/adi.html", "attacks/retraining.html", "attacks/neural-cleanse.html"} < leads
    assert embedded(page) == {} and not re.search(r"(?:src|href)=\"?(?:https?:)?//", page)


def test_a_scheme_has_the_history_of_its_ranks_the_newest_first() -> None:
    site = pages.Site([accepted(3, of(1, 2)), accepted(2, of(2, 1)), accepted(1, of(3, 1))], load_registry())
    page = pages.scheme_page("ewe", site.schemes["ewe"], site)
    (plot,) = next(section.plots for section in page.sections if section.plots)
    ranks = [row.values[2][0] for row in plot.grid.rows if row.values[0][0].startswith("black box")]
    assert ranks == ["3", "2", "1"], "the oldest first, as in the picture"
    (grid,) = page.sections[-1].grids
    assert [str(row.values[0][0]) for row in grid.rows][:1] == ["Record 3"] and "Entangl" in draw(page)
    one = pages.Site([accepted(1, of(1, 2))], site.registry)
    assert not any(section.plots for section in pages.scheme_page("ewe", one.schemes["ewe"], one).sections)


def test_untrusted_names_are_escaped_on_every_page() -> None:
    board = of(1, 2)
    strange = replace(
        board,
        schemes=[replace(each, defense=HOSTILE, dataset=HOSTILE) for each in board.schemes],
        attacks=[replace(each, attack=HOSTILE, dataset=HOSTILE, family=HOSTILE) for each in board.attacks],
        settings=[boards.setting(dataset=HOSTILE)],
    )
    record = accepted(1, strange, HOSTILE)
    site = pages.Site([record], load_registry())
    made = [pages.index(site), pages.record_page(record, site)]
    made += [pages.scheme_page(name, found, site) for name, found in site.schemes.items()]
    made += [pages.attack_page(name, found, site) for name, found in site.attacks.items()]
    for page in made:
        text = draw(page)
        assert "<img" not in text and text.count("</script>") == 2, page.title


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("NO", "--output", "new"), "NO is refused: NO is no folder"),
        (("a/one", "b/one", "--output", "new"), "two records are called 'one'"),
        (("a/one", "--output", "mine"), "mine is there already, and is not a site: choose another --output"),
        ((), "Missing argument 'RECORD...'"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(
    words: tuple[str, ...], said: str, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a/one", "b/one", "mine"):
        Path(name).mkdir(parents=True)
    Path("mine/notes.txt").touch()
    ended = cli("site", *words)
    assert ended.code in (1, 2) and said in ended.err and len(ended.err.splitlines()) == 1 and not ended.out
    assert not Path("new").exists() and [path.name for path in Path("mine").iterdir()] == ["notes.txt"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two records of a tiny real run, and the site of them."""
    folder = tmp_path_factory.mktemp("leaderboard")
    results = ("--results", folder / "results")
    chosen = ("--dataset", TINY, "--defense", "baseline", "--seeds", "0-1", "--nulls", "1", "--no-innocents")
    attacks = ("--attack", "none", "--attack", "pruning", "--attack", "retraining")
    assert command_line("run", "--matrix", "smoke", *chosen, *attacks, "--quiet", *results) == 0
    first = folder / "first"
    command = ("--command", "harness run --matrix smoke")
    assert command_line("record", "The first", *command, "--output", first, *results) == 0
    shutil.copytree(first, folder / "second")
    assert command_line("site", first, folder / "second", *ENOUGH, "--output", folder / "site") == 0
    return folder


ENOUGH = ("--min-seeds", 2, "--min-nulls", 1)


@pytest.mark.slow
def test_a_record_that_fails_a_check_is_refused_by_name_and_the_site_is_made_of_the_others(
    made: Path, tmp_path: Path, cli: Cli
) -> None:
    bad, site = shutil.copytree(made / "second", tmp_path / "bad"), shutil.copytree(made / "site", tmp_path / "site")
    (bad / "report.html").write_text("<script>alert(1)</script>")
    ended = cli("site", made / "first", bad, *ENOUGH, "--output", site, code=1)
    assert ended.err.splitlines() == [f"{bad} is refused: report.html: not the file of the manifest"]
    assert "1 record, " in ended.out and not (site / "records" / "second").exists()
    assert "alert(1)" not in "".join(path.read_text("utf-8") for path in site.rglob("*.html"))
    (site / "CNAME").touch()
    ended = cli("site", made / "first", *ENOUGH, "--output", site, code=2)
    assert "CNAME is not of the site" in ended.err and (site / "index.html").exists()
    ended = cli("site", made / "first", "--output", tmp_path / "strict", code=1)
    assert "expected at least 3" in ended.err and not (tmp_path / "strict").exists()


@pytest.mark.slow
def test_a_records_page_has_its_report_and_the_command_that_repeats_it(made: Path) -> None:
    folder = made / "site" / "records" / "first"
    assert (folder / "report.html").read_bytes() == (made / "first" / "report.html").read_bytes()
    text = (folder / "index.html").read_text("utf-8")
    assert "<code>harness run --matrix smoke</code>" in text and 'href="report.html"' in text
    for page in (made / "site").rglob("*.html"):
        for target in re.findall(r'href="([^"#]+)"', page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page}: {target}"


@pytest.mark.slow
def test_fifty_records_take_ten_seconds_a_megabyte_and_no_torch(made: Path, tmp_path: Path) -> None:
    """Of one content, since a check takes seconds once for each: the time of all else."""
    records = [shutil.copytree(made / "first", tmp_path / f"record-{number}") for number in range(50)]
    before = os.times()
    without({"torch._C"}, ["site", *records, *ENOUGH, "--output", tmp_path / "site"])
    spent = os.times()
    assert spent.children_user + spent.children_system - before.children_user - before.children_system < 10
    assert (tmp_path / "site" / "index.html").stat().st_size < 1_000_000
    assert len(list((tmp_path / "site" / "records").iterdir())) == 50


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright (the dev extra)")
    if CHROMIUM is None:
        pytest.skip("needs Chromium on the path")
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.mark.slow
def test_the_pages_in_a_browser(made: Path, browser: Any) -> None:
    """Both widths, light and dark: no request but the page, nothing for axe, the page never scrolls sideways."""
    from axe_playwright_python.sync_playwright import Axe

    site = made / "site"
    shown = ("index.html", "records/first/index.html", "schemes/baseline.html", "attacks/pruning.html")
    for width, scheme in ((1280, "light"), (390, "dark")):
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        asked: list[str] = []
        complaints: list[str] = []
        page.on("request", lambda sent, asked=asked: asked.append(sent.url))
        page.on("console", lambda message, complaints=complaints: complaints.append(message.text))
        for name in shown:
            page.goto((site / name).as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") <= width, name
            page.evaluate("for (const details of document.querySelectorAll('details')) details.open = true")
            found = Axe().run(page)
            assert found.violations_count == 0, f"{name}: {found.generate_report()}"
        assert asked == [(site / name).as_uri() for name in shown] and complaints == []
        page.close()
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto((site / "index.html").as_uri())
    rows = "#records tbody tr"
    assert page.text_content("#shown") == "2 rows of records"
    page.select_option("select[data-key=family]", "removal")
    page.select_option("select[data-key=access]", "black box")
    assert page.eval_on_selector_all(rows, "all => all.filter(r => r.offsetParent).length") == 2, "of two families"
    page.click(f"{rows} a >> nth=0")
    page.click("text=report")
    assert page.title() == "Watermark robustness report"
    page.close()
