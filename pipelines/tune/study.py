"""A search's memory and judgement: Optuna's study in a journal file, behind Tune's searcher and ASHA.

Why not `ray.tune.search.optuna.OptunaSearch` and `Tuner.restore`: OptunaSearch tells Optuna that a trial which ASHA
stopped was COMPLETE with a low value, and neither it nor Tune's snapshots (one every 10 s at best) hold what ended just
before a kill. Here every draw, result and end is appended to the journal, and synced to disk, as it happens. After kill
-9 the journal is all that a search needs: trials that ended are not run again, those that had not are drawn first.
"""

import math
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from mgray.config import TuneJobConfig
from mgray.config.search_space import Choice, Dimension, Point, Space, all_points

JOURNAL_FILE = "journal.jsonl"
STUDY_NAME = "search"
SCORE = "score"  # the reported figure that a search maximizes
EPOCH = "epoch"
FINISHED = "finished"  # in the last report of a trial that trained to its end
FAILED = "failed"  # the reason, in the last report of a trial that did not
DRAWS_AGAINST_REPEATS = 50


def distribution(dimension: Dimension) -> BaseDistribution:
    if isinstance(dimension, Choice):
        return CategoricalDistribution(dimension.labels)
    if dimension.step is not None:
        return IntDistribution(int(dimension.low), int(dimension.high), step=dimension.step)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log)


def make_sampler(algorithm: str, seed: int, num_random: int) -> BaseSampler:
    if algorithm == "random":
        return RandomSampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        # constant_liar: trials that run side by side are not drawn alike.
        return TPESampler(seed=seed, n_startup_trials=num_random, multivariate=True, constant_liar=True)


def open_study(folder: Path, config: TuneJobConfig, start: Point | None = None) -> optuna.Study:
    """The study in `folder`'s journal, made if there is none; `start` is then its first point."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    journal = folder / JOURNAL_FILE
    if journal.exists():
        _cut_torn_line(journal)
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(journal)))
    study = optuna.create_study(study_name=STUDY_NAME, storage=storage, direction="maximize", load_if_exists=True)
    search, known = config.search, len(study.get_trials(deepcopy=False))
    # A seed of its own for each resume: the first one's would draw the first trials once more.
    study.sampler = make_sampler(search.algorithm, (search.seed * 1_000_003 + known) % 2**31, search.num_random)
    if start and not known:
        study.enqueue_trial(start)
    return study


def _cut_torn_line(journal: Path) -> None:
    """A line that a kill or a full disk cut short would spoil the one appended after it."""
    with journal.open("rb+") as file:
        content = file.read()
        if not content.endswith(b"\n"):
            file.truncate(content.rfind(b"\n") + 1)
            os.fsync(file.fileno())


@dataclass(frozen=True)
class TrialRecord:
    """A trial as the study remembers it."""

    number: int
    point: Point
    outcome: str  # running, finished, stopped, failed
    reason: str | None
    run_id: str | None
    curve: list[tuple[int, float]]  # (epoch, best score so far)
    seconds: float | None  # trained so far; None: it never validated
    steps: int | None  # as above
    wrong_input: bool  # it failed by a mistake of the user's

    @property
    def score(self) -> float:
        return self.curve[-1][1] if self.curve else math.nan


_OUTCOMES = {TrialState.RUNNING: "running", TrialState.COMPLETE: "finished", TrialState.PRUNED: "stopped"}


def trial_records(study: optuna.Study, space: Space) -> list[TrialRecord]:
    """Every trial drawn, by number; without repeats of a point, and without one whose draw a kill cut short."""
    found = []
    for trial in study.get_trials(deepcopy=False):
        if trial.state == TrialState.WAITING or set(trial.params) != set(space) or "same_as" in trial.user_attrs:
            continue
        attributes = trial.user_attrs
        found.append(
            TrialRecord(
                number=trial.number,
                point=trial.params,
                outcome=_OUTCOMES.get(trial.state, "failed"),
                reason=attributes.get("reason"),
                run_id=attributes.get("run_id"),
                curve=sorted(trial.intermediate_values.items()),
                seconds=attributes.get("seconds"),
                steps=attributes.get("step"),
                wrong_input=attributes.get("wrong_input", False),
            )
        )
    return found


def importance(trials: list[TrialRecord], space: Space, epoch: int) -> dict[str, float]:
    """Share of each key in what sets good points apart, by PED-ANOVA; scores are those at `epoch`, which all reached.

    Empty where fewer than 4 trials tell.
    """
    distributions = {key: distribution(dimension) for key, dimension in space.items()}
    study = optuna.create_study(direction="maximize")
    for trial in trials:
        reached = [score for at, score in trial.curve if at >= epoch]
        if trial.outcome in ("finished", "stopped") and reached and math.isfinite(reached[0]):
            study.add_trial(
                optuna.trial.create_trial(value=reached[0], params=trial.point, distributions=distributions)
            )
    scores = {trial.value for trial in study.trials}
    if len(study.trials) < 4 or len(scores) < 2:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shares = optuna.importance.get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
    return {key: float(shares.get(key, 0.0)) for key in space}


class StudySearcher(Searcher):
    """Draws points for Tune and tells the study how they did.

    prepare: (number, point, run id of an earlier attempt) -> what the trial is called with; `run_id` of it is kept.
    ended: told of each trial that has ended, after the study was.
    """

    def __init__(
        self,
        study: optuna.Study,
        space: Space,
        prepare: Callable[[int, Point, str | None], dict[str, Any]],
        ended: Callable[[TrialRecord], None] = lambda record: None,
    ) -> None:
        super().__init__(metric=SCORE, mode="max")
        self.study, self.space, self.prepare, self.ended = study, space, prepare, ended
        self.distributions = {key: distribution(dimension) for key, dimension in space.items()}
        self.numbers: dict[str, int] = {}  # Tune's trial id -> the study's number
        self.stopped_at: dict[int, int] = {}  # number -> epoch at which ASHA stopped it
        self.exhausted = False
        self._unfinished = [record for record in trial_records(study, space) if record.outcome == "running"]

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        drawn = self._draw()
        if drawn is None:
            self.exhausted = True  # every point of a small space has been tried
            return Searcher.FINISHED
        number, point, run_id = drawn
        given = self.prepare(number, point, run_id)
        self._trial(number).set_user_attr("run_id", given["run_id"])
        self.numbers[trial_id] = number
        return {"number": number, **given}

    def _draw(self) -> tuple[int, Point, str | None] | None:
        if self._unfinished:
            record = self._unfinished.pop(0)
            return record.number, record.point, record.run_id
        for _ in range(DRAWS_AGAINST_REPEATS):
            trial = self.study.ask(self.distributions)
            same = [past for past in self._tried() if past.params == trial.params and past.number < trial.number]
            if not same:
                return trial.number, dict(trial.params), None
            trial.set_user_attr("same_as", same[0].number)
            self.study.tell(trial.number, state=TrialState.FAIL)
        left = self._untried()
        if left is None:
            return None
        self.study.enqueue_trial(left)
        trial = self.study.ask(self.distributions)
        return trial.number, dict(trial.params), None

    def _tried(self) -> list[FrozenTrial]:
        return [trial for trial in self.study.get_trials(deepcopy=False) if "same_as" not in trial.user_attrs]

    def _untried(self) -> Point | None:
        """A point that the sampler, who comes back to what it likes, did not draw; None: there is none."""
        tried = [trial.params for trial in self._tried()]
        return next((point for point in all_points(self.space) or () if point not in tried), None)

    def _trial(self, number: int) -> optuna.Trial:
        return optuna.Trial(self.study, self._frozen(number)._trial_id)

    def _frozen(self, number: int) -> FrozenTrial:
        return self.study.get_trials(deepcopy=False)[number]

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        score = result.get(SCORE)
        if score is None or not math.isfinite(score):
            return
        trial, epoch = self._trial(self.numbers[trial_id]), math.ceil(result[EPOCH])
        if epoch not in self._frozen(trial.number).intermediate_values:
            trial.report(score, epoch)
        for name in ("seconds", "step"):
            if name in result:
                trial.set_user_attr(name, result[name])

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if error or trial_id not in self.numbers:
            return  # `fail` is told, with the reason
        number, result = self.numbers[trial_id], result or {}
        if FAILED in result:
            self.fail(trial_id, result[FAILED], result.get("wrong_input", False))
            return
        self.on_trial_result(trial_id, result)
        if result.get(FINISHED):
            self._end(number, TrialState.COMPLETE, None)
        else:
            epoch = self.stopped_at.get(number)
            self._end(number, TrialState.PRUNED, f"behind at epoch {epoch}" if epoch else "the search's time was up")

    def fail(self, trial_id: str, reason: str, wrong_input: bool = False) -> None:
        number = self.numbers[trial_id]
        self._trial(number).set_user_attr("wrong_input", wrong_input)
        self._end(number, TrialState.FAIL, reason)

    def _end(self, number: int, state: TrialState, reason: str | None) -> None:
        if self._frozen(number).state.is_finished():
            return
        if reason:
            self._trial(number).set_user_attr("reason", reason)
        values = self._frozen(number).intermediate_values
        if state == TrialState.COMPLETE and not values:
            state = TrialState.FAIL  # a score that is no number
        self.study.tell(number, values[max(values)] if state == TrialState.COMPLETE else None, state=state)
        self.ended(next(record for record in trial_records(self.study, self.space) if record.number == number))

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the journal is the state, on disk already."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing, as above."""

    def __getstate__(self) -> dict[str, Any]:
        """Give nothing, as above: Tune pickles what it is given, for a `Tuner.restore` that is not used."""
        return {}


class Asha(ASHAScheduler):
    """Tune's ASHA by epochs, which knows what the study's trials reached before this process began."""

    def __init__(self, searcher: StudySearcher, config: TuneJobConfig) -> None:
        search = config.search
        super().__init__(
            time_attr=EPOCH,
            metric=SCORE,
            mode="max",
            max_t=config.trial_epochs,
            grace_period=search.grace_epochs,
            reduction_factor=search.reduction_factor,
            stop_last_trials=False,  # a trial at its last epoch still has to be tested and to end by itself
        )
        self.searcher = searcher
        self.past = {record.number: record.curve for record in trial_records(searcher.study, searcher.space)}
        for record in trial_records(searcher.study, searcher.space):
            if record.outcome in ("finished", "stopped"):
                past = SimpleNamespace(trial_id=f"past-{record.number}", config={"number": record.number})
                self.on_trial_add(None, past)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_add(tune_controller, trial)
        for epoch, score in self.past.get(trial.config["number"], []):
            super().on_trial_result(tune_controller, trial, {EPOCH: epoch, SCORE: score})

    def on_trial_result(self, tune_controller: Any, trial: Any, result: Mapping[str, Any]) -> str:
        action: str = super().on_trial_result(tune_controller, trial, dict(result))
        if action == TrialScheduler.STOP:
            self.searcher.stopped_at[trial.config["number"]] = math.ceil(result[EPOCH])
        return action


def make_scheduler(searcher: StudySearcher, config: TuneJobConfig) -> TrialScheduler:
    return Asha(searcher, config) if config.search.scheduler == "asha" else FIFOScheduler()
