"""Pages that are made from the code, as an mkdocs hook: options from the config, the API, modules, benchmark checks.

Nothing is written into docs/: mkdocs gets the pages as generated files. `option_pages` needs pydantic alone.
"""

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from mgray.config import JOB_CONFIGS
from mgray.config.command_line import type_name
from mgray.config.keys import leaves, owners

ROOT = Path(__file__).parent.parent
# Package -> what its page says first. Their modules are found on disk.
API_PACKAGES = {
    "serve": "What a user gets: recommendations, ratings, explanations. It imports no training.",
    "model": "What the model is: MG-DSC and its parts, in PyTorch.",
    "data": "What the model reads: dataset versions, histories, batches.",
    "train": "How it learns: the loop, the losses, checkpoints.",
    "eval": "How good it is: metrics, baselines, the gate.",
    "testing": "Made-up logs with a known best score.",
}
SECTIONS = {
    "": "No section",
    "data": "The log and the dataset",
    "model": "The model",
    "train": "Training",
    "evaluate": "Evaluation",
    "scale": "Workers",
    "tracking": "MLflow",
    "search": "Search",
    "predict": "Batch scoring",
    "retrain": "Retraining",
    "gate": "The gate",
}
NO_CONTENTS = ["---", "hide: [toc]", "---", ""]  # room for the tables


def on_files(files: Files, config: MkDocsConfig) -> Files:
    pages = {"reference/options.md": options_page(), "reference/checks.md": checks_page(), **api_pages()}
    pages |= {"reference/modules.md": modules_page(), "reference/errors.md": errors_page()}
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files


def _cell(text: str) -> str:
    return text.replace("|", " \\| ").replace("<", "&lt;").replace("\n", " ")


def options_page() -> str:
    """Every option of every job: its key, type, default, jobs and meaning."""
    lines = [
        *NO_CONTENTS,
        "# Options",
        "",
        "Made from `mgray/config/`. Give an option as `--KEY VALUE`, or as a key of the file of `--config`. Values are",
        "YAML: `none` is off, a list is `'[1,4,16]'`, and a switch without a value is true. Where a job has another",
        "default, its `--help` shows it.",
        "",
        '<div class="options" markdown>',
        "",
    ]
    fields: dict[str, Any] = {}
    for schema in JOB_CONFIGS.values():
        for key, field in leaves(schema).items():
            fields.setdefault(key, field)
    fields |= leaves(JOB_CONFIGS["train"])  # where jobs differ in a default, training's is shown
    for section, title in SECTIONS.items():
        keys = [key for key in fields if (key.split(".")[0] if "." in key else "") == section]
        shared = {owners()[key] for key in keys}
        lines += [f"## {title}", ""]
        if len(shared) == 1:
            lines += [f"Read by {', '.join(f'`{job}`' for job in sorted(*shared))}.", ""]
        one = " |" if len(shared) == 1 else " | jobs |"
        lines += [f"| option | type | default | meaning{one}", "|---" * (4 if len(shared) == 1 else 5) + "|"]
        lines += [_option_row(key, fields[key], len(shared) > 1) for key in keys]
        lines.append("")
    lines.append("</div>")
    return "\n".join(lines)


def _option_row(key: str, field: Any, with_jobs: bool) -> str:
    default = field.get_default(call_default_factory=True)
    shown = "none" if default is None else list(default) if isinstance(default, tuple) else default
    shown = str(shown).lower() if isinstance(shown, bool) else shown
    of_jobs = "all" if len(owners()[key]) == len(JOB_CONFIGS) else ", ".join(owners()[key])
    row = f"| `--{key}` | {_cell(type_name(field.annotation))} | `{shown}` | {_cell(field.description)} |"
    return f"{row} {of_jobs} |" if with_jobs else row


def api_pages() -> dict[str, str]:
    """Path -> a page of mkdocstrings' marks, a module each."""
    first = [
        "mgray.errors",
        "mgray.schema",
        "mgray.distributed",
        "mgray.config.granularity",
        "mgray.config.command_line",
    ]
    pages = {"reference/api.md": _api_page("mgray", "What stands below every package.", first)}
    for package, words in API_PACKAGES.items():
        pages[f"reference/{package}.md"] = _api_page(f"mgray.{package}", words, list(_modules(package)))
    return pages


def _modules(package: str) -> Iterator[str]:
    for path in sorted((ROOT / "mgray" / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if path.name != "__init__.py":
            yield ".".join(parts)


def _api_page(title: str, words: str, modules: list[str]) -> str:
    marks = "\n\n".join(f"::: {module}" for module in modules)
    return f"# {title}\n\n{words} Made from the docstrings.\n\n{marks}\n"


def modules_page() -> str:
    """Every module, and the first sentence of its docstring."""
    lines = [*NO_CONTENTS, "# Every module", "", "Made from the first line of each file.", ""]
    for top in ("mgray", "pipelines", "jobs"):
        for folder in sorted({path.parent for path in (ROOT / top).rglob("*.py")}):
            lines += [f"## `{folder.relative_to(ROOT)}/`", "", "| file | is |", "|---|---|"]
            for path in sorted(folder.glob("*.py")):
                words = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
                paragraph = " ".join(words.split("\n\n")[0].split())
                lines.append(f"| `{path.name}` | {_cell(paragraph)} |")
            lines.append("")
    return "\n".join(lines)


def errors_page() -> str:
    """The text of every InputError, by package: `…` stands for what is filled in."""
    lines = [*NO_CONTENTS, "# Every error line", "", "Made from the code; `…` stands for a name, a number or a reason."]
    lines += ["[Troubleshooting](../troubleshooting.md) explains them by job.", ""]
    for top in ("mgray", "pipelines"):
        for path in sorted((ROOT / top).rglob("*.py")):
            found = list(dict.fromkeys(_error_texts(ast.parse(path.read_text(encoding="utf-8")))))
            if found:
                lines += [f"## `{path.relative_to(ROOT)}`", "", *(f"- {_code(text)}" for text in found), ""]
    return "\n".join(lines)


def _error_texts(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args):
            continue
        text = _template(node.args[0])
        if node.func.id in ("InputError", "NotTrainableError") and text.strip("… "):
            yield text


def _template(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_template(part) if isinstance(part, ast.Constant) else "…" for part in node.values)
    return "…"


def _code(text: str) -> str:
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def checks_page() -> str:
    """Every check of benchmarks/results/*.json, those that fail among them."""
    lines = [
        *NO_CONTENTS,
        "# Every check",
        "",
        "Made from `benchmarks/results/*.json`: what each script measured, and the figure that was asked for before.",
        "[Benchmarks](../benchmarks.md) says what they mean.",
        "",
        "| script | check | reached | asked | holds | of |",
        "|---|---|---|---|---|---|",
    ]
    for path in sorted((ROOT / "benchmarks" / "results").glob("*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        for check in found["checks"]:
            holds = "yes" if check["holds"] else "**no**"
            op = {">=": "≥", "<=": "≤", "==": "=", ">": "&gt;", "<": "&lt;"}[check["op"]]
            lines.append(
                f"| `{path.stem}` | `{check['name']}` | {check['value']:.4g} | {op} {check['target']:g} | {holds} | "
                f"{found['date'][:10]} |"
            )
    return "\n".join(lines) + "\n"
