"""Finding plugins: what is good is found, and what is broken is named with its cause and stops nobody else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import FrozenInstanceError, dataclass, fields
from pathlib import Path
from typing import ClassVar, Literal, Optional

import pytest

from harness import Attack, UsageError, require
from harness.contracts import Family
from harness.errors import OptionError, UnknownName
from harness.planning.graph import source_digest
from harness.planning.matrix import Entry, Value, parse_chain, parse_entry
from harness.planning.options import construct
from harness.planning.registry import Registry, load_registry
from tests.conftest import TINY, Cli

EXAMPLE = Path(__file__).parent / "example_package"

DEFENSE = '''
"""A scheme of somebody else's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from harness import Context, Defense, Marked, Task, hookimpl, require


@dataclass(frozen=True)
class Mine(Defense):
    """Marks nothing yet."""

    name: ClassVar[str] = "mine"

    strength: float = 0.5
    """How much."""

    def __post_init__(self) -> None:
        require(self.strength > 0, "strength must be above 0")

    def embed(self, task: Task, ctx: Context) -> Marked:
        raise NotImplementedError


@hookimpl
def harness_defenses():
    return [Mine]
'''

ATTACK = """
from dataclasses import dataclass
from typing import ClassVar

from harness import Attack, hookimpl


@dataclass(frozen=True)
class Mine(Attack):
    name: ClassVar[str] = "mine"


@hookimpl
def harness_attacks():
    return [Mine]
"""

DATASET = """
from dataclasses import dataclass
from typing import ClassVar

from harness import Arrays, Dataset, hookimpl


@dataclass(frozen=True)
class Mine(Dataset):
    name: ClassVar[str] = "mine"
    input_shape: ClassVar[tuple[int, ...]] = (1, 8, 8)
    classes: ClassVar[tuple[str, ...]] = tuple("0123456789")
    available: ClassVar[int] = 2000

    def load(self, root) -> Arrays:
        raise NotImplementedError


@hookimpl
def harness_datasets():
    return [Mine]
"""


def edited(source: str, *pairs: tuple[str, str]) -> str:
    """``source`` with each old text replaced by the new one."""
    for old, new in pairs:
        assert old in source
        source = source.replace(old, new)
    return source


def write(folder: Path, name: str, source: str | bytes) -> Path:
    """A plugin file in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes(source if isinstance(source, bytes) else source.encode())
    return path


def install(folder: Path, name: str, points: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A package in ``folder`` as pip would leave it: its metadata with entry points, on the path."""
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    lines = ["[harness]", *(f"{key} = {value}" for key, value in points.items())]
    write(info, "entry_points.txt", "\n".join(lines))
    write(info, "METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(folder)


def install_example(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package beside this file, with the entry points of its own pyproject.toml."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text("utf-8"))["project"]
    folder.mkdir()
    shutil.copy(EXAMPLE / "example_watermark.py", folder)
    # Another test may have imported it from its own folder.
    monkeypatch.delitem(sys.modules, "example_watermark", raising=False)
    install(folder, project["name"], project["entry-points"]["harness"], monkeypatch)


def new_names(registry: Registry) -> set[tuple[str, str]]:
    """What ``registry`` has beside the built-in plugins, which it must have."""
    assert {"adi", "baseline", "ewe"} <= set(registry.names("defense"))
    return {key for key, found in registry.found.items() if not found.origin.startswith("built-in: ")}


# --- what is good ---


def test_a_dropped_in_file_is_found_with_where_it_came_from(tmp_path: Path) -> None:
    path = write(tmp_path / "deep" / "down", "my_mark.py", DEFENSE)
    registry = load_registry([tmp_path])
    found = registry.found["defense", "mine"]
    assert not registry.problems
    assert found.summary == "Marks nothing yet."
    assert found.origin == f"{tmp_path}: deep/down/my_mark.py"
    assert found.digest == source_digest(str(path))
    assert registry.component("defense", "mine[strength=2]").text == "mine[strength=2.0]"


def test_files_of_one_name_in_two_folders_are_two_plugins(tmp_path: Path) -> None:
    one = write(tmp_path / "one", "mark.py", DEFENSE).parent
    two = write(tmp_path / "two", "mark.py", edited(DEFENSE, ('"mine"', '"other"'))).parent
    registry = load_registry([one, two])
    assert new_names(registry) == {("defense", "mine"), ("defense", "other")} and not registry.problems


def test_a_defense_and_an_attack_may_share_a_name(tmp_path: Path) -> None:
    write(tmp_path, "a.py", DEFENSE)
    write(tmp_path, "b.py", edited(ATTACK, ('"mine"', '"mine"\n    family: ClassVar[str] = "removal"')))
    registry = load_registry([tmp_path])
    assert new_names(registry) == {("defense", "mine"), ("attack", "mine")} and not registry.problems


def test_one_file_may_have_plugins_of_several_kinds(tmp_path: Path) -> None:
    dataset = edited(DATASET, ("Mine", "MyData"), ('"mine"', '"my-data"'))
    write(tmp_path, "both.py", DEFENSE + dataset)
    registry = load_registry([tmp_path])
    assert new_names(registry) == {("defense", "mine"), ("dataset", "my-data")} and not registry.problems


def test_files_and_folders_with_an_underscore_or_a_dot_are_not_plugins(tmp_path: Path) -> None:
    for name in ("_helper.py", ".hidden.py", "__pycache__/x.py", ".git/x.py", "notes.txt"):
        write((tmp_path / name).parent, Path(name).name, "raise SystemExit(3)")
    registry = load_registry([tmp_path])
    assert not new_names(registry) and not registry.problems


def test_folders_are_named_by_option_and_by_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("one", "two", "three")
    one, two, three = (write(tmp_path / n, "m.py", edited(DEFENSE, ('"mine"', f'"{n}"'))).parent for n in names)
    monkeypatch.setenv("HARNESS_PLUGINS", f"{two}{os.pathsep}{three}{os.pathsep}")
    assert new_names(load_registry([one])) == {("defense", name) for name in names}


def test_a_folder_named_twice_is_loaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "mark.py", DEFENSE)
    monkeypatch.setenv("HARNESS_PLUGINS", f"{tmp_path}")
    registry = load_registry([tmp_path, tmp_path / ".." / tmp_path.name])
    assert new_names(registry) == {("defense", "mine")} and not registry.problems


def test_a_folder_that_is_not_there_is_a_usage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path, "mark.py", DEFENSE)
    wrong = {
        tmp_path / "gone": r"no plugin folder .* --plugins and HARNESS_PLUGINS name folders",
        file: f"is a file: name its folder, --plugins {tmp_path}",
    }
    for folder, said in wrong.items():
        with pytest.raises(UsageError, match=said):
            load_registry([folder])
        monkeypatch.setenv("HARNESS_PLUGINS", str(folder))
        with pytest.raises(UsageError, match=said):
            load_registry()


def test_editing_a_plugin_changes_its_digest(tmp_path: Path) -> None:
    path = write(tmp_path, "mark.py", DEFENSE)
    before = load_registry([tmp_path]).component("defense", "mine").digest
    path.write_text(edited(DEFENSE, ("float = 0.5", "float = 0.25")), "utf-8")
    # One process reads a file once; another process is another cache.
    source_digest.cache_clear()
    assert load_registry([tmp_path]).component("defense", "mine").digest != before


def test_a_plugin_needs_no_decorator_and_no_class_variable(tmp_path: Path) -> None:
    bare = edited(DEFENSE, ("@dataclass(frozen=True)\nclass", "class"), ("name: ClassVar[str] =", "name ="))
    sub = "\n\nclass Sub(Mine):\n    name = 'sub'\n    strength: float = 2.0\n"
    write(tmp_path / "a", "bare.py", edited(bare, ("[Mine]", "[Mine, Sub]")) + sub)
    write(tmp_path / "b", "decorated.py", edited(DEFENSE, ('"mine"', '"decorated"')))
    registry = load_registry([tmp_path])
    assert not registry.problems
    mine, decorated, subclass = (registry.found["defense", name].cls for name in ("mine", "decorated", "sub"))
    assert [(f.name, f.default) for f in fields(mine)] == [("strength", 0.5)]
    assert fields(mine)[0].type == fields(decorated)[0].type == "float"
    assert hash(mine(strength=3.0)) == hash(decorated(strength=3.0)) and mine() == mine(0.5) != mine(0.25)
    assert repr(mine()) == "Mine(strength=0.5)" and repr(subclass()) == "Sub(strength=2.0)"
    with pytest.raises(FrozenInstanceError, match="cannot assign to field 'strength'"):
        mine().strength = 2.0  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match="strength must be above 0"):
        registry.component("defense", "sub[strength=0]")


HOOK = "@hookimpl\ndef harness_defenses():\n    return [Mine]\n"


def test_a_file_needs_no_hook(tmp_path: Path) -> None:
    dataset = edited(DATASET, ("Mine", "MyData"), ('"mine"', '"my-data"')).partition("@hookimpl")[0]
    write(tmp_path, "both.py", edited(DEFENSE, (HOOK, "")) + dataset)
    registry = load_registry([tmp_path])
    assert new_names(registry) == {("defense", "mine"), ("dataset", "my-data")} and not registry.problems


def test_one_hook_names_plugins_of_all_kinds(tmp_path: Path) -> None:
    dataset = edited(DATASET, ("Mine", "MyData"), ('"mine"', '"my-data"')).partition("@hookimpl")[0]
    hook = "@hookimpl\ndef harness_plugins():\n    return [Mine, MyData]\n"
    write(tmp_path, "both.py", edited(DEFENSE, (HOOK, "")) + dataset + hook)
    registry = load_registry([tmp_path])
    assert new_names(registry) == {("defense", "mine"), ("dataset", "my-data")} and not registry.problems


def test_a_hook_decides_alone(tmp_path: Path) -> None:
    sub = "\n\nclass Sub(Mine):\n    name = 'sub'\n"
    write(tmp_path, "mark.py", DEFENSE + sub)
    registry = load_registry([tmp_path])
    assert new_names(registry) == {("defense", "mine")} and not registry.problems


PARTS = """

class Base(Mine):
    '''Abstract.'''

    @abstractmethod
    def how(self): ...


class Nameless(Attack):
    '''Not abstract, but a base: it has no name and no family.'''


class First(Base):
    '''First.'''

    name = "first"

    def how(self): ...


class Second(Nameless):
    '''Second.'''

    name = "second"
    family = "removal"


class _Hidden(First):
    '''Not public.'''

    name = "hidden"


class Recipe(TriggerRecipe):
    '''No plugin.'''

    def make(self, task, ctx): ...


Alias = First
"""


def test_without_a_hook_bases_and_what_is_imported_or_not_public_are_no_plugins(tmp_path: Path) -> None:
    imports = ("import Context, ", "import Attack, Context, WhiteBoxDefense, TriggerRecipe, ")
    source = edited(DEFENSE, (HOOK, ""), imports, ("import torch", "from abc import abstractmethod\nimport torch"))
    write(tmp_path, "mark.py", source + PARTS)
    registry = load_registry([tmp_path])
    assert not registry.problems
    assert new_names(registry) == {("defense", "mine"), ("defense", "first"), ("attack", "second")}
    assert registry.found["defense", "first"].summary == "First."


@pytest.mark.parametrize(
    "source",
    [
        "",
        "def stamped(x):\n    return x\n",
        "from harness import Defense, Key\n\nclass Helper:\n    def embed(self): ...\n",
        "import torch\nfrom harness import losses, nets, triggers\n\nclass Table:\n    name = 'table'\n",
        "from harness import TriggerRecipe\n\nclass Ring(TriggerRecipe):\n    def make(self, task, ctx): ...\n",
    ],
)
def test_a_helper_module_beside_a_plugin_is_no_problem(tmp_path: Path, source: str) -> None:
    write(tmp_path, "helper.py", source)
    write(tmp_path, "mark.py", DEFENSE)
    registry = load_registry([tmp_path])
    assert new_names(registry) == {("defense", "mine")} and not registry.problems


# --- annotations that Python evaluates ---

FUTURE = "from __future__ import annotations\n"


def test_a_file_without_postponed_annotations_works(tmp_path: Path) -> None:
    evaluated = edited(
        DEFENSE,
        (FUTURE, ""),
        ("import Context, ", "import Attack, Context, Pool, WhiteBoxAttack, "),
        (HOOK, ""),
    )
    attack = """

class Keep(WhiteBoxAttack):
    '''Keeps the model.'''

    name = "keep"
    family = "removal"
    share: float | None = None

    def run(self, victim: torch.nn.Module, pool: Pool, ctx: Context) -> torch.nn.Module:
        return victim
"""
    write(tmp_path, "mark.py", evaluated + attack)
    registry = load_registry([tmp_path])
    assert not registry.problems
    assert new_names(registry) == {("defense", "mine"), ("attack", "keep")}
    assert registry.component("attack", "keep[share=2]").text == "keep[share=2.0]"


def test_an_annotation_of_torch_that_python_evaluates_costs_its_import_alone(tmp_path: Path, process: Cli) -> None:
    source = edited(DEFENSE, (FUTURE, ""), ("import torch\n", "import torch\nfrom torch import nn\n"))
    write(tmp_path, "mark.py", source + "\n\ndef size(net: torch.nn.Module, last: nn.Linear) -> torch.Tensor: ...\n")
    listed = process("plugins", "list", "mine", "--plugins", tmp_path, code=0)
    assert "mine  Marks nothing yet." in listed.out and not listed.err


def test_an_annotation_that_python_cannot_evaluate_says_what_to_type(tmp_path: Path) -> None:
    hidden = "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    from torch import Tensor\n"
    helper = "\n\ndef doubled(x: Tensor) -> Tensor:\n    return 2 * x\n"
    write(tmp_path, "a.py", edited(DEFENSE, ("import torch\n", hidden), ('"mine"', '"postponed"')) + helper)
    write(tmp_path, "b.py", edited(DEFENSE, (FUTURE, ""), ("import torch\n", hidden)) + helper)
    registry = load_registry([tmp_path])
    assert new_names(registry) == {("defense", "postponed")}
    (problem,) = registry.problems
    assert problem.reason == (
        "NameError: name 'Tensor' is not defined, which an annotation names: import it outside `if TYPE_CHECKING:`, "
        "or begin the file with `from __future__ import annotations`"
    )


# --- what is broken ---

BROKEN: dict[str, tuple[str | bytes, list[str]]] = {
    "a syntax error": (edited(DEFENSE, ("class Mine", "clas Mine")), ["SyntaxError", "mark.py, line 15"]),
    "not UTF-8": (DEFENSE.encode() + b"x = '\xff'", ["SyntaxError"]),
    "a null byte": (DEFENSE.encode() + b"x = 1\x00", ["is not text in UTF-8: save it as UTF-8"]),
    "an import that fails": (
        DEFENSE + "import no_such_module",
        ["ModuleNotFoundError: No module named 'no_such_module'"],
    ),
    "a name that the harness has not": (
        edited(DEFENSE, ("Defense", "Defence")),
        ["ImportError: cannot import name 'Defence'"],
    ),
    "an error at import": (DEFENSE + "1 / 0", ["ZeroDivisionError: division by zero"]),
    "an error of several lines": (DEFENSE + "raise ValueError('one\\n  two')", ["ValueError: one two"]),
    "an exit at import": (DEFENSE + "import sys\nsys.exit('bye')", ["SystemExit: bye"]),
    "a misspelt hook": (
        edited(DEFENSE, ("harness_defenses", "harness_defences")),
        ["unknown hook 'harness_defences'. Did you mean 'harness_defenses'?"],
    ),
    "a misspelt optional hook": (
        edited(DEFENSE, ("@hookimpl\ndef harness_defenses", "@hookimpl(optionalhook=True)\ndef harness_defences")),
        ["unknown hook 'harness_defences'. Did you mean 'harness_defenses'?"],
    ),
    "a hook with an argument": (edited(DEFENSE, ("harness_defenses()", "harness_defenses(all)")), ["'all'"]),
    "an unmarked hook": (
        edited(DEFENSE, ("@hookimpl\n", "")),
        ["harness_defenses() is not marked: put @hookimpl above it"],
    ),
    "a second hook that is unmarked": (
        DEFENSE + "\n\ndef harness_attacks():\n    return []\n",
        ["harness_attacks() is not marked"],
    ),
    "a misspelt hook that is unmarked": (
        edited(DEFENSE, ("@hookimpl\ndef harness_defenses", "def harness_defences")),
        ["unknown hook 'harness_defences'. Did you mean 'harness_defenses'?"],
    ),
    "no hook and no base class": (
        edited(DEFENSE, (HOOK, ""), ("(Defense)", "")),
        ["'Mine' is not a plugin: derive it from one of harness's InputSet, Defense, Attack, Architecture, Analysis"],
    ),
    "no hook and an abstract method missing": (
        edited(DEFENSE, (HOOK, ""), ("def embed", "def imbed")),
        ["Mine does not implement embed: implement it, or begin the name of a base class with an underscore"],
    ),
    "no hook and no name": (
        edited(DEFENSE, (HOOK, ""), ('    name: ClassVar[str] = "mine"\n', "")),
        ["Mine does not set name"],
    ),
    "no hook and no family": (ATTACK.partition("@hookimpl")[0], ["Mine does not set family"]),
    "no hook and two classes of one name": (
        edited(DEFENSE, (HOOK, "")) + "\n\nclass Sub(Mine):\n    strength: float = 2.0\n",
        ["defense 'mine' exists already"],
    ),
    "the new hook with a class that is no plugin": (
        edited(DEFENSE, ("harness_defenses", "harness_plugins"), ("(Defense)", "")),
        ["'Mine' is not a plugin: derive it from one of harness's InputSet, Defense"],
    ),
    "a hook that raises": (edited(DEFENSE, ("return [Mine]", "return [Yours]")), ["NameError: name 'Yours'"]),
    "a hook that returns nothing": (
        edited(DEFENSE, ("return [Mine]", "[Mine]")),
        ["harness_defenses() must return a list of classes, not None"],
    ),
    "a hook that returns the class itself": (
        edited(DEFENSE, ("return [Mine]", "return Mine")),
        ["harness_defenses() must return a list of classes, not <class"],
    ),
    "an object, not a class": (
        edited(DEFENSE, ("return [Mine]", "return [Mine()]")),
        ["is not a defense: derive it from harness.Defense"],
    ),
    "a name, not a class": (edited(DEFENSE, ("[Mine]", "['Mine']")), ["'Mine' is not a defense"]),
    "a class of another kind": (
        edited(DEFENSE, ("harness_defenses", "harness_attacks")),
        ["'Mine' is not an attack: derive it from harness.Attack"],
    ),
    "no base class": (edited(DEFENSE, ("(Defense)", "")), ["'Mine' is not a defense"]),
    "a dataclass that is not frozen": (
        edited(DEFENSE, ("(frozen=True)", "")),
        ["TypeError: cannot inherit non-frozen dataclass from a frozen one"],
    ),
    "an abstract method missing": (edited(DEFENSE, ("def embed", "def imbed")), ["Mine does not implement embed"]),
    "no name": (edited(DEFENSE, ('    name: ClassVar[str] = "mine"\n', "")), ["Mine does not set name"]),
    "no family": (ATTACK, ["Mine does not set family"]),
    "an unknown family": (
        edited(ATTACK, ('"mine"\n', '"mine"\n    family = "removed"\n')),
        ["Mine.family: unknown word 'removed'. Did you mean 'removal'? Known: detection, evasion, extraction"],
    ),
    "an unknown knowledge": (
        edited(ATTACK, ('"mine"\n', '"mine"\n    family = "removal"\n    knows = "keys"\n')),
        ["Mine.knows: unknown word 'keys'. Did you mean 'key'? Known: key, nothing, scheme"],
    ),
    "an unknown protection": (
        edited(DEFENSE, ('"mine"\n', '"mine"\n    protects = ("apis",)\n')),
        ["Mine.protects: unknown word 'apis'. Did you mean 'api'? Known: api, model"],
    ),
    "a word for a tuple of words": (
        edited(DEFENSE, ('"mine"\n', '"mine"\n    protects = "api"\n')),
        ["Mine.protects must be a tuple of 'model' and 'api', not 'api'"],
    ),
    "no classes, shape and size": (
        "\n".join(line for line in DATASET.split("\n") if "ClassVar[tuple" not in line),
        ["Mine does not set input_shape, classes"],
    ),
    **{
        f"the name {name!r}": (edited(DEFENSE, ('"mine"', repr(name))), ["Mine.name must be lower-case", repr(name)])
        for name in ("My Mark", "Mine", "a[b]", "a|b", "*", "", 3, None)
    },
    "an option without a default": (
        edited(DEFENSE, ("strength: float = 0.5", "strength: float")),
        ["Mine.strength has no default: every option needs one"],
    ),
    "an option with a factory": (
        edited(
            DEFENSE,
            ("float = 0.5", "list = field(default_factory=list)"),
            ("import dataclass", "import dataclass, field"),
        ),
        ["Mine.strength has no default"],
    ),
    **{
        f"an option of type {hint}": (edited(DEFENSE, ("float = 0.5", f"{hint} = None")), ["Mine.strength is of type"])
        for hint in (
            "list[int]",
            "dict",
            "int | str",
            "None",
            "torch.Tensor",
            "Literal[1, 2]",
            "tuple[int, ...] | None",
        )
    },
    "an option of a type that is not imported": (
        edited(DEFENSE, ("float = 0.5", "Optional[float] = 0.5")),
        [
            "Mine.strength: its type 'Optional[float]' cannot be resolved (NameError: name 'Optional' is not defined)",
            "import what it names at the top of the file, outside `if TYPE_CHECKING:`",
        ],
    ),
    "defaults that it refuses": (
        edited(DEFENSE, ("float = 0.5", "float = 0")),
        ["Mine() refuses its own defaults: strength must be above 0"],
    ),
    "a check that crashes": (
        edited(DEFENSE, ("require(self.strength > 0", "require(self.stength > 0")),
        ["Mine() refuses its own defaults", "stength"],
    ),
    "the name of a built-in": (
        edited(DEFENSE, ('"mine"', '"ewe"')),
        ["defense 'ewe' exists already (built-in: defenses/ewe.py)"],
    ),
    "two classes of one name": (
        edited(DEFENSE, ("[Mine]", "[Mine, Mine]")),
        ["defense 'mine' exists already"],
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_plugin_is_named_with_its_cause_and_stops_nobody_else(tmp_path: Path, case: str) -> None:
    source, said = BROKEN[case]
    write(tmp_path, "mark.py", source)
    write(tmp_path, "zz_good.py", edited(DEFENSE, ('"mine"', '"good"')))
    registry = load_registry([tmp_path])
    (problem,) = registry.problems
    assert problem.origin == f"{tmp_path}: mark.py"
    assert all(text in problem.reason for text in said), problem.reason
    assert "\n" not in str(problem)
    assert new_names(registry) == {("defense", "good")}
    with pytest.raises(UsageError) as caught:
        registry.component("defense", "mine")
    assert f"not loaded: {problem}" in str(caught.value)


def test_broken_plugins_are_each_named(tmp_path: Path) -> None:
    for i, (source, _) in enumerate(BROKEN.values()):
        write(tmp_path, f"mark_{i:02}.py", source)
    write(tmp_path, "zz_good.py", edited(DEFENSE, ('"mine"', '"good"')))
    registry = load_registry([tmp_path])
    assert [problem.origin for problem in registry.problems] == [
        f"{tmp_path}: mark_{i:02}.py" for i in range(len(BROKEN))
    ]
    assert new_names(registry) == {("defense", "good")}


def test_of_two_plugins_of_one_name_the_first_stays(tmp_path: Path) -> None:
    first = write(tmp_path / "first", "mark.py", DEFENSE).parent
    second = write(tmp_path / "second", "mark.py", DEFENSE).parent
    registry = load_registry([first, second])
    assert registry.found["defense", "mine"].origin == f"{first}: mark.py"
    (problem,) = registry.problems
    assert str(problem) == f"{second}: mark.py: defense 'mine' exists already ({first}: mark.py)"


# --- installed packages ---


def test_an_installed_package_is_found_by_its_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_example(tmp_path / "site", monkeypatch)
    registry = load_registry()
    assert not registry.problems
    assert new_names(registry) == {("defense", "wrong-labels")}
    found = registry.found["defense", "wrong-labels"]
    assert found.origin == "package example-watermark: example_watermark"
    own = source_digest(str(tmp_path / "site" / "example_watermark.py"))
    assert found.digest == f"{own},package%20example-watermark=1.0"


def test_an_installed_package_may_name_its_classes_by_a_hook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hook = (
        "from harness import hookimpl\nimport my_mark\n@hookimpl\ndef harness_plugins():\n    return [my_mark.Mine]\n"
    )
    write(tmp_path, "my_mark.py", edited(DEFENSE, (HOOK, "")))
    write(tmp_path, "my_old_mark.py", edited(DEFENSE, ('"mine"', '"old"')))
    write(tmp_path, "my_hook.py", hook)
    write(tmp_path, "my_imports.py", "from my_mark import Mine\n")
    points = {"new": "my_hook", "old": "my_old_mark", "none": "my_imports"}
    install(tmp_path, "my-marks", points, monkeypatch)
    registry = load_registry()
    assert new_names(registry) == {("defense", "mine"), ("defense", "old")}
    (problem,) = registry.problems
    assert str(problem) == (
        "package my-marks: my_imports: registers nothing: define a plugin class in it, or harness_plugins() under "
        "@hookimpl"
    )


def test_the_plugin_of_an_installed_package_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli) -> None:
    install_example(tmp_path / "site", monkeypatch)
    axes = (
        "--dataset",
        TINY,
        "--defense",
        "wrong-labels[count=5]",
        "--attack",
        "none",
        "--seeds",
        "0",
        "--nulls",
        "1",
        "--no-innocents",
    )
    ended = cli("run", *axes, "--device", "cpu", "--results", tmp_path / "results", code=0)
    assert "1 cells (1 ok)" in ended.out


def test_a_broken_entry_point_stops_nobody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = {
        "gone": "no_such_package.plugins",
        "attribute": "json:no_such",
        "exits": "exits_at_import",
        "empty": "json",
    }
    write(tmp_path / "broken", "exits_at_import.py", "raise SystemExit(1)")
    install(tmp_path / "broken", "broken-marks", points, monkeypatch)
    install_example(tmp_path / "site", monkeypatch)
    write(tmp_path / "mine", "mark.py", DEFENSE)
    registry = load_registry([tmp_path / "mine"])
    assert new_names(registry) == {("defense", "wrong-labels"), ("defense", "mine")}
    said = {problem.origin: problem.reason for problem in registry.problems}
    assert sorted(said) == [f"package broken-marks: {value}" for value in sorted(points.values())]
    assert said["package broken-marks: no_such_package.plugins"].startswith("ModuleNotFoundError: No module named")
    assert said["package broken-marks: json:no_such"].startswith("AttributeError")
    assert said["package broken-marks: exits_at_import"] == "SystemExit: 1"
    assert said["package broken-marks: json"].startswith("registers nothing")


# --- options ---


@dataclass(frozen=True)
class Optioned(Attack):
    name: ClassVar[str] = "optioned"
    family: ClassVar[Family] = "removal"

    whole: int = 1
    real: float = 0.5
    flag: bool = False
    text: str = "a"
    choice: Literal["x", "y"] = "x"
    maybe: int | None = 7
    either: Optional[float] = 0.5  # noqa: UP045 - plugins are written in both spellings
    word: Literal["p", "none"] | None = "p"

    def __post_init__(self) -> None:
        require(self.whole >= 0, f"whole must be at least 0, not {self.whole}")


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("whole", "12", 12),
        ("whole", 12, 12),
        ("whole", 12.0, 12),
        ("real", "2", 2.0),
        ("real", "1e-3", 0.001),
        ("real", 2, 2.0),
        ("real", "-0.5", -0.5),
        *(("flag", value, True) for value in ("true", "True", "yes", "on", True)),
        *(("flag", value, False) for value in ("false", "FALSE", "no", "off", False)),
        ("text", "mlp[width=64]", "mlp[width=64]"),
        ("text", "", ""),
        ("text", "7", "7"),
        ("choice", "y", "y"),
        ("maybe", "3", 3),
        ("maybe", "none", None),
        ("maybe", "None", None),
        ("either", "3", 3.0),
        ("either", "none", None),
        ("word", "p", "p"),
        ("word", "none", None),
    ],
)
def test_an_option_becomes_what_its_field_declares(option: str, value: Value, expected: object) -> None:
    made = getattr(construct(Optioned, Entry("optioned", ((option, value),))), option)
    assert made == expected and type(made) is type(expected)


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        *(("whole", value, "a whole number") for value in ("x", "", "1.5", "1e3", 1.5, True, float("nan"), "9" * 5000)),
        *(("real", value, "a finite number") for value in ("x", "", "nan", "inf", float("nan"), float("-inf"), True)),
        ("real", 10**400, "a finite number"),
        *(("flag", value, "true or false") for value in ("maybe", "1", 1, 0.0, "")),
        *(("text", value, "text") for value in (1, 1.5, True)),
        ("choice", "z", "unknown value 'z'. Known: x, y"),
        ("choice", 1, "unknown value '1'"),
        ("choice", "none", "unknown value 'none'"),
        ("maybe", "x", "a whole number"),
        ("either", "nan", "a finite number"),
        ("word", "q", "unknown value 'q'"),
        ("whole", "-1", "whole must be at least 0, not -1"),
    ],
)
def test_an_option_of_another_type_or_range_says_what_was_expected(option: str, value: Value, expected: str) -> None:
    with pytest.raises(OptionError) as caught:
        construct(Optioned, Entry("optioned", ((option, value),)))
    said = str(caught.value)
    assert said.startswith(f"optioned[{option}={value}]: ") and expected in said


def test_an_unknown_option_says_what_was_meant_and_what_exists() -> None:
    with pytest.raises(UnknownName) as caught:
        construct(Optioned, parse_entry("optioned[wohle=3]"))
    assert "unknown option of optioned 'wohle'. Did you mean 'whole'? Known: choice, either," in str(caught.value)


def test_an_option_given_twice_is_refused() -> None:
    with pytest.raises(OptionError, match="optioned: option real is given twice"):
        construct(Optioned, parse_entry("optioned[real=1,real=1]"))


@pytest.mark.parametrize("attribute", ["name", "family"])
def test_what_is_no_field_is_no_option(attribute: str) -> None:
    with pytest.raises(UnknownName, match="unknown option"):
        construct(Optioned, Entry("optioned", ((attribute, "none"),)))


# --- asking for names ---


@pytest.fixture(scope="module")
def builtin() -> Iterator[Registry]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("HARNESS_PLUGINS", raising=False)
        yield load_registry()


@pytest.mark.parametrize(
    ("kind", "name", "meant"),
    [
        ("dataset", "minst", "mnist"),
        ("defense", "baselin", "baseline"),
        ("attack", "prunning", "pruning"),
        ("architecture", "cn", "cnn"),
    ],
)
def test_an_unknown_name_says_what_was_meant_and_what_exists(
    builtin: Registry, kind: Literal["dataset", "defense", "attack", "architecture"], name: str, meant: str
) -> None:
    with pytest.raises(UnknownName) as caught:
        builtin.component(kind, name)
    assert f"unknown {kind} {name!r}. Did you mean {meant!r}? Known: " in str(caught.value)
    assert ", ".join(builtin.names(kind)) in str(caught.value)


def test_a_glob_that_fits_nothing_is_an_unknown_name(builtin: Registry) -> None:
    with pytest.raises(UnknownName, match=r"unknown defense 'zz\*'"):
        builtin.components("defense", [Entry("zz*")])


def test_globs_and_names_together_give_each_use_once(builtin: Registry) -> None:
    entries = [parse_entry(text) for text in ("ewe", "*", "ewe[weight=64]", "ewe[weight=64.0]")]
    texts = [use.text for use in builtin.components("defense", entries)]
    arms = [
        f"{name}[{options}]" if options else name
        for kind, name in sorted(builtin.found)
        if kind == "defense"
        for options in builtin.found[kind, name].cls.arms
    ]
    assert {"adi", "baseline", "baseline[placement=gradient]", "unmarked"} < set(arms)
    assert texts == ["ewe", *(arm for arm in arms if arm != "ewe"), "ewe[weight=64.0]"]


def test_a_glob_may_stand_alone_but_not_inside_a_chain(builtin: Registry) -> None:
    assert builtin.chains([parse_chain("*"), parse_chain("pruning")]) == builtin.chains([parse_chain("*")])
    with pytest.raises(UnknownName, match=r"unknown attack 'pr\*'"):
        builtin.chains([parse_chain("retraining | pr*")])


# --- without torch ---

PLAN_EVERYTHING = """
import sys
from pathlib import Path
from harness.cli import cli
from harness.planning.registry import load_registry

plans = [["plan", "--matrix", name] for name in ("smoke", "quick", "paper")]
full = ["plan", "--matrix", "full"]  # every plugin, and every data set; all pairs of them take a minute
plans += [[*full, "--dataset", "digits", "--seeds", "0"], [*full, "--defense", "ewe", "--attack", "retraining"]]
for arguments in (["run", "--help"], ["plugins", "list", "--options"], *plans):
    cli.main(arguments, prog_name="harness", standalone_mode=False)
assert "mine" in load_registry([Path(sys.argv[1])]).names("defense")
heavy = {"torch._C", "torchvision.ops", "pandas", "pyarrow", "scipy", "sklearn"}
print("imported:", *heavy & set(sys.modules))
"""


@pytest.mark.slow
def test_listing_and_planning_never_import_torch(tmp_path: Path) -> None:
    write(tmp_path, "mark.py", DEFENSE)
    command = [sys.executable, "-c", PLAN_EVERYTHING, tmp_path]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "matrix full: " in ended.stdout and ended.stdout.endswith("imported:\n")


WITHOUT_DOWNLOADERS = """
from importlib.machinery import PathFinder
found = PathFinder.find_spec
PathFinder.find_spec = lambda name, *args: None if name in ("torchvision", "torchaudio") else found(name, *args)
from harness.planning.registry import load_registry
registry = load_registry()
assert {"mnist", "cifar-10", "svhn", "speech-commands"} <= set(registry.names("dataset"))
try:
    registry.component("dataset", "mnist").plugin.source_set()
except ModuleNotFoundError as error:
    print(error)
"""


@pytest.mark.slow
def test_data_sets_are_there_where_what_downloads_them_is_not() -> None:
    ended = subprocess.run([sys.executable, "-c", WITHOUT_DOWNLOADERS], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "torchvision" in ended.stdout


CANNOT_LOAD = """
from __future__ import annotations
from pathlib import Path
from harness import Arrays, InputSet

class Broken(InputSet):
    name, input_shape, classes, available = "broken", (1, 4, 4), ("a",), 1

    def load(self, root: Path) -> Arrays:
        raise KeyError("x_train")
"""


def test_doctor_goes_on_after_a_data_set_that_breaks(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "broken.py").write_text(CANNOT_LOAD)
    told = cli("doctor", "--plugins", tmp_path, code=0).out
    assert "broken: missing (broken: load: KeyError: 'x_train')" in told and "digits: found" in told
