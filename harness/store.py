"""Artifacts by stage id: ``artifacts/<2>/<id>/record.json`` and ``tensors.safetensors``. No pickle.

Written whole or not at all (into a folder of another name, then renamed), checksummed on read. A damaged artifact
raises :class:`harness.errors.DamagedArtifact`, and is computed again.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import DamagedArtifact, ResultsError

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1
_ID = frozenset("0123456789abcdef")


@dataclass(frozen=True)
class Artifact:
    """What a stage left: a record (JSON) and tensors by name, on the CPU."""

    record: dict[str, Any]
    tensors: dict[str, Tensor] = field(default_factory=dict)


class Store:
    """The artifacts of one results folder."""

    def __init__(self, results: Path) -> None:
        self.results = results
        self.folder = results / "artifacts"

    def prepare(self) -> None:
        """Make the folder, and check that it can be written and is of this format. Raises :class:`ResultsError`."""
        marker = self.results / "format.json"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not marker.exists():
                # Whole or not at all: another process may start in the same folder.
                partial = marker.with_name(f"{marker.name}.{uuid.uuid4().hex[:8]}.partial")
                partial.write_text(json.dumps({"format": FORMAT}), "utf-8")
                partial.replace(marker)
            probe = self.folder / f".probe-{uuid.uuid4().hex}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise ResultsError(
                f"cannot write to the results folder {str(self.results)!r}: {error.strerror}; "
                "choose another with --results"
            ) from error
        self.check_format()

    def check_format(self) -> None:
        """Raise :class:`ResultsError` when the folder was written by a harness of another format."""
        marker = self.results / "format.json"
        try:
            found = json.loads(marker.read_text("utf-8"))["format"] if marker.exists() else FORMAT
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ResultsError(f"{marker} is damaged: delete it, or choose another folder with --results") from error
        if found != FORMAT:
            raise ResultsError(
                f"{str(self.results)!r} has results of format {found}, this harness writes {FORMAT}: "
                "choose another with --results"
            )

    def ids(self) -> set[str]:
        """The ids of all artifacts, ok or failed, without reading them."""
        if not self.folder.is_dir():
            return set()
        shelves = [entry.path for entry in os.scandir(self.folder) if len(entry.name) == 2 and entry.is_dir()]
        return {entry.name for shelf in shelves for entry in os.scandir(shelf) if _is_id(entry.name)}

    def path(self, id: str) -> Path:
        """The folder of an artifact. Raises :class:`ResultsError` for anything that is no id."""
        if not _is_id(id):
            raise ResultsError(f"{id!r} is no artifact id")
        return self.folder / id[:2] / id

    def save(self, id: str, record: Mapping[str, Any], tensors: Mapping[str, Tensor] | None = None) -> None:
        """Store an artifact, in place of one of the same id if there is."""
        path = self.path(id)
        partial = path.with_name(f".{id}.{uuid.uuid4().hex[:8]}")
        partial.mkdir(parents=True)
        try:
            body = dict(record)
            if tensors:
                body["tensors_sha256"] = _save_tensors(partial / "tensors.safetensors", tensors)
            # Compact: json's indenting encoder is written in Python, and a matrix has thousands of records.
            text = _sealed(json.dumps(plain(body), sort_keys=True, allow_nan=False))
            (partial / "record.json").write_bytes(text.encode())
            if path.exists():
                shutil.rmtree(path)
            partial.replace(path)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise

    def record(self, id: str) -> dict[str, Any] | None:
        """The record of an artifact; ``None`` if there is none. Raises :class:`DamagedArtifact`."""
        path = self.path(id) / "record.json"
        try:
            text = path.read_bytes().decode()  # as bytes: reading as text would mend a damaged line end
        except (FileNotFoundError, NotADirectoryError):
            if self.path(id).exists():
                raise DamagedArtifact(f"{self.path(id)} has no record.json") from None
            return None
        except UnicodeDecodeError as error:
            raise DamagedArtifact(f"{path}: the checksum does not hold") from error
        body = text[len(_sealed_head("")) : -len(_TAIL)]
        if text != _sealed(body):
            raise DamagedArtifact(f"{path}: the checksum does not hold")
        record: dict[str, Any] = json.loads(body)
        return record

    def load(self, id: str) -> Artifact:
        """The whole artifact. Raises :class:`DamagedArtifact` when a checksum does not hold or it is missing."""
        record = self.record(id)
        if record is None:
            raise DamagedArtifact(f"{self.path(id)} is missing")
        digest = record.get("tensors_sha256")
        return Artifact(record, _load_tensors(self.path(id) / "tensors.safetensors", digest) if digest else {})


def _is_id(name: str) -> bool:
    return len(name) == 32 and _ID.issuperset(name)


def plain(value: Any) -> Any:
    """``value`` with null for the numbers that JSON lacks, NaN and the infinities: a diverged loss, say."""
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

    # Cloned: safetensors refuses tensors that share memory, and two slices of one batch do.
    data = save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()})
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def _load_tensors(path: Path, digest: str) -> dict[str, Tensor]:
    from safetensors.torch import load

    try:
        data = path.read_bytes()
    except OSError as error:
        raise DamagedArtifact(f"{path}: {error.strerror}") from error
    if hashlib.sha256(data).hexdigest() != digest:
        raise DamagedArtifact(f"{path}: the checksum does not hold")
    loaded: dict[str, Tensor] = load(data)
    return loaded
