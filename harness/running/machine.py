"""Device, processes and data of a run, and the executor for them. torch is imported only where there is work to do."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from harness.errors import BrokenDataset, DataError, MissingData, UnknownName, UsageError, how_to_find

if TYPE_CHECKING:
    from harness.data import Data
    from harness.engine.train import Precision
    from harness.planning.graph import Lookup, Plan, Stage
    from harness.planning.registry import Registry
    from harness.running.executor import Executor, Work
    from harness.running.locking import Mark
    from harness.running.pool import Warn
    from harness.running.session import Session
    from harness.running.worker import StageRunner
    from harness.storage.records import StageRecord
    from harness.storage.store import Store

Where: TypeAlias = Literal["local", "ray"]
WORKERS_A_GPU = 2
"""Workers per GPU of ``--jobs auto``: small nets leave a GPU idle between two kernels."""
WORKER_MEMORY = 2**31
"""Bytes of memory per worker on a CPU of ``--jobs auto``: the largest built-in net takes as much."""
MAX_JOBS = MAX_THREADS = 1024
PRECISIONS: tuple[Precision, ...] = ("fp32", "tf32", "bf16")
EXECUTORS: tuple[Where, ...] = get_args(Where)


@dataclass(frozen=True)
class Machine:
    """Devices, processes and data of a run. Raises :class:`harness.UsageError` for values that cannot be."""

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
    """Address of the Ray cluster; ``None`` is a cluster of this machine alone."""

    def __post_init__(self) -> None:
        check_choice("precision", self.precision, PRECISIONS)
        check_choice("executor", self.executor, EXECUTORS)
        _check_count("threads", self.threads, MAX_THREADS)
        if self.jobs is not None:
            _check_count("jobs", self.jobs, MAX_JOBS, ", or auto")
        limit = self.stage_timeout
        if limit is not None and not (isinstance(limit, int | float) and limit > 0):
            raise UsageError(f"stage-timeout must be a number of seconds above 0, not {limit!r}")
        if self.address is not None and self.executor != "ray":
            raise UsageError(f"address {self.address!r} names a Ray cluster, which needs --executor ray")


def parse_jobs(value: str | int | None) -> int | None:
    """A number of jobs, or ``None`` for ``auto``; without a value that of ``HARNESS_JOBS``.

    Raises :class:`harness.UsageError`.
    """
    if value is None:
        value = os.environ.get("HARNESS_JOBS") or "auto"
    if value == "auto":
        return None
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value)
    return _check_count("jobs", value, MAX_JOBS, ", or auto")


def _check_count(name: str, value: object, most: int, other: str = "") -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise UsageError(f"{name}: expected a whole number from 1 to {most}{other}, not {value!r}")
    return value


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Raise :class:`harness.UnknownName` unless ``value`` is one of the ``choices``."""
    if value not in choices:
        raise UnknownName(name, str(value), choices)


def make_executor(
    session: Session, store: Store, registry: Registry, plan: Plan, machine: Machine, warn: Warn
) -> Executor:
    """The executor of the stages that are left, once every data set that they need has been loaded."""
    from harness.planning.live import pack
    from harness.running.executor import Serial
    from harness.running.processes import Local

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
    data = registry.contents.data if registry.contents else None  # those that planning read
    worker = _worker(here, store, registry.component, plan.stages, warn, data=data)
    if machine.executor == "local":
        _check_precision(machine, worker.device, warn)
    _load_data(worker, session.todo)
    if machine.executor == "ray":
        return _on_ray(session, store, registry, plan, machine, warn)
    jobs = machine.jobs or (1 if machine.debug else _suitable(worker.device, machine.threads))
    jobs = min(jobs, len(session.todo))
    if jobs == 1 and machine.stage_timeout is None:
        return Serial(_claimed(worker, session.seen))
    live = pack(registry)
    make = partial(_work_of, _absolute(machine), store.location, session.seen, live)
    return Local(jobs, make, plan.stages, warn, machine.stage_timeout, by_value=bool(live))


def _check_precision(machine: Machine, device: Any, warn: Warn) -> None:
    """Warn where training in bfloat16 is slower than in float32."""
    from harness.engine.bfloat16 import bfloat16_gain

    if machine.precision == "bf16" and device.type == "cpu" and (gain := bfloat16_gain()) < 1:
        warn(
            f"--precision bf16: this processor trains {gain:.1f} times as fast as in fp32, that is slower: leave it out"
        )


def _load_data(worker: StageRunner, stages: Iterable[Stage]) -> None:
    """Have every data set that the stages need. Raises :class:`harness.DataError` for those that are not there, and for
    one with a class that has too few samples for the splits.

    One that is broken fails its own stages.
    """
    missing: dict[str, DataError] = {}  # by what is said of them: other options of a set miss the same files
    # A dict, not a set: missing sets are always named in the same order.
    for dataset in dict.fromkeys(use for stage in stages for use in (stage.dataset, stage.data) if use):
        try:
            worker.data.arrays(dataset.plugin)
        except BrokenDataset:
            pass
        except DataError as error:
            missing.setdefault(error.fact if isinstance(error, MissingData) else str(error), error)
    if len(missing) == 1:
        raise next(iter(missing.values()))
    if missing:
        for fact in missing:
            worker.warn(fact)
        found = [each.name for each in missing.values() if isinstance(each, MissingData) and each.download]
        raise DataError(f"{len(missing)} data sets are missing or damaged: {how_to_find(found)}")
    for task in dict.fromkeys(stage.dataset for stage in stages):
        with suppress(BrokenDataset):
            worker.data.check_splits(task.plugin)


def _on_ray(session: Session, store: Store, registry: Registry, plan: Plan, machine: Machine, warn: Warn) -> Executor:
    """The executor on a Ray cluster. A worker's GPU is the only one that it sees, so it has no number."""
    from harness.planning.live import pack
    from harness.running.ray import Cluster, Ray
    from harness.storage.remote import is_url

    if machine.device not in ("auto", "cpu", "cuda"):
        raise UsageError(
            f"--device {machine.device!r}: a cluster gives each worker its GPU; expected auto, cpu or cuda"
        )
    cluster = Cluster(machine.address)
    gpu = machine.device == "cuda" or (machine.device == "auto" and cluster.has_gpus())
    folder = None if is_url(store.location) else store.results
    there = replace(_absolute(machine), device="cuda" if gpu else "cpu")
    return Ray(
        cluster,
        partial(_work_on_node, there, store.location, session.seen, pack(registry)),
        plan.stages,
        warn,
        jobs=machine.jobs,
        cpus=machine.threads,
        gpus=1 / WORKERS_A_GPU if gpu else 0,
        folder=folder,
        limit=machine.stage_timeout,
    )


def _absolute(machine: Machine) -> Machine:
    """Make absolute the folders that the options and the environment name here: elsewhere they differ."""
    from harness.data import data_folder
    from harness.planning.registry import plugin_folders

    data, is_cache = data_folder(machine.data)
    plugins = tuple(folder.absolute() for folder in plugin_folders(machine.plugins))
    return replace(machine, data=None if is_cache else data, plugins=plugins)


def _nothing(stage: Stage) -> StageRecord:
    raise AssertionError(f"{stage.label} is run where nothing is left to run")


def _suitable(device: Any, threads: int) -> int:
    """Number of workers that suits the machine."""
    import torch

    from harness.running.cores import usable_cores
    from harness.running.environment import available_memory

    if device.type == "cuda":
        return WORKERS_A_GPU * (torch.cuda.device_count() if device.index is None else 1)
    cpus = usable_cores()
    memory = available_memory()
    return max(1, min(cpus // threads, cpus if memory is None else memory // WORKER_MEMORY))


def _claimed(worker: StageRunner, seen: Mapping[str, Mark]) -> Work:
    """The function that runs stages under their claims; ``seen`` is what was stored when the session began."""
    from harness.running.locking import Claimed
    from harness.storage.locks import Claims

    worker.claims = Claims(worker.store.results)
    return Claimed(worker.run, worker.claims, worker.store, seen)


def _work_of(
    machine: Machine,
    address: str,
    seen: Mapping[str, Mark],
    live: bytes,
    number: int,
    stages: Mapping[str, Stage],
    warn: Warn,
) -> Work:
    """The function that runs stages in the worker process ``number``, which has no plugins yet."""
    from harness.running.processes import Teller
    from harness.storage.remote import open_store

    lookup = _plugins(machine, live)
    worker = _worker(machine, open_store(address, warn), lookup, stages, warn, number)
    if machine.stage_timeout is not None and isinstance(warn, Teller):
        worker.clock = warn.clock
    return _claimed(worker, seen)


def _plugins(machine: Machine, live: bytes) -> Lookup:
    """The lookup of plugins in another process: those of folders and packages, and the packed ``live`` classes."""
    from harness.planning.live import unpack
    from harness.planning.registry import load_registry

    registry = load_registry(machine.plugins)
    unpack(live, registry)
    return registry.component


def _work_on_node(
    machine: Machine,
    address: str,
    seen: Mapping[str, Mark],
    live: bytes,
    number: int,
    stages: Mapping[str, Stage],
    warn: Warn,
) -> tuple[Work, Lookup]:
    """The function that runs stages in a worker on a cluster, and the lookup of plugins there.

    Data that this node alone lacks end the run: else it would fail one stage after the other, faster than others run.
    """
    from harness.storage.remote import open_store

    lookup = _plugins(machine, live)
    worker = _worker(machine, open_store(address, warn), lookup, stages, warn, number)
    claimed = _claimed(worker, seen)

    def work(stage: Stage) -> StageRecord | None:
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
    *,
    data: Data | None = None,
) -> StageRunner:
    """The stage runner of this process, which may be the worker process ``number``. ``data`` is what it has loaded."""
    import torch

    from harness.data import Data, data_folder
    from harness.engine.train import set_matmul_precision
    from harness.running.environment import keep_memory, postpone_compiler
    from harness.running.worker import StageRunner

    torch.set_num_threads(machine.threads)
    set_matmul_precision(machine.precision)
    keep_memory()
    postpone_compiler()
    if machine.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it is first used
        torch.use_deterministic_algorithms(True)
    device = _device(machine.device)
    if number is not None and device.type == "cuda":
        device = _shared(device, number)
    return StageRunner(
        store,
        data or Data(*data_folder(machine.data), warn),
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
