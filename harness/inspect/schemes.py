"""The page of schemes, made from the plugins: a table of them, then each with its options."""

from __future__ import annotations

from harness.contracts import ActiveDefense, Defense, WhiteBoxDefense
from harness.inspect.pages import claims, described, year
from harness.planning.registry import PluginInfo, load_registry
from harness.verdicts.families import is_unmarked

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
    lines += ["## Claims that were measured", "", "| scheme | |", "| --- | --- |", *claims(found), ""]
    return "\n".join([*lines, *(line for info in found for line in described(info))])


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
