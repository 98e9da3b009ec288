"""MkDocs hook: files of the repository that lie outside ``docs/`` become part of the site when a page links to them.

Pages use the paths of the repository, so a link works in an editor and on the site: ``docs/presets.md`` links to
``../conf/base.yaml``. Markdown becomes a page, a picture is copied, every other text becomes a page that shows it.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
FIRST = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "results/README.md")
COPIED = {".gif", ".png", ".svg", ".csv"}
LANGUAGES = {".py": "python", ".ipynb": "python", ".yaml": "yaml", ".sh": "bash", ".json": "json"}
LINK = re.compile(r"(?<=]\()([^)\s#:]+)(?=[)#])")  # the path of a Markdown link or picture, not an address


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add every file that a page, or a file added here, links to."""
    waiting = [ROOT / name for name in FIRST] + [Path(file.abs_src_path or "") for file in files.documentation_pages()]
    seen: set[Path] = set()
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        if not path.is_relative_to(DOCS):
            files.append(_site_file(path, config))
        if path.suffix == ".md":
            waiting += [
                target for link in LINK.findall(path.read_text()) if (target := (path.parent / link).resolve()).is_file()
            ]
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point the links of a page to where their files are in the site."""
    source = _repository_path(page.file)
    here = Path(page.file.src_uri).parent

    def rewritten(match: re.Match[str]) -> str:
        target = (source.parent / match[1]).resolve()
        return os.path.relpath(_site_path(target), here) if target.is_file() else match[1]

    return LINK.sub(rewritten, markdown)


def _site_path(path: Path) -> str:
    """Path of a repository file among the site's sources."""
    if path.is_relative_to(DOCS):
        return path.relative_to(DOCS).as_posix()
    name = path.relative_to(ROOT).as_posix()
    return name if path.suffix in COPIED | {".md"} else f"{name}.md"


def _repository_path(file: File) -> Path:
    """The inverse of ``_site_path``."""
    inside = DOCS / file.src_uri
    return inside if inside.is_file() else ROOT / file.src_uri


def _site_file(path: Path, config: MkDocsConfig) -> File:
    uri = _site_path(path)
    if uri == path.relative_to(ROOT).as_posix():
        return File(uri, str(ROOT), config.site_dir, use_directory_urls=False)
    return File.generated(config, uri, content=_listing(path), inclusion=InclusionLevel.NOT_IN_NAV)


def _listing(path: Path) -> str:
    """A page that shows a text file; of a notebook its text and its code."""
    if path.suffix == ".ipynb":
        cells = [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(path.read_text())["cells"]]
    else:
        cells = [("code", path.read_text())]
    fence = f"~~~~~~{LANGUAGES.get(path.suffix, 'text')}"
    parts = [text if kind == "markdown" else f"{fence}\n{text.rstrip()}\n~~~~~~" for kind, text in cells]
    head: dict[str, Any] = {"title": path.relative_to(ROOT).as_posix(), "search": {"exclude": True}}
    return "\n".join(["---", json.dumps(head), "---", f"`{head['title']}`", "", "\n\n".join(parts)])
