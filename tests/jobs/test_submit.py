"""`ray job submit` to a real head with token authentication, in both forms: the code is where the head was started, or
it travels with the job.
"""

import json
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from mlflow.tracking import MlflowClient

from mgray.testing.synthetic import make_log
from tests.heads import Head, ray_head
from tests.jobs.processes import BIN, ROOT, Done, result_line, run

UPLOADED_VERSION = "0.0.0+uploaded"
TINY = (
    "--model.width=16 --model.heads=2 --train.epochs=1 --train.global_batch_events=500 --train.num_negatives=15 "
    "--data.num_shards=2 --scale.collective_timeout_s=60 --tracking.system_metrics=false"
)


def ray_job(head: Head, *words: str, cwd: Path = ROOT, with_token: bool = True) -> Done:
    command, *rest = words
    extra = head.environment if with_token else {}
    return run([str(BIN / "ray"), "job", command, "--address", head.address, *rest], cwd=cwd, **extra)


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with ray_head(ROOT) as started:
        yield started


class Place(NamedTuple):
    home: Path
    log: Path

    def train(self) -> list[str]:
        return ["python", "jobs/train.py", f"--home={self.home}", f"--data.source={self.log}", *TINY.split()]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("submit")
    make_log(40, 30).write_csv(folder / "log.csv")
    return Place(folder / "home", folder / "log.csv")


def test_a_submit_without_a_token_starts_nothing(head: Head, place: Place) -> None:
    done = ray_job(head, "submit", "--", *place.train(), with_token=False)
    assert done.code == 1, done
    assert "AuthenticationError" in done.stderr
    assert "authentication" in done.stderr.splitlines()[-1].lower(), "the last line tells what is missing"
    request = urllib.request.Request(f"{head.address}/api/jobs/", json.dumps({"entrypoint": "true"}).encode())
    for asked in (request, urllib.request.Request(f"{head.address}/api/version")):
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(asked, timeout=10)
        assert caught.value.code == 401
    assert not place.home.exists()
    listed = ray_job(head, "list")
    assert listed.code == 0, listed
    assert "JobDetails" not in listed.stdout, listed


def test_the_code_is_where_the_head_was_started(head: Head, place: Place) -> None:
    done = ray_job(head, "submit", "--submission-id=in-place", "--", *place.train())
    assert done.code == 0, done
    result = result_line(ray_job(head, "logs", "in-place", "--log-style=record").stdout)
    assert (result["job"], result["status"]) == ("train", "ok")
    assert result["model"] == {"name": "mgray-interest", "version": "1"}
    assert set(result["metrics"]) == {"hr@10", "ndcg@10", "mrr@10", "coverage@10"}
    assert result["tracking_uri"] == f"sqlite:///{place.home / 'mlflow.db'}"
    assert not result["dataset"]["reused"]
    assert Path(result["dataset"]["path"], "manifest.json").is_file()
    assert Path(result["report"]).is_file()
    assert result["seconds"]["total"] > 0


def test_the_code_travels_with_the_job(head: Head, place: Place, tmp_path: Path) -> None:
    """Submit from a copy that says it is another version, and holds what .rayignore must keep out of the upload."""
    left = shutil.ignore_patterns(".git", ".venv", "var", "build", ".*_cache", "__pycache__", "tests", "*.egg-info")
    shutil.copytree(ROOT, tmp_path / "copy", ignore=left)
    copy = tmp_path / "copy"
    (copy / "mgray" / "__init__.py").write_text(f'__version__ = "{UPLOADED_VERSION}"\n')
    for name in (".venv/lib/large", "var/large", ".git/large"):
        (copy / name).parent.mkdir(parents=True)
        (copy / name).touch()
        os.truncate(copy / name, 1 << 30)  # ten times what Ray takes; sparse, so it costs nothing here
    done = ray_job(head, "submit", "--submission-id=uploaded", "--working-dir=.", "--", *place.train(), cwd=copy)
    assert done.code == 0, done
    result = result_line(ray_job(head, "logs", "uploaded", "--log-style=record").stdout)
    assert (result["job"], result["status"]) == ("train", "ok")
    assert result["dataset"]["reused"]
    assert set(result["metrics"]) == {"hr@10", "ndcg@10", "mrr@10", "coverage@10"}
    # The uploaded code ran, in the driver and in the workers, not the code installed where the head runs.
    tags = MlflowClient(result["tracking_uri"]).get_run(result["run_id"]).data.tags
    assert tags["mgray_version"] == UPLOADED_VERSION
    assert json.loads(Path(result["checkpoint"], "model.json").read_text())["mgray_version"] == UPLOADED_VERSION
