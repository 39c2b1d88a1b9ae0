"""The folder of dataset versions: a version is built in a staging folder and renamed into place whole."""

import errno
import os
import shutil
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mgray.errors import InputError
from mgray.manifest import MANIFEST_FILE, Manifest, read_manifest


def place_error(error: OSError) -> InputError | None:
    """What the user can mend about the output place (full, read-only, not theirs), else None."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EPERM):
        return None
    return InputError(f"{error.filename or 'the output folder'}: {error.strerror}; mend it, or set --data.out")


def committed(folder: Path, key: str) -> Manifest | None:
    """The version in `folder` if it is whole: a manifest of this key, and every file of it at its size."""
    if not (folder / MANIFEST_FILE).is_file():
        return None
    try:
        manifest = read_manifest(folder)
    except InputError:
        return None
    files = [manifest.vocabulary.file] + ([manifest.quarantine_file] if manifest.quarantine_file else [])
    whole = all((folder / file).is_file() for file in files) and all(
        (folder / shard.file).is_file() and (folder / shard.file).stat().st_size == shard.bytes
        for shard in manifest.shards
    )
    return manifest if whole and manifest.ingest_key == key else None


@contextmanager
def staging_folder(out: Path, key: str) -> Iterator[Path]:
    """A folder beside the versions, removed at the end whatever happens; those that killed ingests left go first."""
    node = socket.gethostname()
    for left in out.glob(f".staging-*@{node}"):
        pid = left.name.split("-")[1]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists() and Path("/proc/self").exists():
            shutil.rmtree(left, ignore_errors=True)
    staging = out / f".staging-{os.getpid()}-{key[:16]}-{uuid.uuid4().hex[:8]}@{node}"
    (staging / "work").mkdir(parents=True)
    try:
        yield staging
    except OSError as error:
        mendable = place_error(error)
        if mendable is None:
            raise
        raise mendable from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def publish(staging: Path, folder: Path, manifest: Manifest) -> Manifest:
    """Renames the whole version into place: a reader sees all of it or nothing. The first of two equal ingests wins."""
    for _ in range(3):
        try:
            staging.rename(folder)
        except OSError:
            winner = committed(folder, manifest.ingest_key)
            if winner is not None:
                return winner
            # what lies there is no committed version of this key
            left = folder.with_name(f".staging-{os.getpid()}-replaced-{uuid.uuid4().hex[:8]}@{socket.gethostname()}")
            if folder.exists():
                folder.rename(left)
                shutil.rmtree(left, ignore_errors=True)
        else:
            return manifest
    raise InputError(f"{folder}: cannot be put in place; remove that folder and ingest again")
