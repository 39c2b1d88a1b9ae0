"""One at a time: a lock file that names its holder, and heals when the holder is gone."""

import fcntl
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict, ValidationError

from mgray.errors import InputError

LOCK_FILE = "retrain.lock"
SECONDS_BETWEEN_BEATS = 30.0
SILENT_AFTER_S = 600.0  # without a beat a holder on another host is gone


class HeldError(InputError):
    """Another process holds the lock."""


class Holder(BaseModel):
    """Content of a lock file: who holds it. None: not known, for the file is no lock."""

    model_config = ConfigDict(frozen=True)

    pid: int | None
    host: str | None
    process_started: float | None  # seconds since 1970
    locked_at: float  # seconds since 1970
    token: str = ""  # another for each lock


class Lock:
    """Held by this process. A lock that outlived its time may have gone to another: ask before what must be alone."""

    def __init__(self, path: Path, holder: Holder) -> None:
        self.path, self.holder = path, holder

    def is_held(self) -> bool:
        return _read(self.path) == self.holder


@contextmanager
def retrain_lock(home: Path, timeout_s: float) -> Iterator[Lock]:
    """Hold HOME/retrain.lock. Raises HeldError, at once, where another retraining holds it."""
    with hold(home / LOCK_FILE, "another retraining", timeout_s) as lock:
        yield lock


@contextmanager
def hold(path: Path, what: str, timeout_s: float) -> Iterator[Lock]:
    """Hold the lock file `path`. Raises HeldError, at once, where another process holds it; `what` says what that is.

    A lock is left behind, and is taken over, where its process is dead on this host, where its pid is another
    process by now, where it is older than `timeout_s`, or where a holder on another host has not touched it for
    SILENT_AFTER_S.
    """
    lock = Lock(
        path,
        Holder(
            pid=os.getpid(),
            host=socket.gethostname(),
            process_started=psutil.Process().create_time(),
            locked_at=time.time(),
            token=uuid.uuid4().hex,
        ),
    )
    # Two that find the same stale lock must not take it over one after the other: the guard makes look-and-take one.
    with _guard(path):
        holder = _read(path)
        if holder is not None and not _is_left(path, holder, timeout_s):
            age = time.time() - holder.locked_at
            raise HeldError(
                f"{what} runs already (process {holder.pid} on {holder.host}, since {age:.0f} s); "
                f"wait for it, or remove {path} if it is gone"
            )
        draft = path.with_name(f".{path.name}.{lock.holder.token}")
        draft.write_text(lock.holder.model_dump_json())
        draft.replace(path)
    stop = threading.Event()
    beat = threading.Thread(target=_beat, args=(path, stop), daemon=True)
    beat.start()
    try:
        yield lock
    finally:
        stop.set()
        beat.join()
        with _guard(path):
            if lock.is_held():
                path.unlink()


def is_held(path: Path, timeout_s: float) -> bool:
    """Whether `hold` would raise HeldError now; a lock that was left behind counts for nothing."""
    try:
        holder = _read(path)
        return holder is not None and not _is_left(path, holder, timeout_s)
    except FileNotFoundError:  # let go of while it was looked at
        return False


@contextmanager
def _guard(path: Path) -> Iterator[None]:
    """A kernel lock for the moment of looking and writing; the kernel lets go of it when its process ends."""
    with path.with_name(".guard").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _beat(path: Path, stop: threading.Event) -> None:
    """Touch the lock while its holder lives, for those on other hosts, who cannot look at its process."""
    while not stop.wait(SECONDS_BETWEEN_BEATS):
        try:
            os.utime(path)
        except FileNotFoundError:  # taken over; `is_held` tells the holder when it asks
            return


def _read(path: Path) -> Holder | None:
    """The holder; None: there is no lock. A file that is no lock is a holder of unknown name, locked when made."""
    try:
        text = path.read_text()
        made = path.stat().st_mtime
    except FileNotFoundError:
        return None
    try:
        return Holder.model_validate_json(text)
    except ValidationError:
        return Holder(pid=None, host=None, process_started=None, locked_at=made)


def _is_left(path: Path, holder: Holder, timeout_s: float) -> bool:
    """Whether the holder left the lock behind."""
    if time.time() - holder.locked_at > timeout_s:
        return True
    if holder.host != socket.gethostname() or holder.process_started is None:
        return time.time() - path.stat().st_mtime > SILENT_AFTER_S
    try:
        started = psutil.Process(holder.pid).create_time()
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False
    return abs(started - holder.process_started) > 1.0
