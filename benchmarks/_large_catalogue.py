"""Memory and seconds of what a model of very many items is used for: each use in a process of its own.

`python benchmarks/_large_catalogue.py USE FOLDER` is one use; its last line is JSON. Peak memory is the process's
resident set, mapped files included; `private_gb` is what it could not give back (anonymous memory) at the end. Each use
imports what it wants, so that its memory is its own.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _ingest_runs import ROOT, say
from _million_items import make_log, run_job

WIDTH = 64
LAG = 10  # of so many items one is new to the earlier model of a warm start
HISTORY = 5


def _folder(folder: Path, name: str) -> Path:
    return folder / name


def _dataset(folder: Path) -> Any:
    from mgray.data.dataset import Dataset

    return Dataset((folder / "dataset").read_text())


def _config() -> Any:
    from mgray.config import ResolvedModelConfig

    return ResolvedModelConfig(width=WIDTH, granularities=(1, 4), dropout=0.25, norm="layer", inputs=())


def write_model(folder: Path) -> None:
    """The model folder that the other uses read: random weights over the dataset's items."""
    from mgray.model.ensemble import make_model
    from mgray.serve.model_folder import ModelInfo, Vocabulary, save_model

    dataset, config = _dataset(folder), _config()
    info = ModelInfo(
        config=config, num_items=dataset.num_items, max_length=50, dataset_fingerprint=dataset.manifest.fingerprint
    )
    model = make_model(config, dataset.num_items)
    save_model(_folder(folder, "model"), model.state_dict(), info, Vocabulary.of(dataset))


def open_dataset(folder: Path) -> None:
    dataset = _dataset(folder)
    last = dataset.num_items
    assert dataset.item_ids[last - 1].startswith("i")
    assert dataset.titles[last - 1]
    assert dataset.item_counts[last] > 0
    assert dataset.newest_counts()[1:].sum() > 0


def load(folder: Path) -> None:
    from mgray.serve.recommender import Recommender

    Recommender(_folder(folder, "model"))


def request(folder: Path) -> None:
    """A service's start, and its first answer."""
    import mlflow
    import pandas as pd

    model = mlflow.pyfunc.load_model(str(_folder(folder, "pyfunc")))
    answer = model.predict(pd.DataFrame({"history": [[f"i{item}" for item in range(HISTORY)]]}))
    assert len(answer["items"][0]) == 10


def save_pyfunc(folder: Path) -> None:
    """As registering saves it, without a server."""
    import mlflow

    from pipelines.tracking import models

    shutil.rmtree(_folder(folder, "pyfunc"), ignore_errors=True)
    mlflow.pyfunc.save_model(
        path=str(_folder(folder, "pyfunc")),
        python_model=str(Path(models.__file__).parent / "served_model.py"),
        artifacts={"model": _folder(folder, "model").absolute().as_uri()},
        code_paths=[str(ROOT / "mgray")],
        pip_requirements=[],
    )


def cut(folder: Path) -> None:
    from mgray.serve.cut import export_cut

    out = _folder(folder, "cut")
    shutil.rmtree(out, ignore_errors=True)
    export_cut(_folder(folder, "model"), 1, out)


def warm_start(folder: Path) -> None:
    """As a rank starts: its own model, and the earlier one, which lacks a tenth of the items."""
    from mgray.model.ensemble import make_model
    from mgray.serve.model_folder import load_model
    from mgray.train.warm_start import warm_start_

    dataset = _dataset(folder)
    model = make_model(_config(), dataset.num_items)
    source, _, vocabulary = load_model(_folder(folder, "model"), torch.device("cpu"))
    ids = [f"new{i}" if i % LAG == 0 else item for i, item in enumerate(dataset.item_ids)]
    started = warm_start_(model, ids, source, vocabulary.item_ids, keep=0.5)
    assert started.num_new == -(-dataset.num_items // LAG)


def start_items(folder: Path) -> None:
    """As rank 0 starts a model that is trained from scratch."""
    from mgray.train.item_init import item_vectors

    assert len(item_vectors(_dataset(folder), WIDTH)[0])


def gate(folder: Path) -> None:
    """As a retraining judges: champion and challenger in memory, the dataset in the numbers of each."""
    from mgray.serve.recommender import Recommender
    from mgray.serve.translation import Translation

    dataset = _dataset(folder)
    for _ in range(2):
        recommender = Recommender(_folder(folder, "model"))
        translation = Translation(dataset, recommender.vocabulary.item_ids, recommender.info)
        assert (translation.items[1 : dataset.num_items + 1] == np.arange(1, dataset.num_items + 1)).all()
        HELD.append((recommender, translation))


HELD: list[Any] = []  # what a use has in memory at one time
USES: dict[str, Callable[[Path], None]] = {
    "open dataset": open_dataset,
    "write model": write_model,
    "load model": load,
    "save pyfunc": save_pyfunc,
    "pyfunc and request": request,
    "export, cut": cut,
    "warm start": warm_start,
    "start items": start_items,
    "gate": gate,
}


def _status(name: str) -> int:
    """Bytes of a line of this process's status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def run_use(name: str, folder: Path) -> dict[str, float]:
    """A use in a process of its own -> seconds without imports, peak memory with them."""
    command = [sys.executable, __file__, name, str(folder)]
    kept = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=kept, cwd=ROOT)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    say(f"{name}: {found['seconds']:.2f} s, peak {found['peak_gb']:.2f} GB, private {found['private_gb']:.2f} GB")
    return found


def measure(num_items: int, work: Path | None) -> dict[str, Any]:
    """Use -> its figures, over a dataset of two events an item. work: a folder that keeps log and dataset, or None."""
    with tempfile.TemporaryDirectory(prefix="mgray-large-", ignore_cleanup_errors=True) as temporary:
        folder = (work or Path(temporary)) / f"large-{num_items}"
        log, _ = make_log(folder, num_items, 4 * num_items)
        if not (folder / "dataset").exists():
            say(f"ingesting a log of {num_items:,} items")
            result = run_job(["jobs/ingest.py", "--data.source", str(log)], folder / "home")
            (folder / "dataset").write_text(result["dataset"]["path"])
        items = _dataset(folder).num_items
        return {"items": items, "uses": {name: run_use(name, folder) for name in USES}}


def main() -> None:
    name, folder = sys.argv[1], Path(sys.argv[2])
    import mgray.serve.recommender  # noqa: F401  # its imports are no part of a use

    began = time.perf_counter()
    USES[name](folder)
    seconds = time.perf_counter() - began
    print(json.dumps({"seconds": seconds, "peak_gb": _status("VmHWM") / 1e9, "private_gb": _status("RssAnon") / 1e9}))


if __name__ == "__main__":
    main()
