"""The page of schemes, made from the plugins: a table of them, then each with its options."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator

from harness.contracts import ActiveDefense, Defense, WhiteBoxDefense
from harness.planning.options import options_of
from harness.planning.registry import PluginInfo, load_registry
from harness.verdicts.families import is_unmarked

MEASURED = "Measured"
"""First word of the last paragraph of a scheme's docstring: what its claim gave where it was tried."""
TABLE = "| scheme | year | protects | verified by |", "| --- | --- | --- | --- |"


def document() -> str:
    """Text of ``docs/schemes.md``, of the built-in schemes: Markdown."""
    found = [info for (kind, _), info in sorted(load_registry().found.items()) if kind == "defense"]
    schemes = [info for info in found if not _class(info).fingerprint and not is_unmarked(info.cls.name)]
    fingerprints = [info for info in found if _class(info).fingerprint]
    lines = [
        "# Schemes",
        "",
        "`make docs` makes this page from `plugins/defenses/`.",
        "",
        *TABLE,
        *map(_row, schemes),
        "",
    ]
    if fingerprints:
        about = "They embed nothing: the key is found in a victim that is trained as unmarked models are."
        lines += ["## Fingerprints", "", about, "", *TABLE, *map(_row, fingerprints), ""]
    lines += ["## Claims that were measured", "", "| scheme | |", "| --- | --- |", *_claims(found), ""]
    return "\n".join([*lines, *(line for info in found for line in _described(info))])


def year(reference: str) -> str:
    """The last year that a reference names; empty where it names none."""
    found: list[str] = re.findall(r"\b(?:19|20)\d\d\b(?!\.\d)", reference)
    return found[-1] if found else ""


def verified_by(cls: type[Defense]) -> str:
    """The things that an owner verifies from."""
    if issubclass(cls, ActiveDefense):
        return "queries that a client asked"
    return "weights" if issubclass(cls, WhiteBoxDefense) else "queries"


def _row(info: PluginInfo) -> str:
    cls = _class(info)
    protects = " and ".join({"model": "the weights", "api": "the API"}[each] for each in cls.protects)
    return f"| [`{cls.name}`](#{cls.name}) | {year(cls.reference)} | {protects} | {verified_by(cls)} |"


def _class(info: PluginInfo) -> type[Defense]:
    if not issubclass(info.cls, Defense):
        raise TypeError(f"{info.cls.name} is no defense")
    return info.cls


def _claims(found: Iterable[PluginInfo]) -> Iterator[str]:
    for info in found:
        for told in _paragraphs(info.cls):
            if told.startswith(MEASURED):
                yield f"| `{info.cls.name}` | {told.removeprefix(MEASURED).lstrip(' :')} |"


def _paragraphs(cls: type) -> list[str]:
    """Paragraphs of a docstring, each on one line but for lists, with Markdown's quotes."""
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", inspect.getdoc(cls) or "").replace("``", "`")
    parts = (re.split(r"\n(?=- )", part) for part in text.split("\n\n"))
    return ["\n".join(" ".join(line.split()) for line in part) for part in parts]


def _described(info: PluginInfo) -> Iterator[str]:
    yield from (f"## {info.cls.name}", "")
    for paragraph in _paragraphs(info.cls):
        yield from (paragraph, "")
    if info.cls.reference:
        yield from (f"Reference: {info.cls.reference}.", "")
    if options := options_of(info.cls):
        yield from ("| option | default | values | |", "| --- | --- | --- | --- |")
        for each in options:
            yield f"| `{each.name}` | {each.default} | {each.values.replace('|', 'or')} | {each.words} |"
        yield ""
