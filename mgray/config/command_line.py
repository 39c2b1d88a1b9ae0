"""Command line and YAML file to a typed config, and back to dotted keys."""

import argparse
import sys
import types
import typing
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from mgray.config import JobConfig
from mgray.config.keys import leaves, set_key, unknown_key
from mgray.config.settings_file import FileValues, read_config_file
from mgray.errors import InputError

Config = TypeVar("Config", bound=JobConfig)


def job_command(name: str) -> str:
    """How this process's user calls a job: `mgray NAME` where the installed command runs, else `jobs/NAME.py`."""
    return f"mgray {name}" if _is_installed() else f"jobs/{name}.py"


def job_words(name: str) -> list[str]:
    """The words of a job's command line, for a user to copy."""
    return ["mgray", name] if _is_installed() else ["python", f"jobs/{name}.py"]


def _is_installed() -> bool:
    program = Path(sys.argv[0])  # under `python -m jobs`, the package's own file
    return program.stem == "mgray" or program.parts[-2:] == ("jobs", "__main__.py")


def flatten(config: BaseModel) -> dict[str, Any]:
    """Dotted key -> value, as MLflow's params table wants it."""
    flat: dict[str, Any] = {}
    for name, value in config:
        if isinstance(value, BaseModel):
            flat |= {f"{name}.{key}": inner for key, inner in flatten(value).items()}
        else:
            flat[name] = value
    return flat


def type_name(annotation: Any) -> str:
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        return type_name(typing.get_args(annotation)[0])
    if origin is Literal:
        return "|".join(str(a) for a in typing.get_args(annotation))
    if origin is tuple:
        return f"[{type_name(typing.get_args(annotation)[0])},...]"
    if origin in (typing.Union, types.UnionType):
        return "|".join(type_name(a) for a in typing.get_args(annotation))
    found: str = {"str": "text", "bool": "true|false", "NoneType": "none"}.get(annotation.__name__, annotation.__name__)
    return found


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"command line: {message}; see --help")


def _yaml_value(text: str, where: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(
            f"{where}: {text!r} is not a YAML value ({error}); quote it for the shell, as in '[1,4,16]'"
        ) from error
    if isinstance(value, str):
        if value in ("none", "None"):
            return None
        # YAML 1.1 reads 4e-3 as text; every number format that Python knows is a number here.
        try:
            return float(value)
        except ValueError:
            return value
    return value


def validate(schema: type[Config], values: dict[str, Any], where: str = "config") -> Config:
    """The typed config. Raises InputError, in one line, for an unknown key or a value out of range."""
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"] if isinstance(part, str) and part in _words(schema))
        if first["type"] == "extra_forbidden":
            unknown = ".".join(str(part) for part in first["loc"])
            raise unknown_key(unknown, leaves(schema), where) from error
        given = first["input"]
        shown = "" if isinstance(given, (dict, BaseModel)) else f" (given: {given!r})"
        message = first["msg"].removeprefix("Value error, ")
        raise InputError(f"{where}: {key or 'config'}: {message}{shown}; --help lists the valid values") from error


def _words(schema: type[BaseModel]) -> set[str]:
    return {word for key in leaves(schema) for word in key.split(".")}


def parse_args(schema: type[Config], prog: str, argv: list[str]) -> Config:
    """`--config FILE.yaml` and dotted overrides (`--model.width 128`, `--model.granularities '[1,4,16]'`) to a config.

    Overrides win over the file, the file over the defaults. What of the file only other jobs read is said on stderr.
    Raises InputError; `--help` exits with 0.
    """
    parser = _Parser(
        prog=prog,
        description=schema.__doc__,
        allow_abbrev=False,
        epilog="Values are YAML: none is off, a list is '[1,4,16]'. Exit codes: 0 done, 2 wrong input, 1 other.",
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file of sections and keys; overrides win over it")
    known = leaves(schema)
    for key, field in known.items():
        default = field.get_default(call_default_factory=True)
        shown = "none" if default is None else list(default) if isinstance(default, tuple) else default
        parser.add_argument(
            f"--{key}",
            dest=key,
            default=argparse.SUPPRESS,
            metavar=type_name(field.annotation),
            nargs="?" if field.annotation is bool else None,  # `--resume` alone is true
            const="true" if field.annotation is bool else None,
            help=f"{field.description} [{shown}]".replace("%", "%%"),
        )
    args, extra = parser.parse_known_args(argv)
    if extra:
        key = extra[0].lstrip("-").split("=")[0]
        if extra[0].startswith("--"):
            raise unknown_key(key, known, "command line")
        raise InputError(f"command line: unexpected argument {extra[0]!r}; options start with --, see --help")
    given = vars(args)
    file = given.pop("config")
    values, ignored = read_config_file(file, schema) if file else FileValues({}, [])
    for key, text in given.items():
        is_text = known[key].annotation in (str, str | None)
        if known[key].annotation == str | tuple[str, ...]:
            is_text = not (text.startswith("[") and text.endswith("]"))  # a list; a glob that looks so begins with ./
        value = None if is_text and text in ("none", "None") else text if is_text else _yaml_value(text, f"--{key}")
        set_key(values, key, value)
    config = validate(schema, values, where=f"--config {file}" if file else "command line")
    if ignored:
        print(f"--config {file}: {prog} leaves out what only other jobs read: {', '.join(ignored)}", file=sys.stderr)
    return config
