"""The log of an endpoint's queries and answers: lines of JSON, each written before the next query is sent.

A verification that broke off goes on without asking again, and its budget counts what was sent before. Inputs stand as
digests: with the key, which has them, the log is complete, and without it the log shows no trigger.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from harness.errors import UsageError

try:
    import fcntl
except ImportError:  # Windows: two verifications of one endpoint at a time are the user's to avoid
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1


def name_of(x: Tensor) -> str:
    """The name of one input: a digest of its numbers and its shape."""
    digest = hashlib.sha256(f"{x.dtype} {tuple(x.shape)}".encode())
    digest.update(x.contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()[:32]


@dataclass
class QueryLog:
    """An open log: answers by input, and how many inputs were sent, also in vain."""

    path: Path
    file: IO[str]
    answers: dict[str, int | list[float]] = field(default_factory=dict)
    sent: int = 0

    def sending(self, count: int) -> None:
        """Note that so many inputs are about to be sent."""
        self.sent += count
        self._write({"sent": count})

    def add(self, names: Sequence[str], answers: Sequence[int | list[float]]) -> None:
        """Note answers."""
        for name, answer in zip(names, answers, strict=True):
            self.answers[name] = answer
            self._write({"query": name, "answer": answer})

    def _write(self, line: Mapping[str, Any]) -> None:
        self.file.write(json.dumps(line) + "\n")
        self.file.flush()


@contextmanager
def open_log(path: Path, about: Mapping[str, str]) -> Iterator[QueryLog]:
    """The log at ``path``, a new one or one that goes on. ``about`` names the endpoint, the mapping and the key.

    Raises :class:`UsageError` for a log of other queries, a damaged one, and one that another process writes.
    """
    head = {"log": FORMAT, **about}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)  # its reader learns which answers the owner saw
    except OSError as error:
        raise UsageError(f"cannot write the log {str(path)!r}: {error.strerror}; name another with --log") from error
    with os.fdopen(descriptor, "r+", encoding="utf-8") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise UsageError(f"another verification writes the log {str(path)!r}: wait for its end") from error
        log = QueryLog(path, file)
        _read(log, head)
        yield log


def _read(log: QueryLog, head: Mapping[str, Any]) -> None:
    text = log.file.read()
    whole, newline, _ = text.rpartition("\n")
    lines = whole.splitlines() if newline else []
    log.file.seek(len((whole + newline).encode()))
    log.file.truncate()  # a line that a killed process left half written: what it was about to send was not sent
    if not lines:
        log._write(head)
        return
    try:
        first, *rest = map(json.loads, lines)
        if first != head:
            raise UsageError(
                f"the log {str(log.path)!r} is of {first.get('url')!r}, or of another key or mapping: name another "
                "with --log"
            )
        for line in rest:
            log.sent += line.get("sent", 0)
            if "query" in line:
                log.answers[line["query"]] = line["answer"]
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise UsageError(f"the log {str(log.path)!r} is damaged: name another with --log") from error
