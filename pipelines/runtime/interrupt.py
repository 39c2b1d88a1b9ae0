"""Ctrl-C, SIGTERM and SIGHUP end a job as an exception does: what it began is cleaned up, and what it holds let go."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
INSISTS_AFTER_S = 2.0  # a terminal that closes, and systemd, send two signals within moments


class Signals:
    """The ending signals of the process while a job runs: the first raises KeyboardInterrupt in the main thread.

    One that comes INSISTS_AFTER_S later ends the process at once, without a clean-up.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._received_at = 0.0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Signals":
        if threading.current_thread() is threading.main_thread():
            for number in ENDING:
                # What was ignored stays so: `nohup`, or a shell's `&`.
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        if self.received is not None:
            return  # the process ends: a second Ctrl-C while Ray stops must not show a traceback
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received, self._received_at = signal.Signals(number), time.monotonic()
            # An object of a library that was half made tells of errors of its own when it goes.
            sys.unraisablehook = lambda _: None
            raise KeyboardInterrupt
        if time.monotonic() - self._received_at > INSISTS_AFTER_S:
            os._exit(128 + self.received)


@contextmanager
def kept_handlers() -> Iterator[None]:
    """Keep the handlers of the ending signals over code that sets its own.

    SIGHUP is held back meanwhile, and by the processes that are started: when a terminal closes, the job ends them.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in ENDING}
    was_blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, was_blocked)
