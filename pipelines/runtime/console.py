"""A bar where stderr is a terminal, plain lines where it is not. Training reports to it through a small Ray actor."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import ray
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

SECONDS_BETWEEN_LINES = 10.0
SECONDS_BETWEEN_POLLS = 0.5
WIDE = 100  # columns of a terminal that has room for the validation figure too


def console() -> Console:
    """Everything for people goes to stderr; stdout carries the result line alone."""
    # Never narrower than 80 columns: a job's log has no terminal, and tables must not be cut there.
    probe = Console(stderr=True)
    return probe if probe.is_terminal else Console(stderr=True, width=WIDE)


def say(out: Console, text: str) -> None:
    """A line as it is: what looks like markup or a number stays text, and a terminal breaks it where it is narrow."""
    out.print(text, highlight=False, markup=False, soft_wrap=True)


@dataclass
class Timer:
    """Seconds by phase, for the result line; a phase that comes again adds up."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - started, 2)


class PhaseProgress:
    """Counts of a phase, such as files read: `update(phase, done, total)`."""

    def __init__(self, out: Console) -> None:
        self.out = out
        self._tasks: dict[str, TaskID] = {}
        self._last_line = 0.0
        self._bar = (
            Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=min(40, max(8, out.width - 72))),
                TextColumn("{task.fields[detail]}"),
                console=out,
            )
            if out.is_terminal
            else None
        )

    def __enter__(self) -> "PhaseProgress":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def update(self, phase: str, done: float, total: float, detail: str = "", digits: str = ".0f") -> None:
        shown = f"{done:{digits}}/{total:{digits}} {detail}".rstrip()
        if self._bar:
            if phase not in self._tasks:
                self._tasks[phase] = self._bar.add_task(phase, total=total, detail=shown)
            self._bar.update(self._tasks[phase], completed=done, total=total, detail=shown)
            return
        now = time.monotonic()
        if done >= total or now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            say(self.out, f"{phase} {shown}")


class TrainingState(NamedTuple):
    """State of a training, which rank 0 posts for the progress bar."""

    epoch: float
    epochs: float  # at which training will end, as far as is known
    step: int
    loss: float
    events_s: float
    remaining_s: float
    metric: str  # that the best model is chosen by
    valid: float | None  # its latest value; None: not validated yet


@ray.remote(num_cpus=0)
class _Board:
    """Holds the latest state that rank 0 posted. Losing it loses a progress bar and nothing else."""

    def __init__(self) -> None:
        self.state: TrainingState | None = None

    def post(self, state: TrainingState) -> None:
        self.state = state

    def read(self) -> TrainingState | None:
        return self.state


def training_line(state: TrainingState, width: int) -> str:
    """The text beside the bar. width: columns of the terminal."""
    text = f"step {state.step}  loss {state.loss:.3f}  {state.events_s:,.0f} positions/s"
    if state.valid is not None and width >= WIDE:
        text += f"  valid {state.metric} {state.valid:.4f}"
    minutes, seconds = divmod(int(state.remaining_s), 60)
    return f"{text}  {minutes}:{seconds:02d} left"


@contextmanager
def training_progress(out: Console) -> Iterator[Any]:
    """Yields the actor that rank 0 posts its state to; a thread of the driver shows it meanwhile."""
    board = _Board.remote()  # type: ignore[attr-defined]
    done = threading.Event()

    def show() -> None:
        shown = (-1, -1.0)
        with PhaseProgress(out) as progress:
            while not done.wait(SECONDS_BETWEEN_POLLS):
                try:
                    state = ray.get(board.read.remote(), timeout=5)
                except (ray.exceptions.RayError, TimeoutError):
                    continue  # the board's node is gone or slow; training does not depend on it
                if state and (state.step, state.epoch) != shown:
                    shown = (state.step, state.epoch)
                    progress.update("epoch", state.epoch, state.epochs, training_line(state, out.width), ".1f")

    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield board
    finally:
        done.set()
        thread.join(timeout=10)
        ray.kill(board)
