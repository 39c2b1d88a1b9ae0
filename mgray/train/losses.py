"""Losses of next-item prediction, each a sum over targets: the caller divides by the count of the global batch.

Legend: `T` targets, `D` width, `V` items (1..V; 0 is padding), `N` negatives, `C` candidates (N, or V for softmax).

Each is one fused step: since the result is a scalar sum, the gradient is known in the forward pass, so logits are
made, used and dropped a chunk at a time. No [T, V] or [T, N] tensor exists. The memory of a loss is a chunk
(CHUNK_LOGITS logits, and at most 40 bytes for each that is of a seen item), a copy of the candidates in the product's
dtype, their gradient [C, D] in fp32, six tensors of [T, D], and the embedding's dense gradient [V + 1, D], before which
an int64 an item is needed and gone: at ten million items, D = 64 and 2,048 negatives 2.6 GB, of which all but 30 MB is
that gradient; for the full softmax twice that.

What makes it fast on a CPU: a chunk stays in cache; exp2, which takes a third of exp's time there, on logits whose
factor log2(e) is in the interest; no row's maximum is looked for where the norms bound every logit; the softmax is
normalized on [rows, D], not on [rows, C]; bf16 products, where `dtype` says so, double the rate of fp32 and halve the
bytes of a logit.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mgray.schema import PAD
from mgray.train.negatives import Negatives, Seen

CHUNK_LOGITS = {"cpu": 2**20, "cuda": 2**26}  # logits held at once: 2 MiB of bf16 fit a core's caches; a GPU is filled
MAX_COLUMNS = 2**14  # more candidates are taken in blocks, at the price of a fourth product
SAFE_BITS = 80.0  # exp2 of logits up to this stays within fp32 (2^127) when summed over any catalogue
LOG2_E = 1 / math.log(2)


class _Gradients(NamedTuple):
    total: Tensor  # [], the loss
    interest: Tensor  # [T, D] float32
    own: Tensor  # [T, D] float32, of the targets' embeddings
    candidates: Tensor  # [C, D] float32; with rows None [V + 1, D]
    rows: Tensor | None  # [C] int64, the candidates' rows in the embedding; None: all


class _Fused(torch.autograd.Function):
    """A scalar whose gradients were made with it."""

    @staticmethod
    def forward(
        ctx: Any, interest: Tensor, embedding: Tensor, targets: Tensor, compute: Callable[[Tensor, Tensor], _Gradients]
    ) -> Tensor:
        # Products run in the dtype that the loss was asked for, not in that of a surrounding autocast.
        with torch.autocast(interest.device.type, enabled=False):
            made = compute(interest.float(), embedding)
        ctx.save_for_backward(made.interest, made.own, made.candidates, made.rows, targets)
        ctx.dtypes, ctx.num_rows = (interest.dtype, embedding.dtype), len(embedding)
        return made.total.float()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        interest, own, candidates, rows, targets = ctx.saved_tensors
        interest_dtype, embedding_dtype = ctx.dtypes
        scale = grads[0]
        if rows is None:
            table = scale * candidates
        else:
            table = candidates.new_zeros(ctx.num_rows, candidates.shape[1])
            table.index_add_(0, rows, scale * candidates)
        table.index_add_(0, targets, scale * own)
        return (scale * interest).to(interest_dtype), table.to(embedding_dtype), None, None


def _slices(length: int, size: int) -> list[slice]:
    return [slice(begin, min(begin + size, length)) for begin in range(0, length, size)]


class _Candidates:
    """The C items that all targets are scored against, in blocks of at most MAX_COLUMNS."""

    def __init__(
        self,
        embedding: Tensor,
        targets: Tensor,
        negatives: Negatives | None,
        dtype: torch.dtype,
        seen: Seen | None = None,
    ) -> None:
        self.dtype, self.seen = dtype, seen
        if negatives is None:
            self.rows, self.table, self.weight, ratio = None, embedding[PAD + 1 :], 1.0, None
            self.column = targets - 1  # [T] the candidate that is the target, or -1
            self.seen_column = None if seen is None else seen.items - 1
            self.gradient = torch.zeros_like(embedding, dtype=torch.float32)
            self.table_gradient = self.gradient[PAD + 1 :]
        else:
            self.rows, self.table = negatives.items, embedding.index_select(0, negatives.items)
            self.weight, ratio = negatives.weight, negatives.log_ratio
            column_of = negatives.columns(len(embedding) - 1)
            self.column = column_of[targets]
            self.seen_column = None if seen is None else column_of[seen.items]
            self.gradient = self.table_gradient = torch.zeros_like(self.table, dtype=torch.float32)
        self.bits = None if ratio is None else ratio * LOG2_E  # [C] log2 of each one's weight over `weight`
        self.blocks = _slices(len(self.table), MAX_COLUMNS)
        if len(self.blocks) == 1:
            self.table = self.table.to(dtype)

    @property
    def num_rows(self) -> int:
        """Targets whose logits are held at once."""
        columns = min(len(self.table), MAX_COLUMNS)
        return max(1, CHUNK_LOGITS.get(self.table.device.type, 2**24) // columns)

    def buffer(self, num_targets: int) -> Tensor:
        """Room for a chunk's logits, flat: made once, since a chunk's worth of new pages costs as much as its exp2."""
        size = min(num_targets, self.num_rows) * min(len(self.table), MAX_COLUMNS)
        return torch.empty(size, dtype=self.dtype, device=self.table.device)

    def block(self, block: slice) -> Tensor:
        return self.table[block].to(self.dtype)

    def logits(self, interest: Tensor, rows: slice, block: slice, buffer: Tensor) -> Tensor:
        """interest: [rows, D] in the products' dtype -> [rows, block], in `buffer`; minus infinity where a candidate is
        the row's own target, which is counted already, or was seen by then.
        """
        table, width = self.block(block).T, block.stop - block.start
        out = buffer[: len(interest) * width].view(-1, width)
        bias = None if self.bits is None else self.bits[block].to(self.dtype)
        column = self.column[rows] - block.start
        is_hit = ((column >= 0) & (column < width)).nonzero()[:, 0]
        places = [is_hit * width + column[is_hit]]
        if self.seen is not None and self.seen_column is not None:
            part = self.seen.within(self.seen_column, rows, block)
            places.append(part.places)
            if len(part.columns):
                bias = torch.zeros(width, dtype=self.dtype, device=out.device) if bias is None else bias
                bias = bias.index_fill(0, part.columns, -torch.inf)
        if bias is None:
            torch.mm(interest, table, out=out)
        else:
            torch.addmm(bias, interest, table, out=out)
        # Before a maximum is looked for: what is left out may be far above all else.
        out.view(-1).index_fill_(0, torch.cat(places), -torch.inf)
        return out


def _cross_entropy(interest: Tensor, embedding: Tensor, targets: Tensor, candidates: _Candidates) -> _Gradients:
    """Cross-entropy of each target against candidates for all items. Logits are in bits, so that exp2 serves."""
    own = embedding.index_select(0, targets).float()
    bits = interest * LOG2_E
    # The weight that all candidates share is put on the other side: the target is one of so many.
    positive = (bits * own).sum(1) - math.log2(candidates.weight)
    bounded = _is_bounded(bits, positive, candidates)
    scaled = bits.to(candidates.dtype)
    total = interest.new_zeros((), dtype=torch.float64)
    grad_interest, grad_own = torch.empty_like(interest), torch.empty_like(own)
    buffer = candidates.buffer(len(interest))

    def powers(logit: Tensor, highest: Tensor) -> Tensor:
        return logit.exp2_() if bounded else (logit.float() - highest[:, None]).exp2_().to(candidates.dtype)

    for rows in _slices(len(interest), candidates.num_rows):
        part, first = scaled[rows], positive[rows]
        highest = torch.zeros_like(first) if bounded else first
        mass, pulled = (first - highest).exp2(), torch.zeros_like(interest[rows])
        for block in candidates.blocks:
            logit = candidates.logits(part, rows, block, buffer)
            if not bounded:
                # One pass over the blocks: what was summed so far fades as a higher logit is found.
                before, highest = highest, torch.maximum(highest, logit.amax(1).float())
                fade = (before - highest).exp2()
                mass, pulled = mass * fade, pulled * fade[:, None]
            weights = powers(logit, highest)
            mass += weights.sum(1)
            pulled += weights @ candidates.block(block)
        total += (mass.log2() + highest - first).sum(dtype=torch.float64)
        residual = ((first - highest).exp2() / mass - 1)[:, None]
        grad_interest[rows] = pulled / mass[:, None] + residual * own[rows]
        grad_own[rows] = residual * interest[rows]
        share = (interest[rows] / mass[:, None]).to(candidates.dtype)
        for block in candidates.blocks:
            if len(candidates.blocks) > 1:
                weights = powers(candidates.logits(part, rows, block, buffer), highest)
            candidates.table_gradient[block] += weights.T @ share
    return _Gradients(total / LOG2_E, grad_interest, grad_own, candidates.gradient, candidates.rows)


def _is_bounded(bits: Tensor, positive: Tensor, candidates: _Candidates) -> bool:
    """Whether no logit can overflow exp2: the targets' own are known, the candidates' bounded by their norms
    (Cauchy-Schwarz). On a GPU the answer would cost more than it saves.
    """
    if bits.device.type != "cpu" or not len(bits) or float(positive.abs().max()) > SAFE_BITS:
        return False
    ratio = 0.0 if candidates.bits is None else float(candidates.bits.max())
    largest = max(float(candidates.block(block).norm(dim=1).max()) for block in candidates.blocks)
    return float(bits.norm(dim=1).max()) * largest + max(0.0, ratio) <= SAFE_BITS


def _binary_cross_entropy(
    interest: Tensor, embedding: Tensor, targets: Tensor, candidates: _Candidates, power: float
) -> _Gradients:
    """-log sigmoid(score)^power of the target, -log(1 - sigmoid(score)) of each negative, over (N + 1)."""
    own = embedding.index_select(0, targets).float()
    positive = (interest * own).sum(1)
    total = -power * F.logsigmoid(positive).sum(dtype=torch.float64)
    residual = (-power * torch.sigmoid(-positive))[:, None]
    grad_interest, grad_own = residual * own, residual * interest
    scaled, buffer = interest.to(candidates.dtype), candidates.buffer(len(interest))
    for rows in _slices(len(interest), candidates.num_rows):
        for block in candidates.blocks:
            logits = candidates.logits(scaled[rows], rows, block, buffer).float()
            total += F.softplus(logits).sum(dtype=torch.float64)
            weights = logits.sigmoid_().to(candidates.dtype)
            grad_interest[rows] += weights @ candidates.block(block)
            candidates.table_gradient[block] += weights.T @ scaled[rows]
    share = 1 / (len(candidates.table) + 1)
    return _Gradients(
        total * share, grad_interest * share, grad_own * share, candidates.gradient * share, candidates.rows
    )


def _smoothed(
    loss: Tensor, interest: Tensor, embedding: Tensor, targets: Tensor, negatives: Negatives | None, share: float
) -> Tensor:
    """`loss` with `share` of each target's probability spread evenly over the target and its negatives.

    Cross-entropy is linear in the target distribution, so smoothing adds share * (target's score - mean score), and a
    sum of scores is the score of a sum: no [T, C] tensor here either.
    """
    interest = interest.float()
    own = (interest * embedding.index_select(0, targets)).sum(1)
    if negatives is None:
        mean = interest @ embedding[PAD + 1 :].mean(0)
    else:
        hit = torch.zeros(len(embedding), device=embedding.device).index_fill_(0, negatives.items, 1)[targets]
        total = interest @ embedding.index_select(0, negatives.items).sum(0) + (1 - hit) * own
        mean = total / (len(negatives.items) + 1 - hit)
    return loss + share * (own - mean).sum()


def softmax_loss(
    interest: Tensor,
    embedding: Tensor,
    targets: Tensor,
    dtype: torch.dtype = torch.float32,
    label_smoothing: float = 0.0,
    seen: Seen | None = None,
) -> Tensor:
    """Sum of the cross-entropy over all V items, but for what was seen.

    interest: [T, D], embedding: [V + 1, D], targets: [T] int64 in 1..V, dtype: of the matrix products,
    label_smoothing: share of the target's probability that is spread over all items, not together with `seen`; seen:
    items that are left out of some targets' softmax -> [] float32.
    """
    return _softmax(interest, embedding, targets, None, dtype, label_smoothing, seen)


def sampled_softmax_loss(
    interest: Tensor,
    embedding: Tensor,
    targets: Tensor,
    negatives: Negatives,
    dtype: torch.dtype = torch.float32,
    label_smoothing: float = 0.0,
    seen: Seen | None = None,
) -> Tensor:
    """Sum of the cross-entropy over the target and N distinct negatives, shared by all targets.

    interest: [T, D], embedding: [V + 1, D], targets: [T] int64 in 1..V, dtype: of the matrix products,
    label_smoothing: share of the target's probability that is spread over the candidates, not together with `seen`;
    seen: items that are no negatives of some targets -> [] float32. Each negative counts as often as the items that it
    stands for (log-Q correction, Bengio & Senecal 2008), and one that is the target itself, or was seen, is masked:
    with every item drawn, the loss is the full softmax.
    """
    return _softmax(interest, embedding, targets, negatives, dtype, label_smoothing, seen)


def _softmax(
    interest: Tensor,
    embedding: Tensor,
    targets: Tensor,
    negatives: Negatives | None,
    dtype: torch.dtype,
    label_smoothing: float,
    seen: Seen | None,
) -> Tensor:
    # The mean score that smoothing asks for is of all candidates: without a bound where some are left out.
    assert seen is None or label_smoothing == 0, "the config has one of them"

    def compute(interest: Tensor, embedding: Tensor) -> _Gradients:
        return _cross_entropy(interest, embedding, targets, _Candidates(embedding, targets, negatives, dtype, seen))

    loss: Tensor = _Fused.apply(interest, embedding, targets, compute)  # type: ignore[no-untyped-call]
    if label_smoothing == 0:
        return loss
    return _smoothed(loss, interest, embedding, targets, negatives, label_smoothing)


def gbce_loss(
    interest: Tensor,
    embedding: Tensor,
    targets: Tensor,
    negatives: Negatives,
    calibration: float,
    dtype: torch.dtype = torch.float32,
    seen: Seen | None = None,
) -> Tensor:
    """Sum of the generalized binary cross-entropy of gSASRec (Petrov & Macdonald 2023, arXiv 2308.07192), over N + 1.

    interest: [T, D], embedding: [V + 1, D], targets: [T] int64 in 1..V, negatives: N drawn uniformly, dtype: of the
    matrix products, seen: items that are no negatives of some targets -> [] float32. calibration: the paper's t; the
    target's probability is raised to 1 - t (1 - N / (V - 1)), so t = 0 is the plain BCE and t = 1 undoes the
    overconfidence that sampling causes. Unlike there, a batch's targets share their negatives, and one that is the
    target itself, or was seen, is masked.
    """
    num_items = round(negatives.weight * len(negatives.items))  # that they stand for: `embedding` may be a part
    rate = min(1.0, len(negatives.items) / max(1, num_items - 1))
    power = 1 - calibration * (1 - rate)

    def compute(interest: Tensor, embedding: Tensor) -> _Gradients:
        candidates = _Candidates(embedding, targets, negatives, dtype, seen)
        return _binary_cross_entropy(interest, embedding, targets, candidates, power)

    loss: Tensor = _Fused.apply(interest, embedding, targets, compute)  # type: ignore[no-untyped-call]
    return loss
