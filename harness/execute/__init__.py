"""Running a plan: what is stored is skipped, the rest is run by an executor, and every outcome becomes rows."""

from harness.execute.claimed import Claimed
from harness.execute.local import Local
from harness.execute.ray import Cluster, Ray
from harness.execute.serial import Control, Executor, Serial
from harness.execute.session import Options, Outcome, Session, Watcher

__all__ = [
    "Claimed",
    "Cluster",
    "Control",
    "Executor",
    "Local",
    "Options",
    "Outcome",
    "Ray",
    "Serial",
    "Session",
    "Watcher",
]
