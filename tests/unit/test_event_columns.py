"""The table of event columns, and the records that have a field for each of them."""

from collections import Counter
from dataclasses import fields
from typing import get_args

import numpy as np
import pytest

from mgray.config import ColumnsConfig
from mgray.config.granularity import read_spelled
from mgray.data.columns import Columns
from mgray.data.inputs import Inputs
from mgray.data.padding import left_pad
from mgray.report.plots import granularity_name
from mgray.schema import AUTO_INPUTS, EVENT_COLUMNS, HISTORY_SCHEMA, EventColumn, Input, OptionalColumn


def test_the_records_have_a_field_for_each_column() -> None:
    names = {column.name for column in EVENT_COLUMNS}
    assert names == set(get_args(OptionalColumn))
    assert {field.name for field in fields(Columns)} == {"items", *names} == set(Inputs._fields)
    options = set(ColumnsConfig.model_fields)
    assert all(column.role in options or column.kind == "vector" for column in EVENT_COLUMNS)


def test_each_input_reads_one_column() -> None:
    readers = Counter(name for column in EVENT_COLUMNS for name in column.inputs)
    assert readers == Counter(get_args(Input))
    assert AUTO_INPUTS == ("event_type", "features", "rating", "time_gap")


@pytest.mark.parametrize("column", EVENT_COLUMNS, ids=lambda column: column.name)
def test_a_column_is_stored_and_padded_as_the_table_says(column: EventColumn) -> None:
    assert HISTORY_SCHEMA.field(column.list_name).type.value_type.to_pandas_dtype() is column.dtype
    values = np.ones((2, 3) if column.kind == "vector" else 2, column.dtype)
    read = Columns(np.array([5, 6], np.int32), **{column.name: values})
    assert read.take(slice(1, 2)).present()[column.name].shape == (1, *values.shape[1:])
    assert set(read.only([]).present()) == {"items"}
    short = Columns(np.array([7], np.int32), **{column.name: values[:1]})
    padded = left_pad([read, short], 4, [column.name]).present()
    assert set(padded) == {"items", column.name}
    batch = padded[column.name].numpy()
    assert batch.dtype == column.batch_dtype
    assert (batch[0] == 1).all()
    assert (batch[1, -1] == 1).all()
    np.testing.assert_array_equal(batch[1, 0], np.full(values.shape[1:], column.padding))


def test_kinds_of_granularity_answer_for_themselves() -> None:
    names = ["1", "4", "decay:1..400", "12h", "session:30m", "weekly"]
    kinds = [read_spelled(name) for name in names]
    assert [None if kind is None else kind.reads_times for kind in kinds] == [False, False, False, True, True, None]
    assert [granularity_name(name) for name in names] == [
        "every event",
        "stride of 4 events",
        "decay, 1 to 400 events",
        "12h",
        "session:30m",
        "weekly",
    ]
