"""Values for the harness's own worker processes, with the classes and functions that no other process can import.

They go through a pipe, and never touch the disk.
"""

from __future__ import annotations

import io
import pickle
import sys
from types import ModuleType
from typing import Any

from harness.planning.lazy import lazy_module


def dumps(value: object) -> bytes:
    """``value`` pickled, with what it has of ``__main__`` by value. Raises whatever says that it cannot be."""
    import cloudpickle

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        def reducer_override(self, given: Any) -> Any:
            # Modules of a class of their own, which cloudpickle does not know: `torch.classes`, one not used yet.
            if isinstance(given, ModuleType) and type(given) is not ModuleType and given.__name__ in sys.modules:
                return _module, (given.__name__,)
            return super().reducer_override(given)

    file = io.BytesIO()
    Pickler(file).dump(value)
    return file.getvalue()


def loads(packed: bytes) -> Any:
    """The value that the process of the run packed with :func:`dumps`."""
    return pickle.loads(packed)


def _module(name: str) -> Any:
    """The module of that name. Of a package's attribute that only looks like one the package is imported first."""
    package, _, last = name.rpartition(".")
    return getattr(_module(package), last) if package else lazy_module(name)
