"""Errors of the harness. Those that a user can mend are one line on stderr and exit code 2; any other is a traceback.

::

    HarnessError
    ├── UsageError            a user's mistake: what was wrong, what was expected, what to type
    │   ├── UnknownName       no plugin, option, matrix or table of that name
    │   ├── OptionError       an option of the wrong type or out of range
    │   ├── MatrixError       a matrix file that is malformed
    │   ├── DataError         a data set that is missing, damaged or another one than named
    │   │   └── MissingData   a data set that has no files here
    │   └── ResultsError      a results folder that cannot be written, or of another schema version, or damaged
    ├── PluginError           a plugin that cannot be loaded, or breaks its contract
    │   └── Blamed            the same of another plugin than the stage's own, which the message names
    │       └── BrokenDataset a data set whose load fails, or gives other data than its class declares
    ├── DamagedArtifact       an artifact whose checksum does not hold
    ├── OutOfMemory           a stage ran out of a device's memory that others used too
    ├── Refused               an oracle was asked more than it serves (answer type or budget)
    ├── Skip                  raised by a plugin: this combination is impossible, with the reason
    └── Unreadable            raised by a scheme: this suspect has no place where the mark could be
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from harness.text import printable


class HarnessError(Exception):
    """Root of the tree. Its message is one printable line, whatever untrusted text it quotes."""

    def __str__(self) -> str:
        return printable(super().__str__())


class UsageError(HarnessError):
    """A user's mistake. The message says what was wrong, what was expected and what to type."""


class UnknownName(UsageError):
    """An unknown name. The message says what was probably meant, and what exists."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        close = get_close_matches(name, names, n=1)
        meant = f" Did you mean {close[0]!r}?" if close else ""
        listed = ", ".join(names) if names else "none"
        super().__init__(f"unknown {kind} {name!r}.{meant} Known: {listed}")


class OptionError(UsageError):
    """An option of the wrong type or out of range."""


class MatrixError(UsageError):
    """A matrix file that is malformed."""


class DataError(UsageError):
    """A data set that is missing, damaged, or not the one that its name says."""


class MissingData(DataError):
    """A data set that has no files here: ``fact`` says what was looked for where, the message also what to type."""

    def __init__(self, name: str, fact: str, *, download: bool) -> None:
        self.name, self.fact, self.download = name, fact, download
        super().__init__(f"{fact}; {how_to_find([name] if download else [])}")


def how_to_find(names: Iterable[str]) -> str:
    """Words on what to type where data sets are missing, of which these can be downloaded."""
    fetch = " ".join(names)
    named = "name the folder above with --data DIR or HARNESS_DATA"
    return f"{named}, or type: harness data fetch {fetch}" if fetch else named


class ResultsError(UsageError):
    """A results folder that cannot be written, holds another schema version, or is damaged."""


class PluginError(HarnessError):
    """A plugin that cannot be loaded, or breaks its contract."""


class Blamed(PluginError):
    """A plugin that breaks its contract in another's stage: an API's answers, say. The message begins with its name."""


class BrokenDataset(Blamed):
    """A data set whose ``load`` raises an error of its own, or gives other data than its class declares.

    It fails its cells. Files that are missing or damaged (:class:`DataError`) end a run at its start instead.
    """


class DamagedArtifact(HarnessError):
    """An artifact whose checksum is wrong. It is computed again, never trusted."""


class OutOfMemory(HarnessError):
    """A stage ran out of a device's memory that other stages used too. It is tried again alone."""


class Refused(HarnessError):
    """An oracle was asked for more than it serves: another answer type, or more queries than its budget."""


class Skip(HarnessError):
    """Raised by a plugin while it runs: this combination is impossible. The message is the reason in the tables."""


class NotInstalled(Skip):
    """Raised by a plugin that needs a package which is not here: skipped, and tried again by the next run.

    The message says what to install.
    """


class Unreadable(HarnessError):
    """Raised by :meth:`harness.WhiteBoxDefense.verify_weights`: the suspect has no such layer, or one of another shape.

    The mark is gone then: evidence with no trials, and no failure. The message is the reason in the tables.
    """


def require(condition: bool, message: str) -> None:
    """Raise :class:`OptionError` with ``message`` unless ``condition``: how a plugin checks its options."""
    if not condition:
        raise OptionError(message)
