"""What `make docs` does beside mkdocs: pages that are kept elsewhere, links that leave docs/.

CHANGELOG.md and CONTRIBUTING.md stay at the top of the repository, where people look for them. A
link to a file outside docs/ works where the repository is browsed; the site shows the path instead,
or links to it under `repo_url` once mkdocs.yml has one.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
ELSEWHERE = {"changelog.md": "CHANGELOG.md", "contributing.md": "CONTRIBUTING.md"}
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages that are kept elsewhere."""
    for page, source in ELSEWHERE.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Rewrites the links that leave docs/."""
    source = ELSEWHERE.get(page.file.src_uri)
    here = posixpath.dirname(source if source else f"docs/{page.file.src_uri}")

    def rewrite(match: re.Match[str]) -> str:
        text, target, anchor = match[1], match[2], match[3] or ""
        if "://" in target or target.startswith("mailto:"):
            return match[0]
        path = posixpath.normpath(posixpath.join(here, target))
        pages = {kept: page for page, kept in ELSEWHERE.items()}
        inside = path.removeprefix("docs/") if path.startswith("docs/") else pages.get(path)
        if inside is not None:
            relative = posixpath.relpath(inside, posixpath.dirname(page.file.src_uri) or ".")
            return f"[{text}]({relative}{anchor})"
        if config.repo_url:
            return f"[{text}]({config.repo_url.rstrip('/')}/blob/main/{path}{anchor})"
        return f"{text} (`{path}`)" if text.strip("`") != path else f"`{path}`"

    return LINK.sub(rewrite, markdown)
