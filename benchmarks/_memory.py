"""Peak memory of a process and of all that it starts, Ray's own processes and object store included.

sampler = MemorySampler(process.pid)
sampler.start()
...
sampler.stop().peak_bytes

The figure is PSS (/proc/PID/smaps_rollup, Linux): anonymous, shared and file-mapped memory, a page that n processes
share counting 1/n in each, and so once in the sum; swapped pages too. Ray's object store is a file in /dev/shm that is
unlinked at once: where more of it is allocated than anybody maps, the allocated bytes count. What the page cache holds
of files that are read and written, not mapped, is the kernel's to give back and counts for nobody.
"""

import contextlib
import os
import threading
import time
from pathlib import Path
from typing import NamedTuple

import psutil

INTERVAL_S = 0.1
SCAN_S = 0.5  # between looks for new processes
REFRESH_S = 2.0  # a process whose RSS stands still is read this often
RSS_STEP_BYTES = 4 << 20  # and at once where its RSS has moved by this much
MAX_SHARE = 0.1  # of one core for the sampler: large processes are read less often
GONE_S = 20.0
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
SHM = "/dev/shm/"


class Usage(NamedTuple):
    """Bytes of one process, proportional where pages are shared."""

    pss: int  # everything, swap included
    anon: int  # swap included
    shmem: int


class Sample(NamedTuple):
    time_s: float  # since 1970
    pss: int  # bytes of all processes together
    anon_shmem: int


class Peak(NamedTuple):
    peak_bytes: int  # of the sum at one moment, not the sum of peaks
    anon_shmem_bytes: int  # peak of that sum alone
    by_process: dict[str, int]  # bytes at the peak, processes of one name together
    samples: list[Sample]
    sampler_cpu_s: float


def parse_smaps_rollup(text: str) -> Usage:
    fields = dict(line.split(":", 1) for line in text.splitlines()[1:])
    kb = {name: int(fields[name].split()[0]) for name in ("Pss", "Pss_Anon", "Pss_Shmem", "SwapPss")}
    swap = kb["SwapPss"]
    return Usage((kb["Pss"] + swap) * 1024, (kb["Pss_Anon"] + swap) * 1024, kb["Pss_Shmem"] * 1024)


def _rss(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES


def _short_name(process: psutil.Process) -> str:
    """`raylet`, `ray::map`, `python`: what a reader of a table can tell apart."""
    words = process.cmdline()
    first = words[0] if words else process.name()
    if first.startswith("ray::"):
        return first.split("(")[0].split(".")[0].split()[0]
    return Path(first).name


def _shm_files(pid: int) -> dict[int, int]:
    """Files of /dev/shm that a process has open, deleted ones too: inode -> bytes allocated."""
    found = {}
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            if os.readlink(entry).startswith(SHM):
                status = entry.stat()
                found[status.st_ino] = status.st_blocks * 512
    return found


class _Watched:
    def __init__(self, process: psutil.Process) -> None:
        self.process, self.name = process, "?"
        self.usage, self.rss, self.read_at = Usage(0, 0, 0), -1, 0.0

    def update(self, now: float, always: bool) -> None:
        """Raises OSError or psutil.Error where the process is gone."""
        rss = _rss(self.process.pid)
        if not always and abs(rss - self.rss) < RSS_STEP_BYTES and now - self.read_at < REFRESH_S:
            return
        self.usage = parse_smaps_rollup(Path(f"/proc/{self.process.pid}/smaps_rollup").read_text())
        self.rss, self.read_at = rss, now
        self.name = _short_name(self.process)  # Ray renames its workers by what they do


class MemorySampler(threading.Thread):
    """Samples a process tree until `stop`. A process once seen stays watched, whoever its parent is by then."""

    def __init__(self, pid: int, interval_s: float = INTERVAL_S) -> None:
        super().__init__(daemon=True)
        self.root, self.interval_s = psutil.Process(pid), interval_s
        self.watched: dict[int, _Watched] = {}
        self.seen: list[psutil.Process] = []
        self.peak, self.anon_shmem, self.by_process = -1, 0, {"": 0}
        self.samples: list[Sample] = []
        self.cpu: list[tuple[float, dict[int, float]]] = []  # time since 1970, user and system seconds by process
        self.names: dict[int, str] = {}
        self.cpu_s = 0.0
        self._done = threading.Event()

    def run(self) -> None:
        scanned, wait_s, count = 0.0, 0.0, 0
        while not self._done.wait(wait_s):
            begun, cpu = time.monotonic(), time.thread_time()
            if begun - scanned >= SCAN_S:
                self._scan()
                scanned = begun
            self._sample(begun, always=len(self.watched) != count)  # a new process changes the shares of others
            count = len(self.watched)
            spent = time.thread_time() - cpu
            self.cpu_s += spent
            wait_s = max(self.interval_s, spent / MAX_SHARE)

    def stop(self) -> Peak:
        self._done.set()
        self.join()
        return Peak(max(self.peak, 0), self.anon_shmem, self.by_process, self.samples, self.cpu_s)

    def cpu_between(self, begin_s: float, end_s: float) -> dict[str, float]:
        """User and system seconds of all processes of one (last) name between two times, to SCAN_S."""
        before = {pid: used for at, seconds in self.cpu if at <= begin_s for pid, used in seconds.items()}
        last = {pid: used for at, seconds in self.cpu if at <= end_s for pid, used in seconds.items()}
        by_name: dict[str, float] = {}
        for pid, seconds in last.items():
            name = self.names[pid]
            by_name[name] = by_name.get(name, 0.0) + seconds - before.get(pid, 0.0)
        return by_name

    def end_leftovers(self, timeout_s: float = GONE_S) -> list[str]:
        """Waits for every process that was seen to be gone, then kills what is left; gives the names of those."""
        _, alive = psutil.wait_procs(self.seen, timeout_s)
        names = []
        for process in alive:
            with contextlib.suppress(psutil.Error):
                if process.status() != psutil.STATUS_ZOMBIE:
                    names.append(_short_name(process))
                    process.kill()
        return names

    def _scan(self) -> None:
        with contextlib.suppress(psutil.Error):
            for process in [self.root, *self.root.children(recursive=True)]:
                if process.pid not in self.watched:
                    self.watched[process.pid] = _Watched(process)
                    self.seen.append(process)
        used = {}
        for pid, watched in self.watched.items():
            with contextlib.suppress(psutil.Error):  # gone since the last look
                times = watched.process.cpu_times()
                used[pid] = times.user + times.system
                self.names[pid] = watched.name
        self.cpu.append((time.time(), used))

    def _sample(self, now: float, always: bool) -> None:
        store: dict[int, int] = {}
        for pid, watched in list(self.watched.items()):
            try:
                watched.update(now, always)
                if watched.name == "raylet":
                    store |= _shm_files(pid)
            except (OSError, KeyError, psutil.Error):  # gone, or a zombie without memory
                del self.watched[pid]
        usages = [watched.usage for watched in self.watched.values()]
        shmem = sum(usage.shmem for usage in usages)
        unmapped = max(0, sum(store.values()) - shmem)
        pss = sum(usage.pss for usage in usages) + unmapped
        anon_shmem = sum(usage.anon for usage in usages) + shmem + unmapped
        self.samples.append(Sample(time.time(), pss, anon_shmem))
        self.anon_shmem = max(self.anon_shmem, anon_shmem)
        if pss > self.peak:
            self.peak = pss
            self.by_process = {"object store, not mapped": unmapped} if unmapped else {}
            for watched in self.watched.values():
                self.by_process[watched.name] = self.by_process.get(watched.name, 0) + watched.usage.pss
