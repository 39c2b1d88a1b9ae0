"""Draws the pictures of docs/concepts.md and docs/architecture.md into docs/images: python docs/figures.py."""

from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

IMAGES = Path(__file__).parent / "images"
INK, SOFT, BLUE, GREEN, OCHRE, GREY = "#1f2430", "#6b7280", "#2457c5", "#3f8f6b", "#b7791f", "#d5dae3"
# Text stays text, and the same run gives the same bytes.
plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "mgray", "font.family": "sans-serif", "font.size": 10})


def save(figure: plt.Figure, name: str) -> None:
    figure.savefig(IMAGES / name, metadata={"Date": None}, facecolor="white")
    plt.close(figure)


def blank(width: float, height: float) -> tuple[plt.Figure, Axes]:
    figure = plt.figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.axis("off")
    return figure, axes


def box(axes: Axes, x: float, y: float, width: float, height: float, text: str, color: str = BLUE) -> None:
    style = FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0,rounding_size=0.06", fc=color + "18", ec=color)
    axes.add_patch(style)
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", color=INK)


def arrow(axes: Axes, begin: tuple[float, float], end: tuple[float, float]) -> None:
    axes.add_patch(FancyArrowPatch(begin, end, arrowstyle="-|>", mutation_scale=10, color=SOFT, lw=1))


def granularities() -> None:
    """What each kind of level pools at the last event of one history."""
    times = ["20:00", "20:24", "21:06", "21:30", "15:00", "15:18", "02:12", "02:30", "03:06", "03:18", "03:36"]
    place = np.arange(len(times))
    rows = [
        ("4", "the last 4 events", place >= 7),
        ("session:30m", "since a gap of over 30 minutes", place >= 8),
        ("1d", "since midnight UTC", place >= 6),
        ("decay:1..400", "all events, each less than the next", np.exp((place - 10) / 4.0)),
    ]
    figure, axes = plt.subplots(figsize=(8.6, 3.1))
    figure.subplots_adjust(left=0.3, right=0.98, top=0.98, bottom=0.2)
    for row, (name, words, weights) in enumerate(rows):
        y = len(rows) - 1 - row
        axes.plot([-0.4, 10.4], [y, y], color=GREY, lw=1, zorder=0)
        axes.scatter(place, np.full(len(times), y), s=130, facecolors="white", edgecolors=SOFT, lw=0.8, zorder=1)
        for x, weight in zip(place, weights, strict=True):
            axes.scatter([x], [y], s=130, color=BLUE, alpha=float(weight), linewidths=0, zorder=2)
        axes.text(-0.9, y + 0.14, name, ha="right", va="center", color=INK, family="monospace")
        axes.text(-0.9, y - 0.2, words, ha="right", va="center", color=SOFT, fontsize=8.5)
    for x, words in ((3.5, "the day after"), (5.5, "midnight")):
        axes.axvline(x, color=SOFT, lw=0.8, ls=":")
        axes.text(x, 3.5, words, ha="center", color=SOFT, fontsize=8.5, backgroundcolor="white")
    axes.set(xlim=(-0.6, 10.6), ylim=(-0.5, 3.8), xlabel="time of the event, oldest first", yticks=[])
    axes.set_xticks(place, times, fontsize=8.5)
    for side in ("left", "right", "top"):
        axes.spines[side].set_visible(False)
    save(figure, "granularities.svg")


def model() -> None:
    """From events to scores: levels, fusion, item table."""
    figure, axes = blank(8.6, 3.1)
    box(axes, 0.1, 1.1, 1.25, 0.9, "events\n[B, L]", OCHRE)
    box(axes, 1.75, 1.1, 1.35, 0.9, "item vectors\n+ inputs\n[B, L, D]", OCHRE)
    box(axes, 3.5, 0.35, 1.9, 0.75, "level 1: stride 1\nDSC blocks")
    box(axes, 3.5, 1.95, 1.9, 0.75, "level 2: pool, then\nDSC blocks")
    box(axes, 5.8, 1.1, 1.1, 0.9, "fusion\n[B, L, D]", GREEN)
    box(axes, 7.3, 1.1, 1.2, 0.9, "interest ·\nitem table\n= scores", GREEN)
    arrow(axes, (1.35, 1.55), (1.75, 1.55))
    arrow(axes, (3.1, 1.4), (3.5, 0.8))
    arrow(axes, (4.45, 1.1), (4.45, 1.95))
    axes.text(4.55, 1.5, "each level reads\nthe level below", color=SOFT, fontsize=8.5, va="center")
    arrow(axes, (5.4, 0.75), (5.8, 1.4))
    arrow(axes, (5.4, 2.3), (5.8, 1.75))
    arrow(axes, (6.9, 1.55), (7.3, 1.55))
    save(figure, "model.svg")


def laws() -> None:
    """The four laws, a drawing each."""
    figure, all_axes = plt.subplots(2, 2, figsize=(8.6, 4.4))
    figure.subplots_adjust(left=0.02, right=0.98, top=0.93, bottom=0.02, hspace=0.22, wspace=0.06)
    for axes in all_axes.flat:
        axes.set(xlim=(0, 10), ylim=(0, 4.2))
        axes.axis("off")

    def events(axes: Axes, y: float, fills: list[str], first: float = 1.0) -> None:
        for place, fill in enumerate(fills):
            axes.scatter([first + place], [y], s=110, color=fill, edgecolors=SOFT, linewidths=0.8, zorder=2)

    axes = all_axes[0, 0]
    axes.set_title("1. Causality", loc="left", fontsize=11, color=INK)
    events(axes, 1.0, [BLUE] * 5 + ["white"] * 3)
    for place in range(5):
        arrow(axes, (1 + place, 1.35), (4.2 + 0.2 * place, 2.6))
    axes.text(5.0, 2.9, "output at t", ha="center", color=INK)
    axes.text(7.0, 0.25, "changes nothing at t", ha="center", color=SOFT, fontsize=8.5)

    axes = all_axes[0, 1]
    axes.set_title("2. Padding changes nothing", loc="left", fontsize=11, color=INK)
    events(axes, 2.7, [BLUE] * 4, 4)
    events(axes, 1.1, ["white"] * 3 + [BLUE] * 4)
    axes.text(8.2, 2.7, "same", va="center", color=INK)
    axes.text(8.2, 1.1, "output", va="center", color=INK)
    axes.text(2.0, 0.25, "left padding", ha="center", color=SOFT, fontsize=8.5)

    axes = all_axes[1, 0]
    axes.set_title("3. Fast equals plain", loc="left", fontsize=11, color=INK)
    box(axes, 0.3, 1.4, 4.0, 1.5, "grouped convolution,\ndoubling scan")
    box(axes, 5.6, 1.4, 4.0, 1.5, "a loop over\npositions and taps", GREEN)
    axes.text(4.95, 2.15, "=", ha="center", va="center", fontsize=16, color=INK)
    axes.text(4.95, 0.6, "to float tolerance", ha="center", color=SOFT, fontsize=8.5)

    axes = all_axes[1, 1]
    axes.set_title("4. One event at a time equals all at once", loc="left", fontsize=11, color=INK)
    events(axes, 3.2, [BLUE] * 5)
    arrow(axes, (5.4, 3.2), (6.6, 3.2))
    axes.text(6.8, 3.2, "interest", va="center", color=INK)
    box(axes, 0.6, 0.8, 2.6, 1.1, "state of\nfixed size", OCHRE)
    axes.text(3.6, 1.35, "+", ha="center", va="center", color=INK, fontsize=13)
    events(axes, 1.35, [BLUE], 4.2)
    arrow(axes, (4.7, 1.35), (6.6, 1.35))
    axes.text(6.8, 1.35, "the same interest,\nand the next state", va="center", color=INK)
    save(figure, "laws.svg")


def layers() -> None:
    """Jobs, pipelines, mgray, and what each may import."""
    figure, axes = blank(8.6, 3.3)
    rows = [
        (2.45, "jobs/", "argv → config → one call → one JSON line", OCHRE),
        (1.35, "pipelines/", "all that knows Ray or MLflow", BLUE),
        (0.25, "mgray/", "maths and contracts; never imports ray or mlflow", GREEN),
    ]
    for y, name, words, color in rows:
        box(axes, 0.3, y, 5.0, 0.75, "", color)
        axes.text(0.5, y + 0.48, name, color=INK, family="monospace", va="center")
        axes.text(0.5, y + 0.2, words, color=SOFT, va="center", fontsize=9)
    for y in (2.45, 1.35):
        arrow(axes, (2.8, y), (2.8, y - 0.35))
        axes.text(2.95, y - 0.18, "imports", color=SOFT, va="center", fontsize=8.5)
    box(axes, 6.0, 1.35, 2.3, 1.85, "infra/\nruns jobs by their\ncommand line;\nimports nothing", SOFT)
    arrow(axes, (6.0, 2.8), (5.3, 2.8))
    save(figure, "layers.svg")


if __name__ == "__main__":
    IMAGES.mkdir(exist_ok=True)
    for draw in (granularities, model, laws, layers):
        draw()
