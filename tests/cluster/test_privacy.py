"""data.privacy: pseudonyms instead of user ids wherever a job writes, and users that are left out."""

import hashlib
import hmac
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.ipc
import pyarrow.parquet as pq
import pytest

from mgray.config import PSEUDONYM_KEY_VARIABLE, CleanConfig, IngestJobConfig
from mgray.errors import InputError
from tests.plain_ingest import decode, draw_log, logical, plain_clean, write_csv

KEY = "a-key-of-this-test-alone-5f0c1d"
OTHER_KEY = "another-key-of-this-test-77aa"
# ids that no digest or other text holds by chance
ROWS = [row._replace(user=f"person-{row.user}@example.org") for row in draw_log(seed=5, num_events=600, num_users=40)]
USERS = {row.user for row in ROWS}
# that cannot be read, and name a user in the right column and in a wrong one
BAD = ["person-u1@example.org,i1,soon,,,,\n", "i1,x,person-u2@example.org,,,,\n"]


def pseudonym(user: str, key: str = KEY) -> str:
    return hmac.new(key.encode(), user.encode(), hashlib.sha256).hexdigest()


def write_log(folder: Path) -> Path:
    write_csv(folder / "a.csv", ROWS[:300])
    write_csv(folder / "b.csv", ROWS[300:])
    with (folder / "b.csv").open("a") as file:
        file.writelines(BAD)
    return folder


def words_below(folder: Path) -> list[tuple[Path, bytes]]:
    """Every file's bytes; those that may be compressed as the text of what they hold."""
    found = []
    for path in folder.rglob("*"):
        if not path.is_file():
            continue
        found.append((path, path.read_bytes()))
        if path.suffix == ".parquet":
            found.append((path, json.dumps(pq.read_table(path, partitioning=None).to_pylist()).encode()))
        if path.suffix == ".arrow":
            with pyarrow.ipc.open_file(path) as reader:
                found.append((path, json.dumps(reader.read_all().to_pylist()).encode()))
    return found


def holders(folder: Path, word: str) -> list[str]:
    return sorted({str(path.relative_to(folder)) for path, text in words_below(folder) if word.encode() in text})


def test_pseudonyms(
    tmp_path: Path, ray_local: None, run_ingest: Callable, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    """The job as the user calls it, so that what it prints counts too."""
    from pipelines.ingest.job import run_ingest as pipeline
    from pipelines.runtime.job import run_job

    log, home = write_log(tmp_path / "log"), tmp_path / "home"
    (tmp_path / "key").write_text(KEY + "\n")
    argv = f"--home {home} --data.source {log} --data.num_shards 2 --data.privacy.pseudonymize true"
    argv += " --data.max_quarantined_share 0.1 --data.columns.features [age]"
    capfd.readouterr()
    code = run_job(
        "ingest", IngestJobConfig, pipeline, [*argv.split(), "--data.privacy.key_file", str(tmp_path / "key")]
    )
    printed = capfd.readouterr()
    assert code == 0, printed.err
    line = json.loads(printed.out.splitlines()[-1])
    assert line["rows"]["quarantined"] == 2

    assert len(words_below(home)) > 10
    for word in ("example.org", KEY):
        assert holders(home, word) == []
        assert word not in printed.out + printed.err
    version = Path(line["dataset"]["path"])
    shards = [row for path in version.glob("part-*.parquet") for row in pq.read_table(path).to_pylist()]
    expected = {pseudonym(user): history for user, history in plain_clean(ROWS, CleanConfig()).histories.items()}
    assert {row["user_id"]: row["timestamps"] for row in shards} == {
        user: [event.time for event in history] for user, history in expected.items()
    }
    assert [row["reason"] for row in pq.read_table(version / "quarantine").to_pylist()] == [
        "timestamp '…' is neither seconds since 1970 nor ISO 8601",
        "timestamp '…' is neither seconds since 1970 nor ISO 8601",
    ]

    # the key of the environment is the key of the file; another one makes another version, which is not appended to
    settings = {"max_quarantined_share": 0.1, "columns": {"features": ("age",)}, "privacy": {"pseudonymize": True}}
    monkeypatch.setenv(PSEUDONYM_KEY_VARIABLE, KEY)
    same = run_ingest(log, home=home, **settings)
    assert (same.path, same.reused) == (version, True)
    monkeypatch.setenv(PSEUDONYM_KEY_VARIABLE, OTHER_KEY)
    other = run_ingest(log, home=home, **settings)
    assert other.path != version
    assert set(decode(other)) == {pseudonym(user, OTHER_KEY) for user in USERS} & set(decode(other))
    assert not set(decode(other)) & set(expected)
    monkeypatch.setenv(PSEUDONYM_KEY_VARIABLE, "a-third-key-of-this-test-4b")
    with pytest.raises(InputError, match=r"the newest differs in data.privacy.key_fingerprint"):
        run_ingest(log, home=home, append=True, **settings)

    # appended events join their users' own
    monkeypatch.setenv(PSEUDONYM_KEY_VARIABLE, KEY)
    write_csv(tmp_path / "c" / "c.csv", [ROWS[0]._replace(time=9e9)])
    more = decode(run_ingest(tmp_path / "c", home=home, append=True, **settings))
    assert more[pseudonym(ROWS[0].user)].times[-1] == 9e9
    assert set(more) == set(expected)
    assert holders(home, "example.org") == []


@pytest.mark.parametrize(
    ("key", "options", "says"),
    [
        ("", "", "$MGRAY_PSEUDONYM_KEY: a key of 0 bytes; data.privacy.pseudonymize needs one of at least 16"),
        ("short", "", "$MGRAY_PSEUDONYM_KEY: a key of 5 bytes"),
        ("", "--data.privacy.key_file {tmp}/key", "data.privacy.key_file {tmp}/key: a key of 15 bytes"),
        ("", "--data.privacy.key_file {tmp}/none", "data.privacy.key_file {tmp}/none: No such file or directory"),
    ],
    ids=["missing", "short", "short_in_a_file", "no_file"],
)
def test_keys_that_do_not_do(
    tmp_path: Path,
    ray_local: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    key: str,
    options: str,
    says: str,
) -> None:
    from pipelines.ingest.job import run_ingest as pipeline
    from pipelines.runtime.job import run_job

    monkeypatch.setenv(PSEUDONYM_KEY_VARIABLE, key)
    (tmp_path / "key").write_text("x" * 15 + "\n")
    log = write_csv(tmp_path / "log.csv", ROWS[:60])
    argv = f"--home {tmp_path}/home --data.source {log} --data.privacy.pseudonymize true {options}"
    code = run_job("ingest", IngestJobConfig, pipeline, argv.format(tmp=tmp_path).split())
    error = capsys.readouterr().err.rstrip().splitlines()[-1]
    assert code == 2
    assert error.startswith("error: " + says.format(tmp=tmp_path))
    assert not list((tmp_path / "home" / "datasets").glob("*/manifest.json"))


def test_forgotten_users(tmp_path: Path, run_ingest: Callable) -> None:
    log, home = write_log(tmp_path / "log"), tmp_path / "home"
    settings = {"max_quarantined_share": 0.1}
    before = run_ingest(log, home=home, **settings)
    gone = [*sorted(USERS)[:7], "person-u1@example.org", "nobody@example.org"]
    assert holders(home / "datasets" / ".staged", gone[0])
    (tmp_path / "forget.txt").write_text("\n".join(gone) + "\n\n")
    settings["privacy"] = {"forget": str(tmp_path / "forget.txt")}
    after = run_ingest(log, home=home, **settings)
    left = [row for row in ROWS if row.user not in gone]
    assert after.manifest.rows["dropped_forgotten"] == len(ROWS) - len(left)
    assert after.manifest.rows["read"] == len(ROWS) + len(BAD)
    expected = plain_clean(left, CleanConfig())
    assert {user: row.times for user, row in decode(after).items()} == {
        user: [event.time for event in history] for user, history in expected.histories.items()
    }
    assert any(user in row for user in gone for row in BAD)
    for user in gone:
        places = holders(home / "datasets", user)
        assert all(place.split("/")[0] == before.path.name for place in places), "only the version from before has them"

    # as if they had never been, but for the count
    write_csv(tmp_path / "without" / "a.csv", [row for row in ROWS[:300] if row.user not in gone])
    write_csv(tmp_path / "without" / "b.csv", [row for row in ROWS[300:] if row.user not in gone])
    never = logical(run_ingest(tmp_path / "without", home=tmp_path / "other"))
    assert logical(after) | {"rows": None} == never | {"rows": None}

    # appended to with the same list; the list is not left out unasked
    write_csv(tmp_path / "c" / "c.csv", [ROWS[0]._replace(user=user, time=9e9) for user in (gone[0], left[0].user)])
    more = run_ingest(tmp_path / "c", home=home, append=True, **settings)
    assert more.manifest.rows["dropped_forgotten"] == len(ROWS) - len(left) + 1
    assert decode(more)[left[0].user].times[-1] == 9e9
    (tmp_path / "forget.txt").write_text("\n".join(gone[1:]))
    with pytest.raises(InputError, match=r"differs in data.privacy.forgotten"):
        run_ingest(tmp_path / "c", home=home, append=True, **settings)


def test_all_forgotten(tmp_path: Path, run_ingest: Callable) -> None:
    log = write_csv(tmp_path / "log.csv", ROWS)
    (tmp_path / "forget.txt").write_text("\n".join(USERS))
    with pytest.raises(InputError, match="no user has 3 events or more"):
        run_ingest(log, privacy={"forget": str(tmp_path / "forget.txt")})


def number_log(folder: Path) -> Path:
    """Users 0 to 9 in two files, the second as pandas writes ids beside a gap."""
    folder.mkdir()
    for name, end in (("a.csv", ""), ("b.csv", ".0")):
        rows = [f"{user}{end},{item},{10 * user + item}\n" for user in range(10) for item in range(4)]
        (folder / name).write_text("user_id,item_id,timestamp\n" + "".join(rows))
    return folder


SPELLINGS = ["7", "7 ", "7\t", " 7", "7.0", "7.00 ", '"7"', '"7.0"', "\u00a07", "\ufeff7"]


@pytest.mark.parametrize("pseudonymize", [False, True])
def test_a_user_is_forgotten_however_the_list_spells_the_id(
    tmp_path: Path, run_ingest: Callable, monkeypatch: pytest.MonkeyPatch, pseudonymize: bool
) -> None:
    monkeypatch.setenv(PSEUDONYM_KEY_VARIABLE, KEY)
    log = number_log(tmp_path / "log")
    left = {str(user) for user in range(10) if user != 7}
    versions = set()
    for number, spelling in enumerate(SPELLINGS):
        for end in ("", "\n", "\r\n"):
            file = tmp_path / f"forget-{number}.txt"
            file.write_bytes((spelling + end).encode())
            result = run_ingest(log, privacy={"forget": str(file), "pseudonymize": pseudonymize})
            versions.add(result.path)
            assert result.manifest.rows["dropped_forgotten"] == 8
            assert result.manifest.forget_unmatched == 0
            assert set(decode(result)) == ({pseudonym(user) for user in left} if pseudonymize else left)
    assert len(versions) == 1, "one request, however it is spelled"


def test_requests_that_match_nobody_are_told(
    tmp_path: Path, run_ingest: Callable, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over several units, some of them staged before; for a version that is there already; and with pseudonyms."""
    monkeypatch.setenv(PSEUDONYM_KEY_VARIABLE, KEY)
    log, home, file = number_log(tmp_path / "log"), tmp_path / "home", tmp_path / "forget.txt"
    absent = ["nobody@example.org", "77777", "007", *(f"gone-{number}" for number in range(4))]
    file.write_text("\r\n".join(["7.0", "3", *absent]))

    def told() -> list[str]:
        lines = [record.getMessage() for record in caplog.records if "name no user of the log" in record.getMessage()]
        caplog.clear()
        return lines

    for pseudonymize in (False, True):
        settings = {"privacy": {"forget": str(file), "pseudonymize": pseudonymize}, "range_bytes": 200}
        first = run_ingest(log, home=home, **settings)
        assert len(first.manifest.staged) > 2
        (line,) = told()
        assert line.startswith(f"data.privacy.forget {file}: 7 of 9 ids name no user of the log")
        assert ": '007', '77777', 'gone-0', 'gone-1', 'gone-2', 'gone-3', 'nobody@example.org'; an id" in line
        assert first.manifest.forget_unmatched == 7
        assert first.manifest.rows["dropped_forgotten"] == 16
        again = run_ingest(log, home=home, **settings)
        assert again.reused
        assert told() == [line]

        # an append finds two of them: in what is new, and what the base says of the rest
        more = tmp_path / f"more-{pseudonymize}"
        more.mkdir()
        rows = [f"{user},1,{n}\n" for user in ("gone-2 ", "77777.0", "1") for n in range(90, 93)]
        (more / f"c-{pseudonymize}.csv").write_text("user_id,item_id,timestamp\n" + "".join(rows))
        appended = run_ingest(more, home=home, append=True, **settings)
        assert appended.manifest.forget_unmatched == 5
        (line,) = told()
        assert "5 of 9 ids name no user" in line
        assert ": '007', 'gone-0', 'gone-1', 'gone-3', 'nobody@example.org';" in line

    # of units that are gone the count is left, and the names are on no disk
    (home / "datasets" / ".staged").rename(tmp_path / "elsewhere")
    assert run_ingest(log, home=home, **settings).reused
    (line,) = told()
    assert "7 of 9 ids name no user of the log, so nothing was dropped for them; an id" in line
    for name in ("gone-0", "nobody@example.org"):
        assert holders(home, name) == []
        assert holders(tmp_path / "elsewhere", name) == []


def test_the_job_says_what_it_could_not_forget_and_ends_well(
    tmp_path: Path, ray_local: None, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture
) -> None:
    """A job that runs by schedule shall not fail for good since a user is gone from its log."""
    from pipelines.ingest.job import run_ingest as pipeline
    from pipelines.runtime.job import run_job

    log = number_log(tmp_path / "log")
    (tmp_path / "forget.txt").write_text('7\n"8"\nx@example.org\n')
    argv = f"--home {tmp_path}/home --data.source {log} --data.privacy.forget {tmp_path}/forget.txt"
    capfd.readouterr()
    for _ in range(2):
        assert run_job("ingest", IngestJobConfig, pipeline, argv.split()) == 0
        line = json.loads(capfd.readouterr().out.splitlines()[-1])
        assert line["rows"]["forget_unmatched"] == 1
        assert line["rows"]["dropped_forgotten"] == 16
        assert "1 of 3 ids name no user of the log, so nothing was dropped for them: 'x@example.org'" in caplog.text
        caplog.clear()
    assert holders(tmp_path / "home", "x@example.org") == []
