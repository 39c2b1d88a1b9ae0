"""Histories as a service gets them, raw item ids and lists beside them, to the columns that a model reads."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mgray.columns import LIST_NAMES, Columns
from mgray.config import ModelConfig
from mgray.dataset import Dataset
from mgray.errors import InputError
from mgray.inputs import InputSpec, read_columns
from mgray.moments import standardize
from mgray.spelling import id_spelling

# What the lists beside `history` hold, a value for each of its items.
MEANINGS = {
    "timestamps": "seconds since 1970, oldest first",
    "event_types": "names of event types, none where an event has none",
    "ratings": "ratings, none where an event has none",
    "features": "lists of numbers in the order of the model's features, none where there is none",
}

Lists = Mapping[str, Sequence[Sequence[Any]]]  # raw name -> a list for each history


def raw_lists(histories: Sequence[Columns], dataset: Dataset, spec: InputSpec) -> dict[str, list[list[Any]]]:
    """Histories of `dataset` as a service sends them: raw ids as `history`, and beside it what the columns hold.

    spec: of the model that is asked; the dataset must have its features.
    """
    rows = [_raw_row(columns, dataset, spec) for columns in histories]
    return {name: [row[name] for row in rows] for name in rows[0]} if rows else {"history": []}


def _raw_row(columns: Columns, dataset: Dataset, spec: InputSpec) -> dict[str, list[Any]]:
    row: dict[str, list[Any]] = {"history": [dataset.item_ids[item - 1] for item in columns.items]}
    if columns.times is not None:
        row["timestamps"] = columns.times.tolist()
    if columns.event_types is not None:
        names = [None, *(kind.name for kind in dataset.manifest.event_types)]
        row["event_types"] = [names[number] for number in columns.event_types]
    if columns.ratings is not None:
        row["ratings"] = [None if np.isnan(rating) else float(rating) for rating in columns.ratings]
    if columns.features is not None:
        place = {feature.name: i for i, feature in enumerate(dataset.manifest.features)}
        mean, std = np.asarray([(feature.mean, feature.std) for feature in dataset.manifest.features]).T
        raw = columns.features * std + mean
        row["features"] = raw[:, [place[feature.name] for feature in spec.features]].tolist()
    return row


class HistoryEncoder:
    """Raw item ids of a history, and lists beside them, to the model's numbers; unknown items are left out."""

    def __init__(self, item_ids: Sequence[str], config: ModelConfig, spec: InputSpec) -> None:
        self.spec = spec
        self.names = tuple(LIST_NAMES[column] for column in sorted(read_columns(config)))  # needed beside `history`
        self.item_numbers = {item_id: i for i, item_id in enumerate(item_ids, start=1)}
        # a model of an earlier rule of ids may have spelled some in another way
        self._spelled = {id_spelling(item_id): i for item_id, i in reversed(self.item_numbers.items())}
        self._event_type = {name: i for i, name in enumerate(spec.event_types, start=1)}

    def number(self, item: Any) -> int:
        """The number of a raw item id (text, or a number as JSON and Python have it); 0: not known."""
        found = self.item_numbers.get(item) if isinstance(item, str) else None
        return self._spelled.get(id_spelling(item), 0) if found is None else found

    def check(self, num_histories: int, beside: Lists) -> None:
        """Raises InputError where a list that the model needs is missing."""
        for name in self.names:
            if name not in beside:
                raise InputError(
                    f"the model reads {name}, which are not given: put a column {name} beside history, in each row a "
                    f"list as long as the history's ({MEANINGS[name]})"
                )
            if len(beside[name]) != num_histories:
                raise InputError(f"{name}: {len(beside[name])} lists for {num_histories} histories; give one for each")

    def encode_all(self, histories: Sequence[Sequence[str]], beside: Lists) -> list[tuple[Columns, int]]:
        """Every history as `encode`. Raises InputError as `check` and `encode` do."""
        self.check(len(histories), beside)
        return [self.encode(histories, beside, row) for row in range(len(histories))]

    def encode(self, histories: Sequence[Sequence[str]], beside: Lists, row: int) -> tuple[Columns, int]:
        """History number `row` -> its events on known items, and how many were unknown.

        Raises InputError for a list beside it that has another length, or values that are not what it holds.
        """
        history = histories[row]
        numbers = np.asarray([self.number(item) for item in history], dtype=np.int32)
        known = numbers > 0
        given: dict[str, npt.NDArray[Any]] = {}
        for name in self.names:
            values = beside[name][row]
            values = [] if values is None else values
            if not isinstance(values, (list, tuple, np.ndarray)):
                raise InputError(f"row {row}: {name} must be a list, a value for each item of history, not {values!r}")
            if len(values) != len(history):
                raise InputError(
                    f"row {row}: {name} has {len(values)} values for the {len(history)} items of history; give one for "
                    "each"
                )
            given[name] = self._read(name, values, row)[known]
        columns = {column: given[name] for column, name in LIST_NAMES.items() if name in given}
        return Columns(numbers[known], **columns), int((~known).sum())

    def _read(self, name: str, values: Sequence[Any], row: int) -> npt.NDArray[Any]:
        try:
            if name == "event_types":
                return np.asarray([self._event_type.get(value, 0) for value in values], dtype=np.int16)
            if name == "features":
                return self._features(values)
            numbers = np.asarray([np.nan if value is None else value for value in values], dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise InputError(f"row {row}: {name} are not what they should be: {MEANINGS[name]}") from error
        if np.isinf(numbers).any():
            raise InputError(f"row {row}: {name} must be finite numbers ({MEANINGS[name]})")
        if name == "ratings":
            return numbers.astype(np.float32)
        if np.isnan(numbers).any() or (np.diff(numbers) < 0).any():
            raise InputError(f"row {row}: timestamps must be {MEANINGS[name]}, one for each item of history")
        return numbers

    def _features(self, values: Sequence[Any]) -> npt.NDArray[np.float32]:
        count = len(self.spec.features)
        rows = [[np.nan] * count if value is None else value for value in values]
        table = np.asarray(rows, dtype=np.float64).reshape(len(rows), count)
        if np.isinf(table).any():
            raise ValueError("a feature is infinite")
        return standardize(table, *np.asarray([(feature.mean, feature.std) for feature in self.spec.features]).T)
