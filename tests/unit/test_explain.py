"""An explanation adds up, and says what scoring again without an event says."""

import pytest
import torch

from mgray.data.inputs import Inputs
from mgray.errors import InputError
from mgray.serve.explain import explain
from tests.models import model_config
from tests.perturbed import NUM_ITEMS, make_inputs, make_model, pad_left

LEVELS = (1, 4, "1d", "decay:1..9")


@pytest.mark.parametrize("norm", ["layer", "batch"])
@pytest.mark.parametrize("fusion", ["sum", "concat", "gate", "attention"])
def test_levels_and_rest_add_up_to_the_score(fusion: str, norm: str) -> None:
    model = make_model(model_config(width=8, heads=2, granularities=LEVELS, fusion=fusion, norm=norm))
    inputs = make_inputs(12, rows=1)
    explained = explain(model, inputs, item=7)
    assert explained.score == pytest.approx(model.score(model(inputs)[:, -1])[0, 7].item(), abs=1e-5)
    assert len(explained.levels) == 4
    assert sum(explained.levels) + explained.rest == pytest.approx(explained.score, abs=1e-5)
    # What no level adds is what the biases add, whatever the history.
    embedding, bias = model.embedding.weight[7].detach(), model.output_norm.bias.detach()
    if norm == "layer" and fusion != "concat":
        assert explained.rest == pytest.approx(float(bias @ embedding), abs=1e-5)


def test_a_level_that_is_silent_adds_nothing() -> None:
    model = make_model(model_config(width=8, granularities=(1, 4), fusion="concat"))
    with torch.no_grad():
        model.fusion.project.weight[:, 8:] = 0
    first, second = explain(model, make_inputs(12, rows=1), item=7).levels
    assert second == 0
    assert first != 0


@pytest.mark.parametrize("padding", [0, 5])
def test_events_are_what_the_score_loses_without_them(padding: int) -> None:
    config = model_config(width=8, heads=2, granularities=LEVELS, inputs=("time_gap",))
    model, inputs = make_model(config), make_inputs(6, rows=1)
    explained = explain(model, pad_left(inputs, padding), item=3, num_events=4)
    expected = []
    for position in range(2, 6):
        left = inputs.map(lambda column: torch.cat([column[:, :position], column[:, position + 1 :]], dim=1))  # noqa: B023
        expected.append(explained.score - model.score(model(left)[:, -1])[0, 3].item())
    assert explained.events == pytest.approx(expected, abs=1e-5)


def test_an_event_out_of_reach_adds_nothing() -> None:
    """Three taps on the finest level alone reach two events back from the last one."""
    model = make_model(model_config(width=8, granularities=(1,), kernel=3, fusion="sum"))
    events = explain(model, make_inputs(6, rows=1), item=3).events
    assert [event == pytest.approx(0, abs=1e-6) for event in events] == [True, True, True, False, False, False]


def test_short_histories_have_as_many_events() -> None:
    model = make_model(model_config(width=8, heads=2, granularities=(1, 4)))
    assert len(explain(model, pad_left(make_inputs(3, rows=1), 9), item=1).events) == 3
    assert len(explain(model, make_inputs(1, rows=1), item=1).events) == 1


def test_what_cannot_be_explained_is_refused() -> None:
    model = make_model(model_config(width=8, heads=2, granularities=(1, 4)))
    for item in (0, NUM_ITEMS + 1):
        with pytest.raises(InputError, match="no item of the model"):
            explain(model, make_inputs(3, rows=1), item)
    for inputs in (make_inputs(3, rows=2), Inputs(torch.zeros(1, 4, dtype=torch.int64))):
        with pytest.raises(InputError, match="one history at a time"):
            explain(model, inputs, 1)
