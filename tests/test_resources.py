"""Peak memory is a stage's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from harness.resources import Peaks, machine

CPU = torch.device("cpu")


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux can begin to count anew")
def test_a_peak_is_of_the_time_since() -> None:
    before = Peaks(CPU)
    large = np.ones(40 * 2**20)  # 320 MiB, all of them written to
    with_it = before.read()["peak_memory_mib"]
    del large
    after = Peaks(CPU).read()
    assert with_it is not None and after["peak_memory_mib"] is not None
    assert 250 < with_it - after["peak_memory_mib"] < 400
    assert after["peak_device_memory_mib"] is None


def test_the_machine_names_no_device_but_the_cpu() -> None:
    assert machine(CPU)["device"] == "cpu" and machine(CPU)["threads"] == torch.get_num_threads()
