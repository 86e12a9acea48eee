"""A site is built: records are checked and read, pages written, and the folder put in place as a whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import UsageError
from harness.files import partial_path, temporary_folder
from harness.report import draw
from harness.site import pages
from harness.site.accepted import Accepted, Demands, objections, read
from harness.storage.files import refuse_links, refuse_record
from harness.text import printable

if TYPE_CHECKING:
    from harness.report import Page

MARK = "site.json"
"""The file by which a folder is known as a site: its files, and the keys of records that were accepted."""


@dataclass(frozen=True)
class Built:
    """Numbers of a site that was built, and the records that it lacks."""

    pages: int
    accepted: int
    refused: list[str]
    """A line for each record that was refused."""


def build(folders: Sequence[Path], output: Path, demands: Demands) -> Built:
    """Write the site of the records into ``output``, in place of an older site.

    With no record that is accepted nothing is written. Raises :class:`UsageError` for folders that cannot be used.
    """
    known, old = _known(output)
    _check_names(folders)
    accepted, refused = [], []
    for folder in folders:
        if found := objections(folder, demands, known):
            more = f"; and {len(found) - 1} more" if len(found) > 1 else ""
            refused.append(f"{folder} is refused: {printable(found[0])}{more}")
        else:
            accepted.append(read(folder))
    if not accepted:
        return Built(0, 0, refused)
    with temporary_folder(output) as partial:
        count = _write(partial, accepted, demands)
        written = sorted(path.relative_to(partial).as_posix() for path in partial.rglob("*") if path.is_file())
        (partial / MARK).write_text(json.dumps({"accepted": sorted(known), "files": written}), "utf-8")
        _put(partial, output, old)
    return Built(count, len(accepted), refused)


def _check_names(folders: Sequence[Path]) -> None:
    """Raise :class:`UsageError` where two records have one name, by which their pages are named."""
    seen: dict[str, Path] = {}
    for folder in folders:
        other = seen.setdefault(name := folder.absolute().name, folder)
        if other is not folder:
            raise UsageError(f"two records are called {name!r}: {other} and {folder}; give one another name")


def _known(output: Path) -> tuple[set[str], set[str]]:
    """Keys of accepted records, and the files, of an older site. Raises :class:`UsageError` for what is not one."""
    refuse_links(output)
    refuse_record(output)
    if not output.exists():
        return set(), set()
    if output.is_dir() and not any(output.iterdir()):
        return set(), set()
    try:
        told = json.loads((output / MARK).read_bytes())
        return set(told["accepted"]), {*told["files"], MARK}
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(f"{output} is there already, and is not a site: choose another --output") from None


def _write(site: Path, accepted: list[Accepted], demands: Demands) -> int:
    """Write all pages, copy the records' own, and return the number of pages."""
    count = 0
    for path, page in _pages(accepted, demands):
        place = site / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(draw(page), "utf-8")
        count += 1
    for record in accepted:
        for name in pages.COPIED:
            shutil.copyfile(record.folder / name, site / _folder(record) / name)
    return count


def _pages(accepted: list[Accepted], demands: Demands) -> Iterator[tuple[str, Page]]:
    newest = sorted(accepted, key=lambda record: (str(record.about["recorded_at"]), record.name), reverse=True)
    site = pages.Site(newest, demands.registry)
    yield "index.html", pages.index(site)
    for record in newest:
        yield f"{_folder(record)}/index.html", pages.record_page(record, site)
    for name, standings in site.schemes.items():
        yield f"schemes/{pages.file_name(name)}.html", pages.scheme_page(name, standings, site)
    for name, results in site.attacks.items():
        yield f"attacks/{pages.file_name(name)}.html", pages.attack_page(name, results, site)


def _folder(record: Accepted) -> str:
    return f"records/{pages.file_name(record.name)}"


def _put(partial: Path, output: Path, old: set[str]) -> None:
    """Put the new site into the place of the older one, which goes. Raises :class:`UsageError` where somebody else's
    file would go with it."""
    if not old:
        partial.replace(output)
        return
    there = sorted(path.relative_to(output).as_posix() for path in output.rglob("*") if not path.is_dir())
    if other := [name for name in there if name not in old]:
        raise UsageError(
            f"{output / other[0]} is not of the site, and would go with the older one: move it, or choose another "
            "--output"
        )
    aside = partial_path(output)
    output.rename(aside)
    partial.replace(output)
    shutil.rmtree(aside)
