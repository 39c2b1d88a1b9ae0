"""Table that benchmarks/quality.py prints: every training and baseline, a line each."""

import statistics
from collections.abc import Sequence
from typing import Any

from mgray.eval.metrics import RMSE

HR, NDCG = "hr@10", "ndcg@10"


def mean(results: Sequence[dict[str, Any]], metric: str, part: str = "test") -> float:
    return statistics.mean(result[part][metric] for result in results)


def table(raw: dict[str, Any]) -> str:
    """Every training and baseline of the parts, in a line each."""
    lines = [
        f"{'':<44}{HR:>10}{NDCG:>10}{'valid':>10}{'minutes':>10}{'epochs':>8}{'positions/s':>13}{'parameters':>12}"
        f"{'body kFLOP/pos':>16}{RMSE:>10}"
    ]

    def shown(runs: list[dict[str, Any]], part: str, metric: str) -> str:
        return f"{mean(runs, metric, part):>10.4f}" if metric in runs[0][part] else f"{'-':>10}"

    def add(name: str, runs: list[dict[str, Any]]) -> None:
        minutes = statistics.mean(run["seconds"] for run in runs) / 60
        epochs = statistics.mean(run["epochs"] for run in runs)
        figures = shown(runs, "test", HR) + shown(runs, "test", NDCG) + shown(runs, "valid", NDCG)
        speed = f"{statistics.mean(run['positions_s'] for run in runs):>13,.0f}"
        size = f"{runs[0]['parameters']:>12,}{runs[0]['body_flops_a_position'] / 1e3:>16.1f}"
        lines.append(f"{name:<44}{figures}{minutes:>10.1f}{epochs:>8.1f}{speed}{size}{shown(runs, 'test', RMSE)}")

    def add_figures(name: str, metrics: dict[str, float], parameters: int | None = None) -> None:
        size = "" if parameters is None else f"{parameters:>53,}"
        ranking = "".join(f"{metrics[one]:>10.4f}" if one in metrics else f"{'-':>10}" for one in (HR, NDCG))
        rating = f"   {RMSE} {metrics[RMSE]:.4f}" if RMSE in metrics else ""
        lines.append(f"{name:<44}{ranking}{size}{rating}")

    for part, content in raw.items():
        inner = content["result"]
        for name, row in inner.get("rows", {}).items():
            add(f"{part}: {name}", row["runs"])
            for num_levels, cut in row["runs"][0].get("cut_to_levels", {}).items():
                add_figures(f"{part}: {name}, cut to {num_levels}", cut["test"], cut["parameters"])
        whole = "runs" in inner or "rows" in inner
        for name, own in ({part: inner} if whole else inner).items():
            if "runs" in own:
                add(name, own["runs"])
            for baseline, metrics in own.get("baselines", {}).items():
                add_figures(f"{name}: {baseline}", metrics)
            if "best_achievable" in own:
                add_figures(f"{name}: best achievable", own["best_achievable"])
    return "\n".join(lines)
