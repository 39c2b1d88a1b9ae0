"""Translates a dataset's numbers into those of a model trained on another one: by raw ids, by names, in raw units."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from mgray.data.columns import Columns
from mgray.data.dataset import Dataset, Query
from mgray.data.inputs import read_columns
from mgray.data.item_numbers import number_map
from mgray.data.manifest import Feature
from mgray.data.moments import fill, scale, unscale
from mgray.errors import InputError
from mgray.schema import EVENT_COLUMNS, UNKNOWN
from mgray.serve.model_folder import ModelInfo
from mgray.serve.rater import RatingQuery


def check_items_known(dataset: Dataset, item_ids: Sequence[str], asked: str) -> None:
    """Raises InputError where a model knows no item of the dataset's log.

    item_ids: the model's; asked: how the user named the model, the start of the error.
    """
    own = dataset.all_item_ids
    if (number_map(own, item_ids) == UNKNOWN).all():
        raise InputError(
            f"{asked}: knows none of the dataset's {len(own)} item ids, so it was trained on other ids (such "
            f"as {item_ids[0]!r}; the dataset has {own[0]!r}); choose another"
        )


class Translation:
    """Whole reads of `dataset` as a model reads them.

    A whole read (`Dataset.read`) names every event of the log, so the model gets every event that it knows, also of
    items outside the dataset's own vocabulary.
    """

    def __init__(self, dataset: Dataset, item_ids: Sequence[str], info: ModelInfo) -> None:
        """item_ids: the model's, item i at index i - 1.

        Raises InputError where the dataset lacks an event column or a feature that the model reads.
        """
        self.columns = read_columns(info.config)  # to be read of the dataset
        self.items = number_map(dataset.all_item_ids, item_ids)
        inputs = info.config.inputs
        there = {column for column in self.columns if dataset.manifest.has(column)}
        if dataset.all_event_types:  # of a whole read, which has the types that never train too
            there.add("event_types")
        lacking = sorted(column.inputs[0] for column in EVENT_COLUMNS if column.name in self.columns - there)
        if lacking:
            raise InputError(
                f"{dataset.folder}: the model reads {lacking[0]}, which this dataset does not have; ingest its log "
                "with that column (see data.columns), or choose another model"
            )
        self.event_types = np.zeros(0, np.int16)
        if "event_type" in inputs:
            number = {name: i for i, name in enumerate(info.inputs.event_types, start=1)}
            own = [number.get(name, 0) for name in dataset.all_event_types]
            self.event_types = np.asarray([0, *own], np.int16)
        self.features = _FeatureTranslation(dataset, info.inputs.features) if "features" in inputs else None

    def __call__(self, columns: Columns) -> tuple[Columns, npt.NDArray[np.bool_]]:
        """[E] of a whole read -> (the events on items that the model knows, which of the E they are)."""
        items = self.items[columns.items]
        known = items != UNKNOWN
        kept = replace(columns.only(self.columns).take(known), items=items[known])
        if kept.event_types is not None:
            kept = replace(kept, event_types=self.event_types[kept.event_types])
        if kept.features is not None and self.features is not None:
            kept = replace(kept, features=self.features(kept.features))
        return kept, known

    def query(self, query: Query) -> Query:
        """A query of a whole read, in the model's numbers; a target that the model does not know is UNKNOWN."""
        return replace(query, history=self(query.history)[0], target=int(self.items[query.target]))

    def rating_query(self, query: RatingQuery) -> RatingQuery:
        """A rating query of a whole read, as `query`."""
        targets = self.items[query.targets].astype(np.int64)
        return query._replace(history=self(query.history)[0], targets=targets)


class _FeatureTranslation:
    """A dataset's standardized features in the model's selection, means and standard deviations."""

    def __init__(self, dataset: Dataset, wanted: tuple[Feature, ...]) -> None:
        place = {feature.name: i for i, feature in enumerate(dataset.manifest.features)}
        lacking = [feature.name for feature in wanted if feature.name not in place]
        if lacking:
            raise InputError(
                f"{dataset.folder}: the model reads the feature {lacking[0]}, which this dataset does not have; ingest "
                "its log with that column (data.columns.features), or choose another model"
            )
        self.places = [place[feature.name] for feature in wanted]
        given = [dataset.manifest.features[i] for i in self.places]
        self.is_same = given == list(wanted)
        self.given = np.array([(feature.mean, feature.std) for feature in given]).T
        self.wanted = np.array([(feature.mean, feature.std) for feature in wanted]).T

    def __call__(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """[E, F of the dataset], NaN = missing -> [E, F of the model], as the model reads them."""
        chosen = features[:, self.places]
        if not self.is_same:
            chosen = scale(unscale(chosen, *self.given), *self.wanted)
        return fill(chosen, *self.wanted)
