"""The item table: item vectors that a step reads and writes only where its events and negatives are.

Legend: `V` items (1..V; 0 is padding), `U` rows that a step touches, `W` width of a row.

A step gathers its rows into small tables `[U, W]`, runs model and loss on these with items renumbered 0..U - 1, and
puts the updated rows back: its time does not grow with V. AdamW moves the rows that a step does not touch too, so a row
first catches up (mgray.train.missed_steps); the result is dense AdamW's up to rounding.

The weights of the tables are taken out of autograd, and so out of the optimizer and of DDP's buckets, which still gives
rank 0's to the other ranks at the start. Every rank knows the items of the global batch, so all have the same rows, and
one all-reduce of [U, W] serves.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim.adamw import adamw

from mgray.config import ResolvedTrainConfig
from mgray.data.feed import Batch
from mgray.distributed import rank_and_world
from mgray.model.ensemble import Model
from mgray.schema import PAD
from mgray.train.missed_steps import IntArray, MissedSteps, catch_up_
from mgray.train.negatives import Negatives, max_drawn
from mgray.train.optim import ADAM_EPS, BETAS

# Rows of the table for each row of a step, beyond which a step by rows is faster. One thread of CPU was level between 4
# (batches of 4,096 events) and 12 (of 1,024); ranks, which all-reduce what is dense, gain earlier.
DENSE_ROWS = 8
BLOCK_ROWS = 2**14  # that catch up at once: their temporaries are some 20 MB at width 64


def item_weights(model: Model) -> Iterator[tuple[str, nn.Parameter]]:
    """The weights [V + 1, W] that have a row for each item, by their name in the model."""
    tables = {id(member.embedding.weight) for member in model.members}
    tables |= {id(member.rating_head.table.weight) for member in model.members if member.rating_head is not None}
    return ((name, weight) for name, weight in model.named_parameters() if id(weight) in tables)


def is_by_rows(config: ResolvedTrainConfig, num_items: int, *, ranks_items: bool) -> bool:
    """Whether a training reads and writes rows of the item table, not the whole.

    ranks_items: the model recommends, so a step draws negatives. The whole table is taken where a step reads all of it
    anyway (full softmax; an average of the weights), where it is small, and where weight decay would turn the weights'
    sign, which no closed form follows.
    """
    reads_all = (ranks_items and config.loss == "softmax") or config.ema_decay is not None
    if reads_all or config.learning_rate * config.weight_decay >= 1:
        return False
    touched = config.global_batch_events + (max_drawn(config) if ranks_items else 0)
    return num_items > DENSE_ROWS * touched


def take_out_tables_(model: Model, config: ResolvedTrainConfig) -> None:
    """Take the item tables out of autograd where training is by rows. Call it before DDP and optimizer are made."""
    if is_by_rows(config, model.num_items, ranks_items=model.config.outputs != "rating"):
        for _, weight in item_weights(model):
            weight.requires_grad_(False)


@dataclass
class _Table:
    weight: Tensor  # [V + 1, W]
    first: Tensor  # [V + 1, W] AdamW's moments
    second: Tensor


@dataclass
class _Rows:
    """A table's rows of one step."""

    weight: Tensor  # [U, W], a leaf
    first: Tensor
    second: Tensor

    @property
    def gradient(self) -> Tensor:
        return torch.zeros_like(self.weight) if self.weight.grad is None else self.weight.grad


class StepRows:
    """The rows of every table that a step touches, as small tables on which it runs."""

    def __init__(self, items: Tensor, index: Tensor, tables: dict[str, _Rows], weights: dict[int, str]) -> None:
        """items: [U] int64 rising, PAD first; index: the same, on the tables' device; tables: by name in the objective;
        weights: the name of each table by the id of its weight.
        """
        self.items, self.index, self.tables, self._weights = items, index, tables, weights

    @property
    def num_bytes(self) -> int:
        """Size of the rows' gradients."""
        return sum(rows.weight.numel() * rows.weight.element_size() for rows in self.tables.values())

    def run(self, objective: nn.Module, *given: Any) -> Tensor:
        """The objective of a renumbered batch, with the rows in place of its tables."""
        weights = {name: rows.weight for name, rows in self.tables.items()}
        loss: Tensor = functional_call(objective, weights, given, tie_weights=False) if weights else objective(*given)
        return loss

    def renumber(self, batch: Batch, negatives: Negatives | None) -> tuple[Batch, Negatives | None]:
        """Batch and negatives with items as rows 0..U - 1; padding stays 0, and the order of items is kept."""
        if not self.tables:
            return batch, negatives
        inputs = batch.inputs._replace(items=self._number(batch.inputs.items))
        batch = batch._replace(inputs=inputs, targets=self._number(batch.targets))
        return batch, None if negatives is None else negatives._replace(items=self._number(negatives.items))

    def _number(self, items: Tensor) -> Tensor:
        return torch.searchsorted(self.items, items)

    def parameters(self, module: nn.Module) -> list[Tensor]:
        """Tensors that a step gives gradients to: a module's parameters, with the rows in place of each table."""
        return [
            self.tables[self._weights[id(own)]].weight if id(own) in self._weights else own
            for own in module.parameters()
        ]

    def average_gradients(self) -> None:
        """All-reduce (mean) of the rows' gradients. Collective: call it on every rank."""
        world_size = rank_and_world()[1]
        if world_size == 1 or not self.tables:
            return
        gradients = [rows.gradient for rows in self.tables.values()]
        together = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(together)
        parts = together.div_(world_size).split([gradient.numel() for gradient in gradients])
        for rows, part in zip(self.tables.values(), parts, strict=True):
            rows.weight.grad = part.view_as(rows.weight)


def _put(whole: Tensor, index: Tensor, rows: Tensor) -> None:
    if whole.device.type == "cpu":
        whole.numpy()[index.numpy()] = rows.numpy()  # in half the time of index_copy_
    else:
        whole.index_copy_(0, index, rows)


class ItemTables:
    """A model's item tables that training reads and writes by rows; none where it does not."""

    def __init__(self, objective: nn.Module, model: Model, config: ResolvedTrainConfig) -> None:
        """objective: over `model`, in DDP or not; its tables by `take_out_tables_`."""
        in_objective = {id(weight): name for name, weight in objective.named_parameters()}
        by_rows = [(name, weight) for name, weight in item_weights(model) if not weight.requires_grad]
        self._names = [name for name, _ in by_rows]
        self._weight_names = {id(weight): in_objective[id(weight)] for _, weight in by_rows}
        self._tables = [
            _Table(weight.detach(), torch.zeros_like(weight), torch.zeros_like(weight)) for _, weight in by_rows
        ]
        self.missed = MissedSteps(BETAS, ADAM_EPS, config.weight_decay)
        # The step that each row is up to date with; the same for all tables.
        self._last = np.zeros(model.num_items + 1 if self else 0, dtype=np.int64)

    def __bool__(self) -> bool:
        return bool(self._tables)

    def gather(self, items: Tensor | None, negatives: Negatives | None) -> StepRows:
        """The rows that a step touches, caught up with the steps taken.

        items: [n] int64, of the global batch; read where there are tables.
        """
        if not self:
            return StepRows(torch.zeros(0), torch.zeros(0), {}, {})
        assert items is not None, "the feed says which items a batch has"
        drawn = items if negatives is None else torch.cat([items, negatives.items])
        touched = torch.cat([torch.tensor([PAD]), drawn]).unique()
        index = touched.to(self._tables[0].weight.device)
        tables = {}
        for name, table in zip(self._weight_names.values(), self._tables, strict=True):
            tables[name] = _Rows(*(whole.index_select(0, index) for whole in (table.weight, table.first, table.second)))
        self._catch_up(touched.numpy(), list(tables.values()))
        for rows in tables.values():
            rows.weight.requires_grad_()
        return StepRows(touched, index, tables, self._weight_names)

    @torch.no_grad()
    def update(self, rows: StepRows, rate: float) -> None:
        """One step of AdamW on the rows, by their gradients, and back into the tables."""
        if not self:
            return
        for table, own in zip(self._tables, rows.tables.values(), strict=True):
            gradient = own.gradient
            weight = own.weight.detach()
            adamw(
                [weight],
                [gradient],
                [own.first],
                [own.second],
                [],
                [torch.tensor(float(self.missed.step), device=weight.device)],
                fused=True,
                amsgrad=False,
                beta1=BETAS[0],
                beta2=BETAS[1],
                lr=rate,
                weight_decay=self.missed.weight_decay,
                eps=ADAM_EPS,
                maximize=False,
            )
            for whole, part in ((table.weight, weight), (table.first, own.first), (table.second, own.second)):
                _put(whole, rows.index, part)
        self.missed.add(rate)
        self._last[rows.items.numpy()] = self.missed.step

    @torch.no_grad()
    def catch_up(self) -> None:
        """Bring every row up to date: before the weights are evaluated, copied or saved."""
        if not self or self.missed.step == self.missed.base:
            return
        for begin in range(0, len(self._last), BLOCK_ROWS):
            block = slice(begin, begin + BLOCK_ROWS)
            rows = [_Rows(table.weight[block], table.first[block], table.second[block]) for table in self._tables]
            self._catch_up(np.arange(len(self._last))[block], rows)
        self._last[:] = self.missed.step
        self.missed.restart(self.missed.step)

    def _catch_up(self, items: IntArray, tables: Sequence[_Rows]) -> None:
        """Take the missed steps of `items`, [U], in place. tables: their rows."""
        last = self._last[items]
        if (last == self.missed.step).all():
            return
        factors = self.missed.since(last, tables[0].weight.device)
        for rows in tables:
            catch_up_(rows.weight, rows.first, rows.second, factors)

    def state(self) -> dict[str, Tensor]:
        """AdamW's moments by name, every row caught up: with weights and step, all that a resume needs."""
        self.catch_up()
        named = zip(self._names, self._tables, strict=True)
        return {
            f"{name}.{moment}": tensor
            for name, table in named
            for moment, tensor in (("exp_avg", table.first), ("exp_avg_sq", table.second))
        }

    def load(self, state: dict[str, Tensor], step: int) -> None:
        """Go on from a checkpoint's moments, after `step` steps. The weights are the model's."""
        for name, table in zip(self._names, self._tables, strict=True):
            table.first.copy_(state[f"{name}.exp_avg"])
            table.second.copy_(state[f"{name}.exp_avg_sq"])
        self._last[:] = step
        self.missed.restart(step)
