"""Which events count as the newest: the newest tenth of those that train, by which items rank where nothing is known of
a user.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

# Share of the training events, the newest, whose counts rank items for a user without a known event. On
# MovieLens-100K's temporal split the newest events have 3 to 4 times the ndcg@10 of all events, over 7 days or 90.
POPULAR_SHARE = 0.1
MAX_TIMES = 2**20  # times that a quantile is computed from; of more, a sample

Times = npt.NDArray[np.float64]


def sample_step(train_events: int) -> int:
    """Step between the times of a shard that are sampled, for a training part of `train_events` events."""
    return 1 + train_events // MAX_TIMES


def first_of_newest(samples: Sequence[Times], share: float) -> float:
    """The time that the newest `share` of the events begin at; 0 where there are none. samples: every shard's times."""
    times = np.concatenate([*samples, np.zeros(0)])
    return float(np.quantile(times, 1 - share, method="lower")) if len(times) else 0.0
