"""MovieLens-100K through ten retrainings by time slices, and a start from champion against one from scratch.

    python benchmarks/retrain.py           # about 20 minutes on one idle core

1. The loop. The log is cut by time: 34% to begin with, then eleven slices of 6%. After each of the first ten slices
   the real `run_retrain` runs, with its defaults, on Ray and MLflow. Whoever is champion then is scored on the next
   slice, which nobody has seen, beside the first model, which is never retrained: every event of the slice is a query,
   with all of its user's earlier events as history.
2. Time. At three of the ten steps the same data is trained on from scratch in full, and from champion as the loop does
   it, each in one process on one thread. What counts is CPU seconds (validations included on both sides, so that
   neighbours on the machine do not count) until the start from champion has the validation ndcg@10 of the model that
   training from scratch ends with, less TOLERANCE. The control is training from scratch with the warm schedule. Where
   one point's target is never reached the check fails; raw.reached says which are. The start from champion validates
   less often, so raw.without_validations holds the same ratio with validations taken out of both sides.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import matplotlib as mpl
import numpy as np
import polars as pl
import ray
import torch
from _results import RESULTS, check, write
from mlflow.tracking import MlflowClient

from mgray.config import EvaluateConfig, RetrainJobConfig, TrainJobConfig
from mgray.data.columns import Columns
from mgray.data.dataset import Dataset, Query
from mgray.data.item_numbers import number_map
from mgray.eval.ranking import evaluate, part_queries
from mgray.model.mgdsc import MGDSC
from mgray.schema import UNKNOWN
from mgray.serve.recommender import Recommender
from mgray.serve.scorer import ModelScorer
from mgray.train.resolve import resolve_job, resolve_model
from pipelines.ingest.source.presets import fetch_movielens
from pipelines.lifecycle.retrain import run_retrain
from pipelines.lifecycle.training import warm_training
from pipelines.tracking import fetch_model
from pipelines.tracking.registry import Registry
from pipelines.train.job import fit_here
from pipelines.train.worker import RankInput

mpl.use("Agg")
from matplotlib import pyplot as plt

FIRST_SHARE, SLICE_SHARE, NUM_SLICES = 0.34, 0.06, 11
POINTS = (3, 6, 10)  # retrainings at which part 2 measures
TOLERANCE = 0.02  # of the quality from scratch: about the scatter of its own last validations
METRIC = "ndcg@10"
EVALUATION = EvaluateConfig()


def read_log(home: Path) -> pl.DataFrame:
    log = pl.read_csv(fetch_movielens(home) / "ml-100k.inter", separator="\t", infer_schema=False)
    log.columns = [name.split(":")[0] for name in log.columns]
    return log.with_columns(pl.col("timestamp").cast(pl.Float64)).sort("timestamp", maintain_order=True)


def slice_queries(log: pl.DataFrame, begin: int, end: int, item_ids: list[str]) -> list[Query]:
    """Events begin..end of the log as queries over all items, each with its user's events before it."""
    number = {item: i for i, item in enumerate(item_ids, start=1)}
    items = [number[item] for item in log["item_id"][:end]]
    histories: dict[str, list[int]] = {}
    queries = []
    for position, (user, item) in enumerate(zip(log["user_id"][:end], items, strict=True)):
        history = histories.setdefault(user, [])
        if position >= begin:
            queries.append(Query(user, Columns(np.asarray(history, dtype=np.int32)), item))
        history.append(item)
    return queries


def quality(model: Recommender, queries: list[Query], item_ids: list[str]) -> dict[str, float]:
    """Figures of a model that reads and ranks what it knows. item_ids: of the items that the queries number."""
    number = number_map(item_ids, model.vocabulary.item_ids)
    known = [number[query.history.items] for query in queries]
    asked = [
        Query(query.user_id, Columns(items[items != UNKNOWN]), int(number[query.target]))
        for query, items in zip(queries, known, strict=True)
    ]
    counts = np.zeros(model.info.num_items + 1, dtype=np.int64)
    return evaluate(model.scorer, asked, counts, EVALUATION).compute()


class Loop:
    """The log's folder and HOME, and the jobs over them."""

    def __init__(self, folder: Path, width: int) -> None:
        self.home, self.logs = folder / "home", folder / "logs"
        self.logs.mkdir(parents=True)
        self.home.mkdir()
        self.config = RetrainJobConfig.model_validate(
            {
                "home": str(self.home),
                "data": {"source": str(self.logs)},
                "model": {"width": width},
                "train": {"max_time_s": None},
                "scale": {"num_workers": 1, "use_gpu": False},
                "tracking": {"uri": f"sqlite:///{self.home / 'mlflow.db'}", "system_metrics": False},
            }
        )

    @property
    def uri(self) -> str:
        assert self.config.tracking.uri is not None
        return self.config.tracking.uri

    def champion(self, target: Path) -> tuple[Path, str]:
        """The champion's model folder and version."""
        registry = Registry(self.uri, self.config.tracking.model_name)
        version = registry.champion()
        assert version is not None
        return fetch_model(version.uri, self.uri, target)[0], version.version

    def train_here(self, dataset: str, warm_start: Path | None, warm_schedule: bool, runs: Path) -> dict[str, Any]:
        """One training in this process -> its validations by CPU seconds, and its test figures."""
        config = self.config
        model = Recommender(warm_start).info.config if warm_start else config.model
        asked = TrainJobConfig(model=model, train=config.train, scale=config.scale, tracking=config.tracking)
        job = resolve_job(asked, Dataset(dataset).manifest)
        if warm_schedule:
            job = job.model_copy(update={"train": warm_training(job.train, config.retrain)})
        client = MlflowClient(self.uri, registry_uri=self.uri)
        experiment = client.get_experiment_by_name(config.tracking.experiment)
        run_id = client.create_run(experiment.experiment_id).info.run_id
        curve: list[dict[str, float]] = []
        started, wall = time.process_time(), time.perf_counter()

        def on_report(metrics: dict[str, float]) -> None:
            spent = {"cpu_s": time.process_time() - started, "wall_s": time.perf_counter() - wall}
            curve.append({"epoch": metrics["epoch"], "step": metrics["step"], METRIC: metrics[METRIC]} | spent)

        given = RankInput(
            config=job.model_dump_json(),
            dataset=dataset,
            run_id=run_id,
            uri=self.uri,
            spool=str(runs / run_id / "unsent.jsonl"),
            warm_start=str(warm_start) if warm_start else None,
            board=None,
        )
        result = fit_here(given, runs, on_report).trained
        return {
            "curve": curve,
            "valid": result.best_valid[METRIC],
            "test": result.metrics[METRIC],
            "cpu_s": curve[-1]["cpu_s"],
            "steps": result.steps,
        }


def validation_seconds(config: RetrainJobConfig, dataset: Dataset) -> float:
    """CPU seconds of one validation, as a training makes it; they do not depend on the weights."""
    model = MGDSC(resolve_model(config.model, dataset.manifest), dataset.num_items)
    scorer = ModelScorer(model, dataset.item_counts, config.train.max_length, torch.device("cpu"))
    queries = part_queries(dataset, "valid")
    started = time.process_time()
    evaluate(scorer, queries, dataset.item_counts, EVALUATION)
    return time.process_time() - started


def time_point(loop: Loop, dataset: str, champion: Path, runs: Path) -> dict[str, Any]:
    scratch = loop.train_here(dataset, None, False, runs)
    warm = loop.train_here(dataset, champion, True, runs)
    control = loop.train_here(dataset, None, True, runs)
    target = scratch["valid"] * (1 - TOLERANCE)
    reached = next((i for i, point in enumerate(warm["curve"]) if point[METRIC] >= target), None)
    data = Dataset(dataset)
    return {
        "train_events": data.manifest.train_events,
        "target": target,
        "reached_cpu_s": None if reached is None else warm["curve"][reached]["cpu_s"],
        "reached_epoch": None if reached is None else warm["curve"][reached]["epoch"],
        "reached_validations": None if reached is None else reached + 1,
        "validation_cpu_s": validation_seconds(loop.config, data),
        "scratch": scratch,
        "warm": warm,
        "scratch_with_warm_schedule": control,
    }


def time_ratio(times: list[dict], with_validations: bool) -> float:
    """CPU seconds to the target from champion over those from scratch, summed over the points; NaN if one has none."""
    if not times or any(t["reached_cpu_s"] is None for t in times):
        return float("nan")
    warm = scratch = 0.0
    for t in times:
        validation = 0.0 if with_validations else t["validation_cpu_s"]
        warm += t["reached_cpu_s"] - t["reached_validations"] * validation
        scratch += t["scratch"]["cpu_s"] - len(t["scratch"]["curve"]) * validation
    return warm / scratch


def run_loop(loop: Loop, log: pl.DataFrame, folder: Path, points: list[int]) -> tuple[list[dict], list[dict]]:
    cuts = [round(log.height * (FIRST_SHARE + SLICE_SHARE * i)) for i in range(NUM_SLICES + 1)]
    item_ids = sorted(log["item_id"].unique().to_list())
    steps: list[dict] = []
    times: list[dict] = []
    first: Recommender | None = None
    for step, end in enumerate(cuts[:-1]):
        log[cuts[step - 1] if step else 0 : end].write_csv(loop.logs / f"slice-{step:02d}.csv")
        before = loop.champion(folder / f"before-{step}")[0] if step else None
        line = run_retrain(loop.config)
        champion_folder, version = loop.champion(folder / f"after-{step}")
        champion = Recommender(champion_folder)
        first = first or champion
        queries = slice_queries(log, end, cuts[step + 1], item_ids)
        never = quality(first, queries, item_ids)
        record = {
            "step": step,
            "action": line["action"],
            "reasons": line["reasons"],
            "champion_version": version,
            "drift": line.get("drift"),
            "window": line.get("window"),
            "window_metrics": line["metrics"],
            "next_slice": {"champion": quality(champion, queries, item_ids), "never_retrained": never},
            "seconds": line["seconds"],
        }
        steps.append(record)
        scores = record["next_slice"]
        print(
            f"step {step}: {line['action']}, champion {version}; next slice {METRIC}: "
            f"{scores['champion'][METRIC]:.4f}, never retrained {scores['never_retrained'][METRIC]:.4f}; "
            f"{line['reasons'][0]}",
            flush=True,
        )
        if step in points and before is not None:
            point = time_point(loop, line["dataset"]["path"], before, folder / "runs")
            times.append({"step": step} | point)
            print(
                f"  scratch {point['scratch']['valid']:.4f} in {point['scratch']['cpu_s']:.0f} CPU s; from champion "
                f"{point['warm']['valid']:.4f} in {point['warm']['cpu_s']:.0f} (target at {point['reached_cpu_s']}); "
                f"scratch, warm schedule: {point['scratch_with_warm_schedule']['valid']:.4f}",
                flush=True,
            )
    return steps, times


def draw(steps: list[dict], times: list[dict], path: Path) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 5), width_ratios=(3, 2), layout="constrained")
    x = [record["step"] for record in steps]
    champion = [record["next_slice"]["champion"][METRIC] for record in steps]
    never = [record["next_slice"]["never_retrained"][METRIC] for record in steps]
    left.plot(x, never, color="0.5", marker=".", label="never retrained")
    left.plot(x, champion, color="#1f6fb4", label="champion")
    looks = {"first": ("D", "#1f6fb4"), "promoted": ("^", "#2a8f3c"), "kept": ("v", "#c0392b")}
    for action, (marker, colour) in looks.items():
        at = [i for i, record in enumerate(steps) if record["action"] == action]
        label = {"first": "first champion", "promoted": "promoted", "kept": "refused by the gate"}[action]
        left.scatter([x[i] for i in at], [champion[i] for i in at], marker=marker, color=colour, zorder=3, label=label)
    left.set(xlabel="retraining", ylabel=f"{METRIC} on the next slice", xticks=x)
    left.set_title("Quality on events that come after", loc="left")
    left.set_ylim(0, 1.08 * max(champion + never))
    left.legend(frameon=False)
    point = times[-1] if times else None
    if point is not None:
        for key, colour, label in (
            ("scratch", "0.5", "from scratch"),
            ("scratch_with_warm_schedule", "#e0a030", "from scratch, warm schedule"),
            ("warm", "#1f6fb4", "from champion"),
        ):
            curve = point[key]["curve"]
            right.plot([p["cpu_s"] for p in curve], [p[METRIC] for p in curve], color=colour, marker=".", label=label)
        right.axhline(
            point["target"], color="#c0392b", linestyle="--", linewidth=1, label=f"target: scratch less {TOLERANCE:.0%}"
        )
        right.set(xlabel="CPU seconds", ylabel=f"validation {METRIC}")
        right.set_xlim(left=0)
        right.set_title(f"Training time, retraining {point['step']}", loc="left")
        right.legend(frameon=False)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.2)
    figure.savefig(path, dpi=120)
    print(f"written: {path}", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=32, help="model.width (32: half of the default, for time)")
    parser.add_argument("--points", type=int, nargs="*", default=list(POINTS), help="retrainings at which to time")
    parser.add_argument("--cache", type=Path, default=Path("var"), help="HOME that keeps MovieLens-100K")
    args = parser.parse_args()
    torch.set_num_threads(1)
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    args.cache.mkdir(exist_ok=True)
    log = read_log(args.cache)
    with tempfile.TemporaryDirectory(prefix="retrain-") as folder:
        loop = Loop(Path(folder) / "loop", args.width)
        steps, times = run_loop(loop, log, Path(folder), args.points)
    ray.shutdown()
    later = steps[1:]
    gain = np.mean([s["next_slice"]["champion"][METRIC] for s in later]) / np.mean(
        [s["next_slice"]["never_retrained"][METRIC] for s in later]
    )
    checks = [
        check("retrainings", len(later), 10, "=="),
        check("champion_vs_never_retrained_ndcg10", float(gain), 1.0, ">"),
        check("warm_vs_scratch_time", time_ratio(times, True), 0.3334, "<="),
    ]
    raw = {
        "width": args.width,
        "tolerance": TOLERANCE,
        "reached": {t["step"]: t["reached_cpu_s"] is not None for t in times},
        "without_validations": time_ratio(times, False),
        "steps": steps,
        "times": times,
    }
    path = write("retrain", raw, checks)
    draw(steps, times, RESULTS / "retrain.png")
    print(path)


if __name__ == "__main__":
    main()
