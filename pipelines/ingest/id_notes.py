"""Warnings about the log's ids: requests to forget that name no user, and two spellings of one number.

Everything goes to stderr as one line. Ids of a forget list are in no file, no manifest and no MLflow run.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from mgray.data.manifest import Manifest
from mgray.errors import InputError, first_few
from mgray.ingest.spelling import id_lines, plain_number
from mgray.schema import ITEM_ID, USER_ID
from pipelines.ingest.results import StagedUnit, TwoWays
from pipelines.ingest.staging import read_done, unpack_bits

IDS_SHOWN = 5
UNMATCHED_SHOWN = 50  # more than elsewhere: a person wrote the list, and has to mend it
MAX_ODD_NUMBERS = 2000  # odd ids of a log that are looked at
NAMES = {USER_ID: "users", ITEM_ID: "items"}

logger = logging.getLogger(__name__)


def read_forgotten(file: str) -> tuple[str, ...]:
    """Reads the user ids of data.privacy.forget, sorted. Raises InputError where it cannot be read."""
    try:
        text = Path(file).expanduser().read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"data.privacy.forget {file}: {error}; give a text file of user ids") from error
    return tuple(id_lines(text))


def unmatched(forgotten: tuple[str, ...], read: Sequence[StagedUnit]) -> list[str]:
    """Ids of the forget list that have no row in any unit. read: what the units hold."""
    found = np.zeros(len(forgotten), bool)
    for unit in read:
        found |= unpack_bits(unit.found_forgotten, len(forgotten))
    return [user for user, matched in zip(forgotten, found, strict=True) if not matched]


def tell_unmatched(file: str | None, forgotten: tuple[str, ...], manifest: Manifest, staged: Path) -> None:
    """Warns of requests that matched nothing: a job that runs by schedule must not fail for a user who is gone."""
    if not manifest.forget_unmatched:
        return
    read = [done for done in (read_done(staged / key) for key in manifest.staged) if done is not None]
    names = unmatched(forgotten, read) if len(read) == len(manifest.staged) else []
    shown = first_few([repr(name) for name in names], UNMATCHED_SHOWN)
    logger.warning(
        "data.privacy.forget %s: %d of %d ids name no user of the log, so nothing was dropped for them%s; an id must "
        "be spelled as in the log (white space and .0 aside): mend the list where that is not meant",
        file,
        manifest.forget_unmatched,
        len(forgotten),
        f": {shown}" if shown else "",
    )


def tell_titles(name: str, titled: pl.Series, ids: pa.Array) -> None:
    """Warns where a file of titles has none of the log's items. titled: its item ids."""
    wanted = titled.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(ids.type)
    if not pc.any(pc.is_in(ids, wanted)).as_py():
        logger.warning(
            "--data.items %s: none of its %d item ids is in the log, so no item gets a title (%s; the log has %d "
            "items, such as %r); give the file that belongs to this log",
            name,
            len(titled),
            f"such as {titled[0]!r}" if len(titled) else "it has no row with an id",
            len(ids),
            ids[0].as_py(),
        )


class OddNumbers(NamedTuple):
    """Ids of a log that are numbers in an unusual spelling, and the usual one of each: "007" and "7"."""

    ids: list[str]
    plain: list[str]


def odd_numbers(read: Sequence[StagedUnit], role: str) -> OddNumbers:
    """Gathers the odd ids that the units noted, at most MAX_ODD_NUMBERS. role: user_id or item_id."""
    ids = sorted({text for unit in read for text in unit.odd_ids[role]})[:MAX_ODD_NUMBERS]
    return OddNumbers(ids, [plain_number(text) for text in ids])


def tell_kept(file: str | None, forgotten: tuple[str, ...], odd: OddNumbers) -> None:
    """Warns where the log has a user who is the number of an id of the forget list in another spelling."""
    asked = sorted(set(odd.plain).intersection(forgotten))
    if asked:
        logger.warning(
            "data.privacy.forget %s: the log has users who are the number of %d ids of the list in another spelling "
            "(of %s, such as 007 is of 7); they were kept: add their spelling to the list where it is meant",
            file,
            len(asked),
            first_few([repr(name) for name in asked], IDS_SHOWN),
        )


def places_of(plain: tuple[str, ...] | list[str], ids: pa.Array) -> list[int]:
    """Which of the spellings are among the ids: their places in `plain`."""
    if not plain:
        return []
    texts = pa.array(plain, ids.type)
    there = pc.is_in(texts, ids.filter(pc.is_in(ids, texts)))
    return [place for place, found in enumerate(there.to_pylist()) if found]


def sum_two_ways(found: Sequence[TwoWays]) -> TwoWays:
    """Adds up what tasks found; the example is the first."""
    return TwoWays(sum(one.num_ids for one in found), next((one.example for one in found if one.num_ids), None))


def tell_spellings(
    source: str, role: str, merged: TwoWays, odd: OddNumbers, met: npt.NDArray[np.int64] | list[int], show: bool
) -> None:
    """Warns where two spellings of one number meet. met: places of `odd` whose usual spelling the log has too.

    show: whether an example may be given: not of users, where data.privacy is on.
    """
    name = NAMES[role]
    if merged.num_ids:
        example = f", such as {merged.example!r}" if show else ""
        logger.warning(
            "--data.source %s: %d %s are spelled in two ways (with and without .0 or white space%s): each is taken as "
            "one",
            source,
            merged.num_ids,
            name,
            example,
        )
    groups = pl.DataFrame({"id": odd.ids, "plain": odd.plain}, schema={"id": pl.String, "plain": pl.String})
    usual = {odd.plain[place] for place in met}
    apart = groups.filter(pl.col("plain").is_in(list(usual)) | pl.col("plain").is_duplicated())
    if apart.height:
        first, plain = apart.row(0)
        other = plain if plain in usual else apart.filter(pl.col("plain") == plain)["id"][1]
        example = f", such as {first!r} and {other!r}" if show else ""
        logger.warning(
            "--data.source %s: %d %s are one number with others in another spelling%s, and are taken as different %s; "
            "where they mean the same, write them in one way in the log",
            source,
            apart.height,
            name,
            example,
            name,
        )
