"""Lists and opens files on a mounted disk, s3:// and gs://: one file, a folder with all below it, or a glob.

A path is taken as it is written: it has no escapes, and where a file has that very name, it is not a glob.
"""

import fnmatch
import os
import re
import stat
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import lru_cache
from typing import Literal, NamedTuple
from urllib.parse import parse_qsl

import pyarrow as pa
from pyarrow import fs

from mgray.errors import InputError

# what may follow the last `?` of a URI, as in s3://bucket/log?endpoint_override=localhost:9000&scheme=http
OPTIONS = {
    "s3": {"endpoint_override", "scheme", "region", "anonymous"},
    "gs": {"endpoint_override", "scheme", "anonymous"},
}
CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
}
ENVIRONMENT = ("AWS_", "STORAGE_EMULATOR_HOST", "GOOGLE_")
CONNECT_TIMEOUT_S = 5
SILENCE_TIMEOUT_S = 10  # longest wait for the next byte of an answer
MAX_ATTEMPTS = 3
RETRY_LIMIT_S = 15
MAGIC = re.compile(r"[*?\[]")
URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)


class Found(NamedTuple):
    path: str  # absolute, or SCHEME://BUCKET/KEY, with its options
    parts: tuple[str, ...]  # ("file", "data", "a.csv"), ("s3", "bucket", "a.csv")
    bytes: int
    real: str  # the file behind its links: where it is equal, the file is the same
    linked: bool  # a link, or reached by one


class Listing(NamedTuple):
    kind: Literal["file", "folder", "glob"]
    base: tuple[str, ...]  # the folder that names are relative to; of a glob the part before its first wildcard
    files: list[Found]  # in no order


class Remote(NamedTuple):
    """An object, or a folder of them: s3://BUCKET/KEY?OPTIONS."""

    scheme: str
    key: str  # BUCKET/KEY
    options: str  # "?region=eu-west-1", or empty

    @property
    def bucket(self) -> str:
        return self.key.split("/")[0]


def list_files(source: str, is_log: Callable[[str], bool]) -> Listing:
    """The files of a path: itself, all below a folder, or a glob's matches and all below the folders among them.

    Names that begin with . or _ are left out, unless the source spells that. Links are followed, but not to a folder
    that they lie in. Raises InputError: no such path, a folder that cannot be read, or a dangling link named like a
    log (`is_log` tells by the name).
    """
    remote = parse_uri(source)
    return _list_local(source, is_log) if remote is None else _list_remote(source, remote)


def open_random(path: str) -> pa.NativeFile:
    """A file's raw bytes by place: size(), seek(), read(), read_at(). Raises OSError, or InputError for a wrong URI."""
    remote = parse_uri(path)
    return pa.OSFile(path) if remote is None else connect(remote).open_input_file(remote.key)


def parse_uri(source: str) -> Remote | None:
    """The bucket, key and options of s3://... or gs://..., None of a local path. Raises InputError, without secrets."""
    match = URI.fullmatch(source)
    if match is None or (match[1] not in OPTIONS and os.path.lexists(source)):
        return None
    scheme, rest = match.groups()
    if scheme not in OPTIONS:
        raise InputError(f"--data.source: {scheme}:// is not supported; give a local or mounted path, s3:// or gs://")
    key, mark, tail = rest.rpartition("?")
    options = ""
    if mark and {name for name, _ in parse_qsl(tail, keep_blank_values=True)} <= OPTIONS[scheme] and "=" in tail:
        rest, options = key, "?" + tail
    if scheme == "gs" and rest.startswith("anonymous@"):
        rest, options = rest.removeprefix("anonymous@"), f"{options}{'&' if options else '?'}anonymous=true"
    bucket = rest.split("/")[0]
    # a secret key may hold a slash: what stands before a : or @ may belong to a secret, so none of it is shown
    if re.search("[:@]", bucket) or "@" in options:
        raise InputError(
            f"--data.source {scheme}://***: a URI with credentials ends up in logs and records; "
            f"leave them out and set {CREDENTIALS[scheme]}"
        )
    if not bucket:
        raise InputError(f"--data.source {source}: no bucket; give {scheme}://BUCKET/PATH")
    return Remote(scheme, rest.rstrip("/"), options)


def connect(remote: Remote) -> fs.FileSystem:
    """The file system of a URI, made once a process for each bucket, options and environment.

    The options of the URI win over AWS_ENDPOINT_URL and STORAGE_EMULATOR_HOST. Raises OSError where the bucket's region
    cannot be found, ValueError for a wrong option.
    """
    environment = tuple(sorted(item for item in os.environ.items() if item[0].startswith(ENVIRONMENT)))
    return _connect(remote.scheme, remote.bucket, remote.options, environment)


@lru_cache(maxsize=64)
def _connect(scheme: str, bucket: str, options: str, environment: tuple[tuple[str, str], ...]) -> fs.FileSystem:
    given = dict(parse_qsl(options.removeprefix("?")))
    variables = dict(environment)
    anonymous = given.get("anonymous", "false").lower() == "true"
    # pyarrow itself reads neither of these variables
    if scheme == "gs":
        emulator = variables.get("STORAGE_EMULATOR_HOST")
        protocol, _, host = (given.get("endpoint_override") or emulator or "").rpartition("://")
        return fs.GcsFileSystem(
            anonymous=anonymous or (bool(emulator) and "endpoint_override" not in given),
            scheme=given.get("scheme") or protocol or ("http" if emulator else None),
            endpoint_override=host or None,
            retry_time_limit=timedelta(seconds=RETRY_LIMIT_S),
        )
    own_endpoint = variables.get("AWS_ENDPOINT_URL_S3") or variables.get("AWS_ENDPOINT_URL")
    endpoint = given.get("endpoint_override") or own_endpoint
    return fs.S3FileSystem(
        anonymous=anonymous,
        scheme=given.get("scheme"),
        endpoint_override=endpoint,
        region=given.get("region") or (None if endpoint else fs.resolve_s3_region(bucket)),
        connect_timeout=CONNECT_TIMEOUT_S,
        request_timeout=SILENCE_TIMEOUT_S,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=MAX_ATTEMPTS),
    )


def _list_remote(source: str, remote: Remote) -> Listing:
    pattern: tuple[str, ...] = ()
    try:
        filesystem = connect(remote)
        root = filesystem.get_file_info(remote.key)
        if root.type == fs.FileType.File:
            return Listing("file", _remote_parts(remote, remote.key)[:-1], [_found(remote, root)])
        folder = remote.key
        if root.type == fs.FileType.NotFound:
            folder, pattern = _split_glob(remote.key)
        infos = filesystem.get_file_info(fs.FileSelector(folder, recursive=True))
    except FileNotFoundError as error:
        raise _nothing_there(source, pattern) from error
    except (OSError, ValueError) as error:  # pyarrow's errors of wrong options and of the network
        raise InputError(
            f"--data.source {source}: cannot be listed ({error}); check the name, the endpoint, the network and "
            f"{CREDENTIALS[remote.scheme]}"
        ) from error
    base = _remote_parts(remote, folder)
    objects = [_found(remote, info) for info in infos if info.type == fs.FileType.File]
    files = [file for file in objects if _matches(file.parts[len(base) :], pattern)]
    if not files and root.type == fs.FileType.NotFound:
        raise _nothing_there(source, pattern)
    return Listing("glob" if pattern else "folder", base, files)


def _found(remote: Remote, info: fs.FileInfo) -> Found:
    path = f"{remote.scheme}://{info.path}"
    return Found(path + remote.options, _remote_parts(remote, info.path), info.size, path, False)


def _remote_parts(remote: Remote, key: str) -> tuple[str, ...]:
    return (remote.scheme, *(part for part in key.split("/") if part))


def _list_local(source: str, is_log: Callable[[str], bool]) -> Listing:
    path = os.path.abspath(os.path.expanduser(source))
    parts = _local_parts(path)
    try:
        try:
            found = os.stat(path)
        except (OSError, ValueError) as error:
            if isinstance(error, PermissionError):
                raise
            if os.path.islink(path):
                raise _dangling(path) from error
            folder, pattern = _split_glob(path)
            files = list(_walk(folder, pattern, is_log)) if pattern and os.path.isdir(folder) else []
            if not files:
                raise _nothing_there(source, pattern) from error
            return Listing("glob", _local_parts(folder), files)
        if stat.S_ISDIR(found.st_mode):
            return Listing("folder", parts, list(_walk(path, (), is_log)))
    except OSError as error:
        raise InputError(
            f"--data.source {source}: {error.filename or path} cannot be read ({error.strerror}); mend that"
        ) from error
    if not stat.S_ISREG(found.st_mode):
        raise InputError(f"--data.source {source}: neither a file nor a folder; write the log to a file first")
    file = Found(path, parts, found.st_size, os.path.realpath(path), os.path.islink(path))
    return Listing("file", parts[:-1], [file])


def _local_parts(path: str) -> tuple[str, ...]:
    return ("file", *(part for part in path.split("/") if part))


def _walk(root: str, pattern: tuple[str, ...], is_log: Callable[[str], bool]) -> Iterator[Found]:
    """Yields the regular files below a folder that match, real folders before linked ones: files keep real names."""
    base = _local_parts(root)
    folders: list[tuple[str, str, tuple[str, ...], bool]] = [(root, os.path.realpath(root), (), False)]
    links: list[tuple[str, str, tuple[str, ...], bool]] = []
    seen: set[str] = set()
    while folders or links:
        folder, real, above, linked = folders.pop() if folders else links.pop(0)
        if real in seen:
            continue
        seen.add(real)
        with os.scandir(folder) as entries:
            ordered = sorted(entries, key=lambda entry: entry.name)
        for entry in ordered:
            parts, is_link = (*above, entry.name), entry.is_symlink()
            if entry.is_dir(follow_symlinks=False) or (is_link and os.path.isdir(entry.path)):
                target = os.path.realpath(entry.path) if is_link else os.path.join(real, entry.name)
                # a link upwards would lead out of the source, and round in circles
                upwards = os.path.join(real, "").startswith(os.path.join(target, ""))
                if _matches(parts, pattern, partial=True) and not upwards:
                    (links if is_link else folders).append((entry.path, target, parts, linked or is_link))
            elif _matches(parts, pattern):
                try:
                    found = entry.stat()
                except OSError as error:
                    if not is_link:
                        raise
                    if is_log(entry.name):
                        raise _dangling(entry.path) from error
                    continue
                if stat.S_ISREG(found.st_mode):
                    target = os.path.realpath(entry.path) if is_link else os.path.join(real, entry.name)
                    yield Found(entry.path, base + parts, found.st_size, target, linked or is_link)


def _dangling(path: str) -> InputError:
    return InputError(f"--data.source: {path} is a link to nothing; mend or remove it")


def _nothing_there(source: str, pattern: tuple[str, ...]) -> InputError:
    what = "no file matches" if pattern else "no such file or folder"
    return InputError(f"--data.source {source}: {what}; give a log's path, or movielens-100k for the sample")


def _split_glob(path: str) -> tuple[str, tuple[str, ...]]:
    """Splits a path into what stands before its first wildcard and the names from there; no names: it is not a glob."""
    parts = path.split("/")
    first = next((index for index, part in enumerate(parts) if MAGIC.search(part)), len(parts))
    return "/".join(parts[:first]) or "/", tuple(part for part in parts[first:] if part)


def _matches(parts: tuple[str, ...], pattern: tuple[str, ...], partial: bool = False) -> bool:
    """Whether a path is a glob's match or lies in one; with `partial`, or is a folder on the way to one."""
    if not pattern:
        return not any(part.startswith((".", "_")) for part in parts)
    if not parts:
        return partial
    first, hidden = pattern[0], parts[0].startswith((".", "_"))
    if first == "**":
        return _matches(parts, pattern[1:], partial) or (not hidden and _matches(parts[1:], pattern, partial))
    if hidden and first[0] != parts[0][0]:
        return False
    return fnmatch.fnmatchcase(parts[0], first) and _matches(parts[1:], pattern[1:], partial)
