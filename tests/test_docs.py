"""The documents hold: the site builds strictly, what they name is there, their commands parse, their notebooks run."""

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import nbformat
import pytest
from nbclient import NotebookClient

from mgray.config import JOB_CONFIGS
from mgray.config.command_line import parse_args
from mgray.config.keys import owners, sections

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "infra/README.md", "benchmarks/README.md")),
    *sorted(DOCS.glob("*.md")),
    *sorted(DOCS.glob("notebooks/*.md")),
]
NOTEBOOKS = sorted(DOCS.glob("notebooks/*.ipynb"))
MAX_README_LINES = 130
NOTEBOOK_TIMEOUT_S = 240  # a minute each where nothing else runs

FENCED = re.compile(r"^```[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
JOB = re.compile(r"(?:\S*python3? jobs/(?P<script>\w+)\.py|^(?:\$ )?mgray (?P<command>[a-z]+))(?P<rest>.*)")
OPTION = re.compile(r"(?<![\w-])--([a-z_]+(?:\.[a-z_]+)+)")
KEY = re.compile(rf"^({'|'.join(sorted({key.split('.')[0] for key in owners() if '.' in key}))})\.[a-z_.]+$")
QUOTED_ERROR = re.compile(r"^\| (`[^|]*?`) \|", re.MULTILINE)
REMOTE = re.compile(
    r"""<(?:script|img|iframe)[^>]+src=["']?https?:|<link[^>]+rel=["']?stylesheet[^>]+href=["']?https?:"""
)


class Command(NamedTuple):
    page: str
    job: str
    arguments: str


def code_of(text: str) -> Iterator[str]:
    """Lines of fenced blocks, those that end in a backslash joined, and what stands between backticks elsewhere."""
    for block in FENCED.findall(text):
        yield from block.replace("\\\n", " ").splitlines()
    yield from INLINE.findall(FENCED.sub("", text))


def commands() -> Iterator[Command]:
    for page in PAGES:
        for line in code_of(page.read_text(encoding="utf-8")):
            for match in JOB.finditer(line):
                job = match["script"] or match["command"]
                yield Command(str(page.relative_to(ROOT)), job, re.split(r"\s#\s|&&|;|\s>", match["rest"])[0])


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= MAX_README_LINES


@pytest.mark.parametrize(
    "command", list(dict.fromkeys(commands())), ids=lambda one: f"{one.page}: {one.job}{one.arguments}"
)
def test_commands_parse(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # where --config finds its files
    assert command.job in JOB_CONFIGS, f"{command.page} names a job that is not there: {command.job}"
    given = [word for word in shlex.split(command.arguments) if word not in ("...", "--help")]
    given = ["--retrain.dry_run=true" if word == "--dry-run" else word for word in given]
    parse_args(JOB_CONFIGS[command.job], command.job, given)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_options_and_keys_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    known = {*owners(), *sections(owners())}
    named = {*OPTION.findall(text), *(code for code in INLINE.findall(text) if KEY.match(code))}
    files = {name for name in named if name.endswith((".py", ".json", ".csv", ".yaml", ".html"))}
    assert named - files <= known, f"{page.name} names options that no job has"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_make_targets_and_links_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    asked = {match[1] for code in code_of(text) if (match := re.match(r"make ([a-z]+)\b", code))}
    assert asked <= targets, f"{page.name} names targets that the Makefile lacks"
    links = re.findall(r"\]\(([^)#\s:]+)(?:#[^)\s]*)?\)", FENCED.sub("", text))
    generated = re.compile(r"reference/\w+\.md$")  # made when the site is built, which checks them
    missing = [link for link in links if not (page.parent / link).exists() and not generated.search(link)]
    assert not missing, f"{page.name} links to what is not there"


def literals() -> str:
    """Every text of the code, what is filled in left out."""
    found: list[str] = []
    for top in ("mgray", "pipelines"):
        for path in (ROOT / top).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                parts = node.values if isinstance(node, ast.JoinedStr) else [node]
                found += [one.value for one in parts if isinstance(one, ast.Constant) and isinstance(one.value, str)]
    return "\0".join(found)


def test_errors_that_troubleshooting_quotes_are_the_codes() -> None:
    page, texts = (DOCS / "troubleshooting.md").read_text(encoding="utf-8"), literals()
    quoted = [part.strip(" `") for cell in QUOTED_ERROR.findall(page) for part in cell.split("…")]
    assert len(quoted) > 100
    assert [part for part in quoted if part and part not in texts] == []


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_site_builds_strictly_and_needs_no_other_host(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > len(PAGES)
    assert [str(page) for page in pages if REMOTE.search(page.read_text(encoding="utf-8"))] == []


def test_the_site_has_every_option_and_check(site: Path) -> None:
    options = (site / "reference" / "options" / "index.html").read_text(encoding="utf-8")
    assert [key for key in owners() if f"--{key}" not in options] == []
    checks = (site / "reference" / "checks" / "index.html").read_text(encoding="utf-8")
    for path in (ROOT / "benchmarks" / "results").glob("*.json"):
        assert [one["name"] for one in json.loads(path.read_text())["checks"] if one["name"] not in checks] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # of the kernel, and of the jobs that it starts
    monkeypatch.setenv("MGRAY_HOME", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, timeout=NOTEBOOK_TIMEOUT_S, kernel_name="python3", resources=resources).execute()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_show_their_outputs_and_no_machine(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert any(cell.outputs for cell in cells)
    assert not re.search(r"/tmp/|/home/|/root/|site-packages", json.dumps([cell.outputs for cell in cells]))
