"""mgray.ingest.hashing: a hash that may never change, and ids that are one only where their text is."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgray.ingest.hashing import bucket_of, merge_ids, stable_hash

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
ENDS_OF_WORDS = ["x" * length for length in range(41)]
ALIKE = ["", "\0", "\0\0", "a", "a\0", "\0a", "aa", "ab", "ba", "a" * 8, "a" * 9, "a" * 8 + "\0", "\u00e9", "e\u0301"]


PINNED = [
    "9ca066f1a4ab2eea",
    "2e49a6dd9fc6417a",
    "99d0aac3c0f46214",
    "dbfefe05201df618",
    "8c30cf37533dc778",
    "9b8163b795794702",
    "d3e9374d11b2942d",
    "84e922c79e8cb14b",
    "03d8fbc3662fe8f7",
]


def hash_slowly(text: str) -> int:
    """The same in whole numbers of Python: words of 8 bytes, little-endian, each mixed by murmur3's finalizer."""
    data = text.encode()
    value = (len(data) + 1) * 0x9E3779B97F4A7C15 % 2**64
    for start in range(0, max(1, len(data)), 8):
        value ^= int.from_bytes(data[start : start + 8], "little")
        value = (value ^ value >> 33) * 0xFF51AFD7ED558CCD % 2**64
        value = (value ^ value >> 33) * 0xC4CEB9FE1A85EC53 % 2**64
        value ^= value >> 33
    return value


def test_hashes_and_buckets_are_pinned() -> None:
    # a change of these numbers moves users between shards, and so changes every fingerprint
    ids = ["", "a", "b", "ab", "ba", "1", "\u00e9", "user-0000001", "x" * 40]
    assert [f"{value:016x}" for value in stable_hash(pa.array(ids)).tolist()] == PINNED
    assert bucket_of(stable_hash(pa.array(ids)), 1000).tolist() == [int(value, 16) % 1000 for value in PINNED]


@settings(max_examples=100, deadline=None)
@given(st.lists(texts, max_size=20), st.integers(0, 5), st.integers(0, 5))
def test_a_hash_depends_on_the_text_alone(ids: list[str], before: int, after: int) -> None:
    wanted = [hash_slowly(text) for text in ids]
    assert stable_hash(pa.array(ids, pa.string())).tolist() == wanted
    assert stable_hash(pa.array(ids, pa.large_string())).tolist() == wanted
    assert [stable_hash(pa.array([text]))[0] for text in ids] == wanted
    for kind in (pa.string(), pa.large_string()):
        longer = pa.array(["left"] * before + ids + ["right-right"] * after, kind)
        assert stable_hash(longer.slice(before, len(ids))).tolist() == wanted
        assert stable_hash(pa.chunked_array([longer]).combine_chunks()).tolist()[before:][: len(ids)] == wanted


def test_ids_of_each_length_and_much_alike_have_hashes_of_their_own() -> None:
    ids = ENDS_OF_WORDS + ALIKE
    hashes = stable_hash(pa.array(ids)).tolist()
    assert hashes == [hash_slowly(text) for text in ids]
    assert len(set(hashes)) == len(set(ids))


@pytest.mark.parametrize("num_buckets", [1, 2, 7, 8, 1024])
def test_buckets_are_about_even(num_buckets: int) -> None:
    count = 200 * num_buckets
    for ids in ([str(number) for number in range(count)], [f"user-{number:09d}" for number in range(count)]):
        sizes = np.bincount(bucket_of(stable_hash(pa.array(ids)), num_buckets), minlength=num_buckets)
        assert len(sizes) == num_buckets
        # 200 a bucket, 5 standard deviations of a fair draw (14.1) either way
        assert sizes.min() >= 200 - 71
        assert sizes.max() <= 200 + 71


def test_the_most_buckets() -> None:
    assert bucket_of(np.array([65_534, 65_535, 2**64 - 1], np.uint64), 65_535).tolist() == [65_534, 0, 0]


def merge_slowly(hashes: list[int], ids: list[str]) -> tuple[list[int], list[int], list[str]]:
    distinct = sorted(dict.fromkeys(zip(hashes, ids, strict=True)), key=lambda pair: (pair[0], pair[1].encode()))
    place = {pair: code for code, pair in enumerate(distinct)}
    codes = [place[pair] for pair in zip(hashes, ids, strict=True)]
    return codes, [hash for hash, _ in distinct], [text for _, text in distinct]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.text(st.sampled_from("ab\u00e9\U0001f600"), max_size=2), max_size=30),
    st.sampled_from([None, 1, 2, 3]),
    st.sampled_from([pa.string(), pa.large_string()]),
)
def test_merged_ids_are_those_of_a_dict(ids: list[str], num_hashes: int | None, kind: pa.DataType) -> None:
    array = pa.array(ids, kind)
    hashes = stable_hash(array)
    if num_hashes is not None:  # few hashes for many ids, as an adversary would have it
        hashes = hashes % np.uint64(num_hashes)
    merged = merge_ids(hashes, array)
    codes, own_hashes, own_ids = merge_slowly(hashes.tolist(), ids)
    assert merged.codes.tolist() == codes
    assert merged.hashes.tolist() == own_hashes
    assert merged.ids.to_pylist() == own_ids
    assert merged.codes.dtype == np.int32


def test_two_ids_of_one_hash_stay_two() -> None:
    ids = pa.array(["b", "a", "b", "c", "a"])
    merged = merge_ids(np.array([5, 5, 5, 1, 5], np.uint64), ids)
    assert merged.ids.to_pylist() == ["c", "a", "b"]
    assert merged.hashes.tolist() == [1, 5, 5]
    assert merged.codes.tolist() == [2, 1, 2, 0, 1]
