"""jobs/predict.py with bad input: exit code 2, one line that says what, where and how to mend it, nothing written."""

from pathlib import Path

import pytest

from mgray.config import PredictJobConfig
from pipelines.predict.job import run_prediction
from pipelines.runtime.job import EXIT_WRONG_INPUT, run_job
from tests.conftest import Champion

CASES = {
    "unknown model": (["--model", "models:/nobody@champion"], "not in the registry"),
    "unknown version": (["--model", "models:/mgray-interest/99"], "not in the registry"),
    "unknown alias": (["--model", "models:/mgray-interest@hero"], "not in the registry"),
    "no registry URI": (["--model", "model.pt"], "not a registry URI"),
    "no dataset": (["--data.dataset", "{tmp}/nowhere"], "no committed dataset version"),
    "k of zero": (["--predict.k", "0"], "predict.k"),
    "k too large": (["--predict.k", "1001"], "predict.k"),
    "unknown key": (["--predict.top", "5"], "unknown config key 'predict.top'"),
    "blocked file missing": (["--predict.blocked", "{tmp}/nowhere.txt"], "No such file"),
    "blocked file without the column": (["--predict.blocked", "{tmp}/wrong.csv"], "no column item_id"),
    "blocked file of bytes": (["--predict.blocked", "{tmp}/bytes.txt"], "not readable"),
    "blocked file no Parquet": (["--predict.blocked", "{tmp}/fake.parquet"], "not readable"),
    "blocked file of unknown ids": (["--predict.blocked", "{tmp}/unknown.txt"], "1 of 2 item ids"),
    "everything blocked": (["--predict.blocked", "{tmp}/all.txt"], "blocks every item"),
    "out is below a file": (["--predict.out", "{tmp}/wrong.csv/out"], "give another place with --predict.out"),
    "tracking unreachable": (["--tracking.uri", "http://127.0.0.1:9"], "cannot be used"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_line_and_exit_code_2(
    case: str, champion: Champion, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "wrong.csv").write_text("item,title\n1,x\n")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\xfa")
    (tmp_path / "fake.parquet").write_text("item_id")
    (tmp_path / "unknown.txt").write_text("i1\nnobody-has-this\n")
    (tmp_path / "all.txt").write_text("\n".join(champion.dataset.item_ids))
    given, words = CASES[case]
    out = tmp_path / "out"
    defaults = {
        "--home": champion.home,
        # By name: mlflow.set_tracking_uri leaves an earlier test's store in this process' environment.
        "--tracking.uri": f"sqlite:///{champion.home / 'mlflow.db'}",
        "--data.dataset": champion.dataset.folder,
        "--predict.out": out,
    }
    argv = [str(text) for pair in defaults.items() for text in pair]
    argv += [text.format(tmp=tmp_path) for text in given]

    assert run_job("predict", PredictJobConfig, run_prediction, argv) == EXIT_WRONG_INPUT
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert words in line
    assert "Traceback" not in captured.err
    assert not out.exists() or list(out.iterdir()) == []
