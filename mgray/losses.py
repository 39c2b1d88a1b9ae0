"""Losses of next-item prediction, each a sum over targets: the caller divides by the count of the global batch.

Legend: `T` targets, `D` width, `V` items (1..V; 0 is padding), `N` negatives.

Both are one fused step: since the result is a scalar sum, the gradient is known in the forward pass, so logits are
made, used and dropped a few rows at a time. No [T, V] or [T, N] tensor exists, and on a CPU the rows stay in cache.
"""

import math
from typing import Any

import torch
from torch import Tensor

from mgray.schema import PAD

CHUNK_LOGITS = {"cpu": 2**18, "cuda": 2**26}  # logits held at once: 1 MiB fits a core's cache; 256 MiB fills a GPU


class _CandidateCrossEntropy(torch.autograd.Function):
    """Sum over T of the cross-entropy of each target against C candidates that all targets share.

    `own` [T, D] is the target's embedding where it is no candidate of its own (sampled softmax), or None where every
    item is a candidate (full softmax). `column` [T] is the candidate that is the target, or -1: with `own` it is
    masked as an accidental hit, without it is the positive.
    """

    @staticmethod
    def forward(
        ctx: Any,
        interest: Tensor,
        candidates: Tensor,
        own: Tensor | None,
        column: Tensor,
        bonus: float,
        dtype: torch.dtype,
    ) -> Tensor:
        table = candidates.to(dtype)
        # The logits' matrix products run in `dtype`; sums and exponentials in fp32.
        rows = max(1, CHUNK_LOGITS.get(interest.device.type, 2**24) // len(candidates))
        total = interest.new_zeros((), dtype=torch.float64)
        grad_interest = torch.empty_like(interest, dtype=torch.float32)
        grad_table = torch.zeros_like(candidates, dtype=torch.float32)
        grad_own = torch.empty_like(own, dtype=torch.float32) if own is not None else None
        for begin in range(0, len(interest), rows):
            part = interest[begin : begin + rows].to(dtype)
            hit = column[begin : begin + rows]
            logits = (part @ table.T).float()
            if own is None:
                positive = logits.gather(1, hit[:, None])[:, 0]
                highest = logits.amax(1)
                weights = logits.sub_(highest[:, None]).exp_()
                mass = weights.sum(1)
            else:
                own_part = own[begin : begin + rows].float()
                positive = (part.float() * own_part).sum(1)
                if bonus:
                    logits += bonus
                masked = (hit >= 0).nonzero()[:, 0]
                logits[masked, hit[masked]] = -torch.inf
                highest = torch.maximum(logits.amax(1), positive)
                weights = logits.sub_(highest[:, None]).exp_()
                own_weight = (positive - highest).exp()
                mass = weights.sum(1) + own_weight
            total += (mass.log() + highest - positive).sum(dtype=torch.float64)
            weights.div_(mass[:, None])
            if own is None:
                weights[torch.arange(len(hit), device=hit.device), hit] -= 1
                grad = weights.to(dtype)
                grad_interest[begin : begin + rows] = grad @ table
            else:
                assert grad_own is not None
                residual = (own_weight / mass - 1)[:, None]
                grad = weights.to(dtype)
                grad_interest[begin : begin + rows] = (grad @ table).float() + residual * own_part
                grad_own[begin : begin + rows] = residual * part.float()
            grad_table += grad.T @ part
        ctx.save_for_backward(grad_interest, grad_table, grad_own)
        ctx.dtypes = (interest.dtype, candidates.dtype)
        return total.float()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_interest, grad_table, grad_own = ctx.saved_tensors
        interest_dtype, table_dtype = ctx.dtypes
        scale = grads[0]
        return (
            (scale * grad_interest).to(interest_dtype),
            (scale * grad_table).to(table_dtype),
            None if grad_own is None else (scale * grad_own).to(table_dtype),
            None,
            None,
            None,
        )


def softmax_loss(interest: Tensor, embedding: Tensor, targets: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Sum of the cross-entropy over all V items.

    interest: [T, D], embedding: [V + 1, D], targets: [T] int64 in 1..V, dtype: of the matrix products -> [] float32.
    """
    result: Tensor = _CandidateCrossEntropy.apply(interest, embedding[PAD + 1 :], None, targets - 1, 0.0, dtype)
    return result


def sampled_softmax_loss(
    interest: Tensor, embedding: Tensor, targets: Tensor, negatives: Tensor, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Sum of the cross-entropy over the target and N distinct negatives, shared by all targets.

    interest: [T, D], embedding: [V + 1, D], targets: [T] int64 in 1..V, negatives: [N] int64, distinct, drawn
    uniformly from 1..V, dtype: of the matrix products -> [] float32. Each negative stands for V / N items (the log-Q
    correction of Bengio & Senecal 2008 for a uniform Q), and one that is the target itself is masked: with every
    item drawn, the loss is the full softmax.
    """
    num_items = len(embedding) - 1
    column_of = torch.full((num_items + 1,), -1, dtype=torch.int64, device=targets.device)
    column_of[negatives] = torch.arange(len(negatives), device=targets.device)
    result: Tensor = _CandidateCrossEntropy.apply(
        interest,
        embedding[negatives],
        embedding[targets],
        column_of[targets],
        math.log(num_items / len(negatives)),
        dtype,
    )
    return result


def draw_negatives(num_items: int, num_negatives: int, generator: torch.Generator) -> Tensor:
    """At most N distinct item numbers in 1..V, int64, uniform; every item where N >= V."""
    if num_negatives >= num_items:
        return torch.arange(1, num_items + 1)
    if num_items <= 16 * num_negatives:
        return torch.randperm(num_items, generator=generator)[:num_negatives] + 1
    # Among many items a repeat is rare, and a permutation of all of them dear.
    return torch.randint(1, num_items + 1, (num_negatives,), generator=generator).unique()
