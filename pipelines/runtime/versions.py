"""A folder of versions (datasets, predictions): each is built in a staging folder and renamed into place whole."""

import errno
import os
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

from mgray.data.manifest import MANIFEST_FILE, short_key
from mgray.errors import InputError

ABANDONED_AFTER_S = 7 * 86_400.0
RESUMABLE = ".staging-"  # and the short key: a folder that a run after a kill goes on in


class VersionManifest(Protocol):
    @property
    def version_key(self) -> str:
        """Digest of what the version is made from."""

    def files(self) -> dict[str, int | None]:
        """Every file of the version, with its bytes where they are on record."""


AnyManifest = TypeVar("AnyManifest", bound=VersionManifest)


def draft_path(path: Path) -> Path:
    """A name of its own beside `path`, for a file or folder that gets that name once it is whole."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}")


def resumable_path(out: Path, key: str) -> Path:
    """Path of the `resumable_folder` of a key."""
    return out / f"{RESUMABLE}{short_key(key)}"


def try_to_write(folder: Path) -> None:
    """Raises OSError where no file can be made in the folder."""
    probe = folder / f".write-test-{uuid.uuid4().hex}"  # by no other job, on whatever node
    probe.touch()
    probe.unlink()


def place_error(error: OSError, option: str = "--data.out") -> InputError | None:
    """A fault of the output place that the user can mend (full, read-only, not theirs), else None."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EPERM):
        return None
    return InputError(f"{error.filename or 'the output folder'}: {error.strerror}; mend it, or set {option}")


def committed(folder: Path, key: str, read: Callable[[Path], AnyManifest]) -> AnyManifest | None:
    """The version in `folder` if it is whole: a manifest of this key, and every file of it at its size."""
    if not (folder / MANIFEST_FILE).is_file():
        return None
    try:
        manifest = read(folder)
    except InputError:
        return None
    whole = all(
        (folder / file).is_file() and size in (None, (folder / file).stat().st_size)
        for file, size in manifest.files().items()
    )
    return manifest if whole and manifest.version_key == key else None


@contextmanager
def staging_folder(out: Path, key: str, option: str = "--data.out") -> Iterator[Path]:
    """A folder beside the versions, removed at the end whatever happens; those that killed jobs left go first."""
    node = socket.gethostname()
    for left in out.glob(f".staging-*@{node}"):
        pid = left.name.split("-")[1]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists() and Path("/proc/self").exists():
            shutil.rmtree(left, ignore_errors=True)
    staging = out / f".staging-{os.getpid()}-{short_key(key)}-{uuid.uuid4().hex[:8]}@{node}"
    (staging / "work").mkdir(parents=True)
    try:
        yield staging
    except OSError as error:
        mendable = place_error(error, option)
        if mendable is None:
            raise
        raise mendable from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def resumable_folder(out: Path, key: str, option: str = "--data.out") -> Iterator[Path]:
    """A staging folder named by what is made in it: the same command goes on in it after a kill or a failure.

    What the user must mend removes it: their log becomes another by it, or their disk is full. The caller holds a lock
    on `key`. Those that nobody came back to for a week go first.
    """
    staging = resumable_path(out, key)
    remove_abandoned(left for left in out.glob(f"{RESUMABLE}*") if "@" not in left.name and left != staging)
    (staging / "work").mkdir(parents=True, exist_ok=True)
    os.utime(staging)
    try:
        yield staging
    except InputError:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    except OSError as error:
        mendable = place_error(error, option)
        if mendable is None:
            raise
        shutil.rmtree(staging, ignore_errors=True)
        raise mendable from error


def remove_abandoned(folders: Iterable[Path]) -> None:
    """Removes those that nobody put a file into for a week."""
    for folder in folders:
        if _age_s(folder) > ABANDONED_AFTER_S:
            shutil.rmtree(folder, ignore_errors=True)


def _age_s(folder: Path) -> float:
    try:
        return time.time() - folder.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def put_in_place(
    staging: Path, folder: Path, manifest: AnyManifest, read: Callable[[Path], AnyManifest], overwrite: bool = False
) -> AnyManifest:
    """Renames the whole version into place: a reader sees all of it or nothing. The first of two equal jobs wins.

    With `overwrite` a version of the same key gives way; between two renames there is none for a moment.
    """
    for _ in range(3):
        try:
            staging.rename(folder)
        except OSError:
            winner = None if overwrite else committed(folder, manifest.version_key, read)
            if winner is not None:
                return winner
            # what lies there is no committed version of this key, or one to replace
            left = folder.with_name(f".staging-{os.getpid()}-replaced-{uuid.uuid4().hex[:8]}@{socket.gethostname()}")
            if folder.exists():
                folder.rename(left)
                shutil.rmtree(left, ignore_errors=True)
        else:
            return manifest
    raise InputError(f"{folder}: cannot be put in place; remove that folder and try again")
