"""Casts columns of Parquet to types that polars reads. Ids are spelled by the rule of `mgray.ingest.spelling`."""

from collections.abc import Callable

import numpy as np
import polars as pl
import pyarrow as pa

from mgray.ingest.spelling import positional


def readable(values: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Casts values to a type that polars reads. Raises ArrowInvalid for bytes that are no UTF-8."""
    kind, types = values.type, pa.types
    if types.is_dictionary(kind) and not (types.is_string(kind.value_type) or types.is_large_string(kind.value_type)):
        return readable(values.cast(kind.value_type))
    if isinstance(kind, pa.UuidType):
        return uuid_text(values).cast(pa.string())
    if isinstance(kind, pa.BaseExtensionType):
        return readable(values.cast(kind.storage_type))
    if types.is_decimal256(kind):
        try:
            return values.cast(pa.decimal128(38, kind.scale))
        except pa.ArrowInvalid:
            return decimal_text(values).cast(pa.string())
    if types.is_decimal32(kind) or types.is_decimal64(kind):
        return values.cast(pa.decimal128(38, kind.scale))
    if types.is_float16(kind):
        return values.cast(pa.float32())
    if types.is_fixed_size_binary(kind):
        return values.cast(pa.binary()).cast(pa.string())
    if types.is_large_binary(kind):
        return values.cast(pa.large_string())
    if types.is_binary(kind) or types.is_string_view(kind) or types.is_binary_view(kind):
        return values.cast(pa.string())
    return values


def uuid_text(column: pa.Array | pa.ChunkedArray) -> pa.ChunkedArray:
    """Spells UUIDs as a dictionary of their 36 characters."""
    return _by_value(column.cast(column.type.storage_type), _uuid_text)


def decimal_text(column: pa.Array | pa.ChunkedArray) -> pa.ChunkedArray:
    """Spells decimals of any width as a dictionary of text in its shortest form."""
    return _by_value(column, _decimal_text)


def _by_value(column: pa.Array | pa.ChunkedArray, spell: Callable[[pa.Array], pa.Array]) -> pa.ChunkedArray:
    """Spells a column as a dictionary of text; each distinct value is spelled once."""
    encoded = column.dictionary_encode()
    chunks = encoded.chunks if isinstance(encoded, pa.ChunkedArray) else [encoded]
    spelled = [pa.DictionaryArray.from_arrays(chunk.indices, spell(chunk.dictionary)) for chunk in chunks]
    return pa.chunked_array(spelled, pa.dictionary(pa.int32(), pa.string()))


def _uuid_text(values: pa.FixedSizeBinaryArray) -> pa.Array:
    """Spells values of 16 bytes as 36 characters, [D] -> [D]."""
    count = len(values)
    raw = np.frombuffer(values.buffers()[1], np.uint8)[16 * values.offset :][: 16 * count].reshape(count, 16)
    text = np.full((count, 36), ord("-"), np.uint8)
    digits = np.frombuffer(b"0123456789abcdef", np.uint8)[np.stack([raw >> 4, raw & 15], 2).reshape(count, 32)]
    text[:, [place for place in range(36) if place not in (8, 13, 18, 23)]] = digits
    offsets = np.arange(count + 1, dtype=np.int32) * 36
    return pa.StringArray.from_buffers(count, pa.py_buffer(offsets), pa.py_buffer(text.tobytes()))


def _decimal_text(values: pa.Array) -> pa.Array:
    """Spells decimals in their shortest form, [D] -> [D]. Arrow writes zeros up to the scale, and exponents."""
    text = pl.Series(pl.from_arrow(values.cast(pa.string())))
    odd = text.str.contains(r"E|\.")
    spelled = text.scatter(odd.arg_true(), [positional(number) for number in text.filter(odd)]) if odd.any() else text
    return spelled.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(pa.string())
