"""The page in a real browser: sorting, filters, the switch to dark, no request, no complaint, and axe finds nothing.

Needs Chromium on the path (Debian: ``apt-get install chromium``); without it these tests skip.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import TINY

pytest.importorskip("playwright", reason="needs playwright (the dev extra)")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium on the path")
ATTACKS = ("none", "retraining", "pruning[fraction=0.2]", "pruning[fraction=0.6]")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a tiny real run."""
    import subprocess
    import sys

    results = tmp_path_factory.mktemp("report") / "results"
    chosen = [word for attack in ATTACKS for word in ("--attack", attack)]
    run = ["run", "--matrix", "smoke", "--dataset", TINY.replace("train=200", "train=600"), "--defense", "baseline"]
    run += ["--defense", "ewe", *chosen, "--seeds", "0-1", "--results", str(results), "--quiet"]
    for words in (run, ["report", "--results", str(results), "--max-drop", "1"]):
        subprocess.run([sys.executable, "-m", "harness", *words], check=True, capture_output=True)
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
    page.click(f"{head}:nth-child(4) button")
    success = [float(row[3].split()[0]) for row in shown(page, rows)]
    assert len(success) == 2 * len(ATTACKS) and success == sorted(success)
    assert page.get_attribute(f"{head}:nth-child(4)", "aria-sort") == "ascending"
    page.focus(f"{head}:nth-child(1) button")
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    assert [row[0] for row in shown(page, rows)] == ["ewe"] * 4 + ["baseline"] * 4
    assert page.get_attribute(f"{head}:nth-child(4)", "aria-sort") is None


def test_filters_hide_what_was_not_chosen_and_rank_by_the_rest(page: Any) -> None:
    everything = shown(page, "#leaderboard tbody tr")
    page.select_option("select[data-key=family]", "removal")
    assert {row[1].partition("[")[0] for row in shown(page, "#left table.sortable tbody tr")} == {"pruning"}
    removal = shown(page, "#leaderboard tbody tr")
    assert len(removal) == len(everything) == 2 and all(row[1].startswith("pruning") for row in removal)
    page.select_option("select[data-key=access]", "black-box")
    assert shown(page, "#leaderboard tbody tr") == []
    page.select_option("select[data-key=family]", "")
    assert {row[1] for row in shown(page, "#leaderboard tbody tr")} == {"retraining"}
    page.select_option("select[data-key=access]", "")
    assert shown(page, "#leaderboard tbody tr") == everything


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


@pytest.mark.parametrize("width", [320, 390])
def test_a_phone_scrolls_tables_and_not_the_page(browser: Any, made: Path, width: int) -> None:
    opened = browser.new_page(viewport={"width": width, "height": 800})
    opened.goto(made.as_uri())
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    opened.close()


def test_without_a_script_all_is_there_but_the_controls(browser: Any, made: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    opened = context.new_page()
    opened.goto(made.as_uri())
    assert opened.is_visible("#leaderboard table") and opened.is_hidden("#controls")
    context.close()
