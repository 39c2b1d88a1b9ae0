"""The GPU path, for the day a GPU is at hand: the same step on CPU and GPU, fp32 and bf16, in one run.

    python benchmarks/gpu.py               # about 2 minutes; exits with 2 where there is no CUDA device

Checks that fp32 on the GPU gives the CPU's loss, that bf16 is what `precision: auto` chooses where the GPU computes in
it, that NCCL's process group starts and reduces, and measures positions a second on both sides.
"""

import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from _results import check, write

sys.path.insert(0, str(Path(__file__).parent.parent))

from mgray.batch import Batch
from mgray.config import ModelConfig, TrainConfig
from mgray.engine import to_device
from mgray.inputs import Inputs
from mgray.model import MGDSC
from mgray.negatives import draw_uniform
from mgray.objective import Objective, autocast, resolve_precision

NUM_ITEMS, BATCH, LENGTH = 50_000, 64, 256
MODEL = ModelConfig(width=128, granularities=(1, 4, 16, "decay:4..400"), norm="layer", dropout=0.0)


def make_batch(seed: int = 0) -> Batch:
    items = torch.randint(1, NUM_ITEMS + 1, (BATCH, LENGTH + 1), generator=torch.Generator().manual_seed(seed))
    return Batch(Inputs(items[:, :-1].contiguous()), items[:, 1:].contiguous())


def measure(device: torch.device, precision: str, steps: int) -> tuple[float, float]:
    """-> (mean loss of the first step, positions a second)."""
    config = TrainConfig(precision=precision, num_negatives=2048)
    torch.manual_seed(0)
    objective = Objective(MGDSC(MODEL, NUM_ITEMS), config, device, exclude_seen=True).to(device)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-3, fused=True)
    negatives = draw_uniform(NUM_ITEMS, config.num_negatives, torch.Generator().manual_seed(0)).to(device)
    dtype, batch, first, started = resolve_precision(precision, device), make_batch(), 0.0, 0.0
    for step in range(steps + 3):
        if step == 3:
            started = time.perf_counter()
        inputs, targets = Inputs(to_device(batch.inputs.items, device)), to_device(batch.targets, device)
        optimizer.zero_grad(set_to_none=True)
        with autocast(device, dtype):
            loss = objective(inputs, targets, negatives) / batch.targets.numel()
        loss.backward()
        optimizer.step()
        if step == 0:
            first = loss.item()
        if device.type == "cuda":
            torch.cuda.synchronize()
    return first, steps * batch.targets.numel() / (time.perf_counter() - started)


def nccl_reduces() -> bool:
    dist.init_process_group("nccl", init_method="tcp://127.0.0.1:29511", rank=0, world_size=1)
    value = torch.ones(3, device="cuda")
    dist.all_reduce(value)
    dist.destroy_process_group()
    return bool((value == 1).all())


def main() -> int:
    if not torch.cuda.is_available():
        print("error: no CUDA device here, so nothing was measured; run this on a machine with a GPU", file=sys.stderr)
        return 2
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    figures = {
        "cpu_fp32": measure(cpu, "fp32", 3),
        "gpu_fp32": measure(gpu, "fp32", 30),
        "gpu_bf16": measure(gpu, "bf16", 30),
    }
    for name, (loss, speed) in figures.items():
        print(f"{name:<10} loss {loss:8.4f}   {speed:>12,.0f} positions/s")
    exact, half = figures["gpu_fp32"], figures["gpu_bf16"]
    checks = [
        check("fp32_loss_difference", abs(exact[0] - figures["cpu_fp32"][0]), 1e-3, "<="),
        check("bf16_loss_difference", abs(half[0] - exact[0]), 0.05, "<="),
        check("auto_is_bf16", float(resolve_precision("auto", gpu) == torch.bfloat16), 1, ">="),
        check("nccl_reduces", float(nccl_reduces()), 1, ">="),
        check("gpu_vs_cpu_positions_s", half[1] / figures["cpu_fp32"][1], 10, ">="),
    ]
    name = torch.cuda.get_device_name().lower().replace(" ", "-")
    print(write(f"gpu-{name}", figures, checks))
    return 0


if __name__ == "__main__":
    sys.exit(main())
