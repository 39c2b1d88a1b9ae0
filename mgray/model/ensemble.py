"""Ensemble: several MG-DSC models of one config, trained and served as one. Their scores are averaged.

A deep ensemble (Lakshminarayanan et al. 2017, arXiv 1612.01474): each member has its own items, its own start and its
own loss, and what they err in apart cancels. As in TabM (Gorishniy et al. 2024, arXiv 2410.24210) the members see the
same batches, so one training does; unlike there they share no weights. An interest is the members' side by side, so
the mean of the scores is still one product with one table of items.

Legend: `B` sequences, `L` positions, `T` targets, `D` width of a member, `M` members, `G` granularities, `V` items.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from mgray.config import ResolvedModelConfig
from mgray.data.inputs import Inputs, InputSpec
from mgray.model.mgdsc import EVERY_ITEM, MGDSC, State


class Ensemble(nn.Module):
    """M models with the methods of one, without `rate`: `rating_head` is None. Its state is the tuple of theirs."""

    def __init__(self, config: ResolvedModelConfig, num_items: int, spec: InputSpec | None = None) -> None:
        """Make M = config.members models; arguments as of MGDSC."""
        super().__init__()
        assert config.outputs == "next_item", "the config says so"
        self.config = config
        self.num_items = num_items
        self.models = nn.ModuleList(MGDSC(config.member, num_items, spec) for _ in range(config.members))
        self.spec = self.members[0].spec
        self.rating_head = None

    @property
    def members(self) -> Sequence[MGDSC]:
        return [cast(MGDSC, model) for model in self.models]

    def fuse(self, inputs: Inputs, only_last: bool = False) -> tuple[Tensor, Tensor | None]:
        """inputs: [B, L] -> (interest [B, L, M D], share of each granularity [B, L, G, M heads] or None).

        only_last, errors: see MGDSC.fuse.
        """
        interests, shares = zip(*(member.fuse(inputs, only_last) for member in self.members), strict=True)
        # Side by side: one member's first head has nothing to do with another's.
        return torch.cat(interests, dim=-1), None if shares[0] is None else torch.cat(shares, dim=-1)

    def forward(self, inputs: Inputs) -> Tensor:
        """inputs: [B, L], oldest first -> interest [B, L, M D] at every position."""
        return self.fuse(inputs)[0]

    def score(self, interest: Tensor, items: slice | Tensor = EVERY_ITEM, out: Tensor | None = None) -> Tensor:
        """interest: [T, M D] -> the mean of the members' scores [T, n] float32. items, out: as MGDSC.score."""
        (first, own), *others = self.each(interest)
        scores = first.score(own, items, out)
        for member, own in others:  # two tables of scores at a time, however many members
            scores += member.score(own, items)
        return scores.div_(len(self.models))

    def item_table(self) -> Tensor:
        """[V + 1, M D] float32: its product with an interest is the mean of the members' scores."""
        return torch.cat([member.item_table() for member in self.members], dim=-1) / len(self.models)

    def each(self, interest: Tensor) -> list[tuple[MGDSC, Tensor]]:
        """interest: [..., M D] -> each member with its own interest [..., D]."""
        return list(zip(self.members, interest.chunk(len(self.models), dim=-1), strict=True))

    def initial_state(self, batch: int) -> tuple[State, ...]:
        """The state of `batch` users without an event."""
        return tuple(member.initial_state(batch) for member in self.members)

    def last_time(self, state: tuple[State, ...]) -> Tensor:
        """Time of each user's latest event; see MGDSC.last_time."""
        return self.members[0].last_time(state[0])

    def extend(
        self, state: tuple[State, ...], inputs: Inputs, only_last: bool = False
    ) -> tuple[tuple[State, ...], Tensor]:
        """(state, next L events of each user) -> (state, interest [B, L, M D]), as MGDSC.extend."""
        made = [member.extend(own, inputs, only_last) for member, own in zip(self.members, state, strict=True)]
        return tuple(own for own, _ in made), torch.cat([interest for _, interest in made], dim=-1)

    def step(self, state: tuple[State, ...], event: Inputs) -> tuple[tuple[State, ...], Tensor]:
        """(state, one event of each user, [B, 1]) -> (state, interest [B, M D]), as MGDSC.step."""
        state, interest = self.extend(state, event)
        return state, interest[:, -1]

    def cut(self, num_levels: int) -> "Ensemble":
        """Keep the members' first `num_levels` levels; see MGDSC.cut. Raises ValueError as it does."""
        with torch.device("meta"):  # its members are put in their places
            smaller = Ensemble(self.config.cut(num_levels), self.num_items, self.spec)
        smaller.models = nn.ModuleList(member.cut(num_levels) for member in self.members)
        return smaller.train(self.training)


Model = MGDSC | Ensemble


def num_parameters(model: nn.Module) -> int:
    """Number of weights, those of the item table among them."""
    return sum(parameter.numel() for parameter in model.parameters())


def make_model(config: ResolvedModelConfig, num_items: int, spec: InputSpec | None = None) -> Model:
    """spec: what the extra inputs of the config stand for; none: there are none."""
    return (MGDSC if config.members == 1 else Ensemble)(config, num_items, spec)
