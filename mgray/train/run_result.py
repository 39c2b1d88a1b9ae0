"""Records of a training run: a point of its curve, and what a rank hands back at the end."""

from typing import NamedTuple

from pydantic import Field

from mgray.eval.metrics import Metrics, Number
from mgray.eval.slices import SliceFigures
from mgray.eval.valid_share import ValidShare
from mgray.model.memory import MemoryNumbers
from mgray.record import Record


class CurvePoint(Record):
    """One validation. Kept in a checkpoint's `state.json`, and drawn by the report."""

    step: int = Field(ge=0, description="optimizer steps taken")
    epoch: float = Field(ge=0, description="passes over the training part, 0.5 is half a pass")
    train_loss: Number | None = Field(default=None, description="loss per target; none: not logged at this step")
    learning_rate: Number | None = None
    valid: Metrics = Field(default={}, description="validation metrics; empty: not validated at this step")
    seconds: float = Field(default=0.0, ge=0, description="training time so far, seconds")


class RankResult(NamedTuple):
    """Result that a rank hands back to the driver. Rank 0's is the run's."""

    metrics: dict[str, float]  # of the test part
    num_targets: int
    slices: dict[str, list[SliceFigures]]  # slice kind -> its buckets in order
    attention: list[list[float]] | None  # share of each level in each head; None: a fusion without attention
    curve: list[CurvePoint]
    best_valid: dict[str, float]  # empty: train.include_valid
    best_epoch: float
    epochs: float  # that were trained; fewer than asked where max_time_s ended it
    steps: int
    positions: int  # trained on, over all ranks
    train_s: float
    device: str
    parameters: int
    valid_share: ValidShare = ValidShare(1.0, 1.0, 0.0)  # of the users, that validation was by
    memory: MemoryNumbers | None = None  # what is looked up beside what is learned
    memory_s: float = 0.0  # seconds that its fit took; no part of train_s
    memory_failure: str = ""  # why it was not fitted; empty: it was, or was not asked for
    valid_s: float = 0.0  # of train_s, in validations; of a resumed run since it went on


class RankMistake(NamedTuple):
    """Message that a rank hands back in place of a result where the user's input is wrong."""

    message: str
