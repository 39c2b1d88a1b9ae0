"""Requests: a history as a service gets it, raw item ids and lists beside them, and as a model reads it."""

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from numbers import Real
from typing import Any, assert_never
from uuid import UUID

import numpy as np
import numpy.typing as npt

from mgray.config import ResolvedModelConfig
from mgray.data.columns import Columns
from mgray.data.dataset import Dataset
from mgray.data.inputs import InputSpec, read_columns
from mgray.data.item_numbers import ItemIndex
from mgray.data.moments import standardize, unscale
from mgray.errors import InputError
from mgray.ingest.spelling import id_spelling
from mgray.schema import COLUMN_BY_NAME, EVENT_COLUMNS, PAD, UNKNOWN, EventColumn

Lists = Mapping[str, Sequence[Sequence[Any]]]  # EventColumn.list_name -> a list for each history
SHOWN_CHARS = 60  # characters of a wrong value in an error
NO_NUMBER = (str, bytes, bool, np.bool_, list, tuple, np.ndarray)  # not numbers, though float() takes some of them


def id_text_of(value: Any, where: str) -> str:
    """The raw id that a client's value spells, by the rule of ids (`mgray.ingest.spelling`): 123, 123.0 -> `123`.

    Raises InputError, which begins with `where`, for null, a truth value, and anything else that is no id. Text without
    an id in it is no error, but an item that no model knows.
    """
    if isinstance(value, str):
        return id_spelling(str(value)) or ""
    is_number = isinstance(value, (Real, Decimal)) and not isinstance(value, (bool, np.bool_))
    spelled = id_spelling(value) if isinstance(value, UUID) or (is_number and np.isfinite(float(value))) else None
    if spelled is None:
        raise InputError(f"{where}: {shown(value)} is neither text nor a whole number; leave out what has no id")
    return spelled


def shown(value: Any) -> str:
    """A wrong value as an error shows it: `null` as JSON spells it, a long value cut."""
    plain = value.item() if isinstance(value, np.generic) else value
    text = "null" if plain is None else repr(plain)
    return text if len(text) <= SHOWN_CHARS else f"{text[: SHOWN_CHARS - 3]}..."


def is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.ndim > 0)


def id_list(value: Any, where: str) -> list[str]:
    """Raw ids of a client's list (or set, array, series); None is an empty list.

    Raises InputError, which begins with `where`, for anything else (text is no list), and as `id_text_of` does.
    """
    if value is None:
        return []
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise InputError(f"{where} must be a list of item ids, not {shown(value)}")
    return [item if type(item) is str else id_text_of(item, where) for item in value]


def number_list(values: Sequence[Any]) -> npt.NDArray[np.float64]:
    """A client's list as numbers, NaN for null. Raises TypeError or ValueError for text and truth values."""
    wrong = {kind for kind in set(map(type, values)) if issubclass(kind, NO_NUMBER)}
    if wrong:
        raise TypeError(f"{shown(next(value for value in values if type(value) in wrong))} is no number")
    return np.asarray([np.nan if value is None else float(value) for value in values], dtype=np.float64)


def raw_lists(histories: Sequence[Columns], dataset: Dataset, spec: InputSpec) -> dict[str, list[list[Any]]]:
    """Histories of `dataset` as a request: raw item ids as `history`, and a list for each event column beside it.

    spec: the InputSpec of the model that is asked; the dataset must have its features.
    """
    rows = [_raw_row(columns, dataset, spec) for columns in histories]
    return {name: [row[name] for row in rows] for name in rows[0]} if rows else {"history": []}


def _raw_row(columns: Columns, dataset: Dataset, spec: InputSpec) -> dict[str, list[Any]]:
    row: dict[str, list[Any]] = {"history": dataset.item_ids.take(columns.items.astype(np.int64) - 1)}
    present = columns.present()
    for column in EVENT_COLUMNS:
        if column.name in present:
            row[column.list_name] = _raw_values(column, present[column.name], dataset, spec)
    return row


def _raw_values(column: EventColumn, values: npt.NDArray[Any], dataset: Dataset, spec: InputSpec) -> list[Any]:
    """The values of an event column as a client writes them."""
    match column.kind:
        case "time":
            times: list[Any] = values.tolist()
            return times
        case "number":
            return [None if np.isnan(value) else float(value) for value in values]
        case "name":
            names = [None, *(kind.name for kind in dataset.manifest.event_types)]
            return [names[number] for number in values]
        case "vector":
            own = dataset.manifest.features
            place = {feature.name: i for i, feature in enumerate(own)}
            raw = unscale(values, *np.asarray([(one.mean, one.std) for one in own]).T)
            rows: list[Any] = raw[:, [place[feature.name] for feature in spec.features]].tolist()
            return rows
        case _:
            assert_never(column.kind)


class HistoryEncoder:
    """Encodes histories for one model: raw item ids, and the lists beside them, as numbers. Drops unknown items."""

    def __init__(self, item_ids: Sequence[str], config: ResolvedModelConfig, spec: InputSpec) -> None:
        self.spec = spec
        self.columns = [COLUMN_BY_NAME[name] for name in sorted(read_columns(config))]
        self.names = tuple(column.list_name for column in self.columns)  # lists needed beside `history`
        self.index = ItemIndex(item_ids)
        self._event_type = {name: i for i, name in enumerate(spec.event_types, start=1)}

    def number(self, item: str) -> int:
        """The number of a raw id in any spelling of it; PAD: not known."""
        return self._numbers([item])[0]

    def _numbers(self, items: Sequence[str]) -> list[int]:
        return [PAD if number == UNKNOWN else number for number in self.index.numbers(items)]

    def check(self, num_histories: int, beside: Lists) -> None:
        """Raises InputError where a list that the model needs is missing."""
        for column in self.columns:
            name = column.list_name
            if name not in beside:
                raise InputError(
                    f"the model reads {name}, which are not given: put a column {name} beside history, in each row a "
                    f"list as long as the history's ({column.meaning})"
                )
            if len(beside[name]) != num_histories:
                raise InputError(f"{name}: {len(beside[name])} lists for {num_histories} histories; give one for each")

    def encode_all(self, histories: Sequence[Sequence[Any]], beside: Lists) -> list[tuple[Columns, int]]:
        """`encode` every history; where all are empty, the lists beside them may be missing.

        Raises InputError as `check` and `encode` do.
        """
        if all(history is None or (is_list(history) and not len(history)) for history in histories):
            beside = {**dict.fromkeys(self.names, [()] * len(histories)), **beside}
        self.check(len(histories), beside)
        return [self.encode(histories, beside, row) for row in range(len(histories))]

    def numbers_of(self, items: Any, where: str) -> list[int]:
        """Numbers of a list of raw ids, PAD for an unknown item. Raises InputError as `id_list` does."""
        return self._numbers(id_list(items, where))

    def encode(self, histories: Sequence[Sequence[Any]], beside: Lists, row: int) -> tuple[Columns, int]:
        """History number `row` -> (its events on known items, the number of unknown items).

        Raises InputError where the history is no list of ids, and where a list beside it has another length or values
        of another kind.
        """
        numbers = np.asarray(self.numbers_of(histories[row], f"row {row}: history"), dtype=np.int32)
        known = numbers != PAD
        given: dict[str, npt.NDArray[Any]] = {}
        for column in self.columns:
            name = column.list_name
            values = beside[name][row]
            values = [] if values is None else values
            if not is_list(values):
                raise InputError(
                    f"row {row}: {name} must be a list, a value for each item of history, not {shown(values)}"
                )
            if len(values) != len(numbers):
                raise InputError(
                    f"row {row}: {name} has {len(values)} values for the {len(numbers)} items of history; give one for "
                    "each"
                )
            given[column.name] = self._read(column, values, row)[known]
        return Columns(numbers[known], **given), int((~known).sum())

    def _read(self, column: EventColumn, values: Sequence[Any], row: int) -> npt.NDArray[Any]:
        """A client's list of an event column -> [E], or [E, F] of vectors. Raises InputError as `encode` does."""
        name = column.list_name
        try:
            match column.kind:
                case "time" | "number":
                    numbers = number_list(values)
                case "name":
                    return np.asarray([self._event_type_number(value, name) for value in values], dtype=column.dtype)
                case "vector":
                    return self._features(values)
                case _:
                    assert_never(column.kind)
        except (TypeError, ValueError, OverflowError) as error:
            raise InputError(f"row {row}: {name} are not what they should be: {column.meaning} ({error})") from error
        with np.errstate(over="ignore"):
            read = numbers.astype(column.dtype)
        if np.isinf(read).any():
            raise InputError(f"row {row}: {name} must be finite numbers ({column.meaning})")
        if column.kind == "time" and (np.isnan(read).any() or (np.diff(read) < 0).any()):
            raise InputError(f"row {row}: {name} must be {column.meaning}, one for each item of history")
        return read

    def _event_type_number(self, value: Any, where: str) -> int:
        """The model's number of an event type; 0 for none and for a type that it does not know."""
        if value is None or (isinstance(value, float) and np.isnan(value)):
            return 0
        return self._event_type.get(value if isinstance(value, str) else id_text_of(value, where), 0)

    def _features(self, values: Sequence[Any]) -> npt.NDArray[np.float32]:
        count = len(self.spec.features)
        rows = [(None,) * count if value is None else value if is_list(value) else (value,) for value in values]
        for row in rows:
            if len(row) != count:
                raise ValueError(f"{shown(row)} is not {count} numbers")
        table = number_list([value for row in rows for value in row]).reshape(len(rows), count)
        with np.errstate(over="ignore"):
            standard = standardize(table, *np.asarray([(one.mean, one.std) for one in self.spec.features]).T)
        if np.isinf(table).any() or np.isinf(standard).any():
            raise ValueError("a feature is infinite")
        return standard
