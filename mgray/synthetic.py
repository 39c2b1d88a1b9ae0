"""Small made-up logs with structure that a sequence model can learn and counting cannot."""

import numpy as np
import polars as pl

from mgray.schema import ITEM_ID, RATING, TIMESTAMP, USER_ID

SECONDS_BETWEEN_EVENTS = 60.0


def make_log(num_users: int, num_items: int, seed: int = 0, mean_events: int = 20) -> pl.DataFrame:
    """A log of `num_users` walks over a ring of items: columns user_id, item_id, timestamp (s), rating (1-5).

    From item `i` a user goes on to `i + 1` four times in five, else jumps anywhere: the next item is predictable,
    though every item is about equally popular. Histories hold 3 events at least.
    """
    random = np.random.default_rng(seed)
    lengths = 3 + random.poisson(mean_events - 3, num_users)
    owner = np.repeat(np.arange(num_users), lengths)
    first = np.concatenate([[True], owner[1:] != owner[:-1]])
    jump = first | (random.random(len(owner)) < 0.2)
    # Between two jumps the walk counts up, so an item is its stretch's start plus the distance from it.
    stretch = np.cumsum(jump) - 1
    position = np.arange(len(owner))
    start_position = position[jump][stretch]
    start_item = random.integers(0, num_items, jump.sum())[stretch]
    items = (start_item + position - start_position) % num_items
    rank = position - position[first][owner]
    timestamps = 1_600_000_000 + owner * 7.0 + rank * SECONDS_BETWEEN_EVENTS
    return pl.DataFrame(
        {
            USER_ID: [f"u{user}" for user in owner],
            ITEM_ID: [f"i{item}" for item in items],
            TIMESTAMP: timestamps,
            RATING: random.integers(1, 6, len(owner)).astype(np.float32),
        }
    )
