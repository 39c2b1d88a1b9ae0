"""Hashes ids the same on every machine, and merges lists of ids that were made apart.

Legend: `E` entries, `D` distinct ids. A hash decides only where an id goes; their text decides whether two ids
are one.
"""

import sys
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Hashes = npt.NDArray[np.uint64]

assert sys.byteorder == "little", "stable_hash reads words as little-endian machines do"

_START, _MIX_1, _MIX_2 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)
_SHIFT = np.uint64(33)


def mix(value: Hashes) -> Hashes:
    """Mixes 64-bit words in place: the finalizer of murmur3, a bijection (Appleby 2011)."""
    value ^= value >> _SHIFT
    value *= _MIX_1
    value ^= value >> _SHIFT
    value *= _MIX_2
    value ^= value >> _SHIFT
    return value


def stable_hash(ids: pa.Array) -> Hashes:
    """Hashes each id's UTF-8 text to 64 bits, [E] -> [E]: the same on every machine, with every library version.

    The hashes of polars and pandas may change with their versions, and would move users to other shards. Words of 8
    bytes are mixed in one after the other, all ids at once.
    """
    if not len(ids):
        return np.zeros(0, np.uint64)
    is_large = pa.types.is_large_string(ids.type)
    offsets = np.frombuffer(ids.buffers()[1], np.int64 if is_large else np.int32)
    offsets = offsets[ids.offset : ids.offset + len(ids) + 1].astype(np.int64)
    text = ids.buffers()[2]
    raw = np.frombuffer(text, np.uint8) if text is not None else np.zeros(0, np.uint8)
    padded = np.zeros(offsets[-1] - offsets[0] + 8, np.uint8)
    padded[:-8] = raw[offsets[0] : offsets[-1]]
    words = np.ndarray((len(padded) - 7,), "<u8", padded.data, strides=(1,))  # the word that begins at each byte
    starts, lengths = offsets[:-1] - offsets[0], np.diff(offsets)
    value = (lengths.astype(np.uint64) + np.uint64(1)) * _START
    rows: npt.NDArray[np.int64] | slice = slice(None)
    for word in range(max(1, -(-int(lengths.max()) // 8))):
        if word:
            rows = np.flatnonzero(lengths > 8 * word)
        left = np.clip(lengths[rows] - 8 * word, 0, 8).astype(np.uint64)
        # shifting by 64 bits is undefined: an empty id's word is zero anyway
        unused = np.minimum((np.uint64(8) - left) * np.uint64(8), np.uint64(63))
        loaded = words[starts[rows] + 8 * word] << unused >> unused
        loaded[left == 0] = 0
        value[rows] = mix(value[rows] ^ loaded)
    return value


def bucket_of(hashes: Hashes, num_buckets: int) -> npt.NDArray[np.uint16]:
    """Maps each hash to a bucket 0..num_buckets-1, [E] -> [E]; at most 65,535 buckets."""
    return (hashes % np.uint64(num_buckets)).astype(np.uint16)


class Merged(NamedTuple):
    codes: npt.NDArray[np.int32]  # [E] code 0..D-1 of each entry
    hashes: Hashes  # [D]
    ids: pa.Array  # [D] distinct


def merge_ids(hashes: Hashes, ids: pa.Array) -> Merged:
    """Gives each distinct id among [E] entries a code: by rising hash, ids of one hash by their text."""
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    is_new = np.concatenate([np.ones(min(1, len(order)), bool), ordered[1:] != ordered[:-1]])
    again = np.flatnonzero(~is_new)
    if len(again) and not pc.all(pc.equal(ids.take(order[again]), ids.take(order[again - 1]))).as_py():
        # Two ids of one hash: almost never by chance, but an adversary can make them.
        import polars as pl  # not at the top: a served model hashes ids and does without polars

        frame = pl.DataFrame({"hash": hashes, "id": pl.Series(pl.from_arrow(ids), dtype=pl.String)})
        order = frame.select(pl.arg_sort_by("hash", "id", maintain_order=True)).to_series().to_numpy().astype(np.int64)
        ordered, text = hashes[order], frame["id"].gather(order)
        is_new[1:] = (ordered[1:] != ordered[:-1]) | (text[1:] != text[:-1]).to_numpy()
    codes = np.empty(len(order), np.int32)
    codes[order] = np.cumsum(is_new) - 1
    return Merged(codes, ordered[is_new], ids.take(order[is_new]))
