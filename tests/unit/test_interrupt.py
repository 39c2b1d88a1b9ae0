"""Signals that end a job: raised once, in the main thread, and ignored where the shell had them ignored."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from pipelines.runtime.interrupt import ENDING, INSISTS_AFTER_S, Signals, kept_handlers
from tests.jobs.processes import ROOT, environment

STUBBORN = """
import time
from pipelines.runtime.interrupt import Signals
with Signals():
    try:
        print("ready", flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        print("cleaning", flush=True)
        time.sleep(60)
"""


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in ENDING}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", ENDING)
def test_the_first_signal_raises_and_those_right_after_it_do_not(number: signal.Signals) -> None:
    with Signals() as signals:
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
        for again in ENDING:  # a terminal that closes, systemd
            os.kill(os.getpid(), again)
    assert signals.received == number


def test_what_is_ignored_stays_ignored() -> None:
    """Ignored signals, as under nohup."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with Signals() as signals:
        os.kill(os.getpid(), signal.SIGHUP)
    assert signals.received is None
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_handlers_are_put_back() -> None:
    before = [signal.getsignal(number) for number in ENDING]
    with Signals():
        ours = [signal.getsignal(number) for number in ENDING]
        with kept_handlers():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as ray.init does
        assert [signal.getsignal(number) for number in ENDING] == ours
    assert [signal.getsignal(number) for number in ENDING] == before
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()


def test_who_insists_ends_a_clean_up_that_hangs() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STUBBORN], cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "cleaning\n"
        time.sleep(INSISTS_AFTER_S + 0.2)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 128 + signal.SIGTERM
