"""Fields of untrusted JSON, declared as a ``TypedDict``: from it follow the checks of values and a table's columns.

An annotation says all: the type, in ``Annotated`` a :class:`Bound` of the values, and the :class:`Doc` of its column.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeAlias, get_args, get_origin, get_type_hints, is_typeddict

Check: TypeAlias = Callable[[Any], bool]


@dataclass(frozen=True)
class Doc:
    """The words for a field that is a column of a table too."""

    text: str
    since: int = 0
    """The schema version that the column came with."""


@dataclass(frozen=True)
class Bound:
    """A condition on a field's values beyond their type, and the column's type where it is another one."""

    holds: Check
    type: str = ""


@dataclass(frozen=True)
class Column:
    """A column: its name, its type in pyarrow's words, and what it holds."""

    name: str
    type: str
    doc: str
    since: int = 0
    """The schema version that it came with; 0 for the oldest that is read."""


def columns_of(declared: type) -> tuple[Column, ...]:
    """The columns of a ``TypedDict``: its fields that have a :class:`Doc`, in their order."""
    return tuple(_columns(declared))


def _columns(declared: type) -> Iterator[Column]:
    for name, hint in get_type_hints(declared, include_extras=True).items():
        marks = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
        bound = next((mark.type for mark in marks if isinstance(mark, Bound) and mark.type), "")
        for doc in (mark for mark in marks if isinstance(mark, Doc)):
            yield Column(name, bound or _column_type(hint), doc.text, doc.since)


def _column_type(hint: Any) -> str:
    names = {str: "string", int: "int64", float: "double", bool: "bool"}
    if get_origin(hint) in (Annotated, UnionType):
        return _column_type(get_args(hint)[0])
    return names[str if get_origin(hint) is Literal else hint]


def checks_of(declared: type) -> dict[str, Check]:
    """A check of each field of a ``TypedDict``, by its name."""
    return {name: check_of(hint) for name, hint in get_type_hints(declared, include_extras=True).items()}


def check_of(hint: Any) -> Check:
    """A check if a value that JSON can hold is of the type ``hint``.

    Text has no half characters, whole numbers are exact in JSON, and no number is infinite or NaN. An object has the
    names that its ``TypedDict`` declares: all that are required, and no others.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _all_of(check_of(arguments[0]), *(mark.holds for mark in arguments[1:] if isinstance(mark, Bound)))
    if origin is UnionType:
        return _any_of(*map(check_of, arguments))
    if origin is Literal:
        return lambda value: isinstance(value, str) and value in arguments
    if origin is list:
        return _list_of(check_of(arguments[0]))
    if origin is dict:
        return _names_of(check_of(arguments[1]))
    return _row_of(hint) if is_typeddict(hint) else _PLAIN[hint]


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and not _SURROGATE.search(value)


_SURROGATE = re.compile("[\ud800-\udfff]")
"""Half a character: JSON can say it, UTF-8 and a terminal cannot."""
EXACT = 2**53
"""JSON's numbers are exact up to here (RFC 8259); a thousand of them still have a sum in 64 bits."""


def _is_whole(value: Any) -> bool:
    return type(value) is int and -EXACT <= value <= EXACT


def _is_number(value: Any) -> bool:
    return _is_whole(value) or (type(value) is float and math.isfinite(value))


_PLAIN: dict[Any, Check] = {
    **{str: _is_text, int: _is_whole, float: _is_number},
    **{bool: lambda value: isinstance(value, bool), NoneType: lambda value: value is None, Any: lambda value: True},
}


def _all_of(first: Check, *others: Check) -> Check:
    if not others:
        return first
    rest = _all_of(*others)
    return lambda value: first(value) and rest(value)


def _any_of(first: Check, *others: Check) -> Check:
    if not others:
        return first
    rest = _any_of(*others)
    return lambda value: first(value) or rest(value)


def _list_of(holds: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(holds, value))


def _names_of(holds: Check) -> Check:
    """A check of an object of any names, whose values ``holds`` checks."""
    return lambda value: isinstance(value, dict) and all(_is_text(n) and holds(each) for n, each in value.items())


def _row_of(declared: Any) -> Check:
    """A check of an object with the required names of a ``TypedDict``, and no other names than its."""
    known, required = checks_of(declared), declared.__required_keys__

    def holds(value: Any) -> bool:
        return (
            isinstance(value, dict)
            and required <= value.keys()
            and all(n in known and known[n](each) for n, each in value.items())
        )

    return holds
