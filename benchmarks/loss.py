"""The fused losses beside plain PyTorch: forward and backward of one batch on one thread, both sides in one run.

    python benchmarks/loss.py              # about 3 minutes on an idle core

The plain side is what one would write: logits [T, 1 + N] of the target and N shared negatives, the log-Q correction,
accidental hits masked, `cross_entropy`, autograd; in fp32, and under bf16 autocast. Runs of all sides take turns, and
the median counts. How long a plain one takes hangs on the C library: its logits are large arrays, new each time, whose
pages glibc may give back and take again; so all is measured once as Python starts, and once where freed memory is kept
(pipelines/runtime/malloc.py), in a process of its own.

Beside it the full softmax over MovieLens-1M's 3,416 items; the fused loss that leaves out what the user has by then
(train.exclude_seen), for histories of several lengths, the time to find it included; and ten million items, each side
in a process of its own for its peak memory.
"""

import argparse
import json
import math
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from _results import check, write
from torch import Tensor
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parent.parent))

from mgray.train.losses import sampled_softmax_loss, softmax_loss
from mgray.train.negatives import Negatives, draw_uniform, seen_items
from pipelines.runtime.malloc import keep_freed_memory

NUM_TARGETS, NUM_ITEMS, MANY_ITEMS = 8192, 3416, 10_000_000
WIDTHS = (64, 128)
FEW, MANY = 512, 2048
BF16, FP32 = torch.bfloat16, torch.float32

HISTORIES = (128, 1024, 4096)  # events; they divide NUM_TARGETS

Loss = Callable[[Tensor, Tensor, Tensor, Negatives], Tensor]


class Side(NamedTuple):
    loss: Loss
    num_negatives: int


def plain_sampled(interest: Tensor, embedding: Tensor, targets: Tensor, negatives: Negatives) -> Tensor:
    positive = (interest * embedding[targets]).sum(1, keepdim=True)
    logits = interest @ embedding[negatives.items].T + math.log(negatives.weight)
    logits = logits.masked_fill(targets[:, None] == negatives.items, -torch.inf)
    labels = torch.zeros(len(targets), dtype=torch.int64)
    return F.cross_entropy(torch.cat([positive, logits], dim=1), labels, reduction="sum")


def plain_autocast(interest: Tensor, embedding: Tensor, targets: Tensor, negatives: Negatives) -> Tensor:
    with torch.autocast("cpu", BF16):
        return plain_sampled(interest, embedding, targets, negatives)


def plain_full(interest: Tensor, embedding: Tensor, targets: Tensor, negatives: Negatives) -> Tensor:
    return F.cross_entropy(interest @ embedding[1:].T, targets - 1, reduction="sum")


def fused_sampled(dtype: torch.dtype) -> Loss:
    def loss(interest: Tensor, embedding: Tensor, targets: Tensor, negatives: Negatives) -> Tensor:
        return sampled_softmax_loss(interest, embedding, targets, negatives, dtype)

    return loss


def fused_full(dtype: torch.dtype) -> Loss:
    def loss(interest: Tensor, embedding: Tensor, targets: Tensor, negatives: Negatives) -> Tensor:
        return softmax_loss(interest, embedding, targets, dtype)

    return loss


def fused_unseen(length: int) -> Loss:
    """Each run of `length` targets is a user's, of items drawn at random; an event's own item is seen by the next."""

    def loss(interest: Tensor, embedding: Tensor, targets: Tensor, negatives: Negatives) -> Tensor:
        items = targets.roll(1).view(-1, length)
        seen = seen_items(items, torch.ones_like(items, dtype=torch.bool))
        return sampled_softmax_loss(interest, embedding, targets, negatives, BF16, seen=seen)

    return loss


SIDES: dict[str, Side] = {
    f"plain {FEW}": Side(plain_sampled, FEW),
    f"plain {MANY}": Side(plain_sampled, MANY),
    f"plain bf16 {FEW}": Side(plain_autocast, FEW),
    f"plain bf16 {MANY}": Side(plain_autocast, MANY),
    f"fused fp32 {FEW}": Side(fused_sampled(FP32), FEW),
    f"fused fp32 {MANY}": Side(fused_sampled(FP32), MANY),
    f"fused bf16 {FEW}": Side(fused_sampled(BF16), FEW),
    f"fused bf16 {MANY}": Side(fused_sampled(BF16), MANY),
    "plain full": Side(plain_full, FEW),
    "fused fp32 full": Side(fused_full(FP32), FEW),
    "fused bf16 full": Side(fused_full(BF16), FEW),
    **{f"unseen {length:,}": Side(fused_unseen(length), MANY) for length in HISTORIES},
}


class Step:
    """One batch of a trained model's sizes: interest of norm sqrt(D), embeddings of norm 1."""

    def __init__(self, width: int, num_items: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.interest = torch.randn(NUM_TARGETS, width, generator=generator).requires_grad_()
        embedding = torch.empty(num_items + 1, width).normal_(std=1 / math.sqrt(width), generator=generator)
        self.embedding = embedding.requires_grad_()
        self.targets = torch.randint(1, num_items + 1, (NUM_TARGETS,), generator=generator)
        self.negatives = {count: draw_uniform(num_items, count, generator) for count in (FEW, MANY)}

    def run(self, side: str) -> tuple[float, float]:
        """-> (milliseconds, loss of a target)."""
        loss, count = SIDES[side]
        self.interest.grad = self.embedding.grad = None
        started = time.perf_counter()
        value = loss(self.interest, self.embedding, self.targets, self.negatives[count])
        value.backward()
        return (time.perf_counter() - started) * 1e3, value.item() / NUM_TARGETS


def measure(width: int, repeats: int) -> dict[str, dict]:
    """Side -> its times, their median, and the loss."""
    step = Step(width, NUM_ITEMS)
    runs: dict[str, list[tuple[float, float]]] = {side: [] for side in SIDES}
    for repeat in range(repeats + 1):
        for side in SIDES:
            result = step.run(side)
            if repeat:  # the first warms up
                runs[side].append(result)
    found = {}
    for side, results in runs.items():
        times = [milliseconds for milliseconds, _ in results]
        found[side] = {
            "ms": times,
            "median_ms": statistics.median(times),
            "targets_s": NUM_TARGETS / statistics.median(times) * 1e3,
            "loss": results[0][1],
        }
    return found


def measure_kept(width: int, repeats: int) -> dict[str, dict]:
    """Figures of `measure`, with freed memory kept."""
    command = [sys.executable, __file__, "--repeats", str(repeats), "--of-width", str(width)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, dict] = json.loads(done.stdout)
    return found


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def run_many_items(side: str) -> None:
    """Print one side's time and the memory that it took beyond its batch and embedding, as JSON."""
    step = Step(WIDTHS[0], MANY_ITEMS)
    before = peak_bytes()
    times = [step.run(side)[0] for _ in range(3)]
    print(json.dumps({"ms": times, "median_ms": statistics.median(times), "bytes": peak_bytes() - before}))


def measure_many_items() -> dict[str, dict]:
    found = {}
    for side in (f"plain {MANY}", f"fused fp32 {MANY}", f"fused bf16 {MANY}"):
        command = [sys.executable, __file__, "--many-items", side]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found[side] = json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--many-items", metavar="SIDE", help="one side at ten million items; called by this script")
    parser.add_argument("--of-width", type=int, help="the sides at one width as JSON; called by this script")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.of_width:
        keep_freed_memory()
        print(json.dumps(measure(args.of_width, args.repeats)))
        return
    if args.many_items:
        run_many_items(args.many_items)
        return
    found = {f"{width}": measure(width, args.repeats) for width in WIDTHS}
    found |= {f"{width}, memory kept": measure_kept(width, args.repeats) for width in WIDTHS}
    many = measure_many_items()
    ratios = {}
    for width, sides in found.items():
        base = sides[f"plain {FEW}"]["median_ms"]
        print(f"D = {width}; {NUM_TARGETS:,} targets, {NUM_ITEMS:,} items")
        for side, figures in sides.items():
            print(
                f"  {side:<18}{figures['median_ms']:9.1f} ms  {figures['targets_s']:>10,.0f} targets/s"
                f"  {figures['median_ms'] / base:6.2f} of plain {FEW}   loss {figures['loss']:.4f}"
            )
        ratios[width] = {side: figures["median_ms"] / base for side, figures in sides.items()}
    print(f"D = {WIDTHS[0]}, {MANY_ITEMS:,} items: an embedding of {(MANY_ITEMS + 1) * WIDTHS[0] * 4 / 1e9:.2f} GB")
    for side, figures in many.items():
        print(f"  {side:<18}{figures['median_ms']:9.0f} ms  {figures['bytes'] / 1e9:6.2f} GB beyond it at the peak")
    ours, bf16 = f"fused bf16 {MANY}", f"plain bf16 {FEW}"
    checks = [
        check("loss_2048_vs_512_time", ratios["64"][ours], 1.0, "<="),
        check("loss_2048_vs_512_time_memory_kept", ratios["64, memory kept"][ours], 1.0, "<="),
        check("loss_2048_vs_512_time_bf16", ratios["64"][ours] / ratios["64"][bf16], 1.0, "<="),
        check(
            "loss_2048_vs_512_time_bf16_memory_kept",
            ratios["64, memory kept"][ours] / ratios["64, memory kept"][bf16],
            1.0,
            "<=",
        ),
        check("loss_2048_vs_512_time_d128", ratios["128"][ours], 1.0, "<="),
        *(check(f"loss_2048_unseen_{n}_vs_512_time", ratios["64"][f"unseen {n:,}"], 1.0, "<=") for n in HISTORIES),
        check(
            "loss_10m_items_bytes_vs_gradient",
            many[ours]["bytes"] / ((MANY_ITEMS + 1) * WIDTHS[0] * 4),
            1.1,
            "<=",
        ),
    ]
    print(write("loss", {"time": found, "many_items": many}, checks))


if __name__ == "__main__":
    main()
