"""Suspects of every kind as one: a function from inputs ``[n, ...]`` to logits ``[n, classes]``.

Files are read without the harness's stores: a suspect is somebody else's. A file of TorchScript or of ``torch.export``,
and a function of Python, run the code that is in them.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import UsageError
from harness.files import user_path
from harness.owning.answers import in_parts, logits_of

if TYPE_CHECKING:
    from torch import Tensor

    from harness.nets import Net
    from harness.owning.endpoint import Endpoint
    from harness.owning.folder import About
    from harness.values import Answers

    Function = Callable[[Tensor], Tensor]

FUNCTION = re.compile(r"(?P<module>[^:]+?):(?P<name>[A-Za-z_][\w.]*)")
KINDS = (
    "a folder of harness export, a file (.safetensors, .pt, .pt2, .onnx), a function module:name, or an http(s) address"
)
PART = 128


@dataclass(frozen=True)
class Suspect:
    """A model under verification."""

    kind: str
    answer: Function
    net: Net | None = None
    """Its net, where its weights are known: what white-box schemes need."""
    answers: Answers = "probabilities"
    """The most that it answers."""
    batch: int = 1
    """Inputs that it is asked at a time, where the owner may stop after any."""
    endpoint: Endpoint | None = None
    """The client of a suspect that is asked over a network."""


def load_suspect(
    named: str | Callable[..., Any], about: About, architecture: str = "", plugins: Sequence[Path] = ()
) -> Suspect:
    """The suspect that a user names, unless it is a URL; or a function. Raises :class:`UsageError` for what is none."""
    if callable(named):
        return _called(named, about)
    path = user_path(named)
    if path.is_dir():
        return _exported(path, about, plugins)
    if not path.exists() and (found := FUNCTION.fullmatch(named)):
        return _function(found["module"], found["name"], about)
    if not path.is_file():
        raise UsageError(f"no suspect {named!r}: expected {KINDS}")
    if path.suffix == ".onnx":
        from harness.owning.onnx import load_onnx

        return Suspect("ONNX", _checked(load_onnx(path, about), about))
    if path.suffix == ".pt2":
        return Suspect("torch.export", _checked(_program(path), about))
    if path.suffix == ".safetensors":
        return _weights(path, about, architecture, plugins)
    if path.suffix in (".pt", ".pth", ".ts", ".torchscript", ".bin"):
        if _is_torchscript(path):
            return Suspect("TorchScript", _checked(_script(path), about))
        from harness.modelfiles import read_weights

        return _of_net(_built(path, read_weights(str(path)), about, architecture, plugins), about)
    raise UsageError(f"{named!r}: its ending {path.suffix!r} is not known: expected {KINDS}")


def _checked(run: Function, about: About) -> Function:
    """``run`` on float inputs, a part at a time, its answers as logits. What it prints goes to stderr."""

    def answer(x: Tensor) -> Tensor:
        import torch

        from harness.inputs import as_float

        with torch.inference_mode(), redirect_stdout(sys.stderr):
            parts = [logits_of(_run(run, part), len(part), about.classes) for part in as_float(x).split(PART)]
        return torch.cat(parts).float()

    return answer


def _run(run: Function, x: Tensor) -> Any:
    try:
        return run(x)
    except UsageError:
        raise
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise UsageError(
            f"the suspect cannot answer inputs of shape {tuple(x.shape)} ({type(error).__name__}: {reason})"
        ) from error


# --- weights ----------------------------------------------------------------------------------------------------------


def _exported(folder: Path, about: About, plugins: Sequence[Path]) -> Suspect:
    """The surrogate of a folder of ``harness export``, behind its filter; else the victim in it."""
    for name in ("surrogate.safetensors", "victim.safetensors"):
        if (folder / name).is_file():
            made = _weights(folder / name, about, "", plugins)
            return _guarded(made, folder, plugins) if (folder / "guard.safetensors").is_file() else made
    raise UsageError(f"{str(folder)!r} holds no surrogate.safetensors and no victim.safetensors: expected {KINDS}")


def _guarded(made: Suspect, folder: Path, plugins: Sequence[Path]) -> Suspect:
    import json

    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from harness.planning.registry import load_registry
    from harness.running.answers import of_thief

    try:
        tensors = {name.removeprefix("guard/"): t for name, t in load_file(folder / "guard.safetensors").items()}
        guard = json.loads((folder / "cell.json").read_text("utf-8"))["surrogate"]["guard"]
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{str(folder)!r}: the filter of its surrogate cannot be read: {error}") from error
    use, net, answer = load_registry(plugins).component("attack", str(guard)), made.net, made.answer
    assert net is not None
    return Suspect("weights", lambda x: of_thief(use, net, tensors, x, answer(x)), net)


def _weights(path: Path, about: About, architecture: str, plugins: Sequence[Path]) -> Suspect:
    from safetensors import SafetensorError, safe_open

    from harness.inspect.export import SOURCE, load_model

    try:
        with safe_open(path, framework="pt") as file:
            if SOURCE in (file.metadata() or {}) and not architecture:
                return _of_net(load_model(path, plugins), about)
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
    except (OSError, SafetensorError) as error:
        raise UsageError(f"{str(path)!r} is no file of safetensors: {error}") from error
    return _of_net(_built(path, weights, about, architecture, plugins), about)


def _of_net(net: Net, about: About) -> Suspect:
    told: Mapping[str, Any] = net.description
    shape, classes = tuple(told["input_shape"]), told["classes"]
    if (shape, classes) != (about.input_shape, about.classes):
        raise UsageError(
            f"the suspect takes {shape} and knows {classes} classes, the key's task has {about.input_shape} and "
            f"{about.classes}: it cannot be asked this key"
        )
    return Suspect("weights", _checked(net, about), net)


def _built(path: Path, weights: Mapping[str, Tensor], about: About, architecture: str, plugins: Sequence[Path]) -> Net:
    """A net of the architecture that the user names, with the weights of a file."""
    import torch

    from harness import nets
    from harness.inputs import MEAN
    from harness.planning.registry import load_registry

    if not architecture:
        raise UsageError(f"{str(path)!r} does not say its architecture: type --architecture NAME")
    use = load_registry(plugins).component("architecture", architecture)
    moments = nets.no_moments(about.input_shape) if MEAN in weights else None
    with torch.random.fork_rng(devices=[]):
        try:
            net = nets.build(use.plugin, about.input_shape, about.classes, moments)
        except Exception as error:  # an architecture that cannot take these inputs
            raise UsageError(f"{use} cannot be built for inputs of {about.input_shape}: {error}") from error
    if differs := _first_difference(weights, net.state_dict()):
        raise UsageError(f"{str(path)!r} is not of the architecture {use}: {differs}")
    net.load_state_dict(dict(weights))
    net.description = {"architecture": use.text, "input_shape": about.input_shape, "classes": about.classes}
    return net.eval()


def _first_difference(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """The first tensor of a net that weights lack, have in another shape, or have besides; empty where they fit."""
    for name, tensor in wanted.items():
        if name not in given:
            return f"it lacks {name!r} {tuple(tensor.shape)}"
        if given[name].shape != tensor.shape:
            return f"{name!r} is {tuple(given[name].shape)}, and {tuple(tensor.shape)} is expected"
    return next((f"it has {name!r}, which the net has not" for name in given if name not in wanted), "")


# --- programs ---------------------------------------------------------------------------------------------------------


def _is_torchscript(path: Path) -> bool:
    """True for an archive that holds code, which one of weights alone does not."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any("/code/" in name for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def _script(path: Path) -> Function:
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that TorchScript is deprecated: its owner's business
            module: Any = torch.jit.load(str(path), map_location="cpu")
    except Exception as error:  # whatever torch makes of bytes that somebody else wrote
        raise _unreadable(path, "TorchScript", error) from error
    module.eval()
    return lambda x: module(x)


def _program(path: Path) -> Function:
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.load(str(path))
            module = program.module()
    except Exception as error:  # as of _script
        raise _unreadable(path, "torch.export", error) from error
    example = program.example_inputs
    size = len(example[0][0]) if example and example[0] else 1

    def run(x: Tensor) -> Any:
        try:
            return module(x)
        except Exception:  # one that was exported for batches of one size: a guard refuses others
            return in_parts(module, x, size)

    return run


def _unreadable(path: Path, what: str, error: Exception) -> UsageError:
    reason = str(error).strip().partition("\n")[0]
    return UsageError(f"{str(path)!r} cannot be read as {what} ({type(error).__name__}: {reason})")


def _function(module_name: str, name: str, about: About) -> Suspect:
    """A function of Python by its name."""
    with redirect_stdout(sys.stderr):
        function: Any = _module(module_name)
        for part in name.split("."):
            try:
                function = getattr(function, part)
            except AttributeError:
                raise UsageError(f"{module_name!r} has no {name!r}: expected module:function") from None
    if not callable(function):
        raise UsageError(f"{module_name}:{name} is no function, but a {type(function).__name__}")
    return _called(function, about)


def _called(function: Callable[..., Any], about: About) -> Suspect:
    """A function, which is called with a tensor, or with an array where it cannot take a tensor."""
    takes_array = "ndarray" in str(getattr(function, "__annotations__", {}))

    def run(x: Tensor) -> Any:
        if takes_array:
            return function(x.numpy())
        try:
            return function(x)
        except Exception as error:
            try:
                return function(x.numpy())
            except Exception:
                raise error from None

    return Suspect("function", _checked(run, about))


def _module(name: str) -> Any:
    """The module of that name, beginning in the current folder; or of a file."""
    before = list(sys.path)
    sys.path.insert(0, "")
    try:
        if not name.endswith(".py"):
            return importlib.import_module(name)
        spec = importlib.util.spec_from_file_location("suspect", user_path(name))
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        sys.modules["suspect"] = module
        spec.loader.exec_module(module)
        return module
    except Exception as error:  # whatever somebody's module does while it is imported
        raise UsageError(f"{name!r} cannot be imported ({type(error).__name__}: {error})") from error
    finally:
        sys.path[:] = before
