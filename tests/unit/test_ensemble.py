"""An ensemble is its members: scores, losses, explanations are their means, and none learns from another."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mgray.config import TrainConfig
from mgray.data.inputs import Inputs
from mgray.model.ensemble import Ensemble
from mgray.serve.explain import explain
from mgray.serve.model_folder import ModelInfo, Vocabulary, load_model, save_model
from mgray.serve.scorer import ModelScorer
from mgray.testing.synthetic import make_log
from mgray.train.item_init import start_items_
from mgray.train.negatives import draw_uniform
from mgray.train.objective import Objective
from mgray.train.resolve import resolve_train
from mgray.train.trainer import Logged, Trainer
from mgray.train.warm_start import warm_start_
from tests.datasets import write_dataset
from tests.models import model_config
from tests.perturbed import NUM_ITEMS, SPEC, make_ensemble, make_inputs

CPU = torch.device("cpu")
CONFIG = model_config(width=8, heads=2, granularities=(1, 4, "decay:1..9"), dropout=0.0, members=3)
TRAIN = TrainConfig(loss_precision="fp32")


def test_its_scores_are_the_mean_of_its_members_and_its_shares_theirs() -> None:
    model, inputs = make_ensemble(CONFIG), make_inputs(12)
    interest, share = model.fuse(inputs)
    assert interest.shape == (2, 12, 24)
    torch.testing.assert_close(interest, model(inputs))
    torch.testing.assert_close(model.fuse(inputs, only_last=True)[0], interest[:, -1:])
    fused = [member.fuse(inputs) for member in model.members]
    expected = sum(member.score(own[:, -1]) for member, (own, _) in zip(model.members, fused, strict=True)) / 3
    torch.testing.assert_close(model.score(interest[:, -1]), expected)
    torch.testing.assert_close((interest[:, -1] @ model.item_table().T)[:, 1:], expected[:, 1:])
    assert share is not None
    torch.testing.assert_close(share, torch.cat([share for _, share in fused], dim=-1))
    first, second, third = (own for own, _ in fused)
    assert not torch.allclose(first, second)
    assert not torch.allclose(second, third)


def test_one_event_at_a_time_equals_the_whole_history() -> None:
    model, inputs = make_ensemble(CONFIG), make_inputs(15)
    with torch.no_grad():
        whole, state = model(inputs), model.initial_state(2)
        for t in range(15):
            state, interest = model.step(state, inputs.map(lambda column: column[:, t : t + 1]))  # noqa: B023
            torch.testing.assert_close(interest, whole[:, t], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("loss", ["softmax", "sampled_softmax", "gbce"])
def test_the_loss_is_the_mean_of_the_members_own(loss: str) -> None:
    """So each has a third of the gradient that it would have alone, and nothing of another's."""
    model, inputs = make_ensemble(CONFIG), Inputs(make_inputs(12).items)
    targets = inputs.items.roll(-1, 1)
    config = TRAIN.model_copy(update={"loss": loss})
    negatives = None if loss == "softmax" else draw_uniform(NUM_ITEMS, 20, torch.Generator().manual_seed(1))
    together = Objective(model, config, CPU, exclude_seen=True)(inputs, targets, negatives)
    together.backward()
    gradients = [[p.grad.clone() for p in member.parameters()] for member in model.members]
    model.zero_grad()
    alone = [Objective(member, config, CPU, exclude_seen=True)(inputs, targets, negatives) for member in model.members]
    torch.testing.assert_close(together, sum(alone) / 3)
    for member, own, expected in zip(model.members, alone, gradients, strict=True):
        own.backward()
        for parameter, gradient in zip(member.parameters(), expected, strict=True):
            torch.testing.assert_close(gradient, parameter.grad / 3, rtol=1e-3, atol=1e-5)


def test_an_explanation_adds_up_to_the_mean_score() -> None:
    model, inputs = make_ensemble(CONFIG), make_inputs(12, rows=1)
    explained = explain(model, inputs, item=7, num_events=4)
    score = model.score(model(inputs)[:, -1])[0, 7].item()
    assert explained.score == pytest.approx(score, abs=1e-5)
    assert sum(explained.levels) + explained.rest == pytest.approx(score, abs=1e-5)
    without_last = inputs.map(lambda column: column[:, :-1])
    lost = score - model.score(model(without_last)[:, -1])[0, 7].item()
    assert explained.events[-1] == pytest.approx(lost, abs=1e-5)
    assert len(explained.events) == 4


def test_cut_and_saved_it_is_the_ensemble_of_the_cut_members(tmp_path: Path) -> None:
    model, inputs = make_ensemble(CONFIG), make_inputs(9)
    smaller = model.cut(2)
    expected = torch.cat([member.cut(2)(inputs) for member in model.members], dim=-1)
    torch.testing.assert_close(smaller(inputs), expected)
    ids = [str(i) for i in range(NUM_ITEMS)]
    info = ModelInfo(config=smaller.config, num_items=NUM_ITEMS, max_length=50, dataset_fingerprint="test")
    save_model(tmp_path, smaller.state_dict(), info, Vocabulary(ids, ids, [1] * NUM_ITEMS))
    loaded, _, _ = load_model(tmp_path, CPU)
    assert (len(loaded.members), len(loaded.config.granularities)) == (3, 2)
    torch.testing.assert_close(loaded(inputs), expected)


def test_a_warm_start_takes_each_member() -> None:
    old, new = make_ensemble(CONFIG), Ensemble(CONFIG, NUM_ITEMS + 1, SPEC).eval()
    ids = [str(i) for i in range(NUM_ITEMS)]
    assert warm_start_(new, ["new", *reversed(ids)], old, ids) == (NUM_ITEMS, 1)
    items = make_inputs(6).items
    before = old.score(old(Inputs(items))[:, -1])
    after = new.score(new(Inputs(NUM_ITEMS + 2 - items))[:, -1])
    torch.testing.assert_close(after[:, 2:].flip(1), before[:, 1:])


def test_members_start_from_the_same_vectors_turned_differently(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "v", make_log(60, 40))
    torch.manual_seed(0)
    model = Ensemble(model_config(width=64, members=2), dataset.num_items)
    start_items_(model, dataset, TRAIN)
    first, second = (member.embedding.weight.detach() for member in model.members)
    likeness = torch.stack([(first @ first.T)[1:, 1:].flatten(), (second @ second.T)[1:, 1:].flatten()])
    assert torch.corrcoef(likeness)[0, 1] > 0.95
    assert torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1].abs() < 0.2


def test_the_attention_of_every_members_heads_is_told() -> None:
    model = make_ensemble(CONFIG)
    scorer = ModelScorer(model, np.ones(NUM_ITEMS + 1, dtype=np.int64), 50, CPU)
    inputs = make_inputs(9)
    scorer.score_padded(inputs)
    expected = model.fuse(inputs)[1]
    assert expected is not None
    torch.testing.assert_close(torch.tensor(scorer.attention_share()), expected[:, -1].mean(0), rtol=1e-5, atol=1e-6)


def test_a_members_gradient_is_clipped_as_if_it_were_alone(tmp_path: Path) -> None:
    """The gradient of a mean loss has a third of each one's own, and so a third of the norm that it is held to."""
    dataset = write_dataset(tmp_path / "v", make_log(30, 40))
    limit = 1e-3  # far below what any has, so that all are clipped
    config = TRAIN.model_copy(update={"max_grad_norm": limit, "epochs": 1, "max_time_s": None})
    torch.manual_seed(0)
    model = Ensemble(CONFIG, dataset.num_items)
    trainer = Trainer(
        Objective(model, config, CPU, exclude_seen=True), model, dataset, resolve_train(config, dataset.manifest), CPU
    )
    trainer.optimizer = torch.optim.SGD(model.parameters(), lr=0)
    norms = []
    for event in trainer.run(lambda: {"ndcg@10": 0.0}, "ndcg@10", 1):
        if isinstance(event, Logged):
            squares = [[float(p.grad.square().sum()) for p in member.parameters()] for member in model.members]
            norms.append([sum(own) ** 0.5 for own in squares])
    assert norms
    for own in norms:
        assert own == pytest.approx([limit / 3] * 3, rel=1e-3)
