"""Runs the tasks of an ingest on Ray Data, and times its phases."""

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import ray.data

from mgray.errors import InputError
from pipelines.ingest.results import Failure, TaskResult
from pipelines.runtime.console import Timer
from pipelines.runtime.malloc import keep_freed_memory
from pipelines.runtime.versions import draft_path, place_error

Progress = Callable[..., None]  # phase, tasks done, tasks in all, detail
Result = TypeVar("Result", bound=TaskResult)


class TaskRunner(NamedTuple):
    timer: Timer
    progress: Progress

    def map(
        self, phase: str, kind: type[Result], task: Callable[[int], Result], count: int, done: Path | None = None
    ) -> list[Result]:
        """Runs task(0..count-1), one Ray Data task each; results in order. Raises the first InputError met.

        done: a folder in which each result is left as a file, so that the next run after a kill finds it.
        """

        def run_one(row: dict[str, Any]) -> dict[str, Any]:
            keep_freed_memory()
            index = int(row["id"])
            text = guarded(task, index) if done is None else once(done / f"{phase}-{index:06d}.json", task, index)
            failed = isinstance(text, Failure)
            return {"index": index, "failed": failed, "text": text.message if isinstance(text, Failure) else text}

        results: dict[int, Result] = {}
        with self.timer.phase(phase):
            started, rows = time.perf_counter(), 0
            self.progress(phase, 0, count)
            if not count:
                return []
            for row in _rows(ray.data.range(count, override_num_blocks=count).map(run_one)):
                if row["failed"]:
                    raise InputError(row["text"])
                result = results[row["index"]] = kind.from_json(row["text"])
                rows += result.num_rows
                seconds = time.perf_counter() - started
                left = seconds * (count - len(results)) / len(results)
                speed = f"{rows / seconds:,.0f} rows/s  " if rows else ""
                detail = f"{speed}{left:.0f} s left" if len(results) < count else speed
                self.progress(phase, len(results), count, detail)
        return [results[index] for index in range(count)]


def guarded(task: Callable[[int], TaskResult], index: int) -> str | Failure:
    """The task's result as JSON, or what the user can mend."""
    try:
        return task(index).to_json()
    except InputError as error:
        return Failure(str(error))
    except OSError as error:
        mendable = place_error(error)
        if mendable is None:
            raise
        return Failure(str(mendable))


def once(done: Path, task: Callable[[int], TaskResult], index: int) -> str | Failure:
    """The result that an earlier run of this task left in the file `done`, else the task's, which is left there."""
    try:
        text = done.read_text()
        json.loads(text)
    except (FileNotFoundError, ValueError):  # not there, or not whole
        found = guarded(task, index)
        if not isinstance(found, Failure):
            draft = draft_path(done)
            draft.write_text(found)
            os.replace(draft, done)
        return found
    return text


def _rows(dataset: ray.data.Dataset) -> Iterator[dict[str, Any]]:
    """The rows of a dataset of one operator.

    Reserving a share of the cluster for every operator, as Ray Data does by default, leaves the one that works half of
    a small cluster: on 2 CPUs its tasks run one at a time.
    """
    dataset.context.op_resource_reservation_enabled = False
    yield from dataset.iter_rows()
