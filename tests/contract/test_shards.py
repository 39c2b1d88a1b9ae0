"""What every reader of a dataset version may rely on, checked on versions that ingest wrote from a drawn log."""

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mgray.data.dataset import Dataset
from mgray.data.manifest import UNSEALED, Manifest, digest, file_sha256, read_manifest
from mgray.schema import HISTORY_SCHEMA, NEWEST_COLUMNS, OUTSIDE_SCHEMA, TEST, TRAIN, UNKNOWN, VALID, VOCABULARY_SCHEMA

NUM_EVENTS = 3000
Histories = dict[str, list[tuple[float, str]]]


def drawn_log(path: Path) -> list[tuple[str, str, float]]:
    """Few distinct times, so that many are equal; rare items, so that some are outside training."""
    draw = random.Random(0)
    rows = [
        (f"u{draw.randrange(120)}", f"i{int(draw.paretovariate(0.7)) % 400}", float(draw.randrange(300)))
        for _ in range(NUM_EVENTS - 3)
    ]
    rows += [("short", "i1", 5.0), ("shorter", "only-here", 7.0), ("short", "i399", 6.0)]
    path.write_text("user_id,item_id,timestamp\n" + "".join(f"{u},{i},{t}\n" for u, i, t in rows))
    return rows


def check_files(folder: Path, manifest: Manifest) -> None:
    # files: exactly those that the manifest names, with its digests
    on_disk = {path.name for path in folder.iterdir()}
    assert on_disk == {"manifest.json", *manifest.files()}
    assert {"report.html", "vocabulary.parquet", "vocabulary.arrow", "outside_items.parquet"} < on_disk
    assert file_sha256(folder / manifest.vocabulary.file) == manifest.vocabulary.sha256
    content = manifest.model_dump(mode="json", exclude=UNSEALED)
    assert manifest.fingerprint == digest(content)


def expected_histories(rows: list[tuple[str, str, float]]) -> tuple[Histories, Histories]:
    """Histories that a version must hold, and those of short users, by a plain loop."""
    # the expectation, by a plain loop: first of equal rows, stable order, short users in files of their own
    expected: Histories = {}
    for user, item, moment in dict.fromkeys(rows):
        expected.setdefault(user, []).append((moment, item))
    expected = {user: sorted(h, key=lambda event: event[0]) for user, h in expected.items()}
    short = {user: history for user, history in expected.items() if len(history) < 3}
    expected = {user: history for user, history in expected.items() if len(history) >= 3}
    return expected, short


def read_histories(folder: Path, manifest: Manifest) -> dict[str, dict]:
    seen: dict[str, dict] = {}
    for shard in manifest.shards:
        assert file_sha256(folder / shard.file) == shard.sha256
        table = pq.read_table(folder / shard.file)
        assert table.schema == HISTORY_SCHEMA
        assert table.num_rows == shard.users
        assert sum(map(len, table["items"].to_pylist())) == shard.events
        users = table["user_id"].to_pylist()
        assert users == sorted(users)
        assert not set(users) & set(seen), "a user is in one shard"
        seen |= {row["user_id"]: row for row in table.to_pylist()}
    return seen


def check_short_users(
    folder: Path, manifest: Manifest, numbers: dict[str, int], outside: list[str], short: Histories
) -> None:
    names = [None, *numbers]
    found = {}
    for shard in manifest.short_shards:
        table = pq.read_table(folder / shard.file)
        assert table.schema == HISTORY_SCHEMA
        assert (table.num_rows, file_sha256(folder / shard.file)) == (shard.users, shard.sha256)
        for row in table.to_pylist():
            left = iter(row["outside_items"])
            items = [outside[next(left)] if item == UNKNOWN else names[item] for item in row["items"]]
            found[row["user_id"]] = list(zip(row["timestamps"], items, strict=True))
    assert found == short
    assert manifest.short_users == len(short) > 0


def check_histories(
    seen: dict[str, dict], expected: Histories, numbers: dict[str, int], outside: list[str], manifest: Manifest
) -> tuple[Counter[str], dict[str, int]]:
    """Events of every history against the expected ones; gives training counts by item, and events by part."""
    split = manifest.split.kind
    train_counts: Counter[str] = Counter()
    num_events = dict.fromkeys(("train", "valid", "test"), 0)
    for user, row in seen.items():
        history = expected[user]
        train_end, valid_end = row["train_end"], row["valid_end"]
        assert row["timestamps"] == [moment for moment, _ in history]
        assert row["items"] == [numbers.get(item, UNKNOWN) for _, item in history]
        assert [outside[place] for place in row["outside_items"]] == [i for _, i in history if i not in numbers]
        assert row["ratings"] is None
        assert row["event_types"] is None
        if split == "leave_one_out":
            assert (train_end, valid_end) == (len(history) - 2, len(history) - 1)
        else:
            assert train_end == sum(moment < manifest.split.valid_from for moment, _ in history)
            assert valid_end == sum(moment < manifest.split.test_from for moment, _ in history)
        assert UNKNOWN not in row["items"][:train_end]
        train_counts.update(item for _, item in history[:train_end])
        num_events["train"] += train_end
        num_events["valid"] += valid_end - train_end
        num_events["test"] += len(history) - valid_end
    assert num_events == {part: getattr(manifest, f"{part}_events") for part in num_events}
    assert any(UNKNOWN in row["items"] for row in seen.values()), "the drawn log has items outside training"
    return train_counts, num_events


def check_vocabulary(folder: Path, manifest: Manifest) -> None:
    """Both files hold the same items, and the counts of the newest tenth are those of a plain loop."""
    table = pq.read_table(folder / manifest.vocabulary.file)
    assert table.schema == VOCABULARY_SCHEMA
    assert table["item"].to_pylist() == list(range(1, manifest.items + 1))
    assert pa.ipc.open_file(folder / manifest.vocabulary.mapped_file).read_all().equals(table)
    for name, last_part in zip(NEWEST_COLUMNS.values(), (TRAIN, VALID), strict=True):
        events = []
        for shard in manifest.shards:
            for row in pq.read_table(folder / shard.file).to_pylist():
                valid, test = row["train_end"], row["valid_end"]
                ranges = [TRAIN] * valid + [VALID] * (test - valid) + [TEST] * (len(row["items"]) - test)
                events += [
                    (moment, item)
                    for moment, item, part in zip(row["timestamps"], row["items"], row["parts"] or ranges, strict=True)
                    if part <= last_part and item != UNKNOWN
                ]
        times = sorted(moment for moment, _ in events)
        cut = times[int(0.9 * (len(times) - 1))]
        counts = Counter(item for moment, item in events if moment >= cut)
        assert table[name].to_pylist() == [counts[item] for item in range(1, manifest.items + 1)]
        assert 0.1 * len(times) <= sum(counts.values()) <= 0.15 * len(times)
    dataset = Dataset(folder)
    assert dataset.newest_counts(include_valid=True)[1:].tolist() == table[name].to_pylist()
    assert dataset.item_ids == table["item_id"].to_pylist()


@pytest.mark.parametrize("split", ["leave_one_out", "temporal"])
def test_a_version_keeps_its_contract(tmp_path: Path, run_ingest: Callable, split: str) -> None:
    rows = drawn_log(tmp_path / "log.csv")
    result = run_ingest(tmp_path / "log.csv", range_bytes=10_000, num_shards=3, split=split)
    folder, manifest = result.path, read_manifest(result.path)
    assert manifest == result.manifest
    assert manifest.split.kind == split
    check_files(folder, manifest)

    check_vocabulary(folder, manifest)
    vocabulary = pq.read_table(folder / manifest.vocabulary.file)
    numbers = dict(zip(vocabulary["item_id"].to_pylist(), vocabulary["item"].to_pylist(), strict=True))

    outside = pq.read_table(folder / manifest.outside_items_file)
    assert outside.schema == OUTSIDE_SCHEMA
    outside = outside["item_id"].to_pylist()
    assert outside == sorted({item for _, item, _ in rows} - set(numbers))

    expected, short = expected_histories(rows)
    seen = read_histories(folder, manifest)
    assert set(seen) == set(expected)
    assert len(seen) == manifest.users
    check_short_users(folder, manifest, numbers, outside, short)
    train_counts, num_events = check_histories(seen, expected, numbers, outside, manifest)

    # most popular first, ties by id; nothing but the training part
    by_rank = sorted(train_counts.items(), key=lambda pair: (-pair[1], pair[0]))
    assert (
        list(zip(vocabulary["item_id"].to_pylist(), vocabulary["num_train_events"].to_pylist(), strict=True)) == by_rank
    )

    duplicates = NUM_EVENTS - len(dict.fromkeys(rows))
    written = sum(num_events.values())
    assert manifest.rows == {
        "read": NUM_EVENTS,
        "written": written,
        "dropped_duplicates": duplicates,
        "dropped_short_users": NUM_EVENTS - duplicates - written,
        "quarantined": 0,
    }
    if split == "temporal":
        times = sorted(moment for _, _, moment in rows)
        assert manifest.split.valid_from == times[NUM_EVENTS * 8 // 10]
        assert manifest.split.test_from == times[NUM_EVENTS * 9 // 10]


def drawn_log_of_everything(path: Path) -> None:
    draw = random.Random(1)
    lines = [
        f"u{draw.randrange(90)},i{int(draw.paretovariate(0.7)) % 300},{draw.randrange(500)},{draw.choice((1, 2, ''))},"
        f"{draw.choice(('buy', 'view', ''))},{draw.choice(('', draw.randrange(9)))},{draw.random()}\n"
        for _ in range(NUM_EVENTS)
    ]
    header = "user_id,item_id,timestamp,rating,event_type,price,dwell\n"
    path.write_text(header + "".join([*lines, "u1,i1,soon,,,,\n"]))


def test_a_version_of_everything_keeps_its_contract(tmp_path: Path, run_ingest: Callable) -> None:
    """Features, event types, random parts, cold items and quarantine: what a reader may rely on of each."""
    drawn_log_of_everything(tmp_path / "log.csv")
    result = run_ingest(
        tmp_path / "log.csv",
        range_bytes=20_000,
        num_shards=3,
        split="random",
        min_item_count=4,
        max_quarantined_share=0.1,
        columns={"features": ("price", "dwell")},
    )
    folder, manifest = result.path, read_manifest(result.path)
    on_disk = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert on_disk == {"manifest.json", *manifest.files()}
    assert {"cold_items.parquet", "report.html", "quarantine/part-0.parquet"} < on_disk
    assert manifest.rows["read"] == NUM_EVENTS + 1
    manifest.check_conservation()

    check_vocabulary(folder, manifest)
    vocabulary = pq.read_table(folder / manifest.vocabulary.file).to_pydict()
    cold = pq.read_table(folder / manifest.cold_items_file)
    assert cold.schema == pa.schema([VOCABULARY_SCHEMA.field("item_id"), VOCABULARY_SCHEMA.field("num_train_events")])
    assert not set(cold["item_id"].to_pylist()) & set(vocabulary["item_id"])
    assert min(vocabulary["num_train_events"]) >= 4 > max(cold["num_train_events"].to_pylist())

    totals: Counter[int] = Counter()
    kinds: Counter[int | None] = Counter()
    train_kinds: Counter[int | None] = Counter()
    features: list[float] = []
    for shard in manifest.shards:
        table = pq.read_table(folder / shard.file)
        assert table.schema == HISTORY_SCHEMA
        for row in table.to_pylist():
            length = len(row["items"])
            assert row["timestamps"] == sorted(row["timestamps"])
            assert {len(row[name]) for name in ("timestamps", "ratings", "event_types", "parts")} == {length}
            assert len(row["features"]) == 2 * length
            assert set(row["ratings"]) <= {1.0, 2.0, None}
            assert all(item == UNKNOWN or 1 <= item <= manifest.items for item in row["items"])
            totals.update(row["parts"])
            kinds.update(row["event_types"])
            train_kinds.update(x for x, part in zip(row["event_types"], row["parts"], strict=True) if part == TRAIN)
            features += [x for x, part in zip(row["features"][1::2], row["parts"], strict=True) if part == TRAIN]
    assert [totals[part] for part in (TRAIN, VALID, TEST)] == [
        manifest.train_events,
        manifest.valid_events,
        manifest.test_events,
    ]
    assert sum(totals.values()) == manifest.rows["written"]
    assert {kind.name for kind in manifest.event_types} == {"buy", "view"}
    assert train_kinds[0] >= train_kinds[1] > 0
    assert [kind.events for kind in manifest.event_types] == [kinds[0], kinds[1]]
    assert set(kinds) == {0, 1, None}
    # of the training part: mean 0, variance 1, within what float32 rounds
    assert sum(features) / len(features) == pytest.approx(0, abs=1e-6)
    assert sum(x * x for x in features) / len(features) == pytest.approx(1, rel=1e-6)


def test_row_groups_are_modest(tmp_path: Path, run_ingest: Callable) -> None:
    lines = [f"{user},{item},{item}\n" for user in range(2500) for item in range(3)]
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\n" + "".join(lines))
    result = run_ingest(tmp_path / "log.csv", num_shards=1)
    metadata = pq.read_metadata(result.path / result.manifest.shards[0].file)
    assert [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)] == [1024, 1024, 452]
    assert pa.schema(metadata.schema.to_arrow_schema()) == HISTORY_SCHEMA
