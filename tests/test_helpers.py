"""Modules beside a plugin: they are imported, each folder's own, and their edits are seen."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from harness.planning import homes
from harness.planning.loading import PREFIX
from harness.planning.registry import Registry, load_registry
from harness.planning.sources import parts_of
from harness.planning.syntax import reads
from tests.conftest import TINY, Cli
from tests.test_api import warm_script
from tests.test_registry import install, write

pytestmark = pytest.mark.slow  # worker processes and edited files

MARK = """
from __future__ import annotations

import torch

from harness import Context, Defense, Key, Marked, Split, Task
IMPORT


class Mine(Defense):
    "Marks a few images."

    name = "mine"

    def size(self) -> int:
        return SIZE

    def embed(self, task: Task, ctx: Context) -> Marked:
        chosen = task.train.first(self.size())
        trigger = Split(chosen.x, (chosen.y + 1) % len(task.dataset.classes))
        return Marked(ctx.train(ctx.build(), [ctx.stream(task.train + trigger)], ctx.epochs), Key({"trigger": trigger}))
"""


def mark(imports: str = "", size: str = "5", name: str = "mine") -> str:
    """The source of a plugin whose number of triggers an imported module gives."""
    return MARK.replace("IMPORT", imports).replace("SIZE", size).replace('"mine"', repr(name))


def loaded(folder: Path) -> Registry:
    registry = load_registry([folder])
    assert not registry.problems, registry.problems
    return registry


def size(folder: Path, name: str = "mine") -> int:
    """The number that a plugin has from its helper."""
    plugin = loaded(folder).component("defense", name).plugin
    return int(plugin.size())


def files(folder: Path, sources: dict[str, str | bytes]) -> Path:
    """Files by their paths."""
    for name, source in sources.items():
        write((folder / name).parent, Path(name).name, source)
    return folder


IMPORTS = {
    "a name from a module beside it": ("from _sizes import five", "five()"),
    "under another name": ("from _sizes import five as number", "number()"),
    "all names": ("from _sizes import *", "five()"),
    "a module": ("import _sizes", "_sizes.five()"),
    "a module under another name": ("import _sizes as s", "s.five()"),
    "relatively": ("from ._sizes import five", "five()"),
    "a module relatively": ("from . import _sizes", "_sizes.five()"),
    "two of a line": ("from . import (\n    _sizes,\n    other as o\n)", "_sizes.five() and o.five()"),
    "within a function": ("def five():\n    from _sizes import five\n    return five()", "five()"),
    "a module within a function": ("def five():\n    import pkg.deep\n    return pkg.deep.five()", "five()"),
    "a module that imports another": ("import other", "other.five()"),
    "a package": ("import pkg", "pkg.FIVE"),
    "a package's module": ("import pkg.deep", "pkg.deep.five()"),
    "a package's module under another name": ("import pkg.deep as d", "d.five()"),
    "a module from a package": ("from pkg import deep", "deep.five()"),
    "a name from a package's module": ("from pkg.deep import five", "five()"),
    "what a package exports": ("from pkg import *", "deep.five()"),
    "a subpackage": ("from .pkg.sub.deeper import five", "five()"),
    "a folder that is no package": ("from bare.inner import five", "five()"),
    "a folder that is no package, by its name": ("import bare.inner", "bare.inner.five()"),
    "a private folder": ("from _bare import inner", "inner.five()"),
    "by a call": ("import importlib\n_sizes = importlib.import_module('_sizes')", "_sizes.five()"),
    "by a call of the function": ("from importlib import import_module", "import_module('pkg.deep').five()"),
    "by a relative call": ("import importlib", "importlib.import_module('._sizes', __package__).five()"),
    "by the built-in function": ("", "__import__('_sizes').five()"),
    "where it may fail": (
        "try:\n    import no_such\nexcept ImportError:\n    import _sizes as no_such",
        "no_such.five()",
    ),
    "with what Python has": ("import importlib.util, json, _sizes", "_sizes.five() + 0 * len(json.dumps(1))"),
}
FIVE = "def five():\n    return 5\n"
BESIDE: dict[str, str | bytes] = {
    "_sizes.py": FIVE,
    "other.py": "from _sizes import five\n",
    "pkg/__init__.py": "from ._inner import FIVE\n__all__ = ['deep']\n",
    "pkg/_inner.py": "FIVE = 5\n",
    "pkg/deep.py": "from _sizes import five\n",
    "pkg/sub/__init__.py": "",
    "pkg/sub/deeper.py": "from ..deep import five\n",
    "bare/inner.py": "from _sizes import five\n",
    "_bare/inner.py": "from . import _neighbour\nfive = _neighbour.five\n",
    "_bare/_neighbour.py": FIVE,
}
TOPS = {"_sizes", "other", "pkg", "bare", "_bare", "inner", "deep"}


@pytest.mark.parametrize("case", IMPORTS)
def test_a_plugin_imports_modules_of_its_folder_and_their_edits_count(tmp_path: Path, case: str) -> None:
    folder = files(tmp_path, {"mark.py": mark(*IMPORTS[case]), **BESIDE})
    assert size(folder) == 5
    first = loaded(folder).component("defense", "mine")
    for path in folder.rglob("*.py"):
        path.write_text(
            path.read_text("utf-8").replace("return 5", "return 7").replace("FIVE = 5", "FIVE = 7"), "utf-8"
        )
    second = loaded(folder).component("defense", "mine")
    assert second.plugin.size() == 7, "the same second, the same size of file"
    assert second.digest != first.digest and parts_of(second.digest)[0] == parts_of(first.digest)[0]
    assert not TOPS & set(sys.modules) and str(folder) not in sys.path
    for path in folder.rglob("*.py"):
        path.write_text(
            path.read_text("utf-8").replace("return 7", "return 5").replace("FIVE = 7", "FIVE = 5"), "utf-8"
        )
    third = loaded(folder).component("defense", "mine")
    assert third.digest == first.digest and type(third.plugin) is type(first.plugin)


@pytest.mark.parametrize("where", ["", "deep/down/"])
def test_two_folders_have_helpers_of_one_name(tmp_path: Path, where: str) -> None:
    for number in (5, 7):
        source = mark("from utils import five", "five()", f"mine-{number}")
        sources = {f"{where}mark.py": source, f"{where}utils.py": FIVE.replace("5", str(number))}
        files(tmp_path / str(number), sources)
    registry = load_registry([tmp_path / "5", tmp_path / "7"])
    assert [registry.component("defense", f"mine-{n}").plugin.size() for n in (5, 7)] == [5, 7]
    assert not registry.problems and "utils" not in sys.modules


def test_a_helper_of_the_folder_s_top_serves_plugins_below_and_the_nearest_wins(tmp_path: Path) -> None:
    source = mark("from _sizes import five", "five()")
    files(tmp_path, {"schemes/deep/mark.py": source, "_sizes.py": FIVE})
    assert size(tmp_path) == 5
    files(tmp_path, {"schemes/_sizes.py": FIVE.replace("5", "7")})
    assert size(tmp_path) == 7


def test_helpers_shadow_neither_the_standard_library_nor_the_harness(tmp_path: Path) -> None:
    sources = dict.fromkeys(("json.py", "harness.py", "harness/__init__.py", "token.py"), "raise SystemExit(1)")
    files(tmp_path, {"mark.py": mark("import json, token, harness", "len(json.dumps(token.NAME))"), **sources})
    assert size(tmp_path) == 1


def test_a_bare_folder_shadows_no_installed_package(tmp_path: Path) -> None:
    source = mark("import click, pluggy", "int(hasattr(click, 'command'))")
    files(tmp_path, {"mark.py": source, "click/notes.txt": "", "click/cnn.py": "", "pluggy.py": "five = 5\n"})
    assert size(tmp_path) == 1
    module = sys.modules[loaded(tmp_path).found["defense", "mine"].cls.__module__]
    assert module.pluggy.five == 5


def test_helpers_may_import_each_other_in_a_circle(tmp_path: Path) -> None:
    one = "import _two\n\ndef five():\n    return _two.FIVE\n"
    files(
        tmp_path, {"mark.py": mark("import _one", "_one.five()"), "_one.py": one, "_two.py": "import _one\nFIVE = 5\n"}
    )
    assert size(tmp_path) == 5


def test_a_plugin_within_a_package_runs_it_first_as_python_does(tmp_path: Path) -> None:
    package = "from ._sizes import five\nfrom .mark import Mine\n"
    source = mark("from . import five\nfrom ._sizes import five as same", "five() + same() - 5")
    files(tmp_path, {"pkg/__init__.py": package, "pkg/mark.py": source, "pkg/_sizes.py": FIVE})
    assert size(tmp_path) == 5
    files(tmp_path / "pkg", {})
    assert size(tmp_path / "pkg") == 5, "the package itself may be named as the folder"


def test_plugins_share_a_helper_and_each_class_is_one(tmp_path: Path) -> None:
    first, second = (mark("from _shared import Table\nimport first", "5", name) for name in ("first", "second"))
    files(
        tmp_path,
        {"first.py": first.replace("\nimport first", ""), "second.py": second, "_shared.py": "class Table: ..."},
    )
    registry = loaded(tmp_path)
    one, two = (sys.modules[registry.found["defense", name].cls.__module__] for name in ("first", "second"))
    assert one.Table is two.Table and two.first is one and one.__name__.startswith(PREFIX)


def test_a_helper_that_is_missing_is_named_with_the_file_that_imports_it(tmp_path: Path) -> None:
    files(tmp_path, {"mark.py": mark("import _helper"), "_helper.py": "import _sizes\n"})
    (problem,) = load_registry([tmp_path]).problems
    assert problem.origin == f"{tmp_path}: mark.py"
    assert problem.reason == (
        "ModuleNotFoundError: No module named '_sizes': _helper.py imports it, "
        f"and it is neither installed nor in {tmp_path}"
    )


@pytest.mark.parametrize("imports", ["from .. import x", "from ..x import y", "from ...x import y"])
def test_what_is_outside_the_folder_is_not_its_own(tmp_path: Path, imports: str) -> None:
    files(tmp_path, {"x.py": "y = 1\n", "folder/mark.py": mark(imports)})
    (problem,) = load_registry([tmp_path / "folder"]).problems
    assert (
        problem.reason.startswith("ImportError: mark.py imports ..") and "outside its plugin folder" in problem.reason
    )


@pytest.mark.parametrize(
    "source", [b"\xef\xbb\xbfdef five():\n    return 5\n", b"# coding: latin-1\n# \xe9\n" + FIVE.encode()]
)
def test_source_files_in_any_coding(tmp_path: Path, source: bytes) -> None:
    files(tmp_path, {"mark.py": source.partition(b"def")[0] + mark("from _sizes import five", "five()").encode()})
    files(tmp_path, {"_sizes.py": source})
    assert size(tmp_path) == 5


RUN = ("--dataset", TINY, "--attack", "none", "--seeds", "0", "--nulls", "1", "--no-innocents", "--device", "cpu")


@pytest.mark.slow
def test_helpers_are_imported_in_worker_processes_and_a_run_sees_an_edit(tmp_path: Path, process: Cli) -> None:
    recipe = """
from harness import Key, Split, TriggerRecipe

class Few(TriggerRecipe):
    def make(self, task, ctx):
        from _sizes import five
        x = task.holdout.x[: five()]
        return Key({"trigger": Split(x, task.holdout.y[: five()])})
"""
    imports = "import torch\n\ndef few():\n    from _recipe import Few\n    return Few()"
    source = mark(imports, "__import__('_sizes').five()").replace(
        "    def size", "    def triggers(self, dataset):\n        return few()\n\n    def size"
    )
    folder = files(tmp_path / "plugins", {"mark.py": source, "_sizes.py": FIVE, "_recipe.py": recipe})
    args = (*RUN, "--defense", "mine", "--plugins", folder, "--results", tmp_path / "results", "--jobs", "2")
    assert "1 cells (1 ok)" in process("run", *args, code=0).out
    assert process("run", *args, code=0).out.startswith("nothing to do")
    files(folder, {"_sizes.py": FIVE.replace("5", "7")})
    assert "1 cells (1 ok)" in process("run", *args, code=0).out
    files(folder, {"_sizes.py": FIVE + "# as it was\n"})
    assert process("run", *args, code=0).out.startswith("nothing to do")


def test_why_names_the_helper_that_was_edited(tmp_path: Path, cli: Cli) -> None:
    folder = files(tmp_path / "plugins", {"mark.py": mark("from _sizes import five", "five()"), "_sizes.py": FIVE})
    args = (*RUN[:-2], "--defense", "mine", "--plugins", folder, "--results", tmp_path / "results")
    cli("run", *args, "--device", "cpu", code=0)
    files(folder, {"_sizes.py": FIVE.replace("5", "6")})
    told = cli("why", f"embed: {TINY} mine #0", *args, code=0).out
    assert "the source of the defense mine's helper _sizes.py was edited (digest " in told
    files(
        folder, {"_sizes.py": FIVE, "mark.py": mark("import _more\nfrom _sizes import five", "five()"), "_more.py": ""}
    )
    told = cli("why", f"embed: {TINY} mine #0", *args, code=0).out
    assert "the source of the defense mine was edited" in told and "the defense mine reads _more.py now" in told


# --- data files -------------------------------------------------------------------------------------------------------

READING = {
    "by its own place": "from pathlib import Path\nTABLE = Path(__file__).parent / 'tables' / 'size.txt'",
    "as a resource": "from importlib import resources\nTABLE = resources.files('json') / '..' / '..' / TABLES",
    "by pkgutil": (
        "import pkgutil\nclass TABLE:\n    read_text = lambda: pkgutil.get_data(__name__, 'tables/size.txt').decode()"
    ),
}


@pytest.mark.parametrize("case", READING)
def test_data_files_beside_a_module_that_reads_them_count(tmp_path: Path, case: str) -> None:
    helper = READING[case].replace("TABLES", repr(str(tmp_path / "plugins/tables/size.txt")))
    helper += "\n\ndef five():\n    return int(TABLE.read_text())\n"
    folder = files(tmp_path / "plugins", {"mark.py": mark("from _sizes import five", "five()"), "_sizes.py": helper})
    files(folder, {"tables/size.txt": "5", "results/format.json": "", "results/artifacts/x": "", ".hidden/x": ""})
    assert size(folder) == 5
    first = loaded(folder).component("defense", "mine").digest
    assert set(parts_of(first)[1]) == {"_sizes.py", "tables/size.txt"}
    files(folder, {"results/artifacts/y": "", ".hidden/x": "changed", "mark.pyc": "", "run.log": "", "began": ""})
    assert loaded(folder).component("defense", "mine").digest == first
    files(folder, {"tables/size.txt": "6"})
    assert size(folder) == 6
    assert loaded(folder).component("defense", "mine").digest != first


def test_data_that_are_read_at_the_top_are_read_again(tmp_path: Path) -> None:
    helper = "from pathlib import Path\nFIVE = int(Path(__file__).with_suffix('.txt').read_text())\n"
    files(tmp_path, {"mark.py": mark("from _sizes import FIVE", "FIVE"), "_sizes.py": helper, "_sizes.txt": "5"})
    assert size(tmp_path) == 5
    files(tmp_path, {"_sizes.txt": "7"})
    assert size(tmp_path) == 7


def test_data_files_that_are_too_large_count_by_their_names_and_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(homes, "MOST_BYTES", 100)
    helper = "from pathlib import Path\nHERE = Path(__file__).parent\n"
    files(tmp_path, {"mark.py": mark(helper), "a.bin": b"a" * 60})
    digests = [loaded(tmp_path).component("defense", "mine").digest]
    for name, size in (("b.bin", 60), ("b.bin", 60), ("b.bin", 61)):
        files(tmp_path, {name: os.urandom(size)})
        digests.append(loaded(tmp_path).component("defense", "mine").digest)
    assert digests[1] == digests[2] and len(set(digests)) == 3
    (warning,) = loaded(tmp_path).warnings
    assert warning.startswith("the data beside mark.py are more than ") and "count by their names and sizes" in warning


def test_what_a_module_imports_in_a_way_that_cannot_be_read_counts_whole(tmp_path: Path) -> None:
    computed = "import importlib\n\ndef five():\n    return importlib.import_module('_si' + 'zes').five()\n"
    files(tmp_path, {"mark.py": mark(computed, "five()"), "_sizes.py": FIVE, "deep/other.py": "", "venv/x.py": ""})
    files(tmp_path, {"venv/pyvenv.cfg": ""})
    assert size(tmp_path) == 5
    first = loaded(tmp_path).component("defense", "mine").digest
    assert set(parts_of(first)[1]) == {"_sizes.py", "deep/other.py"}
    files(tmp_path, {"_sizes.py": FIVE.replace("5", "7")})
    assert size(tmp_path) == 7
    many = {f"many/file_{number}.py": "" for number in range(30)}
    assert set(parts_of(loaded(files(tmp_path, many)).component("defense", "mine").digest)[1]) == {"32 files"}


UNREADABLE = {
    "code in a string": "exec('from _sizes import five')",
    "a file by its path": "import runpy\nfive = runpy.run_path('_sizes.py')['five']",
    "a changed path": "import sys\nsys.path.insert(0, 'lib')",
    "all modules": "import pkgutil\nALL = list(pkgutil.iter_modules(['.']))",
    "a spec": "from importlib.util import spec_from_file_location",
    "another name for it": "from importlib import import_module as load",
    "the function as a value": "load = __import__",
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_what_cannot_be_read_is_seen(case: str) -> None:
    assert reads(UNREADABLE[case].encode()).dynamic


@pytest.mark.parametrize(
    "source", ["import sys\nsys.exit", "net.eval()", "from pkgutil import get_data", "importlib.import_module('_x')"]
)
def test_what_can_be_read_is_not_dynamic(source: str) -> None:
    assert not reads(source.encode()).dynamic


# --- installed packages -----------------------------------------------------------------------------------------------

PACKAGE: dict[str, str | bytes] = {
    "marks/__init__.py": "from . import settings\n",
    "marks/settings.py": "import os\n",
    "marks/plugin.py": mark("from marks.core import five", "five()"),
    "marks/core.py": "import numpy\nfrom .inner.deep import *\n",
    "marks/inner/deep.py": FIVE,
    "marks/unused.py": "",
    "other/__init__.py": "",
}


def test_a_package_s_own_modules_and_its_version_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(files(tmp_path, PACKAGE), "my-marks", {"mark": "marks.plugin"}, monkeypatch)
    digest = load_registry().found["defense", "mine"].digest
    assert set(parts_of(digest)[1]) == {"__init__.py", "core.py", "inner/deep.py", "settings.py", "package my-marks"}
    assert parts_of(digest)[1]["package my-marks"] == "1.0"
    for name in [name for name in sys.modules if name.partition(".")[0] == "marks"]:
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.slow
def test_an_edited_module_of_a_package_is_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, process: Cli
) -> None:
    install(files(tmp_path / "site", PACKAGE), "my-marks", {"mark": "marks.plugin"}, monkeypatch)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"), prepend=os.pathsep)
    args = ("run", *RUN, "--defense", "mine", "--results", tmp_path / "results")
    assert "1 cells (1 ok)" in process(*args, code=0).out
    files(tmp_path / "site", {"marks/inner/deep.py": FIVE.replace("5", "77")})
    assert "1 cells (1 ok)" in process(*args, code=0).out
    files(tmp_path / "site", {"marks/inner/deep.py": FIVE, "marks/unused.py": "x = 1"})
    assert process(*args, code=0).out.startswith("nothing to do")
    metadata = tmp_path / "site" / "my_marks-1.0.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text("utf-8").replace("1.0", "1.1"), "utf-8")
    assert "1 cells (1 ok)" in process(*args, code=0).out


# --- scripts and notebooks --------------------------------------------------------------------------------------------

SCRIPT = """
import sys
import harness
IMPORT

def number():
    return SIZE

class Mine(harness.Defense):
    name = "mine"
    def embed(self, task, ctx):
        few = task.train.first(number())
        trigger = harness.Split(few.x, (few.y + 1) % 10)
        net = ctx.train(ctx.build(), [ctx.stream(task.train + trigger)], 1)
        return harness.Marked(net, harness.Key({"trigger": trigger}))

def plan():
    return harness.plan(None, datasets=DATA, defenses=Mine, attacks="none", nulls=0).plan.cells[0].stages

print(*plan())
""".replace("DATA", repr(TINY))
LIVE = {
    "a module": ("import my_helpers", "my_helpers.five()"),
    "a name": ("from my_helpers import five", "five()"),
    "within the function": ("", "__import__('my_helpers').five()"),
    "a module that imports it": ("import between", "between.five()"),
    "a module of a package": ("import package.inner", "package.inner.five()"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", LIVE)
def test_a_class_of_a_script_runs_again_when_a_module_beside_it_was_edited(tmp_path: Path, case: str) -> None:
    text = SCRIPT.replace("IMPORT", LIVE[case][0]).replace("SIZE", LIVE[case][1])
    files(tmp_path, {"my_helpers.py": FIVE, "between.py": "from my_helpers import five\n"})
    files(tmp_path, {"package/__init__.py": "", "package/inner.py": "from my_helpers import *\n"})
    first = warm_script(text, tmp_path)
    assert first.returncode == 0, first.stderr
    files(tmp_path, {"unused.py": "x = 2", "my_helpers.py": FIVE + "# a comment\n"})
    assert warm_script(text, tmp_path).stdout == first.stdout
    files(tmp_path, {"my_helpers.py": FIVE.replace("5", "7")})
    assert warm_script(text, tmp_path).stdout != first.stdout


def test_an_edit_after_the_import_is_not_taken_for_what_runs(tmp_path: Path) -> None:
    text = SCRIPT.replace("IMPORT", "import my_helpers").replace("SIZE", "my_helpers.five()")
    text += """
open("my_helpers.py", "w").write("def five():\\n    return 7  # other\\n")
try:
    plan()
except harness.UsageError as error:
    print(error)
import importlib
importlib.reload(my_helpers)
print(*plan())
"""
    done = warm_script(text, files(tmp_path, {"my_helpers.py": FIVE}))
    assert done.returncode == 0, done.stderr
    first, said, second = done.stdout.splitlines()
    assert said.startswith("my_helpers.py was edited after it was imported: restart Python, or call importlib.reload(")
    assert first != second
