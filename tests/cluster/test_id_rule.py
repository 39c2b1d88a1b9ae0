"""The rule of ids through a whole ingest: spellings of one id are one user and one item, and what meets is said."""

import json
import logging
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from mgray.config import PSEUDONYM_KEY_VARIABLE
from mgray.data.manifest import MANIFEST_FILE
from mgray.errors import InputError
from pipelines.ingest import plan
from pipelines.ingest.staging import STAGED_FOLDER
from tests.plain_ingest import decode, numbers, vocabulary

NUM_USERS, NUM_ITEMS, EVENTS = 60, 40, 12
HEAD = "user_id,item_id,timestamp\n"


def draw(seed: int) -> list[tuple[int, int, int]]:
    """720 events, on every item."""
    pick = random.Random(seed)
    items = [n % NUM_ITEMS for n in range(NUM_USERS * EVENTS)]
    pick.shuffle(items)
    return [(n % NUM_USERS, item, 1_000 * seed + n) for n, item in enumerate(items)]


def write(path: Path, seed: int, end: str = "", more: str = "") -> Path:
    """end: of every id, ".0" as pandas writes a column of numbers that has a gap."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(HEAD + "".join(f"{u}{end},{i}{end},{t}\n" for u, i, t in draw(seed)) + more)
    return path


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The warnings since the last call."""
    ours = [record for record in caplog.records if record.name.startswith("pipelines")]
    lines = [record.getMessage() for record in ours if record.levelno >= logging.WARNING]
    caplog.clear()
    return lines


TWO_WAYS = "are spelled in two ways (with and without .0 or white space"


def test_a_file_that_pandas_wrote_is_appended_to_the_same_items(
    tmp_path: Path, run_ingest: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    start = run_ingest(write(tmp_path / "a" / "a.csv", 1).parent)
    assert said(caplog) == []
    more = run_ingest(write(tmp_path / "b" / "b.csv", 2, ".0").parent, append=True)
    lines = said(caplog)
    assert len(lines) == 2
    assert f"{NUM_USERS} users {TWO_WAYS}, such as '" in lines[0]
    assert f"{NUM_ITEMS} items {TWO_WAYS}, such as '" in lines[1]
    assert (more.manifest.users, more.manifest.items) == (NUM_USERS, NUM_ITEMS)
    assert {item: numbers(more)[item] for item in numbers(start)} == numbers(start)
    assert {user: len(row.items) for user, row in decode(more).items()} == {str(u): 24 for u in range(NUM_USERS)}

    # as one log of plain ids, and alone it is nothing to speak of
    write(tmp_path / "c" / "a.csv", 1)
    write(tmp_path / "c" / "b.csv", 2)
    assert decode(run_ingest(tmp_path / "c", home=tmp_path / "other")) == decode(more)
    assert run_ingest(tmp_path / "b", home=tmp_path / "other").manifest.items == NUM_ITEMS
    assert said(caplog) == []


def test_rows_without_an_id_are_set_aside_and_counted(tmp_path: Path, run_ingest: Callable) -> None:
    none = "".join(f"{text},1,5\n3,{text},5\n" for text in ("", " ", "NULL", "\\N"))
    log = write(tmp_path / "log.csv", 1, more=none + "nan,1,5\nNone,1,6\n")
    result = run_ingest(log, max_quarantined_share=0.1, min_user_events=3)
    assert result.manifest.rows["quarantined"] == 8
    assert result.manifest.rows["dropped_short_users"] == 2  # "nan" and "None" are users
    assert result.manifest.items == NUM_ITEMS
    assert result.report is not None
    assert dict(result.report.quarantined) == {"user_id is empty": 4, "item_id is empty": 4}


@pytest.mark.parametrize(
    ("private", "shown"),
    [("", True), ("pseudonymize", False), ("forget", False)],
)
def test_one_number_in_spellings_that_stay_apart(
    tmp_path: Path,
    run_ingest: Callable,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    private: str,
    shown: bool,
) -> None:
    """Users of all buckets and items of both partitions, in another file than their twins; a lone one is not told."""
    write(tmp_path / "log" / "a.csv", 1)
    rows = [f"{user},{item},9\n" for user in ("007", "+8", "1e1", "0011", "12.50", "100e3") for item in ("05", "+6")]
    (tmp_path / "log" / "b.csv").write_text(HEAD + "".join(rows) + "x,1e300,9\n12.5,001234,9\n")
    settings = {"privacy": {}, "num_shards": 4}
    if private == "pseudonymize":
        monkeypatch.setenv(PSEUDONYM_KEY_VARIABLE, "a-key-of-this-test-alone-5f0c1d")
        settings["privacy"] = {"pseudonymize": True}
    if private == "forget":
        (tmp_path / "forget.txt").write_text("8\n")
        settings["privacy"] = {"forget": str(tmp_path / "forget.txt")}
    run_ingest(tmp_path / "log", **settings)
    lines = said(caplog)
    apart = "are one number with others in another spelling"
    users = [line for line in lines if f"users {apart}" in line]
    (items,) = (line for line in lines if f"items {apart}" in line)
    assert f"2 items {apart}, such as '+6' and '6', and are taken as different items" in items
    if private == "pseudonymize":
        assert users == []  # nobody can tell
    else:
        (line,) = users
        count = 5 if private == "" else 4
        assert f" {count} users {apart}" in line
        assert (", such as '+8' and '8'" in line) == shown
        assert shown or not any(f"'{user}'" in line for user in ("007", "7", "0011"))
    kept = [line for line in lines if "they were kept" in line]
    assert len(kept) == (private == "forget")
    if kept:  # an id of the user's own list, and not the log's
        assert "users who are the number of 1 ids of the list in another spelling (of '8'" in kept[0]


def test_what_an_earlier_rule_made_is_not_mixed_in(
    tmp_path: Path, run_ingest: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, log = tmp_path / "home", write(tmp_path / "a" / "a.csv", 1).parent
    with monkeypatch.context() as patch:
        patch.setattr(plan, "ID_RULE", 1)
        earlier = run_ingest(log, home=home)
    now = run_ingest(log, home=home)
    assert (now.reused, now.path != earlier.path) == (False, True)
    assert not set(now.manifest.staged) & set(earlier.manifest.staged)
    assert {path.name for path in (home / "datasets" / STAGED_FOLDER).iterdir() if path.is_dir()} >= {
        *now.manifest.staged,
        *earlier.manifest.staged,
    }

    # a version from before there was a number of the rule, alone in its place
    alone = tmp_path / "alone"
    base = run_ingest(log, home=alone)
    manifest = json.loads((base.path / MANIFEST_FILE).read_text())
    del manifest["config"]["id_rule"]
    (base.path / MANIFEST_FILE).write_text(json.dumps(manifest))
    write(tmp_path / "a" / "b.csv", 2)
    with pytest.raises(InputError, match=r"--append: .* earlier rule of how ids are spelled.*without --append"):
        run_ingest(log, home=alone, append=True)
    whole = run_ingest(log, home=alone, append=base.path)  # as retraining asks
    assert len(whole.manifest.sources) == 2
    assert not set(whole.manifest.staged) & set(base.manifest.staged)


def test_titles_are_matched_by_the_rule_of_ids(
    tmp_path: Path, run_ingest: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    log, titles = write(tmp_path / "log.csv", 1), tmp_path / "titles.CSV"
    titles.write_text("item_id,title\n" + "".join(f"{item}.0,Title {item}\n" for item in range(NUM_ITEMS)))
    result = run_ingest(log, items=str(titles))
    assert {row["item_id"]: row["title"] for row in vocabulary(result)} == {
        str(item): f"Title {item}" for item in range(NUM_ITEMS)
    }
    assert said(caplog) == []

    titles.write_text("item_id,title\nx1,A\nx2,B\n")
    run_ingest(log, items=str(titles))
    (line,) = said(caplog)
    assert line.startswith("--data.items titles.CSV: none of its 2 item ids is in the log")
    assert "such as 'x1'; the log has 40 items, such as '" in line
