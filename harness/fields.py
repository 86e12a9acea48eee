"""Options: the fields of plugins and of trigger recipes, with their words and bounds.

::

    class Mine(Defense):
        count: int = option(20, doc="Number of images.", at_least=1)

A class that derives from :class:`Configured` becomes a frozen dataclass by that alone. A class that also has the
decorator ``@dataclass(frozen=True)``, as version 0.1 demanded, is the same.
"""

from __future__ import annotations

import ast
import inspect
import operator
from collections.abc import Callable, Mapping
from dataclasses import Field, FrozenInstanceError, dataclass, field, fields, replace
from functools import cache, wraps
from itertools import pairwise
from textwrap import dedent
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, dataclass_transform

from harness.errors import OptionError, PluginError

T = TypeVar("T")

_HOLDS: dict[str, Callable[[Any, Any], bool]] = {
    "at_least": operator.ge,
    "above": operator.gt,
    "at_most": operator.le,
    "below": operator.lt,
}


@dataclass(frozen=True)
class Declaration:
    """Words and bounds of an option, as :func:`option` was given them."""

    doc: str = ""
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    required: bool = False
    """True for one that must be given: its default stands for nothing."""

    @property
    def bounds(self) -> list[tuple[str, float]]:
        """The bounds by name: ``[("at_least", 1)]``."""
        return [(name, bound) for name in _HOLDS if (bound := getattr(self, name)) is not None]

    def check(self, name: str, value: object) -> None:
        """Raise :class:`OptionError` unless ``value`` is ``None`` or a number within the bounds (NaN is not)."""
        if self.required and not value:
            raise OptionError(f"{name} must be given, as in [{name}=...]")
        for bound_name, bound in self.bounds if value is not None else ():
            try:
                holds = _HOLDS[bound_name](value, bound)
            except TypeError:
                holds = False
            if not holds:
                raise OptionError(f"{name} must be {bound_name.replace('_', ' ')} {bound}, not {value!r}")


def option(
    default: T,
    *,
    doc: str = "",
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    required: bool = False,
) -> T:
    """Declare an option of a plugin: its default, its words, and the bounds that its values must keep.

    ``None`` is within all bounds. The choices of an option are its type: ``Literal["a", "b"]``. An option that is
    ``required`` has an empty default, with which no object can be made.
    """
    declaration = Declaration(doc, at_least, above, at_most, below, required)
    return field(default=default, metadata={"option": declaration})


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
class Configured:
    """Base of plugins and trigger recipes: a frozen dataclass whose fields are options, checked at construction."""

    _declared: ClassVar[Mapping[str, Declaration]] = {}
    """Options that the class itself declares."""
    _declarations: ClassVar[Mapping[str, Declaration]] = {}
    """The same of the class and its bases: a subclass that only changes a default keeps the bounds."""
    decided: ClassVar[Mapping[str, object]] = {}
    """Values of options that an object's files decide where they are not given: its text leaves them out."""

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if "__dataclass_params__" in vars(cls):
            return  # `@dataclass(slots=True)` builds the finished class a second time
        cls._declared = {name: value.metadata["option"] for name, value in vars(cls).items() if _is_option(value)}
        own = [vars(base).get("_declared", {}) for base in reversed(cls.__mro__)]
        cls._declarations = {name: declaration for each in own for name, declaration in each.items()}
        if cls.__post_init__ is not Configured.__post_init__ and not hasattr(cls.__post_init__, "checks_bounds"):
            cls.__post_init__ = _checking(cls.__post_init__)  # type: ignore[method-assign]
        dataclass(frozen=True)(cls)
        _refuse_untyped_defaults(cls)
        # The decorator refuses a class that has these already; `Configured` has the same.
        del cls.__setattr__, cls.__delattr__

    def __post_init__(self) -> None:
        """Check the options' bounds. A subclass checks here what bounds cannot say, with :func:`harness.require`."""
        for name, declaration in self._declarations.items():
            declaration.check(name, getattr(self, name))

    def named_files(self) -> tuple[str, ...]:
        """Paths of files that it reads, as options name them: what they hold addresses results, as its source does."""
        return ()

    if TYPE_CHECKING:
        __dataclass_fields__: ClassVar[dict[str, Field[Any]]]
    else:

        def __setattr__(self, name: str, value: object) -> None:
            raise FrozenInstanceError(f"cannot assign to field {name!r}")

        def __delattr__(self, name: str) -> None:
            raise FrozenInstanceError(f"cannot delete field {name!r}")


def required_options(cls: type[Configured]) -> list[str]:
    """The options without which no object of a class can be made."""
    return [name for name, declaration in cls._declarations.items() if declaration.required]


def declaration_of(cls: type[Configured], name: str) -> Declaration:
    """Words and bounds of an option; the words may also be a string below its field, as in version 0.1."""
    declared = cls._declarations.get(name, Declaration())
    for base in cls.__mro__:
        own = vars(base).get("_declared", {}).get(name, Declaration())
        if words := own.doc or _strings_below_fields(base).get(name):
            return replace(declared, doc=words)
    return declared


@cache
def _strings_below_fields(cls: type) -> Mapping[str, str]:
    """The string below each field in the source of a class; none where the source is not at hand."""
    try:
        (definition,) = ast.parse(dedent(inspect.getsource(cls))).body
    except (OSError, TypeError, SyntaxError, ValueError):
        return {}
    body = definition.body if isinstance(definition, ast.ClassDef) else []
    found: dict[str, str] = {}
    for field_, below in pairwise(body):
        if isinstance(field_, ast.AnnAssign) and isinstance(field_.target, ast.Name):
            match below:
                case ast.Expr(ast.Constant(str(words))):
                    found[field_.target.id] = " ".join(words.split())
    return found


def _is_option(value: object) -> bool:
    return isinstance(value, Field) and isinstance(value.metadata.get("option"), Declaration)


def _refuse_untyped_defaults(cls: type[Configured]) -> None:
    """Raise :class:`PluginError` for ``count = 5`` in a subclass: without a type it would change nothing."""
    inherited = {id(each) for base in cls.__mro__[1:] for each in getattr(base, "__dataclass_fields__", {}).values()}
    for each in fields(cls):
        if each.name in vars(cls) and id(each) in inherited:
            hint = each.type if isinstance(each.type, str) else getattr(each.type, "__name__", each.type)
            raise PluginError(
                f"{cls.__name__}.{each.name} has no type, so the option keeps its default {each.default!r}: "
                f"write {each.name}: {hint} = {vars(cls)[each.name]!r}"
            )


def _checking(post_init: Callable[..., None]) -> Callable[..., None]:
    """``post_init`` after a check of the bounds, so that it need not call the base's."""

    @wraps(post_init)
    def checked(self: Configured, *given: Any) -> None:
        Configured.__post_init__(self)
        post_init(self, *given)

    checked.checks_bounds = True  # type: ignore[attr-defined]
    return checked
