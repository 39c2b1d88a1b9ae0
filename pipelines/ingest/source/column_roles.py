"""Which column of a log file has which role: user_id, item_id, that of an event column, feature:NAME."""

from collections.abc import Iterable
from pathlib import PurePosixPath
from urllib.parse import unquote

from mgray.config import ColumnsConfig
from mgray.errors import InputError, first_few
from mgray.schema import FEATURE, ITEM_ID, OPTION_COLUMNS, TIMESTAMP, USER_ID
from pipelines.ingest.source.filesystems import parse_uri
from pipelines.ingest.source.log_files import Format, LogFile
from pipelines.ingest.source.presets import RATINGS_CSV

NAMES_SHOWN = 20
NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"  # Hive's and Spark's value of a null in a path


def map_columns(
    file: LogFile, found: list[str], columns: ColumnsConfig, separator: str | None = None
) -> tuple[dict[str, str], dict[str, str | None] | None]:
    """Maps roles -> (role -> column of the file, role -> value that the path tells, where the file has no column).

    found: the file's columns. Raises InputError where a column is missing or its name is not unique.
    """
    if columns.header is not None and file.format in ("jsonl", "parquet", "inter"):
        raise InputError(
            f"{file.path}: data.columns.header names the columns of logs without a header line, and a {file.format} "
            "file names its own; leave it out"
        )
    wanted = wanted_columns(found, file.format, columns)
    told = path_values(file.path)
    # JSON Lines may bring an optional key later than in the rows that were looked at, and a name is asked for by role
    asked = {one.role: getattr(columns, one.role) for one in OPTION_COLUMNS}
    partitions = {
        role: told[name]
        for role, name in wanted.items()
        if name not in found and name in told and asked.get(role, name) is not None
    }
    wanted = {role: name for role, name in wanted.items() if role not in partitions}
    for role, name in wanted.items():
        if name not in found and not (file.format == "jsonl" and role in asked):
            raise InputError(f"{file.path}: {_missing(file, found, columns, role, name, separator)}")
        if found.count(name) > 1:
            raise InputError(f"{file.path}: {found.count(name)} columns are named {name!r}; rename all but one")
    return wanted, partitions or None


def wanted_columns(found: Iterable[str], kind: Format, columns: ColumnsConfig) -> dict[str, str]:
    """Names the column that each role is to be read from (role -> name), in a file that has the columns `found`."""
    found = set(found)
    wanted = {USER_ID: columns.user_id, ITEM_ID: columns.item_id}
    if columns.timestamp is not None:
        wanted[TIMESTAMP] = columns.timestamp
    for column in OPTION_COLUMNS:
        given: str | None = getattr(columns, column.role)
        # JSON Lines may bring a key later than in the rows that were looked at.
        if given is not None or column.role in found or kind == "jsonl":
            wanted[column.role] = given or column.role
    if set(RATINGS_CSV.values()) <= found:
        wanted |= {role: own for role, own in RATINGS_CSV.items() if wanted.get(role) == role and role not in found}
    return wanted | {FEATURE + feature: feature for feature in columns.features}


def path_values(path: str) -> dict[str, str | None]:
    """Columns that a path tells, where folders are named NAME=VALUE as Hive does."""
    remote = parse_uri(path)
    parts = PurePosixPath(path if remote is None else remote.key).parts[:-1]
    pairs = (part.split("=", 1) for part in parts if "=" in part)
    return {unquote(name): None if value == NULL_PARTITION else unquote(value) for name, value in pairs}


def lacking_roles(file: LogFile, found: list[str], columns: ColumnsConfig) -> list[str]:
    """The roles whose columns a header does not have."""
    told = path_values(file.path)
    wanted = wanted_columns(found, file.format, columns)
    return [role for role, name in wanted.items() if name not in found and name not in told]


def are_histories(file: LogFile, columns: ColumnsConfig, wanted: dict[str, str], in_lists: dict[str, bool]) -> bool:
    """Whether a row is a user with a list of items. Raises InputError where the columns do not go together."""
    item = wanted.get(ITEM_ID)
    is_histories = in_lists.get(ITEM_ID, False)
    if is_histories and columns.rows == "events":
        raise InputError(f"{file.path}: column {item!r} holds lists; leave --data.columns.rows out")
    if not is_histories and columns.rows == "histories":
        raise InputError(f"{file.path}: column {item!r} holds no lists; leave --data.columns.rows out")
    if in_lists.get(USER_ID):
        raise InputError(
            f"{file.path}: column {wanted[USER_ID]!r} holds lists, and a row is of one user; {how_to_name(USER_ID)}"
        )
    for role, name in wanted.items():
        if in_lists.get(role) and not is_histories:
            raise InputError(
                f"{file.path}: column {name!r} holds lists, and that of the items does not; {how_to_name(role)}"
            )
    return is_histories


def role_name(role: str) -> str:
    return "feature" if role.startswith(FEATURE) else role


def how_to_name(role: str) -> str:
    if role.startswith(FEATURE):
        return "name the log's own columns of numbers in data.columns.features"
    return f"name the log's own with --data.columns.{role} NAME"


def _missing(
    file: LogFile, found: list[str], columns: ColumnsConfig, role: str, name: str, separator: str | None
) -> str:
    names = first_few(found, NAMES_SHOWN)
    mend = how_to_name(role)
    if separator is not None and file.format not in ("inter", "u.data") and columns.header is None:
        mend += ", or all columns in data.columns.header if the log has no header line"
        if len(found) == 1:
            mend += ", or what separates them with --data.columns.separator"
    if role == TIMESTAMP:
        mend += "; of a log without times: --data.columns.timestamp none"
    return f"no column {name!r}; columns found: {names or 'none'}; {mend}"
