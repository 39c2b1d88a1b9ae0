"""Time to quality beside RecTools' SASRec on MovieLens-1M: the same split, the same cores, both in one run.

    python benchmarks/peer.py --log interactions.parquet     # about 12 minutes on 2 idle cores

Training part, validation event and test event of every user are mgray's; both sides rank all items, those that the user
has taken out, and both are judged by validation NDCG@10. mgray's clock runs through its validations, the peer's does
not, but it is looked at once an epoch only. The peer trains until it reaches STOP_AT or for --factor times as long as
mgray took; where it has not reached it by then, the ratio is an upper bound, and `peer_reached` says so. RecTools gets
an environment of its own in --work; its settings are SASREC, at equal width, in the faster of fp32 and bf16 (mgray's
side is in bf16), with the constant learning rate that it has; mgray's schedule ends with its minutes, and its learning
rate was chosen on this log. A position is an event that is trained on; padding does not count.
"""

import argparse
import json
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import polars as pl
import torch
from _results import check, write
from _training import fit, run_folder
from quality import LONG, ROOT, Recipe, Settings, ml1m_dataset
from quality import NAME as QUALITY

from mgray.data.dataset import Dataset
from mgray.errors import InputError
from mgray.eval.ranking import part_queries

NAME = "peer"
METRIC, STOP_AT = "ndcg@10", 0.17
REQUIREMENTS = Path(__file__).with_name("requirements-peer.txt")
WIDTH = 64
SASREC = {
    "width": WIDTH,
    "blocks": 2,
    "heads": 4,
    "max_length": 200,
    "batch_size": 128,
    "loss": "softmax",
    "learning_rate": 1e-3,
    "dropout": 0.2,
    "neighbours": 100,  # of the nearest-neighbour model
}


def peer_python(work: Path) -> Path:
    """The interpreter of RecTools' environment, which is made at need."""
    folder = work / "peer-venv"
    python, stamp = folder / "bin" / "python", folder / REQUIREMENTS.name
    if not stamp.is_file() or stamp.read_text() != REQUIREMENTS.read_text():
        print("making RecTools' environment", file=sys.stderr)
        venv.create(folder, clear=True, with_pip=True)
        install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(REQUIREMENTS)]
        subprocess.run([python, *install], check=True)
        stamp.write_text(REQUIREMENTS.read_text())
    return python


def write_events(dataset: Dataset, folder: Path) -> None:
    """train, valid and test.csv: user_id, item_id (mgray's number), place within the user's history."""
    folder.mkdir(exist_ok=True)

    def write_part(name: str, rows: Iterable[tuple[str, int, int]]) -> None:
        pl.DataFrame(list(rows), schema=["user_id", "item_id", "place"], orient="row").write_csv(folder / f"{name}.csv")

    valid = part_queries(dataset, "valid")
    write_part(
        "train", ((q.user_id, item, place) for q in valid for place, item in enumerate(q.history.items.tolist()))
    )
    for name, queries in (("valid", valid), ("test", part_queries(dataset, "test"))):
        write_part(name, ((q.user_id, q.target, len(q.history)) for q in queries))


def run_peer(python: Path, settings: dict[str, Any]) -> dict[str, Any]:
    command = [str(python), str(Path(__file__).with_name("_peer_rectools.py")), json.dumps(settings)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def seconds_to(curve: list[dict[str, float]]) -> float | None:
    return next((point["seconds"] for point in curve if point[METRIC] >= STOP_AT), None)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", required=True, help="MovieLens-1M's events, Parquet")
    parser.add_argument(
        "--work", type=Path, default=ROOT / "var" / QUALITY, help="datasets and trainings [var/quality]"
    )
    parser.add_argument("--minutes", type=float, default=2.5, help="of mgray's training [2.5]")
    parser.add_argument("--factor", type=float, default=5.1, help="the peer's longest time, in mgray's [5.1]")
    parser.add_argument("--cores", type=int, default=2, help="threads of either side's one process [2]")
    parser.add_argument("--seed", type=int, default=0)
    args, options = parser.parse_known_args()
    work = args.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    settings = Settings(work, args.log, [args.seed], args.minutes, None, options)
    try:
        dataset = ml1m_dataset(settings)
        base = [*LONG, "--model.width", str(WIDTH), "--train.validate_every_epochs", "1"]
        config = Recipe(NAME, args.minutes, base).config(settings, args.seed)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    python = peer_python(work)
    write_events(dataset, work / NAME)
    folder = run_folder(work, NAME, dataset, config)
    shutil.rmtree(folder, ignore_errors=True)  # both sides in one run
    torch.set_num_threads(args.cores)
    own = fit(dataset, config, folder)
    own_s = seconds_to(own["curve"])
    limit = args.factor * (own_s or own["seconds"])
    asked = SASREC | {"folder": str(work / NAME), "threads": args.cores, "seed": args.seed}
    peer = run_peer(python, asked | {"max_time_s": limit, "stop_at": STOP_AT})
    peer_s = seconds_to(peer["curve"])
    ratio = own_s / (peer_s or peer["seconds"]) if own_s else float("nan")
    rate = own["positions_s"] / peer["positions_s"]
    reached = f"{peer_s:.0f} s" if peer_s else f"not in {peer['seconds']:.0f} s"
    print(f"{METRIC} {STOP_AT} on the validation part: mgray {own_s or float('nan'):.0f} s, RecTools' SASRec {reached}")
    print(f"positions a second: {own['positions_s']:,.0f} against {peer['positions_s']:,.0f}")
    for name, metrics in {"mgray": own["test"], **peer["test"]}.items():
        print(f"  test, {name:<20} hr@10 {metrics['hr@10']:.4f}  ndcg@10 {metrics[METRIC]:.4f}")
    checks = [
        check("time_to_0.17_vs_peer", ratio, 0.2, "<="),
        check("positions_s_vs_peer", rate, 8.0, ">="),
    ]
    write(NAME, {"mgray": own, "peer": peer, "peer_settings": SASREC, "peer_reached": peer_s is not None}, checks)
    return 0


if __name__ == "__main__":
    sys.exit(main())
