"""A matrix with some of its axes replaced, and its plan. Imports little at its top, for ``harness --help``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from harness.errors import UsageError

if TYPE_CHECKING:
    from harness.planning.graph import Plan
    from harness.planning.matrix import Chain, Entry, Matrix
    from harness.planning.registry import Registry

    Asked: TypeAlias = str | Chain


@dataclass(frozen=True)
class Narrowing:
    """Replacements of a matrix's axes: texts as on the command line, or chains of entries. Empty replaces nothing."""

    scale: str = ""
    datasets: Sequence[Asked] = ()
    defenses: Sequence[Asked] = ()
    attacks: Sequence[Asked] = ()
    analyses: Sequence[Asked] = ()
    seeds: str | None = None
    nulls: int | None = None
    innocents: bool = True
    """False leaves the matrix's innocent models out."""

    def __bool__(self) -> bool:
        """True where an axis of the matrix is replaced."""
        axes = (self.datasets, self.defenses, self.attacks, self.analyses)
        return any(axes) or self.seeds is not None or self.nulls is not None or not self.innocents

    def of(self, matrix_name: str | None) -> Matrix:
        """The matrix of that name with these axes instead of its own; ``None`` is a matrix without any.

        Raises :class:`harness.UsageError`.
        """
        from harness.planning.matrix import Matrix, choose, load_matrix, parse_seeds

        matrix = Matrix("", (), (), ()) if matrix_name is None else load_matrix(matrix_name, self.scale)
        if self.datasets:
            matrix = replace(matrix, datasets=_single(self.datasets, matrix.datasets))
        if self.defenses:
            matrix = replace(matrix, defenses=_single(self.defenses, matrix.defenses))
        if self.attacks:
            matrix = replace(matrix, attacks=choose(self.attacks, matrix.attacks))
        if self.analyses:
            matrix = replace(matrix, analyses=_single(self.analyses, matrix.analyses))
        if self.seeds is not None:
            matrix = replace(matrix, seeds=parse_seeds(self.seeds))
        missing = [name for name in ("datasets", "defenses", "attacks") if not getattr(matrix, name)]
        if missing:
            raise UsageError(f"no matrix, and no {' and no '.join(missing)}: name them, or a matrix")
        if not self.innocents:
            matrix = replace(matrix, innocents=())
        return matrix if self.nulls is None else replace(matrix, nulls=self.nulls)


def _single(asked: Sequence[Asked], own: Sequence[Entry]) -> tuple[Entry, ...]:
    from harness.planning.matrix import choose, format_chain

    chains = choose(asked, [(entry,) for entry in own])
    for chain in chains:
        if len(chain) > 1:
            raise UsageError(f"only attacks chain: {format_chain(chain)!r}")
    return tuple(chain[0] for chain in chains)


def planned(registry: Registry, matrix: Matrix) -> Plan:
    """The plan of a matrix, every name and option checked. Raises :class:`harness.UsageError`."""
    from harness.isolation import Guard
    from harness.planning.builder import make_plan
    from harness.planning.registry import resolve

    # Plugins are constructed and asked: what they print, and how they leave, is theirs.
    guard = Guard()
    with guard:
        axes = resolve(registry, matrix)
        plan = make_plan(
            axes.datasets,
            axes.defenses,
            axes.chains,
            matrix.seeds,
            matrix.nulls,
            registry.component,
            analyses=axes.analyses,
        )
    return replace(plan, warnings=(*plan.warnings, *guard.warnings("a plugin, as the plan was made,")))
