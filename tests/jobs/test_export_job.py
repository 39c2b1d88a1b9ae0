"""The export job: a registered model to a smaller folder, which serves by itself."""

from pathlib import Path

import pytest

from mgray.config import ExportJobConfig
from mgray.errors import InputError
from mgray.recommend import Recommender
from tests.conftest import Champion


def test_a_registered_model_is_cut(champion: Champion, mlflow_apart: None, tmp_path: Path) -> None:
    from pipelines.export import run_export

    result = run_export(ExportJobConfig(home=str(champion.home), levels=1, out=str(tmp_path / "small")))
    assert result["model"]["version"] == "1"
    assert (result["was"]["levels"], result["now"]["levels"]) == (2, 1)
    assert result["now"]["parameters"] < result["was"]["parameters"]
    history = champion.dataset.item_ids[:3]
    assert len(Recommender(result["path"]).recommend([history], k=5).items[0]) == 5


def test_the_number_of_levels_is_asked_for(champion: Champion, mlflow_apart: None) -> None:
    from pipelines.export import run_export

    with pytest.raises(InputError, match="--levels"):
        run_export(ExportJobConfig(home=str(champion.home)))
