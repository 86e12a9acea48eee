"""Downloads of data sets from a real server on this machine: what comes is the set, or one line and nothing stays."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest

from harness import DataError, downloads
from harness.data import Data
from harness.planning.registry import load_registry
from tests.conftest import Cli

PAGE = b"<!DOCTYPE html>\n<html><body>Please log in</body></html>"

PLUGIN = dedent("""
    import urllib.request
    import numpy as np
    from harness import Arrays, DataError, Dataset

    class Served(Dataset):
        \"\"\"A set that a server has.\"\"\"

        name = "served"
        input_shape = (1, 2, 2)
        classes = ("a", "b")
        available = 40
        train: int = 20
        holdout: int = 10
        source: int = 0
        target: int = 1

        def fetch(self, root):
            (root / "served").mkdir()
            urllib.request.urlretrieve("URL/served.npz", root / "served" / "served.npz")

        def load(self, root):
            path = root / "served" / "served.npz"
            if not path.is_file():
                raise DataError(f"served: no {path}")
            with path.open("rb") as opened, np.load(opened) as file:
                return Arrays(file["x"], file["y"], file["x"], file["y"])
""")


def whole() -> bytes:
    content = io.BytesIO()
    np.savez(content, x=np.arange(160, dtype=np.uint8).reshape(40, 1, 2, 2), y=np.arange(40) % 2)
    return content.getvalue()


Answer = Callable[[BaseHTTPRequestHandler], None]


def send(handler: BaseHTTPRequestHandler, content: bytes, length: int | None = None, status: int = 200) -> None:
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(content) if length is None else length))
    handler.end_headers()
    handler.wfile.write(content)


def silence(handler: BaseHTTPRequestHandler) -> None:
    send(handler, whole()[:100], 10_000)
    handler.wfile.flush()
    time.sleep(1.5)


ANSWERS: dict[str, tuple[Answer, str]] = {
    "page": (lambda handler: send(handler, PAGE), "(instead of served.npz came a web page: a proxy's login, perhaps)"),
    "cut": (lambda handler: send(handler, whole()[:-50], len(whole())), "retrieval incomplete"),
    "short": (lambda handler: send(handler, whole()[:-50]), "served: load: BadZipFile"),
    "empty": (lambda handler: send(handler, b""), "served: load: EOFError"),
    "missing": (lambda handler: send(handler, b"no", status=404), "HTTP Error 404"),
    "silence": (silence, "timed out"),
}


class Server:
    """A server, and its answer."""

    def __init__(self) -> None:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.answer(self)

            def do_HEAD(self) -> None:
                send(self, b"")

            def log_message(self, *given: object) -> None:
                pass

        self.answer: Answer = lambda handler: send(handler, whole())
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(downloads, "SILENCE", 0.5)
    server = Server()
    yield server
    server.http.shutdown(), server.http.server_close()


@pytest.fixture
def fetch(server: Server, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """``harness data fetch served``, into the folder ``cache`` as a user's own; what it says."""
    monkeypatch.delenv("HARNESS_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "served.py").write_text(PLUGIN.replace("URL", server.url))

    def run(code: int) -> str:
        said = cli("data", "fetch", "served", "--plugins", tmp_path / "plugins", code=code)
        return said.out if code == 0 else said.err

    return run


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.slow
@pytest.mark.parametrize("which", ANSWERS)
def test_what_is_not_the_set_is_one_line_and_leaves_nothing(
    which: str, fetch: Callable[..., str], server: Server, tmp_path: Path
) -> None:
    server.answer, message = ANSWERS[which]
    began = time.monotonic()
    said = fetch(2)
    assert said.startswith("harness: served") and said.count("\n") == 1 and time.monotonic() - began < 3
    assert message in said and said.endswith("to try again, type: harness data fetch served\n")
    assert ".partial" not in said and files(tmp_path / "cache") == []
    server.answer = lambda handler: send(handler, whole())
    assert "served: found in " in fetch(0) and len(files(tmp_path / "cache")) == 1
    assert "served: found in " in fetch(0)


def test_a_damaged_file_is_replaced_and_other_files_stay(
    fetch: Callable[..., str], server: Server, tmp_path: Path
) -> None:
    fetch(0)
    (found,) = files(tmp_path / "cache")
    found.with_name("mine.txt").write_text("mine")
    found.unlink()
    fetch(0)
    assert found.read_bytes()[:2] == b"PK" and found.with_name("mine.txt").read_text() == "mine"


def test_a_server_that_is_not_there_is_one_line_with_the_cause(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchvision

    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", ["http://127.0.0.1:9/a/", "http://127.0.0.1:9/b/"])
    with pytest.raises(DataError) as caught:
        Data(tmp_path, download=True).arrays(load_registry().component("dataset", "mnist").plugin)
    assert str(caught.value).startswith(
        "mnist cannot be downloaded (Error downloading train-images-idx3-ubyte.gz: <urlopen error "
    )


def test_the_timeout_of_the_process_is_put_back(fetch: Callable[..., str]) -> None:
    import socket

    before = socket.getdefaulttimeout()
    fetch(0)
    assert socket.getdefaulttimeout() == before


def test_a_folder_that_cannot_be_written_is_one_line(
    fetch: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    said = fetch(2)
    assert said.startswith(f"harness: served cannot be written below {tmp_path / 'file'}") and said.count("\n") == 1
    assert "--data DIR" in said


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "svhn", "cifar-10", "speech-commands"])
def test_the_libraries_downloads_end_in_one_line(
    name: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchaudio
    import torchvision

    server.answer = lambda handler: send(handler, PAGE)
    for cls in (torchvision.datasets.MNIST, torchvision.datasets.FashionMNIST):
        monkeypatch.setattr(cls, "mirrors", [f"{server.url}/"])
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", f"{server.url}/cifar.tar.gz")
    lists = {part: [f"{server.url}/x.mat", *rest] for part, (_, *rest) in torchvision.datasets.SVHN.split_list.items()}
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", lists)
    speech = torchaudio.datasets.SPEECHCOMMANDS
    monkeypatch.setattr(
        torchaudio.datasets, "SPEECHCOMMANDS", lambda root, **given: speech(root, url=f"{server.url}/s.tar.gz", **given)
    )
    plugin = load_registry().component("dataset", name).plugin
    with pytest.raises(DataError) as caught:
        Data(tmp_path / "cache", download=True).arrays(plugin)
    message = str(caught.value)
    assert message.startswith(f"{name} cannot be downloaded (") and "\n" not in message
    assert (
        message.endswith(f"harness data fetch {name}") and "came a web page" in message
    ) or name == "speech-commands"
    assert files(tmp_path / "cache") == []
