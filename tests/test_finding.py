"""Of a folder only the files that define plugins are executed, whatever else lies there."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from harness.planning.registry import load_registry
from tests.test_helpers import files, loaded, mark
from tests.test_registry import DEFENSE as HOOKED
from tests.test_registry import HOOK, edited, new_names

DEFENSE = edited(HOOKED, (HOOK, ""))
RAN = "import pathlib\npathlib.Path(__file__ + '.ran').touch()\n"
"""Top-level code that leaves a trace."""
MAIN = "\nif __name__ == '__main__':\n    raise SystemExit('ran as a script')\n"


def ran(folder: Path) -> set[str]:
    """The files that were executed, by their paths."""
    return {path.relative_to(folder).as_posix().removesuffix(".ran") for path in folder.rglob("*.ran")}


SCRIPTS = {
    "training without the harness": "import sys\nprint('training for 3 hours ...')\n",
    "a run of the harness": "import harness\n\nharness.run()\n",
    "a run of a plugin of its own": "import harness\nfrom mark import Mine\nrun = harness.run(defenses=[Mine])\n",
    "the word alone": "# a test harness\nraise SystemExit(1)\n",
    "a test": "from harness import testing\nfrom mark import Mine\ndef test():\n    testing.check_defense(Mine)\n",
    "setup": "from setuptools import setup\nsetup(name='watermark-harness-plugin')\n",
    "a class of torch": "import harness\nimport torch\n\nclass Net(torch.nn.Module):\n    name = 'net'\n",
    "a class of Python's": "import harness\nimport argparse\nclass P(argparse.Action):\n    name = 'p'\n",
    "a class in a function": "import harness\n\ndef make():\n    class Mine(harness.Defense):\n        name = 'x'\n",
    "a script's class": "import harness\nif __name__ == '__main__':\n    class Mine(harness.Defense): ...\n",
    "a private class": "from harness import Defense\n\nclass _Base(Defense):\n    name = 'base'\n",
    "a recipe": "from harness import TriggerRecipe\n\nclass Ring(TriggerRecipe):\n    name = 'ring'\n",
    "Python 2": "print 'training'\n",
    "only imports": "from harness import Defense\nfrom mark import Mine\n",
}


@pytest.mark.parametrize("case", SCRIPTS)
def test_a_file_that_defines_no_plugin_is_not_executed(tmp_path: Path, case: str) -> None:
    names = ("script.py", "deep/down/script.py", "test_script.py")
    files(tmp_path, {"mark.py": mark() + RAN, **dict.fromkeys(names, RAN + SCRIPTS[case])})
    assert new_names(loaded(tmp_path)) == {("defense", "mine")}
    assert ran(tmp_path) == {"mark.py"}


BODY = "\n    name = 'other'\n    def embed(self, task, ctx): ...\n"
PLUGINS = {
    "by an alias of the harness": f"import harness as h\nclass Other(h.Defense):{BODY}",
    "by all of its names": f"from harness import *\nclass Other(Defense):{BODY}",
    "by its contracts": f"from harness.contracts import Defense as Scheme\nclass Other(Scheme):{BODY}",
    "by the module of its contracts": f"import harness.contracts\nclass Other(harness.contracts.Defense):{BODY}",
    "by an imported module": f"from harness import contracts as c\nclass Other(c.Defense):{BODY}",
    "by a name of its own": f"import harness\nBase = harness.Defense\nclass Other(Base):{BODY}",
    "where something can be imported": (
        "try:\n    import no_such\nexcept ImportError:\n    from harness import Defense\n"
        f"if True:\n  class Other(Defense):{BODY}"
    )
    .replace("\n    name", "\n      name")
    .replace("\n    def", "\n      def"),
    "from a module beside it": f"from _base import Base\nclass Other(Base):{BODY}",
    "from a module beside it, all names": f"from _base import *\nclass Other(Base):{BODY}",
    "from a module of a package": f"import pkg._inner as p\nclass Other(p.Base):{BODY}",
    "from a package that imports it": f"from pkg import Base as B\nclass Other(B):{BODY}",
    "from a package, on several lines": f"from pkg import (\n    _inner,\n)\nclass Other(_inner.Base):{BODY}",
    "relatively": f"from .pkg._inner import Base\nclass Other(Base):{BODY}",
    "from one that does not say harness": f"import between\nclass Other(between.Between):{BODY}",
    "among other bases": f"import abc\nfrom _base import Base\nclass Other(Base, abc.ABC):{BODY}",
    "by a hook": "import harness\nclass _Other(harness.Defense):"
    + BODY
    + "\n@harness.hookimpl\ndef harness_plugins():\n    return [_Other]\n",
    "by a hook from elsewhere": "from _hook import harness_plugins\n",
    "from a class of an installed package": f"from lab.schemes import Scheme\nclass Other(Scheme):{BODY}",
}
BASES: dict[str, str | bytes] = {
    "_base.py": "from harness import Defense\nclass Base(Defense):\n    def embed(self, task, ctx): ...\n",
    "pkg/__init__.py": "from ._inner import Base\n",
    "pkg/_inner.py": "from _base import Base as Inner\nclass Base(Inner): ...\n",
    "between.py": "from pkg._inner import Base as Between\n",
    "_hook.py": "import harness\nclass Other(harness.Defense):"
    + BODY
    + "\n@harness.hookimpl\ndef harness_plugins():\n    return [Other]\n",
}
INSTALLED: dict[str, str | bytes] = {
    "lab/__init__.py": "",
    "lab/schemes.py": "from .base import Scheme\n",
    "lab/base.py": "import harness\nclass Scheme(harness.Defense): ...\n",
}


@pytest.mark.parametrize("case", PLUGINS)
def test_a_plugin_is_found_by_its_bases(tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(files(tmp_path / "site", INSTALLED))
    folder = files(tmp_path / "plugins", {"other.py": PLUGINS[case] + MAIN, **BASES})
    assert new_names(loaded(folder)) == {("defense", "other")}


def test_a_public_base_class_in_another_file_is_no_plugin(tmp_path: Path) -> None:
    base = "from harness import Defense\n\nclass Base(Defense):\n    def embed(self, task, ctx): ...\n"
    files(tmp_path, {"base.py": base, "other.py": f"from base import Base\nclass Other(Base):{BODY}"})
    assert new_names(loaded(tmp_path)) == {("defense", "other")}
    (tmp_path / "other.py").unlink()
    (problem,) = load_registry([tmp_path]).problems
    assert problem.reason == "Base does not set name"


SEEMING = {
    "a class of no base": "class Other:" + BODY,
    "a class of another base": "import abc\nclass Other(abc.ABC):" + BODY,
    "all names": "from harness import *\nclass Other:" + BODY,
}


@pytest.mark.parametrize("case", SEEMING)
def test_what_only_looks_like_a_plugin_is_named_and_not_executed(tmp_path: Path, case: str) -> None:
    files(tmp_path, {"other.py": RAN + "from harness import Defense\n" + SEEMING[case]})
    (problem,) = load_registry([tmp_path]).problems
    assert problem.reason.startswith("'Other' is not a plugin: derive it from one of harness's InputSet, Defense")
    assert not ran(tmp_path)


@pytest.mark.parametrize(
    "imports", ["from _base import Base", "from ._base import Base", "from no_lab.schemes import Base"]
)
def test_a_base_class_that_is_nowhere_is_named(tmp_path: Path, imports: str) -> None:
    files(tmp_path, {"other.py": f"{imports}\n# harness\nclass Other(Base):{BODY}"})
    (problem,) = load_registry([tmp_path]).problems
    assert problem.origin.endswith(": other.py")
    assert "other.py imports it, and it is neither installed nor in" in problem.reason


FOREIGN = (
    *(
        "venv/lib/site.py",
        "env/site-packages/x.py",
        "conda/x.py",
        ".venv/x.py",
        "node_modules/x/x.py",
        "build/lib/x.py",
    ),
    *(
        "dist/x.py",
        "plugin.egg-info/x.py",
        "__pycache__/x.py",
        ".git/hooks/x.py",
        "_private/x.py",
        "deep/_private/x.py",
    ),
    *("_x.py", ".x.py", "deep/.x.py"),
)


def test_environments_and_what_is_generated_hidden_or_private_is_left_out(tmp_path: Path) -> None:
    files(tmp_path, {"mark.py": mark() + RAN, **dict.fromkeys(FOREIGN, mark(name="foreign") + RAN)})
    files(tmp_path, {"venv/pyvenv.cfg": "", "conda/conda-meta/history": ""})
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "gone.py").symlink_to(tmp_path / "nowhere.py")
    assert new_names(loaded(tmp_path)) == {("defense", "mine")}
    assert ran(tmp_path) == {"mark.py"}


def test_a_folder_whose_own_path_is_hidden_is_searched(tmp_path: Path) -> None:
    folder = files(tmp_path / ".hidden" / "build" / "_x", {"mark.py": mark()})
    (tmp_path / "link").symlink_to(folder, target_is_directory=True)
    assert new_names(loaded(folder)) == new_names(loaded(tmp_path / "link")) == {("defense", "mine")}


@pytest.mark.parametrize(
    ("source", "named"), [("def f(:\n# harness\n", True), ("def f(:\n", False), ("# harness\nprint 1\n", True)]
)
def test_a_syntax_error_is_a_problem_where_the_harness_is_mentioned(tmp_path: Path, source: str, named: bool) -> None:
    files(tmp_path, {"script.py": source, "mark.py": mark()})
    problems = load_registry([tmp_path]).problems
    assert [problem.reason.partition(":")[0] for problem in problems] == ["SyntaxError"] * named


@pytest.mark.parametrize("coding", ["latin-1", "utf-8-sig", "cp1252"])
def test_a_plugin_in_another_coding(tmp_path: Path, coding: str) -> None:
    first = "" if coding == "utf-8-sig" else f"# coding: {coding}\n"
    files(tmp_path, {"mark.py": (first + mark().replace("Marks a few", "Märks a few")).encode(coding)})
    assert loaded(tmp_path).found["defense", "mine"].summary == "Märks a few images."


@pytest.mark.slow
def test_a_large_repository_is_read_fast(tmp_path: Path) -> None:
    text = "import os\nfrom collections import abc\n\nclass Thing(abc.Mapping):\n    name = 'thing'\n" * 20
    for number in range(100):
        folder = tmp_path / f"package_{number}" / "inner"
        folder.mkdir(parents=True)
        for name in range(20):
            (folder / f"module_{name}.py").write_text(text)
    files(tmp_path, {"mark.py": mark()})
    loaded(tmp_path)
    began = time.process_time()
    loaded(tmp_path)
    assert time.process_time() - began < 5, "2,000 files, of which the slowest part is opening them"
