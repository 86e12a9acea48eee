"""Mapping of a key's questions to the requests of an HTTP endpoint, and of its answers back, from a file in TOML.

::

    [request]
    field = "instances"          # the inputs' place in the JSON; empty: the JSON is the inputs
    item = "image.b64"           # the place within each input's own object; empty: no object
    encoding = "png"             # or "list": nested lists of numbers
    layout = "channels-last"     # of "list"; by default "channels-first", as the key has them
    scale = 255.0                # of "list": each number is multiplied by it
    batch = 16                   # inputs of a request; 0: one input, not in a list
    [request.fields]             # what else the JSON holds
    model = "v3"
    [request.headers]
    Authorization = "Bearer ${API_TOKEN}"     # from the environment
    [response]
    field = "predictions"
    item = "label"
    kind = "labels"              # or "probabilities", "logits"
    names = ["cat", "dog"]       # of labels as texts, in the order of the classes
    [limits]
    per_second = 5.0
    timeout = 30.0
    retries = 4
    patience = 120.0             # the longest wait that the endpoint may ask for
"""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import os
import re
from collections.abc import Mapping as Table
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from harness.errors import UnknownName, UsageError

if TYPE_CHECKING:
    from torch import Tensor

_VARIABLE = re.compile(r"\$\{(\w+)\}")


@dataclass(frozen=True)
class Request:
    """Requests: the place and the form of the inputs."""

    field: str = ""
    item: str = ""
    encoding: Literal["list", "png"] = "list"
    layout: Literal["channels-first", "channels-last"] = "channels-first"
    scale: float = 1.0
    batch: int = 1
    fields: dict[str, Any] = dataclasses.field(default_factory=dict)
    headers: dict[str, str] = dataclasses.field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Response:
    """Responses: the place and the kind of the answers."""

    field: str = ""
    item: str = ""
    kind: Literal["labels", "probabilities", "logits"] = "labels"
    names: list[str] = dataclasses.field(default_factory=list)


@dataclass(frozen=True)
class Limits:
    """Limits of asking."""

    per_second: float = 0.0
    """Requests a second; 0 is without limit."""
    timeout: float = 30.0
    retries: int = 4
    patience: float = 120.0


@dataclass(frozen=True)
class Mapping:
    """A mapping file that was read."""

    request: Request = dataclasses.field(default_factory=Request)
    response: Response = dataclasses.field(default_factory=Response)
    limits: Limits = dataclasses.field(default_factory=Limits)

    def text(self) -> str:
        """Text of what decides the answers: neither headers nor limits."""
        request = asdict(self.request)
        del request["headers"], request["batch"]
        return json.dumps([request, asdict(self.response)], sort_keys=True)

    def headers(self) -> dict[str, str]:
        """The headers, with what they name of the environment. Raises :class:`UsageError` where it is not set."""
        return {name: from_environment(value, f"header {name}") for name, value in self.request.headers.items()}


def from_environment(text: str, where: str) -> str:
    """``text`` with ``${NAME}`` as the environment has it. Raises :class:`UsageError`, which shows no value."""
    for name in _VARIABLE.findall(text):
        if not os.environ.get(name):
            raise UsageError(f"{where} needs the environment variable {name}: type export {name}=...")
    return _VARIABLE.sub(lambda found: os.environ[found[1]], text)


def read_mapping(path: Path) -> Mapping:
    """Read a mapping file. Raises :class:`UsageError` for one that is malformed, with what was expected."""
    from harness.planning.matrix import read_toml

    document = read_toml(path, "mapping")
    parts: dict[str, Any] = {"request": Request, "response": Response, "limits": Limits}
    for name in document:
        if name not in parts:
            raise UnknownName(f"{path}: table", name, parts)
    made = Mapping(**{name: _read(parts[name], table, f"{path}: [{name}]") for name, table in document.items()})
    _check(made, path)
    return made


def _read(cls: type[Any], table: Any, where: str) -> Any:
    if not isinstance(table, dict):
        raise UsageError(f"{where}: expected a table")
    types = get_type_hints(cls)
    known = {each.name for each in fields(cls)}
    for name, value in table.items():
        if name not in known:
            raise UnknownName(f"{where}: field", name, known)
        if problem := _problem(types[name], value):
            raise UsageError(f"{where} {name}: expected {problem}, not a {type(value).__name__}")
    return cls(**table)


def _problem(kind: Any, value: Any) -> str:
    """The words for what is expected instead of a value; empty where it is of that type."""
    if get_origin(kind) is Literal:
        return "" if value in get_args(kind) else " or ".join(map(repr, get_args(kind)))
    if kind is float:
        return "" if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0 else "a number"
    if kind is int:
        return "" if type(value) is int and value >= 0 else "a whole number of at least 0"
    if get_origin(kind) is list:
        return "" if isinstance(value, list) and all(isinstance(each, str) for each in value) else "a list of texts"
    if get_args(kind) == (str, str):
        texts = isinstance(value, dict) and all(isinstance(each, str) for each in value.values())
        return "" if texts else "a table of texts"
    return "" if isinstance(value, get_origin(kind) or kind) else "a text" if kind is str else "a table"


def _check(made: Mapping, path: Path) -> None:
    if made.limits.timeout == 0:
        raise UsageError(f"{path}: [limits] timeout: expected seconds above 0")
    if made.request.fields and not made.request.field:
        raise UsageError(f"{path}: [request.fields] needs [request] field, the place of the inputs beside them")
    if len(set(made.response.names)) != len(made.response.names):
        raise UsageError(f"{path}: [response] names: a name stands twice")


# --- requests ---------------------------------------------------------------------------------------------------------


def body_of(request: Request, inputs: Tensor) -> Any:
    """The JSON that asks these inputs ``[n, ...]``, floats or bytes."""
    items = [_placed(request.item, _encoded(request, each)) for each in inputs]
    asked = items if request.batch else items[0]
    body = _placed(request.field, asked)
    return {**request.fields, **body} if request.fields else body


def _placed(place: str, value: Any) -> Any:
    """``value`` at a dotted place of objects."""
    for name in reversed(place.split(".") if place else []):
        value = {name: value}
    return value


def _encoded(request: Request, x: Tensor) -> Any:
    from harness.inputs import as_float, as_stored

    if request.encoding == "png":
        import torch

        return png(as_stored(x, torch.uint8) if x.is_floating_point() else x)
    x = as_float(x)
    if request.layout == "channels-last":
        x = x.movedim(0, -1)
    return (x * request.scale).tolist()


def png(x: Tensor) -> str:
    """An image ``[1 or 3, height, width]`` of bytes as PNG in base64. Raises :class:`UsageError` for other inputs."""
    from PIL import Image

    if x.ndim != 3 or len(x) not in (1, 3):
        raise UsageError(f'encoding = "png" needs images of 1 or 3 channels, the key\'s inputs are {tuple(x.shape)}')
    pixels = x[0].numpy() if len(x) == 1 else x.movedim(0, -1).contiguous().numpy()
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


# --- responses --------------------------------------------------------------------------------------------------------


def answers_in(response: Response, body: Any, count: int, classes: int, alone: bool) -> list[int | list[float]]:
    """The answers in a response to ``count`` inputs: a class, or a number for each class. -1 is a refusal.

    ``alone``: the input was not in a list, and so is the answer not. Raises :class:`UsageError` for another form.
    """
    found = _at(response.field, body, "the response")
    items = [found] if alone else found
    if not isinstance(items, list) or len(items) != count:
        shown = f"{len(items)} answers" if isinstance(items, list) else f"a {_name(items)}"
        raise UsageError(f"the endpoint answers {count} inputs by {shown}: see [response] field of the mapping")
    return [_answer(response, _at(response.item, each, "an answer"), classes) for each in items]


def _at(place: str, value: Any, what: str) -> Any:
    for name in place.split(".") if place else []:
        if isinstance(value, list) and name.isdigit() and int(name) < len(value):
            value = value[int(name)]
        elif isinstance(value, dict) and name in value:
            value = value[name]
        else:
            has = f"an object of {', '.join(map(repr, list(value)[:5]))}" if isinstance(value, dict) else _name(value)
            raise UsageError(f"the endpoint changed or is mapped wrongly: {what} has no {place!r}, it is {has}")
    return value


def _answer(response: Response, value: Any, classes: int) -> int | list[float]:
    if value is None:
        return -1
    if response.kind == "labels":
        return _label(response, value, classes)
    if isinstance(value, dict) and response.names:
        value = [value.get(name, 0.0) for name in response.names]
    if not isinstance(value, list) or len(value) != classes or not all(map(_is_number, value)):
        shown = f"{len(value)} values" if isinstance(value, list) else f"a {_name(value)}"
        raise UsageError(f"the endpoint answers {shown}, where {response.kind} of {classes} classes are expected")
    return [float(each) for each in value]


def _label(response: Response, value: Any, classes: int) -> int:
    if response.names and isinstance(value, str):
        if value not in response.names:
            raise UnknownName("class in the endpoint's answer:", value, response.names)
        value = response.names.index(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is not int or value >= classes:
        shown = repr(value) if isinstance(value, int | float | str) else f"a {_name(value)}"
        raise UsageError(f"the endpoint answers {shown[:60]}, where a class of 0 to {classes - 1} is expected")
    return max(value, -1)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _name(value: Any) -> str:
    names: Table[type, str] = {dict: "object", list: "list", str: "text", type(None): "null"}
    return names.get(type(value), type(value).__name__)
