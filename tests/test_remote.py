"""Results at a URL: two machines are two mirrors, each in a user cache of its own."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pandas as pd
import pytest
import torch
from fsspec.implementations.local import LocalFileSystem

import harness
from harness.errors import ResultsError
from harness.files import partial_path
from harness.storage import mirror, remote
from harness.storage.mirror import Remote
from harness.storage.remote import RemoteStore, RemoteTables, open_results
from harness.storage.store import Store
from harness.storage.tables import Tables
from tests.conftest import Cli, command_line
from tests.test_session import arguments, measured, ran

On = Callable[[str], None]
IDS = [f"{i:032x}" for i in range(100)]


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> On:
    """Go to a machine: ``on("a")``."""
    return lambda machine: monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"machine-{machine}"))


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """The remote folder, behind a ``file://``."""
    return tmp_path / "there"


@pytest.fixture
def url(there: Path, on: On) -> str:
    on("a")
    return there.as_uri()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run into a plain folder leaves."""
    folder = tmp_path_factory.mktemp("plain") / "results"
    assert command_line("run", *arguments(folder, "none", "pruning"), "--quiet") == 0
    return folder


class Flaky(LocalFileSystem):
    """Fails now and then, or at all that it is told."""

    protocol = "flaky"
    down: ClassVar[set[str]] = set()
    """The methods that fail each time."""
    calls: ClassVar[list[str]] = []

    def _fail(self, what: str) -> None:
        self.calls.append(what)
        if what in self.down or len(self.calls) % 3 == 0:
            raise OSError("the cable was pulled")

    def put_file(self, *args: Any, **options: Any) -> None:
        self._fail("put")
        super().put_file(*args, **options)

    def get_file(self, *args: Any, **options: Any) -> None:
        self._fail("get")
        super().get_file(*args, **options)

    def ls(self, path: str, *args: Any, **options: Any) -> Any:
        if path.endswith("artifacts"):
            self._fail("list")
        return super().ls(path, *args, **options)


@pytest.fixture
def flaky(there: Path, on: On, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    fsspec.register_implementation("flaky", Flaky, clobber=True)
    monkeypatch.setattr(mirror, "PAUSES", (0.0, 0.0))
    monkeypatch.setattr(Flaky, "down", set())
    on("a")
    yield f"flaky://{there}"
    Flaky.calls.clear()


def chosen(url: str, *attacks: str) -> list[object]:
    return [*arguments(Path(), *attacks)[:-1], url]


def opened(url: str) -> tuple[RemoteStore, RemoteTables]:
    store, tables = open_results(url)
    assert isinstance(store, RemoteStore) and isinstance(tables, RemoteTables)
    return store, tables


def assert_same(one: Path, other: Path) -> None:
    """Two results folders hold the same artifacts and the same rows."""
    assert Store(one).ids() == Store(other).ids()
    for table in ("cells", "evidence", "measurements", "curves", "stages"):
        pd.testing.assert_frame_equal(measured(one, table), measured(other, table))


def partials(there: Path) -> list[Path]:
    return [*there.glob("partial/*"), *there.rglob(".*")]


# --- two machines ---


@pytest.mark.slow
def test_one_machine_runs_and_another_reads_exports_and_goes_on(
    url: str, there: Path, plain: Path, on: On, cli: Cli, tmp_path: Path
) -> None:
    first = cli("run", *chosen(url, "none"), code=0)
    assert f"next: harness leaderboard --results {url}" in first.out
    on("b")
    assert json.loads(cli("leaderboard", "--results", url, "--format", "json", code=0).out)
    assert "1 done" in cli("status", *chosen(url, "none"), code=0).out
    cell = harness.read_table(there, "cells")["cell"][0]
    cli("export", cell, tmp_path / "out", "--results", url, code=0)
    assert not harness.load_model(tmp_path / "out" / "victim.safetensors").training
    rest = cli("run", *chosen(url, "none", "pruning"), code=0)
    assert ran(first.out) + ran(rest.out) == len(Store(plain).ids())
    on("a")
    assert cli("run", *chosen(url, "none", "pruning"), code=0).out.startswith("nothing to do")
    assert_same(there, plain)
    assert not partials(there)


@pytest.mark.slow
@pytest.mark.usefixtures("warm_workers")
def test_worker_processes_share_a_url(url: str, there: Path, plain: Path, cli: Cli) -> None:
    cli("run", *chosen(url, "none", "pruning"), "--jobs", "2", "--profile", code=0)
    assert_same(there, plain)
    assert len(list((there / "profiles").iterdir())) == len(Store(plain).ids())
    assert not partials(there)


def test_a_file_system_in_memory(plain: Path, on: On, cli: Cli, tmp_path: Path) -> None:
    url = "memory://bucket/results"
    fs = fsspec.filesystem("memory")
    try:
        on("a")
        cli("run", *chosen(url, "none", "pruning"), code=0)
        fs.get(url, str(tmp_path / "copy"), recursive=True)
        assert_same(tmp_path / "copy", plain)
        on("b")
        assert cli("run", *chosen(url, "none", "pruning"), code=0).out.startswith("nothing to do")
        assert json.loads(cli("leaderboard", "--results", url, "--format", "json", code=0).out)
    finally:
        fs.rm("memory://bucket", recursive=True)


def test_a_record_of_a_failure_is_asked_for_again(url: str, on: On) -> None:
    here, _ = opened(url)
    here.prepare()
    here.save(IDS[0], {"status": "failed", "n": 1})
    on("b")
    other, _ = opened(url)
    assert other.record(IDS[0]) == {"status": "failed", "n": 1}
    other.prepare()
    other.save(IDS[0], {"status": "ok", "n": 2}, {"x": torch.ones(2)})
    on("a")
    assert (here.record(IDS[0]) or {})["status"] == "ok"
    assert here.load(IDS[0]).tensors["x"].tolist() == [1, 1]


def test_what_is_deleted_there_goes_here_and_is_not_uploaded_again(url: str, there: Path, on: On) -> None:
    here, _ = opened(url)
    here.prepare()
    for id in IDS[:3]:
        here.save(id, {"status": "ok"}, {"x": torch.ones(2)})
    on("b")
    other, _ = opened(url)
    assert other.ids() == set(IDS[:3])
    other.discard(IDS[:1])
    assert Store(there).ids() == set(IDS[1:3])
    on("a")
    again, _ = opened(url)
    again.prepare()
    again.flush()
    assert again.ids() == Store(there).ids() == set(IDS[1:3])
    assert again.record(IDS[0]) is None


def test_gc_deletes_there_what_a_killed_upload_left(
    url: str, there: Path, on: On, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    on("a")
    cli("run", *chosen(url, "none"), code=0)
    left = partial_path(there / "partial" / "record.json")
    left.parent.mkdir(exist_ok=True)
    left.touch()
    (there / "partial" / "mine.txt").touch()
    assert "unfinished" not in cli("gc", "--results", url, "--delete", code=0).out and left.exists()
    for path in (left, left.with_name("mine.txt")):
        os.utime(path, (1e9, 1e9))
    assert "1 unfinished uploads in" in cli("gc", "--results", url, code=0).out and left.exists()
    cli("gc", "--results", url, "--delete", code=0)
    assert not left.exists() and (there / "partial" / "mine.txt").exists()


def test_gc_deletes_there_too(url: str, there: Path, on: On, cli: Cli) -> None:
    store, _ = opened(url)
    store.prepare()
    cli("run", *chosen(url, "none"), code=0)
    for table in (there / "tables").iterdir():
        for part in table.iterdir():
            part.unlink()
    on("b")
    narrow = ["--matrix", "smoke", "--seeds", "7", "--results", url, "--delete"]
    assert "deleted" in cli("gc", *narrow, code=0).out
    assert not Store(there).ids()


def test_records_are_fetched_by_the_dozen(flaky: str, there: Path, on: On) -> None:
    store = Store(there)
    store.prepare()
    for id in IDS:
        store.save(id, {"status": "ok", "id": id})
    mirrored, _ = opened(flaky)
    mirrored.remote.fs.get = lambda there, here: (counts.append(len(there)), LocalFileSystem().get(there, here))
    counts: list[int] = []
    assert mirrored.ids() == set(IDS)
    assert [(mirrored.record(id) or {})["id"] for id in IDS] == IDS
    assert len(counts) == 2 and sum(counts) == len(IDS)


# --- connections that are lost ---


def test_a_file_system_that_fails_now_and_then(flaky: str, there: Path, plain: Path, on: On, cli: Cli) -> None:
    done = cli("run", *chosen(flaky, "none", "pruning"), "--quiet", code=0)
    assert "warning" not in done.err and len(Flaky.calls) > 20
    assert_same(there, plain)
    on("b")
    assert cli("run", *chosen(flaky, "none", "pruning"), code=0).out.startswith("nothing to do")
    assert not partials(there)


def test_what_a_lost_connection_kept_here_the_next_run_uploads(
    flaky: str, there: Path, plain: Path, on: On, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare = RemoteStore.prepare

    def pull_the_cable(store: RemoteStore) -> None:
        prepare(store)
        Flaky.down |= {"put", "get"}

    with monkeypatch.context() as patch:
        patch.setattr(RemoteStore, "prepare", pull_the_cable)
        done = cli("run", *chosen(flaky, "none", "pruning"), "--quiet", code=0)
    assert done.err.count("warning: cannot reach") == 1 and "the cable was pulled" in done.err
    assert "the next run there uploads them" in done.err
    assert not Store(there).ids()
    Flaky.down.clear()
    # Somebody else meanwhile looks, and sees nothing that is torn.
    on("b")
    assert opened(flaky)[0].ids() == set()
    on("a")
    # Its rows are here, so that nothing is left to do but to upload.
    assert cli("run", *chosen(flaky, "none", "pruning"), code=0).out.startswith("nothing to do")
    assert_same(there, plain)


def test_what_a_killed_process_did_not_upload_the_next_run_does(
    url: str, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(remote: Remote, name: str) -> bool:
        raise KeyboardInterrupt

    store, _ = opened(url)
    store.prepare()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Remote, "send_one", killed)
        store.save(IDS[0], {"status": "ok"}, {"x": torch.ones(2)})
    again, _ = opened(url)
    assert again.ids() == {IDS[0]} and Store(there).ids() == set()
    again.prepare()
    assert Store(there).load(IDS[0]).tensors["x"].tolist() == [1, 1]
    assert not again.remote.marked()


def test_a_listing_that_fails_is_an_error_and_empties_nothing(flaky: str, cli: Cli) -> None:
    store, _ = opened(flaky)
    store.prepare()
    store.save(IDS[0], {"status": "ok"})
    Flaky.down.add("list")
    with pytest.raises(ResultsError, match="cannot read flaky://.*the cable was pulled"):
        store.ids()
    assert Store(store.results).ids() == {IDS[0]}
    ended = cli("plan", "--matrix", "smoke", "--results", flaky, code=2)
    assert ended.err.startswith("harness: cannot read") and ended.err.count("\n") == 1


def test_cells_are_uploaded_last(flaky: str, there: Path) -> None:
    _, tables = opened(flaky)
    Flaky.down.add("put")
    for table in ("stages", "cells"):
        tables.append(table, "20260101T000000-abcdef", [{"stage": IDS[0], "cell": IDS[0]}])
    assert tables.remote.marked("tables/") and not (there / "tables").exists()
    assert [name.split("/")[1] for name in sorted(tables.remote.marked(), key=mirror._turn)] == ["stages", "cells"]
    Flaky.down.clear()
    tables.remote.flush()
    assert not tables.remote.marked()
    assert Tables(there).read("stages")["stage"].tolist() == [IDS[0]]


# --- what is damaged there, or a stranger's ---


def test_a_damaged_artifact_is_computed_again_and_replaced(
    url: str, there: Path, plain: Path, on: On, cli: Cli
) -> None:
    cli("run", *chosen(url, "none"), code=0)
    before = {id: Store(there).load(id) for id in Store(there).ids()}
    (victim,) = (id for id, artifact in before.items() if artifact.record["action"] == "embed")
    path = Store(there).path(victim) / "tensors.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    on("b")
    done = cli("run", *chosen(url, "none", "pruning"), code=0)
    assert ran(done.out) < len(Store(plain).ids())
    again = Store(there).load(victim)
    assert all(torch.equal(tensor, again.tensors[name]) for name, tensor in before[victim].tensors.items())
    assert_same(there, plain)


def test_a_damaged_copy_here_is_fetched_again(url: str) -> None:
    store, _ = opened(url)
    store.prepare()
    store.save(IDS[0], {"status": "ok", "n": 1}, {"x": torch.ones(2)})
    for file in store.path(IDS[0]).iterdir():
        file.write_bytes(b"\0" * file.stat().st_size)
        assert store.load(IDS[0]).tensors["x"].tolist() == [1, 1]
    assert store.record(IDS[0]) == Store(Path(store.address.removeprefix("file://"))).record(IDS[0])


def test_torn_tables_are_set_aside_there_too(url: str, there: Path, plain: Path, on: On, cli: Cli) -> None:
    cli("run", *chosen(url, "none", "pruning"), code=0)
    (part,) = (there / "tables" / "stages").iterdir()
    part.write_bytes(part.read_bytes()[:-20])
    on("b")
    ended = cli("leaderboard", "--results", url, code=2)
    assert f"delete {url}/tables, and" in ended.err
    done = cli("run", *chosen(url, "none", "pruning"), code=0)
    assert ran(done.out) == 0 and "is set aside" in done.err
    assert [path.name for path in part.parent.glob(".*")] == [f".{part.name}.aside"]
    assert_same(there, plain)


def test_names_that_no_harness_gives_are_not_taken(url: str, there: Path, tmp_path: Path) -> None:
    name = f"artifacts/{IDS[7][:2]}/{IDS[7]}"
    bad = [
        *(f"artifacts/../{IDS[1]}/record.json", f"artifacts/00/../{IDS[1]}/record.json", f"{name}/../record.json"),
        *(f"artifacts/ff/{IDS[1]}/record.json", f"{name}/evil.py", f"{name}/record.json/..", f"{name}\n/record.json"),
        *(
            "tables/cells/../../x.parquet",
            "tables/cells/..\\x.parquet",
            "tables/cells/.x.parquet",
            "tables/x/a.parquet",
        ),
        *("tables/cells/a\0.parquet", f"tables/cells/{'a' * 300}.parquet", "tables/cells/a.parquet\n", "../x", "/x"),
    ]
    good = [f"{name}/record.json", "tables/cells/20260101T000000-abcdef-0000.parquet"]
    stranger = Remote(url)
    made = {f"{stranger.root}/{each}": {"size": 1, "type": "file", "mtime": 0.0} for each in [*bad, *good]}
    stranger.fs = fsspec.filesystem("file", skip_instance_cache=True)
    stranger.fs.find = lambda path, **options: made
    assert list(stranger.listing("artifacts")) == good


def test_links_there_are_not_followed(url: str, there: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("{}")
    shelf = there / "artifacts" / IDS[0][:2]
    (shelf / IDS[0]).mkdir(parents=True)
    (shelf / IDS[0] / "record.json").symlink_to(tmp_path / "secret")
    (shelf / IDS[1]).symlink_to(tmp_path)
    store, _ = opened(url)
    assert store.ids() == set()
    assert store.record(IDS[0]) is None
    assert not list(store.results.rglob("record.json"))


def test_a_record_that_is_too_large_is_not_fetched(url: str, there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Store(there).prepare()
    Store(there).save(IDS[0], {"status": "ok", "text": "x" * 1000})
    monkeypatch.setattr(remote, "MAX_RECORD", 999)
    store, _ = opened(url)
    for _ in store.ids():
        with pytest.raises(harness.HarnessError, match="larger than 999 bytes"):
            store.record(IDS[0])
    assert not store.path(IDS[0]).exists()


# --- words ---


@pytest.mark.parametrize(
    ("url", "missing", "says"),
    [
        ("s3://bucket/x", "fsspec", "pip install 'watermark-harness[remote]'"),
        ("s3://bucket/x", "s3fs", "results at 's3://bucket/x' need a package that is not here: pip install s3fs"),
        ("gs://bucket/x", "gcsfs", "pip install gcsfs"),
        ("frob://bucket/x", "", "unknown protocol in --results 'frob://bucket/x': expected s3://"),
        ("memory://", "", "names no folder"),
    ],
)
def test_a_url_that_cannot_be_opened_is_one_line(
    url: str, missing: str, says: str, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    if missing:
        monkeypatch.setitem(sys.modules, missing, None)
    for command in (
        ["run", "--matrix", "smoke"],
        ["leaderboard"],
        ["status"],
        ["gc"],
        ["export", "x", "y"],
        ["doctor"],
    ):
        ended = cli(*command, "--results", url, code=2)
        assert says in ended.err and ended.err.count("\n") == 1


def test_another_format_there_is_one_line_and_can_be_mended(url: str, there: Path, cli: Cli) -> None:
    there.mkdir()
    (there / "format.json").write_text('{"format": 99}')
    ended = cli("leaderboard", "--results", url, code=2)
    assert f"{url!r} has results of format 99" in ended.err and ended.err.count("\n") == 1
    (there / "format.json").unlink()
    assert "no results yet" in cli("leaderboard", "--results", url, code=2).err


def test_where_nothing_can_be_written_nothing_is_run(flaky: str, cli: Cli) -> None:
    Flaky.down.add("put")
    ended = cli("run", *chosen(flaky, "none"), code=2)
    assert ended.err.splitlines()[-1].startswith(f"harness: cannot write to {flaky}: the cable was pulled")


def test_a_plain_folder_needs_no_fsspec(process: Cli, tmp_path: Path) -> None:
    import subprocess

    code = (
        "import sys; from harness.storage.remote import open_results; open_results('x'); print('fsspec' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout == "False\n"
