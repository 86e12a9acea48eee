"""The cores that a container's quota leaves: control groups of versions 1 and 2, nested ones included."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness.running import cores

GROUPS = {
    "none": ("0::/\n", {"cpu.max": "max 100000"}, 8),
    "a container": ("0::/\n", {"cpu.max": "200000 100000"}, 2),
    "one and a half": ("0::/\n", {"cpu.max": "150000 100000"}, 2),
    "a tenth": ("0::/\n", {"cpu.max": "10000 100000"}, 1),
    "more than there are": ("0::/\n", {"cpu.max": "6400000 100000"}, 8),
    "nested": (
        "0::/kubepods/pod/box\n",
        {"kubepods/pod/cpu.max": "300000 100000", "kubepods/pod/box/cpu.max": "max 100000"},
        3,
    ),
    "the innermost": ("0::/a/b\n", {"a/cpu.max": "400000 100000", "a/b/cpu.max": "100000 50000"}, 2),
    "a path outside of the container": ("0::/../../docker/x\n", {"cpu.max": "100000 100000"}, 1),
    "version 1": (
        "12:cpu,cpuacct:/docker/x\n3:memory:/docker/x\n",
        {"cpu,cpuacct/cpu.cfs_quota_us": "250000\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"},
        3,
    ),
    "version 1 without": ("4:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
    "both versions": ("4:cpu:/\n0::/x\n", {"cpu/cpu.cfs_quota_us": "1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
    "nonsense": ("0::/\nx\n", {"cpu.max": "many of them"}, 8),
}


@pytest.mark.parametrize("case", GROUPS)
def test_a_quota_counts_as_cores(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups, files, expected = GROUPS[case]
    (tmp_path / "cgroup").write_text(groups)
    for name, text in files.items():
        (tmp_path / "mounted" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mounted" / name).write_text(text)
    monkeypatch.setattr(cores, "_GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(cores, "_MOUNTED", tmp_path / "mounted")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert cores.usable_cores() == expected


def test_without_control_groups_all_cores_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "_GROUPS", tmp_path / "none")
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores.usable_cores() == 1
