"""Item numbers by raw id, and those of one vocabulary in another."""

import re
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mgray.data.mapped import text_array
from mgray.ingest.hashing import stable_hash
from mgray.ingest.spelling import NO_VALUE, WHITE_SPACE, id_spelling
from mgray.schema import UNKNOWN

# What the rule of ids may spell in another way; all other texts are as the rule has them. A pattern of RE2.
_SPACE = "".join(f"\\x{{{ord(one):x}}}" for one in WHITE_SPACE)
_MAY_DIFFER = rf"^[{_SPACE}]|[{_SPACE}]$|\.0+$|^-0$|^$|^(?:{'|'.join(map(re.escape, NO_VALUE))})$"
HASHED_IDS = 2**18  # at once: some 60 MB of temporaries
KEPT_LOOKUPS = 2**17  # ids whose numbers an ItemIndex has at hand, some 20 MB

Numbers = npt.NDArray[np.int32]


def _spelled_otherwise(ids: pa.Array) -> dict[str, int]:
    """Item id by the rule of ids (`mgray.ingest.spelling`) -> number, for the ids that are spelled in another way.

    An older mgray may have spelled ids so. Of two spellings of one id the first counts; what is no id is left out.
    """
    found: dict[str, int] = {}
    for place in np.flatnonzero(pc.match_substring_regex(ids, _MAY_DIFFER).to_numpy(zero_copy_only=False)):
        text = ids[int(place)].as_py()
        spelled = id_spelling(text)
        if spelled is not None and spelled != text:
            found.setdefault(spelled, int(place) + 1)
    return found


class ItemIndex:
    """The numbers of a vocabulary's raw ids: item i has the id at index i - 1.

    The ids stay in Arrow. Beside them are 12 bytes an item, hashes in order and the items that they are of, made as the
    first id is asked for, and the numbers of the last KEPT_LOOKUPS ids.
    """

    def __init__(self, item_ids: Sequence[str]) -> None:
        self._ids = text_array(item_ids)
        self._found: dict[str, int] = {}

    @cached_property
    def _by_hash(self) -> tuple[npt.NDArray[np.uint64], Numbers]:
        """The ids' hashes in order, [V], and the place of each among the ids."""
        parts = [stable_hash(self._ids.slice(begin, HASHED_IDS)) for begin in range(0, len(self._ids), HASHED_IDS)]
        hashes = np.concatenate([*parts, np.zeros(0, np.uint64)])
        order = np.argsort(hashes, kind="stable").astype(np.int32)
        return hashes[order], order

    @cached_property
    def _otherwise(self) -> dict[str, int]:
        return _spelled_otherwise(self._ids)

    def numbers(self, ids: Sequence[str]) -> list[int]:
        """The number of each raw id in any spelling of it; UNKNOWN: not known."""
        found = self._found
        new = [item for item in ids if item not in found]
        if not new:
            return [found[item] for item in ids]
        looked_up = dict(zip(new, self._any_spelling(new), strict=True))
        numbers = [looked_up[item] if item in looked_up else found[item] for item in ids]
        if len(found) + len(looked_up) > KEPT_LOOKUPS:
            self._found = {}
        self._found |= looked_up
        return numbers

    def _any_spelling(self, ids: Sequence[str]) -> list[int]:
        numbers = self._exact(ids)
        places = [place for place, number in enumerate(numbers) if number == UNKNOWN]
        if not places:
            return numbers
        spelled = [id_spelling(ids[place]) for place in places]
        as_spelled = self._exact([text or "" for text in spelled])
        for place, text, number in zip(places, spelled, as_spelled, strict=True):
            if text is not None:
                known = [one for one in (number, self._otherwise.get(text, UNKNOWN)) if one != UNKNOWN]
                numbers[place] = min(known, default=UNKNOWN)
        return numbers

    def _exact(self, ids: Sequence[str]) -> list[int]:
        """The number of each id as it is spelled."""
        hashes, order = self._by_hash
        asked = _asked_texts(ids)
        wanted = stable_hash(asked)
        at = np.searchsorted(hashes, wanted)
        numbers = np.full(len(asked), UNKNOWN, np.int64)
        left = np.arange(len(asked))
        while len(left):  # again where ids share a hash, almost never
            left = left[at[left] < len(hashes)]
            left = left[hashes[at[left]] == wanted[left]]
            if not len(left):
                break
            places = order[at[left]]
            is_it = pc.equal(self._ids.take(pa.array(places)), asked.take(pa.array(left))).to_numpy(
                zero_copy_only=False
            )
            numbers[left[is_it]] = places[is_it] + 1
            left = left[~is_it]
            at[left] += 1
        found: list[int] = numbers.tolist()
        return found


def _asked_texts(ids: Sequence[str]) -> pa.Array:
    """A client's ids in Arrow; a text that is no Unicode (half a surrogate pair, of JSON) is empty, so no id."""
    try:
        return pa.array(ids, pa.large_string())
    except UnicodeEncodeError:
        whole = ["" if any("\ud800" <= letter <= "\udfff" for letter in text) else text for text in ids]
        return pa.array(whole, pa.large_string())


def number_map(from_ids: Sequence[str], to_ids: Sequence[str]) -> Numbers:
    """Item numbers of one vocabulary in another, by raw id: [len(from_ids) + 2], to be indexed by item number.

    An id that the other does not have as it stands is looked up by the rule of ids (`mgray.ingest.spelling`), for a
    vocabulary that an older mgray made may spell it in another way. UNKNOWN where the other has no such item, at PAD,
    and at UNKNOWN itself (index -1 is the last element).
    """
    ids, others = text_array(from_ids), text_array(to_ids)
    numbers = np.full(len(ids) + 2, UNKNOWN, np.int32)
    numbers[1:-1] = pc.fill_null(pc.index_in(ids, others), UNKNOWN - 1).to_numpy(zero_copy_only=False) + 1
    left = np.flatnonzero(numbers[1:-1] == UNKNOWN)
    if len(left):
        otherwise = _spelled_otherwise(others)
        numbers[1 + left] = _map_spelled(ids.take(pa.array(left)), others, otherwise)
    return numbers


def _map_spelled(ids: pa.Array, others: pa.Array, otherwise: dict[str, int]) -> Numbers:
    """Numbers of ids [N] that the others do not have as they stand. otherwise: `_spelled_otherwise` of the others."""
    numbers = np.full(len(ids), UNKNOWN, np.int32)
    if otherwise:
        texts = list(otherwise)
        at = pc.index_in(ids, pa.array(texts, pa.large_string())).fill_null(-1).to_numpy(zero_copy_only=False)
        numbers = np.append(np.asarray([otherwise[text] for text in texts], np.int32), np.int32(UNKNOWN))[at]
    odd = np.flatnonzero(pc.match_substring_regex(ids, _MAY_DIFFER).to_numpy(zero_copy_only=False))
    spelled = [id_spelling(ids[int(place)].as_py()) for place in odd]
    exact = (
        pc.index_in(pa.array(spelled, pa.large_string()), others).fill_null(UNKNOWN - 1).to_numpy(zero_copy_only=False)
    )
    for place, text, number in zip(odd.tolist(), spelled, (exact + 1).tolist(), strict=True):
        if text is None:
            numbers[place] = UNKNOWN
        else:
            known = [one for one in (number, otherwise.get(text, UNKNOWN)) if one != UNKNOWN]
            numbers[place] = min(known, default=UNKNOWN)
    return numbers
