"""pipelines.ingest.source.presets: MovieLens, downloaded or in a folder as its makers or RecBole have it."""

import hashlib
import subprocess
from pathlib import Path

import pytest

from mgray.config import MOVIELENS_100K, DataConfig
from mgray.errors import InputError
from pipelines.ingest.source import presets
from pipelines.ingest.source.resolve import resolve
from pipelines.ingest.source.titles import read_titles
from tests.log_sources import CSV, find, names, write


def test_movielens_folders_bring_their_titles(tmp_path: Path) -> None:
    grouplens, recbole = tmp_path / "a", tmp_path / "b"
    grouplens.mkdir()
    recbole.mkdir()
    write(grouplens / "u.data", "196\t242\t3\t881250949\n")
    write(grouplens / "u1.base", "not\tthe\tlog\n")
    write(grouplens / "u.item", '1|Am\xe9lie "x" (2001)|01-Jan-1995||url\n'.encode("latin-1"))
    write(recbole / "ml-100k.inter", "user_id:token\titem_id:token\ttimestamp:float\n1\t2\t3\n")
    write(
        recbole / "ml-100k.item",
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        "1\tToy Story\t1995\tAnimation\n267\tunkonwn\tunkonwn\tunknown\n",
    )
    for folder, log, titles in (
        (grouplens, "u.data", [("1", 'Amélie "x" (2001)')]),
        (recbole, "ml-100k.inter", [("1", "Toy Story (1995)"), ("267", "unkonwn")]),
    ):
        source = find(folder)
        assert [file.name for file in source.files] == [log]
        assert source.titles_file is not None
        assert read_titles(source.titles_file).rows() == titles


def test_a_failed_download_tells_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([], 1, "", "noise\nERROR: No matching distribution found\n")
    monkeypatch.setattr(presets.subprocess, "run", lambda *args, **kwargs: failed)
    with pytest.raises(InputError, match=r"No matching distribution.*--data.source PATH"):
        resolve(DataConfig(), tmp_path)
    assert not list((tmp_path / "raw" / MOVIELENS_100K).iterdir())


def test_movielens_already_there_is_not_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "raw" / MOVIELENS_100K
    folder.mkdir(parents=True)
    texts = {
        "ml-100k.inter": "user_id:token\titem_id:token\ttimestamp:float\n1\t2\t3\n",
        "ml-100k.item": "item_id:token\n",
    }
    digests = {
        name: hashlib.sha256(write(folder / name, text).read_bytes()).hexdigest() for name, text in texts.items()
    }
    monkeypatch.setattr(presets, "MOVIELENS_FILES", digests)
    monkeypatch.setattr(presets.subprocess, "run", lambda *args, **kwargs: pytest.fail("downloaded"))
    assert resolve(DataConfig(), tmp_path).files[0].name == "ml-100k.inter"


def test_later_movielens_folders_bring_their_titles(tmp_path: Path) -> None:
    write(tmp_path / "1m" / "ratings.dat", "1::1193::5::978300760\n")
    write(tmp_path / "1m" / "users.dat", "1::F::1::10::48067\n")
    write(tmp_path / "1m" / "movies.dat", "1::Amélie :: x (2001)::Comedy\r\n2::B\x85C::Drama|War\n".encode("latin-1"))
    write(tmp_path / "10m" / "ratings.dat", "1::122::5::838985046\n")
    write(tmp_path / "10m" / "movies.dat", "1::Amélie (2001)::Comedy\n")
    write(tmp_path / "20m" / "ratings.csv", "userId,movieId,rating,timestamp\n1,2,3.5,1112486027\n")
    write(tmp_path / "20m" / "movies.csv", 'movieId,title,genres\n1,"Amélie, x (2001)",Comedy\n')
    write(tmp_path / "20m" / "tags.csv", "userId,movieId,tag,timestamp\n1,2,x,3\n")
    for folder, log, titles in (
        ("1m", "ratings.dat", [("1", "Amélie :: x (2001)"), ("2", "B\x85C")]),
        ("10m", "ratings.dat", [("1", "Amélie (2001)")]),
        ("20m", "ratings.csv", [("1", "Amélie, x (2001)")]),
    ):
        source = find(tmp_path / folder)
        assert [file.name for file in source.files] == [log]
        assert source.titles_file is not None
        assert read_titles(source.titles_file).rows() == titles
    with pytest.raises(InputError, match="2 of its folders bring titles"):
        find([tmp_path / "1m", tmp_path / "20m"])
    titles_file = write(tmp_path / "titles.csv", "item_id,title\n")
    both = find([tmp_path / "1m", tmp_path / "20m"], titles_file)
    assert [file.name for file in both.files] == ["1m/ratings.dat", "20m/ratings.csv"]
    assert both.titles_file == titles_file


@pytest.mark.parametrize(
    ("preset", "others", "logs"),
    [
        (
            {"ratings.csv": CSV, "movies.csv": "", "links.csv": "x", "tags.csv": "x", "genome-tags.csv": "x"},
            {"ratings-2025.csv": CSV, "2024/tags.csv": CSV, "2024-02.csv.xz": "x", "README.txt": "x"},
            ["2024/tags.csv", "ratings-2025.csv", "ratings.csv"],
        ),
        (
            {"u.data": CSV, "u.item": "x", "u.user": "x", "u1.base": "x", "ub.test": "x", "allbut.pl": "x"},
            {"new.csv": CSV, "2024-02.csv.xz": "x", "README": "x"},
            ["new.csv", "u.data"],
        ),
        (
            {"ml-100k.inter": CSV, "ml-100k.item": "x", "ml-100k.user": "x"},
            {"new.inter": CSV, "2024-02.csv.xz": "x"},
            ["ml-100k.inter", "new.inter"],
        ),
        (
            {"ratings.dat": CSV, "movies.dat": "x", "users.dat": "x"},
            {"ratings2.dat": CSV, "2024-02.csv.xz": "x"},
            ["ratings.dat", "ratings2.dat"],
        ),
    ],
)
def test_a_known_folder_may_hold_more_of_the_log(
    tmp_path: Path,
    preset: dict[str, str],
    others: dict[str, str],
    logs: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name, text in preset.items():
        write(tmp_path / name, text)
    assert len(names(tmp_path)) == 1
    assert caplog.messages == []
    for name, text in others.items():
        write(tmp_path / name, text)
    assert names(tmp_path) == logs
    (message,) = caplog.messages
    assert ": 1 left out, as the name is no log's: 2024-02.csv.xz (read are .csv, " in message
