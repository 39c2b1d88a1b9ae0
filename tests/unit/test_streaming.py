"""Law four: one event at a time, and any cut into windows, equals the whole history; the state does not grow."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mgray.config import ResolvedModelConfig
from mgray.data.inputs import Inputs
from mgray.model.mgdsc import MGDSC, State
from mgray.model.rating_head import RaterState
from tests.models import model_config
from tests.perturbed import NUM_ITEMS, make_inputs, make_model, pad_left

# Any of them in this order is a valid list of granularities.
LEVELS = ("session:30m", 1, "decay:1..9", 2, "1h", 3, "12h", "decay:4..400", 8, "1d", "session:6h", "7d")


@st.composite
def configs(draw: st.DrawFn) -> ResolvedModelConfig:
    chosen = draw(st.sets(st.sampled_from(LEVELS), min_size=1, max_size=4))
    granularities = tuple(level for level in LEVELS if level in chosen)
    each = len(granularities)

    def per_level(values: st.SearchStrategy) -> st.SearchStrategy:
        return values | st.lists(values, min_size=each, max_size=each).map(tuple)

    return model_config(
        width=8,
        granularities=granularities,
        kernel=draw(per_level(st.integers(1, 5))),
        depth=draw(per_level(st.integers(1, 2))),
        width_multiplier=draw(per_level(st.sampled_from([0.5, 1.0, 1.5]))),
        dilation=draw(st.none() | per_level(st.integers(1, 3))),
        pooling=draw(per_level(st.sampled_from(["mean", "max", "learned", "decay"]))),
        conv=draw(st.sampled_from(["separable", "dense"])),
        norm=draw(st.sampled_from(["layer", "batch"])),
        fusion=draw(st.sampled_from(["sum", "concat", "gate", "attention"])),
        heads=2,
        feedforward=draw(st.integers(0, 2)),
        inputs=draw(st.sampled_from([(), ("time_gap", "hour", "weekday"), ("event_type", "features", "rating")])),
        outputs=draw(st.sampled_from(["next_item", "both"])),
    )


def outputs_of(model: MGDSC, inputs: Inputs, cuts: list[int]) -> tuple[State, torch.Tensor]:
    """The interest at each position, read in windows that end at `cuts`."""
    state, outputs = model.initial_state(len(inputs.items)), []
    for start, stop in zip([0, *cuts], cuts, strict=False):
        state, interest = model.extend(state, inputs.map(lambda column: column[:, start:stop]))  # noqa: B023
        outputs.append(interest)
    return state, torch.cat(outputs, dim=1)


def sizes(state: State) -> list[torch.Size]:
    levels = [tensor.shape for level in state.levels for part in level for tensor in part]
    return [state.last_time.shape, *levels, *(tensor.shape for tensor in state.rated or ())]


@settings(max_examples=60, deadline=None)
@given(config=configs(), seed=st.integers(0, 2**20), length=st.integers(1, 30), data=st.data())
def test_one_event_at_a_time_equals_the_whole_history(
    config: ResolvedModelConfig, seed: int, length: int, data: st.DataObject
) -> None:
    model, inputs = make_model(config, seed), make_inputs(length, seed)
    items = torch.tensor([[1, NUM_ITEMS], [2, 3]])
    with torch.no_grad():
        whole = model(inputs)
        user = None if model.rating_head is None else model.rating_head.describe(whole, inputs)
        state = model.initial_state(2)
        size = sizes(state)
        for t in range(length):
            state, interest = model.step(state, inputs.map(lambda column: column[:, t : t + 1]))  # noqa: B023
            torch.testing.assert_close(interest, whole[:, t], rtol=1e-4, atol=1e-4)
            if user is not None:
                now = RaterState(*(part[:, t : t + 1] for part in user))
                expected = model.rating_head.rate(now, items)
                torch.testing.assert_close(model.rate(state, interest, items), expected, rtol=1e-4, atol=1e-4)
            assert sizes(state) == size
        padding = data.draw(st.integers(0, 5))
        total = length + padding
        cuts = data.draw(st.sets(st.integers(1, total), max_size=3).map(lambda inner: sorted({*inner, total})))
        _, windows = outputs_of(model, pad_left(inputs, padding), cuts)
        torch.testing.assert_close(windows[:, padding:], whole, rtol=1e-4, atol=1e-4)


def test_the_gradient_flows_through_the_state() -> None:
    """Windows that carry the state give every weight the gradient of the whole history."""
    config = model_config(width=8, heads=2, granularities=(1, 3, "1d", "decay:1..9"), dropout=0.0)
    model, inputs = make_model(config), make_inputs(20)
    model(inputs).square().sum().backward()
    expected = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad()
    outputs_of(model, inputs, [7, 12, 20])[1].square().sum().backward()
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-3)
