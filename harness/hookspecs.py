"""The hooks: five, each names classes. A plugin file implements those that it has something for."""

from __future__ import annotations

from collections.abc import Iterable

import pluggy

from harness.contracts import Analysis, Architecture, Attack, Defense, InputSet

hookspec = pluggy.HookspecMarker("harness")


@hookspec
def harness_datasets() -> Iterable[type[InputSet]]:  # type: ignore[empty-body]
    """Classes derived from :class:`harness.Dataset`, or from :class:`harness.InputSet` where there is no task."""


@hookspec
def harness_defenses() -> Iterable[type[Defense]]:  # type: ignore[empty-body]
    """Classes derived from :class:`harness.Defense` or :class:`harness.WhiteBoxDefense`."""


@hookspec
def harness_attacks() -> Iterable[type[Attack]]:  # type: ignore[empty-body]
    """Classes derived from `BlackBoxAttack`, `WhiteBoxAttack`, `Detector` or `Evasion` of :mod:`harness`."""


@hookspec
def harness_architectures() -> Iterable[type[Architecture]]:  # type: ignore[empty-body]
    """Classes derived from :class:`harness.Architecture`."""


@hookspec
def harness_analyses() -> Iterable[type[Analysis]]:  # type: ignore[empty-body]
    """Classes derived from :class:`harness.Analysis`."""
