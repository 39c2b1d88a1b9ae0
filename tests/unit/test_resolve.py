"""pipelines.ingest.source.resolve: the files that a path, pattern or list names."""

import logging
import os
import pickle
import time
from pathlib import Path

import pytest

from mgray.config import MOVIELENS_100K, DataConfig
from mgray.errors import InputError
from pipelines.ingest.source.filesystems import open_random
from pipelines.ingest.source.layouts import read_layout
from pipelines.ingest.source.resolve import check_apart
from tests.log_sources import COLUMNS, CSV, find, names, only, write


def test_a_folder_is_its_files_by_name(tmp_path: Path) -> None:
    (tmp_path / "2020").mkdir()
    for name in ("b.csv", "a.tsv", "2020/c.csv", "_SUCCESS", ".hidden.csv", "README.md"):
        write(tmp_path / name, CSV.replace(",", "\t") if name.endswith("tsv") else CSV)
    write(tmp_path / "empty.csv", "")
    titles = write(tmp_path / "titles.csv", "item_id,title\nx,X\n")
    source = find(tmp_path, titles)
    assert [file.name for file in source.files] == ["2020/c.csv", "a.tsv", "b.csv"]
    assert source.titles_file == titles


@pytest.mark.parametrize(
    ("files", "source", "message"),
    [
        ({}, "nowhere", "no such file or folder"),
        ({}, "http://host/log", "http:// is not supported; give a local or mounted path, s3:// or gs://"),
        ({}, "nowhere/*.csv", "no file matches"),
        ({"log.csv": CSV}, "*.tsv", "no file matches"),
        ({"notes.doc": "x"}, "*", "no log file matches (found: notes.doc)"),
        ({}, "", "the folder holds no log file (found: nothing)"),
        ({"notes.doc": "x"}, "", "the folder holds no log file (found: notes.doc)"),
        ({"readme.txt": "x"}, "", "the folder holds no log file (found: readme.txt)"),
        ({"log.xlsx": "x"}, "log.xlsx", "unsupported extension '.xlsx'; supported: .csv"),
        ({"log.csv": ""}, "log.csv", "the log is empty"),
    ],
)
def test_bad_sources_are_one_clear_line(tmp_path: Path, files: dict[str, str], source: str, message: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError) as caught:
        find(source if "://" in source else tmp_path / source)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_glob_matches_files_and_folders(tmp_path: Path) -> None:
    for name in (
        "a.csv",
        "b.csv",
        "c.tsv",
        "2024/d.csv",
        "2025/e/f.csv",
        "_old/g.csv",
        "2025/.h/i.csv",
        "2025/_SUCCESS",
    ):
        write(tmp_path / name, CSV)
    assert names(tmp_path / "*.csv") == ["a.csv", "b.csv"]
    assert names(tmp_path / "[ac].?sv") == ["a.csv", "c.tsv"]
    assert names(tmp_path / "202?") == ["2024/d.csv", "2025/e/f.csv"]
    assert names(tmp_path / "202?" / "*.csv") == ["2024/d.csv"]
    assert names(tmp_path / "**" / "*.csv") == ["2024/d.csv", "2025/e/f.csv", "a.csv", "b.csv"]
    assert names(tmp_path / "**") == ["2024/d.csv", "2025/e/f.csv", "a.csv", "b.csv", "c.tsv"]
    assert names(tmp_path / "2025" / "**" / "f.csv") == ["e/f.csv"]
    assert names(tmp_path / "_*" / "*.csv") == ["_old/g.csv"]
    assert names(tmp_path / "[!ab].*") == ["c.tsv"]


def test_a_list_is_named_from_the_common_folder_and_lists_a_file_once(tmp_path: Path) -> None:
    for name in ("x/a.csv", "x/b.csv", "y/c.csv"):
        write(tmp_path / name, CSV)
    (tmp_path / "y" / "d.csv").symlink_to(tmp_path / "x" / "a.csv")
    given = [tmp_path / "y", tmp_path / "x" / "a.csv", f"{tmp_path}/x/../x/*.csv", tmp_path / "x"]
    assert names(given) == ["x/a.csv", "x/b.csv", "y/c.csv"]
    assert names([tmp_path / "x" / "b.csv"]) == ["b.csv"]
    assert names([tmp_path / "x" / "b.csv", tmp_path / "x" / "a.csv"]) == ["a.csv", "b.csv"]
    with pytest.raises(InputError, match="an empty list"):
        find([])


@pytest.mark.parametrize(
    "name",
    ["a b", "it's", '"q"', "new\nline", "a#b", "100%25", "what?", "st*r", "[ab]", "ü漢", "~x", "$HOME", "-x", "a://b"],
)
def test_any_name_given_literally_is_that_file(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name / f"{name.replace('://', '')}.csv", CSV)
    write(tmp_path / "stxr" / "stxr.csv", "not,the,log\n")
    for given in (path, path.parent):
        file = only(given)
        assert (file.path, file.name, file.bytes) == (str(path), path.name, len(CSV))
        assert read_layout(file, COLUMNS).first_line == 2
        with open_random(file.path) as raw:
            assert (raw.size(), raw.read_at(7, 0)) == (len(CSV), b"user_id")


def test_relative_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "logs" / "a.csv", CSV)
    monkeypatch.chdir(tmp_path)
    for given in ("logs", "logs/a.csv", "logs/*", "./logs/", "l*/a.csv"):
        (file,) = find(given).files
        assert file.path == str(tmp_path / "logs" / "a.csv")
    assert pickle.loads(pickle.dumps(file)) == file


def test_links_are_followed_without_circles(tmp_path: Path) -> None:
    log, other = tmp_path / "log", tmp_path / "other"
    write(log / "b" / "a.csv", CSV)
    write(tmp_path / "outside.csv", CSV)
    write(other / "c.csv", CSV)
    for link, target in (("self", log), ("up", tmp_path), ("b/around", log / "b"), ("a", log / "b"), ("other", other)):
        (log / link).symlink_to(target)
    (other / "back").symlink_to(log)
    assert names(log) == ["b/a.csv", "other/c.csv"]
    assert names(log / "**" / "*.csv") == ["b/a.csv", "other/c.csv"]
    (tmp_path / "link").symlink_to(log)
    assert names(tmp_path / "link") == ["b/a.csv", "other/c.csv"]


def test_a_dangling_link_named_like_a_log_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", CSV)
    (tmp_path / "notes").symlink_to(tmp_path / "nowhere")
    (tmp_path / "_b.csv").symlink_to(tmp_path / "nowhere")
    assert names(tmp_path) == ["a.csv"]
    (tmp_path / "b.csv").symlink_to(tmp_path / "nowhere")
    for given in (tmp_path, tmp_path / "b.csv", tmp_path / "*.csv"):
        with pytest.raises(InputError, match=r"/b\.csv is a link to nothing"):
            find(given)
    (tmp_path / "b.csv").unlink()
    (tmp_path / "c.csv").symlink_to(tmp_path / "c.csv")
    with pytest.raises(InputError, match=r"/c\.csv is a link to nothing"):
        find(tmp_path)


def test_what_is_no_file_is_no_log(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", CSV)
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "folder.csv").mkdir()
    assert names(tmp_path) == ["a.csv"]
    with pytest.raises(InputError, match="neither a file nor a folder"):
        find(tmp_path / "pipe.csv")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.csv")).write_text(CSV)
    with pytest.raises(InputError, match="not valid UTF-8"):
        find(tmp_path)


def test_ten_thousand_files_are_listed_in_a_moment(tmp_path: Path) -> None:
    for folder in range(100):
        (tmp_path / f"{folder:02}").mkdir()
        for number in range(100):
            (tmp_path / f"{folder:02}" / f"{number:02}.csv").write_text(CSV)
    start = time.process_time()  # what else runs on the machine shall not count
    found = names(tmp_path)
    assert time.process_time() - start < 3  # about 0.4 s
    assert len(found) == 10_000
    assert found == sorted(found)


def test_files_that_are_left_out_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plain = ("a.csv", "b/README.md", "LICENSE", "a.csv.md5", "SHA256SUMS", "_SUCCESS", ".part", "items.txt")
    for name in plain:
        write(tmp_path / name, CSV)
    find(tmp_path, tmp_path / "items.txt")
    assert caplog.messages == [], "not of titles, nor of what nobody takes for a log"
    for number in range(7):
        write(tmp_path / "b" / f"{number}.orc", "x")
    caplog.clear()
    assert names([tmp_path, tmp_path / "*"]) == ["a.csv"]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert ": 8 left out, " in record.getMessage()
    assert ": b/0.orc, b/1.orc, b/2.orc, b/3.orc, b/4.orc, ... (read are " in record.getMessage()
    assert "\n" not in record.getMessage()


def test_versions_lie_apart_from_the_log(tmp_path: Path) -> None:
    log = write(tmp_path / "log" / "a.csv", CSV)
    (tmp_path / "link").symlink_to(tmp_path / "log")
    for source, out in (
        (log.parent, log.parent),
        (log.parent, log.parent / "made" / "here"),
        (log.parent, tmp_path / "link" / "made"),
        (tmp_path / "link", log.parent / "made"),
    ):
        with pytest.raises(InputError, match=r"^--data.out .*: lies in --data.source .*give a folder outside"):
            check_apart(DataConfig(source=(str(log), str(source))), out)
    for source in (log, tmp_path / "log" / "*.csv", "s3://bucket/log", MOVIELENS_100K, tmp_path / "nowhere"):
        check_apart(DataConfig(source=str(source)), log.parent / "made")
    check_apart(DataConfig(source=str(log.parent)), tmp_path / "log2")


def test_notes_and_settings_are_no_logs_beside_one(tmp_path: Path) -> None:
    write(tmp_path / "log.csv", "user_id,item_id,timestamp\na,x,1\n")
    write(tmp_path / "notes.txt", "user_id,item_id,timestamp\na,x,1\n")
    write(tmp_path / "settings.json", "{}")
    assert [file.name for file in find(tmp_path).files] == ["log.csv"]
    (tmp_path / "log.csv").unlink()
    (tmp_path / "settings.json").unlink()
    assert [file.name for file in find(tmp_path).files] == ["notes.txt"]
