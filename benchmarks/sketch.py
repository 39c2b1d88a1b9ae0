"""The default model beside the first sketch of the idea (_sketch.py), on MovieLens-100K at equal CPU minutes.

Both with both heads: the next item, and the rating that the user gives it.

    python benchmarks/sketch.py                          # 3 trainings of 3 minutes, one thread
    python benchmarks/sketch.py --longer_minutes 30      # and the sketch ten times as long, at the better rate

Leave-one-out, ranking over all items, seen items removed, ties against the system; best by ndcg@10. All train in this
process, one after another, validate within their minutes, and are tested with their best weights by validation. The
sketch is trained at each of SKETCH_LEARNING_RATES, in as many minutes each, and the better by validation counts; all
else of its training is as the default configuration has it.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from _datasets import ingest
from _results import check, write
from _sketch import Sketch, SketchRater, SketchScorer, train_sketch
from _training import fit

from mgray.config import ModelConfig, TrainConfig, TrainJobConfig
from mgray.data.dataset import Dataset
from mgray.eval.metrics import RMSE
from mgray.eval.ranking import evaluate, part_queries
from mgray.eval.rating import evaluate_ratings, rating_batches
from mgray.model.ensemble import num_parameters
from mgray.train.resolve import resolve_exclude_seen, resolve_model

HR, NDCG = "hr@10", "ndcg@10"
BOTH = ModelConfig(outputs="both")
SKETCH_LEARNING_RATES = (1e-3, 4e-3)  # the latter is the default configuration's
MG_DSC, SKETCH, LONGER = "mg-dsc", "sketch", "sketch, longer"


def run_sketch(dataset: Dataset, training: TrainConfig) -> dict[str, Any]:
    """The figures that _training.fit gives of a model."""
    torch.manual_seed(training.seed)
    spec = dataset.input_spec(resolve_model(BOTH, dataset.manifest))
    sketch, evaluation = Sketch(dataset.num_items, spec=spec), TrainJobConfig().evaluate
    scorer, valid = SketchScorer(sketch, dataset.item_counts), part_queries(dataset, "valid")
    fitted = train_sketch(
        sketch,
        dataset,
        training,
        lambda: evaluate(scorer, valid, dataset.item_counts, evaluation).compute(),
        NDCG,
        exclude_seen=resolve_exclude_seen(training, evaluation.remove_seen),
    )
    test = evaluate(scorer, part_queries(dataset, "test"), dataset.item_counts, evaluation)
    asked = rating_batches(dataset, "test", sketch.columns, evaluation)
    rated = evaluate_ratings(SketchRater(sketch), asked, dataset.rating_scale())
    return {
        "test": test.compute() | rated.compute(),
        "valid": fitted.best_valid,
        "epochs": fitted.epochs,
        "steps": fitted.steps,
        "seconds": fitted.seconds,
        "parameters": num_parameters(sketch),
    }


def run(
    dataset: Dataset, seed: int, minutes: float, longer_minutes: float | None, folder: Path
) -> dict[str, dict[str, Any]]:
    """System -> its figures."""
    base = TrainJobConfig()
    training = base.train.model_copy(update={"seed": seed, "max_time_s": minutes * 60})
    ours = fit(dataset, base.model_copy(update={"model": BOTH, "train": training}), folder / f"seed-{seed}")
    sketches = [
        {"learning_rate": rate, **run_sketch(dataset, training.model_copy(update={"learning_rate": rate}))}
        for rate in SKETCH_LEARNING_RATES
    ]
    better = max(sketches, key=lambda one: one["valid"][NDCG])
    found = {MG_DSC: ours, SKETCH: better}
    if longer_minutes is not None:
        rate = better["learning_rate"]
        longer = training.model_copy(update={"learning_rate": rate, "max_time_s": longer_minutes * 60})
        found[LONGER] = {"learning_rate": rate, **run_sketch(dataset, longer)}
    return found


def summarize(runs: list[dict[str, dict[str, Any]]]) -> dict[str, dict[str, float]]:
    """System -> means over the seeds; `per_million`: ndcg@10 for a million parameters."""
    found = {}
    for system in runs[0]:
        own = [one[system] for one in runs]
        means = {name: statistics.mean(one["test"][name] for one in own) for name in (HR, NDCG, RMSE)}
        means |= {name: statistics.mean(one[name] for one in own) for name in ("parameters", "epochs", "seconds")}
        found[system] = means | {"per_million": means[NDCG] / means["parameters"] * 1e6}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=3.0, help="of each training, one thread [3]")
    parser.add_argument("--longer_minutes", type=float, help="of one more training of the sketch [none]")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        dataset = Dataset(ingest(Path(temporary)))
        runs = [run(dataset, seed, args.minutes, args.longer_minutes, Path(temporary)) for seed in args.seeds]
    means = summarize(runs)
    print(f"{'system':<16}{HR:>10}{NDCG:>10}{RMSE:>10}{'parameters':>14}{'per million':>14}{'epochs':>9}{'seconds':>9}")
    for system, row in means.items():
        figures = "".join(f"{row[name]:>10.4f}" for name in (HR, NDCG, RMSE))
        figures += f"{row['parameters']:>14,.0f}{row['per_million']:>14.4f}"
        print(f"{system:<16}{figures}{row['epochs']:>9.1f}{row['seconds']:>9.0f}")
    ours, sketch = means[MG_DSC], means[SKETCH]
    checks = [
        check("mgdsc_vs_sketch_ndcg10", ours[NDCG] / sketch[NDCG], 1.0, ">"),
        check("mgdsc_vs_sketch_per_parameter", ours["per_million"] / sketch["per_million"], 1.0, ">"),
        check("mgdsc_vs_sketch_rmse", ours[RMSE] / sketch[RMSE], 1.0, "<"),
    ]
    if LONGER in means:
        checks.append(check("mgdsc_vs_longer_sketch_ndcg10", ours[NDCG] / means[LONGER][NDCG], 1.0, ">"))
    print(write("sketch", {"means": means, "runs": runs}, checks))


if __name__ == "__main__":
    main()
