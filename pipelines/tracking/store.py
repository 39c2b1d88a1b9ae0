"""A tracking store before MLflow opens it: where it is, whether it answers, and one first opening at a time.

MLflow asks a database that is down ten times over, which takes minutes. It makes the tables of a new one step by step:
two jobs that do so at once spoil the database, and so does a kill between two steps.
"""

import fcntl
import os
import re
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

import sqlalchemy
from mlflow.tracking import MlflowClient
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool

from pipelines.runtime.versions import try_to_write

ANSWER_TIMEOUT_S = 12.0  # for all that a store is asked before it counts as out of reach
CONNECT_TIMEOUT_S = 10  # for one connection or one HTTP request of these
OPENING_TIMEOUT_S = 300.0  # for another job's first opening, which takes seconds
SECONDS_BETWEEN_LOOKS = 0.05
ADVISORY_LOCK = 0x6D67726179  # "mgray": what PostgreSQL knows the lock of a first opening by


def sqlite_uri(path: Path) -> str:
    """The URI that SQLAlchemy takes for the database file `path`, be there a `?` or a `%` in it."""
    if not re.search(r"[%?\x00-\x1f]", str(path)):
        return f"sqlite:///{path}"
    # By the driver's name too: of `sqlite:///` MLflow makes the folders, and takes the quoted path for one.
    return f"sqlite+pysqlite:///{quote(str(path))}"


def sqlite_file(uri: str) -> Path | None:
    """The database file of a SQLite URI; None for another kind of store, and for a database in memory."""
    if not uri.startswith("sqlite"):
        return None
    name = make_url(uri).database
    return Path(name).absolute() if name and name != ":memory:" else None


def check_answers(uri: str, ask: Callable[[], object], writes: bool) -> None:
    """Raise whatever the store's driver raises, or TimeoutError, where the store cannot be used, in 15 s at most.

    ask: asks the store through MLflow, and is called for a server. writes: whether the job writes to the store.
    """
    failures: list[Exception] = []

    def probe() -> None:
        try:
            _probe(uri, ask, writes)
        except Exception as error:  # of any driver; raised again below
            failures.append(error)

    with _one_try():
        # What a driver's own timeouts leave open, such as the name service, ends with the process.
        thread = threading.Thread(target=probe, daemon=True)
        thread.start()
        thread.join(ANSWER_TIMEOUT_S)
    if thread.is_alive():
        raise TimeoutError(f"no answer within {ANSWER_TIMEOUT_S:g} s")
    if failures:
        raise failures[0]


def _probe(uri: str, ask: Callable[[], object], writes: bool) -> None:
    path = sqlite_file(uri)
    if path is not None:
        _check_file(path, writes)
    elif "://" in uri and uri.split(":")[0].split("+")[0] in ("postgresql", "mysql", "mssql"):
        with closing(_connect(uri)):
            pass
    else:
        ask()


@contextmanager
def _one_try() -> Iterator[None]:
    """One HTTP request a call, and CONNECT_TIMEOUT_S for it."""
    wanted = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": str(CONNECT_TIMEOUT_S)}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _connect(uri: str) -> sqlalchemy.Connection:
    # The drivers of both take it, by the same name, in whole seconds.
    options = {"connect_timeout": CONNECT_TIMEOUT_S} if uri.startswith(("postgresql", "mysql")) else {}
    return sqlalchemy.create_engine(uri, poolclass=NullPool, connect_args=options).connect()


def _check_file(path: Path, writes: bool) -> None:
    """Raise OSError or sqlite3.Error where the file is no database, or cannot be made or written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        # Writable if it can be: after a kill SQLite rolls an unfinished write back before it reads.
        with closing(
            sqlite3.connect(f"file:{quote(str(path))}?mode=rw", uri=True, timeout=CONNECT_TIMEOUT_S)
        ) as opened:
            opened.execute("PRAGMA schema_version").fetchall()
    if writes or not path.exists():
        try_to_write(path.parent)  # SQLite's journal lies beside the database
        if path.exists() and not os.access(path, os.W_OK):
            raise PermissionError(f"{path} cannot be written")


@contextmanager
def opening(uri: str) -> Iterator[None]:
    """Alone among jobs with the store, and a SQLite database whole, while MLflow opens it and makes what it lacks.

    Raises TimeoutError where another job does not end its own opening. A server sees to its own database.
    """
    path = sqlite_file(uri)
    if path is not None:
        with _file_lock(path.with_name(f".{path.name}.lock")):
            if not path.exists() or not path.stat().st_size:
                _make_database(path)
            yield
    elif uri.startswith("postgresql"):
        with closing(_connect(uri)) as connection, connection.begin():
            connection.execute(sqlalchemy.text(f"SET LOCAL lock_timeout = '{OPENING_TIMEOUT_S:.0f}s'"))
            connection.execute(sqlalchemy.text("SELECT pg_advisory_xact_lock(:key)"), {"key": ADVISORY_LOCK})
            yield
    else:
        yield


@contextmanager
def _file_lock(path: Path) -> Iterator[None]:
    """A kernel lock, which a process that is killed lets go of. None in a folder that cannot be written."""
    try:
        file = path.open("a")
    except OSError:  # check_answers let it pass: the store is there, and the job only reads
        yield
        return
    with file:
        deadline = time.monotonic() + OPENING_TIMEOUT_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"another job has held {path} for {OPENING_TIMEOUT_S:.0f} s") from error
                time.sleep(SECONDS_BETWEEN_LOOKS)
        yield


def _make_database(path: Path) -> None:
    """MLflow's tables under another name, and then the file in its place in one step."""
    for left in path.parent.glob(f".{path.name}.draft-*"):  # by a kill
        left.unlink(missing_ok=True)
    draft = path.with_name(f".{path.name}.draft-{uuid.uuid4().hex}")
    try:
        MlflowClient(sqlite_uri(draft)).search_experiments(max_results=1)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
