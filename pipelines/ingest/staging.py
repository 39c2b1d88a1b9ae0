"""Staged events: the parsed rows of a unit of the log, dictionary-encoded and split by bucket of user, on disk.

A unit is what one task reads: a range of a file, or several small files. Its folder is named by what it is made from,
so an ingest that was killed, or one that appends to the log, finds there what was read before:

    staged/UNIT/done.json             rows, pieces, event types, ...; written last
    staged/UNIT/rows-K.arrow          a record batch a bucket: user (of the bucket's list below), item, time, ...
    staged/UNIT/users-K.arrow         a record batch a bucket: the distinct users, hash and id, and how ids are spelled
    staged/UNIT/items-K.arrow         a record batch an item partition: the distinct items, likewise
    staged/UNIT/bad.arrow             rows that cannot be read

A piece K holds about PIECE_BYTES of the unit's text. Files are read by memory map: a task of a bucket touches its own
batches only.
"""

import hashlib
import hmac
import itertools
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from mgray.errors import InputError
from mgray.ingest.hashing import bucket_of, stable_hash
from mgray.ingest.spelling import ODD_NUMBER, is_no_value
from mgray.schema import FEATURE, ITEM_ID, OPTION_COLUMNS, QUARANTINE_SCHEMA, TIMESTAMP, USER_ID, OptionalColumn
from pipelines.ingest.arrow_files import write_batches
from pipelines.ingest.results import BadRow, StagedUnit
from pipelines.ingest.source.blocks import AS_IT_IS, Block, Respelled

STAGED_FOLDER = ".staged"  # beside the versions
DONE_FILE = "done.json"
BAD_ROWS_FILE = "bad.arrow"
PIECE_BYTES = 64 << 20  # of decompressed text, about
MAX_RAW_CHARS = 10_000  # of a quarantined row: an unmatched quote can make the rest of a file one row
WITHHELD = "(withheld: data.privacy)"  # a row that cannot be read may name its user in any field
MAX_EVENT_TYPES = 32_767
MAX_ODD_IDS = 200  # odd ids of a unit that are looked at

_ID_SCHEMA = pa.schema([pa.field("hash", pa.uint64()), pa.field("id", pa.string())])
_SPELLED_SCHEMA = _ID_SCHEMA.append(pa.field("spelled", pa.uint8()))  # bits: AS_IT_IS, RESPELLED


class Layers(NamedTuple):
    """How staged rows are split, and what was done to user ids."""

    num_buckets: int
    num_partitions: int  # of items
    features: tuple[str, ...]
    key: bytes | None  # of the pseudonyms
    forgotten: tuple[str, ...]  # raw user ids, sorted


class PieceWriter:
    """Writes the pieces of one unit into `folder`, which exists."""

    def __init__(self, folder: Path, layers: Layers) -> None:
        self.folder, self.layers = folder, layers
        self.pieces: list[int] = []  # rows of each
        self.event_types: dict[str, int] = {}
        self.good = self.bad = self.forgotten = 0
        self.first_time, self.last_time = np.inf, -np.inf
        self.number_columns: list[OptionalColumn] = []
        self.first_bad: BadRow | None = None
        self.found_forgotten = np.zeros(len(layers.forgotten), bool)
        self.odd_ids: dict[str, set[str]] = {USER_ID: set(), ITEM_ID: set()}
        self._waiting: list[pa.Table] = []
        self._respelled: list[Respelled] = []
        self._waiting_bytes = 0
        self._bad: list[pl.DataFrame] = []

    def add(self, block: Block, file_name: str) -> None:
        if block.bad is not None:
            bad = block.bad.with_columns(pl.lit(file_name).alias("file"), pl.col("raw").str.head(MAX_RAW_CHARS))
            if self.layers.key is not None or self.layers.forgotten:
                bad = bad.with_columns(pl.lit(WITHHELD).alias("raw"), pl.col("reason").str.replace(r"(?s)'.*'", "'…'"))
            self._bad.append(bad)
            self.bad += bad.height
            self.first_bad = self.first_bad or BadRow(**bad.row(0, named=True))
        if block.events.num_rows:
            self._waiting.append(_common(block.events, self.layers.features))
            self._respelled.append(block.respelled)
            self._waiting_bytes += block.events.nbytes
            if self._waiting_bytes >= PIECE_BYTES:
                self._flush()

    def close(self) -> StagedUnit:
        self._flush()
        if self._bad:
            table = pl.concat([bad.select(QUARANTINE_SCHEMA.names) for bad in self._bad])
            arrow = table.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(QUARANTINE_SCHEMA)
            write_batches(self.folder / BAD_ROWS_FILE, QUARANTINE_SCHEMA, arrow.to_batches())
        return StagedUnit(
            good=self.good,
            bad=self.bad,
            forgotten=self.forgotten,
            pieces=self.pieces,
            event_types=list(self.event_types),
            number_columns=self.number_columns,
            first_time=self.first_time if self.pieces else None,
            last_time=self.last_time if self.pieces else None,
            first_bad=self.first_bad,
            found_forgotten=pack_bits(self.found_forgotten),
            odd_ids={role: sorted(ids)[:MAX_ODD_IDS] for role, ids in self.odd_ids.items()},
        )

    def _flush(self) -> None:
        """Writes the blocks that wait as one piece."""
        if not self._waiting:
            return
        table = pa.concat_tables(self._waiting).unify_dictionaries()
        spelled = {
            role: _spelled(role, one_chunk(table[role]).dictionary, self._waiting, self._respelled)
            for role in (USER_ID, ITEM_ID)
        }
        self._waiting, self._respelled, self._waiting_bytes = [], [], 0
        self.good += table.num_rows
        raw_users = one_chunk(table[USER_ID])
        users = _private(raw_users, self.layers)
        if self.layers.forgotten:
            kept = pc.is_valid(users)
            self._note_forgotten(raw_users.filter(pc.invert(kept)))
            table, users = table.filter(kept), users.filter(kept)
            if not table.num_rows:
                return
        self._note_odd(ITEM_ID, one_chunk(table[ITEM_ID]).dictionary)
        if self.layers.key is None:
            self._note_odd(USER_ID, raw_users.dictionary)
        self._write_piece(table, users, spelled)

    def _write_piece(
        self, table: pa.Table, users: pa.DictionaryArray, spelled: dict[str, npt.NDArray[np.uint8] | None]
    ) -> None:
        """Writes events and their ids. users: of each event, as they are to be stored; spelled: see `_spelled`."""
        number = len(self.pieces)
        self.pieces.append(table.num_rows)
        time = one_chunk(table[TIMESTAMP]).to_numpy()
        self.first_time = min(self.first_time, float(time.min()))
        self.last_time = max(self.last_time, float(time.max()))
        by_user = _split_ids(users, self.layers.num_buckets, spelled[USER_ID])
        by_item = _split_ids(one_chunk(table[ITEM_ID]), self.layers.num_partitions, spelled[ITEM_ID])
        for kind, ids in (("users", by_user), ("items", by_item)):
            write_batches(self.folder / f"{kind}-{number}.arrow", ids.batches[0].schema, ids.batches)
        order = np.argsort(by_user.bucket, kind="stable")  # a radix sort: 16 bits
        bucket = by_user.bucket[order]
        columns = {
            "user": by_user.place[order] - by_user.starts[bucket].astype(np.int32),
            "item": by_item.place[order],
            "time": time[order],
            **{name: column[order] for name, column in self._optional_columns(table).items()},
        }
        rows = pa.record_batch(columns)
        bounds = np.searchsorted(bucket, np.arange(self.layers.num_buckets + 1)).tolist()
        slices = (rows.slice(low, high - low) for low, high in itertools.pairwise(bounds))
        write_batches(self.folder / f"rows-{number}.arrow", rows.schema, slices)

    def _optional_columns(self, table: pa.Table) -> dict[str, npt.NDArray[Any]]:
        """Numbers, where there is one, codes of event types, and features, in the order of the events."""
        columns: dict[str, npt.NDArray[Any]] = {}
        for column in OPTION_COLUMNS:
            given = one_chunk(table[column.role])
            if column.kind == "name":
                columns[column.role] = self._type_numbers(given)
                continue
            numbers = given.to_numpy(zero_copy_only=False).astype(column.dtype)
            if not np.isnan(numbers).all():
                self.number_columns += [] if column.name in self.number_columns else [column.name]
                columns[column.role] = numbers
        for place, name in enumerate(self.layers.features):
            values = one_chunk(table[FEATURE + name]).to_numpy(zero_copy_only=False)
            columns[f"feature_{place}"] = values.astype(np.float64)
        return columns

    def _note_forgotten(self, gone: pa.DictionaryArray) -> None:
        """Counts rows of users of the forget list, and notes which of its ids they match. gone: the rows' users."""
        here = gone.dictionary.take(gone.indices.unique())
        asked = pa.array(self.layers.forgotten, pa.string())
        self.found_forgotten |= pc.is_in(asked, here).to_numpy(zero_copy_only=False)
        self.forgotten += len(gone)

    def _note_odd(self, role: str, words: pa.Array) -> None:
        """Keeps some ids that are numbers in an unusual spelling: another id may name the same thing."""
        if len(self.odd_ids[role]) < MAX_ODD_IDS:
            ids = pl.Series(pl.from_arrow(words), dtype=pl.String)
            odd = ids.filter(ids.str.contains(ODD_NUMBER)).head(MAX_ODD_IDS + len(self.layers.forgotten))
            self.odd_ids[role].update(odd if role == ITEM_ID else set(odd).difference(self.layers.forgotten))

    def _type_numbers(self, column: pa.Array) -> npt.NDArray[np.int16]:
        """Numbers event types by the unit's own list; -1: blank."""
        encoded = column.dictionary_encode()
        numbers = [-1]
        for name in encoded.dictionary.to_pylist():
            is_none = name is None or is_no_value(name)
            numbers.append(-1 if is_none else self.event_types.setdefault(name, len(self.event_types)))
        check_event_types(len(self.event_types))
        codes = encoded.indices.fill_null(-1).to_numpy()
        return np.asarray(numbers, np.int16)[codes + 1]


def check_event_types(count: int) -> None:
    """Raises InputError where there are more event types than an int16 can number."""
    if count > MAX_EVENT_TYPES:
        raise InputError(
            f"data.columns.event_type: more than {MAX_EVENT_TYPES} kinds of event; is this the right column?"
        )


def _common(events: pa.Table, features: tuple[str, ...]) -> pa.Table:
    """Brings a block's columns to one form, whichever path read it."""
    columns: dict[str, Any] = {}
    for name in (USER_ID, ITEM_ID):
        column = events[name]
        if not pa.types.is_dictionary(column.type):
            column = column.cast(pa.string()).dictionary_encode()
        columns[name] = column.cast(pa.dictionary(pa.int32(), pa.string()))
    columns[TIMESTAMP] = events[TIMESTAMP].cast(pa.float64())
    missing = pa.nulls(events.num_rows)
    types = {column.role: pa.string() if column.kind == "name" else pa.float64() for column in OPTION_COLUMNS}
    types |= {FEATURE + name: pa.float64() for name in features}
    for name, wanted in types.items():
        columns[name] = (events[name] if name in events.column_names else missing).cast(wanted)
    return pa.table(columns)


def one_chunk(column: pa.ChunkedArray) -> pa.Array:
    combined = column.combine_chunks()
    return combined.chunk(0) if isinstance(combined, pa.ChunkedArray) else combined


def _spelled(
    role: str, words: pa.Array, blocks: Sequence[pa.Table], respelled: Sequence[Respelled]
) -> npt.NDArray[np.uint8] | None:
    """How the log spells each of some ids [D]: AS_IT_IS, RESPELLED or both. None: all as they are.

    words: the ids of the blocks' common dictionary; respelled: of each block.
    """
    if not any(role in one for one in respelled):
        return None
    found = np.zeros(len(words), np.uint8)
    for block, one in zip(blocks, respelled, strict=True):
        own = pc.index_in(one_chunk(block[role]).dictionary, words).to_numpy()
        by = np.zeros(len(words), np.uint8)
        by[own] = AS_IT_IS
        if role in one:
            places = pc.index_in(one[role]["id"], words).fill_null(-1).to_numpy()
            there = places >= 0  # an id that only rows set aside have is not in the dictionary
            by[places[there]] = one[role]["by"].to_numpy()[there]
        found |= by
    return found


def _private(users: pa.DictionaryArray, layers: Layers) -> pa.DictionaryArray:
    """Replaces forgotten users by null and, where there is a key, the others by pseudonyms; one step a distinct id."""
    names = users.dictionary
    if layers.forgotten:
        gone = pc.is_in(names, pa.array(layers.forgotten, pa.string()))
        indices = pc.if_else(gone.take(users.indices), pa.scalar(None, users.indices.type), users.indices)
        users = pa.DictionaryArray.from_arrays(indices, names)
    if layers.key is not None:
        hidden = [hmac.digest(layers.key, name.encode(), "sha256").hex() for name in names.to_pylist()]
        users = pa.DictionaryArray.from_arrays(users.indices, pa.array(hidden, pa.string()))
    return users


class _SplitIds(NamedTuple):
    """The distinct ids of a column by bucket, and where each row's id is."""

    place: npt.NDArray[np.int32]  # [E] each row's place among the ids, which lie bucket by bucket
    bucket: npt.NDArray[np.uint16]  # [E]
    starts: npt.NDArray[np.int64]  # place of each bucket's first id
    batches: list[pa.RecordBatch]  # the ids of each bucket


def _split_ids(column: pa.DictionaryArray, count: int, spelled: npt.NDArray[np.uint8] | None = None) -> _SplitIds:
    """Splits the distinct ids of a column [E] into `count` buckets by their hashes. spelled: see `_spelled`."""
    ids = column.dictionary
    codes = column.indices.to_numpy()
    used = np.zeros(len(ids), bool)
    used[codes] = True
    if not used.all():  # of rows that were taken out
        ids = ids.filter(pa.array(used))
        spelled = None if spelled is None else spelled[used]
        codes = (np.cumsum(used) - 1)[codes]
    hashes = stable_hash(ids)
    bucket = bucket_of(hashes, count)
    order = np.argsort(bucket, kind="stable")
    place = np.empty(len(order), np.int32)
    place[order] = np.arange(len(order), dtype=np.int32)
    bounds = np.searchsorted(bucket[order], np.arange(count + 1))
    columns = {"hash": pa.array(hashes[order]), "id": ids.take(pa.array(order)).cast(pa.string())}
    if spelled is None:
        batch = pa.record_batch(columns, _ID_SCHEMA)
    else:
        batch = pa.record_batch(columns | {"spelled": pa.array(spelled[order])}, _SPELLED_SCHEMA)
    slices = [batch.slice(low, high - low) for low, high in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)]
    return _SplitIds(place[codes], bucket[codes], bounds[:-1], slices)


def read_done(folder: Path) -> StagedUnit | None:
    """Reads what a unit holds; None where it is not there or not whole."""
    try:
        return StagedUnit.from_json((folder / DONE_FILE).read_text())
    except (FileNotFoundError, ValueError):
        return None


def commit_unit(draft: Path, folder: Path, done: StagedUnit) -> StagedUnit:
    """Puts a unit in place whole; the first of two writers wins, and both hold the same."""
    # flushed to disk first: after a crash of the machine no done.json may speak of rows that were lost
    for path in draft.iterdir():
        with path.open("rb") as written:
            os.fsync(written.fileno())
    with (draft / DONE_FILE).open("w") as file:
        file.write(done.to_json())
        file.flush()
        os.fsync(file.fileno())
    try:
        draft.rename(folder)
    except OSError:
        found = read_done(folder)
        if found is None:  # not whole: a machine crashed while it was written
            shutil.rmtree(folder)
            draft.rename(folder)
            return done
        shutil.rmtree(draft)
        return found
    return done


def pack_bits(values: npt.NDArray[np.bool_]) -> str:
    """Packs booleans into text for a JSON file; `unpack_bits` reads them back."""
    return np.packbits(values).tobytes().hex()


def unpack_bits(text: str, count: int) -> npt.NDArray[np.bool_]:
    return np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8), count=count).astype(bool)


def key_fingerprint(key: bytes) -> str:
    """A digest that tells two pseudonym keys apart and gives neither away."""
    return hashlib.sha256(b"mgray pseudonym key: " + hmac.digest(key, b"fingerprint", "sha256")).hexdigest()[:16]
