"""The benchmarks' memory sampler against processes whose memory is known."""

import subprocess
import sys
import time

import pytest

from benchmarks._memory import MemorySampler, Peak, Usage, parse_smaps_rollup

MB = 2**20
ROLLUP = """55d0-7ffd ---p 00000000 00:00 0                          [rollup]
Rss:                9000 kB
Pss:                 300 kB
Pss_Dirty:           112 kB
Pss_Anon:            100 kB
Pss_File:            150 kB
Pss_Shmem:            50 kB
Swap:                 40 kB
SwapPss:              20 kB
"""
START = "import os, sys, time; from pathlib import Path\n"
ALLOCATE = "data = bytearray(100 * 2**20); data[::4096] = bytes(len(data) // 4096)\n"  # every page touched
HOLD = ALLOCATE + "time.sleep(1.5)\n"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/PID/smaps_rollup")


def measure(code: str) -> Peak:
    process = subprocess.Popen([sys.executable, "-c", START + code])
    sampler = MemorySampler(process.pid)
    sampler.start()
    assert process.wait(30) == 0
    peak = sampler.stop()
    assert sampler.end_leftovers() == []
    return peak


def test_swap_counts_and_shared_pages_count_by_share() -> None:
    assert parse_smaps_rollup(ROLLUP) == Usage(pss=320 * 1024, anon=120 * 1024, shmem=50 * 1024)


def test_one_process() -> None:
    peak = measure(HOLD)
    assert 100 * MB <= peak.anon_shmem_bytes <= peak.peak_bytes <= 130 * MB


def test_a_childs_memory_counts() -> None:
    peak = measure(f"import subprocess; subprocess.run([sys.executable, '-c', {START + HOLD!r}], check=True)")
    assert 100 * MB <= peak.peak_bytes <= 140 * MB


def test_memory_that_a_fork_shares_counts_once() -> None:
    peak = measure(ALLOCATE + "os.fork(); time.sleep(1.5)")
    assert 100 * MB <= peak.peak_bytes <= 140 * MB


def test_a_peak_that_is_over_counts() -> None:
    peak = measure(HOLD + "del data; time.sleep(0.5)")
    assert peak.peak_bytes >= 100 * MB
    assert peak.samples[-1].pss < 50 * MB


def test_leftovers_are_ended() -> None:
    code = "import subprocess; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); time.sleep(1.5)"
    process = subprocess.Popen([sys.executable, "-c", START + code])
    sampler = MemorySampler(process.pid)
    sampler.start()
    process.wait(30)
    sampler.stop()
    begun = time.monotonic()
    assert len(sampler.end_leftovers(timeout_s=0.5)) == 1
    assert time.monotonic() - begun < 10
