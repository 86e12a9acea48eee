"""Hooks of `mkdocs build`: pages that stand elsewhere in the repository, and links to them."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
ELSEWHERE = {
    "plugins.md": "plugins/README.md",
    "tables.md": "results/README.md",
    "leaderboard.md": "leaderboard/README.md",
    "contributing.md": "CONTRIBUTING.md",
    "architecture.md": "ARCHITECTURE.md",
    "security.md": "SECURITY.md",
    "changelog.md": "CHANGELOG.md",
}
"""Pages of the site, and the files that they are."""
PAGES = {source: page for page, source in ELSEWHERE.items()}
CODE = re.compile(r"^```.*?^```|`[^`\n]+`|(?<!!)\[([^\]\n]*)\]\(([^)\s]+)\)", re.MULTILINE | re.DOTALL)
"""Code, which stays as it is, or a link."""


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that stand elsewhere."""
    for page, source in ELSEWHERE.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text("utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Lead links to the site's own pages; one to a file that is not among them becomes the file's name."""
    folder = posixpath.dirname(ELSEWHERE.get(page.file.src_uri, f"docs/{page.file.src_uri}"))

    def led(match: re.Match[str]) -> str:
        words, target = match[1], match[2]
        if target is None or "://" in target or target.startswith("#"):
            return match[0]
        path, _, anchor = target.partition("#")
        source = posixpath.normpath(posixpath.join(folder, path))
        if (found := PAGES.get(source, source.removeprefix("docs/"))) == source:
            return f"{words} (`{source}`)" if words.strip("`") != source else words
        return f"[{words}]({found}{'#' if anchor else ''}{anchor})"

    return CODE.sub(led, markdown)


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:
    """Take the roles of docstrings (``:class:`` and the like) out of the reference: its names are code already."""
    return re.sub(r":(?:class|mod|func|meth|attr|data|exc):<code>~?", "<code>", html)
