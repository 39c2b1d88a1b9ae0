"""--append makes what a full ingest of all files makes, but for the items' numbers, and reads new files alone."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mgray.config import DataConfig
from mgray.data.manifest import MANIFEST_FILE, file_sha256
from mgray.errors import InputError
from pipelines.ingest.source.digests import digest_log
from tests.plain_ingest import Event, decode, digests, draw_log, logical, numbers, vocabulary, write_csv

ROWS = draw_log(seed=7, num_events=2400, num_users=400, num_items=150)  # 6 events a user: many are too short at first


def write_files(folder: Path) -> Path:
    """a, b and c, drawn apart, so that c has events from before a's last; some of a's rows are again in c."""
    draw = random.Random(0)
    parts: dict[str, list[Event]] = {"a": [], "b": [], "c": []}
    for row in ROWS:
        parts[draw.choice("abc")].append(row)
    parts["c"] += draw.sample(parts["a"], 40)
    for name, rows in parts.items():
        write_csv(folder / f"{name}.csv", rows)
    return folder


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return write_files(tmp_path / "log")


def only(log: Path, folder: Path, *names: str) -> Path:
    """A folder with copies of some of the log's files."""
    folder.mkdir()
    for name in names:
        shutil.copy(log / f"{name}.csv", folder)
    return folder


def staged(result) -> dict[str, int]:
    """When each unit of a version's staged events was made, ns."""
    return {
        key: (result.path.parent / ".staged" / key / "done.json").stat().st_mtime_ns for key in result.manifest.staged
    }


EVERYTHING = {
    "clean": {"repeat_window_s": 600.0, "min_rating": 1.5, "max_user_events_per_day": 12},
    "columns": {"features": ("price", "age")},
}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        EVERYTHING | {"split": "temporal"},
        EVERYTHING | {"split": "random", "min_item_count": 3},
        {"clean": {"min_item_events": 8}},
    ],
    ids=["plain", "temporal", "random", "core"],
)
def test_appending_equals_a_full_ingest(tmp_path: Path, log: Path, run_ingest: Callable, settings: dict) -> None:
    start = run_ingest(only(log, tmp_path / "ab", "a", "b"), range_bytes=20_000, **settings)
    before, units = numbers(start), staged(start)
    # the old files are not there any more: what is read is c alone
    more = run_ingest(only(log, tmp_path / "c", "c"), range_bytes=20_000, append=True, **settings)
    full = run_ingest(log, home=tmp_path / "other", range_bytes=20_000, **settings)
    assert not more.reused
    assert logical(more) == logical(full)
    assert [source.path for source in more.manifest.sources] == ["a.csv", "b.csv", "c.csv"]
    assert more.manifest.sources == full.manifest.sources
    for mine, theirs in zip(more.manifest.features, full.manifest.features, strict=True):
        assert (mine.mean, mine.std) == pytest.approx((theirs.mean, theirs.std), rel=1e-12)

    after = numbers(more)
    assert {item: after[item] for item in before} == before
    assert set(after.values()) == set(range(1, len(after) + 1))
    assert set(after) > set(before), "c brings items, or such as were in nobody's training part"
    assert len(decode(more)) > len(decode(start)), "c makes users long enough"
    assert more.manifest.rows["dropped_duplicates"] >= 40
    assert {key: staged(more)[key] for key in units} == units
    assert len(more.manifest.staged) > len(units)


def test_items_that_only_tested_before_train_now(tmp_path: Path, run_ingest: Callable) -> None:
    write_csv(
        tmp_path / "a" / "a.csv",
        [Event(f"u{user}", item, float(n)) for user in range(3) for n, item in enumerate("pqz")],
    )
    start = run_ingest(tmp_path / "a")
    assert numbers(start) == {"p": 1}
    assert decode(start)["u0"].items == ["p", None, None]
    write_csv(tmp_path / "b" / "b.csv", [Event("u0", "y", 5.0), Event("u0", "x", 6.0)])
    more = run_ingest(tmp_path / "b", append=True)
    assert numbers(more) == {"p": 1, "q": 2, "z": 3}
    assert decode(more)["u0"].items == ["p", "q", "z", None, None]
    assert [row["num_train_events"] for row in vocabulary(more)] == [3, 1, 1]


def test_event_types_keep_their_numbers(tmp_path: Path, run_ingest: Callable) -> None:
    """Training part: first 6 views and 3 buys; then 18 buys, 6 views, 4 carts, 2 saves and 2 asks."""

    def write(name: str, users: list[list[str]]) -> Path:
        rows = [
            Event(f"{name}{user}", f"i{place}", float(place), kind=kind)
            for user, kinds in enumerate(users)
            for place, kind in enumerate(kinds)
        ]
        return write_csv(tmp_path / "log" / f"{name}.csv", rows).parent

    def names(result) -> list[str]:
        return [kind.name for kind in result.manifest.event_types]

    start = run_ingest(write("a", [["view", "buy", "view", "cart", "save"]] * 3))
    assert names(start) == ["view", "buy"]
    assert decode(start)["a0"].kinds == ["view", "buy", "view", None, None]
    new = [["buy"] * 17] + [["save", "cart", "cart", "ask", "buy", "buy"]] * 2  # all but the last two train
    log = write("b", new)
    more = run_ingest(log, append=True)
    assert names(more) == ["view", "buy", "cart", "ask", "save"]
    assert decode(more)["a0"].kinds == ["view", "buy", "view", "cart", "save"]
    full = run_ingest(log, home=tmp_path / "other")
    assert names(full) == ["buy", "view", "cart", "ask", "save"]
    assert logical(more) == logical(full)
    # older versions numbered every type of the log by name: those numbers stay as well
    manifest = start.path / MANIFEST_FILE
    older = json.loads(manifest.read_text())
    older["event_types"] = [{"name": name, "events": 3} for name in ("buy", "cart", "save", "view")]
    manifest.write_text(json.dumps(older))
    again = run_ingest(log, append=start.path)
    assert names(again) == ["buy", "cart", "save", "view", "ask"]
    assert decode(again) == decode(more)


def test_appending_twice(tmp_path: Path, log: Path, run_ingest: Callable) -> None:
    first = run_ingest(only(log, tmp_path / "a", "a"))
    second = run_ingest(only(log, tmp_path / "ab", "a", "b"), append=True)  # a is there: known by its digest, skipped
    third = run_ingest(only(log, tmp_path / "c", "c"), append=True)
    assert logical(third) == logical(run_ingest(log, home=tmp_path / "other"))
    one, two, three = numbers(first), numbers(second), numbers(third)
    assert {item: two[item] for item in one} == one
    assert {item: three[item] for item in two} == two
    assert first.path.is_dir()
    assert len({first.path, second.path, third.path}) == 3

    # nothing new is nothing to do, whether the old files are there or not
    for source in (log, tmp_path / "a"):
        again = run_ingest(source, append=True)
        assert again.reused
        assert (again.path, again.manifest) == (third.path, third.manifest)


def test_a_copy_is_skipped_and_a_name_may_sort_first(tmp_path: Path, log: Path, run_ingest: Callable) -> None:
    """Without the rule of duplicates every row that is read twice shows."""
    settings = {"clean": {"duplicates": False}}
    start = run_ingest(only(log, tmp_path / "bc", "b", "c"), **settings)
    before = numbers(start)
    new = only(log, tmp_path / "new", "a")
    shutil.copy(log / "b.csv", new / "z.csv")
    more = run_ingest(new, append=True, **settings)
    full = run_ingest(log, home=tmp_path / "other", **settings)
    assert "dropped_duplicates" not in more.manifest.rows
    assert logical(more) == logical(full)
    assert {item: number for item, number in numbers(more).items() if item in before} == before
    assert [source.path for source in more.manifest.sources] == ["b.csv", "c.csv", "a.csv"]
    (new / "a.csv").unlink()
    assert run_ingest(new, append=True, **settings).path == more.path, "a copy alone is nothing new"
    # it is what was ingested before that a file can be a copy of: within one ingest both are read
    shutil.copy(log / "b.csv", log / "z.csv")
    both = run_ingest(log, home=tmp_path / "other", **settings)
    copied = len((log / "b.csv").read_text().splitlines()) - 1
    assert both.manifest.rows["read"] == full.manifest.rows["read"] + copied


def test_what_the_caller_digested_is_not_opened_again(tmp_path: Path, log: Path, run_ingest: Callable) -> None:
    """Retraining reads the log to see what is new; the ingest that follows reads the new files alone."""
    full = run_ingest(log, home=tmp_path / "other")
    run_ingest(only(log, tmp_path / "ab", "a", "b"))
    found = digest_log(DataConfig(source=str(log)), tmp_path)
    (log / "a.csv").unlink()
    (log / "b.csv").write_text("not what was digested")
    more = run_ingest(log, append=True, log=found)
    assert logical(more) == logical(full)
    assert more.manifest.sources == full.manifest.sources
    # of a new file the digest on record is that of the bytes that were read
    path = write_csv(tmp_path / "d" / "d.csv", ROWS[:50])
    found = digest_log(DataConfig(source=str(path)), tmp_path)
    write_csv(path, ROWS[50:100])
    last = run_ingest(path, append=True, log=found).manifest.sources[-1]
    assert (last.path, last.sha256) == ("d.csv", file_sha256(path))


def test_between_equal_times_what_is_appended_comes_later(tmp_path: Path, run_ingest: Callable) -> None:
    """A full ingest goes by the files' names there, so it is another dataset where a new name sorts first."""

    def write(name: str, items: str, times: list[float]) -> Path:
        rows = [Event("u", item, time) for item, time in zip(items, times, strict=True)]
        return write_csv(tmp_path / "log" / f"{name}.csv", rows).parent

    log = write("b", "pqrpq", [1.0, 2.0, 2.0, 8.0, 9.0])
    run_ingest(log)
    more = run_ingest(write("a", "xy", [2.0, 2.0]), append=True)
    full = run_ingest(log, home=tmp_path / "other")
    assert decode(more)["u"].items == list("pqrxypq")
    assert decode(full)["u"].items == list("pxyqrpq")
    assert decode(more)["u"].times == decode(full)["u"].times


def test_titles_of_an_append(tmp_path: Path, log: Path, run_ingest: Callable) -> None:
    items = tmp_path / "items.csv"
    items.write_text("item_id,title\ni1,One\n")
    run_ingest(only(log, tmp_path / "ab", "a", "b"), items=str(items))
    items.write_text("item_id,title\ni1,First\ni3,Third\n")
    more = run_ingest(only(log, tmp_path / "c", "c"), append=True, items=str(items))
    assert {row["item_id"]: row["title"] for row in vocabulary(more) if row["title"]} == {"i1": "First", "i3": "Third"}
    assert [source.path for source in more.manifest.sources] == ["a.csv", "b.csv", "c.csv", "items.csv"]
    assert logical(more) == logical(run_ingest(log, home=tmp_path / "other", items=str(items)))
    # new titles and no new file make a version with the same histories
    items.write_text("item_id,title\ni1,Uno\n")
    titled = run_ingest(tmp_path / "c", append=True, items=str(items))
    assert {row["title"] for row in vocabulary(titled)} == {"Uno", None}
    assert decode(titled) == decode(more)


def test_without_a_version_all_files_are_read(tmp_path: Path, log: Path, run_ingest: Callable) -> None:
    assert digests(run_ingest(log, append=True)) == digests(run_ingest(log, home=tmp_path / "other"))


def test_what_cannot_be_appended(tmp_path: Path, log: Path, run_ingest: Callable) -> None:
    start = run_ingest(only(log, tmp_path / "ab", "a", "b"))
    before = {path: path.read_bytes() for path in start.path.rglob("*") if path.is_file()}

    def refused(source: Path, **settings: object) -> str:
        with pytest.raises(InputError) as caught:
            run_ingest(source, append=True, **settings)
        assert {path: path.read_bytes() for path in start.path.rglob("*") if path.is_file()} == before
        assert [path.name for path in start.path.parent.glob("[!.]*")] == [start.path.name]
        return str(caught.value)

    for settings, name in (
        ({"split": "random"}, "data.split"),
        ({"clean": {"min_rating": 2.0}}, "data.clean.min_rating"),
        ({"columns": {"features": ("age",)}}, "data.columns.features"),
        ({"min_user_events": 4}, "data.min_user_events"),
    ):
        assert f"the newest differs in {name}); give its settings, or leave --append out" in refused(log, **settings)
    with (tmp_path / "ab" / "b.csv").open("a") as file:
        file.write("u1,i1,1,,,,\n")
    shutil.copy(log / "c.csv", tmp_path / "ab")
    error = refused(tmp_path / "ab")
    assert error.startswith(f"{tmp_path}/ab/b.csv: changed since it was ingested into {start.path.name}")
    assert "put new events into a file of their own" in error
    shutil.rmtree(start.path.parent / ".staged" / start.manifest.staged[-1])
    error = refused(log)
    assert (
        f"--append: {start.path}: its staged events in {start.path.parent}/.staged are gone; ingest all files" in error
    )


def test_staged_events_that_were_not_kept(tmp_path: Path, log: Path, run_ingest: Callable) -> None:
    first = run_ingest(only(log, tmp_path / "ab", "a", "b"), keep_staged=False)
    assert [path for path in (first.path.parent / ".staged").iterdir() if path.is_dir()] == []
    with pytest.raises(InputError, match=r"staged events .* are gone; ingest all files, without --append"):
        run_ingest(log, append=True)
    full = run_ingest(log)  # as told
    assert [source.path for source in full.manifest.sources] == ["a.csv", "b.csv", "c.csv"]
    write_csv(tmp_path / "d" / "d.csv", [Event("late", f"i{n}", float(n)) for n in range(4)])
    assert "late" in decode(run_ingest(tmp_path / "d", append=True))


def test_bad_rows_of_old_and_new_files_count_together(tmp_path: Path, log: Path, run_ingest: Callable) -> None:
    for name in ("a", "c"):
        with (log / f"{name}.csv").open("a") as file:
            file.write("u1,i1,soon,,,,\n")
    run_ingest(only(log, tmp_path / "ab", "a", "b"), max_quarantined_share=0.01)
    more = run_ingest(only(log, tmp_path / "c", "c"), append=True, max_quarantined_share=0.01)
    full = run_ingest(log, home=tmp_path / "other", max_quarantined_share=0.01)
    assert logical(more) == logical(full)
    assert more.manifest.rows["quarantined"] == 2
    name = more.manifest.quarantine_file
    assert (more.path / name).read_bytes() == (full.path / name).read_bytes()
