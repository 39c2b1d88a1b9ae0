"""How good the model is: on MovieLens, on made-up logs with a known best, and switch by switch.

    python benchmarks/quality.py ml100k temporal synthetic                  # about 45 minutes
    python benchmarks/quality.py ml1m --log interactions.parquet            # three hours a seed on one core
    python benchmarks/quality.py ml1m-budget --log ...                      # 30 minutes a seed
    python benchmarks/quality.py short --log ...                            # 5 minutes a seed
    python benchmarks/quality.py shop                                       # 12 minutes a seed
    python benchmarks/quality.py ablation --log ... --seeds 0               # 10 minutes a row
    python benchmarks/quality.py inputs --seeds 0                           # 3 to 5 minutes a row
    python benchmarks/quality.py ml1m --log ... --model.width 128           # any option of jobs/train.py

--log is MovieLens-1M: user_id, item_id, timestamp, one row an event; MovieLens-100K is fetched, and `shop` reads a log
that benchmarks/requirements.txt installs. Ranking is over the full catalogue, seen items removed, ties against the
model. What is chosen (the best epoch, the best row) is by validation; the test part is read once, when a training
has ended, and its figure is kept in --work: a training that was stopped goes on in the next sitting, and one that is
done is not done again (whatever the program's code is by then: to measure that, give another --work). Parts are merged
into results/quality.json by name, and the seeds of each too, where settings and dataset are the same: sittings of one
seed each make a mean. A change of the code in between is told by the commits of the runs alone.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import polars as pl
import torch
from _cold_start import measure_cold_start, measure_new_users, new_user_queries
from _datasets import ingest
from _results import check, environment, read, write
from _shop import baskets, households
from _training import RESULT_FILE, Measure, fit, recall, run_folder

from mgray.config import Outputs, TrainJobConfig
from mgray.config.command_line import parse_args
from mgray.data.dataset import Dataset
from mgray.errors import InputError
from mgray.eval.baselines import make_baselines
from mgray.eval.metrics import RMSE
from mgray.eval.ranking import evaluate, part_queries
from mgray.serve.scorer import ModelScorer, Scorer
from mgray.testing.synthetic import DenseHabits, OracleScorer, SparseShop
from pipelines.evaluate.job import evaluate_baselines

ROOT = Path(__file__).parent.parent
NAME = "quality"
HR, NDCG = "hr@10", "ndcg@10"
RECENT = "popularity_recent"

# Settings for long histories; the default configuration is for all else. The ablation is of one model of half the
# width, for its minutes, and so of the default's rate and dropout.
ML1M = ["--config", str(ROOT / "jobs" / "configs" / "ml1m.yaml")]
# One model of it, for as many epochs as the time allows.
ML1M_BUDGET = [*ML1M, "--model.members", "1", "--train.epochs", "2000", "--train.validate_every_epochs", "10"]
LONG = [*ML1M_BUDGET, "--model.width", "64", "--model.dropout", "auto", "--train.learning_rate", "4e-3"]
ML1M_MINUTES, ML1M_BUDGET_MINUTES, ABLATION_MINUTES = 180.0, 30.0, 10.0
DEFAULT_MINUTES = 5.5  # of `make train`
SHORTEST, LONGEST, SHORT_USERS = 4, 16, 20_000  # of MovieLens-1M's histories in pieces, events

# name -> options over LONG's; rows whose names begin so answer whether several granularities beat one
ONE, SEVERAL = "one granularity: ", "granularities: "
WIDER = ["--model.depth", "2", "--model.feedforward", "4"]
ROWS: dict[str, list[str]] = {
    SEVERAL + "1, decay (default)": [],
    ONE + "1": ["--model.granularities", "[1]"],
    ONE + "decay": ["--model.granularities", "['decay:1..400']"],
    ONE + "1, two blocks": ["--model.granularities", "[1]", "--model.depth", "2"],
    # With the body's parameters, within 1%, that the default has.
    ONE + "1, two wider blocks": ["--model.granularities", "[1]", *WIDER],
    ONE + "decay, two wider blocks": ["--model.granularities", "['decay:1..400']", *WIDER],
    SEVERAL + "1, 4, decay": ["--model.granularities", "[1,4,'decay:4..400']"],
    SEVERAL + "1, 4": ["--model.granularities", "[1,4]"],
    SEVERAL + "1, 4, 16": ["--model.granularities", "[1,4,16]"],
    SEVERAL + "1, 4, 16, decay": ["--model.granularities", "[1,4,16,'decay:4..400']"],
    "fusion: sum": ["--model.fusion", "sum"],
    "fusion: concat": ["--model.fusion", "concat"],
    "fusion: gate": ["--model.fusion", "gate"],
    "dense convolution: 1, 4, 16": ["--model.granularities", "[1,4,16]", "--model.conv", "dense"],
    "pooling learned: 1, 4": ["--model.granularities", "[1,4]", "--model.pooling", "learned"],
    "pooling max: 1, 4": ["--model.granularities", "[1,4]", "--model.pooling", "max"],
    "pooling decay: 1, 4": ["--model.granularities", "[1,4]", "--model.pooling", "decay"],
    "attention of one head": ["--model.heads", "1"],
    "batch normalization": ["--model.norm", "batch"],
    "items start at random": ["--train.item_init", "random"],
    "no feed-forward": ["--model.feedforward", "0"],
    "members: 2": ["--model.members", "2"],
    "members: 4, of half the width": ["--model.members", "4", "--model.width", "32"],
    "windows of 200": ["--train.max_length", "200"],
    "constant learning rate": ["--train.decay_share", "0"],
    "512 negatives": ["--train.num_negatives", "512"],
    "full softmax": ["--train.loss", "softmax"],
    "gBCE": ["--train.loss", "gbce"],
    "label smoothing": ["--train.label_smoothing", "0.1"],  # which makes negatives of seen items too
    "seen items are negatives": ["--train.exclude_seen", "false"],
    "hard negatives": ["--train.hard_negatives", "0.25"],
    "in-batch negatives": ["--train.in_batch_negatives", "true"],
    "popular negatives": ["--train.popular_negatives", "512"],
    "weight average": ["--train.ema_decay", "0.999"],
    "granularity dropout": ["--model.level_dropout", "0.3"],
    "kernel of 3": ["--model.kernel", "3"],
    "kernel of 15": ["--model.kernel", "15"],
    "two blocks a level": ["--model.depth", "2"],
    # LONG is the default but for these; they too have the ablation's minutes here, and not their own.
    "jobs/train.py's defaults": [
        *("--train.epochs", "40", "--train.validate_every_epochs", "3", "--train.decay_share", "0.5"),
        *("--train.max_length", "1024", "--train.global_batch_events", "auto", "--train.precision", "auto"),
    ],
    "augmentation: crop": ["--train.augment_crop", "0.3"],
    "augmentation: reorder": ["--train.augment_reorder", "0.3"],
    "augmentation: drop": ["--train.augment_drop", "0.1"],
    "augmentation: mask": ["--train.augment_mask", "0.1"],
}
# What else a log may tell, and what else is predicted: on MovieLens-100K, under the default configuration.
INPUT_ROWS: dict[str, list[str]] = {
    "items alone (default)": [],
    "time gaps": ["--model.inputs", "[time_gap]"],
    "hour and weekday": ["--model.inputs", "[hour,weekday]"],
    "ratings": ["--model.inputs", "[rating]"],
    "all that the log has": ["--model.inputs", "auto"],
    "granularities: 1, session:30m, decay": ["--model.granularities", "[1,'session:30m','decay:1..400']"],
    "granularities: 1, 1d, decay": ["--model.granularities", "[1,1d,'decay:1..400']"],
    "granularities: 1, session:30m, 7d": ["--model.granularities", "[1,'session:30m',7d]"],
    "outputs: both": ["--model.outputs", "both"],
    "outputs: rating": ["--model.outputs", "rating"],
}
CUT = (SEVERAL + "1, decay (default)", "granularity dropout")  # rows whose model is also cut to fewer levels


class Settings(NamedTuple):
    work: Path
    log: str | None
    seeds: list[int]
    minutes: float | None  # of each training; None: the part's own
    rows: list[str] | None  # of the ablation or of inputs; None: all
    options: list[str]  # of jobs/train.py, over the part's own
    workers: int = 1
    use_gpu: bool = False


class Measured(NamedTuple):
    raw: dict[str, Any]
    checks: list[dict[str, Any]]


def ingest_once(settings: Settings, name: str, options: Sequence[str]) -> Dataset:
    """A dataset version; ingested once a work folder."""
    record = settings.work / f"{name}.json"
    if not record.is_file():
        record.write_text(json.dumps(str(ingest(settings.work, *options))))
    return Dataset(json.loads(record.read_text()))


def made_dataset(settings: Settings, name: str, make_log: Callable[[], pl.DataFrame]) -> Dataset:
    """Of a log that is made, once a work folder."""
    log = settings.work / f"{name}.parquet"
    if not log.is_file():
        make_log().write_parquet(log)
    return ingest_once(settings, name, ["--data.source", str(log.absolute())])


def ml1m_log(settings: Settings) -> Path:
    if settings.log is None:
        raise InputError("--log: missing; this part needs MovieLens-1M, a Parquet file of user_id, item_id, timestamp")
    return Path(settings.log).absolute()


def ml1m_dataset(settings: Settings) -> Dataset:
    return ingest_once(settings, "ml1m", ["--data.source", str(ml1m_log(settings))])


def cold_start(scorer: ModelScorer, dataset: Dataset, config: TrainJobConfig) -> dict[str, Any]:
    """Quality by the length of history that is known, and of the fallback for new items."""
    queries = part_queries(dataset, "test", scorer.columns)
    return {"cold_start": measure_cold_start(scorer, queries, dataset.item_counts, config.evaluate)._asdict()}


def new_users(scorer: ModelScorer, dataset: Dataset, config: TrainJobConfig) -> dict[str, Any]:
    """Quality for users that training never saw, by what is known of them, beside the baselines on the same queries."""
    queries = list(new_user_queries(dataset, scorer.columns))
    scorers: dict[str, Scorer] = {"model": scorer, **make_baselines(dataset)}
    return {"new_users": measure_new_users(scorers, queries, dataset.item_counts, config.evaluate)}


def stamped(measure: Measure | None, scorer: ModelScorer, dataset: Dataset, config: TrainJobConfig) -> dict[str, Any]:
    """What a recipe measures, and what tells whether another sitting's training is comparable."""
    made = environment()
    source = {"date": made["date"], "git_commit": made["git_commit"], "dataset": dataset.manifest.fingerprint}
    return source | (measure(scorer, dataset, config) if measure else {})


def cut_models(scorer: ModelScorer, dataset: Dataset, config: TrainJobConfig) -> dict[str, Any]:
    """Size and quality of the model cut to fewer levels, as jobs/export.py cuts it."""
    queries = part_queries(dataset, "test", scorer.columns)
    found = {}
    for num_levels in range(1, len(scorer.model.config.granularities)):
        model = scorer.model.cut(num_levels)
        smaller = ModelScorer(model, scorer.popularity.cpu().numpy(), config.train.max_length, scorer.device)
        found[num_levels] = {
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "test": evaluate(smaller, queries, dataset.item_counts, config.evaluate).compute(),
        }
    return {"cut_to_levels": found}


class Recipe(NamedTuple):
    name: str
    minutes: float
    base: Sequence[str] = ()  # options of jobs/train.py, below the user's own
    row: Sequence[str] = ()  # and above them
    measure: Measure | None = None  # what is told of the best model beside its test

    def config(self, settings: Settings, seed: int) -> TrainJobConfig:
        budget = ["--train.max_time_s", str((settings.minutes or self.minutes) * 60), "--train.seed", str(seed)]
        # argparse takes the last of an option given twice
        return parse_args(TrainJobConfig, NAME, [*self.base, *settings.options, *self.row, *budget])

    def is_done(self, settings: Settings, dataset: Dataset) -> bool:
        return all((self.folder(settings, dataset, seed) / RESULT_FILE).is_file() for seed in settings.seeds)

    def folder(self, settings: Settings, dataset: Dataset, seed: int) -> Path:
        return run_folder(
            settings.work, self.name, dataset, self.config(settings, seed), settings.workers, settings.use_gpu
        )


def train_seeds(settings: Settings, recipe: Recipe, dataset: Dataset) -> list[dict[str, Any]]:
    results = []
    for seed in settings.seeds:
        config = recipe.config(settings, seed)
        print(f"{recipe.name}, seed {seed}: {' '.join(recipe.row)}", file=sys.stderr)
        folder = recipe.folder(settings, dataset, seed)
        results.append(
            fit(dataset, config, folder, partial(stamped, recipe.measure), settings.workers, settings.use_gpu)
        )
    return results


def measured_before(part: str) -> dict[str, Any]:
    """What the results file has of a part; empty where there is nothing."""
    before: dict[str, Any] = (read(NAME) or {"raw": {}})["raw"].get(part, {}).get("result", {})
    return before


def merged(
    results: list[dict[str, Any]], recorded: Sequence[dict[str, Any]], folder: Callable[[int], Path]
) -> list[dict[str, Any]]:
    """Results, and those on record of other seeds that `folder` names; by seed."""
    earlier = recall(recorded, folder, [run["seed"] for run in results])
    return sorted([*results, *earlier], key=lambda run: run["seed"])


def all_seeds(settings: Settings, part: str, recipe: Recipe, dataset: Dataset) -> list[dict[str, Any]]:
    """Of the seeds asked for, and of those that an earlier sitting left in the results file; by seed."""
    results = train_seeds(settings, recipe, dataset)
    folder = partial(recipe.folder, settings, dataset)
    before = measured_before(part)
    own = before if "runs" in before else before.get(recipe.name, {})  # a part may be of several logs
    runs = merged(results, own.get("runs", []), folder)
    if not runs:
        raise InputError(f"--seeds: none given, and none of {recipe.name} on record; give some")
    for run in (run for run in runs if run["seed"] not in settings.seeds):
        print(f"{part}: seed {run['seed']} is of {run['date']}, commit {run['git_commit']}", file=sys.stderr)
    return runs


def measure_baselines(dataset: Dataset, outputs: Outputs = "next_item") -> dict[str, dict[str, float]]:
    found = evaluate_baselines(dataset, "test", TrainJobConfig().evaluate, outputs)
    return {name: metrics.compute() for name, metrics in found.items()}


def mean(results: Sequence[dict[str, Any]], metric: str, part: str = "test") -> float:
    return statistics.mean(result[part][metric] for result in results)


def summarized(results: list[dict[str, Any]], dataset: Dataset, **more: Any) -> dict[str, Any]:
    parts = ("test", "valid") if results[0]["valid"] else ("test",)  # none of train.include_valid
    means = {part: {metric: mean(results, metric, part) for metric in (HR, NDCG)} for part in parts}
    return {"means": means, "baselines": measure_baselines(dataset), "runs": results, **more}


def measure_ml1m(settings: Settings) -> Measured:
    raw, results = _ml1m(settings, Recipe("ml1m", ML1M_MINUTES, ML1M, measure=cold_start))
    checks = [
        check("ml1m_hr10", mean(results, HR), 0.364, ">="),
        check("ml1m_ndcg10", mean(results, NDCG), 0.2165, ">="),
    ]
    return Measured(raw, checks)


def measure_ml1m_budget(settings: Settings) -> Measured:
    recipe = Recipe("ml1m-budget", ML1M_BUDGET_MINUTES, ML1M_BUDGET, measure=cold_start)
    raw, results = _ml1m(settings, recipe)
    return Measured(raw, [check("ml1m_budget_ndcg10", mean(results, NDCG), 0.203, ">=")])


def _ml1m(settings: Settings, recipe: Recipe) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    dataset = ml1m_dataset(settings)
    results = all_seeds(settings, recipe.name, recipe, dataset)
    return summarized(results, dataset), results


def measure_ml100k(settings: Settings) -> Measured:
    dataset = ingest_once(settings, "ml100k", [])
    recipe = Recipe("ml100k", DEFAULT_MINUTES, measure=cold_start)
    results = all_seeds(settings, "ml100k", recipe, dataset)
    checks = [
        check("ml100k_hr10", mean(results, HR), 0.215, ">="),
        check("ml100k_ndcg10", mean(results, NDCG), 0.115, ">="),
    ]
    return Measured(summarized(results, dataset), checks)


def measure_temporal(settings: Settings) -> Measured:
    """The last tenth of MovieLens-100K's time tests; users that began in it are there too."""
    dataset = ingest_once(settings, "ml100k-temporal", ["--data.split", "temporal"])
    results = all_seeds(settings, "temporal", Recipe("temporal", DEFAULT_MINUTES, measure=new_users), dataset)
    raw = summarized(results, dataset)
    ratio = mean(results, NDCG) / raw["baselines"][RECENT][NDCG]
    return Measured(raw, [check("temporal_vs_recent_popularity", ratio, 1.0, ">")])


def measure_synthetic(settings: Settings) -> Measured:
    """The default configuration on two unlike worlds, beside the best that any model can reach there."""
    raw: dict[str, Any] = {}
    for name, world, num_users in (("shop", SparseShop(), 30_000), ("habits", DenseHabits(), 1_500)):
        dataset = made_dataset(settings, name, partial(world.make_log, num_users))
        results = all_seeds(settings, "synthetic", Recipe(name, DEFAULT_MINUTES), dataset)
        queries = part_queries(dataset, "test")
        oracle = OracleScorer(world, dataset.item_ids)
        best = evaluate(oracle, queries, dataset.item_counts, TrainJobConfig().evaluate).compute()
        reached = {metric: mean(results, metric) / best[metric] for metric in (HR, NDCG)}
        raw[name] = summarized(results, dataset, best_achievable=best, share_of_best=reached)
    return Measured(raw, [])


def short_histories(log: pl.DataFrame, num_users: int) -> pl.DataFrame:
    """A log of short histories: each user's events, in order, cut into pieces of SHORTEST to LONGEST, of which
    `num_users` are drawn as users of their own. What follows what in it is real.
    """
    ordered = log.sort("user_id", "timestamp", maintain_order=True)
    source = np.random.default_rng(0)
    pieces, first = [], 0
    for count in ordered.group_by("user_id", maintain_order=True).len()["len"]:
        lengths = source.integers(SHORTEST, LONGEST + 1, size=count // SHORTEST + 1)
        pieces.append(first + np.repeat(np.arange(len(lengths)), lengths)[:count])
        first += len(lengths)
    numbers, lengths = np.unique(owners := np.concatenate(pieces), return_counts=True)
    drawn = source.permutation(numbers[lengths >= SHORTEST])[:num_users]
    return ordered.with_columns(user_id=pl.Series(owners)).filter(pl.col("user_id").is_in(drawn.tolist()))


def measure_short(settings: Settings) -> Measured:
    """The default configuration on real short histories: pieces of MovieLens-1M's."""
    whole = ml1m_log(settings)
    dataset = made_dataset(settings, "short", lambda: short_histories(pl.read_parquet(whole), SHORT_USERS))
    results = all_seeds(settings, "short", Recipe("short", DEFAULT_MINUTES), dataset)
    raw = summarized(results, dataset)
    ratio = mean(results, NDCG) / raw["baselines"]["cooccurrence"][NDCG]
    return Measured(raw, [check("short_vs_cooccurrence", ratio, 1.0, ">")])


def measure_shop(settings: Settings) -> Measured:
    """The default configuration on a real shop's log, in short histories and in long ones."""
    raw: dict[str, Any] = {}
    checks = []
    for name, make_log in (("baskets", baskets), ("households", households)):
        dataset = made_dataset(settings, name, make_log)
        results = all_seeds(settings, "shop", Recipe(name, DEFAULT_MINUTES), dataset)
        raw[name] = summarized(results, dataset)
        best = max(metrics[NDCG] for metrics in raw[name]["baselines"].values())
        checks.append(check(f"{name}_vs_best_baseline", mean(results, NDCG) / best, 1.0, ">"))
    return Measured(raw, checks)


def train_rows(
    settings: Settings, part: str, options: dict[str, list[str]], recipe: Callable[[str], Recipe], dataset: Dataset
) -> dict[str, Any]:
    """Every row at the same budget; rows and seeds not asked for are there too where they were measured before."""
    unknown = set(settings.rows or ()).difference(options)
    if unknown:
        raise InputError(f"--rows: no row {', '.join(sorted(unknown))}; rows: {', '.join(options)}")
    trained = {
        name: train_seeds(settings, recipe(name), dataset)
        for name in options
        if settings.rows is None or name in settings.rows or recipe(name).is_done(settings, dataset)
    }
    # Read after the trainings: another process may have measured other rows meanwhile.
    earlier = measured_before(part).get("rows", {})
    rows: dict[str, Any] = {}
    for name, given in options.items():
        recorded = earlier.get(name, {}).get("runs", [])
        runs = merged(trained.get(name, []), recorded, partial(recipe(name).folder, settings, dataset))
        if runs:
            rows[name] = {"options": given, "runs": runs}
    return rows


def measure_inputs(settings: Settings) -> Measured:
    """The default configuration with what else MovieLens-100K tells of an event, and with both heads."""
    dataset = ingest_once(settings, "ml100k", [])

    def recipe(row: str) -> Recipe:
        return Recipe("inputs", DEFAULT_MINUTES, row=INPUT_ROWS[row])

    rows = train_rows(settings, "inputs", INPUT_ROWS, recipe, dataset)
    return Measured({"rows": rows, "baselines": measure_baselines(dataset, "both")}, [])


def measure_ablation(settings: Settings) -> Measured:
    """Switch by switch on MovieLens-1M."""

    def recipe(row: str) -> Recipe:
        return Recipe("ablation", ABLATION_MINUTES, LONG, ROWS[row], cut_models if row in CUT else None)

    rows = train_rows(settings, "ablation", ROWS, recipe, ml1m_dataset(settings))

    def best(kind: str) -> float | None:
        of_kind = [row["runs"] for name, row in rows.items() if name.startswith(kind)]
        return mean(max(of_kind, key=lambda runs: mean(runs, NDCG, "valid")), NDCG) if of_kind else None

    one, several = best(ONE), best(SEVERAL)
    checks = [check("multi_vs_one_granularity", several / one, 1.0, ">")] if one and several else []
    return Measured({"rows": rows}, checks)


PARTS = {
    "ml1m": measure_ml1m,
    "ml1m-budget": measure_ml1m_budget,
    "ml100k": measure_ml100k,
    "temporal": measure_temporal,
    "synthetic": measure_synthetic,
    "short": measure_short,
    "shop": measure_shop,
    "ablation": measure_ablation,
    "inputs": measure_inputs,
}


def table(raw: dict[str, Any]) -> str:
    """Every training and baseline of the parts, in a line each."""
    lines = [
        f"{'':<44}{HR:>10}{NDCG:>10}{'valid':>10}{'minutes':>10}{'epochs':>8}{'positions/s':>13}{'parameters':>12}"
        f"{'body kFLOP/pos':>16}{RMSE:>10}"
    ]

    def shown(runs: list[dict[str, Any]], part: str, metric: str) -> str:
        return f"{mean(runs, metric, part):>10.4f}" if metric in runs[0][part] else f"{'-':>10}"

    def add(name: str, runs: list[dict[str, Any]]) -> None:
        minutes = statistics.mean(run["seconds"] for run in runs) / 60
        epochs = statistics.mean(run["epochs"] for run in runs)
        figures = shown(runs, "test", HR) + shown(runs, "test", NDCG) + shown(runs, "valid", NDCG)
        speed = f"{statistics.mean(run['positions_s'] for run in runs):>13,.0f}"
        size = f"{runs[0]['parameters']:>12,}{runs[0]['body_flops_a_position'] / 1e3:>16.1f}"
        lines.append(f"{name:<44}{figures}{minutes:>10.1f}{epochs:>8.1f}{speed}{size}{shown(runs, 'test', RMSE)}")

    def add_figures(name: str, metrics: dict[str, float], parameters: int | None = None) -> None:
        size = "" if parameters is None else f"{parameters:>53,}"
        ranking = "".join(f"{metrics[one]:>10.4f}" if one in metrics else f"{'-':>10}" for one in (HR, NDCG))
        rating = f"   {RMSE} {metrics[RMSE]:.4f}" if RMSE in metrics else ""
        lines.append(f"{name:<44}{ranking}{size}{rating}")

    for part, content in raw.items():
        inner = content["result"]
        for name, row in inner.get("rows", {}).items():
            add(f"{part}: {name}", row["runs"])
            for num_levels, cut in row["runs"][0].get("cut_to_levels", {}).items():
                add_figures(f"{part}: {name}, cut to {num_levels}", cut["test"], cut["parameters"])
        whole = "runs" in inner or "rows" in inner
        for name, own in ({part: inner} if whole else inner).items():
            if "runs" in own:
                add(name, own["runs"])
            for baseline, metrics in own.get("baselines", {}).items():
                add_figures(f"{name}: {baseline}", metrics)
            if "best_achievable" in own:
                add_figures(f"{name}: best achievable", own["best_achievable"])
    return "\n".join(lines)


def merge(part: str, measured: Measured) -> dict[str, Any]:
    """Into results/quality.json: this part's figures, and its checks by name; the other parts' stay."""
    before = read(NAME) or {"raw": {}, "checks": []}
    raw = before["raw"] | {part: {"environment": environment(), "result": measured.raw}}
    names = {one["name"] for one in measured.checks}
    write(NAME, raw, [one for one in before["checks"] if one["name"] not in names] + measured.checks)
    return raw


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--log", help="MovieLens-1M's events, Parquet")
    parser.add_argument("--work", type=Path, default=ROOT / "var" / NAME, help="datasets and trainings [var/quality]")
    parser.add_argument(
        "--seeds",
        type=int,
        nargs="*",
        default=[0, 1, 2],
        help="none: those on record, with today's baselines [0 1 2]",
    )
    parser.add_argument("--minutes", type=float, help="of each training [the part's own]")
    parser.add_argument("--rows", nargs="+", help="of the ablation or of inputs, by name [all]")
    parser.add_argument("--workers", type=int, default=2, help="DDP processes of a thread each, or of a GPU each [2]")
    parser.add_argument("--threads", type=int, default=1, help="of a single worker [1]")
    parser.add_argument("--use-gpu", action="store_true", help="a GPU for each worker")
    args, options = parser.parse_known_args()
    if args.threads > 1 and args.workers > 1:
        parser.error("--threads: of a single worker; give --workers 1")
    torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    settings = Settings(args.work, args.log, args.seeds, args.minutes, args.rows, options, args.workers, args.use_gpu)
    try:
        for part in args.parts:
            raw = merge(part, PARTS[part](settings))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(table(raw))
    return 0


if __name__ == "__main__":
    sys.exit(main())
