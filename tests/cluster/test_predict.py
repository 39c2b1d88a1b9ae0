"""pipelines.predict.job on a real local Ray: every user scored once, the right lists, versions, what a failure
leaves.
"""

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest

from mgray.config import PredictJobConfig
from mgray.config.command_line import validate
from mgray.data.dataset import Dataset
from mgray.data.manifest import file_sha256, read_predictions
from mgray.errors import InputError
from mgray.schema import PREDICTION_SCHEMA
from mgray.serve.recommender import Recommender
from pipelines.predict import job as predict
from pipelines.predict.tasks import PART_EVENTS, Part, PredictJob, plan_parts
from tests.conftest import Champion
from tests.models import write_model

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def data(champion: Champion, tmp_path: Path) -> Dataset:
    """A copy of the dataset with many row groups, so that a shard is scored in several parts."""
    folder = tmp_path / "dataset"
    shutil.copytree(champion.dataset.folder, folder)
    for shard in champion.dataset.manifest.shards:
        pq.write_table(pq.read_table(folder / shard.file), folder / shard.file, row_group_size=10)
    return Dataset(folder)


@pytest.fixture
def run(ray_local: None, champion: Champion, data: Dataset, tmp_path: Path) -> Run:
    """run(model_folder=None, **predict settings); the champion unless a model folder is given."""

    def go(model_folder: Path | None = None, **settings: object) -> dict[str, Any]:
        values = {
            "home": str(champion.home),
            "data": {"dataset": str(data.folder)},
            "predict": {"out": str(tmp_path / "out"), "part_users": 25, "num_workers": 1} | settings,
            # By name: mlflow.set_tracking_uri leaves an earlier test's store in this process' environment.
            "tracking": {"uri": f"sqlite:///{champion.home / 'mlflow.db'}"},
        }
        if model_folder is None:
            return predict.run_prediction(validate(PredictJobConfig, values))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(predict.tracking, "fetch_model", lambda *_: (model_folder, "mgray-interest", "1"))
            return predict.run_prediction(validate(PredictJobConfig, values))

    return go


def read(result: dict[str, Any]) -> pl.DataFrame:
    return pl.read_parquet(Path(result["path"]) / "part-*.parquet")


def histories(dataset: Dataset) -> dict[str, list[str]]:
    """User -> raw ids of the known events, oldest first."""
    found = {}
    for number in range(dataset.num_shards):
        shard = dataset.read(number)
        for row, user in enumerate(shard.user_ids):
            found[user] = [dataset.item_ids[item - 1] for item in shard.row(row).items if item > 0]
    return found


def test_every_user_is_scored_once(run: Run, data: Dataset, champion: Champion) -> None:
    result = run(k=5, num_workers=2)
    table = read(result)
    assert pq.read_schema(next(Path(result["path"]).glob("part-*"))) == PREDICTION_SCHEMA
    ways = {"users_by_history": 120, "users_fallback": 0, "users_short": 0, "users_empty": 0}
    assert result["rows"] == {"users": 120, "predictions": 600, **ways}
    assert set(table["user_id"]) == set(histories(data))
    assert table.height == table.unique(["user_id", "item_id"]).height == 600
    lists = table.group_by("user_id", maintain_order=True).agg("rank", "score")
    assert lists.height == 120, "a user's rows lie together"
    assert all(ranks.to_list() == [1, 2, 3, 4, 5] for ranks in lists["rank"])
    assert all(scores.is_sorted(descending=True) for scores in lists["score"])

    manifest = read_predictions(result["path"])
    assert len(manifest.parts) == len(plan_parts(data.manifest, 25)) > data.num_shards
    files = {path.name: file_sha256(path) for path in Path(result["path"]).iterdir() if path.suffix == ".parquet"}
    assert files == {part.file: part.sha256 for part in manifest.parts}
    assert (manifest.model.version, manifest.dataset_fingerprint) == ("1", data.manifest.fingerprint)
    assert result["model"] == {"name": "mgray-interest", "version": "1", "run_id": manifest.model.run_id}
    assert set(result["seconds"]) == {"fetch_model", "dataset", "actors_start", "score", "commit"}
    assert not result["reused"]

    recommender = Recommender(champion.model_folder)
    expected = histories(data)
    users = sorted(expected)[::6]
    wanted = recommender.recommend([expected[user] for user in users], 5)
    for user, items, scores in zip(users, wanted.items, wanted.scores, strict=True):
        mine = table.filter(pl.col("user_id") == user).sort("rank")
        assert mine["item_id"].to_list() == items
        assert mine["score"].to_list() == pytest.approx(scores, abs=1e-5)


def test_lists_with_seen_items_of_a_model_that_never_ranked_them_come_with_a_caution(
    run: Run, data: Dataset, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = write_model(tmp_path / "model", data.item_ids, data.item_counts[1:].tolist(), exclude_seen=True)
    run(folder, k=2)
    run(folder, k=2, remove_seen=True)
    assert "exclude_seen" not in capfd.readouterr().err
    run(folder, k=2, remove_seen=False)
    assert "exclude_seen" in capfd.readouterr().err


def test_seen_and_blocked_items_are_in_no_list(run: Run, data: Dataset, tmp_path: Path) -> None:
    """A list with k past the catalogue is exactly what is left of the catalogue."""
    catalogue, blocked = set(data.item_ids), {"i3", "i7"}
    (tmp_path / "blocked.txt").write_text("i3\n\n i7 \ni3\n")
    result = run(k=1000, blocked=str(tmp_path / "blocked.txt"))
    lists = dict(read(result).group_by("user_id").agg("item_id").iter_rows())
    expected = {user: catalogue - blocked - set(items) for user, items in histories(data).items()}
    assert {user: set(items) for user, items in lists.items()} == expected
    assert result["rows"]["predictions"] == sum(len(items) for items in expected.values())

    (tmp_path / "blocked.csv").write_text("item_id,why\ni3,broken\ni7,illegal\ngone,old\n")
    everything = run(k=1000, remove_seen=False, blocked=str(tmp_path / "blocked.csv"), allow_unknown_blocked=True)
    assert everything["rows"]["predictions"] == 120 * len(catalogue - blocked)
    assert set(read(everything)["item_id"]) == catalogue - blocked


def test_a_blocked_file_as_a_spreadsheet_writes_it(run: Run, tmp_path: Path) -> None:
    plain = tmp_path / "plain.txt"
    plain.write_text("i3\ni7\n")
    first = run(k=3, blocked=str(plain))
    written = {
        "crlf.txt": b'\xef\xbb\xbfi3 \r\n\t"i7"\t\r\n\r\nNULL\r\n',
        "table.CSV": b'\xef\xbb\xbfitem_id,why\r\n i3 ,x\r\n"i7",y\r\nNULL,z\r\n',
        "table.TSV": b"why\titem_id\nx\ti3\ny\ti7 \n",
        "table.csv.gz": gzip.compress(b"item_id\ni3\ni7\n"),
        "table.jsonl": b'{"item_id": "i3"}\n{"item_id": " i7"}\n{"other": 1}\n',
    }
    for name, data in written.items():
        (tmp_path / name).write_bytes(data)
        again = run(k=3, blocked=str(tmp_path / name))
        assert (again["path"], again["reused"]) == (first["path"], True), name


def test_blocked_ids_are_matched_by_the_rule_of_ids() -> None:
    settings = PredictJobConfig().predict.model_copy(update={"blocked": "file"})
    assert predict.block(settings, ["3", "9"], ["1", "3"], ["9"]).tolist() == [2]
    # a model of an earlier rule has some in another spelling: all of one id are blocked
    assert predict.block(settings, ["3"], ["3.0", "1", " 3"], ["3"]).tolist() == [1, 3]
    with pytest.raises(InputError, match=r"1 of 1 item ids are in neither model nor dataset \(03\)"):
        predict.block(settings, ["03"], ["3"], ["3"])


def test_a_model_of_another_vocabulary_is_matched_by_raw_id(run: Run, data: Dataset, tmp_path: Path) -> None:
    """The model knows 6 of the 40 items, in another order, and one of its own: others are no part of a history."""
    known = [*reversed(data.item_ids[:6]), "new"]
    folder = write_model(tmp_path / "small", known, [2, 3, 5, 7, 11, 13, 1])
    result = run(folder, k=2, remove_seen=False)
    lists = dict(read(result).sort("rank").group_by("user_id", maintain_order=True).agg("item_id").iter_rows())
    raw = {user: [item for item in items if item in known] for user, items in histories(data).items()}
    users = sorted(raw)
    wanted = Recommender(folder).recommend([raw[user] for user in users], 2, remove_seen=False)
    assert lists == dict(zip(users, wanted.items, strict=True))
    cold = [user for user in users if not raw[user]]
    assert cold, "some users must know none of the model's items"
    assert result["rows"]["users_fallback"] == len(cold)
    assert lists[cold[0]] == [known[5], known[4]]

    with pytest.raises(InputError, match="knows none of the dataset's"):
        run(write_model(tmp_path / "foreign", ["x", "y"], [1, 1]))


def test_without_data_the_users_are_those_of_the_models_own_dataset(
    ray_local: None, champion: Champion, tmp_path: Path
) -> None:
    asked = {
        "home": str(champion.home),
        "data": {"out": str(tmp_path)},
        "predict": {"out": str(tmp_path / "lists")},
        "tracking": {"uri": f"sqlite:///{champion.home / 'mlflow.db'}"},
    }
    with pytest.raises(InputError, match=r"the dataset that it was trained on is not in .*--data\.source"):
        predict.run_prediction(validate(PredictJobConfig, asked))
    own = shutil.copytree(champion.dataset.folder, tmp_path / champion.dataset.manifest.ingest_key[:16])
    result = predict.run_prediction(validate(PredictJobConfig, asked))
    assert result["dataset"]["path"] == str(own)
    assert result["rows"]["users"] == champion.dataset.manifest.users


def test_a_version_already_there_is_reused(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(k=3)
    before = read(first)
    assert run(k=3, overwrite=True)["reused"] is False
    assert read(first).equals(before)

    monkeypatch.setattr(predict, "score_parts", lambda *_: pytest.fail("scores anew"))
    again = run(k=3)
    assert (again["path"], again["rows"], again["reused"]) == (first["path"], first["rows"], True)
    # parts, batches and workers do not shape the lists, so they make no version of their own
    assert run(k=3, part_users=7, num_workers=2, batch_events=99)["reused"]
    (tmp_path / "blocked.txt").write_text("i3")
    for other in ({"k": 4}, {"remove_seen": False}, {"blocked": str(tmp_path / "blocked.txt")}):
        with pytest.raises(pytest.fail.Exception, match="scores anew"):
            run(**{"k": 3} | other)
    next(Path(first["path"]).glob("part-*")).unlink()
    with pytest.raises(pytest.fail.Exception, match="scores anew"):
        run(k=3)


def test_a_failure_leaves_what_was_committed(
    run: Run, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(k=3)

    def left() -> list[str]:
        return [path.name for path in (tmp_path / "out").iterdir()]

    def dies(job: PredictJob, *_: object) -> None:
        (job.folder / "part-000000.parquet").write_bytes(b"half")
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(predict, "score_parts", dies)
        for settings in ({"k": 3, "overwrite": True}, {"k": 4}):
            with pytest.raises(RuntimeError, match="killed"):
                run(**settings)
            assert left() == [Path(first["path"]).name]
    assert read(first).height == 360

    shard = data.folder / data.manifest.shards[1].file
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(InputError, match=rf"{shard.name}: cannot be read"):
        run(k=5)
    assert left() == [Path(first["path"]).name]


def test_too_many_workers_are_an_input_error(run: Run) -> None:
    with pytest.raises(InputError, match=r"lower --predict\.num_workers"):
        run(num_workers=64)
    with pytest.raises(InputError, match=r"set --predict\.use_gpu false"):
        run(use_gpu=True)


def test_a_large_shard_is_several_parts(data: Dataset) -> None:
    shards = data.manifest.shards
    assert plan_parts(data.manifest, 1000) == (Part(0, 0, 1), Part(1, 0, 1))
    long = shards[0].model_copy(update={"events": 2 * PART_EVENTS + 1})
    manifest = data.manifest.model_copy(update={"shards": [long, shards[1].model_copy(update={"users": 21})]})
    assert plan_parts(manifest, 1000)[:3] == (Part(0, 0, 3), Part(0, 1, 3), Part(0, 2, 3))
    assert plan_parts(manifest, 10)[-3:] == (Part(1, 0, 3), Part(1, 1, 3), Part(1, 2, 3))
