"""The whole job over a catalogue of very many items: ingest, training, test on a sample, registering, prediction.

The log is made up: users of some 20 events, half of them near the last item by number, the others drawn from the whole
catalogue, the popular ones more often. Only SAMPLE_USERS have events in the validation and test parts (a temporal
split), so that these are measured on a sample, and the same users get the lists.
"""

import json
import os
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from _ingest_runs import LARGE_INTERVAL_S, ROOT, say
from _memory import MemorySampler
from _results import check

EVENTS_A_USER = 20
SAMPLE_USERS = 10_000
FILE_EVENTS = 2_000_000
NEAR, STEP = 0.5, 8  # share of events that are within STEP of the item before
SKEW = 1.5  # an item's number is V u^SKEW of a uniform u: small numbers are popular
FIRST_TIME, DAY_S = 1_600_000_000, 86_400
VALID_DAY, TEST_DAY, LAST_DAY = 100, 101, 102
WIDTH = 64
PEAK_GB = {1_000_000: 6.0, 10_000_000: 16.0}
MAX_PHASE_S = 180.0


def _items(random: np.random.Generator, count: int, num_items: int) -> np.ndarray:
    """[count] walks: where an event is near, it goes on from the one before."""
    drawn = (num_items * random.random(count) ** SKEW).astype(np.int64)
    near = random.random(count) < NEAR
    near[::EVENTS_A_USER] = False
    steps = np.where(near, random.integers(1, STEP + 1, count), 0)
    begun = np.maximum.accumulate(np.where(near, 0, np.arange(count)))
    walked = np.cumsum(steps)
    return (drawn[begun] + walked - walked[begun]) % num_items


def _table(users: np.ndarray, items: np.ndarray, times: np.ndarray) -> pa.Table:
    prefix = {name: pa.scalar(name) for name in ("u", "i")}
    ids = {
        "user_id": pc.binary_join_element_wise(prefix["u"], pa.array(users).cast(pa.string()), ""),
        "item_id": pc.binary_join_element_wise(prefix["i"], pa.array(items).cast(pa.string()), ""),
    }
    return pa.table(ids | {"timestamp": pa.array(times)})


def make_log(folder: Path, num_items: int, num_events: int, seed: int = 0) -> tuple[Path, Path]:
    """(the log's folder; a file of the sample's events alone). In pieces, so that no log is in memory whole."""
    log, sample = folder / "log", folder / "sample.parquet"
    if sample.exists():
        return log, sample
    log.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    num_users = -(-num_events // EVENTS_A_USER)
    for place, first in enumerate(range(0, num_users, FILE_EVENTS // EVENTS_A_USER)):
        users = np.repeat(
            np.arange(first, min(num_users, first + FILE_EVENTS // EVENTS_A_USER)), EVENTS_A_USER
        )  # every user's events one after the other
        times = FIRST_TIME + random.integers(0, VALID_DAY * DAY_S, (len(users) // EVENTS_A_USER, EVENTS_A_USER))
        times = np.sort(times, axis=1).ravel()
        table = _table(users, _items(random, len(users), num_items), times)
        if place == 0:
            few = users[users < SAMPLE_USERS]
            late = np.unique(few)
            more = [
                _table(late, _items(random, len(late), num_items), np.full(len(late), FIRST_TIME + day * DAY_S + 1))
                for day in (VALID_DAY, TEST_DAY)
            ]
            own = pa.concat_tables([table.slice(0, len(few)), *more])
            table = pa.concat_tables([table, *more])
            pq.write_table(own, sample)
        pq.write_table(table, log / f"part-{place:04d}.parquet")
    return log, sample


def run_job(arguments: list[str], home: Path) -> dict[str, Any]:
    """A job as a process of its own -> its result line, with `peak_gb` of its process tree. Raises where it fails."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MGRAY_"))}
    own = {"RAY_ADDRESS": "local", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *arguments, "--home", str(home)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=kept | own, cwd=ROOT)
    sampler = MemorySampler(process.pid, LARGE_INTERVAL_S)
    sampler.start()
    try:
        out, _ = process.communicate()
    finally:
        peak = sampler.stop()
        if process.poll() is None:
            process.kill()
            process.wait()
        sampler.end_leftovers()
    if process.returncode:
        raise SystemExit(f"{arguments[0]}: exit code {process.returncode}")
    result: dict[str, Any] = json.loads(out.splitlines()[-1])
    memory = {name: round(size / 1e6) for name, size in sorted(peak.by_process.items(), key=lambda pair: -pair[1])}
    gap = max((after.time_s - before.time_s for before, after in pairwise(peak.samples)), default=0.0)
    return result | {"peak_gb": peak.peak_bytes / 1e9, "peak_by_process_mb": memory, "longest_gap_s": gap}


def measure(num_items: int, num_events: int, max_time_s: float, workers: int, work: Path | None) -> dict[str, Any]:
    """Figures of the whole job. work: a folder that keeps the log; None: a temporary one."""
    with tempfile.TemporaryDirectory(prefix="mgray-items-", ignore_cleanup_errors=True) as temporary:
        log, sample = make_log((work or Path(temporary)) / f"{num_items}-{num_events}", num_items, num_events)
        home = Path(temporary) / "home"
        cuts = {"valid_from": FIRST_TIME + VALID_DAY * DAY_S, "test_from": FIRST_TIME + TEST_DAY * DAY_S}
        say(f"training over {num_items:,} items, {num_events:,} events")
        trained = run_job(
            ["jobs/train.py", "--data.source", str(log), "--data.split", "temporal"]
            + [word for name, day in cuts.items() for word in (f"--data.{name}", str(day))]
            + ["--model.width", str(WIDTH), "--train.max_time_s", str(max_time_s)]
            + ["--scale.num_workers", str(workers), "--scale.use_gpu", "false"],
            home,
        )
        say("predicting")
        model = f"models:/{trained['model']['name']}/{trained['model']['version']}"
        predicted = run_job(["jobs/predict.py", "--model", model, "--data.source", str(sample)], home)
    no_phases = ("total", "train", "training")
    seconds = {name: value for name, value in trained["seconds"].items() if name not in no_phases}
    # The training phase holds the workers' start and the test too.
    seconds["start and test"] = trained["seconds"]["train"] - trained["seconds"]["training"]
    seconds |= {f"predict: {name}": value for name, value in predicted["seconds"].items() if name != "total"}
    peaks = {"train": trained["peak_gb"], "predict": predicted["peak_gb"]}
    for name, value in seconds.items():
        say(f"{name}: {value:.1f} s")
    say(f"training {trained['seconds']['training']:.0f} s, peak {max(peaks.values()):.2f} GB")
    kept = ("metrics", "baselines", "rows", "workers", "positions_s", "peak_by_process_mb", "longest_gap_s")
    return {
        "items": num_items,
        "events": num_events,
        "max_time_s": max_time_s,
        "seconds": seconds,
        "training_s": trained["seconds"]["training"],
        "peak_gb": peaks,
        "train": {name: trained[name] for name in kept},
        "predict": {name: predicted[name] for name in ("rows", "users_s", "peak_by_process_mb")},
    }


def checks(found: dict[str, Any]) -> list[dict[str, Any]]:
    """The figures that are asked for; of another number of items, no memory is."""
    name = "million_items" if found["items"] == 1_000_000 else f"items_{found['items']}"
    made = [check(f"{name}_longest_phase_s", max(found["seconds"].values()), MAX_PHASE_S, "<=")]
    if found["items"] in PEAK_GB:
        made.append(check(f"{name}_peak_gb", max(found["peak_gb"].values()), PEAK_GB[found["items"]], "<="))
    return made
