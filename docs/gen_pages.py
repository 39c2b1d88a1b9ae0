"""Pages that are made from other files of the repository, as an mkdocs hook: the changelog, notebooks, linked sources.

A page links to a file of code by its relative path, which works in the repository. On the site the same link leads to
a page that shows the file: it is made here for every file that some page links to. A link to a file that is not there
ends the build.
"""

import json
import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
LINK = re.compile(r"\]\(((?:\.\./)+[^)#\s]+)(#[^)\s]*)?\)")
LANGUAGES = {".py": "python", ".yaml": "yaml", ".toml": "toml", ".md": "markdown", ".json": "json", "": "text"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for path in sorted(DOCS.glob("notebooks/*.ipynb")):
        page = f"notebooks/{path.stem}.md"
        files.append(File.generated(config, page, content=notebook_page(path)))
    linked: set[str] = set()
    for file in files.documentation_pages():
        linked |= {path for path, _ in _outside(file.content_string, file.src_uri)}
    for path in sorted(linked):
        if not (ROOT / path).is_file():
            raise PluginError(f"a page links to {path}, which is no file of the repository")
        files.append(File.generated(config, f"source/{path}.md", content=_source_page(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The links of a page to files outside docs/, led to their pages under source/."""
    if page.file.src_uri.startswith("source/"):
        return markdown
    here = PurePosixPath(page.file.src_uri).parent
    for path, link in _outside(markdown, page.file.src_uri):
        markdown = markdown.replace(f"]({link})", f"]({os.path.relpath(f'source/{path}.md', here)})")
    return markdown


def _outside(markdown: str, src_uri: str) -> list[tuple[str, str]]:
    """(path from the repository's root, link as written) of each link that leaves docs/."""
    found = []
    for match in LINK.finditer(markdown):
        target = os.path.normpath(Path("docs", src_uri).parent / match[1])
        if not target.startswith(("docs/", "..")):
            found.append((target, match[1] + (match[2] or "")))
    return found


def _source_page(path: str) -> str:
    text = (ROOT / path).read_text(encoding="utf-8")
    language = LANGUAGES.get(Path(path).suffix, "text")
    fence = "`" * 6
    return f"---\ntitle: {path}\nsearch:\n  exclude: true\n---\n\n# `{path}`\n\n{fence}{language}\n{text}\n{fence}\n"


def notebook_page(path: Path) -> str:
    """A notebook's cells, and what they printed when it was last run, as Markdown."""
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        shown = "".join(_output_text(output) for output in cell["outputs"]).rstrip()
        if shown:
            parts.append(f"```text title=\"output\"\n{shown}\n```")
    return "\n\n".join(parts) + "\n"


def _output_text(output: dict[str, Any]) -> str:
    if output["output_type"] == "stream":
        return "".join(output["text"]) if output["name"] == "stdout" else ""
    return "".join(output.get("data", {}).get("text/plain", [])) + "\n"
