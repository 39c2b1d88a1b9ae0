"""Recommender: raw item ids in, raw item ids with scores out, for a service, a notebook or a batch job.

A whole number is the raw id that its digits spell: 123 and 123.0 are `123`.

Legend: `U` users, `V` items, `D` width of a model, `M` members of an ensemble, 1 of a single model.
"""

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mgray.data.columns import Columns, concatenate
from mgray.data.inputs import Inputs
from mgray.data.padding import left_pad, plan_batches
from mgray.errors import InputError
from mgray.schema import PAD, UNKNOWN
from mgray.serve.catalogue import LeftOut
from mgray.serve.explain import explain
from mgray.serve.model_folder import load_memory, load_model
from mgray.serve.rater import ModelRater, RatingQuery
from mgray.serve.request import HistoryEncoder, Lists
from mgray.serve.score_blocks import AddedScores, ModelScores, ScoreBlocks
from mgray.serve.scorer import ModelScorer
from mgray.serve.top_k import BATCH_EVENTS, Items, best_items, rank_lists


class Recommendations(NamedTuple):
    items: list[list[str]]  # best first; shorter than k where no more items may be recommended
    scores: list[list[float]]
    num_unknown: list[int]  # history items outside the vocabulary, skipped


class Reasons(NamedTuple):
    """Why a list's first item is there; all empty where no known event led to it. In units of the score."""

    granularities: list[str]  # levels as the config spells them, finest first; then of memory, `pairs: 10`
    granularity_scores: list[float]  # what each adds to the score; biases add the rest
    events: list[str]  # items of the last events, oldest first
    event_scores: list[float]  # the score less the score without the event


class UserState(NamedTuple):
    """Fixed-size summary of a user's events, from which `Recommender.extend` goes on."""

    state: Any  # the model's, of a batch of one
    interest: Tensor | None  # [1, M D], after the last known event; None: there was none
    num_unknown: int  # events so far outside the vocabulary, skipped
    recent: Columns | None = None  # the last known events that memory looks up; None: the model has none


def _check_k(k: int) -> None:
    if k < 1:
        raise InputError(f"k: {k} is not a number of items to recommend; give at least 1")


class Recommender:
    """A saved model with its vocabulary. An empty history gets the recently popular items."""

    def __init__(self, folder: str | Path, device: torch.device | None = None) -> None:
        self.device = device or torch.device("cpu")
        self.model, self.info, self.vocabulary = load_model(folder, self.device)
        self.encoder = HistoryEncoder(self.vocabulary.item_ids, self.info.config, self.info.inputs)
        self.memory = load_memory(folder, self.info)
        self.scorer = ModelScorer(
            self.model, self.vocabulary.popularity, self.info.max_length, self.device, self.memory
        )

    def recommend(
        self,
        histories: Sequence[Sequence[str]],
        k: int = 10,
        remove_seen: bool | None = None,
        beside: Lists = MappingProxyType({}),
        candidates: Sequence[str] | None = None,
        blocked: Sequence[str] = (),
    ) -> Recommendations:
        """Top k of the full catalogue for each history of raw item ids, oldest first.

        remove_seen: leave out what is in the history; None: as the model was measured. beside: `encoder.names` -> a
        list for each history, a value for each of its items. candidates: the items that may be recommended, None: all;
        blocked: items that may not, whatever else; what the model does not know is neither. Raises InputError where k
        is not at least 1, and where what the model reads beside item ids is missing or not what it should be.
        """
        _check_k(k)
        encoded = self.encoder.encode_all(histories, beside)
        offsets = np.cumsum([0, *(len(columns) for columns, _ in encoded)])
        without_seen = self.info.remove_seen if remove_seen is None else remove_seen
        columns = concatenate([columns for columns, _ in encoded])
        barred = self._barred(candidates, blocked)
        lists = rank_lists(self.scorer, columns, offsets, k, without_seen, barred)
        return self._listed(lists.items, lists.scores, [unknown for _, unknown in encoded])

    @torch.no_grad()
    def interests(
        self, histories: Sequence[Sequence[str]], beside: Lists = MappingProxyType({})
    ) -> npt.NDArray[np.float32]:
        """The interest of each history's user, [U, M D], for an index of item vectors; zero without a known item.

        The products with `item_vectors` are the learned part of the scores of `recommend`: all of them where the model
        has no memory. beside, errors: see there.
        """
        columns = [own for own, _ in self.encoder.encode_all(histories, beside)]
        width = self.model.config.width * self.model.config.members
        found = np.zeros((len(columns), width), np.float32)
        lengths = np.asarray([len(own) for own in columns], dtype=np.int64)
        known = np.flatnonzero(lengths)
        for rows in plan_batches(np.minimum(lengths[known], self.info.max_length), BATCH_EVENTS):
            inputs = self._padded([columns[row] for row in known[rows]], self.info.max_length)
            found[known[rows]] = self.model.fuse(inputs, only_last=True)[0][:, -1].float().cpu().numpy()
        return found

    def _padded(self, histories: Sequence[Columns], max_length: int) -> Inputs:
        return left_pad(histories, max_length, self.scorer.columns).map(lambda column: column.to(self.device))

    @torch.no_grad()
    def item_vectors(self) -> npt.NDArray[np.float32]:
        """[V, M D], in the order of `vocabulary.item_ids`: inner product with an interest is the learned score."""
        return self.model.item_table()[1:].cpu().numpy().copy()  # not the model's own memory

    @torch.no_grad()
    def remembered(self, histories: Sequence[Sequence[str]], beside: Lists = MappingProxyType({})) -> list[list[str]]:
        """The items whose scores memory raises, of each history, for `candidates` beside an index's; in no order.

        Empty where the model has no memory. beside, errors: as of `recommend`.
        """
        if self.memory is None:
            return [[] for _ in histories]
        found: list[list[str]] = []
        for columns, _ in self.encoder.encode_all(histories, beside):
            added = self.memory.scores(left_pad([columns], self.info.max_length, self.scorer.columns))
            found.append(list(self.vocabulary.item_ids.take(added.indices[added.data > 0].astype(np.int64) - 1)))
        return found

    def _barred(self, candidates: Sequence[str] | None, blocked: Sequence[str]) -> npt.NDArray[np.int64] | None:
        """Numbers of the items that may not be recommended; None: all may."""
        if candidates is None and not len(blocked):
            return None
        is_barred = np.full(self.model.num_items + 1, candidates is not None)
        is_barred[PAD] = False  # never recommended as it is
        is_barred[self._known(candidates, "candidates")] = False
        is_barred[self._known(blocked, "blocked")] = True
        return np.flatnonzero(is_barred)

    def _known(self, items: Sequence[str] | None, where: str) -> list[int]:
        """Numbers of the items that the model knows; others are left out."""
        return [number for number in self.encoder.numbers_of(items, where) if number != PAD]

    def _listed(self, items: Items, scores: npt.NDArray[np.float32], num_unknown: list[int]) -> Recommendations:
        """items, scores: [U, k], PAD where a list is shorter."""
        lengths = (items != PAD).sum(1).tolist()
        ids = iter(self.vocabulary.item_ids.take(items[items != PAD].astype(np.int64) - 1))  # of all rows at once
        return Recommendations(
            [list(islice(ids, length)) for length in lengths],
            [row[:length] for row, length in zip(scores.tolist(), lengths, strict=True)],
            num_unknown,
        )

    def begin(self) -> UserState:
        """The state of a user without an event."""
        return UserState(self.model.initial_state(1), None, 0)

    @torch.no_grad()
    def extend(
        self, user: UserState, events: Sequence[str], beside: Mapping[str, Sequence[Any]] = MappingProxyType({})
    ) -> UserState:
        """A user after more events, raw item ids, oldest first. Only what memory looks up is kept of earlier ones.

        Equals reading the whole history, of any length (`recommend` reads its last `info.max_length` events). beside:
        `encoder.names` -> a value for each event. Raises InputError as `recommend` does, and where a time is before the
        user's last one.
        """
        lists = {name: [values] for name, values in beside.items()}
        ((columns, unknown),) = self.encoder.encode_all([events], lists)
        count = len(columns)
        if not count:
            return user._replace(num_unknown=user.num_unknown + unknown)
        last_time = float(self.model.last_time(user.state))
        if columns.times is not None and columns.times[0] < last_time:
            raise InputError(f"timestamps: {columns.times[0]} is before the user's last event, at {last_time}")
        # Padding would stand between the state and these events, and count as time between them.
        inputs = self._padded([columns], count).map(lambda column: column[:, -count:])
        state, interest = self.model.extend(user.state, inputs, only_last=True)
        return UserState(state, interest[:, -1].clone(), user.num_unknown + unknown, self._recent(user, columns))

    def _recent(self, user: UserState, columns: Columns) -> Columns | None:
        """The events that memory looks up, after `columns` more."""
        if self.memory is None:
            return None
        events = columns if user.recent is None else concatenate([user.recent, columns])
        last = events.take(slice(-min(self.memory.num_events, self.info.max_length), None))
        # The arrays are slices, each of which would keep all the events in memory.
        return last.only(self.memory.columns).take(np.arange(len(last)))

    @torch.no_grad()
    def recommend_next(
        self,
        users: Sequence[UserState],
        k: int = 10,
        seen: Sequence[Sequence[str]] = (),
        candidates: Sequence[str] | None = None,
        blocked: Sequence[str] = (),
    ) -> Recommendations:
        """`recommend` for users given by their states.

        seen: raw item ids to leave out, a list for each user, since a state does not hold them; empty: leave out none.
        """
        _check_k(k)
        if seen and len(seen) != len(users):
            raise InputError(f"seen: {len(seen)} lists for {len(users)} users; give one for each")
        barred = self._barred(candidates, blocked)
        had = [self._known(own, f"row {row}: seen") for row, own in enumerate(seen)]
        items, values = best_items(self._scores(users), min(k, self.model.num_items), LeftOut.of(had, barred))
        return self._listed(items, values, [user.num_unknown for user in users])

    def _scores(self, users: Sequence[UserState]) -> ScoreBlocks:
        empty = torch.tensor([row for row, user in enumerate(users) if user.interest is None], dtype=torch.int64)
        interest = torch.zeros(len(users), self.model.config.width * self.model.config.members, device=self.device)
        for row, user in enumerate(users):
            if user.interest is not None:
                interest[row] = user.interest[0]
        learned = ModelScores(self.model, interest, self.scorer.popularity, empty.to(self.device))
        if self.memory is None:
            return learned
        nothing = Columns(np.zeros(0, np.int32), times=np.zeros(0) if self.memory.columns else None)
        recent = [nothing if user.recent is None else user.recent for user in users]
        events = left_pad(recent, self.info.max_length, self.memory.columns)
        return AddedScores(learned, self.memory.scores(events))

    def empty_request(self) -> dict[str, list[list[Any]]]:
        """One user without a history, in every column that the model reads."""
        return {name: [[]] for name in ("history", *self.encoder.names)}

    def rate(
        self,
        histories: Sequence[Sequence[str]],
        targets: Sequence[Sequence[str]],
        beside: Lists = MappingProxyType({}),
    ) -> list[list[float]]:
        """The rating that each history's user would give each of its target items, in the log's units.

        An item outside the vocabulary gets the user's mean. Raises InputError where the model has no rating head, and
        as `recommend` does.
        """
        if self.model.rating_head is None:
            raise InputError("targets: this model does not rate; train one with --model.outputs both")
        if len(targets) != len(histories):
            raise InputError(f"targets: {len(targets)} lists for {len(histories)} histories; give one for each")
        known = [own for own, _ in self.encoder.encode_all(histories, beside)]
        asked = [
            np.asarray(self.encoder.numbers_of(own, f"row {row}: targets"), dtype=np.int64)
            for row, own in enumerate(targets)
        ]
        rater = ModelRater(self.model, self.info.max_length, self.device)
        lengths = np.asarray([len(columns) for columns in known], dtype=np.int64)
        rated: list[list[float]] = [[] for _ in known]
        for rows in plan_batches(np.minimum(lengths, self.info.max_length), BATCH_EVENTS):
            queries = []
            for row in rows:
                numbers = asked[row]
                blank = np.zeros(len(numbers), np.float32)  # what the rater is to tell
                queries.append(RatingQuery(known[row], np.where(numbers == PAD, UNKNOWN, numbers), blank))
            ends = np.cumsum([len(query.targets) for query in queries])[:-1]
            for row, ratings in zip(rows, np.split(rater(queries).numpy(), ends), strict=True):
                rated[row] = ratings.tolist()
        return rated

    def explain(
        self,
        histories: Sequence[Sequence[str]],
        recommended: Recommendations,
        beside: Lists = MappingProxyType({}),
    ) -> list[Reasons]:
        """Why the first item of each list that `recommend` gave for these histories is in it; see mgray.serve.explain.

        Raises InputError as `recommend` does.
        """
        found = []
        encoded = self.encoder.encode_all(histories, beside)
        for (columns, _), items in zip(encoded, recommended.items, strict=True):
            if not items or not len(columns):
                found.append(Reasons([], [], [], []))
                continue
            inputs = self._padded([columns], self.info.max_length)
            explained = explain(self.model, inputs, self.encoder.number(items[0]), memory=self.memory)
            last = columns.items[len(columns) - len(explained.events) :]
            found.append(
                Reasons(
                    [*map(str, self.info.config.granularities), *(one.label for one in explained.recalled)],
                    [*explained.levels, *(one.score for one in explained.recalled)],
                    self.vocabulary.item_ids.take(np.asarray(last, dtype=np.int64) - 1),
                    explained.events,
                )
            )
        return found
