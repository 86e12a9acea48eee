"""watermark-harness: which ownership watermark of a neural network survives which attack.

The names below are public; everything else is private. A plugin file needs only these::

    import torch
    from harness import Context, Defense, Key, Marked, Split, Task, losses, nets, option, require

Running and ranking, from a script or a notebook (docs/python.md)::

    import harness
    run = harness.run("quick", defenses=["ewe", "adi"], seeds=range(5))
    run.leaderboard()

Nothing heavy is imported here: ``losses`` and ``nets`` run when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pluggy

from harness.attacks import Extraction, Forgery, TuningAttack
from harness.contracts import (
    ActiveDefense,
    Analysis,
    Answers,
    Architecture,
    Arrays,
    Attack,
    Augment,
    BlackBoxAttack,
    Context,
    Count,
    Dataset,
    Defense,
    Detection,
    Detector,
    Evasion,
    Evidence,
    Family,
    InputSet,
    Key,
    Loss,
    Marked,
    Measure,
    Optimizer,
    Oracle,
    Plugin,
    Pool,
    PoolAttack,
    Probe,
    Recipe,
    Schedule,
    Score,
    Split,
    Stream,
    Task,
    TriggerRecipe,
    WhiteBoxAttack,
    WhiteBoxDefense,
    needs_images,
)
from harness.errors import DataError, HarnessError, NotInstalled, PluginError, Skip, Unreadable, UsageError, require
from harness.fields import option
from harness.own_data import OwnData
from harness.preprocessing import Preprocessing

if TYPE_CHECKING:
    from harness import (
        adversarial,
        data,
        inversion,
        losses,
        metrics,
        modelfiles,
        nets,
        overwriting,
        own_data,
        statistics,
        testing,
        triggers,
        units,
        whitebox,
    )
    from harness.api import compare, embed, leaderboard, plan, run, verify
    from harness.inspect.export import load_model
    from harness.storage.remote import read_table

__version__ = "0.1.0"

hookimpl = pluggy.HookimplMarker("harness")
"""Marks the function of a plugin file that names its classes: ``@hookimpl def harness_defenses(): return [Mine]``."""

__all__ = [
    "ActiveDefense",
    "Analysis",
    "Answers",
    "Architecture",
    "Arrays",
    "Attack",
    "Augment",
    "BlackBoxAttack",
    "Context",
    "Count",
    "DataError",
    "Dataset",
    "Defense",
    "Detection",
    "Detector",
    "Evasion",
    "Evidence",
    "Extraction",
    "Family",
    "Forgery",
    "HarnessError",
    "InputSet",
    "Key",
    "Loss",
    "Marked",
    "Measure",
    "NotInstalled",
    "Optimizer",
    "Oracle",
    "OwnData",
    "Plugin",
    "PluginError",
    "Pool",
    "PoolAttack",
    "Preprocessing",
    "Probe",
    "Recipe",
    "Schedule",
    "Score",
    "Skip",
    "Split",
    "Stream",
    "Task",
    "TriggerRecipe",
    "TuningAttack",
    "Unreadable",
    "UsageError",
    "WhiteBoxAttack",
    "WhiteBoxDefense",
    "__version__",
    "adversarial",
    "compare",
    "data",
    "embed",
    "hookimpl",
    "inversion",
    "leaderboard",
    "load_model",
    "losses",
    "metrics",
    "modelfiles",
    "needs_images",
    "nets",
    "option",
    "overwriting",
    "own_data",
    "plan",
    "read_table",
    "require",
    "run",
    "statistics",
    "testing",
    "triggers",
    "units",
    "verify",
    "whitebox",
]

_FUNCTIONS = {
    **dict.fromkeys(("compare", "embed", "leaderboard", "plan", "run", "verify"), "api"),
    **{"load_model": "inspect.export", "read_table": "storage.remote"},
}
"""Modules of public functions, by the functions' names."""
_MODULES = (
    *(
        "adversarial",
        "data",
        "inversion",
        "losses",
        "metrics",
        "modelfiles",
        "nets",
        "overwriting",
        "statistics",
        "testing",
    ),
    *("triggers", "units", "whitebox"),
)


def __getattr__(name: str) -> Any:
    from harness.planning.lazy import lazy_module

    if name in _MODULES:
        return lazy_module(f"harness.{name}")
    if name in _FUNCTIONS:
        return getattr(lazy_module(f"harness.{_FUNCTIONS[name]}"), name)
    raise AttributeError(f"module 'harness' has no attribute {name!r}")
