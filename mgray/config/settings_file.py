"""A YAML file of settings, nested or by dotted keys, to the values of one job; what other jobs read is left out."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import BaseModel
from yaml.nodes import MappingNode, ScalarNode

from mgray.config.keys import leaves, owners, sections, set_key, unknown_key
from mgray.errors import InputError

MERGE_TAG = "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    """The safe loader, but for a key that is given twice: that one takes the last value without a word."""

    def compose_mapping_node(self, anchor: Any) -> MappingNode:
        node = super().compose_mapping_node(anchor)
        first: dict[tuple[str, str], yaml.Mark] = {}
        for key, _ in node.value:  # what merge keys bring comes later, and may be given again
            if isinstance(key, ScalarNode) and key.tag != MERGE_TAG:
                mark = first.setdefault((key.tag, key.value), key.start_mark)
                if mark is not key.start_mark:
                    problem = f"the key {key.value!r} is given twice, first in line {mark.line + 1}"
                    raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
        return node


def read_yaml(path: str | Path, where: str) -> Any:
    """Values of a YAML file: UTF-8, with a byte order mark or without, or UTF-16.

    Raises InputError, in one line that begins with `where`, where it is missing, unreadable, malformed, or gives a key
    twice.
    """
    try:
        return yaml.load(Path(path).read_bytes(), _Loader)
    except OSError as error:
        raise InputError(f"{where}: {error.strerror}; give the path of a YAML file") from error
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise InputError(f"{where}: not valid YAML: {error}; mend the file") from error


class FileValues(NamedTuple):
    """A file's settings for one job."""

    values: dict[str, Any]  # nested by section
    ignored: list[str]  # keys, and sections as `train.*`, that some other job reads and this one does not


def read_config_file(path: str, schema: type[BaseModel]) -> FileValues:
    """A file's settings that the job of `schema` reads. A key of any job is valid, one of none is an error.

    Raises InputError where the file cannot be read, is not made of sections, or gives a key twice with different
    values, nested and dotted.
    """
    where = f"--config {path}"
    values = read_yaml(path, where)
    if values is not None and not isinstance(values, dict):
        raise InputError(f"{where}: expected a mapping of sections, found {type(values).__name__}; mend the file")
    own, every = leaves(schema), owners()
    own_sections, every_section = sections(own), sections(every)
    found: dict[str, Any] = {}
    ignored: set[str] = set()
    for key, value in _flat(values or {}, every_section, where):
        if value is None and key in every_section:  # a section without settings
            continue
        if key in own:
            if key in found and found[key] != value:
                raise InputError(f"{where}: {key} is given twice, as {found[key]!r} and as {value!r}; keep one of them")
            found[key] = None if value in ("none", "None") else value
        elif key in own_sections or (key in every_section and key not in every):
            example = min(one for one in every if one.startswith(f"{key}."))
            raise InputError(f"{where}: {key} is a section, of keys such as {example}, not {value!r}; mend the file")
        elif key in every:
            ignored.add(next((f"{outer}.*" for outer in _outer(key) if outer not in own_sections), key))
        else:
            raise unknown_key(key, own, where, {*every, *every_section})
    nested: dict[str, Any] = {}
    for key, value in found.items():
        set_key(nested, key, value)
    return FileValues(nested, sorted(ignored))


def _outer(key: str) -> Iterator[str]:
    """A key's sections, outermost first."""
    words = key.split(".")
    return (".".join(words[:depth]) for depth in range(1, len(words)))


def _flat(values: Mapping[Any, Any], known: set[str], where: str, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key -> value of each that is no section of some job."""
    for key, value in values.items():
        if not isinstance(key, str):
            place = f"a key of {prefix.rstrip('.')}" if prefix else "a key"
            raise InputError(f"{where}: {place} is {key!r}, which is no text; keys are names, such as data.source")
        if isinstance(value, dict) and prefix + key in known:
            yield from _flat(value, known, where, f"{prefix}{key}.")
        else:
            yield prefix + key, value
