"""Services: functions that run in a thread of their own, so that no reference leads from the caller to what they use.

An attack is handed an oracle, and may look into it. A function would show it all: its closure holds the net, the key
and the worker. The client of a service holds a queue; the function, and all that it needs, are variables of a thread
that nothing refers to. This is hygiene, not a sandbox: a plugin that walks the interpreter's frames finds everything.
"""

from __future__ import annotations

import _thread
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import Any, TypeAlias

import torch

from harness.errors import Blamed, PluginError, Refused, Skip

PATIENCE = 1.0
"""Seconds that the end of a stage waits for an answer that is still being computed, as it may be after Ctrl-C."""

_Reply: TypeAlias = "SimpleQueue[tuple[BaseException | None, Any]]"
_Requests: TypeAlias = "SimpleQueue[tuple[_Reply, tuple[Any, ...], torch.cuda.Stream | None] | _Reply]"


class Service:
    """A client of a function in another thread: it is called as the function is, one call at a time.

    The answers are the function's, bit for bit, whatever modes of torch the caller is in. Errors arrive without the
    function's frames: see :func:`_portable`.
    """

    __slots__ = ("_lock", "_open", "_requests")

    def __init__(self, function: Callable[..., Any]) -> None:
        self._requests: _Requests = SimpleQueue()
        self._lock, self._open = threading.Lock(), True
        # Not threading.Thread: the list of living threads would lead to its arguments.
        _thread.start_new_thread(_serve, (function, self._requests))

    def __call__(self, *args: Any) -> Any:
        """The value of the function for ``args``. Raises :class:`Refused` once the service is closed."""
        reply: _Reply = SimpleQueue()
        # Streams are a thread's own: what the caller computed there must be done before it is read.
        stream = torch.cuda.current_stream() if torch.cuda.is_initialized() else None
        with self._lock:
            if not self._open:
                raise Refused("the stage that this belonged to has ended: nobody answers")
            self._requests.put((reply, args, stream))
        error, value = reply.get()
        try:
            if error is not None:
                raise error
        finally:
            del error  # its traceback holds this frame
        return value

    def close(self) -> None:
        """End the thread, which then forgets what it used."""
        with self._lock:
            if not self._open:
                return
            self._open = False
            ended: _Reply = SimpleQueue()
            self._requests.put(ended)
        try:
            ended.get(timeout=PATIENCE)
        except Empty:  # it ends, and forgets, after its last answer
            return


@contextmanager
def serving(function: Callable[..., Any]) -> Iterator[Service]:
    """A service of ``function`` while the block runs."""
    service = Service(function)
    del function  # a traceback through here would show it
    try:
        yield service
    finally:
        service.close()


def _serve(function: Callable[..., Any], requests: _Requests) -> None:
    """The server's thread: answers until it is told to stop."""
    while True:
        request = requests.get()
        if isinstance(request, SimpleQueue):
            del function
            request.put((None, None))
            return
        reply, args, stream = request
        with torch.cuda.stream(stream):  # None changes nothing
            answer = _answered(function, args)
        reply.put(answer)
        del request, reply, args, stream, answer  # large tensors, which would live until the next request


def _answered(function: Callable[..., Any], args: tuple[Any, ...]) -> tuple[BaseException | None, Any]:
    try:
        return None, function(*args)
    except BaseException as error:
        return _portable(error), None


def _portable(error: BaseException) -> BaseException:
    """The error without its frames, which the caller could look into; their text is a note, for the stage's record.

    Those that mean something to the harness keep their type, any other becomes a :class:`PluginError`.
    """
    told: BaseException = PluginError(f"{type(error).__name__}: {error}")
    for kind in (PluginError, Blamed, Refused, Skip, torch.OutOfMemoryError):
        if isinstance(error, kind):
            told = kind(str(error))
    told.add_note("".join(traceback.format_exception(error)))
    return told
