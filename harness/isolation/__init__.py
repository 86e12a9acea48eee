"""Isolation of plugins: one that leaves, prints, or changes the process does not reach its neighbours.

``guard.py`` is the context around every call of a plugin. It is hygiene against oversights, not a sandbox.
"""

from harness.isolation.exits import Interrupted, describe_error, end_freely, real_exit, watch_exits
from harness.isolation.guard import Guard, arrived, stays_here
from harness.isolation.leftovers import end_kept

__all__ = [
    "Guard",
    "Interrupted",
    "arrived",
    "describe_error",
    "end_freely",
    "end_kept",
    "real_exit",
    "stays_here",
    "watch_exits",
]
