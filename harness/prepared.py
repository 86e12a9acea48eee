"""Copies of what a data set is computed from its files once, in the per-user cache; checksums of arrays and files."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.errors import DataError, UsageError
from harness.files import user_path, whole_file

KEPT = 4
"""Copies kept of one name: versions of a set that are used in turn are not computed again each time."""
BLOCK = 2**20
"""Bytes of a file that are read at a time."""


def cache_folder() -> Path:
    """The per-user folder of downloads and prepared copies. Raises :class:`DataError` for a user without a home."""
    from platformdirs import user_cache_path

    try:
        return user_path(user_cache_path("watermark-harness"))
    except (RuntimeError, UsageError) as error:  # by the version of platformdirs
        raise DataError(
            "no home folder is known here, and so no cache of data: set HOME, or name a folder with --data"
        ) from error


def prepared(
    name: str, settings: object, files: Iterable[Path], make: Callable[[], Mapping[str, NDArray[np.generic]]]
) -> Mapping[str, NDArray[np.generic]]:
    """The arrays that ``make()`` computes from ``files``, computed once and kept in the per-user cache.

    The copy is addressed by ``settings`` (whose ``repr`` must say all that the result depends on beside the files: the
    parameters, the version of the code) and by the files' names and contents, wherever they are. It carries its own
    checksum: a damaged one is made again. The latest :data:`KEPT` copies of a ``name`` are kept; none where the cache
    cannot be written. Raises :class:`DataError` for a file that cannot be read.
    """
    from safetensors import SafetensorError

    digest = _digest(name, settings, files)
    try:
        path = _folder() / f"{name}-{digest}.safetensors"
    except DataError:  # no home folder
        return make()
    kept = _read_prepared(path)
    if kept is not None:
        with suppress(OSError):
            _note_use(path)
        return kept
    arrays = make()
    try:
        _write_prepared(path, arrays)
        _note_use(path)
        _forget(path, name)
    except (OSError, SafetensorError):
        pass  # a full disk, a read-only home: it is made again the next time
    return arrays


def _folder() -> Path:
    return cache_folder() / "prepared"


def _note_use(path: Path) -> None:
    now = time.time_ns()  # finer than the times that the system gives files
    os.utime(path, ns=(now, now))


def _forget(latest: Path, name: str) -> None:
    """Delete all but the latest copies of a name."""
    copies = set(latest.parent.glob(f"{name}-{'[0-9a-f]' * 32}.safetensors")) - {latest}
    for other in sorted(copies, key=_last_used, reverse=True)[KEPT - 1 :]:
        other.unlink(missing_ok=True)


def _last_used(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:  # another process deleted it
        return 0


def _digest(name: str, settings: object, files: Iterable[Path]) -> str:
    """The address of a copy. Files count by their paths from the folder that holds them all, so a set may move."""
    paths = sorted(path.absolute() for path in files)
    above = Path(os.path.commonpath([path.parent for path in paths])) if paths else Path()
    digest = hashlib.sha256(repr(settings).encode(errors="backslashreplace"))
    for path in paths:
        try:
            content = file_digest(path)
        except OSError as error:
            raise DataError(f"{name}: {path} cannot be read ({error.strerror})") from error
        digest.update(b"%s\0%s\0" % (os.fsencode(path.relative_to(above).as_posix()), content.encode()))
    return digest.hexdigest()[:32]


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def checksum(arrays: Mapping[str, NDArray[np.generic]]) -> str:
    """SHA-256 over arrays sorted by name, 64 hexadecimal digits: for each ``"<name> <dtype> <shape>"``, its values."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _read_prepared(path: Path) -> Mapping[str, NDArray[np.generic]] | None:
    """The arrays of a copy; ``None`` where there is none, or it is damaged."""
    from safetensors import safe_open

    if not path.is_file():  # a pipe would be waited for
        return None
    try:
        with safe_open(path, framework="np") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
            expected = (file.metadata() or {}).get("sha256")
        return arrays if checksum(arrays) == expected else None
    except Exception:  # whatever safetensors and NumPy make of a file that is none of ours
        return None


def _write_prepared(path: Path, arrays: Mapping[str, NDArray[np.generic]]) -> None:
    from safetensors.numpy import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        save_file(
            {name: np.ascontiguousarray(array) for name, array in arrays.items()},
            partial,
            {"sha256": checksum(arrays)},
        )
