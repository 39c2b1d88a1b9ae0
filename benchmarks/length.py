"""How the cost of a position grows with the length of a history: MG-DSC beside a 2-layer Transformer of equal width.

    python benchmarks/length.py            # about 3 minutes on one core; a GPU where there is one

Each round takes one forward and backward pass of every model at every length, with as many histories as fill
POSITIONS positions, so that only the length differs; the figure is the median of the rounds. Weights, dropout and
embedding of both are of the same size; no loss over the catalogue, which costs both the same.

The Transformer is the causal pre-norm one of SASRec-like models, its attention PyTorch's fused kernel
(`scaled_dot_product_attention`, is_causal), which on a GPU is FlashAttention.

Check: `length_growth`, MG-DSC's time per position at 8,000 events over that at 200.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _results import check, write
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parent.parent))

from mgray.config import ResolvedModelConfig
from mgray.data.inputs import Inputs
from mgray.model.layers import Dropout
from mgray.model.mgdsc import MGDSC
from mgray.train.objective import autocast, resolve_precision

NUM_ITEMS = 3_416  # MovieLens-1M
LENGTHS = (200, 1_000, 4_000, 8_000)
POSITIONS = 8_000
DEFAULT = ResolvedModelConfig(norm="layer", dropout=0.25)  # as by a million training events
GRANULARITIES: dict[str, tuple[int | str, ...]] = {
    "mgdsc with strides": (1, 4, 16),
    "mgdsc with decay": (1, 4, "decay:4..400"),
    "mgdsc with time spans": (1, "session:30m", "7d"),
}
MODELS = {"mgdsc": DEFAULT} | {
    name: DEFAULT.model_copy(update={"granularities": levels}) for name, levels in GRANULARITIES.items()
}
EVENT_GAP_S = 3600.0


class TransformerLayer(nn.Module):
    def __init__(self, config: ResolvedModelConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.attention_norm, self.feedforward_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, L, D] -> [B, L, D]."""
        query, key, value = self.qkv(self.attention_norm(x)).unflatten(-1, (3, self.heads, -1)).unbind(2)
        attended = F.scaled_dot_product_attention(
            query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), is_causal=True
        )
        x = x + self.dropout(self.out(attended.transpose(1, 2).flatten(2)))
        return x + self.dropout(self.down(F.gelu(self.up(self.feedforward_norm(x)))))


class Transformer(nn.Module):
    def __init__(self, config: ResolvedModelConfig, num_items: int, max_length: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_items + 1, config.width, padding_idx=0)
        self.position = nn.Embedding(max_length, config.width)
        self.layers = nn.Sequential(TransformerLayer(config), TransformerLayer(config))
        self.norm = nn.LayerNorm(config.width)
        self.dropout = Dropout(config.dropout)

    def forward(self, inputs: Inputs) -> Tensor:
        length = inputs.items.shape[1]
        return self.norm(self.layers(self.dropout(self.embedding(inputs.items) + self.position.weight[:length])))


def make_batch(length: int, device: torch.device) -> Inputs:
    source = torch.Generator().manual_seed(length)
    shape = (POSITIONS // length, length)
    gaps = torch.empty(shape, dtype=torch.float64).exponential_(1 / EVENT_GAP_S, generator=source)
    items = torch.randint(1, NUM_ITEMS + 1, shape, generator=source)
    return Inputs(items, 1.7e9 + gaps.cumsum(1)).map(lambda column: column.to(device))


def seconds_of(step: Callable[[], None], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def training_pass(model: nn.Module, inputs: Inputs, device: torch.device, dtype: torch.dtype) -> None:
    model.zero_grad(set_to_none=True)
    with autocast(device, dtype):
        interest = model(inputs)
    interest.float().square().mean().backward()


def measure(device: torch.device, rounds: int) -> dict[str, dict[int, list[float]]]:
    """Model -> length -> microseconds a position of every round."""
    dtype = resolve_precision("auto", device)
    models: dict[str, nn.Module] = {name: MGDSC(config, NUM_ITEMS) for name, config in MODELS.items()}
    models["transformer"] = Transformer(DEFAULT, NUM_ITEMS, max(LENGTHS))
    for model in models.values():
        model.to(device).train()
    batches = {length: make_batch(length, device) for length in LENGTHS}
    figures: dict[str, dict[int, list[float]]] = {name: {length: [] for length in LENGTHS} for name in models}
    for round_ in range(-1, rounds):  # the first one warms up
        for length, inputs in batches.items():
            for name, model in models.items():
                seconds = seconds_of(lambda: training_pass(model, inputs, device, dtype), device)  # noqa: B023
                if round_ >= 0:
                    figures[name][length].append(seconds / inputs.items.numel() * 1e6)
    return figures


def speed_up(medians: dict[str, dict[int, float]]) -> dict[int, float]:
    """Length -> the Transformer's time a position over MG-DSC's."""
    return {length: medians["transformer"][length] / medians["mgdsc"][length] for length in LENGTHS}


def print_table(medians: dict[str, dict[int, float]]) -> None:
    print(
        f"{'microseconds a position':<24}" + "".join(f"{f'L={length:,}':>10}" for length in LENGTHS) + f"{'growth':>9}"
    )
    for name, by_length in medians.items():
        cells = "".join(f"{by_length[length]:>10.2f}" for length in LENGTHS)
        print(f"{name:<24}{cells}{by_length[LENGTHS[-1]] / by_length[LENGTHS[0]]:>9.2f}")
    print(f"{'transformer over mgdsc':<24}" + "".join(f"{ratio:>10.2f}" for ratio in speed_up(medians).values()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="timed passes of every model at every length [5]")
    parser.add_argument("--threads", type=int, default=1, help="torch threads on a CPU [1]")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(arguments.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    figures = measure(device, arguments.rounds)
    medians = {
        name: {length: statistics.median(runs) for length, runs in by_length.items()}
        for name, by_length in figures.items()
    }
    print_table(medians)
    raw: dict[str, Any] = {
        "device": str(device),
        "precision": str(resolve_precision("auto", device)),
        "threads": arguments.threads,
        "positions_a_pass": POSITIONS,
        "models": {name: config.model_dump(mode="json") for name, config in MODELS.items()},
        "microseconds_a_position": figures,
        "transformer_over_mgdsc": speed_up(medians),
        "growth": {name: by_length[LENGTHS[-1]] / by_length[LENGTHS[0]] for name, by_length in medians.items()},
    }
    suffix = torch.cuda.get_device_name().lower().replace(" ", "-") if device.type == "cuda" else ""
    growth = raw["growth"]["mgdsc"]
    write(f"length-{suffix}" if suffix else "length", raw, [check("length_growth", growth, 1.3, "<=")])
    return 0


if __name__ == "__main__":
    sys.exit(main())
