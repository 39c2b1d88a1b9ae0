"""MG-DSC: granularities of a history, tied by depthwise separable convolutions and fused into the user's interest.

Legend: `B` sequences, `L` positions, `D` width, `G` granularities, `V` items (1..V; 0 is padding).

Four laws, each a test: the output at a position depends on positions up to it only (causality); left-padding changes
no output at a real position; the fast convolutions equal a plain loop; one event at a time, from a state of fixed
size, equals the whole history at once.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from mgray.config import ResolvedModelConfig
from mgray.data.inputs import Inputs, InputSpec, read_columns
from mgray.errors import InputError
from mgray.model.convolution import last
from mgray.model.fusion import make_fusion
from mgray.model.input_encoder import InputEncoder
from mgray.model.layers import Dropout, make_norm
from mgray.model.level import Level, LevelState
from mgray.model.rating_head import RatedSums, RaterState, RatingHead
from mgray.model.spans import Clock, make_clock
from mgray.schema import PAD

EVERY_ITEM = slice(None)


class State(NamedTuple):
    """Fixed-size summary of B users' events so far, from which a model goes on with the next ones."""

    last_time: Tensor  # [B] float64, seconds since 1970; NaN where there was no event yet
    levels: tuple[LevelState, ...]
    rated: RatedSums | None  # of a model with a rating head


class Read(NamedTuple):
    """Outputs of the levels for a batch."""

    outputs: list[Tensor]  # G x [B, L, D], finest first
    mask: Tensor  # [B, L, 1] in {0, 1}, 1 where there is an event
    state: State | None  # after the last position, if a state was given


def _owned(part: Any) -> Any:
    """Copy a state, or a component of one, into memory of its own."""
    if isinstance(part, Tensor):
        return part.clone()
    if not isinstance(part, tuple):
        return part
    owned = [_owned(one) for one in part]
    return type(part)(*owned) if hasattr(part, "_fields") else tuple(owned)


class MGDSC(nn.Module):
    """History of item numbers to user interest at every position, scored against the item embedding itself."""

    def __init__(self, config: ResolvedModelConfig, num_items: int, spec: InputSpec | None = None) -> None:
        """spec: what the extra inputs of the config stand for; none: there are none."""
        super().__init__()
        assert config.members == 1, "mgray.model.ensemble makes a model of several"
        self.config = config
        self.num_items = num_items
        self.spec = spec or InputSpec()
        self.reads_times = "times" in read_columns(config)
        self.embedding = nn.Embedding(num_items + 1, config.width, padding_idx=PAD)
        nn.init.normal_(self.embedding.weight, std=1 / math.sqrt(config.width))
        with torch.no_grad():
            self.embedding.weight[PAD].zero_()
        # The embeddings are small, for scoring; the normalization gives the blocks inputs of unit variance.
        self.input_norm = make_norm(config.norm, config.width)
        self.dropout = Dropout(config.dropout)
        self.levels = nn.ModuleList(Level(config, settings) for settings in config.levels)
        self.fusion = make_fusion(config)
        self.output_norm = make_norm(config.norm, config.width)
        self.input_encoder = InputEncoder(config, self.spec) if config.inputs else None
        rate = config.dropout
        self.rating_head = (
            RatingHead(num_items, config.width, rate, self.spec) if config.outputs != "next_item" else None
        )

    @property
    def members(self) -> Sequence["MGDSC"]:
        """The model itself, as an ensemble of one."""
        return [self]

    def each(self, interest: Tensor) -> list[tuple["MGDSC", Tensor]]:
        """The model itself with the whole interest, as an ensemble of one."""
        return [(self, interest)]

    def read(self, inputs: Inputs, state: State | None = None, only_last: bool = False) -> Read:
        """Run each level over the histories; with a state, over histories that go on from it.

        only_last: in evaluation, return outputs and mask of the last position alone, L = 1. Above the last mixer no
        other position is read, so none is computed.

        Raises InputError where a level spans time and the inputs have no times.
        """
        mask = (inputs.items != PAD).unsqueeze(-1).to(self.embedding.weight.dtype)
        last_time = None if state is None else state.last_time
        clock = self._clock(inputs, last_time)
        x = self.embedding(inputs.items)
        if self.input_encoder is not None:
            x = x + self.input_encoder(inputs, last_time)
        x = self.dropout(self.input_norm(x, mask))
        outputs: list[Tensor] = []
        level_states: list[LevelState] = []
        for number, level in enumerate(self.levels):
            is_end = only_last and number == len(self.levels) - 1
            x, level_state = level(x, mask, clock, None if state is None else state.levels[number], is_end)
            outputs.append(x)
            if level_state is not None:
                level_states.append(level_state)
        if only_last:
            outputs, mask = [last(output, 1) for output in outputs], last(mask, 1)
        if state is None:
            return Read(outputs, mask, None)
        new_time = state.last_time
        if clock is not None:
            new_time = torch.where(inputs.items[:, -1] == PAD, new_time, clock.times[:, -1])
        rated = None
        if self.rating_head is not None:
            rated = RatedSums(*(sums[:, -1] for sums in self.rating_head.sums(inputs, state.rated)))
        return Read(outputs, mask, State(new_time, tuple(level_states), rated))

    def _clock(self, inputs: Inputs, last_time: Tensor | None) -> Clock | None:
        if not self.reads_times:
            return None
        if inputs.times is None:
            raise InputError(
                f"model: granularities {', '.join(str(g) for g in self.config.granularities)} or inputs read the times "
                "of the events, and there are none; give Inputs.times, or train a model without them"
            )
        return make_clock(inputs.times, last_time)

    def fuse(self, inputs: Inputs, only_last: bool = False) -> tuple[Tensor, Tensor | None]:
        """inputs: [B, L] -> (interest [B, L, D], share of each granularity [B, L, G, heads] or None).

        only_last: of the last position alone, [B, 1, ...], at less cost. Raises InputError as `read` does.
        """
        read = self.read(inputs, only_last=only_last)
        fused, share = self.fusion(read.outputs, read.mask, self._kept_levels(len(inputs.items)))
        return self.output_norm(fused, read.mask), share

    def _kept_levels(self, batch: int) -> Tensor | None:
        """The levels that each history is read by while training, [B, G] bool: a random number of the first ones.

        Exactly what a model that was cut to as many would read. None: all levels.
        """
        num_levels = len(self.levels)
        if not self.training or self.config.level_dropout == 0 or num_levels == 1:
            return None
        device = self.embedding.weight.device
        is_cut = torch.rand(batch, device=device) < self.config.level_dropout
        num_kept = torch.where(is_cut, torch.randint(1, num_levels, (batch,), device=device), num_levels)
        return torch.arange(num_levels, device=device) < num_kept.unsqueeze(1)

    def forward(self, inputs: Inputs) -> Tensor:
        """inputs: [B, L], oldest first -> interest [B, L, D] at every position. Raises InputError as `read` does."""
        return self.fuse(inputs)[0]

    def score(self, interest: Tensor, items: slice | Tensor = EVERY_ITEM, out: Tensor | None = None) -> Tensor:
        """interest: [T, D] -> scores of `items` [T, n] float32; padding, if a slice begins with it, minus infinity.

        items: a range, or item numbers [n]; default: all, [T, V + 1]. out: where to write them, without gradients.
        """
        scores = torch.mm(interest.float(), self.embedding.weight[items].float().T, out=out)
        if isinstance(items, slice) and not items.start:
            scores[:, PAD] = -torch.inf
        return scores

    def item_table(self) -> Tensor:
        """[V + 1, D] float32: what an interest is multiplied by to score the items."""
        return self.embedding.weight.float()

    def initial_state(self, batch: int) -> State:
        """The state of `batch` users without an event."""
        device = self.embedding.weight.device
        last_time = torch.full((batch,), torch.nan, dtype=torch.float64, device=device)
        levels = tuple(cast(Level, level).initial_state(batch, device) for level in self.levels)
        return State(last_time, levels, None if self.rating_head is None else self.rating_head.no_sums(batch))

    def last_time(self, state: State) -> Tensor:
        """Time of each user's latest event, [B] float64; NaN: there was none, or the model reads no times."""
        return state.last_time

    def extend(self, state: State, inputs: Inputs, only_last: bool = False) -> tuple[State, Tensor]:
        """Go on from a state with the next L events of each user: (state, interest [B, L, D] at each of them).

        only_last: interest of the last event alone, [B, 1, D], at less cost.

        A long history can be trained in windows that carry the state. Padding may only stand ahead of a user's very
        first event, since it would count as time passed between two events. Raises InputError as `read` does.
        """
        read = self.read(inputs, state, only_last)
        assert read.state is not None, "a state was given"
        # The tensors are slices, each of which would keep the whole tensor behind it in memory.
        state = cast(State, _owned(read.state))
        fused, _ = self.fusion(read.outputs, read.mask, self._kept_levels(len(inputs.items)))
        return state, self.output_norm(fused, read.mask)

    def step(self, state: State, event: Inputs) -> tuple[State, Tensor]:
        """Go on with one event of each user, [B, 1]: (state, interest [B, D]). In time that no history lengthens."""
        state, interest = self.extend(state, event)
        return state, interest[:, -1]

    def rate(self, state: State, interest: Tensor, items: Tensor) -> Tensor:
        """Predict the ratings that each user would give items next, in the log's units. Needs a rating head.

        state, interest: as `step` gives them, interest [B, D]; items: [B, N] int64 in 1..V -> [B, N].
        """
        assert self.rating_head is not None, "model.outputs has a rating"
        assert state.rated is not None, "the state is of a model with a rating head"
        user = self.rating_head.user(interest, state.rated)
        return self.rating_head.rate(RaterState(*(part.unsqueeze(1) for part in user)), items)

    def cut(self, num_levels: int) -> "MGDSC":
        """A smaller model of the first `num_levels` levels, with this one's weights.

        It serves well where training had level_dropout. Raises ValueError where there are fewer levels.
        """
        smaller = MGDSC(self.config.cut(num_levels), self.num_items, self.spec).to(self.embedding.weight.device)
        weights = self.state_dict()
        # Levels are in order in every tensor that spans them all: what the smaller one keeps comes first.
        first = {
            name: weights[name][tuple(slice(size) for size in tensor.shape)]
            for name, tensor in smaller.state_dict().items()
        }
        smaller.load_state_dict(first)
        return smaller.train(self.training)
