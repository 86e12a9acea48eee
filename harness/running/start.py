"""Running a plan: what every command that runs does, and :func:`harness.run` too."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, TypeAlias

from harness.errors import UsageError
from harness.isolation import Interrupted
from harness.isolation.torch_settings import random_states_kept
from harness.running.machine import Machine, make_executor
from harness.running.progress import Quiet
from harness.running.session import Options, Outcome, Session, Watcher

if TYPE_CHECKING:
    from harness.planning.graph import Plan
    from harness.planning.registry import Registry
    from harness.running.pool import Warn
    from harness.storage.store import Store
    from harness.storage.tables import Tables

Watch: TypeAlias = Callable[[int], AbstractContextManager[Watcher]]
"""A function from the number of stages to run to the watcher of the run."""


def run_plan(
    plan: Plan,
    registry: Registry,
    store: Store,
    tables: Tables,
    machine: Machine,
    options: Options,
    *,
    warn: Warn,
    watch: Watch = lambda total: Quiet(),
    stopping: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Run what is left of ``plan`` until it ends or ``stopping`` says so. All that ended is stored and in the tables.

    Raises :class:`harness.UsageError`, also for a data set, a device or a cluster that is not there.
    """
    for path in tables.mend():
        warn(f"{path} is cut short: it is set aside with what later runs wrote, and all rows are written again")
    warn = _once(warn)
    check_names(plan, tables)
    session = Session(plan, store, tables, options)
    for warning in (*plan.warnings, *session.warnings, *changed_data(plan, registry, tables)):
        warn(warning)
    with _torch_settings_kept() if session.todo else nullcontext():
        executor = make_executor(session, store, registry, plan, machine, warn)
        # Last, so that a mistake in the command leaves the results folder as it was.
        store.prepare()
        with watch(len(session.todo)) as watcher:
            return session.run(executor, watcher, stopping)


def changed_data(plan: Plan, registry: Registry, tables: Tables, mends: str = "this run") -> Iterator[str]:
    """A line for each data set whose content differs from that of stored cells, which ``mends`` computes again."""
    from harness.planning.graph import keys_of
    from harness.storage.contents import StoredContents, changes

    if registry.contents and registry.contents.known:
        yield from changes(StoredContents(tables), registry.contents.known, keys_of(plan), mends)


def check_names(plan: Plan, tables: Tables) -> None:
    """Raise :class:`harness.UsageError` where a name of a matrix file stood for another data set in stored cells."""
    from harness.planning.matrix import placeless
    from harness.storage.options import names_in

    named = {each.text: each for each in {cell.uses[0] for cell in plan.cells} if each.stands_for}
    if not named:
        return
    cells = tables.read("cells", ["dataset", "options"])
    known = names_in(cells)
    for text in sorted(named.keys() & set(cells["dataset"])):
        for before in known.get(text, {text}):
            if placeless(before) != named[text].identity:
                raise UsageError(
                    f"the results have cells of {text} that stood for {before}, and it stands for "
                    f"{named[text].stands_for} now: give it another name, or name another folder with --results"
                )


def _once(warn: Warn) -> Warn:
    """``warn``, which says each thing once, however many workers have it to say."""
    said: set[str] = set()

    def warn_once(message: str) -> None:
        if message not in said:
            said.add(message)
            warn(message)

    return warn_once


@contextmanager
def _torch_settings_kept() -> Iterator[None]:
    """Give this process back its threads, precision and random states, which a run sets: a notebook goes on with its
    own."""
    import torch

    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn)
    tf32 = [each.allow_tf32 for each in backends]
    try:
        with random_states_kept():
            yield
    finally:
        torch.set_num_threads(threads)
        if torch.are_deterministic_algorithms_enabled() != strict:  # setting it imports torch's compiler
            torch.use_deterministic_algorithms(strict)
        for each, allowed in zip(backends, tf32, strict=True):
            each.allow_tf32 = allowed  # type: ignore[attr-defined]


@contextmanager
def stop_on_interrupt(say: Callable[[str], object]) -> Iterator[Callable[[], bool]]:
    """An interrupt (Ctrl-C) asks to stop after the stages that run now; a second one raises ``KeyboardInterrupt``.

    Gives the question whether it was asked. Outside of the main thread, which alone receives interrupts, it never is.
    """
    asked = False

    def handle(signum: int, frame: object) -> None:
        nonlocal asked
        if asked:
            raise Interrupted
        asked = True
        say("\nstopping after the stages that run now (Ctrl-C again: at once)")

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, handle)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before or signal.SIG_DFL)
