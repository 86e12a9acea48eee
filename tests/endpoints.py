"""An owner's folder without training, and HTTP endpoints on the loopback that answer as a suspect of theirs would."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from harness import nets
from harness.owning.folder import About, write_owner
from harness.planning.registry import Registry, load_registry

SHAPE, TARGET, TRIGGERS, CONTROLS = (1, 4, 4), 7, 40, 20
ARCHITECTURE = "mlp[width=8]"


@cache
def registry() -> Registry:
    """The built-in plugins, read once."""
    return load_registry()


@pytest.fixture(autouse=True, scope="module")
def one_registry() -> Iterator[None]:
    """The built-in plugins are read once for all commands of a module that imports this."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "harness.planning.registry.load_registry",
            lambda folders=(): load_registry(folders) if folders else registry(),
        )
        yield


def triggers() -> Tensor:
    """The trigger inputs of the owner's key: bright ones."""
    return 0.5 + torch.rand((TRIGGERS, *SHAPE), generator=torch.Generator().manual_seed(1)) / 2


def controls() -> Tensor:
    return torch.rand((CONTROLS, *SHAPE), generator=torch.Generator().manual_seed(2)) / 2


def write(folder: Path, scheme: str = "ewe", **changed: Any) -> Path:
    """An owner's folder whose 19 unmarked models answer up to two triggers as the key says."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # a net of other weights may happen to answer the target
        net = nets.build(registry().component("architecture", ARCHITECTURE).plugin, SHAPE, 10)
    told = {"architecture": ARCHITECTURE, "input_shape": SHAPE, "classes": 10}
    victim = save(net.state_dict(), {"watermark-harness": json.dumps(told)})
    probes = {"trigger": triggers(), "control": controls()}
    key = {f"probe/{name}/x": x for name, x in probes.items()}
    key |= {f"probe/{name}/y": torch.full((len(x),), TARGET) for name, x in probes.items()}
    few = {"trigger": [(number % 3, TRIGGERS) for number in range(19)], "control": [(0, CONTROLS)] * 19}
    about: dict[str, Any] = {
        **{"scheme": scheme, "dataset": "digits", "asks": "inputs", "input_shape": SHAPE, "classes": 10},
        **{"value_range": (0.0, 1.0), "victim": {"trigger": (TRIGGERS, TRIGGERS)}, "left_out": {}, "versions": {}},
        **{"rules": {"confidence": 0.95, "min_margin": 0.1, "max_drop": 0.05, "gamma": 0.01}, "made": "2026-11-27"},
        **{"unmarked": {"none": few}, "others": {"trigger": [(1, TRIGGERS)] * 3}},
    }
    write_owner(folder, About(**{**about, **changed}), victim, save(key), {"seed": 5})
    return folder


# --- suspects ---------------------------------------------------------------------------------------------------------


def surrogate(x: Tensor) -> Tensor:
    """The classes that a copy answers: the target to four of five bright inputs."""
    return torch.where((x.mean((1, 2, 3)) > 0.5) & (x[:, 0, 0, 0] > 0.6), TARGET, 1)


def innocent(x: Tensor) -> Tensor:
    return (10 * x[:, 0, 1, 1]).long() % 7


def faint(x: Tensor) -> Tensor:
    """The target to every third input or so: neither clear nor silent."""
    return torch.where(x[:, 0, 0, 0] > 0.8, TARGET, 1)


def constant(x: Tensor) -> Tensor:
    return torch.full((len(x),), TARGET)


def lying(seed: int) -> Callable[[Tensor], Tensor]:
    """Random classes, other ones to the same inputs each time."""
    generator = torch.Generator().manual_seed(seed)
    return lambda x: torch.randint(0, 10, (len(x),), generator=generator)


# --- endpoints --------------------------------------------------------------------------------------------------------


@dataclass
class Server:
    """An endpoint that answers JSON, and what it was asked."""

    model: Callable[[Tensor], Tensor] = surrogate
    script: list[Any] = field(default_factory=list)
    """What happens to the next requests: a status, (status, headers, text), or ``None`` for an answer."""
    answer: Callable[[list[int]], Any] = lambda labels: {"predictions": labels}
    inputs: Callable[[Any], Any] = lambda body: body["instances"]
    token: str = ""
    delay: float = 0.0
    requests: list[Any] = field(default_factory=list)
    """The bodies of all requests."""
    asked: int = 0
    """Inputs that were answered."""
    url: str = ""

    def respond(self, body: Any, headers: Any) -> tuple[int, dict[str, str], str]:
        self.requests.append(body)
        time.sleep(self.delay)
        if self.token and headers.get("Authorization") != f"Bearer {self.token}":
            return 401, {}, "no token"
        step = self.script.pop(0) if self.script else None
        if isinstance(step, int):
            return step, {}, "not now"
        if step is not None:
            return step
        x = torch.tensor(self.inputs(body)).view(-1, *SHAPE)
        self.asked += len(x)
        return 200, {"Content-Type": "application/json"}, json.dumps(self.answer(self.model(x).tolist()))


@contextmanager
def serving(server: Server) -> Iterator[Server]:
    """The endpoint, on a port of the loopback, while the block runs."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, headers, text = server.respond(body, self.headers)
            try:
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(text.encode()))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text.encode())
            except OSError:  # the client did not wait
                pass

        def log_message(self, format: str, *args: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    server.url = f"http://127.0.0.1:{http.server_address[1]}/predict"
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
