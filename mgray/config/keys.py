"""Dotted keys of typed configs: which there are, which jobs have them, and how one is set."""

import difflib
from collections.abc import Iterable
from functools import cache
from typing import Any

from pydantic import BaseModel

from mgray.config import JOB_CONFIGS
from mgray.errors import InputError


def leaves(schema: type[BaseModel], prefix: str = "") -> dict[str, Any]:
    """Dotted key -> pydantic FieldInfo of each value that can be set."""
    found: dict[str, Any] = {}
    for name, field in schema.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found |= leaves(field.annotation, f"{prefix}{name}.")
        else:
            found[prefix + name] = field
    return found


def sections(keys: Iterable[str]) -> set[str]:
    """Every section of dotted keys: `data` and `data.columns` of `data.columns.user_id`."""
    found = set()
    for key in keys:
        words = key.split(".")
        found |= {".".join(words[:depth]) for depth in range(1, len(words))}
    return found


@cache
def owners() -> dict[str, tuple[str, ...]]:
    """Dotted key -> the jobs that have it, of every key of any job."""
    found: dict[str, tuple[str, ...]] = {}
    for job, schema in JOB_CONFIGS.items():
        for key in leaves(schema):
            found[key] = (*found.get(key, ()), job)
    return found


def set_key(values: dict[str, Any], key: str, value: Any) -> None:
    *outer, name = key.split(".")
    for section in outer:
        if not isinstance(values.get(section), dict):
            values[section] = {}
        values = values[section]
    values[name] = value


def unknown_key(key: str, valid: Iterable[str], where: str, near_to: Iterable[str] = ()) -> InputError:
    """The error of a key that is none of `valid`; near_to: names that it may be a misspelling of, beside these."""
    valid = sorted(valid)
    near = difflib.get_close_matches(key, [*valid, *sorted(near_to)], n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    if key in owners():
        jobs = ", ".join(f"jobs/{job}.py" for job in owners()[key])
        hint = f" (an option of {jobs}, not of this job)"
    return InputError(f"{where}: unknown config key {key!r}{hint}; valid keys: {', '.join(valid)}")
