"""Checks that a plugin keeps its contract, for an author's own tests and for ``harness plugins check``::

    from harness.testing import check_defense
    def test_my_mark() -> None:
        check_defense(MyMark)

A defense or attack is run twice, for real, on a few digits: through the plan, the worker and the store that a matrix
uses.
"""

from __future__ import annotations

import contextlib
import io
import pickle
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args, get_origin

import numpy as np
import safetensors.torch
import torch

from harness import nets
from harness.contracts import Analysis, Architecture, Arrays, Attack, Dataset, Defense, InputSet, PoolAttack
from harness.data import Data, added_options, check_arrays, data_folder
from harness.engine.train import predict
from harness.errors import DataError, HarnessError, OptionError, PluginError, UsageError
from harness.fields import required_options
from harness.isolation import Guard, Interrupted, describe_error
from harness.nets import Net
from harness.planning.builder import make_plan
from harness.planning.graph import KINDS, Component, Kind, Plan, value_text
from harness.planning.options import resolved_types
from harness.planning.registry import PluginInfo, Registry, load_registry, plugin_info
from harness.running.rebuilt import check_rebuilt, noise_like
from harness.running.worker import StageRunner
from harness.silencing import firing
from harness.storage.codec import Packed
from harness.storage.store import Store, plain

TINY = "digits[train=200,holdout=100,epochs=2,pretrain=1,batch_size=32]"
"""The data set that defenses and attacks are tried on: seconds, and no download."""


def check_dataset(cls: type[Dataset]) -> None:
    """Raise :class:`PluginError` with everything that is wrong with a dataset; its files must be found."""
    _check(cls, "dataset")


def check_defense(cls: type[Defense]) -> None:
    """Raise :class:`PluginError` with everything that is wrong with a defense."""
    _check(cls, "defense")


def check_attack(cls: type[Attack]) -> None:
    """Raise :class:`PluginError` with everything that is wrong with an attack."""
    _check(cls, "attack")


def check_analysis(cls: type[Analysis]) -> None:
    """Raise :class:`PluginError` with everything that is wrong with an analysis."""
    _check(cls, "analysis")


def check_architecture(cls: type[Architecture]) -> None:
    """Raise :class:`PluginError` with everything that is wrong with an architecture."""
    _check(cls, "architecture")


def _check(cls: type[Any], kind: Kind) -> None:
    try:
        found = plugin_info(cls, "under test", kind)
    except UsageError:  # typed at a prompt: no source is found, and results, which need one, are not kept
        found = PluginInfo(kind, cls, "under test", "no source")
    registry = load_registry()
    registry.found[kind, cls.name] = found
    problems = check_plugin(found, registry)
    if problems:
        raise PluginError(f"{kind} {cls.name}: " + "; ".join(problems))


def check_plugin(found: PluginInfo, registry: Registry) -> list[str]:
    """List all that is wrong with a plugin of ``registry``; empty if it keeps its contract.

    A dataset whose files are not here is checked as far as it goes without them, and a plugin with options that must be
    given as far as it goes without an object.
    """
    guard = Guard()
    try:
        with guard:
            problems = list(_object_problems(found, registry))
    except Interrupted:
        raise
    except BaseException as error:  # the plugin's own: its fields, hash or arms
        problems = [describe_error(error)]
    problems += _changes(guard.changed)
    if problems or required_options(found.cls):
        return problems
    use = registry.component(found.kind, found.cls.name)
    checks = {
        **{"dataset": _dataset, "defense": _defense, "attack": _attack},
        **{"architecture": _architecture, "analysis": _analysis},
    }
    guard = Guard(strict=True)
    with _captured() as spoken:
        try:
            with guard:
                problems += checks[found.kind](use, registry)
        except HarnessError as error:
            problems.append(str(error))
        except BaseException as error:  # the plugin's own
            if isinstance(error, Interrupted):
                raise
            problems.append(describe_error(error))
    problems += _changes(guard.changed)
    if said := spoken():
        problems.append(f"it prints: {said[:60]!r}")
    return list(dict.fromkeys(problems))


def _changes(names: Iterable[str]) -> Iterator[str]:
    """Problems that say what a plugin changed in the process."""
    for name in names:
        if name == "global random state":
            yield "it changes the global random state: draw from ctx.generator and from nothing else"
        elif name.startswith(("thread ", "process ")):
            yield f"it leaves a {name} running"
        else:
            yield f"it changes the process's {name}: put it back, also where an error is raised"


@contextlib.contextmanager
def _captured() -> Iterator[Callable[[], str]]:
    """Collect what is printed through ``sys.stdout`` and ``sys.stderr``, without warnings; a function that gives it."""
    content = io.BytesIO()
    spoken = io.TextIOWrapper(content, "utf-8", "replace", write_through=True)
    with contextlib.redirect_stdout(spoken), contextlib.redirect_stderr(spoken), warnings.catch_warnings(record=True):
        yield lambda: content.getvalue().decode("utf-8", "replace").strip()


def _object_problems(found: PluginInfo, registry: Registry) -> Iterator[str]:
    if "__doc__" not in vars(found.cls) or found.summary.startswith(f"{found.cls.__name__}("):
        yield "it has no docstring: its first line is what `harness plugins list` shows"
    declared = resolved_types(KINDS[found.kind])
    for option in fields(found.cls):
        if get_origin(declared.get(option.name)) is ClassVar:
            yield f"its {option.name} is an option: write {option.name} = {option.default!r} without a type"
    if required_options(found.cls):
        return
    plugin = found.cls()
    if plugin != found.cls() or hash(plugin) != hash(found.cls()):
        yield "two objects with the same options are not equal"
    if pickle.loads(pickle.dumps(plugin)) != plugin:
        yield "it does not survive pickling, which takes it to a worker"
    for entry in registry.arms(found.kind, found.cls.name):
        use = registry.component(found.kind, entry)
        if registry.component(found.kind, use.text).plugin != use.plugin:
            yield f"its text {use.text!r} does not read back as the same options"


def _dataset(use: Component, registry: Registry) -> Iterator[str]:
    dataset: InputSet = use.plugin
    if isinstance(dataset, Dataset):
        registry.component("architecture", dataset.architecture)
        if dataset.ood:
            registry.component("dataset", dataset.ood)
    yield from _loads(dataset)
    for text, other in _variants(use, registry):
        yield from (f"with {text}: {problem}" for problem in _loads(other))


def _loads(dataset: InputSet) -> Iterator[str]:
    """Load a set twice: what it gives must be as declared, and both times the same."""
    try:
        arrays, again = (dataset.load(data_folder(None)[0]) for _ in range(2))
    except DataError as error:
        if "damaged" in str(error):
            yield str(error)
        return  # its files are not here
    except (Exception, SystemExit) as error:  # the plugin's own
        yield f"{type(error).__name__}: {error}"
        return
    if not isinstance(arrays, Arrays) or not isinstance(again, Arrays):
        yield f"load must return an Arrays, not {type(arrays).__name__}"
        return
    try:
        check_arrays(dataset, arrays)
    except DataError as error:
        yield str(error)
    unequal = [name for name, array in vars(arrays).items() if not np.array_equal(array, getattr(again, name))]
    if unequal:
        yield f"loading it twice gives different data ({', '.join(unequal)})"


def _variants(use: Component, registry: Registry) -> Iterator[tuple[str, InputSet]]:
    """The set with each option that its class adds to the recipe changed to another value, where one is known."""
    name = use.plugin.name
    for option in added_options(type(use.plugin)):
        for value in _other_values(type(use.plugin), option, getattr(use.plugin, option)):
            text = f"{option}={value_text(value)}"
            with contextlib.suppress(OptionError):  # out of its bounds
                yield text, registry.component("dataset", f"{name}[{text}]").plugin
                break


def _other_values(cls: type[InputSet], option: str, value: Any) -> list[Any]:
    """Values of an option's type that are not ``value``, the first choice first; none for texts."""
    hint = resolved_types(cls)[option]
    choices = [choice for each in (hint, *get_args(hint)) if get_origin(each) is Literal for choice in get_args(each)]
    if isinstance(value, bool):
        choices = [not value]
    elif isinstance(value, int):
        choices = [value + 1, value - 1, 2 * value]
    elif isinstance(value, float):
        choices = [value + 0.1, value - 0.1, 2 * value, value / 2]
    elif value is None and not choices:
        choices = [1, "true"]
    return [choice for choice in choices if choice != value]


def _defense(use: Component, registry: Registry) -> Iterator[str]:
    yield from _twice(_plan(registry, use, registry.component("attack", "none")), registry, use)


def _attack(use: Component, registry: Registry) -> Iterator[str]:
    if isinstance(use.plugin, PoolAttack):
        # Without unmarked models: an attack on one of them is the same work once more.
        yield from _twice(_plan(registry, registry.component("defense", "baseline"), use, nulls=0), registry, use)


def _analysis(use: Component, registry: Registry) -> Iterator[str]:
    plan = _plan(registry, registry.component("defense", "baseline"), registry.component("attack", "none"), (use,))
    yield from _twice(plan, registry, use)


def _plan(
    registry: Registry, defense: Component, attack: Component, analyses: Sequence[Component] = (), nulls: int = 1
) -> Plan:
    dataset = registry.component("dataset", TINY)
    return make_plan([dataset], [defense], [(attack,)], [0], nulls, registry.component, analyses=analyses)


def _twice(plan: Plan, registry: Registry, use: Component) -> Iterator[str]:
    """Run a plan in two places: every stage must succeed, both times with the same bits."""
    reason = next((cell.skip for cell in plan.cells if cell.skip), "")
    if reason:
        return  # it says that it cannot be tried on digits, which is its right
    with tempfile.TemporaryDirectory() as folder:
        first, second = (_run(plan, registry, Path(folder), number) for number in (1, 2))
    for stage in plan.stages.values():
        record, again = first.records.get(stage.id), second.records.get(stage.id)
        if record is None or again is None:
            continue
        for each in (record, again):  # libraries that the first run imports may draw, and so hide what the plugin did
            yield from _changes(filter(None, each.get("changed", "").split(", ")))
        if record["status"] == "failed":
            yield f"{stage.action}: {record['reason']}"
        elif record.get("tensors_sha256") != again.get("tensors_sha256"):
            yield f"{stage.action}: the same seed gives other tensors"
        else:
            for part in ("evidence", "asked", "detection", "measures"):
                if plain(record.get(part)) != plain(again.get(part)):
                    yield f"{stage.action}: the same seed gives other {part}"
    if isinstance(use.plugin, Defense) and first.key is not None:
        yield from _key_problems(first.key, use.plugin.innocent)


@dataclass
class _Trial:
    """Results of a plan: records by stage id, and the embed's tensors."""

    records: dict[str, dict[str, Any]] = field(default_factory=dict)
    key: dict[str, torch.Tensor] | None = None


def _run(plan: Plan, registry: Registry, folder: Path, number: int) -> _Trial:
    """Run a plan's stages, stored below ``folder``, up to the first that fails."""
    store = Store(folder / str(number))
    store.prepare()
    data = Data(data_folder(None)[0])
    worker = StageRunner(store, data, plan.stages, registry.component, torch.device("cpu"), trial=number)
    trial = _Trial()
    for stage in plan.stages.values():
        worker.run(stage)
        artifact = store.load(stage.id)
        trial.records[stage.id] = artifact.record
        if artifact.record["status"] != "ok":
            break
        if stage.action == "embed":
            trial.key = artifact.tensors
    return trial


def _key_problems(tensors: dict[str, torch.Tensor], innocent: str) -> Iterator[str]:
    """A key keeps its probes apart; a scheme must have something to ask, or to read, and who marks nothing must not."""
    inputs = {name.split("/")[1]: x for name, x in tensors.items() if name.startswith("probe/") and name.endswith("/x")}
    rows = {name: {row.numpy().tobytes() for row in x} for name, x in inputs.items()}
    for name in ("held_out", "control"):
        if rows.get("trigger", set()) & rows.get(name, set()):
            yield f"its key's {name} inputs are also in its trigger set"
    is_empty = not any(name.startswith(("probe/", "tensor/")) for name in tensors)
    if is_empty and not innocent:
        yield "its key is empty: there is nothing to verify"
    if innocent and not is_empty:
        yield "its models are innocent, so its key must be empty"


def _architecture(use: Component, registry: Registry) -> Iterator[str]:
    dataset = registry.component("dataset", "digits").plugin
    architecture: Architecture = use.plugin
    if architecture.skip(dataset):
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        net, other = (nets.build(architecture, dataset.input_shape, len(dataset.classes)) for _ in range(2))
    x = torch.randint(0, 256, (3, *dataset.input_shape), generator=torch.Generator().manual_seed(0)).byte()
    logits, activations = net.eval().activations(x)
    if tuple(logits.shape) != (3, len(dataset.classes)):
        yield f"logits are {tuple(logits.shape)}, expected (3, {len(dataset.classes)})"
    floats = x.float() / 255
    if not torch.equal(net(x), net(floats)):
        yield "uint8 inputs and the same in 0..1 give different logits"
    if not torch.equal(floats, x.float() / 255):
        yield "it changes its inputs in place"
    modules = dict(net.named_modules())
    in_order = tuple(name for name in activations if name in net.taps)
    if in_order != net.taps or set(activations) != {*net.taps, *net.hidden}:
        yield f"activations are {tuple(activations)}, but its taps are {net.taps} and its hidden layers {net.hidden}"
    if not all(name in modules for name in (*net.hidden, net.last)):
        yield f"hidden = {net.hidden} and last = {net.last!r} do not all name submodules"
    if activations and next(reversed(activations.values())).ndim != 2:
        yield f"its last tap {net.taps[-1]!r} must be [n, units]: the penultimate layer"
    yield from _pruning_problems(net, dataset.input_shape)
    yield from _storing_problems(net, other.eval(), x)


def _pruning_problems(net: Net, input_shape: Sequence[int]) -> Iterator[str]:
    """Silenced units of each hidden layer must answer 0, whatever the net's other weights are."""
    for name in net.hidden:
        try:
            words = firing(net, name, input_shape)
        except Exception as error:
            words = f"silence({name!r}, units) fails ({type(error).__name__}: {error}): override it"
        if words:
            yield words


def _storing_problems(net: Net, other: Net, x: torch.Tensor) -> Iterator[str]:
    """A net is stored as its weights: another net of the architecture, given these, must answer ``x`` as it does."""
    generator = torch.Generator().manual_seed(0)
    for tensor in net.state_dict().values():  # as if trained: weights that were left as they are built prove nothing
        if tensor.is_floating_point():
            tensor += 0.1 * torch.rand(tensor.shape, generator=generator)
    tensors = {name: tensor.detach().contiguous().clone() for name, tensor in net.state_dict().items()}
    state = safetensors.torch.load(safetensors.torch.save(tensors))
    try:
        other.load_state_dict(state)
        check_rebuilt(net, Packed(state, other, "float32"), predict(other, x), x, noise_like(x, (0, 1)))
    except (PluginError, RuntimeError) as error:
        yield str(error)


__all__ = ["check_analysis", "check_architecture", "check_attack", "check_dataset", "check_defense", "check_plugin"]
