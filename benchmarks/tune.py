"""Search on MovieLens-100K at equal CPU time: random search, TPE, and jobs/tune.py's default (TPE + ASHA), 3 seeds.

    python benchmarks/tune.py                 # 25 to 35 minutes on one idle core
    python benchmarks/tune.py --budget_s 60   # a look

Each search has `budget_s` seconds of CPU time. Drawing, reporting and stopping are the job's own
(pipelines/tune/study.py, Tune's ASHA) and a trial is the job's own training, one at a time in this process, so that CPU
seconds are exact; Ray's start and its actors are left out for all alike. A configuration that two searches of a seed
draw is trained once and charged to both at what it cost: training is a pure function of the configuration, and random
search and TPE begin with the same draws. The default begins with the project's own configuration, as jobs/tune.py does;
`default, no start` shows what it does without that.

Check `time_vs_random`: CPU seconds that the default takes to reach what random search has found at the end of its
budget, by that budget, median over the seeds; at most 0.5.
"""

import argparse
import contextlib
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib
import torch
import yaml
from _results import RESULTS, check, write

from mgray.config import TrainJobConfig, TuneJobConfig
from mgray.config import search_space as spaces
from mgray.data.manifest import read_manifest
from mgray.train.resolve import resolve_job
from pipelines.ingest.job import ingest
from pipelines.train.worker import LocalSession, RankInput, RankRun
from pipelines.tune.study import EPOCH, FINISHED, SCORE, StudySearcher, make_scheduler, open_study, trial_records

SEEDS = (0, 1, 2)
METRIC = "ndcg@10"
EPOCHS = 9
SPACE = {
    "model.granularities": {
        "choice": [[1], [1, 4], [1, 8], [1, 4, 16], [1, 8, 64], ["decay:1..400"], [1, "decay:1..400"]]
    },
    "model.kernel": {"int": [3, 9, 2]},
    "model.depth": {"int": [1, 2]},
    "model.fusion": {"choice": ["attention", "sum"]},
    "model.width": {"choice": [16, 32]},
    "model.dropout": {"uniform": [0.0, 0.6]},
    "train.learning_rate": {"loguniform": [5.0e-4, 2.0e-2]},
    "train.loss": {"choice": ["sampled_softmax", "softmax"]},
}
BASE = {"model": {"width": 32}, "train": {"epochs": EPOCHS, "max_time_s": None, "validate_every_epochs": 1}}
ASHA = {"scheduler": "asha", "grace_epochs": 1, "reduction_factor": 3.0}
ARMS: dict[str, dict[str, Any]] = {
    "random": {"algorithm": "random", "scheduler": None, "start_from_config": False},
    "tpe": {"algorithm": "tpe", "scheduler": None, "start_from_config": False},
    "default": {"algorithm": "tpe", **ASHA, "start_from_config": True},
    "default, no start": {"algorithm": "tpe", **ASHA, "start_from_config": False},
}


class TrialStopped(Exception):  # noqa: N818 - no error
    """Raised out of a report: by ASHA, or because the budget is spent."""


class Trainings:
    """Trains configurations, each no further than once: epoch -> (CPU seconds so far, score, figures)."""

    def __init__(self, dataset: Path, folder: Path) -> None:
        self.dataset, self.folder = dataset, folder
        self.known: dict[str, list[tuple[float, dict[str, Any]]]] = {}

    def run(self, config: TrainJobConfig, report: Callable[[float, dict[str, Any]], None]) -> None:
        """Calls `report(CPU seconds so far, figures)` at each validation; it may raise TrialStopped."""
        key = config.model_dump_json()
        known = self.known.setdefault(key, [])
        for seconds, figures in list(known):
            report(seconds, figures)
        if known and known[-1][1].get(FINISHED):
            return
        reported, begun = len(known), time.process_time() - (known[-1][0] if known else 0.0)

        def on_report(metrics: dict[str, float]) -> None:
            figures = {SCORE: metrics[f"best_{METRIC}"], EPOCH: metrics["epoch"], "step": metrics["step"]}
            seconds = time.process_time() - begun
            figures[FINISHED] = metrics["epoch"] >= config.train.epochs
            known.append((seconds, figures))
            report(seconds, figures)

        resolved = resolve_job(config, read_manifest(self.dataset))
        # A training that was stopped goes on from its checkpoint where another search wants more of it.
        session = LocalSession(self.folder / str(abs(hash(key))), on_report)
        run = RankRun(RankInput(resolved.model_dump_json(), str(self.dataset)), session)
        assert len(run.curve) == reported, "the checkpoint is of the last report"
        run.run()


def search(arm: str, seed: int, budget_s: float, trainings: Trainings, dataset: Path) -> dict[str, Any]:
    """One search -> its trace [(CPU seconds, best score so far)] and its trials."""
    settings = {"seed": seed, "trial_epochs": EPOCHS, "num_random": 8} | ARMS[arm]
    config = TuneJobConfig.model_validate(BASE | {"search": settings})
    base = resolve_job(TrainJobConfig.model_validate(BASE), read_manifest(dataset))
    space = spaces.parse_space(SPACE, base)
    spent, best, trace = 0.0, 0.0, [(0.0, 0.0)]
    with tempfile.TemporaryDirectory() as folder:
        start = spaces.encode(space, base) if config.search.start_from_config else None
        study = open_study(Path(folder), config, start)
        searcher = StudySearcher(study, space, lambda number, point, run_id: {"run_id": "none", "point": point})
        scheduler = make_scheduler(searcher, config)
        while spent < budget_s:
            begun = time.process_time()
            trial_id = f"t{len(searcher.numbers)}"
            given = searcher.suggest(trial_id)
            assert isinstance(given, dict)
            trial = SimpleNamespace(trial_id=trial_id, config=given)
            scheduler.on_trial_add(None, trial)
            spent += time.process_time() - begun
            before, last = spent, {}

            def report(seconds: float, figures: dict[str, Any], before: float = before, trial: Any = trial) -> None:
                nonlocal spent, best, last
                spent = before + seconds
                if spent > budget_s:
                    raise TrialStopped
                last = figures
                best = max(best, figures[SCORE])
                trace.append((spent, best))
                searcher.on_trial_result(trial.trial_id, figures)
                if scheduler.on_trial_result(None, trial, figures) == "STOP":
                    raise TrialStopped

            with contextlib.suppress(TrialStopped):
                trainings.run(spaces.apply(base, spaces.decode(space, given["point"])), report)
            searcher.on_trial_complete(trial_id, last)
            scheduler.on_trial_complete(None, trial, last)
        trials = [
            {"point": r.point, "outcome": r.outcome, "reason": r.reason, "curve": r.curve}
            for r in trial_records(study, space)
        ]
    return {"arm": arm, "seed": seed, "best": best, "trace": trace, "trials": trials}


def seconds_to(trace: list[tuple[float, float]], score: float) -> float:
    return next((seconds for seconds, best in trace if best >= score), math.inf)


def plot(runs: list[dict[str, Any]], budget_s: float, path: Path) -> None:
    matplotlib.use("Agg")
    from matplotlib import pyplot

    colours = {"random": "#7a8699", "tpe": "#d9902f", "default": "#2459d3", "default, no start": "#14784a"}
    figure, panels = pyplot.subplots(1, 2, figsize=(11, 4.2), layout="constrained", width_ratios=[1.4, 1])
    grid = [budget_s * step / 400 for step in range(401)]
    for arm in ARMS:
        traces = [run["trace"] for run in runs if run["arm"] == arm]
        lines = [[max(best for seconds, best in trace if seconds <= at) for at in grid] for trace in traces]
        mean = [statistics.mean(values) for values in zip(*lines, strict=True)]
        for line in lines:
            panels[0].step(grid, line, color=colours[arm], linewidth=0.7, alpha=0.35, where="post")
        width = 5.0 if arm == "random" else 2.2  # where two arms are one line, both show
        panels[0].step(
            grid, mean, color=colours[arm], linewidth=width, where="post", label=f"{arm}, mean of {len(lines)}"
        )
    panels[0].set(xlabel="CPU seconds", ylabel=f"best validation {METRIC} so far", title="Search on MovieLens-100K")
    top = max(run["best"] for run in runs)
    panels[0].set_ylim(top * 0.4, top * 1.05)
    panels[0].legend(frameon=False, loc="lower right")
    seeds = sorted({run["seed"] for run in runs})
    for place, arm in enumerate(arm for arm in ARMS if arm != "random"):
        ratios = [ratio(runs, arm, seed, budget_s) for seed in seeds]
        shown = [min(value, 1.25) for value in ratios]
        panels[1].scatter(shown, [place] * len(shown), color=colours[arm], s=42, zorder=3)
        panels[1].scatter([statistics.median(shown)], [place], color=colours[arm], s=260, marker="|", linewidth=3)
    panels[1].axvline(0.5, color="#b3362b", linewidth=1, linestyle="--")
    panels[1].set_yticks(range(len(ARMS) - 1), [arm for arm in ARMS if arm != "random"])
    panels[1].set(xlim=(0, 1.3), ylim=(-0.6, len(ARMS) - 1.4), xlabel="share of random search's time (1.25: never)")
    panels[1].set_title("Time to reach what random search finds")
    for panel in panels:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def ratio(runs: list[dict[str, Any]], arm: str, seed: int, budget_s: float) -> float:
    by_arm = {run["arm"]: run for run in runs if run["seed"] == seed}
    return seconds_to(by_arm[arm]["trace"], by_arm["random"]["best"]) / budget_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget_s", type=float, default=180.0, help="CPU seconds of each search [180]")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--dataset", help="a committed dataset version; none: ingest MovieLens-100K")
    parser.add_argument("--name", default="tune", help="results/NAME.json [tune]")
    args = parser.parse_args()
    torch.set_num_threads(1)
    dataset = Path(args.dataset) if args.dataset else obtain_movielens()
    runs, started = [], time.time()
    for seed in args.seeds:
        with tempfile.TemporaryDirectory() as folder:
            trainings = Trainings(dataset, Path(folder))
            for arm in ARMS:
                runs.append(search(arm, seed, args.budget_s, trainings, dataset))
                outcomes = [trial["outcome"] for trial in runs[-1]["trials"]]
                print(
                    f"seed {seed} {arm:>18}: best {METRIC} {runs[-1]['best']:.4f}, {len(outcomes)} trials, "
                    f"{outcomes.count('stopped')} stopped; {(time.time() - started) / 60:.1f} min",
                    file=sys.stderr,
                    flush=True,
                )
    ratios = {arm: [ratio(runs, arm, seed, args.budget_s) for seed in args.seeds] for arm in ARMS if arm != "random"}
    print(f"{'search':>18}  best {METRIC} by seed          time to reach random's, by seed (median)")
    for arm in ARMS:
        bests = "  ".join(f"{run['best']:.4f}" for run in runs if run["arm"] == arm)
        times = "  ".join(f"{value:.2f}" for value in ratios.get(arm, []))
        median = f" ({statistics.median(ratios[arm]):.2f})" if arm in ratios else ""
        print(f"{arm:>18}  {bests:<26}  {times}{median}")
    picture = RESULTS / f"{args.name}.png"
    RESULTS.mkdir(exist_ok=True)
    plot(runs, args.budget_s, picture)
    raw = {
        "budget_s": args.budget_s,
        "metric": METRIC,
        "space": yaml.safe_dump(SPACE),
        "base": BASE,
        "arms": ARMS,
        "epochs": EPOCHS,
        "minutes": (time.time() - started) / 60,
        "time_vs_random_by_seed": ratios,
        "plot": picture.name,
        "runs": runs,
    }
    path = write(args.name, raw, [check("time_vs_random", statistics.median(ratios["default"]), 0.5, "<=")])
    print(json.dumps({"results": str(path), "plot": str(picture)}))


def obtain_movielens() -> Path:
    import ray

    from pipelines.runtime import cluster

    cluster.connect()
    folder = Path("var").absolute()
    found = ingest(TrainJobConfig().data, folder)
    ray.shutdown()
    return found.path


if __name__ == "__main__":
    main()
