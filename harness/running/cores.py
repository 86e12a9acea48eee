"""Processor cores that this process may use: of those it is allowed to run on, the share that its container has."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_GROUPS = Path("/proc/self/cgroup")
_MOUNTED = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """The number of cores, at least 1: a quota of a part of one counts as one."""
    # Those that this process may run on, where the system tells: fewer than the machine has, with taskset or Slurm.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min([float(cores), *_quotas()])))


def _quotas() -> Iterator[float]:
    """The quotas in cores of this process's control groups and of those around them, where there are any."""
    lines: list[str] = []
    with suppress(OSError):
        lines = _GROUPS.read_text("utf-8", "replace").splitlines()
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        mounts = [_MOUNTED / name for name in (controllers, "cpu")] if controllers else [_MOUNTED, _MOUNTED / "unified"]
        for mount in mounts:
            for group in _with_parents(mount, path):
                yield from _quota_of(group)


def _with_parents(mount: Path, path: str) -> list[Path]:
    """The folder of a control group, and those of the groups that it is in, up to the mount."""
    # In a container the path may be that outside of it, while the mount shows the container's own group.
    parts = [part for part in path.split("/") if part not in ("", "..")]
    return [mount.joinpath(*parts[:count]) for count in range(len(parts), -1, -1)]


def _quota_of(group: Path) -> Iterator[float]:
    """The quota of one group in cores: of version 2, or of version 1."""
    with suppress(OSError, ValueError, ZeroDivisionError):
        quota, period = (group / "cpu.max").read_text("ascii").split()
        if quota != "max":
            yield int(quota) / int(period)
    with suppress(OSError, ValueError, ZeroDivisionError):
        quota = (group / "cpu.cfs_quota_us").read_text("ascii")
        if int(quota) > 0:
            yield int(quota) / int((group / "cpu.cfs_period_us").read_text("ascii"))
