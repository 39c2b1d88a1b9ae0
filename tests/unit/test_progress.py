"""Progress that a person sees of a running stage: a bar in a terminal, lines elsewhere."""

import io
import re

import pytest
from rich.console import Console

from pipelines.runtime import console
from pipelines.runtime.console import PhaseProgress

DETAIL = "1,234,567 rows/s  89 s left"


def shown(is_terminal: bool, width: int = 80) -> str:
    out = Console(file=io.StringIO(), force_terminal=is_terminal, width=width)
    with PhaseProgress(out) as view:
        view.update("scan", 2, 2)
        view.update("read", 0, 4)
        view.update("read", 1, 4, DETAIL)
    assert isinstance(out.file, io.StringIO)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.file.getvalue())


@pytest.mark.parametrize("width", [80, 120])
def test_a_terminal_shows_every_stage_with_rate_and_time_left(width: int) -> None:
    lines = shown(True, width).splitlines()
    assert any(re.match(r"scan .* 2/2 *$", line) for line in lines)
    assert any(re.match(rf"read .* 1/4 {DETAIL} *$", line) for line in lines)


def test_lines_elsewhere_come_at_a_stages_end_and_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(False) == "scan 2/2\n"
    monkeypatch.setattr(console, "SECONDS_BETWEEN_LINES", 0.0)
    assert shown(False) == f"scan 2/2\nread 0/4\nread 1/4 {DETAIL}\n"
