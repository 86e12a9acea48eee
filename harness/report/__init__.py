"""One page that shows a results folder: a file without a neighbour, that asks no network and works without a script.

Names come from the tables, which may be untrusted: the template escapes every one, and the page's own policy lets
nothing run or load but the one style sheet and the one script that are named there by their digests.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from harness.report.page import Page
from harness.report.sections import make_sections
from harness.report.sources import About, Results

if TYPE_CHECKING:
    from jinja2 import Template
    from markupsafe import Markup

    from harness.planning.registry import Registry

__all__ = ["About", "Page", "Results", "draw", "embedded", "render"]


def render(results: Results, about: About, registry: Registry) -> str:
    """The page as HTML. Raises :class:`harness.UsageError` when there are no results."""
    return draw(make_sections(results, about, registry))


def draw(page: Page) -> str:
    """A page of any contents as HTML."""
    from markupsafe import Markup

    css, js = (_beside(name) for name in ("page.css", "page.js"))
    return _template().render(
        page=page,
        policy=_policy(css, js),
        css=Markup(css),
        js=Markup(js),
        data=Markup(_embedded(page.data)),
    )


def embedded(text: str) -> Any:
    """The data that :func:`draw` embedded in a page. Raises :class:`ValueError` where there are none."""
    _, begun, rest = text.partition(_DATA)
    if not begun:
        raise ValueError("no data in the page")
    return json.loads(rest.partition("</script>")[0])


_DATA = '<script type="application/json" id="board">'


@cache
def _template() -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("harness", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"broken": _broken, "prose": _prose}
    return environment.get_template("page.html")


def _broken(text: str) -> Markup:
    """``text``, escaped, with places where a browser may break a line: names with options have no spaces."""
    from markupsafe import Markup, escape

    return Markup(escape(text).replace(",", Markup(",<wbr>")).replace("[", Markup("<wbr>[")))


def _prose(text: str) -> Markup:
    """A docstring, escaped: lines that were broken for an editor run on, and what stands in ticks is code."""
    from markupsafe import Markup, escape

    running = re.sub(r"(?<!\n)\n(?!\n|\s*[-*] )", " ", text)
    return Markup(re.sub(r"``(.+?)``", r"<code>\1</code>", str(escape(running))))


@cache
def _beside(name: str) -> str:
    return files("harness.report").joinpath(name).read_text("utf-8")


def _policy(css: str, js: str) -> str:
    """Policy for a browser: nothing is allowed but these two texts."""
    style, script = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (css, js))
    return (
        f"default-src 'none'; style-src 'sha256-{style}'; script-src 'sha256-{script}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _embedded(data: object) -> str:
    """JSON that can stand in a script element: no ``<``, so neither its end nor a comment."""
    text = json.dumps(data, allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
