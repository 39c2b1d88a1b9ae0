"""Values that a search draws."""

from pathlib import Path

import pytest

from mgray.config import TuneJobConfig
from mgray.config.search_space import Choice, Space
from pipelines.tune.study import SCORE, StudySearcher, open_study, trial_records

SPACE: Space = {"model.width": Choice((16, 32, 64, 128, 256)), "model.kernel": Choice((3, 5, 7, 9, 11, 13))}


@pytest.mark.parametrize("algorithm", ["tpe", "random"])
def test_a_small_space_is_tried_to_its_last_point(algorithm: str, tmp_path: Path) -> None:
    config = TuneJobConfig.model_validate({"search": {"algorithm": algorithm, "num_random": 4}})
    study = open_study(tmp_path, config)
    searcher = StudySearcher(study, SPACE, lambda number, point, run_id: {"run_id": f"run-{number}"})
    drawn = 0
    while searcher.suggest(f"trial-{drawn}") != "FINISHED":
        score = -abs(searcher.numbers[f"trial-{drawn}"] - 3.0)  # so that TPE has something to come back to
        searcher.on_trial_result(f"trial-{drawn}", {SCORE: score, "epoch": 1.0})
        searcher.on_trial_complete(f"trial-{drawn}", {SCORE: score, "epoch": 1.0, "finished": True})
        drawn += 1
    points = {tuple(sorted(record.point.items())) for record in trial_records(study, SPACE)}
    assert drawn == len(points) == 30
    assert searcher.exhausted
