"""Matrices as text: entries with options, chains, seeds, globs, and matrix files in TOML.

::

    entry    mnist            ewe[weight=64]            retraining[architecture=mlp[width=64]]
    chain    retraining | pruning[fraction=0.5]
    seeds    0-4              0,2,5-7

In a matrix file an entry may also be a table, where a list of values sweeps: ``{name = "pruning", fraction = [0.2,
0.5]}``; a table ``[datasets.mine]`` with ``use = "image-folder[path=~/flowers]"`` names a data set; and a table
``[scales.small]`` says what else holds at that scale. Nothing here knows which plugins exist;
:mod:`harness.planning.registry` checks names and options.
"""

from __future__ import annotations

import re
import reprlib
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import lru_cache
from importlib import resources
from itertools import islice, product
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from harness.errors import MatrixError, UnknownName, UsageError
from harness.files import read_text, user_path
from harness.own_data import is_place

Value: TypeAlias = "str | int | float | bool"
T = TypeVar("T")

_NAME = re.compile(r"[A-Za-z0-9_.*?-]+")
_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
MAX_SEEDS = MAX_ENTRIES = 100_000
"""Seeds, and entries of an axis, that a few characters of a matrix file can stand for."""
MAX_NULLS = 1000
MAX_CELLS = 1_000_000
"""Cells of a matrix, each times its null models."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A plugin's name, or a glob of names, with options that nobody has checked yet."""

    name: str
    options: tuple[tuple[str, Value], ...] = ()

    def __str__(self) -> str:
        return f"{self.name}[{','.join(f'{k}={v}' for k, v in self.options)}]" if self.options else self.name

    def without(self, *options: str) -> Entry:
        """The entry, with these options left to their defaults."""
        return replace(self, options=tuple(pair for pair in self.options if pair[0] not in options))

    def changed(self, options: Iterable[tuple[str, Value]]) -> Entry:
        """The entry with ``options`` in place of its own of those names, and after the others."""
        options = tuple(options)
        return replace(self, options=(*self.without(*dict(options)).options, *options))

    @property
    def placeless(self) -> Entry:
        """The entry of a data set without the options that say where files are: their content addresses results."""
        return self.without(*(option for option, _ in self.options if is_place(option)))

    @property
    def is_glob(self) -> bool:
        """True if the name stands for any that fit it."""
        return "*" in self.name or "?" in self.name


Chain: TypeAlias = tuple[Entry, ...]


def option_of(
    chain: Chain, option: str, options_of: Callable[[Entry], Mapping[str, Any]], name: str | None = None
) -> tuple[Any, Chain]:
    """The value that the last link with this option has for it, and the chain without it there.

    With a ``name`` only links of that plugin are asked; where no link has the option the value is ``None``.
    """
    for place, entry in reversed(list(enumerate(chain))):
        if name not in (None, entry.name):
            continue
        if (value := options_of(entry).get(option)) is not None:
            return value, (*chain[:place], entry.without(option), *chain[place + 1 :])
    return None, chain


@dataclass(frozen=True)
class Matrix:
    """Datasets x defenses x attack chains x seeds, as asked for."""

    name: str
    datasets: tuple[Entry, ...]
    defenses: tuple[Entry, ...]
    attacks: tuple[Chain, ...]
    seeds: tuple[int, ...] = (0,)
    nulls: int = 3
    analyses: tuple[Entry, ...] = ()
    innocents: tuple[Entry, ...] = ()
    """Defenses that mark nothing: every key is asked of their models."""
    description: str = ""
    scale: str = ""
    names: tuple[tuple[str, Entry], ...] = ()
    """Names of data sets that the file gives, and what each stands for."""


@lru_cache(maxsize=4096)
def placeless(text: str) -> str:
    """The text of a data set without the options that say where files are: see :attr:`Entry.placeless`."""
    try:
        return str(parse_entry(text).placeless) if "path=" in text else text
    except UsageError:  # in a record that somebody made
        return text


def parse_entry(text: str) -> Entry:
    """``name`` or ``name[key=value,...]``. Raises :class:`UsageError` on anything else."""
    text = text.strip()
    name, bracket, rest = text.partition("[")
    name = name.strip()
    if not _NAME.fullmatch(name):
        raise UsageError(f"cannot read {text!r}: expected NAME or NAME[option=value,...]")
    if not bracket:
        return Entry(name)
    if not rest.endswith("]"):
        raise UsageError(f"cannot read {text!r}: the bracket is not closed")
    return Entry(name, tuple(_parse_option(part, text) for part in _split(rest[:-1], ",", text)))


def _parse_option(part: str, whole: str) -> tuple[str, str]:
    key, equals, value = part.partition("=")
    key, value = key.strip(), value.strip()
    if not equals or not _KEY.fullmatch(key):
        raise UsageError(f"cannot read {part.strip()!r} in {whole!r}: expected option=value")
    return key, value


def _split(text: str, separator: str, whole: str) -> list[str]:
    """Split at separators that stand outside brackets."""
    parts, depth, start = [], 0, 0
    for i, char in enumerate(text):
        depth += (char == "[") - (char == "]")
        if depth < 0:
            raise UsageError(f"cannot read {whole!r}: a bracket is closed that was not opened")
        if char == separator and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    if depth:
        raise UsageError(f"cannot read {whole!r}: the bracket is not closed")
    return [*parts, text[start:]]


def parse_chain(text: str) -> Chain:
    """Entries joined by ``|``: each attack starts from what the one before it ended with."""
    return tuple(parse_entry(part) for part in _split(text, "|", text))


def format_chain(chain: Iterable[object]) -> str:
    """The text of a chain."""
    return " | ".join(str(link) for link in chain)


def parse_seeds(text: str) -> tuple[int, ...]:
    """``0-4,7`` is 0, 1, 2, 3, 4 and 7; no seed twice. Raises :class:`UsageError` with what was expected."""
    problem = UsageError(
        f"cannot read seeds {text!r}: expected a list such as 0-4 or 0,2,5-7, of at most {MAX_SEEDS:,}"
    )
    seeds: dict[int, None] = {}
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d{1,9})\s*(?:-\s*(\d{1,9})\s*)?", part)
        if found is None:
            raise problem
        first, last = int(found[1]), int(found[2] or found[1])
        if last < first or last - first >= MAX_SEEDS:
            raise problem
        seeds.update(dict.fromkeys(range(first, last + 1)))
        if len(seeds) > MAX_SEEDS:
            raise problem
    return tuple(seeds)


def presets() -> dict[str, Path]:
    """The matrices that come with the harness: their files by name."""
    folder = Path(str(resources.files("harness"))) / "matrices"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def load_matrix(name: str, scale: str = "") -> Matrix:
    """A preset by name, or a TOML file by path, at one of its scales (by default as it is written).

    Raises :class:`UnknownName` or :class:`MatrixError`.
    """
    path = user_path(name) if name.endswith(".toml") or "/" in name else presets().get(name)
    if path is None:
        raise UnknownName("matrix", name, [*presets(), "PATH.toml"])
    return read_matrix(read_toml(path, "matrix"), path.stem, str(path), scale)


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """The document of a file that is to be ``what``. Raises :class:`MatrixError`."""
    try:
        return tomllib.loads(read_text(path))
    except OSError as error:
        raise MatrixError(f"cannot read the {what} {path}: {error.strerror}") from error
    except UsageError as error:
        raise MatrixError(str(error)) from error
    except ValueError as error:  # tomllib's, and int's of thousands of digits
        raise MatrixError(f"{path}: {error}") from error
    except RecursionError as error:
        raise MatrixError(f"{path}: its values are nested too deeply") from error


KEYS = {"description", "datasets", "defenses", "attacks", "seeds", "nulls", "analyses", "innocents"}
FULL = "full"
"""The scale of a matrix as it is written."""


def read_matrix(document: dict[str, Any], name: str, path: str, scale: str = "") -> Matrix:
    """The matrix in a TOML document found at ``path``. Raises :class:`UnknownName` or :class:`MatrixError`."""
    names = _names(document, path, scale)
    document = _scaled(document, path, scale)
    if isinstance(document.get("datasets"), dict):
        document["datasets"] = list(document["datasets"])
    for key in document:
        if key not in KEYS:
            raise MatrixError(f"{path}: {UnknownName('key', key, KEYS)}")
    for key in ("datasets", "defenses", "attacks"):
        if not isinstance(document.get(key), list) or not document[key]:
            raise MatrixError(f"{path}: {key} must be a list with at least one entry")
    nulls, seeds, analyses = document.get("nulls", 3), document.get("seeds", "0"), document.get("analyses", [])
    innocents = document.get("innocents", [])
    for key, value in (("analyses", analyses), ("innocents", innocents)):
        if not isinstance(value, list):
            raise MatrixError(f"{path}: {key} must be a list")
    if isinstance(nulls, bool) or not isinstance(nulls, int) or nulls < 0:
        raise MatrixError(f"{path}: nulls must be a whole number of at least 0, not {_short(nulls)}")
    if nulls > MAX_NULLS:
        raise MatrixError(f"{path}: nulls must be at most {MAX_NULLS:,}, not {_short(nulls)}")
    if not isinstance(seeds, str):
        raise MatrixError(f'{path}: seeds must be text such as "0-4", not {_short(seeds)}')
    try:
        return Matrix(
            name=name,
            datasets=_entries(document["datasets"]),
            defenses=_entries(document["defenses"]),
            attacks=_limited(chain for item in document["attacks"] for chain in _chains(item)),
            seeds=parse_seeds(seeds),
            nulls=nulls,
            analyses=_entries(analyses),
            innocents=_entries(innocents),
            description=str(document.get("description", "")),
            scale=scale,
            names=names,
        )
    except UsageError as error:
        raise MatrixError(f"{path}: {error}") from error


def _names(document: dict[str, Any], path: str, scale: str) -> tuple[tuple[str, Entry], ...]:
    """The names that tables ``[datasets.NAME]`` give to data sets; those of the scale may stand for others there."""
    scales = document.get("scales")
    small = scales.get(scale) if isinstance(scales, dict) else None
    tables = [each.get("datasets") for each in (document, small) if isinstance(each, dict)]
    found: dict[str, Entry] = {}
    for name, table in ((name, table) for each in tables if isinstance(each, dict) for name, table in each.items()):
        expected = f'[datasets.{name}] must say what it stands for, such as use = "image-folder[path=~/flowers]"'
        if not isinstance(table, dict) or not isinstance(table.get("use"), str):
            raise MatrixError(f"{path}: {expected}")
        if not _NAME.fullmatch(name) or Entry(name).is_glob:
            raise MatrixError(f"{path}: {name!r} cannot be a name: letters, digits, '-', '_' and '.' are expected")
        try:
            entry = parse_entry(table["use"])
            options = {key: value for key, value in table.items() if key != "use"}
            more, *others = _sweep({"name": entry.name, **options})
            if others:
                raise UsageError("a name stands for one data set: each option has one value")
        except UsageError as error:
            raise MatrixError(f"{path}: [datasets.{name}]: {error}") from error
        found[name] = replace(entry, options=(*entry.options, *more.options))
    return tuple(found.items())


def _scaled(document: dict[str, Any], path: str, scale: str) -> dict[str, Any]:
    """The document with the keys of one of its scales in place of its own."""
    scales = document.get("scales", {})
    if not isinstance(scales, dict) or not all(isinstance(changes, dict) for changes in scales.values()):
        raise MatrixError(f"{path}: scales must be tables, as in [scales.small]")
    if scale and scale != FULL and scale not in scales:
        raise MatrixError(f"{path}: {UnknownName('scale', scale, [FULL, *scales])}")
    own = {key: value for key, value in document.items() if key != "scales"}
    return own | dict(scales.get(scale, {}))


def _entries(items: Sequence[Any]) -> tuple[Entry, ...]:
    return _limited(entry for item in items for entry in _sweep(item))


def _limited(items: Iterable[T]) -> tuple[T, ...]:
    """All of ``items``, which sweeps multiply. Raises :class:`UsageError` for more than anybody runs."""
    made = tuple(islice(items, MAX_ENTRIES + 1))
    if len(made) > MAX_ENTRIES:
        raise UsageError(f"its sweeps make more than {MAX_ENTRIES:,} entries of one axis")
    return made


def _chains(item: Any) -> Iterator[Chain]:
    """A chain as text, as one entry, or as a list of entries; sweeps inside it multiply."""
    if isinstance(item, str):
        return iter([parse_chain(item)])
    links = item if isinstance(item, list) else [item]
    if not links:
        raise UsageError("a chain must have at least one attack")
    return product(*(_limited(_sweep(link)) for link in links))


def _sweep(item: Any) -> Iterator[Entry]:
    """An entry as text, or as a table in which each list of values sweeps."""
    if isinstance(item, str):
        yield parse_entry(item)
        return
    if not isinstance(item, dict) or not isinstance(item.get("name"), str):
        raise UsageError(
            f'cannot read {_short(item)}: expected "name[option=value]" or {{name = "...", option = value}}'
        )
    keys = [key for key in item if key != "name"]
    values = [item[key] if isinstance(item[key], list) else [item[key]] for key in keys]
    for key, choices in zip(keys, values, strict=True):
        if not choices or not all(isinstance(choice, (str, int, float, bool)) for choice in choices):
            raise UsageError(f"cannot read {key} = {_short(item[key])}: expected a value or a list of values")
    name = parse_entry(item["name"]).name
    for choice in product(*values):
        yield Entry(name, tuple(zip(keys, choice, strict=True)))


# Of a value that is large, or nested thousands of times, only the beginning.
_short = reprlib.repr


def expand(entry: Entry, known: Iterable[str]) -> list[Entry]:
    """``entry`` itself, or for a glob one entry for each of the ``known`` names that fits it."""
    if not entry.is_glob:
        return [entry]
    return [replace(entry, name=name) for name in sorted(known) if fnmatchcase(name, entry.name)]


def choose(asked: Sequence[str | Chain], own: Sequence[Chain]) -> tuple[Chain, ...]:
    """One axis as ``asked`` for, instead of the matrix's ``own``.

    A glob picks from the matrix's own chains first (by their text, options included); one that fits none of them is
    kept for the registry. Anything else is taken as it is written.
    """
    chosen: dict[Chain, None] = {}
    for each in asked:
        if not isinstance(each, str):
            chosen[each] = None
            continue
        glob = "*" in each or "?" in each
        # Brackets are options here, not character classes.
        pattern = each.strip().replace("[", "[[]")
        fitting = [chain for chain in own if fnmatchcase(format_chain(chain), pattern)] if glob else []
        chosen.update(dict.fromkeys(fitting or [parse_chain(each)]))
    return tuple(chosen)
