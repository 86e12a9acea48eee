"""Files of users' own nets: weights, the source of a class, trigger sets. Checked without torch where a plan is made.

Every fault is a :class:`UsageError` of one line that names the file and the first thing that does not fit.
"""

from __future__ import annotations

import ast
import csv
import inspect
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from harness.errors import UnknownName, UsageError
from harness.files import user_path
from harness.values import Split

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from harness.contracts import Plugin
    from harness.nets import Net

HOW = "save them by torch.save(net.state_dict(), 'net.pt') or safetensors.torch.save_file(net.state_dict(), PATH)"
HELD_IN = ("state_dict", "model_state_dict", "model")
"""Names under which checkpoints hold weights beside other things."""


# --- weights ----------------------------------------------------------------------------------------------------------


def read_weights(name: str) -> Mapping[str, Tensor]:
    """The weights in a file by name: safetensors, or what ``torch.save`` wrote of a state dict; nothing is unpickled
    but tensors.

    The prefix ``module.`` of nets that were trained on several devices is taken off.
    """
    path = user_path(name)
    if not path.is_file():
        raise UsageError(f"no weights file {name!r}")
    stat = path.stat()
    return _weights(path, name, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=2)
def _weights(path: Path, name: str, changed: int, size: int) -> Mapping[str, Tensor]:
    import torch

    held = _loaded(path, name)
    if isinstance(held, Mapping):
        held = next((held[key] for key in HELD_IN if isinstance(held.get(key), Mapping)), held)
    if not isinstance(held, Mapping) or not held or not all(isinstance(each, torch.Tensor) for each in held.values()):
        what = f"a {type(held).__name__}" if not isinstance(held, Mapping) else "a dict of other things"
        raise UsageError(f"{name} holds {what}, not tensors by name: {HOW}")
    for key, tensor in held.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise UsageError(f"{name}: {key} has values that are not finite")
    wrapped = all(str(key).startswith("module.") for key in held)
    return {str(key).removeprefix("module.") if wrapped else str(key): tensor for key, tensor in held.items()}


def _loaded(path: Path, name: str) -> Any:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings(action="ignore"):  # of pickles that it was not written for, which it refuses
            return torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise UsageError(f"{name} is not a file of weights ({_first_line(error)}): {HOW}") from error


def _first_line(error: BaseException) -> str:
    """The beginning of an error's words."""
    line = next((each.strip() for each in str(error).splitlines() if each.strip()), "") or type(error).__name__
    return line if len(line) <= 100 else f"{line[:97]}..."


def fill(net: Net, name: str, *, start: bool = False) -> None:
    """Put the weights of a file into ``net``, in place. Raises :class:`UsageError` with the first that does not fit.

    With ``start`` the net is yet to be trained: its last layer stays as it was drawn where the file's has another
    number of classes. Else it answers as it does elsewhere: inputs in 0..1 come in as they are, whatever the recipe
    says of their normalisation.
    """
    from harness.inputs import MEAN, SD

    weights, own = dict(read_weights(name)), net.state_dict()
    moments = {each: own.pop(each) for each in (MEAN, SD) if each in own and each not in weights}
    if start:
        last = [each for each in own if each.startswith(f"{net.last}.") and each in weights]
        if any(weights[each].shape != own[each].shape for each in last):
            weights |= {each: own[each] for each in last}
    elif moments:
        moments = {MEAN: moments[MEAN] * 0, SD: moments[SD] * 0 + 1}
    if problem := next(_misfits(weights, own), ""):
        raise UsageError(f"{name} does not fit {described(net)}: {problem}")
    net.load_state_dict({**weights, **moments})


def described(net: Net) -> str:
    """The architecture's text of a net that the harness built; else its class."""
    known: Mapping[str, object] = getattr(net, "description", {})
    return str(known.get("architecture") or type(getattr(net, "module", net)).__name__)


def _misfits(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Iterator[str]:
    """Sentences on tensors of a file that differ from those of a net, in the net's order."""
    for key, tensor in own.items():
        if key not in weights:
            yield f"{key} {list(tensor.shape)} is missing in the file"
        elif weights[key].shape != tensor.shape:
            yield f"{key} is {list(weights[key].shape)} in the file and {list(tensor.shape)} in the net"
    for key, tensor in weights.items():
        if key not in own:
            yield f"the file has {key} {list(tensor.shape)}, which the net lacks"


# --- classes ----------------------------------------------------------------------------------------------------------


def class_file(text: str) -> tuple[str, str]:
    """The path and the name in ``FILE.py:NAME``, once the file is known to define the name. Executes nothing."""
    path, colon, name = text.rpartition(":")
    if not colon or not path.endswith(".py") or not name.isidentifier():
        raise UsageError(f"path={text!r} must be FILE.py:CLASS, as in path=my_net.py:Net")
    file = user_path(path)
    if not file.is_file():
        raise UsageError(f"no file {path!r} here ({file.resolve()})")
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError) as error:
        raise UsageError(f"{path} is not Python: {_first_line(error)}") from error
    defined = {name for node in tree.body for name in _defined(node)}
    if name not in defined and "*" not in defined:
        raise UnknownName(f"class of {path}", name, [each for each in defined if not each.startswith("_")])
    return path, name


def _defined(node: ast.stmt) -> Iterator[str]:
    """The names that a statement at the top of a file defines; ``*`` for those that cannot be told."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        yield node.name
    elif isinstance(node, ast.ImportFrom):
        yield from (each.asname or each.name for each in node.names)
    elif isinstance(node, ast.Assign):
        yield from (target.id for target in node.targets if isinstance(target, ast.Name))
    elif not isinstance(node, ast.Import | ast.Expr):
        yield from (
            name for each in ast.iter_child_nodes(node) if isinstance(each, ast.stmt) for name in _defined(each)
        )


def code_of(plugin: Plugin) -> list[str]:
    """The Python files that a plugin names, and would execute: by the text of an untrusted record, say."""
    return [name for name in plugin.named_files() if name.endswith(".py")]


def load_class(text: str) -> Callable[..., nn.Module]:
    """The class, or function, ``NAME`` of ``FILE.py``, which is executed once, with what it imports from its folder."""
    from harness.planning.homes import Home
    from harness.planning.loading import load_file

    path, name = class_file(text)
    file = user_path(path).resolve()
    try:
        found = getattr(load_file(Home((file.parent,), nested=True), file), name, None)
    except Exception as error:  # whatever the user's own code raises
        raise UsageError(f"{path} cannot be executed ({type(error).__name__}: {_first_line(error)})") from error
    if not callable(found):
        raise UsageError(f"{path}: {name} is a {type(found).__name__}, not a class of torch.nn.Module")
    return found  # type: ignore[no-any-return]


SHAPES, CLASSES = ("input_shape", "in_shape", "shape"), ("classes", "num_classes", "n_classes")
"""Names of constructors' parameters, by which they are filled whatever the order."""


def construct(text: str, input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """A module of the class that ``text`` names, called as ``Net()``, ``Net(classes)`` or
    ``Net(input_shape, classes)``, whichever its signature takes.

    Parameters called ``input_shape`` or ``classes`` (``num_classes``) are filled by name. Of others those without a
    default count: one is the number of classes, two are the inputs' shape and it.
    """
    make = load_class(text)
    given = arguments(make, text, input_shape, classes)
    try:
        return make(**given)
    except Exception as error:  # whatever the user's own code raises
        call = ", ".join(f"{key}={value}" for key, value in given.items())
        raise UsageError(f"{text}({call}) fails ({type(error).__name__}: {_first_line(error)})") from error


def arguments(make: Callable[..., Any], text: str, input_shape: tuple[int, ...], classes: int) -> dict[str, object]:
    """The arguments by name with which a constructor is called. Raises :class:`UsageError` where it needs others."""
    given: dict[str, object] = {}
    try:
        parameters = [each for each in inspect.signature(make).parameters.values() if each.kind not in _STARRED]
    except (TypeError, ValueError):
        return given
    for names, value in ((SHAPES, input_shape), (CLASSES, classes)):
        given |= {each.name: value for each in parameters if each.name in names}
    needed = [each.name for each in parameters if each.default is each.empty and each.name not in given]
    open_values = [value for value in (input_shape, classes) if value not in given.values()]
    if len(needed) > len(open_values):
        raise UsageError(
            f"{text} needs {', '.join(needed)}: its constructor must take (), (classes) or (input_shape, classes), and "
            "have defaults for all else"
        )
    return given | dict(zip(needed, open_values[len(open_values) - len(needed) :], strict=True))


_STARRED = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


# --- libraries of models ----------------------------------------------------------------------------------------------


def known_model(package: str, name: str) -> str:
    """The reason why there is no model of that name in ``package``, or no such package; empty where there is. Reads the
    package's source and imports nothing."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        return f"needs {package}: pip install 'watermark-harness[{package}]'"
    models = _registered(Path(spec.origin).parent / "models")
    if name.partition(".")[0] in models:
        return ""
    meant = get_close_matches(name, sorted(models), n=3)
    raise UsageError(f"{package} has no model {name!r}: {', '.join(meant) or 'none is like it'} may be meant")


@cache
def _registered(folder: Path) -> frozenset[str]:
    """The functions below ``@register_model`` in the files of a folder."""
    texts = (file.read_text("utf-8", errors="replace") for file in sorted(folder.glob("*.py")))
    return frozenset(name for text in texts for name in _REGISTERED.findall(text))


_REGISTERED = re.compile(r"^@register_model(?:\([^)]*\))?\n(?:@.*\n)*def (\w+)\(", re.MULTILINE)


# --- triggers ---------------------------------------------------------------------------------------------------------


class Triggers(NamedTuple):
    """Trigger inputs ``[n, ...]`` uint8 or float32, and their labels ``[n]`` int64."""

    x: NDArray[np.generic]
    y: NDArray[np.int64]


def read_triggers(
    name: str, input_shape: tuple[int, ...], classes: Sequence[str], span: tuple[float, float]
) -> Triggers:
    """A trigger set for inputs of ``input_shape`` within ``span``: an npz file of ``x`` and ``y``, or a folder of
    images and one CSV of ``file,label``, whose labels are numbers or names of ``classes``.

    Inputs in an npz file have the shape of the task's (channels first), as bytes, or as floats within ``span``.
    """
    path = user_path(name)
    if not path.exists():
        raise UsageError(f"no trigger set {name!r}: name an npz file, or a folder of images with a CSV of file,label")
    found = _of_folder(path, name, input_shape, classes) if path.is_dir() else _of_npz(path, name)
    x, y = found
    if tuple(x.shape[1:]) != tuple(input_shape):
        raise UsageError(f"{name}: triggers are {list(x.shape[1:])}, inputs of this data set {list(input_shape)}")
    if len(x) != len(y) or not len(x):
        raise UsageError(f"{name} has {len(x)} triggers and {len(y)} labels: it needs as many of both, at least one")
    wrong = (y < 0) | (y >= len(classes))
    if wrong.any():
        first = int(np.flatnonzero(wrong)[0])
        raise UsageError(f"{name}: label {y[first]} of trigger {first} is not a class: 0 to {len(classes) - 1}")
    if x.dtype != np.uint8 and not (x.min() >= span[0] and x.max() <= span[1]):  # NaN is not within
        raise UsageError(f"{name}: triggers are {x.min():g} to {x.max():g}, inputs {span[0]:g} to {span[1]:g}")
    return found


def _of_npz(path: Path, name: str) -> Triggers:
    try:
        with np.load(path, allow_pickle=False) as held:
            if not {"x", "y"} <= set(held):
                raise UsageError(f"{name} has the arrays {', '.join([*held][:3]) or 'none'}: it needs x and y")
            x, y = held["x"], held["y"]
    except (OSError, ValueError, zipfile.BadZipFile, AttributeError, TypeError) as error:
        raise UsageError(f"{name} is not an npz file of plain arrays x and y ({_first_line(error)})") from error
    if y.ndim != 1 or y.dtype.kind not in "iu":
        raise UsageError(f"{name}: y is {list(y.shape)} {y.dtype}: it needs a whole number for each trigger")
    if x.dtype.kind not in "f" and x.dtype != np.uint8:
        raise UsageError(f"{name}: x is {x.dtype}: it needs uint8 or floats")
    return Triggers(x if x.dtype == np.uint8 else x.astype(np.float32), y.astype(np.int64))


def _of_folder(path: Path, name: str, input_shape: tuple[int, ...], classes: Sequence[str]) -> Triggers:
    tables = sorted(path.glob("*.csv"))
    if len(tables) != 1:
        raise UsageError(f"{name} has {len(tables)} CSV files: it needs one, of file,label")
    if len(input_shape) != 3 or input_shape[0] not in (1, 3):
        raise UsageError(f"{name}: inputs of this data set are {list(input_shape)}, not images: give an npz file")
    with tables[0].open(newline="", encoding="utf-8-sig") as text:
        rows = [row for row in csv.reader(text) if row]
    rows = rows[1:] if rows and [each.strip().lower() for each in rows[0]] == ["file", "label"] else rows
    where = f"{name}/{tables[0].name}"
    images = [_image(path, row, where, input_shape[0]) for row in rows]
    sizes = {each.shape for each in images}
    if len(sizes) > 1:
        other = next(row[0] for row, each in zip(rows, images, strict=True) if each.shape != images[0].shape)
        raise UsageError(f"{where}: images are of several sizes, {rows[0][0]} and {other}")
    labels = [_label(row, where, classes) for row in rows]
    x = np.stack(images) if images else np.zeros((0, *input_shape), np.uint8)
    return Triggers(x, np.array(labels, np.int64))


def _image(folder: Path, row: list[str], where: str, channels: int) -> NDArray[np.uint8]:
    """The image ``[channels, height, width]`` that a row of the table names."""
    from PIL import Image

    if len(row) != 2:
        raise UsageError(f"{where}: a row must be file,label, not {','.join(row)!r}")
    try:
        with Image.open(folder / row[0].strip()) as image:
            pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"), np.uint8)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise UsageError(f"{where}: {row[0]!r} cannot be read ({_first_line(error)})") from error
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def _label(row: list[str], where: str, classes: Sequence[str]) -> int:
    text = row[1].strip()
    if text in classes:
        return list(classes).index(text)
    if re.fullmatch(r"-?\d{1,9}", text):
        return int(text)
    raise UsageError(f"{where}: label {text!r} of {row[0]} is not a class, by number or name")


def as_split(triggers: Triggers, like: Tensor) -> Split:
    """Triggers on the device and in the type of the inputs ``like``."""
    import torch

    from harness.inputs import as_float, as_stored

    x = torch.from_numpy(np.ascontiguousarray(triggers.x))
    x = as_stored(x.clone(), like.dtype) if like.dtype == torch.uint8 and x.dtype != torch.uint8 else x
    x = as_float(x) if like.dtype != torch.uint8 else x
    return Split(x.to(like.device), torch.from_numpy(triggers.y).to(like.device))
