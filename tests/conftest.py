"""Fixtures of more than one test module."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mgray.config import DataConfig


@pytest.fixture(scope="session")
def ray_local() -> Iterator[None]:
    """A Ray of this test session's own: 2 CPUs, no dashboard."""
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def run_ingest(ray_local: None, tmp_path: Path) -> Callable:
    """ingest(source, **data settings) with a HOME of the test's own."""
    from pipelines.ingest import RANGE_BYTES, IngestResult, ingest

    def run(source: Path, range_bytes: int = RANGE_BYTES, home: Path | None = None, **settings: object) -> IngestResult:
        config = DataConfig.model_validate({"source": str(source), "num_shards": 2} | settings)
        return ingest(config, home or tmp_path / "home", None, range_bytes)

    return run
