"""Maps the item numbers of one vocabulary to those of another, by raw id."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mgray.ingest.spelling import id_spelling
from mgray.schema import UNKNOWN


def by_spelling(numbers: dict[str, int]) -> dict[str | None, int]:
    """Item id as the rule of ids (`mgray.ingest.spelling`) spells it -> its number.

    An older mgray may have spelled ids in another way. Of two spellings of one id the first counts; what is no id is
    left out.
    """
    found = {id_spelling(item_id): number for item_id, number in reversed(numbers.items())}
    found.pop(None, None)
    return found


def number_map(from_ids: Sequence[str], to_ids: Sequence[str]) -> npt.NDArray[np.int32]:
    """Item numbers of one vocabulary in another, by raw id: [len(from_ids) + 2], to be indexed by item number.

    An id that the other does not have as it stands is looked up by the rule of ids (`mgray.ingest.spelling`), for a
    vocabulary that an older mgray made may spell it in another way. UNKNOWN where the other has no such item, at PAD,
    and at UNKNOWN itself (index -1 is the last element).
    """
    number = {item_id: i for i, item_id in enumerate(to_ids, start=1)}
    numbers = [number.get(item_id, UNKNOWN) for item_id in from_ids]
    if UNKNOWN in numbers:
        spelled = by_spelling(number)
        for place, item_id in enumerate(from_ids):
            if numbers[place] == UNKNOWN:
                numbers[place] = spelled.get(id_spelling(item_id), UNKNOWN)
    return np.asarray([UNKNOWN, *numbers, UNKNOWN], dtype=np.int32)
