"""Hooks: functions by which a module names its plugin classes.

A file in a plugin folder needs none: its public plugin classes are taken. A module that an installed package names as
entry point, or a file that makes its classes in a loop, has :func:`harness_plugins`. The five others are version 0.1's.
"""

from __future__ import annotations

from collections.abc import Iterable

import pluggy

from harness.contracts import Analysis, Architecture, Attack, Defense, InputSet, Plugin

hookspec = pluggy.HookspecMarker("harness")


@hookspec
def harness_plugins() -> Iterable[type[Plugin]]:  # type: ignore[empty-body]
    """Name plugin classes of any kind: the kind follows from the class that each derives from."""


@hookspec
def harness_datasets() -> Iterable[type[InputSet]]:  # type: ignore[empty-body]
    """Name classes derived from :class:`harness.Dataset`, or from :class:`harness.InputSet` where there is no task."""


@hookspec
def harness_defenses() -> Iterable[type[Defense]]:  # type: ignore[empty-body]
    """Name classes derived from :class:`harness.Defense` or :class:`harness.WhiteBoxDefense`."""


@hookspec
def harness_attacks() -> Iterable[type[Attack]]:  # type: ignore[empty-body]
    """Name classes derived from `BlackBoxAttack`, `WhiteBoxAttack` or another attack of :mod:`harness`."""


@hookspec
def harness_architectures() -> Iterable[type[Architecture]]:  # type: ignore[empty-body]
    """Name classes derived from :class:`harness.Architecture`."""


@hookspec
def harness_analyses() -> Iterable[type[Analysis]]:  # type: ignore[empty-body]
    """Name classes derived from :class:`harness.Analysis`."""
