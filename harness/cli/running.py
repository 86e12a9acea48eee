"""Running a plan from the command line: the options, the executor, the progress, Ctrl-C. Shared by the commands that
run.

Only what there is to run imports torch.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import click

from harness.cli.options import F, data_option, gathered, plugins_option

if TYPE_CHECKING:
    from harness.execute import Executor, Outcome, Session
    from harness.execute.claimed import Mark
    from harness.execute.crew import Warn
    from harness.execute.serial import Work
    from harness.plan import Lookup, Plan, Stage
    from harness.registry import Registry
    from harness.stages import Worker
    from harness.store import Store
    from harness.tables import Tables
    from harness.train import Precision

Where: TypeAlias = Literal["local", "ray"]
WORKERS_A_GPU = 2
"""What ``--jobs auto`` takes: small nets leave a GPU idle between two kernels."""
WORKER_MEMORY = 2**31
"""Bytes that ``--jobs auto`` leaves a worker on a CPU: what the largest net that is built in takes."""


@dataclass(frozen=True)
class Machine:
    """Where to run: what the command line says of devices, processes and data."""

    data: Path | None = None
    device: str = "auto"
    threads: int = 1
    jobs: int | None = None
    """Stages at a time, each in a worker process; 1 is this process, ``None`` is as many as suit the machine."""
    stage_timeout: float | None = None
    """Seconds that a stage may take. With it also one stage at a time has a worker process, which can be killed."""
    precision: Precision = "tf32"
    deterministic: bool = False
    profile: bool = False
    debug: bool = False
    plugins: tuple[Path, ...] = ()
    executor: Where = "local"
    address: str | None = None
    """Of the Ray cluster; ``None`` is one of this machine alone."""


def _jobs(context: click.Context, option: click.Parameter, value: str) -> int | None:
    if value == "auto":
        return None
    if not (value.isascii() and value.isdigit() and 1 <= int(value) <= 1024):
        raise click.BadParameter(f"expected a whole number from 1 to 1024, or auto, not {value!r}")
    return int(value)


def _address(context: click.Context, option: click.Parameter, value: str | None) -> str | None:
    if value is not None and context.params.get("executor") != "ray":
        raise click.BadParameter(f"{value!r} names a Ray cluster, which needs --executor ray")
    return value


def _machine(data_named: Path | None, plugin_folders: tuple[Path, ...], **named: Any) -> Machine:
    return Machine(data=data_named, plugins=plugin_folders, **named)


def machine_options(command: F) -> F:
    """Where to run, with what data and plugins: given to the command as one ``machine``. What more of :class:`Machine`
    a command has options for is in it too."""
    command = gathered("machine", _machine, ["data_named", "plugin_folders", *(f.name for f in fields(Machine))])(
        command
    )
    for option in (
        click.option(
            "--precision",
            type=click.Choice(["fp32", "tf32", "bf16"]),
            default="tf32",
            show_default=True,
            help="Of training. tf32: of a GPU's matrix products (a CPU trains in fp32). bf16: autocast to bfloat16.",
        ),
        click.option(
            "--threads",
            type=click.IntRange(1, 1024),
            default=1,
            show_default=True,
            help="CPU threads of torch. Another number sums in another order: other numbers, within rounding.",
        ),
        click.option(
            "--stage-timeout",
            type=click.FloatRange(0, min_open=True),
            metavar="SECONDS",
            help="A stage that takes longer fails: its process is killed, and the others go on.",
        ),
        click.option(
            "--jobs",
            metavar="N|auto",
            callback=_jobs,
            default="auto",
            envvar="HARNESS_JOBS",
            show_default=True,
            help="Stages at a time; from 2 on in worker processes. auto: one a CPU (for --threads of it, and 2 GiB), "
            f"{WORKERS_A_GPU} a GPU, all of a cluster. Also: HARNESS_JOBS.",
        ),
        click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N."),
        click.option(
            "--address",
            metavar="HOST:PORT|auto",
            callback=_address,
            help="Of the Ray cluster's head. Without: a cluster of this machine alone, for this run.",
        ),
        click.option(
            "--executor",
            type=click.Choice(["local", "ray"]),
            default="local",
            show_default=True,
            is_eager=True,  # --address depends on it
            help="local: this machine. ray: a Ray cluster, see docs/clusters.md.",
        ),
        plugins_option,
        data_option,
    ):
        command = option(command)
    return command


def mend(tables: Tables) -> None:
    """Set aside what a power cut left of tables, and say so."""
    for path in tables.mend():
        warn(f"{path} is cut short: it is set aside with what later runs wrote, and all rows are written anew")


def make_executor(session: Session, store: Store, registry: Registry, plan: Plan, machine: Machine) -> Executor:
    """What runs the stages that are left, once it is sure that every data set that they need is there."""
    from harness.errors import UsageError
    from harness.execute import Local, Serial

    if machine.debug and machine.executor == "ray":
        raise UsageError("--debug opens the debugger in this process: it needs --executor local")
    if machine.debug and machine.jobs not in (None, 1):
        raise UsageError("--debug opens the debugger in this process: it needs --jobs 1")
    if machine.debug and machine.stage_timeout:
        raise UsageError("--debug opens the debugger in this process, which --stage-timeout cannot kill: leave one out")
    if not session.todo:
        return Serial(_nothing)
    # The nodes have the devices of a cluster: its head need not have one.
    here = replace(machine, device="cpu") if machine.executor == "ray" else machine
    worker = _worker(here, store, registry.use, plan.stages, warn)
    _load_data(worker, session.todo)
    if machine.executor == "ray":
        return _on_ray(session, store, plan, machine)
    jobs = machine.jobs or (1 if machine.debug else _suitable(worker.device, machine.threads))
    jobs = min(jobs, len(session.todo))
    if jobs == 1 and machine.stage_timeout is None:
        return Serial(_claimed(worker, session.seen))
    make = partial(_work_of, machine, store.address, session.seen)
    return Local(jobs, make, plan.stages, warn, machine.stage_timeout)


def _load_data(worker: Worker, stages: Iterable[Stage]) -> None:
    """Have every data set that the stages need. Raises :class:`harness.UsageError` for one that is not there."""
    # A dict, not a set: of two sets that are missing it is always the same one that is named.
    for dataset in dict.fromkeys(use for stage in stages for use in (stage.dataset, stage.data) if use):
        worker.data.arrays(dataset.plugin)


def _on_ray(session: Session, store: Store, plan: Plan, machine: Machine) -> Executor:
    """What runs the stages on a Ray cluster. A worker's GPU is the only one that it sees, so it has no number."""
    from harness.errors import UsageError
    from harness.execute import Cluster, Ray
    from harness.remote import is_url

    if machine.device not in ("auto", "cpu", "cuda"):
        raise UsageError(
            f"--device {machine.device!r}: a cluster gives each worker its GPU; expected auto, cpu or cuda"
        )
    cluster = Cluster(machine.address)
    gpu = machine.device == "cuda" or (machine.device == "auto" and cluster.has_gpus())
    folder = None if is_url(store.address) else store.results.absolute()
    there = replace(_absolute(machine), device="cuda" if gpu else "cpu")
    return Ray(
        cluster,
        partial(_work_on_node, there, str(folder or store.address), session.seen),
        plan.stages,
        warn,
        jobs=machine.jobs,
        cpus=machine.threads,
        gpus=1 / WORKERS_A_GPU if gpu else 0,
        folder=folder,
        limit=machine.stage_timeout,
    )


def _absolute(machine: Machine) -> Machine:
    """With the folders that the options and the environment name here, whatever is current or set elsewhere."""
    from harness.data import data_folder
    from harness.registry import plugin_folders

    data, is_cache = data_folder(machine.data)
    plugins = tuple(folder.absolute() for folder in plugin_folders(machine.plugins))
    return replace(machine, data=None if is_cache else data.absolute(), plugins=plugins)


def _nothing(stage: Stage) -> dict[str, Any]:
    raise AssertionError(f"{stage.label} is run where nothing is left to run")


def warn(message: str) -> None:
    from harness.tables import printable

    click.echo(f"warning: {printable(message)}", err=True)


def _suitable(device: Any, threads: int) -> int:
    """How many workers suit the machine."""
    import torch

    from harness.resources import available_memory

    if device.type == "cuda":
        return WORKERS_A_GPU * (torch.cuda.device_count() if device.index is None else 1)
    # Those that this process may use, where the system tells: a container has fewer than the machine.
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = available_memory()
    return max(1, min(cpus // threads, cpus if memory is None else memory // WORKER_MEMORY))


def _claimed(worker: Worker, seen: Mapping[str, Mark]) -> Work:
    """What runs stages under their claims; ``seen`` of what was stored when the session began."""
    from harness.claims import Claims
    from harness.execute import Claimed

    worker.claims = Claims(worker.store.results)
    return Claimed(worker.run, worker.claims, worker.store, seen)


def _work_of(
    machine: Machine, address: str, seen: Mapping[str, Mark], number: int, stages: Mapping[str, Stage], warn: Warn
) -> Work:
    """What runs stages in the worker process ``number``, which has no plugins yet."""
    from harness.registry import load_registry
    from harness.remote import open_store

    lookup = load_registry(machine.plugins).use
    return _claimed(_worker(machine, open_store(address, warn), lookup, stages, warn, number), seen)


def _work_on_node(
    machine: Machine, address: str, seen: Mapping[str, Mark], number: int, stages: Mapping[str, Stage], warn: Warn
) -> tuple[Work, Lookup]:
    """What runs stages in a worker on a cluster, and finds their plugins there.

    Data that this node alone lacks end the run: else it would fail one stage after the other, faster than others run.
    """
    from harness.registry import load_registry
    from harness.remote import open_store

    lookup = load_registry(machine.plugins).use
    worker = _worker(machine, open_store(address, warn), lookup, stages, warn, number)
    claimed = _claimed(worker, seen)

    def work(stage: Stage) -> dict[str, Any] | None:
        _load_data(worker, [stage])
        return claimed(stage)

    return work, lookup


def _worker(
    machine: Machine,
    store: Store,
    lookup: Lookup,
    stages: Mapping[str, Stage],
    warn: Warn,
    number: int | None = None,
) -> Worker:
    """The worker of this process; of the worker process ``number`` if there is one."""
    import torch

    from harness.data import Data, data_folder
    from harness.resources import keep_memory
    from harness.stages import Worker
    from harness.train import set_matmul_precision

    torch.set_num_threads(machine.threads)
    set_matmul_precision(machine.precision)
    keep_memory()
    if machine.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it is first used
        torch.use_deterministic_algorithms(True)
    device = _device(machine.device)
    if number is not None and device.type == "cuda":
        device = _shared(device, number)
    return Worker(
        store,
        Data(*data_folder(machine.data)),
        stages,
        lookup,
        device,
        machine.precision,
        store.profiles if machine.profile else None,
        machine.debug,
        warn,
        shares_device=number is not None,
    )


def _device(name: str) -> Any:
    """The torch device of ``name``. Raises :class:`UsageError` for one that is not there."""
    import torch

    from harness.errors import UsageError

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError("not supported")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(f"no device {name!r} here ({reason}): auto, cpu, cuda or cuda:N") from error
    return device


def _shared(device: Any, number: int) -> Any:
    """The GPU of a worker: the one that was named, or else the workers go round all that there are."""
    import torch

    index = number % torch.cuda.device_count() if device.index is None else device.index
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def execute(session: Session, executor: Executor, quiet: bool, log_json: bool = False, debug: bool = False) -> Outcome:
    """Run what is left of a session, watched, until it ends or is interrupted."""
    from harness.cli.progress import watcher

    with _stop_on_interrupt() as stopping, watcher(len(session.todo), quiet, log_json) as watching:
        try:
            return session.run(executor, watching, stopping)
        except Exception:
            if debug:
                import pdb

                pdb.post_mortem()
            raise


@contextmanager
def _stop_on_interrupt() -> Iterator[Any]:
    """Ctrl-C asks to stop after what runs now; a second one stops at once."""
    asked = False

    def handle(signum: int, frame: object) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        click.echo("\nstopping after what runs now (Ctrl-C again: at once)", err=True)

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)


def report(outcome: Outcome, plan: Plan, results: str, err: bool, name: str = "") -> int:
    """Say how a run ended, on stderr if ``err``; its exit code."""
    from harness.cli.progress import first_line
    from harness.tables import printable

    counts = ", ".join(f"{count} {status}" for status, count in sorted(outcome.counts.items()))
    for cell, reason in outcome.failures[:20]:
        click.echo(f"failed: {printable(cell)}: {first_line(reason)}", err=True)
    if len(outcome.failures) > 20:
        click.echo(f"... and {len(outcome.failures) - 20} more: see the cells table", err=True)
    did = f"ran {outcome.ran - outcome.elsewhere} stages" if outcome.ran or outcome.interrupted else "nothing to do"
    if outcome.elsewhere:
        did += f", and another run {outcome.elsewhere} more"
    start = f"{name}: " if name else ""
    click.echo(f"{start}{did}: {len(plan.cells)} cells ({counts}), tables in {results}/tables", err=err)
    if outcome.interrupted:
        click.echo("interrupted: the same command goes on where this one stopped", err=True)
        return 130
    return 1 if outcome.failures else 0
