"""Options: a field's default, words and bounds, with and without version 0.1's decorator."""

from __future__ import annotations

import pickle
import sys
from dataclasses import FrozenInstanceError, dataclass, field, fields, replace
from pathlib import Path
from typing import ClassVar, Literal

import pytest

from harness import Attack, PluginError, TriggerRecipe, option, require
from harness.errors import OptionError, UnknownName
from harness.planning.matrix import parse_entry
from harness.planning.options import OptionInfo, construct, options_of
from harness.planning.registry import check_class, load_registry
from tests.conftest import Cli


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


def test_a_default_without_a_type_in_a_subclass_is_refused() -> None:
    with pytest.raises(PluginError) as caught:

        class Forgets(Bare):
            """It means another default, and would have none."""

            name = "forgets"
            count = 5

    assert str(caught.value) == ("Forgets.count has no type, so the option keeps its default 20: write count: int = 5")


def test_an_option_without_a_type_says_what_to_write() -> None:
    class Untyped(Attack):
        """An attack whose author forgot a type."""

        name = "untyped"
        family = "removal"
        strength = 0.5

    with pytest.raises(OptionError) as caught:
        construct(Untyped, parse_entry("untyped[strength=1]"))
    assert str(caught.value) == "untyped: strength has no type, so it is not an option: write strength: float = 0.5"
    with pytest.raises(UnknownName, match="unknown option of untyped 'skip'"):
        construct(Untyped, parse_entry("untyped[skip=1]"))


def test_a_default_out_of_bounds_is_named() -> None:
    class Wrong(Attack):
        """An attack with a default that it refuses."""

        name = "wrong"
        family = "removal"
        count: int = option(0, at_least=1)

    with pytest.raises(PluginError, match=r"Wrong\(\) refuses its own defaults: count must be at least 1, not 0"):
        check_class(Wrong, "attack")


# --- words ---


@dataclass(frozen=True)
class Worded(Attack):
    """Words in version 0.1's way, and others."""

    name: ClassVar[str] = "worded"
    """Not an option."""
    family: ClassVar[Literal["removal"]] = "removal"

    count: int = 3
    """Number of images,
    in one line."""
    silent: float = 0.5
    """ """
    mode: Literal["a", "b"] | None = None

    """After a blank line."""
    flag: bool = option(False, doc="By option.")
    """By a string."""
    limit: float = option(1.5, above=0, at_most=2)
    """Bounds and a string."""


class Reworded(Worded):
    """Defaults and words that change."""

    name = "reworded"
    count: int = 4
    flag: bool = True
    """A nearer string."""
    limit: float = 2.0
    text: str = "x"


def test_options_are_described_from_both_kinds_of_words() -> None:
    assert options_of(Worded) == [
        OptionInfo("count", "3", "int", "", "Number of images, in one line."),
        OptionInfo("silent", "0.5", "float", "", ""),
        OptionInfo("mode", "none", "a | b | none", "", "After a blank line."),
        OptionInfo("flag", "false", "bool", "", "By option."),
        OptionInfo("limit", "1.5", "float", "above 0, at most 2", "Bounds and a string."),
    ]


def test_a_subclass_keeps_words_and_bounds_unless_it_gives_others() -> None:
    described = {each.name: each for each in options_of(Reworded)}
    assert described["count"] == OptionInfo("count", "4", "int", "", "Number of images, in one line.")
    assert described["flag"].words == "A nearer string." and described["flag"].default == "true"
    assert described["limit"] == OptionInfo("limit", "2.0", "float", "above 0, at most 2", "Bounds and a string.")
    assert described["text"].values == "text" and described["limit"].values == "float, above 0, at most 2"


def test_a_class_without_source_has_options_without_words() -> None:
    namespace: dict[str, object] = {"__name__": __name__}
    exec("from harness import Attack\nclass Typed(Attack):\n    count: int = 3\n    'Words.'\n", namespace)
    assert options_of(namespace["Typed"]) == [OptionInfo("count", "3", "int", "", "")]  # type: ignore[arg-type]


def test_every_option_of_a_built_in_plugin_has_words() -> None:
    found = load_registry().found.values()
    silent = {
        f"{each.cls.name}[{option.name}]" for each in found for option in options_of(each.cls) if not option.words
    }
    assert not silent


LISTED = '''
"""Both ways to write an option."""

from dataclasses import dataclass
from typing import ClassVar

from harness import Attack, option


@dataclass(frozen=True)
class Old(Attack):
    """An attack that leaves the model."""

    name: ClassVar[str] = "old"
    family = "removal"
    reference = "Author et al., A Title That Is Long Enough For A Second Line, Conference 2020"
    strength: float = 0.5
    """How much of it, in words that are long enough to go on in another line of a terminal."""


class New(Attack):
    """Another one."""

    name = "new-and-of-a-longer-name"
    family = "removal"
    share: float | None = option(None, doc="Share of it.", above=0, at_most=1)
'''


def test_plugins_list_shows_options_with_words_values_and_defaults(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "both.py").write_text(LISTED)
    said = cli("plugins", "list", "old", "new-and-of-a-longer-name", "--options", "--plugins", tmp_path, code=0).out
    assert said == (
        "attacks:\n"
        "  new-and-of-a-longer-name  Another one.\n"
        f"                            {tmp_path}: both.py\n"
        "      share=none  (float | none, above 0, at most 1)\n"
        "          Share of it.\n"
        "  old                       An attack that leaves the model.\n"
        f"                            {tmp_path}: both.py; Author et al., A Title That Is Long Enough For A Second "
        "Line, Conference 2020\n"
        "      strength=0.5  (float)\n"
        "          How much of it, in words that are long enough to go on in another line of a terminal.\n"
    )


def test_plugins_list_of_an_unknown_name_says_what_was_meant(cli: Cli) -> None:
    assert "unknown plugin 'prunning'. Did you mean 'pruning'?" in cli("plugins", "list", "prunning", code=2).err


def test_plugins_list_fits_a_terminal(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "both.py").write_text(LISTED)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    lines = cli("plugins", "list", "--options", "--plugins", tmp_path, code=0).out.splitlines()
    paths = (str(tmp_path), "(")  # a path or a list of choices is one word
    assert [line for line in lines if len(line) > 80 and not any(path in line for path in paths)] == []
