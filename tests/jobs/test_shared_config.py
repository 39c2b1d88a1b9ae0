"""One file of settings for several jobs, as processes: each reads its part, and says what it leaves out."""

from pathlib import Path

from mgray.testing.synthetic import make_log
from tests.jobs.processes import error_of, result_line, run_job_process

LEAVES_OUT = "--config {file}: jobs/ingest.py leaves out what only other jobs read: {names}"


def test_ingest_takes_the_config_of_a_training(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    make_log(20, 12).rename({"user_id": "visitor"}).write_csv(log)
    given = ["--home", str(tmp_path / "home"), "--data.source", str(log), "--data.num_shards", "1"]
    file = "jobs/configs/ml1m.yaml"
    done = run_job_process("ingest", "--config", file, *given, "--data.columns.user_id", "visitor", RAY_ADDRESS="local")
    assert done.code == 0, done
    said = [line for line in done.stderr.splitlines() if "leaves out" in line]
    assert said == [LEAVES_OUT.format(file=file, names="model.*, scale.*, train.*")]
    assert result_line(done.stdout)["rows"]["written"] > 0


def test_a_misspelling_in_the_part_of_another_job_stops_ingest(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("data.source: log.csv\ntrain:\n  epohcs: 3\n")
    error = error_of(run_job_process("ingest", "--config", str(file), "--home", str(tmp_path)))
    assert f"--config {file}: unknown config key 'train.epohcs' (did you mean train.epochs?); valid keys: " in error
