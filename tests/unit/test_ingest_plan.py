"""pipelines.ingest.plan: what a forget list takes from other ingests, and named columns that no row has."""

import json
import os
import socket
import time
from pathlib import Path

import psutil
import pytest

from mgray.config import ColumnsConfig, DataConfig
from mgray.errors import InputError
from mgray.schema import OptionalColumn
from pipelines.ingest.context import FileRange, Rules, Unit
from pipelines.ingest.plan import Plan, check_named_columns
from pipelines.ingest.results import StagedUnit
from pipelines.ingest.source.layouts import Layout
from pipelines.ingest.source.log_files import Format, LogFile
from pipelines.ingest.source.ranges import Range
from pipelines.ingest.staging import Layers
from pipelines.runtime.lock import hold

KEY, OTHER = "a" * 16, "b" * 16
RULES = Rules(None, None, None, None, True, None, None, 1, 3, "leave_one_out")


def plan(out: Path, kind: Format = "jsonl", key: str = KEY) -> Plan:
    """Of one unit, with a forget list."""
    part = FileRange(LogFile("/log", "log", 1, kind, None), Layout({}, [], 0, 1), Range(0, 1, 1, 1))
    return Plan(
        source="/log",
        key=key * 4,
        sources=[],
        settings={},
        titles=None,
        units=(Unit("own", (part,)),),
        read_before=[],
        known_items=[],
        known_event_types=[],
        staged=out / ".staged",
        layers=Layers(1, 1, (), None, ("somebody",)),
        rules=RULES,
    )


def make_place(out: Path) -> None:
    for name in (
        f".staging-{KEY}",
        f".staging-{OTHER}",
        ".staging-1-x@node",
        ".staged/own",
        ".staged/others",
        "version",
    ):
        (out / name).mkdir(parents=True)


def left(out: Path) -> set[str]:
    return {str(path.relative_to(out)) for path in out.rglob("*") if path.is_dir()}


OWN = {f".staging-{KEY}", ".staging-1-x@node", ".staged", ".staged/own", "version"}


def test_a_forget_list_takes_what_nobody_uses(tmp_path: Path) -> None:
    make_place(tmp_path)
    gone = psutil.Process().create_time() - 1e6  # the pid is another process by now
    lock = {"pid": os.getpid(), "host": socket.gethostname(), "process_started": gone, "locked_at": time.time()}
    (tmp_path / ".staged" / f"{OTHER}.lock").write_text(json.dumps(lock))
    assert not plan(tmp_path).others_run(), "a killed ingest's lock is no ingest"
    plan(tmp_path).forget_others()
    assert left(tmp_path) == OWN


def test_a_forget_list_leaves_an_ingest_that_runs_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_place(tmp_path)
    (tmp_path / ".staging-cccccccccccccccc").mkdir()
    with hold(tmp_path / ".staged" / f"{OTHER}.lock", "another ingest", 60):
        assert plan(tmp_path).others_run()
        assert not plan(tmp_path, key=OTHER).others_run(), "its own lock is no other's"
        plan(tmp_path).forget_others()
        assert left(tmp_path) == OWN | {f".staging-{OTHER}", ".staged/others"}
        (message,) = caplog.messages
        assert "run this command again after they end" in message
    plan(tmp_path).forget_others()
    assert left(tmp_path) == OWN
    assert len(caplog.messages) == 1


def result(has_ratings: bool, event_types: list[str], pieces: list[int]) -> StagedUnit:
    rows, times = sum(pieces), (0.0, 0.0)
    numbers: list[OptionalColumn] = ["ratings"] if has_ratings else []
    return StagedUnit(rows, 0, 0, pieces, event_types, numbers, *times, None, "", {"user_id": [], "item_id": []})


def test_named_columns_that_no_json_row_has(tmp_path: Path) -> None:
    without, rated, typed = result(False, [], [3]), result(True, [], [3]), result(False, ["view"], [3])
    stars = DataConfig(columns=ColumnsConfig(rating="stars"))
    kinds = DataConfig(columns=ColumnsConfig(event_type="kind"))
    with pytest.raises(InputError, match=r"^--data.source /log: no row has 'stars'; .*--data.columns.rating NAME"):
        check_named_columns(stars, plan(tmp_path), [without, typed])
    with pytest.raises(InputError, match=r"no row has 'kind'; .*--data.columns.event_type NAME"):
        check_named_columns(kinds, plan(tmp_path), [without, rated])
    check_named_columns(stars, plan(tmp_path), [without, rated])  # late, or in another file
    check_named_columns(kinds, plan(tmp_path), [without, typed])
    check_named_columns(DataConfig(), plan(tmp_path), [without])
    check_named_columns(stars, plan(tmp_path, "csv"), [without])  # its header has it
    check_named_columns(stars, plan(tmp_path), [result(False, [], [])])  # no row at all: told elsewhere
