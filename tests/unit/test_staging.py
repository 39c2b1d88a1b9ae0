"""pipelines.ingest.staging: a unit's files hold its events in order, and nobody's name where names are to be hidden."""

import hashlib
import hmac
import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgray.errors import InputError
from mgray.ingest.hashing import bucket_of, stable_hash
from pipelines.ingest import staging
from pipelines.ingest.arrow_files import read_batch, read_batch_again, write_batches
from pipelines.ingest.results import StagedUnit
from pipelines.ingest.source.blocks import Block
from pipelines.ingest.staging import (
    Layers,
    PieceWriter,
    commit_unit,
    key_fingerprint,
    read_done,
)

KEY = b"a key of at least sixteen bytes"
PLAIN = Layers(num_buckets=3, num_partitions=2, features=(), key=None, forgotten=())
NAN = float("nan")

Row = tuple[Any, ...]  # user, item, time, rating, event type, features


def block(rows: list[Row], fast: bool = False, bad: pl.DataFrame | None = None) -> Block:
    """Events as the careful path has them, all columns of plain text, or as the fast one, ids as dictionaries."""
    users, items, times, ratings, kinds = ([row[place] for row in rows] for place in range(5))
    columns: dict[str, Any] = {
        "user_id": pa.array(users, pa.large_string()),
        "item_id": pa.array(items, pa.large_string()),
        "timestamp": pa.array(times, pa.float64()),
        "rating": pa.array(ratings, pa.float64()),
        "event_type": pa.array(kinds, pa.large_string()),
    }
    if fast:
        for name in ("user_id", "item_id"):
            columns[name] = columns[name].cast(pa.string()).dictionary_encode()
        columns = {name: column for name, column in columns.items() if column.null_count < len(rows)}
    for place in range(len(rows[0]) - 5 if rows else 0):
        columns[f"feature:f{place}"] = pa.array([row[5 + place] for row in rows], pa.float64())
    return Block(pa.table(columns), bad)


def bad_rows(*rows: tuple[int, str, str]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema={"line": pl.Int64, "reason": pl.String, "raw": pl.String}, orient="row")


def write(folder: Path, layers: Layers, *pieces: list[Block]) -> dict[str, Any]:
    """Stages each list of blocks as a piece of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    writer = PieceWriter(folder, layers)
    for blocks in pieces:
        for one in blocks:
            writer.add(one, "log.csv")
        writer._flush()
    return json.loads(writer.close().to_json())


def staged(folder: Path, layers: Layers, done: dict[str, Any]) -> list[list[Row]]:
    """The rows of each bucket in order, ids and event types as text again, NaN as None."""
    found: list[list[Row]] = []
    for bucket in range(layers.num_buckets):
        rows: list[Row] = []
        for piece in range(len(done["pieces"])):
            users = read_batch(folder / f"users-{piece}.arrow", bucket)["id"].to_pylist()
            parts = range(layers.num_partitions)
            own = [read_batch(folder / f"items-{piece}.arrow", part)["id"].to_pylist() for part in parts]
            items = list(itertools.chain.from_iterable(own))
            batch = read_batch(folder / f"rows-{piece}.arrow", bucket).to_pydict()
            nothing = [None] * len(batch["user"])
            kinds = [None if kind < 0 else done["event_types"][kind] for kind in batch.get("event_type", [])] or nothing
            numbers = [batch.get("rating", nothing)]
            numbers += [batch[f"feature_{place}"] for place in range(len(layers.features))]
            known = [[None if n is None or math.isnan(n) else n for n in column] for column in numbers]
            ids = [[users[code] for code in batch["user"]], [items[code] for code in batch["item"]]]
            rows += zip(*ids, batch["time"], known[0], kinds, *known[1:], strict=True)
        found.append(rows)
    return found


def by_bucket(rows: list[Row], num_buckets: int) -> list[list[Row]]:
    """The same by hand: a user's bucket is the hash of the id."""

    def bucket(user: str) -> int:
        return int(bucket_of(stable_hash(pa.array([user])), num_buckets)[0])

    return [[row for row in rows if bucket(row[0]) == number] for number in range(num_buckets)]


def contents(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


# ---------------------------------------------------------------- rows

names = st.text(st.sampled_from("ab\u00e9 "), min_size=1, max_size=2).filter(str.strip)
row = st.tuples(
    names,
    names,
    st.integers(-3, 3).map(float) | st.just(0.5),
    st.sampled_from([None, 1.0, 0.5]),
    st.sampled_from([None, "view", "buy", "", " "]),
    st.sampled_from([None, 2.5]),
    st.sampled_from([None, -1.0]),
)
pieces_of_blocks = st.lists(st.lists(st.tuples(st.lists(row, max_size=6), st.booleans()), max_size=3), max_size=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("staging")


@settings(max_examples=100, deadline=None)
@given(
    pieces_of_blocks,
    st.integers(1, 4),
    st.integers(1, 3),
    st.none() | st.just(KEY),
    st.sets(names, max_size=2),
    st.integers(0, 2**62),
)
def test_staged_rows_are_the_events_in_order(
    folder: Path,
    pieces: list[list[tuple[list[Row], bool]]],
    num_buckets: int,
    num_partitions: int,
    key: bytes | None,
    forgotten: set[str],
    place: int,
) -> None:
    layers = Layers(num_buckets, num_partitions, ("f0", "f1"), key, tuple(sorted(forgotten)))
    here = folder / str(place)
    done = write(here, layers, *[[block(rows, fast) for rows, fast in blocks if rows] for blocks in pieces])
    log = [row for blocks in pieces for rows, _ in blocks for row in rows]
    kept = [row for row in log if row[0] not in forgotten]
    assert (done["good"], done["forgotten"]) == (len(log), len(log) - len(kept))
    sizes = [sum(row[0] not in forgotten for rows, _ in blocks for row in rows) for blocks in pieces]
    assert done["pieces"] == [size for size in sizes if size]  # a piece of the forgotten alone is none
    times = [row[2] for row in kept]
    assert (done["first_time"], done["last_time"]) == (min(times, default=None), max(times, default=None))
    wanted = [
        (
            row[0] if key is None else hmac.new(key, row[0].encode(), hashlib.sha256).hexdigest(),
            *row[1:4],
            row[4] if row[4] and row[4].strip() else None,
            *row[5:],
        )
        for row in kept
    ]
    assert done["has_ratings"] == any(row[3] is not None for row in kept)
    assert done["event_types"] == list(dict.fromkeys(row[4] for row in wanted if row[4]))
    assert staged(here, layers, done) == by_bucket(wanted, num_buckets)


def test_pieces_by_hand(tmp_path: Path) -> None:
    first = [("u", "x", 3.0, 4.5, "buy"), ("v", "y", 1.0, None, " "), ("u", "x", 2.0, None, "view")]
    second = [("w", "x", 9.0, None, None), ("u", "z", 5.0, None, "view")]
    done = write(tmp_path, PLAIN._replace(num_buckets=1, num_partitions=1), [block(first)], [block(second, fast=True)])
    assert done == {
        "good": 5,
        "bad": 0,
        "forgotten": 0,
        "pieces": [3, 2],
        "event_types": ["buy", "view"],
        "has_ratings": True,
        "first_time": 1.0,
        "last_time": 9.0,
        "first_bad": None,
        "found_forgotten": "",
        "odd_ids": {"user_id": [], "item_id": []},
    }
    rows = read_batch(tmp_path / "rows-0.arrow", 0)
    assert rows.schema.names == ["user", "item", "time", "rating", "event_type"]
    assert rows["event_type"].to_pylist() == [0, -1, 1]  # blank is none
    assert rows["rating"].to_pylist()[0] == 4.5
    # the second piece has no rating: it needs no column
    assert read_batch(tmp_path / "rows-1.arrow", 0).schema.names == ["user", "item", "time", "event_type"]
    users = read_batch(tmp_path / "users-1.arrow", 0)
    assert users["id"].to_pylist() == ["w", "u"]
    assert users["hash"].to_pylist() == stable_hash(pa.array(["w", "u"])).tolist()
    assert not (tmp_path / "bad.arrow").exists()
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]  # no draft is left


def test_a_piece_is_full_at_some_bytes(tmp_path: Path) -> None:
    count = 400_000  # of 8 bytes a time and more of ids: 64 MiB are full after a few blocks of them
    table = pa.table(
        {
            "user_id": pa.array([f"user {number}" for number in range(count)]),
            "item_id": pa.array(["x" * 40] * count),
            "timestamp": pa.array(np.arange(float(count))),
        }
    )
    writer = PieceWriter(tmp_path, PLAIN)
    for _ in range(4):
        writer.add(Block(table, None), "log.csv")
    done = json.loads(writer.close().to_json())
    num_full = -(-staging.PIECE_BYTES // table.nbytes)
    assert done["pieces"] == [num_full * count, (4 - num_full) * count]
    assert done["good"] == 4 * count


def test_nothing_to_stage(tmp_path: Path) -> None:
    done = write(tmp_path, PLAIN, [block([])])
    assert (done["good"], done["pieces"], done["first_time"], done["last_time"]) == (0, [], None, None)
    assert list(tmp_path.iterdir()) == []


def test_everybody_is_forgotten(tmp_path: Path) -> None:
    layers = PLAIN._replace(forgotten=("u", "v"))
    done = write(tmp_path, layers, [block([("u", "x", 1.0, None, "view"), ("v", "y", 2.0, 1.0, None)])])
    assert (done["good"], done["forgotten"], done["pieces"]) == (2, 2, [])
    assert (done["event_types"], done["has_ratings"]) == ([], False)
    assert (done["first_time"], done["last_time"]) == (None, None)
    assert list(tmp_path.iterdir()) == []


def test_too_many_event_types(tmp_path: Path) -> None:
    rows = [("u", "x", 1.0, None, f"kind {number}") for number in range(staging.MAX_EVENT_TYPES + 1)]
    one = PLAIN._replace(num_buckets=1)
    assert staged(tmp_path / "most", one, write(tmp_path / "most", one, [block(rows[:-1])])) == [rows[:-1]]
    with pytest.raises(InputError, match="is this the right column"):
        write(tmp_path / "more", one, [block(rows)])


# ---------------------------------------------------------------- bad rows and privacy


def test_bad_rows_have_their_file_and_are_not_kept_at_length(tmp_path: Path) -> None:
    first = bad_rows((3, "user_id is empty", ",x,1"), (9, "its quotes do not match", '"' + "\u00e9" * 20_000))
    done = write(tmp_path, PLAIN, [block([("u", "x", 1.0, None, None)], bad=first), block([], bad=bad_rows())])
    assert (done["good"], done["bad"]) == (1, 2)
    assert done["first_bad"] == {"file": "log.csv", "line": 3, "reason": "user_id is empty", "raw": ",x,1"}
    rows = read_batch(tmp_path / "bad.arrow", 0).to_pylist()
    assert [row | {"raw": len(row["raw"])} for row in rows] == [
        {"file": "log.csv", "line": 3, "reason": "user_id is empty", "raw": 4},
        {"file": "log.csv", "line": 9, "reason": "its quotes do not match", "raw": staging.MAX_RAW_CHARS},
    ]


@pytest.mark.parametrize("forgotten", [(), ("secret-7", "secret-12")])
@pytest.mark.parametrize("fast", [False, True])
def test_no_raw_user_id_is_in_the_files_of_pseudonyms(tmp_path: Path, fast: bool, forgotten: tuple[str, ...]) -> None:
    users = [f"secret-{number}" for number in range(40)]
    rows = [(user, f"item-{place % 5}", float(place), 1.0, "view") for place, user in enumerate(users * 3)]
    bad = bad_rows(
        (5, "timestamp 'secret-7' is neither seconds since 1970 nor ISO 8601", "secret-7,item-1,secret-7"),
        (6, "rating 'secret'\nsecret-8' is not a number", "secret-8,item-1,1,secret'\nsecret-8"),
    )
    layers = PLAIN._replace(key=KEY, forgotten=forgotten)
    done = write(tmp_path / "draft", layers, [block(rows[:60], fast, bad)], [block(rows[60:], fast)])
    commit_unit(tmp_path / "draft", tmp_path / "unit", StagedUnit.from_json(json.dumps(done)))
    found = contents(tmp_path)
    assert b"secret" not in found
    assert KEY not in found
    assert b"item-4" in found  # items are in plain, uncompressed text: had a user's id been written, it would be found
    wanted = [
        (hmac.new(KEY, user.encode(), hashlib.sha256).hexdigest(), *rest)
        for user, *rest in rows
        if user not in forgotten
    ]
    assert staged(tmp_path / "unit", layers, done) == by_bucket(wanted, 3)
    for user in users:
        pseudonym = hmac.new(KEY, user.encode(), hashlib.sha256).hexdigest().encode()
        assert (pseudonym in found) == (user not in forgotten)
    assert done["forgotten"] == 3 * len(forgotten)


def test_the_forgotten_are_nowhere_without_pseudonyms_either(tmp_path: Path) -> None:
    rows = [(user, "x", 1.0, None, None) for user in ("gone", "here", "gone", "gone too")]
    done = write(tmp_path, PLAIN._replace(forgotten=("gone",)), [block(rows, bad=bad_rows((9, "no", "gone,x")))])
    assert done["forgotten"] == 2
    found = contents(tmp_path) + json.dumps(done).encode()
    assert b"here" in found
    assert b"gone" not in found.replace(b"gone too", b"")


def test_fingerprints_tell_keys_apart_and_give_none_away() -> None:
    assert key_fingerprint(KEY) == key_fingerprint(KEY)
    assert key_fingerprint(KEY) != key_fingerprint(KEY + b"!")
    assert len(bytes.fromhex(key_fingerprint(KEY))) == 8
    for plain in (hashlib.sha256(KEY), hmac.new(KEY, b"fingerprint", hashlib.sha256)):
        assert not plain.hexdigest().startswith(key_fingerprint(KEY))


# ---------------------------------------------------------------- commit


def holding(good: int) -> StagedUnit:
    return StagedUnit(good, 0, 0, [good], [], [], 0.0, 0.0, None, "", {"user_id": [], "item_id": []})


def test_the_first_writer_of_a_unit_wins(tmp_path: Path) -> None:
    unit = tmp_path / "unit"
    assert read_done(unit) is None
    for number in range(2):
        draft = tmp_path / f".draft-{number}"
        draft.mkdir()
        (draft / "whose").write_text(str(number))
        assert commit_unit(draft, unit, holding(number)) == holding(0)
    assert (unit / "whose").read_text() == "0"
    assert read_done(unit) == holding(0)
    assert [path.name for path in tmp_path.iterdir()] == ["unit"]


@pytest.mark.parametrize("left", [None, "", '{"good": '])
def test_a_unit_that_is_not_whole_is_replaced(tmp_path: Path, left: str | None) -> None:
    unit, draft = tmp_path / "unit", tmp_path / ".draft"
    unit.mkdir()
    draft.mkdir()
    (unit / "rows-0.arrow").write_text("half")
    if left is not None:
        (unit / staging.DONE_FILE).write_text(left)
    assert read_done(unit) is None
    assert commit_unit(draft, unit, holding(7)) == holding(7)
    assert read_done(unit) == holding(7)
    assert [path.name for path in unit.iterdir()] == [staging.DONE_FILE]


def test_a_file_that_replaces_another_is_read_anew(tmp_path: Path) -> None:
    schema = pa.schema([("code", pa.int32())])
    for turn in range(3):
        batches = [pa.record_batch({"code": pa.array([turn, number], pa.int32())}) for number in range(2)]
        write_batches(tmp_path / "codes.arrow", schema, batches)
        for number in range(2):
            assert read_batch_again(tmp_path / "codes.arrow", number)["code"].to_pylist() == [turn, number]
