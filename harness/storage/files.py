"""Files and folders of results: what may be written where."""

from __future__ import annotations

from pathlib import Path

from harness.errors import ResultsError, UsageError


def refuse_links(*paths: Path) -> None:
    """Raise :class:`ResultsError` where one of ``paths`` is a link: what is written there would land elsewhere."""
    for path in paths:
        if path.is_symlink():
            raise ResultsError(
                f"{path} is a link, and only a results folder as a whole may be one: "
                "put what it leads to in its place, or choose another folder with --results"
            )


def is_record(folder: Path) -> bool:
    """True of a record: it holds the checksums of its own files."""
    return all((folder / name).exists() for name in ("manifest.json", "ids.json", "tables"))


def refuse_record(folder: Path) -> None:
    """Raise :class:`UsageError` where a folder is a record."""
    if is_record(folder):
        raise UsageError(
            f"{folder} is a record, and is never changed: name another folder with --results, "
            "or for a page a file elsewhere with --output"
        )
