"""The page in a real browser: sorting, filters, dark, phone, print; no request, no complaint, and axe finds nothing.

Needs Chromium on the path (Debian: ``apt-get install chromium``); without it these tests skip.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import TINY, command_line

pytest.importorskip("playwright", reason="needs playwright (the dev extra)")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium on the path")]
REPORT = ("report", "--max-drop", "1", "--test", "binomial")
ATTACKS = ("none", "retraining", "pruning[fraction=0.2]", "pruning[fraction=0.6]")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a tiny real run."""
    results = tmp_path_factory.mktemp("report") / "results"
    chosen = [word for attack in ATTACKS for word in ("--attack", attack)]
    run = ["run", "--matrix", "smoke", "--dataset", TINY.replace("train=200", "train=600"), "--defense", "baseline"]
    run += ["--defense", "ewe", *chosen, "--seeds", "0-1", "--results", str(results), "--quiet", "--jobs", "1"]
    assert command_line(*run) == command_line(*REPORT, "--results", results) == 0
    return results / "report.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # In a container there is no sandbox to be had; the page is our own.
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture(params=["light", "dark"])
def page(request: pytest.FixtureRequest, browser: Any, made: Path) -> Iterator[Any]:
    """The page, open; nothing was asked for but the file, and nothing was complained of."""
    opened = browser.new_page(color_scheme=request.param, viewport={"width": 1280, "height": 900})
    asked: list[str] = []
    complaints: list[str] = []
    opened.on("request", lambda sent: asked.append(sent.url))
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.goto(made.as_uri())
    yield opened
    assert asked == [made.as_uri()] and complaints == []
    opened.close()


def shown(page: Any, rows: str) -> list[list[str]]:
    """The texts of the rows that can be seen."""
    script = "rows => rows.filter(r => r.offsetParent).map(r => [...r.cells].map(c => c.textContent))"
    return page.eval_on_selector_all(rows, script)  # type: ignore[no-any-return]


def test_columns_sort_by_pointer_and_by_keyboard(page: Any) -> None:
    rows, head = "#left table.sortable tbody tr", "#left table.sortable thead th"
    page.click(f"{head}:nth-child(5) button")
    success = [float(row[4].split()[0]) for row in shown(page, rows)]
    assert len(success) == 2 * len(ATTACKS) and success == sorted(success)
    assert page.get_attribute(f"{head}:nth-child(5)", "aria-sort") == "ascending"
    page.focus(f"{head}:nth-child(2) button")
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    assert [row[1] for row in shown(page, rows)] == ["ewe"] * 4 + ["baseline"] * 4
    assert page.get_attribute(f"{head}:nth-child(5)", "aria-sort") is None


def test_filters_hide_the_attacks_that_were_not_chosen(page: Any) -> None:
    rows = "#left table.sortable tbody tr"
    everything, schemes = shown(page, rows), shown(page, "#leaderboard tbody tr")
    page.select_option("select[data-key=family]", "removal")
    assert {row[0].partition("[")[0] for row in shown(page, rows)} == {"pruning"}
    assert page.text_content("#shown") == f"{len(shown(page, rows))} rows of attacks"
    assert shown(page, "#leaderboard tbody tr") == schemes, "worst cases are over all attacks of a threat model"
    page.select_option("select[data-key=access]", "black-box")
    assert shown(page, rows) == []
    page.select_option("select[data-key=family]", "")
    assert {row[0] for row in shown(page, rows)} == {"retraining"}
    page.select_option("select[data-key=access]", "")
    assert shown(page, rows) == everything


def test_the_switch_turns_light_to_dark_and_back(page: Any) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    first = page.evaluate(background)
    page.click("#theme")
    assert page.evaluate(background) != first
    page.click("#theme")
    assert page.evaluate(background) == first


def test_axe_finds_nothing(page: Any) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page.evaluate("for (const details of document.querySelectorAll('details')) details.open = true")
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


def test_no_word_of_a_picture_is_cut(page: Any) -> None:
    assert page.evaluate(CUT) == []
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate(CUT) == []


CUT = """[...document.querySelectorAll("svg text")].filter((text) => {
  const [own, all] = [text.getBoundingClientRect(), text.ownerSVGElement.getBoundingClientRect()];
  return own.left < all.left - 1 || own.right > all.right + 1 || own.top < all.top - 1 || own.bottom > all.bottom + 1;
}).map((text) => text.textContent)"""


@pytest.mark.parametrize("width", [320, 390])
def test_a_phone_shows_the_leaderboard_first_and_scrolls_tables_not_the_page(
    browser: Any, made: Path, width: int
) -> None:
    opened = browser.new_page(viewport={"width": width, "height": 844})
    opened.goto(made.as_uri())
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    assert opened.locator("#leaderboard .lead").bounding_box()["y"] < 300
    assert opened.locator("#leaderboard svg").bounding_box()["y"] < 600
    assert opened.is_hidden("#controls")
    opened.click("#menu > summary")
    assert opened.is_visible("#controls") and opened.evaluate("document.documentElement.scrollWidth") <= width
    table = opened.locator("#left .wide:has(.sortable)").first
    table.evaluate("table => table.scrollTo(9999, 0)")
    assert table.evaluate("table => table.scrollLeft") > 0
    assert 0 <= table.locator("tbody .name").first.bounding_box()["x"] < 20  # what a row is about stays in sight
    opened.close()


def test_print_shows_every_section_unfolded_on_white_and_as_wide_as_the_paper(browser: Any, made: Path) -> None:
    opened = browser.new_page(color_scheme="dark", viewport={"width": 703, "height": 1000})  # A4 within its margins
    opened.goto(made.as_uri())
    opened.emulate_media(media="print")
    opened.evaluate("dispatchEvent(new Event('beforeprint'))")
    visible = "all => all.filter(e => !e.checkVisibility({contentVisibilityAuto: true})).map(e => e.textContent)"
    assert opened.eval_on_selector_all("section, figure table, .plugin table", visible) == []
    assert opened.is_hidden("#controls") and opened.is_hidden("nav")
    assert opened.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert opened.evaluate("document.documentElement.scrollWidth") <= 703
    opened.close()


def test_without_a_script_all_is_there_but_the_controls(browser: Any, made: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    opened = context.new_page()
    opened.goto(made.as_uri())
    assert opened.is_visible("#leaderboard table") and opened.is_hidden("#controls")
    context.close()
