"""The rules that drop events, features, event types, splits and formats, each against a plain loop over a drawn log."""

import gzip
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mgray.config import CleanConfig
from mgray.schema import TEST, TRAIN, VALID
from tests.plain_ingest import (
    COLUMNS,
    DAY_S,
    Decoded,
    Event,
    decode,
    digests,
    draw_log,
    numbers,
    plain_clean,
    vocabulary,
    write_csv,
)

ROWS = draw_log(seed=1, num_events=3000)
ALONE = {
    "nothing": {},
    "min_timestamp": {"min_timestamp": 2.5 * DAY_S},
    "max_timestamp": {"max_timestamp": 15 * DAY_S},
    "min_rating": {"min_rating": 2.0},
    "max_rating": {"max_rating": 3.5},
    "duplicates": {"duplicates": True},
    "bots": {"max_user_events_per_day": 20},
    "repeats": {"repeat_window_s": 600.0},
    "min_item_events": {"min_item_events": 20},
}
TOGETHER = {
    "min_timestamp": 1.5 * DAY_S,
    "max_timestamp": 18 * DAY_S,
    "min_rating": 1.5,
    "max_rating": 4.5,
    "duplicates": True,
    "max_user_events_per_day": 9,
    "repeat_window_s": 600.0,
    "min_item_events": 12,
}


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_csv(tmp_path_factory.mktemp("log") / "log.csv", ROWS)


def check_histories(found: dict[str, Decoded], expected: dict[str, list[Event]], warm: set[str]) -> None:
    assert set(found) == set(expected)
    for user, history in expected.items():
        row = found[user]
        assert row.items == [event.item if event.item in warm else None for event in history], user
        assert row.times == [event.time for event in history], user
        assert row.ratings == [event.rating for event in history], user
        assert row.kinds == [event.kind for event in history], user


def train_counts(found: dict[str, Decoded], expected: dict[str, list[Event]], column: str = "item") -> Counter[str]:
    values = (getattr(event, column) for user, row in found.items() for event in expected[user][: row.train_end])
    return Counter(value for value in values if value is not None)


def ranked(counts: Counter[str]) -> list[str]:
    return sorted(counts, key=lambda name: (-counts[name], name))


@pytest.mark.parametrize("rules", [*ALONE.values(), TOGETHER], ids=[*ALONE, "together"])
def test_rules(tmp_path: Path, log: Path, run_ingest: Callable, rules: dict) -> None:
    rules = {"duplicates": False} | rules
    result = run_ingest(log, range_bytes=40_000, num_shards=3, clean=rules)
    expected = plain_clean(ROWS, CleanConfig(**rules))
    written = sum(map(len, expected.histories.values()))
    assert result.manifest.rows == {
        "read": len(ROWS),
        "written": written,
        **{f"dropped_{rule}": count for rule, count in expected.dropped.items()},
        "quarantined": 0,
    }
    on = [rule for rule in expected.dropped if rule != "short_users"]
    assert all(expected.dropped[rule] for rule in on), "the drawn log breaks every rule that is on"
    assert result.manifest.users == len(expected.histories)
    found = decode(result)
    counts = train_counts(found, expected.histories)
    check_histories(found, expected.histories, set(counts))
    assert {row["item_id"]: row["num_train_events"] for row in vocabulary(result)} == counts
    assert list(numbers(result)) == ranked(counts)
    kinds = ranked(train_counts(found, expected.histories, "kind"))
    assert [kind.name for kind in result.manifest.event_types] == kinds
    for user, row in found.items():
        length = len(expected.histories[user])
        assert (row.train_end, row.valid_end) == (length - 2, length - 1)


def test_core_is_a_fixed_point(tmp_path: Path, run_ingest: Callable) -> None:
    """A sparse log, in which one item that goes takes a user along, who takes the next item along."""
    rows = draw_log(seed=3, num_events=420, num_users=110, num_items=150)
    chain = [Event(f"c{n}", f"k{n + step}", float(n)) for n in range(30) for step in range(3)]  # a domino row
    rules = {"min_item_events": 3}
    expected = plain_clean([*rows, *chain], CleanConfig(**rules))
    assert expected.turns > 6
    result = run_ingest(write_csv(tmp_path / "log.csv", [*rows, *chain]), range_bytes=5000, num_shards=4, clean=rules)
    assert result.manifest.rows == {
        "read": len(rows) + len(chain),
        "written": sum(map(len, expected.histories.values())),
        **{f"dropped_{rule}": count for rule, count in expected.dropped.items()},
        "quarantined": 0,
    }
    found = decode(result)
    check_histories(found, expected.histories, set(numbers(result)))
    assert found
    left = Counter(event.item for history in expected.histories.values() for event in history)
    assert min(left.values()) >= 3


def test_cold_items(log: Path, run_ingest: Callable) -> None:
    result = run_ingest(log, min_item_count=12)
    expected = plain_clean(ROWS, CleanConfig())
    found = decode(result)
    counts = train_counts(found, expected.histories)
    warm = {item for item, count in counts.items() if count >= 12}
    cold = {item: count for item, count in counts.items() if count < 12}
    assert cold
    check_histories(found, expected.histories, warm)
    assert {row["item_id"]: row["num_train_events"] for row in vocabulary(result)} == {i: counts[i] for i in warm}
    table = pq.read_table(result.path / result.manifest.cold_items_file).to_pylist()
    assert {row["item_id"]: row["num_train_events"] for row in table} == cold
    assert (result.manifest.items, result.manifest.cold_items) == (len(warm), len(cold))


@pytest.mark.parametrize("split", ["leave_one_out", "temporal", "random"])
def test_features_are_standardized_by_the_training_part(log: Path, run_ingest: Callable, split: str) -> None:
    settings = {"split": split, "columns": {"features": ("price", "age")}}
    result = run_ingest(log, range_bytes=40_000, num_shards=3, **settings)
    expected = plain_clean(ROWS, CleanConfig()).histories
    found = decode(result)
    assert set(found) == set(expected)
    train: list[tuple[float, float]] = []
    raw: dict[str, np.ndarray] = {}
    for user, history in expected.items():
        row = found[user]
        raw[user] = np.array([(np.nan if e.price is None else e.price, e.age) for e in history], np.float64)
        parts = row.parts or [TRAIN] * row.train_end + [VALID] * (len(history) - row.train_end)
        train += [tuple(raw[user][place]) for place, part in enumerate(parts) if part == TRAIN]
    values = np.array(train, np.float64)
    mean, std = np.nanmean(values, axis=0), np.nanstd(values, axis=0)
    assert [feature.name for feature in result.manifest.features] == ["price", "age"]
    assert [feature.mean for feature in result.manifest.features] == pytest.approx(mean, rel=1e-12)
    assert [feature.std for feature in result.manifest.features] == pytest.approx(std, rel=1e-12)
    everything = np.concatenate(list(raw.values()))
    assert abs(np.nanmean(everything, axis=0) - mean).max() > 1e-6, "the whole log's statistics are others"
    for user, row in found.items():
        scaled = (raw[user] - mean) / std  # NaN: missing
        np.testing.assert_allclose(np.array(row.features, float), scaled.reshape(-1), rtol=1e-6, atol=1e-6)


def test_event_types_are_numbered_by_training_events(tmp_path: Path, run_ingest: Callable) -> None:
    """Training part: 40 views, 20 buys, 20 carts; in all, more buys than views. `apply` only tests."""
    rows = [
        Event(f"u{user}", f"i{place}", float(place), kind=kind)
        for user in range(20)
        for place, kind in enumerate(
            ["view", "cart", None, "buy", "view", "buy", "buy" if user < 10 else "apply"]  # the last but one validates
        )
    ]
    log = write_csv(tmp_path / "log.csv", rows)
    result = run_ingest(log)
    kinds = [(kind.name, kind.events) for kind in result.manifest.event_types]
    assert kinds == [("view", 40), ("buy", 50), ("cart", 20)]  # events of all parts
    assert result.manifest.has_event_types
    found = decode(result)
    assert found["u0"].kinds == ["view", "cart", None, "buy", "view", "buy", "buy"]
    assert found["u19"].kinds == ["view", "cart", None, "buy", "view", "buy", None]
    assert "apply" in (result.path / result.manifest.report_file).read_text()  # not lost from sight
    # units that meet the names in orders of their own, and other buckets
    units = run_ingest(log, home=tmp_path / "units", range_bytes=300)
    assert len(units.manifest.staged) > 5
    assert units.manifest.fingerprint == result.manifest.fingerprint
    buckets = run_ingest(log, num_shards=5)
    assert buckets.manifest.event_types == result.manifest.event_types
    assert decode(buckets) == found


def test_event_types_that_never_train_are_none(tmp_path: Path, run_ingest: Callable) -> None:
    rows = [
        Event(f"u{user}", f"i{place}", float(place), kind=kind)
        for user in range(5)
        for place, kind in enumerate([None, None, "view", "buy"])
    ]
    result = run_ingest(write_csv(tmp_path / "log.csv", rows))
    assert (result.manifest.event_types, result.manifest.has_event_types) == ([], False)
    assert result.manifest.outside_event_types == ["buy", "view"]
    assert [row.kinds for row in decode(result).values()] == [[None] * 4] * 5


def test_random_split(tmp_path: Path, log: Path, run_ingest: Callable) -> None:
    result = run_ingest(log, split="random")
    expected = plain_clean(ROWS, CleanConfig()).histories
    found = decode(result)
    counts = Counter(part for row in found.values() for part in row.parts)
    total = sum(counts.values())
    assert total == result.manifest.rows["written"]
    # four standard deviations of a binomial
    for part, share in ((TRAIN, 0.8), (VALID, 0.1), (TEST, 0.1)):
        assert abs(counts[part] - share * total) < 4 * (share * (1 - share) * total) ** 0.5
    manifest = result.manifest
    assert (manifest.train_events, manifest.valid_events, manifest.test_events) == (counts[0], counts[1], counts[2])
    assert {(row.train_end, row.valid_end) for row in found.values()} == {(0, 0)}
    trained = Counter(
        event.item
        for user, row in found.items()
        for event, part in zip(expected[user], row.parts, strict=True)
        if part == TRAIN
    )
    assert {row["item_id"]: row["num_train_events"] for row in vocabulary(result)} == trained
    check_histories(found, expected, set(trained))
    # an event's part is its own: other users, cuts and shards do not move it
    half = write_csv(tmp_path / "half.csv", [event for event in ROWS if event.user[-1] in "02468"])
    for user, row in decode(run_ingest(half, split="random", num_shards=5, range_bytes=9000)).items():
        assert row.parts == found[user].parts


@pytest.mark.parametrize("cuts", [{}, {"valid_from": 9 * DAY_S, "test_from": 14 * DAY_S}])
def test_nothing_after_a_cut_trains(log: Path, run_ingest: Callable, cuts: dict) -> None:
    result = run_ingest(log, split="temporal", range_bytes=40_000, **cuts)
    expected = plain_clean(ROWS, CleanConfig()).histories
    times = sorted(event.time for event in ROWS)
    valid_from = cuts.get("valid_from", times[len(times) * 8 // 10])
    test_from = cuts.get("test_from", times[len(times) * 9 // 10])
    assert (result.manifest.split.valid_from, result.manifest.split.test_from) == (valid_from, test_from)
    found = decode(result)
    for row in found.values():
        assert all(moment < valid_from for moment in row.times[: row.train_end])
        assert all(valid_from <= moment < test_from for moment in row.times[row.train_end : row.valid_end])
        assert all(moment >= test_from for moment in row.times[row.valid_end :])
    counts = Counter(event.item for history in expected.values() for event in history if event.time < valid_from)
    assert {row["item_id"]: row["num_train_events"] for row in vocabulary(result)} == counts
    check_histories(found, expected, set(counts))


def test_a_skewed_log(tmp_path: Path, run_ingest: Callable) -> None:
    """One user of 5% of the events, one item of 20% of them: a bucket and a code of their own do not burst."""
    rows = [
        Event(
            "heavy" if number % 20 == 0 else f"u{number * 7919 % 997}",
            "hit" if number % 5 == 1 else f"i{number * 104_729 % 1999}",
            float(number * 31 % 20_000),
            kind="x",
            rating=1.0,
        )
        for number in range(20_000)
    ]
    result = run_ingest(write_csv(tmp_path / "log.csv", rows), range_bytes=200_000, num_shards=4)
    expected = plain_clean(rows, CleanConfig())
    found = decode(result)
    assert len(found["heavy"].items) == 1000
    assert sum(row.items.count("hit") for row in found.values()) == 4000
    check_histories(found, expected.histories, set(numbers(result)))
    assert numbers(result)["hit"] == 1


def test_formats_and_units_of_time_do_not_shape_the_data(tmp_path: Path, run_ingest: Callable) -> None:
    rows = [row._replace(rating=row.rating or 3.0, kind=None) for row in ROWS[:800]]
    names = COLUMNS[:4]
    (tmp_path / "log.jsonl").write_text(
        "".join(json.dumps(dict(zip(names, row[:4], strict=True))) + "\n" for row in rows)
    )
    whole = run_ingest(write_csv(tmp_path / "log.csv", rows, names))
    text = (tmp_path / "log.csv").read_bytes()
    half = text.index(b"\n", len(text) // 2) + 1
    # two gzip members, and two zstd frames, one after the other
    (tmp_path / "log.csv.gz").write_bytes(gzip.compress(text[:half]) + gzip.compress(text[half:]))
    codec = pa.Codec("zstd")
    frames = [codec.compress(part, asbytes=True) for part in (text[:half], text[half:])]
    (tmp_path / "log.csv.zst").write_bytes(b"".join(frames))
    (tmp_path / "ratings.dat").write_text(
        "".join(f"{row.user}::{row.item}::{row.rating}::{row.time}\n" for row in rows)
    )
    (tmp_path / "ms.csv").write_text(
        ",".join(names) + "\n" + "".join(f"{row.user},{row.item},{int(row.time * 1000)},{row.rating}\n" for row in rows)
    )
    (tmp_path / "bare.csv").write_text("".join(f"{row.rating},{row.time},{row.user},{row.item}\n" for row in rows))
    bare = {"columns": {"header": ("rating", "timestamp", "user_id", "item_id")}}
    units = {"columns": {"timestamp_unit": "ms"}}
    others = {
        "log.jsonl": {},
        "log.csv.gz": {},
        "log.csv.zst": {},
        "ratings.dat": {},
        "ms.csv": units,
        "bare.csv": bare,
    }
    for name, settings in others.items():
        assert digests(run_ingest(tmp_path / name, range_bytes=5000, **settings)) == digests(whole), name
