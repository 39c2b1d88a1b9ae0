"""HOME/searches/NAME: all that a search needs to go on after a kill, and what it found.

`search.json` holds its settings, MLflow's run, the dataset and, at the end, the result; `space.yaml` the space as it
was given; `journal.jsonl` the trials (see pipelines/tune/study.py). The kernel locks the folder for a search that runs,
so that one which is killed holds nothing.
"""

import fcntl
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from mgray.config import TuneJobConfig
from mgray.config.command_line import flatten, validate
from mgray.config.keys import set_key
from mgray.config.search_space import DEFAULT_SPACE, Space, read_space, space_text
from mgray.errors import InputError
from mgray.record import Record

MEMO_FILE, SPACE_FILE, LOCK_FILE = "search.json", "space.yaml", "lock"
# What a resume may change: how much is done, not what is compared.
BUDGET = (
    "search.num_trials",
    "search.max_concurrent",
    "search.max_time_s",
    "search.train_best",
    "search.best_num_workers",
)
NOT_COMPARED = ("home", "resume", "search.name", "search.space", *BUDGET)


class Memo(Record):
    """Facts that a search keeps for a resume. A field that was never set is not known yet."""

    created: str  # ISO 8601, UTC
    warm_start: str | None = None  # the model that trials start from, pinned; None: from scratch
    dataset: str = ""  # folder of the dataset version
    run_id: str | None = None  # of the search, in MLflow
    ended: int = 0  # trials
    result: dict[str, Any] | None = None  # the result line of the search that was ended last

    def knows(self, name: str) -> bool:
        return name in self.model_fields_set


@dataclass
class SearchFolder:
    path: Path
    config: TuneJobConfig
    space: Space
    memo: Memo

    @property
    def name(self) -> str:
        return self.path.name

    def note(self, **facts: Any) -> None:
        """Keep facts (fields of Memo) for a resume, in one step."""
        self.memo = Memo(**self.memo.model_dump(exclude_unset=True) | facts)
        draft = self.path / f".{MEMO_FILE}.draft"
        content = {
            "config": self.config.model_dump(mode="json"),
            "space": space_text(self.space),
            **self.memo.model_dump(exclude_unset=True),
        }
        draft.write_text(json.dumps(content, indent=1))
        draft.replace(self.path / MEMO_FILE)


def given_settings(config: BaseModel, prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value of what the user set, on the command line or in a file; defaults are left out."""
    found: dict[str, Any] = {}
    for name in config.model_fields_set:
        value = getattr(config, name)
        found |= given_settings(value, f"{prefix}{name}.") if isinstance(value, BaseModel) else {prefix + name: value}
    return found


@contextmanager
def open_search(config: TuneJobConfig, home: Path) -> Iterator[SearchFolder]:
    """A new search's folder or, with `resume`, the newest that the settings given agree with; locked meanwhile.

    Raises InputError where there is none to resume, the name is taken, or another process runs it.
    """
    searches = home / "searches"
    search = _find(config, searches) if config.resume else _create(config, searches)
    with (search.path / LOCK_FILE).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"search {search.name} is running in another process; wait for it or stop it") from error
        yield search


def _create(config: TuneJobConfig, searches: Path) -> SearchFolder:
    space = read_space(config.search.space, config)
    compared = {key: value for key, value in flatten(config).items() if key not in NOT_COMPARED}
    digest = hashlib.sha256(json.dumps([compared, space_text(space)], default=str, sort_keys=True).encode()).hexdigest()
    name = config.search.name or f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{digest[:8]}"
    path = searches / name
    if (path / MEMO_FILE).exists():
        raise InputError(f"search.name {name}: {path} exists; go on with it by --resume, or choose another name")
    path.mkdir(parents=True, exist_ok=True)
    source = Path(config.search.space) if config.search.space else DEFAULT_SPACE
    (path / SPACE_FILE).write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    search = SearchFolder(path, config, space, Memo(created=datetime.now(UTC).isoformat()))
    search.note()
    return search


def _find(config: TuneJobConfig, searches: Path) -> SearchFolder:
    given = given_settings(config)
    wanted = {key: value for key, value in given.items() if key not in NOT_COMPARED}
    memos = {file: json.loads(file.read_text()) for file in searches.glob(f"{config.search.name or '*'}/{MEMO_FILE}")}
    refused = ""
    for file in sorted(memos, key=lambda file: memos[file]["created"], reverse=True):
        memo = memos[file]
        values, space_words = memo.pop("config"), memo.pop("space")
        for key in BUDGET:
            if key in given:
                set_key(values, key, given[key])
        values |= {"home": config.home, "resume": True}
        stored = validate(TuneJobConfig, values, f"{file}")
        flat = flatten(stored)
        unlike = [key for key, value in wanted.items() if flat[key] != value]
        if config.search.space and space_text(read_space(config.search.space, config)) != space_words:
            unlike.append("search.space")
        if not unlike:
            space = read_space(str(file.parent / SPACE_FILE), stored)
            return SearchFolder(file.parent, stored, space, Memo(**memo))
        refused = refused or f"; the newest, {file.parent.name}, differs in {', '.join(unlike)}"
    raise InputError(f"--resume: no search in {searches} agrees with the settings given{refused}; start one without it")
