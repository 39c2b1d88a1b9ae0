"""Fit of memory: the few numbers that join what is looked up with what is learned.

They maximize the likelihood of the validation part's next items, given the trained model: its score times a
temperature, and what memory adds (mgray/model/memory.py). The pairs that are looked up are of the training part alone,
so that no target of the fit has been counted. In the sum over the catalogue that a likelihood needs, what memory does
not touch is drawn: NUM_NEGATIVES items, weighed up to all.

Legend: `Q` queries, `G` kernels, `e` items that memory touches, over all queries, `N` negatives, `D` width.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch import Tensor, nn

from mgray.config import EvaluateConfig, ResolvedModelConfig, TrainConfig
from mgray.config.model import MemoryKind
from mgray.data.dataset import Dataset, Query
from mgray.data.padding import left_pad
from mgray.data.pair_table import Limits, count_pairs
from mgray.distributed import on_rank_0
from mgray.eval.ranking import score_batches
from mgray.model.memory import KindNumbers, Lookup, Memory, MemoryNumbers, kernels_of
from mgray.schema import PAD
from mgray.serve.scorer import ModelScorer

logger = logging.getLogger(__name__)

MAX_QUERIES = 4_000  # that the numbers are fitted to
MIN_QUERIES = 200  # fewer say too little
QUERIES_AT_ONCE = 500
MAX_TOUCHED = 2**21  # items that memory touches, over all queries; beyond, no more queries are added
NUM_NEGATIVES = 2_048
# A model folder holds the table, 8 bytes a pair: 256 MB at most.
TABLE_LIMITS = Limits(successors=256, pairs=2**25)
# With train.include_valid: share of the histories whose validation part is held out for the fit, but for more where
# that would be fewer than ENOUGH_QUERIES.
HELD_OUT, ENOUGH_QUERIES = 0.1, 400
RIDGE = 1e-4  # penalty on the squared numbers, so that one that nothing hangs on stays finite
MAX_STEPS = 40  # of L-BFGS
PRODUCTS_AT_ONCE = 2**16
FAR = -1e9  # a score that adds nothing to a sum of exponentials; minus infinity would make gradients NaN
LEAST_WEIGHT = 1e-3  # of a kind in the logarithm of the odds; below it the kind is left out


Kernels = Mapping[MemoryKind, tuple[int | str, ...]]  # of each kind of memory


class _Known(NamedTuple):
    """What is known of the queries before any number is: all of it constant in the fit."""

    targets: Tensor  # [Q] score of each target
    target_memory: dict[MemoryKind, Tensor]  # [Q, G]
    touched: Tensor  # [e] score of each item that memory touches, targets left out
    owner: Tensor  # [e] query of each
    memory: dict[MemoryKind, Tensor]  # [e, G]
    negatives: Tensor  # [Q, N] scores; FAR where the item is counted elsewhere, or may not be recommended
    log_weight: Tensor  # [Q] logarithm of how many items each negative stands for

    def of(self, chosen: Tensor) -> "_Known":
        """Some of the queries. chosen: [Q] bool."""
        keep = chosen[self.owner]
        number = torch.cumsum(chosen, 0) - 1
        return _Known(
            self.targets[chosen],
            {kind: values[chosen] for kind, values in self.target_memory.items()},
            self.touched[keep],
            number[self.owner[keep]],
            {kind: values[keep] for kind, values in self.memory.items()},
            self.negatives[chosen],
            self.log_weight[chosen],
        )


class _Numbers(nn.Module):
    """The numbers in the fit, each free: logarithms of what must be positive."""

    def __init__(self, kernels: Kernels) -> None:
        super().__init__()
        self.kinds = tuple(kernels)
        self.log_temperature = nn.Parameter(torch.zeros(()))
        self.weights = nn.ParameterDict({kind: nn.Parameter(torch.zeros(())) for kind in kernels})
        self.log_scales = nn.ParameterDict({kind: nn.Parameter(torch.zeros(len(own))) for kind, own in kernels.items()})

    def added(self, memory: dict[MemoryKind, Tensor]) -> Tensor | float:
        """What memory adds to the logarithm of the odds. memory: kind -> [..., G] -> [...]."""
        return sum(
            nn.functional.softplus(self.weights[kind]) * torch.log1p(memory[kind] @ self.log_scales[kind].exp())
            for kind in self.kinds
        )

    def losses(self, known: _Known) -> Tensor:
        """Negative log-likelihood of each target, [Q]."""
        scale = self.log_temperature.exp()
        target = known.targets * scale + self.added(known.target_memory)
        touched = known.touched * scale + self.added(known.memory)
        negatives = known.negatives * scale + known.log_weight[:, None]
        top = torch.maximum(target, negatives.amax(1)).detach().scatter_reduce(0, known.owner, touched.detach(), "amax")
        total = (target - top).exp() + (negatives - top[:, None]).exp().sum(1)
        total = total.index_add(0, known.owner, (touched - top[known.owner]).exp())
        return total.log() + top - target


def held_out_share(train: TrainConfig, model: ResolvedModelConfig, dataset: Dataset) -> float:
    """Share of the histories whose validation part is held out of the training for the fit, 0 to 0.5.

    It is none without train.include_valid, where no validation event trains, without memory, and where too few queries
    would be held out to fit to.
    """
    if not train.include_valid or not model.memory:
        return 0.0
    count = dataset.manifest.valid_events
    share = min(0.5, min(MAX_QUERIES, max(ENOUGH_QUERIES, HELD_OUT * count)) / max(1, count))
    return share if count * share > MIN_QUERIES else 0.0


def fit_on_rank_0(
    scorer: ModelScorer | None,
    dataset: Dataset,
    model: ResolvedModelConfig,
    config: EvaluateConfig,
    held_out: float = 0.0,
) -> Memory | None:
    """Count the pairs on all ranks, fit the numbers on rank 0. Collective: call it on every rank.

    scorer: by the model alone; held_out: by `held_out_share`, above 0 where the rest of the validation part has
    trained: its pairs are counted too, once the numbers are fitted. None: memory does not help.
    """
    assert scorer is not None, "a model with memory ranks"
    table = count_pairs(dataset, limits=TABLE_LIMITS) if "pairs" in model.memory else None
    kernels: Kernels = {kind: kernels_of(kind, model.memory_kernels) for kind in model.memory}
    lookup = Lookup(kernels, dataset.num_items, table)
    numbers = on_rank_0(lambda: fit_memory(scorer, dataset, lookup, kernels, config, held_out))
    if numbers is None:
        return None
    if "pairs" not in numbers.kinds:
        table = None
    elif held_out:
        table = count_pairs(dataset, include_valid=True, limits=TABLE_LIMITS)
    return Memory(numbers, dataset.num_items, table)


def fit_memory(
    scorer: ModelScorer,
    dataset: Dataset,
    lookup: Lookup,
    kernels: Kernels,
    config: EvaluateConfig,
    held_out: float = 0.0,
) -> MemoryNumbers | None:
    """Fit the numbers on a sample of the validation part -> numbers in units of the model's score.

    None: memory does not help, or there are fewer than MIN_QUERIES to tell. lookup: of the training part; scorer: by
    the model alone; held_out: as of `fit_on_rank_0`. A function of dataset and model, on whichever rank it runs.
    """
    columns = scorer.columns | lookup.columns
    if held_out:
        queries = dataset.queries("valid", columns, held_out=held_out)
    else:
        queries = dataset.queries("valid", columns, share=MAX_QUERIES / max(1, dataset.manifest.valid_events))
    known = _gather(scorer, list(queries), lookup, tuple(kernels), config)
    if known is None or len(known.targets) < MIN_QUERIES:
        return None
    # A kind that never brings a target to mind cannot help, and nothing would hold its numbers.
    kernels = {kind: own for kind, own in kernels.items() if bool(known.target_memory[kind].any())}
    halves = torch.arange(len(known.targets)) % 2 == 0
    gain = 0.0
    for half in (halves, ~halves):
        told = known.of(~half)
        plain, joined = (_fit(known.of(half), own) for own in ({}, kernels))
        with torch.no_grad():
            gain += float((plain.losses(told) - joined.losses(told)).sum())
    logger.info("memory: %.4f of log-likelihood a query gained on queries of neither fit", gain / len(known.targets))
    if not gain > 0:  # NaN of a fit that diverged is no gain
        return None
    return _in_units(_fit(known, kernels), kernels)


def _fit(known: _Known, kernels: Kernels) -> _Numbers:
    """The likeliest numbers. Without kernels it is the temperature alone."""
    numbers = _Numbers(kernels)
    optimizer = torch.optim.LBFGS(numbers.parameters(), max_iter=MAX_STEPS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        ridge = sum(parameter.square().sum() for parameter in numbers.parameters())
        loss = numbers.losses(known).mean() + RIDGE * ridge
        loss.backward()
        return loss

    optimizer.step(closure)
    return numbers


@torch.no_grad()
def _in_units(fitted: _Numbers, kernels: Kernels) -> MemoryNumbers | None:
    """Divide by the temperature, so that the model's own scores stay as they are."""
    scale = float(fitted.log_temperature.exp())
    found: dict[MemoryKind, KindNumbers] = {}
    for kind, own in kernels.items():
        weight = float(nn.functional.softplus(fitted.weights[kind]))
        if weight >= LEAST_WEIGHT and np.isfinite(weight / scale):
            scales = fitted.log_scales[kind].exp().tolist()
            found[kind] = KindNumbers(kernels=own, weight=weight / scale, scales=tuple(scales))
    return MemoryNumbers(kinds=found) if found else None


@torch.no_grad()
def _gather(
    scorer: ModelScorer, queries: Sequence[Query], lookup: Lookup, kinds: Sequence[MemoryKind], config: EvaluateConfig
) -> _Known | None:
    """Scores and memory of queries whose target can be ranked, as many as MAX_TOUCHED allows; None: there are none."""
    source = np.random.default_rng(0)
    negatives = source.permutation(scorer.model.num_items)[:NUM_NEGATIVES] + 1
    # Drawn, since the queries stand user by user.
    order = [query for place in source.permutation(len(queries)) if _is_usable(query := queries[place], config)]
    found: list[_Known] = []
    for begin in range(0, len(order), QUERIES_AT_ONCE):
        chunk = order[begin : begin + QUERIES_AT_ONCE]
        for batch in score_batches(chunk, config.batch_events, scorer.max_length):
            found.append(_gather_batch(scorer, batch, lookup, kinds, config.remove_seen, negatives))
        if sum(len(one.touched) for one in found) > MAX_TOUCHED:
            break
    if not found:
        return None
    first = np.cumsum([0, *(len(one.targets) for one in found)])
    return _Known(
        torch.cat([one.targets for one in found]),
        {kind: torch.cat([one.target_memory[kind] for one in found]) for kind in kinds},
        torch.cat([one.touched for one in found]),
        torch.cat([one.owner + int(begin) for one, begin in zip(found, first, strict=False)]),
        {kind: torch.cat([one.memory[kind] for one in found]) for kind in kinds},
        torch.cat([one.negatives for one in found]),
        torch.cat([one.log_weight for one in found]),
    )


def _is_usable(query: Query, config: EvaluateConfig) -> bool:
    """Whether the model can be asked, and could be right."""
    if query.target <= PAD or not len(query.history):
        return False
    return not config.remove_seen or query.target not in query.history.items


def _gather_batch(
    scorer: ModelScorer,
    queries: Sequence[Query],
    lookup: Lookup,
    kinds: Sequence[MemoryKind],
    remove_seen: bool,
    negatives: npt.NDArray[np.int64],
) -> _Known:
    model = scorer.model
    inputs = left_pad([query.history for query in queries], scorer.max_length, scorer.columns | lookup.columns)
    interest = scorer.learned_scores(inputs).interest.float()
    table = model.item_table()
    targets = np.asarray([query.target for query in queries])
    rows = np.arange(len(queries))
    each = {kind: lookup.each(kind, inputs) for kind in kinds}
    size = model.num_items + 1
    lengths = [len(query.history) for query in queries]
    had = np.concatenate([query.history.items for query in queries])
    seen = sparse.csr_matrix((np.ones(len(had), np.float32), had, np.cumsum([0, *lengths])), (len(queries), size))
    owner, items = _touched(each, seen if remove_seen else None, targets)
    touched = sparse.csr_matrix((np.ones(len(items), np.float32), (owner, items)), (len(queries), size))
    counted = touched + seen if remove_seen else touched
    counted = counted + sparse.csr_matrix((np.ones(len(rows), np.float32), (rows, targets)), counted.shape)
    is_counted = torch.from_numpy(counted[:, negatives].toarray() > 0)
    left = (~is_counted).sum(1)
    others = size - 1 - np.diff(counted.tocsr().indptr)
    drawn = interest @ table[torch.from_numpy(negatives).to(interest.device)].T
    ids = torch.from_numpy(items).to(interest.device)
    return _Known(
        (interest * table[torch.from_numpy(targets).to(interest.device)]).sum(1).cpu(),
        {kind: _values(own, rows, targets) for kind, own in each.items()},
        _products(interest, table, torch.from_numpy(owner).to(interest.device), ids).cpu(),
        torch.from_numpy(owner),
        {kind: _values(own, owner, items) for kind, own in each.items()},
        drawn.cpu().masked_fill(is_counted, FAR),
        torch.log(torch.from_numpy(np.maximum(others, 1)).float() / left.clamp(min=1)),
    )


def _touched(
    each: dict[MemoryKind, list[sparse.csr_matrix]], seen: sparse.csr_matrix | None, targets: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(query, item) of what memory touches and may be recommended, targets left out, [e] each."""
    pattern = sum(matrix for own in each.values() for matrix in own).tocsr()
    pattern.data[:] = 1.0
    if seen is not None:
        pattern = pattern - pattern.multiply(seen > 0)
    pattern = pattern.tocoo()
    keep = (pattern.data > 0) & (pattern.col != targets[pattern.row])
    return pattern.row[keep].astype(np.int64), pattern.col[keep].astype(np.int64)


def _values(each: Sequence[sparse.csr_matrix], rows: npt.NDArray[np.int64], items: npt.NDArray[np.int64]) -> Tensor:
    """Memory of (query, item) pairs, [e, G]."""
    for matrix in each:
        matrix.sort_indices()  # else each pair is a scan of its row
    columns = [np.asarray(matrix[rows, items], np.float32).ravel() for matrix in each]
    return torch.from_numpy(np.stack(columns, 1)) if len(rows) else torch.zeros(0, len(each))


def _products(interest: Tensor, table: Tensor, owner: Tensor, items: Tensor) -> Tensor:
    """Score of (query, item) pairs, [e], some at a time: nothing here is as large as [e, D]."""
    found = torch.empty(len(items), device=interest.device)
    for begin in range(0, len(items), PRODUCTS_AT_ONCE):
        chosen = slice(begin, begin + PRODUCTS_AT_ONCE)
        found[chosen] = (interest[owner[chosen]] * table[items[chosen]]).sum(1)
    return found
