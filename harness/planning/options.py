"""From the text of options to the fields of a plugin: types, conversion, checks of the declaration."""

from __future__ import annotations

import math
import types
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from harness.contracts import Plugin
from harness.errors import OptionError, PluginError, UnknownName, UsageError
from harness.fields import declaration_of
from harness.isolation import Interrupted, describe_error
from harness.planning.graph import value_text
from harness.planning.matrix import Entry, Value, parse_entry


@dataclass(frozen=True)
class OptionInfo:
    """An option of a plugin, in words: for lists, reports and documents."""

    name: str
    default: str
    """The default as it is typed: ``none``, ``true``, ``0.5``."""
    type: str
    """``int``, ``float``, ``bool``, ``text``, or the choices ``a | b``; with ``| none`` where it may be none."""
    range: str
    """``above 0, at most 1``; empty where every value is taken."""
    words: str

    @property
    def values(self) -> str:
        """The values that it takes: ``int | none, at least 1``."""
        return ", ".join(filter(None, (self.type, self.range)))


def options_of(cls: type[Plugin]) -> list[OptionInfo]:
    """The options of a plugin, in the order of its fields."""
    hints = resolved_types(cls)
    options = []
    for each in fields(cls):
        declaration = declaration_of(cls, each.name)
        bounds = [f"{name.replace('_', ' ')} {bound}" for name, bound in declaration.bounds]
        limits = ", ".join([*bounds, *(["must be given"] if declaration.required else [])])
        options.append(
            OptionInfo(each.name, value_text(each.default), _type_text(hints[each.name]), limits, declaration.doc)
        )
    return options


def _type_text(hint: Any) -> str:
    if _is_union(hint):
        return " | ".join(_type_text(arg) for arg in get_args(hint))
    if get_origin(hint) is Literal:
        return " | ".join(map(str, get_args(hint)))
    return {bool: "bool", int: "int", float: "float", str: "text"}.get(hint, "none")


def construct(cls: type[Plugin], entry: Entry) -> Plugin:
    """``cls`` with the options of ``entry``, converted to its fields' types. Raises :class:`OptionError`."""
    hints = resolved_types(cls)
    known = [f.name for f in fields(cls)]
    options: dict[str, Any] = {}
    former = dict(cls.former)
    for key, value in entry.options:
        if now := former.get(f"{key}={value}"):
            key, value = now.split("=")
        key = former.get(key, key)
        if key not in known:
            raise _unknown_option(cls, entry.name, key, known)
        if key in options:
            raise OptionError(f"{entry.name}: option {key} is given twice")
        options[key] = _convert(value, hints[key], f"{entry.name}[{key}={value}]")
    try:
        return cls(**options)
    except (OptionError, ValueError, TypeError) as error:
        raise OptionError(f"{entry}: {error}") from error
    except BaseException as error:
        if isinstance(error, Exception | Interrupted):  # a bug, and Ctrl-C
            raise
        raise OptionError(f"{entry}: {describe_error(error)}") from error


def _unknown_option(cls: type[Plugin], name: str, key: str, known: list[str]) -> UsageError:
    value = getattr(cls, key, None)
    if key in resolved_types(cls) or not isinstance(value, int | float | str):
        return UnknownName(f"option of {name}", key, known)
    return OptionError(
        f"{name}: {key} has no type, so it is not an option: write {key}: {type(value).__name__} = {value!r}"
    )


@cache  # a sweep constructs one class thousands of times, and resolving its annotations is most of that
def resolved_types(cls: type[Any]) -> dict[str, Any]:
    """The types of a class's fields and class variables. Raises :class:`PluginError` that names one that has none."""
    try:
        return get_type_hints(cls)
    except Exception as error:
        name, hint = next(_unresolved(cls), ("an option", "?"))
        raise PluginError(
            f"{cls.__name__}.{name}: its type {hint!r} cannot be resolved ({type(error).__name__}: {error}): "
            "import what it names at the top of the file, outside `if TYPE_CHECKING:`"
        ) from error


def _unresolved(cls: type[Any]) -> Iterator[tuple[str, Any]]:
    """The annotations that cannot be resolved, by name."""
    for base in cls.__mro__:
        for name, hint in vars(base).get("__annotations__", {}).items():
            alone = type(base.__name__, (), {"__annotations__": {name: hint}, "__module__": base.__module__})
            try:
                get_type_hints(alone)
            except Exception:
                yield name, hint


def _convert(value: Value, hint: Any, where: str) -> Any:
    """``value`` as the type ``hint``: int, float, bool, str, a Literal of strings, or one of these or None."""
    if get_origin(hint) in (Union, types.UnionType):
        if value in ("none", "None"):
            return None
        return _convert(value, next(arg for arg in get_args(hint) if arg is not type(None)), where)
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise OptionError(f"{where}: {UnknownName('value', str(value), map(str, get_args(hint)))}")
        return value
    try:
        converted = _CONVERTERS[hint](value)
    except (ValueError, TypeError, OverflowError):
        raise OptionError(f"{where}: expected {_EXPECTED[hint]}, not {value!r}") from None
    return converted


def _to_bool(value: Value) -> bool:
    if isinstance(value, bool):
        return value
    words = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
    if isinstance(value, str) and value.lower() in words:
        return words[value.lower()]
    raise ValueError(value)


def _to_int(value: Value) -> int:
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise ValueError(value)
    return int(value)


def _to_float(value: Value) -> float:
    number = float(value)
    if isinstance(value, bool) or not math.isfinite(number):
        raise ValueError(value)
    return number


def _to_str(value: Value) -> str:
    if not isinstance(value, str) or not _reads_back(value):
        raise ValueError(value)
    return value


def _reads_back(text: str) -> bool:
    """True where the text of an entry with this value means the value: two sets of options never share a text."""
    try:
        return parse_entry(f"name[option={text}]").options == (("option", text),)
    except UsageError:
        return False


_CONVERTERS: dict[Any, Any] = {bool: _to_bool, int: _to_int, float: _to_float, str: _to_str}
_EXPECTED = {
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    str: "text without commas outside brackets, or spaces at its ends",
}


def check_fields(cls: type[Plugin], where: str, hints: Mapping[str, Any]) -> None:
    """Raise :class:`PluginError` for a field that cannot be an option."""
    for option in fields(cls):
        if option.default is MISSING:
            raise PluginError(f"{where}.{option.name} has no default: every option needs one")
        hint = hints[option.name]
        args = [a for a in get_args(hint) if a is not type(None)] if _is_union(hint) else [hint]
        if len(args) != 1 or not (args[0] in _CONVERTERS or _is_literal(args[0])):
            raise PluginError(
                f"{where}.{option.name} is of type {hint}: "
                "an option is int, float, bool, str, a Literal of strings, or one or None"
            )


def _is_literal(hint: Any) -> bool:
    return get_origin(hint) is Literal and all(isinstance(value, str) for value in get_args(hint))


def _is_union(hint: Any) -> bool:
    return get_origin(hint) in (Union, types.UnionType)
