"""Pages that are made from other files of the repository, as an mkdocs hook: the changelog, notebooks, linked sources.

A page links to a file of code by its relative path, which works in the repository. On the site the same link leads to
a page that shows the file: it is made here for every file that some page links to. A link to a file that is not there
ends the build.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
LINK = re.compile(r"\]\(([^)#\s:]+)(#[^)\s]*)?\)")  # no URL
LANGUAGES = {".py": "python", ".yaml": "yaml", ".toml": "toml", ".json": "json"}
SOURCE = "source/"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    files.append(File.generated(config, "changelog.md", content=_changelog_page()))
    for path in sorted((ROOT / "docs").glob("notebooks/*.ipynb")):
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=notebook_page(path)))
    waiting = {target for file in files.documentation_pages() for target in _outside(file.content_string, file.src_uri)}
    made: set[str] = set()
    while waiting:
        path = waiting.pop()
        made.add(path)
        if not (ROOT / path).is_file():
            raise PluginError(f"a page links to {path}, which is no file of the repository")
        page = File.generated(config, _source_uri(path), content=_source_page(path))
        files.append(page)
        if path.endswith(".md"):  # shown as a page, whose own links are followed
            waiting |= _outside(page.content_string, page.src_uri) - made
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links as they are in the repository become links between pages."""
    uri = page.file.src_uri
    if uri.startswith(SOURCE) and not uri.endswith(".md.md"):
        return markdown

    def moved(match: re.Match[str]) -> str:
        target = _target(match[1], uri)
        if target.endswith(".ipynb"):
            target = target.removesuffix(".ipynb") + ".md"
        found = target.removeprefix("docs/") if target.startswith("docs/") else _source_uri(target)
        return f"]({os.path.relpath(found, Path(uri).parent)}{match[2] or ''})"

    return LINK.sub(moved, markdown)


def _source_uri(path: str) -> str:
    return f"{SOURCE}{path}.md"


def _target(link: str, uri: str) -> str:
    """The path from the repository's root of what a page links to."""
    here = uri.removeprefix(SOURCE).removesuffix(".md") if uri.startswith(SOURCE) else f"docs/{uri}"
    return os.path.normpath(Path(here).parent / link)


def _outside(markdown: str, uri: str) -> set[str]:
    """The files outside docs/ that a page links to."""
    targets = {_target(match[1], uri) for match in LINK.finditer(markdown)}
    return {target for target in targets if not target.startswith("docs/")}


def _changelog_page() -> str:
    """CHANGELOG.md, its links as from a page in docs/."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    return LINK.sub(lambda match: f"]({os.path.relpath(match[1], 'docs')}{match[2] or ''})", text)


def _source_page(path: str) -> str:
    text = (ROOT / path).read_text(encoding="utf-8")
    head = f"---\ntitle: {path}\nsearch:\n  exclude: true\n---\n\n"
    if path.endswith(".md"):
        return head + text
    fence, language = "`" * 6, LANGUAGES.get(Path(path).suffix, "text")
    return f"{head}# `{path}`\n\n{fence}{language}\n{text}\n{fence}\n"


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
            parts.append(f'```text title="output"\n{shown}\n```')
    return "\n\n".join(parts) + "\n"


def _output_text(output: dict[str, Any]) -> str:
    if output["output_type"] == "stream":
        return "".join(output["text"]) if output["name"] == "stdout" else ""
    return "".join(output.get("data", {}).get("text/plain", [])) + "\n"
