"""The page of attacks, made from the plugins: a table of each family, then each attack with its options."""

from __future__ import annotations

from harness.contracts import BlackBoxAttack, PoolAttack
from harness.inspect.pages import claims, described, year
from harness.planning.chains import access_of
from harness.planning.registry import PluginInfo, load_registry
from harness.running.eta import durations

FAMILIES = {
    "extraction": "A copy is trained on what the victim's API answers.",
    "removal": "The stolen model is changed, so that the mark goes and the task stays.",
    "evasion": "The stolen model stays, and its API is answered through a filter.",
    "detection": "The mark is looked for. Unmarked models are searched too.",
    "forgery": "A key of the thief's own, by the owner's scheme, claims a model.",
}
"""Families of attacks in the order of the page, and what each does."""
TABLE = (
    "| attack | year | access | of the scheme | labels | queries | seconds |",
    "| --- | --- | --- | --- | --- | --- | --: |",
)


def document() -> str:
    """Text of ``docs/attacks.md``, of the built-in attacks: Markdown."""
    found = [info for (kind, _), info in sorted(load_registry().found.items()) if kind == "attack"]
    attacks = [info for info in found if issubclass(info.cls, PoolAttack)]
    lines = [
        "# Attacks",
        "",
        "`make docs` makes this page from `plugins/attacks/`. Every attack has the options `pool`, its inputs (the",
        "owner's own, as many others, out-of-distribution ones or another data set's, without the class of which",
        "triggers are made), and `pool_share`, the share of them that it has. Attacks are chained by `|`:",
        "`retraining | pruning`. Seconds are those of one run on digits by the defaults, on one CPU; costs of a run",
        "are in its tables: seconds, samples trained on and evaluated, queries.",
        "",
    ]
    for family, does in FAMILIES.items():
        rows = [_row(info) for info in attacks if _class(info).family == family]
        lines += [f"## {family.capitalize()}", "", does, "", *TABLE, *rows, ""]
    lines += ["## Claims that were measured", "", "| attack | |", "| --- | --- |", *claims(attacks), ""]
    return "\n".join([*lines, *(line for info in attacks for line in described(info))])


def _row(info: PluginInfo) -> str:
    """An attack by its defaults: year, access to the model, knowledge of the scheme, labels, queries and seconds."""
    attack = _class(info)()
    access = {"black-box": "the API", "white-box": "the weights", "none": "nothing"}[access_of(attack)]
    knows = {"nothing": "-", "scheme": "the scheme", "key": "the key"}[attack.knows]
    if attack.knows_patch:
        knows = "side of its patch" if knows == "-" else f"{knows}, side of its patch"
    labels = "true" if attack.has_labels else "-"
    queries = attack.answers if isinstance(attack, BlackBoxAttack) else "-"
    action = "detect" if attack.family == "detection" else "attack"
    seconds = durations().get((action, "digits", attack.name))
    cells = [f"[`{attack.name}`](#{attack.name})", year(attack.reference), access, knows, labels, queries]
    return f"| {' | '.join([*cells, '-' if seconds is None else f'{seconds:.2g}'])} |"


def _class(info: PluginInfo) -> type[PoolAttack]:
    if not issubclass(info.cls, PoolAttack):
        raise TypeError(f"{info.cls.name} is no attack with data of its own")
    return info.cls
