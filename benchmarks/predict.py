"""Batch scoring by jobs/predict.py against the same model called in one plain process, and its memory as users grow.

    python benchmarks/predict.py            # about 8 minutes on 2 cores

Checks:
- `users_s_per_core_vs_plain`: users per core-second of the job's scoring phase, over users per core-second of the
  plain process; the median of the rounds, each of which runs both, one after the other, over the same users.
  The job's phase runs from the first part's start to the last part's arrival: shards read, lists ranked, Parquet
  written and digested. It is charged all cores for all of that time, idle or not, Ray's own processes included, less
  the CPU time that processes other than the job's used meanwhile (`cpu_s.neighbours`; next to nothing on a quiet
  machine, where the figure is the plain ratio of users a second). The plain process (one torch thread, charged its
  CPU time) ranks the same histories by the same function, all in memory before its clock starts and sorted by length
  over all users, and writes nothing. Starting Ray and its actors is in neither; `raw` has those seconds.
- `memory_growth`: peak resident memory of driver and actors together (VmHWM of each process, shared pages counted in
  each), at four times the users over that at one time the users.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from _results import check, write

from mgray.config import ModelConfig, TrackingConfig, TrainJobConfig
from mgray.data.columns import concatenate
from mgray.data.dataset import Dataset
from mgray.model.ensemble import make_model
from mgray.serve.model_folder import Vocabulary, save_model
from mgray.serve.recommender import Recommender
from mgray.serve.top_k import rank_lists, translate
from mgray.serve.translation import Translation
from mgray.testing.synthetic import make_log
from mgray.train.resolve import model_info, resolve_job

ROOT = Path(__file__).parent.parent
THIS = "benchmarks/predict.py"
K = 10
RECOMMENDER_USERS = 10_000
SAMPLE_S = 0.5
KINDS = ("driver", "actors", "ray")


def run_json(command: list[str]) -> dict[str, Any]:
    """The JSON of the last line that a command prints; its other output goes to stderr."""
    # RAY_ADDRESS=local: a Ray of its own, whatever else runs on this machine
    # RAY_worker_niceness: as the plain process; by default Ray's workers give way to neighbours
    environment = os.environ | {"RAY_ADDRESS": "local", "RAY_worker_niceness": "0", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command], stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def ingest(home: Path, users: int, items: int, events: int) -> Path:
    """A committed dataset of `users` random walks, `events` events each on average."""
    log = home / f"log-{users}.parquet"
    make_log(users, items, seed=0, mean_events=events).write_parquet(log)
    result = run_json(["jobs/ingest.py", "--home", str(home), "--data.source", str(log)])
    log.unlink()
    return Path(result["dataset"]["path"])


def register(home: Path, dataset: Dataset) -> Path:
    """An initialized default model in the registry of HOME, as champion; gives its folder."""
    from pipelines import tracking

    torch.manual_seed(0)
    info = model_info(dataset, resolve_job(TrainJobConfig(), dataset.manifest))
    model = make_model(info.config, info.num_items, info.inputs)
    folder = home / "model"
    save_model(folder, model.state_dict(), info, Vocabulary.of(dataset))
    settings = TrackingConfig(system_metrics=False)
    tracking.open_tracking(settings, home)
    with tracking.start_run(settings, {}, {}, "benchmark"):
        tracking.register(settings, folder, {"history": [dataset.item_ids[:3]]}, {})
    return folder


def plain(dataset_folder: str, model_folder: str) -> dict[str, Any]:
    """The plain process: users a second of the ranking function, and of Recommender over the first users."""
    torch.set_num_threads(1)
    dataset, recommender = Dataset(dataset_folder), Recommender(model_folder)
    shards = [dataset.read(number, whole=True) for number in range(dataset.num_shards)]
    lengths = np.concatenate([np.diff(shard.offsets) for shard in shards])
    columns = concatenate([shard.columns for shard in shards])
    translation = Translation(dataset, recommender.vocabulary.item_ids, recommender.info)
    columns, offsets = translate(columns, np.concatenate([[0], np.cumsum(lengths)]), translation)
    rank_lists(recommender.scorer, columns, offsets[:1001], K)
    started, cpu = time.perf_counter(), time.process_time()
    lists = rank_lists(recommender.scorer, columns, offsets, K)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    ids = [
        [dataset.all_item_ids[item - 1] for item in shards[0].row(row).items]
        for row in range(min(RECOMMENDER_USERS, len(shards[0].train_end)))
    ]
    started = time.perf_counter()
    recommender.recommend(ids, K)
    recommender_s = time.perf_counter() - started
    return {
        "users": len(lists.items),
        "predictions": int(lists.lengths.sum()),
        "seconds": seconds,
        "cpu_s": cpu,
        "users_s": len(lists.items) / seconds,
        "users_core_s": len(lists.items) / cpu,
        "recommender_users_s": len(ids) / recommender_s,
    }


class Meter(threading.Thread):
    """CPU seconds of the whole machine and of this process with all that it started, sampled as time goes by."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.samples: list[tuple[float, ...]] = []  # unix time, machine's busy s, then own s by KIND
        self.own: dict[int, tuple[str, float]] = {}  # process -> kind, seconds; kept when it ends
        self.done = threading.Event()

    def run(self) -> None:
        me = psutil.Process()
        while not self.done.wait(SAMPLE_S):
            for process in [me, *me.children(recursive=True)]:
                try:
                    times, command = process.cpu_times(), "".join(process.cmdline()[:1])
                except psutil.Error:
                    continue
                kind = "driver" if process.pid == me.pid else "actors" if "MapWorker" in command else "ray"
                self.own[process.pid] = (kind, times.user + times.system)
            machine = psutil.cpu_times()
            busy = machine.user + machine.nice + machine.system + machine.irq + machine.softirq + machine.steal
            own = (sum(seconds for kind, seconds in self.own.values() if kind == wanted) for wanted in KINDS)
            self.samples.append((time.time(), busy, *own))

    def between(self, begin: float, end: float) -> dict[str, float]:
        """CPU seconds between two moments (seconds since 1970), by KIND of own process, and all others' together."""
        moments, *columns = np.array(self.samples).T
        busy, *own = (float(np.diff(np.interp([begin, end], moments, column))[0]) for column in columns)
        return dict(zip(KINDS, own, strict=True)) | {"neighbours": max(0.0, busy - sum(own))}


def job(home: str, dataset: str) -> dict[str, Any]:
    """The job's own pipeline call, with a meter beside it; gives its result line and what the phase cost."""
    from mgray.config import PredictJobConfig
    from mgray.config.command_line import validate
    from pipelines.predict import job as predict

    settings = {"home": home, "data": {"dataset": dataset}, "predict": {"k": K, "overwrite": True}}
    meter, window = Meter(), []
    score_parts = predict.score_parts

    def metered(*given: Any) -> Any:
        meter.start()
        scored = score_parts(*given)
        window.extend([scored.started, time.time()])
        time.sleep(2 * SAMPLE_S)
        meter.done.set()
        return scored

    predict.score_parts = metered  # type: ignore[assignment]  # it only measures
    result = predict.run_prediction(validate(PredictJobConfig, settings))
    cores, (begin, end) = os.cpu_count() or 1, window
    assert len(result["peak_rss_bytes"]["workers"]) == cores, "one actor a core"
    users, cpu_s = result["rows"]["users"], meter.between(begin, end)
    core_s = cores * (end - begin) - cpu_s["neighbours"]
    return result | {
        "score_s": end - begin,
        "users_s": users / (end - begin),
        "cpu_s": cpu_s,
        "core_s": core_s,
        "users_core_s": users / core_s,
    }


def peak_mb(result: dict[str, Any]) -> float:
    peaks = result["peak_rss_bytes"]
    return (peaks["driver"] + sum(peaks["workers"])) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=160_000, help="users of the large dataset")
    parser.add_argument("--items", type=int, default=5_000)
    parser.add_argument("--events", type=int, default=30, help="mean events of a user")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--plain", nargs=2, metavar=("DATASET", "MODEL"), help=argparse.SUPPRESS)
    parser.add_argument("--job", nargs=2, metavar=("HOME", "DATASET"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.plain or args.job:
        print(json.dumps(plain(*args.plain) if args.plain else job(*args.job)))
        return
    with tempfile.TemporaryDirectory(prefix="mgray-predict-") as temporary:
        home = Path(temporary)
        large = ingest(home, args.users, args.items, args.events)
        small = ingest(home, args.users // 4, args.items, args.events)
        model = register(home, Dataset(large))
        rounds = []
        for number in range(args.rounds):
            one: dict[str, Any] = {
                "plain": run_json([THIS, "--plain", str(large), str(model)]),
                "job": run_json([THIS, "--job", str(home), str(large)]),
                "job_quarter": run_json([THIS, "--job", str(home), str(small)]),
            }
            assert one["job"]["rows"]["predictions"] == one["plain"]["predictions"], "both rank the same users"
            one["ratio"] = one["job"]["users_core_s"] / one["plain"]["users_core_s"]
            one["memory_growth"] = peak_mb(one["job"]) / peak_mb(one["job_quarter"])
            rounds.append(one)
            print_round(number, one)
    settings = {name: getattr(args, name) for name in ("users", "items", "events")}
    raw = {"settings": settings | {"k": K, "model": ModelConfig().model_dump(mode="json")}, "rounds": rounds}
    checks = [
        check("users_s_per_core_vs_plain", statistics.median(one["ratio"] for one in rounds), 0.9, ">="),
        check("memory_growth", statistics.median(one["memory_growth"] for one in rounds), 1.2, "<="),
    ]
    write("predict", json.loads(json.dumps(raw).replace(temporary, "HOME")), checks)


def print_round(number: int, one: dict[str, Any]) -> None:
    if not number:
        print("           users/s              | users per core-second  | job: seconds                    | peak MB")
        print("round   plain Recomm.     job |  plain    job   ratio | score neighbours Ray+actors | 1x users    4x")
    plain_run, whole = one["plain"], one["job"]
    start_s = whole["seconds"]["ray_start"] + whole["seconds"]["actors_start"]
    print(
        f"{number:5} {plain_run['users_s']:7,.0f} {plain_run['recommender_users_s']:7,.0f} {whole['users_s']:7,.0f} |"
        f" {plain_run['users_core_s']:6,.0f} {whole['users_core_s']:6,.0f} {one['ratio']:7.3f} |"
        f" {whole['score_s']:5.1f} {whole['cpu_s']['neighbours']:10.1f} {start_s:10.1f} |"
        f" {peak_mb(one['job_quarter']):8,.0f} {peak_mb(whole):5,.0f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
