"""The state of the source that this harness runs from."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from functools import cache
from pathlib import Path


@cache
def commit() -> str | None:
    """The commit of the checkout that this package is in, with a ``+`` where its files have been edited since; ``None``
    where it is in none.

    Read once per process: imported modules do not change.
    """
    here = ["git", "-C", str(Path(__file__).parent)]
    with suppress(OSError):
        tracked = subprocess.run([*here, "ls-files", "--error-unmatch", __file__], capture_output=True, check=False)
        found = subprocess.run([*here, "rev-parse", "HEAD"], capture_output=True, encoding="utf-8", check=False)
        if tracked.returncode == found.returncode == 0:
            edited = subprocess.run([*here, "diff", "--quiet", "HEAD", "--", "."], capture_output=True, check=False)
            return found.stdout.strip() + "+" * bool(edited.returncode)
    return None
