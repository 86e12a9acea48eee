"""The hooks: four, each names classes. A plugin file implements those that it has something for."""

from __future__ import annotations

from collections.abc import Iterable

import pluggy

from harness.contracts import Architecture, Attack, Dataset, Defense

hookspec = pluggy.HookspecMarker("harness")


@hookspec
def harness_datasets() -> Iterable[type[Dataset]]:  # type: ignore[empty-body]
    """Classes derived from :class:`harness.Dataset`."""


@hookspec
def harness_defenses() -> Iterable[type[Defense]]:  # type: ignore[empty-body]
    """Classes derived from :class:`harness.Defense` or :class:`harness.WhiteBoxDefense`."""


@hookspec
def harness_attacks() -> Iterable[type[Attack]]:  # type: ignore[empty-body]
    """Classes derived from `BlackBoxAttack`, `WhiteBoxAttack` or `Detector` of :mod:`harness`."""


@hookspec
def harness_architectures() -> Iterable[type[Architecture]]:  # type: ignore[empty-body]
    """Classes derived from :class:`harness.Architecture`."""
