"""How a worker process handles its memory."""

import ctypes
from functools import cache

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_KEPT_BYTES = 1 << 30


@cache
def keep_freed_memory() -> None:
    """Have glibc reuse freed arrays instead of giving them back to the system, once a process.

    A pass makes arrays of like sizes task after task; touching fresh pages for each was an eighth of its time. Where
    the C library has no such switch (macOS, musl) nothing is changed.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _KEPT_BYTES)
        mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
