"""Ingest as a plain loop over rows, in memory: the truth that tests hold the real one against. And its reading back."""

import json
import random
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq

from mgray.config import CleanConfig
from mgray.schema import UNKNOWN

DAY_S = 86_400.0
COLUMNS = ("user_id", "item_id", "timestamp", "rating", "event_type", "price", "age")


class Event(NamedTuple):
    user: str
    item: str
    time: float
    rating: float | None = None
    kind: str | None = None
    price: float | None = None
    age: float | None = None


class Clean(NamedTuple):
    histories: dict[str, list[Event]]  # by (time, place in the log)
    dropped: dict[str, int]  # by rule that is on
    turns: int  # of the k-core


def draw_log(seed: int, num_events: int, num_users: int = 60, num_items: int = 80, days: int = 20) -> list[Event]:
    """Skewed items, equal times, exact duplicates, quick repeats, a bot, blanks in all but ids."""
    draw = random.Random(seed)
    rows: list[Event] = []
    while len(rows) < num_events:
        if rows and draw.random() < 0.05:
            rows.append(draw.choice(rows[-50:]))
            continue
        if rows and draw.random() < 0.1:
            last = rows[-1]
            rows.append(last._replace(time=last.time + draw.randrange(1, 900), rating=float(draw.randrange(1, 6))))
            continue
        is_bot = draw.random() < 0.05
        rows.append(
            Event(
                "bot" if is_bot else f"u{draw.randrange(num_users)}",
                f"i{int(draw.paretovariate(0.8)) % num_items}",
                draw.randrange(int(DAY_S)) + (0 if is_bot else DAY_S * draw.randrange(days)) + draw.choice((0.0, 0.25)),
                draw.choice((1.0, 2.0, 3.5, 4.0, 5.0, None)),
                draw.choice(("view", "click", "a, quoted one", None)),
                draw.choice((None, round(draw.gauss(50, 9), 3))),
                float(draw.randrange(90)),
            )
        )
    return rows


def text_of(value: str | float | None) -> str:
    text = "" if value is None else repr(value) if isinstance(value, float) else value
    return f'"{text}"' if "," in text else text


def write_csv(path: Path, rows: Iterable[Event], columns: tuple[str, ...] = COLUMNS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [",".join(map(text_of, row[: len(columns)])) for row in rows]
    path.write_text("\n".join([",".join(columns), *lines, ""]))
    return path


def is_between(value: float, low: float | None, high: float | None) -> bool:
    return (low is None or value >= low) and (high is None or value <= high)


def without_bots(rows: list[Event], limit: int) -> list[Event]:
    """Events of users that never have more than `limit` events within 24 hours."""
    times: dict[str, list[float]] = {}
    for event in rows:
        times.setdefault(event.user, []).append(event.time)
    bots = {user for user, own in times.items() if any(sum(t <= o < t + DAY_S for o in own) > limit for t in own)}
    return [e for e in rows if e.user not in bots]


def without_repeats(rows: list[Event], window_s: float) -> list[Event]:
    last: dict[tuple[str, str], float] = {}
    kept = []
    for event in rows:
        pair = event.user, event.item
        if pair not in last or event.time - last[pair] > window_s:
            kept.append(event)
        last[pair] = event.time
    return kept


def with_enough_events(rows: list[Event], min_user_events: int) -> list[Event]:
    of_users = Counter(e.user for e in rows)
    return [e for e in rows if of_users[e.user] >= min_user_events]


def k_core(rows: list[Event], min_item_events: int, min_user_events: int) -> tuple[list[Event], int]:
    """The k-core, and the number of turns that it took."""
    turns = 0
    while True:
        turns += 1
        of_items = Counter(e.item for e in rows)
        step = with_enough_events([e for e in rows if of_items[e.item] >= min_item_events], min_user_events)
        if len(step) == len(rows):
            return rows, turns
        rows = step


def plain_clean(rows: list[Event], rules: CleanConfig, min_user_events: int = 3) -> Clean:
    """The rules in their documented order."""
    dropped: dict[str, int] = {}

    def keep(rule: str, kept: list[Event]) -> None:
        nonlocal rows
        dropped[rule] = len(rows) - len(kept)
        rows = kept

    if rules.min_timestamp is not None or rules.max_timestamp is not None:
        keep("timestamps", [e for e in rows if is_between(e.time, rules.min_timestamp, rules.max_timestamp)])
    if rules.min_rating is not None or rules.max_rating is not None:
        low, high = rules.min_rating, rules.max_rating
        keep("ratings", [e for e in rows if e.rating is None or is_between(e.rating, low, high)])
    rows = sorted(rows, key=lambda event: (event.user, event.time))
    if rules.duplicates:
        keep("duplicates", list(dict.fromkeys(rows)))
    if rules.max_user_events_per_day is not None:
        keep("bots", without_bots(rows, rules.max_user_events_per_day))
    if rules.repeat_window_s is not None:
        keep("repeats", without_repeats(rows, rules.repeat_window_s))
    turns = 0
    if rules.min_item_events > 1:
        left, turns = k_core(rows, rules.min_item_events, min_user_events)
        items = {e.item for e in left}
        keep("rare_items", [e for e in rows if e.item in items])
        keep("short_users", left)
    else:
        keep("short_users", with_enough_events(rows, min_user_events))
    histories: dict[str, list[Event]] = {}
    for event in rows:
        histories.setdefault(event.user, []).append(event)
    return Clean(histories, dropped, turns)


class Decoded(NamedTuple):
    """A user's history as a version holds it."""

    items: list[str | None]  # raw ids; None: outside the vocabulary
    times: list[float]
    ratings: list[float | None] | None
    kinds: list[str | None] | None  # by name
    features: list[float | None] | None  # [events * F], None: missing
    parts: list[int] | None
    train_end: int
    valid_end: int


def vocabulary(result) -> list[dict]:
    return pq.read_table(result.path / result.manifest.vocabulary.file).sort_by("item").to_pylist()


def numbers(result) -> dict[str, int]:
    return {row["item_id"]: row["item"] for row in vocabulary(result)}


def decode(result) -> dict[str, Decoded]:
    """Every history of a version, by user, with numbers turned back into what the log says."""
    items: dict[int, str | None] = {row["item"]: row["item_id"] for row in vocabulary(result)}
    kinds: dict[int | None, str | None] = {number: kind.name for number, kind in enumerate(result.manifest.event_types)}
    items[UNKNOWN] = None
    kinds[None] = None
    found = {}
    for shard in result.manifest.shards:
        for row in pq.read_table(result.path / shard.file).to_pylist():
            assert row["user_id"] not in found
            found[row["user_id"]] = Decoded(
                [items[number] for number in row["items"]],
                row["timestamps"],
                row["ratings"],
                row["event_types"] and [kinds.get(number) for number in row["event_types"]],
                row["features"] and [None if number != number else number for number in row["features"]],
                row["parts"],
                row["train_end"],
                row["valid_end"],
            )
    return found


def digests(result) -> list[str]:
    """SHA-256 of every data file: the vocabulary, then the shards."""
    return [result.manifest.vocabulary.sha256, *(shard.sha256 for shard in result.manifest.shards)]


def logical(result) -> dict:
    """What two versions of one log share whatever numbers their items and event types have."""
    counts = {row["item_id"]: (row["num_train_events"], row["title"]) for row in vocabulary(result)}
    manifest = json.loads(result.manifest.model_dump_json())
    same = ("rows", "users", "items", "train_events", "valid_events", "test_events", "first_timestamp")
    same += ("last_timestamp", "median_history", "split", "has_ratings", "has_event_types", "cold_items")
    kinds = {kind.name: kind.events for kind in result.manifest.event_types}
    return {"histories": decode(result), "vocabulary": counts, "event_types": kinds} | {n: manifest[n] for n in same}
