"""The machine that a stage ran on, and the peak memory that it took on the host and on the device."""

from __future__ import annotations

import os
import platform
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import ModuleType

import torch

from harness.isolation.output import c_library
from harness.planning.lazy import lazy_module
from harness.running.checkout import commit
from harness.storage.records import StageRecord

_STATUS = Path("/proc/self/status")
_MEMORY = Path("/proc/meminfo")
_PROCESSORS = Path("/proc/cpuinfo")
_CLEAR = Path("/proc/self/clear_refs")


def machine(device: torch.device) -> StageRecord:
    """The machine of this process, as columns of the table ``stages``; unknown ones are left out."""
    import harness

    known: StageRecord = {"commit": found} if (found := commit()) else {}
    return {
        **known,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "harness": harness.__version__,
        "machine": _words(_PROCESSORS),
    }


@cache
def _words(processors: Path) -> str:
    """The system, the number of CPUs and their name, the Python."""
    return (
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs ({_processor(processors)}), "
        f"Python {platform.python_version()}"
    )


def _processor(processors: Path) -> str:
    """The processor's name where the system tells it, and the instructions that torch chose for it: with others, sums
    differ in their last bits, and trained networks in more."""
    name = ""
    with suppress(OSError), processors.open(encoding="utf-8", errors="replace") as lines:
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    name = name or platform.processor() or platform.machine()
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}"


def postpone_compiler() -> None:
    """Have torch's compiler imported when something is compiled, not by an optimizer's first step.

    Importing ``torch._dynamo`` takes a second of a process, and an optimizer asks it for two functions alone, which
    do nothing where nothing is compiled. Any other attribute imports it.
    """
    module = lazy_module("torch._dynamo")
    if type(module) is not ModuleType:
        vars(module).update(graph_break=lambda *args, **options: None, disable=lambda fn, *args, **options: fn)


def keep_memory() -> None:
    """Have the C library keep freed memory for the next step. For a process that the harness owns.

    By default glibc gives large blocks back to the system at once, and each step asks for them again: the system then
    clears page after page, a sixth of a step of the CNN on a CPU. With another C library this does nothing.
    """
    with suppress(OSError, AttributeError, TypeError):
        set_ = c_library().mallopt
        # The first is refused by old releases, which then shall keep all of their defaults.
        if set_(_MMAP_THRESHOLD, 2**30):
            set_(_TRIM_THRESHOLD, 2**31 - 1)


_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1
"""Parameters of ``mallopt``: bytes from which a block is the system's own, and of free memory to keep."""


def give_back(device: torch.device) -> None:
    """Give freed memory back to the system and the device: other processes cannot have what is kept here."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    with suppress(OSError, AttributeError, TypeError):
        c_library().malloc_trim(0)


class Peaks:
    """Peak memory since this object was made, where the system can reset its count; else since the process began."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        with suppress(OSError):
            _write(_CLEAR, b"5")  # Linux: the resident peak becomes what is resident now
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def read(self) -> StageRecord:
        """The peaks in MiB."""
        cuda = self.device.type == "cuda"
        return {
            "peak_memory_mib": _resident_peak_mib(),
            "peak_device_memory_mib": torch.cuda.max_memory_reserved(self.device) / 2**20 if cuda else None,
        }


def available_memory() -> int | None:
    """Bytes that new processes may take without swapping; ``None`` on systems other than Linux."""
    with suppress(OSError, KeyError, ValueError):
        lines = dict(line.split(":", 1) for line in _MEMORY.read_text("ascii").splitlines())
        return int(lines["MemAvailable"].split()[0]) * 2**10
    return None


# By descriptor: a stage asks twice, and a file object takes five times as long as the system's answer.


def _read(path: Path) -> bytes:
    """The content of a file of the system's, of up to 64 KiB. Raises :class:`OSError`."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.read(descriptor, 2**16)
    finally:
        os.close(descriptor)


def _write(path: Path, content: bytes) -> None:
    """Write to a file of the system's. Raises :class:`OSError`."""
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, content)
    finally:
        os.close(descriptor)


def _resident_peak_mib() -> float | None:
    """Peak resident memory of this process; ``None`` on Windows."""
    with suppress(OSError, IndexError):
        text = _read(_STATUS).partition(b"VmHWM:")[2]
        return int(text.split(maxsplit=1)[0]) / 2**10  # KiB
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10  # bytes there, KiB elsewhere
