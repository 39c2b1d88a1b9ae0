"""The GPU path, for the day a GPU is at hand: the same step on CPU and GPU, fp32 and bf16, in one run.

    python benchmarks/gpu.py               # about 2 minutes; exits with 2 where there is no CUDA device

Checks that fp32 on the GPU gives the CPU's loss, that bf16 is what `precision: auto` chooses where the GPU computes in
it, that NCCL's process group starts and reduces, and measures positions a second on both sides, with and without
`torch.compile` of the model; and what share of the memory's bandwidth the depthwise convolution reaches: the time of a
copy that reads and writes as much, over the convolution's. The speed-up over a Transformer by length is `length.py`'s,
which takes the GPU where there is one.
"""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from _results import check, write

sys.path.insert(0, str(Path(__file__).parent.parent))

from mgray.config import ResolvedModelConfig, TrainConfig
from mgray.data.feed import Batch
from mgray.data.inputs import Inputs
from mgray.model.convolution import depthwise_causal
from mgray.model.mgdsc import MGDSC
from mgray.train.negatives import draw_uniform
from mgray.train.objective import Objective, autocast, resolve_precision
from mgray.train.trainer import to_device

NUM_ITEMS, BATCH, LENGTH = 50_000, 64, 256
TAPS = 7  # the default model's kernel
MODEL = ResolvedModelConfig(width=128, granularities=(1, 4, 16, "decay:4..400"), norm="layer", dropout=0.0)


def make_batch(seed: int = 0) -> Batch:
    items = torch.randint(1, NUM_ITEMS + 1, (BATCH, LENGTH + 1), generator=torch.Generator().manual_seed(seed))
    return Batch(Inputs(items[:, :-1].contiguous()), items[:, 1:].contiguous())


def measure(device: torch.device, precision: str, steps: int, compiled: bool = False) -> tuple[float, float]:
    """-> (mean loss of the first step, positions a second)."""
    config = TrainConfig(precision=precision, num_negatives=2048)
    torch.manual_seed(0)
    objective = Objective(MGDSC(MODEL, NUM_ITEMS), config, device, exclude_seen=True).to(device)
    if compiled:
        objective.model.compile(dynamic=False)  # the batch here has one shape
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


def seconds_of(step: Callable[[], object], device: torch.device, repeats: int = 20) -> float:
    """Median of the repeats, after three to warm up."""
    times = []
    for _ in range(repeats + 3):
        started = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return statistics.median(times[3:])


def depthwise_bandwidth_share(device: torch.device, shape: tuple[int, int, int] = (64, 4096, 128)) -> float:
    """Bandwidth of the forward pass on bf16 [B, L, D], as a share of what a copy of as many bytes reaches."""
    x = torch.randn(*shape, device=device, dtype=torch.bfloat16)
    weight, out = torch.randn(shape[2], TAPS, device=device, dtype=torch.bfloat16), torch.empty_like(x)
    with torch.no_grad():
        convolution_s = seconds_of(lambda: depthwise_causal(x, weight, dilation=1), device)
    return seconds_of(lambda: out.copy_(x), device) / convolution_s


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
        "gpu_bf16_compiled": measure(gpu, "bf16", 30, compiled=True),
    }
    bandwidth_share = depthwise_bandwidth_share(gpu)
    for name, (loss, speed) in figures.items():
        print(f"{name:<18} loss {loss:8.4f}   {speed:>12,.0f} positions/s")
    print(f"depthwise convolution: {bandwidth_share:.2f} of a copy's bandwidth")
    exact, half = figures["gpu_fp32"], figures["gpu_bf16"]
    checks = [
        check("fp32_loss_difference", abs(exact[0] - figures["cpu_fp32"][0]), 1e-3, "<="),
        check("bf16_loss_difference", abs(half[0] - exact[0]), 0.05, "<="),
        check("auto_is_bf16", float(resolve_precision("auto", gpu) == torch.bfloat16), 1, ">="),
        check("nccl_reduces", float(nccl_reduces()), 1, ">="),
        check("gpu_vs_cpu_positions_s", half[1] / figures["cpu_fp32"][1], 10, ">="),
    ]
    name = torch.cuda.get_device_name().lower().replace(" ", "-")
    print(write(f"gpu-{name}", figures | {"depthwise_bandwidth_share": bandwidth_share}, checks))
    return 0


if __name__ == "__main__":
    sys.exit(main())
