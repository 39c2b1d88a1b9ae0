"""pipelines.ingest.source.digests: files known by their bytes."""

from pathlib import Path

from mgray.config import DataConfig
from mgray.data.manifest import Manifest, SourceFile, file_sha256
from pipelines.ingest.source.digests import digest_log, sort_files
from tests.log_sources import CSV, write


def test_new_files_are_told_by_their_bytes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", CSV + "z" * (5 << 20))
    write(tmp_path / "b.csv", CSV)
    found = sort_files(digest_log(DataConfig(source=str(tmp_path)), tmp_path), None)
    assert found == (["a.csv", "b.csv"], [], [])

    known = SourceFile(path="old.csv", bytes=1, sha256=file_sha256(path))
    gone = SourceFile(path="gone.csv", bytes=1, sha256="0")
    manifest = Manifest.model_construct(sources=[known, gone], config={})
    found = sort_files(digest_log(DataConfig(source=str(tmp_path)), tmp_path), manifest)
    assert found == (["b.csv"], ["a.csv"], ["gone.csv"])


def test_titles_are_no_files_of_the_log(tmp_path: Path) -> None:
    """Titles that changed are not missing from the log, and a log that is called as they are is no titles file."""
    log = write(tmp_path / "log" / "items.csv", CSV)
    titles = write(tmp_path / "items.csv", "item_id,title\nx,X\n")
    sources = [SourceFile(path="items.csv", bytes=1, sha256=file_sha256(path)) for path in (log, titles)]
    manifest = Manifest.model_construct(sources=sources, config={"titles": "items.csv"})
    config = DataConfig(source=str(log.parent), items=str(titles))
    assert sort_files(digest_log(config, tmp_path), manifest) == ([], ["items.csv"], [])
    write(titles, "item_id,title\nx,another\n")
    assert sort_files(digest_log(config, tmp_path), manifest) == ([], ["items.csv"], [])
    log.rename(log.with_name("b.csv"))
    write(log.with_name("b.csv"), CSV + "c,z,3\n")
    assert sort_files(digest_log(config, tmp_path), manifest) == (["b.csv"], [], ["items.csv"])
