"""The rating head against its formula, and its laws."""

import math

import pytest
import torch

from mgray.data.inputs import Inputs, InputSpec
from mgray.model.mgdsc import MGDSC
from mgray.model.rating_head import BIAS_PENALTY, RaterState, RatingHead
from tests.models import model_config

SPEC = InputSpec(rating_mean=3.0, rating_std=2.0, rating_scale=(1.0, 2.0, 3.0, 4.0, 5.0))
WIDTH, NUM_ITEMS = 4, 20
NAN = math.nan


def make_head(seed: int = 0) -> RatingHead:
    """Every parameter random, as after training."""
    torch.manual_seed(seed)
    head = RatingHead(NUM_ITEMS, WIDTH, 0.0, SPEC).eval()
    with torch.no_grad():
        head.table.weight[1:].normal_()
        head.from_interest.weight.normal_()
    return head


def make_inputs(length: int = 9, seed: int = 0) -> Inputs:
    generator = torch.Generator().manual_seed(seed)
    items = torch.randint(1, NUM_ITEMS + 1, (2, length), generator=generator)
    ratings = torch.randint(1, 6, (2, length), generator=generator).float()
    ratings[0, 3] = NAN
    return Inputs(items, ratings=ratings)


def test_equals_its_formula_in_a_loop() -> None:
    head, inputs = make_head(), make_inputs()
    interest = torch.randn(2, 9, WIDTH)
    state = head.describe(interest, inputs)
    bias, q, x, y = head.table.weight.split([1, WIDTH, WIDTH, WIDTH], dim=1)
    for row in range(2):
        for position in range(9):
            events = [(int(inputs.items[row, s]), float(inputs.ratings[row, s])) for s in range(position + 1)]
            deviations = [(item, (rating - 3) / 2 - bias[item, 0]) for item, rating in events if not math.isnan(rating)]
            user = sum(d for _, d in deviations) / (5 + len(deviations))
            factors = sum((d - user) * x[item] for item, d in deviations) + sum(y[item] for item, _ in events)
            factors = factors / math.sqrt(10 + len(events)) + head.from_interest(interest[row, position])
            torch.testing.assert_close(state.bias[row, position], user)
            torch.testing.assert_close(state.factors[row, position], factors)
            item = torch.tensor(7)
            expected = 3 + 2 * (bias[7, 0] + user + factors @ q[7])
            mine = RaterState(*(part[row, position] for part in state))
            torch.testing.assert_close(head.rate(mine, item), expected)


def test_a_new_head_is_user_and_item_bias() -> None:
    """Ratings 5 and 1 of mean 3, deviation 2: 1 and -1, so the user's bias is 1 / (5 + 1), then 0."""
    head = RatingHead(NUM_ITEMS, WIDTH, 0.0, SPEC).eval()
    with torch.no_grad():
        head.table.weight.zero_()
    inputs = Inputs(torch.tensor([[1, 2]]), ratings=torch.tensor([[5.0, 1.0]]))
    state = head.describe(torch.randn(1, 2, WIDTH), inputs)
    assert state.bias.tolist()[0] == pytest.approx([1 / 6, 0])
    assert head.rate(state, torch.tensor([[3, 3]])).tolist()[0] == pytest.approx([3 + 2 / 6, 3])


def test_later_events_and_padding_change_nothing() -> None:
    config = model_config(width=8, granularities=(1, 4), heads=2, dropout=0.0, outputs="both", inputs=("rating",))
    torch.manual_seed(0)
    model = MGDSC(config, NUM_ITEMS, SPEC).eval()
    with torch.no_grad():
        model.rating_head.from_interest.weight.normal_()
    inputs = make_inputs()
    whole = model.rating_head.describe(model(inputs), inputs)
    begin = inputs.map(lambda column: column[:, :5])
    early = model.rating_head.describe(model(begin), begin)
    torch.testing.assert_close(whole.bias[:, :5], early.bias)
    torch.testing.assert_close(whole.factors[:, :5], early.factors, rtol=1e-4, atol=1e-5)
    padded = Inputs(
        torch.cat([torch.zeros(2, 3, dtype=torch.int64), inputs.items], dim=1),
        ratings=torch.cat([torch.full((2, 3), NAN), inputs.ratings], dim=1),
    )
    late = model.rating_head.describe(model(padded), padded)
    torch.testing.assert_close(late.bias[:, 3:], whole.bias)
    torch.testing.assert_close(late.factors[:, 3:], whole.factors, rtol=1e-4, atol=1e-5)
    assert not late.factors[:, :3].any()


def test_loss_is_squared_error_and_penalty_over_rated_targets() -> None:
    head, inputs = make_head(), make_inputs()
    interest = torch.randn(2, 9, WIDTH)
    targets = torch.randint(1, NUM_ITEMS + 1, (2, 9))
    targets[1, 4] = 0
    ratings = torch.full((2, 9), 4.0)
    ratings[0, 2] = NAN
    state = head.describe(interest, inputs)
    counted = (targets != 0) & ~ratings.isnan()
    assert int(counted.sum()) == 16
    errors = (head.rate(state, targets) - 4)[counted] / 2
    rows, learned = head.table.weight[targets[counted]], head.from_interest(interest)[counted]
    norms = BIAS_PENALTY * rows[:, 0].square().sum() + rows[:, 1:].square().sum() + learned.square().sum()
    expected = errors.square().sum() + 0.3 * norms
    torch.testing.assert_close(head.loss(interest, inputs, targets, ratings, 0.3), expected)


def test_no_rated_target_costs_nothing() -> None:
    head, inputs = make_head(), make_inputs()
    nothing = torch.full((2, 9), NAN)
    loss = head.loss(torch.randn(2, 9, WIDTH), inputs, torch.ones(2, 9, dtype=torch.int64), nothing, 0.3)
    loss.backward()
    assert loss.item() == 0
    assert not head.table.weight.grad.any()
