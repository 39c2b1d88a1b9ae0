"""Raw ids to numbers: by hash and by text, in any spelling, as a plain dictionary has them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mgray.data import item_numbers
from mgray.data.item_numbers import ItemIndex, number_map
from mgray.ingest.spelling import id_spelling
from mgray.schema import UNKNOWN

# Letters that make ids of several spellings, and texts that are no id.
IDS = st.text(alphabet=st.sampled_from("0012.-a \u00a0\x85N"), max_size=5) | st.sampled_from(
    ["NULL", r"\N", "-0", "7.0"]
)


def by_dictionary(asked: str, vocabulary: list[str]) -> int:
    """As it stands, else the first item that is spelled alike."""
    if asked in vocabulary:
        return vocabulary.index(asked) + 1
    spelled = id_spelling(asked)
    alike = [place for place, item in enumerate(vocabulary, start=1) if id_spelling(item) == spelled]
    return alike[0] if alike and spelled is not None else UNKNOWN


@given(st.lists(IDS, unique=True, max_size=12), st.lists(IDS, max_size=12))
def test_numbers_are_a_dictionarys(vocabulary: list[str], asked: list[str]) -> None:
    expected = [by_dictionary(item, vocabulary) for item in asked]
    index = ItemIndex(vocabulary)
    assert index.numbers(asked) == expected
    assert index.numbers(asked[::-1]) == expected[::-1], "once more, from what it kept"
    assert number_map(asked, vocabulary).tolist() == [UNKNOWN, *expected, UNKNOWN]


def test_ids_of_one_hash_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(item_numbers, "stable_hash", lambda ids: np.full(len(ids), 7, np.uint64))
    assert ItemIndex(["c", "a", "b"]).numbers(["b", "c", "x", "a"]) == [3, 1, UNKNOWN, 2]


def test_lookups_that_are_kept_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(item_numbers, "KEPT_LOOKUPS", 3)
    index = ItemIndex(["a", "b", "c"])
    assert [index.numbers([*asked]) for asked in ("ab", "bc", "zc", "ab")] == [[1, 2], [2, 3], [UNKNOWN, 3], [1, 2]]
    assert len(index._found) <= 3


def test_text_that_is_no_unicode_is_no_item() -> None:
    """JSON may hold half of a surrogate pair."""
    assert ItemIndex(["a", "?"]).numbers(["\ud800", "a"]) == [UNKNOWN, 1]
