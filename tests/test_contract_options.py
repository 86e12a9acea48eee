"""Options: a field's default, words and bounds, with and without version 0.1's decorator."""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError, dataclass, field, fields, replace
from typing import ClassVar, Literal

import pytest

from harness import Attack, PluginError, TriggerRecipe, option, require
from harness.errors import OptionError
from harness.planning.registry import check_class


class Bare(Attack):
    """An attack in today's style."""

    name = "bare"
    family = "removal"

    count: int = option(20, doc="Number of images.", at_least=2)
    rate: float | None = option(None, doc="Share of them.", above=0, at_most=1)
    angle: float = option(0.0, at_least=-180, below=180)
    mode: Literal["a", "b"] = option("a", doc="Way to do it.")
    plain: int = 3

    def __post_init__(self) -> None:
        require(self.plain * self.count != 60 or self.mode == "a", "b wants another count")


@dataclass(frozen=True)
class Decorated(Attack):
    """The same in version 0.1's."""

    name: ClassVar[str] = "decorated"
    family: ClassVar[Literal["removal"]] = "removal"

    count: int = option(20, doc="Number of images.", at_least=2)
    rate: float | None = option(None, doc="Share of them.", above=0, at_most=1)
    angle: float = option(0.0, at_least=-180, below=180)
    mode: Literal["a", "b"] = option("a", doc="Way to do it.")
    plain: int = 3

    def __post_init__(self) -> None:
        require(self.plain * self.count != 60 or self.mode == "a", "b wants another count")


class OtherDefault(Bare):
    """A subclass that changes a default, and has no check of its own."""

    name = "other"
    count: int = 5


class Mixin:
    def __post_init__(self) -> None:
        """Knows nothing of options."""


class Mixed(Mixin, Bare):
    """A subclass whose check comes from elsewhere."""

    name = "mixed"


class Ring(TriggerRecipe):
    """A trigger recipe."""

    width: int = option(2, at_least=1)

    def make(self, task, ctx):  # type: ignore[no-untyped-def]
        raise NotImplementedError


STYLES = [Bare, Decorated, OtherDefault, Mixed]


@pytest.mark.parametrize("cls", STYLES)
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"count": 1}, "count must be at least 2, not 1"),
        ({"rate": 0}, "rate must be above 0, not 0"),
        ({"rate": 1.5}, "rate must be at most 1, not 1.5"),
        ({"rate": float("nan")}, "rate must be above 0, not nan"),
        ({"angle": -181}, "angle must be at least -180, not -181"),
        ({"angle": 180}, "angle must be below 180, not 180"),
        ({"count": "many"}, "count must be at least 2, not 'many'"),
    ],
)
def test_a_bound_is_checked_at_construction(cls: type[Attack], given: dict[str, object], said: str) -> None:
    with pytest.raises(OptionError) as caught:
        cls(**given)
    assert str(caught.value) == said


@pytest.mark.parametrize("cls", STYLES)
def test_values_within_the_bounds_are_taken(cls: type[Attack]) -> None:
    for given in ({"count": 2}, {"rate": 1}, {"rate": 1e-9}, {"rate": None}, {"angle": -180}, {"angle": 179.9}):
        (name, value), *_ = given.items()
        assert getattr(cls(**given), name) == value
    check_class(cls, "attack")


@pytest.mark.parametrize("cls", [Bare, Decorated])
def test_a_check_of_its_own_follows_the_bounds(cls: type[Attack]) -> None:
    with pytest.raises(OptionError, match="b wants another count"):
        cls(mode="b")  # type: ignore[call-arg]
    with pytest.raises(OptionError, match="count must be at least 2"):
        cls(mode="b", count=0)  # type: ignore[call-arg]


def test_both_styles_have_the_same_fields_hash_and_repr() -> None:
    described = [[(f.name, f.default, f.type) for f in fields(cls)] for cls in (Bare, Decorated)]
    assert described[0] == described[1]
    assert hash(Bare(count=7)) == hash(Decorated(count=7))
    assert repr(Bare()) == "Bare(count=20, rate=None, angle=0.0, mode='a', plain=3)"
    assert repr(Decorated()) == repr(Bare()).replace("Bare", "Decorated")
    assert Bare.count == Decorated.count == 20


@pytest.mark.parametrize("cls", STYLES)
def test_a_plugin_is_frozen_and_pickles(cls: type[Attack]) -> None:
    plugin = cls(count=7)  # type: ignore[call-arg]
    assert pickle.loads(pickle.dumps(plugin)) == plugin == replace(plugin)
    for name in ("count", "no_option"):
        with pytest.raises(FrozenInstanceError, match=f"cannot assign to field '{name}'"):
            setattr(plugin, name, 3)
        with pytest.raises(FrozenInstanceError, match=f"cannot delete field '{name}'"):
            delattr(plugin, name)


def test_a_trigger_recipe_has_options_too() -> None:
    assert Ring(width=3) == Ring(3) and hash(Ring()) == hash(Ring(2))
    with pytest.raises(OptionError, match="width must be at least 1, not 0"):
        Ring(width=0)


def test_other_decorators_of_version_0_1_work_as_they_did() -> None:
    @dataclass(frozen=True, order=True)
    class Ordered(Attack):
        """An attack that sorts."""

        name: ClassVar[str] = "ordered"
        family: ClassVar[Literal["removal"]] = "removal"
        size: int = field(default=1, metadata={"unit": "px"})

    assert Ordered(1) < Ordered(2)
    with pytest.raises(TypeError, match="cannot inherit non-frozen dataclass from a frozen one"):

        @dataclass
        class Thawed(Attack):
            """No plugin may change."""


def test_a_default_out_of_bounds_is_named() -> None:
    class Wrong(Attack):
        """An attack with a default that it refuses."""

        name = "wrong"
        family = "removal"
        count: int = option(0, at_least=1)

    with pytest.raises(PluginError, match=r"Wrong\(\) refuses its own defaults: count must be at least 1, not 0"):
        check_class(Wrong, "attack")
