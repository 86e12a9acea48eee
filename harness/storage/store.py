"""Artifacts by stage id: ``artifacts/<2>/<id>/record.json`` and ``tensors.safetensors``. No pickle.

Written whole or not at all (into a folder of another name, then renamed), checksummed on read. A damaged artifact
raises :class:`harness.errors.DamagedArtifact`, and is computed again. So does what no harness would have written: a
results folder may be untrusted, and anybody can compute a checksum. No link in it is followed.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import reprlib
import shutil
import stat
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import DamagedArtifact, ResultsError
from harness.files import partial_path, whole_file, whole_folder
from harness.storage.files import refuse_links, refuse_record

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1
FOLDERS = ("artifacts", "tables", "figures", "profiles", "claims")
"""The folders in a results folder that are written to."""
MAX_RECORD = 2**26
"""Bytes of a record: as objects, several times as many."""
MAX_HEADER = 2**24
"""Bytes of a header of tensors, which are some hundred each."""
_ID = frozenset("0123456789abcdef")


@dataclass(frozen=True)
class Artifact:
    """The output of a stage: a record (JSON) and tensors by name, on the CPU."""

    record: dict[str, Any]
    tensors: dict[str, Tensor] = field(default_factory=dict)


class Store:
    """The artifacts of one results folder."""

    def __init__(self, results: Path) -> None:
        self.results = results.absolute()  # a plugin may change the working directory
        self.address = str(results)
        """The results folder or URL, as ``--results`` names it."""
        self.folder = self.results / "artifacts"
        self.profiles = self.results / "profiles"

    @property
    def location(self) -> str:
        """The text that opens it in another process: an absolute path or a URL."""
        return str(self.results)

    def prepare(self) -> None:
        """Make the folder, and check that it can be written and is of this format. Raises :class:`ResultsError`, and
        :class:`UsageError` where it is a record."""
        refuse_record(self.results)
        self.check_format()
        marker = self.results / "format.json"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not marker.exists():
                # Whole or not at all: another process may start in the same folder.
                with whole_file(marker) as partial, partial.open("w", encoding="utf-8") as file:
                    file.write(json.dumps({"format": FORMAT}))
                    file.flush()
                    os.fsync(file.fileno())  # no checksum would tell that a power cut tore it
            probe = partial_path(self.folder / "probe")
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise ResultsError(
                f"cannot write to the results folder {str(self.results)!r}: {error.strerror}; "
                "choose another with --results"
            ) from error
        self.check_format()  # again: another process may have started in the same folder

    def check_format(self) -> None:
        """Raise :class:`ResultsError` when the folder was written by a harness of another format, or has links in it.

        The folder itself may be a link. Those below artifacts and tables are found when these are read.
        """
        for folder in (self.results / name for name in FOLDERS):
            refuse_links(folder, *(Path(entry) for entry in _entries(folder) if entry.is_symlink()))
        marker = self.results / "format.json"
        try:
            found = json.loads(_read(marker, MAX_RECORD))["format"] if os.path.lexists(marker) else FORMAT
        except (DamagedArtifact, ValueError, KeyError, TypeError, RecursionError) as error:
            raise ResultsError(f"{marker} is damaged: delete it, or choose another folder with --results") from error
        if found != FORMAT:
            raise ResultsError(
                f"{str(self.results)!r} has results of format {reprlib.repr(found)}, this harness writes {FORMAT}: "
                "choose another with --results"
            )

    def ids(self) -> set[str]:
        """The ids of all artifacts, ok or failed, without reading them."""
        shelves = [Path(entry) for entry in _entries(self.folder) if len(entry.name) == 2]
        return {entry.name for shelf in shelves for entry in _entries(shelf) if _is_id(entry.name)}

    def path(self, id: str) -> Path:
        """The folder of an artifact. Raises :class:`ResultsError` for anything that is no id."""
        if not _is_id(id):
            raise ResultsError(f"{id!r} is no artifact id")
        return self.folder / f"{id[:2]}/{id}"

    def save(self, id: str, record: Mapping[str, Any], tensors: Mapping[str, Tensor] | None = None) -> None:
        """Store an artifact, in place of what is there of its id. Raises :class:`ResultsError` when that cannot be."""
        path = self.path(id)
        refuse_links(self.folder, path.parent)
        try:
            with whole_folder(path) as partial:
                body = dict(record)
                if tensors:
                    body["tensors_sha256"] = _save_tensors(partial / "tensors.safetensors", tensors)
                (partial / "record.json").write_bytes(_sealed(_as_json(body)).encode())
                _remove(path)
        except OSError as error:
            raise ResultsError(f"cannot write {str(path)!r}: {error.strerror}") from error

    def record(self, id: str) -> dict[str, Any] | None:
        """The record of an artifact; ``None`` if there is none. Raises :class:`DamagedArtifact`."""
        folder = self._unlinked(id)
        if not folder.exists():
            return None
        path = folder / "record.json"
        try:
            text = _read(path, MAX_RECORD).decode()  # as bytes: reading as text would mend a damaged line end
        except UnicodeDecodeError as error:
            raise DamagedArtifact(f"{path}: the checksum does not hold") from error
        body = text[len(_sealed_head("")) : -len(_TAIL)]
        if text != _sealed(body):
            raise DamagedArtifact(f"{path}: the checksum does not hold")
        try:
            record = json.loads(body, parse_constant=_no_json, object_pairs_hook=_no_twins)
        except (ValueError, RecursionError) as error:
            raise DamagedArtifact(f"{path} is no record: {error}") from error
        if not isinstance(record, dict):
            raise DamagedArtifact(f"{path} is no record: it is no object")
        return record

    def load(self, id: str) -> Artifact:
        """The whole artifact. Raises :class:`DamagedArtifact` when a checksum does not hold or it is missing."""
        record = self.record(id)
        if record is None:
            raise DamagedArtifact(f"{self.path(id)} is missing")
        digest = record.get("tensors_sha256")
        return Artifact(record, _load_tensors(self.path(id) / "tensors.safetensors", digest) if digest else {})

    def flush(self) -> None:
        """A run ended: have all that it left in place. Here it is; a subclass may have to upload some."""

    def unfinished(self, before: float) -> list[str]:
        """The names of uploads that were killed, older than ``before``. Here there are none."""
        return []

    def discard_unfinished(self, names: Iterable[str]) -> None:
        """Delete such uploads."""

    def discard(self, ids: Iterable[str]) -> None:
        """The folders of these artifacts were deleted. A subclass has copies elsewhere, which go too."""

    def _unlinked(self, id: str) -> Path:
        """The folder of an artifact. Raises :class:`DamagedArtifact` where a link leads there."""
        path = self.path(id)
        for part in (path.parent, path):
            if part.is_symlink():
                raise DamagedArtifact(f"{part} is a link")
        return path


def _as_json(body: Mapping[str, Any]) -> str:
    """The record as JSON. Compact: json's indenting encoder is written in Python, and a matrix has thousands."""
    try:
        return json.dumps(body, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError):  # a mapping that is no dict, or a number that JSON lacks: few records have one
        return json.dumps(plain(body), sort_keys=True, allow_nan=False)


def _is_id(name: str) -> bool:
    return len(name) == 32 and _ID.issuperset(name)


def plain(value: Any) -> Any:
    """``value`` with null for the numbers that JSON lacks, NaN and the infinities: a diverged loss, say."""
    if value is None or type(value) in (str, int, bool):  # nearly all: asking for an abstract class takes long
        return value
    if isinstance(value, Mapping):
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _sealed(body: str) -> str:
    """The record's JSON text within a JSON document that also holds its checksum."""
    return f"{_sealed_head(body)}{body}{_TAIL}"


def _sealed_head(body: str) -> str:
    return f'{{"sha256": "{hashlib.sha256(body.encode()).hexdigest()}", "record": '


_TAIL = "}\n"


def _save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> str:
    from safetensors.torch import save

    own = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    if len({tensor.untyped_storage().data_ptr() for tensor in own.values()}) < len(own):
        # safetensors refuses tensors that share memory, and two slices of one batch do.
        own = {name: tensor.clone() for name, tensor in own.items()}
    data = save(own)
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def _load_tensors(path: Path, digest: str) -> dict[str, Tensor]:
    import torch
    from safetensors.torch import load

    data = _read(path, sys.maxsize)
    if hashlib.sha256(data).hexdigest() != digest:
        raise DamagedArtifact(f"{path}: the checksum does not hold")
    if int.from_bytes(data[:8], "little") > MAX_HEADER:
        raise DamagedArtifact(f"{path}: the header is longer than {MAX_HEADER:,} bytes")
    try:
        # By name: safetensors gives them back in an order of chance, which a key's probes would take over.
        loaded: dict[str, Tensor] = dict(sorted(load(data).items()))
    except Exception as error:  # whatever safetensors and torch make of an untrusted header
        raise DamagedArtifact(f"{path} holds no tensors: {error}") from error
    for name, tensor in loaded.items():
        # To C++ a bool of any other byte is undefined.
        if tensor.dtype == torch.bool and bool((tensor.view(torch.uint8) > 1).any()):
            raise DamagedArtifact(f"{path}: {name} is neither true nor false")
    return loaded


# --- untrusted files -------------------------------------------------------------------------------------------------


def _read(path: Path, limit: int) -> bytes:
    """The bytes of a file. Raises :class:`DamagedArtifact` for more than ``limit``, for a link, a pipe and so on."""
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise DamagedArtifact(f"{path} is no plain file")
        if status.st_size > limit:
            raise DamagedArtifact(f"{path} is larger than {limit:,} bytes")
        return path.read_bytes()
    except OSError as error:
        raise DamagedArtifact(f"{path}: {error.strerror}") from error
    except MemoryError as error:
        raise DamagedArtifact(f"{path} does not fit into memory") from error


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """The entries of a folder; none where it is not a folder, or a link. Raises :class:`ResultsError`."""
    try:
        return [] if folder.is_symlink() else list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise ResultsError(f"cannot read {str(folder)!r}: {error.strerror}") from error


def _remove(path: Path) -> None:
    """Remove what is there; of a link the link alone."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


def _no_json(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return made
