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
import sys
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import polars as pl
import torch
from _cold_start import measure_cold_start, measure_new_users, new_user_queries
from _quality_rows import CUT, INPUT_ROWS, LONG, ML1M, ML1M_BUDGET, ONE, ROOT, ROWS, SEVERAL
from _quality_table import HR, NDCG, mean, table
from _quality_trainings import NAME, Measured, Recipe, Settings, all_seeds, ingest_once, made_dataset, train_rows
from _results import check, environment, read, write
from _shop import baskets, households

from mgray.config import Outputs, TrainJobConfig
from mgray.data.dataset import Dataset
from mgray.errors import InputError
from mgray.eval.baselines import make_baselines
from mgray.eval.measured_baselines import evaluate_baselines
from mgray.eval.ranking import evaluate, part_queries
from mgray.model.ensemble import num_parameters
from mgray.serve.scorer import ModelScorer, Scorer
from mgray.testing.synthetic import DenseHabits, OracleScorer, SparseShop

RECENT = "popularity_recent"
ML1M_MINUTES, ML1M_BUDGET_MINUTES, ABLATION_MINUTES = 180.0, 30.0, 10.0
DEFAULT_MINUTES = 5.5  # of `make train`
SHORTEST, LONGEST, SHORT_USERS = 4, 16, 20_000  # of MovieLens-1M's histories in pieces, events


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


def cut_models(scorer: ModelScorer, dataset: Dataset, config: TrainJobConfig) -> dict[str, Any]:
    """Size and quality of the model cut to fewer levels, as jobs/export.py cuts it."""
    queries = part_queries(dataset, "test", scorer.columns)
    found = {}
    for num_levels in range(1, len(scorer.model.config.granularities)):
        model = scorer.model.cut(num_levels)
        smaller = ModelScorer(
            model, scorer.popularity.cpu().numpy(), config.train.max_length, scorer.device, scorer.memory
        )
        found[num_levels] = {
            "parameters": num_parameters(model),
            "test": evaluate(smaller, queries, dataset.item_counts, config.evaluate).compute(),
        }
    return {"cut_to_levels": found}


def measure_baselines(dataset: Dataset, outputs: Outputs = "next_item") -> dict[str, dict[str, float]]:
    return evaluate_baselines(dataset, "test", TrainJobConfig().evaluate, outputs).metrics


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
