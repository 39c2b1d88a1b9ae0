"""The sides of benchmarks/ingest.py, each in a process of its own: the side's name and its JSON arguments in, JSON out.

Every side does the same: reads CSV, drops exact duplicates, numbers items by falling count, sorts histories by user
and time, drops users of fewer than 3 events, and writes one row a user (lists of item numbers, timestamps, ratings and
event types) and the vocabulary as Parquet with zstd. A clock runs around that alone: imports and Ray's start are
before it. Validation is a process of its own, so that it costs a side neither time nor memory.
"""

import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

MIN_USER_EVENTS = 3  # DataConfig's default
NUM_ITEMS = 100_000
EVENTS_PER_USER = 20
DUPLICATES = 50  # one row in this many repeats another
SKEWED_USER, SKEWED_ITEM = 0.05, 0.2  # share of all events
YEAR_S = 365 * 86_400
START_S = 1_700_000_000
WARM_S = 0.5
NODE_STORE_BYTES = 300 << 20

Result = dict[str, Any]


def pool(processes: int) -> Pool:
    return multiprocessing.get_context("spawn").Pool(processes)


# ---------------------------------------------------------------------------------------------------------------- log


def make_log(rows: int, num_files: int, folder: str, processes: int, skewed: bool = False, seed: int = 0) -> Result:
    """The log as `num_files` CSV files, a pure function of (rows, num_files, skewed, seed); whole or not at all.

    skewed: one user has 5% of the events more, and one item 20%.
    """
    draft = Path(f"{folder}.draft-{os.getpid()}")
    draft.mkdir(parents=True)
    ends = [rows * number // num_files for number in range(num_files + 1)]
    tasks = [(draft, number, ends[number + 1] - ends[number], rows, skewed, seed) for number in range(num_files)]
    try:
        with pool(processes) as workers:
            workers.starmap(_write_file, tasks, chunksize=1)
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return {"files": num_files}


def _write_file(folder: Path, number: int, rows: int, log_rows: int, skewed: bool, seed: int) -> None:
    """Popular users and items, by time but for the duplicates at the end, which a client sent twice."""
    import numpy as np
    import polars as pl

    draw = np.random.default_rng([seed, number])
    repeated = rows // DUPLICATES
    distinct = rows - repeated
    user = (draw.random(distinct) ** 1.5 * (log_rows // EVENTS_PER_USER)).astype(np.int64) + 1
    item = (draw.random(distinct) ** 3 * NUM_ITEMS).astype(np.int64) + 1
    if skewed:
        user[draw.random(distinct) < SKEWED_USER] = 1
        item[draw.random(distinct) < SKEWED_ITEM] = 1
    kinds = pl.Series(["view", "click", "buy"])
    frame = pl.DataFrame(
        {
            "user_id": user,
            "item_id": item,
            "timestamp": START_S + np.sort(draw.integers(0, YEAR_S, distinct)),
            "event_type": kinds.gather(np.searchsorted([0.8, 0.97], draw.random(distinct), side="right")),
            "rating": draw.integers(1, 11, distinct) / 2,
        }
    ).with_columns(
        pl.format("u{}", pl.col("user_id").cast(pl.String).str.zfill(7)).alias("user_id"),
        pl.format("i{}", pl.col("item_id").cast(pl.String).str.zfill(6)).alias("item_id"),
    )
    frame = pl.concat([frame, frame[draw.choice(distinct, repeated, replace=False)]])
    frame.write_csv(folder / f"part-{number:03d}.csv")


# -------------------------------------------------------------------------------------------------------------- mgray


def mgray(source: str, home: str, num_cpus: int, num_nodes: int = 1) -> Result:
    """`pipelines.ingest.job.ingest` with its defaults, on a Ray of its own with `num_cpus` on each node."""
    import ray
    import ray.data

    from mgray.config import DataConfig
    from pipelines.ingest.job import ingest
    from pipelines.runtime.cluster import connect

    # not in the work folder: the path of a socket holds 107 characters at most
    with tempfile.TemporaryDirectory(prefix="mgray-", ignore_cleanup_errors=True) as temporary:
        begun = time.perf_counter()
        cluster = None
        if num_nodes == 1:
            ray.init(num_cpus=num_cpus, include_dashboard=False, log_to_driver=False, _temp_dir=temporary)
        else:
            cluster = _init_cluster(num_nodes, num_cpus, temporary)
        connect()  # joined already: the jobs' own settings
        ray_start_s, begun = time.perf_counter() - begun, time.perf_counter()
        num_workers = _warm_up(num_nodes * num_cpus)
        warm_up_s = time.perf_counter() - begun

        nodes_before, clock, begun = _cpu_s_by_node(), time.time(), time.perf_counter()
        found = ingest(DataConfig(source=source), Path(home))
        wall_s = time.perf_counter() - begun
        nodes = [after - before for before, after in zip(nodes_before, _cpu_s_by_node(), strict=True)]
        ray.shutdown()
        if cluster is not None:
            cluster.shutdown()
    manifest = found.manifest
    assert not found.reused, "a run of its own"
    return {
        "wall_s": wall_s,
        "begun": clock,
        "ray_start_s": ray_start_s,
        "warm_up_s": warm_up_s,
        "num_workers": num_workers,
        "stages_s": found.seconds,
        "rows": manifest.rows,
        "users": manifest.users,
        "items": manifest.items,
        "shards": len(manifest.shards),
        "written_bytes": sum(shard.bytes for shard in manifest.shards),
        "fingerprint": manifest.fingerprint,
        "worker_cpu_s_by_node": nodes,
        "folder": str(found.path),
    }


def _init_cluster(num_nodes: int, num_cpus: int, temporary: str) -> Any:
    """Several nodes on this machine, each with its own raylet, object store and workers."""
    import ray
    from ray.cluster_utils import Cluster

    # A Cluster would announce itself in /tmp/ray, where every other driver of this machine looks for a Ray to join.
    ray._private.utils.write_ray_address = lambda *_: None
    ray._private.utils.reset_ray_address = lambda *_: None
    node = {"num_cpus": num_cpus, "object_store_memory": NODE_STORE_BYTES}
    cluster = Cluster(initialize_head=True, head_node_args=node | {"temp_dir": temporary, "include_dashboard": False})
    for _ in range(num_nodes - 1):
        cluster.add_node(**node)
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, log_to_driver=False)
    assert sum(node["Alive"] for node in ray.nodes()) == num_nodes
    return cluster


def _warm_up(num_cpus: int) -> int:
    """A map with more tasks than CPUs that do nothing, so that every worker is up; gives how many did them."""
    import ray.data

    def task(row: dict[str, Any]) -> dict[str, Any]:
        import polars  # noqa: F401 - as the other sides have by now
        import pyarrow.parquet  # noqa: F401

        time.sleep(WARM_S)
        return {"pid": os.getpid()}

    ray.data.DataContext.get_current().enable_progress_bars = False
    count = 3 * num_cpus
    return len({row["pid"] for row in ray.data.range(count, override_num_blocks=count).map(task).iter_rows()})


def _cpu_s_by_node() -> list[float]:
    """CPU seconds so far of each node's workers, in the order that the nodes were started."""
    import psutil

    raylets = [child for child in psutil.Process().children(recursive=True) if child.name() == "raylet"]
    totals = []
    for raylet in sorted(raylets, key=lambda process: process.create_time()):
        times = [raylet.cpu_times(), *(child.cpu_times() for child in raylet.children(recursive=True))]
        # an ended worker's time is its raylet's `children_user` and `children_system`
        totals.append(sum(time.user + time.system for time in times) + times[0].children_user)
    return totals


# -------------------------------------------------------------------------------------------------------------- peers


def polars(files: list[str], out: str, engine: str, plan: str) -> Result:
    """plan `sort`: the whole log by user and time, then groups in that order; `group`: groups, each then sorted."""
    import polars as pl

    begun = time.perf_counter()
    types = {
        "user_id": pl.String,
        "item_id": pl.String,
        "timestamp": pl.Float64,
        "event_type": pl.String,
        "rating": pl.Float32,
    }
    eager = engine == "in-memory"
    events = pl.scan_csv(files, schema=types).unique()
    if eager:
        events = events.collect(engine="in-memory").lazy()
    counts = events.group_by("item_id").agg(pl.len().alias("count"))
    counts = counts.sort(["count", "item_id"], descending=[True, False])
    vocabulary = counts.select(pl.int_range(1, pl.len() + 1, dtype=pl.Int32).alias("item"), "item_id", "count")
    if eager:
        vocabulary = vocabulary.collect(engine="in-memory").lazy()
    encoded = events.join(vocabulary.select("item_id", "item"), on="item_id").drop("item_id")
    columns = {"items": "item", "timestamps": "timestamp", "ratings": "rating", "event_types": "event_type"}
    if plan == "sort":
        lists = [pl.col(column).alias(name) for name, column in columns.items()]
        histories = encoded.sort("user_id", "timestamp").group_by("user_id", maintain_order=True).agg(lists)
    else:
        lists = [pl.col(column).sort_by("timestamp").alias(name) for name, column in columns.items()]
        histories = encoded.group_by("user_id").agg(lists).sort("user_id")
    histories = histories.filter(pl.col("items").list.len() >= MIN_USER_EVENTS)
    if eager:
        vocabulary.collect().write_parquet(f"{out}/vocabulary.parquet", compression="zstd")
        histories.collect(engine="in-memory").write_parquet(f"{out}/histories.parquet", compression="zstd")
    else:
        # one query of two outputs: the log is read, and its duplicates dropped, once
        sinks = [
            vocabulary.sink_parquet(f"{out}/vocabulary.parquet", compression="zstd", lazy=True),
            histories.sink_parquet(f"{out}/histories.parquet", compression="zstd", lazy=True),
        ]
        pl.collect_all(sinks, engine="streaming")
    return {"wall_s": time.perf_counter() - begun}


def duckdb(files: list[str], out: str, plan: str) -> Result:
    """plan `lists`: four ordered lists a user; `structs`: one ordered list of structs, taken apart after."""
    import duckdb as db

    begun = time.perf_counter()
    connection = db.connect(config={"temp_directory": f"{out}/spill"})
    connection.execute("SET preserve_insertion_order = false")
    connection.execute("SET enable_progress_bar = false")
    types = "{user_id: 'VARCHAR', item_id: 'VARCHAR', timestamp: 'DOUBLE', event_type: 'VARCHAR', rating: 'FLOAT'}"
    connection.execute(
        f"""CREATE TEMP TABLE events AS
        SELECT DISTINCT * FROM read_csv(?, columns = {types}, header = true, auto_detect = false, delim = ',')""",
        [files],
    )
    connection.execute(
        """CREATE TEMP TABLE vocabulary AS
        SELECT row_number() OVER (ORDER BY count DESC, item_id)::INTEGER AS item, item_id, count
        FROM (SELECT item_id, count(*) AS count FROM events GROUP BY item_id)"""
    )
    encoded = "(SELECT user_id, timestamp, item, rating, event_type FROM events JOIN vocabulary USING (item_id))"
    ending = f"GROUP BY user_id HAVING count(*) >= {MIN_USER_EVENTS}"
    if plan == "lists":
        histories = f"""SELECT user_id, list(item ORDER BY timestamp) AS items,
            list(timestamp ORDER BY timestamp) AS timestamps, list(rating ORDER BY timestamp) AS ratings,
            list(event_type ORDER BY timestamp) AS event_types
            FROM {encoded} {ending} ORDER BY user_id"""
    else:
        struct = "{timestamp: timestamp, item: item, rating: rating, event_type: event_type}"
        histories = f"""SELECT user_id, list_transform(history, lambda x: x.item) AS items,
            list_transform(history, lambda x: x.timestamp) AS timestamps,
            list_transform(history, lambda x: x.rating) AS ratings,
            list_transform(history, lambda x: x.event_type) AS event_types
            FROM (SELECT user_id, list_sort(list({struct})) AS history FROM {encoded} {ending}) ORDER BY user_id"""
    connection.execute(f"COPY vocabulary TO '{out}/vocabulary.parquet' (FORMAT parquet, COMPRESSION zstd)")
    connection.execute(f"COPY ({histories}) TO '{out}/histories.parquet' (FORMAT parquet, COMPRESSION zstd)")
    connection.close()
    return {"wall_s": time.perf_counter() - begun}


def validate(out: str) -> Result:
    """Counts of a peer's output, in mgray's terms. `items`: with a training event, which excludes a user's last two."""
    import polars as pl

    histories = pl.scan_parquet(f"{out}/histories.parquet")
    lengths = pl.col("items").list.len()
    train = histories.select(pl.col("items").list.head(lengths - 2).explode().unique().count().alias("items"))
    totals = histories.select(pl.len().alias("users"), lengths.cast(pl.Int64).sum().alias("written"))
    shape = histories.select(
        *((pl.col(name).list.len() == lengths).all() for name in ("timestamps", "ratings", "event_types")),
        ordered=(pl.col("timestamps").list.eval(pl.element().diff().min()).list.first() >= 0).all(),
    )
    assert all(shape.collect(engine="streaming").row(0)), "four lists of equal length, oldest event first"
    distinct = pl.read_parquet(f"{out}/vocabulary.parquet")["count"].cast(pl.Int64).sum()
    result = {"distinct": distinct}
    for query in (totals, train):
        result |= query.collect(engine="streaming").row(0, named=True)
    result["written_bytes"] = os.path.getsize(f"{out}/histories.parquet")
    return result


# -------------------------------------------------------------------------------------------------------------- floor


def floor(files: list[str], dataset: str, processes: int = 2) -> Result:
    """Lower bound of any ingest: the log parsed into columns, and the dataset's own tables written as Parquet."""
    shards = sorted(str(path) for path in Path(dataset).glob("part-*.parquet"))
    with pool(processes) as workers, tempfile.TemporaryDirectory(dir=Path(dataset).parent) as folder:
        workers.map(_warm_floor, range(2 * processes), chunksize=1)
        begun = time.perf_counter()
        rows = sum(workers.map(_read_csv, files, chunksize=1))
        read_s = time.perf_counter() - begun
        seconds = workers.starmap(_write_parquet, [(shard, folder) for shard in shards], chunksize=1)
    write_s = sum(seconds) / processes
    return {"wall_s": read_s + write_s, "read_s": read_s, "write_s": write_s, "rows": rows, "processes": processes}


def _warm_floor(_: int) -> None:
    import pyarrow.csv
    import pyarrow.parquet  # noqa: F401

    time.sleep(WARM_S)


def _read_csv(path: str) -> int:
    import pyarrow as pa
    import pyarrow.csv

    text = pa.string()
    types = {"user_id": text, "item_id": text, "timestamp": pa.float64(), "event_type": text, "rating": pa.float32()}
    options = pa.csv.ConvertOptions(column_types=types)
    return pa.csv.read_csv(path, pa.csv.ReadOptions(use_threads=False), convert_options=options).num_rows


def _write_parquet(shard: str, folder: str) -> float:
    import pyarrow.parquet as pq

    with pq.ParquetFile(shard) as source:
        table, row_group_rows = source.read(), source.metadata.row_group(0).num_rows
    begun = time.perf_counter()
    pq.write_table(table, f"{folder}/{Path(shard).name}", compression="zstd", row_group_size=row_group_rows)
    return time.perf_counter() - begun


SIDES: dict[str, Callable[..., Result]] = {
    "make_log": make_log,
    "mgray": mgray,
    "polars": polars,
    "duckdb": duckdb,
    "validate": validate,
    "floor": floor,
}

if __name__ == "__main__":
    # Where memory runs out, the kernel ends this process and no neighbour.
    Path("/proc/self/oom_score_adj").write_text("1000")
    print(json.dumps(SIDES[sys.argv[1]](**json.loads(sys.argv[2]))))
