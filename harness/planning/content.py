"""The content of data sets as a part of what addresses a stage: planning reads the files of a user's own sets.

A set that says ``published`` refuses any other content, so nothing of it is loaded here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from harness.contracts import InputSet, is_published
from harness.errors import BrokenDataset, DataError, UsageError

if TYPE_CHECKING:
    from harness.data import Data
    from harness.planning.graph import Component


@dataclass
class Contents:
    """Digests of data sets, by their text. The run uses the arrays that were loaded for them."""

    folder: Path | None
    """The folder of data sets that ``--data`` names."""
    before: Callable[[str], str]
    """The content of the latest stored results of a data set, by its text; empty where none is known."""
    warn: Callable[[str], None]
    fetch: bool = False
    """True to download missing sets into the per-user cache."""
    known: dict[str, str] = field(default_factory=dict)
    """Contents that are in ids, by the data set's text."""

    @cached_property
    def data(self) -> Data:
        """The data sets of the folder. Raises :class:`DataError` where a named folder does not exist."""
        from harness.data import Data, data_folder

        folder, is_cache = data_folder(self.folder)
        return Data(folder, is_cache and self.fetch, self.warn)

    def of(self, text: str, dataset: InputSet) -> str:
        """The digest of a set's content, 32 hexadecimal digits; empty for a published set, and where it is not known.

        Where the files are not here, it is that of the latest results; of a set that is broken it is not known.
        """
        if is_published(type(dataset)):
            return ""
        try:
            content = self.data.content(dataset)
        except BrokenDataset as error:
            content = ""
            self.warn(f"{error}: its cells fail")
        except DataError as error:
            content = self.before(text)
            how = f"with the content of its latest results, {content[:8]}" if content else "without its content"
            self.warn(f"{error}: planned {how}")
        self.known[text] = content
        return content


def refuse_twice(datasets: Sequence[Component]) -> None:
    """Raise :class:`harness.UsageError` for two names of one data set: its stages are the same, and have one name."""
    known: dict[tuple[str, str], Component] = {}
    for use in datasets:
        other = known.setdefault((use.identity, use.digest), use)
        if other is not use:
            raise UsageError(f"{other} and {use} are the same data set: name one of them")
