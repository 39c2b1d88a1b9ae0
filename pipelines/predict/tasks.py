"""The scoring worker: an actor that loads the model once, then scores parts and writes each as Parquet.

A part is a run of row groups of one shard. As in ingest, the user's mistakes come back as a record, and a part that
Ray runs again overwrites its own file and nothing else.
"""

import os
import socket
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from mgray.data.dataset import Dataset
from mgray.data.manifest import Manifest, PredictionPart
from mgray.errors import InputError
from mgray.record import Record
from mgray.schema import USER_ID
from mgray.serve.model_folder import load_memory, load_model
from mgray.serve.scorer import ModelScorer
from mgray.serve.top_k import prediction_table, rank_lists, translate
from mgray.serve.translation import Translation
from pipelines.runtime.parquet import write_parquet
from pipelines.runtime.versions import place_error

ROW_GROUP_PREDICTIONS = 1 << 17
PART_EVENTS = 1 << 22  # histories are long in some logs: 16 MiB of item numbers a part, about


class Part(NamedTuple):
    """Piece `piece` of `num_pieces` about equal runs of the row groups of number `shard` of `all_shards`."""

    shard: int
    piece: int
    num_pieces: int


def plan_parts(manifest: Manifest, part_users: int) -> tuple[Part, ...]:
    """Every shard in pieces of about `part_users` users, and never many more than PART_EVENTS events.

    Those of short users come last. A pure function of dataset and setting: the parts are the same on every cluster.
    """
    parts = []
    for number, shard in enumerate(manifest.all_shards):
        pieces = max(1, -(-shard.users // part_users), -(-shard.events // PART_EVENTS))
        parts += [Part(number, piece, pieces) for piece in range(pieces)]
    return tuple(parts)


class PredictJob(NamedTuple):
    """Input of every worker of one prediction; plain values, so that it travels to any node."""

    dataset: Path
    model: Path  # model folder, below the staging folder, which is on storage that every node sees
    folder: Path  # the version's staging folder
    parts: tuple[Part, ...]
    k: int
    remove_seen: bool
    blocked: npt.NDArray[np.int64] | None  # the model's item numbers
    batch_events: int
    threads: int
    use_gpu: bool


class ScoredPart(Record):
    """Answer of an actor that wrote a part; JSON, for a Ray Dataset holds text."""

    part: PredictionPart
    started: float  # seconds since 1970
    pid: int
    peak_rss_bytes: int | None


class Mistake(Record):
    """Answer of an actor where the user's input is wrong."""

    error: str


class PartScorer:
    """The model in memory, and the part that it scores next."""

    def __init__(self, job: PredictJob) -> None:
        self.job = job
        self.error: str | None = None
        torch.set_num_threads(job.threads)
        try:
            if not job.folder.is_dir():
                raise InputError(
                    f"{job.folder.parent}: not seen by node {socket.gethostname()}; datasets and --predict.out must be "
                    "on storage that every node sees under the same path"
                )
            device = torch.device("cuda" if job.use_gpu else "cpu")
            model, info, vocabulary = load_model(job.model, device)
            memory = load_memory(job.model, info)
            self.scorer = ModelScorer(model, vocabulary.popularity, info.max_length, device, memory)
            self.item_ids = vocabulary.item_ids.to_arrow()
            self.dataset = Dataset(job.dataset)
            self.translation = Translation(self.dataset, vocabulary.item_ids, info)
        except InputError as error:
            self.error = str(error)

    def __call__(self, rows: dict[str, npt.NDArray[Any]]) -> dict[str, list[Any]]:
        """Ray Data's batch of {"index": [...]} -> {"index": [...], "result": [JSON, ...]}."""
        indices = [int(index) for index in rows["index"]]
        return {"index": indices, "result": [self._guarded(index).model_dump_json() for index in indices]}

    def _guarded(self, index: int) -> ScoredPart | Mistake:
        if self.error is not None:
            return Mistake(error=self.error)
        started = time.time()
        try:
            part = self.score(index)
        except InputError as error:
            return Mistake(error=str(error))
        except OSError as error:
            mendable = place_error(error, "--predict.out")
            if mendable is None:
                raise
            return Mistake(error=str(mendable))
        return ScoredPart(part=part, started=started, pid=os.getpid(), peak_rss_bytes=peak_rss_bytes())

    def score(self, index: int) -> PredictionPart:
        """Score one part and write it. Raises InputError where a shard is unreadable."""
        job = self.job
        part, manifest = job.parts[index], self.dataset.manifest
        users = self._read(part)
        offsets, columns = self.dataset.parse(users, self.translation.columns, whole=True)
        columns, offsets = translate(columns, offsets, self.translation)
        lists = rank_lists(self.scorer, columns, offsets, job.k, job.remove_seen, job.blocked, job.batch_events)
        table = prediction_table(lists, users[USER_ID].combine_chunks(), self.item_ids)
        draft = write_parquet(table, job.folder, f"part-{index:06d}", ROW_GROUP_PREDICTIONS)
        written = pq.read_metadata(draft.path).num_rows
        assert written == int(lists.lengths.sum()), f"part {index}: {written} rows written, not {lists.lengths.sum()}"
        path = job.folder / f"part-{index:06d}.parquet"
        os.replace(draft.path, path)
        return PredictionPart(
            file=path.name,
            users=users.num_rows,
            users_short=users.num_rows if part.shard >= len(manifest.shards) else 0,
            predictions=written,
            users_fallback=int(lists.is_fallback.sum()),
            users_empty=int((lists.lengths == 0).sum()),
            bytes=draft.bytes,
            sha256=draft.sha256,
        )

    def _read(self, part: Part) -> pa.Table:
        path = self.dataset.folder / self.dataset.manifest.all_shards[part.shard].file
        try:
            with pq.ParquetFile(path) as file:
                groups = range(
                    part.piece * file.num_row_groups // part.num_pieces,
                    (part.piece + 1) * file.num_row_groups // part.num_pieces,
                )
                names = [USER_ID, *self.dataset.column_names(self.translation.columns, whole=True)]
                return file.read_row_groups(list(groups), columns=names)
        except (OSError, pa.ArrowInvalid) as error:
            raise InputError(f"{path}: cannot be read ({error}); ingest the log again") from error


def peak_rss_bytes() -> int | None:
    """The most memory that this process ever held, shared pages too; None where the system does not say."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), None)
