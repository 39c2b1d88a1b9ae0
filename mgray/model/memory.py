"""Memory: scores that are looked up, not learned, beside a model's own.

    s(a) = s_model(a) + sum over kinds of  weight * log(1 + sum_g scale_g * sum_j k_g(j) * M[h_j, a])

`h_j` are the events of a history, `k_g` its kernels: how much an event weighs by its age, at several granularities.
Two kinds of memory differ in what an event brings to mind, M:

- pairs: what followed the item elsewhere. M[h, a] = log(1 + C[h, a] * V / PAIR_SCALE), C the pair table.
- repeats: the item itself. M is the identity.

The weights and scales are a few numbers, fitted to the validation part (mgray/train/memory_fit.py). The form is this
project's own; a sum of logarithms multiplies the model's odds, so that what is not remembered keeps its score, and only
the few remembered items of a history are touched.

Legend: `T` histories, `L` positions, `V` items (1..V; 0 is padding), `G` kernels, `n` last events of a history.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, assert_never

import numpy as np
import numpy.typing as npt
from scipy import sparse

from mgray.config.memory_kernel import Age, Elapsed, Kernel, parse
from mgray.config.model import MemoryKind
from mgray.data.inputs import Inputs
from mgray.data.pair_table import PairTable, log_ratios
from mgray.record import Record
from mgray.schema import PAD, OptionalColumn

PAIR_SCALE = 5_000.0  # between 1,000 and 20,000 the fit made up for any
LAST_EVENTS: dict[MemoryKind, int] = {
    "pairs": 50,
    "repeats": 500,
}  # that are looked up; an older one weighs next to nothing
LEAST_WEIGHT = 1e-30  # of an event, so that products stay above the smallest float32


def kernels_of(kind: MemoryKind, asked: Sequence[int | str]) -> tuple[int | str, ...]:
    """The kernels that a kind of memory has a use for: ages well within the events that it looks up."""
    found = [(kernel, parse(kernel)) for kernel in asked]
    fits = [given for given, kernel in found if not isinstance(kernel, Age) or kernel.events < LAST_EVENTS[kind]]
    return tuple(fits or asked[:1])


FloatArray = npt.NDArray[np.float32]


class KindNumbers(Record):
    """Numbers of one kind of memory."""

    kernels: tuple[int | str, ...]  # [G] as the config spells them
    weight: float
    scales: tuple[float, ...]  # [G]


class MemoryNumbers(Record):
    """Numbers of a memory, as a model folder keeps them, in units of the model's score."""

    kinds: dict[MemoryKind, KindNumbers]

    @property
    def label(self) -> str:
        """The kinds and their kernels, for a person: `pairs (2, 10)`."""
        return "; ".join(f"{kind} ({', '.join(map(str, fitted.kernels))})" for kind, fitted in self.kinds.items())


class Recalled(NamedTuple):
    """What one kernel of one kind adds to the score of an item."""

    kind: MemoryKind
    kernel: int | str
    score: float

    @property
    def label(self) -> str:
        return f"{self.kind}: {self.kernel}"


class Memory:
    """Looks up what histories bring to mind."""

    def __init__(self, numbers: MemoryNumbers, num_items: int, table: PairTable | None) -> None:
        """table: what `pairs` look up; None: there are none."""
        self.numbers, self.table = numbers, table
        kernels = {kind: fitted.kernels for kind, fitted in numbers.kinds.items()}
        self.lookup = Lookup(kernels, num_items, table)

    @property
    def columns(self) -> frozenset[OptionalColumn]:
        """The event columns that the kernels read."""
        return self.lookup.columns

    @property
    def num_events(self) -> int:
        """Last events of a history that are read."""
        return max((LAST_EVENTS[kind] for kind in self.numbers.kinds), default=0)

    def scores(self, inputs: Inputs) -> sparse.csr_matrix:
        """What memory adds to the scores, [T, V + 1] float32; nothing at padding. inputs: [T, L]."""
        total = None
        for kind, fitted in self.numbers.kinds.items():
            found = self.lookup.weighed(kind, inputs, fitted.scales)
            found.data = (fitted.weight * np.log1p(found.data)).astype(np.float32)
            total = found if total is None else total + found
        assert total is not None, "a memory has a kind at least"
        return total.tocsr()

    def explain(self, inputs: Inputs, item: int) -> list[Recalled]:
        """The parts of what memory adds to an item's score for one history: they add up to it. inputs: [1, L].

        A kernel's part of a logarithm is its share of the sum in it.
        """
        found = []
        for kind, fitted in self.numbers.kinds.items():
            each = self.lookup.each(kind, inputs)
            amounts = [scale * float(one[0, item]) for scale, one in zip(fitted.scales, each, strict=True)]
            whole = sum(amounts)
            added = fitted.weight * float(np.log1p(whole))
            found += [
                Recalled(kind, kernel, added * amount / whole if whole else 0.0)
                for kernel, amount in zip(fitted.kernels, amounts, strict=True)
            ]
        return found


class Lookup:
    """Sums over a history of kernel times memory, before any number is fitted."""

    def __init__(
        self, kernels: Mapping[MemoryKind, Sequence[int | str]], num_items: int, table: PairTable | None
    ) -> None:
        """kernels: of each kind that is looked up; table: what `pairs` look up, None: they are not."""
        self.kernels = {kind: [parse(kernel) for kernel in own] for kind, own in kernels.items()}
        self.size = num_items + 1
        self.pairs = None if table is None else log_ratios(table.csr(), PAIR_SCALE)

    @property
    def columns(self) -> frozenset[OptionalColumn]:
        reads_times = any(kernel.reads_times for own in self.kernels.values() for kernel in own)
        return frozenset({"times"} if reads_times else ())

    def each(self, kind: MemoryKind, inputs: Inputs) -> list[sparse.csr_matrix]:
        """Sum over each history of kernel times memory, one matrix [T, V + 1] a kernel. inputs: [T, L]."""
        return [self._product(kind, inputs, weights) for weights in self._weights(kind, inputs)]

    def weighed(self, kind: MemoryKind, inputs: Inputs, scales: Sequence[float]) -> sparse.csr_matrix:
        """The sum of `each`, weighed by the kernels' scales, [T, V + 1]: one product, however many kernels."""
        weights = self._weights(kind, inputs)
        return self._product(kind, inputs, np.einsum("g,gtn->tn", np.asarray(scales, np.float32), weights))

    def _weights(self, kind: MemoryKind, inputs: Inputs) -> FloatArray:
        """[G, T, n], 0 at padding."""
        last = LAST_EVENTS[kind]
        items = inputs.items[:, -last:].cpu().numpy()
        times = None if inputs.times is None else inputs.times[:, -last:].cpu().numpy()
        return np.stack([kernel_weights(kernel, items, times) for kernel in self.kernels[kind]])

    def _product(self, kind: MemoryKind, inputs: Inputs, weights: FloatArray) -> sparse.csr_matrix:
        """weights: [T, n] -> [T, V + 1]."""
        items = inputs.items[:, -weights.shape[1] :].cpu().numpy()
        real = items != PAD
        offsets = np.concatenate([[0], np.cumsum(real.sum(1))])
        held = sparse.csr_matrix((weights[real], items[real], offsets), (len(items), self.size))
        held.sum_duplicates()
        match kind:
            case "pairs":
                assert self.pairs is not None, "a memory of pairs has a table"
                return held @ self.pairs
            case "repeats":
                return held
            case _:
                assert_never(kind)


def kernel_weights(kernel: Kernel, items: npt.NDArray[np.int64], times: npt.NDArray[np.float64] | None) -> FloatArray:
    """How much each event weighs, [T, n]; 0 at padding. items, times: [T, n], padded on the left."""
    match kernel:
        case Age(events):
            weights = np.broadcast_to(np.exp(-np.arange(items.shape[1])[::-1] / events), items.shape)
        case Elapsed(seconds):
            assert times is not None, "what a kernel reads is in the inputs"
            weights = np.exp(-(times[:, -1:] - times) / seconds)
        case _:
            assert_never(kernel)
    return np.where(items == PAD, 0.0, np.maximum(weights, LEAST_WEIGHT)).astype(np.float32)
