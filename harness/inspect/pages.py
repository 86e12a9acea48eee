"""Pages that are made from plugins: what their classes say of themselves, as Markdown."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator

from harness.planning.options import options_of
from harness.planning.registry import PluginInfo

MEASURED = "Measured"
"""First word of the last paragraph of a plugin's docstring: what its claim gave where it was tried."""


def year(reference: str) -> str:
    """The last year that a reference names; empty where it names none."""
    found: list[str] = re.findall(r"\b(?:19|20)\d\d\b(?!\.\d)", reference)
    return found[-1] if found else ""


def claims(found: Iterable[PluginInfo]) -> Iterator[str]:
    """Rows of a table: each plugin that was measured, and what that gave."""
    for info in found:
        for told in paragraphs(info.cls):
            if told.startswith(MEASURED):
                yield f"| `{info.cls.name}` | {told.removeprefix(MEASURED).lstrip(' :')} |"


def paragraphs(cls: type) -> list[str]:
    """Paragraphs of a docstring, each on one line but for lists, with Markdown's quotes."""
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", inspect.getdoc(cls) or "").replace("``", "`")
    parts = (re.split(r"\n(?=- )", part) for part in text.split("\n\n"))
    return ["\n".join(" ".join(line.split()) for line in part) for part in parts]


def described(info: PluginInfo) -> Iterator[str]:
    """Lines of a plugin's own section: its docstring, its source and its options."""
    yield from (f"## {info.cls.name}", "")
    for paragraph in paragraphs(info.cls):
        yield from (paragraph, "")
    if info.cls.reference:
        yield from (f"Reference: {info.cls.reference}.", "")
    if options := options_of(info.cls):
        yield from ("| option | default | values | |", "| --- | --- | --- | --- |")
        for each in options:
            yield f"| `{each.name}` | {each.default} | {each.values.replace('|', 'or')} | {each.words} |"
        yield ""
