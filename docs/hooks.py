"""What mkdocs reads for the site: pages and whatever they link to, at their places in the repository.

So one relative link is right on a code host, in an editor and in the site, whose front page is the README.
Links to folders are refused, since the site has no page for one.
"""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "CHANGELOG.md",
    "docs/*.md",
    "benchmarks/published/*.md",
)
TARGET = re.compile(r"\]\((?![a-z]+:|#)([^)#\s]+)")


def pages() -> list[Path]:
    return sorted(path for pattern in PAGES for path in ROOT.glob(pattern))


def linked(page: Path) -> set[Path]:
    """The files of the repository that a page links to."""
    targets = {
        (page.parent / target).resolve() for target in TARGET.findall(page.read_text(encoding="utf-8"))
    }
    return {path for path in targets if path.is_file() and path.is_relative_to(ROOT)}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Files by their paths from the root, in place of those by their paths from `docs/`; the theme's stay."""
    of_theme = [file for file in files if file.src_dir != config.docs_dir]
    sources = pages()
    wanted = {*sources, *(ROOT / path for path in config.extra_css)}.union(*map(linked, sources))
    ours = [
        File(path.relative_to(ROOT).as_posix(), str(ROOT), config.site_dir, config.use_directory_urls)
        for path in sorted(wanted)
    ]
    return Files(of_theme + ours)
