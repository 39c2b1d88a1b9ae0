"""Why a model scores an item as it does for a history: what each granularity and each past event adds.

Legend: `L` positions, `D` width, `G` granularities, `N` events looked at.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mgray.data.inputs import Inputs
from mgray.errors import InputError
from mgray.model.ensemble import Model
from mgray.model.memory import Memory, Recalled
from mgray.model.mgdsc import MGDSC
from mgray.schema import PAD


class Explanation(NamedTuple):
    """The parts of one score. `levels`, `recalled` and `rest` add up to it.

    `events` need not, since two events may overlap.
    """

    score: float
    levels: list[float]  # what each granularity adds, finest first
    rest: float  # what biases add; they belong to no level
    recalled: list[Recalled]  # what each kernel of memory adds; empty: the model has no memory
    events: list[float]  # score less the score without the event, of the last N events, oldest first


@torch.no_grad()
def explain(model: Model, inputs: Inputs, item: int, num_events: int = 20, memory: Memory | None = None) -> Explanation:
    """Explain the score of `item` for one history, inputs [1, L].

    A level's part is its summand in the fusion times the item's embedding, through the output normalization with its
    standard deviation held fixed. That is exact for batch normalization; for layer normalization it is the split that
    adds up (Ali et al. 2022, arXiv 2202.07304). What a level adds through the levels above it counts as theirs.

    An event's part is exact: the history is scored again without it, all N histories in one batch. Without its only
    event a history is empty, and has the model's score of an empty history. An ensemble's parts are its members' means.
    Memory's part is split over its kernels by what each adds to the sum in its logarithm.

    Raises InputError for an item that the model does not know, or inputs that are not one history with an event.
    """
    if not 1 <= item <= model.num_items:
        raise InputError(f"explain: {item} is no item of the model; give a number from 1 to {model.num_items}")
    if len(inputs.items) != 1 or inputs.items.shape[1] == 0 or int(inputs.items[0, -1]) == PAD:
        raise InputError("explain: one history at a time, with an event at least; give inputs of one row")
    model.eval()
    scores, parts, lost = zip(*(_explain_member(one, inputs, item, num_events) for one in model.members), strict=True)
    learned, levels = float(torch.stack(scores).mean()), torch.stack(parts).mean(0)
    events: list[float] = torch.stack(lost).mean(0).tolist()
    rest, recalled, remembered = learned - float(levels.sum()), [], 0.0
    if memory is not None:
        recalled = memory.explain(inputs, item)
        remembered = float(memory.scores(inputs)[0, item])
        without = memory.scores(_leave_one_out(inputs, num_events))[:, [item]].toarray()[:, 0]
        events = [lost_here + remembered - float(one) for lost_here, one in zip(events, without, strict=True)]
    return Explanation(learned + remembered, levels.tolist(), rest, recalled, events)


def _explain_member(model: MGDSC, inputs: Inputs, item: int, num_events: int) -> tuple[Tensor, Tensor, Tensor]:
    """(score [], what each level adds [G], what the score loses without each event [N])."""
    embedding = model.embedding.weight[item].float()
    interest, parts = _last_parts(model, inputs)
    score = interest @ embedding
    without = model.fuse(_leave_one_out(inputs, num_events), only_last=True)[0][:, -1].float() @ embedding
    return score, parts @ embedding, score - without


def _last_parts(model: MGDSC, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """(the interest at the last position [D], what each level adds to it [G, D])."""
    read = model.read(inputs, only_last=True)
    fused, _ = model.fusion(read.outputs, read.mask, None)
    parts = model.fusion.parts(read.outputs, read.mask)[0, -1]
    interest = model.output_norm(fused, read.mask)[0, -1]
    return interest.float(), model.output_norm.part(parts, fused[0, -1]).float()


def _leave_one_out(inputs: Inputs, num_events: int) -> Inputs:
    """[1, L] to [N, L]: each row lacks another one of the last N events and is padded instead."""
    length = inputs.items.shape[1]
    num_events = min(num_events, int((inputs.items != PAD).sum()))
    position = torch.arange(length, device=inputs.items.device)
    removed = position[length - num_events :, None]
    # `ahead` begins with one more padding: events up to the removed one move one position on, over it.
    source = position + (position > removed)

    def leave_out(column: Tensor) -> Tensor:
        ahead = F.pad(column[0].movedim(0, -1), (1, 0)).movedim(-1, 0)
        return ahead[source]

    return inputs.map(leave_out)
