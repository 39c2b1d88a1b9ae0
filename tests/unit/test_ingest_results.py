"""pipelines.ingest.results: what a task returns comes back from its JSON the same, to the last bit of a float."""

import json
from pathlib import Path

import pytest

from mgray.data.manifest import Shard
from mgray.errors import InputError
from pipelines.ingest.results import (
    BadRow,
    CleanedBucket,
    CoreTurn,
    Failure,
    FinishedBucket,
    InspectedFile,
    InspectedFiles,
    MergedItems,
    Nothing,
    StagedUnit,
    TaskResult,
    TwoWays,
    WrittenBucket,
)
from pipelines.ingest.runner import guarded, once
from pipelines.ingest.source.layouts import Layout
from pipelines.ingest.source.ranges import Range

LAYOUT = Layout({"user_id": "u"}, ["u", "i"], 4, 2, ";", None, partitions={"item_id": None}, notes=("a guess",))
FINISHED = FinishedBucket(
    3, 2, 1, [1, 1, 1], 0.1, 0.1 + 0.2, ["ratings"], [1, 2], [1, 1], [3], [2, 1], [1], [[2.0], [float("inf")], [1e-17]]
)
SHARD = Shard(file="part-00000-ab.parquet", users=2, events=3, bytes=10, sha256="ab")
RESULTS: list[TaskResult] = [
    Nothing(),
    InspectedFiles([InspectedFile(7, "ab", LAYOUT, [Range(4, 7, 2, 3), Range(7, None, 3, 1)])]),
    StagedUnit(
        2,
        1,
        0,
        [2],
        ["buy"],
        ["ratings"],
        1.0,
        2.0,
        BadRow(3, "user_id is empty", ",x", "log.csv"),
        "",
        {"user_id": []},
    ),
    StagedUnit(0, 0, 0, [], [], ["ratings"], None, None, None, "a0", {"user_id": ["007"]}),
    MergedItems(5, TwoWays(1, "7")),
    CleanedBucket(4, {"duplicates": 1}, 3, TwoWays(0, None), [0, 2], FINISHED),
    CleanedBucket(4, {}, 4, TwoWays(0, None), [], None),
    CoreTurn(4, 3, {"rare_items": 1, "short_users": 0}),
    FINISHED,
    WrittenBucket(SHARD, None, 3),
]


@pytest.mark.parametrize("result", RESULTS, ids=lambda result: type(result).__name__)
def test_results_survive_their_json(result: TaskResult) -> None:
    assert type(result).from_json(result.to_json()) == result


def test_a_field_that_is_missing_is_named() -> None:
    text = json.dumps({"rows": 4, "kept": 3})
    with pytest.raises(KeyError, match="dropped"):
        CoreTurn.from_json(text)
    with pytest.raises(ValueError, match=r"Unterminated|Expecting"):
        CoreTurn.from_json(text[:-3])


def test_what_the_user_can_mend_is_a_failure_and_is_not_kept(tmp_path: Path) -> None:
    done = tmp_path / "core-000000.json"

    def wrong(index: int) -> CoreTurn:
        raise InputError(f"row {index} is wrong")

    assert guarded(wrong, 7) == Failure("row 7 is wrong")
    assert once(done, wrong, 7) == Failure("row 7 is wrong")
    assert list(tmp_path.iterdir()) == []
    turn = CoreTurn(4, 3, {})
    assert once(done, lambda index: turn, 7) == turn.to_json()
    assert once(done, wrong, 7) == turn.to_json(), "a task that is done is not run again"
    assert list(tmp_path.iterdir()) == [done]
