"""A warm-started model scores the items it knew as before, whatever their numbers are now."""

import pytest
import torch

from mgray.config import ResolvedTrainConfig, RetrainConfig, TrainConfig
from mgray.data.inputs import Inputs, InputSpec
from mgray.data.manifest import Feature
from mgray.errors import InputError
from mgray.model.mgdsc import MGDSC
from mgray.train.optim import make_optimizer
from mgray.train.warm_start import warm_start_
from pipelines.lifecycle.training import warm_training
from tests.models import model_config
from tests.perturbed import perturbed

CONFIG = model_config(width=8, granularities=(1, 2), heads=2)


def test_known_items_keep_their_scores_under_new_numbers() -> None:
    torch.manual_seed(0)
    old, new = MGDSC(CONFIG, 3).eval(), MGDSC(CONFIG, 4).eval()
    result = warm_start_(new, ["c", "new", "a", "b"], old, ["a", "b", "c"])
    assert result == (3, 1)
    before = old.score(old(Inputs(torch.tensor([[1, 2, 3]])))[:, -1])[0]
    after = new.score(new(Inputs(torch.tensor([[3, 4, 1]])))[:, -1])[0]
    torch.testing.assert_close(after[torch.tensor([3, 4, 1])], before[1:])


def test_known_items_keep_their_ratings_under_new_numbers() -> None:
    torch.manual_seed(0)
    config = CONFIG.model_copy(update={"outputs": "both"})
    old, new = MGDSC(config, 3).eval(), MGDSC(config, 4).eval()
    warm_start_(new, ["c", "new", "a", "b"], old, ["a", "b", "c"])

    def rate(model: MGDSC, items: list[int]) -> torch.Tensor:
        inputs = Inputs(torch.tensor([items]), ratings=torch.tensor([[5.0, 3.0, 1.0]]))
        assert model.rating_head is not None
        return model.rating_head.rate(model.rating_head.describe(model(inputs), inputs), inputs.items)

    torch.testing.assert_close(rate(new, [3, 4, 1]), rate(old, [1, 2, 3]))


def test_a_new_item_starts_as_an_average_one() -> None:
    torch.manual_seed(0)
    old, new = MGDSC(CONFIG, 50).eval(), MGDSC(CONFIG, 51).eval()
    ids = [str(i) for i in range(50)]
    warm_start_(new, [*ids, "new"], old, ids)
    table = old.embedding.weight[1:]
    distance = (new.embedding.weight[51] - table.mean(0)).abs()
    assert bool((distance < 0.5 * table.std(0)).all())
    assert new.embedding.weight[0].abs().sum().item() == 0


def test_another_shape_is_an_input_error() -> None:
    wider = MGDSC(CONFIG.model_copy(update={"width": 16}), 3)
    with pytest.raises(InputError, match=r"model\.width"):
        warm_start_(wider, ["a"], MGDSC(CONFIG, 3), ["a"])


def test_dropout_may_differ() -> None:
    other = CONFIG.model_copy(update={"dropout": 0.1, "level_dropout": 0.5})
    warm_start_(MGDSC(other, 1), ["a"], MGDSC(CONFIG, 1), ["a"])


def test_a_kept_share_is_a_mean_of_the_earlier_and_the_fresh_weights() -> None:
    torch.manual_seed(0)
    old, new = MGDSC(CONFIG, 3), MGDSC(CONFIG, 3)
    fresh = {name: tensor.clone() for name, tensor in new.state_dict().items()}
    warm_start_(new, ["a", "b", "c"], old, ["a", "b", "c"], keep=0.75)
    for name, tensor in old.state_dict().items():
        expected = 0.75 * tensor + 0.25 * fresh[name] if tensor.dim() >= 2 else tensor
        torch.testing.assert_close(new.state_dict()[name], expected)
    assert new.embedding.weight[0].abs().sum().item() == 0


def test_event_types_are_matched_by_name_and_features_must_be_the_same() -> None:
    config = CONFIG.model_copy(update={"inputs": ("event_type", "features")})
    price = (Feature(name="price", mean=0, std=1),)
    old = perturbed(MGDSC(config, 3, InputSpec(event_types=("buy", "view"), features=price)))
    new = perturbed(MGDSC(config, 3, InputSpec(event_types=("new", "view", "buy"), features=price)))
    table = new.state_dict()["input_encoder.encoders.event_type.weight"]
    before, earlier = table.clone(), old.state_dict()["input_encoder.encoders.event_type.weight"]
    warm_start_(new, ["a", "b", "c"], old, ["a", "b", "c"])
    assert torch.equal(table, torch.stack([earlier[0], before[1], earlier[2], earlier[1]]))
    other = MGDSC(config, 3, InputSpec(features=(Feature(name="stars", mean=0, std=1),)))
    with pytest.raises(InputError, match=r"reads the features price, and the dataset has stars"):
        warm_start_(other, ["a", "b", "c"], old, ["a", "b", "c"])


def test_a_start_from_champion_takes_its_own_schedule_and_a_share_of_the_batch() -> None:
    train = ResolvedTrainConfig(epochs=60, global_batch_events=8000, validate_every_epochs=3, weight_decay=0.1, seed=5)
    retrain = RetrainConfig(
        warm_epochs=4, warm_learning_rate=0.1, warm_batch_share=0.25, warm_validate_every_epochs=2, warm_keep=0.3
    )
    warm = warm_training(train, retrain)
    assert (warm.epochs, warm.learning_rate, warm.global_batch_events) == (4, 0.1, 2000)
    assert (warm.validate_every_epochs, warm.warm_start_keep) == (2, 0.3)
    assert (warm.weight_decay, warm.seed) == (0.1, 5)
    for whole, share in ((2000, 1024), (1000, 1000)):  # a small log's batches are small enough
        small = train.model_copy(update={"global_batch_events": whole})
        assert warm_training(small, retrain).global_batch_events == share


def test_a_catalogue_of_one_item_can_grow() -> None:
    old, new = MGDSC(CONFIG, 1), MGDSC(CONFIG, 3)
    warm_start_(new, ["a", "b", "c"], old, ["a"])
    torch.testing.assert_close(new.embedding.weight[2], old.embedding.weight[1])


def test_biases_are_no_matrices() -> None:
    """The attention fusion has one a level and head; they are neither decayed nor mixed with a random start."""
    model = MGDSC(CONFIG, 3)
    bias = model.fusion.level_bias
    decayed, free = (group["params"] for group in make_optimizer(model, TrainConfig()).param_groups)
    assert bias.dim() == 2
    assert any(parameter is bias for parameter in free)
    assert any(parameter is model.embedding.weight for parameter in decayed)
    assert len(decayed) + len(free) == len(list(model.parameters()))
    torch.nn.init.ones_(bias)
    new = MGDSC(CONFIG, 3)
    warm_start_(new, ["a", "b", "c"], model, ["a", "b", "c"], keep=0.5)
    assert (new.fusion.level_bias == 1).all()
