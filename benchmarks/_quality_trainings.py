"""Trainings of benchmarks/quality.py: datasets made once, seeds trained or recalled, rows at one budget."""

import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
from _datasets import ingest
from _results import environment, read
from _training import RESULT_FILE, Measure, fit, recall, run_folder

from mgray.config import TrainJobConfig
from mgray.config.command_line import parse_args
from mgray.data.dataset import Dataset
from mgray.errors import InputError
from mgray.serve.scorer import ModelScorer

NAME = "quality"


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
    """A dataset version of a made-up log; made once a work folder."""
    log = settings.work / f"{name}.parquet"
    if not log.is_file():
        make_log().write_parquet(log)
    return ingest_once(settings, name, ["--data.source", str(log.absolute())])


def stamped(measure: Measure | None, scorer: ModelScorer, dataset: Dataset, config: TrainJobConfig) -> dict[str, Any]:
    """Figures that a recipe measures, with date, commit and dataset, by which sittings are compared."""
    made = environment()
    source = {"date": made["date"], "git_commit": made["git_commit"], "dataset": dataset.manifest.fingerprint}
    return source | (measure(scorer, dataset, config) if measure else {})


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
    """Figures that the results file has of a part; empty: there are none."""
    before: dict[str, Any] = (read(NAME) or {"raw": {}})["raw"].get(part, {}).get("result", {})
    return before


def merged(
    results: list[dict[str, Any]], recorded: Sequence[dict[str, Any]], folder: Callable[[int], Path]
) -> list[dict[str, Any]]:
    """Results, and those on record of other seeds that `folder` names; by seed."""
    earlier = recall(recorded, folder, [run["seed"] for run in results])
    return sorted([*results, *earlier], key=lambda run: run["seed"])


def all_seeds(settings: Settings, part: str, recipe: Recipe, dataset: Dataset) -> list[dict[str, Any]]:
    """Trainings of the seeds asked for, and of those that an earlier sitting left in the results file; by seed."""
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
