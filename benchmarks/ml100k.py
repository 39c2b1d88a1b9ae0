"""The default run on MovieLens-100K, over seeds, beside its baselines: quality and time.

    python benchmarks/ml100k.py            # 3 seeds, about 11 minutes on 2 idle cores

Each seed is one `jobs/train.py` as a user runs it; figures are read from its result line.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from _results import check, write

ROOT = Path(__file__).parent.parent
METRICS = ("hr@10", "ndcg@10")


def run(seed: int, home: str) -> dict:
    command = [sys.executable, "jobs/train.py", "--home", home, "--train.seed", str(seed)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        runs = [run(seed, home) for seed in range(args.seeds)]
    systems = {"mg-dsc": [r["metrics"] for r in runs]} | {
        name: [r["baselines"][name] for r in runs] for name in runs[0]["baselines"]
    }
    print(f"{'system':<16}" + "".join(f"{metric:>20}" for metric in METRICS))
    means: dict[str, dict[str, float]] = {}
    for name, figures in systems.items():
        means[name] = {metric: statistics.mean(f[metric] for f in figures) for metric in METRICS}
        spread = {metric: statistics.pstdev([f[metric] for f in figures]) for metric in METRICS}
        print(f"{name:<16}" + "".join(f"{means[name][m]:>12.4f} ±{spread[m]:.4f}" for m in METRICS))
    counted = means["cooccurrence"]
    checks = [
        check("ml100k_hr10", means["mg-dsc"]["hr@10"], 0.215, ">="),
        check("ml100k_ndcg10", means["mg-dsc"]["ndcg@10"], 0.115, ">="),
        check("ml100k_floor_hr10", means["mg-dsc"]["hr@10"], 0.18, ">="),
        check("ml100k_floor_ndcg10", means["mg-dsc"]["ndcg@10"], 0.093, ">="),
        check("hr10_vs_cooccurrence", means["mg-dsc"]["hr@10"] / counted["hr@10"], 1.0, ">="),
        check("ndcg10_vs_cooccurrence", means["mg-dsc"]["ndcg@10"] / counted["ndcg@10"], 1.0, ">="),
        check("training_s", max(r["seconds"]["training"] for r in runs), 360, "<="),
        check("job_s", max(r["seconds"]["total"] for r in runs), 600, "<="),
    ]
    kept = ("metrics", "baselines", "seconds", "positions_s", "workers")
    path = write("ml100k", {"means": means, "runs": [{key: r[key] for key in kept} for r in runs]}, checks)
    print(path)


if __name__ == "__main__":
    main()
